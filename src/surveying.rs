//! A first look at many bytes, in steps as wide as the processor's.
#![expect(unsafe_code, reason = "instructions that not every processor has, used where it says that it has them")]

/// What a first look at many bytes tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Whether all of them are ASCII.
    pub ascii: bool,
    /// Whether there is a `\r` among them.
    pub has_cr: bool,
    /// How many `\n` there are.
    pub newlines: u64,
}

/// Looks at each byte once, for three answers.
#[must_use]
pub fn survey(bytes: &[u8]) -> Survey {
    looked_at::<false>(bytes, |_| ())
}

/// The same, and tells where each `\n` is, in order.
pub fn survey_lines(bytes: &[u8], at_newline: impl FnMut(usize)) -> Survey {
    looked_at::<true>(bytes, at_newline)
}

#[inline]
fn looked_at<const TELL: bool>(bytes: &[u8], at_newline: impl FnMut(usize)) -> Survey {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("popcnt") {
        // SAFETY: the processor has just said that it has these instructions.
        return unsafe { wide::looked_at::<TELL>(bytes, at_newline) };
    }
    plainly::<TELL>(bytes, at_newline)
}

/// In steps of 32 bytes that the compiler makes of a loop.
fn plainly<const TELL: bool>(bytes: &[u8], at_newline: impl FnMut(usize)) -> Survey {
    const LANES: usize = 32;
    let (mut high, mut has_cr, mut newlines) = (0_u8, 0_u8, 0_u64);
    // A lane counts in a byte.
    for piece in bytes.chunks(255 * LANES) {
        let (mut highs, mut crs, mut counts) = ([0_u8; LANES], [0_u8; LANES], [0_u8; LANES]);
        let (groups, rest) = piece.as_chunks::<LANES>();
        for group in groups {
            for (lane, &byte) in group.iter().enumerate() {
                highs[lane] |= byte;
                crs[lane] |= u8::from(byte == b'\r');
                counts[lane] += u8::from(byte == b'\n');
            }
        }
        for &byte in rest {
            high |= byte;
            has_cr |= u8::from(byte == b'\r');
            newlines += u64::from(byte == b'\n');
        }
        high |= highs.iter().fold(0, |all, lane| all | lane);
        has_cr |= crs.iter().fold(0, |all, lane| all | lane);
        newlines += counts.iter().map(|&count| u64::from(count)).sum::<u64>();
    }
    if TELL {
        memchr::memchr_iter(b'\n', bytes).for_each(at_newline);
    }
    Survey { ascii: high < 128, has_cr: has_cr != 0, newlines }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8,
        _mm256_setzero_si256,
    };

    use super::Survey;

    /// What is looked at in one go, 64 bytes: the `\n` among them are the bits of one number.
    const STEP: usize = 64;
    /// So many of these numbers are made before anybody is told of them: telling would take the registers from looking.
    const STEPS: usize = 64;

    #[target_feature(enable = "avx2,bmi1,popcnt")]
    pub(super) fn looked_at<const TELL: bool>(bytes: &[u8], mut at_newline: impl FnMut(usize)) -> Survey {
        let mut survey = Survey { ascii: true, has_cr: false, newlines: 0 };
        let mut masks = [0_u64; STEPS];
        let (pieces, rest) = bytes.as_chunks::<{ STEP * STEPS }>();
        let (groups, rest) = rest.as_chunks::<STEP>();
        // The bytes behind the last whole group, made into one by bytes that mean nothing.
        let mut last = [0_u8; STEP];
        last[..rest.len()].copy_from_slice(rest);
        let behind = pieces.len() * STEPS;
        let pieces = pieces.iter().map(|piece| piece.as_chunks::<STEP>().0).enumerate();
        let pieces = pieces.map(|(number, groups)| (number * STEPS, groups));
        for (first, groups) in pieces.chain([(behind, groups), (behind + groups.len(), std::slice::from_ref(&last))]) {
            piece(groups, &mut masks, &mut survey);
            for (number, &mask) in masks.iter().take(if TELL { groups.len() } else { 0 }).enumerate() {
                let mut found = mask;
                while found != 0 {
                    at_newline((first + number) * STEP + found.trailing_zeros() as usize);
                    found &= found - 1;
                }
            }
        }
        survey
    }

    /// Looks at some groups, and makes a number of each.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,popcnt")]
    fn piece(groups: &[[u8; STEP]], masks: &mut [u64; STEPS], survey: &mut Survey) {
        let (newline, cr) = (_mm256_set1_epi8(0x0a), _mm256_set1_epi8(0x0d));
        let (mut high, mut crs, mut newlines) = (_mm256_setzero_si256(), _mm256_setzero_si256(), 0_u64);
        for (group, mask) in groups.iter().zip(masks) {
            let halves: *const __m256i = group.as_ptr().cast();
            // SAFETY: a group is two of these long, and may lie anywhere.
            let one = unsafe { _mm256_loadu_si256(halves) };
            // SAFETY: the second half of the group.
            let behind = unsafe { halves.add(1) };
            // SAFETY: as above.
            let other = unsafe { _mm256_loadu_si256(behind) };
            high = _mm256_or_si256(high, _mm256_or_si256(one, other));
            let both = _mm256_or_si256(_mm256_cmpeq_epi8(one, cr), _mm256_cmpeq_epi8(other, cr));
            crs = _mm256_or_si256(crs, both);
            let low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(one, newline)).cast_unsigned();
            let upper = _mm256_movemask_epi8(_mm256_cmpeq_epi8(other, newline)).cast_unsigned();
            *mask = u64::from(low) | u64::from(upper) << 32;
            newlines += u64::from(mask.count_ones());
        }
        survey.ascii &= _mm256_movemask_epi8(high) == 0;
        survey.has_cr |= _mm256_movemask_epi8(crs) != 0;
        survey.newlines += newlines;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each byte tells, one after the other.
    fn one_by_one(bytes: &[u8]) -> (Survey, Vec<usize>) {
        let places: Vec<usize> = (0..bytes.len()).filter(|&place| bytes[place] == b'\n').collect();
        let survey = Survey { ascii: bytes.is_ascii(), has_cr: bytes.contains(&b'\r'), newlines: places.len() as u64 };
        (survey, places)
    }

    fn assert_agree(bytes: &[u8]) {
        let (expected, places) = one_by_one(bytes);
        assert_eq!(survey(bytes), expected);
        assert_eq!(plainly::<false>(bytes, |_| ()), expected);
        let mut told = Vec::new();
        assert_eq!(survey_lines(bytes, |place| told.push(place)), expected);
        assert_eq!(told, places);
        told.clear();
        assert_eq!(plainly::<true>(bytes, |place| told.push(place)), expected);
        assert_eq!(told, places);
    }

    #[test]
    fn all_ways_of_looking_tell_the_same() {
        for length in [0, 1, 31, 32, 33, 63, 64, 65, 127, 255 * 32, 255 * 32 + 1, 70_000] {
            for odd in [b'a', b'\n', b'\r', 0xe9, 0x8a, 0] {
                let mut bytes = vec![b'x'; length];
                for place in [0, length / 2, length.saturating_sub(1)] {
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = odd;
                        assert_agree(&bytes);
                        bytes[place] = b'x';
                    }
                }
            }
        }
        assert_agree(&vec![b'\n'; 20_000]);
        let mut state = 1_u32;
        let mixed: Vec<u8> = (0..5_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                b"\n\r\naz \xc3\xa9"[(state >> 28) as usize % 8]
            })
            .collect();
        for start in 0..70 {
            assert_agree(&mixed[start..]);
        }
    }
}

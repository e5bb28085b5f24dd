//! Sorting keys that need no interpreter: numbers and text, each with the place that it came from.
//!
//! A key is turned into a `u64` whose order is the key's own. Text is told apart by its first eight bytes, and looked at
//! again where these are equal.

use std::cmp::Ordering;

use rayon::slice::ParallelSliceMut;

/// A key, and where it came from.
pub type Placed = (u64, u32);

/// From how many keys on a second thread is worth its wake-up.
const MANY: usize = 50_000;
/// From how many keys on counting digits beats comparing.
const DIGITS: usize = 2_000;

/// Which way to sort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// Whatever is quickest for these keys; stable.
    Auto,
    /// Quick sort: no promise for equal keys.
    Quick,
    /// Merge sort: equal keys stay in order.
    Merge,
}

/// The order of whole numbers.
#[inline]
#[must_use]
pub fn int_key(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// The order of floating-point numbers, with both zeros equal; none for what is not a number, which has no order.
#[inline]
#[must_use]
pub fn float_key(value: f64) -> Option<u64> {
    if value.is_nan() {
        return None;
    }
    let bits = (value + 0.0).to_bits();
    Some(if bits >> 63 == 0 { bits | (1 << 63) } else { !bits })
}

/// The order of the first eight bytes of a text.
#[inline]
#[must_use]
pub fn text_key(text: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = text.len().min(8);
    first[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(first)
}

/// Whether the keys are in order already, the equal ones too.
#[must_use]
pub fn is_sorted(keys: &[Placed]) -> bool {
    keys.windows(2).all(|pair| pair[0].0 <= pair[1].0)
}

/// Whether the keys come in long runs, up or down, as lists have that were put together from sorted ones.
fn has_runs(keys: &[Placed]) -> bool {
    let turns = keys.windows(3).filter(|three| (three[0].0 <= three[1].0) != (three[1].0 <= three[2].0)).count();
    turns < keys.len() / 64
}

/// Sorts the keys; with `reverse` from the greatest to the least, equal ones still in their own order.
pub fn sort(keys: &mut Vec<Placed>, strategy: Strategy, reverse: bool, pool: Option<&rayon::ThreadPool>) {
    if reverse {
        for key in keys.iter_mut() {
            key.0 = !key.0;
        }
    }
    if is_sorted(keys) {
        return;
    }
    let pool = pool.filter(|_| keys.len() >= MANY);
    match (strategy, pool) {
        // The standard library's stable sort finds runs and merges them.
        (Strategy::Auto, _) if has_runs(keys) => keys.sort_by_key(|key| key.0),
        (Strategy::Auto, _) if keys.len() >= DIGITS => by_digits(keys),
        (Strategy::Auto, _) | (Strategy::Merge, None) => keys.sort_by_key(|key| key.0),
        (Strategy::Merge, Some(pool)) => pool.install(|| keys.par_sort_by_key(|key| key.0)),
        (Strategy::Quick, None) => keys.sort_unstable_by_key(|key| key.0),
        (Strategy::Quick, Some(pool)) => pool.install(|| keys.par_sort_unstable_by_key(|key| key.0)),
    }
}

/// Sorts the keys of texts; `text` gives the whole text of a place.
pub fn sort_texts<'a>(
    keys: &mut [Placed],
    strategy: Strategy,
    reverse: bool,
    pool: Option<&rayon::ThreadPool>,
    text: impl Fn(u32) -> &'a [u8] + Sync,
) {
    let compare = |one: &Placed, other: &Placed| {
        let order = one.0.cmp(&other.0).then_with(|| text(one.1).cmp(text(other.1)));
        if reverse { order.reverse() } else { order }
    };
    if keys.windows(2).all(|pair| compare(&pair[0], &pair[1]) != Ordering::Greater) {
        return;
    }
    let pool = pool.filter(|_| keys.len() >= MANY);
    match (strategy, pool) {
        (Strategy::Auto, _) if has_runs(keys) => keys.sort_by(compare),
        (Strategy::Auto | Strategy::Merge, None) => keys.sort_by(compare),
        (Strategy::Auto | Strategy::Merge, Some(pool)) => pool.install(|| keys.par_sort_by(compare)),
        (Strategy::Quick, None) => keys.sort_unstable_by(compare),
        (Strategy::Quick, Some(pool)) => pool.install(|| keys.par_sort_unstable_by(compare)),
    }
}

/// Distributes the keys by one digit after the other, from the last to the first: stable, and no comparisons. Digits that
/// all keys have in common are passed over. (Radix sort, LSD; Knuth, volume 3, 5.2.5.)
#[expect(clippy::cast_possible_truncation, reason = "a digit has eleven bits")]
fn by_digits(keys: &mut Vec<Placed>) {
    const BITS: u32 = 11;
    const VALUES: usize = 1 << BITS;
    let first = keys[0].0;
    let differing = keys.iter().fold(0, |differing, key| differing | (key.0 ^ first));
    let mut other = vec![(0, 0); keys.len()];
    let mut shift = differing.trailing_zeros();
    while shift < 64 {
        if (differing >> shift) & (VALUES as u64 - 1) != 0 {
            let digit = |key: u64| ((key >> shift) & (VALUES as u64 - 1)) as usize;
            let mut places = [0; VALUES];
            for key in keys.iter() {
                places[digit(key.0)] += 1;
            }
            let mut sum = 0;
            for place in &mut places {
                sum += std::mem::replace(place, sum);
            }
            for key in keys.iter() {
                let place = &mut places[digit(key.0)];
                other[*place] = *key;
                *place += 1;
            }
            std::mem::swap(keys, &mut other);
        }
        shift += BITS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that follow no order, the same ones every time.
    fn scattered(count: usize) -> Vec<u64> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        (0..count)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            })
            .collect()
    }

    #[expect(clippy::cast_possible_truncation, reason = "few keys")]
    fn placed(keys: &[u64]) -> Vec<Placed> {
        keys.iter().enumerate().map(|(place, key)| (*key, place as u32)).collect()
    }

    #[test]
    fn every_strategy_sorts_and_stable_ones_keep_the_order() {
        let wide = scattered(10_000);
        let narrow: Vec<u64> = wide.iter().map(|key| key % 100).collect();
        let mut runs: Vec<u64> = (0..5_000).chain(0..5_000).collect();
        runs.extend((0..1_000).rev());
        for keys in [wide, narrow, runs, vec![], vec![7; 3_000], vec![3, 1, 2]] {
            for reverse in [false, true] {
                let mut expected = placed(&keys);
                expected.sort_by_key(|key| if reverse { !key.0 } else { key.0 });
                let places: Vec<u32> = expected.iter().map(|key| key.1).collect();
                for strategy in [Strategy::Auto, Strategy::Merge, Strategy::Quick] {
                    let mut sorted = placed(&keys);
                    sort(&mut sorted, strategy, reverse, None);
                    let found: Vec<u32> = sorted.iter().map(|key| key.1).collect();
                    if strategy == Strategy::Quick {
                        let by_place = |places: &[u32]| places.iter().map(|at| keys[*at as usize]).collect::<Vec<_>>();
                        assert_eq!(by_place(&found), by_place(&places));
                    } else {
                        assert_eq!(found, places, "{strategy:?} {reverse}");
                    }
                }
            }
        }
    }

    #[test]
    fn keys_have_the_order_of_what_they_stand_for() {
        let ints = [i64::MIN, -1, 0, 1, i64::MAX];
        assert!(ints.map(int_key).is_sorted());
        let floats = [f64::NEG_INFINITY, -1.5, -f64::MIN_POSITIVE, 0.0, 5e-324, 1.5, f64::INFINITY];
        assert!(floats.map(float_key).is_sorted());
        assert_eq!(float_key(-0.0), float_key(0.0));
        assert_eq!(float_key(f64::NAN), None);
    }

    #[test]
    fn texts_with_the_same_beginning_are_told_apart() {
        let texts: [&[u8]; 6] = [b"error 12 b", b"error 12 a", b"error 12", b"", b"error 12\0", b"err"];
        let keys: Vec<u64> = texts.iter().map(|text| text_key(text)).collect();
        let mut expected = texts;
        expected.sort_unstable();
        for strategy in [Strategy::Auto, Strategy::Merge, Strategy::Quick] {
            let mut sorted = placed(&keys);
            sort_texts(&mut sorted, strategy, false, None, |place| texts[place as usize]);
            let found: Vec<&[u8]> = sorted.iter().map(|key| texts[key.1 as usize]).collect();
            assert_eq!(found, expected);
        }
    }
}

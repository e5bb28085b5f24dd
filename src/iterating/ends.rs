//! Where lines begin and end.

use memchr::{memchr, memchr_iter, memchr2, memrchr, memrchr2};

/// What ends a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// `\n`, `\r\n`, or a `\r` alone.
    Universal,
    /// `\n` alone.
    Lf,
    /// `\r` alone.
    Cr,
    /// `\r\n` alone.
    CrLf,
}

/// The start of the line that the byte at `place` lies in.
#[inline]
#[must_use]
pub fn start_of_line(bytes: &[u8], ends: Ends, place: usize) -> usize {
    match ends {
        Ends::Lf => memrchr(b'\n', &bytes[..place]).map_or(0, |end| end + 1),
        Ends::Cr => memrchr(b'\r', &bytes[..place]).map_or(0, |end| end + 1),
        Ends::Universal => memrchr2(b'\n', b'\r', &bytes[..place]).map_or(0, |end| end + 1),
        Ends::CrLf => {
            let mut place = place;
            while let Some(end) = memrchr(b'\n', &bytes[..place]) {
                if end > 0 && bytes[end - 1] == b'\r' {
                    return end + 1;
                }
                place = end;
            }
            0
        }
    }
}

/// Where the line ends that begins before or at `place`, and where the next one begins.
#[inline]
#[must_use]
pub fn end_of_line(bytes: &[u8], ends: Ends, place: usize) -> (usize, usize) {
    let rest = &bytes[place..];
    let whole = (bytes.len(), bytes.len());
    match ends {
        Ends::Lf => memchr(b'\n', rest).map_or(whole, |end| (place + end, place + end + 1)),
        Ends::Cr => memchr(b'\r', rest).map_or(whole, |end| (place + end, place + end + 1)),
        Ends::Universal => memchr2(b'\n', b'\r', rest).map_or(whole, |end| {
            let pair = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
            (place + end, place + end + 1 + usize::from(pair))
        }),
        Ends::CrLf => {
            let mut from = place;
            while let Some(end) = memchr(b'\n', &bytes[from..]) {
                let end = from + end;
                if end > place && bytes[end - 1] == b'\r' {
                    return (end - 1, end + 1);
                }
                from = end + 1;
            }
            whole
        }
    }
}

/// How many lines these are, the last one with or without its end.
#[must_use]
pub fn count_lines(bytes: &[u8], ends: Ends) -> u64 {
    if ends == Ends::Lf {
        let open = bytes.last().is_some_and(|&byte| byte != b'\n');
        return memchr_iter(b'\n', bytes).count() as u64 + u64::from(open);
    }
    let (mut place, mut count) = (0, 0);
    while place < bytes.len() {
        place = end_of_line(bytes, ends, place).1;
        count += 1;
    }
    count
}

/// Behind the last line end; `None` where there is none yet that is certain.
#[must_use]
pub fn last_end(bytes: &[u8], ends: Ends) -> Option<usize> {
    let end = match ends {
        Ends::Lf => memrchr(b'\n', bytes),
        Ends::Cr => memrchr(b'\r', bytes),
        // A `\r` at the end may be the half of a pair.
        Ends::Universal => memrchr2(b'\n', b'\r', bytes.strip_suffix(b"\r").unwrap_or(bytes)),
        Ends::CrLf => {
            let mut bytes = bytes;
            loop {
                match memrchr(b'\n', bytes) {
                    Some(end) if end > 0 && bytes[end - 1] == b'\r' => break Some(end),
                    Some(end) => bytes = &bytes[..end],
                    None => break None,
                }
            }
        }
    };
    end.map(|end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_end_is_one_that_is_certain() {
        let of = |bytes: &[u8]| [Ends::Universal, Ends::Lf, Ends::Cr, Ends::CrLf].map(|ends| last_end(bytes, ends));
        assert_eq!(of(b"a\r\nb\r"), [Some(3), Some(3), Some(5), Some(3)]);
        assert_eq!(of(b"a\rb\nc"), [Some(4), Some(4), Some(2), None]);
        assert_eq!(of(b"\n"), [Some(1), Some(1), None, None]);
    }
}

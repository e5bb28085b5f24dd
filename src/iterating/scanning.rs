//! Lines found and chosen among bytes, block by block, before anything is made of them.

use std::ffi::CString;
use std::io;

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter, memchr2, memrchr, memrchr2};

/// How much is read at a time: what stays in the processor's second cache while it is looked at several times.
pub const BLOCK: usize = 256 * 1024;

/// No line may be longer.
const LONGEST: usize = (u32::MAX as usize) - 4 * BLOCK;

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

/// What is done to a line, or asked of it.
pub enum Step {
    /// White space at both ends goes, as by `str.strip`.
    Strip,
    /// The line contains this.
    Contains(Box<Finder<'static>>),
    /// The line is cut into fields, and the one of this number is kept; counted from the end, where negative.
    Field(isize, Option<Box<Finder<'static>>>),
    /// What only Python can tell, of lines that contain all of these.
    Python(Vec<Finder<'static>>),
}

/// A line that was chosen: where it is in the block, and the first step that is still to be taken, on a `str`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Its first byte.
    pub start: u32,
    /// Behind its last byte.
    pub end: u32,
    /// How many steps have been taken.
    pub steps: u32,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It can't be decoded. Where it is in the block.
    Undecodable(u32, u32),
    /// It is longer than it may be.
    TooLong,
}

/// Finds lines in what is read.
pub struct Scanner {
    ends: Ends,
    steps: Vec<Step>,
    /// How to decode what is no UTF-8; `None`: not at all.
    errors: Option<CString>,
    max_line: usize,
    limited: bool,
    /// What was read: lines of which some are chosen, then the beginning of another.
    buffer: Vec<u8>,
    /// Behind the last byte read.
    filled: usize,
    /// Behind the last line that was looked at.
    looked_at: usize,
    at_end: bool,
    /// The lines of the block that were chosen, in order.
    chosen: Vec<Chosen>,
    /// How many of these have been given out.
    given: usize,
    /// Whether all of the block is ASCII.
    ascii: bool,
    /// How many lines came before the block, and in which line something is wrong.
    lines_before: u64,
    wrong: Option<(u64, Wrong)>,
    /// How many bytes came before the block.
    bytes_before: u64,
}

/// White space of `str.strip` and `str.split` that is ASCII.
#[inline]
fn is_space(byte: u8) -> bool {
    matches!(byte, 9..=13 | 28..=32)
}

impl Scanner {
    /// A scanner for lines with these ends.
    #[must_use]
    pub fn new(ends: Ends, steps: Vec<Step>, errors: Option<CString>, max_line: Option<usize>) -> Self {
        Self {
            ends,
            steps,
            errors,
            // Places in a block are kept in 32 bits.
            max_line: max_line.unwrap_or(LONGEST).min(LONGEST),
            limited: max_line.is_some(),
            buffer: Vec::new(),
            filled: 0,
            looked_at: 0,
            at_end: false,
            chosen: Vec::new(),
            given: 0,
            ascii: true,
            lines_before: 0,
            wrong: None,
            bytes_before: 0,
        }
    }

    /// The next chosen line of the block: its bytes, whether they are known to be ASCII, and how many steps were taken.
    #[inline]
    pub fn give(&mut self) -> Option<(&[u8], bool, usize)> {
        let chosen = self.chosen.get(self.given)?;
        self.given += 1;
        Some((&self.buffer[chosen.start as usize..chosen.end as usize], self.ascii, chosen.steps as usize))
    }

    /// How many chosen lines of the block are still to come.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.chosen.len() - self.given
    }

    /// What is wrong with the line behind those that were chosen, and its number, counted from 1.
    pub fn take_wrong(&mut self) -> Option<(u64, Wrong)> {
        self.wrong.take()
    }

    /// Bytes of the block.
    #[must_use]
    pub fn bytes(&self, start: u32, end: u32) -> &[u8] {
        &self.buffer[start as usize..end as usize]
    }

    /// How to decode what is no UTF-8; `None`: not at all.
    #[must_use]
    pub fn errors(&self) -> Option<&CString> {
        self.errors.as_ref()
    }

    /// Where in the source the first line begins that wasn't given out, or not looked at: bytes, and lines.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        match self.chosen.get(self.given) {
            Some(next) => {
                let place = start_of_line(&self.buffer, self.ends, next.start as usize);
                let later = count_lines(&self.buffer[place..self.looked_at], self.ends);
                (self.bytes_before + place as u64, self.lines_before - later)
            }
            None => (self.bytes_before + self.looked_at as u64, self.lines_before),
        }
    }

    /// How many bytes of the source come before what is read next.
    pub fn set_start(&mut self, bytes: u64, lines: u64) {
        self.bytes_before = bytes;
        self.lines_before = lines;
    }

    /// Reads on and looks for lines until some are chosen, something is wrong, or the source has ended: then it is false.
    pub fn advance(&mut self, read: &mut impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<bool> {
        while self.ready() == 0 && self.wrong.is_none() {
            if self.looked_at < self.filled && self.cut() > self.looked_at {
                self.look();
                continue;
            }
            if self.at_end {
                if self.looked_at == self.filled {
                    return Ok(false);
                }
                self.look();
                continue;
            }
            self.make_room();
            let count = read(&mut self.buffer[self.filled..])?;
            self.filled += count;
            self.at_end = count == 0;
            if self.filled - self.looked_at > self.max_line.saturating_add(2) && self.cut() == self.looked_at {
                // The line goes on for ever, perhaps.
                self.wrong = Some((self.lines_before + 1, Wrong::TooLong));
            }
        }
        Ok(true)
    }

    /// Moves the beginning of a line that was begun to the front, and sees that a block has room behind it.
    fn make_room(&mut self) {
        self.chosen.clear();
        self.given = 0;
        self.bytes_before += self.looked_at as u64;
        self.buffer.copy_within(self.looked_at..self.filled, 0);
        self.filled -= self.looked_at;
        self.looked_at = 0;
        // A line longer than the buffer makes it grow by doubling; what it has grown to, it keeps.
        if self.buffer.len() < self.filled * 2 || self.buffer.len() < BLOCK {
            self.buffer.resize((self.filled * 2).max(BLOCK), 0);
        }
    }

    /// Behind the last line that has its end.
    fn cut(&self) -> usize {
        if self.at_end {
            return self.filled;
        }
        let bytes = &self.buffer[self.looked_at..self.filled];
        let end = match self.ends {
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
        end.map_or(self.looked_at, |end| self.looked_at + end + 1)
    }

    /// Looks at the whole lines of the block.
    fn look(&mut self) {
        self.chosen.clear();
        self.given = 0;
        let from = self.looked_at;
        let cut = self.cut();
        let region = &self.buffer[from..cut];
        self.ascii = region.is_ascii();
        let has_cr = self.ends == Ends::Universal && memchr(b'\r', region).is_some();
        let ends = if self.ends == Ends::Universal && !has_cr { Ends::Lf } else { self.ends };
        let mut until = cut;
        let mut valid = true;
        if !self.ascii
            && let Err(error) = std::str::from_utf8(region)
        {
            valid = false;
            if self.errors.is_none() {
                let bad = from + error.valid_up_to();
                let start = start_of_line(&self.buffer[from..], ends, bad - from) + from;
                let (end, next) = end_of_line(&self.buffer[..cut], ends, start);
                until = start;
                let number = self.lines_before + count_lines(&self.buffer[from..start], ends) + 1;
                #[expect(clippy::cast_possible_truncation, reason = "a block has less than 4 GiB")]
                let wrong = Wrong::Undecodable(start as u32, end as u32);
                self.wrong = Some((number, wrong));
                self.looked_at = next;
                self.lines_before = number;
                valid = true;
            }
        }
        if self.wrong.is_none() {
            self.looked_at = cut;
        }
        let Self { buffer, steps, chosen, lines_before, wrong, max_line, limited, looked_at, .. } = self;
        let region = &buffer[..until];
        let first = *lines_before;
        match steps.first() {
            // The needle is looked for in the block, not in one line after the other.
            Some(Step::Contains(needle)) if !*limited && valid && memchr2(b'\n', b'\r', needle.needle()).is_none() => {
                let mut place = from;
                while let Some(found) = needle.find(&region[place..]) {
                    let found = place + found;
                    let start = start_of_line(&region[place..], ends, found - place) + place;
                    let (end, next) = end_of_line(region, ends, found);
                    choose(region, start, end, steps, 1, valid, chosen);
                    place = next;
                    if place >= until {
                        break;
                    }
                }
            }
            _ => {
                let mut place = from;
                let mut number = first;
                while place < until {
                    let (end, next) = end_of_line(region, ends, place);
                    number += 1;
                    if end - place > *max_line {
                        *wrong = Some((number, Wrong::TooLong));
                        *looked_at = place;
                        return;
                    }
                    choose(region, place, end, steps, 0, valid, chosen);
                    place = next;
                }
            }
        }
        if wrong.is_none() {
            *lines_before = first + count_lines(&buffer[from..until], ends);
        }
    }
}

/// The start of the line that the byte at `place` lies in.
#[inline]
fn start_of_line(bytes: &[u8], ends: Ends, place: usize) -> usize {
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
fn end_of_line(bytes: &[u8], ends: Ends, place: usize) -> (usize, usize) {
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

fn count_lines(bytes: &[u8], ends: Ends) -> u64 {
    if ends == Ends::Lf {
        return memchr_iter(b'\n', bytes).count() as u64;
    }
    let (mut place, mut count) = (0, 0);
    while place < bytes.len() {
        place = end_of_line(bytes, ends, place).1;
        count += 1;
    }
    count
}

/// Takes the steps of a line from `first` on, as far as bytes can tell, and keeps it unless a step says no.
#[expect(clippy::cast_possible_truncation, reason = "a block has less than 4 GiB, and few steps are taken")]
#[inline]
fn choose(bytes: &[u8], start: usize, end: usize, steps: &[Step], first: usize, valid: bool, chosen: &mut Vec<Chosen>) {
    let keep =
        |start: usize, end: usize, taken: usize| Chosen { start: start as u32, end: end as u32, steps: taken as u32 };
    if !valid && std::str::from_utf8(&bytes[start..end]).is_err() {
        // How its bytes are decoded decides what it contains.
        chosen.push(keep(start, end, 0));
        return;
    }
    let (mut start, mut end) = (start, end);
    for (number, step) in steps.iter().enumerate().skip(first) {
        let line = &bytes[start..end];
        match step {
            Step::Contains(needle) => {
                if needle.find(line).is_none() {
                    return;
                }
            }
            Step::Strip => match stripped(line) {
                Some((from, to)) => (start, end) = (start + from, start + to),
                None => return chosen.push(keep(start, end, number)),
            },
            Step::Field(index, separator) => {
                let found = match separator {
                    Some(separator) => field(line, *index, separator),
                    None if line.is_ascii() => word(line, *index),
                    None => None,
                };
                match found {
                    Some((from, to)) => (start, end) = (start + from, start + to),
                    // Not a field, or not one that bytes can tell: Python says what is to be said.
                    None => return chosen.push(keep(start, end, number)),
                }
            }
            Step::Python(needles) => {
                if needles.iter().all(|needle| needle.find(line).is_some()) {
                    chosen.push(keep(start, end, number));
                }
                return;
            }
        }
    }
    chosen.push(keep(start, end, steps.len()));
}

/// What is left without white space at the ends; `None` where a character decides that is not ASCII.
fn stripped(line: &[u8]) -> Option<(usize, usize)> {
    let start = line.iter().position(|byte| !is_space(*byte)).unwrap_or(line.len());
    let end = line.iter().rposition(|byte| !is_space(*byte)).map_or(start, |last| last + 1);
    let clear = line[start..end].first().is_none_or(u8::is_ascii) && line[start..end].last().is_none_or(u8::is_ascii);
    clear.then_some((start, end))
}

/// The field of a number among those between separators.
fn field(line: &[u8], index: isize, separator: &Finder<'_>) -> Option<(usize, usize)> {
    let width = separator.needle().len();
    let index = if index < 0 {
        let fields = separator.find_iter(line).count() + 1;
        fields.checked_sub(index.unsigned_abs())?
    } else {
        index.cast_unsigned()
    };
    let mut start = 0;
    for _ in 0..index {
        start += separator.find(&line[start..])? + width;
    }
    let end = separator.find(&line[start..]).map_or(line.len(), |end| start + end);
    Some((start, end))
}

/// The field of a number among those between white space.
fn word(line: &[u8], index: isize) -> Option<(usize, usize)> {
    let mut words = Words { line, place: 0 };
    if index >= 0 {
        words.nth(index.cast_unsigned())
    } else {
        let count = Words { line, place: 0 }.count();
        words.nth(count.checked_sub(index.unsigned_abs())?)
    }
}

struct Words<'a> {
    line: &'a [u8],
    place: usize,
}

impl Iterator for Words<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.line[self.place..];
        let start = self.place + rest.iter().position(|byte| !is_space(*byte))?;
        let rest = &self.line[start..];
        let end = rest.iter().position(|byte| is_space(*byte)).map_or(self.line.len(), |length| start + length);
        self.place = end;
        Some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines, read in pieces of a size.
    fn lines(text: &[u8], ends: Ends, piece: usize, steps: Vec<Step>) -> Vec<String> {
        let mut scanner = Scanner::new(ends, steps, None, None);
        let mut rest = text;
        let mut read = |into: &mut [u8]| {
            let count = rest.len().min(piece).min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            Ok(count)
        };
        let mut found = Vec::new();
        while scanner.advance(&mut read).expect("nothing fails") {
            assert_eq!(scanner.take_wrong(), None);
            while let Some((line, _, _)) = scanner.give() {
                found.push(String::from_utf8(line.to_vec()).expect("valid"));
            }
        }
        found
    }

    /// The same by the plainest of means.
    fn plainly(text: &str, ends: Ends) -> Vec<String> {
        let text = match ends {
            Ends::Universal => text.replace("\r\n", "\n").replace('\r', "\n"),
            _ => text.to_owned(),
        };
        let end = match ends {
            Ends::Universal | Ends::Lf => "\n",
            Ends::Cr => "\r",
            Ends::CrLf => "\r\n",
        };
        let mut parts: Vec<String> = text.split(end).map(ToOwned::to_owned).collect();
        if parts.last().is_some_and(String::is_empty) {
            parts.pop();
        }
        parts
    }

    #[test]
    fn every_end_of_line_is_found_however_the_text_is_read() {
        let texts = [
            "",
            "a",
            "a\n",
            "\n",
            "\n\n",
            "a\r\nb\rc\nd",
            "a\r",
            "\r\r\n\n",
            "x\0y\n\r",
            "\r\n\r\n",
            "a\r\n",
            "é\r\nü\r",
        ];
        for text in texts {
            for ends in [Ends::Universal, Ends::Lf, Ends::Cr, Ends::CrLf] {
                for piece in [1, 2, 3, 100] {
                    let found = lines(text.as_bytes(), ends, piece, vec![]);
                    assert_eq!(found, plainly(text, ends), "{text:?} {ends:?} {piece}");
                }
            }
        }
    }

    #[test]
    fn a_line_longer_than_the_buffer_is_one_line() {
        let text = format!("{}\nb\n{}", "a".repeat(3 * BLOCK), "c".repeat(2 * BLOCK));
        assert_eq!(lines(text.as_bytes(), Ends::Universal, BLOCK, vec![]), plainly(&text, Ends::Lf));
    }

    fn contains(needle: &str) -> Step {
        Step::Contains(Box::new(Finder::new(needle.as_bytes()).into_owned()))
    }

    #[test]
    fn needles_choose_lines() {
        let text = b"x ERROR 1\nfine\nERROR ERROR\r\nERR\rOR\nlast ERROR";
        for piece in [1, 7, 100] {
            let found = lines(text, Ends::Universal, piece, vec![contains("ERROR")]);
            assert_eq!(found, ["x ERROR 1", "ERROR ERROR", "last ERROR"]);
        }
        assert_eq!(lines(b"a\n\nb", Ends::Lf, 9, vec![contains("")]), ["a", "", "b"]);
        assert!(lines(b"a\nb\n", Ends::Lf, 9, vec![contains("a\nb")]).is_empty());
    }

    #[test]
    fn fields_are_those_of_split() {
        let line = b" a  bc\td ";
        let word_at = |index| word(line, index).map(|(from, to)| &line[from..to]);
        assert_eq!(word_at(1), Some(&b"bc"[..]));
        assert_eq!(word_at(-1), Some(&b"d"[..]));
        assert_eq!((word_at(3), word_at(-4)), (None, None));
        let comma = Finder::new(b",");
        let field_at = |index| field(b"a,,c", index, &comma);
        assert_eq!((field_at(0), field_at(1), field_at(2)), (Some((0, 1)), Some((2, 2)), Some((3, 4))));
        assert_eq!((field_at(3), field_at(-1), field_at(-4)), (None, Some((3, 4)), None));
    }

    #[test]
    fn what_cannot_be_decoded_is_named_and_the_lines_around_it_come() {
        let mut scanner = Scanner::new(Ends::Universal, vec![], None, None);
        let mut rest = &b"one\ntwo \xff\nthree\n"[..];
        let mut read = |into: &mut [u8]| io::Read::read(&mut rest, into);
        assert!(scanner.advance(&mut read).expect("nothing fails"));
        assert_eq!(scanner.give().map(|found| found.0.to_vec()), Some(b"one".to_vec()));
        assert_eq!(scanner.take_wrong(), Some((2, Wrong::Undecodable(4, 9))));
        assert!(scanner.advance(&mut read).expect("nothing fails"));
        assert_eq!(scanner.give().map(|found| found.0.to_vec()), Some(b"three".to_vec()));
        assert!(!scanner.advance(&mut read).expect("nothing fails"));
    }
}

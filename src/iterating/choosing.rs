//! Which lines are chosen, decided on bytes: needles, fields and white space.

use std::ffi::CString;

use memchr::memchr2;
use memchr::memmem::Finder;

use super::ends::{Ends, count_lines, end_of_line, start_of_line};
use crate::surveying::{survey, survey_lines};

/// No line may be longer: places in a block are kept in 32 bits.
const LONGEST: usize = (u32::MAX as usize) - (1 << 20);

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

impl Chosen {
    /// A line of which nothing was asked.
    #[expect(clippy::cast_possible_truncation, reason = "a block has less than 4 GiB")]
    fn whole(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32, steps: 0 }
    }
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It can't be decoded. Where it is in the block.
    Undecodable(u32, u32),
    /// It is longer than it may be.
    TooLong,
}

/// What is asked of each line, and how lines are told apart: known from the beginning, and shared by all who look.
pub struct Plan {
    /// What ends a line.
    pub ends: Ends,
    /// What is asked, in this order.
    pub steps: Vec<Step>,
    /// How to decode what is no UTF-8; `None`: not at all.
    pub errors: Option<CString>,
    /// How long a line may be, in bytes; `None`: as long as places fit 32 bits.
    pub max_line: Option<usize>,
}

/// What was found among some lines.
#[derive(Default)]
pub struct Found {
    /// The lines that were chosen, in order.
    pub chosen: Vec<Chosen>,
    /// Whether all of the lines are ASCII.
    pub ascii: bool,
    /// Where the first line begins.
    pub from: usize,
    /// Behind the last line that was looked at.
    pub until: usize,
    /// How many lines were looked at.
    pub lines: u64,
    /// What is wrong with the last of them.
    pub wrong: Option<Wrong>,
}

impl Found {
    /// Forgets what was found; the vector keeps its room.
    pub fn clear(&mut self) {
        self.chosen.clear();
        (self.from, self.until, self.lines, self.wrong) = (0, 0, 0, None);
    }
}

impl Plan {
    /// How long a line may be, in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.max_line.unwrap_or(LONGEST).min(LONGEST)
    }

    /// Looks at the lines of `buffer` from `from` to `cut`, where one ends, up to the first one that something is wrong with.
    pub fn look(&self, buffer: &[u8], from: usize, cut: usize, found: &mut Found) {
        let Self { ends, steps, .. } = self;
        found.chosen.clear();
        let fresh = &buffer[from..cut];
        // Where nothing is asked of lines, they are what lies between line ends, if it turns out that these are all the same.
        let plain = steps.is_empty() && self.max_line.is_none() && matches!(ends, Ends::Universal | Ends::Lf);
        let mut start = from;
        let survey = if plain {
            survey_lines(fresh, |end| {
                found.chosen.push(Chosen::whole(start, from + end));
                start = from + end + 1;
            })
        } else {
            survey(fresh)
        };
        found.ascii = survey.ascii;
        found.from = from;
        found.until = cut;
        found.wrong = None;
        let ends = if *ends == Ends::Universal && !survey.has_cr { Ends::Lf } else { *ends };
        let mut until = cut;
        let mut valid = true;
        if !survey.ascii
            && let Err(error) = std::str::from_utf8(fresh)
        {
            valid = false;
            if self.errors.is_none() {
                let bad = from + error.valid_up_to();
                let start = start_of_line(&buffer[from..], ends, bad - from) + from;
                let (end, next) = end_of_line(&buffer[..cut], ends, start);
                until = start;
                found.until = next;
                #[expect(clippy::cast_possible_truncation, reason = "a block has less than 4 GiB")]
                let wrong = Wrong::Undecodable(start as u32, end as u32);
                found.wrong = Some(wrong);
                valid = true;
            }
        }
        let region = &buffer[..until];
        match steps.first() {
            // The needle is looked for in the block, not in one line after the other.
            Some(Step::Contains(needle))
                if self.max_line.is_none() && valid && memchr2(b'\n', b'\r', needle.needle()).is_none() =>
            {
                let mut place = from;
                while let Some(at) = needle.find(&region[place..]) {
                    let at = place + at;
                    let start = start_of_line(&region[place..], ends, at - place) + place;
                    let (end, next) = end_of_line(region, ends, at);
                    choose(region, start, end, steps, 1, valid, &mut found.chosen);
                    place = next;
                    if place >= until {
                        break;
                    }
                }
                found.lines = if ends == Ends::Lf && until == cut {
                    // The last line of all may have no end.
                    survey.newlines + u64::from(cut > from && buffer[cut - 1] != b'\n')
                } else {
                    count_lines(&region[from..], ends)
                };
            }
            None if plain && ends == Ends::Lf => {
                if until < cut {
                    let kept = found.chosen.partition_point(|line| (line.start as usize) < until);
                    found.chosen.truncate(kept);
                } else if start < cut {
                    found.chosen.push(Chosen::whole(start, cut));
                }
                found.lines = found.chosen.len() as u64;
            }
            _ => {
                found.chosen.clear();
                let mut place = from;
                let mut number = 0;
                let longest = self.longest();
                while place < until {
                    let (end, next) = end_of_line(region, ends, place);
                    number += 1;
                    if end - place > longest {
                        found.wrong = Some(Wrong::TooLong);
                        found.until = place;
                        found.lines = number;
                        return;
                    }
                    choose(region, place, end, steps, 0, valid, &mut found.chosen);
                    place = next;
                }
                found.lines = number;
            }
        }
        // The one that is wrong is a line, too.
        found.lines += u64::from(found.wrong.is_some());
    }
}

/// White space of `str.strip` and `str.split` that is ASCII.
#[inline]
fn is_space(byte: u8) -> bool {
    matches!(byte, 9..=13 | 28..=32)
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
}

//! Lines found and chosen among bytes, block by block, before anything is made of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::ahead::{Ahead, Next};
use super::choosing::{Found, Plan, Wrong};
use super::ends::{count_lines, last_end, start_of_line};

/// How much is read at a time: what stays in the processor's second cache while it is looked at several times.
pub const BLOCK: usize = 256 * 1024;

/// Some bytes of the source, and what was found among them.
#[derive(Default)]
pub struct Block {
    /// The bytes; there may be room behind them.
    pub buffer: Vec<u8>,
    /// How many bytes of the source come before them.
    pub before: u64,
    /// Behind the last line that has its end.
    pub cut: usize,
    /// What was found.
    pub found: Found,
}

/// Finds lines in what is read.
pub struct Scanner {
    plan: Arc<Plan>,
    /// Lines of which some are chosen, then the beginning of another.
    block: Block,
    /// Behind the last byte read.
    filled: usize,
    at_end: bool,
    /// How many of the chosen lines have been given out.
    given: usize,
    /// How many lines came before those of the block.
    lines_before: u64,
    /// A large file, which is read at any place.
    file: Option<Arc<File>>,
    /// Those who look at the blocks that come next.
    ahead: Option<Ahead>,
}

impl Scanner {
    /// A scanner that chooses lines by this plan.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            plan: Arc::new(plan),
            block: Block::default(),
            filled: 0,
            at_end: false,
            given: 0,
            lines_before: 0,
            file: None,
            ahead: None,
        }
    }

    /// How many bytes and lines of the source come before what is read first.
    pub fn set_start(&mut self, bytes: u64, lines: u64) {
        self.block.before = bytes;
        self.lines_before = lines;
    }

    /// Reads this file, of that many bytes, in pieces that the threads of `pool` look at meanwhile. Called before anything
    /// is read.
    pub fn read_ahead(&mut self, file: Arc<File>, size: u64, pool: Arc<rayon::ThreadPool>) {
        let (plan, start) = (Arc::clone(&self.plan), self.block.before);
        self.ahead = Some(Ahead::new(plan, Arc::clone(&file), start, size, pool));
        self.file = Some(file);
    }

    /// Counts on nobody who looks ahead any more: in the child of a fork there is nobody.
    pub fn abandon_ahead(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.abandon();
        }
    }

    /// The next chosen line of the block: its bytes, whether they are known to be ASCII, and how many steps were taken.
    #[inline]
    pub fn give(&mut self) -> Option<(&[u8], bool, usize)> {
        let chosen = self.block.found.chosen.get(self.given)?;
        self.given += 1;
        let bytes = &self.block.buffer[chosen.start as usize..chosen.end as usize];
        Some((bytes, self.block.found.ascii, chosen.steps as usize))
    }

    /// The next chosen line of the block, if it is ASCII and has taken as many steps as there are.
    #[inline]
    pub fn give_ready(&mut self, steps: usize) -> Option<&[u8]> {
        let found = &self.block.found;
        let chosen = found.chosen.get(self.given).filter(|chosen| found.ascii && chosen.steps as usize == steps)?;
        let bytes = self.block.buffer.get(chosen.start as usize..chosen.end as usize)?;
        self.given += 1;
        Some(bytes)
    }

    /// How many chosen lines of the block are still to come.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.block.found.chosen.len() - self.given
    }

    /// What is wrong with the line behind those that were chosen, and its number, counted from 1.
    pub fn take_wrong(&mut self) -> Option<(u64, Wrong)> {
        let wrong = self.block.found.wrong.take()?;
        Some((self.lines_before + self.block.found.lines, wrong))
    }

    /// Bytes of the block.
    #[must_use]
    pub fn bytes(&self, start: u32, end: u32) -> &[u8] {
        &self.block.buffer[start as usize..end as usize]
    }

    /// Bytes of the block from a place to where the next line begins.
    #[must_use]
    pub fn rest_of_line(&self, start: u32) -> &[u8] {
        &self.block.buffer[start as usize..self.block.found.until]
    }

    /// What is asked of the lines.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where in the source the first line begins that wasn't given out, or not looked at: bytes, and lines.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        let Block { buffer, before, found, .. } = &self.block;
        let Some(next) = found.chosen.get(self.given) else {
            if let Some(Wrong::Undecodable(start, _)) = found.wrong {
                return (before + u64::from(start), self.lines_before + found.lines - 1);
            }
            return (before + found.until as u64, self.lines_before + found.lines);
        };
        let start = found.from + start_of_line(&buffer[found.from..], self.plan.ends, next.start as usize - found.from);
        let earlier = count_lines(&buffer[found.from..start], self.plan.ends);
        (before + start as u64, self.lines_before + earlier)
    }

    /// Reads on and looks for lines until some are chosen, something is wrong, or the source has ended: then it is false.
    pub fn advance(&mut self, read: &mut impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<bool> {
        while self.ready() == 0 && self.block.found.wrong.is_none() {
            if self.block.found.until < self.block.cut {
                self.look();
            } else if let Some(ahead) = &mut self.ahead {
                self.lines_before += self.block.found.lines;
                self.given = 0;
                let next = ahead.next(std::mem::take(&mut self.block));
                self.block = match next {
                    Next::Looked(block) | Next::Bytes(block) => block,
                    Next::Alone(rest) => {
                        self.ahead = None;
                        self.filled = rest.buffer.len();
                        rest
                    }
                };
            } else if self.at_end {
                return Ok(false);
            } else {
                self.fill(read)?;
            }
        }
        Ok(true)
    }

    /// Reads a block's worth behind what there is, and finds out how far its lines go.
    fn fill(&mut self, read: &mut impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        self.make_room();
        let place = self.block.before + self.filled as u64;
        let room = &mut self.block.buffer[self.filled..];
        let count = match &self.file {
            Some(file) => file.read_at(room, place)?,
            None => read(room)?,
        };
        let whole = if count == 0 {
            self.at_end = true;
            Some(self.filled)
        } else {
            // The last byte before may have been the first half of a line's end.
            let from = self.filled.saturating_sub(1);
            self.filled += count;
            last_end(&self.block.buffer[from..self.filled], self.plan.ends).map(|end| from + end)
        };
        self.block.cut = whole.unwrap_or(0);
        if whole.is_none() && self.filled > self.plan.longest().saturating_add(2) {
            // The line goes on for ever, perhaps.
            self.block.found.wrong = Some(Wrong::TooLong);
            self.block.found.lines = 1;
        }
        Ok(())
    }

    /// Moves the beginning of a line that was begun to the front, and sees that a block has room behind it.
    fn make_room(&mut self) {
        let Block { buffer, before, cut, found } = &mut self.block;
        self.lines_before += found.lines;
        *before += found.until as u64;
        buffer.copy_within(found.until..self.filled, 0);
        self.filled -= found.until;
        self.given = 0;
        *cut = 0;
        found.clear();
        // A line longer than the buffer makes it grow by doubling; what it has grown to, it keeps.
        if buffer.len() < self.filled * 2 || buffer.len() < BLOCK {
            buffer.resize((self.filled * 2).max(BLOCK), 0);
        }
    }

    /// Looks at the whole lines of the block that were not looked at.
    fn look(&mut self) {
        self.lines_before += self.block.found.lines;
        self.given = 0;
        let Block { buffer, cut, found, .. } = &mut self.block;
        let from = found.until;
        self.plan.look(buffer, from, *cut, found);
    }
}

#[cfg(test)]
mod tests {
    use memchr::memmem::Finder;

    use super::super::choosing::Step;
    use super::super::ends::Ends;
    use super::*;

    /// All lines, read in pieces of a size.
    fn lines(text: &[u8], ends: Ends, piece: usize, steps: Vec<Step>) -> Vec<String> {
        let mut scanner = Scanner::new(Plan { ends, steps, errors: None, max_line: None });
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
    fn what_cannot_be_decoded_is_named_and_the_lines_around_it_come() {
        let mut scanner = Scanner::new(Plan { ends: Ends::Universal, steps: vec![], errors: None, max_line: None });
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

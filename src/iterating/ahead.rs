//! Reading and looking at what comes next of a large file, while what came before is being made into something.
//!
//! The file is read in pieces of one size, by whoever comes first: a thread of the pool, or the one that wants the piece and
//! finds that nobody has begun. Only the lines that begin and end in a piece are looked at there; what lies across two
//! pieces is put together by the one who takes them, in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::choosing::Plan;
use super::ends::{end_of_line, last_end};
use super::scanning::Block;

/// From how many bytes on a file is worth the wake-up of a thread.
pub const LARGE: u64 = 2 << 20;

/// How much a piece is: enough to be worth handing over.
pub const PIECE: usize = 256 * 1024;

/// How far a piece has come.
enum Stage {
    /// Nobody has begun; a block to use.
    Waiting(Block),
    /// Somebody is at it.
    Begun,
    /// Read and looked at; behind the first line end in it, where there is one.
    Done(io::Result<(Block, usize)>),
}

/// A piece of the file.
struct Piece {
    file: Arc<File>,
    plan: Arc<Plan>,
    start: u64,
    stage: Mutex<Stage>,
    done: Condvar,
}

impl Piece {
    /// Reads the piece and looks at its lines, unless somebody else has begun to.
    fn work(&self) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Stage::Waiting(block) = &mut *stage else { return };
        let block = std::mem::take(block);
        *stage = Stage::Begun;
        drop(stage);
        let outcome = self.read(block);
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = Stage::Done(outcome);
        self.done.notify_all();
    }

    fn read(&self, mut block: Block) -> io::Result<(Block, usize)> {
        block.buffer.resize(PIECE, 0);
        block.before = self.start;
        self.file.read_exact_at(&mut block.buffer, self.start)?;
        block.cut = last_end(&block.buffer, self.plan.ends).unwrap_or(0);
        let first = if block.cut == 0 { 0 } else { end_of_line(&block.buffer, self.plan.ends, 0).1 };
        self.plan.look(&block.buffer, first, block.cut, &mut block.found);
        Ok((block, first))
    }

    /// What came of it; reads it here and now where nobody has begun.
    fn outcome(&self) -> io::Result<(Block, usize)> {
        self.work();
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if matches!(*stage, Stage::Done(_)) {
                let Stage::Done(outcome) = std::mem::replace(&mut *stage, Stage::Begun) else { continue };
                return outcome;
            }
            stage = self.done.wait(stage).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What comes next.
pub enum Next {
    /// Lines that have been looked at.
    Looked(Block),
    /// Whole lines that haven't.
    Bytes(Block),
    /// No more pieces: the beginning of a line, behind which whoever asked goes on reading.
    Alone(Block),
}

/// The pieces that are being read, and what lies between them.
pub struct Ahead {
    plan: Arc<Plan>,
    file: Arc<File>,
    pool: Arc<rayon::ThreadPool>,
    pieces: VecDeque<Arc<Piece>>,
    /// Where the next piece begins that nobody was asked for.
    next: u64,
    /// How long the file was in the beginning.
    size: u64,
    /// The beginning of a line, at the end of the last piece that was taken.
    rest: Block,
    /// The lines of that piece, while those that lie across are given.
    looked: Option<Block>,
    spare: Vec<Block>,
    abandoned: bool,
}

impl Ahead {
    /// Reads a file of `size` bytes from `start` on.
    #[must_use]
    pub fn new(plan: Arc<Plan>, file: Arc<File>, start: u64, size: u64, pool: Arc<rayon::ThreadPool>) -> Self {
        Self {
            plan,
            file,
            pool,
            pieces: VecDeque::new(),
            next: start,
            size,
            rest: Block { before: start, ..Block::default() },
            looked: None,
            spare: Vec::new(),
            abandoned: false,
        }
    }

    /// Counts on nobody any more: the threads are not there, in the child of a fork.
    pub fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// What comes next; `used` is a block that can be used again.
    pub fn next(&mut self, used: Block) -> Next {
        if let Some(looked) = self.looked.take() {
            self.recycle(used);
            return Next::Looked(looked);
        }
        self.recycle(used);
        loop {
            self.ask();
            let piece = if self.abandoned { None } else { self.pieces.pop_front() };
            // A file that has become shorter, or can't be read there: the one who reads alone will see.
            let Some((mut block, first)) = piece.and_then(|piece| piece.outcome().ok()) else {
                self.pieces.clear();
                let mut rest = std::mem::take(&mut self.rest);
                rest.found.clear();
                rest.cut = 0;
                return Next::Alone(rest);
            };
            if first == 0 {
                // No line ends here.
                self.rest.buffer.extend_from_slice(&block.buffer);
                self.recycle(block);
                if self.rest.buffer.len() > self.plan.longest() {
                    self.abandoned = true;
                }
                continue;
            }
            let mut across = std::mem::take(&mut self.rest);
            across.buffer.extend_from_slice(&block.buffer[..first]);
            across.cut = across.buffer.len();
            across.found.clear();
            self.rest.buffer = block.buffer[block.cut..].to_vec();
            self.rest.before = block.before + block.cut as u64;
            block.buffer.truncate(block.cut);
            self.looked = Some(block);
            return Next::Bytes(across);
        }
    }

    /// Asks the pool for pieces, as many as it can be at.
    fn ask(&mut self) {
        let most = self.pool.current_num_threads() + 1;
        while !self.abandoned && self.pieces.len() < most && self.next + PIECE as u64 <= self.size {
            let piece = Arc::new(Piece {
                file: Arc::clone(&self.file),
                plan: Arc::clone(&self.plan),
                start: self.next,
                stage: Mutex::new(Stage::Waiting(self.spare.pop().unwrap_or_default())),
                done: Condvar::new(),
            });
            self.next += PIECE as u64;
            let shared = Arc::clone(&piece);
            self.pool.spawn(move || shared.work());
            self.pieces.push_back(piece);
        }
    }

    fn recycle(&mut self, block: Block) {
        // What a very long line has made grow goes back to the system.
        if (PIECE..=4 * PIECE).contains(&block.buffer.capacity()) && self.spare.len() < 8 {
            self.spare.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::path::PathBuf;

    use memchr::memmem::Finder;

    use super::super::choosing::Step;
    use super::super::ends::Ends;
    use super::super::scanning::Scanner;
    use super::*;

    /// A file that is gone when the test is over.
    struct Temporary(PathBuf);

    impl Temporary {
        fn of(name: &str, bytes: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("ferrule-ahead-{}-{name}", std::process::id()));
            File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("a file can be written");
            Self(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Where a line begins, how many came before it, and the line; or which line something is wrong with.
    #[derive(Debug, PartialEq)]
    enum Seen {
        Line(u64, u64, Vec<u8>),
        Wrong(u64, Wrong2),
    }

    #[derive(Debug, PartialEq)]
    enum Wrong2 {
        Undecodable(Vec<u8>),
        TooLong,
    }

    fn plan(ends: Ends, needle: Option<&str>, max_line: Option<usize>) -> Plan {
        let steps = needle.map(|needle| Step::Contains(Box::new(Finder::new(needle.as_bytes()).into_owned())));
        Plan { ends, steps: steps.into_iter().collect(), errors: None, max_line }
    }

    fn seen(mut scanner: Scanner, mut rest: &[u8], mut at_line: impl FnMut(&mut Scanner, usize)) -> Vec<Seen> {
        use super::super::choosing::Wrong;

        let mut found = Vec::new();
        loop {
            // A position is counted out anew each time.
            let (bytes, lines) = if found.len() % 1_009 == 0 { scanner.position() } else { (0, 0) };
            if let Some((line, _, _)) = scanner.give() {
                let line = line.to_vec();
                found.push(Seen::Line(bytes, lines, line));
                at_line(&mut scanner, found.len());
            } else if let Some((number, wrong)) = scanner.take_wrong() {
                let what = match wrong {
                    Wrong::Undecodable(start, end) => Wrong2::Undecodable(scanner.bytes(start, end).to_vec()),
                    Wrong::TooLong => Wrong2::TooLong,
                };
                let last = what == Wrong2::TooLong;
                found.push(Seen::Wrong(number, what));
                if last {
                    return found;
                }
            } else if !scanner.advance(&mut |into: &mut [u8]| rest.read(into)).expect("nothing fails") {
                return found;
            }
        }
    }

    /// Lines of all lengths, with ends of all kinds, and here and there one that can't be decoded.
    fn text(odd: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut state = 7_u32;
        while bytes.len() < 8 * PIECE {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let length = match state >> 28 {
                0 => 5_000,
                1 => 0,
                more => more * 9,
            };
            bytes.extend((0..length).map(|place| b"abc ERROR"[place as usize % 9]));
            if odd && state >> 20 == 77 {
                bytes.push(0xff);
            }
            bytes.extend_from_slice([&b"\n"[..], b"\r\n", b"\r", "é\n".as_bytes()][(state >> 26) as usize % 4]);
        }
        // A line over several pieces.
        bytes.extend(vec![b'z'; 3 * PIECE]);
        bytes.extend_from_slice(b"\nlast ERROR");
        bytes
    }

    #[test]
    fn what_is_read_ahead_is_what_is_read_in_order() {
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads can be started"));
        for odd in [false, true] {
            let text = text(odd);
            let file = Temporary::of(&format!("same-{odd}"), &text);
            for ends in [Ends::Universal, Ends::Lf, Ends::Cr, Ends::CrLf] {
                for (needle, max_line) in [(None, None), (Some("ERROR"), None), (Some("z"), Some(6_000))] {
                    let expected = seen(Scanner::new(plan(ends, needle, max_line)), &text, |_, _| ());
                    for abandoned_at in [usize::MAX, 1, 700] {
                        let mut scanner = Scanner::new(plan(ends, needle, max_line));
                        let opened = Arc::new(File::open(&file.0).expect("it is there"));
                        scanner.read_ahead(opened, text.len() as u64, Arc::clone(&pool));
                        let found = seen(scanner, &[], |scanner, count| {
                            if count == abandoned_at {
                                scanner.abandon_ahead();
                            }
                        });
                        assert!(found == expected, "{odd} {ends:?} {needle:?} {max_line:?} {abandoned_at}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_file_that_shrinks_or_grows_is_read_to_its_end() {
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads can be started"));
        let text = b"0123456789\n".repeat(200_000);
        for change in [-1_500_000_isize, 1_100] {
            let file = Temporary::of(&format!("changing{change}"), &text);
            let opened = Arc::new(File::options().read(true).write(true).open(&file.0).expect("it is there"));
            let mut scanner = Scanner::new(plan(Ends::Universal, None, None));
            scanner.read_ahead(Arc::clone(&opened), text.len() as u64, Arc::clone(&pool));
            let found = seen(scanner, &[], |_, count| {
                if count == 1 && change < 0 {
                    opened.set_len(text.len() as u64 - change.unsigned_abs() as u64).expect("it can be cut");
                } else if count == 1 {
                    let more = b"0123456789\n".repeat(100);
                    opened.write_all_at(&more, text.len() as u64).expect("it can be written to");
                }
            });
            let whole =
                found.iter().filter(|line| matches!(line, Seen::Line(_, _, line) if line == b"0123456789")).count();
            let expected = text.len().saturating_add_signed(change) / 11;
            if change < 0 {
                // What was read before it shrank comes, too.
                assert!((expected..=200_000).contains(&whole));
            } else {
                assert_eq!(whole, expected);
            }
        }
    }
}

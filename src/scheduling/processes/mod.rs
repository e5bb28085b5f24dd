//! Processes that work: what goes over the wires, the worker's end of one, and the hub that keeps the record of what each
//! worker holds.
//!
//! A worker and the hub share a socket and an *outbox*, a piece of memory. In the outbox a worker writes which task it has
//! begun, and results that it hasn't sent yet: so the hub knows, whatever becomes of the worker, which task died with it,
//! which were done, and which never began.

#[cfg(feature = "python")]
pub mod hub;
#[cfg(feature = "python")]
pub mod results;
pub mod wire;
#[cfg(feature = "python")]
pub mod worker;

use std::sync::atomic::Ordering;

use crate::sharing::Mapping;

/// The outbox's size in bytes.
pub const OUTBOX: usize = 256 << 10;

/// Where results begin in it.
pub const RESULTS: usize = 64;

/// The word that says which task was begun, and under which epoch.
const MARK: usize = 0;

/// The word that says how many bytes of results there are.
pub const FILLED: usize = 1;

/// The word that counts how often results were sent: one step at the beginning, one at the end.
pub const FLUSHES: usize = 2;

/// A copy of the results that a living worker has gathered and not sent yet; nothing where it is just sending them.
#[must_use]
pub fn peek(outbox: &Mapping) -> Vec<u8> {
    let flushes = outbox.word(FLUSHES).load(Ordering::SeqCst);
    let filled = usize::try_from(outbox.word(FILLED).load(Ordering::SeqCst)).unwrap_or(0);
    if flushes % 2 == 1 || filled == 0 || filled > OUTBOX - RESULTS {
        return Vec::new();
    }
    let results = outbox.read(RESULTS, filled);
    if outbox.word(FLUSHES).load(Ordering::SeqCst) == flushes { results } else { Vec::new() }
}

/// Notes in the outbox that a task begins; false where it has been taken back.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a worker holds few tasks: the lower half tells them apart")]
pub fn begin(outbox: &Mapping, epoch: u32, number: u64) -> bool {
    let mark = outbox.word(MARK);
    let mut old = mark.load(Ordering::SeqCst);
    loop {
        if (old >> 32) as u32 != epoch {
            return false;
        }
        let new = (u64::from(epoch) << 32) | u64::from(number as u32);
        match mark.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return true,
            Err(now) => old = now,
        }
    }
}

/// Takes back all tasks that haven't begun: none sent under an older epoch begins any more. Returns the new epoch, and the
/// lower half of the number of the task that was begun last.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
pub fn take_back(outbox: &Mapping) -> (u32, u32) {
    let mark = outbox.word(MARK);
    let old = mark.fetch_add(1 << 32, Ordering::SeqCst);
    (((old >> 32) as u32).wrapping_add(1), old as u32)
}

/// The lower half of the number of the task that was begun last.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the half of a word")]
pub fn begun(outbox: &Mapping) -> u32 {
    outbox.word(MARK).load(Ordering::SeqCst) as u32
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use super::{FILLED, FLUSHES, OUTBOX, RESULTS, begin, begun, peek, take_back};
    use crate::sharing::{Mapping, nameless};

    #[test]
    fn results_can_be_looked_at_unless_they_are_being_sent() {
        let file = nameless(OUTBOX).expect("memory");
        let outbox = Mapping::shared(file.as_fd(), OUTBOX).expect("mapped");
        assert!(peek(&outbox).is_empty());
        outbox.write(RESULTS, b"result");
        outbox.word(FILLED).store(6, Ordering::SeqCst);
        assert_eq!(peek(&outbox), b"result");
        outbox.word(FLUSHES).fetch_add(1, Ordering::SeqCst);
        assert!(peek(&outbox).is_empty());
    }

    #[test]
    fn what_is_taken_back_never_begins() {
        let file = nameless(OUTBOX).expect("memory");
        let outbox = Mapping::shared(file.as_fd(), OUTBOX).expect("mapped");
        assert!(begin(&outbox, 0, 1));
        assert_eq!(begun(&outbox), 1);
        assert_eq!(take_back(&outbox), (1, 1));
        assert!(!begin(&outbox, 0, 2));
        assert_eq!(begun(&outbox), 1);
        assert!(begin(&outbox, 1, (1 << 32) + 7));
        assert_eq!(take_back(&outbox), (2, 7));
    }
}

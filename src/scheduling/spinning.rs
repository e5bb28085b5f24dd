//! A few microseconds of looking before a thread goes to sleep.
//!
//! To be woken on another processor takes longer than most answers do. So whoever waits for one looks for it a little
//! while first, and keeps account of whether that paid: where it did not, four times in a row, it is tried only now and
//! then, so that a thread whose answers take their time loses next to nothing by it.
//!
//! A conversation whose sides both sleep between answers would never find out that it could do without: each side's look
//! is over before the other one is awake. So what is tried now and then is a look that outlasts a wake-up, and a worker
//! that finds his waiter looking looks in turn.

use std::cell::Cell;
use std::hint;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long it looks, where the other side is awake.
const LONGEST: Duration = Duration::from_micros(10);

/// How long it looks now and then: longer than it takes to wake the other side.
const LONGEST_PROBE: Duration = Duration::from_micros(100);

/// How many times in a row it may be in vain.
const PATIENCE: u32 = 4;

/// Of how many waits one looks all the same, once it was in vain so often.
const PROBE: u32 = 64;

/// Looks between two looks at the clock.
const LOOKS: u32 = 8;

/// With one processor, whoever looks keeps the other from answering.
static PAYS: LazyLock<bool> =
    LazyLock::new(|| thread::available_parallelism().is_ok_and(|processors| processors.get() > 1));

thread_local! {
    /// How many looks of this thread have been in vain since the last that was not.
    static IN_VAIN: Cell<u32> = const { Cell::new(0) };
}

/// Where one side of a conversation was last seen.
pub struct Whereabouts(AtomicU32);

impl Whereabouts {
    /// Nowhere yet.
    #[must_use]
    pub const fn unknown() -> Self {
        Self(AtomicU32::new(u32::MAX))
    }

    /// Notes the processor that this side runs on.
    pub fn note(&self, processor: Option<u32>) {
        self.0.store(processor.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Whether it was last seen on that processor: then it can't answer as long as another thread is busy there.
    #[must_use]
    pub fn is_at(&self, processor: Option<u32>) -> bool {
        processor.is_some_and(|processor| self.0.load(Ordering::Relaxed) == processor)
    }
}

/// Forgets that this thread has looked in vain: the other side is awake.
pub fn take_heart() {
    IN_VAIN.set(0);
}

/// Looks whether `done` becomes true, for as long as that is worth it; says whether it has.
pub fn spin_until(done: impl Fn() -> bool) -> bool {
    if done() {
        return true;
    }
    let in_vain = IN_VAIN.get();
    if !*PAYS || (in_vain >= PATIENCE && !in_vain.is_multiple_of(PROBE)) {
        IN_VAIN.set(in_vain.wrapping_add(1));
        return false;
    }
    // The look after the first one in vain is a long one, too: where one disturbance sent both sides to sleep, they meet
    // again at once.
    let found = look(&done, if in_vain == 1 || in_vain >= PATIENCE { LONGEST_PROBE } else { LONGEST });
    IN_VAIN.set(if found { 0 } else { in_vain.wrapping_add(1) });
    found
}

/// Looks whether `done` becomes true, for `longest` at most.
pub fn look(done: &impl Fn() -> bool, longest: Duration) -> bool {
    let began = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if done() {
                return true;
            }
            hint::spin_loop();
        }
        if began.elapsed() >= longest {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::{IN_VAIN, PATIENCE, PAYS, PROBE, Whereabouts, look, spin_until};

    #[test]
    fn sees_what_another_thread_does() {
        let flag = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| flag.store(true, Ordering::Release));
            assert!(look(&|| flag.load(Ordering::Acquire), Duration::from_secs(60)));
        });
        assert!(spin_until(|| flag.load(Ordering::Acquire)));
    }

    #[test]
    fn knows_where_the_other_side_was_seen() {
        let side = Whereabouts::unknown();
        assert!(!side.is_at(Some(0)));
        side.note(Some(3));
        assert!(side.is_at(Some(3)));
        assert!(!side.is_at(Some(1)));
        assert!(!side.is_at(None));
        side.note(None);
        assert!(!side.is_at(Some(3)));
        assert!(!side.is_at(None));
    }

    #[test]
    fn gives_up_and_tries_again_now_and_then() {
        let looks = Cell::new(0_u32);
        let never = || {
            looks.set(looks.get() + 1);
            false
        };
        IN_VAIN.set(0);
        let spun = (0..PATIENCE + 2 * PROBE)
            .filter(|_| {
                looks.set(0);
                assert!(!spin_until(never));
                looks.get() > 1
            })
            .count();
        let expected = if *PAYS { usize::try_from(PATIENCE).expect("small") + 2 } else { 0 };
        assert_eq!(spun, expected);
        // Once it pays, it looks each time.
        IN_VAIN.set(if *PAYS { 2 * PROBE } else { 0 });
        looks.set(0);
        let second = || {
            looks.set(looks.get() + 1);
            looks.get() > 1
        };
        assert_eq!(spin_until(second), *PAYS);
        if *PAYS {
            assert_eq!(IN_VAIN.get(), 0);
        }
    }
}

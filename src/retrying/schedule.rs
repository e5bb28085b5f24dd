//! How long to wait before the next attempt: exponential back-off, capped, and spread by chance.
//!
//! The kinds of jitter are those of "Exponential Backoff And Jitter" (Marc Brooker, AWS Architecture Blog, 2015). Chance
//! comes in as a number from 0 (included) to 1 (excluded), so that the schedule itself is a plain function.

/// How chance spreads the waits of many callers who failed at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// Not at all.
    None,
    /// Anything from nothing to the whole wait.
    Full,
    /// Half of the wait for certain, the other half by chance.
    Equal,
    /// Anything from the first wait to three times the one before.
    Decorrelated,
}

/// A back-off schedule, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// The first wait.
    pub delay: f64,
    /// What each further wait is multiplied by.
    pub backoff: f64,
    /// The longest wait.
    pub max_delay: f64,
    /// How the waits are spread.
    pub jitter: Jitter,
}

impl Schedule {
    /// The wait after attempt `number` (from 1) without jitter. However large the number, it never passes the cap.
    #[must_use]
    pub fn whole(&self, number: u64) -> f64 {
        if self.delay <= 0.0 {
            // Nothing grows from nothing; and zero times infinity would be no number.
            return 0.0;
        }
        // Beyond the range of floats lies infinity, which the cap cuts.
        let exponent = number.saturating_sub(1).min(1 << 31) as f64;
        (self.delay * self.backoff.powf(exponent)).min(self.max_delay)
    }

    /// The wait after attempt `number`, where the wait before it was `previous`.
    #[must_use]
    pub fn wait(&self, number: u64, previous: Option<f64>, chance: f64) -> f64 {
        let whole = self.whole(number);
        match self.jitter {
            Jitter::None => whole,
            Jitter::Full => whole * chance,
            Jitter::Equal => whole / 2.0 + whole / 2.0 * chance,
            Jitter::Decorrelated => {
                let most = previous.map_or(self.delay, |previous| previous.max(self.delay)).min(self.max_delay) * 3.0;
                (self.delay + (most - self.delay) * chance).min(self.max_delay)
            }
        }
    }
}

/// A stream of random numbers that needs no lock and is quick to make (`SplitMix64`, Steele, Lea and Flood, 2014).
#[derive(Clone, Copy, Debug)]
pub struct Chance(u64);

impl Chance {
    /// A stream that begins at `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, from 0 (included) to 1 (excluded).
    #[must_use]
    pub fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(jitter: Jitter) -> Schedule {
        Schedule { delay: 0.1, backoff: 2.0, max_delay: 60.0, jitter }
    }

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn waits_double_up_to_the_cap_and_never_overflow() {
        let plain = schedule(Jitter::None);
        for (number, wait) in [(1, 0.1), (2, 0.2), (3, 0.4), (10, 51.2), (11, 60.0), (2000, 60.0), (u64::MAX, 60.0)] {
            assert!(close(plain.wait(number, None, 0.5), wait), "{number}");
        }
        let endless = Schedule { max_delay: f64::INFINITY, ..plain };
        assert!(endless.wait(u64::MAX, None, 0.5).is_infinite());
        let still = Schedule { delay: 0.0, ..endless };
        assert!(close(still.wait(u64::MAX, None, 0.5), 0.0), "zero times infinity is not a number");
    }

    #[test]
    fn a_backoff_of_one_stays() {
        let steady = Schedule { backoff: 1.0, ..schedule(Jitter::None) };
        assert!(close(steady.wait(1_000_000, None, 0.0), 0.1));
    }

    #[test]
    fn full_jitter_is_anything_below_and_equal_jitter_the_upper_half() {
        let (full, equal) = (schedule(Jitter::Full), schedule(Jitter::Equal));
        assert!(close(full.wait(3, None, 0.0), 0.0) && close(full.wait(3, None, 0.5), 0.2));
        assert!(close(equal.wait(3, None, 0.0), 0.2) && close(equal.wait(3, None, 0.5), 0.3));
    }

    #[test]
    fn decorrelated_jitter_goes_by_the_wait_before() {
        let wander = schedule(Jitter::Decorrelated);
        assert!(close(wander.wait(1, None, 0.0), 0.1) && close(wander.wait(1, None, 1.0), 0.3));
        assert!(close(wander.wait(7, Some(1.0), 0.0), 0.1) && close(wander.wait(7, Some(1.0), 0.5), 1.55));
        assert!(close(wander.wait(7, Some(50.0), 1.0), 60.0) && close(wander.wait(7, Some(f64::INFINITY), 1.0), 60.0));
    }

    #[test]
    fn chance_is_spread_evenly() {
        let mut chance = Chance::new(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..100_000 {
            let number = chance.draw();
            assert!((0.0..1.0).contains(&number));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 9")]
            let tenth = (number * 10.0) as usize;
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| (9_500..10_500).contains(count)), "{tenths:?}");
    }
}

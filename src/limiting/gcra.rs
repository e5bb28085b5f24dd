//! The generic cell rate algorithm: a token bucket in one number.
//!
//! The number is the *theoretical arrival time* (ITU-T I.371): the moment at which the bucket will be full again. A bucket
//! that is full has it in the past. Taking `n` tokens moves it on by `n` intervals, and may be done while it is not more than
//! a whole bucket ahead of the clock.

/// Parts of a nanosecond in which moments are counted, so that an interval of 142.857 ns is none of 142. What fits into a
/// number is 36 years.
pub const PARTS: u64 = 16;

/// The longest that filling a bucket may take: nine years.
const LONGEST: f64 = (1_u64 << 62) as f64;

/// A rate and the size of the bucket.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The parts of a nanosecond that one token takes to come back.
    interval: u64,
    /// How many tokens the bucket holds.
    burst: u64,
}

/// What a bucket says of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The tokens are there; taken, the bucket has this number.
    Taken(u64),
    /// They will be there in so many parts of a nanosecond.
    Wait(u64),
}

impl Rate {
    /// `burst` tokens, of which one comes back every `interval` nanoseconds. None where that can't be counted.
    #[must_use]
    pub fn new(interval: f64, burst: u64) -> Option<Self> {
        let parts = (interval * PARTS as f64).round();
        let fits = parts >= 1.0 && parts * burst as f64 <= LONGEST && burst >= 1;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 2**62")]
        fits.then_some(Self { interval: parts as u64, burst })
    }

    /// How many tokens the bucket holds.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// Asks a bucket for at most `burst` tokens.
    #[inline]
    #[must_use]
    pub fn ask(&self, bucket: u64, now: u64, n: u64) -> Answer {
        let taken = bucket.max(now) + n * self.interval;
        let most = now + self.burst * self.interval;
        if taken <= most { Answer::Taken(taken) } else { Answer::Wait(taken - most) }
    }

    /// How many tokens there are.
    #[must_use]
    pub fn remaining(&self, bucket: u64, now: u64) -> u64 {
        let missing = bucket.saturating_sub(now);
        (self.burst * self.interval).saturating_sub(missing) / self.interval
    }

    /// The number of a bucket that has been given tokens back.
    #[must_use]
    pub fn given_back(&self, bucket: u64, n: u64) -> u64 {
        bucket.saturating_sub(n * self.interval)
    }

    /// How long so many tokens take to come back, in parts of a nanosecond.
    #[must_use]
    pub fn time_of(&self, n: u64) -> u64 {
        n.saturating_mul(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000 * PARTS;

    fn rate(interval: f64, burst: u64) -> Rate {
        Rate::new(interval, burst).expect("a rate")
    }

    #[test]
    fn a_full_bucket_gives_a_burst_and_then_one_at_a_time() {
        let rate = rate(1e9, 3);
        let (mut bucket, now) = (0, 100 * SECOND);
        assert_eq!(rate.remaining(bucket, now), 3);
        for left in [2, 1, 0] {
            let Answer::Taken(taken) = rate.ask(bucket, now, 1) else { panic!("there are {left} more") };
            bucket = taken;
            assert_eq!(rate.remaining(bucket, now), left);
        }
        assert_eq!(rate.ask(bucket, now, 1), Answer::Wait(SECOND));
        assert_eq!(rate.ask(bucket, now, 2), Answer::Wait(2 * SECOND));
        assert!(matches!(rate.ask(bucket, now + SECOND, 1), Answer::Taken(_)));
        assert_eq!(rate.ask(bucket, now + SECOND, 2), Answer::Wait(SECOND));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let rate = rate(1e9, 2);
        let now = 50 * SECOND;
        let Answer::Taken(bucket) = rate.ask(0, now, 2) else { panic!("it is full") };
        assert_eq!(rate.remaining(rate.given_back(bucket, 1), now), 1);
        assert_eq!(rate.remaining(rate.given_back(0, 2), now), 2, "a full bucket gets no fuller");
    }

    #[test]
    fn never_more_than_the_rate_and_the_burst_allow() {
        // 7 a microsecond: an interval that is no whole number of nanoseconds.
        let rate = rate(1000.0 / 7.0, 5);
        let (mut bucket, mut given) = (0, 0_u64);
        let start = 1_000_000 * PARTS;
        let end = start + 1_000_000 * PARTS;
        for now in (start..end).step_by(100) {
            if let Answer::Taken(taken) = rate.ask(bucket, now, 1) {
                bucket = taken;
                given += 1;
            }
        }
        assert!((7_000..=7_000 + 6).contains(&given), "{given} in a millisecond");
    }

    #[test]
    fn rates_that_can_t_be_counted_are_none() {
        assert!(Rate::new(0.01, 1).is_none(), "a hundred a nanosecond");
        assert!(Rate::new(f64::INFINITY, 1).is_none());
        assert!(Rate::new(f64::NAN, 1).is_none());
        assert!(Rate::new(1e9, u64::MAX).is_none());
        assert!(Rate::new(1e9, 0).is_none());
        assert!(Rate::new(0.07, 1).is_some());
    }
}

//! What is remembered of ever so many durations in a fixed amount of memory.
//!
//! The histogram is log-linear, as `HdrHistogram` has it: every octave (a doubling of the duration) is cut into 64 buckets
//! of equal width, so a bucket's middle is within 1/128 (0.8 %) of every duration in it. An octave's buckets are
//! allocated when the first duration falls into it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets in an octave, as a power of two.
const PRECISION: u32 = 6;
const BUCKETS: usize = 1 << PRECISION;

/// Durations from here on share the topmost bucket: 2**50 ns are thirteen days. Their exact maximum is kept all the same.
const LIMIT: u64 = 1 << 50;

/// One for the durations below 64 ns, which are kept exactly, and one for each doubling up to the limit.
const OCTAVES: usize = (LIMIT.trailing_zeros() - PRECISION + 1) as usize;

type Octave = [AtomicU64; BUCKETS];

/// Adds to a counter. With `SHARED`, in one step that other threads can't get between; without, the caller promises that
/// nobody else adds at the same time (with Python's interpreter lock held, nobody does), and it costs a third.
#[inline]
fn add<const SHARED: bool>(counter: &AtomicU64, amount: u64) -> u64 {
    if SHARED {
        counter.fetch_add(amount, Ordering::Relaxed)
    } else {
        let before = counter.load(Ordering::Relaxed);
        counter.store(before.wrapping_add(amount), Ordering::Relaxed);
        before
    }
}

/// Durations in nanoseconds: how many, their sum, extremes, spread and distribution, and how many ended in an error.
pub struct Durations {
    octaves: [OnceLock<Box<Octave>>; OCTAVES],
    total: AtomicU64,
    // The sum of squares in 128 bits, so that the standard deviation suffers from no cancellation.
    squares_low: AtomicU64,
    squares_high: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    errors: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            octaves: [const { OnceLock::new() }; OCTAVES],
            total: AtomicU64::new(0),
            squares_low: AtomicU64::new(0),
            squares_high: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }
}

/// The octave and the bucket of a duration.
#[inline]
fn place(duration: u64) -> (usize, usize) {
    let duration = duration.min(LIMIT - 1);
    // The exponent of durations below 64 is taken for 5: octave 0 is linear.
    let exponent = (duration | (BUCKETS as u64 - 1)).ilog2();
    let octave = (exponent + 1 - PRECISION) as usize;
    let shift = exponent.saturating_sub(PRECISION);
    // For octave 0, the shift is 0 and the duration its own bucket.
    (octave, (duration >> shift) as usize & (BUCKETS - 1))
}

/// The bounds of a bucket: from (inclusive) and to (exclusive), in nanoseconds.
fn bounds(octave: usize, bucket: usize) -> (u64, u64) {
    if octave == 0 {
        return (bucket as u64, bucket as u64 + 1);
    }
    let shift = octave - 1;
    let from = (BUCKETS + bucket) as u64;
    (from << shift, (from + 1) << shift)
}

impl Durations {
    /// Records one duration.
    #[inline]
    pub fn record<const SHARED: bool>(&self, duration: u64, failed: bool) {
        let (octave, bucket) = place(duration);
        let octave = self.octaves[octave].get_or_init(new_octave);
        add::<SHARED>(&octave[bucket], 1);
        add::<SHARED>(&self.total, duration);
        self.add_squares::<SHARED>(u128::from(duration) * u128::from(duration));
        // Looking first is much cheaper than a read-modify-write, and a new extreme is rare.
        if duration < self.min.load(Ordering::Relaxed) {
            self.min.fetch_min(duration, Ordering::Relaxed);
        }
        if duration > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(duration, Ordering::Relaxed);
        }
        if failed {
            add::<SHARED>(&self.errors, 1);
        }
    }

    /// What has been recorded up to now.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut buckets = Vec::new();
        let mut count = 0;
        for (number, octave) in self.octaves.iter().enumerate() {
            let Some(octave) = octave.get() else { continue };
            for (bucket, counter) in octave.iter().enumerate() {
                let here = counter.load(Ordering::Relaxed);
                if here != 0 {
                    count += here;
                    buckets.push((bounds(number, bucket), here));
                }
            }
        }
        let low = u128::from(self.squares_low.load(Ordering::Relaxed));
        let high = u128::from(self.squares_high.load(Ordering::Relaxed));
        Summary {
            count,
            errors: self.errors.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            squares: high << 64 | low,
            min: self.min.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
            buckets,
        }
    }

    /// Whether nothing has been recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Durations of zero leave their trace in the first bucket alone.
        let zeros = self.octaves[0].get().map_or(0, |octave| octave[0].load(Ordering::Relaxed));
        zeros == 0 && self.total.load(Ordering::Relaxed) == 0
    }

    /// What has been recorded, as it travels. With `take` it is forgotten here: then each run is in one such copy and no
    /// other, whoever records meanwhile.
    #[must_use]
    pub fn copied(&self, take: bool) -> Recorded {
        let read = |counter: &AtomicU64, empty: u64| {
            if take { counter.swap(empty, Ordering::Relaxed) } else { counter.load(Ordering::Relaxed) }
        };
        let mut buckets = Vec::new();
        for (index, counter) in self.octaves.iter().enumerate().flat_map(|(number, octave)| {
            let counters = octave.get().into_iter().flat_map(|octave| octave.iter().enumerate());
            counters.map(move |(bucket, counter)| (number * BUCKETS + bucket, counter))
        }) {
            if counter.load(Ordering::Relaxed) != 0 {
                buckets.push((u16::try_from(index).unwrap_or(u16::MAX), read(counter, 0)));
            }
        }
        let low = u128::from(read(&self.squares_low, 0));
        Recorded {
            total: read(&self.total, 0),
            squares: u128::from(read(&self.squares_high, 0)) << 64 | low,
            min: read(&self.min, u64::MAX),
            max: read(&self.max, 0),
            errors: read(&self.errors, 0),
            buckets,
        }
    }

    /// Adds what has been recorded elsewhere; false, and nothing done, where there are no such buckets.
    #[must_use]
    pub fn add<const SHARED: bool>(&self, recorded: &Recorded) -> bool {
        if recorded.buckets.iter().any(|(index, _)| usize::from(*index) >= OCTAVES * BUCKETS) {
            return false;
        }
        for (index, count) in &recorded.buckets {
            let (octave, bucket) = (usize::from(*index) / BUCKETS, usize::from(*index) % BUCKETS);
            add::<SHARED>(&self.octaves[octave].get_or_init(new_octave)[bucket], *count);
        }
        add::<SHARED>(&self.total, recorded.total);
        self.add_squares::<SHARED>(recorded.squares);
        self.min.fetch_min(recorded.min, Ordering::Relaxed);
        self.max.fetch_max(recorded.max, Ordering::Relaxed);
        add::<SHARED>(&self.errors, recorded.errors);
        true
    }

    #[inline]
    fn add_squares<const SHARED: bool>(&self, squares: u128) {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a number")]
        let (low, high) = (squares as u64, (squares >> 64) as u64);
        let carry = u64::from(add::<SHARED>(&self.squares_low, low).checked_add(low).is_none());
        if high + carry != 0 {
            add::<SHARED>(&self.squares_high, high + carry);
        }
    }

    /// Forgets everything, but keeps the memory.
    pub fn reset(&self) {
        for counter in self.octaves.iter().filter_map(OnceLock::get).flat_map(|octave| octave.iter()) {
            counter.store(0, Ordering::Relaxed);
        }
        for counter in [&self.total, &self.squares_low, &self.squares_high, &self.max, &self.errors] {
            counter.store(0, Ordering::Relaxed);
        }
        self.min.store(u64::MAX, Ordering::Relaxed);
    }

    /// The memory that it takes now, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.octaves.iter().filter_map(OnceLock::get).count() * size_of::<Octave>()
    }
}

#[cold]
fn new_octave() -> Box<Octave> {
    Box::new([const { AtomicU64::new(0) }; BUCKETS])
}

/// What [`Durations`] have recorded, as it travels to others of their kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The sum of all durations.
    pub total: u64,
    /// The sum of their squares.
    pub squares: u128,
    /// The shortest; `u64::MAX` where there is none.
    pub min: u64,
    /// The longest.
    pub max: u64,
    /// How many ended in an error.
    pub errors: u64,
    /// The buckets that are not empty, by number, and how many durations fell into each.
    pub buckets: Vec<(u16, u64)>,
}

/// A bucket's bounds, from (inclusive) and to (exclusive), and how many durations fell into it.
pub type Bucket = ((u64, u64), u64);

/// The state of [`Durations`] at one moment, in nanoseconds.
pub struct Summary {
    /// How many durations.
    pub count: u64,
    /// How many of them ended in an error.
    pub errors: u64,
    /// Their sum.
    pub total: u64,
    /// The sum of their squares.
    pub squares: u128,
    /// The shortest; `u64::MAX` where there is none.
    pub min: u64,
    /// The longest.
    pub max: u64,
    /// The buckets that are not empty, in ascending order.
    pub buckets: Vec<Bucket>,
}

impl Summary {
    /// The mean; zero where there is none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.total as f64 / self.count as f64 }
    }

    /// The standard deviation of the sample (with `count - 1`); zero below two durations.
    #[must_use]
    pub fn stdev(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let (total, count) = (u128::from(self.total), u128::from(self.count));
        // The sum of squares less the square of the sum over the count: in integers as far as they go.
        let (whole, rest) = (total * total / count, total * total % count);
        let spread = self.squares.saturating_sub(whole) as f64 - rest as f64 / count as f64;
        (spread.max(0.0) / (self.count - 1) as f64).sqrt()
    }

    /// The duration that a share `q` (0 to 1) of all durations does not exceed, within 0.8 %: by nearest rank.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank between 0 and the count, in a float because the share is one"
    )]
    pub fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for ((from, to), here) in &self.buckets {
            seen += here;
            if seen >= rank {
                // The middle of the integers from..to.
                let middle = (*from + *to - 1) as f64 / 2.0;
                return middle.clamp(self.min as f64, self.max as f64);
            }
        }
        if self.count == 0 { 0.0 } else { self.max as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: impl IntoIterator<Item = u64>) -> Durations {
        let recorded = Durations::default();
        for duration in durations {
            recorded.record::<false>(duration, false);
        }
        recorded
    }

    #[test]
    fn buckets_tile_the_line() {
        let mut expected = 0;
        for octave in 0..OCTAVES {
            for bucket in 0..BUCKETS {
                let (from, to) = bounds(octave, bucket);
                assert_eq!(from, expected);
                assert_eq!(place(from), (octave, bucket));
                assert_eq!(place(to - 1), (octave, bucket));
                expected = to;
            }
        }
        assert_eq!(expected, LIMIT);
    }

    #[test]
    fn what_exceeds_the_limit_shares_the_last_bucket_and_keeps_its_maximum() {
        let recorded = of([LIMIT, u64::MAX / 4]);
        let summary = recorded.summary();
        assert_eq!(summary.count, 2);
        assert_eq!(summary.buckets.len(), 1);
        assert_eq!(summary.max, u64::MAX / 4);
    }

    #[test]
    fn quantiles_are_within_one_percent() {
        // A multiplicative walk through many octaves, and exact ranks beside it.
        let mut durations: Vec<u64> = Vec::new();
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            durations.push((state >> 33) >> (state % 30));
        }
        let summary = of(durations.iter().copied()).summary();
        durations.sort_unstable();
        for (q, rank) in [(0.001, 20), (0.01, 200), (0.5, 10_000), (0.9, 18_000), (0.99, 19_800), (0.999, 19_980)] {
            let exact = durations[rank - 1] as f64;
            let close = summary.quantile(q);
            assert!((close - exact).abs() <= 0.01 * exact, "{q}: {close} for {exact}");
        }
        assert!(
            (summary.quantile(1.0) - *durations.last().expect("not empty") as f64).abs() < 0.01 * summary.max as f64
        );
    }

    #[test]
    fn moments_are_exact() {
        let summary = of([1, 2, 3, 4]).summary();
        assert_eq!((summary.count, summary.total, summary.min, summary.max), (4, 10, 1, 4));
        assert!((summary.mean() - 2.5).abs() < 1e-12);
        assert!((summary.stdev() - (5.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        // Long and nearly equal: a sum of squares in floats would lose the difference.
        let day = 86_400_000_000_000;
        let summary = of([day, day + 2, day + 4]).summary();
        assert!((summary.stdev() - 2.0).abs() < 1e-6, "{}", summary.stdev());
        assert!(of([7]).summary().stdev().abs() < f64::EPSILON);
        assert!(Durations::default().summary().quantile(0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_recorded_in_two_places_adds_up() {
        let (here, there) = (of([0, 7, 1 << 40]), of([3, 1 << 45, u64::MAX >> 1]));
        there.record::<false>(9, true);
        let all = of([0, 7, 1 << 40, 3, 1 << 45, u64::MAX >> 1]);
        all.record::<false>(9, true);
        let copy = there.copied(false);
        assert_eq!(copy, there.copied(true));
        assert!(there.is_empty() && !here.is_empty());
        assert_eq!(there.copied(true), Durations::default().copied(false));
        assert!(here.add::<false>(&copy));
        assert_eq!(here.copied(false), all.copied(false));
        let nowhere = Recorded { buckets: vec![(u16::MAX, 1)], ..copy };
        assert!(!here.add::<false>(&nowhere));
        assert_eq!(here.copied(false), all.copied(false));
    }

    #[test]
    fn memory_stays_within_24_kib_whatever_comes() {
        let recorded = Durations::default();
        let empty = recorded.size();
        recorded.record::<false>(1_000, false);
        assert_eq!(recorded.size() - empty, size_of::<Octave>());
        for shift in 0..64 {
            recorded.record::<false>(1 << shift, true);
        }
        assert!(recorded.size() <= 24 * 1024, "{}", recorded.size());
        let size = recorded.size();
        recorded.reset();
        assert_eq!((recorded.summary().count, recorded.summary().errors, recorded.size()), (0, 0, size));
    }

    #[test]
    fn threads_lose_nothing() {
        let recorded = Durations::default();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let recorded = &recorded;
                scope.spawn(move || {
                    for round in 0..50_000 {
                        recorded.record::<true>((u64::MAX >> 14) + thread + round, round % 10 == 0);
                    }
                });
            }
        });
        let summary = recorded.summary();
        assert_eq!((summary.count, summary.errors), (200_000, 20_000));
        let exact: u128 = (0..4_u128)
            .flat_map(|thread| (0..50_000_u128).map(move |round| (u128::from(u64::MAX >> 14) + thread + round).pow(2)))
            .sum();
        assert_eq!(summary.squares, exact);
    }
}

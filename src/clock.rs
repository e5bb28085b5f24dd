//! Monotonic clocks: a precise one, a coarse one, and the manual one that tests turn.
//!
//! All of them count nanoseconds, from a start that means nothing. While a manual clock is in use, it is the time that
//! every reading gives, precise and coarse alike.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The manual clock's time, or [`REAL`] while the real clocks are read.
static MANUAL: AtomicU64 = AtomicU64::new(REAL);
const REAL: u64 = u64::MAX;

/// The time-stamp counter with its calibration, and its reading when the program started.
static PRECISE: LazyLock<(quanta::Clock, u64)> = LazyLock::new(|| {
    let clock = quanta::Clock::new();
    let start = clock.raw();
    (clock, start)
});

static COARSE_START: LazyLock<coarsetime::Instant> = LazyLock::new(coarsetime::Instant::now);

/// Nanoseconds per second.
pub const SECOND: u64 = 1_000_000_000;

/// Calibrates the precise clock now, rather than in the first measurement. Takes less than a millisecond.
pub fn calibrate() {
    LazyLock::force(&PRECISE);
    LazyLock::force(&COARSE_START);
}

/// The time in nanoseconds, from the time-stamp counter where the processor has one that can be trusted.
#[inline]
#[must_use]
pub fn precise() -> u64 {
    let manual = MANUAL.load(Ordering::Relaxed);
    if manual != REAL {
        return manual;
    }
    let (clock, start) = &*PRECISE;
    clock.delta_as_nanos(*start, clock.raw())
}

/// The time in nanoseconds, as of the operating system's last tick: up to 4 ms behind on Linux, and cheaper to read.
#[inline]
#[must_use]
pub fn coarse() -> u64 {
    let manual = MANUAL.load(Ordering::Relaxed);
    if manual != REAL {
        return manual;
    }
    coarsetime::Instant::now().duration_since(*COARSE_START).as_nanos()
}

/// Whether a manual clock is in use.
#[inline]
#[must_use]
pub fn is_manual() -> bool {
    MANUAL.load(Ordering::Relaxed) != REAL
}

/// Puts the manual clock in the place of the real ones, starting at their time. False where one is in use already.
#[must_use]
pub fn start_manual() -> bool {
    let now = precise();
    MANUAL.compare_exchange(REAL, now, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Turns the manual clock on by so many nanoseconds. False where none is in use.
#[must_use]
pub fn advance_manual(nanoseconds: u64) -> bool {
    MANUAL
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
            // The last reading before `REAL` is 584 years away.
            (now != REAL).then(|| now.saturating_add(nanoseconds).min(REAL - 1))
        })
        .is_ok()
}

/// Puts the real clocks back.
pub fn stop_manual() {
    MANUAL.store(REAL, Ordering::SeqCst);
}

/// The clocks as Python sees them.
#[cfg(feature = "python")]
pub mod binding {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use pyo3::exceptions::{PyOverflowError, PyTypeError};
    use pyo3::prelude::*;
    use pyo3::types::{PyBool, PyDelta, PyFloat, PyInt};

    use super::{SECOND, advance_manual, coarse, precise, start_manual, stop_manual};
    use crate::errors::Error;
    use crate::guarding::Guarded;

    /// What has to hear of every turn of the manual clock: waits with a deadline.
    type Alarm = Box<dyn Fn(Python<'_>) + Send + Sync>;

    struct Alarms {
        next: u64,
        set: Vec<(u64, std::sync::Arc<Alarm>)>,
    }

    static ALARMS: Guarded<Alarms> = Guarded::new(Alarms { next: 0, set: Vec::new() });

    /// Calls `alarm` after every turn of the manual clock, and when the real clocks return, until it is unset.
    pub fn set_alarm(py: Python<'_>, alarm: Alarm) -> u64 {
        ALARMS.with(py, |alarms, _| {
            alarms.next += 1;
            alarms.set.push((alarms.next, std::sync::Arc::new(alarm)));
            alarms.next
        })
    }

    /// Forgets an alarm; whether it was set.
    pub fn unset_alarm(py: Python<'_>, number: u64) -> bool {
        // What the alarm holds is released outside of the cell.
        let alarm = ALARMS.with(py, |alarms, _| {
            let place = alarms.set.iter().position(|(each, _)| *each == number)?;
            Some(alarms.set.swap_remove(place))
        });
        alarm.is_some()
    }

    fn ring_alarms(py: Python<'_>) {
        let alarms: Vec<_> = ALARMS.with(py, |alarms, _| alarms.set.iter().map(|(_, alarm)| alarm.clone()).collect());
        for alarm in alarms {
            alarm(py);
        }
    }

    /// Forgets all alarms: in a forked child, those who set them are gone.
    pub fn forget_alarms(py: Python<'_>) {
        let gone = ALARMS.with(py, |alarms, _| std::mem::take(&mut alarms.set));
        drop(gone);
    }

    /// A number of seconds or a `timedelta`, not negative, as nanoseconds. `None` stands for longer than 584 years.
    pub fn nanoseconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
        const EXPECTED: &str = "seconds (int or float) or a timedelta";
        const POSITIVE: &str = "a number of seconds that is not negative";
        let py = value.py();
        if value.is_instance_of::<PyBool>() {
            return Err(Error::wrong_type(name, EXPECTED, value).into());
        }
        // Numbers first: to ask for a timedelta is to import `datetime`, and a thread that is about to wait should not be
        // in the middle of an import when the interpreter goes.
        let is_number = value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyInt>();
        if !is_number && value.is_instance_of::<PyDelta>() {
            let duration = value
                .extract::<Duration>()
                .map_err(|_| Error::wrong_value(name, "a timedelta that is not negative", value))?;
            return Ok(u64::try_from(duration.as_nanos()).ok());
        }
        let seconds: f64 = match value.extract() {
            Ok(seconds) => seconds,
            Err(error) if error.is_instance_of::<PyTypeError>(py) => {
                return Err(Error::wrong_type(name, EXPECTED, value).into());
            }
            // An integer beyond the floats: a very long time, in whichever direction.
            Err(error) if error.is_instance_of::<PyOverflowError>(py) && value.lt(0)? => f64::NEG_INFINITY,
            Err(error) if error.is_instance_of::<PyOverflowError>(py) => f64::INFINITY,
            Err(error) => return Err(error),
        };
        if seconds.is_nan() || seconds < 0.0 {
            return Err(Error::wrong_value(name, POSITIVE, value).into());
        }
        // Through Duration, which rounds to the nearest nanosecond and knows what doesn't fit.
        Ok(Duration::try_from_secs_f64(seconds).ok().and_then(|duration| u64::try_from(duration.as_nanos()).ok()))
    }

    /// The same for an argument that may be left out, which is as good as one that is longer than 584 years.
    pub fn optional_nanoseconds(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
        value.map_or(Ok(None), |value| nanoseconds(name, value))
    }

    /// The argument `name` as a float of seconds: a number or a `timedelta`, not negative.
    #[pyfunction]
    #[pyo3(signature = (name, value, /))]
    pub fn seconds_from(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
        Ok(nanoseconds(name, value)?.map_or(f64::INFINITY, |nanoseconds| nanoseconds as f64 / SECOND as f64))
    }

    /// The precise clock's reading in nanoseconds, from a start that means nothing.
    #[pyfunction]
    #[must_use]
    pub fn precise_ns() -> u64 {
        precise()
    }

    /// The coarse clock's reading in nanoseconds: up to 4 ms old.
    #[pyfunction]
    #[must_use]
    pub fn coarse_ns() -> u64 {
        coarse()
    }

    /// The clock that tests turn by hand; see `ferrule.testing.manual_clock`.
    #[pyclass(frozen, immutable_type, module = "ferrule._core")]
    #[derive(Default)]
    pub struct ManualClock {
        running: AtomicBool,
    }

    #[pymethods]
    impl ManualClock {
        #[new]
        fn new() -> Self {
            Self::default()
        }

        /// Takes the place of the real clocks.
        fn start(&self) -> PyResult<()> {
            if !start_manual() {
                return Err(Error::State("a manual clock is in use already; turn that one").into());
            }
            self.running.store(true, Ordering::SeqCst);
            Ok(())
        }

        /// Gives the real clocks their place back.
        fn stop(&self, py: Python<'_>) {
            if self.running.swap(false, Ordering::SeqCst) {
                stop_manual();
                ring_alarms(py);
            }
        }

        /// Turns the clock on by so many seconds (or a `timedelta`) and wakes every wait whose time has come.
        #[pyo3(signature = (seconds, /))]
        fn advance(&self, py: Python<'_>, seconds: &Bound<'_, PyAny>) -> PyResult<()> {
            let by = nanoseconds("seconds", seconds)?
                .ok_or_else(|| Error::wrong_value("seconds", "less than 584 years", seconds))?;
            if !self.running.load(Ordering::SeqCst) || !advance_manual(by) {
                return Err(Error::State("the manual clock is not in use: enter its `with` block first").into());
            }
            ring_alarms(py);
            Ok(())
        }

        /// The clock's reading in seconds, from a start that means nothing.
        fn time(&self) -> f64 {
            let _ = self;
            precise() as f64 / SECOND as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use super::*;

    // The manual clock is one for the process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    #[test]
    fn precise_goes_forward_at_the_pace_of_the_standard_clock() {
        let _one = ONE_AT_A_TIME.lock();
        let (standard, ours) = (Instant::now(), precise());
        std::thread::sleep(Duration::from_millis(50));
        let ours = precise() - ours;
        let standard = u64::try_from(standard.elapsed().as_nanos()).expect("a short test");
        assert!(ours <= standard + 1_000_000 && standard <= ours + 1_000_000, "{ours} against {standard}");
    }

    #[test]
    fn coarse_is_at_most_some_ticks_behind() {
        let _one = ONE_AT_A_TIME.lock();
        let (before, precise_before) = (coarse(), precise());
        std::thread::sleep(Duration::from_millis(50));
        let (coarse, precise) = (coarse() - before, precise() - precise_before);
        assert!(coarse.abs_diff(precise) < 20_000_000, "{coarse} against {precise}");
    }

    #[test]
    fn manual_replaces_both_and_goes_only_where_it_is_turned() {
        let _one = ONE_AT_A_TIME.lock();
        assert!(!advance_manual(1), "nothing to turn");
        let before = precise();
        assert!(start_manual());
        assert!(!start_manual(), "there is one already");
        let start = precise();
        assert!(start >= before);
        assert_eq!(coarse(), start);
        assert!(advance_manual(30 * SECOND));
        assert_eq!(precise() - start, 30 * SECOND);
        assert!(advance_manual(u64::MAX), "the end of time is reached, not passed");
        assert!(is_manual());
        stop_manual();
        assert!(!is_manual());
        assert!(precise() < start + SECOND);
    }
}

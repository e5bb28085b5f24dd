//! Retrying as Python sees it.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::budget::Budget;
use super::schedule::{Chance, Jitter, Schedule};
use crate::clock::{SECOND, binding::nanoseconds, precise};
use crate::errors::Error;
use crate::guarding::{self, Guarded, Made, interned};
use crate::lifecycle;

thread_local! {
    /// This thread's random numbers, and the process that they were made for, as the number of forks before: parent and
    /// child must not wait alike.
    static CHANCE: Cell<Option<(u64, Chance)>> = const { Cell::new(None) };
}

/// A random number from 0 (included) to 1 (excluded).
fn chance() -> f64 {
    CHANCE.with(|cell| {
        let generation = lifecycle::generation();
        let mut stream = match cell.get() {
            Some((made_for, stream)) if made_for == generation => stream,
            _ => {
                // The operating system's randomness, which a forked child has inherited, and what the child alone has.
                let mut seed = RandomState::new().build_hasher();
                seed.write_u32(std::process::id());
                seed.write_u64(precise());
                Chance::new(seed.finish())
            }
        };
        let number = stream.next();
        cell.set(Some((generation, stream)));
        number
    })
}

/// What a policy says, checked by the face and complete.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Plan {
    /// Exception classes.
    on: Py<PyTuple>,
    retry_if: Option<Py<PyAny>>,
    max_attempts: u64,
    schedule: Schedule,
    /// Called with the number and the error instead of the schedule.
    delay: Option<Py<PyAny>>,
    timeout: Option<u64>,
    retry_result: Option<Py<PyAny>>,
    budget: Option<Py<RetryBudget>>,
    stop_event: Option<Py<PyAny>>,
    on_retry: Option<Py<PyAny>>,
    on_give_up: Option<Py<PyAny>>,
}

impl Plan {
    /// What a callable says the delay is: seconds, a `timedelta`, or the moment as a `datetime`; the past is no delay.
    fn asked_delay<'py>(
        &self,
        py: Python<'py>,
        ask: &Py<PyAny>,
        number: u64,
        error: &Bound<'py, PyAny>,
    ) -> PyResult<f64> {
        static SECONDS_OF: Made<Py<PyAny>> = Made::new();
        let number = number.into_pyobject(py)?.into_any();
        let said = guarding::call(ask.bind(py), &[&number, error])?;
        let seconds = SECONDS_OF.import(py, "ferrule.retrying", "_seconds_said")?;
        let seconds: f64 = guarding::call(seconds, &[&said])?.extract()?;
        Ok(seconds.min(self.schedule.max_delay))
    }

    /// The wait after attempt `number`, in seconds.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        number: u64,
        error: Option<&Bound<'py, PyAny>>,
        previous: Option<f64>,
    ) -> PyResult<f64> {
        match &self.delay {
            Some(ask) => self.asked_delay(py, ask, number, &error.map_or_else(|| py.None().into_bound(py), Bound::clone)),
            None => Ok(self.schedule.wait(number, previous, chance())),
        }
    }
}

#[pymethods]
impl Plan {
    #[new]
    #[pyo3(signature = (*, on, retry_if, max_attempts, delay, delay_by, backoff, max_delay, jitter, timeout,
        retry_result, budget, stop_event, on_retry, on_give_up))]
    #[expect(clippy::too_many_arguments, reason = "the face hands them over, checked and complete")]
    fn new(
        on: Py<PyTuple>,
        retry_if: Option<Py<PyAny>>,
        max_attempts: Option<u64>,
        delay: f64,
        delay_by: Option<Py<PyAny>>,
        backoff: f64,
        max_delay: f64,
        jitter: Option<&str>,
        timeout: Option<&Bound<'_, PyAny>>,
        retry_result: Option<Py<PyAny>>,
        budget: Option<Py<RetryBudget>>,
        stop_event: Option<Py<PyAny>>,
        on_retry: Option<Py<PyAny>>,
        on_give_up: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let jitter = match jitter {
            Some("full") => Jitter::Full,
            Some("equal") => Jitter::Equal,
            Some("decorrelated") => Jitter::Decorrelated,
            _ => Jitter::None,
        };
        Ok(Self {
            on,
            retry_if,
            max_attempts: max_attempts.unwrap_or(u64::MAX),
            schedule: Schedule { delay, backoff, max_delay, jitter },
            delay: delay_by,
            timeout: timeout.map(|timeout| nanoseconds("timeout", timeout)).transpose()?.flatten(),
            retry_result,
            budget,
            stop_event,
            on_retry,
            on_give_up,
        })
    }

    /// The seconds to wait after attempt `number` has failed.
    #[pyo3(signature = (number, error=None, previous=None, /))]
    fn next_delay<'py>(
        &self,
        py: Python<'py>,
        number: u64,
        error: Option<&Bound<'py, PyAny>>,
        previous: Option<f64>,
    ) -> PyResult<f64> {
        self.wait(py, number, error, previous)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.on)?;
        visit.call(&self.budget)?;
        let others = [&self.retry_if, &self.delay, &self.retry_result, &self.stop_event];
        others.into_iter().chain([&self.on_retry, &self.on_give_up]).try_for_each(|object| visit.call(object))
    }
}

/// How many retries many functions may make together.
#[pyclass(subclass, frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct RetryBudget {
    ratio: f64,
    min_per_second: f64,
    budget: Guarded<Budget>,
}

impl RetryBudget {
    fn deposit(&self, py: Python<'_>) {
        self.budget.peek(py, |budget| budget.deposit(precise() / SECOND));
    }

    fn withdraw(&self, py: Python<'_>) -> bool {
        self.budget.peek(py, |budget| budget.withdraw(precise() / SECOND, self.ratio, self.min_per_second))
    }
}

#[pymethods]
impl RetryBudget {
    #[new]
    #[pyo3(signature = (*, ratio, min_per_second))]
    fn new(ratio: f64, min_per_second: f64) -> Self {
        Self { ratio, min_per_second, budget: Guarded::default() }
    }

    /// Retries for each call.
    #[getter]
    fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Retries a second that are free.
    #[getter]
    fn min_per_second(&self) -> f64 {
        self.min_per_second
    }

    /// How many retries may begin now.
    #[getter]
    fn balance(&self, py: Python<'_>) -> f64 {
        self.budget.peek(py, |budget| budget.balance(precise() / SECOND, self.ratio, self.min_per_second)).max(0.0)
    }
}

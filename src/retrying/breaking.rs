//! The circuit breaker as Python sees it.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::circuit::{Breaker, End, Permit, Rules, State};
use crate::callable::{Call, Failure, Native, Outcome, Wrapper, calling_frame, this_thread};
use crate::clock::{SECOND, binding::nanoseconds, precise};
use crate::guarding::{Guarded, Made};
use crate::waiting::Ready;

/// A block that tries a half-open breaker.
struct Trial {
    permit: Permit,
    /// Held, so that its address is no other frame's while the block runs.
    frame: Option<Py<PyAny>>,
    thread: usize,
}

#[derive(Default)]
struct Shared {
    breaker: Breaker,
    /// The blocks that try: at most as many as may.
    trials: Vec<Trial>,
}

/// The native half of `ferrule.CircuitBreaker`.
#[pyclass(subclass, frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Circuit {
    rules: Rules,
    on: Py<PyTuple>,
    /// The number of the closed period, to be read without opening the cell; 0 while the breaker isn't closed.
    closed: AtomicU64,
    shared: Guarded<Shared>,
}

impl Circuit {
    /// Does something with the breaker and keeps the number of the closed period in step.
    fn with<R>(&self, py: Python<'_>, body: impl FnOnce(&mut Shared) -> R) -> R {
        self.shared.peek(py, |shared| {
            let result = body(shared);
            self.closed.store(shared.breaker.closed_epoch().unwrap_or(0), Ordering::Release);
            result
        })
    }

    #[inline]
    fn admit(&self, py: Python<'_>) -> PyResult<Permit> {
        match self.closed.load(Ordering::Acquire) {
            0 => self
                .with(py, |shared| shared.breaker.admit(precise(), &self.rules))
                .map_err(|wait| Self::open(py, wait).unwrap_or_else(|error| error)),
            epoch => Ok(Permit::closed(epoch)),
        }
    }

    #[cold]
    fn open(py: Python<'_>, wait: u64) -> PyResult<PyErr> {
        static CIRCUIT_OPEN: Made<Py<PyAny>> = Made::new();
        let class = CIRCUIT_OPEN.import(py, "ferrule._errors", "CircuitOpen")?;
        Ok(PyErr::from_value(class.call1((wait as f64 / SECOND as f64,))?))
    }

    fn end_of(&self, py: Python<'_>, error: Option<&PyErr>) -> End {
        match error {
            None => End::Success,
            Some(error) if error.matches(py, self.on.bind(py)).unwrap_or(true) => End::Failure,
            // The service has answered, if not what was hoped for.
            Some(error) if error.is_instance_of::<PyException>(py) => End::Success,
            Some(_) => End::Neither,
        }
    }

    fn enter(&self, py: Python<'_>) -> PyResult<()> {
        let permit = self.admit(py)?;
        if permit.is_trial() {
            let trial = Trial { permit, frame: calling_frame(py).map(Bound::unbind), thread: this_thread() };
            let before = self.with(py, |shared| {
                shared.trials.push(trial);
                // Those that never end have been replaced by others.
                let most = usize::try_from(self.rules.trials).unwrap_or(usize::MAX);
                (shared.trials.len() > most).then(|| shared.trials.remove(0))
            });
            Python::attach(|_| drop(before));
        }
        Ok(())
    }

    fn leave(&self, py: Python<'_>, error: Option<&Bound<'_, PyAny>>) {
        let error = error.map(|error| PyErr::from_value(error.clone()));
        let end = self.end_of(py, error.as_ref());
        let (frame, thread) = (calling_frame(py), this_thread());
        let trial = self.with(py, |shared| {
            let here = |trial: &Trial| match (&trial.frame, &frame) {
                (Some(entered), Some(frame)) => entered.is(frame),
                (None, None) => trial.thread == thread,
                _ => false,
            };
            let place = shared.trials.iter().rposition(here)?;
            Some(shared.trials.remove(place))
        });
        let permit = match &trial {
            Some(trial) => trial.permit,
            // It was entered while the breaker was closed: it counts while it is, still or again.
            None => Permit::closed(self.closed.load(Ordering::Acquire)),
        };
        Python::attach(|_| drop(trial));
        self.settle(py, permit, end);
    }

    fn settle(&self, py: Python<'_>, permit: Permit, end: End) {
        // A breaker that is closed takes no note of successes.
        if permit.is_trial() || end == End::Failure {
            self.with(py, |shared| shared.breaker.settle(precise(), &self.rules, permit, end));
        }
    }
}

#[pymethods]
impl Circuit {
    #[new]
    #[pyo3(signature = (*, failure_threshold, window, recovery_timeout, half_open_calls, on))]
    fn new(
        failure_threshold: usize,
        window: &Bound<'_, PyAny>,
        recovery_timeout: &Bound<'_, PyAny>,
        half_open_calls: u32,
        on: Py<PyTuple>,
    ) -> PyResult<Self> {
        let rules = Rules {
            threshold: failure_threshold,
            window: nanoseconds("window", window)?.unwrap_or(u64::MAX),
            recovery: nanoseconds("recovery_timeout", recovery_timeout)?.unwrap_or(u64::MAX),
            trials: half_open_calls,
        };
        let shared = Shared::default();
        let closed = AtomicU64::new(shared.breaker.closed_epoch().unwrap_or(0));
        Ok(Self { rules, on, closed, shared: Guarded::new(shared) })
    }

    /// "closed", "open" or "half-open".
    #[getter]
    fn state(&self, py: Python<'_>) -> &'static str {
        match self.shared.peek(py, |shared| shared.breaker.state(precise())) {
            State::Closed => "closed",
            State::Open(_) => "open",
            State::HalfOpen { .. } => "half-open",
        }
    }

    /// Closes the breaker and forgets the failures.
    fn reset(&self, py: Python<'_>) {
        self.with(py, |shared| shared.breaker.reset());
    }

    /// Lets a block through, or raises `CircuitOpen`.
    fn __enter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        this.get().enter(this.py())?;
        Ok(this.clone())
    }

    /// Takes note of what became of a block.
    fn __exit__(
        &self,
        py: Python<'_>,
        class: &Bound<'_, PyAny>,
        error: Option<&Bound<'_, PyAny>>,
        traceback: &Bound<'_, PyAny>,
    ) {
        let _ = (class, traceback);
        self.leave(py, error);
    }

    // Called in the frame of the `async with`, before it awaits.
    fn __aenter__(this: &Bound<'_, Self>) -> PyResult<Ready> {
        this.get().enter(this.py())?;
        Ok(Ready::new(this.clone().into_any().unbind()))
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        class: &Bound<'_, PyAny>,
        error: Option<&Bound<'_, PyAny>>,
        traceback: &Bound<'_, PyAny>,
    ) -> Ready {
        let _ = (class, traceback);
        self.leave(py, error);
        Ready::new(py.None())
    }

    /// A permit for one call of a coroutine function, or `CircuitOpen`.
    fn permit(this: &Bound<'_, Self>) -> PyResult<CallPermit> {
        let permit = this.get().admit(this.py())?;
        Ok(CallPermit { circuit: this.clone().unbind(), permit: Guarded::new(Some(permit)) })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.on)?;
        self.shared.traverse(|shared| shared.trials.iter().try_for_each(|trial| visit.call(&trial.frame)))
    }
}

/// Lets one call of a coroutine function through. Dropped without a word, it gives its place back.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct CallPermit {
    circuit: Py<Circuit>,
    permit: Guarded<Option<Permit>>,
}

impl CallPermit {
    fn end(&self, py: Python<'_>, end: End) {
        if let Some(permit) = self.permit.peek(py, Option::take) {
            self.circuit.get().settle(py, permit, end);
        }
    }
}

#[pymethods]
impl CallPermit {
    /// The call has returned.
    fn succeeded(&self, py: Python<'_>) {
        self.end(py, End::Success);
    }

    /// The call has raised.
    #[pyo3(signature = (error, /))]
    fn failed(&self, py: Python<'_>, error: &Bound<'_, PyAny>) {
        let error = PyErr::from_value(error.clone());
        self.end(py, self.circuit.get().end_of(py, Some(&error)));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.circuit)
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        Python::attach(|py| self.end(py, End::Neither));
    }
}

/// A function that a breaker stands before.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct BreakerFunction {
    circuit: Py<Circuit>,
}

#[pymethods]
impl BreakerFunction {
    #[new]
    #[pyo3(signature = (function, circuit, /))]
    fn new<'py>(function: &Bound<'py, PyAny>, circuit: Py<Circuit>) -> PyResult<Bound<'py, Self>> {
        Wrapper::wrap(function, Self { circuit })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.circuit)
    }
}

impl Native for BreakerFunction {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        let py = this.py();
        let circuit = this.get().circuit.get();
        let permit = circuit.admit(py)?;
        let result = call.forward(this.as_super().get().function(py));
        match result {
            Ok(value) => {
                circuit.settle(py, permit, End::Success);
                Ok(value)
            }
            // Attached by PyO3's own count, so that what is dropped on the way is released at once.
            Err(raised) => Python::attach(|py| {
                let error = raised.fetch(py);
                circuit.settle(py, permit, circuit.end_of(py, Some(&error)));
                Err(Failure::from(error))
            }),
        }
    }
}

//! What the tests and the benchmarks hold against the ground floor: the barest wrapper, one that panics, and a guarded cell
//! to which a test does what no room may do.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::callable::{Call, Native, Outcome, Wrapper};
use crate::guarding::{Guarded, call_method, interned, release};

/// Forwards a call and does nothing else: the cost of the call layer itself.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct Passthrough;

#[pymethods]
impl Passthrough {
    #[new]
    #[pyo3(signature = (function, /))]
    fn new<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        Wrapper::wrap(function, Self)
    }
}

impl Native for Passthrough {
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        Ok(call.forward(this.as_super().get().function(this.py()))?)
    }
}

/// Panics with the text that its function returns; passes on anything else.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct Panicking;

#[pymethods]
impl Panicking {
    #[new]
    #[pyo3(signature = (function, /))]
    fn new<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        Wrapper::wrap(function, Self)
    }
}

impl Native for Panicking {
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        let result = call.forward(this.as_super().get().function(this.py()))?;
        if let Ok(text) = result.extract::<String>() {
            panic!("{text}");
        }
        Ok(result)
    }
}

/// Keeps values in a guarded cell, and breaks the cell's rules on request.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
#[derive(Default)]
pub struct GuardedValues {
    values: Guarded<Vec<Py<PyAny>>>,
}

#[pymethods]
impl GuardedValues {
    /// Whether this build checks that no Python code runs while a guarded cell is open.
    #[classattr]
    const CHECKED: bool = cfg!(debug_assertions);

    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Keeps one more.
    #[pyo3(signature = (value, /))]
    fn keep(&self, py: Python<'_>, value: Py<PyAny>) {
        self.values.with(py, |values, _| values.push(value));
    }

    /// Lets all go, as the rules ask: they are released when the cell is closed.
    fn let_go(&self, py: Python<'_>) {
        self.values.with(py, |values, dead| dead.append(values));
    }

    /// Lets all go, and panics before the cell is closed.
    #[pyo3(signature = (text, /))]
    fn let_go_and_panic(&self, py: Python<'_>, text: &str) {
        self.values.with(py, |values, dead| {
            dead.append(values);
            panic!("{text}");
        });
    }

    /// Opens the cell inside the open cell.
    fn open_twice(&self, py: Python<'_>) {
        self.values.with(py, |_, _| self.values.with(py, |_, _| ()));
    }

    /// Calls Python inside the open cell.
    #[pyo3(signature = (function, /))]
    fn call_inside<'py>(&self, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        self.values.with(py, |_, _| call_method(function, interned!(py, "__call__"), &[]))
    }

    /// Releases references inside the open cell.
    fn release_inside(&self, py: Python<'_>) {
        self.values.with(py, |values, _| release(py, std::mem::take(values)));
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.values.with(py, |values, _| values.len())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.values.traverse(|values| values.iter().try_for_each(|value| visit.call(value)))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.let_go(py);
    }
}

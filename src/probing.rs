//! What the tests and the benchmarks hold against the call layer: the barest wrapper, and one that panics.

use pyo3::prelude::*;

use crate::callable::{Call, Native, Outcome, Wrapper};

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

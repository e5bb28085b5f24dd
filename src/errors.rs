//! Everything that ferrule itself finds wrong, and the one way it becomes a Python exception.

use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::prelude::*;

/// What is wrong, in words that name the argument, what came, and what may come.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument of the wrong type.
    #[error("{name} must be {expected}, not {got}")]
    Type {
        /// The argument's name.
        name: String,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        got: String,
    },
    /// An argument of the right type with a value that makes no sense.
    #[error("{name} must be {expected}, got {got}")]
    Value {
        /// The argument's name.
        name: String,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        got: String,
    },
    /// Something was asked for at a time when it can't be had.
    #[error("{0}")]
    State(&'static str),
    /// A value that weighs more than its cache holds.
    #[error("the value weighs {weight}, and the cache holds {maxsize}")]
    TooHeavy {
        /// What it weighs.
        weight: u64,
        /// What the cache holds.
        maxsize: u64,
    },
    /// A wait ended by its deadline.
    #[error("nothing came within {0} s")]
    TimedOut(f64),
}

impl Error {
    /// The argument `name` has the wrong type.
    #[must_use]
    pub fn wrong_type(name: &str, expected: &'static str, got: &Bound<'_, PyAny>) -> Self {
        let class = got.get_type().name().map_or_else(|_| "something nameless".to_owned(), |name| name.to_string());
        Self::Type { name: name.to_owned(), expected, got: format!("{class}: {}", short_repr(got)) }
    }

    /// The argument `name` has a value that makes no sense.
    #[must_use]
    pub fn wrong_value(name: &str, expected: &'static str, got: &Bound<'_, PyAny>) -> Self {
        Self::Value { name: name.to_owned(), expected, got: short_repr(got) }
    }
}

/// An argument that is to be callable, where it is given.
pub fn optional_callable(
    name: &str,
    expected: &'static str,
    value: Option<Bound<'_, PyAny>>,
) -> PyResult<Option<Py<PyAny>>> {
    match value {
        Some(value) if !value.is_callable() => Err(Error::wrong_type(name, expected, &value).into()),
        value => Ok(value.map(Bound::unbind)),
    }
}

/// The object as a message shows it. A `repr` that raises doesn't take the place of the error that is being told.
#[must_use]
pub fn short_repr(object: &Bound<'_, PyAny>) -> String {
    let text = object.repr().map_or_else(|_| "an object without a repr".to_owned(), |text| text.to_string());
    if text.chars().count() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Type { .. } => PyTypeError::new_err(text),
            Error::Value { .. } | Error::TooHeavy { .. } => PyValueError::new_err(text),
            Error::State(_) => PyRuntimeError::new_err(text),
            Error::TimedOut(_) => PyTimeoutError::new_err(text),
        }
    }
}

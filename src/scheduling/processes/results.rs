//! What `map` gives out: results that come in lists, one at a time.

use std::collections::VecDeque;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::iterator::PySendResult;
use pyo3::types::{PyIterator, PyList};

use crate::guarding::{self, Guarded, attached, call_method, interned};
use crate::stepping::{self, Claim, Stepping};

/// What it is called where two threads advance it.
const WHAT: &str = "what map returned";

#[derive(Default)]
struct Inner {
    lists: Option<Py<PyIterator>>,
    items: VecDeque<Py<PyAny>>,
}

/// Iterates over the items of the lists that a generator yields; each list is emptied.
#[pyclass(frozen, weakref, module = "ferrule._core")]
pub struct Results {
    inner: Guarded<Inner>,
    // Who works with the generator: without the interpreter lock, two threads at once would bring the interpreter down.
    fetching: Claim<()>,
}

impl Stepping for Results {
    #[inline]
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        match this.get().inner.peek(py, |inner| inner.items.pop_front()) {
            Some(item) => Ok(Some(item.into_bound(py))),
            None => this.get().more(py),
        }
    }
}

impl Results {
    fn end<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyIterator>> {
        let inner = self.inner.peek(py, std::mem::take);
        attached(py, |_| drop(inner.items));
        inner.lists.map(|lists| lists.into_bound(py))
    }

    #[cold]
    fn more<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let _fetching = self.fetching.enter(py, WHAT)?;
        loop {
            let lists = self.inner.peek(py, |inner| inner.lists.as_ref().map(|lists| lists.bind(py).clone()));
            let Some(lists) = lists else { return Ok(None) };
            // After an error the generator is at its end, and says so when it is asked again.
            let list = match guarding::send(&lists, py.None().bind(py))? {
                PySendResult::Next(list) => list.cast_into::<PyList>()?,
                PySendResult::Return(_) => {
                    drop(self.end(py));
                    return Ok(None);
                }
            };
            let mut items: VecDeque<Py<PyAny>> = list.iter().map(Bound::unbind).collect();
            // Each is let go as it is taken.
            list.del_slice(0, list.len())?;
            let first = items.pop_front();
            self.inner.peek(py, |inner| {
                if inner.items.is_empty() {
                    std::mem::swap(&mut inner.items, &mut items);
                } else {
                    // Another thread has fetched some at the same time.
                    inner.items.append(&mut items);
                }
            });
            if let Some(first) = first {
                return Ok(Some(first.into_bound(py)));
            }
        }
    }
}

/// Gives the class its slot.
pub fn publish(py: Python<'_>) {
    stepping::publish::<Results>(py);
}

#[pymethods]
impl Results {
    #[new]
    fn new(lists: Py<PyIterator>) -> Self {
        Self { inner: Guarded::new(Inner { lists: Some(lists), items: VecDeque::new() }), fetching: Claim::new(()) }
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    /// Gives out no more, and closes the generator.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let _fetching = self.fetching.enter(py, WHAT)?;
        match self.end(py) {
            Some(lists) => call_method(&lists, interned!(py, "close"), &[]).map(drop),
            None => Ok(()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.inner.traverse(|inner| {
            visit.call(&inner.lists)?;
            inner.items.iter().try_for_each(|item| visit.call(item))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.end(py));
    }
}

//! The pool that Python sees: it takes what is submitted, and hands it to its crew.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyTuple, PyType};

use super::binding::{Crew, Errors, Plan, Terms};
use super::future::FutureBase;
use crate::guarding::{Guarded, call_method, interned};
use crate::waiting::{Settled, Ticket};

/// What a pool is opened with.
struct Open {
    crew: Py<Crew>,
    block: bool,
}

/// The native half of `ferrule.ThreadPoolExecutor`.
#[pyclass(subclass, frozen, weakref, module = "ferrule._core")]
pub struct ThreadPool {
    // `None` until the face's `__init__` has run.
    open: Guarded<Option<Open>>,
}

impl ThreadPool {
    /// The crew of this process, and whether submissions wait for room. A forked child has a new crew: what was queued
    /// before is the parent's.
    fn crew<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, Crew>, bool)> {
        let open = self.open.peek(py, |open| open.as_ref().map(|open| (open.crew.bind(py).clone(), open.block)));
        let Some((crew, block)) = open else {
            return Err(PyRuntimeError::new_err("the executor's __init__ has not been called"));
        };
        if crew.get().is_ours() {
            return Ok((crew, block));
        }
        let new = Bound::new(py, crew.get().successor(py)?)?;
        let replaced = self
            .open
            .peek(py, |open| open.as_mut().map(|open| std::mem::replace(&mut open.crew, new.clone().unbind())));
        // Another thread of the parent may have been in the middle of its queue: nobody touches it any more.
        std::mem::forget(replaced);
        std::mem::forget(crew);
        Ok((new, block))
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // Whoever drops an object is attached.
        Python::try_attach(|py| {
            let crew = self.open.peek(py, |open| open.as_ref().map(|open| open.crew.clone_ref(py)));
            if let Some(crew) = crew
                && crew.get().is_ours()
            {
                crew.get().retire();
            }
        });
    }
}

#[pymethods]
impl ThreadPool {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // All is the face's `__init__`'s, so that subclasses may have an `__init__` of their own.
        Self { open: Guarded::new(None) }
    }

    /// Opens the pool.
    #[pyo3(signature = (future_class, start, errors, max_workers, initializer, initargs, max_pending, block, /))]
    #[expect(clippy::too_many_arguments, reason = "called by the face alone, which has checked them")]
    fn _open(
        &self,
        py: Python<'_>,
        future_class: Py<PyType>,
        start: Py<PyAny>,
        errors: (Py<PyAny>, Py<PyAny>, Py<PyAny>, Py<PyAny>),
        max_workers: usize,
        initializer: Option<Py<PyAny>>,
        initargs: Py<PyTuple>,
        max_pending: Option<usize>,
        block: bool,
    ) -> PyResult<()> {
        let (broken, closed, full, late) = errors;
        let errors = Errors { broken, closed, full, late };
        let plan = Plan { future_class, start, errors, max_workers, initializer, initargs, max_pending };
        let crew = Py::new(py, Crew::new(py, plan)?)?;
        let before = self.open.peek(py, |open| open.replace(Open { crew, block }));
        if let Some(before) = before {
            before.crew.get().retire();
        }
        Ok(())
    }

    /// The crew.
    #[getter]
    fn _crew<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Crew>> {
        Ok(self.crew(py)?.0)
    }

    /// Queues `function(*args, **kwargs)` and returns its future.
    #[pyo3(signature = (function, /, *args, **kwargs))]
    fn submit<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, FutureBase>> {
        let (crew, block) = self.crew(py)?;
        Crew::submit_one(&crew, function, args, kwargs, &Terms::PLAIN, block)
    }

    /// Queues a call on terms of its own; where there is no room, it waits or raises as the pool does. With `admitted`,
    /// there is room for it already.
    #[pyo3(signature = (function, args, kwargs, priority, timeout, /, *, admitted=false))]
    #[expect(clippy::too_many_arguments, reason = "called by the face alone, which has checked them")]
    fn _submit<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
        priority: i32,
        timeout: Option<u64>,
        admitted: bool,
    ) -> PyResult<Bound<'py, FutureBase>> {
        let terms = Terms { priority, timeout: timeout.unwrap_or(u64::MAX) };
        let (crew, block) = self.crew(py)?;
        if !admitted {
            return Crew::submit_one(&crew, function, args, kwargs, &terms, block);
        }
        let queued = crew.get().check_open(py).and_then(|()| Crew::queue_up(&crew, function, args, kwargs, &terms));
        if queued.is_err() {
            crew.get().leave_slot(py)?;
        }
        queued
    }

    /// Queues a call for each tuple of arguments, `limit` of them at most; returns the futures, in their order.
    #[pyo3(signature = (function, tuples, limit, priority, timeout, /))]
    fn _submit_each<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        tuples: &Bound<'py, PyIterator>,
        limit: Option<usize>,
        priority: i32,
        timeout: Option<u64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let terms = Terms { priority, timeout: timeout.unwrap_or(u64::MAX) };
        let (crew, block) = self.crew(py)?;
        let futures = PyList::empty(py);
        crew.get().check_open(py)?;
        for args in tuples.clone().take(limit.unwrap_or(usize::MAX)) {
            let args = args?.cast_into::<PyTuple>()?;
            futures.append(Crew::submit_one(&crew, function, args, None, &terms, block)?)?;
        }
        Ok(futures)
    }

    /// Asks for room for one submission on behalf of a task of `event_loop`: `None` where there is room at once.
    #[pyo3(signature = (event_loop, /))]
    fn _admit<'py>(&self, py: Python<'py>, event_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, Admission>>> {
        let (crew, _) = self.crew(py)?;
        crew.get().check_open(py)?;
        let Some(slots) = &crew.get().slots else { return Ok(None) };
        let future = call_method(event_loop, interned!(py, "create_future"), &[])?;
        let ticket = Ticket::for_task(event_loop, &future);
        let taken = slots.peek(py, |slots| {
            let taken = slots.free > 0;
            if taken {
                slots.free -= 1;
            } else {
                slots.waiters.join(Arc::clone(&ticket));
            }
            taken
        });
        if taken {
            return Ok(None);
        }
        Bound::new(py, Admission { crew: crew.unbind(), ticket, future: future.unbind() }).map(Some)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.open.traverse(|open| open.as_ref().map_or(Ok(()), |open| visit.call(&open.crew)))
    }
}

/// A task's wait for room in a queue. Whoever gets one calls `take` or `leave`.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Admission {
    crew: Py<Crew>,
    ticket: Arc<Ticket<()>>,
    future: Py<PyAny>,
}

#[pymethods]
impl Admission {
    /// What to await.
    #[getter]
    fn future(&self, py: Python<'_>) -> Py<PyAny> {
        self.future.clone_ref(py)
    }

    /// Takes the room, once `future` is done.
    fn take(&self, py: Python<'_>) -> PyResult<()> {
        match self.ticket.take(py) {
            Some(Settled::Given(())) => Ok(()),
            _ => self.crew.get().check_open(py).and(Err(PyRuntimeError::new_err("there is no room yet"))),
        }
    }

    /// Leaves; room that was given already goes to the next.
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        self.crew.get().give_up_slot(py, &self.ticket)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.future)?;
        self.ticket.traverse(&visit, |()| Ok(()))
    }
}

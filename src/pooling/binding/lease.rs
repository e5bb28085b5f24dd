//! What stands for a resource that is lent for the length of a block.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyGenericAlias, PyType};

use super::{Approach, Limit, NO_SLOT, Pool};
use crate::errors::Error;
use crate::guarding::interned;
use crate::lifecycle;

/// A resource lent for the length of a block. It may be entered again when it has been left.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Lease {
    pool: Py<Pool>,
    limit: Limit,
    slot: AtomicU32,
    serial: AtomicU64,
    generation: AtomicU64,
}

impl Lease {
    pub(super) fn new(pool: &Bound<'_, Pool>, limit: Limit) -> Self {
        Self {
            pool: pool.clone().unbind(),
            limit,
            slot: AtomicU32::new(NO_SLOT),
            serial: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn enter<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check_it_is_free()?;
        let loan = Pool::take(self.pool.bind(py), self.limit)?;
        self.note(loan.slot, loan.serial);
        Ok(loan.resource)
    }

    fn check_it_is_free(&self) -> PyResult<()> {
        if self.slot.load(Ordering::Relaxed) != NO_SLOT {
            return Err(Error::State("this lease has been entered already: one lease, one block at a time").into());
        }
        Ok(())
    }

    fn note(&self, slot: u32, serial: u64) {
        self.serial.store(serial, Ordering::Relaxed);
        self.generation.store(lifecycle::generation(), Ordering::Relaxed);
        self.slot.store(slot, Ordering::Relaxed);
    }

    /// The loan; `None` where it is of the process that this one was forked from.
    fn end(&self) -> PyResult<Option<(u32, u64)>> {
        let slot = self.slot.swap(NO_SLOT, Ordering::Relaxed);
        if slot == NO_SLOT {
            return Err(Error::State("this lease is left, and was not entered").into());
        }
        let ours = self.generation.load(Ordering::Relaxed) == lifecycle::generation();
        Ok(ours.then(|| (slot, self.serial.load(Ordering::Relaxed))))
    }

    #[inline]
    pub(super) fn leave(&self, py: Python<'_>, failed: bool) -> PyResult<()> {
        let Some((slot, serial)) = self.end()? else { return Ok(()) };
        if Pool::give_back(self.pool.bind(py), slot, serial, failed)? || failed {
            return Ok(());
        }
        Err(GIVEN_BACK.into())
    }

    pub(super) fn leave_async<'py>(this: &Bound<'py, Self>, failed: bool) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let lease = this.get();
        let pool = lease.pool.bind(py);
        let plan = &pool.get().plan;
        let kept = !failed || plan.fixed || plan.reset.is_some();
        let loan = lease.end()?;
        pool.call_method1(interned!(py, "_leave"), (loan, kept, failed))
    }
}

const GIVEN_BACK: Error =
    Error::State("the resource was released inside the block of its lease, which releases it at the end");

#[pymethods]
impl Lease {
    /// The class with the type of its resource, for annotations.
    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls.as_any(), item)
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.enter(py)
    }

    #[pyo3(signature = (error_type, error, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        error_type: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (error_type, traceback);
        self.leave(py, !error.is_none())
    }

    fn __aenter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        this.get().check_it_is_free()?;
        let pool = this.get().pool.bind(py);
        // Here, in the frame of the `async with`.
        let approach = Bound::new(py, Approach::new(pool, this.get().limit, pool.get().stack(py, 0)))?;
        pool.call_method1(interned!(py, "_enter"), (this, approach))
    }

    #[pyo3(signature = (error_type, error, traceback, /))]
    fn __aexit__<'py>(
        this: &Bound<'py, Self>,
        error_type: &Bound<'py, PyAny>,
        error: &Bound<'py, PyAny>,
        traceback: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = (error_type, traceback);
        Self::leave_async(this, !error.is_none())
    }

    /// Notes what a task's approach came to.
    #[pyo3(signature = (approach, /))]
    fn note_arrival(&self, py: Python<'_>, approach: &Bound<'_, Approach>) -> PyResult<()> {
        self.check_it_is_free()?;
        let (slot, serial) = approach.get().loan(py).ok_or(Error::State("the approach has not come to a loan"))?;
        self.note(slot, serial);
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pool)
    }
}

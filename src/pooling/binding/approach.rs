//! A task's way to a resource, step by step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use super::{Claim, Gift, Holder, Limit, Pool, Task, show_gift};
use crate::callable::Spot;
use crate::clock::{SECOND, precise};
use crate::errors::Error;
use crate::guarding::{self, Guarded, Made, attached, interned};
use crate::lifecycle;
use crate::waiting::binding::Watch;
use crate::waiting::{Settled, Ticket, end_wait};

/// What a task has to do next on its way to a resource.
enum Part {
    New,
    Waits(Arc<Ticket<Gift>>),
    Checks(u32),
    Replaces(u32),
    Makes(u32),
    Lent(u32, u64),
    Over,
}

impl Part {
    fn name(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Waits(_) => "waits",
            Self::Checks(_) => "checks",
            Self::Replaces(_) => "replaces",
            Self::Makes(_) => "makes",
            Self::Lent(..) => "lent",
            Self::Over => "over",
        }
    }
}

/// A task's way to a resource: what it has to do next, until the resource is lent to it. Dropping it is giving up.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Approach {
    pool: Py<Pool>,
    length: Option<u64>,
    begun: u64,
    deadline: Option<u64>,
    stack: Vec<Spot>,
    part: Guarded<Part>,
    /// The loop, the task (its name and a reference), and the future it waits on.
    place: Guarded<Place>,
    watch: Watch,
    expired: AtomicBool,
    /// Whether it waits for the pool to be empty, rather than for a resource.
    closes: AtomicBool,
}

#[derive(Default)]
struct Place {
    event_loop: Option<Py<PyAny>>,
    future: Option<Py<PyAny>>,
    task: Option<(Py<PyAny>, Py<PyAny>)>,
}

impl Approach {
    pub(super) fn new(pool: &Bound<'_, Pool>, limit: Limit, stack: Vec<Spot>) -> Self {
        let length = pool.get().plan.length(limit);
        let begun = precise();
        Self {
            pool: pool.clone().unbind(),
            length,
            begun,
            deadline: length.and_then(|length| begun.checked_add(length)),
            stack,
            part: Guarded::new(Part::New),
            place: Guarded::default(),
            watch: Watch::default(),
            expired: AtomicBool::new(false),
            closes: AtomicBool::new(false),
        }
    }

    fn change(&self, py: Python<'_>, next: Part) -> Part {
        self.part.with(py, |part, _| std::mem::replace(part, next))
    }

    /// What it has come to, where that is a loan.
    pub(super) fn loan(&self, py: Python<'_>) -> Option<(u32, u64)> {
        self.part.with(py, |part, _| match part {
            Part::Lent(slot, serial) => Some((*slot, *serial)),
            _ => None,
        })
    }

    fn event_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let event_loop =
            self.place.with(py, |place, _| place.event_loop.as_ref().map(|event_loop| event_loop.bind(py).clone()));
        event_loop.ok_or_else(|| Error::State("the approach has not begun").into())
    }

    fn holder(&self, py: Python<'_>) -> Holder {
        let pool = self.pool.get();
        let stack = pool.plan.leak_after.map(|_| self.stack.iter().map(|spot| spot.clone_ref(py)).collect());
        let spot = self.stack.first().map(|spot| spot.clone_ref(py));
        let mut holder = Holder::new(lifecycle::ident(py).unwrap_or(0), spot, stack);
        holder.task = self.place.with(py, |place, _| {
            let (name, reference) = place.task.as_ref()?;
            Some(Box::new(Task { name: name.clone_ref(py), reference: reference.clone_ref(py) }))
        });
        holder
    }

    /// Goes on with a claim, and says how.
    fn go_on(&self, py: Python<'_>, claim: Claim) -> PyResult<&'static str> {
        let pool = self.pool.bind(py);
        let next = match claim {
            Claim::Check(slot) if pool.get().plan.check.is_none() => return self.lend(py, slot),
            Claim::Check(slot) => Part::Checks(slot),
            Claim::Replace(slot) => {
                pool.get().open(py, |state, _, spent| {
                    if let Some(holder) = state.stock.take_back(slot) {
                        holder.into_dead(spent);
                    }
                });
                Part::Replaces(slot)
            }
            Claim::Make(slot) => Part::Makes(slot),
        };
        let name = next.name();
        self.change(py, next);
        Ok(name)
    }

    fn lend(&self, py: Python<'_>, slot: u32) -> PyResult<&'static str> {
        let pool = self.pool.bind(py);
        let loan = pool.get().lent(pool, slot, self.holder(py));
        let loan = loan.ok_or(Error::State("the resource has gone"))?;
        self.change(py, Part::Lent(loan.slot, loan.serial));
        Ok("lent")
    }

    fn new_ticket(&self, py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<Ticket<Gift>>> {
        let future = guarding::call_method(event_loop, interned!(py, "create_future"), &[])?;
        let ticket = Ticket::for_task(event_loop, &future);
        self.place.with(py, |place, dead| dead.extend(place.future.replace(future.unbind())));
        Ok(ticket)
    }

    fn watch_the_clock(this: &Bound<'_, Self>) -> PyResult<()> {
        let Some(moment) = this.get().deadline else { return Ok(()) };
        let event_loop = this.get().event_loop(this.py())?;
        this.get().watch.start(this.as_any(), &event_loop, moment, ring(this.py())?, |approach| {
            let approach = approach.cast::<Self>().ok()?;
            approach.get().event_loop(approach.py()).ok().map(Bound::unbind)
        })
    }

    /// Ends the wait if its time has come, and else goes on watching.
    fn check_deadline(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let approach = this.get();
        let ticket = approach.part.with(py, |part, _| match part {
            Part::Waits(ticket) if !ticket.is_settled() => Some(ticket.clone()),
            _ => None,
        });
        let (Some(ticket), Some(moment)) = (ticket, approach.deadline) else { return Ok(()) };
        if precise() < moment {
            return Self::watch_the_clock(this);
        }
        approach.expired.store(true, Ordering::Relaxed);
        let closes = approach.closes.load(Ordering::Relaxed);
        let outcome = Pool::give_up(approach.pool.bind(py), &ticket, closes);
        approach.watch.stop(py);
        let future = approach.place.with(py, |place, _| place.future.as_ref().map(|future| future.bind(py).clone()));
        future.map_or(Ok(()), |future| end_wait(&future))?;
        outcome
    }

    /// Stands in the line of those who wait for the pool to be empty; false where it is.
    pub(super) fn wait_for_closing(this: &Bound<'_, Self>, event_loop: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = this.py();
        let approach = this.get();
        approach.closes.store(true, Ordering::Relaxed);
        approach.place.with(py, |place, dead| dead.extend(place.event_loop.replace(event_loop.clone().unbind())));
        let ticket = approach.new_ticket(py, event_loop)?;
        if approach.pool.get().join_closers(py, &ticket) {
            return Ok(false);
        }
        approach.change(py, Part::Waits(ticket));
        Self::watch_the_clock(this)?;
        Ok(true)
    }

    /// Gives up what there is; a slot whose resource is to be closed first is given out.
    fn give_up(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        let pool = self.pool.bind(py);
        self.watch.stop(py);
        match self.change(py, Part::Over) {
            Part::Waits(ticket) => {
                let outcome = Pool::give_up(pool, &ticket, self.closes.load(Ordering::Relaxed));
                attached(py, |_| drop(ticket));
                outcome.map(|()| None)
            }
            Part::Checks(slot) => {
                // The check was cut short: nobody knows in what state the resource is.
                pool.get().open(py, |state, _, spent| {
                    if let Some(holder) = state.stock.take_back(slot) {
                        holder.into_dead(spent);
                    }
                });
                Ok(Some(slot))
            }
            Part::Replaces(slot) | Part::Makes(slot) => Pool::vacate(pool, slot).map(|()| None),
            // Lent, and not arrived: the task was interrupted in between.
            Part::New | Part::Lent(..) | Part::Over => Ok(None),
        }
    }
}

#[pyfunction]
#[pyo3(name = "check_deadline")]
fn rung(approach: &Bound<'_, PyWeakrefReference>) -> PyResult<()> {
    match approach.upgrade() {
        Some(approach) => Approach::check_deadline(approach.cast::<Approach>()?),
        None => Ok(()),
    }
}

/// What a approach's event loop calls when the timer or the manual clock has rung.
fn ring(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static RING: Made<Py<PyAny>> = Made::new();
    let ring = RING.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(rung, py)?.into_any().unbind()))?;
    Ok(ring.bind(py))
}

#[pymethods]
impl Approach {
    /// Begins, in an event loop and a task: what is to be done next.
    #[pyo3(signature = (event_loop, task, /))]
    fn board(this: &Bound<'_, Self>, event_loop: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> PyResult<&'static str> {
        let py = this.py();
        let approach = this.get();
        let pool = approach.pool.bind(py);
        let plan = &pool.get().plan;
        let task = if task.is_none() {
            None
        } else {
            let name = guarding::call_method(task, interned!(py, "get_name"), &[])?;
            Some((name.unbind(), PyWeakrefReference::new(task)?.into_any().unbind()))
        };
        approach.place.with(py, |place, dead| {
            dead.extend(place.event_loop.replace(event_loop.clone().unbind()));
            if let Some((name, reference)) = std::mem::replace(&mut place.task, task) {
                dead.extend([name, reference]);
            }
        });
        let mut home = 0;
        if plan.asynchronous {
            home = event_loop.as_ptr().addr();
            let kept = event_loop.clone().unbind();
            pool.get().open(py, |state, dead, _| dead.extend(state.event_loop.replace(kept)));
        }
        let waits = approach.length != Some(0);
        if let Some(claim) = Pool::enter(pool, None, waits, home)? {
            return approach.go_on(py, claim);
        }
        let ticket = approach.new_ticket(py, event_loop)?;
        // Known before it stands in line, so that giving up finds it.
        approach.change(py, Part::Waits(ticket.clone()));
        match Pool::enter(pool, Some(&ticket), waits, home) {
            Ok(Some(claim)) => approach.go_on(py, claim),
            Ok(None) => {
                Self::watch_the_clock(this)?;
                Ok("waits")
            }
            Err(error) => {
                approach.change(py, Part::Over);
                Err(error)
            }
        }
    }

    /// Done when the wait is over, whatever it came to.
    #[getter]
    fn future(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.place.with(py, |place, _| place.future.as_ref().map(|future| future.clone_ref(py)))
    }

    /// The wait is over: what is to be done next.
    fn arrive(&self, py: Python<'_>) -> PyResult<&'static str> {
        let pool = self.pool.bind(py);
        self.watch.stop(py);
        let part = self.change(py, Part::Over);
        let Part::Waits(ticket) = part else { return Err(Error::State("the approach does not wait").into()) };
        let settled = ticket.take(py);
        attached(py, |_| drop(ticket));
        if !self.closes.load(Ordering::Relaxed) {
            pool.get().note_wait(py, self.begun);
        }
        match settled {
            Some(Settled::Given(Gift::Empty)) => Ok("over"),
            Some(Settled::Given(gift)) => {
                let claim = Pool::claim_of(pool, gift)?;
                self.go_on(py, claim)
            }
            Some(Settled::Closed) => Err(Pool::is_closed(pool)),
            Some(Settled::Left) if self.expired.load(Ordering::Relaxed) => {
                Err(Pool::timed_out(pool, self.length.unwrap_or(0)))
            }
            Some(Settled::Left) | None => Err(Error::State("the wait is not over").into()),
        }
    }

    /// The resource that is to be checked, to be closed, or lent.
    #[getter]
    fn resource<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let slot = self.part.with(py, |part, _| match part {
            Part::Checks(slot) | Part::Replaces(slot) | Part::Lent(slot, _) => Some(*slot),
            _ => None,
        })?;
        self.pool.get().resource(py, slot)
    }

    /// Seconds that are left for making a resource; `None` for no limit.
    #[getter]
    fn left(&self) -> Option<f64> {
        let deadline = self.deadline.filter(|_| self.length != Some(0))?;
        Some(deadline.saturating_sub(precise()) as f64 / SECOND as f64)
    }

    /// The check has spoken: what is to be done next.
    #[pyo3(signature = (good, /))]
    fn judged(&self, py: Python<'_>, good: bool) -> PyResult<&'static str> {
        match self.change(py, Part::Over) {
            Part::Checks(slot) if good => self.lend(py, slot),
            Part::Checks(slot) => self.go_on(py, Claim::Replace(slot)),
            _ => Err(Error::State("the approach does not check").into()),
        }
    }

    /// The old resource is closed: what is to be done next.
    fn replaced(&self, py: Python<'_>) -> PyResult<&'static str> {
        let pool = self.pool.bind(py);
        match self.change(py, Part::Over) {
            Part::Replaces(slot) if pool.get().plan.fixed => {
                Pool::vacate(pool, slot)?;
                self.change(py, Part::New);
                Ok("new")
            }
            Part::Replaces(slot) => {
                pool.get().empty(py, slot);
                self.change(py, Part::Makes(slot));
                Ok("makes")
            }
            _ => Err(Error::State("the approach does not replace").into()),
        }
    }

    /// The resource is made, and lent.
    #[pyo3(signature = (resource, /))]
    fn made(&self, py: Python<'_>, resource: Py<PyAny>) -> PyResult<&'static str> {
        let pool = self.pool.bind(py);
        let Part::Makes(slot) = self.change(py, Part::Over) else {
            return Err(Error::State("the approach does not make").into());
        };
        let event_loop = if pool.get().plan.asynchronous { Some(self.event_loop(py)?.unbind()) } else { None };
        Pool::made(pool, slot, resource, event_loop, Some(self.holder(py)))?;
        let loan = pool.get().loan(pool, slot).ok_or(Error::State("the resource has gone"))?;
        self.change(py, Part::Lent(loan.slot, loan.serial));
        Ok("lent")
    }

    /// The creation has failed: gives the exception to raise.
    #[pyo3(signature = (error, /))]
    fn failed<'py>(&self, py: Python<'py>, error: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let Part::Makes(slot) = self.change(py, Part::Over) else {
            return Err(Error::State("the approach does not make").into());
        };
        let error = Pool::failed(self.pool.bind(py), slot, PyErr::from_value(error));
        Ok(error.into_value(py).into_bound(py).into_any())
    }

    /// The exception that says that the time is over.
    fn timed_out<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        Pool::timed_out(self.pool.bind(py), self.length.unwrap_or(0)).into_value(py).into_bound(py).into_any()
    }

    /// Gives up: the slot goes to the next in line. Where a resource has to be closed first, gives its slot.
    fn leave(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        self.give_up(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pool)?;
        self.part.traverse(|part| match part {
            Part::Waits(ticket) => ticket.traverse(&visit, |gift| show_gift(&visit, gift)),
            _ => Ok(()),
        })?;
        self.place.traverse(|place| {
            visit.call(&place.event_loop)?;
            visit.call(&place.future)?;
            place.task.as_ref().map_or(Ok(()), |(_, reference)| visit.call(reference))
        })?;
        self.watch.traverse(&visit)
    }
}

impl Drop for Approach {
    fn drop(&mut self) {
        Python::attach(|py| {
            guarding::with_nothing_raised(py, || {
                let left = self
                    .give_up(py)
                    .and_then(|slot| slot.map_or(Ok(()), |slot| Pool::vacate(self.pool.bind(py), slot)));
                if let Err(error) = left {
                    error.write_unraisable(py, None);
                }
            });
        });
    }
}

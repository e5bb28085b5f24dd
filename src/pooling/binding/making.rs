//! Making resources and closing them, and what either means for those in line.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::super::stock::end_of_life;
use super::{FALLBACK_DELAY, Gift, Holder, Pool, Resource, Spent, ask, ask_backoff, first_of};
use crate::clock::{SECOND, precise};
use crate::guarding::{self, attached, interned};
use crate::upkeep;

impl Pool {
    /// Calls `create` for a slot; a failure gives the slot up.
    pub(super) fn create<'py>(this: &Bound<'py, Self>, slot: u32) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let pool = this.get();
        let Some(create) = &pool.plan.create else { return Err(Self::exhausted(this, None)) };
        let made = guarding::call(create.bind(py), &[]).and_then(|resource| {
            if resource.get_type().hasattr(interned!(py, "__await__"))? {
                let args = PyTuple::new(py, [&resource])?;
                return Err(PyErr::from_value(ask(py, "awaitable_error", &args)?));
            }
            Ok(resource)
        });
        match made {
            Ok(resource) => Ok(resource),
            Err(error) => Err(Self::failed(this, slot, error)),
        }
    }

    /// A creation has failed: gives the slot up, backs off, and tells those who have nobody else to wait for. What comes
    /// back is to be raised.
    pub(super) fn failed(this: &Bound<'_, Self>, slot: u32, error: PyErr) -> PyErr {
        let py = this.py();
        let pool = this.get();
        if !error.is_instance_of::<PyException>(py) {
            // Interrupted, which says nothing about the next attempt.
            return match Self::vacate(this, slot) {
                Ok(()) => error,
                Err(second) => second,
            };
        }
        let (number, previous) = pool.open(py, |state, _, _| (state.backoff.failures + 1, state.backoff.previous));
        let value = error.value(py).as_any();
        #[cfg(not(Py_3_12))]
        {
            // Up to 3.11 the traceback travels beside the exception; those who wait get it, too.
            let _ = value.setattr(interned!(py, "__traceback__"), error.traceback(py));
        }
        let delay = ask_backoff(py, pool.plan.backoff.bind(py), number, value, previous);
        let (delay, interrupt) = match delay {
            Ok(delay) => (delay, Ok(())),
            Err(error) => (FALLBACK_DELAY, Self::log(this, "create_backoff", error)),
        };
        let kept = value.clone().unbind();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds, not negative")]
        let retry_at = precise().saturating_add((delay * SECOND as f64) as u64);
        let (told, retries) = pool.open(py, |state, dead, _| {
            state.failed += 1;
            state.stock.vacate(slot);
            if state.backoff.probe == Some(slot) {
                state.backoff.probe = None;
            }
            state.backoff.failures = number;
            state.backoff.retry_at = retry_at;
            state.backoff.previous = Some(delay);
            dead.extend(state.backoff.error.replace(kept));
            // Whoever else has a slot may still give it to those who wait; if nobody has, this is the cause for all.
            let told = if state.stock.size() == 0 { state.waiters.drain() } else { Vec::new() };
            (told, !state.waiters.is_empty() || pool.plan.min_idle > 0)
        });
        let mut outcome = interrupt;
        for ticket in &told {
            let (given, interrupted) = ticket.give(py, Gift::Failed(value.clone().unbind()));
            if let Err(Gift::Failed(error)) = given {
                guarding::release(py, Some(error));
            }
            outcome = first_of(outcome, interrupted);
        }
        attached(py, |_| drop(told));
        if retries {
            Self::arrange(this, retry_at);
        }
        outcome = first_of(outcome, Self::settle_closers(this));
        outcome.err().unwrap_or(error)
    }

    /// A resource has been made: lends it to `holder`, or else hands it on.
    pub(super) fn made(
        this: &Bound<'_, Self>,
        slot: u32,
        resource: Py<PyAny>,
        event_loop: Option<Py<PyAny>>,
        holder: Option<Holder>,
    ) -> PyResult<()> {
        let py = this.py();
        let pool = this.get();
        let plan = &pool.plan;
        let now = precise();
        let home = event_loop.as_ref().map_or(0, |event_loop| event_loop.as_ptr().addr());
        let shown = resource.bind(py).clone();
        let dies = end_of_life(now, plan.max_lifetime, plan.jitter, now ^ (shown.as_ptr().addr() as u64));
        let lends = holder.is_some();
        let filled = pool.open(py, |state, dead, spent| {
            if let Err(refused) = state.stock.fill(slot, Resource { object: resource, event_loop }, home, dies) {
                dead.push(refused.object);
                dead.extend(refused.event_loop);
                if let Some(holder) = holder {
                    holder.into_dead(spent);
                }
                return None;
            }
            state.created += 1;
            let recovered = state.backoff.failures > 0;
            dead.extend(std::mem::take(&mut state.backoff).error);
            match holder {
                Some(holder) if !state.closed => {
                    state.stock.lend(slot, holder);
                    state.number_the_loan(slot);
                }
                Some(holder) => holder.into_dead(spent),
                None => {}
            }
            Some((recovered, state.closed))
        });
        let Some((recovered, closed)) = filled else {
            let args = PyTuple::new(py, [&shown])?;
            let error = PyErr::from_value(ask(py, "made_twice_error", &args)?);
            return Err(Self::failed(this, slot, error));
        };
        if closed {
            let outcome = Self::dispose(this, slot);
            return first_of(Err(Self::is_closed(this)), outcome);
        }
        let mut outcome = if lends { Ok(()) } else { Self::settle(this, slot, true) };
        if recovered {
            outcome = first_of(outcome, Self::offer(this));
        }
        Self::arrange_regularly(this);
        outcome
    }

    /// Calls `close`. An error is told to the log; what ends a program comes out.
    pub(super) fn call_close(this: &Bound<'_, Self>, slot: u32) -> PyResult<()> {
        let py = this.py();
        let pool = this.get();
        let (Some(close), Some(resource)) = (&pool.plan.close, pool.resource(py, slot)) else { return Ok(()) };
        match guarding::call(close.bind(py), &[&resource]) {
            Ok(_) => Ok(()),
            Err(error) => Self::log(this, "close", error),
        }
    }

    /// Closes the resource in a slot that is being worked on, and gives the slot up.
    pub(super) fn destroy(this: &Bound<'_, Self>, slot: u32) -> PyResult<()> {
        let closed = Self::call_close(this, slot);
        first_of(closed, Self::vacate(this, slot))
    }

    /// Closes the resource in a slot that is being worked on, where it may be closed, and gives the slot up.
    pub(super) fn dispose(this: &Bound<'_, Self>, slot: u32) -> PyResult<()> {
        if this.get().plan.asynchronous { Self::close_elsewhere(this, slot) } else { Self::destroy(this, slot) }
    }

    /// Lets the resource go that was closed; the slot stays.
    pub(super) fn empty(&self, py: Python<'_>, slot: u32) {
        self.open(py, |state, dead, _| {
            if let Some(resource) = state.stock.empty(slot) {
                state.destroyed += 1;
                dead.push(resource.object);
                dead.extend(resource.event_loop);
            }
        });
    }

    /// Gives a slot up that is being worked on: whoever is next in line may make a resource in its place.
    pub(super) fn vacate(this: &Bound<'_, Self>, slot: u32) -> PyResult<()> {
        let py = this.py();
        let pool = this.get();
        pool.empty(py, slot);
        let told = pool.open(py, |state, _, _| {
            let (vacated, _) = state.stock.vacate(slot);
            if state.backoff.probe == Some(slot) {
                state.backoff.probe = None;
            }
            if vacated && pool.plan.fixed {
                state.stock.resize(state.stock.max_size() - 1);
            }
            if pool.plan.fixed && state.stock.size() == 0 { state.waiters.drain() } else { Vec::new() }
        });
        let mut outcome = Ok(());
        for ticket in &told {
            outcome = first_of(outcome, ticket.give(py, Gift::NothingLeft).1);
        }
        attached(py, |_| drop(told));
        outcome = first_of(outcome, Self::offer(this));
        Self::ask_for_more(this);
        first_of(outcome, Self::settle_closers(this))
    }

    /// Has the upkeep make idle resources ahead, where some are missing.
    #[inline]
    pub(super) fn ask_for_more(this: &Bound<'_, Self>) {
        let pool = this.get();
        if pool.plan.min_idle == 0 {
            return;
        }
        let asks = pool.open(this.py(), |state, _, _| {
            let waits = state.fill_asked || state.backoff.failures > 0 || state.missing(&pool.plan) == 0;
            !waits && !std::mem::replace(&mut state.fill_asked, true)
        });
        if asks {
            Self::arrange(this, 0);
        }
    }

    /// Hands free slots to those in line, to make resources in.
    pub(super) fn offer(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let pool = this.get();
        let in_background = !upkeep::is_over(py);
        let mut outcome = Ok(());
        loop {
            let now = precise();
            let next = pool.open(py, |state, _, spent| {
                if !state.may_make(&pool.plan, now, in_background) {
                    return None;
                }
                let mut gone = Vec::new();
                let ticket = state.waiters.next(&mut gone);
                spent.extend(gone.into_iter().map(Spent::Ticket));
                let ticket = ticket?;
                Some((ticket, state.reserve()?))
            });
            let Some((ticket, slot)) = next else { break };
            let (given, interrupted) = ticket.give(py, Gift::Make(slot));
            outcome = first_of(outcome, interrupted);
            if given.is_err() {
                pool.open(py, |state, _, _| {
                    state.stock.vacate(slot);
                    if state.backoff.probe == Some(slot) {
                        state.backoff.probe = None;
                    }
                });
            }
            attached(py, |_| drop(ticket));
        }
        let retry_at = pool.open(py, |state, _, _| {
            let waits = state.backoff.failures > 0 && state.waiters.first().is_some();
            waits.then_some(state.backoff.retry_at)
        });
        if let Some(moment) = retry_at {
            Self::arrange(this, moment);
        }
        outcome
    }

    /// Wakes those who wait for the last resource to come home, if it has.
    pub(super) fn settle_closers(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let told = this.get().open(py, |state, _, _| {
            if state.closed && state.stock.size() == 0 { state.closers.drain() } else { Vec::new() }
        });
        let mut outcome = Ok(());
        for ticket in &told {
            outcome = first_of(outcome, ticket.give(py, Gift::Empty).1);
        }
        attached(py, |_| drop(told));
        outcome
    }
}

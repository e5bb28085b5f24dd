//! Upkeep: closing what is old or idle, making what is missing, at the time that the pool's alarm says.

use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyWeakrefReference};

use super::super::stock::NEVER;
use super::{Holder, Pool, State, Told, ask, first_of};
use crate::clock::precise;
use crate::guarding::{self, interned};
use crate::upkeep;

impl Pool {
    /// Has the upkeep come at the moment `due`, or earlier, where it is to come earlier anyway.
    #[cold]
    pub(super) fn arrange(this: &Bound<'_, Self>, due: u64) {
        let py = this.py();
        let pool = this.get();
        if due == NEVER {
            return;
        }
        let now = precise();
        let due = due.max(now);
        let before = pool.open(py, |state, _, _| match state.job {
            _ if state.closed => Err(()),
            Some((moment, _)) if moment <= due && moment > now => Err(()),
            _ => Ok(state.job.take()),
        });
        let Ok(before) = before else { return };
        let due = match before {
            // It is late, and what it was to come for is still to be done.
            Some((moment, number)) if upkeep::cancel(py, moment, number) => due.min(moment),
            _ => due,
        };
        // Without a reference that would keep the pool alive.
        let Ok(weak) = PyWeakrefReference::new(this.as_any()) else { return };
        let weak = weak.unbind();
        let number = upkeep::schedule(
            py,
            due,
            Box::new(move |py| {
                let Some(pool) = weak.bind(py).upgrade() else { return };
                if let Ok(pool) = pool.cast::<Self>()
                    && let Err(error) = Self::tend(pool)
                {
                    error.write_unraisable(py, Some(pool.as_any()));
                }
                // The last reference may be this one.
                guarding::release(py, [pool.unbind()]);
            }),
        );
        pool.open(py, |state, _, _| state.job = Some((due, number)));
    }

    /// Has the upkeep come when something will be spent.
    pub(super) fn arrange_regularly(this: &Bound<'_, Self>) {
        let pool = this.get();
        let now = precise();
        let due = pool.open(this.py(), |state, _, _| pool.next_due(state, now));
        Self::arrange(this, due);
    }

    pub(super) fn next_due(&self, state: &State, now: u64) -> u64 {
        let plan = &self.plan;
        let lent_due = |holder: Option<&Holder>| match (plan.leak_after, holder) {
            (Some(length), None) => now.saturating_add(length),
            (Some(length), Some(holder)) if !holder.warned => holder.since.saturating_add(length),
            _ => NEVER,
        };
        let spent = state.stock.next_due(now, plan.max_idle_time, plan.min_idle, lent_due);
        let retries = state.backoff.failures > 0 && (state.waiters.first().is_some() || state.missing(plan) > 0);
        spent.min(if retries { state.backoff.retry_at } else { NEVER })
    }

    /// Does what is to be done in the background: closes what is spent, warns of what is lent for too long, tries again
    /// what has failed, and makes idle resources ahead. Comes back by itself as long as there is something to do.
    pub(super) fn tend(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let pool = this.get();
        let plan = &pool.plan;
        let now = precise();
        let (spent, leaks) = pool.open(py, |state, _, _| {
            state.job = None;
            state.fill_asked = false;
            if state.closed {
                return (Vec::new(), Vec::new());
            }
            let spent = state.stock.withdraw_spent(now, plan.max_idle_time, plan.min_idle);
            let mut leaks = Vec::new();
            if let Some(length) = plan.leak_after {
                for holder in state.stock.holders_mut() {
                    if !holder.warned && holder.thread != 0 && holder.since.saturating_add(length) <= now {
                        holder.warned = true;
                        leaks.push(Told::of(py, holder, now));
                    }
                }
            }
            (spent, leaks)
        });
        let mut outcome = Ok(());
        for slot in spent {
            outcome = first_of(outcome, Self::dispose(this, slot));
        }
        for leak in leaks {
            let warned = leak.into_tuple(py).and_then(|told| {
                let name = plan.name.bind(py).clone();
                ask(py, "warn_of_leak", &PyTuple::new(py, [name, told.into_any()])?).map(|_| ())
            });
            outcome = first_of(outcome, warned);
        }
        outcome = first_of(outcome, Self::offer(this));
        outcome = first_of(outcome, Self::fill(this));
        Self::arrange_regularly(this);
        outcome
    }

    /// Makes the idle resources that are missing.
    pub(super) fn fill(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let pool = this.get();
        if pool.plan.min_idle == 0 {
            return Ok(());
        }
        loop {
            let now = precise();
            let reserved = pool.open(py, |state, _, _| {
                let wanted = state.missing(&pool.plan) > 0 && state.may_make(&pool.plan, now, true);
                let event_loop = state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py));
                if !wanted || (pool.plan.asynchronous && event_loop.is_none()) {
                    return None;
                }
                Some((state.reserve()?, event_loop))
            });
            let Some((slot, event_loop)) = reserved else { return Ok(()) };
            if pool.plan.asynchronous {
                let sent = this.call_method1(interned!(py, "_make_elsewhere"), (event_loop, slot));
                if !sent.and_then(|sent| sent.is_truthy())? {
                    // The loop has ended; the next that takes something is another one.
                    let before = pool.open(py, |state, _, _| state.event_loop.take());
                    guarding::release(py, before);
                    return Self::vacate(this, slot);
                }
                continue;
            }
            let made =
                Self::create(this, slot).and_then(|resource| Self::made(this, slot, resource.unbind(), None, None));
            if let Err(error) = made {
                // In the background there's nobody to raise it to: the next who waits may hear it, and the log does.
                return Self::log(this, "create", error);
            }
        }
    }

    /// Has a resource of an event loop closed there; its slot is given up then.
    pub(super) fn close_elsewhere(this: &Bound<'_, Self>, slot: u32) -> PyResult<()> {
        let py = this.py();
        let event_loop = this.get().open(py, |state, _, _| {
            state.stock.item(slot)?.resource.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py))
        });
        let Some(event_loop) = event_loop else { return Self::destroy(this, slot) };
        let sent = this.call_method1(interned!(py, "_close_elsewhere"), (event_loop, slot));
        match sent.and_then(|sent| sent.is_truthy()) {
            Ok(true) => Ok(()),
            Ok(false) => Self::vacate(this, slot),
            Err(error) => first_of(Err(error), Self::vacate(this, slot)),
        }
    }
}

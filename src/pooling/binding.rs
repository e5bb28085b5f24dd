//! The pooling room as Python sees it.
//!
//! Everything that a thread does is done here, natively: taking, waiting, checking, making, giving back. What a task does
//! goes step by step, because `check`, `create`, `reset` and `close` may have to be awaited: a [`Approach`] says what comes
//! next, and a coroutine of `ferrule.pooling` does it.
//!
//! A *claim* is a slot that somebody has and that isn't lent yet: its resource is still to be checked, or to be made. It
//! ends as a loan, or the slot is given up and goes to the next in line.

mod approach;
mod lease;
mod making;
mod tending;

use std::collections::HashSet;
use std::sync::Arc;

use pyo3::exceptions::PyException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyGenericAlias, PyList, PyString, PyTuple, PyType};

pub use approach::Approach;
pub use lease::Lease;

use super::stock::{Addressed, Known, NEVER, Order, Stock};
use crate::callable::{Spot, calling_frame, calling_spot, calling_stack, this_thread};
use crate::clock::{
    SECOND,
    binding::{nanoseconds, optional_nanoseconds},
    coarse, precise,
};
use crate::errors::{Error, optional_callable};
use crate::guarding::{self, Dead, Guarded, attached, interned};
use crate::lifecycle;
use crate::upkeep;
use crate::waiting::{Settled, Ticket, Waiters, Woken};

/// How much of a stack is kept for `leak_after`.
const STACK: usize = 24;

/// How long to wait after a failing creation where the back-off itself fails.
const FALLBACK_DELAY: f64 = 1.0;

/// What `Lease::slot` says when nothing is lent.
const NO_SLOT: u32 = u32::MAX;

/// A resource, and the event loop that it belongs to where a coroutine function made it.
struct Resource {
    object: Py<PyAny>,
    event_loop: Option<Py<PyAny>>,
}

impl Addressed for Resource {
    fn address(&self) -> usize {
        self.object.as_ptr().addr()
    }
}

/// The task that has a resource: its name, and a weak reference that tells whether it still runs.
struct Task {
    name: Py<PyAny>,
    reference: Py<PyAny>,
}

/// Who has a resource, since when, and where it was taken.
struct Holder {
    /// Counts the loans: what was lent before is told from what is lent now.
    serial: u64,
    /// 0 while a waiter is on the way to fetch it.
    thread: u64,
    /// On the coarse clock.
    since: u64,
    spot: Option<Spot>,
    task: Option<Box<Task>>,
    stack: Option<Box<[Spot]>>,
    warned: bool,
}

impl Holder {
    #[inline]
    fn here(pool: &Pool, py: Python<'_>) -> Self {
        let stack = pool.plan.leak_after.map(|_| calling_stack(py, 0, STACK).into_boxed_slice());
        Self::new(lifecycle::ident(py).unwrap_or(0), calling_spot(py), stack)
    }

    fn new(thread: u64, spot: Option<Spot>, stack: Option<Box<[Spot]>>) -> Self {
        Self { serial: 0, thread, since: coarse(), spot, task: None, stack, warned: false }
    }

    fn on_the_way() -> Self {
        Self::new(0, None, None)
    }

    fn into_dead(self, dead: &mut Vec<Spent>) {
        dead.push(Spent::Holder(self));
    }
}

/// What is let go when a cell has been closed.
enum Spent {
    Holder(#[expect(dead_code, reason = "it is only let go")] Holder),
    Ticket(#[expect(dead_code, reason = "it is only let go")] Arc<Ticket<Gift>>),
}

/// What somebody in line is handed.
pub enum Gift {
    /// A resource, lent already: its slot and the number of the loan.
    Resource(u32, u64),
    /// A slot to make a resource in.
    Make(u32),
    /// The exception that kept a resource from being made.
    Failed(Py<PyAny>),
    /// No resource is left, and none can be made.
    NothingLeft,
    /// The last resource has come home.
    Empty,
}

fn show_gift(visit: &PyVisit<'_>, gift: &Gift) -> Result<(), PyTraverseError> {
    match gift {
        Gift::Failed(error) => visit.call(error),
        _ => Ok(()),
    }
}

/// What failing creations have come to.
#[derive(Default)]
struct Backoff {
    failures: u32,
    retry_at: u64,
    previous: Option<f64>,
    error: Option<Py<PyAny>>,
    /// The slot of the one attempt that is made at a time while creations fail.
    probe: Option<u32>,
}

/// A loan of the short form, `with pool as resource`.
struct Short {
    frame: Option<Py<PyAny>>,
    thread: usize,
    lease: Py<Lease>,
}

struct State {
    stock: Stock<Resource, Holder>,
    waiters: Waiters<Gift>,
    closers: Waiters<Gift>,
    closed: bool,
    /// The process that it belongs to, as the number of forks before.
    generation: u64,
    /// The number of the last loan, which is how many there have been.
    serial: u64,
    first_serial: u64,
    created: u64,
    destroyed: u64,
    failed: u64,
    timeouts: u64,
    waited: u64,
    backoff: Backoff,
    /// When the upkeep comes next, and its number on the timetable.
    job: Option<(u64, u64)>,
    fill_asked: bool,
    shorts: Vec<Short>,
    /// The loop in which idle resources are made ahead: the last one that took one.
    event_loop: Option<Py<PyAny>>,
    /// Resources of the process that this one was forked from, by address. They live for ever, so no other has theirs.
    parents: HashSet<usize>,
}

impl State {
    fn new(order: Order, max_size: usize) -> Self {
        Self {
            stock: Stock::new(order, max_size),
            waiters: Waiters::default(),
            closers: Waiters::default(),
            closed: false,
            generation: lifecycle::generation(),
            serial: 0,
            first_serial: 0,
            created: 0,
            destroyed: 0,
            failed: 0,
            timeouts: 0,
            waited: 0,
            backoff: Backoff::default(),
            job: None,
            fill_asked: false,
            shorts: Vec::new(),
            event_loop: None,
            parents: HashSet::new(),
        }
    }

    /// In a forked child: begins anew, and forgets the parent's resources without so much as letting a reference go, for
    /// a connection that is let go says goodbye to the server in the parent's name.
    #[cold]
    fn forget_the_parents(&mut self, plan: &Plan) {
        let max_size = if plan.fixed { 0 } else { self.stock.max_size() };
        let mut fresh = Self::new(plan.order, max_size);
        fresh.closed = self.closed;
        (fresh.serial, fresh.first_serial) = (self.serial, self.serial);
        fresh.shorts = std::mem::take(&mut self.shorts);
        fresh.parents = std::mem::take(&mut self.parents);
        fresh.parents.extend(self.stock.resources().map(Addressed::address));
        std::mem::forget(std::mem::replace(self, fresh));
    }

    #[inline]
    fn belongs_to_the_parent(&self) -> bool {
        self.generation != lifecycle::generation()
    }

    /// Whether a resource may be made now.
    fn may_make(&self, plan: &Plan, now: u64, in_background: bool) -> bool {
        let patient = self.backoff.failures == 0
            || (self.backoff.probe.is_none() && (now >= self.backoff.retry_at || !in_background));
        !self.closed && !plan.fixed && patient && self.stock.size() < self.stock.max_size()
    }

    fn reserve(&mut self) -> Option<u32> {
        let slot = self.stock.reserve()?;
        if self.backoff.failures > 0 {
            self.backoff.probe = Some(slot);
        }
        Some(slot)
    }

    fn number_the_loan(&mut self, slot: u32) -> u64 {
        self.serial += 1;
        if let Some(holder) = self.stock.holder_mut(slot) {
            holder.serial = self.serial;
        }
        self.serial
    }

    /// How many idle resources are to be made ahead.
    fn missing(&self, plan: &Plan) -> usize {
        let wanted = plan.min_idle.saturating_sub(self.stock.idle() + self.stock.busy());
        if self.closed { 0 } else { wanted.min(self.stock.max_size().saturating_sub(self.stock.size())) }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.belongs_to_the_parent() {
            let nothing = Stock::new(Order::Lifo, 0);
            std::mem::forget(std::mem::replace(&mut self.stock, nothing));
        }
    }
}

/// How long to wait.
#[derive(Clone, Copy)]
enum Limit {
    /// As long as the pool says.
    Own,
    Never,
    After(u64),
}

/// An argument that may be left out, which is not the same as `None`.
struct Given<'py>(Option<Bound<'py, PyAny>>);

impl<'py> FromPyObject<'_, 'py> for Given<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(Some(object.to_owned())))
    }
}

impl Given<'_> {
    #[inline]
    fn limit(&self) -> PyResult<Limit> {
        match &self.0 {
            None => Ok(Limit::Own),
            Some(value) if value.is_none() => Ok(Limit::Never),
            Some(value) => Ok(nanoseconds("timeout", value)?.map_or(Limit::Never, Limit::After)),
        }
    }
}

/// What the pool was told when it was made.
struct Plan {
    create: Option<Py<PyAny>>,
    close: Option<Py<PyAny>>,
    check: Option<Py<PyAny>>,
    reset: Option<Py<PyAny>>,
    backoff: Py<PyAny>,
    name: Py<PyAny>,
    order: Order,
    timeout: Option<u64>,
    max_waiting: Option<usize>,
    min_idle: usize,
    max_idle_time: u64,
    max_lifetime: u64,
    jitter: f64,
    leak_after: Option<u64>,
    /// Whether `create` is a coroutine function.
    asynchronous: bool,
    /// Whether the resources were given, and none is ever made.
    fixed: bool,
}

impl Plan {
    fn length(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Own => self.timeout,
            Limit::Never => None,
            Limit::After(length) => Some(length),
        }
    }
}

/// A slot that somebody has and that isn't lent yet.
enum Claim {
    /// Its resource is to be checked. The loan is numbered already.
    Check(u32),
    /// Its resource is too old to be lent once more.
    Replace(u32),
    /// A resource is to be made.
    Make(u32),
}

enum Entry {
    Claim(Claim),
    Queued {
        retry_at: Option<u64>,
    },
    /// Queued, behind the closing of an idle resource that belongs to another event loop.
    Evicts(u32),
    Full,
    Exhausted(usize),
    NothingLeft,
    Closed,
}

/// A resource that is lent.
struct Loan<'py> {
    slot: u32,
    serial: u64,
    resource: Bound<'py, PyAny>,
}

/// What has become of a resource that is given back.
enum Returned {
    Done(#[expect(dead_code, reason = "it is only let go")] Holder),
    Slowly,
    NotLent,
    Parents,
}

/// Calls a function of `ferrule.pooling`; its error, if it has one, is raised.
fn ask<'py>(py: Python<'py>, name: &str, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    py.import("ferrule.pooling")?.getattr(name)?.call1(args)
}

/// An exception that a function of `ferrule.pooling` makes.
fn exception<'py, A>(py: Python<'py>, name: &str, args: A) -> PyErr
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
{
    match args.into_pyobject(py).and_then(|args| ask(py, name, &args)) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

/// Keeps the first of two errors; the second has it for its context where both ended something.
fn first_of(one: PyResult<()>, other: PyResult<()>) -> PyResult<()> {
    match (one, other) {
        (Err(first), Err(second)) => {
            drop(second);
            Err(first)
        }
        (one, other) => one.and(other),
    }
}

/// A bounded number of resources, lent in order of arrival: the native half of `ferrule.ResourcePool`.
#[pyclass(subclass, frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Pool {
    state: Guarded<State>,
    plan: Plan,
}

impl Pool {
    /// The places that lead to the calling one, innermost first: as many as a message needs.
    fn stack(&self, py: Python<'_>, skipped: usize) -> Vec<Spot> {
        calling_stack(py, skipped, if self.plan.leak_after.is_some() { STACK } else { 1 })
    }

    /// Opens the state, which is this process's own.
    fn open<R>(&self, py: Python<'_>, body: impl FnOnce(&mut State, &mut Dead, &mut Vec<Spent>) -> R) -> R {
        let mut spent = Vec::new();
        let result = self.state.with(py, |state, dead| {
            if state.belongs_to_the_parent() {
                state.forget_the_parents(&self.plan);
            }
            body(state, dead, &mut spent)
        });
        if !spent.is_empty() {
            attached(py, |_| drop(spent));
        }
        result
    }

    // -- taking ------------------------------------------------------------------------------------------------------

    /// Takes an idle resource that needs no check. This is the hot path.
    #[inline]
    fn take_idle<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Loan<'py>>> {
        let py = this.py();
        let pool = this.get();
        if pool.plan.asynchronous || pool.plan.check.is_some() {
            return Ok(None);
        }
        let mut holder = Holder::here(pool, py);
        let taken = pool.state.peek(py, |state| {
            if state.belongs_to_the_parent() {
                return Err(holder);
            }
            holder.serial = state.serial + 1;
            let now = holder.since;
            let (slot, item) = state.stock.lend_idle(0, holder)?;
            let resource = item.resource.object.bind(py).clone();
            let old = item.dies <= now;
            state.serial += 1;
            let asks = pool.plan.min_idle > 0
                && !state.fill_asked
                && state.missing(&pool.plan) > 0
                && !std::mem::replace(&mut state.fill_asked, true);
            Ok((Loan { slot, serial: state.serial, resource }, old, asks))
        });
        match taken {
            Ok((loan, false, asks)) => {
                if asks {
                    Self::arrange(this, 0);
                }
                Ok(Some(loan))
            }
            Ok((loan, true, _)) => Self::make_good(this, Claim::Replace(loan.slot)),
            Err(_) => Ok(None),
        }
    }

    /// Lends a resource: one that is idle, or a new one, or the first that comes free.
    #[inline]
    fn take<'py>(this: &Bound<'py, Self>, limit: Limit) -> PyResult<Loan<'py>> {
        match Self::take_idle(this)? {
            Some(loan) => Ok(loan),
            None => Self::take_slowly(this, limit),
        }
    }

    #[cold]
    fn take_slowly<'py>(this: &Bound<'py, Self>, limit: Limit) -> PyResult<Loan<'py>> {
        let pool = this.get();
        if pool.plan.asynchronous {
            return Err(Error::State(
                "create is a coroutine function: this pool's resources are taken with `async with pool.lease()` or \
                 `await pool.acquire_async()`",
            )
            .into());
        }
        let length = pool.plan.length(limit);
        let begun = precise();
        let deadline = length.and_then(|length| begun.checked_add(length));
        loop {
            let ticket = Ticket::for_this_thread();
            let claim = match Self::enter(this, Some(&ticket), length != Some(0), 0)? {
                Some(claim) => claim,
                None => match Self::await_claim(this, &ticket, begun, deadline)? {
                    Some(claim) => claim,
                    // A signal handler has forked, and this is the child.
                    None => continue,
                },
            };
            if let Some(loan) = Self::make_good(this, claim)? {
                return Ok(loan);
            }
        }
    }

    /// Takes what there is, or else joins the line, if there is a ticket to join it with, and gives `None`.
    fn enter(
        this: &Bound<'_, Self>,
        ticket: Option<&Arc<Ticket<Gift>>>,
        wait: bool,
        home: usize,
    ) -> PyResult<Option<Claim>> {
        let py = this.py();
        let pool = this.get();
        let in_background = !upkeep::is_over(py);
        let now = precise();
        let entry = pool.open(py, |state, _, _| {
            if state.closed {
                return Entry::Closed;
            }
            if let Ok((slot, item)) = state.stock.lend_idle(home, Holder::on_the_way()) {
                let old = item.dies <= now;
                state.number_the_loan(slot);
                return Entry::Claim(if old { Claim::Replace(slot) } else { Claim::Check(slot) });
            }
            if pool.plan.fixed && state.stock.size() == 0 {
                return Entry::NothingLeft;
            }
            let first = state.waiters.first().is_none();
            if first
                && state.may_make(&pool.plan, now, in_background)
                && let Some(slot) = state.reserve()
            {
                return Entry::Claim(Claim::Make(slot));
            }
            if !wait {
                return Entry::Full;
            }
            let waiting = || state.waiters.waiting();
            if let Some(most) = pool.plan.max_waiting
                && let waiting = waiting()
                && waiting >= most
            {
                return Entry::Exhausted(waiting);
            }
            let Some(ticket) = ticket else { return Entry::Queued { retry_at: None } };
            state.waiters.join(ticket.clone());
            // What is idle belongs to other loops: the oldest makes room.
            if home != 0
                && first
                && state.backoff.failures == 0
                && let Some(slot) = state.stock.withdraw_oldest()
            {
                return Entry::Evicts(slot);
            }
            Entry::Queued { retry_at: (state.backoff.failures > 0).then_some(state.backoff.retry_at) }
        });
        match entry {
            Entry::Claim(claim) => {
                Self::ask_for_more(this);
                Ok(Some(claim))
            }
            Entry::Queued { retry_at } => {
                if let Some(moment) = retry_at {
                    Self::arrange(this, moment);
                }
                Ok(None)
            }
            Entry::Evicts(slot) => {
                Self::close_elsewhere(this, slot)?;
                Ok(None)
            }
            Entry::Full => Err(Self::timed_out(this, 0)),
            Entry::Exhausted(waiting) => Err(Self::exhausted(this, Some(waiting))),
            Entry::NothingLeft => Err(Self::exhausted(this, None)),
            Entry::Closed => Err(Self::is_closed(this)),
        }
    }

    /// Waits for a claim; `None` where this process turns out to be a fork of the one that began to wait.
    fn await_claim(
        this: &Bound<'_, Self>,
        ticket: &Arc<Ticket<Gift>>,
        begun: u64,
        deadline: Option<u64>,
    ) -> PyResult<Option<Claim>> {
        let py = this.py();
        let pool = this.get();
        let woken = ticket.wait(py, deadline);
        match woken {
            Err(interrupt) => {
                // Giving up calls into event loops, where a second signal may find us.
                let Err(second) = Self::give_up(this, ticket, false) else { return Err(interrupt) };
                second.set_context(py, Some(interrupt));
                return Err(second);
            }
            Ok(Woken::Forked) => return Ok(None),
            Ok(Woken::Expired | Woken::Settled) => {}
        }
        pool.note_wait(py, begun);
        let gift = match ticket.take(py) {
            Some(Settled::Given(gift)) => Some(gift),
            Some(Settled::Closed) => return Err(Self::is_closed(this)),
            // Only the deadline ends a wait that nobody has settled: whoever hands something over is just in time.
            Some(Settled::Left) | None => pool.leave_line(py, ticket, false),
        };
        let Some(gift) = gift else {
            return Err(Self::timed_out(this, deadline.map_or(0, |deadline| deadline - begun)));
        };
        Self::claim_of(this, gift).map(Some)
    }

    fn note_wait(&self, py: Python<'_>, begun: u64) {
        let waited = precise().saturating_sub(begun);
        self.open(py, |state, _, _| state.waited = state.waited.saturating_add(waited));
    }

    /// What somebody in line was handed.
    fn claim_of(this: &Bound<'_, Self>, gift: Gift) -> PyResult<Claim> {
        match gift {
            Gift::Resource(slot, _) => Ok(Claim::Check(slot)),
            Gift::Make(slot) => Ok(Claim::Make(slot)),
            Gift::Failed(error) => Err(PyErr::from_value(error.into_bound(this.py()))),
            Gift::NothingLeft | Gift::Empty => Err(Self::exhausted(this, None)),
        }
    }

    /// Leaves a line; gives back what was handed over at the last moment.
    fn leave_line(&self, py: Python<'_>, ticket: &Ticket<Gift>, closers: bool) -> Option<Gift> {
        let gift = ticket.leave(py);
        if ticket.is_in_line() {
            let mut gone = Vec::new();
            self.open(py, |state, _, spent| {
                let line = if closers { &mut state.closers } else { &mut state.waiters };
                line.note_leaving(&mut gone);
                spent.extend(gone.drain(..).map(Spent::Ticket));
            });
        }
        gift
    }

    /// Leaves a line; what was handed over already goes to the next. In a forked child it is the parent's to pass on.
    fn give_up(this: &Bound<'_, Self>, ticket: &Ticket<Gift>, closers: bool) -> PyResult<()> {
        let py = this.py();
        match this.get().leave_line(py, ticket, closers) {
            Some(Gift::Resource(slot, _)) if ticket.is_ours() => {
                this.get().open(py, |state, _, spent| {
                    if let Some(holder) = state.stock.take_back(slot) {
                        holder.into_dead(spent);
                    }
                });
                Self::settle(this, slot, true)
            }
            Some(Gift::Make(slot)) if ticket.is_ours() => Self::vacate(this, slot),
            Some(Gift::Failed(error)) => {
                guarding::release(py, Some(error));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Makes a claim a loan: checks the resource, replaces it, makes one. `None` where the slot has gone, because there is
    /// nothing to replace the resource with.
    fn make_good<'py>(this: &Bound<'py, Self>, claim: Claim) -> PyResult<Option<Loan<'py>>> {
        let py = this.py();
        let pool = this.get();
        let slot = match claim {
            Claim::Make(slot) => slot,
            Claim::Check(slot) | Claim::Replace(slot) => {
                let good = match claim {
                    Claim::Check(_) => Self::approve(this, slot),
                    _ => Ok(false),
                };
                if let Ok(true) = good {
                    return Ok(pool.lent(this, slot, Holder::here(pool, py)));
                }
                pool.open(py, |state, _, spent| {
                    if let Some(holder) = state.stock.take_back(slot) {
                        holder.into_dead(spent);
                    }
                });
                let closed = Self::call_close(this, slot);
                if good.is_err() || closed.is_err() || pool.plan.fixed {
                    let outcome = first_of(good.map(|_| ()), closed);
                    first_of(outcome, Self::vacate(this, slot))?;
                    return Ok(None);
                }
                pool.empty(py, slot);
                slot
            }
        };
        let resource = Self::create(this, slot)?;
        Self::made(this, slot, resource.unbind(), None, Some(Holder::here(pool, py)))?;
        Ok(pool.loan(this, slot))
    }

    /// Runs `check`. An error counts as a no and is told to the log; what ends a program comes out.
    fn approve(this: &Bound<'_, Self>, slot: u32) -> PyResult<bool> {
        let py = this.py();
        let pool = this.get();
        let Some(check) = &pool.plan.check else { return Ok(true) };
        let Some(resource) = pool.resource(py, slot) else { return Ok(false) };
        match guarding::call(check.bind(py), &[&resource]).and_then(|answer| answer.is_truthy()) {
            Ok(good) => Ok(good),
            Err(error) => Self::log(this, "check", error).map(|()| false),
        }
    }

    /// Writes the holder of a loan down that was on the way, and gives the loan.
    fn lent<'py>(&self, this: &Bound<'py, Self>, slot: u32, mut holder: Holder) -> Option<Loan<'py>> {
        let py = this.py();
        self.open(py, |state, _, spent| {
            let place = state.stock.holder_mut(slot)?;
            holder.serial = place.serial;
            let serial = holder.serial;
            std::mem::replace(place, holder).into_dead(spent);
            let resource = state.stock.resource(slot)?.object.bind(py).clone();
            Some(Loan { slot, serial, resource })
        })
    }

    fn loan<'py>(&self, this: &Bound<'py, Self>, slot: u32) -> Option<Loan<'py>> {
        let py = this.py();
        self.open(py, |state, _, _| {
            let serial = state.stock.holder(slot)?.serial;
            let resource = state.stock.resource(slot)?.object.bind(py).clone();
            Some(Loan { slot, serial, resource })
        })
    }

    fn resource<'py>(&self, py: Python<'py>, slot: u32) -> Option<Bound<'py, PyAny>> {
        self.open(py, |state, _, _| Some(state.stock.resource(slot)?.object.bind(py).clone()))
    }

    // -- giving back -------------------------------------------------------------------------------------------------

    /// Takes a loan back. With nobody in line and nothing to reset, this is the hot path.
    #[inline]
    fn give_back(this: &Bound<'_, Self>, slot: u32, serial: u64, failed: bool) -> PyResult<bool> {
        let py = this.py();
        let pool = this.get();
        let plain = pool.plan.reset.is_none() && (!failed || pool.plan.fixed);
        let now = coarse();
        let returned = pool.state.peek(py, |state| {
            if state.belongs_to_the_parent() {
                return Returned::Parents;
            }
            match state.stock.holder(slot) {
                Some(holder) if holder.serial == serial => {}
                _ => return Returned::NotLent,
            }
            if plain
                && !state.closed
                && state.waiters.is_empty()
                && let Some(holder) = state.stock.return_idle(slot, now)
            {
                return Returned::Done(holder);
            }
            Returned::Slowly
        });
        match returned {
            // What belongs to the parent is given back by the parent.
            Returned::Done(_) | Returned::Parents => Ok(true),
            Returned::Slowly => Self::give_back_slowly(this, slot, failed).map(|()| true),
            Returned::NotLent => Ok(false),
        }
    }

    #[cold]
    fn give_back_slowly(this: &Bound<'_, Self>, slot: u32, failed: bool) -> PyResult<()> {
        let py = this.py();
        let pool = this.get();
        pool.open(py, |state, _, spent| {
            if let Some(holder) = state.stock.take_back(slot) {
                holder.into_dead(spent);
            }
        });
        let mut outcome = Ok(());
        let mut kept = !failed || pool.plan.fixed || pool.plan.reset.is_some();
        if kept
            && let (Some(reset), Some(resource)) = (&pool.plan.reset, pool.resource(py, slot))
            && let Err(error) = guarding::call(reset.bind(py), &[&resource])
        {
            kept = false;
            outcome = Self::log(this, "reset", error);
        }
        first_of(outcome, Self::settle(this, slot, kept))
    }

    /// Decides what becomes of a resource that is being worked on: the next in line gets it, or it is idle, or it goes.
    fn settle(this: &Bound<'_, Self>, slot: u32, kept: bool) -> PyResult<()> {
        if kept && let Some(outcome) = Self::pass_on(this, slot) { outcome } else { Self::dispose(this, slot) }
    }

    /// Hands a resource that is being worked on to the next in line, or keeps it idle; `None` where it is to be closed.
    fn pass_on(this: &Bound<'_, Self>, slot: u32) -> Option<PyResult<()>> {
        let py = this.py();
        let pool = this.get();
        let mut outcome = Ok(());
        loop {
            let now = coarse();
            let next = pool.open(py, |state, _, spent| {
                if state.closed || !state.stock.is_kept(slot, now) {
                    return Err(false);
                }
                let home = state.stock.item(slot).map_or(0, |item| item.home);
                if home != 0 && state.waiters.first().is_some_and(|ticket| ticket.home() != home) {
                    // The first in line is in another event loop: a new resource takes this one's place.
                    return Err(false);
                }
                let mut gone = Vec::new();
                let ticket = state.waiters.next(&mut gone);
                spent.extend(gone.into_iter().map(Spent::Ticket));
                let Some(ticket) = ticket else {
                    state.stock.put_idle(slot, now);
                    return Err(true);
                };
                state.stock.lend(slot, Holder::on_the_way());
                Ok((ticket, state.number_the_loan(slot)))
            });
            let (ticket, serial) = match next {
                Err(true) => return Some(outcome),
                Err(false) => {
                    return match outcome {
                        Ok(()) => None,
                        Err(error) => Some(first_of(Err(error), Self::dispose(this, slot))),
                    };
                }
                Ok(next) => next,
            };
            let (given, interrupted) = ticket.give(py, Gift::Resource(slot, serial));
            outcome = first_of(outcome, interrupted);
            attached(py, |_| drop(ticket));
            if given.is_ok() {
                return Some(outcome);
            }
            pool.open(py, |state, _, spent| {
                state.serial -= u64::from(state.serial == serial);
                if let Some(holder) = state.stock.take_back(slot) {
                    holder.into_dead(spent);
                }
            });
        }
    }

    /// The loan of a resource that somebody gives back by itself; `None` where it is the parent's, which this process was
    /// forked from.
    #[inline]
    fn find(this: &Bound<'_, Self>, resource: &Bound<'_, PyAny>) -> PyResult<Option<(u32, u64)>> {
        let py = this.py();
        let pool = this.get();
        let address = resource.as_ptr().addr();
        let found = pool.state.peek(py, |state| {
            if state.belongs_to_the_parent() {
                return None;
            }
            match state.stock.find(address) {
                Known::Lent(slot) => state.stock.holder(slot).map(|holder| (slot, holder.serial)),
                _ => None,
            }
        });
        if let Some(loan) = found {
            return Ok(Some(loan));
        }
        let (known, parents) =
            pool.open(py, |state, _, _| (state.stock.find(address), state.parents.contains(&address)));
        if parents {
            return Ok(None);
        }
        if known == Known::Stranger {
            let args = PyTuple::new(py, [pool.plan.name.bind(py), resource])?;
            return Err(PyErr::from_value(ask(py, "stranger_error", &args)?));
        }
        Err(Self::released_twice(this, resource))
    }

    #[cold]
    fn released_twice(this: &Bound<'_, Self>, resource: &Bound<'_, PyAny>) -> PyErr {
        let name = this.get().plan.name.clone_ref(this.py());
        exception(this.py(), "released_twice_error", (name, resource.clone().unbind()))
    }

    // -- telling -----------------------------------------------------------------------------------------------------

    /// Tells the log of a callback's error. What ends a program comes out.
    fn log(this: &Bound<'_, Self>, what: &str, error: PyErr) -> PyResult<()> {
        let py = this.py();
        if !error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        let value = error.into_value(py).into_bound(py).into_any();
        let what = PyString::new(py, what).into_any();
        let args = PyTuple::new(py, [this.get().plan.name.bind(py).clone(), what, value])?;
        ask(py, "log_failure", &args).map(|_| ())
    }

    fn is_closed(this: &Bound<'_, Self>) -> PyErr {
        exception(this.py(), "closed_error", (this.get().plan.name.clone_ref(this.py()),))
    }

    fn exhausted(this: &Bound<'_, Self>, waiting: Option<usize>) -> PyErr {
        exception(this.py(), "exhausted_error", (this.get().plan.name.clone_ref(this.py()), waiting))
    }

    /// A wait of so many nanoseconds was in vain: says who has what.
    fn timed_out(this: &Bound<'_, Self>, length: u64) -> PyErr {
        let py = this.py();
        let pool = this.get();
        let now = precise();
        let (told, size, waiting, failures, error, closed) = pool.open(py, |state, _, _| {
            state.timeouts += u64::from(!state.closed);
            let told: Vec<_> = state.stock.holders().map(|holder| Told::of(py, holder, now)).collect();
            let error = state.backoff.error.as_ref().map(|error| error.clone_ref(py));
            let size = if state.closed { state.stock.size() } else { state.stock.max_size() };
            (told, size, state.waiters.waiting(), state.backoff.failures, error, state.closed)
        });
        let holders: PyResult<Vec<_>> = told.into_iter().map(|told| told.into_tuple(py)).collect();
        let seconds = length as f64 / SECOND as f64;
        match holders.and_then(|holders| PyList::new(py, holders)) {
            Ok(holders) => {
                let name = pool.plan.name.clone_ref(py);
                exception(py, "timeout_error", (name, seconds, holders, size, waiting, failures, error, closed))
            }
            Err(error) => error,
        }
    }
}

/// What is told of somebody who has a resource.
struct Told {
    thread: u64,
    task: Option<(Py<PyAny>, Py<PyAny>)>,
    held: u64,
    spots: Vec<Spot>,
}

impl Told {
    fn of(py: Python<'_>, holder: &Holder, now: u64) -> Self {
        let spots = match (&holder.stack, &holder.spot) {
            (Some(stack), _) if !stack.is_empty() => stack.iter().map(|spot| spot.clone_ref(py)).collect(),
            (_, Some(spot)) => vec![spot.clone_ref(py)],
            _ => Vec::new(),
        };
        let task = holder.task.as_ref().map(|task| (task.name.clone_ref(py), task.reference.clone_ref(py)));
        Self { thread: holder.thread, task, held: now.saturating_sub(holder.since), spots }
    }

    /// The thread, the task's name, the reference to it, the seconds, and the places as pairs of code and instruction.
    fn into_tuple(self, py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        let (name, reference) = match self.task {
            Some((name, reference)) => (Some(name), Some(reference)),
            None => (None, None),
        };
        let spots: Vec<_> = self.spots.iter().map(|spot| spot.parts(py)).collect();
        (self.thread, name, reference, self.held as f64 / SECOND as f64, spots).into_pyobject(py)
    }
}

/// Asks the policy of `create_backoff` how long to wait.
fn ask_backoff(
    py: Python<'_>,
    backoff: &Bound<'_, PyAny>,
    number: u32,
    error: &Bound<'_, PyAny>,
    previous: Option<f64>,
) -> PyResult<f64> {
    let number = number.into_pyobject(py)?.into_any();
    let previous = previous.into_pyobject(py)?.into_any();
    let delay = guarding::call_method(backoff, interned!(py, "next_delay"), &[&number, error, &previous])?;
    Ok(nanoseconds("create_backoff's delay", &delay)?.map_or(f64::from(u32::MAX), |delay| delay as f64 / SECOND as f64))
}

fn number(name: &str, value: &Bound<'_, PyAny>, least: usize, expected: &'static str) -> PyResult<usize> {
    if value.is_instance_of::<PyBool>() {
        return Err(Error::wrong_type(name, expected, value).into());
    }
    match value.extract::<usize>() {
        Ok(number) if number >= least && u32::try_from(number).is_ok() => Ok(number),
        Ok(_) => Err(Error::wrong_value(name, expected, value).into()),
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(value.py()) => {
            Err(Error::wrong_value(name, expected, value).into())
        }
        Err(_) => Err(Error::wrong_type(name, expected, value).into()),
    }
}

const POSITIVE: &str = "a whole number of at least 1";
const NOT_NEGATIVE: &str = "a whole number of at least 0";

#[pymethods]
impl Pool {
    #[new]
    #[pyo3(signature = (create, resources, max_size, min_idle, order, check, reset, close, timeout, max_waiting,
        max_idle_time, max_lifetime, lifetime_jitter, create_backoff, leak_after, name, asynchronous))]
    #[expect(clippy::too_many_arguments, reason = "the face's parameters, one each")]
    fn new(
        create: Option<Bound<'_, PyAny>>,
        resources: Option<Vec<Bound<'_, PyAny>>>,
        max_size: &Bound<'_, PyAny>,
        min_idle: &Bound<'_, PyAny>,
        order: &Bound<'_, PyAny>,
        check: Option<Bound<'_, PyAny>>,
        reset: Option<Bound<'_, PyAny>>,
        close: Option<Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
        max_waiting: Option<&Bound<'_, PyAny>>,
        max_idle_time: Option<&Bound<'_, PyAny>>,
        max_lifetime: Option<&Bound<'_, PyAny>>,
        lifetime_jitter: &Bound<'_, PyAny>,
        create_backoff: Py<PyAny>,
        leak_after: Option<&Bound<'_, PyAny>>,
        name: Bound<'_, PyAny>,
        asynchronous: bool,
    ) -> PyResult<Self> {
        let py = max_size.py();
        let order = match order.extract::<&str>() {
            Ok("lifo") => Order::Lifo,
            Ok("fifo") => Order::Fifo,
            _ => return Err(Error::wrong_value("order", "'lifo' or 'fifo'", order).into()),
        };
        let fixed = resources.is_some();
        let most = number("max_size", max_size, 1, POSITIVE)?;
        let least = number("min_idle", min_idle, 0, NOT_NEGATIVE)?;
        if least > most {
            return Err(Error::wrong_value("min_idle", "at most max_size", min_idle).into());
        }
        let max_waiting = max_waiting
            .map(|value| number("max_waiting", value, 0, "a whole number of at least 0, or None"))
            .transpose()?;
        let jitter: f64 = lifetime_jitter
            .extract()
            .map_err(|_| Error::wrong_type("lifetime_jitter", "a fraction from 0 to 1", lifetime_jitter))?;
        if !(0.0..=1.0).contains(&jitter) || lifetime_jitter.is_instance_of::<PyBool>() {
            return Err(Error::wrong_value("lifetime_jitter", "a fraction from 0 to 1", lifetime_jitter).into());
        }
        if !name.is_none() && !name.is_instance_of::<PyString>() {
            return Err(Error::wrong_type("name", "a string or None", &name).into());
        }
        let plan = Plan {
            create: optional_callable("create", "callable or None", create)?,
            check: optional_callable("check", "callable or None", check)?,
            reset: optional_callable("reset", "callable or None", reset)?,
            close: optional_callable("close", "callable or None", close)?,
            backoff: create_backoff,
            name: name.unbind(),
            order,
            timeout: optional_nanoseconds("timeout", timeout)?,
            max_waiting,
            min_idle: least,
            max_idle_time: optional_nanoseconds("max_idle_time", max_idle_time)?.unwrap_or(NEVER),
            max_lifetime: optional_nanoseconds("max_lifetime", max_lifetime)?.unwrap_or(NEVER),
            jitter,
            leak_after: optional_nanoseconds("leak_after", leak_after)?,
            asynchronous,
            fixed,
        };
        let pool = Self { state: Guarded::new(State::new(order, most)), plan };
        for object in resources.into_iter().flatten() {
            let resource = Resource { object: object.clone().unbind(), event_loop: None };
            let refused = pool.open(py, |state, dead, _| {
                let Some(slot) = state.stock.reserve() else { return true };
                match state.stock.fill(slot, resource, 0, NEVER) {
                    Ok(()) => state.stock.put_idle(slot, 0),
                    Err(twice) => {
                        dead.push(twice.object);
                        return true;
                    }
                }
                false
            });
            if refused {
                return Err(Error::wrong_value("resources", "different objects, each there once", &object).into());
            }
        }
        Ok(pool)
    }

    /// The class with the type of its resources, for annotations and for bases.
    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls.as_any(), item)
    }

    /// Lend a resource for the length of a block, of `with` or of `async with`.
    ///
    /// A block that ends with an exception has its resource reset, or closed where there is no `reset`.
    ///
    /// Args:
    ///     timeout: Seconds (or a `timedelta`) to wait for one; left out, the pool's own; 0 doesn't wait, `None` waits for
    ///         ever.
    ///
    /// Raises:
    ///     `PoolTimeout`: When entered, if none came free in time.
    ///     `PoolExhausted`: When entered, if more wait already than `max_waiting` allows, or there will never be one.
    ///     `PoolClosed`: When entered, if the pool is closed, or was closed meanwhile.
    #[pyo3(signature = (*, timeout=Given(None)), text_signature = "($self, *, timeout=...)")]
    fn lease(this: &Bound<'_, Self>, timeout: Given<'_>) -> PyResult<Lease> {
        Ok(Lease::new(this, timeout.limit()?))
    }

    /// Take a resource, to be given back by `release`.
    ///
    /// Args:
    ///     timeout: As for `lease`.
    ///
    /// Raises:
    ///     `PoolTimeout`, `PoolExhausted`, `PoolClosed`: As for `lease`.
    #[pyo3(signature = (*, timeout=Given(None)), text_signature = "($self, *, timeout=...)")]
    fn acquire<'py>(this: &Bound<'py, Self>, timeout: Given<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Self::take(this, timeout.limit()?)?.resource)
    }

    /// Give a resource back that `acquire` gave.
    ///
    /// Args:
    ///     resource: The resource.
    ///     discard: Have it closed, because it is broken or in a state that nobody knows.
    ///
    /// Raises:
    ///     `RuntimeError`: If it is not this pool's, or not lent.
    #[pyo3(signature = (resource, /, *, discard=false))]
    fn release(this: &Bound<'_, Self>, resource: &Bound<'_, PyAny>, discard: bool) -> PyResult<()> {
        if this.get().plan.asynchronous {
            return Err(Error::State(
                "create is a coroutine function: give its resources back with `await pool.release_async(resource)`",
            )
            .into());
        }
        let Some((slot, serial)) = Self::find(this, resource)? else { return Ok(()) };
        if discard {
            let taken = this.get().open(this.py(), |state, _, spent| {
                let lent = state.stock.holder(slot).is_some_and(|holder| holder.serial == serial);
                lent.then(|| state.stock.take_back(slot)).flatten().map(|holder| holder.into_dead(spent))
            });
            return match taken {
                Some(()) => Self::settle(this, slot, false),
                None => Err(Self::released_twice(this, resource)),
            };
        }
        if Self::give_back(this, slot, serial, false)? {
            return Ok(());
        }
        // Somebody else was quicker.
        Err(Self::released_twice(this, resource))
    }

    /// Lend a resource for a block: the short form, which nests and may be used by many threads at once.
    fn __enter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let lease = Bound::new(py, Lease::new(this, Limit::Own))?;
        let resource = Lease::enter(lease.get(), py)?;
        Self::push_short(this, lease.unbind(), calling_frame(py).map(Bound::unbind));
        Ok(resource)
    }

    #[pyo3(signature = (error_type, error, traceback, /))]
    fn __exit__(
        this: &Bound<'_, Self>,
        error_type: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (error_type, traceback);
        Self::pop_short(this)?.get().leave(this.py(), !error.is_none())
    }

    fn __aenter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let frame = calling_frame(py);
        let lease = Bound::new(py, Lease::new(this, Limit::Own))?;
        let approach = Bound::new(py, Approach::new(this, Limit::Own, this.get().stack(py, 0)))?;
        this.call_method1(interned!(py, "_enter_short"), (lease, approach, frame))
    }

    #[pyo3(signature = (error_type, error, traceback, /))]
    fn __aexit__<'py>(
        this: &Bound<'py, Self>,
        error_type: &Bound<'py, PyAny>,
        error: &Bound<'py, PyAny>,
        traceback: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = (error_type, traceback);
        let lease = Self::pop_short(this)?.into_bound(this.py());
        Lease::leave_async(&lease, !error.is_none())
    }

    /// Notes a loan of the short form.
    #[pyo3(signature = (lease, frame, /))]
    fn _push_short(this: &Bound<'_, Self>, lease: Py<Lease>, frame: Option<Py<PyAny>>) {
        Self::push_short(this, lease, frame);
    }

    /// A way to a resource, for a task.
    #[pyo3(signature = (timeout, /))]
    fn _approach(this: &Bound<'_, Self>, timeout: &Bound<'_, PyAny>) -> PyResult<Approach> {
        let given = if timeout.is(this.py().Ellipsis()) { Given(None) } else { Given(Some(timeout.clone())) };
        // The innermost frame is the coroutine's that asks.
        Ok(Approach::new(this, given.limit()?, this.get().stack(this.py(), 1)))
    }

    /// The loan of a resource; `None` where it is the parent's, which this process was forked from.
    #[pyo3(signature = (resource, /))]
    fn _find(this: &Bound<'_, Self>, resource: &Bound<'_, PyAny>) -> PyResult<Option<(u32, u64)>> {
        Self::find(this, resource)
    }

    /// Takes a loan back from a task: "done" with it, or it "resets" or "closes" first.
    #[pyo3(signature = (slot, serial, kept, event_loop, /))]
    fn _take_back(
        this: &Bound<'_, Self>,
        slot: u32,
        serial: u64,
        kept: bool,
        event_loop: &Bound<'_, PyAny>,
    ) -> PyResult<&'static str> {
        enum Taken {
            Parents,
            NotLent,
            Elsewhere,
            Yes,
        }
        let py = this.py();
        let pool = this.get();
        let taken = pool.open(py, |state, _, spent| {
            if serial <= state.first_serial {
                return Taken::Parents;
            }
            if state.stock.holder(slot).is_none_or(|holder| holder.serial != serial) {
                return Taken::NotLent;
            }
            let home = state.stock.item(slot).map_or(0, |item| item.home);
            if home != 0 && home != event_loop.as_ptr().addr() {
                return Taken::Elsewhere;
            }
            if let Some(holder) = state.stock.take_back(slot) {
                holder.into_dead(spent);
            }
            Taken::Yes
        });
        match taken {
            Taken::Parents => return Ok("done"),
            Taken::NotLent => return Ok("lost"),
            Taken::Elsewhere => {
                return Err(Error::State("this resource belongs to another event loop: give it back there").into());
            }
            Taken::Yes => {}
        }
        if kept && pool.plan.reset.is_some() {
            return Ok("resets");
        }
        this.get().settle_async(this, slot, kept)
    }

    /// Decides what becomes of a resource that a task has reset: "done" with it, or it "closes".
    #[pyo3(signature = (slot, kept, /))]
    fn _settle(this: &Bound<'_, Self>, slot: u32, kept: bool) -> PyResult<&'static str> {
        this.get().settle_async(this, slot, kept)
    }

    /// Gives a slot up that is being worked on.
    #[pyo3(signature = (slot, /))]
    fn _vacate(this: &Bound<'_, Self>, slot: u32) -> PyResult<()> {
        Self::vacate(this, slot)
    }

    /// The resource in a slot.
    #[pyo3(signature = (slot, /))]
    fn _resource<'py>(&self, py: Python<'py>, slot: u32) -> Option<Bound<'py, PyAny>> {
        self.resource(py, slot)
    }

    /// A resource made ahead, in an event loop.
    #[pyo3(signature = (slot, resource, event_loop, /))]
    fn _made(this: &Bound<'_, Self>, slot: u32, resource: Py<PyAny>, event_loop: Py<PyAny>) -> PyResult<()> {
        Self::made(this, slot, resource, Some(event_loop), None)
    }

    /// A creation ahead has failed; tells the log.
    #[pyo3(signature = (slot, error, /))]
    fn _failed(this: &Bound<'_, Self>, slot: u32, error: Bound<'_, PyAny>) -> PyResult<()> {
        let error = Self::failed(this, slot, PyErr::from_value(error));
        Self::log(this, "create", error)
    }

    /// Makes idle resources ahead, in `event_loop` if the pool is for tasks.
    #[pyo3(signature = (event_loop, /))]
    fn _begin(this: &Bound<'_, Self>, event_loop: Option<Py<PyAny>>) {
        let begins = this.get().open(this.py(), |state, _, _| {
            let asks = this.get().plan.min_idle > 0 && !std::mem::replace(&mut state.fill_asked, true);
            state.event_loop = event_loop;
            asks
        });
        if begins {
            Self::arrange(this, 0);
        }
    }

    /// What the pool has and has done, as the fields of `ferrule.PoolStats`.
    fn _figures(&self, py: Python<'_>) -> ([usize; 5], [u64; 5], f64) {
        self.open(py, |state, _, _| {
            let stock = &state.stock;
            (
                [stock.size(), stock.idle(), stock.lent(), state.waiters.waiting(), stock.max_size()],
                [state.created, state.destroyed, state.failed, state.serial - state.first_serial, state.timeouts],
                state.waited as f64 / SECOND as f64,
            )
        })
    }

    /// Whether the pool is closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        self.open(py, |state, _, _| state.closed)
    }

    /// The pool's name.
    #[getter]
    fn name(&self, py: Python<'_>) -> Py<PyAny> {
        self.plan.name.clone_ref(py)
    }

    /// Set how many resources there may be: more at once, fewer as they come back.
    ///
    /// Args:
    ///     `max_size`: How many.
    ///
    /// Raises:
    ///     `TypeError`, `ValueError`: If it is no whole number of at least 1 and `min_idle`.
    ///     `RuntimeError`: If the resources were given.
    #[pyo3(signature = (max_size, /))]
    fn resize(this: &Bound<'_, Self>, max_size: &Bound<'_, PyAny>) -> PyResult<()> {
        let pool = this.get();
        pool.refuse_if_fixed("resized")?;
        let most = number("max_size", max_size, 1, POSITIVE)?;
        if most < pool.plan.min_idle {
            return Err(Error::wrong_value("max_size", "at least min_idle", max_size).into());
        }
        let now = precise();
        let spent = pool.open(this.py(), |state, _, _| {
            state.stock.resize(most);
            state.stock.withdraw_spent(now, NEVER, 0)
        });
        Self::clear_out(this, spent)
    }

    /// Replace all resources: those that are idle now, the others when they come back.
    ///
    /// Raises:
    ///     `RuntimeError`: If the resources were given.
    fn drain(this: &Bound<'_, Self>) -> PyResult<()> {
        let pool = this.get();
        pool.refuse_if_fixed("drained")?;
        let spent = pool.open(this.py(), |state, _, _| {
            state.stock.drain();
            state.stock.withdraw_all()
        });
        Self::clear_out(this, spent)
    }

    /// Close the pool: nobody gets anything any more, and what is lent is waited for.
    ///
    /// Args:
    ///     timeout: Seconds (or a `timedelta`) to wait; left out, the pool's own; 0 doesn't wait, `None` waits for ever.
    ///
    /// Raises:
    ///     `PoolTimeout`: If something is still lent then; it is closed when it comes back.
    #[pyo3(signature = (timeout=Given(None)), text_signature = "($self, timeout=...)")]
    fn close(this: &Bound<'_, Self>, timeout: Given<'_>) -> PyResult<()> {
        let py = this.py();
        let pool = this.get();
        if pool.plan.asynchronous {
            return Err(Error::State(
                "create is a coroutine function: close this pool with `await pool.close_async()`",
            )
            .into());
        }
        let length = pool.plan.length(timeout.limit()?);
        let idle = Self::shut(this)?;
        let mut outcome = Ok(());
        for slot in idle {
            outcome = first_of(outcome, Self::destroy(this, slot));
        }
        outcome?;
        let begun = precise();
        let deadline = length.and_then(|length| begun.checked_add(length));
        loop {
            let ticket = Ticket::for_this_thread();
            if pool.join_closers(py, &ticket) {
                return Ok(());
            }
            match ticket.wait(py, deadline) {
                Err(interrupt) => {
                    pool.leave_line(py, &ticket, true);
                    return Err(interrupt);
                }
                Ok(Woken::Forked) => {}
                Ok(Woken::Settled) => return Ok(()),
                Ok(Woken::Expired) => {
                    return match pool.leave_line(py, &ticket, true) {
                        Some(_) => Ok(()),
                        None => Err(Self::timed_out(this, length.unwrap_or(0))),
                    };
                }
            }
        }
    }

    /// Begins to close the pool: gives the slots of the idle resources, each with its event loop.
    fn _shut<'py>(this: &Bound<'py, Self>) -> PyResult<Vec<(u32, Option<Bound<'py, PyAny>>)>> {
        let py = this.py();
        let slots = Self::shut(this)?;
        Ok(this.get().open(py, |state, _, _| {
            let loop_of = |slot| Some(state.stock.item(slot)?.resource.event_loop.as_ref()?.bind(py).clone());
            slots.into_iter().map(|slot| (slot, loop_of(slot))).collect()
        }))
    }

    /// The wait of a task for the last resource to come home; `None` where there is nothing to wait for.
    #[pyo3(signature = (event_loop, timeout, /))]
    fn _departure<'py>(
        this: &Bound<'py, Self>,
        event_loop: &Bound<'py, PyAny>,
        timeout: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Approach>>> {
        let py = this.py();
        let given = if timeout.is(py.Ellipsis()) { Given(None) } else { Given(Some(timeout.clone())) };
        let approach = Bound::new(py, Approach::new(this, given.limit()?, Vec::new()))?;
        Ok(Approach::wait_for_closing(&approach, event_loop)?.then_some(approach))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let plan = &self.plan;
        visit.call(&plan.create)?;
        visit.call(&plan.close)?;
        visit.call(&plan.check)?;
        visit.call(&plan.reset)?;
        visit.call(&plan.backoff)?;
        self.state.traverse(|state| {
            if state.belongs_to_the_parent() {
                return Ok(());
            }
            for resource in state.stock.resources() {
                visit.call(&resource.object)?;
                visit.call(&resource.event_loop)?;
            }
            for holder in state.stock.holders() {
                if let Some(task) = &holder.task {
                    visit.call(&task.reference)?;
                }
            }
            for short in &state.shorts {
                visit.call(&short.frame)?;
                visit.call(&short.lease)?;
            }
            visit.call(&state.backoff.error)?;
            visit.call(&state.event_loop)?;
            state.waiters.traverse(&visit, |gift| show_gift(&visit, gift))?;
            state.closers.traverse(&visit, |gift| show_gift(&visit, gift))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        // Nobody can reach it any more, so nobody waits for what comes back.
        let order = self.plan.order;
        let state = self.state.with(py, |state, _| {
            let mut fresh = State::new(order, state.stock.max_size());
            fresh.closed = true;
            fresh.generation = state.generation;
            std::mem::replace(state, fresh)
        });
        drop(state);
    }
}

impl Pool {
    fn refuse_if_fixed(&self, what: &str) -> PyResult<()> {
        if self.plan.fixed {
            let text = format!("a pool of given resources can't be {what}: it has no create");
            return Err(pyo3::exceptions::PyRuntimeError::new_err(text));
        }
        Ok(())
    }

    /// Closes what was taken out, lets those in line have what became free, and makes idle resources ahead.
    fn clear_out(this: &Bound<'_, Self>, slots: Vec<u32>) -> PyResult<()> {
        let mut outcome = Ok(());
        for slot in slots {
            outcome = first_of(outcome, Self::dispose(this, slot));
        }
        outcome = first_of(outcome, Self::offer(this));
        if this.get().plan.min_idle > 0 {
            Self::arrange(this, 0);
        }
        outcome
    }

    /// Closes the pool to newcomers, tells those in line, and gives the slots of what is idle, to be closed.
    fn shut(this: &Bound<'_, Self>) -> PyResult<Vec<u32>> {
        let py = this.py();
        let (waiting, idle, job) = this.get().open(py, |state, _, _| {
            state.closed = true;
            (state.waiters.drain(), state.stock.withdraw_all(), state.job.take())
        });
        if let Some((due, number)) = job {
            upkeep::cancel(py, due, number);
        }
        let mut outcome = Ok(());
        for ticket in &waiting {
            outcome = first_of(outcome, ticket.close(py));
        }
        attached(py, |_| drop(waiting));
        outcome.map(|()| idle)
    }

    /// Joins the line of those who wait for the last resource to come home; true where it has.
    fn join_closers(&self, py: Python<'_>, ticket: &Arc<Ticket<Gift>>) -> bool {
        self.open(py, |state, _, _| {
            let empty = state.stock.size() == 0;
            if !empty {
                state.closers.join(ticket.clone());
            }
            empty
        })
    }

    fn settle_async(&self, this: &Bound<'_, Self>, slot: u32, kept: bool) -> PyResult<&'static str> {
        if kept && let Some(outcome) = Self::pass_on(this, slot) {
            return outcome.map(|()| "done");
        }
        if self.plan.close.is_none() {
            return Self::vacate(this, slot).map(|()| "done");
        }
        Ok("closes")
    }

    fn push_short(this: &Bound<'_, Self>, lease: Py<Lease>, frame: Option<Py<PyAny>>) {
        let thread = this_thread();
        this.get().open(this.py(), |state, _, _| state.shorts.push(Short { frame, thread, lease }));
    }

    /// The innermost loan of the calling frame; failing that, of the thread.
    fn pop_short(this: &Bound<'_, Self>) -> PyResult<Py<Lease>> {
        let py = this.py();
        let (frame, thread) = (calling_frame(py), this_thread());
        let popped = this.get().open(py, |state, _, _| {
            let here = |short: &Short| match (&short.frame, &frame) {
                (Some(entered), Some(frame)) => entered.is(frame),
                _ => false,
            };
            let place = state.shorts.iter().rposition(here);
            let place = place.or_else(|| state.shorts.iter().rposition(|short| short.thread == thread))?;
            Some(state.shorts.remove(place))
        });
        let Some(Short { frame, lease, .. }) = popped else {
            return Err(Error::State("this pool was left more often than it was entered").into());
        };
        // The frame that was held is let go with the cell closed.
        guarding::release(py, frame);
        Ok(lease)
    }
}

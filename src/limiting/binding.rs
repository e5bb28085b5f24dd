//! Limiting as Python sees it.

use std::cmp::{Ordering as Order, Reverse};
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyWeakrefMethods, PyWeakrefReference};

use super::gcra::{Answer, PARTS, Rate};
use super::queue::{Gone, Line, Place, Turn, let_go};
use crate::callable::{Call, Native, Outcome, Wrapper};
use crate::clock::{SECOND, binding as alarms, precise};
use crate::errors::Error;
use crate::guarding::{self, Guarded, Made, Tally, call_method, interned};
use crate::lifecycle;
use crate::waiting::{Settled, Ticket, Woken, call_in_loop, wake_future};

/// What stands for the moment at which a bucket is full, once it has been forgotten.
const FORGOTTEN: u64 = u64::MAX;

/// How many buckets that are full again are looked for when a new one is made.
const SWEEP: usize = 2;

/// The clock in the parts of a nanosecond that buckets count in.
#[inline]
fn now() -> u64 {
    precise() * PARTS
}

fn seconds(parts: u64) -> f64 {
    parts as f64 / (SECOND * PARTS) as f64
}

/// Parts of a nanosecond as nanoseconds, rounded up: whoever wakes then is not too early.
fn nanoseconds(parts: u64) -> u64 {
    parts.div_ceil(PARTS)
}

/// A number of tokens.
struct Count(u64);

impl<'py> FromPyObject<'_, 'py> for Count {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        const EXPECTED: &str = "an integer of 1 or more, and no more than burst";
        if !object.is_instance_of::<PyInt>() || object.is_instance_of::<PyBool>() {
            return Err(Error::wrong_type("n", EXPECTED, &object).into());
        }
        match object.extract() {
            Ok(0) | Err(_) => Err(Error::wrong_value("n", EXPECTED, &object).into()),
            Ok(n) => Ok(Self(n)),
        }
    }
}

/// What is known of one key.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Bucket {
    /// The moment at which it will be full again.
    full: AtomicU64,
    /// Whether somebody waits, to be read without opening the line: the number of forks before, plus 1.
    crowded: AtomicU64,
    line: Guarded<Option<Box<Line>>>,
    key: Py<PyAny>,
}

impl Bucket {
    fn new(key: Py<PyAny>) -> Self {
        Self { full: AtomicU64::new(0), crowded: AtomicU64::new(0), line: Guarded::new(None), key }
    }

    fn with_line<R>(&self, py: Python<'_>, body: impl FnOnce(&mut Line, &mut Gone) -> R) -> R {
        let mut gone = Gone::new();
        let result = self.line.with(py, |line, _| {
            let line = line.get_or_insert_default();
            let result = body(line, &mut gone);
            let crowded = if line.has_leader() { lifecycle::generation() + 1 } else { 0 };
            self.crowded.store(crowded, Ordering::Release);
            result
        });
        let_go(gone);
        result
    }

    #[inline]
    fn is_crowded(&self) -> bool {
        let crowded = self.crowded.load(Ordering::Acquire);
        crowded != 0 && crowded == lifecycle::generation() + 1
    }

    /// Puts `new` in the place of `old`, unless another thread was quicker.
    #[inline]
    fn exchange(&self, _py: Python<'_>, old: u64, new: u64) -> bool {
        if cfg!(Py_GIL_DISABLED) {
            self.full.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        } else {
            // With the interpreter lock held, which the token proves, nobody can have been.
            self.full.store(new, Ordering::Relaxed);
            true
        }
    }

    /// Takes tokens, or says how long it will be until they are there; `None` for a bucket that has been forgotten.
    #[inline]
    fn take(&self, py: Python<'_>, rate: Rate, n: u64) -> Option<Result<(), u64>> {
        let now = now();
        loop {
            let full = self.full.load(Ordering::Relaxed);
            if full == FORGOTTEN {
                return None;
            }
            match rate.ask(full, now, n) {
                Answer::Wait(parts) => return Some(Err(parts)),
                Answer::Taken(taken) if self.exchange(py, full, taken) => return Some(Ok(())),
                Answer::Taken(_) => {}
            }
        }
    }

    /// Takes tokens for one who waits: their bucket is not forgotten.
    fn take_for_waiter(&self, py: Python<'_>, rate: Rate, n: u64) -> Result<(), u64> {
        self.take(py, rate, n).unwrap_or(Ok(()))
    }

    /// Gives tokens back, and tells the one who waits for them.
    fn give_back(&self, py: Python<'_>, rate: Rate, n: u64) -> PyResult<()> {
        loop {
            let full = self.full.load(Ordering::Relaxed);
            if full == FORGOTTEN || self.exchange(py, full, rate.given_back(full, n)) {
                break;
            }
        }
        let leader = self.with_line(py, |line, _| line.leader());
        let told = leader.as_ref().map_or(Ok(()), |leader| leader.give(py, Turn::Lead).1);
        let_go(leader.into_iter().collect());
        told
    }

    /// The leader leaves the line: all whose tokens are there are served, and the next one leads.
    fn pass_on(&self, py: Python<'_>, rate: Rate) -> PyResult<()> {
        let mut outcome = Ok(());
        while let Some((place, n)) = self.with_line(py, |line, gone| line.promote(precise(), gone)) {
            let served = self.take_for_waiter(py, rate, n).is_ok();
            let (given, interrupted) = place.give(py, if served { Turn::Served } else { Turn::Lead });
            outcome = outcome.and(interrupted);
            let reached = given.is_ok();
            let_go(vec![place]);
            if served && !reached {
                outcome = outcome.and(self.give_back(py, rate, n));
            }
            if reached && !served {
                break;
            }
        }
        outcome
    }
}

/// A bucket, and how full it was when it was last looked at: it has not become fuller since than time made it.
struct Known {
    full: u64,
    bucket: Py<Bucket>,
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.full == other.full
    }
}

impl Eq for Known {}

impl PartialOrd for Known {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Known {
    fn cmp(&self, other: &Self) -> Order {
        self.full.cmp(&other.full)
    }
}

/// The native half of `ferrule.RateLimiter`.
#[pyclass(subclass, frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Limiter {
    rate: Rate,
    max_keys: usize,
    /// The bucket of those who give no key.
    own: Py<Bucket>,
    /// From a key to its bucket. A dictionary of Python's: no lock of ours is held while keys are compared.
    buckets: Py<PyDict>,
    /// All keys' buckets, nearest to full first. Buckets are only looked at again when they come to the front.
    order: Guarded<BinaryHeap<Reverse<Known>>>,
    /// How many keys were forgotten before their buckets were full again.
    forgotten: Tally,
}

impl Limiter {
    fn checked(&self, n: &Count) -> PyResult<u64> {
        if n.0 <= self.rate.burst() { Ok(n.0) } else { Err(self.too_many(n.0)) }
    }

    #[cold]
    fn too_many(&self, n: u64) -> PyErr {
        let burst = self.rate.burst();
        PyValueError::new_err(format!(
            "n must be at most burst, which is {burst}, got {n}: so many are never there at once"
        ))
    }

    /// The bucket of a key, if it has one.
    fn known<'py>(&self, py: Python<'py>, key: Option<&Bound<'py, PyAny>>) -> PyResult<Option<Bound<'py, Bucket>>> {
        let Some(key) = key else { return Ok(Some(self.own.bind(py).clone())) };
        let Some(bucket) = self.buckets.bind(py).get_item(key)? else { return Ok(None) };
        let bucket = bucket.cast_into::<Bucket>()?;
        let forgotten = bucket.get().full.load(Ordering::Relaxed) == FORGOTTEN;
        Ok((!forgotten).then_some(bucket))
    }

    /// The bucket of a key, made where it has none.
    fn bucket<'py>(&self, py: Python<'py>, key: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, Bucket>> {
        match self.known(py, key)? {
            Some(bucket) => Ok(bucket),
            None => self.make(py, key.unwrap_or(py.None().bind(py))),
        }
    }

    #[cold]
    fn make<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Bucket>> {
        let ours = Bound::new(py, Bucket::new(key.clone().unbind()))?;
        let buckets = self.buckets.bind(py);
        loop {
            let there = call_method(buckets.as_any(), interned!(py, "setdefault"), &[key, ours.as_any()])?;
            let there = there.cast_into::<Bucket>()?;
            if there.is(&ours) {
                break;
            }
            if there.get().full.load(Ordering::Relaxed) != FORGOTTEN {
                return Ok(there);
            }
            // It has been forgotten, and whoever did that is about to take it away.
            self.take_away(py, &there)?;
        }
        let known = Known { full: now(), bucket: ours.clone().unbind() };
        self.order.with(py, |order, _| order.push(Reverse(known)));
        self.make_room(py, &ours)?;
        Ok(ours)
    }

    /// Takes a bucket out of the table, if it is still there.
    fn take_away(&self, py: Python<'_>, bucket: &Bound<'_, Bucket>) -> PyResult<()> {
        let buckets = self.buckets.bind(py).as_any();
        let key = bucket.get().key.bind(py);
        let gone = call_method(buckets, interned!(py, "pop"), &[key, py.None().bind(py)])?;
        // Whoever found it forgotten may have put another in its place meanwhile: that one stays.
        if !gone.is_none() && !gone.is(bucket) {
            call_method(buckets, interned!(py, "setdefault"), &[key, &gone])?;
        }
        Ok(())
    }

    /// Forgets a few that are full again, and, where the table is too large, the one that is nearest to it.
    fn make_room(&self, py: Python<'_>, fresh: &Bound<'_, Bucket>) -> PyResult<()> {
        for _ in 0..SWEEP {
            let Some(bucket) = self.forget_one(py, fresh) else { break };
            self.take_away(py, bucket.bind(py))?;
            guarding::release(py, [bucket.into_any()]);
        }
        Ok(())
    }

    /// Takes the fullest bucket out of the order, if it is full, or if there are too many. The `fresh` one stays.
    fn forget_one(&self, py: Python<'_>, fresh: &Bound<'_, Bucket>) -> Option<Py<Bucket>> {
        let now = now();
        self.order.with(py, |order, _| {
            let mut aside = Vec::new();
            let mut found = None;
            let mut looked_at = 0;
            while let Some(Reverse(first)) = order.peek() {
                let too_many = order.len() + aside.len() > self.max_keys;
                // Full ones are looked for in passing, and not for long.
                if !too_many && (first.full > now || looked_at > SWEEP) {
                    break;
                }
                looked_at += 1;
                let Some(Reverse(mut known)) = order.pop() else { break };
                let bucket = known.bucket.get();
                let full = bucket.full.load(Ordering::Relaxed);
                if known.bucket.is(fresh) || bucket.is_crowded() {
                    aside.push(known);
                } else if full > known.full {
                    // It has been used since.
                    known.full = full;
                    order.push(Reverse(known));
                } else if full > now && !too_many {
                    order.push(Reverse(known));
                    break;
                } else if bucket.exchange(py, full, FORGOTTEN) {
                    if full > now {
                        self.forgotten.increment(py);
                    }
                    found = Some(known.bucket);
                    break;
                } else {
                    order.push(Reverse(known));
                }
            }
            order.extend(aside.into_iter().map(Reverse));
            found
        })
    }

    /// Takes tokens for somebody who doesn't wait, or says how long that would be.
    fn take_now<'py>(&self, py: Python<'py>, key: Option<&Bound<'py, PyAny>>, n: u64) -> PyResult<Result<(), u64>> {
        loop {
            let found;
            let bucket = if key.is_some() {
                found = self.bucket(py, key)?;
                found.get()
            } else {
                self.own.get()
            };
            if bucket.is_crowded() {
                return Ok(Err(self.wait_behind(py, bucket, n)));
            }
            if let Some(answer) = bucket.take(py, self.rate, n) {
                return Ok(answer);
            }
        }
    }

    /// How long somebody would wait who came now, behind all who wait already.
    #[cold]
    fn wait_behind(&self, py: Python<'_>, bucket: &Bucket, n: u64) -> u64 {
        let wanted = bucket.with_line(py, |line, _| if line.is_empty() { 0 } else { line.wanted() });
        let own = match self.rate.ask(bucket.full.load(Ordering::Relaxed), now(), n) {
            Answer::Wait(parts) => parts,
            Answer::Taken(_) => 0,
        };
        own.saturating_add(self.rate.time_of(wanted))
    }

    fn limited(py: Python<'_>, parts: u64) -> PyErr {
        static RATE_LIMITED: Made<Py<PyAny>> = Made::new();
        let make = || RATE_LIMITED.import(py, "ferrule._errors", "RateLimited")?.call1((seconds(parts),));
        make().map_or_else(|error| error, PyErr::from_value)
    }

    /// Waits on this thread for tokens of a bucket.
    fn wait(&self, py: Python<'_>, bucket: &Bucket, n: u64, deadline: Deadline) -> PyResult<()> {
        loop {
            let mut waiter = Waiter::enter(py, bucket, n, &mut |_| Ok(Ticket::for_this_thread()))?;
            loop {
                let looked =
                    waiter.look(py, self.rate, bucket, deadline, false, &mut |_| Ok(Ticket::for_this_thread()));
                match looked {
                    Ok(None) => return Ok(()),
                    Ok(Some(until)) => match waiter.place.wait(py, Some(until)) {
                        Ok(Woken::Settled | Woken::Expired) => {}
                        // A signal handler forked, and this is the child: it stands in no line.
                        Ok(Woken::Forked) => break,
                        Err(interrupt) => {
                            // Giving up calls into event loops, where a second signal may find us.
                            let Err(second) = waiter.leave(py, self.rate, bucket) else { return Err(interrupt) };
                            second.set_context(py, Some(interrupt));
                            return Err(second);
                        }
                    },
                    Err(error) => {
                        waiter.leave(py, self.rate, bucket)?;
                        return Err(error);
                    }
                }
            }
            if let Ok(()) = bucket.take_for_waiter(py, self.rate, n) {
                return Ok(());
            }
        }
    }

    /// Takes tokens, or waits for them.
    fn acquire_by<'py>(
        &self,
        py: Python<'py>,
        key: Option<&Bound<'py, PyAny>>,
        n: u64,
        deadline: Deadline,
    ) -> PyResult<()> {
        if self.take_now(py, key, n)?.is_ok() {
            return Ok(());
        }
        if deadline.is_some_and(|(_, length)| length == 0) {
            return Err(timed_out(py, 0));
        }
        let bucket = self.bucket(py, key)?;
        self.wait(py, bucket.get(), n, deadline)
    }
}

/// The moment at which a wait ends on the precise clock, and how long it was to be; `None` for one that doesn't.
type Deadline = Option<(u64, u64)>;

fn deadline(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Deadline> {
    let Some(timeout) = timeout else { return Ok(None) };
    let length = alarms::nanoseconds("timeout", timeout)?;
    Ok(length.and_then(|length| Some((precise().checked_add(length)?, length))))
}

#[cold]
fn timed_out(py: Python<'_>, length: u64) -> PyErr {
    static ACQUIRE_TIMEOUT: Made<Py<PyAny>> = Made::new();
    let text = format!("there was no room within {} s", length as f64 / SECOND as f64);
    let make = || ACQUIRE_TIMEOUT.import(py, "ferrule._errors", "AcquireTimeout")?.call1((text,));
    make().map_or_else(|error| error, PyErr::from_value)
}

/// Makes the place at which a waiter waits next.
type NewPlace<'a> = &'a mut dyn FnMut(Python<'_>) -> PyResult<Place>;

/// Somebody who waits, thread or task.
struct Waiter {
    place: Place,
    n: u64,
    leads: bool,
    over: bool,
}

impl Waiter {
    /// Joins the line at a bucket.
    fn enter(py: Python<'_>, bucket: &Bucket, n: u64, new_place: NewPlace<'_>) -> PyResult<Self> {
        let place = new_place(py)?;
        let leads = bucket.with_line(py, |line, gone| line.join(&place, n, precise(), gone));
        Ok(Self { place, n, leads, over: false })
    }

    /// Sees how things stand: `None` when the tokens are there, and otherwise until when to wait, at `place`. A place that
    /// is `spent` can't be waited at once more.
    fn look(
        &mut self,
        py: Python<'_>,
        rate: Rate,
        bucket: &Bucket,
        deadline: Deadline,
        spent: bool,
        new_place: NewPlace<'_>,
    ) -> PyResult<Option<u64>> {
        match self.place.take(py) {
            Some(Settled::Given(Turn::Served)) => {
                self.over = true;
                return Ok(None);
            }
            Some(Settled::Given(Turn::Lead)) => self.leads = true,
            Some(Settled::Closed | Settled::Left) | None => {}
        }
        let now = precise();
        let expired = deadline.is_some_and(|(moment, _)| moment <= now);
        if !self.leads {
            let until = bucket.with_line(py, |line, gone| {
                line.depose(now, gone);
                line.has_leader().then(|| line.overdue_at())
            });
            if let Some(overdue) = until {
                if expired {
                    return self.expire(py, rate, bucket, deadline);
                }
                if spent {
                    let place = new_place(py)?;
                    if bucket.with_line(py, |line, gone| line.follow_on(&self.place, &place, gone)) {
                        let_go(vec![std::mem::replace(&mut self.place, place)]);
                    } else {
                        // Its turn has come just now, and another thread is about to say so.
                        lifecycle::detached(py, std::thread::yield_now);
                        return self.look(py, rate, bucket, deadline, spent, new_place);
                    }
                }
                return Ok(Some(deadline.map_or(overdue, |(moment, _)| moment.min(overdue))));
            }
            // Nobody leads any more: the first who notices sees to it that somebody does.
            bucket.pass_on(py, rate)?;
            return self.look(py, rate, bucket, deadline, spent, new_place);
        }
        let place = new_place(py)?;
        let leads = bucket.with_line(py, |line, gone| {
            let leads = line.lead_on(&self.place, &place, now, gone);
            if !leads {
                // Deposed, for being late: first of those who follow.
                line.join_first(&place, self.n);
            }
            leads
        });
        let_go(vec![std::mem::replace(&mut self.place, place)]);
        self.leads = leads;
        if !leads {
            return self.look(py, rate, bucket, deadline, false, new_place);
        }
        match bucket.take_for_waiter(py, rate, self.n) {
            Ok(()) => {
                self.over = true;
                bucket.pass_on(py, rate)?;
                Ok(None)
            }
            Err(parts) => {
                let due = now.saturating_add(nanoseconds(parts));
                bucket.with_line(py, |line, gone| line.lead_on(&self.place, &self.place.clone(), due, gone));
                match deadline {
                    // Whoever leads knows when its tokens will be there, and needn't wait to hear that it is too late.
                    Some((moment, _)) if moment < due => self.expire(py, rate, bucket, deadline),
                    _ => Ok(Some(due)),
                }
            }
        }
    }

    /// The time is over; unless the tokens came at the last moment.
    fn expire(&mut self, py: Python<'_>, rate: Rate, bucket: &Bucket, deadline: Deadline) -> PyResult<Option<u64>> {
        let gift = self.step_out(py, bucket);
        if gift == Some(Turn::Served) {
            return Ok(None);
        }
        if self.leads || gift == Some(Turn::Lead) {
            bucket.pass_on(py, rate)?;
        }
        Err(timed_out(py, deadline.map_or(0, |(_, length)| length)))
    }

    /// Leaves the place; what it was given comes back.
    fn step_out(&mut self, py: Python<'_>, bucket: &Bucket) -> Option<Turn> {
        self.over = true;
        let gift = self.place.leave(py);
        if !self.leads {
            bucket.with_line(py, |line, gone| {
                if !line.is_led_by(&self.place) {
                    line.note_leaving(gone);
                }
            });
        }
        gift
    }

    /// Leaves the line; what was given already goes to the next.
    fn leave(&mut self, py: Python<'_>, rate: Rate, bucket: &Bucket) -> PyResult<()> {
        if self.over {
            return Ok(());
        }
        let gift = self.step_out(py, bucket);
        if !self.place.is_ours() {
            return Ok(());
        }
        match gift {
            Some(Turn::Served) => bucket.give_back(py, rate, self.n),
            Some(Turn::Lead) => bucket.pass_on(py, rate),
            None if bucket.with_line(py, |line, _| line.is_led_by(&self.place)) => bucket.pass_on(py, rate),
            None => Ok(()),
        }
    }
}

#[pymethods]
impl Limiter {
    #[new]
    #[pyo3(signature = (*, interval, burst, max_keys))]
    fn new(py: Python<'_>, interval: f64, burst: u64, max_keys: usize) -> PyResult<Self> {
        let rate = Rate::new(interval, burst).ok_or(Error::State("the rate can't be counted"))?;
        Ok(Self {
            rate,
            max_keys,
            own: Py::new(py, Bucket::new(py.None()))?,
            buckets: PyDict::new(py).unbind(),
            order: Guarded::default(),
            forgotten: Tally::new(),
        })
    }

    /// Whether an interval in nanoseconds and a burst can be counted.
    #[staticmethod]
    #[pyo3(signature = (interval, burst, /))]
    fn countable(interval: f64, burst: u64) -> bool {
        Rate::new(interval, burst).is_some()
    }

    /// Takes `n` tokens if they are there; whether they were.
    #[pyo3(signature = (key=None, n=Count(1)), text_signature = "($self, key=None, n=1)")]
    fn try_acquire(&self, py: Python<'_>, key: Option<&Bound<'_, PyAny>>, n: Count) -> PyResult<bool> {
        let n = self.checked(&n)?;
        Ok(self.take_now(py, key, n)?.is_ok())
    }

    /// Says whether `n` tokens are there, and takes none.
    #[pyo3(signature = (key=None, n=Count(1)), text_signature = "($self, key=None, n=1)")]
    fn check<'py>(&self, py: Python<'py>, key: Option<&Bound<'py, PyAny>>, n: Count) -> PyResult<Bound<'py, PyAny>> {
        static DECISION: Made<Py<PyAny>> = Made::new();
        let n = self.checked(&n)?;
        let decision = DECISION.import(py, "ferrule.limiting", "Decision")?;
        let Some(bucket) = self.known(py, key)? else {
            // Hashing is checked, and nothing is known of the key: its bucket is full.
            return decision.call1((true, 0.0, self.rate.burst()));
        };
        let bucket = bucket.get();
        let (full, now) = (bucket.full.load(Ordering::Relaxed), now());
        let (wait, remaining) = if bucket.is_crowded() {
            (self.wait_behind(py, bucket, n), 0)
        } else {
            match self.rate.ask(full, now, n) {
                Answer::Taken(_) => (0, self.rate.remaining(full, now)),
                Answer::Wait(parts) => (parts, self.rate.remaining(full, now)),
            }
        };
        decision.call1((wait == 0, seconds(wait), remaining))
    }

    /// Takes `n` tokens, or waits for them on this thread: `timeout` seconds; `None` for ever, 0 not at all.
    #[pyo3(
        signature = (key=None, n=Count(1), timeout=None),
        text_signature = "($self, key=None, n=1, timeout=None)"
    )]
    fn acquire(
        &self,
        py: Python<'_>,
        key: Option<&Bound<'_, PyAny>>,
        n: Count,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let n = self.checked(&n)?;
        self.acquire_by(py, key, n, deadline(timeout)?)
    }

    /// Takes `n` tokens and returns `None`, or a place in the line for the task that runs in `event_loop`.
    #[pyo3(signature = (event_loop, key, n, timeout, /))]
    fn stand<'py>(
        this: &Bound<'py, Self>,
        event_loop: &Bound<'py, PyAny>,
        key: Option<&Bound<'py, PyAny>>,
        n: Count,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, Standing>>> {
        let py = this.py();
        let limiter = this.get();
        let n = limiter.checked(&n)?;
        let deadline = deadline(timeout)?;
        if limiter.take_now(py, key, n)?.is_ok() {
            return Ok(None);
        }
        if deadline.is_some_and(|(_, length)| length == 0) {
            return Err(timed_out(py, 0));
        }
        let bucket = limiter.bucket(py, key)?;
        let mut future = None;
        let waiter = Waiter::enter(py, bucket.get(), n, &mut |_| place_in(event_loop, &mut future))?;
        let standing = Standing {
            limiter: this.clone().unbind(),
            bucket: bucket.unbind(),
            event_loop: event_loop.clone().unbind(),
            deadline,
            waiter: Guarded::new(Some(Waiting { waiter, future, clockwork: Clockwork::default() })),
        };
        Ok(Some(Bound::new(py, standing)?))
    }

    /// How many tokens a bucket holds.
    #[getter]
    fn burst(&self) -> u64 {
        self.rate.burst()
    }

    /// How many keys are known at most.
    #[getter]
    fn max_keys(&self) -> usize {
        self.max_keys
    }

    /// Keys known, keys forgotten before their time, and how many wait without a key.
    fn counts(&self, py: Python<'_>) -> (usize, u64, usize) {
        let waiting = self.own.get().with_line(py, |line, _| line.len());
        (self.buckets.bind(py).len(), self.forgotten.get(), waiting)
    }

    /// Waits for a token.
    fn __enter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        this.get().acquire_by(this.py(), None, 1, None)?;
        Ok(this.clone())
    }

    #[pyo3(signature = (kind, error, traceback, /))]
    fn __exit__(&self, kind: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>, traceback: &Bound<'_, PyAny>) {
        let _ = (self, kind, error, traceback);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.own)?;
        visit.call(&self.buckets)?;
        self.order.traverse(|order| order.iter().try_for_each(|Reverse(known)| visit.call(&known.bucket.get().key)))
    }
}

/// A place for a task of `event_loop`, with the future that it is to await.
fn place_in(event_loop: &Bound<'_, PyAny>, future: &mut Option<Py<PyAny>>) -> PyResult<Place> {
    let made = call_method(event_loop, interned!(event_loop.py(), "create_future"), &[])?;
    let place = Ticket::for_task(event_loop, &made);
    *future = Some(made.unbind());
    Ok(place)
}

/// What ends a task's wait by time: a timer of its loop, and the alarm of the manual clock.
#[derive(Default)]
struct Clockwork {
    timer: Option<Py<PyAny>>,
    alarm: Option<u64>,
}

impl Clockwork {
    fn stop(self, py: Python<'_>) {
        if let Some(number) = self.alarm {
            alarms::unset_alarm(py, number);
        }
        if let Some(timer) = self.timer {
            Python::attach(|py| {
                // It fails only by a signal handler's exception; a timer that rings in vain does no harm.
                let _ = call_method(timer.bind(py), interned!(py, "cancel"), &[]);
                drop(timer);
            });
        }
    }
}

struct Waiting {
    waiter: Waiter,
    future: Option<Py<PyAny>>,
    clockwork: Clockwork,
}

/// A task's place in the line at a bucket. Whoever gets one calls `step` until it says that the tokens are there, and awaits
/// `future` in between; dropping it is leaving.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Standing {
    limiter: Py<Limiter>,
    bucket: Py<Bucket>,
    event_loop: Py<PyAny>,
    deadline: Deadline,
    // None while a step is taken, and after the end.
    waiter: Guarded<Option<Waiting>>,
}

impl Standing {
    fn take(&self, py: Python<'_>) -> Option<Waiting> {
        self.waiter.peek(py, Option::take)
    }

    /// Ends the wait at `moment`, be it by the loop's timer or because the clock is turned by hand.
    fn watch_the_clock(this: &Bound<'_, Self>, future: Option<&Py<PyAny>>, moment: Option<u64>) -> PyResult<Clockwork> {
        let py = this.py();
        let (Some(moment), Some(future)) = (moment, future) else { return Ok(Clockwork::default()) };
        let event_loop = this.get().event_loop.bind(py);
        let future = future.bind(py);
        let timer = if crate::clock::is_manual() {
            None
        } else {
            let left = Duration::from_nanos(moment.saturating_sub(precise())).as_secs_f64().into_pyobject(py)?;
            let call = [left.as_any(), wake_future(py)?, future];
            Some(call_method(event_loop, interned!(py, "call_later"), &call)?.unbind())
        };
        // Weak: what rings must keep neither the task alive nor its event loop.
        let standing = PyWeakrefReference::new(this)?.unbind();
        let alarm = alarms::set_alarm(
            py,
            Box::new(move |py| {
                let Some(Ok(standing)) = standing.bind(py).upgrade().map(Bound::cast_into::<Self>) else { return };
                let standing = standing.get();
                let future = standing.waiter.peek(py, |waiting| Some(waiting.as_ref()?.future.as_ref()?.clone_ref(py)));
                if let (Some(future), Ok(wake)) = (future, wake_future(py)) {
                    // A loop that refuses is closed, and no task of it waits.
                    let _ = call_in_loop(py, &standing.event_loop, wake, future.bind(py));
                }
            }),
        );
        Ok(Clockwork { timer, alarm: Some(alarm) })
    }

    fn end(&self, py: Python<'_>) -> PyResult<()> {
        let Some(mut waiting) = self.take(py) else { return Ok(()) };
        let left = waiting.waiter.leave(py, self.limiter.get().rate, self.bucket.get());
        let clockwork = std::mem::take(&mut waiting.clockwork);
        clockwork.stop(py);
        Python::attach(|_| drop(waiting));
        left
    }
}

#[pymethods]
impl Standing {
    /// To be awaited before the next `step`.
    #[getter]
    fn future(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.waiter.peek(py, |waiting| Some(waiting.as_ref()?.future.as_ref()?.clone_ref(py)))
    }

    /// Whether the tokens have been taken.
    fn step(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        let me = this.get();
        let Some(mut waiting) = me.take(py) else {
            return Err(Error::State("the place is empty: its tokens were taken before, or it was left").into());
        };
        std::mem::take(&mut waiting.clockwork).stop(py);
        let event_loop = me.event_loop.bind(py);
        let mut made = None;
        let (rate, bucket) = (me.limiter.get().rate, me.bucket.get());
        // Where a timer or an alarm has ended the wait before, its future is done: there must be another.
        let done = match &waiting.future {
            Some(future) => call_method(future.bind(py), interned!(py, "done"), &[])?.is_truthy()?,
            None => true,
        };
        let looked = waiting.waiter.look(py, rate, bucket, me.deadline, done, &mut |_| place_in(event_loop, &mut made));
        if let Some(made) = made {
            let before = waiting.future.replace(made);
            guarding::release(py, before);
        }
        match looked {
            Ok(None) => {
                Python::attach(|_| drop(waiting));
                Ok(true)
            }
            Ok(Some(until)) => {
                // Of those who follow, only threads look whether the leader is alive: a task's timers cost more.
                let until = if waiting.waiter.leads { Some(until) } else { me.deadline.map(|(moment, _)| moment) };
                let clockwork = Self::watch_the_clock(this, waiting.future.as_ref(), until);
                let (clockwork, outcome) = match clockwork {
                    Ok(clockwork) => (clockwork, Ok(false)),
                    Err(error) => (Clockwork::default(), Err(error)),
                };
                waiting.clockwork = clockwork;
                me.waiter.peek(py, |now| *now = Some(waiting));
                outcome
            }
            Err(error) => {
                me.waiter.peek(py, |now| *now = Some(waiting));
                me.end(py)?;
                Err(error)
            }
        }
    }

    /// Leaves the line; what was given already goes to the next.
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.limiter)?;
        visit.call(&self.event_loop)?;
        self.waiter.traverse(|waiting| {
            let Some(waiting) = waiting else { return Ok(()) };
            visit.call(&waiting.future)?;
            visit.call(&waiting.clockwork.timer)?;
            // The line holds the place as well, but shows it to nobody.
            waiting.waiter.place.traverse(&visit, |_| Ok(()))
        })
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        // A frame that an exception leaves drops its locals with the exception set.
        Python::attach(|py| {
            guarding::with_nothing_raised(py, || {
                if let Err(error) = self.end(py) {
                    error.write_unraisable(py, None);
                }
            });
        });
    }
}

/// A function that is called within a limit.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct LimitedFunction {
    limiter: Py<Limiter>,
    /// Called with the function's arguments.
    key: Option<Py<PyAny>>,
    wait: bool,
    timeout: Option<Py<PyAny>>,
}

#[pymethods]
impl LimitedFunction {
    #[new]
    #[pyo3(signature = (function, limiter, key, wait, timeout, /))]
    fn new<'py>(
        function: &Bound<'py, PyAny>,
        limiter: Py<Limiter>,
        key: Option<Py<PyAny>>,
        wait: bool,
        timeout: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        Wrapper::wrap(function, Self { limiter, key, wait, timeout })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.limiter)?;
        visit.call(&self.key)?;
        visit.call(&self.timeout)
    }
}

impl LimitedFunction {
    #[cold]
    fn admit<'py>(&self, py: Python<'py>, key: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
        let limiter = self.limiter.get();
        if self.wait {
            let timeout = self.timeout.as_ref().map(|timeout| timeout.bind(py));
            return limiter.acquire_by(py, key, 1, deadline(timeout)?);
        }
        limiter.take_now(py, key, 1)?.map_err(|parts| Limiter::limited(py, parts))
    }
}

impl Native for LimitedFunction {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        let py = this.py();
        let me = this.get();
        match &me.key {
            None => {
                let limiter = me.limiter.get();
                let own = limiter.own.get();
                if own.is_crowded() || !matches!(own.take(py, limiter.rate, 1), Some(Ok(()))) {
                    me.admit(py, None)?;
                }
            }
            Some(key) => {
                let key = call.forward(key.bind(py))?;
                // A key of None is a key like any other to those who ask for keys.
                let taken = me.limiter.get().take_now(py, Some(&key), 1)?;
                if taken.is_err() {
                    me.admit(py, Some(&key))?;
                }
            }
        }
        Ok(call.forward(this.as_super().get().function(py))?)
    }
}

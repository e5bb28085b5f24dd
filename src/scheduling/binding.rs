//! The crew: threads that run what is in a queue.
//!
//! A [`ThreadPool`](super::pool::ThreadPool) is what the user holds, a [`Crew`] what its threads hold: when the pool is
//! forgotten, the crew finishes what is queued and goes. The threads are Python's own (`threading.Thread`, so that names,
//! profilers and debuggers find them); each of them stays in [`Crew::work`] for life and keeps its thread state.
//!
//! *Waking.* A thread that has nothing to do parks. Who submits wakes one, unless one has been woken and is on its way; that
//! one, before it begins its first task, wakes another if there is more to do. So a burst of submissions costs one wake-up,
//! and yet no task waits behind one that blocks while a thread is idle.
//! The other way round, a worker that has nothing left to do wakes who waits for its results *after* it has let go of the
//! interpreter lock, for whoever is woken needs it. Both sides look for an answer a little while before they park, see
//! [`spinning`](super::spinning).

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
#[cfg(not(Py_GIL_DISABLED))]
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PySet, PyString, PyTuple, PyType};

use super::future::{FutureBase, LOOKING, Tickets, WAITERS, WORKERS, Work, log_error, rouse};
use super::queue::Queue;
use super::spinning::{spin_until, take_heart};
#[cfg(not(Py_GIL_DISABLED))]
use super::{future::WAITS, spinning::look};
use crate::callable::{Call, Failure, Packed, context};
use crate::clock::{self, SECOND, binding::nanoseconds};
use crate::guarding::{self, Guarded, Made, attached, interned};
use crate::lifecycle;
use crate::waiting::{Settled, Ticket, Waiters, Woken};

/// How long a worker runs tasks that never look at the interpreter's wishes (built-in functions, mostly) before it lets
/// others have the interpreter lock: the interpreter's own switch interval.
const TURN: u64 = 5_000_000;

/// How many tasks a worker runs before it looks at the clock.
const LOOK: u32 = 16;

/// How long a worker that has just seen a task come waits for who submitted it to let go of the interpreter lock.
#[cfg(not(Py_GIL_DISABLED))]
const HAND_OVER: Duration = Duration::from_micros(3);

/// A worker that has nothing to do.
struct Sleeper {
    thread: Thread,
    awake: AtomicBool,
}

/// A worker's place in its crew.
struct Seat {
    /// The `threading.Thread`.
    thread: Py<PyAny>,
    // Whether its task has taken too long, and somebody else works in its place.
    abandoned: AtomicBool,
}

/// A task that must be over at some moment.
struct Watched {
    number: u64,
    deadline: u64,
    timeout: u64,
    future: Py<FutureBase>,
    seat: Arc<Seat>,
}

#[derive(Default)]
struct Watch {
    tasks: Vec<Watched>,
    count: u64,
    // The thread that watches, once there is one, and until when it sleeps.
    posted: bool,
    watchman: Option<Arc<Ticket<()>>>,
    sleeps_until: u64,
}

/// Room for submissions.
pub(super) struct Slots {
    pub(super) free: usize,
    pub(super) waiters: Waiters<()>,
}

thread_local! {
    /// The crew that this thread works for, its seat, and the futures that it runs now, the innermost last.
    static STATION: RefCell<Option<Station>> = const { RefCell::new(None) };
}

struct Station {
    crew: usize,
    seat: Arc<Seat>,
    runs: Vec<usize>,
}

/// What belongs to one submission beside the call.
pub(super) struct Terms {
    pub(super) priority: i32,
    pub(super) timeout: u64,
}

impl Terms {
    pub(super) const PLAIN: Self = Self { priority: 0, timeout: u64::MAX };
}

/// What a crew is made with.
pub(super) struct Plan {
    pub(super) future_class: Py<PyType>,
    /// `start(crew, task)` starts a thread: one that works, or the one that watches.
    pub(super) start: Py<PyAny>,
    pub(super) errors: Errors,
    pub(super) max_workers: usize,
    pub(super) initializer: Option<Py<PyAny>>,
    pub(super) initargs: Py<PyTuple>,
    pub(super) max_pending: Option<usize>,
}

/// `broken(text)` makes the exception of a pool whose initializer has failed, `closed(text)` and `full(text)` those of pools
/// that take nothing any more, or nothing now, and `late(seconds)` that of a task that took too long.
pub(super) struct Errors {
    pub(super) broken: Py<PyAny>,
    pub(super) closed: Py<PyAny>,
    pub(super) full: Py<PyAny>,
    pub(super) late: Py<PyAny>,
}

impl Plan {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        let Errors { broken, closed, full, late } = &self.errors;
        let errors = Errors {
            broken: broken.clone_ref(py),
            closed: closed.clone_ref(py),
            full: full.clone_ref(py),
            late: late.clone_ref(py),
        };
        Self {
            future_class: self.future_class.clone_ref(py),
            start: self.start.clone_ref(py),
            errors,
            max_workers: self.max_workers,
            initializer: self.initializer.as_ref().map(|initializer| initializer.clone_ref(py)),
            initargs: self.initargs.clone_ref(py),
            max_pending: self.max_pending,
        }
    }
}

/// What a pool's threads share.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Crew {
    plan: Plan,
    threads: Py<PySet>,
    generation: u64,
    // Boxed: crossbeam's queue is aligned to cache lines, and Python's allocator is not.
    queue: Box<Queue<Py<FutureBase>>>,
    pub(super) slots: Option<Guarded<Slots>>,
    sleepers: Mutex<Vec<Arc<Sleeper>>>,
    idle: AtomicUsize,
    waking: AtomicBool,
    alive: AtomicUsize,
    abandoned: AtomicUsize,
    closed: AtomicBool,
    broken: AtomicBool,
    leaving: Guarded<Waiters<()>>,
    watch: Guarded<Watch>,
}

/// Whether the interpreter takes no new tasks any more.
static CLOSING_TIME: AtomicBool = AtomicBool::new(false);

const AFTER_SHUTDOWN: &str = "cannot schedule new futures after shutdown";
const AFTER_EXIT: &str = "cannot schedule new futures after interpreter shutdown";
const BROKEN: &str = "A thread initializer failed, the thread pool is not usable anymore";

impl Crew {
    fn sleepers(&self) -> MutexGuard<'_, Vec<Arc<Sleeper>>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(this: &Bound<'_, Self>) -> usize {
        this.as_ptr().addr()
    }

    fn error(&self, py: Python<'_>, which: impl FnOnce(&Errors) -> &Py<PyAny>, text: &str) -> PyErr {
        let text = PyString::new(py, text);
        guarding::call(which(&self.plan.errors).bind(py), &[text.as_any()])
            .map_or_else(|error| error, PyErr::from_value)
    }

    /// Whether new tasks are taken.
    pub(super) fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if self.broken.load(Ordering::Acquire) {
            return Err(self.error(py, |errors| &errors.broken, BROKEN));
        }
        if CLOSING_TIME.load(Ordering::Acquire) {
            return Err(self.error(py, |errors| &errors.closed, AFTER_EXIT));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(self.error(py, |errors| &errors.closed, AFTER_SHUTDOWN));
        }
        Ok(())
    }

    // -- waking --------------------------------------------------------------------------------------------------------

    /// Wakes a worker, unless one is on its way. Needs no interpreter lock.
    fn wake_one(&self) {
        if self.idle.load(Ordering::SeqCst) == 0 || self.waking.swap(true, Ordering::SeqCst) {
            return;
        }
        let sleeper = self.sleepers().pop();
        match sleeper {
            Some(sleeper) => {
                sleeper.awake.store(true, Ordering::Release);
                sleeper.thread.unpark();
            }
            None => self.waking.store(false, Ordering::SeqCst),
        }
    }

    fn wake_all(&self) {
        let sleepers = std::mem::take(&mut *self.sleepers());
        for sleeper in sleepers {
            sleeper.awake.store(true, Ordering::Release);
            sleeper.thread.unpark();
        }
    }

    /// Takes no new tasks: those who wait for some go when the queue is empty. Needs no interpreter lock.
    pub(super) fn retire(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    /// Sees to it that somebody takes what has just been queued.
    fn call_hands(this: &Bound<'_, Self>) -> PyResult<()> {
        let crew = this.get();
        fence(Ordering::SeqCst);
        if crew.queue.len() > crew.idle.load(Ordering::SeqCst) && Self::hire(this)? {
            return Ok(());
        }
        crew.wake_one();
        Ok(())
    }

    /// Starts another thread, if there may be one more.
    fn hire(this: &Bound<'_, Self>) -> PyResult<bool> {
        let crew = this.get();
        let more = |alive: usize| (alive < crew.plan.max_workers).then_some(alive + 1);
        if crew.alive.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
            return Ok(false);
        }
        match guarding::call(crew.plan.start.bind(this.py()), &[this.as_any(), interned!(this.py(), "work").as_any()]) {
            Ok(_) => Ok(true),
            // No thread to be had: those who are there will do it.
            Err(_) if crew.alive.fetch_sub(1, Ordering::SeqCst) > 1 => Ok(false),
            Err(error) => Err(error),
        }
    }

    // -- submitting ----------------------------------------------------------------------------------------------------

    pub(super) fn queue_up<'py>(
        this: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
        terms: &Terms,
    ) -> PyResult<Bound<'py, FutureBase>> {
        let (py, crew) = (this.py(), this.get());
        if terms.timeout != u64::MAX {
            Self::post_watchman(this)?;
        }
        let work = Box::new(Work {
            function: function.clone().unbind(),
            args: args.unbind(),
            kwargs: kwargs.filter(|kwargs| !kwargs.is_empty()).map(Bound::unbind),
            context: context::current(py)?.map(Bound::unbind),
            crew: this.clone().unbind(),
            timeout: terms.timeout,
        });
        let future = FutureBase::with_work(crew.plan.future_class.bind(py), work)?;
        crew.queue.push(future.clone().unbind(), terms.priority, clock::coarse());
        if let Err(error) = Self::call_hands(this) {
            FutureBase::call_off(&future)?;
            return Err(error);
        }
        if crew.closed.load(Ordering::SeqCst) && crew.alive.load(Ordering::SeqCst) == 0 {
            // Closed in between, and all have gone: nobody would run it.
            FutureBase::call_off(&future)?;
        }
        if crew.broken.load(Ordering::SeqCst) {
            // Broken in between, when the queue had been emptied already.
            crew.break_down(py)?;
        }
        Ok(future)
    }

    /// One submission, with room made for it first.
    pub(super) fn submit_one<'py>(
        this: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
        terms: &Terms,
        block: bool,
    ) -> PyResult<Bound<'py, FutureBase>> {
        let crew = this.get();
        crew.check_open(this.py())?;
        let in_place = match &crew.slots {
            None => false,
            Some(slots) => Self::take_slot(this, slots, block)?,
        };
        let submitted = Self::queue_up(this, function, args, kwargs, terms);
        match submitted {
            Ok(future) if in_place => {
                // A worker that waited for room in its own queue might wait for ever: it does this task itself.
                help_out(&future)?;
                Ok(future)
            }
            Ok(future) => Ok(future),
            Err(error) => {
                crew.leave_slot(this.py())?;
                Err(error)
            }
        }
    }

    /// Takes room for one submission, waiting for it if need be. True where a worker of this crew found none.
    fn take_slot(this: &Bound<'_, Self>, slots: &Guarded<Slots>, block: bool) -> PyResult<bool> {
        let (py, crew) = (this.py(), this.get());
        let own = works_for(Self::address(this));
        loop {
            let ticket = Ticket::for_this_thread();
            let taken = slots.peek(py, |slots| {
                if slots.free > 0 || own {
                    slots.free = slots.free.saturating_sub(1);
                    return true;
                }
                if block {
                    slots.waiters.join(Arc::clone(&ticket));
                }
                false
            });
            if taken {
                return Ok(own);
            }
            if !block {
                return Err(crew.error(py, |errors| &errors.full, "the queue is full: max_pending tasks are waiting"));
            }
            let woken = ticket.wait(py, None);
            if matches!(woken, Ok(Woken::Settled)) {
                return match ticket.take(py) {
                    Some(Settled::Given(())) => {
                        crew.check_open(py).inspect_err(|_| drop(crew.leave_slot(py)))?;
                        Ok(false)
                    }
                    _ => crew.check_open(py).and(Err(PyRuntimeError::new_err(AFTER_SHUTDOWN))),
                };
            }
            crew.give_up_slot(py, &ticket)?;
            woken?;
        }
    }

    pub(super) fn give_up_slot(&self, py: Python<'_>, ticket: &Ticket<()>) -> PyResult<()> {
        let given = ticket.leave(py).is_some();
        if let Some(slots) = &self.slots
            && ticket.is_in_line()
        {
            let mut gone = Vec::new();
            slots.peek(py, |slots| slots.waiters.note_leaving(&mut gone));
            attached(py, |_| drop(gone));
        }
        if given && ticket.is_ours() { self.leave_slot(py) } else { Ok(()) }
    }

    /// A task has begun, or been cancelled: there is room for another one.
    pub(super) fn leave_slot(&self, py: Python<'_>) -> PyResult<()> {
        let Some(slots) = &self.slots else { return Ok(()) };
        let mut outcome = Ok(());
        loop {
            let mut gone = Vec::new();
            let next = slots.peek(py, |slots| {
                let next = slots.waiters.next(&mut gone);
                if next.is_none() {
                    slots.free += 1;
                }
                next
            });
            attached(py, |_| drop(gone));
            let Some(ticket) = next else { return outcome };
            let (given, interrupted) = ticket.give(py, ());
            outcome = outcome.and(interrupted);
            attached(py, |_| drop(ticket));
            if given.is_ok() {
                return outcome;
            }
        }
    }

    /// Those who wait for room hear that there will be none.
    fn close_slots(&self, py: Python<'_>) -> PyResult<()> {
        let Some(slots) = &self.slots else { return Ok(()) };
        let waiting = slots.peek(py, |slots| slots.waiters.drain());
        let mut outcome = Ok(());
        for ticket in &waiting {
            outcome = outcome.and(ticket.close(py));
        }
        attached(py, |_| drop(waiting));
        outcome
    }

    // -- working -------------------------------------------------------------------------------------------------------

    /// Runs what a future stands for, on this thread. Who waits for it goes to `tickets`.
    fn run(
        this: &Bound<'_, Self>,
        seat: &Arc<Seat>,
        future: &Bound<'_, FutureBase>,
        work: Work,
        tickets: &mut Tickets,
    ) -> PyResult<()> {
        let (py, crew) = (this.py(), this.get());
        crew.leave_slot(py)?;
        let limited = work.timeout != u64::MAX;
        let watched = match limited.then(|| Self::watch_over(this, seat, future, work.timeout)).transpose() {
            Ok(watched) => watched,
            Err(error) => {
                // With nobody to watch over it, it isn't begun.
                attached(py, |_| drop(work));
                return FutureBase::finish(future, Err(error.into_value(py).into_any()), tickets).map(drop);
            }
        };
        let outcome = perform(py, work);
        if let Some(number) = watched {
            let gone = crew.watch.peek(py, |watch| {
                let place = watch.tasks.iter().position(|task| task.number == number);
                place.map(|place| watch.tasks.swap_remove(place))
            });
            drop(gone);
        }
        FutureBase::finish(future, outcome, tickets).map(drop)
    }

    /// Cancels all that is queued.
    fn cancel_queue(&self, py: Python<'_>) -> PyResult<()> {
        let mut outcome = Ok(());
        while let Some(future) = self.queue.pop() {
            outcome = outcome.and(FutureBase::call_off(future.bind(py)).map(drop));
        }
        outcome
    }

    /// The initializer has failed: what is queued fails, and whatever comes later.
    fn break_down(&self, py: Python<'_>) -> PyResult<()> {
        self.broken.store(true, Ordering::SeqCst);
        let mut tickets = Tickets::new();
        while let Some(future) = self.queue.pop() {
            let error = self.error(py, |errors| &errors.broken, BROKEN).into_value(py).into_any();
            let work = future.get().claim(py, None);
            if work.is_some() {
                self.leave_slot(py)?;
            }
            drop(work);
            FutureBase::finish(future.bind(py), Err(error), &mut tickets)?;
        }
        rouse(&mut tickets);
        self.close_slots(py)
    }

    /// A worker has gone.
    fn sign_off(&self, py: Python<'_>) {
        if self.alive.fetch_sub(1, Ordering::SeqCst) > 1 {
            return;
        }
        self.tell_the_last_has_gone(py);
    }

    fn tell_the_last_has_gone(&self, py: Python<'_>) {
        let waiting = self.leaving.peek(py, Waiters::drain);
        for ticket in &waiting {
            if ticket.hold(py, ()).is_ok() {
                ticket.rouse();
            }
        }
        attached(py, |_| drop(waiting));
        self.rouse_watchman(py);
    }

    fn rest(&self, py: Python<'_>, tickets: &mut Tickets) {
        let sleeper = Arc::new(Sleeper { thread: thread::current(), awake: AtomicBool::new(false) });
        self.sleepers().push(Arc::clone(&sleeper));
        self.idle.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !self.queue.is_empty() || self.closed.load(Ordering::SeqCst) {
            // Something came just now.
            let place = {
                let mut sleepers = self.sleepers();
                let place = sleepers.iter().position(|other| Arc::ptr_eq(other, &sleeper));
                place.map(|place| sleepers.swap_remove(place)).is_some()
            };
            self.idle.fetch_sub(1, Ordering::SeqCst);
            if !place {
                self.waking.store(false, Ordering::SeqCst);
            }
            return;
        }
        lifecycle::detached(py, || {
            #[cfg(not(Py_GIL_DISABLED))]
            let waits = WAITS.load(Ordering::Acquire);
            rouse(tickets);
            let awake = || sleeper.awake.load(Ordering::Acquire);
            let here = guarding::processor();
            WORKERS.note(here);
            if !WAITERS.is_at(here) && spin_until(awake) {
                // Whoever has submitted something holds the interpreter lock, and to queue for that is to sleep. As a
                // rule he waits for the result next.
                #[cfg(not(Py_GIL_DISABLED))]
                look(&|| WAITS.load(Ordering::Acquire) != waits, HAND_OVER);
            }
            while !awake() {
                thread::park();
                if LOOKING.load(Ordering::Acquire) {
                    take_heart();
                }
            }
        });
        self.idle.fetch_sub(1, Ordering::SeqCst);
        self.waking.store(false, Ordering::SeqCst);
    }

    fn work_off(this: &Bound<'_, Self>, seat: &Arc<Seat>) -> PyResult<()> {
        let (py, crew) = (this.py(), this.get());
        let mut tickets = Tickets::new();
        let mut turn_began = clock::precise();
        let mut count = 0;
        loop {
            let Some(future) = crew.queue.pop() else {
                if crew.closed.load(Ordering::SeqCst) {
                    rouse(&mut tickets);
                    return Ok(());
                }
                crew.rest(py, &mut tickets);
                rouse(&mut tickets);
                turn_began = clock::precise();
                continue;
            };
            // There is more to do: who waits is woken now, not when all is done.
            rouse(&mut tickets);
            let future = future.into_bound(py);
            if let Some(work) = future.get().claim(py, None) {
                if !crew.queue.is_empty() {
                    crew.wake_one();
                }
                busy_with(&future, || Self::run(this, seat, &future, *work, &mut tickets))?;
            }
            guarding::release(py, [future.into_any().unbind()]);
            if seat.abandoned.load(Ordering::Acquire) || crew.generation != lifecycle::generation() {
                rouse(&mut tickets);
                return Ok(());
            }
            count += 1;
            if count % LOOK == 0 {
                let now = clock::precise();
                if now.wrapping_sub(turn_began) > TURN {
                    rouse(&mut tickets);
                    lifecycle::detached(py, || ());
                    turn_began = clock::precise();
                }
            }
        }
    }

    // -- watching ------------------------------------------------------------------------------------------------------

    /// Sees to it that there is a thread which watches over deadlines. Whoever submits does that: when the interpreter goes,
    /// and tasks are still done, no thread can be started any more.
    fn post_watchman(this: &Bound<'_, Self>) -> PyResult<()> {
        let (py, crew) = (this.py(), this.get());
        if crew.watch.peek(py, |watch| std::mem::replace(&mut watch.posted, true)) {
            return Ok(());
        }
        guarding::call(crew.plan.start.bind(py), &[this.as_any(), interned!(py, "watch").as_any()])
            .inspect_err(|_| crew.watch.peek(py, |watch| watch.posted = false))
            .map(drop)
    }

    /// Sees to it that a task which has just begun ends in time.
    fn watch_over(
        this: &Bound<'_, Self>,
        seat: &Arc<Seat>,
        future: &Bound<'_, FutureBase>,
        timeout: u64,
    ) -> PyResult<u64> {
        let (py, crew) = (this.py(), this.get());
        Self::post_watchman(this)?;
        let deadline = clock::precise().saturating_add(timeout);
        let (number, rouse) = crew.watch.peek(py, |watch| {
            watch.count += 1;
            let number = watch.count;
            let (future, seat) = (future.clone().unbind(), Arc::clone(seat));
            watch.tasks.push(Watched { number, deadline, timeout, future, seat });
            (number, deadline < watch.sleeps_until)
        });
        if rouse {
            crew.rouse_watchman(py);
        }
        Ok(number)
    }

    fn rouse_watchman(&self, py: Python<'_>) {
        let watchman = self.watch.peek(py, |watch| watch.watchman.take());
        if let Some(ticket) = watchman
            && ticket.hold(py, ()).is_ok()
        {
            ticket.rouse();
        }
    }

    /// Ends the futures of tasks that have taken too long, and puts others in their threads' places.
    fn expire(this: &Bound<'_, Self>) -> PyResult<()> {
        let (py, crew) = (this.py(), this.get());
        let now = clock::precise();
        let late: Vec<Watched> = crew.watch.peek(py, |watch| {
            let (late, tasks) = std::mem::take(&mut watch.tasks).into_iter().partition(|task| task.deadline <= now);
            watch.tasks = tasks;
            late
        });
        let mut outcome = Ok(());
        for task in late {
            let more = |abandoned: usize| (abandoned < crew.plan.max_workers).then_some(abandoned + 1);
            let leaves = !task.seat.abandoned.load(Ordering::Acquire)
                && crew.abandoned.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok();
            if leaves {
                task.seat.abandoned.store(true, Ordering::Release);
                crew.threads.bind(py).discard(task.seat.thread.bind(py))?;
                crew.sign_off(py);
                if !crew.queue.is_empty() {
                    Self::hire(this)?;
                }
            }
            let seconds = PyFloat::new(py, task.timeout as f64 / SECOND as f64);
            let late = guarding::call(crew.plan.errors.late.bind(py), &[seconds.as_any()])
                .map_or_else(|error| error, PyErr::from_value);
            let mut tickets = Tickets::new();
            let ended = FutureBase::finish(task.future.bind(py), Err(late.into_value(py).into_any()), &mut tickets);
            rouse(&mut tickets);
            outcome = outcome.and(ended.map(drop));
        }
        outcome
    }
}

/// Calls a task's function in its own context.
fn perform(py: Python<'_>, work: Work) -> Result<Py<PyAny>, Py<PyAny>> {
    let Work { function, args, kwargs, context, crew, .. } = work;
    let (function, args) = (function.into_bound(py), args.into_bound(py));
    let kwargs = kwargs.map(|kwargs| kwargs.into_bound(py));
    let context = context.map(|context| context.into_bound(py));
    drop(crew);
    let result = context::within(py, context.as_ref(), || match &kwargs {
        None => Call::with_items(&args).forward(&function).map_err(Failure::from),
        Some(kwargs) => {
            let packed = Packed::new(None, &args, Some(kwargs))?;
            packed.call().forward(&function).map_err(Failure::from)
        }
    });
    // Whatever goes with them may have a `__del__`.
    let rest = [Some(function), Some(args.into_any()), kwargs.map(Bound::into_any), context];
    let outcome = match result {
        Ok(Ok(result)) => Ok(result.unbind()),
        Ok(Err(Failure::Raised(raised))) => Err(raised.fetch(py).into_value(py).into_any()),
        Ok(Err(Failure::Error(error))) => Err(error.into_value(py).into_any()),
        Err(error) => Err(error.into_value(py).into_any()),
    };
    guarding::release(py, rest.into_iter().flatten().map(Bound::unbind));
    outcome
}

fn works_for(crew: usize) -> bool {
    STATION.with_borrow(|station| station.as_ref().is_some_and(|station| station.crew == crew))
}

/// Notes that this thread runs a future while `body` does.
fn busy_with<R>(future: &Bound<'_, FutureBase>, body: impl FnOnce() -> R) -> R {
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            STATION.with_borrow_mut(|station| station.as_mut().map(|station| station.runs.pop()));
        }
    }
    let address = future.as_ptr().addr();
    STATION.with_borrow_mut(|station| {
        if let Some(station) = station {
            station.runs.push(address);
        }
    });
    let _over = Over;
    body()
}

/// Where this thread works for the crew that is to run `future`, and nobody runs it yet, runs it here and now; true if it
/// did. To wait would be to wait for oneself, where all threads of a crew do it.
pub(super) fn help_out(future: &Bound<'_, FutureBase>) -> PyResult<bool> {
    let py = future.py();
    let address = future.as_ptr().addr();
    let found = STATION.with_borrow(|station| {
        let station = station.as_ref()?;
        Some((station.crew, Arc::clone(&station.seat), station.runs.contains(&address)))
    });
    let Some((crew, seat, own)) = found else { return Ok(false) };
    if own {
        return Err(PyRuntimeError::new_err("a task waits for its own result, and would wait for ever"));
    }
    let Some(work) = future.get().claim(py, Some(crew)) else { return Ok(false) };
    let crew = work.crew.clone_ref(py).into_bound(py);
    let mut tickets = Tickets::new();
    let outcome = busy_with(future, || Crew::run(&crew, &seat, future, *work, &mut tickets));
    rouse(&mut tickets);
    outcome.map(|()| true)
}

#[pymethods]
impl Crew {
    /// What a worker does all its life.
    fn work(this: &Bound<'_, Self>) -> PyResult<()> {
        static CURRENT: Made<Py<PyAny>> = Made::new();
        let (py, crew) = (this.py(), this.get());
        let thread = guarding::call(CURRENT.import(py, "threading", "current_thread")?, &[])?.unbind();
        let seat = Arc::new(Seat { thread, abandoned: AtomicBool::new(false) });
        let station = Station { crew: Self::address(this), seat: Arc::clone(&seat), runs: Vec::new() };
        STATION.replace(Some(station));
        let ready = crew.plan.initializer.as_ref().map_or(Ok(()), |initializer| {
            let args = crew.plan.initargs.bind(py);
            let called = Call::with_items(args).forward(initializer.bind(py));
            called.map(drop).map_err(|raised| raised.fetch(py))
        });
        let outcome = match ready {
            Ok(()) => Self::work_off(this, &seat),
            Err(error) => {
                log_error(py, "critical", "Exception in initializer:", None, error);
                crew.break_down(py)
            }
        };
        if let Err(error) = outcome {
            // A callback's SystemExit, or the like: this thread goes, and another one comes if there is work.
            log_error(py, "critical", "Exception in worker", None, error);
        }
        drop(STATION.take());
        if crew.generation != lifecycle::generation() {
            return Ok(());
        }
        if seat.abandoned.load(Ordering::Acquire) {
            crew.abandoned.fetch_sub(1, Ordering::SeqCst);
            return Ok(());
        }
        crew.sign_off(py);
        if !crew.closed.load(Ordering::SeqCst) {
            crew.threads.bind(py).discard(seat.thread.bind(py))?;
        }
        if !crew.queue.is_empty() && !crew.broken.load(Ordering::SeqCst) {
            Self::hire(this)?;
        }
        Ok(())
    }

    /// What the thread does that looks after deadlines.
    fn watch(this: &Bound<'_, Self>) -> PyResult<()> {
        let (py, crew) = (this.py(), this.get());
        loop {
            let ticket = Ticket::for_this_thread();
            let next = crew.watch.peek(py, |watch| {
                let next = watch.tasks.iter().map(|task| task.deadline).min();
                let over =
                    next.is_none() && crew.closed.load(Ordering::SeqCst) && crew.alive.load(Ordering::SeqCst) == 0;
                if over {
                    watch.posted = false;
                    return None;
                }
                watch.sleeps_until = next.unwrap_or(u64::MAX);
                watch.watchman = Some(Arc::clone(&ticket));
                Some(next)
            });
            let Some(next) = next else { return Ok(()) };
            if ticket.wait(py, next)? == Woken::Forked {
                return Ok(());
            }
            if let Err(error) = Self::expire(this) {
                log_error(py, "critical", "Exception in the thread that watches over timeouts", None, error);
            }
        }
    }

    /// Takes no new tasks; with `cancel`, those queued are cancelled.
    #[pyo3(signature = (*, cancel))]
    fn close(&self, py: Python<'_>, cancel: bool) -> PyResult<()> {
        self.retire();
        if self.generation != lifecycle::generation() {
            return Ok(());
        }
        let mut outcome = self.close_slots(py);
        if cancel || self.alive.load(Ordering::SeqCst) == 0 {
            outcome = outcome.and(self.cancel_queue(py));
        }
        if self.alive.load(Ordering::SeqCst) == 0 {
            self.rouse_watchman(py);
        }
        outcome
    }

    /// Waits until all workers have gone, those left out that were abandoned; false where `timeout` has run out.
    #[pyo3(signature = (*, timeout=None))]
    fn wait(this: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let (py, crew) = (this.py(), this.get());
        let deadline = match timeout {
            None => None,
            Some(timeout) => nanoseconds("timeout", timeout)?.and_then(|length| clock::precise().checked_add(length)),
        };
        if crew.generation != lifecycle::generation() {
            return Ok(true);
        }
        let myself = usize::from(works_for(Self::address(this)));
        loop {
            let ticket = Ticket::for_this_thread();
            let waits = crew.leaving.peek(py, |waiters| {
                let waits = crew.alive.load(Ordering::SeqCst) > myself;
                if waits {
                    waiters.join(Arc::clone(&ticket));
                }
                waits
            });
            if !waits {
                return Ok(true);
            }
            if myself > 0 {
                // Its own thread can't be waited for, and only the last one tells: it looks again.
                let slice = clock::precise().saturating_add(10_000_000);
                let woken = ticket.wait(py, Some(deadline.map_or(slice, |deadline| deadline.min(slice))));
                crew.step_back(py, &ticket);
                woken?;
                if deadline.is_some_and(|deadline| deadline <= clock::precise()) {
                    return Ok(false);
                }
                continue;
            }
            let woken = ticket.wait(py, deadline);
            if !matches!(woken, Ok(Woken::Settled)) {
                crew.step_back(py, &ticket);
            }
            match woken? {
                Woken::Settled => {}
                Woken::Expired => return Ok(false),
                Woken::Forked => return Ok(true),
            }
        }
    }

    /// The threads that work.
    #[getter]
    fn threads<'py>(&self, py: Python<'py>) -> Bound<'py, PySet> {
        self.threads.bind(py).clone()
    }

    /// How many threads work or may, how many of them have nothing to do, how many tasks are queued, and how many threads
    /// have been abandoned with a task that took too long.
    fn counts(&self) -> (usize, usize, usize, usize) {
        (
            self.alive.load(Ordering::SeqCst),
            self.idle.load(Ordering::SeqCst),
            self.queue.len(),
            self.abandoned.load(Ordering::SeqCst),
        )
    }

    /// Whether the initializer has failed.
    #[getter]
    fn broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Whether it takes no new tasks.
    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// From now on no crew takes new tasks: the interpreter is about to end.
    #[staticmethod]
    fn close_all() {
        CLOSING_TIME.store(true, Ordering::SeqCst);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.plan.initializer)?;
        visit.call(&self.plan.initargs)?;
        visit.call(&self.threads)
    }
}

impl Crew {
    fn step_back(&self, py: Python<'_>, ticket: &Ticket<()>) {
        let _ = ticket.leave(py);
        let mut gone = Vec::new();
        if ticket.is_in_line() {
            self.leaving.peek(py, |waiters| waiters.note_leaving(&mut gone));
        }
        attached(py, |_| drop(gone));
    }
}

impl Crew {
    pub(super) fn new(py: Python<'_>, plan: Plan) -> PyResult<Self> {
        let slots = plan.max_pending.map(|free| Guarded::new(Slots { free, waiters: Waiters::default() }));
        Ok(Self {
            plan,
            threads: PySet::empty(py)?.unbind(),
            generation: lifecycle::generation(),
            queue: Box::default(),
            slots,
            sleepers: Mutex::default(),
            idle: AtomicUsize::new(0),
            waking: AtomicBool::new(false),
            alive: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            leaving: Guarded::default(),
            watch: Guarded::default(),
        })
    }

    /// A crew like this one, for a forked child: with nobody in it, and nothing to do.
    pub(super) fn successor(&self, py: Python<'_>) -> PyResult<Self> {
        let mut new = Self::new(py, self.plan.clone_ref(py))?;
        new.closed = AtomicBool::new(self.closed.load(Ordering::SeqCst));
        new.broken = AtomicBool::new(self.broken.load(Ordering::SeqCst));
        Ok(new)
    }

    /// Whether it is this process's.
    pub(super) fn is_ours(&self) -> bool {
        self.generation == lifecycle::generation()
    }
}

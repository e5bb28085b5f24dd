//! One line of waiters, threads and asyncio tasks alike, served in order of arrival.
//!
//! What comes free is *handed* to the first in line and never thrown to whoever is quickest. A [`Ticket`] is one
//! waiter's place: it is settled exactly once, by a gift, by the line's end, or by the waiter who leaves (a deadline,
//! Ctrl-C, a cancelled task). A gift for somebody who has just left, or whose event loop has closed, comes back to the
//! giver, who turns to the next.
//!
//! [`Waiters`] is the line itself, to be kept inside a room's own guarded state, so that "take what is free, or else
//! queue" is one step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use pyo3::exceptions::{PyException, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::clock::{self, binding as alarms};
use crate::guarding::{Guarded, Made, attached, call_method, interned};
use crate::lifecycle;

/// How long the main thread waits before it looks for signals: Ctrl-C takes at most this and a little more.
const SIGNAL_SLICE: u64 = 50_000_000;

/// How often a call into an event loop is tried again that a signal handler's exception has cut short.
const TRIES: usize = 8;

/// How a waiter is woken.
enum Waker {
    Thread(Thread),
    /// An event loop, and the future of that loop on which the task waits.
    Task {
        event_loop: Py<PyAny>,
        future: Py<PyAny>,
    },
}

/// What has become of a wait.
pub enum Settled<T> {
    /// Something was handed over.
    Given(T),
    /// The line has ended.
    Closed,
    /// The waiter has left, or has been given its gift already.
    Left,
}

enum State<T> {
    Waiting,
    Settled(Settled<T>),
}

/// One waiter's place in the line.
pub struct Ticket<T> {
    state: Guarded<State<T>>,
    // What a parked thread may look at without the interpreter lock.
    settled: AtomicBool,
    // Whether it stands in a line, which then shows it to the garbage collector. Written under the line's guard.
    in_line: AtomicBool,
    // The process that it belongs to, as the number of forks before.
    generation: u64,
    waker: Waker,
}

impl<T: Send> Ticket<T> {
    /// A place for this thread.
    #[must_use]
    pub fn for_this_thread() -> Arc<Self> {
        Self::new(Waker::Thread(thread::current()))
    }

    /// A place for the task that will await `future` on `event_loop`.
    #[must_use]
    pub fn for_task(event_loop: &Bound<'_, PyAny>, future: &Bound<'_, PyAny>) -> Arc<Self> {
        Self::new(Waker::Task { event_loop: event_loop.clone().unbind(), future: future.clone().unbind() })
    }

    fn new(waker: Waker) -> Arc<Self> {
        Arc::new(Self {
            state: Guarded::new(State::Waiting),
            settled: AtomicBool::new(false),
            in_line: AtomicBool::new(false),
            generation: lifecycle::generation(),
            waker,
        })
    }

    /// Whether the wait is over.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Whether it stands in a line, be it waiting or not.
    #[must_use]
    pub fn is_in_line(&self) -> bool {
        self.in_line.load(Ordering::Relaxed)
    }

    /// Whether it is this process's. In a forked child, the tickets from before belong to threads and tasks of the parent.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.generation == lifecycle::generation()
    }

    /// The event loop of the task that waits, by address; 0 where a thread waits.
    #[must_use]
    pub fn home(&self) -> usize {
        match &self.waker {
            Waker::Thread(_) => 0,
            Waker::Task { event_loop, .. } => event_loop.as_ptr().addr(),
        }
    }

    fn is_waiting(&self) -> bool {
        !self.is_settled() && self.is_ours()
    }

    /// Hands `gift` over and wakes the waiter; gives it back where the waiter has left or can't be woken any more.
    ///
    /// The error is an exception that a signal handler raised in between: the gift's fate is decided nevertheless.
    pub fn give(&self, py: Python<'_>, gift: T) -> (Result<(), T>, PyResult<()>) {
        if let Err(gift) = self.hold(py, gift) {
            return (Err(gift), Ok(()));
        }
        let (woken, interrupted) = self.wake(py);
        if !woken && let Some(gift) = self.leave(py) {
            return (Err(gift), interrupted);
        }
        (Ok(()), interrupted)
    }

    /// Keeps `gift` for the waiter without waking it; gives it back where the waiter has left.
    pub fn hold(&self, py: Python<'_>, gift: T) -> Result<(), T> {
        self.state.with(py, |state, _| match state {
            State::Waiting => {
                *state = State::Settled(Settled::Given(gift));
                Ok(())
            }
            State::Settled(_) => Err(gift),
        })
    }

    /// Wakes a waiting thread whose gift is held for it already; may be called without the interpreter lock.
    pub fn rouse(&self) {
        self.settled.store(true, Ordering::Release);
        if let Waker::Thread(thread) = &self.waker {
            thread.unpark();
        }
    }

    /// Tells the waiter that nothing will come any more.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        let first = self.state.with(py, |state, _| {
            let waiting = matches!(state, State::Waiting);
            if waiting {
                *state = State::Settled(Settled::Closed);
            }
            waiting
        });
        if first { self.wake(py).1 } else { Ok(()) }
    }

    /// Ends the wait from the waiter's side. What had been handed over already goes to the caller, who passes it on.
    #[must_use]
    pub fn leave(&self, py: Python<'_>) -> Option<T> {
        let settled = self.state.with(py, |state, _| std::mem::replace(state, State::Settled(Settled::Left)));
        self.settled.store(true, Ordering::Release);
        match settled {
            State::Settled(Settled::Given(gift)) => Some(gift),
            State::Waiting | State::Settled(_) => None,
        }
    }

    /// Takes what the wait came to; `None` while it goes on.
    #[must_use]
    pub fn take(&self, py: Python<'_>) -> Option<Settled<T>> {
        self.state.with(py, |state, _| match state {
            State::Waiting => None,
            State::Settled(Settled::Closed) => Some(Settled::Closed),
            State::Settled(settled) => Some(std::mem::replace(settled, Settled::Left)),
        })
    }

    /// Whether the waiter could be woken, and what a signal handler raised meanwhile.
    fn wake(&self, py: Python<'_>) -> (bool, PyResult<()>) {
        self.settled.store(true, Ordering::Release);
        match &self.waker {
            Waker::Thread(thread) => {
                thread.unpark();
                (true, Ok(()))
            }
            Waker::Task { event_loop, future } => match wake_future(py) {
                Ok(wake) => call_in_loop(py, event_loop, wake, future.bind(py)),
                Err(error) => (false, Err(error)),
            },
        }
    }

    /// Waits on this thread until the ticket is settled, `deadline` (on the precise clock) has passed, or this process
    /// turns out to be a fork of the one that began to wait. What signal handlers raise comes out.
    pub fn wait(&self, py: Python<'_>, deadline: Option<u64>) -> PyResult<Woken> {
        self.wait_after(py, deadline, || ())
    }

    /// Waits likewise; `before` is called first, detached, by who hopes that the wait is over in a moment.
    pub fn wait_after(&self, py: Python<'_>, deadline: Option<u64>, before: impl FnOnce() + Send) -> PyResult<Woken> {
        let mut before = Some(before);
        let hears_signals = lifecycle::is_main_thread(py)?;
        let slice = if hears_signals { SIGNAL_SLICE } else { u64::MAX };
        let alarm = deadline.map(|_| {
            let waiter = thread::current();
            alarms::set_alarm(py, Box::new(move |_| waiter.unpark()))
        });
        let woken = loop {
            if self.is_settled() {
                break Ok(Woken::Settled);
            }
            let left = match deadline.map(|deadline| deadline.saturating_sub(clock::precise())) {
                Some(0) => break Ok(Woken::Expired),
                // A manual clock doesn't go on by itself; turning it unparks this thread.
                Some(_) if clock::is_manual() => u64::MAX,
                Some(left) => left,
                None => u64::MAX,
            };
            let before = before.take();
            lifecycle::detached(py, || {
                if let Some(before) = before {
                    before();
                }
                self.park(left.min(slice));
            });
            if hears_signals && let Err(error) = py.check_signals() {
                break Err(error);
            }
            if !self.is_ours() {
                break Ok(Woken::Forked);
            }
        };
        if let Some(number) = alarm {
            alarms::unset_alarm(py, number);
        }
        woken
    }

    fn park(&self, nanoseconds: u64) {
        // A wake-up that came before this is not lost: it makes the next park return at once.
        if self.is_settled() {
        } else if nanoseconds == u64::MAX {
            thread::park();
        } else {
            thread::park_timeout(Duration::from_nanos(nanoseconds));
        }
    }
}

impl<T> Ticket<T> {
    /// Shows the ticket to the garbage collector on behalf of the waiter. While it is in line, the line shows it:
    /// a collector that is shown one reference twice takes apart what is still in use.
    pub fn traverse(
        &self,
        visit: &PyVisit<'_>,
        gift: impl FnOnce(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        if self.in_line.load(Ordering::Relaxed) { Ok(()) } else { self.show(visit, gift) }
    }

    fn show(
        &self,
        visit: &PyVisit<'_>,
        gift: impl FnOnce(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        if let Waker::Task { event_loop, future } = &self.waker {
            visit.call(event_loop)?;
            visit.call(future)?;
        }
        self.state.traverse(|state| match state {
            State::Settled(Settled::Given(given)) => gift(given),
            State::Waiting | State::Settled(_) => Ok(()),
        })
    }
}

/// Why [`Ticket::wait`] has returned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The ticket is settled.
    Settled,
    /// The deadline has passed.
    Expired,
    /// A signal handler forked, and this is the child: the line it stood in is the parent's.
    Forked,
}

/// Calls `function(argument)` soon in an event loop of any thread. Says whether the loop has taken it.
pub(crate) fn call_in_loop(
    py: Python<'_>,
    event_loop: &Py<PyAny>,
    function: &Bound<'_, PyAny>,
    argument: &Bound<'_, PyAny>,
) -> (bool, PyResult<()>) {
    let event_loop = event_loop.bind(py);
    let mut outcome = Ok(());
    for _ in 0..TRIES {
        // Errors are dropped where PyO3 counts the thread as attached, so that they don't live on.
        let taken = attached(py, |py| {
            let scheduled = call_method(event_loop, interned!(py, "call_soon_threadsafe"), &[function, argument]);
            match scheduled {
                Ok(_) => Some(true),
                // The loop is closed.
                Err(error) if error.is_instance_of::<PyException>(py) => Some(false),
                // A signal handler raised inside the call, before or after the loop took it: waking twice does no harm.
                Err(interrupt) => {
                    if outcome.is_ok() {
                        outcome = Err(interrupt);
                    }
                    None
                }
            }
        });
        if let Some(taken) = taken {
            return (taken, outcome);
        }
    }
    (false, outcome)
}

#[pyfunction]
#[pyo3(name = "wake_future")]
pub(crate) fn end_wait(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    if !call_method(future, interned!(py, "done"), &[])?.is_truthy()? {
        call_method(future, interned!(py, "set_result"), &[py.None().bind(py)])?;
    }
    Ok(())
}

/// The callable that ends the wait of a task, in its own loop.
pub(crate) fn wake_future(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static WAKE: Made<Py<PyAny>> = Made::new();
    let wake = WAKE.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(end_wait, py)?.into_any().unbind()))?;
    Ok(wake.bind(py))
}

/// Those who wait, first come first served. To be kept inside the guarded state of what they wait for.
pub struct Waiters<T> {
    line: VecDeque<Arc<Ticket<T>>>,
    // How many of them have left; they are swept out when they are the greater part.
    left: usize,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { line: VecDeque::new(), left: 0 }
    }
}

impl<T> Drop for Waiters<T> {
    fn drop(&mut self) {
        for ticket in &self.line {
            ticket.in_line.store(false, Ordering::Relaxed);
        }
    }
}

impl<T: Send> Waiters<T> {
    /// Whether nobody is in line, not even somebody who has left it already.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// The next who is still waiting; he stays where he is.
    #[must_use]
    pub fn first(&self) -> Option<&Arc<Ticket<T>>> {
        self.line.iter().find(|ticket| ticket.is_waiting())
    }

    /// Joins the line at its end.
    pub fn join(&mut self, ticket: Arc<Ticket<T>>) {
        ticket.in_line.store(true, Ordering::Relaxed);
        self.line.push_back(ticket);
    }

    /// The next who is still waiting, out of the line now. Those who have left, and in a forked child those who wait in
    /// the parent, are gone: the caller drops them, outside of the guarded state.
    pub fn next(&mut self, gone: &mut Vec<Arc<Ticket<T>>>) -> Option<Arc<Ticket<T>>> {
        while let Some(ticket) = self.line.pop_front() {
            ticket.in_line.store(false, Ordering::Relaxed);
            if ticket.is_waiting() {
                return Some(ticket);
            }
            self.left = self.left.saturating_sub(1);
            gone.push(ticket);
        }
        None
    }

    /// Notes that somebody has left. Those who are gone are dropped by the caller, outside of the guarded state.
    pub fn note_leaving(&mut self, gone: &mut Vec<Arc<Ticket<T>>>) {
        self.left += 1;
        if self.left * 2 > self.line.len() {
            let (waiting, over): (_, VecDeque<_>) = self.line.drain(..).partition(|ticket| ticket.is_waiting());
            self.line = waiting;
            self.left = 0;
            gone.extend(over.into_iter().inspect(|ticket| ticket.in_line.store(false, Ordering::Relaxed)));
        }
    }

    /// Empties the line.
    pub fn drain(&mut self) -> Vec<Arc<Ticket<T>>> {
        self.left = 0;
        self.line.drain(..).inspect(|ticket| ticket.in_line.store(false, Ordering::Relaxed)).collect()
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.iter().filter(|ticket| ticket.is_waiting()).count()
    }

    /// Shows all who are in line to the garbage collector.
    pub fn traverse(
        &self,
        visit: &PyVisit<'_>,
        gift: impl Fn(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        self.line.iter().try_for_each(|ticket| ticket.show(visit, &gift))
    }
}

/// An awaitable that has its result already.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Ready {
    value: Py<PyAny>,
}

impl Ready {
    /// An awaitable that gives `value` at once.
    #[must_use]
    pub fn new(value: Py<PyAny>) -> Self {
        Self { value }
    }
}

#[pymethods]
impl Ready {
    fn __await__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<()> {
        Err(PyStopIteration::new_err((self.value.clone_ref(py),)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.value)
    }
}

/// A line that Python can stand in.
pub mod binding {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{
        Arc, Duration, Guarded, Made, PyAny, PyTraverseError, PyVisit, Python, Settled, Ticket, VecDeque, Waiters,
        Woken, alarms, attached, call_in_loop, call_method, clock, end_wait, interned,
    };
    use crate::errors::Error;
    use crate::guarding;
    use pyo3::prelude::*;
    use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

    type Gift = Py<PyAny>;

    #[derive(Default)]
    struct Shared {
        ready: VecDeque<Gift>,
        waiters: Waiters<Gift>,
        closed: bool,
    }

    /// Hands values from those who put them to those who wait for them, threads and tasks in one line.
    #[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
    #[derive(Default)]
    pub struct Line {
        shared: Guarded<Shared>,
    }

    const CLOSED: Error = Error::State("the line is closed");
    const OVER: Error = Error::State("the place is empty: its value was taken before, or it was left");
    const NOT_OVER: Error = Error::State("the wait is not over: await the place's future first");

    enum Entry {
        Ready(Gift),
        Queued,
        Closed,
    }

    impl Line {
        /// Hands a value to the first in line, or keeps it: at the front, where it had been handed out before.
        fn hand(&self, py: Python<'_>, mut value: Gift, mut front: bool) -> PyResult<()> {
            let mut outcome = Ok(());
            loop {
                let mut gone = Vec::new();
                let next = self.shared.with(py, |shared, _| match shared.waiters.next(&mut gone) {
                    Some(ticket) => Some((ticket, value)),
                    None if front => {
                        shared.ready.push_front(value);
                        None
                    }
                    None => {
                        shared.ready.push_back(value);
                        None
                    }
                });
                attached(py, |_| drop(gone));
                let Some((ticket, gift)) = next else { return outcome };
                let (given, interrupted) = ticket.give(py, gift);
                outcome = outcome.and(interrupted);
                match given {
                    Ok(()) => return outcome,
                    Err(back) => (value, front) = (back, true),
                }
            }
        }

        fn enter(&self, py: Python<'_>, ticket: &Arc<Ticket<Gift>>, wait: bool) -> Entry {
            self.shared.with(py, |shared, _| {
                if let Some(value) = shared.ready.pop_front() {
                    return Entry::Ready(value);
                }
                if shared.closed {
                    return Entry::Closed;
                }
                if wait {
                    shared.waiters.join(ticket.clone());
                }
                Entry::Queued
            })
        }

        /// Leaves the line; gives back what was handed over at the last moment.
        fn leave(&self, py: Python<'_>, ticket: &Ticket<Gift>) -> Option<Gift> {
            let gift = ticket.leave(py);
            if ticket.is_in_line() {
                let mut gone = Vec::new();
                self.shared.with(py, |shared, _| shared.waiters.note_leaving(&mut gone));
                attached(py, |_| drop(gone));
            }
            gift
        }

        /// Leaves the line; what was handed over already goes to the next. In a forked child it is the parent's to pass on.
        fn give_up(&self, py: Python<'_>, ticket: &Ticket<Gift>) -> PyResult<()> {
            match self.leave(py, ticket) {
                Some(gift) if ticket.is_ours() => self.hand(py, gift, true),
                gift => {
                    guarding::release(py, gift);
                    Ok(())
                }
            }
        }
    }

    /// The moment a timeout ends: now plus so many seconds; `None` waits for ever.
    fn deadline(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<(u64, u64)>> {
        let Some(timeout) = timeout else { return Ok(None) };
        let length = alarms::nanoseconds("timeout", timeout)?;
        Ok(length.and_then(|length| Some((clock::precise().checked_add(length)?, length))))
    }

    fn timed_out(length: u64) -> PyErr {
        Error::TimedOut(length as f64 / clock::SECOND as f64).into()
    }

    #[pymethods]
    impl Line {
        #[new]
        fn new() -> Self {
            Self::default()
        }

        /// Hands `value` to the first in line, or keeps it for the next who comes.
        #[pyo3(signature = (value, /))]
        fn put(&self, py: Python<'_>, value: Gift) -> PyResult<()> {
            if self.shared.with(py, |shared, _| shared.closed) {
                return Err(CLOSED.into());
            }
            self.hand(py, value, false)
        }

        /// Takes a value, or waits for one: `timeout` seconds; `None` for ever, 0 not at all.
        #[pyo3(signature = (*, timeout=None))]
        fn get(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Gift> {
            let deadline = deadline(timeout)?;
            loop {
                let ticket = Ticket::for_this_thread();
                let wait = deadline.is_none_or(|(_, length)| length > 0);
                match self.enter(py, &ticket, wait) {
                    Entry::Ready(value) => return Ok(value),
                    Entry::Closed => return Err(CLOSED.into()),
                    Entry::Queued if !wait => return Err(timed_out(0)),
                    Entry::Queued => {}
                }
                match ticket.wait(py, deadline.map(|(moment, _)| moment)) {
                    Err(interrupt) => {
                        // Giving up calls into event loops, where a second signal may find us.
                        let Err(second) = self.give_up(py, &ticket) else { return Err(interrupt) };
                        second.set_context(py, Some(interrupt));
                        return Err(second);
                    }
                    Ok(Woken::Forked) => continue,
                    Ok(Woken::Expired | Woken::Settled) => {}
                }
                match ticket.take(py) {
                    Some(Settled::Given(value)) => return Ok(value),
                    Some(Settled::Closed) => return Err(CLOSED.into()),
                    // Only the deadline ends a wait that nobody has settled.
                    Some(Settled::Left) | None => {}
                }
                // Whoever hands something over right now is just in time, or finds out that this waiter has left.
                return self.leave(py, &ticket).ok_or_else(|| timed_out(deadline.map_or(0, |(_, length)| length)));
            }
        }

        /// A place in the line for the task that runs in `event_loop`; the caller awaits its `future`, then calls `take`.
        #[pyo3(signature = (event_loop, /, *, timeout=None))]
        fn join<'py>(
            this: &Bound<'py, Self>,
            event_loop: &Bound<'py, PyAny>,
            timeout: Option<&Bound<'py, PyAny>>,
        ) -> PyResult<Bound<'py, Place>> {
            let py = this.py();
            let deadline = deadline(timeout)?;
            let future = call_method(event_loop, interned!(py, "create_future"), &[])?;
            let ticket = Ticket::for_task(event_loop, &future);
            let place = Bound::new(
                py,
                Place {
                    line: this.clone().unbind(),
                    ticket,
                    event_loop: event_loop.clone().unbind(),
                    future: future.unbind(),
                    deadline,
                    expired: AtomicBool::new(false),
                    watch: Watch::default(),
                },
            )?;
            let wait = deadline.is_none_or(|(_, length)| length > 0);
            match this.get().enter(py, &place.get().ticket, wait) {
                Entry::Ready(value) => {
                    // Nobody else knows this ticket: it takes the gift, and its task need not be woken, for it runs.
                    if let Err(value) = place.get().ticket.hold(py, value) {
                        this.get().hand(py, value, true)?;
                    }
                    end_wait(place.get().future.bind(py))?;
                }
                Entry::Closed => return Err(CLOSED.into()),
                Entry::Queued if !wait => return Err(timed_out(0)),
                Entry::Queued => Place::watch_the_clock(&place)?,
            }
            Ok(place)
        }

        /// Ends the line: all who wait hear of it now, and who comes later at once, when what is kept has been taken.
        fn close(&self, py: Python<'_>) -> PyResult<()> {
            let waiting = self.shared.with(py, |shared, _| {
                shared.closed = true;
                shared.waiters.drain()
            });
            let mut outcome = Ok(());
            for ticket in &waiting {
                outcome = outcome.and(ticket.close(py));
            }
            attached(py, |_| drop(waiting));
            outcome
        }

        /// How many wait.
        #[getter]
        fn waiting(&self, py: Python<'_>) -> usize {
            self.shared.with(py, |shared, _| shared.waiters.waiting())
        }

        fn __len__(&self, py: Python<'_>) -> usize {
            self.shared.with(py, |shared, _| shared.ready.len())
        }

        fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
            self.shared.traverse(|shared| {
                for value in &shared.ready {
                    visit.call(value)?;
                }
                shared.waiters.traverse(&visit, |value| visit.call(value))
            })
        }

        fn __clear__(&self, py: Python<'_>) {
            let mut shared = self.shared.with(py, |shared, _| std::mem::take(shared));
            guarding::release(py, std::mem::take(&mut shared.ready));
            drop(shared);
        }
    }

    /// What ends a task's wait by time: a timer of its loop, and the alarm of the manual clock.
    #[derive(Default)]
    struct Clockwork {
        timer: Option<Py<PyAny>>,
        alarm: Option<u64>,
    }

    /// Makes an event loop call `ring(weak reference to the owner)` when a moment may have come.
    #[derive(Default)]
    pub struct Watch {
        clockwork: Guarded<Clockwork>,
    }

    impl Watch {
        /// Sets the loop's timer for what is left up to `moment`, and an alarm for the case that the clock is turned by
        /// hand. What rings finds out whether the moment has come, and starts the watch again if not. The owner holds the
        /// loop, and `event_loop_of` asks it.
        pub fn start(
            &self,
            owner: &Bound<'_, PyAny>,
            event_loop: &Bound<'_, PyAny>,
            moment: u64,
            ring: &Bound<'_, PyAny>,
            event_loop_of: fn(&Bound<'_, PyAny>) -> Option<Py<PyAny>>,
        ) -> PyResult<()> {
            let py = owner.py();
            // Weak: what rings must keep neither the owner alive nor the event loop.
            let weak = PyWeakrefReference::new(owner)?;
            let timer = if clock::is_manual() {
                None
            } else {
                let left = Duration::from_nanos(moment.saturating_sub(clock::precise())).as_secs_f64();
                let left = left.into_pyobject(py)?;
                let call = [left.as_any(), ring, weak.as_any()];
                Some(call_method(event_loop, interned!(py, "call_later"), &call)?.unbind())
            };
            let weak = weak.unbind();
            let ring = ring.clone().unbind();
            let number = alarms::set_alarm(
                py,
                Box::new(move |py| {
                    let weak = weak.bind(py);
                    if let Some(event_loop) = weak.upgrade().and_then(|owner| event_loop_of(&owner)) {
                        // A loop that refuses is closed, and no task of it waits.
                        let _ = call_in_loop(py, &event_loop, ring.bind(py), weak.as_any());
                    }
                }),
            );
            let before = self
                .clockwork
                .with(py, |clockwork, _| std::mem::replace(clockwork, Clockwork { timer, alarm: Some(number) }));
            Self::end(py, before);
            Ok(())
        }

        /// Rings no more.
        pub fn stop(&self, py: Python<'_>) {
            let before = self.clockwork.with(py, |clockwork, _| std::mem::take(clockwork));
            Self::end(py, before);
        }

        fn end(py: Python<'_>, clockwork: Clockwork) {
            if let Some(number) = clockwork.alarm {
                alarms::unset_alarm(py, number);
            }
            attached(py, |py| {
                if let Some(timer) = clockwork.timer {
                    // It fails only by a signal handler's exception; a timer that rings in vain does no harm.
                    let _ = call_method(timer.bind(py), interned!(py, "cancel"), &[]);
                }
            });
        }

        /// Shows the timer to the garbage collector.
        pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
            self.clockwork.traverse(|clockwork| clockwork.timer.as_ref().map_or(Ok(()), |timer| visit.call(timer)))
        }
    }

    /// A task's place in a [`Line`]. Whoever gets one calls `take` or `leave`; dropping it is leaving.
    #[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
    pub struct Place {
        line: Py<Line>,
        ticket: Arc<Ticket<Gift>>,
        event_loop: Py<PyAny>,
        future: Py<PyAny>,
        deadline: Option<(u64, u64)>,
        // Whether it was left because its time had come.
        expired: AtomicBool,
        watch: Watch,
    }

    impl Place {
        fn watch_the_clock(this: &Bound<'_, Self>) -> PyResult<()> {
            let Some((moment, _)) = this.get().deadline else { return Ok(()) };
            let event_loop = this.get().event_loop.bind(this.py());
            this.get().watch.start(this.as_any(), event_loop, moment, ring(this.py())?, |place| {
                let place = place.cast::<Self>().ok()?;
                Some(place.get().event_loop.clone_ref(place.py()))
            })
        }

        /// Ends the wait if its time has come, and else goes on watching.
        fn check_deadline(this: &Bound<'_, Self>) -> PyResult<()> {
            let py = this.py();
            let place = this.get();
            let Some((moment, _)) = place.deadline else { return Ok(()) };
            if place.ticket.is_settled() {
                return Ok(());
            }
            if clock::precise() < moment {
                return Self::watch_the_clock(this);
            }
            place.expired.store(true, Ordering::Relaxed);
            let outcome = place.line.get().give_up(py, &place.ticket);
            place.watch.stop(py);
            end_wait(place.future.bind(py))?;
            outcome
        }
    }

    #[pyfunction]
    #[pyo3(name = "check_deadline")]
    fn rung(place: &Bound<'_, PyWeakrefReference>) -> PyResult<()> {
        match place.upgrade() {
            Some(place) => Place::check_deadline(place.cast::<Place>()?),
            None => Ok(()),
        }
    }

    /// What a place's event loop calls when the timer or the manual clock has rung.
    fn ring(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        static RING: Made<Py<PyAny>> = Made::new();
        let ring = RING.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(rung, py)?.into_any().unbind()))?;
        Ok(ring.bind(py))
    }

    #[pymethods]
    impl Place {
        /// Done when the wait is over, whatever it came to.
        #[getter]
        fn future(&self, py: Python<'_>) -> Py<PyAny> {
            self.future.clone_ref(py)
        }

        /// What the wait came to: the value; or `TimeoutError`; or `RuntimeError`, where the line was closed.
        fn take(&self, py: Python<'_>) -> PyResult<Gift> {
            self.watch.stop(py);
            match self.ticket.take(py) {
                Some(Settled::Given(value)) => Ok(value),
                Some(Settled::Closed) => Err(CLOSED.into()),
                Some(Settled::Left) if self.expired.load(Ordering::Relaxed) => {
                    Err(timed_out(self.deadline.map_or(0, |(_, length)| length)))
                }
                Some(Settled::Left) => Err(OVER.into()),
                None => Err(NOT_OVER.into()),
            }
        }

        /// Leaves the line; what was handed over already goes to the next.
        fn leave(&self, py: Python<'_>) -> PyResult<()> {
            self.watch.stop(py);
            self.line.get().give_up(py, &self.ticket)
        }

        fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
            visit.call(&self.line)?;
            visit.call(&self.event_loop)?;
            visit.call(&self.future)?;
            self.ticket.traverse(&visit, |value| visit.call(value))?;
            self.watch.traverse(&visit)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            // A frame that an exception leaves drops its locals with the exception set.
            Python::attach(|py| {
                guarding::with_nothing_raised(py, || {
                    self.watch.stop(py);
                    if let Err(error) = self.line.get().give_up(py, &self.ticket) {
                        error.write_unraisable(py, None);
                    }
                });
            });
        }
    }
}

//! The future: a real `concurrent.futures.Future` whose condition and waiters come into being when somebody asks for them.
//!
//! The face's `Future` inherits from [`FutureBase`] first and from the standard library's class second, and so everything
//! that reads `_condition`, `_waiters` and `_state` finds them: `wait`, `as_completed`, `asyncio.wrap_future`.
//! A future's state and the *existence* of its condition change under one lock. While there is no condition, to finish is
//! one step; once somebody has seen it, who finishes acquires it, tells the waiters, and notifies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pyo3::exceptions::{PyException, PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};

use super::binding::{Crew, help_out};
use super::spinning::{Whereabouts, spin_until};
use crate::callable::{Packed, bare_instance};
use crate::clock::{self, binding::nanoseconds};
use crate::guarding::{self, Dead, Guarded, Made, call_method, interned};
use crate::lifecycle;
use crate::waiting::{Ticket, Woken};

/// Where a future stands; the order matters, see [`State::is_over`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Pending,
    Running,
    Cancelled,
    Notified,
    Finished,
}

const STATES: [(State, &str, &str); 5] = [
    (State::Pending, "PENDING", "pending"),
    (State::Running, "RUNNING", "running"),
    (State::Cancelled, "CANCELLED", "cancelled"),
    (State::Notified, "CANCELLED_AND_NOTIFIED", "cancelled"),
    (State::Finished, "FINISHED", "finished"),
];

impl State {
    fn is_over(self) -> bool {
        self >= Self::Cancelled
    }

    fn is_cancelled(self) -> bool {
        matches!(self, Self::Cancelled | Self::Notified)
    }

    /// The standard library's name for it.
    fn name(self) -> &'static str {
        STATES.iter().find(|(state, ..)| *state == self).map_or("", |(_, name, _)| name)
    }

    fn description(self) -> &'static str {
        STATES.iter().find(|(state, ..)| *state == self).map_or("", |(.., text)| text)
    }
}

/// What a future stands for, until it runs.
pub(super) struct Work {
    pub(super) function: Py<PyAny>,
    pub(super) args: Py<PyTuple>,
    pub(super) kwargs: Option<Py<PyDict>>,
    pub(super) context: Option<Py<PyAny>>,
    pub(super) crew: Py<Crew>,
    /// Nanoseconds that it may take; `u64::MAX` for ever.
    pub(super) timeout: u64,
}

/// Work that is done elsewhere: in another process.
pub(super) trait Elsewhere: Send + Sync {
    /// Whether somebody does it already. Runs no Python code.
    fn has_begun(&self) -> bool;

    /// Takes it back, if nobody has begun it: then nobody will. Runs no Python code.
    fn take_back(&self) -> bool;

    /// It was taken back, and the future is cancelled.
    fn cancelled(&self, py: Python<'_>);
}

/// How many times a thread has let go of the interpreter lock to wait for a future; wraps.
pub(super) static WAITS: AtomicUsize = AtomicUsize::new(0);

/// Where threads wait for futures, and where workers finish them.
pub(super) static WAITERS: Whereabouts = Whereabouts::unknown();
pub(super) static WORKERS: Whereabouts = Whereabouts::unknown();

/// Whether a thread that waits for a future looks for it, and doesn't sleep. A hint: where several wait, the last one says.
pub(super) static LOOKING: AtomicBool = AtomicBool::new(false);

/// Threads that wait for a future.
pub(super) type Tickets = Vec<Arc<Ticket<()>>>;

/// What only few futures need.
#[derive(Default)]
struct More {
    condition: Option<Py<PyAny>>,
    waiters: Option<Py<PyList>>,
    callbacks: Vec<Py<PyAny>>,
    tickets: Tickets,
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

struct Inner {
    state: State,
    // Whether it stands for work of a crew: of this process alone.
    of_crew: bool,
    result: Option<Py<PyAny>>,
    exception: Option<Py<PyAny>>,
    work: Option<Box<Work>>,
    more: Option<Box<More>>,
}

impl Inner {
    fn condition(&self) -> Option<&Py<PyAny>> {
        self.more.as_ref()?.condition.as_ref()
    }

    fn elsewhere(&self) -> Option<&Arc<dyn Elsewhere>> {
        self.more.as_ref()?.elsewhere.as_ref()
    }

    /// The state, where what is done elsewhere may have begun without a word.
    fn state(&self) -> State {
        let begun = self.state == State::Pending && self.elsewhere().is_some_and(|work| work.has_begun());
        if begun { State::Running } else { self.state }
    }
}

/// What happens to a future.
enum Event {
    Started,
    Result(Py<PyAny>),
    Exception(Py<PyAny>),
    Cancelled,
}

enum Verdict {
    /// It happened.
    Changed,
    /// It can't happen in this state.
    Refused(State),
}

/// What is to be done once the state has changed.
struct Aftermath {
    verdict: Verdict,
    /// What the standard library's waiters are told, by the name of their method.
    tell: Option<&'static str>,
    waiters: Option<Py<PyList>>,
    tickets: Tickets,
    callbacks: Vec<Py<PyAny>>,
    work: Option<Box<Work>>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

/// The native half of `ferrule.scheduling.Future`.
#[pyclass(subclass, frozen, module = "ferrule._core")]
pub struct FutureBase {
    inner: Guarded<Inner>,
    // To be read without opening the cell.
    over: AtomicBool,
    // The process it was made in, as the number of forks before; wraps.
    generation: u32,
}

#[expect(clippy::cast_possible_truncation, reason = "compared with itself: four billion forks are far")]
fn generation() -> u32 {
    lifecycle::generation() as u32
}

fn module_item<'py>(
    py: Python<'py>,
    made: &'static Made<Py<PyAny>>,
    name: &'static str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    made.import(py, "concurrent.futures._base", name)
}

fn error_of(py: Python<'_>, made: &'static Made<Py<PyAny>>, name: &'static str, text: Option<String>) -> PyErr {
    let error = module_item(py, made, name).and_then(|class| match text {
        Some(text) => guarding::call(class, &[PyString::new(py, &text).as_any()]),
        None => guarding::call(class, &[]),
    });
    error.map_or_else(|error| error, PyErr::from_value)
}

fn cancelled_error(py: Python<'_>) -> PyErr {
    static CLASS: Made<Py<PyAny>> = Made::new();
    error_of(py, &CLASS, "CancelledError", None)
}

fn invalid_state(this: &Bound<'_, FutureBase>, state: State) -> PyErr {
    static CLASS: Made<Py<PyAny>> = Made::new();
    let shown = this.repr().map_or_else(|_| String::new(), |text| text.to_string());
    error_of(this.py(), &CLASS, "InvalidStateError", Some(format!("{}: {shown}", state.name())))
}

/// Tells the standard library's logger of an error that has no other way out.
pub(super) fn log_error(py: Python<'_>, level: &str, text: &str, argument: Option<&Bound<'_, PyAny>>, error: PyErr) {
    static LOGGER: Made<Py<PyAny>> = Made::new();
    let told = module_item(py, &LOGGER, "LOGGER").and_then(|logger| {
        let fields = PyDict::new(py);
        fields.set_item(interned!(py, "exc_info"), error.value(py))?;
        let text = PyString::new(py, text).into_any();
        let items: Vec<_> = [Some(&text), argument].into_iter().flatten().collect();
        let args = PyTuple::new(py, items)?;
        let packed = Packed::new(None, &args, Some(&fields))?;
        packed.call().forward(&logger.getattr(level)?).map_err(|raised| raised.fetch(py))
    });
    if let Err(error) = told {
        // A handler that raises: it is told where there is nobody else.
        error.write_unraisable(py, None);
    }
}

/// Wakes threads whose future is over. Needs no interpreter lock.
pub(super) fn rouse(tickets: &mut Tickets) {
    for ticket in tickets.drain(..) {
        ticket.rouse();
    }
}

/// Seconds as the standard library takes them, negative ones included, or a `timedelta`: the deadline.
fn deadline(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(timeout) = timeout else { return Ok(None) };
    let is_number = timeout.is_instance_of::<PyFloat>() || timeout.is_instance_of::<PyInt>();
    if is_number && timeout.lt(0)? {
        return Ok(Some(0));
    }
    Ok(nanoseconds("timeout", timeout)?.and_then(|length| clock::precise().checked_add(length)))
}

impl FutureBase {
    /// A future of the face's class, with work to do.
    pub(super) fn with_work<'py>(class: &Bound<'py, PyType>, work: Box<Work>) -> PyResult<Bound<'py, Self>> {
        let future = bare_instance(class)?.cast_into::<Self>()?;
        future.get().inner.peek(class.py(), |inner| {
            inner.of_crew = true;
            inner.work = Some(work);
        });
        Ok(future)
    }

    /// A future of the face's class whose work is done elsewhere; who does it finishes it.
    pub(super) fn elsewhere<'py>(
        class: &Bound<'py, PyType>,
        work: Option<Arc<dyn Elsewhere>>,
    ) -> PyResult<Bound<'py, Self>> {
        let future = bare_instance(class)?.cast_into::<Self>()?;
        future.get().inner.peek(class.py(), |inner| {
            inner.of_crew = true;
            if work.is_some() {
                inner.more.get_or_insert_default().elsewhere = work;
            }
        });
        Ok(future)
    }

    /// Whether it has a result, an exception, or was cancelled.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Takes the work to do it now; `None` where it was cancelled, or somebody else does it. With a crew, only that crew's.
    pub(super) fn claim(&self, py: Python<'_>, crew: Option<usize>) -> Option<Box<Work>> {
        self.inner.peek(py, |inner| {
            if inner.state != State::Pending {
                return None;
            }
            let work = inner.work.as_ref()?;
            if crew.is_some_and(|crew| crew != work.crew.as_ptr().addr()) {
                return None;
            }
            inner.state = State::Running;
            inner.work.take()
        })
    }

    /// One step in a future's life, with all who have to be told. Those who wait natively are left to the caller.
    fn happen(this: &Bound<'_, Self>, event: Event) -> PyResult<(Verdict, Tickets)> {
        let py = this.py();
        let mut event = Some(event);
        let mut held: Option<Bound<'_, PyAny>> = None;
        let after = loop {
            let step = this.get().inner.with(py, |inner, dead| match inner.condition() {
                Some(condition) if held.is_none() => Err(condition.clone_ref(py)),
                _ => Ok(event.take().map(|event| this.get().apply(py, inner, event, dead))),
            });
            match step {
                Ok(after) => break after,
                Err(condition) => {
                    let condition = condition.into_bound(py);
                    call_method(&condition, interned!(py, "acquire"), &[])?;
                    held = Some(condition);
                }
            }
        };
        let Some(mut after) = after else { return Err(PyRuntimeError::new_err("a future's event happened twice")) };
        let mut outcome = Ok(());
        if let Some(condition) = held {
            outcome = Self::tell(this, &condition, &after);
            outcome = outcome.and(call_method(&condition, interned!(py, "release"), &[]).map(drop));
        }
        if let Some(work) = after.work.take() {
            // Cancelled before it ran: its place in the queue is free for others.
            let crew = work.crew.clone_ref(py);
            drop(work);
            outcome = outcome.and(crew.get().leave_slot(py));
        }
        if let Some(work) = after.elsewhere.take() {
            if after.tell == Some("add_cancelled") {
                work.cancelled(py);
            }
            guarding::attached(py, |_| drop(work));
        }
        if !after.callbacks.is_empty() {
            rouse(&mut after.tickets);
            for callback in after.callbacks {
                outcome = outcome.and(Self::call_back(this, callback.bind(py)));
            }
        }
        if let Err(error) = outcome {
            rouse(&mut after.tickets);
            return Err(error);
        }
        Ok((after.verdict, after.tickets))
    }

    fn tell(this: &Bound<'_, Self>, condition: &Bound<'_, PyAny>, after: &Aftermath) -> PyResult<()> {
        let py = this.py();
        let mut outcome = Ok(());
        if let (Some(tell), Some(waiters)) = (after.tell, &after.waiters) {
            for waiter in waiters.bind(py).iter() {
                outcome = outcome.and(call_method(&waiter, &PyString::intern(py, tell), &[this.as_any()]).map(drop));
            }
        }
        if matches!(after.verdict, Verdict::Changed) {
            outcome = outcome.and(call_method(condition, interned!(py, "notify_all"), &[]).map(drop));
        }
        outcome
    }

    fn apply(&self, py: Python<'_>, inner: &mut Inner, event: Event, dead: &mut Dead) -> Aftermath {
        let mut after = Aftermath {
            verdict: Verdict::Changed,
            tell: None,
            waiters: None,
            tickets: Vec::new(),
            callbacks: Vec::new(),
            work: None,
            elsewhere: None,
        };
        let state = inner.state();
        let over = match event {
            Event::Started => {
                match state {
                    State::Pending => inner.state = State::Running,
                    State::Cancelled => {
                        inner.state = State::Notified;
                        after.tell = Some("add_cancelled");
                    }
                    State::Running | State::Notified | State::Finished => {}
                }
                after.verdict = Verdict::Refused(state);
                false
            }
            Event::Cancelled if inner.elsewhere().is_some_and(|work| !work.take_back()) => {
                after.verdict = Verdict::Refused(inner.state());
                false
            }
            Event::Cancelled if matches!(state, State::Pending) => {
                after.work = inner.work.take();
                // What stood in a queue has nobody else who would tell the waiters.
                if after.work.is_some() || inner.elsewhere().is_some() {
                    inner.state = State::Notified;
                    after.tell = Some("add_cancelled");
                } else {
                    inner.state = State::Cancelled;
                }
                true
            }
            Event::Result(result) if !state.is_over() => {
                dead.extend(inner.result.replace(result));
                inner.state = State::Finished;
                after.tell = Some("add_result");
                true
            }
            Event::Exception(exception) if !state.is_over() => {
                dead.extend(inner.exception.replace(exception));
                inner.state = State::Finished;
                after.tell = Some("add_exception");
                true
            }
            Event::Result(value) | Event::Exception(value) => {
                dead.push(value);
                after.verdict = Verdict::Refused(state);
                false
            }
            Event::Cancelled => {
                after.verdict = Verdict::Refused(state);
                false
            }
        };
        if let Some(more) = inner.more.as_mut() {
            if after.tell.is_some() {
                after.waiters = more.waiters.as_ref().map(|waiters| waiters.clone_ref(py));
            }
            if over {
                after.tickets = std::mem::take(&mut more.tickets);
                after.callbacks = std::mem::take(&mut more.callbacks);
                after.elsewhere = more.elsewhere.take();
            }
        }
        if over {
            self.over.store(true, Ordering::Release);
        }
        after
    }

    fn call_back(this: &Bound<'_, Self>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        match guarding::call(callback, &[this.as_any()]) {
            Ok(_) => Ok(()),
            Err(error) if error.is_instance_of::<PyException>(py) => {
                log_error(py, "error", "exception calling callback for %r", Some(this.as_any()), error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the future with what its function returned or raised; true where that counts. Threads to be woken go to
    /// `tickets`.
    pub(super) fn finish(
        this: &Bound<'_, Self>,
        outcome: Result<Py<PyAny>, Py<PyAny>>,
        tickets: &mut Tickets,
    ) -> PyResult<bool> {
        let event = match outcome {
            Ok(result) => Event::Result(result),
            Err(exception) => Event::Exception(exception),
        };
        let (verdict, mut woken) = Self::happen(this, event)?;
        if tickets.is_empty() {
            *tickets = woken;
        } else {
            tickets.append(&mut woken);
        }
        Ok(matches!(verdict, Verdict::Changed))
    }

    /// Cancels it, and wakes who waits; true where it is cancelled now.
    pub(super) fn call_off(this: &Bound<'_, Self>) -> PyResult<bool> {
        let (verdict, mut tickets) = Self::happen(this, Event::Cancelled)?;
        rouse(&mut tickets);
        Ok(match verdict {
            Verdict::Changed => true,
            Verdict::Refused(state) => state.is_cancelled(),
        })
    }

    /// Waits until it is over; false where the time has run out.
    pub(super) fn wait(this: &Bound<'_, Self>, deadline: Option<u64>) -> PyResult<bool> {
        let (py, future) = (this.py(), this.get());
        if future.is_over() {
            return Ok(true);
        }
        if deadline != Some(0) && help_out(this)? {
            return Ok(true);
        }
        loop {
            let foreign = future.generation != generation();
            if foreign && future.inner.peek(py, |inner| inner.of_crew) {
                return Err(PyRuntimeError::new_err(
                    "the future belongs to the process that this one was forked from: nobody will finish it here",
                ));
            }
            let ticket = Ticket::for_this_thread();
            let waits = future.inner.peek(py, |inner| {
                if !inner.state.is_over() {
                    inner.more.get_or_insert_default().tickets.push(Arc::clone(&ticket));
                }
                !inner.state.is_over()
            });
            if !waits {
                break;
            }
            let woken = ticket.wait_after(py, deadline, || {
                WAITS.fetch_add(1, Ordering::Release);
                let here = guarding::processor();
                WAITERS.note(here);
                if !WORKERS.is_at(here) {
                    LOOKING.store(true, Ordering::Release);
                    spin_until(|| ticket.is_settled());
                    LOOKING.store(false, Ordering::Release);
                }
            });
            if !matches!(woken, Ok(Woken::Settled)) {
                let mut left = None;
                future.inner.peek(py, |inner| {
                    if let Some(more) = inner.more.as_mut()
                        && let Some(place) = more.tickets.iter().position(|other| Arc::ptr_eq(other, &ticket))
                    {
                        left = Some(more.tickets.swap_remove(place));
                    }
                });
                drop(left);
            }
            if woken? == Woken::Expired {
                return Ok(future.is_over());
            }
        }
        // Who has set the state by hand, under the condition, may not have set the rest yet.
        let condition = future.inner.peek(py, |inner| inner.condition().map(|condition| condition.clone_ref(py)));
        if let Some(condition) = condition {
            call_method(condition.bind(py), interned!(py, "acquire"), &[])?;
            call_method(condition.bind(py), interned!(py, "release"), &[])?;
        }
        Ok(true)
    }

    fn outcome<'py>(&self, py: Python<'py>) -> PyResult<Result<Bound<'py, PyAny>, Bound<'py, PyAny>>> {
        let clone = |value: &Option<Py<PyAny>>| value.as_ref().map(|value| value.bind(py).clone());
        let (state, result, exception) =
            self.inner.peek(py, |inner| (inner.state, clone(&inner.result), clone(&inner.exception)));
        match (state, exception) {
            (State::Finished, Some(exception)) => Ok(Err(exception)),
            (State::Finished, None) => Ok(Ok(result.unwrap_or_else(|| py.None().into_bound(py)))),
            (State::Cancelled | State::Notified, _) => Err(cancelled_error(py)),
            (State::Pending | State::Running, _) => Err(PyTimeoutError::new_err(())),
        }
    }
}

#[pymethods]
impl FutureBase {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // Subclasses may have an `__init__` that takes something.
        let inner =
            Inner { state: State::Pending, of_crew: false, result: None, exception: None, work: None, more: None };
        Self { inner: Guarded::new(inner), over: AtomicBool::new(false), generation: generation() }
    }

    /// Cancels the call unless it runs already or is over; true if it is cancelled.
    fn cancel(this: &Bound<'_, Self>) -> PyResult<bool> {
        Self::call_off(this)
    }

    /// Whether it was cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        self.inner.peek(py, |inner| inner.state.is_cancelled())
    }

    /// Whether it runs now.
    fn running(&self, py: Python<'_>) -> bool {
        self.inner.peek(py, |inner| inner.state() == State::Running)
    }

    /// Whether it is over, one way or another.
    fn done(&self) -> bool {
        self.is_over()
    }

    /// Waits for the result and returns it, or raises what the call has raised.
    #[pyo3(signature = (timeout=None))]
    fn result<'py>(this: &Bound<'py, Self>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        if !this.get().is_over() {
            Self::wait(this, deadline(timeout)?)?;
        }
        this.get().outcome(this.py())?.map_err(PyErr::from_value)
    }

    /// Waits for the exception that the call raises and returns it; `None` if it raises none.
    #[pyo3(signature = (timeout=None))]
    fn exception<'py>(
        this: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if !this.get().is_over() {
            Self::wait(this, deadline(timeout)?)?;
        }
        Ok(this.get().outcome(this.py())?.err())
    }

    /// Calls `fn` with the future when it is over: at once where it is.
    #[pyo3(signature = (r#fn))]
    fn add_done_callback(this: &Bound<'_, Self>, r#fn: &Bound<'_, PyAny>) -> PyResult<()> {
        let over = this.get().inner.peek(this.py(), |inner| {
            if !inner.state.is_over() {
                inner.more.get_or_insert_default().callbacks.push(r#fn.clone().unbind());
            }
            inner.state.is_over()
        });
        if over { Self::call_back(this, r#fn) } else { Ok(()) }
    }

    /// For executors: marks it as running; false where it was cancelled.
    fn set_running_or_notify_cancel(this: &Bound<'_, Self>) -> PyResult<bool> {
        match Self::happen(this, Event::Started)?.0 {
            Verdict::Changed | Verdict::Refused(State::Pending) => Ok(true),
            Verdict::Refused(State::Cancelled) => Ok(false),
            Verdict::Refused(state) => {
                let text = format!("Future {:#x} in unexpected state: {}", this.as_ptr().addr(), state.name());
                let error = PyRuntimeError::new_err("Future in unexpected state");
                log_error(this.py(), "critical", &text, None, error.clone_ref(this.py()));
                Err(error)
            }
        }
    }

    /// For executors: ends it with a result.
    fn set_result(this: &Bound<'_, Self>, result: Py<PyAny>) -> PyResult<()> {
        Self::end(this, Event::Result(result))
    }

    /// For executors: ends it with an exception.
    fn set_exception(this: &Bound<'_, Self>, exception: Py<PyAny>) -> PyResult<()> {
        Self::end(this, Event::Exception(exception))
    }

    /// Whether it is over, whether it was cancelled, its result and its exception, all of one moment.
    fn _get_snapshot<'py>(
        &self,
        py: Python<'py>,
    ) -> (bool, bool, Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>) {
        let clone = |value: &Option<Py<PyAny>>| value.as_ref().map(|value| value.bind(py).clone());
        self.inner.peek(py, |inner| match inner.state {
            State::Finished => (true, false, clone(&inner.result), clone(&inner.exception)),
            State::Cancelled | State::Notified => (true, true, None, None),
            State::Pending | State::Running => (false, false, None, None),
        })
    }

    #[getter]
    fn _condition<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CONDITION: Made<Py<PyAny>> = Made::new();
        let known = |inner: &mut Inner| inner.condition().map(|condition| condition.bind(py).clone());
        if let Some(condition) = self.inner.peek(py, known) {
            return Ok(condition);
        }
        let made = CONDITION.import(py, "threading", "Condition")?.call0()?;
        // Another thread may have been quicker: the first one stays.
        let condition = self.inner.peek(py, |inner| {
            inner.more.get_or_insert_default().condition.get_or_insert_with(|| made.clone().unbind()).bind(py).clone()
        });
        Ok(condition)
    }

    #[getter]
    fn _waiters<'py>(&self, py: Python<'py>) -> Bound<'py, PyList> {
        let made = PyList::empty(py);
        self.inner.peek(py, |inner| {
            inner.more.get_or_insert_default().waiters.get_or_insert_with(|| made.clone().unbind()).bind(py).clone()
        })
    }

    #[getter]
    fn _done_callbacks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let callbacks: Vec<Bound<'py, PyAny>> = self.inner.peek(py, |inner| {
            let callbacks = inner.more.as_ref().map(|more| more.callbacks.iter());
            callbacks.into_iter().flatten().map(|callback| callback.bind(py).clone()).collect()
        });
        PyList::new(py, callbacks)
    }

    #[getter]
    fn _state(&self, py: Python<'_>) -> &'static str {
        self.inner.peek(py, |inner| inner.state().name())
    }

    #[setter(_state)]
    fn put_state(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<()> {
        let text = name.to_cow()?;
        let Some((state, ..)) = STATES.iter().find(|(_, name, _)| *name == text) else {
            return Err(PyValueError::new_err(format!("_state must be a state of a future, got {text:?}")));
        };
        let mut tickets = self.inner.peek(py, |inner| {
            inner.state = *state;
            self.over.store(state.is_over(), Ordering::Release);
            match inner.more.as_mut() {
                Some(more) if state.is_over() => std::mem::take(&mut more.tickets),
                _ => Tickets::new(),
            }
        });
        rouse(&mut tickets);
        Ok(())
    }

    #[getter]
    fn _result<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.inner.peek(py, |inner| inner.result.as_ref().map(|result| result.bind(py).clone()))
    }

    #[setter(_result)]
    fn put_result(&self, py: Python<'_>, result: Option<Py<PyAny>>) {
        self.inner.with(py, |inner, dead| dead.extend(std::mem::replace(&mut inner.result, result)));
    }

    #[getter]
    fn _exception<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.inner.peek(py, |inner| inner.exception.as_ref().map(|exception| exception.bind(py).clone()))
    }

    #[setter(_exception)]
    fn put_exception(&self, py: Python<'_>, exception: Option<Py<PyAny>>) {
        self.inner.with(py, |inner, dead| dead.extend(std::mem::replace(&mut inner.exception, exception)));
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let py = this.py();
        let (state, outcome) = (this.get().inner.peek(py, |inner| inner.state()), this.get().outcome(py));
        let class = this.get_type().name()?.to_string();
        let address = this.as_ptr().addr();
        let state = state.description();
        Ok(match outcome {
            Ok(Ok(result)) => {
                format!("<{class} at {address:#x} state={state} returned {}>", result.get_type().name()?)
            }
            Ok(Err(error)) => format!("<{class} at {address:#x} state={state} raised {}>", error.get_type().name()?),
            Err(_) => format!("<{class} at {address:#x} state={state}>"),
        })
    }

    fn __reduce__(this: &Bound<'_, Self>) -> PyResult<()> {
        let class = this.get_type().name()?;
        Err(PyTypeError::new_err(format!("a {class} can't be pickled or copied: it belongs to its process")))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.inner.traverse(|inner| {
            visit.call(&inner.result)?;
            visit.call(&inner.exception)?;
            if let Some(work) = &inner.work {
                visit.call(&work.function)?;
                visit.call(&work.args)?;
                visit.call(&work.kwargs)?;
                visit.call(&work.context)?;
            }
            if let Some(more) = &inner.more {
                visit.call(&more.condition)?;
                visit.call(&more.waiters)?;
                for callback in &more.callbacks {
                    visit.call(callback)?;
                }
            }
            Ok(())
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let gone = self
            .inner
            .peek(py, |inner| (inner.result.take(), inner.exception.take(), inner.work.take(), inner.more.take()));
        drop(gone);
    }
}

impl FutureBase {
    fn end(this: &Bound<'_, Self>, event: Event) -> PyResult<()> {
        let (verdict, mut tickets) = Self::happen(this, event)?;
        rouse(&mut tickets);
        match verdict {
            Verdict::Changed => Ok(()),
            Verdict::Refused(state) => Err(invalid_state(this, state)),
        }
    }
}

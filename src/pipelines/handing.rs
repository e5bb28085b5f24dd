//! Work handed to other threads and taken back, in order or as it is done.
//!
//! Threads of Python's own call [`Worker`]s, so that debuggers, profilers and `threading.enumerate` know them. They and
//! the iterator share a [`Desk`] and nothing else: when the iterator is gone, it is closed, and the threads end.
//!
//! *Waking.* To wake a thread costs more than most work. So a worker keeps the interpreter lock while there is something to
//! do, and who hands out wakes one worker, unless one is on its way, and that one wakes the next if there is more to do.
//! Where an item costs next to nothing, even that is too much: the iterator hands out all it may, then wakes one worker in
//! letting go of the interpreter lock, and that one does everything and wakes the iterator in letting go of it in turn.
//! Whether items are cheap is measured all the time; should one that looked cheap be none, the iterator, which looks after
//! a millisecond, takes what is done and gets the others to work. And where the source is what takes long, nothing is
//! pulled before what has been handed out is given out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam::queue::SegQueue;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::expressions::Function;
use crate::clock;
use crate::guarding::{self, Guarded};
use crate::iterating::binding::{add_note, shown};
use crate::lifecycle;
use crate::stepping::{Claim, Source, Stepping, call_one};

/// How long a wait is before it looks for signals.
const SLICE: Duration = Duration::from_millis(50);

/// How long the iterator waits before it sees to it that more workers work.
const PATIENCE: Duration = Duration::from_millis(1);

/// How much work a hand-over should be worth, in nanoseconds, where the chunk is found by measuring.
const WORTH: u64 = 100_000;

/// Work that is over sooner than a thread is woken, in nanoseconds. With an interpreter lock, threads that have the lock
/// from one another for such work only wait for it.
const CHEAP: u64 = if cfg!(Py_GIL_DISABLED) { 2_000 } else { 20_000 };

/// Nobody waits, or somebody for whatever comes; other numbers are those of a job's first item.
const NOBODY: u64 = u64::MAX;
const ANY: u64 = u64::MAX - 1;

type Outcome = (Py<PyAny>, Result<Py<PyAny>, Box<PyErr>>);

struct Job {
    first: u64,
    size: usize,
    work: Guarded<Option<(Function, Vec<Py<PyAny>>)>>,
    outcomes: Guarded<VecDeque<Outcome>>,
    done: AtomicBool,
}

impl Job {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.work.traverse(|work| match work {
            Some((function, items)) => {
                function.traverse(visit)?;
                items.iter().try_for_each(|item| visit.call(item))
            }
            None => Ok(()),
        })?;
        self.outcomes.traverse(|outcomes| {
            outcomes.iter().try_for_each(|(item, made)| {
                visit.call(item)?;
                made.as_ref().map_or(Ok(()), |made| visit.call(made))
            })
        })
    }
}

/// A worker that has nothing to do.
struct Sleeper {
    thread: Thread,
    awake: AtomicBool,
}

/// What the iterator and its workers have in common.
struct Desk {
    jobs: SegQueue<Arc<Job>>,
    /// What is done, where it is given out as it comes.
    done: Option<SegQueue<Arc<Job>>>,
    /// What an item costs, in nanoseconds, as a running mean; 0: not known yet.
    cost: AtomicU64,
    alive: AtomicUsize,
    sleepers: Mutex<Vec<Arc<Sleeper>>>,
    idle: AtomicUsize,
    waking: AtomicBool,
    closed: AtomicBool,
    /// What the iterator waits for, and in which thread.
    awaited: AtomicU64,
    waiting: Mutex<Option<Thread>>,
    generation: u64,
}

/// Neither lock is held where anything can panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    fn new(ordered: bool) -> Self {
        Self {
            jobs: SegQueue::new(),
            done: (!ordered).then(SegQueue::new),
            cost: AtomicU64::new(0),
            alive: AtomicUsize::new(0),
            sleepers: Mutex::new(Vec::new()),
            idle: AtomicUsize::new(0),
            waking: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            awaited: AtomicU64::new(NOBODY),
            waiting: Mutex::new(None),
            generation: lifecycle::generation(),
        }
    }

    /// Whether this process has the threads that are meant.
    fn is_of_this_process(&self) -> bool {
        self.generation == lifecycle::generation()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn cost(&self) -> u64 {
        self.cost.load(Ordering::Relaxed)
    }

    fn is_cheap(&self) -> bool {
        (1..CHEAP).contains(&self.cost())
    }

    /// Wakes a worker, unless one is on its way.
    fn wake_one(&self) {
        if self.idle.load(Ordering::SeqCst) == 0 || self.waking.swap(true, Ordering::SeqCst) {
            return;
        }
        let sleeper = locked(&self.sleepers).pop();
        match sleeper {
            Some(sleeper) => {
                sleeper.awake.store(true, Ordering::Release);
                sleeper.thread.unpark();
            }
            None => self.waking.store(false, Ordering::SeqCst),
        }
    }

    /// Waits for work; what is `owed` to the iterator, it gets when the interpreter lock is free for it.
    fn rest(&self, py: Python<'_>, sleeper: &Arc<Sleeper>, owed: bool) {
        sleeper.awake.store(false, Ordering::Relaxed);
        locked(&self.sleepers).push(Arc::clone(sleeper));
        self.idle.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !self.jobs.is_empty() || self.is_closed() {
            // Something came just now.
            let mut sleepers = locked(&self.sleepers);
            let place = sleepers.iter().position(|other| Arc::ptr_eq(other, sleeper));
            let chosen = place.map(|place| sleepers.swap_remove(place)).is_none();
            drop(sleepers);
            self.idle.fetch_sub(1, Ordering::SeqCst);
            if chosen {
                self.waking.store(false, Ordering::SeqCst);
            }
            if owed {
                self.rouse();
            }
            return;
        }
        lifecycle::detached(py, || {
            if owed {
                self.rouse();
            }
            while !sleeper.awake.load(Ordering::Acquire) {
                thread::park();
            }
        });
        self.idle.fetch_sub(1, Ordering::SeqCst);
        self.waking.store(false, Ordering::SeqCst);
    }

    /// Wakes the iterator.
    fn rouse(&self) {
        if self.awaited.swap(NOBODY, Ordering::SeqCst) != NOBODY
            && let Some(thread) = locked(&self.waiting).take()
        {
            thread.unpark();
        }
    }

    /// Does a job. True if the iterator waits for it.
    fn perform(&self, py: Python<'_>, job: Arc<Job>) -> bool {
        let Some((function, items)) = job.work.with(py, |work, _| work.take()) else { return false };
        let count = items.len().max(1) as u64;
        let start = clock::precise();
        let mut outcomes = VecDeque::with_capacity(items.len());
        for item in items {
            let made = function.call(py, item.bind(py)).map(Bound::unbind).map_err(Box::new);
            outcomes.push_back((item, made));
        }
        let each = (clock::precise().saturating_sub(start) / count).max(1);
        let before = self.cost();
        // Soon believed when it turns out dearer, less soon when cheaper.
        let cost = if before == 0 || each > before { each } else { (before * 3 + each) / 4 };
        self.cost.store(cost.max(1), Ordering::Relaxed);
        drop(function);
        job.outcomes.with(py, |kept, _| *kept = outcomes);
        job.done.store(true, Ordering::SeqCst);
        let first = job.first;
        if let Some(done) = &self.done {
            done.push(job);
        }
        fence(Ordering::SeqCst);
        let awaited = self.awaited.load(Ordering::SeqCst);
        awaited == first || awaited == ANY
    }

    /// Nothing is done any more but what has been begun.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if !self.is_of_this_process() {
            // The threads are in another process, and so may be whoever holds the locks.
            return;
        }
        while self.jobs.pop().is_some() {}
        for sleeper in std::mem::take(&mut *locked(&self.sleepers)) {
            sleeper.awake.store(true, Ordering::Release);
            sleeper.thread.unpark();
        }
        self.rouse();
    }
}

/// What a thread runs: does jobs until there is nobody who hands out any.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Worker {
    desk: Arc<Desk>,
}

/// Says that a worker has ended, however it did.
struct Ending<'a>(&'a Desk);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
        self.0.rouse();
    }
}

#[pymethods]
impl Worker {
    fn __call__(&self, py: Python<'_>) {
        let desk = &*self.desk;
        let _ending = Ending(desk);
        let sleeper = Arc::new(Sleeper { thread: thread::current(), awake: AtomicBool::new(false) });
        let mut owed = false;
        while desk.is_of_this_process() {
            let Some(job) = desk.jobs.pop() else {
                if desk.is_closed() {
                    return;
                }
                desk.rest(py, &sleeper, std::mem::take(&mut owed));
                continue;
            };
            if !desk.is_cheap() {
                if std::mem::take(&mut owed) {
                    desk.rouse();
                }
                if !desk.jobs.is_empty() {
                    desk.wake_one();
                }
            }
            owed |= desk.perform(py, job);
        }
    }
}

struct State {
    source: Source,
    ended: bool,
    function: Function,
    /// What is on its way, in the order of its items.
    window: VecDeque<Arc<Job>>,
    /// Not ordered: what is being given out.
    current: Option<Arc<Job>>,
    /// How many items are on their way.
    ahead: usize,
    most: usize,
    chunk: Option<usize>,
    pulled: u64,
    /// Whether items are being handed out, up to the limit.
    filling: bool,
    /// Whether the source took long for what it gave last.
    slow: bool,
    /// What the source raised, behind what it gave before.
    pending: Option<PyErr>,
    on_error: String,
    name: String,
    collect: Py<PyAny>,
    /// `start(worker)` starts a thread that calls it.
    start: Py<PyAny>,
}

/// An iterator over what workers make of a source's items.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct Handing {
    state: Claim<State>,
    desk: Arc<Desk>,
    workers: usize,
}

impl Drop for Handing {
    fn drop(&mut self) {
        self.desk.close();
    }
}

const WHAT: &str = "a parallel stage";

#[pymethods]
impl Handing {
    /// At most `most` items are on their way; `chunk` at a time, or as many as measuring suggests.
    #[new]
    #[pyo3(signature = (source, function, start, /, *, workers, most, chunk, ordered, name, on_error, collect, first))]
    #[expect(clippy::too_many_arguments, reason = "called by the face alone, by name")]
    fn new(
        source: &Bound<'_, PyAny>,
        function: &Bound<'_, PyAny>,
        start: Py<PyAny>,
        workers: usize,
        most: usize,
        chunk: Option<usize>,
        ordered: bool,
        name: String,
        on_error: String,
        collect: Py<PyAny>,
        first: u64,
    ) -> PyResult<Self> {
        let state = State {
            source: Source::new(source)?,
            ended: false,
            function: Function::new(function),
            window: VecDeque::new(),
            current: None,
            ahead: 0,
            most,
            chunk,
            pulled: first,
            filling: true,
            slow: false,
            pending: None,
            on_error,
            name,
            collect,
            start,
        };
        Ok(Self { state: Claim::new(state), desk: Arc::new(Desk::new(ordered)), workers })
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    /// How many items came before those that are on their way, and the latter in order.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<(u64, Bound<'py, PyList>)> {
        let mut state = self.state.enter(py, WHAT)?;
        let list = PyList::empty(py);
        let mut left = 0;
        for place in 0..state.window.len() {
            let job = Arc::clone(&state.window[place]);
            // What is being worked on can't be looked at: it is waited for.
            self.wait(py, &mut state, job.first, |_| job.is_done())?;
            let items = job
                .outcomes
                .with(py, |outcomes, _| outcomes.iter().map(|(item, _)| item.clone_ref(py)).collect::<Vec<_>>());
            left += items.len() as u64;
            for item in items {
                list.append(item)?;
            }
        }
        Ok((state.pulled - left, list))
    }

    /// Ends it: workers finish what they are at, and nothing comes any more, in whichever thread it is iterated.
    fn close(&self, py: Python<'_>) {
        self.desk.close();
        if let Some(mut state) = self.state.claim(py) {
            state.end(py);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| {
            visit.call(&state.collect)?;
            visit.call(&state.start)?;
            state.function.traverse(&visit)?;
            state.source.traverse(&visit)?;
            state.window.iter().try_for_each(|job| job.traverse(&visit))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        self.close(py);
    }
}

impl State {
    fn end(&mut self, py: Python<'_>) {
        self.ended = true;
        self.ahead = 0;
        self.source.end(py);
        let gone = (std::mem::take(&mut self.window), self.current.take(), self.pending.take());
        guarding::attached(py, |_| drop(gone));
    }
}

impl Handing {
    /// Starts a thread, if there may be one more. One that can't be started is missed only where there is no other.
    fn hire(&self, py: Python<'_>, state: &State) -> PyResult<bool> {
        let desk = &self.desk;
        if desk.alive.load(Ordering::SeqCst) >= self.workers {
            return Ok(false);
        }
        let worker = Bound::new(py, Worker { desk: Arc::clone(desk) })?;
        desk.alive.fetch_add(1, Ordering::SeqCst);
        match call_one(state.start.bind(py), worker.as_any()) {
            Ok(_) => Ok(true),
            Err(error) => {
                let others = desk.alive.fetch_sub(1, Ordering::SeqCst) > 1;
                if others && error.is_instance_of::<PyException>(py) { Ok(false) } else { Err(error) }
            }
        }
    }

    /// Pulls a chunk and hands it out.
    fn hand_out(&self, py: Python<'_>, state: &mut State) -> PyResult<()> {
        let desk = &self.desk;
        let room = state.most - state.ahead;
        let chunk = state.chunk.unwrap_or_else(|| {
            let fitting = WORTH.checked_div(desk.cost()).and_then(|fitting| usize::try_from(fitting).ok()).unwrap_or(1);
            // Every worker should have two chunks, one at hand and one to come.
            fitting.clamp(1, (state.most / 4).max(1))
        });
        let size = chunk.min(room);
        let mut items = Vec::with_capacity(size);
        let before = clock::coarse();
        let mut raised = state.source.gather(py, size, &mut items).err();
        state.slow = clock::coarse() != before;
        state.ended = raised.is_none() && items.len() < size;
        if let Some(error) = raised.take_if(|error| error.is_instance_of::<PyException>(py)) {
            state.pending = Some(error);
        }
        if !items.is_empty() {
            let size = items.len();
            let work = Some((state.function.clone_ref(py), items));
            let job = Arc::new(Job {
                first: state.pulled,
                size,
                work: Guarded::new(work),
                outcomes: Guarded::new(VecDeque::new()),
                done: AtomicBool::new(false),
            });
            state.pulled += size as u64;
            state.ahead += size;
            state.window.push_back(Arc::clone(&job));
            desk.jobs.push(job);
            fence(Ordering::SeqCst);
            if desk.alive.load(Ordering::SeqCst) == 0 {
                self.hire(py, state)?;
            } else if !desk.is_cheap() {
                let more = desk.jobs.len() > desk.idle.load(Ordering::SeqCst);
                if !more || !self.hire(py, state)? {
                    desk.wake_one();
                }
            }
        }
        // What asks for the end, Ctrl-C for one, doesn't wait for what was pulled before.
        raised.map_or(Ok(()), Err)
    }

    /// Waits until `ready`, which is so when the job that begins with item `awaited` is done, or when it is closed.
    fn wait(&self, py: Python<'_>, state: &mut State, awaited: u64, ready: impl Fn(&State) -> bool) -> PyResult<()> {
        let desk = &self.desk;
        let mut patience = PATIENCE;
        loop {
            if !desk.is_of_this_process() {
                return Err(PyRuntimeError::new_err("a run does not go on in a forked process"));
            }
            *locked(&desk.waiting) = Some(thread::current());
            desk.awaited.store(awaited, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if ready(state) || desk.is_closed() {
                desk.awaited.store(NOBODY, Ordering::SeqCst);
                return Ok(());
            }
            let idle = desk.idle.load(Ordering::SeqCst) > 0;
            let help = !desk.jobs.is_empty() && (idle || desk.alive.load(Ordering::SeqCst) < self.workers);
            let cheap = desk.is_cheap();
            let slice = if help || cheap { patience } else { SLICE };
            lifecycle::detached(py, || {
                if cheap {
                    desk.wake_one();
                }
                thread::park_timeout(slice);
            });
            let roused = desk.awaited.swap(NOBODY, Ordering::SeqCst) == NOBODY;
            py.check_signals()?;
            patience = (patience * 2).min(SLICE);
            if !roused && help && !desk.jobs.is_empty() {
                desk.wake_one();
                self.hire(py, state)?;
            }
        }
    }

    fn next<'py>(&self, py: Python<'py>, state: &mut State) -> PyResult<Option<Bound<'py, PyAny>>> {
        let desk = &self.desk;
        loop {
            if state.current.is_none() {
                state.current = match &desk.done {
                    None => state.window.front().filter(|job| job.is_done()).cloned(),
                    Some(done) => done.pop(),
                };
            }
            if let Some(job) = &state.current {
                let (outcome, left) = job.outcomes.with(py, |outcomes, _| (outcomes.pop_front(), outcomes.len()));
                let index = job.first + (job.size - left - 1) as u64;
                if left == 0 {
                    let place = state.window.iter().position(|other| Arc::ptr_eq(other, job));
                    place.map(|place| state.window.remove(place));
                    state.current = None;
                }
                let Some((item, made)) = outcome else { continue };
                state.ahead -= 1;
                match made {
                    Ok(made) => {
                        guarding::release(py, [item]);
                        return Ok(Some(made.into_bound(py)));
                    }
                    Err(error) => {
                        Self::failed(py, state, index, &item.into_bound(py), *error)?;
                        continue;
                    }
                }
            }
            if desk.is_closed() {
                state.end(py);
                return Ok(None);
            }
            let cheap = desk.is_cheap();
            let low = if cfg!(Py_GIL_DISABLED) { state.most / 2 } else { 0 };
            state.filling &= state.ahead < state.most;
            state.filling |= !cheap || state.ahead <= low;
            state.filling &= !(cheap && state.slow && state.ahead > 0);
            // Before it is known what an item costs, nobody knows how many make a chunk.
            let guessing = state.chunk.is_none() && desk.cost() == 0 && state.window.len() >= self.workers;
            if state.filling && !guessing && !state.ended && state.pending.is_none() && state.ahead < state.most {
                self.hand_out(py, state)?;
                continue;
            }
            if state.ahead == 0 {
                return state.pending.take().map_or(Ok(None), Err);
            }
            if desk.done.is_some() {
                self.wait(py, state, ANY, |_| desk.done.as_ref().is_some_and(|done| !done.is_empty()))?;
            } else if guessing {
                self.wait(py, state, ANY, |state| {
                    desk.cost() > 0 || state.window.front().is_some_and(|job| job.is_done())
                })?;
            } else {
                let first = state.window.front().map_or(ANY, |job| job.first);
                self.wait(py, state, first, |state| state.window.front().is_some_and(|job| job.is_done()))?;
            }
        }
    }

    #[cold]
    fn failed(py: Python<'_>, state: &State, index: u64, item: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
        if state.on_error == "raise" || !error.is_instance_of::<PyException>(py) {
            add_note(py, &error, &format!("in stage {}, item {index}: {}", state.name, shown(item)));
            return Err(error);
        }
        if state.on_error == "collect" {
            let told = (state.name.as_str(), index, item, error.value(py)).into_pyobject(py)?;
            call_one(state.collect.bind(py), told.as_any())?;
        }
        guarding::attached(py, |_| drop(error));
        Ok(())
    }
}

impl Stepping for Handing {
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        let mut state = this.get().state.enter(py, WHAT)?;
        // Outcomes are dropped on the way, and references with them.
        guarding::attached(py, |py| this.get().next(py, &mut state).map(|made| made.map(Bound::unbind)))
            .map(|made| made.map(|made| made.into_bound(py)))
    }
}

//! Work handed to other threads and taken back, in order or as it is done.
//!
//! Threads of Python's own call [`Worker`]s, so that debuggers, profilers and `threading.enumerate` know them. They and
//! the iterator share queues and nothing else: when the iterator is gone, the queue is, and the threads end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::expressions::{Function, Value};
use crate::guarding::{self, Guarded};
use crate::iterating::binding::{add_note, shown};
use crate::lifecycle;
use crate::stepping::{Claim, Source, Stepping, call_one};

/// How long a wait is before it looks for signals.
const SLICE: Duration = Duration::from_millis(50);
/// How much work a hand-over should be worth, in nanoseconds, where the chunk is found by measuring.
const WORTH: u64 = 100_000;

/// Work that is over sooner than a thread is woken, in nanoseconds.
const CHEAP: u64 = 20_000;

type Outcome = (Py<PyAny>, Result<Py<PyAny>, PyErr>);

struct Job {
    first: u64,
    size: usize,
    items: Guarded<Vec<Py<PyAny>>>,
    outcomes: Guarded<VecDeque<Outcome>>,
    done: AtomicBool,
}

/// What the iterator and its workers have in common.
struct Shared {
    /// What an item costs, in nanoseconds, as a running mean; 0: not known yet.
    cost: AtomicU64,
    alive: AtomicUsize,
}

/// What a thread runs: takes jobs until there is nobody who makes any.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Worker {
    jobs: Receiver<Arc<Job>>,
    done: Sender<Arc<Job>>,
    function: Function,
    shared: Arc<Shared>,
}

/// Says that a worker has ended, however it did.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::Release);
    }
}

#[pymethods]
impl Worker {
    fn __call__(&self, py: Python<'_>) {
        let _ending = Ending(&self.shared);
        loop {
            // While there is work, the interpreter lock stays here: giving it away costs more than most work.
            let job = match self.jobs.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => match lifecycle::detached(py, || self.jobs.recv()) {
                    Ok(job) => job,
                    Err(_) => return,
                },
            };
            let items = job.items.with(py, |items, _| std::mem::take(items));
            let count = items.len().max(1) as u64;
            let start = Instant::now();
            let mut outcomes = VecDeque::with_capacity(items.len());
            for item in items {
                let mut value = Value::Object(item.bind(py).clone());
                let made = self.function.apply(py, &mut value).and_then(|made| made.object(py));
                drop(value);
                outcomes.push_back((item, made.map(Bound::unbind)));
            }
            let each = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX) / count;
            let before = self.shared.cost.load(Ordering::Relaxed);
            let cost = if before == 0 { each } else { (before * 7 + each) / 8 };
            self.shared.cost.store(cost.max(1), Ordering::Relaxed);
            job.outcomes.with(py, |kept, _| *kept = outcomes);
            job.done.store(true, Ordering::Release);
            // Nobody may want it any more.
            let _ = self.done.send(job);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.function.traverse(&visit)
    }
}

struct State {
    source: Source,
    ended: bool,
    jobs: Option<Sender<Arc<Job>>>,
    given: Receiver<Arc<Job>>,
    /// Ordered: jobs in the order of their items. Otherwise: the one that is being given out.
    window: VecDeque<Arc<Job>>,
    /// How many items are on their way.
    ahead: usize,
    most: usize,
    chunk: Option<usize>,
    ordered: bool,
    pulled: u64,
    /// Whether items are being handed out, up to the limit.
    filling: bool,
    /// What the source raised, behind what it gave before.
    pending: Option<PyErr>,
    items: Vec<Arc<Job>>,
    on_error: String,
    name: String,
    collect: Py<PyAny>,
}

/// An iterator over what workers make of a source's items.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct Handing {
    state: Claim<State>,
    receiver: Receiver<Arc<Job>>,
    done: Sender<Arc<Job>>,
    function: Py<PyAny>,
    shared: Arc<Shared>,
    generation: u64,
}

const WHAT: &str = "a parallel stage";

#[pymethods]
impl Handing {
    /// At most `most` items are on their way; `chunk` at a time, or as many as measuring suggests.
    #[new]
    #[pyo3(signature = (source, function, /, *, most, chunk, ordered, name, on_error, collect, first))]
    #[expect(clippy::too_many_arguments, reason = "called by the face alone, by name")]
    fn new(
        source: &Bound<'_, PyAny>,
        function: Py<PyAny>,
        most: usize,
        chunk: Option<usize>,
        ordered: bool,
        name: String,
        on_error: String,
        collect: Py<PyAny>,
        first: u64,
    ) -> PyResult<Self> {
        let source = Source::new(source)?;
        let (jobs, receiver) = unbounded();
        let (done, given) = unbounded();
        let state = State {
            source,
            ended: false,
            jobs: Some(jobs),
            given,
            window: VecDeque::new(),
            ahead: 0,
            most,
            chunk,
            ordered,
            pulled: first,
            filling: true,
            pending: None,
            items: Vec::new(),
            on_error,
            name,
            collect,
        };
        let shared = Arc::new(Shared { cost: AtomicU64::new(0), alive: AtomicUsize::new(0) });
        let generation = lifecycle::generation();
        Ok(Self { state: Claim::new(state), receiver, done, function, shared, generation })
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    /// What one more thread has to call.
    fn worker(&self, py: Python<'_>) -> Worker {
        self.shared.alive.fetch_add(1, Ordering::Relaxed);
        Worker {
            jobs: self.receiver.clone(),
            done: self.done.clone(),
            function: Function::new(self.function.bind(py)),
            shared: Arc::clone(&self.shared),
        }
    }

    /// How many threads work, or wait for work.
    fn alive(&self) -> usize {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// The items that are on their way, in order, and how many came before them.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<(u64, Bound<'py, PyList>)> {
        let mut state = self.state.enter(py, WHAT)?;
        // What is being worked on can't be looked at: it is waited for.
        let jobs: Vec<Arc<Job>> =
            if state.ordered { state.window.iter().cloned().collect() } else { state.items.clone() };
        for job in &jobs {
            while !job.done.load(Ordering::Acquire) {
                self.wait(py, &mut state)?;
            }
        }
        let list = PyList::empty(py);
        let mut left = 0;
        for job in jobs {
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

    /// Ends it: workers finish what they are at, and nothing comes any more.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.state.enter(py, WHAT)?;
        state.jobs = None;
        state.ended = true;
        state.source.end(py);
        let gone = (std::mem::take(&mut state.window), std::mem::take(&mut state.items), state.pending.take());
        // What was handed out and not begun is not done any more.
        while self.receiver.try_recv().is_ok() {}
        drop(gone);
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        self.state.traverse(|state| {
            visit.call(&state.collect)?;
            state.source.traverse(&visit)
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        if let Some(mut state) = self.state.claim(py) {
            state.jobs = None;
            state.ended = true;
            state.source.end(py);
        }
    }
}

impl Handing {
    /// Pulls a chunk and hands it out.
    fn hand_out(&self, py: Python<'_>, state: &mut State) {
        let room = state.most - state.ahead;
        let chunk = state.chunk.unwrap_or_else(|| {
            let cost = self.shared.cost.load(Ordering::Relaxed);
            let fitting = WORTH.checked_div(cost).and_then(|fitting| usize::try_from(fitting).ok()).unwrap_or(1);
            // Every worker should have two chunks, one at hand and one to come.
            fitting.clamp(1, (state.most / 4).max(1))
        });
        let mut items = Vec::with_capacity(chunk.min(room));
        if let Err(error) = state.source.gather(py, chunk.min(room), &mut items) {
            state.pending = Some(error);
        } else if items.len() < chunk.min(room) {
            state.ended = true;
        }
        if items.is_empty() {
            return;
        }
        let size = items.len();
        let job = Arc::new(Job {
            first: state.pulled,
            size,
            items: Guarded::new(items),
            outcomes: Guarded::new(VecDeque::new()),
            done: AtomicBool::new(false),
        });
        state.pulled += size as u64;
        state.ahead += size;
        if state.ordered {
            state.window.push_back(Arc::clone(&job));
        } else {
            state.items.push(Arc::clone(&job));
        }
        if let Some(jobs) = &state.jobs {
            let _ = jobs.send(job);
        }
    }

    /// Waits until some job is done.
    fn wait(&self, py: Python<'_>, state: &mut State) -> PyResult<()> {
        loop {
            let said = lifecycle::detached(py, || state.given.recv_timeout(SLICE));
            match said {
                Ok(job) => {
                    if !state.ordered {
                        state.window.push_back(job);
                    }
                    return Ok(());
                }
                Err(RecvTimeoutError::Disconnected) => return Err(PyRuntimeError::new_err("no worker is left")),
                Err(RecvTimeoutError::Timeout) => {
                    py.check_signals()?;
                    if self.generation != lifecycle::generation() {
                        return Err(PyRuntimeError::new_err("a run does not go on in a forked process"));
                    }
                    if self.alive() == 0 && state.given.is_empty() {
                        return Err(PyRuntimeError::new_err("no worker is left: the threads have been ended"));
                    }
                }
            }
        }
    }

    fn next<'py>(&self, py: Python<'py>, state: &mut State) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            while let Ok(job) = state.given.try_recv() {
                if !state.ordered {
                    state.window.push_back(job);
                }
            }
            if let Some(job) = state.window.front()
                && job.done.load(Ordering::Acquire)
            {
                let job = Arc::clone(job);
                let (outcome, left) = job.outcomes.with(py, |outcomes, _| (outcomes.pop_front(), outcomes.len()));
                if left == 0 {
                    state.window.pop_front();
                    if !state.ordered {
                        state.items.retain(|other| !Arc::ptr_eq(other, &job));
                    }
                }
                let Some((item, made)) = outcome else { continue };
                state.ahead -= 1;
                let index = job.first + (job.size - left - 1) as u64;
                match made {
                    Ok(made) => {
                        guarding::release(py, [item]);
                        return Ok(Some(made.into_bound(py)));
                    }
                    Err(error) => {
                        Self::failed(py, state, index, &item.into_bound(py), error)?;
                        continue;
                    }
                }
            }
            // Where the work is small, waking workers is what costs: it is done for many items at a time.
            let cost = self.shared.cost.load(Ordering::Relaxed);
            let cheap = cost > 0 && cost < CHEAP;
            state.filling &= state.ahead < state.most;
            state.filling |= !cheap || state.ahead <= state.most / 2;
            if state.filling && !state.ended && state.pending.is_none() && state.ahead < state.most {
                self.hand_out(py, state);
                continue;
            }
            if state.ahead == 0 {
                return state.pending.take().map_or(Ok(None), Err);
            }
            self.wait(py, state)?;
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

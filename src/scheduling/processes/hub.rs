//! The hub: an executor's queue, its workers, and the record of what each of them holds.
//!
//! Two native threads watch the sockets. They read what workers say, and give them more to do, without the interpreter
//! lock; one of them at a time goes on to finish futures with it, and the other one watches meanwhile. A third thread, the
//! *keeper*, starts the template process (the system ends that one when the thread goes that started it) and sees to all
//! that is a matter of time: deadlines, memory, tasks that wait behind a long one while others are idle.
//!
//! All of them and those who submit share one [`State`]. No Python code runs under its lock, and no reference is released
//! there: what is over goes to [`State::done`], and from there to whoever finishes.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use super::super::future::{Elsewhere, FutureBase, Tickets, log_error, rouse};
use super::super::queue::Queue;
use super::wire::{Beside, Frame, Head, Kind, Reader, Writer};
use super::worker::{Buffers, unpacked};
use super::{FILLED, FLUSHES, OUTBOX, RESULTS, begun, peek, take_back};
use crate::callable::context;
use crate::clock::{self, SECOND, binding::nanoseconds};
use crate::guarding::{Guarded, Made, attached, interned};
use crate::lifecycle;
use crate::sharing::binding::bytes_of;
use crate::sharing::{self, Bell, Happening, Mapping, Received, Segments, Watch};
use crate::waiting::{Ticket, Waiters, Woken};

/// What a worker is given at once, at most, in nanoseconds of work.
const BUDGET: u64 = 400_000;

/// How many tasks a worker holds at most.
const MOST_HELD: usize = 64;

/// How often the memory of workers is looked at, in nanoseconds.
const MEMORY_TICK: u64 = 20_000_000;

/// For how long a task waits behind another one before an idle worker gets it, in nanoseconds.
const PATIENCE: u64 = 1_000_000;

/// So many workers that end before they can work, one after the other, and the executor gives up. Those that were killed
/// count less: that may be somebody's doing who stops again.
const MOST_FAILURES: u32 = 30;
const BY_ITSELF: u32 = 10;

/// Where main modules take longer than this to load, in nanoseconds, a spare worker is kept.
const SLOW_TO_LOAD: u64 = 100_000_000;

/// The stack of threads that run callbacks, in bytes.
const STACK: usize = 16 << 20;

const BELL: u64 = 0;
const CONTROL: u64 = 1;
const FIRST_WORKER: u64 = 2;

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const CANCELLED: u8 = 2;

/// One task on its way.
pub struct Job {
    number: u64,
    claim: AtomicU8,
    // Taken out when the future is over: each of them holds the other until then.
    future: Mutex<Option<Py<FutureBase>>>,
    label: Option<Py<PyAny>>,
    text: Py<PyBytes>,
    buffers: Vec<PyBuffer<u8>>,
    timeout: u64,
    retries: AtomicUsize,
    // Whether it takes up room in the queue.
    waits: AtomicBool,
    hub: Arc<Hub>,
}

impl Job {
    fn take_future(&self) -> Option<Py<FutureBase>> {
        self.future.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Elsewhere for Job {
    fn has_begun(&self) -> bool {
        self.claim.load(Ordering::SeqCst) == TAKEN
    }

    fn take_back(&self) -> bool {
        self.claim.compare_exchange(WAITING, CANCELLED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn cancelled(&self, py: Python<'_>) {
        drop(self.take_future());
        self.hub.one_less();
        if self.waits.swap(false, Ordering::SeqCst) {
            self.hub.make_room(py, 1);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It loads what it is to load.
    Loading,
    /// It has loaded, and isn't needed yet.
    Spare,
    /// It runs its initializer.
    Beginning,
    Ready,
    /// It takes no more tasks, and goes when it is done.
    Leaving,
    /// It has been killed.
    Dying,
}

#[expect(clippy::struct_excessive_bools, reason = "four things that may each be so or not")]
struct Worker {
    pid: i32,
    process: Option<OwnedFd>,
    socket: UnixStream,
    outbox: Mapping,
    reader: Reader,
    writer: Writer,
    segments: Segments,
    standing: Standing,
    is_spare: bool,
    held: VecDeque<Arc<Job>>,
    epoch: u32,
    // The number of the last event that was heard of it.
    heard: u64,
    // How many tasks it was given since it came, and when it last said something or was given something to begin with.
    given: usize,
    since: u64,
    deadline: u64,
    // The signal to be sent as soon as it is born.
    signal: Option<i32>,
    over_limit: bool,
    // Whether it has ever been ready, and whether its end is our doing.
    was_ready: bool,
    expected: bool,
}

impl Worker {
    fn kill(&mut self, signal: i32) {
        match &self.process {
            Some(process) => {
                sharing::signal(process.as_fd(), signal);
            }
            None => self.signal = Some(signal),
        }
        self.expected = true;
        if signal == libc::SIGKILL {
            self.standing = Standing::Dying;
        } else {
            // It may have a handler of its own, and live on: then it goes as others do.
            self.dismiss();
        }
    }

    fn dismiss(&mut self) {
        self.standing = Standing::Leaving;
        self.expected = true;
        self.writer.push(Head::plain(Kind::Leave, 0), &[], &[], None);
        let _ = self.writer.flush(self.socket.as_fd());
    }

    fn is_idle(&self) -> bool {
        self.standing == Standing::Ready && self.held.is_empty()
    }
}

/// Something to be told, with the interpreter lock.
enum Done {
    Outcome { job: Arc<Job>, frame: Frame },
    Failure { job: Arc<Job>, kind: &'static str, exitcode: Option<i32>, text: String },
    Event(Frame),
    Room(usize),
    Husk(Arc<Job>),
    Broken(String),
    Over,
}

struct Template {
    control: OwnedFd,
    child: Child,
}

#[derive(Default)]
struct State {
    returned: VecDeque<Arc<Job>>,
    workers: BTreeMap<u64, Worker>,
    last_worker: u64,
    template: Option<Template>,
    wants_template: bool,
    done: Vec<Done>,
    touched: Vec<u64>,
    // A task's usual length in nanoseconds; 0 before the first one.
    usual: u64,
    slow_to_load: bool,
    failures: u32,
    last_text: String,
    broken: Option<String>,
    // When the keeper wakes.
    wakes: u64,
}

/// What an executor was made with.
struct Terms {
    max_workers: usize,
    max_tasks: usize,
    memory_limit: u64,
    bounded: bool,
    beside: Beside,
    plain: bool,
}

/// What the template and the workers are started with.
struct Beginning {
    command: Vec<String>,
    prepare: Vec<u8>,
    initialize: Vec<u8>,
    // Descriptors that the template, and so each worker, is to have; let go at the end.
    inherited: Mutex<Vec<OwnedFd>>,
}

impl Beginning {
    fn inherited(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the hub's threads share.
struct Hub {
    terms: Terms,
    face: Face,
    beginning: Mutex<Option<Arc<Beginning>>>,
    queue: Box<Queue<Arc<Job>>>,
    state: Mutex<State>,
    keeper: Condvar,
    watch: Watch,
    bell: Bell,
    numbers: AtomicUsize,
    // Tasks that aren't over, and promises of more.
    pending: AtomicUsize,
    closed: AtomicBool,
    killed: AtomicBool,
    over: AtomicBool,
    // Whether a task ever had a priority: then none is given out before it can begin.
    ranked: AtomicBool,
    finishing: AtomicBool,
    generation: u64,
    leaving: Guarded<Waiters<()>>,
}

/// What Python code does for the hub.
struct Face {
    future_class: Py<PyType>,
    /// Pickles what plain pickle doesn't.
    pack: Py<PyAny>,
    /// `carried(context)`: the variables of a context that can travel, or `None`.
    carried: Py<PyAny>,
    /// Makes exceptions: `failure(kind, label, exitcode, seconds, text)`.
    failure: Py<PyAny>,
    /// Makes an exception of what came home: `rebuilt(value)`.
    rebuilt: Py<PyAny>,
    /// Takes what workers tell: `told(bytes, buffers)`.
    told: Py<PyAny>,
    /// There is room for so many more in the queue: `room(count)`.
    room: Py<PyAny>,
}

thread_local! {
    /// Whether this thread finishes futures for a hub.
    static FINISHES: Cell<bool> = const { Cell::new(false) };
}

impl Hub {
    fn open(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beginning(&self) -> Option<Arc<Beginning>> {
        self.beginning.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A task is over.
    fn one_less(&self) {
        if self.pending.fetch_sub(1, Ordering::SeqCst) == 1 && self.closed.load(Ordering::SeqCst) {
            self.bell.ring();
        }
    }

    fn make_room(&self, py: Python<'_>, count: usize) {
        if let Err(error) = self.face.room.bind(py).call1((count,)) {
            log_error(py, "critical", "Exception where room in a queue was given back", None, error);
        }
    }

    // -- giving out ----------------------------------------------------------------------------------------------------

    /// The next task that nobody has cancelled, claimed.
    fn next_job(&self, state: &mut State) -> Option<Arc<Job>> {
        loop {
            let job = state.returned.pop_front().or_else(|| self.queue.pop())?;
            if job.claim.compare_exchange(WAITING, TAKEN, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return Some(job);
            }
            // Not released here: it may be the last reference.
            state.done.push(Done::Husk(job));
        }
    }

    /// How many tasks a worker may hold now.
    fn depth(&self, state: &State) -> usize {
        if state.usual == 0 || self.ranked.load(Ordering::Relaxed) || self.terms.memory_limit > 0 {
            return 1;
        }
        usize::try_from(BUDGET / state.usual).unwrap_or(MOST_HELD).clamp(1, MOST_HELD)
    }

    /// Gives out what waits, to workers that hold fewer than `most`.
    fn dispatch(&self, state: &mut State, most: usize) {
        if self.killed.load(Ordering::SeqCst) || state.broken.is_some() {
            return;
        }
        let depth = self.depth(state).min(most);
        while !(state.returned.is_empty() && self.queue.is_empty()) {
            let takes = |worker: &Worker| {
                worker.standing == Standing::Ready
                    && worker.held.len() < depth
                    && worker.given < self.terms.max_tasks
                    && worker.deadline == u64::MAX
            };
            let able = state.workers.iter().filter(|(_, worker)| takes(worker));
            // Among equals the one that was busy last: its memory is warm.
            let chosen = able.min_by_key(|(_, worker)| (worker.held.len(), u64::MAX - worker.since));
            let Some((&name, worker)) = chosen else { break };
            let idle = worker.held.is_empty();
            let Some(job) = self.next_job(state) else { break };
            if job.timeout != u64::MAX && !idle {
                // Its time is counted from its beginning: it waits for a worker that has nothing else to do.
                job.claim.store(WAITING, Ordering::SeqCst);
                state.returned.push_front(job);
                break;
            }
            self.hand_over(state, name, job);
        }
        let touched = std::mem::take(&mut state.touched);
        for name in touched {
            if let Some(worker) = state.workers.get_mut(&name) {
                // Where nobody listens any more, its end will be heard of.
                let _ = worker.writer.flush(worker.socket.as_fd());
            }
        }
        self.recruit(state);
    }

    fn hand_over(&self, state: &mut State, name: u64, job: Arc<Job>) {
        let now = clock::precise();
        if job.waits.swap(false, Ordering::SeqCst) && self.terms.bounded {
            state.done.push(Done::Room(1));
        }
        let Some(worker) = state.workers.get_mut(&name) else { return };
        let mut head = Head::plain(Kind::Task, job.number);
        head.epoch = worker.epoch;
        let buffers: Vec<&[u8]> = job.buffers.iter().map(bytes_of).collect();
        let memory = self.terms.beside.put(&mut head, &buffers, &mut worker.segments);
        worker.writer.push(head, text_of(&job), &buffers, memory);
        worker.given += 1;
        if worker.held.is_empty() {
            worker.since = now;
        }
        if job.timeout != u64::MAX {
            worker.deadline = now.saturating_add(job.timeout);
            self.wake_keeper_by(state, now.saturating_add(job.timeout));
        } else if self.terms.memory_limit > 0 {
            self.wake_keeper_by(state, now + MEMORY_TICK);
        }
        if let Some(worker) = state.workers.get_mut(&name) {
            worker.held.push_back(job);
        }
        if state.workers.get(&name).is_some_and(|worker| worker.held.len() > 1) {
            self.wake_keeper_by(state, now + PATIENCE);
        }
        if state.touched.last() != Some(&name) {
            state.touched.push(name);
        }
    }

    fn wake_keeper_by(&self, state: &mut State, moment: u64) {
        if moment < state.wakes {
            state.wakes = moment;
            self.keeper.notify_one();
        }
    }

    /// Starts workers, as many as are missing.
    fn recruit(&self, state: &mut State) {
        let waiting = self.queue.len() + state.returned.len();
        let count = |standings: &[Standing], spare: bool| {
            let workers = state.workers.values();
            workers.filter(|worker| worker.is_spare == spare && standings.contains(&worker.standing)).count()
        };
        let coming = count(&[Standing::Loading, Standing::Beginning], false);
        let alive = coming + count(&[Standing::Ready], false);
        let mut missing = waiting.saturating_sub(coming).min(self.terms.max_workers.saturating_sub(alive));
        let wants_spare = state.slow_to_load && !self.closed.load(Ordering::SeqCst);
        if missing > 0 {
            let spare = state.workers.iter_mut().find(|(_, worker)| worker.is_spare);
            if let Some((_, worker)) = spare
                && matches!(worker.standing, Standing::Spare | Standing::Loading)
            {
                worker.is_spare = false;
                missing -= 1;
                if worker.standing == Standing::Spare {
                    self.initialize(worker);
                }
            }
        }
        for _ in 0..missing {
            if !self.bear(state, false) {
                return;
            }
        }
        if wants_spare && !state.workers.values().any(|worker| worker.is_spare) {
            self.bear(state, true);
        }
    }

    fn initialize(&self, worker: &mut Worker) {
        worker.standing = Standing::Beginning;
        if let Some(beginning) = self.beginning() {
            worker.writer.push(Head::plain(Kind::Initialize, 0), &beginning.initialize, &[], None);
            let _ = worker.writer.flush(worker.socket.as_fd());
        }
    }

    /// Has the template fork a worker; false where there is no template yet.
    fn bear(&self, state: &mut State, spare: bool) -> bool {
        let Some(template) = &state.template else {
            if !state.wants_template {
                state.wants_template = true;
                self.keeper.notify_one();
            }
            return false;
        };
        let Some(beginning) = self.beginning() else { return false };
        let made = (|| -> std::io::Result<Worker> {
            let (socket, other) = UnixStream::pair()?;
            socket.set_nonblocking(true)?;
            let outbox = sharing::nameless(OUTBOX)?;
            let name = state.last_worker + 1;
            sharing::send(template.control.as_fd(), &name.to_le_bytes(), &[other.as_fd(), outbox.as_fd()])?;
            self.watch.add(socket.as_fd(), FIRST_WORKER + name)?;
            let mut worker = Worker {
                pid: 0,
                process: None,
                outbox: Mapping::shared(outbox.as_fd(), OUTBOX)?,
                socket,
                reader: Reader::default(),
                writer: Writer::default(),
                segments: Segments::default(),
                standing: Standing::Loading,
                is_spare: spare,
                held: VecDeque::new(),
                epoch: 0,
                heard: 0,
                given: 0,
                since: clock::precise(),
                deadline: u64::MAX,
                signal: None,
                over_limit: false,
                was_ready: false,
                expected: false,
            };
            worker.writer.push(Head::plain(Kind::Prepare, 0), &beginning.prepare, &[], None);
            let _ = worker.writer.flush(worker.socket.as_fd());
            Ok(worker)
        })();
        state.last_worker += 1;
        match made {
            Ok(worker) => {
                state.workers.insert(state.last_worker, worker);
                true
            }
            Err(error) => {
                state.failures += BY_ITSELF;
                state.last_text = format!("a worker can't be started: {error}");
                self.give_up_if_hopeless(state);
                false
            }
        }
    }

    // -- listening -----------------------------------------------------------------------------------------------------

    fn hear(&self, state: &mut State, happenings: &[Happening]) {
        for &(name, readable, writable) in happenings {
            match name {
                BELL => self.bell.hush(),
                CONTROL => self.hear_template(state),
                name => {
                    let name = name - FIRST_WORKER;
                    if writable && let Some(worker) = state.workers.get_mut(&name) {
                        let _ = worker.writer.flush(worker.socket.as_fd());
                    }
                    if readable {
                        self.hear_worker(state, name);
                    }
                }
            }
        }
        self.dispatch(state, MOST_HELD);
        self.close_if_done(state);
    }

    fn hear_worker(&self, state: &mut State, name: u64) {
        loop {
            let Some(worker) = state.workers.get_mut(&name) else { return };
            let received = worker.reader.fill(worker.socket.as_fd());
            while let Some(worker) = state.workers.get_mut(&name) {
                match worker.reader.take() {
                    Ok(Some(frame)) => self.take_in(state, name, frame),
                    Ok(None) => break,
                    Err(_) => {
                        worker.kill(libc::SIGKILL);
                        return;
                    }
                }
            }
            match received {
                Ok(Received::Bytes(_)) => {}
                Ok(Received::Nothing) => return,
                Ok(Received::End) | Err(_) => {
                    // It is dead, or as good as dead: nobody can talk to it. The template will say how it ended.
                    if let Some(worker) = state.workers.get_mut(&name)
                        && !matches!(worker.standing, Standing::Dying | Standing::Leaving)
                    {
                        worker.standing = Standing::Dying;
                        self.wake_keeper_by(state, clock::precise() + SECOND / 10);
                    }
                    return;
                }
            }
        }
    }

    fn take_in(&self, state: &mut State, name: u64, frame: Frame) {
        let now = clock::precise();
        let Some(worker) = state.workers.get_mut(&name) else { return };
        match frame.head.kind {
            Kind::Returned | Kind::Raised => {
                let Some(place) = worker.held.iter().position(|job| job.number == frame.head.number) else { return };
                let Some(job) = worker.held.remove(place) else { return };
                worker.since = now;
                worker.deadline = u64::MAX;
                let took = frame.head.took.max(1_000);
                state.usual = if state.usual == 0 { took } else { (state.usual * 7 + took) / 8 };
                let limit = self.terms.memory_limit;
                let fat = limit > 0 && sharing::resident(worker.pid).is_some_and(|bytes| bytes > limit);
                if worker.held.is_empty()
                    && worker.standing == Standing::Ready
                    && (worker.given >= self.terms.max_tasks || fat)
                {
                    worker.dismiss();
                }
                self.one_less();
                state.done.push(Done::Outcome { job, frame });
            }
            Kind::Prepared => {
                state.slow_to_load = frame.head.took > SLOW_TO_LOAD;
                if worker.standing == Standing::Loading {
                    if worker.is_spare {
                        worker.standing = Standing::Spare;
                    } else {
                        self.initialize(worker);
                    }
                }
            }
            Kind::Ready => {
                if worker.standing == Standing::Beginning {
                    worker.standing = Standing::Ready;
                    worker.since = now;
                }
                worker.was_ready = true;
                state.failures = 0;
            }
            Kind::Failed => {
                let (_, start, end) = frame.layout().unwrap_or_default();
                let text = String::from_utf8_lossy(&frame.body[start..end]).into_owned();
                self.break_down(state, text);
            }
            Kind::Event => {
                // One that was sent may still be in the outbox, too.
                if frame.head.number > worker.heard {
                    worker.heard = frame.head.number;
                    state.done.push(Done::Event(frame));
                }
            }
            Kind::Prepare | Kind::Initialize | Kind::Task | Kind::Leave => {}
        }
    }

    fn hear_template(&self, state: &mut State) {
        loop {
            let Some(template) = &state.template else { return };
            let (mut bytes, mut descriptors) = ([0_u8; 4096], Vec::new());
            let received = sharing::receive(template.control.as_fd(), &mut bytes, &mut descriptors);
            match received {
                Ok(Received::Nothing) => return,
                Ok(Received::Bytes(count)) if count >= 24 => {
                    let number = |place: usize| {
                        let mut part = [0; 8];
                        part.copy_from_slice(&bytes[place..place + 8]);
                        i64::from_le_bytes(part)
                    };
                    let (what, name, value) = (number(0), number(8).cast_unsigned(), number(16));
                    let value = i32::try_from(value).unwrap_or(-1);
                    match what {
                        0 => {
                            if let Some(worker) = state.workers.get_mut(&name) {
                                worker.pid = value;
                                worker.process = descriptors.pop();
                                if let (Some(signal), Some(process)) = (worker.signal, &worker.process) {
                                    sharing::signal(process.as_fd(), signal);
                                }
                            }
                        }
                        1 => self.bury(state, name, Some(value)),
                        _ => {
                            let text = String::from_utf8_lossy(&bytes[24..count]).into_owned();
                            self.break_down(state, text);
                        }
                    }
                }
                Ok(_) | Err(_) => {
                    self.bury_all(state);
                    return;
                }
            }
        }
    }

    /// A worker has ended: what becomes of what it held.
    fn bury(&self, state: &mut State, name: u64, exitcode: Option<i32>) {
        if let Some(worker) = state.workers.get_mut(&name) {
            // What it has sent, and what it has written down and not sent.
            while let Ok(Received::Bytes(_)) = worker.reader.fill(worker.socket.as_fd()) {}
            self.hear_worker(state, name);
        }
        if let Some(worker) = state.workers.get(&name) {
            let filled = usize::try_from(worker.outbox.word(FILLED).load(Ordering::Acquire)).unwrap_or(0);
            let mut reader = worker.reader.beside();
            reader.feed(&worker.outbox.read(RESULTS, filled.min(OUTBOX - RESULTS)));
            while let Ok(Some(frame)) = reader.take() {
                self.take_in(state, name, frame);
            }
        }
        let Some(mut worker) = state.workers.remove(&name) else { return };
        if !worker.was_ready && !worker.expected {
            state.failures += if exitcode.is_some_and(|code| code < 0) { 1 } else { BY_ITSELF };
            let how =
                exitcode.map_or_else(|| "for no known reason".to_owned(), |code| format!("with exit code {code}"));
            state.last_text = format!("workers end before they can work, {how}");
        }
        let last = begun(&worker.outbox);
        let killed = self.killed.load(Ordering::SeqCst);
        for job in std::mem::take(&mut worker.held).into_iter().rev() {
            #[expect(clippy::cast_possible_truncation, reason = "as in the mark")]
            let culprit = job.number as u32 == last;
            let again = || {
                let less = |left: usize| left.checked_sub(1);
                job.retries.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
            };
            if !killed && (!culprit || again()) {
                job.claim.store(WAITING, Ordering::SeqCst);
                state.returned.push_front(job);
                continue;
            }
            let text = if worker.over_limit { "memory" } else { "" }.to_owned();
            self.one_less();
            state.done.push(Done::Failure { job, kind: "died", exitcode, text });
        }
        self.give_up_if_hopeless(state);
    }

    /// The template has ended, and with it all workers.
    fn bury_all(&self, state: &mut State) {
        for worker in state.workers.values_mut() {
            worker.kill(libc::SIGKILL);
        }
        let starting = state.workers.is_empty();
        let names: Vec<u64> = state.workers.keys().copied().collect();
        if let Some(mut template) = state.template.take() {
            drop(template.control);
            // Its control is closed: it has ended, or does so now.
            let _ = template.child.kill();
            let _ = template.child.wait();
        }
        for name in names {
            self.bury(state, name, Some(-libc::SIGKILL));
        }
        let idle = self.closed.load(Ordering::SeqCst) && self.pending.load(Ordering::SeqCst) == 0;
        if !idle && starting {
            state.failures += 1;
            "the process that starts the workers has ended".clone_into(&mut state.last_text);
            self.give_up_if_hopeless(state);
        }
    }

    fn give_up_if_hopeless(&self, state: &mut State) {
        if state.failures >= MOST_FAILURES && state.broken.is_none() {
            self.break_down(state, state.last_text.clone());
        }
    }

    /// Workers can't be had: all that waits fails, and whatever comes later.
    fn break_down(&self, state: &mut State, text: String) {
        if state.broken.is_some() {
            return;
        }
        state.broken = Some(text.clone());
        self.closed.store(true, Ordering::SeqCst);
        let mut jobs = Vec::new();
        while let Some(job) = self.next_job(state) {
            jobs.push(job);
        }
        for worker in state.workers.values_mut() {
            jobs.extend(std::mem::take(&mut worker.held));
            worker.kill(libc::SIGKILL);
        }
        for job in jobs {
            self.one_less();
            state.done.push(Done::Failure { job, kind: "broken", exitcode: None, text: text.clone() });
        }
        state.done.push(Done::Broken(text));
        self.bell.ring();
    }

    fn close_if_done(&self, state: &mut State) {
        if !self.closed.load(Ordering::SeqCst) || self.pending.load(Ordering::SeqCst) > 0 {
            return;
        }
        for worker in state.workers.values_mut() {
            if !matches!(worker.standing, Standing::Leaving | Standing::Dying) {
                worker.dismiss();
            }
        }
        if !state.workers.is_empty() {
            return;
        }
        if let Some(mut template) = state.template.take() {
            drop(template.control);
            let _ = template.child.kill();
            let _ = template.child.wait();
        }
        if !self.over.swap(true, Ordering::SeqCst) {
            if let Some(beginning) = self.beginning() {
                beginning.inherited().clear();
            }
            state.done.push(Done::Over);
            self.keeper.notify_one();
        }
    }

    // -- the threads ---------------------------------------------------------------------------------------------------

    /// Listens until there is something to finish; false at the end.
    fn listen(&self) -> bool {
        let mut happenings = Vec::new();
        loop {
            happenings.clear();
            self.watch.wait(if self.over.load(Ordering::SeqCst) { 0 } else { 10_000 }, &mut happenings);
            let mut state = self.open();
            self.hear(&mut state, &happenings);
            let done = !state.done.is_empty();
            drop(state);
            if done && !self.finishing.swap(true, Ordering::SeqCst) {
                return true;
            }
            if self.over.load(Ordering::SeqCst) {
                // The other thread is to hear of it, too.
                self.bell.ring();
                return false;
            }
        }
    }

    /// Finishes what there is to finish; whoever comes meanwhile leaves it to this thread.
    fn finish_all(&self, py: Python<'_>, tickets: &mut Tickets) {
        loop {
            let done = std::mem::take(&mut self.open().done);
            if done.is_empty() {
                self.finishing.store(false, Ordering::SeqCst);
                let more = !self.open().done.is_empty();
                if !more || self.finishing.swap(true, Ordering::SeqCst) {
                    return;
                }
                continue;
            }
            for each in done {
                if let Err(error) = self.finish(py, each, tickets) {
                    log_error(py, "critical", "Exception where a task was finished", None, error);
                }
            }
        }
    }

    fn finish(&self, py: Python<'_>, done: Done, tickets: &mut Tickets) -> PyResult<()> {
        let (job, outcome) = match done {
            Done::Outcome { job, frame } => {
                let outcome = self.outcome(py, &frame);
                (job, outcome.map_err(|error| error.into_value(py).into_any()))
            }
            Done::Failure { job, kind, exitcode, text } => {
                let seconds = job.timeout as f64 / SECOND as f64;
                let label = job.label.as_ref().map(|label| label.clone_ref(py));
                let made = self.face.failure.bind(py).call1((kind, label, job.number, exitcode, seconds, text));
                let error = made.map_or_else(|error| error.into_value(py).into_any(), Bound::unbind);
                (job, Err(error))
            }
            Done::Event(frame) => {
                let (text, buffers) = unpacked(py, &frame)?;
                return self.face.told.bind(py).call1((text, buffers)).map(drop);
            }
            Done::Room(count) => {
                self.make_room(py, count);
                return Ok(());
            }
            Done::Husk(job) => {
                attached(py, |_| drop(job));
                return Ok(());
            }
            Done::Broken(text) => {
                let failure = self.face.failure.bind(py);
                return failure.call1(("told broken", py.None(), 0, py.None(), 0.0, text)).map(drop);
            }
            Done::Over => {
                let waiting = self.leaving.peek(py, Waiters::drain);
                for ticket in &waiting {
                    if ticket.hold(py, ()).is_ok() {
                        ticket.rouse();
                    }
                }
                attached(py, |_| drop(waiting));
                return Ok(());
            }
        };
        let result = match job.take_future() {
            Some(future) => FutureBase::finish(future.bind(py), outcome, tickets).map(drop),
            None => Ok(()),
        };
        attached(py, |_| drop(job));
        result
    }

    fn outcome(&self, py: Python<'_>, frame: &Frame) -> PyResult<Py<PyAny>> {
        static LOADS: Made<Py<PyAny>> = Made::new();
        let (text, buffers) = unpacked(py, frame)?;
        let loads = LOADS.import(py, "pickle", "loads")?;
        let value = if buffers.is_empty() {
            crate::guarding::call(loads, &[text.as_any()])?
        } else {
            let options = PyDict::new(py);
            options.set_item(interned!(py, "buffers"), buffers)?;
            loads.call((text,), Some(&options))?
        };
        if frame.head.kind == Kind::Returned {
            return Ok(value.unbind());
        }
        let error = self.face.rebuilt.bind(py).call1((value,))?;
        Err(PyErr::from_value(error))
    }

    fn keep(&self) {
        let mut state = self.open();
        while !self.over.load(Ordering::SeqCst) {
            if state.wants_template && state.template.is_none() && state.broken.is_none() {
                drop(state);
                let started = self.start_template();
                state = self.open();
                // Only now: who wanted one meanwhile has it, and whoever wants the next one must be heard.
                state.wants_template = false;
                match started {
                    Ok(template) => {
                        let watched = self.watch.add(template.control.as_fd(), CONTROL);
                        state.template = Some(template);
                        if watched.is_ok() {
                            self.dispatch(&mut state, 1);
                        }
                    }
                    Err(error) => self.break_down(&mut state, format!("no process can be started: {error}")),
                }
                continue;
            }
            let now = clock::precise();
            state.wakes = u64::MAX;
            self.patrol(&mut state, now);
            if !state.done.is_empty() {
                self.bell.ring();
            }
            let left = state.wakes.saturating_sub(now).min(10 * SECOND);
            let waited = self.keeper.wait_timeout(state, Duration::from_nanos(left));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn start_template(&self) -> std::io::Result<Template> {
        let beginning = self.beginning().ok_or_else(|| std::io::Error::other("nothing to begin with"))?;
        let (control, other) = sharing::message_pair()?;
        sharing::unblock(control.as_fd())?;
        let mut command = Command::new(&beginning.command[0]);
        command.args(&beginning.command[1..]).stdin(Stdio::from(other));
        let child = command.spawn()?;
        for some in beginning.inherited().chunks(sharing::MOST_DESCRIPTORS) {
            let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
            // No worker has this number. Where nobody listens any more, its end will be heard of.
            let _ = sharing::send(control.as_fd(), &0_u64.to_le_bytes(), &some);
        }
        Ok(Template { control, child })
    }

    /// Sees to all that is a matter of time.
    fn patrol(&self, state: &mut State, now: u64) {
        let mut next = u64::MAX;
        let mut late = Vec::new();
        let limit = self.terms.memory_limit;
        for worker in state.workers.values_mut() {
            if worker.deadline <= now {
                worker.deadline = u64::MAX;
                worker.kill(libc::SIGKILL);
                // Only one: tasks with a deadline go alone.
                late.extend(worker.held.drain(..));
            } else {
                next = next.min(worker.deadline);
            }
            if worker.standing == Standing::Dying && !self.killed.load(Ordering::SeqCst) {
                // Its socket has closed: where the process goes on without, that is ended, too.
                if let Some(process) = &worker.process {
                    sharing::signal(process.as_fd(), libc::SIGKILL);
                }
            }
            if limit > 0 && worker.standing == Standing::Ready && !worker.held.is_empty() {
                if sharing::resident(worker.pid).is_some_and(|bytes| bytes > limit) {
                    worker.over_limit = true;
                    worker.kill(libc::SIGKILL);
                } else {
                    next = next.min(now + MEMORY_TICK);
                }
            }
        }
        for job in late {
            self.one_less();
            state.done.push(Done::Failure { job, kind: "late", exitcode: None, text: String::new() });
        }
        // What was done before a long task, and is still with its worker.
        let late = |worker: &Worker| worker.held.len() > 1 && now.saturating_sub(worker.since) > PATIENCE;
        let names: Vec<u64> = state.workers.iter().filter(|(_, worker)| late(worker)).map(|(name, _)| *name).collect();
        for name in names {
            let sent = |state: &State| {
                state.workers.get(&name).map(|worker| worker.outbox.word(FLUSHES).load(Ordering::SeqCst))
            };
            let before = sent(state);
            self.hear_worker(state, name);
            let Some(worker) = state.workers.get(&name) else { continue };
            let gathered = peek(&worker.outbox);
            if sent(state) != before {
                // What came before these is on its way.
                continue;
            }
            let mut reader = worker.reader.beside();
            reader.feed(&gathered);
            while let Ok(Some(frame)) = reader.take() {
                // They will come again, and are taken once.
                if matches!(frame.head.kind, Kind::Returned | Kind::Raised | Kind::Event) {
                    self.take_in(state, name, frame);
                }
            }
        }
        // What waits behind a long task, while a worker has nothing to do.
        let idle = self.queue.is_empty() && state.returned.is_empty() && state.workers.values().any(Worker::is_idle);
        let crowded = state.workers.values().any(|worker| worker.held.len() > 1);
        if crowded {
            next = next.min(now + PATIENCE);
        }
        if idle && crowded {
            let mut back = Vec::new();
            for worker in state.workers.values_mut() {
                if worker.held.len() > 1 && now.saturating_sub(worker.since) > PATIENCE {
                    let (epoch, last) = take_back(&worker.outbox);
                    worker.epoch = epoch;
                    #[expect(clippy::cast_possible_truncation, reason = "as in the mark")]
                    let place = worker.held.iter().position(|job| job.number as u32 == last);
                    // Where none has begun that is still held, results are on their way, or the first is about to begin.
                    let left = worker.held.split_off(place.map_or(0, |place| place + 1));
                    let unbegun = left.into_iter();
                    let before = worker.given;
                    back.extend(unbegun);
                    worker.given = before.saturating_sub(back.len());
                }
            }
            for job in back.into_iter().rev() {
                job.claim.store(WAITING, Ordering::SeqCst);
                state.returned.push_front(job);
            }
            self.dispatch(state, MOST_HELD);
        }
        state.wakes = state.wakes.min(next);
    }

    // -- ending --------------------------------------------------------------------------------------------------------

    /// Cancels what waits in the queue.
    fn cancel_queue(&self, py: Python<'_>) -> PyResult<()> {
        let mut jobs = Vec::new();
        {
            let mut state = self.open();
            while let Some(job) = self.next_job(&mut state) {
                job.claim.store(WAITING, Ordering::SeqCst);
                jobs.push(job);
            }
        }
        let mut outcome = Ok(());
        for job in jobs {
            let future = {
                let future = job.future.lock().unwrap_or_else(PoisonError::into_inner);
                future.as_ref().map(|future| future.bind(py).clone())
            };
            if let Some(future) = future {
                outcome = outcome.and(FutureBase::call_off(&future).map(drop));
            }
            attached(py, |_| drop(job));
        }
        outcome
    }
}

/// A job's pickle; `PyBytes` never change, and may be read by anybody who keeps them alive.
fn text_of(job: &Job) -> &[u8] {
    sharing::binding::bytes_of_text(&job.text)
}

fn listen_and_finish(hub: &Arc<Hub>) {
    sharing::block_signals();
    FINISHES.set(true);
    Python::attach(|py| {
        let mut tickets = Tickets::new();
        while lifecycle::detached(py, || {
            rouse(&mut tickets);
            hub.listen()
        }) {
            hub.finish_all(py, &mut tickets);
        }
    });
}

/// The native half of `ferrule.ProcessPoolExecutor`.
#[pyclass(frozen, weakref, module = "ferrule._core")]
pub struct ProcessHub {
    hub: Arc<Hub>,
}

impl ProcessHub {
    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        let kind = if self.hub.open().broken.is_some() {
            "broken"
        } else if self.hub.closed.load(Ordering::SeqCst) {
            "closed"
        } else {
            return Ok(());
        };
        let text = self.hub.open().broken.clone().unwrap_or_default();
        let error = self.hub.face.failure.bind(py).call1((kind, py.None(), 0, py.None(), 0.0, text))?;
        Err(PyErr::from_value(error))
    }

    fn start_threads(&self) -> PyResult<()> {
        let spawn = |name: &str, body: fn(&Arc<Hub>)| {
            let hub = Arc::clone(&self.hub);
            thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || body(&hub)).map(drop)
        };
        spawn("ferrule hub", listen_and_finish)?;
        spawn("ferrule hub", listen_and_finish)?;
        spawn("ferrule keeper", |hub| {
            sharing::block_signals();
            hub.keep();
        })?;
        Ok(())
    }
}

#[pymethods]
impl ProcessHub {
    #[new]
    #[expect(clippy::too_many_arguments, clippy::type_complexity, reason = "called by the face alone")]
    #[pyo3(signature = (future_class, callbacks, *, max_workers, max_tasks, memory_limit, bounded, beside, plain))]
    fn new(
        future_class: Py<PyType>,
        callbacks: (Py<PyAny>, Py<PyAny>, Py<PyAny>, Py<PyAny>, Py<PyAny>, Py<PyAny>),
        max_workers: usize,
        max_tasks: Option<usize>,
        memory_limit: Option<u64>,
        bounded: bool,
        beside: u8,
        plain: bool,
    ) -> PyResult<Self> {
        let (pack, carried, failure, rebuilt, told, room) = callbacks;
        let (watch, bell) = (Watch::new()?, Bell::new()?);
        watch.add(bell.descriptor(), BELL)?;
        let hub = Hub {
            terms: Terms {
                max_workers,
                max_tasks: max_tasks.unwrap_or(usize::MAX),
                memory_limit: memory_limit.unwrap_or(0),
                bounded,
                beside: Beside::from_number(beside),
                plain,
            },
            face: Face { future_class, pack, carried, failure, rebuilt, told, room },
            beginning: Mutex::default(),
            queue: Box::default(),
            state: Mutex::new(State { wakes: u64::MAX, ..State::default() }),
            keeper: Condvar::new(),
            watch,
            bell,
            numbers: AtomicUsize::new(1),
            pending: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            over: AtomicBool::new(false),
            ranked: AtomicBool::new(false),
            finishing: AtomicBool::new(false),
            generation: lifecycle::generation(),
            leaving: Guarded::default(),
        };
        Ok(Self { hub: Arc::new(hub) })
    }

    /// Whether it has been started; the first task needs that.
    #[getter]
    fn started(&self) -> bool {
        self.hub.beginning().is_some()
    }

    /// Starts it: the template's command line, what a worker loads first, its initializer, and descriptors that each
    /// worker is to inherit; they are the hub's own from now on.
    fn start(&self, command: Vec<String>, prepare: Vec<u8>, initialize: Vec<u8>, inherited: Vec<i32>) -> PyResult<()> {
        let inherited: Mutex<Vec<OwnedFd>> = Mutex::new(inherited.into_iter().map(sharing::adopt).collect());
        {
            let mut beginning = self.hub.beginning.lock().unwrap_or_else(PoisonError::into_inner);
            if beginning.is_some() {
                return Ok(());
            }
            *beginning = Some(Arc::new(Beginning { command, prepare, initialize, inherited }));
        }
        self.start_threads()
    }

    /// Whether this is another process than the one it was made in.
    #[getter]
    fn foreign(&self) -> bool {
        self.hub.generation != lifecycle::generation()
    }

    /// Whether all is done and all processes have gone.
    #[getter]
    fn over(&self) -> bool {
        self.hub.over.load(Ordering::SeqCst) || self.foreign()
    }

    /// Whether it takes no new tasks.
    #[getter]
    fn closed(&self) -> bool {
        self.hub.closed.load(Ordering::SeqCst)
    }

    /// Why there are no workers to be had, if there are none.
    #[getter]
    fn broken(&self) -> Option<String> {
        self.hub.open().broken.clone()
    }

    /// Queues a call and returns its future. `label` names it in errors; `promised` tasks were announced before.
    #[pyo3(signature = (function, args, kwargs, priority, timeout, retries, label, promised, /))]
    #[expect(clippy::too_many_arguments, reason = "called by the face alone")]
    fn submit<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        priority: i32,
        timeout: Option<u64>,
        retries: usize,
        label: Option<Py<PyAny>>,
        promised: bool,
    ) -> PyResult<Bound<'py, FutureBase>> {
        static DUMPS: Made<Py<PyAny>> = Made::new();
        if !promised {
            self.check_open(py)?;
        }
        let hub = &self.hub;
        let variables = match context::current(py)? {
            None => py.None().into_bound(py),
            Some(context) => hub.face.carried.bind(py).call1((context,))?,
        };
        let kwargs = kwargs.filter(|kwargs| !kwargs.is_empty());
        let call = (function, args, kwargs, variables).into_pyobject(py)?;
        let buffers = Bound::new(py, Buffers::none())?;
        let options = PyDict::new(py);
        options.set_item(interned!(py, "protocol"), 5)?;
        options.set_item(interned!(py, "buffer_callback"), &buffers)?;
        let dumps = DUMPS.import(py, "pickle", "dumps")?;
        let plain = if hub.terms.plain { dumps.call((&call,), Some(&options)).ok() } else { None };
        let packed = if let Some(text) = plain {
            Ok(text)
        } else {
            drop(buffers.get().take());
            hub.face.pack.bind(py).call1((&call, &buffers))
        };
        let text = match packed.and_then(|text| Ok(text.cast_into::<PyBytes>()?)) {
            Ok(text) => text,
            Err(error) => {
                let future = FutureBase::elsewhere(hub.face.future_class.bind(py), None)?;
                let mut tickets = Tickets::new();
                FutureBase::finish(&future, Err(error.into_value(py).into_any()), &mut tickets)?;
                if hub.terms.bounded && !promised {
                    hub.make_room(py, 1);
                }
                return Ok(future);
            }
        };
        let number = hub.numbers.fetch_add(1, Ordering::Relaxed) as u64;
        let buffers = buffers.get().take();
        let large = !buffers.is_empty();
        let job = Arc::new(Job {
            number,
            claim: AtomicU8::new(WAITING),
            future: Mutex::default(),
            label,
            text: text.unbind(),
            buffers,
            timeout: timeout.unwrap_or(u64::MAX),
            retries: AtomicUsize::new(retries),
            waits: AtomicBool::new(!promised),
            hub: Arc::clone(hub),
        });
        let future =
            FutureBase::elsewhere(hub.face.future_class.bind(py), Some(Arc::clone(&job) as Arc<dyn Elsewhere>))?;
        *job.future.lock().unwrap_or_else(PoisonError::into_inner) = Some(future.clone().unbind());
        if priority != 0 {
            hub.ranked.store(true, Ordering::Relaxed);
        }
        hub.pending.fetch_add(1, Ordering::SeqCst);
        hub.queue.push(job, priority, clock::coarse());
        let give_out = || {
            let mut state = hub.open();
            hub.dispatch(&mut state, 2);
            if !state.done.is_empty() {
                hub.bell.ring();
            }
            state.broken.is_some()
        };
        let broken = if large { py.detach(give_out) } else { give_out() };
        if broken || hub.killed.load(Ordering::SeqCst) || hub.over.load(Ordering::SeqCst) {
            // Too late: whoever ended it may not have seen this one.
            hub.cancel_queue(py)?;
        }
        Ok(future)
    }

    /// More tasks will come, even when it is closed: so many.
    fn promise(&self, py: Python<'_>) -> PyResult<()> {
        self.check_open(py)?;
        self.hub.pending.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// The promised tasks have come.
    fn keep_promise(&self) {
        self.hub.one_less();
    }

    /// Whether promised tasks are still wanted.
    #[getter]
    fn wanted(&self) -> bool {
        !self.hub.killed.load(Ordering::SeqCst) && self.hub.open().broken.is_none()
    }

    /// Takes no new tasks; with `cancel`, those queued are cancelled.
    #[pyo3(signature = (*, cancel))]
    fn close(&self, py: Python<'_>, cancel: bool) -> PyResult<()> {
        if self.foreign() {
            return Ok(());
        }
        let hub = &self.hub;
        hub.closed.store(true, Ordering::SeqCst);
        let outcome = if cancel { hub.cancel_queue(py) } else { Ok(()) };
        if hub.beginning().is_none() {
            hub.over.store(true, Ordering::SeqCst);
        }
        hub.bell.ring();
        outcome
    }

    /// Sends a signal to all workers; with `last`, no new ones come, and what waits is cancelled.
    #[pyo3(signature = (signal, *, last))]
    fn kill(&self, py: Python<'_>, signal: i32, last: bool) -> PyResult<()> {
        if self.foreign() {
            return Ok(());
        }
        if last {
            self.hub.killed.store(true, Ordering::SeqCst);
        }
        {
            let mut state = self.hub.open();
            for worker in state.workers.values_mut() {
                worker.kill(signal);
            }
        }
        if last { self.close(py, true) } else { Ok(()) }
    }

    /// Waits until all processes have gone; false where the time has run out.
    #[pyo3(signature = (*, timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let deadline = match timeout {
            None => None,
            Some(timeout) => nanoseconds("timeout", timeout)?.and_then(|length| clock::precise().checked_add(length)),
        };
        let hub = &self.hub;
        if FINISHES.get() {
            return Err(PyRuntimeError::new_err("a callback can't wait for the executor that calls it"));
        }
        loop {
            if self.foreign() || hub.over.load(Ordering::SeqCst) {
                return Ok(true);
            }
            let ticket = Ticket::for_this_thread();
            hub.leaving.peek(py, |waiters| waiters.join(Arc::clone(&ticket)));
            if hub.over.load(Ordering::SeqCst) {
                return Ok(true);
            }
            let woken = ticket.wait(py, deadline);
            if !matches!(woken, Ok(Woken::Settled)) {
                let _ = ticket.leave(py);
                let mut gone = Vec::new();
                hub.leaving.peek(py, |waiters| waiters.note_leaving(&mut gone));
                attached(py, |_| drop(gone));
            }
            if woken? == Woken::Expired {
                return Ok(false);
            }
        }
    }

    /// The workers: their process numbers.
    fn pids(&self) -> Vec<i32> {
        let state = self.hub.open();
        state.workers.values().map(|worker| worker.pid).filter(|pid| *pid > 0).collect()
    }

    /// The template's process number, if there is one.
    #[getter]
    fn template(&self) -> Option<u32> {
        self.hub.open().template.as_ref().map(|template| template.child.id())
    }

    /// How many workers there are or are to come, how many of them have nothing to do, and how many tasks wait.
    fn counts(&self) -> (usize, usize, usize) {
        let state = self.hub.open();
        let idle = state.workers.values().filter(|worker| worker.is_idle()).count();
        let living = state.workers.values().filter(|worker| worker.standing != Standing::Dying && !worker.is_spare);
        (living.count(), idle, self.hub.queue.len() + state.returned.len())
    }

    /// Closes, in a forked child, what belongs to the parent.
    fn abandon(&self) {
        if !self.foreign() {
            return;
        }
        // A thread of the parent's may have had it open just then: what it holds stays open here, too.
        if let Ok(mut state) = self.hub.state.try_lock() {
            let state = std::mem::take(&mut *state);
            for worker in state.workers.values() {
                drop(sharing::adopt(worker.socket.as_raw_fd()));
                if let Some(process) = &worker.process {
                    drop(sharing::adopt(process.as_raw_fd()));
                }
            }
            if let Some(template) = &state.template {
                drop(sharing::adopt(template.control.as_raw_fd()));
            }
            if let Some(beginning) = self.hub.beginning.try_lock().ok().and_then(|beginning| beginning.clone())
                && let Ok(mut inherited) = beginning.inherited.try_lock()
            {
                inherited.clear();
            }
            // The rest is the parent's: nothing of it is touched.
            std::mem::forget(state);
        }
    }
}

impl Drop for ProcessHub {
    fn drop(&mut self) {
        if self.hub.generation != lifecycle::generation() {
            return;
        }
        self.hub.closed.store(true, Ordering::SeqCst);
        self.hub.bell.ring();
    }
}

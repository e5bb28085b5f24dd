//! What is to be done later, in the background, for all objects of the process: a timetable and the threads that keep it.
//!
//! There is no thread before something is scheduled, and one as long as nothing takes long: the thread that begins an
//! errand starts another if more is on the timetable and nobody watches it, [`MOST_THREADS`] at most. They are native
//! threads that attach to the interpreter for life. An exit handler of Python's `atexit` ends them; a forked child
//! begins with an empty timetable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::clock::{self, binding as alarms};
use crate::guarding::{Guarded, attached};
use crate::lifecycle;

/// What is to be done. It swallows no error that somebody should see.
pub type Errand = Box<dyn FnOnce(Python<'_>) + Send>;

/// Errands may wait for servers: so many of them don't keep the others from being done in time.
const MOST_THREADS: usize = 4;

/// The stack of each thread, in bytes: errands run Python code, which Rust's 2 MiB would be too little for.
const STACK: usize = 16 << 20;

/// How long the exit handler waits for errands that are under way.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Entries {
    /// By the moment on the precise clock, and by number.
    errands: BTreeMap<(u64, u64), Errand>,
    next: u64,
    threads: usize,
    watching: usize,
    over: bool,
}

#[derive(Default)]
struct Timetable {
    // Taken for a moment by whoever comes, attached or not; no Python code runs under it, and it shows no reference.
    entries: Mutex<Entries>,
    changed: Condvar,
}

impl Timetable {
    fn open(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, detached, for the next errand whose time has come; `None` when the thread is to end.
    fn next(&self) -> Option<Errand> {
        let mut entries = self.open();
        loop {
            if entries.over || entries.watching > 0 {
                return None;
            }
            let next = entries.errands.first_key_value();
            let left = next.map(|((due, _), _)| due.saturating_sub(clock::precise()));
            if left == Some(0) {
                return entries.errands.pop_first().map(|(_, errand)| errand);
            }
            entries.watching += 1;
            entries = match left {
                // A manual clock doesn't go on by itself; turning it rings.
                Some(left) if !clock::is_manual() => {
                    let waited = self.changed.wait_timeout(entries, Duration::from_nanos(left));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                _ => self.changed.wait(entries).unwrap_or_else(PoisonError::into_inner),
            };
            entries.watching -= 1;
        }
    }

    /// Whether another thread is to be started, which is counted already then.
    fn wants_a_thread(entries: &mut Entries) -> bool {
        let wants =
            !entries.over && entries.watching == 0 && entries.threads < MOST_THREADS && !entries.errands.is_empty();
        entries.threads += usize::from(wants);
        wants
    }
}

static TIMETABLE: Guarded<Option<Arc<Timetable>>> = Guarded::new(None);

/// Whether the exit handler is registered; a forked child inherits it.
static REGISTERED: AtomicBool = AtomicBool::new(false);

fn timetable(py: Python<'_>) -> Arc<Timetable> {
    if let Some(timetable) = TIMETABLE.with(py, |timetable, _| timetable.clone()) {
        return timetable;
    }
    let made = Arc::<Timetable>::default();
    let timetable = TIMETABLE.with(py, |timetable, _| timetable.get_or_insert(made).clone());
    // Turning a manual clock has to be heard. The alarm is forgotten by a fork, as the timetable is.
    let ringing = timetable.clone();
    alarms::set_alarm(
        py,
        Box::new(move |_| {
            drop(ringing.open());
            ringing.changed.notify_all();
        }),
    );
    timetable
}

/// Has `errand` done at the moment `due` of the precise clock, or as soon after as a thread is free. The number cancels it.
/// When the exit handler has run, or where no thread can be started any more, it is not done at all.
pub fn schedule(py: Python<'_>, due: u64, errand: Errand) -> u64 {
    let timetable = timetable(py);
    if !REGISTERED.swap(true, Ordering::SeqCst) {
        let registered = py
            .import("atexit")
            .and_then(|atexit| atexit.call_method1("register", (wrap_pyfunction!(stop_upkeep, py)?,)).map(|_| ()));
        if registered.is_err() {
            // The interpreter is past its exit handlers.
            timetable.open().over = true;
        }
    }
    let (number, refused, starts) = {
        let mut entries = timetable.open();
        if entries.over {
            (0, Some(errand), false)
        } else {
            entries.next += 1;
            let number = entries.next;
            entries.errands.insert((due, number), errand);
            (number, None, Timetable::wants_a_thread(&mut entries))
        }
    };
    drop(refused);
    timetable.changed.notify_one();
    if starts {
        start(timetable);
    }
    number
}

/// Takes an errand from the timetable; whether it was still there.
pub fn cancel(py: Python<'_>, due: u64, number: u64) -> bool {
    let Some(timetable) = TIMETABLE.with(py, |timetable, _| timetable.clone()) else { return false };
    let errand = timetable.open().errands.remove(&(due, number));
    errand.is_some()
}

/// Whether nothing is done in the background any more, because the program is about to end.
#[must_use]
pub fn is_over(py: Python<'_>) -> bool {
    TIMETABLE.with(py, |timetable, _| timetable.clone()).is_some_and(|timetable| timetable.open().over)
}

fn start(timetable: Arc<Timetable>) {
    let keeper = timetable.clone();
    let started =
        thread::Builder::new().name("ferrule upkeep".to_owned()).stack_size(STACK).spawn(move || keep(&keeper));
    if started.is_err() {
        // No thread to be had: the next that is scheduled tries again.
        timetable.open().threads -= 1;
    }
}

fn keep(timetable: &Arc<Timetable>) {
    Python::attach(|py| {
        while let Some(errand) = lifecycle::detached(py, || timetable.next()) {
            let starts = Timetable::wants_a_thread(&mut timetable.open());
            if starts {
                start(timetable.clone());
            }
            // A panic has been reported by its hook, and the others' errands are still to be done.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attached(py, errand)));
        }
    });
    timetable.open().threads -= 1;
    timetable.changed.notify_all();
}

/// Ends the threads. Registered with `atexit`, which runs it while the interpreter is still whole.
#[pyfunction]
#[pyo3(name = "_stop_upkeep")]
pub fn stop_upkeep(py: Python<'_>) {
    let Some(timetable) = TIMETABLE.with(py, |timetable, _| timetable.clone()) else { return };
    let left = {
        let mut entries = timetable.open();
        entries.over = true;
        std::mem::take(&mut entries.errands)
    };
    drop(left);
    timetable.changed.notify_all();
    lifecycle::detached(py, || {
        let deadline = Instant::now() + PATIENCE;
        let mut entries = timetable.open();
        while entries.threads > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            entries = timetable.changed.wait_timeout(entries, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    });
}

/// Called in a forked child, which has none of the threads.
pub fn forget_after_fork(py: Python<'_>) {
    let parents = TIMETABLE.with(py, |timetable, _| timetable.take());
    // One of its threads may have held the lock: it is never touched again.
    std::mem::forget(parents);
}

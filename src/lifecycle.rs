//! What happens at a fork and at the interpreter's exit.
//!
//! *Fork.* A child starts with fresh state: the number of forks goes up by one, and whoever keeps state that belongs to
//! threads (a line of waiters) looks at that number before it uses it. No lock of ours is held across a fork, because
//! locks over shared state are never held where Python code can run, and a fork is Python code.
//!
//! *Exit.* A thread that waits detached must not come back once the interpreter is going. The hook at exit says so, and
//! lets those who are just coming back arrive first; the others sleep until the process has gone.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule};

static FORKS: AtomicU64 = AtomicU64::new(0);
static EXITING: AtomicBool = AtomicBool::new(false);
static COMING_BACK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this is the thread that ends the interpreter: it runs exit handlers and finalizers, which may wait.
    static ENDS_IT: Cell<bool> = const { Cell::new(false) };
}

/// How long the hook at exit lets threads arrive that are just coming back from a wait.
const ARRIVALS: Duration = Duration::from_secs(1);

/// How many forks lie between this process and the one that loaded ferrule.
#[must_use]
pub fn generation() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Runs `wait` without the interpreter lock; the thread never returns from it once the interpreter is going.
pub fn detached<R: Send>(py: Python<'_>, wait: impl FnOnce() -> R + Send) -> R {
    let result = py.detach(|| {
        let result = wait();
        // First say that this thread is coming, then look whether it still may: the hook does the reverse.
        COMING_BACK.fetch_add(1, Ordering::SeqCst);
        if EXITING.load(Ordering::SeqCst) && !ENDS_IT.get() {
            COMING_BACK.fetch_sub(1, Ordering::SeqCst);
            loop {
                std::thread::park();
            }
        }
        result
    });
    COMING_BACK.fetch_sub(1, Ordering::SeqCst);
    result
}

/// The number of forks since ferrule was loaded.
#[pyfunction]
#[must_use]
pub fn forks() -> u64 {
    generation()
}

/// Called by `os.register_at_fork` in a child.
#[pyfunction]
#[pyo3(name = "_after_fork_in_child")]
pub fn after_fork_in_child(py: Python<'_>) {
    FORKS.fetch_add(1, Ordering::SeqCst);
    COMING_BACK.store(0, Ordering::SeqCst);
    EXITING.store(false, Ordering::SeqCst);
    crate::clock::binding::forget_alarms(py);
}

/// Called by `atexit`: by then non-daemon threads have been joined, and daemon threads are about to be left behind.
#[pyfunction]
#[pyo3(name = "_at_exit")]
pub fn at_exit(py: Python<'_>) {
    ENDS_IT.set(true);
    EXITING.store(true, Ordering::SeqCst);
    let start = Instant::now();
    while COMING_BACK.load(Ordering::SeqCst) != 0 && start.elapsed() < ARRIVALS {
        py.detach(|| std::thread::sleep(Duration::from_micros(100)));
    }
}

/// Registers the hooks.
pub fn install(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    py.import("atexit")?.call_method1("register", (module.getattr("_at_exit")?,))?;
    let os = py.import("os")?;
    if os.hasattr("register_at_fork")? {
        let hooks = PyDict::new(py);
        hooks.set_item("after_in_child", module.getattr("_after_fork_in_child")?)?;
        os.call_method("register_at_fork", (), Some(&hooks))?;
    }
    Ok(())
}

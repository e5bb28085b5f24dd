//! What happens at a fork and at the interpreter's exit.
//!
//! *Fork.* A child starts with fresh state: the number of forks goes up by one, and whoever keeps state that belongs to
//! threads (a line of waiters) looks at that number before it uses it. No lock of ours is held across a fork, because
//! locks over shared state are never held where Python code can run, and a fork is Python code.
//!
//! *Exit.* A thread that waits detached must not come back once the interpreter is going: it sleeps until the process has
//! gone. Up to then, exit handlers included, waits end as ever, because a handler may be waiting for just that thread.
//! The thread that ends the interpreter can wait to the last, in a `__del__` for instance.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule};

use crate::guarding::{self, Made, interned};

static FORKS: AtomicU64 = AtomicU64::new(0);

/// The identifier of the thread in which signal handlers run; 0 before it was first asked for.
static MAIN_THREAD: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread's identifier; 0 before it was first asked for.
    static IDENT: Cell<u64> = const { Cell::new(0) };
}

/// How many forks lie between this process and the one that loaded ferrule.
#[must_use]
pub fn generation() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Runs `wait` without the interpreter lock; the thread never returns from it once the interpreter is going.
pub fn detached<R: Send>(py: Python<'_>, wait: impl FnOnce() -> R + Send) -> R {
    // A thread that is attached while the interpreter goes is the one that ends it.
    let ends_it = guarding::interpreter_is_going();
    py.detach(|| {
        let result = wait();
        if guarding::interpreter_is_going() && !ends_it {
            // In the moment after this look, the interpreter itself would turn the thread away.
            guarding::sleep_for_ever();
        }
        result
    })
}

/// Whether this is the thread in which signal handlers run. Runs no Python code but the first time: a thread that is about
/// to wait should not be in the middle of some when the interpreter goes.
pub fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    if guarding::interpreter_is_going() {
        // No handlers run any more, and there are no modules left to ask.
        return Ok(false);
    }
    let mut main = MAIN_THREAD.load(Ordering::Relaxed);
    if main == 0 {
        // Not at import: `threading` is worth a millisecond, and whoever waits has loaded it already.
        // In a daemon thread the interpreter may go in the middle of this.
        let thread = guarding::call_method(py.import("threading")?.as_any(), interned!(py, "main_thread"), &[])?;
        let name = interned!(py, "ident").as_any();
        main = guarding::call_method(&thread, interned!(py, "__getattribute__"), &[name])?.extract()?;
        MAIN_THREAD.store(main, Ordering::Relaxed);
    }
    Ok(ident(py)? == main)
}

/// This thread's identifier, as `threading.get_ident()` has it.
#[inline]
pub fn ident(py: Python<'_>) -> PyResult<u64> {
    static GET_IDENT: Made<Py<PyAny>> = Made::new();
    let known = IDENT.get();
    if known != 0 {
        return Ok(known);
    }
    let ident = GET_IDENT.import(py, "_thread", "get_ident")?.call0()?.extract()?;
    IDENT.set(ident);
    Ok(ident)
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
pub fn after_fork_in_child(py: Python<'_>) -> PyResult<()> {
    FORKS.fetch_add(1, Ordering::SeqCst);
    crate::clock::binding::forget_alarms(py);
    crate::upkeep::forget_after_fork(py);
    // Whichever thread forked is the child's main thread.
    MAIN_THREAD.store(ident(py)?, Ordering::Relaxed);
    Ok(())
}

/// Registers the hooks.
pub fn install(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let os = py.import("os")?;
    if os.hasattr("register_at_fork")? {
        let hooks = PyDict::new(py);
        hooks.set_item("after_in_child", module.getattr("_after_fork_in_child")?)?;
        os.call_method("register_at_fork", (), Some(&hooks))?;
    }
    Ok(())
}

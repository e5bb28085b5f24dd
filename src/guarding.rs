//! State that several threads share, and the promise that no Python code runs while it is open.
//!
//! On a build with the interpreter lock, that lock *is* the lock: the cell is opened by a [`Python`] token, without a
//! mutex. On a free-threaded build a mutex stands in its place, taken by attached threads alone and never across a call
//! into Python, so that neither the garbage collector nor a fork can find it held: both stop attached threads only where
//! Python code could run.
//!
//! The rule for users: decide inside [`Guarded::with`], act after it. A reference that goes away is pushed to the list
//! of the dead and released when the cell is closed, because releasing may run anybody's `__del__`.
#![cfg_attr(
    not(Py_GIL_DISABLED),
    expect(unsafe_code, reason = "with the interpreter lock, the token stands in for a mutex")
)]

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::gc::PyTraverseError;
use pyo3::prelude::*;

/// References that are released after the cell has been closed.
pub type Dead = Vec<Py<PyAny>>;

#[cfg(debug_assertions)]
thread_local! {
    static OPEN: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Fails, in builds with debug assertions, where Python code is about to run under an open cell.
#[inline]
pub fn assert_nothing_is_open(what: &str) {
    #[cfg(debug_assertions)]
    OPEN.with(|open| assert_eq!(open.get(), 0, "{what} while a guarded cell is open"));
    let _ = what;
}

/// Counts how many cells this thread has open, in builds with debug assertions.
struct Opened;

impl Opened {
    fn new() -> Self {
        #[cfg(debug_assertions)]
        OPEN.with(|open| open.set(open.get() + 1));
        Self
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        OPEN.with(|open| open.set(open.get() - 1));
    }
}

/// A value that attached threads share.
#[derive(Default)]
pub struct Guarded<T> {
    cell: cell::Cell<T>,
}

impl<T> Guarded<T> {
    /// Shares `value`.
    pub const fn new(value: T) -> Self {
        Self { cell: cell::Cell::new(value) }
    }

    /// Opens the cell for `body`, which runs no Python code, and releases what it pushes to the dead afterwards.
    ///
    /// A panic in `body` leaves the state as it was at that moment and the cell usable.
    pub fn with<R>(&self, py: Python<'_>, body: impl FnOnce(&mut T, &mut Dead) -> R) -> R {
        let mut dead = Dead::new();
        let result = {
            let _opened = Opened::new();
            self.cell.open(py, |state| body(state, &mut dead))
        };
        if !dead.is_empty() {
            assert_nothing_is_open("releasing a reference");
            // PyO3 releases at once only where it counts the thread as attached.
            Python::attach(|_| drop(dead));
        }
        result
    }

    /// Shows the state to the garbage collector.
    pub fn traverse(&self, body: impl FnOnce(&T) -> Result<(), PyTraverseError>) -> Result<(), PyTraverseError> {
        self.cell.traverse(body)
    }
}

#[cfg(not(Py_GIL_DISABLED))]
mod cell {
    use std::cell::UnsafeCell;
    use std::sync::atomic::{AtomicBool, Ordering};

    use pyo3::gc::PyTraverseError;
    use pyo3::prelude::*;

    #[derive(Default)]
    pub(super) struct Cell<T> {
        value: UnsafeCell<T>,
        open: AtomicBool,
    }

    // SAFETY: the value is reached with the interpreter lock held, which one thread has at a time, and never lent twice.
    unsafe impl<T: Send> Sync for Cell<T> {}

    impl<T> Cell<T> {
        pub(super) const fn new(value: T) -> Self {
            Self { value: UnsafeCell::new(value), open: AtomicBool::new(false) }
        }

        pub(super) fn open<R>(&self, _py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
            struct Close<'a>(&'a AtomicBool);
            impl Drop for Close<'_> {
                fn drop(&mut self) {
                    self.0.store(false, Ordering::Relaxed);
                }
            }
            assert!(!self.open.load(Ordering::Relaxed), "a guarded cell was opened while it was open");
            self.open.store(true, Ordering::Relaxed);
            let _close = Close(&self.open);
            // SAFETY: the token proves that this thread has the interpreter lock, and the flag that nobody else on this
            // thread has the value.
            body(unsafe { &mut *self.value.get() })
        }

        pub(super) fn traverse(
            &self,
            body: impl FnOnce(&T) -> Result<(), PyTraverseError>,
        ) -> Result<(), PyTraverseError> {
            if self.open.load(Ordering::Relaxed) {
                // A collection under an open cell: what isn't shown counts as reachable from outside, so nothing is
                // lost. Both passes of one collection come here, because it runs to its end before the cell closes.
                return Ok(());
            }
            // SAFETY: the collector runs with the interpreter lock held, and the cell is closed.
            body(unsafe { &*self.value.get() })
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod cell {
    use std::sync::{Mutex, PoisonError};

    use pyo3::gc::PyTraverseError;
    use pyo3::prelude::*;

    #[derive(Default)]
    pub(super) struct Cell<T>(Mutex<T>);

    impl<T> Cell<T> {
        pub(super) const fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        pub(super) fn open<R>(&self, _py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
            // Poisoned means that a body panicked: the state is as it left it, which its author answers for.
            body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }

        pub(super) fn traverse(
            &self,
            body: impl FnOnce(&T) -> Result<(), PyTraverseError>,
        ) -> Result<(), PyTraverseError> {
            // The world is stopped, and attached threads are stopped outside of cells: this never waits.
            body(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }
}

/// A number that many threads add to and none loses an addition.
#[derive(Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds one. With the interpreter lock held, which the token proves, a load and a store are as good as one step.
    #[inline]
    pub fn increment(&self, _py: Python<'_>) {
        if cfg!(Py_GIL_DISABLED) {
            self.0.fetch_add(1, Ordering::Relaxed);
        } else {
            self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Starts over from zero.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

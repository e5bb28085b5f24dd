//! State that several threads share, and the promise that no Python code runs while it is open.
//!
//! On a build with the interpreter lock, that lock *is* the lock: the cell is opened by a [`Python`] token, without a
//! mutex. On a free-threaded build a mutex stands in its place, taken by attached threads alone and never across a call
//! into Python, so that neither the garbage collector nor a fork can find it held: both stop attached threads only where
//! Python code could run.
//!
//! The rule for users: decide inside [`Guarded::with`], act after it. A reference that goes away is pushed to the list
//! of the dead and released when the cell is closed, because releasing may run anybody's `__del__`.
//!
//! The ways out into Python that have to hold even at the interpreter's end are here, too: [`call_method`], [`release`],
//! [`attached`], [`with_nothing_raised`], and the question whether the interpreter is going; and [`Made`], what is made once
//! and for all.
#![expect(
    unsafe_code,
    reason = "the interpreter lock's token, or a lane, stands in for a mutex; calls that end with the interpreter"
)]

use std::convert::Infallible;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{mem, ptr};

use pyo3::ffi;
use pyo3::gc::PyTraverseError;
use pyo3::prelude::*;
use pyo3::types::iterator::PySendResult;
use pyo3::types::{PyIterator, PyString};

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

/// Runs `body`, and releases what it pushed to the dead.
#[inline]
fn then_release<R>(py: Python<'_>, body: impl FnOnce(&mut Dead) -> R) -> R {
    let mut dead = Dead::new();
    let result = body(&mut dead);
    if !dead.is_empty() {
        release(py, dead);
    }
    result
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
        then_release(py, |dead| self.peek(py, |state| body(state, dead)))
    }

    /// Opens the cell for `body`, which runs no Python code and lets no reference go.
    #[expect(clippy::inline_always, reason = "the hot path of every cache, measured")]
    #[inline(always)]
    pub fn peek<R>(&self, py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
        let _opened = Opened::new();
        self.cell.open(py, body)
    }

    /// Shows the state to the garbage collector.
    pub fn traverse(&self, body: impl FnOnce(&T) -> Result<(), PyTraverseError>) -> Result<(), PyTraverseError> {
        self.cell.traverse(body)
    }
}

/// A value that many threads look at and few change: what a [`Guarded`] is, with a second way in for who only looks.
///
/// Where there is no interpreter lock, one mutex for all would have threads wait for one another that only look, and every
/// counter that they share costs more than the look. So each has a *lane*, a mutex with a few notes, which hardly anybody
/// else takes; who wants to change the value takes all lanes, and catches up with the notes. There is one lane until two
/// threads first meet.
pub struct Shared<T> {
    cell: shared::Cell<T>,
}

/// What can be told later of looks that have changed nothing yet.
pub trait CatchUp {
    /// Something was looked at, and noted.
    fn catch_up(&mut self, note: u32);
    /// So many looks were successful.
    fn add_looks(&mut self, looks: u64);
}

impl<T: CatchUp> Shared<T> {
    /// Shares `value`.
    pub fn new(value: T) -> Self {
        Self { cell: shared::Cell::new(value) }
    }

    /// Opens the cell for `body`, as [`Guarded::with`] does.
    pub fn with<R>(&self, py: Python<'_>, body: impl FnOnce(&mut T, &mut Dead) -> R) -> R {
        then_release(py, |dead| self.peek(py, |state| body(state, dead)))
    }

    /// Opens the cell for `body`, which runs no Python code and lets no reference go.
    #[expect(clippy::inline_always, reason = "the hot path of every cache, measured")]
    #[inline(always)]
    pub fn peek<R>(&self, py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
        let _opened = Opened::new();
        self.cell.open(py, body)
    }

    /// Shows the value to `body`, which runs no Python code, lets no reference go, and may leave notes.
    #[cfg(Py_GIL_DISABLED)]
    #[inline]
    pub fn glance<R>(&self, py: Python<'_>, body: impl FnOnce(&T, &mut Lane) -> R) -> R {
        let (result, full) = {
            let _opened = Opened::new();
            self.cell.glance(py, body)
        };
        if full {
            self.peek(py, |_| ());
        }
        result
    }

    /// Shows the state to the garbage collector.
    pub fn traverse(&self, body: impl FnOnce(&T) -> Result<(), PyTraverseError>) -> Result<(), PyTraverseError> {
        self.cell.traverse(body)
    }
}

#[cfg(Py_GIL_DISABLED)]
pub use shared::Lane;

#[cfg(not(Py_GIL_DISABLED))]
mod shared {
    pub(super) use super::cell::Cell;
}

#[cfg(Py_GIL_DISABLED)]
mod shared {
    use std::cell::UnsafeCell;
    use std::mem;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
    use std::thread::available_parallelism;

    use pyo3::gc::PyTraverseError;
    use pyo3::prelude::*;

    use super::CatchUp;

    /// At most so many threads look at the same time without waiting for one another.
    const LANES: usize = 8;
    /// So many notes are taken before somebody has to catch up with them.
    const NOTES: usize = 64;

    /// Notes of one thread, or of a few.
    #[derive(Default)]
    pub struct Lane {
        looks: u64,
        notes: Vec<u32>,
    }

    impl Lane {
        /// Counts a look that was successful.
        pub fn count(&mut self) {
            self.looks += 1;
        }

        /// Notes what was looked at.
        pub fn note(&mut self, note: u32) {
            if self.notes.capacity() == 0 {
                self.notes.reserve_exact(NOTES);
            }
            self.notes.push(note);
        }

        /// The last note, if nobody has caught up with it yet.
        #[must_use]
        pub fn last(&self) -> Option<u32> {
            self.notes.last().copied()
        }
    }

    /// On a cache line of its own, and the one that processors fetch along with it.
    #[derive(Default)]
    #[repr(align(128))]
    struct Padded(Mutex<Lane>);

    pub(super) struct Cell<T> {
        value: UnsafeCell<T>,
        lanes: [OnceLock<Box<Padded>>; LANES],
        /// How many lanes are in use: a power of two. Changes while all are taken.
        used: AtomicUsize,
        /// The thread that has the cell open: to wait for oneself would be to wait for ever.
        owner: AtomicUsize,
    }

    // SAFETY: the value is lent for looking to who has a lane, and for changing to who has all of them. Looking happens on
    // several threads at a time, therefore `Sync`.
    unsafe impl<T: Send + Sync> Sync for Cell<T> {}

    impl<T: CatchUp> Cell<T> {
        pub(super) fn new(value: T) -> Self {
            let lanes: [OnceLock<Box<Padded>>; LANES] = Default::default();
            lanes[0].get_or_init(Box::default);
            Self { value: UnsafeCell::new(value), lanes, used: AtomicUsize::new(1), owner: AtomicUsize::new(0) }
        }

        fn lane(&self, number: usize) -> &Mutex<Lane> {
            &self.lanes[number].get_or_init(Box::default).0
        }

        fn lock(&self, number: usize) -> MutexGuard<'_, Lane> {
            // Poisoned means that a body panicked: the state is as it left it, which its author answers for.
            self.lane(number).lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Takes all lanes.
        fn lock_all(&self) -> [Option<MutexGuard<'_, Lane>>; LANES] {
            // Who makes more lanes has the first one, too: the number is settled once that is ours.
            let first = self.lock(0);
            let used = self.used.load(Ordering::Relaxed);
            let mut all = [const { None }; LANES];
            all[0] = Some(first);
            for (number, lane) in all.iter_mut().enumerate().take(used).skip(1) {
                *lane = Some(self.lock(number));
            }
            all
        }

        #[inline]
        pub(super) fn open<R>(&self, _py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
            struct Close<'a>(&'a AtomicUsize);
            impl Drop for Close<'_> {
                fn drop(&mut self) {
                    self.0.store(0, Ordering::Relaxed);
                }
            }
            let me = crate::callable::this_thread();
            assert!(self.owner.load(Ordering::Relaxed) != me, "a guarded cell was opened while it was open");
            let mut lanes = self.lock_all();
            self.owner.store(me, Ordering::Relaxed);
            // Dropped before the locks are.
            let _close = Close(&self.owner);
            // SAFETY: this thread has all lanes, so nobody else has the value.
            let value = unsafe { &mut *self.value.get() };
            for lane in lanes.iter_mut().flatten() {
                let looks = mem::take(&mut lane.looks);
                if looks > 0 {
                    value.add_looks(looks);
                    lane.notes.drain(..).for_each(|note| value.catch_up(note));
                }
            }
            body(value)
        }

        /// What `body` says, and whether there are so many notes that somebody should catch up.
        #[inline]
        pub(super) fn glance<R>(&self, _py: Python<'_>, body: impl FnOnce(&T, &mut Lane) -> R) -> (R, bool) {
            thread_local!(static NUMBER: usize = next_number());
            let used = self.used.load(Ordering::Acquire);
            let number = NUMBER.with(|number| *number) & (used - 1);
            let (mut lane, alone) = match self.lane(number).try_lock() {
                Ok(lane) => (lane, true),
                Err(TryLockError::Poisoned(poisoned)) => (poisoned.into_inner(), true),
                Err(TryLockError::WouldBlock) => (self.lock(number), false),
            };
            // SAFETY: this thread has a lane, so nobody changes the value.
            let value = unsafe { &*self.value.get() };
            let result = body(value, &mut lane);
            let full = lane.notes.len() >= NOTES;
            drop(lane);
            if !alone && used < LANES {
                self.make_lanes(used);
            }
            (result, full)
        }

        /// Doubles the number of lanes, if there are as many as were seen; not beyond what can run at the same time.
        #[cold]
        fn make_lanes(&self, seen: usize) {
            if available_parallelism().is_ok_and(|most| seen >= most.get()) {
                return;
            }
            let _all = self.lock_all();
            if self.used.load(Ordering::Relaxed) == seen {
                for number in seen..2 * seen {
                    let _ = self.lane(number);
                }
                self.used.store(2 * seen, Ordering::Release);
            }
        }

        pub(super) fn traverse(
            &self,
            body: impl FnOnce(&T) -> Result<(), PyTraverseError>,
        ) -> Result<(), PyTraverseError> {
            // The world is stopped, and attached threads are stopped outside of cells: this never waits.
            let _all = self.lock_all();
            // SAFETY: this thread has all lanes.
            body(unsafe { &*self.value.get() })
        }
    }

    /// A number for each thread, so that threads that begin one after the other have different lanes.
    fn next_number() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
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

        #[inline]
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use pyo3::gc::PyTraverseError;
    use pyo3::prelude::*;

    #[derive(Default)]
    pub(super) struct Cell<T> {
        value: Mutex<T>,
        // The thread that has the cell open: to wait for oneself would be to wait for ever.
        owner: AtomicUsize,
    }

    impl<T> Cell<T> {
        pub(super) const fn new(value: T) -> Self {
            Self { value: Mutex::new(value), owner: AtomicUsize::new(0) }
        }

        fn lock(&self) -> MutexGuard<'_, T> {
            // Poisoned means that a body panicked: the state is as it left it, which its author answers for.
            self.value.lock().unwrap_or_else(PoisonError::into_inner)
        }

        #[inline]
        pub(super) fn open<R>(&self, _py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
            struct Close<'a>(&'a AtomicUsize);
            impl Drop for Close<'_> {
                fn drop(&mut self) {
                    self.0.store(0, Ordering::Relaxed);
                }
            }
            let me = crate::callable::this_thread();
            assert!(self.owner.load(Ordering::Relaxed) != me, "a guarded cell was opened while it was open");
            let mut value = self.lock();
            self.owner.store(me, Ordering::Relaxed);
            // Dropped before the lock is.
            let _close = Close(&self.owner);
            body(&mut value)
        }

        pub(super) fn traverse(
            &self,
            body: impl FnOnce(&T) -> Result<(), PyTraverseError>,
        ) -> Result<(), PyTraverseError> {
            // The world is stopped, and attached threads are stopped outside of cells: this never waits.
            body(&self.lock())
        }
    }
}

/// Something that is made once, when it is first asked for: a name, a function of some module.
///
/// `PyO3`'s own `PyOnceLock` detaches while it is locked. When another thread forks at that moment, or the interpreter
/// goes, the lock stays locked, and who comes next waits for ever. Here nothing is locked while something is made: who
/// comes at the same time makes another one, and the first that is ready stays.
pub struct Made<T>(OnceLock<T>);

impl<T> Made<T> {
    /// Nothing made yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// What was made, or is made now by `init`.
    #[inline]
    pub fn get_or_init(&self, py: Python<'_>, init: impl FnOnce() -> T) -> &T {
        let Ok(value) = self.get_or_try_init(py, || Ok::<_, Infallible>(init()));
        value
    }

    /// What was made, or is made now by `init`; if that fails, it is still to be made.
    #[inline]
    pub fn get_or_try_init<E>(&self, _py: Python<'_>, init: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        if let Some(value) = self.0.get() {
            return Ok(value);
        }
        let value = init()?;
        Ok(self.0.get_or_init(|| value))
    }
}

impl<T> Default for Made<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl Made<Py<PyAny>> {
    /// `name` of the module `module`, as it was when it was first asked for.
    #[inline]
    pub fn import<'py>(&self, py: Python<'py>, module: &str, name: &str) -> PyResult<&Bound<'py, PyAny>> {
        Ok(self.get_or_try_init(py, || Ok::<_, PyErr>(py.import(module)?.getattr(name)?.unbind()))?.bind(py))
    }
}

/// A string of the program's text as an interned Python string, made once; see [`Made`].
macro_rules! interned {
    ($py: expr, $text: literal) => {{
        static NAME: $crate::guarding::Made<pyo3::Py<pyo3::types::PyString>> = $crate::guarding::Made::new();
        NAME.get_or_init($py, || pyo3::types::PyString::intern($py, $text).unbind()).bind($py)
    }};
}
pub(crate) use interned;

/// A number that many threads add to and none loses an addition.
#[derive(Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// A number that starts at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one and gives out the sum: nobody else gets the same.
    #[inline]
    pub fn next(&self, py: Python<'_>) -> u64 {
        if cfg!(Py_GIL_DISABLED) {
            self.0.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.increment(py);
            self.get()
        }
    }

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

/// Calls of which some never return: up to Python 3.13 the interpreter ends a daemon thread by `pthread_exit` when that
/// thread asks for the interpreter lock after the interpreter has gone, in the middle of Python code that we have called.
/// `PyO3` declares these functions as unable to unwind, and the process would be aborted.
pub(crate) mod unwinding {
    use pyo3::ffi::PyObject;

    unsafe extern "C-unwind" {
        pub(crate) fn PyObject_Vectorcall(
            callable: *mut PyObject,
            args: *const *mut PyObject,
            nargsf: usize,
            kwnames: *mut PyObject,
        ) -> *mut PyObject;
        pub(crate) fn PyObject_VectorcallMethod(
            name: *mut PyObject,
            args: *const *mut PyObject,
            nargsf: usize,
            kwnames: *mut PyObject,
        ) -> *mut PyObject;
        pub(crate) fn PyVectorcall_Call(
            callable: *mut PyObject,
            tuple: *mut PyObject,
            dict: *mut PyObject,
        ) -> *mut PyObject;
        pub(crate) fn PyIter_Send(
            iterator: *mut PyObject,
            value: *mut PyObject,
            result: *mut *mut PyObject,
        ) -> pyo3::ffi::PySendResult;
        pub(crate) fn Py_DecRef(object: *mut PyObject);
    }
}

/// Stops a forced unwind where it would enter Rust frames: the thread sleeps until the process has gone.
struct Hang;

/// Makes a call of which the thread may never come back.
///
/// The function is called through a pointer that the optimiser can't see through. `PyO3` has declared the same symbols as
/// unable to unwind, and with link-time optimisation its word would be taken for ours.
#[inline]
pub(crate) fn hanging<F, R>(function: F, call: impl FnOnce(F) -> R) -> R {
    let hang = Hang;
    let result = call(std::hint::black_box(function));
    mem::forget(hang);
    result
}

impl Drop for Hang {
    fn drop(&mut self) {
        sleep_for_ever();
    }
}

/// What is left to do for a thread that the interpreter has gone without.
pub(crate) fn sleep_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

/// A vectorcall of something by an object, with arguments and names.
pub(crate) type Function = unsafe extern "C-unwind" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    usize,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Calls `object.name(*args)`, in a daemon thread even while the interpreter goes. At most four arguments.
pub fn call_method<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    args: &[&Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    assert_nothing_is_open("a call into Python");
    let mut pointers = [object.as_ptr(); 5];
    for (pointer, argument) in pointers[1..=args.len()].iter_mut().zip(args) {
        *pointer = argument.as_ptr();
    }
    let function: Function = unwinding::PyObject_VectorcallMethod;
    let result = hanging(function, |function| {
        // SAFETY: the object, the name and the arguments are alive, and there are as many pointers as the count says.
        unsafe { function(name.as_ptr(), pointers.as_ptr(), args.len() + 1, ptr::null_mut()) }
    });
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(object.py(), result) }
}

/// Calls `function(*args)`, in a daemon thread even while the interpreter goes. At most four arguments.
pub fn call<'py>(function: &Bound<'py, PyAny>, args: &[&Bound<'py, PyAny>]) -> PyResult<Bound<'py, PyAny>> {
    assert_nothing_is_open("a call into Python");
    let mut pointers = [ptr::null_mut(); 4];
    for (pointer, argument) in pointers[..args.len()].iter_mut().zip(args) {
        *pointer = argument.as_ptr();
    }
    let vectorcall: Function = unwinding::PyObject_Vectorcall;
    let result = hanging(vectorcall, |vectorcall| {
        // SAFETY: the function and the arguments are alive, and there are as many pointers as the count says.
        unsafe { vectorcall(function.as_ptr(), pointers.as_ptr(), args.len(), ptr::null_mut()) }
    });
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), result) }
}

/// Sends a value into a generator, in a daemon thread even while the interpreter goes.
pub fn send<'py>(generator: &Bound<'py, PyIterator>, value: &Bound<'py, PyAny>) -> PyResult<PySendResult<'py>> {
    type Send = unsafe extern "C-unwind" fn(
        *mut ffi::PyObject,
        *mut ffi::PyObject,
        *mut *mut ffi::PyObject,
    ) -> ffi::PySendResult;
    assert_nothing_is_open("a call into Python");
    let py = generator.py();
    let function: Send = unwinding::PyIter_Send;
    let mut result = ptr::null_mut();
    let status = hanging(function, |function| {
        // SAFETY: generator and value are alive, and there is a place for the result.
        unsafe { function(generator.as_ptr(), value.as_ptr(), &raw mut result) }
    });
    if status == ffi::PySendResult::PYGEN_ERROR {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: without an error, the result is a new reference.
    let result = unsafe { Bound::from_owned_ptr(py, result) };
    Ok(if status == ffi::PySendResult::PYGEN_NEXT { PySendResult::Next(result) } else { PySendResult::Return(result) })
}

/// Releases references, with all that their `__del__` may do, in a daemon thread even while the interpreter goes.
pub fn release(_py: Python<'_>, references: impl IntoIterator<Item = Py<PyAny>>) {
    assert_nothing_is_open("releasing a reference");
    for reference in references {
        let release: unsafe extern "C-unwind" fn(*mut ffi::PyObject) = unwinding::Py_DecRef;
        hanging(release, |release| {
            // SAFETY: the thread is attached, and `into_ptr` gave up the reference that is released here.
            unsafe { release(reference.into_ptr()) }
        });
    }
}

/// Runs `body` where `PyO3` counts the thread as attached, so that what it drops is released at once. To be used where the
/// call layer's own trampoline has attached the thread: `Python::attach` does the same, but it panics in a `__del__` that
/// runs while the interpreter goes.
#[inline]
pub fn attached<R>(_py: Python<'_>, body: impl FnOnce(Python<'_>) -> R) -> R {
    // SAFETY: the token proves that the thread is attached already, in whatever state the interpreter is.
    unsafe { Python::attach_unchecked(body) }
}

/// Runs `body` with the exception that is just passing through this thread put aside. For those who are dropped on its
/// way and call Python nevertheless.
pub fn with_nothing_raised<R>(_py: Python<'_>, body: impl FnOnce() -> R) -> R {
    struct PutBack(Raised);
    impl Drop for PutBack {
        fn drop(&mut self) {
            self.0.put_back();
        }
    }
    let _put_back = PutBack(Raised::put_aside());
    body()
}

/// The exception that is set on a thread; not through `PyErr::take`, which resumes a panic when it meets one.
#[cfg(Py_3_12)]
struct Raised(*mut ffi::PyObject);

#[cfg(Py_3_12)]
impl Raised {
    fn put_aside() -> Self {
        // SAFETY: the thread is attached; the result is a new reference, or null where nothing is set.
        Self(unsafe { ffi::PyErr_GetRaisedException() })
    }

    fn put_back(&self) {
        // SAFETY: called once, with the reference that was taken.
        unsafe { ffi::PyErr_SetRaisedException(self.0) }
    }
}

#[cfg(not(Py_3_12))]
struct Raised([*mut ffi::PyObject; 3]);

#[cfg(not(Py_3_12))]
impl Raised {
    fn put_aside() -> Self {
        let mut parts = [ptr::null_mut(); 3];
        let [class, value, traceback] = &mut parts;
        // SAFETY: the thread is attached; three places for three new references, or for nulls where nothing is set.
        unsafe { ffi::PyErr_Fetch(class, value, traceback) };
        Self(parts)
    }

    fn put_back(&self) {
        let [class, value, traceback] = self.0;
        // SAFETY: called once, with the references that were taken.
        unsafe { ffi::PyErr_Restore(class, value, traceback) }
    }
}

/// Whether the interpreter has begun to end for good: exit handlers have run, and no thread but the one that ends it can
/// attach any more. May be asked by detached threads.
#[must_use]
pub fn interpreter_is_going() -> bool {
    // SAFETY: may be called at any time, even without an interpreter.
    unsafe { ffi::Py_IsInitialized() == 0 }
}

/// The processor that this thread runs on at the moment; `None` where the system doesn't say.
#[inline]
#[must_use]
pub fn processor() -> Option<u32> {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn sched_getcpu() -> std::ffi::c_int;
        }
        // SAFETY: takes nothing, and gives a number or -1.
        u32::try_from(unsafe { sched_getcpu() }).ok()
    }
    #[cfg(not(target_os = "linux"))]
    None
}

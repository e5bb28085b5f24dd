//! How a native object is called, bound and forwarded: like a built-in function.
//!
//! `PyO3` gives a class `tp_call` alone, which costs a tuple and a dictionary for each call. The classes here take part in
//! the vectorcall protocol (PEP 590) and carry the method-descriptor flag, so that the interpreter hands their arguments
//! over where they lie, and calls `object.method(...)` without making a bound method first.
//!
//! Every decorator's class extends [`Wrapper`], which holds the two things that they share: the function, and the slot
//! that the interpreter jumps through. What a class adds is its [`Native::call`].
#![expect(unsafe_code, reason = "the vectorcall protocol is raw C: type slots, borrowed argument vectors, trampolines")]

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::exceptions::PyBaseException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyClass, PyTypeInfo, ffi};

use crate::guarding;

/// Calls that may end in a forced unwind: up to Python 3.13 the interpreter ends a daemon thread by `pthread_exit` when
/// that thread asks for the interpreter lock after the interpreter has gone. `PyO3` declares these functions as unable to
/// unwind, which would abort the process.
mod unwinding {
    use pyo3::ffi::PyObject;

    unsafe extern "C-unwind" {
        pub(super) fn PyObject_Vectorcall(
            callable: *mut PyObject,
            args: *const *mut PyObject,
            nargsf: usize,
            kwnames: *mut PyObject,
        ) -> *mut PyObject;
        pub(super) fn PyVectorcall_Call(
            callable: *mut PyObject,
            tuple: *mut PyObject,
            dict: *mut PyObject,
        ) -> *mut PyObject;
    }
}

/// A call with a tuple and a dictionary.
type Ternary =
    unsafe extern "C-unwind" fn(*mut ffi::PyObject, *mut ffi::PyObject, *mut ffi::PyObject) -> *mut ffi::PyObject;

unsafe extern "C" {
    // Public C API since 3.0; not in pyo3-ffi.
    fn PyMethod_New(function: *mut ffi::PyObject, object: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// The address that the interpreter jumps to when an instance is called.
#[repr(transparent)]
pub struct Slot(ffi::vectorcallfunc);

impl Slot {
    /// The slot of a class: its [`Native::call`] behind a trampoline.
    #[must_use]
    pub fn of<T: Native>() -> Self {
        Self(trampoline::<T>)
    }
}

/// Says that a Python exception is set on this thread, and nothing else.
///
/// Passing this on instead of a `PyErr` leaves the exception where the callee put it: a wrapper that only forwards never
/// touches it.
pub struct Raised<'py>(PhantomData<Python<'py>>);

impl Raised<'_> {
    /// Takes the exception off the thread, for those who want to look at it.
    #[must_use]
    pub fn fetch(self, py: Python<'_>) -> PyErr {
        PyErr::fetch(py)
    }
}

/// How a native call fails: with what the callee raised, untouched, or with an error of its own.
pub enum Failure<'py> {
    /// The exception is set already.
    Raised(Raised<'py>),
    /// The exception is still to be set.
    Error(PyErr),
}

impl<'py> From<Raised<'py>> for Failure<'py> {
    fn from(raised: Raised<'py>) -> Self {
        Self::Raised(raised)
    }
}

impl From<PyErr> for Failure<'_> {
    fn from(error: PyErr) -> Self {
        Self::Error(error)
    }
}

/// What a native call gives back.
pub type Outcome<'py> = Result<Bound<'py, PyAny>, Failure<'py>>;

/// A class whose instances are called through the vectorcall protocol. It extends [`Wrapper`].
pub trait Native: PyClass<Frozen = True> + Sync {
    /// Runs one call. It hangs on to nothing but `Bound` and `Borrowed` on its way to success: a `Py` or a `PyErr` that
    /// is dropped here lands in `PyO3`'s deferred pool, unless it is dropped inside `Python::attach`.
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py>;
}

/// The arguments of one call, where the caller put them.
#[derive(Clone, Copy)]
pub struct Call<'a, 'py> {
    args: *const *mut ffi::PyObject,
    nargsf: usize,
    kwnames: *mut ffi::PyObject,
    borrowed: PhantomData<(&'a PyAny, Python<'py>)>,
}

impl<'py> Call<'_, 'py> {
    /// Calls `function` with the very same arguments.
    pub fn forward(self, function: &Bound<'py, PyAny>) -> Result<Bound<'py, PyAny>, Raised<'py>> {
        guarding::assert_nothing_is_open("a call into Python");
        let vectorcall: guarding::Function = unwinding::PyObject_Vectorcall;
        let result = guarding::hanging(vectorcall, |vectorcall| {
            // SAFETY: `args`, `nargsf` and `kwnames` are what the interpreter passed in for a call that is still running.
            unsafe { vectorcall(function.as_ptr(), self.args, self.nargsf, self.kwnames) }
        });
        if result.is_null() {
            return Err(Raised(PhantomData));
        }
        // SAFETY: a call that did not fail returns a new reference.
        Ok(unsafe { Bound::from_owned_ptr(function.py(), result) })
    }
}

unsafe extern "C" fn trampoline<T: Native>(
    callable: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargsf: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the interpreter calls this, on a thread that is attached.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the caller holds a reference to the callable for as long as the call lasts.
        let callable = unsafe { Borrowed::from_ptr(py, callable) };
        // SAFETY: only instances of `T` carry this trampoline in their slot.
        let this = unsafe { callable.cast_unchecked::<T>() };
        T::call(&this, Call { args, nargsf, kwnames, borrowed: PhantomData })
    }));
    match outcome {
        Ok(Ok(result)) => result.into_ptr(),
        Ok(Err(Failure::Raised(_))) => ptr::null_mut(),
        Ok(Err(Failure::Error(error))) => raise(error),
        Err(panic) => raise(panic_exception(panic.as_ref())),
    }
}

/// Sets the exception, attached by `PyO3`'s own count, so that what the error holds is released at once.
#[cold]
fn raise(error: PyErr) -> *mut ffi::PyObject {
    Python::attach(|py| error.restore(py));
    ptr::null_mut()
}

#[cold]
fn panic_exception(panic: &(dyn Any + Send)) -> PyErr {
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "panic from Rust code".to_owned());
    PanicException::new_err(text)
}

/// The common base of ferrule's native decorators.
///
/// What it lacks it passes on to the function that it wraps, so that a stack of decorators shows the names of all of them.
#[pyclass(subclass, dict, weakref, frozen, immutable_type, module = "ferrule._core")]
pub struct Wrapper {
    slot: Slot,
    function: Py<PyAny>,
}

impl Wrapper {
    /// The function that is wrapped.
    #[must_use]
    pub fn function<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyAny> {
        self.function.bind(py)
    }

    /// Puts an instance of `T` round a function and dresses it as that function.
    pub fn wrap<'py, T>(function: &Bound<'py, PyAny>, rest: T) -> PyResult<Bound<'py, T>>
    where
        T: Native + PyClass<Frozen = True>,
        (T, Self): Into<PyClassInitializer<T>>,
    {
        let base = Self { slot: Slot::of::<T>(), function: function.clone().unbind() };
        let wrapper = Bound::new(function.py(), (rest, base))?;
        dress(wrapper.as_any(), function)?;
        Ok(wrapper)
    }
}

#[pymethods]
impl Wrapper {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        this: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // `wrapper.__call__(...)` comes here; `wrapper(...)` goes straight to the slot. The behaviour is written once.
        let call: Ternary = unwinding::PyVectorcall_Call;
        let kwargs = kwargs.map_or(ptr::null_mut(), Bound::as_ptr);
        let result = guarding::hanging(call, |call| {
            // SAFETY: all three pointers are alive, and the class supports vectorcall from `publish_all` on.
            unsafe { call(this.as_ptr(), args.as_ptr(), kwargs) }
        });
        // SAFETY: a new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(this.py(), result) }
    }

    fn __get__<'py>(
        this: &Bound<'py, Self>,
        instance: Option<&Bound<'py, PyAny>>,
        owner: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = owner;
        let Some(instance) = instance else { return Ok(this.clone().into_any()) };
        // SAFETY: both objects are alive.
        let method = unsafe { PyMethod_New(this.as_ptr(), instance.as_ptr()) };
        // SAFETY: a new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(this.py(), method) }
    }

    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.function.bind(py).as_any().getattr(name.cast()?)
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        this.getattr("__qualname__")
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let function = this.get().function.bind(this.py()).repr()?;
        Ok(format!("<{} of {function}>", this.get_type().fully_qualified_name()?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)
    }
}

/// A function as a shell round it, written in Python, has it: what is called is the shell, and what the shell lacks comes
/// from the function. A Python function by itself could only copy what the function's `__dict__` holds.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct Shell {
    shell: Py<PyAny>,
}

#[pymethods]
impl Shell {
    #[new]
    #[pyo3(signature = (function, shell, /))]
    fn new<'py>(function: &Bound<'py, PyAny>, shell: Py<PyAny>) -> PyResult<Bound<'py, Self>> {
        Wrapper::wrap(function, Self { shell })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.shell)
    }
}

impl Native for Shell {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        Ok(call.forward(this.get().shell.bind(this.py()))?)
    }
}

/// Gives the wrapper the function's name, doc, module, annotations and attributes, as `functools.wraps` does.
fn dress(wrapper: &Bound<'_, PyAny>, function: &Bound<'_, PyAny>) -> PyResult<()> {
    static UPDATE_WRAPPER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = wrapper.py();
    UPDATE_WRAPPER.import(py, "functools", "update_wrapper")?.call1((wrapper, function))?;
    // A function wrapped before may carry `timing_stats` and its like in its `__dict__`; the copies would hide our methods.
    let copied = wrapper.getattr("__dict__")?.cast_into::<PyDict>()?;
    for name in copied.keys() {
        let ours = wrapper.get_type().mro().iter().any(|class| {
            !class.is(py.get_type::<PyAny>())
                && class.getattr("__dict__").is_ok_and(|names| names.contains(&name).unwrap_or(false))
        });
        if ours && !name.extract::<&str>()?.starts_with("__") {
            copied.del_item(name)?;
        }
    }
    Ok(())
}

/// Gives the classes their vectorcall slot and flags. Called once, before any of their instances exists.
pub fn publish_all(py: Python<'_>) -> PyResult<()> {
    let sample = Bound::new(py, Wrapper { slot: Slot(unused), function: py.None() })?;
    // The distance is measured on an instance, so no layout of PyO3's is assumed. Subclasses start with their base.
    let offset = ptr::from_ref(&sample.get().slot).addr() - sample.as_ptr().addr();
    publish::<Wrapper>(py, offset);
    publish::<Shell>(py, offset);
    publish::<crate::probing::Passthrough>(py, offset);
    publish::<crate::probing::Panicking>(py, offset);
    publish::<crate::timing::binding::TimedFunction>(py, offset);
    publish::<crate::timing::binding::CountedFunction>(py, offset);
    Ok(())
}

fn publish<T: PyTypeInfo>(py: Python<'_>, offset: usize) {
    let class = T::type_object_raw(py);
    let flags = ffi::Py_TPFLAGS_HAVE_VECTORCALL | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR;
    // SAFETY: the module is being initialised: no other thread knows the class yet, and it has no instance but a sample.
    let class = unsafe { &mut *class };
    class.tp_vectorcall_offset = offset.cast_signed();
    class.tp_call = Some(ffi::PyVectorcall_Call);
    #[cfg(Py_GIL_DISABLED)]
    class.tp_flags.fetch_or(flags, std::sync::atomic::Ordering::Relaxed);
    #[cfg(not(Py_GIL_DISABLED))]
    {
        class.tp_flags |= flags;
    }
}

/// What stands in the slot of the sample that `publish_all` measures.
unsafe extern "C" fn unused(
    _: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: usize,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(pyo3::exceptions::PyTypeError::new_err("ferrule._core.Wrapper is a base class"))
}

/// The frame that runs the Python code which called us; none where no Python code has.
#[must_use]
pub fn calling_frame(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    // SAFETY: the thread is attached.
    let frame = unsafe { ffi::PyEval_GetFrame() };
    // SAFETY: a borrowed reference, or null.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, frame.cast()) }
}

/// Whether an exception is of the kinds that a program handles, as opposed to those that end it.
#[must_use]
pub fn is_exception(error: &Bound<'_, PyBaseException>) -> bool {
    error.is_instance_of::<pyo3::exceptions::PyException>()
}

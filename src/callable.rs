//! How a native object is called, bound and forwarded: like a built-in function.
//!
//! `PyO3` gives a class `tp_call` alone, which costs a tuple and a dictionary for each call. The classes here take part in
//! the vectorcall protocol (PEP 590) and carry the method-descriptor flag, so that the interpreter hands their arguments
//! over where they lie, and calls `object.method(...)` without making a bound method first.
//!
//! Every decorator's class extends [`Wrapper`], which holds the two things that they share: the function, and the slot
//! that the interpreter jumps through. What a class adds is its [`Native::call`].
#![expect(unsafe_code, reason = "the vectorcall protocol is raw C: type slots, borrowed argument vectors, trampolines")]

pub mod describing;

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use pyo3::{PyClass, PyTypeInfo, ffi};

use crate::guarding::{self, unwinding};

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
    /// The exception is still to be set. Boxed, so that what a call gives back fits into registers.
    Error(Box<PyErr>),
}

impl Failure<'_> {
    /// The exception, off the thread.
    #[must_use]
    pub fn fetch(self, py: Python<'_>) -> PyErr {
        match self {
            Self::Raised(raised) => raised.fetch(py),
            Self::Error(error) => *error,
        }
    }
}

impl<'py> From<Raised<'py>> for Failure<'py> {
    fn from(raised: Raised<'py>) -> Self {
        Self::Raised(raised)
    }
}

impl From<PyErr> for Failure<'_> {
    fn from(error: PyErr) -> Self {
        Self::Error(Box::new(error))
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

impl<'a, 'py> Call<'a, 'py> {
    /// How many arguments came by position.
    #[inline]
    #[must_use]
    pub fn positional(self) -> usize {
        self.nargsf & !ffi::PY_VECTORCALL_ARGUMENTS_OFFSET
    }

    /// The names of those that came by keyword.
    #[inline]
    #[must_use]
    pub fn keywords(self, py: Python<'py>) -> Option<Borrowed<'a, 'py, PyTuple>> {
        if self.kwnames.is_null() {
            return None;
        }
        // SAFETY: the caller holds the names for as long as the call lasts.
        let names = unsafe { Borrowed::from_ptr(py, self.kwnames) };
        // SAFETY: the protocol says that they are a tuple.
        Some(unsafe { names.cast_unchecked() }).filter(|names: &Borrowed<'_, '_, PyTuple>| !names.is_empty())
    }

    /// An argument: those by position come first, then those by keyword in the order of their names.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    #[must_use]
    pub fn argument(self, py: Python<'py>, index: usize) -> Borrowed<'a, 'py, PyAny> {
        let positional = self.positional();
        assert!(index < positional || index - positional < self.keywords(py).map_or(0, |names| names.len()));
        // SAFETY: the vector holds that many arguments, as just checked.
        let place = unsafe { self.args.add(index) };
        // SAFETY: `place` lies within the vector.
        let argument = unsafe { *place };
        // SAFETY: the caller holds the arguments for as long as the call lasts.
        unsafe { Borrowed::from_ptr(py, argument) }
    }

    /// The argument of a call that has one alone: by position, or by the keyword `name`, if that is the very same string.
    #[inline]
    #[must_use]
    pub fn only_argument(self, py: Python<'py>, name: Option<&Py<PyAny>>) -> Option<Borrowed<'a, 'py, PyAny>> {
        match (self.positional(), self.keywords(py), name) {
            (1, None, _) => Some(self.argument(py, 0)),
            (0, Some(names), Some(name)) if names.len() == 1 && tuple_item(names, 0).is(name) => {
                Some(self.argument(py, 0))
            }
            _ => None,
        }
    }

    /// The arguments as a tuple and a dictionary.
    pub fn unpack(self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let positional = self.positional();
        let args = PyTuple::new(py, (0..positional).map(|index| self.argument(py, index)))?;
        let kwargs = PyDict::new(py);
        if let Some(names) = self.keywords(py) {
            for index in 0..names.len() {
                kwargs.set_item(tuple_item(names, index), self.argument(py, positional + index))?;
            }
        }
        Ok((args, kwargs))
    }

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

impl<'a, 'py> Call<'a, 'py> {
    /// A call with the items of a tuple, all by position.
    #[inline]
    #[must_use]
    pub fn with_items(args: &'a Bound<'py, PyTuple>) -> Self {
        let tuple: *mut ffi::PyTupleObject = args.as_ptr().cast();
        // SAFETY: the tuple is alive, and its items lie behind one another in it.
        let items = unsafe { &raw const (*tuple).ob_item };
        Self { args: items.cast(), nargsf: args.len(), kwnames: ptr::null_mut(), borrowed: PhantomData }
    }
}

/// Arguments that came as a tuple and a dictionary, laid out as a [`Call`].
pub struct Packed<'py> {
    arguments: Vec<Bound<'py, PyAny>>,
    positional: usize,
    names: Option<Bound<'py, PyTuple>>,
}

impl<'py> Packed<'py> {
    /// Lays the arguments out; `first`, where given, goes in front of them.
    pub fn new(
        first: Option<&Bound<'py, PyAny>>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Self> {
        let mut arguments: Vec<_> = first.into_iter().cloned().chain(args.iter()).collect();
        let positional = arguments.len();
        let names = kwargs.filter(|kwargs| !kwargs.is_empty()).map(|kwargs| {
            arguments.extend(kwargs.values());
            PyTuple::new(args.py(), kwargs.keys())
        });
        Ok(Self { arguments, positional, names: names.transpose()? })
    }

    /// The call.
    #[must_use]
    pub fn call(&self) -> Call<'_, 'py> {
        Call {
            // A `Bound` is a pointer to its object and nothing else.
            args: self.arguments.as_ptr().cast(),
            nargsf: self.positional,
            kwnames: self.names.as_ref().map_or(ptr::null_mut(), Bound::as_ptr),
            borrowed: PhantomData,
        }
    }
}

/// Compares two objects of exact built-in types, whose `==` runs no Python code and can't fail.
#[inline]
#[must_use]
pub fn plain_equal(one: Borrowed<'_, '_, PyAny>, other: Borrowed<'_, '_, PyAny>) -> bool {
    // SAFETY: both are alive, and the thread is attached.
    unsafe { ffi::PyObject_RichCompareBool(one.as_ptr(), other.as_ptr(), ffi::Py_EQ) == 1 }
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
        Ok(Err(Failure::Error(error))) => raise(*error),
        Err(panic) => raise(panic_exception(panic.as_ref())),
    }
}

/// Sets the exception, attached by `PyO3`'s own count, so that what the error holds is released at once.
#[cold]
pub(crate) fn raise(error: PyErr) -> *mut ffi::PyObject {
    // SAFETY: the interpreter has called us on this thread, so it is attached.
    guarding::attached(unsafe { Python::assume_attached() }, |py| error.restore(py));
    ptr::null_mut()
}

/// A panic of ours as the exception that Python code sees.
#[cold]
pub(crate) fn panic_exception(panic: &(dyn Any + Send)) -> PyErr {
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
        let wrapper = uncollected(|| Bound::new(function.py(), (rest, base)))?;
        dress(wrapper.as_any(), function)?;
        #[cfg(all(Py_3_14, Py_GIL_DISABLED))]
        share(wrapper.as_any());
        Ok(wrapper)
    }

    /// Puts an instance of `T` round a wrapper, whose dress it shares.
    pub fn wrap_bare<'py, T>(function: &Bound<'py, PyAny>, rest: T) -> PyResult<Bound<'py, T>>
    where
        T: Native + PyClass<Frozen = True>,
        (T, Self): Into<PyClassInitializer<T>>,
    {
        let base = Self { slot: Slot::of::<T>(), function: function.clone().unbind() };
        let wrapper = uncollected(|| Bound::new(function.py(), (rest, base)))?;
        let dress = guarding::interned!(function.py(), "__dict__");
        wrapper.as_any().setattr(dress, function.getattr(dress)?)?;
        Ok(wrapper)
    }
}

/// Makes an object that has a `__dict__`. Up to Python 3.11 the interpreter makes that dictionary when the object can be
/// seen by the collector, and is still empty; and making it may run the collector, which would look into the object.
fn uncollected<R>(make: impl FnOnce() -> R) -> R {
    #[cfg(not(Py_3_12))]
    {
        struct Enable;
        impl Drop for Enable {
            fn drop(&mut self) {
                // SAFETY: the thread is attached, as it was when the collector was disabled.
                unsafe { ffi::PyGC_Enable() };
            }
        }
        // SAFETY: whoever makes an object is attached; nobody else is until it is made.
        let was_enabled = unsafe { ffi::PyGC_Disable() } == 1;
        // Not `then_some`, which would make one in any case, and drop it.
        let _enable = was_enabled.then(|| Enable);
        make()
    }
    #[cfg(Py_3_12)]
    make()
}

/// The bound method of a callable and the object that goes in front of its arguments.
pub fn bound_method<'py>(function: &Bound<'py, PyAny>, instance: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: both objects are alive.
    let method = unsafe { PyMethod_New(function.as_ptr(), instance.as_ptr()) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), method) }
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
        instance.map_or_else(|| Ok(this.clone().into_any()), |instance| bound_method(this.as_any(), instance))
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

/// Has threads that call a wrapper not count their references to it, which costs more than the call where they share it. As
/// the interpreter does it for functions: for those that are not made within others, which come and go.
#[cfg(all(Py_3_14, Py_GIL_DISABLED))]
fn share(wrapper: &Bound<'_, PyAny>) {
    unsafe extern "C" {
        fn PyUnstable_Object_EnableDeferredRefcount(object: *mut ffi::PyObject) -> std::ffi::c_int;
    }
    let name = wrapper.getattr("__qualname__").and_then(|name| name.extract::<String>());
    if name.is_ok_and(|name| !name.contains("<locals>")) {
        // SAFETY: the object is alive, new, and this thread's. That it can't be deferred is no error.
        unsafe { PyUnstable_Object_EnableDeferredRefcount(wrapper.as_ptr()) };
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
    let sample = uncollected(|| Bound::new(py, Wrapper { slot: Slot(unused), function: py.None() }))?;
    // The distance is measured on an instance, so no layout of PyO3's is assumed. Subclasses start with their base.
    let offset = ptr::from_ref(&sample.get().slot).addr() - sample.as_ptr().addr();
    publish::<Wrapper>(py, offset);
    publish::<Shell>(py, offset);
    publish::<crate::probing::Passthrough>(py, offset);
    publish::<crate::probing::Panicking>(py, offset);
    publish::<crate::timing::binding::TimedFunction>(py, offset);
    publish::<crate::timing::binding::CountedFunction>(py, offset);
    publish::<crate::caching::binding::CachedFunction>(py, offset);
    publish::<crate::limiting::binding::LimitedFunction>(py, offset);
    publish::<crate::retrying::binding::RetryingFunction>(py, offset);
    publish::<crate::retrying::binding::RetryingMethod>(py, offset);
    publish::<crate::retrying::breaking::BreakerFunction>(py, offset);
    publish::<crate::validating::enforcing::EnforcedFunction>(py, offset);
    publish::<crate::validating::fields::Initializer>(py, offset);
    publish::<crate::patterns::binding::SingletonCall>(py, offset);
    describing::publish_getting::<crate::validating::fields::FieldInfo>(py);
    describing::publish_setting::<crate::validating::fields::FieldInfo>(py);
    describing::publish_getting::<crate::patterns::binding::LazyProperty>(py);
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

/// A place in running Python code: a code object, and how far it has got. Unlike a frame it keeps no locals alive.
pub struct Spot {
    code: Py<PyAny>,
    lasti: i32,
}

impl Spot {
    /// The code object, and the index of the instruction in bytes.
    #[must_use]
    pub fn parts<'py>(&self, py: Python<'py>) -> (Bound<'py, PyAny>, i32) {
        (self.code.bind(py).clone(), self.lasti)
    }

    /// The same place once more.
    #[must_use]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { code: self.code.clone_ref(py), lasti: self.lasti }
    }

    fn of(py: Python<'_>, frame: *mut ffi::PyFrameObject) -> Self {
        // SAFETY: a frame object that is alive.
        let code = unsafe { ffi::PyFrame_GetCode(frame) };
        // SAFETY: as above.
        let lasti = unsafe { ffi::PyFrame_GetLasti(frame) };
        // SAFETY: a frame has a code object, and this is a new reference to it.
        Self { code: unsafe { Bound::from_owned_ptr(py, code.cast()) }.unbind(), lasti }
    }
}

/// Where the Python code is that called us.
#[inline]
#[must_use]
pub fn calling_spot(py: Python<'_>) -> Option<Spot> {
    // SAFETY: the thread is attached.
    let frame = unsafe { ffi::PyEval_GetFrame() };
    (!frame.is_null()).then(|| Spot::of(py, frame))
}

/// Where the Python code is that called us, and who called that: at most `most` places, without the innermost `skipped`.
#[must_use]
pub fn calling_stack(py: Python<'_>, skipped: usize, most: usize) -> Vec<Spot> {
    let mut spots = Vec::new();
    let mut frame = calling_frame(py);
    for depth in 0..skipped.saturating_add(most) {
        let Some(this) = frame else { break };
        if depth >= skipped {
            spots.push(Spot::of(py, this.as_ptr().cast()));
        }
        // SAFETY: `this` is a frame object that is alive.
        let back = unsafe { ffi::PyFrame_GetBack(this.as_ptr().cast()) };
        // SAFETY: a new reference, or null at the bottom.
        frame = unsafe { Bound::from_owned_ptr_or_opt(py, back.cast()) };
    }
    spots
}

/// An object's class, borrowed for as long as the object is.
#[inline]
#[must_use]
pub fn type_of<'a, 'py>(py: Python<'py>, object: Borrowed<'a, 'py, PyAny>) -> Borrowed<'a, 'py, PyAny> {
    // SAFETY: the object is alive.
    let class = unsafe { ffi::Py_TYPE(object.as_ptr()) };
    // SAFETY: an object keeps its class alive.
    unsafe { Borrowed::from_ptr(py, class.cast()) }
}

/// An item of a tuple, borrowed for as long as the tuple is.
///
/// # Panics
/// If there are fewer.
#[inline]
#[must_use]
pub fn tuple_item<'a, 'py>(tuple: Borrowed<'a, 'py, PyTuple>, index: usize) -> Borrowed<'a, 'py, PyAny> {
    assert!(index < tuple.len());
    // SAFETY: the index lies within the tuple, as just checked.
    let item = unsafe { ffi::PyTuple_GET_ITEM(tuple.as_ptr(), index.cast_signed()) };
    // SAFETY: a tuple keeps its items alive, and doesn't change.
    unsafe { Borrowed::from_ptr(tuple.py(), item) }
}

/// A new instance of a class, made without a call of its `__init__`.
pub fn bare_instance<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    let no_args = PyTuple::empty(py);
    let class: *mut ffi::PyTypeObject = class.as_ptr().cast();
    // SAFETY: the class is alive, and was made ready when it came into being.
    let new = unsafe { (*class).tp_new };
    let new = new.ok_or_else(|| pyo3::exceptions::PyTypeError::new_err("the class has no instances"))?;
    // SAFETY: the slot takes a class, a tuple, and a dictionary or null.
    let instance = unsafe { new(class, no_args.as_ptr(), ptr::null_mut()) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, instance) }
}

/// The context variables of a task: those of where it comes from, as they were then.
pub mod context {
    use pyo3::ffi::{self, PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit, PyContext_New};
    use pyo3::prelude::*;

    /// The variables of this thread as they are now; `None` where none is set.
    pub fn current(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
        // SAFETY: the thread is attached.
        let context = unsafe { PyContext_CopyCurrent() };
        // SAFETY: a new reference, or null with an exception set.
        let context = unsafe { Bound::from_owned_ptr_or_err(py, context) }?;
        Ok((context.len()? > 0).then_some(context))
    }

    /// Runs `body` in `context`, or in an empty one: what it sets stays there.
    pub fn within<'py, R>(
        py: Python<'py>,
        context: Option<&Bound<'py, PyAny>>,
        body: impl FnOnce() -> R,
    ) -> PyResult<R> {
        struct Exit<'py>(Bound<'py, PyAny>);
        impl Drop for Exit<'_> {
            fn drop(&mut self) {
                // SAFETY: the context is alive, and was entered on this thread.
                if unsafe { PyContext_Exit(self.0.as_ptr()) } != 0 {
                    // SAFETY: the thread is attached. It can only fail where somebody else has left the context.
                    unsafe { ffi::PyErr_Clear() };
                }
            }
        }
        let context = if let Some(context) = context {
            context.clone()
        } else {
            // SAFETY: the thread is attached.
            let context = unsafe { PyContext_New() };
            // SAFETY: a new reference, or null with an exception set.
            unsafe { Bound::from_owned_ptr_or_err(py, context) }?
        };
        // SAFETY: the context is alive.
        if unsafe { PyContext_Enter(context.as_ptr()) } != 0 {
            return Err(PyErr::fetch(py));
        }
        let _exit = Exit(context);
        Ok(body())
    }
}

/// A number that is this thread's own while it lives.
#[must_use]
pub fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| ptr::from_ref(here).addr())
}

//! Descriptors that are reached through their slots, and the places where they keep values: in the object itself.
//!
//! `PyO3`'s own descriptor slots attach the thread by its count and convert what they are given; these take what the
//! interpreter hands over as it is. The rest of this file is what looks at built-in containers without running Python
//! code: a run of items of one class, the next entry of a dictionary, a small integer.

use std::cell::Cell;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::exceptions::PyRecursionError;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyList, PyString, PyTuple, PyType};
use pyo3::{PyClass, ffi};

use super::{Failure, Outcome, Raised, panic_exception, raise};
use crate::guarding;

/// See the module of this name in [`super`].
mod unwinding {
    use pyo3::ffi::PyObject;

    unsafe extern "C-unwind" {
        pub(super) fn PyObject_IsInstance(object: *mut PyObject, class: *mut PyObject) -> std::ffi::c_int;
        pub(super) fn PyDict_SetItem(dict: *mut PyObject, key: *mut PyObject, item: *mut PyObject) -> std::ffi::c_int;
        pub(super) fn PyDict_DelItem(dict: *mut PyObject, key: *mut PyObject) -> std::ffi::c_int;
        pub(super) fn PyObject_RichCompare(
            one: *mut PyObject,
            other: *mut PyObject,
            operation: std::ffi::c_int,
        ) -> *mut PyObject;
        pub(super) fn PyObject_Size(object: *mut PyObject) -> isize;
        pub(super) fn PyObject_GetIter(object: *mut PyObject) -> *mut PyObject;
        pub(super) fn PyIter_Next(iterator: *mut PyObject) -> *mut PyObject;
    }
}

/// A class whose instances, kept in a class, give out values for its instances.
pub trait Getting: PyClass<Frozen = True> + Sync {
    /// The value for `instance`. As with [`super::Native::call`], the way to success drops no `Py` and no `PyErr`.
    fn get<'py>(this: &Bound<'py, Self>, instance: &Bound<'py, PyAny>) -> Outcome<'py>;
}

/// A class whose instances, kept in a class, take values for its instances.
pub trait Setting: PyClass<Frozen = True> + Sync {
    /// Takes a value for `instance`, or deletes it where there is none.
    fn set<'py>(
        this: &Bound<'py, Self>,
        instance: &Bound<'py, PyAny>,
        value: Option<&Bound<'py, PyAny>>,
    ) -> Result<(), Failure<'py>>;
}

/// Puts the slots on the class. Called once, before any instance exists.
pub fn publish_getting<T: Getting>(py: Python<'_>) {
    // SAFETY: the module is being initialised: no other thread knows the class yet, and it has no instance.
    let class = unsafe { &mut *T::type_object_raw(py) };
    class.tp_descr_get = Some(get_slot::<T>);
}

/// As [`publish_getting`].
pub fn publish_setting<T: Setting>(py: Python<'_>) {
    // SAFETY: as above.
    let class = unsafe { &mut *T::type_object_raw(py) };
    class.tp_descr_set = Some(set_slot::<T>);
}

unsafe extern "C" fn get_slot<T: Getting>(
    this: *mut ffi::PyObject,
    instance: *mut ffi::PyObject,
    _owner: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the interpreter calls this, on a thread that is attached.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the caller holds the descriptor for as long as this lasts.
        let this = unsafe { Borrowed::from_ptr(py, this) };
        // SAFETY: null, or an object that the caller holds.
        let Some(instance) = (unsafe { Borrowed::from_ptr_or_opt(py, instance) }) else {
            return Ok((*this).clone());
        };
        // SAFETY: only instances of `T` have this slot.
        let this = unsafe { this.cast_unchecked::<T>() };
        T::get(&this, &instance)
    }));
    match outcome {
        Ok(Ok(result)) => result.into_ptr(),
        Ok(Err(Failure::Raised(_))) => ptr::null_mut(),
        Ok(Err(Failure::Error(error))) => raise(*error),
        Err(panic) => raise(panic_exception(panic.as_ref())),
    }
}

unsafe extern "C" fn set_slot<T: Setting>(
    this: *mut ffi::PyObject,
    instance: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the interpreter calls this, on a thread that is attached.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the caller holds the descriptor for as long as this lasts.
        let this = unsafe { Borrowed::from_ptr(py, this) };
        // SAFETY: only instances of `T` have this slot.
        let this = unsafe { this.cast_unchecked::<T>() };
        // SAFETY: the caller holds the instance.
        let instance = unsafe { Borrowed::from_ptr(py, instance) };
        // SAFETY: null, or an object that the caller holds.
        let value = unsafe { Borrowed::from_ptr_or_opt(py, value) };
        T::set(&this, &instance, value.as_deref())
    }));
    match outcome {
        Ok(Ok(())) => return 0,
        Ok(Err(Failure::Raised(_))) => {}
        Ok(Err(Failure::Error(error))) => {
            raise(*error);
        }
        Err(panic) => {
            raise(panic_exception(panic.as_ref()));
        }
    }
    -1
}

/// The dictionary of an instance, whatever its class makes of the name `__dict__`.
#[inline]
fn instance_dict<'py>(instance: &Bound<'py, PyAny>) -> Result<Bound<'py, PyDict>, Raised<'py>> {
    // SAFETY: the instance is alive.
    let dict = unsafe { ffi::PyObject_GenericGetDict(instance.as_ptr(), ptr::null_mut()) };
    if dict.is_null() {
        return Err(Raised(PhantomData));
    }
    // SAFETY: a new reference.
    let dict = unsafe { Bound::from_owned_ptr(instance.py(), dict) };
    // SAFETY: an instance's dictionary is one, or a subclass of it.
    Ok(unsafe { dict.cast_into_unchecked() })
}

/// The value of a key in a dictionary, if it has one.
#[inline]
fn get_item<'py>(dict: &Bound<'py, PyDict>, key: &Bound<'py, PyAny>) -> Result<Option<Bound<'py, PyAny>>, Raised<'py>> {
    let mut value = ptr::null_mut();
    // SAFETY: dictionary and key are alive, and there is a place for the value.
    let status = unsafe { ffi::compat::PyDict_GetItemRef(dict.as_ptr(), key.as_ptr(), &raw mut value) };
    if status < 0 {
        return Err(Raised(PhantomData));
    }
    // SAFETY: a new reference, or null where there is none.
    Ok(unsafe { Bound::from_owned_ptr_or_opt(dict.py(), value) })
}

/// What a status says: below 0, that an exception is set.
#[inline]
fn raised(_py: Python<'_>, status: c_int) -> Result<(), Raised<'_>> {
    if status < 0 { Err(Raised(PhantomData)) } else { Ok(()) }
}

fn check(py: Python<'_>, status: c_int) -> PyResult<()> {
    if status < 0 { Err(PyErr::fetch(py)) } else { Ok(()) }
}

/// Where the instances of a class keep a value: under a name in their dictionary, or in a slot.
pub enum Home {
    /// Under the attribute's own name.
    Dict(Py<PyString>),
    /// In the slot that this member descriptor stands for.
    Slot(Py<PyAny>),
}

impl Home {
    /// The value of `instance`, if it has one.
    #[inline]
    pub fn get<'py>(&self, instance: &Bound<'py, PyAny>) -> Result<Option<Bound<'py, PyAny>>, Raised<'py>> {
        let py = instance.py();
        match self {
            Self::Dict(name) => get_item(&instance_dict(instance)?, name.bind(py).as_any()),
            Self::Slot(member) => slot_get(member.bind(py), instance),
        }
    }

    /// Keeps `value` for `instance`.
    #[expect(clippy::inline_always, reason = "the hot path of every attribute, measured")]
    #[inline(always)]
    pub fn set<'py>(&self, instance: &Bound<'py, PyAny>, value: &Bound<'py, PyAny>) -> Result<(), Raised<'py>> {
        let py = instance.py();
        match self {
            Self::Dict(name) => {
                let dict = instance_dict(instance)?;
                set_item(&dict, name.bind(py).as_any(), value)
            }
            Self::Slot(member) => slot_set(member.bind(py), instance, value.as_ptr()),
        }
    }

    /// Keeps `value` for `instance` unless it has one by now; gives out what it has.
    pub fn set_default<'py>(
        &self,
        instance: &Bound<'py, PyAny>,
        value: Bound<'py, PyAny>,
    ) -> Result<Bound<'py, PyAny>, Raised<'py>> {
        // Between the look and the write no Python code runs, so that the interpreter lock makes them one step, and
        // where there is none the object's own does.
        with_critical_section(instance, || match self.get(instance)? {
            Some(there) => Ok(there),
            None => self.set(instance, &value).map(|()| value),
        })
    }

    /// Takes the value away; says whether there was one.
    pub fn delete<'py>(&self, instance: &Bound<'py, PyAny>) -> Result<bool, Raised<'py>> {
        let py = instance.py();
        match self {
            Self::Dict(name) => {
                let dict = instance_dict(instance)?;
                if get_item(&dict, name.bind(py).as_any())?.is_none() {
                    return Ok(false);
                }
                let delete: unsafe extern "C-unwind" fn(*mut ffi::PyObject, *mut ffi::PyObject) -> c_int =
                    unwinding::PyDict_DelItem;
                let status = guarding::hanging(delete, |delete| {
                    // SAFETY: dictionary and name are alive.
                    unsafe { delete(dict.as_ptr(), name.as_ptr()) }
                });
                raised(py, status).map(|()| true)
            }
            Self::Slot(member) => {
                if slot_get(member.bind(py), instance)?.is_none() {
                    return Ok(false);
                }
                slot_set(member.bind(py), instance, ptr::null_mut()).map(|()| true)
            }
        }
    }

    /// What it refers to, for the garbage collector.
    #[must_use]
    pub fn object(&self) -> &Py<PyAny> {
        match self {
            Self::Dict(name) => name.as_any(),
            Self::Slot(member) => member,
        }
    }
}

fn slot_get<'py>(
    member: &Bound<'py, PyAny>,
    instance: &Bound<'py, PyAny>,
) -> Result<Option<Bound<'py, PyAny>>, Raised<'py>> {
    let py = instance.py();
    let class = instance.get_type_ptr();
    // SAFETY: an object's class is alive as long as the object is.
    let get = unsafe { (*member.get_type_ptr()).tp_descr_get };
    let Some(get) = get else { return Ok(None) };
    // SAFETY: the three are alive, and the slot is called as the interpreter calls it.
    let value = unsafe { get(member.as_ptr(), instance.as_ptr(), class.cast()) };
    // SAFETY: a new reference, or null with an exception set.
    match unsafe { Bound::from_owned_ptr_or_opt(py, value) } {
        Some(value) => Ok(Some(value)),
        None => empty(py),
    }
}

/// What it means that a slot gave no value: that it is empty, or something worse.
#[cold]
fn empty(py: Python<'_>) -> Result<Option<Bound<'_, PyAny>>, Raised<'_>> {
    // Attached by PyO3's own count, so that the error is released here.
    guarding::attached(py, |_| {
        let error = PyErr::fetch(py);
        if error.is_instance_of::<pyo3::exceptions::PyAttributeError>(py) {
            return Ok(None);
        }
        error.restore(py);
        Err(Raised(PhantomData))
    })
}

#[inline(never)]
fn slot_set<'py>(
    member: &Bound<'py, PyAny>,
    instance: &Bound<'py, PyAny>,
    value: *mut ffi::PyObject,
) -> Result<(), Raised<'py>> {
    type Set = unsafe extern "C-unwind" fn(*mut ffi::PyObject, *mut ffi::PyObject, *mut ffi::PyObject) -> c_int;
    // SAFETY: an object's class is alive as long as the object is.
    let set = unsafe { (*member.get_type_ptr()).tp_descr_set };
    let Some(set) = set else { return Ok(()) };
    // SAFETY: the same function, of which we know that it can end a thread: it releases what was there before.
    let set = unsafe { std::mem::transmute::<ffi::descrsetfunc, Set>(set) };
    let status = guarding::hanging(set, |set| {
        // SAFETY: member and instance are alive; the value is, or is null, which deletes.
        unsafe { set(member.as_ptr(), instance.as_ptr(), value) }
    });
    raised(instance.py(), status)
}

/// `dict[key] = value`, in a daemon thread even while the interpreter goes.
#[inline]
fn set_item<'py>(
    dict: &Bound<'py, PyDict>,
    key: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
) -> Result<(), Raised<'py>> {
    type Set = unsafe extern "C-unwind" fn(*mut ffi::PyObject, *mut ffi::PyObject, *mut ffi::PyObject) -> c_int;
    let set: Set = unwinding::PyDict_SetItem;
    let status = guarding::hanging(set, |set| {
        // SAFETY: dictionary, key and value are alive.
        unsafe { set(dict.as_ptr(), key.as_ptr(), value.as_ptr()) }
    });
    raised(dict.py(), status)
}

/// `isinstance(object, class)`, which may run Python code.
#[inline]
pub fn is_instance(object: Borrowed<'_, '_, PyAny>, class: &Bound<'_, PyAny>) -> PyResult<bool> {
    guarding::assert_nothing_is_open("a call into Python");
    let function: unsafe extern "C-unwind" fn(*mut ffi::PyObject, *mut ffi::PyObject) -> c_int =
        unwinding::PyObject_IsInstance;
    let answer = guarding::hanging(function, |function| {
        // SAFETY: both are alive.
        unsafe { function(object.as_ptr(), class.as_ptr()) }
    });
    check(object.py(), answer)?;
    Ok(answer == 1)
}

/// Whether `one <= other`, or with `ge` `one >= other`: by the objects themselves, which may run Python code.
pub fn compares<'py>(one: Borrowed<'_, 'py, PyAny>, ge: bool, other: &Bound<'py, PyAny>) -> PyResult<bool> {
    guarding::assert_nothing_is_open("a call into Python");
    let operation = if ge { ffi::Py_GE } else { ffi::Py_LE };
    rich_compare(one, operation, other)?.is_truthy()
}

/// Whether `one == other`: by the objects themselves, which may run Python code.
pub fn equal<'py>(one: Borrowed<'_, 'py, PyAny>, other: &Bound<'py, PyAny>) -> PyResult<bool> {
    guarding::assert_nothing_is_open("a call into Python");
    rich_compare(one, ffi::Py_EQ, other)?.is_truthy()
}

fn rich_compare<'py>(
    one: Borrowed<'_, 'py, PyAny>,
    operation: c_int,
    other: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    type Compare = unsafe extern "C-unwind" fn(*mut ffi::PyObject, *mut ffi::PyObject, c_int) -> *mut ffi::PyObject;
    let compare: Compare = unwinding::PyObject_RichCompare;
    let result = guarding::hanging(compare, |compare| {
        // SAFETY: both are alive.
        unsafe { compare(one.as_ptr(), other.as_ptr(), operation) }
    });
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(one.py(), result) }
}

/// `len(object)`, which may run Python code.
pub fn length(object: Borrowed<'_, '_, PyAny>) -> PyResult<usize> {
    guarding::assert_nothing_is_open("a call into Python");
    let size: unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> isize = unwinding::PyObject_Size;
    let length = guarding::hanging(size, |size| {
        // SAFETY: the object is alive.
        unsafe { size(object.as_ptr()) }
    });
    usize::try_from(length).map_err(|_| PyErr::fetch(object.py()))
}

/// `iter(object)`, which may run Python code.
pub fn iterate<'py>(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    guarding::assert_nothing_is_open("a call into Python");
    let function: unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> *mut ffi::PyObject = unwinding::PyObject_GetIter;
    let iterator = guarding::hanging(function, |function| {
        // SAFETY: the object is alive.
        unsafe { function(object.as_ptr()) }
    });
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(object.py(), iterator) }
}

/// `next(iterator)`, which may run Python code; `None` at its end.
pub fn next<'py>(iterator: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    guarding::assert_nothing_is_open("a call into Python");
    let py = iterator.py();
    let function: unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> *mut ffi::PyObject = unwinding::PyIter_Next;
    let item = guarding::hanging(function, |function| {
        // SAFETY: the iterator is alive, and is one: `iterate` made it.
        unsafe { function(iterator.as_ptr()) }
    });
    if item.is_null() {
        return PyErr::take(py).map_or(Ok(None), Err);
    }
    // SAFETY: a new reference.
    Ok(Some(unsafe { Bound::from_owned_ptr(py, item) }))
}

/// How many levels deep a value is looked at. Up to 3.13 the interpreter's own limit counts calls and doesn't know how much
/// of the stack ours take.
const DEEPEST: u32 = 500;

/// Runs `body` one level deeper; a `RecursionError` where that is too deep.
pub fn deeper<R>(py: Python<'_>, body: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    thread_local!(static LEVEL: Cell<u32> = const { Cell::new(0) });
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            LEVEL.with(|level| level.set(level.get() - 1));
            // SAFETY: made where a level was entered, on this thread.
            unsafe { ffi::Py_LeaveRecursiveCall() }
        }
    }
    if LEVEL.with(Cell::get) >= DEEPEST {
        return Err(PyRecursionError::new_err(format!(
            "a value is more than {DEEPEST} levels deep while it is checked"
        )));
    }
    // SAFETY: the thread is attached, and the text ends with a null.
    let status = unsafe { ffi::Py_EnterRecursiveCall(c" while checking a value".as_ptr()) };
    // Not the usual -1: any other number than 0 says that an exception is set.
    if status != 0 {
        return Err(PyErr::fetch(py));
    }
    LEVEL.with(|level| level.set(level.get() + 1));
    let _leave = Leave;
    body()
}

/// The integer, if it is an exact `int` that fits.
#[inline]
#[must_use]
pub fn small_int(object: Borrowed<'_, '_, PyAny>) -> Option<i64> {
    // SAFETY: the object is alive.
    if unsafe { ffi::PyLong_CheckExact(object.as_ptr()) } == 0 {
        return None;
    }
    let mut overflow = 0;
    // SAFETY: it is an integer, and there is a place for the overflow. Of an integer, this raises nothing.
    let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(object.as_ptr(), &raw mut overflow) };
    (overflow == 0).then_some(value)
}

/// How many items of `list` from `start` on are of the very class `class`.
#[inline]
#[must_use]
pub fn list_run(list: &Bound<'_, PyList>, start: usize, class: *mut ffi::PyObject) -> usize {
    with_critical_section(list.as_any(), || {
        let mut index = start;
        // SAFETY: the list can't change: no Python code runs here, and nobody else is let in.
        while index < unsafe { ffi::PyList_GET_SIZE(list.as_ptr()) }.cast_unsigned() {
            // SAFETY: the index lies within the list.
            let item = unsafe { ffi::PyList_GET_ITEM(list.as_ptr(), index.cast_signed()) };
            // SAFETY: the list keeps its item alive.
            if unsafe { ffi::Py_TYPE(item) }.cast::<ffi::PyObject>() != class {
                break;
            }
            index += 1;
        }
        index - start
    })
}

/// How many items of `tuple` from `start` on are of the very class `class`.
#[inline]
#[must_use]
pub fn tuple_run(tuple: Borrowed<'_, '_, PyTuple>, start: usize, class: *mut ffi::PyObject) -> usize {
    let run = (start..tuple.len()).take_while(|index| {
        let item = super::tuple_item(tuple, *index);
        // SAFETY: the tuple keeps its item alive.
        let kind = unsafe { ffi::Py_TYPE(item.as_ptr()) };
        kind.cast::<ffi::PyObject>() == class
    });
    run.count()
}

/// How many entries of a dictionary, from its first on, have keys and values of these very classes; a class that is null
/// is any. Whether that is all of them comes with it.
#[inline]
#[must_use]
pub fn dict_run(dict: &Bound<'_, PyDict>, keys: *mut ffi::PyObject, values: *mut ffi::PyObject) -> (isize, bool) {
    with_critical_section(dict.as_any(), || {
        let mut position = 0;
        let (mut key, mut value) = (ptr::null_mut(), ptr::null_mut());
        loop {
            let before = position;
            // SAFETY: the dictionary is alive, and there is a place for each of the three.
            if unsafe { ffi::PyDict_Next(dict.as_ptr(), &raw mut position, &raw mut key, &raw mut value) } == 0 {
                return (position, true);
            }
            // SAFETY: the dictionary keeps its key alive, and can't change here.
            let key_class = unsafe { ffi::Py_TYPE(key) }.cast::<ffi::PyObject>();
            // SAFETY: the dictionary keeps its value alive.
            let value_class = unsafe { ffi::Py_TYPE(value) }.cast::<ffi::PyObject>();
            if (!keys.is_null() && key_class != keys) || (!values.is_null() && value_class != values) {
                return (before, false);
            }
        }
    })
}

/// The entry of a dictionary at `position`, which goes on to the next. A dictionary that changes meanwhile shows each of
/// its entries once, more than once, or not at all, and nothing that isn't there.
#[must_use]
pub fn dict_next<'py>(
    dict: &Bound<'py, PyDict>,
    position: &mut isize,
) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let py = dict.py();
    with_critical_section(dict.as_any(), || {
        let (mut key, mut value) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the dictionary is alive, and there is a place for each of the three.
        if unsafe { ffi::PyDict_Next(dict.as_ptr(), position, &raw mut key, &raw mut value) } == 0 {
            return None;
        }
        // SAFETY: the dictionary holds the key; from here on we do, too.
        let key = unsafe { Bound::from_borrowed_ptr(py, key) };
        // SAFETY: and the value.
        Some((key, unsafe { Bound::from_borrowed_ptr(py, value) }))
    })
}

/// Gives a class of the metaclass `type` another one, which derives from `type` and adds no state of its own; false where
/// that can't be done.
///
/// It is what the assignment `cls.__class__ = metaclass` does, which the interpreter refuses because `type` is a class
/// that can't change: most of its instances are the interpreter's own. Classes that a program makes are not.
#[must_use]
pub fn change_metaclass(class: &Bound<'_, PyType>, metaclass: &Bound<'_, PyType>) -> bool {
    let (object, new) = (class.as_type_ptr(), metaclass.as_type_ptr());
    let plain = &raw mut ffi::PyType_Type;
    // SAFETY: the class is alive.
    let flags = unsafe { ffi::PyType_GetFlags(object) };
    let mutable = flags & ffi::Py_TPFLAGS_HEAPTYPE != 0 && flags & ffi::Py_TPFLAGS_IMMUTABLETYPE == 0;
    // SAFETY: both are types, and alive.
    let derived = unsafe { ffi::PyType_IsSubtype(new, plain) } == 1;
    let layout = |class: *mut ffi::PyTypeObject| {
        // SAFETY: the type is alive, and nobody changes its layout.
        let class = unsafe { &*class };
        (class.tp_basicsize, class.tp_itemsize)
    };
    if class.get_type_ptr() != plain || !mutable || !derived || layout(new) != layout(plain) {
        return false;
    }
    // An instance of a class that a program made owns a reference to it.
    let _ = metaclass.clone().into_ptr();
    // SAFETY: the object is alive, and the new class is of the same layout, as just looked at.
    unsafe { (*object.cast::<ffi::PyObject>()).ob_type = new };
    // SAFETY: the class is alive. What the interpreter has noted of how it is called no longer holds.
    unsafe { ffi::PyType_Modified(object) };
    true
}

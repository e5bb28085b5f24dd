//! Stepping through iterables and being stepped through, as the interpreter itself does it.
//!
//! `PyO3`'s safe interface costs 11 ns more for each call out and 12 for each `__next__`: as much as what an iterator does
//! for one item. So the loops of iterating and pipelines pull by the type's own `tp_iternext` ([`Source`]), call by
//! vectorcall ([`call_one`]), and are pulled from by a slot of their own ([`Stepping`]).
#![expect(unsafe_code, reason = "type slots, tuples and lists that are filled in place, numbers looked at in place")]

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyStopIteration;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyBool, PyFloat, PyInt, PyList, PyString, PyTuple};
use pyo3::{PyClass, ffi};

use crate::callable::{panic_exception, raise};
use crate::guarding::{self, Function, hanging, unwinding};

/// State that one thread at a time works on, Python code and all; who comes meanwhile is turned away, as by a generator.
pub struct Claim<T> {
    busy: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is lent to whoever has raised the flag, and to nobody else.
unsafe impl<T: Send> Sync for Claim<T> {}

impl<T> Claim<T> {
    /// Keeps `value` for one at a time.
    pub const fn new(value: T) -> Self {
        Self { busy: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, unless somebody works on it.
    #[inline]
    pub fn claim(&self, _py: Python<'_>) -> Option<Claimed<'_, T>> {
        // With the interpreter lock held, which the token proves, a look and a store are one step.
        let busy = if cfg!(Py_GIL_DISABLED) {
            self.busy.swap(true, Ordering::Acquire)
        } else {
            let busy = self.busy.load(Ordering::Relaxed);
            self.busy.store(true, Ordering::Relaxed);
            busy
        };
        // Not `then_some`: a claim that is made and dropped lets go of the other one.
        (!busy).then(|| Claimed { of: self })
    }

    /// The value, or the `ValueError` that a generator raises in this case.
    #[inline]
    pub fn enter(&self, py: Python<'_>, what: &str) -> PyResult<Claimed<'_, T>> {
        self.claim(py).ok_or_else(|| {
            pyo3::exceptions::PyValueError::new_err(format!(
                "{what} is being advanced already, by another thread or by what it calls itself"
            ))
        })
    }

    /// Shows the value to the garbage collector, unless somebody works on it: what isn't shown counts as reachable from
    /// outside, and both passes of one collection come to the same answer, because that somebody stands still meanwhile.
    pub fn traverse(&self, body: impl FnOnce(&T) -> Result<(), PyTraverseError>) -> Result<(), PyTraverseError> {
        if self.busy.load(Ordering::Acquire) {
            return Ok(());
        }
        // SAFETY: nobody works on it, and nobody begins to while the collector runs.
        body(unsafe { &*self.value.get() })
    }
}

/// The value of a [`Claim`], for as long as this lives.
pub struct Claimed<'a, T> {
    of: &'a Claim<T>,
}

impl<T> Deref for Claimed<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the flag is ours.
        unsafe { &*self.of.value.get() }
    }
}

impl<T> DerefMut for Claimed<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the flag is ours.
        unsafe { &mut *self.of.value.get() }
    }
}

impl<T> Drop for Claimed<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.of.busy.store(false, Ordering::Release);
    }
}

/// For how many items a batch makes room at a time: it may have been promised more than the source holds.
const STRIDE: usize = 4096;

type Next = unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> *mut ffi::PyObject;

/// Where items come from: a list or a tuple by place, anything else by its iterator.
pub enum Source {
    /// A list, and the place of the next item. It may grow and shrink meanwhile, as under a list's own iterator.
    List(Py<PyList>, usize),
    /// A tuple, and the place of the next item.
    Tuple(Py<PyTuple>, usize),
    /// An iterator, and what advances it.
    Iterator(Py<PyAny>, Next),
    /// Nothing more.
    Done,
}

impl Source {
    /// A source of what `iterable` holds.
    pub fn new(iterable: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(list) = iterable.cast_exact::<PyList>() {
            return Ok(Self::List(list.clone().unbind(), 0));
        }
        if let Ok(tuple) = iterable.cast_exact::<PyTuple>() {
            return Ok(Self::Tuple(tuple.clone().unbind(), 0));
        }
        let iterator = iterable.try_iter()?.into_any();
        // SAFETY: the iterator is alive.
        let class = unsafe { ffi::Py_TYPE(iterator.as_ptr()) };
        // SAFETY: an object keeps its class alive.
        let next = unsafe { (*class).tp_iternext };
        let next = next.ok_or_else(|| pyo3::exceptions::PyTypeError::new_err("iter() returned no iterator"))?;
        // SAFETY: the same function, said to be able to unwind: a thread may be ended in it.
        let next = unsafe { std::mem::transmute::<ffi::iternextfunc, Next>(next) };
        Ok(Self::Iterator(iterator.unbind(), next))
    }

    /// The next item, if there is one.
    #[expect(clippy::inline_always, reason = "the hot path of every loop, measured")]
    #[inline(always)]
    pub fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self {
            Self::List(list, place) => {
                if let Some(item) = list_item(list.bind(py), *place) {
                    *place += 1;
                    return Ok(Some(item));
                }
            }
            Self::Tuple(tuple, place) => {
                let tuple = tuple.bind(py);
                if *place < tuple.len() {
                    let item = crate::callable::tuple_item(tuple.as_borrowed(), *place).to_owned();
                    *place += 1;
                    return Ok(Some(item));
                }
            }
            Self::Iterator(iterator, next) => {
                let item = hanging(*next, |next| {
                    // SAFETY: the iterator is alive, and this is its own type's function.
                    unsafe { next(iterator.as_ptr()) }
                });
                if !item.is_null() {
                    // SAFETY: a new reference.
                    return Ok(Some(unsafe { Bound::from_owned_ptr(py, item) }));
                }
                end_or_error(py)?;
            }
            Self::Done => return Ok(None),
        }
        self.end(py);
        Ok(None)
    }

    /// The `int` of 64 bits that comes next of a list, where it stays: for those who compute with it and call nobody.
    #[expect(clippy::inline_always, reason = "the hot path of every loop, measured")]
    #[inline(always)]
    #[must_use]
    pub fn int_ahead(&self, py: Python<'_>) -> Option<i64> {
        let Self::List(list, place) = self else { return None };
        let list = list.bind(py);
        if cfg!(Py_GIL_DISABLED) || *place >= list.len() {
            return None;
        }
        // SAFETY: the place lies within the list.
        let item = unsafe { ffi::PyList_GET_ITEM(list.as_ptr(), place.cast_signed()) };
        // SAFETY: the list holds its item, and with the interpreter lock nobody changes it before this returns.
        let item = unsafe { Borrowed::from_ptr(py, item) };
        small_int(&item)
    }

    /// Goes on behind an item of a list that was looked at by `int_ahead`.
    #[inline]
    pub fn skip_one(&mut self) {
        if let Self::List(_, place) = self {
            *place += 1;
        }
    }

    /// Lets go of what there was.
    pub fn end(&mut self, py: Python<'_>) {
        let gone = match std::mem::replace(self, Self::Done) {
            Self::List(list, _) => list.into_any(),
            Self::Tuple(tuple, _) => tuple.into_any(),
            Self::Iterator(iterator, _) => iterator,
            Self::Done => return,
        };
        guarding::release(py, [gone]);
    }

    /// Up to `n` items, as far as they come; the error that the source raised after them.
    #[inline]
    pub fn gather(&mut self, py: Python<'_>, n: usize, into: &mut Vec<Py<PyAny>>) -> Result<(), PyErr> {
        if let Self::Iterator(iterator, next) = self {
            // The loop that the time goes into: nothing but the call and a store.
            let ended = hanging(*next, |next| {
                while into.len() < n {
                    into.reserve((n - into.len()).min(STRIDE));
                    let most = n - into.len();
                    let mut count = 0;
                    let mut ended = false;
                    for place in into.spare_capacity_mut().iter_mut().take(most) {
                        // SAFETY: the iterator is alive, and this is its own type's function.
                        let item = unsafe { next(iterator.as_ptr()) };
                        // SAFETY: a new reference, or null.
                        let Some(item) = (unsafe { Bound::from_owned_ptr_or_opt(py, item) }) else {
                            ended = true;
                            break;
                        };
                        place.write(item.unbind());
                        count += 1;
                    }
                    let length = into.len() + count;
                    // SAFETY: so many places have just been written to.
                    unsafe { into.set_len(length) };
                    if ended {
                        return true;
                    }
                }
                false
            });
            if ended {
                end_or_error(py)?;
                self.end(py);
            }
            return Ok(());
        }
        while into.len() < n {
            match self.next(py) {
                Ok(Some(item)) => into.push(item.unbind()),
                Ok(None) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A tuple or a list of the next `n` items of an iterator. Where there are fewer, because it ends or fails, they are in
    /// `into`. `None` where the source is a list or a tuple, or `n` is more than anyone should make room for on a promise.
    #[inline]
    pub fn batch<'py>(
        &mut self,
        py: Python<'py>,
        n: usize,
        tuple: bool,
        into: &mut Vec<Py<PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Self::Iterator(iterator, next) = self else { return Ok(None) };
        if n > STRIDE {
            return Ok(None);
        }
        let (batch, places) = empty_places(py, n, tuple)?;
        // The items go where they stay. Nobody sees the places that are still empty, not even through the collector.
        // SAFETY: a container that the collector knows.
        unsafe { ffi::PyObject_GC_UnTrack(batch.as_ptr().cast()) };
        let count = hanging(*next, |next| {
            let mut count = 0;
            while count < n {
                // SAFETY: the iterator is alive, and this is its own type's function.
                let item = unsafe { next(iterator.as_ptr()) };
                if item.is_null() {
                    break;
                }
                // SAFETY: one of the `n` places.
                let place = unsafe { places.add(count) };
                // SAFETY: it is empty, and takes the reference.
                unsafe { place.write(item) };
                count += 1;
            }
            count
        });
        // SAFETY: the collector was told to forget it above.
        unsafe { ffi::PyObject_GC_Track(batch.as_ptr().cast()) };
        if count == n {
            return Ok(Some(batch));
        }
        into.reserve(count);
        for index in 0..count {
            // SAFETY: one of the places that have been written to.
            let place = unsafe { places.add(index) };
            // SAFETY: the place gives its reference up.
            let item = unsafe { place.replace(ptr::null_mut()) };
            // SAFETY: a reference of our own.
            into.push(unsafe { Bound::from_owned_ptr(py, item) }.unbind());
        }
        end_or_error(py)?;
        self.end(py);
        Ok(None)
    }

    /// Up to `n` items of a list or tuple in one piece; `None` where the source is no such thing.
    #[inline]
    pub fn slice<'py>(&mut self, py: Python<'py>, n: usize, tuple: bool) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (object, place) = match self {
            Self::List(list, place) => (list.bind(py).as_any(), place),
            Self::Tuple(tuple, place) => (tuple.bind(py).as_any(), place),
            Self::Iterator(..) | Self::Done => return Ok(None),
        };
        let start = *place;
        let stop = start.saturating_add(n).min(isize::MAX.cast_unsigned());
        let piece = match (object.cast_exact::<PyList>(), tuple) {
            (Ok(list), false) => list.get_slice(start, stop).into_any(),
            (Ok(list), true) => tuple_of_list(list, start, stop)?.into_any(),
            (Err(_), true) => {
                // SAFETY: a tuple, as was found out when the source was made.
                let items = unsafe { object.cast_unchecked::<PyTuple>() };
                items.get_slice(start, stop).into_any()
            }
            (Err(_), false) => {
                // SAFETY: as above.
                let items = unsafe { object.cast_unchecked::<PyTuple>() };
                items.get_slice(start, stop).to_list().into_any()
            }
        };
        *place = start + piece.len()?;
        Ok(Some(piece))
    }

    /// Shows what is held to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::List(list, _) => visit.call(list),
            Self::Tuple(tuple, _) => visit.call(tuple),
            Self::Iterator(iterator, _) => visit.call(iterator),
            Self::Done => Ok(()),
        }
    }
}

/// An item of a list, if there is one at this place.
#[inline]
fn list_item<'py>(list: &Bound<'py, PyList>, place: usize) -> Option<Bound<'py, PyAny>> {
    if place >= list.len() {
        return None;
    }
    #[cfg(not(Py_GIL_DISABLED))]
    {
        // SAFETY: the place lies within the list, and the interpreter lock keeps it so.
        let item = unsafe { ffi::PyList_GET_ITEM(list.as_ptr(), place.cast_signed()) };
        // SAFETY: the list holds a reference to its item.
        Some(unsafe { Bound::from_borrowed_ptr(list.py(), item) })
    }
    #[cfg(Py_GIL_DISABLED)]
    {
        // Another thread may have shortened the list meanwhile.
        list.get_item(place).ok()
    }
}

#[cfg(not(Py_GIL_DISABLED))]
fn tuple_of_list<'py>(list: &Bound<'py, PyList>, start: usize, stop: usize) -> PyResult<Bound<'py, PyTuple>> {
    let py = list.py();
    // A new tuple may let the collector run, and that anything: the length is looked at afterwards.
    let length = list.len().min(stop).saturating_sub(start);
    // SAFETY: the thread is attached.
    let tuple = unsafe { ffi::PyTuple_New(length.cast_signed()) };
    // SAFETY: a new reference, or null with an exception set.
    let tuple = unsafe { Bound::from_owned_ptr_or_err(py, tuple)? };
    if list.len() < start + length {
        // The tuple goes with its places empty, which is what a new one's are allowed to be.
        return Ok(list.get_slice(start, stop).to_tuple());
    }
    for index in 0..length {
        // SAFETY: the list is as long as was just checked, and no code runs in this loop.
        let item = unsafe { ffi::PyList_GET_ITEM(list.as_ptr(), (start + index).cast_signed()) };
        // SAFETY: the item is alive.
        unsafe { ffi::Py_INCREF(item) };
        // SAFETY: a new tuple of that many places, which takes the reference.
        unsafe { ffi::PyTuple_SET_ITEM(tuple.as_ptr(), index.cast_signed(), item) };
    }
    // SAFETY: just made as a tuple.
    Ok(unsafe { tuple.cast_into_unchecked() })
}

#[cfg(Py_GIL_DISABLED)]
fn tuple_of_list<'py>(list: &Bound<'py, PyList>, start: usize, stop: usize) -> PyResult<Bound<'py, PyTuple>> {
    Ok(list.get_slice(start, stop).to_tuple())
}

/// Tells the end of an iterator from its failure.
#[cold]
fn end_or_error(py: Python<'_>) -> PyResult<()> {
    // SAFETY: the thread is attached.
    if unsafe { ffi::PyErr_Occurred() }.is_null() {
        return Ok(());
    }
    let error = PyErr::fetch(py);
    if error.is_instance_of::<PyStopIteration>(py) {
        guarding::attached(py, |_| drop(error));
        return Ok(());
    }
    Err(error)
}

/// A list of the items, which it takes over; the vector keeps its room.
pub fn list_of<'py>(py: Python<'py>, items: &mut Vec<Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    container_of(py, items, false)
}

/// A tuple of the items, which it takes over; the vector keeps its room.
pub fn tuple_of<'py>(py: Python<'py>, items: &mut Vec<Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    container_of(py, items, true)
}

fn container_of<'py>(py: Python<'py>, items: &mut Vec<Py<PyAny>>, tuple: bool) -> PyResult<Bound<'py, PyAny>> {
    let (container, places) = empty_places(py, items.len(), tuple)?;
    if !items.is_empty() {
        // SAFETY: there are as many places as items.
        unsafe { moved(items, places) };
    }
    Ok(container)
}

/// A new tuple or list of `n` empty places, and where these are. The one empty tuple has none.
#[inline]
fn empty_places(py: Python<'_>, n: usize, tuple: bool) -> PyResult<(Bound<'_, PyAny>, *mut *mut ffi::PyObject)> {
    let size = n.cast_signed();
    let new = if tuple {
        // SAFETY: the thread is attached.
        unsafe { ffi::PyTuple_New(size) }
    } else {
        // SAFETY: the thread is attached.
        unsafe { ffi::PyList_New(size) }
    };
    // SAFETY: a new reference, or null with an exception set.
    let new = unsafe { Bound::from_owned_ptr_or_err(py, new)? };
    let places = if tuple {
        // SAFETY: a tuple, whose items lie in it; nothing is read.
        unsafe { (&raw mut (*new.as_ptr().cast::<ffi::PyTupleObject>()).ob_item).cast() }
    } else {
        // SAFETY: a new list, which nobody else knows.
        unsafe { (*new.as_ptr().cast::<ffi::PyListObject>()).ob_item }
    };
    Ok((new, places))
}

/// Moves the items, references and all; the vector keeps its room.
///
/// # Safety
///
/// `places` are as many as the items, and hold nothing.
unsafe fn moved(items: &mut Vec<Py<PyAny>>, places: *mut *mut ffi::PyObject) {
    let count = items.len();
    // SAFETY: the items are theirs from here on; a `Py` is a pointer, and nothing else.
    unsafe { items.set_len(0) };
    // SAFETY: said by the caller.
    unsafe { ptr::copy_nonoverlapping(items.as_ptr().cast(), places, count) };
}

/// Calls `function(argument)`, in a daemon thread even while the interpreter goes.
#[inline]
pub fn call_one<'py>(function: &Bound<'py, PyAny>, argument: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    guarding::assert_nothing_is_open("a call into Python");
    // The place in front is the callee's to use, which saves a bound method a copy.
    let arguments = [ptr::null_mut(), argument.as_ptr()];
    let nargsf = 1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    let vectorcall: Function = unwinding::PyObject_Vectorcall;
    let first = &raw const arguments[1];
    let result = hanging(vectorcall, |vectorcall| {
        // SAFETY: function and argument are alive, and there is a place in front of the one argument.
        unsafe { vectorcall(function.as_ptr(), first, nargsf, ptr::null_mut()) }
    });
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), result) }
}

/// An `int` of the built-in class itself that fits 64 bits.
#[inline]
#[must_use]
pub fn small_int(object: &Bound<'_, PyAny>) -> Option<i64> {
    // SAFETY: the object is alive.
    if unsafe { ffi::PyLong_CheckExact(object.as_ptr()) } == 0 {
        return None;
    }
    if let Some(value) = compact(object) {
        return Some(value);
    }
    let mut overflow = 0;
    // SAFETY: an `int`, for which this can't fail.
    let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(object.as_ptr(), &raw mut overflow) };
    (overflow == 0).then_some(value)
}

/// An `int`.
#[inline]
pub fn int_of(py: Python<'_>, value: i64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the thread is attached.
    let object = unsafe { ffi::PyLong_FromLongLong(value) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, object) }
}

/// The value of an `int` of one digit, read in place as `PyUnstable_Long_CompactValue` does where C code inlines it: a call
/// costs as much as what is done with the number. Only for the interpreters whose headers say so.
#[inline]
#[cfg(all(Py_3_12, not(Py_3_15), not(Py_GIL_DISABLED)))]
fn compact(object: &Bound<'_, PyAny>) -> Option<i64> {
    #[repr(C)]
    struct Digits {
        base: ffi::PyObject,
        /// The sign in the two lowest bits (0, 1 for zero, 2 for negative), the number of digits from the fourth on.
        tag: usize,
        first: u32,
    }
    let digits = object.as_ptr().cast::<Digits>();
    // SAFETY: an exact `int`, as the caller has made sure; all of them have a tag.
    let tag = unsafe { (*digits).tag };
    // SAFETY: all of them have room for one digit.
    let first = unsafe { (*digits).first };
    (tag < 16).then(|| (1 - (tag & 3).cast_signed() as i64) * i64::from(first))
}

#[inline]
#[cfg(not(all(Py_3_12, not(Py_3_15), not(Py_GIL_DISABLED))))]
const fn compact(_object: &Bound<'_, PyAny>) -> Option<i64> {
    None
}

/// A `float` of the built-in class itself.
#[inline]
#[must_use]
pub fn plain_float(object: &Bound<'_, PyAny>) -> Option<f64> {
    object.cast_exact::<PyFloat>().ok().map(PyFloatMethods::value)
}

/// Whether it is of the very classes `int`, `str`, `float` or `bool`, or `None`: what most items are that have none in them.
#[inline]
#[must_use]
pub fn is_plain_leaf(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_none()
        || object.is_exact_instance_of::<PyBool>()
}

/// Whether `iter` would take it: its class has `__iter__`, or is a sequence.
#[inline]
#[must_use]
pub fn is_iterable(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the object is alive.
    let class = unsafe { ffi::Py_TYPE(object.as_ptr()) };
    // SAFETY: an object keeps its class alive.
    let has_iter = unsafe { (*class).tp_iter }.is_some();
    // SAFETY: the object is alive.
    has_iter || unsafe { ffi::PySequence_Check(object.as_ptr()) } == 1
}

/// The text of a `str` that has one byte a character, borrowed for as long as the object lives.
#[must_use]
pub fn latin_text<'a>(text: &'a Bound<'_, PyString>) -> Option<&'a [u8]> {
    // SAFETY: the object is alive and, since Python 3.12 always and before that for all but relics, ready.
    let kind = unsafe { ffi::PyUnicode_KIND(text.as_ptr()) };
    if kind != ffi::PyUnicode_1BYTE_KIND {
        return None;
    }
    // SAFETY: the object is alive and has one byte a character.
    let data = unsafe { ffi::PyUnicode_DATA(text.as_ptr()) };
    // SAFETY: the object is alive.
    let length = unsafe { ffi::PyUnicode_GET_LENGTH(text.as_ptr()) };
    // SAFETY: a `str` never changes, and there are that many bytes.
    Some(unsafe { std::slice::from_raw_parts(data.cast(), length.cast_unsigned()) })
}

/// A `str` of ASCII characters, without another look at them.
#[inline]
pub fn ascii_text<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    debug_assert!(text.is_ascii());
    if text.len() < 2 {
        // The interpreter has one object for all of these.
        return decoded(py, text, c"strict");
    }
    // SAFETY: the thread is attached.
    let object = unsafe { ffi::PyUnicode_New(text.len().cast_signed(), 127) };
    // SAFETY: a new reference, or null with an exception set.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, object)? };
    // SAFETY: a new `str` of ASCII alone, whose characters come behind its head.
    let data = unsafe { object.as_ptr().cast::<ffi::PyASCIIObject>().add(1) };
    // SAFETY: there are that many bytes in both, and nobody else knows the new `str`.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr(), data.cast(), text.len()) };
    Ok(object)
}

/// A `str` decoded as UTF-8; `errors` as for `bytes.decode`, null-terminated.
pub fn decoded<'py>(py: Python<'py>, text: &[u8], errors: &std::ffi::CStr) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: that many bytes, and a string that ends with a null.
    let object = unsafe { ffi::PyUnicode_DecodeUTF8(text.as_ptr().cast(), text.len().cast_signed(), errors.as_ptr()) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, object) }
}

/// A file of our own on what is open under a descriptor.
pub fn duplicate(descriptor: i32) -> std::io::Result<std::fs::File> {
    use std::os::fd::BorrowedFd;

    // SAFETY: the caller keeps the descriptor open until this returns.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    borrowed.try_clone_to_owned().map(std::fs::File::from)
}

/// A class whose instances are iterators that the interpreter advances through a slot of ours.
pub trait Stepping: PyClass<Frozen = True> + Sync {
    /// The next item, or the end.
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>>;

    /// The next item, where it is had in a few instructions that call nobody and can't panic; `None`: `step` is to be asked.
    #[inline]
    #[must_use]
    fn at_once<'py>(_this: &Bound<'py, Self>) -> Option<PyResult<Bound<'py, PyAny>>> {
        None
    }
}

unsafe extern "C" fn step<T: Stepping>(iterator: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this, on a thread that is attached.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the caller holds a reference to the iterator for as long as the call lasts.
    let iterator = unsafe { Borrowed::from_ptr(py, iterator) };
    // SAFETY: only instances of `T` have this function in their class's slot.
    let this = unsafe { iterator.cast_unchecked::<T>() };
    match T::at_once(&this) {
        Some(Ok(item)) => item.into_ptr(),
        Some(Err(error)) => raise(error),
        None => slowly::<T>(&this),
    }
}

#[inline(never)]
fn slowly<T: Stepping>(this: &Bound<'_, T>) -> *mut ffi::PyObject {
    match catch_unwind(AssertUnwindSafe(|| T::step(this))) {
        Ok(Ok(Some(item))) => item.into_ptr(),
        Ok(Ok(None)) => ptr::null_mut(),
        Ok(Err(error)) => raise(error),
        Err(panic) => raise(panic_exception(panic.as_ref())),
    }
}

/// Puts our function into the slot of a class. Called once, before the class has instances or subclasses.
pub fn publish<T: Stepping>(py: Python<'_>) {
    let class = T::type_object_raw(py);
    // SAFETY: the module is being initialised: no other thread knows the class yet.
    unsafe { (*class).tp_iternext = Some(step::<T>) };
}

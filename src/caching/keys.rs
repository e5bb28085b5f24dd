//! What an entry is found by: compared in place, and only built when it is to be kept.

#![expect(clippy::inline_always, reason = "the quick way in is to be one function to the optimiser")]

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString, PyTuple};

use crate::callable::{Call, plain_equal};
use crate::guarding;

/// The key of an entry.
pub enum Key {
    /// One object by itself: a mapping's key, or a single `int` or `str` argument.
    One(Py<PyAny>),
    /// The pieces of a call.
    Many(Arc<[Py<PyAny>]>),
}

impl Key {
    /// Another reference to the same key.
    #[must_use]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::One(object) => Self::One(object.clone_ref(py)),
            Self::Many(pieces) => Self::Many(Arc::clone(pieces)),
        }
    }

    /// Whether it is the very same key, not an equal one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::One(one), Self::One(other)) => one.is(other),
            (Self::Many(one), Self::Many(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Lets the key go at once, on a thread that `PyO3` may not know to be attached.
    #[inline]
    pub fn release(self, py: Python<'_>) {
        match self {
            Self::One(object) => drop(object.into_bound(py)),
            many @ Self::Many(_) => guarding::attached(py, |_| drop(many)),
        }
    }

    /// The key as users see it: the object, or the pieces as a tuple.
    pub fn to_object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::One(object) => Ok(object.bind(py).clone()),
            Self::Many(pieces) => Ok(PyTuple::new(py, pieces.iter().map(|piece| piece.bind(py)))?.into_any()),
        }
    }

    /// The pieces; one, where it is one.
    #[must_use]
    pub fn pieces(&self) -> &[Py<PyAny>] {
        match self {
            Self::One(object) => std::slice::from_ref(object),
            Self::Many(pieces) => pieces,
        }
    }

    /// Where the weak reference of an instance may stand: first, or behind the function in a cache that several share.
    pub fn instance_places(&self) -> impl Iterator<Item = usize> {
        self.pieces().iter().take(2).map(|piece| piece.as_ptr().addr())
    }

    /// Whether the weak reference at this address stands in the place of an instance.
    #[must_use]
    pub fn names(&self, address: usize) -> bool {
        self.instance_places().any(|place| place == address)
    }

    /// Shows the key to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.pieces().iter().try_for_each(|piece| visit.call(piece))
    }
}

/// Pieces that a probe has room for without allocating.
const INLINE: usize = 6;

/// A key that is looked for, in pieces borrowed from the call.
pub struct Probe<'a, 'py> {
    hash: u64,
    one: bool,
    len: usize,
    inline: [Option<Borrowed<'a, 'py, PyAny>>; INLINE],
    more: Vec<Borrowed<'a, 'py, PyAny>>,
}

/// Adds a piece's hash to that of the pieces before it.
#[inline]
fn chain(before: u64, piece: isize) -> u64 {
    stir(before.rotate_left(23) ^ (piece.cast_unsigned() as u64).wrapping_add(0x5851_F42D_4C95_7F2D))
}

/// The hash of the probe for the positional arguments of a call, as they lie there.
#[inline(always)]
pub fn hash_of_positional<'py>(py: Python<'py>, call: Call<'_, 'py>) -> PyResult<u64> {
    let mut hash = 0;
    for index in 0..call.positional() {
        hash = chain(hash, call.argument(py, index).hash()?);
    }
    Ok(hash)
}

/// Whether a key is the positional arguments of a call, as far as can be said without running Python code.
#[inline(always)]
#[must_use]
pub fn is_positional<'py>(py: Python<'py>, call: Call<'_, 'py>, key: &Key) -> Answer {
    let Key::Many(pieces) = key else { return Answer::Different };
    if pieces.len() != call.positional() {
        return Answer::Different;
    }
    let mut answer = Answer::Same;
    for (index, piece) in pieces.iter().enumerate() {
        let argument = call.argument(py, index);
        if !piece.is(argument) {
            match compare(argument, piece.bind_borrowed(py)) {
                Answer::Same => {}
                Answer::Different => return Answer::Different,
                Answer::Ask => answer = Answer::Ask,
            }
        }
    }
    answer
}

/// The key for the positional arguments of a call, as they lie there.
#[must_use]
pub fn key_of_positional<'py>(py: Python<'py>, call: Call<'_, 'py>) -> Key {
    Key::Many((0..call.positional()).map(|index| call.argument(py, index).to_owned().unbind()).collect())
}

/// The hash of the probe for one object by itself.
#[inline]
pub fn hash_of_one(object: Borrowed<'_, '_, PyAny>) -> PyResult<u64> {
    Ok(stir(object.hash()?.cast_unsigned() as u64))
}

/// Whether a key is this one object, as far as can be said without running Python code.
#[inline(always)]
#[must_use]
pub fn is_one(py: Python<'_>, object: Borrowed<'_, '_, PyAny>, key: &Key) -> Answer {
    match key {
        Key::One(kept) if kept.is(object) => Answer::Same,
        Key::One(kept) => compare(object, kept.bind_borrowed(py)),
        Key::Many(_) => Answer::Different,
    }
}

/// What can be said of two keys without running Python code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// They are equal.
    Same,
    /// They are not.
    Different,
    /// Their own `==` has to be asked.
    Ask,
}

/// Stirs a hash, so that all its bits depend on all bits: Python's hash of a small integer is that integer.
#[inline]
fn stir(hash: u64) -> u64 {
    let wide = u128::from(hash) * u128::from(0x9E37_79B9_7F4A_7C15_u64);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves, folded")]
    let folded = (wide >> 64) as u64 ^ wide as u64;
    folded
}

/// Whether `==` on objects of this exact type runs no Python code.
#[inline]
fn is_plain(object: Borrowed<'_, '_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_none()
}

/// Whether a single argument is its own key: as `functools` has it, an exact `int` or `str`.
#[inline]
#[must_use]
pub fn is_its_own_key(object: Borrowed<'_, '_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyInt>() || object.is_exact_instance_of::<PyString>()
}

#[inline]
fn compare(one: Borrowed<'_, '_, PyAny>, other: Borrowed<'_, '_, PyAny>) -> Answer {
    if one.is(&*other) {
        Answer::Same
    } else if !is_plain(one) || !is_plain(other) {
        Answer::Ask
    } else if plain_equal(one, other) {
        Answer::Same
    } else {
        Answer::Different
    }
}

impl Default for Probe<'_, '_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a, 'py> Probe<'a, 'py> {
    /// The probe for one object by itself.
    #[inline]
    pub fn one(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let mut probe = Self::new();
        probe.set_one(object)?;
        Ok(probe)
    }

    /// A probe without pieces. It is filled where it lies, because it is large.
    #[inline]
    #[must_use]
    pub fn new() -> Self {
        Self { hash: 0, one: false, len: 0, inline: [None; INLINE], more: Vec::new() }
    }

    /// Makes it the probe for one object by itself.
    #[inline]
    pub fn set_one(&mut self, object: Borrowed<'a, 'py, PyAny>) -> PyResult<()> {
        self.hash = hash_of_one(object)?;
        self.one = true;
        self.len = 1;
        self.inline[0] = Some(object);
        Ok(())
    }

    /// Adds a piece, which is hashed: that may run Python code, and fail.
    #[inline]
    pub fn push(&mut self, piece: Borrowed<'a, 'py, PyAny>) -> PyResult<()> {
        let hash = piece.hash()?;
        self.push_hashed(piece, hash);
        Ok(())
    }

    /// Adds a piece that is the same only as itself.
    #[inline]
    pub fn push_identity(&mut self, piece: Borrowed<'a, 'py, PyAny>) {
        self.push_hashed(piece, (piece.as_ptr().addr() >> 4).cast_signed());
    }

    #[inline]
    fn push_hashed(&mut self, piece: Borrowed<'a, 'py, PyAny>, hash: isize) {
        self.hash = chain(self.hash, hash);
        if self.len < INLINE {
            self.inline[self.len] = Some(piece);
        } else {
            self.more.push(piece);
        }
        self.len += 1;
    }

    /// Makes it the probe for one object whose hash is known already.
    pub fn set_hashed_one(&mut self, object: Borrowed<'a, 'py, PyAny>, hash: u64) {
        self.hash = hash;
        self.one = true;
        self.len = 1;
        self.inline[0] = Some(object);
    }

    /// Makes it the probe for the positional arguments of a call, whose hash is known already.
    pub fn set_hashed_positional(&mut self, py: Python<'py>, call: Call<'a, 'py>, hash: u64) {
        for index in 0..call.positional() {
            self.push_hashed(call.argument(py, index), 0);
        }
        self.hash = hash;
    }

    /// The hash.
    #[inline]
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    fn pieces(&self) -> impl Iterator<Item = Borrowed<'a, 'py, PyAny>> + '_ {
        self.inline.iter().flatten().copied().chain(self.more.iter().copied())
    }

    /// Compares with a key as far as that runs no Python code.
    #[inline(always)]
    #[must_use]
    pub fn quick(&self, py: Python<'py>, key: &Key) -> Answer {
        match key {
            Key::One(object) => match self.inline[0] {
                Some(piece) if self.one => compare(piece, object.bind_borrowed(py)),
                _ => Answer::Different,
            },
            Key::Many(pieces) => {
                if self.one || self.len != pieces.len() {
                    return Answer::Different;
                }
                let mut answer = Answer::Same;
                let (inline, more) = pieces.split_at(self.len.min(INLINE));
                for (ours, theirs) in self.inline.iter().flatten().zip(inline) {
                    if !ours.is(theirs) {
                        match compare(*ours, theirs.bind_borrowed(py)) {
                            Answer::Same => {}
                            Answer::Different => return Answer::Different,
                            Answer::Ask => answer = Answer::Ask,
                        }
                    }
                }
                for (ours, theirs) in self.more.iter().zip(more) {
                    match compare(*ours, theirs.bind_borrowed(py)) {
                        Answer::Same => {}
                        Answer::Different => return Answer::Different,
                        Answer::Ask => answer = Answer::Ask,
                    }
                }
                answer
            }
        }
    }

    /// Compares with a key by the pieces' own `==`: runs Python code.
    pub fn ask(&self, py: Python<'py>, key: &Key) -> PyResult<bool> {
        for (ours, theirs) in self.pieces().zip(key.pieces()) {
            let theirs = theirs.bind(py);
            // As in dictionaries, what is kept stands on the left.
            if !ours.is(theirs) && !theirs.eq(ours)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The key to be kept.
    #[must_use]
    pub fn to_key(&self) -> Key {
        match self.inline[0] {
            Some(object) if self.one => Key::One(object.to_owned().unbind()),
            _ => Key::Many(self.pieces().map(|piece| piece.to_owned().unbind()).collect()),
        }
    }
}

//! The patterns room as Python sees it.

use std::sync::OnceLock;

use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyGenericAlias, PyString, PyTuple, PyType};

use super::folded::{Entry, Folded};
use super::making::Making;
use crate::callable::describing::{Getting, Home, change_metaclass};
use crate::callable::{Call, Failure, Native, Outcome, Wrapper};
use crate::errors::Error;
use crate::guarding::{self, Guarded, interned};
use crate::validating::fields::home_of;

/// The one instance of a class; kept in the class.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Shelved {
    /// The class's address: one that inherits this has no instance of its own yet.
    owner: usize,
    strict: bool,
    instance: OnceLock<Py<PyAny>>,
}

#[pymethods]
impl Shelved {
    #[new]
    #[pyo3(signature = (owner, strict, /))]
    fn new(owner: &Bound<'_, PyType>, strict: bool) -> Self {
        Self { owner: owner.as_ptr().addr(), strict, instance: OnceLock::new() }
    }

    /// Whether arguments are refused once the instance is there.
    #[getter]
    fn strict(&self) -> bool {
        self.strict
    }

    /// The instance, if it is there.
    #[getter]
    fn instance<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.instance.get().map(|instance| instance.bind(py).clone())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.instance.get() {
            Some(instance) => visit.call(instance),
            None => Ok(()),
        }
    }
}

/// `type.__call__` of classes that have one instance.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct SingletonCall {
    making: Making,
}

#[pymethods]
impl SingletonCall {
    #[new]
    #[pyo3(signature = (function, /))]
    fn new<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        Wrapper::wrap(function, Self { making: Making::default() })
    }
}

impl Native for SingletonCall {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        let py = this.py();
        if call.positional() == 0 {
            return Err(PyTypeError::new_err("__call__ of a singleton needs its class").into());
        }
        let class = call.argument(py, 0);
        let shelf = class.getattr(interned!(py, "__singleton__"))?;
        let shelf = shelf.cast::<Shelved>().map_err(PyErr::from)?.get();
        if let Some(instance) = shelf.instance.get()
            && shelf.owner == class.as_ptr().addr()
        {
            if shelf.strict && (call.positional() > 1 || call.keywords(py).is_some()) {
                return Err(refuse_arguments(&class));
            }
            return Ok(instance.bind(py).clone());
        }
        guarding::attached(py, |_| first_call(this, call, &class, shelf).map_err(Failure::from))
    }
}

#[cold]
fn refuse_arguments<'py>(class: &Bound<'py, PyAny>) -> Failure<'py> {
    guarding::attached(class.py(), |_| {
        let name = class.getattr("__qualname__").map_or_else(|_| "the class".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("{name} has its one instance; from now on {name}() takes no arguments")).into()
    })
}

#[cold]
fn first_call<'py>(
    this: &Bound<'py, SingletonCall>,
    call: Call<'_, 'py>,
    class: &Bound<'py, PyAny>,
    shelf: &Shelved,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    if shelf.owner != class.as_ptr().addr() {
        return Err(PyTypeError::new_err(format!(
            "{} was made around its metaclass, and can't be a singleton",
            class.repr()?
        )));
    }
    let function = this.as_super().get().function(py);
    let mine = std::cell::Cell::new(false);
    let look = || Ok(shelf.instance.get().map(|instance| instance.bind(py).clone()));
    let make = || {
        let instance = call.forward(function).map_err(|raised| raised.fetch(py))?;
        mine.set(true);
        Ok(shelf.instance.get_or_init(|| instance.unbind()).bind(py).clone())
    };
    let name = || class.repr().map_or_else(|_| "a singleton".to_owned(), |name| name.to_string());
    let instance = this.get().making.once(py, class.as_ptr().addr(), look, make, name)?;
    if !mine.get() && shelf.strict && (call.positional() > 1 || call.keywords(py).is_some()) {
        return Err(refuse_arguments(class).fetch(py));
    }
    Ok(instance)
}

/// Gives a class of the metaclass `type` another one; says whether that could be done.
#[pyfunction]
#[pyo3(name = "_change_metaclass", signature = (class, metaclass, /))]
#[must_use]
pub fn set_metaclass(class: &Bound<'_, PyType>, metaclass: &Bound<'_, PyType>) -> bool {
    change_metaclass(class, metaclass)
}

/// A property that is computed when it is first asked for; the native half of `ferrule.lazy_property`, which has the
/// `__dict__`: see `callable::uncollected`.
#[pyclass(subclass, weakref, frozen, immutable_type, module = "ferrule._core")]
pub struct LazyProperty {
    function: Py<PyAny>,
    place: OnceLock<(Py<PyString>, Home)>,
    making: Making,
}

#[pymethods]
impl LazyProperty {
    #[new]
    #[pyo3(signature = (function, /))]
    fn new(function: Bound<'_, PyAny>) -> PyResult<Self> {
        if !function.is_callable() {
            return Err(Error::wrong_type("function", "callable with the instance", &function).into());
        }
        Ok(Self { function: function.unbind(), place: OnceLock::new(), making: Making::default() })
    }

    /// The class with the type of its value, for annotations.
    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls.as_any(), item)
    }

    /// Tells the property where it belongs; the interpreter does, when it makes a class.
    #[pyo3(signature = (owner, name, /))]
    fn __set_name__(&self, owner: &Bound<'_, PyType>, name: &Bound<'_, PyString>) -> PyResult<()> {
        let py = owner.py();
        let name = PyString::intern(py, &name.to_string_lossy());
        let home = home_of(owner, &name)?;
        if let Some((known, there)) = self.place.get() {
            // Names are interned. In dictionaries, one name in several classes is as good as in one.
            if known.is(&name) && matches!((there, &home), (Home::Dict(_), Home::Dict(_))) {
                return Ok(());
            }
            let text = format!("this lazy property is {known} of another class; make one for {}.{name}", owner.name()?);
            return Err(PyTypeError::new_err(text));
        }
        let _ = self.place.set((name.unbind(), home));
        Ok(())
    }

    fn __get__<'py>(
        this: &Bound<'py, Self>,
        instance: Option<&Bound<'py, PyAny>>,
        owner: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = owner;
        let Some(instance) = instance else { return Ok(this.clone().into_any()) };
        Self::get(this, instance).map_err(|failure| failure.fetch(this.py()))
    }

    /// The function.
    #[getter]
    fn function(&self, py: Python<'_>) -> Py<PyAny> {
        self.function.clone_ref(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some((_, home)) = self.place.get() {
            visit.call(home.object())?;
        }
        visit.call(&self.function)
    }
}

impl LazyProperty {
    #[cold]
    fn compute<'py>(this: &Bound<'py, Self>, instance: &Bound<'py, PyAny>, home: &Home) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let lazy = this.get();
        let look = || home.get(instance).map_err(|raised| raised.fetch(py));
        let make = || {
            let value = guarding::call(lazy.function.bind(py), &[instance])?;
            home.set_default(instance, value).map_err(|raised| raised.fetch(py))
        };
        let name = || {
            let name = lazy.place.get().map_or_else(String::new, |(name, _)| name.to_string());
            let class = instance.get_type().name().map_or_else(|_| String::new(), |class| class.to_string());
            format!("{class}.{name}")
        };
        lazy.making.once(py, instance.as_ptr().addr(), look, make, name)
    }
}

impl Getting for LazyProperty {
    fn get<'py>(this: &Bound<'py, Self>, instance: &Bound<'py, PyAny>) -> Outcome<'py> {
        let Some((_, home)) = this.get().place.get() else {
            let text = "this lazy property has no name: put it in the body of a class, or call its __set_name__";
            return Err(PyTypeError::new_err(text).into());
        };
        if let Some(value) = home.get(instance)? {
            return Ok(value);
        }
        guarding::attached(instance.py(), |_| Self::compute(this, instance, home).map_err(Failure::from))
    }
}

/// What a key is looked up by: its case-folded text.
enum Form {
    Short([u8; Form::SHORT], usize),
    Long(Vec<u8>),
}

impl Form {
    const SHORT: usize = 48;

    #[inline]
    fn of(key: &Bound<'_, PyString>) -> PyResult<Self> {
        if let Ok(text) = key.to_str()
            && text.is_ascii()
        {
            let bytes = text.as_bytes();
            if bytes.len() <= Self::SHORT {
                let mut short = [0; Self::SHORT];
                short[..bytes.len()].copy_from_slice(bytes);
                short[..bytes.len()].make_ascii_lowercase();
                return Ok(Self::Short(short, bytes.len()));
            }
            return Ok(Self::Long(bytes.to_ascii_lowercase()));
        }
        Self::of_any(key)
    }

    /// Of text in any script: by the interpreter's own tables.
    #[cold]
    fn of_any(key: &Bound<'_, PyString>) -> PyResult<Self> {
        let py = key.py();
        guarding::attached(py, |_| {
            let fold = py.get_type::<PyString>().getattr(interned!(py, "casefold"))?;
            let folded = guarding::call(&fold, &[key])?.cast_into::<PyString>()?;
            if let Ok(text) = folded.to_str() {
                return Ok(Self::Long(text.as_bytes().to_vec()));
            }
            // File names may hold what isn't text.
            let bytes = folded.call_method1(interned!(py, "encode"), ("utf-8", "surrogatepass"))?;
            Ok(Self::Long(bytes.extract()?))
        })
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes, length) => &bytes[..*length],
            Self::Long(bytes) => bytes,
        }
    }
}

/// How many spellings a dictionary knows by sight.
const KNOWN: usize = 64;
/// In how many places one of them may be.
const WAYS: usize = 4;

/// A spelling that was looked up not long ago, and where its entry lies.
struct Sight {
    key: Py<PyString>,
    epoch: u64,
    place: u32,
}

/// The entries, and the spellings that were looked up last: most keys are constants of the program's text, the very same
/// object each time, and need not be folded again.
#[derive(Default)]
struct State {
    map: Folded<Py<PyString>, Py<PyAny>>,
    /// By address; made when something is looked up.
    known: Vec<Option<Sight>>,
}

impl State {
    /// Where the entry of this very object lies.
    #[inline]
    fn sight(&self, key: &Bound<'_, PyString>) -> Option<u32> {
        if self.known.is_empty() {
            return None;
        }
        let mut seen = self.known[Self::slots(key)].iter().flatten();
        seen.find(|sight| sight.key.is(key) && sight.epoch == self.map.epoch()).map(|sight| sight.place)
    }

    /// The places where a key may be.
    #[inline]
    fn slots(key: &Bound<'_, PyString>) -> std::ops::Range<usize> {
        // Knuth's multiplicative hash: the product's highest bits depend on all of the address.
        let product = (key.as_ptr().addr() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let first = usize::from((product >> 56) as u8) % (KNOWN / WAYS) * WAYS;
        first..first + WAYS
    }

    /// Notes where the entry of this key lies; gives out the key that was known in its place.
    fn note(&mut self, key: &Bound<'_, PyString>, form: &Form) -> Option<Py<PyString>> {
        // What isn't a plain string may be of any size, and may run code when it goes.
        if !key.is_exact_instance_of::<PyString>() || form.bytes().len() > Form::SHORT {
            return None;
        }
        let place = self.map.place_of(form.bytes())?;
        if self.known.is_empty() {
            self.known.resize_with(KNOWN, || None);
        }
        let epoch = self.map.epoch();
        let mut slots = Self::slots(key);
        let first = slots.start;
        // The same key again, a free place, or one that has lost its meaning; else whoever was there first.
        let usable = |sight: &Option<Sight>| sight.as_ref().is_none_or(|it| it.epoch != epoch || it.key.is(key));
        let slot = slots.find(|slot| usable(&self.known[*slot])).unwrap_or(first);
        self.known[slot].replace(Sight { key: key.clone().unbind(), epoch, place }).map(|sight| sight.key)
    }
}

/// A mapping whose keys are the same in all spellings; the native half of `ferrule.CaseInsensitiveDict`.
#[pyclass(subclass, frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct CaseInsensitiveDict {
    state: Guarded<State>,
}

impl CaseInsensitiveDict {
    #[inline]
    fn find<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = key.py();
        // What is no string is no key.
        let Ok(key) = key.cast::<PyString>() else { return Ok(None) };
        let seen = self.state.peek(py, |state| {
            let place = state.sight(key)?;
            state.map.at(place).map(|entry| entry.value.bind(py).clone())
        });
        if seen.is_some() { Ok(seen) } else { self.search(key) }
    }

    /// As `find`, of a spelling that isn't known by sight.
    fn search<'py>(&self, key: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = key.py();
        let form = Form::of(key)?;
        let (found, gone) = self.state.peek(py, |state| {
            let found = state.map.get(form.bytes()).map(|entry| entry.value.bind(py).clone());
            let gone = if found.is_some() { state.note(key, &form) } else { None };
            (found, gone)
        });
        guarding::release(py, gone.map(Py::into_any));
        Ok(found)
    }

    fn take(&self, key: &Bound<'_, PyAny>) -> PyResult<Option<Entry<Py<PyString>, Py<PyAny>>>> {
        let py = key.py();
        let Ok(key) = key.cast::<PyString>() else { return Ok(None) };
        let form = Form::of(key)?;
        Ok(self.state.peek(py, |state| state.map.remove(form.bytes())))
    }
}

fn missing(key: &Bound<'_, PyAny>) -> PyErr {
    PyKeyError::new_err((key.clone().unbind(),))
}

fn as_key<'a, 'py>(key: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyString>> {
    key.cast::<PyString>().map_err(|_| Error::wrong_type("key", "a string", key).into())
}

#[pymethods]
impl CaseInsensitiveDict {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        let _ = (args, kwargs);
        Self { state: Guarded::default() }
    }

    /// The class with the type of its values, for annotations and for bases.
    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls.as_any(), item)
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.find(key)?.ok_or_else(|| missing(key))
    }

    fn __setitem__(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = key.py();
        let key = as_key(key)?;
        let seen = self.state.peek(py, |state| {
            let entry = state.sight(key).and_then(|place| state.map.at(place))?;
            Some(std::mem::replace(&mut entry.value, value.clone().unbind()))
        });
        if let Some(old) = seen {
            guarding::release(py, [old]);
            return Ok(());
        }
        let form = Form::of(key)?;
        let (old, gone) = self.state.peek(py, |state| {
            let old = state.map.insert(form.bytes(), || key.clone().unbind(), value.clone().unbind());
            (old, state.note(key, &form))
        });
        guarding::release(py, old.into_iter().chain(gone.map(Py::into_any)));
        Ok(())
    }

    fn __delitem__(&self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        let entry = self.take(key)?.ok_or_else(|| missing(key))?;
        guarding::release(key.py(), [entry.spelling.into_any(), entry.value]);
        Ok(())
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(key) = key.cast::<PyString>() else { return Ok(false) };
        let form = Form::of(key)?;
        Ok(self.state.peek(key.py(), |state| state.map.get(form.bytes()).is_some()))
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.state.peek(py, |state| state.map.len())
    }

    fn __iter__(this: &Bound<'_, Self>) -> Spellings {
        Spellings::new(this, false)
    }

    fn __reversed__(this: &Bound<'_, Self>) -> Spellings {
        Spellings::new(this, true)
    }

    /// The value for `key`, or `default`.
    #[pyo3(signature = (key, default=None, /))]
    fn get<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.find(key)?.or(default))
    }

    /// The value for `key`, which gets `default` if it has none.
    #[pyo3(signature = (key, default=None, /))]
    fn setdefault<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let key = as_key(key)?;
        let form = Form::of(key)?;
        let default = default.unwrap_or_else(|| py.None().into_bound(py));
        Ok(self.state.peek(py, |state| {
            if let Some(entry) = state.map.get(form.bytes()) {
                return entry.value.bind(py).clone();
            }
            state.map.insert(form.bytes(), || key.clone().unbind(), default.clone().unbind());
            default
        }))
    }

    /// Takes the value for `key` out.
    #[pyo3(signature = (key, /, *default))]
    fn pop<'py>(&self, key: &Bound<'py, PyAny>, default: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let py = key.py();
        if default.len() > 1 {
            let text = format!("pop takes a key and at most one default, not {} of them", default.len());
            return Err(PyTypeError::new_err(text));
        }
        match self.take(key)? {
            Some(entry) => {
                guarding::release(py, [entry.spelling.into_any()]);
                Ok(entry.value.into_bound(py))
            }
            None => default.get_item(0).map_err(|_| missing(key)),
        }
    }

    /// Takes out the entry that came last.
    fn popitem<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyString>, Bound<'py, PyAny>)> {
        let entry = self.state.peek(py, |state| state.map.pop());
        let entry = entry.ok_or_else(|| PyKeyError::new_err("the dictionary is empty"))?;
        Ok((entry.spelling.into_bound(py), entry.value.into_bound(py)))
    }

    /// Takes everything out.
    fn clear(&self, py: Python<'_>) {
        let (entries, known) = self.state.peek(py, |state| (state.map.drain(), std::mem::take(&mut state.known)));
        guarding::release(py, known.into_iter().flatten().map(|sight| sight.key.into_any()));
        guarding::release(py, entries.into_iter().flat_map(|entry| [entry.spelling.into_any(), entry.value]));
    }

    /// The key as it was spelled when it came.
    #[pyo3(signature = (key, /))]
    fn spelling<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
        let py = key.py();
        let found = match key.cast::<PyString>() {
            Ok(key) => {
                let form = Form::of(key)?;
                self.state.peek(py, |state| state.map.get(form.bytes()).map(|entry| entry.spelling.bind(py).clone()))
            }
            Err(_) => None,
        };
        found.ok_or_else(|| missing(key))
    }

    /// Keys and values in order: for copies, comparisons and pickles.
    fn _entries<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyString>, Bound<'py, PyAny>)> {
        self.state.peek(py, |state| {
            let pairs = state.map.iter().map(|entry| (entry.spelling.bind(py).clone(), entry.value.bind(py).clone()));
            pairs.collect()
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| state.map.iter().try_for_each(|entry| visit.call(&entry.value)))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.clear(py);
    }
}

/// The keys of a `CaseInsensitiveDict`; they say so when they are no longer.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Spellings {
    dict: Py<CaseInsensitiveDict>,
    version: u64,
    left: Guarded<Vec<Py<PyString>>>,
}

impl Spellings {
    fn new(dict: &Bound<'_, CaseInsensitiveDict>, reversed: bool) -> Self {
        let py = dict.py();
        let (version, mut keys) = dict.get().state.peek(py, |state| {
            (state.map.version(), state.map.iter().map(|entry| entry.spelling.clone_ref(py)).collect::<Vec<_>>())
        });
        if !reversed {
            keys.reverse();
        }
        Self { dict: dict.clone().unbind(), version, left: Guarded::new(keys) }
    }
}

#[pymethods]
impl Spellings {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyString>>> {
        let next = self.left.peek(py, Vec::pop);
        if next.is_some() && self.dict.get().state.peek(py, |state| state.map.version()) != self.version {
            self.left.with(py, |keys, dead| dead.extend(keys.drain(..).map(Py::into_any)));
            return Err(PyRuntimeError::new_err("the dictionary changed during iteration"));
        }
        Ok(next)
    }

    fn __length_hint__(&self, py: Python<'_>) -> usize {
        self.left.peek(py, |keys| keys.len())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.dict)
    }
}

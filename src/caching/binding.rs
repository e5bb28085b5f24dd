//! The caching room as Python sees it.

use std::sync::Arc;

use pyo3::exceptions::{PyException, PyKeyError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyGenericAlias, PyTuple, PyType, PyWeakrefMethods, PyWeakrefReference};

use super::keys::{Key, Probe, hash_of_one, hash_of_positional, is_one, is_positional, key_of_positional};
use super::plan::{Company, Plan, Signature};
use super::shelf::Policy;
use super::store::{Cause, Entered, Followed, Found, Lead, Settings, Store, Ttl};
use crate::callable::{Call, Failure, Native, Outcome, Packed, Wrapper};
use crate::clock::binding::{nanoseconds, optional_nanoseconds};
use crate::errors::{Error, optional_callable};
use crate::flights::{Landing, Who, forget_home, forget_wait, note_home, note_wait};
use crate::guarding::{self, Guarded};
use crate::waiting::Ticket;

/// A bounded mapping; the native half of `ferrule.Cache`.
#[pyclass(subclass, frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Cache {
    store: Store,
    policy: Policy,
}

/// The limit of a cache: entries or weight, `None` for none.
fn limit(maxsize: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    const EXPECTED: &str = "an integer that is not negative, or None";
    let Some(maxsize) = maxsize else { return Ok(None) };
    if maxsize.is_instance_of::<pyo3::types::PyBool>() {
        return Err(Error::wrong_type("maxsize", EXPECTED, maxsize).into());
    }
    match maxsize.extract::<u64>() {
        Ok(limit) => Ok(Some(limit)),
        Err(_) if maxsize.is_instance_of::<pyo3::types::PyInt>() => {
            Err(Error::wrong_value("maxsize", EXPECTED, maxsize).into())
        }
        Err(_) => Err(Error::wrong_type("maxsize", EXPECTED, maxsize).into()),
    }
}

#[pymethods]
impl Cache {
    #[new]
    #[pyo3(signature = (maxsize, ttl, stale, policy, weigher, on_evict, weak_values, timer))]
    #[expect(clippy::too_many_arguments, reason = "a table row of the design each; the face names them")]
    fn new(
        maxsize: Option<&Bound<'_, PyAny>>,
        ttl: Option<&Bound<'_, PyAny>>,
        stale: Option<&Bound<'_, PyAny>>,
        policy: &str,
        weigher: Option<Bound<'_, PyAny>>,
        on_evict: Option<Bound<'_, PyAny>>,
        weak_values: bool,
        timer: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let policy = match policy {
            "lru" => Policy::Lru,
            "fifo" => Policy::Fifo,
            "lfu" => Policy::Lfu,
            "s3fifo" => Policy::S3Fifo,
            other => {
                let expected = "one of 'lru', 'lfu', 'fifo', 's3fifo'";
                return Err(Error::Value { name: "policy".to_owned(), expected, got: format!("{other:?}") }.into());
            }
        };
        let settings = Settings {
            maxsize: limit(maxsize)?,
            ttl: optional_nanoseconds("ttl", ttl)?,
            stale: optional_nanoseconds("stale", stale)?.unwrap_or(0),
            timer: optional_callable("timer", "callable", timer)?,
            weigher: optional_callable("weigher", "callable", weigher)?,
            on_evict: optional_callable("on_evict", "callable", on_evict)?,
            weak_values,
        };
        Ok(Self { store: Store::new(policy, settings), policy })
    }

    /// The class with the types of its keys and values, for annotations and for bases.
    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls.as_any(), item)
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.value(key)?.ok_or_else(|| PyKeyError::new_err((key.clone().unbind(),)))
    }

    fn __setitem__<'py>(&self, key: &Bound<'py, PyAny>, value: &Bound<'py, PyAny>) -> PyResult<()> {
        self.keep(key, value)
    }

    fn __delitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<()> {
        let taken = self.store.take(py, &Probe::one(key.as_borrowed())?, Cause::Invalidated)?;
        taken.filter(is_value).map(drop).ok_or_else(|| PyKeyError::new_err((key.clone().unbind(),)))
    }

    fn __contains__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<bool> {
        Ok(self.store.peek(py, &Probe::one(key.as_borrowed())?)?.is_some())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.store.count(py)
    }

    fn __iter__(this: &Bound<'_, Self>) -> PyResult<Keys> {
        let py = this.py();
        // First, so that no change can come in between unseen.
        let version = this.get().store.measure(py).2;
        let keys = this.get().store.contents(py)?.into_iter().map(|(key, _)| Ok(key.to_object(py)?.unbind()));
        let mut keys = keys.collect::<PyResult<Vec<_>>>()?;
        keys.reverse();
        Ok(Keys { cache: this.clone().unbind(), version, left: Guarded::new(keys) })
    }

    /// The value for `key`, or `default`; counts as a use.
    #[pyo3(signature = (key, default=None, /))]
    fn get<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.value(key)?.or(default))
    }

    /// Keeps a value; for `ttl` seconds, where given, instead of the cache's own time to live.
    #[pyo3(signature = (key, value, ttl=None))]
    fn set<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        match ttl {
            Some(ttl) => {
                let ttl = Ttl::Own(nanoseconds("ttl", ttl)?);
                self.store.set(py, &Probe::one(key.as_borrowed())?, value, ttl)
            }
            None => self.keep(key, value),
        }
    }

    /// The value for `key`, without counting as a use; or `default`.
    #[pyo3(signature = (key, default=None, /))]
    fn peek<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.store.peek(py, &Probe::one(key.as_borrowed())?)?.or(default))
    }

    /// Takes the value for `key` out.
    #[pyo3(signature = (key, /, *default))]
    fn pop<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if default.len() > 1 {
            let text = format!("pop takes a key and at most one default, not {} of them", default.len());
            return Err(pyo3::exceptions::PyTypeError::new_err(text));
        }
        match self.store.take(py, &Probe::one(key.as_borrowed())?, Cause::Invalidated)? {
            Some(Found::Value(value)) => Ok(value),
            _ => default.get_item(0).map_err(|_| PyKeyError::new_err((key.clone().unbind(),))),
        }
    }

    /// Takes the entry out that would be evicted next.
    fn popitem<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        match self.store.pop(py)? {
            Some((key, value)) => Ok((key.to_object(py)?, value)),
            None => Err(PyKeyError::new_err("the cache is empty")),
        }
    }

    /// Takes everything out.
    fn clear(&self, py: Python<'_>) {
        self.store.clear(py);
    }

    /// Takes out what is past its time, and values that were held weakly and have gone; returns how many.
    fn expire(&self, py: Python<'_>) -> PyResult<usize> {
        self.store.expire(py)
    }

    /// The value for `key`; computed by `factory()` where there is none, once, however many ask at the same time.
    #[pyo3(signature = (key, factory, /))]
    fn get_or_set<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        factory: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let probe = Probe::one(key.as_borrowed())?;
        fly(py, &self.store, &probe, |_| Ok(()), |_| Ok(None), || guarding::call(factory, &[]))
    }

    /// Hits, misses, evictions, expirations, entries, weight, bytes: the raw figures of `stats()`.
    fn figures(&self, py: Python<'_>) -> (u64, u64, u64, u64, usize, u64, usize) {
        let (evictions, expirations) = self.store.losses();
        let (entries, weight, _, bytes) = self.store.measure(py);
        (self.store.hits(py), self.store.misses.get(), evictions, expirations, entries, weight, bytes)
    }

    /// The limit, or `None`.
    #[getter]
    fn maxsize(&self) -> Option<u64> {
        self.store.settings.maxsize
    }

    /// The name of the policy.
    #[getter]
    fn policy(&self) -> &'static str {
        match self.policy {
            Policy::Lru => "lru",
            Policy::Fifo => "fifo",
            Policy::Lfu => "lfu",
            Policy::S3Fifo => "s3fifo",
        }
    }

    /// The entries that are good now, the next to go first: for pickling.
    fn entries<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let contents = self.store.contents(py)?.into_iter();
        contents.map(|(key, value)| Ok((key.to_object(py)?, value))).collect()
    }

    fn __sizeof__(&self, py: Python<'_>) -> usize {
        size_of::<Self>() + self.store.measure(py).3
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.store.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self.store.let_go(py);
    }
}

impl Cache {
    /// The value for a key, stale ones included; counts as a use.
    #[inline]
    fn value<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = key.py();
        let one = key.as_borrowed();
        let hash = hash_of_one(one)?;
        let found = self.store.enter_uncounted(py, hash, self.store.now(py)?, |kept| is_one(py, one, kept));
        if found.is_some() {
            return Ok(found);
        }
        let mut probe = Probe::new();
        probe.set_hashed_one(one, hash);
        match self.store.get(py, &probe)? {
            Some(Found::Value(value) | Found::Stale(value, _)) => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// Keeps a value for a key.
    #[inline]
    fn keep<'py>(&self, key: &Bound<'py, PyAny>, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = key.py();
        let one = key.as_borrowed();
        let hash = hash_of_one(one)?;
        let to_key = || Key::One(one.to_owned().unbind());
        if self.store.is_plain() && self.store.set_plainly(py, hash, value, |kept| is_one(py, one, kept), to_key)? {
            return Ok(());
        }
        let mut probe = Probe::new();
        probe.set_hashed_one(one, hash);
        self.store.set(py, &probe, value, Ttl::Usual)
    }
}

fn is_value(found: &Found<'_>) -> bool {
    matches!(found, Found::Value(_))
}

/// The keys of a cache, as they were when the iteration began; it says so when they are no longer.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Keys {
    cache: Py<Cache>,
    version: u64,
    left: Guarded<Vec<Py<PyAny>>>,
}

#[pymethods]
impl Keys {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let next = self.left.with(py, |keys, _| keys.pop());
        if next.is_some() && self.cache.get().store.measure(py).2 != self.version {
            self.left.with(py, |keys, dead| dead.append(keys));
            return Err(PyRuntimeError::new_err("the cache changed during iteration"));
        }
        Ok(next)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.cache)?;
        self.left.traverse(|keys| keys.iter().try_for_each(|key| visit.call(key)))
    }
}

/// Gives a flight up that ends in no other way: by a panic.
struct Leading<'a, 'py> {
    py: Python<'py>,
    store: &'a Store,
    lead: Lead,
    landed: bool,
}

impl Drop for Leading<'_, '_> {
    fn drop(&mut self) {
        if !self.landed {
            self.store.abandon(self.py, self.lead);
        }
    }
}

/// Leads a flight: computes, and lands it with what comes out.
fn lead<'py>(
    py: Python<'py>,
    store: &Store,
    lead: Lead,
    keeps: impl FnOnce(&PyErr) -> PyResult<Option<u64>>,
    compute: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut leading = Leading { py, store, lead, landed: false };
    let result = compute();
    match result {
        Ok(value) => {
            // Where that fails, because a timer raises, the flight is given up.
            store.land(py, lead, &value)?;
            leading.landed = true;
            Ok(value)
        }
        Err(error) if error.is_instance_of::<PyException>(py) => {
            let keep = keeps(&error)?;
            store.crash(py, lead, error.value(py).as_any(), keep)?;
            leading.landed = true;
            Err(error)
        }
        // Ctrl-C and its like are for this thread alone.
        Err(interrupt) => Err(interrupt),
    }
}

/// An exception that was kept, to be raised once more: from here, or its traceback would get longer every time.
fn once_more(error: Bound<'_, PyAny>) -> PyErr {
    let py = error.py();
    let error = PyErr::from_value(error);
    error.set_traceback(py, None);
    error
}

/// Looks up, leads, or follows, until there is a value or an exception.
fn fly<'py>(
    py: Python<'py>,
    store: &Store,
    probe: &Probe<'_, 'py>,
    on_lead: impl Fn(Lead) -> PyResult<()>,
    keeps: impl Fn(&PyErr) -> PyResult<Option<u64>>,
    compute: impl Fn() -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    loop {
        match store.look_up(py, probe, Who::here())? {
            Found::Value(value) | Found::Stale(value, _) => return Ok(value),
            Found::Error(error) => return Err(once_more(error)),
            Found::Lead(flight) => {
                on_lead(flight)?;
                return lead(py, store, flight, keeps, compute);
            }
            Found::Follow(flight, leader) => match store.follow(py, flight, leader)? {
                Followed::Value(value) => return Ok(value.into_bound(py)),
                Followed::Error(error) => return Err(PyErr::from_value(error.into_bound(py))),
                Followed::Lead(flight) => return lead(py, store, flight, keeps, compute),
                Followed::Circle => {
                    store.misses.increment(py);
                    return compute();
                }
                Followed::Again => {}
            },
        }
    }
}

/// What the face found out about a function's parameters; see [`Signature::new`].
type Parameters = (Vec<(Py<PyAny>, Option<(Py<PyAny>,)>, bool)>, usize, usize, bool, bool);

/// How one function is cached: what the wrappers of plain and of coroutine functions share.
pub struct Caching {
    cache: Py<Cache>,
    plan: Plan,
    key: Option<Py<PyAny>>,
    /// The function, in the keys of a cache that several share.
    marker: Option<Py<PyAny>>,
    method: bool,
    /// Whether a call's key is made of its arguments alone.
    simple: bool,
    single_flight: bool,
    errors: Vec<(Py<PyAny>, Option<u64>)>,
    /// Called with this wrapper and the arguments, where an entry is stale.
    refresher: Option<Py<PyAny>>,
    /// What the decorator was told, for `cache_parameters`.
    parameters: Py<PyDict>,
}

impl Caching {
    #[expect(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "the face hands them over, checked and complete"
    )]
    fn new(
        function: &Bound<'_, PyAny>,
        cache: Py<Cache>,
        signature: Option<Parameters>,
        typed: bool,
        key: Option<Py<PyAny>>,
        shared: bool,
        method: bool,
        single_flight: bool,
        errors: Vec<(Py<PyAny>, Option<u64>)>,
        refresher: Option<Py<PyAny>>,
        parameters: Py<PyDict>,
    ) -> Self {
        let plan = match signature {
            None => Plan::Spelled { typed },
            Some((parameters, positional_only, positional, rest, keywords)) => Plan::Bound {
                signature: Signature::new(parameters, positional_only, positional, rest, keywords),
                typed,
            },
        };
        let marker = shared.then(|| function.clone().unbind());
        let simple = key.is_none() && marker.is_none() && !method;
        Self { cache, plan, key, marker, method, simple, single_flight, errors, refresher, parameters }
    }

    fn store(&self) -> &Store {
        &self.cache.get().store
    }

    /// How long an error is kept.
    fn keeps(&self, py: Python<'_>, error: &PyErr) -> PyResult<Option<u64>> {
        for (class, keep) in &self.errors {
            if error.value(py).is_instance(class.bind(py))? {
                return Ok(Some(keep.unwrap_or(u64::MAX)));
            }
        }
        Ok(None)
    }

    /// Does something with the probe of a call; without one where the function can't be called like that.
    #[inline]
    fn with_probe<'py, R>(
        &self,
        py: Python<'py>,
        call: Call<'_, 'py>,
        body: impl FnOnce(Option<&Probe<'_, 'py>>, Option<&Bound<'py, PyAny>>) -> R,
    ) -> PyResult<R> {
        if let Some(key) = &self.key {
            let key = call.forward(key.bind(py)).map_err(|raised| raised.fetch(py))?;
            let mut probe = Probe::new();
            match &self.marker {
                Some(marker) => {
                    probe.push_identity(marker.bind_borrowed(py));
                    probe.push(key.as_borrowed())?;
                }
                None => probe.set_one(key.as_borrowed())?,
            }
            return Ok(body(Some(&probe), None));
        }
        let mut company = Company { function: self.marker.as_ref().map(|marker| marker.bind(py)), instance: None };
        let reference = if self.method && call.positional() > 0 { weak_reference(call.argument(py, 0)) } else { None };
        company.instance = reference.as_ref();
        let mut probe = Probe::new();
        let fits = self.plan.fill(py, &mut probe, call, company)?;
        Ok(body(fits.then_some(&probe), reference.as_ref()))
    }

    /// Has an entry go with the instance that it is for.
    fn adopt(&self, py: Python<'_>, number: u32, reference: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let Some(reference) = reference else { return Ok(()) };
        self.store().adopt(py, number, reference, || {
            let Some(instance) = reference.cast::<PyWeakrefReference>()?.upgrade() else { return Ok(py.None()) };
            let address = reference.as_ptr().addr();
            let cache = PyWeakrefReference::new(self.cache.bind(py))?.unbind();
            let on_death = PyCFunction::new_closure(py, None, None, move |args, _| {
                let py = args.py();
                if let Some(cache) = cache.bind(py).upgrade()
                    && let Ok(cache) = cache.cast::<Cache>()
                {
                    cache.get().store.drop_instance(py, address);
                }
            })?;
            Ok(PyWeakrefReference::new_with(&instance, on_death)?.into_any().unbind())
        })
    }

    /// Has a flight's entry go with the instance that it is for; where that can't be arranged, the flight is given up.
    fn take_off(&self, py: Python<'_>, flight: Lead, reference: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let outcome = self.adopt(py, flight.number, reference);
        if outcome.is_err() {
            self.store().abandon(py, flight);
        }
        outcome
    }

    /// The value of a call, if it is there and good. Not counted as a miss: that is somebody else's, who sets out to
    /// compute it.
    #[inline]
    fn look<'py>(&self, py: Python<'py>, call: Call<'_, 'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let store = self.store();
        if self.simple {
            if let Some(argument) = self.plan.own_key(py, call) {
                let hash = hash_of_one(argument)?;
                return Ok(store.enter_uncounted(py, hash, store.now(py)?, |key| is_one(py, argument, key)));
            }
            if self.plan.is_laid_out(py, call) {
                let hash = hash_of_positional(py, call)?;
                return Ok(store.enter_uncounted(py, hash, store.now(py)?, |key| is_positional(py, call, key)));
            }
        }
        self.with_probe(py, call, |probe, _| {
            let Some(probe) = probe else { return Ok(None) };
            Ok(store.enter_uncounted(py, probe.hash(), store.now(py)?, |key| probe.quick(py, key)))
        })?
    }

    /// A call that found nothing by the quick way in.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "one function's locals, in two halves")]
    fn miss<'a, 'py>(
        &self,
        this: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        call: Call<'a, 'py>,
        entered: Entered<'py>,
        hash: u64,
        to_key: impl FnOnce() -> Key,
        fill: impl FnOnce(&mut Probe<'a, 'py>),
    ) -> Outcome<'py> {
        let py = this.py();
        let store = self.store();
        match entered {
            Entered::Hit(value) => Ok(value),
            Entered::Lead(flight) if store.is_plain() => {
                let mut leading = Leading { py, store, lead: flight, landed: false };
                match call.forward(function) {
                    Ok(value) => {
                        store.land_plainly(py, flight, &value)?;
                        leading.landed = true;
                        Ok(value)
                    }
                    Err(raised) => guarding::attached(py, |_| {
                        leading.landed = true;
                        Err(self.crash(py, flight, raised.fetch(py)).into())
                    }),
                }
            }
            Entered::Lead(flight) => {
                guarding::attached(py, |_| self.lead(function, call, flight).map_err(Failure::from))
            }
            Entered::Absent(version) if store.is_plain() => {
                let value = call.forward(function)?;
                if !store.keep_plainly(py, hash, version, &value, to_key)? {
                    let mut probe = Probe::new();
                    fill(&mut probe);
                    guarding::attached(py, |_| store.offer(py, &probe, &value))?;
                }
                Ok(value)
            }
            Entered::Absent(_) => {
                let mut probe = Probe::new();
                fill(&mut probe);
                guarding::attached(py, |_| self.call_beside(function, call, &probe, None).map_err(Failure::from))
            }
            Entered::Uncertain => {
                let mut probe = Probe::new();
                fill(&mut probe);
                guarding::attached(py, |_| self.call_slowly(this, function, call, &probe, None).map_err(Failure::from))
            }
        }
    }

    /// Leads a flight.
    fn lead<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        call: Call<'_, 'py>,
        flight: Lead,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let compute = || call.forward(function).map_err(|raised| raised.fetch(py));
        lead(py, self.store(), flight, |error| self.keeps(py, error), compute)
    }

    /// Ends a flight that has failed, and gives out what is to be raised.
    fn crash(&self, py: Python<'_>, flight: Lead, error: PyErr) -> PyErr {
        let result = lead(py, self.store(), flight, |error| self.keeps(py, error), || Err(error));
        result.err().unwrap_or_else(|| Error::State("a flight that failed has landed").into())
    }

    /// A call that found nothing and is computed side by side with others: whoever is last is kept.
    fn call_beside<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        call: Call<'_, 'py>,
        probe: &Probe<'_, 'py>,
        reference: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let store = self.store();
        let value = match call.forward(function).map_err(|raised| raised.fetch(py)) {
            Ok(value) => value,
            Err(error) => {
                if error.is_instance_of::<PyException>(py)
                    && let Some(keep) = self.keeps(py, &error)?
                {
                    let number = store.keep_error(py, probe, error.value(py).as_any(), keep)?;
                    number.map_or(Ok(()), |number| self.adopt(py, number, reference))?;
                }
                return Err(error);
            }
        };
        if store.settings.maxsize != Some(0)
            && let Some(number) = store.offer(py, probe, &value)?
        {
            self.adopt(py, number, reference)?;
        }
        Ok(value)
    }

    /// A call that didn't find its value at once. Attached by `PyO3`'s own count, so that what is dropped is released.
    #[cold]
    fn call_slowly<'py>(
        &self,
        this: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        call: Call<'_, 'py>,
        probe: &Probe<'_, 'py>,
        reference: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let store = self.store();
        let found =
            if self.single_flight { Some(store.look_up(py, probe, Who::here())?) } else { store.get(py, probe)? };
        let compute = || call.forward(function).map_err(|raised| raised.fetch(py));
        let keeps = |error: &PyErr| self.keeps(py, error);
        match found {
            Some(Found::Stale(value, number)) => {
                if number.is_some() {
                    self.refresh(this, call)?;
                }
                Ok(value)
            }
            Some(Found::Error(error)) => Err(once_more(error)),
            Some(Found::Lead(flight)) => {
                self.take_off(py, flight, reference)?;
                lead(py, store, flight, keeps, compute)
            }
            Some(Found::Value(value)) => Ok(value),
            Some(Found::Follow(..)) => {
                fly(py, store, probe, |flight| self.take_off(py, flight, reference), keeps, compute)
            }
            None => self.call_beside(function, call, probe, reference),
        }
    }

    /// Has a stale entry refreshed, by whoever the face has for that.
    fn refresh(&self, this: &Bound<'_, PyAny>, call: Call<'_, '_>) -> PyResult<()> {
        let py = this.py();
        let Some(refresher) = &self.refresher else { return Ok(()) };
        let (args, kwargs) = call.unpack(py)?;
        guarding::call(refresher.bind(py), &[this, args.as_any(), kwargs.as_any()])?;
        Ok(())
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.cache)?;
        visit.call(&self.parameters)?;
        for each in [&self.key, &self.marker, &self.refresher] {
            visit.call(each)?;
        }
        self.errors.iter().try_for_each(|(class, _)| visit.call(class))
    }
}

/// The weak reference that stands for an instance; none, where it takes none and is a key by its value.
fn weak_reference<'py>(instance: Borrowed<'_, 'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let reference = PyWeakrefReference::new(&instance);
    reference.map_or_else(|_| None, |reference| Some(reference.into_any()))
}

/// A function whose results are kept.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct CachedFunction {
    caching: Caching,
}

impl Native for CachedFunction {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        let py = this.py();
        let caching = &this.get().caching;
        let function = this.as_super().get().function(py);
        if caching.simple {
            // Arguments that are a key as they lie there, and keys that can be compared without asking: the usual case.
            let store = caching.store();
            if let Some(argument) = caching.plan.own_key(py, call) {
                let hash = hash_of_one(argument)?;
                let to_key = || Key::One(argument.to_owned().unbind());
                let same = |key: &Key| is_one(py, argument, key);
                let entered = store.enter(py, hash, store.now(py)?, caching.single_flight, same, to_key);
                if let Entered::Hit(value) = entered {
                    return Ok(value);
                }
                return caching.miss(this.as_any(), function, call, entered, hash, to_key, |probe| {
                    probe.set_hashed_one(argument, hash);
                });
            }
            if caching.plan.is_laid_out(py, call) {
                let hash = hash_of_positional(py, call)?;
                let to_key = || key_of_positional(py, call);
                let same = |key: &Key| is_positional(py, call, key);
                let entered = store.enter(py, hash, store.now(py)?, caching.single_flight, same, to_key);
                if let Entered::Hit(value) = entered {
                    return Ok(value);
                }
                return caching.miss(this.as_any(), function, call, entered, hash, to_key, |probe| {
                    probe.set_hashed_positional(py, call, hash);
                });
            }
        }
        let result = caching.with_probe(py, call, |probe, reference| {
            let Some(probe) = probe else {
                // The function says itself what is wrong with the call.
                return call.forward(function).map_err(Failure::from);
            };
            let store = caching.store();
            let same = |key: &Key| probe.quick(py, key);
            let to_key = || probe.to_key();
            match store.enter(py, probe.hash(), store.now(py)?, caching.single_flight, same, to_key) {
                Entered::Hit(value) => Ok(value),
                Entered::Lead(flight) => guarding::attached(py, |_| {
                    caching.take_off(py, flight, reference)?;
                    caching.lead(function, call, flight).map_err(Failure::from)
                }),
                Entered::Absent(_) => guarding::attached(py, |_| {
                    caching.call_beside(function, call, probe, reference).map_err(Failure::from)
                }),
                Entered::Uncertain => guarding::attached(py, |_| {
                    caching.call_slowly(this.as_any(), function, call, probe, reference).map_err(Failure::from)
                }),
            }
        });
        result?
    }
}

#[pymethods]
impl CachedFunction {
    #[new]
    #[pyo3(
        signature = (function, cache, signature, typed, key, shared, method, single_flight, errors, refresher, parameters)
    )]
    #[expect(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "the face hands them over, checked and complete"
    )]
    fn new<'py>(
        function: &Bound<'py, PyAny>,
        cache: Py<Cache>,
        signature: Option<Parameters>,
        typed: bool,
        key: Option<Py<PyAny>>,
        shared: bool,
        method: bool,
        single_flight: bool,
        errors: Vec<(Py<PyAny>, Option<u64>)>,
        refresher: Option<Py<PyAny>>,
        parameters: Py<PyDict>,
    ) -> PyResult<Bound<'py, Self>> {
        let caching = Caching::new(
            function,
            cache,
            signature,
            typed,
            key,
            shared,
            method,
            single_flight,
            errors,
            refresher,
            parameters,
        );
        Wrapper::wrap(function, Self { caching })
    }

    /// Drops the entry of one call, however it is spelled; whether there was one.
    #[pyo3(signature = (*args, **kwargs))]
    fn cache_invalidate<'py>(&self, args: &Bound<'py, PyTuple>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<bool> {
        self.caching.invalidate(args, kwargs)
    }

    /// What is kept for one call, without counting as a use; `None` where there is nothing.
    #[pyo3(signature = (*args, **kwargs))]
    fn cache_peek<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.caching.peek(args, kwargs)
    }

    /// Keeps a value for one call.
    #[pyo3(signature = (value, /, *args, **kwargs))]
    fn cache_set<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<()> {
        self.caching.set(value, args, kwargs)
    }

    /// Computes one call anew, whatever is kept, and keeps the result.
    #[pyo3(signature = (*args, **kwargs))]
    fn cache_refresh<'py>(
        this: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let function = this.as_super().get().function(this.py());
        let packed = Packed::new(None, args, kwargs)?;
        let result = packed.call().forward(function).map_err(|raised| raised.fetch(this.py()));
        match &result {
            Ok(value) => this.get().caching.set(value, args, kwargs)?,
            Err(_) => this.get().caching.refresh_failed(args, kwargs)?,
        }
        result
    }

    /// Drops all entries, and starts the statistics over.
    fn cache_clear(&self, py: Python<'_>) {
        self.caching.clear(py);
    }

    /// Hits, misses, maxsize and currsize, as `functools` has them.
    fn cache_info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.caching.info(py)
    }

    /// What there is to know; see `ferrule.CacheStats`.
    fn cache_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.caching.stats(py)
    }

    /// What the decorator was told, as a dictionary.
    fn cache_parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.caching.parameters.bind(py).copy()
    }

    /// Itself, as for plain functions.
    fn __copy__<'py>(this: &Bound<'py, Self>) -> Bound<'py, Self> {
        this.clone()
    }

    /// Itself, as for plain functions.
    fn __deepcopy__<'py>(this: &Bound<'py, Self>, _memo: &Bound<'py, PyAny>) -> Bound<'py, Self> {
        this.clone()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.caching.traverse(&visit)
    }
}

impl Caching {
    fn clear(&self, py: Python<'_>) {
        self.store().clear(py);
        self.store().reset_counters(py);
    }

    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CACHE_INFO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let store = self.store();
        let info = (store.hits(py), store.misses.get(), store.settings.maxsize, store.measure(py).0);
        CACHE_INFO.import(py, "ferrule.caching", "CacheInfo")?.call1(info)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static STATS_OF: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        STATS_OF.import(py, "ferrule.caching", "stats_of")?.call1((&self.cache,))
    }

    fn at<'py, R>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        body: impl FnOnce(&Probe<'_, 'py>, Option<&Bound<'py, PyAny>>) -> PyResult<R>,
    ) -> PyResult<R> {
        let packed = Packed::new(None, args, kwargs)?;
        self.with_probe(args.py(), packed.call(), |probe, reference| {
            if let Some(probe) = probe {
                return body(probe, reference);
            }
            let hint = if self.method { "; a method's first argument is the instance" } else { "" };
            let text = format!("the function can't be called with these arguments{hint}");
            Err(pyo3::exceptions::PyTypeError::new_err(text))
        })?
    }

    fn invalidate<'py>(&self, args: &Bound<'py, PyTuple>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<bool> {
        let py = args.py();
        self.at(args, kwargs, |probe, _| Ok(self.store().take(py, probe, Cause::Invalidated)?.is_some()))
    }

    fn peek<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.at(args, kwargs, |probe, _| self.store().peek(args.py(), probe))
    }

    fn set<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<()> {
        let py = args.py();
        self.at(args, kwargs, |probe, reference| match self.store().offer(py, probe, value)? {
            Some(number) => self.adopt(py, number, reference),
            None => Ok(()),
        })
    }

    fn refresh_failed<'py>(&self, args: &Bound<'py, PyTuple>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<()> {
        self.at(args, kwargs, |probe, _| self.store().refresh_failed(args.py(), probe))
    }
}

/// What finds, computes and keeps the results of a coroutine function; its shell in Python does the awaiting.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct CoroutineCaching {
    caching: Caching,
    function: Py<PyAny>,
}

#[pymethods]
impl CoroutineCaching {
    #[new]
    #[pyo3(
        signature = (function, cache, signature, typed, key, shared, method, single_flight, errors, refresher, parameters)
    )]
    #[expect(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "the face hands them over, checked and complete"
    )]
    fn new(
        function: &Bound<'_, PyAny>,
        cache: Py<Cache>,
        signature: Option<Parameters>,
        typed: bool,
        key: Option<Py<PyAny>>,
        shared: bool,
        method: bool,
        single_flight: bool,
        errors: Vec<(Py<PyAny>, Option<u64>)>,
        refresher: Option<Py<PyAny>>,
        parameters: Py<PyDict>,
    ) -> Self {
        let caching = Caching::new(
            function,
            cache,
            signature,
            typed,
            key,
            shared,
            method,
            single_flight,
            errors,
            refresher,
            parameters,
        );
        Self { caching, function: function.clone().unbind() }
    }

    /// The value of a call that is there and good; otherwise `missing`, and nothing has begun.
    #[pyo3(signature = (missing, args, kwargs, /))]
    fn look<'py>(
        this: &Bound<'py, Self>,
        missing: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let caching = &this.get().caching;
        let found = if kwargs.is_empty() {
            caching.look(py, Call::with_items(args))?
        } else {
            let packed = Packed::new(None, args, Some(kwargs))?;
            caching.look(py, packed.call())?
        };
        Ok(found.unwrap_or_else(|| missing.clone()))
    }

    /// The value of a call, or a `Journey` to it for `task`, which may lead or follow. `leading` are the flights that this
    /// task, or one that it descends from, leads.
    #[pyo3(signature = (task, leading, args, kwargs, /))]
    fn board<'py>(
        this: &Bound<'py, Self>,
        task: &Bound<'py, PyAny>,
        leading: Vec<u64>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let caching = &this.get().caching;
        let store = caching.store();
        let packed = Packed::new(None, args, Some(kwargs))?;
        let who = Who::Task(task.as_ptr().addr());
        let journey = |part: Part| {
            let leading = leading.clone().into_boxed_slice();
            let journey = Journey { caching: this.clone().unbind(), who, leading, part: Guarded::new(part) };
            Ok(Bound::new(py, journey)?.into_any())
        };
        caching.with_probe(py, packed.call(), |probe, reference| {
            let Some(probe) = probe else { return journey(Part::Alone) };
            if !caching.single_flight {
                return match store.get(py, probe)? {
                    Some(Found::Value(value)) => Ok(value),
                    Some(Found::Stale(value, number)) => {
                        if number.is_some() {
                            caching.refresh(this.as_any(), packed.call())?;
                        }
                        Ok(value)
                    }
                    Some(Found::Error(error)) => Err(once_more(error)),
                    _ => journey(Part::Side),
                };
            }
            match store.look_up(py, probe, who)? {
                Found::Value(value) => Ok(value),
                Found::Stale(value, number) => {
                    if number.is_some() {
                        caching.refresh(this.as_any(), packed.call())?;
                    }
                    Ok(value)
                }
                Found::Error(error) => Err(once_more(error)),
                Found::Lead(flight) => {
                    caching.take_off(py, flight, reference)?;
                    note_home(py, flight.id);
                    journey(Part::Leads(flight))
                }
                // Waiting for oneself, through however many tasks, would never end.
                Found::Follow(flight, _) if leading.contains(&flight.id) => {
                    store.misses.increment(py);
                    journey(Part::Alone)
                }
                Found::Follow(flight, leader) => journey(Part::Follows(flight, leader, None)),
            }
        })?
    }

    /// Drops the entry of one call; whether there was one.
    #[pyo3(signature = (*args, **kwargs))]
    fn cache_invalidate<'py>(&self, args: &Bound<'py, PyTuple>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<bool> {
        self.caching.invalidate(args, kwargs)
    }

    /// What is kept for one call, without counting as a use; `None` where there is nothing.
    #[pyo3(signature = (*args, **kwargs))]
    fn cache_peek<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.caching.peek(args, kwargs)
    }

    /// Keeps a value for one call.
    #[pyo3(signature = (value, /, *args, **kwargs))]
    fn cache_set<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<()> {
        self.caching.set(value, args, kwargs)
    }

    /// A call that was computed side by side with others has failed: keeps the exception, if it is of a kind that is kept.
    #[pyo3(signature = (error, args, kwargs, /))]
    fn call_failed<'py>(
        &self,
        error: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<()> {
        let py = args.py();
        let Some(keep) = self.caching.keeps(py, &PyErr::from_value(error.clone()))? else { return Ok(()) };
        self.caching.at(args, Some(kwargs), |probe, reference| {
            let number = self.caching.store().keep_error(py, probe, error, keep)?;
            number.map_or(Ok(()), |number| self.caching.adopt(py, number, reference))
        })
    }

    /// A refresh has failed: the next who finds the entry stale tries again.
    #[pyo3(signature = (args, kwargs, /))]
    fn refresh_failed<'py>(&self, args: &Bound<'py, PyTuple>, kwargs: &Bound<'py, PyDict>) -> PyResult<()> {
        self.caching.refresh_failed(args, Some(kwargs))
    }

    /// Drops all entries, and starts the statistics over.
    fn cache_clear(&self, py: Python<'_>) {
        self.caching.clear(py);
    }

    /// Hits, misses, maxsize and currsize, as `functools` has them.
    fn cache_info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.caching.info(py)
    }

    /// What there is to know; see `ferrule.CacheStats`.
    fn cache_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.caching.stats(py)
    }

    /// What the decorator was told, as a dictionary.
    fn cache_parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.caching.parameters.bind(py).copy()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.caching.traverse(&visit)?;
        visit.call(&self.function)
    }
}

/// A task's part in a flight.
enum Part {
    /// It computes, for all.
    Leads(Lead),
    /// It waits for the one who does; with a ticket, once it has joined.
    Follows(Lead, Who, Option<Arc<Ticket<Landing>>>),
    /// It computes for itself, and nothing is kept.
    Alone,
    /// It computes beside others, and what it computes is kept.
    Side,
    /// It has arrived, or given up.
    Over,
}

/// A task on its way to a value. Dropping it is giving up.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Journey {
    caching: Py<CoroutineCaching>,
    who: Who,
    /// The flights that the task leads, or one that it descends from.
    leading: Box<[u64]>,
    part: Guarded<Part>,
}

impl Journey {
    fn store(&self) -> &Store {
        self.caching.get().caching.store()
    }

    fn change(&self, py: Python<'_>, part: Part) -> Part {
        self.part.with(py, |now, _| std::mem::replace(now, part))
    }

    /// The part that ends here.
    fn end(&self, py: Python<'_>) -> Part {
        let part = self.change(py, Part::Over);
        if let Part::Leads(flight) = part {
            forget_home(py, flight.id);
        }
        part
    }

    /// Gives up.
    fn give_up(&self, py: Python<'_>) {
        match self.end(py) {
            Part::Leads(flight) => self.store().abandon(py, flight),
            Part::Follows(flight, _, Some(ticket)) => {
                forget_wait(py, self.who);
                self.store().leave(py, flight, &ticket);
            }
            Part::Follows(_, _, None) | Part::Alone | Part::Side | Part::Over => {}
        }
    }
}

#[pymethods]
impl Journey {
    /// "leads", "follows", "alone", "side" or "over".
    #[getter]
    fn part(&self, py: Python<'_>) -> &'static str {
        self.part.with(py, |part, _| match part {
            Part::Leads(_) => "leads",
            Part::Follows(..) => "follows",
            Part::Alone => "alone",
            Part::Side => "side",
            Part::Over => "over",
        })
    }

    /// The number of the flight that the task leads; zero where it doesn't.
    #[getter]
    fn flight(&self, py: Python<'_>) -> u64 {
        self.part.with(py, |part, _| if let Part::Leads(flight) = part { flight.id } else { 0 })
    }

    /// Ends the flight with its value.
    #[pyo3(signature = (value, /))]
    fn land<'py>(&self, py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<()> {
        match self.end(py) {
            Part::Leads(flight) => {
                let outcome = self.store().land(py, flight, value);
                if outcome.is_err() {
                    self.store().abandon(py, flight);
                }
                outcome
            }
            _ => Ok(()),
        }
    }

    /// Ends the flight with an exception.
    #[pyo3(signature = (error, /))]
    fn crash<'py>(&self, py: Python<'py>, error: &Bound<'py, PyAny>) -> PyResult<()> {
        let caching = &self.caching.get().caching;
        match self.end(py) {
            Part::Leads(flight) => {
                let keep = caching.keeps(py, &PyErr::from_value(error.clone()));
                let outcome = keep.and_then(|keep| self.store().crash(py, flight, error, keep));
                if outcome.is_err() {
                    self.store().abandon(py, flight);
                }
                outcome
            }
            _ => Ok(()),
        }
    }

    /// Gives up: a follower takes over, and a follower leaves.
    fn leave(&self, py: Python<'_>) {
        self.give_up(py);
    }

    /// Joins the flight; true where its end will settle `future` of `event_loop`, false where waiting makes no sense.
    #[pyo3(signature = (event_loop, future, /))]
    fn join(&self, py: Python<'_>, event_loop: &Bound<'_, PyAny>, future: &Bound<'_, PyAny>) -> bool {
        let Part::Follows(flight, leader, None) = self.change(py, Part::Over) else { return false };
        if !note_wait(py, self.who, &self.leading, flight.id, leader) {
            self.store().misses.increment(py);
            self.change(py, Part::Alone);
            return false;
        }
        let ticket = Ticket::for_task(event_loop, future);
        if !self.store().join(py, flight, &ticket) {
            forget_wait(py, self.who);
            return false;
        }
        self.change(py, Part::Follows(flight, leader, Some(ticket)));
        true
    }

    /// After the wait: `(True, value)`, or the exception; `(False, None)` where the journey's part has changed.
    fn arrive(&self, py: Python<'_>) -> PyResult<(bool, Option<Py<PyAny>>)> {
        let (flight, ticket) = match self.change(py, Part::Over) {
            Part::Follows(flight, _, Some(ticket)) => (flight, ticket),
            other => {
                self.change(py, other);
                return Ok((false, None));
            }
        };
        forget_wait(py, self.who);
        match self.store().followed(py, flight, self.who, &ticket) {
            Followed::Value(value) => Ok((true, Some(value))),
            Followed::Error(error) => Err(PyErr::from_value(error.into_bound(py))),
            Followed::Lead(flight) => {
                note_home(py, flight.id);
                self.change(py, Part::Leads(flight));
                Ok((false, None))
            }
            Followed::Circle | Followed::Again => Ok((false, None)),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.caching)
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        Python::attach(|py| self.give_up(py));
    }
}

//! Attributes that look at what they are given; and models, which are made of them.
//!
//! A value lies in the object that it belongs to: in its dictionary, or in a slot. Nothing is kept anywhere else.

use std::sync::OnceLock;

use pyo3::exceptions::{PyArithmeticError, PyAttributeError, PyException, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyFloatMethods, PyMappingProxy, PyString, PyTuple, PyType};

use super::address::is_address;
use super::checks::{Check, Depth};
use crate::callable::describing::{Getting, Home, Setting, compares, equal, length, small_int};
use crate::callable::{Call, Failure, Native, Outcome, Wrapper, plain_equal, tuple_item, type_of};
use crate::errors::short_repr;
use crate::guarding::{self, Made, interned};

/// Whole numbers up to here are floats of the same value.
const EXACT: i64 = 1 << 53;

/// A bound, as a number of the machine where it is one.
struct Limit {
    object: Py<PyAny>,
    whole: Option<i64>,
    real: Option<f64>,
}

impl Limit {
    #[expect(clippy::cast_precision_loss, reason = "only of numbers that lose nothing")]
    fn new(object: &Bound<'_, PyAny>) -> Self {
        let whole = small_int(object.as_borrowed());
        let real = match whole {
            Some(whole) => (whole.abs() <= EXACT).then_some(whole as f64),
            None => object.cast_exact::<PyFloat>().ok().map(PyFloatMethods::value),
        };
        Self { object: object.clone().unbind(), whole, real }
    }

    /// Whether the value lies on the right side: above with `lower`, else below. Whoever can't be compared doesn't.
    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "only of numbers that lose nothing")]
    fn holds(&self, value: Borrowed<'_, '_, PyAny>, lower: bool) -> PyResult<bool> {
        let real = if let Ok(real) = value.cast_exact::<PyFloat>() {
            Some(real.value())
        } else if let Some(whole) = small_int(value) {
            if let Some(limit) = self.whole {
                return Ok(if lower { whole >= limit } else { whole <= limit });
            }
            (whole.abs() <= EXACT).then_some(whole as f64)
        } else {
            None
        };
        if let (Some(real), Some(limit)) = (real, self.real) {
            // False of a NaN.
            return Ok(if lower { real >= limit } else { real <= limit });
        }
        compares(value, lower, self.object.bind(value.py()))
    }
}

/// What a value has to be, apart from its type.
#[derive(Default)]
struct Rules {
    low: Option<Limit>,
    high: Option<Limit>,
    min_length: Option<usize>,
    max_length: Option<usize>,
    /// The `fullmatch` of a regular expression, and its text.
    pattern: Option<(Py<PyAny>, String)>,
    choices: Option<Py<PyTuple>>,
    address: bool,
    check: Option<Py<PyAny>>,
}

/// Why a value is refused.
enum Refusal {
    Type(String),
    Value(String),
}

impl Rules {
    fn is_empty(&self) -> bool {
        self.low.is_none()
            && self.high.is_none()
            && self.min_length.is_none()
            && self.max_length.is_none()
            && self.pattern.is_none()
            && self.choices.is_none()
            && !self.address
            && self.check.is_none()
    }

    fn bounds(&self, py: Python<'_>) -> String {
        let text = |limit: &Limit| short_repr(limit.object.bind(py));
        match (&self.low, &self.high) {
            (Some(low), Some(high)) => format!("must be between {} and {}", text(low), text(high)),
            (Some(low), None) => format!("must be at least {}", text(low)),
            (_, Some(high)) => format!("must be at most {}", text(high)),
            (None, None) => String::new(),
        }
    }

    fn lengths(&self) -> String {
        match (self.min_length, self.max_length) {
            (Some(min), Some(max)) => format!("must have a length between {min} and {max}"),
            (Some(min), None) => format!("must have a length of at least {min}"),
            (_, Some(max)) => format!("must have a length of at most {max}"),
            (None, None) => String::new(),
        }
    }

    /// Looks at the bounds; see [`Rules::refusal`].
    #[inline]
    fn out_of_bounds(&self, value: Borrowed<'_, '_, PyAny>, typed: bool) -> PyResult<Option<Refusal>> {
        if !typed && value.is_exact_instance_of::<PyBool>() {
            return Ok(Some(Refusal::Type("must be a number, not bool".to_owned())));
        }
        for (limit, lower) in [(&self.low, true), (&self.high, false)] {
            let Some(limit) = limit else { continue };
            match limit.holds(value, lower) {
                Ok(true) => {}
                Ok(false) => return Ok(Some(Refusal::Value(self.bounds(value.py())))),
                Err(error) => return self.incomparable(value, error).map(Some),
            }
        }
        Ok(None)
    }

    /// What it means that `len` failed.
    #[cold]
    fn without_length(&self, value: Borrowed<'_, '_, PyAny>, error: PyErr) -> PyResult<Refusal> {
        guarding::attached(value.py(), |py| {
            if !error.is_instance_of::<PyTypeError>(py) {
                return Err(error);
            }
            let class = value.get_type().name()?.to_string();
            Ok(Refusal::Type(format!("{}, and {class} has none", self.lengths())))
        })
    }

    /// What it means that a comparison failed.
    #[cold]
    fn incomparable(&self, value: Borrowed<'_, '_, PyAny>, error: PyErr) -> PyResult<Refusal> {
        guarding::attached(value.py(), |py| {
            let text = self.bounds(py);
            if error.is_instance_of::<PyTypeError>(py) {
                let class = value.get_type().name()?.to_string();
                return Ok(Refusal::Type(format!("{text}, and {class} can't be compared with that")));
            }
            // A decimal NaN refuses to be compared.
            if error.is_instance_of::<PyArithmeticError>(py) { Ok(Refusal::Value(text)) } else { Err(error) }
        })
    }

    /// The rule that refuses the value, if one does. `typed` says whether its type has been looked at.
    #[inline]
    fn refusal(&self, value: Borrowed<'_, '_, PyAny>, typed: bool) -> PyResult<Option<Refusal>> {
        if (self.low.is_some() || self.high.is_some())
            && let Some(refusal) = self.out_of_bounds(value, typed)?
        {
            return Ok(Some(refusal));
        }
        if self.min_length.is_some() || self.max_length.is_some() {
            let length = match length(value) {
                Ok(length) => length,
                Err(error) => return self.without_length(value, error).map(Some),
            };
            if self.min_length.is_some_and(|min| length < min) || self.max_length.is_some_and(|max| length > max) {
                return Ok(Some(Refusal::Value(self.lengths())));
            }
        }
        if self.pattern.is_some() || self.choices.is_some() || self.address || self.check.is_some() {
            return self.rarer_refusal(value);
        }
        Ok(None)
    }

    fn rarer_refusal(&self, value: Borrowed<'_, '_, PyAny>) -> PyResult<Option<Refusal>> {
        let py = value.py();
        if let Some((fullmatch, text)) = &self.pattern
            && guarding::call(fullmatch.bind(py), &[&value])?.is_none()
        {
            return Ok(Some(Refusal::Value(format!("must match {text}"))));
        }
        if let Some(choices) = &self.choices
            && !is_choice(value, choices.bind_borrowed(py))?
        {
            let choices: Vec<_> = choices.bind(py).iter().map(|choice| short_repr(&choice)).collect();
            return Ok(Some(Refusal::Value(format!("must be one of {}", choices.join(", ")))));
        }
        if self.address && !value.cast::<PyString>().is_ok_and(|text| text.to_str().is_ok_and(is_address)) {
            return Ok(Some(Refusal::Value("must be an e-mail address".to_owned())));
        }
        if let Some(check) = &self.check
            && !guarding::call(check.bind(py), &[&value])?.is_truthy()?
        {
            let name =
                check.bind(py).getattr("__name__").map_or_else(|_| short_repr(check.bind(py)), |it| it.to_string());
            let name = if name == "<lambda>" { "its check".to_owned() } else { name };
            return Ok(Some(Refusal::Value(format!("must pass {name}"))));
        }
        Ok(None)
    }
}

fn is_choice<'py>(value: Borrowed<'_, 'py, PyAny>, choices: Borrowed<'_, 'py, PyTuple>) -> PyResult<bool> {
    for index in 0..choices.len() {
        let choice = tuple_item(choices, index);
        if value.is(choice) {
            return Ok(true);
        }
        if value.is_exact_instance_of::<PyString>() && choice.is_exact_instance_of::<PyString>() {
            if plain_equal(value, choice) {
                return Ok(true);
            }
        } else if value.is_exact_instance_of::<PyBool>() == choice.is_exact_instance_of::<PyBool>()
            && equal(value, &choice)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a field belongs.
struct Place {
    name: Py<PyString>,
    owner: Py<PyType>,
    home: Home,
}

/// A validated attribute; `ferrule.validating.Field` makes it.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct FieldInfo {
    rules: Rules,
    /// Whether there are any.
    ruled: bool,
    message: Option<String>,
    default: Option<Py<PyAny>>,
    factory: Option<Py<PyAny>>,
    place: OnceLock<Place>,
    check: OnceLock<Option<Py<Check>>>,
    /// Called with owner and name for the check that its annotation stands for, or `None` for none.
    resolver: Py<PyAny>,
    parameters: Py<PyDict>,
}

#[pymethods]
impl FieldInfo {
    #[new]
    #[pyo3(signature = (
        check, resolver, parameters, /, *,
        default, factory, low, high, min_length, max_length, pattern, choices, address, test, message
    ))]
    #[expect(clippy::too_many_arguments, reason = "the face hands them over, checked and complete")]
    fn new(
        check: Option<Py<Check>>,
        resolver: Py<PyAny>,
        parameters: Py<PyDict>,
        default: Option<(Py<PyAny>,)>,
        factory: Option<Py<PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
        high: Option<&Bound<'_, PyAny>>,
        min_length: Option<usize>,
        max_length: Option<usize>,
        pattern: Option<(Py<PyAny>, String)>,
        choices: Option<Py<PyTuple>>,
        address: bool,
        test: Option<Py<PyAny>>,
        message: Option<String>,
    ) -> Self {
        let rules = Rules {
            low: low.map(Limit::new),
            high: high.map(Limit::new),
            min_length,
            max_length,
            pattern,
            choices,
            address,
            check: test,
        };
        let known = OnceLock::new();
        if check.is_some() {
            let _ = known.set(check.filter(|check| !check.get().is_trivial()));
        }
        Self {
            ruled: !rules.is_empty(),
            rules,
            message,
            default: default.map(|(default,)| default),
            factory,
            place: OnceLock::new(),
            check: known,
            resolver,
            parameters,
        }
    }

    /// Tells the field where it belongs; the interpreter does, when it makes a class.
    #[pyo3(signature = (owner, name, /))]
    fn __set_name__(this: &Bound<'_, Self>, owner: &Bound<'_, PyType>, name: &Bound<'_, PyString>) -> PyResult<()> {
        let py = this.py();
        let field = this.get();
        if let Some(place) = field.place.get() {
            if place.owner.is(owner) && place.name.bind(py).to_cow()? == name.to_cow()? {
                return Ok(());
            }
            let text = format!(
                "this field is {}.{} already; make another for {}.{name}",
                place.owner.bind(py).name()?,
                place.name,
                owner.name()?
            );
            return Err(PyTypeError::new_err(text));
        }
        let name = interned_copy(name);
        let home = home_of(owner, &name)?;
        let _ = field.place.set(Place { name: name.unbind(), owner: owner.clone().unbind(), home });
        // What is known by now is checked by now; a forward reference waits.
        let known = match field.type_check(py) {
            Ok(_) => true,
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyNameError>(py) => false,
            Err(error) => return Err(error),
        };
        if let Some(default) = &field.default
            && (known || field.ruled)
        {
            let default = default.bind_borrowed(py);
            let looked = if known { field.look(owner, default) } else { field.look_at_rules(owner, default, true) };
            looked.map_err(|failure| failure.fetch(py))?;
        }
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

    fn __set__(this: &Bound<'_, Self>, instance: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::set(this, instance, Some(value)).map_err(|failure| failure.fetch(this.py()))
    }

    fn __delete__(this: &Bound<'_, Self>, instance: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::set(this, instance, None).map_err(|failure| failure.fetch(this.py()))
    }

    /// The attribute's name; `None` before it has one.
    #[getter]
    fn name(&self, py: Python<'_>) -> Option<Py<PyString>> {
        self.place.get().map(|place| place.name.clone_ref(py))
    }

    /// The class that it belongs to; `None` before it does.
    #[getter]
    fn owner(&self, py: Python<'_>) -> Option<Py<PyType>> {
        self.place.get().map(|place| place.owner.clone_ref(py))
    }

    /// Whether a model can't be made without it.
    #[getter]
    fn required(&self) -> bool {
        self.default.is_none() && self.factory.is_none()
    }

    /// What `Field` and its kin were told.
    #[getter]
    fn parameters<'py>(&self, py: Python<'py>) -> Bound<'py, PyMappingProxy> {
        PyMappingProxy::new(py, self.parameters.bind(py).as_mapping())
    }

    /// What may be its type, in words; `None` where anything may.
    #[getter(type_)]
    fn type_text(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(self.type_check(py)?.map(|check| check.get().text().to_owned()))
    }

    /// Raises if the field would refuse the value.
    #[pyo3(signature = (value, /))]
    fn validate(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        self.look(self.place(py)?.owner.bind(py), value.as_borrowed()).map_err(|failure| failure.fetch(py))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let place = match self.place.get() {
            Some(place) => format!(" {}.{}", place.owner.bind(py).name()?, place.name),
            None => String::new(),
        };
        Ok(format!("<field{place}>"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for limit in self.rules.low.iter().chain(&self.rules.high) {
            visit.call(&limit.object)?;
        }
        if let Some((fullmatch, _)) = &self.rules.pattern {
            visit.call(fullmatch)?;
        }
        visit.call(&self.rules.choices)?;
        visit.call(&self.rules.check)?;
        visit.call(&self.default)?;
        visit.call(&self.factory)?;
        visit.call(&self.resolver)?;
        visit.call(&self.parameters)?;
        if let Some(place) = self.place.get() {
            visit.call(&place.owner)?;
            visit.call(place.home.object())?;
        }
        match self.check.get() {
            Some(Some(check)) => visit.call(check),
            _ => Ok(()),
        }
    }
}

/// The name as the interpreter keeps those of attributes, so that looking it up compares no letters.
fn interned_copy<'py>(name: &Bound<'py, PyString>) -> Bound<'py, PyString> {
    PyString::intern(name.py(), &name.to_string_lossy())
}

/// Where instances of `owner` keep what is called `name`.
pub fn home_of(owner: &Bound<'_, PyType>, name: &Bound<'_, PyString>) -> PyResult<Home> {
    let py = owner.py();
    let slot = format!("_{name}");
    let member = |class: &Bound<'_, PyAny>| -> PyResult<Option<Py<PyAny>>> {
        let member = class.getattr("__dict__")?.call_method1("get", (&slot,))?;
        Ok((member.get_type().name()? == "member_descriptor").then(|| member.unbind()))
    };
    if let Some(member) = member(owner.as_any())? {
        return Ok(Home::Slot(member));
    }
    if owner.getattr("__dictoffset__")?.extract::<isize>()? != 0 {
        return Ok(Home::Dict(name.clone().unbind()));
    }
    for class in owner.mro() {
        if let Some(member) = member(&class)? {
            return Ok(Home::Slot(member));
        }
    }
    let _ = py;
    let class = owner.name()?;
    Err(PyTypeError::new_err(format!(
        "{class} has __slots__ and no place for {class}.{name}: add {slot:?} to its __slots__"
    )))
}

impl FieldInfo {
    #[inline]
    fn here<'py>(&self, _py: Python<'py>) -> Result<&Place, Failure<'py>> {
        match self.place.get() {
            Some(place) => Ok(place),
            None => Err(nameless()),
        }
    }

    /// As [`FieldInfo::here`], for all that isn't done at every turn.
    fn place(&self, py: Python<'_>) -> PyResult<&Place> {
        self.here(py).map_err(|failure| failure.fetch(py))
    }

    #[cold]
    #[inline(never)]
    fn delete<'py>(&self, instance: &Bound<'py, PyAny>) -> Result<(), Failure<'py>> {
        let place = self.here(instance.py())?;
        if place.home.delete(instance)? {
            return Ok(());
        }
        let owner = name_of(instance)?;
        Err(PyAttributeError::new_err(format!("{owner}.{} is not set", place.name)).into())
    }

    /// The check of the type, where there is one.
    #[inline]
    fn type_check(&self, py: Python<'_>) -> PyResult<Option<&Py<Check>>> {
        if let Some(check) = self.check.get() {
            return Ok(check.as_ref());
        }
        self.resolve(py)
    }

    #[cold]
    fn resolve(&self, py: Python<'_>) -> PyResult<Option<&Py<Check>>> {
        guarding::attached(py, |_| {
            let place = self.place(py)?;
            let arguments: [&Bound<'_, PyAny>; 2] = [place.owner.bind(py).as_any(), place.name.bind(py).as_any()];
            let found = guarding::call(self.resolver.bind(py), &arguments)?.extract::<Option<Py<Check>>>()?;
            // Two threads may both resolve it, to the same.
            let _ = self.check.set(found.filter(|check| !check.get().is_trivial()));
            Ok::<_, PyErr>(())
        })?;
        Ok(self.check.get().and_then(Option::as_ref))
    }

    /// Raises unless `whose`, an instance or the class itself, may keep the value.
    ///
    /// Nothing is dropped or swallowed on the way of a value that is let in.
    #[expect(clippy::inline_always, reason = "the hot path of every attribute, measured")]
    #[inline(always)]
    fn look<'py>(&self, whose: &Bound<'py, PyAny>, value: Borrowed<'_, 'py, PyAny>) -> Result<(), Failure<'py>> {
        let check = self.type_check(value.py())?;
        if let Some(check) = check
            && !check.get().accepts(value, Depth::All)?
        {
            return Err(self.misfit(whose, value, check));
        }
        if self.ruled { self.look_at_rules(whose, value, check.is_some()) } else { Ok(()) }
    }

    #[inline(never)]
    fn look_at_rules<'py>(
        &self,
        whose: &Bound<'py, PyAny>,
        value: Borrowed<'_, 'py, PyAny>,
        typed: bool,
    ) -> Result<(), Failure<'py>> {
        match self.rules.refusal(value, typed) {
            Ok(None) => Ok(()),
            Ok(Some(refusal)) => Err(self.refused(whose, value, refusal)),
            Err(error) => Err(self.noted(whose, error)),
        }
    }

    fn error(
        &self,
        whose: &Bound<'_, PyAny>,
        value: Borrowed<'_, '_, PyAny>,
        text: impl FnOnce(&str) -> PyResult<String>,
        rule: String,
        of_type: bool,
    ) -> PyResult<PyErr> {
        static MAKE: Made<Py<PyAny>> = Made::new();
        let py = value.py();
        let (owner, name) = (name_of(whose)?, self.place(py)?.name.bind(py));
        let text = text(&format!("{owner}.{name}"))?;
        let make = MAKE.import(py, "ferrule._errors", "field_error")?;
        Ok(PyErr::from_value(make.call1((of_type, text, owner, name, value, rule))?))
    }

    /// The error for a value of the wrong type.
    #[cold]
    fn misfit<'py>(
        &self,
        whose: &Bound<'py, PyAny>,
        value: Borrowed<'_, 'py, PyAny>,
        check: &Py<Check>,
    ) -> Failure<'py> {
        guarding::attached(whose.py(), |_| {
            let rule = format!("must be {}", check.get().text());
            let text = |place: &str| {
                // Where by now nothing is wrong, the value has changed since it was looked at.
                let found = check.get().explain(value, place, Depth::All)?;
                Ok(found.unwrap_or_else(|| format!("{place} {rule}, and was not")))
            };
            self.error(whose, value, text, rule.clone(), true).unwrap_or_else(|error| error).into()
        })
    }

    /// The error for a value that breaks a rule.
    #[cold]
    fn refused<'py>(
        &self,
        whose: &Bound<'py, PyAny>,
        value: Borrowed<'_, 'py, PyAny>,
        refusal: Refusal,
    ) -> Failure<'py> {
        guarding::attached(whose.py(), |_| {
            let (rule, of_type) = match refusal {
                Refusal::Type(rule) => (rule, true),
                Refusal::Value(rule) => (self.message.clone().unwrap_or(rule), false),
            };
            let text = |place: &str| Ok(format!("{place} {rule}, got {}", short_repr(&value)));
            self.error(whose, value, text, rule.clone(), of_type).unwrap_or_else(|error| error).into()
        })
    }

    /// The exception of a user's check, with a note of where it came up.
    #[cold]
    fn noted<'py>(&self, whose: &Bound<'py, PyAny>, error: PyErr) -> Failure<'py> {
        guarding::attached(whose.py(), |py| {
            if !error.is_instance_of::<PyException>(py) {
                return error.into();
            }
            let note = name_of(whose).and_then(|owner| Ok(format!("while checking {owner}.{}", self.place(py)?.name)));
            match note.and_then(|note| error.value(py).call_method1("add_note", (note,))) {
                Ok(_) => error.into(),
                Err(other) => other.into(),
            }
        })
    }

    /// Keeps a value that has been looked at.
    #[inline]
    fn keep<'py>(&self, instance: &Bound<'py, PyAny>, value: &Bound<'py, PyAny>) -> Result<(), Failure<'py>> {
        Ok(self.here(instance.py())?.home.set(instance, value)?)
    }

    /// The default for an instance, made and looked at where it has to be.
    fn default_for<'py>(&self, instance: &Bound<'py, PyAny>) -> Result<Option<Bound<'py, PyAny>>, Failure<'py>> {
        let py = instance.py();
        if let Some(default) = &self.default {
            return Ok(Some(default.bind(py).clone()));
        }
        let Some(factory) = &self.factory else { return Ok(None) };
        let value = guarding::call(factory.bind(py), &[])?;
        self.look(instance, value.as_borrowed())?;
        Ok(Some(value))
    }

    #[cold]
    fn absent<'py>(&self, instance: &Bound<'py, PyAny>) -> Outcome<'py> {
        let py = instance.py();
        let place = self.place(py)?;
        if self.factory.is_some()
            && let Some(value) = self.default_for(instance)?
        {
            return Ok(place.home.set_default(instance, value)?);
        }
        guarding::attached(py, |_| {
            Err(PyAttributeError::new_err(format!("{}.{} is not set", name_of(instance)?, place.name)).into())
        })
    }
}

#[cold]
#[inline(never)]
fn nameless<'py>() -> Failure<'py> {
    PyTypeError::new_err("this field has no name: put it in the body of a class, or call its __set_name__").into()
}

/// The name of a class, or of an instance's.
fn name_of(whose: &Bound<'_, PyAny>) -> PyResult<String> {
    match whose.cast::<PyType>() {
        Ok(class) => Ok(class.name()?.to_string()),
        Err(_) => Ok(whose.get_type().name()?.to_string()),
    }
}

impl Getting for FieldInfo {
    #[inline]
    fn get<'py>(this: &Bound<'py, Self>, instance: &Bound<'py, PyAny>) -> Outcome<'py> {
        let py = this.py();
        let field = this.get();
        if let Some(value) = field.here(py)?.home.get(instance)? {
            return Ok(value);
        }
        match &field.default {
            Some(default) => Ok(default.bind(py).clone()),
            None => field.absent(instance),
        }
    }
}

impl Setting for FieldInfo {
    #[inline]
    fn set<'py>(
        this: &Bound<'py, Self>,
        instance: &Bound<'py, PyAny>,
        value: Option<&Bound<'py, PyAny>>,
    ) -> Result<(), Failure<'py>> {
        let field = this.get();
        let Some(value) = value else { return field.delete(instance) };
        // First, so that a field without a name says so.
        let place = field.here(this.py())?;
        field.look(instance, value.as_borrowed())?;
        Ok(place.home.set(instance, value)?)
    }
}

/// The fields of a model, in order.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Fields {
    fields: Vec<(Py<PyString>, Py<FieldInfo>)>,
}

#[pymethods]
impl Fields {
    #[new]
    #[pyo3(signature = (fields, /))]
    fn new(py: Python<'_>, fields: Vec<(Py<PyString>, Py<FieldInfo>)>) -> Self {
        let fields = fields.into_iter().map(|(name, field)| (interned_copy(name.bind(py)).unbind(), field));
        Self { fields: fields.collect() }
    }

    /// The fields' names.
    #[getter]
    fn names<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.fields.iter().map(|(name, _)| name))
    }

    /// Name and value of each field that has one in `instance`.
    #[pyo3(signature = (instance, /))]
    fn items<'py>(&self, instance: &Bound<'py, PyAny>) -> PyResult<Vec<(Py<PyString>, Bound<'py, PyAny>)>> {
        let py = instance.py();
        let mut items = Vec::with_capacity(self.fields.len());
        for (name, field) in &self.fields {
            match FieldInfo::get(field.bind(py), instance).map_err(|failure| failure.fetch(py)) {
                Ok(value) => items.push((name.clone_ref(py), value)),
                Err(error) if error.is_instance_of::<PyAttributeError>(py) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(items)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.fields.iter().try_for_each(|(_, field)| visit.call(field))
    }
}

impl Fields {
    /// The place of the field of this name; `likely` is where it would be if the caller kept to the order.
    #[inline]
    fn position(&self, name: Borrowed<'_, '_, PyAny>, likely: usize) -> Option<usize> {
        if self.fields.get(likely).is_some_and(|(known, _)| name.is(known)) {
            return Some(likely);
        }
        let same = self.fields.iter().position(|(known, _)| name.is(known));
        let py = name.py();
        same.or_else(|| {
            self.fields.iter().position(|(known, _)| plain_equal(name, known.bind_borrowed(py).as_any().as_borrowed()))
        })
    }

    fn fill<'py>(&self, instance: &Bound<'py, PyAny>, call: Call<'_, 'py>) -> Result<(), Failure<'py>> {
        let py = instance.py();
        let mut given = [None; 16];
        let mut many = Vec::new();
        let places = if self.fields.len() <= given.len() {
            &mut given[..self.fields.len()]
        } else {
            many.resize(self.fields.len(), None);
            &mut many[..]
        };
        let positional = call.positional();
        if let Some(names) = call.keywords(py) {
            for index in 0..names.len() {
                let name = tuple_item(names, index);
                match self.position(name, index) {
                    Some(place) => places[place] = Some(call.argument(py, positional + index)),
                    None => return Err(self.unknown(instance, name)),
                }
            }
        }
        let missing = |(_, field): &(Py<PyString>, Py<FieldInfo>)| field.get().required();
        if self.fields.iter().zip(&*places).any(|(field, value)| value.is_none() && missing(field)) {
            let lacking = self.fields.iter().zip(&*places).filter(|(field, value)| value.is_none() && missing(field));
            return Err(incomplete(instance, lacking.map(|((name, _), _)| short_repr(name.bind(py)))));
        }
        for ((_, field), value) in self.fields.iter().zip(&*places) {
            let field = field.get();
            match value {
                Some(value) => {
                    field.look(instance, *value)?;
                    field.keep(instance, value)?;
                }
                None => {
                    if let Some(value) = field.default_for(instance)? {
                        field.keep(instance, &value)?;
                    }
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn unknown<'py>(&self, instance: &Bound<'py, PyAny>, name: Borrowed<'_, 'py, PyAny>) -> Failure<'py> {
        guarding::attached(instance.py(), |_| {
            let names: Vec<_> = self.fields.iter().map(|(name, _)| name.to_string()).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            match name_of(instance) {
                Ok(owner) => {
                    PyTypeError::new_err(format!("{owner} has no field {}; it has {known}", short_repr(&name))).into()
                }
                Err(error) => error.into(),
            }
        })
    }
}

#[cold]
fn incomplete<'py>(instance: &Bound<'py, PyAny>, names: impl Iterator<Item = String>) -> Failure<'py> {
    guarding::attached(instance.py(), |_| match name_of(instance) {
        Ok(owner) => {
            let names: Vec<_> = names.collect();
            PyTypeError::new_err(format!("{owner} needs {}", names.join(", "))).into()
        }
        Err(error) => error.into(),
    })
}

/// The `__init__` of models: keywords alone, each known, each looked at.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct Initializer {}

#[pymethods]
impl Initializer {
    #[new]
    #[pyo3(signature = (function, /))]
    fn new<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        Wrapper::wrap(function, Self {})
    }
}

impl Native for Initializer {
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        let py = this.py();
        if call.positional() != 1 {
            return Err(positional(call, py));
        }
        let instance = call.argument(py, 0);
        let fields = type_of(py, instance).getattr(interned!(py, "__model_fields__"))?;
        fields.cast::<Fields>().map_err(PyErr::from)?.get().fill(&instance, call)?;
        Ok(py.None().into_bound(py))
    }
}

#[cold]
fn positional<'py>(call: Call<'_, 'py>, py: Python<'py>) -> Failure<'py> {
    guarding::attached(py, |_| {
        if call.positional() == 0 {
            return PyTypeError::new_err("__init__ needs an instance").into();
        }
        match name_of(&call.argument(py, 0)) {
            Ok(owner) => PyTypeError::new_err(format!("{owner} takes its fields by name, not by position")).into(),
            Err(error) => error.into(),
        }
    })
}

//! Checks: an annotation, made into a native tree once.
//!
//! A check says yes or no and does nothing else; only when it said no does somebody ask it to explain, and the value is
//! gone through a second time for the place that is wrong. Items of the built-in containers are looked at where they lie:
//! while they are of the very class that is asked for, no reference is counted and no Python code runs.

use std::cell::Cell;
use std::ptr;
use std::sync::OnceLock;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple, PyType,
};

use crate::callable::describing::{
    deeper, dict_next, dict_run, equal, is_instance, iterate, list_run, next, tuple_run,
};
use crate::callable::{Failure, plain_equal, tuple_item, type_of};
use crate::clock;
use crate::errors::{Error, short_repr};

/// How much of a container is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Every item.
    All,
    /// One item of each container, another one each time.
    Sample,
    /// The containers alone.
    Shallow,
}

impl Depth {
    /// The depth of this name.
    pub fn named(name: &str) -> PyResult<Self> {
        match name {
            "all" => Ok(Self::All),
            "sample" => Ok(Self::Sample),
            "shallow" => Ok(Self::Shallow),
            other => {
                let expected = "one of 'all', 'sample', 'shallow'";
                Err(Error::Value { name: "depth".to_owned(), expected, got: format!("{other:?}") }.into())
            }
        }
    }
}

/// A number below `bound`, another one each time. Any will do: this looks for mistakes, not for attackers.
fn somewhere(bound: usize) -> usize {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    STATE.with(|state| {
        // Marsaglia's xorshift64.
        let mut x = match state.get() {
            0 => clock::precise() | 1,
            x => x,
        };
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        usize::try_from((u128::from(x) * bound as u128) >> 64).unwrap_or(0)
    })
}

type Answer<'py> = Result<bool, Failure<'py>>;

enum Node {
    Anything,
    Nothing,
    /// An instance of the class.
    Class(Py<PyAny>),
    /// An instance of `int` and not of `bool`, whose values are numbers by accident of history.
    Int,
    /// A `float`, or an `int`, which may stand where a `float` is asked for (PEP 484); with `true`, a `complex`, too.
    Float(bool),
    Callable,
    /// A class that is one of these, or derives from one.
    Subclass(Vec<Py<PyAny>>),
    Literal(Vec<Py<PyAny>>),
    Union(Vec<Py<Check>>),
    /// A container of the class, with items. Of a container that isn't built in, the items are looked at if `others`.
    Items {
        container: Py<Check>,
        item: Py<Check>,
        others: bool,
    },
    /// A mapping of the class, with keys and values.
    Pairs {
        container: Py<Check>,
        key: Py<Check>,
        value: Py<Check>,
    },
    /// A tuple that begins and ends like this; in between lie none or any number of others.
    Tuple {
        front: Vec<Py<Check>>,
        middle: Option<Py<Check>>,
        back: Vec<Py<Check>>,
    },
    /// A dictionary with these keys, of which some must be there.
    Keys(Vec<(Py<PyString>, Py<Check>, bool)>),
    /// What is known only later: a name that is yet to be defined, or this very annotation.
    Late(OnceLock<Py<Check>>),
}

/// One check.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Check {
    /// The class whose very instances pass without a further look: its address, or 0.
    exact: usize,
    node: Node,
    text: String,
}

impl Check {
    fn new(node: Node, text: impl Into<String>) -> Self {
        Self { exact: 0, node, text: text.into() }
    }

    fn exactly(mut self, exact: usize) -> Self {
        self.exact = exact;
        self
    }

    /// Whether everything passes.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        matches!(self.node, Node::Anything)
    }

    /// What passes, in words.
    #[must_use]
    pub fn text(&self) -> &str {
        match &self.node {
            Node::Late(settled) => settled.get().map_or(&self.text, |check| check.get().text()),
            _ => &self.text,
        }
    }

    /// Whether the value passes.
    #[expect(clippy::inline_always, reason = "the hot path of every check, measured")]
    #[inline(always)]
    pub fn accepts<'py>(&self, value: Borrowed<'_, 'py, PyAny>, depth: Depth) -> Answer<'py> {
        if type_of(value.py(), value).as_ptr().addr() == self.exact {
            return Ok(true);
        }
        self.looks(value, depth)
    }

    #[inline(never)]
    fn looks<'py>(&self, value: Borrowed<'_, 'py, PyAny>, depth: Depth) -> Answer<'py> {
        let py = value.py();
        match &self.node {
            Node::Anything => Ok(true),
            Node::Nothing => Ok(false),
            Node::Class(class) => {
                // `isinstance` begins by comparing the class, too; this spares the call.
                if type_of(py, value).is(class) {
                    return Ok(true);
                }
                Ok(is_instance(value, class.bind(py))?)
            }
            Node::Int => Ok(!value.is_exact_instance_of::<PyBool>() && value.is_instance_of::<PyInt>()),
            Node::Float(complex) => Ok(!value.is_exact_instance_of::<PyBool>()
                && (value.is_instance_of::<PyFloat>()
                    || value.is_instance_of::<PyInt>()
                    || (*complex && value.is_instance_of::<PyComplex>()))),
            Node::Callable => Ok(value.is_callable()),
            Node::Subclass(classes) => {
                let Ok(value) = value.cast::<PyType>() else { return Ok(false) };
                for class in classes {
                    if value.is(class) || value.is_subclass(class.bind(py))? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::Literal(literals) => {
                for literal in literals {
                    if is_literal(value, literal.bind_borrowed(py))? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::Union(members) => {
                for member in members {
                    if member.get().accepts(value, depth)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::Items { container, item, others } => {
                if !container.get().accepts(value, depth)? {
                    return Ok(false);
                }
                item.get().accepts_all(value, *others, depth)
            }
            Node::Pairs { container, key, value: item } => {
                if !container.get().accepts(value, depth)? {
                    return Ok(false);
                }
                accepts_pairs(value, key.get(), item.get(), depth)
            }
            Node::Tuple { front, middle, back } => match value.cast::<PyTuple>() {
                Ok(tuple) => accepts_tuple(tuple, front, middle.as_ref(), back, depth),
                Err(_) => Ok(false),
            },
            Node::Keys(keys) => {
                let Ok(dict) = value.cast::<PyDict>() else { return Ok(false) };
                for (name, check, required) in keys {
                    match dict.get_item(name.bind(py))? {
                        Some(item) if !check.get().accepts(item.as_borrowed(), depth)? => return Ok(false),
                        None if *required => return Ok(false),
                        _ => {}
                    }
                }
                Ok(true)
            }
            Node::Late(settled) => {
                let check = settled.get().ok_or_else(|| unsettled(&self.text))?;
                // Only what refers to itself can be without end.
                let mut answer = Ok(false);
                deeper(py, || {
                    answer = check.get().accepts(value, depth);
                    Ok(())
                })?;
                answer
            }
        }
    }

    /// Whether each item of a container passes.
    fn accepts_all<'py>(&self, value: Borrowed<'_, 'py, PyAny>, others: bool, depth: Depth) -> Answer<'py> {
        if depth == Depth::Shallow || self.is_trivial() {
            return Ok(true);
        }
        if let Ok(list) = value.cast::<PyList>() {
            return match depth {
                Depth::All => self.accepts_list(&list),
                _ if list.is_empty() => Ok(true),
                _ => match list.get_item(somewhere(list.len())) {
                    Ok(item) => self.accepts(item.as_borrowed(), depth),
                    // It has become shorter meanwhile.
                    Err(_) => Ok(true),
                },
            };
        }
        if let Ok(tuple) = value.cast::<PyTuple>() {
            return match depth {
                Depth::All => self.accepts_slice(tuple, 0, tuple.len()),
                _ if tuple.is_empty() => Ok(true),
                _ => self.accepts(tuple_item(tuple, somewhere(tuple.len())), depth),
            };
        }
        if let Ok(dict) = value.cast::<PyDict>() {
            return accepts_entries(&dict, Some(self), None, depth);
        }
        if value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() {
            // All items of these are alike.
            return match next(&iterate(value)?)? {
                Some(item) => self.accepts(item.as_borrowed(), depth),
                None => Ok(true),
            };
        }
        if others || value.is_instance_of::<PySet>() || value.is_instance_of::<PyFrozenSet>() {
            return self.accepts_each(value, depth);
        }
        Ok(true)
    }

    fn accepts_list<'py>(&self, list: &Bound<'py, PyList>) -> Answer<'py> {
        let mut index = 0;
        loop {
            if self.exact != 0 {
                index += list_run(list, index, ptr::with_exposed_provenance_mut(self.exact));
            }
            if index >= list.len() {
                return Ok(true);
            }
            // Another thread may have made it shorter between the two looks.
            let Ok(item) = list.get_item(index) else { return Ok(true) };
            if !self.accepts(item.as_borrowed(), Depth::All)? {
                return Ok(false);
            }
            index += 1;
        }
    }

    fn accepts_slice<'py>(&self, tuple: Borrowed<'_, 'py, PyTuple>, start: usize, end: usize) -> Answer<'py> {
        let mut index = start;
        while index < end {
            if self.exact != 0 {
                index += tuple_run(tuple, index, ptr::with_exposed_provenance_mut(self.exact));
                if index >= end {
                    break;
                }
            }
            if !self.accepts(tuple_item(tuple, index), Depth::All)? {
                return Ok(false);
            }
            index += 1;
        }
        Ok(true)
    }

    fn accepts_each<'py>(&self, value: Borrowed<'_, 'py, PyAny>, depth: Depth) -> Answer<'py> {
        let iterator = iterate(value)?;
        let mut left = if depth == Depth::Sample { 1 } else { usize::MAX };
        while left > 0
            && let Some(item) = next(&iterator)?
        {
            if !self.accepts(item.as_borrowed(), depth)? {
                return Ok(false);
            }
            left -= 1;
        }
        Ok(true)
    }

    /// What is wrong with a value that doesn't pass, `place` being what the value is called; `None` where by now nothing
    /// is.
    pub fn explain(&self, value: Borrowed<'_, '_, PyAny>, place: &str, depth: Depth) -> PyResult<Option<String>> {
        let py = value.py();
        let asks =
            |check: &Self, value: Borrowed<'_, '_, PyAny>| check.accepts(value, depth).map_err(|it| it.fetch(py));
        if asks(self, value)? {
            return Ok(None);
        }
        match &self.node {
            Node::Late(settled) if let Some(check) = settled.get() => {
                return deeper(py, || check.get().explain(value, place, depth));
            }
            Node::Union(members) => {
                // The one member that would do but for what it holds.
                let mut close = Vec::new();
                for member in members {
                    if member.get().accepts(value, Depth::Shallow).map_err(|it| it.fetch(py))? {
                        close.push(member);
                    }
                }
                if let [member] = close[..] {
                    return member.get().explain(value, place, depth);
                }
            }
            Node::Items { container, item, others } if asks(container.get(), value)? => {
                let known = value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>();
                let ordered = known || (*others && value.hasattr("__getitem__")? && !value.is_instance_of::<PyDict>());
                if known || *others || value.hasattr("__len__")? {
                    let iterator = iterate(value)?;
                    let mut index = 0;
                    while let Some(one) = next(&iterator)? {
                        let place = if ordered { format!("{place}[{index}]") } else { format!("an item of {place}") };
                        if let Some(text) = item.get().explain(one.as_borrowed(), &place, depth)? {
                            return Ok(Some(text));
                        }
                        index += 1;
                    }
                }
            }
            Node::Pairs { container, key, value: item } if asks(container.get(), value)? => {
                let pairs = pairs_of(value)?;
                while let Some(pair) = next(&pairs)? {
                    let (one, other) = pair.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
                    if let Some(text) = key.get().explain(one.as_borrowed(), &format!("a key of {place}"), depth)? {
                        return Ok(Some(text));
                    }
                    let place = format!("{place}[{}]", short_repr(&one));
                    if let Some(text) = item.get().explain(other.as_borrowed(), &place, depth)? {
                        return Ok(Some(text));
                    }
                }
            }
            Node::Tuple { front, middle, back } if let Ok(tuple) = value.cast::<PyTuple>() => {
                let few = front.len() + back.len();
                if tuple.len() < few || (middle.is_none() && tuple.len() > few) {
                    let least = if middle.is_some() { "at least " } else { "" };
                    let text = format!(
                        "{place} must be {}: {least}{few} items, not {}: {}",
                        self.text,
                        tuple.len(),
                        short_repr(&tuple)
                    );
                    return Ok(Some(text));
                }
                for index in 0..tuple.len() {
                    let Some(check) = check_at(index, tuple.len(), front, middle.as_ref(), back) else { continue };
                    let place = format!("{place}[{index}]");
                    if let Some(text) = check.get().explain(tuple_item(tuple, index), &place, depth)? {
                        return Ok(Some(text));
                    }
                }
            }
            Node::Keys(keys) if let Ok(dict) = value.cast::<PyDict>() => {
                for (name, check, required) in keys {
                    match dict.get_item(name.bind(py))? {
                        Some(item) => {
                            let place = format!("{place}[{}]", short_repr(name.bind(py)));
                            if let Some(text) = check.get().explain(item.as_borrowed(), &place, depth)? {
                                return Ok(Some(text));
                            }
                        }
                        None if *required => {
                            let name = short_repr(name.bind(py));
                            return Ok(Some(format!("{place} must be {}, and has no {name}", self.text)));
                        }
                        None => {}
                    }
                }
            }
            _ => {}
        }
        let got = if value.is_none() {
            "None".to_owned()
        } else {
            format!("{}: {}", value.get_type().name()?, short_repr(&value))
        };
        Ok(Some(format!("{place} must be {}, not {got}", self.text())))
    }

    fn children(&self) -> Vec<&Py<Self>> {
        match &self.node {
            Node::Union(members) => members.iter().collect(),
            Node::Items { container, item, .. } => vec![container, item],
            Node::Pairs { container, key, value } => vec![container, key, value],
            Node::Tuple { front, middle, back } => front.iter().chain(middle).chain(back).collect(),
            Node::Keys(keys) => keys.iter().map(|(_, check, _)| check).collect(),
            Node::Late(settled) => settled.get().into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

fn unsettled(text: &str) -> PyErr {
    PyRuntimeError::new_err(format!("the annotation {text} is not known yet"))
}

/// Whether the value is the literal: equal, and of the same class (PEP 586: `1` is not `True`).
fn is_literal<'py>(value: Borrowed<'_, 'py, PyAny>, literal: Borrowed<'_, 'py, PyAny>) -> PyResult<bool> {
    let py = value.py();
    if value.is(literal) {
        return Ok(true);
    }
    if !type_of(py, value).is(type_of(py, literal)) {
        return Ok(false);
    }
    if value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyBytes>()
    {
        return Ok(plain_equal(value, literal));
    }
    equal(value, &literal)
}

fn check_at<'a>(
    index: usize,
    length: usize,
    front: &'a [Py<Check>],
    middle: Option<&'a Py<Check>>,
    back: &'a [Py<Check>],
) -> Option<&'a Py<Check>> {
    if index < front.len() {
        return Some(&front[index]);
    }
    if length - index <= back.len() {
        return Some(&back[back.len() - (length - index)]);
    }
    middle
}

fn accepts_tuple<'py>(
    tuple: Borrowed<'_, 'py, PyTuple>,
    front: &[Py<Check>],
    middle: Option<&Py<Check>>,
    back: &[Py<Check>],
    depth: Depth,
) -> Answer<'py> {
    let length = tuple.len();
    let few = front.len() + back.len();
    if length < few || (middle.is_none() && length > few) {
        return Ok(false);
    }
    if depth == Depth::Shallow {
        return Ok(true);
    }
    let fixed = front.iter().enumerate();
    let fixed = fixed.chain(back.iter().enumerate().map(|(index, check)| (length - back.len() + index, check)));
    for (index, check) in fixed {
        // There are but few of these, and each is of its own: a sample takes all of them.
        if !check.get().accepts(tuple_item(tuple, index), depth)? {
            return Ok(false);
        }
    }
    let Some(middle) = middle.filter(|middle| !middle.get().is_trivial() && length > few) else { return Ok(true) };
    if depth == Depth::Sample {
        return middle.get().accepts(tuple_item(tuple, front.len() + somewhere(length - few)), depth);
    }
    middle.get().accepts_slice(tuple, front.len(), length - back.len())
}

/// Whether each entry of a dictionary passes; keys or values that nobody asks about do.
fn accepts_entries<'py>(
    dict: &Bound<'py, PyDict>,
    keys: Option<&Check>,
    values: Option<&Check>,
    depth: Depth,
) -> Answer<'py> {
    let class = |check: Option<&Check>| match check {
        Some(check) if !check.is_trivial() => Some(check.exact),
        _ => None,
    };
    let (key_class, value_class) = (class(keys), class(values));
    let mut position = 0;
    let mut left = usize::MAX;
    if depth == Depth::Sample {
        left = 1;
        // A place in the table of entries; where it lies behind the last, or in a gap up to the end, the first will do.
        position = somewhere(dict.len().max(1)).cast_signed();
        if dict_next(dict, &mut position.clone()).is_none() {
            position = 0;
        }
    } else if key_class != Some(0) && value_class != Some(0) {
        let pointer = |class: Option<usize>| class.map_or(ptr::null_mut(), ptr::with_exposed_provenance_mut);
        let (seen, complete) = dict_run(dict, pointer(key_class), pointer(value_class));
        if complete {
            return Ok(true);
        }
        position = seen;
    }
    while left > 0
        && let Some((key, value)) = dict_next(dict, &mut position)
    {
        for (check, one) in [(keys, &key), (values, &value)] {
            if let Some(check) = check
                && !check.accepts(one.as_borrowed(), depth)?
            {
                return Ok(false);
            }
        }
        left -= 1;
    }
    Ok(true)
}

fn pairs_of<'py>(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let items = crate::guarding::call_method(&value, crate::guarding::interned!(value.py(), "items"), &[])?;
    iterate(items.as_borrowed())
}

fn accepts_pairs<'py>(value: Borrowed<'_, 'py, PyAny>, key: &Check, item: &Check, depth: Depth) -> Answer<'py> {
    if depth == Depth::Shallow || (key.is_trivial() && item.is_trivial()) {
        return Ok(true);
    }
    if let Ok(dict) = value.cast::<PyDict>() {
        return accepts_entries(&dict, Some(key), Some(item), depth);
    }
    let pairs = pairs_of(value)?;
    let mut left = if depth == Depth::Sample { 1 } else { usize::MAX };
    while left > 0
        && let Some(pair) = next(&pairs)?
    {
        let (one, other) = pair.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
        if !key.accepts(one.as_borrowed(), depth)? || !item.accepts(other.as_borrowed(), depth)? {
            return Ok(false);
        }
        left -= 1;
    }
    Ok(true)
}

#[pymethods]
impl Check {
    /// Everything passes.
    #[staticmethod]
    fn anything() -> Self {
        Self::new(Node::Anything, "anything")
    }

    /// Nothing does.
    #[staticmethod]
    #[pyo3(signature = (text, /))]
    fn nothing(text: String) -> Self {
        Self::new(Node::Nothing, text)
    }

    /// Instances of a class; of `int`, `float` and `complex` as `typing` means them, without `bool`.
    #[staticmethod]
    #[pyo3(signature = (class, text, /))]
    fn instance(class: &Bound<'_, PyType>, text: String) -> Self {
        let py = class.py();
        let node = if class.is(py.get_type::<PyInt>()) {
            Node::Int
        } else if class.is(py.get_type::<PyFloat>()) {
            Node::Float(false)
        } else if class.is(py.get_type::<PyComplex>()) {
            Node::Float(true)
        } else if class.is(py.get_type::<PyAny>()) {
            return Self::anything();
        } else {
            Node::Class(class.clone().into_any().unbind())
        };
        Self::new(node, text).exactly(class.as_ptr().expose_provenance())
    }

    /// What can be called.
    #[staticmethod]
    #[pyo3(signature = (text, /))]
    fn callable(text: String) -> Self {
        Self::new(Node::Callable, text)
    }

    /// Classes that are one of these or derive from one.
    #[staticmethod]
    #[pyo3(signature = (classes, text, /))]
    fn subclass(classes: Vec<Py<PyAny>>, text: String) -> Self {
        Self::new(Node::Subclass(classes), text)
    }

    /// These very values.
    #[staticmethod]
    #[pyo3(signature = (literals, text, /))]
    fn literal(literals: Vec<Py<PyAny>>, text: String) -> Self {
        Self::new(Node::Literal(literals), text)
    }

    /// What passes one of these.
    #[staticmethod]
    #[pyo3(signature = (members, text, /))]
    fn union(members: Vec<Py<Self>>, text: String) -> Self {
        if members.iter().any(|member| member.get().is_trivial()) {
            return Self::anything();
        }
        let exact = members.first().map_or(0, |member| member.get().exact);
        Self::new(Node::Union(members), text).exactly(exact)
    }

    /// Containers and their items; see [`Node::Items`].
    #[staticmethod]
    #[pyo3(signature = (container, item, others, text, /))]
    fn items(container: Py<Self>, item: Py<Self>, others: bool, text: String) -> Self {
        Self::new(Node::Items { container, item, others }, text)
    }

    /// Mappings with their keys and values.
    #[staticmethod]
    #[pyo3(signature = (container, key, value, text, /))]
    fn pairs(container: Py<Self>, key: Py<Self>, value: Py<Self>, text: String) -> Self {
        Self::new(Node::Pairs { container, key, value }, text)
    }

    /// Tuples; see [`Node::Tuple`].
    #[staticmethod]
    #[pyo3(signature = (front, middle, back, text, /))]
    fn tuple(front: Vec<Py<Self>>, middle: Option<Py<Self>>, back: Vec<Py<Self>>, text: String) -> Self {
        Self::new(Node::Tuple { front, middle, back }, text)
    }

    /// Dictionaries with keys of which it is known what they hold: name, check, and whether it must be there.
    #[staticmethod]
    #[pyo3(signature = (keys, text, /))]
    fn keys(keys: Vec<(Py<PyString>, Py<Self>, bool)>, text: String) -> Self {
        Self::new(Node::Keys(keys), text)
    }

    /// A check that is settled later.
    #[staticmethod]
    #[pyo3(signature = (text, /))]
    fn late(text: String) -> Self {
        Self::new(Node::Late(OnceLock::new()), text)
    }

    /// Settles a check that was made by `late`.
    #[pyo3(signature = (check, /))]
    fn settle(&self, check: Py<Self>) -> PyResult<()> {
        let mut inner = check.get();
        // A name that stands for itself alone would be asked for ever.
        while let Node::Late(settled) = &inner.node {
            match settled.get() {
                Some(further) => inner = further.get(),
                None if ptr::eq(inner, self) => {
                    return Err(PyValueError::new_err(format!("the annotation {} means itself", self.text)));
                }
                None => break,
            }
        }
        match &self.node {
            Node::Late(settled) if settled.set(check).is_ok() => Ok(()),
            _ => Err(PyRuntimeError::new_err("this check is settled")),
        }
    }

    /// Whether a value passes.
    #[pyo3(name = "accepts", signature = (value, depth="all", /))]
    fn accepts_value(&self, value: &Bound<'_, PyAny>, depth: &str) -> PyResult<bool> {
        let py = value.py();
        self.accepts(value.as_borrowed(), Depth::named(depth)?).map_err(|it| it.fetch(py))
    }

    /// What is wrong with a value, which is called `place`; `None` where nothing is.
    #[pyo3(name = "explain", signature = (value, place, /))]
    fn explain_value(&self, value: &Bound<'_, PyAny>, place: &str) -> PyResult<Option<String>> {
        self.explain(value.as_borrowed(), place, Depth::All)
    }

    fn __repr__(&self) -> String {
        format!("<check for {}>", self.text())
    }

    /// What passes, in words.
    #[getter(text)]
    fn text_of(&self) -> &str {
        self.text()
    }

    /// Whether everything passes.
    #[getter(trivial)]
    fn trivial(&self) -> bool {
        self.is_trivial()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for child in self.children() {
            visit.call(child)?;
        }
        match &self.node {
            Node::Class(class) => visit.call(class),
            Node::Subclass(objects) | Node::Literal(objects) => objects.iter().try_for_each(|one| visit.call(one)),
            _ => Ok(()),
        }
    }
}

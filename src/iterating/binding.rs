//! The room's iterators and `sort`, as Python sees them.

use std::collections::VecDeque;

use pyo3::exceptions::{PyException, PyRecursionError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyFloat, PyList, PyString, PyTuple};

use super::averaging::Window;
use super::crew;
use super::ordering::{self, Placed, Strategy};
use crate::guarding::{self, interned};
use crate::stepping::{self, Claim, Source, Stepping, call_one, list_of, tuple_of};

/// Attaches a note to an error; what can't take one stays as it is.
pub fn add_note(py: Python<'_>, error: &PyErr, note: &str) {
    let _ = error.value(py).call_method1(interned!(py, "add_note"), (note,));
}

/// An object as a note shows it.
#[must_use]
pub fn shown(object: &Bound<'_, PyAny>) -> String {
    let text = object.repr().map_or_else(|_| "an object without a repr".to_owned(), |text| text.to_string());
    if text.chars().count() <= 200 { text } else { text.chars().take(197).chain("...".chars()).collect() }
}

// ---- batches ----------------------------------------------------------------------------------------------------------

struct Batching {
    source: Source,
    n: usize,
    strict: bool,
    tuples: bool,
    /// What the source raised behind a batch that was given out first.
    pending: Option<PyErr>,
    /// Items of a batch that is not full yet.
    items: Vec<Py<PyAny>>,
}

/// Batches of `n` items, as tuples or lists.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct Batches {
    state: Claim<Batching>,
}

#[pymethods]
impl Batches {
    #[new]
    #[pyo3(signature = (iterable, n, /, *, strict, tuples))]
    fn new(iterable: &Bound<'_, PyAny>, n: usize, strict: bool, tuples: bool) -> PyResult<Self> {
        let source = Source::new(iterable)?;
        let state = Batching { source, n, strict, tuples, pending: None, items: Vec::new() };
        Ok(Self { state: Claim::new(state) })
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| {
            state.source.traverse(&visit)?;
            state.items.iter().try_for_each(|item| visit.call(item))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        if let Some(mut state) = self.state.claim(py) {
            let items = std::mem::take(&mut state.items);
            state.source.end(py);
            guarding::release(py, items);
        }
    }
}

impl Batching {
    #[inline]
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if let Some(error) = self.pending.take() {
            return Err(error);
        }
        if let Some(piece) = self.source.slice(py, self.n, self.tuples)? {
            let length = piece.len()?;
            if length == self.n {
                return Ok(Some(piece));
            }
            self.source.end(py);
            if length == 0 {
                return Ok(None);
            }
            return if self.strict { Err(self.incomplete(&piece)) } else { Ok(Some(piece)) };
        }
        let Self { source, n, tuples, items, .. } = self;
        // What a failure left over is the beginning of the next batch.
        let whole = if items.is_empty() { source.batch(py, *n, *tuples, items) } else { Ok(None) };
        let outcome = match whole {
            Ok(Some(batch)) => return Ok(Some(batch)),
            // A source that has ended by now gives nothing more here.
            Ok(None) => source.gather(py, *n, items),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            // Only a program's own exceptions wait: Ctrl-C and its like are heard at once, and what has been pulled is
            // given out when the iterator is asked again.
            if self.items.is_empty() || self.strict || !error.is_instance_of::<PyException>(py) {
                return Err(error);
            }
            self.pending = Some(error);
        }
        if self.items.is_empty() {
            return Ok(None);
        }
        let full = self.items.len() == self.n;
        let batch = if self.tuples { tuple_of(py, &mut self.items)? } else { list_of(py, &mut self.items)? };
        if !full && self.strict {
            return Err(self.incomplete(&batch));
        }
        Ok(Some(batch))
    }

    #[cold]
    fn incomplete(&self, batch: &Bound<'_, PyAny>) -> PyErr {
        let name = if self.tuples { "batched" } else { "chunked" };
        let count = batch.len().unwrap_or_default();
        let error = PyValueError::new_err(format!("{name}(): the last batch has {count} of {} items", self.n));
        add_note(batch.py(), &error, &format!("its items: {}", shown(batch)));
        error
    }
}

impl Stepping for Batches {
    #[inline]
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        this.get().state.enter(py, "a batching iterator")?.next(py)
    }
}

struct Weighing {
    source: Source,
    max_items: usize,
    max_weight: f64,
    weigher: Option<Py<PyAny>>,
    items: Vec<Py<PyAny>>,
    weight: f64,
    /// The first item of the next batch, and what it weighs.
    carried: Option<(Py<PyAny>, f64)>,
    pending: Option<PyErr>,
    index: u64,
}

/// Batches that end when they have so many items, or weigh so much.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct WeighedBatches {
    state: Claim<Weighing>,
}

#[pymethods]
impl WeighedBatches {
    #[new]
    #[pyo3(signature = (iterable, /, *, max_items, max_weight, weigher))]
    fn new(
        iterable: &Bound<'_, PyAny>,
        max_items: usize,
        max_weight: f64,
        weigher: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let source = Source::new(iterable)?;
        Ok(Self {
            state: Claim::new(Weighing {
                source,
                max_items,
                max_weight,
                weigher,
                items: Vec::new(),
                weight: 0.0,
                carried: None,
                pending: None,
                index: 0,
            }),
        })
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| {
            state.source.traverse(&visit)?;
            visit.call(&state.weigher)?;
            if let Some((item, _)) = &state.carried {
                visit.call(item)?;
            }
            state.items.iter().try_for_each(|item| visit.call(item))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        if let Some(mut state) = self.state.claim(py) {
            let mut gone = std::mem::take(&mut state.items);
            gone.extend(state.weigher.take());
            gone.extend(state.carried.take().map(|carried| carried.0));
            state.source.end(py);
            guarding::release(py, gone);
        }
    }
}

/// What an item weighs.
fn weigh(item: &Bound<'_, PyAny>, weigher: Option<&Py<PyAny>>, index: u64) -> PyResult<f64> {
    let py = item.py();
    let said = match weigher {
        Some(weigher) => call_one(weigher.bind(py), item).and_then(|said| said.extract::<f64>()),
        None => item.len().map(|length| length as f64),
    };
    said.and_then(|weight| {
        if weight >= 0.0 {
            Ok(weight)
        } else {
            Err(PyValueError::new_err(format!("a weight must be 0 or more, got {weight}")))
        }
    })
    .inspect_err(|error| add_note(py, error, &format!("batched_by: weighing item {index}: {}", shown(item))))
}

impl Weighing {
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if let Some(error) = self.pending.take() {
            return Err(error);
        }
        if let Some((item, weight)) = self.carried.take() {
            self.items.push(item);
            self.weight = weight;
        }
        while self.items.len() < self.max_items {
            match self.source.next(py) {
                Ok(Some(item)) => {
                    self.index += 1;
                    if self.max_weight.is_infinite() {
                        self.items.push(item.unbind());
                        continue;
                    }
                    match weigh(&item, self.weigher.as_ref(), self.index - 1) {
                        Ok(weight) if !self.items.is_empty() && self.weight + weight > self.max_weight => {
                            self.carried = Some((item.unbind(), weight));
                            break;
                        }
                        Ok(weight) => {
                            self.weight += weight;
                            self.items.push(item.unbind());
                        }
                        Err(error) => {
                            if self.items.is_empty() || !error.is_instance_of::<PyException>(py) {
                                return Err(error);
                            }
                            self.pending = Some(error);
                            break;
                        }
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    if self.items.is_empty() || !error.is_instance_of::<PyException>(py) {
                        return Err(error);
                    }
                    self.pending = Some(error);
                    break;
                }
            }
        }
        self.weight = 0.0;
        if self.items.is_empty() { Ok(None) } else { list_of(py, &mut self.items).map(Some) }
    }
}

impl Stepping for WeighedBatches {
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        this.get().state.enter(py, "a batching iterator")?.next(py)
    }
}

// ---- windows ----------------------------------------------------------------------------------------------------------

struct Sliding {
    source: Source,
    n: usize,
    step: usize,
    fill: Option<Py<PyAny>>,
    window: VecDeque<Py<PyAny>>,
    /// How many items of the source stand between this window and the next.
    to_skip: usize,
    ended: bool,
}

/// Windows of `n` items, `step` apart.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct Windows {
    state: Claim<Sliding>,
}

#[pymethods]
impl Windows {
    #[new]
    #[pyo3(signature = (iterable, n, /, *, step, fill))]
    fn new(iterable: &Bound<'_, PyAny>, n: usize, step: usize, fill: Option<(Py<PyAny>,)>) -> PyResult<Self> {
        let source = Source::new(iterable)?;
        let fill = fill.map(|(fill,)| fill);
        let state = Sliding { source, n, step, fill, window: VecDeque::new(), to_skip: 0, ended: false };
        Ok(Self { state: Claim::new(state) })
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| {
            state.source.traverse(&visit)?;
            visit.call(&state.fill)?;
            state.window.iter().try_for_each(|item| visit.call(item))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        if let Some(mut state) = self.state.claim(py) {
            let window = std::mem::take(&mut state.window);
            let fill = state.fill.take();
            state.source.end(py);
            guarding::release(py, window.into_iter().chain(fill));
        }
    }
}

impl Sliding {
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.ended {
            return Ok(None);
        }
        let overlap = self.step < self.n;
        let mut fresh = 0;
        while self.window.len() < self.n {
            match self.source.next(py)? {
                Some(item) if self.to_skip > 0 => {
                    self.to_skip -= 1;
                    guarding::release(py, [item.unbind()]);
                }
                Some(item) => {
                    self.window.push_back(item.unbind());
                    fresh += 1;
                }
                None => {
                    self.ended = true;
                    break;
                }
            }
        }
        if self.ended {
            // A last window that is not full: only if there is something new in it, and something to fill it with.
            let something_new = fresh > 0;
            let Some(fill) = self.fill.as_ref().filter(|_| something_new) else {
                let window = std::mem::take(&mut self.window);
                guarding::release(py, window);
                return Ok(None);
            };
            while self.window.len() < self.n {
                self.window.push_back(fill.clone_ref(py));
            }
        }
        let made = PyTuple::new(py, self.window.iter().map(|item| item.bind(py)))?;
        if overlap {
            guarding::release(py, self.window.drain(..self.step));
        } else {
            let window = std::mem::take(&mut self.window);
            guarding::release(py, window);
            self.to_skip = self.step - self.n;
        }
        Ok(Some(made.into_any()))
    }
}

impl Stepping for Windows {
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        this.get().state.enter(py, "a windowing iterator")?.next(py)
    }
}

enum Averaged {
    /// Numbers as the processor has them.
    Plain(Window),
    /// Anything that can be added and divided: the same two heaps, of objects.
    Objects { back: Vec<Py<PyAny>>, back_sum: Option<Py<PyAny>>, front: Vec<Py<PyAny>> },
}

struct Averaging {
    source: Source,
    window: usize,
    numbers: Averaged,
    index: u64,
}

/// The mean of each window.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct MovingAverage {
    state: Claim<Averaging>,
}

#[pymethods]
impl MovingAverage {
    #[new]
    #[pyo3(signature = (iterable, window, /))]
    fn new(iterable: &Bound<'_, PyAny>, window: usize) -> PyResult<Self> {
        let source = Source::new(iterable)?;
        let numbers = Averaged::Plain(Window::new(window));
        Ok(Self { state: Claim::new(Averaging { source, window, numbers, index: 0 }) })
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| {
            state.source.traverse(&visit)?;
            if let Averaged::Objects { back, back_sum, front } = &state.numbers {
                visit.call(back_sum)?;
                back.iter().chain(front).try_for_each(|item| visit.call(item))?;
            }
            Ok(())
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        if let Some(mut state) = self.state.claim(py) {
            let numbers = std::mem::replace(&mut state.numbers, Averaged::Plain(Window::new(1)));
            state.source.end(py);
            drop(numbers);
        }
    }
}

/// A number that a float has exactly.
#[inline]
fn exact(item: &Bound<'_, PyAny>) -> Option<f64> {
    if let Some(value) = stepping::plain_float(item) {
        return Some(value);
    }
    let value = stepping::small_int(item)?;
    (value.unsigned_abs() <= 1 << 53).then_some(value as f64)
}

impl Averaging {
    #[inline]
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            let Some(item) = self.source.next(py)? else { return Ok(None) };
            self.index += 1;
            if let Averaged::Plain(window) = &mut self.numbers {
                if let Some(number) = exact(&item) {
                    if let Some(sum) = window.push(number) {
                        return Ok(Some(PyFloat::new(py, sum / self.window as f64).into_any()));
                    }
                    continue;
                }
                self.turn_to_objects(py)?;
            }
            let made = self.push(&item).inspect_err(|error| {
                add_note(py, error, &format!("moving_average: item {}: {}", self.index - 1, shown(&item)));
            })?;
            if let Some(made) = made {
                return Ok(Some(made));
            }
        }
    }

    /// Goes on with objects: the plain numbers of the window become Python's.
    #[cold]
    fn turn_to_objects(&mut self, py: Python<'_>) -> PyResult<()> {
        let mut objects = Averaged::Objects { back: Vec::new(), back_sum: None, front: Vec::new() };
        if let Averaged::Plain(window) = &self.numbers {
            let numbers = window.numbers();
            std::mem::swap(&mut self.numbers, &mut objects);
            for number in numbers {
                // Whole numbers as `int`, which more kinds of numbers can be added to.
                let number = if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 {
                    #[expect(clippy::cast_possible_truncation, reason = "whole and small, as just checked")]
                    let whole = number as i64;
                    whole.into_pyobject(py)?.into_any()
                } else {
                    PyFloat::new(py, number).into_any()
                };
                self.push(&number)?;
            }
        }
        Ok(())
    }

    fn push<'py>(&mut self, item: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = item.py();
        let Averaged::Objects { back, back_sum, front } = &mut self.numbers else { return Ok(None) };
        if front.is_empty() && back.len() == self.window {
            let mut sums: Vec<Py<PyAny>> = Vec::with_capacity(back.len());
            for number in back.iter().rev() {
                let sum = match sums.last() {
                    Some(sum) => number.bind(py).add(sum)?.unbind(),
                    None => number.clone_ref(py),
                };
                sums.push(sum);
            }
            *front = sums;
            guarding::release(py, back.drain(..));
            guarding::release(py, back_sum.take());
        }
        let sum = match back_sum.as_ref() {
            Some(sum) => sum.bind(py).add(item)?,
            None => item.clone(),
        };
        guarding::release(py, front.pop());
        back.push(item.clone().unbind());
        guarding::release(py, back_sum.replace(sum.clone().unbind()));
        if front.len() + back.len() < self.window {
            return Ok(None);
        }
        let sum = match front.last() {
            Some(front) => front.bind(py).add(sum)?,
            None => sum,
        };
        sum.div(self.window).map(Some)
    }
}

impl Stepping for MovingAverage {
    #[inline]
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        this.get().state.enter(py, "a moving average")?.next(py)
    }
}

// ---- flattening -------------------------------------------------------------------------------------------------------

struct Flattening {
    levels: Vec<Source>,
    /// At most so many levels below the first.
    depth: usize,
}

/// The items of nested iterables.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct Flattened {
    state: Claim<Flattening>,
}

#[pymethods]
impl Flattened {
    #[new]
    #[pyo3(signature = (iterable, depth, /))]
    fn new(iterable: &Bound<'_, PyAny>, depth: Option<usize>) -> PyResult<Self> {
        let levels = vec![Source::new(iterable)?];
        Ok(Self { state: Claim::new(Flattening { levels, depth: depth.unwrap_or(usize::MAX) }) })
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| state.levels.iter().try_for_each(|level| level.traverse(&visit)))
    }

    fn __clear__(&self, py: Python<'_>) {
        if let Some(mut state) = self.state.claim(py) {
            let levels = std::mem::take(&mut state.levels);
            for mut level in levels {
                level.end(py);
            }
        }
    }
}

impl Flattening {
    #[inline]
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        while let Some(level) = self.levels.last_mut() {
            let Some(item) = level.next(py)? else {
                self.levels.pop();
                continue;
            };
            if self.levels.len() > self.depth || is_leaf(&item) {
                return Ok(Some(item));
            }
            if self.levels.len() >= DEEPEST {
                return Err(PyRecursionError::new_err("flatten: nested deeper than a million levels, or in itself"));
            }
            let inner = Source::new(&item)?;
            self.levels.push(inner);
            guarding::release(py, [item.unbind()]);
        }
        Ok(None)
    }
}

/// What holds itself would fill the memory otherwise.
const DEEPEST: usize = 1_000_000;

#[inline]
fn is_leaf(item: &Bound<'_, PyAny>) -> bool {
    stepping::is_plain_leaf(item)
        || !stepping::is_iterable(item)
        || item.is_instance_of::<PyString>()
        || item.is_instance_of::<PyBytes>()
        || item.is_instance_of::<PyByteArray>()
}

impl Stepping for Flattened {
    #[inline]
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        this.get().state.enter(py, "a flattening iterator")?.next(py)
    }
}

// ---- numbers and trees ------------------------------------------------------------------------------------------------

enum Pair {
    Small(u64, u64),
    Large(Py<PyAny>, Py<PyAny>),
}

/// The Fibonacci numbers, without end.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct Fibonacci {
    state: Claim<Pair>,
}

#[pymethods]
impl Fibonacci {
    #[new]
    fn new() -> Self {
        Self { state: Claim::new(Pair::Small(0, 1)) }
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }
}

impl Stepping for Fibonacci {
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        let mut state = this.get().state.enter(py, "the Fibonacci numbers")?;
        let (number, next) = match &*state {
            Pair::Small(one, other) => {
                let number = one.into_pyobject(py)?.into_any();
                let next = if let Some(sum) = one.checked_add(*other) {
                    Pair::Small(*other, sum)
                } else {
                    let other = other.into_pyobject(py)?.into_any();
                    let sum = number.add(&other)?;
                    Pair::Large(other.unbind(), sum.unbind())
                };
                (number, next)
            }
            Pair::Large(one, other) => {
                let sum = one.bind(py).add(other)?;
                (one.bind(py).clone(), Pair::Large(other.clone_ref(py), sum.unbind()))
            }
        };
        let before = std::mem::replace(&mut *state, next);
        guarding::attached(py, |_| drop(before));
        Ok(Some(number))
    }
}

struct Walking {
    /// Nodes whose left side has been begun; the last one's value comes next.
    path: Vec<Py<PyAny>>,
    /// The root of what is to be walked down before.
    ahead: Option<Py<PyAny>>,
    names: [Py<PyString>; 3],
}

/// The values of a binary tree, from left to right.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct InOrder {
    state: Claim<Walking>,
}

#[pymethods]
impl InOrder {
    #[new]
    #[pyo3(signature = (root, left, right, value, /))]
    fn new(root: Py<PyAny>, left: Py<PyString>, right: Py<PyString>, value: Py<PyString>, py: Python<'_>) -> Self {
        let ahead = (!root.is_none(py)).then_some(root);
        Self { state: Claim::new(Walking { path: Vec::new(), ahead, names: [left, right, value] }) }
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| {
            visit.call(&state.ahead)?;
            state.path.iter().try_for_each(|node| visit.call(node))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        if let Some(mut state) = self.state.claim(py) {
            let path = std::mem::take(&mut state.path);
            let ahead = state.ahead.take();
            guarding::release(py, path.into_iter().chain(ahead));
        }
    }
}

impl Stepping for InOrder {
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        let mut state = this.get().state.enter(py, "a walk through a tree")?;
        let Walking { path, ahead, names: [left, right, value] } = &mut *state;
        while let Some(node) = ahead.as_ref() {
            let next = node.bind(py).getattr(left.bind(py))?;
            path.extend(ahead.take());
            *ahead = (!next.is_none()).then(|| next.unbind());
        }
        let Some(node) = path.last().map(|node| node.bind(py).clone()) else { return Ok(None) };
        let value = node.getattr(value.bind(py))?;
        let next = node.getattr(right.bind(py))?;
        guarding::release(py, path.pop());
        *ahead = (!next.is_none()).then(|| next.unbind());
        Ok(Some(value))
    }
}

// ---- sorting ----------------------------------------------------------------------------------------------------------

/// Below so many items the interpreter's own sort is as quick.
const FEW: usize = 64;

enum Kind {
    Numbers(Vec<Placed>),
    Texts(Vec<Placed>),
}

/// The keys of a list whose items are all of one class that needs no interpreter to be compared.
#[expect(clippy::cast_possible_truncation, reason = "the caller has seen to it that places fit 32 bits")]
fn keys_of(list: &Bound<'_, PyList>) -> Option<Kind> {
    let first = list.get_item(0).ok()?;
    let count = list.len();
    let mut keys = Vec::with_capacity(count);
    if stepping::small_int(&first).is_some() {
        for (place, item) in list.iter().enumerate() {
            keys.push((ordering::int_key(stepping::small_int(&item)?), place as u32));
        }
        return Some(Kind::Numbers(keys));
    }
    if stepping::plain_float(&first).is_some() {
        for (place, item) in list.iter().enumerate() {
            keys.push((ordering::float_key(stepping::plain_float(&item)?)?, place as u32));
        }
        return Some(Kind::Numbers(keys));
    }
    for (place, item) in list.iter().enumerate() {
        let text = item.cast_exact::<PyString>().ok()?;
        keys.push((ordering::text_key(stepping::latin_text(text)?), place as u32));
    }
    Some(Kind::Texts(keys))
}

/// Sorts a list that nobody else knows: `keys` is `items` itself, or their keys. `None` where the interpreter has to.
#[pyfunction]
#[pyo3(signature = (items, keys, strategy, reverse, /))]
pub fn sort_plain<'py>(
    items: &Bound<'py, PyList>,
    keys: &Bound<'py, PyList>,
    strategy: &str,
    reverse: bool,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = items.py();
    let strategy = match strategy {
        "auto" => Strategy::Auto,
        "quick" => Strategy::Quick,
        "merge" => Strategy::Merge,
        other => return Err(PyValueError::new_err(format!("there is no strategy {other:?}"))),
    };
    let count = items.len();
    if count < FEW || count >= u32::MAX as usize || keys.len() != count {
        return Ok(None);
    }
    let threads =
        if count >= 50_000 && (strategy != Strategy::Auto || is_text_list(keys)) { crew::pool(py) } else { None };
    let Some(kind) = keys_of(keys) else { return Ok(None) };
    let sorted = match kind {
        Kind::Numbers(mut keys) => {
            py.detach(|| ordering::sort(&mut keys, strategy, reverse, threads.as_deref()));
            keys
        }
        Kind::Texts(mut placed) => {
            // The list holds the texts, and nobody else has the list.
            let objects: Vec<Bound<'_, PyAny>> = keys.iter().collect();
            let texts: Vec<&[u8]> = objects
                .iter()
                .map(|object| object.cast_exact::<PyString>().ok().and_then(stepping::latin_text).unwrap_or_default())
                .collect();
            py.detach(|| {
                let text = |place: u32| texts[place as usize];
                ordering::sort_texts(&mut placed, strategy, reverse, threads.as_deref(), text);
            });
            placed
        }
    };
    let mut objects: Vec<Py<PyAny>> = Vec::with_capacity(count);
    for (_, place) in sorted {
        objects.push(items.get_item(place as usize)?.unbind());
    }
    list_of(py, &mut objects).map(Some)
}

fn is_text_list(list: &Bound<'_, PyList>) -> bool {
    list.get_item(0).is_ok_and(|first| first.is_exact_instance_of::<PyString>())
}

/// Gives the room's iterators their slot. Called once, before any of them exists.
pub fn publish_all(py: Python<'_>) {
    stepping::publish::<Batches>(py);
    stepping::publish::<WeighedBatches>(py);
    stepping::publish::<Windows>(py);
    stepping::publish::<MovingAverage>(py);
    stepping::publish::<Flattened>(py);
    stepping::publish::<Fibonacci>(py);
    stepping::publish::<InOrder>(py);
    stepping::publish::<super::lines::LineReader>(py);
}

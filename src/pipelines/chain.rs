//! Stages in one loop behind one iterator.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyException, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::expressions::{Function, Operator, Program, Value, binary};
use crate::guarding;
use crate::iterating::binding::{add_note, shown};
use crate::stepping::{self, Claim, Source, Stepping, call_one, list_of};

/// What becomes of an item on which a stage fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnError {
    Raise,
    Skip,
    Collect,
}

/// How a running total goes on.
enum Total {
    Sum,
    Product,
    Least,
    Greatest,
    By(Py<PyAny>),
}

enum Kind {
    Map(Function),
    Filter(Function),
    FlatMap(Function),
    Tap(Function),
    TakeWhile(Function),
    Accumulate(Total, Option<Kept>),
    Dedupe(Option<Function>, Py<PyDict>, Option<usize>),
    Skip(u64),
    Take(u64),
    Batch(usize, Vec<Py<PyAny>>),
    Windowed { n: usize, step: usize, skip: usize, fill: Option<Py<PyAny>>, window: VecDeque<Py<PyAny>>, fresh: bool },
}

/// A value between two items.
enum Kept {
    Object(Py<PyAny>),
    Int(i64),
    Float(f64),
}

impl Kept {
    fn of(value: &Value<'_>) -> Self {
        match value {
            Value::Object(object) => Self::Object(object.clone().unbind()),
            Value::Int(value) => Self::Int(*value),
            Value::Float(value) => Self::Float(*value),
            Value::Bool(value) => Self::Int(i64::from(*value)),
        }
    }

    fn value<'py>(&self, py: Python<'py>) -> Value<'py> {
        match self {
            Self::Object(object) => Value::Object(object.bind(py).clone()),
            Self::Int(value) => Value::Int(*value),
            Self::Float(value) => Value::Float(*value),
        }
    }
}

struct Stage {
    name: String,
    kind: Kind,
    on_error: OnError,
    /// How many items have come in.
    count: u64,
}

/// What a stage does with an `int`, in the fewest words.
#[derive(Clone, Copy)]
enum Deed {
    Add,
    Sub,
    Mul,
    /// A comparison: whether less, equal and greater stay, in three bits.
    Compare(u8),
    /// The stage's program says what comes of it.
    Map,
    /// The stage's program says whether it stays.
    Filter,
    Sum,
    /// Nothing: the stage itself has to look.
    Ask,
}

/// A stage of those at the beginning that compute with `int`s: what it does, and what it has in the loop's own hands, beside
/// one another. The stages themselves are told by [`Running::settle`].
struct Quick {
    deed: Deed,
    /// What it is done with, where that isn't the item itself.
    with: Option<i64>,
    /// The total, as far as there is one.
    total: i64,
    /// How many items have come in that the stage hasn't been told of.
    count: u64,
}

impl Quick {
    fn of(stage: &Stage) -> Option<Self> {
        use std::cmp::Ordering::{Equal, Greater, Less};

        let flat = |program: &Py<Program>| program.get().flat();
        let (deed, with) = match &stage.kind {
            Kind::Map(Function::Native(program)) => match flat(program) {
                Some((Operator::Add, with)) => (Deed::Add, with),
                Some((Operator::Sub, with)) => (Deed::Sub, with),
                Some((Operator::Mul, with)) => (Deed::Mul, with),
                _ => (Deed::Map, None),
            },
            Kind::Filter(Function::Native(program)) => match flat(program) {
                Some((Operator::Compare(how), with)) => {
                    let bit = |bit: u8, ordering| u8::from(how.matches(ordering)) << bit;
                    let kept = bit(0, Less) | bit(1, Equal) | bit(2, Greater);
                    (Deed::Compare(kept), with)
                }
                _ => (Deed::Filter, None),
            },
            Kind::Accumulate(Total::Sum, _) => (Deed::Ask, None),
            _ => return None,
        };
        let mut made = Self { deed, with, total: 0, count: 0 };
        made.look(stage);
        Some(made)
    }

    /// Takes over the total.
    fn look(&mut self, stage: &Stage) {
        if let Kind::Accumulate(Total::Sum, total) = &stage.kind {
            (self.deed, self.total) = match total {
                Some(Kept::Int(total)) => (Deed::Sum, *total),
                _ => (Deed::Ask, 0),
            };
        }
    }

    /// Gives the total and the count back.
    fn tell(&mut self, stage: &mut Stage) {
        stage.count += std::mem::take(&mut self.count);
        if let (Deed::Sum, Kind::Accumulate(_, total)) = (self.deed, &mut stage.kind) {
            *total = Some(Kept::Int(self.total));
        }
    }
}

/// Where an item is that a stage doesn't let through.
const DROPPED: usize = usize::MAX;

/// Takes an `int` through the quick stages: the place of the first one that can't go on with it (the number of all of them,
/// where there is none), and what it has become; both in registers.
#[expect(clippy::inline_always, reason = "the hot path of every loop, measured")]
#[inline(always)]
fn quickly(quick: &mut [Quick], stages: &[Stage], item: i64) -> (usize, i64) {
    let mut value = item;
    for (place, (quick, stage)) in quick.iter_mut().zip(stages).enumerate() {
        let other = quick.with.unwrap_or(value);
        let made = match quick.deed {
            Deed::Add => value.checked_add(other),
            Deed::Sub => value.checked_sub(other),
            Deed::Mul => value.checked_mul(other),
            Deed::Sum => {
                let sum = value.checked_add(quick.total);
                quick.total = sum.unwrap_or(quick.total);
                sum
            }
            Deed::Compare(kept) => {
                let order = 1 + value.cmp(&other) as i8;
                if kept >> order & 1 == 0 {
                    quick.count += 1;
                    return (DROPPED, 0);
                }
                Some(value)
            }
            Deed::Map | Deed::Filter => match &stage.kind {
                Kind::Map(Function::Native(program)) => {
                    let made = program.get().quick(value);
                    made.is_int().then_some(made.value)
                }
                Kind::Filter(Function::Native(program)) => {
                    let said = program.get().quick(value);
                    if said.is_known() && said.value == 0 {
                        quick.count += 1;
                        return (DROPPED, 0);
                    }
                    said.is_known().then_some(value)
                }
                _ => None,
            },
            Deed::Ask => None,
        };
        let Some(made) = made else { return (place, value) };
        quick.count += 1;
        value = made;
    }
    (quick.len(), value)
}

struct Running {
    source: Source,
    stages: Vec<Stage>,
    /// The first of the stages once more, those that compute with `int`s.
    quick: Vec<Quick>,
    /// How many of these leave the item as it is, before one makes another of it.
    keeping: usize,
    /// Whether there are stages, and all of them are among these.
    all_quick: bool,
    /// Where the item is that comes next of the source, if it has been begun: the place of a stage, and what it has become.
    held: Option<(usize, i64)>,
    /// What a `flat_map` is giving out, and where it goes on.
    inner: Vec<(usize, Source)>,
    /// Stages up to here get nothing any more: what they have kept is flushed.
    ended: Option<usize>,
    /// What is told of an error that doesn't end the run.
    collect: Py<PyAny>,
    pulled: u64,
}

/// An iterator through a number of stages.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct Chain {
    state: Claim<Running>,
    /// Whether it has been ended while it was being advanced.
    closing: AtomicBool,
}

/// A stage as the face names it: kind, name, what happens on errors, and what belongs to it.
#[derive(FromPyObject)]
pub struct Named(String, String, String, Py<PyTuple>);

impl Named {
    fn stage(&self, py: Python<'_>) -> PyResult<Stage> {
        let arguments = self.3.bind(py);
        let first = || arguments.get_item(0);
        let second = || arguments.get_item(1);
        let kind = match self.0.as_str() {
            "map" => Kind::Map(Function::new(&first()?)),
            "filter" => Kind::Filter(Function::new(&first()?)),
            "flat_map" => Kind::FlatMap(Function::new(&first()?)),
            "tap" => Kind::Tap(Function::new(&first()?)),
            "take_while" => Kind::TakeWhile(Function::new(&first()?)),
            "accumulate" => {
                let how = first()?;
                let how = match how.extract::<&str>() {
                    Ok("add") => Total::Sum,
                    Ok("mul") => Total::Product,
                    Ok("min") => Total::Least,
                    Ok("max") => Total::Greatest,
                    _ => Total::By(how.unbind()),
                };
                let start = second()?;
                let start = (!start.is_none()).then(|| Kept::of(&Value::Object(start.clone()).number()));
                Kind::Accumulate(how, start)
            }
            "dedupe" => {
                let key = first()?;
                let key = (!key.is_none()).then(|| Function::new(&key));
                Kind::Dedupe(key, PyDict::new(py).unbind(), second()?.extract()?)
            }
            "skip" => Kind::Skip(first()?.extract()?),
            "take" => Kind::Take(first()?.extract()?),
            "batch" => Kind::Batch(first()?.extract()?, Vec::new()),
            "windowed" => {
                let fill: Option<(Py<PyAny>,)> = arguments.get_item(2)?.extract()?;
                Kind::Windowed {
                    n: first()?.extract()?,
                    step: second()?.extract()?,
                    skip: 0,
                    fill: fill.map(|fill| fill.0),
                    window: VecDeque::new(),
                    fresh: false,
                }
            }
            other => return Err(PyValueError::new_err(format!("there is no stage {other:?}"))),
        };
        let on_error = match self.2.as_str() {
            "skip" => OnError::Skip,
            "collect" => OnError::Collect,
            _ => OnError::Raise,
        };
        Ok(Stage { name: self.1.clone(), kind, on_error, count: 0 })
    }
}

/// What a stage makes of an item.
enum Made<'py> {
    One(Value<'py>),
    Nothing,
    /// Nothing, and nothing will come any more.
    End,
    Many(Bound<'py, PyAny>),
    /// The item, and nothing more after it.
    Last(Value<'py>),
}

impl Stage {
    #[inline]
    fn take<'py>(&mut self, py: Python<'py>, item: &mut Value<'py>) -> PyResult<Made<'py>> {
        self.count += 1;
        Ok(match &mut self.kind {
            Kind::Map(function) => Made::One(function.apply(py, item)?),
            Kind::Filter(function) => {
                if function.apply(py, item)?.is_true()? {
                    Made::One(item.clone())
                } else {
                    Made::Nothing
                }
            }
            Kind::FlatMap(function) => Made::Many(function.apply(py, item)?.object(py)?),
            Kind::Tap(function) => {
                function.apply(py, item)?;
                Made::One(item.clone())
            }
            Kind::TakeWhile(function) => {
                if function.apply(py, item)?.is_true()? {
                    Made::One(item.clone())
                } else {
                    Made::End
                }
            }
            Kind::Accumulate(how, total) => {
                let now = match total.as_ref() {
                    None => item.clone().number(),
                    Some(total) => go_on(py, how, total.value(py), item.clone())?,
                };
                let before = total.replace(Kept::of(&now));
                if let Some(Kept::Object(before)) = before {
                    guarding::release(py, [before]);
                }
                Made::One(now)
            }
            Kind::Dedupe(key, seen, most) => {
                let object = item.clone().object(py)?;
                let key = match key {
                    Some(key) => key.apply(py, item)?.object(py)?,
                    None => object,
                };
                let seen = seen.bind(py);
                if seen.contains(&key)? {
                    return Ok(Made::Nothing);
                }
                if most.is_some_and(|most| seen.len() >= most)
                    && let Some(oldest) = seen.iter().next().map(|(key, _)| key)
                {
                    seen.del_item(oldest)?;
                }
                seen.set_item(key, py.None())?;
                Made::One(item.clone())
            }
            Kind::Skip(0) => Made::One(item.clone()),
            Kind::Skip(left) => {
                *left -= 1;
                Made::Nothing
            }
            Kind::Take(0) => Made::End,
            Kind::Take(left) => {
                *left -= 1;
                if *left == 0 { Made::Last(item.clone()) } else { Made::One(item.clone()) }
            }
            Kind::Batch(n, items) => {
                items.push(item.clone().object(py)?.unbind());
                if items.len() < *n {
                    return Ok(Made::Nothing);
                }
                Made::One(Value::Object(list_of(py, items)?))
            }
            Kind::Windowed { n, step, skip, window, fresh, .. } => {
                if *skip > 0 {
                    *skip -= 1;
                    return Ok(Made::Nothing);
                }
                window.push_back(item.clone().object(py)?.unbind());
                *fresh = true;
                if window.len() < *n {
                    return Ok(Made::Nothing);
                }
                let made = PyTuple::new(py, window.iter().map(|item| item.bind(py)))?;
                guarding::release(py, window.drain(..(*step).min(*n)));
                *skip = step.saturating_sub(*n);
                *fresh = false;
                Made::One(Value::Object(made.into_any()))
            }
        })
    }

    /// What is left when nothing comes any more.
    fn flush<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Value<'py>>> {
        match &mut self.kind {
            Kind::Batch(_, items) if !items.is_empty() => Ok(Some(Value::Object(list_of(py, items)?))),
            Kind::Windowed { n, fill: Some(fill), window, fresh, skip, .. } if *fresh && *skip == 0 => {
                *fresh = false;
                let mut items: Vec<Bound<'_, PyAny>> = window.drain(..).map(|item| item.into_bound(py)).collect();
                items.resize(*n, fill.bind(py).clone());
                Ok(Some(Value::Object(PyTuple::new(py, items)?.into_any())))
            }
            _ => Ok(None),
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.kind {
            Kind::Map(function)
            | Kind::Filter(function)
            | Kind::FlatMap(function)
            | Kind::Tap(function)
            | Kind::TakeWhile(function) => function.traverse(visit),
            Kind::Accumulate(how, total) => {
                if let Total::By(function) = how {
                    visit.call(function)?;
                }
                if let Some(Kept::Object(total)) = total {
                    visit.call(total)?;
                }
                Ok(())
            }
            Kind::Dedupe(key, seen, _) => {
                visit.call(seen)?;
                key.as_ref().map_or(Ok(()), |key| key.traverse(visit))
            }
            Kind::Skip(_) | Kind::Take(_) => Ok(()),
            Kind::Batch(_, items) => items.iter().try_for_each(|item| visit.call(item)),
            Kind::Windowed { fill, window, .. } => {
                visit.call(fill)?;
                window.iter().try_for_each(|item| visit.call(item))
            }
        }
    }

    /// What it has kept, for another run to go on with.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let kept = match &self.kind {
            Kind::Accumulate(_, Some(total)) => PyTuple::new(py, [total.value(py).object(py)?])?.into_any(),
            Kind::Dedupe(_, seen, _) => seen.bind(py).keys().into_any(),
            Kind::Skip(left) | Kind::Take(left) => left.into_pyobject(py)?.into_any(),
            Kind::Batch(_, items) => PyList::new(py, items)?.into_any(),
            Kind::Windowed { window, skip, fresh, .. } => {
                (PyList::new(py, window)?, *skip, *fresh).into_pyobject(py)?.into_any()
            }
            _ => py.None().into_bound(py),
        };
        (self.count, kept).into_pyobject(py)
    }

    fn restore(&mut self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        let (count, kept): (u64, Bound<'_, PyAny>) = state.extract()?;
        self.count = count;
        match &mut self.kind {
            Kind::Accumulate(_, total) if !kept.is_none() => {
                *total = Some(Kept::of(&Value::Object(kept.get_item(0)?).number()));
            }
            Kind::Dedupe(_, seen, _) => {
                for key in kept.try_iter()? {
                    seen.bind(state.py()).set_item(key?, state.py().None())?;
                }
            }
            Kind::Skip(left) | Kind::Take(left) => *left = kept.extract()?,
            Kind::Batch(_, items) => *items = kept.extract()?,
            Kind::Windowed { window, skip, fresh, .. } => {
                let (items, left, new): (Vec<Py<PyAny>>, usize, bool) = kept.extract()?;
                (*window, *skip, *fresh) = (items.into(), left, new);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The next running total.
#[inline]
fn go_on<'py>(py: Python<'py>, how: &Total, total: Value<'py>, item: Value<'py>) -> PyResult<Value<'py>> {
    use pyo3::class::basic::CompareOp;
    match how {
        Total::Sum => binary(py, Operator::Add, total, item),
        Total::Product => binary(py, Operator::Mul, total, item),
        Total::Least => {
            let less = binary(py, Operator::Compare(CompareOp::Lt), item.clone(), total.clone())?.is_true()?;
            Ok(if less { item } else { total })
        }
        Total::Greatest => {
            let more = binary(py, Operator::Compare(CompareOp::Gt), item.clone(), total.clone())?.is_true()?;
            Ok(if more { item } else { total })
        }
        Total::By(function) => {
            guarding::call(function.bind(py), &[&total.object(py)?, &item.object(py)?]).map(Value::Object)
        }
    }
}

impl Running {
    #[inline(never)]
    fn next<'py>(&mut self, py: Python<'py>, closing: &AtomicBool) -> PyResult<Option<Bound<'py, PyAny>>> {
        if let Some((place, made)) = self.held.take()
            && let Some(made) = self.go_on_with(py, place, made)?
        {
            return Ok(Some(made));
        }
        loop {
            if closing.load(Ordering::Relaxed) {
                self.close(py);
                return Ok(None);
            }
            // The innermost of what flat_maps give out comes first.
            let (item, from) = match self.inner.last_mut() {
                Some((stage, source)) => {
                    let from = *stage;
                    match source.next(py) {
                        Ok(Some(item)) => (Some(item), from + 1),
                        Ok(None) => {
                            self.inner.pop();
                            continue;
                        }
                        Err(error) => {
                            if let Some((_, mut source)) = self.inner.pop() {
                                source.end(py);
                            }
                            self.failed(py, from, error, None)?;
                            continue;
                        }
                    }
                }
                None if self.ended.is_some() => (None, 0),
                None => {
                    if let Some(item) = self.source.next(py)? {
                        self.pulled += 1;
                        (Some(item), 0)
                    } else {
                        self.ended = Some(0);
                        (None, 0)
                    }
                }
            };
            let made = if let Some(item) = item {
                self.begin(py, from, item)?
            } else {
                let Some(place) = self.ended.filter(|place| *place < self.stages.len()) else { return Ok(None) };
                self.ended = Some(place + 1);
                match self.stages[place].flush(py)? {
                    Some(left) => self.pass(py, place + 1, left)?,
                    None => None,
                }
            };
            if made.is_some() {
                return Ok(made);
            }
        }
    }

    /// Takes an item through the stages from one on: as far as they do nothing but call, or compute with an `int` that fits,
    /// with what is between two stages in registers.
    #[inline]
    fn begin<'py>(
        &mut self,
        py: Python<'py>,
        from: usize,
        mut object: Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut number = None;
        // Whether `object` is the value, or `number` alone.
        let mut whole = true;
        let mut from = from;
        if from == 0 && !self.quick.is_empty() {
            let Some(value) = stepping::small_int(&object) else { return self.rest(py, 0, true, object, None) };
            let (place, made) = quickly(&mut self.quick, &self.stages, value);
            if place == DROPPED {
                return Ok(None);
            }
            (from, number, whole) = (place, Some(made), place <= self.keeping);
            if place < self.quick.len() {
                return self.rest(py, place, whole, object, number);
            }
        }
        // The item as a number, or the way on for what is none.
        macro_rules! small {
            ($place:expr) => {
                match number.or_else(|| stepping::small_int(&object)) {
                    Some(value) => value,
                    None => return self.rest(py, $place, whole, object, number),
                }
            };
        }
        for place in from..self.stages.len() {
            let stage = &mut self.stages[place];
            match &mut stage.kind {
                Kind::Filter(Function::Native(program)) => {
                    let value = small!(place);
                    let said = program.get().quick(value);
                    if !said.is_known() {
                        return self.rest(py, place, whole, object, number);
                    }
                    stage.count += 1;
                    if said.value == 0 {
                        return Ok(None);
                    }
                    number = Some(value);
                }
                Kind::Map(Function::Native(program)) => {
                    let value = small!(place);
                    let made = program.get().quick(value);
                    if !made.is_int() {
                        return self.rest(py, place, whole, object, number);
                    }
                    stage.count += 1;
                    (number, whole) = (Some(made.value), false);
                }
                Kind::Accumulate(Total::Sum, Some(Kept::Int(total))) => {
                    let value = small!(place);
                    let Some(sum) = total.checked_add(value) else {
                        return self.rest(py, place, whole, object, number);
                    };
                    stage.count += 1;
                    *total = sum;
                    (number, whole) = (Some(sum), false);
                }
                Kind::Filter(Function::Opaque(function)) if whole => {
                    stage.count += 1;
                    let said = call_one(function.bind(py), &object).and_then(|said| said.is_truthy());
                    match said {
                        Ok(true) => {}
                        Ok(false) => return Ok(None),
                        Err(error) => {
                            return self.failed(py, place, error, Some(Value::Object(object))).map(|()| None);
                        }
                    }
                }
                Kind::Map(Function::Opaque(function)) if whole => {
                    stage.count += 1;
                    match call_one(function.bind(py), &object) {
                        Ok(made) => object = made,
                        Err(error) => {
                            return self.failed(py, place, error, Some(Value::Object(object))).map(|()| None);
                        }
                    }
                    number = None;
                }
                _ => return self.rest(py, place, whole, object, number),
            }
        }
        match number {
            Some(value) if !whole => Ok(Some(value.into_pyobject(py)?.into_any())),
            _ => Ok(Some(object)),
        }
    }

    /// Takes the next items of a list through the stages, where these do nothing but compute with `int`s: what comes of the
    /// first one that they let through. `None` where there is none, or the general way has to go on.
    #[expect(clippy::inline_always, reason = "the hot path of every loop, measured")]
    #[inline(always)]
    fn straight<'py>(&mut self, py: Python<'py>) -> Option<PyResult<Bound<'py, PyAny>>> {
        if !self.all_quick {
            return None;
        }
        while let Some(item) = self.source.int_ahead(py) {
            let (place, made) = quickly(&mut self.quick, &self.stages, item);
            if place < self.quick.len() {
                self.held = Some((place, made));
                return None;
            }
            self.pulled += 1;
            if place <= self.keeping {
                return self.source.next(py).transpose();
            }
            self.source.skip_one();
            if place != DROPPED {
                return Some(stepping::int_of(py, made));
            }
        }
        None
    }

    /// Goes on with an item that has come to a stage that has to look at it as Python does.
    #[cold]
    fn go_on_with<'py>(&mut self, py: Python<'py>, place: usize, made: i64) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(object) = self.source.next(py)? else { return Ok(None) };
        self.pulled += 1;
        self.rest(py, place, place <= self.keeping, object, Some(made))
    }

    /// Tells the first stages what the loop has kept for them.
    fn settle(&mut self) {
        for (quick, stage) in self.quick.iter_mut().zip(&mut self.stages) {
            quick.tell(stage);
        }
    }

    /// Takes an item on from a stage that has to look at it as Python does.
    #[inline(never)]
    fn rest<'py>(
        &mut self,
        py: Python<'py>,
        place: usize,
        whole: bool,
        object: Bound<'py, PyAny>,
        number: Option<i64>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let value = match number {
            Some(number) if !whole => Value::Int(number),
            _ => Value::Object(object),
        };
        self.settle();
        let made = self.pass(py, place, value);
        for (quick, stage) in self.quick.iter_mut().zip(&self.stages) {
            quick.look(stage);
        }
        made
    }

    /// Takes a value through the stages from one on.
    fn pass<'py>(&mut self, py: Python<'py>, from: usize, mut item: Value<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut place = from;
        while place < self.stages.len() {
            match self.stages[place].take(py, &mut item) {
                Ok(Made::One(made)) => item = made,
                Ok(Made::Nothing) => return Ok(None),
                Ok(Made::Last(made)) => {
                    item = made;
                    self.end(py, place);
                }
                Ok(Made::End) => {
                    self.end(py, place);
                    return Ok(None);
                }
                Ok(Made::Many(many)) => {
                    match Source::new(&many) {
                        Ok(source) => self.inner.push((place, source)),
                        Err(error) => self.failed(py, place, error, Some(item))?,
                    }
                    return Ok(None);
                }
                Err(error) => {
                    self.failed(py, place, error, Some(item))?;
                    return Ok(None);
                }
            }
            place += 1;
        }
        item.object(py).map(Some)
    }

    /// Nothing comes any more at all.
    #[cold]
    fn close(&mut self, py: Python<'_>) {
        self.source.end(py);
        self.ended = Some(self.stages.len());
        for (_, mut source) in std::mem::take(&mut self.inner) {
            source.end(py);
        }
    }

    /// Nothing comes to a stage any more, from it or from those before it.
    fn end(&mut self, py: Python<'_>, place: usize) {
        for (_, source) in self.inner.iter_mut().filter(|(stage, _)| *stage <= place) {
            source.end(py);
        }
        self.inner.retain(|(stage, _)| *stage > place);
        self.source.end(py);
        self.ended = Some(self.ended.unwrap_or(0).max(place + 1));
    }

    /// Says of an error where it happened, and raises it, unless the run is to go on.
    #[cold]
    fn failed(&self, py: Python<'_>, place: usize, error: PyErr, item: Option<Value<'_>>) -> PyResult<()> {
        let stage = &self.stages[place];
        let index = stage.count - 1;
        let item = item.map(|item| item.object(py)).transpose()?.unwrap_or_else(|| py.None().into_bound(py));
        if stage.on_error == OnError::Raise || !error.is_instance_of::<PyException>(py) {
            add_note(py, &error, &format!("in stage {}, item {index}: {}", stage.name, shown(&item)));
            return Err(error);
        }
        if stage.on_error == OnError::Collect {
            let told = (stage.name.as_str(), index, item, error.value(py)).into_pyobject(py)?;
            call_one(self.collect.bind(py), told.as_any())?;
        }
        guarding::attached(py, |_| drop(error));
        Ok(())
    }
}

#[pymethods]
impl Chain {
    #[new]
    #[pyo3(signature = (source, stages, collect, /))]
    fn new(source: &Bound<'_, PyAny>, stages: Vec<Named>, collect: Py<PyAny>) -> PyResult<Self> {
        let py = source.py();
        let mut stages = stages.iter().map(|stage| stage.stage(py)).collect::<PyResult<Vec<_>>>()?;
        for stage in &mut stages {
            if let Kind::Batch(0, _) | Kind::Windowed { n: 0, .. } = stage.kind {
                return Err(PyTypeError::new_err("a batch has one item at least"));
            }
        }
        // Who takes nothing must not have the source pulled to find that out.
        let ended = stages.iter().rposition(|stage| matches!(stage.kind, Kind::Take(0))).map(|place| place + 1);
        let source = Source::new(source)?;
        let quick: Vec<Quick> = stages.iter().map_while(Quick::of).collect();
        let keeping = quick.iter().take_while(|quick| matches!(quick.deed, Deed::Compare(_) | Deed::Filter)).count();
        let all_quick = !quick.is_empty() && quick.len() == stages.len();
        let running = Running {
            source,
            stages,
            quick,
            keeping,
            all_quick,
            held: None,
            inner: Vec::new(),
            ended,
            collect,
            pulled: 0,
        };
        let state = Claim::new(running);
        Ok(Self { state, closing: AtomicBool::new(false) })
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    /// How many items have been pulled from the source.
    fn pulled(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.state.enter(py, WHAT)?.pulled)
    }

    /// What the stages have kept.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut state = self.state.enter(py, WHAT)?;
        state.settle();
        if !state.inner.is_empty() {
            return Err(PyValueError::new_err("a flat_map is in the middle of what it gives out: take the rest first"));
        }
        let stages = state.stages.iter().map(|stage| stage.state(py)).collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, stages)
    }

    /// Goes on with what the stages of another run had kept.
    #[pyo3(signature = (kept, /))]
    fn restore(&self, py: Python<'_>, kept: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        let mut state = self.state.enter(py, WHAT)?;
        if kept.len() != state.stages.len() {
            return Err(PyValueError::new_err("resume must be a state of this very pipeline"));
        }
        state.settle();
        let Running { stages, quick, .. } = &mut *state;
        for (stage, kept) in stages.iter_mut().zip(&kept) {
            stage.restore(kept)?;
        }
        for (quick, stage) in quick.iter_mut().zip(stages) {
            quick.look(stage);
        }
        let ended = state.stages.iter().rposition(|stage| matches!(stage.kind, Kind::Take(0)));
        state.ended = ended.map(|place| place + 1);
        Ok(())
    }

    /// Ends it: nothing comes any more, and who advances it at the moment finds out as soon as the source answers.
    fn close(&self, py: Python<'_>) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(mut state) = self.state.claim(py) {
            state.close(py);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| {
            state.source.traverse(&visit)?;
            visit.call(&state.collect)?;
            state.inner.iter().try_for_each(|(_, source)| source.traverse(&visit))?;
            state.stages.iter().try_for_each(|stage| stage.traverse(&visit))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        if let Some(mut state) = self.state.claim(py) {
            let stages = std::mem::take(&mut state.stages);
            state.quick.clear();
            state.all_quick = false;
            let inner = std::mem::take(&mut state.inner);
            state.source.end(py);
            state.ended = Some(0);
            drop((stages, inner));
        }
    }
}

const WHAT: &str = "a run of a pipeline";

impl Stepping for Chain {
    #[inline]
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        let this = this.get();
        let mut state = this.state.enter(py, WHAT)?;
        state.next(py, &this.closing)
    }

    #[inline]
    fn at_once<'py>(this: &Bound<'py, Self>) -> Option<PyResult<Bound<'py, PyAny>>> {
        let py = this.py();
        let this = this.get();
        let mut state = this.state.claim(py)?;
        if this.closing.load(Ordering::Relaxed) { None } else { state.straight(py) }
    }
}

/// Gives the room's iterators their slot. Called once, before any of them exists.
pub fn publish_all(py: Python<'_>) {
    stepping::publish::<Chain>(py);
    stepping::publish::<super::handing::Handing>(py);
}

//! Functions whose arguments and results are checked at every call.
//!
//! Nothing is bound: an argument that came by position has the check of its place, one that came by keyword that of its
//! name. A call that doesn't fit the function goes through to it, and fails there in the usual words.

use std::sync::OnceLock;

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::checks::{Check, Depth};
use crate::callable::{Call, Failure, Native, Outcome, Wrapper, plain_equal, tuple_item};
use crate::guarding;

struct Parameter {
    name: Py<PyString>,
    check: Option<Py<Check>>,
    by_keyword: bool,
}

/// A check, and the name of what it is for.
type Named = (Py<PyString>, Py<Check>);

/// What the face found out: name, check and whether it may come by keyword of each parameter; how many of them may come
/// by position; `*args`, `**kwargs`; the result.
type Found = (Vec<(Py<PyString>, Option<Py<Check>>, bool)>, usize, Option<Named>, Option<Named>, Option<Py<Check>>);

struct Plan {
    parameters: Vec<Parameter>,
    positional: usize,
    rest: Option<Named>,
    others: Option<Named>,
    result: Option<Py<Check>>,
}

impl Plan {
    fn new((parameters, positional, rest, others, result): Found) -> Self {
        let parameters = parameters.into_iter();
        let parameters = parameters.map(|(name, check, by_keyword)| Parameter { name, check, by_keyword });
        Self { parameters: parameters.collect(), positional, rest, others, result }
    }

    /// The check of the argument that came by position at `index`.
    #[inline]
    fn at(&self, index: usize) -> Option<&Py<Check>> {
        if index < self.positional {
            self.parameters[index].check.as_ref()
        } else {
            self.rest.as_ref().map(|(_, check)| check)
        }
    }

    /// The parameter of this name; `likely` is where it would be if the caller kept to the order.
    #[inline]
    fn named(&self, name: Borrowed<'_, '_, PyAny>, likely: usize) -> Option<&Parameter> {
        let likely = self.parameters.get(likely);
        if let Some(parameter) = likely
            && name.is(&parameter.name)
        {
            return Some(parameter).filter(|parameter| parameter.by_keyword);
        }
        let same = |parameter: &&Parameter| parameter.by_keyword && name.is(&parameter.name);
        // Names in a program's text are interned; those that were put together are not.
        let equal = |parameter: &&Parameter| {
            parameter.by_keyword && plain_equal(name, parameter.name.bind_borrowed(name.py()).as_any().as_borrowed())
        };
        self.parameters.iter().find(same).or_else(|| self.parameters.iter().find(equal))
    }
}

/// A function of which arguments and results are checked.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct EnforcedFunction {
    plan: OnceLock<Plan>,
    /// Makes the plan at the first call, where it could not be made before.
    planner: Option<Py<PyAny>>,
    depth: Depth,
}

#[pymethods]
impl EnforcedFunction {
    #[new]
    #[pyo3(signature = (function, plan, planner, depth, /))]
    fn new<'py>(
        function: &Bound<'py, PyAny>,
        plan: Option<Found>,
        planner: Option<Py<PyAny>>,
        depth: &str,
    ) -> PyResult<Bound<'py, Self>> {
        let made = OnceLock::new();
        if let Some(plan) = plan {
            let _ = made.set(Plan::new(plan));
        }
        Wrapper::wrap(function, Self { plan: made, planner, depth: Depth::named(depth)? })
    }

    /// Gives a value back that may be the function's result; raises where it may not. For coroutine functions.
    #[pyo3(signature = (value, /))]
    fn _enforce_result<'py>(this: &Bound<'py, Self>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let plan = this.get().plan(py)?;
        match &plan.result {
            Some(check)
                if !check.get().accepts(value.as_borrowed(), this.get().depth).map_err(|it| it.fetch(py))? =>
            {
                Err(complaint(this, check, value.as_borrowed(), "the result"))
            }
            _ => Ok(value),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.planner)?;
        let Some(plan) = self.plan.get() else { return Ok(()) };
        for parameter in &plan.parameters {
            visit.call(&parameter.check)?;
        }
        for (_, check) in plan.rest.iter().chain(&plan.others) {
            visit.call(check)?;
        }
        visit.call(&plan.result)
    }
}

impl EnforcedFunction {
    fn plan(&self, py: Python<'_>) -> PyResult<&Plan> {
        if let Some(plan) = self.plan.get() {
            return Ok(plan);
        }
        self.make_plan(py)
    }

    #[cold]
    fn make_plan(&self, py: Python<'_>) -> PyResult<&Plan> {
        guarding::attached(py, |_| {
            let planner = self.planner.as_ref().map_or_else(|| py.None(), |planner| planner.clone_ref(py));
            let found = guarding::call(planner.bind(py), &[])?.extract::<Found>()?;
            // Two threads may both make one; the first stays.
            let _ = self.plan.set(Plan::new(found));
            Ok::<_, PyErr>(())
        })?;
        self.plan.get().ok_or_else(|| crate::errors::Error::State("a plan was made and is not there").into())
    }
}

/// The error for a value that did not pass.
#[cold]
fn complaint(
    this: &Bound<'_, EnforcedFunction>,
    check: &Py<Check>,
    value: Borrowed<'_, '_, PyAny>,
    name: &str,
) -> PyErr {
    guarding::attached(this.py(), |py| {
        let function = this.getattr("__qualname__").map_or_else(|_| "the function".to_owned(), |name| name.to_string());
        let function = function.rsplit("<locals>.").next().unwrap_or(&function);
        let place = format!("{function}(): {name}");
        match check.get().explain(value, &place, Depth::All) {
            Ok(Some(text)) => PyTypeError::new_err(text),
            // It has changed since it was looked at.
            Ok(None) => PyTypeError::new_err(format!("{place} must be {}, and was not", check.get().text())),
            Err(error) => {
                let _ = py;
                error
            }
        }
    })
}

impl Native for EnforcedFunction {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        let py = this.py();
        let enforced = this.get();
        let plan = enforced.plan(py)?;
        let depth = enforced.depth;
        let positional = call.positional();
        for index in 0..positional {
            let Some(check) = plan.at(index) else { continue };
            let argument = call.argument(py, index);
            if !check.get().accepts(argument, depth)? {
                return Err(refused_place(this, plan, check, argument, index));
            }
        }
        if let Some(names) = call.keywords(py) {
            for index in 0..names.len() {
                let name = tuple_item(names, index);
                let check = match plan.named(name, positional + index) {
                    Some(parameter) => parameter.check.as_ref(),
                    None => plan.others.as_ref().map(|(_, check)| check),
                };
                let Some(check) = check else { continue };
                let argument = call.argument(py, positional + index);
                if !check.get().accepts(argument, depth)? {
                    return Err(refused_name(this, check, argument, names, index));
                }
            }
        }
        let result = call.forward(this.as_super().get().function(py))?;
        if let Some(check) = &plan.result
            && !check.get().accepts(result.as_borrowed(), depth)?
        {
            return Err(complaint(this, check, result.as_borrowed(), "the result").into());
        }
        Ok(result)
    }
}

#[cold]
fn refused_place<'py>(
    this: &Bound<'py, EnforcedFunction>,
    plan: &Plan,
    check: &Py<Check>,
    argument: Borrowed<'_, 'py, PyAny>,
    index: usize,
) -> Failure<'py> {
    let name = match (&plan.parameters.get(index), &plan.rest) {
        (Some(parameter), _) if index < plan.positional => parameter.name.to_string(),
        (_, Some((name, _))) => format!("{name}[{}]", index - plan.positional),
        _ => String::new(),
    };
    complaint(this, check, argument, &name).into()
}

#[cold]
fn refused_name<'py>(
    this: &Bound<'py, EnforcedFunction>,
    check: &Py<Check>,
    argument: Borrowed<'_, 'py, PyAny>,
    names: Borrowed<'_, 'py, PyTuple>,
    index: usize,
) -> Failure<'py> {
    complaint(this, check, argument, &tuple_item(names, index).to_string()).into()
}

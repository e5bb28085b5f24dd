//! Which calls are the same call: a call's arguments, laid out as the pieces of a key.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use super::keys::{Probe, is_its_own_key};
use crate::callable::{Call, plain_equal, tuple_item, type_of};

/// One parameter of a function.
pub struct Parameter {
    name: Py<PyAny>,
    default: Option<Py<PyAny>>,
    ignored: bool,
}

/// What the face tells of a parameter: its name, its default if it has one, and whether it is left out of keys.
pub type Told = (Py<PyAny>, Option<(Py<PyAny>,)>, bool);

/// How a function binds its arguments.
pub struct Signature {
    parameters: Vec<Parameter>,
    positional_only: usize,
    positional: usize,
    rest: bool,
    keywords: bool,
    /// Whether there is one parameter, to be given by position or by name, and nothing else.
    single: bool,
    /// With this many arguments, all by position, a call is laid out as its key is.
    laid_out: Option<usize>,
}

/// How calls become keys.
pub enum Plan {
    /// By their spelling, as `functools.lru_cache` has it; with the arguments' types, if so wished.
    Spelled {
        /// Whether arguments of different types are different.
        typed: bool,
    },
    /// By parameter, however they are spelled.
    Bound {
        /// The function's signature.
        signature: Signature,
        /// Whether arguments of different types are different.
        typed: bool,
    },
}

/// What stands between positional and keyword arguments in a key. Nobody else has it.
fn mark<'a>(py: Python<'_>) -> PyResult<Borrowed<'a, '_, PyAny>> {
    static MARK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let mark = MARK.get_or_try_init(py, || Ok::<_, PyErr>(py.get_type::<PyAny>().call0()?.unbind()))?;
    Ok(mark.bind_borrowed(py))
}

/// What stands in a key beside the arguments, borrowed for as long as the probe.
#[derive(Clone, Copy, Default)]
pub struct Company<'a, 'py> {
    /// The function, in a cache that several functions share.
    pub function: Option<&'a Bound<'py, PyAny>>,
    /// A weak reference, in the place of the instance whose method is called.
    pub instance: Option<&'a Bound<'py, PyAny>>,
}

impl Plan {
    /// The only argument of a call, where it is its own key.
    #[expect(clippy::inline_always, reason = "the quick way in is to be one function to the optimiser")]
    #[inline(always)]
    #[must_use]
    pub fn own_key<'a, 'py>(&self, py: Python<'py>, call: Call<'a, 'py>) -> Option<Borrowed<'a, 'py, PyAny>> {
        match self {
            Self::Spelled { typed: false } => call.only_argument(py, None).filter(|only| is_its_own_key(*only)),
            Self::Bound { signature, typed: false } if signature.single => {
                call.only_argument(py, Some(&signature.parameters[0].name))
            }
            _ => None,
        }
    }

    /// Whether the positional arguments of a call, as they lie there, are the pieces of its key.
    #[inline]
    #[must_use]
    pub fn is_laid_out<'py>(&self, py: Python<'py>, call: Call<'_, 'py>) -> bool {
        let laid_out = match self {
            Self::Spelled { typed } => !typed,
            Self::Bound { signature, typed } => !typed && signature.laid_out == Some(call.positional()),
        };
        laid_out && call.keywords(py).is_none()
    }

    /// Fills the probe for a call; false where the function can't be called like that, which it will say itself.
    #[inline]
    pub fn fill<'a, 'py>(
        &'a self,
        py: Python<'py>,
        probe: &mut Probe<'a, 'py>,
        call: Call<'a, 'py>,
        company: Company<'a, 'py>,
    ) -> PyResult<bool> {
        if company.function.is_none() && company.instance.is_none() {
            if let Some(argument) = self.own_key(py, call) {
                probe.set_one(argument)?;
                return Ok(true);
            }
            if let Self::Bound { signature, typed: false } = self
                && signature.single
            {
                // The argument left out, or given by a name that was made at run time: the same call, the same key.
                return match signature.only_argument(py, call) {
                    Some(argument) => probe.set_one(argument).map(|()| true),
                    None => Ok(false),
                };
            }
        }
        if let Some(function) = company.function {
            probe.push_identity(function.as_borrowed());
        }
        match self {
            Self::Spelled { typed } => spell(py, probe, call, company, *typed).map(|()| true),
            Self::Bound { signature, typed } => signature.bind(py, probe, call, company, *typed),
        }
    }
}

fn push_type<'a, 'py>(probe: &mut Probe<'a, 'py>, py: Python<'py>, argument: Borrowed<'a, 'py, PyAny>) {
    probe.push_identity(type_of(py, argument));
}

fn spell<'a, 'py>(
    py: Python<'py>,
    probe: &mut Probe<'a, 'py>,
    call: Call<'a, 'py>,
    company: Company<'a, 'py>,
    typed: bool,
) -> PyResult<()> {
    let positional = call.positional();
    for index in 0..positional {
        match company.instance {
            Some(reference) if index == 0 => probe.push_identity(reference.as_borrowed()),
            _ => probe.push(call.argument(py, index))?,
        }
    }
    let names = call.keywords(py);
    if let Some(names) = names {
        probe.push_identity(mark(py)?);
        for index in 0..names.len() {
            probe.push(tuple_item(names, index))?;
            probe.push(call.argument(py, positional + index))?;
        }
    }
    if typed {
        for index in 0..positional + names.map_or(0, |names| names.len()) {
            push_type(probe, py, call.argument(py, index));
        }
    }
    Ok(())
}

impl Signature {
    /// A signature from what the face found out: for each parameter its name, whether it has a default and which, and
    /// whether it is left out of keys; how many may come by position only, how many by position at all; and whether
    /// there are `*args` and `**kwargs`.
    #[must_use]
    pub fn new(parameters: Vec<Told>, positional_only: usize, positional: usize, rest: bool, keywords: bool) -> Self {
        let single = !rest && !keywords && positional_only == 0 && positional == 1 && parameters.len() == 1;
        let single = single && !parameters[0].2;
        let laid_out = positional == parameters.len() && parameters.iter().all(|(_, _, ignored)| !ignored);
        let laid_out = laid_out.then_some(positional);
        let parameter = |(name, default, ignored): (_, Option<(Py<PyAny>,)>, _)| Parameter {
            name,
            default: default.map(|(default,)| default),
            ignored,
        };
        Self {
            parameters: parameters.into_iter().map(parameter).collect(),
            positional_only,
            positional,
            rest,
            keywords,
            single,
            laid_out,
        }
    }

    /// The argument for the only parameter; none where the call doesn't fit.
    fn only_argument<'a, 'py>(&'a self, py: Python<'py>, call: Call<'a, 'py>) -> Option<Borrowed<'a, 'py, PyAny>> {
        let parameter = self.parameters.first()?;
        match (call.positional(), call.keywords(py)) {
            (0, None) => parameter.default.as_ref().map(|default| default.bind_borrowed(py)),
            (1, None) => Some(call.argument(py, 0)),
            (0, Some(names)) if names.len() == 1 => {
                position_of(py, names, &parameter.name).map(|place| call.argument(py, place))
            }
            _ => None,
        }
    }

    /// Lays a call out by parameter. False where it doesn't fit.
    #[inline]
    fn bind<'a, 'py>(
        &'a self,
        py: Python<'py>,
        probe: &mut Probe<'a, 'py>,
        call: Call<'a, 'py>,
        company: Company<'a, 'py>,
        typed: bool,
    ) -> PyResult<bool> {
        let given = call.positional();
        let names = call.keywords(py);
        if given > self.positional && !self.rest {
            return Ok(false);
        }
        let mut used = 0;
        for (index, parameter) in self.parameters.iter().enumerate() {
            let argument = if index < given.min(self.positional) {
                if let Some(names) = names
                    && index >= self.positional_only
                    && position_of(py, names, &parameter.name).is_some()
                {
                    // Given twice: the function says so better.
                    return Ok(false);
                }
                call.argument(py, index)
            } else {
                let place = match names {
                    Some(names) if index >= self.positional_only => position_of(py, names, &parameter.name),
                    _ => None,
                };
                match (place, &parameter.default) {
                    (Some(place), _) => {
                        used += 1;
                        call.argument(py, given + place)
                    }
                    (None, Some(default)) => default.bind_borrowed(py),
                    (None, None) => return Ok(false),
                }
            };
            if parameter.ignored {
                continue;
            }
            match company.instance {
                Some(reference) if index == 0 => probe.push_identity(reference.as_borrowed()),
                _ => probe.push(argument)?,
            }
            if typed {
                push_type(probe, py, argument);
            }
        }
        for index in self.positional..given {
            let argument = call.argument(py, index);
            match company.instance {
                Some(reference) if index == 0 => probe.push_identity(reference.as_borrowed()),
                _ => probe.push(argument)?,
            }
            if typed {
                push_type(probe, py, argument);
            }
        }
        let further = names.map_or(0, |names| names.len()) - used;
        if further == 0 {
            return Ok(true);
        }
        if !self.keywords {
            return Ok(false);
        }
        probe.push_identity(mark(py)?);
        let names = names.expect("there are some left");
        let mut others: Vec<(String, usize)> = Vec::with_capacity(further);
        for place in 0..names.len() {
            let name = tuple_item(names, place);
            let bound = |parameter: &Parameter| plain_equal(parameter.name.bind_borrowed(py), name);
            if !self.parameters[self.positional_only..].iter().any(bound) {
                others.push((name.extract()?, place));
            }
        }
        others.sort();
        for (_, place) in others {
            probe.push(tuple_item(names, place))?;
            let argument = call.argument(py, given + place);
            probe.push(argument)?;
            if typed {
                push_type(probe, py, argument);
            }
        }
        Ok(true)
    }
}

/// Where a name stands among the names of a call: names are interned, but for those made at run time.
#[inline]
fn position_of(py: Python<'_>, names: Borrowed<'_, '_, PyTuple>, name: &Py<PyAny>) -> Option<usize> {
    let len = names.len();
    (0..len)
        .find(|index| tuple_item(names, *index).is(name))
        .or_else(|| (0..len).find(|index| plain_equal(tuple_item(names, *index), name.bind_borrowed(py))))
}

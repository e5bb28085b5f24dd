//! Lines as Python sees them: an iterator over what the scanner chose.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use memchr::memmem::Finder;
use pyo3::exceptions::{PyIndexError, PyOSError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::ahead::LARGE;
use super::choosing::{Plan, Step, Wrong};
use super::crew;
use super::ends::Ends;
use super::scanning::Scanner;
use crate::guarding::{self, interned};
use crate::lifecycle;
use crate::stepping::{self, Claim, Stepping, call_one};

/// Where bytes come from.
enum Input {
    /// A file of our own.
    File(Arc<File>),
    /// The `read` of a binary file object.
    Read(Py<PyAny>),
    /// Nothing more.
    Ended,
}

/// A step as it is taken on a `str`, where bytes couldn't tell.
enum After {
    Strip,
    Contains(Py<PyAny>),
    Field(isize, Option<Py<PyAny>>),
    Asked(Py<PyAny>),
}

struct State {
    scanner: Scanner,
    input: Input,
    steps: Vec<After>,
    name: String,
    /// Whether what can't be decoded is an error, found before a line of its block is given.
    strict: bool,
    /// The number of forks when this was made.
    generation: u64,
}

/// The lines of a binary source, without their ends, chosen on bytes.
#[pyclass(frozen, immutable_type, weakref, module = "ferrule._core")]
pub struct LineReader {
    state: Claim<State>,
}

/// A step as the face names it: what it is, and what belongs to it.
#[derive(FromPyObject)]
pub struct Named(String, Py<PyAny>, Py<PyAny>);

impl Named {
    fn step(&self, py: Python<'_>) -> PyResult<(Step, After)> {
        let needle = |text: &Py<PyAny>| {
            let text = text.bind(py).extract::<String>()?;
            PyResult::Ok(Finder::new(text.as_bytes()).into_owned())
        };
        let (first, second) = (&self.1, &self.2);
        Ok(match self.0.as_str() {
            "strip" => (Step::Strip, After::Strip),
            "containing" => (Step::Contains(Box::new(needle(first)?)), After::Contains(first.clone_ref(py))),
            "field" => {
                let index = first.extract(py)?;
                let separator = (!second.is_none(py)).then_some(second);
                let finder = separator.map(needle).transpose()?.map(Box::new);
                (Step::Field(index, finder), After::Field(index, separator.map(|text| text.clone_ref(py))))
            }
            "matching" => {
                let texts: Vec<String> = second.extract(py)?;
                let needles = texts.iter().map(|text| Finder::new(text.as_bytes()).into_owned()).collect();
                (Step::Python(needles), After::Asked(first.clone_ref(py)))
            }
            other => return Err(PyValueError::new_err(format!("there is no step {other:?}"))),
        })
    }
}

impl After {
    /// What the step makes of a line; `None` where the line isn't chosen.
    fn take<'py>(&self, line: Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = line.py();
        match self {
            Self::Strip => line.call_method0(interned!(py, "strip")).map(Some),
            Self::Contains(needle) => Ok(line.contains(needle)?.then_some(line)),
            Self::Asked(function) => {
                let said = call_one(function.bind(py), &line)?;
                Ok(said.is_truthy()?.then_some(line))
            }
            Self::Field(index, separator) => {
                let fields = match separator {
                    Some(separator) => guarding::call_method(&line, interned!(py, "split"), &[separator.bind(py)])?,
                    None => line.call_method0(interned!(py, "split"))?,
                };
                let count = fields.len()?;
                let place = if *index < 0 { count.checked_sub(index.unsigned_abs()) } else { index.to_usize() };
                match place.filter(|place| *place < count) {
                    Some(place) => fields.get_item(place).map(Some),
                    None => Err(PyIndexError::new_err(format!(
                        "there is no field {index} in a line of {count}: {}",
                        line.repr()?
                    ))),
                }
            }
        }
    }
}

trait ToUsize {
    fn to_usize(self) -> Option<usize>;
}

impl ToUsize for isize {
    fn to_usize(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

impl State {
    /// Reads on; false at the end.
    fn advance(&mut self, py: Python<'_>) -> PyResult<bool> {
        let Self { scanner, input, name, generation, .. } = self;
        if *generation != lifecycle::generation() {
            scanner.abandon_ahead();
        }
        loop {
            let mut raised = None;
            let outcome = match &*input {
                Input::Ended => return Ok(false),
                Input::File(file) => {
                    let mut file = &**file;
                    lifecycle::detached(py, || scanner.advance(&mut |into: &mut [u8]| file.read(into)))
                }
                Input::Read(read) => scanner.advance(&mut |into: &mut [u8]| {
                    read_object(read.bind(py), into).map_err(|error| {
                        raised = Some(error);
                        io::Error::other("raised")
                    })
                }),
            };
            match outcome {
                Ok(going_on) => {
                    if !going_on {
                        self.end(py);
                    }
                    return Ok(going_on);
                }
                Err(error) if raised.is_none() && error.kind() == io::ErrorKind::Interrupted => py.check_signals()?,
                Err(error) => {
                    let error = raised.unwrap_or_else(|| {
                        let code = error.raw_os_error().unwrap_or_default();
                        PyOSError::new_err((code, error.to_string(), name.clone()))
                    });
                    return Err(error);
                }
            }
        }
    }

    fn end(&mut self, py: Python<'_>) {
        match std::mem::replace(&mut self.input, Input::Ended) {
            Input::Read(read) => guarding::release(py, [read]),
            Input::File(_) | Input::Ended => {}
        }
    }

    /// The next line, or the end.
    #[inline]
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            if let Some(line) = self.ready(py)? {
                return Ok(Some(line));
            }
            if let Some((number, wrong)) = self.scanner.take_wrong() {
                return Err(self.error(py, number, &wrong));
            }
            if !self.advance(py)? {
                return Ok(None);
            }
        }
    }

    /// The next line of the block, if one is left.
    #[inline]
    fn ready<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            let Some((bytes, ascii, mut taken)) = self.scanner.give() else { return Ok(None) };
            let mut line = if ascii || bytes.is_ascii() {
                stepping::ascii_text(py, bytes)?
            } else if self.strict {
                // It has been found to be valid: nothing calls Python here.
                stepping::decoded(py, bytes, c"strict")?
            } else {
                // An error handler is Python code, but none that could get at the scanner.
                let bytes = bytes.to_vec();
                let errors = self.scanner.plan().errors.as_ref().map_or(c"strict", CString::as_c_str);
                stepping::decoded(py, &bytes, errors)?
            };
            loop {
                let Some(step) = self.steps.get(taken) else { return Ok(Some(line)) };
                match step.take(line)? {
                    Some(made) => line = made,
                    None => break,
                }
                taken += 1;
            }
        }
    }

    fn error(&mut self, py: Python<'_>, number: u64, wrong: &Wrong) -> PyErr {
        match wrong {
            Wrong::Undecodable(start, end) => {
                let bytes = self.scanner.bytes(*start, *end);
                // Line end and all: what comes next decides what is said of bytes that are missing.
                let Err(error) = stepping::decoded(py, self.scanner.rest_of_line(*start), c"strict") else {
                    return PyValueError::new_err("a line that could not be decoded can be");
                };
                let note = format!("in line {number} of {}: {:?}", self.name, PyBytes::new(py, bytes));
                let _ = error.value(py).call_method1("add_note", (note,));
                error
            }
            Wrong::TooLong => {
                self.end(py);
                PyValueError::new_err(format!("line {number} of {} is longer than max_line", self.name))
            }
        }
    }
}

/// Reads into a buffer through a file object's `read`.
fn read_object(read: &Bound<'_, PyAny>, into: &mut [u8]) -> PyResult<usize> {
    let py = read.py();
    let size = into.len().into_pyobject(py)?.into_any();
    let piece = call_one(read, &size)?;
    if piece.is_none() {
        return Err(pyo3::exceptions::PyBlockingIOError::new_err("the source has nothing to read just now"));
    }
    let piece = piece
        .cast::<PyBytes>()
        .map_err(|_| PyTypeError::new_err("source.read() of a binary file object must return bytes"))?
        .as_bytes();
    let Some(room) = into.get_mut(..piece.len()) else {
        return Err(PyValueError::new_err("source.read() returned more than it was asked for"));
    };
    room.copy_from_slice(piece);
    Ok(piece.len())
}

const WHAT: &str = "an iterator over lines";

#[pymethods]
impl LineReader {
    /// Lines of `source`: an open file with a descriptor, which is duplicated, or (`owned` is false) an object with `read`.
    /// `start` is where reading begins: bytes and lines.
    #[new]
    #[pyo3(signature = (source, steps, /, *, owned, newline, errors, max_line, name, start))]
    #[expect(clippy::too_many_arguments, reason = "called by the face alone, by name")]
    fn new(
        py: Python<'_>,
        source: &Bound<'_, PyAny>,
        steps: Vec<Named>,
        owned: bool,
        newline: Option<&str>,
        errors: &str,
        max_line: Option<usize>,
        name: String,
        start: (u64, u64),
    ) -> PyResult<Self> {
        let ends = match newline {
            None | Some("") => Ends::Universal,
            Some("\n") => Ends::Lf,
            Some("\r") => Ends::Cr,
            Some("\r\n") => Ends::CrLf,
            Some(other) => return Err(PyValueError::new_err(format!("newline must be a line end, got {other:?}"))),
        };
        let strict = errors == "strict";
        let errors = (!strict).then(|| CString::new(errors)).transpose()?;
        let both = steps.iter().map(|step| step.step(py)).collect::<PyResult<Vec<_>>>()?;
        let (steps, after) = both.into_iter().unzip();
        let mut scanner = Scanner::new(Plan { ends, steps, errors, max_line });
        scanner.set_start(start.0, start.1);
        let input = if owned {
            let file = Arc::new(stepping::duplicate(source.call_method0("fileno")?.extract()?)?);
            let about = file.metadata()?;
            // A needle is found at nearly the speed of reading: that others look for it saved a twentieth of the time, and
            // cost a fifth more of the processors'.
            let by_needle = matches!(scanner.plan().steps.first(), Some(Step::Contains(_)));
            if about.is_file()
                && !by_needle
                && about.len().saturating_sub(start.0) >= LARGE
                && let Some(pool) = crew::pool(py).filter(|pool| pool.current_num_threads() > 1)
            {
                scanner.read_ahead(Arc::clone(&file), about.len(), pool);
            }
            Input::File(file)
        } else {
            Input::Read(source.getattr("read")?.unbind())
        };
        let generation = lifecycle::generation();
        Ok(Self { state: Claim::new(State { scanner, input, steps: after, name, strict, generation }) })
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::step(this)
    }

    /// The lines of a block, at least one; `None` at the end. Reads without the interpreter lock.
    fn block<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut state = self.state.enter(py, WHAT)?;
        let Some(first) = state.next(py)? else { return Ok(None) };
        let mut lines = vec![first.unbind()];
        // An error would lose the lines before it: it comes when they have been taken. Lines on which Python still has to
        // say something come one at a time for the same reason.
        while state.steps.is_empty() && state.scanner.plan().errors.is_none() {
            match state.ready(py)? {
                Some(line) => lines.push(line.unbind()),
                None => break,
            }
        }
        stepping::list_of(py, &mut lines).map(Some)
    }

    /// Where the first line begins that wasn't given out: bytes, and lines.
    fn position(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        Ok(self.state.enter(py, WHAT)?.scanner.position())
    }

    /// Closes the source; there are no more lines then.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.state.enter(py, WHAT)?;
        while state.scanner.give().is_some() {}
        state.scanner.take_wrong();
        state.end(py);
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(|state| {
            match &state.input {
                Input::Read(read) => visit.call(read)?,
                Input::File(_) | Input::Ended => {}
            }
            for step in &state.steps {
                match step {
                    After::Contains(object) | After::Asked(object) | After::Field(_, Some(object)) => {
                        visit.call(object)?;
                    }
                    After::Strip | After::Field(_, None) => {}
                }
            }
            Ok(())
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        if let Some(mut state) = self.state.claim(py) {
            state.input = Input::Ended;
            state.steps.clear();
        }
    }
}

impl Stepping for LineReader {
    #[inline]
    fn step<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        this.get().state.enter(py, WHAT)?.next(py)
    }

    #[inline]
    fn at_once<'py>(this: &Bound<'py, Self>) -> Option<PyResult<Bound<'py, PyAny>>> {
        let mut state = this.get().state.claim(this.py())?;
        let steps = state.steps.len();
        state.scanner.give_ready(steps).map(|line| stepping::ascii_text(this.py(), line))
    }
}

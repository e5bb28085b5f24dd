//! The timing room as Python sees it.

use std::collections::HashMap;

use pyo3::exceptions::{PyException, PyGeneratorExit, PyStopIteration, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::iterator::PySendResult;
use pyo3::types::{PyFloat, PyIterator, PyTuple};
use pyo3::{IntoPyObjectExt, intern};

use super::histogram::{Durations, Recorded};
use crate::callable::{Call, Failure, Native, Outcome, Wrapper, calling_frame, this_thread};
use crate::clock::{SECOND, binding::nanoseconds, precise};
use crate::errors::Error;
use crate::guarding::{self, Guarded, Tally, call_method, send};
use crate::waiting::Ready;

/// Recording happens on attached threads: with the interpreter lock, one at a time.
const SHARED: bool = cfg!(Py_GIL_DISABLED);

fn seconds(nanoseconds: f64) -> f64 {
    nanoseconds / SECOND as f64
}

/// What `tracemalloc` said of the profiled runs, in bytes.
#[derive(Clone, Copy, Default)]
struct Memory {
    runs: u64,
    net_total: i64,
    net_max: i64,
    peak_total: i64,
    peak_max: i64,
}

impl Memory {
    fn add(&mut self, net: i64, peak: i64) {
        self.net_max = if self.runs == 0 { net } else { self.net_max.max(net) };
        self.peak_max = self.peak_max.max(peak);
        self.net_total += net;
        self.peak_total += peak;
        self.runs += 1;
    }

    fn merge(&mut self, other: Self) {
        if other.runs > 0 {
            self.add(other.net_max, other.peak_max);
            self.net_total += other.net_total - other.net_max;
            self.peak_total += other.peak_total - other.peak_max;
            self.runs += other.runs - 1;
        }
    }

    /// Means and maxima.
    fn summary(&self) -> Option<((f64, i64), (f64, i64))> {
        let mean = |total: i64| total as f64 / self.runs as f64;
        (self.runs > 0).then(|| ((mean(self.net_total), self.net_max), (mean(self.peak_total), self.peak_max)))
    }
}

/// What is remembered of all runs under one name, in at most 24 KiB.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
#[derive(Default)]
pub struct Recorder {
    durations: Durations,
    memory: Guarded<Memory>,
}

/// What a recorder holds, as it is pickled: the total, the sum of squares, the extremes, the errors, the buckets, and
/// what of memory was recorded.
type Carried = (u64, u128, u64, u64, u64, Vec<(u16, u64)>, (u64, i64, i64, i64, i64));

/// What is carried of one name: the name that was asked for, its module, and what its recorder held.
type CarriedName = (String, Option<String>, Carried);

impl Recorder {
    fn carried(&self, py: Python<'_>, take: bool) -> Carried {
        let Recorded { total, squares, min, max, errors, buckets } = self.durations.copied(take);
        let memory = self.memory.with(py, |memory, _| if take { std::mem::take(memory) } else { *memory });
        let memory = (memory.runs, memory.net_total, memory.net_max, memory.peak_total, memory.peak_max);
        (total, squares, min, max, errors, buckets, memory)
    }

    #[inline]
    fn record_duration(&self, _py: Python<'_>, duration: u64, failed: bool) {
        self.durations.record::<SHARED>(duration, failed);
    }
}

#[pymethods]
impl Recorder {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Records one run of so many seconds (or a `timedelta`).
    #[pyo3(signature = (seconds, *, failed=false))]
    fn record(&self, py: Python<'_>, seconds: &Bound<'_, PyAny>, failed: bool) -> PyResult<()> {
        let duration = nanoseconds("seconds", seconds)?.unwrap_or(u64::MAX);
        self.record_duration(py, duration, failed);
        Ok(())
    }

    /// Records what one run allocated, in bytes: net, and at its peak.
    fn record_memory(&self, py: Python<'_>, net: i64, peak: i64) {
        self.memory.with(py, |memory, _| memory.add(net, peak));
    }

    /// Everything recorded up to now, as `ferrule.TimingStats`: in seconds, and in bytes.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static TIMING_STATS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static MEMORY_STATS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let summary = self.durations.summary();
        let memory = self.memory.with(py, |memory, _| memory.summary());
        let bytes = |pair: (f64, i64)| MEMORY_STATS.import(py, "ferrule.timing", "MemoryStats")?.call1(pair);
        let (net, peak) = match memory {
            Some((net, peak)) => (Some(bytes(net)?), Some(bytes(peak)?)),
            None => (None, None),
        };
        let min = if summary.count == 0 { 0 } else { summary.min };
        let values = (
            (summary.count, summary.errors),
            [summary.total as f64, summary.mean(), summary.stdev(), min as f64, summary.max as f64].map(seconds),
            [0.5, 0.9, 0.99, 0.999].map(|q| seconds(summary.quantile(q))),
        );
        let ((count, errors), [total, mean, stdev, min, max], [p50, p90, p99, p999]) = values;
        let fields: [Bound<'py, PyAny>; 2] =
            [count.into_pyobject(py)?.into_any(), errors.into_pyobject(py)?.into_any()];
        let floats = [total, mean, stdev, min, max, p50, p90, p99, p999];
        let floats = floats.into_iter().map(|value| PyFloat::new(py, value).into_any());
        let memory = [net, peak].into_iter().map(|value| value.unwrap_or_else(|| py.None().into_bound(py)));
        let all: Vec<_> = fields.into_iter().chain(floats).chain(memory).collect();
        let class = TIMING_STATS.import(py, "ferrule.timing", "TimingStats")?;
        // `_make` takes one argument, whatever the number of fields.
        call_method(class, intern!(py, "_make"), &[&PyTuple::new(py, all)?.into_any()])
    }

    /// The histogram: `(from, to, count)` for each bucket that isn't empty, in seconds, ascending.
    fn buckets(&self) -> Vec<(f64, f64, u64)> {
        let buckets = self.durations.summary().buckets;
        buckets.into_iter().map(|((from, to), count)| (seconds(from as f64), seconds(to as f64), count)).collect()
    }

    /// Adds what another recorder has carried here.
    #[pyo3(signature = (carried, /))]
    fn add(&self, py: Python<'_>, carried: Carried) -> PyResult<()> {
        let (total, squares, min, max, errors, buckets, memory) = carried;
        if !self.durations.add::<SHARED>(&Recorded { total, squares, min, max, errors, buckets }) {
            return Err(PyValueError::new_err("these measurements are of another kind of histogram"));
        }
        let (runs, net_total, net_max, peak_total, peak_max) = memory;
        let other = Memory { runs, net_total, net_max, peak_total, peak_max };
        self.memory.with(py, |memory, _| memory.merge(other));
        Ok(())
    }

    /// Forgets everything.
    fn reset(&self, py: Python<'_>) {
        self.durations.reset();
        self.memory.with(py, |memory, _| *memory = Memory::default());
    }

    fn __sizeof__(&self) -> usize {
        size_of::<Self>() + self.durations.size() - size_of::<Durations>()
    }
}

/// One name's recorder, and the module whose function has the name; none for a name that somebody chose.
struct Entry {
    module: Option<String>,
    recorder: Py<Recorder>,
    /// The stopwatch that only records: blocks are timed by the million, and share it.
    stopwatch: Option<Py<Stopwatch>>,
}

#[derive(Default)]
struct Names {
    entries: HashMap<String, Entry>,
    order: Vec<String>,
}

impl Names {
    /// The entry for a name, and the name that it goes by; or the name that a new entry is to have.
    fn find(&self, name: &str, module: Option<&str>, max_names: usize) -> Result<(String, &Entry), String> {
        let full = module.map(|module| format!("{module}.{name}"));
        let mut chosen = name;
        while let Some(entry) = self.entries.get(chosen) {
            let same = module.is_none() || entry.module.is_none() || entry.module.as_deref() == module;
            match &full {
                Some(full) if !same && chosen != full => chosen = full,
                _ => return Ok((chosen.to_owned(), entry)),
            }
        }
        if self.entries.len() < max_names {
            return Err(chosen.to_owned());
        }
        self.entries.get(OTHER).map(|entry| (OTHER.to_owned(), entry)).ok_or_else(|| OTHER.to_owned())
    }
}

/// A monitor's recorders by name: at most `max_names`, and one more for all others.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Recorders {
    names: Guarded<Names>,
    max_names: usize,
}

/// Where the runs of the names beyond `max_names` go.
const OTHER: &str = "(other)";

#[pymethods]
impl Recorders {
    #[classattr]
    #[pyo3(name = "OTHER")]
    fn other() -> &'static str {
        OTHER
    }

    #[new]
    #[pyo3(signature = (max_names, /))]
    fn new(max_names: usize) -> Self {
        Self { names: Guarded::default(), max_names }
    }

    /// The recorder for `name`, made when it is first asked for, with the name that it goes by: that of a function is led
    /// by its module where a function of another module has taken it already.
    #[pyo3(signature = (name, module=None, /))]
    fn get(&self, py: Python<'_>, name: &str, module: Option<&str>) -> PyResult<(String, Py<Recorder>)> {
        let known = |names: &mut Names| {
            let (name, entry) = names.find(name, module, self.max_names).ok()?;
            Some((name, entry.recorder.clone_ref(py)))
        };
        if let Some(found) = self.names.with(py, |names, _| known(names)) {
            return Ok(found);
        }
        // Made while the cell is closed, because making an object may start a garbage collection.
        let recorder = Py::new(py, Recorder::default())?;
        Ok(self.names.with(py, |names, dead| {
            // Another thread may have been quicker.
            if let Some(found) = known(names) {
                dead.push(recorder.into_any());
                return found;
            }
            let chosen = names.find(name, module, self.max_names).err().unwrap_or_default();
            let module = module.filter(|_| chosen != OTHER).map(ToOwned::to_owned);
            names.order.push(chosen.clone());
            names.entries.insert(chosen.clone(), Entry { module, recorder: recorder.clone_ref(py), stopwatch: None });
            (chosen, recorder)
        }))
    }

    /// The stopwatch that records under `name` and tells nobody; `None` while the name has none.
    #[pyo3(signature = (name, /))]
    fn stopwatch(&self, py: Python<'_>, name: &str) -> Option<Py<Stopwatch>> {
        self.names.with(py, |names, _| Some(names.entries.get(name)?.stopwatch.as_ref()?.clone_ref(py)))
    }

    /// Keeps the stopwatch that records under `name` and tells nobody.
    #[pyo3(signature = (name, stopwatch, /))]
    fn keep_stopwatch(&self, py: Python<'_>, name: &str, stopwatch: Py<Stopwatch>) {
        self.names.with(py, |names, dead| {
            let before = match names.entries.get_mut(name) {
                Some(entry) => entry.stopwatch.replace(stopwatch),
                None => Some(stopwatch),
            };
            dead.extend(before.map(Py::into_any));
        });
    }

    /// All names with their recorders, in the order in which they were first asked for.
    fn items(&self, py: Python<'_>) -> Vec<(String, Py<Recorder>)> {
        self.names.with(py, |names, _| {
            let recorder = |name: &String| names.entries.get(name).map(|entry| entry.recorder.clone_ref(py));
            names.order.iter().filter_map(|name| Some((name.clone(), recorder(name)?))).collect()
        })
    }

    /// Whether nothing is recorded under any name.
    #[getter]
    fn empty(&self, py: Python<'_>) -> bool {
        self.names.with(py, |names, _| names.entries.values().all(|entry| entry.recorder.get().durations.is_empty()))
    }

    /// What is recorded, name by name, as it travels; with `take` it is forgotten here.
    #[pyo3(signature = (*, take))]
    fn carried(&self, py: Python<'_>, take: bool) -> Vec<CarriedName> {
        let filled = self.names.with(py, |names, _| {
            let entry = |chosen: &String| {
                let entry = names.entries.get(chosen)?;
                let module = entry.module.as_deref();
                // Elsewhere the name may be free, and goes without the module that leads it here.
                let plain = module.and_then(|module| chosen.strip_prefix(module)?.strip_prefix('.'));
                let name = plain.unwrap_or(chosen).to_owned();
                let kept = !entry.recorder.get().durations.is_empty();
                kept.then(|| (name, entry.module.clone(), entry.recorder.clone_ref(py)))
            };
            names.order.iter().filter_map(entry).collect::<Vec<_>>()
        });
        let carried = filled.into_iter();
        carried.map(|(name, module, recorder)| (name, module, recorder.get().carried(py, take))).collect()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.names.traverse(|names| {
            names.entries.values().try_for_each(|entry| {
                visit.call(&entry.recorder)?;
                visit.call(&entry.stopwatch)
            })
        })
    }
}

/// What is done with each run: into a recorder, and told to those who asked.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Stopwatch {
    name: Option<Py<PyAny>>,
    recorder: Option<Py<Recorder>>,
    /// Called with the name, the seconds and the exception (or None) of every run that is long enough.
    notify: Option<Py<PyAny>>,
    slower_than: u64,
}

impl Stopwatch {
    /// Whether anybody wants to hear of a run of this length.
    #[inline]
    fn tells(&self, duration: u64) -> bool {
        self.notify.is_some() && duration >= self.slower_than
    }

    /// Tells of a run. A listener that fails spoils neither the run's result nor its exception: that goes to
    /// `sys.unraisablehook`. Only what ends a program (Ctrl-C, `SystemExit`) comes out.
    #[cold]
    fn tell(&self, py: Python<'_>, duration: u64, error: Option<&PyErr>) -> PyResult<()> {
        let Some(notify) = &self.notify else { return Ok(()) };
        #[cfg(not(Py_3_12))]
        if let Some(error) = error {
            // Up to 3.11 the traceback travels beside the exception; listeners want it on it.
            error.value(py).setattr(intern!(py, "__traceback__"), error.traceback(py))?;
        }
        let name = self.name.as_ref().map_or_else(|| py.None(), |name| name.clone_ref(py)).into_bound(py);
        let seconds = PyFloat::new(py, seconds(duration as f64)).into_any();
        let value = error.map_or_else(|| py.None().into_bound(py), |error| error.value(py).clone().into_any());
        match guarding::call(notify.bind(py), &[&name, &seconds, &value]) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_instance_of::<PyException>(py) => {
                failure.write_unraisable(py, Some(notify.bind(py)));
                Ok(())
            }
            Err(interrupt) => {
                if !value.is_none() && !interrupt.value(py).is(&value) {
                    interrupt.value(py).setattr(intern!(py, "__context__"), value)?;
                }
                Err(interrupt)
            }
        }
    }

    /// Records a run, and tells of it. What comes out is what ends the program, see [`Self::tell`].
    fn finish(&self, py: Python<'_>, duration: u64, error: Option<&PyErr>) -> PyResult<()> {
        // Closing a generator or a coroutine before its end is no failure of its own.
        let error = error.filter(|error| !error.is_instance_of::<PyGeneratorExit>(py));
        if let Some(recorder) = &self.recorder {
            recorder.get().record_duration(py, duration, error.is_some());
        }
        if self.tells(duration) { self.tell(py, duration, error) } else { Ok(()) }
    }
}

#[pymethods]
impl Stopwatch {
    #[new]
    #[pyo3(signature = (name, recorder, *, notify=None, slower_than=0.0))]
    fn new(
        py: Python<'_>,
        name: Option<Py<PyAny>>,
        recorder: Option<Py<Recorder>>,
        notify: Option<Py<PyAny>>,
        slower_than: f64,
    ) -> PyResult<Self> {
        let slower_than = slower_than.into_pyobject(py)?;
        let slower_than = nanoseconds("slower_than", &slower_than)?.unwrap_or(u64::MAX);
        Ok(Self { name, recorder, notify, slower_than })
    }

    /// The precise clock's reading, to be given to `end`.
    fn begin(&self) -> u64 {
        let _ = self;
        precise()
    }

    /// Ends a run that began at `begun`.
    #[pyo3(signature = (begun, error=None))]
    fn end(&self, py: Python<'_>, begun: u64, error: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        self.record(py, precise().saturating_sub(begun), error)
    }

    /// Records a run of so many nanoseconds.
    #[pyo3(signature = (duration, error=None))]
    fn record(&self, py: Python<'_>, duration: u64, error: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        self.finish(py, duration, error.map(PyErr::from_value).as_ref())
    }

    /// What has been recorded; see `ferrule.TimingStats`.
    fn timing_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.recorder {
            Some(recorder) => recorder.get().stats(py),
            None => Recorder::default().stats(py),
        }
    }

    /// Forgets what has been recorded.
    fn timing_reset(&self, py: Python<'_>) {
        if let Some(recorder) = &self.recorder {
            recorder.get().reset(py);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.name)?;
        visit.call(&self.recorder)?;
        visit.call(&self.notify)
    }
}

/// A function whose calls are timed.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct TimedFunction {
    // The recorder once more, so that the hot path is one step shorter.
    recorder: Py<Recorder>,
    stopwatch: Py<Stopwatch>,
}

#[pymethods]
impl TimedFunction {
    #[new]
    #[pyo3(signature = (function, stopwatch, /))]
    fn new<'py>(function: &Bound<'py, PyAny>, stopwatch: Py<Stopwatch>) -> PyResult<Bound<'py, Self>> {
        let py = function.py();
        let recorder = stopwatch.get().recorder.as_ref().map(|recorder| recorder.clone_ref(py));
        let recorder = recorder.ok_or(Error::State("a timed function needs a stopwatch with a recorder"))?;
        Wrapper::wrap(function, Self { recorder, stopwatch })
    }

    /// What has been recorded; see `ferrule.TimingStats`.
    fn timing_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.recorder.get().stats(py)
    }

    /// Forgets what has been recorded.
    fn timing_reset(&self, py: Python<'_>) {
        self.recorder.get().reset(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.recorder)?;
        visit.call(&self.stopwatch)
    }
}

impl Native for TimedFunction {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        let py = this.py();
        let function = this.as_super().get().function(py);
        let start = precise();
        let result = call.forward(function);
        let duration = precise().saturating_sub(start);
        let timed = this.get();
        timed.recorder.get().record_duration(py, duration, result.is_err());
        if !timed.stopwatch.get().tells(duration) {
            return Ok(result?);
        }
        // Attached by PyO3's own count, so that what the listener leaves behind is released at once.
        guarding::attached(py, |_| match result {
            Ok(value) => {
                timed.stopwatch.get().tell(py, duration, None)?;
                Ok(value)
            }
            Err(raised) => {
                let error = raised.fetch(py);
                timed.stopwatch.get().tell(py, duration, Some(&error))?;
                Err(Failure::from(error))
            }
        })
    }
}

/// A function whose calls are counted.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct CountedFunction {
    count: Tally,
}

#[pymethods]
impl CountedFunction {
    #[new]
    #[pyo3(signature = (function, /))]
    fn new<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        Wrapper::wrap(function, Self { count: Tally::default() })
    }

    /// How often the function has been called since it was decorated, or since the last reset.
    #[getter]
    fn call_count(&self) -> u64 {
        self.count.get()
    }

    /// Starts counting from zero.
    fn call_reset(&self) {
        self.count.reset();
    }
}

impl Native for CountedFunction {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        this.get().count.increment(this.py());
        Ok(call.forward(this.as_super().get().function(this.py()))?)
    }
}

#[derive(Default)]
struct Spent {
    nanoseconds: u64,
    done: bool,
}

/// A generator's resumptions, timed; what a generator shell delegates to by `yield from`.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Resumptions {
    generator: Py<PyIterator>,
    stopwatch: Py<Stopwatch>,
    spent: Guarded<Spent>,
}

impl Resumptions {
    fn resume<'py, R>(
        &self,
        py: Python<'py>,
        step: impl FnOnce(&Bound<'py, PyIterator>) -> PyResult<R>,
    ) -> PyResult<R> {
        let start = precise();
        let result = step(self.generator.bind(py));
        let duration = precise().saturating_sub(start);
        self.spent.with(py, |spent, _| spent.nanoseconds += duration);
        result
    }

    /// The generator has ended; once.
    fn finish(&self, py: Python<'_>, error: Option<&PyErr>) -> PyResult<()> {
        let first = self.spent.with(py, |spent, _| {
            let first = !std::mem::replace(&mut spent.done, true);
            first.then_some(spent.nanoseconds)
        });
        first.map_or(Ok(()), |nanoseconds| self.stopwatch.get().finish(py, nanoseconds, error))
    }

    fn send_on<'py>(&self, py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.resume(py, |generator| send(generator, value)) {
            Ok(PySendResult::Next(item)) => Ok(Some(item)),
            Ok(PySendResult::Return(value)) => {
                self.finish(py, None)?;
                // Without a value, the cheaper way to stop: no exception is made.
                if value.is_none() { Ok(None) } else { Err(PyStopIteration::new_err((value.unbind(),))) }
            }
            Err(error) => {
                self.finish(py, Some(&error))?;
                Err(error)
            }
        }
    }
}

#[pymethods]
impl Resumptions {
    #[new]
    #[pyo3(signature = (generator, stopwatch, /))]
    fn new(generator: Py<PyIterator>, stopwatch: Py<Stopwatch>) -> Self {
        Self { generator, stopwatch, spent: Guarded::default() }
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.send_on(py, py.None().bind(py))
    }

    /// As a generator's `send`.
    #[pyo3(signature = (value, /))]
    fn send<'py>(&self, py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.send_on(py, value)?.ok_or_else(|| PyStopIteration::new_err(()))
    }

    /// As a generator's `throw`.
    #[pyo3(signature = (*error))]
    fn throw<'py>(&self, py: Python<'py>, error: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let error: Vec<_> = error.iter().collect();
        let error: Vec<_> = error.iter().collect();
        let result = self.resume(py, |generator| call_method(generator.as_any(), intern!(py, "throw"), &error));
        if let Err(error) = &result {
            let failure = if error.is_instance_of::<PyStopIteration>(py) { None } else { Some(error) };
            self.finish(py, failure)?;
        }
        result
    }

    /// As a generator's `close`.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let result = self.resume(py, |generator| call_method(generator.as_any(), intern!(py, "close"), &[]));
        self.finish(py, result.as_ref().err())?;
        result
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.generator)?;
        visit.call(&self.stopwatch)
    }
}

/// An argument that may be left out, and for which `None` is as wrong as any other value of a wrong type.
struct Given<'py>(Option<Bound<'py, PyAny>>);

impl<'py> FromPyObject<'_, 'py> for Given<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(Some(object.to_owned())))
    }
}

/// A block that has been entered and not yet left.
struct Run {
    /// Held, so that its address is no other frame's while the block runs.
    frame: Option<Py<PyAny>>,
    thread: usize,
    start: u64,
}

#[derive(Default)]
struct Runs {
    active: Vec<Run>,
    last: u64,
}

impl Runs {
    /// The innermost run of the calling frame; failing that, of the thread.
    ///
    /// A `with` statement enters and leaves in one frame, and every call, coroutine and generator has a frame of its own:
    /// so blocks that share a timer are told apart under threads, tasks, generators and recursion. What is entered in one
    /// frame and left in another (`ExitStack`) is taken for properly nested on its thread.
    fn innermost(&self, frame: Option<&Bound<'_, PyAny>>, thread: usize) -> Option<usize> {
        let here = |run: &Run| match (&run.frame, frame) {
            (Some(entered), Some(frame)) => entered.is(frame),
            (None, None) => run.thread == thread,
            _ => false,
        };
        self.active.iter().rposition(here).or_else(|| self.active.iter().rposition(|run| run.thread == thread))
    }
}

/// Times a block of code: the native half of `ferrule.Timer`.
#[pyclass(subclass, frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Timer {
    stopwatch: Py<Stopwatch>,
    runs: Guarded<Runs>,
}

impl Timer {
    fn enter(&self, py: Python<'_>) {
        let (frame, thread) = (calling_frame(py).map(Bound::unbind), this_thread());
        self.runs.with(py, |runs, _| runs.active.push(Run { frame, thread, start: precise() }));
    }

    fn leave(&self, py: Python<'_>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let now = precise();
        let (frame, thread) = (calling_frame(py), this_thread());
        let left = self.runs.with(py, |runs, _| {
            // A block entered on one thread and left on another is the last that was entered.
            let run = runs.innermost(frame.as_ref(), thread).or_else(|| runs.active.len().checked_sub(1))?;
            let run = runs.active.remove(run);
            runs.last = now.saturating_sub(run.start);
            Some((runs.last, run.frame))
        });
        // The frame that the run held is let go when this function ends, with the cell closed.
        let (duration, _frame) = left.ok_or(Error::State("this Timer was left more often than it was entered"))?;
        let error = error.map(|error| PyErr::from_value(error.clone()));
        self.stopwatch.get().finish(py, duration, error.as_ref())
    }
}

#[pymethods]
impl Timer {
    #[new]
    #[pyo3(
        signature = (name=None, *, monitor=None, log=None, echo=Given(None), sink=None, slower_than=Given(None)),
        text_signature = "(name=None, *, monitor=None, log=None, echo=False, sink=None, slower_than=0.0)"
    )]
    fn new(
        py: Python<'_>,
        name: Option<&Bound<'_, PyAny>>,
        monitor: Option<&Bound<'_, PyAny>>,
        log: Option<&Bound<'_, PyAny>>,
        echo: Given<'_>,
        sink: Option<&Bound<'_, PyAny>>,
        slower_than: Given<'_>,
    ) -> PyResult<Self> {
        static ROOM: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
        static STOPWATCH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let room = ROOM.get_or_try_init(py, || Ok::<_, PyErr>(py.import("ferrule.timing")?.unbind()))?.bind(py);
        if let Some(name) = name
            && log.is_none()
            && echo.0.is_none()
            && sink.is_none()
            && slower_than.0.is_none()
        {
            // The usual case, which people put into loops: everything is known but the time.
            let monitor = match monitor {
                Some(monitor) => monitor.clone(),
                None => room.getattr(intern!(py, "default_monitor"))?,
            };
            if let Ok(recorders) = monitor.getattr(intern!(py, "_recorders"))
                && let Ok(recorders) = recorders.cast::<Recorders>()
                && let Ok(name) = name.extract::<&str>()
                && let Some(stopwatch) = recorders.get().stopwatch(py, name)
            {
                return Ok(Self { stopwatch, runs: Guarded::default() });
            }
        }
        let stopwatch = STOPWATCH.import(py, "ferrule.timing", "stopwatch_for")?.call1((
            name,
            monitor,
            log,
            echo.0.map_or_else(|| false.into_bound_py_any(py), Ok)?,
            sink,
            slower_than.0.map_or_else(|| 0.0.into_bound_py_any(py), Ok)?,
        ))?;
        Ok(Self { stopwatch: stopwatch.cast_into::<Stopwatch>()?.unbind(), runs: Guarded::default() })
    }

    fn __enter__<'py>(this: &Bound<'py, Self>) -> Bound<'py, Self> {
        this.get().enter(this.py());
        this.clone()
    }

    #[pyo3(signature = (error_type, error, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        error_type: &Bound<'_, PyAny>,
        error: Option<&Bound<'_, PyAny>>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (error_type, traceback);
        self.leave(py, error)
    }

    fn __aenter__(this: &Bound<'_, Self>) -> Ready {
        // Entered here, in the frame of the `async with`; there's nothing to wait for.
        this.get().enter(this.py());
        Ready::new(this.clone().into_any().unbind())
    }

    #[pyo3(signature = (error_type, error, traceback, /))]
    fn __aexit__(
        &self,
        py: Python<'_>,
        error_type: &Bound<'_, PyAny>,
        error: Option<&Bound<'_, PyAny>>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Ready> {
        let _ = (error_type, traceback);
        self.leave(py, error)?;
        Ok(Ready::new(py.None()))
    }

    /// Seconds: of the block that is running in this frame or thread, up to now; otherwise of the last that ended.
    #[getter]
    fn elapsed(&self, py: Python<'_>) -> f64 {
        let (frame, thread) = (calling_frame(py), this_thread());
        let nanoseconds = self.runs.with(py, |runs, _| match runs.innermost(frame.as_ref(), thread) {
            Some(run) => precise().saturating_sub(runs.active[run].start),
            None => runs.last,
        });
        seconds(nanoseconds as f64)
    }

    /// The name that the runs are recorded under; `None` where they aren't.
    #[getter]
    fn name(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.stopwatch.get().name.as_ref().map(|name| name.clone_ref(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.stopwatch)?;
        self.runs.traverse(|runs| runs.active.iter().try_for_each(|run| visit.call(&run.frame)))
    }
}

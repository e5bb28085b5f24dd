//! Retrying as Python sees it.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

use pyo3::exceptions::{PyBaseException, PyException};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::budget::Budget;
use super::schedule::{Chance, Jitter, Schedule};
use crate::callable::{Call, Failure, Native, Outcome, Wrapper, bound_method};
use crate::clock::{SECOND, binding::optional_nanoseconds, precise};
use crate::guarding::{self, Guarded, Made, Tally, interned};
use crate::lifecycle;
use crate::waiting::{Ticket, Woken};

thread_local! {
    /// This thread's random numbers, and the process that they were made for, as the number of forks before: parent and
    /// child must not wait alike.
    static CHANCE: Cell<Option<(u64, Chance)>> = const { Cell::new(None) };
}

/// A random number from 0 (included) to 1 (excluded).
fn chance() -> f64 {
    CHANCE.with(|cell| {
        let generation = lifecycle::generation();
        let mut stream = match cell.get() {
            Some((made_for, stream)) if made_for == generation => stream,
            _ => {
                // The operating system's randomness, which a forked child has inherited, and what the child alone has.
                let mut seed = RandomState::new().build_hasher();
                seed.write_u32(std::process::id());
                seed.write_u64(precise());
                Chance::new(seed.finish())
            }
        };
        let number = stream.draw();
        cell.set(Some((generation, stream)));
        number
    })
}

/// An exception as the functions of users are given it.
fn raised_value<'py>(py: Python<'py>, error: &PyErr) -> PyResult<Bound<'py, PyAny>> {
    #[cfg(not(Py_3_12))]
    // Up to 3.11 the traceback travels beside the exception; listeners want it on it.
    error.value(py).setattr(interned!(py, "__traceback__"), error.traceback(py))?;
    Ok(error.value(py).clone().into_any())
}

/// What a policy says, checked by the face and complete.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Plan {
    /// Exception classes.
    on: Py<PyTuple>,
    retry_if: Option<Py<PyAny>>,
    max_attempts: u64,
    schedule: Schedule,
    /// Called with the number and the error instead of the schedule.
    delay: Option<Py<PyAny>>,
    timeout: Option<u64>,
    retry_result: Option<Py<PyAny>>,
    budget: Option<Py<RetryBudget>>,
    stop_event: Option<Py<PyAny>>,
    on_retry: Option<Py<PyAny>>,
    on_give_up: Option<Py<PyAny>>,
}

impl Plan {
    /// What a callable says the delay is: seconds, a `timedelta`, or the moment as a `datetime`; the past is no delay.
    fn asked_delay<'py>(
        &self,
        py: Python<'py>,
        ask: &Py<PyAny>,
        number: u64,
        error: &Bound<'py, PyAny>,
    ) -> PyResult<f64> {
        static SECONDS_OF: Made<Py<PyAny>> = Made::new();
        let number = number.into_pyobject(py)?.into_any();
        let said = guarding::call(ask.bind(py), &[&number, error])?;
        let seconds = SECONDS_OF.import(py, "ferrule.retrying", "seconds_said")?;
        let seconds: f64 = guarding::call(seconds, &[&said])?.extract()?;
        Ok(seconds.min(self.schedule.max_delay))
    }

    /// Whether an exception asks for another attempt.
    fn retries(&self, py: Python<'_>, error: &PyErr) -> PyResult<bool> {
        let named = if error.is_instance_of::<PyException>(py) {
            error.matches(py, self.on.bind(py))?
        } else {
            // What ends a program or a task is retried where it is named, which `BaseException` doesn't do.
            let everything = py.get_type::<PyBaseException>();
            let mut classes = self.on.bind(py).iter();
            classes.any(|class| !class.is(&everything) && error.matches(py, class).unwrap_or(false))
        };
        match &self.retry_if {
            Some(agrees) if named => {
                let value = raised_value(py, error)?;
                guarding::call(agrees.bind(py), &[&value])?.is_truthy()
            }
            _ => Ok(named),
        }
    }

    /// Whether a value asks for another attempt.
    fn asks_again(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(asks) = &self.retry_result else { return Ok(false) };
        guarding::call(asks.bind(value.py()), &[value])?.is_truthy()
    }

    fn is_stopped(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(event) = &self.stop_event else { return Ok(false) };
        guarding::call_method(event.bind(py), interned!(py, "is_set"), &[])?.is_truthy()
    }

    /// The wait after attempt `number`, in seconds.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        number: u64,
        error: Option<&Bound<'py, PyAny>>,
        previous: Option<f64>,
    ) -> PyResult<f64> {
        match &self.delay {
            Some(ask) => {
                self.asked_delay(py, ask, number, &error.map_or_else(|| py.None().into_bound(py), Bound::clone))
            }
            None => Ok(self.schedule.wait(number, previous, chance())),
        }
    }
}

#[pymethods]
impl Plan {
    #[new]
    #[pyo3(signature = (*, on, retry_if, max_attempts, delay, delay_by, backoff, max_delay, jitter, timeout,
        retry_result, budget, stop_event, on_retry, on_give_up))]
    #[expect(clippy::too_many_arguments, reason = "the face hands them over, checked and complete")]
    fn new(
        on: Py<PyTuple>,
        retry_if: Option<Py<PyAny>>,
        max_attempts: Option<u64>,
        delay: f64,
        delay_by: Option<Py<PyAny>>,
        backoff: f64,
        max_delay: f64,
        jitter: Option<&str>,
        timeout: Option<&Bound<'_, PyAny>>,
        retry_result: Option<Py<PyAny>>,
        budget: Option<Py<RetryBudget>>,
        stop_event: Option<Py<PyAny>>,
        on_retry: Option<Py<PyAny>>,
        on_give_up: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let jitter = match jitter {
            Some("full") => Jitter::Full,
            Some("equal") => Jitter::Equal,
            Some("decorrelated") => Jitter::Decorrelated,
            _ => Jitter::None,
        };
        Ok(Self {
            on,
            retry_if,
            max_attempts: max_attempts.unwrap_or(u64::MAX),
            schedule: Schedule { delay, backoff, max_delay, jitter },
            delay: delay_by,
            timeout: optional_nanoseconds("timeout", timeout)?,
            retry_result,
            budget,
            stop_event,
            on_retry,
            on_give_up,
        })
    }

    /// The seconds to wait after attempt `number` has failed.
    #[pyo3(signature = (number, error=None, previous=None, /))]
    fn next_delay<'py>(
        &self,
        py: Python<'py>,
        number: u64,
        error: Option<&Bound<'py, PyAny>>,
        previous: Option<f64>,
    ) -> PyResult<f64> {
        self.wait(py, number, error, previous)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.on)?;
        visit.call(&self.budget)?;
        let others = [&self.retry_if, &self.delay, &self.retry_result, &self.stop_event];
        others.into_iter().chain([&self.on_retry, &self.on_give_up]).try_for_each(|object| visit.call(object))
    }
}

/// How many retries many functions may make together.
#[pyclass(subclass, frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct RetryBudget {
    ratio: f64,
    min_per_second: f64,
    budget: Guarded<Budget>,
}

impl RetryBudget {
    fn deposit(&self, py: Python<'_>) {
        self.budget.peek(py, |budget| budget.deposit(precise() / SECOND));
    }

    fn withdraw(&self, py: Python<'_>) -> bool {
        self.budget.peek(py, |budget| budget.withdraw(precise() / SECOND, self.ratio, self.min_per_second))
    }
}

#[pymethods]
impl RetryBudget {
    #[new]
    #[pyo3(signature = (*, ratio, min_per_second))]
    fn new(ratio: f64, min_per_second: f64) -> Self {
        Self { ratio, min_per_second, budget: Guarded::default() }
    }

    /// Retries for each call.
    #[getter]
    fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Retries a second that are free.
    #[getter]
    fn min_per_second(&self) -> f64 {
        self.min_per_second
    }

    /// How many retries may begin now.
    #[getter]
    fn balance(&self, py: Python<'_>) -> f64 {
        self.budget.peek(py, |budget| budget.balance(precise() / SECOND, self.ratio, self.min_per_second)).max(0.0)
    }
}

/// What has become of the calls that didn't succeed at the first attempt.
#[derive(Clone, Copy, Default)]
struct Troubled {
    /// Calls that were counted as straight when they began.
    taken_back: u64,
    calls: u64,
    attempts: u64,
    successes: u64,
    give_ups: u64,
    passed: u64,
    slept: f64,
}

/// What is counted of a function's calls.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
#[derive(Default)]
pub struct RetryTally {
    /// Calls that succeeded at the first attempt: all that most functions ever have.
    straight: Tally,
    troubled: Guarded<Troubled>,
}

impl RetryTally {
    fn note(&self, py: Python<'_>, body: impl FnOnce(&mut Troubled)) {
        self.troubled.peek(py, body);
    }
}

#[pymethods]
impl RetryTally {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Calls, attempts, successes, give-ups, calls that something else ended, and seconds slept.
    fn counts(&self, py: Python<'_>) -> (u64, u64, u64, u64, u64, f64) {
        let (troubled, straight) = self.troubled.peek(py, |troubled| {
            // On a free-threaded build a call may have been taken back whose beginning isn't seen yet.
            (*troubled, self.straight.get().saturating_sub(troubled.taken_back))
        });
        (
            straight + troubled.calls,
            straight + troubled.attempts,
            straight + troubled.successes,
            troubled.give_ups,
            troubled.passed,
            troubled.slept,
        )
    }
}

/// How an attempt ended that was not simply good.
#[derive(Clone, Copy)]
enum End<'a, 'py> {
    Error(&'a PyErr),
    Value(&'a Bound<'py, PyAny>),
}

/// How far one call has come.
#[derive(Clone, Copy)]
struct Progress {
    /// Attempts that have ended.
    number: u64,
    begun: u64,
    /// Nanoseconds that tests have skipped: they count as if they had been slept.
    skipped: u64,
    /// The last wait, in seconds.
    previous: Option<f64>,
}

impl Progress {
    fn since(begun: u64) -> Self {
        Self { number: 0, begun, skipped: 0, previous: None }
    }

    fn elapsed(&self) -> u64 {
        precise().saturating_sub(self.begun).saturating_add(self.skipped)
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / SECOND as f64
}

/// A wait in nanoseconds; the longest there is for what doesn't fit.
fn length(seconds: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; the cast saturates")]
    let nanoseconds = (seconds * SECOND as f64) as u64;
    nanoseconds
}

/// Why a call is given up.
#[derive(Clone, Copy)]
enum Reason {
    Attempts,
    Timeout,
    Budget,
    Stopped,
}

/// What a retried call goes by.
struct Rules<'a, 'py> {
    plan: &'a Plan,
    tally: &'a RetryTally,
    /// What is called; none for a block.
    function: Option<&'a Bound<'py, PyAny>>,
}

impl<'py> Rules<'_, 'py> {
    /// An attempt has ended badly: the seconds to wait for the next one, or `None` where there is none.
    fn judge(&self, py: Python<'py>, progress: &mut Progress, end: End<'_, 'py>) -> PyResult<Option<f64>> {
        progress.number += 1;
        let first = progress.number == 1;
        self.tally.note(py, |troubled| {
            troubled.calls += u64::from(first);
            troubled.attempts += 1;
        });
        if first && let Some(budget) = &self.plan.budget {
            budget.get().deposit(py);
        }
        let decided = self.decide(py, progress, end);
        if decided.is_err() {
            self.tally.note(py, |troubled| troubled.passed += 1);
        }
        decided
    }

    fn decide(&self, py: Python<'py>, progress: &mut Progress, end: End<'_, 'py>) -> PyResult<Option<f64>> {
        let plan = self.plan;
        if let End::Error(error) = end
            && !chained(py, end, plan.retries(py, error))?
        {
            self.tally.note(py, |troubled| troubled.passed += 1);
            return Ok(None);
        }
        if chained(py, end, plan.is_stopped(py))? {
            return self.give_up(py, progress, end, Reason::Stopped);
        }
        if progress.number >= plan.max_attempts {
            return self.give_up(py, progress, end, Reason::Attempts);
        }
        let value = match end {
            End::Error(error) if plan.delay.is_some() => Some(raised_value(py, error)?),
            _ => None,
        };
        let delay = chained(py, end, plan.wait(py, progress.number, value.as_ref(), progress.previous))?;
        if plan.timeout.is_some_and(|timeout| progress.elapsed().saturating_add(length(delay)) > timeout) {
            return self.give_up(py, progress, end, Reason::Timeout);
        }
        if plan.budget.as_ref().is_some_and(|budget| !budget.get().withdraw(py)) {
            return self.give_up(py, progress, end, Reason::Budget);
        }
        progress.previous = Some(delay);
        self.announce(py, progress, end, delay)?;
        Ok(Some(delay))
    }

    /// Tells of a retry: to the log, where somebody reads it, and to the policy's hook.
    fn announce(&self, py: Python<'py>, progress: &Progress, end: End<'_, 'py>, delay: f64) -> PyResult<()> {
        static LISTENS: Made<Py<PyAny>> = Made::new();
        static LOG: Made<Py<PyAny>> = Made::new();
        let listens = guarding::call(LISTENS.import(py, "ferrule.retrying", "somebody_listens")?, &[])?.is_truthy()?;
        if !listens && self.plan.on_retry.is_none() {
            return Ok(());
        }
        let attempt = self.attempt(py, progress, end, Some(delay))?;
        if listens {
            let most = match self.plan.max_attempts {
                u64::MAX => py.None().into_bound(py),
                most => most.into_pyobject(py)?.into_any(),
            };
            let log = LOG.import(py, "ferrule.retrying", "log_retry")?;
            let logged = guarding::call(log, &[&attempt, &most]).map(drop);
            quietly(py, end, log, logged)?;
        }
        tell(py, self.plan.on_retry.as_ref(), &attempt, end)
    }

    fn attempt(
        &self,
        py: Python<'py>,
        progress: &Progress,
        end: End<'_, 'py>,
        delay: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static ATTEMPT: Made<Py<PyAny>> = Made::new();
        let (error, value) = match end {
            End::Error(error) => (Some(raised_value(py, error)?), None),
            End::Value(value) => (None, Some(value)),
        };
        let fields = (self.function, progress.number, error, value, delay, seconds(progress.elapsed()));
        let class = ATTEMPT.import(py, "ferrule.retrying", "Attempt")?;
        guarding::call_method(class, interned!(py, "_make"), &[&fields.into_pyobject(py)?.into_any()])
    }

    fn give_up(
        &self,
        py: Python<'py>,
        progress: &Progress,
        end: End<'_, 'py>,
        reason: Reason,
    ) -> PyResult<Option<f64>> {
        static ANNOTATE: Made<Py<PyAny>> = Made::new();
        self.tally.note(py, |troubled| troubled.give_ups += 1);
        if let End::Error(error) = end {
            let why = match reason {
                Reason::Attempts => "",
                Reason::Timeout => "the next wait would pass the timeout",
                Reason::Budget => "the budget of retries is spent",
                Reason::Stopped => "the stop event is set",
            };
            let function = self.function.map_or_else(|| py.None().into_bound(py), Bound::clone);
            let facts = (function, progress.number, seconds(progress.elapsed()), why).into_pyobject(py)?;
            // Where the interpreter goes, the module may have gone before; the exception comes out without a note.
            if let Ok(annotate) = ANNOTATE.import(py, "ferrule.retrying", "annotate") {
                let value = raised_value(py, error)?;
                let noted = guarding::call(annotate, &[&value, &facts.into_any()]).map(drop);
                self.counted(py, quietly(py, end, annotate, noted))?;
            }
        }
        if self.plan.on_give_up.is_some() {
            let attempt = self.attempt(py, progress, end, None)?;
            self.counted(py, tell(py, self.plan.on_give_up.as_ref(), &attempt, end))?;
        }
        Ok(None)
    }

    /// A call counts once: where telling of its giving up is interrupted, it counts as interrupted.
    fn counted(&self, py: Python<'_>, told: PyResult<()>) -> PyResult<()> {
        if told.is_err() {
            self.tally.note(py, |troubled| troubled.give_ups -= 1);
        }
        told
    }

    /// Skips the wait, where it is nothing or a test skips it; whether it did.
    fn skip(&self, py: Python<'py>, progress: &mut Progress, delay: f64) -> PyResult<bool> {
        static SKIPPED: Made<Py<PyAny>> = Made::new();
        let skipped = SKIPPED.import(py, "ferrule.retrying", "SKIPPED")?;
        let skipped = guarding::call_method(skipped, interned!(py, "get"), &[])?;
        if !skipped.is_none() {
            guarding::call_method(&skipped, interned!(py, "append"), &[&delay.into_pyobject(py)?.into_any()])?;
            progress.skipped = progress.skipped.saturating_add(length(delay));
            self.tally.note(py, |troubled| troubled.slept += delay);
        }
        Ok(!skipped.is_none() || delay <= 0.0)
    }

    /// Waits on this thread. Signals are heard.
    fn pause(&self, py: Python<'py>, progress: &mut Progress, delay: f64) -> PyResult<()> {
        static WATCH: Made<Py<PyAny>> = Made::new();
        if self.skip(py, progress, delay)? {
            // What is retried need not be Python code, which would look after signals and the other threads.
            py.check_signals()?;
            if progress.number.is_multiple_of(64) {
                lifecycle::detached(py, std::thread::yield_now);
            }
            return Ok(());
        }
        let begun = precise();
        let paused = match &self.plan.stop_event {
            Some(event) => {
                let watch = WATCH.import(py, "ferrule.retrying", "watch")?;
                guarding::call(watch, &[event.bind(py), &delay.into_pyobject(py)?.into_any()]).map(drop)
            }
            None => sleep(py, begun.saturating_add(length(delay))),
        };
        let slept = seconds(precise().saturating_sub(begun));
        self.tally.note(py, |troubled| troubled.slept += slept);
        paused
    }

    /// After a wait: whether the next attempt may begin. If not, the call has been given up.
    fn go_on(&self, py: Python<'py>, progress: &Progress, end: End<'_, 'py>) -> PyResult<bool> {
        let stopped = chained(py, end, self.plan.is_stopped(py))?;
        if stopped {
            self.give_up(py, progress, end, Reason::Stopped)?;
        }
        Ok(!stopped)
    }
}

/// Sleeps until `deadline` on the precise clock.
fn sleep(py: Python<'_>, deadline: u64) -> PyResult<()> {
    loop {
        let ticket = Ticket::<()>::for_this_thread();
        match ticket.wait(py, Some(deadline))? {
            // A signal handler forked, and this is the child: it has the rest of the wait before it.
            Woken::Forked => {}
            Woken::Settled | Woken::Expired => return Ok(()),
        }
    }
}

/// An error that came up while another was being handled tells of that one, too.
fn chained<T>(py: Python<'_>, end: End<'_, '_>, outcome: PyResult<T>) -> PyResult<T> {
    outcome.inspect_err(|failure| {
        if let End::Error(error) = end
            && !failure.value(py).is(error.value(py))
            && failure.context(py).is_none()
        {
            failure.set_context(py, Some(error.clone_ref(py)));
        }
    })
}

/// Calls a hook. One that fails spoils neither the call's result nor its exception.
fn tell(py: Python<'_>, hook: Option<&Py<PyAny>>, attempt: &Bound<'_, PyAny>, end: End<'_, '_>) -> PyResult<()> {
    let Some(hook) = hook else { return Ok(()) };
    let hook = hook.bind(py);
    quietly(py, end, hook, guarding::call(hook, &[attempt]).map(drop))
}

/// A listener's failure goes to `sys.unraisablehook`; only what ends a program or a task comes out.
fn quietly(py: Python<'_>, end: End<'_, '_>, listener: &Bound<'_, PyAny>, told: PyResult<()>) -> PyResult<()> {
    match told {
        Err(failure) if failure.is_instance_of::<PyException>(py) => {
            failure.write_unraisable(py, Some(listener));
            Ok(())
        }
        told => chained(py, end, told),
    }
}

/// A function that is called again where it fails.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct RetryingFunction {
    plan: Py<Plan>,
    tally: Py<RetryTally>,
    /// The `ferrule.Retry` that the plan was made of.
    policy: Py<PyAny>,
    /// What is called instead of the function, where retrying is Python's business.
    shell: Option<Py<PyAny>>,
    /// Whether the first value is as good as any.
    takes_any: bool,
}

impl RetryingFunction {
    /// The rest of a call whose first attempt ended in anything but plain success.
    #[cold]
    fn go_on<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        call: Call<'_, 'py>,
        begun: u64,
        mut attempt: Result<Bound<'py, PyAny>, PyErr>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (plan, tally) = (self.plan.get(), self.tally.get());
        let rules = Rules { plan, tally, function: Some(function) };
        let mut progress = Progress::since(begun);
        loop {
            if let Ok(value) = &attempt {
                let again = plan.asks_again(value);
                if !rules.refused(py, &mut progress, again)? {
                    return attempt;
                }
            }
            let end = match &attempt {
                Ok(value) => End::Value(value),
                Err(error) => End::Error(error),
            };
            let Some(delay) = rules.judge(py, &mut progress, end)? else { return attempt };
            if let Err(interrupt) = rules.pause(py, &mut progress, delay) {
                tally.note(py, |troubled| troubled.passed += 1);
                return chained(py, end, Err(interrupt));
            }
            if !rules.go_on(py, &progress, end)? {
                return attempt;
            }
            // What the failed attempt held is let go before the next one begins.
            drop(std::mem::replace(&mut attempt, Ok(py.None().into_bound(py))));
            attempt = call.forward(function).map_err(|raised| raised.fetch(py));
        }
    }
}

impl<'py> Rules<'_, 'py> {
    /// Whether a value is refused; one that is taken ends the call.
    fn refused(&self, py: Python<'py>, progress: &mut Progress, again: PyResult<bool>) -> PyResult<bool> {
        let ended = !matches!(again, Ok(true));
        if ended {
            let (first, failed) = (progress.number == 0, again.is_err());
            if first && !failed {
                self.tally.straight.increment(py);
            } else {
                self.tally.note(py, |troubled| {
                    troubled.calls += u64::from(first);
                    troubled.attempts += 1;
                    *(if failed { &mut troubled.passed } else { &mut troubled.successes }) += 1;
                });
            }
            if first && let Some(budget) = &self.plan.budget {
                budget.get().deposit(py);
            }
        }
        again
    }
}

#[pymethods]
impl RetryingFunction {
    #[new]
    #[pyo3(signature = (function, policy, plan, tally, shell=None, /))]
    fn new<'py>(
        function: &Bound<'py, PyAny>,
        policy: Py<PyAny>,
        plan: Py<Plan>,
        tally: Py<RetryTally>,
        shell: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let takes_any = plan.get().retry_result.is_none() && plan.get().budget.is_none();
        Wrapper::wrap(function, Self { plan, tally, policy, shell, takes_any })
    }

    /// A method knows its instance, so that it can go on with another policy.
    fn __get__<'py>(
        this: &Bound<'py, Self>,
        instance: Option<&Bound<'py, PyAny>>,
        owner: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = owner;
        let Some(instance) = instance else { return Ok(this.clone().into_any()) };
        let known = RetryingMethod { instance: instance.clone().unbind() };
        bound_method(Wrapper::wrap_bare(this.as_any(), known)?.as_any(), instance)
    }

    /// What has become of the calls; see `ferrule.retrying.RetryStats`.
    fn retry_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static STATS_OF: Made<Py<PyAny>> = Made::new();
        STATS_OF.import(py, "ferrule.retrying", "stats_of")?.call1((&self.tally,))
    }

    /// The function with another policy, or with one that differs in the parameters named.
    #[pyo3(signature = (policy=None, /, **changes))]
    fn with_policy<'py>(
        this: &Bound<'py, Self>,
        policy: Option<&Bound<'py, PyAny>>,
        changes: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static WITH_POLICY: Made<Py<PyAny>> = Made::new();
        let py = this.py();
        let me = this.get();
        let function = this.as_super().get().function(py);
        let with_policy = WITH_POLICY.import(py, "ferrule.retrying", "with_policy")?;
        with_policy.call1((function, &me.policy, &me.tally, policy, changes))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.plan)?;
        visit.call(&self.tally)?;
        visit.call(&self.policy)?;
        visit.call(&self.shell)
    }
}

impl Native for RetryingFunction {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        let py = this.py();
        let me = this.get();
        if let Some(shell) = &me.shell {
            return Ok(call.forward(shell.bind(py))?);
        }
        let function = this.as_super().get().function(py);
        let begun = precise();
        let result = call.forward(function);
        if me.takes_any && result.is_ok() {
            me.tally.get().straight.increment(py);
            return Ok(result?);
        }
        // Attached by PyO3's own count, so that what is dropped on the way is released at once.
        guarding::attached(py, |_| {
            let result = result.map_err(|raised| raised.fetch(py));
            me.go_on(py, function, call, begun, result).map_err(Failure::from)
        })
    }
}

/// What stands in a bound method for the function, so that what is asked of the method knows its instance.
#[pyclass(extends = Wrapper, frozen, immutable_type, module = "ferrule._core")]
pub struct RetryingMethod {
    instance: Py<PyAny>,
}

#[pymethods]
impl RetryingMethod {
    /// The method with another policy, or with one that differs in the parameters named.
    #[pyo3(signature = (policy=None, /, **changes))]
    fn with_policy<'py>(
        this: &Bound<'py, Self>,
        policy: Option<&Bound<'py, PyAny>>,
        changes: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let function = this.as_super().get().function(py);
        let other = RetryingFunction::with_policy(function.cast()?, policy, changes)?;
        RetryingFunction::__get__(other.cast()?, Some(this.get().instance.bind(py)), None)
    }

    fn __eq__(this: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> bool {
        let py = this.py();
        other.cast::<Self>().is_ok_and(|other| {
            this.as_super().get().function(py).is(other.as_super().get().function(py))
                && this.get().instance.is(&other.get().instance)
        })
    }

    fn __hash__(this: &Bound<'_, Self>) -> usize {
        this.as_super().get().function(this.py()).as_ptr().addr().rotate_right(4)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.instance)
    }
}

impl Native for RetryingMethod {
    #[inline]
    fn call<'py>(this: &Bound<'py, Self>, call: Call<'_, 'py>) -> Outcome<'py> {
        Ok(call.forward(this.as_super().get().function(this.py()))?)
    }
}

/// What decides for the shells in Python: coroutine functions, generators and blocks.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct Retrier {
    plan: Py<Plan>,
    tally: Py<RetryTally>,
    function: Option<Py<PyAny>>,
}

#[pymethods]
impl Retrier {
    #[new]
    #[pyo3(signature = (plan, tally, function=None, /))]
    fn new(plan: Py<Plan>, tally: Py<RetryTally>, function: Option<Py<PyAny>>) -> Self {
        Self { plan, tally, function }
    }

    /// A call begins: counted as one that succeeds at once. The precise clock's reading, to be given to `trouble`; a float,
    /// because the interpreter makes those quicker than large integers.
    fn begin(&self, py: Python<'_>) -> f64 {
        self.tally.get().straight.increment(py);
        precise() as f64
    }

    /// The call that began at `begun` doesn't succeed at once.
    #[pyo3(signature = (begun, /))]
    fn trouble(this: &Bound<'_, Self>, begun: f64) -> RetryCourse {
        let py = this.py();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a reading of the clock")]
        let begun = begun as u64;
        this.get().tally.get().note(py, |troubled| troubled.taken_back += 1);
        RetryCourse { retrier: this.clone().unbind(), progress: Guarded::new(Progress::since(begun)) }
    }

    /// A call that begins now, and is counted by what becomes of it.
    fn course(this: &Bound<'_, Self>) -> RetryCourse {
        RetryCourse { retrier: this.clone().unbind(), progress: Guarded::new(Progress::since(precise())) }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.plan)?;
        visit.call(&self.tally)?;
        visit.call(&self.function)
    }
}

/// One call that is retried by a shell in Python.
#[pyclass(frozen, weakref, immutable_type, module = "ferrule._core")]
pub struct RetryCourse {
    retrier: Py<Retrier>,
    progress: Guarded<Progress>,
}

impl RetryCourse {
    fn with<'py, R>(
        &self,
        py: Python<'py>,
        body: impl FnOnce(&Rules<'_, 'py>, &mut Progress) -> PyResult<R>,
    ) -> PyResult<R> {
        let retrier = self.retrier.get();
        let function = retrier.function.as_ref().map(|function| function.bind(py));
        let rules = Rules { plan: retrier.plan.get(), tally: retrier.tally.get(), function };
        let mut progress = self.progress.peek(py, |progress| *progress);
        let outcome = body(&rules, &mut progress);
        self.progress.peek(py, |now| *now = progress);
        outcome
    }
}

#[pymethods]
impl RetryCourse {
    /// The number of the attempt that runs, or is about to.
    #[getter]
    fn number(&self, py: Python<'_>) -> u64 {
        self.progress.peek(py, |progress| progress.number) + 1
    }

    /// Seconds since the call began.
    #[getter]
    fn elapsed(&self, py: Python<'_>) -> f64 {
        seconds(self.progress.peek(py, |progress| progress.elapsed()))
    }

    /// An attempt has raised: the seconds to wait for the next one, or `None` where there is none.
    #[pyo3(signature = (error, /))]
    fn failed<'py>(&self, py: Python<'py>, error: &Bound<'py, PyAny>) -> PyResult<Option<f64>> {
        let error = PyErr::from_value(error.clone());
        self.with(py, |rules, progress| rules.judge(py, progress, End::Error(&error)))
    }

    /// An attempt has returned: the seconds to wait for the next one, or `None` where the value is the call's.
    #[pyo3(signature = (value, /))]
    fn returned<'py>(&self, py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Option<f64>> {
        self.with(py, |rules, progress| {
            let again = rules.plan.asks_again(value);
            if rules.refused(py, progress, again)? { rules.judge(py, progress, End::Value(value)) } else { Ok(None) }
        })
    }

    /// Waits on this thread.
    #[pyo3(signature = (delay, /))]
    fn pause(&self, py: Python<'_>, delay: f64) -> PyResult<()> {
        self.with(py, |rules, progress| rules.pause(py, progress, delay))
    }

    /// Skips the wait, where it is nothing or a test skips it; whether it did.
    #[pyo3(signature = (delay, /))]
    fn skip(&self, py: Python<'_>, delay: f64) -> PyResult<bool> {
        self.with(py, |rules, progress| rules.skip(py, progress, delay))
    }

    /// Counts seconds that the shell has slept.
    #[pyo3(signature = (seconds, /))]
    fn slept(&self, py: Python<'_>, seconds: f64) {
        self.retrier.get().tally.get().note(py, |troubled| troubled.slept += seconds);
    }

    /// A wait was interrupted: by Ctrl-C, or because the task was cancelled.
    fn interrupted(&self, py: Python<'_>) {
        self.retrier.get().tally.get().note(py, |troubled| troubled.passed += 1);
    }

    /// After a wait: whether the next attempt may begin. If not, the call has been given up.
    #[pyo3(signature = (error, value, /))]
    fn goes_on<'py>(
        &self,
        py: Python<'py>,
        error: Option<&Bound<'py, PyAny>>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<bool> {
        let error = error.map(|error| PyErr::from_value(error.clone()));
        let end = error.as_ref().map_or(End::Value(value), End::Error);
        self.with(py, |rules, progress| rules.go_on(py, progress, end))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.retrier)
    }
}

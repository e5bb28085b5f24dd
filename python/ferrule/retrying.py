"""Another attempt, after a while, within limits: for functions, coroutine functions, generators and blocks.

`retry` decorates, `Retry` is the policy, `RetryBudget` keeps many callers from hammering a service that is down, and
`CircuitBreaker` keeps them from calling it at all for a while.
"""

# pyright: reportPrivateUsage=false
# The classes of this room know one another.

from __future__ import annotations

import functools
import math
import sys
from contextlib import suppress
from contextvars import ContextVar
from types import FunctionType, MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from ferrule import _core
from ferrule._checking import positive_integer, shown
from ferrule._errors import CircuitOpen
from ferrule._kinds import Kind, first_step, is_method_object, kind_of
from ferrule._logging import logger_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
    from datetime import datetime, timedelta
    from logging import Logger
    from types import TracebackType
    from typing import Concatenate, Self

__all__ = [
    "Attempt",
    "CircuitBreaker",
    "CircuitOpen",
    "Retried",
    "Retry",
    "RetryBlock",
    "RetryBudget",
    "RetryStats",
    "retry",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")

Jitter: TypeAlias = Literal["full", "equal", "decorrelated"]

_JITTERS: Final = ("full", "equal", "decorrelated")
_MANY: Final = 2**63
# The flag of a code object whose function takes `*args`, from the inspect module.
_VARIABLE_ARGUMENTS: Final = 0x04

# Where a test wants no sleep, the list that takes down the waits instead; see `ferrule.testing.no_sleep`.
SKIPPED: ContextVar[list[float] | None] = ContextVar("ferrule_skipped_sleeps", default=None)


class Attempt(NamedTuple):
    """An attempt that has ended, as hooks are told of it.

    `function` is what was called, `None` for a block; `number` counts from 1; `error` is what was raised, and `None`
    where it was the result, `value`, that was refused; `delay` is the wait that follows in seconds, and `None` where
    the call is given up; `elapsed` are the seconds since the call began.
    """

    function: Callable[..., Any] | None
    number: int
    error: BaseException | None
    value: Any
    delay: float | None
    elapsed: float


class RetryStats(NamedTuple):
    """What has become of a function's calls, under all its policies.

    `calls` are those whose first attempt has ended, `attempts` all that have, `retries` those that were not the first.
    `successes` are the calls that returned a value that was taken, `give_ups` those that ran out of attempts, time or
    budget or were stopped, `passed` those that something else ended: an exception that the policy doesn't name, Ctrl-C,
    a cancellation. `slept` are the seconds of all waits together. A coroutine function's call that is under way counts
    as a success until it fails.
    """

    calls: int
    attempts: int
    retries: int
    successes: int
    give_ups: int
    passed: int
    slept: float


def stats_of(tally: _core.RetryTally) -> RetryStats:
    calls, attempts, successes, give_ups, passed, slept = tally.counts()
    return RetryStats(calls, attempts, attempts - calls, successes, give_ups, passed, slept)


# -- checks of arguments ----------------------------------------------------------------------------------------------


def _exception_types(name: str, value: Any) -> tuple[type[BaseException], ...]:
    types: tuple[Any, ...] = (value,)
    if isinstance(value, tuple):
        types = cast("tuple[Any, ...]", value)  # type: ignore[redundant-cast] # not to pyright
    for each in types:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            hint = "" if isinstance(each, type) or not callable(each) else "; a predicate goes to retry_if"
            raise TypeError(f"{name} must be an exception class or a tuple of them, not {shown(each)}{hint}")
    if not types:
        raise ValueError(f"{name} must name an exception class at least, got ()")
    return types


def _hook(name: str, value: Any, arguments: str) -> None:
    """Check a callable that is to be called with so many arguments, as far as that can be seen beforehand."""
    if value is None:
        return
    number = arguments.count(",") + 1
    given = value
    if not callable(value):
        raise TypeError(f"{name} must be callable with {arguments}, not {shown(value)}")
    if isinstance(value, type) and issubclass(value, BaseException):
        # Called, it would make an exception, and every exception is true.
        raise TypeError(f"{name} must be callable with {arguments}, not an exception class: {value!r}; that goes to on")
    kind = kind_of(given)
    if kind != "function":
        # Called, it would give a coroutine or a generator, which is true, and which nobody runs.
        raise TypeError(f"{name} must be a plain function with {arguments}, not a {kind}: {value!r}")
    function: Any = given.__func__ if isinstance(given, MethodType) else given
    if not isinstance(function, FunctionType):
        # Whoever isn't a Python function knows alone what it takes.
        return
    code = function.__code__
    most = code.co_argcount - (function is not given)
    least = most - len(function.__defaults__ or ())
    takes_more = code.co_flags & _VARIABLE_ARGUMENTS
    keywords = code.co_kwonlyargcount - len(function.__kwdefaults__ or ())
    if least > number or (most < number and not takes_more) or keywords > 0:
        raise TypeError(f"{name} must be callable with {arguments}, and {value!r} takes other arguments")


def seconds_said(said: Any) -> float:
    """Read what a `delay` callable returned: seconds, a `timedelta` or the moment itself; the past is no delay."""
    seconds: float
    if isinstance(said, (int, float)) and not isinstance(said, bool):
        try:
            seconds = float(said)
        except OverflowError:
            # An integer beyond the floats: a very long time, in whichever direction.
            seconds = math.inf if said > 0 else 0.0
    else:
        # Loaded already by those who return its moments.
        from datetime import datetime, timedelta

        if isinstance(said, timedelta):
            seconds = said.total_seconds()
        elif isinstance(said, datetime):
            seconds = (said - datetime.now(said.tzinfo)).total_seconds()
        else:
            raise TypeError(f"delay must return seconds, a timedelta or a datetime, not {shown(said)}")
    if math.isnan(seconds):
        raise ValueError("delay must return a number of seconds, got nan")
    return max(0.0, seconds)


def _event(value: object) -> None:
    if value is not None and not (callable(getattr(value, "is_set", None)) and callable(getattr(value, "wait", None))):
        raise TypeError(f"stop_event must be an Event of threading or asyncio, not {shown(value)}")


# -- the budget -------------------------------------------------------------------------------------------------------


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {shown(value)}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of 0 or more, got {value!r}")
    return float(value)


class RetryBudget(_core.RetryBudget):
    """How many retries many functions may make together, so that a service that is down isn't hammered.

    >>> from ferrule import RetryBudget, retry
    >>> budget = RetryBudget(ratio=0.1, min_per_second=10)
    >>> @retry(budget=budget)
    ... def fetch(url): ...

    Every call of every function that shares the budget pays in `ratio`, and every retry takes out 1; what was paid in
    counts for ten seconds, and so does what was taken out. Beside that there are `min_per_second` retries a second, to
    be had even where calls are few. A call whose retry the budget refuses is given up at once.

    Args:
        ratio: Retries for each call, 0 or more: 0.1 lets one in ten calls be retried.
        min_per_second: Retries a second that are free, 0 or more; unused ones add up over the ten seconds.

    Raises:
        TypeError, ValueError: If an argument is not what it may be.
    """

    def __new__(cls, *, ratio: float = 0.1, min_per_second: float = 10.0) -> Self:
        """Make a budget."""
        return super().__new__(
            cls, ratio=_number("ratio", ratio), min_per_second=_number("min_per_second", min_per_second)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ratio={self.ratio!r}, min_per_second={self.min_per_second!r})"

    def __reduce__(self) -> tuple[object, ...]:
        # In another process it is another budget.
        return (_new_budget, (type(self), self.ratio, self.min_per_second))


def _new_budget(cls: type[RetryBudget], ratio: float, min_per_second: float) -> RetryBudget:
    return cls(ratio=ratio, min_per_second=min_per_second)


# -- what is heard of it ----------------------------------------------------------------------------------------------


def somebody_listens() -> bool:
    """Tell whether a warning would reach a handler: one that takes it, not one that is there to take nothing."""
    # Who has not imported logging hears nothing, and importing it takes longer than all of ferrule.
    logging = sys.modules.get("logging")
    if logging is None:
        return False
    ours = logger_of("retrying")
    if not ours.isEnabledFor(logging.WARNING):
        return False
    logger: Logger | None = ours
    while logger is not None:
        for handler in logger.handlers:
            if type(handler) is not logging.NullHandler:
                return True
        logger = logger.parent if logger.propagate else None
    return False


def _name_of(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def log_retry(attempt: Attempt, max_attempts: int | None) -> None:
    name = "a block" if attempt.function is None else _name_of(attempt.function)
    # A handler may keep the record: it must keep neither the exception nor the value.
    what = f"raised {attempt.error!r}" if attempt.error is not None else f"returned {attempt.value!r}"
    most = "" if max_attempts is None else f" of {max_attempts}"
    fields = {
        "ferrule_name": name,
        "attempt": attempt.number,
        "delay": attempt.delay,
        "seconds": attempt.elapsed,
        "error": None if attempt.error is None else type(attempt.error).__qualname__,
    }
    text = "%s %s in attempt %d%s; the next follows in %.3g s"
    logger_of("retrying").warning(text, name, what, attempt.number, most, attempt.delay, extra=fields)


def annotate(error: BaseException, facts: tuple[object, int, float, str]) -> None:
    """Note on an exception how often and how long it was tried. One that is raised again and again has one note."""
    function, number, elapsed, why = facts
    begin = "gave up after " if function is None else f"gave up on {_name_of(function)} after "
    text = f"{begin}{number} attempt{'s' if number > 1 else ''} in {elapsed:.3g} s{f': {why}' if why else ''}"
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        known = cast("list[object]", notes)
        for place, note in enumerate(known):
            if isinstance(note, str) and note.startswith(begin):
                known[place] = text
                return
    error.add_note(text)


# -- waits ------------------------------------------------------------------------------------------------------------

# How often an event is looked at that can't be waited for where we are.
_GLANCE: Final = 0.05


def _is_asynchronous(event: Any) -> bool:
    return kind_of(event.wait) == "coroutine function"


def watch(event: Any, delay: float) -> None:
    """Wait on this thread until the time is over or the event is set, by ferrule's clock."""
    deadline = _core.precise_ns() + int(min(delay * 1e9, _MANY))
    wait = _core.Line().get if _is_asynchronous(event) else None
    while not event.is_set() and (left := deadline - _core.precise_ns()) > 0:
        # In slices: the clock may be turned by hand meanwhile.
        if wait is None:
            event.wait(min(left / 1e9, _GLANCE))
        else:
            with suppress(TimeoutError):
                wait(timeout=min(left / 1e9, _GLANCE))


async def _sleep(seconds: float) -> None:
    """Sleep in this task's event loop, by ferrule's clock."""
    from asyncio import get_running_loop

    place = _core.Line().join(get_running_loop(), timeout=seconds)
    try:
        await place.future
    finally:
        place.leave()


async def _watch_async(event: Any, delay: float) -> None:
    """Wait in this task until the time is over or the event is set, by ferrule's clock."""
    import asyncio

    if not _is_asynchronous(event):
        deadline = _core.precise_ns() + int(min(delay * 1e9, _MANY))
        while not event.is_set() and (left := deadline - _core.precise_ns()) > 0:
            await _sleep(min(left / 1e9, _GLANCE))
        return
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(_sleep(delay))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        # Their errors are nobody's: an event of another loop can't be waited for here.
        await asyncio.gather(*waits, return_exceptions=True)


async def _pause(policy: Retry, course: _core.RetryCourse, delay: float) -> None:
    import asyncio

    begun = None
    try:
        if course.skip(delay):
            # The other tasks have their turn.
            await asyncio.sleep(0)
            return
        begun = _core.precise_ns()
        if policy.stop_event is None:
            await _sleep(delay)
        else:
            await _watch_async(policy.stop_event, delay)
    except BaseException:
        course.interrupted()
        raise
    finally:
        if begun is not None:
            course.slept((_core.precise_ns() - begun) / 1e9)


# -- the policy -------------------------------------------------------------------------------------------------------


class Retry:
    """What to retry, how often, and how long to wait in between: a value that many functions can share.

    >>> from ferrule import Retry
    >>> policy = Retry(on=ConnectionError, max_attempts=5, delay=0.1, jitter=None)
    >>> [policy.next_delay(number) for number in (1, 2, 3, 4)]
    [0.1, 0.2, 0.4, 0.8]

    A policy never changes; `replace` gives another one. Policies compare by what they say and can be pickled, where
    their callables and events can.

    Args:
        on: The exception class that asks for another attempt, or a tuple of them. `KeyboardInterrupt`, `SystemExit`,
            `GeneratorExit`, `asyncio.CancelledError` and whatever else is no `Exception` are retried only where they
            are named: `BaseException` doesn't name them.
        retry_if: A function of the exception that must agree, too; `None` asks nobody.
        max_attempts: How many attempts there are at most, the first one included; `None` is endless, and then `timeout`
            or `stop_event` must be given.
        delay: The wait after the first failure, in seconds or as a `timedelta`; or a function `(attempt, error)` of the
            attempt's number and its exception (`None` where the result was refused) that returns seconds, a
            `timedelta`, or the moment as a `datetime`. What it returns is capped by `max_delay` and not jittered; a
            moment in the past is no delay.
        backoff: What each further wait is multiplied by, 1 or more.
        max_delay: The longest wait, in seconds or as a `timedelta`.
        jitter: How chance spreads the waits: `"full"`, from nothing to the whole wait; `"equal"`, from its half;
            `"decorrelated"`, from `delay` to three times the wait before; `None`, not at all.
        timeout: Seconds (or a `timedelta`) for all attempts and waits together: a wait that would pass it is not begun.
            A coroutine function's attempt is cancelled then; a running function can't be stopped. `None` sets no limit.
        attempt_timeout: Seconds (or a `timedelta`) for each attempt of a coroutine function; `None` sets no limit.
        retry_result: A function of the result that says whether another attempt is wanted; when the attempts run out,
            the last result is returned. `None` takes every result.
        budget: A `RetryBudget` that every retry draws from; `None` has no such limit.
        stop_event: An `Event` (threading's or asyncio's): once it is set, a wait ends and no attempt follows.
        on_retry: Called with an `Attempt` before each wait.
        on_give_up: Called with an `Attempt` when a call is given up.
        restart: Whether a generator function may be retried, by running it again from its beginning.

    Raises:
        TypeError, ValueError: If an argument is not what it may be, or nothing would ever end the attempts.
    """

    __slots__ = (
        "__weakref__",
        "_plan",
        "attempt_timeout",
        "backoff",
        "budget",
        "delay",
        "jitter",
        "max_attempts",
        "max_delay",
        "on",
        "on_give_up",
        "on_retry",
        "restart",
        "retry_if",
        "retry_result",
        "stop_event",
        "timeout",
    )

    on: type[BaseException] | tuple[type[BaseException], ...]
    retry_if: Callable[[BaseException], object] | None
    max_attempts: int | None
    delay: float | Callable[[int, BaseException | None], float | timedelta | datetime]
    backoff: float
    max_delay: float
    jitter: Jitter | None
    timeout: float | None
    attempt_timeout: float | None
    retry_result: Callable[[Any], object] | None
    budget: RetryBudget | None
    stop_event: Any
    on_retry: Callable[[Attempt], object] | None
    on_give_up: Callable[[Attempt], object] | None
    restart: bool
    _plan: _core.Plan

    def __init__(  # noqa: C901 - a check for each parameter
        self,
        *,
        on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
        retry_if: Callable[[Any], object] | None = None,
        max_attempts: int | None = 3,
        delay: float | timedelta | Callable[[int, Any], float | timedelta | datetime] = 0.1,
        backoff: float = 2.0,
        max_delay: float | timedelta = 60.0,
        jitter: Jitter | None = "full",
        timeout: float | timedelta | None = None,
        attempt_timeout: float | timedelta | None = None,
        retry_result: Callable[[Any], object] | None = None,
        budget: RetryBudget | None = None,
        stop_event: Any = None,
        on_retry: Callable[[Attempt], object] | None = None,
        on_give_up: Callable[[Attempt], object] | None = None,
        restart: bool = False,
    ) -> None:
        types = _exception_types("on", on)
        _hook("retry_if", retry_if, "(error)")
        if max_attempts is not None:
            positive_integer("max_attempts", max_attempts, ", or None for endless")
        elif timeout is None and stop_event is None:
            raise ValueError("max_attempts=None is endless: give timeout or stop_event, too")
        longest = _core.seconds_from("max_delay", max_delay)
        if callable(delay):
            _hook("delay", delay, "(attempt, error)")
            first = 0.0
        else:
            first = _core.seconds_from("delay", delay)
            delay = first
        if first > longest:
            raise ValueError(f"delay must not be longer than max_delay, got {first!r} and {longest!r}")
        if isinstance(backoff, bool) or not isinstance(backoff, (int, float)):
            raise TypeError(f"backoff must be a number, not {shown(backoff)}")
        if not 1.0 <= backoff < math.inf:
            raise ValueError(f"backoff must be a finite number of 1 or more, got {backoff!r}")
        if jitter is not None and jitter not in _JITTERS:
            raise ValueError(f"jitter must be 'full', 'equal', 'decorrelated' or None, got {jitter!r}")
        timeout = None if timeout is None else _core.seconds_from("timeout", timeout)
        attempt_timeout = None if attempt_timeout is None else _core.seconds_from("attempt_timeout", attempt_timeout)
        if attempt_timeout == 0:
            raise ValueError(f"attempt_timeout must be more than 0 seconds, got {attempt_timeout!r}")
        _hook("retry_result", retry_result, "(value)")
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget, not {shown(budget)}")
        _event(stop_event)
        _hook("on_retry", on_retry, "(attempt)")
        _hook("on_give_up", on_give_up, "(attempt)")
        if not isinstance(restart, bool):
            raise TypeError(f"restart must be True or False, not {shown(restart)}")
        plan = _core.Plan(
            on=types,
            retry_if=retry_if,
            max_attempts=max_attempts,
            delay=first,
            delay_by=delay if callable(delay) else None,
            backoff=float(backoff),
            max_delay=longest,
            jitter=jitter,
            timeout=timeout,
            retry_result=retry_result,
            budget=budget,
            stop_event=stop_event,
            on_retry=on_retry,
            on_give_up=on_give_up,
        )
        values = (
            on,
            retry_if,
            max_attempts,
            delay,
            float(backoff),
            longest,
            jitter,
            timeout,
            attempt_timeout,
            retry_result,
            budget,
            stop_event,
            on_retry,
            on_give_up,
            restart,
        )
        for name, value in zip(_FIELDS, values, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_plan", plan)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Retry never changes; policy.replace({name}=...) gives another one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Retry never changes")

    def next_delay(self, number: int, error: BaseException | None = None, previous: float | None = None) -> float:
        """Say how long to wait after an attempt has failed.

        >>> Retry(delay=1, backoff=3, max_delay=5, jitter=None).next_delay(3)
        5.0

        Args:
            number: The attempt's number, from 1.
            error: Its exception; a `delay` function is given it.
            previous: The seconds that were waited before it; decorrelated jitter goes by them, and without them as
                after a first attempt.

        Returns:
            Seconds, 0 or more, drawn anew each time where there is jitter.

        Raises:
            TypeError, ValueError: If an argument is not what it may be.
        """
        positive_integer("number", number)
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception or None, not {shown(error)}")
        previous = None if previous is None else _core.seconds_from("previous", previous)
        return self._plan.next_delay(number, error, previous)

    def replace(self, **changes: Any) -> Retry:
        """Return a policy that differs in the parameters named.

        >>> Retry(delay=1).replace(max_attempts=5)
        Retry(max_attempts=5, delay=1.0)

        Args:
            changes: Parameters of `Retry` with their new values.

        Raises:
            TypeError, ValueError: If there is no such parameter, or its value makes no sense.
        """
        unknown = [name for name in changes if name not in _FIELDS]
        if unknown:
            raise TypeError(f"Retry has no parameter {unknown[0]!r}; it has {', '.join(_FIELDS)}")
        return type(self)(**(self._values() | changes))

    __replace__ = replace

    def __call__(self, function: Callable[P, R], /) -> Retried[P, R]:
        """Decorate a function of any kind with this policy."""
        return cast("Retried[P, R]", _decorated(function, self))

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function once, under this policy.

        >>> Retry(max_attempts=5).call(int, "7")
        7

        Args:
            function: What to call: not a coroutine function, which `call_async` is for.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            What the function returned.

        Raises:
            TypeError: If it is a coroutine function or a generator function.
            BaseException: What the function's last attempt raised.
        """
        kind = kind_of(function)
        if kind != "function":
            use = "call_async" if kind == "coroutine function" else "retry(restart=True)"
            raise TypeError(f"call takes a function, not a {kind}: {function!r}; use {use}")
        self._check_function(function)
        course = _core.Retrier(self._plan, _core.RetryTally(), function).course()
        return cast("R", _again(course, None, None, function, args, kwargs))

    async def call_async(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a coroutine function once, under this policy, as `call` does.

        Args:
            function: What to call and to await.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            What the awaited call returned.

        Raises:
            TypeError: If it is a generator function, or what it returns can't be awaited.
            BaseException: What the function's last attempt raised.
        """
        if not callable(function) or kind_of(function) in _GENERATORS:
            raise TypeError(f"call_async takes a coroutine function, not {shown(function)}")
        course = _core.Retrier(self._plan, _core.RetryTally(), function).course()
        return cast("R", await _again_async(self, course, None, None, function, args, kwargs))

    def __iter__(self) -> Iterator[RetryBlock]:
        """Retry a block: `for attempt in policy:` and `with attempt:` in it."""
        self._check_block()
        if self.attempt_timeout is not None:
            raise TypeError(_CANT_STOP.format("block"))
        return _Blocks(self)

    def __aiter__(self) -> AsyncIterator[RetryBlock]:
        """Retry a block of a coroutine: `async for attempt in policy:` and `with attempt:` in it."""
        self._check_block()
        return _AsyncBlocks(self)

    def _check_function(self, function: object) -> None:
        if self.attempt_timeout is not None:
            raise TypeError(_CANT_STOP.format(f"function ({function!r})"))

    def _check_block(self) -> None:
        if self.retry_result is not None:
            raise TypeError("retry_result takes a function's result, and a block has none")

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Retry):
            return NotImplemented
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(tuple(self._values().values()))

    def __repr__(self) -> str:
        shown = {name: value for name, value in self._values().items() if value != _DEFAULTS[name]}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def __reduce__(self) -> tuple[object, ...]:
        changed = {name: value for name, value in self._values().items() if value != _DEFAULTS[name]}
        return (_restored, (type(self), changed))


_FIELDS: Final = (
    "on",
    "retry_if",
    "max_attempts",
    "delay",
    "backoff",
    "max_delay",
    "jitter",
    "timeout",
    "attempt_timeout",
    "retry_result",
    "budget",
    "stop_event",
    "on_retry",
    "on_give_up",
    "restart",
)


def _restored(cls: type[Retry], values: dict[str, Any]) -> Retry:
    return cls(**values)


_DEFAULTS: Final = Retry()._values()  # noqa: SLF001 - its own module
_CANT_STOP: Final = "attempt_timeout is for coroutine functions alone: a running {} can't be stopped"
_GENERATORS: Final = ("generator function", "async generator function")


# -- functions of every kind ------------------------------------------------------------------------------------------


def _again(  # noqa: PLR0917 - one call's whole state
    course: _core.RetryCourse,
    failure: BaseException | None,
    delay: float | None,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Go on with a call whose last attempt has failed; or begin one, where there is no `delay` yet."""
    value: Any = None
    while True:
        if delay is not None:
            try:
                _wait_for_next(course, delay)
                if not course.goes_on(failure, value):
                    if failure is not None:
                        raise failure
                    return value
            finally:
                # The exception holds this frame, and the frame must not hold the exception.
                failure = None
        try:
            value = function(*args, **kwargs)
        except BaseException as error:
            delay = course.failed(error)
            if delay is None:
                raise
            failure = error
        else:
            delay = course.returned(value)
            if delay is None:
                return value


def _wait_for_next(course: _core.RetryCourse, delay: float) -> None:
    try:
        course.pause(delay)
    except BaseException:
        course.interrupted()
        raise


async def _again_async(  # noqa: PLR0917 - one call's whole state
    policy: Retry,
    course: _core.RetryCourse,
    failure: BaseException | None,
    delay: float | None,
    function: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Do in a coroutine what `_again` does in a function."""
    value: Any = None
    limited = policy.attempt_timeout is not None or policy.timeout is not None
    while True:
        if delay is not None:
            try:
                await _pause(policy, course, delay)
                if not course.goes_on(failure, value):
                    if failure is not None:
                        raise failure
                    return value
            finally:
                # The exception holds this frame, and the frame must not hold the exception.
                failure = None
        try:
            if limited:
                value = await _in_time(policy, course, function, args, kwargs)
            else:
                value = await function(*args, **kwargs)
        except BaseException as error:
            delay = course.failed(error)
            if delay is None:
                raise
            failure = error
        else:
            delay = course.returned(value)
            if delay is None:
                return value


async def _in_time(
    policy: Retry,
    course: _core.RetryCourse,
    function: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Await one attempt for as long as it and all together may take."""
    async with _time_limit(policy, course):
        return await function(*args, **kwargs)


def _time_limit(policy: Retry, course: _core.RetryCourse) -> Any:
    from asyncio import timeout

    limits: list[float] = []
    if policy.attempt_timeout is not None:
        limits.append(policy.attempt_timeout)
    if policy.timeout is not None:
        limits.append(max(0.0, policy.timeout - course.elapsed))
    limit = min(limits, default=math.inf)
    return timeout(limit if limit < math.inf else None)


def _coroutine_function(function: Callable[..., Any], policy: Retry, retrier: _core.Retrier) -> Callable[..., Any]:
    trouble = retrier.trouble
    limits = (policy.timeout, policy.attempt_timeout, policy.retry_result, policy.budget)
    if any(limit is not None for limit in limits):

        @functools.wraps(function)
        async def careful(*args: Any, **kwargs: Any) -> Any:
            return await _again_async(policy, retrier.course(), None, None, function, args, kwargs)

        return careful

    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> Any:
        # Not bound beforehand: the interpreter has a quicker way to a method that it finds itself.
        begun = retrier.begin()
        try:
            return await function(*args, **kwargs)
        except BaseException as error:
            course = trouble(begun)
            delay = course.failed(error)
            if delay is None:
                raise
            failure = error
        try:
            going_on = _again_async(policy, course, failure, delay, function, args, kwargs)
        finally:
            del failure
        return await going_on

    return shell


def _generator_function(function: Callable[..., Any], policy: Retry, retrier: _core.Retrier) -> Callable[..., Any]:
    del policy

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        course = retrier.course()
        while True:
            try:
                value = cast("Any", (yield from function(*args, **kwargs)))
            except BaseException as error:
                delay = course.failed(error)
                if delay is None:
                    raise
                failure: BaseException | None = error
            else:
                course.returned(value)
                return value
            try:
                _wait_for_next(course, delay)
                if failure is not None and not course.goes_on(failure, None):
                    raise failure
            finally:
                failure = None

    return shell


def _async_generator_function(  # noqa: C901 - all of the protocol of async generators
    function: Callable[..., Any], policy: Retry, retrier: _core.Retrier
) -> Callable[..., Any]:
    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        course = retrier.course()
        failure: BaseException | None = None
        delay: float | None = None
        while True:
            generator = function(*args, **kwargs)
            try:
                # What `yield from` would do, if there were one for async generators (PEP 525 has none).
                step = first_step(generator)
                while True:
                    item = await step
                    try:
                        sent = yield item
                    except GeneratorExit:
                        await generator.aclose()
                        raise
                    except BaseException as error:  # noqa: BLE001 - whatever comes is the generator's business
                        step = generator.athrow(error)
                    else:
                        step = generator.asend(sent)
            except StopAsyncIteration:
                course.returned(None)
                return
            except BaseException as error:
                delay = course.failed(error)
                if delay is None:
                    raise
                failure = error
            try:
                await _pause(policy, course, delay or 0.0)
                if failure is not None and not course.goes_on(failure, None):
                    raise failure
            finally:
                failure = None

    return shell


_SHELLS: Final[dict[Kind, Callable[[Callable[..., Any], Retry, _core.Retrier], Callable[..., Any]]]] = {
    "coroutine function": _coroutine_function,
    "generator function": _generator_function,
    "async generator function": _async_generator_function,
}


def _decorated(function: Any, policy: Retry, tally: _core.RetryTally | None = None) -> Any:
    if is_method_object(function):
        return type(function)(_decorated(function.__func__, policy, tally))
    if not callable(function) or isinstance(function, type):
        hint = "; put @retry below @property" if isinstance(function, property) else ""
        raise TypeError(f"retry takes a function, not {shown(function)}{hint}")
    kind = kind_of(function)
    if tally is None:
        tally = _core.RetryTally()
    plan = policy._plan  # noqa: SLF001 - its own module
    if kind == "function":
        policy._check_function(function)  # noqa: SLF001 - its own module
        return _core.RetryingFunction(function, policy, plan, tally)
    if kind in _GENERATORS:
        if not policy.restart:
            raise TypeError(
                f"retry takes a {kind} with restart=True alone, got {function!r}: another attempt begins at the "
                "beginning, and yields again what was yielded before the failure"
            )
        if policy.attempt_timeout is not None:
            raise TypeError(_CANT_STOP.format(f"generator ({function!r})"))
        if policy.retry_result is not None:
            raise TypeError(f"retry_result takes a function's result, and {function!r} is a {kind}")
    shell = _SHELLS[kind](function, policy, _core.Retrier(plan, tally, function))
    return _core.RetryingFunction(function, policy, plan, tally, shell)


def with_policy(
    function: Any, policy: Retry, tally: _core.RetryTally, other: object, changes: dict[str, Any] | None
) -> Any:
    if other is not None:
        if not isinstance(other, Retry):
            raise TypeError(f"with_policy takes a Retry or parameters by name, not {shown(other)}")
        policy = other
    return _decorated(function, policy.replace(**(changes or {})), tally)


class Retried(Protocol[P, R_co]):
    """What `retry` makes of a function: the same function to its callers, with statistics and with other policies."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function."""
        ...

    # In turn: on a class, its class method and its method; on an instance, a class method, a method and a static one.
    @overload
    def __get__(self: Retried[Concatenate[type[S], Q], T], instance: None, owner: type[S], /) -> Retried[Q, T]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self: Retried[Concatenate[type[S], Q], T], instance: S, owner: type[S], /) -> Retried[Q, T]: ...
    @overload
    def __get__(self: Retried[Concatenate[S, Q], T], instance: S, owner: type, /) -> Retried[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type, /) -> Self: ...

    def retry_stats(self) -> RetryStats:
        """Return what has become of the calls up to now."""
        ...

    def with_policy(
        self,
        policy: Retry | None = None,
        /,
        *,
        on: type[BaseException] | tuple[type[BaseException], ...] = ...,
        retry_if: Callable[[Any], object] | None = ...,
        max_attempts: int | None = ...,
        delay: float | timedelta | Callable[[int, Any], float | timedelta | datetime] = ...,
        backoff: float = ...,
        max_delay: float | timedelta = ...,
        jitter: Jitter | None = ...,
        timeout: float | timedelta | None = ...,
        attempt_timeout: float | timedelta | None = ...,
        retry_result: Callable[[Any], object] | None = ...,
        budget: RetryBudget | None = ...,
        stop_event: Any = ...,
        on_retry: Callable[[Attempt], object] | None = ...,
        on_give_up: Callable[[Attempt], object] | None = ...,
        restart: bool = ...,
    ) -> Self:
        """Return the function with another policy, or with one that differs in the parameters named."""
        ...


class _Decorator(Protocol):
    def __call__(self, function: Callable[P, R], /) -> Retried[P, R]: ...


@overload
def retry(policy: Retry, /) -> Retry: ...  # type: ignore[overload-overlap]
@overload
def retry(function: Callable[P, R], /) -> Retried[P, R]: ...
@overload
def retry(
    function: None = None,
    /,
    *,
    on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
    retry_if: Callable[[Any], object] | None = None,
    max_attempts: int | None = 3,
    delay: float | timedelta | Callable[[int, Any], float | timedelta | datetime] = 0.1,
    backoff: float = 2.0,
    max_delay: float | timedelta = 60.0,
    jitter: Jitter | None = "full",
    timeout: float | timedelta | None = None,
    attempt_timeout: float | timedelta | None = None,
    retry_result: Callable[[Any], object] | None = None,
    budget: RetryBudget | None = None,
    stop_event: Any = None,
    on_retry: Callable[[Attempt], object] | None = None,
    on_give_up: Callable[[Attempt], object] | None = None,
    restart: bool = False,
) -> _Decorator: ...
def retry(function: Any = None, /, **parameters: Any) -> Any:
    """Call a function again where it fails: a while later, and within limits.

    >>> from ferrule import retry
    >>> answers = iter([OSError("busy"), OSError("busy"), "here you are"])
    >>> @retry(on=OSError, max_attempts=3, delay=0.001)
    ... def fetch():
    ...     answer = next(answers)
    ...     if isinstance(answer, OSError):
    ...         raise answer
    ...     return answer
    >>> fetch()
    'here you are'
    >>> fetch.retry_stats().retries
    2

    Without parameters there are three attempts, on `Exception`, about 0.1 and 0.2 seconds apart. It takes functions,
    methods and coroutine functions, and generator functions with `restart=True`. When there is no further attempt, the
    exception of the last one comes out as it was raised, with a note of how often and how long it was tried. Each retry
    is a warning of the logger `ferrule.retrying`, where somebody listens. A call that succeeds at once costs
    next to nothing.

    The decorated function has `retry_stats()`, which is exact under threads, and `with_policy(...)`, which gives the
    function with other parameters, for one call or for more: `fetch.with_policy(max_attempts=1)(url)`.

    Args:
        function: What to decorate; or a `Retry`, which is used as the policy.
        parameters: Those of `Retry`.

    Returns:
        The decorated function; without a function, the decorator.

    Raises:
        TypeError, ValueError: If a parameter makes no sense, or not with that function.
    """
    if function is None:
        return Retry(**parameters)
    if parameters:
        raise TypeError("retry takes either a function or parameters by name; a policy changes by policy.replace(...)")
    if isinstance(function, Retry):
        return function
    if isinstance(function, tuple) or (isinstance(function, type) and issubclass(function, BaseException)):
        raise TypeError(f"retry takes exception classes by name: retry(on={_brief(function)})")
    return _decorated(function, Retry())


def _brief(types: Any) -> str:
    if isinstance(types, tuple):
        names = [_brief(each) for each in cast("tuple[object, ...]", types)]
        return f"({', '.join(names)}{',' if len(names) == 1 else ''})"
    return getattr(types, "__name__", repr(types))


# -- blocks -----------------------------------------------------------------------------------------------------------


class RetryBlock:
    """One attempt at a block: what a loop over a policy gives, to be entered with `with`.

    `number` counts from 1, and `elapsed` are the seconds since the loop began.
    """

    def __init__(self, policy: Retry, course: _core.RetryCourse) -> None:
        self._policy = policy
        self._course = course
        self._limit: Any = None
        self.number = course.number
        # What the attempt has come to: `None` while it hasn't ended, False for the last one, else the wait in seconds.
        self._next: float | Literal[False] | None = None
        self._failure: BaseException | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the loop began."""
        return self._course.elapsed

    def __enter__(self) -> Self:
        if self._policy.attempt_timeout is not None:
            raise TypeError("attempt_timeout needs `async with attempt`, which can be stopped")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        del kind, traceback
        self._next = False
        if error is None:
            self._course.returned(None)
            return False
        delay = self._course.failed(error)
        if delay is None:
            return False
        self._next, self._failure = delay, error
        return True

    async def __aenter__(self) -> Self:
        self._limit = _time_limit(self._policy, self._course)
        await self._limit.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError as late:
            if self.__exit__(type(late), late, late.__traceback__):
                return True
            raise
        return self.__exit__(kind, error, traceback)

    def _delay(self) -> float | None:
        """Return the wait before the next attempt; `None` where there is none."""
        if self._next is None:
            raise RuntimeError("the block of a retry loop is to be entered: `for attempt in policy:`, `with attempt:`")
        return None if self._next is False else self._next

    def _go_on(self) -> RetryBlock:
        failure, self._failure = self._failure, None
        try:
            if failure is not None and not self._course.goes_on(failure, None):
                raise failure
        finally:
            del failure
        return RetryBlock(self._policy, self._course)


def _first_block(policy: Retry) -> RetryBlock:
    retrier = _core.Retrier(policy._plan, _core.RetryTally())  # noqa: SLF001 - its own module
    return RetryBlock(policy, retrier.course())


class _Blocks:
    def __init__(self, policy: Retry) -> None:
        self._policy = policy
        self._block: RetryBlock | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RetryBlock:
        block = self._block
        if block is None:
            self._block = _first_block(self._policy)
            return self._block
        delay = block._delay()  # noqa: SLF001 - its own module
        if delay is None:
            raise StopIteration
        _wait_for_next(block._course, delay)  # noqa: SLF001 - its own module
        self._block = block._go_on()  # noqa: SLF001 - its own module
        return self._block


class _AsyncBlocks:
    def __init__(self, policy: Retry) -> None:
        self._policy = policy
        self._block: RetryBlock | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RetryBlock:
        block = self._block
        if block is None:
            self._block = _first_block(self._policy)
            return self._block
        delay = block._delay()  # noqa: SLF001 - its own module
        if delay is None:
            raise StopAsyncIteration
        await _pause(self._policy, block._course, delay)  # noqa: SLF001 - its own module
        self._block = block._go_on()  # noqa: SLF001 - its own module
        return self._block


# -- the breaker ------------------------------------------------------------------------------------------------------


class CircuitBreaker(_core.Circuit):
    """Stop calling what fails, for a while: after too many failures a call raises `CircuitOpen` and isn't made.

    >>> from ferrule import CircuitBreaker
    >>> breaker = CircuitBreaker(failure_threshold=2, recovery_timeout=30, on=OSError)
    >>> @breaker
    ... def fetch():
    ...     raise OSError("nobody there")
    >>> for _ in range(3):
    ...     try:
    ...         fetch()
    ...     except Exception as error:
    ...         print(error)
    nobody there
    nobody there
    the circuit is open; it may be tried again in 30 s
    >>> breaker.state
    'open'

    One breaker stands before all calls to one service, from any number of functions, threads and event loops: it
    decorates functions, methods and coroutine functions, and `with breaker:` and `async with breaker:` are for blocks.
    While it is closed, calls go through; `failure_threshold` failures within `window` open it; `recovery_timeout` later
    it is half-open: `half_open_calls` calls go through to try, and when all of them have succeeded it is closed again,
    while one that fails opens it anew. No lock is held while a call runs. An exception that `on` doesn't name counts as
    an answer; a call that was cancelled counts as nothing.

    With `retry`, put the breaker below: `@retry(...)` over `@breaker`, so that every attempt is counted.

    Args:
        failure_threshold: How many failures open it, 1 or more.
        window: Within how many seconds (or a `timedelta`).
        recovery_timeout: How many seconds (or a `timedelta`) it stays open.
        half_open_calls: How many calls try it then, at the same time at most and in all, 1 or more.
        on: The exception class that is a failure, or a tuple of them.

    Raises:
        TypeError, ValueError: If an argument is not what it may be.
    """

    failure_threshold: int
    window: float
    recovery_timeout: float
    half_open_calls: int
    on: type[BaseException] | tuple[type[BaseException], ...]

    def __new__(
        cls,
        *,
        failure_threshold: int = 5,
        window: float | timedelta = 60.0,
        recovery_timeout: float | timedelta = 30.0,
        half_open_calls: int = 1,
        on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
    ) -> Self:
        """Make a breaker that is closed."""
        seconds = {
            "window": _core.seconds_from("window", window),
            "recovery_timeout": _core.seconds_from("recovery_timeout", recovery_timeout),
        }
        for name, value in seconds.items():
            if value == 0:
                raise ValueError(f"{name} must be more than 0 seconds, got {value!r}")
        failure_threshold = positive_integer("failure_threshold", failure_threshold)
        half_open_calls = positive_integer("half_open_calls", half_open_calls)
        if half_open_calls >= _MANY_CALLS:
            raise ValueError(f"half_open_calls must be less than {_MANY_CALLS}, got {half_open_calls!r}")
        breaker = super().__new__(
            cls,
            failure_threshold=failure_threshold,
            window=seconds["window"],
            recovery_timeout=seconds["recovery_timeout"],
            half_open_calls=half_open_calls,
            on=_exception_types("on", on),
        )
        vars(breaker).update(seconds, failure_threshold=failure_threshold, half_open_calls=half_open_calls, on=on)
        return breaker

    def __call__(self, function: F, /) -> F:
        """Stand before a function, a method or a coroutine function.

        Args:
            function: What to stand before.

        Raises:
            TypeError: If it is a generator function, which fails while it is iterated and not when it is called.
        """
        given: Any = function
        if is_method_object(given):
            return cast("F", type(given)(self(given.__func__)))
        if not callable(given) or isinstance(given, type):
            raise TypeError(f"a CircuitBreaker takes a function, not {shown(function)}")
        kind = kind_of(function)
        if kind in _GENERATORS:
            raise TypeError(
                f"a CircuitBreaker takes no {kind}, got {function!r}: put `with breaker:` round what may fail in it"
            )
        if kind == "function":
            return cast("F", _core.BreakerFunction(function, self))
        return cast("F", _core.Shell(function, _guarded(function, self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.state}>"


_MANY_CALLS: Final = 2**31


def _guarded(function: Callable[..., Any], breaker: _core.Circuit) -> Callable[..., Any]:
    permit = breaker.permit

    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> Any:
        permitted = permit()
        try:
            value = await function(*args, **kwargs)
        except BaseException as error:
            permitted.failed(error)
            raise
        permitted.succeeded()
        return value

    return shell

"""Another attempt, after a while, within limits: for functions, coroutine functions, generators and blocks.

`retry` decorates, `Retry` is the policy, `RetryBudget` keeps many callers from hammering a service that is down, and
`CircuitBreaker` keeps them from calling it at all for a while.
"""

from __future__ import annotations

import math
import sys
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias

from ferrule import _core
from ferrule._kinds import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta
    from typing import Self

__all__ = ["Retry", "RetryBudget"]

Jitter: TypeAlias = Literal["full", "equal", "decorrelated"]

_JITTERS: Final = ("full", "equal", "decorrelated")
_MANY: Final = 2**63
# The flag of a code object whose function takes `*args`, from the inspect module.
_VARIABLE_ARGUMENTS: Final = 0x04


# -- checks of arguments ----------------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    return f"{type(value).__name__}: {value!r}"


def _exception_types(name: str, value: object) -> tuple[type[BaseException], ...]:
    types = value if isinstance(value, tuple) else (value,)
    for each in types:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            hint = "; a predicate goes to retry_if" if callable(each) and not isinstance(each, type) else ""
            raise TypeError(f"{name} must be an exception class or a tuple of them, not {_shown(each)}{hint}")
    if not types:
        raise ValueError(f"{name} must name an exception class at least, got ()")
    return types


def _positive_integer(name: str, value: object, hint: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer{hint}, not {_shown(value)}")
    if not 1 <= value < _MANY:
        raise ValueError(f"{name} must be 1 or more{hint}, got {value!r}")
    return value


def _hook(name: str, value: object, arguments: str) -> None:
    """Check a callable that is to be called with so many arguments, as far as that can be seen beforehand."""
    if value is None:
        return
    number = arguments.count(",") + 1
    if not callable(value):
        raise TypeError(f"{name} must be callable with {arguments}, not {_shown(value)}")
    if isinstance(value, type) and issubclass(value, BaseException):
        # Called, it would make an exception, and every exception is true.
        raise TypeError(f"{name} must be callable with {arguments}, not an exception class: {value!r}; that goes to on")
    kind = kind_of(value)
    if kind != "function":
        # Called, it would give a coroutine or a generator, which is true, and which nobody runs.
        raise TypeError(f"{name} must be a plain function with {arguments}, not a {kind}: {value!r}")
    function = value.__func__ if isinstance(value, MethodType) else value
    if not isinstance(function, FunctionType):
        # Whoever isn't a Python function knows alone what it takes.
        return
    code = function.__code__
    most = code.co_argcount - (function is not value)
    least = most - len(function.__defaults__ or ())
    takes_more = code.co_flags & _VARIABLE_ARGUMENTS
    keywords = code.co_kwonlyargcount - len(function.__kwdefaults__ or ())
    if least > number or (most < number and not takes_more) or keywords > 0:
        raise TypeError(f"{name} must be callable with {arguments}, and {value!r} takes other arguments")


def _seconds_said(said: object) -> float:
    """Read what a `delay` callable returned: seconds, a `timedelta` or the moment itself; the past is no delay."""
    if isinstance(said, (int, float)) and not isinstance(said, bool):
        seconds = float(said) if abs(said) < math.inf else math.copysign(math.inf, said)
    elif (datetime := sys.modules.get("datetime")) is not None and isinstance(said, datetime.timedelta):
        seconds = said.total_seconds()
    elif datetime is not None and isinstance(said, datetime.datetime):
        seconds = (said - datetime.datetime.now(said.tzinfo)).total_seconds()
    else:
        raise TypeError(f"delay must return seconds, a timedelta or a datetime, not {_shown(said)}")
    if math.isnan(seconds):
        raise ValueError("delay must return a number of seconds, got nan")
    return max(0.0, seconds)


def _event(value: object) -> None:
    if value is not None and not (callable(getattr(value, "is_set", None)) and callable(getattr(value, "wait", None))):
        raise TypeError(f"stop_event must be an Event of threading or asyncio, not {_shown(value)}")


# -- the budget -------------------------------------------------------------------------------------------------------


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {_shown(value)}")
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
    counts for ten seconds, and so does what was taken out. Beside that there are `min_per_second` retries a second, to be
    had even where calls are few. A call whose retry the budget refuses is given up at once.

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

    def __init__(
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
            _positive_integer("max_attempts", max_attempts, ", or None for endless")
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
            raise TypeError(f"backoff must be a number, not {_shown(backoff)}")
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
            raise TypeError(f"budget must be a RetryBudget, not {_shown(budget)}")
        _event(stop_event)
        _hook("on_retry", on_retry, "(attempt)")
        _hook("on_give_up", on_give_up, "(attempt)")
        if not isinstance(restart, bool):
            raise TypeError(f"restart must be True or False, not {_shown(restart)}")
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
            previous: The seconds that were waited before it; decorrelated jitter goes by them, and without them as after
                a first attempt.

        Returns:
            Seconds, 0 or more, drawn anew each time where there is jitter.

        Raises:
            TypeError, ValueError: If an argument is not what it may be.
        """
        _positive_integer("number", number)
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception or None, not {_shown(error)}")
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

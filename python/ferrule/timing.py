"""How long things take, how often they run, how often they fail: measured always, because it costs next to nothing.

`timed` measures a function, `Timer` a block, and `PerformanceMonitor` keeps what they measure by name; `count_calls`
counts.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from ferrule import _core
from ferrule._homes import homes_of
from ferrule._kinds import Kind, first_step, is_awaitable_generator, is_method_object, kind_of
from ferrule._logging import logger_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable
    from datetime import timedelta
    from os import PathLike
    from typing import BinaryIO, Concatenate, Literal, Self, TypeAlias

    from opentelemetry.metrics import Meter
    from prometheus_client import CollectorRegistry

    # A name that was measured, its module, and what its recorder holds; and where those of one monitor belong.
    CarriedName: TypeAlias = tuple[str, str | None, _core._Carried]  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    Gathered: TypeAlias = tuple[list[tuple[str, str]], list[CarriedName]]
    Sink: TypeAlias = Callable[[str | None, float, BaseException | None], object]
    SortKey: TypeAlias = Literal["name", "count", "errors", "total", "mean", "min", "p50", "p90", "p99", "p999", "max"]

__all__ = [
    "MemoryStats",
    "PerformanceMonitor",
    "Timed",
    "Timer",
    "TimingStats",
    "count_calls",
    "default_monitor",
    "timed",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


class MemoryStats(NamedTuple):
    """Bytes over all profiled runs."""

    mean: float
    max: int


class TimingStats(NamedTuple):
    """What has been measured under one name: durations in seconds, memory in bytes.

    `count` says how many runs have ended and `errors` how many of them by an exception; `stdev` is that of the sample.
    The quantiles (`p50` is the median, `p999` the 99.9th percentile) are within 1 %, everything else is exact.
    `memory_net` (what a run left allocated) and `memory_peak` (the most that it had at once) are `None` unless memory
    was profiled.
    """

    # Tuples have a method of that name, which nobody needs of these.
    count: int  # type: ignore[assignment] # pyright: ignore[reportIncompatibleMethodOverride]
    errors: int
    total: float
    mean: float
    stdev: float
    min: float
    max: float
    p50: float
    p90: float
    p99: float
    p999: float
    memory_net: MemoryStats | None
    memory_peak: MemoryStats | None


class Timed(Protocol[P, R_co]):
    """What `timed` makes of a function: the same function to its callers, and what has been measured."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function."""
        ...

    # In turn: on a class, its class method and its method; on an instance, a class method, a method and a static one.
    @overload
    def __get__(self: Timed[Concatenate[type[S], Q], T], instance: None, owner: type[S], /) -> Timed[Q, T]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self: Timed[Concatenate[type[S], Q], T], instance: S, owner: type[S], /) -> Timed[Q, T]: ...
    @overload
    def __get__(self: Timed[Concatenate[S, Q], T], instance: S, owner: type, /) -> Timed[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type, /) -> Self: ...

    def timing_stats(self) -> TimingStats:
        """Return what has been measured up to now."""
        ...

    def timing_reset(self) -> None:
        """Forget what has been measured."""
        ...


class Counted(Protocol[P, R_co]):
    """What `count_calls` makes of a function: the same function to its callers, and their number."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    @property
    def call_count(self) -> int:
        """How often the function has been called since it was decorated or last reset."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function."""
        ...

    # In turn: on a class, its class method and its method; on an instance, a class method, a method and a static one.
    @overload
    def __get__(self: Counted[Concatenate[type[S], Q], T], instance: None, owner: type[S], /) -> Counted[Q, T]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self: Counted[Concatenate[type[S], Q], T], instance: S, owner: type[S], /) -> Counted[Q, T]: ...
    @overload
    def __get__(self: Counted[Concatenate[S, Q], T], instance: S, owner: type, /) -> Counted[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type, /) -> Self: ...

    def call_reset(self) -> None:
        """Start counting from zero."""
        ...


class Decorator(Protocol):
    """What `timed(...)` with arguments gives: to be put on a function of any kind, or on a class."""

    @overload
    def __call__(self, function: C, /) -> C: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, R], /) -> Timed[P, R]: ...


# -- who wants to hear of a run ---------------------------------------------------------------------------------------


def _level(log: int | str | None) -> int | None:
    if log is None or (isinstance(log, int) and not isinstance(log, bool)):
        return log
    if isinstance(log, str):
        from logging import getLevelNamesMapping

        levels = getLevelNamesMapping()
        if log in levels:
            return levels[log]
        raise ValueError(f"log must be a logging level, got {log!r}; known names: {', '.join(levels)}")
    raise TypeError(f"log must be a logging level (logging.DEBUG, 'INFO', ...), not {type(log).__name__}: {log!r}")


def _listener(log: int | str | None, echo: bool, sink: Sink | None) -> Sink | None:  # noqa: FBT001
    """Make one callable of those who want to hear of a run; `None` where nobody does."""
    level = _level(log)
    if not isinstance(echo, bool):
        raise TypeError(f"echo must be True or False, not {type(echo).__name__}: {echo!r}")
    if sink is not None and not callable(sink):
        raise TypeError(f"sink must be callable with (name, seconds, error), not {type(sink).__name__}: {sink!r}")
    listeners: list[Sink] = []
    if level is not None:
        listeners.append(functools.partial(_log, level))
    if echo:
        listeners.append(_echo)
    if sink is not None:
        listeners.append(sink)
    return functools.reduce(_both, listeners) if listeners else None


def _both(first: Sink, second: Sink) -> Sink:
    def tell(name: str | None, seconds: float, error: BaseException | None) -> None:
        try:
            first(name, seconds, error)
        finally:
            # Whatever became of the first: a standard error that is closed takes nothing from the sink.
            second(name, seconds, error)

    return tell


def _sentence(name: str | None, seconds: float, error: BaseException | None) -> str:
    from ferrule._reporting import duration

    ending = f" and raised {type(error).__name__}" if error is not None else ""
    return f"{name or 'a block'} took {duration(seconds)}{ending}"


def _log(level: int, name: str | None, seconds: float, error: BaseException | None) -> None:
    logger = logger_of("timing")
    if logger.isEnabledFor(level):
        fields = {"ferrule_name": name, "seconds": seconds, "failed": error is not None}
        logger.log(level, "%s", _sentence(name, seconds, error), extra=fields)


def _echo(name: str | None, seconds: float, error: BaseException | None) -> None:
    # A program without a console has no standard error, and `print` would take standard output instead.
    if sys.stderr is not None:
        print(_sentence(name, seconds, error), file=sys.stderr)  # noqa: T201 - that is what echo is


# -- functions of every kind ------------------------------------------------------------------------------------------


def _timed_coroutine_function(function: Callable[..., Any], stopwatch: _core.Stopwatch) -> Callable[..., Any]:
    begin, end = stopwatch.begin, stopwatch.end

    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> Any:
        begun = begin()
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            end(begun, error)
            raise
        end(begun)
        return result

    return shell


def _timed_generator_function(function: Callable[..., Any], stopwatch: _core.Stopwatch) -> Callable[..., Any]:
    resumptions = _core.Resumptions

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return cast("Any", (yield from resumptions(function(*args, **kwargs), stopwatch)))

    if is_awaitable_generator(function):
        from types import coroutine

        return cast("Callable[..., Any]", coroutine(shell))
    return shell


def _timed_async_generator_function(function: Callable[..., Any], stopwatch: _core.Stopwatch) -> Callable[..., Any]:
    clock = _core.precise_ns

    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        # What `yield from` would do, if there were one for async generators (PEP 525 has none).
        generator = function(*args, **kwargs)
        spent = 0
        step = first_step(generator)
        try:
            while True:
                begun = clock()
                try:
                    item = await step
                finally:
                    # Not below zero, should a manual clock end in between.
                    spent += max(0, clock() - begun)
                try:
                    sent = yield item
                except GeneratorExit:
                    begun = clock()
                    try:
                        await generator.aclose()
                    finally:
                        spent += max(0, clock() - begun)
                    raise
                except BaseException as error:  # noqa: BLE001 - whatever is thrown in is the generator's business
                    step = generator.athrow(error)
                else:
                    step = generator.asend(sent)
        except StopAsyncIteration:
            stopwatch.record(spent)
        except BaseException as error:
            stopwatch.record(spent, error)
            raise

    return shell


_SHELLS: dict[Kind, Callable[[Callable[..., Any], _core.Stopwatch], Callable[..., Any]]] = {
    "coroutine function": _timed_coroutine_function,
    "generator function": _timed_generator_function,
    "async generator function": _timed_async_generator_function,
}


def _qualified_name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


class _Timing:
    """The arguments of one `timed(...)`, checked, and ready to be put on a function or a class."""

    def __init__(  # noqa: PLR0917 - one place hands over what three faces take by keyword
        self,
        name: str | None,
        monitor: PerformanceMonitor | None,
        log: int | str | None,
        echo: bool,  # noqa: FBT001
        sink: Sink | None,
        slower_than: float | timedelta,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string, not {type(name).__name__}: {name!r}")
        if monitor is not None and not isinstance(monitor, PerformanceMonitor):
            raise TypeError(f"monitor must be a PerformanceMonitor, not {type(monitor).__name__}: {monitor!r}")
        self.name = name
        self.monitor = monitor
        self.listener = _listener(log, echo, sink)
        self.slower_than = _core.seconds_from("slower_than", slower_than)

    def stopwatch(self, name: str | None, module: str | None = None) -> _core.Stopwatch:
        recorder = None
        if name is not None:
            monitor = default_monitor if self.monitor is None else self.monitor
            name, recorder = monitor.recorder(name, module)
        return _core.Stopwatch(name, recorder, notify=self.listener, slower_than=self.slower_than)

    def __call__(self, function: Any) -> Any:
        if isinstance(function, type):
            return self._on_class(function)
        return self.on_function(function, self.name)

    def on_function(self, function: Any, name: str | None) -> Any:
        if is_method_object(function):
            return type(function)(self.on_function(function.__func__, name))
        if not callable(function):
            hint = "; put @timed below @property" if isinstance(function, property) else ""
            raise TypeError(f"timed takes a function or a class, not {type(function).__name__}: {function!r}{hint}")
        if name is None:
            stopwatch = self.stopwatch(_qualified_name(function), getattr(function, "__module__", None))
        else:
            stopwatch = self.stopwatch(name)
        kind = kind_of(function)
        if kind == "function":
            return _core.TimedFunction(function, stopwatch)
        shell = _core.Shell(function, _SHELLS[kind](function, stopwatch))
        vars(shell).update(timing_stats=stopwatch.timing_stats, timing_reset=stopwatch.timing_reset)
        return shell

    def _on_class(self, cls: type) -> type:
        for attribute, value in list(vars(cls).items()):
            if attribute.startswith("_") or not _is_method(value):
                continue
            name = None if self.name is None else f"{self.name}.{attribute}"
            setattr(cls, attribute, self.on_function(value, name))
        return cls


def _is_method(value: Any) -> bool:
    """Tell functions, static and class methods, and decorators' objects that bind, from all else in a class."""
    if is_method_object(value):
        return callable(value.__func__)
    if not callable(value) or isinstance(value, type):
        return False
    if isinstance(value, functools.partial):
        # Up to 3.13 it has a `__get__` that warns at most: it is called without the instance.
        return sys.version_info >= (3, 14)
    return hasattr(type(value), "__get__") and not hasattr(type(value), "__set__")


@overload
def timed(function: C, /) -> C: ...  # type: ignore[overload-overlap]
@overload
def timed(function: Callable[P, R], /) -> Timed[P, R]: ...
@overload
def timed(
    function: None = None,
    /,
    *,
    name: str | None = None,
    monitor: PerformanceMonitor | None = None,
    log: int | str | None = None,
    echo: bool = False,
    sink: Sink | None = None,
    slower_than: float | timedelta = 0.0,
) -> Decorator: ...
def timed(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    monitor: PerformanceMonitor | None = None,
    log: int | str | None = None,
    echo: bool = False,
    sink: Sink | None = None,
    slower_than: float | timedelta = 0.0,
) -> Any:
    """Measure every run of a function, or of every public method of a class.

    >>> from ferrule import timed
    >>> @timed
    ... def load(rows):
    ...     return sum(range(rows))
    >>> load(1000)
    499500
    >>> load.timing_stats().count
    1

    Functions, methods, static and class methods are measured by the call; coroutines from their first step to their
    end; generators by their own time, summed over their resumptions, and async generators likewise, awaiting included.
    A run that raises is measured, too, and counted as an error.

    Args:
        function: The function or class. Left out, `timed(...)` is a decorator with arguments.
        name: What the runs are recorded under; by default the function's qualified name, led by its module where a
            function of another module has that name already. For a class it takes the class's place in the names of its
            methods.
        monitor: The `PerformanceMonitor` that keeps them; by default `ferrule.timing.default_monitor`.
        log: A logging level (`logging.DEBUG`, `"INFO"`): each run becomes a record of the logger `ferrule.timing`, with
            the extra fields `ferrule_name`, `seconds` and `failed`.
        echo: Whether each run prints a line to standard error.
        sink: Called with `(name, seconds, error)` after each run; `error` is the exception, or `None`. What it raises
            goes to `sys.unraisablehook`; the run's own result or exception comes out.
        slower_than: Only runs of at least so many seconds (or a `timedelta`) reach log, echo and sink.

    Returns:
        The function with the methods `timing_stats()`, which returns `TimingStats`, and `timing_reset()`; or the class.

    Raises:
        TypeError: If an argument is of the wrong type, or the thing decorated is neither a function nor a class.
        ValueError: If `slower_than` is negative, or `log` names no level.

    A name takes at most 24 KiB for ever, whatever is recorded: the histogram is log-linear, after HdrHistogram.
    """
    timing = _Timing(name, monitor, log, echo, sink, slower_than)
    return timing if function is None else timing(function)


class Timer(_core.Timer):
    """Measure a block of code.

    >>> from ferrule import Timer
    >>> with Timer("parse") as timer:
    ...     total = sum(range(1000))
    >>> timer.elapsed > 0
    True

    One timer can be entered again and again, in itself, in several threads and in several tasks (`async with` does the
    same): each block is measured by itself. `elapsed` is readable while a block runs.

    Args:
        name: What the blocks are recorded under; without one they are measured and not recorded.
        monitor: The `PerformanceMonitor` that keeps them; by default `ferrule.timing.default_monitor`.
        log: A logging level, as for `timed`.
        echo: Whether each block prints a line to standard error.
        sink: Called with `(name, seconds, error)` after each block, as for `timed`.
        slower_than: Only blocks of at least so many seconds (or a `timedelta`) reach log, echo and sink.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `slower_than` is negative, or `log` names no level.
        RuntimeError: If it is left more often than it was entered.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        # The native constructor, for those who read the sources.
        def __new__(  # noqa: D102
            cls,
            name: str | None = None,
            *,
            monitor: PerformanceMonitor | None = None,
            log: int | str | None = None,
            echo: bool = False,
            sink: Sink | None = None,
            slower_than: float | timedelta = 0.0,
        ) -> Self: ...


def stopwatch_for(  # noqa: PLR0917 - called by the native constructor alone
    name: str | None,
    monitor: PerformanceMonitor | None,
    log: int | str | None,
    echo: bool,  # noqa: FBT001
    sink: Sink | None,
    slower_than: float | timedelta,
) -> _core.Stopwatch:
    """Return the stopwatch of a new `Timer`, its arguments checked.

    A monitor keeps the one of a name that nobody wants to hear of, and later timers find it natively.
    """
    timing = _Timing(name, monitor, log, echo, sink, slower_than)
    if name is None or timing.listener is not None:
        return timing.stopwatch(name)
    return (default_monitor if monitor is None else monitor).plain_stopwatch(name)


# All monitors, for those who gather what they have measured.
_monitors: list[weakref.ref[PerformanceMonitor]] = []


def _forget(monitor: weakref.ref[PerformanceMonitor]) -> None:
    with contextlib.suppress(ValueError):
        _monitors.remove(monitor)


class PerformanceMonitor:
    """Keep what is measured, by name.

    >>> from ferrule import PerformanceMonitor
    >>> monitor = PerformanceMonitor()
    >>> @monitor.timed("double")
    ... def double(x):
    ...     return 2 * x
    >>> [double(1), double(2)]
    [2, 4]
    >>> with monitor.timer("a block"):
    ...     pass
    >>> monitor.stats()["double"].count
    2

    Args:
        max_names: How many names it keeps, at most 24 KiB each. The runs of all names beyond go under `(other)`, and a
            warning is logged once.

    Raises:
        TypeError: If `max_names` is no integer.
        ValueError: If `max_names` is less than one.
    """

    def __init__(self, *, max_names: int = 1000) -> None:
        if not isinstance(max_names, int) or isinstance(max_names, bool):
            raise TypeError(f"max_names must be an integer, not {type(max_names).__name__}: {max_names!r}")
        if max_names < 1:
            raise ValueError(f"max_names must be at least 1, got {max_names}")
        self._open(max_names)

    def _open(self, max_names: int) -> None:
        self._recorders = _core.Recorders(max_names)
        self._max_names = max_names
        self._overflowed = False
        # How many modules there were when it was looked for in them, and where it was found.
        self._homes: tuple[int, list[tuple[str, str]]] = (0, [])
        _monitors.append(weakref.ref(self, _forget))

    def __getstate__(self) -> tuple[int, list[CarriedName], dict[str, Any]]:
        ours = {"_recorders", "_max_names", "_overflowed", "_homes"}
        others = {name: value for name, value in vars(self).items() if name not in ours}
        return self._max_names, self._recorders.carried(take=False), others

    def __setstate__(self, state: tuple[int, list[CarriedName], dict[str, Any]]) -> None:
        max_names, carried, others = state
        self._open(max_names)
        self.add_carried(carried)
        vars(self).update(others)

    def add_carried(self, carried: list[CarriedName]) -> None:
        """Add what was carried off elsewhere; for those who build on monitors.

        Args:
            carried: What `carry_off` of another monitor has returned.
        """
        for name, module, measured in carried:
            self.recorder(name, module)[1].add(measured)

    def carry_off(self) -> Gathered | None:
        """Take away all that has been measured, to be added elsewhere; for those who build on monitors.

        Returns:
            The modules that have a name for the monitor, with that name, and what was measured; `None`, and nothing is
            taken, if there is nothing or no module has one.
        """
        if self._recorders.empty:
            return None
        modules, homes = self._homes
        if not homes and modules != len(sys.modules):
            homes = homes_of(self)
            self._homes = (len(sys.modules), homes)
        if not homes:
            return None
        carried = self._recorders.carried(take=True)
        # The main module has another name in processes that work for it.
        return homes, [(name, "__main__" if at == "__mp_main__" else at, measured) for name, at, measured in carried]

    def merge(self, other: PerformanceMonitor, /) -> None:
        """Add what another monitor has measured: one that came from another process, for instance.

        >>> import pickle
        >>> from ferrule import PerformanceMonitor
        >>> there = PerformanceMonitor()
        >>> with there.timer("a block"):
        ...     pass
        >>> here = PerformanceMonitor()
        >>> here.merge(pickle.loads(pickle.dumps(there)))
        >>> here.stats() == there.stats()
        True

        Monitors can be pickled and copied, with all that they have measured. In the workers of `ProcessPoolExecutor`,
        and wherever a `TaskScheduler` runs its tasks, what a module's monitors measure comes home without that.

        Args:
            other: The other monitor; it stays as it is.

        Raises:
            TypeError: If it is no monitor.
        """
        if not isinstance(other, PerformanceMonitor):
            raise TypeError(f"other must be a PerformanceMonitor, not {type(other).__name__}: {other!r}")
        self.add_carried(other._recorders.carried(take=False))

    def recorder(self, name: str, module: str | None = None, /) -> tuple[str, _core.Recorder]:
        """Return the recorder for a name, and the name that it goes by; for those who build on monitors.

        Args:
            name: The name.
            module: The module of the function that has the name. Where a function of another module has it already, it
                is led by the module.
        """
        recorded, recorder = self._recorders.get(name, module)
        if recorded == self._recorders.OTHER != name and not self._overflowed:
            self._overflowed = True
            fields = {"ferrule_name": name, "max_names": self._max_names}
            message = "more than max_names=%d names: %r and all other new ones are recorded under %r"
            logger_of("timing").warning(message, self._max_names, name, recorded, extra=fields)
        return recorded, recorder

    def plain_stopwatch(self, name: str, /) -> _core.Stopwatch:
        """Return the stopwatch that records under a name and tells nobody; for those who build on monitors.

        Args:
            name: The name.
        """
        stopwatch = self._recorders.stopwatch(name)
        if stopwatch is None:
            recorded, recorder = self.recorder(name)
            stopwatch = _core.Stopwatch(recorded, recorder)
            self._recorders.keep_stopwatch(name, stopwatch)
        return stopwatch

    @overload
    def timed(self, name: C, /) -> C: ...  # type: ignore[overload-overlap]
    @overload
    def timed(self, name: Callable[P, R], /) -> Timed[P, R]: ...
    @overload
    def timed(
        self,
        name: str | None = None,
        *,
        log: int | str | None = None,
        echo: bool = False,
        sink: Sink | None = None,
        slower_than: float | timedelta = 0.0,
    ) -> Decorator: ...
    def timed(
        self,
        name: Any = None,
        *,
        log: int | str | None = None,
        echo: bool = False,
        sink: Sink | None = None,
        slower_than: float | timedelta = 0.0,
    ) -> Any:
        """Measure every run of a function, as `ferrule.timed`, into this monitor.

        Args:
            name: What the runs are recorded under; by default the function's qualified name. `@monitor.timed` without
                arguments works, too.
            log: A logging level, as for `timed`.
            echo: Whether each run prints a line to standard error.
            sink: Called with `(name, seconds, error)` after each run.
            slower_than: Only runs of at least so many seconds (or a `timedelta`) reach log, echo and sink.

        Returns:
            A decorator.
        """
        function = None
        if callable(name) or is_method_object(name) or isinstance(name, property):
            name, function = None, name
        timing = _Timing(name, self, log, echo, sink, slower_than)
        return timing if function is None else timing(function)

    def timer(
        self,
        name: str,
        *,
        log: int | str | None = None,
        echo: bool = False,
        sink: Sink | None = None,
        slower_than: float | timedelta = 0.0,
    ) -> Timer:
        """Return a `Timer` for a block, recorded by this monitor under `name`.

        Args:
            name: What the blocks are recorded under.
            log: A logging level, as for `timed`.
            echo: Whether each block prints a line to standard error.
            sink: Called with `(name, seconds, error)` after each block.
            slower_than: Only blocks of at least so many seconds (or a `timedelta`) reach log, echo and sink.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {type(name).__name__}: {name!r}")
        return Timer(name, monitor=self, log=log, echo=echo, sink=sink, slower_than=slower_than)

    @overload
    def profile_memory(self, function: Callable[P, R], /, *, name: str | None = None) -> Timed[P, R]: ...
    @overload
    def profile_memory(self, function: None = None, /, *, name: str | None = None) -> Decorator: ...
    def profile_memory(self, function: Any = None, /, *, name: str | None = None) -> Any:
        """Measure what every run of a function allocates, and how long it takes.

        >>> from ferrule import PerformanceMonitor
        >>> monitor = PerformanceMonitor()
        >>> @monitor.profile_memory
        ... def fill():
        ...     return bytes(1_000_000)
        >>> kept = fill()
        >>> monitor.stats()["fill"].memory_net.max > 1_000_000
        True

        It is `tracemalloc` that says how many bytes a run left allocated (net) and had at its peak, over all threads of
        the process. It traces while a profiled run lasts, if it isn't tracing anyway; that makes everything slower, the
        measured durations included, and costs nothing when no profiled run is under way. Of runs that overlap in
        several threads each sees what the others allocate.

        Args:
            function: The function, coroutine function, generator function or async generator function.
            name: What the runs are recorded under; by default the function's qualified name.

        Returns:
            The function, as `timed` returns it; `memory_net` and `memory_peak` of its statistics are filled in.

        Raises:
            TypeError: If the thing decorated is not a function.
        """
        timing = _Timing(name, self, log=None, echo=False, sink=None, slower_than=0.0)
        if function is None:
            return functools.partial(self.profile_memory, name=name)
        if is_method_object(function):
            return type(function)(self.profile_memory(function.__func__, name=name))
        if isinstance(function, type) or not callable(function):
            raise TypeError(f"profile_memory takes a function, not {type(function).__name__}: {function!r}")
        from ferrule._profiling import profiled

        if name is None:
            name, recorder = self.recorder(_qualified_name(function), getattr(function, "__module__", None))
        else:
            name, recorder = self.recorder(name)
        return timing.on_function(profiled(function, recorder), name)

    def stats(self) -> dict[str, TimingStats]:
        """Return what has been measured, by name, in the order in which the names came up."""
        return {name: recorder.stats() for name, recorder in self._recorders.items()}

    def reset(self) -> None:
        """Forget what has been measured; the names stay."""
        for _, recorder in self._recorders.items():  # noqa: PERF102 - no dictionary
            recorder.reset()

    def report(self, sort: SortKey = "total") -> str:
        """Return a table for people: a line for every name that has run.

        Args:
            sort: The column that the lines are sorted by: by `"name"` from A to Z, by all others from the largest down.

        Raises:
            ValueError: If there is no such column.
        """
        from ferrule._reporting import table

        return table(self.stats(), sort)

    def plot(self, path: str | PathLike[str] | BinaryIO, *, names: Iterable[str] | None = None) -> None:
        """Draw the distributions of the durations, side by side on one logarithmic scale.

        Args:
            path: Where the picture goes; its ending chooses the format (`.svg`, `.png`, `.pdf`). Or a binary file.
            names: Which names are drawn, and in which order; by default the twenty that took longest in all.

        Raises:
            MissingExtra: If matplotlib is not installed (extra `plot`).
            ValueError: If nothing has been measured, or a name is unknown.
        """
        from ferrule._reporting import plot

        plot(dict(self._recorders.items()), path, names)

    def export_prometheus(self, registry: CollectorRegistry | None = None) -> None:
        """Show what is measured to Prometheus: computed when it is scraped, so that measuring costs no more.

        The registry gets the histogram `ferrule_run_seconds` and the counter `ferrule_run_errors_total`, both with the
        label `name`.

        Args:
            registry: A `prometheus_client.CollectorRegistry`; by default the library's own.

        Raises:
            MissingExtra: If prometheus_client is not installed (extra `prometheus`).
            ValueError: If the registry has metrics of these names already: from another monitor, or from this one.
        """
        from ferrule._reporting import export_prometheus

        export_prometheus(self._recorders.items, registry)

    def export_otel(self, meter: Meter | None = None) -> None:
        """Show what is measured to OpenTelemetry: observed when it is read out, so that measuring costs no more.

        The meter gets the observable counters `ferrule.run.count`, `ferrule.run.errors` and `ferrule.run.time`
        (seconds), and the observable gauge `ferrule.run.duration` (seconds, attribute `quantile`), all with the
        attribute `name`.

        Args:
            meter: An `opentelemetry.metrics.Meter`; by default the global provider's.

        Raises:
            MissingExtra: If the OpenTelemetry API is not installed (extra `otel`).
        """
        from ferrule._reporting import export_otel

        export_otel(self.stats, meter)


default_monitor = PerformanceMonitor()
"""Where `timed` and `Timer` record unless they are given a monitor."""


# -- from one process to another --------------------------------------------------------------------------------------

# The process that gathers what its tasks measure, for another one.
_gatherer = 0


def begin_gathering() -> None:
    """Begin, in a process that works for another one, to gather what tasks measure; what was measured before is not."""
    global _gatherer  # noqa: PLW0603 - forked children begin anew
    if _gatherer != os.getpid():
        _gatherer = os.getpid()
        gathered()


def gathered() -> list[Gathered]:
    """Take away what the monitors have measured that modules have a name for, so that it can travel home."""
    found: list[Gathered] = []
    for reference in tuple(_monitors):
        monitor = reference()
        taken = None if monitor is None else monitor.carry_off()
        if taken is not None:
            found.append(taken)
    return found


def take_in(found: list[Gathered]) -> None:
    """Add what was gathered elsewhere to the monitors of the same names."""
    for homes, carried in found:
        for module, attribute in homes:
            monitor = getattr(sys.modules.get(module), attribute, None)
            if isinstance(monitor, PerformanceMonitor):
                monitor.add_carried(carried)
                break


def count_calls(function: Callable[P, R], /) -> Counted[P, R]:
    """Count the calls of a function, exactly, whatever thread they come from.

    >>> from ferrule import count_calls
    >>> @count_calls
    ... def ping():
    ...     return "pong"
    >>> ping()
    'pong'
    >>> ping.call_count
    1
    >>> ping.call_reset()
    >>> ping.call_count
    0

    A call counts when it begins, whether it returns or raises; of a coroutine or generator function, the calls that
    make the coroutine or generator count.

    Args:
        function: A function of any kind, or a static or class method.

    Returns:
        The function with the property `call_count` and the method `call_reset()`.

    Raises:
        TypeError: If it is a class (which a wrapper would turn into a function), or can't be called.
    """
    given: Any = function
    if is_method_object(given):
        return cast("Counted[P, R]", type(given)(count_calls(given.__func__)))
    if isinstance(given, type) or not callable(given):
        hint = "; put @count_calls below @property" if isinstance(given, property) else ""
        kind = "a class" if isinstance(given, type) else type(given).__name__
        raise TypeError(f"count_calls takes a function, not {kind}: {given!r}{hint}")
    return cast("Counted[P, R]", _core.CountedFunction(given))

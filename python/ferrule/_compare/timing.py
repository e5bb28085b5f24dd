"""Timing: what a timed call costs, against the shells that people paste into their projects."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import defaultdict
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

from ferrule._compare.callable import method_work, work
from ferrule._compare.harness import (
    Prepared,
    Room,
    Row,
    awaiting,
    entering,
    exhausting,
    keyword,
    making,
    method,
    positional,
    raising,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ferrule._compare.harness import Factory, Run

SHELL = "hand-written shell"
LIST_SHELL = "shell with a list of samples"
CLASS_BLOCK = "hand-written class"


def failing_work(x: int) -> int:
    """Raises `ValueError`, always."""
    raise ValueError(x)


async def awaited_work(x: int) -> int:
    """Returns what it is given, as a coroutine."""
    return x


def yielding_work(n: int) -> Iterator[int]:
    """Yields so many numbers."""
    yield from range(n)


class Record:
    """Holds what a hand-written timer keeps: how many runs there were, and their seconds."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0


def timing_shell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Times a function by hand: two readings of the clock, a count and a total."""
    record = Record()

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            record.total += perf_counter() - start
            record.count += 1

    told: Any = shell
    told.record = record
    return shell


def sampling_shell(function: Callable[..., Any], samples: defaultdict[str, list[float]]) -> Callable[..., Any]:
    """Times a function as it is mostly pasted: each duration goes to the end of a list for the name."""

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            samples[function.__name__].append(perf_counter() - start)

    return shell


def coroutine_timing_shell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Times a coroutine function by hand, from its first step to its end."""
    record = Record()

    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return await function(*args, **kwargs)
        finally:
            record.total += perf_counter() - start
            record.count += 1

    return shell


def generator_timing_shell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Times a generator function by hand: its own time, summed over its resumptions."""
    record = Record()

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        own = 0.0
        items = function(*args, **kwargs)
        try:
            while True:
                start = perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    own += perf_counter() - start
                yield item
        finally:
            record.total += own
            record.count += 1

    return shell


_blocks: defaultdict[str, Record] = defaultdict(Record)


class HandWrittenTimer:
    """Times a block by hand, into a record for its name."""

    __slots__ = ("name", "start")

    def __init__(self, name: str) -> None:
        self.name = name
        self.start = 0.0

    def __enter__(self) -> Self:
        """Reads the clock."""
        self.start = perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        """Reads the clock again, and adds the difference."""
        record = _blocks[self.name]
        record.total += perf_counter() - self.start
        record.count += 1


@contextmanager
def timing_block(name: str) -> Generator[None]:
    """Times a block by hand, with a generator."""
    start = perf_counter()
    try:
        yield
    finally:
        record = _blocks[name]
        record.total += perf_counter() - start
        record.count += 1


def counting_shell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Counts calls by hand, in an attribute of the shell; threads lose counts."""

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        counter.call_count += 1
        return function(*args, **kwargs)

    counter: Any = shell
    counter.call_count = 0
    return shell


def locked_counting_shell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Counts calls by hand, exactly: with a lock."""
    lock = threading.Lock()

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        with lock:
            counter.call_count += 1
        return function(*args, **kwargs)

    counter: Any = shell
    counter.call_count = 0
    return shell


def iterator_counting_shell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Counts calls by hand, exactly and without a lock, for those who know that drawing from `count` is one step."""
    calls = itertools.count()

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        next(calls)
        return function(*args, **kwargs)

    return shell


def room() -> Room:
    """Describes the rows."""
    return Room(name="timing", rows=[*_calls(), *_kinds(), *_blocks_of_code(), *_counting()])


def _calls() -> list[Row]:
    return [
        Row(
            id="timed_positional",
            title="timed: a call, one positional argument",
            baseline=SHELL,
            goal=0.45,
            candidates={
                "bare function": lambda: positional(work),
                SHELL: lambda: positional(timing_shell(work)),
                LIST_SHELL: _sampled(positional),
                "ferrule": lambda: positional(_timed(work)),
            },
        ),
        Row(
            id="timed_keyword",
            title="timed: a call, one keyword argument",
            baseline=SHELL,
            goal=0.45,
            candidates={
                "bare function": lambda: keyword(work),
                SHELL: lambda: keyword(timing_shell(work)),
                LIST_SHELL: _sampled(keyword),
                "ferrule": lambda: keyword(_timed(work)),
            },
        ),
        Row(
            id="timed_method",
            title="timed: a method call, one positional argument",
            baseline=SHELL,
            candidates={
                "bare function": lambda: method(method_work),
                SHELL: lambda: method(timing_shell(method_work)),
                "ferrule": lambda: method(_timed(method_work)),
            },
        ),
        Row(
            id="timed_raising",
            title="timed: a call that raises, caught by the caller",
            baseline=SHELL,
            candidates={
                "bare function": lambda: raising(failing_work),
                SHELL: lambda: raising(timing_shell(failing_work)),
                "ferrule": lambda: raising(_timed(failing_work)),
            },
        ),
    ]


def _kinds() -> list[Row]:
    return [
        Row(
            id="timed_coroutine",
            title="timed: awaiting a coroutine that does not wait",
            baseline=SHELL,
            candidates={
                "bare function": lambda: awaiting(awaited_work),
                SHELL: lambda: awaiting(coroutine_timing_shell(awaited_work)),
                "ferrule": lambda: awaiting(_timed(awaited_work)),
            },
        ),
        Row(
            id="timed_generator",
            title="timed: an item of a generator",
            baseline=SHELL,
            candidates={
                "bare function": lambda: exhausting(yielding_work),
                SHELL: lambda: exhausting(generator_timing_shell(yielding_work)),
                "ferrule": lambda: exhausting(_timed(yielding_work)),
            },
        ),
    ]


def _blocks_of_code() -> list[Row]:
    return [
        Row(
            id="timer_made",
            title="Timer: made, entered and left",
            baseline=CLASS_BLOCK,
            candidates={
                "contextlib.contextmanager": lambda: making(timing_block),
                CLASS_BLOCK: lambda: making(HandWrittenTimer),
                "ferrule": _timer_made,
            },
        ),
        Row(
            id="timer_entered",
            title="Timer: entered and left again",
            baseline=CLASS_BLOCK,
            candidates={
                CLASS_BLOCK: lambda: entering(HandWrittenTimer("block")),
                "ferrule": _timer_entered,
            },
        ),
    ]


def _counting() -> list[Row]:
    return [
        Row(
            id="count_calls_positional",
            title="count_calls: a call, one positional argument",
            baseline=SHELL,
            goal=0.35,
            candidates={
                "bare function": lambda: positional(work),
                SHELL: lambda: positional(counting_shell(work)),
                "shell with a lock": lambda: positional(locked_counting_shell(work)),
                "shell with itertools.count": lambda: positional(iterator_counting_shell(work)),
                "ferrule": lambda: positional(_counted(work)),
            },
        ),
        Row(
            id="count_calls_keyword",
            title="count_calls: a call, one keyword argument",
            baseline=SHELL,
            goal=0.35,
            candidates={
                "bare function": lambda: keyword(work),
                SHELL: lambda: keyword(counting_shell(work)),
                "shell with a lock": lambda: keyword(locked_counting_shell(work)),
                "shell with itertools.count": lambda: keyword(iterator_counting_shell(work)),
                "ferrule": lambda: keyword(_counted(work)),
            },
        ),
    ]


def _sampled(call: Callable[[Callable[..., Any]], Run]) -> Factory:
    """Makes the list shell ready; its list is emptied between the runs, or millions of samples would be measured."""

    def factory() -> Prepared:
        samples: defaultdict[str, list[float]] = defaultdict(list)
        return Prepared(run=call(sampling_shell(work, samples)), prepare=samples.clear)

    return factory


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    from ferrule import timed

    return timed(function)


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    from ferrule import count_calls

    return count_calls(function)


def _timer_made() -> Run:
    from ferrule import Timer

    return making(Timer)


def _timer_entered() -> Run:
    from ferrule import Timer

    return entering(Timer("block"))

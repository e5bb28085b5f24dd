"""Pipelines: stages in one loop, and work on other threads, against generators and executors."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Prepared, Room, Row
from ferrule._compare.iterating import GENERATORS, ITEMS, integers, repeated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EXECUTOR = "ThreadPoolExecutor.map"
WORKERS = 4
PARALLEL = 5_000


def positive(numbers: Iterable[int]) -> Iterator[int]:
    """Keeps what is above zero."""
    for number in numbers:
        if number > 0:
            yield number


def squared(numbers: Iterable[int]) -> Iterator[int]:
    """Squares."""
    for number in numbers:
        yield number * number


def running_sum(numbers: Iterable[int]) -> Iterator[int]:
    """Adds up."""
    total = 0
    for number in numbers:
        total += number
        yield total


def is_positive(number: int) -> bool:
    """Asks whether it is above zero."""
    return number > 0


def square(number: int) -> int:
    """Squares one."""
    return number * number


def calling_filter(numbers: Iterable[int]) -> Iterator[int]:
    """Keeps what a function says."""
    for number in numbers:
        if is_positive(number):
            yield number


def calling_map(numbers: Iterable[int]) -> Iterator[int]:
    """Makes what a function makes."""
    for number in numbers:
        yield square(number)


def nothing(item: Any) -> Any:
    """Returns what it is given."""
    return item


def room() -> Room:
    """Describes the rows."""
    from ferrule import Pipeline, it, pipeline

    native = Pipeline().filter(it > 0).map(it * it).accumulate()
    opaque = Pipeline().filter(is_positive).map(square).accumulate()
    chained = pipeline(positive, squared, running_sum)
    one = Pipeline().map(nothing, workers=WORKERS)
    auto = Pipeline().map(nothing, workers=WORKERS, buffer=2000, chunk="auto")
    rows = [
        Row(
            id="native",
            title="filter, square, running sum: expressions",
            baseline=GENERATORS,
            goal=0.5,
            candidates={
                GENERATORS: lambda: repeated(ITEMS, lambda: list(running_sum(squared(positive(integers()))))),
                "ferrule": lambda: repeated(ITEMS, lambda: list(native.run(integers()))),
                "ferrule pipeline()": lambda: repeated(ITEMS, lambda: list(chained(integers()))),
            },
        ),
        Row(
            id="opaque",
            title="filter, square, running sum: functions",
            baseline=GENERATORS,
            goal=1.1,
            candidates={
                GENERATORS: lambda: repeated(ITEMS, lambda: list(running_sum(calling_map(calling_filter(integers()))))),
                "ferrule": lambda: repeated(ITEMS, lambda: list(opaque.run(integers()))),
            },
        ),
        Row(
            id="parallel",
            title=f"an ordered map on {WORKERS} threads, of nothing",
            baseline=EXECUTOR,
            goal=0.1,
            candidates={
                EXECUTOR: _executor,
                "ferrule": lambda: repeated(PARALLEL, lambda: list(one.run(integers()[:PARALLEL]))),
            },
        ),
        Row(
            id="parallel_auto",
            title="the same with chunks found by measuring",
            baseline=EXECUTOR,
            goal=0.02,
            candidates={
                EXECUTOR: _executor,
                "ferrule": lambda: repeated(PARALLEL, lambda: list(auto.run(integers()[:PARALLEL]))),
            },
        ),
    ]
    return Room(name="pipelines", rows=rows)


def _executor() -> Prepared:
    executor = ThreadPoolExecutor(WORKERS)
    run = repeated(PARALLEL, functools.partial(_mapped, executor))
    return Prepared(run=run, close=executor.shutdown)


def _mapped(executor: ThreadPoolExecutor) -> list[Any]:
    return list(executor.map(nothing, integers()[:PARALLEL]))

"""The job in plain Python, as it is written by hand: timing decorators, a list of samples for each name, a counter."""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ferrule._demo import examining, sources, storing
from ferrule._demo.measuring import Measured
from ferrule._demo.sources import Problem, UnreadableError, printable

if TYPE_CHECKING:
    import ast
    import sqlite3
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

NAME = "plain Python"

samples: defaultdict[str, list[float]] = defaultdict(list)
counts: defaultdict[str, int] = defaultdict(int)
results: list[dict[Any, Any]] = []


def timed(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Time each call of a function."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            start = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                samples[name].append(perf_counter() - start)

        return wrapper

    return decorate


def timed_generator(name: str) -> Callable[[Callable[P, Iterator[T]]], Callable[P, Iterator[T]]]:
    """Time what a generator does itself, without what its caller does between two items."""

    def decorate(function: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            items = function(*args, **kwargs)
            spent = 0.0
            try:
                while True:
                    start = perf_counter()
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                    finally:
                        spent += perf_counter() - start
                    yield item
            finally:
                samples[name].append(spent)

        return wrapper

    return decorate


@contextmanager
def timer(name: str) -> Generator[None, None, None]:
    """Time a block."""
    start = perf_counter()
    try:
        yield
    finally:
        samples[name].append(perf_counter() - start)


def count_calls(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Count the calls of a function."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            counts[name] += 1
            return function(*args, **kwargs)

        return wrapper

    return decorate


def memoized(function: Callable[[T], R]) -> Callable[[T], R]:
    """Keep the results of a function of one argument."""
    kept: dict[T, R] = {}
    results.append(kept)

    @functools.wraps(function)
    def wrapper(argument: T) -> R:
        try:
            return kept[argument]
        except KeyError:
            result = kept[argument] = function(argument)
            return result

    return wrapper


@timed("find")
def find(path: Path) -> sources.Found:
    """Find the files."""
    return sources.python_files(path)


@timed_generator("lines")
def lines(path: Path) -> Iterator[str]:
    """Stream the lines of one file."""
    with sources.opened(path) as file:
        for line in file:  # noqa: UP028 - the generator by hand, as the loop that people write
            yield line


@timed("read")
def read(path: Path) -> examining.Source:
    """Read one file, and look over its lines."""
    return examining.look_over(lines(path))


@timed("parse")
def parse(source: examining.Source) -> ast.Module:
    """Parse one file."""
    return sources.tree_of(source.text)


@timed("function")
def function(node: examining.AnyFunction, name: str) -> examining.Function:
    """Examine one function."""
    return examining.function_of(node, name)


@count_calls("called")
def called(call: ast.Call) -> str | None:
    """Look at one call."""
    return examining.called_name(call)


@memoized
def branches(kind: type[ast.AST]) -> tuple[str, ...]:
    """Say which fields of a kind of node lead on."""
    return examining.branches_of(kind)


@timed("examine")
def examine(source: examining.Source, tree: ast.Module) -> examining.Facts:
    """Examine one file."""
    return examining.examine(source, tree, function=function, called=called, branches=branches)


@timed("store")
def store(database: sqlite3.Connection, path: str, facts: examining.Facts) -> None:
    """Store what was found in one file."""
    storing.store_facts(database, path, facts)


@timed("report")
def report(database: sqlite3.Connection) -> storing.Summary:
    """Ask the database what was found."""
    return storing.summary(database)


def work(files: list[Path], root: Path, database: sqlite3.Connection) -> None:
    """Read, parse, examine and store some files."""
    for path in files:
        name = sources.name_in(root, path)
        try:
            source = read(path)
            facts = examine(source, parse(source))
        except UnreadableError as error:
            storing.store_problem(database, Problem(name, printable(str(error))))
        else:
            store(database, name, facts)
    with timer("commit"):
        database.commit()


def measured() -> dict[str, Measured]:
    """Say what was measured, by name."""
    return {
        name: Measured(len(times), sum(times), sum(times) / len(times), max(times)) for name, times in samples.items()
    }


def calls_counted() -> int:
    """Say how many calls were looked at."""
    return counts["called"]


def results_kept() -> int:
    """Say how many results are kept to be given out again."""
    return sum(map(len, results))


def kept_bytes() -> int:
    """Say how much memory the samples take: for each a float, and its place in a list."""
    return sum(sys.getsizeof(times) + sum(map(sys.getsizeof, times)) for times in samples.values())


def forget() -> None:
    """Start the measurements over."""
    samples.clear()
    counts.clear()
    for kept in results:
        kept.clear()

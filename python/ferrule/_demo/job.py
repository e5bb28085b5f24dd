"""The job with ferrule: what `plain` has to write before its job begins is imported here, the rest reads alike."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any

import ferrule
from ferrule import PerformanceMonitor, ResourcePool, TaskScheduler, Timer, cached, count_calls, timed
from ferrule._demo import examining, sources, storing
from ferrule._demo.measuring import Measured
from ferrule._demo.sources import Problem, UnreadableError, printable

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ferrule.scheduling import TaskResults

NAME = "ferrule"

monitor = PerformanceMonitor()
"""A monitor of its own, so that the report shows this job and nothing else."""

asked: list[TaskResults] = []
"""How the report's questions were answered: who did what when."""


@timed(name="find", monitor=monitor)
def find(path: Path) -> sources.Found:
    """Find the files."""
    return sources.python_files(path)


@timed(name="lines", monitor=monitor)
def lines(path: Path) -> Iterator[str]:
    """Stream the lines of one file."""
    with sources.opened(path) as file:
        for line in ferrule.lines(file.buffer, encoding=file.encoding):
            yield line + "\n"


@timed(name="read", monitor=monitor)
def read(path: Path) -> examining.Source:
    """Read one file, and look over its lines."""
    return examining.look_over(lines(path))


@timed(name="parse", monitor=monitor)
def parse(source: examining.Source) -> ast.Module:
    """Parse one file."""
    return sources.tree_of(source.text)


@timed(name="function", monitor=monitor)
def function(node: examining.AnyFunction, name: str) -> examining.Function:
    """Examine one function."""
    return examining.function_of(node, name)


@count_calls
def called(call: ast.Call) -> str | None:
    """Look at one call."""
    return examining.called_name(call)


@cached
def branches(kind: type[ast.AST]) -> tuple[str, ...]:
    """Say which fields of a kind of node lead on."""
    return examining.branches_of(kind)


@timed(name="examine", monitor=monitor)
def examine(source: examining.Source, tree: ast.Module) -> examining.Facts:
    """Examine one file."""
    return examining.examine(source, tree, function=function, called=called, branches=branches)


@timed(name="store", monitor=monitor)
def store(database: sqlite3.Connection, path: str, facts: examining.Facts) -> None:
    """Store what was found in one file."""
    storing.store_facts(database, path, facts)


@timed(name="report", monitor=monitor)
def report(databases: ResourcePool[sqlite3.Connection]) -> storing.Summary:
    """Ask the database what was found: all questions at once, each on a connection of its own."""
    scheduler = TaskScheduler(name="report")
    for name, question in storing.QUESTIONS.items():
        scheduler.add_task(name, ask, args=(databases, question))
    answers = scheduler.run("threads")
    asked.append(answers)
    for answer in answers.values():
        if answer.error is not None:
            # One is enough for whoever runs the demo; `raise_errors` would raise all of them.
            raise answer.error
    return storing.summary_of(answers[name].value for name in storing.QUESTIONS)


def ask(
    databases: ResourcePool[sqlite3.Connection], question: Callable[[sqlite3.Connection, int], dict[str, Any]]
) -> dict[str, Any]:
    """Ask one question. SQLite looks for the answer without the interpreter lock."""
    with databases.lease() as database:
        return question(database, storing.TOP)


def connections(path: Path) -> ResourcePool[sqlite3.Connection]:
    """Keep the connections to a database in a pool."""
    return ResourcePool(partial(storing.connect, path), close=sqlite3.Connection.close, name="demo")


def work(files: list[Path], root: Path, databases: ResourcePool[sqlite3.Connection]) -> None:
    """Read, parse, examine and store some files."""
    with databases.lease() as database:
        for path in files:
            name = sources.name_in(root, path)
            try:
                source = read(path)
                facts = examine(source, parse(source))
            except UnreadableError as error:
                storing.store_problem(database, Problem(name, printable(str(error))))
            else:
                store(database, name, facts)
        with Timer("commit", monitor=monitor):
            database.commit()


def measured() -> dict[str, Measured]:
    """Say what was measured, by name."""
    return {name: Measured(stats.count, stats.total, stats.mean, stats.max) for name, stats in monitor.stats().items()}


def calls_counted() -> int:
    """Say how many calls were looked at."""
    return called.call_count


def results_kept() -> int:
    """Say how many results are kept to be given out again."""
    return branches.cache_info().currsize


def results_given() -> int:
    """Say how often a result was asked for."""
    info = branches.cache_info()
    return info.hits + info.misses


def forget() -> None:
    """Start the measurements over."""
    monitor.reset()
    asked.clear()
    called.call_reset()
    branches.cache_clear()

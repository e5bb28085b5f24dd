"""The job with ferrule: what `plain` has to write before its job begins is imported here, the rest reads alike."""

from __future__ import annotations

import sqlite3
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import ferrule
from ferrule import (
    PerformanceMonitor,
    ProcessPoolExecutor,
    ResourcePool,
    TaskScheduler,
    Timer,
    WorkerDied,
    cached,
    count_calls,
    timed,
)
from ferrule._demo import examining, sources, storing
from ferrule._demo.measuring import Measured
from ferrule._demo.sources import Problem, UnreadableError, printable
from ferrule.scheduling import TaskResult, TaskResults

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

NAME = "ferrule"

FEW = 32
"""For so many files no process is started: they are examined sooner than one is ready."""

monitor = PerformanceMonitor()
"""A monitor of its own, so that the report shows this job and nothing else; it hears of what the processes measure."""


class Examined(NamedTuple):
    """What the examination of one file brought, in whichever process it was."""

    facts: examining.Facts | None
    reason: str
    """Why there are no facts."""
    calls: int
    """How many calls were looked at."""
    results: int
    """How often a result was asked for that may have been kept."""
    computed: frozenset[str]
    """The results that were not."""


@dataclass
class State:
    """What the job remembers between its turns."""

    strategy: Literal["sequential"] | ProcessPoolExecutor = "sequential"
    asked: list[TaskResults] = field(default_factory=list)
    """How the report's questions were answered."""
    done: list[TaskResult] = field(default_factory=list)
    """Who did what when, in seconds of the job's own turns."""
    spent: float = 0.0
    calls: int = 0
    results: int = 0
    computed: set[str] = field(default_factory=set)

    def note(self, began: float, results: TaskResults) -> None:
        """Note what was done in a turn that began at a moment and ends now."""
        self.done.extend(one._replace(started=self.spent + one.started, value=None) for one in results.values())
        self.spent += perf_counter() - began


state = State()

fresh: set[str] = set()
"""What this process has computed, and nobody has been told of."""


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
    fresh.add(kind.__qualname__)
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
    began = perf_counter()
    scheduler = TaskScheduler(name="report")
    for name, question in storing.QUESTIONS.items():
        scheduler.add_task(name, ask, args=(databases, question))
    answers = scheduler.run("threads")
    state.asked.append(answers)
    state.note(began, answers)
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


@contextmanager
def processes(files: int) -> Generator[None]:
    """Keep processes ready, as many as there are processors, while a block runs in which so many files are examined."""
    if files <= FEW:
        yield
        return
    with ProcessPoolExecutor(preload=[__name__]) as executor:
        state.strategy = executor
        try:
            yield
        finally:
            state.strategy = "sequential"


def examined(path: Path) -> Examined:
    """Read, parse and examine one file."""
    calls, results = called.call_count, looked_up()
    facts, reason = None, ""
    try:
        source = read(path)
        facts = examine(source, parse(source))
    except UnreadableError as error:
        reason = printable(str(error))
    computed = frozenset(fresh)
    fresh.clear()
    return Examined(facts, reason, called.call_count - calls, looked_up() - results, computed)


def work(files: list[Path], root: Path, databases: ResourcePool[sqlite3.Connection]) -> None:
    """Read, parse and examine some files, several at a time, and store what was found in their order."""
    began = perf_counter()
    scheduler = TaskScheduler(name="examine")
    waiting: deque[tuple[str, str]] = deque()
    for number, path in enumerate(files):
        name = sources.name_in(root, path)
        task = name if name not in scheduler else f"{name} ({number})"
        scheduler.add_task(task, examined, args=(path,))
        waiting.append((task, name))
    results: dict[str, TaskResult] = {}
    with databases.lease() as database:
        for result in scheduler.as_completed(state.strategy):
            results[result.id] = result
            while waiting and waiting[0][0] in results:
                task, name = waiting.popleft()
                keep(database, name, results.pop(task))
        with Timer("commit", monitor=monitor):
            database.commit()
    state.note(began, scheduler.results)


def keep(database: sqlite3.Connection, name: str, result: TaskResult) -> None:
    """Store what became of one file."""
    if isinstance(result.error, WorkerDied):
        # Only this file is lost, whatever there is in it that ends a process.
        storing.store_problem(database, Problem(name, f"ended the process that examined it: {result.error}"))
        return
    if result.error is not None:
        raise result.error
    found: Examined = result.value
    state.calls += found.calls
    state.results += found.results
    state.computed |= found.computed
    if found.facts is None:
        storing.store_problem(database, Problem(name, found.reason))
    else:
        store(database, name, found.facts)


def measured() -> dict[str, Measured]:
    """Say what was measured, by name."""
    return {name: Measured(stats.count, stats.total, stats.mean, stats.max) for name, stats in monitor.stats().items()}


def calls_counted() -> int:
    """Say how many calls were looked at, in all processes."""
    return state.calls


def results_kept() -> int:
    """Say how many results are kept to be given out again, in one process or another."""
    return len(state.computed)


def results_given() -> int:
    """Say how often a result was asked for, in all processes."""
    return state.results


def looked_up() -> int:
    """Say how often a result was asked for in this process."""
    info = branches.cache_info()
    return info.hits + info.misses


def timeline() -> TaskResults:
    """Say who did what when, as if the job had had no breaks."""
    return TaskResults("the demo's job", {str(number): one for number, one in enumerate(state.done)})


def forget() -> None:
    """Start the measurements over."""
    global state  # noqa: PLW0603 - all that is remembered, at once
    state = State()
    monitor.reset()
    fresh.clear()
    called.call_reset()
    branches.cache_clear()

"""The same job twice, side by side: batch by batch in turns, measured with one ruler, and compared row by row."""

from __future__ import annotations

import os
import platform
import stat
import warnings
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ferrule import PerformanceMonitor, ResourcePool, cached, count_calls, transaction
from ferrule._demo import job, plain, storing
from ferrule._demo.measuring import PARTS, Cost, Measured, added_to_a_call, added_to_a_step, argument_back, nothings
from ferrule._demo.sources import LARGEST, name_in

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ferrule._demo.sources import Found
    from ferrule.scheduling import TaskResults

T = TypeVar("T")

BATCH = 32
"""Files that one job works on before the other has its turn."""


class Job(Protocol):
    """What `plain` and `job` have in common."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a constant of the modules
        """What the report calls it."""
        ...

    def find(self, path: Path) -> Found:
        """Find the files."""
        ...

    def work(self, files: list[Path], root: Path, database: Any, /) -> None:
        """Read, parse, examine and store some files."""
        ...

    def report(self, database: Any, /) -> storing.Summary:
        """Ask the database what was found."""
        ...

    def measured(self) -> dict[str, Measured]:
        """Say what was measured, by name."""
        ...

    def calls_counted(self) -> int:
        """Say how many calls were looked at."""
        ...

    def results_kept(self) -> int:
        """Say how many results are kept to be given out again."""
        ...

    def forget(self) -> None:
        """Start the measurements over."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a contest. In pairs, plain Python comes first and ferrule second."""

    python: str
    path: Path
    found: int
    """How many files there are."""
    taken: int
    """How many of them were worked on: fewer with a limit."""
    summary: storing.Summary
    report: str
    """The timing report of ferrule's monitor."""
    whole: tuple[float, float]
    """Seconds for everything, by the same clock for both, with all that the measuring costs."""
    batch_ratio: float
    """ferrule's time by plain Python's, the median over the batches."""
    measured: tuple[dict[str, Measured], dict[str, Measured]]
    """What each measured itself, by name."""
    costs: list[Cost]
    kept_bytes: int
    """What plain Python's lists of samples take."""
    answers: TaskResults
    """How ferrule's questions to its database were answered, all at once."""
    timeline: TaskResults
    """Who did what when in ferrule's job."""
    workers: int
    """How many of those there were that examined files."""
    rows: int
    """How many rows of the two databases were compared."""
    differences: list[str]
    changed: list[str]
    """Files that somebody changed meanwhile, looked up when there are differences."""

    def parts(self) -> dict[str, tuple[float, float]]:
        """Return the seconds that each part of the job took."""
        by_hand, native = ({name: one.total for name, one in of.items()} for of in self.measured)
        return {
            part: (sum(by_hand.get(name, 0.0) for name in names), sum(native.get(name, 0.0) for name in names))
            for part, names in PARTS.items()
        }


class Contest:
    """The state of a contest: whose turn it is, on which account the seconds go, and what was different.

    Args:
        path: Where the files are; each job finds them itself.
        databases: Where each job keeps what it finds: plain Python has a connection, and ferrule a pool of them.
        limit: Take the first so many files; `None` takes all.
        progress: Called with a number of files each time that both jobs are done with them.
    """

    jobs: tuple[Job, Job] = (plain, job)

    def __init__(
        self,
        path: Path,
        databases: tuple[sqlite3.Connection, ResourcePool[sqlite3.Connection]],
        *,
        limit: int | None,
        progress: Callable[[int], object],
    ) -> None:
        self.path = path
        self.databases = databases
        self.limit = limit
        self.progress = progress
        self.spent = [0.0, 0.0]
        self.ratios: list[float] = []
        self.differences: list[str] = []

    def in_turns(self, tasks: Sequence[Callable[[], T]], *, reverse: bool = False) -> list[T]:
        """Do both jobs' share of something, one after the other, each on its own account.

        Args:
            tasks: Plain Python's share and ferrule's.
            reverse: Let ferrule begin.

        Returns:
            What the two returned, plain Python's first.
        """
        results: dict[int, T] = {}
        seconds = [0.0, 0.0]
        for which in (1, 0) if reverse else (0, 1):
            start = perf_counter()
            results[which] = tasks[which]()
            seconds[which] = perf_counter() - start
            self.spent[which] += seconds[which]
        self.ratios.append(seconds[1] / seconds[0] if seconds[0] else 1.0)
        return [results[0], results[1]]

    def find(self) -> list[Found]:
        """Let both find the files, and write down the folders that could not be listed."""
        found = [one.first(self.limit) for one in self.in_turns([partial(one.find, self.path) for one in self.jobs])]
        if found[0] != found[1]:
            self.differences.append(f"find: {len(found[0].files):,} files and {len(found[1].files):,}, not the same")
        databases: list[sqlite3.Connection | ResourcePool[sqlite3.Connection]] = list(self.databases)
        for database, one in zip(databases, found, strict=True):
            with connected(database) as connection, transaction(connection):
                for problem in one.problems:
                    storing.store_problem(connection, problem)
        return found

    def work(self, found: list[Found]) -> None:
        """Let both read, parse, examine and store, a batch at a time; who begins changes with each batch."""
        self.ratios.clear()
        for start in range(0, max(len(one.files) for one in found), BATCH):
            batches = [one.files[start : start + BATCH] for one in found]
            tasks = [
                partial(one.work, batch, files.root, database)
                for one, batch, files, database in zip(self.jobs, batches, found, self.databases, strict=True)
            ]
            self.in_turns(tasks, reverse=start // BATCH % 2 == 1)
            self.progress(len(batches[0]))

    def compare(self, summaries: list[storing.Summary]) -> int:
        """Compare what both stored, answered and counted; return how many rows were compared."""
        by_hand, native = self.databases
        with native.lease() as connection:
            rows, differences = storing.compare(by_hand, connection, names=(plain.NAME, job.NAME))
        self.differences += differences
        if summaries[0] != summaries[1]:
            self.differences.append("report: the two do not say the same")
        pairs = {
            "calls looked at": [one.calls_counted() for one in self.jobs],
            "results kept": [one.results_kept() for one in self.jobs],
        }
        measured = [one.measured() for one in self.jobs]
        for name in sorted(measured[0].keys() | measured[1].keys()):
            pairs[f"times measured as {name!r}"] = [of[name].times if name in of else 0 for of in measured]
        self.differences.extend(f"{what}: {a:,} and {b:,}" for what, (a, b) in pairs.items() if a != b)
        return rows


def run(found: Found, path: Path, folder: Path, *, limit: int | None, progress: Callable[[int], object]) -> Outcome:
    """Let both jobs do their work and compare what they found.

    Args:
        found: The files, found beforehand. All of them are read once, so that neither job waits for a disk.
        path: Where they were found; each job finds them again.
        folder: An empty folder. The databases `plain.sqlite` and `ferrule.sqlite` are made in it.
        limit: Take the first so many files; `None` takes all.
        progress: Called with a number of files each time that both jobs are done with them.

    Returns:
        What was found, how long it took, and where the two differ.
    """
    stamps = {file: warmed(file) for file in found.first(limit).files}
    for one in Contest.jobs:
        one.forget()
    storing.create(folder / "ferrule.sqlite").close()
    with (
        warnings.catch_warnings(),
        closing(storing.create(folder / "plain.sqlite")) as by_hand,
        closing(job.connections(folder / "ferrule.sqlite")) as native,
        ExitStack() as stack,
    ):
        # What the parser and the codecs have to say about other people's sources is not for us to print or to raise.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # The processes filter warnings as this one does when they are started.
        stack.enter_context(job.processes(len(stamps)))
        contest = Contest(path, (by_hand, native), limit=limit, progress=progress)
        contest.work(contest.find())
        ratio = median(contest.ratios)
        summaries = contest.in_turns([partial(plain.report, by_hand), partial(job.report, native)])
        rows = contest.compare(summaries)
    return Outcome(
        python=f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, "
        f"{os.cpu_count() or 1} processors",
        path=path,
        found=len(found.files),
        taken=len(stamps),
        summary=summaries[1],
        report=job.monitor.report(),
        whole=(contest.spent[0], contest.spent[1]),
        batch_ratio=ratio,
        measured=(plain.measured(), job.measured()),
        costs=costs(job.measured(), steps=summaries[1].lines, calls=job.calls_counted(), results=job.results_given()),
        kept_bytes=plain.kept_bytes(),
        answers=job.state.asked[-1],
        timeline=job.timeline(),
        workers=len({one.worker for one in job.state.done if one.id not in storing.QUESTIONS}),
        rows=rows,
        differences=contest.differences,
        changed=changed(found.root, stamps) if contest.differences else [],
    )


def connected(
    database: sqlite3.Connection | ResourcePool[sqlite3.Connection],
) -> AbstractContextManager[sqlite3.Connection]:
    """Return a connection for the length of a block, whatever it is kept in."""
    return database.lease() if isinstance(database, ResourcePool) else nullcontext(database)


def stamp_of(file: Path) -> tuple[int, int] | None:
    """Return the size and the time of the last change of a file that can be read; `None` for anything else."""
    try:
        status = file.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
        return None
    return status.st_size, status.st_mtime_ns


def warmed(file: Path) -> tuple[int, int] | None:
    """Read a file once, so that it is in the system's cache, and return its stamp."""
    stamp = stamp_of(file)
    if stamp is not None:
        with suppress(OSError):
            file.read_bytes()
    return stamp


def changed(root: Path, stamps: dict[Path, tuple[int, int] | None]) -> list[str]:
    """Return the names of the files whose stamps are no longer what they were."""
    return [name_in(root, file) for file, stamp in stamps.items() if stamp != stamp_of(file)]


def costs(measured: dict[str, Measured], *, steps: int, calls: int, results: int) -> list[Cost]:
    """Measure what the wrappers of a job cost, once more, on functions that do nothing.

    Args:
        measured: What was measured, by name.
        steps: How many steps of a generator were timed: the lines.
        calls: How many calls were counted.
        results: How many results were given out, nearly all of them once more.
    """
    fresh = PerformanceMonitor()
    timed = sum(one.times for name, one in measured.items() if name != "lines")
    a_call = added_to_a_call(plain.timed("cost")(argument_back), fresh.timed("cost")(argument_back))
    a_step = added_to_a_step(plain.timed_generator("cost")(nothings), fresh.timed("steps")(nothings))
    a_result = added_to_a_call(plain.memoized(argument_back), cached(argument_back))
    a_count = added_to_a_call(plain.count_calls("cost")(argument_back), count_calls(argument_back))
    return [
        Cost("calls timed", timed, *a_call),
        Cost("lines timed", steps, *a_step),
        Cost("calls counted", calls, *a_count),
        Cost("results given", results, *a_result),
    ]

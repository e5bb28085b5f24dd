"""Ratios measured in one process: candidates take turns in short runs, and the quickest run of each speaks for it.

What disturbs a measurement (another process, a slower clock of the processor, a page fault) only ever makes a run
slower, and it comes in spells. So each candidate gets many runs of a few milliseconds rather than a long one, the
candidates of a row take turns so that a spell meets all of them, and the minimum is compared. The ratio of the minima
is what a claim is made of; the median of the ratios of single rounds stands beside it, and where the two differ the
machine was too busy to be believed.

Times are nanoseconds an operation, and the loop that repeats the operation is counted with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import math
import statistics
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol, TypeVar

from ferrule._compare.results import CandidateResult, FigureResult, FigureValue, RoomResult, RowResult

Clock = Callable[[], int]
"""Reads nanoseconds; only differences are used."""

Run = Callable[[int], "int | None"]
"""Performs so many operations; returns `None`, or the nanoseconds that it took by its own count."""

F = TypeVar("F", bound=Callable[..., object])

OURS: Final = "ferrule"
"""The label of the candidate that goals are about."""

# A run that does nothing at all would be made longer for ever.
_MOST_OPERATIONS: Final = 10**9
# How far two numbers of operations for a run may differ and still be the same.
_STEADY: Final = 0.1
_NANOSECONDS_A_MILLISECOND: Final = 1_000_000


class UnavailableError(Exception):
    """Raised by a factory whose candidate can't be had here; the message says why and is shown in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Is a run with something to do around it that is not timed.

    Attributes:
        run: performs so many operations.
        prepare: is called before each run, outside its time; `None` when there is nothing to prepare.
        close: is called once, after the last run; `None` when there is nothing to close.
    """

    run: Run
    prepare: Callable[[], object] | None = None
    close: Callable[[], object] | None = None


Factory = Callable[[], "Run | Prepared"]
"""Makes one candidate ready to run; raises `UnavailableError` when it can't be had here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Is one hot capability, done by several candidates.

    Attributes:
        id: names the row in JSON; unique in its room.
        title: names the row for people.
        candidates: label to factory, in the order of the table.
        baseline: the label that every ratio is measured against.
        goal: the largest ratio of ours to the baseline that was promised; `None` when nothing was.
        ours: the label that the goal is about.

    Raises:
        ValueError: the baseline is no candidate, or there is a goal that is not positive or has no candidate of ours.
    """

    id: str
    title: str
    candidates: Mapping[str, Factory]
    baseline: str
    goal: float | None = None
    ours: str = OURS

    def __post_init__(self) -> None:
        if self.baseline not in self.candidates:
            raise ValueError(f"row {self.id!r}: baseline is {self.baseline!r}; it may be {_listed(self.candidates)}")
        if self.goal is not None and self.ours not in self.candidates:
            raise ValueError(f"row {self.id!r}: ours is {self.ours!r}; it may be {_listed(self.candidates)}")
        if self.goal is not None and not self.goal > 0:
            raise ValueError(f"row {self.id!r}: goal is {self.goal!r}; it may be None or a ratio above 0")

    def joined_by(self, peers: Mapping[str, Factory]) -> Row:
        """Returns the same row with more candidates behind its own.

        Raises:
            ValueError: a label is taken.
        """
        return replace(self, candidates=_joined(self.id, self.candidates, peers))


@dataclass(frozen=True, slots=True)
class Finding:
    """Is a value with a word of explanation beside it."""

    value: float
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Is one property that is no ratio of speeds: bytes kept, an error in per cent, what a tool says of a known truth.

    Attributes:
        id: names the figure in JSON; unique in its room.
        title: names the figure for people.
        unit: what the values count: "bytes", "%", "ms", "calls", ...
        candidates: label to the function that finds the value out.
        goal: the largest value of ours that was promised; `None` when nothing was.
        truth: what a faultless tool would say; `None` where that question makes no sense.
        ours: the label that the goal is about.

    Raises:
        ValueError: there is a goal and no candidate of ours.
    """

    id: str
    title: str
    unit: str
    candidates: Mapping[str, Callable[[], float | Finding]]
    goal: float | None = None
    truth: float | None = None
    ours: str = OURS

    def __post_init__(self) -> None:
        if self.goal is not None and self.ours not in self.candidates:
            raise ValueError(f"figure {self.id!r}: ours is {self.ours!r}; it may be {_listed(self.candidates)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Is what is measured of one room.

    Attributes:
        name: the room's noun.
        rows: its hot capabilities.
        figures: its properties that are no ratios.

    Raises:
        ValueError: two rows or figures have one id.
    """

    name: str
    rows: Sequence[Row]
    figures: Sequence[Figure] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise ValueError(f"room {self.name!r}: two rows are called {item.id!r}")
            seen.add(item.id)

    @property
    def items(self) -> list[Row | Figure]:
        """The rows, then the figures."""
        return [*self.rows, *self.figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Is how long and how often a candidate runs.

    Attributes:
        rounds: how many runs each candidate gets; at least 1.
        run_ms: how long one run takes, about, in milliseconds; above 0.
        quick: whether the figures may be found out with less work.

    Raises:
        ValueError: a number is out of range.
    """

    rounds: int = 60
    run_ms: float = 3.0
    quick: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds!r}; it may be 1 or more")
        if not 0 < self.run_ms < math.inf:
            raise ValueError(f"run_ms is {self.run_ms!r}; it may be a number of milliseconds above 0")


QUICK: Final = Settings(rounds=7, run_ms=2.0, quick=True)


class Progress(Protocol):
    """Is told how far the measuring has come."""

    def begin(self, title: str) -> None:
        """Notes that the row or figure of this title comes next."""

    def step(self) -> None:
        """Notes that one more round is done."""


class Silent:
    """Takes note of nothing."""

    def begin(self, title: str) -> None:
        """Does nothing."""

    def step(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def require(module: str, package: str | None = None) -> Any:
    """Imports a peer's module for a factory.

    Args:
        module: the dotted name to import.
        package: the name that pip knows; `None` means the first part of `module`.

    Raises:
        UnavailableError: it is not installed, or what is installed can't be imported here.
    """
    package = package or module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise UnavailableError(f"{package} is not installed") from error
        raise UnavailableError(f"{package} is installed, but can't be imported: {error}") from error
    except ImportError as error:
        raise UnavailableError(f"{package} is installed, but can't be imported: {error}") from error


def own_code(function: F) -> F:
    """Returns a copy of a function with a code object to itself.

    The interpreter remembers in the code object what each call site met, and makes it fast for that. Two candidates
    that went through one loop's code would take this away from each other at every turn.
    """
    if not isinstance(function, types.FunctionType):
        return function
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    return copy  # type: ignore[return-value]


def in_loop(body: Callable[[int], Coroutine[Any, Any, object]]) -> Prepared:
    """Makes a run out of a coroutine function that performs so many operations.

    One event loop serves all its runs. The clock is read inside the loop, so that neither making the loop nor entering
    it is counted.
    """
    body = own_code(body)
    loop = asyncio.new_event_loop()

    async def counted(n: int) -> int:
        start = time.perf_counter_ns()
        await body(n)
        return time.perf_counter_ns() - start

    def close() -> None:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    return Prepared(run=lambda n: loop.run_until_complete(counted(n)), close=close)


def positional(function: Callable[[int], object]) -> Run:
    """Makes a run of calls with one positional argument."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            function(1)

    return run


def keyword(function: Callable[..., object]) -> Run:
    """Makes a run of calls with one keyword argument, `x`."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            function(x=1)

    return run


def method(decorated: Any) -> Run:
    """Makes a run of calls of a method with one positional argument; `decorated` becomes the class's attribute."""
    owner: Any = type("Owner", (), {"method": decorated})()

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            owner.method(1)

    return run


def raising(function: Callable[[int], object]) -> Run:
    """Makes a run of calls that raise `ValueError`, which is caught around each."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            # contextlib.suppress would be measured along with the call
            try:  # noqa: SIM105
                function(1)
            except ValueError:
                pass

    return run


def awaiting(function: Callable[[int], Awaitable[object]]) -> Prepared:
    """Makes a run that awaits a coroutine function's call each time."""

    async def body(n: int) -> None:
        for _ in itertools.repeat(None, n):
            await function(1)

    return in_loop(body)


def exhausting(function: Callable[[int], Iterator[object]]) -> Run:
    """Makes a run that draws so many items from one call of a generator function, which is told how many."""

    def run(n: int) -> None:
        for _ in function(n):
            pass

    return run


def entering(block: contextlib.AbstractContextManager[object]) -> Run:
    """Makes a run that enters and leaves the same context manager each time."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            with block:
                pass

    return run


def making(maker: Callable[[str], contextlib.AbstractContextManager[object]]) -> Run:
    """Makes a run that makes a context manager by name, enters it and leaves it each time."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            with maker("block"):
                pass

    return run


def measure_room(
    room: Room,
    settings: Settings,
    *,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter_ns,
) -> RoomResult:
    """Measures every row and figure of a room, in their order.

    Args:
        room: what is measured.
        settings: how long and how often.
        progress: is told of each round; `None` means nobody is.
        clock: reads nanoseconds.
    """
    progress = progress or Silent()
    rows: list[RowResult] = []
    for row in room.rows:
        progress.begin(f"{room.name}: {row.title}")
        rows.append(measure_row(row, settings, progress=progress, clock=clock))
    figures: list[FigureResult] = []
    for figure in room.figures:
        progress.begin(f"{room.name}: {figure.title}")
        figures.append(find_out(figure))
        progress.step()
    return RoomResult(room=room.name, rows=rows, figures=figures)


def steps_of(room: Room, settings: Settings) -> int:
    """Counts the steps that `measure_room` reports to its progress."""
    return len(room.rows) * settings.rounds + len(room.figures)


def measure_row(
    row: Row,
    settings: Settings,
    *,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter_ns,
) -> RowResult:
    """Measures the candidates of one row in turns.

    A candidate that is not available, or that raises, keeps its place in the result with the reason; the others go on.
    """
    progress = progress or Silent()
    entrants = [_Entrant.enter(label, factory) for label, factory in row.candidates.items()]
    try:
        with _still_collector():
            for entrant in entrants:
                entrant.calibrate(settings.run_ms, clock)
            for turn in range(settings.rounds):
                # Each round starts with another candidate, so that none always follows the same one.
                first = turn % len(entrants)
                for entrant in entrants[first:] + entrants[:first]:
                    entrant.take_turn(clock)
                progress.step()
    finally:
        for entrant in entrants:
            entrant.close()
    return _judge(row, entrants)


def find_out(figure: Figure) -> FigureResult:
    """Finds out the values of one figure; a candidate that is not available, or that raises, is listed with why."""
    values: list[FigureValue] = []
    for label, find in figure.candidates.items():
        try:
            found = find()
        except UnavailableError as error:
            values.append(FigureValue(label=label, status="unavailable", reason=str(error)))
        except Exception as error:  # noqa: BLE001  # whatever a peer raises is its result
            values.append(FigureValue(label=label, status="failed", reason=_told(error)))
        else:
            finding = found if isinstance(found, Finding) else Finding(found)
            values.append(FigureValue(label=label, status="measured", value=finding.value, detail=finding.detail))
    ours = next((each.value for each in values if each.label == figure.ours), None)
    return FigureResult(
        id=figure.id,
        title=figure.title,
        unit=figure.unit,
        ours=figure.ours,
        goal=figure.goal,
        truth=figure.truth,
        met=None if figure.goal is None or ours is None else ours <= figure.goal,
        candidates=values,
    )


@dataclass(slots=True)
class _Entrant:
    """Is a candidate at work: its run, how many operations make one, and what each took."""

    label: str
    candidate: Prepared | None
    status: Literal["measured", "unavailable", "failed"] = "measured"
    reason: str = ""
    number: int = 1
    samples: list[float] = field(default_factory=list[float])

    @classmethod
    def enter(cls, label: str, factory: Factory) -> _Entrant:
        try:
            made = factory()
        except UnavailableError as error:
            return cls(label, None, "unavailable", str(error))
        except Exception as error:  # noqa: BLE001  # whatever a peer raises is its result
            return cls(label, None, "failed", _told(error))
        if not isinstance(made, Prepared):
            made = Prepared(run=made)
        return cls(label, replace(made, run=own_code(made.run)))

    def calibrate(self, run_ms: float, clock: Clock) -> None:
        """Finds the number of operations that take about `run_ms`, and warms the candidate up."""
        target = run_ms * _NANOSECONDS_A_MILLISECOND
        # The first runs are cold, and any run may be disturbed: look again until the number stays.
        for _ in range(4):
            grown, again = self._grow(target, clock), self._elapsed(clock)
            if grown is None or again is None or self.number >= _MOST_OPERATIONS:
                return
            number = self.number * target / max(1, min(grown, again))
            before, self.number = self.number, min(_MOST_OPERATIONS, max(1, round(number)))
            if abs(self.number - before) <= before * _STEADY:
                return

    def _grow(self, target: float, clock: Clock) -> int | None:
        """Raises the number until a run takes half the target at least, and returns what it took."""
        while (elapsed := self._elapsed(clock)) is not None and elapsed < target / 2:
            if self.number >= _MOST_OPERATIONS:
                break
            growth = min(10.0, max(2.0, target / elapsed)) if elapsed else 10.0
            self.number = min(_MOST_OPERATIONS, math.ceil(self.number * growth))
        return elapsed

    def take_turn(self, clock: Clock) -> None:
        """Adds one run to the samples."""
        elapsed = self._elapsed(clock)
        if elapsed is not None:
            self.samples.append(elapsed / self.number)

    def _elapsed(self, clock: Clock) -> int | None:
        """Runs once and returns the nanoseconds; `None` when the candidate is out, or falls out now."""
        candidate = self.candidate
        if candidate is None or self.status != "measured":
            return None
        try:
            if candidate.prepare is not None:
                candidate.prepare()
            gc.collect()
            start = clock()
            counted = candidate.run(self.number)
            elapsed = clock() - start
        except Exception as error:  # noqa: BLE001  # whatever a peer raises is its result
            self.status, self.reason = "failed", _told(error)
            self.samples.clear()
            return None
        return elapsed if counted is None else counted

    def close(self) -> None:
        if self.candidate is None or self.candidate.close is None:
            return
        try:
            self.candidate.close()
        except Exception as error:  # noqa: BLE001  # a candidate that can't be closed is told of, too
            self.status, self.reason = "failed", _told(error)


@contextlib.contextmanager
def _still_collector() -> Generator[None]:
    """Keeps the collector from running of itself, and makes collecting by hand cheap: old objects are set aside."""
    enabled = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _judge(row: Row, entrants: Sequence[_Entrant]) -> RowResult:
    """Puts every candidate beside the baseline, and ours beside the goal."""
    baseline = next(entrant for entrant in entrants if entrant.label == row.baseline)
    candidates = [_result(entrant, baseline) for entrant in entrants]
    ratio = next((each.ratio for each in candidates if each.label == row.ours), None)
    return RowResult(
        id=row.id,
        title=row.title,
        baseline=row.baseline,
        ours=row.ours,
        goal=row.goal,
        met=None if row.goal is None or ratio is None else ratio <= row.goal,
        candidates=candidates,
    )


def _result(entrant: _Entrant, baseline: _Entrant) -> CandidateResult:
    if entrant.status != "measured":
        return CandidateResult(label=entrant.label, status=entrant.status, reason=entrant.reason)
    best = min(entrant.samples)
    result = CandidateResult(
        label=entrant.label,
        status="measured",
        operations=entrant.number,
        best=best,
        median=statistics.median(entrant.samples),
    )
    if baseline.status != "measured" or min(baseline.samples) <= 0:
        return result
    rounds = [mine / theirs for mine, theirs in zip(entrant.samples, baseline.samples, strict=True)]
    # The quartiles of a single round are that round.
    low, middle, high = statistics.quantiles(rounds * 2 if len(rounds) == 1 else rounds, n=4, method="inclusive")
    return replace(
        result,
        ratio=best / min(baseline.samples),
        ratio_median=middle,
        ratio_low=low,
        ratio_high=high,
    )


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _joined(where: str, own: Mapping[str, Factory], more: Mapping[str, Factory]) -> dict[str, Factory]:
    taken = own.keys() & more.keys()
    if taken:
        raise ValueError(f"row {where!r}: a candidate is already called {_listed(taken)}")
    return {**own, **more}


def _listed(labels: Iterator[str] | Mapping[str, object] | set[str]) -> str:
    return ", ".join(repr(label) for label in sorted(labels))

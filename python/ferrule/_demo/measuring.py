"""What both jobs measure, and what the measuring itself costs."""

from __future__ import annotations

import gc
from itertools import repeat
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

PARTS = {
    "find": ("find",),
    "read": ("read",),
    "parse": ("parse",),
    "examine": ("examine",),
    "store": ("store", "commit"),
    "report": ("report",),
}
"""The parts of the job in order, each with the names it is measured under.

Two more names are measured inside of parts: `lines`, the stream, in `read`, and `function` in `examine`.
"""

ROUNDS = 15
CALLS = 4_000


class Measured(NamedTuple):
    """What was measured under one name, in seconds."""

    times: int
    total: float
    mean: float
    longest: float


class Cost(NamedTuple):
    """What one kind of measuring costs: how often it was done, and the seconds that it adds each time, for both."""

    what: str
    times: int
    plain: float
    ferrule: float


def argument_back(argument: T) -> T:
    """Return the argument: a function with next to nothing in it, to be wrapped."""
    return argument


def nothings(count: int) -> Iterator[None]:
    """Yield `None`, `count` times: a generator with next to nothing in it, to be wrapped."""
    yield from repeat(None, count)


def added_to_a_call(plain: Callable[[None], None], ferrule: Callable[[None], None]) -> tuple[float, float]:
    """Measure what two wrappers around `argument_back` add to each call, in seconds."""

    def calls_of(function: Callable[[None], None]) -> Callable[[], None]:
        def calls() -> None:
            for argument in repeat(None, CALLS):
                function(argument)

        return calls

    return added(calls_of(argument_back), calls_of(plain), calls_of(ferrule))


def added_to_a_step(
    plain: Callable[[int], Iterator[None]], ferrule: Callable[[int], Iterator[None]]
) -> tuple[float, float]:
    """Measure what two wrappers around `nothings` add to each step of the generator, in seconds."""

    def steps_of(function: Callable[[int], Iterator[None]]) -> Callable[[], None]:
        def steps() -> None:
            for _ in function(CALLS):
                pass

        return steps

    return added(steps_of(nothings), steps_of(plain), steps_of(ferrule))


def added(bare: Callable[[], None], plain: Callable[[], None], ferrule: Callable[[], None]) -> tuple[float, float]:
    """Measure what `CALLS` wrapped steps take longer than bare ones, as the median of interleaved rounds.

    Args:
        bare: Makes `CALLS` bare steps.
        plain: Makes as many, with plain Python's wrapper around each.
        ferrule: Makes as many, with ferrule's wrapper around each.

    Returns:
        The seconds that each wrapper adds to a step. Never below 0: less than nothing is only noise.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        rounds = [(seconds(bare), seconds(plain), seconds(ferrule)) for _ in range(ROUNDS)]
    finally:
        if collecting:
            gc.enable()
    by_hand = median(wrapped - alone for alone, wrapped, _ in rounds)
    native = median(wrapped - alone for alone, _, wrapped in rounds)
    return max(0.0, by_hand) / CALLS, max(0.0, native) / CALLS


def seconds(function: Callable[[], None]) -> float:
    """Call a function and return how long it took."""
    start = perf_counter()
    function()
    return perf_counter() - start

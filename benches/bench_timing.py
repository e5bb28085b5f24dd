"""Timing beside its peers: what a timed call costs, what is kept for ever, and who tells the truth."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import random
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ferrule._compare.callable import work
from ferrule._compare.harness import (
    Figure,
    Finding,
    Prepared,
    Room,
    UnavailableError,
    keyword,
    making,
    positional,
    require,
)
from ferrule._compare.timing import (
    counting_shell,
    locked_counting_shell,
    timing_shell,
)
from ferrule._compare.timing import (
    room as compared,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ferrule._compare.harness import Factory, Run

Function = Callable[..., Any]
Keep = Callable[[float], object]
"""Keeps one duration, in seconds."""

NANOSECOND = 1e-9
KIB = 1024
# From a nanosecond to 146 years: what a tool may have to keep, in octaves of nanoseconds.
OCTAVES = 62
LONGEST = 2**OCTAVES
SLEEP = 0.05
DEPTH = 10
THREADS = 4


def room(*, quick: bool) -> Room:
    """Describes the rows and figures; with `quick` the figures are found out from fewer calls."""
    own = compared()
    peers: Mapping[str, Mapping[str, Factory]] = {
        "timed_positional": timed_peers(positional),
        "timed_keyword": timed_peers(keyword),
        "timer_made": {"codetiming": codetiming_block, "prometheus_client": prometheus_block},
        "count_calls_positional": {"prometheus_client Counter": lambda: positional(counted_by_prometheus(work))},
    }
    return replace(
        own,
        rows=[row.joined_by(peers.get(row.id, {})) for row in own.rows],
        figures=[
            memory_kept(20_000 if quick else 1_000_000),
            resident_memory(200 if quick else 1000),
            quantile_error(20_000 if quick else 200_000),
            sleeping_coroutine(),
            recursion(),
            lost_by_count_calls(5_000 if quick else 100_000),
            lost_by_timed(5_000 if quick else 100_000),
        ],
    )


# The peers, each a shell as its documentation shows it.


def timed_peers(call: Callable[[Function], Run]) -> dict[str, Factory]:
    """Makes the peers of `timed` ready for one kind of call."""
    return {
        "shell with logging off": lambda: call(logging_shell(work)),
        "codetiming": lambda: Prepared(run=call(timed_by_codetiming(work)), prepare=forget_codetiming),
        "prometheus_client": lambda: call(timed_by_prometheus(work)[0]),
        "opentelemetry": lambda: opentelemetry_run(call),
        "hdrhistogram shell": lambda: call(keeping_shell(work, hdrhistogram_keep()[0])),
        "ddsketch shell": lambda: call(keeping_shell(work, ddsketch_keep()[0])),
    }


def logging_shell(function: Function) -> Function:
    """Times a function by hand into a log that nobody reads."""
    log = logging.getLogger("benches.timing")
    log.setLevel(logging.WARNING)

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            log.debug("%s took %.6f s", function.__qualname__, perf_counter() - start)

    return shell


def keeping_shell(function: Function, keep: Keep) -> Function:
    """Times a function by hand into something that keeps durations."""

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            keep(perf_counter() - start)

    return shell


def timed_by_codetiming(function: Function) -> Function:
    timer: Function = require("codetiming").Timer(name="work", logger=None)
    decorated: Function = timer(function)
    return decorated


def forget_codetiming() -> None:
    """Empties what codetiming keeps; it keeps every sample of every timer."""
    require("codetiming").Timer.timers.clear()


def codetiming_block() -> Prepared:
    timer = require("codetiming").Timer
    return Prepared(run=making(lambda name: timer(name=name, logger=None)), prepare=forget_codetiming)


def prometheus_histogram() -> tuple[Any, Any]:
    """Returns a histogram with the default buckets, and its registry."""
    prometheus = require("prometheus_client", "prometheus-client")
    registry = prometheus.CollectorRegistry()
    return prometheus.Histogram("work_seconds", "seconds of work", registry=registry), registry


def timed_by_prometheus(function: Function) -> tuple[Function, Any]:
    histogram, registry = prometheus_histogram()
    return histogram.time()(function), registry


def prometheus_block() -> Run:
    histogram, _ = prometheus_histogram()
    return making(lambda _: histogram.time())


def counted_by_prometheus(function: Function) -> Function:
    prometheus = require("prometheus_client", "prometheus-client")
    counter = prometheus.Counter("work_calls", "calls of work", registry=prometheus.CollectorRegistry())

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        counter.inc()
        return function(*args, **kwargs)

    return shell


def opentelemetry_histogram() -> tuple[Any, Any]:
    """Returns a histogram that is read on demand, and its provider, which has to be shut down."""
    metrics = require("opentelemetry.sdk.metrics", "opentelemetry-sdk")
    export = require("opentelemetry.sdk.metrics.export", "opentelemetry-sdk")
    provider = metrics.MeterProvider(metric_readers=[export.InMemoryMetricReader()])
    return provider.get_meter("benches").create_histogram("work", unit="s"), provider


def opentelemetry_run(call: Callable[[Function], Run]) -> Prepared:
    histogram, provider = opentelemetry_histogram()
    attributes = {"function": work.__qualname__}
    return Prepared(
        run=call(keeping_shell(work, lambda seconds: histogram.record(seconds, attributes))), close=provider.shutdown
    )


def hdrhistogram_keep() -> tuple[Keep, Any]:
    """Returns what keeps durations in a histogram of three figures, and the histogram."""
    histogram = require("hdrh.histogram", "hdrhistogram").HdrHistogram(1, LONGEST, 3)
    return lambda seconds: histogram.record_value(max(1, round(seconds / NANOSECOND))), histogram


def ddsketch_keep() -> tuple[Keep, Any]:
    """Returns what keeps durations in a sketch of 1 %, and the sketch."""
    sketch = require("ddsketch").DDSketch(0.01)
    return sketch.add, sketch


# What is kept for ever.


def durations(count: int) -> Iterator[float]:
    """Draws durations spread evenly over all octaves, in seconds."""
    dice = random.Random(count)
    for _ in range(count):
        yield 2.0 ** dice.uniform(0, OCTAVES) * NANOSECOND


def memory_kept(count: int) -> Figure:
    return Figure(
        id="memory",
        title=f"memory kept of one function after {count:,} calls, from 1 ns to 146 years",
        unit="bytes",
        goal=24 * KIB,
        candidates={
            "ferrule": partial(recorder_size, count),
            "codetiming": partial(traced, codetiming_keep, count),
            "prometheus_client": partial(traced, lambda: prometheus_histogram()[0].observe, count),
            "opentelemetry": partial(traced_opentelemetry, count),
            "hdrhistogram": partial(traced, lambda: hdrhistogram_keep()[0], count),
            "ddsketch": partial(traced, lambda: ddsketch_keep()[0], count),
        },
    )


def recorder_size(count: int) -> Finding:
    """Asks the native recorder for its size; the allocator's own view of it is the next figure."""
    from ferrule._core import Recorder

    recorder = Recorder()
    empty = sys.getsizeof(recorder)
    for seconds in durations(count):
        recorder.record(seconds)
    return Finding(sys.getsizeof(recorder), f"{empty:,} bytes when new")


def codetiming_keep() -> Keep:
    timers = require("codetiming").Timer.timers.__class__()
    return lambda seconds: timers.add("work", seconds)


def traced(make: Callable[[], Keep], count: int) -> float:
    """Returns the bytes that Python's allocators have given out, net, to make a tool and keep the durations in it."""
    make()  # whatever is allocated at first use only is not the tool's for each function
    tracemalloc.start()
    try:
        keep = make()
        for seconds in durations(count):
            keep(seconds)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def traced_opentelemetry(count: int) -> float:
    histogram, provider = opentelemetry_histogram()
    try:
        attributes = {"function": "work"}
        # One measurement for another function: the histogram itself serves all of them.
        histogram.record(1.0, {"function": "other"})
        return traced(lambda: lambda seconds: histogram.record(seconds, attributes), count)
    finally:
        provider.shutdown()


RESIDENT = """
import sys
from ferrule._core import Recorder
from benches.bench_timing import NANOSECOND, OCTAVES, resident

recorders = int(sys.argv[1])
spread = [1.5 * 2**octave * NANOSECOND for octave in range(OCTAVES)]
kept = []
before = resident()
for _ in range(recorders):
    recorder = Recorder()
    for seconds in spread:
        recorder.record(seconds)
    kept.append(recorder)
print((resident() - before) / recorders)
"""


def resident_memory(recorders: int) -> Figure:
    """Describes the check on what the recorder says of itself: what the operating system says."""
    return Figure(
        id="memory_resident",
        title=f"resident memory that one function adds, a call in each octave, average of {recorders}",
        unit="bytes",
        candidates={"ferrule": partial(grown, recorders)},
    )


def grown(recorders: int) -> float:
    """Fills recorders in an interpreter of its own and returns how much each added to its memory."""
    if not Path("/proc/self/statm").exists():
        raise UnavailableError("this system has no /proc/self/statm")
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(recorders)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parent.parent,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout)


def resident() -> int:
    """Returns the bytes of memory that this process has."""
    import resource

    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


# How far quantiles are off.

QUANTILES = (0.5, 0.9, 0.99, 0.999)
DISTRIBUTIONS: Mapping[str, Callable[[random.Random], float]] = {
    "uniform": lambda dice: dice.uniform(1e-6, 1e-3),
    "exponential": lambda dice: dice.expovariate(1e4),
    "lognormal": lambda dice: dice.lognormvariate(math.log(1e-4), 1.5),
    "heavy-tailed": lambda dice: 1e-6 * dice.paretovariate(1.2),
    "two-humped": lambda dice: abs(dice.gauss(2e-7, 2e-8) if dice.random() < 0.7 else dice.gauss(3e-3, 1e-4)),
    "constant": lambda _: 1.2345e-5,
    "log-uniform": lambda dice: 10 ** dice.uniform(-7, 2),
}

Ask = Callable[[float], float]
"""Returns the duration at a quantile."""


def quantile_error(count: int) -> Figure:
    return Figure(
        id="quantiles",
        title=f"largest error of p50, p90, p99 and p99.9, {len(DISTRIBUTIONS)} distributions of {count:,}",
        unit="%",
        goal=1.0,
        candidates={
            "ferrule": partial(worst_error, recorder_quantiles, count),
            "hdrhistogram": partial(worst_error, hdrhistogram_quantiles, count),
            "ddsketch": partial(worst_error, ddsketch_quantiles, count),
        },
    )


def recorder_quantiles() -> tuple[Keep, Ask]:
    from ferrule._core import Recorder

    recorder = Recorder()

    def ask(quantile: float) -> float:
        stats = recorder.stats()
        return {0.5: stats.p50, 0.9: stats.p90, 0.99: stats.p99, 0.999: stats.p999}[quantile]

    return recorder.record, ask


def hdrhistogram_quantiles() -> tuple[Keep, Ask]:
    keep, histogram = hdrhistogram_keep()
    return keep, lambda quantile: histogram.get_value_at_percentile(quantile * 100) * NANOSECOND


def ddsketch_quantiles() -> tuple[Keep, Ask]:
    keep, sketch = ddsketch_keep()
    return keep, sketch.get_quantile_value


def worst_error(make: Callable[[], tuple[Keep, Ask]], count: int) -> Finding:
    """Compares every quantile of every distribution with the exact one: the value of the nearest rank above."""
    worst, where = 0.0, ""
    for name, draw in DISTRIBUTIONS.items():
        dice = random.Random(name)
        # Whole nanoseconds: the clock has no finer ones, and none of the tools is to be blamed for that.
        drawn = [max(1, round(draw(dice) / NANOSECOND)) * NANOSECOND for _ in range(count)]
        keep, ask = make()
        for seconds in drawn:
            keep(seconds)
        drawn.sort()
        for quantile in QUANTILES:
            exact = drawn[math.ceil(quantile * count) - 1]
            error = abs(ask(quantile) / exact - 1) * 100
            if error > worst:
                worst, where = error, f"p{quantile * 100:g} of {name}"
    return Finding(worst, where)


# Who tells the truth.


def sleeping_coroutine() -> Figure:
    return Figure(
        id="coroutine_truth",
        title="what is said of a coroutine that slept",
        unit="ms",
        truth=SLEEP * 1000,
        candidates={
            "ferrule": lambda: said(by_ferrule()),
            "hand-written shell": lambda: said(by_hand()),
            "codetiming": lambda: said(by_codetiming()),
            "prometheus_client": lambda: said(by_prometheus()),
        },
    )


Told = tuple[Function, Callable[[], float]]
"""A decorated coroutine function, and what asks for the seconds that were recorded for it."""


async def sleeper() -> None:
    await asyncio.sleep(SLEEP)


def said(told: Told) -> float:
    """Runs the coroutine and returns the milliseconds that are said of it."""
    function, ask = told
    asyncio.run(function())
    return ask() * 1000


def by_ferrule() -> Told:
    from ferrule import PerformanceMonitor, timed

    decorated = timed(name="sleeper", monitor=PerformanceMonitor())(sleeper)
    return decorated, lambda: decorated.timing_stats().total


def by_hand() -> Told:
    decorated: Any = timing_shell(sleeper)
    return decorated, lambda: decorated.record.total


def by_codetiming() -> Told:
    forget_codetiming()
    return timed_by_codetiming(sleeper), lambda: require("codetiming").Timer.timers.total("work")


def by_prometheus() -> Told:
    decorated, registry = timed_by_prometheus(sleeper)
    return decorated, lambda: registry.get_sample_value("work_seconds_sum")


def recursion() -> Figure:
    return Figure(
        id="recursion",
        title=f"calls counted of a timed function that calls itself {DEPTH - 1} times",
        unit="calls",
        truth=DEPTH,
        candidates={
            "ferrule": lambda: nested(counted_by_timed),
            "hand-written shell": lambda: nested(counted_by_shell),
            "codetiming": lambda: nested(counted_by_codetiming),
            "prometheus_client": lambda: nested(counted_by_histogram),
        },
    )


Counted = tuple[Function, Callable[[], float]]
"""A decorated function, and what asks how many calls were recorded."""


def nested(decorate: Callable[[Function], Counted]) -> float:
    function: Function

    def descend(depth: int) -> object:
        return depth if depth == 1 else function(depth - 1)

    function, ask = decorate(descend)
    function(DEPTH)
    return ask()


def counted_by_timed(function: Function) -> Counted:
    from ferrule import PerformanceMonitor, timed

    decorated = timed(name="work", monitor=PerformanceMonitor())(function)
    return decorated, lambda: decorated.timing_stats().count


def counted_by_shell(function: Function) -> Counted:
    decorated: Any = timing_shell(function)
    return decorated, lambda: decorated.record.count


def counted_by_codetiming(function: Function) -> Counted:
    forget_codetiming()
    return timed_by_codetiming(function), lambda: require("codetiming").Timer.timers.count("work")


def counted_by_histogram(function: Function) -> Counted:
    decorated, registry = timed_by_prometheus(function)
    return decorated, lambda: registry.get_sample_value("work_seconds_count")


def counted_by_count_calls(function: Function) -> Counted:
    from ferrule import count_calls

    decorated = count_calls(function)
    return decorated, lambda: decorated.call_count


def counted_by_attribute(shell: Callable[[Function], Function], function: Function) -> Counted:
    decorated: Any = shell(function)
    return decorated, lambda: decorated.call_count


def lost_by_count_calls(count: int) -> Figure:
    return Figure(
        id="count_calls_lost",
        title=f"calls not counted of {THREADS} times {count:,} from {THREADS} threads",
        unit="calls",
        goal=0,
        truth=0,
        candidates={
            "ferrule": partial(lost, counted_by_count_calls, count),
            "hand-written shell": partial(lost, partial(counted_by_attribute, counting_shell), count),
            "shell with a lock": partial(lost, partial(counted_by_attribute, locked_counting_shell), count),
        },
    )


def lost_by_timed(count: int) -> Figure:
    return Figure(
        id="timed_lost",
        title=f"calls not timed of {THREADS} times {count:,} from {THREADS} threads",
        unit="calls",
        goal=0,
        truth=0,
        candidates={
            "ferrule": partial(lost, counted_by_timed, count),
            "hand-written shell": partial(lost, counted_by_shell, count),
            "codetiming": partial(lost, counted_by_codetiming, count),
            "prometheus_client": partial(lost, counted_by_histogram, count),
        },
    )


def lost(decorate: Callable[[Function], Counted], count: int) -> float:
    """Calls from several threads at once and returns how many calls were not recorded; raises what a thread raised."""
    function, ask = decorate(work)
    together = threading.Barrier(THREADS)
    errors: list[Exception] = []

    def call() -> None:
        together.wait()
        try:
            for x in range(count):
                function(x)
        except Exception as error:  # noqa: BLE001  # raised again below
            errors.append(error)

    interval = sys.getswitchinterval()
    # As short as it goes: the threads change places as often as the interpreter lets them.
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=call) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
    return THREADS * count - ask()

"""Scheduling beside its peers: what a task costs and weighs, how long a round trip takes, what threads are worth."""

from __future__ import annotations

import concurrent.futures
import itertools
import statistics
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from benches import processes
from ferrule._compare.harness import Figure, Prepared, Room, UnavailableError
from ferrule._compare.scheduling import WORKERS, ours, theirs
from ferrule._compare.scheduling import room as compared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ferrule._compare.harness import Factory
    from ferrule.scheduling import Strategy


def room(*, quick: bool) -> Room:
    """Describes the rows and figures; with `quick` the figures are found out in less time."""
    own = compared()
    peers: Mapping[str, Mapping[str, Factory]] = {
        "submit": {"multiprocessing ThreadPool": pool_submitting},
        "map": {"multiprocessing ThreadPool": pool_mapping, "ThreadPool, by 250": lambda: pool_mapping(250)},
        "round_trip": {"multiprocessing ThreadPool": pool_round_trips},
    }
    trips = 2_000 if quick else 20_000
    return replace(
        own,
        rows=[*(row.joined_by(peers.get(row.id, {})) for row in own.rows), *processes.rows()],
        figures=[
            round_trip(trips, 0.5, "p50"),
            round_trip(trips, 0.99, "p99"),
            tail(trips),
            memory(),
            speed_up(),
            interrupted(),
            *processes.figures(quick=quick),
        ],
    )


def thread_pool() -> Any:
    from multiprocessing.pool import ThreadPool

    return ThreadPool(WORKERS)


def pool_submitting() -> Prepared:
    pool = thread_pool()

    def run(n: int) -> None:
        for result in [pool.apply_async(pow, (2, 3)) for _ in itertools.repeat(None, n)]:
            result.get()

    return Prepared(run=run, close=pool.terminate)


def pool_mapping(chunk: int = 1) -> Prepared:
    pool = thread_pool()
    return Prepared(run=lambda n: pool.map(abs, range(n), chunk) and None, close=pool.terminate)


def pool_round_trips() -> Prepared:
    pool = thread_pool()

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            pool.apply(pow, (2, 3))

    return Prepared(run=run, close=pool.terminate)


def trips_of(executor: concurrent.futures.Executor, count: int) -> list[int]:
    """How many nanoseconds each of so many round trips takes, in order of size."""
    with executor:
        submit, clock = executor.submit, time.perf_counter_ns
        for _ in range(500):
            submit(pow, 2, 3).result()
        taken = []
        for _ in range(count):
            start = clock()
            submit(pow, 2, 3).result()
            taken.append(clock() - start)
    return sorted(taken)


def round_trip(count: int, part: float, name: str) -> Figure:
    def find(make: Callable[[], concurrent.futures.Executor]) -> float:
        return min(trips_of(make(), count)[int(count * part)] for _ in range(3)) / 1000

    return Figure(
        id=f"round_trip_{name}",
        title=f"a round trip, {name}",
        unit="µs",
        candidates={"ferrule": lambda: find(ours), "ThreadPoolExecutor": lambda: find(theirs)},
    )


def tail(count: int) -> Figure:
    def find(make: Callable[[], concurrent.futures.Executor]) -> float:
        trips = [trips_of(make(), count) for _ in range(3)]
        return min(each[int(count * 0.99)] / each[count // 2] for each in trips)

    return Figure(
        id="tail",
        title="p99 of a round trip, by its p50",
        unit="times",
        goal=2,
        candidates={"ferrule": lambda: find(ours), "ThreadPoolExecutor": lambda: find(theirs)},
    )


WEIGHING = """
import gc, sys, threading
if sys.argv[1] == "ferrule":
    from ferrule import ThreadPoolExecutor
else:
    from concurrent.futures import ThreadPoolExecutor

def resident():
    gc.collect()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024

release, count = threading.Event(), 1_000_000
executor = ThreadPoolExecutor(1)
executor.submit(release.wait)
futures = [None] * count
before = resident()
for number in range(count):
    futures[number] = executor.submit(pow, 2, 3)
print((resident() - before) / count)
executor.shutdown(wait=False, cancel_futures=True)
release.set()
"""


def memory() -> Figure:
    def find(whose: str) -> float:
        command = [sys.executable, "-c", WEIGHING, whose]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    return Figure(
        id="memory",
        title="a queued task with its future and its arguments, average of 1,000,000",
        unit="bytes",
        goal=400,
        candidates={"ferrule": lambda: find("ferrule"), "ThreadPoolExecutor": lambda: find("theirs")},
    )


def work() -> int:
    return sum(range(20_000))


def needs_free_threads() -> None:
    if not sysconfig.get_config_var("Py_GIL_DISABLED") or sys._is_gil_enabled():  # type: ignore[attr-defined]  # noqa: SLF001
        raise UnavailableError("needs a free-threaded interpreter")


def scheduled_speed_up() -> float:
    needs_free_threads()
    from ferrule import TaskScheduler

    scheduler = TaskScheduler(max_workers=2)
    for number in range(400):
        scheduler.add_task(str(number), work)
    taken: dict[str, list[float]] = {"sequential": [], "threads": []}
    for _ in range(5):
        for strategy, times in taken.items():
            start = time.perf_counter()
            scheduler.run(cast("Strategy", strategy)).raise_errors()
            times.append(time.perf_counter() - start)
    return min(taken["sequential"]) / min(taken["threads"])


def speed_up() -> Figure:
    def find(make: Callable[[int], concurrent.futures.Executor]) -> float:
        needs_free_threads()
        taken: dict[int, float] = {}
        for workers in (1, 2):
            with make(workers) as executor:
                times = []
                for _ in range(5):
                    start = time.perf_counter()
                    concurrent.futures.wait([executor.submit(work) for _ in range(400)])
                    times.append(time.perf_counter() - start)
                taken[workers] = min(times)
        return taken[1] / taken[2]

    def mine(workers: int) -> concurrent.futures.Executor:
        from ferrule import ThreadPoolExecutor

        return ThreadPoolExecutor(workers)

    return Figure(
        id="speed_up",
        title="what a second thread is worth without the interpreter lock",
        unit="times",
        candidates={
            "ferrule": lambda: find(mine),
            "ThreadPoolExecutor": lambda: find(concurrent.futures.ThreadPoolExecutor),
            "ferrule, TaskScheduler on 2 threads against sequential": scheduled_speed_up,
        },
    )


INTERRUPTED = """
import os, signal, threading, time
from ferrule import ThreadPoolExecutor
# What is started in the background is given Ctrl-C as a signal to ignore.
signal.signal(signal.SIGINT, signal.default_int_handler)
began = [0.0]
def interrupt():
    time.sleep(0.1)
    began[0] = time.perf_counter()
    os.kill(os.getpid(), signal.SIGINT)
try:
    with ThreadPoolExecutor(4) as executor:
        futures = [executor.submit(time.sleep, 600) for _ in range(100)]
        threading.Thread(target=interrupt).start()
        futures[0].result()
except KeyboardInterrupt:
    print((time.perf_counter() - began[0]) * 1000)
"""


def interrupted() -> Figure:
    def find() -> float:
        taken = []
        for _ in range(5):
            run = subprocess.run(
                [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True, timeout=60
            )
            taken.append(float(run.stdout))
        return statistics.median(taken)

    return Figure(
        id="interrupted",
        title="Ctrl-C to KeyboardInterrupt out of a with block whose workers sleep",
        unit="ms",
        goal=100,
        candidates={"ferrule": find},
    )

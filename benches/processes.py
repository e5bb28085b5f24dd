"""Scheduling's rows and figures that need processes of their own."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Figure, Prepared, Row, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 4
POOL = "multiprocessing.Pool"
CHUNKS = "multiprocessing.Pool, by 250"
STDLIB = "ProcessPoolExecutor"

# A number of bytes, to doubles.
MEGABYTE = 1 << 17


def rows() -> list[Row]:
    """Describes the rows."""
    return [
        Row(
            id="processes_submit",
            title="processes: submit many, then take their results: a task",
            baseline=POOL,
            goal=0.5,
            candidates={
                POOL: pool_submitting,
                "ferrule": lambda: submitting(ours()),
                STDLIB: lambda: submitting(theirs()),
                "loky": lambda: submitting(loky()),
                "pebble": lambda: submitting(pebble(), "schedule"),
                "mpire": mpire_submitting,
            },
        ),
        Row(
            id="processes_map",
            title="processes: map, by chunks of its own choice against chunks of 250: a call",
            baseline=CHUNKS,
            goal=1.0,
            candidates={
                CHUNKS: lambda: pool_mapping(250),
                "ferrule": lambda: mapping(ours()),
                f"{STDLIB}, by 250": lambda: mapping(theirs(), chunksize=250),
                "loky, by 250": lambda: mapping(loky(), chunksize=250),
                "mpire": mpire_mapping,
            },
        ),
    ]


def figures(*, quick: bool) -> list[Figure]:
    """Describes the figures; with `quick` they are found out in less time."""
    trips = 2_000 if quick else 10_000
    everybody: dict[str, Callable[[], Any]] = {"ferrule": ours, STDLIB: theirs, "loky": loky}
    return [
        *(
            Figure(
                id=f"processes_{name}",
                title=f"processes: a round trip, {name}",
                unit="µs",
                goal=goal,
                candidates={label: partial(round_trip, make, trips, part) for label, make in everybody.items()},
            )
            for name, part, goal in [("p50", 0.5, 60), ("p99", 0.99, 500)]
        ),
        *(
            Figure(
                id=f"processes_numpy_{size}",
                title=f"processes: {size} MB of numpy there and back, median",
                unit="ms",
                goal=goal,
                candidates={label: partial(array_trip, make, size) for label, make in everybody.items()},
            )
            for size, goal in [(1, 1.5), (8, 8)]
        ),
        Figure(
            id="processes_recovery",
            title="processes: from a worker killed to the next result, the largest of 20",
            unit="ms",
            goal=200,
            candidates={"ferrule": recovery},
        ),
        Figure(
            id="processes_deadline",
            title="processes: how late a loop in C is killed, the largest of 10",
            unit="ms",
            goal=100,
            candidates={"ferrule": lateness},
        ),
        Figure(
            id="processes_interrupted",
            title="processes: Ctrl-C to KeyboardInterrupt out of a with block whose workers are busy",
            unit="ms",
            goal=100,
            candidates={"ferrule": interrupted},
        ),
        Figure(
            id="processes_orphans",
            title="processes: from kill -9 of the parent until no worker is left, the largest of 5",
            unit="ms",
            goal=1000,
            candidates={"ferrule": orphaned},
        ),
    ]


def ours() -> Any:
    """Makes ours."""
    from ferrule import ProcessPoolExecutor

    return ProcessPoolExecutor(WORKERS)


def theirs() -> Any:
    """Makes the standard library's, by the start method that ours has."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    return concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=context)


def pool() -> Any:
    """Makes multiprocessing's."""
    import multiprocessing

    return multiprocessing.get_context("forkserver").Pool(WORKERS)


def loky() -> Any:
    """Makes loky's."""
    try:
        from loky import ProcessPoolExecutor  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise UnavailableError("loky is not installed") from None
    return ProcessPoolExecutor(WORKERS)


def pebble() -> Any:
    """Makes pebble's."""
    import multiprocessing

    try:
        from pebble import ProcessPool  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise UnavailableError("pebble is not installed") from None
    return ProcessPool(WORKERS, context=multiprocessing.get_context("forkserver"))


def mpire() -> Any:
    """Makes mpire's."""
    try:
        from mpire import WorkerPool  # type: ignore[import-untyped, import-not-found, attr-defined, unused-ignore]
    except ImportError:
        raise UnavailableError("mpire is not installed") from None
    return WorkerPool(WORKERS, start_method="forkserver", keep_alive=True)


def warmed(run: Callable[[int], None], close: Callable[[], object], count: int = 500) -> Prepared:
    """Has a pool start its processes before anything is measured: that takes longer than whole runs."""
    for _ in range(3):
        run(count)
    return Prepared(run=run, close=close)


def submitting(executor: Any, name: str = "submit") -> Prepared:
    """Submits all, then takes all results."""
    if name == "schedule":

        def submit(*args: Any) -> Any:
            return executor.schedule(args[0], args[1:])

        def close() -> None:
            executor.stop()
            executor.join()
    else:
        submit = executor.submit
        close = executor.shutdown

    def run(n: int) -> None:
        for future in [submit(pow, 2, 3) for _ in itertools.repeat(None, n)]:
            future.result()

    return warmed(run, close)


def pool_submitting() -> Prepared:
    """Submits all to multiprocessing's, then takes all results."""
    made = pool()

    def run(n: int) -> None:
        for result in [made.apply_async(pow, (2, 3)) for _ in itertools.repeat(None, n)]:
            result.get()

    return warmed(run, made.terminate)


def mpire_submitting() -> Prepared:
    """Submits all to mpire's, then takes all results."""
    made = mpire()

    def run(n: int) -> None:
        for result in [made.apply_async(pow, (2, 3)) for _ in itertools.repeat(None, n)]:
            result.get()

    return warmed(run, made.terminate)


def mapping(executor: Any, **options: Any) -> Prepared:
    """Maps over numbers, and takes all results."""

    def run(n: int) -> None:
        for _ in executor.map(abs, range(n), **options):
            pass

    return warmed(run, executor.shutdown)


def pool_mapping(chunk: int) -> Prepared:
    """Maps over numbers, in chunks."""
    made = pool()
    return warmed(lambda n: made.map(abs, range(n), chunk) and None, made.terminate)


def mpire_mapping() -> Prepared:
    """Maps over numbers."""
    made = mpire()
    return warmed(lambda n: made.map(abs, range(n)) and None, made.terminate)


def round_trip(make: Callable[[], Any], count: int, part: float) -> float:
    """Finds how many microseconds a round trip takes; the best of three runs."""
    executor = make()
    submit, clock = executor.submit, time.perf_counter_ns
    found = []
    with executor:
        for _ in range(3):
            taken = []
            for _ in range(200):
                submit(pow, 2, 3).result()
            for _ in range(count // 3):
                start = clock()
                submit(pow, 2, 3).result()
                taken.append(clock() - start)
            found.append(sorted(taken)[int(len(taken) * part)])
    return min(found) / 1000


def same(array: Any) -> Any:
    """Returns what came, written to once on each page."""
    array[::512] += 1
    return array


def array_trip(make: Callable[[], Any], size: int) -> float:
    """Finds how many milliseconds so many megabytes take, there and back."""
    try:
        import numpy as np
    except ImportError:
        raise UnavailableError("numpy is not installed") from None
    array = np.zeros(size * MEGABYTE)
    executor = make()
    taken = []
    with executor:
        for _ in range(30):
            start = time.perf_counter()
            executor.submit(same, array).result()
            taken.append(time.perf_counter() - start)
    return statistics.median(taken[5:]) * 1000


def die() -> None:
    """Ends the process that calls it."""
    os.kill(os.getpid(), signal.SIGKILL)


def recovery() -> float:
    """Finds how long it takes until the next result comes after the only worker was killed."""
    from ferrule import ProcessPoolExecutor

    taken = []
    with ProcessPoolExecutor(1) as executor:
        executor.submit(pow, 2, 3).result()
        for _ in range(20):
            start = time.perf_counter()
            executor.submit(die).exception()
            executor.submit(pow, 2, 3).result()
            taken.append(time.perf_counter() - start)
    return max(taken) * 1000


def endless() -> int:
    """Counts, in C, for longer than anybody waits."""
    return sum(range(10**15))


def lateness() -> float:
    """Finds how long after its deadline a task's future ends."""
    taken = []
    with ours() as executor:
        executor.submit(pow, 2, 3).result()
        for _ in range(10):
            start = time.perf_counter()
            executor.options(timeout=0.1).submit(endless).exception()
            taken.append(time.perf_counter() - start - 0.1)
            executor.submit(pow, 2, 3).result()
    return max(taken) * 1000


INTERRUPTED = """
import os, signal, threading, time
from ferrule import ProcessPoolExecutor
began = [0.0]
def interrupt():
    time.sleep(0.1)
    began[0] = time.perf_counter()
    os.kill(os.getpid(), signal.SIGINT)
try:
    with ProcessPoolExecutor(2) as executor:
        futures = [executor.submit(time.sleep, 600) for _ in range(100)]
        while not futures[0].running():
            time.sleep(0.01)
        threading.Thread(target=interrupt).start()
        futures[0].result()
except KeyboardInterrupt:
    print((time.perf_counter() - began[0]) * 1000)
"""


def interrupted() -> float:
    """Finds how long it takes from the signal to the exception."""
    taken = []
    for _ in range(5):
        run = subprocess.run(
            [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True, timeout=60
        )
        taken.append(float(run.stdout))
    return statistics.median(taken)


ORPHANS = """
import time
from ferrule import ProcessPoolExecutor
executor = ProcessPoolExecutor(2)
futures = [executor.submit(time.sleep, 600) for _ in range(2)]
while not all(future.running() for future in futures):
    time.sleep(0.01)
print(*executor.pids(), flush=True)
time.sleep(600)
"""


def orphaned() -> float:
    """Finds how long workers live on without their parent."""
    taken = []
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True) as parent:
            if parent.stdout is None:
                raise UnavailableError("there is no output to read")
            pids = [int(word) for word in parent.stdout.readline().split()]
            start = time.perf_counter()
            parent.kill()
            while any(lives(pid) for pid in pids):
                time.sleep(0.001)
            taken.append(time.perf_counter() - start)
    return max(taken) * 1000


def lives(pid: int) -> bool:
    """Says whether a process goes on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return text.rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False

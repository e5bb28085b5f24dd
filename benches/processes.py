"""Scheduling's rows and figures that need processes of their own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Figure, Prepared, Row, UnavailableError, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
                f"{POOL}, by its own choice": lambda: pool_mapping(None),
                f"{STDLIB}, by 250": lambda: mapping(theirs(), chunksize=250),
                "loky, by 250": lambda: mapping(loky(), chunksize=250),
                "pebble, by 250": pebble_mapping,
                "mpire, by 250": mpire_mapping,
            },
        ),
    ]


def figures(*, quick: bool) -> list[Figure]:
    """Describes the figures; with `quick` they are found out in less time."""
    trips = 2_000 if quick else 10_000
    rounds = 10 if quick else 30
    calls: dict[str, Callable[[], Calls]] = {
        "ferrule": lambda: Calls.of_executor(ours()),
        STDLIB: lambda: Calls.of_executor(theirs()),
        POOL: lambda: Calls.of_pool(pool()),
        "loky": lambda: Calls.of_executor(loky()),
        "pebble": lambda: Calls.of_pebble(pebble()),
        "mpire": lambda: Calls.of_pool(mpire()),
    }
    with_arrays = calls | {"joblib": joblib}
    return [
        *(
            Figure(
                id=f"processes_{name}",
                title=f"processes: a round trip, {name}",
                unit="µs",
                goal=goal,
                candidates={label: partial(round_trip, make, trips, part) for label, make in calls.items()},
            )
            for name, part, goal in [("p50", 0.5, 60), ("p99", 0.99, 500)]
        ),
        *(
            Figure(
                id=f"processes_numpy_{size}",
                title=f"processes: {size} MB of numpy there and back, median",
                unit="ms",
                goal=goal,
                candidates={label: partial(array_trip, make, size, rounds) for label, make in with_arrays.items()},
            )
            for size, goal in [(1, 1.5), (8, 8)]
        ),
        Figure(
            id="processes_lost",
            title="processes: of 24 tasks one kills its worker: how many have no result 5 seconds later",
            unit="tasks",
            goal=1,
            candidates={name: partial(apart, "lost", name, 15) for name in calls},
        ),
        Figure(
            id="processes_recovery",
            title="processes: from a worker killed to the next result, the largest of 20",
            unit="ms",
            goal=200,
            candidates={name: partial(apart, "recovery", name, 15) for name in calls},
        ),
        Figure(
            id="processes_deadline",
            title="processes: how late a loop in C is killed, the largest of several",
            unit="ms",
            goal=100,
            candidates={
                "ferrule": lateness,
                "pebble": pebble_lateness,
                STDLIB: no_time_limit,
                POOL: no_time_limit,
                "loky": no_time_limit,
            },
        ),
        Figure(
            id="processes_interrupted",
            title="processes: Ctrl-C to KeyboardInterrupt out of a with block whose workers are busy",
            unit="ms",
            goal=100,
            candidates={name: partial(interrupted, name) for name in calls},
        ),
        Figure(
            id="processes_orphans",
            title="processes: from kill -9 of the parent until no worker is left, the largest of 5",
            unit="ms",
            goal=1000,
            candidates={name: partial(orphaned, name) for name in calls},
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


def pool_mapping(chunk: int | None) -> Prepared:
    """Maps over numbers, in chunks."""
    made = pool()
    return warmed(lambda n: made.map(abs, range(n), chunk) and None, made.terminate)


def mpire_mapping() -> Prepared:
    """Maps over numbers, in chunks."""
    made = mpire()
    return warmed(lambda n: made.map(abs, range(n), chunk_size=250) and None, made.terminate)


def pebble_mapping() -> Prepared:
    """Maps over numbers, in chunks, and takes all results."""
    made = pebble()

    def run(n: int) -> None:
        for _ in made.map(abs, range(n), chunksize=250).result():
            pass

    return warmed(run, lambda: (made.stop(), made.join()))


@dataclass(frozen=True)
class Calls:
    """Is a pool of whatever make, as far as it calls: `send` returns how to wait for the result."""

    send: Callable[..., Callable[[float | None], Any]]
    close: Callable[[], object]
    pids: Callable[[], Iterable[int]]

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Makes a call, and waits for its result."""
        return self.send(function, *args)(None)

    @classmethod
    def of_executor(cls, executor: Any) -> Calls:
        """Uses what has the standard library's face."""

        def pids() -> Iterable[int]:
            return executor.pids() if hasattr(executor, "pids") else list(executor._processes)  # noqa: SLF001

        return cls(lambda function, *args: executor.submit(function, *args).result, executor.shutdown, pids)

    @classmethod
    def of_pool(cls, made: Any) -> Calls:
        """Uses what has the face of multiprocessing's pools."""

        def pids() -> Iterable[int]:
            workers = getattr(made, "_pool", None) or made._workers  # noqa: SLF001
            return [worker.pid for worker in workers]

        return cls(lambda function, *args: made.apply_async(function, args).get, made.terminate, pids)

    @classmethod
    def of_pebble(cls, made: Any) -> Calls:
        """Uses pebble's."""

        def close() -> None:
            made.stop()
            made.join()

        def pids() -> Iterable[int]:
            return list(made._pool_manager.worker_manager.workers)  # noqa: SLF001

        return cls(lambda function, *args: made.schedule(function, args).result, close, pids)


def joblib() -> Calls:
    """Makes joblib's, which hands arrays over in files that it maps."""
    try:
        from joblib import Parallel, delayed  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise UnavailableError("joblib is not installed") from None
    parallel = Parallel(n_jobs=WORKERS)
    parallel.__enter__()

    def send(function: Callable[..., Any], *args: Any) -> Callable[[float | None], Any]:
        results = parallel([delayed(function)(*args)])
        return lambda _: results[0]

    return Calls(send, lambda: parallel.__exit__(None, None, None), list)


def round_trip(make: Callable[[], Calls], count: int, part: float) -> float:
    """Finds how many microseconds a round trip takes; the best of three runs."""
    made, clock = make(), time.perf_counter_ns
    call, found = made.call, []
    try:
        for _ in range(3):
            taken = []
            for _ in range(200):
                call(pow, 2, 3)
            for _ in range(count // 3):
                start = clock()
                call(pow, 2, 3)
                taken.append(clock() - start)
            found.append(sorted(taken)[int(len(taken) * part)])
    finally:
        made.close()
    return min(found) / 1000


def same(array: Any) -> Any:
    """Returns what came, written to once on each page."""
    if not array.flags.writeable:
        # What was mapped to be read alone has to be copied first.
        array = array.copy()
    array[::512] += 1
    return array


def array_trip(make: Callable[[], Calls], size: int, rounds: int) -> float:
    """Finds how many milliseconds so many megabytes take, there and back."""
    try:
        import numpy as np
    except ImportError:
        raise UnavailableError("numpy is not installed") from None
    array = np.ones(size * MEGABYTE)
    made = make()
    taken = []
    try:
        for _ in range(rounds):
            start = time.perf_counter()
            made.call(same, array)
            taken.append(time.perf_counter() - start)
    finally:
        made.close()
    return statistics.median(taken[5:]) * 1000


def die() -> None:
    """Ends the process that calls it."""
    os.kill(os.getpid(), signal.SIGKILL)


def calls_of(name: str) -> Calls:
    """Makes the pool of that name."""
    if name == POOL:
        return Calls.of_pool(pool())
    if name == "mpire":
        return Calls.of_pool(mpire())
    if name == "pebble":
        return Calls.of_pebble(pebble())
    return Calls.of_executor({"ferrule": ours, STDLIB: theirs, "loky": loky}[name]())


def apart(what: str, name: str, seconds: float) -> float:
    """Finds a figure of the pool of that name in a process of its own: some never come to their end."""
    command = [sys.executable, "-c", f"from benches.processes import {what}; {what}({name!r})"]
    output = last_words(command, seconds)
    if output is None:
        raise UnavailableError(f"hangs: no answer after {seconds:g} seconds")
    try:
        return float(output)
    except ValueError:
        raise UnavailableError(output or "it ended without a word") from None


def last_words(command: list[str], seconds: float) -> str | None:
    """Runs a program; its last line, or `None` where it takes too long. Whatever it has started ends with it."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as program:
        line = ""
        try:
            if program.stdout is None or not select.select([program.stdout], [], [], seconds)[0]:
                return None
            line = program.stdout.readline().strip()
        finally:
            # Workers hold the other end of the pipe, too: it would never be closed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
    return line


def told(find: Callable[[], float]) -> None:
    """Prints what was found, or why nothing was."""
    try:
        print(find(), flush=True)
    except UnavailableError as error:
        print(error, flush=True)
    except Exception as error:  # noqa: BLE001  # whatever a peer raises is its result
        print(f"{type(error).__name__} after one death", flush=True)


def lost(name: str) -> None:
    """Prints how many of 24 tasks have no result, one of which kills its worker."""

    def find() -> float:
        made = calls_of(name)
        made.call(pow, 2, 3)
        sent = [made.send(die) if number == 6 else made.send(time.sleep, 0.01) for number in range(24)]
        deadline, missing = time.monotonic() + 5, 0
        for wait in sent:
            try:
                wait(max(0.01, deadline - time.monotonic()))
            except Exception:  # noqa: BLE001  # however it was lost
                missing += 1
        return missing

    told(find)


def recovery(name: str) -> None:
    """Prints how long it takes until the next result comes after a worker was killed."""

    def find() -> float:
        made = calls_of(name)
        made.call(pow, 2, 3)
        taken = []
        for _ in range(20):
            start = time.perf_counter()
            dead = made.send(die)
            # multiprocessing's never says that it has died.
            with contextlib.suppress(Exception):
                dead(0.2 if name == POOL else None)
            made.call(pow, 2, 3)
            taken.append(time.perf_counter() - start - (0.2 if name == POOL else 0))
        return max(taken) * 1000

    told(find)


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


def pebble_lateness() -> float:
    """Finds the same of pebble's."""
    taken = []
    made = pebble()
    try:
        made.schedule(pow, (2, 3)).result()
        # It lets go of them slowly.
        for _ in range(4):
            start = time.perf_counter()
            made.schedule(endless, timeout=0.1).exception()
            taken.append(time.perf_counter() - start - 0.1)
            made.schedule(pow, (2, 3)).result()
    finally:
        made.stop()
        made.join()
    return max(taken) * 1000


def no_time_limit() -> float:
    """Has nothing to say."""
    raise UnavailableError("has no time limit for a task")


INTERRUPTED = """
import os, signal, sys, threading, time
from benches import processes
name = sys.argv[1]
# What is started in the background is given Ctrl-C as a signal to ignore.
signal.signal(signal.SIGINT, signal.default_int_handler)
began = [0.0]
def interrupt():
    time.sleep(0.3)
    began[0] = time.perf_counter()
    # As a terminal does: to the whole group.
    os.killpg(0, signal.SIGINT)
makers = {processes.POOL: processes.pool, "mpire": processes.mpire, "pebble": processes.pebble}
makers |= {"ferrule": processes.ours, processes.STDLIB: processes.theirs, "loky": processes.loky}
send = {"pebble": "schedule", processes.POOL: "apply_async", "mpire": "apply_async"}.get(name, "submit")
try:
    with makers[name]() as executor:
        call = getattr(executor, send)
        wrap = (lambda *args: args) if send == "submit" else (lambda *args: (args,))
        first = call(pow, *wrap(2, 3))
        getattr(first, "get" if send == "apply_async" else "result")()
        futures = [call(time.sleep, *wrap(600)) for _ in range(100)]
        threading.Thread(target=interrupt).start()
        time.sleep(600)
except KeyboardInterrupt:
    print((time.perf_counter() - began[0]) * 1000, flush=True)
    os._exit(0)
"""


def interrupted(name: str) -> float:
    """Finds how long it takes from the signal to the exception."""
    available(name)
    taken = []
    for _ in range(5):
        output = last_words([sys.executable, "-c", INTERRUPTED, name], 10)
        if output is None:
            raise UnavailableError("still there after 10 seconds")
        taken.append(float(output))
    return statistics.median(taken)


def available(name: str) -> None:
    """Says so where it isn't."""
    module = {"loky": "loky", "pebble": "pebble", "mpire": "mpire"}.get(name)
    if module is not None:
        require(module)


ORPHANS = """
import sys, time
from benches import processes
made = processes.calls_of(sys.argv[1])
made.call(pow, 2, 3)
waits = [made.send(time.sleep, 600) for _ in range(processes.WORKERS)]
time.sleep(1)
print(*made.pids(), flush=True)
time.sleep(600)
"""


def orphaned(name: str) -> float:
    """Finds how long workers live on without their parent."""
    available(name)
    taken = []
    for _ in range(5 if name == "ferrule" else 1):
        with subprocess.Popen(
            [sys.executable, "-c", ORPHANS, name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as parent:
            if parent.stdout is None:
                raise UnavailableError("there is no output to read")
            pids = [int(word) for word in parent.stdout.readline().split()]
            start = time.perf_counter()
            parent.kill()
            if not pids:
                raise UnavailableError("it ended without a word")
            while any(lives(pid) for pid in pids) and time.perf_counter() < start + 5:
                time.sleep(0.001)
            taken.append(time.perf_counter() - start)
        left = [pid for pid in pids if lives(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        if left:
            raise UnavailableError("still there after 5 seconds")
    return max(taken) * 1000


def lives(pid: int) -> bool:
    """Says whether a process goes on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return text.rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False

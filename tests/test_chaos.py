"""Random kills: whatever is killed, whenever, no task is lost and nothing hangs.

`make chaos` does as many as 10,000; the ordinary run a few hundred, by `FERRULE_CHAOS`.
"""

import concurrent.futures
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

import process_tasks as tasks
from ferrule import ProcessPoolExecutor, WorkerDied

KILLS = int(os.environ.get("FERRULE_CHAOS", "300"))

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.slow,
    pytest.mark.timeout(120 + KILLS),
    pytest.mark.thread_unsafe(reason="counts processes, descriptors and names in /dev/shm"),
]

LONG = 60


def open_descriptors():
    return len([entry.name for entry in Path("/proc/self/fd").iterdir()])


def children():
    """The processes that this one or one of its descendants has started, and that live."""
    parents = {}
    for entry in [entry.name for entry in Path("/proc").iterdir()]:
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text(encoding="ascii", errors="replace")
                fields = text.rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry)] = int(fields[1])
    found, line = set(), [os.getpid()]
    for parent in line:
        fresh = [pid for pid, its in parents.items() if its == parent and pid not in found]
        found.update(fresh)
        line.extend(fresh)
    return found


class Killer(threading.Thread):
    """Kills workers at random moments, and the template now and then."""

    def __init__(self, executor, kills, seed):
        super().__init__()
        self.executor, self.kills = executor, kills
        self.random = random.Random(seed)
        self.done = 0
        # Told that something was done since the last kill: faster than workers start, it would be a siege.
        self.moved = threading.Event()
        self.over = threading.Event()

    def run(self):
        while self.done < self.kills and not self.over.is_set():
            if not self.moved.wait(0.1):
                continue
            self.moved.clear()
            time.sleep(self.random.uniform(0, 0.01))
            victims = self.executor.pids()
            template = self.executor._hub.template
            if template is not None and self.random.random() < 0.03:
                victims = [template]
            if victims:
                try:
                    os.kill(self.random.choice(victims), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.done += 1


def some_task(number, chance):
    if chance < 0.7:
        return number
    if chance < 0.9:
        time.sleep(chance / 300)
        return number
    if chance < 0.95:
        return bytes(100_000)
    raise ValueError(number)


@pytest.mark.parametrize("retries", [0, 3])
def test_random_kills(retries):
    seed = int(os.environ.get("FERRULE_SEED", str(random.randrange(10**9))))
    print("FERRULE_SEED =", seed)  # noqa: T201 - to be found again
    chances = random.Random(seed)
    names, before = tasks.shared_names(), None
    kills = KILLS // 2
    counts = {"good": 0, "raised": 0, "died": 0}
    executor = ProcessPoolExecutor(3, retries=retries, preload=["pytest"])
    with executor:
        executor.submit(tasks.square, 1).result(LONG)
        before = open_descriptors()
        killer = Killer(executor, kills, seed)
        killer.start()
        try:
            while killer.is_alive():
                sent = [(number, chances.random()) for number in range(200)]
                futures = [executor.submit(some_task, *each) for each in sent]
                for (number, chance), future in zip(sent, futures, strict=True):
                    killer.moved.set()
                    try:
                        result = future.result(LONG)
                    except ValueError as error:
                        assert chance >= 0.95
                        assert error.args == (number,)  # noqa: PT017 - which of them raises is random
                        counts["raised"] += 1
                    except WorkerDied as error:
                        assert error.signal == signal.SIGKILL  # noqa: PT017
                        counts["died"] += 1
                    else:
                        assert result == (bytes(100_000) if chance >= 0.9 else number)
                        counts["good"] += 1
        finally:
            killer.over.set()
            killer.join()
        assert killer.done == kills
        # Each kill costs one task at most, or one of each worker where the template was killed.
        assert counts["died"] <= 3 * kills
        assert counts["good"] > 0
        # The pool is as good as new.
        assert [future.result(LONG) for future in [executor.submit(tasks.square, 2) for _ in range(50)]] == [4] * 50
        deadline = time.monotonic() + LONG
        while open_descriptors() > before + 12:
            assert time.monotonic() < deadline, [entry.name for entry in Path("/proc/self/fd").iterdir()]
            time.sleep(0.05)
    print(counts)  # noqa: T201 - shown where something fails
    assert tasks.shared_names() - names == set()
    assert children() & set(executor.pids()) == set()


def test_random_kills_in_map():
    with ProcessPoolExecutor(2, retries=20, preload=["pytest"]) as executor:
        executor.submit(tasks.square, 1).result(LONG)
        killer = Killer(executor, max(10, KILLS // 10), random.randrange(10**9))
        killer.start()
        try:
            while killer.is_alive():
                killer.moved.set()
                assert list(executor.map(tasks.square, range(2000))) == [number**2 for number in range(2000)]
        finally:
            killer.over.set()
            killer.join()


def test_kills_while_it_ends():
    for seed in range(max(3, KILLS // 60)):
        executor = ProcessPoolExecutor(2)
        futures = [executor.submit(tasks.sleep, 0.002) for _ in range(40)]
        killer = Killer(executor, 3, seed)
        killer.moved.set()
        killer.start()
        executor.shutdown()
        killer.over.set()
        killer.join()
        done, waiting = concurrent.futures.wait(futures, LONG)
        assert len(done) == 40
        assert not waiting

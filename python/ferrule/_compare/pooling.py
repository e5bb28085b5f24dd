"""Pooling: what it costs to borrow and give back, against the queues that people make pools of, and how fair it is."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Figure, Finding, Prepared, Room, Row, in_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ferrule._compare.harness import Run

    Take = Callable[[], Any]
    Give = Callable[[Any], object]
    Tasks = Callable[[Callable[[], bool], list[int]], list[tuple[int, float, int]]]

QUEUE = "queue.Queue"
SIMPLE_QUEUE = "pre-filled SimpleQueue"
POOL = "hand-written pool"
SEMAPHORE = "deque and Semaphore"
SIZE = 4
"""How many resources there are."""
USERS = 8
"""How many threads or tasks want the one resource, where fairness is found out."""


class Resource:
    """What is pooled."""


class HandWritten:
    """Is a pool as it is pasted: a queue, a lock and a counter."""

    def __init__(self, create: Callable[[], Any], max_size: int) -> None:
        self.create = create
        self.max_size = max_size
        self.size = 0
        self.lock = threading.Lock()
        self.idle: queue.Queue[Any] = queue.Queue()

    def acquire(self) -> Any:
        """Takes an idle resource, makes one, or waits."""
        try:
            return self.idle.get_nowait()
        except queue.Empty:
            pass
        with self.lock:
            if self.size < self.max_size:
                self.size += 1
                return self.create()
        return self.idle.get()

    def release(self, resource: Any) -> None:
        """Gives a resource back."""
        self.idle.put(resource)

    @contextmanager
    def lease(self) -> Generator[Any, None, None]:
        """Lends a resource for a block."""
        resource = self.acquire()
        try:
            yield resource
        finally:
            self.release(resource)


class Counted:
    """Is a deque of resources, counted by a semaphore."""

    def __init__(self, size: int) -> None:
        from collections import deque

        self.idle = deque(Resource() for _ in range(size))
        self.free = threading.Semaphore(size)

    def acquire(self) -> Any:
        """Takes a resource."""
        self.free.acquire()
        return self.idle.pop()

    def release(self, resource: Any) -> None:
        """Gives a resource back."""
        self.idle.append(resource)
        self.free.release()


def borrowing(take: Take, give: Give) -> Run:
    """Makes a run that takes and gives back."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            give(take())

    return run


def in_blocks(lease: Callable[[], Any]) -> Run:
    """Makes a run of `with lease(): pass`."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            with lease():
                pass

    return run


def queue_of_resources() -> queue.Queue[Any]:
    """Makes a queue with the resources in it."""
    filled: queue.Queue[Any] = queue.Queue()
    for _ in range(SIZE):
        filled.put(Resource())
    return filled


def simple_queue_of_resources(size: int = SIZE) -> queue.SimpleQueue[Any]:
    """Makes a simple queue with the resources in it."""
    filled: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(size):
        filled.put(Resource())
    return filled


def by_get_and_put(filled: Any) -> Run:
    """Makes a run of a queue's get and put."""
    return borrowing(filled.get, filled.put)


def pool_of_ours(size: int = SIZE, **options: Any) -> Any:
    """Makes a pool of ours."""
    from ferrule import ResourcePool

    return ResourcePool(Resource, max_size=size, **options)


def tasks_of_ours() -> Prepared:
    """Makes a run of `async with pool.lease(): pass`."""
    pool = pool_of_ours()

    async def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            async with pool.lease():
                pass

    return in_loop(run)


def tasks_of_asyncio() -> Prepared:
    """Makes a run of an asyncio queue's get and put."""
    import asyncio

    filled: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(SIZE):
        filled.put_nowait(Resource())

    async def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            filled.put_nowait(await filled.get())

    return in_loop(run)


# -- fairness ---------------------------------------------------------------------------------------------------------


def turns(take: Take, give: Give, seconds: float, *, tasks: Tasks | None = None) -> Turns:
    """Lets threads (and tasks, if there are any) take one resource by turns for some seconds, and keeps count.

    Args:
        take: Takes the resource.
        give: Gives it back.
        seconds: How long, once all have begun.
        tasks: Called in a thread of its own with a function that says whether it goes on, and with the number of the
            turn; returns what came of each of its tasks.
    """
    count = USERS if tasks is None else USERS // 2
    counts = [0] * count
    waits = [0.0] * count
    overtaken = [0] * count
    turn = [0]
    ready = threading.Barrier(count + 1 + (tasks is not None))
    end = [0.0]

    def goes_on() -> bool:
        return time.monotonic() < end[0]

    def work(number: int) -> None:
        ready.wait()
        while goes_on():
            begun, asked = time.monotonic(), turn[0]
            resource = take()
            waits[number] = max(waits[number], time.monotonic() - begun)
            overtaken[number] = max(overtaken[number], turn[0] - asked)
            counts[number] += 1
            # There is one resource: whoever has it is alone here.
            turn[0] += 1
            # What is borrowed is used for a moment.
            time.sleep(0.0005)
            give(resource)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    others: list[Any] = []
    if tasks is not None:
        begin = tasks

        def in_tasks() -> None:
            ready.wait()
            others.extend(begin(goes_on, turn))

        threads.append(threading.Thread(target=in_tasks, daemon=True))
    for thread in threads:
        thread.start()
    end[0] = time.monotonic() + seconds
    ready.wait()
    for thread in threads:
        thread.join()
    counts += [taken for taken, _, _ in others]
    waits += [wait for _, wait, _ in others]
    overtaken += [others_turns for _, _, others_turns in others]
    return Turns(counts, max(waits), max(overtaken), seconds)


class Turns:
    """Is what came of a contest for one resource."""

    def __init__(self, counts: list[int], longest: float, overtaken: int, seconds: float) -> None:
        self.counts = counts
        self.longest = longest
        self.others = overtaken
        self.seconds = seconds

    def unfairness(self) -> Finding:
        """Returns the most turns by the fewest."""
        fewest, most = min(self.counts), max(self.counts)
        return Finding(most / max(fewest, 1), f"{fewest} to {most}")

    def overtaken(self) -> Finding:
        """Returns the longest wait by the ideal one, in turns of others: ideally each of them has one."""
        return Finding(self.others / (len(self.counts) - 1), f"{self.others} turns")

    def delay(self) -> Finding:
        """Returns the longest wait in milliseconds, which the operating system has a part in, and the ideal one."""
        ideal = self.seconds / sum(self.counts) * (len(self.counts) - 1)
        return Finding(self.longest * 1e3, f"ideally {ideal * 1e3:.1f} ms")


def tasks_for(pool: Any) -> Tasks:
    """Makes the half of a contest that tasks have."""
    import asyncio

    async def work(goes_on: Callable[[], bool], turn: list[int]) -> tuple[int, float, int]:
        taken, longest, overtaken = 0, 0.0, 0
        while goes_on():
            begun, asked = time.monotonic(), turn[0]
            async with pool.lease():
                longest = max(longest, time.monotonic() - begun)
                overtaken = max(overtaken, turn[0] - asked)
                taken += 1
                turn[0] += 1
                await asyncio.sleep(0.0005)
        return taken, longest, overtaken

    async def all_of_them(goes_on: Callable[[], bool], turn: list[int]) -> list[tuple[int, float, int]]:
        return await asyncio.gather(*[work(goes_on, turn) for _ in range(USERS // 2)])

    return lambda goes_on, turn: asyncio.run(all_of_them(goes_on, turn))


def contest(name: str, seconds: float) -> Turns:
    """Lets the named pool be fought for."""
    if name == "ferrule":
        pool = pool_of_ours(1, timeout=None)
        return turns(pool.acquire, pool.release, seconds)
    if name == "ferrule, threads and tasks":
        pool = pool_of_ours(1, timeout=None)
        return turns(pool.acquire, pool.release, seconds, tasks=tasks_for(pool))
    if name == QUEUE:
        filled: queue.Queue[Any] = queue.Queue()
        filled.put(Resource())
        return turns(filled.get, filled.put, seconds)
    if name == SIMPLE_QUEUE:
        simple = simple_queue_of_resources(1)
        return turns(simple.get, simple.put, seconds)
    by_hand = HandWritten(Resource, 1)
    return turns(by_hand.acquire, by_hand.release, seconds)


def fairness(seconds: float) -> list[Figure]:
    """Describes who gets how many turns, and how long somebody waits at worst."""
    names = ("ferrule", "ferrule, threads and tasks", SIMPLE_QUEUE, QUEUE, POOL)
    kept: dict[str, Turns] = {}

    def found(name: str) -> Turns:
        if name not in kept:
            kept[name] = contest(name, seconds)
        return kept[name]

    def unfairness(name: str) -> Finding:
        return found(name).unfairness()

    def overtaken(name: str) -> Finding:
        return found(name).overtaken()

    def delay(name: str) -> Finding:
        return found(name).delay()

    return [
        Figure(
            id="fairness",
            title=f"most turns by fewest, {USERS} threads on one resource for {seconds:g} s",
            unit="times",
            candidates={name: partial(unfairness, name) for name in names},
            goal=1.1,
        ),
        Figure(
            id="longest_wait",
            title=f"longest wait by the ideal one, in turns of others, {USERS} threads on one resource",
            unit="times",
            candidates={name: partial(overtaken, name) for name in names},
            goal=2.0,
        ),
        Figure(
            id="longest_wait_ms",
            title=f"longest wait, {USERS} threads on one resource",
            unit="ms",
            candidates={name: partial(delay, name) for name in names},
        ),
    ]


def room() -> Room:
    """Describes the rows and figures."""
    return Room(name="pooling", rows=rows(), figures=fairness(0.5))


def rows() -> list[Row]:
    """Describes the rows."""
    return [
        Row(
            id="lease",
            title="ResourcePool: with pool.lease()",
            baseline=QUEUE,
            goal=0.4,
            candidates={
                QUEUE: lambda: by_get_and_put(queue_of_resources()),
                POOL: lambda: in_blocks(HandWritten(Resource, SIZE).lease),
                "ferrule": lambda: in_blocks(pool_of_ours().lease),
            },
        ),
        Row(
            id="acquire",
            title="ResourcePool: acquire and release",
            baseline=SIMPLE_QUEUE,
            goal=4.5,
            candidates={
                SIMPLE_QUEUE: lambda: by_get_and_put(simple_queue_of_resources()),
                QUEUE: lambda: by_get_and_put(queue_of_resources()),
                SEMAPHORE: lambda: _by_methods(Counted(SIZE)),
                POOL: lambda: _by_methods(HandWritten(Resource, SIZE)),
                "ferrule": lambda: _by_methods(pool_of_ours()),
            },
        ),
        Row(
            id="lease_async",
            title="ResourcePool: async with pool.lease()",
            baseline="asyncio.Queue",
            candidates={"asyncio.Queue": tasks_of_asyncio, "ferrule": tasks_of_ours},
        ),
    ]


def _by_methods(pool: Any) -> Run:
    return borrowing(pool.acquire, pool.release)

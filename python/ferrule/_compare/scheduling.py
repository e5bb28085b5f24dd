"""Scheduling: what a task costs, against the standard library's executors and a semaphore round asyncio.gather."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import time
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Prepared, Room, Row, in_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ferrule._compare.harness import Run

THEIRS = "ThreadPoolExecutor"
GATHER = "asyncio.gather with a semaphore"
WORKERS = 4
WIDTH = 100


def room() -> Room:
    """Describes the rows; the goals are the design's."""
    return Room(
        name="scheduling",
        rows=[
            Row(
                id="submit",
                title="submit many, then take their results: a task",
                baseline=THEIRS,
                goal=0.333,
                candidates={THEIRS: lambda: submitting(theirs()), "ferrule": lambda: submitting(ours())},
            ),
            Row(
                id="map",
                title="map: a call",
                baseline=THEIRS,
                goal=0.2,
                candidates={
                    THEIRS: lambda: mapping(theirs()),
                    "ferrule": lambda: mapping(ours()),
                    "ferrule, buffersize=64": lambda: mapping(ours(), buffersize=64),
                },
            ),
            Row(
                id="round_trip",
                title="submit and take the result, one after the other",
                baseline=THEIRS,
                candidates={THEIRS: lambda: round_trips(theirs()), "ferrule": lambda: round_trips(ours())},
            ),
            Row(
                id="future",
                title="a future's life: made, ended, asked",
                baseline="concurrent.futures.Future",
                candidates={
                    "concurrent.futures.Future": lambda: living(concurrent.futures.Future),
                    "ferrule": lambda: living(_future()),
                },
            ),
            Row(
                id="run_async",
                title="TaskScheduler.run_async: a coroutine, 100 at once, against gather with a semaphore",
                baseline=GATHER,
                goal=1.2,
                candidates={
                    GATHER: lambda: in_loop(gathered),
                    "ferrule": lambda: run_alone(pause),
                    "ferrule, adding the tasks included": lambda: in_loop(scheduled),
                },
            ),
            Row(
                id="run_async_bare",
                title="the same, of coroutines that await nothing",
                baseline=GATHER,
                candidates={
                    GATHER: lambda: in_loop(lambda n: gathered(n, at_once)),
                    "ferrule": lambda: run_alone(at_once),
                    "ferrule, adding the tasks included": lambda: in_loop(lambda n: scheduled(n, at_once)),
                },
            ),
        ],
    )


def _future() -> Callable[[], Any]:
    from ferrule.scheduling import Future

    return Future


def theirs() -> concurrent.futures.Executor:
    """Makes the standard library's executor."""
    return concurrent.futures.ThreadPoolExecutor(WORKERS)


def ours() -> concurrent.futures.Executor:
    """Makes ours."""
    from ferrule import ThreadPoolExecutor

    return ThreadPoolExecutor(WORKERS)


def submitting(executor: concurrent.futures.Executor) -> Prepared:
    """Submits all, then takes all results."""
    submit = executor.submit

    def run(n: int) -> None:
        for future in [submit(pow, 2, 3) for _ in itertools.repeat(None, n)]:
            future.result()

    return Prepared(run=run, close=executor.shutdown)


def mapping(executor: concurrent.futures.Executor, **options: Any) -> Prepared:
    """Maps over numbers, and takes all results."""

    def run(n: int) -> None:
        for _ in executor.map(abs, range(n), **options):
            pass

    return Prepared(run=run, close=executor.shutdown)


def round_trips(executor: concurrent.futures.Executor) -> Prepared:
    """Submits one, takes its result, and so on."""
    submit = executor.submit

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            submit(pow, 2, 3).result()

    return Prepared(run=run, close=executor.shutdown)


def living(make: Callable[[], Any]) -> Run:
    """Leads futures through their lives."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            future = make()
            future.set_running_or_notify_cancel()
            future.set_result(1)
            future.result()

    return run


async def pause(number: int) -> int:
    """Lets others have a turn, as whatever waits for input does."""
    await asyncio.sleep(0)
    return number


async def at_once(number: int) -> int:
    """Awaits nothing."""
    return number


async def gathered(n: int, job: Callable[[int], Coroutine[Any, Any, int]] = pause) -> None:
    """Runs all by hand: a semaphore round each, and gather round all."""
    semaphore = asyncio.Semaphore(WIDTH)

    async def bounded(number: int) -> int:
        async with semaphore:
            return await job(number)

    await asyncio.gather(*[bounded(number) for number in range(n)])


def run_alone(job: Callable[[int], Coroutine[Any, Any, int]]) -> Run:
    """Runs all by the scheduler; the tasks are there already."""
    from ferrule import TaskScheduler

    def run(n: int) -> int:
        scheduler = TaskScheduler(max_workers=WIDTH)
        for number in range(n):
            scheduler.add_task(str(number), job, (number,))

        async def timed() -> int:
            start = time.perf_counter_ns()
            await scheduler.run_async()
            return time.perf_counter_ns() - start

        return asyncio.run(timed())

    return run


async def scheduled(n: int, job: Callable[[int], Coroutine[Any, Any, int]] = pause) -> None:
    """Runs all by the scheduler, adding them included."""
    from ferrule import TaskScheduler

    scheduler = TaskScheduler(max_workers=WIDTH)
    for number in range(n):
        scheduler.add_task(str(number), job, (number,))
    (await scheduler.run_async()).raise_errors()

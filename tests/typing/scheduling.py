"""What mypy and basedpyright, both strict, must make of the scheduling room. Read by them, never run."""

import concurrent.futures
from collections.abc import Iterator
from typing import assert_type

from ferrule import ProcessPoolExecutor, Retry, TaskResult, TaskScheduler, ThreadPoolExecutor
from ferrule.scheduling import ExecutorStats, ExecutorView, Future, ProcessExecutorView, TaskResults


def double(number: int) -> int:
    return 2 * number


def text(number: int) -> str:
    return str(number)


with ThreadPoolExecutor(max_workers=2, max_pending=10, when_full="raise", on_exit="cancel") as executor:
    assert_type(executor.submit(double, 2), Future[int])
    assert_type(executor.submit(double, number=2).result(timeout=1.0), int)
    executor.submit(double, "2")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert_type(executor.map(text, [1, 2], buffersize=3), Iterator[str])
    view = executor.options(priority=1, timeout=2.0, retry=Retry())
    assert_type(view, ExecutorView)
    assert_type(view.submit(text, 3), Future[str])
    assert_type(executor.stats(), ExecutorStats)

with ProcessPoolExecutor(2, max_tasks_per_child=5, retries=1, memory_limit=1 << 30, on_exit="kill") as processes:
    assert_type(processes.submit(double, 2), Future[int])
    processes.submit(double, "2")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert_type(processes.map(text, [1, 2], chunksize=None, buffersize=3), Iterator[str])
    assert_type(processes.options(priority=1, timeout=2.0, retry=Retry(), retries=2), ProcessExecutorView)
    assert_type(processes.options(retries=2).submit(text, 3), Future[str])
    assert_type(processes.options(retries=2).map(text, [3]), Iterator[str])
    assert_type(processes.stats(), ExecutorStats)
    assert_type(processes.pids(), list[int])

ProcessPoolExecutor(when_full="wait")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
as_theirs: concurrent.futures.Executor = processes
as_theirs = executor
future: concurrent.futures.Future[int] = executor.submit(double, 1)
ThreadPoolExecutor(when_full="wait")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def awaits() -> None:
    assert_type(await executor.submit_async(double, 1), Future[int])
    assert_type(await processes.submit_async(double, 1), Future[int])
    assert_type(await processes.options(priority=1).submit_async(double, 1), Future[int])
    assert_type(await TaskScheduler().run_async(), TaskResults)


scheduler = TaskScheduler(max_workers=2, name="job", log="info")
scheduler.add_task("double", double, args=(2,), depends_on=("other",))
results = scheduler.run("threads", progress=lambda result: result.id)
assert_type(results["double"], TaskResult)
assert_type(scheduler.run(executor), TaskResults)
assert_type(scheduler.run(processes), TaskResults)
assert_type(scheduler.run_processes(progress=True), TaskResults)
assert_type(scheduler.cancel("double"), bool)
for each in scheduler.as_completed("sequential"):
    assert_type(each, TaskResult)
scheduler.run("fibres")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

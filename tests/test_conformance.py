"""One job by every strategy: the same results, the same errors, the same order of priorities."""

import asyncio
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import process_tasks as tasks
from ferrule import (
    PerformanceMonitor,
    Pipeline,
    ProcessPoolExecutor,
    Retry,
    TaskScheduler,
    TaskTimeout,
    WorkerDied,
    it,
)

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.timeout(120),
    pytest.mark.thread_unsafe(reason="starts processes, and a cluster that is the process's"),
]


@pytest.fixture(scope="module")
def dask():
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    with contextlib.ExitStack() as stack:
        cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
        stack.enter_context(cluster)
        client = stack.enter_context(distributed.Client(cluster))
        executor = client.get_executor()
        yield executor
        executor.shutdown()


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(1) as executor:
        yield executor


STRATEGIES = ["sequential", "threads", "async", "processes", "a process pool", "dask"]


@pytest.fixture(params=STRATEGIES)
def run(request):
    """Run a scheduler by one of the strategies, one task at a time."""
    strategy = request.param
    if strategy == "async":
        return lambda scheduler: asyncio.run(scheduler.run_async())
    if strategy in {"a process pool", "dask"}:
        executor = request.getfixturevalue("processes" if strategy == "a process pool" else "dask")
        return lambda scheduler: scheduler.run(executor)
    return lambda scheduler: scheduler.run(strategy)


def test_the_same_results(run):
    scheduler = TaskScheduler(max_workers=1)
    scheduler.add_task("two", tasks.identity, (2,))
    scheduler.add_task("four", tasks.square, (scheduler.result_of("two"),))
    scheduler.add_task("sixteen", pow, (scheduler.result_of("four"),), {"exp": scheduler.result_of("two")})
    scheduler.add_task("again", tasks.square, (2,))
    results = run(scheduler)
    assert {name: result.value for name, result in results.items()} == {"two": 2, "four": 4, "sixteen": 16, "again": 4}
    assert {result.status for result in results.values()} == {"success"}
    assert all(result.attempts == 1 and result.duration >= 0 and result.worker for result in results.values())


def test_the_same_errors(run):
    scheduler = TaskScheduler(max_workers=1)
    scheduler.add_task("fails", tasks.fail, ("on purpose",))
    scheduler.add_task("needs it", tasks.square, (scheduler.result_of("fails"),))
    scheduler.add_task("fine", tasks.square, (3,))
    results = run(scheduler)
    assert {name: result.status for name, result in results.items()} == {
        "fails": "error",
        "needs it": "skipped",
        "fine": "success",
    }
    assert isinstance(results["fails"].error, ValueError)
    assert str(results["fails"].error) == "on purpose"
    assert "on purpose" in results["needs it"].reason


def test_the_same_order_of_priorities(run, tmp_path):
    path = tmp_path / "order"
    scheduler = TaskScheduler(max_workers=1)
    for name, priority in [("late", 3), ("first", -5), ("plain", 0), ("also plain", 0), ("soon", -1)]:
        scheduler.add_task(name, tasks.touch, (str(path), name), priority=priority)
    run(scheduler)
    assert path.read_text(encoding="utf-8").splitlines() == ["first", "soon", "plain", "also plain", "late"]


def test_the_same_tries(run, tmp_path):
    path = str(tmp_path / "tries")
    scheduler = TaskScheduler(max_workers=1)
    policy = Retry(on=ValueError, max_attempts=3, delay=0)
    scheduler.add_task("fails", tasks.touch_then, (path, "x", tasks.fail, "no"), retry=policy)
    results = run(scheduler)
    assert results["fails"].attempts == 3
    assert len(Path(path).read_text(encoding="utf-8").split()) == 3


def test_timings_come_home(run):
    monitor = PerformanceMonitor()
    scheduler = TaskScheduler(max_workers=1, monitor=monitor)
    scheduler.add_task("sleeps", tasks.sleep, (0.05,))
    scheduler.add_task("fails", tasks.fail, ("no",))
    run(scheduler)
    run(scheduler)
    stats = monitor.stats()
    assert stats["sleeps"].count == 2
    assert stats["sleeps"].min >= 0.05
    assert (stats["fails"].count, stats["fails"].errors) == (2, 2)


def test_what_tasks_measure_comes_home(run):
    tasks.MONITOR.reset()
    scheduler = TaskScheduler(max_workers=1)
    for number in range(5):
        scheduler.add_task(f"{number}", tasks.measured, (0.001,), {"fail": number == 3})
    results = run(scheduler)
    assert [result.status for result in results.values()].count("error") == 1
    stats = tasks.MONITOR.stats()
    assert (stats["measured"].count, stats["measured"].errors, stats["inside"].count) == (5, 1, 5)
    assert 0.001 <= stats["measured"].min <= stats["measured"].max < 60


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_from_the_standard_library_s_processes_too(method):
    tasks.MONITOR.reset()
    tasks.measured(0)
    scheduler = TaskScheduler()
    for number in range(6):
        scheduler.add_task(f"{number}", tasks.measured, (0,))
    context = multiprocessing.get_context(method)
    with warnings.catch_warnings():
        # From 3.12 on those who have threads are warned of forking.
        warnings.simplefilter("ignore", DeprecationWarning)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            results = scheduler.run(executor)
    assert {result.status for result in results.values()} == {"success"}
    assert all(result.worker.startswith("process ") for result in results.values())
    # A forked child begins with what its parent has measured, and that is not sent home again.
    assert tasks.MONITOR.stats()["measured"].count == 7


def test_and_from_a_cluster_s(tmp_path):
    pytest.importorskip("distributed", reason="dask is not installed")
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import distributed
            import process_tasks as tasks
            from ferrule import TaskScheduler

            if __name__ == "__main__":
                options = dict(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None)
                with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
                    client.run(lambda: sys.path.insert(0, {str(Path(__file__).parent)!r}))
                    scheduler = TaskScheduler()
                    for number in range(6):
                        scheduler.add_task(str(number), tasks.measured, (0,))
                    results = scheduler.run(client.get_executor())
                    results.raise_errors()
                    print(tasks.MONITOR.stats()["measured"].count, len(results))
            """
        ),
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "6 6\n", done.stderr


def test_results_come_as_they_are_done_and_can_be_drawn(tmp_path):
    seen = []
    scheduler = TaskScheduler(max_workers=2, name="drawn")
    for number in range(6):
        scheduler.add_task(f"task {number}", tasks.sleep, (0.01, number))
    results = scheduler.run_processes(progress=seen.append)
    assert sorted(result.value for result in seen) == list(range(6))
    assert [result.id for result in scheduler.as_completed("processes")] == list(scheduler.results)
    results.timeline(tmp_path / "run.html")
    drawn = (tmp_path / "run.html").read_text(encoding="utf-8")
    for result in results.values():
        assert result.worker in drawn
        assert result.id in drawn
        assert 0 <= result.queued <= result.started
    results.trace(tmp_path / "run.json")
    events = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["traceEvents"]
    assert {f"task {number}" for number in range(6)} <= {event["name"] for event in events}


@pytest.mark.parametrize("on", ["processes", "dask"])
def test_pipelines_stages_run_on_it(request, on):
    executor = request.getfixturevalue(on)
    count = 200 if on == "processes" else 20
    for options in ({}, {"chunk": 10}, {"chunk": "auto"}, {"ordered": False}):
        pipeline = Pipeline().map(tasks.square, executor=executor, **options).filter(it > 3)
        assert sorted(pipeline.run(range(count))) == [number**2 for number in range(2, count)]
    run = Pipeline().map(tasks.fail, executor=executor).run(["one", "two"], on_error="collect")
    assert list(run) == []
    assert [str(error.error) for error in run.errors] == ["one", "two"]
    policy = Retry(on=ValueError, max_attempts=2, delay=0)
    with pytest.raises(ValueError, match="again"):
        list(Pipeline().map(tasks.fail, executor=executor, retry=policy).run(["again"]))


def test_a_death_in_a_pipeline_is_its_item_s(processes):
    run = Pipeline().map(tasks.die_if_three, executor=processes).run(range(6), on_error="collect")
    assert list(run) == [0, 1, 2, 4, 5]
    assert [(error.index, type(error.error)) for error in run.errors] == [(3, WorkerDied)]


def test_processes_end_tasks_that_take_too_long():
    scheduler = TaskScheduler(max_workers=2)
    scheduler.add_task("spins", tasks.spin_in_c, (1,), timeout=0.3)
    scheduler.add_task("fine", tasks.pid)
    results = scheduler.run_processes()
    assert results["spins"].status == "timeout"
    assert isinstance(results["spins"].error, TaskTimeout)
    assert results["fine"].worker == f"process {results['fine'].value}" != f"process {os.getpid()}"


def test_a_death_is_its_task_s(tmp_path):
    scheduler = TaskScheduler(max_workers=2)
    scheduler.add_task("dies", tasks.kill_self)
    scheduler.add_task("needs it", tasks.square, (2,), depends_on=("dies",))
    scheduler.add_task("fine", tasks.square, (3,))
    results = scheduler.run("processes")
    error = results["dies"].error
    assert isinstance(error, WorkerDied)
    assert (error.task_id, error.signal) == ("dies", 9)
    assert results["needs it"].status == "skipped"
    assert results["fine"].value == 9
    with ProcessPoolExecutor(1, retries=1) as executor:
        again = TaskScheduler()
        again.add_task("dies once", tasks.kill_once, (str(tmp_path / "flag"),))
        assert again.run(executor)["dies once"].value == "alive"
        assert again.run(executor.options(priority=1, timeout=60))["dies once"].value == "alive"


def test_to_dask_priorities_and_tries_are_handed(dask):
    seen = []
    submit = dask._client.submit

    def watched(*args, **options):
        seen.append({name: options[name] for name in ("priority", "retries", "pure")})
        return submit(*args, **options)

    dask._client.submit = watched
    try:
        scheduler = TaskScheduler(max_workers=1)
        scheduler.add_task("one", tasks.square, (2,), priority=4, retry=Retry(max_attempts=3))
        scheduler.add_task("two", tasks.square, (2,))
        scheduler.run(dask)
    finally:
        del dask._client.submit
    assert seen == [{"priority": 0, "retries": 0, "pure": False}, {"priority": -4, "retries": 2, "pure": False}]

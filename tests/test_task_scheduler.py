"""The scheduler: one job by every strategy, and what each does when something goes wrong."""

import asyncio
import concurrent.futures
import contextvars
import json
import logging
import os
import sys
import threading
import time

import pytest

from ferrule import (
    DependencyCycle,
    DuplicateTask,
    MissingExtra,
    PerformanceMonitor,
    RateLimiter,
    Retry,
    TaskScheduler,
    TaskTimeout,
    ThreadPoolExecutor,
    UnknownDependency,
)

LONG = 30


# What is sent to processes lives where they find it.
def double(number):
    return 2 * number


def add(*numbers):
    return sum(numbers)


def fail():
    raise LookupError("nothing here")


async def triple(number):
    await asyncio.sleep(0)
    return 3 * number


def by_async(scheduler, **options):
    return asyncio.run(scheduler.run_async(**options))


def by_any_executor(scheduler, **options):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return scheduler.run(executor, **options)


def by_our_executor(scheduler, **options):
    with ThreadPoolExecutor(1) as executor:
        return scheduler.run(executor, **options)


def by_a_view(scheduler, **options):
    with ThreadPoolExecutor(1) as executor:
        return scheduler.run(executor.options(priority=2), **options)


IN_PROCESS = {
    "sequential": TaskScheduler.run_sequential,
    "threads": TaskScheduler.run_threaded,
    "async": by_async,
    "any executor": by_any_executor,
    "our executor": by_our_executor,
    "a view": by_a_view,
}
ALL = {**IN_PROCESS, "processes": TaskScheduler.run_processes}

in_process = pytest.mark.parametrize("run", IN_PROCESS.values(), ids=IN_PROCESS.keys())
everywhere = pytest.mark.parametrize("run", ALL.values(), ids=ALL.keys())


@everywhere
def test_the_same_job_has_the_same_results(run):
    scheduler = TaskScheduler(max_workers=1, name="job")
    scheduler.add_task("load", double, (5,))
    scheduler.add_task("sum", add, (1, scheduler.result_of("load")), priority=3)
    scheduler.add_task("coroutine", triple, kwargs={"number": scheduler.result_of("sum")})
    scheduler.add_task("broken", fail, depends_on=["load"])
    scheduler.add_task("hopeless", double, (scheduler.result_of("broken"),))
    scheduler.add_task("lost", double, (1,), depends_on=("hopeless", "load"))
    results = run(scheduler)
    assert results is scheduler.results
    assert {name: result.status for name, result in results.items()} == {
        "load": "success",
        "sum": "success",
        "coroutine": "success",
        "broken": "error",
        "hopeless": "skipped",
        "lost": "skipped",
    }
    assert (results["load"].value, results["sum"].value, results["coroutine"].value) == (10, 11, 33)
    assert isinstance(results["broken"].error, LookupError)
    assert "nothing here" in results["broken"].traceback
    assert results["hopeless"].reason == "'broken' ended as 'error': LookupError: nothing here"
    assert results["lost"].reason == f"'hopeless' was skipped: {results['hopeless'].reason}"
    for name in ("load", "sum", "coroutine", "broken"):
        result = results[name]
        assert result.attempts == 1
        assert result.worker
        assert min(result.started, result.queued, result.duration) >= 0
    with pytest.raises(ExceptionGroup, match="1 of 6 tasks of 'job' failed") as caught:
        results.raise_errors()
    assert caught.value.exceptions == (results["broken"].error,)


@in_process
def test_the_same_order_of_priorities(run):
    scheduler, order = TaskScheduler(max_workers=1), []
    for number, priority in enumerate([2, 0, 1, 0, -1, 2]):
        scheduler.add_task(f"{number}", order.append, (number,), priority=priority)
    run(scheduler)
    # A worker of a pool that is ready may begin while others are still being queued, and only with the first in line.
    assert order == [4, 1, 3, 2, 0, 5]


@in_process
def test_runs_again_and_afresh(run):
    scheduler, calls = TaskScheduler(), []
    scheduler.add_task("once", calls.append, (1,))
    assert run(scheduler)["once"].status == "success"
    first = scheduler.results
    scheduler.add_task("twice", calls.append, (2,))
    assert set(run(scheduler)) == {"once", "twice"}
    assert set(first) == {"once"}
    assert sorted(calls) == [1, 1, 2]


@in_process
def test_nothing_to_do(run):
    scheduler = TaskScheduler()
    assert dict(run(scheduler)) == {}
    scheduler.results.raise_errors()
    assert repr(scheduler.results) == "<TaskResults of 'tasks': empty>"


@in_process
def test_retrying_counts_attempts(run):
    scheduler, left = TaskScheduler(max_workers=1), [LookupError(), LookupError()]

    def flaky():
        if left:
            raise left.pop()
        return "at last"

    scheduler.add_task("flaky", flaky, retry=Retry(on=LookupError, max_attempts=3, delay=0))
    scheduler.add_task("doomed", fail, retry=Retry(on=LookupError, max_attempts=2, delay=0))
    results = run(scheduler)
    assert (results["flaky"].value, results["flaky"].attempts) == ("at last", 3)
    assert (results["doomed"].status, results["doomed"].attempts) == ("error", 2)


@in_process
def test_limits_are_kept(run):
    scheduler, limit = TaskScheduler(), RateLimiter(100, burst=1)
    for number in range(4):
        scheduler.add_task(f"{number}", double, (number,), limit=limit)
    began = time.monotonic()
    results = run(scheduler)
    assert [results[f"{number}"].value for number in range(4)] == [0, 2, 4, 6]
    # The first token is there, and the others come 10 ms apart.
    assert time.monotonic() - began >= 0.029


@in_process
def test_context_variables_travel(run):
    variable = contextvars.ContextVar("variable", default="unset")
    scheduler = TaskScheduler(max_workers=1)

    def change():
        before = variable.get()
        variable.set("leaked")
        return before

    scheduler.add_task("one", change)
    scheduler.add_task("two", change)
    token = variable.set("travels")
    try:
        results = run(scheduler)
    finally:
        variable.reset(token)
    if run is not by_any_executor:
        # The standard library's threads know nothing of the submitter's context.
        assert [results["one"].value, results["two"].value] == ["travels", "travels"]


@pytest.mark.parametrize("run", [TaskScheduler.run_sequential, TaskScheduler.run_threaded, by_any_executor])
def test_a_function_that_takes_too_long_is_abandoned(run):
    scheduler, release = TaskScheduler(max_workers=1), threading.Event()
    scheduler.add_task("slow", release.wait, (LONG,), timeout=0.05)
    scheduler.add_task("after", double, (1,), depends_on=["slow"])
    if run is by_any_executor:
        threading.Timer(0.5, release.set).start()
    results = run(scheduler)
    release.set()
    assert results["slow"].status == "timeout"
    assert isinstance(results["slow"].error, TaskTimeout)
    assert results["after"].status == "skipped"


def test_a_coroutine_that_takes_too_long_is_cancelled():
    scheduler, cancelled = TaskScheduler(), []

    async def slow():
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def own():
        raise TimeoutError("its own")

    scheduler.add_task("slow", slow, timeout=0.02)
    scheduler.add_task("own", own, timeout=LONG)
    results = by_async(scheduler)
    assert results["slow"].status == "timeout"
    assert cancelled == [True]
    assert results["own"].status == "error"


def test_functions_that_block_do_not_stall_the_loop():
    scheduler, release = TaskScheduler(), threading.Event()

    async def free():
        release.set()

    scheduler.add_task("blocks", release.wait, (LONG,), priority=-1)
    scheduler.add_task("frees", free)
    assert by_async(scheduler)["blocks"].value is True


def test_no_more_coroutines_at_once_than_workers():
    scheduler, now, most = TaskScheduler(max_workers=3), set(), []

    async def job(number):
        now.add(number)
        most.append(len(now))
        await asyncio.sleep(0.001)
        now.discard(number)

    for number in range(20):
        scheduler.add_task(f"{number}", job, (number,))
    by_async(scheduler)
    assert max(most) == 3


def test_who_stops_listening_to_processes_leaves_none_behind():
    scheduler = TaskScheduler(max_workers=1)
    for number in range(20):
        scheduler.add_task(f"{number}", double, (number,))
    results = scheduler.as_completed("processes")
    assert next(results).value == 0
    results.close()
    assert scheduler.run("sequential")["19"].value == 38


@pytest.mark.parametrize("strategy", ["sequential", "threads"])
def test_results_as_they_come(strategy):
    scheduler = TaskScheduler(max_workers=2)
    scheduler.add_task("one", double, (1,))
    scheduler.add_task("two", double, (scheduler.result_of("one"),))
    assert [(result.id, result.value) for result in scheduler.as_completed(strategy)] == [("one", 2), ("two", 4)]
    assert set(scheduler.results) == {"one", "two"}


@pytest.mark.parametrize("strategy", ["sequential", "threads"])
def test_values_inside_of_containers(strategy):
    scheduler, plain, circle = TaskScheduler(max_workers=2), [1, [2]], []
    circle.append(circle)
    one, two = scheduler.result_of("one"), scheduler.result_of("two")
    arguments = ([one, (two, {"deep": [one]}), 5], plain, circle)
    scheduler.add_task("all", lambda *args, **kwargs: (args, kwargs), arguments, {"named": {"two": two}, "set": {3}})
    scheduler.add_task("one", double, (1,))
    scheduler.add_task("two", double, (2,))
    for _ in range(2):
        (first, same, round_), kwargs = scheduler.run(strategy)["all"].value
        assert first == [2, (4, {"deep": [2]}), 5]
        assert kwargs == {"named": {"two": 4}, "set": {3}}
        # What has none of them in it is not copied.
        assert same is plain
        assert round_ is circle
    assert arguments[0][0] is one
    with pytest.raises(DependencyCycle, match="'self'"):
        scheduler.add_task("self", double, ([scheduler.result_of("self")],))


def test_who_stops_listening_cancels_the_rest():
    scheduler, ran = TaskScheduler(max_workers=1), []
    release = threading.Event()
    scheduler.add_task("first", ran.append, (0,), priority=-1)
    scheduler.add_task("second", release.wait, (LONG,))
    for number in range(10):
        scheduler.add_task(f"{number}", ran.append, (number,), priority=1)
    results = scheduler.as_completed("threads")
    assert next(results).id == "first"
    results.close()
    release.set()
    assert ran == [0]
    # And it can run again.
    assert scheduler.run_sequential()["9"].status == "success"


@pytest.mark.parametrize("strategy", ["sequential", "threads"])
def test_cancelling_what_waits(strategy):
    scheduler = TaskScheduler(max_workers=1)
    done = []
    scheduler.add_task("first", lambda: done.append(scheduler.cancel("second")), priority=-1)
    scheduler.add_task("second", double, (1,))
    scheduler.add_task("third", double, (2,), depends_on=["second"])
    results = scheduler.run(strategy)
    assert done == [True]
    assert [results[name].status for name in ("first", "second", "third")] == ["success", "cancelled", "skipped"]
    assert scheduler.cancel("first") is False
    with pytest.raises(KeyError):
        scheduler.cancel("nobody")


def test_cancelling_what_waits_for_a_thread():
    scheduler, release = TaskScheduler(max_workers=1), threading.Event()
    scheduler.add_task("first", release.wait, (LONG,))
    scheduler.add_task("second", double, (1,))
    scheduler.add_task("third", double, (2,), depends_on=["second"])
    runner = threading.Thread(target=scheduler.run)
    runner.start()
    deadline = time.monotonic() + LONG
    # Until the pool has it, it is only marked.
    while (run := scheduler._run) is None or "second" not in run.running:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert scheduler.cancel("first") is False
    assert scheduler.cancel("second") is True
    release.set()
    runner.join(LONG)
    assert [scheduler.results[name].status for name in ("first", "second", "third")] == [
        "success",
        "cancelled",
        "skipped",
    ]


def test_cancelling_a_coroutine_that_runs():
    scheduler = TaskScheduler()

    async def slow():
        await asyncio.sleep(LONG)

    async def stop():
        return scheduler.cancel("slow")

    scheduler.add_task("slow", slow, priority=-1)
    scheduler.add_task("stop", stop)
    results = by_async(scheduler)
    assert results["slow"].status == "cancelled"
    assert results["stop"].value is True


def test_cancelling_a_coroutine_that_has_not_begun():
    scheduler, ran = TaskScheduler(), []

    async def stop():
        return scheduler.cancel("late")

    async def late():
        ran.append(True)

    scheduler.add_task("stop", stop, priority=-1)
    scheduler.add_task("late", late)
    scheduler.add_task("after", late, depends_on=["late"])
    results = by_async(scheduler)
    assert [results[name].status for name in ("stop", "late", "after")] in (
        ["success", "cancelled", "skipped"],
        # It had its turn before the loop came to cancelling it.
        ["success", "success", "success"],
    )


def test_cancelling_the_run_cancels_its_tasks():
    scheduler, ended = TaskScheduler(), []

    async def slow():
        try:
            await asyncio.sleep(LONG)
        finally:
            ended.append(True)

    scheduler.add_task("slow", slow)

    async def main():
        run = asyncio.create_task(scheduler.run_async())
        await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
    assert ended == [True]


async def leave(error):
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("terms", [{}, {"timeout": LONG}], ids=["plain", "timed"])
def test_what_ends_programs_ends_the_run(terms):
    scheduler, ran = TaskScheduler(), []

    async def late():
        await asyncio.sleep(LONG)
        ran.append(True)

    scheduler.add_task("late", late)
    scheduler.add_task("leave", leave, (SystemExit(3),), **terms)
    with pytest.raises(SystemExit) as caught:
        scheduler.run("async")
    assert (caught.value.code, ran) == (3, [])


def test_by_the_name_of_the_strategy():
    scheduler = TaskScheduler()
    scheduler.add_task("one", triple, (1,))
    scheduler.add_task("two", double, (scheduler.result_of("one"),))
    scheduler.add_task("bad", leave, (LookupError("nothing"),))
    results = scheduler.run("async")
    assert (results["one"].value, results["two"].value, results["bad"].status) == (3, 6, "error")
    assert repr(results["bad"].error) == "LookupError('nothing')"
    assert results["one"].traceback is None
    assert "LookupError: nothing" in results["bad"].traceback
    assert scheduler.results is results
    assert (len(scheduler), "one" in scheduler, "three" in scheduler, len(results)) == (3, True, False, 3)
    assert repr(scheduler) == "<TaskScheduler 'tasks': 3 tasks>"
    assert repr(results) == "<TaskResults of 'tasks': 2 success, 1 error>"


def test_the_same_function_is_looked_at_once_and_others_are_not_taken_for_it():
    scheduler = TaskScheduler()
    with pytest.raises(TypeError, match="function must be callable"):
        scheduler.add_task("nothing", None)
    for number, function in enumerate([double, triple, triple, double]):
        scheduler.add_task(f"{number}", function, (2,))
    with pytest.raises(TypeError, match="function must be callable"):
        scheduler.add_task("nothing", "double")
    with pytest.raises(TypeError, match="priority must be an integer"):
        scheduler.add_task("false", double, (1,), priority=False)
    assert [result.value for result in scheduler.run("sequential").values()] == [4, 6, 6, 4]


def test_a_duplicate_is_an_error():
    scheduler = TaskScheduler()
    scheduler.add_task("a", double, (1,))
    with pytest.raises(DuplicateTask, match="there is a task 'a' already"):
        scheduler.add_task("a", double, (2,))


def test_unknown_dependencies_and_circles_are_errors_before_anything_runs():
    ran = []
    scheduler = TaskScheduler()
    scheduler.add_task("a", ran.append, (1,))
    with pytest.raises(DependencyCycle, match="'x' depends on itself"):
        scheduler.add_task("x", double, (scheduler.result_of("x"),))
    scheduler.add_task("b", double, depends_on=["c"])
    with pytest.raises(UnknownDependency, match="task 'b' depends on 'c', and there is no such task"):
        scheduler.run("sequential")
    scheduler.add_task("c", double, depends_on=["d"])
    scheduler.add_task("d", double, depends_on=["b"])
    scheduler.add_task("e", double, depends_on=["d"])
    with pytest.raises(DependencyCycle, match="in a circle: 'b' needs 'c' needs 'd' needs 'b'"):
        by_async(scheduler)
    assert ran == []


def generator():
    yield


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"id": 3}, TypeError, "id must be a string, not int: 3"),
        ({"function": 3}, TypeError, "function must be callable, not int: 3"),
        ({"function": generator}, TypeError, "function must be a function or a coroutine function"),
        ({"args": "ab"}, TypeError, "args must be a tuple of arguments, not str: 'ab'"),
        ({"depends_on": "ab"}, TypeError, "depends_on must be several names"),
        ({"depends_on": [3]}, TypeError, "depends_on must name tasks by strings"),
        ({"priority": "high"}, TypeError, "priority must be an integer"),
        ({"timeout": -1}, ValueError, "timeout must be"),
        ({"retry": 3}, TypeError, "retry must be a ferrule.Retry"),
        ({"limit": 3}, TypeError, "limit must be a ferrule.RateLimiter"),
    ],
)
def test_bad_tasks(arguments, error, text):
    scheduler = TaskScheduler()
    with pytest.raises(error, match=text):
        scheduler.add_task(**{"id": "a", "function": double, **arguments})
    assert len(scheduler) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"name": 3}, TypeError),
        ({"monitor": 3}, TypeError),
        ({"log": "loud"}, ValueError),
    ],
)
def test_bad_schedulers(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        TaskScheduler(**arguments)


def test_bad_strategies():
    scheduler = TaskScheduler()
    with pytest.raises(
        ValueError, match="strategy must be 'sequential', 'threads', 'processes', 'async' or an Executor"
    ):
        scheduler.run("fibres")
    with pytest.raises(ValueError, match="call run_async with a function as progress"):
        scheduler.as_completed("async")
    with pytest.raises(TypeError, match="progress must be True, False or a function"):
        scheduler.run("sequential", progress=3)


def test_inside_an_event_loop_run_says_what_to_call():
    async def main():
        with pytest.raises(RuntimeError, match="await run_async"):
            TaskScheduler().run("threads")

    asyncio.run(main())


def test_one_run_at_a_time():
    scheduler = TaskScheduler()
    scheduler.add_task("inner", lambda: scheduler.run("sequential"))
    error = scheduler.run("sequential")["inner"].error
    assert isinstance(error, RuntimeError)
    assert "run already" in str(error)


@pytest.mark.thread_unsafe(reason="reads the log of the whole process")
def test_progress_and_monitor_and_log(caplog):
    monitor, seen = PerformanceMonitor(), []
    scheduler = TaskScheduler(name="job", monitor=monitor, log="info")
    scheduler.add_task("good", double, (1,))
    scheduler.add_task("bad", fail)
    with caplog.at_level(logging.INFO, "ferrule.scheduling"):
        scheduler.run("threads", progress=seen.append)
    assert {result.id for result in seen} == {"good", "bad"}
    assert monitor.recorder("good")[1].stats().count == 1
    records = {record.task_id: record for record in caplog.records}
    assert (records["bad"].status, records["bad"].ferrule_name, records["bad"].attempts) == ("error", "job", 1)


@pytest.mark.thread_unsafe(reason="reads what the whole process prints")
def test_a_bar(capsys):
    pytest.importorskip("tqdm")
    scheduler = TaskScheduler(name="job")
    scheduler.add_task("good", double, (1,))
    scheduler.run("sequential", progress=True)
    assert "1/1" in capsys.readouterr().err


@pytest.mark.thread_unsafe(reason="hides a module from the whole process")
def test_a_bar_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    scheduler = TaskScheduler()
    scheduler.add_task("good", double, (1,))
    with pytest.raises(MissingExtra, match=r"ferrule\[progress\]"):
        scheduler.run(progress=True)
    assert scheduler.run()["good"].value == 2


def test_a_progress_function_that_raises_ends_the_run():
    scheduler = TaskScheduler(max_workers=1)
    scheduler.add_task("a", double, (1,))

    def hook(_):
        raise LookupError("hook")

    for run in IN_PROCESS.values():
        with pytest.raises(LookupError, match="hook"):
            run(scheduler, progress=hook)
    assert scheduler.run("sequential")["a"].value == 2


def test_pictures(tmp_path):
    scheduler = TaskScheduler(max_workers=2, name="<job>")
    scheduler.add_task("load & go", double, (1,))
    scheduler.add_task("bad", fail)
    scheduler.add_task("never", double, (scheduler.result_of("bad"),))
    results = scheduler.run("threads")
    results.timeline(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text("utf-8")
    assert "&lt;job&gt;" in page
    assert "load &amp; go" in page
    assert "<h2>Did not run</h2><ul><li>never: skipped" in page
    assert "http" not in page
    results.trace(tmp_path / "run.json")
    events = json.loads((tmp_path / "run.json").read_text("utf-8"))["traceEvents"]
    spans = {event["name"]: event for event in events if event["ph"] == "X"}
    assert set(spans) == {"load & go", "bad"}
    assert all(span["dur"] >= 0 for span in spans.values())
    assert any(event["name"] == "thread_name" for event in events)


def test_what_can_t_be_pickled_fails_alone():
    scheduler = TaskScheduler(max_workers=1)
    scheduler.add_task("unpicklable", double, (threading.Lock(),))
    scheduler.add_task("fine", double, (os.getpid(),))
    results = scheduler.run("processes")
    assert results["unpicklable"].status == "error"
    assert results["fine"].value == 2 * os.getpid()
    assert results["fine"].worker.startswith("process ")


def test_a_deep_chain():
    scheduler = TaskScheduler(max_workers=2)
    scheduler.add_task("0", double, (1,))
    for number in range(1, 2000):
        scheduler.add_task(f"{number}", add, (1, scheduler.result_of(f"{number - 1}")))
    for run in (TaskScheduler.run_sequential, TaskScheduler.run_threaded, by_async):
        assert run(scheduler)["1999"].value == 2001


@pytest.mark.subprocess
def test_ctrl_c_ends_a_run(python):
    run = python(
        """
        import os, signal, threading, time
        from ferrule import TaskScheduler
        scheduler = TaskScheduler(max_workers=2)
        for number in range(10):
            scheduler.add_task(f"{number}", time.sleep, (600,))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        scheduler.run("threads")
    """,
        timeout=30,
    )
    assert run.stderr.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.thread_unsafe(reason="one cluster is enough")
@pytest.mark.filterwarnings("ignore")
def test_dask():
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        scheduler = TaskScheduler(max_workers=2)
        scheduler.add_task("load", double, (5,))
        scheduler.add_task("sum", add, (1, scheduler.result_of("load")))
        scheduler.add_task("broken", fail)
        results = scheduler.run(client.get_executor())
        assert results["sum"].value == 11
        assert isinstance(results["broken"].error, LookupError)

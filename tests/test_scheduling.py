"""The future and the executor."""

import asyncio
import collections
import concurrent.futures
import contextvars
import copy
import gc
import itertools
import logging
import os
import pickle
import signal
import sys
import sysconfig
import threading
import time
import weakref
from concurrent.futures import CancelledError, InvalidStateError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ferrule
from ferrule import ExecutorClosed, ExecutorFull, Retry, TaskTimeout, ThreadPoolExecutor, testing
from ferrule.scheduling import BrokenThreadPool, ExecutorView, Future

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# Long enough for a loaded machine, and never reached when all is well.
LONG = 30

# How many programs end with busy workers: a hundred, or as many as are asked for.
EXITS = int(os.environ.get("FERRULE_EXITS", "100"))

# How they end. What is waited for at the end is short, what is endless is given up.
LEAVING = [
    # Ctrl-C, while tasks compute, sleep, wait and have been abandoned.
    """
    import itertools, sys, time
    from ferrule import ThreadPoolExecutor
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as executor:
            for _ in range(2):
                executor.submit(lambda: [None for _ in iter(int, 1) if _])
            executor.submit(time.sleep, 600)
            executor.submit(sum, itertools.repeat(1, 100_000))
            executor.map(str, range(1000))
            executor.options(timeout=0.001).submit(time.sleep, 600)
            time.sleep(int(sys.argv[1]) / 1000)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("left")
    """,
    # The end of the program, while the abandoned go on.
    """
    import sys, time
    from ferrule import TaskTimeout, ThreadPoolExecutor
    sys.setswitchinterval(1e-5)
    executor = ThreadPoolExecutor(2)
    late = [executor.options(timeout=0.001).submit(lambda: [None for _ in iter(int, 1) if _]) for _ in range(2)]
    assert all(isinstance(future.exception(), TaskTimeout) for future in late)
    executor.submit(time.sleep, int(sys.argv[1]) / 1000)
    print("left")
    """,
    # The end of the program, while tasks submit tasks.
    """
    import sys, time
    from ferrule import ExecutorClosed, ThreadPoolExecutor
    executor = ThreadPoolExecutor(3)
    def again():
        try:
            executor.submit(again)
        except ExecutorClosed:
            pass
    for _ in range(5):
        executor.submit(again)
    time.sleep(int(sys.argv[1]) / 1000)
    print("left")
    """,
    # The end of a program that gives up what it has not begun.
    """
    import sys, time
    from ferrule import ThreadPoolExecutor
    executor = ThreadPoolExecutor(2, on_exit="cancel")
    futures = [executor.submit(time.sleep, 0.001) for _ in range(10_000)]
    time.sleep(int(sys.argv[1]) / 1000)
    print("left")
    """,
]


@pytest.fixture(autouse=True)
def quick_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(max_workers=2) as executor:
        yield executor


def wait_until(condition, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


class BoomError(Exception):
    pass


class TestFuture:
    def test_is_a_real_one(self):
        future = Future()
        assert isinstance(future, concurrent.futures.Future)
        assert not future.done()
        assert not future.running()
        assert not future.cancelled()

    def test_takes_a_result_once(self):
        future = Future()
        future.set_result(1)
        assert future.result() == 1
        assert future.exception() is None
        with pytest.raises(InvalidStateError, match="finished returned int"):
            future.set_result(2)
        with pytest.raises(InvalidStateError):
            future.set_exception(BoomError())
        assert future.result() == 1

    def test_raises_the_exception_as_it_was(self):
        future, error = Future(), BoomError("here")
        future.set_exception(error)
        with pytest.raises(BoomError) as caught:
            future.result()
        assert caught.value is error
        assert future.exception() is error

    def test_falsy_exceptions_are_exceptions(self):
        class FalsyError(Exception):
            def __bool__(self):
                return False

        future = Future()
        future.set_exception(FalsyError())
        with pytest.raises(FalsyError):
            future.result()

    @pytest.mark.parametrize("timeout", [0, 0.001, -1])
    def test_waits_no_longer_than_that(self, timeout):
        with pytest.raises(TimeoutError):
            Future().result(timeout)
        with pytest.raises(TimeoutError):
            Future().exception(timeout=timeout)

    @pytest.mark.parametrize("timeout", ["1", True, object()])
    def test_timeouts_are_seconds(self, timeout):
        with pytest.raises(TypeError, match="timeout must be seconds"):
            Future().result(timeout)

    @pytest.mark.thread_unsafe(reason="turns the clock of the whole process")
    def test_deadlines_keep_to_the_manual_clock(self):
        with testing.manual_clock() as clock:
            future, late = Future(), threading.Event()

            def wait():
                try:
                    future.result(60)
                except TimeoutError:
                    late.set()

            thread = threading.Thread(target=wait)
            thread.start()
            while not late.is_set():
                clock.advance(30)
                time.sleep(0.001)
            thread.join()

    def test_cancelling(self):
        future, told = Future(), []
        future.add_done_callback(told.append)
        assert future.cancel()
        assert future.cancel()
        assert future.cancelled()
        assert told == [future]
        for wait in (future.result, future.exception):
            with pytest.raises(CancelledError):
                wait()
        assert future.set_running_or_notify_cancel() is False

    def test_running_can_t_be_cancelled(self):
        future = Future()
        assert future.set_running_or_notify_cancel() is True
        assert future.running()
        assert not future.cancel()
        with pytest.raises(RuntimeError, match="unexpected state"):
            future.set_running_or_notify_cancel()
        future.set_result(None)
        assert not future.cancel()

    def test_callbacks_come_in_order_and_once(self):
        future, told = Future(), []
        for number in range(3):
            future.add_done_callback(lambda _, number=number: told.append(number))
        future.set_result(None)
        future.add_done_callback(lambda _: told.append("at once"))
        assert told == [0, 1, 2, "at once"]

    @pytest.mark.thread_unsafe(reason="reads the log of the whole process")
    def test_a_callback_that_raises_is_logged_and_no_more(self, caplog):
        future, told = Future(), []

        def fail(_):
            raise BoomError

        future.add_done_callback(fail)
        future.add_done_callback(told.append)
        future.set_result(None)
        future.add_done_callback(fail)
        assert told == [future]
        assert [record.exc_info[0] for record in caplog.records] == [BoomError, BoomError]
        assert "exception calling callback for <Future" in caplog.records[0].getMessage()

    def test_what_ends_programs_comes_out_of_callbacks(self):
        future, told = Future(), []

        def leave(_):
            raise SystemExit(3)

        future.add_done_callback(leave)
        future.add_done_callback(told.append)
        with pytest.raises(SystemExit):
            future.set_result(None)
        assert told == [future]
        assert future.done()

    def test_wait_and_as_completed_mix_ours_and_theirs(self):
        ours, theirs = [Future() for _ in range(3)], [concurrent.futures.Future() for _ in range(3)]
        futures = [*ours, *theirs]
        ended = []

        def finish():
            for number, future in enumerate(futures):
                future.set_result(number)

        done, not_done = concurrent.futures.wait(futures, timeout=0)
        assert not done
        assert not_done == set(futures)
        thread = threading.Thread(target=finish)
        thread.start()
        ended = [future.result() for future in concurrent.futures.as_completed(futures, timeout=LONG)]
        thread.join()
        assert sorted(ended) == list(range(6))
        assert concurrent.futures.wait(futures, timeout=LONG).done == set(futures)

    def test_wait_returns_at_the_first_exception(self):
        futures = [Future() for _ in range(3)]
        threading.Timer(0.01, futures[1].set_exception, (BoomError(),)).start()
        done, _ = concurrent.futures.wait(futures, timeout=LONG, return_when="FIRST_EXCEPTION")
        assert done == {futures[1]}

    def test_asyncio_can_await_it(self):
        async def main():
            future = Future()
            threading.Timer(0.01, future.set_result, (7,)).start()
            assert await asyncio.wrap_future(future) == 7
            doomed = Future()
            wrapped = asyncio.wrap_future(doomed)
            wrapped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wrapped
            await asyncio.sleep(0)
            assert doomed.cancelled()

        asyncio.run(main())

    def test_no_wake_up_is_lost(self):
        for _ in range(300):
            future = Future()
            threads = [
                threading.Thread(target=wait)
                for wait in (
                    future.result,
                    lambda future=future: concurrent.futures.wait([future], LONG),
                    lambda future=future: future._condition.acquire() and future._condition.release(),
                )
            ]
            for thread in threads:
                thread.start()
            future.set_result(1)
            for thread in threads:
                thread.join(LONG)
                assert not thread.is_alive()

    def test_state_set_by_hand_under_the_condition(self):
        # As CPython's own tests do it.
        future, got = Future(), []
        thread = threading.Thread(target=lambda: got.append(future.exception(LONG)))
        thread.start()
        error = BoomError()
        with future._condition:
            future._state = "FINISHED"
            future._exception = error
            future._condition.notify_all()
        thread.join(LONG)
        assert got == [error]
        with pytest.raises(ValueError, match="_state must be a state of a future"):
            future._state = "DONE"

    def test_snapshot(self):
        future = Future()
        assert future._get_snapshot() == (False, False, None, None)
        future.set_result(5)
        assert future._get_snapshot() == (True, False, 5, None)

    @pytest.mark.parametrize("duplicate", [copy.copy, pickle.dumps])
    def test_belongs_to_its_process(self, duplicate):
        with pytest.raises(TypeError, match="a Future can't be pickled or copied"):
            duplicate(Future())

    def test_repr(self):
        future = Future()
        assert "state=pending" in repr(future)
        future.set_exception(BoomError())
        assert "state=finished raised BoomError" in repr(future)

    @pytest.mark.thread_unsafe(reason="collects what other threads have made")
    def test_circles_are_collected(self):
        class Value:
            pass

        future, value = Future(), Value()
        future.set_result(value)
        value.future = future
        future._condition, future._waiters  # noqa: B018 - they come into being
        dead = weakref.ref(value)
        del future, value
        gc.collect()
        assert dead() is None

    def test_subclasses_may_have_an_init_of_their_own(self):
        class Named(Future):
            def __init__(self, name):
                super().__init__()
                self.name = name

        future = Named("x")
        future.set_result(future.name)
        assert future.result() == "x"


class TestSubmitting:
    def test_results_and_errors(self, pool):
        assert pool.submit(pow, 2, 8).result() == 256
        assert pool.submit(lambda *args, **kwargs: (args, kwargs), 1, self=2, fn=3).result() == (
            (1,),
            {"self": 2, "fn": 3},
        )
        with pytest.raises(ZeroDivisionError) as caught:
            pool.submit(lambda: 1 / 0).result()
        assert caught.traceback[-1].name == "<lambda>"
        with pytest.raises(TypeError):
            pool.submit()

    def test_exceptions_that_end_programs_stay_in_the_future(self, pool):
        def leave():
            raise SystemExit(1)

        assert isinstance(pool.submit(leave).exception(), SystemExit)
        assert pool.submit(int).result() == 0

    def test_is_an_executor_with_the_standard_library_s_parameters(self):
        seen = []
        with ThreadPoolExecutor(1, "abc", seen.append, ("ready",)) as executor:
            assert isinstance(executor, concurrent.futures.Executor)
            assert executor.submit(lambda: threading.current_thread().name).result() == "abc_0"
        assert seen == ["ready"]

    def test_default_width(self):
        count = getattr(os, "process_cpu_count", os.cpu_count)()
        assert ThreadPoolExecutor()._max_workers == min(32, count + 4)

    @pytest.mark.parametrize(
        ("arguments", "error", "text"),
        [
            ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
            ({"max_workers": 1.5}, TypeError, "max_workers must be an integer, not float: 1.5"),
            ({"max_workers": True}, TypeError, "max_workers must be an integer"),
            ({"initializer": 3}, TypeError, "initializer must be a callable"),
            ({"max_pending": 0}, ValueError, "max_pending must be 1 or more"),
            ({"when_full": "wait"}, ValueError, "when_full must be 'block' or 'raise', got 'wait'"),
            ({"on_exit": "kill"}, ValueError, "on_exit must be 'drain' or 'cancel', got 'kill'"),
        ],
    )
    def test_bad_arguments(self, arguments, error, text):
        with pytest.raises(error, match=text):
            ThreadPoolExecutor(**arguments)

    def test_an_executor_whose_init_was_not_called_says_so(self):
        class Forgetful(ThreadPoolExecutor):
            def __init__(self):
                pass

        with pytest.raises(RuntimeError, match="__init__ has not been called"):
            Forgetful().submit(int)

    def test_subclasses(self):
        class Small(ThreadPoolExecutor):
            def __init__(self, *, colour):
                super().__init__(max_workers=1)
                self.colour = colour

        with Small(colour="red") as executor:
            assert executor.submit(str).result() == ""

    def test_idle_threads_are_used_again(self):
        with ThreadPoolExecutor(8) as executor:
            for _ in range(50):
                executor.submit(int).result()
            if not FREE_THREADED:
                assert len(executor._threads) == 1

    def test_as_many_threads_as_there_is_work_for(self):
        release = threading.Event()
        with ThreadPoolExecutor(4) as executor:
            for _ in range(20):
                executor.submit(release.wait)
            assert len(executor._threads) == 4
            release.set()

    def test_a_task_that_blocks_holds_nobody_up(self):
        release = threading.Event()
        with ThreadPoolExecutor(2) as executor:
            for _ in range(200):
                blocked = executor.submit(release.wait, LONG)
                # The other worker, idle or not, must take this one.
                assert executor.submit(int).result(LONG) == 0
                release.set()
                assert blocked.result(LONG) is True
                release.clear()

    def test_context_variables_travel_and_stay_apart(self):
        variable = contextvars.ContextVar("variable", default="unset")

        def change(to):
            before = variable.get()
            variable.set(to)
            return before

        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(change, "leaked").result() == "unset"
            assert executor.submit(variable.get).result() == "unset"
            token = variable.set("travels")
            assert executor.submit(change, "leaked").result() == "travels"
            assert list(executor.map(lambda _: variable.get(), range(2))) == ["travels", "travels"]
            variable.reset(token)
            assert executor.submit(variable.get).result() == "unset"

    @pytest.mark.thread_unsafe(reason="waits for what other threads hold")
    def test_nothing_is_held_once_a_task_is_over(self, pool):
        class Thing:
            def method(self):
                return None

        thing = Thing()
        dead = weakref.ref(thing)
        pool.submit(thing.method).result()
        del thing
        wait_until(lambda: dead() is None)

    @pytest.mark.thread_unsafe(reason="collects what other threads have made")
    def test_results_of_map_are_not_held(self, pool):
        class Thing:
            pass

        for thing in pool.map(lambda _: Thing(), range(10)):
            dead = weakref.ref(thing)
            del thing
            if FREE_THREADED:
                # What another thread has made is let go by that thread, which sleeps, or by the collector.
                gc.collect()
            wait_until(lambda dead=dead: dead() is None)

    def test_after_shutdown(self):
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        executor.shutdown()
        with pytest.raises(ExecutorClosed, match="cannot schedule new futures after shutdown"):
            executor.submit(int)
        with pytest.raises(RuntimeError):
            executor.map(int, ["1"])

    def test_can_t_be_pickled(self, pool):
        with pytest.raises(TypeError, match="its threads belong to its process"):
            pickle.dumps(pool)

    def test_stats(self):
        with ThreadPoolExecutor(2) as executor:
            assert executor.stats() == (0, 0, 0, 0)
            release = threading.Event()
            futures = [executor.submit(release.wait, LONG) for _ in range(5)]
            wait_until(lambda: executor.stats().pending == 3)
            assert executor.stats().workers == 2
            release.set()
            concurrent.futures.wait(futures)
            wait_until(lambda: executor.stats().idle == 2)

    @pytest.mark.parametrize("threads", [4])
    def test_every_task_runs_once_whoever_submits_and_cancels(self, threads):
        ran = itertools.count()
        with ThreadPoolExecutor(3) as executor:

            def submit():
                futures = [executor.submit(next, ran) for _ in range(500)]
                return [future for future in futures[::3] if future.cancel()]

            with ThreadPoolExecutor(threads) as others:
                cancelled = sum(len(future.result()) for future in [others.submit(submit) for _ in range(threads)])
        assert next(ran) == threads * 500 - cancelled

    def test_an_executor_nobody_holds_finishes_and_goes(self):
        executor = ThreadPoolExecutor(2)
        futures = [executor.submit(time.sleep, 0.001) for _ in range(10)]
        threads = list(executor._threads)
        del executor
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
        assert all(future.done() for future in futures)


class TestNested:
    def test_a_task_that_waits_for_a_queued_one_runs_it(self):
        with ThreadPoolExecutor(1) as executor:

            def outer(depth):
                return 0 if depth == 0 else 1 + executor.submit(outer, depth - 1).result()

            assert executor.submit(outer, 20).result(LONG) == 20

    def test_only_the_awaited_one(self):
        with ThreadPoolExecutor(1) as executor:
            order = []

            def outer():
                first, second = executor.submit(order.append, "first"), executor.submit(order.append, "second")
                second.result()
                order.append("outer")
                return first

            executor.submit(outer).result(LONG).result(LONG)
            assert order == ["second", "outer", "first"]

    def test_its_errors_come_out_where_it_is_awaited(self):
        with ThreadPoolExecutor(1) as executor:

            def outer():
                with pytest.raises(ZeroDivisionError):
                    executor.submit(lambda: 1 / 0).result()
                return type(executor.submit(lambda: 1 / 0).exception())

            assert executor.submit(outer).result(LONG) is ZeroDivisionError

    def test_a_task_that_waits_for_itself_is_told(self):
        with ThreadPoolExecutor(1) as executor:
            box, ready = [], threading.Event()

            def wait():
                ready.wait(LONG)
                box[0].result()

            box.append(executor.submit(wait))
            ready.set()
            with pytest.raises(RuntimeError, match="a task waits for its own result"):
                box[0].result(LONG)

    def test_other_executors_tasks_are_waited_for(self):
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            name = one.submit(lambda: other.submit(lambda: threading.current_thread().name).result()).result(LONG)
            assert name.startswith(other._thread_name_prefix)


class TestPriorities:
    def order(self, submissions):
        order, release = [], threading.Event()
        with ThreadPoolExecutor(1) as executor:
            blocker = executor.submit(release.wait, LONG)
            wait_until(blocker.running)
            for name, priority in submissions:
                executor.options(priority=priority).submit(order.append, name)
            release.set()
        return order

    @pytest.mark.thread_unsafe(reason="stops the clock of the whole process")
    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(-3, 3), max_size=30))
    def test_lower_numbers_first_and_equals_as_they_came(self, priorities):
        with testing.manual_clock():
            order = self.order(list(enumerate(priorities)))
        assert order == [number for number, _ in sorted(enumerate(priorities), key=lambda pair: pair[1])]

    @pytest.mark.thread_unsafe(reason="turns the clock of the whole process")
    def test_waiting_raises_a_standing(self):
        with testing.manual_clock() as clock:
            order, release = [], threading.Event()
            with ThreadPoolExecutor(1) as executor:
                wait_until(executor.submit(release.wait, LONG).running)
                executor.options(priority=3).submit(order.append, "patient")
                for second in range(6):
                    executor.submit(order.append, second)
                    clock.advance(1)
                release.set()
        # At the moment of a tie, who came first.
        assert order == [0, 1, 2, "patient", 3, 4, 5]

    @pytest.mark.parametrize("priority", [1.0, "1", None, True])
    def test_bad_priorities(self, pool, priority):
        with pytest.raises(TypeError, match="priority must be an integer"):
            pool.options(priority=priority)
        with pytest.raises(ValueError, match="priority must fit into 32 bits"):
            pool.options(priority=2**40)


class TestOptions:
    def test_views_are_executors(self, pool):
        view = pool.options(priority=2)
        assert isinstance(view, concurrent.futures.Executor)
        assert isinstance(view, ExecutorView)
        assert view.submit(pow, 2, 3).result() == 8
        assert list(view.map(abs, [-1, 2], buffersize=1)) == [1, 2]
        assert "priority=2" in repr(view)
        assert "timeout=5.0" in repr(view.options(timeout=5))
        assert "priority=2" in repr(view.options(timeout=5))

    def test_shutting_a_view_down_is_shutting_the_executor_down(self):
        executor = ThreadPoolExecutor(1)
        with executor.options(priority=1) as view:
            assert view.submit(int).result() == 0
        with pytest.raises(ExecutorClosed):
            executor.submit(int)
        executor = ThreadPoolExecutor(1)
        executor.options(priority=1).shutdown()
        with pytest.raises(ExecutorClosed):
            executor.submit(int)

    def test_retrying(self, pool):
        left = [BoomError(), BoomError()]

        def flaky(*, value):
            if left:
                raise left.pop()
            return value

        view = pool.options(retry=Retry(on=BoomError, max_attempts=3, delay=0))
        assert view.submit(flaky, value=5).result() == 5
        left[:] = [BoomError()]
        assert list(view.map(lambda value: flaky(value=value), [1, 2])) == [1, 2]
        with pytest.raises(TypeError, match=r"retry must be a ferrule\.Retry"):
            pool.options(retry=3)

    def test_a_task_that_takes_too_long_is_abandoned_and_its_worker_replaced(self):
        release = threading.Event()
        with ThreadPoolExecutor(1) as executor:
            slow = executor.options(timeout=0.05).submit(release.wait, LONG)
            after = executor.submit(threading.get_ident)
            with pytest.raises(TaskTimeout, match=r"longer than 0\.05 s") as caught:
                slow.result(LONG)
            assert isinstance(caught.value, TimeoutError)
            assert after.result(LONG)
            assert executor.stats().abandoned == 1
            release.set()
            wait_until(lambda: executor.stats().abandoned == 0)
            assert executor.submit(int).result(LONG) == 0
            assert len(executor._threads) == 1

    def test_without_a_thread_that_watches_there_is_no_task(self, monkeypatch):
        start = threading.Thread.start

        def refuse(thread):
            if thread.name.endswith("_watch"):
                raise RuntimeError("can't start new thread")
            start(thread)

        with ThreadPoolExecutor(1) as executor:
            limited = executor.options(timeout=LONG)
            monkeypatch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                limited.submit(pow, 2, 3)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                limited.map(abs, [1])
            assert executor.submit(pow, 2, 4).result(LONG) == 16
            monkeypatch.undo()
            assert limited.submit(pow, 2, 5).result(LONG) == 32
            assert executor.stats().pending == 0

    def test_no_more_threads_are_abandoned_than_there_are_workers(self):
        release = threading.Event()
        with ThreadPoolExecutor(1) as executor:
            view = executor.options(timeout=0.02)
            slow = [view.submit(release.wait, LONG) for _ in range(2)]
            for future in slow:
                assert isinstance(future.exception(LONG), TaskTimeout)
            assert executor.stats().abandoned == 1
            queued = executor.submit(int)
            release.set()
            assert queued.result(LONG) == 0

    def test_in_time(self, pool):
        assert pool.options(timeout=LONG).submit(pow, 2, 5).result() == 32

    @pytest.mark.thread_unsafe(reason="turns the clock of the whole process")
    def test_timeouts_keep_to_the_manual_clock(self):
        with testing.manual_clock() as clock:
            release = threading.Event()
            with ThreadPoolExecutor(1) as executor:
                slow = executor.options(timeout=3600).submit(release.wait, LONG)
                wait_until(slow.running)
                while not slow.done():
                    clock.advance(1800)
                    time.sleep(0.001)
                release.set()
                assert isinstance(slow.exception(), TaskTimeout)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan")])
    def test_bad_timeouts(self, pool, timeout):
        with pytest.raises(ValueError, match="timeout must be"):
            pool.options(timeout=timeout)


class TestMap:
    def test_like_the_built_in(self, pool):
        assert list(pool.map(pow, range(10), range(10), chunksize=3)) == list(map(pow, range(10), range(10)))
        assert list(pool.map(abs, [])) == []

    def test_submits_all_at_once(self):
        seen = []
        with ThreadPoolExecutor(2) as executor:
            executor.map(seen.append, range(10))
        assert sorted(seen) == list(range(10))

    @pytest.mark.parametrize("buffersize", [1, 4, 64])
    def test_pulls_no_more_than_it_may(self, pool, buffersize):
        pulled = itertools.count()
        results = pool.map(abs, pulled, buffersize=buffersize)
        assert next(pulled) <= buffersize
        for _ in range(100):
            next(results)
        results.close()
        # Two of the numbers are the test's own.
        assert next(pulled) <= 100 + 2 * 2 + buffersize + 2

    def test_an_error_cancels_the_rest(self):
        release, ran = threading.Event(), []

        def call(number):
            if number == 1:
                raise BoomError
            if number > 2:
                release.wait(LONG)
            ran.append(number)
            return number

        with ThreadPoolExecutor(1) as executor:
            results = executor.map(call, range(100))
            assert next(results) == 0
            with pytest.raises(BoomError):
                next(results)
            release.set()
        assert len(ran) < 10

    def test_deadlines(self, pool):
        release = threading.Event()
        results = pool.map(lambda _: release.wait(LONG), range(3), timeout=0.05)
        with pytest.raises(TimeoutError):
            next(results)
        release.set()

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [({"buffersize": 0}, ValueError), ({"buffersize": 1.5}, TypeError), ({"chunksize": 0}, ValueError)],
    )
    def test_bad_arguments(self, pool, arguments, error):
        with pytest.raises(error):
            pool.map(abs, [1], **arguments)

    def test_an_iterable_that_raises(self, pool):
        def items():
            yield 1
            raise BoomError

        with pytest.raises(BoomError):
            pool.map(abs, items())
        assert pool.submit(int).result() == 0


class TestBounds:
    def test_blocks_until_there_is_room(self):
        release = threading.Event()
        with ThreadPoolExecutor(1, max_pending=2) as executor:
            wait_until(executor.submit(release.wait, LONG).running)
            futures = [executor.submit(int) for _ in range(2)]
            submitted = threading.Event()

            def submit():
                futures.append(executor.submit(int))
                submitted.set()

            thread = threading.Thread(target=submit)
            thread.start()
            assert not submitted.wait(0.05)
            release.set()
            assert submitted.wait(LONG)
            thread.join()
            assert [future.result() for future in futures] == [0, 0, 0]

    def test_raises(self):
        release = threading.Event()
        with ThreadPoolExecutor(1, max_pending=1, when_full="raise") as executor:
            wait_until(executor.submit(release.wait, LONG).running)
            queued = executor.submit(int)
            with pytest.raises(ExecutorFull, match="max_pending"):
                executor.submit(int)
            # Cancelling makes room.
            assert queued.cancel()
            executor.submit(int)
            release.set()

    def test_a_worker_that_finds_its_own_queue_full_helps_itself(self):
        with ThreadPoolExecutor(1, max_pending=1) as executor:

            def spawn():
                return [executor.submit(threading.get_ident).result() for _ in range(5)]

            assert len(set(executor.submit(spawn).result(LONG))) == 1

    def test_is_awaited(self):
        async def main():
            release = threading.Event()
            with ThreadPoolExecutor(1, max_pending=1) as executor:
                wait_until(executor.submit(release.wait, LONG).running)
                await executor.submit_async(int)
                waiting = asyncio.create_task(executor.options(priority=1).submit_async(pow, 2, 3))
                await asyncio.sleep(0.02)
                assert not waiting.done()
                doomed = asyncio.create_task(executor.submit_async(int))
                await asyncio.sleep(0)
                doomed.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await doomed
                release.set()
                future = await asyncio.wait_for(waiting, LONG)
                assert await asyncio.wrap_future(future) == 8

        asyncio.run(main())

    def test_shutdown_tells_those_who_wait_for_room(self):
        release, errors = threading.Event(), []
        executor = ThreadPoolExecutor(1, max_pending=1)
        wait_until(executor.submit(release.wait, LONG).running)
        executor.submit(int)

        def submit():
            try:
                executor.submit(int)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=submit)
        thread.start()
        time.sleep(0.02)
        executor.shutdown(wait=False)
        thread.join(LONG)
        release.set()
        executor.shutdown()
        assert isinstance(errors[0], ExecutorClosed)


class TestInitializer:
    @pytest.mark.thread_unsafe(reason="reads the log of the whole process")
    def test_failing_breaks_the_executor(self, caplog):
        def fail():
            time.sleep(0.01)
            raise BoomError("no")

        caplog.set_level(logging.CRITICAL, "concurrent.futures")
        executor = ThreadPoolExecutor(2, initializer=fail)
        future = executor.submit(int)
        with pytest.raises(BrokenThreadPool):
            future.result(LONG)
        with pytest.raises(BrokenThreadPool):
            executor.submit(int)
        executor.shutdown()
        assert "Exception in initializer" in caplog.text


class TestLeaving:
    def test_drains(self):
        seen = []
        with ThreadPoolExecutor(1) as executor:
            for number in range(20):
                executor.submit(seen.append, number)
        assert seen == list(range(20))

    def test_cancels(self):
        release = threading.Event()
        with ThreadPoolExecutor(1, on_exit="cancel") as executor:
            running = executor.submit(release.wait, LONG)
            wait_until(running.running)
            queued = executor.submit(int)
            threading.Timer(0.02, release.set).start()
        assert running.done()
        assert not running.cancelled()
        assert queued.cancelled()

    def test_an_exception_cancels(self):
        release, futures = threading.Event(), []

        def leave():
            with ThreadPoolExecutor(1) as executor:
                futures.append(executor.submit(release.wait, LONG))
                wait_until(futures[0].running)
                futures.append(executor.submit(int))
                threading.Timer(0.02, release.set).start()
                raise BoomError

        with pytest.raises(BoomError):
            leave()
        assert futures[0].result() is True
        assert futures[1].cancelled()

    def test_what_is_cancelled_wakes_who_waits(self):
        release = threading.Event()
        executor = ThreadPoolExecutor(1)
        wait_until(executor.submit(release.wait, LONG).running)
        queued = executor.submit(int)
        threading.Timer(0.02, executor.shutdown, kwargs={"wait": False, "cancel_futures": True}).start()
        assert concurrent.futures.wait([queued], LONG).done == {queued}
        release.set()
        executor.shutdown()

    def test_a_task_may_shut_its_executor_down(self):
        executor = ThreadPoolExecutor(2)
        executor.submit(executor.shutdown).result(LONG)
        executor.shutdown()


@pytest.mark.subprocess
class TestProcess:
    def test_what_is_queued_is_done_before_the_interpreter_goes(self, python):
        run = python("""
            import time
            from ferrule import ThreadPoolExecutor
            executor = ThreadPoolExecutor(2)
            executor.submit(time.sleep, 0.1)
            for number in range(5):
                executor.submit(print, number, flush=True)
            executor.shutdown(wait=False)
        """)
        assert (run.returncode, run.stderr) == (0, "")
        assert sorted(run.stdout.split()) == list("01234")

    def test_no_tasks_are_taken_at_exit(self, python):
        run = python("""
            import atexit
            @atexit.register
            def late():
                try:
                    executor.submit(print)
                except RuntimeError as error:
                    print(error)
            from ferrule import ThreadPoolExecutor
            executor = ThreadPoolExecutor(2)
            executor.submit(int).result()
        """)
        assert run.stdout.strip() == "cannot schedule new futures after interpreter shutdown"

    @pytest.mark.parametrize(
        "block", ["with ThreadPoolExecutor(2) as executor:", "if executor := ThreadPoolExecutor(2):"]
    )
    def test_ctrl_c_ends_the_program(self, python, block):
        run = python(
            f"""
            import os, signal, sys, threading, time
            from ferrule import ThreadPoolExecutor
            began = time.monotonic()
            def interrupt():
                time.sleep(0.2)
                global began
                began = time.monotonic()
                os.kill(os.getpid(), signal.SIGINT)
            try:
                {block}
                    futures = [executor.submit(time.sleep, 600) for _ in range(20)]
                    threading.Thread(target=interrupt).start()
                    futures[0].result()
            except KeyboardInterrupt:
                print(f"after {{time.monotonic() - began:.3f}} s", flush=True)
                raise
        """,
            timeout=30,
        )
        assert run.returncode in {-signal.SIGINT, 130}, run.stderr
        assert run.stdout.startswith("after ")
        assert run.stderr.rstrip().endswith("KeyboardInterrupt")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_forked_child_has_threads_of_its_own(self, python):
        run = python("""
            import os, threading, warnings
            warnings.simplefilter("ignore")
            from ferrule import ThreadPoolExecutor
            executor, release = ThreadPoolExecutor(1), threading.Event()
            busy = executor.submit(release.wait)
            queued = executor.submit(print, "the parent's")
            child = os.fork()
            if not child:
                try:
                    assert executor.submit(pow, 2, 3).result(20) == 8
                    assert executor.stats().pending == 0
                    try:
                        queued.result(20)
                    except RuntimeError as error:
                        print("child:", error, flush=True)
                    executor.shutdown()
                finally:
                    os._exit(0)
            _, status = os.waitpid(child, 0)
            release.set()
            executor.shutdown()
            print("parent:", status, flush=True)
        """)
        assert "child: the future belongs to the process" in run.stdout, run.stderr
        assert "parent: 0" in run.stdout
        assert run.stdout.count("the parent's") == 1

    # FERRULE_EXITS=10000 for the long run: some twenty minutes.
    @pytest.mark.timeout(120 + EXITS)
    def test_exits_with_busy_workers(self, python):
        def leave(number):
            run = python(LEAVING[number % len(LEAVING)], number % 7)
            return run.returncode, run.stdout, run.stderr

        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as executor:
            outcomes = collections.Counter(executor.map(leave, range(EXITS)))
        assert outcomes == {(0, "left\n", ""): EXITS}

    def test_a_million_tasks_in_less_than_400_mb(self, python):
        run = python("""
            import threading
            from ferrule import ThreadPoolExecutor
            def resident():
                with open("/proc/self/status") as status:
                    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024
            release = threading.Event()
            executor = ThreadPoolExecutor(1)
            executor.submit(release.wait)
            before = resident()
            futures = [executor.submit(pow, 2, 3) for _ in range(200_000)]
            print((resident() - before) / 200_000)
            executor.shutdown(wait=False, cancel_futures=True)
            release.set()
        """)
        assert run.returncode == 0, run.stderr
        assert float(run.stdout) <= 400

    def test_importing_ferrule_doesn_t_load_it(self, python):
        run = python("import sys, ferrule; print([name for name in sys.modules if name.startswith('concurrent')])")
        assert run.stdout.strip() == "[]"


def test_the_names_are_the_package_s():
    assert ferrule.ThreadPoolExecutor is ThreadPoolExecutor

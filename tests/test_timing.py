"""The timing room: what is measured, of what, and who hears of it; mostly on a clock that is turned by hand."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import logging
import math
import os
import random
import statistics
import sys
import threading
import time
import traceback
import tracemalloc
import types
import unittest.mock
import weakref
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import ferrule.timing
from ferrule import MemoryStats, PerformanceMonitor, Timer, TimingStats, _core, count_calls, timed
from ferrule.testing import manual_clock as turned_by_hand
from ferrule.timing import default_monitor

turns_the_clock = pytest.mark.thread_unsafe(reason="turns the clock that the whole process goes by")
hooks_into_sys = pytest.mark.thread_unsafe(reason="replaces sys.unraisablehook or sys.stderr")
configures_logging = pytest.mark.thread_unsafe(reason="sets levels and handlers of loggers")
traces_memory = pytest.mark.thread_unsafe(reason="tracemalloc sees the whole process")


class OopsError(Exception):
    """A class of this file can be weakly referenced."""


@pytest.fixture
def monitor():
    return PerformanceMonitor()


@pytest.fixture
def clock(manual_clock):
    return manual_clock


class Heard(list):
    """A sink that keeps what it hears."""

    def __call__(self, name, seconds, error):
        self.append((name, seconds, error))

    @property
    def seconds(self):
        return [seconds for _, seconds, _ in self]


def drive(coroutine):
    """Run a coroutine that waits for nothing, or only for other turns (`asyncio.sleep(0)`), and return its result."""
    try:
        for _ in range(100):
            coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it never ends")


def only(monitor):
    (stats,) = monitor.stats().values()
    return stats


# What can be timed, each as a function that runs it once: it takes the monitor, the body, and options of `timed`.


def a_function(monitor, body, **options):
    @monitor.timed("work", **options)
    def work():
        return body()

    return work


def a_method(monitor, body, **options):
    class Worker:
        @monitor.timed("work", **options)
        def work(self, *, key):
            return body()

    return lambda: Worker().work(key=1)


def a_coroutine(monitor, body, **options):
    @monitor.timed("work", **options)
    async def work():
        await asyncio.sleep(0)
        return body()

    return lambda: drive(work())


def a_generator(monitor, body, **options):
    @monitor.timed("work", **options)
    def work():
        yield 1
        return body()

    def whole():
        return (yield from work())

    return lambda: drive(whole())


def an_async_generator(monitor, body, **options):
    @monitor.timed("work", **options)
    async def work():
        await asyncio.sleep(0)
        yield 1
        yield body()

    async def whole():
        return [item async for item in work()][-1]

    return lambda: drive(whole())


def a_block(monitor, body, **options):
    timer = monitor.timer("work", **options)

    def work():
        with timer:
            return body()

    return work


def an_async_block(monitor, body, **options):
    timer = monitor.timer("work", **options)

    async def work():
        async with timer:
            await asyncio.sleep(0)
            return body()

    return lambda: drive(work())


EVERY_KIND = [a_function, a_method, a_coroutine, a_generator, an_async_generator, a_block, an_async_block]


@pytest.fixture(params=EVERY_KIND, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@turns_the_clock
class TestEveryKind:
    def test_is_measured(self, kind, monitor, clock):
        def body():
            clock.advance(1.5)
            return "result"

        work = kind(monitor, body)
        assert monitor.stats()["work"].count == 0
        assert [work(), work()] == ["result"] * 2
        stats = only(monitor)
        assert (stats.count, stats.errors, stats.total, stats.mean, stats.min, stats.max) == (2, 0, 3, 1.5, 1.5, 1.5)
        assert (stats.p50, stats.p90, stats.p99, stats.p999, stats.stdev) == (1.5, 1.5, 1.5, 1.5, 0)

    def test_a_run_that_raises_is_measured_and_counted_as_an_error(self, kind, monitor, clock):
        error = OopsError()

        def body():
            clock.advance(2)
            raise error

        work = kind(monitor, body)
        with pytest.raises(OopsError) as caught:
            work()
        assert caught.value is error
        assert traceback.extract_tb(error.__traceback__)[-1].name == "body"
        assert error.__context__ is None
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 1, 2)

    def test_a_clock_that_goes_back_measures_nothing(self, kind, monitor):
        """What begins under a manual clock and ends under the real one."""
        hands = contextlib.ExitStack()

        def body():
            hands.close()
            return 5

        work = kind(monitor, body)
        with hands:
            hands.enter_context(turned_by_hand()).advance(3600)
            assert work() == 5
        assert only(monitor).count == 1
        # What a generator takes after that is real.
        assert only(monitor).total < 60


class TestSwallowedErrors:
    @pytest.mark.thread_unsafe(reason="switches the garbage collector off")
    def test_are_gone_at_once(self, kind, monitor):
        raised = []

        def body():
            error = OopsError()
            raised.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        work = kind(monitor, body)
        gc.disable()
        try:
            for _ in range(1_000):
                with contextlib.suppress(OopsError):
                    work()
            alive = [error for error in raised if error() is not None]
        finally:
            gc.enable()
        assert len(raised) == only(monitor).errors == 1_000
        assert alive == []


# -- arguments --------------------------------------------------------------------------------------------------------

WRONG_OPTIONS = [
    ({"log": "loud"}, ValueError, r"log must be a logging level, got 'loud'; known names: .*\bINFO\b"),
    ({"log": "info"}, ValueError, r"log must be a logging level, got 'info'"),
    ({"log": 1.5}, TypeError, r"log must be a logging level .*, not float: 1\.5"),
    ({"log": True}, TypeError, r"log must be a logging level .*, not bool: True"),
    ({"echo": 1}, TypeError, r"echo must be True or False, not int: 1"),
    ({"sink": "print"}, TypeError, r"sink must be callable with \(name, seconds, error\), not str: 'print'"),
    ({"slower_than": -1}, ValueError, r"slower_than must be a number of seconds that is not negative, got -1"),
    ({"slower_than": math.nan}, ValueError, r"slower_than must be a number of seconds .*, got nan"),
    (
        {"slower_than": timedelta(-1)},
        ValueError,
        r"slower_than must be a timedelta that is not negative, got .*days=-1",
    ),
    (
        {"slower_than": "soon"},
        TypeError,
        r"slower_than must be seconds \(int or float\) or a timedelta, not str: 'soon'",
    ),
    ({"slower_than": True}, TypeError, r"slower_than must be seconds \(int or float\) or a timedelta, not bool: True"),
]
NONE_IS_NONE = [
    ({"echo": None}, TypeError, r"echo must be True or False, not NoneType: None"),
    ({"slower_than": None}, TypeError, r"slower_than must be seconds \(int or float\) or a timedelta, not NoneType"),
]
WRONG_NAMES = [
    ({"name": 5}, TypeError, r"name must be a string, not int: 5"),
    ({"name": b"load"}, TypeError, r"name must be a string, not bytes: b'load'"),
]
WRONG_MONITORS = [
    ({"monitor": "mine"}, TypeError, r"monitor must be a PerformanceMonitor, not str: 'mine'"),
    ({"monitor": PerformanceMonitor}, TypeError, r"monitor must be a PerformanceMonitor, not type"),
]


class TestWrongArguments:
    @pytest.mark.parametrize(("options", "kind", "message"), WRONG_OPTIONS)
    def test_options_fail_in_every_face_before_anything_is_registered(self, monitor, options, kind, message):
        for face in (
            lambda: timed(name="wrong", monitor=monitor, **options),
            lambda: Timer("wrong", monitor=monitor, **options),
            lambda: monitor.timed("wrong", **options),
            lambda: monitor.timed(**options),
            lambda: monitor.timer("wrong", **options),
        ):
            with pytest.raises(kind, match=message):
                face()
        assert monitor.stats() == {}

    @pytest.mark.parametrize(("options", "kind", "message"), NONE_IS_NONE)
    def test_none_is_no_default(self, monitor, options, kind, message):
        for face in (timed, monitor.timed):
            with pytest.raises(kind, match=message):
                face(**options)

    @pytest.mark.parametrize(("options", "kind", "message"), NONE_IS_NONE)
    def test_none_is_no_default_of_a_timer(self, monitor, options, kind, message):
        for face in (Timer, functools.partial(monitor.timer, "name")):
            with pytest.raises(kind, match=message):
                face(**options)

    @pytest.mark.parametrize(("options", "kind", "message"), WRONG_NAMES + WRONG_MONITORS)
    def test_names_and_monitors_fail(self, options, kind, message):
        names = set(default_monitor.stats())
        for face in (timed, Timer):
            with pytest.raises(kind, match=message):
                face(**options)
        assert set(default_monitor.stats()) == names

    @pytest.mark.parametrize(("options", "kind", "message"), WRONG_NAMES)
    def test_names_fail_in_a_monitor(self, monitor, options, kind, message):
        for face in (monitor.timed, monitor.timer, monitor.profile_memory):
            with pytest.raises(kind, match=message):
                face(**options)
        with pytest.raises(kind, match=message):
            monitor.profile_memory(lambda: 1, **options)
        with pytest.raises(TypeError, match="name must be a string, not NoneType"):
            monitor.timer(None)
        assert monitor.stats() == {}

    def test_unknown_ones_fail(self, monitor):
        for face in (timed, Timer, monitor.timed, functools.partial(monitor.timer, "x"), PerformanceMonitor):
            with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
                face(colour="red")
        with pytest.raises(TypeError, match="positional"):
            Timer("name", monitor)

    @pytest.mark.parametrize("thing", [5, "load", [], staticmethod(5), classmethod(None)], ids=repr)
    def test_only_functions_and_classes_can_be_timed(self, monitor, thing):
        with pytest.raises(TypeError, match=r"timed takes a function or a class, not (int|str|list|NoneType): "):
            timed(thing)
        with pytest.raises(TypeError, match=r"timed takes a function or a class, not (int|str|list|NoneType): "):
            timed(monitor=monitor)(thing)
        assert monitor.stats() == {}

    def test_properties_are_refused_with_a_hint(self, monitor):
        for face in (timed, timed(monitor=monitor), monitor.timed, monitor.timed("name")):
            with pytest.raises(TypeError, match=r"not property: .*; put @timed below @property"):
                face(property(lambda self: 1))
        assert monitor.stats() == {}

    @pytest.mark.parametrize("thing", [5, "load", int, property(int)], ids=repr)
    def test_only_functions_have_their_memory_profiled(self, monitor, thing):
        with pytest.raises(TypeError, match=r"profile_memory takes a function, not (int|str|type|property): "):
            monitor.profile_memory(thing)
        assert monitor.stats() == {}

    @pytest.mark.parametrize(
        ("max_names", "kind", "message"),
        [
            (0, ValueError, "max_names must be at least 1, got 0"),
            (-5, ValueError, "max_names must be at least 1, got -5"),
            (1.5, TypeError, r"max_names must be an integer, not float: 1\.5"),
            ("many", TypeError, "max_names must be an integer, not str: 'many'"),
            (True, TypeError, "max_names must be an integer, not bool: True"),
        ],
    )
    def test_of_a_monitor(self, max_names, kind, message):
        with pytest.raises(kind, match=message):
            PerformanceMonitor(max_names=max_names)

    def test_of_the_native_recorder(self):
        recorder = _core.Recorder()
        for seconds, kind in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError), (None, TypeError)):
            with pytest.raises(kind, match="seconds must be "):
                recorder.record(seconds)
        recorder.record(timedelta(seconds=2), failed=True)
        recorder.record(math.inf)
        assert (recorder.stats().count, recorder.stats().errors) == (2, 1)


# -- functions --------------------------------------------------------------------------------------------------------


@turns_the_clock
class TestFunctions:
    def test_bare_and_with_arguments(self, monitor, clock):
        @timed(monitor=monitor)
        def one():
            clock.advance(1)

        @timed(name="second", monitor=monitor)
        def two():
            clock.advance(2)

        @monitor.timed
        def three():
            clock.advance(3)

        @monitor.timed()
        def four():
            clock.advance(4)

        @monitor.timed("fifth")
        def five():
            clock.advance(5)

        for function in (one, two, three, four, five):
            function()
        here = "TestFunctions.test_bare_and_with_arguments.<locals>."
        totals = {name: stats.total for name, stats in monitor.stats().items()}
        assert totals == {f"{here}one": 1, "second": 2, f"{here}three": 3, f"{here}four": 4, "fifth": 5}

    def test_the_default_monitor(self, clock):
        @timed
        def into_the_default_monitor():
            clock.advance(1)

        into_the_default_monitor()
        name = "TestFunctions.test_the_default_monitor.<locals>.into_the_default_monitor"
        assert default_monitor.stats()[name].total == 1
        assert into_the_default_monitor.timing_stats() == default_monitor.stats()[name]
        into_the_default_monitor.timing_reset()
        assert default_monitor.stats()[name].count == 0

    def test_recursion_counts_every_call_with_what_it_calls(self, monitor, clock):
        @monitor.timed("down")
        def down(n):
            clock.advance(1)
            if n:
                down(n - 1)

        down(3)
        stats = down.timing_stats()
        assert (stats.count, stats.total, stats.min, stats.max) == (4, 10, 1, 4)

    def test_reset_starts_over(self, monitor, clock):
        @monitor.timed("work")
        def work(seconds):
            clock.advance(seconds)

        work(100)
        work.timing_reset()
        assert work.timing_stats() == TimingStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, None, None)
        work(1)
        assert (work.timing_stats().count, work.timing_stats().max) == (1, 1)
        monitor.reset()
        assert list(monitor.stats()) == ["work"]
        assert work.timing_stats().count == 0

    def test_the_monitor_may_go(self, clock):
        @PerformanceMonitor().timed("work")
        def work():
            clock.advance(1)

        gc.collect()
        work()
        assert work.timing_stats().total == 1

    def test_stats_are_named(self, monitor):
        stats = monitor.timed("work")(lambda: 1).timing_stats()
        assert isinstance(stats, TimingStats)
        assert stats._fields == (
            *("count", "errors", "total", "mean", "stdev", "min", "max", "p50", "p90", "p99", "p999"),
            *("memory_net", "memory_peak"),
        )
        assert [type(value) for value in stats] == [int, int] + [float] * 9 + [types.NoneType] * 2

    def test_generator_exit_from_a_block_is_no_error(self, monitor, clock):
        def generator():
            with monitor.timer("block"):
                yield
                clock.advance(1)

        running = generator()
        next(running)
        clock.advance(1)
        running.close()
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 0, 1)


class TestThreads:
    def test_no_run_is_lost(self):
        monitor = PerformanceMonitor()

        @monitor.timed("work")
        def work(number):
            if number % 4 == 0:
                raise OopsError

        @monitor.timed("generator")
        def generator():
            yield

        timer = monitor.timer("block")

        def run():
            for number in range(500):
                with contextlib.suppress(OopsError):
                    work(number)
                with timer:
                    list(generator())
                monitor.stats()

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = monitor.stats()
        assert (stats["work"].count, stats["work"].errors) == (2_000, 500)
        assert (stats["generator"].count, stats["block"].count) == (2_000, 2_000)


# -- coroutines -------------------------------------------------------------------------------------------------------


@turns_the_clock
class TestCoroutines:
    def test_from_the_first_step_to_the_end_waiting_included(self, monitor, clock):
        waiting = None

        @monitor.timed("work")
        async def work():
            nonlocal waiting
            clock.advance(1)
            waiting = asyncio.get_running_loop().create_future()
            answer = await waiting
            clock.advance(2)
            return answer

        async def main():
            coroutine = work()
            clock.advance(1000)
            task = asyncio.create_task(coroutine)
            await asyncio.sleep(0)
            clock.advance(10)
            waiting.set_result("answer")
            return await task

        assert asyncio.run(main()) == "answer"
        assert (work.timing_stats().count, work.timing_stats().total) == (1, 13)

    def test_tasks_at_the_same_time(self, monitor, clock):
        heard = Heard()

        @monitor.timed("work", sink=heard)
        async def work(turns):
            for _ in range(turns):
                clock.advance(1)
                await asyncio.sleep(0)
            return turns

        async def main():
            return await asyncio.gather(work(1), work(3), work(2))

        assert asyncio.run(main()) == [1, 3, 2]
        # Turns: 1 2 3 | 2 3 | 2: each from its own first turn to its end.
        assert heard.seconds == [3, 4, 5]

    def test_cancellation_is_an_error(self, monitor, clock):
        @monitor.timed("work")
        async def work():
            try:
                await asyncio.sleep(3600)
            finally:
                clock.advance(1)

        async def main():
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
            clock.advance(1)
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await task

        asyncio.run(main())
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 1, 2)

    def test_closing_is_no_error(self, monitor, clock):
        heard = Heard()

        @monitor.timed("work", sink=heard)
        async def work():
            await asyncio.sleep(0)

        coroutine = work()
        coroutine.send(None)
        clock.advance(1)
        coroutine.close()
        assert heard == [("work", 1, None)]
        assert only(monitor).errors == 0

    def test_what_is_never_started_leaves_no_record(self, monitor, clock):
        @monitor.timed("work")
        async def work():
            pass

        work().close()
        assert only(monitor).count == 0

    def test_throwing_into_it(self, monitor, clock):
        @monitor.timed("work")
        async def work():
            try:
                await asyncio.sleep(0)
            except OopsError:
                clock.advance(1)
                return "caught"

        coroutine = work()
        coroutine.send(None)
        with pytest.raises(StopIteration, match="caught"):
            coroutine.throw(OopsError())
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 0, 1)

    def test_recursion(self, monitor, clock):
        @monitor.timed("down")
        async def down(n):
            clock.advance(1)
            await asyncio.sleep(0)
            return n and 1 + await down(n - 1)

        assert asyncio.run(down(3)) == 3
        assert (only(monitor).count, only(monitor).total) == (4, 10)

    def test_everything_that_gives_coroutines(self, monitor, clock):
        async def function(x=5):
            clock.advance(1)
            return x

        class Awaiter:
            async def __call__(self, x=5):
                clock.advance(1)
                return x

            async def method(self, x=5):
                clock.advance(1)
                return x

            @classmethod
            async def of_class(cls, x=5):
                clock.advance(1)
                return x

        @types.coroutine
        def old(x=5):
            clock.advance(1)
            yield
            return x

        awaitables = [function, functools.partial(function, x=5), Awaiter(), Awaiter().method, Awaiter.of_class, old]
        awaitables += [count_calls(function), functools.partial(count_calls(Awaiter().method), 5)]
        for number, awaitable in enumerate(awaitables):

            async def main(work):
                return await work()

            name = f"work {number}"
            work = monitor.timed(name)(awaitable)
            assert drive(main(work)) == 5
            assert (work.timing_stats().count, work.timing_stats().total) == (1, 1), awaitable

    def test_mocks(self, monitor, clock):
        async def advance(*_, **__):
            clock.advance(1)
            return 3

        mock = unittest.mock.AsyncMock(side_effect=advance)
        work = monitor.timed("work")(mock)
        assert drive(work(1, a=2)) == 3
        mock.assert_awaited_once_with(1, a=2)
        assert only(monitor).total == 1

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="functions can be marked from 3.12 on")
    def test_functions_that_are_marked(self, monitor, clock):
        async def coroutine():
            clock.advance(1)

        @monitor.timed("work")
        @inspect.markcoroutinefunction
        def work():
            return coroutine()

        assert inspect.iscoroutinefunction(work)
        drive(work())
        assert only(monitor).total == 1

    def test_stays_a_coroutine_function(self, monitor):
        @monitor.timed
        async def work(a: int, *, b: str = "") -> float:
            """Work."""

        assert inspect.iscoroutinefunction(work)
        assert not inspect.isgeneratorfunction(work)
        assert str(inspect.signature(work)) == "(a: int, *, b: str = '') -> float"
        assert (work.__name__, work.__doc__) == ("work", "Work.")

        @monitor.timed
        @types.coroutine
        def old():
            yield

        assert inspect.isawaitable(old())
        assert inspect.isgeneratorfunction(old)

    def test_context_variables_are_the_callers(self, monitor):
        variable = contextvars.ContextVar("variable", default=0)

        @monitor.timed
        async def work():
            variable.set(variable.get() + 1)

        async def main():
            variable.set(1)
            await work()
            return variable.get()

        assert asyncio.run(main()) == 2


# -- generators -------------------------------------------------------------------------------------------------------


@turns_the_clock
class TestGenerators:
    @pytest.fixture
    def counter(self, monitor, clock):
        """A timed generator that takes a second for each item and two more at its end."""

        @monitor.timed("counter")
        def counter(n):
            try:
                for number in range(n):
                    clock.advance(1)
                    yield number
                return "end"
            finally:
                clock.advance(2)

        return counter

    def test_own_time_without_the_consumers(self, counter, clock):
        for _ in counter(3):
            clock.advance(1000)
        assert (counter.timing_stats().count, counter.timing_stats().total) == (1, 5)

    def test_is_a_generator(self, counter):
        assert inspect.isgeneratorfunction(counter)
        assert isinstance(counter(1), types.GeneratorType)

    def test_return_value(self, counter):
        def outer():
            return (yield from counter(2))

        assert drive(outer()) == "end"
        running = counter(0)
        with pytest.raises(StopIteration) as stop:
            next(running)
        assert stop.value.value == "end"
        assert list(running) == []
        assert counter.timing_stats().count == 2

    @pytest.mark.parametrize("value", [None, (), (1, 2), StopIteration(1), OopsError("a value")], ids=repr)
    def test_return_values_of_every_kind(self, monitor, value):
        @monitor.timed
        def generator():
            yield
            return value

        def outer():
            return (yield from generator())

        assert drive(outer()) is value

    def test_send(self, monitor, clock):
        @monitor.timed("echo")
        def echo():
            got = yield "ready"
            while got is not None:
                clock.advance(got)
                got = yield got * 2
            return "done"

        running = echo()
        with pytest.raises(TypeError, match="just-started"):
            running.send(1)
        assert next(running) == "ready"
        assert [running.send(1), running.send(2)] == [2, 4]
        with pytest.raises(StopIteration, match="done"):
            running.send(None)
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 0, 3)

    def test_throw_that_is_caught(self, monitor, clock):
        @monitor.timed("work")
        def work():
            while True:
                try:
                    clock.advance(1)
                    yield
                except KeyError as error:
                    clock.advance(10)
                    yield error
                except IndexError:
                    return "stopped"

        running = work()
        next(running)
        error = KeyError("thrown")
        assert running.throw(error) is error
        next(running)
        with pytest.raises(StopIteration, match="stopped"):
            running.throw(IndexError)
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 0, 12)

    def test_throw_that_is_not_caught(self, counter):
        running = counter(5)
        next(running)
        error = OopsError()
        with pytest.raises(OopsError) as caught:
            running.throw(error)
        assert caught.value is error
        stats = counter.timing_stats()
        assert (stats.count, stats.errors, stats.total) == (1, 1, 3)

    def test_throw_before_the_start(self, counter):
        running = counter(1)
        with pytest.raises(OopsError):
            running.throw(OopsError)
        assert list(running) == []
        assert counter.timing_stats().count == 0

    def test_throwing_stop_iteration(self, monitor):
        @monitor.timed("work")
        def work():
            yield

        running = work()
        next(running)
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            running.throw(StopIteration(1))
        assert only(monitor).errors == 1

    def test_error(self, monitor, clock):
        error = OopsError()

        @monitor.timed("work")
        def work():
            yield 1
            clock.advance(1)
            raise error

        running = work()
        assert next(running) == 1
        with pytest.raises(OopsError) as caught:
            next(running)
        assert caught.value is error
        assert traceback.extract_tb(error.__traceback__)[-1].line == "raise error"
        assert list(running) == []
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 1, 1)

    def test_closing_is_no_error(self, counter, clock):
        running = counter(5)
        next(running)
        clock.advance(100)
        running.close()
        running.close()
        assert list(running) == []
        stats = counter.timing_stats()
        assert (stats.count, stats.errors, stats.total) == (1, 0, 3)

    def test_leaving_early_is_no_error(self, counter):
        for _ in counter(5):
            break
        gc.collect()
        stats = counter.timing_stats()
        assert (stats.count, stats.errors, stats.total) == (1, 0, 3)

    def test_catching_the_exit_is_no_error(self, monitor):
        @monitor.timed("work")
        def work():
            with contextlib.suppress(GeneratorExit):
                yield

        running = work()
        next(running)
        running.close()
        assert (only(monitor).count, only(monitor).errors) == (1, 0)

    def test_ignoring_the_exit_is_an_error(self, monitor):
        @monitor.timed("work")
        def work():
            with contextlib.suppress(GeneratorExit):
                yield 1
            yield 2

        running = work()
        next(running)
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            running.close()
        with contextlib.suppress(StopIteration, RuntimeError):
            next(running)
        assert (only(monitor).count, only(monitor).errors) == (1, 1)

    def test_what_is_never_started_leaves_no_record(self, counter):
        counter(5)
        counter(5).close()
        gc.collect()
        assert counter.timing_stats().count == 0

    def test_several_at_once(self, monitor, clock):
        heard = Heard()

        @monitor.timed("work", sink=heard)
        def work(seconds):
            for _ in range(2):
                clock.advance(seconds)
                yield

        for _ in zip(work(1), work(10), strict=True):
            clock.advance(100)
        # `zip` finds the first at its end, then asks whether the second is.
        assert heard.seconds == [2, 20]

    def test_recursion(self, monitor, clock):
        @monitor.timed("walk")
        def walk(n):
            clock.advance(1)
            yield n
            if n:
                yield from walk(n - 1)

        assert list(walk(3)) == [3, 2, 1, 0]
        # Each with the time of those inside.
        assert (only(monitor).count, only(monitor).total) == (4, 10)

    def test_context_managers_and_methods(self, monitor, clock):
        class Holder:
            @contextlib.contextmanager
            @monitor.timed("manager")
            def open(self, name):
                clock.advance(1)
                try:
                    yield name
                finally:
                    clock.advance(2)

        with Holder().open("x") as got:
            clock.advance(100)
            assert got == "x"
        with pytest.raises(OopsError), Holder().open("x"):
            raise OopsError
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (2, 1, 6)

    def test_running_inside_itself_is_refused_as_ever(self, monitor):
        @monitor.timed
        def work():
            yield next(running)

        running = work()
        with pytest.raises(ValueError, match="already executing"):
            next(running)

    def test_is_let_go_when_it_ends(self, monitor):
        class Item:
            pass

        @monitor.timed
        def work(item):
            yield

        item = Item()
        reference = weakref.ref(item)
        running = work(item)
        next(running)
        del item, running
        gc.collect()
        assert reference() is None


@turns_the_clock
class TestAsyncGenerators:
    @pytest.fixture
    def counter(self, monitor, clock):
        """A timed async generator: two seconds for each item, one of them waiting, and two more at its end."""

        @monitor.timed("counter")
        async def counter(n):
            try:
                for number in range(n):
                    clock.advance(1)
                    await self.wait(clock, 1)
                    yield number
            finally:
                await self.wait(clock, 2)

        return counter

    @staticmethod
    async def wait(clock, seconds):
        await asyncio.sleep(0)
        clock.advance(seconds)

    def test_own_time_without_the_consumers(self, counter, clock):
        async def main():
            got = []
            async for item in counter(3):
                clock.advance(1000)
                await self.wait(clock, 1000)
                got.append(item)
            return got

        assert asyncio.run(main()) == [0, 1, 2]
        assert (counter.timing_stats().count, counter.timing_stats().total) == (1, 8)

    def test_is_an_async_generator(self, counter):
        assert inspect.isasyncgenfunction(counter)
        assert isinstance(counter(1), types.AsyncGeneratorType)

    def test_send_and_throw(self, monitor, clock):
        @monitor.timed("work")
        async def work():
            got = "ready"
            while got != "end":
                try:
                    got = yield got
                    await self.wait(clock, 1)
                except KeyError as error:
                    await self.wait(clock, 10)
                    got = error

        async def main():
            running = work()
            with pytest.raises(TypeError, match="just-started"):
                await running.asend(1)
            assert await anext(running) == "ready"
            assert await running.asend(5) == 5
            error = KeyError("thrown")
            assert await running.athrow(error) is error
            assert await running.asend(6) == 6
            with pytest.raises(StopAsyncIteration):
                await running.asend("end")

        asyncio.run(main())
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 0, 13)

    def test_throw_that_is_not_caught(self, counter):
        error = OopsError()

        async def main():
            running = counter(5)
            await anext(running)
            with pytest.raises(OopsError) as caught:
                await running.athrow(error)
            assert caught.value is error
            assert [item async for item in running] == []

        asyncio.run(main())
        stats = counter.timing_stats()
        assert (stats.count, stats.errors, stats.total) == (1, 1, 4)

    def test_error(self, monitor, clock):
        error = OopsError()

        @monitor.timed("work")
        async def work():
            yield 1
            await self.wait(clock, 1)
            raise error

        async def main():
            running = work()
            assert await anext(running) == 1
            with pytest.raises(OopsError) as caught:
                await anext(running)
            assert caught.value is error
            assert [item async for item in running] == []

        asyncio.run(main())
        assert traceback.extract_tb(error.__traceback__)[-1].line == "raise error"
        assert error.__context__ is None
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 1, 1)

    def test_closing_is_no_error(self, counter, clock):
        async def main():
            running = counter(5)
            async for _ in running:
                break
            clock.advance(100)
            await running.aclose()
            await running.aclose()
            assert [item async for item in running] == []

            async with contextlib.aclosing(counter(5)) as running:
                await anext(running)

        asyncio.run(main())
        stats = counter.timing_stats()
        assert (stats.count, stats.errors, stats.total) == (2, 0, 8)

    def test_cancellation_in_a_step_is_an_error(self, monitor, clock):
        @monitor.timed("work")
        async def work():
            clock.advance(1)
            yield
            await asyncio.sleep(3600)

        async def main():
            async def consume():
                async for _ in work():
                    pass

            task = asyncio.create_task(consume())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (1, 1, 1)

    def test_what_is_never_started_leaves_no_record(self, counter):
        async def main():
            counter(5)
            await counter(5).aclose()

        asyncio.run(main())
        assert counter.timing_stats().count == 0

    def test_those_left_behind_are_closed_with_their_loop(self, counter, clock):
        """The loop closes all generators that it knows at once: it must not know the one inside."""
        problems = []

        async def main():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
            running = [counter(5) for _ in range(5)]
            for each in running:
                await anext(each)
            return running

        kept = asyncio.run(main())
        assert problems == []
        stats = counter.timing_stats()
        # Closed at the same time, each sees the clock that the others turn; how far depends on their order.
        assert (stats.count, stats.errors) == (5, 0)
        assert len(kept) == 5

    def test_those_thrown_away_are_closed_by_their_loop(self, counter):
        problems = []

        async def main():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
            async for _ in counter(5):
                break
            gc.collect()
            for _ in range(5):
                await asyncio.sleep(0)

        asyncio.run(main())
        assert problems == []
        stats = counter.timing_stats()
        assert (stats.count, stats.errors, stats.total) == (1, 0, 4)

    def test_the_hooks_are_left_as_they_were(self, counter):
        async def main():
            before = sys.get_asyncgen_hooks()
            assert before.firstiter is not None
            assert [item async for item in counter(1)] == [0]
            assert sys.get_asyncgen_hooks() == before

        asyncio.run(main())

    def test_recursion_and_methods(self, monitor, clock):
        class Tree:
            @monitor.timed("walk")
            async def walk(self, n):
                clock.advance(1)
                yield n
                if n:
                    async for item in self.walk(n - 1):
                        yield item

        async def main():
            return [item async for item in Tree().walk(3)]

        assert asyncio.run(main()) == [3, 2, 1, 0]
        assert (only(monitor).count, only(monitor).total) == (4, 10)

    def test_context_managers(self, monitor, clock):
        @contextlib.asynccontextmanager
        @monitor.timed("manager")
        async def manager():
            clock.advance(1)
            try:
                yield "x"
            finally:
                await self.wait(clock, 2)

        async def main():
            async with manager() as got:
                clock.advance(100)
                assert got == "x"
            with pytest.raises(OopsError):
                async with manager():
                    raise OopsError

        asyncio.run(main())
        assert (only(monitor).count, only(monitor).errors, only(monitor).total) == (2, 1, 6)


# -- blocks -----------------------------------------------------------------------------------------------------------


@turns_the_clock
class TestTimer:
    def test_elapsed_while_it_runs_and_afterwards(self, clock):
        timer = Timer()
        assert timer.elapsed == 0
        with timer as entered:
            assert entered is timer
            assert timer.elapsed == 0
            clock.advance(1)
            assert timer.elapsed == 1
            clock.advance(0.5)
        clock.advance(100)
        assert timer.elapsed == 1.5
        with timer:
            clock.advance(3)
            assert timer.elapsed == 3
        assert timer.elapsed == 3

    def test_with_a_name_it_is_recorded(self, monitor, clock):
        with Timer("block", monitor=monitor) as timer:
            clock.advance(2)
        assert timer.name == "block"
        assert (monitor.stats()["block"].count, monitor.stats()["block"].total) == (1, 2)
        name = f"into the default monitor {time.monotonic_ns()}"
        with Timer(name):
            clock.advance(1)
        assert default_monitor.stats()[name].total == 1

    def test_without_a_name_it_is_not(self, monitor, clock):
        names = set(default_monitor.stats())
        heard = Heard()
        with Timer(monitor=monitor, sink=heard) as timer:
            clock.advance(1)
        assert timer.name is None
        assert heard == [(None, 1, None)]
        assert monitor.stats() == {}
        assert set(default_monitor.stats()) == names

    def test_every_block_of_one_name_goes_together(self, monitor, clock):
        for seconds in (1, 2, 3):
            with monitor.timer("block"):
                clock.advance(seconds)
        assert (only(monitor).count, only(monitor).total, only(monitor).max) == (3, 6, 3)

    def test_errors_pass_through(self, monitor, clock):
        heard = Heard()
        error = OopsError()
        timer = monitor.timer("block", sink=heard)

        def block():
            with timer:
                clock.advance(1)
                raise error

        with pytest.raises(OopsError) as caught:
            block()
        assert caught.value is error
        assert timer.elapsed == 1
        assert heard == [("block", 1, error)]
        assert (only(monitor).count, only(monitor).errors) == (1, 1)

    def test_inside_itself(self, clock):
        heard = Heard()
        timer = Timer(sink=heard)
        with timer:
            clock.advance(1)
            with timer:
                clock.advance(10)
                with timer:
                    clock.advance(100)
                    assert timer.elapsed == 100
                assert timer.elapsed == 110
            assert timer.elapsed == 111
            clock.advance(1)
        assert timer.elapsed == 112
        assert heard.seconds == [100, 110, 112]

    def test_others_inside(self, clock):
        with Timer() as outer:
            clock.advance(1)
            with Timer() as inner:
                clock.advance(2)
            clock.advance(4)
        assert (outer.elapsed, inner.elapsed) == (7, 2)

    def test_in_recursion(self, clock):
        heard = Heard()
        timer = Timer(sink=heard)

        def down(n):
            with timer:
                clock.advance(1)
                assert timer.elapsed == 1
                if n:
                    down(n - 1)
                assert timer.elapsed == n + 1

        down(3)
        assert heard.seconds == [1, 2, 3, 4]

    def test_in_interleaved_generators(self, clock):
        heard = Heard()
        timer = Timer(sink=heard)

        def generator():
            with timer:
                while True:
                    yield timer.elapsed

        first, second = generator(), generator()
        assert next(first) == 0
        clock.advance(1)
        assert next(second) == 0
        clock.advance(10)
        assert (next(first), next(second)) == (11, 10)
        # Not in the order in which they were entered, nor the reverse.
        third = generator()
        next(third)
        clock.advance(100)
        first.close()
        third.close()
        second.close()
        assert heard.seconds == [111, 100, 110]

    def test_in_interleaved_tasks(self, clock):
        heard = Heard()
        timer = Timer(sink=heard)

        async def task(turns):
            async with timer as entered:
                assert entered is timer
                for turn in range(turns):
                    clock.advance(1)
                    await asyncio.sleep(0)
                    assert timer.elapsed > turn
            return timer.elapsed

        async def main():
            await asyncio.gather(task(1), task(3), task(2))

        asyncio.run(main())
        assert heard.seconds == [3, 4, 5]

    def test_with_plain_with_in_interleaved_tasks(self, clock):
        heard = Heard()
        timer = Timer(sink=heard)

        async def task(turns):
            with timer:
                for _ in range(turns):
                    clock.advance(1)
                    await asyncio.sleep(0)

        async def main():
            await asyncio.gather(task(1), task(3), task(2))

        asyncio.run(main())
        assert heard.seconds == [3, 4, 5]

    def test_in_several_threads(self, clock):
        heard = Heard()
        timer = Timer(sink=heard)
        turns = [threading.Event() for _ in range(6)]

        def work(entering, leaving):
            turns[entering].wait()
            with timer:
                turns[entering + 1].set()
                turns[leaving].wait()

        threads = [threading.Thread(target=work, args=args) for args in ((0, 3), (2, 5))]
        for thread in threads:
            thread.start()
        turns[0].set()
        turns[1].wait()
        clock.advance(1)
        # From here, it is running in another thread only.
        assert timer.elapsed == 0
        turns[2].set()
        turns[3].wait()
        threads[0].join()
        clock.advance(10)
        turns[5].set()
        threads[1].join()
        assert heard.seconds == [1, 10]
        assert timer.elapsed == 10

    def test_on_exit_stacks(self, clock):
        heard = Heard()
        timer = Timer(sink=heard)
        with contextlib.ExitStack() as stack:
            stack.enter_context(timer)
            clock.advance(1)
            stack.enter_context(timer)
            clock.advance(10)
            with timer:
                clock.advance(100)
            stack.enter_context(timer)
            clock.advance(1000)
        assert heard.seconds == [100, 1000, 1110, 1111]

        async def main():
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(timer)
                clock.advance(1)
                stack.enter_context(timer)
                clock.advance(10)

        heard.clear()
        asyncio.run(main())
        assert heard.seconds == [10, 11]

    def test_entered_in_one_function_and_left_in_another(self, clock):
        heard = Heard()
        timer = Timer(sink=heard)

        class Span:
            def open(self):
                timer.__enter__()

            def close(self):
                timer.__exit__(None, None, None)

        span = Span()
        span.open()
        clock.advance(1)
        with timer:
            clock.advance(2)
        span.close()
        assert heard.seconds == [2, 3]

    def test_entered_and_left_in_functions_of_every_size(self, clock):
        """A frame that has ended gives its place in memory to others of its size, and is not taken for them."""
        scope = {}
        for size in range(0, 60, 4):
            body = "".join(f"    v{number} = 1\n" for number in range(size))
            exec(f"def enter{size}(timer):\n{body}    timer.__enter__()\n", scope)
            exec(f"def leave{size}(timer):\n{body}    timer.__exit__(None, None, None)\n", scope)
        enter, leave = ([each for name, each in scope.items() if name.startswith(word)] for word in ("enter", "leave"))
        chosen = random.Random(1)
        wrong = []
        for _ in range(1_000):
            heard = Heard()
            timer = Timer(sink=heard)
            chosen.choice(enter)(timer)
            clock.advance(10)
            chosen.choice(enter)(timer)
            clock.advance(1)
            chosen.choice(leave)(timer)
            chosen.choice(leave)(timer)
            if heard.seconds != [1, 11]:
                wrong.append(heard.seconds)
        assert wrong == []

    def test_entered_in_one_thread_and_left_in_another(self, clock):
        timer = Timer()
        thread = threading.Thread(target=timer.__enter__)
        thread.start()
        thread.join()
        clock.advance(2)
        timer.__exit__(None, None, None)
        assert timer.elapsed == 2

    def test_left_more_often_than_entered(self, clock):
        timer = Timer("block", monitor=PerformanceMonitor())
        with pytest.raises(RuntimeError, match="left more often than it was entered"):
            timer.__exit__(None, None, None)
        with timer:
            clock.advance(1)
        with pytest.raises(RuntimeError, match="left more often than it was entered"):
            timer.__exit__(None, None, None)
        with pytest.raises(RuntimeError, match="left more often than it was entered"):
            drive(self.leave(timer))
        assert timer.elapsed == 1

    @staticmethod
    async def leave(timer):
        await timer.__aexit__(None, None, None)

    def test_async_with_swallows_nothing(self, monitor, clock):
        error = OopsError()

        async def main():
            async with monitor.timer("block"):
                await asyncio.sleep(0)
                clock.advance(1)
                raise error

        with pytest.raises(OopsError) as caught:
            asyncio.run(main())
        assert caught.value is error
        assert (only(monitor).errors, only(monitor).total) == (1, 1)

    def test_can_be_derived_from(self, clock):
        class Announced(Timer):
            def __exit__(self, *error):
                super().__exit__(*error)
                self.announced = self.elapsed

        with Announced("block", monitor=PerformanceMonitor()) as timer:
            clock.advance(1)
        assert timer.announced == 1

    def test_goes_with_its_listener(self):
        class Owner:
            def __init__(self):
                self.timer = Timer(sink=self.hear)

            def hear(self, *_):
                pass

        owner = Owner()
        with owner.timer:
            pass
        reference = weakref.ref(owner)
        timer = weakref.ref(owner.timer)
        del owner
        gc.collect()
        assert reference() is None
        assert timer() is None


# -- classes ----------------------------------------------------------------------------------------------------------


@turns_the_clock
class TestClasses:
    @pytest.fixture
    def shop(self, monitor, clock):  # noqa: C901 - as many methods as there are kinds
        class Base:
            def inherited(self):
                clock.advance(1)

        @monitor.timed
        class Shop(Base):
            limit = 5
            alias = len
            kind = int
            error = OopsError

            class Shelf:
                def put(self):
                    return "put"

            def __init__(self):
                self.items = []

            def __len__(self):
                return len(self.items)

            def _restock(self):
                return "private"

            def __mangled(self):
                return "private, too"

            def sell(self, item, *, price=1):
                """Sell."""
                clock.advance(1)
                return item, price

            @staticmethod
            def rate(x):
                clock.advance(2)
                return x

            @classmethod
            def make(cls):
                clock.advance(3)
                return cls()

            @property
            def size(self):
                return len(self.items)

            @functools.cached_property
            def label(self):
                return "label"

            async def order(self):
                clock.advance(4)
                return "ordered"

            def browse(self):
                clock.advance(5)
                yield 1

            async def watch(self):
                clock.advance(6)
                yield 1

            @functools.lru_cache  # noqa: B019 - it is the binding that matters
            def price(self):
                clock.advance(7)
                return 9

            @count_calls
            def count(self):
                clock.advance(8)

        return Shop

    PREFIX = "TestClasses.shop.<locals>.Shop."

    def test_every_public_method_is_measured(self, shop, monitor):
        it = shop()
        assert it.sell("tea", price=2) == ("tea", 2)
        assert (it.rate(1), shop.rate(2)) == (1, 2)
        assert type(shop.make()) is shop
        assert drive(it.order()) == "ordered"
        assert list(it.browse()) == [1]

        async def main():
            return [item async for item in it.watch()]

        assert drive(main()) == [1]
        assert (it.price(), it.price()) == (9, 9)
        it.count()
        seen = {name.removeprefix(self.PREFIX): (stats.count, stats.total) for name, stats in monitor.stats().items()}
        assert seen == {
            "sell": (1, 1),
            "rate": (2, 4),
            "make": (1, 3),
            "order": (1, 4),
            "browse": (1, 5),
            "watch": (1, 6),
            "price": (2, 7),
            "count": (1, 8),
        }
        assert shop.price.cache_info().hits == 1
        assert shop.count.call_count == 1
        assert shop.sell.timing_stats().count == 1
        assert it.sell.timing_stats().count == 1

    def test_everything_else_is_left_alone(self, shop, monitor):
        it = shop()
        assert isinstance(vars(shop)["size"], property)
        assert isinstance(vars(shop)["label"], functools.cached_property)
        assert (len(it), it.size, it.label, it.limit, it._restock()) == (0, 0, "label", 5, "private")
        assert it._Shop__mangled() == "private, too"
        assert shop.Shelf().put() == "put"
        assert shop.alias is len
        assert shop.kind is int
        assert shop.error is OopsError
        assert isinstance(shop.__init__, types.FunctionType)
        assert isinstance(shop.__len__, types.FunctionType)
        assert isinstance(shop._restock, types.FunctionType)
        assert isinstance(shop.Shelf.put, types.FunctionType)
        it.inherited()
        assert not any("inherited" in name or "put" in name for name in monitor.stats())
        assert all(stats.count == 0 for stats in monitor.stats().values())

    def test_it_is_the_same_class(self, monitor):
        class Plain:
            def method(self):
                """Do it."""

        assert monitor.timed(Plain) is Plain
        assert timed(monitor=monitor)(Plain) is Plain
        assert Plain.method.__doc__ == "Do it."
        assert isinstance(vars(monitor.timed(type("Empty", (), {})))["__dict__"], types.GetSetDescriptorType)

    def test_static_and_class_methods_stay_what_they_are(self, shop):
        assert isinstance(vars(shop)["rate"], staticmethod)
        assert isinstance(vars(shop)["make"], classmethod)

        class Derived(shop):
            pass

        assert type(Derived.make()) is Derived

    def test_a_derived_class_does_not_wrap_again_what_it_inherits(self, shop, monitor, clock):
        base = vars(shop)["sell"]

        @monitor.timed
        class Market(shop):
            def sell(self, item, *, price=1):
                clock.advance(10)
                return super().sell(item, price=price)

        assert shop.__dict__["sell"] is base
        assert "make" not in vars(Market)
        it = Market.make()
        it.sell("tea")
        counts = {
            name.rpartition(".<locals>.")[2]: stats.count for name, stats in monitor.stats().items() if stats.count
        }
        assert counts == {"Shop.make": 1, "Shop.sell": 1, "Market.sell": 1}

    def test_the_name_stands_for_the_classs(self, monitor, clock):
        @monitor.timed("Shop")
        class Named:
            def sell(self):
                clock.advance(1)

            def buy(self): ...

        Named().sell()
        assert {name: stats.count for name, stats in monitor.stats().items()} == {"Shop.sell": 1, "Shop.buy": 0}

    def test_options_hold_for_every_method(self, clock):
        heard = Heard()

        @timed(monitor=PerformanceMonitor(), name="Shop", sink=heard, slower_than=1)
        class Shop:
            def fast(self):
                clock.advance(0.5)

            def slow(self):
                clock.advance(2)

        Shop().fast()
        Shop().slow()
        assert heard == [("Shop.slow", 2, None)]

    def test_partial_functions_bind_as_they_did(self, monitor):
        def make():
            class Holder:
                with_arguments = functools.partial(lambda *args: args, 1)
                method = functools.partialmethod(lambda *args: args[1:], 1)

            return Holder()

        plain, measured = make(), make()
        monitor.timed(type(measured))
        with contextlib.suppress(FutureWarning):
            # 3.13 warns of what 3.14 does: bind it.
            assert len(measured.with_arguments(2)) == len(plain.with_arguments(2))
        assert measured.method(2) == plain.method(2) == (1, 2)

    def test_class_attributes_that_are_no_methods(self, monitor):
        class Callback:
            def __call__(self, *args):
                return args

        class Descriptor:
            def __get__(self, instance, owner):
                return "got"

            def __set__(self, instance, value): ...

            def __call__(self): ...

        class Holder:
            callback = Callback()
            descriptor = Descriptor()

        monitor.timed(Holder)
        assert Holder().callback(1) == (1,)
        assert Holder().descriptor == "got"
        assert monitor.stats() == {}


# -- who hears of a run -----------------------------------------------------------------------------------------------


@turns_the_clock
class TestListeners:
    def test_sink(self, kind, monitor, clock):
        heard = Heard()
        error = OopsError()
        fails = False

        def body():
            clock.advance(1.5)
            if fails:
                raise error
            return "result"

        work = kind(monitor, body, sink=heard)
        assert work() == "result"
        fails = True
        with pytest.raises(OopsError):
            work()
        assert heard == [("work", 1.5, None), ("work", 1.5, error)]
        assert heard[1][2] is error

    def test_the_error_has_its_traceback_when_it_is_heard(self, kind, monitor):
        seen = []

        def sink(name, seconds, error):
            seen.extend(frame.name for frame in traceback.extract_tb(error.__traceback__))

        def body():
            raise OopsError

        with pytest.raises(OopsError):
            kind(monitor, body, sink=sink)()
        assert seen[-1] == "body"

    def test_the_run_is_recorded_before_it_is_heard(self, kind, monitor):
        seen = []
        kind(monitor, lambda: 1, sink=lambda *_: seen.append(only(monitor).count))()
        assert seen == [1]

    @pytest.mark.parametrize("limit", [2, 2.0, timedelta(seconds=2)], ids=repr)
    def test_slower_than(self, kind, monitor, clock, limit):
        heard = Heard()
        seconds = 0

        def body():
            clock.advance(seconds)

        work = kind(monitor, body, sink=heard, slower_than=limit)
        for seconds in (0, 1.999999999, 2, 2.000000001):  # noqa: B007 - the body looks at it
            work()
        assert heard.seconds == [2, 2.000000001]
        assert only(monitor).count == 4

    def test_slower_than_holds_for_errors_too(self, kind, monitor, clock):
        heard = Heard()

        def body():
            clock.advance(1)
            raise OopsError

        for limit in (1, 2):
            with pytest.raises(OopsError):
                kind(monitor, body, sink=heard, slower_than=limit)()
        assert heard.seconds == [1]
        assert only(monitor).errors == 2

    def test_slower_than_for_ever(self, monitor, clock):
        heard = Heard()
        a_function(monitor, lambda: clock.advance(10**9), sink=heard, slower_than=math.inf)()
        assert heard == []

    @hooks_into_sys
    @pytest.mark.parametrize("fails", [False, True], ids=["success", "error"])
    def test_a_sink_that_raises_spoils_nothing(self, kind, monitor, monkeypatch, fails):
        unraisable = []
        monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
        spoiler, error = ZeroDivisionError("in the sink"), OopsError()

        def sink(*_):
            raise spoiler

        def body():
            if fails:
                raise error
            return "result"

        work = kind(monitor, body, sink=sink)
        for _ in range(2):
            if fails:
                with pytest.raises(OopsError) as caught:
                    work()
                assert caught.value is error
            else:
                assert work() == "result"
        assert [(each.exc_value, each.object) for each in unraisable] == [(spoiler, sink)] * 2
        assert unraisable[0].exc_traceback is not None
        unraisable.clear()
        assert (only(monitor).count, only(monitor).errors) == (2, 2 * fails)

    @hooks_into_sys
    def test_a_sink_with_the_wrong_arguments_spoils_nothing(self, kind, monitor, monkeypatch):
        unraisable = []
        monkeypatch.setattr(sys, "unraisablehook", lambda failure: unraisable.append(str(failure.exc_value)))
        assert kind(monitor, lambda: 5, sink=lambda: None)() == 5
        assert len(unraisable) == 1
        assert "positional argument" in unraisable[0]

    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
    def test_what_ends_the_program_comes_out_of_a_sink(self, kind, monitor, interrupt):
        interrupt.__context__ = None

        def sink(*_):
            raise interrupt

        with pytest.raises(type(interrupt)) as caught:
            kind(monitor, lambda: 5, sink=sink)()
        assert caught.value is interrupt
        assert only(monitor).count == 1

    def test_what_ends_the_program_shows_what_it_interrupted(self, kind, monitor):
        error = OopsError()

        def sink(*_):
            raise KeyboardInterrupt

        def body():
            raise error

        with pytest.raises(KeyboardInterrupt) as caught:
            kind(monitor, body, sink=sink)()
        assert caught.value.__context__ is error
        assert error.__context__ is None

    def test_what_ends_the_program_may_be_the_error_itself(self, kind, monitor):
        def sink(name, seconds, error):
            raise error

        def body():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            kind(monitor, body, sink=sink)()
        assert caught.value.__context__ is not caught.value

    def test_a_sink_may_use_what_it_listens_to(self, monitor):
        depth = 0

        def sink(*_):
            nonlocal depth
            if depth < 3:
                depth += 1
                work()

        work = a_function(monitor, lambda: None, sink=sink)
        work()
        assert only(monitor).count == 4

    def test_several_listeners(self, kind, monitor, clock, capsys, caplog):
        heard = Heard()
        with caplog.at_level("INFO", "ferrule"):
            kind(monitor, lambda: clock.advance(1), log="INFO", echo=True, sink=heard)()
        assert heard == [("work", 1, None)]
        assert capsys.readouterr().err == "work took 1.00 s\n"
        assert [record.message for record in caplog.records] == ["work took 1.00 s"]

    @hooks_into_sys
    def test_one_that_fails_takes_nothing_from_the_others(self, monitor, clock, monkeypatch):
        class Closed:
            def write(self, _):
                raise OSError("closed")

            def flush(self): ...

        unraisable = []
        monkeypatch.setattr(sys, "unraisablehook", lambda failure: unraisable.append(str(failure.exc_value)))
        monkeypatch.setattr(sys, "stderr", Closed())
        heard = Heard()
        assert a_function(monitor, lambda: 5, echo=True, sink=heard)() == 5
        assert heard == [("work", 0, None)]
        assert unraisable == ["closed"]


@turns_the_clock
class TestEcho:
    def test_a_line_for_each_run(self, monitor, clock, capsys):
        @monitor.timed("load", echo=True)
        def load(seconds, error=None):
            clock.advance(seconds)
            if error:
                raise error

        load(1.5)
        load(0.0421)
        with pytest.raises(OopsError):
            load(75.3, OopsError)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == "load took 1.50 s\nload took 42.1 ms\nload took 75.3 s and raised OopsError\n"

    def test_a_block_without_a_name(self, clock, capsys):
        with Timer(echo=True):
            clock.advance(1e-6)
        assert capsys.readouterr().err == "a block took 1.00 µs\n"

    def test_a_program_without_standard_error(self, monitor, capsys, monkeypatch):
        monkeypatch.setattr(sys, "stderr", None)
        assert a_function(monitor, lambda: 5, echo=True)() == 5
        assert capsys.readouterr().out == ""


@configures_logging
class TestLog:
    @pytest.mark.parametrize("level", ["WARNING", logging.WARNING, 25, "CRITICAL", logging.DEBUG], ids=repr)
    def test_a_record_for_each_run(self, monitor, clock, caplog, level):
        @monitor.timed("load", log=level)
        def load(error=None):
            clock.advance(1.5)
            if error:
                raise error

        with caplog.at_level(1, "ferrule.timing"):
            load()
            with pytest.raises(OopsError):
                load(OopsError())
        number = level if isinstance(level, int) else logging.getLevelNamesMapping()[level]
        shown = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
        assert shown == [
            ("ferrule.timing", number, "load took 1.50 s"),
            ("ferrule.timing", number, "load took 1.50 s and raised OopsError"),
        ]
        fields = [(record.ferrule_name, record.seconds, record.failed) for record in caplog.records]
        assert fields == [("load", 1.5, False), ("load", 1.5, True)]

    def test_nothing_is_built_when_nobody_listens(self, kind, monitor, caplog, monkeypatch):
        built = []
        monkeypatch.setattr(ferrule.timing, "_sentence", lambda *args: built.append(args) or "sentence")
        with caplog.at_level(logging.WARNING, "ferrule.timing"):
            work = kind(monitor, lambda: 1, log=logging.INFO)
            work()
            assert built == []
            caplog.set_level(logging.INFO, "ferrule.timing")
            work()
        assert [record.getMessage() for record in caplog.records] == ["sentence"]
        assert len(built) == 1

    @pytest.mark.subprocess
    def test_a_program_that_configures_nothing_sees_nothing(self, python):
        done = python("""
            from ferrule import timed

            @timed(log="ERROR")
            def load():
                pass

            load()
        """)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- names ------------------------------------------------------------------------------------------------------------


def from_module(module, qualname="load"):
    def function():
        pass

    function.__module__, function.__qualname__ = module, qualname
    return function


class TestNames:
    def test_the_qualified_name(self):
        monitor = PerformanceMonitor()

        class Callable:
            def __call__(self): ...

        monitor.timed(len)
        monitor.timed(str.upper)
        monitor.timed(from_module("here", "Class.method"))
        monitor.timed(functools.partial(functools.partial(from_module("here", "function"))))
        monitor.timed(Callable())
        assert list(monitor.stats()) == [
            "len",
            "str.upper",
            "Class.method",
            "function",
            "TestNames.test_the_qualified_name.<locals>.Callable",
        ]

    def test_two_modules_with_one_name_are_kept_apart(self):
        monitor = PerformanceMonitor()
        first, second = from_module("one"), from_module("two")
        heard = Heard()
        measured = [monitor.timed(sink=heard)(each) for each in (first, second, first, second)]
        for number, each in enumerate(measured):
            for _ in range(10**number):
                each()
        assert {name: stats.count for name, stats in monitor.stats().items()} == {"load": 101, "two.load": 1010}
        assert {name for name, _, _ in heard} == {"load", "two.load"}

    def test_a_name_that_is_given_is_shared(self):
        monitor = PerformanceMonitor()
        with monitor.timer("load"):
            pass
        for function in (
            monitor.timed(from_module("one")),
            monitor.timed(from_module("two")),
            monitor.timed("load")(from_module("three")),
        ):
            function()
        assert {name: stats.count for name, stats in monitor.stats().items()} == {"load": 4}

    def test_monitors_are_apart(self):
        monitor = PerformanceMonitor()
        other = PerformanceMonitor()
        monitor.timed("load")(lambda: 1)()
        assert other.stats() == {}

    def test_any_string_will_do(self):
        monitor = PerformanceMonitor()
        for name in ("", " ", "a b", "größe", "x" * 10_000, "line\nbreak", "\N{SNOWMAN}"):
            with monitor.timer(name):
                pass
            assert monitor.stats()[name].count == 1

    @configures_logging
    def test_names_beyond_the_limit_go_together_with_one_warning(self, caplog):
        monitor = PerformanceMonitor(max_names=2)
        for number in range(5):
            with monitor.timer(f"name {number}"):
                pass
            monitor.timed(f"name {number}")(lambda: 1)()
        assert {name: stats.count for name, stats in monitor.stats().items()} == {
            "name 0": 2,
            "name 1": 2,
            "(other)": 6,
        }
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("ferrule.timing", "WARNING")
        assert record.getMessage() == (
            "more than max_names=2 names: 'name 2' and all other new ones are recorded under '(other)'"
        )
        assert (record.ferrule_name, record.max_names) == ("name 2", 2)
        monitor.reset()
        assert list(monitor.stats()) == ["name 0", "name 1", "(other)"]

    @configures_logging
    def test_a_name_that_is_there_is_never_beyond_the_limit(self, caplog):
        monitor = PerformanceMonitor(max_names=1)
        for _ in range(3):
            with monitor.timer("name"):
                pass
        assert monitor.stats()["name"].count == 3
        assert caplog.records == []

    def test_the_limit_has_a_default(self):
        monitor = PerformanceMonitor()
        for number in range(1_000):
            monitor.timer(f"name {number}")
        assert len(monitor.stats()) == 1_000
        assert "(other)" not in monitor.stats()


class MonitorModel(RuleBasedStateMachine):
    """A monitor beside plain lists by name."""

    MAX_NAMES = 4

    def __init__(self):
        super().__init__()
        self.monitor = PerformanceMonitor(max_names=self.MAX_NAMES)
        self.durations = {}
        self.owners = {}
        self.limit = logging.getLogger("ferrule.timing").level
        logging.getLogger("ferrule.timing").setLevel(logging.CRITICAL)

    def teardown(self):
        logging.getLogger("ferrule.timing").setLevel(self.limit)

    def place(self, name, module):
        """The name that a function's runs go under."""

        def shared(name):
            return name not in self.owners or module is None or self.owners[name] in {None, module}

        if not shared(name):
            name = f"{module}.{name}"
        if name not in self.owners:
            if len(self.owners) >= self.MAX_NAMES:
                name, module = "(other)", None
            self.owners.setdefault(name, None if name == "(other)" else module)
        return name

    @rule(
        name=st.sampled_from(["load", "save", "one.load", "(other)"]),
        module=st.sampled_from([None, "one", "two"]),
        duration=st.integers(0, 10**9),
        failed=st.booleans(),
    )
    def record(self, name, module, duration, failed):
        expected = self.place(name, module)
        got, recorder = self.monitor.recorder(name, module)
        assert got == expected
        recorder.record(duration / 10**9, failed=failed)
        self.durations.setdefault(expected, []).append((duration, failed))

    @rule()
    def reset(self):
        self.monitor.reset()
        self.durations = {name: [] for name in self.durations}

    @invariant()
    def agrees(self):
        stats = self.monitor.stats()
        assert list(stats) == list(self.durations)
        for name, runs in self.durations.items():
            assert stats[name].count == len(runs)
            assert stats[name].errors == sum(failed for _, failed in runs)
            assert stats[name].total == sum(duration for duration, _ in runs) / 10**9
            assert stats[name].max == max((duration for duration, _ in runs), default=0) / 10**9
            assert stats[name].min == min((duration for duration, _ in runs), default=0) / 10**9


MonitorModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.thread_unsafe(reason="sets the level of a logger")
class TestMonitorModel(MonitorModel.TestCase):
    pass


# -- figures ----------------------------------------------------------------------------------------------------------

NANOSECONDS = st.integers(0, 2**50 - 1) | st.integers(0, 200) | st.integers(10**6, 10**6 + 1000)


def recorded(durations):
    recorder = _core.Recorder()
    for duration in durations:
        recorder.record(duration / 10**9)
    return recorder


class TestFigures:
    @given(st.lists(NANOSECONDS, min_size=1, max_size=300))
    def test_agree_with_the_standard_library(self, durations):
        stats = recorded(durations).stats()
        count = len(durations)
        assert (stats.count, stats.errors) == (count, 0)
        assert (stats.total, stats.min, stats.max) == tuple(f(durations) / 10**9 for f in (sum, min, max))
        assert stats.mean == pytest.approx(statistics.fmean(durations) / 10**9, rel=1e-14)
        if count > 1:
            assert stats.stdev == pytest.approx(statistics.stdev(durations) / 10**9, rel=1e-9, abs=1e-9)
        ordered = sorted(durations)
        for field, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
            exact = ordered[math.ceil(share * count) - 1] / 10**9
            assert getattr(stats, field) == pytest.approx(exact, rel=0.01, abs=0), field
        assert stats.min <= stats.p50 <= stats.p90 <= stats.p99 <= stats.p999 <= stats.max

    @given(st.lists(NANOSECONDS, max_size=300))
    def test_the_buckets_hold_every_duration(self, durations):
        buckets = recorded(durations).buckets()
        assert sum(count for _, _, count in buckets) == len(durations)
        assert buckets == sorted(buckets)
        for start, end, count in buckets:
            assert sum(start <= duration / 10**9 < end for duration in durations) == count > 0

    def test_quantiles_of_many(self):
        durations = [number * 1000 for number in range(1, 10_001)]
        stats = recorded(durations).stats()
        for value, exact in ((stats.p50, 5e-3), (stats.p90, 9e-3), (stats.p99, 9.9e-3), (stats.p999, 9.99e-3)):
            assert value == pytest.approx(exact, rel=0.01)

    def test_long_and_nearly_equal(self):
        hour = 3_600 * 10**9
        stats = recorded([hour, hour + 2, hour + 4]).stats()
        assert stats.stdev == pytest.approx(2e-9, rel=1e-6)

    def test_deviation_of_next_to_nothing(self):
        assert recorded([1, 2]).stats().stdev == pytest.approx(statistics.stdev([1, 2]) * 1e-9)
        assert recorded([0, 0, 1]).stats().stdev == pytest.approx(statistics.stdev([0, 0, 1]) * 1e-9)

    def test_memory_is_bounded_whatever_comes(self):
        recorder = _core.Recorder()
        empty = recorder.__sizeof__()
        recorder.record(1)
        one = recorder.__sizeof__()
        assert empty < one <= 2_048
        for power in range(64):
            for part in range(64):
                recorder.record((2**power + part * 2**power // 64) / 10**9)
        assert one < recorder.__sizeof__() <= 24 * 1024
        assert recorder.stats().count == 64 * 64 + 1
        size = recorder.__sizeof__()
        recorder.reset()
        assert recorder.__sizeof__() == size
        assert recorder.stats() == _core.Recorder().stats()

    def test_the_longest_of_all(self):
        stats = recorded([2**60]).stats()
        assert (stats.count, stats.max, stats.p50) == (1, 2**60 / 10**9, 2**60 / 10**9)


# -- memory -----------------------------------------------------------------------------------------------------------

SIZE = 1_000_000
# What a run's own bookkeeping may add: frames, coroutines, ints.
SLACK = 8_000


@traces_memory
class TestMemory:
    @pytest.fixture(autouse=True)
    def _not_tracing(self):
        assert not tracemalloc.is_tracing()
        yield
        tracing = tracemalloc.is_tracing()
        tracemalloc.stop()
        assert not tracing

    def check(self, stats, net, peak):
        """Mean and maximum, net and at the peak, in units of SIZE."""
        assert isinstance(stats.memory_net, MemoryStats)
        assert [type(value) for value in (*stats.memory_net, *stats.memory_peak)] == [float, int] * 2
        for got, expected in zip((*stats.memory_net, *stats.memory_peak), (*net, *peak), strict=True):
            assert expected * SIZE - SLACK <= got <= expected * SIZE + SLACK, (stats.memory_net, stats.memory_peak)

    def test_what_is_kept(self, monitor):
        @monitor.profile_memory
        def keep():
            assert tracemalloc.is_tracing()
            return bytearray(SIZE)

        assert len(keep()) == SIZE
        assert not tracemalloc.is_tracing()
        stats = keep.timing_stats()
        assert stats.count == 1
        assert stats.memory_net.max >= SIZE
        self.check(stats, (1, 1), (1, 1))

    def test_what_is_let_go(self, monitor):
        @monitor.profile_memory(name="temporary")
        def temporary():
            len(bytearray(SIZE))

        temporary()
        assert list(monitor.stats()) == ["temporary"]
        self.check(monitor.stats()["temporary"], (0, 0), (1, 1))

    def test_means_and_maxima(self, monitor):
        @monitor.profile_memory
        def keep(times):
            len(bytearray(SIZE * times * 2))
            return bytearray(SIZE * times)

        for times in (1, 3, 2):
            keep(times)
        self.check(keep.timing_stats(), (2, 3), (4, 6))
        keep.timing_reset()
        assert keep.timing_stats().memory_net is None
        assert keep.timing_stats().memory_peak is None

    def test_less_than_before(self, monitor):
        tracemalloc.start()
        held = [bytearray(SIZE)]
        profiled = monitor.profile_memory(held.clear, name="clear")
        profiled()
        tracemalloc.stop()
        self.check(profiled.timing_stats(), (-1, -1), (0, 0))

    def test_errors(self, monitor):
        @monitor.profile_memory
        def fails():
            len(bytearray(SIZE))
            raise OopsError

        with pytest.raises(OopsError):
            fails()
        assert (fails.timing_stats().count, fails.timing_stats().errors) == (1, 1)
        self.check(fails.timing_stats(), (0, 0), (1, 1))

    def test_a_coroutine(self, monitor):
        @monitor.profile_memory
        async def work():
            kept = bytearray(SIZE)
            await asyncio.sleep(0)
            len(bytearray(SIZE))
            return kept

        assert inspect.iscoroutinefunction(work)
        kept = drive(work())
        self.check(work.timing_stats(), (1, 1), (2, 2))
        assert len(kept) == SIZE

    def test_a_generator_without_its_consumer(self, monitor):
        @monitor.profile_memory
        def work():
            first = bytearray(SIZE)
            got = yield first
            second = bytearray(SIZE)
            assert got == "sent"
            with contextlib.suppress(OopsError):
                yield second
            yield 3
            return "end"

        assert inspect.isgeneratorfunction(work)

        def whole():
            running = work()
            kept = [next(running), bytearray(5 * SIZE)]
            kept.append(running.send("sent"))
            assert not tracemalloc.is_tracing()
            kept.append(running.throw(OopsError))
            result = yield from running
            return result, kept

        result, _kept = drive(whole())
        assert result == "end"
        # The items are kept: its net. The second came on top of the first: its peak.
        self.check(work.timing_stats(), (2, 2), (2, 2))

    def test_a_generator_that_is_closed(self, monitor):
        @monitor.profile_memory
        def work():
            kept = bytearray(SIZE)
            yield
            del kept

        running = work()
        next(running)
        running.close()
        assert (work.timing_stats().count, work.timing_stats().errors) == (1, 0)
        work().close()
        assert work.timing_stats().count == 1

    def test_an_async_generator(self, monitor):
        @monitor.profile_memory
        async def work():
            for _ in range(3):
                await asyncio.sleep(0)
                yield bytearray(SIZE)

        assert inspect.isasyncgenfunction(work)

        async def main():
            kept = []
            async for item in work():
                kept += [item, bytearray(5 * SIZE)]
            async with contextlib.aclosing(work()) as running:
                kept.append(await anext(running))
            return kept

        kept = asyncio.run(main())
        assert len(kept) == 7
        self.check(work.timing_stats(), (2, 3), (2, 3))

    def test_one_in_another(self, monitor):
        @monitor.profile_memory(name="inner")
        def inner(size):
            len(bytearray(size))

        @monitor.profile_memory(name="before")
        def before():
            len(bytearray(3 * SIZE))
            inner(SIZE)

        @monitor.profile_memory(name="after")
        def after():
            inner(SIZE)
            len(bytearray(3 * SIZE))

        @monitor.profile_memory(name="around")
        def around():
            kept = bytearray(SIZE)
            inner(2 * SIZE)
            return kept

        before()
        self.check(monitor.stats()["before"], (0, 0), (3, 3))
        after()
        self.check(monitor.stats()["after"], (0, 0), (3, 3))
        kept = around()
        self.check(monitor.stats()["around"], (1, 1), (3, 3))
        assert monitor.stats()["inner"].count == 3
        self.check(monitor.stats()["inner"], (0, 0), (4 / 3, 2))
        assert len(kept) == SIZE

    def test_recursion(self, monitor):
        @monitor.profile_memory(name="down")
        def down(n):
            kept = bytearray(SIZE)
            return [kept, *down(n - 1)] if n else [kept]

        kept = down(2)
        self.check(monitor.stats()["down"], (2, 3), (2, 3))
        assert len(kept) == 3

    def test_several_threads(self, monitor):
        both = threading.Barrier(2)

        @monitor.profile_memory(name="work")
        def work():
            both.wait()
            kept = bytearray(SIZE)
            both.wait()
            return kept

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = monitor.stats()["work"]
        assert stats.count == 2
        # Each sees what the other one allocates.
        assert SIZE <= stats.memory_peak.max <= 2 * SIZE + 100_000

    def test_tracing_that_was_on_stays_on(self, monitor):
        tracemalloc.start(5)
        try:
            monitor.profile_memory(lambda: bytearray(SIZE), name="work")()
            assert tracemalloc.is_tracing()
            assert tracemalloc.get_traceback_limit() == 5
        finally:
            tracemalloc.stop()
        self.check(monitor.stats()["work"], (1, 1), (1, 1))

    def test_tracing_that_somebody_stops_leaves_no_figures(self, monitor):
        @monitor.profile_memory(name="work")
        def work(stop):
            if stop:
                tracemalloc.stop()
            return bytearray(SIZE)

        work(stop=True)
        assert (monitor.stats()["work"].count, monitor.stats()["work"].memory_net) == (1, None)
        work(stop=False)
        self.check(monitor.stats()["work"], (1, 1), (1, 1))

    def test_nothing_else_is_profiled(self, kind, monitor):
        tracing = []
        kind(monitor, lambda: tracing.append(tracemalloc.is_tracing()))()
        assert tracing == [False]
        assert (only(monitor).memory_net, only(monitor).memory_peak) == (None, None)

    def test_methods_of_every_kind(self, monitor):
        class Holder:
            @monitor.profile_memory
            def method(self, *, key):
                return bytearray(SIZE)

            @monitor.profile_memory
            @staticmethod
            def of_none():
                return bytearray(SIZE)

            @monitor.profile_memory
            @classmethod
            def of_class(cls):
                return cls, bytearray(SIZE)

            @property
            @monitor.profile_memory
            def value(self):
                return bytearray(SIZE)

        it = Holder()
        assert it.of_class()[0] is Holder
        for size in (len(it.method(key=1)), len(it.of_none()), len(Holder.of_none()), len(it.value)):
            assert size == SIZE
        for stats in monitor.stats().values():
            assert stats.count
            self.check(stats, (1, 1), (1, 1))

    def test_it_is_dressed_as_the_function(self, monitor):
        @monitor.profile_memory
        def work(a: int, *, b: str = "") -> float:
            """Work."""

        assert str(inspect.signature(work)) == "(a: int, *, b: str = '') -> float"
        assert (work.__name__, work.__doc__) == ("work", "Work.")
        name = "TestMemory.test_it_is_dressed_as_the_function.<locals>.work"
        assert list(monitor.stats()) == [name]

    def test_names_of_two_modules_are_kept_apart(self, monitor):
        for module in ("one", "two"):
            monitor.profile_memory(from_module(module))()
        assert {name: stats.count for name, stats in monitor.stats().items()} == {"load": 1, "two.load": 1}
        assert all(stats.memory_net is not None for stats in monitor.stats().values())

    @pytest.mark.subprocess
    def test_a_collection_in_between_does_no_harm(self, python):
        """A profiled generator may be closed by a collection, and a collection may come at any time."""
        done = python("""
            import gc, signal, tracemalloc
            from ferrule import PerformanceMonitor

            monitor = PerformanceMonitor()

            @monitor.profile_memory(name="generator")
            def generator():
                yield

            @monitor.profile_memory(name="work")
            def work():
                return [1]

            def leave_one_behind():
                running = generator()
                next(running)
                cycle = [running]
                cycle.append(cycle)

            gc.set_threshold(1)
            for _ in range(5_000):
                leave_one_behind()
                work()
            gc.collect()
            print({name: stats.count for name, stats in monitor.stats().items()}, tracemalloc.is_tracing())
        """)
        assert done.stdout == "{'generator': 5000, 'work': 5000} False\n", done.stderr

    @pytest.mark.subprocess
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child_is_not_traced_for_its_parents_run(self, python):
        done = python("""
            import os, sys, tracemalloc
            from ferrule import PerformanceMonitor

            monitor = PerformanceMonitor()

            @monitor.profile_memory(name="fork")
            def fork():
                child = os.fork()
                if child == 0:
                    print("child", tracemalloc.is_tracing(), flush=True)
                else:
                    os.waitpid(child, 0)
                return child

            @monitor.profile_memory(name="work")
            def work():
                return bytearray(1_000_000)

            child = fork()
            work()
            stats = monitor.stats()
            print(
                "child" if child == 0 else "parent",
                tracemalloc.is_tracing(),
                stats["fork"].memory_net is None,
                stats["work"].memory_net.max >= 1_000_000,
                flush=True,
            )
            os._exit(0)
        """)
        assert done.stdout == "child False\nchild False True True\nparent False False True\n", done.stderr


# -- counting ---------------------------------------------------------------------------------------------------------


class TestCounting:
    def test_calls_count_when_they_begin(self):
        @count_calls
        def work(fails):
            assert work.call_count == expected
            if fails:
                raise OopsError

        for expected, fails in enumerate((False, True, False), start=1):  # noqa: B007 - the function looks at it
            with contextlib.suppress(OopsError):
                work(fails)
        assert work.call_count == 3
        work.call_reset()
        assert work.call_count == 0
        expected = 1
        work(fails=False)
        assert work.call_count == 1

    def test_wrong_arguments_count(self):
        counted = count_calls(lambda x: x)
        with pytest.raises(TypeError, match="missing 1 required"):
            counted()
        assert counted.call_count == 1

    def test_calls_that_make_coroutines_and_generators_count(self):
        @count_calls
        async def coroutine():
            return 1

        @count_calls
        def generator():
            yield 1

        running = coroutine()
        assert coroutine.call_count == 1
        assert drive(running) == 1
        generator()
        assert list(generator()) == [1]
        assert (coroutine.call_count, generator.call_count) == (1, 2)

    def test_methods_of_one_class_count_together(self):
        class Holder:
            @count_calls
            def method(self): ...

        class Derived(Holder):
            pass

        Holder().method()
        Derived().method()
        Holder.method(Holder())
        assert Holder.method.call_count == Derived().method.call_count == 3
        Holder().method.call_reset()
        assert Holder.method.call_count == 0

    @pytest.mark.parametrize(
        ("thing", "message"),
        [
            (int, "count_calls takes a function, not a class: <class 'int'>"),
            (5, "count_calls takes a function, not int: 5"),
            (staticmethod(5), "count_calls takes a function, not int: 5"),
            (property(len), "count_calls takes a function, not property: .*; put @count_calls below @property"),
        ],
        ids=repr,
    )
    def test_only_functions_can_be_counted(self, thing, message):
        with pytest.raises(TypeError, match=message):
            count_calls(thing)


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.subprocess
@pytest.mark.thread_unsafe(reason="starts interpreters")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestFork:
    def test_a_child_counts_for_itself(self, python):
        done = python("""
            import os
            from ferrule import PerformanceMonitor, count_calls

            monitor = PerformanceMonitor()

            @monitor.timed("work")
            @count_calls
            def work():
                pass

            timer = monitor.timer("block")
            work()
            with timer:
                child = os.fork()
                for _ in range(10 if child == 0 else 100):
                    work()
            print(work.call_count, monitor.stats()["work"].count, monitor.stats()["block"].count, flush=True)
            if child == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """)
        assert sorted(done.stdout.splitlines()) == ["101 101 1", "11 11 1"], done.stderr

"""The pooling room: who gets what and in which order, what becomes of it, and that nothing is lost or hangs."""

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import ferrule
from ferrule import (
    PoolClosed,
    PoolExhausted,
    PoolLeakWarning,
    PoolTimeout,
    ResourcePool,
    Retry,
    transaction,
)

# The clock, the log, the switch interval and the warnings are one for the process.
pytestmark = pytest.mark.thread_unsafe(reason="tests share the clock, the log, the warnings and the collector")

# The longest that anything here waits for another thread: reached only where something hangs.
LONG = 60

CANCELLATIONS = int(os.environ.get("FERRULE_TEST_CANCELLATIONS", "100000"))


class Resource:
    """What is pooled: it knows its number, and what has been done with it."""

    def __init__(self, number):
        self.number = number
        self.done = []
        self.users = 0

    def __repr__(self):
        return f"R{self.number}"


class Factory:
    """Makes resources, and fails where it is told to."""

    def __init__(self):
        self.made = []
        self.closed = []
        self.failing = None

    def __call__(self):
        if self.failing is not None:
            raise self.failing
        resource = Resource(len(self.made) + 1)
        self.made.append(resource)
        return resource

    def close(self, resource):
        assert resource not in self.closed, "closed twice"
        self.closed.append(resource)

    def pool(self, **options):
        return ResourcePool(self, **{"close": self.close, "timeout": LONG} | options)

    async def make(self):
        await asyncio.sleep(0)
        return self()

    async def close_async(self, resource):
        await asyncio.sleep(0)
        self.close(resource)

    def pool_for_tasks(self, **options):
        return ResourcePool(self.make, **{"close": self.close_async, "timeout": LONG} | options)


@pytest.fixture
def factory():
    return Factory()


@pytest.fixture
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run(code, *arguments, seconds=LONG, status=0):
    """Run code in an interpreter of its own, where a hang ends with the time; return what it printed."""
    code = "import ferrule, os, sys, threading, time\n" + textwrap.dedent(code)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == status, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def until(condition):
    """Wait for what another thread is about to do."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.0005)


async def until_in_loop(condition):
    """Let the loop run until something has come to pass."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        await asyncio.sleep(0)


class InThread:
    """A call in a thread of its own."""

    def __init__(self, function, *args, **kwargs):
        self.outcome = None
        self.call = partial(function, *args, **kwargs)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            self.outcome = self.call()
        except BaseException as error:  # noqa: BLE001 - whatever it was, the test wants to see it
            self.outcome = error

    def end(self):
        self.thread.join(LONG)
        assert not self.thread.is_alive(), "the thread still waits"
        return self.outcome


class LoopInThread:
    """An event loop that runs in a thread of its own."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(LONG)
            assert not self.thread.is_alive()
            self.loop.close()

    def start(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine):
        return self.start(coroutine).result(LONG)


class TestLending:
    def test_made_when_needed_and_kept_for_the_next(self, factory):
        pool = factory.pool()
        assert factory.made == []
        with pool.lease() as first:
            assert first.number == 1
        with pool.lease() as again, pool.lease() as second:
            assert again is first
            assert second.number == 2
        assert len(factory.made) == 2
        assert pool.stats()._replace(wait_seconds=0) == (2, 2, 0, 0, 10, 2, 0, 0, 3, 0, 0)

    def test_acquire_and_release(self, factory):
        pool = factory.pool(max_size=1)
        resource = pool.acquire()
        assert pool.stats().in_use == 1
        pool.release(resource)
        assert pool.acquire() is resource

    @pytest.mark.parametrize(("order", "expected"), [("lifo", 3), ("fifo", 1)])
    def test_which_idle_one(self, factory, order, expected):
        pool = factory.pool(order=order)
        taken = [pool.acquire() for _ in range(3)]
        for resource in taken:
            pool.release(resource)
        assert pool.acquire().number == expected

    def test_never_more_than_max_size(self, factory):
        pool = factory.pool(max_size=2)
        with pool.lease(), pool.lease(), pytest.raises(PoolTimeout):
            pool.acquire(timeout=0)
        assert len(factory.made) == 2

    def test_a_lease_can_be_entered_again_but_not_twice_at_once(self, factory):
        lease = factory.pool().lease()
        with lease as one:
            pass
        with lease as again, pytest.raises(RuntimeError, match="entered already"), lease:
            pass
        assert again is one
        with pytest.raises(RuntimeError, match="not entered"):
            lease.__exit__(None, None, None)

    def test_the_value_of_a_lease_that_nobody_enters_is_nothing(self, factory):
        pool = factory.pool()
        pool.lease()
        assert pool.stats().acquired == 0

    def test_leases_on_an_exit_stack(self, factory):
        pool = factory.pool()
        with contextlib.ExitStack() as stack:
            taken = [stack.enter_context(pool.lease()) for _ in range(5)]
            assert len(set(taken)) == 5
            assert pool.stats().in_use == 5
        assert pool.stats().in_use == 0

    def test_the_frame_is_not_kept(self, factory):
        pool = factory.pool()

        def take():
            local = Resource(0)
            return weakref.ref(local), pool.acquire()

        local, resource = take()
        gc.collect()
        assert local() is None
        pool.release(resource)

    def test_a_generic_alias_and_a_repr(self, factory):
        assert ResourcePool[int].__origin__ is ResourcePool
        pool = factory.pool(max_size=3, name="db")
        with pool.lease():
            assert repr(pool) == "<ResourcePool 'db': 1 in use, 0 idle, max 3>"
        pool.close()
        assert repr(pool) == "<ResourcePool 'db': closed, 0 in use, 0 idle, max 3>"
        assert pool.name == "db"

    def test_subclasses(self):
        class Mine(ResourcePool):
            pass

        pool = Mine(object)
        assert type(pool) is Mine
        assert type(Mine.of([1])) is Mine
        with pool.lease():
            pass


class TestTheShortForm:
    def test_it_nests(self, factory):
        pool = factory.pool()
        with pool as one:
            with pool as two:
                assert one is not two
                assert pool.stats().in_use == 2
            assert pool.stats().in_use == 1
        assert pool.stats().in_use == 0
        assert not pool.closed

    def test_each_block_gives_its_own_back(self):
        pool = ResourcePool.of("ab", order="fifo")

        def block(name):
            with pool as resource:
                yield resource
            yield name

        one, two = block("one"), block("two")
        first = next(one), next(two)
        assert first == ("a", "b")
        # The generators are left in the order in which they were entered: not the order of a stack.
        assert next(one) == "one"
        assert pool.acquire() == "a"
        assert next(two) == "two"
        assert pool.acquire() == "b"

    def test_in_threads(self, factory, quick_switches):
        pool = factory.pool(max_size=3)

        def work():
            for _ in range(200):
                with pool as resource:
                    resource.users += 1
                    assert resource.users == 1
                    resource.users -= 1

        for thread in [InThread(work) for _ in range(6)]:
            assert thread.end() is None
        assert pool.stats().in_use == 0

    def test_an_exception_counts_for_its_block(self, factory):
        pool = factory.pool()
        with pytest.raises(LookupError), pool, pool:
            raise LookupError
        assert [resource.number for resource in factory.closed] == [2, 1]

    def test_on_an_exit_stack(self, factory):
        pool = factory.pool()
        with contextlib.ExitStack() as stack:
            stack.enter_context(pool)
            stack.enter_context(pool)
        assert pool.stats().in_use == 0

    def test_left_too_often(self, factory):
        with pytest.raises(RuntimeError, match="more often than it was entered"):
            factory.pool().__exit__(None, None, None)

    def test_closing(self, factory):
        with contextlib.closing(factory.pool()) as pool, pool as resource:
            pass
        assert factory.closed == [resource]
        assert pool.closed


class TestGivenResources:
    def test_a_fixed_set(self):
        pool = ResourcePool.of(["conn1", "conn2"], order="fifo")
        first, second = pool.acquire(), pool.acquire()
        assert [first, second] == ["conn1", "conn2"]
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0)
        pool.release(first)
        assert pool.acquire(timeout=0) == "conn1"

    def test_after_the_block_what_is_out_stays_out(self):
        pool = ResourcePool.of([object()])
        kept = pool.acquire()
        with contextlib.suppress(PoolTimeout), pool.lease(timeout=0):
            pytest.fail("lent twice")
        pool.release(kept)
        assert pool.acquire() is kept

    def test_an_exception_loses_none(self):
        pool = ResourcePool.of([1])
        with pytest.raises(KeyError), pool.lease():
            raise KeyError
        assert pool.stats().idle == 1

    def test_one_that_fails_is_closed_and_not_replaced(self):
        closed = []
        pool = ResourcePool.of(["bad", "good"], check=lambda it: it != "bad", close=closed.append, order="fifo")
        assert pool.acquire() == "good"
        assert closed == ["bad"]
        assert pool.stats().max_size == 1

    def test_when_all_have_gone(self):
        pool = ResourcePool.of([1], check=lambda _: False)
        with pytest.raises(PoolExhausted, match="lost all of its resources"):
            pool.acquire()

    def test_those_who_wait_hear_that_all_have_gone(self):
        def reset(_):
            raise OSError

        pool = ResourcePool.of([1], reset=reset)
        resource = pool.acquire()
        waiters = [InThread(pool.acquire) for _ in range(3)]
        until(lambda: pool.stats().waiting == 3)
        pool.release(resource)
        assert all(isinstance(waiter.end(), PoolExhausted) for waiter in waiters)

    def test_it_can_be_closed_but_not_resized_or_drained(self):
        closed = []
        pool = ResourcePool.of([1, 2], close=closed.append)
        with pytest.raises(RuntimeError, match="resized"):
            pool.resize(3)
        with pytest.raises(RuntimeError, match="drained"):
            pool.drain()
        pool.close()
        assert sorted(closed) == [1, 2]

    @pytest.mark.parametrize(
        ("resources", "error", "text"),
        [
            ([], ValueError, "resources must hold one resource or more"),
            (["a", "a"], ValueError, "resources must be different objects, each there once, got 'a'"),
            (3, TypeError, "resources must be a collection of resources, not int: 3"),
        ],
    )
    def test_bad_sets(self, resources, error, text):
        with pytest.raises(error, match=re.escape(text)):
            ResourcePool.of(resources)

    def test_tasks_get_them_too(self):
        async def main():
            pool = ResourcePool.of([1], check=lambda _: True, reset=lambda _: None)
            async with pool.lease() as one:
                assert one == 1
            async with pool as again:
                assert again == 1
            bad = ResourcePool.of([1], check=lambda _: False)
            with pytest.raises(PoolExhausted):
                await bad.acquire_async()

        asyncio.run(main())


def coroutine_function():
    async def function(*_):
        pass

    return function


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"create": 3}, TypeError, "create must be callable without arguments, not int: 3"),
            ({"create": (lambda: (yield))}, TypeError, "create must be a function or a coroutine function, not a gen"),
            ({"max_size": 0}, ValueError, "max_size must be a whole number of at least 1, got 0"),
            ({"max_size": -1}, ValueError, "max_size must be a whole number of at least 1, got -1"),
            ({"max_size": True}, TypeError, "max_size must be a whole number of at least 1, not bool: True"),
            ({"max_size": 1.5}, TypeError, "max_size must be a whole number of at least 1, not float: 1.5"),
            ({"max_size": 2**70}, ValueError, "max_size must be a whole number of at least 1, got"),
            ({"min_idle": -1}, ValueError, "min_idle must be a whole number of at least 0, got -1"),
            ({"min_idle": 11}, ValueError, "min_idle must be at most max_size, got 11"),
            ({"order": "random"}, ValueError, "order must be 'lifo' or 'fifo', got 'random'"),
            ({"check": 1}, TypeError, "check must be callable or None, not int: 1"),
            ({"reset": 1}, TypeError, "reset must be callable or None, not int: 1"),
            ({"close": 1}, TypeError, "close must be callable or None, not int: 1"),
            ({"check": coroutine_function()}, TypeError, "check must not be a coroutine function where create is none"),
            ({"reset": coroutine_function()}, TypeError, "reset must not be a coroutine function where create is none"),
            ({"close": coroutine_function()}, TypeError, "close must not be a coroutine function where create is none"),
            ({"timeout": -1}, ValueError, "timeout must be a number of seconds that is not negative, got -1"),
            ({"timeout": "1"}, TypeError, "timeout must be seconds (int or float) or a timedelta, not str: '1'"),
            ({"max_waiting": -1}, ValueError, "max_waiting must be a whole number of at least 0, or None, got -1"),
            ({"max_idle_time": -1}, ValueError, "max_idle_time must be a number of seconds"),
            ({"max_lifetime": "x"}, TypeError, "max_lifetime must be seconds"),
            ({"lifetime_jitter": 2}, ValueError, "lifetime_jitter must be a fraction from 0 to 1, got 2"),
            ({"lifetime_jitter": "x"}, TypeError, "lifetime_jitter must be a fraction from 0 to 1, not str: 'x'"),
            ({"lifetime_jitter": float("nan")}, ValueError, "lifetime_jitter must be a fraction from 0 to 1, got nan"),
            ({"create_backoff": 3}, TypeError, "create_backoff must be a Retry or None, not int: 3"),
            ({"leak_after": -1}, ValueError, "leak_after must be a number of seconds"),
            ({"name": 3}, TypeError, "name must be a string or None, not int: 3"),
        ],
    )
    def test_bad_ones_are_named_at_once(self, options, error, text):
        with pytest.raises(error, match=re.escape(text)):
            ResourcePool(**{"create": object} | options)

    def test_a_bad_timeout_is_told_when_the_lease_is_made(self, factory):
        pool = factory.pool()
        with pytest.raises(ValueError, match="timeout"):
            pool.lease(timeout=-1)
        with pytest.raises(TypeError, match="timeout"):
            pool.acquire(timeout="soon")
        with pytest.raises(TypeError):
            pool.lease(1)

    @pytest.mark.parametrize("timeout", [0, 0.001, timedelta(milliseconds=1)])
    def test_good_timeouts(self, factory, timeout):
        pool = factory.pool(max_size=1)
        with pool.lease(), pytest.raises(TimeoutError):
            pool.acquire(timeout=timeout)
        pool = factory.pool(max_size=1, timeout=timeout)
        with pool.lease(), pytest.raises(TimeoutError):
            pool.acquire()

    def test_a_coroutine_from_a_function_that_is_none(self):
        async def make():
            pass

        pool = ResourcePool(lambda: make())  # noqa: PLW0108 - to hide what it is
        with pytest.raises(TypeError, match="create returned something to be awaited"):
            pool.acquire()
        assert pool.stats().size == 0
        with pytest.raises(TypeError, match="create returned something to be awaited"):
            asyncio.run(pool.acquire_async(timeout=LONG))

    def test_a_resource_that_was_made_before(self):
        one = object()
        pool = ResourcePool(lambda: one)
        with pool.lease(), pytest.raises(RuntimeError, match="an object that the pool has already"):
            pool.acquire()
        assert pool.stats().size == 1
        assert pool.acquire() is one


class TestReleasing:
    def test_a_stranger(self, factory):
        pool = factory.pool(name="db")
        stranger = Resource(7)
        with pytest.raises(RuntimeError, match=r"not one of the pool 'db'.*: R7"):
            pool.release(stranger)

    def test_twice(self, factory):
        pool = factory.pool()
        resource = pool.acquire()
        pool.release(resource)
        with pytest.raises(RuntimeError, match="released already: R1"):
            pool.release(resource)
        assert pool.stats().idle == 1
        assert pool.acquire() is resource
        assert pool.acquire() is not resource

    def test_what_was_closed_is_a_stranger(self, factory):
        pool = factory.pool()
        resource = pool.acquire()
        pool.release(resource, discard=True)
        assert factory.closed == [resource]
        with pytest.raises(RuntimeError, match="has been closed meanwhile"):
            pool.release(resource)

    def test_inside_of_its_lease(self, factory):
        pool = factory.pool()
        with pytest.raises(RuntimeError, match="released inside the block of its lease"), pool.lease() as resource:
            pool.release(resource)
        assert pool.stats().in_use == 0
        with pytest.raises(KeyError), pool.lease() as resource:  # noqa: PT012 - the block is what is tested
            pool.release(resource)
            # By now it is somebody else's, and the block's end must not take it from there.
            other = pool.acquire()
            raise KeyError
        assert other is resource
        assert pool.stats().in_use == 1

    def test_by_another_thread(self, factory):
        pool = factory.pool()
        resource = pool.acquire()
        assert InThread(pool.release, resource).end() is None
        assert pool.stats().idle == 1

    def test_equal_resources_are_told_apart(self):
        one, two = [], []
        pool = ResourcePool.of([one, two])
        taken = pool.acquire()
        other = one if taken is two else two
        with pytest.raises(RuntimeError, match="not lent"):
            pool.release(other)
        pool.release(taken)


class TestCallbacks:
    def test_check_before_lending(self, factory):
        checked = []
        pool = factory.pool(check=lambda it: checked.append(it) or True)
        with pool.lease() as resource:
            assert checked == []
        with pool.lease():
            assert checked == [resource]

    @pytest.mark.parametrize("answer", [False, 0, None, OSError("gone"), ArithmeticError()])
    def test_a_check_that_says_no_replaces_the_resource(self, factory, answer, caplog):
        def check(_):
            if isinstance(answer, Exception):
                raise answer
            return answer

        pool = factory.pool(check=check, name="db")
        with pool.lease() as old:
            pass
        with caplog.at_level(logging.WARNING, "ferrule.pooling"), pool.lease() as new:
            assert new is not old
        assert factory.closed == [old]
        assert pool.stats().size == 1
        assert len(caplog.records) == isinstance(answer, Exception)
        for record in caplog.records:
            assert record.ferrule_name == "db"
            assert record.callback == "check"
            assert record.exc_info[1] is answer

    def test_reset_on_return(self, factory):
        reset = []
        pool = factory.pool(reset=reset.append)
        with pool.lease() as resource:
            assert reset == []
        assert reset == [resource]
        with pytest.raises(KeyError), pool.lease():
            raise KeyError
        assert reset == [resource, resource]
        assert factory.closed == []

    def test_a_reset_that_fails_closes(self, factory, caplog):
        def reset(_):
            raise OSError("broken")

        pool = factory.pool(reset=reset)
        with caplog.at_level(logging.WARNING, "ferrule.pooling"), pool.lease() as resource:
            pass
        assert factory.closed == [resource]
        assert "reset failed: the resource is closed" in caplog.text

    def test_an_exception_without_reset_closes(self, factory):
        pool = factory.pool()
        with pytest.raises(KeyError), pool.lease() as resource:
            raise KeyError
        assert factory.closed == [resource]
        assert pool.stats().size == 0

    def test_discarding_runs_no_reset(self, factory):
        reset = []
        pool = factory.pool(reset=reset.append)
        pool.release(pool.acquire(), discard=True)
        assert reset == []
        assert len(factory.closed) == 1

    def test_a_close_that_fails_is_logged_and_the_slot_is_free(self, caplog):
        def close(_):
            raise OSError("broken")

        pool = ResourcePool(object, close=close, max_size=1)
        with caplog.at_level(logging.WARNING, "ferrule.pooling"):
            pool.release(pool.acquire(), discard=True)
        assert "close failed: the resource is let go" in caplog.text
        assert pool.stats().size == 0
        pool.acquire()

    @pytest.mark.parametrize("which", ["create", "check", "reset", "close"])
    def test_what_ends_a_program_comes_out_and_loses_nothing(self, which):
        interrupts = []

        def callback(*_):
            if interrupts:
                raise interrupts.pop()
            return Resource(1) if which == "create" else True

        pool = ResourcePool(**{"create": lambda: Resource(0)} | {which: callback}, max_size=1, timeout=0)
        if which != "create":
            pool.release(pool.acquire())
        interrupts.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            pool.release(pool.acquire(), discard=which == "close")
        assert pool.stats().size == 0
        assert pool.stats().failed == 0
        with pool.lease():
            pass

    def test_callbacks_may_use_the_pool(self, factory):
        def check(_):
            with pool.lease(timeout=0):
                return True

        pool = factory.pool(max_size=2, check=check)
        with pool.lease():
            pass
        # The one resource is being checked: the check makes itself another.
        with pool.lease():
            assert len(factory.made) == 2


class TestWaiting:
    def test_what_comes_back_is_handed_over(self, factory):
        pool = factory.pool(max_size=1)
        resource = pool.acquire()
        waiter = InThread(pool.acquire)
        until(lambda: pool.stats().waiting == 1)
        pool.release(resource)
        # Nobody overtakes: it is the waiter's before he has so much as woken up.
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0)
        assert waiter.end() is resource
        assert pool.stats().wait_seconds > 0

    def test_a_slot_that_comes_free_is_handed_over(self, factory):
        pool = factory.pool(max_size=1)
        resource = pool.acquire()
        waiter = InThread(pool.acquire)
        until(lambda: pool.stats().waiting == 1)
        pool.release(resource, discard=True)
        assert waiter.end() is factory.made[1]

    def test_a_resource_that_fails_its_check_keeps_the_place_in_line(self, factory):
        broken = set()
        pool = factory.pool(max_size=1, check=lambda it: it not in broken)
        resource = pool.acquire()
        broken.add(resource)
        waiter = InThread(pool.acquire)
        until(lambda: pool.stats().waiting == 1)
        pool.release(resource)
        assert waiter.end() is factory.made[1]
        assert factory.closed == [resource]

    def test_threads_and_tasks_in_one_line(self, factory):
        pool = factory.pool(max_size=1)
        resource = pool.acquire()
        served = []

        def in_thread(number):
            with pool.lease() as taken:
                served.append(number)
                assert taken is resource

        async def in_task(number):
            async with pool.lease() as taken:
                served.append(number)
                assert taken is resource

        with LoopInThread() as one, LoopInThread() as other:
            ends = []
            for number in range(30):
                before = pool.stats().waiting
                if number % 3 == 0:
                    ends.append(InThread(in_thread, number).end)
                else:
                    ends.append(partial((one if number % 3 == 1 else other).start(in_task(number)).result, LONG))
                until(lambda expected=before + 1: pool.stats().waiting == expected)
            pool.release(resource)
            for end in ends:
                assert end() is None
        assert served == list(range(30))

    def test_max_waiting(self, factory):
        pool = factory.pool(max_size=1, max_waiting=1, name="db")
        resource = pool.acquire()
        waiter = InThread(pool.acquire)
        until(lambda: pool.stats().waiting == 1)
        with pytest.raises(PoolExhausted, match="the pool 'db' has nothing to lend, and 1 wait already"):
            pool.acquire()
        with pytest.raises(PoolExhausted):
            asyncio.run(pool.acquire_async())
        pool.release(resource)
        assert waiter.end() is resource

    def test_max_waiting_of_none_at_all(self, factory):
        pool = factory.pool(max_size=1, max_waiting=0)
        with pool.lease(), pytest.raises(PoolExhausted):
            pool.acquire()

    def test_those_who_have_left_dont_count(self, factory):
        pool = factory.pool(max_size=1, max_waiting=2)
        with pool.lease():
            for _ in range(5):
                with pytest.raises(PoolTimeout):
                    pool.acquire(timeout=0.001)
        assert pool.stats().timeouts == 5
        assert pool.stats().waiting == 0

    def test_a_deadline_on_the_manual_clock(self, factory, manual_clock):
        pool = factory.pool(max_size=1)
        resource = pool.acquire()
        thread = InThread(pool.acquire, timeout=10)
        with LoopInThread() as loop:
            task = loop.start(pool.acquire_async(timeout=20))
            until(lambda: pool.stats().waiting == 2)
            manual_clock.advance(10)
            assert isinstance(thread.end(), PoolTimeout)
            assert not task.done()
            manual_clock.advance(10)
            with pytest.raises(PoolTimeout, match="within 20 s"):
                task.result(LONG)
        pool.release(resource)
        assert pool.stats().idle == 1

    def test_fair_to_threads(self, factory, quick_switches):
        # Not by luck but by order: between two turns of one thread every other that waits has had one.
        pool = factory.pool(max_size=1)
        log = []
        with ThreadPoolExecutor(4) as executor:
            barrier = threading.Barrier(4, timeout=LONG)

            def work(name):
                barrier.wait()
                for _ in range(100):
                    with pool.lease():
                        log.append((name, pool.stats().waiting))

            for future in [executor.submit(work, name) for name in range(4)]:
                future.result(LONG)
        for name in range(4):
            turns = [place for place, (other, _) in enumerate(log) if other == name]
            for one, two in itertools.pairwise(turns):
                waited = log[one][1]
                assert two - one > waited


class TestMessages:
    def test_it_names_thread_place_and_time(self, factory, manual_clock):
        pool = factory.pool(max_size=2, name="db")
        mine = pool.acquire()
        line = sys._getframe().f_lineno - 1
        other = InThread(pool.acquire)
        other.end()
        manual_clock.advance(3)
        with pytest.raises(PoolTimeout) as caught:
            pool.acquire(timeout=0)
        text = str(caught.value)
        assert text.startswith("the pool 'db' has nothing to lend: 2 of 2 are in use\n")
        place = f"{type(self).__qualname__}.test_it_names_thread_place_and_time ({__file__}:{line})"
        assert f"  by thread {threading.current_thread().name!r} for 3 s, taken in {place}\n" in text
        assert ", which has ended for 3 s, taken in InThread.run" in text
        pool.release(mine)

    def test_it_names_tasks(self, factory):
        async def leaky(pool):
            return await pool.acquire_async()

        async def main():
            pool = factory.pool_for_tasks(max_size=3)
            await asyncio.create_task(leaky(pool), name="leaky")
            async with pool.lease():
                kept = await pool.acquire_async()
                with pytest.raises(PoolTimeout) as caught:
                    await pool.acquire_async(timeout=0)
                await pool.release_async(kept)
            return str(caught.value)

        text = asyncio.run(main())
        assert re.search(r"by task 'leaky', which has ended \(in thread '.*'\) for .* s, taken in .*leaky \(", text)
        assert len(re.findall(r"by task 'Task-\d+' \(in thread .*\) for .* s, taken in .*main \(", text)) == 2

    def test_it_names_at_most_twenty(self, factory):
        pool = factory.pool(max_size=30)
        for _ in range(30):
            pool.acquire()
        with pytest.raises(PoolTimeout, match=r"and 10 more$"):
            pool.acquire(timeout=0)

    def test_it_has_the_cause(self, factory):
        pool = factory.pool(timeout=0)
        factory.failing = OSError("no route")
        with pytest.raises(OSError, match="no route"):
            pool.acquire()
        with pytest.raises(
            PoolTimeout, match=re.escape("failed once, the last time with OSError('no route')")
        ) as caught:
            pool.acquire()
        assert caught.value.__cause__ is factory.failing

    def test_errors_have_their_built_in_bases(self):
        assert issubclass(PoolTimeout, (ferrule.FerruleError, TimeoutError))
        assert issubclass(PoolTimeout, TimeoutError)
        assert issubclass(PoolClosed, RuntimeError)
        assert issubclass(PoolExhausted, RuntimeError)


class TestFailingCreations:
    def test_the_cause_comes_out_and_the_slot_is_given_back(self, factory):
        pool = factory.pool(max_size=1, create_backoff=Retry(delay=0))
        factory.failing = OSError("no route")
        for count in range(1, 4):
            with pytest.raises(OSError, match="no route") as caught:
                pool.acquire()
            assert caught.value is factory.failing
            assert pool.stats().failed == count
            assert pool.stats().size == 0
        factory.failing = None
        with pool.lease():
            pass

    def test_it_backs_off_and_newcomers_wait_for_the_next_attempt(self, factory, manual_clock):
        pool = factory.pool(max_size=5, create_backoff=Retry(delay=10, backoff=2, max_delay=100, jitter=None))
        factory.failing = OSError("no route")
        with pytest.raises(OSError, match="no route"):
            pool.acquire()
        waiters = [InThread(pool.acquire) for _ in range(3)]
        until(lambda: pool.stats().waiting == 3)
        manual_clock.advance(9)
        assert pool.stats().failed == 1
        manual_clock.advance(1)
        # One attempt for all; when it fails, all hear why, because nobody else could give them anything.
        assert [waiter.end() for waiter in waiters] == [factory.failing] * 3
        assert pool.stats().failed == 2
        # The second wait is twice as long.
        waiters = [InThread(pool.acquire) for _ in range(3)]
        until(lambda: pool.stats().waiting == 3)
        manual_clock.advance(19)
        assert pool.stats().failed == 2
        factory.failing = None
        manual_clock.advance(1)
        # Recovery: one attempt succeeds, and the others make theirs at once.
        assert {waiter.end() for waiter in waiters} == set(factory.made)
        assert len(factory.made) == 3

    def test_after_the_wait_a_newcomer_tries_himself(self, factory, manual_clock):
        pool = factory.pool(create_backoff=Retry(delay=10, jitter=None))
        factory.failing = OSError()
        with pytest.raises(OSError):  # noqa: PT011 - that very one
            pool.acquire()
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0)
        manual_clock.advance(10)
        factory.failing = None
        assert pool.acquire(timeout=0) is factory.made[0]

    def test_those_wait_on_whom_somebody_can_serve(self, factory):
        pool = factory.pool(max_size=2, create_backoff=Retry(delay=1000, max_delay=1000, jitter=None))
        resource = pool.acquire()
        factory.failing = OSError("no route")
        with pytest.raises(OSError, match="no route"):
            pool.acquire()
        waiter = InThread(pool.acquire)
        until(lambda: pool.stats().waiting == 1)
        pool.release(resource)
        assert waiter.end() is resource

    def test_the_policy_is_told_everything_and_may_fail_itself(self, factory, caplog):
        calls = []

        class Policy:
            def next_delay(self, number, error=None, previous=None):
                calls.append((number, error, previous))
                if number == 3:
                    raise ArithmeticError("a bad policy")
                return 0

        pool = factory.pool(create_backoff=Policy(), timeout=0)
        factory.failing = OSError("no route")
        for _ in range(3):
            with pytest.raises(OSError, match="no route"), caplog.at_level(logging.WARNING, "ferrule.pooling"):
                pool.acquire()
        assert calls == [(1, factory.failing, None), (2, factory.failing, 0.0), (3, factory.failing, 0.0)]
        assert "create_backoff failed: the next attempt is a second away" in caplog.text

    def test_an_error_that_is_over_keeps_nothing_alive(self, factory):
        class GoneError(OSError):
            pass

        pool = factory.pool(create_backoff=Retry(delay=0))
        factory.failing = GoneError()
        with contextlib.suppress(GoneError):
            pool.acquire()
        gone = weakref.ref(factory.failing)
        factory.failing = None
        pool.acquire()
        gc.collect()
        assert gone() is None

    def test_tasks_hear_of_it_too(self, factory, manual_clock):
        async def main():
            pool = factory.pool_for_tasks(max_size=1, create_backoff=Retry(delay=10, jitter=None))
            factory.failing = OSError("no route")
            with pytest.raises(OSError, match="no route") as caught:
                await pool.acquire_async()
            assert caught.value is factory.failing
            tasks = [asyncio.create_task(pool.acquire_async()) for _ in range(3)]
            await until_in_loop(lambda: pool.stats().waiting == 3)
            manual_clock.advance(10)
            assert await asyncio.gather(*tasks, return_exceptions=True) == [factory.failing] * 3
            factory.failing = None
            manual_clock.advance(20)
            async with pool.lease():
                pass

        asyncio.run(main())

    def test_a_server_that_is_away_for_a_while(self, factory, quick_switches):
        pool = factory.pool(max_size=4, create_backoff=Retry(delay=0.001, max_delay=0.01))
        served, failures = [], []
        over = threading.Event()

        def work():
            while not over.is_set():
                try:
                    with pool.lease() as resource:
                        served.append(resource)
                        if factory.failing:
                            raise OSError("lost")  # noqa: TRY301 - as a driver would
                except OSError as error:
                    failures.append(error)

        threads = [InThread(work) for _ in range(8)]
        until(lambda: len(served) > 100)
        factory.failing = OSError("away")
        until(lambda: len(failures) > 20)
        factory.failing = None
        before = len(served)
        until(lambda: len(served) > before + 100)
        over.set()
        for thread in threads:
            assert thread.end() is None
        stats = pool.stats()
        assert stats.in_use == stats.waiting == 0
        assert stats.size == stats.idle <= 4
        assert stats.created - stats.closed == stats.size


class TestUpkeep:
    def test_the_idle_go_after_a_time(self, factory, manual_clock):
        pool = factory.pool(max_idle_time=10)
        one, two = pool.acquire(), pool.acquire()
        pool.release(one)
        manual_clock.advance(6)
        pool.release(two)
        manual_clock.advance(6)
        until(lambda: factory.closed == [one])
        manual_clock.advance(6)
        until(lambda: factory.closed == [one, two])
        assert pool.stats().size == 0

    def test_what_is_lent_is_left_alone(self, factory, manual_clock):
        pool = factory.pool(max_idle_time=10, max_lifetime=20)
        resource = pool.acquire()
        manual_clock.advance(100)
        assert factory.closed == []
        pool.release(resource)
        assert factory.closed == [resource]

    def test_lives_end(self, factory, manual_clock):
        pool = factory.pool(max_lifetime=100, lifetime_jitter=0.5, max_idle_time=None)
        resource = pool.acquire()
        pool.release(resource)
        manual_clock.advance(49)
        assert pool.acquire() is resource
        pool.release(resource)
        manual_clock.advance(51)
        until(lambda: factory.closed == [resource])

    def test_a_life_that_is_over_is_noticed_when_lending(self, factory, manual_clock):
        pool = factory.pool(max_lifetime=100, lifetime_jitter=0)
        resource = pool.acquire()
        pool.release(resource)
        # By the upkeep, or by whoever asks first.
        manual_clock.advance(100)
        assert pool.acquire() is not resource
        until(lambda: factory.closed == [resource])

    def test_without_limits_nothing_goes(self, factory, manual_clock):
        pool = factory.pool(max_idle_time=None, max_lifetime=None)
        pool.release(pool.acquire())
        manual_clock.advance(1e9)
        assert pool.acquire() is factory.made[0]

    def test_min_idle_is_made_ahead_and_kept(self, factory, manual_clock):
        pool = factory.pool(min_idle=2, max_size=4, max_idle_time=10)
        until(lambda: pool.stats().idle == 2)
        taken = [pool.acquire() for _ in range(2)]
        until(lambda: pool.stats().idle == 2)
        assert pool.stats().size == 4
        for resource in taken:
            pool.release(resource)
        manual_clock.advance(100)
        until(lambda: pool.stats().idle == 2)
        assert pool.stats().size == 2

    def test_min_idle_where_creating_fails(self, factory, manual_clock, caplog):
        factory.failing = OSError("no route")
        with caplog.at_level(logging.WARNING, "ferrule.pooling"):
            pool = factory.pool(min_idle=1, create_backoff=Retry(delay=10, jitter=None))
            until(lambda: pool.stats().failed == 1)
            until(lambda: "create failed: it will be tried again" in caplog.text)
        factory.failing = None
        until(lambda: manual_clock.advance(10) or pool.stats().idle == 1)

    def test_leaks_are_warned_of_once_with_the_stack(self, factory, manual_clock):
        pool = factory.pool(leak_after=5, name="db")

        def leak():
            return pool.acquire()

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            resource = leak()
            pool.release(pool.acquire())
            manual_clock.advance(4)
            manual_clock.advance(2)
            until(lambda: caught)
            # The idle one goes, so the upkeep has been there again.
            manual_clock.advance(1000)
            until(lambda: pool.stats().size == 1)
        (warning,) = caught
        assert warning.category is PoolLeakWarning
        assert warning.filename == __file__
        text = str(warning.message)
        thread = threading.current_thread().name
        assert text.startswith(f"the pool 'db' has not got a resource back from thread {thread!r} for 6 s")
        assert text.endswith("in leak\n    return pool.acquire()")
        assert "in test_leaks_are_warned_of_once_with_the_stack\n    resource = leak()" in text
        pool.release(resource)

    def test_a_leak_warning_that_is_an_error_goes_to_the_hook(self, factory, manual_clock, monkeypatch):
        heard = []
        monkeypatch.setattr(sys, "unraisablehook", heard.append)
        pool = factory.pool(leak_after=5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            resource = pool.acquire()
            manual_clock.advance(6)
            until(lambda: heard)
        assert heard[0].exc_type is PoolLeakWarning
        pool.release(resource)

    def test_a_leaking_task_is_named(self, factory, manual_clock):
        async def main():
            pool = factory.pool_for_tasks(leak_after=5)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                async with pool.lease():
                    manual_clock.advance(6)
                    await until_in_loop(lambda: caught)
            return str(caught[0].message)

        text = asyncio.run(main())
        assert re.search(r"from task 'Task-\d+' \(in thread '.*'\) for 6 s; it was taken here:\n", text)
        assert "in main" in text

    def test_no_python_thread_is_started(self, factory):
        before = threading.active_count()
        pools = [factory.pool(min_idle=1) for _ in range(20)]
        for pool in pools:
            until(lambda pool=pool: pool.stats().idle == 1)
        assert threading.active_count() == before
        if os.path.exists("/proc/self/task"):  # noqa: PTH110 - Linux
            names = []
            for task in os.listdir("/proc/self/task"):  # noqa: PTH208 - the same
                with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as comm:  # noqa: PTH123
                    names.append(comm.read().strip())
            assert 1 <= names.count("ferrule upkeep") <= 4

    def test_a_slow_creation_keeps_nobody_from_theirs(self, factory):
        holds = threading.Event()
        slow = [ResourcePool(lambda: holds.wait(LONG) and object(), min_idle=1) for _ in range(3)]
        pool = factory.pool(min_idle=1)
        until(lambda: pool.stats().idle == 1)
        holds.set()
        for each in slow:
            until(lambda each=each: each.stats().idle == 1)

    def test_a_late_upkeep_forgets_nothing(self, factory):
        holds, held = threading.Event(), threading.Semaphore(0)

        def create():
            held.release()
            return holds.wait(LONG) and object()

        slow = [ResourcePool(create, min_idle=1) for _ in range(4)]
        for _ in slow:
            assert held.acquire(timeout=LONG)
        # Its first upkeep is late when a resource is made here, for whose idle time another one is arranged.
        pool = factory.pool(min_idle=2, max_idle_time=600)
        with pool.lease():
            pass
        holds.set()
        for each in slow:
            until(lambda each=each: each.stats().idle == 1)
        until(lambda: pool.stats().idle == 2)

    def test_the_upkeep_keeps_no_pool_alive(self, factory):
        pool = factory.pool(min_idle=1, close=None)
        until(lambda: pool.stats().idle == 1)  # noqa: F821 - it is there until it is deleted
        gone = weakref.ref(pool)
        del pool
        until(lambda: gc.collect() is not None and gone() is None)


class TestResizeDrainClose:
    def test_growing_serves_those_who_wait(self, factory):
        pool = factory.pool(max_size=1)
        pool.acquire()
        waiters = [InThread(pool.acquire) for _ in range(3)]
        until(lambda: pool.stats().waiting == 3)
        pool.resize(3)
        until(lambda: pool.stats().waiting == 1 and pool.stats().in_use == 3)
        pool.resize(4)
        assert len({waiter.end() for waiter in waiters}) == 3

    def test_shrinking_closes_what_is_idle_now_and_the_rest_later(self, factory):
        pool = factory.pool(max_size=4)
        taken = [pool.acquire() for _ in range(4)]
        for resource in taken[2:]:
            pool.release(resource)
        pool.resize(1)
        assert pool.stats().size == 2
        pool.release(taken[0])
        assert pool.stats().size == 1
        pool.release(taken[1])
        assert pool.stats()[:5] == (1, 1, 0, 0, 1)
        assert len(factory.closed) == 3

    @pytest.mark.parametrize(("size", "error"), [(0, ValueError), (1, ValueError), ("3", TypeError), (True, TypeError)])
    def test_bad_sizes(self, factory, size, error):
        with pytest.raises(error, match="max_size"):
            factory.pool(min_idle=2).resize(size)

    def test_draining_replaces_everything(self, factory):
        pool = factory.pool()
        kept, idle = pool.acquire(), pool.acquire()
        pool.release(idle)
        pool.drain()
        assert factory.closed == [idle]
        pool.release(kept)
        assert factory.closed == [idle, kept]
        assert pool.acquire().number == 3

    def test_closing_refuses_and_closes(self, factory):
        pool = factory.pool(max_size=1, name="db")
        pool.release(pool.acquire())
        pool.close()
        assert factory.closed == factory.made
        for refused in pool.acquire, lambda: pool.acquire(timeout=0), pool.lease().__enter__:
            with pytest.raises(PoolClosed, match="the pool 'db' is closed"):
                refused()
        pool.close()

    def test_closing_waits_for_what_is_lent(self, factory):
        pool = factory.pool()
        resource = pool.acquire()
        closer = InThread(pool.close)
        until(lambda: pool.closed)
        assert closer.outcome is None
        pool.release(resource)
        assert closer.end() is None
        assert factory.closed == [resource]

    def test_closing_tells_who_does_not_give_back(self, factory):
        pool = factory.pool()
        resource = pool.acquire()
        with pytest.raises(PoolTimeout, match=r"is closed, and after 0.01 s 1 of its resources are out\n  by thread"):
            pool.close(timeout=0.01)
        with pytest.raises(PoolTimeout):
            pool.close(timeout=0)
        pool.release(resource)
        assert factory.closed == [resource]
        pool.close(timeout=0)

    def test_closing_ends_all_waits(self, factory):
        pool = factory.pool(max_size=1)
        resource = pool.acquire()
        threads = [InThread(pool.acquire) for _ in range(3)]
        with LoopInThread() as loop:
            tasks = [loop.start(pool.acquire_async()) for _ in range(3)]
            until(lambda: pool.stats().waiting == 6)
            closer = InThread(pool.close)
            assert all(isinstance(thread.end(), PoolClosed) for thread in threads)
            for task in tasks:
                with pytest.raises(PoolClosed):
                    task.result(LONG)
        pool.release(resource)
        assert closer.end() is None

    def test_what_is_made_while_it_closes_is_closed(self, factory):
        begun, goes_on = threading.Event(), threading.Event()

        def create():
            begun.set()
            goes_on.wait(LONG)
            return factory()

        pool = ResourcePool(create, close=factory.close)
        maker = InThread(pool.acquire)
        begun.wait(LONG)
        closer = InThread(pool.close)
        until(lambda: pool.closed)
        goes_on.set()
        assert isinstance(maker.end(), PoolClosed)
        assert closer.end() is None
        assert factory.closed == factory.made

    def test_a_pool_nobody_uses_any_more_is_collected(self, factory):
        class Connection:
            pass

        def create():
            connection = Connection()
            connection.pool = pools[0]
            return connection

        pools = []
        pools.append(ResourcePool(create))
        pools[0].release(pools[0].acquire())
        gone = weakref.ref(pools[0])
        del pools[:], create
        # The upkeep holds it for a moment when it comes.
        until(lambda: gc.collect() is not None and gone() is None)


class TestTasks:
    def test_a_pool_of_functions_serves_tasks(self, factory):
        async def main():
            pool = factory.pool(max_size=2, check=lambda _: True, reset=lambda it: it.done.append("reset"))
            async with pool.lease() as one, pool as two:
                assert one is not two
            resource = await pool.acquire_async(timeout=None)
            await pool.release_async(resource)
            await pool.release_async(await pool.acquire_async(), discard=True)
            assert len(factory.closed) == 1
            await pool.close_async()
            assert set(factory.closed) == set(factory.made)

        asyncio.run(main())

    def test_coroutine_functions_all_round(self, factory):
        done = []

        async def check(resource):
            await asyncio.sleep(0)
            done.append(("check", resource))
            return len(done) != 6

        async def reset(resource):
            await asyncio.sleep(0)
            done.append(("reset", resource))

        async def main():
            pool = factory.pool_for_tasks(check=check, reset=reset)
            for _ in range(4):
                async with pool.lease():
                    pass
            await pool.close_async()

        asyncio.run(main())
        one, two = factory.made
        assert done == [
            ("reset", one),
            ("check", one),
            ("reset", one),
            ("check", one),
            ("reset", one),
            ("check", one),
            ("reset", two),
        ]
        assert factory.closed == [one, two]

    def test_threads_are_refused(self, factory):
        pool = factory.pool_for_tasks()
        for refused in pool.acquire, pool.lease().__enter__, pool.__enter__:
            with pytest.raises(RuntimeError, match=r"create is a coroutine function.*acquire_async"):
                refused()
        with pytest.raises(RuntimeError, match="release_async"):
            pool.release(object())
        with pytest.raises(RuntimeError, match="close_async"):
            pool.close()

    def test_an_exception_closes_or_resets(self, factory):
        async def main(pool):
            with pytest.raises(KeyError):
                async with pool.lease():
                    raise KeyError
            with pytest.raises(KeyError):
                async with pool:
                    raise KeyError
            return pool.stats().size

        assert asyncio.run(main(factory.pool_for_tasks())) == 0
        assert factory.closed == factory.made
        assert asyncio.run(main(factory.pool_for_tasks(reset=lambda _: None))) == 1

    def test_a_failing_reset_and_check(self, factory, caplog):
        async def main():
            async def bad(_):
                raise OSError("bad")

            pool = factory.pool_for_tasks(reset=bad)
            async with pool.lease() as resource:
                pass
            assert factory.closed == [resource]
            pool = factory.pool_for_tasks(check=bad, reset=lambda _: None)
            for _ in range(2):
                async with pool.lease():
                    pass
            assert len(factory.closed) == 2

        with caplog.at_level(logging.WARNING, "ferrule.pooling"):
            asyncio.run(main())
        assert [record.callback for record in caplog.records] == ["reset", "check"]

    def test_the_short_form_in_many_tasks(self, factory):
        async def main():
            pool = factory.pool_for_tasks(max_size=3)

            async def work():
                for _ in range(20):
                    async with pool as resource:
                        resource.users += 1
                        assert resource.users == 1
                        await asyncio.sleep(0)
                        resource.users -= 1

            await asyncio.gather(*[work() for _ in range(10)])
            assert pool.stats().in_use == 0

        asyncio.run(main())

    def test_a_lease_entered_by_two_tasks(self, factory):
        async def main():
            pool = factory.pool_for_tasks()
            lease = pool.lease()

            async def work():
                async with lease:
                    await asyncio.sleep(0.01)

            outcomes = await asyncio.gather(work(), work(), return_exceptions=True)
            assert sorted(map(type, outcomes), key=str) == [type(None), RuntimeError]
            assert pool.stats().in_use == 0

        asyncio.run(main())

    def test_a_creation_that_takes_too_long(self, factory):
        async def forever():
            await asyncio.sleep(3600)

        async def main():
            pool = ResourcePool(forever, timeout=0.01)
            with pytest.raises(PoolTimeout, match="making one has failed once") as caught:
                await pool.acquire_async()
            assert isinstance(caught.value.__cause__, TimeoutError)
            assert pool.stats().size == 0

        asyncio.run(main())

    def test_a_timeout_of_the_creation_itself_is_told_as_it_is(self):
        async def create():
            raise TimeoutError("the server's")

        async def main():
            pool = ResourcePool(create)
            with pytest.raises(TimeoutError, match="the server's") as caught:
                await pool.acquire_async()
            assert not isinstance(caught.value, PoolTimeout)

        asyncio.run(main())

    def test_min_idle_is_made_in_the_loop(self, factory):
        async def main():
            pool = factory.pool_for_tasks(min_idle=2)
            await until_in_loop(lambda: pool.stats().idle == 2)
            async with pool.lease():
                await until_in_loop(lambda: pool.stats().idle == 2)
            await pool.close_async()

        asyncio.run(main())

    def test_min_idle_made_without_a_loop_waits_for_one(self, factory):
        pool = factory.pool_for_tasks(min_idle=2)

        async def main():
            async with pool.lease():
                pass
            pool.drain()
            await until_in_loop(lambda: pool.stats().idle == 2)
            await pool.close_async()

        asyncio.run(main())
        assert set(factory.closed) == set(factory.made)

    def test_min_idle_where_creating_fails(self, factory, caplog):
        async def main():
            factory.failing = OSError("no route")
            pool = factory.pool_for_tasks(min_idle=1, create_backoff=Retry(delay=0.001))
            await until_in_loop(lambda: pool.stats().failed >= 2)
            factory.failing = None
            await until_in_loop(lambda: pool.stats().idle == 1)
            await pool.close_async()

        with caplog.at_level(logging.WARNING, "ferrule.pooling"):
            asyncio.run(main())
        assert "create failed" in caplog.text

    def test_the_idle_go_after_a_time(self, factory, manual_clock):
        async def main():
            pool = factory.pool_for_tasks(max_idle_time=10)
            async with pool.lease() as resource:
                pass
            manual_clock.advance(10)
            await until_in_loop(lambda: factory.closed == [resource])
            await until_in_loop(lambda: pool.stats().size == 0)

        asyncio.run(main())

    def test_closing(self, factory):
        async def main():
            pool = factory.pool_for_tasks(max_size=2)
            kept = await pool.acquire_async()
            async with pool.lease():
                waiter = asyncio.create_task(pool.acquire_async())
                await until_in_loop(lambda: pool.stats().waiting == 1)
                closer = asyncio.create_task(pool.close_async())
                with pytest.raises(PoolClosed):
                    await waiter
                assert not closer.done()
            with pytest.raises(PoolTimeout, match="1 of its resources are out"):
                await pool.close_async(timeout=0.001)
            await pool.release_async(kept)
            await closer
            await pool.close_async(timeout=0)

        asyncio.run(main())
        assert set(factory.closed) == set(factory.made)

    def test_a_reset_that_is_cancelled_closes(self, factory):
        async def main():
            begun = asyncio.Event()

            async def reset(_):
                begun.set()
                await asyncio.sleep(3600)

            pool = factory.pool_for_tasks(max_size=1, reset=reset)

            async def work():
                async with pool.lease():
                    pass

            task = asyncio.create_task(work())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until_in_loop(lambda: pool.stats().size == 0)

        asyncio.run(main())
        assert factory.closed == factory.made

    @pytest.mark.parametrize("stage", ["create", "check", "close"])
    def test_cancelled_in_the_middle(self, factory, stage):
        async def main():
            begun = asyncio.Event()
            blocks = []

            async def block(name):
                if name in blocks:
                    begun.set()
                    await asyncio.sleep(3600)

            async def create():
                await block("create")
                return factory()

            async def check(_):
                await block("check")
                return stage != "close"

            async def close(resource):
                await block("close")
                factory.close(resource)

            pool = ResourcePool(create, check=check, close=close, max_size=1)
            if stage != "create":
                async with pool.lease():
                    pass
            blocks.append(stage)
            task = asyncio.create_task(pool.acquire_async())
            await begun.wait()
            # The next in line gets the slot.
            waiter = asyncio.create_task(pool.acquire_async())
            await until_in_loop(lambda: pool.stats().waiting == 1)
            blocks.clear()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            resource = await waiter
            assert pool.stats()[:5] == (1, 0, 1, 0, 1)
            assert resource is factory.made[-1]
            assert pool.stats().failed == 0

        asyncio.run(main())


class TestLoops:
    def test_a_resource_stays_in_its_loop(self, factory):
        homes = {}

        async def create():
            resource = factory()
            homes[resource] = asyncio.get_running_loop()
            return resource

        async def close(resource):
            assert homes[resource] is asyncio.get_running_loop()
            factory.close(resource)

        async def check(resource):
            return homes[resource] is asyncio.get_running_loop()

        pool = ResourcePool(create, close=close, check=check, max_size=2)

        async def work():
            for _ in range(30):
                async with pool.lease() as resource:
                    assert homes[resource] is asyncio.get_running_loop()
                    await asyncio.sleep(0)

        async def both():
            await asyncio.gather(work(), work(), work())

        with LoopInThread() as one, LoopInThread() as other:
            futures = [one.start(both()), other.start(both())]
            for future in futures:
                future.result(LONG)
            assert pool.stats().size <= 2
            one.run(pool.close_async())
            until(lambda: set(factory.closed) == set(factory.made))
        assert pool.stats().size == 0

    def test_what_is_idle_elsewhere_makes_room(self, factory):
        pool = factory.pool_for_tasks(max_size=1)

        async def take():
            async with pool.lease() as resource:
                return resource

        with LoopInThread() as one, LoopInThread() as other:
            first = one.run(take())
            second = other.run(take())
            assert second is not first
            assert factory.closed == [first]
            assert pool.stats().size == 1

    def test_a_loop_that_has_ended_takes_nothing_with_it(self, factory):
        pool = factory.pool_for_tasks(max_size=1)

        async def take():
            async with pool.lease() as resource:
                return resource

        first = asyncio.run(take())
        # Nobody can close it any more; its slot is free nevertheless.
        assert asyncio.run(take()) is not first
        assert pool.stats().size == 1

    def test_given_back_elsewhere(self, factory):
        pool = factory.pool_for_tasks()
        with LoopInThread() as one, LoopInThread() as other:
            resource = one.run(pool.acquire_async())
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                other.run(pool.release_async(resource))
            one.run(pool.release_async(resource))

    def test_a_waiter_whose_loop_has_closed_is_passed_over(self, factory):
        pool = factory.pool(max_size=1)
        resource = pool.acquire()
        loop = asyncio.new_event_loop()
        task = loop.create_task(pool.acquire_async())
        loop.run_until_complete(asyncio.sleep(0))
        waiter = InThread(pool.acquire)
        until(lambda: pool.stats().waiting == 2)
        loop.close()
        pool.release(resource)
        assert waiter.end() is resource
        task._log_destroy_pending = False
        with contextlib.suppress(RuntimeError):
            task.get_coro().close()


class TestCancelling:
    def test_random_cancellations_lose_nothing(self, factory):
        # asyncpg, SQLAlchemy and redis-py all have lost connections here.
        dice = random.Random(5)
        cancelled = 0
        served = 0

        async def work(pool):
            nonlocal served
            async with pool.lease() as resource:
                assert resource.users == 0
                resource.users = 1
                try:
                    if dice.random() < 0.5:
                        await asyncio.sleep(0)
                    served += 1
                finally:
                    resource.users = 0

        async def main():
            nonlocal cancelled
            pool = factory.pool_for_tasks(max_size=5, reset=lambda _: None)
            while cancelled < CANCELLATIONS:
                tasks = [asyncio.create_task(work(pool)) for _ in range(100)]
                await asyncio.sleep(0)
                while pending := [task for task in tasks if not task.done()]:
                    for task in dice.sample(pending, dice.randrange(len(pending) + 1)):
                        cancelled += task.cancel()
                    for _ in range(dice.randrange(4)):
                        await asyncio.sleep(0)
                for task in tasks:
                    assert task.cancelled() or task.exception() is None
            await until_in_loop(lambda: pool.stats().size == pool.stats().idle)
            stats = pool.stats()
            assert stats.in_use == stats.waiting == stats.failed == 0
            assert stats.created - stats.closed == stats.size <= 5
            # Everybody can be served as before.
            resources = [await pool.acquire_async(timeout=LONG) for _ in range(5)]
            assert len(set(resources)) == 5
            for resource in resources:
                await pool.release_async(resource)
            await pool.close_async()

        asyncio.run(main())
        assert set(factory.closed) == set(factory.made)
        assert cancelled >= CANCELLATIONS
        assert served

    def test_a_hand_over_to_somebody_who_leaves_goes_on(self, factory):
        async def main():
            pool = factory.pool(max_size=1)
            resource = pool.acquire()
            first = asyncio.create_task(pool.acquire_async())
            second = asyncio.create_task(pool.acquire_async())
            await until_in_loop(lambda: pool.stats().waiting == 2)
            pool.release(resource)
            # It has it, and has not been woken yet.
            first.cancel()
            assert await second is resource
            assert first.cancelled()

        asyncio.run(main())

    def test_expiring_beside_hand_overs(self, factory, quick_switches):
        pool = factory.pool(max_size=2)

        def work():
            for _ in range(150):
                with contextlib.suppress(PoolTimeout), pool.lease(timeout=random.random() / 2000):
                    time.sleep(random.random() / 4000)

        for thread in [InThread(work) for _ in range(8)]:
            assert thread.end() is None
        assert pool.stats()[1:4] == (pool.stats().size, 0, 0)


class TestSignals:
    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals are sent to this thread")
    def test_ctrl_c_ends_a_wait(self, factory):
        pool = factory.pool(max_size=1)
        resource = pool.acquire()
        main = threading.main_thread()
        if threading.current_thread() is not main:
            pytest.skip("signal handlers run in the main thread")

        def interrupt():
            until(lambda: pool.stats().waiting == 1)
            signal.pthread_kill(main.ident, signal.SIGINT)

        thread = InThread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.acquire()
        assert thread.end() is None
        assert pool.stats().waiting == 0
        pool.release(resource)
        assert pool.acquire(timeout=0) is resource


@pytest.mark.subprocess
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
class TestFork:
    def test_the_child_begins_empty_and_closes_nothing(self):
        printed = run(
            """
            closed = []
            class Connection:
                def __del__(self):
                    print("let go in", os.getpid() == parent, flush=True)

            parent = os.getpid()
            pool = ferrule.ResourcePool(Connection, close=lambda it: print("closed in", os.getpid() == parent, flush=1))
            held = pool.acquire()
            idle = pool.acquire()
            pool.release(idle)
            del idle
            with pool.lease() as lent:
                child = os.fork()
                if child == 0:
                    print(pool.stats()[:4], flush=True)
            # The child leaves the parent's block like any other.
            if child == 0:
                pool.release(held)
                del held, lent
                with pool.lease() as own:
                    print(pool.stats()[:4], flush=True)
                del own
                pool.close()
                print("child ends", flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            print(pool.stats()[:4], flush=True)
            os._exit(0)
            """
        )
        assert printed.splitlines() == [
            "(0, 0, 0, 0)",
            "(1, 0, 1, 0)",
            "closed in False",
            "let go in False",
            "child ends",
            "(2, 1, 1, 0)",
        ]

    def test_a_pool_that_the_child_never_touches_lets_go_of_nothing(self):
        printed = run(
            """
            class Connection:
                def __del__(self):
                    print("let go in the", name, flush=True)

            name = "parent"
            pool = ferrule.ResourcePool(Connection)
            pool.release(pool.acquire())
            if os.fork() == 0:
                name = "child"
                del pool
                print(name, flush=True)
                os._exit(0)
            os.wait()
            print(name, flush=True)
            del pool
            """
        )
        assert printed.splitlines() == ["child", "parent", "let go in the parent"]

    def test_the_upkeep_and_the_line_work_in_the_child(self):
        printed = run(
            """
            pool = ferrule.ResourcePool(object, min_idle=1, max_size=1)
            while pool.stats().idle < 1: time.sleep(0.001)
            resource = pool.acquire()
            waiter = threading.Thread(target=pool.acquire, daemon=True)
            waiter.start()
            while pool.stats().waiting < 1: time.sleep(0.001)
            child = os.fork()
            if child == 0:
                pool.drain()
                while pool.stats().idle < 1: time.sleep(0.001)
                with pool.lease():
                    print(pool.stats()[:4], flush=True)
                sys.exit()
            print(os.waitpid(child, 0)[1], flush=True)
            print(pool.stats()[:4], flush=True)
            """
        )
        assert printed.splitlines() == ["(1, 0, 1, 0)", "0", "(1, 0, 1, 1)"]

    def test_given_resources_are_the_parents(self):
        printed = run(
            """
            pool = ferrule.ResourcePool.of(["a"])
            if os.fork() == 0:
                try:
                    pool.acquire()
                except ferrule.PoolExhausted as error:
                    print(error, flush=True)
                os._exit(0)
            os.wait()
            print(pool.acquire())
            """
        )
        assert "lost all of its resources" in printed
        assert printed.endswith("a\n")

    def test_forks_while_everything_is_busy(self):
        run(
            """
            pool = ferrule.ResourcePool(object, max_size=2, min_idle=1)
            stop = False
            def work():
                while not stop:
                    with pool.lease(): pass
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads: thread.start()
            for _ in range(20):
                child = os.fork()
                if child == 0:
                    with pool.lease(timeout=20), pool.lease(timeout=20): pass
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
            stop = True
            for thread in threads: thread.join()
            """
        )


@pytest.mark.subprocess
class TestExit:
    def test_with_everything_under_way(self):
        run(
            """
            import asyncio
            holds = threading.Event()
            pool = ferrule.ResourcePool(object, max_size=1, min_idle=1, leak_after=0.001, max_idle_time=0.001)
            sys.stderr = open(os.devnull, "w")
            taken = pool.acquire()
            for _ in range(3):
                threading.Thread(target=pool.acquire, daemon=True).start()
            while pool.stats().waiting < 3: time.sleep(0.001)
            """
        )

    def test_a_creation_that_never_ends_does_not_keep_the_program(self):
        begun = time.monotonic()
        run(
            """
            begun = threading.Event()
            def create():
                begun.set()
                time.sleep(3600)
            pool = ferrule.ResourcePool(create, min_idle=1)
            begun.wait()
            """
        )
        assert time.monotonic() - begun < LONG

    def test_used_by_an_exit_handler(self):
        printed = run(
            """
            import atexit
            def at_exit():
                for _ in range(2):
                    with pool.lease(timeout=5) as resource:
                        print(resource, flush=True)
            atexit.register(at_exit)
            made = []
            def create():
                made.append(1)
                if len(made) == 2: raise OSError
                return len(made)
            pool = ferrule.ResourcePool(create, create_backoff=ferrule.Retry(delay=1000, max_delay=1000, jitter=None))
            pool.release(pool.acquire(), discard=True)
            try: pool.acquire()
            except OSError: pass
            """
        )
        # Nobody comes to end the back-off any more, so it is over.
        assert printed == "3\n3\n"


class TestThreads:
    def test_nobody_has_what_another_has(self, factory, quick_switches):
        pool = factory.pool(max_size=3, check=lambda it: it.users == 0)

        def work(seed):
            dice = random.Random(seed)
            for _ in range(200):
                try:
                    with pool.lease() as resource:
                        resource.users += 1
                        assert resource.users == 1
                        if dice.random() < 0.1:
                            pool.drain()
                        if dice.random() < 0.1:
                            pool.resize(dice.randrange(1, 5))
                        resource.users -= 1
                        if dice.random() < 0.05:
                            raise KeyError  # noqa: TRY301 - as users do
                except KeyError:
                    pass

        for thread in [InThread(work, seed) for seed in range(8)]:
            assert thread.end() is None
        stats = pool.stats()
        assert stats.size == stats.idle
        assert stats.created - stats.closed == stats.size
        assert stats.acquired == 1600
        pool.close()
        assert set(factory.closed) == set(factory.made)

    def test_the_same_resource_released_by_many_at_once(self, factory, quick_switches):
        pool = factory.pool()
        for _ in range(100):
            resource = pool.acquire()
            barrier = threading.Barrier(4, timeout=LONG)

            def work(resource=resource, barrier=barrier):
                barrier.wait()
                pool.release(resource)

            outcomes = [thread.end() for thread in [InThread(work) for _ in range(4)]]
            assert outcomes.count(None) == 1
            assert pool.stats()[:3] == (1, 1, 0)


class Machine(RuleBasedStateMachine):
    """One thread does everything that can be done without waiting, and a plain model says what must come out."""

    def __init__(self):
        super().__init__()
        self.factory = Factory()
        self.order = "lifo"
        self.pool = self.factory.pool(max_size=3, timeout=0)
        self.most = 3
        self.idle = []
        self.lent = []
        self.outdated = set()

    @rule()
    def acquire(self):
        if not self.idle and len(self.lent) >= self.most:
            with pytest.raises(PoolTimeout):
                self.pool.acquire()
            return
        expected = self.idle.pop() if self.idle else None
        resource = self.pool.acquire()
        assert expected is None or resource is expected
        assert resource not in self.lent
        self.lent.append(resource)

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), discard=st.booleans())
    def release(self, data, discard):
        resource = data.draw(st.sampled_from(self.lent))
        kept = not discard and resource not in self.outdated and len(self.lent) + len(self.idle) <= self.most
        self.lent.remove(resource)
        self.pool.release(resource, discard=discard)
        if kept:
            self.idle.append(resource)
        else:
            assert resource in self.factory.closed
        with pytest.raises(RuntimeError):
            self.pool.release(resource)

    @rule()
    def drain(self):
        self.pool.drain()
        assert set(self.idle) <= set(self.factory.closed)
        self.idle.clear()
        self.outdated.update(self.lent)

    @rule(size=st.integers(1, 5))
    def resize(self, size):
        self.pool.resize(size)
        self.most = size
        while self.idle and len(self.idle) + len(self.lent) > size:
            # Those that came back first go first.
            self.idle.pop(0)

    @invariant()
    def the_figures_agree(self):
        stats = self.pool.stats()
        assert (stats.idle, stats.in_use, stats.max_size) == (len(self.idle), len(self.lent), self.most)
        assert stats.size == stats.idle + stats.in_use
        assert stats.created == len(self.factory.made)
        assert stats.closed == len(self.factory.closed)
        assert len(self.factory.made) - len(self.factory.closed) == stats.size


TestModel = Machine.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Connection:
    """A connection in the manner of hand-written ones."""

    def __init__(self, fails=()):
        self.said = []
        self.fails = fails

    def say(self, word):
        self.said.append(word)
        if word in self.fails:
            raise OSError(word)

    def begin(self):
        self.say("begin")

    def commit(self):
        self.say("commit")

    def rollback(self):
        self.say("rollback")


class ConnectionForTasks(Connection):
    async def begin(self):
        await asyncio.sleep(0)
        self.say("begin")

    async def commit(self):
        await asyncio.sleep(0)
        self.say("commit")

    async def rollback(self):
        await asyncio.sleep(0)
        self.say("rollback")


class TestTransactions:
    def test_commit_and_rollback(self):
        connection = Connection()
        with transaction(connection) as given:
            assert given is connection
        with pytest.raises(KeyError), transaction(connection):
            raise KeyError
        assert connection.said == ["begin", "commit", "begin", "rollback"]

    @pytest.mark.parametrize(
        ("fails", "said"),
        [("begin", ["begin"]), ("commit", ["begin", "commit", "rollback"])],
    )
    def test_what_fails_comes_out(self, fails, said):
        connection = Connection(fails)
        with pytest.raises(OSError, match=fails), transaction(connection):
            pass
        assert connection.said == said
        connection.fails = ()
        with transaction(connection):
            pass

    def test_a_rollback_that_fails_hides_nothing(self):
        with pytest.raises(KeyError) as caught, transaction(Connection(["rollback"])):
            raise KeyError
        assert caught.value.__notes__ == ["rolling back failed, too: OSError('rollback')"]

    def test_for_tasks(self):
        async def main():
            connection = ConnectionForTasks()
            async with transaction(connection) as given:
                assert given is connection
            with pytest.raises(KeyError):
                async with transaction(connection):
                    raise KeyError
            connection.fails = ("commit", "rollback")
            with pytest.raises(OSError, match="commit") as caught:
                async with transaction(connection):
                    pass
            assert caught.value.__notes__ == ["rolling back failed, too: OSError('rollback')"]
            assert connection.said == ["begin", "commit", "begin", "rollback", "begin", "commit", "rollback"]
            # A plain one will do, too.
            async with transaction(Connection()):
                pass

        asyncio.run(main())

    def test_a_connection_for_tasks_in_a_plain_block(self):
        with pytest.raises(TypeError, match="async with"), transaction(ConnectionForTasks()):
            pass

    def test_an_inner_block_would_commit_the_outer_one(self):
        connection = Connection()
        with transaction(connection):
            with pytest.raises(RuntimeError, match="in a transaction already"), transaction(connection):
                pass
            with transaction(Connection()):
                pass
        assert connection.said == ["begin", "commit"]

    @pytest.mark.parametrize("connection", [None, 3, object()])
    def test_no_connection(self, connection):
        with pytest.raises(TypeError, match="connection must have commit and rollback, or transaction"):
            transaction(connection)

    @pytest.mark.parametrize(
        "options",
        [{}, {"isolation_level": None}, {"autocommit": True}, {"autocommit": False}],
        ids=["deferred", "no level", "autocommit", "no autocommit"],
    )
    def test_sqlite_in_all_of_its_modes(self, options):
        if "autocommit" in options and sys.version_info < (3, 12):
            pytest.skip("sqlite3 has autocommit from 3.12 on")
        with contextlib.closing(sqlite3.connect(":memory:", **options)) as connection:
            # Tables, too, are made and unmade.
            with pytest.raises(KeyError), transaction(connection):  # noqa: PT012 - the block is what is tested
                connection.execute("CREATE TABLE numbers (number)")
                raise KeyError
            with transaction(connection):
                connection.execute("CREATE TABLE numbers (number)")
            with pytest.raises(KeyError), transaction(connection):  # noqa: PT012 - the block is what is tested
                connection.execute("INSERT INTO numbers VALUES (1)")
                raise KeyError
            with transaction(connection):
                connection.execute("INSERT INTO numbers VALUES (2)")
            connection.rollback()
            assert connection.execute("SELECT * FROM numbers").fetchall() == [(2,)]

    def test_sqlite_that_has_rolled_back_by_itself(self):
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            with transaction(connection):
                connection.execute("CREATE TABLE numbers (number UNIQUE ON CONFLICT ROLLBACK)")
                connection.execute("INSERT INTO numbers VALUES (1)")
            with pytest.raises(sqlite3.IntegrityError) as caught, transaction(connection):
                connection.execute("INSERT INTO numbers VALUES (1)")
            assert not hasattr(caught.value, "__notes__")

"""The limiting room: how many get through, in which order, and what becomes of those who leave."""

import asyncio
import contextlib
import gc
import inspect
import itertools
import math
import os
import pickle
import random
import sys
import threading
import time
import weakref
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrule import (
    AcquireTimeout,
    Decision,
    FerruleError,
    LimiterStats,
    PerformanceMonitor,
    RateLimited,
    RateLimiter,
    _core,
    gather_bounded,
    rate_limited,
    retry,
    timed,
)
from ferrule.testing import manual_clock as turned_by_hand

turns_the_clock = pytest.mark.thread_unsafe(reason="turns the clock that the whole process goes by")
switches_threads = pytest.mark.thread_unsafe(reason="sets the interpreter's switch interval")

# Nothing here takes that long, unless something hangs.
LIMIT = 60
# A rate at which nothing comes back while a test runs.
NEVER = 1e-6


@pytest.fixture
def clock(manual_clock):
    return manual_clock


def until(condition):
    """Wait until a condition holds that another thread brings about."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.0005)


async def turns(count=10):
    """Let the loop's other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def waiting(limit):
    return limit.stats().waiting


def used_up(rate=1, **parameters):
    limit = RateLimiter(rate, **parameters)
    limit.acquire(n=limit.burst)
    return limit


# -- tokens -----------------------------------------------------------------------------------------------------------


@turns_the_clock
def test_a_bucket_gives_its_burst_and_then_the_rate(clock):
    limit = RateLimiter(10, per=timedelta(seconds=5), burst=3)
    assert limit.check() == Decision(True, 0.0, 3)
    assert [limit.try_acquire() for _ in range(4)] == [True, True, True, False]
    decision = limit.check()
    assert not decision
    assert decision == (False, pytest.approx(0.5), 0)
    clock.advance(0.49)
    assert not limit.try_acquire()
    clock.advance(0.02)
    assert limit.try_acquire()
    assert not limit.try_acquire()
    clock.advance(1)
    assert limit.check().remaining == 2
    assert not limit.check(n=3)
    assert limit.check(n=3).retry_after == pytest.approx(0.49)
    assert limit.try_acquire(n=2)
    assert not limit.try_acquire()
    clock.advance(1e6)
    assert limit.check(n=3) == (True, 0.0, 3), "it gets no fuller than full"


@turns_the_clock
def test_without_a_burst_they_come_evenly(clock):
    limit = RateLimiter(100)
    let_through = 0
    for _ in range(1000):
        let_through += limit.try_acquire()
        clock.advance(0.001)
    assert let_through == 100


@turns_the_clock
@settings(deadline=None)
@given(st.floats(0.1, 1e4), st.integers(1, 50), st.lists(st.tuples(st.floats(0, 2), st.integers(1, 50)), max_size=40))
def test_never_more_than_rate_and_burst_allow(rate, burst, steps):
    with turned_by_hand() as clock:
        limit = RateLimiter(rate, burst=burst)
        taken, elapsed = 0, 0.0
        for pause, wish in steps:
            clock.advance(pause)
            elapsed += pause
            n = min(wish, burst)
            decision = limit.check(n=n)
            allowed = limit.try_acquire(n=n)
            assert allowed == bool(decision)
            taken += n * allowed
            assert taken <= burst + elapsed * rate * (1 + 1e-6) + 1e-6
            if not allowed:
                clock.advance(decision.retry_after + 1e-8)
                elapsed += decision.retry_after + 1e-8
                assert limit.check(n=n), "that is when it is worth another try"


@pytest.mark.parametrize(("arguments", "parameters", "error", "text"), [
    ((0,), {}, ValueError, "rate must be a finite number above 0, got 0"),
    ((-1,), {}, ValueError, "rate must be a finite number above 0"),
    ((math.inf,), {}, ValueError, "rate must be a finite number above 0"),
    ((math.nan,), {}, ValueError, "rate must be a finite number above 0"),
    (("10",), {}, TypeError, "rate must be a number, not str: '10'"),
    ((True,), {}, TypeError, "rate must be a number, not bool"),
    ((1,), {"per": 0}, ValueError, "per must be more than 0 seconds"),
    ((1,), {"per": math.inf}, ValueError, "per must be more than 0 seconds and finite"),
    ((1,), {"per": "1"}, TypeError, "per must be seconds"),
    ((1,), {"burst": 0}, ValueError, "burst must be 1 or more, got 0"),
    ((1,), {"burst": 2.0}, TypeError, "burst must be an integer, not float"),
    ((1,), {"max_keys": 0}, ValueError, "max_keys must be 1 or more, got 0"),
    ((1,), {"max_keys": None}, TypeError, "max_keys must be an integer, not NoneType"),
    ((1e30,), {}, ValueError, "at most 16 a nanosecond"),
    ((1,), {"burst": 2**60}, ValueError, "fills within nine years"),
    ((1e-300,), {}, ValueError, "fills within nine years"),
])  # fmt: skip
def test_limits_that_make_no_sense_fail_at_once_and_say_which(arguments, parameters, error, text):
    with pytest.raises(error, match=text):
        RateLimiter(*arguments, **parameters)
    with pytest.raises(error, match=text):
        rate_limited(*arguments, **parameters)


@pytest.mark.parametrize(("n", "error", "text"), [
    (0, ValueError, "n must be an integer of 1 or more"), (-1, ValueError, "n must be"), (2**70, ValueError, "n must"),
    (1.0, TypeError, "n must be an integer"), (True, TypeError, "n must be an integer"), ("1", TypeError, "n must be"),
    (4, ValueError, "n must be at most burst, which is 3, got 4: so many are never there at once"),
])  # fmt: skip
def test_numbers_of_tokens_are_checked(n, error, text):
    limit = RateLimiter(1, burst=3)
    for call in (limit.try_acquire, limit.check, limit.acquire):
        with pytest.raises(error, match=text):
            call(n=n)
    with pytest.raises(error, match=text):
        asyncio.run(limit.acquire_async(n=n))
    assert limit.check().remaining == 3


def test_a_limiter_shows_itself_and_can_be_sent_elsewhere():
    limit = RateLimiter(5, per=2, burst=3, max_keys=10)
    assert repr(limit) == "RateLimiter(5, per=2.0, burst=3, max_keys=10)"
    assert (limit.rate, limit.per, limit.burst, limit.max_keys) == (5, 2.0, 3, 10)
    limit.try_acquire(n=3)
    elsewhere = pickle.loads(pickle.dumps(limit))
    assert repr(elsewhere) == repr(limit)
    assert elsewhere.check().remaining == 3
    assert limit.stats() == LimiterStats(0, 0, 0)


# -- keys -------------------------------------------------------------------------------------------------------------


def test_each_key_has_a_bucket_of_its_own():
    limit = RateLimiter(NEVER, burst=2)
    for key in ("alice", 7, (1, "x"), frozenset({1}), b"raw", 2.5):
        assert [limit.try_acquire(key) for _ in range(3)] == [True, True, False]
        assert limit.check(key).remaining == 0
    assert limit.try_acquire(), "and those without a key have theirs"
    assert limit.check("unknown") == (True, 0.0, 2)
    assert limit.stats().keys == 6, "asking makes none"
    assert not limit.try_acquire(7.0), "equal keys are one"


def test_keys_that_misbehave_lose_nothing():
    class Key:
        def __init__(self, number, *, broken=False):
            self.number = number
            self.broken = broken

        def __hash__(self):
            if self.broken == "hash":
                raise RuntimeError("broken hash")
            return 1

        def __eq__(self, other):
            if self.broken or other.broken:
                raise RuntimeError("broken eq")
            # A key may even use the limiter.
            limit.try_acquire("from inside")
            return self.number == other.number

    limit = RateLimiter(NEVER, burst=2)
    for key in ([], {}, set()):
        with pytest.raises(TypeError, match="unhashable"):
            limit.try_acquire(key)
        with pytest.raises(TypeError, match="unhashable"):
            limit.check(key)
        with pytest.raises(TypeError, match="unhashable"):
            limit.keyed(key)
    assert limit.try_acquire(Key(1))
    assert limit.try_acquire(Key(2))
    with pytest.raises(RuntimeError, match="broken eq"):
        limit.try_acquire(Key(1, broken=True))
    with pytest.raises(RuntimeError, match="broken hash"):
        limit.acquire(Key(1, broken="hash"))
    assert limit.try_acquire(Key(1))
    assert not limit.try_acquire(Key(1))


@turns_the_clock
def test_keys_are_forgotten_when_that_changes_nothing(clock):
    limit = RateLimiter(1, burst=2, max_keys=1000)
    for number in range(500):
        limit.try_acquire(number)
        clock.advance(0.1)
    # What was used within the last second is known, and hardly more.
    assert limit.stats().keys < 30
    assert limit.stats().forgotten == 0


@turns_the_clock
def test_a_full_table_forgets_the_key_that_is_nearest_to_full(clock):
    limit = RateLimiter(1, burst=100, max_keys=10)
    for number in range(10):
        limit.try_acquire(number, n=10 * (number + 1))
    assert limit.stats() == (10, 0, 0)
    limit.try_acquire(0, n=90)
    limit.try_acquire("new", n=50)
    stats = limit.stats()
    assert (stats.keys, stats.forgotten) == (10, 1)
    assert limit.check(1).remaining == 100, "the one with the fewest taken"
    assert limit.check(0).remaining == 0
    assert limit.check(2).remaining == 70


@turns_the_clock
@pytest.mark.parametrize("max_keys", [1, 2, 1024])
def test_an_abuser_is_not_forgotten_among_many(clock, max_keys):
    limit = RateLimiter(1, burst=100, max_keys=max_keys)
    assert limit.try_acquire("abuser", n=100)
    got = 0
    for number in range(5000):
        limit.try_acquire(number)
        got += limit.try_acquire("abuser")
        clock.advance(0.001)
    if max_keys == 1:
        return  # there is no room for two
    assert got <= 5, "a rate of one a second, for five seconds"
    assert limit.stats().keys <= max_keys


def test_a_table_of_one_works():
    limit = RateLimiter(NEVER, burst=2, max_keys=1)
    for number in range(100):
        assert limit.try_acquire(number)
    assert limit.stats().keys == 1
    assert limit.stats().forgotten == 99


@pytest.mark.slow
@pytest.mark.thread_unsafe(reason="takes long enough in one thread")
def test_a_million_keys():
    limit = RateLimiter(NEVER, burst=2)
    assert all(map(limit.try_acquire, range(1_000_000)))
    assert limit.stats() == (1_000_000, 0, 0)
    order = random.Random(3).sample(range(1_000_000), 100_000)
    assert all(map(limit.try_acquire, order))
    assert not any(map(limit.try_acquire, order))
    for number in range(1_000_000, 1_010_000):
        assert limit.try_acquire(number)
    assert limit.stats() == (1_000_000, 10_000, 0)


def test_a_limiter_and_its_keys_are_collected():
    class Key:
        pass

    key = Key()
    key.limit = limit = RateLimiter(NEVER)
    limit.try_acquire(key)
    gone = weakref.ref(key), weakref.ref(limit)
    del key, limit
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


@switches_threads
def test_exactly_as_many_get_through_on_eight_threads():
    limit = RateLimiter(0.001, burst=10_000)
    got = [0] * 8

    def run(place):
        for _ in range(5000):
            got[place] += limit.try_acquire()
            got[place] += limit.try_acquire("key", n=2) * 2

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(LIMIT)
    finally:
        sys.setswitchinterval(before)
    assert sum(got) == 20_000


@switches_threads
def test_keys_come_and_go_on_eight_threads():
    limit = RateLimiter(NEVER, burst=1, max_keys=50)
    failures = []

    def run(place):
        source = random.Random(place)
        try:
            for _ in range(3000):
                limit.try_acquire(source.randrange(200))
                limit.check(source.randrange(200))
        except BaseException as error:  # noqa: BLE001 - that is the question
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(LIMIT)
    finally:
        sys.setswitchinterval(before)
    assert failures == []
    # Those that are being made while others are forgotten stay.
    assert limit.stats().keys <= 50 + 8


# -- waiting ----------------------------------------------------------------------------------------------------------


def test_a_thread_waits_for_its_token():
    limit = RateLimiter(20)
    started = time.monotonic()
    for _ in range(4):
        limit.acquire()
    assert time.monotonic() - started >= 0.149
    with limit:
        pass
    with limit.keyed("alice") as keyed:
        assert keyed.key == "alice"
    assert limit.stats().keys == 1
    assert time.monotonic() - started >= 0.199


def test_a_task_waits_for_its_token():
    async def main():
        limit = RateLimiter(20)
        started = time.monotonic()
        for _ in range(3):
            await limit.acquire_async()
        async with limit:
            pass
        async with limit.keyed("alice"):
            pass
        assert time.monotonic() - started >= 0.149
        assert limit.stats().waiting == 0

    asyncio.run(main())


@turns_the_clock
def test_the_meaning_of_timeouts(clock):
    limit = used_up()
    for timeout in (0, 0.5, timedelta(seconds=0.5)):
        # One who leads knows that it will be too late, and says so at once.
        with pytest.raises(AcquireTimeout, match=r"there was no room within 0(\.5)? s") as caught:
            limit.acquire(timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, FerruleError)
        with pytest.raises(AcquireTimeout):
            asyncio.run(limit.acquire_async(timeout=timeout))
    for wrong, error in ((-1, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="timeout must be"):
            limit.acquire(timeout=wrong)
        with pytest.raises(error, match="timeout must be"):
            asyncio.run(limit.acquire_async(timeout=wrong))
    assert limit.stats().waiting == 0
    clock.advance(1)
    limit.acquire(timeout=0)
    clock.advance(1)
    asyncio.run(limit.acquire_async(timeout=0))


def in_thread(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def in_loop(main):
    return in_thread(lambda: asyncio.run(main()))


@turns_the_clock
def test_threads_and_tasks_of_several_loops_are_served_in_order(clock):
    limit = used_up()
    order = []
    waiters = []
    for number in range(9):

        def thread(number=number):
            limit.acquire()
            order.append(number)

        async def task(number=number):
            await limit.acquire_async()
            order.append(number)

        waiters.append(in_loop(task) if number % 3 else in_thread(thread))
        until(lambda number=number: waiting(limit) == number + 1)
    assert not limit.try_acquire()
    assert limit.check().retry_after == pytest.approx(10)
    for number in range(9):
        clock.advance(1)
        until(lambda number=number: len(order) == number + 1)
    assert order == list(range(9))
    for waiter in waiters:
        waiter.join(LIMIT)
    assert waiting(limit) == 0


@turns_the_clock
def test_many_are_served_at_one_wake_up(clock):
    limit = used_up(burst=5)
    order = []

    async def main():
        async def one(number):
            await limit.acquire_async()
            order.append(number)

        tasks = [asyncio.create_task(one(number)) for number in range(8)]
        await turns()
        clock.advance(4)
        await turns(20)
        assert order == [0, 1, 2, 3]
        clock.advance(1)
        await turns(20)
        assert order == [0, 1, 2, 3, 4]
        clock.advance(100)
        await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(main(), LIMIT))
    assert order == list(range(8))


def test_one_timer_serves_a_hundred_waiters():
    async def main():
        event_loop = asyncio.get_running_loop()
        timers = []
        call_at = event_loop.call_at
        limit = used_up(1000)

        def counted(*args, **kwargs):
            timer = call_at(*args, **kwargs)
            timers.append(timer)
            assert sum(not each.cancelled() and each.when() > event_loop.time() for each in timers) <= 2
            return timer

        event_loop.call_at = counted
        await asyncio.gather(*(limit.acquire_async() for _ in range(100)))
        # Each of them leads once, and no one polls.
        assert len(timers) < 300

    asyncio.run(asyncio.wait_for(main(), LIMIT))


@turns_the_clock
def test_nobody_takes_what_others_wait_for(clock):
    async def main():
        limit = used_up(burst=2)
        clock.advance(1)
        big = asyncio.create_task(limit.acquire_async(n=2))
        await turns()
        assert limit.stats().waiting == 1
        assert not limit.try_acquire(), "there is one, and it is spoken for"
        with pytest.raises(AcquireTimeout):
            limit.acquire(timeout=0)
        clock.advance(1)
        await big
        assert not limit.try_acquire()
        clock.advance(1)
        assert limit.try_acquire()

    asyncio.run(asyncio.wait_for(main(), LIMIT))


@turns_the_clock
@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_a_cancelled_waiter_takes_nothing_and_the_next_moves_up(clock, leaver):
    async def main():
        limit = used_up()
        order = []

        async def one(number):
            await limit.acquire_async()
            order.append(number)

        tasks = [asyncio.create_task(one(number)) for number in range(4)]
        await turns()
        tasks[leaver].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[leaver]
        assert limit.stats().waiting == 3
        for _ in range(3):
            clock.advance(1)
            await turns(20)
        assert order == [number for number in range(4) if number != leaver]
        assert limit.stats().waiting == 0
        clock.advance(1)
        assert limit.try_acquire()

    asyncio.run(asyncio.wait_for(main(), LIMIT))


@turns_the_clock
def test_one_who_is_cancelled_with_its_token_gives_it_back(clock):
    async def main():
        limit = used_up(burst=2)
        tasks = [asyncio.create_task(limit.acquire_async()) for _ in range(3)]
        await turns()
        clock.advance(2)
        # The leader takes its token and serves the second; before that one runs, it is cancelled.
        while not tasks[0].done():  # noqa: ASYNC110 - there is no event for that
            await asyncio.sleep(0)
        tasks[1].cancel()
        await turns(20)
        assert tasks[1].cancelled() or tasks[1].done()
        if tasks[1].cancelled():
            assert tasks[2].done(), "the token went to the next"
        clock.advance(2)
        await tasks[2]

    asyncio.run(asyncio.wait_for(main(), LIMIT))


@turns_the_clock
def test_waiters_leave_at_their_deadlines(clock):
    limit = used_up(0.01)
    outcomes = []

    def thread():
        try:
            limit.acquire(timeout=5)
        except AcquireTimeout:
            outcomes.append("thread")

    async def task():
        with pytest.raises(AcquireTimeout):
            await limit.acquire_async(timeout=5)
        outcomes.append("task")

    first = in_thread(limit.acquire)
    until(lambda: waiting(limit) == 1)
    others = [in_thread(thread), in_loop(task), in_thread(thread)]
    until(lambda: waiting(limit) == 4)
    clock.advance(6)
    for other in others:
        other.join(LIMIT)
    assert sorted(outcomes) == ["task", "thread", "thread"]
    assert waiting(limit) == 1
    clock.advance(100)
    first.join(LIMIT)
    assert not first.is_alive()


@turns_the_clock
def test_a_thousand_who_leave_leave_nothing_behind(clock):
    async def main():
        limit = used_up(0.001)
        first = asyncio.create_task(limit.acquire_async())
        await turns()
        for _ in range(10):
            tasks = [asyncio.create_task(limit.acquire_async()) for _ in range(100)]
            await turns()
            assert limit.stats().waiting == 101
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert limit.stats().waiting == 1
        clock.advance(1000)
        await first

    asyncio.run(asyncio.wait_for(main(), LIMIT))


@turns_the_clock
def test_waiting_for_a_key(clock):
    async def main():
        limit = RateLimiter(1, max_keys=2)
        limit.acquire("alice")
        alice = asyncio.create_task(limit.acquire_async("alice"))
        await turns()
        for number in range(20):
            limit.try_acquire(number)
        assert not limit.try_acquire("alice"), "who is waited for is not forgotten"
        clock.advance(1)
        await alice
        assert not limit.try_acquire("alice")

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_one_loop_after_another():
    limit = RateLimiter(200)

    async def main():
        await asyncio.gather(*(limit.acquire_async() for _ in range(3)))

    for _ in range(3):
        asyncio.run(main())
    limit.acquire()
    assert waiting(limit) == 0


@pytest.mark.parametrize("collected", [True, False])
def test_a_loop_that_is_closed_while_its_task_waits_holds_nobody_up(collected):
    limit = used_up(5)
    event_loop = asyncio.new_event_loop()
    task = event_loop.create_task(limit.acquire_async())
    other = event_loop.create_task(limit.acquire_async())
    for _ in range(5):
        event_loop.run_until_complete(asyncio.sleep(0))
    assert waiting(limit) == 2
    # Asyncio would tell of tasks that nobody has cancelled.
    task._log_destroy_pending = other._log_destroy_pending = False
    event_loop.close()
    if collected:
        del task, other
        gc.collect()
    limit.acquire(timeout=30)
    limit.acquire(timeout=30)
    assert waiting(limit) == 0


def test_several_loops_and_threads_at_once():
    limit = RateLimiter(2000, burst=20)
    got = [0] * 6
    started = time.monotonic()

    def thread(place):
        for _ in range(40):
            limit.acquire(timeout=LIMIT)
            got[place] += 1

    async def task(place):
        async def one():
            await limit.acquire_async(timeout=LIMIT)
            got[place] += 1

        await asyncio.gather(*(one() for _ in range(40)))

    workers = [in_thread(lambda place=place: thread(place)) for place in range(3)]
    workers += [in_loop(lambda place=place: task(place)) for place in range(3, 6)]
    for worker in workers:
        worker.join(LIMIT)
    assert got == [40] * 6
    assert time.monotonic() - started >= (240 - 20) / 2000 * 0.99
    assert waiting(limit) == 0


@pytest.mark.parametrize(("rate", "burst"), [(1000, 10), (5000, 50)])
def test_sustained_rates_are_never_exceeded(rate, burst):
    # How close they are reached is for the benchmarks to say, on a quiet machine.
    async def main():
        limit = used_up(rate, burst=burst)
        started = time.monotonic()
        await asyncio.gather(*(limit.acquire_async() for _ in range(rate // 5)))
        assert time.monotonic() - started >= 0.2 * 0.99

    asyncio.run(asyncio.wait_for(main(), LIMIT))
    limit = used_up(rate, burst=burst)
    started = time.monotonic()
    for _ in range(rate // 5):
        limit.acquire()
    assert time.monotonic() - started >= 0.2 * 0.99


@switches_threads
def test_waiters_that_come_and_go_lose_no_token():
    limit = RateLimiter(3000, burst=3)
    got = [0] * 6
    stop = time.monotonic() + 1
    started = time.monotonic()

    def thread(place):
        source = random.Random(place)
        while time.monotonic() < stop:
            with contextlib.suppress(AcquireTimeout):
                limit.acquire(n=source.choice([1, 2, 3]), timeout=source.choice([0, 0.0005, 0.002, None]))
                got[place] += 1

    async def one(place, source):
        with contextlib.suppress(AcquireTimeout, TimeoutError):
            async with asyncio.timeout(source.choice([0.0005, 0.002, 10])):
                await limit.acquire_async(timeout=source.choice([0.001, None]))
                got[place] += 1

    async def tasks(place):
        source = random.Random(place)
        while time.monotonic() < stop:
            await asyncio.gather(*(one(place, source) for _ in range(5)))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [in_thread(lambda place=place: thread(place)) for place in range(3)]
        workers += [in_loop(lambda place=place: tasks(place)) for place in range(3, 6)]
        for worker in workers:
            worker.join(LIMIT)
    finally:
        sys.setswitchinterval(before)
    assert not any(worker.is_alive() for worker in workers)
    assert all(got), "nobody was left out"
    assert sum(got) <= (time.monotonic() - started) * 3000 + 3
    assert waiting(limit) == 0
    until(lambda: limit.check().remaining == 3)


@pytest.mark.subprocess
@pytest.mark.parametrize("way", ["alone", "behind", "block", "function"])
def test_ctrl_c_ends_a_wait(python, way):
    done = python(
        """
        import os, signal, sys, threading, time
        from ferrule import RateLimiter, rate_limited

        way = sys.argv[1]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        limit = RateLimiter(1, per=60)
        limit.acquire()
        if way == "behind":
            threading.Thread(target=limit.acquire, daemon=True).start()
            while limit.stats().waiting == 0:
                time.sleep(0.001)
        sent = []

        def interrupt():
            time.sleep(0.3)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        try:
            if way == "block":
                with limit:
                    pass
            elif way == "function":
                rate_limited(limit)(print)()
            else:
                limit.acquire()
        except KeyboardInterrupt:
            # A tenth of a second is promised; a machine under load takes its time.
            print("interrupted", time.monotonic() - sent[0] < 5, limit.stats().waiting)
        """,
        way,
    )
    assert done.stdout == f"interrupted True {1 if way == 'behind' else 0}\n", done.stderr


@pytest.mark.subprocess
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_stands_in_no_line_of_its_parents(python):
    done = python("""
        import os, threading, time
        from ferrule import RateLimiter

        limit = RateLimiter(5)
        limit.acquire()
        threads = [threading.Thread(target=limit.acquire, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        while limit.stats().waiting < 3:
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            assert limit.stats().waiting == 0
            limit.acquire(timeout=30)
            print("child", limit.stats().waiting, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        for thread in threads:
            thread.join(30)
        print("parent", limit.stats().waiting)
    """)
    assert done.stdout == "child 0\nparent 0\n", done.stderr


@pytest.mark.subprocess
def test_a_daemon_threads_wait_ends_with_the_process(python):
    done = python("""
        import threading, time
        from ferrule import RateLimiter

        limit = RateLimiter(1, per=100)
        limit.acquire()
        for _ in range(3):
            threading.Thread(target=limit.acquire, daemon=True).start()
        while limit.stats().waiting < 3:
            time.sleep(0.001)
        print("over")
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("over\n", "", 0)


# -- functions --------------------------------------------------------------------------------------------------------


@turns_the_clock
def test_functions_of_every_kind_are_limited(clock):
    limited = rate_limited(1, burst=2, wait=False)

    @limited
    def function(x):
        """Return it."""
        return x

    @limited
    async def coroutine(x):
        return x

    @limited
    def generator(x):
        yield x
        return "end"

    @limited
    async def async_generator(x):
        got = yield x
        yield got

    async def first(items):
        async for item in items:
            return item
        return None

    assert (function.__name__, function.__doc__) == ("function", "Return it.")
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(async_generator)
    assert function.limiter is coroutine.limiter is generator.limiter is async_generator.limiter
    assert function(1) == 1 == function(x=1)
    with pytest.raises(RateLimited, match="there is room again in 1 s") as caught:
        function(1)
    assert caught.value.retry_after == pytest.approx(1)
    with pytest.raises(RateLimited):
        asyncio.run(coroutine(1))
    items = generator(1)
    with pytest.raises(RateLimited):
        next(items)
    with pytest.raises(RateLimited):
        asyncio.run(first(async_generator(1)))
    clock.advance(2)
    assert asyncio.run(coroutine(1)) == 1
    items = generator(5)
    assert next(items) == 5
    with pytest.raises(StopIteration) as stopped:
        next(items)
    assert stopped.value.value == "end"
    clock.advance(1)

    async def talk():
        items = async_generator(3)
        assert await anext(items) == 3
        assert await items.asend("back") == "back"
        with pytest.raises(StopAsyncIteration):
            await anext(items)

    asyncio.run(talk())


@turns_the_clock
def test_functions_wait(clock):
    calls = []

    @rate_limited(1)
    def function(x):
        calls.append(x)

    function(1)
    thread = in_thread(lambda: function(2))
    until(lambda: waiting(function.limiter) == 1)
    assert calls == [1]
    clock.advance(1)
    thread.join(LIMIT)
    assert calls == [1, 2]

    @rate_limited(function.limiter, timeout=0.5)
    def impatient():
        pytest.fail("there was no room")

    with pytest.raises(AcquireTimeout):
        impatient()

    @rate_limited(function.limiter, timeout=0.5)
    async def impatient_async():
        pytest.fail("there was no room")

    with pytest.raises(AcquireTimeout):
        asyncio.run(impatient_async())

    @rate_limited(function.limiter)
    async def patient():
        return "done"

    async def main():
        task = asyncio.create_task(patient())
        await turns()
        clock.advance(1)
        return await task

    assert asyncio.run(asyncio.wait_for(main(), LIMIT)) == "done"


def test_each_caller_has_its_limit():
    @rate_limited(NEVER, key=lambda user, *_: user, wait=False)
    def send(user, text):
        return f"{text}, {user}"

    assert send("alice", "hello") == "hello, alice"
    assert send("bob", "hello") == "hello, bob"
    with pytest.raises(RateLimited):
        send("alice", "hello")

    class Api:
        @rate_limited(NEVER, key=lambda self, path: (id(self), path), wait=False)
        async def get(self, path):
            return path

        @rate_limited(NEVER, wait=False)
        @staticmethod
        def static():
            return 1

    one, other = Api(), Api()
    assert asyncio.run(one.get("a")) == asyncio.run(other.get("a")) == "a"
    with pytest.raises(RateLimited):
        asyncio.run(one.get("a"))
    assert Api.static() == 1
    with pytest.raises(RateLimited):
        Api().static()


def test_a_key_function_that_raises_costs_no_token():
    @rate_limited(NEVER, key=lambda user: user["name"], wait=False)
    def send(user):
        return user

    with pytest.raises(KeyError):
        send({})
    with pytest.raises(TypeError):
        send()
    assert send({"name": "alice"})
    with pytest.raises(RateLimited):
        send({"name": "alice"})


def test_what_makes_no_limit_is_an_error():
    def function():
        pass

    with pytest.raises(TypeError, match="rate_limited needs a rate"):
        rate_limited(function)
    with pytest.raises(TypeError, match="key must be a plain function of the call's arguments, not str"):
        rate_limited(1, key="user")
    with pytest.raises(TypeError, match="wait must be True or False, not int: 1"):
        rate_limited(1, wait=1)
    with pytest.raises(ValueError, match="timeout is for calls that wait"):
        rate_limited(1, wait=False, timeout=1)
    with pytest.raises(ValueError, match="timeout must be"):
        rate_limited(1, timeout=-1)
    with pytest.raises(TypeError, match="are the RateLimiter's own"):
        rate_limited(RateLimiter(1), burst=2)
    with pytest.raises(TypeError, match="rate_limited takes a function, not int"):
        rate_limited(1)(3)
    with pytest.raises(TypeError, match="put @rate_limited below @property"):
        rate_limited(1)(property(function))


def test_limits_stack_with_other_decorators():
    @timed(monitor=PerformanceMonitor())
    @retry(on=RateLimited, delay=lambda attempt, error: error.retry_after)
    @rate_limited(100, wait=False)
    def fetch():
        return "fine"

    assert [fetch() for _ in range(3)] == ["fine"] * 3
    assert fetch.retry_stats().calls == 3 == fetch.timing_stats().count
    assert isinstance(fetch.limiter, RateLimiter)


def test_the_interpreter_calls_it_like_a_built_in():
    assert _core.LimitedFunction.__flags__ & (1 << 11), "vectorcall"
    assert _core.LimitedFunction.__flags__ & (1 << 17), "a method descriptor"


# -- many at once -----------------------------------------------------------------------------------------------------


class Tracker:
    """Coroutines that know how many of them exist, and how many run."""

    def __init__(self):
        self.made = self.running = self.ended = self.most_made = self.most_running = 0

    async def work(self, number, error=None):
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if error is not None:
                raise error
        finally:
            self.running -= 1
            self.ended += 1
        return number

    def many(self, count, failing=(), error=OSError):
        for number in range(count):
            self.made += 1
            self.most_made = max(self.most_made, self.made - self.ended)
            yield self.work(number, error(number) if number in failing else None)


def test_a_few_exist_at_a_time():
    tracker = Tracker()
    assert asyncio.run(gather_bounded(tracker.many(1000), limit=7)) == list(range(1000))
    assert tracker.most_made == tracker.most_running == 7
    assert asyncio.run(gather_bounded([], limit=1)) == []
    tracker = Tracker()
    assert asyncio.run(gather_bounded(tracker.many(5), 1)) == list(range(5))
    assert tracker.most_running == 1


def test_the_first_error_cancels_the_rest():
    tracker = Tracker()
    cancelled = []

    async def hanging():
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def main():
        before = asyncio.all_tasks()
        coroutines = itertools.chain((hanging() for _ in range(3)), tracker.many(1000, failing={5}))
        with pytest.raises(OSError, match="5") as caught:
            await gather_bounded(coroutines, limit=5)
        assert caught.value.__context__ is None
        assert asyncio.all_tasks() == before, "all others have ended"

    asyncio.run(asyncio.wait_for(main(), LIMIT))
    assert len(cancelled) == 3
    assert tracker.made < 10, "and the others were never made"


def test_errors_are_collected_where_that_is_wanted():
    tracker = Tracker()
    results = asyncio.run(gather_bounded(tracker.many(10, failing={3, 7}), limit=3, return_exceptions=True))
    assert [result for result in results if not isinstance(result, OSError)] == [0, 1, 2, 4, 5, 6, 8, 9]
    assert (results[3].args, results[7].args) == ((3,), (7,))


def test_cancelling_cancels_all():
    ended = []

    async def hanging(number):
        try:
            await asyncio.sleep(LIMIT)
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    async def main():
        task = asyncio.create_task(gather_bounded((hanging(number) for number in range(10)), 3))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == [0, 1, 2]

        async def cancels_itself():
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await gather_bounded([cancels_itself()])
        results = await gather_bounded([cancels_itself()], return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_an_iterable_that_fails_or_yields_nonsense():
    closed = []

    def broken(error):
        try:
            yield asyncio.sleep(0, 1)
            if error is None:
                yield 3
            raise error
        finally:
            closed.append(1)

    with pytest.raises(OSError, match="from the iterable"):
        asyncio.run(gather_bounded(broken(OSError("from the iterable")), 2))
    with pytest.raises(TypeError, match="awaitable"):
        asyncio.run(gather_bounded(broken(None), 2))
    assert closed == [1, 1]


def test_coroutines_that_never_ran_are_closed():
    # Otherwise the interpreter would warn that they were never awaited, and warnings are errors.
    tracker = Tracker()
    coroutines = list(tracker.many(50, failing={0}))
    with pytest.raises(OSError, match="0"):
        asyncio.run(gather_bounded(coroutines, 2))
    gc.collect()
    with pytest.raises(ValueError, match="limit must be"):
        asyncio.run(gather_bounded(tracker.many(5), 0))


def test_asynchronous_iterables_and_other_awaitables():
    async def many():
        for number in range(5):
            await asyncio.sleep(0)
            yield asyncio.sleep(0, number)

    async def main():
        assert await gather_bounded(many(), 2) == list(range(5))
        future = asyncio.get_running_loop().create_future()
        future.set_result("future")
        assert await gather_bounded([future, asyncio.create_task(asyncio.sleep(0, "task"))]) == ["future", "task"]

    asyncio.run(main())


def test_what_cannot_be_gathered_is_an_error():
    async def main():
        with pytest.raises(TypeError, match="coroutines must be an iterable of awaitables, not int: 3"):
            await gather_bounded(3)
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="limit must be 1 or more"):
                await gather_bounded([], wrong)
        with pytest.raises(TypeError, match="limit must be an integer"):
            await gather_bounded([], 2.5)
        with pytest.raises(TypeError, match="return_exceptions must be True or False"):
            await gather_bounded([], return_exceptions=1)

    asyncio.run(main())

"""Limiting beside its peers: what a token costs that is there, which rates are reached, and who is served first."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Figure, Finding, Prepared, Room, in_loop, require
from ferrule._compare.limiting import KEYS, PLENTY, HandWrittenBuckets, acquiring, million_keys
from ferrule._compare.limiting import room as compared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ferrule._compare.harness import Factory, Run

WAITERS = 50


def room(*, quick: bool) -> Room:
    """Describes the rows and figures; with `quick` the figures are found out in less time."""
    own = compared()
    peers: Mapping[str, Mapping[str, Factory]] = {
        "try_acquire": {
            "limits": limits_run,
            "throttled-py, GCRA": throttled_run,
            "pyrate-limiter": pyrate_run,
        },
        "acquire_async": {"aiolimiter": aiolimiter_run, "asyncio-throttle": asyncio_throttle_run},
    }
    seconds = 0.5 if quick else 3.0
    return replace(
        own,
        rows=[row.joined_by(peers.get(row.id, {})) for row in own.rows],
        figures=[
            million(shuffled=False),
            million(shuffled=True),
            rate_error(1000, 1.0, seconds),
            rate_error(5000, 5.0, seconds),
            thread_rate_error(1000, 1.0, seconds),
            thread_rate_error(5000, 5.0, seconds),
            out_of_order(),
            wake_ups(),
        ],
    )


# The peers, as their documentation shows them.


def limits_run() -> Run:
    limits = require("limits")
    strategies = require("limits.strategies", "limits")
    limiter = strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    item = limits.RateLimitItemPerSecond(PLENTY, 1)
    return acquiring(lambda: limiter.hit(item, "key"))


def throttled_run() -> Run:
    throttled = require("throttled", "throttled-py")
    quota = throttled.per_sec(PLENTY, burst=PLENTY)
    limiter = throttled.Throttled(key="key", using="gcra", quota=quota)
    return acquiring(limiter.limit)


def pyrate_run() -> Prepared:
    pyrate = require("pyrate_limiter", "pyrate-limiter")
    # It remembers what it let through within the interval: a short one, so that it has not much to remember.
    limiter = pyrate.Limiter(pyrate.Rate(PLENTY, 1))
    return Prepared(run=acquiring(lambda: limiter.try_acquire("key", blocking=False)), close=limiter.close)


def aiolimiter_run() -> Prepared:
    AsyncLimiter = require("aiolimiter").AsyncLimiter  # noqa: N806  # its name

    async def body(n: int) -> None:
        # It belongs to the loop in which it is first used.
        limiter = AsyncLimiter(PLENTY, 1)
        for _ in itertools.repeat(None, n):
            await limiter.acquire()

    return in_loop(body)


def asyncio_throttle_run() -> Prepared:
    Throttler = require("asyncio_throttle", "asyncio-throttle").Throttler  # noqa: N806  # its name

    async def body(n: int) -> None:
        # What it let through it remembers for the period.
        limiter = Throttler(PLENTY, period=1e-6)
        for _ in itertools.repeat(None, n):
            await limiter.acquire()

    return in_loop(body)


# A million keys.


def million(*, shuffled: bool) -> Figure:
    """The nanoseconds of a token among a million keys, the loop not counted."""
    keys = million_keys()
    order = keys if shuffled else sorted(keys)

    def find(try_acquire: Callable[[str], object]) -> float:
        # Made in an order, asked for in the same or in another one.
        for key in sorted(keys):
            try_acquire(key)
        best, part = float("inf"), KEYS // 10
        for first in range(0, KEYS, part):
            some = order[first : first + part]
            start = time.perf_counter_ns()
            for key in some:
                try_acquire(key)
            middle = time.perf_counter_ns()
            for _ in some:
                pass
            best = min(best, (middle - start) - (time.perf_counter_ns() - middle))
        return best / part

    def ours() -> float:
        from ferrule import RateLimiter

        return find(RateLimiter(0.01, burst=KEYS).try_acquire)

    how = "in an order that follows nothing" if shuffled else "in the order in which they came first"
    return Figure(
        id="million_keys_shuffled" if shuffled else "million_keys",
        title=f"a token of a key of a million, {how}",
        unit="ns",
        goal=None if shuffled else 160,
        candidates={
            "ferrule": ours,
            "hand-written buckets": lambda: find(HandWrittenBuckets(PLENTY, PLENTY).try_acquire),
            "dict, for scale": lambda: find(dict.fromkeys(sorted(keys)).get),
        },
    )


# Rates that are sustained.


def rate_error(rate: int, most: float, seconds: float) -> Figure:
    """How far the rate is missed by one event loop with twenty tasks."""

    def find(make: Callable[[], Callable[[], Awaitable[object]]]) -> Finding:
        async def main() -> float:
            acquire = make()
            # The burst is spent before the clock is started.
            for _ in range(rate // 100 + 1):
                await acquire()
            done = 0
            start = time.perf_counter()
            end = start + seconds

            async def one() -> None:
                nonlocal done
                while time.perf_counter() < end:
                    await acquire()
                    done += 1

            await asyncio.gather(*(one() for _ in range(20)))
            # Those who came before the end are served after it: tokens and seconds are counted to the last of them.
            return done / (time.perf_counter() - start)

        reached = asyncio.run(main())
        return Finding(abs(reached / rate - 1) * 100, f"{reached:,.0f} a second")

    def ours() -> Callable[[], Awaitable[object]]:
        from ferrule import RateLimiter

        return RateLimiter(rate, burst=rate // 100).acquire_async

    def aiolimiter() -> Callable[[], Awaitable[object]]:
        limiter: Any = require("aiolimiter").AsyncLimiter(1, 1 / rate)
        acquire: Callable[[], Awaitable[object]] = limiter.acquire
        return acquire

    def asyncio_throttle() -> Callable[[], Awaitable[object]]:
        limiter: Any = require("asyncio_throttle", "asyncio-throttle").Throttler(rate, period=1.0)
        acquire: Callable[[], Awaitable[object]] = limiter.acquire
        return acquire

    return Figure(
        id=f"rate_error_{rate}",
        title=f"how far {rate:,} a second are missed by twenty tasks, a burst of a hundredth",
        unit="%",
        goal=most,
        candidates={
            "ferrule": lambda: find(ours),
            "aiolimiter, no burst": lambda: find(aiolimiter),
            "asyncio-throttle": lambda: find(asyncio_throttle),
        },
    )


def thread_rate_error(rate: int, most: float, seconds: float) -> Figure:
    """How far the rate is missed by four threads."""

    def find() -> Finding:
        from ferrule import RateLimiter

        limit = RateLimiter(rate, burst=rate // 100)
        limit.acquire(n=limit.burst)
        counts = [0] * 4
        start = time.perf_counter()
        end = start + seconds

        def run(place: int) -> None:
            while time.perf_counter() < end:
                limit.acquire()
                counts[place] += 1

        threads = [threading.Thread(target=run, args=(place,)) for place in range(len(counts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reached = sum(counts) / (time.perf_counter() - start)
        return Finding(abs(reached / rate - 1) * 100, f"{reached:,.0f} a second")

    return Figure(
        id=f"thread_rate_error_{rate}",
        title=f"how far {rate:,} a second are missed by four threads, a burst of a hundredth",
        unit="%",
        goal=most,
        candidates={"ferrule": find},
    )


# Who is served first, and how many are woken for it.


def out_of_order() -> Figure:
    def find(make: Callable[[], Callable[[], Awaitable[object]]]) -> float:
        async def main() -> int:
            acquire = make()
            await acquire()
            served: list[int] = []
            source = random.Random(5)

            async def one(number: int) -> None:
                await acquire()
                served.append(number)

            tasks = []
            for number in range(WAITERS):
                tasks.append(asyncio.ensure_future(one(number)))
                await asyncio.sleep(0.002 * source.random())
            await asyncio.gather(*tasks)
            return sum(later < earlier for earlier, later in itertools.pairwise(served))

        return asyncio.run(main())

    def ours() -> Callable[[], Awaitable[object]]:
        from ferrule import RateLimiter

        return RateLimiter(200).acquire_async

    def aiolimiter() -> Callable[[], Awaitable[object]]:
        limiter: Any = require("aiolimiter").AsyncLimiter(1, 1 / 200)
        acquire: Callable[[], Awaitable[object]] = limiter.acquire
        return acquire

    def asyncio_throttle() -> Callable[[], Awaitable[object]]:
        limiter: Any = require("asyncio_throttle", "asyncio-throttle").Throttler(
            1, period=1 / 200, retry_interval=0.005
        )
        acquire: Callable[[], Awaitable[object]] = limiter.acquire
        return acquire

    return Figure(
        id="out_of_order",
        title=f"waiters served before one that came earlier, of {WAITERS}",
        unit="waiters",
        goal=0,
        truth=0,
        candidates={
            "ferrule": lambda: find(ours),
            "aiolimiter": lambda: find(aiolimiter),
            "asyncio-throttle": lambda: find(asyncio_throttle),
        },
    )


def wake_ups() -> Figure:
    """The steps that an event loop takes until all who wait have been served, for each of them."""

    def find(make: Callable[[], Callable[[], Awaitable[object]]]) -> float:
        async def main() -> float:
            acquire = make()
            await acquire()
            event_loop = asyncio.get_running_loop()
            steps = 0
            run_once: Any = event_loop._run_once  # type: ignore[attr-defined]  # noqa: SLF001  # what is counted

            def counted() -> None:
                nonlocal steps
                steps += len(event_loop._ready)  # type: ignore[attr-defined]  # noqa: SLF001  # what is counted
                run_once()

            event_loop._run_once = counted  # type: ignore[attr-defined]  # noqa: SLF001  # what is counted
            await asyncio.gather(*(acquire() for _ in range(WAITERS)))
            return steps / WAITERS

        return asyncio.run(main())

    def ours() -> Callable[[], Awaitable[object]]:
        from ferrule import RateLimiter

        return RateLimiter(200).acquire_async

    def aiolimiter() -> Callable[[], Awaitable[object]]:
        limiter: Any = require("aiolimiter").AsyncLimiter(1, 1 / 200)
        acquire: Callable[[], Awaitable[object]] = limiter.acquire
        return acquire

    return Figure(
        id="wake_ups",
        title=f"steps of the event loop for each of {WAITERS} waiters, their own and the timers'",
        unit="steps",
        candidates={"ferrule": lambda: find(ours), "aiolimiter": lambda: find(aiolimiter)},
    )

"""Retrying beside its peers: what a call costs that succeeds, and one that fails once, and who keeps count."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ferrule._compare.callable import work
from ferrule._compare.harness import Figure, Finding, Prepared, Room, in_loop, keyword, positional, require
from ferrule._compare.retrying import FailsOnce, awaited_work, retrying_shell
from ferrule._compare.retrying import room as compared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ferrule._compare.harness import Factory, Run

Function = Callable[..., Any]

THREADS = 8
SWITCH_INTERVAL = 1e-6


def room(*, quick: bool) -> Room:
    """Describes the rows and figures; with `quick` the figures are found out from fewer calls."""
    own = compared()
    peers: Mapping[str, Mapping[str, Factory]] = {
        "retry_positional": {name: called(positional, make) for name, make in RETRIERS.items()},
        "retry_keyword": {name: called(keyword, make) for name, make in RETRIERS.items()},
        "retry_coroutine": {name: awaited(make) for name, make in ASYNC_RETRIERS.items()},
        "retry_once": {name: failing_once(make) for name, make in RETRIERS.items() if name != "opnieuw"},
        "breaker_positional": {name: called(positional, make) for name, make in BREAKERS.items()},
    }
    return replace(
        own,
        rows=[row.joined_by(peers.get(row.id, {})) for row in own.rows],
        figures=[
            foreign_exceptions(2_000 if quick else 125_000, 1_000 if quick else 6_500),
            miscounted(2_000 if quick else 125_000),
            ctrl_c(3 if quick else 10),
            stop_event(3 if quick else 10),
            attempts_after_cancelling(),
        ],
    )


# The peers, as their documentation shows them.


def by_tenacity(function: Function) -> Function:
    tenacity = require("tenacity")
    wait = tenacity.wait_random_exponential(multiplier=0.1, max=60)
    if function is not work and not asyncio.iscoroutinefunction(function):
        wait = tenacity.wait_none()
    decorated: Function = tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=wait, reraise=True)(function)
    return decorated


def by_backoff(function: Function) -> Function:
    backoff = require("backoff")
    logging.getLogger("backoff").disabled = True
    interval: dict[str, Any] = {"interval": 0, "jitter": None}
    decorated: Function = backoff.on_exception(backoff.constant, Exception, max_tries=3, **interval)(function)
    return decorated


def by_stamina(function: Function) -> Function:
    stamina = require("stamina")
    stamina.instrumentation.set_on_retry_hooks([])
    decorated: Function = stamina.retry(on=Exception, attempts=3, wait_initial=0, wait_jitter=0)(function)
    return decorated


def by_opnieuw(function: Function) -> Function:
    opnieuw = require("opnieuw")
    retry = opnieuw.retry_async if asyncio.iscoroutinefunction(function) else opnieuw.retry
    decorated: Function = retry(retry_on_exceptions=Exception, max_calls_total=3)(function)
    return decorated


def by_hyx(function: Function) -> Function:
    decorated: Function = require("hyx.retry", "hyx").retry(attempts=3, backoff=0.1)(function)
    return decorated


RETRIERS: dict[str, Callable[[Function], Function]] = {
    "tenacity": by_tenacity,
    "backoff": by_backoff,
    "stamina": by_stamina,
    "opnieuw": by_opnieuw,
}
ASYNC_RETRIERS = {**RETRIERS, "hyx": by_hyx}


def by_pybreaker(function: Function) -> Function:
    decorated: Function = require("pybreaker").CircuitBreaker(fail_max=5, reset_timeout=30)(function)
    return decorated


def by_purgatory(function: Function) -> Function:
    breaker = require("purgatory").SyncCircuitBreakerFactory(default_threshold=5, default_ttl=30)
    decorated: Function = breaker("work")(function)
    return decorated


def by_aiobreaker(function: Function) -> Function:
    timeout = dt.timedelta(seconds=30)
    breaker = require("aiobreaker").CircuitBreaker(fail_max=5, timeout_duration=timeout)
    return lambda *args: breaker.call(function, *args)


BREAKERS: dict[str, Callable[[Function], Function]] = {
    "pybreaker": by_pybreaker,
    "purgatory": by_purgatory,
    "aiobreaker": by_aiobreaker,
}


def called(call: Callable[[Function], Run], make: Callable[[Function], Function]) -> Factory:
    return lambda: call(make(work))


def failing_once(make: Callable[[Function], Function]) -> Factory:
    def factory() -> Run:
        fails = FailsOnce()

        def plain(x: int) -> int:
            return fails(x)

        return positional(make(plain))

    return factory


def awaited(make: Callable[[Function], Function]) -> Factory:
    def factory() -> Prepared:
        function = make(awaited_work)

        async def body(n: int) -> None:
            for _ in itertools.repeat(None, n):
                await function(1)

        return in_loop(body)

    return factory


# What threads make of it.


class Occasional:
    """Raises `ConnectionError` now and then: at one call of a thousand."""

    def __init__(self) -> None:
        self.calls = itertools.count(1)

    def __call__(self, x: int) -> int:
        """Raises now and then."""
        if next(self.calls) % 1000 == 0:
            raise ConnectionError(x)
        return x


def hammered(function: Function, calls: int) -> list[BaseException]:
    """Calls a function from several threads at a short switch interval, and returns what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        for number in range(calls):
            try:
                function(number)
            except Exception as error:  # noqa: BLE001  # that is the question
                raised.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        threads = [threading.Thread(target=run) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    return raised


def ours(function: Function, **parameters: Any) -> Any:
    from ferrule import retry

    return retry(**parameters)(function)


def foreign_exceptions(calls: int, peer_calls: int) -> Figure:
    def foreign(make: Callable[[Function], Function], calls: int) -> Callable[[], Finding]:
        def find() -> Finding:
            flaky = Occasional()

            def plain(x: int) -> int:
                return flaky(x)

            raised = [error for error in hammered(make(plain), calls) if not isinstance(error, ConnectionError)]
            detail = f"{THREADS * calls:,} calls" + (f", {type(raised[0]).__name__}" if raised else "")
            return Finding(len(raised), detail)

        return find

    return Figure(
        id="foreign_exceptions",
        title=f"exceptions of its own that a decorated function let out, {THREADS} threads",
        unit="exceptions",
        goal=0,
        truth=0,
        candidates={
            "ferrule": foreign(lambda function: ours(function, delay=0), calls),
            "tenacity": foreign(by_tenacity, peer_calls),
            "backoff": foreign(by_backoff, peer_calls),
            "stamina": foreign(by_stamina, peer_calls),
        },
    )


def miscounted(calls: int) -> Figure:
    def find() -> Finding:
        decorated = ours(Occasional(), delay=0)
        hammered(decorated, calls)
        stats = decorated.retry_stats()
        total = THREADS * calls
        # Every thousandth attempt fails, whoever makes it.
        retries = stats.attempts // 1000
        wrong = abs(stats.calls - total) + abs(stats.successes - total) + abs(stats.retries - retries)
        return Finding(wrong, f"{stats.calls:,} calls, {stats.retries:,} retries")

    def tenacity() -> Finding:
        flaky = Occasional()

        def plain(x: int) -> int:
            return flaky(x)

        decorated: Any = by_tenacity(plain)
        hammered(decorated, 1000)
        # What it counts are the attempts of the last call.
        return Finding(abs(decorated.statistics.get("attempt_number", 0) - THREADS * 1000), "of the last call alone")

    return Figure(
        id="miscounted",
        title=f"calls and retries not counted, {THREADS} threads",
        unit="counts",
        goal=0,
        truth=0,
        candidates={"ferrule": find, "tenacity": tenacity},
    )


# What ends a wait.


def ctrl_c(times: int) -> Figure:
    def find(function: Callable[[], object]) -> float:
        # A program that is started in the background is given Ctrl-C as a signal to ignore.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return max(interrupted(function) for _ in range(times)) * 1000
        finally:
            signal.signal(signal.SIGINT, before)

    def interrupted(function: Callable[[], object]) -> float:
        sent: list[float] = []

        def interrupt() -> None:
            time.sleep(0.12)
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with contextlib.suppress(KeyboardInterrupt):
            function()
        return time.perf_counter() - sent[0]

    def failing() -> None:
        raise ConnectionError

    return Figure(
        id="ctrl_c",
        title=f"from Ctrl-C to the end of a wait of a minute, the longest of {times}",
        unit="ms",
        goal=100,
        candidates={
            "ferrule": lambda: find(ours(failing, delay=60, jitter=None)),
            "hand-written loop": lambda: find(retrying_shell(failing, delay=60)),
        },
    )


def stop_event(times: int) -> Figure:
    def find() -> float:
        late: list[float] = []
        for _ in range(times):
            event = threading.Event()
            sent: list[float] = []

            def stop(event: threading.Event = event, sent: list[float] = sent) -> None:
                time.sleep(0.12)
                sent.append(time.perf_counter())
                event.set()

            def failing() -> None:
                raise ConnectionError

            threading.Thread(target=stop).start()
            with contextlib.suppress(ConnectionError):
                ours(failing, delay=60, jitter=None, stop_event=event)()
            late.append(time.perf_counter() - sent[0])
        return max(late) * 1000

    return Figure(
        id="stop_event",
        title=f"from a stop event to the end of a wait of a minute, the longest of {times}",
        unit="ms",
        goal=100,
        candidates={"ferrule": find},
    )


def attempts_after_cancelling() -> Figure:
    def find(make: Callable[[Function], Function]) -> float:
        attempts: list[int] = []

        async def failing(x: int) -> None:
            attempts.append(x)
            raise ConnectionError(x)

        async def main() -> int:
            task = asyncio.ensure_future(make(failing)(1))
            await asyncio.sleep(0.01)
            task.cancel()
            before = len(attempts)
            await asyncio.wait([task], timeout=0.5)
            task.cancel()
            return len(attempts) - before

        return asyncio.run(main())

    return Figure(
        id="attempts_after_cancelling",
        title="attempts that a task makes after it was cancelled",
        unit="attempts",
        goal=0,
        truth=0,
        candidates={
            "ferrule": lambda: find(lambda function: ours(function, delay=0.1, jitter=None)),
            "tenacity": lambda: find(by_tenacity),
            "hyx": lambda: find(by_hyx),
        },
    )

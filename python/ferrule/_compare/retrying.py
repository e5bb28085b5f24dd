"""Retrying: what a call that succeeds costs, against the loops that people write, and what one that fails once does."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ferrule._compare.callable import method_work, work
from ferrule._compare.harness import Room, Row, awaiting, keyword, method, positional, raising

if TYPE_CHECKING:
    from collections.abc import Callable

    from ferrule._compare.harness import Run

SHELL = "shell that only forwards"
LOOP = "hand-written loop"
BREAKER = "hand-written breaker"


async def awaited_work(x: int) -> int:
    """Returns what it is given, as a coroutine."""
    return x


def failing_work(x: int) -> int:
    """Raises `ValueError`, always."""
    raise ValueError(x)


def forwarding_shell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Passes a call on, as every decorator must: what the others can be measured against."""

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return shell


def retrying_shell(function: Callable[..., Any], attempts: int = 3, delay: float = 0.1) -> Callable[..., Any]:
    """Retries a function by hand: a loop, an `except`, a sleep."""

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        for attempt in range(1, attempts + 1):
            try:
                return function(*args, **kwargs)
            except Exception:
                if attempt == attempts:
                    raise
                if delay:
                    time.sleep(delay * 2 ** (attempt - 1))
        return None

    return shell


def coroutine_retrying_shell(function: Callable[..., Any], attempts: int = 3, delay: float = 0.1) -> Callable[..., Any]:
    """Retries a coroutine function by hand."""

    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> Any:
        for attempt in range(1, attempts + 1):
            try:
                return await function(*args, **kwargs)
            except Exception:
                if attempt == attempts:
                    raise
                await asyncio.sleep(delay * 2 ** (attempt - 1))
        return None

    return shell


def breaker_shell(function: Callable[..., Any], threshold: int = 5, window: float = 60.0) -> Callable[..., Any]:
    """Stands before a function by hand: a count of recent failures, and a moment until which it is open."""
    failures: deque[float] = deque(maxlen=threshold)
    open_until = 0.0

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        nonlocal open_until
        if open_until and time.monotonic() < open_until:
            raise RuntimeError("the circuit is open")
        try:
            return function(*args, **kwargs)
        except Exception:
            now = time.monotonic()
            failures.append(now)
            if len(failures) == threshold and now - failures[0] < window:
                open_until = now + 30.0
            raise

    return shell


class FailsOnce:
    """Raises at every other call."""

    def __init__(self) -> None:
        self.calls = itertools.count()

    def __call__(self, x: int) -> int:
        """Raises at every other call."""
        if next(self.calls) % 2 == 0:
            raise ConnectionError(x)
        return x


def room() -> Room:
    """Describes the rows."""
    return Room(name="retrying", rows=[*_successes(), *_failures(), *_breakers()])


def _successes() -> list[Row]:
    return [
        Row(
            id="retry_positional",
            title="retry: a call that succeeds, one positional argument",
            baseline=SHELL,
            goal=0.55,
            candidates={
                "bare function": lambda: positional(work),
                SHELL: lambda: positional(forwarding_shell(work)),
                LOOP: lambda: positional(retrying_shell(work)),
                "ferrule": lambda: positional(_retried(work)),
            },
        ),
        Row(
            id="retry_keyword",
            title="retry: a call that succeeds, one keyword argument",
            baseline=SHELL,
            goal=0.55,
            candidates={
                "bare function": lambda: keyword(work),
                SHELL: lambda: keyword(forwarding_shell(work)),
                LOOP: lambda: keyword(retrying_shell(work)),
                "ferrule": lambda: keyword(_retried(work)),
            },
        ),
        Row(
            id="retry_keyword_penalty",
            title="retry: one keyword argument, against one positional",
            baseline="ferrule, positional",
            goal=1.3,
            candidates={
                "ferrule, positional": lambda: positional(_retried(work)),
                "ferrule": lambda: keyword(_retried(work)),
            },
        ),
        Row(
            id="retry_method",
            title="retry: a method call that succeeds",
            baseline=SHELL,
            candidates={
                "bare function": lambda: method(method_work),
                SHELL: lambda: method(forwarding_shell(method_work)),
                LOOP: lambda: method(retrying_shell(method_work)),
                "ferrule": lambda: method(_retried(method_work)),
            },
        ),
        Row(
            id="retry_coroutine",
            title="retry: awaiting a coroutine that succeeds",
            baseline=LOOP,
            goal=1.0,
            candidates={
                "bare function": lambda: awaiting(awaited_work),
                LOOP: lambda: awaiting(coroutine_retrying_shell(awaited_work)),
                "ferrule": lambda: awaiting(_retried(awaited_work)),
            },
        ),
    ]


def _failures() -> list[Row]:
    return [
        Row(
            id="retry_once",
            title="retry: a call that fails once and then succeeds, without a delay",
            baseline=LOOP,
            candidates={
                LOOP: lambda: positional(retrying_shell(FailsOnce(), delay=0)),
                "ferrule": lambda: positional(_retried(FailsOnce(), delay=0)),
            },
        ),
        Row(
            id="retry_raising",
            title="retry: a call that raises what is not retried, caught by the caller",
            baseline=SHELL,
            candidates={
                SHELL: lambda: raising(forwarding_shell(failing_work)),
                "ferrule": lambda: raising(_retried(failing_work, on=OSError)),
            },
        ),
    ]


def _breakers() -> list[Row]:
    return [
        Row(
            id="breaker_positional",
            title="CircuitBreaker: a call through a closed one",
            baseline=SHELL,
            goal=0.55,
            candidates={
                "bare function": lambda: positional(work),
                SHELL: lambda: positional(forwarding_shell(work)),
                BREAKER: lambda: positional(breaker_shell(work)),
                "ferrule": lambda: positional(_guarded(work)),
            },
        ),
        Row(
            id="breaker_block",
            title="CircuitBreaker: a block through a closed one",
            baseline=BREAKER,
            candidates={BREAKER: _hand_written_block, "ferrule": _breaker_block},
        ),
    ]


def _retried(function: Callable[..., Any], **parameters: Any) -> Callable[..., Any]:
    from ferrule import retry

    decorated: Callable[..., Any] = retry(**parameters)(function)
    return decorated


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    from ferrule import CircuitBreaker

    return CircuitBreaker()(function)


def _hand_written_block() -> Run:
    guarded = breaker_shell(lambda: None)

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            guarded()

    return run


def _breaker_block() -> Run:
    from ferrule import CircuitBreaker

    breaker = CircuitBreaker()

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            with breaker:
                pass

    return run

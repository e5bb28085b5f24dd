"""Limiting: what a limit costs that isn't reached, against the token bucket that people write."""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from ferrule._compare.callable import work
from ferrule._compare.harness import Prepared, Room, Row, awaiting, in_loop, positional

if TYPE_CHECKING:
    from collections.abc import Callable

    from ferrule._compare.harness import Run

BUCKET = "hand-written bucket"
LOCKED = "hand-written bucket with a lock"
SHELL = "shell with a hand-written bucket"
# A limit that no loop reaches.
PLENTY = 1_000_000_000
KEYS = 1_000_000


class HandWrittenBucket:
    """Is a token bucket by hand: a level, and when it was last filled."""

    __slots__ = ("level", "rate", "size", "then")

    def __init__(self, rate: float, size: float) -> None:
        self.rate = rate
        self.size = size
        self.level = size
        self.then = time.monotonic()

    def try_acquire(self, n: int = 1) -> bool:
        """Takes tokens if they are there."""
        now = time.monotonic()
        self.level = min(self.size, self.level + (now - self.then) * self.rate)
        self.then = now
        if self.level < n:
            return False
        self.level -= n
        return True


class LockedBucket(HandWrittenBucket):
    """Is the same for threads, which lose tokens without a lock."""

    __slots__ = ("lock",)

    def __init__(self, rate: float, size: float) -> None:
        super().__init__(rate, size)
        self.lock = threading.Lock()

    def try_acquire(self, n: int = 1) -> bool:
        """Takes tokens if they are there, in one step."""
        with self.lock:
            now = time.monotonic()
            self.level = min(self.size, self.level + (now - self.then) * self.rate)
            self.then = now
            if self.level < n:
                return False
            self.level -= n
            return True


class HandWrittenBuckets:
    """Is a dictionary of token buckets, one for each key, which nobody ever empties."""

    def __init__(self, rate: float, size: float) -> None:
        self.rate = rate
        self.size = size
        self.buckets: dict[object, HandWrittenBucket] = {}

    def try_acquire(self, key: object) -> bool:
        """Takes a token of a key's if it is there."""
        bucket = self.buckets.get(key)
        if bucket is None:
            bucket = self.buckets[key] = HandWrittenBucket(self.rate, self.size)
        return bucket.try_acquire()


def limiting_shell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Limits a function by hand."""
    bucket = HandWrittenBucket(PLENTY, PLENTY)

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        while not bucket.try_acquire():
            time.sleep(0.001)
        return function(*args, **kwargs)

    return shell


def acquiring(try_acquire: Callable[[], object]) -> Run:
    """Makes a run that takes one token each time."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            try_acquire()

    return run


def acquiring_keys(try_acquire: Callable[[Any], object], keys: list[str]) -> Run:
    """Makes a run that takes one token of a key's each time, the keys in their order."""
    endless = itertools.cycle(keys)

    def run(n: int) -> None:
        for key in itertools.islice(endless, n):
            try_acquire(key)

    return run


@functools.cache
def million_keys() -> list[str]:
    """Makes the keys: addresses, in an order that follows nothing."""
    keys = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(KEYS)]
    random.Random(7).shuffle(keys)  # noqa: S311  # nothing secret
    return keys


async def awaited_work(x: int) -> int:
    """Returns what it is given, as a coroutine."""
    return x


def room() -> Room:
    """Describes the rows."""
    return Room(name="limiting", rows=[*_tokens(), *_functions()])


def _tokens() -> list[Row]:
    return [
        Row(
            id="try_acquire",
            title="RateLimiter: a token that is there",
            baseline=LOCKED,
            goal=0.125,
            candidates={
                LOCKED: lambda: acquiring(LockedBucket(PLENTY, PLENTY).try_acquire),
                BUCKET: lambda: acquiring(HandWrittenBucket(PLENTY, PLENTY).try_acquire),
                "ferrule": lambda: acquiring(_limiter().try_acquire),
                "ferrule acquire": lambda: acquiring(_limiter().acquire),
            },
        ),
        Row(
            id="try_acquire_key",
            title="RateLimiter: a token that is there, of one key of a thousand",
            baseline=BUCKET,
            candidates={
                BUCKET: lambda: acquiring_keys(HandWrittenBuckets(PLENTY, PLENTY).try_acquire, million_keys()[:1000]),
                "ferrule": lambda: acquiring_keys(_slow_limiter().try_acquire, million_keys()[:1000]),
            },
        ),
        Row(
            id="try_acquire_million",
            title="RateLimiter: a token that is there, of one key of a million",
            baseline=BUCKET,
            candidates={
                BUCKET: lambda: _filled(HandWrittenBuckets(PLENTY, PLENTY).try_acquire),
                "ferrule": lambda: _filled(_slow_limiter().try_acquire),
            },
        ),
        Row(
            id="acquire_block",
            title="RateLimiter: a block",
            baseline=BUCKET,
            candidates={
                BUCKET: lambda: acquiring(HandWrittenBucket(PLENTY, PLENTY).try_acquire),
                "ferrule": _block,
            },
        ),
    ]


def _functions() -> list[Row]:
    return [
        Row(
            id="rate_limited_positional",
            title="rate_limited: a call within the limit",
            baseline=SHELL,
            candidates={
                "bare function": lambda: positional(work),
                SHELL: lambda: positional(limiting_shell(work)),
                "ferrule": lambda: positional(_limited(work)),
            },
        ),
        Row(
            id="acquire_async",
            title="RateLimiter: awaiting a token that is there",
            baseline=BUCKET,
            candidates={
                BUCKET: _hand_written_awaited,
                "ferrule": _awaited,
                "ferrule rate_limited": lambda: awaiting(_limited(awaited_work)),
            },
        ),
    ]


def _limiter() -> Any:
    from ferrule import RateLimiter

    return RateLimiter(PLENTY, burst=PLENTY)


def _slow_limiter() -> Any:
    # Buckets that don't fill up again while they are measured: keys that were forgotten would be measured as new ones.
    from ferrule import RateLimiter

    return RateLimiter(0.01, burst=KEYS)


def _filled(try_acquire: Callable[[Any], object]) -> Run:
    keys = million_keys()
    for key in keys:
        try_acquire(key)
    return acquiring_keys(try_acquire, keys)


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    from ferrule import rate_limited

    return rate_limited(PLENTY, burst=PLENTY)(function)


def _block() -> Run:
    limit = _limiter()

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            with limit:
                pass

    return run


def _awaited() -> Prepared:
    acquire = _limiter().acquire_async

    async def body(n: int) -> None:
        for _ in itertools.repeat(None, n):
            await acquire()

    return in_loop(body)


def _hand_written_awaited() -> Prepared:
    bucket = HandWrittenBucket(PLENTY, PLENTY)

    async def acquire() -> None:
        while not bucket.try_acquire():
            raise RuntimeError("it is never empty")

    async def body(n: int) -> None:
        for _ in itertools.repeat(None, n):
            await acquire()

    return in_loop(body)

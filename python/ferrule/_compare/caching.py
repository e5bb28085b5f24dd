"""Caching: what a kept result costs, against functools' cache and what people paste where it has no time limit."""

from __future__ import annotations

import functools
import itertools
import time
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any

from ferrule._compare.callable import method_work, work
from ferrule._compare.harness import Prepared, Room, Row, awaiting, keyword, method, positional

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from ferrule._compare.harness import Run

    Function = Callable[..., Any]

FUNCTOOLS = "functools.lru_cache"
SHELL = "hand-written LRU shell"
TTL_SHELL = "hand-written TTL shell"
CLASS = "hand-written LRU class"
BARE = "bare function"
MAXSIZE = 1024
TTL = 3600.0
ABSENT: Any = object()


def two_arguments(x: int, y: int) -> int:
    """Returns the first of two arguments."""
    del y
    return x


async def awaited_work(x: int) -> int:
    """Returns what it is given, as a coroutine."""
    return x


class LRU:
    """Keeps the entries that were used last, as it is written by hand: an `OrderedDict` and a lock."""

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.entries: OrderedDict[Hashable, Any] = OrderedDict()
        self.lock = Lock()

    def get(self, key: Hashable, default: Any = None) -> Any:
        """Returns the value for a key, and moves it to the end of the line."""
        with self.lock:
            try:
                self.entries.move_to_end(key)
            except KeyError:
                return default
            return self.entries[key]

    def __setitem__(self, key: Hashable, value: Any) -> None:
        """Keeps a value, and drops the first in line if there are too many."""
        with self.lock:
            self.entries[key] = value
            self.entries.move_to_end(key)
            if len(self.entries) > self.maxsize:
                self.entries.popitem(last=False)


def lru_shell(function: Function) -> Function:
    """Keeps a function's results by hand, in an `LRU`."""
    kept = LRU(MAXSIZE)

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        key = (args, tuple(sorted(kwargs.items()))) if kwargs else args
        value = kept.get(key, ABSENT)
        if value is ABSENT:
            value = function(*args, **kwargs)
            kept[key] = value
        return value

    return shell


def ttl_shell(function: Function) -> Function:
    """Keeps a function's results for a time, as it is mostly pasted: a dictionary that nothing is ever taken out of."""
    kept: dict[Hashable, tuple[Any, float]] = {}

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        key = (args, tuple(sorted(kwargs.items())))
        now = time.monotonic()
        if key in kept:
            value, since = kept[key]
            if now - since < TTL:
                return value
        value = function(*args, **kwargs)
        kept[key] = (value, now)
        return value

    return shell


def coroutine_shell(function: Callable[..., Awaitable[Any]]) -> Function:
    """Keeps a coroutine function's results by hand, in a dictionary."""
    kept: dict[Hashable, Any] = {}

    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> Any:
        key = (args, tuple(sorted(kwargs.items())))
        if key not in kept:
            kept[key] = await function(*args, **kwargs)
        return kept[key]

    return shell


def two_positional(function: Function) -> Run:
    """Makes a run of calls with two positional arguments."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            function(1, 2)

    return run


def missing(function: Function) -> Prepared:
    """Makes a run of calls with an argument that was never there before, of a cache that is full."""
    numbers = itertools.count()

    def fill() -> None:
        for number in itertools.islice(numbers, MAXSIZE):
            function(number)

    def run(n: int) -> None:
        for number in itertools.islice(numbers, n):
            function(number)

    return Prepared(run=run, prepare=fill)


def getting(kept: Any) -> Run:
    """Makes a run of look-ups with `get`, of all keys of a full cache by turns."""
    for key in range(MAXSIZE):
        kept[key] = key
    keys, get = list(range(MAXSIZE)), kept.get

    def run(n: int) -> None:
        for key in itertools.islice(itertools.cycle(keys), n):
            get(key)

    return run


def setting(kept: Any) -> Run:
    """Makes a run that gives new values to keys that are there, by turns."""
    for key in range(MAXSIZE):
        kept[key] = key
    keys = list(range(MAXSIZE))

    def run(n: int) -> None:
        for key in itertools.islice(itertools.cycle(keys), n):
            kept[key] = 0

    return run


def evicting(kept: Any) -> Prepared:
    """Makes a run that puts in keys that were never there before, of a cache that is full."""
    numbers = itertools.count()

    def fill() -> None:
        for number in itertools.islice(numbers, MAXSIZE):
            kept[number] = 0

    def run(n: int) -> None:
        for number in itertools.islice(numbers, n):
            kept[number] = 0

    return Prepared(run=run, prepare=fill)


def room() -> Room:
    """Describes the rows."""
    return Room(name="caching", rows=[*_hits(), *_other_calls(), *_objects()])


def _hits() -> list[Row]:
    return [
        Row(
            id="hit_positional",
            title="cached: a hit, one positional argument",
            baseline=FUNCTOOLS,
            goal=1.0,
            candidates={
                BARE: lambda: positional(work),
                FUNCTOOLS: lambda: positional(functools.lru_cache(MAXSIZE)(work)),
                SHELL: lambda: positional(lru_shell(work)),
                "ferrule": lambda: positional(_cached(work)),
                "ferrule lru_cache": lambda: positional(_drop_in(work)),
            },
        ),
        Row(
            id="hit_two",
            title="cached: a hit, two positional arguments",
            baseline=FUNCTOOLS,
            goal=0.8,
            candidates={
                BARE: lambda: two_positional(two_arguments),
                FUNCTOOLS: lambda: two_positional(functools.lru_cache(MAXSIZE)(two_arguments)),
                SHELL: lambda: two_positional(lru_shell(two_arguments)),
                "ferrule": lambda: two_positional(_cached(two_arguments)),
                "ferrule lru_cache": lambda: two_positional(_drop_in(two_arguments)),
            },
        ),
        Row(
            id="hit_keyword",
            title="cached: a hit, one keyword argument",
            baseline=FUNCTOOLS,
            goal=0.5,
            candidates={
                BARE: lambda: keyword(work),
                FUNCTOOLS: lambda: keyword(functools.lru_cache(MAXSIZE)(work)),
                SHELL: lambda: keyword(lru_shell(work)),
                "ferrule": lambda: keyword(_cached(work)),
                "ferrule lru_cache": lambda: keyword(_drop_in(work)),
            },
        ),
        Row(
            id="hit_ttl",
            title="cached(ttl=...): a hit, one positional argument; functools has no ttl",
            baseline=FUNCTOOLS,
            goal=1.3,
            candidates={
                FUNCTOOLS: lambda: positional(functools.lru_cache(MAXSIZE)(work)),
                TTL_SHELL: lambda: positional(ttl_shell(work)),
                "ferrule": lambda: positional(_cached(work, ttl=TTL)),
            },
        ),
    ]


def _other_calls() -> list[Row]:
    return [
        Row(
            id="miss",
            title="cached: a miss that computes and evicts",
            baseline=FUNCTOOLS,
            goal=1.2,
            candidates={
                FUNCTOOLS: lambda: missing(functools.lru_cache(MAXSIZE)(work)),
                SHELL: lambda: missing(lru_shell(work)),
                "ferrule": lambda: missing(_cached(work)),
                "ferrule lru_cache": lambda: missing(_drop_in(work)),
            },
        ),
        Row(
            id="hit_method",
            title="cached: a method's hit; functools keeps the instance alive",
            baseline=FUNCTOOLS,
            goal=1.3,
            candidates={
                BARE: lambda: method(method_work),
                FUNCTOOLS: lambda: method(functools.lru_cache(MAXSIZE)(method_work)),
                SHELL: lambda: method(lru_shell(method_work)),
                "ferrule": lambda: method(_cached(method_work, method=True)),
            },
        ),
        Row(
            id="hit_coroutine",
            title="cached: a hit of a coroutine function",
            baseline="bare coroutine function",
            goal=2.8,
            candidates={
                "bare coroutine function": lambda: awaiting(awaited_work),
                "hand-written shell": lambda: awaiting(coroutine_shell(awaited_work)),
                "ferrule": lambda: awaiting(_cached(awaited_work)),
            },
        ),
    ]


def _objects() -> list[Row]:
    return [
        Row(
            id="cache_get",
            title=f"Cache: get, {MAXSIZE:,} keys by turns",
            baseline=CLASS,
            candidates={CLASS: lambda: getting(LRU(MAXSIZE)), "ferrule": lambda: getting(_cache())},
        ),
        Row(
            id="cache_set",
            title=f"Cache: set a key that is there, {MAXSIZE:,} keys by turns",
            baseline=CLASS,
            candidates={CLASS: lambda: setting(LRU(MAXSIZE)), "ferrule": lambda: setting(_cache())},
        ),
        Row(
            id="cache_evict",
            title="Cache: set a new key and evict the oldest",
            baseline=CLASS,
            candidates={CLASS: lambda: evicting(LRU(MAXSIZE)), "ferrule": lambda: evicting(_cache())},
        ),
    ]


def _cached(function: Function, **options: Any) -> Function:
    from ferrule import cached

    decorated: Function = cached(maxsize=MAXSIZE, **options)(function)
    return decorated


def _drop_in(function: Function) -> Function:
    from ferrule import lru_cache

    decorated: Function = lru_cache(MAXSIZE)(function)
    return decorated


def _cache() -> Any:
    from ferrule import Cache

    kept: Cache[Any, Any] = Cache(MAXSIZE)
    return kept

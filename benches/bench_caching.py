"""Caching beside its peers: what a hit costs, what an entry takes, and who keeps the right ones."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches.traces import SIZE, TRACES, best_possible
from ferrule import cached, lru_cache
from ferrule._compare.caching import (
    CLASS,
    FUNCTOOLS,
    LRU,
    MAXSIZE,
    TTL,
    awaited_work,
    evicting,
    getting,
    missing,
    setting,
    two_arguments,
    two_positional,
)
from ferrule._compare.caching import (
    room as compared,
)
from ferrule._compare.callable import method_work, work
from ferrule._compare.harness import (
    Figure,
    Finding,
    Prepared,
    Room,
    UnavailableError,
    awaiting,
    keyword,
    positional,
    require,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ferrule._compare.harness import Factory, Row, Run

    Function = Callable[..., Any]
    Get = Callable[[Any], Any]
    Put = Callable[[Any, Any], object]

TIMEOUT = 300.0
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def room(*, quick: bool) -> Room:
    """Describes the rows and figures; with `quick` the figures are found out from fewer entries and shorter traces."""
    own = compared()
    peers: Mapping[str, Mapping[str, Factory]] = {
        "hit_positional": {label: calls(positional, make, work) for label, make in LRU_DECORATORS.items()},
        "hit_two": {label: calls(two_positional, make, two_arguments) for label, make in LRU_DECORATORS.items()},
        "hit_keyword": {label: calls(keyword, make, work) for label, make in LRU_DECORATORS.items()},
        "hit_ttl": {label: calls(positional, make, work) for label, make in TTL_DECORATORS.items()},
        "miss": {label: calls(missing, make, work) for label, make in LRU_DECORATORS.items()},
        "hit_method": {"cachetools cachedmethod": cachetools_method},
        "hit_coroutine": {label: calls(awaiting, make, awaited_work) for label, make in COROUTINE_DECORATORS.items()},
        "cache_get": {
            "cachebox LRUCache": lambda: getting(cachebox_lru(MAXSIZE)),
            "cachetools LRUCache": lambda: getting(cachetools_lru(MAXSIZE)),
            "lru-dict": lambda: getting(lru_dict(MAXSIZE)),
            "moka": lambda: getting_by_method(moka_object(MAXSIZE)),
            "theine": lambda: getting_by_method(theine_object(MAXSIZE)),
        },
        "cache_set": {
            "cachebox LRUCache": lambda: setting(cachebox_lru(MAXSIZE)),
            "cachetools LRUCache": lambda: setting(cachetools_lru(MAXSIZE)),
            "lru-dict": lambda: setting(lru_dict(MAXSIZE)),
            "moka": lambda: setting_by_method(moka_object(MAXSIZE)),
            "theine": lambda: setting_by_method(theine_object(MAXSIZE)),
        },
        "cache_evict": {
            "cachebox LRUCache": lambda: evicting(cachebox_lru(MAXSIZE)),
            "cachetools LRUCache": lambda: evicting(cachetools_lru(MAXSIZE)),
            "lru-dict": lambda: evicting(lru_dict(MAXSIZE)),
            "moka": lambda: evicting_by_method(moka_object(MAXSIZE)),
            "theine": lambda: evicting_by_method(theine_object(MAXSIZE)),
        },
    }
    count = 100_000 if quick else 1_000_000
    length = 20_000 if quick else 300_000
    return replace(
        own,
        rows=[beside_cachebox(row.joined_by(peers.get(row.id, {}))) for row in own.rows],
        figures=[
            entry_size("lru", count, 75, LRU_ENTRIES),
            entry_size("ttl", count, 85, TTL_ENTRIES),
            collection(count),
            # With the interpreter lock, threads take turns.
            *([in_two_threads(count)] if FREE_THREADED else []),
            *[hit_rate(name, length) for name in TRACES],
        ],
    )


def beside_cachebox(row: Row) -> Row:
    """The objects are to be on a par with the quickest peer that is as safe: it takes the place of the baseline."""
    goals = {"cache_get": 1.0, "cache_set": 1.0, "cache_evict": 1.0}
    if row.id not in goals:
        return row
    return replace(row, baseline="cachebox LRUCache", goal=goals[row.id])


# The peers, each as its documentation shows it.


def calls(
    run: Callable[[Function], Run | Prepared], decorate: Callable[[Function], Function], function: Function
) -> Factory:
    """Makes a decorated function ready for one kind of call."""
    return lambda: run(decorate(function))


def cachetools_lru(maxsize: int) -> Any:
    return require("cachetools").LRUCache(maxsize)


def cachebox_lru(maxsize: int) -> Any:
    return require("cachebox").LRUCache(maxsize)


def lru_dict(maxsize: int) -> Any:
    return require("lru", "lru-dict").LRU(maxsize)


def moka_object(maxsize: int) -> Any:
    return require("moka_py", "moka-py").Moka(maxsize)


def theine_object(maxsize: int) -> Any:
    return require("theine").Cache(maxsize)


def kept_by_cachetools(function: Function) -> Function:
    return decorated(require("cachetools.func").lru_cache(MAXSIZE), function)


def kept_by_cachebox(function: Function) -> Function:
    return decorated(require("cachebox").cached(cachebox_lru(MAXSIZE)), function)


def kept_by_moka(function: Function) -> Function:
    return decorated(require("moka_py", "moka-py").cached(MAXSIZE), function)


def kept_by_theine(function: Function) -> Function:
    return decorated(require("theine").Memoize(MAXSIZE, None), function)


def timed_by_cachetools(function: Function) -> Function:
    return decorated(require("cachetools.func").ttl_cache(MAXSIZE, TTL), function)


def timed_by_cachebox(function: Function) -> Function:
    cachebox = require("cachebox")
    return decorated(cachebox.cached(cachebox.TTLCache(MAXSIZE, TTL)), function)


def timed_by_moka(function: Function) -> Function:
    return decorated(require("moka_py", "moka-py").cached(MAXSIZE, ttl=TTL), function)


def timed_by_theine(function: Function) -> Function:
    return decorated(require("theine").Memoize(MAXSIZE, timedelta(seconds=TTL)), function)


def kept_by_async_lru(function: Function) -> Function:
    return decorated(require("async_lru", "async-lru").alru_cache(maxsize=MAXSIZE), function)


def kept_by_aiocache(function: Function) -> Function:
    return decorated(require("aiocache").cached(), function)


def decorated(decorator: Any, function: Function) -> Function:
    made: Function = decorator(function)
    return made


LRU_DECORATORS: Mapping[str, Callable[[Function], Function]] = {
    "cachebox": kept_by_cachebox,
    "cachetools": kept_by_cachetools,
    "moka": kept_by_moka,
    "theine": kept_by_theine,
}
TTL_DECORATORS: Mapping[str, Callable[[Function], Function]] = {
    "cachebox": timed_by_cachebox,
    "cachetools": timed_by_cachetools,
    "moka": timed_by_moka,
    "theine": timed_by_theine,
}
COROUTINE_DECORATORS: Mapping[str, Callable[[Function], Function]] = {
    "async-lru": kept_by_async_lru,
    "cachebox": kept_by_cachebox,
    "moka": kept_by_moka,
    "aiocache": kept_by_aiocache,
}


def cachetools_method() -> Run:
    """Keeps a method's results the way cachetools' documentation shows it: in a cache that each instance has."""
    cachetools = require("cachetools")

    class Owner:
        def __init__(self) -> None:
            self.kept = cachetools.LRUCache(MAXSIZE)

        method = cachetools.cachedmethod(lambda self: self.kept)(method_work)

    owner = Owner()

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            owner.method(1)

    return run


# The same runs for peers that are no mappings.


def getting_by_method(kept: Any) -> Run:
    for key in range(MAXSIZE):
        kept.set(key, key)
    keys, get = list(range(MAXSIZE)), kept.get

    def run(n: int) -> None:
        for key in itertools.islice(itertools.cycle(keys), n):
            get(key)

    return run


def setting_by_method(kept: Any) -> Run:
    for key in range(MAXSIZE):
        kept.set(key, key)
    keys, put = list(range(MAXSIZE)), kept.set

    def run(n: int) -> None:
        for key in itertools.islice(itertools.cycle(keys), n):
            put(key, 0)

    return run


def evicting_by_method(kept: Any) -> Prepared:
    numbers, put = itertools.count(), kept.set

    def fill() -> None:
        for number in itertools.islice(numbers, MAXSIZE):
            put(number, 0)

    def run(n: int) -> None:
        for number in itertools.islice(numbers, n):
            put(number, 0)

    return Prepared(run=run, prepare=fill)


# What an entry takes, and what it costs the garbage collector. Each candidate has an interpreter of its own.

# Keys and values are there before, so that what grows is the cache's own.
MEASURED = """
import gc, sys, time
from datetime import timedelta
import benches.bench_caching as bench
from ferrule._compare.harness import UnavailableError

label, count, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
keys = list(range(1_000_000_000, 1_000_000_000 + count))
values = [float(key) for key in keys]

def collected():
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        gc.collect()
        best = min(best, time.perf_counter() - start)
    return best

try:
    fill = bench.ENTRIES[label](count)
except UnavailableError as error:
    sys.exit(f"unavailable: {error}")
gc.collect()
empty, before = collected(), bench.resident()
kept = fill(keys, values)
gc.collect()
print((bench.resident() - before) / count if what == "memory" else (collected() - empty) * 1000)
"""


def items_of(make: Callable[[int], Any]) -> Callable[[int], Any]:
    """Fills a mapping, one entry after the other."""

    def filled(count: int) -> Any:
        kept = make(count)

        def fill(keys: Sequence[int], values: Sequence[float]) -> Any:
            for key, value in zip(keys, values, strict=True):
                kept[key] = value
            return kept

        return fill

    return filled


def by_method(make: Callable[[int], Any], **options: Any) -> Callable[[int], Any]:
    """Fills a cache by its method `set`."""

    def filled(count: int) -> Any:
        kept = make(count)

        def fill(keys: Sequence[int], values: Sequence[float]) -> Any:
            for key, value in zip(keys, values, strict=True):
                kept.set(key, value, **options)
            return kept

        return fill

    return filled


def calls_of(decorate: Callable[[int, Function], Function]) -> Callable[[int], Any]:
    """Calls a function whose results are kept, once for each key."""

    def filled(count: int) -> Any:
        def fill(keys: Sequence[int], values: Sequence[float]) -> Any:
            results = iter(values)
            function = decorate(count, lambda _: next(results))
            for key in keys:
                function(key)
            return function

        return fill

    return filled


def ferrule_cache(count: int, **options: Any) -> Any:
    from ferrule import Cache

    return Cache(count, **options)


def ferrule_cached(count: int, function: Function) -> Function:
    from ferrule import cached

    return decorated(cached(maxsize=count), function)


def functools_cached(count: int, function: Function) -> Function:
    return functools.lru_cache(count)(function)


LRU_ENTRIES: Mapping[str, Callable[[int], Any]] = {
    "ferrule": items_of(ferrule_cache),
    "ferrule cached": calls_of(ferrule_cached),
    FUNCTOOLS: calls_of(functools_cached),
    CLASS: items_of(LRU),
    "dict, for scale": items_of(lambda _: {}),
    "cachebox LRUCache": items_of(cachebox_lru),
    "cachetools LRUCache": items_of(cachetools_lru),
    "lru-dict": items_of(lru_dict),
    "moka": by_method(moka_object),
    "theine": by_method(theine_object),
}
TTL_ENTRIES: Mapping[str, Callable[[int], Any]] = {
    "ferrule": by_method(ferrule_cache, ttl=TTL),
    "ferrule, one ttl for all": items_of(partial(ferrule_cache, ttl=TTL)),
    "cachebox VTTLCache": lambda count: by_insert(require("cachebox").VTTLCache(count)),
    "cachebox TTLCache, one ttl for all": items_of(lambda count: require("cachebox").TTLCache(count, TTL)),
    "cachetools TTLCache, one ttl for all": items_of(lambda count: require("cachetools").TTLCache(count, TTL)),
    "moka": by_method(moka_object, ttl=TTL),
    "theine": by_method(theine_object, ttl=timedelta(seconds=TTL)),
}
COLLECTED: Sequence[str] = (
    "ferrule",
    "ferrule cached",
    FUNCTOOLS,
    CLASS,
    "dict, for scale",
    "cachebox LRUCache",
    "cachetools LRUCache",
    "lru-dict",
)
ENTRIES: Mapping[str, Callable[[int], Any]] = {
    **{f"lru {label}": make for label, make in LRU_ENTRIES.items()},
    **{f"ttl {label}": make for label, make in TTL_ENTRIES.items()},
}


def by_insert(kept: Any) -> Any:
    def fill(keys: Sequence[int], values: Sequence[float]) -> Any:
        for key, value in zip(keys, values, strict=True):
            kept.insert(key, value, TTL)
        return kept

    return fill


def entry_size(kind: str, count: int, goal: float, makers: Mapping[str, Callable[[int], Any]]) -> Figure:
    titles = {"lru": "an entry's memory", "ttl": "an entry's memory, with a time to live for each"}
    return Figure(
        id=f"entry_{kind}",
        title=f"{titles[kind]}, without key and value, average of {count:,}",
        unit="bytes",
        goal=goal,
        candidates={label: partial(in_interpreter, f"{kind} {label}", count, "memory") for label in makers},
    )


def collection(count: int) -> Figure:
    return Figure(
        id="collection",
        title=f"a full garbage collection over {count:,} entries, against functools.lru_cache's",
        unit="times",
        goal=1.0,
        candidates={label: partial(collection_ratio, label, count) for label in COLLECTED},
    )


def collection_ratio(label: str, count: int) -> Finding:
    took = collection_time(label, count)
    return Finding(took / collection_time(FUNCTOOLS, count), f"{took:.2f} ms")


@functools.cache
def collection_time(label: str, count: int) -> float:
    """Returns the milliseconds that a cache adds to a full collection."""
    return in_interpreter(f"lru {label}", count, "collection")


def in_interpreter(label: str, count: int, what: str) -> float:
    """Fills a cache in an interpreter of its own, and returns what was measured there."""
    if not Path("/proc/self/statm").exists():
        raise UnavailableError("this system has no /proc/self/statm")
    try:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, label, str(count), what],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).resolve().parent.parent,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"it takes longer than {TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
        if reason.startswith("unavailable: "):
            raise UnavailableError(reason.removeprefix("unavailable: "))
        raise RuntimeError(reason)
    return float(done.stdout)


def resident() -> int:
    """Returns the bytes of memory that this process has."""
    import resource

    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


# Threads that share a cache.


def in_two_threads(count: int) -> Figure:
    return Figure(
        id="two_threads",
        title=f"two threads on one cache, {count:,} hits each on keys of their own, against functools.lru_cache's",
        unit="times",
        goal=1.0,
        candidates={label: partial(ratio_in_two_threads, label, count) for label in SHARED},
    )


def ratio_in_two_threads(label: str, count: int) -> Finding:
    took = times_by_threads(count)
    alone, together = took[label]
    return Finding(
        together / took[FUNCTOOLS][1],
        f"{together / count * 1e9:.0f} ns a hit, {2 * alone / together:.2f} of one thread's hits",
    )


@functools.cache
def times_by_threads(count: int) -> Mapping[str, tuple[float, float]]:
    """Returns what `print_times_by_threads` measures in an interpreter of its own: some peers bring the lock back."""
    code = f"from benches.bench_caching import print_times_by_threads; print_times_by_threads({count})"
    done = subprocess.run(
        [sys.executable, "-Xgil=0", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
        timeout=TIMEOUT,
    )
    best: dict[str, tuple[float, float]] = json.loads(done.stdout)
    return best


def print_times_by_threads(count: int) -> None:
    """Prints the seconds that the hits take in one thread, and in each of two: the best of many, in turns."""
    functions = {label: decorate(functools.partial(work)) for label, decorate in SHARED.items()}
    best = dict.fromkeys(functions, (float("inf"), float("inf")))
    for _ in range(THREADED_ROUNDS):
        for label, function in functions.items():
            alone, together = best[label]
            best[label] = min(alone, hitting(function, count, 1)), min(together, hitting(function, count, 2))
    print(json.dumps(best))


def hitting(function: Function, count: int, threads: int) -> float:
    """Returns the seconds from the first thread's start to the last one's end."""
    begin = threading.Barrier(threads)
    spans: list[tuple[float, float]] = []

    def hit(key: str) -> None:
        function(key)
        begin.wait()
        start = time.perf_counter()
        for _ in itertools.repeat(None, count):
            function(key)
        spans.append((start, time.perf_counter()))

    running = [threading.Thread(target=hit, args=(f"key {number}",)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


THREADED_ROUNDS = 10
SHARED: Mapping[str, Callable[[Function], Function]] = {
    "ferrule": cached(maxsize=MAXSIZE),
    "ferrule, with a ttl": cached(maxsize=MAXSIZE, ttl=TTL),
    "ferrule lru_cache": lru_cache(maxsize=MAXSIZE),
    FUNCTOOLS: functools.lru_cache(maxsize=MAXSIZE),
}


# Who keeps the right entries.


def hit_rate(name: str, length: int) -> Figure:
    like, _ = TRACES[name]
    return Figure(
        id=f"hits_{name}",
        title=f"hits of {length:,} look-ups, {SIZE:,} entries: {like}",
        unit="%",
        ours="ferrule s3fifo",
        candidates={
            "ferrule lru": partial(hits_of_ferrule, name, length, "lru"),
            "ferrule lfu": partial(hits_of_ferrule, name, length, "lfu"),
            "ferrule fifo": partial(hits_of_ferrule, name, length, "fifo"),
            "ferrule s3fifo": partial(hits_of_ferrule, name, length, "s3fifo"),
            "theine": partial(hits_of_theine, name, length),
            "moka": partial(hits_of_moka, name, length),
            "cachetools LRUCache": partial(hits_of_cachetools, name, length, "LRUCache"),
            "cachetools LFUCache": partial(hits_of_cachetools, name, length, "LFUCache"),
            "the best there could be": lambda: best_possible(trace_of(name, length), SIZE),
        },
    )


@functools.lru_cache(len(TRACES))
def trace_of(name: str, length: int) -> list[int]:
    _, make = TRACES[name]
    return make(length)


def hits(trace: Sequence[int], get: Get, put: Put) -> float:
    """Looks every key up, puts in what is missing, and returns how many were there, in per cent. No value is `None`."""
    there = 0
    for key in trace:
        if get(key) is None:
            put(key, key)
        else:
            there += 1
    return there / len(trace) * 100


def hits_of_ferrule(name: str, length: int, policy: str) -> float:
    kept = ferrule_cache(SIZE, policy=policy)
    return hits(trace_of(name, length), kept.get, kept.set)


def hits_of_theine(name: str, length: int) -> float:
    kept = theine_object(SIZE)
    try:
        return hits(trace_of(name, length), lambda key: kept.get(key)[0], kept.set)
    finally:
        kept.close()


def hits_of_moka(name: str, length: int) -> float:
    kept = moka_object(SIZE)
    return hits(trace_of(name, length), kept.get, kept.set)


def hits_of_cachetools(name: str, length: int, policy: str) -> float:
    kept = getattr(require("cachetools"), policy)(SIZE)
    return hits(trace_of(name, length), kept.get, kept.__setitem__)

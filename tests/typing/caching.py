"""What mypy and basedpyright, both strict, must make of the caching room. Read by them, never run."""

from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from datetime import timedelta
from typing import Any, Literal, assert_type

import ferrule
from ferrule import Cache, CacheInfo, CacheStats, cache, cached, lru_cache


@cached
def plain(x: int, y: str = "") -> float:
    return x + len(y)


assert_type(plain(1, y="a"), float)
plain("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
plain(1, z=2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
assert_type(plain.cache_info(), CacheInfo)
assert_type(plain.cache_info().maxsize, int | None)
assert_type(plain.cache_stats(), CacheStats)
assert_type(plain.cache_stats().evictions, int)
assert_type(plain.cache_parameters(), dict[str, Any])
assert_type(plain.cache_invalidate(1, y="a"), bool)
plain.cache_peek(1)
plain.cache_refresh(1)
plain.cache_set(2.0, 1, y="a")
plain.cache_clear()
taken: Callable[[int], float] = plain


def gone(key: object, value: object, cause: str) -> None:
    del key, value, cause


def clock() -> float:
    return 0.0


def by_length(x: str) -> int:
    return len(x)


@cached(
    maxsize=None,
    ttl=timedelta(minutes=1),
    stale=30,
    ignore=("y",),
    typed=True,
    single_flight=False,
    cache_errors={KeyError: 5, OSError: timedelta(seconds=1)},
    policy="s3fifo",
    on_evict=gone,
    timer=clock,
)
def configured(x: int, y: object = None) -> bytes:
    del y
    return bytes(x)


assert_type(configured(1), bytes)


@cached(key=by_length)
def keyed(x: str) -> str:
    return x


assert_type(keyed("a"), str)
cached(policy="random")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
cached(ttl="a minute")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
cached(60)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]


@cached(ttl=60)
async def coroutine(x: int) -> str:
    return str(x)


async def asynchronous() -> None:
    assert_type(await coroutine(1), str)
    await coroutine("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert_type(coroutine.cache_info(), CacheInfo)


class Worker:
    @cached
    def method(self, x: int) -> str:
        return str(x)

    @cached(maxsize=10)
    def configured(self, x: int) -> str:
        return str(x)

    @cached
    async def coroutine(self, x: int) -> str:
        return str(x)

    @staticmethod
    @cached
    def static_inside(x: int) -> float:
        return float(x)

    @classmethod
    @cached
    def of_class(cls, x: int) -> int:
        return x

    @property
    @cached
    def value(self) -> int:
        return 1


worker = Worker()
assert_type(worker.method(1), str)
assert_type(worker.method.cache_info(), CacheInfo)
worker.method("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
assert_type(worker.configured(1), str)
# As for the other decorators: mypy takes a static method asked for on an instance for a method.
assert_type(worker.static_inside(1), float)  # type: ignore[call-arg]
assert_type(Worker.of_class(1), int)
assert_type(worker.value, int)
Worker.method.cache_invalidate(worker, 1)


async def method_of_coroutines() -> None:
    assert_type(await worker.coroutine(1), str)


@lru_cache
def recent(x: int) -> str:
    return str(x)


@lru_cache(maxsize=32, typed=True)
def recent_few(x: int) -> str:
    return str(x)


@lru_cache(None)
def unbounded(x: int) -> str:
    return str(x)


@cache
def everything(x: int) -> str:
    return str(x)


assert_type(recent(1), str)
assert_type(recent_few(1), str)
assert_type(unbounded(1), str)
assert_type(everything(1), str)
assert_type(everything.cache_info(), CacheInfo)
recent("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
everything("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def weigh(key: str, value: int) -> int:
    return len(key) + value


def evicted(
    key: str, value: int, cause: Literal["size", "expired", "replaced", "invalidated", "cleared", "collected"]
) -> None:
    del key, value, cause


kept: Cache[str, int] = Cache(maxsize=100, ttl=30, policy="lfu", weigher=weigh, on_evict=evicted, timer=clock)
mapping: MutableMapping[str, int] = kept
kept["a"] = 1
kept[1] = 1  # type: ignore[index] # pyright: ignore[reportArgumentType]
kept["a"] = "b"  # type: ignore[assignment] # pyright: ignore[reportArgumentType]
assert_type(kept["a"], int)
assert_type(kept.get("a"), int | None)
assert_type(kept.get("a", 0), int)
assert_type(kept.get("a", b""), int | bytes)
assert_type(kept.peek("a"), int | None)
assert_type(kept.pop("a"), int)
assert_type(kept.pop("a", None), int | None)
assert_type(kept.popitem(), tuple[str, int])
assert_type(kept.setdefault("a", 1), int)
assert_type(kept.get_or_set("a", lambda: 1), int)
kept.get_or_set("a", lambda: "b")  # type: ignore[arg-type, return-value] # pyright: ignore[reportArgumentType]
assert_type(kept.expire(), int)
assert_type(kept.stats(), CacheStats)
assert_type(kept.maxsize, int | None)
assert_type(iter(kept), Iterator[str])
assert_type(list(kept.values()), list[int])
assert_type(list(kept.items()), list[tuple[str, int]])
assert_type("a" in kept, bool)
assert_type(len(kept), int)
kept.set("a", 1, ttl=timedelta(seconds=1))
kept.update({"b": 2})
ferrule.caching.Cache(weak_values=True)
Cache(100, 30)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


async def number() -> int:
    return 1


async def asynchronous_mapping() -> None:
    assert_type(await kept.get_or_set_async("a", number), int)


@cached(cache=kept)
def shared(x: int) -> str:
    return str(x)


assert_type(shared(1), str)
running: Coroutine[Any, Any, str] = coroutine(1)

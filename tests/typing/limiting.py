"""What mypy and basedpyright, both strict, must make of the limiting room. Read by them, never run."""

from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any, assert_type

from ferrule import (
    AcquireTimeout,
    Decision,
    LimiterStats,
    RateLimited,
    RateLimiter,
    gather_bounded,
    rate_limited,
)

limit = RateLimiter(100, per=timedelta(seconds=1), burst=10, max_keys=1000)
assert_type(limit.try_acquire("key", n=2), bool)
assert_type(limit.check(("a", 1)), Decision)
assert_type(limit.check().retry_after, float)
assert_type(limit.stats(), LimiterStats)
limit.acquire(timeout=timedelta(seconds=1))
limit.try_acquire([])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
RateLimiter("100")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

with limit as entered:
    assert_type(entered, RateLimiter)
with limit.keyed("key"):
    pass


def user_of(user: str, *rest: object) -> str:
    del rest
    return user


@rate_limited(100, per=1.0, burst=1, key=user_of, wait=True)
def send(user: str, text: str) -> int:
    return len(user + text)


@rate_limited(limit, wait=False)
async def fetch(url: str) -> bytes:
    return url.encode()


assert_type(send("a", "b"), int)
send("a")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
running: Coroutine[Any, Any, bytes] = fetch("x")


class Api:
    @rate_limited(10)
    def get(self, path: str) -> bytes:
        return path.encode()


assert_type(Api().get("x"), bytes)


async def work(x: int) -> str:
    return str(x)


async def many() -> AsyncIterator[Coroutine[Any, Any, str]]:
    yield work(1)


async def main() -> None:
    await limit.acquire_async("key", 2, timeout=1)
    async with limit, limit.keyed(1):
        pass
    assert_type(await gather_bounded((work(x) for x in range(3)), limit=2), list[str])
    assert_type(await gather_bounded([work(1)], return_exceptions=True), list[str | BaseException])
    assert_type(await gather_bounded(many()), list[str])


def after(error: RateLimited) -> float:
    return error.retry_after


late: TimeoutError = AcquireTimeout("late")

"""What mypy and basedpyright, both strict, must make of the retrying room. Read by them, never run."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any, assert_type

from ferrule import Attempt, CircuitBreaker, CircuitOpen, Retry, RetryBudget, RetryStats, retry
from ferrule.retrying import RetryBlock
from ferrule.testing import no_sleep


@retry
def plain(x: int, y: str = "") -> float:
    return x + len(y)


assert_type(plain(1, y="a"), float)
assert_type(plain.retry_stats(), RetryStats)
assert_type(plain.with_policy(max_attempts=1)(1), float)
plain.with_policy(Retry())("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
plain("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
plain(1, z=2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
plain.with_policy(tries=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
taken: Callable[[int], float] = plain


def retry_after(attempt: int, error: Any) -> datetime:
    del attempt, error
    return datetime.now().astimezone()


def hear(attempt: Attempt) -> None:
    assert_type(attempt.error, BaseException | None)
    assert_type(attempt.delay, float | None)


@retry(
    on=(ConnectionError, TimeoutError),
    retry_if=lambda error: "busy" in str(error),
    max_attempts=None,
    delay=retry_after,
    backoff=2,
    max_delay=timedelta(minutes=1),
    jitter="decorrelated",
    timeout=timedelta(seconds=45),
    attempt_timeout=5,
    retry_result=lambda value: value is None,
    budget=RetryBudget(ratio=0.1, min_per_second=10),
    stop_event=threading.Event(),
    on_retry=hear,
    on_give_up=hear,
)
async def coroutine(x: int) -> str:
    return str(x)


running: Coroutine[Any, Any, str] = coroutine(1)
retry(jitter="half")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]

policy = Retry(on=OSError, stop_event=asyncio.Event())
assert_type(policy.next_delay(1), float)
assert_type(policy.replace(delay=1), Retry)
assert_type(policy.max_attempts, int | None)
assert_type(retry(policy), Retry)


@policy
def by_policy(x: int) -> str:
    return str(x)


assert_type(by_policy(1), str)
assert_type(policy.call(by_policy, 1), str)
policy.call(by_policy, "a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def main() -> None:
    assert_type(await coroutine(1), str)
    assert_type(await policy.call_async(coroutine, 1), str)
    async for attempt in policy:
        assert_type(attempt, RetryBlock)
        async with attempt:
            assert_type(attempt.number, int)


for each in policy:
    with each as entered:
        assert_type(entered.elapsed, float)


@retry(restart=True)
def generator(n: int) -> Iterator[int]:
    yield from range(n)


assert_type(generator(3), Iterator[int])


@retry(restart=True)
async def async_generator(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


assert_type(async_generator(3), AsyncIterator[int])


class Client:
    @retry
    def fetch(self, url: str) -> bytes:
        return url.encode()

    @retry(max_attempts=2)
    async def fetch_async(self, url: str) -> bytes:
        return url.encode()

    @staticmethod
    @retry
    def static(x: int) -> str:
        return str(x)

    @classmethod
    @retry
    def made(cls, x: int) -> str:
        return cls.__name__ * x


client = Client()
assert_type(client.fetch("x"), bytes)
assert_type(client.fetch.with_policy(max_attempts=1)("x"), bytes)
assert_type(client.fetch.retry_stats(), RetryStats)
# On the class itself mypy takes a method for a class method, and a static method for a method; pyright does not.
assert_type(Client.fetch(client, "x"), bytes)  # type: ignore[arg-type, call-arg]
assert_type(Client.static(1), str)  # type: ignore[call-arg]
assert_type(Client.made(1), str)
client.fetch(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

breaker = CircuitBreaker(failure_threshold=5, window=60, recovery_timeout=timedelta(seconds=30), on=OSError)


@breaker
def guarded(x: int) -> str:
    return str(x)


@breaker
async def guarded_coroutine(x: int) -> str:
    return str(x)


assert_type(guarded(1), str)
with breaker:
    assert breaker.state in {"closed", "open", "half-open"}


def seconds(error: CircuitOpen) -> float:
    return error.retry_after


with no_sleep() as delays:
    assert_type(delays, list[float])

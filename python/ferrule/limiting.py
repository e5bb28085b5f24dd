"""So many in so much time, or so many at once: for functions, blocks, threads and event loops alike.

`RateLimiter` is the limit, `rate_limited` puts one on a function, and `gather_bounded` awaits many coroutines, a few at
a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterable, AsyncIterator, Collection
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar, cast, overload

from ferrule import _core
from ferrule._checking import positive_integer, shown
from ferrule._errors import AcquireTimeout, RateLimited
from ferrule._kinds import first_step, is_method_object, kind_of

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Generator,
        Hashable,
        Iterable,
        Iterator,
    )
    from datetime import timedelta
    from typing import Protocol, Self

    class _Decorator(Protocol):
        def __call__(self, function: F, /) -> F: ...


__all__ = [
    "AcquireTimeout",
    "Decision",
    "KeyedLimit",
    "LimiterStats",
    "RateLimited",
    "RateLimiter",
    "gather_bounded",
    "rate_limited",
]

F = TypeVar("F", bound="Callable[..., Any]")
T = TypeVar("T")

_NANOSECONDS: Final = 1e9
_MAX_KEYS: Final = 1_000_000


class Decision(NamedTuple):
    """What a limit would say just now; true when the call would be allowed.

    `retry_after` are the seconds until it would be, 0.0 where it is; `remaining` says how many tokens there are.
    """

    allowed: bool
    retry_after: float
    remaining: int

    def __bool__(self) -> bool:
        return self.allowed


class LimiterStats(NamedTuple):
    """How a limiter stands.

    `keys` are the keys known, `max_keys` at most; `forgotten` counts the keys that had to be forgotten before their
    buckets were full again, because the table was; `waiting` are the threads and tasks that wait without a key.
    """

    keys: int
    forgotten: int
    waiting: int


class RateLimiter(_core.Limiter):
    """Lets so many through in so much time, threads and event loops alike, for all together or for each key.

    >>> from ferrule import RateLimiter
    >>> limit = RateLimiter(2, per=1.0, burst=2)
    >>> [limit.try_acquire() for _ in range(3)]
    [True, True, False]
    >>> limit.try_acquire("alice"), limit.check("bob").remaining
    (True, 2)

    It is a token bucket of `burst` tokens, of which `rate` come back every `per` seconds, one after the other and not
    in a heap; it starts full. One object serves any number of threads and event loops. Those who wait are served first
    come, first served, without polling: one timer runs, for the first in line. While somebody waits for a bucket,
    nobody who comes later takes from it. With a `key` (anything hashable) each key has a bucket of its own.

    Args:
        rate: How many are let through every `per` seconds; need not be whole.
        per: Seconds, or a `timedelta`.
        burst: How many may come at once after a pause, 1 or more. With 1 they come evenly, at `per / rate` seconds one
            after the other at least, and a wait that ends late is lost; a hundredth of the rate makes up for that.
        max_keys: How many keys are known at most, 1 or more. Keys whose buckets are full again are forgotten in
            passing; a table that is full of others forgets the key that is nearest to it, and `stats().forgotten`
            counts that.

    Raises:
        TypeError, ValueError: If an argument is not what it may be.

    The algorithm is GCRA, the generic cell rate algorithm (ITU-T I.371): one number for each bucket.
    """

    rate: float
    per: float

    def __new__(cls, rate: float, *, per: float | timedelta = 1.0, burst: int = 1, max_keys: int = 1_000_000) -> Self:
        """Make a limiter whose buckets are full."""
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise TypeError(f"rate must be a number, not {shown(rate)}")
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be a finite number above 0, got {rate!r}")
        seconds = _core.seconds_from("per", per)
        if not 0 < seconds < math.inf:
            raise ValueError(f"per must be more than 0 seconds and finite, got {per!r}")
        positive_integer("burst", burst)
        positive_integer("max_keys", max_keys)
        interval = seconds / rate * _NANOSECONDS
        if not _core.Limiter.countable(interval, burst):
            raise ValueError(
                "rate, per and burst must give at most 16 a nanosecond, and a bucket that fills within nine years, "
                f"got rate={rate!r}, per={per!r}, burst={burst!r}"
            )
        limiter = super().__new__(cls, interval=interval, burst=burst, max_keys=max_keys)
        vars(limiter).update(rate=rate, per=seconds)
        return limiter

    async def acquire_async(
        self,
        key: Hashable = None,
        n: int = 1,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - the line keeps it
    ) -> None:
        """Take `n` tokens, or wait for them in this task's event loop.

        Args:
            key: Whose bucket; `None` is everybody's.
            n: How many tokens, `burst` at most.
            timeout: How long to wait, in seconds or as a `timedelta`; `None` for ever, 0 not at all.

        Raises:
            AcquireTimeout: If they were not there in time; at once, where it is known that they won't be.
            TypeError, ValueError: If an argument is not what it may be.
            asyncio.CancelledError: If the task is cancelled; it takes nothing then, and the next moves up.
        """
        if timeout is None and self.try_acquire(key, n):
            return
        from asyncio import get_running_loop

        standing = self.stand(get_running_loop(), key, n, timeout)
        if standing is None:
            return
        try:
            while not standing.step():
                await cast("Awaitable[None]", standing.future)
        except BaseException:
            standing.leave()
            raise

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    def keyed(self, key: Hashable) -> KeyedLimit:
        """Return the limit of one key: for `with limit.keyed(key):` and `async with limit.keyed(key):`.

        Args:
            key: Whose bucket.

        Raises:
            TypeError: If it isn't hashable.
        """
        hash(key)
        return KeyedLimit(self, key)

    def stats(self) -> LimiterStats:
        """Return how the limiter stands."""
        return LimiterStats(*self.counts())

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.rate!r}, per={self.per!r}, burst={self.burst!r}, max_keys={self.max_keys!r})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        # In another process it is another limiter, and its buckets are full.
        return (_new_limiter, (type(self), self.rate, self.per, self.burst, self.max_keys))


def _new_limiter(cls: type[RateLimiter], rate: float, per: float, burst: int, max_keys: int) -> RateLimiter:
    return cls(rate, per=per, burst=burst, max_keys=max_keys)


class KeyedLimit:
    """The limit of one key, as a block: entering it takes a token, or waits for one."""

    __slots__ = ("key", "limiter")

    def __init__(self, limiter: RateLimiter, key: Hashable) -> None:
        self.limiter = limiter
        self.key = key

    def __enter__(self) -> Self:
        self.limiter.acquire(self.key)
        return self

    def __exit__(self, *error: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        await self.limiter.acquire_async(self.key)
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


# -- functions --------------------------------------------------------------------------------------------------------


def rate_limited(
    rate: float | RateLimiter,
    per: float | timedelta = 1.0,
    *,
    burst: int = 1,
    key: Callable[..., Hashable] | None = None,
    wait: bool = True,
    timeout: float | timedelta | None = None,
    max_keys: int = 1_000_000,
) -> _Decorator:
    """Let a function be called so often in so much time.

    >>> from ferrule import RateLimited, rate_limited
    >>> @rate_limited(10, per=60, burst=2, key=lambda user, *_: user, wait=False)
    ... def send(user, text):
    ...     return f"{text}, {user}"
    >>> send("alice", "hello"), send("alice", "again"), send("bob", "hello")
    ('hello, alice', 'again, alice', 'hello, bob')
    >>> try:
    ...     send("alice", "and again")
    ... except RateLimited as error:
    ...     print(error)
    the rate limit is used up; there is room again in 6 s

    It takes functions, methods, coroutine functions, which wait in their own event loop, and generator functions, which
    wait before their first item. Calls that wait are served first come, first served.

    Args:
        rate: How many calls every `per` seconds; or a `RateLimiter`, to be shared with others.
        per: Seconds, or a `timedelta`.
        burst: How many calls may come at once after a pause.
        key: A function of the call's arguments that tells whose limit it is; `None` has one limit for all calls.
        wait: Whether a call that comes too early waits; otherwise it raises `RateLimited`.
        timeout: How long a call waits at most, in seconds or as a `timedelta`; `None` for ever. Then it raises
            `AcquireTimeout`.
        max_keys: How many keys are known at most; see `RateLimiter`.

    Returns:
        The decorator. What it makes of a function has the limiter as its attribute `limiter`.

    Raises:
        TypeError, ValueError: If an argument is not what it may be.
    """
    if isinstance(rate, RateLimiter):
        if per != 1.0 or burst != 1 or max_keys != _MAX_KEYS:
            raise TypeError("per, burst and max_keys are the RateLimiter's own, where one is given")
        limiter = rate
    elif callable(rate):
        raise TypeError(f"rate_limited needs a rate: @rate_limited(100, per=1.0), not {shown(rate)}")
    else:
        limiter = RateLimiter(rate, per=per, burst=burst, max_keys=max_keys)
    if key is not None and (not callable(key) or kind_of(key) != "function"):
        raise TypeError(f"key must be a plain function of the call's arguments, not {shown(key)}")
    if not isinstance(wait, bool):
        raise TypeError(f"wait must be True or False, not {shown(wait)}")
    if timeout is not None:
        timeout = _core.seconds_from("timeout", timeout)
        if not wait:
            raise ValueError("timeout is for calls that wait, and wait is False")

    def decorate(function: F, /) -> F:
        return cast("F", _limited(function, limiter, key, wait, timeout))

    return decorate


def _limited(
    function: Any,
    limiter: RateLimiter,
    key: Callable[..., Hashable] | None,
    wait: bool,  # noqa: FBT001 - the face takes it by name
    timeout: float | None,
) -> Any:
    if is_method_object(function):
        return type(function)(_limited(function.__func__, limiter, key, wait, timeout))
    if not callable(function) or isinstance(function, type):
        hint = "; put @rate_limited below @property" if isinstance(function, property) else ""
        raise TypeError(f"rate_limited takes a function, not {shown(function)}{hint}")
    kind = kind_of(function)
    wrapper: Any
    if kind == "function":
        wrapper = _core.LimitedFunction(function, limiter, key, wait, timeout)
    else:
        shells = {
            "coroutine function": _coroutine_function,
            "generator function": _generator_function,
            "async generator function": _async_generator_function,
        }
        wrapper = _core.Shell(function, shells[kind](function, _Entrance(limiter, key, wait, timeout)))
    vars(wrapper)["limiter"] = limiter
    return wrapper


class _Entrance:
    """Where a call of a coroutine function or a generator function waits."""

    def __init__(
        self,
        limiter: RateLimiter,
        key: Callable[..., Hashable] | None,
        wait: bool,  # noqa: FBT001 - the face takes it by name
        timeout: float | None,
    ) -> None:
        self._limiter = limiter
        self._key = key
        self._wait = wait
        self._timeout = timeout

    def pass_by(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key = None if self._key is None else self._key(*args, **kwargs)
        if self._wait:
            self._limiter.acquire(key, timeout=self._timeout)
        elif not self._limiter.try_acquire(key):
            raise RateLimited(self._limiter.check(key).retry_after)

    async def pass_by_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key = None if self._key is None else self._key(*args, **kwargs)
        if self._limiter.try_acquire(key):
            return
        if not self._wait:
            raise RateLimited(self._limiter.check(key).retry_after)
        await self._limiter.acquire_async(key, timeout=self._timeout)


def _coroutine_function(function: Callable[..., Any], entrance: _Entrance) -> Callable[..., Any]:
    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> Any:
        await entrance.pass_by_async(args, kwargs)
        return await function(*args, **kwargs)

    return shell


def _generator_function(function: Callable[..., Any], entrance: _Entrance) -> Callable[..., Any]:
    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        entrance.pass_by(args, kwargs)
        return cast("Any", (yield from function(*args, **kwargs)))

    return shell


def _async_generator_function(function: Callable[..., Any], entrance: _Entrance) -> Callable[..., Any]:
    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        await entrance.pass_by_async(args, kwargs)
        # What `yield from` would do, if there were one for async generators (PEP 525 has none).
        generator = function(*args, **kwargs)
        step = first_step(generator)
        try:
            while True:
                item = await step
                try:
                    sent = yield item
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 - whatever comes is the generator's business
                    step = generator.athrow(error)
                else:
                    step = generator.asend(sent)
        except StopAsyncIteration:
            return

    return shell


# -- many at once -----------------------------------------------------------------------------------------------------


@overload
async def gather_bounded(
    coroutines: Iterable[Awaitable[T]] | AsyncIterable[Awaitable[T]],
    limit: int = 20,
    *,
    return_exceptions: Literal[False] = False,
) -> list[T]: ...
@overload
async def gather_bounded(
    coroutines: Iterable[Awaitable[T]] | AsyncIterable[Awaitable[T]], limit: int = 20, *, return_exceptions: bool
) -> list[T | BaseException]: ...
async def gather_bounded(
    coroutines: Iterable[Awaitable[Any]] | AsyncIterable[Awaitable[Any]],
    limit: int = 20,
    *,
    return_exceptions: bool = False,
) -> list[Any]:
    """Await many coroutines, a few at a time, and return their results in order.

    >>> import asyncio
    >>> from ferrule import gather_bounded
    >>> async def square(x):
    ...     return x * x
    >>> asyncio.run(gather_bounded((square(x) for x in range(5)), limit=2))
    [0, 1, 4, 9, 16]

    The coroutines are drawn one by one, each when there is room for it: of a generator's, at most `limit` exist at a
    time, be they ever so many. Each runs in a task of its own.

    Args:
        coroutines: Coroutines or other awaitables: an iterable of them, which may be an asynchronous one.
        limit: How many run at a time, 1 or more.
        return_exceptions: Whether exceptions are collected among the results, as `asyncio.gather` does it; otherwise
            the first one ends it.

    Returns:
        A list of the results, in the order of the coroutines.

    Raises:
        BaseException: The first exception that a coroutine raised, after all others have been cancelled and have ended.
        TypeError, ValueError: If an argument is not what it may be.
        asyncio.CancelledError: If the task is cancelled: so are the coroutines then.
    """
    positive_integer("limit", limit)
    if not isinstance(return_exceptions, bool):
        raise TypeError(f"return_exceptions must be True or False, not {shown(return_exceptions)}")
    drawn: AsyncIterator[Awaitable[Any]] | Iterator[Awaitable[Any]]
    if isinstance(coroutines, AsyncIterable):
        drawn = aiter(coroutines)
    else:
        try:
            drawn = iter(coroutines)
        except TypeError:
            raise TypeError(f"coroutines must be an iterable of awaitables, not {shown(coroutines)}") from None
    gathering = _Gathering(limit, return_exceptions)
    try:
        return await gathering.run(drawn)
    except BaseException:
        await gathering.cancel()
        raise
    finally:
        await _close(drawn, isinstance(coroutines, Collection))


class _Gathering:
    """What `gather_bounded` has under way."""

    def __init__(self, limit: int, return_exceptions: bool) -> None:  # noqa: FBT001 - the face takes it by name
        from asyncio import get_running_loop

        self._event_loop = get_running_loop()
        self._limit = limit
        self._return_exceptions = return_exceptions
        self._results: list[Any] = []
        self._running: dict[Task[Any], int] = {}
        # What the drawing waits for: room, the first error, or the end of all.
        self._change = self._event_loop.create_future()
        self._error: BaseException | None = None

    async def run(self, drawn: AsyncIterator[Awaitable[Any]] | Iterator[Awaitable[Any]]) -> list[Any]:
        while True:
            await self._until(self._limit - 1)
            try:
                awaitable = await anext(drawn) if isinstance(drawn, AsyncIterator) else next(drawn)
            except (StopIteration, StopAsyncIteration):
                break
            self._start(awaitable)
        await self._until(0)
        return self._results

    async def _until(self, most: int) -> None:
        """Wait until at most so many are running; raise the first error."""
        while self._error is None and len(self._running) > most:
            self._change = self._event_loop.create_future()
            await self._change
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                # The exception holds this frame, and the frame must not hold the exception.
                del error

    def _start(self, awaitable: Awaitable[Any]) -> None:
        from asyncio import ensure_future

        place = len(self._results)
        self._results.append(None)
        task: Task[Any] = ensure_future(awaitable)
        self._running[task] = place
        task.add_done_callback(self._ended)

    def _ended(self, task: Task[Any]) -> None:
        from asyncio import CancelledError

        place = self._running.pop(task, None)
        if place is None:
            return
        error = CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._results[place] = task.result()
        elif self._return_exceptions:
            self._results[place] = error
        elif self._error is None:
            self._error = error
        if not self._change.done():
            self._change.set_result(None)

    async def cancel(self) -> None:
        """Cancel all that run, and wait until they have ended."""
        from asyncio import gather

        running = list(self._running)
        self._running.clear()
        for task in running:
            task.cancel()
        await gather(*running, return_exceptions=True)


async def _close(drawn: Any, ready_made: bool) -> None:  # noqa: FBT001 - the face takes it by name
    """Close an iterator that need not have come to its end, and the coroutines that a list of them still holds."""
    if ready_made:
        for awaitable in drawn:
            if (close := getattr(awaitable, "close", None)) is not None:
                close()
    elif (aclose := getattr(drawn, "aclose", None)) is not None:
        await aclose()
    elif (close := getattr(drawn, "close", None)) is not None:
        close()

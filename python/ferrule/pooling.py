"""Resources that are dear to make, made once and lent: to threads and tasks, in the order in which they asked.

`ResourcePool` is the pool, `PoolStats` what it says of itself; `transaction` is the block that commits or rolls back.
"""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, cast, overload

from ferrule import _core
from ferrule._errors import FerruleError
from ferrule._kinds import kind_of
from ferrule._logging import logger_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from datetime import timedelta
    from types import CodeType, EllipsisType, ModuleType, TracebackType
    from typing import Literal, Protocol, TypeAlias

    Order: TypeAlias = Literal["lifo", "fifo"]

    class Backoff(Protocol):
        """What `create_backoff` has to be: `ferrule.Retry` is."""

        def next_delay(self, number: int, error: BaseException | None = None, previous: float | None = None) -> float:
            """Say how many seconds to wait after so many failures."""
            ...

    # A thread's identifier (0 while a waiter is on its way), a task's name and a reference to it, the seconds, and the
    # places, innermost first: a code object and the index of an instruction each.
    Holder: TypeAlias = tuple[int, str | None, Callable[[], Any] | None, float, list[tuple[CodeType, int]]]

__all__ = [
    "PoolClosed",
    "PoolExhausted",
    "PoolLeakWarning",
    "PoolStats",
    "PoolTimeout",
    "ResourcePool",
    "Transaction",
    "transaction",
]

T = TypeVar("T")
C = TypeVar("C")

# How many of those who have a resource a message names.
_NAMED: Final = 20

_CENTURY: Final = 3.2e9


class PoolTimeout(FerruleError, TimeoutError):  # noqa: N818 - it says what is wrong without the word
    """Nothing came free in time; the message names those who have the resources, and where they took them.

    `__cause__` is the exception that kept a resource from being made, where that was the reason.
    """


class PoolExhausted(FerruleError, RuntimeError):  # noqa: N818 - as above
    """More wait than `max_waiting` allows, or a pool of given resources has lost all of them."""


class PoolClosed(FerruleError, RuntimeError):  # noqa: N818 - as above
    """The pool is closed, or was closed while somebody waited."""


class PoolLeakWarning(RuntimeWarning):
    """Somebody has had a resource for longer than `leak_after`; the message has the stack that took it."""


class PoolStats(NamedTuple):
    """What a pool has and has done.

    Attributes:
        size: How many resources there are, those included that are just being made, reset or closed.
        idle: How many wait to be lent.
        in_use: How many are lent.
        waiting: How many threads and tasks wait for one.
        max_size: How many there may be.
        created: How many have been made.
        closed: How many have gone.
        failed: How many times making one has failed.
        acquired: How many times one has been lent.
        timeouts: How many threads and tasks have waited in vain.
        wait_seconds: How long all who had to wait have waited, together.
    """

    size: int
    idle: int
    in_use: int
    waiting: int
    max_size: int
    created: int
    closed: int
    failed: int
    acquired: int
    timeouts: int
    wait_seconds: float


class ResourcePool(_core.Pool[T]):
    """A bounded number of resources, made when they are needed, lent one at a time, and kept for the next.

    >>> import sqlite3
    >>> from functools import partial
    >>> from ferrule import ResourcePool
    >>> connect = partial(sqlite3.connect, ":memory:", check_same_thread=False)
    >>> pool = ResourcePool(connect, close=sqlite3.Connection.close)
    >>> with pool.lease() as connection:
    ...     connection.execute("SELECT 42").fetchone()
    (42,)
    >>> with pool as one, pool as another:
    ...     pool.stats().in_use
    2
    >>> pool.close()

    Whoever finds nothing idle makes a resource, if there may be one more, or else waits: threads and tasks stand in one
    line, and what comes back is handed to the first of them. Nobody overtakes.

    A block that ends with an exception leaves its resource in a state that nobody knows. It is `reset`, or, where there
    is no `reset`, closed. A pool of given resources (see `of`) keeps it.

    A failing `create` raises in the one who asked. Those who wait, and whom nobody else can give a resource, get the
    same exception; later ones wait for the next attempt, of which there is one at a time until one succeeds.

    After a fork the child has an empty pool: the parent's resources are forgotten, and neither closed nor released.

    Args:
        create: A function without arguments that makes a resource. Where it is a coroutine function the pool is for
            tasks: `check`, `reset` and `close` may be coroutine functions, too, and each resource belongs to the event
            loop that it was made in and is lent, checked and closed there alone. Where it is none it is called by the
            thread or task that needs the resource.
        max_size: How many resources there may be at most.
        min_idle: How many are made ahead, in the background, so that they wait for users and not the other way round.
        order: Which idle resource is lent: `"lifo"`, the one that came back last, or `"fifo"`, the first.
        check: Called with an idle resource before it is lent; if the result is false, or it raises, another is made in
            its place. `None` checks nothing.
        reset: Called with a resource that comes back; if it raises, the resource is closed. `None` does nothing.
        close: Called with a resource that goes. `None` lets go of the reference, and that's all.
        timeout: Seconds (or a `timedelta`) to wait for a resource; 0 doesn't wait, `None` waits for ever. A `create`
            that is no coroutine function is not cut short by it.
        max_waiting: How many may wait; one more gets `PoolExhausted` at once. `None` sets no limit.
        max_idle_time: Seconds (or a `timedelta`) after which an idle resource is closed, if there are more than
            `min_idle`; `None` for never.
        max_lifetime: Seconds (or a `timedelta`) after which a resource is replaced when it is not lent; `None` for
            never.
        lifetime_jitter: By which part of it a life may be shorter, from 0 to 1, so that what was made at the same time
            isn't replaced at the same time.
        create_backoff: How long to wait between attempts to make a resource while they fail: a `ferrule.Retry`, of
            which the delays alone count. The pool never gives up. `None` is `Retry(delay=0.1, max_delay=30)`.
        leak_after: Seconds (or a `timedelta`) after which a resource that has not come back causes a `PoolLeakWarning`
            with the stack that took it; keeping that stack costs about a microsecond a loan. `None` warns of nothing.
        name: A name for messages and statistics.

    Raises:
        TypeError, ValueError: If an argument is not what it may be.
    """

    __slots__ = ("_asynchronous", "_checks", "_closes", "_creates", "_resets", "_tasks")

    _asynchronous: bool
    _creates: Callable[[], Any] | None
    _checks: Callable[[Any], Any] | None
    _resets: Callable[[Any], Any] | None
    _closes: Callable[[Any], Any] | None
    _tasks: set[Task[None]]

    @overload
    def __new__(
        cls,
        create: Callable[[], Coroutine[Any, Any, T]],
        *,
        max_size: int = 10,
        min_idle: int = 0,
        order: Order = "lifo",
        check: Callable[[T], object] | None = None,
        reset: Callable[[T], object] | None = None,
        close: Callable[[T], object] | None = None,
        timeout: float | timedelta | None = 30.0,
        max_waiting: int | None = None,
        max_idle_time: float | timedelta | None = 600.0,
        max_lifetime: float | timedelta | None = 3600.0,
        lifetime_jitter: float = 0.1,
        create_backoff: Backoff | None = None,
        leak_after: float | timedelta | None = None,
        name: str | None = None,
    ) -> ResourcePool[T]: ...
    @overload
    def __new__(
        cls,
        create: Callable[[], T],
        *,
        max_size: int = 10,
        min_idle: int = 0,
        order: Order = "lifo",
        check: Callable[[T], object] | None = None,
        reset: Callable[[T], object] | None = None,
        close: Callable[[T], object] | None = None,
        timeout: float | timedelta | None = 30.0,
        max_waiting: int | None = None,
        max_idle_time: float | timedelta | None = 600.0,
        max_lifetime: float | timedelta | None = 3600.0,
        lifetime_jitter: float = 0.1,
        create_backoff: Backoff | None = None,
        leak_after: float | timedelta | None = None,
        name: str | None = None,
    ) -> ResourcePool[T]: ...
    def __new__(  # noqa: D102 - the class says it
        cls,
        create: Callable[[], Any],
        *,
        max_size: int = 10,
        min_idle: int = 0,
        order: Order = "lifo",
        check: Callable[[Any], object] | None = None,
        reset: Callable[[Any], object] | None = None,
        close: Callable[[Any], object] | None = None,
        timeout: float | timedelta | None = 30.0,
        max_waiting: int | None = None,
        max_idle_time: float | timedelta | None = 600.0,
        max_lifetime: float | timedelta | None = 3600.0,
        lifetime_jitter: float = 0.1,
        create_backoff: Backoff | None = None,
        leak_after: float | timedelta | None = None,
        name: str | None = None,
    ) -> Any:
        if not callable(create):
            raise TypeError(f"create must be callable without arguments, not {type(create).__name__}: {create!r}")
        kind = kind_of(create)
        if kind.endswith("generator function"):
            raise TypeError(f"create must be a function or a coroutine function, not a {kind}: {create!r}")
        asynchronous = kind == "coroutine function"
        if not asynchronous:
            _refuse_coroutine_functions(check=check, reset=reset, close=close)
        self = super().__new__(
            cls,
            create,
            None,
            max_size,
            min_idle,
            order,
            check,
            reset,
            close,
            timeout,
            max_waiting,
            max_idle_time,
            max_lifetime,
            lifetime_jitter,
            _backoff(create_backoff),
            leak_after,
            name,
            asynchronous,
        )
        self._keep(create, check, reset, close, asynchronous=asynchronous)
        if min_idle:
            self._begin(_running_loop() if asynchronous else None)
        return self

    @classmethod
    def of(
        cls,
        resources: Iterable[C],
        *,
        order: Order = "lifo",
        check: Callable[[C], object] | None = None,
        reset: Callable[[C], object] | None = None,
        close: Callable[[C], object] | None = None,
        timeout: float | timedelta | None = 30.0,
        max_waiting: int | None = None,
        leak_after: float | timedelta | None = None,
        name: str | None = None,
    ) -> ResourcePool[C]:
        """Make a pool of resources that are there already, and lend no others.

        >>> pool = ResourcePool.of(["conn1", "conn2"], order="fifo")
        >>> first = pool.acquire()
        >>> first
        'conn1'
        >>> pool.release(first)

        A resource that fails its `check` or its `reset` is closed and not replaced; when all have gone, whoever asks
        for one gets `PoolExhausted`. A block that ends with an exception gives its resource back like any other.

        Args:
            resources: The resources, each of them once.
            order: As for `ResourcePool`; at first they are idle in the order in which they are given: `"fifo"` lends
                the first of them first.
            check: As for `ResourcePool`.
            reset: As for `ResourcePool`.
            close: As for `ResourcePool`.
            timeout: As for `ResourcePool`.
            max_waiting: As for `ResourcePool`.
            leak_after: As for `ResourcePool`.
            name: As for `ResourcePool`.

        Raises:
            TypeError, ValueError: If an argument is not what it may be, if there are no resources, or one is there
                twice.
        """
        try:
            given = list(resources)
        except TypeError:
            kind = type(resources).__name__
            raise TypeError(f"resources must be a collection of resources, not {kind}: {resources!r}") from None
        if not given:
            raise ValueError("resources must hold one resource or more, got none")
        _refuse_coroutine_functions(check=check, reset=reset, close=close)
        self = super().__new__(
            cls,
            None,
            given,
            len(given),
            0,
            order,
            check,
            reset,
            close,
            timeout,
            max_waiting,
            None,
            None,
            0.0,
            _backoff(None),
            leak_after,
            name,
            False,
        )
        self._keep(None, check, reset, close, asynchronous=False)
        return cast("ResourcePool[C]", self)

    def _keep(self, create: Any, check: Any, reset: Any, close: Any, *, asynchronous: bool) -> None:
        self._asynchronous = asynchronous
        self._creates, self._checks, self._resets, self._closes = create, check, reset, close
        self._tasks = set()

    async def acquire_async(self, *, timeout: float | timedelta | EllipsisType | None = ...) -> T:  # noqa: ASYNC109 - the line keeps it
        """Take a resource, in a task; it is given back by `release_async`.

        Args:
            timeout: Seconds (or a `timedelta`) to wait; left out, the pool's own; 0 doesn't wait, `None` waits for
                ever.

        Returns:
            The resource.

        Raises:
            PoolTimeout: If none came free in time.
            PoolExhausted: If more wait already than `max_waiting` allows, or there will never be one.
            PoolClosed: If the pool is closed, or was closed meanwhile.
        """
        return cast("T", await self._travel(self._approach(timeout)))

    async def release_async(self, resource: T, /, *, discard: bool = False) -> None:
        """Give a resource back, in a task of the event loop that it was taken in.

        Args:
            resource: What `acquire_async` gave.
            discard: Have it closed, because it is broken or in a state that nobody knows.

        Raises:
            RuntimeError: If it is not this pool's, if it is not lent, or belongs to another event loop.
        """
        loan = self._find(resource)
        if loan is not None and not await self._give_back(*loan, not discard):
            # Somebody else was quicker.
            raise released_twice_error(self.name, resource)

    async def close_async(self, timeout: float | timedelta | EllipsisType | None = ...) -> None:  # noqa: ASYNC109 - as above
        """Close the pool, as `close` does, in a task.

        Args:
            timeout: Seconds (or a `timedelta`) to wait for what is lent; left out, the pool's own; 0 doesn't wait,
                `None` waits for ever.

        Raises:
            PoolTimeout: If something is still lent then; it is closed when it comes back.
        """
        asyncio = _asyncio()
        loop = asyncio.get_running_loop()
        closing: list[Task[None]] = []
        for slot, home in self._shut():
            if home is None or home is loop:
                # In tasks of their own: what interrupts this one doesn't keep the others open.
                closing.append(self._start(loop, self._close_slot(slot)))
            elif not self._close_elsewhere(home, slot):
                self._vacate(slot)
        if closing:
            await asyncio.wait(closing)
        approach = self._departure(loop, timeout)
        if approach is None:
            return
        try:
            await cast("Awaitable[None]", approach.future)
            approach.arrive()
        except BaseException:
            approach.leave()
            raise

    def stats(self) -> PoolStats:
        """Return what the pool has and has done."""
        sizes, counts, waited = self._figures()
        return PoolStats._make([*sizes, *counts, waited])

    def __repr__(self) -> str:
        """Return the name, and how many are in use and idle."""
        stats = self.stats()
        name = "" if self.name is None else f" {self.name!r}"
        state = "closed, " if self.closed else ""
        return f"<{type(self).__name__}{name}: {state}{stats.in_use} in use, {stats.idle} idle, max {stats.max_size}>"

    # What the native half asks for.

    def _start(self, loop: AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> Task[None]:
        task = loop.create_task(coroutine)
        # A loop holds its tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _elsewhere(self, loop: AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Have a loop of any thread do some work; tell whether it will."""
        try:
            if not loop.is_running():
                return False
            loop.call_soon_threadsafe(lambda: self._start(loop, work()))
        except RuntimeError:
            # Closed in this moment.
            return False
        return True

    def _close_elsewhere(self, loop: AbstractEventLoop, slot: int) -> bool:
        return self._elsewhere(loop, lambda: self._close_slot(slot))

    def _make_elsewhere(self, loop: AbstractEventLoop, slot: int) -> bool:
        return self._elsewhere(loop, lambda: self._make_ahead(loop, slot))

    # What tasks do.

    async def _travel(self, approach: _core.Approach) -> Any:
        """Get to a resource: wait for it, check it, make it, as it comes."""
        asyncio = _asyncio()
        loop = asyncio.get_running_loop()
        try:
            part: str = approach.board(loop, asyncio.current_task())
            while part != "lent":
                if part == "waits":
                    await cast("Awaitable[None]", approach.future)
                    part = approach.arrive()
                elif part == "checks":
                    part = approach.judged(await self._approve(approach.resource))
                elif part == "replaces":
                    await self._call_close(approach.resource)
                    part = approach.replaced()
                elif part == "makes":
                    part = await self._make(approach)
                else:
                    part = approach.board(loop, asyncio.current_task())
        except BaseException:
            slot = approach.leave()
            if slot is not None:
                self._start(loop, self._close_slot(slot))
            raise
        return approach.resource

    async def _approve(self, resource: Any) -> bool:
        check = self._checks
        try:
            return check is None or bool(await settled(check(resource)))
        except Exception as error:  # noqa: BLE001 - it stands for a no
            log_failure(self.name, "check", error)
            return False

    async def _make(self, approach: _core.Approach) -> Literal["lent"]:
        create = cast("Callable[[], Any]", self._creates)
        left = approach.left if self._asynchronous else None
        # A loop's own clock can wait for a century, and not much longer.
        limit = _asyncio().timeout(None if left is None or left > _CENTURY else left)
        try:
            async with limit:
                made = create()
                if self._asynchronous:
                    made = await made
                elif is_awaitable(made):
                    raise awaitable_error(made)  # noqa: TRY301 - a failure like any other
        except Exception as error:  # noqa: BLE001 - it is raised below
            cause = approach.failed(error)
            if limit.expired():
                raise approach.timed_out() from cause
            raise cause from cause.__cause__
        return approach.made(made)

    async def _make_ahead(self, loop: AbstractEventLoop, slot: int) -> None:
        """Make an idle resource, in the background."""
        create = cast("Callable[[], Any]", self._creates)
        try:
            made = await create()
        except Exception as error:  # noqa: BLE001 - the log hears of it, and the pool tries again
            self._failed(slot, error)
        except BaseException:
            self._vacate(slot)
            raise
        else:
            self._made(slot, made, loop)

    async def _call_close(self, resource: Any) -> None:
        close = self._closes
        try:
            if close is not None:
                await settled(close(resource))
        except Exception as error:  # noqa: BLE001 - it goes either way
            log_failure(self.name, "close", error)

    async def _close_slot(self, slot: int) -> None:
        """Close what is in a slot, and give the slot up."""
        try:
            resource = self._resource(slot)
            if resource is not None:
                await self._call_close(resource)
        finally:
            self._vacate(slot)

    async def _give_back(self, slot: int, serial: int, kept: bool) -> bool:  # noqa: FBT001 - internal
        """Take a loan back; false where it is none any more."""
        loop = _asyncio().get_running_loop()
        part = self._take_back(slot, serial, kept, loop)
        if part == "resets":
            reset = cast("Callable[[Any], Any]", self._resets)
            try:
                try:
                    await settled(reset(self._resource(slot)))
                except Exception as error:  # noqa: BLE001 - the resource is closed instead
                    log_failure(self.name, "reset", error)
                    kept = False
            except BaseException:
                # Interrupted: nobody knows in what state the resource is.
                self._start(loop, self._close_slot(slot))
                raise
            part = self._settle(slot, kept)
        if part == "closes":
            await self._close_slot(slot)
        return part != "lost"

    async def _enter(self, lease: _core.Lease[Any], approach: _core.Approach) -> Any:
        """Enter a lease."""
        resource = await self._travel(approach)
        try:
            lease.note_arrival(approach)
        except RuntimeError:
            # Entered twice at once, and this one came second.
            await self.release_async(resource)
            raise
        return resource

    async def _enter_short(self, lease: _core.Lease[Any], approach: _core.Approach, frame: Any) -> Any:
        """Enter the short form, `async with pool`."""
        resource = await self._enter(lease, approach)
        self._push_short(lease, frame)
        return resource

    async def _leave(self, loan: tuple[int, int] | None, kept: bool, failed: bool) -> None:  # noqa: FBT001 - internal
        """Leave a lease. A loan of the process that this one was forked from is that one's to give back."""
        if loan is not None and not await self._give_back(*loan, kept) and not failed:
            raise RuntimeError("the resource was released inside the block of its lease, which releases it at the end")


# -- what the pool is told --------------------------------------------------------------------------------------------


def _refuse_coroutine_functions(**callbacks: Any) -> None:
    for name, callback in callbacks.items():
        if callback is not None and kind_of(callback) == "coroutine function":
            raise TypeError(f"{name} must not be a coroutine function where create is none: {callback!r}")


@functools.cache
def _default_backoff() -> Backoff:
    from ferrule.retrying import Retry

    return Retry(delay=0.1, max_delay=30.0)


def _backoff(given: Any) -> Backoff:
    if given is None:
        return _default_backoff()
    if not callable(getattr(given, "next_delay", None)):
        raise TypeError(f"create_backoff must be a Retry or None, not {type(given).__name__}: {given!r}")
    return cast("Backoff", given)


def _asyncio() -> ModuleType:
    # Not imported with this module, because it takes longer than all of ferrule, nor by a statement in each coroutine,
    # which takes longer than lending does.
    return sys.modules.get("asyncio") or import_module("asyncio")


def _running_loop() -> AbstractEventLoop | None:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        return cast("AbstractEventLoop", asyncio.get_running_loop())
    except RuntimeError:
        return None


def is_awaitable(value: object) -> bool:
    """Tell whether a value can be awaited."""
    return hasattr(type(value), "__await__")


async def settled(value: Any) -> Any:
    """Await what a callback has returned, if that can be awaited."""
    return await value if is_awaitable(value) else value


# -- what the pool tells ----------------------------------------------------------------------------------------------


def _called(name: str | None) -> str:
    return "the pool" if name is None else f"the pool {name!r}"


_CONSEQUENCES: Final = {
    "check": "the resource is replaced",
    "close": "the resource is let go",
    "create": "it will be tried again",
    "create_backoff": "the next attempt is a second away",
    "reset": "the resource is closed",
}


def log_failure(name: str | None, what: str, error: BaseException) -> None:
    fields = {"ferrule_name": name, "callback": what}
    text = "%s: %s failed: %s"
    logger_of("pooling").warning(text, _called(name), what, _CONSEQUENCES[what], exc_info=error, extra=fields)


def closed_error(name: str | None) -> PoolClosed:
    return PoolClosed(f"{_called(name)} is closed")


def exhausted_error(name: str | None, waiting: int | None) -> PoolExhausted:
    if waiting is None:
        return PoolExhausted(f"{_called(name)} has lost all of its resources, and makes no others")
    return PoolExhausted(
        f"{_called(name)} has nothing to lend, and {waiting} wait already, as many as max_waiting allows"
    )


def stranger_error(name: str | None, resource: object) -> RuntimeError:
    return RuntimeError(f"this resource is not one of {_called(name)}, or has been closed meanwhile: {resource!r}")


def released_twice_error(name: str | None, resource: object) -> RuntimeError:
    return RuntimeError(f"this resource of {_called(name)} is not lent: it has been released already: {resource!r}")


def made_twice_error(resource: object) -> RuntimeError:
    return RuntimeError(f"create returned an object that the pool has already: {resource!r}")


def awaitable_error(made: Any) -> TypeError:
    close = getattr(made, "close", None)
    if type(made).__name__ == "coroutine" and close is not None:
        # Nobody is going to await it.
        close()
    return TypeError(
        f"create returned something to be awaited, and is no coroutine function: write `async def`, or give a"
        f" functools.partial of a coroutine function; got {made!r}"
    )


def _place(code: CodeType, lasti: int) -> tuple[str, int]:
    for start, end, line in code.co_lines():
        if start <= lasti < end and line is not None:
            return code.co_filename, line
    return code.co_filename, code.co_firstlineno


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"  # noqa: PLR2004 - beyond, no exponents


def _who(holder: Holder) -> str:
    import threading

    ident, task_name, task, _, _ = holder
    if ident == 0:
        return "a waiter who is just being woken"
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    if ident in names:
        thread = f"thread {names[ident]!r}"
    elif ident in sys._current_frames():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - one that threading doesn't know
        thread = f"thread {ident}"
    else:
        thread = f"thread {ident}, which has ended"
    if task_name is None:
        return thread
    running = task() if task is not None else None
    ended = "" if running is not None and not running.done() else ", which has ended"
    return f"task {task_name!r}{ended} (in {thread})"


def _described(holder: Holder) -> str:
    _, _, _, seconds, spots = holder
    where = ""
    if spots:
        code, lasti = spots[0]
        file, line = _place(code, lasti)
        where = f", taken in {code.co_qualname} ({file}:{line})"
    return f"{_who(holder)} for {_duration(seconds)}{where}"


def timeout_error(  # noqa: PLR0917 - asked by the native half
    name: str | None,
    seconds: float,
    holders: list[Holder],
    size: int,
    waiting: int,
    failures: int,
    error: BaseException | None,
    closed: bool,  # noqa: FBT001 - as above
) -> PoolTimeout:
    called = _called(name)
    if closed:
        begin = f"{called} is closed, and after {_duration(seconds)} {len(holders) or size} of its resources are out"
    elif seconds:
        begin = f"{called} had nothing to lend within {_duration(seconds)}: {len(holders)} of {size} are in use"
    else:
        begin = f"{called} has nothing to lend: {len(holders)} of {size} are in use"
    if waiting:
        begin += f", {waiting} wait"
    lines = [begin]
    ranked = sorted(holders, key=lambda holder: -holder[3])
    lines += [f"  by {_described(holder)}" for holder in ranked[:_NAMED]]
    if len(ranked) > _NAMED:
        lines.append(f"  and {len(ranked) - _NAMED} more")
    if failures:
        times = "once" if failures == 1 else f"{failures} times"
        lines.append(f"  making one has failed {times}, the last time with {error!r}")
    timeout = PoolTimeout("\n".join(lines))
    timeout.__cause__ = error
    return timeout


def warn_of_leak(name: str | None, holder: Holder) -> None:
    import linecache
    import warnings

    _, _, _, seconds, spots = holder
    lines = [
        f"{_called(name)} has not got a resource back from {_who(holder)} for {_duration(seconds)}; it was taken here:"
    ]
    for code, lasti in reversed(spots):
        file, number = _place(code, lasti)
        lines.append(f'  File "{file}", line {number}, in {code.co_name}')
        text = linecache.getline(file, number).strip()
        if text:
            lines.append(f"    {text}")
    file, number = _place(*spots[0]) if spots else ("<unknown>", 0)
    warnings.warn_explicit("\n".join(lines), PoolLeakWarning, file, number)


# -- transactions -----------------------------------------------------------------------------------------------------


class Transaction(Generic[C]):
    """A block that commits when it ends, and rolls back when it raises; what `transaction` makes."""

    __slots__ = ("_connection", "_handle", "_statements")

    def __init__(self, connection: C) -> None:
        self._connection: Any = connection
        # Who commits and rolls back; `None` while the block doesn't run.
        self._handle: Any = None
        # Whether that is done by statements, because the connection's own methods do nothing in its mode.
        self._statements = False

    def __enter__(self) -> C:
        """Begin."""
        self._enter()
        try:
            for value in self._begin():
                _refuse_awaitable(value)
        except BaseException:
            self._over()
            raise
        return cast("C", self._connection)

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Commit, or roll back; the block's exception goes on as it is."""
        try:
            if error is None:
                try:
                    self._end("commit")
                except BaseException as failure:
                    self._roll_back(failure)
                    raise
            else:
                self._roll_back(error)
        finally:
            self._over()

    async def __aenter__(self) -> C:
        """Begin, on a connection for tasks."""
        self._enter()
        try:
            for value in self._begin():
                await settled(value)
        except BaseException:
            self._over()
            raise
        return cast("C", self._connection)

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Commit, or roll back; the block's exception goes on as it is."""
        try:
            if error is None:
                try:
                    await settled(self._end("commit"))
                except BaseException as failure:
                    await self._roll_back_async(failure)
                    raise
            else:
                await self._roll_back_async(error)
        finally:
            self._over()

    def _enter(self) -> None:
        if id(self._connection) in _open:
            raise RuntimeError(
                "this connection is in a transaction already, and the inner block would commit what the outer one may"
                " still roll back"
            )
        _open.add(id(self._connection))

    def _over(self) -> None:
        _open.discard(id(self._connection))
        self._handle = None

    def _begin(self) -> Iterable[Any]:
        """Begin in the connection's own way; give what is to be awaited where it can be."""
        connection = self._connection
        self._handle, self._statements = connection, False
        if not callable(getattr(connection, "commit", None)):
            # Not a connection of the DB-API: transactions are objects (asyncpg).
            self._handle = connection.transaction()
            yield self._handle.start()
        elif callable(getattr(connection, "begin", None)):
            yield connection.begin()
        elif _is_sqlite(connection) and getattr(connection, "autocommit", None) is not False:
            # Left to itself, sqlite3 begins before the first change, and in some modes not at all. (From 3.12 on it can
            # be told to have a transaction open at all times, and then it is left to itself.)
            if not connection.in_transaction:
                connection.execute("BEGIN")
            self._statements = True
        elif getattr(connection, "autocommit", False) is True:
            # `commit` and `rollback` do nothing then.
            self._statements = True
            yield self._execute("BEGIN")

    def _end(self, how: Literal["commit", "rollback"]) -> Any:
        if self._statements:
            return self._execute(how.upper())
        return getattr(self._handle, how)()

    def _execute(self, statement: str) -> Any:
        connection = self._connection
        if _is_sqlite(connection):
            # A statement that failed may have rolled everything back already.
            return connection.execute(statement) if connection.in_transaction else None
        if callable(getattr(connection, "execute", None)):
            return connection.execute(statement)
        cursor = connection.cursor()
        try:
            cursor.execute(statement)
        finally:
            cursor.close()
        return None

    def _roll_back(self, error: BaseException) -> None:
        try:
            self._end("rollback")
        except Exception as failure:  # noqa: BLE001 - the block's own exception is the one to be told
            error.add_note(f"rolling back failed, too: {failure!r}")

    async def _roll_back_async(self, error: BaseException) -> None:
        try:
            await settled(self._end("rollback"))
        except Exception as failure:  # noqa: BLE001 - as above
            error.add_note(f"rolling back failed, too: {failure!r}")


# The connections that are in a transaction of ours. They are alive as long as they are here.
_open: set[int] = set()


def _is_sqlite(connection: object) -> bool:
    sqlite3 = sys.modules.get("sqlite3")
    return sqlite3 is not None and isinstance(connection, sqlite3.Connection)


def _refuse_awaitable(value: Any) -> None:
    if type(value).__name__ == "coroutine":
        value.close()
        raise TypeError("this connection is for tasks: write `async with transaction(connection)`")


def transaction(connection: C) -> Transaction[C]:
    """Commit what a block does on a connection, or roll it back if it raises.

    >>> import sqlite3
    >>> from ferrule import transaction
    >>> connection = sqlite3.connect(":memory:")
    >>> with transaction(connection):
    ...     _ = connection.execute("CREATE TABLE numbers (number)")
    >>> with transaction(connection):
    ...     _ = connection.execute("INSERT INTO numbers VALUES (1)")
    ...     raise LookupError("one is not enough")
    Traceback (most recent call last):
        ...
    LookupError: one is not enough
    >>> connection.execute("SELECT count(*) FROM numbers").fetchone()
    (0,)
    >>> connection.close()

    The connection's `begin`, `commit` and `rollback` are called; without a `begin` it is left to the connection, as the
    DB-API has it, to begin with the first statement. A connection in autocommit mode gets the statements `BEGIN`,
    `COMMIT` and `ROLLBACK`, and so does one of sqlite3, which would begin too late. One whose transactions are objects
    (asyncpg's) is asked for one. For connections whose methods are to be awaited, write `async with`.

    Args:
        connection: The connection. It has to have `commit` and `rollback`, or `transaction`.

    Returns:
        A context manager that gives the connection. The block's exception comes out as it is; if rolling back fails,
        too, it says so in a note. A commit that fails is rolled back, and raised.

    Raises:
        TypeError: If it is no such connection.
        RuntimeError: When the block is entered, if the connection is in such a block already.
    """
    if not (
        (callable(getattr(connection, "commit", None)) and callable(getattr(connection, "rollback", None)))
        or callable(getattr(connection, "transaction", None))
    ):
        kind = type(connection).__name__
        raise TypeError(f"connection must have commit and rollback, or transaction, not {kind}: {connection!r}")
    return Transaction(connection)

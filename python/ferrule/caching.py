"""Results kept, so that they need not be computed again: for a time, up to a number, computed once at a time.

`cached` keeps a function's results, `Cache` is a bounded mapping; `lru_cache` and `cache` are drop-ins for functools'.
"""

from __future__ import annotations

import functools
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from contextvars import ContextVar, copy_context
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from ferrule import _core
from ferrule._kinds import is_method_object, kind_of
from ferrule._logging import logger_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta
    from typing import Concatenate, Literal, Self, TypeAlias

    Policy: TypeAlias = Literal["lru", "lfu", "fifo", "s3fifo"]
    Cause: TypeAlias = Literal["size", "expired", "replaced", "invalidated", "cleared", "collected"]
    Evicted: TypeAlias = Callable[[Any, Any, Cause], object]

__all__ = ["Cache", "CacheInfo", "CacheStats", "Cached", "cache", "cached", "lru_cache"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class CacheInfo(NamedTuple):
    """What `cache_info()` says, as functools has it."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class CacheStats(NamedTuple):
    """What a cache has done and holds.

    `weight` is the number of entries where there is no weigher; `bytes` is what the cache takes without the keys and
    values themselves.
    """

    hits: int
    misses: int
    evictions: int
    expirations: int
    maxsize: int | None
    currsize: int
    weight: int
    bytes: int


def stats_of(store: _core.Cache[Any, Any]) -> CacheStats:
    """Return the statistics of a native cache."""
    hits, misses, evictions, expirations, currsize, weight, size = store.figures()
    return CacheStats(hits, misses, evictions, expirations, store.maxsize, currsize, weight, size)


class Cached(Protocol[P, R_co]):
    """What `cached` makes of a function: the same function to its callers, and what is kept."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, or return what is kept for this call."""
        ...

    # In turn: on a class, its class method and its method; on an instance, a class method, a method and a static one.
    @overload
    def __get__(self: Cached[Concatenate[type[S], Q], T], instance: None, owner: type[S], /) -> Cached[Q, T]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self: Cached[Concatenate[type[S], Q], T], instance: S, owner: type[S], /) -> Cached[Q, T]: ...
    @overload
    def __get__(self: Cached[Concatenate[S, Q], T], instance: S, owner: type, /) -> Cached[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type, /) -> Self: ...

    def cache_info(self) -> CacheInfo:
        """Return hits, misses, maxsize and currsize."""
        ...

    def cache_stats(self) -> CacheStats:
        """Return everything there is to know."""
        ...

    def cache_parameters(self) -> dict[str, Any]:
        """Return what the decorator was told."""
        ...

    def cache_clear(self) -> None:
        """Drop all entries, and start the statistics over."""
        ...

    def cache_invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """Drop the entry of one call, however it is spelled; return whether there was one."""
        ...

    def cache_peek(self, *args: Any, **kwargs: Any) -> Any:
        """Return what is kept for one call, or `None`; it doesn't count as a use."""
        ...

    def cache_set(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        """Keep a value for one call."""
        ...

    def cache_refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Compute one call anew, whatever is kept, and keep the result."""
        ...


class Decorator(Protocol):
    """What `cached(...)` with arguments gives."""

    def __call__(self, function: Callable[P, R], /) -> Cached[P, R]:
        """Have the function's results kept."""
        ...


# -- stale entries ----------------------------------------------------------------------------------------------------


class _Refresher:
    """One thread for all functions, started when a stale entry is first found. Exit doesn't wait for it."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        self._jobs: Any = None

    def __call__(self, wrapper: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compute a call anew in the background, in the context of whoever found it stale."""
        jobs = self._jobs
        if jobs is None:
            import os
            import queue
            import threading

            if hasattr(os, "register_at_fork") and not hasattr(self, "_registered"):
                self._registered = True
                os.register_at_fork(after_in_child=self.start_afresh)
            jobs = self._jobs = queue.SimpleQueue[Any]()
            threading.Thread(target=self._work, args=(jobs,), name="ferrule refresher", daemon=True).start()
        jobs.put((copy_context(), wrapper, args, kwargs))

    @staticmethod
    def _work(jobs: Any) -> None:
        while True:
            context, wrapper, args, kwargs = jobs.get()
            try:
                context.run(wrapper.cache_refresh, *args, **kwargs)
            except BaseException:  # noqa: BLE001 - the old value stays, and the thread serves others
                _log_refresh(wrapper)
            del context, wrapper, args, kwargs


_refresh_in_thread = _Refresher()


def _log_refresh(wrapper: Any) -> None:
    name = getattr(wrapper, "__qualname__", repr(wrapper))
    fields = {"ferrule_name": name}
    text = "refreshing %s failed: the old value stays"
    logger_of("caching").warning(text, name, exc_info=True, extra=fields)


# -- keys -------------------------------------------------------------------------------------------------------------

_VARARGS = 0x4
_VARKEYWORDS = 0x8


def _parameters(function: Any) -> tuple[list[tuple[str, object, bool]], int, int, bool, bool] | None:
    """Return a function's parameters (name, default, has a default), and how arguments are bound to them.

    A Python function's are in its code. Importing inspect takes longer than all of ferrule: it is asked for all others.
    """
    while type(function) is not FunctionType and isinstance(function, _core.Wrapper):
        function = function.__wrapped__
    if type(function) is FunctionType:
        code = function.__code__
        positional = code.co_argcount
        names = code.co_varnames[: positional + code.co_kwonlyargcount]
        defaults: dict[str, object] = dict(function.__kwdefaults__ or {})
        values = function.__defaults__ or ()
        defaults.update(zip(names[positional - len(values) : positional], values, strict=True))
        return (
            [(name, defaults.get(name), name in defaults) for name in names],
            code.co_posonlyargcount,
            positional,
            bool(code.co_flags & _VARARGS),
            bool(code.co_flags & _VARKEYWORDS),
        )
    import inspect

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    found = [
        (parameter.name, parameter.default, parameter.default is not parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    only = kinds.count(inspect.Parameter.POSITIONAL_ONLY)
    positional = only + kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return (
        found,
        only,
        positional,
        inspect.Parameter.VAR_POSITIONAL in kinds,
        inspect.Parameter.VAR_KEYWORD in kinds,
    )


def _check_policy(policy: object) -> None:
    if not isinstance(policy, str):
        raise TypeError(f"policy must be a string, not {type(policy).__name__}: {policy!r}")


def _is_method(function: Any, names: list[str]) -> bool:
    """Tell a method by what is known when it is decorated: its name says class body, its parameter self or cls."""
    inner = function
    while not names and (inner := getattr(inner, "__wrapped__", None)) is not None:
        # Another decorator takes whatever comes: the function inside says what that is.
        code = getattr(inner, "__code__", None)
        names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    home = getattr(function, "__qualname__", "").rpartition(".")[0]
    return bool(home) and not home.endswith("<locals>") and bool(names) and names[0] in ("self", "cls")


class _Caching:
    """The arguments of one `cached(...)`, checked, and ready to be put on a function."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.own: dict[str, Any] = {name: given[name] for name in _DEFAULTS}
        shared = given["cache"]
        if shared is not None:
            if not isinstance(shared, Cache):
                raise TypeError(f"cache must be a ferrule.Cache, not {type(shared).__name__}: {shared!r}")
            told = [name for name, value in self.own.items() if value is not _DEFAULTS[name]]
            if told:
                raise TypeError(f"{', '.join(told)}: a cache of your own has its own; give them to Cache(...)")
        else:
            # Made for the check of the arguments alone: each function gets its own.
            self.store()
        for name in ("typed", "single_flight"):
            if not isinstance(given[name], bool):
                raise TypeError(f"{name} must be True or False, not {type(given[name]).__name__}: {given[name]!r}")
        if given["method"] not in (None, True, False):
            raise TypeError(f"method must be True, False or None, got {given['method']!r}")
        key = given["key"]
        if key is not None and not callable(key):
            raise TypeError(f"key must be callable with the call's arguments, not {type(key).__name__}: {key!r}")
        self.ignore = self._names(given["ignore"])
        if key is not None and self.ignore:
            raise TypeError("ignore: the key function decides already what a key is made of; give one of the two")
        self.errors = self._error_times(given["cache_errors"])

    @staticmethod
    def _names(ignore: Any) -> tuple[str, ...]:
        names: tuple[Any, ...] = (None,)
        if isinstance(ignore, Iterable) and not isinstance(ignore, str):
            names = tuple(cast("Any", ignore))
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"ignore must be a collection of parameter names, got {ignore!r}")
        return names

    @classmethod
    def _error_times(cls, errors: Any) -> list[tuple[type[Exception], int | None]]:
        if errors is None:
            return []
        if not isinstance(errors, Mapping):
            raise TypeError(f"cache_errors must map exception types to seconds, got {errors!r}")
        return [(kind, cls._error_time(kind, time)) for kind, time in cast("Any", errors).items()]

    @staticmethod
    def _error_time(kind: Any, time: Any) -> int | None:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"cache_errors must map exception types to seconds, got the key {kind!r}")
        seconds = _core.seconds_from("cache_errors", time)
        return None if seconds == float("inf") else round(seconds * 1e9)

    def store(self) -> _core.Cache[Any, Any]:
        own = self.own
        _check_policy(own["policy"])
        return _core.Cache(
            own["maxsize"], own["ttl"], own["stale"], own["policy"], None, own["on_evict"], False, own["timer"]
        )

    def __call__(self, function: Any) -> Any:
        if is_method_object(function):
            static = isinstance(function, staticmethod)
            inner = _Caching(**{**self.given, "method": False if static else self.given["method"]})
            return type(function)(inner(function.__func__))
        if isinstance(function, type) or not callable(function):
            hint = "; put @cached below @property" if isinstance(function, property) else ""
            what = "a class" if isinstance(function, type) else type(function).__name__
            raise TypeError(f"cached takes a function, not {what}: {function!r}{hint}")
        kind = kind_of(function)
        if kind.endswith("generator function"):
            raise TypeError(f"cached takes no {kind}: what it gives can be used only once. {function!r}")
        parameters = _parameters(function)
        names = [name for name, _, _ in parameters[0]] if parameters else []
        unknown = [name for name in self.ignore if name not in names]
        if unknown:
            known = ", ".join(names) or "none at all"
            raise ValueError(f"ignore: {function!r} has no parameter {unknown[0]!r}; it has {known}")
        method = self.given["method"]
        if method is None:
            method = _is_method(function, names)
        # Where the instance makes no difference, results don't go with it either.
        method = method and not (names and names[0] in self.ignore)
        native = None
        if parameters is not None:
            found, only, positional, rest, keywords = parameters
            described = [(name, _Some(default) if has else None, name in self.ignore) for name, default, has in found]
            native = (described, only, positional, rest, keywords)
        shared: Cache[Any, Any] | None = self.given["cache"]
        arguments: dict[str, Any] = {
            "cache": self.store() if shared is None else shared,
            "signature": native,
            "typed": self.given["typed"],
            "key": self.given["key"],
            "shared": shared is not None,
            "method": method,
            "single_flight": self.given["single_flight"],
            "errors": self.errors,
            "parameters": {name: value for name, value in self.given.items() if name != "method"},
        }
        if kind == "coroutine function":
            return _cached_coroutine_function(function, arguments)
        return _core.CachedFunction(function, **arguments, refresher=_refresh_in_thread)


class _Some(NamedTuple):
    """A default, which may be `None`."""

    value: object


_DEFAULTS: dict[str, Any] = {
    "maxsize": 1024,
    "ttl": None,
    "stale": None,
    "policy": "lru",
    "on_evict": None,
    "timer": None,
}


# -- coroutine functions ----------------------------------------------------------------------------------------------

# The flights that this task leads, or one that it descends from: to wait for one of them would be to wait for oneself.
leading: ContextVar[tuple[int, ...]] = ContextVar("ferrule_leading", default=())

_MISSING: Any = object()


async def _travel(  # noqa: C901, PLR0912 - one state machine, read in one piece
    caching: _core.CoroutineCaching,
    function: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Get to a value that isn't there: compute it for all who want it, or wait for the one who does."""
    from asyncio import current_task, get_running_loop

    task = current_task() or get_running_loop()
    while True:
        journey = caching.board(task, list(leading.get()), args, kwargs)
        if type(journey) is not _core.Journey:
            return journey
        while True:
            part = journey.part
            if part == "leads":
                token = leading.set((*leading.get(), journey.flight))
                try:
                    value = await function(*args, **kwargs)
                except Exception as error:
                    journey.crash(error)
                    raise
                except BaseException:
                    journey.leave()
                    raise
                finally:
                    leading.reset(token)
                journey.land(value)
                return value
            if part == "alone":
                return await function(*args, **kwargs)
            if part == "side":
                try:
                    value = await function(*args, **kwargs)
                except Exception as error:
                    caching.call_failed(error, args, kwargs)
                    raise
                caching.cache_set(value, *args, **kwargs)
                return value
            if part == "over":
                break
            loop = get_running_loop()
            future = loop.create_future()
            if journey.join(loop, future):
                try:
                    await future
                except BaseException:
                    journey.leave()
                    raise
                arrived, value = journey.arrive()
                if arrived:
                    return value


def _cached_coroutine_function(function: Any, arguments: dict[str, Any]) -> Any:
    refreshes: set[Any] = set()

    def refresh_in_task(_caching: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        from asyncio import get_running_loop

        # Held here, because an event loop holds its tasks weakly.
        task = get_running_loop().create_task(refresh(args, kwargs))
        refreshes.add(task)
        task.add_done_callback(refreshes.discard)

    async def refresh(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            await cache_refresh(*args, **kwargs)
        except Exception:  # noqa: BLE001 - the old value stays
            _log_refresh(wrapper)

    caching = _core.CoroutineCaching(function, **arguments, refresher=refresh_in_task)
    look, missing = caching.look, _MISSING

    async def shell(*args: Any, **kwargs: Any) -> Any:
        value = look(missing, args, kwargs)
        if value is missing:
            return await _travel(caching, function, args, kwargs)
        return value

    async def cache_refresh(*args: Any, **kwargs: Any) -> Any:
        try:
            value = await function(*args, **kwargs)
        except BaseException:
            caching.refresh_failed(args, kwargs)
            raise
        caching.cache_set(value, *args, **kwargs)
        return value

    wrapper = _core.Shell(function, shell)
    vars(wrapper).update({name: getattr(caching, name) for name in _OFFERS}, cache_refresh=cache_refresh)
    return wrapper


_OFFERS = (
    "cache_info",
    "cache_stats",
    "cache_parameters",
    "cache_clear",
    "cache_invalidate",
    "cache_peek",
    "cache_set",
)


# -- the decorators ---------------------------------------------------------------------------------------------------


@overload
def cached(function: Callable[P, R], /) -> Cached[P, R]: ...
@overload
def cached(
    function: None = None,
    /,
    *,
    maxsize: int | None = 1024,
    ttl: float | timedelta | None = None,
    stale: float | timedelta | None = None,
    key: Callable[..., object] | None = None,
    ignore: Iterable[str] = (),
    typed: bool = False,
    single_flight: bool = True,
    cache_errors: Mapping[type[Exception], float | timedelta] | None = None,
    policy: Policy = "lru",
    on_evict: Evicted | None = None,
    timer: Callable[[], float] | None = None,
    cache: Cache[Any, Any] | None = None,
    method: bool | None = None,
) -> Decorator: ...
def cached(
    function: Any = None,
    /,
    *,
    maxsize: int | None = 1024,
    ttl: float | timedelta | None = None,
    stale: float | timedelta | None = None,
    key: Callable[..., object] | None = None,
    ignore: Iterable[str] = (),
    typed: bool = False,
    single_flight: bool = True,
    cache_errors: Mapping[type[Exception], float | timedelta] | None = None,
    policy: Policy = "lru",
    on_evict: Evicted | None = None,
    timer: Callable[[], float] | None = None,
    cache: Cache[Any, Any] | None = None,
    method: bool | None = None,
) -> Any:
    """Keep a function's results, and compute each of them once, however many ask for it at the same time.

    >>> from ferrule import cached
    >>> @cached(ttl=60)
    ... def double(x, times=2):
    ...     return times * x
    >>> [double(2), double(2, 2), double(x=2, times=2)]
    [4, 4, 4]
    >>> double.cache_info()
    CacheInfo(hits=2, misses=1, maxsize=1024, currsize=1)
    >>> double.cache_invalidate(2)
    True

    Functions, coroutine functions, methods, static and class methods. Results are kept by parameter: however a call is
    spelled, and whether a default is left out, it is the same call. A method's results belong to the instance and go
    with it; `maxsize` bounds all instances together. An argument that can't be hashed is a `TypeError`, as in
    functools; `key` and `ignore` help.

    Args:
        function: The function. Left out, `cached(...)` is a decorator with arguments.
        maxsize: How many results are kept; `None` for no limit, 0 for none.
        ttl: Seconds (or a `timedelta`) that a result lives; `None` for ever. Read from a clock that may be 4 ms behind.
        stale: Seconds (or a `timedelta`) beyond `ttl` for which a result is still given out while it is computed anew:
            a function's by a thread of ferrule's, in the caller's context, a coroutine function's by a task of the
            loop. If that fails, the old result stays, and the failure is logged.
        key: Called with the arguments of a call, `self` included; what it returns is what the result is kept under.
        ignore: Names of parameters that make no difference.
        typed: Whether arguments of different types make different calls (`f(3)` and `f(3.0)`).
        single_flight: Whether those who ask for what is being computed wait for it, instead of computing it too. Where
            waiting would never end, because of a call inside a call, they compute.
        cache_errors: How long exceptions of these types are kept and raised again, in seconds. Others never are.
        policy: What goes when there is no room: `"lru"`, what was not used for longest; `"lfu"`, what was used least;
            `"fifo"`, what came first; `"s3fifo"`, which a scan through many keys doesn't flush (S3-FIFO).
        on_evict: Called with `(key, value, cause)` when a result has gone; `cause` is `"size"`, `"expired"`,
            `"replaced"`, `"invalidated"`, `"cleared"` or `"collected"`. What it raises goes to `sys.unraisablehook`.
        timer: Called for the time in seconds, instead of the monotonic clock.
        cache: A `Cache` that keeps the results, perhaps those of several functions.
        method: Whether it is a method; by default that is told by its name and its first parameter.

    Returns:
        The function, with `cache_info()`, `cache_stats()`, `cache_parameters()`, `cache_clear()`, and, each called like
        the function, `cache_invalidate`, `cache_peek`, `cache_refresh` and `cache_set(value, ...)`.

    Raises:
        TypeError: If an argument is of the wrong type, or the thing decorated is a class or a generator function.
        ValueError: If an argument makes no sense.
    """
    caching = _Caching(
        maxsize=maxsize,
        ttl=ttl,
        stale=stale,
        key=key,
        ignore=ignore,
        typed=typed,
        single_flight=single_flight,
        cache_errors=cache_errors,
        policy=policy,
        on_evict=on_evict,
        timer=timer,
        cache=cache,
        method=method,
    )
    return caching if function is None else caching(function)


class _SpellingDecorator(Protocol):
    def __call__(self, function: Callable[P, R], /) -> Cached[P, R]: ...


@overload
def lru_cache(maxsize: Callable[P, R], typed: bool = False) -> Cached[P, R]: ...  # noqa: FBT001, FBT002
@overload
def lru_cache(maxsize: int | None = 128, typed: bool = False) -> _SpellingDecorator: ...  # noqa: FBT001, FBT002
def lru_cache(maxsize: Any = 128, typed: bool = False) -> Any:  # noqa: FBT001, FBT002 - functools' signature
    """Keep a function's most recent results: a drop-in for `functools.lru_cache`, with its exact meaning.

    >>> from ferrule import lru_cache
    >>> @lru_cache(maxsize=32)
    ... def square(x):
    ...     return x * x
    >>> [square(3), square(3)]
    [9, 9]
    >>> square.cache_info()
    CacheInfo(hits=1, misses=1, maxsize=32, currsize=1)

    Calls are told apart by their spelling, and results computed side by side, as functools does it. `cached` does
    neither.

    Args:
        maxsize: How many results are kept; `None` for no limit. Or the function, for a decorator without arguments.
        typed: Whether arguments of different types make different calls.

    Raises:
        TypeError: If `maxsize` is neither an integer, nor callable, nor `None`.
    """
    if callable(maxsize) and isinstance(typed, bool):
        return _spelled(maxsize, 128, typed)
    if isinstance(maxsize, int):
        maxsize = max(int(maxsize), 0)
    elif maxsize is not None:
        raise TypeError("Expected first argument to be an integer, a callable, or None")
    return functools.partial(_spelled, maxsize=maxsize, typed=typed)


def cache(function: Callable[P, R], /) -> Cached[P, R]:
    """Keep all results of a function: a drop-in for `functools.cache`.

    >>> from ferrule import cache
    >>> @cache
    ... def factorial(n):
    ...     return n * factorial(n - 1) if n else 1
    >>> factorial(10)
    3628800

    Args:
        function: The function.
    """
    return cast("Cached[P, R]", _spelled(function, None, False))


def _spelled(function: Any, maxsize: int | None, typed: bool) -> Any:  # noqa: FBT001
    if not callable(function):
        raise TypeError("the first argument must be callable")
    store: _core.Cache[Any, Any] = _core.Cache(maxsize, None, None, "lru", None, None, False, None)
    told = {"maxsize": maxsize, "typed": typed}
    return _core.CachedFunction(function, store, None, bool(typed), None, False, False, False, [], None, told)


# -- the mapping ------------------------------------------------------------------------------------------------------


class Cache(_core.Cache[K, V], MutableMapping[K, V]):
    """A mapping that holds a limited number of entries, each for a limited time.

    >>> from ferrule import Cache
    >>> recent = Cache(maxsize=2)
    >>> recent["a"], recent["b"] = 1, 2
    >>> recent["a"]
    1
    >>> recent["c"] = 3
    >>> sorted(recent)
    ['a', 'c']
    >>> recent.get_or_set("d", lambda: 4)
    4

    All methods are safe in threads. Iteration raises a `RuntimeError` when entries come or go meanwhile.

    Args:
        maxsize: How many entries it holds, or what they weigh together where there is a weigher; `None` for no limit.
        ttl: Seconds (or a `timedelta`) that an entry lives; `None` for ever. Read from a clock that may be 4 ms behind.
        policy: What goes when there is no room: `"lru"`, `"lfu"`, `"fifo"` or `"s3fifo"`, as for `cached`.
        weigher: Called with `(key, value)` for an entry's weight, an integer that is not negative.
        on_evict: Called with `(key, value, cause)` when an entry has gone, as for `cached`.
        weak_values: Whether values are held weakly. A value that takes no weak reference is held strongly; one that has
            gone is missing.
        timer: Called for the time in seconds, instead of the monotonic clock.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument makes no sense; by `set`, if a value weighs more than the cache holds.
    """

    __slots__ = ("_told",)

    _told: dict[str, Any]

    def __new__(  # noqa: D102 - the class says it
        cls,
        maxsize: int | None = 1024,
        *,
        ttl: float | timedelta | None = None,
        policy: Policy = "lru",
        weigher: Callable[[K, V], int] | None = None,
        on_evict: Callable[[K, V, Cause], object] | None = None,
        weak_values: bool = False,
        timer: Callable[[], float] | None = None,
    ) -> Self:
        _check_policy(policy)
        if not isinstance(weak_values, bool):
            raise TypeError(f"weak_values must be True or False, not {type(weak_values).__name__}: {weak_values!r}")
        self = super().__new__(cls, maxsize, ttl, None, policy, weigher, on_evict, weak_values, timer)
        self._told = {
            "maxsize": maxsize,
            "ttl": ttl,
            "policy": policy,
            "weigher": weigher,
            "on_evict": on_evict,
            "weak_values": weak_values,
            "timer": timer,
        }
        return self

    def stats(self) -> CacheStats:
        """Return what the cache has done and holds."""
        return stats_of(self)

    async def get_or_set_async(self, key: K, coroutine_function: Callable[[], Awaitable[V]]) -> V:
        """Return the value for `key`; computed by `await coroutine_function()` where there is none, once at a time.

        Args:
            key: The key.
            coroutine_function: Called without arguments, if there is no value.
        """
        # The key is made of one argument, which is the key.
        caching = _core.CoroutineCaching(coroutine_function, self, None, False, _same, False, False, True, [], None, {})

        def compute(_key: K) -> Awaitable[V]:
            return coroutine_function()

        return cast("V", await _travel(caching, compute, (key,), {}))

    def items(self) -> ItemsView[K, V]:
        """Return a view of the entries; looking at them doesn't count as a use."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """Return a view of the values; looking at them doesn't count as a use."""
        return _Values(self)

    @overload
    def setdefault(self: Cache[K, D | None], key: K, default: None = None) -> D | None: ...
    @overload
    def setdefault(self, key: K, default: V) -> V: ...
    def setdefault(self, key: K, default: Any = None) -> Any:
        """Return the value for `key`; where there is none, `default`, which is kept."""
        return self.get_or_set(key, lambda: default)

    def __eq__(self, other: object) -> bool:
        """Compare with another mapping, entry by entry."""
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.entries()) == dict(cast("Any", other).items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return how it was set up, and what it holds."""
        told = ", ".join(
            # By name: what is called may be a method of an object that shows this cache in turn.
            f"{name}={getattr(value, '__qualname__', type(value).__qualname__) if callable(value) else repr(value)}"
            for name, value in self._told.items()
            if value != _CACHE_DEFAULTS[name]
        )
        return f"<Cache({told}) of {len(self)} entries>"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the settings and the entries that are good now; their times begin anew."""
        # As entries of a dictionary, so that the cache may be among its own values.
        return (_restore_cache, (type(self), self._told), None, None, iter(self.entries()))


_CACHE_DEFAULTS: dict[str, Any] = {
    "maxsize": 1024,
    "ttl": None,
    "policy": "lru",
    "weigher": None,
    "on_evict": None,
    "weak_values": False,
    "timer": None,
}


def _same(key: Any) -> Any:
    return key


def _restore_cache(cls: Any, told: dict[str, Any]) -> Any:
    return cls(**told)


class _Items(ItemsView[K, V]):
    """The entries of a cache, as they are when an iteration begins; looking at them doesn't count as a use."""

    _mapping: Cache[K, V]

    def __contains__(self, item: object) -> bool:
        pair: tuple[Any, ...] = cast("Any", item) if isinstance(item, tuple) else ()
        if len(pair) != 2:  # noqa: PLR2004 - a key and a value
            return False
        value: object = self._mapping.peek(pair[0], _MISSING)
        return value is not _MISSING and (value is pair[1] or bool(value == pair[1]))

    def __iter__(self) -> Iterator[tuple[K, V]]:
        # The keys' own iterator says so when something changes meanwhile.
        for _, entry in zip(self._mapping, self._mapping.entries(), strict=False):
            yield entry


class _Values(ValuesView[V]):
    """The values of a cache, as `_Items` has them."""

    _mapping: Cache[Any, V]

    def __contains__(self, value: object) -> bool:
        return any(kept is value or kept == value for kept in self)

    def __iter__(self) -> Iterator[V]:
        for _, value in _Items(self._mapping):
            yield value

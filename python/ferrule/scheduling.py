"""Tasks on threads, event loops and processes: one executor, and a scheduler on top of it.

`ThreadPoolExecutor` takes the place of the standard library's, and `TaskScheduler` runs tasks that have names,
priorities and dependencies by whichever strategy suits them.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import heapq
import itertools
import os
import queue
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures.thread import BrokenThreadPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar, cast

from ferrule import _core
from ferrule._checking import positive_integer, shown
from ferrule._errors import (
    DependencyCycle,
    DuplicateTask,
    ExecutorClosed,
    ExecutorFull,
    TaskTimeout,
    UnknownDependency,
    WorkerDied,
)
from ferrule._logging import logger_of
from ferrule._terms import View, is_interrupted, nanoseconds_of, policy_of, priority_of, timeout_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
    from datetime import timedelta
    from types import TracebackType
    from typing import ParamSpec

    from ferrule._processes import ProcessExecutorView, ProcessPoolExecutor, RemoteTraceback
    from ferrule.limiting import RateLimiter
    from ferrule.retrying import Retry
    from ferrule.timing import PerformanceMonitor

    P = ParamSpec("P")

__all__ = [
    "BrokenThreadPool",
    "DependencyCycle",
    "DuplicateTask",
    "ExecutorClosed",
    "ExecutorFull",
    "ExecutorStats",
    "ExecutorView",
    "Future",
    "ProcessExecutorView",
    "ProcessPoolExecutor",
    "RemoteTraceback",
    "TaskResult",
    "TaskResults",
    "TaskScheduler",
    "TaskTimeout",
    "ThreadPoolExecutor",
    "UnknownDependency",
    "WorkerDied",
]

T = TypeVar("T")

_NANOSECONDS: Final = 1_000_000_000


# What lives in a module of its own, which threads don't need.
_PROCESSES: Final = ("ProcessExecutorView", "ProcessPoolExecutor", "RemoteTraceback")


def __getattr__(name: str) -> object:
    if name not in _PROCESSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ferrule import _processes

    for each in _PROCESSES:
        globals()[each] = getattr(_processes, each)
    return globals()[name]


class Future(_core.FutureBase, concurrent.futures.Future[T]):
    """The result of a call that is still to come: the standard library's future, for a tenth of its cost.

    >>> from ferrule import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(max_workers=1) as executor:
    ...     future = executor.submit(pow, 2, 10)
    >>> future.result(), future.done()
    (1024, True)

    It is a `concurrent.futures.Future`, for `wait`, `as_completed` and `asyncio.wrap_future` as for `isinstance`; what
    they need beyond a state and a result comes into being when they ask for it. It can't be pickled or copied.
    """

    def __init__(self) -> None:  # pyright: ignore[reportMissingSuperCall]
        # The standard library's would make a condition and two lists.
        pass

    if TYPE_CHECKING:

        def result(self, timeout: float | timedelta | None = None) -> T:  # noqa: D102 - as it is there
            ...


# -- threads ----------------------------------------------------------------------------------------------------------


class ExecutorStats(NamedTuple):
    """How an executor stands.

    `workers` are its threads, `idle` those that have nothing to do, `pending` the tasks that wait, and `abandoned` the
    threads that go on with a task which has taken too long.
    """

    workers: int
    idle: int
    pending: int
    abandoned: int


class _Recruiter:
    """Starts a crew's threads. It knows nothing of the executor: threads must not keep that alive."""

    __slots__ = ("count", "drains", "prefix")

    def __init__(self, prefix: str, *, drains: bool) -> None:
        self.prefix = prefix
        self.drains = drains
        self.count = itertools.count()

    def __call__(self, crew: _core.Crew, task: Literal["work", "watch"]) -> None:
        # Daemons, so that a task which can't be ended ends with the process; `_at_exit` waits for the others.
        if task == "watch":
            threading.Thread(target=crew.watch, name=f"{self.prefix}_watch", daemon=True).start()
            return
        thread = threading.Thread(target=crew.work, name=f"{self.prefix}_{next(self.count)}", daemon=True)
        crew.threads.add(thread)
        _crews[crew] = self
        try:
            thread.start()
        except BaseException:
            crew.threads.discard(thread)
            raise


_crews: weakref.WeakKeyDictionary[_core.Crew, _Recruiter] = weakref.WeakKeyDictionary()
_numbers = itertools.count()
_ERRORS: Final = (BrokenThreadPool, ExecutorClosed, ExecutorFull, TaskTimeout)


def _at_exit() -> None:
    """Ends the executors before the interpreter does: what is queued is still done, unless Ctrl-C ends the program."""
    _core.Crew.close_all()
    interrupted = is_interrupted()
    crews = list(_crews.items())
    for crew, recruiter in crews:
        crew.close(cancel=interrupted or not recruiter.drains)
    if interrupted:
        return
    for crew, _ in crews:
        _join(crew)


def _join(crew: _core.Crew) -> None:
    crew.wait()
    for thread in list(crew.threads):
        if thread is not threading.current_thread():
            thread.join()


try:
    # Before the interpreter joins its own threads, as the standard library's executors do.
    threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001
except (AttributeError, RuntimeError):  # pragma: no cover - the interpreter ends already
    import atexit

    atexit.register(_at_exit)


class _Terms(NamedTuple):
    priority: int = 0
    timeout: float | None = None
    retry: Retry | None = None

    def nanoseconds(self) -> int | None:
        return nanoseconds_of(self.timeout)


_PLAIN: Final = _Terms()


class ThreadPoolExecutor(_core.ThreadPool, concurrent.futures.Executor):
    """Runs calls on threads: the standard library's executor, several times faster, and with an end to its traps.

    >>> from ferrule import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(max_workers=4) as executor:
    ...     future = executor.submit(pow, 2, 10)
    ...     squares = list(executor.map(lambda x: x * x, range(5)))
    ...     urgent = executor.options(priority=-1, timeout=2.0).submit(sum, [1, 2, 3])
    >>> future.result(), squares, urgent.result()
    (1024, [0, 1, 4, 9, 16], 6)

    It takes what `concurrent.futures.ThreadPoolExecutor` takes, and means the same. Beyond that: context variables
    travel with a call; a task that waits for another task of the same executor runs it itself while it is still queued,
    instead of waiting for a thread that never comes; Ctrl-C ends every wait, and the program; a forked child has
    threads of its own, when it needs some, and an empty queue.

    Args:
        max_workers: How many threads there are at most, 1 or more. `None` is as many as there are processors, and 4,
            but no more than 32.
        thread_name_prefix: What their names begin with.
        initializer: Called by each thread before anything else. If it raises, the executor is broken.
        initargs: Its arguments.
        max_pending: How many tasks may wait in the queue; `None` sets no limit.
        when_full: What a submission beyond that does: `"block"` waits for room, `"raise"` raises `ExecutorFull`. A task
            that finds its own executor full runs what it submits itself. `submit_async` awaits room in either case.
        on_exit: What happens to tasks that wait when the `with` block, or the program, comes to its end: `"drain"` does
            them, `"cancel"` cancels them. When an exception leaves the block they are cancelled in any case; when it is
            one that ends programs, Ctrl-C for instance, running tasks are not waited for, either.

    Raises:
        TypeError, ValueError: If an argument is not what it may be.

    Priorities are standings: the time of submission, plus a second for each step of priority, so that no task starves.
    """

    _max_workers: int
    _thread_name_prefix: str
    _recruiter: _Recruiter

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_pending: int | None = None,
        when_full: Literal["block", "raise"] = "block",
        on_exit: Literal["drain", "cancel"] = "drain",
    ) -> None:
        if max_workers is None:
            count = getattr(os, "process_cpu_count", os.cpu_count)()
            max_workers = min(32, (count or 1) + 4)
        elif isinstance(max_workers, int) and max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, got {max_workers!r}")
        max_workers = positive_integer("max_workers", max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {shown(initializer)}")
        if max_pending is not None:
            positive_integer("max_pending", max_pending)
        if when_full not in {"block", "raise"}:
            raise ValueError(f"when_full must be 'block' or 'raise', got {when_full!r}")
        if on_exit not in {"drain", "cancel"}:
            raise ValueError(f"on_exit must be 'drain' or 'cancel', got {on_exit!r}")
        self._max_workers = max_workers
        self._thread_name_prefix = thread_name_prefix or f"ThreadPoolExecutor-{next(_numbers)}"
        self._recruiter = _Recruiter(self._thread_name_prefix, drains=on_exit == "drain")
        self._open(
            Future,
            self._recruiter,
            _ERRORS,
            max_workers,
            initializer,
            tuple(initargs),
            max_pending,
            when_full == "block",
        )

    @property
    def _threads(self) -> set[threading.Thread]:
        return self._crew.threads

    @property
    def _broken(self) -> bool:
        return self._crew.broken

    @property
    def _shutdown(self) -> bool:
        return self._crew.closed

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call `fn` with the items of the iterables, like the built-in `map`, on the executor's threads.

        >>> import itertools
        >>> from ferrule import ThreadPoolExecutor
        >>> with ThreadPoolExecutor(max_workers=2) as executor:
        ...     squares = executor.map(pow, itertools.count(), itertools.repeat(2), buffersize=8)
        ...     print([next(squares) for _ in range(5)])
        ...     squares.close()
        [0, 1, 4, 9, 16]

        Args:
            fn: What is called, with one item of each iterable.
            iterables: Where the items come from; the shortest one says when it is over.
            timeout: How many seconds after this call the last result must be there; `None` for ever.
            chunksize: Only for process pools, which send so many calls at once; threads send nothing.
            buffersize: How many calls are submitted ahead of the results that are taken, 1 or more: so endless
                iterables may be given. `None` submits all calls now.

        Returns:
            The results in the order of the items. When it is closed, or a call raises, what still waits is cancelled.

        Raises:
            TimeoutError: If a result isn't there in time.
            TypeError, ValueError: If an argument is not what it may be.
        """
        return _map(self, _PLAIN, fn, iterables, timeout, chunksize, buffersize)

    def options(
        self,
        *,
        priority: int = 0,
        timeout: float | timedelta | None = None,
        retry: Retry | None = None,
    ) -> ExecutorView:
        """Return the executor as seen by tasks on terms of their own.

        Args:
            priority: Lower numbers run first; without one, it is 0. A step is worth a second of waiting.
            timeout: Seconds, or a `timedelta`, that a task may take once it runs; `None` for ever. Then its future
                raises `TaskTimeout`. A thread can't be stopped: it goes on alone, abandoned, and another one takes its
                place. At most as many threads as the executor has are abandoned at a time.
            retry: A `Retry` that says which failures are tried again.

        Returns:
            An executor with the same threads and the same queue.

        Raises:
            TypeError, ValueError: If an argument is not what it may be.
        """
        return ExecutorView(self, _Terms(priority_of(priority), timeout_of(timeout), policy_of(retry)))

    async def submit_async(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call from an event loop: where the queue is full, await room instead of blocking the loop.

        Args:
            fn: What is called.
            args: Its arguments by position.
            kwargs: Its arguments by keyword.

        Returns:
            The future, once it is queued; `asyncio.wrap_future(...)` awaits its result.

        Raises:
            ExecutorClosed: If the executor was shut down, before or while waiting.
        """
        return cast("Future[T]", await _submit_async(self, _PLAIN, fn, args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Take no more tasks.

        Args:
            wait: Whether to wait until all tasks are done and the threads have gone; abandoned ones are not waited for.
            cancel_futures: Whether tasks that wait in the queue are cancelled.
        """
        crew = self._crew
        crew.close(cancel=cancel_futures)
        if wait:
            _join(crew)

    def stats(self) -> ExecutorStats:
        """Return how the executor stands."""
        return ExecutorStats(*self._crew.counts())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.shutdown(wait=True, cancel_futures=not self._recruiter.drains)
        elif issubclass(kind, Exception):
            self.shutdown(wait=True, cancel_futures=True)
        else:
            # The program is to end: a task that runs must not hold it up, here or at the interpreter's exit.
            self.shutdown(wait=False, cancel_futures=True)
            _crews.pop(self._crew, None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._thread_name_prefix!r} max_workers={self._max_workers}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError(f"a {type(self).__name__} can't be pickled or copied: its threads belong to its process")


class ExecutorView(View["ThreadPoolExecutor", _Terms]):
    """An executor as seen by tasks on terms of their own: what `ThreadPoolExecutor.options` returns."""

    __slots__ = ()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call and return its future.

        Args:
            fn: What is called.
            args: Its arguments by position.
            kwargs: Its arguments by keyword.

        Raises:
            ExecutorClosed: If the executor was shut down.
            ExecutorFull: If as many tasks wait as may, and the executor doesn't block.
        """
        terms = self._terms
        function, arguments = _with_retry(terms, fn, args)
        executor = self._executor
        future = executor._submit(function, arguments, kwargs, terms.priority, terms.nanoseconds())  # noqa: SLF001
        return cast("Future[T]", future)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call `fn` with the items of the iterables, as `ThreadPoolExecutor.map` does.

        Args:
            fn: What is called, with one item of each iterable.
            iterables: Where the items come from.
            timeout: How many seconds after this call the last result must be there; `None` for ever.
            chunksize: Only for process pools.
            buffersize: How many calls are submitted ahead of the results that are taken; `None` submits all calls now.

        Raises:
            TimeoutError: If a result isn't there in time.
            TypeError, ValueError: If an argument is not what it may be.
        """
        return _map(self._executor, self._terms, fn, iterables, timeout, chunksize, buffersize)

    async def submit_async(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call from an event loop, as `ThreadPoolExecutor.submit_async` does.

        Args:
            fn: What is called.
            args: Its arguments by position.
            kwargs: Its arguments by keyword.

        Raises:
            ExecutorClosed: If the executor was shut down, before or while waiting.
        """
        return cast("Future[T]", await _submit_async(self._executor, self._terms, fn, args, kwargs))

    def options(self, **changes: Any) -> ExecutorView:
        """Return another view, with some of the terms changed.

        Args:
            changes: `priority`, `timeout` and `retry`, as for `ThreadPoolExecutor.options`.

        Raises:
            TypeError, ValueError: If an argument is not what it may be.
        """
        return self._executor.options(**{**self._terms._asdict(), **changes})


def _with_retry(
    terms: _Terms, function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (function, args) if terms.retry is None else (terms.retry.call, (function, *args))


async def _submit_async(
    executor: ThreadPoolExecutor,
    terms: _Terms,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> _core.FutureBase:
    from asyncio import get_running_loop

    function, args = _with_retry(terms, function, args)
    admission = executor._admit(get_running_loop())  # noqa: SLF001
    if admission is not None:
        try:
            await cast("Awaitable[None]", admission.future)
            admission.take()
        except BaseException:
            admission.leave()
            raise
    return executor._submit(function, args, kwargs, terms.priority, terms.nanoseconds(), admitted=True)  # noqa: SLF001


def _map(  # noqa: PLR0917 - one place for two faces
    executor: ThreadPoolExecutor,
    terms: _Terms,
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[Any]:
    if not callable(function):
        raise TypeError(f"fn must be a callable, not {shown(function)}")
    positive_integer("chunksize", chunksize)
    if buffersize is not None and (isinstance(buffersize, bool) or not isinstance(buffersize, int)):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    deadline = None if timeout is None else _core.precise_ns() + round(timeout * _NANOSECONDS)
    tuples = zip(*iterables, strict=False)
    if terms.retry is not None:
        tuples = zip(itertools.repeat(function), *iterables, strict=False)
        function = terms.retry.call

    def submit(limit: int | None) -> list[Future[Any]]:
        futures = executor._submit_each(function, tuples, limit, terms.priority, terms.nanoseconds())  # noqa: SLF001
        return cast("list[Future[Any]]", futures)

    futures = collections.deque(submit(buffersize))
    if buffersize is None:
        # Nobody is to keep the executor alive whose calls are all submitted.
        del executor, submit
        return _results(futures, None, deadline)
    return _results(futures, submit, deadline)


def _results(
    futures: collections.deque[Future[Any]],
    submit: Callable[[int], list[Future[Any]]] | None,
    deadline: int | None,
) -> Iterator[Any]:
    try:
        while futures:
            if submit is not None:
                futures.extend(submit(1))
            # No name for the future, or the generator would hold its result while that is out.
            yield _result_or_cancel(futures.popleft(), deadline)
    finally:
        for future in futures:
            future.cancel()


def _result_or_cancel(future: Future[Any], deadline: int | None) -> Any:
    try:
        if deadline is None:
            return future.result()
        return future.result(max(0, deadline - _core.precise_ns()) / _NANOSECONDS)
    except BaseException:
        future.cancel()
        raise
    finally:
        # The exception holds this frame, and the future the exception.
        del future


# -- the scheduler ----------------------------------------------------------------------------------------------------

Status = Literal["success", "error", "timeout", "cancelled", "skipped"]
Strategy = Literal["sequential", "threads", "processes", "async"]

# How many tasks run at once under `run_async`, where nobody says.
_MANY_COROUTINES: Final = 100


class TaskResult(NamedTuple):
    """What has become of a task.

    `status` is `"success"`, `"error"`, `"timeout"`, `"cancelled"` or `"skipped"`; `value` what the task returned,
    `error` the exception that it raised, as it was; `reason` says in words why it didn't run. `started` are the seconds
    from the start of the run to its own, `queued` those that it waited for a worker, `duration` those that it took;
    `attempts` is how often it was called, and `worker` the name of the thread, process or event loop that did it.
    """

    id: str
    status: Status
    value: Any = None
    error: BaseException | None = None
    reason: str | None = None
    started: float = 0.0
    queued: float = 0.0
    duration: float = 0.0
    attempts: int = 0
    worker: str = ""

    @property
    def traceback(self) -> str | None:
        """The error with its traceback, as Python prints it; `None` without one."""
        if self.error is None:
            return None
        import traceback

        return "".join(traceback.format_exception(self.error))


class TaskResults(Mapping[str, TaskResult]):
    """The results of a run, by the tasks' names, in the order in which they came."""

    def __init__(self, name: str, results: dict[str, TaskResult]) -> None:
        self._name = name
        self._results = results

    def __getitem__(self, task: str) -> TaskResult:
        return self._results[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        counts = collections.Counter(result.status for result in self._results.values())
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"<{type(self).__name__} of {self._name!r}: {told or 'empty'}>"

    def raise_errors(self) -> None:
        """Raise the errors of all tasks that failed or took too long, together, if there are any.

        Raises:
            ExceptionGroup: All of them, as they were raised.
        """
        errors = [result.error for result in self._results.values() if result.error is not None]
        if errors:
            raise BaseExceptionGroup(f"{len(errors)} of {len(self._results)} tasks of {self._name!r} failed", errors)

    def timeline(self, path: str | os.PathLike[str]) -> None:
        """Draw the run as a page of HTML that needs nothing else: a lane for each worker, a bar for each task.

        Args:
            path: The file to write.
        """
        from ferrule._timeline import as_html

        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib is 5 ms
            file.write(as_html(self._name, self._results.values()))

    def trace(self, path: str | os.PathLike[str]) -> None:
        """Write the run in Chrome's trace event format, for chrome://tracing and Perfetto.

        Args:
            path: The file to write.
        """
        from ferrule._timeline import as_trace

        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib is 5 ms
            file.write(as_trace(self._name, self._results.values()))


class _ResultOf(NamedTuple):
    """Stands for the value of a task that has not run yet."""

    task: str


# What is searched for them, at any depth. Of dictionaries, the values.
_SEARCHED = frozenset({_ResultOf, list, tuple, dict})


def _is_dictionary(argument: object) -> bool:
    # Not said in place: what type checkers conclude from it, they don't agree on.
    return type(argument) is dict


def _within(argument: Any) -> Iterable[Any]:
    return cast("Iterable[Any]", argument.values() if _is_dictionary(argument) else argument)


def _named_in(argument: Any, seen: set[int]) -> Iterator[str]:
    """Name the tasks whose values stand for something in an argument."""
    if type(argument) is _ResultOf:
        yield argument.task
    elif type(argument) in _SEARCHED and id(argument) not in seen:
        seen.add(id(argument))
        # Most lists hold plain data, and some a lot of it.
        if not _SEARCHED.isdisjoint(map(type, _within(argument))):
            for each in _within(argument):
                yield from _named_in(each, seen)


def _filled_in(argument: Any, results: Mapping[str, TaskResult], within: tuple[int, ...] = ()) -> Any:
    """Return an argument with the values in their places; a list without any remains the same list."""
    if type(argument) is _ResultOf:
        return results[argument.task].value
    if type(argument) not in _SEARCHED or id(argument) in within or not any(True for _ in _named_in(argument, set())):
        return argument
    within = (*within, id(argument))
    if _is_dictionary(argument):
        return {key: _filled_in(each, results, within) for key, each in argument.items()}
    return type(argument)(_filled_in(each, results, within) for each in argument)


# Not frozen: that would make each of them through a dozen calls of `object.__setattr__`.
@dataclass(slots=True, eq=False)
class _Task:
    id: str
    number: int
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    priority: int
    needs: tuple[str, ...]
    has_values: bool
    terms: _Terms
    limit: RateLimiter | None
    is_coroutine: bool
    # Whether all there is to it is one call.
    is_plain: bool


class _Report(NamedTuple):
    """What comes back from where a task ran."""

    value: Any
    error: BaseException | None
    started: int
    duration: int
    attempts: int
    worker: str
    # What was measured elsewhere while it ran.
    timings: Any = None


def _here() -> tuple[int, bytes]:
    """Return what tells this process from all others, on whatever machine."""
    return os.getpid(), _MARK


_MARK: Final = os.urandom(8)


def _perform(  # noqa: PLR0917 - sent to wherever it runs
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    retry: Retry | None,
    limit: RateLimiter | None,
    is_coroutine: bool,  # noqa: FBT001
    sender: tuple[int, bytes] | None = None,
) -> _Report:
    """Run a task here and now: in a worker thread, in the caller's thread, or in another process than its sender."""
    attempts = 0
    elsewhere = sender is not None and sender != _here()
    if elsewhere:
        from ferrule import timing

        timing.begin_gathering()

    def attempt() -> Any:
        nonlocal attempts
        attempts += 1
        if limit is not None:
            limit.acquire()
        if is_coroutine:
            import asyncio

            return asyncio.run(function(*args, **kwargs))
        return function(*args, **kwargs)

    worker = f"process {os.getpid()}" if elsewhere else threading.current_thread().name
    started = _core.precise_ns()
    try:
        value = attempt() if retry is None else retry.call(attempt)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        report = _Report(None, error, started, _core.precise_ns() - started, attempts, worker)
    else:
        report = _Report(value, None, started, _core.precise_ns() - started, attempts, worker)
    if elsewhere:
        from ferrule import timing

        return report._replace(timings=timing.gathered())
    return report


class _Run:
    """One run of a scheduler's tasks: what is ready, what runs, what has become of the rest.

    The thread that drives the run is the only one that changes it, but for `called_off`.
    """

    def __init__(self, tasks: Mapping[str, _Task], finished: Callable[[TaskResult], None]) -> None:
        self.tasks = tasks
        self.began = _core.precise_ns()
        self.results: dict[str, TaskResult] = {}
        self.running: dict[str, Any] = {}
        self.called_off: set[str] = set()
        # Stops a task that runs, where the strategy can; True if it did.
        self.stop: Callable[[str], bool] = lambda _: False
        self._finished = finished
        self._missing = {task.id: len(task.needs) for task in tasks.values() if task.needs}
        self._dependants: dict[str, list[_Task]] = {}
        # When tasks became ready that were not from the beginning.
        self._since: dict[str, int] = {}
        first: list[tuple[int, int, _Task]] = []
        for task in tasks.values():
            for need in task.needs:
                self._dependants.setdefault(need, []).append(task)
            if not task.needs:
                first.append(self._entry(task, self.began))
        # Those that are ready from the beginning, the next one last; and a heap of those that come later.
        self._first = sorted(first, reverse=True)
        self._later: list[tuple[int, int, _Task]] = []

    def _entry(self, task: _Task, moment: int) -> tuple[int, int, _Task]:
        return (moment + task.priority * _NANOSECONDS, task.number, task)

    @property
    def is_over(self) -> bool:
        return len(self.results) == len(self.tasks)

    def next_ready(self) -> _Task | None:
        """Take the task that is to run next; those that were cancelled meanwhile get their results."""
        first, later = self._first, self._later
        while first or later:
            entry = heapq.heappop(later) if later and (not first or later[0] < first[-1]) else first.pop()
            task = entry[2]
            if task.id not in self.called_off:
                return task
            self.settle(TaskResult(task.id, "cancelled", reason="it was cancelled before it ran"))
        return None

    def put_back(self, task: _Task) -> None:
        heapq.heappush(self._later, self._entry(task, self.ready_since(task)))

    def ready_since(self, task: _Task) -> int:
        return self._since.get(task.id, self.began)

    def arguments(self, task: _Task) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not task.has_values:
            return task.args, task.kwargs
        args = tuple(_filled_in(each, self.results) for each in task.args)
        return args, {name: _filled_in(each, self.results) for name, each in task.kwargs.items()}

    def settle(self, result: TaskResult) -> None:
        """Note what has become of a task, and what follows for those that depend on it."""
        if result.id in self.called_off and result.status != "cancelled":
            # It was being handed over at that moment, and who cancelled it has been told that it is.
            result = TaskResult(result.id, "cancelled", reason="it was cancelled just as it began")
        if result.id not in self._dependants:
            if result.id not in self.results:
                self.results[result.id] = result
                self.running.pop(result.id, None)
                self._finished(result)
            return
        line = [result]
        for settled in line:
            if settled.id in self.results:
                continue
            self.results[settled.id] = settled
            self.running.pop(settled.id, None)
            self._finished(settled)
            for dependant in self._dependants.get(settled.id, ()):
                self._missing[dependant.id] -= 1
                if settled.status != "success":
                    line.append(TaskResult(dependant.id, "skipped", reason=_skipped_for(settled)))
                elif not self._missing[dependant.id] and dependant.id not in self.results:
                    self._since[dependant.id] = now = _core.precise_ns()
                    heapq.heappush(self._later, self._entry(dependant, now))

    def report(self, task: _Task, report: _Report, started: int | None = None) -> None:
        started = report.started if started is None else started
        late = isinstance(report.error, TaskTimeout)
        self.settle(
            TaskResult(
                task.id,
                "timeout" if late else "success" if report.error is None else "error",
                report.value,
                report.error,
                None,
                max(0, started - self.began) / _NANOSECONDS,
                max(0, started - self.ready_since(task)) / _NANOSECONDS,
                report.duration / _NANOSECONDS,
                report.attempts,
                report.worker,
            )
        )

    def end_of(self, task: _Task, future: concurrent.futures.Future[_Report], worker: str) -> None:
        """Note the end of a task that ran as a future."""
        if future.cancelled():
            self.settle(TaskResult(task.id, "cancelled", reason="it was cancelled before it ran"))
            return
        error = future.exception()
        now = _core.precise_ns()
        if error is None:
            report = future.result()
            if report.timings:
                from ferrule.timing import take_in

                take_in(report.timings)
            self.report(task, report, None if worker == "" else now - report.duration)
            return
        # The task's own errors come in reports: this one is of what was to run it.
        seconds = task.terms.timeout if isinstance(error, TaskTimeout) else None
        duration = round((seconds or 0) * _NANOSECONDS)
        self.report(task, _Report(None, error, now - duration, duration, 1, worker or "a thread that was abandoned"))


def _skipped_for(result: TaskResult) -> str:
    if result.status == "skipped":
        return f"{result.id!r} was skipped: {result.reason}"
    told = f": {type(result.error).__name__}: {result.error}" if result.error is not None else ""
    return f"{result.id!r} ended as {result.status!r}{told}"


class TaskScheduler:
    """Runs tasks that have names, priorities and dependencies, by whichever strategy suits them.

    >>> from ferrule import TaskScheduler
    >>> scheduler = TaskScheduler(max_workers=2, name="report")
    >>> scheduler.add_task("load", lambda: [3, 1, 2])
    >>> scheduler.add_task("sort", sorted, args=(scheduler.result_of("load"),))
    >>> scheduler.add_task("fail", lambda: 1 / 0, depends_on=("load",))
    >>> results = scheduler.run("threads")
    >>> results["sort"].value, results["fail"].status, results["fail"].error
    ([1, 2, 3], 'error', ZeroDivisionError('division by zero'))

    Tasks with lower priority numbers run first, equal ones in the order in which they were added, and a second of
    waiting is worth a step of priority, so that none starves. A task that fails keeps its exception; what depends on it
    is skipped and says why. Context variables travel with the tasks. Coroutine functions run under every strategy, and
    functions that block run under `run_async` in threads, so that the event loop goes on.

    Args:
        max_workers: How many tasks run at once, 1 or more. `None` leaves it to the strategy: to `ThreadPoolExecutor`,
            to the processes' executor; coroutines are 100.
        name: What it is called in logs, pictures and the names of threads.
        monitor: A `PerformanceMonitor` that gets the duration of each task, under the task's name.
        log: The level at which the end of each task is logged, by the logger `ferrule.scheduling`: a number or a name;
            `None` logs nothing.

    Raises:
        TypeError, ValueError: If an argument is not what it may be.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        name: str = "tasks",
        monitor: PerformanceMonitor | None = None,
        log: int | str | None = None,
    ) -> None:
        if max_workers is not None:
            positive_integer("max_workers", max_workers)
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {shown(name)}")
        if monitor is not None and not callable(getattr(monitor, "recorder", None)):
            raise TypeError(f"monitor must be a ferrule.PerformanceMonitor or None, not {shown(monitor)}")
        self.max_workers = max_workers
        self.name = name
        self._monitor = monitor
        self._level = _log_level(log)
        self._tasks: dict[str, _Task] = {}
        # The function that was added last, and whether it is a coroutine function.
        self._last_kind: tuple[object, bool] = (object(), False)
        self._run: _Run | None = None
        self._lock = threading.Lock()
        self.results = TaskResults(name, {})

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task: object) -> bool:
        return task in self._tasks

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {len(self._tasks)} tasks>"

    def add_task(
        self,
        id: str,  # noqa: A002 - what it is called everywhere
        function: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
        *,
        depends_on: Iterable[str] = (),
        timeout: float | timedelta | None = None,
        retry: Retry | None = None,
        limit: RateLimiter | None = None,
    ) -> None:
        """Add a task.

        Args:
            id: Its name, unlike all others'.
            function: What it calls: a function or a coroutine function.
            args: The arguments by position; `result_of(...)` stands for another task's value, also inside of lists,
                tuples and the values of dictionaries.
            kwargs: The arguments by keyword, likewise.
            priority: Lower numbers run first.
            depends_on: Names of tasks that must have succeeded before; they may be added later.
            timeout: Seconds, or a `timedelta`, that it may take, all attempts together, from its own start; `None` for
                ever.
                A coroutine is cancelled then. A thread can't be stopped: it is abandoned, and another one takes its
                place.
            retry: A `Retry` that says which failures are tried again.
            limit: A `RateLimiter` that each attempt takes a token of.

        Raises:
            DuplicateTask: If there is a task of that name.
            DependencyCycle: If it depends on itself.
            TypeError, ValueError: If an argument is not what it may be.
        """
        if not isinstance(id, str):
            raise TypeError(f"id must be a string, not {shown(id)}")
        if id in self._tasks:
            raise DuplicateTask(f"there is a task {id!r} already")
        # Many tasks call the same function, and looking at it takes longer than all the rest.
        known, is_coroutine = self._last_kind
        if function is not known:
            is_coroutine = _is_coroutine_function(id, function)
            self._last_kind = (function, is_coroutine)
        if isinstance(args, (str, bytes)):
            raise TypeError(f"args must be a tuple of arguments, not {shown(args)}")
        if isinstance(depends_on, str):
            raise TypeError(f"depends_on must be several names, as in ({depends_on!r},), not {shown(depends_on)}")
        if limit is not None:
            _check_limit(limit)
        terms = _PLAIN
        if timeout is not None or retry is not None or priority is not _PLAIN.priority:
            terms = _Terms(priority_of(priority), timeout_of(timeout), policy_of(retry))
        args, kwargs = tuple(args), dict(kwargs or ())
        values = [*_named_in([*args, *kwargs.values()], set())]
        needs = _needs(id, (*depends_on, *values))
        self._tasks[id] = _Task(
            id,
            len(self._tasks),
            function,
            args,
            kwargs,
            terms.priority,
            needs,
            bool(values),
            terms,
            limit,
            is_coroutine,
            limit is None and timeout is None and retry is None,
        )

    def result_of(self, id: str) -> Any:  # noqa: A002 - what it is called everywhere
        """Return what stands, among the arguments of a task, for the value of another one.

        Args:
            id: The other task's name. It may be added later; who takes its value depends on it.

        Raises:
            TypeError: If it is no string.
        """
        if not isinstance(id, str):
            raise TypeError(f"id must be a string, not {shown(id)}")
        return _ResultOf(id)

    def cancel(self, id: str) -> bool:  # noqa: A002 - what it is called everywhere
        """Cancel a task of the run that goes on; to be called from its tasks, its hooks or other threads.

        Args:
            id: The task's name.

        Returns:
            Whether it is cancelled. A task that runs is cancelled where it is a coroutine under `run_async`; a thread
            can't be stopped.

        Raises:
            KeyError: If there is no such task.
        """
        if id not in self._tasks:
            raise KeyError(id)
        run = self._run
        if run is None or id in run.results:
            return False
        handle = run.running.get(id)
        if handle is not None:
            return run.stop(id)
        run.called_off.add(id)
        return True

    # -- strategies ---------------------------------------------------------------------------------------------------

    def run(
        self,
        strategy: Strategy | concurrent.futures.Executor = "threads",
        *,
        progress: bool | Callable[[TaskResult], object] = False,
    ) -> TaskResults:
        """Run all tasks afresh and wait for them.

        Args:
            strategy: `"sequential"`, in this thread, one by one; `"threads"`; `"processes"`; `"async"`, in an event
                loop of its own; or any `concurrent.futures.Executor`, which stays open.
            progress: Whether to show a bar (with the extra `progress`); or a function that is called with each result.

        Returns:
            The results, which `results` keeps until the next run.

        Raises:
            UnknownDependency, DependencyCycle: If tasks depend on what there is not, or on one another.
            RuntimeError: If an event loop runs in this thread (`await run_async()` is for that), or another run goes
                on.
            MissingExtra: If a bar is asked for and tqdm is not installed.
        """
        if strategy == "async":
            _refuse_in_loop()
            import asyncio

            return asyncio.run(self.run_async(progress=progress))
        for _ in self._iterate(strategy, progress):
            pass
        return self.results

    def run_sequential(self, *, progress: bool | Callable[[TaskResult], object] = False) -> TaskResults:
        """Run all tasks in this thread, one by one.

        A task with a timeout runs on a thread of its own, which is waited for no longer than that.

        Args:
            progress: As for `run`.

        Raises:
            UnknownDependency, DependencyCycle, RuntimeError: As `run` does.
        """
        return self.run("sequential", progress=progress)

    def run_threaded(self, *, progress: bool | Callable[[TaskResult], object] = False) -> TaskResults:
        """Run all tasks on threads.

        Args:
            progress: As for `run`.

        Raises:
            UnknownDependency, DependencyCycle, RuntimeError: As `run` does.
        """
        return self.run("threads", progress=progress)

    def run_processes(self, *, progress: bool | Callable[[TaskResult], object] = False) -> TaskResults:
        """Run all tasks in processes; functions, arguments and results must be such as can be pickled.

        Args:
            progress: As for `run`.

        Raises:
            UnknownDependency, DependencyCycle, RuntimeError: As `run` does.
        """
        return self.run("processes", progress=progress)

    def as_completed(
        self,
        strategy: Literal["sequential", "threads", "processes"] | concurrent.futures.Executor = "threads",
        *,
        progress: bool | Callable[[TaskResult], object] = False,
    ) -> Iterator[TaskResult]:
        """Run all tasks afresh, and give out the results as they come. When it is closed, what waits is cancelled.

        Args:
            strategy: As for `run`; `"async"` has `run_async`, with a function as `progress`.
            progress: As for `run`.

        Raises:
            UnknownDependency, DependencyCycle, RuntimeError: As `run` does.
        """
        if cast("object", strategy) == "async":
            raise ValueError("as_completed can't be 'async': call run_async with a function as progress")
        return self._iterate(strategy, progress)

    async def run_async(self, *, progress: bool | Callable[[TaskResult], object] = False) -> TaskResults:
        """Run all tasks in the event loop that runs: coroutine functions as its tasks, other functions in threads.

        Args:
            progress: As for `run`.

        Raises:
            UnknownDependency, DependencyCycle, RuntimeError: As `run` does.
            asyncio.CancelledError: If it is cancelled; then its tasks are, too.
        """
        with self._running(progress) as (run, _):
            await _Loop(run, self.max_workers or _MANY_COROUTINES, self.max_workers, self.name).drive()
        return self.results

    def _iterate(
        self,
        strategy: object,
        progress: bool | Callable[[TaskResult], object],  # noqa: FBT001
    ) -> Iterator[TaskResult]:
        _refuse_in_loop()
        drive: Callable[[_Run], Iterator[None]]
        if strategy == "sequential":
            drive = self._sequentially
        elif strategy == "threads":
            drive = self._on_threads
        elif strategy == "processes":
            drive = self._in_processes
        elif isinstance(strategy, (ThreadPoolExecutor, ExecutorView)):
            drive = functools.partial(_on_pool, executor=strategy)
        elif isinstance(strategy, concurrent.futures.Executor) or callable(getattr(strategy, "submit", None)):
            drive = _drive_on(cast("Any", strategy), self.max_workers)
        else:
            raise ValueError(
                f"strategy must be 'sequential', 'threads', 'processes', 'async' or an Executor, got {strategy!r}"
            )
        return self._driven(drive, progress)

    def _driven(
        self,
        drive: Callable[[_Run], Iterator[None]],
        progress: bool | Callable[[TaskResult], object],  # noqa: FBT001
    ) -> Iterator[TaskResult]:
        with self._running(progress) as (run, fresh):
            for _ in drive(run):
                while fresh:
                    yield fresh.popleft()
            yield from fresh

    @contextlib.contextmanager
    def _running(
        self,
        progress: bool | Callable[[TaskResult], object],  # noqa: FBT001
    ) -> Generator[tuple[_Run, collections.deque[TaskResult]]]:
        self._check()
        fresh: collections.deque[TaskResult] = collections.deque()
        hooks = [fresh.append, *self._hooks()]
        with _shown_progress(progress, self.name, len(self._tasks)) as show:
            if show is not None:
                hooks.append(show)

            def finished(result: TaskResult) -> None:
                for hook in hooks:
                    hook(result)

            if not self._lock.acquire(blocking=False):
                raise RuntimeError(f"the tasks of {self.name!r} run already")
            try:
                run = self._run = _Run(dict(self._tasks), finished)
                yield run, fresh
                self.results = TaskResults(self.name, run.results)
            finally:
                self._run = None
                self._lock.release()

    def _hooks(self) -> Iterator[Callable[[TaskResult], object]]:
        if self._monitor is not None:
            monitor = self._monitor

            def record(result: TaskResult) -> None:
                if result.attempts:
                    recorder = monitor.recorder(result.id)[1]
                    recorder.record(result.duration, failed=result.status != "success")

            yield record
        if self._level is not None:
            yield functools.partial(_log_result, self._level, self.name)

    def _check(self) -> None:
        """See to it that all dependencies exist and that none go in a circle."""
        missing: dict[str, int] = {}
        dependants: dict[str, list[str]] = {}
        for task in self._tasks.values():
            for need in task.needs:
                if need not in self._tasks:
                    raise UnknownDependency(f"task {task.id!r} depends on {need!r}, and there is no such task")
                dependants.setdefault(need, []).append(task.id)
            missing[task.id] = len(task.needs)
        line = [task for task, count in missing.items() if not count]
        for task_id in line:
            for dependant in dependants.get(task_id, ()):
                missing[dependant] -= 1
                if not missing[dependant]:
                    line.append(dependant)
        if len(line) < len(self._tasks):
            raise DependencyCycle(f"tasks depend on one another in a circle: {self._circle(missing)}")

    def _circle(self, missing: dict[str, int]) -> str:
        # Whoever is left needs somebody who is left: following that comes back to where it has been.
        task_id = next(each for each, count in missing.items() if count)
        path: list[str] = []
        while task_id not in path:
            path.append(task_id)
            task_id = next(need for need in self._tasks[task_id].needs if missing[need])
        return " needs ".join(map(repr, [*path[path.index(task_id) :], task_id]))

    def _sequentially(self, run: _Run) -> Iterator[None]:
        import contextvars

        with contextlib.ExitStack() as stack:
            helper: ThreadPoolExecutor | None = None
            while (task := run.next_ready()) is not None:
                args, kwargs = run.arguments(task)
                call = (task.function, args, kwargs, task.terms.retry, task.limit, task.is_coroutine)
                run.running[task.id] = task
                if task.terms.timeout is None:
                    run.report(task, contextvars.copy_context().run(_perform, *call))
                else:
                    if helper is None:
                        helper = stack.enter_context(ThreadPoolExecutor(1, self.name))
                    future = helper._submit(_perform, call, None, 0, task.terms.nanoseconds())  # noqa: SLF001
                    future.exception()
                    run.end_of(task, cast("Future[_Report]", future), "")
                yield

    def _on_threads(self, run: _Run) -> Iterator[None]:
        with ThreadPoolExecutor(self.max_workers, self.name) as executor:
            yield from _on_pool(run, executor=executor)

    def _in_processes(self, run: _Run) -> Iterator[None]:
        from ferrule._processes import ProcessPoolExecutor

        with ProcessPoolExecutor(self.max_workers, on_exit="kill") as executor:
            yield from _InProcesses(run, executor, self.max_workers).drive()


def _is_coroutine_function(task: str, function: object) -> bool:
    from ferrule._kinds import kind_of

    if not callable(function):
        raise TypeError(f"function must be callable, not {shown(function)}")
    kind = kind_of(function)
    if kind not in {"function", "coroutine function"}:
        raise TypeError(f"function must be a function or a coroutine function; {task!r} is given a {kind}")
    return kind == "coroutine function"


def _needs(task: str, names: tuple[object, ...]) -> tuple[str, ...]:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"depends_on must name tasks by strings, not {shown(name)}")
    if task in names:
        raise DependencyCycle(f"task {task!r} depends on itself")
    return tuple(dict.fromkeys(cast("tuple[str, ...]", names)))


def _check_limit(limit: object) -> None:
    from ferrule.limiting import RateLimiter

    if not isinstance(limit, RateLimiter):
        raise TypeError(f"limit must be a ferrule.RateLimiter or None, not {shown(limit)}")


def _refuse_in_loop() -> None:
    import sys

    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001 - doesn't raise
        raise RuntimeError("an event loop runs in this thread and would stand still: call `await run_async()` instead")


def _log_level(log: int | str | None) -> int | None:
    if log is None or (isinstance(log, int) and not isinstance(log, bool)):
        return log
    if isinstance(log, str):
        import logging

        level = logging.getLevelNamesMapping().get(log.upper())
        if level is not None:
            return level
    raise ValueError(f"log must be a level of logging, as a number or a name, or None, got {log!r}")


def _log_result(level: int, name: str, result: TaskResult) -> None:
    logger = logger_of("scheduling")
    if logger.isEnabledFor(level):
        fields = {
            "ferrule_name": name,
            "task_id": result.id,
            "status": result.status,
            "seconds": result.duration,
            "queued": result.queued,
            "attempts": result.attempts,
            "worker": result.worker,
        }
        logger.log(level, "%s: %s %s, %.6f s", name, result.id, result.status, result.duration, extra=fields)


@contextlib.contextmanager
def _shown_progress(
    progress: bool | Callable[[TaskResult], object],  # noqa: FBT001
    name: str,
    total: int,
) -> Generator[Callable[[TaskResult], object] | None]:
    if progress is False:
        yield None
    elif progress is True:
        try:
            from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
        except ImportError:
            from ferrule._errors import MissingExtra

            raise MissingExtra("progress=True", "progress", "tqdm") from None
        with tqdm(total=total, desc=name) as bar:
            yield lambda _: bar.update()
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress must be True, False or a function of a TaskResult, not {shown(progress)}")


def _on_pool(run: _Run, *, executor: ThreadPoolExecutor | ExecutorView) -> Iterator[None]:
    """Drive a run on our own threads: all that is ready is queued there, by priority."""
    base, common = (executor, _PLAIN) if isinstance(executor, ThreadPoolExecutor) else executor.parts()
    inbox: queue.SimpleQueue[tuple[_Task, Future[_Report]]] = queue.SimpleQueue()
    run.stop = lambda task: run.running[task].cancel()
    try:
        while not run.is_over:
            while (task := run.next_ready()) is not None:
                args, kwargs = run.arguments(task)
                terms = task.terms
                retry = terms.retry or common.retry
                call = (task.function, args, kwargs, retry, task.limit, task.is_coroutine)
                limit = terms.nanoseconds() or common.nanoseconds()
                submitted = base._submit(_perform, call, None, terms.priority + common.priority, limit)  # noqa: SLF001
                future = run.running[task.id] = cast("Future[_Report]", submitted)
                if task.id in run.called_off:
                    future.cancel()
                future.add_done_callback(functools.partial(_deliver, inbox, task))
            if run.running:
                run.end_of(*inbox.get(), worker="")
                yield
    finally:
        for future in run.running.values():
            future.cancel()


def _drive_on(executor: concurrent.futures.Executor, workers: int | None) -> Callable[[_Run], Iterator[None]]:
    from ferrule._processes import ProcessExecutorView, ProcessPoolExecutor

    kind = _Elsewhere
    if isinstance(executor, (ProcessPoolExecutor, ProcessExecutorView)):
        kind = _InProcesses
    elif type(executor).__module__.startswith("distributed."):
        kind = _OnDask
    return lambda run: kind(run, executor, workers).drive()


def _deliver(inbox: queue.SimpleQueue[Any], task: _Task, future: concurrent.futures.Future[Any]) -> None:
    inbox.put((task, future))


class _Elsewhere:
    """Drives a run on any executor, which gets no more than it can begin at once: the order is ours."""

    # Whether the executor itself ends tasks that take too long.
    _kills = False

    def __init__(self, run: _Run, executor: concurrent.futures.Executor, workers: int | None) -> None:
        self._run = run
        self._executor = executor
        self._workers = workers or getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self._inbox: queue.SimpleQueue[tuple[_Task, Any]] = queue.SimpleQueue()
        # When tasks that run must be over, and when limits have room for those that are held up.
        self._deadlines: dict[str, int] = {}
        self._held_up: dict[str, int] = {}

    def drive(self) -> Iterator[None]:
        run = self._run
        run.stop = lambda task: run.running[task].cancel()
        try:
            while not run.is_over:
                self._fill()
                if run.running or self._held_up:
                    self._wait()
                yield
        finally:
            for future in run.running.values():
                future.cancel()

    def _fill(self) -> None:
        run = self._run
        for name in self._held_up:
            run.put_back(run.tasks[name])
        self._held_up.clear()
        while len(run.running) < self._workers and (task := run.next_ready()) is not None:
            now = _core.precise_ns()
            # A limiter knows its own process alone, and is asked here.
            if task.limit is not None and not task.limit.try_acquire():
                self._held_up[task.id] = now + max(1, round(task.limit.check().retry_after * _NANOSECONDS))
                continue
            args, kwargs = run.arguments(task)
            call = (task.function, args, kwargs, task.terms.retry, None, task.is_coroutine, _here())
            future = run.running[task.id] = self._submit(task, call)
            if task.id in run.called_off:
                future.cancel()
            future.add_done_callback(functools.partial(_deliver, self._inbox, task))
            limit = task.terms.nanoseconds()
            if limit is not None and not self._kills:
                self._deadlines[task.id] = now + limit

    def _submit(self, task: _Task, call: tuple[Any, ...]) -> concurrent.futures.Future[Any]:
        del task
        return self._executor.submit(_perform, *call)

    def _wait(self) -> None:
        wake = min((*self._deadlines.values(), *self._held_up.values()), default=None)
        try:
            wait = None if wake is None else max(0, wake - _core.precise_ns()) / _NANOSECONDS
            task, future = self._inbox.get(timeout=wait)
        except queue.Empty:
            now = _core.precise_ns()
            for name in [name for name, moment in self._deadlines.items() if moment <= now]:
                del self._deadlines[name]
                self._give_up(self._run.tasks[name])
            return
        self._deadlines.pop(task.id, None)
        if task.id not in self._run.results:
            self._run.end_of(task, future, type(self._executor).__name__)

    def _give_up(self, task: _Task) -> None:
        """Give a task up that has taken too long where it can't be reached."""
        self._run.running[task.id].cancel()
        seconds = task.terms.timeout or 0.0
        duration = round(seconds * _NANOSECONDS)
        started = _core.precise_ns() - duration
        late = _Report(None, TaskTimeout(seconds), started, duration, 1, "a worker that was left alone")
        self._run.report(task, late)


class _InProcesses(_Elsewhere):
    """Drives a run in our own processes, which end tasks that take too long."""

    _kills = True

    def __init__(self, run: _Run, executor: Any, workers: int | None) -> None:
        from ferrule._processes import ProcessExecutorView, ProcessTerms

        self._common = ProcessTerms()
        if isinstance(executor, ProcessExecutorView):
            executor, self._common = executor.parts()
        super().__init__(run, executor, workers)

    def _submit(self, task: _Task, call: tuple[Any, ...]) -> concurrent.futures.Future[Any]:
        common = self._common
        if task.terms.retry is None and common.retry is not None:
            call = (*call[:3], common.retry, *call[4:])
        timeout = common.timeout if task.terms.timeout is None else task.terms.timeout
        terms = common._replace(priority=common.priority + task.terms.priority, timeout=timeout, retry=None)
        executor: Any = self._executor
        return cast("concurrent.futures.Future[Any]", executor._submit(_perform, call, None, terms, label=task.id))  # noqa: SLF001


class _OnDask(_Elsewhere):
    """Drives a run on a cluster of Dask's."""

    def __init__(self, run: _Run, executor: Any, workers: int | None) -> None:
        super().__init__(run, executor, workers or sum(executor._client.ncores().values()) or None)  # noqa: SLF001

    def _submit(self, task: _Task, call: tuple[Any, ...]) -> concurrent.futures.Future[Any]:
        executor: Any = self._executor
        # To Dask higher numbers are more urgent, and equal calls one call. What a task raises comes back in its report:
        # Dask's own tries are for what fails around it.
        tries = (None if task.terms.retry is None else task.terms.retry.max_attempts) or 1
        options = {"priority": -task.priority, "pure": False, "retries": tries - 1}
        return cast("concurrent.futures.Future[Any]", executor.submit(_perform, *call, **options))


class _Loop:
    """Drives a run in an event loop. Each coroutine is a task of the loop, with a context of its own."""

    def __init__(self, run: _Run, width: int, threads: int | None, name: str) -> None:
        self._run = run
        self._width = width
        self._threads = threads
        self._name = name
        self._executor: ThreadPoolExecutor | None = None
        self._failure: BaseException | None = None

    async def drive(self) -> None:
        import asyncio

        self._asyncio = asyncio
        self._loop = asyncio.get_running_loop()
        current = asyncio.current_task()
        self._worker = "event loop" if current is None else current.get_name()
        self._over: asyncio.Future[None] = self._loop.create_future()
        # What is no result of a task's, but its end, or the program's.
        self._ends = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
        self._run.stop = self._stop
        try:
            self._fill()
            await self._over
        finally:
            left = list(self._run.running.values())
            for task in left:
                task.cancel()
            if left:
                await asyncio.gather(*left, return_exceptions=True)
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)

    def _stop(self, name: str) -> bool:
        # Other threads may ask.
        self._loop.call_soon_threadsafe(self._cancel, name)
        return True

    def _cancel(self, name: str) -> None:
        job = self._run.running.get(name)
        if job is not None:
            job.cancel()
            # One that had not begun has no chance to say so itself.
            job.add_done_callback(functools.partial(self._cancelled, name))

    def _cancelled(self, name: str, _: object) -> None:
        self._end(name, None)

    def _fill(self) -> None:
        run, create_task, width = self._run, self._loop.create_task, self._width
        running = run.running
        while len(running) < width and (task := run.next_ready()) is not None:
            plain = task.is_coroutine and task.is_plain
            running[task.id] = create_task(self._plainly(task) if plain else self._with_terms(task))
            if task.id in run.called_off:
                self._cancel(task.id)
        if run.is_over and not self._over.done():
            self._over.set_result(None)

    def _end(self, name: str, report: _Report | None) -> None:
        """Note what has become of a task, from within it; `None` for one that was cancelled."""
        if self._over.done() or name in self._run.results:
            return
        try:
            if report is None:
                self._run.settle(TaskResult(name, "cancelled", reason="it was cancelled while it ran"))
            else:
                self._run.report(self._run.tasks[name], report)
            self._fill()
        except BaseException as error:  # noqa: BLE001 - a hook of the user's: whoever awaits the run hears of it
            self._over.set_exception(error)

    async def _plainly(self, task: _Task) -> None:
        args, kwargs = self._run.arguments(task)
        clock = _core.precise_ns
        value, failure = None, None
        started = clock()
        try:
            value = await task.function(*args, **kwargs)
        except self._ends as error:
            self._give_up(task, error)
            raise
        except BaseException as error:  # noqa: BLE001 - it is the task's result
            failure = error
        self._end(task.id, _Report(value, failure, started, clock() - started, 1, self._worker))

    async def _with_terms(self, task: _Task) -> None:
        args, kwargs = self._run.arguments(task)
        attempts = 0

        async def attempt() -> Any:
            nonlocal attempts
            attempts += 1
            if task.limit is not None:
                await task.limit.acquire_async()
            if task.is_coroutine:
                return await task.function(*args, **kwargs)
            return await self._in_thread(task.function, args, kwargs)

        value, failure = None, None
        started = _core.precise_ns()
        try:
            value = await (
                self._all_attempts(task, attempt) if task.terms.timeout is None else self._in_time(task, attempt)
            )
        except self._ends as error:
            self._give_up(task, error)
            raise
        except BaseException as error:  # noqa: BLE001 - it is the task's result
            failure = error
        self._end(task.id, _Report(value, failure, started, _core.precise_ns() - started, attempts, self._worker))

    def _give_up(self, task: _Task, error: BaseException) -> None:
        if isinstance(error, self._asyncio.CancelledError):
            self._end(task.id, None)
        elif not self._over.done():
            self._over.set_exception(error)

    async def _all_attempts(self, task: _Task, attempt: Callable[[], Awaitable[Any]]) -> Any:
        retry = task.terms.retry
        return await attempt() if retry is None else await retry.call_async(attempt)

    async def _in_time(self, task: _Task, attempt: Callable[[], Awaitable[Any]]) -> Any:
        seconds = task.terms.timeout or 0.0
        timeout = self._asyncio.timeout(seconds)
        try:
            async with timeout:
                return await self._all_attempts(task, attempt)
        except TimeoutError:
            if timeout.expired():
                raise TaskTimeout(seconds) from None
            raise

    async def _in_thread(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, self._name)
        return await self._asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))

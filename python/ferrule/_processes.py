"""Processes that survive anything: the executor of `ferrule.scheduling` whose tasks run in processes of their own."""

# A view and its executor are one thing in two classes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
import signal
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar, cast

from ferrule import _core, _worker
from ferrule._checking import positive_integer, shown
from ferrule._errors import ExecutorClosed, ExecutorFull, TaskTimeout, WorkerDied
from ferrule._homes import homes_of
from ferrule._terms import View, is_interrupted, nanoseconds_of, policy_of, priority_of, timeout_of
from ferrule._waiting import get_async
from ferrule.scheduling import ExecutorStats, Future

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from datetime import timedelta
    from types import TracebackType
    from typing import ParamSpec

    from ferrule.retrying import Retry

    P = ParamSpec("P")

__all__ = ["ProcessExecutorView", "ProcessPoolExecutor", "ProcessTerms", "RemoteTraceback"]

T = TypeVar("T")

_NANOSECONDS: Final = 1_000_000_000
_MANY: Final = 2**31
_METHODS: Final = ("spawn", "forkserver")

# Modules of multiprocessing whose things are registered with its resource tracker, which is a process: programs without
# them need none.
_TRACKED: Final = ("shared_memory", "synchronize")

# How long a batch of `map` is to take, in nanoseconds, at most and at least, and how many calls are in it at most.
_BATCH: Final = 4_000_000
_SHORTEST: Final = 500_000
_MOST_CALLS: Final = 20_000

# A batch is so many times larger than one before it at most: what is small may have been quick by chance.
_GROWTH: Final = 8

# How buffers travel: `Beside` in wire.rs.
_NEVER, _IN_FILES, _IN_SEGMENTS = range(3)


class RemoteTraceback(Exception):  # noqa: N818 - a cause, never raised
    """The traceback of an exception that a worker process raised, as text: the exception's `__cause__`."""

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


class ProcessTerms(NamedTuple):
    """The terms of a task in a process."""

    priority: int = 0
    timeout: float | None = None
    retry: Retry | None = None
    retries: int | None = None

    def nanoseconds(self) -> int | None:
        """Return the time limit in nanoseconds."""
        return nanoseconds_of(self.timeout)


# -- what the hub calls; none of it knows the executor, which must not be kept alive -----------------------------------


def _failure(  # noqa: PLR0917 - called from Rust
    kind: str, label: object, number: int, exitcode: int | None, seconds: float, text: str
) -> BaseException | None:
    if kind == "died":
        died = WorkerDied(
            number if label is None else label, exitcode, -exitcode if exitcode and exitcode < 0 else None
        )
        if text == "memory":
            died.add_note("It was killed because it used more memory than memory_limit allows.")
        return died
    if kind == "late":
        return TaskTimeout(seconds)
    if kind == "closed":
        return ExecutorClosed("cannot schedule new futures after shutdown")
    if kind == "told broken":
        from concurrent.futures._base import LOGGER

        LOGGER.critical("A process pool has no workers: %s", text)
        return None
    from concurrent.futures.process import BrokenProcessPool

    return BrokenProcessPool(text)


def _rebuilt(value: tuple[BaseException, str]) -> BaseException:
    error, text = value
    error.__cause__ = RemoteTraceback(text)
    return error


class _Progress:
    """What a batch of `map` has done that goes on yet."""

    def __init__(self) -> None:
        self.name = next(_names)
        self.results: list[Any] = []
        # What came instead of results.
        self.failure: BaseException | None = None
        _batches[self.name] = self


_names = itertools.count(1)
_batches: weakref.WeakValueDictionary[int, _Progress] = weakref.WeakValueDictionary()


def _take_in(name: int, text: bytes, buffers: list[Any]) -> None:
    import pickle

    progress = _batches.get(name)
    if progress is not None:
        try:
            progress.results.extend(pickle.loads(text, buffers=buffers))  # noqa: S301 - from a worker
        except BaseException as error:  # noqa: BLE001 - results that can't be loaded: that batch's failure
            progress.failure = error


def _told(message: bytes, buffers: list[Any]) -> None:
    """Pass on what a worker tells: a record for a logger, a warning, what was measured, results of a batch."""
    import pickle

    try:
        what, value = cast("tuple[str, Any]", pickle.loads(message))  # noqa: S301 - from a worker
        if what == "log":
            import logging

            record = logging.makeLogRecord(value)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        elif what == "done":
            name, text = value
            _take_in(name, text, buffers)
        elif what == "timings":
            from ferrule import timing

            timing.take_in(value)
        else:
            import warnings

            text, filename, line = value
            warning, category = pickle.loads(text)  # noqa: S301 - from a worker
            warnings.warn_explicit(warning, category, filename, line)
    except Warning:
        # One that is an error here, and has nobody to be raised at: it was none in the worker.
        sys.excepthook(*cast("Any", sys.exc_info()))


def _give_back(line: _core.Line | None, count: int) -> None:
    if line is not None:
        for _ in range(count):
            line.put(None)


_homes: dict[Any, tuple[int, tuple[str, str] | None]] = {}


def _home(variable: Any) -> tuple[str, str] | None:
    """Return the module and the name by which a context variable can be found in another process."""
    modules = len(sys.modules)
    known = _homes.get(variable)
    if known is not None and (known[1] is not None or known[0] == modules):
        return known[1]
    home = next(iter(homes_of(variable)), None)
    _homes[variable] = (modules, home)
    return home


def _carried(context: Any) -> list[tuple[str, str, bytes]] | None:
    """Return what of a context can travel."""
    import pickle

    carried: list[tuple[str, str, bytes]] = []
    for variable, value in context.items():
        home = _home(variable)
        if home is None:
            continue
        try:
            carried.append((*home, pickle.dumps(value, 5)))
        except Exception:  # noqa: BLE001, S112 - it stays here
            continue
    return carried or None


def _pack_by_value(value: object, buffers: _core.Buffers) -> bytes:
    """Pickle for workers that can't load this program's main module."""
    import cloudpickle  # type: ignore[import-not-found, import-untyped, unused-ignore]

    dumps: Callable[..., bytes] = cast("Any", cloudpickle).dumps
    try:
        return dumps(value, protocol=5, buffer_callback=buffers)
    except Exception:  # noqa: BLE001 - the usual ways may do it, or say why not
        buffers.clear()
        return _worker.pack(value, buffers)


# -- the end ----------------------------------------------------------------------------------------------------------

# Every hub that isn't over, and what is to become of it at the program's end.
_hubs: dict[_core.ProcessHub, str] = {}


def _forget_those_over() -> None:
    for hub in list(_hubs):
        if hub.over:
            _hubs.pop(hub, None)


def _at_exit() -> None:
    hubs = list(_hubs.items())
    interrupted = is_interrupted()
    for hub, policy in hubs:
        if interrupted or policy == "kill":
            hub.kill(signal.SIGKILL, last=True)
        else:
            hub.close(cancel=policy == "cancel")
    try:
        for hub, _ in hubs:
            hub.wait(timeout=1 if interrupted else None)
    except BaseException:
        for hub, _ in hubs:
            hub.kill(signal.SIGKILL, last=True)
        raise


def _after_fork() -> None:
    for hub in _hubs:
        hub.abandon()
    _hubs.clear()


try:
    threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001
except (AttributeError, RuntimeError):  # pragma: no cover - the interpreter ends already
    import atexit

    atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)


def _close(hubs: list[_core.ProcessHub]) -> None:
    for hub in hubs:
        hub.close(cancel=False)


class ProcessPoolExecutor(concurrent.futures.Executor):
    """Runs calls in processes: the standard library's executor, faster, and whatever dies, only that is lost.

    >>> from ferrule import ProcessPoolExecutor
    >>> with ProcessPoolExecutor(max_workers=2) as executor:
    ...     future = executor.submit(pow, 2, 10)
    ...     roots = list(executor.map(abs, range(-3, 1)))
    ...     urgent = executor.options(priority=-1, timeout=20.0).submit(sum, [1, 2, 3])
    >>> future.result(), roots, urgent.result()
    (1024, [3, 2, 1, 0], 6)

    It takes what `concurrent.futures.ProcessPoolExecutor` takes, and means the same, with "spawn" semantics: workers
    import the main module as `__mp_main__`. A worker that dies (killed, out of memory, a fault in C code) fails its own
    task with `WorkerDied`, and another one takes its place. Buffers of 64 KB and more, NumPy's arrays for one, travel
    beside the pickle and arrive writable: those up to 32 MB through memory that is shared with the worker and used
    again (64 MB each way at most; none with `memory_limit`), others through sealed memory of their own. Context
    variables that are a module's and can be pickled travel with a call; log records and warnings of the workers reach
    this process; with cloudpickle installed, lambdas and closures travel, too. Ctrl-C is this process's alone, and ends
    the workers with it.

    Args:
        max_workers: How many processes there are at most, 1 or more. `None` is as many as there are processors.
        mp_context: A context of `multiprocessing` whose start method is "spawn" or "forkserver": workers are always
            clean processes, forked by a template that is one. `None` is the same.
        initializer: Called by each worker before anything else. If it raises, the executor is broken.
        initargs: Its arguments.
        max_tasks_per_child: After how many tasks a worker is replaced; `None` for never.
        max_pending: How many tasks may wait in the queue; `None` sets no limit.
        when_full: What a submission beyond that does: `"block"` waits for room, `"raise"` raises `ExecutorFull`.
            `submit_async` awaits room in either case.
        on_exit: What happens to tasks when the `with` block, or the program, comes to its end: `"drain"` does them,
            `"cancel"` cancels those that wait, and `"kill"` kills those that run, too. When an exception leaves the
            block those that wait are cancelled in any case; when it is one that ends programs, Ctrl-C for instance, the
            workers are killed.
        retries: How often a task runs again whose worker died under it.
        memory_limit: Bytes of resident memory that a worker may use. One that uses more is replaced between tasks, and
            killed during one; that task fails with `WorkerDied`, or runs again. `None` sets no limit.
        preload: Names of modules that the template imports, once for all workers.

    Raises:
        TypeError, ValueError: If an argument is not what it may be.

    Priorities are standings, as `ThreadPoolExecutor`'s are.
    """

    def __init__(  # noqa: C901 - a check for each parameter
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        max_pending: int | None = None,
        when_full: Literal["block", "raise"] = "block",
        on_exit: Literal["drain", "cancel", "kill"] = "drain",
        retries: int = 0,
        memory_limit: int | None = None,
        preload: Iterable[str] = (),
    ) -> None:
        if max_workers is None:
            max_workers = getattr(os, "process_cpu_count", os.cpu_count)() or 1
        elif isinstance(max_workers, int) and max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, got {max_workers!r}")
        self._max_workers = positive_integer("max_workers", max_workers)
        _check_context(mp_context)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {shown(initializer)}")
        if max_tasks_per_child is not None:
            positive_integer("max_tasks_per_child", max_tasks_per_child)
        if max_pending is not None:
            positive_integer("max_pending", max_pending)
        if when_full not in {"block", "raise"}:
            raise ValueError(f"when_full must be 'block' or 'raise', got {when_full!r}")
        if on_exit not in {"drain", "cancel", "kill"}:
            raise ValueError(f"on_exit must be 'drain', 'cancel' or 'kill', got {on_exit!r}")
        if isinstance(memory_limit, bool) or not isinstance(memory_limit, (int, type(None))):
            raise TypeError(f"memory_limit must be a number of bytes or None, not {shown(memory_limit)}")
        if memory_limit is not None and memory_limit < 1:
            raise ValueError(f"memory_limit must be 1 byte or more, got {memory_limit!r}")
        if isinstance(preload, str):
            raise TypeError(f"preload must be several names, as in ({preload!r},), not {shown(preload)}")
        self._preload = tuple(preload)
        for module in self._preload:
            if not isinstance(module, str):
                raise TypeError(f"preload must be names of modules, not {shown(module)}")
        self._retries = _retries(retries)
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._max_tasks = max_tasks_per_child
        self._max_pending = max_pending
        self._when_full = when_full
        self._on_exit = on_exit
        self._memory_limit = memory_limit
        # Whether large buffers travel in memory of their own, where the system has such.
        self._beside = True
        self._lock = threading.Lock()
        # What calls of functions took that were mapped.
        self._costs: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
        # What a finalizer of this executor closes; the one that is used is the last.
        self._made: list[_core.ProcessHub] = []
        self._open()
        weakref.finalize(self, _close, self._made).atexit = False

    def _open(self) -> None:
        _forget_those_over()
        self._room = None if self._max_pending is None else _core.Line()
        _give_back(self._room, self._max_pending or 0)
        by_value = not _has_main() and _has_cloudpickle()
        hub = _core.ProcessHub(
            Future,
            (
                _pack_by_value if by_value else _worker.pack,
                _carried,
                _failure,
                _rebuilt,
                _told,
                functools.partial(_give_back, self._room),
            ),
            max_workers=self._max_workers,
            max_tasks=self._max_tasks,
            memory_limit=self._memory_limit,
            bounded=self._max_pending is not None,
            beside=self._way(),
            plain=not by_value,
        )
        self._made[:] = [hub]
        self._hub = hub

    def _way(self) -> int:
        if not self._beside:
            return _NEVER
        # Segments stay with a worker, and would count as its memory.
        return _IN_SEGMENTS if self._memory_limit is None else _IN_FILES

    def _ready(self) -> _core.ProcessHub:
        """Return the hub of this process, started."""
        hub = self._hub
        if hub.started and not hub.foreign:
            return hub
        with self._lock:
            if self._hub.foreign:
                # A forked child has workers of its own, when it needs some, and an empty queue.
                closed = self._hub.closed
                self._open()
                if closed:
                    self._hub.close(cancel=False)
            hub = self._hub
            if not hub.started and not hub.closed:
                self._start(hub)
        return hub

    def _start(self, hub: _core.ProcessHub) -> None:
        import pickle
        from multiprocessing import resource_tracker, spawn, util

        # Says so where the main module starts processes while it is imported as one's main module.
        data: dict[str, Any] = spawn.get_preparation_data("ProcessPoolExecutor")
        # It goes to our own workers, over a socket that nobody else has.
        data["authkey"] = bytes(data["authkey"])
        _worker.teach_pickle()
        spawning = _worker.Spawning()
        tracker = None
        if any(f"multiprocessing.{name}" in sys.modules for name in _TRACKED):
            tracker = spawning.duplicate_for_child(cast("int", resource_tracker.getfd()))
        prepare = pickle.dumps(_worker.Preparation(data, _levels(), _filters(), tracker), 5)
        initialize = b"" if self._initializer is None else self._pack_initializer(spawning)
        call = f"template({os.getpid()}, {self._way()}, {self._preload!r}, {list(sys.path)!r})"
        code = f"import sys; sys.path[:] = {list(sys.path)!r}; from ferrule._worker import template; {call}"
        executable = os.fsdecode(cast("Any", spawn.get_executable()))
        flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
        _hubs[hub] = self._on_exit
        hub.start([executable, *flags, "-c", code], prepare, initialize, spawning.descriptors)

    def _pack_initializer(self, spawning: _worker.Spawning) -> bytes:
        import multiprocessing.context

        context: Any = multiprocessing.context
        # What can only be inherited may be an argument here, as it may where multiprocessing starts processes.
        context.set_spawning_popen(spawning)
        try:
            return _worker.pack((self._initializer, self._initargs), _core.Buffers(inside=True), inherits=True)
        except BaseException:
            for descriptor in spawning.descriptors:
                os.close(descriptor)
            raise
        finally:
            context.set_spawning_popen(None)

    # -- submitting ---------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call and return its future.

        Args:
            fn: What is called.
            args: Its arguments by position.
            kwargs: Its arguments by keyword. What can't be pickled fails the future, not this call.

        Raises:
            ExecutorClosed: If the executor was shut down.
            ExecutorFull: If as many tasks wait as may, and the executor doesn't block.
            concurrent.futures.process.BrokenProcessPool: If no worker can be started.
        """
        return cast("Future[T]", self._submit(fn, args, kwargs))

    def _submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        terms: ProcessTerms | None = None,
        *,
        label: object = None,
        admitted: bool = False,
    ) -> _core.FutureBase:
        hub = self._ready()
        if self._room is not None and not admitted:
            self._take_room(hub)
        if terms is None:
            return hub.submit(function, args, kwargs, 0, None, self._retries, label, False)
        if terms.retry is not None:
            function, args = terms.retry.call, (function, *args)
        retries = self._retries if terms.retries is None else terms.retries
        return hub.submit(function, args, kwargs, terms.priority, terms.nanoseconds(), retries, label, False)

    def _take_room(self, hub: _core.ProcessHub) -> None:
        if self._room is None or hub.closed:
            # Submitting says what is the matter.
            return
        try:
            self._room.get(timeout=None if self._when_full == "block" else 0)
        except TimeoutError:
            raise ExecutorFull("the queue is full: max_pending tasks are waiting") from None
        except RuntimeError:
            if hub.closed:
                raise ExecutorClosed("cannot schedule new futures after shutdown") from None
            raise

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
        return cast("Future[T]", await self._submit_async(fn, args, kwargs, None))

    async def _submit_async(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        terms: ProcessTerms | None,
    ) -> _core.FutureBase:
        hub = self._ready()
        if self._room is not None and not hub.closed:
            try:
                await get_async(self._room)
            except RuntimeError:
                if hub.closed:
                    raise ExecutorClosed("cannot schedule new futures after shutdown") from None
                raise
        return self._submit(function, args, kwargs, terms, admitted=True)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call `fn` with the items of the iterables, like the built-in `map`, in the executor's processes.

        >>> from ferrule import ProcessPoolExecutor
        >>> with ProcessPoolExecutor(max_workers=1) as executor:
        ...     print(list(executor.map(pow, [2, 3, 4], [5, 2, 3])))
        [32, 9, 64]

        Calls travel in batches. If a worker dies, what is left of its batch is made again, each call alone, so that the
        one it died of is known. Calls that were done are not made twice, unless they were among those of the last
        millisecond; with `chunksize=1` none is.

        Args:
            fn: What is called, with one item of each iterable.
            iterables: Where the items come from; the shortest one says when it is over.
            timeout: How many seconds after this call the last result must be there; `None` for ever.
            chunksize: How many calls travel together, 1 or more; `None` finds out by how long they take.
            buffersize: How many calls are submitted ahead of the results that are taken, 1 or more: so endless
                iterables may be given. `None` takes all items now.

        Returns:
            The results in the order of the items. When it is closed, or a call raises, what still waits is cancelled.

        Raises:
            TimeoutError: If a result isn't there in time.
            TypeError, ValueError: If an argument is not what it may be.
        """
        return self._map(ProcessTerms(), fn, iterables, timeout, chunksize, buffersize)

    def _map(  # noqa: PLR0917 - one place for two faces
        self,
        terms: ProcessTerms,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
    ) -> Iterator[Any]:
        if not callable(function):
            raise TypeError(f"fn must be a callable, not {shown(function)}")
        if chunksize is not None and (isinstance(chunksize, bool) or not isinstance(chunksize, int)):
            raise TypeError(f"chunksize must be an integer or None, not {shown(chunksize)}")
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and (isinstance(buffersize, bool) or not isinstance(buffersize, int)):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else _core.precise_ns() + round(timeout * _NANOSECONDS)
        if terms.timeout is not None:
            # A time limit is one call's, and counted from its beginning.
            chunksize = 1
        cost = _Cost(self._costs, function)
        if terms.retry is not None:
            function = functools.partial(terms.retry.call, function)
        retries = self._retries if terms.retries is None else terms.retries
        one_each = len(iterables) == 1
        call = functools.partial(_submit_batch, self._ready(), function, terms, retries, one_each=one_each)
        feed = _Feed(call, self._hub, iterables, self._max_workers, chunksize, buffersize, cost)
        feed.begin()
        if buffersize is None:
            # Most of them are taken without a step of Python's.
            return _core.Results(feed.lists(deadline))
        return feed.results(deadline)

    def options(
        self,
        *,
        priority: int = 0,
        timeout: float | timedelta | None = None,
        retry: Retry | None = None,
        retries: int | None = None,
    ) -> ProcessExecutorView:
        """Return the executor as seen by tasks on terms of their own.

        Args:
            priority: Lower numbers run first; without one, it is 0. A step is worth a second of waiting.
            timeout: Seconds, or a `timedelta`, that a task may take once it runs; `None` for ever. Then its worker is
                killed, whatever it does, and its future raises `TaskTimeout`.
            retry: A `Retry` that says which failures are tried again, by the worker; it must be one that can be
                pickled.
            retries: How often a task runs again whose worker died under it; `None` is as the executor says.

        Returns:
            An executor with the same processes and the same queue.

        Raises:
            TypeError, ValueError: If an argument is not what it may be.
        """
        if retries is not None:
            _retries(retries)
        return ProcessExecutorView(
            self, ProcessTerms(priority_of(priority), timeout_of(timeout), policy_of(retry), retries)
        )

    # -- ending -------------------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Take no more tasks.

        Args:
            wait: Whether to wait until all tasks are done and the processes have gone.
            cancel_futures: Whether tasks that wait in the queue are cancelled.
        """
        hub = self._hub
        hub.close(cancel=cancel_futures)
        if self._room is not None:
            self._room.close()
        if wait:
            hub.wait()

    def terminate_workers(self) -> None:
        """Ask the workers to end now, with SIGTERM: what waits is cancelled, and what runs fails with `WorkerDied`."""
        self._kill(signal.SIGTERM)

    def kill_workers(self) -> None:
        """Kill the workers now: what waits is cancelled, and what runs fails with `WorkerDied`."""
        self._kill(signal.SIGKILL)

    def _kill(self, number: int) -> None:
        self._hub.kill(number, last=True)
        if self._room is not None:
            self._room.close()

    def stats(self) -> ExecutorStats:
        """Return how the executor stands."""
        return ExecutorStats(*self._hub.counts(), 0)

    def pids(self) -> list[int]:
        """Return the process numbers of the workers."""
        return self._hub.pids()

    @property
    def _broken(self) -> str | bool:
        return self._hub.broken or False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._on_exit == "kill":
                self.kill_workers()
                self._hub.wait()
            elif kind is None or issubclass(kind, Exception):
                self.shutdown(wait=True, cancel_futures=kind is not None or self._on_exit == "cancel")
            else:
                # The program is to end.
                self.kill_workers()
        except BaseException:
            self.kill_workers()
            raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} max_workers={self._max_workers}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError(f"a {type(self).__name__} can't be pickled or copied: its workers belong to its process")


class ProcessExecutorView(View["ProcessPoolExecutor", ProcessTerms]):
    """An executor as seen by tasks on terms of their own: what `ProcessPoolExecutor.options` returns."""

    __slots__ = ()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call and return its future.

        Args:
            fn: What is called.
            args: Its arguments by position.
            kwargs: Its arguments by keyword.

        Raises:
            ExecutorClosed, ExecutorFull, concurrent.futures.process.BrokenProcessPool: As `ProcessPoolExecutor.submit`
                does.
        """
        return cast("Future[T]", self._executor._submit(fn, args, kwargs, self._terms))  # noqa: SLF001

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call `fn` with the items of the iterables, as `ProcessPoolExecutor.map` does.

        Args:
            fn: What is called, with one item of each iterable.
            iterables: Where the items come from.
            timeout: How many seconds after this call the last result must be there; `None` for ever.
            chunksize: How many calls travel together; with a time limit for each call it is 1.
            buffersize: How many calls are submitted ahead of the results that are taken; `None` takes all items now.

        Raises:
            TimeoutError: If a result isn't there in time.
            TypeError, ValueError: If an argument is not what it may be.
        """
        return self._executor._map(self._terms, fn, iterables, timeout, chunksize, buffersize)  # noqa: SLF001

    async def submit_async(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call from an event loop, as `ProcessPoolExecutor.submit_async` does.

        Args:
            fn: What is called.
            args: Its arguments by position.
            kwargs: Its arguments by keyword.

        Raises:
            ExecutorClosed: If the executor was shut down, before or while waiting.
        """
        return cast("Future[T]", await self._executor._submit_async(fn, args, kwargs, self._terms))  # noqa: SLF001

    def options(self, **changes: Any) -> ProcessExecutorView:
        """Return another view, with some of the terms changed.

        Args:
            changes: `priority`, `timeout`, `retry` and `retries`, as for `ProcessPoolExecutor.options`.

        Raises:
            TypeError, ValueError: If an argument is not what it may be.
        """
        return self._executor.options(**{**self._terms._asdict(), **changes})


# -- map --------------------------------------------------------------------------------------------------------------


def _submit_batch(
    hub: _core.ProcessHub,
    function: Callable[..., Any],
    terms: ProcessTerms,
    retries: int,
    batch: list[Any],
    *,
    one_each: bool,
    name: int = 0,
    alone: bool = False,
) -> Future[_worker.Outcomes]:
    # A batch that dies is made again call by call; only then the tries are counted.
    tries = retries if alone or len(batch) == 1 else 0
    args, kwargs = (function, batch), {"one_each": one_each, "name": name}
    made = hub.submit(_worker.run_batch, args, kwargs, terms.priority, terms.nanoseconds(), tries, None, True)
    return cast("Future[_worker.Outcomes]", made)


class _Cost:
    """What one call of a function takes, in nanoseconds, as far as it is known."""

    def __init__(self, known: weakref.WeakKeyDictionary[Any, float], function: Callable[..., Any]) -> None:
        self._known = known
        self._function = function
        self._time = 0.0
        self._calls = 0.0
        self._largest = 1
        # There are functions that can't be hashed, or referred to weakly, and some whose own code says so its own way.
        with contextlib.suppress(Exception):
            cost = known.get(function)
            if cost is not None:
                # Its next arguments may be others than the last: they will say so soon.
                self._time, self._calls = cost, 1.0
                self._largest = max(1, int(_SHORTEST / cost))

    def learn(self, calls: int, taken: int) -> None:
        """Take note of a batch."""
        if self._calls:
            # A worker that others keep from its processor takes several times as long. What lasts is learnt in steps.
            taken = min(taken, int(2 * calls * self._time / self._calls))
        # Large ones say more than small ones, and late ones more than early ones.
        self._time = self._time / 2 + max(taken, 1)
        self._calls = self._calls / 2 + calls
        self._largest = max(self._largest, calls)

    def keep(self) -> None:
        """Keep what was found out for the next time."""
        if self._calls:
            with contextlib.suppress(Exception):
                self._known[self._function] = self._time / self._calls

    def sizes(self) -> tuple[int, int]:
        """Return how many calls are in a batch, at least and at most."""
        if not self._calls:
            return 1, 1
        cost = self._time / self._calls
        most = max(1, min(int(_BATCH / cost), self._largest * _GROWTH, _MOST_CALLS))
        return max(1, min(int(_SHORTEST / cost), most)), most


class _Feed:
    """Feeds the items of a `map` to an executor, in batches that take about as long as they should."""

    def __init__(  # noqa: PLR0917 - called in one place
        self,
        submit: Callable[..., Future[_worker.Outcomes]],
        hub: _core.ProcessHub,
        iterables: tuple[Iterable[Any], ...],
        workers: int,
        chunksize: int | None,
        buffersize: int | None,
        cost: _Cost,
    ) -> None:
        self._submit = submit
        self._hub = hub
        items: Iterator[Any] = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=False)
        self._left: int | None = None
        if buffersize is None:
            every = list(items)
            self._left = len(every)
            items = iter(every)
        self._items = items
        self._workers = workers
        self._adapts = chunksize is None
        self._chunksize = chunksize or 1
        self._cost = cost
        self._buffersize = buffersize
        # With so few calls ahead there is room for a batch, as far as is known.
        self._resume = buffersize or 0
        # With what those have done that are no single calls.
        self._batches: collections.deque[tuple[Future[_worker.Outcomes], list[Any], _Progress | None]]
        self._batches = collections.deque()
        # Batches that aren't back, and calls whose results haven't been taken.
        self._out = 0
        self._ahead = 0
        self._over = False
        self._failure: BaseException | None = None
        # A future that is over when it is asked calls back at once.
        self._lock = threading.RLock()

    def begin(self) -> None:
        """Promise, and send the first batches."""
        self._hub.promise()
        if self._buffersize is not None:
            # Who takes results slowly, or not at all, must not keep the executor from ending.
            self._hub.keep_promise()
        try:
            self._fill()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._resume = -1
            self._items = iter(())
            self._cost.keep()
            if self._buffersize is None:
                self._hub.keep_promise()

    def _fill(self, *, one: bool = False) -> None:
        """Send what may be sent now; `one` batch at least, if there is one."""
        with self._lock:
            while not self._over:
                size = self._next_size()
                if not one and (size == 0 or (self._buffersize is None and self._adapts and self._out >= self._most())):
                    return
                one = False
                if not self._hub.wanted:
                    self._end()
                    return
                batch = list(itertools.islice(self._items, max(1, size)))
                if self._left is not None:
                    self._left -= len(batch)
                if batch and self._buffersize is not None and self._hub.closed:
                    self._failure = ExecutorClosed("cannot schedule new futures after shutdown")
                    self._end()
                    return
                if batch:
                    self._out += 1
                    self._ahead += len(batch)
                    progress = _Progress() if len(batch) > 1 else None
                    began = _core.precise_ns()
                    future = self._submit(batch, name=0 if progress is None else progress.name)
                    pickled = _core.precise_ns() - began
                    self._batches.append((future, batch, progress))
                    future.add_done_callback(functools.partial(self._came_back, pickled))
                if len(batch) < max(1, size) or self._left == 0:
                    self._end()

    def _most(self) -> int:
        return 2 * self._workers + 1

    def _next_size(self) -> int:
        least, size = self._cost.sizes() if self._adapts else (self._chunksize, self._chunksize)
        if self._buffersize is not None:
            room = self._buffersize - self._ahead
            # No batch is made smaller than it should be where waiting for a few more results makes it whole.
            size = min(size, max(1, self._buffersize // 2))
            self._resume = self._buffersize - size
            return size if room >= size else 0
        if self._left is not None:
            # The last ones are shared out, as far as that is worth it.
            size = max(least, min(size, -(-self._left // (2 * self._workers))))
        return size

    def _came_back(self, pickled: int, future: concurrent.futures.Future[_worker.Outcomes]) -> None:
        with self._lock:
            self._out -= 1
            if future.cancelled():
                self._end()
                return
            if self._adapts and future.exception() is None:
                took, count = future.result().took, future.result().calls
                if count:
                    # What is large takes its time before it is there.
                    self._cost.learn(count, took + pickled)
        if self._buffersize is None:
            try:
                self._fill()
            except BaseException as error:  # noqa: BLE001 - an iterable's, or the executor's: who takes results hears of it
                self._failure = error
                self._end()

    def lists(self, deadline: int | None) -> Iterator[list[Any]]:
        """Give out the results in lists, which are the taker's."""
        with contextlib.closing(self._outcomes(deadline)) as batches:
            for outcomes in batches:
                yield outcomes.results
                _raise_for(outcomes)

    def results(self, deadline: int | None) -> Iterator[Any]:
        """Give out the results, and pull another item for each."""
        with contextlib.closing(self._outcomes(deadline)) as batches:
            for outcomes in batches:
                # Each is let go as it is taken.
                results = outcomes.results
                results.reverse()
                while results:
                    self._ahead -= 1
                    if self._ahead <= self._resume:
                        self._fill()
                    yield results.pop()
                _raise_for(outcomes)

    def _outcomes(self, deadline: int | None) -> Generator[_worker.Outcomes]:
        try:
            while True:
                if not self._batches:
                    self._fill(one=True)
                if not self._batches:
                    break
                future, batch, progress = self._batches.popleft()
                outcomes = None
                try:
                    outcomes = _outcome(future, deadline)
                except WorkerDied:
                    if progress is None:
                        raise
                finally:
                    # The exception holds this frame.
                    del future
                yield from self._whole(batch, progress, outcomes, deadline)
                del outcomes
            if self._failure is not None:
                raise self._failure
            if not self._hub.wanted and self._left:
                raise concurrent.futures.CancelledError
        finally:
            with self._lock:
                self._end()
                for future, _, _ in self._batches:
                    future.cancel()
                self._batches.clear()

    def _whole(
        self,
        batch: list[Any],
        progress: _Progress | None,
        outcomes: _worker.Outcomes | None,
        deadline: int | None,
    ) -> Iterator[_worker.Outcomes]:
        """Put what a batch told early before its outcomes; without those, make the calls that are left."""
        done: list[Any] = []
        if progress is not None:
            if progress.failure is not None:
                raise progress.failure
            done = progress.results
        if outcomes is None:
            # Whoever takes the results takes them out of the list.
            left = batch[len(done) :]
            yield _worker.Outcomes(done)
            yield from self._one_by_one(left, deadline)
        elif done:
            done.extend(outcomes.results)
            yield outcomes._replace(results=done)
        else:
            yield outcomes

    def _one_by_one(self, batch: list[Any], deadline: int | None) -> Iterator[_worker.Outcomes]:
        futures = collections.deque(self._submit([call], alone=True) for call in batch)
        try:
            while futures:
                yield _outcome(futures.popleft(), deadline)
        finally:
            for future in futures:
                future.cancel()


def _raise_for(outcomes: _worker.Outcomes) -> None:
    if outcomes.error is not None:
        raise _rebuilt((outcomes.error, outcomes.text))


def _outcome(future: Future[_worker.Outcomes], deadline: int | None) -> _worker.Outcomes:
    try:
        if deadline is None:
            return future.result()
        return future.result(max(0, deadline - _core.precise_ns()) / _NANOSECONDS)
    except BaseException:
        future.cancel()
        raise
    finally:
        del future


# -- what workers are told --------------------------------------------------------------------------------------------


def _retries(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"retries must be an integer, not {shown(value)}")
    if not 0 <= value < _MANY:
        raise ValueError(f"retries must be 0 or more, got {value!r}")
    return value


def _check_context(context: Any) -> None:
    if context is None:
        return
    method = getattr(context, "get_start_method", None)
    if not callable(method):
        raise TypeError(f"mp_context must be a context of multiprocessing or None, not {shown(context)}")
    if method() not in _METHODS:
        raise ValueError(
            f"mp_context must be one of 'spawn' or 'forkserver', whose workers are clean processes, got {method()!r}"
        )


def _has_main() -> bool:
    """Whether workers can import this program's main module, as multiprocessing does."""
    main = sys.modules.get("__main__")
    return getattr(getattr(main, "__spec__", None), "name", None) is not None or hasattr(main, "__file__")


def _has_cloudpickle() -> bool:
    from importlib.util import find_spec

    return find_spec("cloudpickle") is not None


def _levels() -> dict[str | None, int]:
    import logging

    levels: dict[str | None, int] = {None: logging.getLogger().level}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels


def _filters() -> list[Any]:
    import pickle
    import warnings

    filters: list[Any] = []
    for each in list(warnings.filters):
        try:
            pickle.dumps(each)
        except Exception:  # noqa: BLE001, S112 - it stays here
            continue
        filters.append(each)
    return filters

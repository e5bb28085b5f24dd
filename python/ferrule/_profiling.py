"""What a run allocates, as `tracemalloc` sees it. Loaded when something is profiled for the first time."""

from __future__ import annotations

import functools
import os
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any, cast

from ferrule import _core
from ferrule._kinds import Kind, first_step, is_awaitable_generator, kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from ferrule._core import Recorder


class _Tracing:
    """The profiled stretches that are under way, in all threads.

    `tracemalloc` knows one peak for the whole process. So whenever a stretch begins or ends, the peak up to now is
    noted for every stretch that is under way, and starts afresh.
    """

    def __init__(self) -> None:
        # Entered again by the thread that has it: a collection in between may close a profiled generator, and a signal
        # handler may call a profiled function.
        self._lock = threading.RLock()
        self._open: list[_Run] = []
        self._started = False

    def begin(self, run: _Run) -> None:
        with self._lock:
            # First of all, so that no run that begins and ends in between stops the tracing.
            self._open.append(run)
            if not tracemalloc.is_tracing():
                tracemalloc.start()
                self._started = True
            self._note_peak()
            # Read last, so that what the bookkeeping allocates isn't laid at the run's door.
            run.base = run.top = tracemalloc.get_traced_memory()[0]

    def end(self, run: _Run) -> None:
        now = tracemalloc.get_traced_memory()[0]
        with self._lock:
            if run not in self._open or not tracemalloc.is_tracing():
                # The run began before a fork, or somebody stopped tracemalloc: what it allocated is unknown.
                run.known = False
            else:
                self._note_peak()
                # A later stretch starts with what the earlier ones left.
                run.peak = max(run.peak, run.net + run.top - run.base)
                run.net += now - run.base
            if run in self._open:
                self._open.remove(run)
            self._stop_if_idle()

    def start_afresh(self) -> None:
        """Begin a forked child's life: the parent's runs are not its own, and the lock may have been held."""
        self._lock = threading.RLock()
        self._open.clear()
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if self._started and not self._open:
            self._started = False
            tracemalloc.stop()

    def _note_peak(self) -> None:
        peak = tracemalloc.get_traced_memory()[1]
        for run in self._open:
            run.top = max(run.top, peak)
        tracemalloc.reset_peak()


_tracing = _Tracing()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tracing.start_afresh)


class _Run:
    """One run's allocations, over as many stretches as it is resumed: `with` for each, `finish` at the end."""

    __slots__ = ("base", "known", "net", "peak", "recorder", "top")

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.net = self.peak = self.base = self.top = 0
        self.known = True

    def __enter__(self) -> None:
        _tracing.begin(self)

    def __exit__(self, *_: object) -> None:
        _tracing.end(self)

    def finish(self) -> None:
        if self.known:
            self.recorder.record_memory(self.net, self.peak)


def _profiled_function(function: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        run = _Run(recorder)
        try:
            with run:
                return function(*args, **kwargs)
        finally:
            run.finish()

    return shell


def _profiled_coroutine_function(function: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> Any:
        run = _Run(recorder)
        try:
            with run:
                return await function(*args, **kwargs)
        finally:
            run.finish()

    return shell


class _Resumptions:
    """A generator's resumptions, each a stretch of its run."""

    def __init__(self, generator: Generator[Any, Any, Any], run: _Run) -> None:
        self._generator = generator
        self._run = run

    def __iter__(self) -> _Resumptions:
        return self

    def __next__(self) -> Any:
        with self._run:
            return next(self._generator)

    def send(self, value: Any) -> Any:
        with self._run:
            return self._generator.send(value)

    def throw(self, *error: Any) -> Any:
        with self._run:
            return self._generator.throw(*error)

    def close(self) -> None:
        with self._run:
            self._generator.close()


def _profiled_generator_function(function: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        run = _Run(recorder)
        try:
            return cast("Any", (yield from _Resumptions(function(*args, **kwargs), run)))
        finally:
            run.finish()

    if is_awaitable_generator(function):
        from types import coroutine

        return cast("Callable[..., Any]", coroutine(shell))
    return shell


def _profiled_async_generator_function(function: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = function(*args, **kwargs)
        run = _Run(recorder)
        step = first_step(generator)
        try:
            while True:
                try:
                    with run:
                        item = await step
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    with run:
                        await generator.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 - whatever is thrown in is the generator's business
                    step = generator.athrow(error)
                else:
                    step = generator.asend(sent)
        finally:
            run.finish()

    return shell


_SHELLS: dict[Kind, Callable[[Callable[..., Any], Recorder], Callable[..., Any]]] = {
    "function": _profiled_function,
    "coroutine function": _profiled_coroutine_function,
    "generator function": _profiled_generator_function,
    "async generator function": _profiled_async_generator_function,
}


def profiled(function: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    """Return a function of the same kind whose runs' allocations go to the recorder."""
    return _core.Shell(function, _SHELLS[kind_of(function)](function, recorder))

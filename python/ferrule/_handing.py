"""The work of a parallel stage on somebody else's executor, in this process or in others."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor, Future
    from typing import Self

OnError = Literal["raise", "skip", "collect"]


class Parallel(NamedTuple):
    """Says how a stage is worked on at the same time."""

    workers: int
    ordered: bool
    most: int
    executor: Executor | None
    chunk: int | None


class Retried:
    """Is a retried function that can be sent to another process: the policy decorates it once more there."""

    def __init__(self, function: Callable[[Any], Any], policy: Callable[[Any], Any]) -> None:
        self._made_of = (function, policy)
        self._call: Callable[[Any], Any] = policy(function)

    def __call__(self, item: Any) -> Any:
        return self._call(item)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Retried, self._made_of)


class Failed:
    """Carries an error; into another process, its traceback as a note, for tracebacks stay where they are."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        import pickle
        from traceback import format_exception

        note = "raised in another process:\n" + "".join(format_exception(self.error)).rstrip()
        try:
            data = pickle.dumps(self.error)
            # There are errors that can be taken apart and not be put together again; in another process it is too late.
            pickle.loads(data)  # noqa: S301 - made in the line before
        except Exception:  # noqa: BLE001 - whatever their methods raise
            data = pickle.dumps(RuntimeError(f"{self.error!r}, which can't be pickled"))
        return (_arrived, (data, note))


def _arrived(data: bytes, note: str) -> Failed:
    import pickle

    error: Exception = pickle.loads(data)  # noqa: S301 - by way of a pickle already
    error.add_note(note)
    return Failed(error)


def _work(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Call a function for each item, in another process perhaps: an error is a result, too."""
    done: list[Any] = []
    for item in items:
        try:
            done.append((function(item),))
        except Exception as error:  # noqa: BLE001 - it is raised where the results are taken
            done.append(Failed(error))
    return done


class OnExecutor:
    """Hands chunks to an executor, and gives out what comes back."""

    def __init__(
        self,
        source: Iterator[Any],
        function: Callable[[Any], Any],
        parallel: Parallel,
        *,
        name: str,
        mode: OnError,
        collect: Callable[[Any], None],
        first: int,
    ) -> None:
        from queue import SimpleQueue

        self._source = source
        self._function = function
        self._parallel = parallel
        self._name = name
        self._mode = mode
        self._collect = collect
        self._pulled = first
        self._ahead = 0
        self._ended = False
        self._closed = False
        self._pending: Exception | None = None
        self._refused: set[Future[Any]] = set()
        self._window: dict[Future[Any], tuple[int, list[Any]]] = {}
        self._finished: SimpleQueue[Future[Any] | None] = SimpleQueue()
        self._ready: deque[tuple[int, Any, Any]] = deque()
        self._chunk = parallel.chunk or 1

    def __iter__(self) -> Self:
        return self

    def _hand_out(self) -> None:
        items: list[Any] = []
        try:
            while len(items) < min(self._chunk, self._parallel.most - self._ahead):
                items.append(next(self._source))
        except StopIteration:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - it comes behind what was pulled before it
            self._pending = error
        finally:
            if items:
                self._submit(items)

    def _submit(self, items: list[Any]) -> None:
        executor = cast("Executor", self._parallel.executor)
        first = self._pulled
        self._pulled += len(items)
        self._ahead += len(items)
        try:
            future: Future[Any] = executor.submit(_work, self._function, items)
        except Exception as error:  # noqa: BLE001 - the items are named with it
            from concurrent.futures import Future

            future = Future()
            future.set_exception(error)
            self._refused.add(future)
        self._window[future] = (first, items)
        if not self._parallel.ordered:
            future.add_done_callback(self._finished.put)

    def _take_in(self) -> None:
        from concurrent.futures import CancelledError, wait
        from time import perf_counter

        start = perf_counter()
        if self._parallel.ordered:
            future = next(iter(self._window))
            if not future.done():
                wait((future,))
        else:
            finished = self._finished.get()
            if finished is None:
                return
            future = finished
        if self._closed:
            return
        first, items = self._window.pop(future)
        # What can't be pickled, a dead worker, an executor that was shut down meanwhile.
        error = CancelledError() if future.cancelled() else future.exception()
        done = future.result() if error is None else [Failed(error)] * len(items)
        if future in self._refused:
            # Not to be skipped: an executor that takes nothing any more would swallow the whole source.
            self._refused.discard(future)
            done = [error] * len(items)
        if self._parallel.chunk is None and perf_counter() - start < 0.001 * len(items):
            self._chunk = min(self._chunk * 2, max(1, self._parallel.most // 4))
        self._ready.extend(
            (first + at, item, outcome) for at, (item, outcome) in enumerate(zip(items, done, strict=True))
        )

    def __next__(self) -> Any:
        while True:
            if self._ready:
                index, item, outcome = self._ready.popleft()
                self._ahead -= 1
                if isinstance(outcome, tuple):
                    return cast("tuple[Any]", outcome)[0]
                error = outcome.error if isinstance(outcome, Failed) else outcome
                if self._mode == "raise" or error is outcome or not isinstance(error, Exception):
                    error.add_note(f"in stage {self._name}, item {index}: {item!r:.200}")
                    raise error
                if self._mode == "collect":
                    self._collect((self._name, index, item, error))
            elif self._closed:
                raise StopIteration
            elif not self._ended and self._pending is None and self._ahead < self._parallel.most:
                self._hand_out()
            elif self._window:
                self._take_in()
            elif self._pending is not None:
                error, self._pending = self._pending, None
                raise error
            else:
                raise StopIteration

    def state(self) -> tuple[int, list[Any]]:
        """Tell how many items have come out, and which are on their way."""
        items = [item for _, item, _ in self._ready]
        for _, waiting in sorted(self._window.values(), key=lambda entry: entry[0]):
            items.extend(waiting)
        return self._pulled - len(items), items

    def close(self) -> None:
        """Cancel what has not begun; whoever waits for results, in whichever thread, is told that none come."""
        self._closed = self._ended = True
        for future in list(self._window):
            future.cancel()
        self._finished.put(None)
        self._ready.clear()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_chunk") and not is_finalizing():
            self.close()

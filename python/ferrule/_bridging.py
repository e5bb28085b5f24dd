"""Between a pipeline, which threads run, and an event loop: coroutines, sources and results."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncIterator, Callable, Iterator
    from concurrent.futures import Future
    from typing import Self


class Bridge:
    """Lets threads wait for coroutines of an event loop."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.closed = False
        self.futures: set[Future[Any]] = set()

    def waiting(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Make a function that waits for what a coroutine function comes to."""
        from asyncio import run_coroutine_threadsafe

        def wait(item: Any) -> Any:
            coroutine = function(item)
            try:
                future = run_coroutine_threadsafe(coroutine, self.loop)
            except RuntimeError:  # the loop is closed
                coroutine.close()
                raise
            self.futures.add(future)
            try:
                if self.closed:
                    future.cancel()
                return future.result()
            finally:
                self.futures.discard(future)

        return wait

    def close(self) -> None:
        """Cancel what is waited for."""
        self.closed = True
        for future in list(self.futures):
            future.cancel()


class Feed:
    """What an asynchronous source gives, for a thread that iterates; at most so many items ahead."""

    def __init__(self, source: Any, loop: AbstractEventLoop, ahead: int) -> None:
        from asyncio import Semaphore
        from queue import SimpleQueue

        self._loop = loop
        self._room = Semaphore(ahead)
        self._queue: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._closed = False
        self._task = loop.create_task(self._pump(aiter(source)))

    async def _pump(self, items: AsyncIterator[Any]) -> None:
        while True:
            try:
                await self._room.acquire()
                item = await anext(items)
            except StopAsyncIteration:
                break
            except BaseException as error:  # noqa: BLE001 - it is raised where the items are taken
                if self._closed:
                    break
                self._queue.put(("error", error))
                if not isinstance(error, Exception):
                    break
            else:
                self._queue.put(("item", item))
        self._queue.put(("end", None))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        kind, value = self._queue.get()
        if kind == "end":
            self._queue.put((kind, value))
            raise StopIteration
        from contextlib import suppress

        with suppress(RuntimeError):  # the loop is closed; what it has read is still here
            self._loop.call_soon_threadsafe(self._room.release)
        if kind == "item":
            return value
        raise value

    def close(self) -> None:
        """End it, whichever thread waits for it."""
        from contextlib import suppress

        self._closed = True
        self._queue.put(("end", None))
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._task.cancel)


class Puller:
    """A thread that pulls results for a loop, a number of them for each time it is asked."""

    _PATIENCE = 0.005

    def __init__(self, results: Iterator[Any], loop: AbstractEventLoop, ahead: int) -> None:
        from queue import SimpleQueue

        self._results = results
        self._loop = loop
        self._most = max(1, ahead)
        self._asked: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._pull, name="ferrule-run_async", daemon=True)
        self._thread.start()

    def some(self) -> Any:
        """Ask for results: a future of some, and what was raised behind them; `StopIteration` stands for the end."""
        answer: Any = self._loop.create_future()
        self._asked.put(answer)
        return answer

    def end(self) -> None:
        """Let the thread end."""
        self._asked.put(None)

    def _pull(self) -> None:
        from time import monotonic

        while (answer := self._asked.get()) is not None:
            found: deque[Any] = deque()
            raised: BaseException | None = None
            first = 0.0
            while len(found) < self._most and (not found or monotonic() - first < self._PATIENCE):
                try:
                    found.append(next(self._results))
                except BaseException as error:  # noqa: BLE001 - it is raised in the task
                    raised = error
                    break
                if len(found) == 1:
                    first = monotonic()
            try:
                self._loop.call_soon_threadsafe(_answer, answer, (found, raised))
            except RuntimeError:  # the loop is closed: nobody waits any more
                return


def _answer(future: Any, result: Any) -> None:
    if not future.done():
        future.set_result(result)

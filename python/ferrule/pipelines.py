"""Stages that items go through one by one: defined once, run many times, here or in another process.

`Pipeline` is the definition, `it` stands for an item in expressions that are evaluated natively, and `pipeline` chains
plain generator functions.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from itertools import chain, count, islice
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from ferrule import _core
from ferrule._bridging import Bridge, Feed, Puller
from ferrule._errors import MissingExtra
from ferrule._expressions import Expression, it
from ferrule._handing import OnError, OnExecutor, Parallel, Retried
from ferrule._kinds import kind_of
from ferrule.iterating import MISSING, Lines, at_least, batched_by, shown, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor
    from datetime import timedelta
    from types import TracebackType
    from typing import Self

__all__ = ["AsyncRun", "Expression", "Pipeline", "Run", "StageError", "it", "pipeline"]

_Plain = tuple[str, str, str, tuple[Any, ...]]
_ON_ERROR: Final = ("raise", "skip", "collect")
_THREADS: Final = 1024

# -- definitions ------------------------------------------------------------------------------------------------------


class StageError:
    """Is an error that did not end a run.

    `stage` is the stage's name, `index` the number of the item there, from 0 on, `item` the item, and `error` what was
    raised.
    """

    __slots__ = ("error", "index", "item", "stage")
    __match_args__ = ("stage", "index", "item", "error")

    def __init__(self, stage: str, index: int, item: Any, error: Exception) -> None:
        self.stage = stage
        self.index = index
        self.item = item
        self.error = error

    def __repr__(self) -> str:
        return f"StageError(stage={self.stage!r}, index={self.index}, item={self.item!r}, error={self.error!r})"


class _Stage(NamedTuple):
    kind: str
    name: str
    arguments: tuple[Any, ...]
    on_error: OnError | None = None
    parallel: Parallel | None = None


def _name_of(function: object) -> str:
    return (
        str(getattr(function, "__qualname__", None) or repr(function))
        if not isinstance(function, Expression)
        else repr(function)
    )


def _checked(name: str, function: object) -> None:
    if not callable(function):
        raise TypeError(f"{name} must be a callable, not {shown(function)}")


def _checked_mode(on_error: object) -> None:
    if on_error not in _ON_ERROR:
        raise ValueError(f"on_error must be 'raise', 'skip' or 'collect', got {on_error!r}")


def _checked_progress(progress: object) -> None:
    if progress is not False and progress is not True and not callable(progress):
        raise TypeError(f"progress must be a bool or a callable, not {shown(progress)}")


class _Limited:
    """Calls a function when a limiter lets it."""

    def __init__(self, function: Callable[[Any], Any], limiter: Any) -> None:
        self.function = function
        self.limiter = limiter

    def __call__(self, item: Any) -> Any:
        self.limiter.acquire()
        return self.function(item)


class Pipeline:
    """Is a sequence of stages, defined once; each method gives a new one with a stage more.

    >>> from ferrule import Pipeline, it
    >>> squares = Pipeline("squares").filter(it > 0).map(it * it).accumulate()
    >>> list(squares.run([3, -1, 4]))
    [9, 25]

    All stages that are not parallel run in one native loop behind one iterator. Every stage takes `name=` (left out:
    the name of its function) and `on_error=`: "raise", "skip" (the item is dropped) or "collect" (it is told in
    `run.errors`); left out, the run's own. An error that is raised says stage, index and item in a note, and the run
    can go on after it.

    Args:
        name: What the pipeline is called.
    """

    __slots__ = ("name", "stages")

    def __init__(self, name: str = "pipeline") -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {shown(name)}")
        self.name = name
        self.stages: tuple[_Stage, ...] = ()

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}: {', '.join(stage.name for stage in self.stages) or 'no stages'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restored, (self.name, self.stages))

    def _with(
        self,
        kind: str,
        arguments: tuple[Any, ...],
        name: str | None,
        on_error: OnError | None = None,
        parallel: Parallel | None = None,
    ) -> Pipeline:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, not {shown(name)}")
        if on_error is not None:
            _checked_mode(on_error)
        stage = _Stage(kind, name if name is not None else kind, arguments, on_error, parallel)
        return _restored(self.name, (*self.stages, stage))

    def lines(
        self,
        *,
        strip: bool = False,
        encoding: str = "utf-8",
        errors: str = "strict",
        newline: str | None = None,
        max_line: int | None = None,
        name: str | None = None,
    ) -> Pipeline:
        """Read the source as a file, line by line; see `ferrule.lines`. The first stage alone can do so."""
        if self.stages:
            raise ValueError("lines must be the first stage")
        options = {"encoding": encoding, "errors": errors, "newline": newline, "max_line": max_line}
        return self._with("lines", (bool(strip), options), name)

    def containing(self, text: str, *, name: str | None = None) -> Pipeline:
        """Keep the strings that contain a text; right behind `lines()`, this is decided on bytes."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, not {shown(text)}")
        return self._with("containing", (text,), name)

    def matching(self, pattern: str | re.Pattern[str], *, name: str | None = None) -> Pipeline:
        """Keep the strings in which a regular expression is found, as by `re.search`."""
        if not isinstance(pattern, (str, re.Pattern)) or not isinstance(getattr(pattern, "pattern", ""), str):
            raise TypeError(f"pattern must be a string or a compiled pattern of one, not {shown(pattern)}")
        return self._with("matching", (re.compile(pattern),), name)

    def split_field(self, index: int, sep: str | None = None, *, name: str | None = None) -> Pipeline:
        """Make one of its fields out of each string; see `Lines.split_field`."""
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"index must be an integer, not {shown(index)}")
        if sep is not None and not isinstance(sep, str):
            raise TypeError(f"sep must be a string or None, not {shown(sep)}")
        if sep == "":
            raise ValueError("sep must not be empty")
        return self._with("split_field", (index, sep), name)

    def map(
        self,
        function: Callable[[Any], Any],
        *,
        workers: int | None = None,
        ordered: bool = True,
        buffer: int = 64,
        executor: Executor | None = None,
        chunk: int | Literal["auto"] = 1,
        retry: Any = None,
        limit: Any = None,
        name: str | None = None,
        on_error: OnError | None = None,
    ) -> Pipeline:
        """Make something of each item.

        Args:
            function: Any callable, or an expression. A coroutine function is awaited by `run_async`, on its event loop.
            workers: How many threads call it at the same time; `None`: none, or as many as the executor has.
            ordered: Whether results come in the order of their items, or as they are done.
            buffer: How many items are pulled ahead at most, beyond two for each worker; 0 or more.
            executor: Any `concurrent.futures.Executor`, instead of threads of our own; stays open.
            chunk: How many items a worker gets at a time, 1 or more; "auto": as many as make a hand-over worth it.
            retry: A `Retry` policy for each call.
            limit: A `RateLimiter` that is asked before each call, and before each further attempt.
            name: What the stage is called; `None`: the function's name.
            on_error: What becomes of an item that the function fails on; `None`: what the run says.

        Raises:
            TypeError, ValueError: If an argument is not what it may be.
        """
        _checked("function", function)
        name = name if name is not None else _name_of(function)
        if limit is not None and not hasattr(limit, "acquire"):
            raise TypeError(f"limit must be a RateLimiter or None, not {shown(limit)}")
        if retry is not None and not callable(retry):
            raise TypeError(f"retry must be a Retry or None, not {shown(retry)}")
        parallel = None
        ahead = at_least("buffer", buffer, 0)
        if isinstance(chunk, str) and chunk != "auto":
            raise ValueError(f"chunk must be a number of items or 'auto', got {chunk!r}")
        size = None if chunk == "auto" else at_least("chunk", chunk, 1)
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must be an Executor or None, not {shown(executor)}")
        if workers is not None or executor is not None:
            if workers is None:
                workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
            count = at_least("workers", workers, 1)
            if count > _THREADS:
                raise ValueError(f"workers must be {_THREADS} or fewer, got {workers!r}")
            parallel = Parallel(count, bool(ordered), 2 * count + ahead, executor, size)
        elif (ordered, buffer, chunk) != (True, 64, 1):
            raise ValueError("ordered, buffer and chunk need workers or an executor: without, items come one by one")
        return self._with("map", (function, retry, limit), name, on_error, parallel)

    def filter(
        self, function: Callable[[Any], Any], *, name: str | None = None, on_error: OnError | None = None
    ) -> Pipeline:
        """Keep the items of which a function or an expression is true."""
        _checked("function", function)
        return self._with("filter", (function,), name or _name_of(function), on_error)

    def flat_map(
        self, function: Callable[[Any], Iterable[Any]], *, name: str | None = None, on_error: OnError | None = None
    ) -> Pipeline:
        """Make any number of items of each: those of the iterable that a function returns."""
        _checked("function", function)
        return self._with("flat_map", (function,), name or _name_of(function), on_error)

    def through(self, function: Callable[[Iterator[Any]], Iterable[Any]], *, name: str | None = None) -> Pipeline:
        """Send all items through a generator function, which gets their iterator."""
        _checked("function", function)
        return self._with("through", (function,), name or _name_of(function))

    def accumulate(
        self,
        function: Callable[[Any, Any], Any] | None = None,
        *,
        initial: Any = None,
        name: str | None = None,
        on_error: OnError | None = None,
    ) -> Pipeline:
        """Turn items into running totals, as `itertools.accumulate` does.

        Args:
            function: Makes the next total out of a total and an item; `None`: adds. `operator.add`, `operator.mul`,
                `min` and `max` are computed natively.
            initial: What to begin with; `None`: the first item. Other than in `itertools`, it is no result itself.
            name: What the stage is called.
            on_error: What becomes of an item that the function fails on; the total stays as it was.
        """
        import operator

        if function is not None:
            _checked("function", function)
        natively = {operator.add: "add", operator.mul: "mul", min: "min", max: "max", None: "add"}
        try:
            how: Any = natively.get(function, function)
        except TypeError:  # it can't be hashed
            how = function
        return self._with("accumulate", (how, initial), name, on_error)

    def dedupe(
        self,
        key: Callable[[Any], Any] | None = None,
        *,
        maxsize: int | None = 100_000,
        name: str | None = None,
        on_error: OnError | None = None,
    ) -> Pipeline:
        """Drop items that were seen before.

        Args:
            key: Makes what is compared out of an item; hashable. `None`: the item itself.
            maxsize: How many keys are remembered, the oldest being forgotten first; `None`: all of them.
            name: What the stage is called.
            on_error: What becomes of an item whose key can't be had.
        """
        if key is not None:
            _checked("key", key)
        most = None if maxsize is None else at_least("maxsize", maxsize, 1)
        return self._with("dedupe", (key, most), name, on_error)

    def skip(self, n: int, *, name: str | None = None) -> Pipeline:
        """Drop the first `n` items."""
        return self._with("skip", (at_least("n", n, 0),), name)

    def take(self, n: int, *, name: str | None = None) -> Pipeline:
        """Keep the first `n` items, and pull no more than are needed for them."""
        return self._with("take", (at_least("n", n, 0),), name)

    def take_while(
        self, function: Callable[[Any], Any], *, name: str | None = None, on_error: OnError | None = None
    ) -> Pipeline:
        """Keep items up to the first of which a function or an expression is not true."""
        _checked("function", function)
        return self._with("take_while", (function,), name or _name_of(function), on_error)

    def batch(self, n: int, *, max_wait: float | timedelta | None = None, name: str | None = None) -> Pipeline:
        """Put items into lists of `n`; with `max_wait`, a list comes that long after its first item at the latest."""
        size = at_least("n", n, 1)
        if max_wait is not None:
            return self._with("batch_within", (size, _core.seconds_from("max_wait", max_wait)), name or "batch")
        return self._with("batch", (size,), name)

    def windowed(self, n: int, *, step: int = 1, fillvalue: object = MISSING, name: str | None = None) -> Pipeline:
        """Make overlapping tuples of `n` items; see `ferrule.windowed`."""
        fill = None if fillvalue is MISSING else (fillvalue,)
        return self._with("windowed", (at_least("n", n, 1), at_least("step", step, 1), fill), name)

    def tap(
        self, function: Callable[[Any], Any], *, name: str | None = None, on_error: OnError | None = None
    ) -> Pipeline:
        """Call a function with each item, and pass the item on."""
        _checked("function", function)
        return self._with("tap", (function,), name or _name_of(function), on_error)

    def run(
        self,
        source: Any,
        *,
        progress: bool | Callable[[int], object] = False,
        on_error: OnError = "raise",
        resume: dict[str, Any] | None = None,
    ) -> Run:
        """Begin to run on a source; nothing is pulled before it is iterated.

        Args:
            source: Any iterable; with `lines()` as the first stage, a path or an open file.
            progress: Whether to show how many results there are (with tqdm, the extra `progress`), or a function that
                is told.
            on_error: What becomes of an item on which a stage fails that doesn't say so itself: "raise", "skip" or
                "collect".
            resume: What `state()` of another run of this pipeline has told: goes on from there, with the same source.

        Raises:
            TypeError, ValueError: If an argument is not what it may be; a path without `lines()`, for instance.
            OSError: If a file can't be opened.
        """
        return Run(self, source, progress=progress, on_error=on_error, resume=resume)

    def run_async(
        self,
        source: Any,
        *,
        progress: bool | Callable[[int], object] = False,
        on_error: OnError = "raise",
        buffer: int = 64,
    ) -> AsyncRun:
        """Begin to run on a source for `async for`; the source may be asynchronous.

        Stages run on a thread, so that they don't hold up the event loop, and coroutine functions are awaited on the
        loop.

        Args:
            source: As for `run`, or an asynchronous iterable.
            progress: As for `run`.
            on_error: As for `run`.
            buffer: How many items of an asynchronous source, and how many results, are pulled ahead at most, beside
                what parallel stages pull; 1 or more.

        Raises:
            TypeError, ValueError: If an argument is not what it may be.
        """
        return AsyncRun(self, source, progress=progress, on_error=on_error, buffer=buffer)


def _restored(name: str, stages: tuple[_Stage, ...]) -> Pipeline:
    made = Pipeline(name)
    made.stages = stages
    return made


# -- runs -------------------------------------------------------------------------------------------------------------


class Run:
    """Is one run of a pipeline: an iterator over its results.

    `errors` are those that were collected. Used as a context manager, or with `close()`, it ends its threads and
    closes what it has opened; letting go of it does the same.
    """

    def __init__(
        self,
        definition: Pipeline,
        source: Any,
        *,
        progress: bool | Callable[[int], object],
        on_error: OnError,
        resume: dict[str, Any] | None,
        bridge: Bridge | None = None,
    ) -> None:
        _checked_mode(on_error)
        _checked_progress(progress)
        self.errors: list[StageError] = []
        self._pipeline = definition
        self._mode: OnError = on_error
        self._bridge = bridge
        self._segments: list[Any] = []
        self._lines: Lines | None = None
        self._watched: _Watched | None = None
        self._closed = False
        if resume is not None and (not isinstance(resume, dict) or resume.get("pipeline") != _signature(definition)):
            raise ValueError("resume must be what state() of a run of this pipeline has told")
        self._iterator = self._built(source, resume)
        # A chain counts what it pulls itself; a parallel stage knows what was pulled before.
        chained = bool(self._segments) and isinstance(self._segments[0], _core.Chain)
        self._before = resume["source"] if resume is not None and self._lines is None and chained else 0
        if progress is not False:
            self._iterator = self._watched = _Watched(self._iterator, progress, definition.name)

    def _built(self, source: Any, resume: dict[str, Any] | None) -> Iterator[Any]:  # noqa: C901 - a loop
        stages = list(self._pipeline.stages)
        kept: list[Any] = list(resume["segments"]) if resume is not None else []
        current: Iterable[Any]
        if stages and stages[0].kind == "lines":
            strip, options = stages.pop(0).arguments
            start = tuple(resume["source"]) if resume is not None else (0, 0)
            lines = Lines(source, steps=(("strip", None, None),) if strip else (), start=start, **options)
            chosen = ("containing", "matching", "split_field")
            while stages and str(stages[0].kind) in chosen:
                stage = stages.pop(0)
                lines = getattr(lines, stage.kind)(*stage.arguments)
            self._lines = lines
            current = lines.made()
        else:
            whole = _iterable(source)
            current = whole if resume is None else islice(iter(whole), resume["source"], None)
        errors = self.errors

        def collect(told: tuple[str, int, Any, Exception]) -> None:
            errors.append(StageError(*told))

        serial: list[_Plain] = []

        def close_serial(current: Iterable[Any]) -> Iterable[Any]:
            if not serial:
                return current
            made = _core.Chain(current, list(serial), collect)
            serial.clear()
            if kept:
                made.restore(kept.pop(0))
            self._segments.append(made)
            return made

        for stage in stages:
            plain = self._plain(stage)
            if plain is not None:
                serial.append(plain)
                continue
            current = close_serial(current)
            if stage.kind == "through":
                current = iter(stage.arguments[0](iter(current)))
                self._segments.append(_Opaque(stage.name, current))
            elif stage.kind == "batch_within":
                size, seconds = stage.arguments
                current = batched_by(current, max_items=size, max_wait=seconds)
                self._segments.append(_Opaque(stage.name, current))
            else:
                told: tuple[int, list[Any]] = kept.pop(0) if kept else (0, [])
                before, items = told
                current = self._handed(stage, chain(items, current) if items else current, collect, before)
        if serial or not self._segments:
            serial.extend(() if serial else [("skip", "skip", "raise", (0,))])
            current = close_serial(current)
        return iter(current)

    def _plain(self, stage: _Stage) -> _Plain | None:  # noqa: PLR0911 - a table
        """Tell the native loop of a stage; `None` where it can't be in it."""
        mode = stage.on_error or self._mode
        match stage.kind:
            case "through" | "batch_within":
                return None
            case "containing":
                return ("filter", stage.name, mode, (methodcaller("__contains__", stage.arguments[0]),))
            case "matching":
                return ("filter", stage.name, mode, (stage.arguments[0].search,))
            case "split_field":
                return ("map", stage.name, mode, (step_of("field", *stage.arguments),))
            case "map":
                if stage.parallel is not None:
                    return None
                return ("map", stage.name, mode, (self._function(stage),))
            case "filter" | "flat_map" | "tap" | "take_while":
                return (stage.kind, stage.name, mode, (self._awaited(stage.arguments[0]),))
            case _:
                return (stage.kind, stage.name, mode, stage.arguments)

    def _awaited(self, function: Any) -> Any:
        if not isinstance(function, Expression) and kind_of(function) == "coroutine function":
            if self._bridge is None:
                raise TypeError(f"{_name_of(function)} is a coroutine function: use run_async")
            return self._bridge.waiting(function)
        return function

    def _function(self, stage: _Stage) -> Any:
        function, retry, limit = stage.arguments
        function = self._awaited(function)
        if limit is not None:
            function = _Limited(function, limit)
        if retry is None:
            return function
        executor = stage.parallel.executor if stage.parallel is not None else None
        return retry(function) if executor is None else Retried(function, retry)

    def _handed(
        self, stage: _Stage, current: Iterable[Any], collect: Callable[[Any], None], first: int
    ) -> Iterator[Any]:
        parallel = cast("Parallel", stage.parallel)
        function = self._function(stage)
        mode = stage.on_error or self._mode
        if parallel.executor is not None:
            handed = OnExecutor(
                iter(current), function, parallel, name=stage.name, mode=mode, collect=collect, first=first
            )
            self._segments.append(handed)
            return handed
        numbers = count()

        def start(worker: Callable[[], None]) -> None:
            threading.Thread(target=worker, name=f"ferrule-{stage.name}-{next(numbers)}", daemon=True).start()

        made = _core.Handing(
            current,
            function,
            start,
            workers=parallel.workers,
            most=parallel.most,
            chunk=parallel.chunk,
            ordered=parallel.ordered,
            name=stage.name,
            on_error=mode,
            collect=collect,
            first=first,
        )
        self._segments.append(made)
        return made

    def __iter__(self) -> Iterator[Any]:
        # The native iterator itself: a frame of Python for each item would cost more than most stages.
        return self._iterator

    def __next__(self) -> Any:
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """Tell where the run stands: what another one needs to go on from there. Picklable if the items are.

        Raises:
            TypeError: If a stage has a state that nobody knows: `through`, and `batch` with `max_wait`.
            ValueError: In the middle of what a `flat_map` gives out, while another thread advances the run, or when the
                run is closed: what was on its way is gone then.
        """
        if self._closed:
            raise ValueError("the run is closed: its state has to be asked for before")
        segments: list[Any] = []
        pulled: Any = 0
        for place, segment in enumerate(self._segments):
            if isinstance(segment, _Opaque):
                raise TypeError(f"the state of stage {segment.name} can't be told")
            told = segment.state()
            segments.append(told)
            if place == 0:
                pulled = segment.pulled() if isinstance(segment, _core.Chain) else told[0] + len(told[1])
        if self._lines is not None:
            pulled = self._lines.position()
        else:
            pulled += self._before
        return {"pipeline": _signature(self._pipeline), "source": pulled, "segments": segments}

    def close(self) -> None:
        """End it: its threads, as soon as they have finished what they are at, and what it has opened.

        Where another thread waits for results at the moment, it gets none any more.
        """
        self._closed = True
        for segment in reversed(self._segments):
            segment.close()
        if self._lines is not None:
            self._lines.close()
        if self._watched is not None:
            self._watched.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Run of {self._pipeline!r}>"


def _signature(definition: Pipeline) -> tuple[str, ...]:
    return tuple(f"{stage.kind}:{stage.name}" for stage in definition.stages)


class _Opaque(NamedTuple):
    name: str
    iterator: Any

    def close(self) -> None:
        from contextlib import suppress

        close = getattr(self.iterator, "close", None)
        if close is not None:
            with suppress(ValueError):  # a generator that another thread is in, which finds the stages before it closed
                close()


class _Watched:
    """Tells of each result before it goes out; one that can't be told of is kept."""

    def __init__(self, results: Iterator[Any], progress: Literal[True] | Callable[[int], object], name: str) -> None:
        self._results = results
        self._count = 0
        self._kept: list[Any] = []
        self._bar: Any = None
        if progress is True:
            try:
                from tqdm import tqdm  # type: ignore[import-untyped]
            except ImportError:
                raise MissingExtra("progress=True", "progress", "tqdm") from None
            self._bar = tqdm(desc=name)
            self._tell: Callable[[int], object] = lambda _: self._bar.update()
        else:
            self._tell = progress

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._kept:
            return self._kept.pop()
        try:
            self._kept.append(next(self._results))
        except StopIteration:
            self.close()
            raise
        self._count += 1
        self._tell(self._count)
        return self._kept.pop()

    def close(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()


# -- asynchronous runs ------------------------------------------------------------------------------------------------


class AsyncRun:
    """Is one run of a pipeline for `async for`; `errors` are those that were collected.

    An error that is raised doesn't end it, and no result is lost when a task is cancelled that waits for one: the next
    to ask gets it. Used with `async with`, or by `aclose()`, it ends its threads and its source; letting go of it does
    the same.
    """

    def __init__(
        self,
        definition: Pipeline,
        source: Any,
        *,
        progress: bool | Callable[[int], object],
        on_error: OnError,
        buffer: int,
    ) -> None:
        _checked_mode(on_error)
        _checked_progress(progress)
        given: Any = source
        if isinstance(given, (str, bytes, os.PathLike)) and not _reads_lines(definition):
            raise TypeError(f"source is {shown(source)}: to read it as a file, begin the pipeline with .lines()")
        self.errors: list[StageError] = []
        self._definition = definition
        self._source: Any = given
        self._progress: Any = progress
        self._mode: OnError = on_error
        self._ahead = at_least("buffer", buffer, 1)
        self._parts: list[Any] = []
        self._puller: Puller | None = None
        self._found: deque[Any] = deque()
        self._raised: BaseException | None = None
        self._asked: Any = None
        self._waited_for = False
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    def _begin(self) -> Puller:
        from asyncio import get_running_loop

        loop = get_running_loop()
        bridge = Bridge(loop)
        # Let go of with what reads it: an asynchronous generator that nobody has any more is closed by the loop.
        source, self._source = self._source, None
        self._parts.append(bridge)
        if hasattr(source, "__aiter__") and not isinstance(source, Lines):
            source = Feed(source, loop, self._ahead)
            self._parts.append(source)
        run = Run(self._definition, source, progress=self._progress, on_error=self._mode, resume=None, bridge=bridge)
        self.errors = run.errors
        self._parts.append(run)
        self._puller = Puller(iter(run), loop, self._ahead)
        return self._puller

    async def __anext__(self) -> Any:
        if not self._found:
            await self._fill()
        if self._found:
            return self._found.popleft()
        raised, self._raised = self._raised, None
        if raised is None or isinstance(raised, StopIteration):
            self._end()
            raise StopAsyncIteration
        raise raised

    async def _fill(self) -> None:
        from asyncio import shield

        if self._raised is not None or self._ended:
            return
        if self._waited_for:
            raise RuntimeError("another task waits for results of this run already")
        self._waited_for = True
        try:
            if self._asked is None:
                self._asked = (self._puller or self._begin()).some()
            # Shielded: an answer that comes too late for a task is there for the next.
            self._found, self._raised = await shield(self._asked)
            self._asked = None
        finally:
            self._waited_for = False

    def _end(self) -> None:
        self._ended = True
        for part in self._parts:
            part.close()
        self._parts.clear()
        if self._puller is not None:
            self._puller.end()

    async def aclose(self) -> None:
        """End it; nothing comes any more."""
        self._end()
        self._found.clear()
        self._raised = None
        if self._asked is not None and not self._asked.done():
            self._asked.set_result((deque(), None))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # What is left when the interpreter goes ends with it.
        if getattr(self, "_parts", None) and not is_finalizing():
            self._end()

    def __repr__(self) -> str:
        return f"<AsyncRun of {self._definition!r}>"


def _iterable(source: Any) -> Iterable[Any]:
    given: object = source
    if isinstance(given, (str, bytes, os.PathLike)):
        raise TypeError(f"source is {shown(source)}: to read it as a file, begin the pipeline with .lines()")
    if hasattr(given, "__aiter__") and not hasattr(given, "__iter__"):
        raise TypeError(f"source is asynchronous, {shown(source)}: use run_async")
    return cast("Iterable[Any]", given)


def _reads_lines(definition: Pipeline) -> bool:
    stages = definition.stages
    return bool(stages) and stages[0].kind == "lines"


# -- plain generator functions ----------------------------------------------------------------------------------------


def _items(value: Any) -> Iterable[Any]:
    given: object = value
    if isinstance(given, (str, bytes)) or not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
        return (given,)
    return cast("Iterable[Any]", given)


def pipeline(*functions: Callable[[Any], Any]) -> Callable[[Any], Iterator[Any]]:
    """Chain generator functions: each gets what the one before it yields.

    >>> from ferrule import pipeline
    >>> def doubled(numbers):
    ...     for number in numbers:
    ...         yield 2 * number
    >>> list(pipeline(doubled, doubled)([1, 2])), list(pipeline(doubled)(5))
    ([4, 8], [10])

    A value that can't be iterated is one item, and so are `str` and `bytes`: what is put in, and what a function
    returns.

    Args:
        functions: Callables with one argument; the first gets the data.

    Returns:
        A function that can be called any number of times.

    Raises:
        TypeError: If one can't be called.
    """
    for place, function in enumerate(functions):
        if not callable(function):
            raise TypeError(f"function {place} must be a callable, not {shown(function)}")

    def run(data: Any) -> Iterator[Any]:
        items = _items(data)
        for function in functions:
            items = _items(function(items))
        return iter(items)

    return run

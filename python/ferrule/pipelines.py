"""Stages that items go through one by one: defined once, run many times, here or in another process.

`Pipeline` is the definition, `it` stands for an item in expressions that are evaluated natively, and `pipeline` chains
plain generator functions.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from itertools import chain, islice
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn, cast

from ferrule import _core
from ferrule._errors import MissingExtra
from ferrule._kinds import kind_of
from ferrule.iterating import MISSING, Lines, at_least, batched_by, shown, step_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future
    from datetime import timedelta
    from types import TracebackType
    from typing import Self

__all__ = ["AsyncRun", "Expression", "Pipeline", "Run", "StageError", "it", "pipeline"]

OnError = Literal["raise", "skip", "collect"]
_Plain = tuple[str, str, str, tuple[Any, ...]]
_ON_ERROR: Final = ("raise", "skip", "collect")
_THREADS: Final = 1024

# -- expressions ------------------------------------------------------------------------------------------------------


class Expression:
    """Is what is done to an item, recorded, to be done later and natively; begin with `it`.

    >>> from ferrule import it
    >>> long = (it["latency"] > 0.5) & ~it["path"].method("startswith", "/health")
    >>> long({"latency": 0.7, "path": "/"})
    True
    >>> long
    ((it['latency'] > 0.5) & (~it['path'].method('startswith', '/health')))

    Arithmetic, comparisons, attributes (`it.name`), items (`it["k"]`), methods (`it.method("strip")`) and membership
    (`it.in_({1, 2})`) are recorded. `&` and `|` between truth values stop where the left side decides, as `and` and
    `or` do; `~` of a truth value is `not`. An expression can be called, pickled, printed, and used wherever a function
    is.
    """

    __slots__ = ("__program", "__tree")

    def __init__(self, tree: tuple[Any, ...]) -> None:
        self.__tree = tree
        self.__program = _core.Program(tree)

    def _ferrule_program(self) -> _core.Program:
        return self.__program

    def __call__(self, item: Any, /) -> Any:
        """Evaluate the expression for an item."""
        return self.__program(item)

    def __getattr__(self, name: str) -> Expression:
        if name.startswith(("__", "_Expression__")):
            raise AttributeError(name)
        return Expression(("attribute", self.__tree, name))

    def __getitem__(self, key: object) -> Expression:
        return Expression(("item", self.__tree, key))

    def method(self, name: str, /, *args: object) -> Expression:
        """Record the call of a method, as `operator.methodcaller` does."""
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {shown(name)}")
        return Expression(("method", self.__tree, name, args))

    def in_(self, container: object, /) -> Expression:
        """Record the question whether it is in a container."""
        if not hasattr(type(container), "__contains__") and not hasattr(type(container), "__iter__"):
            raise TypeError(f"container must be a container, not {shown(container)}")
        return Expression(("in", self.__tree, container))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Expression, (self.__tree,))

    def __repr__(self) -> str:
        return _written(self.__tree)

    def __hash__(self) -> NoReturn:
        raise TypeError("an expression can't be hashed: == records a comparison; use it.in_(...) for membership")

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "an expression is neither true nor false yet: use & for and, | for or, ~ for not, in parentheses"
        )

    def __len__(self) -> NoReturn:
        raise TypeError('an expression has no length: use it.method("__len__")')

    def __iter__(self) -> NoReturn:
        raise TypeError("an expression can't be iterated: use it[0], it[1] and so on")

    def __contains__(self, item: object) -> NoReturn:
        raise TypeError('an expression contains nothing yet: use it.method("__contains__", item), or it.in_(container)')

    def __binary(self, name: str, other: object) -> Expression:
        return Expression((name, self.__tree, _tree_of(other)))

    def __reflected(self, name: str, other: object) -> Expression:
        return Expression((name, _tree_of(other), self.__tree))

    def _ferrule_tree(self) -> tuple[Any, ...]:
        return self.__tree

    def __add__(self, other: object) -> Expression:
        return self.__binary("+", other)

    def __radd__(self, other: object) -> Expression:
        return self.__reflected("+", other)

    def __sub__(self, other: object) -> Expression:
        return self.__binary("-", other)

    def __rsub__(self, other: object) -> Expression:
        return self.__reflected("-", other)

    def __mul__(self, other: object) -> Expression:
        return self.__binary("*", other)

    def __rmul__(self, other: object) -> Expression:
        return self.__reflected("*", other)

    def __truediv__(self, other: object) -> Expression:
        return self.__binary("/", other)

    def __rtruediv__(self, other: object) -> Expression:
        return self.__reflected("/", other)

    def __floordiv__(self, other: object) -> Expression:
        return self.__binary("//", other)

    def __rfloordiv__(self, other: object) -> Expression:
        return self.__reflected("//", other)

    def __mod__(self, other: object) -> Expression:
        return self.__binary("%", other)

    def __rmod__(self, other: object) -> Expression:
        return self.__reflected("%", other)

    def __pow__(self, other: object) -> Expression:
        return self.__binary("**", other)

    def __rpow__(self, other: object) -> Expression:
        return self.__reflected("**", other)

    def __and__(self, other: object) -> Expression:
        return self.__binary("&", other)

    def __rand__(self, other: object) -> Expression:
        return self.__reflected("&", other)

    def __or__(self, other: object) -> Expression:
        return self.__binary("|", other)

    def __ror__(self, other: object) -> Expression:
        return self.__reflected("|", other)

    def __xor__(self, other: object) -> Expression:
        return self.__binary("^", other)

    def __rxor__(self, other: object) -> Expression:
        return self.__reflected("^", other)

    def __lshift__(self, other: object) -> Expression:
        return self.__binary("<<", other)

    def __rlshift__(self, other: object) -> Expression:
        return self.__reflected("<<", other)

    def __rshift__(self, other: object) -> Expression:
        return self.__binary(">>", other)

    def __rrshift__(self, other: object) -> Expression:
        return self.__reflected(">>", other)

    def __lt__(self, other: object) -> Expression:
        return self.__binary("<", other)

    def __le__(self, other: object) -> Expression:
        return self.__binary("<=", other)

    def __gt__(self, other: object) -> Expression:
        return self.__binary(">", other)

    def __ge__(self, other: object) -> Expression:
        return self.__binary(">=", other)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return self.__binary("==", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return self.__binary("!=", other)

    def __neg__(self) -> Expression:
        return Expression(("neg", self.__tree))

    def __pos__(self) -> Expression:
        return Expression(("pos", self.__tree))

    def __abs__(self) -> Expression:
        return Expression(("abs", self.__tree))

    def __invert__(self) -> Expression:
        return Expression(("not", self.__tree))


def _tree_of(value: object) -> tuple[Any, ...]:
    return value._ferrule_tree() if isinstance(value, Expression) else ("constant", value)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _written(tree: tuple[Any, ...]) -> str:  # noqa: PLR0911 - a table
    match tree:
        case ("it",):
            return "it"
        case ("constant", value):
            return repr(value)
        case ("attribute", of, name):
            return f"{_written(of)}.{name}"
        case ("item", of, key):
            return f"{_written(of)}[{key!r}]"
        case ("method", of, name, args):
            return f"{_written(of)}.method({', '.join(map(repr, (name, *args)))})"
        case ("in", of, container):
            return f"{_written(of)}.in_({container!r})"
        case ("abs", of):
            return f"abs({_written(of)})"
        case (("neg" | "pos" | "not") as name, of):
            return f"({ {'neg': '-', 'pos': '+', 'not': '~'}[name] }{_written(of)})"
        case (name, one, other):
            return f"({_written(one)} {name} {_written(other)})"
        case _:
            return repr(tree)


it: Final = Expression(("it",))
"""Stands for the item in an expression."""


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


class _Parallel(NamedTuple):
    workers: int
    ordered: bool
    most: int
    executor: Executor | None
    chunk: int | None


class _Stage(NamedTuple):
    kind: str
    name: str
    arguments: tuple[Any, ...]
    on_error: OnError | None = None
    parallel: _Parallel | None = None


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


class _Limited:
    """Calls a function when a limiter lets it."""

    def __init__(self, function: Callable[[Any], Any], limiter: Any) -> None:
        self.function = function
        self.limiter = limiter

    def __call__(self, item: Any) -> Any:
        self.limiter.acquire()
        return self.function(item)


class _Field:
    def __init__(self, index: int, sep: str | None) -> None:
        self.index = index
        self.sep = sep

    def __call__(self, line: str) -> str:
        return cast("str", step_of("field", self.index, self.sep)(line))


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
        parallel: _Parallel | None = None,
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
        size = None if chunk == "auto" else at_least("chunk", chunk, 1)
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must be an Executor or None, not {shown(executor)}")
        if workers is not None or executor is not None:
            if workers is None:
                workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
            count = at_least("workers", workers, 1)
            if count > _THREADS:
                raise ValueError(f"workers must be {_THREADS} or fewer, got {workers!r}")
            parallel = _Parallel(count, bool(ordered), 2 * count + ahead, executor, size)
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
        self, source: Any, *, progress: bool | Callable[[int], object] = False, on_error: OnError = "raise"
    ) -> AsyncRun:
        """Begin to run on a source for `async for`; the source may be asynchronous.

        Stages run on a thread, so that they don't hold up the event loop, and coroutine functions are awaited on the
        loop.

        Args:
            source: As for `run`, or an asynchronous iterable.
            progress: As for `run`.
            on_error: As for `run`.

        Raises:
            TypeError, ValueError: If an argument is not what it may be.
        """
        return AsyncRun(self, source, progress=progress, on_error=on_error)


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
        bridge: _Bridge | None = None,
    ) -> None:
        _checked_mode(on_error)
        if progress is not False and progress is not True and not callable(progress):
            raise TypeError(f"progress must be a bool or a callable, not {shown(progress)}")
        self.errors: list[StageError] = []
        self._pipeline = definition
        self._mode: OnError = on_error
        self._bridge = bridge
        self._segments: list[Any] = []
        self._lines: Lines | None = None
        if resume is not None and (not isinstance(resume, dict) or resume.get("pipeline") != _signature(definition)):
            raise ValueError("resume must be what state() of a run of this pipeline has told")
        self._iterator = self._built(source, resume)
        # A chain counts what it pulls itself; a parallel stage knows what was pulled before.
        chained = bool(self._segments) and isinstance(self._segments[0], _core.Chain)
        self._before = resume["source"] if resume is not None and self._lines is None and chained else 0
        if progress is not False:
            self._iterator = _watched(self._iterator, progress, definition.name)

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
            given: object = source
            if isinstance(given, (str, bytes, os.PathLike)):
                raise TypeError(f"source is {shown(source)}: to read it as a file, begin the pipeline with .lines()")
            whole = cast("Iterable[Any]", given)
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
                return ("map", stage.name, mode, (_Field(*stage.arguments),))
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
        return retry(function) if retry is not None else function

    def _handed(
        self, stage: _Stage, current: Iterable[Any], collect: Callable[[Any], None], first: int
    ) -> Iterator[Any]:
        parallel = cast("_Parallel", stage.parallel)
        function = self._function(stage)
        mode = stage.on_error or self._mode
        if parallel.executor is not None:
            handed = _OnExecutor(
                iter(current), function, parallel, name=stage.name, mode=mode, collect=collect, first=first
            )
            self._segments.append(handed)
            return handed
        made = _core.Handing(
            current,
            function,
            most=parallel.most,
            chunk=parallel.chunk,
            ordered=parallel.ordered,
            name=stage.name,
            on_error=mode,
            collect=collect,
            first=first,
        )
        for number in range(parallel.workers):
            threading.Thread(target=made.worker(), name=f"ferrule-{stage.name}-{number}", daemon=True).start()
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
            ValueError: In the middle of what a `flat_map` gives out, or while another thread advances the run.
        """
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
        """End it: its threads, as soon as they have finished what they are at, and what it has opened."""
        from contextlib import suppress

        for segment in reversed(self._segments):
            with suppress(ValueError):  # being advanced by another thread, which ends it
                segment.close()
        if self._lines is not None:
            self._lines.close()

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
        close = getattr(self.iterator, "close", None)
        if close is not None:
            close()


def _watched(results: Iterator[Any], progress: Any, name: str) -> Iterator[Any]:
    if progress is True:
        try:
            from tqdm import tqdm  # type: ignore[import-untyped]
        except ImportError:
            raise MissingExtra("progress=True", "progress", "tqdm") from None
        return iter(tqdm(results, desc=name))

    def watched() -> Iterator[Any]:
        for count, result in enumerate(results, 1):
            cast("Callable[[int], object]", progress)(count)
            yield result

    return watched()


def _work(function: Callable[[Any], Any], items: list[Any]) -> list[tuple[bool, Any]]:
    """Call a function for each item, in a process of an executor, perhaps: an error is a result, too."""
    done: list[tuple[bool, Any]] = []
    for item in items:
        try:
            done.append((True, function(item)))
        except Exception as error:  # noqa: BLE001 - it is raised where the results are taken
            done.append((False, error))
    return done


class _OnExecutor:
    """Hands chunks to an executor, and gives out what comes back."""

    def __init__(
        self,
        source: Iterator[Any],
        function: Callable[[Any], Any],
        parallel: _Parallel,
        *,
        name: str,
        mode: OnError,
        collect: Callable[[Any], None],
        first: int,
    ) -> None:
        self._source = source
        self._function = function
        self._parallel = parallel
        self._name = name
        self._mode = mode
        self._collect = collect
        self._pulled = first
        self._ahead = 0
        self._ended = False
        self._pending: BaseException | None = None
        self._futures: dict[Future[Any] | None, tuple[int, list[Any]]] = {}
        self._ready: deque[tuple[int, Any, bool, Any]] = deque()
        self._chunk = parallel.chunk or 1

    def __iter__(self) -> Self:
        return self

    def _hand_out(self) -> None:
        executor = cast("Executor", self._parallel.executor)
        items: list[Any] = []
        while len(items) < min(self._chunk, self._parallel.most - self._ahead):
            try:
                items.append(next(self._source))
            except StopIteration:
                self._ended = True
                break
            except Exception as error:  # noqa: BLE001 - it comes behind what was pulled before it
                self._pending = error
                break
        if not items:
            return
        first = self._pulled
        self._pulled += len(items)
        self._ahead += len(items)
        try:
            future: Future[Any] = executor.submit(_work, self._function, items)
        except Exception as error:  # noqa: BLE001 - the items are named with it
            self._ready.extend((first + place, item, False, error) for place, item in enumerate(items))
        else:
            self._futures[future] = (first, items)

    def _take_in(self) -> None:
        from concurrent.futures import FIRST_COMPLETED, wait
        from time import perf_counter

        start = perf_counter()
        if self._parallel.ordered:
            future = next(iter(self._futures))
            wait((cast("Any", future),))
        else:
            future = next(iter(wait(cast("Any", self._futures.keys()), return_when=FIRST_COMPLETED).done))
        first, items = self._futures.pop(future)
        try:
            done = cast("Any", future).result()
        except BaseException as error:  # noqa: BLE001 - a dead worker, or what can't be pickled
            done = [(False, error)] * len(items)
        if self._parallel.chunk is None and perf_counter() - start < 0.001 * len(items):
            self._chunk = min(self._chunk * 2, max(1, self._parallel.most // 4))
        self._ready.extend(
            (first + at, item, *outcome) for at, (item, outcome) in enumerate(zip(items, done, strict=True))
        )

    def __next__(self) -> Any:
        while True:
            if self._ready:
                index, item, well, outcome = self._ready.popleft()
                self._ahead -= 1
                if well:
                    return outcome
                if self._mode == "raise" or not isinstance(outcome, Exception):
                    outcome.add_note(f"in stage {self._name}, item {index}: {item!r:.200}")
                    raise outcome
                if self._mode == "collect":
                    self._collect((self._name, index, item, outcome))
                continue
            if not self._ended and self._pending is None and self._ahead < self._parallel.most:
                self._hand_out()
                continue
            if self._futures:
                self._take_in()
                continue
            if self._pending is not None:
                error, self._pending = self._pending, None
                raise error
            raise StopIteration

    def state(self) -> tuple[int, list[Any]]:
        """Tell how many items have come out, and which are on their way."""
        items = [item for _, item, _, _ in self._ready]
        for _, waiting in sorted(self._futures.values(), key=lambda entry: entry[0]):
            items.extend(waiting)
        return self._pulled - len(items), items

    def close(self) -> None:
        """Cancel what has not begun."""
        self._ended = True
        for future in self._futures:
            cast("Any", future).cancel()
        self._futures.clear()
        self._ready.clear()
        self._ahead = 0


# -- asynchronous runs ------------------------------------------------------------------------------------------------


class _Bridge:
    """Lets threads wait for coroutines of an event loop."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.closed = False
        self.futures: set[Future[Any]] = set()

    def waiting(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Make a function that waits for what a coroutine function comes to."""
        from asyncio import run_coroutine_threadsafe

        def wait(item: Any) -> Any:
            if self.closed:
                raise RuntimeError("the run is closed")
            future = run_coroutine_threadsafe(function(item), self.loop)
            self.futures.add(future)
            try:
                return future.result()
            finally:
                self.futures.discard(future)

        return wait

    def close(self) -> None:
        """Cancel what is waited for."""
        self.closed = True
        for future in list(self.futures):
            future.cancel()


class _Feed:
    """What an asynchronous source gives, for a thread that iterates; at most so many items ahead."""

    _AHEAD = 64

    def __init__(self, source: Any, loop: AbstractEventLoop) -> None:
        from asyncio import Semaphore
        from queue import SimpleQueue

        self._source = source
        self._loop = loop
        self._room = Semaphore(self._AHEAD)
        self._queue: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._task = loop.create_task(self._pump())
        self._ended = False

    async def _pump(self) -> None:
        try:
            async for item in self._source:
                self._queue.put(("item", item))
                await self._room.acquire()
        except Exception as error:  # noqa: BLE001 - it is raised where the items are taken
            self._queue.put(("error", error))
        finally:
            self._queue.put(("end", None))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        kind, value = self._queue.get()
        if kind == "item":
            self._loop.call_soon_threadsafe(self._room.release)
            return value
        if kind == "error":
            raise value
        self._ended = True
        raise StopIteration

    async def close(self) -> None:
        """End the source."""
        self._task.cancel()
        from asyncio import wait

        await wait((self._task,), timeout=1.0)
        self._queue.put(("end", None))


class _Puller:
    """A thread that pulls results for a loop, a number of them for each time it is asked."""

    _MOST = 64
    _PATIENCE = 0.005

    def __init__(self, results: Iterator[Any], loop: AbstractEventLoop) -> None:
        from queue import SimpleQueue

        self._results = results
        self._loop = loop
        self._asked: SimpleQueue[Any] = SimpleQueue()
        self.thread = threading.Thread(target=self._pull, name="ferrule-run_async", daemon=True)
        self.thread.start()

    async def some(self) -> tuple[list[Any], BaseException | None]:
        """Wait for results: some, and what was raised behind them; `StopIteration` stands for the end."""
        answer: Any = self._loop.create_future()
        self._asked.put(answer)
        return cast("tuple[list[Any], BaseException | None]", await answer)

    def end(self) -> None:
        """Let the thread end."""
        self._asked.put(None)

    def _pull(self) -> None:
        from time import monotonic

        while (answer := self._asked.get()) is not None:
            found: list[Any] = []
            raised: BaseException | None = None
            first = 0.0
            while len(found) < self._MOST and (not found or monotonic() - first < self._PATIENCE):
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


class AsyncRun:
    """Is one run of a pipeline for `async for`; `errors` are those that were collected."""

    def __init__(
        self, definition: Pipeline, source: Any, *, progress: bool | Callable[[int], object], on_error: OnError
    ) -> None:
        _checked_mode(on_error)
        given: Any = source
        if isinstance(given, (str, bytes, os.PathLike)) and not _reads_lines(definition):
            raise TypeError(f"source is {shown(source)}: to read it as a file, begin the pipeline with .lines()")
        self.errors: list[StageError] = []
        self._definition = definition
        self._source: Any = given
        self._progress: Any = progress
        self._mode: OnError = on_error
        self._begun = False

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._begun:
            raise ValueError("a run is iterated once; the pipeline can be run again")
        self._begun = True
        return self._iterated()

    async def _iterated(self) -> AsyncIterator[Any]:
        from asyncio import get_running_loop

        loop = get_running_loop()
        bridge = _Bridge(loop)
        given: object = self._source
        asynchronous = hasattr(given, "__aiter__") and not isinstance(given, Lines)
        feed = _Feed(given, loop) if asynchronous else None
        run: Run | None = None
        puller: _Puller | None = None
        try:
            source = self._source if feed is None else feed
            run = Run(
                self._definition, source, progress=self._progress, on_error=self._mode, resume=None, bridge=bridge
            )
            run.errors = self.errors = run.errors
            puller = _Puller(iter(run), loop)
            while True:
                found, raised = await puller.some()
                for item in found:
                    yield item
                if isinstance(raised, StopIteration):
                    return
                if raised is not None:
                    raise raised
        finally:
            bridge.close()
            if puller is not None:
                puller.end()
            if feed is not None:
                await feed.close()
            if run is not None:
                run.close()


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

"""Batches, windows, averages, flat lists, trees, sorting, and the lines of files: what loops are made of.

What `itertools` does in C is not written again: `countdown` is a `range`, and `flatten` one level deep is `chain`.
Every iterator here is advanced by one thread at a time; a second one meanwhile gets a `ValueError`, as from a
generator.
"""

from __future__ import annotations

import io
import math
import os
import re
import threading
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast, overload

from ferrule import _checking, _core

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from datetime import timedelta
    from types import TracebackType
    from typing import IO, Self, TypeAlias

    from _typeshed import SupportsRichComparison

    Source: TypeAlias = str | os.PathLike[str] | IO[bytes] | IO[str]

__all__ = [
    "Lines",
    "batched",
    "batched_by",
    "chunked",
    "countdown",
    "fibonacci",
    "flatten",
    "inorder",
    "lines",
    "moving_average",
    "sort",
    "windowed",
]

T = TypeVar("T")

_MANY: Final = 2**63
shown: Final = _checking.shown


class _Missing:
    """Stands for an argument that was left out, where `None` is a value."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


def at_least(name: str, value: object, least: int) -> int:
    """Check an argument that is an integer from `least` on."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be an integer, not {shown(value)}")
    number: int = cast("Any", value).__index__()
    if not least <= number < _MANY:
        raise ValueError(f"{name} must be {least} or more, got {value!r}")
    return number


def batched(iterable: Iterable[T], n: int, *, strict: bool = False) -> Iterator[tuple[T, ...]]:
    """Yield the items in tuples of `n`, the last one shorter if they don't come out even.

    >>> from ferrule import batched
    >>> list(batched("ABCDEFG", 3))
    [('A', 'B', 'C'), ('D', 'E', 'F'), ('G',)]

    A list or tuple is sliced. Where the source raises, what had been pulled before is yielded first, and the error
    comes at the next step: nothing is lost. (With `strict` the error comes at once, and the items stay for the batch
    that is yielded when the iterator is asked again.)

    Args:
        iterable: Where the items come from; may be endless.
        n: How many items a batch has, 1 or more.
        strict: Whether a last batch that is shorter is a `ValueError`, which names its items.

    Raises:
        TypeError, ValueError: If `iterable` can't be iterated, or `n` is not what it may be.
    """
    return _core.Batches(iterable, at_least("n", n, 1), strict=bool(strict), tuples=True)


def chunked(iterable: Iterable[T], n: int, *, strict: bool = False) -> Iterator[list[T]]:
    """Yield the items in lists of `n`, the last one shorter if they don't come out even.

    >>> from ferrule import chunked
    >>> list(chunked(range(5), 2))
    [[0, 1], [2, 3], [4]]

    It is `batched` with lists; see there.

    Args:
        iterable: Where the items come from; may be endless.
        n: How many items a batch has, 1 or more.
        strict: Whether a last batch that is shorter is a `ValueError`, which names its items.

    Raises:
        TypeError, ValueError: If `iterable` can't be iterated, or `n` is not what it may be.
    """
    return _core.Batches(iterable, at_least("n", n, 1), strict=bool(strict), tuples=False)


def batched_by(
    iterable: Iterable[T],
    *,
    max_items: int = 500,
    max_weight: float | None = None,
    weigher: Callable[[T], float] | None = None,
    max_wait: float | timedelta | None = None,
) -> Iterator[list[T]]:
    """Yield the items in lists that end at a number of items, a weight, or a time, whichever comes first.

    >>> from ferrule import batched_by
    >>> list(batched_by(["a", "bb", "ccc", "d"], max_weight=4))
    [['a', 'bb'], ['ccc', 'd']]

    Args:
        iterable: Where the items come from.
        max_items: How many items a batch has at most, 1 or more.
        max_weight: What a batch weighs at most; an item that weighs more has a batch to itself. `None`: no limit.
        weigher: Tells what an item weighs; `None`: its `len`.
        max_wait: How long after its first item a batch is yielded even if the source has nothing more to give just
            now, in seconds or as a `timedelta`. The source is then pulled by a thread, at most `max_items` ahead;
            closing the iterator (`close()`, or letting go of it) ends that thread as soon as the source returns.
            `None`: no thread.

    Raises:
        TypeError, ValueError: If an argument is not what it may be. A weigher that raises is told with the item,
            behind the items before it.
    """
    most = at_least("max_items", max_items, 1)
    if weigher is not None and not callable(weigher):
        raise TypeError(f"weigher must be a callable or None, not {shown(weigher)}")
    if max_weight is None:
        if weigher is not None:
            raise ValueError("weigher must be None where there is no max_weight")
        heaviest = math.inf
    elif isinstance(max_weight, bool) or not isinstance(max_weight, (int, float)):
        raise TypeError(f"max_weight must be a number or None, not {shown(max_weight)}")
    elif not max_weight > 0:
        raise ValueError(f"max_weight must be above 0, got {max_weight!r}")
    else:
        heaviest = float(max_weight)
    if max_wait is None:
        return _core.WeighedBatches(iterable, max_items=most, max_weight=heaviest, weigher=weigher)
    seconds = _core.seconds_from("max_wait", max_wait)
    return _TimedBatches(iter(iterable), most, heaviest, weigher or cast("Any", len), seconds)


class _Pulled(Generic[T]):
    """What the thread of timed batches and the batches themselves share."""

    def __init__(self, source: Iterator[T], most: int) -> None:
        self.source = source
        self.most = most
        self.changed = threading.Condition(threading.Lock())
        self.items: deque[T] = deque()
        self.error: BaseException | None = None
        self.ended = False
        self.closed = False

    def pull(self) -> None:
        """Pull the source until it ends, or nobody wants more."""
        while True:
            with self.changed:
                while len(self.items) >= self.most and not self.closed:
                    self.changed.wait()
                if self.closed:
                    return
            try:
                item = next(self.source)
            except StopIteration:
                error: BaseException | None = None
            except BaseException as raised:  # noqa: BLE001 - it is raised where the batches are taken
                error = raised
            else:
                with self.changed:
                    self.items.append(item)
                    self.changed.notify_all()
                continue
            with self.changed:
                self.error = error
                self.ended = True
                self.changed.notify_all()
            return


class _TimedBatches(Generic[T]):
    """Batches that are yielded some time after their first item at the latest."""

    def __init__(
        self, source: Iterator[T], most: int, heaviest: float, weigher: Callable[[T], float], seconds: float
    ) -> None:
        self._pulled = _Pulled(source, most)
        self._most = most
        self._heaviest = heaviest
        self._weigher = weigher
        self._seconds = seconds
        self._carried: list[tuple[T, float]] = []
        self._pending: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Self:
        return self

    def _weigh(self, item: T) -> float:
        if self._heaviest == math.inf:
            return 0.0
        try:
            weight = float(self._weigher(item))
            if not weight >= 0:
                raise ValueError(f"a weight must be 0 or more, got {weight!r}")  # noqa: TRY301
        except Exception as error:
            error.add_note(f"batched_by: weighing {item!r}")
            raise
        return weight

    def __next__(self) -> list[T]:  # noqa: C901, PLR0912 - one wait, and what can end it
        from time import monotonic

        if self._pending is not None:
            error, self._pending = self._pending, None
            raise error
        pulled = self._pulled
        if self._thread is None:
            self._thread = threading.Thread(target=pulled.pull, name="ferrule-batched_by", daemon=True)
            self._thread.start()
        batch = [item for item, _ in self._carried]
        total = sum(weight for _, weight in self._carried)
        self._carried.clear()
        deadline = monotonic() + self._seconds if batch else None
        while len(batch) < self._most:
            with pulled.changed:
                while not pulled.items and not pulled.ended:
                    left = None if deadline is None else deadline - monotonic()
                    if left is not None and left <= 0:
                        return batch
                    # In slices: a wait without end can't be left by Ctrl-C on every platform.
                    pulled.changed.wait(0.05 if left is None else min(left, 0.05))
                    if pulled.closed:
                        raise StopIteration
                if not pulled.items:
                    if pulled.error is not None:
                        self._pending, pulled.error = pulled.error, None
                    break
                item = pulled.items.popleft()
                pulled.changed.notify_all()
            try:
                weight = self._weigh(item)
            except Exception as error:
                if not batch:
                    raise
                self._pending = error
                return batch
            if batch and total + weight > self._heaviest:
                self._carried.append((item, weight))
                return batch
            batch.append(item)
            total += weight
            if deadline is None:
                deadline = monotonic() + self._seconds
        if batch:
            return batch
        if self._pending is not None:
            error_, self._pending = self._pending, None
            raise error_
        raise StopIteration

    def close(self) -> None:
        """End the thread: at once where it waits for room, else when the source returns."""
        with self._pulled.changed:
            self._pulled.closed = True
            self._pulled.changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(0.5)

    def __del__(self) -> None:
        self._pulled.closed = True
        if self._pulled.changed.acquire(blocking=False):
            self._pulled.changed.notify_all()
            self._pulled.changed.release()


@overload
def windowed(iterable: Iterable[T], n: int, *, step: int = 1) -> Iterator[tuple[T, ...]]: ...
@overload
def windowed(iterable: Iterable[T], n: int, *, step: int = 1, fillvalue: object) -> Iterator[tuple[Any, ...]]: ...
def windowed(
    iterable: Iterable[Any], n: int, *, step: int = 1, fillvalue: object = MISSING
) -> Iterator[tuple[Any, ...]]:
    """Yield tuples of `n` items that follow one another, each `step` items behind the last.

    >>> from ferrule import windowed
    >>> list(windowed([1, 2, 3, 4], 3))
    [(1, 2, 3), (2, 3, 4)]
    >>> list(windowed([1, 2, 3, 4, 5], 3, step=2, fillvalue=0))
    [(1, 2, 3), (3, 4, 5)]

    Args:
        iterable: Where the items come from.
        n: How many items a window has, 1 or more.
        step: How many items lie between the beginnings of two windows, 1 or more.
        fillvalue: What fills a last window that items are missing for. Left out, such a window is not yielded.

    Raises:
        TypeError, ValueError: If an argument is not what it may be.
    """
    fill = None if fillvalue is MISSING else (fillvalue,)
    return _core.Windows(iterable, at_least("n", n, 1), step=at_least("step", step, 1), fill=fill)


def moving_average(iterable: Iterable[Any], window: int) -> Iterator[Any]:
    """Yield the mean of each `window` numbers that follow one another.

    >>> from ferrule import moving_average
    >>> list(moving_average([40, 30, 50, 46, 39, 44], 3))
    [40.0, 42.0, 45.0, 43.0]

    A step costs the same whatever the window. Nothing is ever subtracted, so nothing drifts: after a window of zeros
    the mean is exactly zero, whatever came before. Integers and floats give floats; `Decimal`, `Fraction` and their
    like give their own kind.

    Args:
        iterable: The numbers.
        window: How many each mean is of, 1 or more. Fewer numbers yield nothing.

    Raises:
        TypeError, ValueError: If `window` is not what it may be; with the number named, if one can't be added or
            divided.

    The window is a queue of two stacks, each with its sums.
    """
    return _core.MovingAverage(iterable, at_least("window", window, 1))


def flatten(iterable: Iterable[Any], depth: int | None = 1) -> Iterator[Any]:
    """Yield the items of the iterables in an iterable.

    >>> from ferrule import flatten
    >>> list(flatten([[1, 2], [3, [4]]]))
    [1, 2, 3, [4]]
    >>> list(flatten([1, [2, [3, ["four"]]]], depth=None))
    [1, 2, 3, 'four']

    One level deep it is `itertools.chain.from_iterable`, and every item must be an iterable. Deeper, what can't be
    iterated is an item, and so are `str`, `bytes` and `bytearray`.

    Args:
        iterable: The nested iterables.
        depth: How many levels are taken away, 0 or more; `None`: all.

    Raises:
        TypeError, ValueError: If `depth` is not what it may be.
        RecursionError: If it is nested a million levels deep, as what contains itself is.
    """
    if depth is None:
        return _core.Flattened(iterable, None)
    levels = at_least("depth", depth, 0)
    if levels == 0:
        return iter(iterable)
    return chain.from_iterable(iterable) if levels == 1 else _core.Flattened(iterable, levels)


def countdown(start: int, stop: int = 0) -> Iterator[int]:
    """Yield the integers from `start` down to the one above `stop`.

    >>> from ferrule import countdown
    >>> list(countdown(5))
    [5, 4, 3, 2, 1]
    >>> list(countdown(2, stop=-1))
    [2, 1, 0]

    Args:
        start: The first one; of any size.
        stop: The one that isn't reached, as in `range`.

    Raises:
        TypeError: If one is no integer.
    """
    return iter(range(start, stop, -1))


def fibonacci() -> Iterator[int]:
    """Yield the Fibonacci numbers, from 0 and 1 on, without end and exactly.

    >>> from itertools import islice
    >>> from ferrule import fibonacci
    >>> list(islice(fibonacci(), 10))
    [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]
    """
    return _core.Fibonacci()


def inorder(root: object, left: str = "left", right: str = "right", value: str = "value") -> Iterator[Any]:
    """Yield the values of a binary tree, those on the left of a node before its own, those on the right after it.

    >>> from types import SimpleNamespace as Node
    >>> from ferrule import inorder
    >>> leaf = Node(left=None, right=None, value="a")
    >>> list(inorder(Node(left=leaf, right=None, value="b")))
    ['a', 'b']

    Any objects will do, and no tree is too deep.

    Args:
        root: The topmost node; `None` is an empty tree.
        left: The attribute with the node on the left, or `None`.
        right: The attribute with the node on the right, or `None`.
        value: The attribute with the value.

    Raises:
        TypeError: If a name is no string.
        AttributeError: When a node without one of the attributes is reached.
    """
    for argument, name in (("left", left), ("right", right), ("value", value)):
        if not isinstance(name, str):
            raise TypeError(f"{argument} must be a string, not {shown(name)}")
    return _core.InOrder(root, left, right, value)


Strategy = Literal["auto", "quick", "merge"]


def sort(
    items: Iterable[T],
    *,
    key: Callable[[T], SupportsRichComparison] | None = None,
    reverse: bool = False,
    strategy: Strategy = "auto",
) -> list[T]:
    """Return a new list of the items in order, as `sorted` does, and faster where they are alike.

    >>> from ferrule import sort
    >>> sort([3, 1, 2])
    [1, 2, 3]
    >>> sort(["bb", "a", "ccc"], key=len, reverse=True)
    ['ccc', 'bb', 'a']

    Integers of up to 64 bits, floats, and strings of Latin letters are sorted natively and without the interpreter
    lock, if all items (or all keys) are of one of these classes. Anything else is sorted by the interpreter's own
    stable sort, whatever the strategy.

    Args:
        items: What to sort; stays as it is.
        key: Makes what is compared out of an item, once for each; `None`: the items themselves.
        reverse: Whether the greatest comes first. Equal items stay in order then, too.
        strategy: `"auto"`, the quickest that is stable; `"merge"`, merge sort, stable; `"quick"`, quick sort, which
            makes no promise about the order of equal items. The last two use all processors for many items.

    Returns:
        The same objects, in order.

    Raises:
        TypeError: If items can't be compared.
        ValueError: If there is no such strategy.
    """
    if strategy not in ("auto", "quick", "merge"):
        raise ValueError(f"strategy must be 'auto', 'quick' or 'merge', got {strategy!r}")
    if key is not None and not callable(key):
        raise TypeError(f"key must be a callable or None, not {shown(key)}")
    # A list of our own, which nobody changes meanwhile.
    ours: list[Any] = list(items)
    if key is None:
        done = _core.sort_plain(ours, ours, strategy, bool(reverse))
        if done is None:
            ours.sort(reverse=reverse)
            return ours
        return cast("list[T]", done)
    keys: list[Any] = list(map(key, ours))
    done = _core.sort_plain(ours, keys, strategy, bool(reverse))
    if done is None:
        order = sorted(range(len(ours)), key=keys.__getitem__, reverse=reverse)
        return [ours[place] for place in order]
    return cast("list[T]", done)


# -- lines ------------------------------------------------------------------------------------------------------------

_ENDS: Final = (None, "", "\n", "\r", "\r\n")


def lines(
    source: Source,
    *,
    strip: bool = False,
    encoding: str = "utf-8",
    errors: str = "strict",
    newline: str | None = None,
    max_line: int | None = None,
) -> Lines:
    r"""Read the lines of a file one by one, without their ends.

    >>> import io
    >>> from ferrule import lines
    >>> list(lines(io.BytesIO(b"one\r\ntwo\nERROR three")).containing("ERROR"))
    ['ERROR three']

    UTF-8 is read in blocks and cut into lines without the interpreter lock; what `containing`, `matching` and
    `split_field` ask is decided on the bytes wherever bytes can tell, and a `str` is made only of what is chosen. Of a
    large file, threads read and look over some hundred kilobytes ahead of what is taken, unless `containing` comes
    first.
    Other encodings and text files go through the standard library's own text layer.

    Args:
        source: A path (`.gz`: unpacked), or an open file, binary or text: `sys.stdin.buffer`, a socket's file, ...
            What was opened here is closed at the end, or by `close()`; an open file is left open.
        strip: Whether lines lose white space at both ends, as by `str.strip`.
        encoding: As for `open`; for text files their own counts.
        errors: As for `open`. With "strict" a line that can't be decoded is a `UnicodeDecodeError` that names the
            line; going on after it goes on with the next line.
        newline: What ends a line, as for `open`: `None` or `""`, any of "\n", "\r" and "\r\n"; or one of these alone.
        max_line: How long a line may be, in bytes (characters for other encodings than UTF-8); a longer one is a
            `ValueError`, and the end. `None`: as long as memory allows, up to 4 GiB.

    Raises:
        TypeError, ValueError, LookupError: If an argument is not what it may be.
        OSError: If the file can't be opened or read.
    """
    return Lines(
        source,
        steps=(("strip", None, None),) if strip else (),
        encoding=encoding,
        errors=errors,
        newline=newline,
        max_line=max_line,
    )


class Lines:
    """An iterator over lines; `lines()` makes it.

    `containing`, `matching` and `split_field` give a new one that takes the source over; they are asked in the order
    in which they are written. It can be iterated with `for` and with `async for`, where reading happens on a thread.
    """

    def __init__(
        self,
        source: Source,
        *,
        steps: tuple[tuple[str, Any, Any], ...],
        encoding: str,
        errors: str,
        newline: str | None,
        max_line: int | None,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        import codecs

        for argument, value in (("encoding", encoding), ("errors", errors)):
            if not isinstance(value, str):
                raise TypeError(f"{argument} must be a string, not {shown(value)}")
        if newline not in _ENDS:
            raise ValueError(f"newline must be None, '', '\\n', '\\r' or '\\r\\n', got {newline!r}")
        if max_line is not None:
            max_line = at_least("max_line", max_line, 1)
        codec = codecs.lookup(encoding).name
        codecs.lookup_error(errors)
        self._steps = steps
        self._errors = errors
        self._newline = newline
        self._max_line = max_line
        self._start = start
        self._native = codec == "utf-8"
        self._owned = False
        self._seekable = False
        self._reader: _core.LineReader | Iterator[str] | None = None
        self._taken = False
        self._text: IO[str] | None = None
        self._closing: list[Any] = []
        if isinstance(source, (str, os.PathLike)):
            self._name = repr(os.fspath(source))
            self._open(source, start[0])
        else:
            self._name = repr(getattr(source, "name", type(source).__name__))
            self._take(source)
        if not self._native and self._text is None:
            wrapper = io.TextIOWrapper(self._file, encoding=encoding, errors=errors, newline=newline)
            self._text = wrapper
            self._closing.insert(0, wrapper if self._owned else _Detached(wrapper))

    def _open(self, path: str | os.PathLike[str], start: int) -> None:
        packed = os.fspath(path).endswith(".gz")
        self._file: Any
        if packed:
            import gzip

            self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed by close()
        elif self._native:
            self._file = io.FileIO(os.fspath(path))
        else:
            self._file = open(path, "rb")  # noqa: SIM115, PTH123 - closed by close()
        self._owned = True
        self._direct = self._native and not packed
        self._closing.append(self._file)
        try:
            self._seekable = self._native and self._file.seekable()
            if start:
                self._file.seek(start)
        except BaseException:
            self._file.close()
            raise

    def _take(self, source: Any) -> None:
        self._file = source
        self._direct = False
        read = getattr(source, "read", None)
        if read is None:
            raise TypeError(f"source must be a path or a file object, not {shown(source)}")
        if isinstance(source, io.TextIOBase) or isinstance(read(0), str):
            self._text = cast("IO[str]", source)
            self._native = False

    def made(self) -> _core.LineReader | Iterator[str]:
        """Give what reads: the native reader, where there is one."""
        if self._taken:
            raise ValueError("these lines have been taken over by what was made of them")
        if self._reader is None:
            if self._native:
                self._reader = _core.LineReader(
                    self._file,
                    self._steps,
                    owned=self._direct,
                    newline=self._newline,
                    errors=self._errors,
                    max_line=self._max_line,
                    name=self._name,
                    start=self._start,
                )
                if self._direct:
                    self._file.close()
            else:
                self._reader = self._slowly()
        return self._reader

    def _slowly(self) -> Iterator[str]:
        text = cast("IO[str]", self._text)
        most = self._max_line
        limit = -1 if most is None else most + 2
        asked = [step_of(*step) for step in self._steps]
        number = self._start[1]
        while True:
            try:
                line = text.readline(limit)
            except UnicodeDecodeError as error:
                error.add_note(f"behind line {number} of {self._name}")
                raise
            if not line:
                self.close()
                return
            number += 1
            line = _without_end(line, self._newline)
            if most is not None and len(line) > most:
                self.close()
                raise ValueError(f"line {number} of {self._name} is longer than max_line")
            made: Any = line
            for ask in asked:
                made = ask(made)
                if made is None:
                    break
            else:
                yield made

    def _with(self, *step: Any) -> Lines:
        if self._reader is not None or self._taken:
            raise ValueError("lines can't be chosen any more once they have been begun")
        other = Lines.__new__(Lines)
        other.__dict__.update(self.__dict__)
        other._steps = (*self._steps, step)  # noqa: SLF001 - it is one of us
        self._taken = True
        return other

    def containing(self, text: str) -> Lines:
        """Choose the lines that contain a text."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, not {shown(text)}")
        if _encodable(text):
            return self._with("containing", text, None)
        # Surrogates stand for odd bytes, which only Python knows to look for.
        return self._with("matching", _Containing(text), [])

    def matching(self, pattern: str | re.Pattern[str]) -> Lines:
        r"""Choose the lines in which a regular expression is found, anywhere, as by `re.search`.

        Lines without the literal texts that every match must have are passed over as bytes; the rest is the `re`
        module's.
        """
        if not isinstance(pattern, (str, re.Pattern)) or not isinstance(getattr(pattern, "pattern", ""), str):
            raise TypeError(f"pattern must be a string or a compiled pattern of one, not {shown(pattern)}")
        compiled = re.compile(pattern)
        return self._with("matching", compiled.search, _literals(compiled))

    def split_field(self, index: int, sep: str | None = None) -> Lines:
        """Keep one field of each line.

        Args:
            index: The number of the field, from 0 on; or from the end, from -1 on.
            sep: What is between fields; `None`: white space, as for `str.split`.

        Raises:
            TypeError, ValueError: If an argument is not what it may be. A line without that field is an `IndexError`
                that shows the line; going on after it goes on with the next line.
        """
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"index must be an integer, not {shown(index)}")
        if not -_MANY < index < _MANY:
            raise ValueError(f"index must fit 64 bits, got {index!r}")
        if sep is not None and not isinstance(sep, str):
            raise TypeError(f"sep must be a string or None, not {shown(sep)}")
        if sep == "":
            raise ValueError("sep must not be empty")
        return self._with("field", index, sep)

    def chunked(self, n: int) -> Iterator[list[str]]:
        """Yield the lines in lists of `n`."""
        return chunked(self, n)

    def __iter__(self) -> Iterator[str]:
        return iter(self.made())

    def __next__(self) -> str:
        return next(self.made())

    async def __aiter__(self) -> AsyncIterator[str]:
        from asyncio import get_running_loop

        from ferrule._bridging import Puller

        reader = self.made()
        blocks = iter(reader.block, None) if isinstance(reader, _core.LineReader) else chunked(reader, 256)
        # A thread of its own, and no executor's: the loop's end would wait for one that waits for a pipe.
        puller = Puller(blocks, get_running_loop(), 1)
        try:
            while True:
                found, raised = await puller.some()
                for block in found:
                    for line in block:
                        yield line
                if isinstance(raised, StopIteration):
                    return
                if raised is not None:
                    raise raised
        finally:
            puller.end()
            self.close()

    def position(self) -> tuple[int, int]:
        """Tell where the next line begins: bytes and lines from the start. For UTF-8 alone."""
        reader = self.made()
        if not isinstance(reader, _core.LineReader):
            raise TypeError(
                "lines of a text file, or in another encoding than UTF-8, have no position that can be told"
            )
        return reader.position()

    def close(self) -> None:
        """Close what was opened here; there are no more lines then."""
        if isinstance(self._reader, _core.LineReader):
            from contextlib import suppress

            with suppress(ValueError):  # being read on a thread: it is closed at its end
                self._reader.close()
                if self._owned:
                    self._file.close()
            return
        for each in self._closing:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<lines of {self._name}>"


class _Detached:
    """Lets a binary file that somebody else opened outlive the text layer over it."""

    def __init__(self, wrapper: io.TextIOWrapper) -> None:
        self._wrapper = wrapper

    def close(self) -> None:
        from contextlib import suppress

        with suppress(ValueError):
            self._wrapper.detach()


class _Containing:
    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, line: str) -> bool:
        return self.text in line


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_end(line: str, newline: str | None) -> str:
    if newline:
        return line.removesuffix(newline)
    if line.endswith("\r\n"):
        return line[:-2]
    return line[:-1] if line.endswith(("\n", "\r")) else line


def step_of(kind: str, first: Any, second: Any) -> Callable[[Any], str | None]:
    """Make a function of a step: it gives the line, or what comes of it, or `None`."""
    if kind == "strip":
        return str.strip
    if kind == "containing":
        return lambda line: line if first in line else None
    if kind == "matching":
        return lambda line: line if first(line) else None

    def field(line: str) -> str:
        fields = line.split(second)
        if not -len(fields) <= first < len(fields):
            raise IndexError(f"there is no field {first} in a line of {len(fields)}: {line!r}")
        return cast("str", fields[first])

    return field


def _literals(pattern: re.Pattern[str]) -> list[str]:
    """Find texts that every match contains, by the interpreter's own reading of the pattern."""
    if pattern.flags & (re.IGNORECASE | re.LOCALE):
        return []
    try:
        from importlib import import_module

        codes: Any = import_module("re._constants")
        parser: Any = import_module("re._parser")

        found: list[str] = []
        current: list[str] = []
        for code, value in parser.parse(pattern.pattern, pattern.flags):
            if code is codes.LITERAL:
                current.append(chr(value))
                continue
            found.append("".join(current))
            current.clear()
        found.append("".join(current))
    except Exception:  # noqa: BLE001 - it is a private module, and only a short cut
        return []
    return [text for text in found if text and _encodable(text)]

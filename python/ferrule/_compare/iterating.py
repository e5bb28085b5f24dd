"""Iterating: batches, averages, flat lists, sorting and lines, against what people write."""

from __future__ import annotations

import functools
import random
import re
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ferrule._compare.harness import Room, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ferrule._compare.harness import Run

SLICING = "hand-written slices"
APPENDING = "hand-written appending"
RUNNING = "hand-written running sum"
RECURSIVE = "hand-written recursion"
SORTED = "sorted"
GENERATORS = "three generators"
TEXT = "a text file's lines"
ITEMS = 20_000
SORTABLE = 200_000
LINES = 200_000
PATTERN = r"ERROR \[worker-[0-3]\]"


def repeated(count: int, action: Callable[[], object]) -> Run:
    """Makes a run of an action that is worth `count` operations.

    What an action gives is kept until the next one has given its own: memory is what the program has, not what it gets
    from the system afresh each time, which costs everybody the same.
    """
    kept: list[object] = [None]

    def run(n: int) -> int:
        rounds = max(1, round(n / count))
        start = time.perf_counter_ns()
        for _ in range(rounds):
            kept[0] = action()
        return (time.perf_counter_ns() - start) * n // (rounds * count)

    return run


def sliced(items: list[Any], n: int) -> Iterator[list[Any]]:
    """Cuts a list by hand."""
    for start in range(0, len(items), n):
        yield items[start : start + n]


def appended(items: Iterable[Any], n: int) -> Iterator[list[Any]]:
    """Gathers batches of any iterable by hand."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == n:
            yield batch
            batch = []
    if batch:
        yield batch


def running_means(numbers: Iterable[float], window: int) -> Iterator[float]:
    """Carries a sum along by hand, which drifts."""
    last: deque[float] = deque(maxlen=window)
    total = 0.0
    for number in numbers:
        if len(last) == window:
            total -= last[0]
        last.append(number)
        total += number
        if len(last) == window:
            yield total / window


def flattened(items: Iterable[Any]) -> Iterator[Any]:
    """Flattens by hand, all the way down."""
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from flattened(cast("Iterable[Any]", item))
        else:
            yield item


def generated(numbers: list[int]) -> Iterator[int]:
    """Is a generator over a list, for batches of what is no list."""
    yield from numbers


def stripped(path: Path) -> Iterator[str]:
    """Reads lines by hand."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def with_errors(lines: Iterable[str]) -> Iterator[str]:
    """Keeps the lines with errors, by hand."""
    for line in lines:
        if "ERROR" in line:
            yield line


def matching(lines: Iterable[str]) -> Iterator[str]:
    """Keeps the lines that match, by hand."""
    search = re.compile(PATTERN).search
    for line in lines:
        if search(line):
            yield line


def fields(lines: Iterable[str]) -> Iterator[str]:
    """Takes one field of each line, by hand."""
    for line in lines:
        yield line.split()[3]


@functools.cache
def integers() -> list[int]:
    """Makes the items."""
    return list(range(ITEMS))


@functools.cache
def floats() -> list[float]:
    """Makes numbers for averages."""
    chance = random.Random(3)  # noqa: S311  # nothing secret
    return [chance.random() for _ in range(ITEMS)]


@functools.cache
def nested() -> list[Any]:
    """Makes a list of lists of lists."""
    return [[[j, j, [j, j]], [j], j, [j, j, j]] for j in range(ITEMS // 9)]


@functools.cache
def to_sort(kind: str) -> list[Any]:
    """Makes what is sorted, in no order."""
    chance = random.Random(5)  # noqa: S311  # nothing secret
    make: dict[str, Callable[[], Any]] = {
        "int": lambda: chance.randrange(-(10**9), 10**9),
        "float": chance.random,
        "str": lambda: f"{chance.randrange(10**9)}",
        "tuple": lambda: (chance.randrange(10**6), chance.random()),
    }
    return [make[kind]() for _ in range(SORTABLE)]


@functools.cache
def log() -> Path:
    """Writes a log of which one line in twenty has an error; about 100 bytes a line."""
    chance = random.Random(7)  # noqa: S311  # nothing secret
    folder = Path(tempfile.mkdtemp(prefix="ferrule-compare-"))
    path = folder / "app.log"
    with path.open("w", encoding="utf-8") as file:
        for number in range(LINES):
            level = "ERROR" if not number % 20 else "INFO "
            file.write(
                f"2024-05-04 12:00:{number % 60:02} {level} [worker-{number % 8}] request {chance.random()} took"
            )
            file.write(f" {chance.randrange(10**6)} us and gave back {chance.randrange(10**9)} bytes\n")
    return path


def drained(items: Iterable[Any]) -> object:
    """Takes all items and keeps none."""
    return deque(items, maxlen=0)


def on_log(read: Callable[[Path], Iterable[Any]], end: Callable[[Iterable[Any]], object] = list) -> Run:
    """Makes a run over the log; an operation is a line."""
    log()
    return repeated(LINES, lambda: end(read(log())))


def room() -> Room:
    """Describes the rows."""
    import ferrule

    rows = [
        *(
            Row(
                id=f"batched_list_{n}",
                title=f"batches of {n}, of a list",
                baseline=SLICING,
                candidates={
                    SLICING: functools.partial(_batching, sliced, integers, n),
                    "ferrule": functools.partial(_batching, ferrule.batched, integers, n),
                    "ferrule chunked": functools.partial(_batching, ferrule.chunked, integers, n),
                },
            )
            for n in (32, 1000)
        ),
        *(
            Row(
                id=f"batched_generator_{n}",
                title=f"batches of {n}, of a generator",
                baseline=APPENDING,
                candidates={
                    APPENDING: functools.partial(_batching, appended, lambda: generated(integers()), n),
                    "ferrule": functools.partial(_batching, ferrule.batched, lambda: generated(integers()), n),
                    "ferrule chunked": functools.partial(_batching, ferrule.chunked, lambda: generated(integers()), n),
                },
            )
            for n in (32, 1000)
        ),
        *(
            Row(
                id=f"moving_average_{window}",
                title=f"moving average over {window}",
                baseline=RUNNING,
                goal=0.6,
                candidates={
                    RUNNING: functools.partial(_batching, running_means, floats, window),
                    "ferrule": functools.partial(_batching, ferrule.moving_average, floats, window),
                },
            )
            for window in (10, 100)
        ),
        Row(
            id="flatten_deep",
            title="flatten, all the way down",
            baseline=RECURSIVE,
            candidates={
                RECURSIVE: lambda: repeated(ITEMS, lambda: list(flattened(nested()))),
                "ferrule": lambda: repeated(ITEMS, lambda: list(ferrule.flatten(nested(), depth=None))),
            },
        ),
        *(
            Row(
                id=f"sort_{kind}",
                title=f"sort: {kind}",
                baseline=SORTED,
                goal={"int": 0.5, "float": 0.5}.get(kind, 1.05),
                candidates={
                    SORTED: functools.partial(_sorting, sorted, kind),
                    "ferrule": functools.partial(_sorting, ferrule.sort, kind),
                },
            )
            for kind in ("int", "float", "str", "tuple")
        ),
        Row(
            id="lines_containing",
            title="the lines of a log with a word",
            baseline=GENERATORS,
            goal=1 / 7,
            candidates={
                GENERATORS: lambda: on_log(lambda path: with_errors(stripped(path))),
                "ferrule": lambda: on_log(lambda path: ferrule.lines(path).containing("ERROR")),
            },
        ),
        Row(
            id="lines_field",
            title="a field of the lines of a log that match a pattern",
            baseline=GENERATORS,
            candidates={
                GENERATORS: lambda: on_log(lambda path: fields(matching(stripped(path)))),
                "ferrule": lambda: on_log(lambda path: ferrule.lines(path).matching(PATTERN).split_field(3)),
            },
        ),
        *(
            Row(
                id=f"lines_{kind}",
                title=f"every line of a log, {how}",
                baseline=TEXT,
                goal=1 / 1.7,
                candidates={
                    TEXT: functools.partial(_on_text, end),
                    "hand-written stripping": functools.partial(on_log, stripped, end),
                    "ferrule": functools.partial(on_log, ferrule.lines, end),
                },
            )
            for kind, how, end in (("all", "one by one", drained), ("kept", "in a list", list))
        ),
    ]
    return Room(name="iterating", rows=rows)


def _on_text(end: Callable[[Iterable[Any]], object]) -> Run:
    def read() -> object:
        with log().open(encoding="utf-8") as file:
            return end(file)

    log()
    return repeated(LINES, read)


def _batching(make: Callable[[Any, int], Iterable[Any]], source: Callable[[], Any], n: int) -> Run:
    source()
    return repeated(ITEMS, lambda: list(make(source(), n)))


def _sorting(sort: Callable[[list[Any]], list[Any]], kind: str) -> Run:
    items = to_sort(kind)
    return repeated(SORTABLE, lambda: sort(items))

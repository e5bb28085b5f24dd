"""Iterating beside its peers, results kept."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Room, Row, UnavailableError, require
from ferrule._compare.iterating import (
    ITEMS,
    SORTABLE,
    floats,
    generated,
    integers,
    log,
    nested,
    on_log,
    repeated,
    to_sort,
)
from ferrule._compare.iterating import (
    room as compared,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ferrule._compare.harness import Factory, Run

# The fastest peers, where they can be had.
BATCHING = "itertools" if hasattr(itertools, "batched") else "iteration_utilities"
FLATTENING = "iteration_utilities" if find_spec("iteration_utilities") else "more_itertools"


def room(*, quick: bool) -> Room:
    """Describes the rows with the peers in them."""
    del quick
    own = compared()
    peers: dict[str, Mapping[str, Factory]] = {
        "flatten_deep": {
            "more_itertools": partial(flattening, "more_itertools", "collapse"),
            "iteration_utilities": partial(flattening, "iteration_utilities", "deepflatten"),
        },
        "lines_containing": {"polars": polars_lines},
    }
    for n in (32, 1000):
        peers[f"batched_list_{n}"] = batching_peers(integers, n)
        peers[f"batched_generator_{n}"] = batching_peers(lambda: generated(integers()), n)
    for window in (10, 100):
        peers[f"moving_average_{window}"] = {"bottleneck": partial(bottleneck_mean, window)}
    for kind in ("int", "float", "str"):
        peers[f"sort_{kind}"] = {"numpy": partial(numpy_sort, kind), "polars": partial(polars_sort, kind)}
    rows = [row.joined_by(peers.get(row.id, {})) for row in own.rows]
    fastest = {row.id: (BATCHING, 1.05) for row in rows if row.id.startswith("batched_")}
    fastest |= {"flatten_deep": (FLATTENING, 0.1), "lines_containing": ("polars", 0.25)}
    return replace(own, rows=[*rows, *(against(row, *fastest[row.id]) for row in rows if row.id in fastest)])


def against(row: Row, peer: str, goal: float) -> Row:
    """Makes a row of what was promised beside the fastest peer."""
    return Row(
        id=f"{row.id}_peer",
        title=f"{row.title}, against {peer}",
        baseline=peer,
        goal=goal,
        candidates={label: row.candidates[label] for label in (peer, row.ours)},
    )


def batching_peers(source: Callable[[], Any], n: int) -> dict[str, Factory]:
    """Makes the peers of batching ready."""

    def drained(make: Callable[[Any], Any]) -> Run:
        return repeated(ITEMS, lambda: list(make(source())))

    def standard() -> Run:
        batched: Any = getattr(itertools, "batched", None)
        if batched is None:
            raise UnavailableError("itertools.batched came with Python 3.12")
        return drained(lambda items: batched(items, n))

    return {
        "itertools": standard,
        "more_itertools": lambda: drained(
            partial(lambda make, items: make(items, n), require("more_itertools").chunked)
        ),
        "iteration_utilities": lambda: drained(
            partial(lambda make, items: make(items, n), require("iteration_utilities").grouper)
        ),
        "cytoolz": lambda: drained(partial(require("cytoolz").partition_all, n)),
        "toolz": lambda: drained(partial(require("toolz").partition_all, n)),
        "streamable": lambda: drained(streamable_groups(n)),
    }


def streamable_groups(n: int) -> Callable[[Any], Any]:
    """Makes streamable's batches, whatever its version calls them."""
    module = require("streamable")
    make: Any = getattr(module, "Stream", None) or module.stream

    def groups(items: Any) -> Any:
        stream = make(items)
        group: Any = getattr(stream, "group", None) or stream.batch
        try:
            return group(size=n)
        except TypeError:
            return group(up_to=n)

    return groups


def flattening(module: str, name: str) -> Run:
    """Makes a peer of deep flattening ready."""
    flatten: Any = getattr(require(module), name)
    return repeated(ITEMS, lambda: list(flatten(nested())))


def bottleneck_mean(window: int) -> Run:
    """Makes bottleneck ready, from list to list."""
    bottleneck, numpy = require("bottleneck"), require("numpy")

    def run() -> Any:
        return bottleneck.move_mean(numpy.array(floats()), window)[window - 1 :].tolist()

    return repeated(ITEMS, run)


def numpy_sort(kind: str) -> Run:
    """Makes numpy ready, from list to list."""
    numpy = require("numpy")
    return repeated(SORTABLE, lambda: numpy.sort(numpy.array(to_sort(kind))).tolist())


def polars_sort(kind: str) -> Run:
    """Makes polars ready, from list to list."""
    polars = require("polars")
    return repeated(SORTABLE, lambda: polars.Series(to_sort(kind)).sort().to_list())


def polars_lines() -> Run:
    """Makes polars ready to read the log."""
    polars = require("polars")

    def read(_: Any) -> Any:
        frame = polars.scan_csv(log(), has_header=False, separator="\x01", quote_char=None, new_columns=["line"])
        chosen = frame.filter(polars.col("line").str.contains("ERROR", literal=True))
        return chosen.collect()["line"].to_list()

    return on_log(read)

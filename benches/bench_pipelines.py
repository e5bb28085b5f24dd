"""Pipelines beside their peers, results kept."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benches.bench_iterating import against
from ferrule._compare.harness import Room, require
from ferrule._compare.iterating import ITEMS, integers, repeated
from ferrule._compare.pipelines import PARALLEL, WORKERS, is_positive, nothing, square
from ferrule._compare.pipelines import room as compared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ferrule._compare.harness import Factory, Run


def room(*, quick: bool) -> Room:
    """Describes the rows with the peers in them."""
    del quick
    own = compared()
    peers: dict[str, Mapping[str, Factory]] = {
        # The interpreter's own loop in C does one of the three stages, and shows what the objects alone cost.
        "native": {"numpy": numpy_stages, "streamable": streamable_stages, "itertools.accumulate alone": only_sums},
        "opaque": {
            "map, filter, accumulate": lambda: repeated(
                ITEMS, lambda: list(itertools.accumulate(map(square, filter(is_positive, integers()))))
            ),
            "cytoolz": cytoolz_stages,
        },
        "parallel": {"streamable": streamable_parallel, "pypeln": pypeln_parallel},
    }
    rows = [row.joined_by(peers.get(row.id, {})) for row in own.rows]
    native = next(row for row in rows if row.id == "native")
    return replace(own, rows=[*rows, against(native, "streamable", 0.25)])


def numpy_stages() -> Run:
    """Makes numpy ready, from list to list."""
    numpy = require("numpy")

    def run() -> Any:
        array = numpy.array(integers())
        array = array[array > 0]
        return numpy.cumsum(array * array).tolist()

    return repeated(ITEMS, run)


def only_sums() -> Run:
    """Makes the sums of numbers that are squares already ready."""
    squares = [number * number for number in integers()]
    return repeated(ITEMS, lambda: list(itertools.accumulate(squares)))


def cytoolz_stages() -> Run:
    """Makes cytoolz ready."""
    cytoolz = require("cytoolz")

    def run() -> Any:
        chosen = cytoolz.curried.filter(is_positive)(integers())
        return list(cytoolz.accumulate(lambda one, other: one + other, map(square, chosen)))

    require("cytoolz.curried", "cytoolz")
    return repeated(ITEMS, run)


def _stream(items: Any) -> Any:
    module = require("streamable")
    make: Any = getattr(module, "Stream", None) or module.stream
    return make(items)


def streamable_stages() -> Run:
    """Makes streamable ready; it has no running totals."""
    return repeated(ITEMS, lambda: list(itertools.accumulate(_stream(integers()).filter(is_positive).map(square))))


def streamable_parallel() -> Run:
    """Makes streamable's threads ready."""
    return repeated(PARALLEL, lambda: list(_stream(integers()[:PARALLEL]).map(nothing, concurrency=WORKERS)))


def pypeln_parallel() -> Run:
    """Makes pypeln's threads ready."""
    threads = require("pypeln").thread
    return repeated(PARALLEL, lambda: list(threads.map(nothing, integers()[:PARALLEL], workers=WORKERS, maxsize=72)))

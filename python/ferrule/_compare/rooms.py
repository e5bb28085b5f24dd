"""The rooms that can be compared: one module each, one line each."""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ferrule._compare.harness import Room

ROOMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "callable": "ferrule._compare.callable",
        "timing": "ferrule._compare.timing",
        "caching": "ferrule._compare.caching",
        "retrying": "ferrule._compare.retrying",
        "limiting": "ferrule._compare.limiting",
        "pooling": "ferrule._compare.pooling",
        "validating": "ferrule._compare.validating",
        "patterns": "ferrule._compare.patterns",
        "scheduling": "ferrule._compare.scheduling",
        "iterating": "ferrule._compare.iterating",
        "pipelines": "ferrule._compare.pipelines",
    },
)
"""Room to the module whose `room()` describes it, in the order of reports."""


def room_named(name: str) -> Room:
    """Returns what is measured of a room, against pure Python.

    Raises:
        KeyError: there is no such room.
    """
    describe = cast("Callable[[], Room]", importlib.import_module(ROOMS[name]).room)
    return describe()

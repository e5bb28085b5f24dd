"""The call layer beside the wrapper library that people use where a plain closure won't do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ferrule._compare.callable import method_work, work
from ferrule._compare.callable import room as compared
from ferrule._compare.harness import Room, keyword, method, positional, require

if TYPE_CHECKING:
    from collections.abc import Callable


def room(*, quick: bool) -> Room:
    """Describes the rows; they take no longer or shorter for `quick`."""
    del quick
    own = compared()
    peers = {
        "positional": {"wrapt": lambda: positional(forwarded_by_wrapt(work))},
        "keyword": {"wrapt": lambda: keyword(forwarded_by_wrapt(work))},
        "method": {"wrapt": lambda: method(forwarded_by_wrapt(method_work))},
    }
    return replace(own, rows=[row.joined_by(peers.get(row.id, {})) for row in own.rows])


def forwarded_by_wrapt(function: Callable[..., Any]) -> Any:
    return require("wrapt").decorator(forward)(function)


def forward(wrapped: Callable[..., Any], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    del instance
    return wrapped(*args, **kwargs)

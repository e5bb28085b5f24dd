"""The call layer by itself: what it costs to stand between a caller and a function, and do nothing there."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Room, Row, keyword, method, positional

if TYPE_CHECKING:
    from collections.abc import Callable

SHELL = "hand-written shell"


def work(x: int) -> int:
    """Returns what it is given: the least that a function can do."""
    return x


def method_work(self: object, x: int) -> int:
    """Returns what it is given, as a method."""
    del self
    return x


def forwarding_shell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function as every hand-written decorator does, and adds nothing."""

    @functools.wraps(function)
    def shell(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return shell


def room() -> Room:
    """Describes the rows."""
    return Room(
        name="callable",
        rows=[
            Row(
                id="positional",
                title="forwarding a call, one positional argument",
                baseline=SHELL,
                goal=0.5,
                candidates={
                    "bare function": lambda: positional(work),
                    "functools.partial": lambda: positional(functools.partial(work)),
                    SHELL: lambda: positional(forwarding_shell(work)),
                    "ferrule": lambda: positional(_native(work)),
                },
            ),
            Row(
                id="keyword",
                title="forwarding a call, one keyword argument",
                baseline=SHELL,
                goal=0.4,
                candidates={
                    "bare function": lambda: keyword(work),
                    "functools.partial": lambda: keyword(functools.partial(work)),
                    SHELL: lambda: keyword(forwarding_shell(work)),
                    "ferrule": lambda: keyword(_native(work)),
                },
            ),
            Row(
                id="method",
                title="forwarding a method call, one positional argument",
                baseline=SHELL,
                candidates={
                    "bare function": lambda: method(method_work),
                    SHELL: lambda: method(forwarding_shell(method_work)),
                    "ferrule": lambda: method(_native(method_work)),
                },
            ),
        ],
    )


def _native(function: Callable[..., Any]) -> Callable[..., Any]:
    from ferrule._core import Passthrough

    passthrough: Callable[..., Any] = Passthrough(function)
    return passthrough

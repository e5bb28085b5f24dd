"""What a decorator is given: looked at once, when it decorates."""

from __future__ import annotations

import functools
import sys
from types import CodeType, MethodType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

Kind = Literal["function", "coroutine function", "generator function", "async generator function"]

# The flags of a code object, from the inspect module, which takes longer to import than all of ferrule.
_GENERATOR = 0x20
_COROUTINE = 0x80
_ITERABLE_COROUTINE = 0x100
_ASYNC_GENERATOR = 0x200


def _code_flags(function: object) -> int:
    while isinstance(function, (MethodType, functools.partial)):
        function = function.__func__ if isinstance(function, MethodType) else function.func
    code = getattr(function, "__code__", None)
    if code is None:
        # An instance that is called like a function.
        code = getattr(getattr(type(function), "__call__", None), "__code__", None)  # noqa: B004
    return code.co_flags if isinstance(code, CodeType) else 0


def kind_of(function: object) -> Kind:
    """Tell what calling `function` gives: a value, a coroutine, a generator or an async generator."""
    flags = _code_flags(function)
    if flags & _COROUTINE or _is_marked(function):
        return "coroutine function"
    if flags & _ASYNC_GENERATOR:
        return "async generator function"
    return "generator function" if flags & _GENERATOR else "function"


def is_method_object(function: object) -> bool:
    """Tell whether it is a `staticmethod` or `classmethod` object, to be decorated inside."""
    return isinstance(function, (staticmethod, classmethod))


def is_awaitable_generator(function: object) -> bool:
    """Tell whether `types.coroutine` made the function's generators awaitable."""
    return bool(_code_flags(function) & _ITERABLE_COROUTINE)


def first_step(generator: AsyncGenerator[Any, Any]) -> Coroutine[Any, Any, Any]:
    """Begin an async generator that another one drives; return the awaitable of its first item.

    The event loop's hooks get to know the outer one alone: at its end a loop closes every generator that it knows, all
    at once, and two that work on one another would be in each other's way.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return generator.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _is_marked(function: object) -> bool:
    # `inspect.markcoroutinefunction` (3.12): whoever marked it has imported inspect.
    inspect = sys.modules.get("inspect")
    return inspect is not None and bool(inspect.iscoroutinefunction(function))

"""What several rooms check of their arguments in the same words."""

from __future__ import annotations

from typing import Final

__all__ = ["positive_integer", "shown"]

_MANY: Final = 2**63


def shown(value: object) -> str:
    """Return a value as messages show it, behind its class."""
    return f"{type(value).__name__}: {value!r}"


def positive_integer(name: str, value: object, hint: str = "") -> int:
    """Return an argument that must be an integer of 1 or more.

    Args:
        name: The argument's name.
        value: What came.
        hint: What else may come, for the message.

    Raises:
        TypeError, ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer{hint}, not {shown(value)}")
    if not 1 <= value < _MANY:
        raise ValueError(f"{name} must be 1 or more{hint}, got {value!r}")
    return value

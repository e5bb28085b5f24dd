"""The rooms' loggers, made when somebody first logs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger

__all__ = ["logger_of"]


@functools.cache
def logger_of(room: str) -> Logger:
    """Return the logger `ferrule.<room>`; without a handler of the program's, nothing is printed."""
    # Imported by those who log: logging takes longer to import than all of ferrule.
    import logging

    ferrule = logging.getLogger("ferrule")
    if not any(type(handler) is logging.NullHandler for handler in ferrule.handlers):
        ferrule.addHandler(logging.NullHandler())
    return ferrule.getChild(room)

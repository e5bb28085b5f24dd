"""Where an object is at home: the modules that have a name for it, by which another process finds its own of it."""

from __future__ import annotations

import sys


def homes_of(value: object) -> list[tuple[str, str]]:
    """Return the modules and the names that an object can be found by; this looks at all of them.

    Args:
        value: The object.
    """
    return [
        (name, attribute)
        for name, module in list(sys.modules.items())
        for attribute, held in list(getattr(module, "__dict__", {}).items())
        if held is value
    ]

"""Helpers for the test suites of ferrule's users: a clock that the test turns.

This module is a pytest plugin, too: where ferrule is installed, every test can ask for the fixture `manual_clock`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ferrule._core import ManualClock

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["ManualClock", "manual_clock"]


@contextmanager
def manual_clock() -> Generator[ManualClock, None, None]:
    """Replace ferrule's clocks, for the length of a block, by one that goes only where it is turned.

    >>> from ferrule import Timer
    >>> from ferrule.testing import manual_clock
    >>> with manual_clock() as clock, Timer() as timer:
    ...     clock.advance(30)
    >>> timer.elapsed
    30.0

    The clock starts at the real clocks' time. Every duration and every deadline of ferrule, in all threads and event
    loops of the process, goes by it; `time.monotonic` and its like are left alone. A wait with a deadline ends when the
    clock is turned past it. When the block ends, the real clocks are back, and what began under the manual clock and
    would have a negative duration has none.

    Yields:
        The clock: `advance(seconds)` turns it (seconds or a `timedelta`), `time()` reads it in seconds.

    Raises:
        RuntimeError: If a manual clock is in use already, in whatever thread: there is one time for all.
    """
    clock = ManualClock()
    clock.start()
    try:
        yield clock
    finally:
        clock.stop()


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(name="manual_clock")
    def _manual_clock_fixture() -> Generator[ManualClock, None, None]:
        """A clock of ferrule's that the test turns by hand; see `ferrule.testing.manual_clock`."""
        with manual_clock() as clock:
            yield clock

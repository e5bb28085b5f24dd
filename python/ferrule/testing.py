"""Helpers for the test suites of ferrule's users: a clock that the test turns, and retries that don't sleep.

This module is a pytest plugin, too: where ferrule is installed, every test can ask for the fixture `manual_clock`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ferrule._core import ManualClock

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["ManualClock", "manual_clock", "no_sleep"]


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


@contextmanager
def no_sleep() -> Generator[list[float], None, None]:
    """Skip the waits between attempts, for the length of a block, and take them down instead.

    >>> from ferrule import retry
    >>> from ferrule.testing import no_sleep
    >>> @retry(max_attempts=4, delay=10, jitter=None)
    ... def fetch():
    ...     raise OSError("busy")
    >>> with no_sleep() as delays:
    ...     try:
    ...         fetch()
    ...     except OSError as error:
    ...         print(error)
    busy
    >>> delays
    [10.0, 20.0, 40.0]

    It holds for the context that enters the block (see `contextvars`): for this thread or task, and for the tasks and
    `asyncio.to_thread` calls that are begun in it, but for nobody else's, so that tests may run side by side. A thread
    that is started by hand has a context of its own before Python 3.14; give it this one:
    `Thread(target=contextvars.copy_context().run, args=(function,))`. A wait that was skipped counts as elapsed
    nevertheless, so that a policy's `timeout` ends the attempts just when it would have.

    Yields:
        The seconds of every wait that was skipped, in order; it grows while the block runs.
    """
    # Where the plugin is loaded and nothing is retried, the room isn't loaded.
    from ferrule.retrying import SKIPPED

    delays: list[float] = []
    before = SKIPPED.set(delays)
    try:
        yield delays
    finally:
        SKIPPED.reset(before)


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

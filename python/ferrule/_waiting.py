"""How a task waits in a native line: the shape of every room's asynchronous face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import timedelta

    from ferrule._core import Line

__all__ = ["get_async"]


async def get_async(line: Line, *, timeout: float | timedelta | None = None) -> Any:  # noqa: ASYNC109 - the line keeps it
    """Take a value from `line`, or stand in it for one, in order of arrival among threads and tasks alike.

    Args:
        line: The line to take from.
        timeout: How long to wait, in seconds or as a `timedelta`; `None` for ever, 0 not at all.

    Returns:
        The value: one that had been kept, or the one that was handed to this task.

    Raises:
        TimeoutError: If nothing came in time.
        RuntimeError: If the line is closed, before or while waiting.
        TypeError, ValueError: If `timeout` is neither a number of seconds nor a `timedelta`, or is negative.
        asyncio.CancelledError: If the task is cancelled. What had been handed to it already goes to the next in line.
    """
    from asyncio import get_running_loop

    place = line.join(get_running_loop(), timeout=timeout)
    try:
        await place.future
        return place.take()
    except BaseException:
        place.leave()
        raise

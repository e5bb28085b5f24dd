"""The terms of a task: what executors of threads and of processes check alike, and how they are seen on such terms."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ferrule import _core
from ferrule._checking import shown

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from ferrule.retrying import Retry

_NANOSECONDS: Final = 1_000_000_000
_MANY: Final = 2**31

ExecutorT = TypeVar("ExecutorT", bound=concurrent.futures.Executor)
TermsT = TypeVar("TermsT", bound=tuple[Any, ...])


def priority_of(value: object) -> int:
    """Return a priority, checked.

    Args:
        value: What was given as `priority`.

    Raises:
        TypeError, ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"priority must be an integer, not {shown(value)}")
    if not -_MANY <= value < _MANY:
        raise ValueError(f"priority must fit into 32 bits, got {value!r}")
    return value


def timeout_of(value: float | timedelta | None) -> float | None:
    """Return a time limit in seconds, checked.

    Args:
        value: What was given as `timeout`.

    Raises:
        TypeError, ValueError: If it is none.
    """
    if value is None:
        return None
    seconds = _core.seconds_from("timeout", value)
    if seconds == 0:
        raise ValueError("timeout must be more than 0 seconds, or None for ever")
    return seconds


def policy_of(value: object) -> Retry | None:
    """Return a policy of retrying, checked.

    Args:
        value: What was given as `retry`.

    Raises:
        TypeError: If it is none.
    """
    from ferrule.retrying import Retry

    if value is not None and not isinstance(value, Retry):
        raise TypeError(f"retry must be a ferrule.Retry or None, not {shown(value)}")
    return value


def nanoseconds_of(seconds: float | None) -> int | None:
    """Return a time limit in nanoseconds; `None` where it is as good as none.

    Args:
        seconds: The limit in seconds, if there is one.
    """
    if seconds is None or seconds >= _MANY:
        return None
    return max(1, round(seconds * _NANOSECONDS))


def is_interrupted() -> bool:
    """Tell whether Ctrl-C ends the program."""
    import sys

    # In an interactive session the last error may be an old one.
    error = getattr(sys, "last_exc", None)
    return not hasattr(sys, "ps1") and isinstance(error or getattr(sys, "last_value", None), KeyboardInterrupt)


class View(concurrent.futures.Executor, Generic[ExecutorT, TermsT]):
    """An executor as seen by tasks on terms of their own."""

    __slots__ = ("_executor", "_terms")

    def __init__(self, executor: ExecutorT, terms: TermsT) -> None:
        self._executor = executor
        self._terms = terms

    def parts(self) -> tuple[ExecutorT, TermsT]:
        """Return the executor itself, and the terms; for those who build on views."""
        return self._executor, self._terms

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Shut the executor down, for all who use it.

        Args:
            wait: Whether to wait until all tasks are done and the workers have gone.
            cancel_futures: Whether tasks that wait in the queue are cancelled.
        """
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        terms: Any = self._terms
        told = ", ".join(f"{name}={value!r}" for name, value in terms._asdict().items())
        return f"<{type(self).__name__} of {self._executor!r}: {told}>"

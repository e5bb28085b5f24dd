"""The exceptions that are ferrule's alone, each also under the built-in one that fits."""

from __future__ import annotations


class FerruleError(Exception):
    """The base of all exceptions that ferrule has of its own."""


class MissingExtra(FerruleError, ImportError):  # noqa: N818 - it says what is wrong without the word
    """Something needs a library that is not installed; the message names the extra that brings it.

    Args:
        what: What was asked for.
        extra: The extra of ferrule that brings the library.
        library: The library that can't be imported.
    """

    def __init__(self, what: str, extra: str, library: str) -> None:
        super().__init__(f"{what} needs {library}: pip install 'ferrule[{extra}]'", name=library)
        self.extra = extra

    def __reduce__(self) -> tuple[object, ...]:
        # ImportError would be restored from its message alone.
        return (_restore, (self.args, self.name, self.extra))


def _restore(args: tuple[str, ...], name: str, extra: str) -> MissingExtra:
    error = MissingExtra.__new__(MissingExtra)
    ImportError.__init__(error, *args, name=name)
    error.extra = extra
    return error


class _RetryAfter(FerruleError):  # noqa: N818 - it says what is wrong without the word
    """Says how many seconds to wait before another try makes sense."""

    _text = "try again in"

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self._text} {self.retry_after:.3g} s"


class CircuitOpen(_RetryAfter):
    """A circuit breaker is open, and the call has not been made.

    Args:
        retry_after: In how many seconds, at most, the breaker lets a call through again, to see.
    """

    _text = "the circuit is open; it may be tried again in"


class RateLimited(_RetryAfter):
    """A rate limit is used up, and the call has not been made.

    Args:
        retry_after: In how many seconds there is room again.
    """

    _text = "the rate limit is used up; there is room again in"


class AcquireTimeout(FerruleError, TimeoutError):  # noqa: N818 - it says what is wrong without the word
    """What was waited for didn't come in time."""

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


class FieldError(FerruleError):
    """A field refuses a value. `owner`, `field`, `value` and `rule` say which, what, and why.

    Args:
        text: The whole sentence.
        owner: The class's name.
        field: The field's name.
        value: What was refused.
        rule: What it must be.
    """

    def __init__(self, text: str, owner: str = "", field: str = "", value: object = None, rule: str = "") -> None:
        super().__init__(text)
        self.owner = owner
        self.field = field
        self.value = value
        self.rule = rule

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (str(self), self.owner, self.field, self.value, self.rule))


class FieldTypeError(FieldError, TypeError):
    """A field refuses a value for its type."""


class FieldValueError(FieldError, ValueError):
    """A field refuses a value of the right type."""


def field_error(of_type: bool, text: str, owner: str, field: str, value: object, rule: str) -> FieldError:  # noqa: FBT001, PLR0917 - called from Rust
    """Make the exception."""
    return (FieldTypeError if of_type else FieldValueError)(text, owner, field, value, rule)


class ExecutorClosed(FerruleError, RuntimeError):  # noqa: N818 - it says what is wrong without the word
    """An executor takes no tasks any more: it was shut down, or the interpreter is about to end."""


class ExecutorFull(FerruleError, RuntimeError):  # noqa: N818 - it says what is wrong without the word
    """As many tasks wait as an executor lets wait."""


class TaskTimeout(FerruleError, TimeoutError):  # noqa: N818 - it says what is wrong without the word
    """A task took longer than it may.

    Args:
        seconds: How many seconds it may take.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"the task took longer than {self.seconds:.3g} s"


class WorkerDied(FerruleError):  # noqa: N818 - it says what is wrong without the word
    """A worker process ended while it ran a task.

    Args:
        task_id: The task's name, or its number where it has none.
        exitcode: The process's exit code, as `subprocess` has it; `None` where nobody could say.
        signal: The number of the signal that killed it, if one did.
    """

    def __init__(self, task_id: object, exitcode: int | None, signal: int | None) -> None:
        super().__init__(task_id, exitcode, signal)
        self.task_id = task_id
        self.exitcode = exitcode
        self.signal = signal

    def __str__(self) -> str:
        how = f"killed by signal {self.signal}" if self.signal is not None else f"exit code {self.exitcode}"
        return f"the process that ran task {self.task_id!r} has ended: {how}"


class DuplicateTask(FerruleError, ValueError):  # noqa: N818 - it says what is wrong without the word
    """A scheduler has a task of that name already."""


class UnknownDependency(FerruleError, ValueError):  # noqa: N818 - it says what is wrong without the word
    """A task depends on one that the scheduler doesn't have."""


class DependencyCycle(FerruleError, ValueError):  # noqa: N818 - it says what is wrong without the word
    """Tasks wait for one another in a circle."""

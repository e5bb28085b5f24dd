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

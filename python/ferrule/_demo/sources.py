"""Where Python sources are, and how they are opened and parsed."""

from __future__ import annotations

import ast
import os
import stat
import sysconfig
import tokenize
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TextIO

LEFT_OUT = ("__pycache__", "dist-packages", "site-packages")
"""Folders that are not entered: what was installed beside the sources, and what was compiled from them."""

LARGEST = 8 * 1024 * 1024
"""Bytes of the largest file that is read. A parsed file takes some hundred times its size in memory."""


NUL_BYTES = "cannot be parsed: it holds NUL bytes"


class UnreadableError(Exception):
    """A file or folder that nothing can be said about; its text is the reason, without the name."""


class Problem(NamedTuple):
    """A file or folder that could not be used, by its name in the tree, and why."""

    path: str
    reason: str


class Found(NamedTuple):
    """The Python files of a tree in sorted order, and the folders that could not be listed."""

    root: Path
    files: list[Path]
    problems: list[Problem]

    def first(self, limit: int | None) -> Found:
        """Return what was found with only the first `limit` files of it; `None` keeps all."""
        return self._replace(files=self.files[:limit])


def standard_library() -> Path:
    """Return the folder with the standard library's sources of the running interpreter."""
    return Path(sysconfig.get_path("stdlib"))


def python_files(path: Path) -> Found:
    """Find the `*.py` files under a folder, or take the one file that `path` is.

    Folders named in `LEFT_OUT` and folders behind symbolic links are not entered, so a link that points back up the
    tree cannot make the walk endless. Linked files are taken.

    Args:
        path: A folder, or a file whose name ends in `.py`.

    Returns:
        The files in sorted order; `root` is the folder that their names are told from.
    """
    if not path.is_dir():
        return Found(path.parent, [path] if path.suffix == ".py" else [], [])
    files: list[Path] = []
    problems: list[Problem] = []

    def unlisted(error: OSError) -> None:
        problems.append(Problem(name_in(path, Path(error.filename)), f"cannot be listed: {reason_of(error)}"))

    for folder, folders, names in os.walk(path, onerror=unlisted):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        # os.walk takes what it cannot look at for a file, so a dangling link is here, too, and is named later.
        files.extend(Path(folder, name) for name in names if name.endswith(".py"))
    return Found(path, sorted(files), sorted(problems))


def name_in(root: Path, path: Path) -> str:
    """Return a path as it is told: from `root`, with `/`, and with what can't be encoded or printed escaped."""
    return printable(path.relative_to(root).as_posix())


def printable(text: str) -> str:
    """Return the text with everything that a terminal or a database could stumble over as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextmanager
def opened(path: Path) -> Generator[TextIO, None, None]:
    """Open a source as the interpreter would: decoded by its byte order mark, its coding comment, or else as UTF-8.

    Args:
        path: The file. It has to be a regular one: a pipe would keep the reader waiting.

    Raises:
        UnreadableError: The file can't be opened, or it can't be read or decoded while the block runs.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("is not a regular file")
        if status.st_size > LARGEST:
            raise UnreadableError(f"is larger than {LARGEST:,} bytes")
        with tokenize.open(path) as file:
            yield file
    except OSError as error:
        raise UnreadableError(f"cannot be read: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise UnreadableError(f"cannot be decoded as {error.encoding}: {error.reason}") from error
    except SyntaxError as error:
        if "null bytes" in error.msg:  # from 3.14 on they are noticed here, if they are in the first lines
            raise UnreadableError(NUL_BYTES) from error
        # what tokenize.open says of a coding comment that is wrong; it puts the name first
        raise UnreadableError(f"cannot be decoded: {error.msg.replace(f' for {str(path)!r}', '')}") from error
    except (LookupError, ValueError) as error:  # a codec that is none for text, or one that has its own way to fail
        raise UnreadableError(f"cannot be decoded: {error}") from error


def tree_of(text: str) -> ast.Module:
    """Parse the text of one file.

    Args:
        text: The whole decoded source.

    Returns:
        Its syntax tree.

    Raises:
        UnreadableError: The text is no Python, or is nested too deeply for the parser.
    """
    if "\0" in text:  # the versions of Python word this differently
        raise UnreadableError(NUL_BYTES)
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise UnreadableError(f"cannot be parsed: line {error.lineno}: {error.msg}") from error
    except (MemoryError, RecursionError) as error:
        raise UnreadableError("cannot be parsed: it is nested too deeply") from error
    except ValueError as error:  # half a surrogate pair, from a coding that lets one through
        raise UnreadableError(f"cannot be parsed: {error}") from error


def reason_of(error: OSError) -> str:
    """Return what the system says of an error, without the name of the file."""
    return error.strerror or type(error).__name__

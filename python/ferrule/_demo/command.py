"""The command line of `python -m ferrule demo`."""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ferrule._demo import contest, telling
from ferrule._demo.sources import python_files, standard_library
from ferrule._demo.storing import APPLICATION_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

EQUAL, DIFFERENT, UNUSABLE = 0, 1, 2


def main(argv: Sequence[str]) -> int:
    """Run the demo.

    Args:
        argv: What stands after `demo` on the command line.

    Returns:
        The exit status: 0 if both jobs found the same, 1 if they differ. Files that can't be read are reported and
        change nothing about it.

    Raises:
        SystemExit: With status 2, after a message, if the arguments can't be used; with 0 after `--help`.
    """
    parser = arguments()
    options = parser.parse_args(argv)
    path: Path = options.path or standard_library()
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises if a folder above can't be entered
        parser.error(f"PATH does not exist: {path}")
    check_outputs(parser, {"--database": options.database, "--json": options.json, "--timeline": options.timeline})
    found = python_files(path)
    if not found.files:
        reasons = "".join(f"; {problem.path} {problem.reason}" for problem in found.problems)
        parser.error(f"PATH holds no Python file (*.py): {path}{reasons}")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="ferrule-demo-") as folder,
            progress(len(found.first(options.limit).files)) as advance,
        ):
            outcome = contest.run(found, path, Path(folder), limit=options.limit, progress=advance)
            if options.database is not None:
                keep(Path(folder, "ferrule.sqlite"), options.database)
        if options.json is not None:
            options.json.write_text(telling.as_json(outcome), encoding="utf-8")
        if options.timeline is not None:
            outcome.timeline.timeline(options.timeline)
    except (OSError, sqlite3.Error) as error:
        parser.error(f"cannot write: {error}")
    sys.stdout.write(telling.as_text(outcome, options.timeline))
    return DIFFERENT if outcome.differences else EQUAL


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ferrule demo",
        description="Read Python sources, keep what is found in a database, and tell it: once with ferrule, once in"
        " plain Python, compared row by row and timed side by side.",
        epilog="The exit status is 0 if both found the same, 1 if not, 2 if the demo cannot be run as asked. Files"
        " that cannot be read or parsed are named at the end and change nothing about it.",
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        type=Path,
        help="a folder or a single *.py file; left out: the standard library of this Python",
    )
    parser.add_argument("--database", metavar="FILE", type=Path, help="keep the SQLite database that ferrule filled")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the same facts as JSON, too")
    parser.add_argument(
        "--timeline", metavar="FILE", type=Path, help="draw which process or thread of ferrule's job did what when, too"
    )
    parser.add_argument("--limit", metavar="N", type=positive, help="take the first N files only")
    return parser


def positive(text: str) -> int:
    """Return the number that a text spells, if there is one and it is at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return number


def check_outputs(parser: argparse.ArgumentParser, outputs: dict[str, Path | None]) -> None:
    """Refuse outputs that can't be written, or that would replace something that is not ours, before any work is done.

    Args:
        parser: Reports the error and exits.
        outputs: Where the database, JSON and the timeline are to be written, by option, as far as they are. A database
            that is there is replaced if the demo made it.
    """
    taken: dict[Path, str] = {}
    for option, file in outputs.items():
        if file is None:
            continue
        if file.is_dir():
            parser.error(f"argument {option}: is a folder: {file}")
        if not file.parent.is_dir():
            parser.error(f"argument {option}: there is no folder {file.parent}")
        if (other := taken.setdefault(file.resolve(), option)) != option:
            parser.error(f"arguments {other} and {option} name the same file: {file}")
    database = outputs["--database"]
    if database is not None and database.exists() and not made_by_demo(database):
        parser.error(f"argument --database: {database} is there, and no database of the demo; it is left as it is")


def made_by_demo(file: Path) -> bool:
    """Return whether a file is a database that the demo made, or empty."""
    with file.open("rb") as stream:
        header = stream.read(72)
    return not header or (header.startswith(b"SQLite format 3\0") and header[68:] == APPLICATION_ID.to_bytes(4, "big"))


def keep(source: Path, target: Path) -> None:
    """Move a finished database to where it was asked for: in one step, so that there is never half of one."""
    beside = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def progress(files: int) -> Generator[Callable[[int], object], None, None]:
    """Show a progress bar on standard error while a block runs, if somebody can see it and the extra is there.

    Args:
        files: How many there are to be done.

    Returns:
        A context; inside it, a function to be called with how many more are done.
    """
    bar = None
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
        except ImportError:
            pass
        else:
            bar = tqdm(total=files, unit=" files", leave=False)
    try:
        yield bar.update if bar is not None else lambda _: None
    finally:
        if bar is not None:
            bar.close()

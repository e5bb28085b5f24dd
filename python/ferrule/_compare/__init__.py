"""Comparing ferrule with pure Python on the user's own machine: `python -m ferrule compare`.

Nothing here is imported by `import ferrule`, and nothing but this file by importing this package.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ferrule._compare.harness import Room, Settings
    from ferrule._compare.results import Report

__all__ = ["main", "measured"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures rooms against pure Python and prints the table.

    Args:
        argv: the arguments behind `python -m ferrule compare`; `None` means those of the process.

    Returns:
        The exit status: 0 however the goals stand, since timings are no assertions; 1 when a candidate of ours raised;
        130 after Ctrl-C. Bad arguments exit with 2, as argparse does.
    """
    from functools import partial
    from pathlib import Path

    from ferrule._compare.harness import QUICK, Settings
    from ferrule._compare.report import failures, table
    from ferrule._compare.rooms import ROOMS, room_named

    parser = _parser()
    options = parser.parse_args(argv)
    for name in options.room:
        if name not in ROOMS:
            parser.error(f"argument ROOM: {name!r} is no room; it may be {', '.join(map(repr, ROOMS))}")
    wanted = {name: partial(room_named, name) for name in options.room or ROOMS}
    if options.list:
        sys.stdout.write(_listing(wanted))
        return 0
    target = None if options.json is None else Path(options.json)
    if target is not None:
        try:
            _try_writing(target)
        except OSError as error:
            parser.error(f"argument --json: {target}: {error.strerror}")
    try:
        report = measured(wanted, QUICK if options.quick else Settings())
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    sys.stdout.write(table(report))
    if target is not None:
        target.write_text(report.to_json(), encoding="utf-8")
    return 1 if failures(report) else 0


def measured(rooms: Mapping[str, Callable[[], Room]], settings: Settings) -> Report:
    """Measures rooms one after the other, showing progress on standard error.

    Args:
        rooms: name to the function that describes the room.
        settings: how long and how often.
    """
    from ferrule._compare.harness import measure_room, steps_of
    from ferrule._compare.progress import shown
    from ferrule._compare.report import report_of

    described = [describe() for describe in rooms.values()]
    progress = shown(sum(steps_of(room, settings) for room in described))
    try:
        results = [measure_room(room, settings, progress=progress) for room in described]
    finally:
        progress.close()
    return report_of(results, settings)


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m ferrule compare",
        description="Measure ferrule against pure Python in this interpreter, on this machine.",
    )
    parser.add_argument("room", nargs="*", metavar="ROOM", help="what to measure; all rooms when none is named")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too, as JSON")
    parser.add_argument("--quick", action="store_true", help="a few short rounds: a rough picture in seconds")
    parser.add_argument("--list", action="store_true", help="list the rooms and what is measured, and measure nothing")
    return parser


def _try_writing(target: Path) -> None:
    """Raises the `OSError` now that would otherwise come when everything has been measured."""
    existed = target.exists()
    target.open("a", encoding="utf-8").close()
    if not existed:
        target.unlink()


def _listing(rooms: Mapping[str, Callable[[], Room]]) -> str:
    lines: list[str] = []
    for describe in rooms.values():
        room = describe()
        lines.append(room.name)
        lines.extend(f"  {item.title}" for item in room.items)
    return "\n".join(lines) + "\n"

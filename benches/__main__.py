"""`python -m benches [ROOM ...] [--quick] [--rounds R] [--json DIR]`: measure, print a table, keep the results."""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ferrule._compare import measured
from ferrule._compare.harness import QUICK, Settings
from ferrule._compare.report import failures, slug, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ferrule._compare.harness import Room
    from ferrule._compare.results import Report

# The peers are slower than ours and differ among themselves: more rounds than a user would wait for.
THOROUGH = Settings(rounds=150)


def rooms() -> list[str]:
    """Lists the rooms that have a `bench_<room>.py`."""
    return sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def room_named(name: str, *, quick: bool) -> Room:
    """Returns what is measured of a room, peers included."""
    described: Room = importlib.import_module(f"benches.bench_{name}").room(quick=quick)
    return described


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; the exit status is 0 however the goals stand, 1 when a candidate of ours raised."""
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("room", nargs="*", metavar="ROOM", help=f"one of {', '.join(rooms())}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="a few short rounds, for a look or for CI")
    parser.add_argument("--rounds", type=_rounds, metavar="R", help="how many runs each candidate gets")
    parser.add_argument("--json", type=Path, metavar="DIR", help="write <room>-<interpreter>.json there, for each room")
    options = parser.parse_args(argv)
    for name in options.room:
        if name not in rooms():
            parser.error(f"argument ROOM: {name!r} is no room; it may be {', '.join(map(repr, rooms()))}")
    if options.json is not None:
        try:
            options.json.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"argument --json: {options.json}: {error.strerror}")
    settings = QUICK if options.quick else THOROUGH
    if options.rounds is not None:
        settings = replace(settings, rounds=options.rounds)
    failed = False
    for name in dict.fromkeys(options.room or rooms()):
        report = measured({name: partial(room_named, name, quick=options.quick)}, settings)
        print(table(report), flush=True)
        if options.json is not None:
            keep(report, options.json / f"{name}-{slug(report.interpreter)}.json")
        failed = failed or bool(failures(report))
    return 1 if failed else 0


def keep(report: Report, target: Path) -> None:
    """Writes a report so that an interruption leaves the old file whole."""
    unfinished = target.with_name(f"{target.name}.tmp")
    unfinished.write_text(report.to_json(), encoding="utf-8")
    unfinished.replace(target)


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}; it may be 1 or more")
    return int(text)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

"""The table of README, made from the reports of measurements.

`python -m ferrule._compare.readme README.md RESULTS.json...` puts it between the two markers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ferrule._compare.report import described, located, nanoseconds, value_text
from ferrule._compare.results import Report
from ferrule._compare.rooms import ROOMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ferrule._compare.results import CandidateResult, FigureResult, FigureValue, RoomResult, RowResult

BEGIN: Final = "<!-- benchmarks: begin -->"
END: Final = "<!-- benchmarks: end -->"


def readme_table(results: Iterable[str]) -> str:
    """Renders reports as Markdown: for each interpreter, machine and day a caption and its tables.

    Of two measurements of one room on one interpreter and machine, the later counts. The order of the reports makes no
    difference.

    Args:
        results: the texts of the JSON files.

    Raises:
        ValueError: a text is no report, or of another schema.
    """
    reports = [Report.from_json(text) for text in results]
    newest: dict[tuple[object, ...], tuple[Report, RoomResult]] = {}
    for report in sorted(reports, key=lambda each: (each.date, each.to_json())):
        for room in report.rooms:
            newest[report.interpreter, report.machine, room.room] = (report, room)
    groups: dict[str, list[RoomResult]] = {}
    for report, room in sorted(newest.values(), key=_place):
        groups.setdefault(_caption(report), []).append(room)
    return "\n".join("\n".join(_group(caption, rooms)) for caption, rooms in groups.items())


def with_table(readme: str, markdown: str) -> str:
    """Returns a README's text with the table between its markers, in place of what was there.

    Raises:
        ValueError: the markers are not there once each, the beginning before the end.
    """
    for marker in (BEGIN, END):
        if (times := readme.count(marker)) != 1:
            raise ValueError(f"the marker {marker} stands there {times} times; it has to stand there once")
    before, _, rest = readme.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the marker {END} stands before {BEGIN}")
    return f"{before}{BEGIN}\n\n{markdown.strip()}\n\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrites README's table in place; returns the exit status: 2 when a file can't be used, which is said.

    Args:
        argv: the arguments, README first, then the JSON files; `None` means those of the process.
    """
    names = sys.argv[1:] if argv is None else list(argv)
    if len(names) < 2 or names[0].startswith("-"):  # noqa: PLR2004  # a README and a result
        sys.stderr.write("usage: python -m ferrule._compare.readme README.md RESULTS.json...\n")
        return 2
    target, *sources = map(Path, names)
    path = target
    try:
        texts: list[str] = []
        for path in sources:  # the handler names the file at hand
            text = path.read_text(encoding="utf-8")
            Report.from_json(text)
            texts.append(text)
        path = target
        old = target.read_text(encoding="utf-8")
        new = with_table(old, readme_table(texts))
        if new != old:
            target.write_text(new, encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{path}: {error}\n")
        return 2
    return 0


def _place(measured: tuple[Report, RoomResult]) -> tuple[object, ...]:
    """Orders rooms: by interpreter, then by machine and day, then as the house lists them."""
    report, room = measured
    interpreter = report.interpreter
    numbers = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in interpreter.version.split("."))
    rooms = list(ROOMS)
    return (
        interpreter.implementation,
        numbers,
        interpreter.free_threaded,
        _caption(report),
        rooms.index(room.room) if room.room in rooms else len(rooms),
        room.room,
    )


def _caption(report: Report) -> str:
    conditions = report.conditions
    quick = " A rough, quick run." if conditions.quick else ""
    return (
        f"{described(report.interpreter)}; {located(report.machine)}; {report.date[:10]}. "
        f"Nanoseconds an operation, the loop included: the quickest of {conditions.rounds} runs of about "
        f"{conditions.run_ms:g} ms, candidates in turns in one process.{quick}"
    )


def _group(caption: str, rooms: Sequence[RoomResult]) -> Iterator[str]:
    yield caption
    yield ""
    if any(room.rows for room in rooms):
        yield "| operation | ferrule | by hand in Python | ratio | goal | others |"
        yield "| :-- | --: | --: | --: | :-- | :-- |"
        for room in rooms:
            for row in room.rows:
                yield _row_line(row)
        yield ""
    if any(room.figures for room in rooms):
        yield "| property | ferrule | goal | others |"
        yield "| :-- | --: | :-- | :-- |"
        for room in rooms:
            for figure in room.figures:
                yield _figure_line(figure)
        yield ""


def _row_line(row: RowResult) -> str:
    by_label = {each.label: each for each in row.candidates}
    ours, baseline = by_label.get(row.ours), by_label[row.baseline]
    others = [each for each in row.candidates if each.label not in {row.ours, row.baseline}]
    return _cells(
        row.title,
        "" if ours is None else _time(ours),
        _time(baseline),
        "" if ours is None or ours.ratio is None else f"{ours.ratio:.2f}",
        _goal(row.goal, "", met=row.met),
        "; ".join(f"{each.label} {_time(each)}" for each in others),
    )


def _figure_line(figure: FigureResult) -> str:
    ours = next((each for each in figure.candidates if each.label == figure.ours), None)
    truth = "" if figure.truth is None else f" (truth: {value_text(figure.truth, figure.unit)})"
    return _cells(
        f"{figure.title}{truth}",
        "" if ours is None else _value(ours, figure.unit),
        _goal(figure.goal, figure.unit, met=figure.met),
        "; ".join(
            f"{each.label} {_value(each, figure.unit)}" for each in figure.candidates if each.label != figure.ours
        ),
    )


def _time(each: CandidateResult) -> str:
    return _missing(each) if each.best is None else nanoseconds(each.best)


def _value(each: FigureValue, unit: str) -> str:
    return _missing(each) if each.value is None else value_text(each.value, unit)


def _missing(each: CandidateResult | FigureValue) -> str:
    return "(not available)" if each.status == "unavailable" else f"({each.reason.partition(':')[0]})"


def _goal(goal: float | None, unit: str, *, met: bool | None) -> str:
    if goal is None:
        return ""
    limit = value_text(goal, unit) if unit else f"{goal:g}"
    verdict = {True: "met", False: "**missed**", None: "not measured"}[met]
    return f"≤ {limit}, {verdict}"


def _cells(*texts: str) -> str:
    return f"| {' | '.join(text.replace('|', '&#124;').replace(chr(10), ' ') for text in texts)} |"


if __name__ == "__main__":
    sys.exit(main())

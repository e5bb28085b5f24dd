"""The report of a measurement, and the table that a person reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ferrule import __version__
from ferrule._compare.environment import this_interpreter, this_machine
from ferrule._compare.results import Conditions, FigureResult, Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ferrule._compare.harness import Settings
    from ferrule._compare.results import CandidateResult, Interpreter, Machine, RoomResult, RowResult

_KIB: Final = 1024
_FRACTIONS_BELOW: Final = 100
_HEADINGS: Final = ("", "best ns", "noise", "ratio", "by rounds", "goal")


def report_of(rooms: Sequence[RoomResult], settings: Settings) -> Report:
    """Puts together what was measured, how, and where it was measured: here and now."""
    return Report(
        version=__version__,
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        interpreter=this_interpreter(),
        machine=this_machine(),
        conditions=Conditions(rounds=settings.rounds, run_ms=settings.run_ms, quick=settings.quick),
        rooms=list(rooms),
    )


def slug(interpreter: Interpreter) -> str:
    """Names an interpreter for a file name, as in "cpython-3.14t"."""
    major, minor = interpreter.version.split(".")[:2]
    return f"{interpreter.implementation.lower()}-{major}.{minor}{'t' if interpreter.free_threaded else ''}"


def described(interpreter: Interpreter) -> str:
    """Describes an interpreter in one phrase."""
    builds = {True: "optimised build", False: "not an optimised build", None: "build not known"}
    words = [f"{interpreter.implementation} {interpreter.version}", builds[interpreter.optimised]]
    if interpreter.free_threaded:
        words.append("free-threaded, with the lock on" if interpreter.lock else "free-threaded")
    if interpreter.debug:
        words.append("debug")
    if interpreter.jit:
        words.append("just-in-time compiler on")
    return ", ".join(words)


def located(machine: Machine) -> str:
    """Describes a machine in one phrase."""
    return f"{machine.cpu}, {machine.cores} core{'' if machine.cores == 1 else 's'}, {machine.system}"


def failures(report: Report) -> list[str]:
    """Lists the candidates of ours that raised, as "room, row: reason"."""
    return [
        f"{room.room}, {item.title}: {each.reason}"
        for room in report.rooms
        for item in room.items
        for each in item.candidates
        if each.label == item.ours and each.status == "failed"
    ]


def table(report: Report) -> str:
    """Renders a report for people: a block of lines for each room, then how the goals stand; ends with a newline."""
    lines = [
        f"ferrule {report.version}, {report.date[:10]}",
        f"{described(report.interpreter)}; {located(report.machine)}",
        *_method(report.conditions),
    ]
    for room in report.rooms:
        lines.append("")
        lines.extend(_room_lines(room))
    lines.append("")
    lines.extend(_goal_lines(report))
    return "\n".join(lines) + "\n"


def value_text(value: float, unit: str) -> str:
    """Writes a figure's value with its unit.

    Examples:
        >>> value_text(12_288, "bytes")
        '12.0 KiB'
        >>> value_text(0.42, "%")
        '0.42 %'
    """
    if unit == "bytes":
        if value >= _KIB * _KIB:
            return f"{value / _KIB / _KIB:,.1f} MiB"
        return f"{value / _KIB:,.1f} KiB" if value >= _KIB else f"{value:,.0f} bytes"
    if value == 1:
        return f"1 {unit.removesuffix('s')}" if len(unit) > len("ms") else f"1 {unit}"
    if value == int(value):
        return f"{value:,.0f} {unit}"
    if abs(value) < 1:
        return f"{value:.2g} {unit}"
    return f"{value:,.2f} {unit}" if abs(value) < _FRACTIONS_BELOW else f"{value:,.0f} {unit}"


def nanoseconds(value: float) -> str:
    """Writes nanoseconds to three figures or to the nanosecond, whichever is finer."""
    return f"{value:.1f}" if value < _FRACTIONS_BELOW else f"{value:,.0f}"


def _method(conditions: Conditions) -> list[str]:
    runs = f"{conditions.rounds} run{'' if conditions.rounds == 1 else 's'} of about {conditions.run_ms:g} ms"
    return [
        f"best ns: nanoseconds an operation, the loop included, in the quickest of {runs}, candidates in turns",
        "noise: how far the median run lies above the quickest",
        "ratio: the quickest to the baseline's quickest; by rounds: the median of each round's own ratio",
    ]


def _room_lines(room: RoomResult) -> Iterator[str]:
    yield room.room
    body: list[tuple[str, ...] | str] = []
    for row in room.rows:
        body.append(row.title)
        body.extend(_cells(row, each) for each in row.candidates)
    cells = [_HEADINGS, *(line for line in body if not isinstance(line, str) and len(line) == len(_HEADINGS))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    if room.rows:
        yield _aligned(_HEADINGS, widths)
    for line in body:
        if isinstance(line, str):
            yield line
        elif len(line) == len(_HEADINGS):
            yield _aligned(line, widths)
        else:
            yield f"{line[0].ljust(widths[0])}  {line[1]}"
    for figure in room.figures:
        yield from _figure_lines(figure)


def _cells(row: RowResult, each: CandidateResult) -> tuple[str, ...]:
    """Writes one candidate: as many cells as there are headings, or two where there is only a reason to tell."""
    label = f"  {each.label}"
    if each.best is None or each.median is None:
        return (label, each.reason if each.status == "unavailable" else f"failed: {each.reason}")
    noise = f"{(each.median / each.best - 1) * 100:.0f} %" if each.best > 0 else ""
    ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
    rounds = "" if each.ratio_median is None else f"{each.ratio_median:.2f}"
    goal = _verdict(row.goal, "", met=row.met) if each.label == row.ours else ""
    if each.label == row.baseline:
        goal = "baseline"
    return (label, nanoseconds(each.best), noise, ratio, rounds, goal)


def _figure_lines(figure: FigureResult) -> Iterator[str]:
    truth = "" if figure.truth is None else f" (truth: {value_text(figure.truth, figure.unit)})"
    yield f"{figure.title}{truth}"
    labels = max(len(each.label) for each in figure.candidates)
    texts = ["" if each.value is None else value_text(each.value, figure.unit) for each in figure.candidates]
    width = max(map(len, texts))
    for each, text in zip(figure.candidates, texts, strict=True):
        label = f"  {each.label.ljust(labels)}"
        if each.value is None:
            yield f"{label}  {each.reason if each.status == 'unavailable' else f'failed: {each.reason}'}"
            continue
        goal = _verdict(figure.goal, figure.unit, met=figure.met) if each.label == figure.ours else ""
        yield "  ".join(filter(None, (label, text.rjust(width), goal, each.detail)))


def _verdict(goal: float | None, unit: str, *, met: bool | None) -> str:
    if goal is None or met is None:
        return ""
    limit = value_text(goal, unit) if unit else f"{goal:g}"
    return f"at most {limit}: {'met' if met else 'MISSED'}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers, last = cells
    middle = [text.rjust(width) for text, width in zip(numbers, widths[1:-1], strict=True)]
    return "  ".join((first.ljust(widths[0]), *middle, last)).rstrip()


def _goal_lines(report: Report) -> Iterator[str]:
    promised = [(room, item) for room in report.rooms for item in room.items if item.goal is not None]
    if not promised:
        return
    met = sum(item.met is True for _, item in promised)
    unknown = sum(item.met is None for _, item in promised)
    yield f"goals: {met} met, {len(promised) - met - unknown} missed, {unknown} not measured"
    for room, item in promised:
        if item.met is False:
            yield f"missed: {room.room}, {item.title}: {_shortfall(item)}"


def _shortfall(item: RowResult | FigureResult) -> str:
    """Says by how much a goal was missed."""
    goal = 0.0 if item.goal is None else item.goal
    if isinstance(item, FigureResult):
        value = next(each.value for each in item.candidates if each.label == item.ours)
        return f"{value_text(value or 0.0, item.unit)}, promised at most {value_text(goal, item.unit)}"
    ratio = next(each.ratio for each in item.candidates if each.label == item.ours)
    return f"{ratio:.3f} of {item.baseline}, promised at most {goal:g}"

"""The report of the demo: plain text, at most 100 columns wide, and the same facts as JSON."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ferrule._demo import job, plain
from ferrule._demo.sources import LEFT_OUT, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ferrule._demo.contest import Outcome
    from ferrule._demo.storing import Place, Summary

WIDTH = 100
SHOWN = 12
"""How many differences are shown of many."""


def as_text(outcome: Outcome, timeline: Path | None = None) -> str:
    """Return the whole report, with a line end after its last line.

    Args:
        outcome: What came out.
        timeline: Where the picture of ferrule's job was drawn, if it was.
    """
    blocks = [
        heading(outcome),
        *findings(outcome.summary),
        f"Timing, by ferrule\n{outcome.report.rstrip()}",  # not clipped: it is as wide as it needs to be
        side_by_side(outcome),
        cost(outcome),
        at_once(outcome, timeline),
        comparison(outcome),
        problems(outcome.summary),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def as_json(outcome: Outcome) -> str:
    """Return the same facts as a JSON object, with a line end after it."""
    names = ("plain", "ferrule")
    facts: dict[str, Any] = {
        "python": outcome.python,
        "path": printable(str(outcome.path)),
        "files_found": outcome.found,
        "files_taken": outcome.taken,
        **asdict(outcome.summary),
        "seconds": {
            "whole": dict(zip(names, outcome.whole, strict=True)),
            "parts": {part: dict(zip(names, pair, strict=True)) for part, pair in outcome.parts().items()},
            "measured": {
                name: {key: one._asdict() for key, one in of.items()}
                for name, of in zip(names, outcome.measured, strict=True)
            },
            "median_batch_ratio": outcome.batch_ratio,
        },
        "answers": {
            one.id: {"started": one.started, "duration": one.duration, "worker": one.worker}
            for one in outcome.answers.values()
        },
        "workers": outcome.workers,
        "cost_of_wrappers": [one._asdict() for one in outcome.costs],
        "plain_sample_bytes": outcome.kept_bytes,
        "rows_compared": outcome.rows,
        "differences": outcome.differences,
        "changed_meanwhile": outcome.changed,
    }
    for key in ("longest", "deepest", "packages", "called", "problems"):
        facts[key] = [one._asdict() for one in getattr(outcome.summary, key)]
    facts["examples"] = {kind: [one._asdict() for one in some] for kind, some in outcome.summary.examples.items()}
    return json.dumps(facts, indent=2) + "\n"


def heading(outcome: Outcome) -> str:
    """Say what was read, by what, and how much it was."""
    summary = outcome.summary
    taken = amount(outcome.found, "file")
    if outcome.taken < outcome.found:
        taken = f"the first {outcome.taken:,} of {taken}"
    left_out = f"{', '.join(LEFT_OUT[:-1])} and {LEFT_OUT[-1]}"
    amounts = (
        f"{amount(summary.lines, 'line')} ({summary.blank:,} blank), {amount(summary.classes, 'class', 'classes')}, "
        f"{amount(summary.functions, 'function')} ({amount(summary.coroutines, 'coroutine')}), "
        f"{amount(summary.calls, 'call')}"
    )
    return "\n".join(
        [
            clipped(f"ferrule demo: the Python sources in {printable(str(outcome.path))}"),
            f"{taken}; {left_out} are left out, links to folders not followed",
            clipped(outcome.python),
            "",
            amounts,
        ]
    )


def findings(summary: Summary) -> Iterator[str]:
    """Say what was found, a section at a time."""
    yield section("Longest functions", ranked(summary.longest, "line", "lines"))
    yield section("Deepest functions", ranked(summary.deepest, "block", "blocks inside each other"))
    yield section(
        "Public functions without a docstring, by package",
        table(
            [
                (
                    package.name or "(top level)",
                    f"{package.undocumented:,} of",
                    f"{package.functions:,}",
                    f"{package.undocumented / package.functions:.0%}",
                )
                for package in summary.packages
            ],
            "<>>>",
        ),
    )
    yield section("Slips, and marks left in comments", slips(summary))
    cells = [(f"{one.calls:,}", one.name, f"in {amount(one.files, 'file')}") for one in summary.called]
    half = (len(cells) + 1) // 2
    left, right = table(cells[:half], "><<"), table(cells[half:], "><<")
    width = max(map(len, left), default=0) + 6
    right += [""] * (half - len(right))
    yield section("Called most", [f"{a:{width}}{b}" for a, b in zip(left, right, strict=True)])


def ranked(places: Sequence[Place], unit: str, units: str) -> list[str]:
    """Return a line for each place, with its figure before it."""
    return table([(amount(one.figure, unit, units), f"{one.path}:{one.line}", one.name) for one in places], "><<")


def slips(summary: Summary) -> Iterator[str]:
    """Yield how often each kind of finding is there, and where, for example."""
    wide = max(map(len, summary.kinds), default=0)
    for kind, count in summary.kinds.items():
        label = f"{kind:{wide}}  {count:>6,}  "
        for one in summary.examples[kind][:2]:
            yield f"{label}{one.path}:{one.line}  {one.name}"
            label = " " * len(label)


def side_by_side(outcome: Outcome) -> str:
    """Say how long each part took both of them."""
    pairs = {**outcome.parts(), "whole": outcome.whole}
    rows = [("", plain.NAME, job.NAME, f"{job.NAME} / {plain.NAME}")]
    for name, (by_hand, native) in pairs.items():
        rows.append((name, f"{by_hand:.3f} s", f"{native:.3f} s", f"{native / by_hand:.2f}" if by_hand else "-"))
    words = (
        "Both did the same work on the same files, all read once beforehand so that neither waited for a disk, in"
        " turns of a few files, and who began changed each time. Each part is timed by its own job; the whole is timed"
        " from outside, by one clock for both, with everything that the measuring costs. What takes the time, parsing"
        " above all, is the same code in both."
    )
    if outcome.workers > 1:
        words += (
            f" ferrule does it in {outcome.workers:,} processes: its parts are added up over them, and so may come to"
            " more than the whole; what they measure comes home with each result."
        )
    words += f" A turn of ferrule's took {outcome.batch_ratio:.3f} of plain Python's (median)."
    return section(f"The same job in {plain.NAME}, side by side", [*table(rows, "<>>>"), "", *wrapped(words)])


def cost(outcome: Outcome) -> str:
    """Say what the wrappers themselves cost."""
    rows: list[tuple[str, ...]] = [("", "times", plain.NAME, job.NAME, plain.NAME, job.NAME)]
    for one in outcome.costs:
        each = (f"{seconds * 1e9:,.0f} ns each" for seconds in (one.plain, one.ferrule))
        total = (f"{seconds * one.times:.3f} s" for seconds in (one.plain, one.ferrule))
        rows.append((one.what, f"{one.times:,}", *each, *total))
    by_hand = sum(one.times * one.plain for one in outcome.costs)
    native = sum(one.times * one.ferrule for one in outcome.costs)
    totals = by_hand, native
    shares = [f"{part / whole:.1%}" for part, whole in zip(totals, outcome.whole, strict=True)]
    rows.append(("together", "", "", "", *(f"{total:.3f} s" for total in totals)))
    rows.append(("of the whole", "", "", "", *shares))
    words = (
        "What a wrapper adds, measured apart on functions that do nothing, times how often the job went through one."
        " A result given is a look-up of what had been computed before, by a dictionary with no limit and `cached`."
        f" Plain Python's lists of samples grew to {outcome.kept_bytes:,} bytes and would go on growing, for a count, a"
        " total, a mean and a maximum. ferrule's histograms are bounded, and have the quantiles, too."
    )
    return section("What the wrappers themselves cost", [*table(rows, "<>>>>>"), "", *wrapped(words)])


def at_once(outcome: Outcome, timeline: Path | None) -> str:
    """Say what ferrule's job did at the same time: the files, and the questions to its database."""
    answers = outcome.answers.values()
    together = sum(answer.duration for answer in answers)
    whole = max(answer.started + answer.duration for answer in answers)
    workers = len({answer.worker for answer in answers})
    words = ""
    if outcome.workers > 1:
        words = (
            f"ferrule's TaskScheduler had the files examined by {amount(outcome.workers, 'process', 'processes')},"
            " and stored what they found in the order of the files. "
        )
    words += (
        f"The report is {amount(len(answers), 'question')} to the database, and none needs another's answer. Plain"
        f" Python asks one after the other; ferrule's TaskScheduler asked them on {amount(workers, 'thread')}, each"
        f" with a connection from the pool: {together * 1000:.1f} ms of answers in {whole * 1000:.1f} ms."
    )
    text = section("What was done at the same time", wrapped(words))
    if timeline is not None:
        # Not clipped: it is what one needs to go and look.
        text += f"\n  Who did what when is drawn in {printable(str(timeline))}"
    return text


def comparison(outcome: Outcome) -> str:
    """Say whether both found the same, and if not, what is different."""
    if not outcome.differences:
        return f"Both found the same: {amount(outcome.rows, 'row')} compared, no difference."
    count = len(outcome.differences)
    lines = [printable(line) for line in outcome.differences[:SHOWN]]
    if count > SHOWN:
        lines.append(f"and {count - SHOWN:,} more")
    lines.extend(f"changed while the demo ran: {name}" for name in outcome.changed)
    return section(f"DIFFERENT: {amount(count, 'difference')}, {amount(outcome.rows, 'row')} compared", lines)


def problems(summary: Summary) -> str:
    """Name what could not be used, every one of it, and why."""
    if not summary.problems:
        return ""
    count = len(summary.problems)
    lines = [f"{count:,} could not be used; the rest is complete"]
    for problem in summary.problems:
        # A name is never cut off or broken here: it is what one needs to go and look.
        lines.append(f"  {problem.path}")
        lines.extend(textwrap.wrap(problem.reason, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)


def section(title: str, lines: Iterable[str]) -> str:
    """Return a titled block of lines; nothing if there are no lines."""
    body = [clipped(f"  {printable(line)}".rstrip()) for line in lines]
    return "\n".join([title, *body]) if body else ""


def table(rows: Sequence[tuple[str, ...]], alignment: str) -> list[str]:
    """Return the rows as lines with aligned columns.

    Args:
        rows: The cells of each row.
        alignment: `<` or `>` for each column.
    """
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths, strict=True)).rstrip()
        for row in rows
    ]


def amount(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `one` of it, or else `many`, which has an s if nothing else is said."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def wrapped(text: str) -> list[str]:
    """Return a paragraph as lines that fit into a section."""
    return textwrap.wrap(text, WIDTH - 2)


def clipped(line: str) -> str:
    """Return the line, cut off with three dots if it is too wide."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."

"""What was measured, where and when: plain records, and the JSON that they are kept in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, cast

SCHEMA: Final = 1
"""The version of the JSON; it changes when a reader of the old one would misunderstand the new one."""

Status = Literal["measured", "unavailable", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateResult:
    """Is what one candidate of a row took; times are nanoseconds an operation, `None` where nothing was measured.

    Attributes:
        label: names the candidate.
        status: "measured", "unavailable" (it can't be had here) or "failed" (it raised).
        reason: why nothing was measured; empty otherwise.
        operations: how many operations one run had.
        best: the quickest run.
        median: the run in the middle.
        ratio: best, divided by the baseline's best.
        ratio_median: the median of the ratios of single rounds.
        ratio_low: their lower quartile.
        ratio_high: their upper quartile.
    """

    label: str
    status: Status
    reason: str = ""
    operations: int | None = None
    best: float | None = None
    median: float | None = None
    ratio: float | None = None
    ratio_median: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """Is what the candidates of one row took.

    Attributes:
        id: names the row; unique in its room.
        title: names the row for people.
        baseline: the label that ratios are measured against.
        ours: the label that the goal is about.
        goal: the largest ratio that was promised; `None` when nothing was.
        met: whether the goal is met; `None` when there is none, or one of the two was not measured.
        candidates: the results, in the row's order.
    """

    id: str
    title: str
    baseline: str
    ours: str
    goal: float | None
    met: bool | None
    candidates: list[CandidateResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureValue:
    """Is what was found out about one candidate.

    Attributes:
        label: names the candidate.
        status: "measured", "unavailable" or "failed".
        reason: why nothing was found out; empty otherwise.
        value: in the figure's unit; `None` where nothing was found out.
        detail: a word of explanation; may be empty.
    """

    label: str
    status: Status
    reason: str = ""
    value: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureResult:
    """Is one property that is no ratio of speeds.

    Attributes:
        id: names the figure; unique in its room.
        title: names the figure for people.
        unit: what the values count.
        ours: the label that the goal is about.
        goal: the largest value that was promised; `None` when nothing was.
        truth: what a faultless tool would say; `None` where that makes no sense.
        met: whether the goal is met; `None` when there is none, or ours was not found out.
        candidates: the results, in the figure's order.
    """

    id: str
    title: str
    unit: str
    ours: str
    goal: float | None
    truth: float | None
    met: bool | None
    candidates: list[FigureValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomResult:
    """Is all that was measured of one room."""

    room: str
    rows: list[RowResult]
    figures: list[FigureResult]

    @property
    def items(self) -> list[RowResult | FigureResult]:
        """The rows, then the figures."""
        return [*self.rows, *self.figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """Is the interpreter that measured.

    Attributes:
        implementation: "CPython", ...
        version: "3.14.0", ...
        optimised: whether it was built with profile-guided optimisation; `None` when nothing says so.
        evidence: what `optimised` is concluded from.
        link_time: whether link-time optimisation is declared; `None` when nothing is.
        free_threaded: whether it was built without the global interpreter lock.
        lock: whether the global interpreter lock is on in this process.
        debug: whether it is a debug build.
        jit: whether its just-in-time compiler is on.
    """

    implementation: str
    version: str
    optimised: bool | None
    evidence: str
    link_time: bool | None
    free_threaded: bool
    lock: bool
    debug: bool
    jit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Is the machine that measured; `cores` are those that the process may use."""

    cpu: str
    cores: int
    system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Is how long and how often each candidate ran."""

    rounds: int
    run_ms: float
    quick: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Is one measurement: of which version, where, when, how, and what came out.

    Attributes:
        version: of ferrule.
        date: in UTC, as ISO 8601 writes it, to the second.
        interpreter: what ran it.
        machine: where it ran.
        conditions: how it was measured.
        rooms: what was measured.
    """

    version: str
    date: str
    interpreter: Interpreter
    machine: Machine
    conditions: Conditions
    rooms: list[RoomResult]

    def to_json(self) -> str:
        """Writes the report as JSON, with a newline at the end."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: the text is no such JSON, or of another schema.
        """
        data: object = json.loads(text)
        if not isinstance(data, dict) or "schema" not in data:
            raise ValueError("this is no report of a comparison: it has no schema")
        return _report(cast("dict[str, Any]", data))


def _report(data: dict[str, Any]) -> Report:
    schema, fields = data["schema"], {key: value for key, value in data.items() if key != "schema"}
    if schema != SCHEMA:
        raise ValueError(f"the report is of schema {schema!r}; this version reads schema {SCHEMA}")
    try:
        return Report(
            **_with(
                fields,
                interpreter=Interpreter(**fields["interpreter"]),
                machine=Machine(**fields["machine"]),
                conditions=Conditions(**fields["conditions"]),
                rooms=[_room(each) for each in fields["rooms"]],
            ),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no report of a comparison: {type(error).__name__}: {error}") from error


def _room(data: dict[str, Any]) -> RoomResult:
    rows = [
        RowResult(**_with(row, candidates=[CandidateResult(**each) for each in row["candidates"]]))
        for row in data["rows"]
    ]
    figures = [
        FigureResult(**_with(figure, candidates=[FigureValue(**each) for each in figure["candidates"]]))
        for figure in data["figures"]
    ]
    return RoomResult(**_with(data, rows=rows, figures=figures))


def _with(fields: dict[str, Any], **made: Any) -> dict[str, Any]:
    return {**fields, **made}

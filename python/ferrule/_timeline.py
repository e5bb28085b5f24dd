"""Pictures of a run: who did what, and when."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ferrule.scheduling import TaskResult

__all__ = ["as_html", "as_trace"]

_MICROSECONDS: Final = 1e6
_COLOURS: Final = {"success": "#4c9f70", "error": "#c0504d", "timeout": "#d9902f"}

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }}
.lane {{ display: flex; align-items: center; border-top: 1px solid #ddd }}
.name {{ width: 14em; flex: none; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: #555 }}
.bars {{ position: relative; height: 28px; flex: auto; background: #fafafa }}
.bar {{ position: absolute; top: 3px; height: 22px; min-width: 2px; box-sizing: border-box;
  border-right: 1px solid #fff;
  overflow: hidden; white-space: nowrap; color: #fff;
  font-size: 12px; line-height: 22px; text-indent: 4px }}
li {{ margin: .2em 0 }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
{lanes}
{rest}
</body></html>
"""


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if value >= 1 else f"{value * 1000:.3f} ms"


def as_html(name: str, results: Iterable[TaskResult]) -> str:
    """Draw a run as a page that needs nothing else: a lane for each worker, a bar for each task."""
    results = list(results)
    ran = [result for result in results if result.attempts]
    whole = max((result.started + result.duration for result in ran), default=0.0) or 1e-9
    lanes: dict[str, list[str]] = {}
    for result in sorted(ran, key=lambda each: each.started):
        left, width = 100 * result.started / whole, 100 * result.duration / whole
        told = (
            f"{result.id}: {result.status}, {_seconds(result.duration)}, after {_seconds(result.queued)} in the queue"
        )
        if result.error is not None:
            told += f", {type(result.error).__name__}: {result.error}"
        lanes.setdefault(result.worker, []).append(
            f'<div class="bar" style="left:{left:.4f}%;width:{width:.4f}%;background:{_COLOURS[result.status]}" '
            f'title="{html.escape(told)}">{html.escape(result.id)}</div>'
        )
    lane = '<div class="lane"><div class="name">{}</div><div class="bars">{}</div></div>'
    drawn = "\n".join(lane.format(html.escape(worker), "".join(bars)) for worker, bars in lanes.items())
    others = [result for result in results if not result.attempts]
    rest = "".join(f"<li>{html.escape(f'{result.id}: {result.status}, {result.reason}')}</li>" for result in others)
    return _PAGE.format(
        title=html.escape(name),
        summary=f"{len(results)} tasks, {len(lanes)} workers, {_seconds(whole)}",
        lanes=drawn,
        rest=f"<h2>Did not run</h2><ul>{rest}</ul>" if rest else "",
    )


def as_trace(name: str, results: Iterable[TaskResult]) -> str:
    """Write a run in Chrome's trace event format, for chrome://tracing and Perfetto."""
    workers: dict[str, int] = {}
    events: list[dict[str, object]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": name}}]
    for result in results:
        if not result.attempts:
            continue
        number = workers.setdefault(result.worker, len(workers) + 1)
        events.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": number,
                "name": result.id,
                "cat": result.status,
                "ts": result.started * _MICROSECONDS,
                "dur": result.duration * _MICROSECONDS,
                "args": {"status": result.status, "queued": result.queued, "attempts": result.attempts},
            }
        )
    events.extend(
        {"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": worker}}
        for worker, number in workers.items()
    )
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})

"""What people and other systems see of a monitor: the table, the picture, Prometheus, OpenTelemetry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ferrule._errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from os import PathLike
    from typing import BinaryIO

    from ferrule._core import Recorder
    from ferrule.timing import TimingStats

_UNITS = ((1.0, "s "), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def duration(seconds: float) -> str:
    """Return a duration as people read it: three digits and a unit, two characters wide.

    >>> duration(0.0042), duration(75.3)
    ('4.20 ms', '75.3 s ')
    """
    return _padded_duration(seconds).rstrip() if seconds >= 1 else _padded_duration(seconds)


def _padded_duration(seconds: float) -> str:
    if seconds <= 0:
        return "0 s "
    # Rounded first: 999.9 µs are 1.00 ms.
    rounded = float(f"{seconds:.3g}")
    size, unit = next((unit for unit in _UNITS if rounded >= unit[0]), _UNITS[-1])
    number = rounded / size
    digits = max(0, 2 - math.floor(math.log10(number))) if number > 0 else 0
    return f"{number:.{min(digits, 2)}f} {unit}"


def size(count: float) -> str:
    """Return a number of bytes as people read it.

    >>> size(1536), size(-10)
    ('1.5 KiB', '-10 B')
    """
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - bytes in a KiB
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


_DURATIONS = ("total", "mean", "stdev", "min", "p50", "p90", "p99", "p999", "max")
_SORTS = ("name", "count", "errors", *_DURATIONS)


def table(stats: Mapping[str, TimingStats], sort: str) -> str:
    """Return the table of all names that have run."""
    if sort not in _SORTS:
        raise ValueError(f"sort must be one of {', '.join(_SORTS)}, got {sort!r}")
    rows = [(name, entry) for name, entry in stats.items() if entry.count]
    if sort == "name":
        rows.sort(key=lambda row: row[0])
    else:
        rows.sort(key=lambda row: getattr(row[1], sort), reverse=True)
    idle = len(stats) - len(rows)
    lines = _aligned(_cells(rows)) if rows else ["Nothing has been measured yet."]
    if idle:
        lines.append(f"{idle} {'name has' if idle == 1 else 'names have'} not run.")
    return "\n".join(lines)


def _cells(rows: list[tuple[str, TimingStats]]) -> list[list[str]]:
    with_errors = any(entry.errors for _, entry in rows)
    with_memory = any(entry.memory_net is not None for _, entry in rows)
    header = ["name", "count"]
    if with_errors:
        header.append("errors")
    header += [{"p999": "p99.9"}.get(column, column) for column in _DURATIONS]
    if with_memory:
        header += ["net mean", "net max", "peak mean", "peak max"]
    cells = [header]
    for name, entry in rows:
        line = [name, f"{entry.count:,}"]
        if with_errors:
            line.append(f"{entry.errors:,}")
        line += [_padded_duration(getattr(entry, column)) for column in _DURATIONS]
        if with_memory:
            for memory in (entry.memory_net, entry.memory_peak):
                line += ["", ""] if memory is None else [size(memory.mean), size(memory.max)]
        cells.append(line)
    return cells


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(
            # Names to the left; numbers to the right, with their units under each other.
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return [lines[0], "─" * max(map(len, lines)), *lines[1:]]


_PLOTTED = 20


def plot(recorders: Mapping[str, Recorder], path: str | PathLike[str] | BinaryIO, names: Iterable[str] | None) -> None:
    """Draw the distributions of the recorders, one above the other."""
    if names is None:
        ran = {name: entry for name, recorder in recorders.items() if (entry := recorder.stats()).count}
        chosen = sorted(ran, key=lambda name: ran[name].total, reverse=True)[:_PLOTTED]
    else:
        chosen = list(names)
        for name in chosen:
            if name not in recorders:
                raise ValueError(f"names: nothing is recorded under {name!r}; known names: {', '.join(recorders)}")
        chosen = [name for name in chosen if recorders[name].stats().count]
    if not chosen:
        raise ValueError("nothing has been measured yet: there is nothing to plot")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("PerformanceMonitor.plot", "plot", "matplotlib") from error

    # The figure without pyplot: no window, no global state, any thread.
    figure: Any = Figure(figsize=(9, 1.2 + 0.55 * len(chosen)), layout="constrained")
    axes: Any = figure.add_subplot()
    for place, name in enumerate(reversed(chosen)):
        stats = recorders[name].stats()
        _draw(axes, place, recorders[name].buckets(), stats)
    axes.set_yticks(
        range(len(chosen)), [f"{name}\n{recorders[name].stats().count:,} runs" for name in reversed(chosen)]
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_tick)
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(-0.6, len(chosen) - 0.4)
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_xlabel("duration; | median, ◂ ▸ 1st and 99th percentile")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=8)
    figure.savefig(path)


def _tick(seconds: float, _place: int | None = None) -> str:
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0] * 0.999), _UNITS[-1])
    return f"{seconds / size:g} {unit.strip()}"


def _draw(axes: Any, place: int, buckets: list[tuple[float, float, int]], stats: TimingStats) -> None:
    # Density by the logarithm of the duration, in forty steps for each factor of ten: narrower ones show only noise.
    steps: dict[int, float] = {}
    for start, end, count in buckets:
        step = math.floor(40 * math.log10(max((start + end) / 2, 1e-9)))
        steps[step] = steps.get(step, 0.0) + count
    low, high = min(steps), max(steps)
    xs: list[float] = []
    heights: list[float] = []
    top = max(steps.values())
    for step in range(low - 1, high + 2):
        xs.append(10 ** ((step + 0.5) / 40))
        # The square root keeps a tail of one in a hundred visible.
        heights.append(0.42 * math.sqrt(steps.get(step, 0.0) / top))
    lower = [place - height for height in heights]
    upper = [place + height for height in heights]
    filled = axes.fill_between(xs, lower, upper, alpha=0.55, linewidth=0)
    color = filled.get_facecolor()[0][:3]
    axes.plot([max(stats.p50, 1e-9)] * 2, [place - 0.42, place + 0.42], color=color, linewidth=2)
    low_end, high_end = _quantile(buckets, 0.01), stats.p99
    for x, marker in ((low_end, 4), (high_end, 5)):
        axes.plot([max(x, 1e-9)], [place], marker=marker, color=color, markersize=5, linestyle="none")


def _quantile(buckets: list[tuple[float, float, int]], q: float) -> float:
    rank = max(1, math.ceil(q * sum(count for _, _, count in buckets)))
    seen = 0
    for start, end, count in buckets:
        seen += count
        if seen >= rank:
            return (start + end) / 2
    return buckets[-1][1]


# Upper bounds of Prometheus' buckets: 1, 2.5 and 5 in each power of ten, from 1 µs to 100 s.
_BOUNDS = (*(factor * 10.0**power for power in range(-6, 2) for factor in (1, 2.5, 5)), 100.0)


def export_prometheus(recorders: Callable[[], list[tuple[str, Recorder]]], registry: Any) -> None:
    """Register a collector that computes the metrics when it is scraped."""
    try:
        import prometheus_client
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
    except ImportError as error:
        raise MissingExtra("PerformanceMonitor.export_prometheus", "prometheus", "prometheus_client") from error

    class Collector:
        def describe(self) -> Iterator[Any]:
            # Said here, so that registering doesn't collect.
            yield HistogramMetricFamily("ferrule_run_seconds", "How long the runs took.", labels=["name"])
            yield CounterMetricFamily("ferrule_run_errors", "How many runs raised.", labels=["name"])

        def collect(self) -> Iterator[Any]:
            durations, errors = self.describe()
            for name, recorder in recorders():
                buckets = recorder.buckets()
                counts = [(str(bound), _count_up_to(buckets, bound)) for bound in _BOUNDS]
                stats = recorder.stats()
                counts.append(("+Inf", stats.count))
                durations.add_metric([name], counts, stats.total)
                errors.add_metric([name], stats.errors)
            yield durations
            yield errors

    (prometheus_client.REGISTRY if registry is None else registry).register(Collector())


def _count_up_to(buckets: list[tuple[float, float, int]], bound: float) -> int:
    # A bucket that the bound cuts counts where its middle lies: it is 1.6 % wide at most.
    return sum(count for start, end, count in buckets if (start + end) / 2 <= bound)


def export_otel(stats: Callable[[], dict[str, TimingStats]], meter: Any) -> None:
    """Create observable instruments that read the monitor out when they are observed."""
    try:
        from opentelemetry.metrics import Observation, get_meter
    except ImportError as error:
        raise MissingExtra("PerformanceMonitor.export_otel", "otel", "opentelemetry") from error
    if meter is None:
        meter = get_meter("ferrule")

    def observe(field: str) -> Callable[[Any], Iterator[Any]]:
        def callback(_options: Any) -> Iterator[Any]:
            for name, entry in stats().items():
                yield Observation(getattr(entry, field), {"name": name})

        return callback

    def observe_quantiles(_options: Any) -> Iterator[Any]:
        for name, entry in stats().items():
            if entry.count:
                for quantile in ("p50", "p90", "p99", "p999"):
                    yield Observation(getattr(entry, quantile), {"name": name, "quantile": quantile})

    counter = meter.create_observable_counter
    counter("ferrule.run.count", [observe("count")], unit="{run}", description="How many runs ended.")
    counter("ferrule.run.errors", [observe("errors")], unit="{run}", description="How many runs raised.")
    counter("ferrule.run.time", [observe("total")], unit="s", description="How long the runs took in all.")
    meter.create_observable_gauge(
        "ferrule.run.duration", [observe_quantiles], unit="s", description="How long a run took, by quantile."
    )

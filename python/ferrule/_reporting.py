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
    """Return a duration as people read it: three digits and a unit.

    >>> duration(0.0042), duration(75.3)
    ('4.20 ms', '75.3 s')
    """
    return _padded_duration(seconds).rstrip()


def _padded_duration(seconds: float) -> str:
    # For columns: every unit is two characters wide.
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
    digits = 0
    for unit in ("B", "KiB", "MiB"):
        # Rounded first: 1023.96 KiB are 1.0 MiB.
        rounded = round(count, digits)
        if abs(rounded) < 1024:  # noqa: PLR2004 - bytes in a KiB
            return f"{rounded or 0.0:.{digits}f} {unit}"
        count /= 1024
        digits = 1
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
        line = [_printable(name), f"{entry.count:,}"]
        if with_errors:
            line.append(f"{entry.errors:,}")
        line += [_padded_duration(getattr(entry, column)) for column in _DURATIONS]
        if with_memory:
            for memory in (entry.memory_net, entry.memory_peak):
                line += ["", ""] if memory is None else [size(memory.mean), size(memory.max)]
        cells.append(line)
    return cells


def _printable(name: str) -> str:
    """Return a name in one line, whatever is in it."""
    return name if name and name.isprintable() else repr(name)


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
    figure: Any = Figure(figsize=(9, 1.1 + 0.6 * len(chosen)), layout="constrained")
    axes: Any = figure.add_subplot()
    for place, name in enumerate(reversed(chosen)):
        stats = recorders[name].stats()
        _draw(axes, place, recorders[name].buckets(), stats)
        _describe(axes, place, name, stats)
    _scale(axes, [recorders[name].stats() for name in chosen])
    axes.set_ylim(-0.6, len(chosen) - 0.4)
    axes.set_yticks([])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)
    axes.set_xlabel("duration: the median, and the span from the 1st to the 99th percentile", fontsize=8, color=_GREY)
    figure.savefig(path, dpi=150)


_FILL, _LINE, _DARK, _GREY, _RED = "#a9cce0", "#4a86ad", "#163b56", "#666666", "#b3402e"
# What is drawn at the left end of the logarithmic scale, where zero would be.
_LEAST = 1e-9
# The share of a row that its widest place takes, on each side.
_HALF = 0.42


def _scale(axes: Any, drawn: list[TimingStats]) -> None:
    """Lay a logarithmic scale under all that is drawn, ten times wide at least: so there are numbers on it."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low = max(min(stats.min for stats in drawn), _LEAST) / 1.3
    high = max(*(stats.max for stats in drawn), _LEAST) * 1.3
    if high < 10 * low:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(10), middle * math.sqrt(10)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = math.log10(high / low)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 4 else (1.0,), numticks=14))  # noqa: PLR2004
    axes.xaxis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=100))
    axes.xaxis.set_major_formatter(_tick)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8, color=_GREY, labelcolor=_GREY)
    axes.tick_params(axis="x", which="minor", length=2, color=_GREY)
    axes.grid(axis="x", which="major", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def _tick(seconds: float, _place: int | None = None) -> str:
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0] * 0.999), _UNITS[-1])
    return f"{seconds / size:g} {unit.strip()}"


def _describe(axes: Any, place: int, name: str, stats: TimingStats) -> None:
    """Write at the left of a row what it shows."""
    shown = _printable(name)
    if len(shown) > _LONGEST:
        shown = f"{shown[: _LONGEST // 2]}…{shown[-_LONGEST // 2 :]}"
    figures = [f"{stats.count:,} {'run' if stats.count == 1 else 'runs'}", f"median {duration(stats.p50)}"]
    if stats.errors:
        figures.insert(1, f"{stats.errors:,} {'error' if stats.errors == 1 else 'errors'}")
    # Across in shares of the axes, up and down in rows; a dollar sign in a name is no formula.
    common = {"transform": axes.get_yaxis_transform(), "ha": "right", "parse_math": False}
    axes.text(-0.015, place + 0.02, shown, va="bottom", fontsize=9, color=_DARK, **common)
    color = _RED if stats.errors else _GREY
    axes.text(-0.015, place - 0.06, ", ".join(figures), va="top", fontsize=7, color=color, **common)


_LONGEST = 40


def _draw(axes: Any, place: int, buckets: list[tuple[float, float, int]], stats: TimingStats) -> None:
    """Draw one distribution, as wide as it is dense, along the logarithm of the duration."""
    points = [(math.log10(max((start + end) / 2, _LEAST)), count) for start, end, count in buckets]
    xs, densities = _smoothed(points)
    # The square root keeps a tail of one in a hundred visible.
    top = max(densities)
    heights = [_HALF * math.sqrt(density / top) for density in densities]
    across = [10**x for x in xs]
    lower, upper = [place - height for height in heights], [place + height for height in heights]
    axes.fill_between(across, lower, upper, facecolor=_FILL, edgecolor=_LINE, linewidth=0.6)
    axes.plot([max(_quantile(buckets, 0.01), _LEAST), max(stats.p99, _LEAST)], [place] * 2, color=_LINE, linewidth=1.2)
    axes.plot([max(stats.p50, _LEAST)] * 2, [place - _HALF, place + _HALF], color=_DARK, linewidth=1.8)


def _smoothed(points: list[tuple[float, int]]) -> tuple[list[float], list[float]]:
    """Return evenly spaced places between the extremes and the density at each, smoothed."""
    count = sum(each for _, each in points)
    mean = sum(x * each for x, each in points) / count
    deviation = math.sqrt(sum((x - mean) ** 2 * each for x, each in points) / count)
    # Half of what Silverman's rule of thumb says, because what has two peaks shall show them; and no less than what the
    # histogram's buckets can tell apart.
    width = max(0.45 * deviation * count**-0.2, 0.01)
    step = width / 3
    start = points[0][0] - 3 * width
    kernel = [math.exp(-0.5 * (offset / 3) ** 2) for offset in range(-9, 10)]
    densities = [0.0] * (math.ceil((points[-1][0] - points[0][0]) / step) + 19)
    for x, each in points:
        first = round((x - start) / step) - 9
        for offset, weight in enumerate(kernel):
            densities[first + offset] += each * weight
    # What smoothing puts beyond the extremes has not been measured.
    between = slice(9, len(densities) - 9)
    return [start + place * step for place in range(len(densities))][between], densities[between]


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

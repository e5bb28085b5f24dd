"""What people and other systems see of a monitor: the table, the picture, Prometheus, OpenTelemetry."""

import concurrent.futures
import io
import math
import sys
import xml.etree.ElementTree as ET
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule import FerruleError, MissingExtra, PerformanceMonitor, count_calls
from ferrule._reporting import duration, size

try:
    import matplotlib as mpl
except ImportError:
    mpl = None
try:
    import prometheus_client
except ImportError:
    prometheus_client = None
try:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
except ImportError:
    MeterProvider = None

with_matplotlib = pytest.mark.skipif(mpl is None, reason="matplotlib is not installed")
with_prometheus = pytest.mark.skipif(prometheus_client is None, reason="prometheus_client is not installed")
with_otel = pytest.mark.skipif(MeterProvider is None, reason="the SDK of OpenTelemetry is not installed")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def monitor():
    return PerformanceMonitor()


def record(monitor, name, *seconds, errors=0, memory=()):
    _, recorder = monitor.recorder(name)
    for number, each in enumerate(seconds):
        recorder.record(each, failed=number < errors)
    for net, peak in memory:
        recorder.record_memory(net, peak)


class TestFormatting:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0, "0 s"),
            (-1e-9, "0 s"),
            (1e-13, "0.00 ns"),
            (1e-10, "0.10 ns"),
            (1e-9, "1.00 ns"),
            (9.994e-9, "9.99 ns"),
            (9.996e-9, "10.0 ns"),
            (99.96e-9, "100 ns"),
            (999.4e-9, "999 ns"),
            (999.6e-9, "1.00 µs"),
            (42.06e-6, "42.1 µs"),
            (999.4e-6, "999 µs"),
            (999.6e-6, "1.00 ms"),
            (0.0042, "4.20 ms"),
            (0.9994, "999 ms"),
            (0.9996, "1.00 s"),
            (1, "1.00 s"),
            (75.3, "75.3 s"),
            (99.96, "100 s"),
            (999.6, "1000 s"),
            (12_345, "12300 s"),
        ],
    )
    def test_durations(self, seconds, text):
        assert duration(seconds) == text

    @given(st.floats(1e-9, 1e6))
    def test_durations_have_three_digits(self, seconds):
        number, unit = duration(seconds).split(" ")
        value = float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]
        assert value == pytest.approx(seconds, rel=0.00501)
        assert unit == "s" or 1 <= float(number) < 1000

    @pytest.mark.parametrize(
        ("count", "text"),
        [
            (0, "0 B"),
            (-0.2, "0 B"),
            (0.6, "1 B"),
            (1023, "1023 B"),
            (1023.4, "1023 B"),
            (1023.6, "1.0 KiB"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1023.94 * 1024, "1023.9 KiB"),
            (1023.96 * 1024, "1.0 MiB"),
            (5.25 * 2**20, "5.2 MiB"),
            (2**30, "1.0 GiB"),
            (2**41, "2048.0 GiB"),
            (-10, "-10 B"),
            (-1536, "-1.5 KiB"),
            (-1023.6, "-1.0 KiB"),
        ],
    )
    def test_sizes(self, count, text):
        assert size(count) == text


class TestTable:
    def test_is_aligned_and_has_units(self):
        monitor = PerformanceMonitor()
        record(monitor, "fetch", 0.001, 0.002, 0.003, 1.5)
        record(monitor, "a long name", *[2e-6] * 1234, errors=5)
        record(monitor, "größe", 0)
        header, line, *rows = monitor.report().splitlines()
        assert header.split() == [
            "name",
            "count",
            "errors",
            "total",
            "mean",
            "stdev",
            "min",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
        ]
        assert set(line) == {"─"}
        assert len(line) == max(len(header), *map(len, rows))
        assert [row.split()[0] for row in rows] == ["fetch", "a", "größe"]
        assert rows[1].startswith("a long name  1,234       5  2.47 ms  2.00 µs")
        assert rows[0].split()[3:5] == ["1.51", "s"]
        # Every column ends under its title; units are two characters wide, so numbers stand under numbers.
        for title in header.split()[3:-1]:
            end = header.index(f" {title} ") + len(title) + 1
            for row in rows:
                assert row[end] == " ", (title, row)
                assert row[end - 3 : end] in {" s ", " ms", " µs", " ns"}, (title, row)
        for title in ("count", "errors"):
            end = header.index(title) + len(title)
            assert all(row[end - 1].isdigit() and row[end] == " " for row in rows)
        assert all(row == row.rstrip() for row in rows)

    def test_exact_text(self):
        monitor = PerformanceMonitor()
        record(monitor, "parse", *[0.5e-3] * 4)
        record(monitor, "fetch", 2)
        assert monitor.report().splitlines() == [
            "name   count    total     mean  stdev      min      p50      p90      p99    p99.9      max",
            "─" * 91,
            "fetch      1  2.00 s   2.00 s    0 s   2.00 s   2.00 s   2.00 s   2.00 s   2.00 s   2.00 s",
            "parse      4  2.00 ms   500 µs   0 s    500 µs   500 µs   500 µs   500 µs   500 µs   500 µs",
        ]

    def test_columns_for_errors_and_memory_come_when_there_are_any(self):
        monitor = PerformanceMonitor()
        record(monitor, "fine", 1)
        assert "errors" not in monitor.report()
        assert "net" not in monitor.report()
        record(monitor, "profiled", 1, memory=[(1024, 2048), (3 * 1024, 10 * 1024**2)])
        header, _, fine, profiled = monitor.report("name").splitlines()
        assert header.endswith("max  net mean  net max  peak mean  peak max")
        assert profiled.split()[-8:] == ["2.0", "KiB", "3.0", "KiB", "5.0", "MiB", "10.0", "MiB"]
        assert fine.endswith("1.00 s")
        assert "errors" not in header
        record(monitor, "failed", 1, errors=1)
        assert "errors" in monitor.report().splitlines()[0].split()

    @pytest.mark.parametrize(
        "sort", ["count", "errors", "total", "mean", "stdev", "min", "p50", "p90", "p99", "p999", "max"]
    )
    def test_sorted_by_each_column_from_the_largest_down(self, sort):
        monitor = PerformanceMonitor()
        record(monitor, "slow", 1, 9)
        record(monitor, "even", *[4] * 5)
        record(monitor, "wild", *[0.001] * 8, 30, errors=3)
        stats = monitor.stats()
        expected = sorted(stats, key=lambda name: -getattr(stats[name], sort))
        assert [row.split()[0] for row in monitor.report(sort).splitlines()[2:]] == expected
        assert [row.split()[0] for row in monitor.report(sort=sort).splitlines()[2:]] == expected

    def test_sorted_by_name_from_a_to_z(self):
        monitor = PerformanceMonitor()
        for name in ("b", "c", "a"):
            record(monitor, name, 1)
        assert [row.split()[0] for row in monitor.report("name").splitlines()[2:]] == ["a", "b", "c"]

    def test_by_total_unless_it_is_told(self):
        monitor = PerformanceMonitor()
        record(monitor, "often", *[1] * 10)
        record(monitor, "once", 5)
        assert monitor.report() == monitor.report("total")
        assert [row.split()[0] for row in monitor.report().splitlines()[2:]] == ["often", "once"]

    @pytest.mark.parametrize("sort", ["size", "", "TOTAL", None, 3])
    def test_a_wrong_column_names_the_choices(self, sort):
        monitor = PerformanceMonitor()
        with pytest.raises(ValueError, match=r"sort must be one of name, count, errors, .*, max, got ") as caught:
            monitor.report(sort)
        assert str(caught.value).endswith(repr(sort))

    def test_nothing_measured(self):
        monitor = PerformanceMonitor()
        assert monitor.report() == "Nothing has been measured yet."
        monitor.timer("idle")
        assert monitor.report() == "Nothing has been measured yet.\n1 name has not run."

    def test_names_that_have_not_run(self):
        monitor = PerformanceMonitor()
        record(monitor, "ran", 1)
        for count, words in ((1, "1 name has not run."), (2, "2 names have not run.")):
            monitor.timer(f"idle {count}")
            assert monitor.report().splitlines()[-1] == words
            assert "idle" not in monitor.report()

    def test_a_line_for_each_name_whatever_is_in_it(self):
        monitor = PerformanceMonitor()
        for name in ("two\nlines", "", "tab\t", "a" * 200, "$x^$"):
            record(monitor, name, 1)
        rows = monitor.report("name").splitlines()
        assert len(rows) == 7
        assert any(row.startswith("'two\\nlines' ") for row in rows)
        assert any(row.startswith("'' ") for row in rows)


@with_matplotlib
@pytest.mark.thread_unsafe(reason="writes files, with a library that does not promise to do so from several threads")
class TestPlot:
    @pytest.fixture
    def full(self, monitor):
        record(monitor, "fetch", *[0.01 * 1.01**step for step in range(200)], errors=2)
        record(monitor, "parse", *[1e-6, 2e-6, 3e-6])
        record(monitor, "once", 2.5)
        record(monitor, "never any time", 0, 0)
        monitor.timer("idle")
        return monitor

    def test_pictures_of_every_kind(self, full, tmp_path):
        full.plot(tmp_path / "timings.svg")
        full.plot(str(tmp_path / "timings.png"))
        full.plot(tmp_path / "timings.pdf")
        with (tmp_path / "file").open("wb") as file:
            full.plot(file)
        assert ET.parse(tmp_path / "timings.svg").getroot().tag == f"{SVG}svg"
        for name in ("timings.png", "file"):
            data = (tmp_path / name).read_bytes()
            assert data.startswith(b"\x89PNG")
            width, height = (int.from_bytes(data[place : place + 4], "big") for place in (16, 20))
            assert (width, height) == (1350, int(150 * (1.1 + 0.6 * 4)))
            assert len(set(data)) > 200
        assert (tmp_path / "timings.pdf").read_bytes().startswith(b"%PDF")

    def test_an_unknown_kind(self, full, tmp_path):
        with pytest.raises(ValueError, match=r"(?i)format"):
            full.plot(tmp_path / "timings.xyz")
        with pytest.raises(FileNotFoundError):
            full.plot(tmp_path / "missing" / "timings.svg")

    def test_what_is_shown(self, full, tmp_path):
        full.plot(tmp_path / "timings.svg")
        text = (tmp_path / "timings.svg").read_text()
        shown = [text.index(f"<!-- {words} -->") for words in ("fetch", "parse", "once", "never any time")]
        assert len(shown) == 4
        fetch, parse = (duration(full.stats()[name].p50) for name in ("fetch", "parse"))
        for words in (f"200 runs, 2 errors, median {fetch}", "1 run, median 2.50 s", f"3 runs, median {parse}"):
            assert f"<!-- {words} -->" in text, words
        for tick in ("1 ns", "1 µs", "10 ms", "1 s"):
            assert f"<!-- {tick} -->" in text
        assert "idle" not in text

    def test_there_are_numbers_on_every_scale(self, monitor, tmp_path):
        for place, (low, high) in enumerate([(2.1e-3, 2.4e-3), (0.3, 0.3), (6e-6, 9e-6), (1e-9, 1e4), (3, 700)]):
            name = f"{place}"
            record(monitor, name, low, high)
            monitor.plot(tmp_path / "scale.svg", names=[name])
            text = (tmp_path / "scale.svg").read_text()
            ticks = [words for words in comments(text) if words.split()[-1] in {"ns", "µs", "ms", "s"}]
            ticks = [words for words in ticks if "median" not in words]
            assert 3 <= len(ticks) <= 14, ticks

    def test_names_are_chosen(self, full, tmp_path):
        full.plot(tmp_path / "timings.svg", names=iter(["parse", "idle", "once"]))
        text = (tmp_path / "timings.svg").read_text()
        # Drawn from the bottom up.
        assert [words for words in comments(text) if words in full.stats()] == ["once", "parse"]
        with pytest.raises(ValueError, match=r"nothing is recorded under 'other'; known names: fetch, parse, once"):
            full.plot(tmp_path / "timings.svg", names=["fetch", "other"])

    def test_the_twenty_that_took_longest(self, monitor, tmp_path):
        for number in range(25):
            record(monitor, f"name {number}", 1 + number)
        monitor.plot(tmp_path / "timings.svg")
        names = [words for words in comments((tmp_path / "timings.svg").read_text()) if words in monitor.stats()]
        assert names == [f"name {number}" for number in range(5, 25)]

    def test_nothing_measured(self, monitor, tmp_path):
        monitor.timer("idle")
        for names in (None, [], ["idle"]):
            with pytest.raises(ValueError, match="nothing has been measured yet: there is nothing to plot"):
                monitor.plot(tmp_path / "timings.svg", names=names)
        assert list(tmp_path.iterdir()) == []

    def test_names_are_taken_literally(self, monitor, tmp_path):
        for name in ("$x_{$", "two\nlines", "a_b^c", "<b> & \\", "", "x" * 300):
            record(monitor, name, 1)
        monitor.plot(tmp_path / "timings.svg")
        text = (tmp_path / "timings.svg").read_text()
        shown = set(comments(text))
        assert {"$x_{$", "'two\\nlines'", "a_b^c", f"{'x' * 20}…{'x' * 20}"} <= shown
        ET.fromstring(text)

    @pytest.mark.subprocess
    def test_no_window_and_no_global_state(self, python, tmp_path):
        done = python(
            """
            import sys
            from ferrule import PerformanceMonitor

            monitor = PerformanceMonitor()
            with monitor.timer("block"):
                pass
            assert "matplotlib" not in sys.modules
            monitor.plot(sys.argv[1])
            print("matplotlib.pyplot" in sys.modules)
            """,
            tmp_path / "timings.svg",
        )
        assert (done.stdout, done.stderr) == ("False\n", "")

    def test_from_several_threads(self, full):
        def draw(_):
            file = io.BytesIO()
            full.plot(file)
            return file.getvalue()

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            pictures = list(pool.map(draw, range(8)))
        assert len(set(pictures)) == 1


def comments(text):
    builder = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    return [node.text.strip() for node in ET.fromstring(text, builder).iter(ET.Comment)]


@with_prometheus
class TestPrometheus:
    def scrape(self, registry):
        return prometheus_client.generate_latest(registry).decode()

    def samples(self, registry):
        return {
            (sample.name, sample.labels["name"], sample.labels.get("le")): sample.value
            for family in registry.collect()
            for sample in family.samples
        }

    def test_a_histogram_and_a_counter(self):
        monitor = PerformanceMonitor()
        registry = prometheus_client.CollectorRegistry()
        monitor.export_prometheus(registry)
        record(monitor, "load", *[0.001] * 5, *[0.3] * 4, 500, errors=3)
        record(monitor, "save", 2e-6)
        text = self.scrape(registry)
        assert "# TYPE ferrule_run_seconds histogram" in text
        assert "# TYPE ferrule_run_errors_total counter" in text
        assert 'ferrule_run_seconds_bucket{le="0.5",name="load"} 9.0' in text
        assert 'ferrule_run_seconds_bucket{le="+Inf",name="load"} 10.0' in text
        assert 'ferrule_run_seconds_count{name="load"} 10.0' in text
        assert 'ferrule_run_errors_total{name="load"} 3.0' in text
        assert 'ferrule_run_errors_total{name="save"} 0.0' in text

    def test_buckets_are_cumulative_and_agree_with_the_stats(self):
        monitor = PerformanceMonitor()
        registry = prometheus_client.CollectorRegistry()
        monitor.export_prometheus(registry)
        durations = [1e-9 * 1.07**step for step in range(400)]
        record(monitor, "load", *durations, errors=7)
        samples = self.samples(registry)
        buckets = [(float(le), value) for (name, _, le), value in samples.items() if le is not None]
        assert buckets == sorted(buckets)
        assert [value for _, value in buckets] == sorted(value for _, value in buckets)
        assert buckets[-1] == (math.inf, 400)
        for bound, value in buckets[:-1]:
            # A bucket of ours is 1.6 % wide.
            assert sum(d <= bound / 1.016 for d in durations) <= value <= sum(d <= bound * 1.016 for d in durations)
        stats = monitor.stats()["load"]
        assert samples["ferrule_run_seconds_count", "load", None] == stats.count == 400
        assert samples["ferrule_run_seconds_sum", "load", None] == stats.total
        assert samples["ferrule_run_errors_total", "load", None] == 7

    def test_is_pulled(self):
        monitor = PerformanceMonitor()
        registry = prometheus_client.CollectorRegistry()

        @monitor.timed("load")
        def load():
            pass

        before = recorders(monitor), type(load), vars(load).keys()
        monitor.export_prometheus(registry)
        load()
        assert self.samples(registry)["ferrule_run_seconds_count", "load", None] == 1
        load()
        record(monitor, "later", 1)
        samples = self.samples(registry)
        assert samples["ferrule_run_seconds_count", "load", None] == 2
        assert samples["ferrule_run_seconds_count", "later", None] == 1
        monitor.reset()
        assert self.samples(registry)["ferrule_run_seconds_count", "load", None] == 0
        assert (recorders(monitor)[:1], type(load), vars(load).keys()) == before

    def test_an_empty_monitor(self):
        monitor = PerformanceMonitor()
        registry = prometheus_client.CollectorRegistry()
        monitor.export_prometheus(registry)
        assert self.samples(registry) == {}

    def test_names_are_escaped(self):
        monitor = PerformanceMonitor()
        registry = prometheus_client.CollectorRegistry()
        monitor.export_prometheus(registry)
        record(monitor, 'a "b"\n\\', 1)
        assert r'ferrule_run_errors_total{name="a \"b\"\n\\"} 0.0' in self.scrape(registry)

    def test_twice_into_one_registry_is_its_own_error(self):
        monitor = PerformanceMonitor()
        registry = prometheus_client.CollectorRegistry()
        monitor.export_prometheus(registry)
        with pytest.raises(ValueError, match="ferrule_run_seconds"):
            PerformanceMonitor().export_prometheus(registry)

    @pytest.mark.thread_unsafe(reason="registers with the registry of the whole process")
    def test_the_librarys_own_registry(self, monkeypatch):
        monitor = PerformanceMonitor()
        registry = prometheus_client.CollectorRegistry()
        monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
        record(monitor, "load", 1)
        monitor.export_prometheus()
        assert self.samples(registry)["ferrule_run_seconds_count", "load", None] == 1


def recorders(monitor):
    return [(name, id(recorder)) for name, recorder in monitor._recorders.items()]


@with_otel
@pytest.mark.thread_unsafe(reason="one reader for all threads")
class TestOpenTelemetry:
    @pytest.fixture
    def reader(self):
        return InMemoryMetricReader()

    @pytest.fixture
    def meter(self, reader):
        provider = MeterProvider([reader], shutdown_on_exit=False)
        yield provider.get_meter("tests")
        provider.shutdown()

    def points(self, reader):
        return {
            (metric.name, *(point.attributes[key] for key in sorted(point.attributes))): point.value
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    def test_counters_and_a_gauge(self, monitor, meter, reader):
        record(monitor, "load", *[0.001] * 9, 0.5, errors=2)
        monitor.timer("idle")
        monitor.export_otel(meter)
        stats = monitor.stats()["load"]
        assert self.points(reader) == {
            ("ferrule.run.count", "load"): 10,
            ("ferrule.run.errors", "load"): 2,
            ("ferrule.run.time", "load"): stats.total,
            ("ferrule.run.count", "idle"): 0,
            ("ferrule.run.errors", "idle"): 0,
            ("ferrule.run.time", "idle"): 0,
            ("ferrule.run.duration", "load", "p50"): stats.p50,
            ("ferrule.run.duration", "load", "p90"): stats.p90,
            ("ferrule.run.duration", "load", "p99"): stats.p99,
            ("ferrule.run.duration", "load", "p999"): stats.p999,
        }

    def test_units_and_kinds(self, monitor, meter, reader):
        record(monitor, "load", 1)
        monitor.export_otel(meter)
        metrics = {
            metric.name: metric
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        assert {name: metric.unit for name, metric in metrics.items()} == {
            "ferrule.run.count": "{run}",
            "ferrule.run.errors": "{run}",
            "ferrule.run.time": "s",
            "ferrule.run.duration": "s",
        }
        kinds = {name: type(metric.data).__name__ for name, metric in metrics.items()}
        assert kinds.pop("ferrule.run.duration") == "Gauge"
        assert set(kinds.values()) == {"Sum"}
        assert all(metrics[name].data.is_monotonic for name in kinds)
        assert all(metric.description for metric in metrics.values())

    def test_is_pulled(self, monitor, meter, reader):
        @monitor.timed("load")
        @count_calls
        def load():
            pass

        before = recorders(monitor), type(load), vars(load).keys()
        monitor.export_otel(meter)
        for count in (1, 2, 3):
            load()
            assert self.points(reader)["ferrule.run.count", "load"] == count
        record(monitor, "later", 1)
        assert self.points(reader)["ferrule.run.count", "later"] == 1
        assert (recorders(monitor)[:1], type(load), vars(load).keys()) == before


class TestMissingExtras:
    CASES = (
        ("plot", "matplotlib", "matplotlib.figure", lambda monitor: monitor.plot("never.svg")),
        ("prometheus", "prometheus_client", "prometheus_client", lambda monitor: monitor.export_prometheus()),
        ("otel", "opentelemetry", "opentelemetry.metrics", lambda monitor: monitor.export_otel()),
    )

    @pytest.mark.thread_unsafe(reason="hides modules from the whole process")
    @pytest.mark.parametrize(("extra", "library", "module", "use"), CASES, ids=[case[0] for case in CASES])
    def test_are_named(self, monitor, monkeypatch, extra, library, module, use):  # noqa: PLR0917 - a table's columns
        record(monitor, "load", 1)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtra, match=rf"needs {library}: pip install 'ferrule\[{extra}\]'") as caught:
            use(monitor)
        assert caught.value.extra == extra
        assert caught.value.name == library
        assert isinstance(caught.value, FerruleError)
        assert isinstance(caught.value, ImportError)
        assert isinstance(caught.value.__cause__, ImportError)


class TestNativeStats:
    def test_durations_may_be_timedeltas(self):
        monitor = PerformanceMonitor()
        record(monitor, "load", timedelta(milliseconds=5))
        assert monitor.report().splitlines()[-1].split()[2:4] == ["5.00", "ms"]

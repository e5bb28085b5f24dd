"""The harness behind `python -m ferrule compare` and `benches/`, with candidates and clocks that are made up."""

import gc
import io
import json
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from ferrule import _compare
from ferrule._compare import environment, harness, progress, readme, report, rooms
from ferrule._compare.harness import Figure, Finding, Prepared, Room, Row, Settings, UnavailableError
from ferrule._compare.results import Conditions, Interpreter, Machine, Report

MILLISECOND = 1_000_000
SETTINGS = Settings(rounds=4, run_ms=3.0)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Keeps to one thread, as pytest-run-parallel does for `monkeypatch`: measuring stops the collector."""


class FakeClock:
    """Stands still but for what a candidate takes."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def candidate(self, cost, disturbance=lambda: 0):
        """A factory of a run that takes `cost` nanoseconds an operation, and whatever disturbs it on top."""

        def run(n):
            self.now += n * cost + disturbance()

        return lambda: run


@pytest.fixture
def clock():
    return FakeClock()


def unavailable(reason="peer is not installed"):
    raise UnavailableError(reason)


def fails(*_):
    return [].pop()


def row(candidates, **changes):
    return Row(**{"id": "row", "title": "a row", "baseline": "shell", "candidates": candidates, **changes})


def result_of(measured, label):
    return next(each for each in measured.candidates if each.label == label)


class TestMeasuring:
    def test_takes_the_ratio_to_the_baseline(self, clock):
        measured = harness.measure_row(
            row({"shell": clock.candidate(200), "ferrule": clock.candidate(80)}, goal=0.45), SETTINGS, clock=clock
        )
        ours = result_of(measured, "ferrule")
        assert (ours.best, ours.median, ours.ratio) == (80, 80, 0.4)
        assert (ours.ratio_median, ours.ratio_low, ours.ratio_high) == (0.4, 0.4, 0.4)
        assert result_of(measured, "shell").ratio == 1
        assert measured.met is True

    @pytest.mark.parametrize(("cost", "met"), [(89, True), (90, True), (91, False)])
    def test_a_goal_is_met_up_to_itself(self, clock, cost, met):
        measured = harness.measure_row(
            row({"shell": clock.candidate(200), "ferrule": clock.candidate(cost)}, goal=0.45), SETTINGS, clock=clock
        )
        assert measured.met is met

    @pytest.mark.parametrize("cost", [1, 7, 100, 2_500, 400_000])
    def test_a_run_takes_about_as_long_as_asked(self, clock, cost):
        measured = harness.measure_row(row({"shell": clock.candidate(cost)}), SETTINGS, clock=clock)
        operations = result_of(measured, "shell").operations
        assert operations * cost == pytest.approx(3 * MILLISECOND, rel=0.1)

    def test_an_operation_longer_than_a_run_is_done_once(self, clock):
        measured = harness.measure_row(row({"shell": clock.candidate(50 * MILLISECOND)}), SETTINGS, clock=clock)
        assert result_of(measured, "shell").operations == 1
        assert result_of(measured, "shell").best == 50 * MILLISECOND

    def test_a_cold_start_does_not_mislead_the_calibration(self, clock):
        cold = iter([40 * MILLISECOND])
        measured = harness.measure_row(
            row({"shell": clock.candidate(100, lambda: next(cold, 0))}), SETTINGS, clock=clock
        )
        assert result_of(measured, "shell").operations == 30_000

    def test_nothing_at_all_can_be_measured(self, clock):
        measured = harness.measure_row(
            row({"shell": clock.candidate(0), "ferrule": clock.candidate(10)}, goal=0.5), SETTINGS, clock=clock
        )
        assert result_of(measured, "shell").best == 0
        assert result_of(measured, "ferrule").ratio is None
        assert measured.met is None

    def test_a_disturbed_round_shows_in_the_median_and_not_in_the_ratio(self, clock):
        turns = {"left": 0}

        def disturbance():
            turns["left"] -= 1
            return 0 if turns["left"] % 4 == 0 else 3 * MILLISECOND

        measured = harness.measure_row(
            row({"shell": clock.candidate(100), "ferrule": clock.candidate(50, disturbance)}),
            Settings(rounds=12),
            clock=clock,
        )
        ours = result_of(measured, "ferrule")
        assert ours.best == 50
        assert ours.ratio == 0.5
        assert ours.median > 75
        assert ours.ratio_median > 0.75
        assert ours.ratio_low <= ours.ratio_median <= ours.ratio_high

    def test_candidates_take_turns_and_each_goes_first(self):
        order = []

        def factory(label):
            def run(n):
                order.append(label)
                return n * MILLISECOND * 3

            return lambda: run

        labels = ["shell", "ferrule", "peer"]
        harness.measure_row(row({label: factory(label) for label in labels}), Settings(rounds=4))
        assert order[-12:] == [
            *("shell", "ferrule", "peer"),
            *("ferrule", "peer", "shell"),
            *("peer", "shell", "ferrule"),
            *("shell", "ferrule", "peer"),
        ]

    def test_a_run_may_take_its_own_time(self, clock):
        def run(n):
            clock.now += 10 * MILLISECOND
            return n * 250

        measured = harness.measure_row(row({"shell": lambda: run}), SETTINGS, clock=clock)
        assert result_of(measured, "shell").best == 250

    def test_preparing_is_not_timed_and_closing_is_done_once(self, clock):
        done = []

        def prepare():
            clock.now += 10 * MILLISECOND
            done.append("prepare")

        def run(n):
            done.append("run")
            clock.now += 100 * n

        measured = harness.measure_row(
            row({"shell": lambda: Prepared(run=run, prepare=prepare, close=lambda: done.append("close"))}),
            SETTINGS,
            clock=clock,
        )
        assert result_of(measured, "shell").best == 100
        assert done[0:-1:2] == ["prepare"] * (len(done) // 2)
        assert done.count("close") == 1
        assert done[-1] == "close"

    @pytest.mark.parametrize("enabled", [True, False])
    def test_the_collector_rests_during_a_run_and_is_then_as_it_was(self, enabled):
        seen = set()
        was = gc.isenabled()
        (gc.enable if enabled else gc.disable)()
        try:
            harness.measure_row(row({"shell": lambda: lambda n: seen.add(gc.isenabled()) or 3 * MILLISECOND}), SETTINGS)
            assert gc.isenabled() is enabled
        finally:
            (gc.enable if was else gc.disable)()
        assert seen == {False}
        assert gc.get_freeze_count() == 0

    def test_progress_is_told_of_each_round(self, clock):
        told = []
        watcher = types.SimpleNamespace(begin=told.append, step=lambda: told.append(1))
        room = Room(
            name="room",
            rows=[row({"shell": clock.candidate(100)})],
            figures=[Figure(id="figure", title="a figure", unit="bytes", candidates={"ferrule": lambda: 1})],
        )
        harness.measure_room(room, SETTINGS, progress=watcher, clock=clock)
        assert told == ["room: a row", 1, 1, 1, 1, "room: a figure", 1]
        assert told.count(1) == harness.steps_of(room, SETTINGS)


class TestMissingAndFailing:
    def test_a_peer_that_is_not_there_is_named(self, clock):
        measured = harness.measure_row(
            row({"shell": clock.candidate(100), "ferrule": clock.candidate(50), "peer": unavailable}, goal=0.6),
            SETTINGS,
            clock=clock,
        )
        peer = result_of(measured, "peer")
        assert (peer.status, peer.reason, peer.best, peer.ratio) == ("unavailable", "peer is not installed", None, None)
        assert measured.met is True

    def test_without_the_baseline_there_are_times_and_no_ratios(self, clock):
        measured = harness.measure_row(
            row({"shell": unavailable, "ferrule": clock.candidate(50)}, goal=0.6), SETTINGS, clock=clock
        )
        assert result_of(measured, "ferrule").best == 50
        assert result_of(measured, "ferrule").ratio is None
        assert measured.met is None

    def test_one_that_raises_is_told_of_and_the_others_go_on(self, clock):
        runs = iter(range(9))

        def fails_late(n):
            if next(runs) == 8:
                raise RuntimeError("worn out")
            clock.now += 100 * n

        def fails_at_once(n):
            raise KeyError(n)

        def fails_to_start():
            raise ValueError

        closed = []
        measured = harness.measure_row(
            row(
                {
                    "shell": clock.candidate(100),
                    "late": lambda: Prepared(run=fails_late, close=lambda: closed.append("late")),
                    "at once": lambda: fails_at_once,
                    "no start": fails_to_start,
                    "no end": lambda: Prepared(run=clock.candidate(100)(), close=fails),
                }
            ),
            Settings(rounds=20),
            clock=clock,
        )
        reasons = {each.label: (each.status, each.reason) for each in measured.candidates}
        assert reasons == {
            "shell": ("measured", ""),
            "late": ("failed", "RuntimeError: worn out"),
            "at once": ("failed", "KeyError: 1"),
            "no start": ("failed", "ValueError"),
            "no end": ("failed", "IndexError: pop from empty list"),
        }
        assert closed == ["late"]

    def test_ctrl_c_ends_the_measuring_and_closes_everything(self):
        closed = []

        def run(n):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            harness.measure_row(row({"shell": lambda: Prepared(run=run, close=lambda: closed.append(1))}), SETTINGS)
        assert closed == [1]
        assert gc.isenabled()

    def test_require_says_what_is_not_installed(self):
        assert harness.require("json.decoder").JSONDecoder is json.JSONDecoder
        with pytest.raises(UnavailableError, match=r"^no-such-peer is not installed$"):
            harness.require("no_such_peer.parts", "no-such-peer")
        with pytest.raises(UnavailableError, match=r"^no_such_peer is not installed$"):
            harness.require("no_such_peer.parts")

    @pytest.mark.parametrize("source", ["import no_such_dependency", "from json import no_such_name"])
    def test_require_says_what_can_not_be_imported(self, tmp_path, monkeypatch, source):
        (tmp_path / "broken_peer.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(UnavailableError, match=r"^broken_peer is installed, but can't be imported: .*no_such"):
            harness.require("broken_peer")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"baseline": "wheel"}, r"row 'row': baseline is 'wheel'; it may be 'ferrule', 'shell'"),
            ({"goal": 0.5, "ours": "us"}, r"row 'row': ours is 'us'; it may be 'ferrule', 'shell'"),
            ({"goal": 0}, r"row 'row': goal is 0; it may be None or a ratio above 0"),
        ],
    )
    def test_a_row_that_makes_no_sense(self, changes, message):
        with pytest.raises(ValueError, match=message):
            row({"shell": unavailable, "ferrule": unavailable}, **changes)

    def test_settings_rooms_and_figures_that_make_no_sense(self):
        with pytest.raises(ValueError, match="rounds is 0; it may be 1 or more"):
            Settings(rounds=0)
        for run_ms in (0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"run_ms is {run_ms}"):
                Settings(run_ms=run_ms)
        with pytest.raises(ValueError, match="two rows are called 'row'"):
            Room(name="room", rows=[row({"shell": unavailable}), row({"shell": unavailable})])
        with pytest.raises(ValueError, match="figure 'f': ours is 'ferrule'; it may be 'peer'"):
            Figure(id="f", title="", unit="bytes", candidates={"peer": lambda: 0}, goal=1)

    def test_peers_join_a_row_under_their_own_labels(self):
        joined = row({"shell": unavailable}).joined_by({"peer": unavailable})
        assert list(joined.candidates) == ["shell", "peer"]
        with pytest.raises(ValueError, match="row 'row': a candidate is already called 'shell'"):
            joined.joined_by({"shell": unavailable})


class TestRuns:
    def test_each_candidate_has_a_code_object_to_itself(self):
        closed_over = 3

        def function(a, b=2, *, c=4):
            return a + b + c + closed_over

        copy = harness.own_code(function)
        assert copy(1) == function(1) == 10
        assert copy.__code__ is not function.__code__
        assert copy.__qualname__ == function.__qualname__
        assert harness.own_code(len) is len

        codes = []

        def factory():
            def run(n):
                codes.append(sys._getframe().f_code)
                return n * MILLISECOND

            return run

        harness.measure_row(row({"shell": factory, "ferrule": factory}), Settings(rounds=1))
        assert len({id(code) for code in codes}) == 2

    @pytest.mark.parametrize(
        ("make", "function"),
        [
            (harness.positional, lambda calls: calls.append),
            (harness.keyword, lambda calls: lambda *, x: calls.append(x)),
            (harness.method, lambda calls: lambda self, x: calls.append(x)),
        ],
    )
    def test_runs_make_as_many_calls_as_asked(self, make, function):
        calls = []
        make(function(calls))(5)
        assert calls == [1] * 5

    def test_runs_of_other_kinds(self):
        calls = []

        def raises(x):
            calls.append(x)
            raise ValueError(x)

        harness.raising(raises)(3)
        assert calls == [1] * 3

        def items(n):
            for item in range(n):
                calls.append(item)
                yield item

        harness.exhausting(items)(4)
        assert calls[3:] == [0, 1, 2, 3]

        class Block:
            def __init__(self, name):
                self.name = name

            def __enter__(self):
                calls.append(self.name)

            def __exit__(self, *error):
                calls.append("left")

        harness.entering(Block("same"))(2)
        harness.making(Block)(2)
        assert calls[7:] == ["same", "left"] * 2 + ["block", "left"] * 2

    def test_a_coroutine_runs_in_one_loop_and_the_loop_is_closed(self):
        import asyncio

        loops = []

        async def function(x):
            loops.append(asyncio.get_running_loop())
            await asyncio.sleep(0)

        awaiting = harness.awaiting(function)
        assert awaiting.run(3) > 0
        assert awaiting.run(2) > 0
        awaiting.close()
        assert len(loops) == 5
        assert len({id(loop) for loop in loops}) == 1
        assert loops[0].is_closed()


class TestFigures:
    def test_values_details_and_goals(self):
        figure = Figure(
            id="memory",
            title="memory",
            unit="bytes",
            goal=24,
            candidates={"ferrule": lambda: Finding(24, "when full"), "peer": unavailable, "other": fails},
        )
        found = harness.find_out(figure)
        assert found.met is True
        assert [(each.status, each.value, each.detail or each.reason) for each in found.candidates] == [
            ("measured", 24, "when full"),
            ("unavailable", None, "peer is not installed"),
            ("failed", None, "IndexError: pop from empty list"),
        ]
        assert harness.find_out(replace(figure, goal=23.9)).met is False
        assert harness.find_out(replace(figure, goal=None)).met is None
        assert harness.find_out(replace(figure, candidates={"ferrule": unavailable})).met is None


def made_up_report(clock, *, version="3.14.0", date="2026-01-02T03:04:05Z", cost=80, name="timing"):
    room = Room(
        name=name,
        rows=[
            row(
                {
                    "bare function": clock.candidate(25),
                    "shell": clock.candidate(200),
                    "ferrule": clock.candidate(cost),
                    "slow|peer": clock.candidate(12_345),
                    "peer": unavailable,
                },
                goal=0.45,
            ),
            row({"shell": clock.candidate(100), "ferrule": clock.candidate(100)}, id="second", title="another row"),
        ],
        figures=[
            Figure(
                id="memory",
                title="memory kept",
                unit="bytes",
                goal=24 * 1024,
                candidates={"ferrule": lambda: Finding(12_288, "when full"), "peer": fails},
            ),
            Figure(id="truth", title="said of 50 ms", unit="ms", truth=50, candidates={"ferrule": lambda: 50.25}),
        ],
    )
    return Report(
        version="0.1.0",
        date=date,
        interpreter=Interpreter(
            implementation="CPython",
            version=version,
            optimised=True,
            evidence="configured with --enable-optimizations",
            link_time=True,
            free_threaded=False,
            lock=True,
            debug=False,
            jit=False,
        ),
        machine=Machine(cpu="Slide Rule 2000", cores=2, system="Linux 6.1 x86_64"),
        conditions=Conditions(rounds=SETTINGS.rounds, run_ms=SETTINGS.run_ms, quick=False),
        rooms=[harness.measure_room(room, SETTINGS, clock=clock)],
    )


class TestReport:
    def test_the_table(self, clock):
        assert report.table(made_up_report(clock)) == (
            """\
ferrule 0.1.0, 2026-01-02
CPython 3.14.0, optimised build; Slide Rule 2000, 2 cores, Linux 6.1 x86_64
best ns: nanoseconds an operation, the loop included, in the quickest of 4 runs of about 3 ms, candidates in turns
noise: how far the median run lies above the quickest
ratio: the quickest to the baseline's quickest; by rounds: the median of each round's own ratio

timing
                 best ns  noise  ratio  by rounds  goal
a row
  bare function     25.0    0 %   0.12       0.12
  shell              200    0 %   1.00       1.00  baseline
  ferrule           80.0    0 %   0.40       0.40  at most 0.45: met
  slow|peer       12,345    0 %  61.73      61.73
  peer           peer is not installed
another row
  shell              100    0 %   1.00       1.00  baseline
  ferrule            100    0 %   1.00       1.00
memory kept
  ferrule  12.0 KiB  at most 24.0 KiB: met  when full
  peer     failed: IndexError: pop from empty list
said of 50 ms (truth: 50 ms)
  ferrule  50.25 ms

goals: 2 met, 0 missed, 0 not measured
"""
        )

    def test_a_goal_missed_is_said_with_its_figure(self, clock):
        missed = report.table(made_up_report(clock, cost=95))
        assert "ferrule           95.0    0 %   0.47       0.47  at most 0.45: MISSED\n" in missed
        assert missed.endswith(
            "goals: 1 met, 1 missed, 0 not measured\nmissed: timing, a row: 0.475 of shell, promised at most 0.45\n"
        )

    def test_a_figure_missed_is_said_with_its_value(self, clock):
        whole = made_up_report(clock)
        memory = replace(whole.rooms[0].figures[0], goal=2048, met=False)
        room = replace(whole.rooms[0], figures=[memory])
        text = report.table(replace(whole, rooms=[room]))
        assert text.endswith("missed: timing, memory kept: 12.0 KiB, promised at most 2.0 KiB\n")

    def test_our_own_failures_are_found(self, clock):
        room = harness.measure_room(
            Room(name="room", rows=[row({"shell": clock.candidate(1), "ferrule": fails, "peer": unavailable})]),
            SETTINGS,
            clock=clock,
        )
        whole = replace(made_up_report(clock), rooms=[room])
        assert report.failures(whole) == ["room, a row: IndexError: pop from empty list"]
        assert report.failures(made_up_report(clock)) == []

    def test_json_comes_back_as_it_went(self, clock):
        whole = made_up_report(clock)
        text = whole.to_json()
        assert Report.from_json(text) == whole
        assert Report.from_json(text).to_json() == text
        data = json.loads(text)
        assert data["schema"] == 1
        assert data["rooms"][0]["rows"][0]["candidates"][2]["ratio"] == 0.4

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "Expecting property name"),
            ("[]", "no report of a comparison: it has no schema"),
            ('{"rooms": []}', "no report of a comparison: it has no schema"),
            ('{"schema": 2}', "of schema 2; this version reads schema 1"),
            ('{"schema": 1}', "no report of a comparison: KeyError: 'interpreter'"),
            ('{"schema": 1, "interpreter": {"name": "x"}}', "no report of a comparison: TypeError"),
        ],
    )
    def test_json_of_something_else(self, text, message):
        with pytest.raises(ValueError, match=message):
            Report.from_json(text)

    def test_here_and_now(self):
        here = report.report_of([], SETTINGS)
        assert here.interpreter.version == ".".join(map(str, sys.version_info[:3])) or "+" in here.interpreter.version
        assert here.machine.cores >= 1
        assert here.machine.cpu
        assert len(here.date) == len("2026-01-02T03:04:05Z")
        assert Report.from_json(here.to_json()) == here
        assert report.slug(here.interpreter).startswith(f"{here.interpreter.implementation.lower()}-3.")

    @pytest.mark.parametrize(
        ("changes", "words", "slug"),
        [
            ({}, "CPython 3.14.0, optimised build", "cpython-3.14"),
            ({"optimised": None}, "CPython 3.14.0, build not known", "cpython-3.14"),
            (
                {"optimised": False, "free_threaded": True, "lock": False},
                "CPython 3.14.0, not an optimised build, free-threaded",
                "cpython-3.14t",
            ),
            (
                {"free_threaded": True, "debug": True, "jit": True},
                "CPython 3.14.0, optimised build, free-threaded, with the lock on, debug, just-in-time compiler on",
                "cpython-3.14t",
            ),
        ],
    )
    def test_an_interpreter_in_words(self, clock, changes, words, slug):
        interpreter = replace(made_up_report(clock).interpreter, **changes)
        assert report.described(interpreter) == words
        assert report.slug(interpreter) == slug

    @pytest.mark.parametrize(
        ("value", "unit", "text"),
        [
            (1000, "bytes", "1,000 bytes"),
            (24 * 1024, "bytes", "24.0 KiB"),
            (32_448_504, "bytes", "30.9 MiB"),
            (0, "calls", "0 calls"),
            (1, "calls", "1 call"),
            (1, "ms", "1 ms"),
            (400_000, "calls", "400,000 calls"),
            (0.00123, "ms", "0.0012 ms"),
            (50.123, "ms", "50.12 ms"),
            (1234.5, "ms", "1,234 ms"),
        ],
    )
    def test_values_with_their_units(self, value, unit, text):
        assert report.value_text(value, unit) == text


class TestEnvironment:
    @pytest.mark.parametrize(
        ("config", "optimised", "link_time"),
        [
            (
                {"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'", "PGO_PROF_USE_FLAG": "-fprofile-use"},
                True,
                True,
            ),
            ({"CONFIG_ARGS": "'--enable-optimizations' '--with-lto=no'"}, True, False),
            ({"CONFIG_ARGS": "'--prefix=/usr'", "PGO_PROF_GEN_FLAG": "-g", "PGO_PROF_USE_FLAG": "-u"}, False, False),
            ({"CONFIG_ARGS": "'--prefix=/usr'", "PGO_PROF_GEN_FLAG": "-g", "PGO_PROF_USE_FLAG": ""}, True, None),
            ({}, None, None),
        ],
    )
    def test_how_the_interpreter_was_built(self, config, optimised, link_time):
        assert environment.profile_guided(config)[0] is optimised
        assert environment.link_time(config) is link_time


class TestReadme:
    TEXT = f"# ferrule\n\nbefore\n\n{readme.BEGIN}\nold\n{readme.END}\n\nafter\n"

    def test_the_table_names_interpreter_machine_and_date(self, clock):
        assert readme.readme_table([made_up_report(clock).to_json()]) == (
            """\
CPython 3.14.0, optimised build; Slide Rule 2000, 2 cores, Linux 6.1 x86_64; 2026-01-02. \
Nanoseconds an operation, the loop included: the quickest of 4 runs of about 3 ms, candidates in turns in one process.

| operation | ferrule | by hand in Python | ratio | goal | others |
| :-- | --: | --: | --: | :-- | :-- |
| a row | 80.0 | 200 | 0.40 | ≤ 0.45, met | bare function 25.0; slow&#124;peer 12,345; peer (not available) |
| another row | 100 | 100 | 1.00 |  |  |

| property | ferrule | goal | others |
| :-- | --: | :-- | :-- |
| memory kept | 12.0 KiB | ≤ 24.0 KiB, met | peer (IndexError) |
| said of 50 ms (truth: 50 ms) | 50.25 ms |  |  |
"""
        )

    def test_the_order_of_the_files_makes_no_difference(self, clock):
        texts = [
            made_up_report(clock, version="3.14.0", name="timing", cost=40).to_json(),
            made_up_report(clock, version="3.9.1", name="timing").to_json(),
            made_up_report(clock, version="3.14.0", name="callable", cost=41).to_json(),
            made_up_report(clock, version="3.14.0", name="zebra", cost=42).to_json(),
        ]
        table = readme.readme_table(texts)
        assert readme.readme_table(reversed(texts)) == table
        assert table.index("CPython 3.9.1") < table.index("CPython 3.14.0")
        assert table.count("CPython 3.14.0") == 1
        after = table[table.index("CPython 3.14.0") :]
        assert after.index("| 41.0 |") < after.index("| 40.0 |") < after.index("| 42.0 |")

    def test_a_quick_run_is_called_one(self, clock):
        whole = made_up_report(clock)
        quick = replace(whole, conditions=replace(whole.conditions, quick=True))
        assert "A rough, quick run." in readme.readme_table([quick.to_json()])
        assert "quick run" not in readme.readme_table([whole.to_json()])

    def test_of_two_measurements_the_later_counts(self, clock):
        old = made_up_report(clock, cost=50).to_json()
        new = made_up_report(clock, cost=95, date="2026-01-02T03:04:06Z").to_json()
        for texts in ([old, new], [new, old]):
            table = readme.readme_table(texts)
            assert "| 95.0 | 200 | 0.47 | ≤ 0.45, **missed** |" in table
            assert "| 50.0 |" not in table

    def test_the_table_is_put_between_the_markers_once_and_for_all(self, clock):
        table = readme.readme_table([made_up_report(clock).to_json()])
        once = readme.with_table(self.TEXT, table)
        assert once.startswith(f"# ferrule\n\nbefore\n\n{readme.BEGIN}\n\nCPython 3.14.0")
        assert once.endswith(f"\n\n{readme.END}\n\nafter\n")
        assert "old" not in once
        assert readme.with_table(once, table) == once

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("nothing", "begin --> stands there 0 times"),
            (TEXT + readme.END, "end --> stands there 2 times"),
            (readme.END + readme.BEGIN, "end --> stands before"),
        ],
    )
    def test_markers_that_are_not_in_order(self, text, message):
        with pytest.raises(ValueError, match=message):
            readme.with_table(text, "table")

    def test_the_command_rewrites_the_file_in_place(self, clock, tmp_path):
        target, results = tmp_path / "README.md", tmp_path / "timing.json"
        target.write_text(self.TEXT, encoding="utf-8")
        results.write_text(made_up_report(clock).to_json(), encoding="utf-8")
        assert readme.main([str(target), str(results)]) == 0
        written = target.read_text(encoding="utf-8")
        assert "| a row | 80.0 |" in written
        assert readme.main([str(target), str(results)]) == 0
        assert target.read_text(encoding="utf-8") == written

    def test_the_command_names_the_file_that_it_can_not_use(self, clock, tmp_path, capsys):
        target, results = tmp_path / "README.md", tmp_path / "timing.json"
        target.write_text("no markers", encoding="utf-8")
        assert readme.main([str(target), str(results)]) == 2
        assert str(results) in capsys.readouterr().err
        results.write_text("{}", encoding="utf-8")
        assert readme.main([str(target), str(results)]) == 2
        assert f"{results}: this is no report" in capsys.readouterr().err
        results.write_text(made_up_report(clock).to_json(), encoding="utf-8")
        assert readme.main([str(target), str(results)]) == 2
        assert f"{target}: the marker" in capsys.readouterr().err
        assert target.read_text(encoding="utf-8") == "no markers"
        assert readme.main([str(target)]) == 2
        assert "usage:" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestProgress:
    def test_lines_where_nobody_watches(self):
        stream = io.StringIO()
        shown = progress.shown(2, stream)
        shown.begin("timing: a row")
        shown.step()
        shown.begin("timing: another row")
        shown.close()
        assert stream.getvalue() == "timing: a row\ntiming: another row\n"

    def test_lines_without_tqdm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tqdm", None)
        stream = Terminal()
        progress.shown(2, stream).begin("timing: a row")
        assert stream.getvalue() == "timing: a row\n"

    def test_nothing_without_a_stream(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", None)
        shown = progress.shown(2)
        shown.begin("timing: a row")
        shown.step()
        shown.close()

    def test_a_bar_with_tqdm(self):
        pytest.importorskip("tqdm")
        stream = Terminal()
        shown = progress.shown(2, stream)
        shown.begin("timing: a row")
        shown.step()
        shown.step()
        shown.close()
        assert "timing: a row" in stream.getvalue()


class TestCommand:
    @pytest.fixture
    def made_up_rooms(self, monkeypatch):
        """Two rooms whose runs take their own, made-up time."""
        module = types.ModuleType("made_up_rooms")
        module.room = lambda: Room(
            name="timing",
            rows=[row({"shell": lambda: lambda n: 200 * n, "ferrule": lambda: lambda n: 95 * n}, goal=0.45)],
        )
        monkeypatch.setitem(sys.modules, "made_up_rooms", module)
        failing = types.ModuleType("failing_rooms")
        failing.room = lambda: Room(name="failing", rows=[row({"shell": unavailable, "ferrule": fails})])
        monkeypatch.setitem(sys.modules, "failing_rooms", failing)
        monkeypatch.setattr(rooms, "ROOMS", {"timing": "made_up_rooms", "failing": "failing_rooms"})

    @pytest.mark.usefixtures("made_up_rooms")
    def test_a_goal_missed_is_printed_and_is_no_failure(self, capsys, tmp_path):
        target = tmp_path / "results.json"
        assert _compare.main(["timing", "--quick", "--json", str(target)]) == 0
        printed = capsys.readouterr()
        assert "at most 0.45: MISSED" in printed.out
        assert printed.err == "timing: a row\n"
        kept = Report.from_json(target.read_text(encoding="utf-8"))
        assert [room.room for room in kept.rooms] == ["timing"]
        assert kept.conditions.quick is True

    @pytest.mark.usefixtures("made_up_rooms")
    def test_every_room_by_default_and_an_error_of_ours_is_a_failure(self, capsys):
        assert _compare.main(["--quick"]) == 1
        printed = capsys.readouterr().out
        assert "failed: IndexError: pop from empty list" in printed
        assert "at most 0.45: MISSED" in printed

    @pytest.mark.usefixtures("made_up_rooms")
    def test_listing_measures_nothing(self, capsys):
        assert _compare.main(["--list"]) == 0
        assert capsys.readouterr().out == "timing\n  a row\nfailing\n  a row\n"

    @pytest.mark.usefixtures("made_up_rooms")
    def test_ctrl_c(self, monkeypatch, capsys):
        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(_compare, "measured", interrupted)
        assert _compare.main(["timing"]) == 130
        assert "interrupted" in capsys.readouterr().err

    def test_bad_arguments_are_named(self, capsys, tmp_path):
        with pytest.raises(SystemExit) as exit_info:
            _compare.main(["cellar"])
        assert exit_info.value.code == 2
        assert "argument ROOM: 'cellar' is no room; it may be 'callable', 'timing'" in capsys.readouterr().err
        with pytest.raises(SystemExit) as exit_info:
            _compare.main(["callable", "--json", str(tmp_path / "no" / "results.json")])
        assert exit_info.value.code == 2
        assert "argument --json" in capsys.readouterr().err

    def test_every_room_can_be_described(self):
        for name in rooms.ROOMS:
            room = rooms.room_named(name)
            assert room.name == name
            assert room.rows

    @pytest.mark.subprocess
    def test_the_command_line(self, tmp_path):
        target = tmp_path / "callable.json"
        done = subprocess.run(
            [sys.executable, "-m", "ferrule", "compare", "callable", "--quick", "--json", str(target)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "forwarding a call, one keyword argument" in done.stdout
        kept = Report.from_json(target.read_text(encoding="utf-8"))
        assert {each.status for each in kept.rooms[0].rows[0].candidates} == {"measured"}
        assert report.table(kept) == done.stdout

    @pytest.mark.subprocess
    @pytest.mark.skipif(not (ROOT / "benches" / "__main__.py").exists(), reason="the benches are not shipped")
    def test_the_benches_command_line(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "benches", "callable", "--quick", "--rounds", "2", "--json", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (written,) = tmp_path.iterdir()
        assert written.name == f"callable-{report.slug(environment.this_interpreter())}.json"
        kept = Report.from_json(written.read_text(encoding="utf-8"))
        assert kept.conditions.rounds == 2
        assert "wrapt" in {each.label for each in kept.rooms[0].rows[0].candidates}


@pytest.mark.subprocess
def test_importing_ferrule_brings_in_nothing_of_this():
    program = "import sys, ferrule; print([name for name in sys.modules if name.startswith('ferrule._compare')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

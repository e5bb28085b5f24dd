"""`import ferrule` costs next to nothing, and everything that it promises is there when it is asked for."""

import ast
import importlib.metadata
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import ferrule

ROOMS = [
    "caching",
    "iterating",
    "limiting",
    "patterns",
    "pipelines",
    "pooling",
    "retrying",
    "scheduling",
    "testing",
    "timing",
    "validating",
]


def names_of_the_stub():
    """The names that the stub beside `__init__.py` shows to type checkers."""
    tree = ast.parse(Path(ferrule.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    names = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, "only `import x as x` shows x again"
                names.append(alias.name)
        elif isinstance(node, ast.AnnAssign):
            names.append(node.target.id)
    return names


class TestNames:
    def test_the_stub_says_the_same(self):
        assert sorted({*names_of_the_stub()} - {"__all__"}) == sorted(ferrule.__all__)
        assert len(set(names_of_the_stub())) == len(names_of_the_stub())

    @pytest.mark.parametrize("name", ferrule.__all__)
    def test_each_can_be_imported(self, name):
        scope = {}
        exec(f"from ferrule import {name}", scope)
        assert scope[name] is getattr(ferrule, name)
        # Found once, it is an ordinary attribute.
        assert vars(ferrule)[name] is scope[name]

    def test_all_of_them_at_once(self):
        scope = {}
        exec("from ferrule import *", scope)
        assert set(ferrule.__all__) <= set(scope)

    def test_dir_shows_them(self):
        assert set(ferrule.__all__) <= set(dir(ferrule))
        assert dir(ferrule) == sorted(set(dir(ferrule)))

    @pytest.mark.parametrize("name", ["timed_", "Timing", "_nothing", "__wrapped__"])
    def test_others_are_attribute_errors(self, name):
        with pytest.raises(AttributeError, match=f"module 'ferrule' has no attribute '{name}'"):
            getattr(ferrule, name)
        with pytest.raises(ImportError, match=f"cannot import name '{name}' from 'ferrule'"):
            exec(f"from ferrule import {name}", {})
        assert not hasattr(ferrule, name)

    def test_the_version_is_that_of_the_distribution(self):
        assert ferrule.__version__ == importlib.metadata.version("ferrule")

    @pytest.mark.parametrize("room", ROOMS)
    def test_rooms_list_what_they_have(self, room):
        module = getattr(ferrule, room)
        assert module.__name__ == f"ferrule.{room}"
        assert module.__all__
        for name in module.__all__:
            assert hasattr(module, name)
        assert sorted(module.__all__) == module.__all__

    def test_public_names_live_where_the_face_finds_them(self):
        for name in ferrule.__all__:
            value = getattr(ferrule, name)
            if callable(value) and not name.startswith("_"):
                assert value.__module__.startswith("ferrule")
                assert value.__doc__
                # `it` is an expression, whose attributes are expressions.
                assert name == "it" or value.__name__ == name  # noqa: PLR1714


class TestErrors:
    def test_a_missing_extra_can_be_pickled(self):
        error = ferrule.MissingExtra("plotting", "plot", "matplotlib")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is ferrule.MissingExtra
        assert (str(again), again.extra, again.name, again.args) == (str(error), "plot", "matplotlib", error.args)
        assert str(error) == "plotting needs matplotlib: pip install 'ferrule[plot]'"

    def test_each_is_one_of_ours(self):
        assert issubclass(ferrule.MissingExtra, ferrule.FerruleError)
        assert issubclass(ferrule.MissingExtra, ImportError)


@pytest.mark.subprocess
@pytest.mark.thread_unsafe(reason="starts interpreters")
class TestFreshInterpreters:
    HEAVY = ("asyncio", "multiprocessing", "typing", "concurrent", "logging", "inspect", "threading", "dataclasses")
    EXTRAS = ("tqdm", "matplotlib", "numpy", "prometheus_client", "opentelemetry", "pytest", "rich", "tracemalloc")

    def imported(self, python, code):
        """The modules that `code` brings in, beyond those that an interpreter starts with."""
        done = python(
            f"import json, sys\nbefore = set(sys.modules)\n{code}\nprint(json.dumps([*set(sys.modules) - before]))"
        )
        assert (done.returncode, done.stderr) == (0, "")
        return set(json.loads(done.stdout))

    def test_nothing_heavy_is_imported(self, python):
        modules = self.imported(python, "import ferrule")
        assert "ferrule" in modules
        roots = {name.partition(".")[0] for name in modules}
        assert roots.isdisjoint([*self.HEAVY, *self.EXTRAS])
        assert not {"ferrule._core", "ferrule.timing", "ferrule._reporting"} & modules

    def test_listing_the_names_imports_nothing(self, python):
        modules = self.imported(python, "import ferrule; dir(ferrule); ferrule.__version__; ferrule.__all__")
        assert {name for name in modules if name.startswith("ferrule")} == {"ferrule"}

    def test_timing_brings_in_no_extra(self, python):
        code = """
from ferrule import Timer, timed, count_calls, PerformanceMonitor
@timed
@count_calls
def work(): pass
work()
with Timer("block"): pass
PerformanceMonitor().stats()
"""
        roots = {name.partition(".")[0] for name in self.imported(python, code)}
        assert roots.isdisjoint(["asyncio", "multiprocessing", "concurrent", "logging", "inspect", *self.EXTRAS])

    @pytest.mark.parametrize("room", ROOMS)
    def test_rooms_are_reached_without_importing_them(self, python, room):
        done = python(f"import ferrule; print(ferrule.{room}.__name__)")
        assert (done.stdout, done.stderr) == (f"ferrule.{room}\n", "")

    @pytest.mark.parametrize("name", ["ferrule._core", "ferrule.timing", "ferrule.testing", "ferrule._errors"])
    def test_each_module_can_come_first(self, python, name):
        done = python(f"import {name}; import ferrule; print(ferrule.timed.__name__)")
        assert (done.stdout, done.stderr) == ("timed\n", "")

    def test_silent_with_every_warning_an_error(self):
        command = [sys.executable, "-W", "error", "-X", "dev", "-c", "import ferrule, ferrule.timing, ferrule.testing"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_the_plugin_is_registered(self):
        (plugin,) = importlib.metadata.entry_points(group="pytest11", name="ferrule")
        assert plugin.value == "ferrule.testing"

    def test_testing_works_without_pytest(self, python):
        done = python("""
            import sys
            sys.modules["pytest"] = None
            from ferrule import Timer
            from ferrule.testing import manual_clock

            with manual_clock() as clock, Timer() as timer:
                clock.advance(30)
            print(timer.elapsed)
        """)
        assert (done.stdout, done.stderr) == ("30.0\n", "")

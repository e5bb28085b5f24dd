"""The iterating room under the suites of those it can stand in for: CPython's own, and that of more-itertools."""

import ast
import importlib.util
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.subprocess

# Runs the tests that are named, and says how many there were.
RUN = """
    names = sys.argv[1].split(",")
    chosen = unittest.defaultTestLoader.loadTestsFromNames(names, suite)
    result = unittest.TextTestRunner(verbosity=2).run(chosen)
    sys.exit(not result.wasSuccessful() or result.testsRun != len(names))
"""

# -- itertools --------------------------------------------------------------------------------------------------------

ITERTOOLS = """
    import itertools
    import sys
    import unittest

    from ferrule import batched

    # Ours in the place of theirs, before the tests look.
    itertools.batched = batched
    from test import test_itertools as suite
"""

# Tests of CPython's that don't apply, each with the reason.
NOT_FOR_US = {
    "TestBasicOps.test_immutable_types": "ours is a function; test_iterating.py looks at the class behind it",
}


def itertools_tests():
    """Return the names of the tests of this interpreter that are about `batched`, from their source."""
    try:
        spec = importlib.util.find_spec("test.test_itertools")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        reason = pytest.mark.skip(reason="this interpreter comes without CPython's package `test`")
        return [pytest.param("none", marks=reason)]
    found = [
        f"{group.name}.{method.name}"
        for group in ast.parse(Path(spec.origin).read_text("utf-8")).body
        if isinstance(group, ast.ClassDef)
        for method in group.body
        if isinstance(method, ast.FunctionDef)
        and method.name.startswith("test_")
        and any(isinstance(node, ast.Name) and node.id == "batched" for node in ast.walk(method))
    ]
    if not found:
        reason = pytest.mark.skip(reason="itertools.batched came with Python 3.12")
        return [pytest.param("none", marks=reason)]
    return found


@pytest.mark.parametrize("name", itertools_tests())
def test_the_tests_of_itertools_pass(python, name):
    if name in NOT_FOR_US:
        pytest.skip(NOT_FOR_US[name])
    done = python(textwrap.dedent(ITERTOOLS) + textwrap.dedent(RUN), name)
    assert done.returncode == 0, done.stderr


def test_all_that_is_left_out_is_there():
    if importlib.util.find_spec("test") is None or sys.version_info < (3, 12):
        pytest.skip("this interpreter comes without tests of itertools.batched")
    assert set(NOT_FOR_US) <= set(itertools_tests())


# -- more-itertools ---------------------------------------------------------------------------------------------------

# The arguments of theirs, on what is ours.
MORE_ITERTOOLS = """
    import functools
    import importlib
    import sys
    import unittest

    import ferrule

    sys.path.insert(0, sys.argv[2])
    import more_itertools


    def collapse(iterable, base_type=None, levels=None):
        assert base_type is None
        return ferrule.flatten(iterable, levels)


    def constrained_batches(iterable, max_size, max_count=500, get_len=None, strict=False):
        assert not strict
        batches = ferrule.batched_by(iterable, max_items=max_count, max_weight=max_size, weigher=get_len)
        return map(tuple, batches)


    more_itertools.batched = ferrule.batched
    more_itertools.chunked = ferrule.chunked
    more_itertools.flatten = ferrule.flatten
    more_itertools.collapse = collapse
    more_itertools.constrained_batches = constrained_batches
    more_itertools.sliding_window = ferrule.windowed
    more_itertools.windowed = functools.partial(ferrule.windowed, fillvalue=None)
    suite = importlib.import_module("tests." + sys.argv[3])
"""

SHARED = {
    "test_more": ("ChunkedTests", "WindowedTests", "TestCollapse", "ConstrainedBatchesTests"),
    "test_recipes": ("FlattenTests", "SlidingWindowTests", "BatchedTests"),
}

# Tests of more-itertools' that don't apply, each with the reason.
NOT_OURS = {
    "ChunkedTests.test_none": "a number of items is needed; `list` makes one chunk of everything",
    "ChunkedTests.test_negative": "about the wording of a message; test_iterating.py looks at ours",
    "ChunkedTests.test_strict_being_true": "about the wording of a message; test_iterating.py looks at ours",
    "ChunkedTests.test_strict_being_true_with_size_none": "a number of items is needed",
    "TestCollapse.test_collapse_to_level": "one level deep every item must be an iterable, as for chain.from_iterable",
    "TestCollapse.test_collapse_to_list": "leaves are what can't be iterated, and text; no other class is one",
    "ConstrainedBatchesTests.test_nonpositive_max_count": "about the wording of a message",
    "ConstrainedBatchesTests.test_strict": "an item that is too heavy has a batch to itself: nothing is lost",
}


@pytest.fixture(scope="module")
def home(sdist, tmp_path_factory):
    """A folder with more-itertools and its tests."""
    source = sdist("more-itertools", "11.2.1")
    folder = tmp_path_factory.mktemp("more_itertools")
    for name in ("more_itertools", "tests"):
        shutil.copytree(source / name, folder / name)
    return folder


def named_tests(path, groups):
    """Return the names of the tests in some classes, from their source."""
    return [
        f"{group.name}.{method.name}"
        for group in ast.parse(path.read_text("utf-8")).body
        if isinstance(group, ast.ClassDef) and group.name in groups
        for method in group.body
        if isinstance(method, ast.FunctionDef) and method.name.startswith("test_")
    ]


@pytest.mark.parametrize("module", SHARED)
def test_the_tests_of_more_itertools_pass(home, module):
    names = named_tests(home / "tests" / f"{module}.py", SHARED[module])
    assert {name.partition(".")[0] for name in names} == set(SHARED[module])
    assert {name for name in NOT_OURS if name.partition(".")[0] in SHARED[module]} <= set(names)
    code = textwrap.dedent(MORE_ITERTOOLS) + textwrap.dedent(RUN)
    chosen = ",".join(name for name in names if name not in NOT_OURS)
    done = subprocess.run(
        [sys.executable, "-c", code, chosen, str(home), module],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr

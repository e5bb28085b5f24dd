"""The caching room under the suites of those it can stand in for: CPython's own, and that of cachetools."""

import ast
import importlib.util
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.subprocess

# -- functools --------------------------------------------------------------------------------------------------------

# CPython's own pure-Python flavour is told apart from the native one inside a test by `self.module`; ours is native, so
# the stand-in for the module is a copy of functools with the two decorators replaced.
ON_FERRULE = """
    import sys
    import types
    import unittest

    import ferrule
    from ferrule.caching import CacheInfo
    from test import test_functools as suite

    module = types.ModuleType("functools_on_ferrule")
    module.__dict__.update(vars(suite.c_functools))
    module.lru_cache, module.cache, module._CacheInfo = ferrule.lru_cache, ferrule.cache, CacheInfo

    # The tests compare with `c_functools` where the native flavour has a limit of its own.
    suite.c_functools = module


    @module.lru_cache()
    def cached_function(x, y):
        return 3 * x + y


    class TestLRU(suite.TestLRU, unittest.TestCase):
        module = module
        cached_func = (cached_function,)

        @module.lru_cache()
        def cached_meth(self, x, y):
            return 3 * x + y

        @staticmethod
        @module.lru_cache()
        def cached_staticmeth(x, y):
            return 3 * x + y


    class TestCache(suite.TestCache, unittest.TestCase):
        module = module
"""

# Methods of CPython's that don't apply, each with the reason.
NOT_FOR_US: dict[str, str] = {}


def functools_tests():
    """Return the names of the tests of this interpreter's `TestLRU` and `TestCache`, from their source."""
    try:
        spec = importlib.util.find_spec("test.test_functools")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        reason = pytest.mark.skip(reason="this interpreter comes without CPython's package `test`")
        return [pytest.param("none", marks=reason)]
    classes = [node for node in ast.parse(Path(spec.origin).read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    return [
        f"{node.name}.{method.name}"
        for node in classes
        if node.name in ("TestLRU", "TestCache")
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name.startswith("test_")
    ]


@pytest.mark.parametrize("name", functools_tests())
def test_functools_own_test_passes(name, tmp_path):
    if name in NOT_FOR_US:
        pytest.skip(NOT_FOR_US[name])
    # A file, because the tests pickle by qualified name.
    (tmp_path / "on_ferrule.py").write_text(textwrap.dedent(ON_FERRULE), "utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import unittest; unittest.main(module='on_ferrule')"
    done = subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr


# -- cachetools -------------------------------------------------------------------------------------------------------

# What the tests of cachetools see in the place of cachetools: its constructor, and attributes of its own, on our Cache.
STAND_IN = """
    import math
    from collections.abc import MutableMapping
    from typing import Generic, TypeVar

    import ferrule

    K, V, T = TypeVar("K"), TypeVar("V"), TypeVar("T")


    class Timer:
        def __init__(self, timer):
            self.timer, self.fixed = timer, None

        def __call__(self):
            return self.timer() if self.fixed is None else self.fixed

        def __enter__(self):
            self.fixed = self.timer()
            return self.fixed

        def __exit__(self, *details):
            self.fixed = None

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(self.timer, name)


    class Cache(MutableMapping, Generic[K, V]):
        policy = "lru"

        def __init__(self, maxsize, getsizeof=None, **settings):
            if getsizeof is not None:
                self.getsizeof = getsizeof
            self.maxsize, self.settings = maxsize, settings
            self.start()

        def start(self):
            if self.maxsize == -math.inf:
                raise ValueError("maxsize")
            self.expired = []
            self.cache = ferrule.Cache(
                None if self.maxsize == math.inf else self.maxsize,
                policy=self.policy,
                weigher=lambda key, value: self.getsizeof(value),
                on_evict=self.note,
                **self.settings,
            )

        def note(self, key, value, cause):
            if cause == "expired":
                self.expired.append((key, value))

        @staticmethod
        def getsizeof(value):
            return 1

        def __getstate__(self):
            state = {k: v for k, v in vars(self).items() if k not in ("cache", "expired")}
            return state, self.cache.entries()

        def __setstate__(self, state):
            vars(self).update(state[0])
            self.start()
            self.cache.update(state[1])

        @property
        def currsize(self):
            self.cache.expire()
            return self.cache.stats().weight

        def __getitem__(self, key):
            try:
                return self.cache[key]
            except KeyError:
                if hasattr(self, "__missing__"):
                    return self.__missing__(key)
                raise

        def __setitem__(self, key, value):
            self.cache[key] = value

        def __delitem__(self, key):
            del self.cache[key]

        def __contains__(self, key):
            return key in self.cache

        def __iter__(self):
            return iter(self.cache)

        def __len__(self):
            return len(self.cache)

        def __repr__(self):
            return f"{type(self).__name__}({self.cache!r})"

        def get(self, *arguments):
            return self.cache.get(*arguments)

        def pop(self, *arguments):
            return self.cache.pop(*arguments)

        def popitem(self):
            try:
                return self.cache.popitem()
            except KeyError as error:
                raise error from None

        def setdefault(self, *arguments):
            return self.cache.setdefault(*arguments)

        def clear(self):
            self.cache.clear()


    class LRUCache(Cache[K, V]):
        pass


    class FIFOCache(Cache[K, V]):
        policy = "fifo"


    class LFUCache(Cache[K, V]):
        policy = "lfu"


    class TTLCache(Cache[K, V], Generic[K, V, T]):
        def __init__(self, maxsize, ttl, timer=None, getsizeof=None):
            settings = {"timer": Timer(timer)} if timer is not None else {}
            super().__init__(maxsize, getsizeof, ttl=ttl, **settings)

        @property
        def ttl(self):
            return self.settings["ttl"]

        @property
        def timer(self):
            return self.settings["timer"]

        def expire(self, time=None):
            self.expired.clear()
            self.timer.fixed = time
            self.cache.expire()
            self.timer.fixed = None
            return list(self.expired)
"""

# None of these tests waits for anything, so one process a class will do.
RUN = """
    import sys
    import unittest

    sys.path.insert(0, sys.argv[1])
    excluded = sys.argv[3].split(",")
    suite = unittest.TestSuite()
    for group in unittest.defaultTestLoader.loadTestsFromName(f"tests.test_{sys.argv[2]}"):
        suite.addTests(test for test in group if test.id().rpartition(".")[2] not in excluded)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    sys.exit(not result.wasSuccessful() or result.testsRun < 20)
"""

NOT_FOR_OUR_MAPPING = {
    "test_ttl_copy": "with a time to live, too, ours is iterated in the order of use, theirs in that of expiry",
    "test_ttl_datetime": "a timer of ours returns seconds, not datetimes",
    "test_ttl_datetime_overflow": "a timer of ours returns seconds, not datetimes",
}


@pytest.fixture(scope="module")
def cachetools_tests(sdist, tmp_path_factory):
    """A folder with the tests of cachetools, and our stand-in for cachetools beside them."""
    home = tmp_path_factory.mktemp("cachetools")
    shutil.copytree(sdist("cachetools", "8.0.1") / "tests", home / "tests")
    (home / "cachetools.py").write_text(textwrap.dedent(STAND_IN), "utf-8")
    return home


@pytest.mark.parametrize("name", ["lru", "fifo", "lfu", "ttl"])
def test_the_tests_of_cachetools_pass(cachetools_tests, name):
    arguments = [str(cachetools_tests), name, ",".join(NOT_FOR_OUR_MAPPING)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr

"""The executor and its future under CPython's own tests of theirs."""

import functools

import pytest

from cpython_suites import passes

pytestmark = [pytest.mark.subprocess, pytest.mark.slow]

ON_FERRULE = """
    import concurrent.futures
    import concurrent.futures._base
    import sys
    import unittest

    # Ours in the place of theirs, before the tests look.
    from ferrule import scheduling

    concurrent.futures.ThreadPoolExecutor = scheduling.ThreadPoolExecutor
    concurrent.futures.Future = concurrent.futures._base.Future = scheduling.Future
    scheduling.ThreadPoolExecutor.__name__ = "ThreadPoolExecutor"

    from test.test_concurrent_futures import {module} as suite

    # What needs processes is not about ours.
    import test.support
    test.support.use_resources = ["walltime", "cpu"]
    loader = unittest.TestLoader()

    def flat(tests):
        for test in tests:
            if isinstance(test, unittest.TestSuite):
                yield from flat(test)
            else:
                yield test

    left_out = {left_out!r}
    chosen = [
        test
        for test in flat(loader.loadTestsFromModule(suite))
        if not any(word in type(test).__name__ for word in ("Process", "Interpreter", "Resources"))
        and test._testMethodName not in left_out
    ]
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(chosen))
    print("RAN", result.testsRun, "SKIPPED", len(result.skipped))
    sys.exit(not result.wasSuccessful())
"""

# What doesn't apply, each with the reason.
NOT_FOR_US = {
    "test_interpreter_shutdown": "a fresh interpreter has the standard library's; test_scheduling.py has the same test",
    "test_submit_after_interpreter_shutdown": "likewise",
    "test_hang_gh83386": "likewise",
    "test_cancel_futures_wait_false": "likewise",
    # Starts forty processes by fork; slow, and about a lock that we don't have.
    "test_hang_global_shutdown_lock": "about the standard library's global lock, which is never taken",
}

MODULES = {
    "test_future": 20,
    "test_thread_pool": 12,
    "test_wait": 8,
    "test_as_completed": 4,
    "test_init": 2,
    "test_shutdown": 8,
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("module", MODULES)
def test_cpython_s_tests_pass_with_ours_in_place_of_theirs(python, module):
    passes(functools.partial(python, timeout=200), ON_FERRULE, module, NOT_FOR_US, MODULES[module])

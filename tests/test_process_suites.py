"""The executor of processes under CPython's own tests of theirs."""

import subprocess
import sys

import pytest

from cpython_suites import passes

pytestmark = [pytest.mark.subprocess, pytest.mark.slow]

ON_FERRULE = """
    import sys
    import unittest

    def put_in_place():
        # Ours in the place of theirs, before the tests look.
        import concurrent.futures
        import concurrent.futures._base
        import concurrent.futures.process

        from ferrule import scheduling

        concurrent.futures.ProcessPoolExecutor = scheduling.ProcessPoolExecutor
        concurrent.futures.process.ProcessPoolExecutor = scheduling.ProcessPoolExecutor
        concurrent.futures.process._RemoteTraceback = scheduling.RemoteTraceback
        concurrent.futures.Future = concurrent.futures._base.Future = scheduling.Future

    put_in_place()
    if __name__ == "__main__":
        from test.test_concurrent_futures import {module} as suite
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
            # Not their contexts of "fork": our workers are clean processes, and the argument is refused.
            if "ProcessPool" in type(test).__name__
            and "ProcessPoolFork" not in type(test).__name__.replace("Forkserver", "")
            # It has the worker log its failure into a queue; ours is logged by the parent, and in the error.
            and "FailingInitializer" not in type(test).__name__
            and test._testMethodName not in left_out
        ]
        result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(chosen))
        print("RAN", result.testsRun, "SKIPPED", len(result.skipped))
        sys.exit(not result.wasSuccessful())
"""

# What doesn't apply, each with the reason.
NOT_FOR_US = {
    # One death breaks their pool; ours loses the task that died, and goes on.
    "test_killed_child": "demands that a death break the pool",
    "test_exit_at_task_unpickle": "likewise",
    "test_crash_at_task_unpickle": "likewise",
    "test_error_at_task_unpickle": "demands that an argument that can't be loaded break the pool",
    "test_crash_during_func_exec_on_worker": "demands that a death break the pool",
    "test_exit_during_func_exec_on_worker": "likewise",
    "test_crash_during_result_pickle_on_worker": "likewise",
    "test_exit_during_result_pickle_on_worker": "likewise",
    "test_error_during_result_unpickle_in_result_handler": "demands that a result that can't be loaded break the pool",
    "test_exit_during_result_unpickle_in_result_handler": "likewise",
    "test_crash_big_data": "demands that a death break the pool",
    "test_broken_process_pool_traceback": "likewise",
    "test_traceback_when_child_process_terminates_abruptly": "likewise; WorkerDied names the exit code, too",
    # Theirs gives out as many tasks as it may have workers before one is up; ours cancels what nobody has begun.
    "test_cancel_futures": "demands that some tasks are done though all are cancelled at once",
    # Private parts of theirs.
    "test_failed_worker_replacement_breaks_pool": "patches their _spawn_process",
    "test_force_shutdown_during_max_tasks_worker_exit": "calls their _force_shutdown",
    "test_force_shutdown_workers": "likewise",
    "test_force_shutdown_workers_dead_workers": "likewise",
    "test_force_shutdown_workers_invalid_op": "likewise",
    "test_force_shutdown_workers_not_started_yet": "likewise",
    "test_force_shutdown_workers_stops_pool": "likewise",
    "test_terminate_workers": "likewise; test_processes.py has one of its own",
    "test_kill_workers": "likewise",
    "test_gc_during_max_tasks_worker_exit_gh152967": "looks into _processes",
    "test_shutdown_no_wait_max_tasks_gh119592": "waits for their _executor_manager_thread",
    "test_shutdown_gh_132969_case_1": "waits for their _executor_manager_thread",
    "test_shutdown_gh_132969_case_2": "likewise",
    "test_saturation": "looks into _processes and _pending_work_items",
    "test_idle_process_reuse_one": "looks into _processes",
    "test_idle_process_reuse_multiple": "looks into _processes",
    "test_max_tasks_per_child": "looks into _processes, and demands a refusal of contexts of fork by another text",
    "test_max_tasks_per_child_defaults_to_spawn_context": "looks into _mp_context",
    "test_max_tasks_early_shutdown": "looks into _processes",
    "test_python_finalization_error": "patches their _start_executor_manager_thread",
    "test_processes_terminate": "looks into _processes",
    "test_shutdown_deadlock": "waits for their _executor_manager_thread",
    "test_shutdown_deadlock_pickle": "likewise",
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "fills a pipe of theirs",
    "test_del_shutdown": "looks into _executor_manager_thread",
    "test_shutdown_no_wait": "likewise",
    "test_context_manager_shutdown": "looks into _processes",
    # A fresh interpreter has the standard library's.
    "test_interpreter_shutdown": "a fresh interpreter has theirs; test_process_ends.py has the same test",
    "test_submit_after_interpreter_shutdown": "likewise",
    "test_hang_gh83386": "likewise",
    "test_hang_gh94440": "likewise",
    "test_cancel_futures_wait_false": "likewise",
    "test_max_workers_too_large": "of Windows",
}

MODULES = {
    "test_process_pool": 4,
    "test_deadlock": 2,
    "test_wait": 8,
    "test_as_completed": 4,
    "test_init": 2,
    "test_shutdown": 4,
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("module", MODULES)
def test_cpython_s_tests_pass_with_ours_in_place_of_theirs(tmp_path, module):
    program = tmp_path / "suite.py"

    def run(code):
        program.write_text(code, encoding="utf-8")
        return subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=200, check=False)

    passes(run, ON_FERRULE, module, NOT_FOR_US, MODULES[module])

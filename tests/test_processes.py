"""The executor of processes: whatever dies, only that is lost."""

import asyncio
import concurrent.futures
import contextvars
import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import ferrule
import process_tasks as tasks
from ferrule import ExecutorClosed, ProcessPoolExecutor, Retry, TaskTimeout, WorkerDied
from ferrule._errors import ExecutorFull
from ferrule.scheduling import Future, RemoteTraceback

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.timeout(60),
    pytest.mark.thread_unsafe(reason="counts processes and descriptors"),
]

# No answer takes so long, on however slow a machine.
LONG = 45


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2) as executor:
        yield executor


def eventually(check, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def is_alive(pid):
    try:
        with Path(f"/proc/{pid}/stat").open(encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors():
    return len([entry.name for entry in Path("/proc/self/fd").iterdir()])


class TestCalls:
    def test_a_call_runs_elsewhere(self, pool):
        future = pool.submit(tasks.pid)
        assert isinstance(future, Future)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(LONG) != os.getpid()
        assert isinstance(pool, concurrent.futures.Executor)

    def test_arguments_by_position_and_keyword(self, pool):
        assert pool.submit(pow, 2, exp=5, mod=7).result(LONG) == 4
        assert pool.submit(dict, a=1).result(LONG) == {"a": 1}

    def test_many_calls_come_back_each_with_its_own_result(self, pool):
        futures = [pool.submit(tasks.square, number) for number in range(3000)]
        assert [future.result(LONG) for future in futures] == [number**2 for number in range(3000)]

    def test_an_exception_comes_back_with_its_traceback(self, pool):
        with pytest.raises(ValueError, match=r"^outer$") as caught:
            pool.submit(tasks.fail_chained).result(LONG)
        cause = caught.value.__cause__
        assert isinstance(cause, RemoteTraceback)
        assert "KeyError: 'inner'" in str(cause)
        assert "in fail_chained" in cause.tb

    def test_exceptions_that_end_programs_come_back(self, pool):
        for error in (KeyboardInterrupt(), SystemExit(3), GeneratorExit()):
            with pytest.raises(type(error)):
                pool.submit(tasks.raise_it, error).result(LONG)
        assert pool.submit(tasks.square, 2).result(LONG) == 4

    def test_the_standard_library_s_functions_take_its_futures(self, pool):
        futures = [pool.submit(tasks.square, number) for number in range(5)]
        done, waiting = concurrent.futures.wait(futures, LONG)
        assert (len(done), len(waiting)) == (5, 0)
        assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [0, 1, 4, 9, 16]

    def test_asyncio_awaits_them(self, pool):
        async def main():
            return await asyncio.get_running_loop().run_in_executor(pool, tasks.square, 7)

        assert asyncio.run(main()) == 49

    def test_callbacks_are_called_here(self, pool):
        seen = []
        future = pool.submit(tasks.pid)
        future.add_done_callback(lambda future: seen.append((os.getpid(), future.result())))
        eventually(lambda: seen)
        assert seen[0][0] == os.getpid() != seen[0][1]

    def test_a_callback_that_raises_harms_nobody(self, pool, caplog):
        future = pool.submit(tasks.sleep, 0.05)
        future.add_done_callback(lambda _: 1 / 0)
        assert future.result(LONG) is None
        assert pool.submit(tasks.square, 3).result(LONG) == 9
        eventually(lambda: "exception calling callback" in caplog.text)

    def test_workers_are_used_again(self):
        with ProcessPoolExecutor(1) as executor:
            assert len({executor.submit(tasks.pid).result(LONG) for _ in range(20)}) == 1

    def test_no_more_workers_than_there_may_be(self):
        with ProcessPoolExecutor(3) as executor:
            pids = set(executor.map(tasks.pid, range(300), chunksize=1))
            assert 1 <= len(pids) <= 3

    def test_a_short_task_doesn_t_wait_behind_a_long_one(self, tmp_path):
        # Tasks are given out ahead where they are short; one that then turns out long must not hold them up.
        with ProcessPoolExecutor(2) as executor:
            for _ in range(300):
                executor.submit(tasks.square, 1).result(LONG)
            blocker = tmp_path / "go"
            futures = [executor.submit(tasks.square, number) for number in range(200)]
            long = executor.submit(wait_for_file, str(blocker))
            futures += [executor.submit(tasks.square, number) for number in range(200)]
            for future in futures:
                future.result(LONG)
            assert not long.done()
            blocker.write_text("", encoding="utf-8")
            assert long.result(LONG) == "gone"

    def test_a_task_may_use_threads_and_fork(self, pool):
        assert pool.submit(tasks.in_a_thread, 4).result(LONG) == 8
        assert pool.submit(tasks.fork_and_return).result(LONG) == "parent"
        assert pool.submit(tasks.square, 4).result(LONG) == 16

    def test_it_can_t_be_pickled(self, pool):
        future = pool.submit(tasks.identity, pool)
        with pytest.raises(TypeError, match="can't be pickled"):
            future.result(LONG)

    def test_workers_are_of_the_template_and_have_one_thread(self, pool):
        child, parent = pool.submit(tasks.parents).result(LONG)
        assert parent not in {os.getpid(), child}
        assert pool.submit(tasks.threads).result(LONG) == 1


def wait_for_file(path):
    while not Path(path).exists():
        time.sleep(0.005)
    return "gone"


class TestParameters:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
            ({"max_workers": "2"}, TypeError, "max_workers must be an integer, not str"),
            ({"max_workers": True}, TypeError, "max_workers must be an integer, not bool"),
            ({"mp_context": "spawn"}, TypeError, "mp_context must be a context of multiprocessing"),
            ({"mp_context": multiprocessing.get_context("fork")}, ValueError, "'spawn' or 'forkserver'.*got 'fork'"),
            ({"initializer": 3}, TypeError, "initializer must be a callable, not int"),
            ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be 1 or more"),
            ({"max_tasks_per_child": 1.5}, TypeError, "max_tasks_per_child must be an integer"),
            ({"max_pending": 0}, ValueError, "max_pending must be 1 or more"),
            ({"when_full": "drop"}, ValueError, "when_full must be 'block' or 'raise'"),
            ({"on_exit": "stay"}, ValueError, "on_exit must be 'drain', 'cancel' or 'kill'"),
            ({"retries": -1}, ValueError, "retries must be 0 or more"),
            ({"memory_limit": 0}, ValueError, "memory_limit must be 1 byte or more"),
            ({"memory_limit": "1G"}, TypeError, "memory_limit must be a number of bytes or None"),
            ({"preload": "json"}, TypeError, "preload must be several names"),
            ({"preload": (3,)}, TypeError, "preload must be names of modules"),
        ],
    )
    def test_nonsense_is_refused_at_once(self, options, error, text):
        with pytest.raises(error, match=text):
            ProcessPoolExecutor(**options)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"priority": "high"}, TypeError),
            ({"timeout": 0}, ValueError),
            ({"timeout": -1}, ValueError),
            ({"retry": 3}, TypeError),
            ({"retries": -1}, ValueError),
        ],
    )
    def test_so_are_options(self, pool, options, error):
        with pytest.raises(error):
            pool.options(**options)

    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_contexts_that_mean_what_it_does(self, method):
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as executor:
            assert executor.submit(tasks.square, 2).result(LONG) == 4

    def test_the_initializer_comes_first(self):
        with ProcessPoolExecutor(1, initializer=tasks.remember, initargs=("begun",)) as executor:
            assert executor.submit(tasks.recall).result(LONG) == ["begun"]

    def test_an_initializer_that_fails_breaks_the_executor(self, caplog):
        executor = ProcessPoolExecutor(1, initializer=tasks.refuse)
        future = executor.submit(tasks.square, 1)
        with pytest.raises(BrokenProcessPool, match="not today"):
            future.result(LONG)
        with pytest.raises(BrokenProcessPool):
            executor.submit(tasks.square, 1)
        executor.shutdown()
        assert "not today" in caplog.text

    def test_preload_that_fails_breaks_the_executor(self):
        with ProcessPoolExecutor(1, preload=["no_such_module_at_all"]) as executor:
            future = executor.submit(tasks.square, 1)
            with pytest.raises(BrokenProcessPool, match="no_such_module_at_all"):
                future.result(LONG)

    def test_preload(self):
        with ProcessPoolExecutor(1, preload=["colorsys"]) as executor:
            assert executor.submit(has_module, "colorsys").result(LONG)

    def test_workers_are_replaced_after_so_many_tasks(self):
        with ProcessPoolExecutor(1, max_tasks_per_child=3) as executor:
            pids = [executor.submit(tasks.pid).result(LONG) for _ in range(9)]
        assert [len(set(pids[start : start + 3])) for start in (0, 3, 6)] == [1, 1, 1]
        assert len(set(pids)) == 3

    def test_and_under_load(self):
        with ProcessPoolExecutor(2, max_tasks_per_child=2) as executor:
            pids = [future.result(LONG) for future in [executor.submit(tasks.pid) for _ in range(20)]]
        assert max(pids.count(each) for each in pids) <= 2

    def test_stats(self, pool):
        assert pool.submit(tasks.square, 2).result(LONG) == 4
        stats = pool.stats()
        assert 1 <= stats.workers <= 2
        assert stats.pending == 0
        assert "max_workers=2" in repr(pool)


def has_module(name):
    return name in sys.modules


class TestPriorities:
    def test_lower_numbers_run_first(self, tmp_path):
        order = tmp_path / "order"
        gate = tmp_path / "gate"
        with ProcessPoolExecutor(1) as executor:
            executor.submit(tasks.square, 1).result(LONG)
            first = executor.submit(wait_for_file, str(gate))
            eventually(first.running)
            for priority in (3, 0, -2, 1):
                executor.options(priority=priority).submit(tasks.touch, str(order), str(priority))
            gate.write_text("", encoding="utf-8")
        assert order.read_text(encoding="utf-8").split() == ["-2", "0", "1", "3"]

    def test_views(self, pool):
        view = pool.options(priority=2, timeout=60)
        assert view.submit(tasks.square, 3).result(LONG) == 9
        assert list(view.map(tasks.square, [1, 2])) == [1, 4]
        assert "priority=2" in repr(view.options(retries=1))
        assert view.options(retries=1).parts()[1].timeout == 60

    def test_a_retry_policy_runs_in_the_worker(self, pool, tmp_path):
        path = str(tmp_path / "tries")
        policy = Retry(on=ValueError, max_attempts=3, delay=0)
        with pytest.raises(ValueError, match="no"):
            pool.options(retry=policy).submit(tasks.touch_then, path, "x", tasks.fail, "no").result(LONG)
        assert len(Path(path).read_text(encoding="utf-8").split()) == 3


class TestDeaths:
    @pytest.mark.parametrize(
        ("how", "args", "exitcode", "number"),
        [
            (tasks.kill_self, (), -9, 9),
            (tasks.kill_self, (signal.SIGTERM,), -15, 15),
            (tasks.leave, (0,), 0, None),
            (tasks.leave, (3,), 3, None),
            (tasks.fault, (), -11, 11),
        ],
    )
    def test_exactly_its_own_task_is_lost(self, pool, how, args, exitcode, number):
        before = [pool.submit(tasks.square, each) for each in range(100)]
        dead = pool.submit(how, *args)
        after = [pool.submit(tasks.square, each) for each in range(100)]
        assert [future.result(LONG) for future in before + after] == [each**2 for each in range(100)] * 2
        with pytest.raises(WorkerDied) as caught:
            dead.result(LONG)
        assert (caught.value.exitcode, caught.value.signal) == (exitcode, number)
        assert isinstance(caught.value, ferrule.FerruleError)

    def test_the_rest_runs_once(self, tmp_path):
        # Given out ahead or not: what had not begun begins elsewhere, what was done is not done again.
        path = tmp_path / "done"
        with ProcessPoolExecutor(2) as executor:
            for _ in range(100):
                executor.submit(tasks.square, 1).result(LONG)
            futures = {}
            for number in range(400):
                if number % 40 == 20:
                    futures[number] = executor.submit(tasks.kill_self)
                else:
                    futures[number] = executor.submit(tasks.touch, str(path), str(number))
            died = [number for number, future in futures.items() if future.exception(LONG) is not None]
        assert died == list(range(20, 400, 40))
        done = sorted(int(line) for line in path.read_text(encoding="utf-8").split())
        assert done == [number for number in range(400) if number % 40 != 20]

    def test_retries(self, tmp_path):
        with ProcessPoolExecutor(1, retries=1) as executor:
            assert executor.submit(tasks.kill_once, str(tmp_path / "one")).result(LONG) == "alive"
            with pytest.raises(WorkerDied):
                executor.submit(tasks.kill_self).result(LONG)
            with pytest.raises(WorkerDied):
                executor.options(retries=0).submit(tasks.kill_once, str(tmp_path / "two")).result(LONG)
        with ProcessPoolExecutor(1) as executor:
            assert executor.options(retries=2).submit(tasks.kill_once, str(tmp_path / "three")).result(LONG) == "alive"

    def test_idle_workers_that_die_are_replaced(self):
        with ProcessPoolExecutor(2) as executor:
            list(executor.map(tasks.sleep, [0.05] * 4, chunksize=1))
            for pid in executor.pids():
                os.kill(pid, signal.SIGKILL)
            assert list(executor.map(tasks.square, range(50), chunksize=1)) == [each**2 for each in range(50)]

    def test_the_template_that_dies_is_replaced(self, tmp_path):
        path = tmp_path / "begun"
        with ProcessPoolExecutor(2) as executor:
            assert executor.submit(tasks.square, 2).result(LONG) == 4
            running = executor.submit(tasks.touch_then, str(path), "x", tasks.sleep, 600)
            eventually(path.exists)
            os.kill(executor._hub.template, signal.SIGKILL)
            with pytest.raises(WorkerDied):
                running.result(LONG)
            assert executor.submit(tasks.square, 3).result(LONG) == 9

    def test_and_at_once(self):
        # Who wanted the first one while it was being started is no reason not to want the second one.
        for _ in range(12):
            with ProcessPoolExecutor(2) as executor:
                assert executor.submit(tasks.square, 2).result(LONG) == 4
                os.kill(executor._hub.template, signal.SIGKILL)
                eventually(lambda hub=executor._hub: hub.template is None)
                # The hub looks after everything every ten seconds.
                assert executor.submit(tasks.square, 3).result(9) == 9

    def test_workers_that_never_come_up_break_the_executor(self, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(
            textwrap.dedent(
                """
                import os
                import concurrent.futures.process
                from ferrule import ProcessPoolExecutor
                if __name__ != "__main__":
                    os._exit(5)
                executor = ProcessPoolExecutor(2)
                error = executor.submit(abs, -1).exception(60)
                assert isinstance(error, concurrent.futures.process.BrokenProcessPool), error
                assert "exit code 5" in str(error)
                executor.shutdown()
                print("told")
                """
            ),
            encoding="utf-8",
        )
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=LONG, check=False)
        assert (done.stdout, done.returncode) == ("told\n", 0), done.stderr

    def test_a_main_module_without_a_guard_is_told(self, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(
            "from ferrule import ProcessPoolExecutor\nprint(ProcessPoolExecutor(1).submit(abs, -1).exception(60))\n",
            encoding="utf-8",
        )
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=LONG, check=False)
        assert "bootstrapping phase" in done.stdout, done.stderr


class TestTimeouts:
    def test_a_loop_in_c_is_killed(self, pool):
        future = pool.options(timeout=0.2).submit(tasks.spin_in_c, 60)
        with pytest.raises(TaskTimeout, match=r"longer than 0\.2 s"):
            future.result(LONG)
        assert pool.submit(tasks.square, 2).result(LONG) == 4

    def test_the_time_in_the_queue_doesn_t_count(self):
        with ProcessPoolExecutor(1) as executor:
            executor.submit(tasks.sleep, 0.7)
            assert executor.options(timeout=30).submit(tasks.square, 2).result(LONG) == 4
            futures = [executor.options(timeout=0.2).submit(tasks.sleep, 600) for _ in range(3)]
            futures.append(executor.options(timeout=60).submit(tasks.sleep, 0, "in time"))
            assert [type(future.exception(LONG)) for future in futures] == [TaskTimeout] * 3 + [type(None)]

    def test_others_aren_t_touched(self):
        with ProcessPoolExecutor(2) as executor:
            slow = executor.submit(tasks.sleep, 1.0, "done")
            late = executor.options(timeout=0.1).submit(tasks.sleep, 600)
            with pytest.raises(TaskTimeout):
                late.result(LONG)
            assert slow.result(LONG) == "done"

    def test_in_map_it_is_each_call_s(self, pool):
        results = pool.options(timeout=2).map(tasks.sleep, [0.0, 0.0, 600.0], ["a", "b", "c"])
        assert [next(results), next(results)] == ["a", "b"]
        with pytest.raises(TaskTimeout):
            next(results)


class TestMemory:
    def test_a_worker_beyond_the_limit_is_killed_during_a_task(self):
        with ProcessPoolExecutor(1, memory_limit=200 << 20) as executor:
            assert executor.submit(tasks.hold_memory, 1 << 20, 0).result(LONG) == 1 << 20
            with pytest.raises(WorkerDied) as caught:
                executor.submit(tasks.hold_memory, 400 << 20, 600).result(LONG)
            assert caught.value.signal == signal.SIGKILL
            assert "memory_limit" in caught.value.__notes__[0]
            assert executor.submit(tasks.square, 2).result(LONG) == 4

    def test_and_replaced_between_tasks(self):
        with ProcessPoolExecutor(1, memory_limit=150 << 20, retries=1) as executor:
            first = executor.submit(tasks.pid).result(LONG)
            assert executor.submit(tasks.pid).result(LONG) == first
            executor.submit(tasks.keep_memory, 200 << 20).exception(LONG)
            assert executor.submit(tasks.pid).result(LONG) != first


class TestWhatCanTBePickled:
    def test_an_argument_that_stays(self, pool):
        future = pool.submit(tasks.identity, tasks.Unpicklable())
        with pytest.raises(TypeError, match="I stay here"):
            future.result(LONG)

    def test_an_argument_that_can_t_be_loaded(self, pool):
        pid = pool.submit(tasks.pid).result(LONG)
        with pytest.raises(OSError, match="by the other"):
            pool.submit(tasks.identity, tasks.BrokenInWorker("other")).result(LONG)
        assert is_alive(pid)

    def test_a_result_that_stays(self, pool):
        with pytest.raises(TypeError, match="I stay here") as caught:
            pool.submit(tasks.make_unpicklable).result(LONG)
        assert "__reduce__" in str(caught.value.__cause__)

    def test_a_result_that_can_t_be_loaded(self, pool):
        with pytest.raises(OSError, match="by the other"):
            pool.submit(tasks.make, "other").result(LONG)

    def test_exceptions_that_can_t_travel(self, pool):
        with pytest.raises(TypeError, match="two"):
            pool.submit(tasks.fail_awkwardly).result(LONG)
        with pytest.raises(RuntimeError, match=r"HolderError was raised that can't be pickled.*held"):
            pool.submit(tasks.fail_with_a_lock).result(LONG)

    def test_an_argument_that_kills_who_loads_it(self, pool):
        with pytest.raises(WorkerDied) as caught:
            pool.submit(tasks.identity, tasks.DiesWhenLoaded()).result(LONG)
        assert caught.value.exitcode == 7

    def test_only_that_task_fails(self, pool):
        futures = []
        for number in range(60):
            what = [
                (tasks.square, number),
                (tasks.identity, tasks.Unpicklable()),
                (tasks.identity, tasks.BrokenInWorker("other")),
                (tasks.make_unpicklable,),
                (tasks.make, "other"),
                (tasks.fail_with_a_lock,),
            ][number % 6]
            futures.append(pool.submit(*what))
        good = [future.exception(LONG) is None for future in futures]
        assert good == [number % 6 == 0 for number in range(60)]

    def test_in_a_batch(self, pool):
        results = pool.map(maybe_unpicklable, range(6), chunksize=6)
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(TypeError, match="I stay here"):
            next(results)

    def test_lambdas_travel_with_cloudpickle(self, pool):
        pytest.importorskip("cloudpickle")
        offset = 3
        assert pool.submit(lambda x: x + offset, 4).result(LONG) == 7
        assert list(pool.map(lambda x: x + offset, range(3))) == [3, 4, 5]

    def test_beside_a_lambda_the_main_module_s_functions_are_the_worker_s_own(self, tmp_path):
        pytest.importorskip("cloudpickle")
        program = tmp_path / "program.py"
        program.write_text(
            textwrap.dedent(
                """
                from ferrule import ProcessPoolExecutor
                seen = []
                class Adder:
                    def __init__(self, offset):
                        self.offset = offset
                    def add(self, number, function):
                        seen.append(number)
                        return self.offset + function(number), len(seen)
                if __name__ == "__main__":
                    with ProcessPoolExecutor(1) as executor:
                        for number in range(2):
                            print(*executor.submit(Adder(10).add, number, lambda x: 2 * x).result(60))
                """
            ),
            encoding="utf-8",
        )
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=LONG, check=False)
        assert (done.stdout, done.stderr) == ("10 1\n12 2\n", "")


def maybe_unpicklable(number):
    return tasks.Unpicklable() if number == 4 else number


class TestMap:
    @pytest.mark.parametrize("chunksize", [None, 1, 7, 1000])
    @pytest.mark.parametrize("buffersize", [None, 1, 10])
    def test_results_in_order(self, pool, chunksize, buffersize):
        results = pool.map(tasks.square, range(500), chunksize=chunksize, buffersize=buffersize)
        assert list(results) == [number**2 for number in range(500)]

    def test_several_iterables_the_shortest_ends(self, pool):
        assert list(pool.map(pow, [2, 3, 4], itertools.count(1))) == [2, 9, 64]
        assert list(pool.map(pow, [], [])) == []

    def test_an_error_comes_where_it_belongs(self, pool):
        for chunksize in (None, 1, 5):
            results = pool.map(reciprocal, [1, 2, 0, 4, 5], chunksize=chunksize)
            assert [next(results), next(results)] == [1.0, 0.5]
            with pytest.raises(ZeroDivisionError) as caught:
                next(results)
            assert "in reciprocal" in str(caught.value.__cause__)
            assert list(results) == []

    def test_a_death_in_a_batch_is_that_call_s(self, pool):
        for chunksize in (None, 1, 10):
            results = pool.map(tasks.die_if, range(40), itertools.repeat(25), chunksize=chunksize)
            assert [next(results) for _ in range(25)] == list(range(25))
            with pytest.raises(WorkerDied):
                next(results)

    def test_and_retried_where_that_is_allowed(self, tmp_path):
        with ProcessPoolExecutor(2, retries=1) as executor:
            paths = [str(tmp_path / f"{number // 5}") for number in range(20)]
            assert list(executor.map(tasks.kill_once, paths, chunksize=5)) == ["alive"] * 20

    @pytest.mark.parametrize("buffersize", [None, 30])
    def test_what_a_batch_has_done_is_not_done_again(self, tmp_path, buffersize):
        path, flag = str(tmp_path / "calls"), str(tmp_path / "flag")
        with ProcessPoolExecutor(2, retries=1) as executor:
            results = executor.map(
                tasks.touch_slowly, [path] * 60, range(60), [flag] * 60, chunksize=15, buffersize=buffersize
            )
            assert list(results) == list(range(60))
        calls = sorted(map(int, Path(path).read_text(encoding="utf-8").split()))
        assert calls == sorted([*range(60), 25])

    def test_batches_that_take_their_time(self, pool):
        for chunksize in (3, 20):
            results = pool.map(tasks.slowly, [tasks.square] * 20, range(20), chunksize=chunksize)
            assert list(results) == [number**2 for number in range(20)]
            results = pool.map(tasks.slowly, [reciprocal] * 5, [1, 2, 4, 0, 5], chunksize=chunksize)
            assert [next(results) for _ in range(3)] == [1.0, 0.5, 0.25]
            with pytest.raises(ZeroDivisionError):
                next(results)
        with pytest.raises(OSError, match="by the other"):
            list(pool.map(tasks.slowly, [tasks.make] * 4, ["other"] * 4, chunksize=4))
        results = pool.map(tasks.slowly, [maybe_unpicklable] * 6, range(6), chunksize=6)
        assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(TypeError, match="I stay here"):
            next(results)

    def test_and_have_arrays(self, pool):
        numpy = pytest.importorskip("numpy")
        arrays = [numpy.full(20_000, number, dtype="f8") for number in range(12)]
        results = pool.map(tasks.slowly, [tasks.double_in_place] * 12, arrays, chunksize=6)
        assert [float(each.sum()) for each in results] == [40_000 * number for number in range(12)]

    def test_endless_input_is_pulled_as_far_as_agreed(self, pool):
        pulled = itertools.count()
        results = pool.map(tasks.square, pulled, buffersize=16)
        first = [next(results) for _ in range(5)]
        assert first == [0, 1, 4, 9, 16]
        assert next(pulled) <= 16 + 5 + 1
        results.close()

    def test_results_that_nobody_takes_don_t_keep_the_executor(self):
        executor = ProcessPoolExecutor(1)
        results = executor.map(tasks.square, itertools.count(), buffersize=4)
        short = executor.map(tasks.square, range(4), buffersize=4)
        executor.shutdown()
        assert list(short) == [0, 1, 4, 9]
        assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
        with pytest.raises(ExecutorClosed):
            next(results)

    def test_all_calls_are_made_though_nobody_takes_results(self, tmp_path):
        path = tmp_path / "calls"
        with ProcessPoolExecutor(2) as executor:
            executor.map(tasks.touch, [str(path)] * 300)
        assert len(path.read_text(encoding="utf-8").split()) == 300

    def test_cancelled_with_the_queue(self, tmp_path):
        path = tmp_path / "calls"
        executor = ProcessPoolExecutor(1)
        results = executor.map(tasks.touch_then, [str(path)] * 100, ["x"] * 100, [tasks.sleep] * 100, [0.2] * 100)
        eventually(path.exists)
        executor.shutdown(cancel_futures=True)
        assert len(path.read_text(encoding="utf-8").split()) < 100
        with pytest.raises(concurrent.futures.CancelledError):
            list(results)

    def test_a_timeout_for_all(self, pool):
        results = pool.map(tasks.sleep, [0, 600], ["first", "second"], timeout=2, chunksize=1)
        with pytest.raises(TimeoutError):
            list(results)
        for pid in pool.pids():
            os.kill(pid, signal.SIGKILL)

    def test_an_iterable_that_raises(self, pool):
        def numbers():
            yield 1
            raise OSError("no more")

        with pytest.raises(OSError, match="no more"):
            pool.map(tasks.square, numbers())
        results = pool.map(tasks.square, numbers(), buffersize=1)
        with pytest.raises(OSError, match="no more"):
            list(results)
        assert pool.submit(tasks.square, 3).result(LONG) == 9

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"chunksize": 0}, ValueError),
            ({"chunksize": 1.0}, TypeError),
            ({"buffersize": 0}, ValueError),
            ({"buffersize": "3"}, TypeError),
        ],
    )
    def test_nonsense(self, pool, options, error):
        with pytest.raises(error):
            pool.map(tasks.square, [1], **options)
        with pytest.raises(TypeError, match="fn must be a callable"):
            pool.map(3, [1])

    def test_batches_grow(self):
        with ProcessPoolExecutor(1) as executor:
            assert sum(executor.map(tasks.square, range(50_000))) == sum(number**2 for number in range(50_000))
            # Far fewer messages than calls, and results in memory that is small.
            assert executor.submit(tasks.square, 1).result(LONG) == 1


def reciprocal(x):
    return 1 / x


class TestArrays:
    def test_there_and_back(self, pool):
        numpy = pytest.importorskip("numpy")
        for size in (10, 8_191, 8_192, 100_000, 1_000_000):
            array = numpy.arange(size, dtype="f8")
            doubled = pool.submit(tasks.double_in_place, array).result(LONG)
            assert (doubled == array * 2).all()
            assert doubled.flags.writeable
            doubled += 1
            assert array[1] == 1

    def test_they_arrive_writable_and_mapped(self, pool):
        numpy = pytest.importorskip("numpy")
        assert pool.submit(tasks.is_writable, numpy.zeros(100_000)).result(LONG) == (True, "SharedPart")

    def test_many_of_them_hold_no_descriptors(self, pool):
        numpy = pytest.importorskip("numpy")
        array = numpy.ones(10_000)
        assert pool.submit(tasks.identity, array).result(LONG).sum() == 10_000
        before = descriptors()
        kept = [pool.submit(tasks.identity, [array, array + 1, array.T]).result(LONG) for _ in range(300)]
        assert descriptors() <= before + 3
        assert sum(part[1].sum() for part in kept) == 300 * 20_000

    def test_where_there_is_no_such_memory(self):
        numpy = pytest.importorskip("numpy")
        executor = ProcessPoolExecutor(1)
        executor._beside = False
        executor._open()
        with executor:
            array = numpy.arange(200_000, dtype="f8")
            doubled = executor.submit(tasks.double_in_place, array).result(LONG)
            assert (doubled == array * 2).all()
            assert doubled.flags.writeable
            assert executor.submit(tasks.is_writable, array).result(LONG) == (True, "bytearray")

    def test_large_bytes_travel_too(self, pool):
        block = os.urandom(3_000_000)
        assert pool.submit(tasks.identity, block).result(LONG) == block

    def test_a_task_with_arrays_that_dies_runs_again(self, tmp_path):
        numpy = pytest.importorskip("numpy")
        with ProcessPoolExecutor(1, retries=1) as executor:
            array = numpy.ones(50_000)
            future = executor.submit(sum_unless_first, str(tmp_path / "flag"), array)
            assert future.result(LONG) == 50_000

    def test_nothing_is_left_behind(self):
        numpy = pytest.importorskip("numpy")
        array = numpy.ones(50_000)
        before = tasks.shared_names()
        with ProcessPoolExecutor(2, retries=1, preload=["pytest", "numpy"]) as executor:
            futures = [executor.submit(die_with_array, array, number % 10) for number in range(100)]
            for future in futures:
                future.exception(LONG)
        assert tasks.shared_names() - before == set()


def sum_unless_first(path, array):
    tasks.kill_once(path)
    return array.sum()


def die_with_array(array, number):
    if number == 0:
        tasks.kill_self()
    return array


class TestContext:
    def test_variables_travel_and_don_t_come_back(self, pool):
        token = tasks.REQUEST.set("mine")
        try:
            assert pool.submit(tasks.request).result(LONG) == "mine"
            assert pool.submit(tasks.set_request, "theirs").result(LONG) == "theirs"
            assert pool.submit(tasks.request).result(LONG) == "mine"
        finally:
            tasks.REQUEST.reset(token)
        assert pool.submit(tasks.request).result(LONG) == "none"

    def test_what_can_t_travel_stays(self, pool):
        local = contextvars.ContextVar("local")
        local.set(1)
        token = tasks.REQUEST.set(threading.Lock())
        try:
            assert pool.submit(tasks.request).result(LONG) == "none"
        finally:
            tasks.REQUEST.reset(token)

    def test_log_records_reach_the_loggers_here(self, pool, caplog):
        with caplog.at_level(logging.WARNING, logger="process_tasks"):
            pool.submit(tasks.log_something, "hello").result(LONG)
        record = next(record for record in caplog.records if record.name == "process_tasks")
        assert record.getMessage() == "said: hello"
        assert record.shade == "green"
        assert record.process != os.getpid()

    def test_warnings_reach_the_filters_here(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with ProcessPoolExecutor(1) as executor:
                assert executor.submit(tasks.warn_of, "careful").result(LONG) == "careful"
        seen = [each for each in caught if issubclass(each.category, RuntimeWarning)]
        assert str(seen[0].message) == "careful"
        assert seen[0].filename.endswith("process_tasks.py")

    def test_a_log_record_with_what_can_t_travel_comes_as_text(self, pool, caplog):
        pool.submit(tasks.log_a_lock).result(LONG)
        eventually(lambda: "a lock" in caplog.messages)
        record = next(record for record in caplog.records if record.getMessage() == "a lock")
        assert "lock object" in record.lock

    def test_what_the_main_module_has_set_up_handles_a_record_once(self, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(
            textwrap.dedent(
                """
                import logging, sys
                from ferrule import ProcessPoolExecutor
                logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s", level="INFO")
                def task():
                    logging.getLogger("task").info("hello")
                    logging.getLogger("task").debug("not this")
                if __name__ == "__main__":
                    with ProcessPoolExecutor(1) as executor:
                        executor.submit(task).result(60)
                """
            ),
            encoding="utf-8",
        )
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=LONG, check=False)
        assert (done.stdout, done.stderr) == ("task: hello\n", "")

    def test_the_main_module_is_imported_under_another_name(self, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(
            textwrap.dedent(
                """
                import sys
                from ferrule import ProcessPoolExecutor
                print("loaded as", __name__, flush=True)
                def where():
                    return __name__, sys.modules["__main__"] is sys.modules["__mp_main__"]
                if __name__ == "__main__":
                    with ProcessPoolExecutor(1) as executor:
                        print(executor.submit(where).result(60))
                """
            ),
            encoding="utf-8",
        )
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=LONG, check=False)
        lines = done.stdout.splitlines()
        assert lines[0] == "loaded as __main__", done.stderr
        assert "('__mp_main__', True)" in lines
        # Once by each worker; there may be a spare one.
        assert set(lines[1:]) == {"loaded as __mp_main__", "('__mp_main__', True)"}

    def test_what_workers_print_is_printed(self, python):
        code = """
            import process_tasks
            from ferrule import ProcessPoolExecutor
            with ProcessPoolExecutor(1) as executor:
                print(executor.submit(process_tasks.print_out, "printed").result(60))
        """
        run = python(
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{textwrap.dedent(code)}", timeout=LONG
        )
        assert sorted(run.stdout.split()) == ["7", "printed"], run.stderr


class TestTimings:
    def test_what_tasks_measure_comes_home(self, pool):
        tasks.MONITOR.reset()
        tasks.measured(0)
        futures = [pool.submit(tasks.measured, 0.01, fail=number == 3) for number in range(6)]
        concurrent.futures.wait(futures, LONG)
        stats = tasks.MONITOR.stats()
        assert (stats["measured"].count, stats["measured"].errors, stats["inside"].count) == (7, 1, 7)
        assert tasks.measured.timing_stats() == stats["measured"]
        assert stats["measured"].min < 0.01 <= stats["measured"].p90

    def test_it_is_there_when_the_result_is(self, pool):
        tasks.MONITOR.reset()
        for number in range(1, 50):
            pool.submit(tasks.measured, 0).result(LONG)
            assert tasks.MONITOR.stats()["measured"].count == number
        list(pool.map(tasks.measured, [0] * 100))
        assert tasks.MONITOR.stats()["measured"].count == 149

    def test_the_default_monitor_s_too(self, pool):
        tasks.measured_by_default.timing_reset()
        assert list(pool.map(tasks.measured_by_default, range(30))) == list(range(30))
        assert tasks.measured_by_default.timing_stats().count == 30

    def test_in_a_worker_a_monitor_has_what_the_task_has_measured(self, pool):
        assert [pool.submit(tasks.measured_here).result(LONG) for _ in range(5)] == [1] * 5

    def test_other_monitors_travel_as_copies(self, pool):
        monitor = ferrule.PerformanceMonitor()
        with monitor.timer("here"):
            pass
        there = pool.submit(tasks.measured_by_a_copy, ferrule.PerformanceMonitor()).result(LONG)
        monitor.merge(there)
        assert {name: stats.count for name, stats in monitor.stats().items()} == {"here": 1, "there": 1}

    def test_what_a_worker_measured_that_dies_later_is_kept(self):
        with ProcessPoolExecutor(1) as executor:
            tasks.MONITOR.reset()
            futures = [executor.submit(tasks.measured, 0) for _ in range(50)]
            futures.append(executor.submit(tasks.measure_and_die))
            concurrent.futures.wait(futures, LONG)
            # Each once: what was sent is in the dead one's outbox, too.
            assert tasks.MONITOR.stats()["measured"].count == 50

    def test_functions_of_the_main_module(self, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(
            textwrap.dedent(
                """
                from ferrule import PerformanceMonitor, ProcessPoolExecutor, timed
                monitor = PerformanceMonitor()
                @monitor.timed
                def task():
                    pass
                task()
                if __name__ == "__main__":
                    with ProcessPoolExecutor(2) as executor:
                        for future in [executor.submit(task) for _ in range(10)]:
                            future.result(60)
                    print({name: stats.count for name, stats in monitor.stats().items()})
                """
            ),
            encoding="utf-8",
        )
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=LONG, check=False)
        assert (done.stdout, done.stderr) == ("{'task': 11}\n", "")


class TestInheriting:
    def test_an_initializer_s_arguments_may_be_what_only_children_inherit(self):
        context = multiprocessing.get_context("spawn")
        queue, lock, event = context.Queue(), context.Lock(), context.Event()
        here, there = context.Pipe()
        event.set()
        before = descriptors()
        arguments = (queue, lock, there, event)
        # Workers that come later have them, too.
        with ProcessPoolExecutor(2, None, tasks.inherit, arguments, max_tasks_per_child=2) as executor:
            futures = [executor.submit(tasks.use_what_was_inherited, number) for number in range(5)]
            assert all(future.result(LONG) for future in futures)
            assert sorted(queue.get(timeout=LONG) for _ in range(5)) == [0, 1, 2, 3, 4]
            assert sorted(here.recv() for _ in range(5)) == [0, 1, 2, 3, 4]
        queue.close()
        queue.join_thread()
        here.close()
        there.close()
        eventually(lambda: descriptors() <= before)

    def test_one_of_another_kind_of_processes_is_refused_by_name(self):
        lock = multiprocessing.get_context("fork").Lock()
        executor = ProcessPoolExecutor(1, initializer=tasks.inherit, initargs=(lock,))
        # Those of executors before this one may still be closing.
        before = descriptors()
        with pytest.raises(RuntimeError, match="fork"):
            executor.submit(tasks.pid)
        assert descriptors() <= before
        executor.shutdown()

    def test_connections_travel_as_arguments(self, pool):
        here, there = multiprocessing.get_context("spawn").Pipe()
        with here, there:
            pool.submit(tasks.send_through, there, "hello").result(LONG)
            assert here.poll(LONG)
            assert here.recv() == "hello"

    def test_shared_memory_outlives_a_worker_that_used_it(self, tmp_path):
        code = f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import process_tasks as tasks
            from multiprocessing import shared_memory
            from ferrule import ProcessPoolExecutor
            if __name__ == "__main__":
                with ProcessPoolExecutor(1, max_tasks_per_child=1) as executor:
                    memory = shared_memory.SharedMemory(create=True, size=10)
                    for value in (7, 8):
                        executor.submit(tasks.fill_shared, memory.name, value).result(60)
                again = shared_memory.SharedMemory(memory.name)
                print(memory.buf[0], again.buf[0])
                again.close()
                memory.close()
                memory.unlink()
        """
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(code), encoding="utf-8")
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=LONG, check=False)
        assert (done.stdout, done.returncode) == ("8 8\n", 0), done.stderr


class TestBounds:
    def test_beyond_max_pending_it_raises(self, tmp_path):
        gate = tmp_path / "gate"
        with ProcessPoolExecutor(1, max_pending=2, when_full="raise") as executor:
            running = executor.submit(wait_for_file, str(gate))
            eventually(running.running)
            eventually(lambda: fits(executor))
            with pytest.raises(ExecutorFull):  # noqa: PT012 - one of them is too many
                for _ in range(3):
                    executor.submit(tasks.square, 1)
            gate.write_text("", encoding="utf-8")
            assert running.result(LONG) == "gone"
            eventually(lambda: fits(executor))

    def test_or_waits(self):
        with ProcessPoolExecutor(1, max_pending=1) as executor:
            futures = [executor.submit(tasks.square, number) for number in range(100)]
            assert [future.result(LONG) for future in futures] == [number**2 for number in range(100)]

    def test_or_is_awaited(self):
        async def main(executor):
            futures = [await executor.submit_async(tasks.square, number) for number in range(50)]
            return [await asyncio.wrap_future(future) for future in futures]

        with ProcessPoolExecutor(1, max_pending=1) as executor:
            assert asyncio.run(main(executor)) == [number**2 for number in range(50)]
            assert asyncio.run(executor.options(priority=1).submit_async(tasks.square, 3)).result(LONG) == 9

    def test_cancelled_ones_make_room(self, tmp_path):
        gate = tmp_path / "gate"
        with ProcessPoolExecutor(1, max_pending=1, when_full="raise") as executor:
            running = executor.submit(wait_for_file, str(gate))
            eventually(running.running)
            for _ in range(5):
                future = executor.submit(tasks.square, 1)
                assert future.cancel()
                eventually(future.done)
            gate.write_text("", encoding="utf-8")

    def test_those_that_can_t_be_pickled_make_room(self):
        with ProcessPoolExecutor(1, max_pending=1) as executor:
            for _ in range(5):
                with pytest.raises(TypeError):
                    executor.submit(tasks.identity, tasks.Unpicklable()).result(LONG)

    def test_shutting_down_ends_the_wait_for_room(self, tmp_path):
        gate = tmp_path / "gate"
        executor = ProcessPoolExecutor(1, max_pending=1)
        executor.submit(wait_for_file, str(gate))
        seen = []

        def fill():
            try:
                while True:
                    executor.submit(tasks.square, 1)
            except ExecutorClosed as error:
                seen.append(error)

        thread = threading.Thread(target=fill)
        thread.start()
        eventually(lambda: executor.stats().pending == 1)
        executor.shutdown(wait=False)
        thread.join(LONG)
        gate.write_text("", encoding="utf-8")
        executor.shutdown()
        assert len(seen) == 1


def fits(executor):
    try:
        return executor.submit(tasks.square, 1).cancel() in {True, False}
    except ExecutorFull:
        return False


class TestCancelling:
    def test_what_waits_can_be_cancelled_and_what_runs_can_t(self, tmp_path):
        gate, path = tmp_path / "gate", tmp_path / "ran"
        with ProcessPoolExecutor(1) as executor:
            running = executor.submit(wait_for_file, str(gate))
            eventually(running.running)
            waiting = executor.submit(tasks.touch, str(path))
            assert not waiting.running()
            assert waiting.cancel()
            assert waiting.cancelled()
            assert not running.cancel()
            assert repr(running).endswith("state=running>")
            gate.write_text("", encoding="utf-8")
            assert running.result(LONG) == "gone"
        assert not path.exists()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result()
        assert concurrent.futures.wait([waiting], 1).done == {waiting}


class TestEnds:
    def test_all_is_done_at_the_end_of_the_block(self, tmp_path):
        path = tmp_path / "done"
        with ProcessPoolExecutor(2) as executor:
            for _ in range(50):
                executor.submit(tasks.touch, str(path))
            pids = executor.pids()
        assert len(path.read_text(encoding="utf-8").split()) == 50
        assert not any(is_alive(pid) for pid in pids)
        with pytest.raises(ExecutorClosed, match="after shutdown"):
            executor.submit(tasks.square, 1)
        with pytest.raises(RuntimeError):
            executor.map(tasks.square, [1])

    def test_on_exit_cancel(self):
        with ProcessPoolExecutor(1, on_exit="cancel") as executor:
            first = executor.submit(tasks.sleep, 0.5, "done")
            eventually(first.running)
            rest = [executor.submit(tasks.sleep, 600) for _ in range(5)]
        assert first.result() == "done"
        assert all(future.cancelled() for future in rest)

    def test_on_exit_kill(self):
        with ProcessPoolExecutor(1, on_exit="kill") as executor:
            first = executor.submit(tasks.sleep, 600)
            eventually(first.running)
            rest = [executor.submit(tasks.sleep, 600) for _ in range(5)]
        assert isinstance(first.exception(LONG), WorkerDied)
        assert all(future.cancelled() for future in rest)

    def test_an_exception_cancels_what_waits(self):
        with pytest.raises(KeyError), ProcessPoolExecutor(1) as executor:  # noqa: PT012
            first = executor.submit(tasks.sleep, 0.3, "done")
            eventually(first.running)
            rest = [executor.submit(tasks.sleep, 600) for _ in range(5)]
            raise KeyError
        assert first.result() == "done"
        assert all(future.cancelled() for future in rest)

    @pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
    def test_workers_can_be_ended(self, how):
        executor = ProcessPoolExecutor(2)
        futures = [executor.submit(tasks.sleep, 600) for _ in range(2)]
        for future in futures:
            eventually(future.running)
        getattr(executor, how)()
        assert all(isinstance(future.exception(LONG), WorkerDied) for future in futures)
        executor.shutdown()
        assert executor.pids() == []

    def test_shutdown_without_waiting(self):
        executor = ProcessPoolExecutor(1)
        future = executor.submit(tasks.sleep, 0.3, "done")
        executor.shutdown(wait=False)
        assert future.result(LONG) == "done"
        executor.shutdown()

    def test_one_that_was_never_used(self):
        with ProcessPoolExecutor(1):
            pass
        ProcessPoolExecutor(1).shutdown()

    def test_one_that_is_forgotten_finishes(self):
        future = ProcessPoolExecutor(1).submit(tasks.sleep, 0.2, "done")
        assert future.result(LONG) == "done"

    def test_nothing_is_left_of_it(self):
        def use():
            with ProcessPoolExecutor(2) as executor:
                for future in [executor.submit(tasks.die_if, number, 5) for number in range(10)]:
                    future.exception(LONG)

        use()
        before = descriptors()
        for _ in range(3):
            use()
        eventually(lambda: descriptors() <= before)

    def test_a_callback_can_t_wait_for_the_executor(self, caplog):
        executor = ProcessPoolExecutor(1)
        future = executor.submit(tasks.sleep, 0.2)
        future.add_done_callback(lambda _: executor.shutdown())
        future.result(LONG)
        eventually(lambda: "exception calling callback" in caplog.text)
        executor.shutdown()

"""What travels between processes: arrays through memory that is used again, and the results of `map`."""

import gc
import itertools
import threading
import time
import weakref
from pathlib import Path

import pytest

import process_tasks as tasks
from ferrule import ProcessPoolExecutor, WorkerDied
from ferrule import _processes as processes

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.timeout(60),
    pytest.mark.thread_unsafe(reason="counts descriptors and mappings"),
]

LONG = 45
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2) as executor:
        yield executor


def mappings():
    """How many pieces of shared memory this process has mapped."""
    lines = Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines()
    return sum("memfd:ferrule" in line for line in lines)


def descriptors():
    return len([entry.name for entry in Path("/proc/self/fd").iterdir()])


def add(array, number, seconds=0.0):
    array += number
    time.sleep(seconds)
    return array


def add_or_die(array, number):
    if number % 10 == 7:
        tasks.kill_self()
    return add(array, number)


def held_by_worker():
    return mappings()


class TestArrays:
    @pytest.mark.parametrize("size", [MEGABYTE // 8, MEGABYTE, 3 * MEGABYTE])
    def test_memory_is_used_again(self, size):
        numpy = pytest.importorskip("numpy")
        with ProcessPoolExecutor(1) as executor:
            array = numpy.zeros(size)
            for number in range(3):
                assert (executor.submit(add, array, number).result(LONG) == number).all()
            open_before, mapped_before = descriptors(), mappings()
            for number in range(30):
                assert (executor.submit(add, array, number).result(LONG) == number).all()
            assert (array == 0).all()
            # One more each way, where the other side was slow to say that it had copied what was in one.
            assert descriptors() <= open_before + 4
            assert mappings() <= mapped_before + 4
            # The outbox, and a segment or two each way.
            assert executor.submit(held_by_worker).result(LONG) <= 5

    def test_what_has_arrived_is_not_written_over(self, pool):
        numpy = pytest.importorskip("numpy")
        array = numpy.zeros(20_000)
        kept = [pool.submit(add, array, number).result(LONG) for number in range(100)]
        kept += [future.result(LONG) for future in [pool.submit(add, array, number) for number in range(100, 300)]]
        for number, result in enumerate(kept):
            assert result.flags.writeable
            assert (result == number).all()

    def test_many_sizes_at_once(self, pool):
        numpy = pytest.importorskip("numpy")
        sizes = [10, 9_000, 300_000, 40_000, 9_000, 1_000_000, 70_000, 150_000] * 6
        futures = [
            pool.submit(tasks.identity, [numpy.full(size, number), numpy.full(size // 2 + 1, -number)])
            for number, size in enumerate(sizes)
        ]
        for number, (size, future) in enumerate(zip(sizes, futures, strict=True)):
            first, second = future.result(LONG)
            assert (first.shape, second.shape) == ((size,), (size // 2 + 1,))
            assert (first == number).all()
            assert (second == -number).all()

    def test_what_is_too_large_for_that(self, pool):
        numpy = pytest.importorskip("numpy")
        array = numpy.ones(5 * MEGABYTE)
        before = mappings()
        result = pool.submit(add, array, 2).result(LONG)
        assert (result == 3).all()
        assert result.flags.writeable
        del result
        gc.collect()
        assert mappings() <= before + 3

    def test_with_a_memory_limit_none_is_kept(self):
        numpy = pytest.importorskip("numpy")
        with ProcessPoolExecutor(1, memory_limit=4 << 30) as executor:
            array = numpy.zeros(MEGABYTE)
            for number in range(5):
                assert (executor.submit(add, array, number).result(LONG) == number).all()
            # The outbox alone.
            assert executor.submit(held_by_worker).result(LONG) == 1

    def test_deaths_leave_others_as_they_were(self):
        numpy = pytest.importorskip("numpy")
        array, before = numpy.zeros(50_000), mappings()
        with ProcessPoolExecutor(2) as executor:
            futures = [executor.submit(add_or_die, array, number) for number in range(100)]
            for number, future in enumerate(futures):
                if number % 10 == 7:
                    with pytest.raises(WorkerDied):
                        future.result(LONG)
                else:
                    assert (future.result(LONG) == number).all()
        # What was shared with the workers goes with them, those that were killed, too.
        deadline = time.monotonic() + LONG
        while mappings() > before:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_tasks_that_were_given_to_another_worker(self):
        # Given out ahead, taken back from behind a long task, given out again: each arrives once and whole.
        numpy = pytest.importorskip("numpy")
        array = numpy.zeros(10_000)
        with ProcessPoolExecutor(2) as executor:
            for _ in range(50):
                executor.submit(tasks.square, 1).result(LONG)
            futures = [executor.submit(add, array, number, 0.1 if number % 20 == 3 else 0.0) for number in range(100)]
            for number, future in enumerate(futures):
                assert (future.result(LONG) == number).all()

    def test_in_threads_that_share_an_executor(self, pool):
        numpy = pytest.importorskip("numpy")
        wrong = []

        def use(number):
            array = numpy.zeros(30_000)
            for value in range(number, number + 15):
                result = pool.submit(add, array, value).result(LONG)
                wrong.extend(result[result != value])

        threads = [threading.Thread(target=use, args=(number * 100,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


class Callable:
    """Something to call that can't be hashed."""

    __hash__ = None

    def __call__(self, x):
        return x + 1


class Rude:
    """Something to call whose hash is code that fails."""

    def __hash__(self):
        raise OSError("not me")

    def __call__(self, x):
        return x + 2


class TestMap:
    def test_results_can_be_closed(self, pool):
        results = pool.map(tasks.square, range(1000))
        assert iter(results) is results
        assert [next(results), next(results)] == [0, 1]
        results.close()
        assert list(results) == []
        results.close()

    def test_what_waits_is_cancelled_when_they_are_dropped(self, tmp_path):
        path = tmp_path / "calls"
        with ProcessPoolExecutor(1) as executor:
            results = executor.map(tasks.touch_then, [str(path)] * 300, ["x"] * 300, [tasks.sleep] * 300, [0.05] * 300)
            next(results)
            del results
            gc.collect()
        assert len(path.read_text(encoding="utf-8").split()) < 300

    def test_each_result_is_let_go_as_it_is_taken(self, pool):
        results = pool.map(set, [[number] for number in range(100)], chunksize=50)
        taken = weakref.ref(next(results))
        gc.collect()
        assert taken() is None
        assert len(list(results)) == 99

    def test_several_threads_take_each_result_once(self, pool):
        results = pool.map(tasks.square, range(20_000))
        taken = [[] for _ in range(4)]

        def take(into):
            while True:
                try:
                    into.append(next(results))
                except StopIteration:
                    return
                except ValueError as error:
                    # Another thread is just fetching more.
                    assert "advanced already" in str(error)  # noqa: PT017 - it may or may not come

        threads = [threading.Thread(target=take, args=(into,)) for into in taken]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(into == sorted(into) for into in taken)
        assert sorted(itertools.chain(*taken)) == [number**2 for number in range(20_000)]

    @pytest.mark.parametrize(("function", "more"), [(Callable(), 1), (Rude(), 2)])
    def test_whatever_can_be_called(self, pool, function, more):
        for _ in range(2):
            assert list(pool.map(function, range(500))) == [number + more for number in range(500)]

    def test_a_function_is_not_kept(self):
        with ProcessPoolExecutor(1) as executor:

            def run():
                function = Callable()
                assert list(executor.map(function.__call__, range(10))) == list(range(1, 11))
                return weakref.ref(function)

            gone = run()
            # The last task's pickle may be held for a moment more.
            executor.submit(tasks.square, 1).result(LONG)
            gc.collect()
            assert gone() is None

    def test_batches_are_few_where_calls_are_short(self, monkeypatch):
        sizes, submit = [], processes._submit_batch

        def counted(*args, **kwargs):
            sizes.append(len(args[-1]))
            return submit(*args, **kwargs)

        monkeypatch.setattr(processes, "_submit_batch", counted)
        with ProcessPoolExecutor(2) as executor:
            assert list(executor.map(abs, range(100_000))) == list(range(100_000))
            assert sum(sizes) == 100_000
            # Whatever the machine is busy with: calls in thousands, not one by one.
            assert len(sizes) < 2000
            sizes.clear()
            assert list(executor.map(tasks.sleep, [0.1] * 8)) == [None] * 8
            assert sizes == [1] * 8

    def test_a_slow_call_behind_quick_ones(self, pool):
        numbers = [0.0] * 2000 + [0.2] + [0.0] * 2000
        assert list(pool.map(tasks.sleep, numbers, range(len(numbers)))) == list(range(len(numbers)))

    @pytest.mark.parametrize("buffersize", [1, 3, 100, 5000])
    def test_no_more_are_pulled_than_agreed(self, pool, buffersize):
        pulled = itertools.count()
        results = pool.map(tasks.square, pulled, buffersize=buffersize)
        for number in range(300):
            assert next(results) == number**2
        assert next(pulled) <= buffersize + 300 + 1
        results.close()

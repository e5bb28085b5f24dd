"""Pipelines at work: on threads, on executors and under event loops; what hangs elsewhere ends here."""

import asyncio
import gc
import io
import itertools
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor

import pytest

from draining import drained
from ferrule import Pipeline, RateLimiter, Retry, it
from ferrule import ThreadPoolExecutor as FerruleExecutor
from test_pipelines import InPlace, halved


def wait_until(condition, pause=0.01):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)


class TestParallel:
    @pytest.mark.parametrize("chunk", [1, 7, "auto"])
    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("workers", [1, 8])
    def test_results_are_those_of_map(self, workers, ordered, chunk):
        stages = Pipeline().map(lambda n: n * n, workers=workers, ordered=ordered, chunk=chunk)
        found = list(stages.run(range(3000)))
        assert (found if ordered else sorted(found)) == [n * n for n in range(3000)]

    @pytest.mark.parametrize("threads", [True, False])
    def test_few_items_are_pulled_ahead(self, threads):
        pulled = []

        def source():
            for number in itertools.count():
                pulled.append(number)
                yield number

        with ThreadPoolExecutor(3) as executor:
            options = {"workers": 3, "buffer": 5} if threads else {"executor": executor, "buffer": 5}
            run = Pipeline().map(abs, chunk=4, **options).run(source())
            for expected in range(50):
                assert next(run) == expected
                assert len(pulled) <= expected + 2 * 3 + 5 + 1
            run.close()

    def test_workers_work_at_the_same_time(self):
        together = threading.Barrier(3, timeout=60)
        assert list(Pipeline().map(lambda _: together.wait() >= 0, workers=3).run(range(3))) == [True] * 3

    @pytest.mark.thread_unsafe(reason="looks at all threads of the process")
    def test_threads_come_when_they_are_needed_and_end_with_the_run(self):
        def alive():
            return sum(thread.name.startswith("ferrule-mine") for thread in threading.enumerate())

        together = threading.Barrier(4, timeout=60)
        run = Pipeline().map(lambda _: together.wait() >= 0, workers=4, name="mine").run(itertools.count())
        assert alive() == 0
        assert [next(run), alive()] == [True, 4]
        run.close()
        together.abort()
        for result in Pipeline().map(abs, workers=4, name="mine").run(itertools.count()):
            assert result == 0
            break
        wait_until(lambda: not alive())

    def test_what_looked_cheap_and_is_not(self):
        together = threading.Barrier(3, timeout=60)

        def late(number):
            return number if number < 500 else together.wait() * 0 + number

        for ordered in (True, False):
            found = list(Pipeline().map(late, workers=3, ordered=ordered).run(range(530)))
            assert sorted(found) == list(range(530))

    def test_expressions_and_chunks_of_a_few(self):
        assert list(Pipeline().map(it * 2, workers=2, chunk=3).run([1, 2, 3, 4])) == [2, 4, 6, 8]

    @pytest.mark.parametrize("ordered", [True, False])
    def test_stages_in_a_row_stay_bounded(self, ordered):
        # pypeln 111: the first of two stages was drained at once.
        pulled = []

        def source():
            for number in itertools.count():
                pulled.append(number)
                yield number

        stage = {"workers": 2, "buffer": 1, "ordered": ordered}
        run = Pipeline().map(abs, **stage).map(abs, **stage).run(source())
        for _ in range(50):
            next(run)
        assert len(pulled) <= 50 + 2 * (2 * 2 + 1)
        run.close()

    @pytest.mark.thread_unsafe(reason="replaces threading.Thread.start")
    def test_a_thread_that_cannot_be_started_loses_nothing(self, monkeypatch):
        def refuse(_):
            raise RuntimeError("no more threads")

        run = Pipeline().map(abs, workers=2).run([1, 2, 3])
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            for _ in range(2):
                with pytest.raises(RuntimeError, match="no more threads"):
                    next(run)
        assert list(run) == [1, 2, 3]

    def test_a_run_that_is_kept_by_its_own_function_is_let_go(self):
        class Job:
            def work(self, item):
                return item

        job = Job()
        job.run = Pipeline().map(job.work, workers=2, name="kept").run(itertools.count())
        assert next(job.run) == 0
        gone = weakref.ref(job)
        del job

        def collected():
            gc.collect()
            return gone() is None

        wait_until(collected, pause=0.05)

    def test_closing_from_another_thread_ends_a_wait(self):
        begun, go_on = threading.Event(), threading.Event()

        def hang(_):
            begun.set()
            go_on.wait(60)

        run = Pipeline().map(hang, workers=2).run(itertools.count())
        ended = []
        consumer = threading.Thread(target=lambda: ended.append(next(run, "ended")))
        consumer.start()
        assert begun.wait(60)
        run.close()
        consumer.join(60)
        assert ended == ["ended"]
        assert next(run, None) is None
        with pytest.raises(ValueError, match="the run is closed"):
            run.state()
        go_on.set()

    def test_closing_from_another_thread_ends_a_stage_that_drops_everything(self):
        begun = threading.Event()
        run = Pipeline().filter(lambda _: begun.set()).run(itertools.count())
        consumer = threading.Thread(target=lambda: next(run, None))
        consumer.start()
        assert begun.wait(60)
        run.close()
        consumer.join(60)
        assert not consumer.is_alive()

    def test_ctrl_c_in_the_source_loses_nothing_and_does_not_wait(self):
        go_on = threading.Event()

        class Again:
            def __init__(self):
                self.items = iter([1, 2, KeyboardInterrupt(), 3])

            def __iter__(self):
                return self

            def __next__(self):
                item = next(self.items)
                if isinstance(item, BaseException):
                    raise item
                return item

        run = Pipeline().map(lambda item: go_on.wait(60) and item, workers=2, chunk=4).run(Again())
        with pytest.raises(KeyboardInterrupt):
            next(run)
        go_on.set()
        assert list(run) == [1, 2, 3]
        with ThreadPoolExecutor(1) as executor:
            run = Pipeline().map(abs, executor=executor, chunk=4).run(Again())
            with pytest.raises(KeyboardInterrupt):
                next(run)
            assert list(run) == [1, 2, 3]

    def test_retry_and_limit(self):
        tries = []

        def flaky(item):
            tries.append(item)
            if len(tries) == 1:
                raise OSError("once")
            return item

        limit = RateLimiter(1_000_000, burst=10)
        policy = Retry(on=OSError, delay=0.0)
        assert list(Pipeline().map(flaky, workers=2, retry=policy, limit=limit).run([1, 2])) == [1, 2]
        assert len(tries) == 3


class OneThreadEach(Executor):
    """Starts a thread for each task."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        thread = threading.Thread(target=lambda: future.set_result(fn(*args, **kwargs)))
        thread.start()
        return future


EXECUTORS = [lambda: ThreadPoolExecutor(3), lambda: FerruleExecutor(3), InPlace, OneThreadEach]


class TestExecutors:
    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("chunk", [1, 3, "auto"])
    @pytest.mark.parametrize("make", EXECUTORS)
    def test_any_executor_will_do(self, make, ordered, chunk):
        with make() as executor:
            stages = Pipeline().map(halved, executor=executor, ordered=ordered, chunk=chunk)
            found, errors = drained(stages.run([1, 0, 5, 10]))
            assert sorted(found) == [1, 2, 10]
            assert errors[0].__notes__ == ["in stage halved, item 1: 0"]
            many = list(Pipeline().map(abs, executor=executor, ordered=ordered, chunk=chunk).run(range(200)))
            assert (many if ordered else sorted(many)) == list(range(200))
            assert executor.submit(abs, -1).result() == 1

    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("on_error", ["raise", "skip"])
    def test_one_that_is_shut_down_meanwhile_is_no_way_to_lose_items(self, ordered, on_error):
        executor = ThreadPoolExecutor(2)
        pulled = []

        def source():
            for number in itertools.count():
                pulled.append(number)
                yield number

        run = Pipeline().map(abs, executor=executor, buffer=3, ordered=ordered).run(source(), on_error=on_error)
        found = [next(run) for _ in range(5)]
        executor.shutdown(cancel_futures=True)
        named = []
        refused = 0
        while refused < 3:
            try:
                found.append(next(run))
            except RuntimeError as error:
                refused += 1
                named.append(error.__notes__[-1])
            except CancelledError as error:
                named.append(error.__notes__[-1])
        items = [int(note.rpartition(" ")[2]) for note in named]
        if on_error == "raise":
            assert len(found) + len(items) >= len(pulled) - 7
            assert sorted(found + items) == list(range(len(found) + len(items)))
        run.close()

    def test_a_run_that_is_dropped_cancels_what_has_not_begun(self):
        permits, worked = threading.Semaphore(1), []

        def work(item):
            permits.acquire(timeout=60)
            worked.append(item)
            return item

        with ThreadPoolExecutor(1) as executor:
            run = Pipeline().map(work, executor=executor, buffer=50).run(range(100))
            assert next(run) == 0
            del run
            gc.collect()
            permits.release(1000)
        assert len(worked) <= 2

    def test_system_exit_in_an_executor_s_thread_is_named(self):
        with ThreadPoolExecutor(1) as executor:
            run = Pipeline().map(sys.exit, executor=executor).run([3], on_error="skip")
            with pytest.raises(SystemExit) as caught:
                next(run)
        assert caught.value.__notes__ == ["in stage exit, item 0: 3"]

    @pytest.mark.subprocess
    def test_processes(self, python, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(PROCESSES), "utf-8")
        code = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
        done = python(code, timeout=110)
        assert done.stdout == "done\n", done.stderr
        assert done.stderr == ""


PROCESSES = """
    import sys
    sys.path.insert(0, sys.path[0])
    import os
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    from ferrule import Pipeline, Retry, it
    from ferrule._compare.pipelines import square

    if __name__ == "__main__":
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
            for ordered in (True, False):
                stages = Pipeline().map(square, executor=executor, chunk=2, ordered=ordered).filter(it > 1)
                assert sorted(stages.run(range(5))) == [4, 9, 16]
            # An expression goes to another process, and so does a retried function.
            assert list(Pipeline().map(it + 1, executor=executor).run([1])) == [2]
            retried = Pipeline().map(square, executor=executor, retry=Retry(on=OSError, delay=0.0))
            assert list(retried.run([3])) == [9]

            # Errors come with their traceback, and those that can't be put together again don't break the pool.
            try:
                list(Pipeline().map(int, executor=executor).run(["x"]))
            except ValueError as error:
                assert "raised in another process" in error.__notes__[0], error.__notes__
                assert error.__notes__[1] == "in stage int, item 0: 'x'"
            try:
                list(Pipeline().map(bytes.decode, executor=executor).run([b"\\xff", 3]))
            except UnicodeDecodeError as error:
                assert error.__notes__[-1].startswith("in stage bytes.decode, item 0")

            # What can't be sent is named.
            try:
                list(Pipeline().map(lambda n: n, executor=executor).run([7]))
            except Exception as error:
                assert error.__notes__[-1].endswith("item 0: 7"), error.__notes__

            # pypeln 110: a failure while few items are let in.
            try:
                list(Pipeline().map(it % (it - 10), executor=executor, buffer=0).run(range(100)))
            except ZeroDivisionError:
                pass

            # A dead worker is named with its items.
            run = Pipeline().map(os._exit, executor=executor).run([3, 4])
            named = []
            for _ in range(2):
                try:
                    next(run)
                except Exception as error:
                    named.append((type(error).__name__, error.__notes__[-1]))
            assert named == [
                ("BrokenProcessPool", "in stage _exit, item 0: 3"),
                ("BrokenProcessPool", "in stage _exit, item 1: 4"),
            ], named
            assert next(run, None) is None
        print("done")
    """


class TestAsync:
    def test_sources_of_both_kinds(self):
        async def numbers():
            for number in range(300):
                yield number

        async def doubled(number):
            await asyncio.sleep(0)
            return 2 * number

        async def main():
            stages = Pipeline().map(doubled, workers=4).filter(it % 3 == 0)
            expected = [2 * number for number in range(300) if number % 3 == 0]
            assert [item async for item in stages.run_async(numbers())] == expected
            assert [item async for item in stages.run_async(range(300))] == expected
            assert [line async for line in Pipeline().lines().run_async(io.BytesIO(b"a\nb"))] == ["a", "b"]
            async for item in Pipeline().run_async(itertools.count()):
                if item == 100:
                    break

        asyncio.run(asyncio.wait_for(main(), 60))
        with pytest.raises(TypeError, match="use run_async"):
            Pipeline().map(doubled).run([])

    def test_errors_of_a_producer_reach_the_consumer(self):
        async def failing():
            yield 1
            raise ValueError("enough")

        async def main():
            run = aiter(Pipeline().run_async(failing()))
            assert await anext(run) == 1
            with pytest.raises(ValueError, match="enough"):
                await anext(run)

        asyncio.run(main())

    def test_errors_are_collected(self):
        async def main():
            run = Pipeline().map(halved).run_async([1, 0], on_error="collect")
            assert [item async for item in run] == [10]
            return run.errors

        assert [error.index for error in asyncio.run(main())] == [1]

    def test_cancelling_ends_it(self):
        async def never(_):
            await asyncio.sleep(3600)

        async def main():
            async def consume():
                async for _ in Pipeline().map(never, workers=3).run_async(range(10)):
                    pass

            task = asyncio.create_task(consume())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(asyncio.wait_for(main(), 30))

    def test_an_error_does_not_end_it(self):
        async def main():
            run = Pipeline().map(halved).run_async([1, 0, 5])
            assert await anext(run) == 10
            with pytest.raises(ZeroDivisionError) as caught:
                await anext(run)
            assert caught.value.__notes__ == ["in stage halved, item 1: 0"]
            assert [item async for item in run] == [2]

        asyncio.run(main())

    def test_a_task_that_is_cancelled_while_it_waits_loses_nothing(self):
        async def main():
            go_on = asyncio.Event()

            async def source():
                for number in range(5):
                    await go_on.wait()
                    yield number

            run = Pipeline().run_async(source())
            for _ in range(3):
                task = asyncio.create_task(anext(run))
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            go_on.set()
            assert [item async for item in run] == list(range(5))

        asyncio.run(asyncio.wait_for(main(), 60))

    def test_two_tasks_cannot_wait_for_one_run(self):
        async def main():
            go_on = asyncio.Event()

            async def wait(_):
                await go_on.wait()

            async with Pipeline().map(wait).run_async([1]) as run:
                first = asyncio.create_task(anext(run))
                await asyncio.sleep(0.01)
                with pytest.raises(RuntimeError, match="another task waits"):
                    await anext(run)
                go_on.set()
                assert await first is None

        asyncio.run(asyncio.wait_for(main(), 60))

    def test_an_asynchronous_source_is_not_read_far_ahead_and_closed_with_the_run(self):
        pulled, ended = [], []

        async def source():
            try:
                for number in itertools.count():
                    pulled.append(number)
                    yield number
                    await asyncio.sleep(0)
            finally:
                ended.append(True)

        async def main():
            async with Pipeline().run_async(source(), buffer=5) as run:
                assert await anext(run) == 0
                await asyncio.sleep(0.05)
                assert len(pulled) <= 5 + 5 + 1
            for _ in range(1000):
                if ended:
                    break
                await asyncio.sleep(0.01)
            assert ended
            assert [item async for item in run] == []

        asyncio.run(asyncio.wait_for(main(), 60))

    def test_a_source_that_cancels_itself_is_told(self):
        async def source():
            yield 1
            raise asyncio.CancelledError("by itself")

        async def main():
            run = Pipeline().run_async(source())
            assert await anext(run) == 1
            with pytest.raises(asyncio.CancelledError, match="by itself"):
                await anext(run)

        asyncio.run(asyncio.wait_for(main(), 60))

    @pytest.mark.parametrize("count", [4, 10, 1000])
    def test_failures_are_told_however_many_items_there_are(self, count):
        # pypeln 119: told for 4 items, swallowed for 10.
        async def compute(number):
            if number == 3:
                raise ValueError("not 3")
            return number * number

        async def main():
            found = []
            run = Pipeline().map(compute, workers=4).run_async(range(count))
            try:
                async for item in run:
                    found.append(item)  # noqa: PERF401 - those before the error
            except ValueError as error:
                assert error.__notes__[-1].endswith("item 3: 3")  # noqa: PT017 - what follows wants to know, too
                found.append("told")
            assert found == [0, 1, 4, "told"]
            assert len([item async for item in run]) == count - 4

        asyncio.run(asyncio.wait_for(main(), 60))

    def test_coroutines_and_threads_take_turns(self):
        # pypeln 118: coroutine stages mixed with thread stages came to a stop.
        async def later(number):
            await asyncio.sleep(0)
            return number + 1

        async def main():
            small = {"workers": 3, "buffer": 1}
            stages = Pipeline().map(later, **small).map(it * 2, **small).map(later, **small).map(abs, **small)
            return [item async for item in stages.run_async(range(200))]

        assert asyncio.run(asyncio.wait_for(main(), 100)) == [2 * (number + 1) + 1 for number in range(200)]


HANGS = {
    "a failure in a later stage": """
        try:
            list(Pipeline().map(abs, workers=4).map(lambda n: 1 // (n - 50), workers=4).run(itertools.count()))
        except ZeroDivisionError:
            print("done")
    """,
    "an early break": """
        for n in Pipeline().map(abs, workers=4).map(abs, workers=4).run(itertools.count()):
            if n > 100:
                break
        print("done")
    """,
    "a run that is left at the end of the program": """
        run = Pipeline().map(abs, workers=4).run(itertools.count())
        next(run)
        print("done")
    """,
    "Ctrl-C while workers work": """
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            list(Pipeline().map(lambda n: time.sleep(3600), workers=4).run(range(100)))
        except KeyboardInterrupt:
            print("done")
    """,
    "a worker's thread that ends": """
        try:
            list(Pipeline().map(lambda n: sys.exit(3), workers=2).run(range(100)))
        except SystemExit:
            print("done")
    """,
    "an asynchronous run that is left": """
        async def main():
            async for n in Pipeline().map(abs, workers=4).run_async(itertools.count()):
                if n > 100:
                    return
        asyncio.run(main())
        print("done")
    """,
    "Ctrl-C while the source is waited for": """
        def source():
            yield 1
            time.sleep(3600)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        run = Pipeline().map(lambda n: time.sleep(3600), workers=2).run(source())
        try:
            next(run)
        except KeyboardInterrupt:
            print("done")
    """,
    "Ctrl-C while a coroutine is waited for": """
        async def never(n):
            await asyncio.sleep(3600)
        async def main():
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            async for n in Pipeline().map(never, workers=3).run_async(itertools.count()):
                pass
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("done")
    """,
    "a failure while few items are let in (pypeln 110)": """
        def proc(n):
            assert n != 10
        try:
            list(Pipeline().map(proc, workers=4, buffer=0).run(list(range(100))))
        except AssertionError:
            print("done")
    """,
    "a consumer that raises what a stage has swallowed (pypeln 113)": """
        def swallowing(n):
            try:
                return 1 // (n % 3)
            except ZeroDivisionError:
                return None
        try:
            for n in Pipeline().map(swallowing, workers=8).run(range(1000)):
                if n is None:
                    raise ValueError("a page is missing")
        except ValueError:
            print("done")
    """,
    "a source that fails behind two stages": """
        def source():
            yield from range(50)
            raise OSError
        try:
            list(Pipeline().map(abs, workers=4).map(abs, workers=4, ordered=False).run(source()))
        except OSError:
            print("done")
    """,
    "a consumer that stops for good": """
        run = Pipeline().map(abs, workers=4).map(abs, workers=2, ordered=False).batch(3).run(itertools.count())
        next(run)
        held = next(iter(run))
        print("done")
    """,
    "the end of the program while workers compute": """
        def busy(n):
            while True:
                pass
        run = Pipeline().map(busy, workers=2).run(itertools.count())
        threading.Thread(target=next, args=(run,), daemon=True).start()
        time.sleep(0.2)
        print("done")
    """,
    "an executor that is shut down meanwhile": """
        from concurrent.futures import CancelledError, ThreadPoolExecutor
        executor = ThreadPoolExecutor(2)
        run = Pipeline().map(abs, executor=executor, ordered=False).run(itertools.count())
        next(run)
        executor.shutdown(cancel_futures=True)
        try:
            while True:
                try:
                    next(run)
                except CancelledError:
                    pass
        except RuntimeError:
            print("done")
    """,
    "a run that another thread closes": """
        run = Pipeline().map(lambda n: time.sleep(3600), workers=2).run(itertools.count())
        threading.Timer(0.3, run.close).start()
        assert next(run, None) is None
        print("done")
    """,
    "an asynchronous run that a closed loop leaves": """
        async def source():
            while True:
                yield 1
                await asyncio.sleep(0)
        async def double(n):
            return 2 * n
        kept = Pipeline().map(double, workers=2).run_async(source())
        async def main():
            assert await anext(kept) == 2
        asyncio.run(main())
        print("done")
    """,
    "a run in a forked child": """
        import warnings
        warnings.simplefilter("ignore")
        run = Pipeline().map(lambda n: time.sleep(0.01), workers=2).run(itertools.count())
        next(run)
        child = os.fork()
        if not child:
            try:
                while True:
                    next(run)
            except RuntimeError:
                assert list(Pipeline().map(abs, workers=2).run(range(5))) == [0, 1, 2, 3, 4]
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        run.close()
        print("done")
    """,
}


@pytest.mark.subprocess
@pytest.mark.parametrize("what", HANGS)
def test_nothing_hangs(python, what):
    head = "import asyncio, itertools, os, signal, sys, threading, time\nfrom ferrule import Pipeline\n"
    done = python(head + textwrap.dedent(HANGS[what]), timeout=60)
    assert done.stdout == "done\n", done.stderr
    assert done.stderr == ""

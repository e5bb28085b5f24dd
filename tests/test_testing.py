"""`ferrule.testing`: the clock that a test turns, as a block and as a pytest fixture."""

import asyncio
import contextlib
import datetime as dt
import math
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import ferrule.testing
from ferrule import Timer
from ferrule._core import Line, coarse_ns, precise_ns
from ferrule._waiting import get_async
from ferrule.testing import ManualClock, manual_clock

SECOND = 1_000_000_000
# Nothing here takes that long, unless something hangs.
LIMIT = 30

pytestmark = pytest.mark.thread_unsafe(reason="turns the clock that the whole process goes by")


def until(condition, what):
    """Wait until a condition holds that another thread brings about."""
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {LIMIT} s: {what}")
        time.sleep(0.001)


async def until_waiting(line, count):
    """Let the loop's tasks run until so many stand in the line."""
    while line.waiting < count:  # noqa: ASYNC110 - the line has no event for that
        await asyncio.sleep(0)


class Waiting:
    """A thread that waits in a line."""

    def __init__(self, line, run=Line.get, **options):
        self.outcome = None
        already = line.waiting
        self.thread = threading.Thread(target=self.run, args=(run, line, options), daemon=True)
        self.thread.start()
        until(lambda: line.waiting > already or self.outcome, "the thread stands in the line")

    def run(self, run, line, options):
        try:
            self.outcome = run(line, **options)
        except BaseException as error:  # noqa: BLE001 - whatever it was, the test wants to see it
            self.outcome = error

    def end(self):
        self.thread.join(LIMIT)
        assert not self.thread.is_alive(), "the thread still waits"
        return self.outcome

    def still_waits(self):
        """Whether it goes on waiting, though it was given the time to do otherwise."""
        self.thread.join(0.1)
        return self.thread.is_alive()


class TestTheBlock:
    def test_measures_what_the_test_says(self):
        with manual_clock() as clock, Timer() as timer:
            clock.advance(30)
        assert timer.elapsed == 30.0

    @pytest.mark.parametrize("step", [30, 30.0, dt.timedelta(seconds=30)], ids=repr)
    def test_is_turned_by_seconds_or_a_timedelta(self, step):
        with manual_clock() as clock:
            start = clock.time()
            clock.advance(step)
            assert clock.time() - start == pytest.approx(30)
            clock.advance(0)
            assert clock.time() - start == pytest.approx(30)

    @pytest.mark.parametrize(
        ("step", "error", "message"),
        [
            (-1, ValueError, "seconds must be a number of seconds that is not negative, got -1"),
            (-1e-9, ValueError, "seconds must be a number of seconds that is not negative, got -1e-09"),
            (math.nan, ValueError, "seconds must be a number of seconds that is not negative, got nan"),
            (dt.timedelta(seconds=-1), ValueError, "seconds must be a timedelta that is not negative, got"),
            (math.inf, ValueError, "seconds must be less than 584 years, got inf"),
            (1e300, ValueError, "seconds must be less than 584 years, got 1e\\+300"),
            (10**400, ValueError, "seconds must be less than 584 years, got 1000"),
            (dt.timedelta.max, ValueError, "seconds must be less than 584 years, got"),
            (True, TypeError, "seconds must be seconds \\(int or float\\) or a timedelta, not bool: True"),
            ("1", TypeError, "seconds must be seconds \\(int or float\\) or a timedelta, not str: '1'"),
            (None, TypeError, "seconds must be seconds \\(int or float\\) or a timedelta, not NoneType: None"),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_is_turned_by_nothing_else(self, step, error, message):
        with manual_clock() as clock:
            start = precise_ns()
            with pytest.raises(error, match=f"^{message}"):
                clock.advance(step)
            assert precise_ns() == start, "an error does not turn it"

    def test_does_not_nest_and_the_outer_one_goes_on(self):
        with manual_clock() as clock:
            start = precise_ns()
            with pytest.raises(RuntimeError, match="a manual clock is in use already; turn that one"), manual_clock():
                pytest.fail("there can't be two")
            clock.advance(5)
            assert precise_ns() - start == 5 * SECOND
        with manual_clock():
            pass

    def test_an_exception_restores_the_real_clocks(self):
        before = precise_ns()
        with contextlib.suppress(ZeroDivisionError), manual_clock() as clock:
            clock.advance(1_000_000)
            raise ZeroDivisionError
        now = precise_ns()
        assert before <= now < before + 60 * SECOND
        time.sleep(0.001)
        assert precise_ns() > now

    def test_after_the_block_it_can_not_be_turned(self):
        with manual_clock() as clock:
            pass
        with pytest.raises(RuntimeError, match="the manual clock is not in use: enter its `with` block first"):
            clock.advance(1)

    def test_all_threads_go_by_it(self):
        seen = []
        with manual_clock() as clock:
            turned, looked = threading.Event(), threading.Event()

            def look():
                seen.append((precise_ns(), coarse_ns()))
                looked.set()
                assert turned.wait(LIMIT)
                seen.append((precise_ns(), coarse_ns()))

            thread = threading.Thread(target=look)
            thread.start()
            assert looked.wait(LIMIT)
            clock.advance(7)
            turned.set()
            thread.join(LIMIT)
        (first, first_coarse), (second, second_coarse) = seen
        assert first == first_coarse
        assert second == second_coarse == first + 7 * SECOND

    def test_the_standard_librarys_clocks_go_on(self):
        with manual_clock():
            start = time.monotonic()
            until(lambda: time.monotonic() > start, "the standard clock goes on")


class TestWaits:
    def test_end_when_their_time_has_come_and_not_before(self):
        line = Line()
        with manual_clock() as clock:
            waiting = {seconds: Waiting(line, timeout=seconds) for seconds in (10, 20, 30)}
            clock.advance(9.999)
            assert all(each.still_waits() for each in waiting.values())
            clock.advance(0.001)
            assert isinstance(waiting[10].end(), TimeoutError)
            assert waiting[20].still_waits()
            clock.advance(10)
            assert isinstance(waiting[20].end(), TimeoutError)
            assert waiting[30].still_waits()
            line.put("in time")
            assert waiting[30].end() == "in time"
        assert line.waiting == 0

    def test_without_a_deadline_do_not_end(self):
        line = Line()
        with manual_clock() as clock:
            waiting = Waiting(line)
            clock.advance(1e9)
            assert waiting.still_waits()
            line.put(1)
            assert waiting.end() == 1

    def test_of_tasks_end_when_their_time_has_come_and_not_before(self):
        line = Line()

        async def main():
            tasks = {seconds: asyncio.create_task(get_async(line, timeout=seconds)) for seconds in (10, 20, 30)}
            await until_waiting(line, 3)
            clock.advance(9.999)
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in tasks.values())
            clock.advance(0.001)
            done, waiting = await asyncio.wait(tasks.values(), timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
            assert done == {tasks[10]}
            with pytest.raises(TimeoutError, match="nothing came within 10 s"):
                await tasks[10]
            clock.advance(10)
            done, waiting = await asyncio.wait(waiting, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
            assert done == {tasks[20]}
            with pytest.raises(TimeoutError, match="nothing came within 20 s"):
                await tasks[20]
            line.put("in time")
            assert await asyncio.wait_for(tasks[30], LIMIT) == "in time"

        with manual_clock() as clock:
            asyncio.run(main())
        assert line.waiting == 0

    def test_of_tasks_hear_a_clock_that_another_thread_turns(self):
        line = Line()

        async def main():
            with pytest.raises(TimeoutError):
                await get_async(line, timeout=3600)

        with manual_clock() as clock:
            thread = threading.Thread(target=lambda: asyncio.run(main()))
            thread.start()
            until(lambda: line.waiting, "the task stands in the line")
            clock.advance(3600)
            thread.join(LIMIT)
            assert not thread.is_alive()

    def test_that_began_under_the_real_clock_go_by_the_manual_one(self):
        line = Line()
        waiting = Waiting(line, timeout=3600)
        with manual_clock() as clock:
            clock.advance(3000)
            assert waiting.still_waits()
            clock.advance(600)
            assert isinstance(waiting.end(), TimeoutError)

    @pytest.mark.parametrize("waiter", ["thread", "task"])
    def test_that_began_under_the_real_clock_stand_still_with_the_manual_one(self, waiter):
        def run(line, timeout):
            return asyncio.run(get_async(line, timeout=timeout)) if waiter == "task" else line.get(timeout=timeout)

        # On a busy machine the time may be over before the clock is stopped: then once more, with more time.
        for timeout in (0.2, 1.0, 5.0, 20.0):
            line, began = Line(), time.monotonic()
            waiting = Waiting(line, run=run, timeout=timeout)
            with manual_clock() as clock:
                if time.monotonic() - began > timeout / 2:
                    continue
                waiting.thread.join(timeout + 0.1)
                assert waiting.outcome is None, "its time went by, but the clock stands still"
                clock.advance(timeout)
                assert isinstance(waiting.end(), TimeoutError)
                return
        pytest.fail("the machine is too busy")

    def test_that_outlive_the_manual_clock_go_by_the_real_one(self):
        line = Line()
        with manual_clock():
            short, long = Waiting(line, timeout=0.2), Waiting(line, timeout=3600)
            assert short.still_waits()
        assert isinstance(short.end(), TimeoutError)
        assert long.still_waits()
        line.put(1)
        assert long.end() == 1

    def test_of_tasks_that_outlive_the_manual_clock_go_by_the_real_one(self):
        line = Line()

        async def main():
            with manual_clock() as clock:
                short = asyncio.create_task(get_async(line, timeout=0.2))
                long = asyncio.create_task(get_async(line, timeout=3600))
                await until_waiting(line, 2)
                clock.advance(0.1)
                await asyncio.sleep(0.3)
                assert not short.done()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(short, LIMIT)
            assert not long.done()
            line.put(1)
            assert await asyncio.wait_for(long, LIMIT) == 1

        asyncio.run(main())

    def test_leave_nothing_behind(self):
        line = Line()

        async def main():
            for _ in range(100):
                with pytest.raises(TimeoutError):
                    await get_async(line, timeout=1e-6)

        asyncio.run(main())
        for _ in range(100):
            with pytest.raises(TimeoutError):
                line.get(timeout=1e-6)
        with manual_clock() as clock:
            clock.advance(10)


def run_pytest(folder, source, *options):
    """Run pytest in a fresh interpreter on a file that holds `source`."""
    path = folder / "test_of_a_user.py"
    path.write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(path)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.subprocess
class TestTheFixture:
    def test_is_found_without_an_import(self, tmp_path):
        done = run_pytest(
            tmp_path,
            """
            def test_tea(manual_clock):
                from ferrule import Timer

                with Timer() as timer:
                    manual_clock.advance(180)
                assert timer.elapsed == 180.0


            def test_the_real_clocks_are_back():
                from ferrule import Timer

                with Timer() as timer:
                    pass
                assert 0 < timer.elapsed < 60
            """,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 passed" in done.stdout

    def test_is_listed_with_what_it_does(self, tmp_path):
        done = run_pytest(tmp_path, "", "--fixtures")
        assert "manual_clock" in done.stdout
        assert "A clock of ferrule's that the test turns by hand" in done.stdout

    def test_restores_the_clocks_after_a_test_that_fails(self, tmp_path):
        done = run_pytest(
            tmp_path,
            """
            import pytest

            from ferrule.testing import manual_clock as block


            @pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
            def test_fails(manual_clock):
                raise ZeroDivisionError


            def test_is_free_again():
                with block() as clock:
                    clock.advance(1)
            """,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed, 1 xfailed" in done.stdout

    def test_can_be_switched_off(self, tmp_path):
        done = run_pytest(tmp_path, "def test_tea(manual_clock): pass", "-p", "no:ferrule")
        assert done.returncode == 1
        assert "fixture 'manual_clock' not found" in done.stdout

    def test_loads_neither_asyncio_nor_the_timing_room(self, tmp_path):
        done = run_pytest(
            tmp_path,
            """
            import sys


            def test_modules():
                assert "ferrule.testing" in sys.modules
                assert "ferrule.timing" not in sys.modules
            """,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_in_this_run(self, manual_clock):
        assert isinstance(manual_clock, ManualClock)
        start = precise_ns()
        manual_clock.advance(1)
        assert precise_ns() == start + SECOND


def test_the_module_says_what_it_has():
    assert set(ferrule.testing.__all__) == {"ManualClock", "manual_clock", "no_sleep"}

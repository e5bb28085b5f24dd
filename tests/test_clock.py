"""The clocks: two that go by themselves, one that a test turns, and what counts as a number of seconds."""

import datetime as dt
import decimal
import fractions
import itertools
import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule._core import ManualClock, coarse_ns, precise_ns, seconds_from

MILLISECOND = 1_000_000
SECOND = 1_000_000_000
# The longest time that the clocks can count, in seconds.
END_OF_TIME = 2**64 / SECOND

turns_the_clock = pytest.mark.thread_unsafe(reason="turns the clock that the whole process goes by")


def bracketed(read):
    """Read a clock between two readings of the standard one."""
    before = time.monotonic_ns()
    reading = read()
    return before, reading, time.monotonic_ns()


class TestRealClocks:
    @pytest.mark.parametrize(("read", "slack"), [(precise_ns, MILLISECOND), (coarse_ns, 50 * MILLISECOND)])
    def test_go_at_the_pace_of_the_standard_clock(self, read, slack):
        first_before, first, first_after = bracketed(read)
        time.sleep(0.2)
        last_before, last, last_after = bracketed(read)
        # However long the machine kept this thread from running, the truth lies between these two.
        shortest, longest = last_before - first_after, last_after - first_before
        slack += longest // 1000
        assert shortest - slack <= last - first <= longest + slack

    @pytest.mark.parametrize("read", [precise_ns, coarse_ns])
    def test_never_go_back(self, read):
        readings = [read() for _ in range(20_000)]
        assert all(type(reading) is int and reading >= 0 for reading in readings)
        assert readings == sorted(readings)

    def test_never_go_back_between_threads(self):
        latest = [precise_ns()]
        lock = threading.Lock()
        steps_back = []

        def watch():
            for _ in range(5_000):
                with lock:
                    reading = precise_ns()
                    if reading < latest[0]:
                        steps_back.append(latest[0] - reading)
                    latest[0] = reading

        threads = [threading.Thread(target=watch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        # The cores' counters are read without a barrier: what is allowed is less than a reading through Python takes.
        assert max(steps_back, default=0) < 1_000

    def test_precise_is_finer_than_a_microsecond(self):
        readings = [precise_ns() for _ in range(20_000)]
        steps = [later - earlier for earlier, later in itertools.pairwise(readings) if later > earlier]
        assert min(steps) < 1_000

    def test_coarse_stands_still_between_ticks(self):
        assert len({coarse_ns() for _ in range(20_000)}) < 10_000


class TestSeconds:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (0, 0.0),
            (-0.0, 0.0),
            (3, 3.0),
            (0.25, 0.25),
            (1e-9, 1e-9),
            (4e-10, 0.0),
            (6e-10, 1e-9),
            (dt.timedelta(milliseconds=1500), 1.5),
            (dt.timedelta(0), 0.0),
            (fractions.Fraction(1, 4), 0.25),
            (decimal.Decimal("0.5"), 0.5),
        ],
        ids=repr,
    )
    def test_are_a_number_or_a_timedelta(self, value, seconds):
        assert seconds_from("delay", value) == seconds

    @pytest.mark.parametrize(
        "value", [END_OF_TIME, 1e300, math.inf, 10**400, dt.timedelta.max], ids=lambda value: str(value)[:20]
    )
    def test_beyond_the_end_of_time_are_for_ever(self, value):
        assert seconds_from("delay", value) == math.inf

    @pytest.mark.parametrize("value", [-1, -1e-9, math.nan, -math.inf, -(10**400), dt.timedelta(-1)])
    def test_are_not_negative(self, value):
        with pytest.raises(
            ValueError, match=r"^delay must be a (number of seconds|timedelta) that is not negative, got"
        ):
            seconds_from("delay", value)

    @pytest.mark.parametrize("value", ["1", b"1", None, True, False, [1], 1j, object], ids=repr)
    def test_are_nothing_else(self, value):
        class_name = type(value).__name__
        with pytest.raises(
            TypeError, match=rf"^delay must be seconds \(int or float\) or a timedelta, not {class_name}"
        ):
            seconds_from("delay", value)

    def test_an_error_of_the_value_comes_out_as_it_is(self):
        class Odd:
            def __float__(self):
                raise LookupError("no float today")

        with pytest.raises(LookupError, match="no float today"):
            seconds_from("delay", Odd())

    @given(st.floats(min_value=0, max_value=1e9))
    def test_are_kept_to_the_nanosecond(self, value):
        assert seconds_from("delay", value) == pytest.approx(value, rel=1e-15, abs=0.5e-9)

    @given(st.timedeltas(min_value=dt.timedelta(0), max_value=dt.timedelta(days=50_000)))
    def test_of_a_timedelta_are_exact(self, value):
        assert seconds_from("delay", value) == pytest.approx(value.total_seconds(), rel=1e-15)


@turns_the_clock
class TestManualClock:
    @pytest.fixture
    def clock(self):
        clock = ManualClock()
        clock.start()
        yield clock
        clock.stop()

    def test_stands_still_until_it_is_turned(self, clock):
        start = precise_ns()
        time.sleep(0.02)
        assert precise_ns() == coarse_ns() == start
        clock.advance(0.5)
        assert precise_ns() == coarse_ns() == start + SECOND // 2

    def test_starts_at_the_real_time(self):
        before = precise_ns()
        clock = ManualClock()
        clock.start()
        try:
            assert before <= precise_ns() < before + 60 * SECOND
            assert clock.time() == pytest.approx(precise_ns() / SECOND)
        finally:
            clock.stop()

    def test_gives_the_real_clocks_their_place_back(self):
        before = precise_ns()
        clock = ManualClock()
        clock.start()
        clock.advance(3600)
        clock.stop()
        assert before <= precise_ns() < before + 60 * SECOND
        assert abs(precise_ns() - coarse_ns()) < 60 * SECOND

    def test_there_is_one_at_a_time(self, clock):
        other = ManualClock()
        with pytest.raises(RuntimeError, match="a manual clock is in use already"):
            other.start()
        with pytest.raises(RuntimeError, match="in use already"):
            clock.start()
        other.stop()
        start = precise_ns()
        clock.advance(1)
        assert precise_ns() == start + SECOND

    def test_turns_only_while_it_is_in_use(self, clock):
        other = ManualClock()
        for each in (other, clock):
            if each is clock:
                clock.stop()
            with pytest.raises(RuntimeError, match="is not in use"):
                each.advance(1)

    def test_can_be_used_again(self):
        clock = ManualClock()
        for _ in range(3):
            clock.start()
            start = precise_ns()
            clock.advance(2)
            assert precise_ns() == start + 2 * SECOND
            clock.stop()
            clock.stop()

    def test_reaches_the_end_of_time_and_does_not_pass_it(self, clock):
        for _ in range(3):
            clock.advance(584 * 365 * 86_400)
        assert precise_ns() == 2**64 - 2
        clock.advance(1)
        assert precise_ns() == 2**64 - 2

    def test_no_turn_is_lost_between_threads(self, clock):
        start = precise_ns()

        def turn():
            for _ in range(1_000):
                clock.advance(1e-9)

        threads = [threading.Thread(target=turn) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert precise_ns() - start == 8_000

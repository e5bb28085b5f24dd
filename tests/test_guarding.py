"""Guarded state, as far as it shows: what a cell does when its rules are broken, and that it works afterwards."""

import gc
import threading
import weakref

import pytest

from ferrule._core import GuardedValues

LIMIT = 60

checked = pytest.mark.skipif(
    not GuardedValues.CHECKED, reason="only builds with debug assertions look whether Python runs under an open cell"
)
# A panic is told to standard error, besides becoming an exception: `capfd` keeps the test's output clean.


def panic_of(function, *arguments):
    """Return the text of the panic that a call ends with."""
    panic = None
    try:
        function(*arguments)
    except BaseException as error:  # noqa: BLE001 - a panic is no `Exception`
        panic = error
    assert type(panic).__name__ == "PanicException"
    return str(panic)


class Value:
    """Something that can be weakly referenced."""


class Nosy:
    """Looks into a cell when it ends."""

    def __init__(self, cell, seen):
        self.cell = cell
        self.seen = seen

    def __del__(self):
        self.seen.append(len(self.cell))


class TestTheDead:
    def test_are_released_after_the_cell_is_closed(self):
        cell, seen = GuardedValues(), []
        for _ in range(3):
            cell.keep(Nosy(cell, seen))
        assert len(cell) == 3
        cell.let_go()
        assert seen == [0, 0, 0]

    def test_may_come_back_to_life(self):
        cell = GuardedValues()

        class Stubborn:
            def __del__(self):
                cell.keep("again")

        cell.keep(Stubborn())
        cell.let_go()
        assert len(cell) == 1

    def test_are_released_after_a_panic_too(self, capfd):
        cell, seen = GuardedValues(), []
        cell.keep(Nosy(cell, seen))
        assert panic_of(cell.let_go_and_panic, "in the middle") == "in the middle"
        gc.collect()
        assert seen == [0]

    def test_are_released_at_once(self):
        cell = GuardedValues()
        values = [Value() for _ in range(1_000)]
        alive = [weakref.ref(value) for value in values]
        for value in values:
            cell.keep(value)
        del value
        values.clear()
        assert all(value() is not None for value in alive)
        cell.let_go()
        assert all(value() is None for value in alive)

    def test_of_a_cycle_are_collected(self):
        cell = GuardedValues()
        cell.keep(cell)
        value = Value()
        value.cell = cell
        cell.keep(value)
        alive = weakref.ref(cell), weakref.ref(value)
        del cell, value
        gc.collect()
        assert [each() for each in alive] == [None, None]


class TestPanics:
    def test_leave_the_cell_usable(self, capfd):
        cell = GuardedValues()
        cell.keep(1)
        for _ in range(3):
            assert panic_of(cell.let_go_and_panic, "oh no") == "oh no"
            assert len(cell) == 0
            cell.keep(2)
            assert len(cell) == 1
        assert "oh no" in capfd.readouterr().err

    def test_leave_the_cell_usable_for_other_threads(self, capfd):
        cell, seen = GuardedValues(), []
        threads = [threading.Thread(target=lambda: seen.append(panic_of(cell.let_go_and_panic, "there")))]
        threads.append(threading.Thread(target=lambda: seen.append(len(cell))))
        for thread in threads:
            thread.start()
            thread.join(LIMIT)
            assert not thread.is_alive()
        assert seen == ["there", 0]

    def test_an_open_cell_is_not_opened_again(self, capfd):
        cell = GuardedValues()
        cell.keep(1)
        for _ in range(3):
            assert panic_of(cell.open_twice) == "a guarded cell was opened while it was open"
            assert len(cell) == 1
        cell.let_go()
        assert len(cell) == 0


@checked
class TestChecks:
    def test_no_python_is_called_under_an_open_cell(self, capfd):
        cell, called = GuardedValues(), []
        text = panic_of(cell.call_inside, lambda: called.append(1))
        assert "a call into Python while a guarded cell is open" in text
        assert called == []
        cell.keep(1)
        assert len(cell) == 1

    def test_nothing_is_released_under_an_open_cell(self, capfd):
        cell = GuardedValues()
        cell.keep(Value())
        text = panic_of(cell.release_inside)
        assert "releasing a reference while a guarded cell is open" in text
        assert len(cell) == 0

    def test_another_threads_open_cell_is_its_own_matter(self, capfd):
        # What is counted is counted for each thread: after a panic here, other threads go about their business.
        cell = GuardedValues()
        panic_of(cell.call_inside, list)
        seen = []
        thread = threading.Thread(target=lambda: (cell.keep(Nosy(cell, seen)), cell.let_go()))
        thread.start()
        thread.join(LIMIT)
        assert seen == [0]
        cell.keep(Nosy(cell, seen))
        cell.let_go()
        assert seen == [0, 0]


class TestThreads:
    def test_share_a_cell(self):
        cell = GuardedValues()
        values = [object() for _ in range(8)]

        def use(value):
            for _ in range(2_000):
                cell.keep(value)
                len(cell)
                cell.let_go()

        threads = [threading.Thread(target=use, args=(value,)) for value in values]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        assert len(cell) == 0

    def test_none_loses_what_it_keeps(self):
        cell = GuardedValues()
        threads = [threading.Thread(target=lambda: [cell.keep(number) for number in range(2_000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert len(cell) == 16_000
        assert len(gc.get_referents(cell)) >= 16_000

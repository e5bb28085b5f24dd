"""The iterating room: what iterators give, what they keep, and that lines are those of `open`."""

import gc
import itertools
import math
import os
import pickle
import random
import threading
import time
import weakref
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ferrule
from draining import drained
from ferrule import iterating
from ferrule.iterating import (
    batched,
    batched_by,
    chunked,
    countdown,
    fibonacci,
    flatten,
    inorder,
    moving_average,
    sort,
    windowed,
)

SLOW = bool(os.environ.get("FERRULE_FEW_CASES"))
CASES = 1_000 if SLOW else 10_000


class Failing:
    """An iterator that fails once at each of some places, and then goes on."""

    def __init__(self, count, places):
        self.items = iter(range(count))
        self.places = set(places)
        self.next = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.next in self.places:
            self.places.discard(self.next)
            raise KeyError(self.next)
        item = next(self.items)
        self.next += 1
        return item


class TestBatches:
    @pytest.mark.parametrize("make", [list, tuple, iter, lambda items: (item for item in items), range])
    @pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 100, 2**62])
    def test_they_hold_the_items_in_order(self, make, n):
        source = make(7) if make is range else make(list(range(7)))
        expected = [tuple(range(start, min(start + n, 7))) for start in range(0, 7, n)]
        assert list(batched(source, n)) == expected
        source = make(7) if make is range else make(list(range(7)))
        assert list(chunked(source, n)) == [list(part) for part in expected]

    def test_an_empty_source_has_none(self):
        assert list(batched([], 3)) == list(chunked(iter(()), 3, strict=True)) == []

    @pytest.mark.parametrize("n", [0, -1, 2**63])
    def test_a_size_out_of_range_is_refused(self, n):
        with pytest.raises(ValueError, match=r"n must be 1 or more, got"):
            batched([], n)

    @pytest.mark.parametrize("n", [1.0, "3", None, True])
    def test_a_size_that_is_no_integer_is_refused(self, n):
        with pytest.raises(TypeError, match=r"n must be an integer, not"):
            chunked([], n)

    def test_what_cannot_be_iterated_is_refused_at_once(self):
        with pytest.raises(TypeError):
            batched(3, 3)

    @pytest.mark.parametrize("source", [list(range(7)), range(7)])
    def test_strict_names_what_is_left_over(self, source):
        batches = batched(source, 3, strict=True)
        assert [next(batches), next(batches)] == [(0, 1, 2), (3, 4, 5)]
        with pytest.raises(ValueError, match="has 1 of 3 items") as caught:
            next(batches)
        assert caught.value.__notes__ == ["its items: (6,)"]
        assert next(batches, None) is None

    @pytest.mark.parametrize("strict", [False, True])
    def test_a_source_that_fails_once_loses_nothing(self, strict):
        found, errors = drained(batched(Failing(8, [5]), 4, strict=strict))
        assert [item for batch in found for item in batch] == list(range(8))
        assert [type(error) for error in errors] == [KeyError]

    @pytest.mark.parametrize("n", [3, 4_096, 5_000])
    @pytest.mark.parametrize("make", [batched, chunked])
    def test_what_stops_in_a_batch_leaves_its_items_to_the_next(self, make, n):
        source = Failing(n + 2, [2])
        batches = make(source, n)
        assert [list(batch) for batch in itertools.islice(batches, 1)] == [[0, 1]]
        with pytest.raises(KeyError):
            next(batches)
        assert [len(batch) for batch in batches] == [n]

    @pytest.mark.thread_unsafe(reason="looks at all objects of the process")
    def test_a_batch_is_seen_by_nobody_before_it_is_full(self):
        n = 1_913
        seen = []

        def source():
            for item in range(2 * n):
                if item in (5, n - 1, n + 5):
                    seen.extend(
                        type(held) for held in gc.get_objects() if type(held) in (tuple, list) and len(held) == n
                    )
                yield item

        assert [len(batch) for batch in batched(source(), n)] == [n, n]
        assert seen == [tuple]
        assert [len(batch) for batch in chunked(source(), n)] == [n, n]
        assert seen == [tuple, list]

    def test_a_list_may_grow_and_shrink_meanwhile(self):
        items = [1, 2, 3]
        batches = chunked(items, 2)
        assert next(batches) == [1, 2]
        items.extend([4, 5])
        assert next(batches) == [3, 4]
        items.clear()
        assert list(batches) == []

    def test_a_subclass_of_list_is_iterated_as_it_wants(self):
        class Backwards(list):
            def __iter__(self):
                return reversed(list(super().__iter__()))

        assert list(batched(Backwards([1, 2, 3]), 2)) == [(3, 2), (1,)]

    def test_one_that_advances_itself_is_told_so(self):
        def source():
            yield 1
            next(batches)

        batches = batched(source(), 5)
        found, errors = drained(batches)
        assert found == [(1,)]
        assert "is being advanced already" in str(errors[0])

    def test_who_was_turned_away_opens_no_door(self):
        """Whoever is told that it's being advanced takes nothing away from who advances it."""
        refused = []

        def source():
            for item in range(6):
                yield item
                for _ in range(3):
                    with pytest.raises(ValueError, match="is being advanced already") as caught:
                        next(batches)
                    refused.append(caught)

        batches = batched(source(), 4)
        assert list(batches) == [(0, 1, 2, 3), (4, 5)]
        assert len(refused) == 18

    def test_a_cycle_through_one_is_collected(self):
        class Item:
            pass

        item = Item()
        item.batches = batched([item], 1)
        gone = weakref.ref(item)
        del item
        gc.collect()
        assert gone() is None


class TestBatchedBy:
    def test_the_number_of_items_ends_a_batch(self):
        assert list(batched_by(range(5), max_items=2)) == [[0, 1], [2, 3], [4]]

    def test_the_weight_ends_a_batch(self):
        words = ["a", "bb", "ccc", "dddddd", "e"]
        assert list(batched_by(words, max_weight=4)) == [["a", "bb"], ["ccc"], ["dddddd"], ["e"]]
        assert list(batched_by([5, 1, 1, 9], max_weight=6, weigher=lambda n: n)) == [[5, 1], [1], [9]]

    @pytest.mark.parametrize("wait", [None, 60])
    def test_a_weigher_that_raises_loses_nothing(self, wait):
        found, errors = drained(
            iter(batched_by([1, 0, 2], max_weight=9, weigher=lambda n: 1 / n, max_wait=wait)),
        )
        assert found == [[1], [2]]
        assert "0" in errors[0].__notes__[0]

    @pytest.mark.parametrize("wait", [None, 60])
    def test_a_negative_weight_is_refused(self, wait):
        with pytest.raises(ValueError, match="a weight must be 0 or more"):
            next(batched_by([1], max_weight=9, weigher=lambda n: -n, max_wait=wait))

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"max_items": 0}, ValueError),
            ({"max_weight": 0}, ValueError),
            ({"max_weight": "1"}, TypeError),
            ({"weigher": len}, ValueError),
            ({"weigher": 3, "max_weight": 1}, TypeError),
            ({"max_wait": -1}, ValueError),
            ({"max_wait": "1"}, TypeError),
        ],
    )
    def test_bad_arguments_are_refused(self, arguments, error):
        with pytest.raises(error):
            batched_by([], **arguments)

    def test_a_batch_comes_in_time_though_the_source_blocks(self):
        go_on = threading.Event()

        def source():
            yield 1
            yield 2
            go_on.wait(60)
            yield 3

        batches = batched_by(source(), max_items=10, max_wait=0.05)
        first = next(batches)
        assert first in ([1], [1, 2])
        go_on.set()
        assert first + [item for batch in batches for item in batch] == [1, 2, 3]

    def test_a_source_that_fails_is_heard_behind_its_items(self):
        found, errors = drained(batched_by(iter_then_fail(), max_items=10, max_wait=30))
        assert found == [[1, 2]]
        assert [str(error) for error in errors] == ["enough"]

    def test_closing_ends_the_thread_and_little_is_pulled_ahead(self):
        pulled = []

        def source():
            for number in itertools.count():
                pulled.append(number)
                yield number

        batches = batched_by(source(), max_items=4, max_wait=60)
        assert next(batches) == [0, 1, 2, 3]
        batches.close()
        assert not batches._thread.is_alive()
        assert len(pulled) <= 4 + 4 + 1


def iter_then_fail():
    yield 1
    yield 2
    raise ValueError("enough")


class TestWindows:
    @given(
        st.lists(st.integers(), max_size=12),
        st.integers(1, 6),
        st.integers(1, 6),
        st.sampled_from([iterating.MISSING, None, 0]),
    )
    @settings(deadline=None)
    def test_they_are_slices(self, items, n, step, fill):
        expected = []
        covered = 0
        for start in range(0, len(items), step):
            part = items[start : start + n]
            if len(part) == n:
                expected.append(tuple(part))
                covered = start + n
            else:
                if fill is not iterating.MISSING and (start + len(part) > covered or not expected):
                    expected.append(tuple(part + [fill] * (n - len(part))))
                break
        assert list(windowed(iter(items), n, step=step, fillvalue=fill)) == expected

    def test_bad_arguments_are_refused(self):
        with pytest.raises(ValueError, match="n must be 1 or more"):
            windowed([], 0)
        with pytest.raises(ValueError, match="step must be 1 or more"):
            windowed([], 1, step=0)

    def test_a_source_that_fails_once_loses_nothing(self):
        found, errors = drained(windowed(Failing(5, [0, 2]), 2))
        assert found == [(0, 1), (1, 2), (2, 3), (3, 4)]
        assert len(errors) == 2


class TestMovingAverage:
    @given(st.lists(st.integers(-1000, 1000) | st.floats(-1e6, 1e6), max_size=40), st.integers(1, 9))
    @settings(deadline=None)
    def test_it_is_the_mean_of_each_window(self, numbers, window):
        expected = [math.fsum(numbers[at : at + window]) / window for at in range(len(numbers) - window + 1)]
        assert list(moving_average(numbers, window)) == pytest.approx(expected, abs=1e-6)

    def test_after_zeros_it_is_exactly_zero(self):
        numbers = [1e16, 0.1, 1e308, -3.7, *[0.0] * 20]
        assert list(moving_average(numbers, 7))[-13:] == [0.0] * 13
        assert list(moving_average([math.inf, math.nan, 1.0, 2.0, 3.0], 2))[-2:] == [1.5, 2.5]

    def test_other_numbers_stay_what_they_are(self):
        assert list(moving_average([Fraction(1, 3), 1, 2], 2)) == [Fraction(2, 3), Fraction(3, 2)]
        assert list(moving_average([1, 2, Decimal("0.5"), 4], 2)) == [1.5, Decimal("1.25"), Decimal("2.25")]
        assert list(moving_average([2**80, 2**80], 2)) == [float(2**80)]

    def test_what_is_no_number_is_named(self):
        with pytest.raises(TypeError) as caught:
            list(moving_average([1.5, 2, "x"], 2))
        assert caught.value.__notes__ == ["moving_average: item 2: 'x'"]


class TestFlatten:
    def test_one_level_is_chain(self):
        assert list(flatten([[1], (2, [3]), "ab"])) == [1, 2, [3], "a", "b"]
        assert isinstance(flatten([]), itertools.chain)

    def test_no_level_is_the_items(self):
        assert list(flatten([[1], 2], depth=0)) == [[1], 2]

    def test_deeper_levels_end_at_leaves(self):
        nested = [1, [2, (3, [4, {5: 0}]), "six", b"seven"], iter([8, [9]])]
        assert list(flatten(nested, depth=None)) == [1, 2, 3, 4, 5, "six", b"seven", 8, 9]
        assert list(flatten([1, [2, [3, [4]]]], depth=2)) == [1, 2, 3, [4]]

    def test_what_contains_itself_is_told(self):
        endless = []
        endless.append(endless)
        with pytest.raises(RecursionError):
            list(flatten(endless, depth=None))

    def test_any_depth_will_do(self):
        nested = [0]
        for _ in range(100_000):
            nested = [nested]
        assert list(flatten(nested, depth=None)) == [0]
        while isinstance(nested, list) and nested:  # one by one: the interpreter frees nested lists by recursion
            nested = nested.pop()

    def test_bad_depths_are_refused(self):
        with pytest.raises(ValueError, match="depth must be 0 or more"):
            flatten([], depth=-1)


class TestNumbersAndTrees:
    def test_countdown_is_a_range(self):
        assert list(countdown(5)) == [5, 4, 3, 2, 1]
        assert list(countdown(2, stop=-1)) == [2, 1, 0]
        assert next(countdown(10**30)) == 10**30
        assert list(countdown(0)) == []

    def test_fibonacci_is_exact(self):
        numbers = list(itertools.islice(fibonacci(), 300))
        assert numbers[:8] == [0, 1, 1, 2, 3, 5, 8, 13]
        assert all(c == a + b for a, b, c in zip(numbers, numbers[1:], numbers[2:], strict=False))

    def test_a_tree_is_walked_from_left_to_right(self):
        def tree(low, high):
            if low >= high:
                return None
            middle = (low + high) // 2
            return SimpleNamespace(l=tree(low, middle), r=tree(middle + 1, high), v=middle)

        assert list(inorder(tree(0, 100), "l", "r", "v")) == list(range(100))
        assert list(inorder(None)) == []

    def test_no_tree_is_too_deep(self):
        node = None
        nodes = []
        for value in range(50_000):
            node = SimpleNamespace(left=node, right=None, value=value)
            nodes.append(node)
        assert list(inorder(node)) == list(range(50_000))
        for each in nodes:
            each.left = None

    def test_a_node_without_a_value_is_an_error(self):
        with pytest.raises(AttributeError):
            list(inorder(SimpleNamespace(left=None, right=None)))
        with pytest.raises(TypeError, match="left must be a string"):
            inorder(None, left=3)


class Tagged(int):
    """An integer that is not the very class."""


class TestSort:
    @pytest.mark.parametrize("strategy", ["auto", "merge", "quick"])
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize(
        "make",
        [
            lambda: random.randrange(-100, 100),
            lambda: random.randrange(-(2**70), 2**70),
            random.random,
            lambda: random.choice([0.0, -0.0, 1.5, -math.inf, math.inf]),
            lambda: f"{random.randrange(1000)} a text that begins alike",
            lambda: random.choice(["é", "ü", "a", "zebra" * 3]),
            lambda: random.choice(["日本", "a"]),
            lambda: random.choice([1, 2.5]),
            lambda: (random.randrange(3), random.random()),
            lambda: Tagged(random.randrange(5)),
            lambda: random.random() < 0.5,
        ],
    )
    @pytest.mark.parametrize("count", [0, 1, 50, 100, 3000])
    def test_it_sorts_as_sorted_does(self, make, count, reverse, strategy):
        items = [make() for _ in range(count)]
        before = list(items)
        found = sort(items, reverse=reverse, strategy=strategy)
        assert items == before
        expected = sorted(items, reverse=reverse)
        assert found == expected
        if strategy != "quick":
            assert [id(item) for item in found] == [id(item) for item in expected]
        else:
            assert Counter(map(id, found)) == Counter(map(id, items))

    @pytest.mark.parametrize("strategy", ["auto", "merge", "quick"])
    def test_many_are_sorted_by_several_threads(self, strategy):
        items = [random.random() for _ in range(60_000)]
        assert sort(items, strategy=strategy) == sorted(items)
        texts = list(map(str, items))
        assert sort(texts, strategy=strategy) == sorted(texts)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_keys_decide_once_each_and_stably(self, reverse):
        items = [(random.randrange(5), number) for number in range(500)]
        asked = []

        def key(item):
            asked.append(item)
            return item[0]

        assert sort(items, key=key, reverse=reverse) == sorted(items, key=lambda item: item[0], reverse=reverse)
        assert asked == items
        assert sort(items, key=lambda item: (item[0],)) == sorted(items, key=lambda item: item[0])

    def test_nan_is_left_to_the_interpreter(self):
        items = [math.nan if number % 7 == 0 else float(-number) for number in range(200)]
        assert list(map(str, sort(items))) == list(map(str, sorted(items)))

    def test_bad_arguments_are_refused(self):
        with pytest.raises(ValueError, match="strategy must be"):
            sort([], strategy="bogo")
        with pytest.raises(TypeError, match="key must be"):
            sort([], key=3)
        with pytest.raises(TypeError):
            sort([1, "a"])

    @pytest.mark.subprocess
    def test_a_forked_child_sorts_too(self, python):
        done = python(
            """
            import os, random, sys, warnings
            warnings.simplefilter("ignore")
            from ferrule import sort
            items = [random.random() for _ in range(100_000)]
            assert sort(items, strategy="merge") == sorted(items)
            child = os.fork()
            if child == 0:
                os._exit(0 if sort(items, strategy="merge") == sorted(items) else 1)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            """
        )
        assert done.returncode == 0, done.stderr


class TestNothingIsLost:
    @pytest.mark.timeout(420)
    @given(
        st.integers(0, 40),
        st.sets(st.integers(0, 40), max_size=4),
        st.integers(1, 9),
        st.sampled_from(["batched", "chunked", "batched_by", "strict"]),
    )
    @settings(max_examples=CASES // 4, deadline=None)
    def test_what_goes_in_comes_out(self, count, places, n, kind):
        source = Failing(count, places)
        make = {
            "batched": lambda: batched(source, n),
            "chunked": lambda: chunked(source, n),
            "batched_by": lambda: batched_by(source, max_items=n, max_weight=20, weigher=lambda item: item),
            "strict": lambda: batched(source, n, strict=True),
        }[kind]
        found, errors = drained(make())
        items = [item for batch in found for item in batch]
        if kind == "strict" and errors and isinstance(errors[-1], ValueError):
            items.extend(eval(errors[-1].__notes__[0].removeprefix("its items: ")))
        assert items == list(range(count))


class Lying(list):
    """A list that is wrong about its length, in both ways of asking."""

    def __len__(self):
        return 1

    def __length_hint__(self):
        return 10**9


class TestWhatSourcesDo:
    """Sources that others stumble over."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda source: batched(source, 2),
            lambda source: chunked(source, 2),
            lambda source: batched_by(source, max_items=2),
            lambda source: batched_by(source, max_items=2, max_wait=60),
        ],
    )
    def test_lengths_are_hints_and_never_the_truth(self, make):
        source = Lying(range(5))
        assert [item for batch in make(source) for item in batch] == list(range(5))
        assert sort(Lying([3, 1, 2])) == [1, 2, 3]
        assert list(flatten(Lying([[1], [2]]), depth=None)) == [1, 2]

    @pytest.mark.parametrize("sign", [None, ..., iterating.MISSING, StopIteration, NotImplemented, 0, ""])
    def test_what_users_have_is_taken_for_no_sign(self, sign):
        items = [sign, 1, sign, sign, 2]
        assert [item for batch in batched(iter(items), 2) for item in batch] == items
        assert [item for batch in batched_by(iter(items), max_items=2) for item in batch] == items
        assert [item for batch in batched_by(items, max_items=2, max_wait=60) for item in batch] == items
        assert [window[0] for window in windowed(items, 1, fillvalue=sign)] == items
        assert list(flatten([items], depth=2)) == items

    @pytest.mark.parametrize(
        "make",
        [
            lambda source: batched(source, 3),
            lambda source: chunked(source, 3, strict=True),
            lambda source: batched_by(source, max_items=3),
            lambda source: batched_by(source, max_weight=9, weigher=lambda item: 3),
            lambda source: windowed(source, 3, step=5),
            lambda source: moving_average(source, 3),
            lambda source: flatten(([item] for item in source), depth=1),
            lambda source: flatten(([[item]] for item in source), depth=None),
        ],
    )
    def test_endless_ones_are_pulled_no_further_than_asked(self, make):
        pulled = itertools.count()
        assert next(make(pulled)) is not None
        assert next(pulled) <= 6

    @pytest.mark.parametrize(
        "make",
        [
            lambda: batched(3, 2),
            lambda: chunked(None, 2),
            lambda: batched_by(3),
            lambda: batched_by(3, max_wait=1),
            lambda: windowed(3, 2),
            lambda: moving_average(3, 2),
            lambda: flatten(3),
            lambda: flatten(3, depth=None),
            lambda: sort(3),
            lambda: countdown("3"),
        ],
    )
    def test_what_cannot_be_iterated_is_refused_at_once(self, make):
        with pytest.raises(TypeError):
            make()

    def test_the_classes_cannot_be_changed(self):
        for made in (batched([], 1), windowed([], 1), moving_average([], 1), fibonacci(), flatten([], None)):
            with pytest.raises(TypeError):
                type(made).foobar = 1


@pytest.mark.parametrize("name", [name for name in iterating.__all__ if name != "Lines"])
def test_every_name_is_documented_and_public(name):
    assert getattr(ferrule, name) is getattr(iterating, name)
    assert ">>>" in getattr(iterating, name).__doc__


def test_missing_is_itself_after_pickling():
    assert pickle.loads(pickle.dumps(iterating.MISSING)) is iterating.MISSING
    assert repr(iterating.MISSING) == "MISSING"


def test_threads_share_an_iterator_without_losing_items():
    source = iter(range(20_000))
    batches = batched(source, 7)
    found, lock = [], threading.Lock()

    def take():
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except ValueError:
                time.sleep(0)
                continue
            with lock:
                found.extend(batch)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == list(range(20_000))

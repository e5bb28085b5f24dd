"""`Cache` as a mapping: the contract, against a plain dictionary with a clock, and what it has beyond a dictionary."""

import asyncio
import contextlib
import copy
import gc
import pickle
import re
import sys
import threading
import weakref
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ferrule import Cache, CacheStats

pytestmark = pytest.mark.thread_unsafe(reason="tests share the clock and the collector")

# The longest that anything here waits for another thread: reached only where something hangs.
LONG = 30


class Node:
    """Something that takes weak references."""


# -- the contract -----------------------------------------------------------------------------------------------------


def test_it_is_a_mutable_mapping():
    cache = Cache()
    assert isinstance(cache, MutableMapping)
    cache["a"] = 1
    cache.update({"b": 2}, c=3)
    assert len(cache) == 3
    assert list(cache) == list(cache.keys()) == ["a", "b", "c"]
    assert list(cache.items()) == [("a", 1), ("b", 2), ("c", 3)]
    assert list(cache.values()) == [1, 2, 3]
    assert cache["a"] == cache.get("a") == 1
    assert cache.get("x") is None
    assert cache.get("x", 5) == 5
    assert "a" in cache
    assert "x" not in cache
    assert "a" in cache.keys()  # noqa: SIM118 - the view itself
    assert ("a", 1) in cache.items()
    assert ("a", 2) not in cache.items()
    assert "a" not in cache.items()
    assert 3 in cache.values()
    assert 4 not in cache.values()
    assert cache.keys() & {"a", "x"} == {"a"}
    assert cache.setdefault("a", 9) == 1
    assert cache.setdefault("d") is None
    assert cache.pop("d", 7) is None
    assert cache.pop("d", 7) == 7
    del cache["a"]
    assert dict(cache) == {"b": 2, "c": 3}
    assert cache.popitem() == ("b", 2)
    assert bool(cache)
    cache.clear()
    assert not cache
    assert dict(cache) == {}


@pytest.mark.parametrize(
    "use", [lambda cache: cache["x"], lambda cache: cache.pop("x"), lambda cache: cache.__delitem__("x")]
)
def test_a_missing_key_is_a_key_error_that_names_it(use):
    with pytest.raises(KeyError) as caught:
        use(Cache())
    assert caught.value.args == ("x",)


def test_an_empty_cache_has_no_item_to_pop():
    with pytest.raises(KeyError, match="the cache is empty"):
        Cache().popitem()


def test_a_tuple_as_a_key_stays_one_key_in_errors():
    with pytest.raises(KeyError) as caught:
        Cache()[1, 2]
    assert caught.value.args == ((1, 2),)


def test_pop_takes_one_default_at_most():
    with pytest.raises(TypeError, match="pop takes a key and at most one default, not 2 of them"):
        Cache().pop(1, 2, 3)


@pytest.mark.parametrize(
    "use",
    [
        lambda cache: cache[[]],
        lambda cache: [] in cache,
        lambda cache: cache.get([]),
        lambda cache: cache.set([], 1),
        lambda cache: cache.pop([], None),
        lambda cache: cache.peek([]),
        lambda cache: cache.get_or_set([], list),
    ],
)
def test_a_key_that_cannot_be_hashed_is_a_type_error(use):
    with pytest.raises(TypeError, match="unhashable"):
        use(Cache())


def test_keys_are_equal_as_in_dictionaries():
    cache = Cache()
    nan = float("nan")
    cache.update({1: "one", "a": "letter", (1, "b"): "pair", nan: "none", b"a": "bytes"})
    assert cache[1.0] == cache[True] == "one"
    assert cache[1.0, "b"] == "pair"
    assert cache.peek(nan) == "none"
    assert cache.get(float("nan")) is None
    assert cache[b"a"] != cache["a"]
    cache[True] = "changed"
    assert cache[1] == "changed"
    assert len(cache) == 5
    assert {type(key) for key in cache if key == 1} == {int}


def test_equality_is_that_of_mappings():
    cache = Cache()
    cache.update(a=1, b=2)
    assert cache == {"b": 2, "a": 1}
    assert dict(b=2, a=1) == cache  # noqa: C408 - from the side of the dictionary
    assert cache != {"a": 1}
    other = Cache(5, policy="lfu")
    other.update(b=2, a=1)
    assert cache == other
    other["a"] = 3
    assert cache != other
    assert cache != [("a", 1), ("b", 2)]
    assert cache == type(sys.__dict__)({"a": 1, "b": 2})
    with pytest.raises(TypeError, match="unhashable"):
        hash(cache)


def test_its_repr_says_how_it_was_set_up():
    def weigh(key, value):
        return 1

    assert repr(Cache()) == "<Cache() of 0 entries>"
    cache = Cache(10, ttl=5, policy="fifo", weigher=weigh, weak_values=True)
    cache["a"] = 1
    name = "test_its_repr_says_how_it_was_set_up.<locals>.weigh"
    assert repr(cache) == f"<Cache(maxsize=10, ttl=5, policy='fifo', weigher={name}, weak_values=True) of 1 entries>"


def test_its_repr_may_be_in_that_of_its_owner():
    class Owner:
        def __init__(self):
            self.cache = Cache(on_evict=self.note)

        def note(self, *evicted):
            pass

        def __repr__(self):
            return f"Owner({self.cache})"

    assert "on_evict=" in repr(Owner())


# -- against a dictionary ---------------------------------------------------------------------------------------------

KEYS = st.sampled_from([0, 1, 2, 3, 1.0, True, "a", "b", (1, "x"), (1.0, "x"), None, frozenset({1})])
VALUES = st.integers(0, 1_000)
TIMES = st.sampled_from([0.5, 1, 2, 5])


class AgainstADictionary(RuleBasedStateMachine):
    """An LRU cache with times and a weigher, and a plain dictionary that is kept in order by hand."""

    maxsize: int | None = 4
    ttl: float | None = 3
    policy = "lru"
    weighing = False

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.told = []
        self.cache = Cache(
            self.maxsize,
            ttl=self.ttl,
            policy=self.policy,
            timer=lambda: self.now,
            weigher=self.weigh if self.weighing else None,
            on_evict=lambda *evicted: self.told.append(evicted),
        )
        self.entries = {}  # key: (value, time of death), the next to go first
        self.hits = self.misses = 0
        self.expected = []

    def weigh(self, key, value):
        return value % 4 if self.weighing else 1

    def good(self, key):
        return key in self.entries and self.now < self.entries[key][1]

    def use(self, key):
        """What a look-up does: an entry that died is dropped, another becomes the youngest."""
        if self.good(key):
            self.hits += 1
            if self.policy == "lru":
                kept = self.original(key)
                self.entries[kept] = self.entries.pop(kept)
            return True
        self.misses += 1
        self.bury(key)
        return False

    def original(self, key):
        """The key that is kept for an equal one."""
        return next(kept for kept in self.entries if kept == key)

    def bury(self, key):
        if key in self.entries:
            self.expected.append((self.original(key), self.entries.pop(key)[0], "expired"))

    def weight(self):
        return sum(self.weigh(key, value) for key, (value, _) in self.entries.items())

    @rule(key=KEYS, value=VALUES, ttl=st.none() | TIMES)
    def set(self, key, value, ttl):
        if ttl is None:
            self.cache[key] = value
            ttl = self.ttl
        else:
            self.cache.set(key, value, ttl=ttl)
        if key in self.entries:
            kept = self.original(key)
            self.expected.append((kept, self.entries.pop(key)[0], "replaced"))
            key = kept
        while self.maxsize is not None and self.weight() + self.weigh(key, value) > self.maxsize:
            oldest = next(iter(self.entries))
            self.expected.append((oldest, self.entries.pop(oldest)[0], "size"))
        self.entries[key] = (value, self.now + (float("inf") if ttl is None else ttl))

    @rule(key=KEYS)
    def get(self, key):
        if self.use(key):
            assert self.cache[key] == self.entries[key][0]
        else:
            with pytest.raises(KeyError):
                self.cache[key]

    @rule(key=KEYS)
    def get_with_default(self, key):
        expected = self.entries[key][0] if self.use(key) else "default"
        assert self.cache.get(key, "default") == expected

    @rule(key=KEYS, value=VALUES)
    def get_or_set(self, key, value):
        if self.use(key):
            assert self.cache.get_or_set(key, lambda: value) == self.entries[key][0]
            return
        assert self.cache.get_or_set(key, lambda: value) == value
        while self.maxsize is not None and self.weight() + self.weigh(key, value) > self.maxsize:
            oldest = next(iter(self.entries))
            self.expected.append((oldest, self.entries.pop(oldest)[0], "size"))
        self.entries[key] = (value, self.now + (float("inf") if self.ttl is None else self.ttl))

    @rule(key=KEYS)
    def peek(self, key):
        assert self.cache.peek(key, "default") == (self.entries[key][0] if self.good(key) else "default")
        assert (key in self.cache) == self.good(key)

    @rule(key=KEYS)
    def delete(self, key):
        if self.good(key):
            del self.cache[key]
            self.expected.append((self.original(key), self.entries.pop(key)[0], "invalidated"))
        else:
            with pytest.raises(KeyError):
                del self.cache[key]
            self.bury(key)

    @rule(key=KEYS)
    def pop(self, key):
        if self.good(key):
            value = self.entries[key][0]
            self.expected.append((self.original(key), value, "invalidated"))
            del self.entries[key]
            assert self.cache.pop(key, "default") == value
        else:
            assert self.cache.pop(key, "default") == "default"
            self.bury(key)

    @rule()
    def popitem(self):
        while self.entries and not self.good(next(iter(self.entries))):
            self.bury(next(iter(self.entries)))
        if self.entries:
            key = next(iter(self.entries))
            value = self.entries.pop(key)[0]
            self.expected.append((key, value, "invalidated"))
            assert self.cache.popitem() == (key, value)
        else:
            with pytest.raises(KeyError):
                self.cache.popitem()

    @rule()
    def expire(self):
        dead = [key for key in self.entries if not self.good(key)]
        assert self.cache.expire() == len(dead)
        for key in dead:
            self.bury(key)

    @rule()
    def clear(self):
        self.cache.clear()
        self.expected.extend((key, value, "cleared") for key, (value, _) in self.entries.items())
        self.entries.clear()

    @rule(seconds=TIMES)
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def replace_by_a_pickled_copy(self):
        told = {name: value for name, value in self.cache._told.items() if name in ("maxsize", "policy")}
        copied = Cache(**told)
        copied.update(self.cache.items())
        assert pickle.loads(pickle.dumps(copied)) == copied
        assert list(pickle.loads(pickle.dumps(copied)).items()) == list(copied.items())

    @invariant()
    def they_are_the_same(self):
        good = {key: value for key, (value, _) in self.entries.items() if self.good(key)}
        assert list(self.cache.items()) == list(good.items())
        assert self.cache == good
        assert len(self.cache) == len(good)
        stats = self.cache.stats()
        assert (stats.hits, stats.misses) == (self.hits, self.misses)
        assert stats.currsize == len(self.entries)
        assert stats.weight == self.weight()
        assert self.maxsize is None or stats.weight <= self.maxsize
        assert stats.evictions == sum(cause == "size" for *_, cause in self.expected)
        assert stats.expirations == sum(cause == "expired" for *_, cause in self.expected)
        key = repr
        assert sorted(self.told, key=key) == sorted(self.expected, key=key)


class Fifo(AgainstADictionary):
    policy = "fifo"


class Weighed(AgainstADictionary):
    weighing = True


class Endless(AgainstADictionary):
    ttl = maxsize = None


@pytest.mark.parametrize("machine", [AgainstADictionary, Fifo, Weighed, Endless])
def test_it_does_what_a_dictionary_with_a_clock_does(machine):
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
    )


@given(
    st.sampled_from(["lru", "lfu", "fifo", "s3fifo"]),
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=200),
)
@settings(max_examples=150, deadline=None, database=None)
def test_under_every_policy_the_books_are_right(policy, maxsize, steps):
    held = {}
    cache = Cache(maxsize, policy=policy, weigher=lambda key, value: value, on_evict=lambda key, *_: held.pop(key))
    for key, value in steps:
        if value > maxsize:
            with pytest.raises(ValueError, match=f"the value weighs {value}, and the cache holds {maxsize}"):
                cache[key] = value
        elif cache.get(key) != value:
            cache.pop(key, None)
            cache[key] = held[key] = value
        assert cache == held
        assert cache.stats().weight == sum(held.values()) <= maxsize
        assert cache.stats().currsize == len(cache) == len(held)


# -- times ------------------------------------------------------------------------------------------------------------


def test_entries_have_their_own_times(manual_clock):
    cache = Cache(ttl=10)
    cache["usual"] = 1
    cache.set("short", 2, ttl=timedelta(seconds=5))
    cache.set("long", 3, ttl=15.0)
    cache.set("for ever", 4, ttl=float("inf"))
    left = []
    for _ in range(5):
        left.append(sorted(cache))
        manual_clock.advance(5)
    everything = ["for ever", "long", "short", "usual"]
    assert left == [everything, ["for ever", "long", "usual"], ["for ever", "long"], ["for ever"], ["for ever"]]
    assert cache.stats().currsize == 4
    assert cache.expire() == 3
    assert cache.stats().currsize == 1


def test_a_time_of_its_own_in_a_cache_without_times(manual_clock):
    cache = Cache()
    cache["a"] = 1
    cache.set("b", 2, ttl=5)
    manual_clock.advance(5)
    assert dict(cache) == {"a": 1}
    assert "b" not in cache
    cache["b"] = 3
    manual_clock.advance(1e6)
    assert cache["b"] == 3


def test_setting_anew_starts_the_time_anew(manual_clock):
    cache = Cache(ttl=10)
    cache["a"] = 1
    manual_clock.advance(8)
    cache["a"] = 2
    manual_clock.advance(8)
    assert cache["a"] == 2


@pytest.mark.parametrize("ttl", [-1, "5", float("nan")])
def test_a_time_that_makes_no_sense_says_so(ttl):
    with pytest.raises((TypeError, ValueError), match=r"^ttl must be "):
        Cache().set("a", 1, ttl=ttl)


def test_a_timer_that_raises_comes_out(manual_clock):
    def timer():
        raise OSError("no time")

    cache = Cache(ttl=5, timer=timer)
    for use in (lambda: cache["a"], lambda: cache.set("a", 1), cache.expire, lambda: list(cache)):
        with pytest.raises(OSError, match="no time"):
            use()


# -- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "order"),
    [("lru", [2, 3, 1]), ("fifo", [1, 2, 3]), ("lfu", [2, 3, 1]), ("s3fifo", [2, 3, 1])],
)
def test_popitem_takes_what_would_go_next(policy, order):
    cache = Cache(10, policy=policy)
    cache.update({1: 1, 2: 2, 3: 3})
    cache[1]
    assert [cache.popitem()[0] for _ in range(3)] == order


def test_looking_without_using_changes_no_order():
    cache = Cache(2)
    cache.update(a=1, b=2)
    assert cache.peek("a") == 1
    assert "a" in cache
    assert list(cache.items()) == [("a", 1), ("b", 2)]
    assert ("a", 1) in cache.items()
    assert 1 in cache.values()
    assert repr(cache)
    cache["c"] = 3
    assert list(cache) == ["b", "c"]
    assert cache.stats()[:2] == (0, 0)


# -- iteration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [iter, lambda cache: iter(cache.items()), lambda cache: iter(cache.values())])
@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.set("new", 1),
        lambda cache: cache.pop("b"),
        lambda cache: cache.clear(),
        lambda cache: cache.get_or_set("new", int),
    ],
)
def test_iteration_says_that_the_cache_changed(look, change):
    cache = Cache()
    cache.update(a=1, b=2, c=3)
    iterator = look(cache)
    next(iterator)
    change(cache)
    with pytest.raises(RuntimeError, match="the cache changed during iteration"):
        next(iterator)
    assert list(iterator) == []


def test_iteration_does_not_mind_looks_and_new_values():
    cache = Cache()
    cache.update(a=1, b=2, c=3)
    for key in cache:
        assert cache[key]
        cache[key] = 5
    assert set(cache.values()) == {5}


def test_iteration_leaves_the_dead_out(manual_clock):
    cache = Cache(ttl=10)
    cache["a"] = 1
    manual_clock.advance(5)
    cache["b"] = 2
    manual_clock.advance(5)
    assert list(cache) == ["b"]
    assert list(cache.items()) == [("b", 2)]
    assert len(cache) == 1
    cache["c"] = 3
    for _, value in cache.items():  # noqa: PERF102 - the view itself
        manual_clock.advance(100)
        assert value
    assert len(cache) == 0


# -- weights ----------------------------------------------------------------------------------------------------------


def test_weights_fill_the_cache():
    cache = Cache(10, weigher=lambda key, value: len(value))
    cache["a"] = "xxxx"
    cache["b"] = "xxxx"
    assert cache.stats().weight == 8
    cache["c"] = "xxx"
    assert dict(cache.items()) == {"b": "xxxx", "c": "xxx"}
    cache["b"] = "xxxxxxx"
    assert cache.stats().weight == 10
    cache["c"] = "xxxx"
    assert dict(cache.items()) == {"c": "xxxx"}
    cache["empty"] = ""
    assert len(cache) == 2


def test_what_weighs_too_much_is_refused_and_nothing_lost():
    cache = Cache(10, weigher=lambda key, value: value)
    cache["a"] = 4
    with pytest.raises(ValueError, match="the value weighs 11, and the cache holds 10"):
        cache["a"] = 11
    assert dict(cache) == {"a": 4}
    assert cache.get_or_set("b", lambda: 11) == 11
    assert dict(cache) == {"a": 4}


@pytest.mark.parametrize("weight", [-1, 1.5, None, "heavy", 2**70])
def test_a_weight_that_makes_no_sense_says_so(weight):
    cache = Cache(weigher=lambda key, value: weight)
    text = f"what weigher returns must be an integer that is not negative, got {weight!r}"
    with pytest.raises(ValueError, match=re.escape(text)):
        cache["a"] = 1
    assert len(cache) == 0


def test_a_weigher_may_use_the_cache():
    cache = Cache(10, weigher=lambda key, value: len(cache) + 1)
    for key in range(5):
        cache[key] = key
    assert cache.stats().weight <= 10


def test_nothing_fits_into_no_room():
    cache = Cache(0)
    with pytest.raises(ValueError, match="the value weighs 1, and the cache holds 0"):
        cache["a"] = 1
    assert cache.get_or_set("a", lambda: 5) == 5
    assert cache.setdefault("a", 6) == 6
    assert len(cache) == 0


# -- weak values ------------------------------------------------------------------------------------------------------


def test_weak_values_go_when_nobody_else_holds_them():
    cache = Cache(weak_values=True)
    cache["node"] = node = Node()
    cache["number"] = 10**30
    assert cache["node"] is node
    gone = weakref.ref(node)
    del node
    gc.collect()
    assert gone() is None
    assert "node" not in cache
    assert cache.get("node") is None
    assert dict(cache.items()) == {"number": 10**30}
    assert len(cache) == 1


def test_a_weak_value_that_has_gone_is_computed_anew():
    cache = Cache(weak_values=True)
    first = cache.get_or_set("a", Node)
    assert cache.get_or_set("a", Node) is first
    number = id(first)
    del first
    gc.collect()
    second = cache.get_or_set("a", Node)
    assert second is not None
    assert cache["a"] is second
    assert number is not None


def test_gone_values_make_room_and_are_told_of():
    told = []
    cache = Cache(weak_values=True, on_evict=lambda *evicted: told.append(evicted))
    nodes = [Node() for _ in range(3)]
    cache.update(enumerate(nodes))
    del nodes
    gc.collect()
    assert len(cache) == 0
    assert cache.stats().currsize == 3
    assert cache.get(0) is None
    assert cache.pop(1, None) is None
    assert cache.expire() == 1
    assert told == [(0, None, "collected"), (1, None, "collected"), (2, None, "collected")]
    assert cache.stats().expirations == 0


# -- copies -----------------------------------------------------------------------------------------------------------


def weigh(key, value):
    return value


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_settings_entries_and_order(manual_clock, protocol):
    cache = Cache(10, ttl=60, policy="lru", weigher=weigh)
    cache.update(a=1, b=2, c=3)
    cache["a"]
    manual_clock.advance(30)
    copied = pickle.loads(pickle.dumps(cache, protocol))
    assert type(copied) is Cache
    assert list(copied.items()) == [("b", 2), ("c", 3), ("a", 1)]
    assert repr(copied) == repr(cache)
    assert copied.stats().weight == 6
    manual_clock.advance(59)
    assert len(cache) == 0
    assert len(copied) == 3


class Named(Cache):
    """A subclass with a dictionary."""


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_subclass_is_copied_as_itself(way):
    cache = Named(5)
    cache["a"] = [1]
    copied = way(cache)
    assert type(copied) is Named
    assert copied == cache
    copied["b"] = 2
    assert "b" not in cache
    assert (copied["a"] is cache["a"]) == (way is copy.copy)


def test_a_cache_among_its_own_values_is_pickled():
    cache = Cache()
    cache["me"] = cache
    copied = pickle.loads(pickle.dumps(cache))
    assert copied["me"] is copied
    copied = copy.deepcopy(cache)
    assert copied["me"] is copied


# -- get or set -------------------------------------------------------------------------------------------------------


def test_many_threads_compute_once():
    cache = Cache()
    begun, go_on = threading.Event(), threading.Event()
    calls = []

    def factory():
        calls.append(1)
        begun.set()
        assert go_on.wait(LONG)
        return Node()

    with ThreadPoolExecutor(6) as pool:
        results = [pool.submit(cache.get_or_set, "key", factory)]
        assert begun.wait(LONG)
        results += [pool.submit(cache.get_or_set, "key", factory) for _ in range(5)]
        assert "key" not in cache
        assert cache.get("key", "not yet") == "not yet"
        assert len(cache) == 0
        go_on.set()
        assert len({id(result.result(LONG)) for result in results}) == 1
    assert calls == [1]
    assert cache.stats().misses == 2


def test_a_factory_that_fails_leaves_the_key_free():
    cache = Cache()
    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("a", lambda: 1 / 0)
    assert "a" not in cache
    assert cache.get_or_set("a", lambda: 2) == 2


def test_a_factory_may_set_the_key_itself():
    cache = Cache()

    def factory():
        cache["a"] = "set"
        return "computed"

    assert cache.get_or_set("a", factory) == "computed"
    assert cache["a"] == "set"


def test_a_factory_must_be_callable():
    with pytest.raises(TypeError, match="callable"):
        Cache().get_or_set("a", 5)


def test_tasks_compute_once_and_the_mapping_has_it():
    cache = Cache()
    calls = 0

    async def compute():
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.001)
        return [calls]

    async def main():
        results = await asyncio.wait_for(
            asyncio.gather(*(cache.get_or_set_async("key", compute) for _ in range(10))), LONG
        )
        assert results == [[1]] * 10
        assert cache["key"] is results[0]
        assert await cache.get_or_set_async("key", compute) is results[0]

    asyncio.run(main())
    assert calls == 1
    assert list(cache) == ["key"]
    assert cache.get_or_set("key", dict) == [1]
    cache["other"] = 5
    assert asyncio.run(cache.get_or_set_async("other", compute)) == 5


def test_a_coroutine_that_fails_leaves_the_key_free():
    cache = Cache()

    async def fail():
        raise LookupError

    async def main():
        with pytest.raises(LookupError):
            await cache.get_or_set_async("a", fail)

    asyncio.run(main())
    assert len(cache) == 0
    assert cache.get_or_set("a", lambda: 1) == 1


# -- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["lru", "lfu", "fifo", "s3fifo"])
def test_threads_leave_it_whole(policy):  # noqa: C901 - one case an operation
    cache = Cache(8, policy=policy, ttl=60)
    barrier = threading.Barrier(6, timeout=LONG)
    too_many = []

    def work(seed):
        barrier.wait()
        for step in range(500):
            key = (step * 7 + seed) % 19
            match (step + seed) % 7:
                case 0:
                    cache[key] = key
                case 1:
                    cache.set(key, key, ttl=0.000001)
                case 2:
                    assert cache.get(key, key) == key
                case 3:
                    assert cache.pop(key, key) == key
                case 4:
                    assert cache.get_or_set(key, lambda key=key: key) == key
                case 5:
                    with contextlib.suppress(KeyError):
                        found, value = cache.popitem()
                        assert found == value
                case 6:
                    cache.expire()
                    with contextlib.suppress(RuntimeError):
                        assert all(key == value for key, value in cache.items())
            if cache.stats().currsize > 8:
                too_many.append(step)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            for future in [pool.submit(work, seed) for seed in range(6)]:
                future.result(LONG)
    finally:
        sys.setswitchinterval(before)
    assert too_many == []
    # What was set for a millionth of a second goes in its own time.
    assert all(cache.get(key, key) == key for key in list(cache))


# -- statistics and arguments -----------------------------------------------------------------------------------------


def test_statistics():
    cache = Cache(2, ttl=60)
    cache.update(a=1, b=2, c=3)
    cache.get("c")
    cache.get("a")
    stats = cache.stats()
    assert type(stats) is CacheStats
    assert stats[:7] == (1, 1, 1, 0, 2, 2, 2)
    assert sys.getsizeof(cache) >= stats.bytes > 50
    assert cache.maxsize == 2
    assert cache.policy == "lru"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"maxsize": -1}, ValueError, "maxsize must be an integer that is not negative, or None, got -1"),
        ({"maxsize": 1.5}, TypeError, "maxsize must be an integer that is not negative, or None, not float: 1.5"),
        ({"ttl": -0.5}, ValueError, "ttl must be .*, got -0.5"),
        ({"policy": "random"}, ValueError, "policy must be one of 'lru', 'lfu', 'fifo', 's3fifo', got .random."),
        ({"policy": None}, TypeError, "policy must be a string, not NoneType: None"),
        ({"weigher": 5}, TypeError, "weigher must be callable, not int: 5"),
        ({"on_evict": "x"}, TypeError, "on_evict must be callable, not str: 'x'"),
        ({"timer": 1.0}, TypeError, r"timer must be callable, not float: 1\.0"),
        ({"weak_values": 1}, TypeError, "weak_values must be True or False, not int: 1"),
    ],
)
def test_a_bad_argument_is_named(arguments, error, text):
    with pytest.raises(error, match=text):
        Cache(**arguments)

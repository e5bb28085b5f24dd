"""The caching room: what is kept, for whom and how long, and that nothing hangs."""

import asyncio
import contextvars
import copy
import functools
import gc
import inspect
import logging
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

import ferrule
from ferrule import Cache, CacheInfo, CacheStats, cache, cached, lru_cache

# The clock, the log, the collector and the events that the tests wait for are one for the process.
pytestmark = pytest.mark.thread_unsafe(reason="tests share the clock, the collector and the functions of this module")

# The longest that anything here waits for another thread: reached only where something hangs.
LONG = 30


def run(code, *, seconds=LONG):
    """Run code in an interpreter of its own, where a hang ends with the time; return what it printed."""
    code = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def in_threads(count, body):
    """Call `body(index)` in so many threads at once, and return the results."""
    barrier = threading.Barrier(count, timeout=LONG)

    def start(index):
        barrier.wait()
        return body(index)

    with ThreadPoolExecutor(count) as pool:
        return [future.result(LONG) for future in [pool.submit(start, index) for index in range(count)]]


def wait_until(condition):
    """Wait for what another thread is about to do."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.0005)


async def until(condition):
    """Let others run until something has come to pass."""
    while not condition():  # noqa: ASYNC110 - what is waited for knows nothing of events
        await asyncio.sleep(0.0005)


def waiting_in(function):
    """Return how many threads stand in a wait below `function`: those who follow a flight have it as their frame."""
    frames = sys._current_frames().values()
    return sum(frame.f_code is function.__code__ for frame in frames)


# -- the traps --------------------------------------------------------------------------------------------------------


@pytest.mark.subprocess
def test_a_call_inside_a_call_with_the_same_key_computes_through():
    out = run("""
        from ferrule import cached

        depth = 0

        @cached
        def f(x):
            global depth
            depth += 1
            return f(x) + 1 if depth < 5 else 0

        print(f(1), f(1), f.cache_info())
    """)
    assert out == "4 4 CacheInfo(hits=1, misses=5, maxsize=1024, currsize=1)\n"


@pytest.mark.subprocess
def test_a_coroutine_that_awaits_itself_with_the_same_key_computes_through():
    out = run("""
        import asyncio
        from ferrule import cached

        depth = 0

        @cached
        async def f(x):
            global depth
            depth += 1
            return await f(x) + 1 if depth < 5 else 0

        async def main():
            print(await f(1), await f(1))

        asyncio.run(main())
        print(f.cache_info())
    """)
    assert out == "4 4\nCacheInfo(hits=1, misses=5, maxsize=1024, currsize=1)\n"


@pytest.mark.subprocess
def test_two_threads_whose_calls_need_each_other_compute_through():
    out = run("""
        import threading
        from ferrule import cached

        both = threading.Barrier(2, timeout=20)
        first = threading.local()

        @cached
        def f(x):
            if not hasattr(first, "call"):
                first.call = x
                both.wait()
                return f(3 - x) + 10
            return x

        results = []
        threads = [threading.Thread(target=lambda x=x: results.append(f(x))) for x in (1, 2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(len(results), f.cache_info().currsize)
    """)
    assert out == "2 2\n"


@pytest.mark.subprocess
def test_a_circle_of_three_threads_computes_through():
    out = run("""
        import threading
        from ferrule import Cache

        cache = Cache()
        everybody = threading.Barrier(3, timeout=20)

        def outer(x):
            return cache.get_or_set(x, lambda: inner(x))

        def inner(x):
            everybody.wait()
            return cache.get_or_set((x + 1) % 3, lambda: "through")

        results = []
        threads = [threading.Thread(target=lambda x=x: results.append(outer(x))) for x in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(results)
    """)
    assert out == "['through', 'through', 'through']\n"


@pytest.mark.subprocess
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_is_forked_while_another_thread_computes_starts_clean():
    out = run("""
        import os
        import sys
        import threading
        import warnings
        from ferrule import cached

        warnings.simplefilter("ignore")
        computing, go_on = threading.Event(), threading.Event()
        parent = os.getpid()

        @cached
        def f(x):
            if os.getpid() == parent:
                computing.set()
                go_on.wait()
            return os.getpid()

        thread = threading.Thread(target=f, args=(1,))
        thread.start()
        computing.wait()
        child = os.fork()
        if not child:
            os._exit(0 if f(1) == os.getpid() and f(1) == os.getpid() else 1)
        status = os.waitpid(child, 0)[1]
        go_on.set()
        thread.join()
        print(status, f(1) == parent)
    """)
    assert out == "0 True\n"


@pytest.mark.subprocess
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_refreshes_what_a_thread_of_its_parent_was_refreshing():
    out = run("""
        import os
        import threading
        import warnings
        from ferrule import cached

        warnings.simplefilter("ignore")
        now = 0.0
        refreshing, refreshed, go_on = threading.Event(), threading.Event(), threading.Event()
        parent = os.getpid()
        calls = 0

        @cached(ttl=1, stale=100, timer=lambda: now)
        def f():
            global calls
            calls += 1
            if calls > 1:
                if os.getpid() == parent:
                    refreshing.set()
                    go_on.wait()
                refreshed.set()
            return os.getpid()

        f()
        now = 2.0
        f()
        refreshing.wait()
        child = os.fork()
        if not child:
            f()
            os._exit(0 if refreshed.wait(10) else 1)
        print(os.waitpid(child, 0)[1])
        go_on.set()
    """)
    assert out == "0\n"


@pytest.mark.subprocess
def test_when_the_leaders_task_is_cancelled_a_follower_takes_over():
    out = run("""
        import asyncio
        from ferrule import cached

        calls = 0

        @cached
        async def f(x):
            global calls
            calls += 1
            if calls == 1:
                await asyncio.Event().wait()
            return x * 2

        async def main():
            leader = asyncio.create_task(f(4))
            await asyncio.sleep(0)
            followers = [asyncio.create_task(f(4)) for _ in range(3)]
            for _ in range(5):
                await asyncio.sleep(0)
            leader.cancel()
            print(await asyncio.gather(*followers), calls)
            try:
                await leader
            except asyncio.CancelledError:
                print("cancelled")

        asyncio.run(main())
    """)
    assert out == "[8, 8, 8] 2\ncancelled\n"


def test_when_a_follower_is_cancelled_nobody_else_is():
    go_on = asyncio.Event()

    @cached
    async def f(x):
        await go_on.wait()
        return x

    async def main():
        leader, follower, other = (asyncio.create_task(f(1)) for _ in range(3))
        await asyncio.sleep(0.001)
        follower.cancel()
        await asyncio.sleep(0.001)
        go_on.set()
        assert await asyncio.wait_for(asyncio.gather(leader, other), LONG) == [1, 1]
        assert follower.cancelled()

    asyncio.run(main())


def test_a_leader_and_the_next_in_line_cancelled_together_leave_it_to_the_third():
    calls = 0

    @cached
    async def f(x):
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        return x

    async def main():
        tasks = [asyncio.create_task(f(1)) for _ in range(4)]
        await asyncio.sleep(0.001)
        tasks[0].cancel()
        tasks[1].cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LONG)
        assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
        assert results[2:] == [1, 1]

    asyncio.run(main())
    assert calls == 2


def test_a_leader_that_is_cancelled_alone_leaves_nothing_behind():
    turns = [False, True]

    @cached
    async def f(x):
        if turns.pop():
            await asyncio.Event().wait()
        return x

    async def main():
        leader = asyncio.create_task(f(1))
        await asyncio.sleep(0)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        assert f.cache_info().currsize == 0
        assert await asyncio.wait_for(f(1), LONG) == 1

    asyncio.run(main())


@pytest.mark.parametrize("keep", [False, True])
def test_a_computation_that_fails_fails_for_every_waiter(keep):
    begun, go_on = threading.Event(), threading.Event()
    calls = []
    error = KeyError("no such thing")

    @cached(cache_errors={KeyError: 60} if keep else None)
    def f(x):
        calls.append(x)
        begun.set()
        assert go_on.wait(LONG)
        raise error

    def caller():
        with pytest.raises(KeyError) as caught:
            f(1)
        return caught.value

    with ThreadPoolExecutor(4) as pool:
        waiters = [pool.submit(caller)]
        assert begun.wait(LONG)
        waiters += [pool.submit(caller) for _ in range(3)]
        wait_until(lambda: waiting_in(caller) == 3)
        time.sleep(0.02)  # from the last line of Python to the wait below it
        go_on.set()
        assert [waiter.result(LONG) for waiter in waiters] == [error] * 4
    assert calls == [1]
    assert f.cache_info().currsize == keep
    assert caller() is error
    assert len(calls) == (1 if keep else 2)


def test_a_coroutine_that_fails_fails_for_every_waiter_and_is_not_kept():
    calls = 0

    @cached
    async def f(x):
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.001)
        raise LookupError(x)

    async def main():
        results = await asyncio.wait_for(asyncio.gather(*(f(1) for _ in range(5)), return_exceptions=True), LONG)
        assert [type(result) for result in results] == [LookupError] * 5
        assert len({id(result) for result in results}) == 1
        assert calls == 1
        with pytest.raises(LookupError):
            await f(1)
        assert calls == 2

    asyncio.run(main())
    assert f.cache_info().currsize == 0


class Touchy:
    """A key whose comparison does what it is told."""

    def __init__(self, name, on_eq=None, on_hash=None):
        self.name, self.on_eq, self.on_hash = name, on_eq, on_hash

    def __hash__(self):
        if self.on_hash:
            self.on_hash()
        return 7

    def __eq__(self, other):
        if self.on_eq:
            self.on_eq()
        return isinstance(other, Touchy) and self.name == other.name


@pytest.mark.parametrize("decorator", [cached, cached(single_flight=False), lru_cache, cache])
def test_an_exception_of_a_keys_eq_comes_out_and_the_cache_stays_whole(decorator):
    def refuse():
        raise ArithmeticError("not comparable today")

    @decorator
    def f(key):
        return key.name

    kept = Touchy("a")
    assert f(kept) == "a"
    kept.on_eq = refuse
    with pytest.raises(ArithmeticError, match="not comparable today"):
        f(Touchy("b"))
    assert f.cache_info().currsize == 1
    kept.on_eq = None
    assert [f(Touchy("b")), f(Touchy("a")), f(Touchy("b"))] == ["b", "a", "b"]
    assert f.cache_info().currsize == 2


def test_an_exception_of_a_keys_hash_comes_out():
    def refuse():
        raise ArithmeticError("not hashable today")

    @cached
    def f(key):
        return key.name

    for call in (f, f.cache_peek, f.cache_invalidate):
        with pytest.raises(ArithmeticError, match="not hashable today"):
            call(Touchy("a", on_hash=refuse))
    assert f.cache_info() == CacheInfo(0, 0, 1024, 0)


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "action", ["f(1)", "f.cache_clear()", "f(other)", "f.cache_invalidate(other)", "f.cache_info()"]
)
def test_eq_hash_and_del_may_touch_the_same_cache(action):
    out = run(f"""
        from ferrule import cached

        busy = False

        def touch():
            global busy
            if not busy:
                busy = True
                {action}
                busy = False

        class Key:
            def __init__(self, name):
                self.name = name

            def __hash__(self):
                touch()
                return 3

            def __eq__(self, other):
                touch()
                return self.name == getattr(other, "name", None)

            def __del__(self):
                touch()

        @cached(maxsize=2)
        def f(key):
            return Key(0)

        other = Key("other")
        for round in range(50):
            f(Key(round % 5))
            f(other)
        f.cache_clear()
        print(f.cache_info().currsize <= 2)
        busy = True  # what is released at exit finds no names any more
    """)
    assert out == "True\n"


@pytest.mark.subprocess
def test_a_garbage_collector_that_runs_all_the_time_is_no_matter():
    out = run("""
        import gc
        import threading
        from ferrule import Cache, cached

        gc.set_threshold(1)
        shared = Cache(maxsize=3)

        class Node:
            def __init__(self):
                self.me = self

            def __del__(self):
                shared.get("gone")
                shared["gone"] = len(shared)

        @cached(maxsize=3, key=lambda x: (x, str(x)))
        def f(x):
            return [Node() for _ in range(3)]

        def work():
            for x in range(300):
                f(x % 7)
                shared[x % 7] = Node()
                shared.get_or_set((x, "y"), Node)

        threads = [threading.Thread(target=work) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(len(shared) <= 3, f.cache_info().currsize <= 3)
    """)
    assert out == "True True\n"


@pytest.mark.parametrize("decorator", [cached(maxsize=2), lru_cache(2)])
def test_an_entry_whose_keys_hash_changes_ages_out(decorator):
    class Moody:
        number = 1

        def __hash__(self):
            return self.number

    @decorator
    def f(key):
        return key

    moody = Moody()
    f(moody)
    Moody.number = 2
    assert f(moody) is moody
    assert f.cache_info().currsize == 2
    for x in range(5):
        f(x)
    assert f.cache_info().currsize == 2
    gone = weakref.ref(moody)
    del moody
    gc.collect()
    assert gone() is None


class Node:
    """Something that takes weak references."""


def test_a_cache_whose_value_refers_to_it_is_collected():
    node = Node()
    node.cache = Cache()
    node.cache["me"] = node
    node.cache[node] = [node.cache]
    gone = weakref.ref(node)
    del node
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("decorator", [cached, cached(ttl=60), lru_cache, cache])
def test_a_function_whose_closure_holds_its_decorated_self_is_collected(decorator):
    def make():
        node = Node()

        @decorator
        def f(x):
            return [node, f]

        f(1)
        f((2, node))
        return weakref.ref(node)

    gone = make()
    gc.collect()
    assert gone() is None


def test_a_coroutine_function_whose_closure_holds_its_decorated_self_is_collected():
    def make():
        node = Node()

        @cached
        async def f(x):
            return [node, f]

        asyncio.run(f(1))
        return weakref.ref(node)

    gone = make()
    gc.collect()
    assert gone() is None


def test_a_callback_that_holds_its_cache_is_collected_and_not_told_of_that():
    told = []

    def make():
        node = Node()
        node.cache = Cache(on_evict=lambda *evicted: told.append((evicted, node)))
        node.cache[1] = node
        return weakref.ref(node)

    gone = make()
    gc.collect()
    assert gone() is None
    assert told == []


@pytest.mark.parametrize(
    "settings", [{}, {"ttl": 60}, {"policy": "lfu"}, {"policy": "s3fifo"}, {"single_flight": False}]
)
def test_threads_never_exceed_maxsize_and_every_call_is_counted(settings):
    sizes = []

    @cached(maxsize=10, **settings)
    def f(x):
        sizes.append(f.cache_info().currsize)
        return x * 2

    def work(seed):
        wrong = 0
        for step in range(1_500):
            x = (step * 7 + seed * 13) % 23
            wrong += f(x) != x * 2
            if step % 50 == 0:
                sizes.append(f.cache_info().currsize)
        return wrong

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert in_threads(8, work) == [0] * 8
    finally:
        sys.setswitchinterval(before)
    info = f.cache_info()
    assert max(sizes) <= 10
    assert info.currsize == 10
    assert info.hits + info.misses == 8 * 1_500


def test_threads_that_also_clear_and_invalidate_get_right_values():
    @cached(maxsize=5, ttl=60)
    def f(x, y):
        return (x, y)

    def work(seed):
        for step in range(600):
            x = (step + seed) % 9
            assert f(x, y=1) == (x, 1)
            if step % 10 == 0:
                f.cache_invalidate(y=1, x=x)
            if step % 97 == 0:
                f.cache_clear()
            assert f.cache_info().currsize <= 5

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(8, work)
    finally:
        sys.setswitchinterval(before)


def test_the_wall_clock_makes_no_difference(manual_clock, monkeypatch):
    @cached(ttl=10)
    def f():
        return object()

    first = f()
    for wall in (0.0, 1e12):
        monkeypatch.setattr(time, "time", lambda wall=wall: wall)
        assert f() is first
    manual_clock.advance(10)
    assert f() is not first


@pytest.mark.parametrize("spell", ["f(1, 2)", "f(1, b=2)", "f(b=2, a=1)", "f(1)", "f(a=1)"])
def test_an_entry_can_be_invalidated_however_the_call_was_spelled(spell):
    @cached
    def f(a, b=2):
        return object()

    first = f(1)
    assert eval(spell) is first
    assert eval(spell.replace("f(", "f.cache_invalidate(")) is True
    assert eval(spell.replace("f(", "f.cache_invalidate(")) is False
    assert f(1) is not first


def test_a_coroutine_functions_result_is_kept_not_its_coroutine():
    @cached
    async def f(x):
        return [x]

    async def main():
        first = await f(1)
        assert first == [1]
        assert await f(1) is first
        assert await f(x=1) is first

    asyncio.run(main())
    assert f.cache_info() == CacheInfo(2, 1, 1024, 1)
    assert inspect.iscoroutinefunction(f)


@cached
def at_module_level(x):
    return [x]


@cached(ttl=60)
async def coroutine_at_module_level(x):
    return [x]


class Home:
    """Methods to be pickled by their qualified names."""

    @cached
    def method(self, x):
        return [x]

    @staticmethod
    @cached
    def static(x):
        return [x]


@pytest.mark.parametrize("function", [at_module_level, coroutine_at_module_level, Home.method, Home.static])
def test_a_decorated_function_is_copied_and_pickled_by_its_name(function):
    assert copy.copy(function) is function
    assert copy.deepcopy({"f": function})["f"] is function
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(function, protocol)) is function


def test_what_has_no_name_of_its_own_is_copied_as_itself():
    f = cached(functools.partial(pow, 2))
    assert copy.copy(f) is f
    assert copy.deepcopy([f])[0] is f


# -- keys -------------------------------------------------------------------------------------------------------------


def kept_as_one(function, *calls):
    """Whether calls, each `(args, kwargs)`, are one entry of the function."""
    results = {id(function(*args, **kwargs)) for args, kwargs in calls}
    return len(results) == 1 and function.cache_info().misses == 1


def call(*args, **kwargs):
    return args, kwargs


def made_at_run_time(name):
    """The same name, in a string that is not interned."""
    return "".join([*name])


def test_one_parameter_with_a_default_is_one_entry_however_it_comes():
    @cached
    def f(number=1):
        return object()

    at_run_time = made_at_run_time("number")
    assert kept_as_one(f, call(), call(1), call(number=1), call(**{at_run_time: 1}), call(1.0), call(True))
    assert f.cache_invalidate(number=1)


def test_positional_keyword_and_default_are_one_entry():
    @cached
    def f(a, b=2, *, c=3):
        return object()

    names = [made_at_run_time(name) for name in "abc"]
    assert kept_as_one(
        f,
        call(1),
        call(1, 2),
        call(1, 2, c=3),
        call(c=3, b=2, a=1),
        call(a=1),
        call(**dict(zip(names, (1, 2, 3), strict=True))),
    )
    assert f(1, 3) is not f(1)


def test_names_made_at_run_time_are_the_same_names():
    @cached
    def f(first, second):
        return object()

    names = {made_at_run_time("first"): 1, made_at_run_time("second"): 2}
    assert all(name is not interned for name, interned in zip(names, ("first", "second"), strict=True))
    assert kept_as_one(f, call(1, 2), call(**names), call(1, **{made_at_run_time("second"): 2}))


def test_further_arguments_are_told_apart_from_defaults_and_keywords():
    @cached
    def f(a, *args, b=0, **kwargs):
        return object()

    calls = [call(1), call(1, 0), call(1, 0, 0), call(1, c=0), call(1, 0, c=0), call(1, b=1), call(1, c=0, d=0)]
    calls += [call(1, d=0), call(1, "c", 0), call(1, ("c", 0))]
    results = [f(*args, **kwargs) for args, kwargs in calls]
    assert len(set(map(id, results))) == len(calls)
    assert f(1, d=0, c=0) is f(1, c=0, d=0) is f(c=0, a=1, d=0, b=0)
    assert f(1, b=0) is f(1)


def test_a_positional_only_name_may_be_a_keyword_too():
    @cached
    def f(a, /, **kwargs):
        return (a, kwargs)

    assert f(1, a=2) == (1, {"a": 2})
    assert f(1, a=3) == (1, {"a": 3})
    assert f(1) == (1, {})
    assert f(1, a=2) is f(1, **{made_at_run_time("a"): 2})
    with pytest.raises(TypeError, match="positional"):
        f(a=1)


def test_many_arguments_are_all_told_apart():
    names = [f"p{number}" for number in range(12)]
    scope = {}
    exec(f"def f({', '.join(names)}): return object()", scope)
    f = cached(scope["f"])
    first = f(*range(12))
    assert f(**dict(zip(reversed(names), reversed(range(12)), strict=True))) is first
    for place in range(12):
        changed = [*range(12)]
        changed[place] = -5
        assert f(*changed) is not first
    assert f.cache_info().misses == 13


def test_equal_arguments_are_one_entry_unless_typed():
    @cached
    def loose(x, y=0):
        return object()

    @cached(typed=True)
    def typed(x, y=0):
        return object()

    @cached(typed=True)
    def single(x):
        return object()

    assert loose(3) is loose(3.0)
    assert loose(1) is loose(True)
    assert typed(3) is typed(3) is typed(x=3, y=0)
    assert typed(3) is not typed(3.0)
    assert typed(3, y=0) is not typed(3, y=0.0)
    assert single(1) is not single(True)
    assert single(1) is single(x=1)
    assert typed((3,)) is typed((3.0,))


def test_ignored_parameters_make_no_difference():
    @cached(ignore=("session", "verbose"))
    def f(session, url, verbose=0):
        return object()

    assert kept_as_one(f, call([], "u"), call({}, url="u", verbose=True), call(session=None, url="u"))
    assert f([], "v") is not f([], "u")
    assert f.cache_invalidate(None, "u")


def test_what_is_ignored_must_be_a_parameter():
    with pytest.raises(ValueError, match=r"ignore: .* has no parameter 'sesion'; it has session, url"):

        @cached(ignore=["sesion"])
        def f(session, url):
            pass


def test_a_key_function_is_called_with_the_call_as_it_was_made():
    seen = []

    def key(*args, **kwargs):
        seen.append((args, kwargs))
        return "the key"

    @cached(key=key)
    def f(a, b=2):
        return object()

    assert f([1], b={}) is f({"x": 1})
    assert seen == [(([1],), {"b": {}}), (({"x": 1},), {})]

    class C:
        @cached(key=lambda self, x: x % 10)
        def m(self, x):
            return object()

    assert C().m(3) is C().m(13)


def test_an_exception_of_a_key_function_comes_out():
    @cached(key=lambda x: x["id"])
    def f(x):
        return x

    with pytest.raises(KeyError, match="id"):
        f({})
    assert f.cache_info() == CacheInfo(0, 0, 1024, 0)


@pytest.mark.parametrize("arguments", [call([]), call(1, []), call(b=[], a=1), call(1, 2, {})])
def test_an_argument_that_cannot_be_hashed_is_a_type_error(arguments):
    @cached
    def f(a, b=1, *rest):
        raise AssertionError("never called")

    with pytest.raises(TypeError, match="unhashable"):
        f(*arguments[0], **arguments[1])
    assert f.cache_info() == CacheInfo(0, 0, 1024, 0)


@pytest.mark.parametrize(
    "arguments", [call(), call(1, 2, 3), call(1, a=1), call(1, c=2), call(b=1), call(1, 2, b=3), call(**{"1": 1})]
)
@pytest.mark.parametrize("single", [False, True])
def test_a_wrong_call_gets_the_functions_own_error_and_counts_nothing(arguments, single):
    def plain(a, b=1):
        pass

    def lonely(a):
        pass

    function = lonely if single else plain
    with pytest.raises(TypeError) as expected:
        function(*arguments[0], **arguments[1])
    f = cached(function)
    with pytest.raises(TypeError, match=re.escape(str(expected.value))):
        f(*arguments[0], **arguments[1])
    assert f.cache_info() == CacheInfo(0, 0, 1024, 0)
    with pytest.raises(TypeError, match="the function can't be called with these arguments"):
        f.cache_invalidate(*arguments[0], **arguments[1])


def test_a_wrong_call_of_a_coroutine_function_gets_its_own_error():
    @cached
    async def f(a):
        pass

    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'a'"):
        asyncio.run(f())
    assert f.cache_info() == CacheInfo(0, 0, 1024, 0)


def test_a_key_is_hashed_once_a_call():
    hashes = 0

    def count():
        nonlocal hashes
        hashes += 1

    @cached
    def one(x):
        return x.name

    @cached
    def two(x, y=0, *, z=0):
        return x.name

    with_keyword = functools.partial(two, z=2)
    for function in (one, two, with_keyword, lru_cache(two.__wrapped__), cache(one.__wrapped__)):
        for name in "aba":
            hashes = 0
            function(Touchy(name, on_hash=count))
            assert hashes == 1


def test_what_has_no_signature_is_kept_by_spelling():
    class Opaque:
        __signature__ = "none"

        def __call__(self, *args, **kwargs):
            return object()

    f = cached(Opaque())
    assert f(1, a=2) is f(1, a=2)
    assert f(a=1) is not f(1)


def test_functions_of_every_make_can_be_cached():
    class Callable:
        def __call__(self, x):
            return [x]

    class Fixed:
        f = functools.partial(lambda x: [x])

    for function in (Callable(), functools.partial(lambda y, x: [x], 0), sorted, Callable().__call__, Fixed.f):
        f = cached(function)
        assert f((1,)) is f((1,))
        assert f.cache_info().hits == 1


# -- methods ----------------------------------------------------------------------------------------------------------


class Shape:
    """Equal to every other, so that it shows whether instances are kept apart."""

    def __init__(self, name=""):
        self.name = name

    def __eq__(self, other):
        return isinstance(other, Shape)

    def __hash__(self):
        return 5

    @cached
    def area(self, scale=1):
        return [self.name, scale]

    @property
    @cached
    def corners(self):
        return [self.name]

    @classmethod
    @cached
    def named(cls, name):
        return [cls, name]

    @cached
    @classmethod
    def renamed(cls, name):
        return [cls, name]

    @staticmethod
    @cached
    def static(x):
        return [x]

    @cached
    @staticmethod
    def outer_static(x):
        return [x]


class Square(Shape):
    """A subclass, for class methods."""


@pytest.fixture(autouse=True)
def _no_shapes():
    for function in (Shape.area, Shape.static):
        function.cache_clear()


def test_equal_instances_are_kept_apart():
    one, other = Shape("one"), Shape("other")
    assert one.area() == ["one", 1]
    assert other.area() == ["other", 1]
    assert one.area() is one.area(1) is one.area(scale=1) is Shape.area(one)
    assert Shape.area.cache_info() == CacheInfo(4, 2, 1024, 2)


def test_a_methods_entries_go_with_the_instance():
    one, other = Shape("one"), Shape("other")
    for scale in range(5):
        one.area(scale)
        other.area(scale)
    del one
    gc.collect()
    assert Shape.area.cache_info().currsize == 5
    kept = other.area(3)
    assert other.area(3) is kept
    del other
    gc.collect()
    assert Shape.area.cache_info().currsize == 0


def test_maxsize_bounds_all_instances_together():
    class C:
        @cached(maxsize=4)
        def m(self, x):
            return x

    instances = [C() for _ in range(6)]
    for instance in instances:
        instance.m(1)
    assert C.m.cache_info().currsize == 4


@pytest.mark.parametrize("single_flight", [True, False])
def test_an_entry_in_the_slot_of_one_that_was_evicted_outlives_the_others_instance(single_flight):
    shared = Cache(maxsize=1)

    class C:
        @cached(cache=shared, single_flight=single_flight)
        def m(self, x):
            return [x]

    one, other = C(), C()
    one.m(1)
    kept = other.m(1)
    del one
    gc.collect()
    assert other.m(1) is kept
    del other
    gc.collect()
    assert len(shared) == 0


def test_an_instance_at_the_address_of_one_that_has_gone_gets_none_of_its_entries():
    class C:
        def __init__(self, number):
            self.number = number

        @cached(maxsize=3)
        def m(self):
            return self.number

    for number in range(200):
        assert C(number).m() == number
    # Entries that were evicted leave nothing behind that would bind a new instance to an old one.
    keep = [C(number) for number in range(10)]
    assert [each.m() for each in keep] == list(range(10))
    del keep
    gc.collect()
    assert C.m.cache_info().currsize == 0


def test_single_flight_or_not_and_set_by_hand_a_methods_entries_go_with_the_instance():
    class C:
        @cached(single_flight=False)
        def beside(self):
            return object()

        @cached
        def by_hand(self):
            return object()

        @cached
        async def awaited(self):
            return object()

    instance = C()
    instance.beside()
    C.by_hand.cache_set("value", instance)
    C.by_hand.cache_refresh(instance)
    asyncio.run(instance.awaited())
    functions = (C.beside, C.by_hand, C.awaited)
    assert [function.cache_info().currsize for function in functions] == [1, 1, 1]
    del instance
    gc.collect()
    assert [function.cache_info().currsize for function in functions] == [0, 0, 0]


def test_an_instance_that_goes_is_told_of_as_collected():
    told = []

    class C:
        @cached(on_evict=lambda key, value, cause: told.append((key[1], value, cause)))
        def m(self, x):
            return x * 2

    instance = C()
    instance.m(4)
    del instance
    gc.collect()
    assert told == [(4, 8, "collected")]


def test_an_instance_without_weak_references_is_a_key_by_its_value():
    class Point:
        __slots__ = ("x",)

        def __init__(self, x):
            self.x = x

        def __hash__(self):
            return hash(self.x)

        def __eq__(self, other):
            return self.x == other.x

        @cached
        def m(self):
            return object()

    assert Point(1).m() is Point(1).m()
    assert Point(1).m() is not Point(2).m()


def test_one_entry_of_one_instance_can_be_invalidated():
    one, other = Shape("one"), Shape("other")
    first, second = one.area(2), other.area(2)
    assert Shape.area.cache_peek(one, 2) is first
    assert Shape.area.cache_invalidate(one, scale=2)
    assert one.area(2) is not first
    assert other.area(2) is second


def test_property_class_method_and_static_method():
    one, other = Shape("one"), Shape("other")
    assert one.corners is one.corners
    assert other.corners == ["other"]
    assert Shape.named("x") is Shape.named("x") is one.named(name="x")
    assert Square.named("x") == [Square, "x"]
    assert Shape.renamed("x") is one.renamed("x")
    assert Square.renamed("x") == [Square, "x"]
    assert Shape.static(1) is one.static(x=1)
    assert Shape.outer_static(1) is one.outer_static(x=1)
    assert Shape.static.cache_info().hits == 1


def test_a_class_goes_with_its_class_methods_entries():
    def make():
        class C:
            @classmethod
            @cached
            def m(cls):
                return cls

        C.m()
        return weakref.ref(C)

    gone = make()
    gc.collect()
    if gone() is not None and not sys.version_info >= (3, 14) and not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("3.13's free-threaded build keeps every class for ever once threads have run")
    assert gone() is None


def test_under_another_decorator_it_is_still_a_method():
    def passing(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            return function(*args, **kwargs)

        return inner

    class C:
        @passing
        @cached
        def above(self):
            return [self]

        @cached
        @passing
        def below(self):
            return [id(self)]

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

    one, other = C(), C()
    assert one.above()[0] is one
    assert other.above()[0] is other
    assert one.below() != other.below()
    assert one.below() is one.below()


def test_one_function_in_two_classes_and_late_assignment_as_told():
    def name(self):
        return object()

    by_value = cached(name)
    by_identity = cached(method=True)(name)

    class One:
        value, identity = by_value, by_identity

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

    class Two:
        identity = by_identity

    Two.value = by_value
    one, other, two = One(), One(), Two()
    # Nothing in its name says that it is a method: by value, as any function.
    assert one.value() is other.value()
    assert one.identity() is one.identity()
    assert one.identity() is not other.identity()
    assert two.identity() is two.identity()
    assert two.value() is two.value()
    gone = weakref.ref(two)
    by_value.cache_clear()
    del two
    gc.collect()
    assert gone() is None


def test_a_function_that_is_no_method_can_say_so():
    class C:
        @cached(method=False)
        def m(self):
            return object()

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

    assert C().m() is C().m()


def test_an_ignored_instance_makes_no_difference_and_takes_nothing_with_it():
    class C:
        @cached(ignore=["self"])
        def m(self, x):
            return [x]

    one = C()
    first = one.m(1)
    del one
    gc.collect()
    assert C().m(1) is first


def test_a_method_may_take_the_weak_reference_of_another_instance():
    class C:
        @cached
        def m(self, other):
            return [other]

    one, other = C(), C()
    kept = one.m(weakref.ref(other))
    other.m(1)
    reference = weakref.ref(other)
    del other
    gc.collect()
    assert one.m(reference) is kept
    assert C.m.cache_info().currsize == 1


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [10, 10.0, timedelta(seconds=10)])
def test_after_its_ttl_a_result_is_computed_anew(manual_clock, ttl):
    @cached(ttl=ttl)
    def f(x):
        return object()

    first = f(1)
    manual_clock.advance(9.99)
    assert f(1) is first
    manual_clock.advance(0.01)
    second = f(1)
    assert second is not first
    manual_clock.advance(9.99)
    assert f(1) is second
    stats = f.cache_stats()
    assert (stats.hits, stats.misses, stats.expirations, stats.evictions) == (2, 2, 1, 0)


def test_a_ttl_begins_when_the_result_is_there(manual_clock):
    @cached(ttl=10)
    def f():
        manual_clock.advance(8)
        return object()

    first = f()
    manual_clock.advance(9)
    assert f() is first


def test_a_timer_of_ones_own_is_asked_for_the_time():
    now = 100.0

    @cached(ttl=5, timer=lambda: now)
    def f():
        return object()

    first = f()
    now = 104.9
    assert f() is first
    now = 50.0  # set back: nothing dies of that
    assert f() is first
    now = 105.0
    assert f() is not first


@pytest.mark.parametrize("broken", ["raises", "returns a string"])
def test_a_timer_that_fails_says_so_and_leaves_nobody_waiting(broken):
    answers = []

    def timer():
        if not answers:
            return 1.0
        if answers.pop(0):
            return 1.0
        if broken == "raises":
            raise OSError("no time")
        return "late"

    @cached(ttl=5, timer=timer)
    def f(x):
        return x

    error = OSError if broken == "raises" else TypeError
    for failing in ([False], [True, False]):
        answers[:] = failing
        with pytest.raises(error):
            f(1)
    answers.clear()
    assert in_threads(2, lambda index: f(1)) == [1, 1]


def test_a_stale_value_is_given_out_while_one_thread_refreshes_it(manual_clock):
    go_on, refreshed = threading.Event(), threading.Event()
    variable = contextvars.ContextVar("variable", default="nowhere")
    calls = []

    @cached(ttl=10, stale=20)
    def f(x):
        calls.append((threading.current_thread().name, variable.get()))
        if len(calls) > 1:
            assert go_on.wait(LONG)
            refreshed.set()
        return len(calls)

    assert f(1) == 1
    manual_clock.advance(15)
    variable.set("the caller's")
    assert [f(1) for _ in range(5)] == [1] * 5
    assert f.cache_peek(1) == 1
    go_on.set()
    assert refreshed.wait(LONG)
    wait_until(lambda: f.cache_peek(1) == 2)
    assert f(1) == 2
    assert calls == [(threading.current_thread().name, "nowhere"), ("ferrule refresher", "the caller's")]
    manual_clock.advance(31)
    assert f(1) == 3
    assert f.cache_info() == CacheInfo(6, 2, 1024, 1)


def test_a_refresh_that_fails_keeps_the_old_value_is_logged_and_tried_again(manual_clock, caplog):
    calls = 0

    @cached(ttl=10, stale=100)
    def f():
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise OSError("the server is away")
        return calls

    caplog.set_level(logging.WARNING, "ferrule")
    assert f() == 1
    manual_clock.advance(20)
    for failures in (1, 2):
        assert f() == 1
        wait_until(lambda failures=failures: len(caplog.records) == failures)
    assert f() == 1
    wait_until(lambda: f.cache_peek() == 4)
    record = caplog.records[0]
    assert record.name == "ferrule.caching"
    assert record.levelname == "WARNING"
    assert record.message.startswith("refreshing ")
    assert record.message.endswith(".f failed: the old value stays")
    assert record.ferrule_name.endswith(".f")
    assert record.exc_info[0] is OSError


def test_a_stale_value_of_a_coroutine_function_is_refreshed_by_a_task(manual_clock, caplog):
    calls = 0

    async def main():
        nonlocal calls
        go_on = asyncio.Event()

        @cached(ttl=10, stale=100)
        async def f(x):
            nonlocal calls
            calls += 1
            if calls == 2:
                await go_on.wait()
                raise OSError("the server is away")
            return calls

        assert await f(1) == 1
        manual_clock.advance(20)
        assert [await f(1) for _ in range(4)] == [1] * 4
        await asyncio.sleep(0)
        assert calls == 2
        assert await f(1) == 1
        go_on.set()
        await until(lambda: caplog.records)
        assert f.cache_peek(1) == 1
        assert await f(1) == 1
        await until(lambda: f.cache_peek(1) != 1)
        assert await f(1) == 3
        manual_clock.advance(111)
        assert await f(1) == 4

    caplog.set_level(logging.WARNING, "ferrule")
    asyncio.run(asyncio.wait_for(main(), LONG))
    assert len(caplog.records) == 1
    assert "f failed: the old value stays" in caplog.text


def test_a_stale_entry_can_be_invalidated(manual_clock):
    @cached(ttl=10, stale=100)
    def f():
        return object()

    first = f()
    manual_clock.advance(20)
    assert f.cache_peek() is first
    assert f.cache_invalidate()
    assert f() is not first


@pytest.mark.subprocess
def test_exit_does_not_wait_for_a_refresh():
    out = run("""
        import threading
        from ferrule import cached

        now = 0
        refreshing = threading.Event()
        calls = 0

        @cached(ttl=1, stale=10, timer=lambda: now)
        def f():
            global calls
            calls += 1
            if calls > 1:
                refreshing.set()
                threading.Event().wait()
            return calls

        f()
        now = 5
        print(f())
        refreshing.wait()
    """)
    assert out == "1\n"


def test_errors_are_kept_for_their_own_time(manual_clock):
    calls = 0

    @cached(cache_errors={KeyError: 5, OSError: timedelta(seconds=50), ZeroDivisionError: float("inf")})
    def f(kind):
        nonlocal calls
        calls += 1
        raise kind(calls)

    for kind in (KeyError, FileNotFoundError, ZeroDivisionError, ValueError):
        with pytest.raises(kind):
            f(kind)
    assert f.cache_info().currsize == 3
    for after, anew in ((4.9, 0), (0.2, 1), (45, 2), (1e6, 2)):
        manual_clock.advance(after)
        calls = 0
        for kind in (KeyError, FileNotFoundError, ZeroDivisionError):
            with pytest.raises(kind):
                f(kind)
        assert calls == anew


@pytest.mark.parametrize("single_flight", [True, False])
def test_errors_of_coroutine_functions_are_kept_too(manual_clock, single_flight):
    calls = 0

    @cached(cache_errors={KeyError: 5}, single_flight=single_flight)
    async def f(x):
        nonlocal calls
        calls += 1
        raise KeyError(x)

    async def main():
        for _ in range(3):
            with pytest.raises(KeyError):
                await f(1)
        assert calls == 1
        manual_clock.advance(5)
        with pytest.raises(KeyError):
            await f(1)
        assert calls == 2

    asyncio.run(main())


def test_errors_are_kept_without_single_flight_too():
    calls = 0

    @cached(cache_errors={KeyError: 5}, single_flight=False)
    def f(x, *, y=0):
        nonlocal calls
        calls += 1
        raise KeyError(x)

    for arguments in (call(1), call(1, y=1), call(x=1, y=1), call(1)):
        with pytest.raises(KeyError):
            f(*arguments[0], **arguments[1])
    assert calls == 2
    assert f.cache_invalidate(1)
    assert not f.cache_invalidate(1)


def test_an_error_that_is_raised_often_does_not_grow():
    @cached(cache_errors={KeyError: 60})
    def f():
        raise KeyError

    lengths = []
    for _ in range(10):
        with pytest.raises(KeyError) as caught:
            f()
        lengths.append(len(caught.traceback))
    assert len(set(lengths[1:])) == 1


def test_a_kept_error_is_no_value():
    @cached(cache_errors={KeyError: 60})
    def f():
        raise KeyError

    with pytest.raises(KeyError):
        f()
    assert f.cache_peek() is None
    assert f.cache_invalidate()


# -- one computation at a time ----------------------------------------------------------------------------------------


def followers_of(call, count, begun, go_on):
    """Let one thread lead and others follow, then go on; return what came out."""
    with ThreadPoolExecutor(count + 1) as pool:
        leader = pool.submit(call)
        assert begun.wait(LONG)
        others = [pool.submit(call) for _ in range(count)]
        wait_until(lambda: waiting_in(call) == count)
        time.sleep(0.02)  # from the last line of Python to the wait below it
        go_on.set()
        return [each.result(LONG) for each in (leader, *others)]


@pytest.mark.parametrize("shape", ["simple", "keyword", "method", "shared", "key", "typed", "weighed"])
def test_many_threads_wait_for_one_computation(shape):
    begun, go_on = threading.Event(), threading.Event()
    calls = []

    def work(x):
        calls.append(x)
        begun.set()
        assert go_on.wait(LONG)
        return object()

    class C:
        @cached
        def m(self, x):
            return work(x)

    if shape == "method":
        instance = C()
        f, info = instance.m, C.m.cache_info
    else:
        settings = {
            "shared": {"cache": Cache()},
            "key": {"key": str},
            "typed": {"typed": True},
            "weighed": {"cache": Cache(weigher=lambda key, value: 2)},
        }
        f = cached(**settings.get(shape, {}))(work)
        info = f.cache_info

    def caller():
        return f(x=1) if shape == "keyword" else f(1)

    results = followers_of(caller, 5, begun, go_on)
    assert len(set(map(id, results))) == 1
    assert calls == [1]
    assert info()[:2] == (5, 1)


def test_without_single_flight_each_computes_and_the_last_is_kept():
    barrier = threading.Barrier(4, timeout=LONG)

    @cached(single_flight=False)
    def f(x):
        barrier.wait()
        return object()

    results = in_threads(4, lambda index: f(1))
    assert len(set(map(id, results))) == 4
    kept = f(1)
    assert any(kept is result for result in results)
    assert f.cache_info() == CacheInfo(1, 4, 1024, 1)


def test_nothing_is_kept_with_maxsize_zero_and_waiters_still_share():
    begun, go_on = threading.Event(), threading.Event()
    calls = 0

    @cached(maxsize=0)
    def f(x):
        nonlocal calls
        calls += 1
        begun.set()
        assert go_on.wait(LONG)
        return object()

    def caller():
        return f(1)

    assert len(set(map(id, followers_of(caller, 3, begun, go_on)))) == 1
    f(1)
    assert calls == 2
    f.cache_set("value", 1)
    f.cache_refresh(1)
    assert f.cache_info().currsize == 0
    assert f.cache_info().maxsize == 0


@pytest.mark.parametrize("single_flight", [True, False])
def test_coroutine_functions_with_maxsize_zero_keep_nothing(single_flight):
    @cached(maxsize=0, single_flight=single_flight)
    async def f(x):
        return object()

    async def main():
        assert await f(1) is not await f(1)
        await f.cache_refresh(1)

    asyncio.run(main())
    assert f.cache_info() == CacheInfo(0, 2, 0, 0)


def test_clear_or_invalidate_during_a_computation_keeps_its_result_out():
    begun, go_on = threading.Event(), threading.Event()

    for drop in ("cache_clear", "cache_invalidate"):
        begun.clear()
        go_on.clear()

        @cached
        def f(x=1):
            begun.set()
            assert go_on.wait(LONG)
            return "old"

        with ThreadPoolExecutor(1) as pool:
            old = pool.submit(f)
            assert begun.wait(LONG)
            getattr(f, drop)()
            go_on.set()
            assert old.result(LONG) == "old"
        assert f.cache_peek() is None
        assert f.cache_info().currsize == 0


def test_a_value_that_is_set_during_a_computation_stays():
    begun, go_on = threading.Event(), threading.Event()

    @cached
    def f(x):
        begun.set()
        assert go_on.wait(LONG)
        return "computed"

    with ThreadPoolExecutor(1) as pool:
        computed = pool.submit(f, 1)
        assert begun.wait(LONG)
        f.cache_set("set", 1)
        go_on.set()
        assert computed.result(LONG) == "computed"
    assert f(1) == "set"


def test_when_the_leader_is_interrupted_a_follower_takes_over():
    begun, go_on = threading.Event(), threading.Event()
    calls = 0

    @cached
    def f(x):
        nonlocal calls
        calls += 1
        if calls == 1:
            begun.set()
            assert go_on.wait(LONG)
            raise KeyboardInterrupt
        return x

    def caller():
        try:
            return f(1)
        except KeyboardInterrupt:
            return "interrupted"

    assert sorted(map(str, followers_of(caller, 4, begun, go_on))) == ["1", "1", "1", "1", "interrupted"]
    assert calls == 2


@pytest.mark.subprocess
def test_a_follower_can_be_interrupted():
    out = run("""
        import os
        import signal
        import threading
        import time
        from ferrule import cached

        begun, go_on = threading.Event(), threading.Event()

        @cached
        def f(x):
            begun.set()
            go_on.wait()
            return x

        thread = threading.Thread(target=f, args=(1,))
        thread.start()
        begun.wait()
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            f(1)
        except KeyboardInterrupt:
            print("interrupted")
        go_on.set()
        thread.join()
        print(f(1))
    """)
    assert out == "interrupted\n1\n"


def test_many_tasks_wait_for_one_computation():
    calls = 0

    @cached
    async def f(x):
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.001)
        return object()

    async def main():
        results = await asyncio.wait_for(asyncio.gather(*(f(1) for _ in range(50)), *(f(x=2) for _ in range(50))), LONG)
        assert len(set(map(id, results))) == 2

    asyncio.run(main())
    assert calls == 2
    assert f.cache_info() == CacheInfo(98, 2, 1024, 2)


def test_tasks_of_two_event_loops_wait_for_one_computation():
    begun, go_on = threading.Event(), threading.Event()
    calls = 0

    @cached
    async def f(x):
        nonlocal calls
        calls += 1
        begun.set()
        await until(go_on.is_set)
        return object()

    async def one():
        return await asyncio.wait_for(f(1), LONG)

    async def another():
        assert await asyncio.to_thread(begun.wait, LONG)
        waits = [asyncio.create_task(f(1)) for _ in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        go_on.set()
        return await asyncio.wait_for(asyncio.gather(*waits), LONG)

    with ThreadPoolExecutor(2) as pool:
        first, others = pool.submit(asyncio.run, one()), pool.submit(asyncio.run, another())
        results = [first.result(LONG), *others.result(LONG)]
    assert len(set(map(id, results))) == 1
    assert calls == 1


@pytest.mark.subprocess
def test_coroutines_that_gather_themselves_compute_through():
    out = run("""
        import asyncio
        from ferrule import cached

        @cached
        async def f(x, depth):
            if depth:
                return sum(await asyncio.gather(f(x, depth), *(g(x, y) for y in range(3))))
            return 1

        @cached
        async def g(x, depth):
            return await f(x, depth - 1) if depth else 1

        calls = 0

        @cached
        async def again(x):
            global calls
            calls += 1
            return sum(await asyncio.gather(again(x), again(x))) if calls < 4 else 1

        async def main():
            print(await asyncio.wait_for(again(1), 20))
            print(await asyncio.wait_for(f(1, 0), 20))

        asyncio.run(main())
    """)
    assert out.splitlines()[1] == "1"


@pytest.mark.subprocess
def test_tasks_that_need_each_other_through_gather_compute_through():
    out = run("""
        import asyncio
        from ferrule import cached

        entered = 0

        async def main():
            both = asyncio.Event()

            @cached
            async def f(x):
                global entered
                entered += 1
                if entered > 2:
                    return x
                if entered == 2:
                    both.set()
                await both.wait()
                # In a task of its own: the one who waits isn't the one who leads.
                return sum(await asyncio.gather(f(3 - x)))

            print(sorted(await asyncio.wait_for(asyncio.gather(f(1), f(2)), 20)))
            print(f.cache_info().currsize)

        asyncio.run(main())
    """)
    assert out.splitlines()[1] == "2"


@pytest.mark.subprocess
def test_a_circle_of_tasks_compute_through_by_awaiting_directly():
    out = run("""
        import asyncio
        from ferrule import Cache

        async def main():
            cache = Cache()
            everybody = asyncio.Barrier(3)

            async def outer(x):
                async def compute():
                    await everybody.wait()
                    return await cache.get_or_set_async((x + 1) % 3, through)
                return await cache.get_or_set_async(x, compute)

            async def through():
                return "through"

            print(await asyncio.wait_for(asyncio.gather(*map(outer, range(3))), 20))

        asyncio.run(main())
    """)
    assert out == "['through', 'through', 'through']\n"


@pytest.mark.subprocess
def test_a_thread_does_not_wait_for_a_task_of_the_loop_that_it_would_stop():
    out = run("""
        import asyncio
        from ferrule import Cache

        cache = Cache()

        async def slowly():
            await asyncio.sleep(0.05)
            return "computed by the task"

        async def main():
            task = asyncio.create_task(cache.get_or_set_async("key", slowly))
            await asyncio.sleep(0)
            print(cache.get_or_set("key", lambda: "computed by the thread"))
            print(await task)

        asyncio.run(asyncio.wait_for(main(), 20))
    """)
    assert out == "computed by the thread\ncomputed by the task\n"


@pytest.mark.subprocess
def test_a_worker_thread_does_not_wait_for_the_task_that_waits_for_it():
    out = run("""
        import asyncio
        from ferrule import Cache

        cache = Cache()

        async def compute():
            return await asyncio.to_thread(cache.get_or_set, "key", lambda: "computed by the thread")

        print(asyncio.run(asyncio.wait_for(cache.get_or_set_async("key", compute), 20)))
    """)
    assert out == "computed by the thread\n"


@pytest.mark.subprocess
def test_a_task_does_not_wait_for_the_thread_that_runs_its_loop():
    out = run("""
        import asyncio
        from ferrule import Cache

        cache = Cache()

        async def other():
            return "computed by the task"

        async def main():
            return await asyncio.wait_for(cache.get_or_set_async("key", other), 20)

        print(cache.get_or_set("key", lambda: asyncio.run(main())))
    """)
    assert out == "computed by the task\n"


@pytest.mark.subprocess
@pytest.mark.parametrize("task_first", [True, False])
def test_a_circle_of_a_thread_and_a_task_computes_through(task_first):
    # One thread computes "thread" in a loop of its own and wants "task"; a task on another thread computes "task", and
    # wants "thread" without awaiting it.
    out = run(f"""
        import asyncio
        import threading
        import time
        from ferrule import Cache

        cache = Cache()
        both = threading.Barrier(2, timeout=20)
        task_first = {task_first}

        def leads_a_thread():
            async def main():
                both.wait()
                if not task_first:
                    time.sleep(0.2)
                return await cache.get_or_set_async("task", through)
            return cache.get_or_set("thread", lambda: asyncio.run(main()))

        def leads_a_task():
            async def compute():
                both.wait()
                if task_first:
                    time.sleep(0.2)
                return cache.get_or_set("thread", lambda: "through")
            return asyncio.run(cache.get_or_set_async("task", compute))

        async def through():
            return "through"

        results = []
        threads = [
            threading.Thread(target=lambda function=function: results.append(function()), daemon=True)
            for function in (leads_a_thread, leads_a_task)
        ]
        [thread.start() for thread in threads]
        [thread.join(20) for thread in threads]
        print(results)
    """)
    assert out == "['through', 'through']\n"


def test_a_coroutine_that_is_never_finished_leaves_its_key_free():
    @cached
    async def f(x):
        await asyncio.sleep(0)
        return x

    async def main():
        first = f(1)
        first.send(None)
        first.close()
        assert await asyncio.wait_for(f(1), LONG) == 1

    asyncio.run(main())


# -- what else it can do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "calls", "left"),
    [
        ("lru", [1, 2, 3, 1, 4], [1, 3, 4]),
        ("fifo", [1, 2, 3, 1, 4], [2, 3, 4]),
        ("lfu", [1, 1, 1, 2, 2, 3, 4, 5], [1, 2, 5]),
        ("s3fifo", [1, 1, 1, 2, 3, 4, 5, 6], [1, 5, 6]),
    ],
)
@pytest.mark.parametrize("of", ["single", "many", "async"])
def test_the_policy_says_what_goes(policy, calls, left, of):
    if of == "async":

        @cached(policy=policy, maxsize=3)
        async def g(x):
            return x

        def f(x):
            return asyncio.run(g(x))

        f.cache_peek = g.cache_peek
    else:

        @cached(policy=policy, maxsize=3, typed=of == "many")
        def f(x):
            return x

    for x in calls:
        f(x)
    assert [x for x in range(10) if f.cache_peek(x) is not None] == left


def test_on_evict_is_told_the_cause(manual_clock):
    told = []

    def on_evict(*evicted):
        told.append(evicted)

    @cached(maxsize=2, ttl=10, on_evict=on_evict)
    def f(x):
        return x * 10

    for x in (1, 2, 3):
        f(x)
    assert told == [(1, 10, "size")]
    told.clear()
    f.cache_set(21, 2)
    f.cache_refresh(2)
    assert told == [(2, 20, "replaced"), (2, 21, "replaced")]
    told.clear()
    f.cache_invalidate(x=2)
    assert told == [(2, 20, "invalidated")]
    told.clear()
    manual_clock.advance(10)
    f(3)
    assert told == [(3, 30, "expired")]
    told.clear()
    f.cache_clear()
    assert told == [(3, 30, "cleared")]
    told.clear()

    weak = Cache(weak_values=True, on_evict=on_evict)
    weak["node"] = node = Node()
    del node
    gc.collect()
    assert "node" not in weak
    assert weak.expire() == 1
    assert told == [("node", None, "collected")]


def test_on_evict_gets_the_arguments_of_a_call_with_several():
    told = []

    @cached(maxsize=1, on_evict=lambda *evicted: told.append(evicted))
    def f(a, b=2):
        return a + b

    f(1)
    f(b=5, a=1)
    assert told == [((1, 2), 3, "size")]


def test_what_on_evict_raises_is_told_to_the_unraisable_hook(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: heard.append((told.exc_type, str(told.exc_value))))

    def on_evict(key, value, cause):
        raise OSError(f"{key} {cause}")

    @cached(maxsize=1, on_evict=on_evict)
    def f(x):
        return x

    assert [f(1), f(2), f(3)] == [1, 2, 3]
    f.cache_clear()
    assert heard == [(OSError, "1 size"), (OSError, "2 size"), (OSError, "3 cleared")]


def test_on_evict_may_use_the_cache():
    @cached(maxsize=2, on_evict=lambda key, value, cause: key < 5 and f(key + 5))
    def f(x):
        return x

    for x in range(5):
        assert f(x) == x
    assert f.cache_info().currsize == 2


def test_two_functions_share_a_cache_and_keep_apart():
    shared = Cache(maxsize=3)

    @cached(cache=shared)
    def f(x):
        return ["f", x]

    @cached(cache=shared)
    async def g(x):
        return ["g", x]

    assert f(1) == ["f", 1]
    assert asyncio.run(g(1)) == ["g", 1]
    assert f(1) is f(x=1)
    assert len(shared) == 2
    assert f.cache_info().currsize == g.cache_info().currsize == 2
    f(2)
    f(3)
    assert len(shared) == 3
    assert f.cache_invalidate(3)
    assert len(shared) == 2
    shared.clear()
    assert f.cache_peek(2) is None


def test_a_shared_cache_with_a_weigher_returns_what_it_cannot_keep():
    for single_flight in (True, False):
        shared = Cache(maxsize=10, weigher=lambda key, value: value)

        @cached(cache=shared, single_flight=single_flight)
        def f(x):
            return x

        assert [f(4), f(5), f(50)] == [4, 5, 50]
        assert sorted(shared.values()) == [4, 5]
        assert shared.stats().weight == 9


def test_a_weigher_that_raises_is_reported_and_the_value_returned(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: heard.append(told.exc_type))
    for single_flight in (True, False):
        shared = Cache(weigher=lambda key, value: value.nothing)

        @cached(cache=shared, single_flight=single_flight)
        def f(x):
            return x

        assert f(4) == 4
        assert len(shared) == 0
    assert heard == [AttributeError] * 2


def test_peek_looks_without_using():
    @cached(maxsize=2)
    def f(x):
        return [x]

    assert f.cache_peek(1) is None
    first = f(1)
    f(2)
    assert f.cache_peek(x=1) is first
    f(3)
    assert f.cache_peek(1) is None
    assert f.cache_info() == CacheInfo(0, 3, 2, 2)


def test_set_keeps_a_value_for_a_call_that_was_never_made():
    @cached
    def f(a, b=2):
        raise AssertionError("never called")

    f.cache_set("value", 1)
    assert f(b=2, a=1) == "value"
    f.cache_set("other", a=1)
    assert f(1) == "other"


def test_refresh_computes_whatever_is_kept():
    calls = 0

    @cached
    def f(x):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError
        return calls

    assert f(1) == 1
    assert f.cache_refresh(x=1) == 2
    assert f(1) == 2
    with pytest.raises(OSError, match=r"^$"):
        f.cache_refresh(1)
    assert f(1) == 2


def test_refresh_of_a_coroutine_function_is_awaited():
    calls = 0

    @cached
    async def f(x):
        nonlocal calls
        calls += 1
        return calls

    async def main():
        assert await f(1) == 1
        assert await f.cache_refresh(x=1) == 2
        assert await f(1) == 2
        f.cache_set("set", 1)
        assert await f(1) == "set"
        assert f.cache_peek(1) == "set"
        assert f.cache_invalidate(1)
        assert await f(1) == 3

    asyncio.run(main())
    assert f.cache_info() == CacheInfo(2, 2, 1024, 1)
    f.cache_clear()
    assert f.cache_info() == CacheInfo(0, 0, 1024, 0)


def test_info_stats_and_parameters():
    def on_evict(*evicted):
        pass

    @cached(maxsize=2, ttl=60, on_evict=on_evict, typed=True)
    def f(x):
        return x

    for x in (1, 2, 3, 3):
        f(x)
    assert f.cache_info() == (1, 3, 2, 2)
    assert type(f.cache_info()) is CacheInfo
    stats = f.cache_stats()
    assert type(stats) is CacheStats
    assert stats[:7] == (1, 3, 1, 0, 2, 2, 2)
    assert stats.bytes > 100
    parameters = f.cache_parameters()
    assert parameters["maxsize"] == 2
    assert parameters["ttl"] == 60
    assert parameters["typed"] is True
    assert parameters["on_evict"] is on_evict
    parameters["maxsize"] = 5
    assert f.cache_parameters()["maxsize"] == 2
    f.cache_clear()
    assert f.cache_info() == (0, 0, 2, 0)
    assert f.cache_stats()[:7] == (0, 0, 0, 0, 2, 0, 0)


def test_the_wrapper_looks_like_the_function():
    def original(a: int, b: str = "x") -> str:
        """What it does."""

    original.mark = "kept"
    for f in (cached(original), cached(ttl=1)(original), lru_cache(original), cache(original)):
        assert f.__name__ == "original"
        assert f.__doc__ == "What it does."
        assert f.__wrapped__ is original
        assert f.__module__ == __name__
        assert f.mark == "kept"
        assert str(inspect.signature(f)) == "(a: int, b: str = 'x') -> str"


def test_functools_own_names_mean_what_they_mean_there():
    for decorator in (lru_cache, lru_cache(), lru_cache(maxsize=None, typed=True)):
        f = decorator(lambda *a, **k: object())
        assert f(1, b=2) is f(1, b=2)
        assert f(a=1, b=2) is not f(b=2, a=1)
    assert lru_cache(maxsize=-5)(len).cache_info().maxsize == 0
    assert lru_cache(maxsize=True)(len).cache_info().maxsize == 1
    assert cache(len).cache_parameters() == functools.cache(len).cache_parameters()
    assert lru_cache(7, True)(len).cache_parameters() == functools.lru_cache(7, True)(len).cache_parameters()
    for wrong in ("12", 1.5, [3]):
        with pytest.raises(TypeError, match="Expected first argument to be an integer, a callable, or None"):
            lru_cache(wrong)


# -- bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"maxsize": -1}, ValueError, "maxsize must be an integer that is not negative, or None, got -1"),
        ({"maxsize": "9"}, TypeError, "maxsize must be an integer that is not negative, or None, not str: '9'"),
        ({"maxsize": True}, TypeError, "maxsize must be an integer that is not negative, or None, not bool: True"),
        ({"ttl": "60"}, TypeError, "ttl must be .*, not str: '60'"),
        ({"ttl": -1}, ValueError, "ttl must be .*, got -1"),
        ({"ttl": float("nan")}, ValueError, "ttl must be .*, got nan"),
        ({"ttl": 1, "stale": -1}, ValueError, "stale must be .*, got -1"),
        ({"policy": "mru"}, ValueError, "policy must be one of 'lru', 'lfu', 'fifo', 's3fifo', got \"mru\""),
        ({"policy": 3}, TypeError, "policy must be a string, not int: 3"),
        ({"on_evict": 3}, TypeError, "on_evict must be callable, not int: 3"),
        ({"timer": 3}, TypeError, "timer must be callable, not int: 3"),
        ({"key": 3}, TypeError, "key must be callable with the call's arguments, not int: 3"),
        ({"ignore": "self"}, TypeError, "ignore must be a collection of parameter names, got 'self'"),
        ({"ignore": [1]}, TypeError, r"ignore must be a collection of parameter names, got \[1\]"),
        ({"ignore": 5}, TypeError, "ignore must be a collection of parameter names, got 5"),
        ({"ignore": ["x"], "key": len}, TypeError, "ignore: the key function decides already"),
        ({"typed": 1}, TypeError, "typed must be True or False, not int: 1"),
        ({"single_flight": None}, TypeError, "single_flight must be True or False, not NoneType: None"),
        ({"method": "yes"}, TypeError, "method must be True, False or None, got 'yes'"),
        ({"cache": {}}, TypeError, "cache must be a ferrule.Cache, not dict: {}"),
        ({"cache": Cache(), "ttl": 5}, TypeError, "ttl: a cache of your own has its own"),
        ({"cache_errors": {KeyError: "5"}}, TypeError, "cache_errors must be .*, not str: '5'"),
        ({"cache_errors": {"KeyError": 5}}, TypeError, "cache_errors must map exception types to seconds"),
        ({"cache_errors": {BaseException: 5}}, TypeError, "cache_errors must map exception types to seconds"),
        ({"cache_errors": [KeyError]}, TypeError, r"cache_errors must map exception types to seconds, got \["),
    ],
)
def test_a_bad_argument_is_named(settings, error, text):
    with pytest.raises(error, match=text):
        cached(**settings)


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (5, "cached takes a function, not int: 5"),
        (Node, "cached takes a function, not a class"),
        (property(len), "cached takes a function, not property: .*; put @cached below @property"),
        ((lambda: (yield)), "cached takes no generator function"),
    ],
)
def test_what_cannot_be_cached_says_so(thing, text):
    with pytest.raises(TypeError, match=text):
        cached(thing)
    with pytest.raises(TypeError, match=r"the first argument must be callable|Expected first argument"):
        lru_cache(5)(5) if thing == 5 else lru_cache("5")


def test_an_async_generator_function_cannot_be_cached():
    async def f():
        yield 1

    with pytest.raises(TypeError, match="cached takes no async generator function"):
        cached(f)


def test_everything_public_is_in_the_package():
    assert {"Cache", "CacheInfo", "CacheStats", "cache", "cached", "lru_cache"} <= set(ferrule.__all__)

"""The call layer: a wrapped function is called, bound, looked at, copied and thrown away as the function itself is."""

import abc
import asyncio
import concurrent.futures
import contextlib
import copy
import doctest
import functools
import gc
import inspect
import itertools
import operator
import os
import pickle
import pydoc
import sys
import threading
import traceback
import types
import typing
import unittest.mock
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule import CircuitBreaker, PerformanceMonitor, _core, count_calls, rate_limited, retry, timed

HAVE_VECTORCALL = 1 << 11
METHOD_DESCRIPTOR = 1 << 17
NATIVE = [
    _core.Wrapper,
    _core.Shell,
    _core.Passthrough,
    _core.Panicking,
    _core.TimedFunction,
    _core.CountedFunction,
    _core.RetryingFunction,
    _core.RetryingMethod,
    _core.BreakerFunction,
    _core.LimitedFunction,
    _core.EnforcedFunction,
    _core.Initializer,
    _core.SingletonCall,
]


def measured(function):
    return PerformanceMonitor().timed(function)


def overheard(function):
    """Timed, with a listener: errors are taken off the thread, shown to it, and put back."""
    return PerformanceMonitor().timed(sink=lambda *_: None)(function)


def shell(function):
    """As a Python shell has it that calls the function: what is wrapped is another object than what is called."""
    return _core.Shell(function, functools.partial(function))


def stacked(function):
    return measured(count_calls(_core.Passthrough(function)))


WRAPS = {
    "passthrough": _core.Passthrough,
    "shell": shell,
    "timed": measured,
    "timed with a sink": overheard,
    "counted": count_calls,
    "retried": retry(on=BufferError, delay=0),
    "guarded": CircuitBreaker(on=BufferError),
    "limited": rate_limited(1e9, burst=1_000_000),
    "stacked": stacked,
}
DECORATORS = {name: WRAPS[name] for name in ("timed", "timed with a sink", "counted")}


@pytest.fixture(params=WRAPS.values(), ids=WRAPS.keys())
def wrap(request):
    return request.param


@pytest.fixture(params=DECORATORS.values(), ids=DECORATORS.keys())
def decorate(request):
    """What users put on things: it knows static methods, class methods and properties."""
    return request.param


def runs(wrapper):
    """How many calls have gone through the wrapper; `None` for one that doesn't count."""
    if hasattr(wrapper, "timing_stats"):
        return wrapper.timing_stats().count
    return getattr(wrapper, "call_count", None)


def everything(a, b=2, /, c=3, *args, d, e=5, **kwargs):
    return a, b, c, args, d, e, kwargs


class OopsError(Exception):
    """A class of this file can be weakly referenced."""


class TestTypes:
    @pytest.mark.parametrize("native", NATIVE, ids=lambda native: native.__name__)
    def test_both_flags_are_set(self, native):
        assert native.__flags__ & HAVE_VECTORCALL
        assert native.__flags__ & METHOD_DESCRIPTOR

    def test_what_the_decorators_make_is_native(self, wrap):
        assert type(wrap(everything)) in NATIVE

    @pytest.mark.parametrize("native", NATIVE[1:], ids=lambda native: native.__name__)
    def test_classes_can_neither_be_changed_nor_extended(self, native):
        with pytest.raises(TypeError, match="immutable"):
            native.timing_stats = None
        with pytest.raises(TypeError, match="not an acceptable base"):
            type("Derived", (native,), {})

    def test_the_base_makes_no_instances(self):
        derived = type("Derived", (_core.Wrapper,), {})
        for make in (
            _core.Wrapper,
            derived,
            lambda: _core.Wrapper.__new__(_core.Wrapper),
            lambda: object.__new__(_core.Passthrough),
            lambda: _core.Wrapper.__new__(_core.Passthrough),
        ):
            with pytest.raises(TypeError):
                make()

    def test_identity_is_equality(self, wrap):
        one, other = wrap(everything), wrap(everything)
        assert one == one  # noqa: PLR0124 - that is the question
        assert one != other
        assert len({one, other}) == 2

    def test_repr_shows_the_function(self, wrap):
        wrapper = wrap(everything)
        assert repr(wrapper).startswith("<ferrule._core.")
        assert repr(everything) in repr(wrapper)


class TestArguments:
    CALLS = (
        ((1,), {"d": 4}),
        ((1, 20), {"d": 4}),
        ((1, 20, 30), {"d": 4, "e": 50}),
        ((1, 20, 30, 40, 50), {"d": 4}),
        ((1,), {"c": 30, "d": 4, "x": 1, "y": 2}),
        ((1, 20), {"e": 5, "d": 4, "c": 3, "a": "into kwargs", "b": "too"}),
        (tuple(range(300)), {"d": 4, **{f"k{number}": number for number in range(300)}}),
    )

    @pytest.mark.parametrize(("args", "kwargs"), CALLS, ids=range(len(CALLS)))
    def test_arrive_as_they_were_given(self, wrap, args, kwargs):
        wrapper = wrap(everything)
        expected = everything(*args, **kwargs)
        assert wrapper(*args, **kwargs) == expected
        assert wrapper.__call__(*args, **kwargs) == expected
        assert type(wrapper).__call__(wrapper, *args, **kwargs) == expected
        assert functools.partial(wrapper, *args[:1], **kwargs)(*args[1:]) == expected
        assert operator.call(wrapper, *args, **kwargs) == expected
        assert list(wrapper(*args, **kwargs)[-1]) == list(expected[-1])
        assert runs(wrapper) in {6, None}

    @given(
        st.lists(st.integers(), max_size=8),
        st.dictionaries(
            st.sampled_from(["a", "b", "c", "d", "e", "f", "self", "function", "args", "é"]), st.integers()
        ),
        st.sampled_from(list(WRAPS)),
    )
    def test_any_call_ends_as_the_plain_one(self, args, kwargs, name):
        wrapper = WRAPS[name](everything)
        try:
            expected = everything(*args, **kwargs)
        except TypeError as error:
            for call in (wrapper, wrapper.__call__):
                with pytest.raises(TypeError) as caught:
                    call(*args, **kwargs)
                assert caught.value.args == error.args  # noqa: PT017 - two errors are compared
        else:
            assert wrapper(*args, **kwargs) == expected
            assert wrapper.__call__(*args, **kwargs) == expected

    @pytest.mark.parametrize(
        ("args", "kwargs"), [((), {}), ((1,), {}), ((), {"d": 1}), ((1,), {"c": 1, "d": 2, "e": 3, "f": 4})]
    )
    def test_wrong_ones_are_the_functions_own_error(self, wrap, args, kwargs):
        def strict(a, *, d):
            return a, d

        wrapper = wrap(strict)
        with pytest.raises(TypeError) as expected:
            strict(*args, **kwargs)
        with pytest.raises(TypeError) as got:
            wrapper(*args, **kwargs)
        assert got.value.args == expected.value.args
        assert "strict() " in str(got.value)
        assert runs(wrapper) in {1, None}

    def test_kwargs_must_be_strings_as_ever(self, wrap):
        wrapper = wrap(everything)
        with pytest.raises(TypeError, match="must be strings"):
            wrapper(1, **{1: 2})
        with pytest.raises(TypeError, match="must be strings"):
            wrapper.__call__(1, **{1: 2})

    def test_mutable_arguments_are_the_callers_own(self, wrap):
        @wrap
        def append(item, to, **kwargs):
            to.append(item)
            kwargs["seen"] = True
            return to

        items, options = [], {"flag": 1}
        assert append(1, items, **options) is items
        assert append(2, to=items, **options) is items
        assert items == [1, 2]
        assert options == {"flag": 1}

    def test_results_come_out_as_they_are(self, wrap):
        result = object()
        assert wrap(lambda: result)() is result
        assert wrap(lambda: None)() is None
        assert wrap(lambda x: x)(NotImplemented) is NotImplemented

    def test_defaults_are_looked_up_at_each_call(self, wrap):
        def greet(word="hello"):
            return word

        wrapper = wrap(greet)
        greet.__defaults__ = ("good evening",)
        assert wrapper() == "good evening"

    def test_built_ins_and_callable_objects_can_be_wrapped(self, wrap):
        class Adder:
            def __call__(self, a, b=1):
                return a + b

        assert wrap(max)([3, 1, 2], key=lambda x: -x) == 1
        assert wrap(divmod)(7, 2) == (3, 1)
        assert wrap("a-b".split)("-") == ["a", "b"]
        assert wrap(Adder())(1, b=2) == 3
        assert wrap(functools.partial(Adder(), 1))(5) == 6
        assert wrap(operator.itemgetter(1))("abc") == "b"
        assert wrap(str.upper)("a") == "A"

    def test_a_call_in_a_call(self, wrap):
        @wrap
        def factorial(n):
            return 1 if n < 2 else n * factorial(n - 1)

        assert factorial(50) == functools.reduce(operator.mul, range(1, 51))
        assert runs(factorial) in {50, None}


class TestBinding:
    def test_methods(self, wrap):
        class Base:
            @wrap
            def method(self, a, b=2, *rest, key=None):
                """Do it."""
                return self, a, b, rest, key

        it = Base()
        for call in (
            it.method,
            functools.partial(Base.method, it),
            Base.method.__get__(it),
            Base.method.__get__(it, Base),
        ):
            assert call(1) == (it, 1, 2, (), None)
            assert call(1, 5, 6, key=7) == (it, 1, 5, (6,), 7)
            assert call(*[1, 5], key=7) == (it, 1, 5, (), 7)
        assert Base.method(it, 1) == (it, 1, 2, (), None)
        assert operator.methodcaller("method", 1, b=3)(it) == (it, 1, 3, (), None)
        assert isinstance(it.method, types.MethodType)
        assert it.method == it.method
        assert it.method != Base().method
        assert it.method.__self__ is it
        assert Base.method is vars(Base)["method"]
        # A method that is retried knows its instance: it has a function of its own, which is as good.
        assert it.method.__func__ is Base.method or type(it.method.__func__) is _core.RetryingMethod
        assert it.method.__func__(it, 1) == (it, 1, 2, (), None)
        assert (it.method.__name__, it.method.__doc__) == ("method", "Do it.")
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
            it.method()

    def test_a_loop_over_one_call_site(self, wrap):
        """A call site that runs often is specialised: for the plain function, and not wrongly for the wrapper."""

        class One:
            def method(self, x):
                return "plain", x

        class Two:
            @wrap
            def method(self, x):
                return "wrapped", x

        one, two = One(), Two()
        for it, word in [(one, "plain")] * 200 + [(two, "wrapped")] * 200 + [(one, "plain"), (two, "wrapped")] * 100:
            assert it.method(1) == (word, 1)
            assert it.method(x=1) == (word, 1)
        Two.method = One.method
        assert two.method(1) == ("plain", 1)

    def test_an_instance_attribute_is_not_bound(self, wrap):
        class Holder:
            pass

        it = Holder()
        it.call = wrap(lambda *args: args)
        assert it.call(1) == (1,)

    def test_class_and_static_methods_below_the_wrapper(self, wrap):
        class Base:
            @classmethod
            @wrap
            def of_class(cls, a=1):
                return cls, a

            @staticmethod
            @wrap
            def of_none(a=1):
                return a

        class Derived(Base):
            pass

        for owner in (Base, Derived):
            assert owner.of_class() == owner().of_class(1) == (owner, 1)
            assert owner.of_none(2) == owner().of_none(a=2) == 2
        assert runs(Base.of_none) in {4, None}
        assert runs(Base.of_class.__func__) in {4, None}

    def test_class_and_static_methods_above_the_wrapper(self, decorate):
        class Base:
            @decorate
            @classmethod
            def of_class(cls, a=1):
                return cls, a

            @decorate
            @staticmethod
            def of_none(a=1):
                return a

        class Derived(Base):
            pass

        assert isinstance(vars(Base)["of_class"], classmethod)
        assert isinstance(vars(Base)["of_none"], staticmethod)
        for owner in (Base, Derived):
            assert owner.of_class() == owner().of_class(1) == (owner, 1)
            assert owner.of_none(2) == owner().of_none(a=2) == 2
        assert runs(Base.of_none) == 4
        assert runs(Base.of_class) == 4

    def test_properties(self, wrap):
        class Base:
            def __init__(self):
                self._value = 1

            @property
            @wrap
            def value(self):
                return self._value

            @value.setter
            @wrap
            def value(self, value):
                self._value = value

            @value.deleter
            @wrap
            def value(self):
                del self._value

            doubled = property(wrap(lambda self: 2 * self.value))

            @functools.cached_property
            @wrap
            def once(self):
                return object()

        it = Base()
        it.value = 5
        assert (it.value, it.doubled) == (5, 10)
        assert it.once is it.once
        assert runs(Base.once.func) in {1, None}
        assert runs(Base.value.fset) in {1, None}
        del it.value
        with pytest.raises(AttributeError, match="_value"):
            _ = it.value

    def test_a_property_is_refused_with_a_hint(self, decorate):
        with pytest.raises(TypeError, match=r"not property: .*; put @\w+ below @property"):
            decorate(property(lambda self: 1))

    @pytest.mark.skipif(sys.version_info >= (3, 13), reason="class methods wrap no other descriptors from 3.13 on")
    def test_a_class_property(self, wrap):
        class Base:
            @classmethod
            @property
            @wrap
            def name(cls):
                return cls.__name__

        assert Base.name == "Base"

    def test_super_and_overriding(self, wrap):
        class Base:
            @wrap
            def who(self):
                return ["base"]

            @classmethod
            @wrap
            def make(cls):
                return cls()

        class Derived(Base):
            @wrap
            def who(self):
                return [*super().who(), "derived"]

            @classmethod
            @wrap
            def make(cls):
                return super().make()

        assert Derived().who() == ["base", "derived"]
        assert type(Derived.make()) is Derived
        assert Base().who() == ["base"]
        assert (runs(Base.who), runs(Derived.who)) in {(2, 1), (None, None)}

    def test_special_methods(self, wrap):  # noqa: C901 - as many as there are
        class Vector:
            @wrap
            def __new__(cls, *args):
                return super().__new__(cls)

            @wrap
            def __init__(self, x):
                self.x = x

            @wrap
            def __add__(self, other):
                return Vector(self.x + other.x)

            @wrap
            def __eq__(self, other):
                return self.x == other.x

            @wrap
            def __hash__(self):
                return hash(self.x)

            @wrap
            def __len__(self):
                return self.x

            @wrap
            def __getitem__(self, place):
                return place if place < self.x else [].pop()

            @wrap
            def __getattr__(self, name):
                return name

            @wrap
            def __call__(self, *args, **kwargs):
                return args, kwargs

            @wrap
            def __enter__(self):
                return self

            @wrap
            def __exit__(self, *error):
                return error[0] is not None

            # What Python makes a class method by itself, it makes of plain functions only.
            @classmethod
            @wrap
            def __class_getitem__(cls, item):
                return item

            @classmethod
            @wrap
            def __init_subclass__(cls, **kwargs):
                cls.options = kwargs

        three = Vector(1) + Vector(2)
        assert three == Vector(3)
        assert hash(three) == hash(3)
        assert list(three) == [0, 1, 2]
        assert len(three) == 3
        assert three.anything == "anything"
        assert three(1, a=2) == ((1,), {"a": 2})
        assert Vector["item"] == "item"
        with three as entered:
            assert entered is three
            raise OopsError
        assert type("Derived", (Vector,), {}, key=1).options == {"key": 1}

    def test_abstract_methods(self, wrap):
        class Base(abc.ABC):
            @wrap
            @abc.abstractmethod
            def below(self): ...

            @abc.abstractmethod
            @wrap
            def above(self): ...

        assert Base.__abstractmethods__ == {"below", "above"}
        with pytest.raises(TypeError, match="abstract"):
            Base()

    def test_generic_functions(self, wrap):
        @functools.singledispatch
        @wrap
        def kind(value):
            return "any"

        @kind.register
        @wrap
        def _(value: int):
            return "int"

        class Base:
            @functools.singledispatchmethod
            @wrap
            def kind(self, value):
                return "any"

            @kind.register
            @wrap
            def _(self, value: int):
                return "int"

            partly = functools.partialmethod(wrap(lambda self, a, b: (a, b)), 1)

        assert (kind(1), kind("")) == ("int", "any")
        assert (Base().kind(1), Base().kind("")) == ("int", "any")
        assert Base().partly(2) == (1, 2)


class TestHigherOrder:
    def test_functions_that_take_functions(self, wrap):
        double = wrap(lambda x: 2 * x)
        add = wrap(lambda a, b: a + b)
        assert list(map(double, range(5))) == [0, 2, 4, 6, 8]
        assert list(map(add, range(3), range(3))) == [0, 2, 4]
        assert list(filter(double, range(3))) == [1, 2]
        assert sorted([3, 1, 2], key=wrap(operator.neg)) == [3, 2, 1]
        assert max([3, 1, 2], key=wrap(operator.neg)) == 1
        assert functools.reduce(add, range(5), 100) == 110
        assert functools.partial(add, 1)(2) == functools.partial(add, b=1)(2) == 3
        assert functools.cmp_to_key(add)(1) < functools.cmp_to_key(add)(-5)
        assert list(itertools.starmap(add, [(1, 2)])) == [3]
        assert list(itertools.accumulate(range(4), add)) == [0, 1, 3, 6]
        assert functools.lru_cache(double)(4) == 8
        assert list(iter(wrap(iter([1, 2, 0]).__next__), 0)) == [1, 2]
        assert runs(double) in {9, None}

    def test_threads_and_event_loops(self, wrap):
        double = wrap(lambda x: 2 * x)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(double, range(3))) == [0, 2, 4]

        async def main():
            answer = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(wrap(answer.set_result), 1)
            return await answer, await asyncio.to_thread(double, 2)

        assert asyncio.run(main()) == (1, 4)

    def test_mocks(self, wrap):
        mock = unittest.mock.Mock(return_value=3)
        assert wrap(mock)(1, a=2) == 3
        mock.assert_called_once_with(1, a=2)


class TestErrors:
    def test_come_out_as_they_went_in(self, wrap):
        error = OopsError("as it is")
        error.add_note("noted")
        error.__cause__ = cause = KeyError("why")

        @wrap
        def fails():
            raise error

        with pytest.raises(OopsError) as caught:
            fails()
        assert caught.value is error
        assert error.__cause__ is cause
        assert error.__notes__ == ["noted"]
        assert error.__context__ is None
        frames = traceback.extract_tb(error.__traceback__)
        assert [frame.name for frame in frames] == ["test_come_out_as_they_went_in", "fails"]
        assert frames[-1].line == "raise error"
        assert runs(fails) in {1, None}

    def test_through_several_frames_and_both_ways_of_calling(self, wrap):
        @wrap
        def outer():
            inner.__call__()

        @wrap
        def inner():
            raise OopsError

        with pytest.raises(OopsError) as caught:
            outer()
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names[1:] == ["outer", "inner"]

    def test_context_is_that_of_a_plain_call(self, wrap):
        @wrap
        def fails():
            raise OopsError

        first = KeyError()
        with pytest.raises(OopsError) as caught:  # noqa: PT012 - an error while another is handled
            try:
                raise first
            except KeyError:
                fails()
        assert caught.value.__context__ is first
        with pytest.raises(OopsError) as caught:
            fails()
        assert caught.value.__context__ is None

    def test_the_error_being_handled_is_seen_inside(self, wrap):
        @wrap
        def handled():
            return sys.exc_info()[1]

        first = KeyError()
        try:
            raise first
        except KeyError:
            assert handled() is first
        assert handled() is None

    @pytest.mark.parametrize(
        "error",
        [
            KeyboardInterrupt(),
            SystemExit(3),
            GeneratorExit(),
            StopIteration(4),
            MemoryError(),
            ExceptionGroup("", [OSError()]),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_of_every_kind(self, wrap, error):
        @wrap
        def fails(kind):
            raise error

        for call in (fails, fails.__call__):
            with pytest.raises(type(error)) as caught:
                call(0)
            assert caught.value is error
            with pytest.raises(type(error)) as caught:
                call(kind=0)
            assert caught.value is error
        assert runs(fails) in {4, None}

    def test_an_error_class_that_fails_itself(self, wrap):
        class BrokenError(Exception):
            def __init__(self):
                raise OopsError

        @wrap
        def fails():
            raise BrokenError

        with pytest.raises(OopsError):
            fails()

    def test_what_is_wrapped_must_be_callable_when_called(self):
        with pytest.raises(TypeError, match="not callable"):
            _core.Passthrough(None)()

    @pytest.mark.subprocess
    @pytest.mark.thread_unsafe(reason="starts an interpreter")
    @pytest.mark.parametrize("where", ["as it is", "higher", "much higher"])
    @pytest.mark.parametrize("name", WRAPS)
    def test_recursion_ends_in_its_error(self, python, name, where):
        done = python(RECURSION, name, where, timeout=100)
        assert (done.returncode, done.stdout) == (0, "RecursionError, and then 200\n"), done.stderr


# Up to Python 3.11 the collector may come by when an object can be seen by it, and there is nothing in it yet: while
# its dictionary is made, if that isn't an old one used again.
COLLECTING = """
import gc, sys
import ferrule, ferrule.scheduling
from ferrule import _core, cached, enforce_types, lazy_property, lru_cache, rate_limited, retry, singleton, timed

def function(x=None):
    return x

class Class:
    pass

makes = [
    lambda: _core.Shell(function, function),
    lambda: _core.Passthrough(function),
    lambda: timed(function),
    lambda: retry(function),
    lambda: retry(function).__get__(function),
    lambda: cached(function),
    lambda: lru_cache(function),
    lambda: rate_limited(5)(function),
    lambda: enforce_types(function),
    lambda: lazy_property(function),
    lambda: ferrule.Cache(3),
    lambda: ferrule.ResourcePool(object),
    lambda: ferrule.RateLimiter(5),
    lambda: ferrule.CircuitBreaker(),
    lambda: ferrule.CaseInsensitiveDict(a=1),
    lambda: ferrule.PerformanceMonitor(),
    lambda: ferrule.batched([], 3),
    lambda: ferrule.lines(sys.executable),
    lambda: ferrule.Pipeline().map(function),
    lambda: ferrule.scheduling.Future(),
    lambda: executor.submit(function),
    lambda: ferrule.TaskScheduler(),
]
executor = ferrule.ThreadPoolExecutor(1)
old = [{} for _ in range(200)]
for make in makes:
    for threshold in range(1, 12):
        gc.set_threshold(threshold, 1000, 1000)
        made = [make() for _ in range(100)]
executor.shutdown()
print("made")
"""

RECURSION = """
import sys, threading
from ferrule import CircuitBreaker, PerformanceMonitor, _core, count_calls, rate_limited, retry

name, where = sys.argv[1:]
timed = PerformanceMonitor().timed
sys.unraisablehook = lambda failure: None  # a listener has no room left
wrap = {
    "passthrough": _core.Passthrough,
    "timed": timed,
    "timed with a sink": timed(sink=lambda *_: None),
    "counted": count_calls,
    "retried": retry(on=BufferError, delay=0),
    "guarded": CircuitBreaker(on=BufferError),
    "limited": rate_limited(1e9, burst=1_000_000),
    "shell": lambda function: _core.Shell(function, function),
    "stacked": lambda function: timed(count_calls(_core.Passthrough(function))),
}[name]

@wrap
def down(n):
    return 0 if n == 0 else 1 + down(n - 1)

def main():
    try:
        down(10_000_000)
    except RecursionError:
        print("RecursionError, and then", down(200))

if where == "as it is":
    main()
elif where == "higher":
    sys.setrecursionlimit(3_000)
    main()
else:
    # More than an interpreter bears on its usual stack: up to 3.11 it counts on whoever raises the limit.
    sys.setrecursionlimit(40_000)
    threading.stack_size(512 << 20)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
"""


class TestPanics:
    @pytest.fixture(autouse=True)
    def _quiet(self, capfd):
        """The panic's own message on standard error is looked at, rather than shown."""
        yield
        assert "panicked at" in capfd.readouterr().err

    @pytest.mark.thread_unsafe(reason="looks at standard error")
    def test_becomes_an_exception_and_the_object_still_works(self):
        panicking = _core.Panicking(lambda value: value)
        for _ in range(3):
            with pytest.raises(BaseException, match="too much of it") as caught:
                panicking("too much of it")
            assert type(caught.value).__name__ == "PanicException"
            assert type(caught.value).__module__ == "pyo3_runtime"
            assert not isinstance(caught.value, Exception)
            assert panicking(1) == 1
            assert panicking(value=None) is None
        with pytest.raises(BaseException, match="by the other way"):
            panicking.__call__("by the other way")

    @pytest.mark.thread_unsafe(reason="looks at standard error")
    def test_comes_out_through_other_wrappers(self, wrap):
        wrapper = wrap(_core.Panicking(lambda value: value))
        with pytest.raises(BaseException, match="at the bottom"):
            wrapper("at the bottom")
        assert wrapper(5) == 5
        assert runs(wrapper) in {2, None}

    @pytest.mark.thread_unsafe(reason="looks at standard error")
    def test_leaves_nothing_behind(self):
        class Text(str):
            __slots__ = ("__weakref__",)

        panicking = _core.Panicking(lambda value: value)
        text = Text("boom")
        gone = weakref.ref(text)
        try:
            panicking(text)
        except BaseException as error:  # noqa: BLE001 - a panic is no Exception
            raised = weakref.ref(error)
        del text
        assert gone() is None
        assert raised() is None


class Sample:
    """Only here to be named in annotations."""


def documented(a: "Sample", b: int = 2, *args: str, key: "Sample | None" = None, **kwargs: float) -> "list[Sample]":
    """Say what it does.

    >>> 1 + 1
    2
    """
    return [a]


documented.marked = ["by its author"]
documented_and_counted = count_calls(documented)


async def coroutine_function():
    return 1


def generator_function():
    yield 1


async def async_generator_function():
    yield 1


KINDS = [documented, coroutine_function, generator_function, async_generator_function]


class TestDress:
    def test_names_and_documentation(self, wrap):
        wrapper = wrap(documented)
        for name in (
            "__name__",
            "__qualname__",
            "__doc__",
            "__module__",
            "__annotations__",
            "__defaults__",
            "__code__",
        ):
            assert getattr(wrapper, name) == getattr(documented, name)
        assert inspect.unwrap(wrapper) is documented
        assert wrapper.marked is documented.marked
        assert inspect.getdoc(wrapper) == inspect.getdoc(documented)
        assert inspect.getmodule(wrapper) is sys.modules[__name__]

    def test_wrapped_is_what_was_wrapped(self):
        inner = count_calls(documented)
        assert inner.__wrapped__ is documented
        assert measured(inner).__wrapped__ is inner

    def test_no_documentation_is_no_documentation(self, wrap):
        assert wrap(coroutine_function).__doc__ is None

    def test_signature_hints_and_source(self, wrap):
        wrapper = wrap(documented)
        assert inspect.signature(wrapper) == inspect.signature(documented)
        assert typing.get_type_hints(wrapper) == typing.get_type_hints(documented)
        assert inspect.getsource(wrapper) == inspect.getsource(documented)

    def test_signature_of_bound_methods(self, wrap):
        class Base:
            @wrap
            def method(self, a, *, b: int = 1): ...

            @classmethod
            @wrap
            def of_class(cls, a): ...

            @staticmethod
            @wrap
            def of_none(a): ...

        assert str(inspect.signature(Base().method)) == "(a, *, b: int = 1)"
        assert str(inspect.signature(Base.method)) == "(self, a, *, b: int = 1)"
        assert str(inspect.signature(Base.of_class)) == "(a)"
        assert str(inspect.signature(Base().of_none)) == "(a)"

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with 3.12")
    def test_type_parameters(self, wrap):
        names = {}
        # A syntax error before 3.12.
        exec("def first[T](items: list[T]) -> T: return items[0]", names)
        assert wrap(names["first"]).__type_params__ == names["first"].__type_params__

    def test_help_shows_it(self, wrap):
        wrapper = wrap(documented)
        assert inspect.isroutine(wrapper)
        text = pydoc.plain(pydoc.render_doc(wrapper))
        assert "Say what it does." in text

    def test_doctest_finds_it(self):
        found = {test.name: len(test.examples) for test in doctest.DocTestFinder().find(sys.modules[__name__])}
        assert found[f"{__name__}.documented_and_counted"] == 1

    @pytest.mark.parametrize("function", KINDS, ids=lambda function: function.__name__)
    @pytest.mark.parametrize("wrap", [_core.Passthrough, count_calls, measured, overheard])
    def test_kinds_are_recognised(self, wrap, function):
        wrapper = wrap(function)
        for question in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            assert question(wrapper) == question(function)
            assert question(functools.partial(wrapper)) == question(function)
            assert question(types.MethodType(wrapper, 1)) == question(function)

    def test_counted_kinds_give_what_the_function_gives(self):
        counted = count_calls(coroutine_function)
        assert asyncio.run(counted()) == 1
        assert list(count_calls(generator_function)()) == [1]
        assert isinstance(count_calls(async_generator_function)(), types.AsyncGeneratorType)
        assert counted.call_count == 1

    def test_what_has_no_name_gets_none(self, wrap):
        wrapper = wrap(functools.partial(documented, 1))
        assert not hasattr(wrapper, "__name__")
        assert wrapper.func is documented


class TestAttributes:
    def test_every_layer_shows_through(self):
        @timed(monitor=PerformanceMonitor())
        @count_calls
        @functools.lru_cache
        def square(x):
            return x * x

        assert [square(3), square(3), square(4)] == [9, 9, 16]
        assert square.timing_stats().count == 3
        assert square.call_count == 3
        assert square.cache_info().hits == 1
        square.call_reset()
        square.cache_clear()
        square.timing_reset()
        assert (square.timing_stats().count, square.call_count, square.cache_info().hits) == (0, 0, 0)

    def test_every_layer_shows_through_in_another_order(self):
        @count_calls
        @timed(monitor=PerformanceMonitor())
        @functools.cache
        @_core.Passthrough
        def square(x):
            return x * x

        square(3)
        assert (square.timing_stats().count, square.call_count, square.cache_info().misses) == (1, 1, 1)

    @pytest.mark.parametrize("function", KINDS[1:], ids=lambda function: function.__name__)
    def test_every_layer_shows_through_for_other_kinds(self, function):
        inside = count_calls(function)
        outside = measured(inside)
        assert outside.call_count == 0
        outside.call_reset()
        assert count_calls(measured(function)).timing_stats().count == 0

    @pytest.mark.parametrize("function", KINDS, ids=lambda function: function.__name__)
    def test_every_layer_shows_through_a_memory_profile(self, function):
        assert PerformanceMonitor().profile_memory(count_calls(function)).call_count == 0

    def test_no_layer_shows_another_ones_copy(self):
        inner, outer = PerformanceMonitor(), PerformanceMonitor()

        @inner.timed
        async def coroutine():
            return 1

        @functools.wraps(coroutine)
        def run():
            return asyncio.run(coroutine())

        # What `functools.wraps` has copied belongs to the layer below.
        assert run.timing_stats().count == 0
        wrapped = outer.timed(run)
        assert "timing_stats" not in vars(wrapped)
        assert [wrapped() for _ in range(3)] == [1, 1, 1]
        asyncio.run(coroutine())
        assert (wrapped.timing_stats().count, coroutine.timing_stats().count) == (3, 4)
        wrapped.timing_reset()
        assert (wrapped.timing_stats().count, coroutine.timing_stats().count) == (0, 4)

    def test_no_layer_shows_another_ones_copy_when_both_are_shells(self):
        inner, outer = PerformanceMonitor(), PerformanceMonitor()
        coroutine = outer.timed(inner.timed(coroutine_function))
        asyncio.run(coroutine())
        asyncio.run(coroutine.__wrapped__())
        assert (coroutine.timing_stats().count, coroutine.__wrapped__.timing_stats().count) == (1, 2)

    def test_the_nearest_layer_answers(self):
        first = count_calls(lambda: None)
        second = count_calls(first)
        second()
        first()
        assert (second.call_count, first.call_count) == (1, 2)

    def test_those_that_users_set_survive(self, wrap):
        def function():
            return 1

        function.route = "/"
        wrapper = wrap(function)
        wrapper.tag = tag = object()
        assert wrapper() == 1
        assert wrapper.tag is tag
        assert wrapper.route == "/"
        assert vars(wrapper)["tag"] is tag
        assert not hasattr(function, "tag")
        assert wrap(wrapper).tag is tag
        wrapper.__doc__ = "Another one."
        wrapper.__name__ = "renamed"
        assert (wrapper.__doc__, wrapper.__name__, function.__name__) == ("Another one.", "renamed", "function")
        del wrapper.tag
        assert not hasattr(wrapper, "tag")

    def test_those_that_are_set_later_on_the_function_are_seen(self, wrap):
        def function(): ...

        wrapper = wrap(function)
        function.later = 1
        assert wrapper.later == 1

    def test_missing_ones_are_the_functions_own_error(self, wrap):
        wrapper = wrap(documented)
        with pytest.raises(AttributeError, match="'function' object has no attribute 'missing'"):
            _ = wrapper.missing
        assert getattr(wrapper, "missing", None) is None

    def test_the_count_can_only_be_read(self):
        counted = count_calls(lambda: None)
        with pytest.raises(AttributeError):
            counted.call_count = 5
        counted()
        assert counted.call_count == 1


@_core.Passthrough
def passed(x):
    return x


@timed(monitor=PerformanceMonitor())
def clocked(x):
    return x


@count_calls
def counted(x):
    return x


@timed(monitor=PerformanceMonitor())
async def clocked_coroutine(x):
    return x


@timed(monitor=PerformanceMonitor())
def clocked_generator(x):
    yield x


@timed(monitor=PerformanceMonitor())
async def clocked_async_generator(x):
    yield x


@PerformanceMonitor().profile_memory
def profiled(x):
    return x


class Pickled:
    @_core.Passthrough
    def passed(self):
        return "passed", self

    @timed(monitor=PerformanceMonitor())
    def clocked(self):
        return "clocked", self

    @staticmethod
    @count_calls
    def counted():
        return "counted"

    @classmethod
    @count_calls
    def of_class(cls):
        return cls

    class Inner:
        @count_calls
        def method(self): ...

    def __eq__(self, other):
        return isinstance(other, Pickled)

    __hash__ = None


class TestCopies:
    @pytest.mark.parametrize(
        "wrapper",
        [
            *(passed, clocked, counted, clocked_coroutine, clocked_generator, clocked_async_generator, profiled),
            *(Pickled.passed, Pickled.clocked, Pickled.counted, Pickled.Inner.method),
        ],
        ids=lambda wrapper: wrapper.__qualname__,
    )
    def test_are_the_thing_itself(self, wrapper):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(wrapper, protocol)) is wrapper
            assert pickle.loads(pickle.dumps(functools.partial(wrapper, 1), protocol)).func is wrapper
        assert copy.copy(wrapper) is wrapper
        assert copy.deepcopy(wrapper) is wrapper
        assert copy.deepcopy([wrapper])[0] is wrapper

    def test_bound_methods(self):
        for method in (Pickled().passed, Pickled().clocked, Pickled.of_class):
            again = pickle.loads(pickle.dumps(method))
            assert again() == method()

    def test_local_functions_fail_as_functions_do(self, wrap):
        def local(): ...

        with pytest.raises((pickle.PicklingError, AttributeError)) as expected:
            pickle.dumps(local)
        with pytest.raises((pickle.PicklingError, AttributeError)) as got:
            pickle.dumps(wrap(local))
        assert type(got.value) is type(expected.value)
        assert copy.copy(wrap(local)).__wrapped__

    def test_hidden_functions_fail(self, wrap):
        with pytest.raises(pickle.PicklingError, match="not the same object"):
            pickle.dumps(wrap(documented))

    def test_cross_into_another_process(self, python):
        code = """
            import pickle, sys
            sys.path.insert(0, sys.argv[1])
            print([f(5) for f in pickle.loads(bytes.fromhex(sys.argv[2]))])
        """
        data = pickle.dumps([passed, clocked, counted]).hex()
        done = python(code, os.path.dirname(__file__), data)  # noqa: PTH120
        assert done.stdout == "[5, 5, 5]\n", done.stderr


class Callable:
    """A function whose references can be counted on every build: those of functions look immortal to some."""

    __slots__ = ("__weakref__", "result")

    def __init__(self, result):
        self.result = result

    def __call__(self, *args, **kwargs):
        if OopsError in args:
            raise OopsError(*args)
        return self.result


CALLS = 100_000


def positional(wrapper, first, value):
    return (lambda: wrapper(first, value)), [first]


def by_keyword(wrapper, first, value):
    key = "a name that is not interned"
    kwargs = {key: value}
    return (lambda: wrapper(first, **kwargs)), [first, key, kwargs]


def explicitly(wrapper, first, value):
    kwargs = {"key": value}
    return (lambda: wrapper.__call__(first, **kwargs)), [first, kwargs]


def as_method(wrapper, first, value):
    class Holder:
        method = wrapper

    holder = Holder()
    return (lambda: holder.method(first, key=value)), [holder, first]


HOWS = {"positional": positional, "keyword": by_keyword, "__call__": explicitly, "method": as_method}


def resident():
    """The memory that this process has, in bytes."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestLife:
    def test_weak_references(self, wrap):
        wrapper = wrap(lambda: 1)
        reference = weakref.ref(wrapper)
        proxy = weakref.proxy(wrapper)
        assert reference() is wrapper
        assert proxy() == 1
        names = weakref.WeakKeyDictionary({wrapper: 1})
        del wrapper
        assert reference() is None
        assert not names

    def test_the_function_goes_with_its_wrapper(self, wrap):
        function = Callable(1)
        reference = weakref.ref(function)
        wrapper = wrap(function)
        del function
        assert reference() is not None
        del wrapper
        assert reference() is None

    def test_a_cycle_through_the_function_is_collected(self, wrap):
        def make():
            def function():
                return wrapper

            wrapper = wrap(function)
            assert function() is wrapper
            return weakref.ref(wrapper)

        references = [make() for _ in range(10)]
        gc.collect()
        assert [reference() for reference in references] == [None] * 10

    def test_a_cycle_through_the_dictionary_is_collected(self, wrap):
        def make():
            wrapper = wrap(Callable(1))
            wrapper.itself = wrapper
            return weakref.ref(wrapper)

        references = [make() for _ in range(10)]
        gc.collect()
        assert [reference() for reference in references] == [None] * 10

    def test_a_cycle_through_a_class_is_collected(self, wrap):
        def make():
            class Base:
                @wrap
                def method(self):
                    return Base

            assert Base().method() is Base
            return weakref.ref(Base)

        def plain():
            class Base:
                def method(self):
                    return Base

            return weakref.ref(Base)

        reference, control = make(), plain()
        gc.collect()
        if control() is not None:
            pytest.skip("this interpreter keeps every class for ever once threads have run")
        assert reference() is None

    def test_a_cycle_through_a_listener_is_collected(self):
        def make():
            heard = []

            def sink(*run):
                heard.append((wrapper, *run))

            wrapper = PerformanceMonitor().timed(sink=sink)(Callable(1))
            wrapper()
            assert heard[0][0] is wrapper
            return weakref.ref(wrapper)

        references = [make() for _ in range(10)]
        gc.collect()
        assert [reference() for reference in references] == [None] * 10

    @pytest.mark.parametrize("function", ["coroutine", "generator", "async generator"])
    def test_a_cycle_through_a_shell_is_collected(self, function):
        def make():
            async def coroutine():
                return measured_one

            def generator():
                yield measured_one

            async def async_generator():
                yield measured_one

            kinds = {"coroutine": coroutine, "generator": generator, "async generator": async_generator}
            measured_one = PerformanceMonitor().timed(kinds[function])
            profiled_one = PerformanceMonitor().profile_memory(measured_one)
            measured_one.other = profiled_one
            return [weakref.ref(measured_one), weakref.ref(profiled_one)]

        references = [reference for _ in range(10) for reference in make()]
        gc.collect()
        assert [reference() for reference in references] == [None] * 20

    @pytest.mark.subprocess
    @pytest.mark.thread_unsafe(reason="starts an interpreter")
    def test_a_collection_while_one_is_made(self, python):
        done = python(COLLECTING, timeout=100)
        assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr

    @pytest.mark.thread_unsafe(reason="disables the collector")
    @pytest.mark.parametrize("enabled", [False, True])
    def test_the_collector_stays_as_it_was(self, wrap, enabled):
        try:
            (gc.enable if enabled else gc.disable)()
            wrap(Callable("result"))
            assert gc.isenabled() is enabled
        finally:
            gc.enable()

    def test_what_is_alive_is_not_collected(self, wrap):
        class Cycle:
            def __init__(self):
                self.itself = self
                self.call = wrap(self.method)

            def method(self):
                return self

        it = Cycle()
        gc.collect()
        assert it.call() is it

    @pytest.mark.thread_unsafe(reason="counts references")
    @pytest.mark.parametrize("fails", [False, True], ids=["calls", "errors"])
    @pytest.mark.parametrize("how", HOWS)
    def test_reference_counts_are_exact(self, wrap, how, fails):
        result, value = object(), object()
        first = OopsError if fails else object()
        function = Callable(result)
        wrapper = wrap(function)
        call, others = HOWS[how](wrapper, first, value)

        def run(times):
            if fails:
                for _ in range(times):
                    with contextlib.suppress(OopsError):
                        call()
            else:
                for _ in range(times):
                    assert call() is result

        counted = (result, value, function, wrapper, *others, None, OopsError)
        run(1_000)
        gc.collect()
        before = [sys.getrefcount(each) for each in counted]
        run(CALLS)
        gc.collect()
        after = [sys.getrefcount(each) for each in counted]
        # None and the class are used by others, too.
        assert after[:-2] == before[:-2]
        assert [abs(now - then) < 100 for now, then in zip(after, before, strict=True)][-2:] == [True, True]

    @pytest.mark.thread_unsafe(reason="measures the process")
    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    @pytest.mark.parametrize("fails", [False, True], ids=["calls", "errors"])
    def test_memory_does_not_grow(self, wrap, fails):
        wrapper = wrap(Callable("result"))
        first = OopsError if fails else 1

        def run(times):
            for number in range(times):
                with contextlib.suppress(OopsError):
                    wrapper(first, number, key=number)

        run(20_000)
        gc.collect()
        before, blocks = resident(), sys.getallocatedblocks()
        run(CALLS)
        gc.collect()
        assert sys.getallocatedblocks() - blocks < 200
        # A leak of as little as 32 bytes a call would be three times this.
        assert resident() - before < 1 << 20


class TestSwallowedErrors:
    """What a program catches is gone when it has caught it: nothing waits for a collection or for the next call."""

    @pytest.fixture(autouse=True)
    def _no_collector(self):
        gc.disable()
        yield
        gc.enable()

    def swallow(self, wrapper):
        for _ in range(1_000):
            with contextlib.suppress(OopsError):
                wrapper()

    @pytest.mark.thread_unsafe(reason="switches the garbage collector off")
    def test_caught_by_the_caller(self, wrap):
        raised = []

        @wrap
        def fails():
            error = OopsError()
            raised.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        for way in (fails, fails.__call__, lambda: fails(*()), types.MethodType(wrap(lambda _: fails()), 1)):
            raised.clear()
            self.swallow(way)
            assert len(raised) == 1_000
            assert [error for error in raised if error() is not None] == []

    @pytest.mark.thread_unsafe(reason="replaces sys.unraisablehook and switches the garbage collector off")
    @pytest.mark.parametrize("heard", ["raises", "raises what it was given", "looks at it"])
    def test_heard_by_a_sink(self, monkeypatch, heard):
        unraisable, raised = [], []
        monkeypatch.setattr(sys, "unraisablehook", lambda failure: unraisable.append(type(failure.exc_value)))

        def failure():
            error = OopsError()
            raised.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        def sink(name, seconds, error):
            if heard == "raises":
                failure()
            elif heard == "raises what it was given":
                try:
                    raise error
                finally:
                    del error
            else:
                assert isinstance(error, OopsError)
                assert traceback.format_exception(error)

        fails = PerformanceMonitor().timed(sink=sink)(failure)
        self.swallow(fails)
        assert len(raised) == (2_000 if heard == "raises" else 1_000)
        assert [error for error in raised if error() is not None] == []
        assert unraisable == ([] if heard == "looks at it" else [OopsError] * 1_000)

    @pytest.mark.thread_unsafe(reason="replaces sys.unraisablehook and switches the garbage collector off")
    def test_of_a_sink_alone(self, monkeypatch):
        monkeypatch.setattr(sys, "unraisablehook", lambda failure: None)
        raised = []

        def sink(*_):
            error = OopsError()
            raised.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        result = Callable(1)
        fine = PerformanceMonitor().timed(sink=sink)(lambda: result)
        before = sys.getrefcount(result)
        for _ in range(1_000):
            assert fine() is result
        assert sys.getrefcount(result) == before
        assert len(raised) == 1_000
        assert [error for error in raised if error() is not None] == []


class TestThreads:
    @pytest.fixture(autouse=True)
    def _switching_all_the_time(self):
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(before)

    @pytest.mark.thread_unsafe(reason="starts threads of its own, and has them switched all the time")
    def test_counts_are_exact(self):
        threads, calls = 8, 50_000
        monitor = PerformanceMonitor()

        @monitor.timed("measured")
        @count_calls
        def call(number):
            if number % 10 == 0:
                raise OopsError

        start = threading.Barrier(threads)

        def work():
            start.wait()
            for number in range(calls):
                with contextlib.suppress(OopsError):
                    call(number)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stats = call.timing_stats()
        assert call.call_count == threads * calls
        assert (stats.count, stats.errors) == (threads * calls, threads * calls // 10)
        assert sum(count for _, _, count in dict(monitor._recorders.items())["measured"].buckets()) == threads * calls


@pytest.mark.subprocess
@pytest.mark.thread_unsafe(reason="starts interpreters")
class TestExit:
    CODE = """
        import contextlib, sys, threading
        from ferrule import PerformanceMonitor, Timer, _core, count_calls

        timed = PerformanceMonitor().timed

        @timed
        @count_calls
        def measured(x):
            return x

        @_core.Passthrough
        def passed(x):
            return measured.__call__(x)

        @timed(sink=lambda *_: None)
        def overheard(x):
            raise KeyError(x)

        @timed
        def generator(n):
            yield from range(n)

        @timed
        async def coroutine():
            return 1

        timer = Timer("a block", sink=lambda *_: None)

        def calls():
            measured(1)
            passed(x=2)
            list(map(measured, range(3)))

        def errors():
            with contextlib.suppress(KeyError):
                overheard(3)

        def generators():
            list(generator(3))

        def coroutines():
            with contextlib.suppress(StopIteration):
                coroutine().send(None)

        def blocks():
            with timer:
                pass

        def statistics():
            measured.timing_stats()

        job = globals()[sys.argv[1]]

        def work(started):
            started.set()
            while True:
                job()

        for _ in range(4):
            started = threading.Event()
            threading.Thread(target=work, args=[started], daemon=True).start()
            started.wait()
    """

    @pytest.mark.parametrize("job", ["calls", "errors", "generators", "coroutines", "blocks", "statistics"])
    def test_daemon_threads_are_left_behind(self, python, job):
        """Up to 3.13 the interpreter ends such a thread by a forced unwind through all frames, ours among them."""
        if job == "errors" and not getattr(sys, "_is_gil_enabled", lambda: True)() and sys.version_info < (3, 14):
            pytest.skip("3.13 without the lock may end a thread inside any call of its own API; 3.14 parks it")
        times = 30 if job == "calls" else 10
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda _: python(self.CODE, job, timeout=50), range(times)))
        assert [(each.returncode, each.stdout, each.stderr) for each in done] == [(0, "", "")] * times

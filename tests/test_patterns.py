"""The patterns room: one instance, registries, what is computed once, and keys in any spelling."""

import abc
import collections
import contextlib
import copy
import enum
import functools
import gc
import os
import pickle
import sys
import sysconfig
import threading
import time
import types
import weakref
from collections.abc import MutableMapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ferrule import CaseInsensitiveDict, Field, Model, Plugin, Registry, Singleton, lazy_property, patterns, singleton

# Up to 3.13, a free-threaded build keeps classes for ever once there is a second thread.
classes_go = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and sys.version_info < (3, 14),
    reason="this build keeps classes for ever once there are threads",
)

THREADS = 64


@contextlib.contextmanager
def switching():
    """Have threads change places all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def all_at_once(function, number=THREADS):
    """Call a function in many threads at the same moment; return what came back and what was raised."""
    barrier = threading.Barrier(number)
    results, errors = [], []

    def body():
        barrier.wait(60)
        try:
            results.append(function())
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            errors.append(error)

    threads = [threading.Thread(target=body, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) + len(errors) == number
    return results, errors


class Shared(metaclass=Singleton):
    def __init__(self, value=0):
        self.value = value


@singleton
class Decorated:
    """A class."""

    def __init__(self, value=0):
        self.value = value

    def kind(self):
        return __class__


class TestSingleton:
    @pytest.fixture(params=["metaclass", "decorator"])
    def make(self, request):
        """Make a singleton of a body."""

        def by_metaclass(body, bases=(), **options):
            return Singleton("One", bases, body, **options)

        def by_decorator(body, bases=(), **options):
            return singleton(**options)(type("One", bases, body))

        return by_metaclass if request.param == "metaclass" else by_decorator

    def test_one_instance(self, make):
        made = []
        cls = make({"__init__": lambda self, value=0: made.append(value)})
        first = cls(1)
        assert cls(2) is first
        assert cls(value=3) is first
        assert cls() is first
        assert made == [1]
        assert isinstance(first, cls)
        assert type(first) is cls

    def test_it_stays_a_class(self):
        assert isinstance(Decorated, type)
        assert Decorated.__doc__ == "A class."
        assert Decorated.__name__ == "Decorated"
        assert Decorated().kind() is Decorated
        assert isinstance(Decorated, Singleton)

    def test_subclasses_are_separate(self, make):
        base = make({})
        child = type(base)("Child", (base,), {"__init__": lambda self: base.__init__(self)})  # noqa: PLW0108 - it is there by then
        other = type(base)("Other", (base,), {})
        assert base() is base()
        assert child() is child()
        assert len({id(base()), id(child()), id(other())}) == 3
        assert isinstance(child(), base)
        assert type(child()) is child

    def test_super_works(self):
        @singleton
        class Parent:
            def __init__(self):
                super().__init__()
                self.made = 1

        class Child(Parent):
            def __init__(self):
                super().__init__()
                self.made += 1

        assert Child().made == 2
        assert Child().made == 2
        assert Parent().made == 1

    @pytest.mark.thread_unsafe(reason="the switch interval is the whole process's")
    def test_threads_make_one(self, make):
        made = []

        def init(self):
            made.append(threading.get_ident())
            time.sleep(0.001)

        with switching():
            for _ in range(5):
                cls = make({"__init__": init})
                made.clear()
                results, errors = all_at_once(cls)
                assert not errors
                assert len({id(result) for result in results}) == 1
                assert len(made) == 1

    @pytest.mark.thread_unsafe(reason="the switch interval is the whole process's")
    def test_a_failure_is_its_makers_own_and_the_next_tries_again(self, make):
        made = []

        def init(self):
            made.append(None)
            time.sleep(0.001)
            if len(made) <= 3:
                raise LookupError(len(made))

        cls = make({"__init__": init})
        with switching():
            results, errors = all_at_once(cls, 16)
        assert sorted(error.args for error in errors) == [(1,), (2,), (3,)]
        assert len(results) == 13
        assert len({id(result) for result in results}) == 1
        assert len(made) == 4

    def test_strict(self, make):
        cls = make({"__init__": lambda self, value=0: None}, strict=True)
        one = cls(5)
        assert cls() is one
        for call in (lambda: cls(5), lambda: cls(value=5)):
            with pytest.raises(TypeError, match=r"One has its one instance; from now on One\(\) takes no arguments"):
                call()
        child = type(cls)("Child", (cls,), {})
        child(1)
        with pytest.raises(TypeError, match="Child has its one instance"):
            child(1)
        loose = type(cls)("Loose", (cls,), {}, strict=False)
        assert loose(1) is loose(2)
        with pytest.raises(TypeError, match="strict must be True or False, not int: 1"):
            make({}, strict=1)

    def test_needed_to_make_itself(self, make):
        cls = make({"__init__": lambda self: cls()})
        with pytest.raises(RuntimeError, match="One'> is needed to make itself"):
            cls()
        # Nothing is left of the attempt.
        with pytest.raises(RuntimeError, match="is needed to make itself"):
            cls()

    def test_two_that_need_one_another_in_two_threads(self, make):
        started = threading.Barrier(2)

        def init(other):
            def body(self):
                with contextlib.suppress(threading.BrokenBarrierError):
                    started.wait(5)
                other()

            return body

        one = make({"__init__": init(lambda: two())})  # noqa: PLW0108 - it is there by then
        two = make({"__init__": init(lambda: one())})  # noqa: PLW0108
        errors = []

        def call(cls):
            try:
                cls()
            except RuntimeError as error:
                errors.append(error)

        threads = [threading.Thread(target=call, args=(cls,), daemon=True) for cls in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert errors

    def test_copies_and_pickles_are_the_same(self):
        for one in (Shared(), Decorated()):
            assert copy.copy(one) is one
            assert copy.deepcopy([one])[0] is one
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                assert pickle.loads(pickle.dumps(one, protocol)) is one

    @pytest.mark.subprocess
    def test_a_pickle_elsewhere_makes_the_instance(self, python, tmp_path):
        (tmp_path / "mine.py").write_text(
            "from ferrule import Singleton\n"
            "class Mine(metaclass=Singleton):\n"
            "    def __init__(self): self.fresh = True\n"
        )
        done = python(
            """
            import pickle, subprocess, sys
            sys.path.insert(0, sys.argv[1])
            import mine
            text = pickle.dumps(mine.Mine())
            code = "import sys, pickle; sys.path.insert(0, sys.argv[1]); one = pickle.loads(sys.stdin.buffer.read());"
            code += "import mine; print(one is mine.Mine(), one.fresh)"
            done = subprocess.run([sys.executable, "-I", "-c", code, sys.argv[1]], input=text, stdout=-1, timeout=60)
            print(done.stdout.decode())
            """,
            tmp_path,
        )
        assert done.stdout.split() == ["True", "True"]

    def test_a_copy_of_ones_own_is_left_alone(self, make):
        cls = make({"__copy__": lambda self: "mine", "__reduce__": lambda self: (str, ("mine",))})
        assert copy.copy(cls()) == "mine"
        assert pickle.loads(pickle.dumps(cls())) == "mine"

    def test_other_metaclasses(self):
        @singleton
        class Abstract(abc.ABC):  # noqa: B024
            pass

        assert Abstract() is Abstract()
        assert isinstance(type(Abstract), type)
        assert issubclass(type(Abstract), abc.ABCMeta)

        @singleton
        class Settings(Model):
            level: int = Field(default=1)

        assert Settings(level=2) is Settings()
        assert Settings().level == 2

    @pytest.mark.parametrize("thing", [1, len, "Config"])
    def test_only_classes(self, thing):
        with pytest.raises(TypeError, match="singleton takes a class"):
            singleton(thing)

    @pytest.mark.parametrize("cls", [int, type(sys), collections.OrderedDict])
    def test_classes_of_the_interpreters_own(self, cls):
        with pytest.raises(TypeError, match="can't be made a singleton"):
            singleton(cls)
        assert type(cls) is type

    def test_slots_generics_and_attributes(self):
        @singleton
        class Slotted:
            __slots__ = ("value",)

        Slotted().value = 1
        assert Slotted().value == 1
        Slotted.shared = 2
        assert Slotted.shared == 2

    def test_a_class_that_was_used_before(self):
        class Used:
            def __init__(self, value):
                self.value = value

        def make(value):
            return Used(value)

        # Often enough that the interpreter has noted how it is called.
        assert [make(n).value for n in range(1_000)] == list(range(1_000))
        singleton(Used)
        assert [make(n).value for n in range(5)] == [0] * 5

    @classes_go
    def test_it_can_be_collected(self, make):
        cls = make({})
        cls().me = cls
        references = [weakref.ref(cls), weakref.ref(cls())]
        del cls
        gc.collect()
        assert [reference() for reference in references] == [None, None]

    def test_many_come_and_go(self):
        # The metaclass's count of references is that of all its classes.
        for _ in range(2_000):
            cls = singleton(type("Short", (), {}))
            assert cls() is cls()
        del cls
        gc.collect()
        assert Shared() is Shared()

    @pytest.mark.subprocess
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_forked_child_does_not_wait_for_the_parents_threads(self, python):
        done = python(
            """
            import os, threading, warnings
            from ferrule import Singleton, lazy_property
            warnings.simplefilter("ignore")
            begun, end = threading.Event(), threading.Event()
            parent = os.getpid()
            def wait():
                if os.getpid() == parent:
                    begun.set()
                    end.wait(30)
            class One(metaclass=Singleton):
                def __init__(self): wait()
            thread = threading.Thread(target=One)
            thread.start()
            begun.wait(30)
            child = os.fork()
            if not child:
                print("made", One() is One(), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            end.set()
            thread.join()
            print(One() is One())
            """
        )
        assert done.stderr == ""
        assert done.stdout.split() == ["made", "True", "True"]


class TestLazyProperty:
    def test_computed_once_for_each_instance(self):
        computed = []

        class Report:
            @lazy_property
            def total(self):
                """The sum."""
                computed.append(self)
                return len(computed)

            other = lazy_property(lambda self: self.total + 1)

        one, two = Report(), Report()
        assert (one.total, one.total, two.total, one.other) == (1, 1, 2, 2)
        assert computed == [one, two]
        assert vars(one) == {"total": 1, "other": 2}
        assert Report.total.__doc__ == "The sum."
        assert isinstance(Report.total, lazy_property)

    def test_set_and_deleted(self):
        class Report:
            total = lazy_property(lambda self: object())

        report = Report()
        first = report.total
        del report.total
        assert report.total is not first
        report.total = 5
        assert report.total == 5

    def test_slots(self):
        class Slotted:
            __slots__ = ("_total",)
            total = lazy_property(lambda self: object())

        slotted = Slotted()
        assert slotted.total is slotted.total
        assert slotted._total is slotted.total
        with pytest.raises((TypeError, RuntimeError)) as caught:
            type("Tight", (), {"__slots__": (), "total": lazy_property(len)})
        error = caught.value.__cause__ if type(caught.value) is RuntimeError else caught.value
        assert "no place for Tight.total" in str(error)

    @pytest.mark.thread_unsafe(reason="the switch interval is the whole process's")
    @pytest.mark.parametrize("slots", [False, True])
    def test_threads_compute_once(self, slots):
        computed = []

        def compute(self):
            computed.append(threading.get_ident())
            time.sleep(0.001)
            return object()

        with switching():
            for _ in range(5):
                body = {"value": lazy_property(compute), **({"__slots__": ("_value",)} if slots else {})}
                instance = type("Owner", (), body)()
                computed.clear()
                results, errors = all_at_once(lambda instance=instance: instance.value)
                assert not errors
                assert len(computed) == 1
                assert len({id(result) for result in results}) == 1

    @pytest.mark.thread_unsafe(reason="the switch interval is the whole process's")
    def test_other_instances_do_not_wait(self):
        inside = threading.Barrier(8)

        class Owner:
            @lazy_property
            def value(self):
                inside.wait(30)
                return 1

        owners = iter([Owner() for _ in range(8)])
        results, errors = all_at_once(lambda: next(owners).value, 8)
        assert not errors
        assert results == [1] * 8

    def test_failures_are_not_kept(self):
        attempts = []

        class Owner:
            @lazy_property
            def value(self):
                attempts.append(None)
                if len(attempts) < 3:
                    raise LookupError(len(attempts))
                return 1

        owner = Owner()
        for number in (1, 2):
            with pytest.raises(LookupError) as caught:
                owner.value  # noqa: B018
            assert caught.value.args == (number,)
        assert owner.value == 1

    def test_needed_to_compute_itself(self):
        class Owner:
            @lazy_property
            def value(self):
                return self.value

        with pytest.raises(RuntimeError, match=r"Owner\.value is needed to make itself"):
            Owner().value  # noqa: B018

    def test_without_a_name(self):
        class Owner: ...

        Owner.value = lazy_property(lambda self: 1)
        with pytest.raises(TypeError, match="this lazy property has no name"):
            Owner().value  # noqa: B018
        Owner.value.__set_name__(Owner, "value")
        assert Owner().value == 1

    def test_one_name(self):
        lazy = lazy_property(lambda self: 1)
        type("One", (), {"a": lazy})
        assert type("Two", (), {"a": lazy})().a == 1
        with pytest.raises((TypeError, RuntimeError)) as caught:
            type("Three", (), {"b": lazy})
        error = caught.value.__cause__ if type(caught.value) is RuntimeError else caught.value
        assert "this lazy property is a of another class" in str(error)

    def test_only_callables(self):
        with pytest.raises(TypeError, match="function must be callable with the instance, not int: 1"):
            lazy_property(1)

    def test_super(self):
        class Base:
            @lazy_property
            def value(self):
                return 1

        class Child(Base):
            @lazy_property
            def other(self):
                return super().value + 1

        assert Child().other == 2

    def test_nothing_is_kept_of_an_instance(self):
        class Owner:
            value = lazy_property(lambda self: [self])

        owner = Owner()
        assert owner.value == [owner]
        reference = weakref.ref(owner)
        del owner
        gc.collect()
        assert reference() is None

    def test_generics(self):
        assert lazy_property[int]


class TestRegistry:
    def test_as_a_decorator(self):
        registry = Registry("exporters")

        @registry.register("csv")
        def to_csv(): ...

        @registry.register()
        def xml(): ...

        @registry.register
        def json(): ...

        registry.register("plain", 5)
        assert dict(registry) == {"csv": to_csv, "xml": xml, "json": json, "plain": 5}
        assert list(registry) == ["csv", "xml", "json", "plain"]
        assert registry.get("x") is None
        assert registry.get("x", 1) == 1
        assert "csv" in registry
        assert len(registry) == 4
        assert repr(registry) == "<Registry exporters: csv, xml, json, plain>"

    def test_unknown_names(self):
        registry = Registry("exporters")
        with pytest.raises(KeyError, match="exporters has no 'x'; it has nothing"):
            registry["x"]
        registry.register("csv", 1)
        with pytest.raises(KeyError, match="exporters has no 'x'; it has 'csv'"):
            registry["x"]
        with pytest.raises(KeyError, match="has no 'x'"):
            registry.unregister("x")
        assert registry.unregister("csv") == 1
        assert not registry

    def test_duplicates(self):
        registry = Registry("exporters")
        registry.register("csv", 1)
        with pytest.raises(ValueError, match="exporters has 'csv' already: 1; replace=True takes its place"):
            registry.register("csv", 2)
        assert registry["csv"] == 1
        registry.register("csv", 2, replace=True)
        assert registry["csv"] == 2

        @registry.register("csv", replace=True)
        def other(): ...

        assert registry["csv"] is other

    @pytest.mark.parametrize(
        ("call", "error", "text"),
        [
            (lambda registry: registry.register(""), ValueError, "name must be a string that is not empty"),
            (lambda registry: registry.register(5, 1), TypeError, "name must be a string, not int: 5"),
            (lambda registry: registry.register()(5), TypeError, "name must be given: 5 has none"),
            (lambda registry: registry.register(functools.partial(int)), TypeError, "name must be given"),
            (lambda registry: Registry(""), ValueError, "name must be a string that is not empty"),
        ],
    )
    def test_arguments_that_make_no_sense(self, call, error, text):
        with pytest.raises(error, match=text):
            call(Registry("exporters"))

    @pytest.mark.thread_unsafe(reason="the switch interval is the whole process's")
    def test_of_many_threads_one_wins(self):
        registry = Registry("exporters")
        with switching():
            _, errors = all_at_once(lambda: registry.register("csv", threading.get_ident()), 32)
        assert len(errors) == 31
        assert len(registry) == 1


class TestPlugin:
    def test_each_base_has_its_own(self):
        class Exporter(Plugin): ...

        class Importer(Plugin, name="importers"): ...

        class Csv(Exporter, name="csv"): ...

        class Xml(Exporter): ...

        class Deep(Xml): ...

        class Reader(Importer): ...

        class Both(Exporter, Importer, name="both"): ...

        assert dict(Exporter.registry) == {"csv": Csv, "Xml": Xml, "Deep": Deep, "both": Both}
        assert dict(Importer.registry) == {"Reader": Reader, "both": Both}
        assert Importer.registry.name == "importers"
        assert Exporter.registry.name == "Exporter"
        assert not hasattr(Plugin, "registry")

    def test_duplicates_and_bases_in_between(self):
        class Exporter(Plugin): ...

        class Csv(Exporter, name="csv"): ...

        with pytest.raises(ValueError, match="Exporter has 'csv' already"):

            class Other(Exporter, name="csv"): ...

        class Third(Exporter, name="csv", replace=True): ...

        class Between(Exporter, register=False): ...

        class Leaf(Between): ...

        assert dict(Exporter.registry) == {"csv": Third, "Leaf": Leaf}

    @pytest.mark.parametrize(
        "options", [{"name": 1}, {"register": False, "name": "a"}, {"register": False, "replace": True}]
    )
    def test_arguments_that_make_no_sense(self, options):
        class Exporter(Plugin): ...

        with pytest.raises(TypeError):
            type("Csv", (Exporter,), {}, **options)
        with pytest.raises(TypeError):
            type("Base", (Plugin,), {}, register=False)
        assert not Exporter.registry

    def test_other_options_go_on_to_other_bases(self):
        seen = {}

        class Listening:
            def __init_subclass__(cls, **options):
                seen.update(options)

        class Exporter(Plugin, Listening): ...

        class Csv(Exporter, colour="red"): ...

        assert seen == {"colour": "red"}


class TestCaseInsensitiveDict:
    def test_look_up(self):
        headers = CaseInsensitiveDict({"Content-Type": "text/plain"})
        for key in ("Content-Type", "content-type", "CONTENT-TYPE", "".join(["CONTENT", "-type"])):  # noqa: FLY002 - not interned
            for _ in range(2):
                assert headers[key] == "text/plain"
                assert key in headers
                assert headers.get(key) == "text/plain"
                assert headers.spelling(key) == "Content-Type"
        assert "other" not in headers
        assert headers.get("other") is None
        assert headers.get("other", 1) == 1
        for call in (lambda: headers["Other"], lambda: headers.spelling("Other"), lambda: headers.pop("Other")):
            with pytest.raises(KeyError, match=r"^'Other'$"):
                call()

    def test_the_first_spelling_and_the_order_stay(self):
        kept = CaseInsensitiveDict([("B", 1), ("a", 2)])
        kept["b"] = 3
        kept["C"] = 4
        assert list(kept.items()) == [("B", 3), ("a", 2), ("C", 4)]
        assert list(reversed(kept)) == ["C", "a", "B"]
        del kept["b"]
        kept["b"] = 5
        assert list(kept) == ["a", "C", "b"]
        assert repr(kept) == "CaseInsensitiveDict({'a': 2, 'C': 4, 'b': 5})"

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("Straße", "STRASSE"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("\u212a", "k"),
            ("İ", "i̇"),
            ("x" * 1_000, "X" * 1_000),
            ("\udcffA", "\udcffa"),
            ("", ""),
        ],
    )
    def test_case_folding_is_more_than_lower(self, one, other):
        kept = CaseInsensitiveDict({one: 1})
        for _ in range(2):
            assert kept[other] == 1
        kept[other] = 2
        assert dict(kept) == {one: 2}

    @pytest.mark.parametrize("key", [1, None, b"a", ("a",), []])
    def test_what_is_no_string_is_no_key(self, key):
        kept = CaseInsensitiveDict(a=1)
        with pytest.raises(TypeError, match="key must be a string, not"):
            kept[key] = 1
        with pytest.raises(TypeError, match="key must be a string, not"):
            kept.setdefault(key, 1)
        assert key not in kept
        assert kept.get(key) is None
        with pytest.raises(KeyError):
            kept[key]
        with pytest.raises(KeyError):
            del kept[key]

    def test_the_mappings_other_methods(self):
        kept = CaseInsensitiveDict({"A": 1}, b=2)
        assert isinstance(kept, MutableMapping)
        assert kept.setdefault("a", 5) == 1
        assert kept.setdefault("C", 3) == 3
        assert kept.setdefault("d") is None
        assert kept.pop("D") is None
        assert kept.pop("d", 7) == 7
        with pytest.raises(TypeError, match="at most one default"):
            kept.pop("d", 1, 2)
        assert kept.popitem() == ("C", 3)
        kept.update({"B": 4}, e=5)
        assert kept == {"a": 1, "b": 4, "E": 5}
        assert len(kept) == 3
        assert list(kept.keys()) == ["A", "b", "e"]
        assert list(kept.values()) == [1, 4, 5]
        assert ("a", 1) in kept.items()
        kept.clear()
        assert not kept
        with pytest.raises(KeyError, match="the dictionary is empty"):
            kept.popitem()
        assert CaseInsensitiveDict.fromkeys(["A", "b"], 1) == {"a": 1, "B": 1}

    def test_equality(self):
        kept = CaseInsensitiveDict({"A": 1, "B": 2})
        assert kept == CaseInsensitiveDict({"b": 2, "a": 1})
        assert kept == {"a": 1, "B": 2}
        assert kept != {"a": 1}
        assert kept != {"a": 1, "b": 3}
        assert kept != {"a": 1, "c": 2}
        # Two keys there that are one here.
        assert kept != {"a": 1, "A": 1}
        assert CaseInsensitiveDict(a=1) != {1: 1}
        assert kept != [("A", 1), ("B", 2)]
        with pytest.raises(TypeError, match="unhashable"):
            hash(kept)

    def test_merging(self):
        kept = CaseInsensitiveDict({"A": 1})
        assert list((kept | {"a": 2, "b": 3}).items()) == [("A", 2), ("b", 3)]
        assert list(({"a": 2, "b": 3} | kept).items()) == [("a", 1), ("b", 3)]
        kept |= {"a": 4}
        kept |= [("C", 5)]
        assert dict(kept) == {"A": 4, "C": 5}
        with pytest.raises(TypeError):
            kept | 5
        with pytest.raises(TypeError):
            5 | kept

    def test_copies_and_pickles(self):
        kept = CaseInsensitiveDict({"A": [1], "b": 2})
        for other in (kept.copy(), copy.copy(kept), copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
            assert type(other) is CaseInsensitiveDict
            assert list(other.items()) == list(kept.items())
            other["A"] = 5
        assert kept["a"] == [1]

    def test_changes_during_iteration(self):
        kept = CaseInsensitiveDict(a=1, b=2, c=3)
        for key in kept:
            kept[key.upper()] = 0
        keys = iter(kept)
        del kept[next(keys)]
        with pytest.raises(RuntimeError, match="the dictionary changed during iteration"):
            next(keys)
        assert list(keys) == []
        keys = reversed(kept)
        kept["new"] = 1
        with pytest.raises(RuntimeError, match="the dictionary changed during iteration"):
            next(keys)

    def test_a_known_spelling_is_no_longer_known_when_it_goes(self):
        kept = CaseInsensitiveDict()
        key = "Accept"
        for round_ in range(3):
            kept[key] = round_
            assert kept[key] == kept[key] == round_
            del kept[key]
            assert key not in kept
            with pytest.raises(KeyError):
                kept[key]
            kept["other"] = "x"
            with pytest.raises(KeyError):
                kept[key]
            kept.clear()

    def test_strings_of_ones_own(self):
        class Text(str):  # noqa: SLOT000
            def casefold(self):
                raise AssertionError("not asked")

            __hash__ = None

        kept = CaseInsensitiveDict()
        kept[Text("Ä")] = 1
        assert kept["ä"] == kept[Text("Ä")] == 1

    def test_values_are_let_go(self):
        class Value: ...

        kept = CaseInsensitiveDict()
        references = []

        def add(key):
            value = Value()
            references.append(weakref.ref(value))
            kept[key] = value

        for key in ("a", "A", "b", "c", "d"):
            add(key)
        del kept["b"]
        kept.pop("c")
        kept["d"] = None
        gc.collect()
        assert [reference() is None for reference in references] == [True, False, True, True, True]
        kept.clear()
        assert references[1]() is None

    def test_values_that_look_at_the_dictionary_when_they_go(self):
        kept = CaseInsensitiveDict()
        seen = []

        class Value:
            def __del__(self):
                seen.append(len(kept))

        for _ in range(3):
            kept["a"] = Value()
        del kept["a"]
        kept["b"] = Value()
        kept.clear()
        assert len(seen) == 4

    def test_a_circle_is_collected(self):
        class Owner: ...

        owner = Owner()
        owner.kept = CaseInsensitiveDict(owner=owner)
        reference = weakref.ref(owner)
        del owner
        gc.collect()
        assert reference() is None

    def test_subclasses(self):
        class Headers(CaseInsensitiveDict):
            def __missing__(self, key):
                raise AssertionError("not asked")

        headers = Headers({"A": 1})
        assert repr(headers) == "Headers({'A': 1})"
        assert type(headers | {"b": 1}) is Headers
        assert type(headers.copy()) is Headers
        assert CaseInsensitiveDict[int]

    @pytest.mark.thread_unsafe(reason="the switch interval is the whole process's")
    def test_threads(self):
        kept = CaseInsensitiveDict()
        names = [f"Key{number}" for number in range(50)]

        def work():
            for name in names:
                kept[name] = 1
                kept[name.upper()] = 2
                kept.get(name.lower())
                kept.pop(name, None)
                kept.setdefault(name, 3)
            return True

        with switching():
            results, errors = all_at_once(work, 8)
        assert not errors
        assert len(results) == 8
        assert len(kept) == 50

    @given(st.dictionaries(st.text(), st.integers()), st.text())
    def test_as_a_plain_model_sees_it(self, items, key):
        kept = CaseInsensitiveDict(items)
        model = {}
        for spelling, value in items.items():
            first = model.get(spelling.casefold(), (spelling,))[0]
            model[spelling.casefold()] = (first, value)
        assert list(kept.items()) == list(model.values())
        assert (key in kept) is (key.casefold() in model)


KEYS = st.sampled_from(["a", "A", "ä", "Ä", "b", "B", "ß", "SS", "ss", "Content-Type", "content-type"])


class DictMachine(RuleBasedStateMachine):
    """A `CaseInsensitiveDict` beside a plain dictionary from case-folded key to spelling and value."""

    @initialize()
    def begin(self):
        self.kept, self.model = CaseInsensitiveDict(), {}

    @rule(key=KEYS, value=st.integers())
    def set(self, key, value):
        self.kept[key] = value
        spelling = self.model.get(key.casefold(), (key,))[0]
        self.model[key.casefold()] = (spelling, value)

    @rule(key=KEYS, value=st.integers())
    def setdefault(self, key, value):
        assert self.kept.setdefault(key, value) == self.model.setdefault(key.casefold(), (key, value))[1]

    @rule(key=KEYS)
    def delete(self, key):
        if key.casefold() in self.model:
            del self.kept[key], self.model[key.casefold()]
        else:
            with pytest.raises(KeyError):
                del self.kept[key]

    @rule(key=KEYS)
    def pop(self, key):
        assert self.kept.pop(key, None) == self.model.pop(key.casefold(), (None, None))[1]

    @rule()
    def popitem(self):
        if self.model:
            assert self.kept.popitem() == self.model.popitem()[1]

    @rule(key=KEYS)
    def get(self, key):
        assert self.kept.get(key) == self.model.get(key.casefold(), (None, None))[1]

    @rule()
    def clear(self):
        self.kept.clear()
        self.model.clear()

    @invariant()
    def same(self):
        assert list(self.kept.items()) == list(self.model.values())
        assert len(self.kept) == len(self.model)


TestDictMachine = DictMachine.TestCase


# MutableMapping's own contract: the standard library's tests of mappings, where it brings them along.
try:
    from test import mapping_tests
except ImportError:
    mapping_tests = None

if mapping_tests is not None:

    class TestMappingContract(mapping_tests.BasicTestMappingProtocol):
        type2test = CaseInsensitiveDict

        def _reference(self):
            return {"Key1": "1", "key2": "2", "KEY3": "3"}


def test_the_rooms_names():
    assert set(patterns.__all__) <= set(vars(patterns))
    assert isinstance(types.MappingProxyType(CaseInsensitiveDict(a=1)), types.MappingProxyType)
    assert not issubclass(enum.Enum, Singleton)

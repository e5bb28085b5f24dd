"""Pipelines: what goes in comes out or is named, nothing hangs, and runs go on where others stopped."""

import copy
import io
import itertools
import operator
import os
import pickle
import sys
import threading
from concurrent.futures import Executor, Future
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from draining import drained
from ferrule import MissingExtra, Pipeline, StageError, it, pipeline
from ferrule.iterating import MISSING

CASES = 1_000 if os.environ.get("FERRULE_FEW_CASES") else 10_000


class InPlace(Executor):
    """Works as soon as it is asked to, in the thread that asks."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)
        return future


def halved(number):
    return 10 // number


class TestExpressions:
    @pytest.mark.parametrize(
        "operation",
        [
            operator.add,
            operator.sub,
            operator.mul,
            operator.truediv,
            operator.floordiv,
            operator.mod,
            operator.and_,
            operator.or_,
            operator.xor,
            operator.lt,
            operator.le,
            operator.eq,
            operator.ne,
            operator.gt,
            operator.ge,
        ],
    )
    @given(
        one=st.integers() | st.floats() | st.integers(-10, 10) | st.booleans(),
        other=st.integers() | st.floats() | st.integers(-10, 10),
    )
    @settings(deadline=None, max_examples=150)
    def test_numbers_are_python_s(self, operation, one, other):
        def outcome(function, *arguments):
            try:
                result = function(*arguments)
            except (ArithmeticError, TypeError) as error:
                return type(error)
            return type(result), repr(result)

        logical = isinstance(one, bool) and operation in (operator.and_, operator.or_)
        if not logical:
            assert outcome(operation(it, other), one) == outcome(operation, one, other)
        assert outcome(operation(one, it), other) == outcome(operation, one, other) or logical

    def test_what_is_recorded_is_done(self):
        the = it  # under a name of its own: pytest-run-parallel looks into what a test calls by a global one
        item = SimpleNamespace(name=" ferrule ", sizes={"k": [1, 2]})
        assert the.name.method("strip").method("upper")(item) == "FERRULE"
        assert it.sizes["k"][1](item) == 2
        assert the.in_({1, 2})(1) is True
        assert (2**it, 7 % it, -it, +it, abs(it), it << 2, 16 >> it)[0](5) == 32
        assert [(-it)(3), abs(it)(-3), (it << 2)(1), (16 >> it)(2), (~it)(5)] == [-3, 3, 4, 4, -6]
        assert list(map(it * 2, [1, 2])) == [2, 4]

    def test_truth_stops_where_it_is_decided(self):
        small = (it != 0) & (1 / it < 1)
        assert [small(0), small(2), small(0.5)] == [False, True, False]
        assert ((it == 0) | (1 / it > 1))(0) is True
        assert (~(it > 1))(1) is True

    @pytest.mark.parametrize(
        ("use", "hint"),
        [
            (bool, "use & for and"),
            (len, "has no length"),
            (iter, "use it"),
            (hash, "in_"),
            (lambda it: 1 in it, "in_"),
            (lambda it: 0 < it < 3, "use & for and"),
            (lambda it: it > 0 and it < 3, "use & for and"),
        ],
    )
    def test_what_cannot_be_recorded_names_what_can(self, use, hint):
        with pytest.raises(TypeError, match=hint):
            use(it)

    def test_they_are_printed_copied_and_pickled(self):
        the = it
        expression = ((it["a"] + 1) * the.b.method("f", 2)).in_([3]) | ~it
        assert repr(expression) == "(((it['a'] + 1) * it.b.method('f', 2)).in_([3]) | (~it))"
        for other in (pickle.loads(pickle.dumps(expression)), copy.copy(expression), copy.deepcopy(expression)):
            assert repr(other) == repr(expression)

    def test_errors_come_out_as_they_are(self):
        nothing = it.nothing
        with pytest.raises(AttributeError, match="nothing"):
            nothing(3)
        with pytest.raises(KeyError):
            it["k"]({})


class TestStages:
    @pytest.mark.parametrize("native", [True, False])
    def test_filter_square_running_sum(self, native):
        numbers = [3, -1, 4, 2**62, 2**70, 1.5, True]
        expected = list(itertools.accumulate(n * n for n in numbers if n > 0))
        if native:
            stages = Pipeline().filter(it > 0).map(it * it).accumulate()
        else:
            stages = Pipeline().filter(lambda n: n > 0).map(lambda n: n * n).accumulate(lambda a, b: a + b)
        assert list(stages.run(numbers)) == expected

    @pytest.mark.parametrize("function", [operator.add, operator.mul, min, max, lambda a, b: a - b])
    @pytest.mark.parametrize("numbers", [[3, 1, 2, 9, 2**64, 4], [1.5, 2, 0.25], [Ellipsis], []])
    def test_accumulate_is_that_of_itertools(self, function, numbers):
        assert list(Pipeline().accumulate(function).run(numbers)) == list(itertools.accumulate(numbers, function))
        if Ellipsis not in numbers:
            expected = list(itertools.accumulate(numbers, function, initial=5))[1:]
            assert list(Pipeline().accumulate(function, initial=5).run(numbers)) == expected

    def test_each_stage_does_what_it_says(self):
        def run(stages, items):
            return list(stages.run(items))

        assert run(Pipeline().flat_map(range).take(4), [2, 3, 4]) == [0, 1, 0, 1]
        assert run(Pipeline().skip(2).take(2), itertools.count()) == [2, 3]
        assert run(Pipeline().take(0), itertools.count()) == []
        assert run(Pipeline().dedupe(), [1, 2, 1, 3, 2]) == [1, 2, 3]
        assert run(Pipeline().dedupe(it % 3), range(10)) == [0, 1, 2]
        assert run(Pipeline().dedupe(maxsize=1), [1, 2, 1, 1]) == [1, 2, 1]
        assert run(Pipeline().take_while(it < 3).batch(2), itertools.count()) == [[0, 1], [2]]
        assert run(Pipeline().windowed(2), range(4)) == [(0, 1), (1, 2), (2, 3)]
        assert run(Pipeline().windowed(3, step=2, fillvalue=None), range(6)) == [(0, 1, 2), (2, 3, 4), (4, 5, None)]
        assert run(Pipeline().through(reversed_), range(3)) == [2, 1, 0]
        assert run(Pipeline().containing("a").matching("b$").split_field(1), ["a b", "b", "a x"]) == ["b"]
        assert run(Pipeline(), ["a"]) == ["a"]
        seen = []
        assert run(Pipeline().tap(seen.append).batch(2), range(3)) == [[0, 1], [2]]
        assert seen == [0, 1, 2]

    def test_take_pulls_no_more_than_it_needs(self):
        source = iter(range(100))
        assert list(Pipeline().take(3).run(source)) == [0, 1, 2]
        assert next(source) == 3

    def test_lines_are_chosen_on_bytes_and_on_text(self):
        data = b"GET /a 200\nERROR x\nERROR y 7\n"
        errors = Pipeline("errors").lines().containing("ERROR").split_field(1).map(it + "!")
        assert list(errors.run(io.BytesIO(data))) == ["x!", "y!"]
        assert list(errors.run(io.StringIO(data.decode()))) == ["x!", "y!"]

    def test_a_path_without_lines_is_told(self, tmp_path):
        for source in ("app.log", b"app.log", tmp_path):
            with pytest.raises(TypeError, match=r"begin the pipeline with \.lines\(\)"):
                Pipeline().batch(2).run(source)
            with pytest.raises(TypeError, match=r"begin the pipeline with \.lines\(\)"):
                Pipeline().run_async(source)

    def test_an_asynchronous_source_is_for_run_async(self):
        async def numbers():
            yield 1

        with pytest.raises(TypeError, match="use run_async"):
            Pipeline().map(abs).run(numbers())

    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda: Pipeline(3), TypeError),
            (lambda: Pipeline().map(3), TypeError),
            (lambda: Pipeline().map(abs, workers=0), ValueError),
            (lambda: Pipeline().map(abs, workers="2"), TypeError),
            (lambda: Pipeline().map(abs, buffer=-1), ValueError),
            (lambda: Pipeline().map(abs, chunk=0), ValueError),
            (lambda: Pipeline().map(abs, workers=2, chunk="much"), ValueError),
            # These say how workers are fed: without any, they would be accepted and ignored.
            (lambda: Pipeline().map(abs, chunk="auto"), ValueError),
            (lambda: Pipeline().map(abs, buffer=8), ValueError),
            (lambda: Pipeline().map(abs, ordered=False), ValueError),
            (lambda: Pipeline().map(abs, executor=3), TypeError),
            (lambda: Pipeline().map(abs, retry=3), TypeError),
            (lambda: Pipeline().map(abs, limit=3), TypeError),
            (lambda: Pipeline().map(abs, on_error="ignore"), ValueError),
            (lambda: Pipeline().map(abs, name=3), TypeError),
            (lambda: Pipeline().batch(0), ValueError),
            (lambda: Pipeline().take(-1), ValueError),
            (lambda: Pipeline().map(abs).lines(), ValueError),
            (lambda: Pipeline().run([], on_error="ignore"), ValueError),
            (lambda: Pipeline().run([], progress=3), TypeError),
            (lambda: Pipeline().run([], resume={}), ValueError),
            (lambda: Pipeline().run(3), TypeError),
        ],
    )
    def test_bad_arguments_are_refused_at_once(self, make, error):
        with pytest.raises(error):
            make()

    def test_a_pipeline_is_run_many_times_and_sent(self):
        stages = Pipeline("squares").map(it * it).batch(2)
        assert repr(stages) == "<Pipeline 'squares': (it * it), batch>"
        other = pickle.loads(pickle.dumps(stages))
        for _ in range(2):
            assert list(stages.run(range(3))) == list(other.run(range(3))) == [[0, 1], [4]]

    def test_progress_is_told(self):
        told = []
        assert list(Pipeline().map(it + 0, workers=2).run(range(3), progress=told.append)) == [0, 1, 2]
        assert told == [1, 2, 3]

    def test_a_batch_comes_in_time(self):
        go_on = threading.Event()

        def source():
            yield 1
            go_on.wait(60)
            yield 2

        run = Pipeline().batch(10, max_wait=0.05).run(source())
        assert next(run) == [1]
        go_on.set()
        assert list(run) == [[2]]


def reversed_(items):
    return iter(list(items)[::-1])


class Odd:
    """Is equal to everything, and has a length that is none."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return True

    def __len__(self):
        return 10**9

    def __iter__(self):
        return iter([1, 2])


class TestUsersData:
    """Nothing that a user may have is taken for a sign of ours (toolz 639), and no length for the truth (toolz 602)."""

    ODD = (None, Odd(), StopIteration(), StopIteration, object(), MISSING, NotImplemented, Ellipsis)

    @pytest.mark.parametrize("options", [{}, {"workers": 2}, {"executor": InPlace()}])
    def test_it_goes_through(self, options):
        stages = Pipeline().map(lambda item: item, **options).tap(id).batch(3).flat_map(it).windowed(1).map(it[0])
        found = list(stages.run(list(self.ODD)))
        assert [id(item) for item in found] == [id(item) for item in self.ODD]

    def test_a_length_is_not_believed(self):
        assert list(Pipeline().batch(5).run(Odd())) == [[1, 2]]
        assert list(Pipeline().map(abs, workers=2).run(Odd())) == [1, 2]

    def test_a_list_that_grows_and_shrinks_meanwhile(self):
        items = [1, 2, 3]
        run = Pipeline().tap(lambda n: items.append(9) if n == 3 else None).run(items)
        assert [next(run), next(run), next(run), next(run)] == [1, 2, 3, 9]
        run = Pipeline().tap(lambda _: items.clear()).run(items)
        assert list(run) == [1]


class TestProgress:
    def test_an_error_does_not_end_it(self):
        told = []
        found, errors = drained(Pipeline().map(halved).run([1, 0, 5], progress=told.append))
        assert (found, len(errors), told) == ([10, 2], 1, [1, 2])

    def test_a_function_that_raises_loses_nothing(self):
        def tell(count):
            if count == 2:
                raise KeyError(count)

        found, errors = drained(Pipeline().run([1, 2, 3], progress=tell))
        assert (found, len(errors)) == ([1, 2, 3], 1)

    def test_a_bar(self, capsys):
        pytest.importorskip("tqdm")
        assert list(Pipeline("counted").run(range(3), progress=True)) == [0, 1, 2]
        assert "counted: 3it" in capsys.readouterr().err

    def test_a_bar_without_tqdm_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tqdm", None)
        with pytest.raises(MissingExtra, match="progress"):
            Pipeline().run([], progress=True)


class TestErrors:
    @pytest.mark.parametrize("options", [{}, {"workers": 3}, {"workers": 3, "ordered": False}])
    def test_they_say_stage_index_and_item_and_the_run_goes_on(self, options):
        run = Pipeline().map(halved, name="half", **options).run([1, 0, 5])
        found, errors = drained(run)
        assert sorted(found) == [2, 10]
        assert [error.__notes__ for error in errors] == [["in stage half, item 1: 0"]]

    @pytest.mark.parametrize("options", [{}, {"workers": 3}])
    def test_they_are_collected_or_skipped(self, options):
        run = Pipeline().map(halved, **options).run([1, 0, 5], on_error="collect")
        assert list(run) == [10, 2]
        (error,) = run.errors
        assert isinstance(error, StageError)
        assert (error.stage, error.index, error.item, type(error.error)) == ("halved", 1, 0, ZeroDivisionError)
        run = Pipeline().map(halved, on_error="skip", **options).run([1, 0, 5])
        assert list(run) == [10, 2]
        assert run.errors == []

    def test_ctrl_c_is_never_skipped(self):
        def interrupt(_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(Pipeline().map(interrupt).run([1], on_error="skip"))

    def test_a_flat_map_that_fails_in_the_middle(self):
        def two(item):
            yield item
            raise KeyError(item)

        found, errors = drained(Pipeline().flat_map(two).run([1, 2]))
        assert found == [1, 2]
        assert len(errors) == 2

    def test_a_source_that_fails_keeps_what_was_batched(self):
        def source():
            yield 1
            yield 2
            raise ValueError("enough")

        found, errors = drained(Pipeline().batch(3).run(source()))
        assert (found, len(errors)) == ([[1, 2]], 1)


class TestState:
    PIPELINES = (
        Pipeline().map(it + 1).batch(3),
        Pipeline().map(it + 1, workers=2).batch(3).accumulate(),
        Pipeline().map(it + 1, workers=2, ordered=False, name="x").dedupe(it % 40),
        Pipeline().map(it + 1, workers=2, name="x").dedupe(it % 50).skip(3).take(20),
        Pipeline().windowed(3, step=2, fillvalue=0).filter(it[0] > 2),
        Pipeline().accumulate(max),
    )

    @pytest.mark.parametrize("number", range(len(PIPELINES)))
    @pytest.mark.parametrize("stop", [0, 1, 4])
    def test_another_run_goes_on_where_one_stopped(self, number, stop):
        stages = self.PIPELINES[number]
        source = list(range(47))
        whole = list(stages.run(source))
        run = stages.run(source)
        found = [next(run) for _ in range(stop)]
        state = pickle.loads(pickle.dumps(run.state()))
        other = stages.run(source, resume=state)
        found += [next(other)] if stop else []
        found += list(stages.run(source, resume=other.state()))
        if number == 2:
            # Which of two equal ones comes first is chance.
            assert sorted(item % 40 for item in found) == sorted(item % 40 for item in whole)
        else:
            assert found == whole

    def test_files_go_on_by_place(self, tmp_path):
        path = tmp_path / "log"
        path.write_text("".join(f"{number} {'odd' if number % 2 else 'even'}\r\n" for number in range(50_000)), "utf-8")
        stages = Pipeline().lines().containing("odd").split_field(0).batch(10)
        whole = list(stages.run(path))
        run = stages.run(path)
        found = [next(run) for _ in range(1234)]
        state = run.state()
        run.close()
        assert found + list(stages.run(path, resume=pickle.loads(pickle.dumps(state)))) == whole

    def test_what_has_no_state_says_so(self):
        with pytest.raises(TypeError, match="the state of stage reversed_ can't be told"):
            Pipeline().through(reversed_).run([1]).state()
        with pytest.raises(ValueError, match="resume must be"):
            Pipeline().batch(2).run([1], resume=Pipeline().run([]).state())


class Flaky:
    """A source of numbered items that fails in place of each five, and goes on."""

    def __init__(self, items):
        self.items = iter(list(enumerate(items)))

    def __iter__(self):
        return self

    def __next__(self):
        pair = next(self.items)
        if pair[1] == 5:
            raise OSError(pair)
        return pair


class TestNothingIsLost:
    @pytest.mark.timeout(420)
    @given(
        items=st.lists(st.integers(-5, 5), max_size=25),
        size=st.integers(1, 6),
        kind=st.sampled_from(["serial", "batch first", "flat", "collect", "executor", "parallel", "unordered"]),
    )
    @settings(max_examples=CASES, deadline=None)
    def test_what_goes_in_comes_out_or_is_named(self, items, size, kind):
        def picky(pair):
            if pair[1] == 0:
                raise ValueError(pair)
            return pair

        numbered = list(enumerate(items))
        stages = {
            "serial": Pipeline().map(picky).batch(size),
            "batch first": Pipeline().batch(size).flat_map(it).map(picky).batch(size),
            "flat": Pipeline().flat_map(lambda pair: [pair]).map(picky).batch(size),
            "collect": Pipeline().map(picky).batch(size),
            "executor": Pipeline().map(picky, executor=InPlace(), chunk=size, buffer=1, ordered=size > 2).batch(size),
            "parallel": Pipeline().map(picky, workers=2, chunk=size, buffer=size).batch(size),
            "unordered": Pipeline().map(picky, workers=2, ordered=False).batch(size),
        }[kind]
        if kind in ("parallel", "unordered") and len(items) % 5:
            return  # threads are dear: a fifth of these cases
        run = stages.run(Flaky(items), on_error="collect" if kind == "collect" else "raise")
        found, errors = drained(run)
        out = [pair for batch in found for pair in batch]
        named = [error.args[0] for error in errors] + [error.item for error in run.errors]
        assert sorted(out + named) == numbered
        assert all("in stage" in error.__notes__[0] for error in errors if not isinstance(error, OSError))
        if kind != "unordered":
            assert out == [pair for pair in numbered if pair[1] not in {0, 5}]
        run.close()


class TestPipelineFunction:
    def test_generator_functions_are_chained(self):
        def positive(numbers):
            return (number for number in numbers if number > 0)

        def squared(numbers):
            for number in numbers:
                yield number * number

        run = pipeline(positive, squared, itertools.accumulate)
        for _ in range(2):
            assert list(run([1, -2, 3])) == [1, 10]
        assert list(run(3)) == [9]

    def test_scalars_are_one_item_between_stages_too(self):
        assert list(pipeline(sum, lambda numbers: [number + 1 for number in numbers])([1, 2])) == [4]
        assert list(pipeline("".join, list)("abc")) == ["abc"]
        assert list(pipeline()(b"x")) == [b"x"]

    def test_what_cannot_be_called_is_refused(self):
        with pytest.raises(TypeError, match="function 1 must be a callable"):
            pipeline(list, 3)

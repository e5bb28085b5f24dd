"""The retrying room: what is retried, how often, how long it waits, and what becomes of exceptions."""

import asyncio
import contextlib
import contextvars
import copy
import functools
import gc
import inspect
import itertools
import logging
import math
import os
import pickle
import re
import statistics
import sys
import threading
import time
import traceback
import types
import weakref
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferrule.retrying
from ferrule import (
    Attempt,
    CircuitBreaker,
    CircuitOpen,
    FerruleError,
    PerformanceMonitor,
    Retry,
    RetryBudget,
    RetryStats,
    _core,
    cached,
    count_calls,
    retry,
    timed,
)
from ferrule.testing import no_sleep

turns_the_clock = pytest.mark.thread_unsafe(reason="turns the clock that the whole process goes by")
hooks_into_sys = pytest.mark.thread_unsafe(reason="replaces sys.unraisablehook")
configures_logging = pytest.mark.thread_unsafe(reason="sets levels and handlers of loggers")
switches_threads = pytest.mark.thread_unsafe(reason="sets the interpreter's switch interval")

# Nothing here takes that long, unless something hangs.
LIMIT = 60


class OopsError(Exception):
    """A class of this file can be weakly referenced."""


class Flaky:
    """Raises so many times, then returns what it is given."""

    def __init__(self, failures, error=OSError):
        self.failures = failures
        self.error = error
        self.calls = 0

    def __call__(self, value="fine"):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(f"failure {self.calls}")
        return value

    async def awaited(self, value="fine"):
        await asyncio.sleep(0)
        return self(value)


def without_sleep(test):
    """Skip the waits of a test and give them to it as `delays`: in its own thread, as fixtures would not."""
    signature = inspect.signature(test)

    @functools.wraps(test)
    def run(*args, **kwargs):
        with no_sleep() as delays:
            test(*args, delays=delays, **kwargs)

    parameters = [parameter for name, parameter in signature.parameters.items() if name != "delays"]
    run.__signature__ = signature.replace(parameters=parameters)
    return run


@pytest.fixture
def clock(manual_clock):
    return manual_clock


@pytest.fixture
def unraisable(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: heard.append((args.exc_value, args.object)))
    return heard


# -- the policy -------------------------------------------------------------------------------------------------------


def test_a_policy_is_a_value():
    policy = Retry(on=OSError, max_attempts=5, delay=timedelta(seconds=1), timeout=9)
    assert policy == Retry(on=OSError, max_attempts=5, delay=1.0, timeout=timedelta(seconds=9))
    assert policy != Retry(on=OSError, max_attempts=5)
    assert policy != "policy"
    assert hash(policy) == hash(Retry(on=OSError, max_attempts=5, delay=1, timeout=9))
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert copy.copy(policy) == policy == copy.deepcopy(policy)
    assert repr(policy) == "Retry(on=<class 'OSError'>, max_attempts=5, delay=1.0, timeout=9.0)"
    assert repr(Retry()) == "Retry()"
    assert (policy.max_attempts, policy.timeout, policy.on, policy.delay) == (5, 9.0, OSError, 1.0)


def test_a_policy_never_changes_but_gives_others():
    policy = Retry(max_attempts=5)
    with pytest.raises(AttributeError, match=r"policy.replace\(delay=...\)"):
        policy.delay = 3
    with pytest.raises(AttributeError, match="never changes"):
        del policy.delay
    with pytest.raises(AttributeError):
        policy.something = 1
    assert policy.replace(delay=3) == Retry(max_attempts=5, delay=3)
    assert policy == Retry(max_attempts=5)
    with pytest.raises(TypeError, match="Retry has no parameter 'attempts'; it has on, retry_if, "):
        policy.replace(attempts=3)
    if sys.version_info >= (3, 13):
        assert copy.replace(policy, delay=3) == policy.replace(delay=3)


def two(one, other):
    del one, other


async def coroutine_predicate(error):
    return error is None


@pytest.mark.parametrize(("parameters", "error", "text"), [
    ({"on": 3}, TypeError, "on must be an exception class or a tuple of them, not int: 3"),
    ({"on": OSError("x")}, TypeError, "on must be an exception class"),
    ({"on": lambda e: True}, TypeError, "a predicate goes to retry_if"),
    ({"on": [OSError]}, TypeError, "on must be an exception class or a tuple of them, not list"),
    ({"on": (OSError, "x")}, TypeError, "on must be an exception class or a tuple of them, not str"),
    ({"on": ()}, ValueError, "on must name an exception class"),
    ({"on": int}, TypeError, "on must be an exception class"),
    ({"retry_if": 3}, TypeError, r"retry_if must be callable with \(error\), not int: 3"),
    ({"retry_if": OSError}, TypeError, "not an exception class: <class 'OSError'>; that goes to on"),
    ({"retry_if": coroutine_predicate}, TypeError, "retry_if must be a plain function .*, not a coroutine function"),
    ({"retry_if": two}, TypeError, r"retry_if must be callable with \(error\), and .* takes other arguments"),
    ({"retry_if": lambda: True}, TypeError, "takes other arguments"),
    ({"retry_if": lambda error, *, more: True}, TypeError, "takes other arguments"),
    ({"max_attempts": 0}, ValueError, "max_attempts must be 1 or more, or None for endless, got 0"),
    ({"max_attempts": -1}, ValueError, "max_attempts must be 1 or more"),
    ({"max_attempts": True}, TypeError, "max_attempts must be an integer, or None for endless, not bool"),
    ({"max_attempts": 2.0}, TypeError, "max_attempts must be an integer"),
    ({"max_attempts": 2**63}, ValueError, "max_attempts must be 1 or more"),
    ({"max_attempts": None}, ValueError, "max_attempts=None is endless: give timeout or stop_event, too"),
    ({"delay": -1}, ValueError, "delay must be a number of seconds that is not negative, got -1"),
    ({"delay": "1"}, TypeError, "delay must be seconds"),
    ({"delay": True}, TypeError, "delay must be seconds"),
    ({"delay": math.nan}, ValueError, "delay must be a number of seconds"),
    ({"delay": 61}, ValueError, "delay must not be longer than max_delay, got 61.0 and 60.0"),
    ({"delay": lambda error: 1}, TypeError, r"delay must be callable with \(attempt, error\)"),
    ({"backoff": 0.5}, ValueError, "backoff must be a finite number of 1 or more, got 0.5"),
    ({"backoff": math.inf}, ValueError, "backoff must be a finite number"),
    ({"backoff": math.nan}, ValueError, "backoff must be a finite number"),
    ({"backoff": "2"}, TypeError, "backoff must be a number, not str"),
    ({"backoff": True}, TypeError, "backoff must be a number, not bool"),
    ({"max_delay": None}, TypeError, "max_delay must be seconds"),
    ({"jitter": "half"}, ValueError, "jitter must be 'full', 'equal', 'decorrelated' or None, got 'half'"),
    ({"jitter": True}, ValueError, "jitter must be"),
    ({"timeout": -1}, ValueError, "timeout must be a number of seconds"),
    ({"timeout": "1"}, TypeError, "timeout must be seconds"),
    ({"attempt_timeout": 0}, ValueError, "attempt_timeout must be more than 0 seconds, got 0.0"),
    ({"retry_result": 3}, TypeError, r"retry_result must be callable with \(value\)"),
    ({"retry_result": coroutine_predicate}, TypeError, "not a coroutine function"),
    ({"budget": 0.1}, TypeError, "budget must be a RetryBudget, not float: 0.1"),
    ({"stop_event": True}, TypeError, "stop_event must be an Event of threading or asyncio, not bool"),
    ({"on_retry": 3}, TypeError, r"on_retry must be callable with \(attempt\)"),
    ({"on_give_up": coroutine_predicate}, TypeError, "on_give_up must be a plain function"),
    ({"restart": 1}, TypeError, "restart must be True or False, not int: 1"),
])  # fmt: skip
def test_parameters_that_make_no_sense_fail_at_once_and_say_which(parameters, error, text):
    with pytest.raises(error, match=text):
        Retry(**parameters)
    with pytest.raises(error, match=text):
        retry(**parameters)
    with pytest.raises(error, match=text):
        retry(len).with_policy(**parameters)


def test_predicates_of_every_shape_are_taken():
    class Callable:
        def __call__(self, error):
            return bool(error)

        def method(self, error):
            return bool(error)

    for predicate in (bool, Callable(), Callable().method, functools.partial(isinstance), lambda *errors: True):
        assert Retry(retry_if=predicate).retry_if is not None
    assert Retry(retry_if=lambda error, more=1: True)


@pytest.mark.parametrize("misuse", [OSError, (OSError, ValueError), (OSError,)])
def test_exception_classes_by_position_are_an_error(misuse):
    with pytest.raises(TypeError, match=r"retry takes exception classes by name: retry\(on="):
        retry(misuse)


def test_what_cannot_be_retried_is_an_error():
    with pytest.raises(TypeError, match="retry takes a function, not int: 3"):
        retry(3)
    with pytest.raises(TypeError, match="retry takes a function, not type"):
        retry(dict)
    with pytest.raises(TypeError, match="put @retry below @property"):
        retry(property(len))
    with pytest.raises(TypeError, match="either a function or parameters"):
        retry(len, max_attempts=3)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'tries'"):
        retry(tries=3)
    with pytest.raises(TypeError, match="with_policy takes a Retry or parameters by name, not int"):
        retry(len).with_policy(3)


# -- how long to wait -------------------------------------------------------------------------------------------------


def test_delays_grow_up_to_the_cap_and_never_overflow():
    policy = Retry(delay=0.1, backoff=2, max_delay=5, jitter=None, max_attempts=10)
    assert [policy.next_delay(number) for number in (1, 2, 3, 6, 7, 100, 10_000, 2**62)] == [
        0.1, 0.2, 0.4, 3.2, 5.0, 5.0, 5.0, 5.0,
    ]  # fmt: skip
    assert Retry(delay=0, backoff=1e300, jitter=None).next_delay(2**62) == 0
    assert Retry(delay=1, max_delay=math.inf, jitter=None).next_delay(5000) == math.inf


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, None])
def test_attempts_are_counted_from_one(wrong):
    with pytest.raises((TypeError, ValueError), match="number must be"):
        Retry().next_delay(wrong)
    with pytest.raises(TypeError, match="error must be an exception or None"):
        Retry().next_delay(1, "error")
    with pytest.raises(ValueError, match="previous must be"):
        Retry().next_delay(1, None, -1)


def spread(policy, number=3, draws=4000, previous=None):
    return sorted(policy.next_delay(number, None, previous) for _ in range(draws))


def is_uniform(sample, low, high):
    """Kolmogorov and Smirnov's test, at a level that fails once in a million runs."""
    assert low <= sample[0]
    assert sample[-1] <= high
    size = len(sample)
    distance = max(
        max((index + 1) / size - (value - low) / (high - low), (value - low) / (high - low) - index / size)
        for index, value in enumerate(sample)
    )
    return distance < 2.7 / math.sqrt(size)


def test_jitter_by_its_distribution():
    assert is_uniform(spread(Retry(delay=1, jitter="full")), 0, 4)
    assert is_uniform(spread(Retry(delay=1, jitter="equal")), 2, 4)
    assert is_uniform(spread(Retry(delay=1, jitter="decorrelated"), previous=5.0), 1, 15)
    assert is_uniform(spread(Retry(delay=1, jitter="decorrelated"), number=1), 1, 3)
    assert set(spread(Retry(delay=1, jitter=None))) == {4.0}
    # Capped: as much of it lies at the cap as was beyond it.
    capped = spread(Retry(delay=1, jitter="decorrelated", max_delay=8), previous=5.0)
    assert capped[-1] == 8.0
    assert 0.4 < sum(value == 8.0 for value in capped) / len(capped) < 0.6


def test_jitter_differs_between_threads():
    drawn = []
    threads = [threading.Thread(target=lambda: drawn.append(Retry().next_delay(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 8


@pytest.mark.subprocess
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_jitter_differs_between_parent_and_children(python):
    done = python("""
        import os
        from ferrule import Retry

        policy = Retry()
        policy.next_delay(1)
        reader, writer = os.pipe()
        for _ in range(4):
            if os.fork() == 0:
                os.write(writer, f"{policy.next_delay(1)!r}\\n".encode())
                os._exit(0)
        for _ in range(4):
            os.wait()
        os.write(writer, f"{policy.next_delay(1)!r}\\n".encode())
        os.close(writer)
        drawn = os.fdopen(reader).read().split()
        print(len(drawn), len(set(drawn)))
    """)
    assert done.stdout == "5 5\n", done.stderr


def test_the_delay_may_be_told():
    said = []

    def retry_after(attempt, error):
        said.append((attempt, error))
        return error.args[0] if error is not None else 0

    policy = Retry(delay=retry_after, max_delay=30)
    error = OSError(7)
    assert policy.next_delay(2, error) == 7.0
    assert said == [(2, error)]
    now = datetime.now(timezone.utc)  # noqa: UP017 - older spellings are understood, too
    assert policy.next_delay(1, OSError(timedelta(seconds=3))) == 3.0
    assert 8 < policy.next_delay(1, OSError(now + timedelta(seconds=10))) <= 10
    assert 8 < policy.next_delay(1, OSError(datetime.now() + timedelta(seconds=10))) <= 10  # noqa: DTZ005
    # A date in the past is no delay, and one too far ahead is capped.
    assert policy.next_delay(1, OSError(now - timedelta(days=1))) == 0.0
    assert policy.next_delay(1, OSError(-5)) == 0.0
    assert policy.next_delay(1, OSError(now + timedelta(days=1))) == 30.0
    assert policy.next_delay(1, OSError(10**400)) == 30.0
    for wrong in ("soon", None, True):
        with pytest.raises(TypeError, match="delay must return seconds, a timedelta or a datetime"):
            policy.next_delay(1, OSError(wrong))
    with pytest.raises(ValueError, match="got nan"):
        policy.next_delay(1, OSError(math.nan))


@given(
    st.integers(1, 2**62), st.floats(0, 1e6), st.floats(1, 1e6),
    st.sampled_from(["full", "equal", "decorrelated", None]), st.none() | st.floats(0, 1e9),
)  # fmt: skip
def test_every_delay_lies_between_nothing_and_the_cap(number, delay, backoff, jitter, previous):
    policy = Retry(delay=delay, backoff=backoff, max_delay=1e6, jitter=jitter)
    assert 0 <= policy.next_delay(number, None, previous) <= 1e6


# -- functions --------------------------------------------------------------------------------------------------------


@without_sleep
def test_a_function_is_tried_until_it_succeeds(delays):
    flaky = Flaky(2)
    decorated = retry(max_attempts=3, delay=0.1, jitter=None)(flaky)
    assert decorated("well") == "well"
    assert delays == [0.1, 0.2]
    assert flaky.calls == 3
    assert decorated.retry_stats() == (1, 3, 2, 1, 0, 0, pytest.approx(0.3))
    assert isinstance(decorated.retry_stats(), RetryStats)


@without_sleep
def test_the_original_exception_comes_out_with_a_note(delays):
    @retry(jitter=None)
    def fetch():
        raise OopsError("the third") if len(delays) == 2 else OopsError("another")

    with pytest.raises(OopsError, match="the third") as caught:
        fetch()
    error = caught.value
    assert type(error) is OopsError
    assert [error.__notes__[0][:38]] == ["gave up on " + fetch.__qualname__[:27]]
    seconds = re.fullmatch(r".*fetch after 3 attempts in (\S+) s", error.__notes__[0])
    # The sleeps that were skipped, and what the rest took.
    assert 0.3 <= float(seconds[1]) < 60
    assert error.__context__ is None
    assert error.__cause__ is None
    assert traceback.extract_tb(error.__traceback__)[-1].name == "fetch"
    assert fetch.retry_stats()[:6] == (1, 3, 2, 0, 1, 0)


@without_sleep
def test_an_exception_that_is_raised_again_and_again_has_one_note(delays):
    error = OSError("always the same")

    @retry
    def fetch():
        raise error

    for _ in range(20):
        with pytest.raises(OSError, match="always the same"):
            fetch()
    assert len(error.__notes__) == 1


@without_sleep
def test_nested_retries_have_a_note_each(delays):
    @retry(max_attempts=2)
    def inner():
        raise OSError

    @retry(max_attempts=2)
    def outer():
        inner()

    with pytest.raises(OSError) as caught:  # noqa: PT011 - any
        outer()
    assert ["inner after 2" in note for note in caught.value.__notes__] == [True, False]
    assert "outer after 2" in caught.value.__notes__[1]


@without_sleep
def test_only_what_is_named_is_retried(delays):
    for error in (ValueError, KeyError):
        flaky = Flaky(1, error)
        with pytest.raises(error):
            retry(on=(OSError, TypeError))(flaky)()
        assert flaky.calls == 1
    for error in (ConnectionError, TypeError):
        assert retry(on=(OSError, TypeError))(Flaky(1, error))() == "fine"
    decorated = retry(on=OSError)(Flaky(1, ValueError))
    with pytest.raises(ValueError, match="failure 1") as caught:
        decorated()
    assert not hasattr(caught.value, "__notes__")
    assert decorated.retry_stats()[:6] == (1, 1, 0, 0, 0, 1)


class OwnExit(BaseException):
    """What no library names."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, OwnExit])
@without_sleep
def test_what_ends_a_program_is_retried_only_where_it_is_named(error, delays):
    for on in (Exception, BaseException, (BaseException, OSError)):
        flaky = Flaky(1, error)
        with pytest.raises(error):
            retry(on=on)(flaky)()
        assert flaky.calls == 1
    assert retry(on=error)(Flaky(1, error))() == "fine"
    assert retry(on=(BaseException, error))(Flaky(1, error))() == "fine"


@without_sleep
def test_a_predicate_must_agree(delays):
    asked = []

    def is_transient(error):
        asked.append(error)
        return "1" in str(error)

    flaky = Flaky(2)
    with pytest.raises(OSError, match="failure 2"):
        retry(on=OSError, retry_if=is_transient)(flaky)()
    assert [str(error) for error in asked] == ["failure 1", "failure 2"]
    asked.clear()
    with pytest.raises(ValueError, match="failure"):
        retry(on=OSError, retry_if=is_transient)(Flaky(1, ValueError))()
    assert asked == [], "asked of what is named alone"


@pytest.mark.parametrize("where", ["retry_if", "retry_result", "delay"])
@without_sleep
def test_a_callback_that_raises_loses_nothing(where, delays):
    broken = {"on": True}

    def callback(*args):
        if broken["on"]:
            raise OopsError("the callback's own")
        return 0 if where == "delay" else args[-1] != "fine"

    flaky = Flaky(0 if where == "retry_result" else 1)
    decorated = retry(**{where: callback})(flaky)
    with pytest.raises(OopsError, match="the callback's own") as caught:
        decorated()
    if where != "retry_result":
        assert isinstance(caught.value.__context__, OSError), "and what it was asked about"
    broken["on"] = False
    flaky.calls = 0
    assert decorated() == "fine"
    calls, _, _, successes, give_ups, passed, _ = decorated.retry_stats()
    assert (calls, successes, give_ups, passed) == (2, 1, 0, 1)


@without_sleep
def test_results_can_be_refused(delays):
    counter = itertools.count()
    decorated = retry(retry_result=lambda value: value < 2)(lambda: next(counter))
    assert decorated() == 2
    assert decorated.retry_stats()[:6] == (1, 3, 2, 1, 0, 0)
    # When attempts run out, the last value is returned.
    heard = []
    decorated = retry(retry_result=lambda value: True, on_give_up=heard.append)(lambda: next(counter))
    assert decorated() == 5
    assert decorated.retry_stats()[:6] == (1, 3, 2, 0, 1, 0)
    assert heard[0].value == 5
    assert heard[0].error is None
    assert heard[0].number == 3
    assert retry(retry_result=lambda value: False)(lambda: 7)() == 7


@without_sleep
def test_hooks_are_told(delays):
    heard = []

    def fetch():
        raise OSError(len(heard))

    decorated = retry(delay=1, jitter=None, on_retry=heard.append, on_give_up=heard.append)(fetch)
    with pytest.raises(OSError, match="2") as caught:
        decorated()
    assert [type(attempt) for attempt in heard] == [Attempt] * 3
    assert [attempt.number for attempt in heard] == [1, 2, 3]
    assert [attempt.delay for attempt in heard] == [1.0, 2.0, None]
    assert all(attempt.function is fetch and attempt.value is None for attempt in heard)
    assert heard[-1].error is caught.value
    assert heard[0].error.__traceback__ is not None
    assert 0 <= heard[0].elapsed < 1 <= heard[1].elapsed < 3 <= heard[2].elapsed


@hooks_into_sys
@without_sleep
def test_hooks_that_fail_are_reported_and_spoil_nothing(delays, unraisable):
    def broken(attempt):
        raise OopsError(attempt.number)

    decorated = retry(on_retry=broken, on_give_up=broken)(Flaky(2))
    assert decorated() == "fine"
    assert [error.args for error, _ in unraisable] == [(1,), (2,)]
    assert unraisable[0][1] is broken
    with pytest.raises(OSError, match="failure"):
        retry(on_retry=broken, on_give_up=broken)(Flaky(9))()
    assert [error.args for error, _ in unraisable[2:]] == [(1,), (2,), (3,)]


@pytest.mark.parametrize("hook", ["on_retry", "on_give_up"])
@without_sleep
def test_hooks_that_end_the_program_do(hook, delays):
    def interrupt(attempt):
        del attempt
        raise KeyboardInterrupt

    decorated = retry(**{hook: interrupt})(Flaky(9))
    with pytest.raises(KeyboardInterrupt) as caught:
        decorated()
    assert isinstance(caught.value.__context__, OSError)
    assert decorated.retry_stats()[3:6] == (0, 0, 1)


@without_sleep
def test_a_timeout_is_for_all_attempts_and_waits_together(delays):
    heard = []
    policy = Retry(max_attempts=None, delay=10, backoff=1, jitter=None, timeout=35, on_give_up=heard.append)
    decorated = retry(policy)(Flaky(99))
    with pytest.raises(OSError, match="failure 4") as caught:
        decorated()
    assert delays == [10.0, 10.0, 10.0], "a fourth would have passed it, and is not begun"
    assert "the next wait would pass the timeout" in caught.value.__notes__[0]
    assert heard[0].number == 4
    with pytest.raises(OSError, match="failure 1"):
        retry(timeout=0)(Flaky(99))()


@turns_the_clock
def test_time_spent_in_the_attempts_counts(clock):
    flaky = Flaky(99)

    def slow():
        clock.advance(20)
        flaky()

    with no_sleep() as delays, pytest.raises(OSError, match="failure 3"):
        retry(max_attempts=9, delay=5, backoff=1, jitter=None, timeout=70)(slow)()
    assert delays == [5.0, 5.0]


def test_without_a_delay_nothing_sleeps():
    started = time.monotonic()
    with pytest.raises(OSError, match="failure 20000"):
        retry(max_attempts=20_000, delay=0)(Flaky(10**9))()
    # At 50 us a sleep, it would take a second at least; and ten times that under load.
    assert time.monotonic() - started < 30


def test_real_sleeps_take_their_time():
    started = time.monotonic()
    assert retry(delay=0.05, backoff=1, jitter=None)(Flaky(2))() == "fine"
    assert time.monotonic() - started >= 0.1


def test_attempt_timeouts_are_for_coroutine_functions():
    with pytest.raises(TypeError, match="attempt_timeout is for coroutine functions alone: a running func"):
        retry(attempt_timeout=1)(len)
    with pytest.raises(TypeError, match="can't be stopped"):
        Retry(attempt_timeout=1).call(len, "x")
    with pytest.raises(TypeError, match="a running block can't be stopped"):
        iter(Retry(attempt_timeout=1))


# -- what the decorated function is -----------------------------------------------------------------------------------


class Client:
    def __init__(self):
        self.calls = 0

    @retry(max_attempts=3, delay=0)
    def fetch(self, url, /, *, fails=9):
        """Fetch a page."""
        self.calls += 1
        if self.calls <= fails:
            raise OSError(url)
        return (self, url)

    @retry(delay=0)
    async def fetch_async(self, url):
        self.calls += 1
        raise OSError(url)

    @retry(delay=0)
    @staticmethod
    def static(x):
        return x

    @classmethod
    @retry(delay=0)
    def made(cls, x):
        return cls, x


def test_methods_are_retried_and_know_their_instance():
    client = Client()
    assert client.fetch("a", fails=2) == (client, "a")
    other = Client()
    with pytest.raises(OSError, match="b"):
        other.fetch.with_policy(max_attempts=1)("b")
    assert other.calls == 1
    with pytest.raises(OSError, match="b"):
        other.fetch.with_policy(max_attempts=5).with_policy(delay=0)("b")
    assert other.calls == 6
    with pytest.raises(OSError, match="c"):
        Client.fetch.with_policy(max_attempts=2)(other, "c")
    assert other.calls == 8
    assert Client.fetch.retry_stats() == client.fetch.retry_stats()
    bound = client.fetch
    assert bound("again", fails=2) == (client, "again")
    assert Client.static(3) == Client().static(3) == 3
    assert Client.made(3) == Client().made(3) == (Client, 3)


def test_coroutine_methods_know_their_instance_too():
    client = Client()
    with pytest.raises(OSError, match="x"):
        asyncio.run(client.fetch_async.with_policy(max_attempts=4)("x"))
    assert client.calls == 4
    assert inspect.iscoroutinefunction(client.fetch_async)


def test_a_method_is_one_to_the_rest_of_the_world():
    client = Client()
    method = client.fetch
    assert isinstance(method, types.MethodType)
    assert method.__self__ is client
    assert method == client.fetch != Client().fetch
    assert hash(method) == hash(client.fetch)
    assert method.__name__ == "fetch"
    assert method.__doc__ == "Fetch a page."
    assert method.__module__ == __name__
    assert str(inspect.signature(method)) == "(url, /, *, fails=9)"
    assert "Client.fetch of <" in repr(method)
    assert functools.partial(client.fetch, "a")(fails=0) == (client, "a")
    gone = weakref.ref(client)
    del client, method
    gc.collect()
    assert gone() is None


def test_a_function_keeps_its_dress():
    @retry
    def fetch(url: str, *, deep: bool = False) -> str:
        """Fetch a page."""
        return url

    assert (fetch.__name__, fetch.__doc__, fetch.__module__) == ("fetch", "Fetch a page.", __name__)
    assert str(inspect.signature(fetch)) == "(url: str, *, deep: bool = False) -> str"
    assert fetch("x", deep=True) == "x" == fetch(url="x")
    assert pickle.loads(pickle.dumps(module_function)) is module_function
    with pytest.raises(TypeError, match="unexpected keyword"):
        fetch.with_policy(max_attempts=1)("x", depth=1)


@retry
def module_function():
    return 1


def test_the_interpreter_calls_it_like_a_built_in():
    for native in (_core.RetryingFunction, _core.RetryingMethod, _core.BreakerFunction):
        assert native.__flags__ & (1 << 11), "vectorcall"
        assert native.__flags__ & (1 << 17), "a method descriptor"


@without_sleep
def test_statistics_survive_other_decorators(delays):
    monitor = PerformanceMonitor()

    @timed(monitor=monitor)
    @count_calls
    @cached
    @retry
    def inside(x):
        return x

    inside(1)
    assert inside.retry_stats().calls == 1

    @retry
    @timed(monitor=monitor)
    @count_calls
    def outside(x):
        raise OSError(x)

    with pytest.raises(OSError, match="1"):
        outside(1)
    assert outside.call_count == 3 == outside.timing_stats().errors == outside.retry_stats().attempts

    @functools.wraps(outside)
    def by_hand(x):
        return outside(x)

    assert by_hand.__wrapped__.retry_stats().calls == 1


@without_sleep
def test_with_policy_shares_the_statistics_and_leaves_the_function_alone(delays):
    decorated = retry(max_attempts=2)(Flaky(100))
    with pytest.raises(OSError, match="failure 5"):
        decorated.with_policy(max_attempts=5)()
    with pytest.raises(OSError, match="failure 6"):
        decorated.with_policy(Retry(max_attempts=1))()
    with pytest.raises(OSError, match="failure 8"):
        decorated()
    assert decorated.retry_stats()[:5] == (3, 8, 5, 0, 3)


@without_sleep
def test_a_policy_decorates_and_calls(delays):
    policy = Retry(on=OSError, max_attempts=3)
    assert policy(Flaky(2))("a") == "a"
    assert retry(policy)(Flaky(2))("a") == "a"
    assert policy.call(Flaky(2), "a") == "a"
    assert policy.call(Flaky(2), value="a") == "a"
    with pytest.raises(OSError, match="failure 3") as caught:
        policy.call(Flaky(3))
    assert "after 3 attempts" in caught.value.__notes__[0]
    assert asyncio.run(policy.call_async(Flaky(2).awaited, "a")) == "a"
    assert policy.replace(retry_result=lambda value: value < 2).call(itertools.count().__next__) == 2
    with pytest.raises(TypeError, match=r"call takes a function, not a coroutine function: .*; use call_async"):
        policy.call(Flaky(2).awaited)
    with pytest.raises(TypeError, match="not a generator function"):
        policy.call(numbers)
    with pytest.raises(TypeError, match="call_async takes a coroutine function"):
        asyncio.run(policy.call_async(numbers))


# -- what is heard of it ----------------------------------------------------------------------------------------------


@configures_logging
@without_sleep
def test_each_retry_is_a_warning_with_fields(caplog, delays):
    decorated = retry(delay=1, jitter=None)(Flaky(2).__call__)
    with caplog.at_level(logging.WARNING, logger="ferrule.retrying"):
        decorated()
    records = [record for record in caplog.records if record.name == "ferrule.retrying"]
    assert [record.levelno for record in records] == [logging.WARNING] * 2
    assert records[0].getMessage() == (
        "Flaky.__call__ raised OSError('failure 1') in attempt 1 of 3; the next follows in 1 s"
    )
    assert (records[1].attempt, records[1].delay, records[1].ferrule_name) == (2, 2.0, "Flaky.__call__")
    assert records[1].seconds >= 1
    assert records[1].error == "OSError"


@configures_logging
@without_sleep
def test_nothing_is_built_where_nobody_listens(monkeypatch, delays):
    built = []
    monkeypatch.setattr(ferrule.retrying, "log_retry", lambda *args: built.append(args))
    logger = logging.getLogger("ferrule.retrying")
    monkeypatch.setattr(logger, "propagate", False)
    assert not ferrule.retrying.somebody_listens()
    handler = logging.NullHandler()
    logger.addHandler(handler)
    try:
        assert not ferrule.retrying.somebody_listens(), "a NullHandler takes nothing"
    finally:
        logger.removeHandler(handler)
    monkeypatch.setattr(logger, "propagate", True)
    logger.setLevel(logging.ERROR)
    try:
        assert not ferrule.retrying.somebody_listens()
    finally:
        logger.setLevel(logging.NOTSET)
    assert ferrule.retrying.somebody_listens(), "pytest does"


@pytest.mark.subprocess
def test_whoever_has_not_asked_for_logs_gets_none(python):
    done = python("""
        import sys
        from ferrule import retry

        answers = iter([OSError(), 3])

        @retry(delay=0)
        def fetch():
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        print(fetch(), "logging" in sys.modules, "asyncio" in sys.modules)
        import logging
        answers = iter([OSError(), 4])
        print(fetch())
    """)
    assert (done.stdout, done.stderr) == ("3 False False\n4\n", "")


# -- the budget -------------------------------------------------------------------------------------------------------


@turns_the_clock
@without_sleep
def test_a_budget_is_shared(clock, delays):
    budget = RetryBudget(ratio=0.1, min_per_second=0)
    good, bad = retry(budget=budget)(lambda: 1), retry(budget=budget)(Flaky(10**9))
    with pytest.raises(OSError, match="failure 1") as caught:
        bad()
    assert "the budget of retries is spent" in caught.value.__notes__[0]
    for _ in range(19):
        good()
    assert budget.balance == pytest.approx(2)
    with pytest.raises(OSError, match="failure 4"):
        bad()  # two retries, for twenty calls
    with pytest.raises(OSError, match="failure 5"):
        bad()
    assert bad.retry_stats()[:5] == (3, 5, 2, 0, 3)
    for _ in range(50):
        good()
    clock.advance(11)
    assert budget.balance == 0, "what was paid in long ago counts no more"


@turns_the_clock
@without_sleep
def test_a_few_retries_a_second_are_free(clock, delays):
    budget = RetryBudget(ratio=0, min_per_second=0.3)
    bad = retry(budget=budget, max_attempts=10)(Flaky(10**9))
    with pytest.raises(OSError, match="failure 4"):
        bad()
    clock.advance(10)
    with pytest.raises(OSError, match="failure 8"):
        bad()


@without_sleep
def test_a_budget_counts_coroutine_functions_too(delays):
    budget = RetryBudget(ratio=0.5, min_per_second=0)

    @retry(budget=budget)
    async def good():
        pass

    async def main():
        for _ in range(8):
            await good()

    asyncio.run(main())
    assert budget.balance == pytest.approx(4)
    assert good.retry_stats()[:4] == (8, 8, 0, 8)


def test_a_budgets_numbers_are_checked():
    with pytest.raises(TypeError, match="ratio must be a number, not str"):
        RetryBudget(ratio="0.1")
    with pytest.raises(ValueError, match="min_per_second must be a finite number of 0 or more, got -1"):
        RetryBudget(min_per_second=-1)
    with pytest.raises(ValueError, match="ratio must be"):
        RetryBudget(ratio=math.inf)
    budget = RetryBudget(ratio=0.2, min_per_second=5)
    assert repr(budget) == "RetryBudget(ratio=0.2, min_per_second=5.0)"
    copied = pickle.loads(pickle.dumps(budget))
    assert (copied.ratio, copied.min_per_second) == (0.2, 5.0)
    assert budget.balance == pytest.approx(50)


# -- coroutine functions ----------------------------------------------------------------------------------------------


@without_sleep
def test_coroutine_functions_are_retried_in_their_own_loop(delays):
    flaky = Flaky(2)
    decorated = retry(delay=1, jitter=None)(flaky.awaited)
    assert inspect.iscoroutinefunction(decorated)
    assert asyncio.run(decorated("a")) == "a"
    assert delays == [1.0, 2.0]
    assert decorated.retry_stats()[:6] == (1, 3, 2, 1, 0, 0)
    decorated = retry(Flaky(9).awaited)
    with pytest.raises(OSError, match="failure 3") as caught:
        asyncio.run(decorated())
    assert "after 3 attempts" in caught.value.__notes__[0]
    assert caught.value.__context__ is None
    assert decorated.retry_stats()[:6] == (1, 3, 2, 0, 1, 0)
    flaky = Flaky(1, ValueError)
    decorated = retry(on=OSError)(flaky.awaited)
    with pytest.raises(ValueError, match="failure 1"):
        asyncio.run(decorated())
    assert decorated.retry_stats()[:6] == (1, 1, 0, 0, 0, 1)


def test_other_tasks_run_while_one_waits():
    order = []

    @retry(delay=0.05, jitter=None, max_attempts=2)
    async def fetch():
        order.append("attempt")
        if order.count("attempt") == 1:
            raise OSError

    async def other():
        await asyncio.sleep(0)
        order.append("other")

    async def main():
        await asyncio.gather(fetch(), other())

    asyncio.run(main())
    assert order == ["attempt", "other", "attempt"]


def test_tasks_take_turns_where_there_is_no_delay():
    async def main():
        stop = asyncio.Event()

        @retry(max_attempts=None, stop_event=stop, delay=0)
        async def fetch():
            raise OSError

        task = asyncio.create_task(fetch())
        for _ in range(5):
            await asyncio.sleep(0)
        stop.set()
        with pytest.raises(OSError):  # noqa: PT011 - any
            await task

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_cancelled_task_stops_retrying():
    async def main(**parameters):
        flaky = Flaky(99)
        decorated = retry(delay=60, jitter=None, **parameters)(flaky.awaited)
        task = asyncio.create_task(decorated())
        while flaky.calls == 0:  # noqa: ASYNC110 - there is no event for that
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert flaky.calls == 1
        assert decorated.retry_stats()[:6] == (1, 1, 0, 0, 0, 1)

        @retry(on=BaseException)
        async def sleeping():
            await asyncio.sleep(60)

        task = asyncio.create_task(sleeping())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for parameters in ({}, {"stop_event": threading.Event()}, {"timeout": 1000}):
        asyncio.run(asyncio.wait_for(main(**parameters), LIMIT))

    async def with_its_own_event():
        await main(stop_event=asyncio.Event())

    asyncio.run(asyncio.wait_for(with_its_own_event(), LIMIT))


@without_sleep
def test_attempts_of_coroutine_functions_have_a_timeout(delays):
    calls = []

    @retry(on=TimeoutError, attempt_timeout=0.02, delay=0)
    async def hanging():
        calls.append(1)
        if len(calls) < 3:
            await asyncio.sleep(LIMIT)
        return "done"

    assert asyncio.run(hanging()) == "done"
    assert len(calls) == 3

    @retry(on=OSError, attempt_timeout=0.02)
    async def not_named():
        await asyncio.sleep(LIMIT)

    with pytest.raises(TimeoutError):
        asyncio.run(not_named())


def test_the_timeout_of_all_ends_an_attempt_that_hangs():
    @retry(max_attempts=None, timeout=0.05, delay=0)
    async def hanging():
        await asyncio.sleep(LIMIT)

    with pytest.raises(TimeoutError) as caught:
        asyncio.run(hanging())
    assert "after 1 attempt in" in caught.value.__notes__[0]


@without_sleep
def test_results_of_coroutine_functions_can_be_refused(delays):
    counter = itertools.count()

    @retry(retry_result=lambda value: value < 2)
    async def fetch():
        return next(counter)

    assert asyncio.run(fetch()) == 2
    assert fetch.retry_stats()[:6] == (1, 3, 2, 1, 0, 0)


@turns_the_clock
def test_a_coroutines_wait_goes_by_the_manual_clock(clock):
    async def main():
        flaky = Flaky(1)
        task = asyncio.create_task(retry(delay=30, jitter=None)(flaky.awaited)())
        while flaky.calls == 0:  # noqa: ASYNC110 - there is no event for that
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(29)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        clock.advance(2)
        assert await task == "fine"

    asyncio.run(asyncio.wait_for(main(), LIMIT))


@turns_the_clock
def test_a_threads_wait_goes_by_the_manual_clock(clock):
    flaky = Flaky(1)
    heard = threading.Event()
    decorated = retry(delay=3600, max_delay=3600, jitter=None, on_retry=lambda attempt: heard.set())(flaky)
    thread = threading.Thread(target=decorated, daemon=True)
    thread.start()
    assert heard.wait(LIMIT)
    while thread.is_alive():
        clock.advance(600)
        thread.join(0.01)
    assert flaky.calls == 2


def test_several_loops_at_once():
    def run():
        decorated = shared.with_policy(max_attempts=3)
        results.append(asyncio.run(decorated(threading.get_ident())))

    failed = set()

    @retry(delay=0.001)
    async def shared(who):
        await asyncio.sleep(0)
        if who not in failed:
            failed.add(who)
            raise OSError
        return who

    results = []
    threads = [threading.Thread(target=run, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(results) == 4
    # Identifiers are used again once a thread has ended.
    assert shared.retry_stats().retries == len(failed)


# -- generators -------------------------------------------------------------------------------------------------------


def numbers():
    yield 1


async def awaited_numbers():
    yield 1


@pytest.mark.parametrize("function", [numbers, awaited_numbers])
def test_generators_are_refused_unless_they_may_restart(function):
    with pytest.raises(TypeError, match=r"with restart=True alone, .* yields again what was yielded before"):
        retry(function)
    with pytest.raises(TypeError, match="attempt_timeout is for coroutine functions alone"):
        retry(restart=True, attempt_timeout=1)(function)
    with pytest.raises(TypeError, match="retry_result takes a function's result"):
        retry(restart=True, retry_result=bool)(function)


@without_sleep
def test_generators_restart(delays):
    runs = itertools.count(1)

    @retry(restart=True)
    def pages(stop):
        run = next(runs)
        for page in range(stop):
            if page == run:
                raise OSError(page)
            yield page
        return "end"

    def consumer():
        return (yield from pages(3))

    assert inspect.isgeneratorfunction(pages)
    seen = []
    generator = consumer()
    with pytest.raises(StopIteration) as stopped:  # noqa: PT012 - the loop is what is tested
        while True:
            seen.append(next(generator))
    assert (seen, stopped.value.value) == ([0, 0, 1, 0, 1, 2], "end")
    assert pages.retry_stats()[:6] == (1, 3, 2, 1, 0, 0)
    with pytest.raises(OSError, match="0"):
        list(retry(restart=True)(lambda: (_ for _ in ()).throw(OSError(0)))() or [])

    @retry(restart=True, max_attempts=2)
    def never():
        yield 1
        raise OSError("at the end")

    with pytest.raises(OSError, match="at the end"):
        list(never())
    closed = never()
    next(closed)
    closed.close()
    assert never.retry_stats()[:6] == (2, 3, 1, 0, 1, 1)


@without_sleep
def test_async_generators_restart(delays):
    runs = itertools.count(1)

    @retry(restart=True)
    async def pages(stop):
        run = next(runs)
        for page in range(stop):
            await asyncio.sleep(0)
            if page == run:
                raise OSError(page)
            yield page

    async def main():
        assert [page async for page in pages(3)] == [0, 0, 1, 0, 1, 2]
        closed = pages(9)
        assert await anext(closed) == 0
        await closed.aclose()

    assert inspect.isasyncgenfunction(pages)
    asyncio.run(main())
    assert pages.retry_stats()[:6] == (2, 4, 2, 1, 0, 1)


# -- blocks -----------------------------------------------------------------------------------------------------------


@without_sleep
def test_blocks_are_retried(delays):
    seen = []
    for attempt in Retry(delay=1, jitter=None):
        with attempt:
            seen.append(attempt.number)
            assert attempt.elapsed >= 0
            if attempt.number < 3:
                raise OSError
    assert seen == [1, 2, 3]
    assert delays == [1.0, 2.0]
    seen = []
    with pytest.raises(OSError, match="3") as caught:  # noqa: PT012 - the loop is what is tested
        for attempt in Retry(on=OSError):
            with attempt:
                seen.append(attempt.number)
                raise OSError(attempt.number)
    assert seen == [1, 2, 3]
    assert caught.value.__notes__[0].startswith("gave up after 3 attempts in ")
    with pytest.raises(ValueError, match="x"):  # noqa: PT012 - the loop is what is tested
        for attempt in Retry(on=OSError):
            with attempt:
                raise ValueError("x")


def test_blocks_can_be_left():
    def leave():
        for attempt in Retry():
            with attempt:
                return attempt.number
        return None

    assert leave() == 1
    for attempt in Retry():
        with attempt:
            break
    for attempt in Retry():
        with attempt:
            continue
        pytest.fail("the block was left")


def test_a_loop_without_its_block_is_an_error():
    with pytest.raises(RuntimeError, match="is to be entered"):
        for _ in Retry():
            pass
    with pytest.raises(TypeError, match="retry_result takes a function's result, and a block has none"):
        iter(Retry(retry_result=bool))


@without_sleep
def test_blocks_of_coroutines_are_retried(delays):
    async def main():
        seen = []
        async for attempt in Retry(delay=1, jitter=None):
            with attempt:
                seen.append(attempt.number)
                await asyncio.sleep(0)
                if attempt.number < 3:
                    raise OSError
        assert seen == [1, 2, 3]
        with pytest.raises(TimeoutError) as caught:  # noqa: PT012 - the loop is what is tested
            async for attempt in Retry(max_attempts=2, attempt_timeout=0.01):
                async with attempt:
                    await asyncio.sleep(LIMIT)
        assert "after 2 attempts" in caught.value.__notes__[0]
        with pytest.raises(TypeError, match="attempt_timeout needs `async with attempt`"):  # noqa: PT012 - the loop is what is tested
            async for attempt in Retry(attempt_timeout=1):
                with attempt:
                    pass
        async for attempt in Retry(attempt_timeout=LIMIT):
            async with attempt:
                if attempt.number == 1:
                    raise OSError
        assert attempt.number == 2
        with pytest.raises(RuntimeError, match="is to be entered"):
            async for attempt in Retry():  # noqa: B007 - it is to fail
                pass

    asyncio.run(main())
    assert delays[:2] == [1.0, 2.0]


# -- what ends a wait -------------------------------------------------------------------------------------------------


@without_sleep
def test_a_stop_event_ends_the_attempts(delays):
    stop = threading.Event()
    stop.set()
    flaky = Flaky(9)
    with pytest.raises(OSError, match="failure 1") as caught:
        retry(max_attempts=None, stop_event=stop)(flaky)()
    assert flaky.calls == 1
    assert "the stop event is set" in caught.value.__notes__[0]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stop_event_ends_a_long_wait_of_a_thread(asynchronous):
    stop = asyncio.Event() if asynchronous else threading.Event()
    waiting = threading.Event()
    outcome = []
    flaky = Flaky(9)
    decorated = retry(delay=60, jitter=None, stop_event=stop, on_retry=lambda attempt: waiting.set())(flaky)

    def call():
        try:
            decorated()
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    assert waiting.wait(LIMIT)
    stop.set()
    thread.join(30)
    assert not thread.is_alive(), "it would have waited for a minute"
    assert flaky.calls == 1
    assert "the stop event is set" in outcome[0].__notes__[0]
    assert decorated.retry_stats()[:6] == (1, 1, 0, 0, 1, 0)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stop_event_ends_a_long_wait_of_a_task(asynchronous):
    async def main():
        stop = asyncio.Event() if asynchronous else threading.Event()
        flaky = Flaky(9)
        heard = asyncio.Event()
        decorated = retry(delay=60, jitter=None, stop_event=stop, on_retry=lambda attempt: heard.set())(flaky.awaited)
        task = asyncio.create_task(decorated())
        await heard.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        stop.set()
        with pytest.raises(OSError, match="failure 1"):
            await asyncio.wait_for(task, 30)
        assert flaky.calls == 1

    asyncio.run(main())


def test_a_stop_event_of_another_loop_is_seen_all_the_same():
    stop = asyncio.Event()

    async def bind():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.01)

    asyncio.run(bind())

    async def main():
        heard = asyncio.Event()
        policy = Retry(delay=0.2, jitter=None, stop_event=stop, on_retry=lambda attempt: heard.set())
        decorated = retry(policy)(Flaky(9).awaited)
        task = asyncio.create_task(decorated())
        await heard.wait()
        stop.set()
        with pytest.raises(OSError, match="failure 1"):
            await asyncio.wait_for(task, LIMIT)

    asyncio.run(main())


def test_a_stop_event_that_comes_too_late_changes_nothing():
    flaky = Flaky(1)
    assert retry(delay=0.01, stop_event=threading.Event())(flaky)() == "fine"
    assert asyncio.run(retry(delay=0.01, stop_event=threading.Event())(Flaky(1).awaited)()) == "fine"


@pytest.mark.subprocess
@pytest.mark.parametrize("way", ["function", "policy", "block", "coroutine", "event", "builtin"])
def test_ctrl_c_ends_a_long_wait(python, way):
    done = python(
        """
        import asyncio, os, signal, sys, threading, time
        from ferrule import Retry, retry

        way = sys.argv[1]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sent = []

        def interrupt():
            time.sleep(0.3)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        def fetch():
            raise OSError

        async def fetch_async():
            raise OSError

        policy = Retry(delay=60, jitter=None, stop_event=threading.Event() if way == "event" else None)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            if way == "policy":
                policy.call(fetch)
            elif way == "block":
                for attempt in policy:
                    with attempt:
                        fetch()
            elif way == "coroutine":
                asyncio.run(policy(fetch_async)())
            elif way == "builtin":
                # Nothing here is Python code, which would look after signals.
                retry(on=ValueError, max_attempts=None, timeout=60, delay=0)(float.fromhex)("x")
            else:
                policy(fetch)()
        except KeyboardInterrupt as error:
            late = time.monotonic() - sent[0]
            # A tenth of a second is promised; a machine under load takes its time.
            print("interrupted", late < 5, isinstance(error.__context__, OSError) or way)
        """,
        way,
    )
    assert done.stdout.startswith("interrupted True"), (done.stdout, done.stderr)


@pytest.mark.subprocess
def test_a_daemon_threads_wait_ends_with_the_process(python):
    started = time.monotonic()
    done = python("""
        import threading
        from ferrule import retry

        waiting = threading.Event()

        @retry(delay=60, jitter=None, on_retry=lambda attempt: waiting.set())
        def fetch():
            raise OSError

        threading.Thread(target=fetch, daemon=True).start()
        assert waiting.wait(30)
        print("over")
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("over\n", "", 0)
    assert time.monotonic() - started < 50


@pytest.mark.subprocess
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_retries_for_itself(python):
    done = python("""
        import os, threading
        from ferrule import retry

        failed = []

        @retry(delay=0.05)
        def fetch():
            if not failed:
                failed.append(1)
                raise OSError
            return "fine"

        waiting = threading.Event()
        other = threading.Thread(
            target=fetch.with_policy(delay=30, jitter=None, on_retry=lambda attempt: waiting.set()), daemon=True
        )
        other.start()
        assert waiting.wait(30)
        failed.clear()
        child = os.fork()
        if child == 0:
            print(fetch(), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """)
    assert done.stdout == "fine\n", done.stderr


# -- no_sleep ---------------------------------------------------------------------------------------------------------


def test_no_sleep_is_for_its_context_alone():
    other = []

    def elsewhere():
        started = time.monotonic()
        retry(delay=0.05, jitter=None, max_attempts=2)(Flaky(1))()
        other.append(time.monotonic() - started)

    with no_sleep() as delays:
        thread = threading.Thread(target=contextvars.Context().run, args=(elsewhere,))
        thread.start()
        thread.join()
        assert delays == []
        thread = threading.Thread(target=contextvars.copy_context().run, args=(elsewhere,))
        thread.start()
        thread.join()
        assert delays == [0.05]
    assert other[0] >= 0.05
    with no_sleep() as outer:
        with no_sleep() as inner:
            retry(delay=5, jitter=None)(Flaky(1))()
        retry(delay=6, jitter=None)(Flaky(1))()
    assert (inner, outer) == ([5.0], [6.0])


def test_no_sleep_holds_for_tasks():
    async def main():
        with no_sleep() as delays:
            await asyncio.gather(*(retry(delay=10, jitter=None)(Flaky(1).awaited)() for _ in range(3)))
            await asyncio.to_thread(retry(delay=20, jitter=None)(Flaky(1)))
        return delays

    assert asyncio.run(main()) == [10.0, 10.0, 10.0, 20.0]


# -- references, threads ----------------------------------------------------------------------------------------------


@without_sleep
def test_exceptions_on_the_way_are_let_go(delays):
    alive = weakref.WeakSet()

    def made():
        error = OopsError()
        alive.add(error)
        return error

    def fetch():
        raise made()

    decorated = retry(max_attempts=1000)(fetch)
    gc.disable()
    try:
        with contextlib.suppress(OopsError):
            decorated()
        assert len(alive) == 0
        for attempt in Retry(max_attempts=50):
            with attempt:
                if attempt.number < 50:
                    fetch()
        del attempt
        assert len(alive) == 0
    finally:
        gc.enable()


@without_sleep
def test_what_a_failed_attempt_held_is_let_go_before_the_next(delays):
    alive = []

    def fetch():
        still_there = sum(reference() is not None for reference in alive)
        if still_there:
            return still_there
        resource = OopsError()
        alive.append(weakref.ref(resource))
        raise OSError

    async def fetch_async():
        return fetch()

    with pytest.raises(OSError):  # noqa: PT011 - any
        retry(max_attempts=3)(fetch)()
    with pytest.raises(OSError):  # noqa: PT011 - any
        Retry(max_attempts=3).call(fetch)

    async def main(**parameters):
        # Here: where the exception leaves the event loop, asyncio's own frames hold it.
        with pytest.raises(OSError):  # noqa: PT011 - any
            await retry(max_attempts=3, **parameters)(fetch_async)()

    asyncio.run(main())
    asyncio.run(main(timeout=1000))
    assert len(alive) == 12


def test_a_function_that_holds_itself_is_collected():
    class Owner:
        def __init__(self):
            self.fetch = retry(on_retry=lambda attempt: self)(lambda: self)
            self.again = self.fetch.with_policy(max_attempts=1)

    gone = weakref.ref(Owner())
    gc.collect()
    assert gone() is None


@switches_threads
@pytest.mark.slow
def test_a_million_calls_on_eight_threads_are_counted_exactly():  # noqa: C901 - all outcomes in one place
    threads, calls = 8, 125_000
    foreign = []

    @retry(on=OSError, delay=0, max_attempts=3)
    def fetch(number, attempts=itertools.count):
        # Of a thousand calls one fails at first, one raises something else, and one never succeeds.
        kind = number % 1000
        if kind == 1 and state.failed != number:
            state.failed = number
            raise OSError(number)
        if kind == 2:
            raise KeyError(number)
        if kind == 3:
            raise OSError(number)
        return number

    state = threading.local()

    def run():
        state.failed = None
        for number in range(calls):
            try:
                assert fetch(number) == number
            except KeyError as error:
                if number % 1000 != 2:
                    foreign.append(error)
            except OSError as error:
                if number % 1000 != 3:
                    foreign.append(error)
            except BaseException as error:  # noqa: BLE001 - that is the question
                foreign.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=run, daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(100)
    finally:
        sys.setswitchinterval(before)
    assert foreign == []
    total, some = threads * calls, threads * calls // 1000
    stats = fetch.retry_stats()
    assert stats[:6] == (total, total + 3 * some, 3 * some, total - 2 * some, some, some)


# -- the breaker ------------------------------------------------------------------------------------------------------


class Service:
    def __init__(self, error=None):
        self.error = error
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "fine"

    async def awaited(self):
        await asyncio.sleep(0)
        return self()


def fail(call, times, error=OSError):
    for _ in range(times):
        with pytest.raises(error):
            call()


@turns_the_clock
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_breaker_opens_tries_and_closes(clock, asynchronous):
    service = Service(OSError("down"))
    breaker = CircuitBreaker(failure_threshold=3, window=60, recovery_timeout=30)
    if asynchronous:
        call_async = breaker(service.awaited)
        assert inspect.iscoroutinefunction(call_async)

        def call():
            return asyncio.run(call_async())
    else:
        call = breaker(service)
    assert breaker.state == "closed"
    fail(call, 3)
    assert breaker.state == "open"
    with pytest.raises(CircuitOpen, match="tried again in 30 s") as caught:
        call()
    assert caught.value.retry_after == pytest.approx(30)
    assert isinstance(caught.value, FerruleError)
    assert service.calls == 3
    clock.advance(29)
    with pytest.raises(CircuitOpen):
        call()
    clock.advance(1)
    assert breaker.state == "half-open"
    fail(call, 1)
    assert breaker.state == "open"
    clock.advance(30)
    service.error = None
    assert call() == "fine"
    assert breaker.state == "closed"
    service.error = OSError("down")
    fail(call, 2)
    clock.advance(61)
    fail(call, 2)
    assert breaker.state == "closed", "failures that lie apart don't open it"
    fail(call, 1)
    breaker.reset()
    assert breaker.state == "closed"
    assert repr(breaker) == "<CircuitBreaker: closed>"


@turns_the_clock
def test_a_breakers_blocks(clock):
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=30, on=OSError)
    with breaker as entered:
        assert entered is breaker
    with pytest.raises(ValueError, match="an answer"), breaker:
        raise ValueError("an answer")
    assert breaker.state == "closed"
    with pytest.raises(OSError, match="down"), breaker:
        raise OSError("down")
    assert breaker.state == "open"
    with pytest.raises(CircuitOpen), breaker:
        pytest.fail("it is open")
    clock.advance(30)
    with breaker:
        assert breaker.state == "half-open"
        with pytest.raises(CircuitOpen), breaker:
            pytest.fail("one at a time")
    assert breaker.state == "closed"

    async def main():
        with pytest.raises(OSError, match="down"):
            async with breaker:
                raise OSError("down")
        with pytest.raises(CircuitOpen):
            async with breaker:
                pytest.fail("it is open")
        clock.advance(30)
        async with breaker as entered:
            assert entered is breaker
            await asyncio.sleep(0)

    asyncio.run(main())
    assert breaker.state == "closed"


@turns_the_clock
def test_a_cancelled_trial_counts_as_nothing(clock):
    async def main():
        breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=30)

        @breaker
        async def hanging():
            await asyncio.sleep(LIMIT)

        @breaker
        async def failing():
            raise OSError

        with pytest.raises(OSError):  # noqa: PT011 - any
            await failing()
        clock.advance(30)
        task = asyncio.create_task(hanging())
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpen):
            await hanging()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert breaker.state == "half-open"
        # A coroutine that is dropped gives its place back, too.
        dropped = hanging()
        dropped.send(None)
        dropped.close()
        with breaker:
            pass
        assert breaker.state == "closed"

    asyncio.run(main())


@turns_the_clock
def test_several_trials(clock):
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=30, half_open_calls=2)
    fail(breaker(Service(OSError())), 1)
    clock.advance(30)
    with breaker:
        assert breaker.state == "half-open"
    assert breaker.state == "half-open", "both must succeed"
    with breaker:
        pass
    assert breaker.state == "closed"


def test_no_lock_is_held_while_a_call_runs():
    breaker = CircuitBreaker()
    inside, leave = threading.Event(), threading.Event()

    @breaker
    def slow():
        inside.set()
        assert leave.wait(LIMIT)
        return "slow"

    results = []
    thread = threading.Thread(target=lambda: results.append(slow()), daemon=True)
    thread.start()
    assert inside.wait(LIMIT)
    assert breaker(lambda: "quick")() == "quick"
    leave.set()
    thread.join(LIMIT)
    assert results == ["slow"]


@without_sleep
def test_a_breaker_under_a_retry(delays):
    service = Service(OSError("down"))
    breaker = CircuitBreaker(failure_threshold=2, on=OSError)
    call = retry(on=OSError, max_attempts=5)(breaker(service))
    with pytest.raises(CircuitOpen):
        call()
    assert service.calls == 2
    assert len(delays) == 2


def test_a_breakers_parameters_are_checked():
    for parameters, error, text in [
        ({"failure_threshold": 0}, ValueError, "failure_threshold must be 1 or more, got 0"),
        ({"failure_threshold": 2.5}, TypeError, "failure_threshold must be an integer"),
        ({"window": 0}, ValueError, "window must be more than 0 seconds"),
        ({"window": "1"}, TypeError, "window must be seconds"),
        ({"recovery_timeout": 0}, ValueError, "recovery_timeout must be more than 0 seconds"),
        ({"recovery_timeout": -1}, ValueError, "recovery_timeout must be"),
        ({"half_open_calls": 0}, ValueError, "half_open_calls must be 1 or more"),
        ({"half_open_calls": 2**40}, ValueError, "half_open_calls must be less than"),
        ({"on": "OSError"}, TypeError, "on must be an exception class"),
    ]:
        with pytest.raises(error, match=text):
            CircuitBreaker(**parameters)
    with pytest.raises(TypeError, match="a CircuitBreaker takes a function, not int"):
        CircuitBreaker()(3)
    with pytest.raises(TypeError, match="takes no generator function"):
        CircuitBreaker()(numbers)
    breaker = CircuitBreaker(window=timedelta(minutes=1), on=(OSError, KeyError))
    assert (breaker.window, breaker.recovery_timeout, breaker.failure_threshold) == (60.0, 30.0, 5)
    assert (breaker.half_open_calls, breaker.on) == (1, (OSError, KeyError))


def test_a_breaker_stands_before_methods():
    breaker = CircuitBreaker()

    class Client:
        @breaker
        def fetch(self, url):
            """Fetch."""
            return (self, url)

        @breaker
        @staticmethod
        def static(url):
            return url

    client = Client()
    assert client.fetch("x") == (client, "x")
    assert client.fetch.__doc__ == "Fetch."
    assert client.static(3) == 3


@switches_threads
def test_a_breaker_lets_exactly_one_trial_through():
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=0.02)
    through, refused = [], []
    lock = threading.Lock()
    ready = threading.Barrier(8)

    @breaker
    def call(number):
        through.append(number)
        time.sleep(0.01)
        raise OSError

    def run():
        for number in range(15):
            ready.wait(LIMIT)
            try:
                call(number)
            except CircuitOpen:
                with lock:
                    refused.append(number)
            except OSError:
                pass
            ready.wait(LIMIT)
            time.sleep(0.03)

    fail(breaker(Service(OSError())), 1)
    time.sleep(0.03)
    workers = [threading.Thread(target=run, daemon=True) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT)
    assert len(through) + len(refused) == 8 * 15
    # A machine under load may let a recovery time pass within one round.
    assert statistics.median(through.count(number) for number in range(15)) == 1

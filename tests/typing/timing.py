"""What mypy and basedpyright, both strict, must make of the timing room. Read by them, never run."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, assert_type

import ferrule
from ferrule import PerformanceMonitor, Timer, TimingStats, count_calls, timed
from ferrule.testing import ManualClock, manual_clock


@timed
def plain(x: int, y: str = "") -> float:
    return x + len(y)


assert_type(plain(1, y="a"), float)
assert_type(plain.timing_stats(), TimingStats)
plain.timing_reset()
plain("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
plain(1, z=2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
taken: Callable[[int], float] = plain


@timed(name="with arguments", log="INFO", echo=True, slower_than=timedelta(seconds=1))
def configured(x: int) -> int:
    return x


assert_type(configured(1), int)


def hear(name: str | None, seconds: float, error: BaseException | None) -> None:
    del name, seconds, error


@timed(sink=hear, slower_than=0.5, monitor=PerformanceMonitor(max_names=10))
async def coroutine(x: int) -> str:
    return str(x)


running: Coroutine[Any, Any, str] = coroutine(1)


@timed
def generator(n: int) -> Iterator[int]:
    yield from range(n)


assert_type(generator(3), Iterator[int])


@timed
async def async_generator(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


assert_type(async_generator(3), AsyncIterator[int])


class Worker:
    @timed
    def method(self, x: int) -> str:
        return str(x)

    @timed(name="other")
    def configured(self, x: int) -> str:
        return str(x)

    @count_calls
    def counted(self, x: int) -> bytes:
        return bytes(x)

    @timed
    @staticmethod
    def static(x: int) -> float:
        return float(x)

    @staticmethod
    @timed
    def static_inside(x: int) -> float:
        return float(x)

    @classmethod
    @timed
    def of_class(cls, x: int) -> int:
        return x

    @property
    @timed
    def value(self) -> int:
        return 1


worker = Worker()
assert_type(worker.method(1), str)
# mypy does not look at the type of `self` when it chooses an overload of `__get__`. So it takes a method that is asked
# for on its class for a class method, and a static one for a method.
assert_type(Worker.method(worker, 1), str)  # type: ignore[arg-type, call-arg]
assert_type(worker.method.timing_stats(), TimingStats)
worker.method("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
assert_type(worker.configured(1), str)
assert_type(worker.counted(1), bytes)
assert_type(worker.counted.call_count, int)
assert_type(worker.static(1), float)  # type: ignore[call-arg]
assert_type(Worker.static(1), float)  # type: ignore[call-arg]
assert_type(worker.static_inside(1), float)  # type: ignore[call-arg]
assert_type(Worker.of_class(1), int)
assert_type(worker.value, int)


@timed
class Service:
    def serve(self, x: int) -> str:
        return str(x)


assert_type(Service(), Service)
assert_type(Service().serve(1), str)


@timed(log=10)
class Configured:
    def serve(self) -> int:
        return 1


assert_type(Configured().serve(), int)


@count_calls
def counted(x: int) -> str:
    return str(x)


assert_type(counted(1), str)
assert_type(counted.call_count, int)
counted.call_reset()
counted("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


@timed
@count_calls
def stacked(x: int) -> str:
    return str(x)


assert_type(stacked(1), str)

with Timer("block", log=20, echo=False, sink=hear, slower_than=1) as timer:
    assert_type(timer, Timer)
assert_type(timer.elapsed, float)
assert_type(timer.name, str | None)


async def asynchronous() -> None:
    async with Timer() as timer:
        assert_type(timer, Timer)


monitor = PerformanceMonitor()


@monitor.timed("named")
def named(x: int) -> int:
    return x


@monitor.timed
def bare(x: int) -> int:
    return x


@monitor.profile_memory
def profiled(x: int) -> bytes:
    return bytes(x)


@monitor.profile_memory(name="profile")
def profiled_by_name(x: int) -> bytes:
    return bytes(x)


assert_type(named(1), int)
assert_type(bare(1), int)
assert_type(profiled(1), bytes)
assert_type(profiled_by_name(1), bytes)
assert_type(monitor.stats(), dict[str, TimingStats])
monitor.merge(PerformanceMonitor())
monitor.merge({})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
assert_type(monitor.report(sort="p99"), str)
monitor.report(sort="median")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
with monitor.timer("block") as block:
    assert_type(block, Timer)
assert_type(ferrule.timing.default_monitor, PerformanceMonitor)

with manual_clock() as clock:
    assert_type(clock, ManualClock)
    clock.advance(timedelta(minutes=1))
    assert_type(clock.time(), float)

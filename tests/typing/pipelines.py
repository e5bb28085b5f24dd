"""What mypy and basedpyright, both strict, must make of the pipelines room. Read by them, never run."""

from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, assert_type

from ferrule import Pipeline, RateLimiter, Retry, StageError, it, pipeline
from ferrule.pipelines import AsyncRun, Expression, Run

assert_type(it, Expression)
assert_type(it["k"].name > 0.5, Expression)
assert_type((it == 1) & ~it.in_({1}) | (2 * it < 3), Expression)
it["k"](3)


def positive(numbers: Iterable[int]) -> Iterator[int]:
    """Keeps some."""
    return (number for number in numbers if number > 0)


async def fetch(url: str) -> bytes:
    """Fetches."""
    return url.encode()


stages = (
    Pipeline("stages")
    .lines(strip=True)
    .containing("ERROR")
    .map(str.upper)
    .map(fetch, workers=8, ordered=False, buffer=0, chunk="auto", retry=Retry(on=OSError), limit=RateLimiter(10))
    .map(len, executor=ThreadPoolExecutor())
    .filter(it > 0, on_error="skip")
    .flat_map(range, name="ranges")
    .through(positive)
    .accumulate(max, initial=0)
    .dedupe(key=it % 3, maxsize=None)
    .skip(1)
    .take(10)
    .take_while(it < 9)
    .tap(print)
    .windowed(2, step=2, fillvalue=None)
    .batch(500, max_wait=timedelta(seconds=1))
)
assert_type(stages, Pipeline)
with stages.run("app.log", progress=True, on_error="collect") as run:
    assert_type(run, Run)
    assert_type(run.errors, list[StageError])
    assert_type(run.state(), dict[str, Any])
assert_type(stages.run("app.log", resume=run.state()), Run)
assert_type(stages.run_async("app.log", buffer=8), AsyncRun)
assert_type(pipeline(positive, list)([1]), Iterator[Any])


async def consume(source: AsyncIterator[int]) -> None:
    """Consumes."""
    async with stages.run_async(source) as results:
        async for batch in results:
            assert_type(batch, Any)


stages.map(3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
stages.run([], on_error="ignore")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
stages.batch(2, on_error="skip")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

"""What type checkers say of the iterating room and of pipelines."""

from collections.abc import Iterator
from typing import Any, assert_type

from ferrule import (
    Lines,
    Pipeline,
    batched,
    batched_by,
    chunked,
    countdown,
    fibonacci,
    it,
    lines,
    pipeline,
    sort,
    windowed,
)
from ferrule.pipelines import Expression, Run

assert_type(batched([1], 2), Iterator[tuple[int, ...]])
assert_type(chunked("ab", 2), Iterator[list[str]])
assert_type(batched_by([1.5], max_items=2, max_wait=1), Iterator[list[float]])
assert_type(windowed([1], 2), Iterator[tuple[int, ...]])
assert_type(windowed([1], 2, fillvalue=None), Iterator[tuple[Any, ...]])
assert_type(countdown(3), Iterator[int])
assert_type(fibonacci(), Iterator[int])
assert_type(sort({1, 2}, key=str, reverse=True, strategy="merge"), list[int])
assert_type(lines("app.log").containing("x").matching("y").split_field(0), Lines)
assert_type(lines("app.log").chunked(3), Iterator[list[str]])
for line in lines("app.log"):
    assert_type(line, str)


async def asynchronously() -> None:
    """Reads with `async for`."""
    async for line in lines("app.log"):
        assert_type(line, str)
    async for item in Pipeline().map(it + 1).run_async([1]):
        assert_type(item, Any)


assert_type((it["a"] > 1) & ~it.b, Expression)
assert_type(Pipeline("p").filter(it > 0).map(str, workers=2, chunk="auto").batch(3, max_wait=1.0), Pipeline)
assert_type(Pipeline().run([1], on_error="collect"), Run)
assert_type(pipeline(list)([1]), Iterator[Any])

batched(3, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
sort([1], strategy="bogo")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Pipeline().run([], on_error="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

"""What mypy and basedpyright, both strict, must make of the pooling room. Read by them, never run."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import assert_type

from ferrule import PoolStats, ResourcePool, Retry, Transaction, transaction

pool = ResourcePool(
    partial(sqlite3.connect, "file"),
    max_size=5,
    min_idle=1,
    order="fifo",
    check=lambda connection: connection.total_changes >= 0,
    reset=sqlite3.Connection.rollback,
    close=sqlite3.Connection.close,
    timeout=timedelta(seconds=3),
    max_waiting=None,
    max_idle_time=None,
    max_lifetime=60,
    lifetime_jitter=0.2,
    create_backoff=Retry(delay=1),
    leak_after=5,
    name="db",
)
assert_type(pool, ResourcePool[sqlite3.Connection])
with pool.lease(timeout=None) as lent:
    assert_type(lent, sqlite3.Connection)
with pool as short:
    assert_type(short, sqlite3.Connection)
with closing(pool) as itself:
    assert_type(itself, ResourcePool[sqlite3.Connection])
assert_type(pool.acquire(timeout=0), sqlite3.Connection)
assert_type(pool.stats(), PoolStats)
assert_type(pool.stats().wait_seconds, float)
assert_type(pool.name, str | None)
assert_type(pool.closed, bool)
pool.release(sqlite3.connect("file"), discard=True)
pool.release("no connection")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
pool.resize(3)
pool.drain()
pool.close(timeout=5)
ResourcePool(int, order="random")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]

assert_type(ResourcePool.of(["a", "b"]), ResourcePool[str])


async def make() -> bytearray:
    return bytearray()


async def swept(resource: bytearray) -> None:
    resource.clear()


async def in_tasks() -> None:
    tasks = ResourcePool(make, reset=swept, close=swept)
    assert_type(tasks, ResourcePool[bytearray])
    async with tasks.lease() as leased:
        assert_type(leased, bytearray)
    async with tasks as one:
        assert_type(one, bytearray)
    resource = await tasks.acquire_async(timeout=1)
    assert_type(resource, bytearray)
    await tasks.release_async(resource, discard=True)
    await tasks.close_async()
    async with transaction(sqlite3.connect("file")) as connected:
        assert_type(connected, sqlite3.Connection)


assert_type(transaction(sqlite3.connect("file")), Transaction[sqlite3.Connection])
with transaction(sqlite3.connect("file")) as connection:
    assert_type(connection, sqlite3.Connection)

"""Pooling beside its peers: what borrowing costs, who gets a turn, and what cancelled tasks leave behind."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Figure, Finding, Prepared, Room, Row, require
from ferrule._compare.pooling import (
    SIZE,
    USERS,
    Resource,
    Turns,
    borrowing,
    fairness,
    in_blocks,
    pool_of_ours,
    turns,
)
from ferrule._compare.pooling import (
    room as compared,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from ferrule._compare.harness import Factory, Run

SQLALCHEMY = "SQLAlchemy QueuePool"


class Connection:
    """What the pools of databases take for a connection."""

    def rollback(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def room(*, quick: bool) -> Room:
    """Describes the rows and figures; with `quick` the contests are shorter and fewer tasks are cancelled."""
    own = compared()
    peers: Mapping[str, Mapping[str, Factory]] = {
        "lease": {
            "generic-connection-pool": lambda: in_blocks(generic(SIZE).connection),
            "psycopg_pool": lambda: blocks_of_psycopg(SIZE),
        },
        "acquire": {
            "DBUtils": lambda: by_connecting(dbutils(SIZE)),
            SQLALCHEMY: lambda: by_connecting(sqlalchemy(SIZE).connect),
            "psycopg_pool": lambda: by_getting(SIZE),
            "redis-py": lambda: by_connection(SIZE),
        },
    }
    seconds = 0.3 if quick else 2.0
    return replace(
        own,
        rows=[*[row.joined_by(peers.get(row.id, {})) for row in own.rows], beside_sqlalchemy()],
        figures=[*contested(fairness(seconds), seconds), cancelled(quick=quick)],
    )


def beside_sqlalchemy() -> Row:
    """The goal that is about one peer alone."""
    return Row(
        id="lease_sqlalchemy",
        title="ResourcePool: with pool.lease(), against SQLAlchemy's connect and close",
        baseline=SQLALCHEMY,
        goal=0.05,
        candidates={
            SQLALCHEMY: lambda: by_connecting(sqlalchemy(SIZE).connect),
            "ferrule": lambda: in_blocks(pool_of_ours().lease),
        },
    )


# The peers, each as its documentation shows it.


def sqlalchemy(size: int) -> Any:
    pool = require("sqlalchemy.pool", "sqlalchemy")
    return pool.QueuePool(Connection, pool_size=size, max_overflow=0)


def dbutils(size: int) -> Callable[[], Any]:
    pooled = require("dbutils.pooled_db", "dbutils")

    class Cursor:
        """Does nothing."""

        def close(self) -> None:
            """Does nothing."""

    class Steady(Connection):
        """Is a connection of the DB-API."""

        def cursor(self) -> Cursor:
            """Returns a cursor."""
            return Cursor()

        def commit(self) -> None:
            """Does nothing."""

    class Module:
        """Is a module of the DB-API."""

        threadsafety = 1
        OperationalError = InterfaceError = InternalError = OSError

        @staticmethod
        def connect() -> Steady:
            """Makes a connection."""
            return Steady()

    steady: Any = pooled.PooledDB(Module, mincached=size, maxcached=size, maxconnections=size, blocking=True)
    connection: Callable[[], Any] = steady.connection
    return connection


def by_connecting(connect: Callable[[], Any]) -> Run:
    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            connect().close()

    return run


def generic(size: int) -> Any:
    module = require("generic_connection_pool.threading", "generic-connection-pool")
    base = module.BaseConnectionManager

    class Manager(base):  # type: ignore[misc, valid-type]
        """Makes connections."""

        def create(self, endpoint: Any, timeout: float | None = None) -> Connection:
            """Makes one."""
            del endpoint, timeout
            return Connection()

        def dispose(self, endpoint: Any, conn: Connection, timeout: float | None = None) -> None:
            """Lets one go."""

    pool: Any = module.ConnectionPool(Manager(), max_size=size, background_collector=False)

    class Endpoint:
        """Lends connections to one place."""

        def connection(self) -> Any:
            """Lends one for a block."""
            return pool.connection(endpoint="here")

    return Endpoint()


def psycopg_pool(size: int) -> Any:
    psycopg = require("psycopg")
    module = require("psycopg_pool", "psycopg-pool")
    status = psycopg.pq.TransactionStatus

    class Pgconn:
        """Is what the pool asks for the state of a connection."""

        transaction_status = status.IDLE

    class Idle:
        """Is a connection without a server."""

        def __init__(self) -> None:
            self.pgconn = Pgconn()
            self.closed = False

        @classmethod
        def connect(cls, conninfo: str = "", **_options: Any) -> Idle:
            """Makes one."""
            del conninfo
            return cls()

        def close(self) -> None:
            """Does nothing."""
            self.closed = True

        def commit(self) -> None:
            """Does nothing."""

        def rollback(self) -> None:
            """Does nothing."""

        def __enter__(self) -> Self:
            """Does nothing."""
            return self

        def __exit__(self, *_: object) -> None:
            """Does nothing."""

    pool = module.ConnectionPool("", connection_class=Idle, min_size=size, max_size=size, open=True)
    pool.wait()
    return pool


def by_getting(size: int) -> Prepared:
    pool = psycopg_pool(size)
    return Prepared(run=borrowing(pool.getconn, pool.putconn), close=pool.close)


def blocks_of_psycopg(size: int) -> Prepared:
    pool = psycopg_pool(size)
    return Prepared(run=in_blocks(pool.connection), close=pool.close)


def redis(size: int) -> Any:
    module = require("redis")
    connections = require("redis.connection", "redis")

    base = connections.Connection

    class Connected(base):  # type: ignore[misc, valid-type]
        """Is a connection without a server."""

        def connect(self) -> None:
            """Does nothing."""

        def can_read(self, timeout: float = 0) -> bool:
            """Says that nothing has come."""
            del timeout
            return False

        def disconnect(self, *_: object, **_options: object) -> None:
            """Does nothing."""

    return module.BlockingConnectionPool(connection_class=Connected, max_connections=size, timeout=60)


def by_connection(size: int) -> Run:
    pool = redis(size)
    return borrowing(pool.get_connection, pool.release)


# Fairness.


def contested(figures: list[Figure], seconds: float) -> list[Figure]:
    """Adds the peers to the figures about a contest, which each of them has once."""
    kept: dict[str, Turns] = {}
    contests: Mapping[str, Callable[[], Turns]] = {
        SQLALCHEMY: lambda: turns_of_sqlalchemy(seconds),
        "psycopg_pool": lambda: turns_of_psycopg(seconds),
        "redis-py": lambda: turns_of_redis(seconds),
    }

    def found(view: str, name: str) -> Finding:
        if name not in kept:
            kept[name] = contests[name]()
        outcome = kept[name]
        views = {"fairness": outcome.unfairness, "longest_wait": outcome.overtaken, "longest_wait_ms": outcome.delay}
        return views[view]()

    return [
        replace(
            figure, candidates={**figure.candidates, **{name: partial(found, figure.id, name) for name in contests}}
        )
        for figure in figures
    ]


def turns_of_sqlalchemy(seconds: float) -> Turns:
    pool = sqlalchemy(1)
    return turns(pool.connect, lambda connection: connection.close(), seconds)


def turns_of_psycopg(seconds: float) -> Turns:
    pool = psycopg_pool(1)
    try:
        return turns(pool.getconn, pool.putconn, seconds)
    finally:
        pool.close()


def turns_of_redis(seconds: float) -> Turns:
    pool = redis(1)
    return turns(pool.get_connection, pool.release, seconds)


# Cancellations.


def cancelled(*, quick: bool) -> Figure:
    """What random cancellations leave behind: resources that are lent, waiters that wait."""
    wanted = 5_000 if quick else 100_000

    def ours() -> Finding:
        lost, count = asyncio.run(cancel_at_random(wanted))
        return Finding(lost, f"{count:,} cancelled")

    return Figure(
        id="cancelled",
        title=f"resources and waiters lost by {wanted:,} random cancellations",
        unit="lost",
        candidates={"ferrule": ours},
        goal=0,
    )


async def cancel_at_random(wanted: int) -> tuple[int, int]:
    from ferrule import ResourcePool

    dice = random.Random(7)

    async def create() -> Resource:
        await asyncio.sleep(0)
        return Resource()

    async def close(_: Resource) -> None:
        await asyncio.sleep(0)

    pool = ResourcePool(create, max_size=SIZE, close=close)

    async def work() -> None:
        async with pool.lease():
            await asyncio.sleep(0)

    count = 0
    while count < wanted:
        tasks = [asyncio.create_task(work()) for _ in range(USERS * SIZE)]
        await asyncio.sleep(0)
        while pending := [task for task in tasks if not task.done()]:
            for task in dice.sample(pending, dice.randrange(len(pending) + 1)):
                count += task.cancel()
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
    while pool.stats().size != pool.stats().idle:  # noqa: ASYNC110 - closings in the background
        await asyncio.sleep(0.001)
    taken = [await pool.acquire_async(timeout=1) for _ in range(SIZE)]
    for resource in taken:
        await pool.release_async(resource)
    stats = pool.stats()
    return SIZE - stats.idle + stats.waiting + (stats.created - stats.closed - stats.size), count

"""Pools of real connections: SQLite files, and PostgreSQL and Redis servers that are restarted in the middle."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from ferrule import PoolTimeout, ResourcePool, Retry, transaction

pytestmark = pytest.mark.thread_unsafe(reason="the servers are one for all, and they are restarted")

# The longest that anything here waits for another thread or a server: reached only where something hangs.
LONG = 60

ACCOUNTS = 5
TRANSFERS = 40


def until(condition):
    """Wait for what another thread or a server is about to do."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.01)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A server of the distribution, on loopback, with a temporary folder for its data."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.process = None
        self.log = (folder / "log").open("ab")

    def start(self):
        self.process = subprocess.Popen(
            self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        until(lambda: self.process.poll() is not None or self.answers())
        assert self.process.poll() is None, (self.folder / "log").read_text(errors="replace")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(LONG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def close(self):
        self.stop()
        self.log.close()


def postgres_programs():
    """The folder with the server's programs: the distribution keeps them off the PATH."""
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if versions:
        return max(versions, key=lambda path: float(path.parent.name))
    found = shutil.which("initdb")
    return Path(found).parent if found else None


def as_somebody():
    """How to run a program as somebody else than root, which PostgreSQL refuses to serve."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv"):
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    return ["runuser", "-u", "postgres", "--"]


class Postgres(Server):
    def __init__(self, folder, programs):
        super().__init__(folder)
        self.programs = programs
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        # Not a matter of the tests' locale, nor of the disk.
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D", folder / "data"]
        done = subprocess.run(
            [*as_somebody(), programs / "initdb", *options], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.start()

    def command(self):
        options = ["-D", self.folder / "data", "-h", "127.0.0.1", "-p", str(self.port), "-k", self.folder, "-F"]
        return [*as_somebody(), self.programs / "postgres", *options]

    def answers(self):
        command = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        return subprocess.run(command, check=False).returncode == 0

    @property
    def address(self):
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=10"


class Redis(Server):
    def __init__(self, folder, program):
        super().__init__(folder)
        self.program = program
        self.start()

    def command(self):
        return [self.program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", self.folder]

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as one:
                one.sendall(b"PING\r\n")
                return one.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextlib.contextmanager
def folder_of_its_own():
    # Not pytest's: its folders are closed to the server's user.
    with tempfile.TemporaryDirectory(prefix="ferrule-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def postgres():
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server: the distribution's package `postgresql` brings it")
    with folder_of_its_own() as folder:
        server = Postgres(folder, programs)
        yield server
        server.close()


@pytest.fixture(scope="module")
def redis_server():
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no Redis server: the distribution's package `redis-server` brings it")
    with folder_of_its_own() as folder:
        server = Redis(folder, program)
        yield server
        server.close()


class Workers:
    """Threads that do the same again and again, and keep count of what came of it."""

    def __init__(self, count, work):
        self.work = work
        self.over = threading.Event()
        self.served = 0
        self.failures = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.over.is_set():
            try:
                self.work()
            except Exception as error:  # noqa: BLE001 - the test looks at all of them
                with self.lock:
                    self.failures.append(error)
                # Nobody who has been refused comes back at once.
                time.sleep(0.005)
            else:
                with self.lock:
                    self.served += 1

    def until_served(self, count):
        goal = self.served + count
        until(lambda: self.served >= goal)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(LONG)
        assert not any(thread.is_alive() for thread in self.threads), "a thread hangs"


def restart_under_load(server, pool, work):
    """Stop and start a server while threads work: each gets a connection or the cause, and it all goes on by itself."""
    workers = Workers(8, work)
    try:
        workers.until_served(50)
        assert workers.failures == []
        server.stop()
        until(lambda: len(workers.failures) > 8)
        server.start()
        workers.until_served(50)
    finally:
        workers.end()
    stats = pool.stats()
    assert stats.in_use == stats.waiting == 0
    assert stats.size == stats.idle <= stats.max_size
    assert stats.created - stats.closed == stats.size
    return workers.failures


def patient(create, **options):
    """A pool that tries again soon."""
    return ResourcePool(create, timeout=LONG, create_backoff=Retry(delay=0.01, max_delay=0.1), **options)


class TestSQLite:
    @pytest.fixture
    def pool(self, tmp_path):
        path = tmp_path / "accounts.sqlite"

        def connect():
            connection = sqlite3.connect(path, timeout=LONG, check_same_thread=False)
            connection.execute("PRAGMA synchronous = OFF")
            return connection

        with contextlib.closing(ResourcePool(connect, max_size=3, close=sqlite3.Connection.close)) as pool:
            with pool as connection, transaction(connection):
                connection.execute("CREATE TABLE accounts (number INTEGER PRIMARY KEY, balance INTEGER)")
                connection.executemany("INSERT INTO accounts VALUES (?, 100)", [(n,) for n in range(ACCOUNTS)])
            yield pool

    def test_transfers_lose_nothing(self, pool):
        def transfer(number):
            for step in range(10):
                try:
                    with pool.lease() as connection, transaction(connection):
                        connection.execute("UPDATE accounts SET balance = balance - 1 WHERE number = ?", (number,))
                        if step % 5 == 4:
                            raise KeyError(step)  # noqa: TRY301 - as users do
                        other = (number + 1) % ACCOUNTS
                        connection.execute("UPDATE accounts SET balance = balance + 1 WHERE number = ?", (other,))
                except KeyError:
                    continue

        threads = [threading.Thread(target=transfer, args=(number,), daemon=True) for number in range(ACCOUNTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        with pool.lease() as connection:
            assert connection.execute("SELECT sum(balance) FROM accounts").fetchone() == (100 * ACCOUNTS,)
        stats = pool.stats()
        assert stats.size <= 3
        assert stats.in_use == 0

    def test_a_connection_that_was_closed_is_replaced(self, tmp_path):
        def check(connection):
            return connection.execute("SELECT 1").fetchone() == (1,)

        pool = ResourcePool(partial(sqlite3.connect, tmp_path / "file"), check=check, close=sqlite3.Connection.close)
        with contextlib.closing(pool):
            with pool as connection:
                connection.close()
            with pool as another:
                assert another is not connection


class TestPostgresInThreads:
    @pytest.fixture
    def psycopg(self):
        return pytest.importorskip("psycopg", reason="psycopg has no wheel for this interpreter")

    @pytest.fixture
    def pool(self, psycopg, postgres):
        pool = patient(
            partial(psycopg.connect, postgres.address),
            max_size=3,
            check=lambda connection: connection.execute("SELECT 1") and not connection.rollback(),
            reset=lambda connection: connection.rollback(),
            close=lambda connection: connection.close(),
            name="accounts",
        )
        with contextlib.closing(pool):
            with pool as connection, transaction(connection):
                connection.execute("DROP TABLE IF EXISTS accounts")
                connection.execute("CREATE TABLE accounts (number integer PRIMARY KEY, balance integer)")
                for number in range(ACCOUNTS):
                    connection.execute("INSERT INTO accounts VALUES (%s, 100)", (number,))
            yield pool

    def transfer(self, pool, one, other):
        with pool.lease() as connection, transaction(connection):
            # In the same order for all, or else they wait for one another.
            for number, change in sorted([(one, -1), (other, 1)]):
                sql = "UPDATE accounts SET balance = balance + %s WHERE number = %s"
                connection.execute(sql, (change, number))

    def total(self, pool):
        with pool.lease() as connection:
            return connection.execute("SELECT sum(balance) FROM accounts").fetchone()[0]

    def test_transfers_lose_nothing(self, pool):
        def work(number):
            for step in range(TRANSFERS):
                self.transfer(pool, number % ACCOUNTS, (number + step + 1) % ACCOUNTS)

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        assert self.total(pool) == 100 * ACCOUNTS
        with pool.lease() as connection:
            sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            assert connection.execute(sql).fetchone()[0] <= 3

    def test_a_restart_in_the_middle(self, psycopg, postgres, pool):
        numbers = iter(range(10**9))

        def work():
            number = next(numbers)
            self.transfer(pool, number % ACCOUNTS, (number + 1) % ACCOUNTS)

        failures = restart_under_load(postgres, pool, work)
        # The cause, and nothing else: what the server or the driver said.
        assert failures
        assert all(isinstance(error, psycopg.OperationalError) for error in failures), failures
        assert self.total(pool) == 100 * ACCOUNTS

    def test_away_for_longer_than_somebody_waits(self, psycopg, postgres, pool):
        postgres.stop()
        try:
            pool.drain()
            with pytest.raises(psycopg.OperationalError):
                pool.acquire()
            with pytest.raises((PoolTimeout, psycopg.OperationalError)) as caught:
                pool.acquire(timeout=0)
            if isinstance(caught.value, PoolTimeout):
                assert isinstance(caught.value.__cause__, psycopg.OperationalError)
        finally:
            postgres.start()
        until(lambda: self.is_back(psycopg, pool))

    def is_back(self, psycopg, pool):
        with contextlib.suppress(psycopg.OperationalError):
            return self.total(pool) == 100 * ACCOUNTS
        return False

    def test_connections_in_autocommit_mode(self, psycopg, postgres, pool):
        with contextlib.closing(psycopg.connect(postgres.address, autocommit=True)) as connection:
            with pytest.raises(KeyError), transaction(connection):  # noqa: PT012 - the block is what is tested
                connection.execute("UPDATE accounts SET balance = 0")
                raise KeyError
            with transaction(connection):
                connection.execute("UPDATE accounts SET balance = balance + 1")
        assert self.total(pool) == 101 * ACCOUNTS

    @pytest.mark.subprocess
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_fork_leaves_the_parents_connections_alone(self, postgres):
        code = f"""
            import os, psycopg, ferrule
            pool = ferrule.ResourcePool(lambda: psycopg.connect({postgres.address!r}), close=lambda it: it.close())
            with pool.lease() as connection:
                mine = connection.info.backend_pid
            if os.fork() == 0:
                with pool.lease() as connection:
                    assert connection.info.backend_pid != mine
                pool.close()
                del pool, connection
                raise SystemExit
            assert os.wait()[1] == 0
            with pool.lease() as connection:
                assert connection.info.backend_pid == mine
                assert connection.execute("SELECT 1").fetchone() == (1,)
            pool.close()
        """
        code = textwrap.dedent(code)
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr


class TestPostgresInTasks:
    """The same through asyncpg and through psycopg's connections for tasks."""

    @pytest.fixture(params=["asyncpg", "psycopg"])
    def driver(self, request, postgres):
        module = pytest.importorskip(request.param, reason=f"{request.param} has no wheel for this interpreter")
        if request.param == "psycopg":
            return PsycopgForTasks(module, postgres)
        return Asyncpg(module, postgres)

    async def prepare(self, driver, pool):
        async with pool.lease() as connection, transaction(connection):
            await driver.execute(connection, "DROP TABLE IF EXISTS accounts")
            await driver.execute(connection, "CREATE TABLE accounts (number integer PRIMARY KEY, balance integer)")
            for number in range(ACCOUNTS):
                await driver.execute(connection, f"INSERT INTO accounts VALUES ({number}, 100)")

    async def transfer(self, driver, pool, number):
        async with pool.lease() as connection, transaction(connection):
            for place, change in sorted([(number % ACCOUNTS, -1), ((number + 1) % ACCOUNTS, 1)]):
                sql = f"UPDATE accounts SET balance = balance + {change} WHERE number = {place}"
                await driver.execute(connection, sql)

    async def total(self, driver, pool):
        async with pool.lease() as connection:
            return await driver.value(connection, "SELECT sum(balance) FROM accounts")

    def test_transfers_lose_nothing(self, driver):
        async def main():
            pool = driver.pool()
            await self.prepare(driver, pool)

            async def work(number):
                for step in range(TRANSFERS):
                    await self.transfer(driver, pool, number + step)
                with contextlib.suppress(KeyError):
                    async with pool.lease() as connection, transaction(connection):
                        await driver.execute(connection, "UPDATE accounts SET balance = 0 WHERE number = 0")
                        raise KeyError

            await asyncio.wait_for(asyncio.gather(*map(work, range(8))), LONG)
            assert await self.total(driver, pool) == 100 * ACCOUNTS
            assert pool.stats().size <= 3
            await pool.close_async()

        driver.run(main())

    def test_a_restart_in_the_middle(self, driver, postgres):
        async def main():
            pool = driver.pool()
            await self.prepare(driver, pool)
            served, failures = [], []

            async def work(number):
                for step in range(10**9):
                    try:
                        await self.transfer(driver, pool, number + step)
                    except driver.failures as error:
                        failures.append(error)
                        await asyncio.sleep(0.005)
                    else:
                        served.append(number)

            async def until_more(what, count):
                goal = len(what) + count
                async with asyncio.timeout(LONG):
                    while len(what) < goal:  # noqa: ASYNC110 - a list has no event
                        await asyncio.sleep(0.005)

            tasks = [asyncio.create_task(work(number)) for number in range(8)]
            await until_more(served, 50)
            assert failures == []
            await asyncio.to_thread(postgres.stop)
            await until_more(failures, 8)
            await asyncio.to_thread(postgres.start)
            await until_more(served, 50)
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError), outcome
            assert await self.total(driver, pool) == 100 * ACCOUNTS
            await pool.close_async()
            stats = pool.stats()
            assert stats[:4] == (0, 0, 0, 0)
            assert stats.created == stats.closed

        driver.run(main())


class Asyncpg:
    """How asyncpg has it."""

    def __init__(self, module, server):
        self.module = module
        self.server = server
        # The last is what it says when it is told in the middle of something that the server goes.
        self.failures = (module.PostgresError, module.InterfaceError, OSError, module.InternalClientError)

    def pool(self):
        return patient(
            partial(self.module.connect, host="127.0.0.1", port=self.server.port, user="postgres", timeout=10),
            max_size=3,
            check=lambda connection: not connection.is_closed(),
            reset=lambda connection: connection.reset(),
            close=lambda connection: connection.close(timeout=5),
        )

    async def execute(self, connection, sql):
        await connection.execute(sql)

    async def value(self, connection, sql):
        return await connection.fetchval(sql)

    def run(self, coroutine):
        asyncio.run(coroutine)


class PsycopgForTasks:
    """How psycopg has it."""

    def __init__(self, module, server):
        self.module = module
        self.server = server
        self.failures = (module.OperationalError,)

    def pool(self):
        return patient(
            partial(self.module.AsyncConnection.connect, self.server.address),
            max_size=3,
            check=lambda connection: not connection.closed,
            reset=lambda connection: connection.rollback(),
            close=lambda connection: connection.close(),
        )

    async def execute(self, connection, sql):
        await connection.execute(sql)

    async def value(self, connection, sql):
        return (await (await connection.execute(sql)).fetchone())[0]

    def run(self, coroutine):
        asyncio.run(coroutine)


class TestRedis:
    @pytest.fixture
    def redis(self):
        return pytest.importorskip("redis", reason="redis-py is not installed")

    @pytest.fixture
    def pool(self, redis, redis_server):
        create = partial(
            redis.Redis,
            host="127.0.0.1",
            port=redis_server.port,
            single_connection_client=True,
            socket_timeout=10,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        )
        pool = patient(create, max_size=3, check=lambda client: client.ping(), close=lambda client: client.close())
        with contextlib.closing(pool):
            yield pool

    def test_counting(self, pool):
        with pool as client:
            client.set("count", 0)
        workers = Workers(8, lambda: self.count(pool))
        workers.until_served(200)
        workers.end()
        assert workers.failures == []
        with pool as client:
            assert int(client.get("count")) == workers.served
            assert client.info("clients")["connected_clients"] <= 3

    def count(self, pool):
        with pool.lease() as client:
            client.incr("count")

    def test_a_restart_in_the_middle(self, redis, redis_server, pool):
        failures = restart_under_load(redis_server, pool, lambda: self.count(pool))
        assert failures
        assert all(isinstance(error, redis.ConnectionError) for error in failures), failures

    def test_in_tasks(self, redis, redis_server):
        import redis.asyncio as redis_for_tasks

        async def create():
            client = redis_for_tasks.Redis(host="127.0.0.1", port=redis_server.port, single_connection_client=True)
            return await client.initialize()

        async def main():
            pool = patient(create, max_size=3, check=lambda client: client.ping(), close=lambda client: client.aclose())

            async def work():
                for _ in range(50):
                    async with pool.lease() as client:
                        await client.incr("counted in tasks")

            await asyncio.gather(*[work() for _ in range(8)])
            async with pool as client:
                assert int(await client.get("counted in tasks")) == 400
            assert pool.stats().size <= 3
            await pool.close_async()

        asyncio.run(main())

"""PostgreSQL in trouble, and callers that leave."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gecaso import Cache
from gecaso.entry import Busy, Lease
from gecaso.errors import ConfigurationError, StorageError, StorageTimeout
from gecaso.keys import as_key
from gecaso.storages import PostgresStorage
from gecaso.storages._postgres_client import connect, mapped
from tests.postgres import PostgresServer
from tests.storages.faults_kit import cancel_many, within
from tests.storages.leases_kit import KEY, took
from tests.storages.postgres_kit import asyncpg, connected, opened

# --- cancellation ---------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_two_thousand_cancellations_cost_nobody_else_anything(postgres_url: str) -> None:
    """No wrong value, no operation that fails."""
    async with opened(postgres_url, timeout=20, connect_timeout=20) as storage:
        await storage.ping()
        await cancel_many(storage, 2_000)


async def test_a_cancelled_taking_leaves_no_lease_behind(postgres_url: str) -> None:
    async with opened(postgres_url) as here, opened(postgres_url) as there:
        await here.ping()
        for ticks in range(8):
            taking = asyncio.create_task(here.lease((KEY,), 10))
            for _ in range(ticks):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait((taking,))
            started = time.monotonic()
            while not isinstance(got := (await there.lease((KEY,), 10))[KEY], Lease):
                assert time.monotonic() - started < 5
            await there.release([got])


# --- a server that hangs, goes and comes back -----------------------------------------------------


@pytest.mark.fault
async def test_a_server_that_hangs_is_a_timeout_and_comes_back(
    own_postgres: PostgresServer,
) -> None:
    async with opened(own_postgres.url, timeout=0.2, connect_timeout=0.3) as storage:
        await within(5, storage.ping)
        await within(5, lambda: storage.set("a", 1))
        own_postgres.pause()
        for _ in range(3):
            started = time.monotonic()
            outcomes = await asyncio.gather(
                storage.get("a"),
                storage.lease([KEY], 1),
                storage.discard([KEY]),
                storage.get_many(["a", "b"]),
                return_exceptions=True,
            )
            assert all(isinstance(outcome, StorageTimeout) for outcome in outcomes), outcomes
            assert time.monotonic() - started < 1.0
        own_postgres.resume()
        await within(5, storage.ping)
        await within(5, lambda: storage.set("b", 2))
        assert await storage.get("b") == 2
        await took(storage, as_key("c"))


@pytest.mark.fault
async def test_leases_that_were_taken_while_the_server_hung_are_taken_over(
    own_postgres: PostgresServer,
) -> None:
    async with opened(own_postgres.url, timeout=0.2, connect_timeout=5) as storage:
        await within(5, storage.ping)
        await within(5, lambda: storage.set("a", 1))
        await storage.release([await took(storage)])  # the statement is prepared
        own_postgres.pause()
        with pytest.raises(StorageTimeout):
            await storage.lease([KEY], 30)
        own_postgres.resume()

        async def take() -> None:
            if not isinstance((await storage.lease([KEY], 30))[KEY], Lease):
                raise StorageError("nobody has it, and it is not free")

        await within(5, take)


@pytest.mark.fault
async def test_a_killed_server_is_an_error_at_once_comes_back_and_has_no_leases(
    own_postgres: PostgresServer,
) -> None:
    """An unlogged table is empty after a crash: what was leased before it cannot be committed."""
    async with opened(own_postgres.url, timeout=5, connect_timeout=5) as storage:
        await storage.set("b", 1)
        lease = await took(storage)
        own_postgres.kill()
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(StorageError):
                await storage.get("b")
        assert time.monotonic() - started < 1.0
        own_postgres.start()
        await within(5, storage.ping)
        assert await storage.commit({lease: storage.new_entry("late", 60)}) == set()
        assert await storage.renew([lease], 10) == set()
        assert await storage.get_many(["a", "b"]) == {}
        await took(storage)


async def test_an_idle_connection_that_the_server_ended_costs_no_lookup(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with opened(postgres_url) as storage:
        await storage.set("a", 1)
        for _ in range(3):
            assert await storage.get("a") == 1
            postgres_server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE '%gecaso%' AND pid <> pg_backend_pid()"
            )


@pytest.mark.fault
async def test_nothing_of_it_reaches_the_callers_of_a_function(
    own_postgres: PostgresServer,
) -> None:
    async with opened(own_postgres.url, timeout=0.25, connect_timeout=0.5) as storage:
        cache = Cache(storage)

        @cache.cached(ttl=60)
        async def f(i: int) -> int:
            return i

        await within(5, storage.ping)
        for trouble in (own_postgres.kill, own_postgres.pause):
            assert await asyncio.gather(*map(f, range(100))) == list(range(100))
            trouble()
            for _ in range(5):
                started = time.monotonic()
                assert await asyncio.gather(*map(f, range(100))) == list(range(100))
                assert time.monotonic() - started < 2
            if trouble == own_postgres.kill:
                own_postgres.start()
            else:
                own_postgres.resume()
            await within(5, storage.ping)


async def test_nobody_there_is_a_storage_error_at_once() -> None:
    async with PostgresStorage("postgresql://localhost:1/app", connect_timeout=5) as storage:
        for _ in range(10):
            outcomes = await asyncio.gather(
                storage.get("a"), storage.set("a", 1), storage.ping(), return_exceptions=True
            )
            assert all("see whether it runs there" in str(outcome) for outcome in outcomes)


@pytest.mark.fault
async def test_a_wrong_password_says_so(own_postgres: PostgresServer) -> None:
    own_postgres.execute("CREATE USER ada PASSWORD 'right'")
    rules = own_postgres.data / "base" / "pg_hba.conf"
    rules.write_text("host all ada all scram-sha-256\n" + rules.read_text())
    own_postgres.execute("SELECT pg_reload_conf()")
    url = own_postgres.url.replace("gecaso@", "ada:wrong@")

    async def refused() -> None:
        async with opened(url) as storage:
            with pytest.raises(StorageError, match="user, password and database") as caught:
                await storage.ping()
            assert "wrong" not in str(caught.value)
            assert "wrong" not in repr(storage)

    await refused()


@pytest.mark.fault
async def test_a_server_without_a_connection_left_is_an_error_and_one_with_few_will_do(
    own_postgres: PostgresServer,
) -> None:
    own_postgres.args = ("-c", "max_connections=4", "-c", "superuser_reserved_connections=0")
    own_postgres.restart()
    held = [await asyncpg.connect(own_postgres.url) for _ in range(3)]
    async with opened(own_postgres.url) as storage, opened(own_postgres.url) as other:
        await asyncio.gather(*[storage.set(n, n) for n in range(20)])
        assert await storage.get(7) == 7
        with pytest.raises(StorageError, match="no connection left"):
            await other.ping()
        got = (await storage.lease([KEY], 0.2))[KEY]
        busy = (await storage.lease([KEY], 0.2))[KEY]
        assert isinstance(got, Lease)
        assert isinstance(busy, Busy)
        await storage.wait(busy, 5)  # nobody can tell, and it looks
        for connection in held:
            await connection.close()
        await within(5, other.ping)


@pytest.mark.fault
async def test_a_statement_timeout_is_longer_than_the_wait_for_a_lock(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    postgres_server.execute("CREATE USER hasty; GRANT ALL ON SCHEMA public TO hasty")
    postgres_server.execute("ALTER USER hasty SET statement_timeout = '60ms'")
    try:
        async with (
            opened(postgres_url.replace("gecaso@", "hasty@")) as storage,
            connected(postgres_url) as writer,
        ):
            await within(10, storage.ping)
            async with writer.transaction():
                await storage.on(writer).remove("a")
                started = time.monotonic()
                got = (await storage.lease([KEY], 10))[KEY]
                assert not isinstance(got, Lease)
                assert time.monotonic() - started < 1.0
    finally:
        postgres_server.execute("DROP OWNED BY hasty; DROP USER hasty")


async def test_a_pool_that_belongs_to_another_loop_is_refused(postgres_url: str) -> None:
    async with asyncpg.create_pool(postgres_url, min_size=1) as pool:
        storage = PostgresStorage(pool)
        await storage.ping()

        async def elsewhere() -> None:
            with pytest.raises(ConfigurationError, match="another event loop"):
                await storage.get("a")

        await asyncio.to_thread(asyncio.run, elsewhere())
        await storage.aclose()


async def test_what_asyncpg_says_of_a_connection_ended_under_it_is_a_storage_error(
    postgres_url: str,
) -> None:
    connection: Any = await connect(postgres_url, 5)
    statement: Any = await connection.prepare("SELECT 1")
    connection.terminate()
    connection._stmts_to_close.add(statement._state)  # as while it is closing the one before
    with pytest.raises(StorageError, match="was ended meanwhile"), mapped("here"):
        await connection._cleanup_stmts()
    with pytest.raises(AttributeError, match="ours"), mapped("here"):
        raise AttributeError("ours")

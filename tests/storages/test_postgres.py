"""A storage in PostgreSQL: its options, its table, and what it does with its connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gecaso import Cache, ConfigurationError, MemoryStorage, StorageError
from gecaso.entry import Busy, Entry, Lease
from gecaso.keys import as_key
from gecaso.storages import PostgresStorage
from gecaso.storages import _postgres_link as link_module
from gecaso.storages import _postgres_rows as rows_module
from tests.postgres import PostgresServer
from tests.storages.leases_kit import KEY, took
from tests.storages.postgres_kit import asyncpg, connected, opened


@pytest.fixture
async def storage(postgres_url: str) -> AsyncIterator[PostgresStorage]:
    async with opened(postgres_url) as storage:
        yield storage


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("redis://localhost", "starts with redis://"),
        ("localhost:5432", "no scheme"),
        ("postgresql://localhost:x/app", "no port"),
        (7, "not int"),
        (MemoryStorage(), "asyncpg.Pool"),
    ],
)
def test_what_is_no_place_is_refused(place: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PostgresStorage(place)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"connect_timeout": -1}, {"pool_size": 0}, {"namespace": "n" * 600}],
)
def test_options_that_cannot_work_are_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        PostgresStorage("postgresql://localhost/app", **options)


@pytest.mark.parametrize(
    "table",
    [
        "",
        "a b",
        "a;drop table x",
        'a"b',
        "a'b",
        "a.b.c",
        ".a",
        "a.",
        "1a",
        "a-b",
        "a\0b",
        "x" * 64,
        "ä" * 32,
        7,
        None,
    ],
)
def test_a_table_that_is_no_name_is_refused(table: Any) -> None:
    with pytest.raises(ConfigurationError, match="table="):
        PostgresStorage("postgresql://localhost/app", table)


@pytest.mark.parametrize("table", ["Select", "user", "größe", "_x$1", "x" * 63])
async def test_a_table_may_have_any_name(
    postgres_url: str, postgres_server: PostgresServer, table: str
) -> None:
    async with opened(postgres_url, table=table) as storage:
        await storage.set("a", 1)
        assert await storage.get("a") == 1
    assert postgres_server.execute(f'SELECT count(*) FROM "{table}"') == [["1"]]


def test_a_url_keeps_its_password_to_itself() -> None:
    storage = PostgresStorage("postgresql://ada:secret@host:5/app")
    assert "secret" not in repr(storage)
    assert "host:5/app" in repr(storage)


# --- the table ------------------------------------------------------------------------------------


async def test_many_that_come_at_once_make_one_table(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with asyncio.timeout(60):
        storages = [opened(postgres_url, connect_timeout=30) for _ in range(12)]
        await asyncio.gather(*[storage.set(n, n) for n, storage in enumerate(storages)])
        assert await storages[0].get_many(range(12)) == {n: n for n in range(12)}
        for storage in storages:
            await storage.aclose()
    tables = postgres_server.execute(
        "SELECT relkind, relpersistence, count(*) FROM pg_class "
        "WHERE relname LIKE 'gecaso%' GROUP BY 1, 2 ORDER BY 1"
    )
    assert tables == [["i", "u", "2"], ["r", "u", "1"]]


async def test_a_table_in_a_schema(postgres_url: str, postgres_server: PostgresServer) -> None:
    postgres_server.execute("DROP SCHEMA IF EXISTS cache CASCADE; CREATE SCHEMA cache")
    async with opened(postgres_url, table="cache.entries") as storage:
        await storage.set("a", 1)
    assert postgres_server.execute("SELECT key FROM cache.entries") == [[":a"]]
    async with opened(postgres_url, table="nowhere.entries") as storage:
        with pytest.raises(StorageError, match="schema"):
            await storage.set("a", 1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("CREATE TABLE gecaso (id int)", "key is missing"),
        ("CREATE TABLE gecaso (key text, value text)", "value is text default and should be bytea"),
        ("CREATE VIEW gecaso AS SELECT 1 AS key", "key is integer"),
        ("CREATE TYPE gecaso AS ENUM ('a')", "something else has that name"),
    ],
)
async def test_a_table_of_another_shape_is_refused_and_left_alone(
    storage: PostgresStorage, postgres_server: PostgresServer, table: str, message: str
) -> None:
    postgres_server.execute(table)
    with pytest.raises(StorageError, match=message):
        await storage.set("a", 1)
    with pytest.raises(StorageError, match="another table="):
        await storage.get("a")


async def test_a_table_needs_its_key_and_may_have_columns_of_others(
    storage: PostgresStorage, postgres_server: PostgresServer
) -> None:
    postgres_server.execute(storage.ddl)
    postgres_server.execute("ALTER TABLE gecaso ADD note text, DROP CONSTRAINT gecaso_pkey")
    with pytest.raises(StorageError, match="no primary key"):
        await storage.ping()
    postgres_server.execute("ALTER TABLE gecaso ADD PRIMARY KEY (key)")
    await storage.set("a", 1)
    postgres_server.execute("ALTER TABLE gecaso ADD must int NOT NULL DEFAULT 0")
    async with opened(postgres_server.url) as other:
        assert await other.get("a") == 1
    postgres_server.execute("ALTER TABLE gecaso ALTER must DROP DEFAULT")
    async with opened(postgres_server.url) as other:
        with pytest.raises(StorageError, match="must is not known"):
            await other.get("a")


async def test_a_user_who_may_not_make_tables_uses_one_that_is_there(
    storage: PostgresStorage, postgres_url: str, postgres_server: PostgresServer
) -> None:
    postgres_server.execute("CREATE USER guest; GRANT USAGE ON SCHEMA public TO guest")
    try:
        async with opened(postgres_url.replace("gecaso@", "guest@")) as guests:
            with pytest.raises(StorageError, match="CREATE on its schema"):
                await guests.set("a", 1)
            await storage.ping()
            postgres_server.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON gecaso TO guest")
            await guests.set("a", 1)
            assert await guests.get("a") == 1
            assert await guests.purge() == 0
    finally:
        postgres_server.execute("DROP OWNED BY guest; DROP USER guest")


async def test_a_table_that_was_dropped_is_made_again(
    storage: PostgresStorage, postgres_server: PostgresServer
) -> None:
    await storage.set("a", 1)
    lease = await took(storage, as_key("b"))
    postgres_server.execute("DROP TABLE gecaso")
    assert await storage.get_many(["a", "b"]) == {}
    assert await storage.commit({lease: storage.new_entry(1)}) == set()
    postgres_server.execute("DROP TABLE gecaso")
    await storage.set("a", 2)
    assert await storage.get("a") == 2


# --- namespaces and names -------------------------------------------------------------------------


async def test_namespaces_are_apart_and_cleared_apart(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    names = ["", "a", "a:b", "b%", "ä"]
    storages = [opened(postgres_url, namespace=name) for name in names]
    for number, storage in enumerate(storages):
        await storage.set_many({"k": number, "b:k": number})
    for cleared, storage in enumerate(storages):
        await storage.clear()
        for number, other in enumerate(storages):
            wanted = {} if number <= cleared else {"k": number, "b:k": number}
            assert await other.get_many(["k", "b:k"]) == wanted
        await storage.aclose()


async def test_programs_that_seed_random_alike_clear_all_the_same(storage: PostgresStorage) -> None:
    for _ in range(2):
        random.seed(7)
        await storage.set("a", 1)
        await storage.clear()
        assert await storage.get_many("a") == {}


async def test_what_was_cleared_is_deleted(
    storage: PostgresStorage, postgres_server: PostgresServer
) -> None:
    await storage.set_many(dict.fromkeys(range(1500), 1))
    await storage.clear()
    async with asyncio.timeout(10):
        while postgres_server.execute("SELECT count(*) FROM gecaso") != [["1"]]:  # noqa: ASYNC110 - it is done in the background
            await asyncio.sleep(0.02)
    await storage.set("a", 1)
    assert await storage.get("a") == 1


async def test_another_process_deletes_what_was_cleared_in_a_transaction(
    storage: PostgresStorage, postgres_url: str, postgres_server: PostgresServer
) -> None:
    await storage.set_many(dict.fromkeys(range(10), 1))
    async with connected(postgres_url) as connection, connection.transaction():
        await storage.on(connection).clear()
    assert await storage.get_many(range(10)) == {}
    assert await storage.purge() == 10


# --- what is dead ---------------------------------------------------------------------------------


async def test_what_is_dead_is_deleted_and_what_is_leased_or_locked_stays(
    storage: PostgresStorage, postgres_url: str, postgres_server: PostgresServer
) -> None:
    await storage.set_many(dict.fromkeys(range(1200), 1), ttl=0.001)
    await storage.set_many({"kept": 1, "leased": 1, "locked": 1})
    await storage.lease([as_key("alone"), as_key("leased"), as_key(5)], 60)
    await storage.remove("removed")
    async with connected(postgres_url) as connection, connection.transaction():
        await storage.on(connection).remove(7)
        assert await storage.purge() == 1200 - 2
    assert await storage.purge() == 0
    rows = postgres_server.execute("SELECT count(*) FROM gecaso")
    assert rows == [["7"]]  # kept, leased, locked, alone, 5, 7, and the tombstone of removed
    postgres_server.execute("UPDATE gecaso SET dead_after = dead_after - 61 WHERE value IS NULL")
    assert await storage.purge() == 2
    assert await storage.get_many(["kept", "leased", "locked"]) == {
        "kept": 1,
        "leased": 1,
        "locked": 1,
    }


async def test_dead_rows_are_deleted_while_the_storage_is_used(
    storage: PostgresStorage, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.set_many(dict.fromkeys(range(100), 1), ttl=0.001)
    server = storage._core.server  # pyright: ignore[reportPrivateUsage] - to let time pass
    server.purge_at = server.measure_at = 0.0
    async with asyncio.timeout(10):
        while postgres_server.execute("SELECT count(*) FROM gecaso") != [["0"]]:
            await storage.get_many(["a"])
            await storage.lookup(KEY)
            await asyncio.sleep(0.01)  # it is done in the background


# --- the clock ------------------------------------------------------------------------------------


async def test_the_time_is_the_servers(
    storage: PostgresStorage, postgres_server: PostgresServer
) -> None:
    server = storage._core.server  # pyright: ignore[reportPrivateUsage] - a machine hours off
    server.offset += 7200
    await storage.set("a", 1, ttl=60)
    ((now,),) = postgres_server.execute("SELECT extract(epoch FROM clock_timestamp())")
    assert now is not None
    assert abs(storage.now() - float(now)) < 2
    async with opened(postgres_server.url) as other:
        entry = await other.lookup(KEY)
        assert isinstance(entry, Entry)
        assert 50 < entry.fresh_until - float(now) < 70


# --- round trips, connections ---------------------------------------------------------------------


async def test_lookups_of_one_tick_share_one_statement(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with opened(postgres_url) as storage:
        await storage.set_many({n: n for n in range(400)})
        statements: list[str] = []
        fetch = asyncpg.prepared_stmt.PreparedStatement.fetch

        async def counted(self: Any, *args: Any, **options: Any) -> Any:
            statements.append(self.get_query())
            return await fetch(self, *args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncpg.prepared_stmt.PreparedStatement, "fetch", counted)
            assert await asyncio.gather(*map(storage.get, range(400))) == list(range(400))
            assert len(statements) == 1
            assert len(await storage.get_many(range(1000))) == 400
            assert len(statements) == 3
            await asyncio.gather(*[storage.lease([as_key(n)], 10) for n in range(500, 700)])
            assert len(statements) == 4


async def test_many_keys_go_in_chunks(storage: PostgresStorage) -> None:
    await storage.set_many({n: n for n in range(3000)})
    assert await storage.get_many(range(3000)) == {n: n for n in range(3000)}
    keys = [as_key(n) for n in range(3000)]
    leases: list[Lease] = []
    async with asyncio.timeout(10):
        while left := set(keys).difference(lease.key for lease in leases):
            # A table that grows is locked for a moment, and a busy machine makes that long.
            got = await storage.lease(left, 30)
            leases += [each for each in got.values() if isinstance(each, Lease)]
    assert await storage.renew(leases, 20) == set(keys)
    assert await storage.commit({one: storage.new_entry(1) for one in leases}) == set(keys)
    await storage.remove(*range(3000))
    assert await storage.get_many(range(3000)) == {}


async def test_a_lease_that_waits_for_a_lock_holds_up_no_lookup(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "BRIEFLY", "10s")
    async with (
        opened(postgres_url, timeout=20) as storage,
        connected(postgres_url) as connection,
        connection.transaction(),
    ):
        server = storage._core.server  # pyright: ignore[reportPrivateUsage] - to wait for ever
        server._patience = 10.0  # pyright: ignore[reportPrivateUsage] - likewise
        await storage.set("b", 1)
        await storage.on(connection).remove(*range(20))
        leasing: list[asyncio.Task[object]] = []
        for number in range(20):
            leasing.append(asyncio.create_task(storage.lease([as_key(number)], 5)))
            await asyncio.sleep(0)  # each is a statement of its own
        for _ in range(5):
            await asyncio.sleep(0.01)
            assert await storage.get("b") == 1
        assert not any(task.done() for task in leasing)
        for task in leasing:
            task.cancel()
        await asyncio.wait(leasing)


async def test_a_locked_key_among_many_is_busy_and_the_others_are_not(
    storage: PostgresStorage, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "GIVE_UP", 5.0)
    keys = [as_key(n) for n in range(10)]
    before = await storage.lease(keys[5:], 10)
    leases = {key: got for key, got in before.items() if isinstance(got, Lease)}
    async with connected(postgres_url) as connection, connection.transaction():
        await storage.on(connection).remove(3, 7)
        got = await storage.lease(keys[:5], 10)
        assert [key for key, each in got.items() if isinstance(each, Busy)] == [keys[3]]
        assert await storage.renew(leases.values(), 10) == set(leases)
        entries = {lease: storage.new_entry(1) for lease in leases.values()}
        assert await storage.commit(entries) == set(leases) - {keys[7]}
        await storage.release(each for each in got.values() if isinstance(each, Lease))


async def test_it_has_few_connections(storage: PostgresStorage) -> None:
    await asyncio.gather(*[storage.set(n, n) for n in range(200)])
    await asyncio.gather(*[storage.lease([as_key(n)], 10) for n in range(200)])
    await asyncio.gather(*[storage.get(n) for n in range(200)])
    assert int(repr(storage).split()[-2]) <= 4


@pytest.mark.parametrize("size", [1, 3])
async def test_a_pool_of_the_users_is_used_as_it_is(postgres_url: str, size: int) -> None:
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=size) as pool:
        async with opened(pool) as storage:
            cache = Cache(storage)

            @cache.cached(ttl=60)
            async def f(i: int) -> int:
                return i

            for _ in range(2):
                assert await asyncio.gather(*map(f, range(50))) == list(range(50))
            assert f.stats.loads == 50
            lease = await took(storage)
            busy = (await storage.lease([KEY], 10))[KEY]
            assert isinstance(busy, Busy)
            waiting = asyncio.create_task(storage.wait(busy, 30))
            await asyncio.sleep(0.05)
            await storage.release([lease])
            await asyncio.wait_for(waiting, 1)
        assert await pool.fetchval("SELECT 1") == 1
        assert pool.get_idle_size() == pool.get_size()


async def test_a_pool_that_is_not_ready_says_so(postgres_url: str) -> None:
    pool = asyncpg.create_pool(postgres_url)
    async with opened(pool) as storage:
        with pytest.raises(StorageError, match="pool is not initialized"):
            await storage.ping()


# --- values ---------------------------------------------------------------------------------------


async def test_a_signed_value_is_read_under_its_own_key_only(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    secret = "at least sixteen bytes of it"
    async with opened(postgres_url, secret=secret) as storage:
        await storage.set_many({"a": 1, "b": 2})
        postgres_server.execute(
            "UPDATE gecaso SET value = (SELECT value FROM gecaso WHERE key = ':a') WHERE key = ':b'"
        )
        assert await storage.get_many(["a", "b"]) == {"a": 1}
        assert storage.corrupt == 1

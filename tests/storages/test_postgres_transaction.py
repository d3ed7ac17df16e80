"""Invalidation inside the user's own transaction: each order of writer and loader, forced."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from gecaso import Cache, ConfigurationError, Unsupported
from gecaso.entry import Lease
from gecaso.keys import as_key
from gecaso.storages import PostgresStorage
from tests.storages.leases_kit import KEY, refused, soon, took
from tests.storages.postgres_kit import asyncpg, connected, opened, rolled_back

LEVELS = ["read_committed", "repeatable_read", "serializable"]


class Scene(NamedTuple):
    """A table of the user's, the cache over it, the writer's connection, and a loader elsewhere."""

    here: PostgresStorage
    there: PostgresStorage
    writer: Any
    reader: Any

    async def read(self) -> int:
        """Read the truth as a load does."""
        value: int = await self.reader.fetchval("SELECT v FROM truth")
        return value

    async def write(self) -> None:
        """Change the truth in the writer's transaction."""
        await self.writer.execute("UPDATE truth SET v = v + 1")

    async def store(self, lease: Lease, value: object) -> bool:
        """Store what a load has read; return whether it was."""
        return bool(await self.there.commit({lease: self.there.new_entry(value, 60)}))

    async def stored(self) -> object:
        entry = await self.there.lookup(KEY)
        return None if entry is None else entry.value


@pytest.fixture
async def scene(postgres_url: str) -> AsyncIterator[Scene]:
    async with (
        opened(postgres_url) as here,
        opened(postgres_url) as there,
        connected(postgres_url) as writer,
        connected(postgres_url) as reader,
    ):
        await writer.execute("CREATE TABLE truth (v int); INSERT INTO truth VALUES (1)")
        await here.ping()
        await there.ping()
        yield Scene(here, there, writer, reader)


@pytest.fixture(params=["a row", "no row"])
async def row(request: pytest.FixtureRequest, scene: Scene) -> None:
    """Whether the key has a row in the table before: without one there is nothing to lock."""
    if request.param == "a row":
        await scene.there.set("a", "dead", ttl=0.001)


class Rollback(Exception):
    pass


# --- the four orders ------------------------------------------------------------------------------


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("invalidated_first", [True, False])
async def test_a_load_that_begins_within_the_transaction_waits_for_its_commit(
    scene: Scene, level: str, invalidated_first: bool
) -> None:
    async with scene.writer.transaction(isolation=level):
        inside = scene.here.on(scene.writer)
        if invalidated_first:
            await inside.remove("a")
            await scene.write()
        else:
            await scene.write()
            await inside.remove("a")
        started = time.monotonic()
        busy = await refused(scene.there)
        assert 0.09 < time.monotonic() - started < 5
        waiting = asyncio.create_task(soon(scene.there))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert busy.stale is None or busy.stale.value == "dead"
    lease = await waiting
    assert await scene.read() == 2
    assert await scene.store(lease, await scene.read())
    assert await scene.stored() == 2


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("level", LEVELS)
async def test_a_load_that_begins_within_a_transaction_that_is_rolled_back(
    scene: Scene, level: str
) -> None:
    async with rolled_back(scene.writer, isolation=level):
        await scene.write()
        await scene.here.on(scene.writer).remove("a")
        await refused(scene.there)
    lease = await soon(scene.there)
    assert await scene.store(lease, await scene.read())
    assert await scene.stored() == 1


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("ends", ["within it", "after it"])
async def test_a_load_from_before_the_transaction_is_not_stored(
    scene: Scene, level: str, ends: str
) -> None:
    lease = await took(scene.there)
    old = await scene.read()
    async with scene.writer.transaction(isolation=level):
        await scene.write()
        await scene.here.on(scene.writer).remove("a")
        if ends == "within it":
            started = time.monotonic()
            assert not await scene.store(lease, old)
            assert 0.09 < time.monotonic() - started < 5
            assert await scene.stored() is None
    if ends == "within it":
        assert await scene.stored() is None
    assert not await scene.store(lease, old)
    assert await scene.stored() is None
    assert await scene.store(await soon(scene.there), await scene.read())
    assert await scene.stored() == 2


@pytest.mark.usefixtures("row")
async def test_a_load_from_before_a_transaction_that_is_rolled_back_after_it_ended(
    scene: Scene,
) -> None:
    lease = await took(scene.there)
    async with rolled_back(scene.writer):
        await scene.here.on(scene.writer).remove("a")
        assert not await scene.store(lease, await scene.read())
    # Its lease is there again after the rollback, and nobody has it: it must not be waited for.
    started = time.monotonic()
    await soon(scene.there)
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("row")
async def test_a_load_that_outlasts_a_transaction_that_is_rolled_back_is_stored(
    scene: Scene,
) -> None:
    lease = await took(scene.there)
    async with rolled_back(scene.writer):
        await scene.here.on(scene.writer).remove("a")
        assert await scene.there.renew([lease], 20) == {KEY}
    assert await scene.there.renew([lease], 20) == {KEY}
    assert await scene.store(lease, await scene.read())


async def test_a_load_that_is_stored_before_the_removal_goes_with_the_commit(scene: Scene) -> None:
    async with scene.writer.transaction():
        await scene.write()
        lease = await took(scene.there)
        assert await scene.store(lease, await scene.read())
        await scene.here.on(scene.writer).remove("a")
        assert await scene.stored() == 1  # which is the truth until the commit
    assert await scene.stored() is None


@pytest.mark.parametrize("level", LEVELS[1:])
async def test_a_row_that_has_changed_since_the_snapshot_makes_the_transaction_start_over(
    scene: Scene, level: str
) -> None:
    async def write() -> None:
        async with scene.writer.transaction(isolation=level):
            await scene.write()
            if first:
                await scene.there.set("a", 1)
            await scene.here.on(scene.writer).remove("a")

    first = True
    with pytest.raises(asyncpg.SerializationError):
        await write()
    assert (await scene.stored(), await scene.read()) == (1, 1)
    first = False
    await write()
    assert (await scene.stored(), await scene.read()) == (None, 2)


# --- all that goes with the transaction -----------------------------------------------------------


async def test_a_rollback_invalidates_nothing(scene: Scene) -> None:
    await scene.here.set("a", 1)
    await scene.here.set("b", 2)
    async with rolled_back(scene.writer):
        inside = scene.here.on(scene.writer)
        await inside.remove("a")
        await inside.set("b", 3)
        await inside.discard([as_key("b")], keep_stale=True)
        await inside.clear()
    assert await scene.there.get_many(["a", "b"]) == {"a": 1, "b": 2}


async def test_a_savepoint_takes_back_what_was_removed_since(scene: Scene) -> None:
    await scene.here.set_many({"a": 1, "b": 2})
    async with scene.writer.transaction():
        inside = scene.here.on(scene.writer)
        await inside.remove("a")
        async with rolled_back(scene.writer):
            await inside.remove("b")
        await took(scene.there, as_key("b"))  # the lock went with the savepoint
        await refused(scene.there)
    assert await scene.there.get_many(["a", "b"]) == {"b": 2}


async def test_a_transaction_sees_its_own_changes_and_others_do_not(scene: Scene) -> None:
    await scene.here.set_many({"a": 1, "b": 2})
    async with scene.writer.transaction():
        inside = scene.here.on(scene.writer)
        await inside.remove("a")
        await inside.set("b", 3, ttl=60)
        assert await inside.get_many(["a", "b"]) == {"b": 3}
        assert await scene.there.get_many(["a", "b"]) == {"a": 1, "b": 2}
    assert await scene.there.get_many(["a", "b"]) == {"b": 3}


async def test_a_put_inside_a_transaction_compares_versions(scene: Scene) -> None:
    first = scene.here.new_entry(1)
    await scene.here.store({KEY: first})
    async with scene.writer.transaction():
        inside = scene.here.on(scene.writer)
        assert await inside.store({KEY: inside.new_entry(2)}, expect={KEY: None}) == set()
        assert await inside.store({KEY: inside.new_entry(2)}, expect={KEY: first.version}) == {KEY}
    assert await scene.there.get("a") == 2


@pytest.mark.parametrize("level", LEVELS)
async def test_a_load_during_a_transaction_that_clears_is_not_there_after_it(
    scene: Scene, level: str
) -> None:
    before = await took(scene.there, as_key("before"))
    await scene.there.set("stored", 1)
    async with scene.writer.transaction(isolation=level):
        await scene.write()
        await scene.here.on(scene.writer).clear()
        lease = await took(scene.there)
        old = await scene.read()
        assert await scene.store(lease, old)
        assert await scene.stored() == 1
        late = await took(scene.there, as_key("late"))
    assert await scene.stored() is None
    assert await scene.there.commit({late: scene.there.new_entry(1)}) == set()
    assert await scene.there.commit({before: scene.there.new_entry(1)}) == set()
    assert await scene.there.get_many(["a", "late", "before", "stored"]) == {}
    assert await scene.store(await took(scene.there), 2)
    assert await scene.stored() == 2


# --- and the functions above ----------------------------------------------------------------------


async def test_callers_that_join_before_and_after_the_commit_get_what_was_true(
    scene: Scene,
) -> None:
    cache = Cache(scene.there)
    gate, reading = asyncio.Event(), asyncio.Event()

    @cache.cached(ttl=60, key="a")
    async def f() -> int:
        value = await scene.read()
        reading.set()
        await gate.wait()
        return value

    early = asyncio.create_task(f())
    await reading.wait()
    async with scene.writer.transaction():
        await scene.write()
        await scene.here.on(scene.writer).remove(f.key())
    late = asyncio.create_task(f())
    await asyncio.sleep(0)
    gate.set()
    assert (await early, await late) == (1, 2)
    assert await f() == 2


async def test_a_function_called_inside_the_transaction_does_not_wait_for_it(
    scene: Scene,
) -> None:
    cache = Cache(scene.here)

    @cache.cached(ttl=60, key="a")
    async def f() -> int:
        value: int = await scene.writer.fetchval("SELECT v FROM truth")
        return value

    async with scene.writer.transaction():
        await scene.write()
        await scene.here.on(scene.writer).remove(f.key())
        async with asyncio.timeout(10):
            assert await f() == 2
        assert await scene.stored() is None
    assert await f() == 2


async def test_locks_of_transactions_are_no_trouble_of_the_storage(scene: Scene) -> None:
    cache = Cache(scene.there, on_storage_error="raise")

    @cache.cached(ttl=60, key="{i}")
    async def f(i: int) -> int:
        return i

    async with scene.writer.transaction():
        await scene.here.on(scene.writer).remove(*map(f.key, range(50)))
        waiting = [asyncio.create_task(f(i)) for i in range(100)]
        await asyncio.sleep(0.5)
        assert await f(1000) == 1000
    assert await asyncio.gather(*waiting) == list(range(100))
    assert f.stats.storage_errors == 0


async def test_nothing_stale_is_stored_whatever_happens_when(
    scene: Scene, postgres_url: str
) -> None:
    """Writers commit and roll back at random, at every level; whoever reads after a commit reads
    that, or later."""
    pool = await asyncpg.create_pool(postgres_url, min_size=1, max_size=6)
    await scene.writer.execute("CREATE TABLE many (k int PRIMARY KEY, v int)")
    await scene.writer.execute("INSERT INTO many SELECT k, 0 FROM generate_series(0, 2) k")
    committed = [0, 0, 0]
    cache = {storage: Cache(storage) for storage in (scene.here, scene.there)}
    end = time.monotonic() + 1.5
    reads = 0

    def function(storage: PostgresStorage) -> Any:
        @cache[storage].cached(ttl=60, key="many:{k}")
        async def f(k: int) -> int:
            value: int = await pool.fetchval("SELECT v FROM many WHERE k = $1", k)
            await asyncio.sleep(random.choice((0, 0, 0.01, 0.1)))
            return value

        return f

    functions = [function(scene.here), function(scene.there)]

    async def write(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            k = rng.randrange(3)
            try:
                level = rng.choice(LEVELS)
                async with pool.acquire() as connection, connection.transaction(isolation=level):
                    value = await connection.fetchval(
                        "UPDATE many SET v = v + 1 WHERE k = $1 RETURNING v", k
                    )
                    await scene.here.on(connection).remove(functions[0].key(k))
                    await asyncio.sleep(rng.choice((0, 0.01, 0.05)))
                    if rng.random() < 0.3:
                        raise Rollback
            except (Rollback, asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                continue
            committed[k] = max(committed[k], value)

    async def read(seed: int) -> None:
        nonlocal reads
        rng = random.Random(seed)
        while time.monotonic() < end:
            k = rng.randrange(3)
            least = committed[k]
            assert await rng.choice(functions)(k) >= least
            reads += 1

    await asyncio.gather(*map(write, range(2)), *map(read, range(10)))
    await pool.close()
    assert sum(committed) > 5
    assert reads > 20


# --- what is refused ------------------------------------------------------------------------------


async def test_on_is_for_a_connection_in_a_transaction(scene: Scene, postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match="no transaction"):
        scene.here.on(scene.writer)
    async with scene.writer.transaction():
        inside = scene.here.on(scene.writer)
    with pytest.raises(ConfigurationError, match="no transaction"):
        await inside.remove("a")
    async with asyncpg.create_pool(postgres_url, min_size=1) as pool:
        async with pool.acquire() as connection, connection.transaction():
            inside = scene.here.on(connection)
            await inside.remove("a")
        with pytest.raises(ConfigurationError, match="back in its pool"):
            await inside.remove("a")


async def test_a_closed_connection_is_refused(scene: Scene, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.close()
    with pytest.raises(ConfigurationError, match="closed"):
        scene.here.on(connection)


async def test_a_connection_of_another_loop_is_refused(scene: Scene) -> None:
    async def elsewhere() -> None:
        with pytest.raises(ConfigurationError, match="another event loop"):
            scene.here.on(scene.writer)

    async with scene.writer.transaction():
        await asyncio.to_thread(asyncio.run, elsewhere())


async def test_what_is_no_connection_of_asyncpg_is_refused(scene: Scene) -> None:
    nothing: Any = object()
    with pytest.raises(ConfigurationError, match="driver_connection"):
        scene.here.on(nothing)


async def test_loads_do_not_go_through_a_transaction(scene: Scene) -> None:
    async with scene.writer.transaction():
        inside = scene.here.on(scene.writer)
        with pytest.raises(Unsupported, match="the storage itself"):
            await inside.lease([KEY], 10)


async def test_the_table_is_the_storages_whatever_the_connection_looks_at(
    scene: Scene,
) -> None:
    await scene.here.set("a", 1)
    await scene.writer.execute("CREATE SCHEMA other; CREATE TABLE other.gecaso (k int)")
    await scene.writer.execute("SET search_path TO other")
    async with scene.writer.transaction():
        await scene.here.on(scene.writer).remove("a")
    assert await scene.there.get_many(["a"]) == {}
    await scene.writer.execute("DROP SCHEMA other CASCADE")

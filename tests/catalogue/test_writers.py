"""The catalogue: what a writer does, or does not, and where the next reader is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from gecaso import Cache, MemoryStorage
from gecaso.storages import PostgresStorage
from gecaso.testing import FakeClock
from tests.catalogue.naive import Near, naive
from tests.catalogue.seeking import MODELS, SOUGHT, World, found, pause, reader, sought
from tests.catalogue.stage import NEW, OLD, SHARED, Stage, Venue
from tests.scenes import Process, Truth, patience
from tests.storages.postgres_kit import connected, opened


async def is_the_latest(world: World) -> None:
    """What is left is true, in both processes."""
    for process in (world.a, world.b):
        value = await world.read(process)
        assert value is not None
        assert value.startswith(f"version {world.version},"), value


# --- invalidate before the writer's commit --------------------------------------------------------


class Tables(NamedTuple):
    """A table of the user's, a cached function that reads it, and a writer's connection."""

    storage: PostgresStorage
    thing: Any
    writer: Any
    reader: Any

    async def write(self) -> None:
        await self.writer.execute("UPDATE truth SET version = version + 1")


@pytest.fixture
async def tables(postgres_url: str) -> AsyncIterator[Tables]:
    async with (
        opened(postgres_url) as storage,
        connected(postgres_url) as writer,
        connected(postgres_url) as reader,
    ):
        await writer.execute("CREATE TABLE truth (version int); INSERT INTO truth VALUES (0)")

        async def thing(i: int) -> str:
            return f"{i} in version {await reader.fetchval('SELECT version FROM truth')}"

        yield Tables(storage, Cache(storage).cached(ttl=60)(thing), writer, reader)


async def test_invalidate_before_the_writers_commit(tables: Tables) -> None:
    """With the cache in the writer's own database, the invalidation is part of the transaction."""
    assert await tables.thing(1) == OLD
    async with tables.writer.transaction():
        await tables.write()
        await tables.storage.on(tables.writer).remove(tables.thing.key(1))
        early = asyncio.create_task(tables.thing(1))
        await asyncio.sleep(0.02)  # it has looked, and found the old value or the lock
    async with patience():
        assert await early in (OLD, NEW)
        assert await tables.thing(1) == NEW


async def test_invalidate_before_the_writers_commit_fools_a_plain_invalidation(
    tables: Tables,
) -> None:
    async with tables.writer.transaction():
        await tables.write()
        await tables.thing.invalidate(1)
        assert await tables.thing(1) == OLD
    assert await tables.thing(1) == OLD  # and so until its ttl ends


async def invalidate_before_commit(stage: Stage, *, again: bool) -> set[str]:
    """A load between the invalidation and the commit reads what was true before."""
    await stage.a.thing.invalidate(1)
    assert await stage.b.thing(1) == OLD
    stage.truth.version = 1  # the writer commits
    if again:
        await stage.a.thing.invalidate(1)
    return await stage.left()


@pytest.mark.parametrize("again", [False, True])
async def test_invalidate_before_the_writers_commit_is_closed_by_one_after_it(
    stage: Stage, again: bool
) -> None:
    assert await invalidate_before_commit(stage, again=again) == {NEW if again else OLD}


async def commits_then_invalidates(world: World) -> None:
    await pause()
    await world.write(world.a)


async def invalidates_then_commits(world: World) -> None:
    await pause()
    await world.a.thing.invalidate(1)
    await pause()
    world.version += 1


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_invalidate_before_the_writers_commit_is_searched_for(mechanism: str) -> None:
    sought(mechanism, reader, commits_then_invalidates, after=is_the_latest)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_invalidate_before_the_writers_commit_is_found(mechanism: str) -> None:
    found(mechanism, reader, invalidates_then_commits, after=is_the_latest)


# --- writer dies before invalidating --------------------------------------------------------------


async def writer_dies(stage: Stage) -> set[str]:
    """The source has changed, and nobody will ever say so."""
    assert await stage.a.thing(1) == OLD
    stage.truth.version = 1
    await asyncio.sleep(0.4)
    return await stage.left()


async def test_writer_dies_before_invalidating(venue: Venue) -> None:
    assert await writer_dies(venue.stage(ttl=0.3)) == {NEW}


async def test_writer_dies_before_invalidating_fools_the_naive_cache() -> None:
    assert await writer_dies(naive()) == {OLD}


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_writer_dies_before_invalidating_is_searched_for(mechanism: str) -> None:
    async def dies(world: World) -> None:
        await pause()
        world.version += 1

    async def a_ttl_later(world: World) -> None:
        await asyncio.sleep(10.5)
        await is_the_latest(world)

    sought(mechanism, reader, dies, reader, after=a_ttl_later, ttl=10)


# --- lagging replica ------------------------------------------------------------------------------


class Replicated(Truth):
    """A database with a replica that lags; loads read from either."""

    def __init__(self, *, read_primary: bool) -> None:
        super().__init__()
        self.read_primary = read_primary
        self.primary = 0

    def told(self, i: int) -> str:
        return f"{i} in version {self.primary if self.read_primary else self.version}"


async def lagging_replica(stage: Stage, truth: Replicated) -> set[str]:
    """It is changed and invalidated; a load reads a replica that has not heard of it."""
    truth.primary = 1
    await stage.a.thing.invalidate(1)
    await stage.b.thing(1)
    truth.version = 1  # now it has
    return await stage.left()


@pytest.mark.parametrize("read_primary", [False, True])
async def test_lagging_replica(venue: Venue, read_primary: bool) -> None:
    truth = Replicated(read_primary=read_primary)
    stage = Stage(truth, venue.process(truth, ttl=9), venue.process(truth, ttl=9))
    assert await lagging_replica(stage, truth) == {NEW if read_primary else OLD}
    assert 0 < await stage.a.thing.ttl(1) <= 9  # and so it is bounded


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_lagging_replica_is_found(mechanism: str) -> None:
    async def lags(world: World) -> None:
        await pause()
        await world.a.thing.invalidate(1)
        await pause()
        world.version += 1  # what loads read

    found(mechanism, reader, lags, after=is_the_latest)


# --- old snapshot in a transaction ----------------------------------------------------------------


async def old_snapshot(tables: Tables, thing: Any) -> None:
    """A load begins after the invalidation, in a transaction that began before the commit."""
    transaction = tables.reader.transaction(isolation="repeatable_read")
    await transaction.start()
    await tables.reader.fetchval("SELECT 1 FROM truth")  # here its snapshot is taken
    async with tables.writer.transaction():
        await tables.write()
        await tables.storage.on(tables.writer).remove(thing.key(1))
    try:
        assert await thing(1) == OLD
    finally:
        await transaction.rollback()


async def test_old_snapshot_in_a_transaction(tables: Tables) -> None:
    """Whoever reads in such a transaction says so, and what he reads is not stored."""

    async def thing(i: int) -> str:
        value: str = await tables.thing.uncached(i)
        return value

    def has_snapshot(i: int) -> bool:
        return bool(tables.reader.is_in_transaction())

    around = Cache(tables.storage).cached(ttl=60, bypass=has_snapshot)(thing)
    await old_snapshot(tables, around)
    assert await around(1) == NEW


async def test_old_snapshot_in_a_transaction_fools_who_does_not_say_so(tables: Tables) -> None:
    await old_snapshot(tables, tables.thing)
    assert await tables.thing(1) == OLD


# --- reversed puts --------------------------------------------------------------------------------


async def reversed_puts(stage: Stage) -> set[str]:
    """Two writers change it one after the other, and put what they wrote the other way round."""
    first, second = stage.truth.told(1), NEW
    stage.truth.version = 1
    await stage.b.thing.put(second, 1)
    await stage.a.thing.put(first, 1)
    return await stage.left()


async def test_reversed_puts_is_closed_by_invalidating(stage: Stage) -> None:
    stage.truth.version = 1
    await stage.b.thing.invalidate(1)
    await stage.a.thing.invalidate(1)
    assert await stage.left() == {NEW}


async def test_reversed_puts(stage: Stage) -> None:
    """A writer that puts says which version he replaces, and removes what he cannot replace."""
    assert await stage.left() == {OLD}
    storage, key = stage.a.storage, stage.a.thing.key(1)
    seen = (await storage.fetch([key]))[key].version  # both have seen it, before they write
    stage.truth.version = 1
    assert await storage.store({key: storage.new_entry(NEW, 60)}, expect={key: seen}) == {key}
    assert await storage.store({key: storage.new_entry(OLD, 60)}, expect={key: seen}) == set()
    await stage.b.thing.invalidate(1)
    assert await stage.left() == {NEW}


async def test_reversed_puts_fools_plain_puts(stage: Stage) -> None:
    assert await reversed_puts(stage) == {OLD}


async def test_reversed_puts_fools_the_naive_cache() -> None:
    assert await reversed_puts(naive()) == {OLD}


async def swaps(world: World, process: Any) -> None:
    """Put by compare-and-set; whoever comes too late, or finds nothing, removes."""
    storage, key = process.storage, process.thing.key(1)
    there = (await storage.fetch([key])).get(key)
    world.version += 1
    entry = storage.new_entry(f"version {world.version}, put", 60)
    await pause()
    with world.history.put(1, entry.value):
        expect = {key: None if there is None else there.version}
        if there is None or not await storage.store({key: entry}, expect=expect):
            await process.thing.invalidate(1)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_reversed_puts_is_searched_for(mechanism: str) -> None:
    async def here(world: World) -> None:
        await swaps(world, world.a)

    async def there(world: World) -> None:
        await swaps(world, world.b)

    sought(mechanism, here, there, before=reader, after=is_the_latest)


async def puts_here(world: World) -> None:
    await world.put(world.a)


async def puts_there(world: World) -> None:
    await world.put(world.b)


@pytest.mark.parametrize("mechanism", MODELS)  # in memory a put takes no time
def test_reversed_puts_is_found_among_plain_puts(mechanism: str) -> None:
    found(mechanism, puts_here, puts_there, after=is_the_latest)


# --- next request on another process --------------------------------------------------------------


async def next_request(stage: Stage) -> str:
    """Who has written in one process asks in another, which had the old value."""
    assert await stage.left() == {OLD}
    stage.truth.version = 1
    await stage.a.thing.invalidate(1)
    value: str = await stage.b.thing(1)
    return value


@pytest.mark.parametrize("venue", SHARED, indirect=True)
async def test_next_request_on_another_process(stage: Stage) -> None:
    assert await next_request(stage) == NEW


async def test_next_request_on_another_process_is_bounded_by_the_ttl_in_memory() -> None:
    """Each process has a memory of its own: what one invalidates, the others do not hear of."""
    truth = Truth()
    clock = FakeClock()
    stage = Stage(truth, *[Process(MemoryStorage(clock=clock), truth, ttl=9) for _ in range(2)])
    assert await next_request(stage) == OLD
    clock.advance(9)
    assert await stage.b.thing(1) == NEW


async def test_next_request_on_another_process_fools_the_naive_cache() -> None:
    assert await next_request(naive(Near)) == OLD


async def writes_then_asks_elsewhere(world: World) -> None:
    await world.write(world.a)
    await world.read(world.b)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_next_request_on_another_process_is_searched_for(mechanism: str) -> None:
    sought(mechanism, writes_then_asks_elsewhere, reader, before=reader)


def test_next_request_on_another_process_is_found_in_the_naive_cache() -> None:
    found(Near, writes_then_asks_elsewhere, reader, before=reader)

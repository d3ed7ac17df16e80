"""The catalogue: a load and a change of the source cross each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import gecaso.storages
from gecaso import Cache, EntryStorage, MemoryStorage, UnknownOption, cached
from gecaso.changes import Changed
from tests.catalogue.naive import Joining, Naive, Publishing, naive
from tests.catalogue.seeking import SOUGHT, World, found, pause, reader, sought, writer
from tests.catalogue.stage import NEW, OLD, Stage, Venue
from tests.scenes import Truth, hold, patience

# --- load–write–store -----------------------------------------------------------------------------


async def load_write_store(stage: Stage) -> set[str]:
    """It is read; then it is changed and invalidated; then what was read is stored."""
    gate = stage.truth.close_gate()
    reading = stage.b.call()
    await stage.truth.asked(1)
    stage.truth.version = 1
    await stage.a.thing.invalidate(1)
    gate.set()
    assert await reading == OLD  # who asked before the invalidation may get it
    return await stage.left()


@pytest.mark.smoke
async def test_load_write_store(stage: Stage) -> None:
    assert await load_write_store(stage) == {NEW}
    assert stage.b.thing.stats.fenced == 1
    assert stage.truth.loads == 2


async def test_load_write_store_fools_the_naive_cache() -> None:
    assert OLD in await load_write_store(naive())


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_load_write_store_is_searched_for(mechanism: str) -> None:
    sought(mechanism, reader, writer)


def test_load_write_store_is_found_in_the_naive_cache() -> None:
    found(Naive, reader, writer)


# --- join after invalidation ----------------------------------------------------------------------


async def join_after_invalidation(stage: Stage) -> set[str]:
    """Who asks after the invalidation joins, in another process, a load from before it."""
    gate = stage.truth.close_gate()
    early = [stage.b.call() for _ in range(5)]
    await stage.truth.asked(1)
    stage.truth.version = 1
    await stage.a.thing.invalidate(1)
    late = [stage.b.call() for _ in range(5)]
    await stage.b.joined(9)
    gate.set()
    async with patience():
        assert set(await asyncio.gather(*early)) == {OLD}
        return set(await asyncio.gather(*late))


@pytest.mark.smoke
async def test_join_after_invalidation(stage: Stage) -> None:
    assert await join_after_invalidation(stage) == {NEW}
    assert stage.truth.loads == 2


async def test_join_after_invalidation_fools_the_naive_cache() -> None:
    assert await join_after_invalidation(naive(Joining)) == {OLD}


async def writes_and_asks_elsewhere(world: World) -> None:
    await pause()
    await world.write(world.a)
    await world.read(world.b)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_join_after_invalidation_is_searched_for(mechanism: str) -> None:
    sought(mechanism, reader, writes_and_asks_elsewhere)


def test_join_after_invalidation_is_found_in_the_naive_cache() -> None:
    found(Joining, reader, writes_and_asks_elsewhere)


# --- put during load ------------------------------------------------------------------------------


async def put_during_load(stage: Stage) -> set[str]:
    """What is put while it is being loaded is newer than the load."""
    gate = stage.truth.close_gate()
    loading = stage.b.call()
    await stage.truth.asked(1)
    await stage.a.thing.put("put", 1)
    gate.set()
    assert await loading == OLD
    return await stage.left()


@pytest.mark.smoke
async def test_put_during_load(stage: Stage) -> None:
    assert await put_during_load(stage) == {"put"}
    assert stage.truth.loads == 1


async def test_put_during_load_fools_the_naive_cache() -> None:
    assert await put_during_load(naive()) == {OLD}


async def puts(world: World) -> None:
    await pause()
    await world.put(world.a)
    await world.read(world.a)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_put_during_load_is_searched_for(mechanism: str) -> None:
    sought(mechanism, reader, puts)


def test_put_during_load_is_found_in_the_naive_cache() -> None:
    found(Naive, reader, puts)


# --- clear during load ----------------------------------------------------------------------------

CLEARED = ("memory", "redis", "sqlite", "postgres")  # memcached cannot list its keys


async def clear_during_load(stage: Stage, clear: Any) -> set[str]:
    """Everything is removed; what is being loaded is not there yet, and is stored afterwards."""
    gate = stage.truth.close_gate()
    loading = stage.b.call()
    await stage.truth.asked(1)
    stage.truth.version = 1
    await clear()
    gate.set()
    assert await loading == OLD
    return await stage.left()


@pytest.mark.parametrize("venue", CLEARED, indirect=True)
async def test_clear_during_load(stage: Stage) -> None:
    assert await clear_during_load(stage, stage.a.storage.clear) == {NEW}


async def test_clear_during_load_of_a_function() -> None:
    truth = Truth()
    storage = MemoryStorage()

    @cached(storage, ttl=60)
    async def thing(i: int) -> str:
        return await truth.load(i)

    gate = truth.close_gate()
    loading = asyncio.create_task(thing(1))
    await truth.asked(1)
    truth.version = 1
    await thing.clear()
    gate.set()
    assert await loading == OLD
    assert await thing(1) == NEW


async def test_clear_during_load_fools_the_naive_cache() -> None:
    stage = naive()
    assert OLD in await clear_during_load(stage, stage.a.thing.clear)


async def clears(world: World) -> None:
    await pause()
    world.version += 1
    with world.history.clear():
        process = world.a
        await (process.clear() if isinstance(process, Naive) else process.storage.clear())
    await world.read(world.b)


@pytest.mark.parametrize("mechanism", ["memory", "redis"])
def test_clear_during_load_is_searched_for(mechanism: str) -> None:
    sought(mechanism, reader, clears)


def test_clear_during_load_is_found_in_the_naive_cache() -> None:
    found(Naive, reader, clears)


# --- publish before delete ------------------------------------------------------------------------


async def told(storage: EntryStorage, key: Any, started: asyncio.Event) -> object:
    """Return what is stored at the moment when a change of ``key`` is told."""
    async for change in storage.changes():
        started.set()
        if isinstance(change, Changed):
            return await storage.lookup(key)
    raise AssertionError("the changes ended")


@pytest.mark.parametrize("venue", ["redis", "postgres"], indirect=True)
async def test_publish_before_delete(stage: Stage) -> None:
    """Who is told of an invalidation, and looks at once, must not find the old value any more."""
    assert await stage.a.thing(1) == OLD
    started = asyncio.Event()
    key = stage.b.thing.key(1)
    listening = asyncio.create_task(told(stage.b.storage, key, started))
    async with patience():
        await started.wait()
        await stage.a.thing.invalidate(1)
        assert await listening is None


async def test_publish_before_delete_when_a_lease_goes(venue: Venue) -> None:
    """The same for who waits for a lease that was taken beside the old value."""
    stage = venue.stage()
    assert await stage.a.thing(1) == OLD
    key = stage.a.thing.key(1)
    got = (await stage.a.storage.lease((key,), 10))[key]
    busy = (await stage.b.storage.lease((key,), 10))[key]
    assert busy.token == got.token

    async def look_when_told() -> object:
        await stage.b.storage.wait(busy, 5 if stage.b.storage.notifies else 0.2)
        return await stage.b.storage.lookup(key)

    waiting = asyncio.create_task(look_when_told())
    await asyncio.sleep(0.05)  # by now it waits
    await stage.a.thing.invalidate(1)
    async with patience():
        assert await waiting is None


async def publish_before_delete(stage: Stage) -> set[str]:
    assert await stage.left() == {OLD}
    stage.truth.version = 1
    await stage.a.thing.invalidate(1)
    return await stage.left()


async def test_publish_before_delete_fools_the_naive_cache() -> None:
    assert OLD in await publish_before_delete(naive(Publishing))


async def both_read(world: World) -> None:
    await world.read(world.a)
    await world.read(world.b)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_publish_before_delete_is_searched_for(mechanism: str) -> None:
    async def refreshes(world: World) -> None:
        await world.a.thing.refresh(1)

    # Who asks in b while the refresh has the lease waits for it, and is told of the invalidation.
    sought(mechanism, reader, writer, refreshes, before=both_read)


def test_publish_before_delete_is_found_in_the_naive_cache() -> None:
    found(Publishing, reader, writer, before=both_read)


# --- promotion after invalidation, tag invalidated during load ------------------------------------


@pytest.mark.xfail(strict=True, raises=AttributeError, reason="tiers are not built yet")
async def test_promotion_after_invalidation(monkeypatch: pytest.MonkeyPatch, venue: Venue) -> None:
    """It is found in the far tier; invalidated; and then put into the near one."""
    near, far = MemoryStorage(), venue.storage()
    storage = getattr(gecaso.storages, "TieredStorage")(near, far)  # noqa: B009 - not there yet
    truth = Truth()
    a, b = venue.process(truth), venue.process(truth, storage)
    assert await a.thing(1) == OLD
    looked = hold(monkeypatch, far, "lookup", after=True)
    promoting = b.call()
    await looked.is_reached()
    truth.version = 1
    await b.thing.invalidate(1)
    looked.go.set()
    assert await promoting == OLD
    assert await near.fetch([b.thing.key(1)]) == {}
    assert await b.thing(1) == await a.thing(1) == NEW


@pytest.mark.xfail(strict=True, raises=UnknownOption, reason="tags are not built yet")
async def test_tag_invalidated_during_load(venue: Venue) -> None:
    """What hangs on a tag is being loaded, and is stored when the tag has been invalidated."""
    truth = Truth()
    caches = [Cache(venue.storage()), Cache(venue.storage())]

    async def load(i: int) -> str:
        return await truth.load(i)

    options: dict[str, Any] = {"key": "thing:{i}", "ttl": 60, "tags": ("things", "thing:{i}")}
    here, there = [cache.cached(**options)(load) for cache in caches]
    gate = truth.close_gate()
    loading = asyncio.create_task(here(1))
    await truth.asked(1)
    truth.version = 1
    invalidate_tags: Any = getattr(caches[1], "invalidate_tags")  # noqa: B009 - not there yet
    await invalidate_tags("things")
    gate.set()
    assert await loading == OLD
    assert {await here(1), await there(1)} == {NEW}

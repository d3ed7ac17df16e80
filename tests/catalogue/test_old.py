"""The catalogue: old values and missing ones, kept on purpose, and an invalidation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.catalogue.naive import Negative, Old, naive
from tests.catalogue.seeking import SOUGHT, World, found, pause, reader, sought, writer
from tests.catalogue.stage import NEW, OLD, Stage, Venue
from tests.scenes import patience

TTL = 0.05  # seconds
OVER = 0.08

NOTHING = "nothing"


async def asked(call: Any) -> str:
    """Return what a caller gets; an error of the source is nothing."""
    try:
        value: str = await call
    except LookupError:
        return NOTHING
    return value


async def grow_old(stage: Stage) -> None:
    if hasattr(stage.a.thing, "grow_old"):
        stage.a.thing.grow_old(1)
    else:
        await asyncio.sleep(OVER)


# --- fallback revives a removed value -------------------------------------------------------------


async def fallback(stage: Stage) -> set[str]:
    """A load fails, for which there is an old value; but meanwhile that was removed."""
    assert await stage.b.thing(1) == OLD
    await grow_old(stage)
    stage.truth.error = LookupError("it is not there any more")
    gate = stage.truth.close_gate()
    trying = stage.b.call()
    await stage.truth.asked(2)
    await stage.a.thing.invalidate(1)
    gate.set()
    async with patience():
        await asked(trying)
        return {await asked(stage.a.thing(1)), await asked(stage.b.thing(1))}


async def test_fallback_revives_a_removed_value(venue: Venue) -> None:
    assert await fallback(venue.stage(ttl=TTL, stale_if_error=60)) == {NOTHING}


async def test_fallback_revives_a_removed_value_for_who_had_found_it(venue: Venue) -> None:
    """Who looked before the removal, and whose load fails after it, is not given it either."""
    stage = venue.stage(ttl=TTL, stale_if_error=60)
    assert await stage.b.thing(1) == OLD
    await grow_old(stage)
    stage.truth.error = LookupError("it is not there any more")
    gate = stage.truth.close_gate()
    trying = stage.b.call()
    await stage.truth.asked(2)
    await stage.a.thing.invalidate(1)
    gate.set()
    async with patience():
        with pytest.raises(LookupError):
            await trying


async def test_fallback_revives_a_removed_value_in_the_naive_cache() -> None:
    assert OLD in await fallback(naive(Old))


async def grown_old(world: World) -> None:
    await world.read(world.b)
    if isinstance(world.a, Old):
        world.a.grow_old(1)
    else:
        await asyncio.sleep(1.5)


async def removes(world: World) -> None:
    await pause()
    world.is_missing = True
    await world.write(world.a)
    await world.read(world.b)


async def trouble_begins(world: World) -> None:
    world.is_missing = True
    await world.read(world.b)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_fallback_revives_a_removed_value_is_searched_for(mechanism: str) -> None:
    old: dict[str, Any] = {"ttl": 1, "stale_if_error": 60}
    sought(mechanism, trouble_begins, removes, before=grown_old, **old)


def test_fallback_revives_a_removed_value_is_found_in_the_naive_cache() -> None:
    found(Old, trouble_begins, removes, before=grown_old)


# --- background completion after invalidation -----------------------------------------------------

BEHIND: dict[str, dict[str, Any]] = {
    "stale_while_revalidate": {"stale_while_revalidate": 60},
    "soft_timeout": {"stale_if_error": 60, "soft_timeout": 0.02},
}


async def behind(stage: Stage, serve: Any) -> None:
    """The old value is served; the load behind it goes on; it is invalidated; the load ends."""
    assert await stage.b.thing(1) == OLD
    await grow_old(stage)
    gate = stage.truth.close_gate()
    assert await serve(1) == OLD
    await stage.truth.asked(2)
    stage.truth.version = 1
    await stage.a.thing.invalidate(1)
    gate.set()


@pytest.mark.parametrize("served", BEHIND)
async def test_background_completion_after_invalidation(venue: Venue, served: str) -> None:
    stage = venue.stage(ttl=TTL, **BEHIND[served])
    await behind(stage, stage.b.thing)
    async with patience():
        while stage.b.cache.info().background:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    assert stage.b.thing.stats.fenced == 1
    assert await stage.left() == {NEW}


async def test_background_completion_after_invalidation_fools_the_naive_cache() -> None:
    stage = naive(Old)
    await behind(stage, stage.b.thing.behind)
    await stage.b.background
    assert await stage.left() == {OLD}


async def served_old(world: World) -> None:
    if isinstance(world.b, Old):
        if 1 in world.b.server.old:
            await world.b.behind(1)
    else:
        await world.read(world.b)


async def settled(world: World) -> None:
    await asyncio.sleep(0.3)


@pytest.mark.parametrize("served", BEHIND)
@pytest.mark.parametrize("mechanism", SOUGHT)
def test_background_completion_after_invalidation_is_searched_for(
    mechanism: str, served: str
) -> None:
    old: dict[str, Any] = {"ttl": 1, **BEHIND[served]}
    sought(mechanism, served_old, writer, before=grown_old, after=settled, schedules=60, **old)


def test_background_completion_after_invalidation_is_found_in_the_naive_cache() -> None:
    found(Old, served_old, writer, before=grown_old, after=settled)


# --- negative entry survives an insert ------------------------------------------------------------


async def negative(stage: Stage) -> set[str]:
    """It is not there, which is kept; it is inserted."""
    stage.truth.error = LookupError("it is not there yet")
    assert await asked(stage.b.thing(1)) == await asked(stage.b.thing(1)) == NOTHING
    assert stage.truth.loads == 1
    stage.truth.error = None
    stage.truth.version = 1
    await stage.a.thing.invalidate(1)
    return {await asked(stage.a.thing(1)), await asked(stage.b.thing(1))}


async def negative_during_load(stage: Stage) -> set[str]:
    """It is looked for; inserted; and then it is stored that there is nothing."""
    stage.truth.error = LookupError("it is not there yet")
    gate = stage.truth.close_gate()
    looking = stage.b.call()
    await stage.truth.asked(1)
    stage.truth.error = None
    stage.truth.version = 1
    await stage.a.thing.invalidate(1)
    gate.set()
    assert await asked(looking) == NOTHING
    return {await asked(stage.a.thing(1)), await asked(stage.b.thing(1))}


KEPT: dict[str, Any] = {"error_ttl": {LookupError: 60}}


async def test_negative_entry_survives_an_insert(venue: Venue) -> None:
    assert await negative(venue.stage(**KEPT)) == {NEW}


async def test_negative_entry_survives_an_insert_during_its_load(venue: Venue) -> None:
    assert await negative_during_load(venue.stage(**KEPT)) == {NEW}


async def test_negative_entry_survives_an_insert_in_the_naive_cache() -> None:
    assert NOTHING in await negative(naive(Negative))
    assert NOTHING in await negative_during_load(naive(Negative))


async def looks(world: World) -> None:
    world.is_missing = world.version == 0
    await world.read(world.b)


async def inserts(world: World) -> None:
    await pause()
    world.is_missing = False
    await world.write(world.a)
    await world.read(world.a)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_negative_entry_survives_an_insert_is_searched_for(mechanism: str) -> None:
    sought(mechanism, looks, inserts, reader, **KEPT)


def test_negative_entry_survives_an_insert_is_found_in_the_naive_cache() -> None:
    found(Negative, looks, inserts, reader)

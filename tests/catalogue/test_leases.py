"""The catalogue: a lease that is not what its holder thinks it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gecaso import Busy, Entry, EntryStorage, Lease
from gecaso.keys import as_key
from gecaso.testing import ChaosStorage, Faults
from tests.catalogue.naive import Counting, Locking, Server, Unowned, naive
from tests.catalogue.seeking import MODELS, SOUGHT, World, found, reader, sought, writer
from tests.catalogue.stage import KINDS, NEW, OLD, SHARED, Stage, Venue, no_longer
from tests.scenes import Truth, patience

KEY = as_key("thing:1")

QUICK = tuple(kind for kind in KINDS if kind != "memcached")
"""Where leases may be shorter than three seconds; memcached is played in virtual time."""


async def took(storage: EntryStorage, seconds: float = 10.0) -> Lease:
    lease = (await storage.lease((KEY,), seconds))[KEY]
    assert isinstance(lease, Lease)
    return lease


# --- lease expired and taken anew -----------------------------------------------------------------


async def lease_expired(stage: Stage) -> set[str]:
    """A holder falls silent; another takes over, and stores; then the first one comes back."""
    gate = stage.truth.close_gate()
    silent = stage.b.call()
    await stage.truth.asked(1)
    stage.truth.version = 1
    stage.truth.gate = None
    async with patience():
        assert await stage.a.thing(1) == NEW
        gate.set()
        assert await silent == OLD
        return await stage.left()


@pytest.mark.parametrize("venue", QUICK, indirect=True)
async def test_lease_expired_and_taken_anew(venue: Venue) -> None:
    truth = Truth()
    deaf = ChaosStorage(venue.storage(), Faults(raise_before=1.0, on=("renew",)))
    stage = Stage(truth, venue.process(truth), venue.process(truth, deaf, lease_seconds=0.2))
    assert await lease_expired(stage) == {NEW}
    assert stage.b.thing.stats.fenced == 1
    assert truth.loads == 2


@pytest.mark.parametrize("venue", QUICK, indirect=True)
async def test_lease_expired_and_taken_anew_by_who_is_still_loading(venue: Venue) -> None:
    here, there = venue.storage(), venue.storage()
    late = await took(here, 0.1)
    await asyncio.sleep(0.12)
    lease = await took(there)
    assert await here.commit({late: here.new_entry(OLD)}) == set()
    assert await here.fetch([KEY]) == {}
    assert await there.commit({lease: there.new_entry(NEW)}) == {KEY}


async def test_lease_expired_and_taken_anew_fools_the_naive_cache() -> None:
    stage = naive(Unowned)

    async def runs_out() -> None:
        await stage.truth.asked(1)
        stage.a.expire(1)

    running_out = asyncio.create_task(runs_out())
    assert OLD in await lease_expired(stage)
    await running_out


async def slow_reader(world: World) -> None:
    world.seconds = 4.0
    await world.read(world.b)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_lease_expired_and_taken_anew_is_searched_for(mechanism: str) -> None:
    renewals_fail = Faults(raise_before=0.5, on=("renew",))
    how: dict[str, Any] = {"faults": renewals_fail, "schedules": 60, "lease_seconds": 3}
    sought(mechanism, slow_reader, writer, reader, **how)


# --- lease with the same token --------------------------------------------------------------------


async def same_token(here: EntryStorage, there: EntryStorage) -> set[object]:
    """A lease is killed and taken anew; who had it before commits: is it told apart?"""
    late = await took(here)
    await there.discard((KEY,))
    lease = await took(there)
    await here.commit({late: here.new_entry(OLD, 60)})
    left = (await there.fetch([KEY])).values()
    await there.commit({lease: there.new_entry(NEW, 60)})
    return {entry.value for entry in (*left, *(await here.fetch([KEY])).values())}


async def test_lease_with_the_same_token(venue: Venue) -> None:
    assert await same_token(venue.storage(), venue.storage()) == {NEW}


def one_token() -> bytes:
    return b"always the same."


@pytest.mark.parametrize("venue", SHARED, indirect=True)
async def test_lease_with_the_same_token_fools_storages_that_reuse_tokens(
    monkeypatch: pytest.MonkeyPatch, venue: Venue
) -> None:
    monkeypatch.setattr(f"gecaso.storages.{venue.kind}.new_token", one_token)
    assert await same_token(venue.storage(), venue.storage()) == {OLD}


@pytest.mark.parametrize("mechanism", MODELS)
def test_lease_with_the_same_token_is_searched_for(mechanism: str) -> None:
    sought(mechanism, reader, writer, reader)


@pytest.mark.parametrize("mechanism", MODELS)
def test_lease_with_the_same_token_is_found_where_tokens_are_reused(
    monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    monkeypatch.setattr(f"gecaso.storages.{mechanism}.new_token", one_token)
    found(mechanism, reader, writer, reader, seed=2)


# --- holder dies ----------------------------------------------------------------------------------


async def test_holder_dies(venue: Venue) -> None:
    """It is replaced when its lease has run out; if it was not dead, its value is not stored."""
    seconds = 3.0 if venue.kind == "memcached" else 0.3
    there = venue.storage()
    lease = await took(there, seconds)
    truth = Truth()
    truth.version = 1
    process = venue.process(truth, lease_seconds=seconds)
    async with asyncio.timeout(seconds + 2.5):
        assert await process.thing(1) == NEW
    assert await there.commit({lease: there.new_entry(OLD)}) == set()
    assert await process.thing(1) == await there.get(KEY) == NEW


@pytest.mark.parametrize("venue", QUICK, indirect=True)
async def test_holder_dies_while_the_old_value_is_served(venue: Venue) -> None:
    stage = venue.stage(ttl=0.05, stale_while_revalidate=60, lease_seconds=0.3)
    assert await stage.b.thing(1) == OLD
    await took(venue.storage(), 0.3)  # and is never heard of again
    stage.truth.version = 1
    await asyncio.sleep(0.06)
    async with patience():
        await no_longer(OLD, stage.b.thing)


async def test_holder_dies_fools_the_naive_cache() -> None:
    stage = naive(Locking)
    assert await stage.left() == {OLD}
    await stage.a.thing.invalidate(1)
    stage.truth.version = 1
    stage.truth.close_gate()
    holder = stage.b.call()
    await stage.truth.asked(2)
    holder.cancel()
    await asyncio.wait((holder,))
    assert [await stage.a.thing(1) for _ in range(100)] == [OLD] * 100  # and so for ever


async def dies(world: World) -> None:
    await world.a.storage.lease((world.a.thing.key(1),), 3)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_holder_dies_is_searched_for(mechanism: str) -> None:
    async def in_time(world: World) -> None:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(dies(world), reader(world), writer(world))
        # Its lease, then at most one look that nobody told us to take, and what else is late.
        assert asyncio.get_running_loop().time() - began < 3 + 2 + 2

    sought(mechanism, in_time, schedules=60)


# --- marker evicted -------------------------------------------------------------------------------


async def marker_evicted(stage: Stage, evict: Callable[[], Awaitable[None]]) -> set[str]:
    """What marks a load, or tells that there was an invalidation, is evicted to make room."""
    await stage.a.thing.invalidate(1)
    gate = stage.truth.close_gate()
    loading = stage.b.call()
    await stage.truth.asked(1)
    await evict()
    stage.truth.version = 1
    await stage.a.thing.invalidate(1)
    gate.set()
    assert await loading == OLD
    return await stage.left()


async def test_marker_evicted(venue: Venue) -> None:
    truth = Truth()
    chaos = ChaosStorage(venue.storage())
    stage = Stage(truth, venue.process(truth), venue.process(truth, chaos))
    assert await marker_evicted(stage, chaos.evict_leases) == {NEW}
    assert chaos.injected == {"evict_leases": 1}


async def test_marker_evicted_without_an_invalidation_is_no_lease_any_more(venue: Venue) -> None:
    truth = Truth()
    chaos = ChaosStorage(venue.storage())
    process = venue.process(truth, chaos)
    gate = truth.close_gate()
    loading = process.call()
    await truth.asked(1)
    await chaos.evict_leases()
    gate.set()
    assert await loading == OLD
    assert process.thing.stats.fenced == 1
    assert await chaos.fetch([KEY]) == {}


async def test_marker_evicted_fools_the_naive_cache() -> None:
    stage = naive(Counting)
    server: Server = stage.a.server

    async def evict() -> None:
        server.versions.clear()

    assert OLD in await marker_evicted(stage, evict)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_marker_evicted_is_searched_for(mechanism: str) -> None:
    sought(mechanism, reader, writer, reader, faults=Faults(evict_leases=0.3))


def test_marker_evicted_is_found_in_the_naive_cache() -> None:
    async def evicts(world: World) -> None:
        await asyncio.sleep(0)
        world.a.server.versions.clear()

    async def invalidates(world: World) -> None:
        await world.write(world.a)

    found(Counting, reader, invalidates, evicts, before=invalidates)


# --- clock skew -----------------------------------------------------------------------------------


ROUGH = {"redis": 3.0, "postgres": 3.0, "memcached": 7.0}
"""Seconds that the times may be off on a busy machine; memcached tells whole seconds."""


@pytest.mark.parametrize("hours", [-5, 5])
@pytest.mark.parametrize("venue", ROUGH, indirect=True)
async def test_clock_skew(monkeypatch: pytest.MonkeyPatch, venue: Venue, hours: int) -> None:
    """A machine whose clock is hours off stores; elsewhere it is fresh for its ttl, no longer."""
    truth = Truth()
    policy: dict[str, Any] = {"ttl": 60, "stale_if_error": 60}  # longer, so that clocks matter
    right = venue.process(truth, **policy)
    assert await right.thing(2) == "2 in version 0"
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + hours * 3600)
    wrong = venue.process(truth, **policy)
    await wrong.thing.put("put", 1)  # before it has ever asked the server for the time
    for i in (1, 2):
        for process in (right, wrong):
            assert await process.thing.ttl(i) == pytest.approx(60, abs=ROUGH[venue.kind])


@pytest.mark.parametrize("hours", [-5, 5])
async def test_clock_skew_makes_no_lease_longer_or_shorter(
    monkeypatch: pytest.MonkeyPatch, memcached_url: str, hours: int
) -> None:
    """The first lease of a machine whose clock is off runs for its time, like every other."""
    right = Venue("memcached", memcached_url)
    true_time = time.time
    here = right.storage()
    await here.ping()
    monkeypatch.setattr(time, "time", lambda: true_time() + hours * 3600)
    there = right.storage()
    await took(there, 10.0)
    busy = (await here.lease((KEY,), 10.0))[KEY]
    assert isinstance(busy, Busy)
    assert 5.0 < busy.retry_in < 15.0
    await right.close()


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_clock_skew_is_searched_for(mechanism: str) -> None:
    # The clock of the model is two hours off in half of the schedules.
    async def puts(world: World) -> None:
        await world.a.thing.put("put", 1)

    async def looks_in_time(world: World) -> None:
        await asyncio.sleep(10.5)
        entry: Entry | None = await world.b.storage.lookup(world.b.thing.key(1))
        assert entry is not None
        assert entry.fresh_until <= world.b.storage.now() < entry.dead_after

    sought(mechanism, puts, after=looks_in_time, ttl=10, stale_if_error=60)

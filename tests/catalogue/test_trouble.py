"""The catalogue: what does not arrive, or not as it was sent: messages, replies, deletes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import gecaso.storages
from gecaso import InvalidationFailed, MemoryStorage
from gecaso.storages import RedisStorage
from gecaso.testing import ChaosStorage, Faults
from gecaso.testing.faults import Fault, Late, Lose, RaiseAfter, RaiseBefore, Reorder, Repeat
from tests.catalogue.naive import Silent, naive
from tests.catalogue.seeking import SOUGHT, World, found, pause, reader, sought, writer
from tests.catalogue.stage import NEW, OLD, Stage, Venue, no_longer
from tests.models.redis_model import RedisModel
from tests.models.serving import serve
from tests.scenes import Process, Truth, patience

# --- missed, reordered notification ---------------------------------------------------------------
# Until there are near tiers, messages tell that a lease has gone. Nobody takes their word for it.


async def notified(venue: Venue, fault: Fault | None) -> Stage:
    """b waits for a load of a's; it is invalidated; and the message that the lease is gone is…"""
    truth = Truth()
    chaos = ChaosStorage(venue.storage())
    stage = Stage(truth, venue.process(truth), venue.process(truth, chaos))
    gate = truth.close_gate()
    loading = stage.a.call()
    await truth.asked(1)
    chaos.next("wait", fault)
    waiting = stage.b.call()
    async with patience():
        while not (fault is None or chaos.injected):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        truth.version = 1
        truth.gate = None
        await stage.a.thing.invalidate(1)
        after = asyncio.create_task(stage.b.thing(1))
        gate.set()
        assert await loading == OLD
        assert await waiting == NEW  # it had nothing before, and takes nothing old
        assert await after == NEW
        assert await stage.left() == {NEW}
    return stage


async def test_missed_notification(venue: Venue) -> None:
    await notified(venue, Lose())


@pytest.mark.parametrize("fault", [Reorder(0.1), Repeat()], ids=repr)
async def test_reordered_notification(venue: Venue, fault: Fault) -> None:
    """It comes late, or is that of an earlier lease: the lease is still out."""
    await notified(venue, fault)


async def test_reordered_notification_of_an_earlier_lease(venue: Venue) -> None:
    """Who is told, and finds that the lease is out, waits on: he does not load as well."""
    truth = Truth()
    chaos = ChaosStorage(venue.storage())
    a, b = venue.process(truth), venue.process(truth, chaos)
    gate = truth.close_gate()
    loading = a.call()
    await truth.asked(1)
    chaos.next("wait", Repeat(), Repeat(), Repeat())
    waiting = b.call()
    async with patience():
        while chaos.injected["repeat"] < 3:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        gate.set()
        assert await loading == await waiting == OLD
    assert truth.loads == 1


LOSSES = Faults(lose=0.5, on=("wait",))
MESSAGES = Faults(lose=0.3, reorder=0.3, repeat=0.3, on=("wait",))


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_missed_notification_is_searched_for(mechanism: str) -> None:
    async def reads_there(world: World) -> None:
        await world.read(world.a)

    sought(mechanism, reader, writer, reads_there, faults=LOSSES, schedules=60)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_reordered_notification_is_searched_for(mechanism: str) -> None:
    async def reads_there(world: World) -> None:
        await world.read(world.a)

    sought(mechanism, reader, writer, reads_there, faults=MESSAGES, schedules=60)


@pytest.mark.parametrize("venue", ["memory"], indirect=True)
@pytest.mark.parametrize("messages", ["missed", "half-open", "reordered"])
@pytest.mark.xfail(strict=True, raises=AttributeError, reason="tiers are not built yet")
async def test_missed_notification_of_a_near_tier(venue: Venue, messages: str) -> None:
    """What another process invalidates stays in the near tier for a bounded time at most."""
    faults: dict[str, Fault] = {"missed": Lose(), "reordered": Reorder()}
    tiered = getattr(gecaso.storages, "TieredStorage")  # noqa: B009 - not there yet
    chaos = ChaosStorage(venue.storage())
    truth = Truth()
    a = venue.process(truth)
    b = venue.process(truth, tiered(MemoryStorage(), chaos))
    assert await b.thing(1) == OLD
    if messages == "half-open":
        chaos.disconnect()
    else:
        chaos.next("changes", faults[messages])
    truth.version = 1
    await a.thing.invalidate(1)
    async with patience():
        await no_longer(OLD, b.thing)


# --- half-open subscription -----------------------------------------------------------------------


async def test_half_open_subscription() -> None:
    """The connection that listens is dead, and nobody has said so: nothing comes or breaks."""
    model = RedisModel()
    server = await serve(model)
    truth = Truth()
    a, b = [Process(RedisStorage(server.url), truth) for _ in range(2)]
    await a.storage.ping()
    await b.storage.ping()
    before = set(server.connections)
    gate = truth.close_gate()
    loading = a.call()
    await truth.asked(1)
    waiting = b.call()
    async with patience():
        while not any(model.channels.values()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        for listening in set(server.connections) - before:
            listening._hangs = True  # pyright: ignore[reportPrivateUsage] - what is sent is lost
        truth.version = 1
        truth.gate = None
        await a.thing.invalidate(1)
        assert await a.thing(1) == NEW
        started = asyncio.get_running_loop().time()
        assert await waiting == NEW
        assert asyncio.get_running_loop().time() - started < 3  # it looks every two seconds
        gate.set()
        assert await loading == OLD
        assert await Stage(truth, a, b).left() == {NEW}
    await a.cache.aclose()
    await b.cache.aclose()
    await server.aclose()


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_half_open_subscription_is_searched_for(mechanism: str) -> None:
    async def reads_there(world: World) -> None:
        await world.read(world.a)

    nothing_comes = Faults(lose=1.0, on=("wait",))
    sought(mechanism, reader, writer, reads_there, faults=nothing_comes, schedules=60)


# --- store applied but reported failed ------------------------------------------------------------


async def settled(stage: Stage, wrong: str) -> None:
    """Wait for the retry in the background, where there is one: it bounds it for the others."""
    if isinstance(stage.b, Process):
        async with patience():
            await no_longer(wrong, stage.b.thing)


async def applied_but_failed(stage: Stage, fails: Any) -> set[str]:
    """A put is applied, and its reply is lost: the writer takes it back, and so never happened."""
    assert await stage.left() == {OLD}
    fails(True)
    try:
        await stage.a.thing.put("never true", 1)
    except InvalidationFailed:
        pass  # the writer rolls back
    here: str = await stage.a.thing(1)
    fails(False)
    await settled(stage, "never true")
    return {here, *await stage.left()}


def without_replies(chaos: ChaosStorage) -> Any:
    def fails(yes: bool) -> None:
        chaos.faults = Faults(raise_after=1.0, on=("store",)) if yes else Faults()

    return fails


async def test_store_applied_but_reported_failed(venue: Venue) -> None:
    truth = Truth()
    chaos = ChaosStorage(venue.storage())
    a = venue.process(truth, chaos, invalidate_timeout=0.05)
    stage = Stage(truth, a, venue.process(truth))
    assert await applied_but_failed(stage, without_replies(chaos)) == {OLD}


@pytest.mark.parametrize("fault", [RaiseAfter(), Late(0.1)], ids=repr)
async def test_store_applied_but_reported_failed_by_a_load(venue: Venue, fault: Fault) -> None:
    """The same for what a load stores; invalidated then, it is not there, however late it comes."""
    truth = Truth()
    chaos = ChaosStorage(venue.storage())
    stage = Stage(truth, venue.process(truth), venue.process(truth, chaos))
    chaos.next("commit", fault)
    assert await stage.b.thing(1) == OLD
    truth.version = 1
    await stage.a.thing.invalidate(1)
    await asyncio.sleep(0.15)
    assert await stage.left() == {NEW}


async def test_store_applied_but_reported_failed_fools_the_naive_cache() -> None:
    stage = naive(Silent)

    def fails(yes: bool) -> None:
        stage.a.server.fails = yes

    assert await applied_but_failed(stage, fails) == {"never true"}


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_store_applied_but_reported_failed_is_searched_for(mechanism: str) -> None:
    lost = Faults(raise_after=0.3, late=(0.2, 0.1), on=("commit",))
    sought(mechanism, reader, writer, reader, faults=lost, schedules=60)


# --- delete failed or timed out -------------------------------------------------------------------


async def failed_delete(stage: Stage, fails: Any) -> set[str]:
    """The source has changed, and the cache cannot be told."""
    assert await stage.left() == {OLD}
    stage.truth.version = 1
    fails(True)
    try:
        await stage.a.thing.invalidate(1)
    except InvalidationFailed:
        pass  # what now?
    here: str = await stage.a.thing(1)
    fails(False)
    await settled(stage, OLD)
    return {here, *await stage.left()}


@pytest.mark.parametrize("fault", [RaiseBefore(), RaiseAfter(), Late(0.05)], ids=repr)
async def test_delete_failed_or_timed_out(venue: Venue, fault: Fault) -> None:
    truth = Truth()
    chaos = ChaosStorage(venue.storage())
    a = venue.process(truth, chaos, invalidate_timeout=0.05)
    stage = Stage(truth, a, venue.process(truth))

    def fails(yes: bool) -> None:
        if yes:
            chaos.next("discard", *[fault] * 5)
        else:
            chaos.heal()

    assert await failed_delete(stage, fails) == {NEW}


async def test_delete_failed_or_timed_out_fools_the_naive_cache() -> None:
    stage = naive(Silent)

    def fails(yes: bool) -> None:
        stage.a.server.fails = yes

    assert await failed_delete(stage, fails) == {OLD}


async def writes_in_trouble(world: World) -> None:
    """For the process that has tried it holds, whether it raised or not."""
    await world.read(world.a)
    world.version += 1
    with world.history.invalidate(1):
        try:
            await world.a.thing.invalidate(1)
        except InvalidationFailed:
            pass
    await world.read(world.a)


@pytest.mark.parametrize("mechanism", SOUGHT)
def test_delete_failed_or_timed_out_is_searched_for(mechanism: str) -> None:
    """In the process that has tried, no read after it is stale, whether it raised or not."""

    async def reads(world: World) -> None:
        await world.read(world.a)

    async def only_here(world: World) -> None:
        world.readers = (world.a,)

    trouble = Faults(raise_before=0.3, raise_after=0.3, late=(0.2, 0.1), on=("discard",))
    how: dict[str, Any] = {"faults": trouble, "schedules": 60, "invalidate_timeout": 0.1}
    sought(mechanism, reads, writes_in_trouble, reads, before=only_here, **how)


def test_delete_failed_or_timed_out_is_found_where_it_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forget(*args: object, **kwargs: object) -> None:
        pass

    monkeypatch.setattr("gecaso.guard.Guard._postpone", forget)

    never = Faults(raise_before=1.0, on=("discard",))
    found("memory", writes_in_trouble, faults=never, invalidate_timeout=0.1)


# --- fail-over loses a delete ---------------------------------------------------------------------


async def test_fail_over_loses_a_delete(venue: Venue) -> None:
    """The server had acknowledged it, and its replica had not heard of it: until the ttl ends."""
    truth = Truth()
    chaos = ChaosStorage(venue.storage(), remember=10)
    stage = Stage(truth, venue.process(truth, ttl=9), venue.process(truth, chaos, ttl=9))
    assert await stage.b.thing(1) == OLD
    truth.version = 1
    await stage.b.thing.invalidate(1)
    await chaos.fail_over(1)
    assert await stage.left() == {OLD}
    assert 0 < await stage.a.thing.ttl(1) <= 9  # and so it is bounded


async def test_fail_over_loses_a_delete_unless_replicas_must_have_it(redis_url: str) -> None:
    """Where too few replicas have the delete, the writer is told; it counts as not done."""
    truth = Truth()
    storage = RedisStorage(redis_url, wait_replicas=1)
    async with storage:
        process = Process(storage, truth, invalidate_timeout=0.1)
        assert await process.thing(1) == OLD
        truth.version = 1
        with pytest.raises(InvalidationFailed, match="replicas"):
            await process.thing.invalidate(1)
        assert await process.thing(1) == NEW
        await process.cache.aclose()


def test_fail_over_loses_a_delete_is_found() -> None:
    async def fails_over(world: World) -> None:
        await pause()
        await world.b.storage.fail_over(1)

    nothing_else = Faults(on=("ping",))
    found("memory", writer, fails_over, before=reader, faults=nothing_else)

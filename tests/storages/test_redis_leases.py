"""Leases in Redis: one holder, fenced commits, and waiters that are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gecaso.entry import Lease
from gecaso.errors import StorageError
from gecaso.keys import as_key
from gecaso.storages import RedisStorage
from tests.servers import RedisServer
from tests.storages.leases_kit import KEY, Two, refused, took

Pair = Two[RedisStorage]


@pytest.fixture
async def two(redis_url: str) -> AsyncIterator[Pair]:
    async with RedisStorage(redis_url) as here, RedisStorage(redis_url) as there:
        yield Two(here, there)


# --- fencing ------------------------------------------------------------------------------------


async def test_read_old_then_invalidated_elsewhere_then_committed_is_fenced(two: Pair) -> None:
    lease = await took(two.here)
    await two.there.discard([KEY])
    assert await two.here.commit({lease: two.here.new_entry("old", 60)}) == set()
    assert await two.there.lookup(KEY) is None


async def test_a_put_during_a_load_wins(two: Pair) -> None:
    lease = await took(two.here)
    await two.there.set("a", "put")
    assert await two.here.commit({lease: two.here.new_entry("loaded", 60)}) == set()
    assert await two.here.get("a") == "put"


async def test_a_late_commit_after_the_lease_was_lost_and_taken_anew_is_fenced(two: Pair) -> None:
    late = await took(two.here, seconds=0.02)
    await asyncio.sleep(0.03)
    lease = await took(two.there)
    assert await two.here.commit({late: two.here.new_entry("late", 60)}) == set()
    assert await two.here.renew([late], 10) == set()
    await two.here.release([late])
    assert await two.there.commit({lease: two.there.new_entry("new", 60)}) == {KEY}
    assert await two.here.get("a") == "new"


async def test_a_commit_ends_its_lease_and_cannot_be_repeated(two: Pair) -> None:
    lease = await took(two.here)
    entry = two.here.new_entry("x", 60)
    assert await two.here.commit({lease: entry}) == {KEY}
    assert await two.here.commit({lease: entry}) == set()
    await took(two.there)


async def test_some_of_many_commits_are_fenced(two: Pair) -> None:
    keys = [as_key(number) for number in range(4)]
    leases = [await took(two.here, key) for key in keys]
    await two.there.discard(keys[::2])
    entries = {lease: two.here.new_entry(1, 60) for lease in leases}
    assert await two.here.commit(entries) == set(keys[1::2])


async def test_a_renewed_lease_runs_on(two: Pair) -> None:
    lease = await took(two.here, seconds=0.05)
    before = lease.until
    assert await two.here.renew([lease], 10) == {KEY}
    assert lease.until > before + 9
    await asyncio.sleep(0.06)
    await refused(two.there)
    assert await two.here.commit({lease: two.here.new_entry(1, 60)}) == {KEY}


async def test_a_cancelled_taking_leaves_no_lease_behind(two: Pair) -> None:
    await two.here.ping()
    for ticks in range(6):
        taking = asyncio.create_task(two.here.lease((KEY,), 10))
        for _ in range(ticks):
            await asyncio.sleep(0)
        if taking.done():
            got = (await taking)[KEY]
            assert isinstance(got, Lease)
            await two.here.release([got])
            continue
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await two.here.ping()
        await two.there.release([await took(two.there)])


# --- waiting ------------------------------------------------------------------------------------


async def test_waiters_share_one_subscription_and_one_look(
    two: Pair, redis_server: RedisServer
) -> None:
    lease = await took(two.here)
    busy = await refused(two.there)
    await two.there.wait(busy, 0.01)
    before = redis_server.commands()
    waiting = [asyncio.create_task(two.there.wait(busy, 30)) for _ in range(100)]
    await asyncio.wait(waiting, timeout=0.1)
    await two.here.release([lease])
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
    used = redis_server.commands() - before
    assert (used["subscribe"], used["pttl"]) == (1, 1)


async def test_who_stops_waiting_stops_listening(two: Pair, redis_server: RedisServer) -> None:
    await took(two.here)
    busy = await refused(two.there)
    for _ in range(20):
        waiting = asyncio.create_task(two.there.wait(busy, 30))
        await asyncio.sleep(0.002)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await two.there.wait(busy, 0.1)
    await two.there.ping()
    await asyncio.sleep(0.05)
    assert redis_server.command("PUBSUB", "CHANNELS") == []


@pytest.mark.usefixtures("redis_url")  # without what others have leased
async def test_a_user_who_may_not_subscribe_is_told(redis_server: RedisServer) -> None:
    redis_server.command(
        "ACL", "SETUSER", "deaf", "on", ">p", "~*", "&*", "+@all", "-subscribe", "-psubscribe"
    )
    async with RedisStorage(f"redis://deaf:p@127.0.0.1:{redis_server.port}") as storage:
        await took(storage)
        with pytest.raises(StorageError, match="subscribe"):
            await storage.wait(await refused(storage), 1)
    redis_server.command("ACL", "DELUSER", "deaf")

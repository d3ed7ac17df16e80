"""Leases in Redis: one holder, fenced commits, and waiters that are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from gecaso.entry import Busy, Lease
from gecaso.errors import StorageError
from gecaso.keys import Key, as_key
from gecaso.storages import RedisStorage
from tests.servers import RedisServer

KEY = as_key("a")


class Two(NamedTuple):
    """Two processes, as far as the server can tell."""

    here: RedisStorage
    there: RedisStorage


@pytest.fixture
async def two(redis_url: str) -> AsyncIterator[Two]:
    async with RedisStorage(redis_url) as here, RedisStorage(redis_url) as there:
        yield Two(here, there)


async def took(storage: RedisStorage, key: Key = KEY, seconds: float = 10) -> Lease:
    lease = (await storage.lease((key,), seconds))[key]
    assert isinstance(lease, Lease)
    return lease


async def refused(storage: RedisStorage, key: Key = KEY, seconds: float = 10) -> Busy:
    busy = (await storage.lease((key,), seconds))[key]
    assert isinstance(busy, Busy)
    return busy


# --- fencing ------------------------------------------------------------------------------------


async def test_one_of_many_gets_the_lease(two: Two) -> None:
    asked = [storage.lease((KEY,), 10) for storage in two for _ in range(50)]
    got = [answer[KEY] for answer in await asyncio.gather(*asked)]
    (lease,) = [each for each in got if isinstance(each, Lease)]
    assert {each.token for each in got} == {lease.token}
    assert len({id(each) for each in got}) == 100


async def test_read_old_then_invalidated_elsewhere_then_committed_is_fenced(two: Two) -> None:
    lease = await took(two.here)
    await two.there.discard([KEY])
    assert await two.here.commit({lease: two.here.new_entry("old", 60)}) == set()
    assert await two.there.lookup(KEY) is None


async def test_a_put_during_a_load_wins(two: Two) -> None:
    lease = await took(two.here)
    await two.there.set("a", "put")
    assert await two.here.commit({lease: two.here.new_entry("loaded", 60)}) == set()
    assert await two.here.get("a") == "put"


async def test_a_late_commit_after_the_lease_was_lost_and_taken_anew_is_fenced(two: Two) -> None:
    late = await took(two.here, seconds=0.02)
    await asyncio.sleep(0.03)
    lease = await took(two.there)
    assert await two.here.commit({late: two.here.new_entry("late", 60)}) == set()
    assert await two.here.renew([late], 10) == set()
    await two.here.release([late])
    assert await two.there.commit({lease: two.there.new_entry("new", 60)}) == {KEY}
    assert await two.here.get("a") == "new"


async def test_a_commit_between_lookup_and_lease_is_seen(two: Two) -> None:
    assert await two.here.lookup(KEY) is None
    lease = await took(two.there)
    await two.there.commit({lease: two.there.new_entry("x", 60)})
    seen = (await took(two.here)).seen
    assert seen is not None
    assert (seen.value, two.here.now() < seen.fresh_until) == ("x", True)


async def test_a_commit_ends_its_lease_and_cannot_be_repeated(two: Two) -> None:
    lease = await took(two.here)
    entry = two.here.new_entry("x", 60)
    assert await two.here.commit({lease: entry}) == {KEY}
    assert await two.here.commit({lease: entry}) == set()
    await took(two.there)


async def test_some_of_many_commits_are_fenced(two: Two) -> None:
    keys = [as_key(number) for number in range(4)]
    leases = [await took(two.here, key) for key in keys]
    await two.there.discard(keys[::2])
    entries = {lease: two.here.new_entry(1, 60) for lease in leases}
    assert await two.here.commit(entries) == set(keys[1::2])


async def test_a_renewed_lease_runs_on(two: Two) -> None:
    lease = await took(two.here, seconds=0.05)
    before = lease.until
    assert await two.here.renew([lease], 10) == {KEY}
    assert lease.until > before + 9
    await asyncio.sleep(0.06)
    await refused(two.there)
    assert await two.here.commit({lease: two.here.new_entry(1, 60)}) == {KEY}


async def test_a_cancelled_taking_leaves_no_lease_behind(two: Two) -> None:
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


async def test_a_lease_alone_runs_its_block_once_at_a_time(two: Two) -> None:
    inside = most = 0

    async def work(storage: RedisStorage) -> None:
        nonlocal inside, most
        async with storage.leased("job"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    started = time.monotonic()
    await asyncio.gather(*(work(storage) for storage in two for _ in range(10)))
    assert most == 1
    assert time.monotonic() - started < 1.5  # told, not found out two seconds later


# --- waiting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["commit", "release", "discard", "store", "expire", "clear"])
async def test_a_waiter_is_told_when_the_lease_goes(redis_url: str, how: str) -> None:
    async with (
        RedisStorage(redis_url, namespace="n") as here,
        RedisStorage(redis_url, namespace="n") as there,
    ):
        lease = await took(here)
        busy = await refused(there)
        waiting = asyncio.create_task(there.wait(busy, 30))
        await asyncio.wait((waiting,), timeout=0.05)
        assert not waiting.done()
        match how:
            case "commit":
                await here.commit({lease: here.new_entry(1, 60)})
            case "release":
                await here.release([lease])
            case "discard":
                await here.discard([KEY])
            case "store":
                await here.set("a", 1)
            case "expire":
                await here.discard([KEY], keep_stale=True)
            case _:
                await here.clear()
        await asyncio.wait_for(waiting, 0.2)


async def test_waiting_for_a_lease_that_is_gone_returns_at_once(two: Two) -> None:
    lease = await took(two.here)
    busy = await refused(two.there)
    await two.here.release([lease])
    await asyncio.wait_for(two.there.wait(busy, 30), 0.5)
    await took(two.here)  # gone, though another has it now
    await asyncio.wait_for(two.there.wait(busy, 30), 0.5)


async def test_a_waiter_waits_no_longer_than_it_may(two: Two) -> None:
    await took(two.here)
    busy = await refused(two.there)
    started = time.monotonic()
    await two.there.wait(busy, 0.05)
    assert 0.045 < time.monotonic() - started < 0.3


async def test_a_lease_that_runs_out_wakes_its_waiters(two: Two) -> None:
    await took(two.here, seconds=0.1)
    busy = await refused(two.there)
    started = time.monotonic()
    await two.there.wait(busy, 30)
    assert 0.05 < time.monotonic() - started < 0.5
    await took(two.there)


async def test_a_renewed_lease_keeps_its_waiters_waiting(two: Two) -> None:
    lease = await took(two.here, seconds=0.1)
    busy = await refused(two.there)
    waiting = asyncio.create_task(two.there.wait(busy, 30))
    await asyncio.wait((waiting,), timeout=0.05)
    await two.here.renew([lease], 30)
    await asyncio.wait((waiting,), timeout=0.15)
    assert not waiting.done()
    await two.here.release([lease])
    await asyncio.wait_for(waiting, 0.2)


async def test_waiters_share_one_subscription_and_one_look(
    two: Two, redis_server: RedisServer
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


async def test_who_stops_waiting_stops_listening(two: Two, redis_server: RedisServer) -> None:
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


async def test_a_lost_subscription_wakes_the_waiters(two: Two, redis_server: RedisServer) -> None:
    lease = await took(two.here)
    busy = await refused(two.there)
    waiting = asyncio.create_task(two.there.wait(busy, 30))
    await asyncio.wait((waiting,), timeout=0.1)
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await asyncio.wait_for(waiting, 0.5)
    waiting = asyncio.create_task(two.there.wait(busy, 30))
    await asyncio.wait((waiting,), timeout=0.1)
    assert not waiting.done()
    await two.here.release([lease])
    await asyncio.wait_for(waiting, 0.5)


async def test_a_user_who_may_not_subscribe_is_told(redis_server: RedisServer) -> None:
    redis_server.command(
        "ACL", "SETUSER", "deaf", "on", ">p", "~*", "&*", "+@all", "-subscribe", "-psubscribe"
    )
    async with RedisStorage(f"redis://deaf:p@127.0.0.1:{redis_server.port}") as storage:
        await took(storage)
        with pytest.raises(StorageError, match="subscribe"):
            await storage.wait(await refused(storage), 1)
    redis_server.command("ACL", "DELUSER", "deaf")

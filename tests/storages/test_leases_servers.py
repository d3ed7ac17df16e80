"""Leases in a storage over a server: one holder at a time, and waiters that are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest

from gecaso import EntryStorage
from gecaso.entry import Lease
from tests.scenes import Place, place_for
from tests.servers import RedisServer
from tests.storages.leases_kit import KEY, Two, refused, took
from tests.storages.postgres_kit import end_listeners
from tests.storages.servers_kit import opened

Pair = Two[EntryStorage]


class Pace(NamedTuple):
    """Seconds. Postgres has a process for each connection."""

    told: float = 0.2  # at most, until a waiter knows of what was done
    noticed: float = 0.5  # and of what nobody has done: the end of a lease, of a connection
    overtime: float = 0.25  # at most, that a wait is longer than it may
    settled: float = 0.1  # until a waiter listens
    lease: float = 0.1
    alone: float = 1.5  # for twenty locks one after another; not found out, two seconds later each


PACES = {
    "redis": Pace(),
    "postgres": Pace(told=1.0, noticed=2.0, overtime=0.9, settled=0.2, lease=0.4, alone=10.0),
}


def end_subscriptions(server: RedisServer) -> None:
    server.command("CLIENT", "KILL", "TYPE", "pubsub")


DEAFENING: dict[str, Callable[[Any], None]] = {
    "redis": end_subscriptions,
    "postgres": end_listeners,
}


@pytest.fixture(params=list(PACES))
def place(request: pytest.FixtureRequest) -> Place:
    return place_for(request)


@pytest.fixture
def pace(place: Place) -> Pace:
    return PACES[place.kind]


@pytest.fixture
async def two(place: Place) -> AsyncIterator[Pair]:
    async with opened(place, namespace="n") as here, opened(place, namespace="n") as there:
        yield Two(here, there)


# --- fencing --------------------------------------------------------------------------------------


async def test_one_of_many_gets_the_lease(two: Pair) -> None:
    asked = [storage.lease((KEY,), 10) for storage in two for _ in range(50)]
    got = [answer[KEY] for answer in await asyncio.gather(*asked)]
    (lease,) = [each for each in got if isinstance(each, Lease)]
    assert {each.token for each in got} == {lease.token}
    assert len({id(each) for each in got}) == 100


@pytest.mark.parametrize("place", [*PACES, "memcached"], indirect=True)
async def test_a_commit_between_lookup_and_lease_is_seen(two: Pair) -> None:
    assert await two.here.lookup(KEY) is None
    lease = await took(two.there)
    assert await two.there.commit({lease: two.there.new_entry("x", 60)}) == {KEY}
    seen = (await took(two.here)).seen
    assert seen is not None
    assert (seen.value, two.here.now() < seen.fresh_until) == ("x", True)


async def test_a_lease_alone_runs_its_block_once_at_a_time(two: Pair, pace: Pace) -> None:
    inside = most = 0

    async def work(storage: EntryStorage) -> None:
        nonlocal inside, most
        async with storage.leased("job"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    started = time.monotonic()
    await asyncio.gather(*(work(storage) for storage in two for _ in range(10)))
    assert most == 1
    assert time.monotonic() - started < pace.alone


# --- waiting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["commit", "release", "discard", "store", "expire", "clear"])
async def test_a_waiter_is_told_when_the_lease_goes(two: Pair, pace: Pace, how: str) -> None:
    lease = await took(two.here)
    busy = await refused(two.there)
    waiting = asyncio.create_task(two.there.wait(busy, 30))
    await asyncio.wait((waiting,), timeout=pace.settled)
    assert not waiting.done()
    match how:
        case "commit":
            await two.here.commit({lease: two.here.new_entry(1, 60)})
        case "release":
            await two.here.release([lease])
        case "discard":
            await two.here.discard([KEY])
        case "store":
            await two.here.set("a", 1)
        case "expire":
            await two.here.discard([KEY], keep_stale=True)
        case _:
            await two.here.clear()
    await asyncio.wait_for(waiting, pace.told)


async def test_waiting_for_a_lease_that_is_gone_returns_at_once(two: Pair, pace: Pace) -> None:
    lease = await took(two.here)
    busy = await refused(two.there)
    await two.here.release([lease])
    await asyncio.wait_for(two.there.wait(busy, 30), pace.noticed)
    await took(two.here)  # gone, though another has it now
    await asyncio.wait_for(two.there.wait(busy, 30), pace.noticed)


async def test_a_waiter_waits_no_longer_than_it_may(two: Pair, pace: Pace) -> None:
    await took(two.here)
    busy = await refused(two.there)
    for seconds in (0.05, 0.1):  # the first has to listen
        started = time.monotonic()
        await two.there.wait(busy, seconds)
        waited = time.monotonic() - started
        assert 0.9 * seconds < waited < seconds + pace.overtime


async def test_a_lease_that_runs_out_wakes_its_waiters(two: Pair, pace: Pace) -> None:
    await took(two.here, seconds=pace.lease)
    busy = await refused(two.there)
    started = time.monotonic()
    await two.there.wait(busy, 30)
    assert 0.05 < time.monotonic() - started < pace.noticed
    await took(two.there)


async def test_a_renewed_lease_keeps_its_waiters_waiting(two: Pair, pace: Pace) -> None:
    lease = await took(two.here, seconds=pace.lease)
    busy = await refused(two.there)
    waiting = asyncio.create_task(two.there.wait(busy, 30))
    await asyncio.wait((waiting,), timeout=0.05)
    await two.here.renew([lease], 30)
    await asyncio.wait((waiting,), timeout=1.5 * pace.lease)
    assert not waiting.done()
    await two.here.release([lease])
    await asyncio.wait_for(waiting, pace.told)


async def test_a_lost_connection_wakes_the_waiters(
    two: Pair, place: Place, pace: Pace, request: pytest.FixtureRequest
) -> None:
    lease = await took(two.here)
    busy = await refused(two.there)
    waiting = asyncio.create_task(two.there.wait(busy, 30))
    await asyncio.wait((waiting,), timeout=pace.settled)
    DEAFENING[place.kind](request.getfixturevalue(f"{place.kind}_server"))
    await asyncio.wait_for(waiting, pace.noticed)
    waiting = asyncio.create_task(two.there.wait(busy, 30))
    await asyncio.wait((waiting,), timeout=pace.settled)
    assert not waiting.done()
    await two.here.release([lease])
    await asyncio.wait_for(waiting, pace.told)

"""No mark of a lease that has ended stays behind, whoever else was at the key meanwhile.

What is left behind keeps everybody waiting until its time is over. Each of these orders was found
by `tests.searches`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gecaso.entry import Lease
from gecaso.storages import MemcachedStorage
from tests.storages.memcached_kit import KEY, committed, interleave, leased


@pytest.fixture
async def ours(memcached_url: str) -> AsyncIterator[MemcachedStorage]:
    async with MemcachedStorage(memcached_url) as storage:
        yield storage


@pytest.fixture
async def others(memcached_url: str) -> AsyncIterator[MemcachedStorage]:
    async with MemcachedStorage(memcached_url) as storage:
        await storage.set(KEY, "stored", ttl=60)
        yield storage


def before_the_second(
    monkeypatch: pytest.MonkeyPatch, command: str, act: Callable[[], Awaitable[object]]
) -> None:
    """Run ``act`` once, just before the second such command from now on is sent."""

    async def after_the_first() -> None:
        interleave(monkeypatch, command, act)

    interleave(monkeypatch, command, after_the_first)


async def test_a_put_between_a_mark_and_the_look_at_its_value_leaves_no_lease(
    ours: MemcachedStorage, others: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases: list[Lease] = []

    async def lease() -> None:  # the put has taken away the mark beside the value; there was none
        leases.append(await leased(ours))

    interleave(monkeypatch, "set_all", lease)
    await others.set(KEY, "put", ttl=60)
    assert not await committed(ours, leases[0], "loaded")
    assert await others.get(KEY) == "put"
    await leased(others)


async def test_an_eviction_while_a_lease_is_released_leaves_no_lease(
    ours: MemcachedStorage, others: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leased(ours)
    interleave(monkeypatch, "cas", lambda: others.evict([KEY]))
    await ours.release([lease])
    await leased(others)


async def test_a_release_while_its_value_is_evicted_leaves_no_lease(
    ours: MemcachedStorage, others: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leased(ours)
    interleave(monkeypatch, "cas", lambda: ours.release([lease]))
    await others.evict([KEY])
    await leased(others)


async def test_an_eviction_of_what_was_just_committed_leaves_no_lease(
    ours: MemcachedStorage, others: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leased(ours)
    before_the_second(monkeypatch, "cas", lambda: others.evict([KEY]))
    assert await committed(ours, lease, "loaded")
    await leased(others)


async def test_an_eviction_while_a_lease_is_taken_does_not_make_it_wait_for_itself(
    ours: MemcachedStorage, others: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    interleave(monkeypatch, "look", lambda: others.evict([KEY]))
    lease = await leased(ours)
    assert lease.seen is None
    assert await committed(ours, lease, "loaded")
    assert await others.get(KEY) == "loaded"


async def test_a_renewed_lease_stays_when_its_value_is_evicted(
    ours: MemcachedStorage, others: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leased(ours)
    interleave(monkeypatch, "cas", lambda: ours.renew([lease], 20))
    await others.evict([KEY])
    assert await committed(ours, lease, "loaded")


async def test_a_release_during_a_renewal_whose_value_has_gone_leaves_no_lease(
    ours: MemcachedStorage, others: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leased(ours)
    await others.evict([KEY])
    interleave(monkeypatch, "add", lambda: ours.release([lease]))
    assert await ours.renew([lease], 20) == set()
    await leased(others)

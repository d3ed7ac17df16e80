"""A storage of several servers is in trouble in parts: that of one is not that of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from functools import partial

import pytest

from gecaso import Cache, Entry, InvalidationFailed, Key, Lease, StorageError, events
from gecaso.guard import Guard, guard_of
from gecaso.keys import as_key
from tests.scenes import Distant, patience

HERE, THERE = as_key("here"), as_key("there")


class InTwoPlaces(Distant):
    """A storage on two servers, one of which has the key ``there``, and can be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.is_lost = False
        self.discarded: list[Collection[Key]] = []
        self.released = set[Key]()

    def lost(self, keys: Iterable[Key]) -> StorageError:
        error = StorageError("one server is gone")
        error.part = "the other"
        error.keys = tuple(key for key in keys if key == THERE)
        return error

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        keys = list(keys)
        if self.is_lost and keys == [THERE]:
            raise self.lost(keys)
        return await super().fetch(keys)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        keys = list(keys)
        self.discarded.append(keys)
        await super().discard(
            [key for key in keys if not (self.is_lost and key == THERE)], keep_stale=keep_stale
        )
        if self.is_lost and THERE in keys:
            raise self.lost(keys)

    async def release(self, leases: Iterable[Lease]) -> None:
        leases = list(leases)
        self.released |= {lease.key for lease in leases}
        await super().release(leases)


@pytest.fixture
def storage() -> InTwoPlaces:
    return InTwoPlaces()


@pytest.fixture
def guard(storage: InTwoPlaces) -> Guard:
    return guard_of(storage)


async def invalidate(storage: InTwoPlaces, guard: Guard, *keys: Key) -> None:
    await guard.invalidate(keys, lambda: storage.discard(keys), timeout=0.0, journal=False)


async def test_trouble_of_a_part_is_counted_and_told_and_opens_nothing(
    storage: InTwoPlaces,
) -> None:
    cache = Cache(storage, ttl=60)
    storage.is_lost = True
    seen = list[events.Event]()
    with events.listening(seen.append):
        for n in range(9):
            assert await cache.get_or_create("there", partial(int, n)) == n
    assert sum(isinstance(one, events.StorageFailed) for one in seen) == 9
    assert guard_of(storage).is_quiet
    assert await cache.get_or_create("here", lambda: 1) == 1
    assert await cache.get_or_create("here", lambda: 2) == 1
    await cache.aclose()


async def test_an_invalidation_of_many_is_pending_for_those_that_failed(
    storage: InTwoPlaces, guard: Guard
) -> None:
    storage.is_lost = True
    seen = list[events.Event]()
    with events.listening(seen.append), pytest.raises(InvalidationFailed) as caught:
        await invalidate(storage, guard, HERE, THERE)
    assert caught.value.keys == (THERE,)
    assert guard.pending.keys() == {THERE}
    told = {(one.keys, one.confirmed) for one in seen if isinstance(one, events.Invalidated)}
    assert told == {((HERE,), True), ((THERE,), False)}
    await guard.aclose()


async def test_an_error_that_names_other_keys_is_about_all(
    storage: InTwoPlaces, guard: Guard
) -> None:
    async def fail() -> None:
        raise storage.lost([THERE])

    with pytest.raises(InvalidationFailed):
        await guard.invalidate((HERE,), fail, timeout=0.0, journal=False)
    assert guard.pending.keys() == {HERE}
    await guard.aclose()


async def test_a_retry_settles_what_it_could_do_and_hands_back_leases_meanwhile(
    storage: InTwoPlaces, guard: Guard
) -> None:
    lease = (await storage.lease([as_key("leased")], 30))[as_key("leased")]
    assert isinstance(lease, Lease)
    storage.trouble = StorageError("all of it is gone")
    with pytest.raises(InvalidationFailed):
        await invalidate(storage, guard, HERE, THERE)
    assert guard.pending.keys() == {HERE, THERE}
    guard.hand_back(lease)
    storage.trouble, storage.is_lost = None, True
    started = time.monotonic()
    async with patience():
        while guard.pending.keys() != {THERE} or not storage.released:  # noqa: ASYNC110 - tasks of the guard tell nobody
            await asyncio.sleep(0.001)
    assert time.monotonic() - started < 2.0
    storage.is_lost = False
    async with patience():
        while guard.pending:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.001)
    await guard.aclose()

"""What happens to keys when the list of a pool's servers changes, here and in other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gecaso import Key, WaitTimeout
from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_pool import AGREEMENT
from gecaso.storages._memcached_server import Address
from tests.servers import MemcachedServer
from tests.storages.memcached_kit import committed, leased, owner

SECONDS = 5.0  # for one operation: a busy machine is no trouble of the storage
Servers = list[MemcachedServer]
Both = tuple[MemcachedStorage, MemcachedStorage]


class Changing:
    """A list of servers that each process hears of when the test says so."""

    def __init__(self, servers: Servers) -> None:
        self.all = [Address.parse(one.url.partition("://")[2]) for one in servers]

    def tell(self, storage: MemcachedStorage, *numbers: int) -> None:
        pool = storage._pool  # pyright: ignore[reportPrivateUsage] - in the place of its source
        pool.take([self.all[n] for n in numbers])

    def pass_time(self, *storages: MemcachedStorage) -> None:
        """Let all processes have heard of the last change long ago."""
        for storage in storages:
            view = storage._pool.view  # pyright: ignore[reportPrivateUsage] - its clock is real
            assert view is not None
            late = 30 + AGREEMENT
            view.since = [since - late for since in view.since]
            view.settled_at -= late


@pytest.fixture
def changing(memcached_servers: Servers, memcached_pool: list[str]) -> Changing:
    return Changing(memcached_servers)


@pytest.fixture
async def processes(memcached_pool: list[str]) -> AsyncIterator[Both]:
    """Two processes over a pool of which they know two servers."""
    async with (
        MemcachedStorage(memcached_pool[:2], timeout=SECONDS) as one,
        MemcachedStorage(memcached_pool[:2], timeout=SECONDS) as two,
    ):
        yield one, two


def moving(storage: MemcachedStorage, changing: Changing, *to: int) -> tuple[Key, Key]:
    """Return a key that moves with a change to these servers, and one that stays."""
    probe = MemcachedStorage([f"{one.host}:{one.port}" for one in (changing.all[n] for n in to)])
    keys = [as_key(f"key {n}") for n in range(100)]
    moves = next(key for key in keys if owner(storage, key) != owner(probe, key))
    stays = next(key for key in keys if owner(storage, key) == owner(probe, key))
    return moves, stays


async def value(storage: MemcachedStorage, key: Key) -> Any:
    entry = (await storage.fetch([key])).get(key)
    looked = await storage.lookup(key)
    assert (entry is None) == (looked is None)
    return None if entry is None else entry.value


async def put(storage: MemcachedStorage, key: Key, value: object) -> None:
    await storage.store({key: storage.new_entry(value, 600)})


async def test_keys_that_do_not_move_are_found_and_kept_as_before(
    processes: Both, changing: Changing
) -> None:
    one, two = processes
    _, stays = moving(one, changing, 0, 1, 2)
    await put(one, stays, "kept")
    changing.tell(one, 0, 1, 2)
    assert await value(one, stays) == "kept"
    lease = await leased(one, as_key("another"))
    assert await value(two, stays) == "kept"
    await one.release([lease])


async def test_what_is_invalidated_while_processes_disagree_is_old_for_nobody(
    processes: Both, changing: Changing
) -> None:
    one, late = processes
    moves, _ = moving(one, changing, 0, 1, 2)
    await put(one, moves, "old")
    assert await value(late, moves) == "old"
    changing.tell(one, 0, 1, 2)
    assert await value(one, moves) is None
    await one.discard([moves])  # at its new place, and where others still look
    assert await value(late, moves) is None
    # The late one says nothing to the new place; so nothing may have been kept there meanwhile.
    lease = await leased(one, moves)
    assert not await committed(one, lease, "old")
    await late.discard([moves])
    assert await value(one, moves) is None
    changing.tell(late, 0, 1, 2)
    assert await value(late, moves) is None
    changing.pass_time(one, late)
    assert await value(one, moves) is None
    lease = await leased(one, moves)
    assert await committed(one, lease, "new")
    assert await value(late, moves) == "new"


async def test_a_server_that_comes_back_with_what_it_had_is_not_believed(
    processes: Both, changing: Changing
) -> None:
    one, two = processes
    moves, _ = moving(one, changing, 0, 1, 2)
    await put(one, moves, "old")
    for numbers in ((0, 1, 2), (0, 1)):
        for each in processes:
            changing.tell(each, *numbers)
        changing.pass_time(one, two)
        if len(numbers) == 3:
            await one.discard([moves])  # the server that has the old value does not hear of it
    assert await value(one, moves) is None
    assert await value(two, moves) is None
    lease = await leased(two, moves)
    assert lease.seen is None
    assert await committed(two, lease, "new")
    assert await value(one, moves) == "new"


async def test_a_lease_from_before_a_change_stores_nothing_after_it(
    processes: Both, changing: Changing
) -> None:
    one, _ = processes
    moves, _ = moving(one, changing, 0, 1, 2)
    lease = await leased(one, moves)
    changing.tell(one, 0, 1, 2)
    assert await one.renew([lease], 10) == set()
    await one.release([lease])
    changing.pass_time(one)
    changing.tell(one, 0, 1)
    changing.pass_time(one)
    assert not await committed(one, lease, "from before")
    assert await value(one, moves) is None


async def test_a_key_that_is_moving_is_loaded_for_everybody_and_put_nowhere(
    processes: Both, changing: Changing
) -> None:
    one, _ = processes
    moves, _ = moving(one, changing, 0, 1, 2)
    changing.tell(one, 0, 1, 2)
    first, second = await leased(one, moves), await leased(one, moves)
    assert first.token != second.token
    await put(one, moves, "put")
    assert await value(one, moves) is None


async def test_a_lock_excludes_others_while_its_key_is_moving(
    processes: Both, changing: Changing
) -> None:
    one, two = processes
    for each in processes:
        changing.tell(each, 0, 1, 2)
    for name in range(12):
        async with one.leased(name):
            with pytest.raises(WaitTimeout):
                async with two.leased(name, wait_timeout=0.0):
                    pass
        async with two.leased(name, wait_timeout=0.0):
            pass


async def test_an_invalidation_does_not_fail_for_a_server_that_has_left_and_is_gone(
    own_memcached_pool: Servers,
) -> None:
    changing = Changing(own_memcached_pool)
    async with MemcachedStorage([one.url for one in own_memcached_pool]) as storage:
        keys = [as_key(n) for n in range(50)]
        await storage.store({key: storage.new_entry(1) for key in keys})
        own_memcached_pool[2].kill()
        changing.tell(storage, 0, 1)
        await storage.discard(keys)
        assert await storage.fetch(keys) == {}


async def test_the_ways_to_servers_that_have_left_are_closed_in_the_end(
    memcached_pool: list[str], changing: Changing
) -> None:
    async with MemcachedStorage(memcached_pool, resolve_every=0.01) as storage:
        await storage.ping()
        here = storage._here.get()  # pyright: ignore[reportPrivateUsage] - what is counted
        assert here.connections == 6
        changing.tell(storage, 0)
        view = storage._pool.view  # pyright: ignore[reportPrivateUsage] - its clock is real
        assert view is not None
        view.settled_at = 0.0
        await storage.ping()
        await asyncio.sleep(0.05)
        assert here.connections == 2

"""A pool of memcached: the contract, which server has which key, and a server out of reach."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gecaso import Cache, EntryStorage, InvalidationFailed, Key
from gecaso.entry import Entry
from gecaso.errors import StorageError
from gecaso.guard import guard_of
from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage
from gecaso.testing import StorageContract
from tests.scenes import Process, Truth
from tests.servers import MemcachedServer
from tests.storages.memcached_kit import leased, owner

SECONDS = 5.0  # for one operation: a busy machine is no trouble of the storage
Servers = list[MemcachedServer]


class TestAPoolOfThree(StorageContract):
    servers: Sequence[MemcachedServer]
    shortest_lease = 3.0

    @pytest.fixture
    def storage(self, memcached_pool: list[str], memcached_servers: Servers) -> EntryStorage:
        self.servers = memcached_servers
        return self.another(None)

    def another(self, storage: Any) -> EntryStorage:
        urls = [server.url for server in self.servers]
        return MemcachedStorage(urls, namespace="t", timeout=SECONDS, connect_timeout=SECONDS)

    async def damage(self, storage: Any, key: Key) -> bool:
        for server in self.servers:
            if server.command(f"get t:{key}")[0] != b"END":
                return server.command(f"set t:{key} 0 0 7", b"garbage") == [b"STORED"]
        return False


@pytest.fixture
async def storage(memcached_pool: list[str]) -> AsyncIterator[MemcachedStorage]:
    async with MemcachedStorage(
        memcached_pool, namespace="t", timeout=SECONDS, connect_timeout=SECONDS
    ) as storage:
        yield storage


def holders(servers: Servers, name: str) -> list[int]:
    return [n for n, one in enumerate(servers) if one.command(f"get {name}")[0] != b"END"]


# --- which server has which key -----------------------------------------------------------------


async def test_each_key_is_on_one_server_and_every_process_finds_it(
    storage: MemcachedStorage, memcached_pool: list[str], memcached_servers: Servers
) -> None:
    await storage.set_many({f"k{n}": n for n in range(90)})
    places = [holders(memcached_servers, f"t:k{n}") for n in range(90)]
    assert all(len(place) == 1 for place in places)
    assert {place[0] for place in places} == {0, 1, 2}
    other = MemcachedStorage([*reversed(memcached_pool)], namespace="t", timeout=SECONDS)
    assert await other.get_many(f"k{n}" for n in range(90)) == {f"k{n}": n for n in range(90)}
    found = await asyncio.gather(*[other.get(f"k{n}") for n in range(90)])
    assert found == list(range(90))
    await other.aclose()


async def test_a_lease_beside_a_value_and_its_parts_are_where_the_value_is(
    storage: MemcachedStorage, memcached_servers: Servers
) -> None:
    for n in range(6):
        key, now = as_key(f"k{n}"), storage.now()
        await storage.store({key: Entry("old", now - 9, now - 1, now + 99, version=b"1")})
        await leased(storage, key)
        (place,) = holders(memcached_servers, f"t:k{n}")
        assert holders(memcached_servers, f"t:k{n}~") == [place]
    before = [one.commands()["set"] for one in memcached_servers]
    await storage.set("large", random.Random(5).randbytes(3_000_000))
    after = [one.commands()["set"] for one in memcached_servers]
    (place,) = holders(memcached_servers, "t:large")
    assert [n for n in range(3) if before[n] != after[n]] == [place]


async def test_ten_thousand_keys_are_stored_found_and_removed(storage: MemcachedStorage) -> None:
    values = {n: n for n in range(10_000)}
    await storage.set_many(values, ttl=60)
    assert await storage.get_many(values) == values
    await storage.remove(*values)
    assert await storage.get_many(values) == {}


async def test_a_pool_is_written_as_one_url_too(memcached_pool: list[str]) -> None:
    hosts = ",".join(url.partition("://")[2] for url in memcached_pool)
    async with MemcachedStorage(f"memcached://{hosts}", timeout=SECONDS) as storage:
        await storage.ping()
        assert repr(storage).count("127.0.0.1:") == 3


# --- one server is out of reach -----------------------------------------------------------------


async def fill(process: Process, count: int) -> None:
    for n in range(count):
        await process.thing(n)


def keys_of(storage: EntryStorage, server: MemcachedServer, count: int) -> list[int]:
    assert isinstance(storage, MemcachedStorage)
    return [n for n in range(count) if owner(storage, as_key(f"thing:{n}")) == server.address]


@pytest.mark.fault
async def test_one_of_three_killed_leaves_two_thirds_of_the_keys_hitting(
    own_memcached_pool: Servers,
) -> None:
    process = Process(MemcachedStorage([one.url for one in own_memcached_pool]), Truth())
    await fill(process, 100)
    gone = keys_of(process.storage, own_memcached_pool[0], 100)
    assert 15 <= len(gone) <= 55
    loads = process.truth.loads
    own_memcached_pool[0].kill()
    took = list[float]()

    async def caller(n: int) -> None:
        for _ in range(20):
            started = time.perf_counter()
            assert await process.thing(n) == f"{n} in version 0"
            took.append(time.perf_counter() - started)

    await asyncio.gather(*map(caller, range(100)))
    assert process.truth.loads - loads == 20 * len(gone)  # the others hit, every time
    assert process.thing.stats.hits == 20 * (100 - len(gone))
    took.sort()
    assert took[len(took) * 99 // 100] <= 0.3
    await asyncio.to_thread(own_memcached_pool[0].start)
    back = time.monotonic() + 2.0
    while True:  # only calls find out that it is back
        before = process.truth.loads
        await asyncio.gather(*map(process.thing, gone))
        if process.truth.loads == before:
            break
        assert time.monotonic() < back
        await asyncio.sleep(0.01)
    await process.cache.aclose()


@pytest.mark.fault
async def test_a_hanging_server_costs_its_keys_one_timeout_and_the_others_nothing(
    own_memcached_pool: Servers,
) -> None:
    process = Process(MemcachedStorage([one.url for one in own_memcached_pool]), Truth())
    await fill(process, 60)
    gone = keys_of(process.storage, own_memcached_pool[1], 60)
    others = [n for n in range(60) if n not in gone]
    own_memcached_pool[1].pause()
    hanging = [process.call(n) for n in gone]
    started = time.perf_counter()
    loads = process.truth.loads
    await asyncio.gather(*map(process.thing, others))
    assert time.perf_counter() - started < 0.2  # the slow one does not hold up their answers
    assert process.truth.loads == loads
    await asyncio.gather(*hanging)
    for _ in range(4):  # until it is left alone
        await asyncio.gather(*map(process.thing, gone))
    started = time.perf_counter()
    for n in range(60):
        await process.thing(n)
    assert time.perf_counter() - started < 0.2
    own_memcached_pool[1].resume()
    await process.cache.aclose()


@pytest.mark.fault
async def test_many_keys_at_once_are_answered_by_those_that_are_there(
    own_memcached_pool: Servers,
) -> None:
    async with MemcachedStorage([one.url for one in own_memcached_pool]) as storage:
        values = {n: n for n in range(300)}
        await storage.set_many(values)
        own_memcached_pool[2].kill()
        address = own_memcached_pool[2].address
        there = {n: n for n in values if owner(storage, as_key(n)) != address}
        assert await storage.get_many(values) == there
        leases = await storage.lease(map(as_key, values), 10)
        assert len(leases) == len(there)
        lost = next(n for n in values if n not in there)
        with pytest.raises(StorageError, match=address) as raised:
            await storage.get(lost)
        assert raised.value.part == address
        with pytest.raises(StorageError) as raised:
            await storage.remove(*values)
        assert set(raised.value.keys) == {as_key(n) for n in values if n not in there}
        assert await storage.get_many(there) == {}


@pytest.mark.fault
async def test_a_server_that_is_left_alone_is_probed_by_one_and_by_no_more(
    own_memcached_pool: Servers,
) -> None:
    async with MemcachedStorage([one.url for one in own_memcached_pool]) as storage:
        await storage.ping()
        lost = next(
            n for n in range(99) if owner(storage, as_key(n)) == own_memcached_pool[0].address
        )
        own_memcached_pool[0].kill()
        for _ in range(3):
            with pytest.raises(StorageError, match="out of reach"):
                await storage.get(lost)
        assert not storage.health().ok
        assert [name for name, one in storage.breakers().items() if one.is_open] == [
            own_memcached_pool[0].address
        ]
        started = time.perf_counter()
        for _ in range(100):
            with pytest.raises(StorageError, match="left alone"):
                await storage.get(lost)
        assert time.perf_counter() - started < 0.2
        await asyncio.to_thread(own_memcached_pool[0].start)
        outcomes = await asyncio.gather(
            *[storage.get_many([lost]) for _ in range(100)], return_exceptions=True
        )
        assert {type(one) for one in outcomes} <= {StorageError, dict}
        back = time.monotonic() + 2.0
        while time.monotonic() < back:
            await asyncio.sleep(0.01)
            try:
                await storage.get_many([lost])
                break
            except StorageError:
                pass
        connections = int(own_memcached_pool[0].stats()["total_connections"])
        assert connections <= 2 + 4  # ours, and those that this test asks over


@pytest.mark.fault
async def test_an_invalidation_that_one_server_missed_is_pending_for_its_keys_alone(
    own_memcached_pool: Servers,
) -> None:
    storage = MemcachedStorage([one.url for one in own_memcached_pool])
    cache = Cache(storage, ttl=60, invalidate_timeout=0.1)
    for n in range(60):
        await cache.set(n, "old")
    address = own_memcached_pool[0].address
    lost = {n for n in range(60) if owner(storage, as_key(n)) == address}
    own_memcached_pool[0].pause()
    with pytest.raises(InvalidationFailed) as raised:
        await cache.remove(*range(60))
    assert set(raised.value.keys) == {as_key(n) for n in lost}
    assert guard_of(storage).pending.keys() == {as_key(n) for n in lost}
    own_memcached_pool[0].resume()
    back = time.monotonic() + 5.0
    while guard_of(storage).pending:
        assert time.monotonic() < back
        await asyncio.sleep(0.01)
    assert await storage.get_many(range(60)) == {}
    await cache.aclose()

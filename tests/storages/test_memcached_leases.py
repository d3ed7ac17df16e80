"""Leases, invalidations and the races between them, on a real memcached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_client import Connections
from gecaso.storages._memcached_records import Mark
from tests.servers import MemcachedServer
from tests.storages.memcached_kit import (
    KEY,
    committed,
    interleave,
    leased,
    pass_time,
    refused,
    stale,
)

# --- leases -----------------------------------------------------------------------------------


async def test_a_key_has_one_lease_at_a_time(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    lease = await leased(storage)
    busy = await refused(other)
    assert busy.token == lease.token
    assert 9 < busy.retry_in <= 10
    assert busy.stale is None
    assert await storage.fetch([KEY]) == {}


async def test_what_is_stored_while_a_lease_takes_the_place_of_garbage_stays(
    storage: MemcachedStorage,
    other: MemcachedStorage,
    memcached_server: MemcachedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memcached_server.command(f"set t:{KEY} 0 0 7", b"garbage")
    interleave(monkeypatch, "cas", lambda: other.set(KEY, "new"))
    lease = await leased(storage)
    assert lease.seen is not None
    assert lease.seen.value == "new"
    assert await other.get(KEY) == "new"


async def test_of_many_that_ask_at_once_one_gets_the_lease(memcached_url: str) -> None:
    storages = [MemcachedStorage(memcached_url) for _ in range(10)]
    got = await asyncio.gather(*[one.lease([KEY], 10) for one in storages])
    assert sum(isinstance(one[KEY], Lease) for one in got) == 1
    for one in storages:
        await one.aclose()


async def test_a_lease_runs_for_three_seconds_at_least(storage: MemcachedStorage) -> None:
    lease = await leased(storage, seconds=0.1)
    assert lease.until - storage.now() == pytest.approx(3.0, abs=0.1)


async def test_the_mark_of_a_dead_process_is_replaced_when_its_time_is_over(
    storage: MemcachedStorage, other: MemcachedStorage, memcached_server: MemcachedServer
) -> None:
    old = await leased(storage, seconds=10)
    await other.ping()
    pass_time(10.0, other)
    memcached_server.command("touch t:a 0")
    new = await leased(other)
    assert not await committed(storage, old, "late")
    assert not await storage.renew([old], 10)
    assert await committed(other, new, "new")
    assert await other.get("a") == "new"


async def test_a_mark_without_an_end_on_the_server_does_not_block_for_ever(
    storage: MemcachedStorage, memcached_server: MemcachedServer
) -> None:
    mark = Mark(new_token(), time.time() - 1).pack()
    memcached_server.command(f"set t:a 0 0 {len(mark)}", mark)
    assert await storage.fetch([KEY]) == {}
    assert storage.corrupt == 0
    await leased(storage)


async def test_commit_stores_and_ends_the_lease(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    lease = await leased(storage)
    assert await storage.commit({lease: storage.new_entry(1, 60)}) == {KEY}
    assert await other.get("a") == 1
    assert not await committed(storage, lease, 2)
    assert await other.get("a") == 1


async def test_release_ends_the_lease_at_once(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    lease = await leased(storage)
    await storage.release([lease])
    taken = await leased(other)
    await storage.release([lease])
    assert (await refused(storage)).token == taken.token
    assert not await committed(storage, lease, 1)


async def test_release_takes_no_value_away(storage: MemcachedStorage) -> None:
    lease = await leased(storage)
    await committed(storage, lease, 1)
    await storage.release([lease])
    assert await storage.get("a") == 1


async def test_renew_lets_a_lease_run_on(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    lease = await leased(storage, seconds=10)
    assert await storage.renew([lease], 60) == {KEY}
    await other.ping()
    pass_time(30.0, other)
    await refused(other)
    assert lease.until - storage.now() == pytest.approx(60, abs=0.5)
    assert await committed(storage, lease, 1)


async def test_a_renewal_during_a_commit_does_not_fence_it(
    storage: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leased(storage)
    interleave(monkeypatch, "cas", lambda: storage.renew([lease], 20))
    assert await committed(storage, lease, 1)


async def test_many_leases_are_taken_committed_and_released_together(
    storage: MemcachedStorage,
) -> None:
    keys = [as_key(n) for n in range(50)]
    got = await storage.lease(keys, 10)
    leases = [one for one in got.values() if isinstance(one, Lease)]
    assert len(leases) == 50
    stored = await storage.commit({one: storage.new_entry(1) for one in leases[:25]})
    assert stored == set(keys[:25])
    await storage.release(leases)
    assert len(await storage.fetch(keys)) == 25
    assert await storage.renew(leases, 10) == set()


async def test_no_keys_are_no_work(memcached_url: str) -> None:
    storage = MemcachedStorage("localhost:1")
    assert await storage.fetch([]) == {}
    assert await storage.lease([], 10) == {}
    assert await storage.commit({}) == set()
    assert await storage.renew([], 10) == set()
    assert await storage.store({}) == set()
    await storage.release([])
    await storage.discard([])
    await storage.evict([])


async def test_the_lock_alone_excludes_others_and_is_given_back(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    async with storage.leased("job"):
        with pytest.raises(TimeoutError):
            async with other.leased("job", wait_timeout=0.0):
                pass
    async with other.leased("job", wait_timeout=0.0):
        pass


# --- leases beside a value ----------------------------------------------------------------------


async def test_a_refresh_leases_beside_the_value_that_stays_readable(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    await storage.store({KEY: stale(storage)})
    lease = await leased(storage)
    assert lease.seen is not None
    assert lease.seen.value == "old"
    busy = await refused(other)
    assert busy.token == lease.token
    assert busy.stale is not None
    assert busy.stale.value == "old"
    assert await storage.renew([lease], 20) == {KEY}
    assert await committed(storage, lease, "new")
    assert await other.get("a") == "new"
    again = await leased(other)
    await other.release([again])
    assert (await leased(storage)).seen is not None


async def test_what_was_committed_before_the_lease_beside_was_taken_is_seen(
    storage: MemcachedStorage, other: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.store({KEY: stale(storage)})
    add = Connections.add_and_look

    async def late(self: Connections, name: bytes, *args: Any) -> Any:
        if name.endswith(b"~"):
            monkeypatch.setattr(Connections, "add_and_look", add)
            await committed(other, await leased(other), "theirs")
        return await add(self, name, *args)

    monkeypatch.setattr(Connections, "add_and_look", late)
    lease = await leased(storage)
    assert lease.seen is not None
    assert lease.seen.value == "theirs"


async def test_a_value_that_dies_beside_a_lease_gives_nobody_a_second_one(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    for ttl_left in (0.3, 60.0):
        now = storage.now()
        dying = Entry("old", now - 10, now - 5, now + ttl_left, version=b"1")
        await storage.store({KEY: dying})
        lease = await leased(storage)
        assert lease.seen is not None
        if ttl_left < 1:
            await asyncio.sleep(now + ttl_left - storage.now() + 0.01)  # dead by its own time
        else:
            await other.evict([KEY])  # gone from the server
        refused = (await other.lease([KEY], 10))[KEY]
        assert isinstance(refused, Busy)
        assert (refused.token, refused.stale) == (lease.token, None)
        assert await committed(storage, lease, "new")
        assert await other.get("a") == "new"


async def test_a_value_that_goes_while_the_lease_beside_is_taken_is_loaded_anew(
    storage: MemcachedStorage, other: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.store({KEY: stale(storage)})
    add = Connections.add_and_look

    async def late(self: Connections, name: bytes, *args: Any) -> Any:
        if name.endswith(b"~"):
            monkeypatch.setattr(Connections, "add_and_look", add)
            await other.discard([KEY])
        return await add(self, name, *args)

    monkeypatch.setattr(Connections, "add_and_look", late)
    lease = await leased(storage)
    assert lease.seen is None
    assert await committed(storage, lease, "new")
    await leased(other)


async def test_a_value_that_died_during_its_refresh_is_still_replaced(
    storage: MemcachedStorage, memcached_server: MemcachedServer
) -> None:
    await storage.store({KEY: stale(storage)})
    lease = await leased(storage)
    memcached_server.command("delete t:a")
    assert await committed(storage, lease, "new")
    assert await storage.get("a") == "new"
    await leased(storage)


async def test_a_lease_whose_time_was_over_when_its_value_went_is_lost(
    storage: MemcachedStorage, memcached_server: MemcachedServer
) -> None:
    await storage.store({KEY: stale(storage)})
    lease = await leased(storage, seconds=10)
    pass_time(20.0, storage)
    memcached_server.command("delete t:a")
    assert await storage.renew([lease], 10) == set()
    assert not await committed(storage, lease, "late")


@pytest.mark.parametrize("kill", ["discard", "expire", "put", "swap"])
@pytest.mark.parametrize("when", ["before", "between"])
async def test_a_refresh_is_fenced_by(
    storage: MemcachedStorage,
    other: MemcachedStorage,
    monkeypatch: pytest.MonkeyPatch,
    kill: str,
    when: str,
) -> None:
    entry = stale(storage)
    await storage.store({KEY: entry})
    lease = await leased(storage)

    async def act() -> None:
        if kill == "discard":
            await other.discard([KEY])
        elif kill == "expire":
            await other.discard([KEY], keep_stale=True)
        elif kill == "put":
            # The very same entry, the same version included.
            await other.store({KEY: entry})
        else:
            await other.store({KEY: other.new_entry("put")}, expect={KEY: entry.version})

    if when == "before":
        await act()
    else:
        interleave(monkeypatch, "cas", act)
    assert not await committed(storage, lease, "late")
    found = (await storage.fetch([KEY])).get(KEY)
    assert (None if found is None else found.value) == {
        "discard": None,
        "expire": "old",
        "put": "old",
        "swap": "put",
    }[kill]
    assert not await storage.renew([lease], 10)
    await leased(other)


@pytest.mark.parametrize("kind", ["discard", "put", "swap"])
async def test_a_refresh_committed_in_the_middle_of_an_invalidation_does_not_stay(
    storage: MemcachedStorage,
    other: MemcachedStorage,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    entry = stale(storage)
    await storage.store({KEY: entry})
    lease = await leased(storage)
    delete = Connections.delete_in_order

    async def one_by_one(self: Connections, names: Sequence[bytes]) -> None:
        monkeypatch.setattr(Connections, "delete_in_order", delete)
        for name in names:
            if kind == "swap":
                await committed(storage, lease, "late")
            await delete(self, [name])
            if kind != "swap":
                await committed(storage, lease, "late")

    monkeypatch.setattr(Connections, "delete_in_order", one_by_one)
    if kind == "discard":
        await other.discard([KEY])
    elif kind == "put":
        await other.store({KEY: entry})
    else:
        await other.store({KEY: other.new_entry("put")}, expect={KEY: entry.version})
    found = (await storage.fetch([KEY])).get(KEY)
    assert found is None or found.value != "late"

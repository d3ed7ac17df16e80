"""Leases, invalidations and the races between them, on a real memcached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gecaso.entry import Entry, Lease, new_token
from gecaso.errors import (
    StorageError,
)
from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_records import Mark
from gecaso.storages._memcached_wire import Connections
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


@pytest.fixture
async def storage(memcached_url: str) -> AsyncIterator[MemcachedStorage]:
    async with MemcachedStorage(memcached_url, namespace="t") as storage:
        yield storage


@pytest.fixture
async def other(memcached_url: str) -> AsyncIterator[MemcachedStorage]:
    """Another process, as far as the server can tell."""
    async with MemcachedStorage(memcached_url, namespace="t") as storage:
        yield storage


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


async def test_what_was_committed_between_lookup_and_lease_is_seen(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    assert await storage.lookup(KEY) is None
    assert await committed(other, await leased(other), "theirs")
    lease = await leased(storage)
    assert lease.seen is not None
    assert lease.seen.value == "theirs"


async def test_what_was_committed_before_the_lease_beside_was_taken_is_seen(
    storage: MemcachedStorage, other: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.store({KEY: stale(storage)})
    theirs = await leased(other)
    add = Connections.add

    async def late(self: Connections, name: bytes, *args: Any) -> bool:
        if name.endswith(b"~"):
            monkeypatch.setattr(Connections, "add", add)
            await committed(other, theirs, "theirs")
        return await add(self, name, *args)

    monkeypatch.setattr(Connections, "add", late)
    lease = await leased(storage)
    assert lease.seen is not None
    assert lease.seen.value == "theirs"


async def test_a_value_that_goes_while_the_lease_beside_is_taken_is_loaded_anew(
    storage: MemcachedStorage, other: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.store({KEY: stale(storage)})
    add = Connections.add

    async def late(self: Connections, name: bytes, *args: Any) -> bool:
        if name.endswith(b"~"):
            monkeypatch.setattr(Connections, "add", add)
            await other.discard([KEY])
        return await add(self, name, *args)

    monkeypatch.setattr(Connections, "add", late)
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


# --- invalidation and put -----------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "between"])
@pytest.mark.parametrize("keep_stale", [False, True])
async def test_read_old_then_discard_elsewhere_then_commit_is_fenced(
    storage: MemcachedStorage,
    other: MemcachedStorage,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    keep_stale: bool,
) -> None:
    lease = await leased(storage)

    async def act() -> None:
        await other.discard([KEY], keep_stale=keep_stale)

    if when == "before":
        await act()
    else:
        interleave(monkeypatch, "cas", act)
    assert not await committed(storage, lease, "old")
    assert await other.fetch([KEY]) == {}
    assert not await storage.renew([lease], 10)
    assert await committed(other, await leased(other), "new")


@pytest.mark.parametrize("when", ["before", "between"])
async def test_a_put_during_a_load_wins(
    storage: MemcachedStorage,
    other: MemcachedStorage,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    lease = await leased(storage)

    async def act() -> None:
        await other.set("a", "put")

    if when == "before":
        await act()
    else:
        interleave(monkeypatch, "cas", act)
    assert not await committed(storage, lease, "loaded")
    assert await storage.get("a") == "put"


async def test_an_expired_entry_stays_until_it_is_dead_but_is_not_fresh(
    storage: MemcachedStorage,
) -> None:
    now = storage.now()
    await storage.store({KEY: Entry("v", now, now + 60, now + 120, version=b"1")})
    await storage.discard([KEY], keep_stale=True)
    entry = (await storage.fetch([KEY]))[KEY]
    assert entry.value == "v"
    assert entry.fresh_until <= storage.now()
    assert entry.dead_after == now + 120


async def test_a_commit_during_an_expiry_does_not_stay_fresh(
    storage: MemcachedStorage, other: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = storage.now()
    lease = await leased(storage)
    entry = Entry("v", now, now + 60, now + 120, version=b"1")
    interleave(monkeypatch, "cas", lambda: storage.commit({lease: entry}))
    await other.discard([KEY], keep_stale=True)
    with pytest.raises(KeyError):
        await other.get("a")


async def test_an_entry_that_was_never_to_be_stale_goes_when_it_is_expired(
    storage: MemcachedStorage,
) -> None:
    await storage.set("a", 1, ttl=60)
    await storage.discard([KEY], keep_stale=True)
    assert await storage.fetch([KEY]) == {}


async def test_compare_and_set_stores_only_over_the_expected_version(
    storage: MemcachedStorage, memcached_server: MemcachedServer
) -> None:
    def entry(value: str) -> Entry:
        return Entry(value, storage.now(), version=value.encode())

    assert await storage.store({KEY: entry("1")}, expect={KEY: b"x"}) == set()
    assert await storage.store({KEY: entry("1")}, expect={KEY: None}) == {KEY}
    assert await storage.store({KEY: entry("2")}, expect={KEY: None}) == set()
    assert await storage.store({KEY: entry("2")}, expect={KEY: b"1"}) == {KEY}
    assert await storage.get("a") == "2"


async def test_compare_and_set_takes_a_lease_and_rubbish_for_nothing_and_kills_the_lease(
    storage: MemcachedStorage, memcached_server: MemcachedServer
) -> None:
    lease = await leased(storage)
    put = storage.new_entry("put")
    assert await storage.store({KEY: put}, expect={KEY: None}) == {KEY}
    assert not await committed(storage, lease, "late")
    memcached_server.command("set t:a 0 0 1", b"x")
    assert await storage.store({KEY: put}, expect={KEY: None}) == {KEY}


async def test_of_two_that_compare_and_set_one_wins(
    storage: MemcachedStorage, other: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.store({KEY: Entry(0, storage.now(), version=b"0")})
    interleave(
        monkeypatch,
        "cas",
        lambda: other.store({KEY: Entry(2, other.now(), version=b"2")}, expect={KEY: b"0"}),
    )
    mine = {KEY: Entry(1, storage.now(), version=b"1")}
    assert await storage.store(mine, expect={KEY: b"0"}) == set()
    assert await storage.get("a") == 2


async def test_eviction_takes_the_value_and_leaves_the_lease(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    plain = await leased(storage)
    await other.evict([KEY])
    assert (await refused(other)).token == plain.token
    assert await committed(storage, plain, "1")
    await other.evict([KEY])
    assert await storage.fetch([KEY]) == {}


async def test_eviction_of_a_value_leaves_the_lease_beside_it(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    await storage.store({KEY: stale(storage)})
    lease = await leased(storage)
    await other.evict([KEY])
    assert await storage.fetch([KEY]) == {}
    assert (await refused(other)).token == lease.token
    assert await storage.renew([lease], 10) == {KEY}
    assert await committed(storage, lease, "new")
    assert await other.get("a") == "new"
    await leased(other)


async def test_a_key_that_others_change_all_the_time_is_a_storage_error(
    storage: MemcachedStorage, other: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leased(storage)

    async def never(self: Connections, *args: Any) -> bool:
        return False

    monkeypatch.setattr(Connections, "cas", never)
    with pytest.raises(StorageError, match="was changed 20 times"):
        await storage.commit({lease: storage.new_entry(1)})


async def test_waiting_lets_the_time_pass(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    assert not storage.notifies
    await leased(storage)
    await other.wait(await refused(other), 0.0)

"""Invalidation, put, compare-and-set and eviction during loads, on a real memcached."""

from __future__ import annotations

from typing import Any

import pytest

from gecaso.entry import Entry
from gecaso.errors import (
    StorageError,
)
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_client import Connections
from tests.servers import MemcachedServer
from tests.storages.memcached_kit import (
    KEY,
    committed,
    interleave,
    leased,
    refused,
    stale,
)

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

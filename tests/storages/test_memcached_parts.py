"""Values beyond the server's limit for an item: whole, or not there at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from gecaso.entry import Entry
from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_parts import Head, part_names, split
from tests.conftest import running
from tests.servers import MemcachedServer
from tests.storages.memcached_kit import KEY, client_of, committed, interleave, leased

NAME = b"t:a"
noise = random.Random(7).randbytes
LARGE = noise(3_000_000)
OTHER = noise(3_000_000)


@pytest.fixture
async def storage(memcached_url: str) -> AsyncIterator[MemcachedStorage]:
    async with MemcachedStorage(
        memcached_url, namespace="t", timeout=5, connect_timeout=5
    ) as storage:
        yield storage


@pytest.fixture
def small_items() -> Iterator[MemcachedServer]:
    """A server whose items have 16 kB at most."""
    yield from running(MemcachedServer("-I", "16k", "-o", "slab_chunk_max=8192"))


async def head_of(storage: MemcachedStorage) -> Head:
    found = await client_of(storage).look([NAME], whole=False)
    head = Head.unpack(found[NAME][0])
    assert head is not None
    return head


async def parts_of(storage: MemcachedStorage, head: Head) -> dict[bytes, bytes]:
    names = part_names(b"t:", head.token, head.parts)
    found = await client_of(storage).look(names)
    return {name: found[name][0] for name in names if name in found}


# --- whole --------------------------------------------------------------------------------------


async def test_ten_megabytes_come_back_however_they_are_asked_for(
    storage: MemcachedStorage,
) -> None:
    value = noise(10_000_000)
    await storage.set("a", value, ttl=60)
    assert (await head_of(storage)).parts == 10
    assert await storage.get("a") == value
    assert await storage.get_many(["a", "b"]) == {"a": value}
    lease = await leased(storage)
    assert lease.seen is not None
    assert lease.seen.value == value
    assert storage.corrupt == 0


async def test_a_server_with_small_items_holds_large_values(small_items: MemcachedServer) -> None:
    async with MemcachedStorage(small_items.url, timeout=5, connect_timeout=5) as storage:
        await storage.set("a", LARGE)
        assert await storage.get("a") == LARGE


async def test_a_value_in_parts_is_signed_as_a_whole(memcached_url: str) -> None:
    async with MemcachedStorage(
        memcached_url, namespace="t", secret="0123456789abcdef", timeout=5, connect_timeout=5
    ) as storage:
        await storage.set("a", LARGE)
        assert await storage.get("a") == LARGE
        head, _ = (await client_of(storage).look([NAME], whole=False))[NAME]
        await client_of(storage).set(b"t:copied", head)
        assert await storage.fetch([as_key("copied")]) == {}


async def test_a_loaded_value_is_committed_in_parts_and_a_fenced_one_leaves_none(
    own_memcached: MemcachedServer,
) -> None:
    async with MemcachedStorage(own_memcached.url, timeout=5, connect_timeout=5) as storage:
        lease = await leased(storage)
        assert await committed(storage, lease, LARGE)
        assert await storage.get("a") == LARGE
        await storage.remove("a")
        items = own_memcached.stats()["curr_items"]
        lease = await leased(storage)
        await storage.remove("a")
        assert not await committed(storage, lease, OTHER)
        assert own_memcached.stats()["curr_items"] == items


async def test_what_is_expired_stays_readable_and_what_is_compared_is_replaced(
    storage: MemcachedStorage,
) -> None:
    now = storage.now()
    old = Entry(LARGE, now, now + 60, now + 120, version=b"1")
    await storage.store({KEY: old})
    await storage.discard([KEY], keep_stale=True)
    entry = (await storage.fetch([KEY]))[KEY]
    assert entry.value == LARGE
    assert entry.fresh_until <= storage.now()
    new = Entry(OTHER, now, version=b"2")
    assert await storage.store({KEY: new}, expect={KEY: b"other"}) == set()
    assert await storage.store({KEY: new}, expect={KEY: b"1"}) == {KEY}
    assert await storage.get("a") == OTHER


async def test_a_refresh_of_a_value_in_parts_is_fenced_by_its_version(
    storage: MemcachedStorage,
) -> None:
    now = storage.now()
    await storage.store({KEY: Entry(LARGE, now - 9, now - 1, now + 99, version=b"1")})
    lease = await leased(storage)
    assert await storage.renew([lease], 10) == {KEY}
    head = await head_of(storage)
    assert await committed(storage, lease, "small now")
    assert await storage.get("a") == "small now"
    assert await parts_of(storage, head) == {}  # what was replaced is gone
    await storage.store({KEY: Entry(LARGE, now - 9, now - 1, now + 99, version=b"1")})
    lease = await leased(storage)
    await storage.store({KEY: Entry(OTHER, now - 9, now - 1, now + 99, version=b"2")})
    assert not await committed(storage, lease, "late")
    lease = await leased(storage)
    head = await head_of(storage)
    assert await storage.renew([lease], 10) == {KEY}
    # Put there past us, so that the mark beside it has stayed.
    await client_of(storage).set(NAME, head._replace(version=b"3").pack())
    assert not await committed(storage, lease, "late")


async def test_removing_a_value_removes_its_parts(storage: MemcachedStorage) -> None:
    for remove in (storage.discard, storage.evict):
        await storage.set("a", LARGE)
        head = await head_of(storage)
        assert len(await parts_of(storage, head)) == head.parts
        await remove([KEY])
        assert await storage.fetch([KEY]) == {}
        assert await parts_of(storage, head) == {}


async def test_parts_end_with_the_value_and_not_before(
    storage: MemcachedStorage, memcached_server: MemcachedServer
) -> None:
    for ttl in (60, 30 * 86400, 40 * 86400):
        await storage.set("a", LARGE, ttl=ttl)
        names = [NAME, *part_names(b"t:", (await head_of(storage)).token, 1)]
        left = [
            int(memcached_server.command(f"mg {name.decode()} t")[0].removeprefix(b"HD t"))
            for name in names
        ]
        assert ttl <= left[0] + 1
        assert left[0] - 1 <= left[1] <= left[0] + 6


# --- or not there -------------------------------------------------------------------------------


async def test_a_lost_part_is_a_miss_and_the_value_is_loaded_anew(
    storage: MemcachedStorage, memcached_server: MemcachedServer
) -> None:
    await storage.set("a", LARGE)
    lost = list(await parts_of(storage, await head_of(storage)))[1]
    memcached_server.command(b"delete " + lost)
    assert await storage.fetch([KEY]) == {}
    with pytest.raises(KeyError):
        await storage.get("a")
    assert storage.corrupt == 0  # a server that is full takes parts away: nothing is damaged
    lease = await leased(storage)
    assert lease.seen is None
    assert await committed(storage, lease, "anew")
    assert await storage.get("a") == "anew"


@pytest.mark.parametrize("kind", ["of another value", "shorter", "longer", "swapped"])
async def test_a_part_that_is_not_what_it_was_is_a_miss(
    storage: MemcachedStorage, kind: str
) -> None:
    client_parts = dict[bytes, dict[bytes, bytes]]()
    for value in (OTHER, LARGE):
        await storage.set("a", value)
        client_parts[value] = await parts_of(storage, await head_of(storage))
    names = list(client_parts[LARGE])
    data = {
        "of another value": list(client_parts[OTHER].values())[1],
        "shorter": client_parts[LARGE][names[1]][:-1],
        "longer": client_parts[LARGE][names[1]] + b"x",
        "swapped": client_parts[LARGE][names[0]],
    }[kind]
    await client_of(storage).set(names[1], data)
    assert await storage.fetch([KEY]) == {}
    with pytest.raises(KeyError):
        await storage.get("a")
    assert storage.corrupt == 0  # it was not taken for a value at all


async def test_a_value_that_is_replaced_while_it_is_read_is_the_old_one_or_none(
    storage: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.set("a", LARGE)
    interleave(monkeypatch, "made_whole", lambda: storage.set("a", OTHER))
    assert await storage.get("a") in (LARGE, OTHER)
    await storage.remove("a")
    await storage.set("a", LARGE)
    interleave(monkeypatch, "made_whole", lambda: storage.remove("a"))
    with pytest.raises(KeyError):
        await storage.get("a")


async def test_of_many_who_write_at_once_one_wins_with_the_whole_of_its_value(
    storage: MemcachedStorage, memcached_url: str
) -> None:
    others = [
        MemcachedStorage(memcached_url, namespace="t", timeout=5, connect_timeout=5)
        for _ in range(4)
    ]
    values = [noise(1_500_000 + n) for n in range(5)]
    writers = [storage, *others]
    for _ in range(3):
        await asyncio.gather(
            *[one.set("a", value) for one, value in zip(writers, values, strict=True)]
        )
        assert await storage.get("a") in values
    for one in others:
        await one.aclose()


@pytest.mark.parametrize(
    ("head", "asked"),
    [
        (Head(b"t" * 16, 1 << 40, 1 << 20, b"d" * 16, b"v"), 0),  # beyond any bound
        (Head(b"t" * 16, 60_000_000, 512, b"d" * 16, b"v"), 16),
        (Head(b"t" * 16, 3_000_000, 1_000_000, b"d" * 16, b"v" * 5000), 3),
    ],
)
async def test_a_head_that_somebody_made_up_is_a_miss_and_asks_for_little(
    storage: MemcachedStorage, memcached_server: MemcachedServer, head: Head, asked: int
) -> None:
    await storage.ping()
    await client_of(storage).set(NAME, head.pack())
    before = memcached_server.commands()
    assert await storage.fetch([KEY]) == {}
    assert (memcached_server.commands() - before)["get"] == 1 + asked


def test_what_is_no_head_is_none() -> None:
    head, _ = split(LARGE, 1_000_000, b"version")
    data = head.pack()
    assert Head.unpack(data) == head
    for wrong in (b"", data[:-1], data + b"x", b"x" + data[1:]):
        assert Head.unpack(wrong) is None
    for size, length in ((0, 10), (511, 1000), (1000, 1000)):
        assert Head.unpack(head._replace(size=size, length=length).pack()) is None

"""Redis keeps entries: the contract, names on the server, and what cannot be read."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import pytest
from redis.crc import key_slot

from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import Unsupported
from gecaso.events import Corrupt, listening
from gecaso.keys import Key, as_key
from gecaso.storages import RedisStorage
from tests.servers import RedisServer

ODD_TEXTS = [
    "plain",
    "{a}",
    "}{",
    "a b",
    "100%",
    "%7B",
    "%257B",
    "tab\tnewline\r\nnul\x00",
    "\x7f",
    "ключ",
    "\ud800",
    "*?[x]",
    "",
    "%7b%7d",
    "{}",
    "{" * 50,
    ":l",
    "}:l",
]


@pytest.fixture
async def storage(redis_url: str) -> AsyncIterator[RedisStorage]:
    async with RedisStorage(redis_url, namespace="test") as storage:
        yield storage


def lasting(storage: RedisStorage, value: object, fresh: float, dead: float) -> Entry:
    """Return an entry that is fresh and then alive for these seconds."""
    entry = storage.new_entry(value, fresh)
    entry.dead_after = entry.created + dead
    return entry


async def took(storage: RedisStorage, key: Key, seconds: float = 10) -> Lease:
    lease = (await storage.lease((key,), seconds))[key]
    assert isinstance(lease, Lease)
    return lease


# --- entries --------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.every_loop
async def test_a_value_comes_back_until_it_is_removed(redis_url: str) -> None:
    async with RedisStorage(redis_url) as storage:
        await storage.set("a", (1, [2, None]), ttl=60)
        assert await storage.get("a") == (1, [2, None])
        await storage.remove("a", "not there")
        with pytest.raises(KeyError):
            await storage.get("a")


async def test_an_entry_comes_back_with_its_times_and_version(storage: RedisStorage) -> None:
    key, entry = as_key("a"), lasting(storage, "x", 10, 100)
    entry.cost, entry.params, entry.tags = 0.5, {"p": 1}, {"t": b"v"}
    assert await storage.store({key: entry}) == {key}
    found = (await storage.fetch([key, as_key("b")]))[key]
    for name in ("value", "cost", "kind", "params", "tags", "version"):
        assert getattr(found, name) == getattr(entry, name)
    for name in ("created", "fresh_until", "dead_after"):
        assert getattr(found, name) == pytest.approx(getattr(entry, name), abs=1)


async def test_an_uncacheable_mark_comes_back_as_one(storage: RedisStorage) -> None:
    key, now = as_key("a"), storage.now()
    mark = Entry(None, now, -inf, now + 1, kind="uncacheable", version=b"v")
    await storage.store({key: mark})
    found = await storage.lookup(key)
    assert found is not None
    assert (found.kind, found.fresh_until) == ("uncacheable", -inf)


async def test_a_dead_entry_is_gone_from_the_server(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    await storage.set("a", 1, ttl=0.02)
    await storage.set("b", 1, ttl=100)
    await storage.set("c", 1)
    left = redis_server.command("PTTL", "test:{b}")
    assert isinstance(left, int)
    assert 99_000 < left <= 100_000
    assert redis_server.command("PTTL", "test:{c}") == -1
    await asyncio.sleep(0.03)
    assert await storage.fetch([as_key("a")]) == {}
    with pytest.raises(KeyError):
        await storage.get("a")


async def test_a_value_for_longer_than_redis_can_count_is_stored(storage: RedisStorage) -> None:
    await storage.set("a", 1, ttl=1e20)
    assert await storage.get("a") == 1


async def test_nothing_asked_for_is_nothing_found_and_no_command(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    before = redis_server.commands()
    assert await storage.fetch([]) == {}
    assert await storage.lease([], 1) == {}
    assert await storage.commit({}) == set()
    await storage.discard([])
    await storage.evict([])
    assert redis_server.commands() == before


async def test_storing_where_a_version_is_expected(storage: RedisStorage) -> None:
    key = as_key("a")
    first, second, third = (storage.new_entry(value, 60) for value in "123")
    assert await storage.store({key: second}, expect={key: b"another"}) == set()
    assert await storage.store({key: first}, expect={key: None}) == {key}
    assert await storage.store({key: second}, expect={key: None}) == set()
    lease = await took(storage, key)
    assert await storage.store({key: third}, expect={key: first.version}) == {key}
    assert await storage.get("a") == "3"
    assert await storage.commit({lease: second}) == set()


async def test_of_many_that_expect_the_same_version_one_stores(storage: RedisStorage) -> None:
    key = as_key("a")
    entries = [storage.new_entry(number, 60) for number in range(20)]
    stored = await asyncio.gather(
        *(storage.store({key: entry}, expect={key: None}) for entry in entries)
    )
    assert sum(map(len, stored)) == 1
    winner = next(entry for entry, keys in zip(entries, stored, strict=True) if keys)
    assert await storage.get("a") == winner.value


async def test_expired_is_no_longer_fresh_but_there_until_it_is_dead(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    key = as_key("a")
    await storage.store({key: lasting(storage, "old", 50, 100)})
    lease = await took(storage, key)
    await storage.discard([key], keep_stale=True)
    found = await storage.lookup(key)
    assert found is not None
    assert (found.value, found.fresh_until < storage.now()) == ("old", True)
    assert await storage.commit({lease: storage.new_entry("late", 60)}) == set()
    left = redis_server.command("PTTL", "test:{a}")
    assert isinstance(left, int)
    assert 99_000 < left <= 100_000


async def test_expiring_what_is_never_served_stale_removes_it(storage: RedisStorage) -> None:
    await storage.set("a", 1, ttl=60)
    await storage.discard([as_key("a"), as_key("absent")], keep_stale=True)
    assert await storage.fetch([as_key("a")]) == {}


async def test_evicting_ends_no_lease(storage: RedisStorage) -> None:
    key = as_key("a")
    await storage.store({key: storage.new_entry("old", 60)})
    lease = await took(storage, key)
    await storage.evict([key])
    assert await storage.lookup(key) is None
    assert await storage.commit({lease: storage.new_entry("new", 60)}) == {key}


async def test_clearing_leaves_other_namespaces_alone_and_ends_leases(redis_url: str) -> None:
    async with RedisStorage(redis_url, namespace="a[b]*") as one, RedisStorage(redis_url) as all_:
        other = RedisStorage(redis_url, namespace="ab")
        for storage in (one, other, all_):
            await storage.set_many({number: number for number in range(1500)})
        lease = await took(one, as_key("loading"))
        await one.clear()
        assert await one.get_many(range(1500)) == {}
        assert len(await other.get_many(range(1500))) == 1500
        assert len(await all_.get_many(range(1500))) == 1500
        assert await one.commit({lease: one.new_entry(1, 60)}) == set()
        with pytest.raises(Unsupported, match="namespace="):
            await all_.clear()
        await other.aclose()


async def test_clearing_misses_no_value_committed_while_it_looks(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        RedisStorage(redis_url, namespace="n") as here,
        RedisStorage(redis_url, namespace="n") as there,
    ):
        await here.set_many({number: number for number in range(3000)})
        loading = await there.lease([as_key(f"loading {n}") for n in range(300)], 10)
        entries = {
            lease: there.new_entry("old", 60)
            for lease in loading.values()
            if isinstance(lease, Lease)
        }
        lines = here._hub.get()  # pyright: ignore[reportPrivateUsage] - between two pages
        call, committed = lines.call, set[Key]()

        async def call_and_commit(*args: Any, **options: Any) -> Any:
            replies = await call(*args, **options)
            if not committed:
                committed.update(await there.commit(entries))
            return replies

        monkeypatch.setattr(lines, "call", call_and_commit)
        await here.clear()
        assert len(committed) > 200
        assert await there.fetch(committed) == {}


async def test_many_keys_at_once(storage: RedisStorage, redis_server: RedisServer) -> None:
    values = {f"k{number}": number for number in range(2000)}
    await storage.set_many(values, ttl=60)
    before = redis_server.commands()
    assert await storage.get_many(values) == values
    assert redis_server.commands() - before == Counter({"mget": 4})


# --- names on the server --------------------------------------------------------------------------


async def test_odd_keys_stay_apart(storage: RedisStorage) -> None:
    values = {text: number for number, text in enumerate(ODD_TEXTS)}
    await storage.set_many(values, ttl=60)
    assert await storage.get_many(values) == values


@pytest.mark.parametrize("namespace", ["", "shop", "{x}", "a:{", "% \n"])
async def test_value_and_lease_are_in_one_slot(
    redis_url: str, redis_server: RedisServer, namespace: str
) -> None:
    async with RedisStorage(redis_url, namespace=namespace) as storage:
        for text in ODD_TEXTS:
            redis_server.flush()
            await storage.set(text, 1, ttl=60)
            await took(storage, as_key(text))
            names = redis_server.command("KEYS", "*")
            assert isinstance(names, list)
            slots = {key_slot(name) for name in names if isinstance(name, bytes)}
            assert (len(names), len(slots)) == (2, 1)


async def test_names_carry_no_control_characters(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    await storage.set("a\r\nb{c}", 1)
    assert redis_server.command("KEYS", "*") == [b"test:{a%0D%0Ab%7Bc%7D}"]


async def test_two_namespaces_share_nothing(redis_url: str) -> None:
    async with (
        RedisStorage(redis_url, namespace="a") as one,
        RedisStorage(redis_url, namespace="b") as two,
    ):
        key = as_key("k")
        lease = await took(one, key)
        assert isinstance((await two.lease([key], 10))[key], Lease)
        await one.set("k", 1)
        assert await two.fetch([key]) == {}
        await two.discard([key])
        assert await one.get("k") == 1
        assert await one.commit({lease: one.new_entry(2, 60)}) == set()


# --- what cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage", [b"", b"x", b"\xc1\x01", b"\x80\x04K\x01.", b"{}", b"\x00" * 99]
)
async def test_garbage_under_a_key_is_a_miss_counted_and_told(
    storage: RedisStorage, redis_server: RedisServer, garbage: bytes
) -> None:
    redis_server.command("SET", "test:{a}", garbage)
    told: list[object] = []
    with listening(told.append), pytest.raises(KeyError):
        await storage.get("a")
    assert storage.corrupt == 1
    (event,) = told
    assert isinstance(event, Corrupt)
    assert (event.storage, event.key) == (storage, "test:{a}")
    assert (await took(storage, as_key("a"))).seen is None
    await storage.set("a", 1)
    assert await storage.get("a") == 1


async def test_a_value_of_another_type_is_a_miss_and_is_replaced(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    redis_server.command("RPUSH", "test:{a}", "x")
    key = as_key("a")
    assert await storage.lookup(key) is None
    lease = await took(storage, key)
    assert await storage.commit({lease: storage.new_entry(1, 60)}) == {key}
    assert await storage.get("a") == 1


async def test_a_signed_value_copied_under_another_key_is_a_miss(
    redis_url: str, redis_server: RedisServer
) -> None:
    async with RedisStorage(redis_url, secret=b"s" * 32) as storage:
        await storage.set("mine", "secret", ttl=60)
        redis_server.command("COPY", "{mine}", "{yours}")
        with pytest.raises(KeyError):
            await storage.get("yours")
        assert (storage.corrupt, await storage.get("mine")) == (1, "secret")


@dataclasses.dataclass
class Point:
    x: int


async def test_types_are_learned(redis_url: str) -> None:
    async with RedisStorage(redis_url) as writer, RedisStorage(redis_url) as reader:
        writer.learn([Point])
        await writer.set("p", Point(1), ttl=60)
        with pytest.raises(KeyError):
            await reader.get("p")
        reader.learn([Point])
        assert await reader.get("p") == Point(1)


async def test_busy_tells_the_holder_and_what_is_there(storage: RedisStorage) -> None:
    key = as_key("a")
    await storage.store({key: lasting(storage, "stale", 0.001, 60)})
    lease = await took(storage, key)
    busy = (await storage.lease([key], 10))[key]
    assert isinstance(busy, Busy)
    assert busy.token == lease.token
    assert lease.seen is not None
    assert busy.stale is not None
    assert lease.seen.value == busy.stale.value == "stale"

"""`MemcachedStorage` on a real memcached: what every storage promises, and races made to happen."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from gecaso.entry import Entry
from gecaso.errors import (
    ConfigurationError,
    Unsupported,
    ValueTooLarge,
)
from gecaso.events import Corrupt, Event, listening
from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_wire import Ask, Line
from tests.conftest import running
from tests.servers import MemcachedServer
from tests.storages.memcached_kit import (
    KEY,
    client_of,
    committed,
    leased,
    pass_time,
    stale,
)


@pytest.fixture
def own_memcached_with_16_mb() -> Iterator[MemcachedServer]:
    yield from running(MemcachedServer("-I", "16m"))


# --- values -----------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_what_was_stored_is_found_by_another_process(
    storage: MemcachedStorage, other: MemcachedStorage
) -> None:
    await storage.set("a", {"n": (1, 2)}, ttl=60)
    assert await other.get("a") == {"n": (1, 2)}
    assert await other.get_many(["a", "b"]) == {"a": {"n": (1, 2)}}


async def test_an_entry_comes_back_with_its_times_and_version(storage: MemcachedStorage) -> None:
    now = storage.now()
    entry = Entry("v", now, now + 5.25, now + 7.5, cost=0.5, version=b"v1")
    await storage.store({KEY: entry})
    found = (await storage.fetch([KEY]))[KEY]
    assert (found.created, found.fresh_until, found.dead_after) == (now, now + 5.25, now + 7.5)
    assert (found.value, found.cost, found.version) == ("v", 0.5, b"v1")


async def test_none_is_a_value_and_a_miss_is_a_key_error(storage: MemcachedStorage) -> None:
    await storage.set("none", None)
    assert await storage.get("none") is None
    with pytest.raises(KeyError):
        await storage.get("missing")


async def test_an_entry_is_dead_by_its_own_time_though_the_server_still_has_it(
    storage: MemcachedStorage, memcached_server: MemcachedServer
) -> None:
    await storage.set("a", 1, ttl=60)
    pass_time(60.0, storage)
    assert memcached_server.command("get t:a")[0].startswith(b"VALUE")
    assert await storage.fetch([KEY]) == {}
    assert (await leased(storage)).seen is None


async def test_a_stale_entry_is_fetched_and_not_got(storage: MemcachedStorage) -> None:
    await storage.store({KEY: stale(storage)})
    assert (await storage.fetch([KEY]))[KEY].value == "old"
    with pytest.raises(KeyError):
        await storage.get("a")


async def test_a_mark_of_an_uncacheable_result_is_fetched_until_it_is_dead(
    storage: MemcachedStorage,
) -> None:
    now = storage.now()
    await storage.store({KEY: Entry(None, now, -inf, now + 1, kind="uncacheable")})
    assert (await storage.fetch([KEY]))[KEY].kind == "uncacheable"
    pass_time(1.0, storage)
    assert await storage.fetch([KEY]) == {}


@pytest.mark.parametrize("days", [29, 30, 31, 400])
async def test_a_long_ttl_is_kept_by_the_server(
    storage: MemcachedStorage, memcached_server: MemcachedServer, days: int
) -> None:
    await storage.set("a", 1, ttl=days * 86400)
    left = int(memcached_server.command("mg t:a t")[0].removeprefix(b"HD t"))
    assert days * 86400 <= left + 1 <= days * 86400 + 8
    assert await storage.get("a") == 1


async def test_clocks_of_machines_may_differ_by_hours(
    memcached_url: str, storage: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.set("a", 1, ttl=60)
    real = time.time
    for hours in (-5, 5):
        monkeypatch.setattr(time, "time", lambda hours=hours: real() + hours * 3600)
        async with MemcachedStorage(memcached_url, namespace="t") as elsewhere:
            assert await elsewhere.get("a") == 1
            assert elsewhere.now() == pytest.approx(storage.now(), abs=3.5)
            await elsewhere.set("b", 2, ttl=60)
            assert await storage.get("b") == 2


async def test_any_hashable_value_is_a_key(storage: MemcachedStorage) -> None:
    keys: list[Any] = [1, 1.0, True, "1", None, ("a", 1), frozenset({1, 2}), "x" * 1000, ""]
    keys += ["a b", "{}%\r\n\x00", "ключ", "\u2003", "\udcff", "~", "a~", b"\xff", 2**70]
    for n, key in enumerate(keys):
        await storage.set(key, n)
    assert [await storage.get(key) for key in keys] == list(range(len(keys)))


async def test_remove_takes_values_away_and_missing_keys_are_fine(
    storage: MemcachedStorage,
) -> None:
    await storage.set("a", 1)
    await storage.remove("a", "never there")
    assert await storage.fetch([KEY]) == {}


async def test_many_keys_are_stored_fetched_and_removed(storage: MemcachedStorage) -> None:
    values = {f"k{n}": n for n in range(1200)}
    await storage.set_many(values)
    assert await storage.get_many(values) == values
    await storage.remove(*values)
    assert await storage.get_many(values) == {}


async def test_lookups_of_one_tick_share_one_command(
    storage: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.set_many({n: n for n in range(100)})
    asked: list[bytes] = []
    original = Line.ask

    def counted(self: Line, data: bytes, ask: Ask, **how: Any) -> None:
        asked.append(data)
        original(self, data, ask, **how)

    monkeypatch.setattr(Line, "ask", counted)
    found = await asyncio.gather(*[storage.lookup(as_key(n % 101)) for n in range(300)])
    assert [None if one is None else one.value for one in found] == [
        None if n % 101 == 100 else n % 101 for n in range(300)
    ]
    assert len(asked) == 1
    assert len(asked[0].split()) == 1 + 101


async def test_one_caller_after_the_other_need_not_wait_for_the_end_of_the_tick(
    storage: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.set_many({n: n for n in range(100)})
    for n in range(3):
        assert await storage.get(n) == n
    asked: list[int] = []
    original = Line.ask

    def counted(self: Line, data: bytes, ask: Ask, **how: Any) -> None:
        asked.append(len(data.split()) - 1)
        original(self, data, ask, **how)

    monkeypatch.setattr(Line, "ask", counted)
    first = storage.lookup(as_key(1))
    assert asked == [1]  # at once
    others = [storage.lookup(as_key(n)) for n in range(50)]
    assert asked == [1]
    await asyncio.gather(first, *others)
    assert asked == [1, 50]  # who comes while it is under way waits for those of his tick
    await asyncio.gather(*[storage.lookup(as_key(n)) for n in range(50)])
    assert asked == [1, 50, 50]


async def test_a_lookup_is_not_shared_once_it_was_sent(
    storage: MemcachedStorage, other: MemcachedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.set("a", 1)
    first = storage.lookup(KEY)
    await asyncio.sleep(0)
    await other.set("a", 2)
    second = await storage.lookup(KEY)
    assert second is not None
    assert second.value == 2
    await first


async def test_a_value_with_line_breaks_and_words_of_the_protocol_comes_back(
    storage: MemcachedStorage,
) -> None:
    for value in ("END\r\n", "VALUE t:a 0 3 1\r\nEND\r\n" * 9, "\r\n", "", "x" * 300_000):
        await storage.set("a", value)
        await storage.set("b", value + "b")
        assert await storage.get_many(["a", "b", "c"]) == {"a": value, "b": value + "b"}


# --- too large, unreadable, bad input -----------------------------------------------------------


async def test_a_value_beyond_the_bound_is_refused(memcached_url: str) -> None:
    noise = random.Random(7).randbytes
    async with MemcachedStorage(memcached_url, max_value_bytes=1_050_000) as storage:
        await storage.set("a", noise(1_040_000))
        lease = await leased(storage, as_key("b"))
        with pytest.raises(ValueTooLarge, match="max_value_bytes=") as raised:
            await storage.commit({lease: storage.new_entry(noise(1_100_000))})
        assert raised.value.size > raised.value.limit == 1_050_000
        await storage.release([lease])
        await leased(storage, as_key("b"))


async def test_a_server_with_a_larger_limit_takes_larger_values(
    own_memcached_with_16_mb: MemcachedServer,
) -> None:
    value = random.Random(7).randbytes(9_000_000)
    url = own_memcached_with_16_mb.url
    async with MemcachedStorage(url, timeout=5, connect_timeout=5) as storage:
        await storage.set("a", value)
        assert await storage.get("a") == value


async def test_what_the_server_refuses_as_too_large_is_too_large(
    storage: MemcachedStorage,
) -> None:
    await storage.ping()
    client_of(storage).item_size_max = 1 << 30  # a wrong belief
    with pytest.raises(ValueTooLarge):
        await storage.set("a", random.Random(7).randbytes(1_100_000))
    await storage.set("a", 1)
    assert await storage.get("a") == 1


async def test_max_value_bytes_is_a_lower_limit(memcached_url: str) -> None:
    async with MemcachedStorage(memcached_url, max_value_bytes=100) as storage:
        await storage.set("a", "x" * 30)
        with pytest.raises(ValueTooLarge):
            await storage.set("a", "".join(map(chr, range(200, 400))))


RUBBISH = [b"", b"hello", b"\xc1\x01\x02", b"gecaso lease 1\nshort", b"\x80\x04K\x01.", b"x" * 9999]


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize("flags", [0, 1])
async def test_rubbish_of_another_client_is_a_counted_miss_and_is_replaced(
    storage: MemcachedStorage, memcached_server: MemcachedServer, rubbish: bytes, flags: int
) -> None:
    memcached_server.command(f"set t:a {flags} 0 {len(rubbish)}", rubbish)
    await storage.set("b", 2)
    events: list[Event] = []
    with listening(events.append):
        assert await storage.get_many(["a", "b"]) == {"b": 2}
    assert storage.corrupt == 1
    assert [type(event) for event in events] == [Corrupt]
    assert events[0].key == "t:a"
    lease = await leased(storage)
    assert lease.seen is None
    assert await committed(storage, lease, 1)
    assert await storage.get("a") == 1


async def test_a_value_copied_under_another_key_is_a_miss(memcached_url: str) -> None:
    async with MemcachedStorage(memcached_url, secret="0123456789abcdef") as storage:
        await storage.set("alice", "secret")
        client = client_of(storage)
        data, _ = (await client.look([b":alice"]))[b":alice"]
        await client.set(b":mallory", data)
        assert await storage.fetch([as_key("mallory")]) == {}
        assert await storage.get("alice") == "secret"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379",
        "localhost:port",
        "localhost:70000",
        "localhost:0",
        "a:1,b:2,",
        "memcached://user@host:11211",
        "elasticache://a:1,b:2",
        "memcached://host/0",
        "",
        [],
        [7],
        ["memcacheds://a", "memcached://b"],
        7,
        None,
    ],
)
def test_an_address_that_is_none_is_refused_with_what_is_accepted(url: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"host:port|elasticache|memcacheds"):
        MemcachedStorage(url)


@pytest.mark.parametrize("option", ["timeout", "connect_timeout", "pool_size", "max_value_bytes"])
def test_an_option_that_cannot_work_is_refused_by_name(option: str) -> None:
    options: dict[str, Any] = {option: 0}
    with pytest.raises(ConfigurationError, match=option):
        MemcachedStorage("localhost", **options)


async def test_clearing_is_unsupported_and_says_what_to_do(storage: MemcachedStorage) -> None:
    with pytest.raises(Unsupported, match="namespace"):
        await storage.clear()


def test_an_address_may_leave_out_the_port_and_name_an_ipv6_host() -> None:
    assert "localhost:11211" in repr(MemcachedStorage("localhost"))
    assert "[::1]:11212" in repr(MemcachedStorage("memcached://[::1]:11212"))

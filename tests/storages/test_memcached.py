"""`MemcachedStorage` on a real memcached: what every storage promises, and races made to happen."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from math import inf
from typing import Any

import pytest

from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import (
    ConfigurationError,
    StorageError,
    Unsupported,
    ValueTooLarge,
)
from gecaso.events import Corrupt, Event, listening
from gecaso.keys import Key, as_key
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_records import Mark
from gecaso.storages._memcached_wire import Connections
from tests.conftest import running
from tests.servers import MemcachedServer

KEY = as_key("a")
NAME = b"t:a"


@pytest.fixture
async def storage(memcached_url: str) -> AsyncIterator[MemcachedStorage]:
    async with MemcachedStorage(memcached_url, namespace="t") as storage:
        yield storage


@pytest.fixture
async def other(memcached_url: str) -> AsyncIterator[MemcachedStorage]:
    """Another process, as far as the server can tell."""
    async with MemcachedStorage(memcached_url, namespace="t") as storage:
        yield storage


@pytest.fixture
def own_memcached_with_16_mb() -> Iterator[MemcachedServer]:
    yield from running(MemcachedServer("-I", "16m"))


def stale(storage: MemcachedStorage, value: object = "old") -> Entry:
    now = storage.now()
    return Entry(value, now - 10, now - 1, now + 100, version=new_token())


async def leased(storage: MemcachedStorage, key: Key = KEY, seconds: float = 10) -> Lease:
    got = (await storage.lease([key], seconds))[key]
    assert isinstance(got, Lease)
    return got


async def refused(storage: MemcachedStorage, key: Key = KEY) -> Busy:
    got = (await storage.lease([key], 10))[key]
    assert isinstance(got, Busy)
    return got


async def committed(storage: MemcachedStorage, lease: Lease, value: object) -> bool:
    return bool(await storage.commit({lease: storage.new_entry(value, 60)}))


def pass_time(seconds: float, *storages: MemcachedStorage) -> None:
    """Let the server's clock go on, in the eyes of these storages."""
    for storage in storages:
        storage._server.clock.offset += seconds  # pyright: ignore[reportPrivateUsage] - the clock


def interleave(
    monkeypatch: pytest.MonkeyPatch, command: str, act: Callable[[], Awaitable[object]]
) -> None:
    """Run ``act`` once, just before the next such command is sent."""
    original = getattr(Connections, command)

    async def patched(self: Connections, *args: Any) -> Any:
        monkeypatch.setattr(Connections, command, original)
        await act()
        return await original(self, *args)

    monkeypatch.setattr(Connections, command, patched)


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
    asked: list[list[bytes]] = []
    original = Connections.look

    async def counted(self: Connections, names: Iterable[bytes]) -> Any:
        asked.append(list(names))
        return await original(self, asked[-1])

    monkeypatch.setattr(Connections, "look", counted)
    found = await asyncio.gather(*[storage.lookup(as_key(n % 101)) for n in range(300)])
    assert [None if one is None else one.value for one in found] == [
        None if n % 101 == 100 else n % 101 for n in range(300)
    ]
    assert len(asked) == 1
    assert len(asked[0]) == 101


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


async def test_a_value_beyond_the_limit_of_the_server_is_refused(
    storage: MemcachedStorage,
) -> None:
    noise = random.Random(7).randbytes
    await storage.set("a", noise(1_000_000))
    lease = await leased(storage, as_key("b"))
    with pytest.raises(ValueTooLarge, match="larger -I") as raised:
        await storage.commit({lease: storage.new_entry(noise(1_100_000))})
    assert raised.value.size > raised.value.limit > 1_000_000
    await storage.release([lease])
    await leased(storage, as_key("b"))


async def test_a_server_with_a_larger_limit_takes_larger_values(
    own_memcached_with_16_mb: MemcachedServer,
) -> None:
    value = random.Random(7).randbytes(9_000_000)
    url = own_memcached_with_16_mb.url
    async with MemcachedStorage(url, timeout=5) as storage:
        await storage.set("a", value)
        assert await storage.get("a") == value


async def test_what_the_server_refuses_as_too_large_is_too_large(
    storage: MemcachedStorage,
) -> None:
    await storage.ping()
    storage._server.item_size_max = 1 << 30  # pyright: ignore[reportPrivateUsage] - a wrong belief
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


async def test_a_value_copied_under_another_key_is_a_miss(
    memcached_url: str, memcached_server: MemcachedServer
) -> None:
    async with MemcachedStorage(memcached_url, secret="0123456789abcdef") as storage:
        await storage.set("alice", "secret")
        client = Connections(*storage._server.address, 1)  # pyright: ignore[reportPrivateUsage] - where it is
        await client.pool.open()
        data, _ = (await client.look([b":alice"]))[b":alice"]
        await client.set(b":mallory", data)
        await client.close()
        assert await storage.fetch([as_key("mallory")]) == {}
        assert await storage.get("alice") == "secret"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379",
        "localhost:port",
        "localhost:70000",
        "localhost:0",
        "a:1,b:2",
        "memcached://user:pass@host:11211",
        "memcached://host/0",
        "",
        ["localhost:11211"],
        None,
    ],
)
def test_an_address_that_is_none_is_refused_with_what_is_accepted(url: Any) -> None:
    with pytest.raises(ConfigurationError, match='"host:port" or "memcached://host:port"'):
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

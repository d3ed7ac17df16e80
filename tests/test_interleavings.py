"""Orders of events that are rare, forced: nothing old is served after an invalidation.

What stands for a process is a storage object and a cache of its own. Orders that have a name are in
`tests.catalogue`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from gecaso import Cache, InvalidationFailed, events
from gecaso.keys import as_key
from gecaso.storages.memcached import MemcachedStorage
from gecaso.storages.redis import RedisStorage
from tests.scenes import (
    KINDS,
    NETWORK,
    Place,
    Process,
    Truth,
    hold,
    opened,
    own_server,
    patience,
    place_for,
)
from tests.servers import MemcachedServer, RedisServer


@pytest.fixture(params=NETWORK)
def place(request: pytest.FixtureRequest) -> Place:
    return place_for(request)


@dataclass
class Two:
    """Two processes over one server, and what they load."""

    truth: Truth
    a: Process
    b: Process


@pytest.fixture
def two(place: Place) -> Two:
    truth = Truth()
    return Two(truth, Process(place.open(), truth), Process(place.open(), truth))


OLD, NEW = "1 in version 0", "1 in version 1"


# -- an invalidation elsewhere ---------------------------------------------------------------------


async def test_a_late_joiner_of_a_load_that_fails_gets_the_new_value(two: Two) -> None:
    two.truth.error = ValueError("the old truth is broken")
    gate = two.truth.close_gate()
    early = two.b.call()
    await two.truth.asked(1)
    two.truth.error = None
    two.truth.version = 1
    await two.a.thing.invalidate(1)
    late = two.b.call()
    await two.b.joined(1)
    gate.set()
    async with patience():
        with pytest.raises(ValueError, match="broken"):
            await early
        assert await late == NEW


async def test_who_joins_a_load_that_has_failed_while_its_lease_ends_starts_over(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.truth.error = ValueError("the old truth is broken")
    released = hold(monkeypatch, two.b.storage, "release", after=True)
    early = two.b.call()
    await released.is_reached()
    two.truth.error = None
    two.truth.version = 1
    await two.a.thing.invalidate(1)
    late = two.b.call()
    await two.b.joined(1)
    released.go.set()
    async with patience():
        with pytest.raises(ValueError, match="broken"):
            await early
        assert await late == NEW


async def test_a_late_joiner_of_a_load_that_was_not_invalidated_shares_it(two: Two) -> None:
    gate = two.truth.close_gate()
    early = two.b.call()
    await two.truth.asked(1)
    late = two.b.call()
    await two.b.joined(1)
    gate.set()
    async with patience():
        assert await early == await late == OLD
    assert two.truth.loads == 1


async def test_a_commit_between_lookup_and_lease_is_served(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(monkeypatch, two.b.storage, "lease")
    asking = two.b.call()
    await held.is_reached()  # b has found nothing
    assert await two.a.thing(1) == OLD
    held.go.set()
    async with patience():
        assert await asking == OLD
    assert two.truth.loads == 1


async def test_a_value_committed_before_an_invalidation_is_not_given_to_who_asks_after_it(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    # b leases and sees what a has stored; it is invalidated; then somebody joins b's flight.
    lookup = hold(monkeypatch, two.b.storage, "lookup", after=True)
    asking = two.b.call()
    await lookup.is_reached()
    assert await two.a.thing(1) == OLD
    leased = hold(monkeypatch, two.b.storage, "lease", after=True)
    lookup.go.set()
    await leased.is_reached()
    two.truth.version = 1
    await two.a.thing.invalidate(1)
    late = two.b.call()
    await two.b.joined(1)
    leased.go.set()
    async with patience():
        assert await asking == OLD
        assert await late == NEW


async def test_another_process_waits_for_the_load_and_is_told(two: Two) -> None:
    gate = two.truth.close_gate()
    loading = two.a.call()
    await two.truth.asked(1)
    waiting = [two.b.call() for _ in range(20)]
    await asyncio.sleep(0.05)  # whatever they would do too early, they have done it
    gate.set()
    async with asyncio.timeout(1):
        assert {await loading, *await asyncio.gather(*waiting)} == {OLD}
    assert two.truth.loads == 1


async def test_a_waiting_process_does_not_take_what_was_invalidated_meanwhile(two: Two) -> None:
    gate = two.truth.close_gate()
    loading = two.a.call()
    await two.truth.asked(1)
    waiting = two.b.call()
    await asyncio.sleep(0.02)
    two.truth.version = 1
    await two.b.thing.invalidate(1)
    after = two.b.call()
    await two.truth.asked(2)
    gate.set()
    async with patience():
        assert await loading == OLD
        assert await waiting in (OLD, NEW)  # it asked before
        assert await after == NEW
        assert await two.a.thing(1) == NEW


# -- a put during a load ---------------------------------------------------------------------------


async def test_a_value_set_through_the_storage_during_a_load_stays(two: Two) -> None:
    gate = two.truth.close_gate()
    loading = two.b.call()
    await two.truth.asked(1)
    await two.a.storage.set(two.a.thing.key(1), "set", ttl=60)
    gate.set()
    assert await loading == OLD
    assert await two.b.thing(1) == "set"


# -- leases that run long --------------------------------------------------------------------------


@pytest.mark.parametrize("place", NETWORK, indirect=True)
async def test_a_load_of_five_times_its_lease_is_renewed_and_stored(place: Place) -> None:
    seconds = 0.2 if place.kind == "redis" else place.shortest_lease
    lasts = 5 * seconds if place.kind == "redis" else 1.5 * seconds
    truth = Truth(seconds=lasts)
    a = Process(place.open(), truth, lease_seconds=seconds)
    b = Process(place.open(), truth, lease_seconds=seconds)
    loading = a.call()
    await truth.asked(1)
    async with patience():
        assert await b.thing(1) == await loading == OLD
    assert truth.loads == 1
    assert (a.thing.stats.lost, a.thing.stats.fenced) == (0, 0)


async def test_a_load_that_blocks_the_loop_loses_its_lease_and_is_not_stored(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = RedisStorage(redis_url)
    seen = list[events.Event]()
    loads = 0

    async def blocking() -> int:
        nonlocal loads
        loads += 1
        if loads <= 2:
            time.sleep(0.5)  # noqa: ASYNC251 - that is the point
        return loads

    process = Process(storage, Truth())
    function = process.cache.cached(key="blocking:{i}", lease_seconds=0.1)
    with events.listening(seen.append):

        async def load(i: int) -> int:
            return await blocking()

        blocked = function(load)
        assert await blocked(1) == 1
        assert [type(event) for event in seen].count(events.LostLease) == 1
        await storage.discard([blocked.key(1)])
        assert await blocked(2) == 2
        assert await blocked(1) == 3
    assert blocked.stats.lost == 1  # the second was given a lease long enough
    warnings = [record for record in caplog.records if "lost its lease" in record.getMessage()]
    assert len(warnings) == 1


# -- any order at all ------------------------------------------------------------------------------


class Versions:
    """Values with versions, and the oldest that who asks from now on may get."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.now: Counter[str] = Counter()
        self.floor: Counter[str] = Counter()
        self.reads = 0

    async def pause(self) -> None:
        """Let others run, for a while that differs from time to time."""
        if self.chance.random() < 0.5:
            await asyncio.sleep(self.chance.random() * 0.003)
        else:
            await asyncio.sleep(0)

    async def load(self, key: str) -> int:
        await self.pause()
        version = self.now[key]
        await self.pause()
        return version

    async def write(self, cache: Cache, key: str) -> None:
        self.now[key] += 1
        version = self.now[key]
        if self.chance.random() < 0.3:
            await cache.set(key, version)
        else:
            await cache.invalidate(key)
        self.floor[key] = max(self.floor[key], version)

    async def read(self, cache: Cache, key: str) -> None:
        floor = self.floor[key]
        asking = asyncio.create_task(cache.get_or_create(key, lambda: self.load(key)))
        if self.chance.random() < 0.1:
            await self.pause()
            asking.cancel()
            await asyncio.wait([asking])
            return
        assert await asking >= floor
        self.reads += 1


@pytest.mark.parametrize("place", KINDS, indirect=True)
@pytest.mark.parametrize("seed", [1, 2])
async def test_nobody_gets_what_was_invalidated_before_he_asked(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    versions = Versions(chance)
    storage = place.open()
    caches = [Cache(storage, ttl=60), *[Cache(place.beside(storage), ttl=60) for _ in range(2)]]
    # One writer for each key: two that write at once would not know whose value is the newer.
    owners = {f"key {number}": caches[number % 3] for number in range(6)}

    async def writer(key: str) -> None:
        for _ in range(300):
            await versions.write(owners[key], key)
            await versions.pause()

    async def reader() -> None:
        while writers and not all(one.done() for one in writers):
            await versions.read(chance.choice(caches), chance.choice([*owners]))

    async with asyncio.timeout(30):
        writers = [asyncio.create_task(writer(key)) for key in owners]
        await asyncio.gather(*writers, *[reader() for _ in range(30)])
    assert versions.reads > 1000
    for key in owners:
        for cache in caches:
            assert await cache.get_or_create(key, lambda: -1) in (versions.now[key], -1)


# -- memcached -------------------------------------------------------------------------------------


@pytest.fixture
def memcached(memcached_server: MemcachedServer) -> MemcachedServer:
    memcached_server.flush()
    return memcached_server


GARBAGE = [b"", b"x", b"gecaso lease 1", b"gecaso lease 1\nfoolish", b"\x80\x04N.", b"{}" * 500]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_under_a_memcached_key_is_replaced(
    memcached: MemcachedServer, garbage: bytes
) -> None:
    truth = Truth()
    process = Process(MemcachedStorage(memcached.url), truth)
    assert memcached.command(f"set :thing:1 0 0 {len(garbage)}", garbage) == [b"STORED"]
    async with asyncio.timeout(1):
        assert await process.thing(1) == OLD
        assert await process.thing(1) == OLD
    assert truth.loads == 1


async def test_a_placeholder_of_a_dead_process_is_replaced_when_its_time_is_over(
    memcached: MemcachedServer,
) -> None:
    storage = MemcachedStorage(memcached.url)
    key = as_key("thing:1")
    await storage.lease([key], 3)
    placeholder = memcached.command("get :thing:1")[1]
    await storage.aclose()
    # It stays for ever: the process died before it, and somebody restored it without its expiry.
    assert memcached.command(f"set :thing:1 0 0 {len(placeholder)}", placeholder) == [b"STORED"]
    truth = Truth()
    process = Process(MemcachedStorage(memcached.url), truth)
    async with asyncio.timeout(5):
        assert await process.thing(1) == OLD
        assert await process.thing(1) == OLD
    assert truth.loads == 1


@pytest.mark.fault
async def test_a_memcached_restarted_between_lease_and_commit_keeps_nothing_old(
    own_memcached: MemcachedServer,
) -> None:
    truth = Truth()
    a = Process(MemcachedStorage(own_memcached.url), truth)
    b = Process(MemcachedStorage(own_memcached.url), truth)
    gate = truth.close_gate()
    loading = a.call()
    await truth.asked(1)
    await asyncio.to_thread(own_memcached.restart)
    truth.version = 1
    truth.gate = None
    await b.thing.invalidate(1)
    assert await b.thing(1) == NEW
    gate.set()
    async with patience():
        assert await loading == OLD
        assert await a.thing(1) == NEW
        assert await b.thing(1) == NEW


# -- keys and signatures ---------------------------------------------------------------------------

ODD = [
    "",
    " ",
    "a b",
    "a%20b",
    "a{b}c",
    "{}",
    "}{",
    "{{x}}",
    "%",
    "%7B",
    "a\r\nflush_all\r\n",
    "\x00\x1f\x7f",
    "a:l",
    "é ☃ 𝄞",
    "k" * 300,
    "~",
    "*?[a]",
]


@pytest.mark.smoke
async def test_odd_texts_are_keys_of_their_own(place: Place) -> None:
    cache = Process(place.open(), Truth()).cache
    other = Process(place.open(), Truth()).cache

    @cache.cached(key="odd:{text}")
    async def by_template(text: str) -> str:
        return text

    @cache.cached(hash_key=False)
    async def readable(text: str) -> str:
        return text

    async with patience():
        for function in (by_template, readable):
            for text in ODD:
                assert await function(text) == text
            assert [await function(text) for text in ODD] == ODD
            assert function.stats.loads == function.stats.hits == len(ODD)
            await function.invalidate(ODD[5])
            for text in ODD:
                assert await function(text) == text
            assert function.stats.loads == len(ODD) + 1
        assert await other.get(by_template.key("a{b}c")) == "a{b}c"
        with pytest.raises(KeyError):
            await other.get("odd:nothing")


async def test_a_signed_value_copied_under_another_key_is_a_miss(
    place: Place, request: pytest.FixtureRequest
) -> None:
    secret = b"a secret of thirty-two bytes ...."
    truth = Truth()
    process = Process(place.open(secret=secret), truth)
    await process.thing(1)
    await process.thing(2)
    server = request.getfixturevalue(f"{place.kind}_server")
    if isinstance(server, RedisServer):
        data = server.command("GET", "{thing:1}")
        assert isinstance(data, bytes)
        server.command("SET", "{thing:2}", data)
    else:
        data = b"\r\n".join(server.command("get :thing:1")[1:-1])
        assert server.command(f"set :thing:2 0 0 {len(data)}", data) == [b"STORED"]
    assert await process.thing(2) == "2 in version 0"
    assert await process.thing(1) == OLD
    assert truth.loads == 3


# -- an invalidation that does not reach the server ------------------------------------------------


@pytest.fixture(params=NETWORK)
def server(request: pytest.FixtureRequest) -> RedisServer | MemcachedServer:
    return own_server(request)


@pytest.mark.fault
async def test_an_invalidation_while_the_server_is_down_is_caught_up_with(
    server: RedisServer | MemcachedServer,
) -> None:
    truth = Truth()
    process = Process(opened(server.url), truth, invalidate_timeout=0.3)
    assert await process.thing(1) == OLD
    assert await process.thing(2) == "2 in version 0"
    server.pause()
    truth.version = 1
    with pytest.raises(InvalidationFailed) as caught:
        await process.thing.invalidate(1)
    assert caught.value.keys == (process.thing.key(1),)
    assert caught.value.maybe_applied
    assert await process.thing(1) == NEW
    server.resume()
    assert await process.thing(1) == NEW  # the server may still have the old one
    async with asyncio.timeout(3):
        before = -1
        while truth.loads != before:  # cached again, once the retry in the background is through
            before = truth.loads
            assert await process.thing(1) == NEW
            await asyncio.sleep(0.05)
            assert await process.thing(1) == NEW
    assert await process.thing(2) == "2 in version 0"


@pytest.mark.fault
async def test_a_put_that_timed_out_is_not_read_until_it_is_settled(
    server: RedisServer | MemcachedServer,
) -> None:
    truth = Truth()
    process = Process(opened(server.url), truth, invalidate_timeout=0.1)
    assert await process.thing(1) == OLD
    server.pause()
    with pytest.raises(InvalidationFailed):
        await process.thing.put("late", 1)
    truth.version = 1
    assert await process.thing(1) == NEW
    server.resume()
    values = set[str]()
    async with asyncio.timeout(3):
        before = -1
        while truth.loads != before:
            before = truth.loads
            values.add(await process.thing(1))
            await asyncio.sleep(0.05)
            values.add(await process.thing(1))
    assert values == {NEW}


@pytest.mark.fault
async def test_an_invalidation_in_the_journal_does_not_raise_and_is_caught_up_with(
    server: RedisServer | MemcachedServer,
) -> None:
    truth = Truth()
    policy = {"invalidate_timeout": 0.1, "on_invalidate_error": "journal"}
    process = Process(opened(server.url), truth, **policy)
    other = Process(opened(server.url), truth)
    assert await process.thing(1) == OLD
    server.pause()
    truth.version = 1
    await process.thing.invalidate(1)
    assert await process.thing(1) == NEW
    server.resume()
    async with asyncio.timeout(3):
        # The server hears of it without any call here.
        while await other.thing(1) != NEW:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)


@pytest.mark.fault
async def test_a_cancelled_invalidation_counts_as_pending(
    server: RedisServer | MemcachedServer,
) -> None:
    truth = Truth()
    process = Process(opened(server.url), truth)
    assert await process.thing(1) == OLD
    server.pause()
    truth.version = 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await process.thing.invalidate(1)
    assert await process.thing(1) == NEW
    server.resume()
    assert await process.thing(1) == NEW

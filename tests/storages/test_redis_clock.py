"""The time of a Redis storage is the time of its server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gecaso.entry import Entry, Lease
from gecaso.keys import Key, as_key
from gecaso.storages import RedisStorage
from tests.servers import RedisServer


@pytest.fixture
async def storage(redis_url: str) -> AsyncIterator[RedisStorage]:
    async with RedisStorage(redis_url, namespace="test") as storage:
        yield storage


async def took(storage: RedisStorage, key: Key, seconds: float = 10) -> Lease:
    lease = (await storage.lease((key,), seconds))[key]
    assert isinstance(lease, Lease)
    return lease


async def test_now_is_the_time_of_the_server(
    redis_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + 36_000)
    async with RedisStorage(redis_url) as storage:
        assert storage.now() == pytest.approx(true_time() + 36_000, abs=1)
        await storage.ping()
        assert storage.now() == pytest.approx(true_time(), abs=0.5)


@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_machine_whose_clock_is_hours_off_shares_values(
    redis_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    true_time = time.time
    async with RedisStorage(redis_url) as right:
        monkeypatch.setattr(time, "time", lambda: true_time() + hours * 3600)
        async with RedisStorage(redis_url) as wrong:
            await wrong.set("a", 1, ttl=60)  # before it has ever asked for the server's time
            left = redis_server.command("PTTL", "{a}")
            assert isinstance(left, int)
            assert 58_000 < left <= 60_000
            entry = await right.lookup(as_key("a"))
            assert entry is not None
            assert entry.fresh_until == pytest.approx(true_time() + 60, abs=1)
            await right.set("b", 2, ttl=60)
            assert await wrong.get("b") == 2


async def test_being_there_is_being_fresh_where_nothing_is_served_stale(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    key, now = as_key("a"), storage.now()
    await storage.store({key: Entry("x", now, now + 0.05, now + 0.05, version=b"v")})
    redis_server.command("PERSIST", "test:{a}")
    await asyncio.sleep(0.06)
    assert await storage.get("a") == "x"
    lease = await took(storage, key)
    assert lease.seen is not None
    assert storage.now() < lease.seen.fresh_until


async def test_the_clock_is_measured_again_after_a_minute(
    storage: RedisStorage, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.ping()
    before = redis_server.commands()
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 61)
    for _ in range(3):
        await storage.ping()
    assert redis_server.commands() - before == Counter({"ping": 3, "time": 1})
    assert storage.now() == pytest.approx(time.time(), abs=0.5)

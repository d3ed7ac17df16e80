"""What is asked of Redis in one tick leaves in one write; many keys hold up nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from gecaso.entry import Lease
from gecaso.keys import as_key
from gecaso.storages import RedisStorage
from gecaso.storages._redis_hub import AT_ONCE, HEAVIEST, ahead, portions
from tests.servers import RedisServer


@pytest.fixture
async def storage(redis_url: str) -> AsyncIterator[RedisStorage]:
    async with RedisStorage(redis_url, namespace="t", timeout=5) as storage:
        await storage.ping()
        yield storage


class Recording:
    """The transport of a connection; notes what is written at once."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.writes: list[int] = []

    def write(self, data: bytes) -> None:
        self.writes.append(len(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def recorded(storage: RedisStorage) -> Recording:
    line: Any = storage._hub.get().nodes()[0].line  # pyright: ignore[reportPrivateUsage] - what is written?
    line._transport = recording = Recording(line._transport)
    return recording


async def test_a_hundred_writes_of_one_tick_are_one_write(storage: RedisStorage) -> None:
    recording = recorded(storage)
    await asyncio.gather(*(storage.set(f"k{n}", n, ttl=60) for n in range(100)))
    assert len(recording.writes) == 1
    assert len(await storage.get_many(f"k{n}" for n in range(100))) == 100


async def test_whatever_is_asked_in_one_tick_is_one_write_in_the_order_asked(
    storage: RedisStorage,
) -> None:
    keys = [as_key(n) for n in range(30)]
    leases = await storage.lease(keys, 10)
    held = [lease for lease in leases.values() if isinstance(lease, Lease)]
    recording = recorded(storage)
    outcomes = await asyncio.gather(
        *(storage.commit({lease: storage.new_entry("new", 60)}) for lease in held[:10]),
        *(storage.release([lease]) for lease in held[10:20]),
        *(storage.discard([key]) for key in keys[5:10]),
        *(storage.lease([as_key(f"l{n}")], 10) for n in range(10)),
        *(storage.renew([lease], 10) for lease in held[20:]),
    )
    assert len(recording.writes) == 1
    assert outcomes[:10] == [{key} for key in keys[:10]]
    assert outcomes[-10:] == [{key} for key in keys[20:]]
    assert set(await storage.fetch(keys)) == set(keys[:5])


async def test_a_batch_that_is_slow_does_not_hold_up_the_next(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    """The second batch is on its way before the first is answered."""
    await storage.set("a", 1, ttl=60)
    recording = recorded(storage)
    first = [asyncio.ensure_future(storage.get("a")) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    line: Any = storage._hub.get().nodes()[0].line  # pyright: ignore[reportPrivateUsage] - is it answered?
    assert line._asks
    second = asyncio.ensure_future(storage.get("b"))
    third = asyncio.ensure_future(storage.set("c", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(recording.writes) == 2
    assert not any(future.done() for future in (*first, second, third))
    assert await asyncio.gather(*first) == [1] * 10
    with pytest.raises(KeyError):
        await second
    await third


class Lag:
    """The longest that the loop was held up."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def watch(self) -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0)
            self.worst = max(self.worst, time.perf_counter() - started)


@pytest.mark.parametrize("shape", ["redis_url", "redis_cluster_url"])
async def test_ten_thousand_keys_hold_up_nobody(shape: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(shape)
    async with RedisStorage(url, namespace="t", timeout=5, connect_timeout=5) as storage:
        values = {f"k{n}": {"number": n} for n in range(10_000)}
        await storage.set_many(values, ttl=60)
        found: dict[Any, Any] = {}
        lags: list[float] = []
        while len(lags) < 4 and min(lags, default=1.0) > 0.03:  # the machine may be busy
            lag = Lag()
            watching = asyncio.create_task(lag.watch())
            await asyncio.sleep(0)
            found = await storage.get_many(values)
            watching.cancel()
            lags.append(lag.worst)
        assert found == values
        assert min(lags) < 0.05  # as a whole it takes 0.1, or more


def test_portions_are_bounded_in_number_and_bytes_and_keep_together_what_belongs() -> None:
    small = [(b"GET", b"%d" % n) for n in range(AT_ONCE * 2 + 1)]
    assert [len(some) for some in portions(small)] == [AT_ONCE, AT_ONCE, 1]
    heavy = [(b"SET", b"k", b"x" * (HEAVIEST // 2)) for _ in range(5)]
    assert [len(some) for some in portions(heavy)] == [2, 2, 1]
    assert [len(some) for some in portions(heavy[:4], 4)] == [4]
    pairs = [(b"SET", b"%d" % n) for n in range(AT_ONCE * 3)]
    assert all(len(some) % 3 == 0 for some in portions(pairs, 3))
    assert list(portions([])) == []


async def test_what_is_under_way_when_another_fails_is_seen_to() -> None:
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[int]] = [loop.create_future() for _ in range(3)]
    futures[0].set_exception(ValueError("first"))
    futures[1].set_exception(ValueError("second"))  # nobody will ask for it: no warning

    async def take() -> None:
        async for _ in ahead(futures):
            pass

    with pytest.raises(ValueError, match="first"):
        await take()
    assert futures[2].cancelled()


async def test_large_values_go_in_several_pipelines(storage: RedisStorage) -> None:
    values = {f"k{n}": Random(n).randbytes(300_000) for n in range(10)}
    recording = recorded(storage)
    await storage.set_many(values, ttl=60)
    assert len(recording.writes) >= 3
    assert max(recording.writes) < 4 * HEAVIEST
    assert await storage.get_many(values) == values

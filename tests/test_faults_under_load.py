"""A hundred callers while their server is killed, hangs, or is full: none of them sees it.

The times are those of a machine that does nothing else, with room for one that does.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gecaso import Cache, EntryStorage, storage_from_url
from tests.postgres import PostgresServer
from tests.scenes import patience
from tests.servers import MemcachedServer, RedisServer

pytestmark = pytest.mark.fault

Server = RedisServer | MemcachedServer | PostgresServer

KINDS = ("redis", "memcached", "postgres")
CALLERS = 100
KEYS = 40
OWN_TIME = 0.002  # seconds that a load takes
PAUSE = 0.05  # seconds between the calls of one caller
HANGING_FOR = 5.0 if os.environ.get("GECASO_TEST") == "long" else 1.5  # seconds
BACK_WITHIN = 2.0  # seconds
ROOM = 1.0  # seconds that a busy machine may add


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(f"own_{request.param}")
    return server


class Traffic:
    """Callers of one cached function, and how long each call took."""

    def __init__(self, storage: EntryStorage) -> None:
        self.storage = storage
        self.cache = Cache(storage, ttl=60)
        self.loads = 0
        self.calls: list[tuple[float, float]] = []
        self.errors: list[BaseException] = []
        self._go_on = True
        traffic = self

        @self.cache.cached(key="thing:{i}")
        async def thing(i: int) -> int:
            traffic.loads += 1
            await asyncio.sleep(OWN_TIME)
            return i

        self.thing = thing

    async def call(self) -> None:
        while self._go_on:
            i = random.randrange(KEYS)
            began = time.monotonic()
            try:
                assert await self.thing(i) == i
            except Exception as error:  # noqa: BLE001 - that there is none is what is tested
                self.errors.append(error)
            self.calls.append((began, time.monotonic() - began))
            await asyncio.sleep(PAUSE)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Call all the time, with every key cached when the block begins."""
        callers = [asyncio.create_task(self.call()) for _ in range(CALLERS)]
        try:
            await self.is_cached()
            yield
        finally:
            self._go_on = False
            await asyncio.gather(*callers)
            await self.cache.aclose()

    async def is_cached(self) -> float:
        """Wait until a third of a second passes without a load; return how long that took."""
        began = time.monotonic()
        async with patience():
            before = -1
            while before != self.loads:
                before = self.loads
                await asyncio.sleep(0.33)
        return time.monotonic() - began - 0.33

    def p99(self, since: float) -> float:
        took = sorted(took for began, took in self.calls if began >= since)
        return took[int(len(took) * 0.99)]


def open_at(server: Server) -> Any:
    return storage_from_url(server.url)


async def through(traffic: Traffic, trouble: Callable[[], object], seconds: float) -> float:
    """Make trouble for some seconds; return when it began."""
    began = time.monotonic()
    await asyncio.to_thread(trouble)
    await asyncio.sleep(seconds)
    return began


async def test_a_server_that_hangs_costs_no_value_and_little_time(server: Server) -> None:
    traffic = Traffic(open_at(server))
    async with traffic.running():
        began = await through(traffic, server.pause, HANGING_FOR)
        assert traffic.p99(began) <= OWN_TIME + traffic.storage.timeout + ROOM
        later = time.monotonic()
        await asyncio.sleep(0.3)
        assert traffic.p99(later) <= OWN_TIME + 0.001 + ROOM  # the breaker is open
        assert not traffic.storage.health().ok
        await asyncio.to_thread(server.resume)
        assert await traffic.is_cached() <= BACK_WITHIN + ROOM
    assert traffic.errors == []


async def test_a_server_that_is_killed_and_started_again_costs_no_value(server: Server) -> None:
    traffic = Traffic(open_at(server))
    async with traffic.running():
        began = await through(traffic, server.kill, 0.5)
        assert traffic.p99(began) <= OWN_TIME + traffic.storage.timeout + ROOM
        await asyncio.to_thread(server.restart)
        assert await traffic.is_cached() <= BACK_WITHIN + ROOM
        assert traffic.storage.health().ok
    assert traffic.errors == []


async def test_a_redis_that_is_full_costs_no_value() -> None:
    with RedisServer("--maxmemory", "100mb", "--maxmemory-policy", "noeviction") as server:
        traffic = Traffic(open_at(server))
        async with traffic.running():
            for limit, is_full in (("1mb", True), ("100mb", False)):
                server.command("CONFIG", "SET", "maxmemory", limit)
                if is_full:
                    began = time.monotonic()
                    await traffic.thing.invalidate(1)  # so that there is something to store
                    await asyncio.sleep(0.5)
                    assert traffic.p99(began) <= OWN_TIME + traffic.storage.timeout + ROOM
                else:
                    assert await traffic.is_cached() <= BACK_WITHIN + ROOM
        assert traffic.errors == []


async def test_a_memcached_that_is_full_evicts_and_goes_on() -> None:
    with MemcachedServer("-m", "8") as server:
        traffic = Traffic(open_at(server))
        async with traffic.running():
            for i in range(200):
                await traffic.storage.set(f"large {i}", os.urandom(100_000), ttl=60)
            assert await traffic.is_cached() <= BACK_WITHIN + ROOM
        assert traffic.errors == []

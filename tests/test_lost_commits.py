"""What the storage did not hear of a load in trouble holds up nobody when the storage is back."""

from __future__ import annotations

import asyncio
import time

import pytest

from gecaso import EntryStorage, cached
from gecaso.storages import MemcachedStorage, RedisStorage
from tests.servers import Server

pytestmark = pytest.mark.fault


@pytest.fixture(params=["own_redis", "own_memcached"])
def server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


def open_storage(server: Server) -> EntryStorage:
    if server.url.startswith("redis"):
        return RedisStorage(server.url)
    return MemcachedStorage(server.url)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_key_whose_load_ended_while_the_server_hung_is_free_afterwards(
    server: Server, fails: bool
) -> None:
    storage = open_storage(server)

    @cached(storage, ttl=60)
    async def load(x: int) -> int:
        if load.stats.loads == 1:
            server.pause()
            if fails:
                raise LookupError(x)
        return x

    async with storage:
        await asyncio.gather(load(1), return_exceptions=True)
        server.resume()
        started = time.monotonic()
        assert await load(1) == 1
        assert time.monotonic() - started < 2
        await asyncio.sleep(1.2)  # the storage may have been left alone for a while
        await load(1)
        loads = load.stats.loads
        assert await load(1) == 1
        assert load.stats.loads == loads


def test_a_plain_function_hands_back_its_lease_too(server: Server) -> None:
    storage = open_storage(server)

    @cached(storage, ttl=60)
    def load(x: int) -> int:
        if load.stats.loads == 1:
            server.pause()
        return x

    assert load(1) == 1
    server.resume()
    started = time.monotonic()
    assert load(1) == 1
    assert time.monotonic() - started < 2

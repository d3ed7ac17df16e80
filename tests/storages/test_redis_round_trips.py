"""How many commands and round trips an operation on Redis takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gecaso.entry import Lease
from gecaso.keys import as_key
from gecaso.storages import RedisStorage
from tests.servers import RedisServer


@pytest.fixture
async def storage(redis_url: str) -> AsyncIterator[RedisStorage]:
    async with RedisStorage(redis_url, namespace="test") as storage:
        yield storage


async def test_lookups_of_one_tick_are_one_command(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    values = {f"k{number}": number for number in range(100)}
    await storage.set_many(values, ttl=60)
    before = redis_server.commands()
    found = await asyncio.gather(*(storage.get(key) for key in values))
    assert found == list(values.values())
    assert redis_server.commands() - before == Counter({"mget": 1})


async def test_a_lookup_made_after_an_invalidation_sees_it(storage: RedisStorage) -> None:
    key = as_key("a")
    for _ in range(50):
        await storage.set("a", 1)
        reading = storage.lookup(key)
        await storage.discard([key])
        assert await storage.lookup(key) is None
        await reading


async def test_each_operation_is_one_round_trip(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    keys = [as_key(number) for number in range(3)]
    await storage.ping()
    before = redis_server.commands()
    leases = await storage.lease(keys, 10)
    assert redis_server.commands() - before == Counter({"set": 3, "mget": 3})
    before = redis_server.commands()
    entries = {lease: storage.new_entry(1, 60) for lease in leases.values()}
    assert await storage.commit({k: v for k, v in entries.items() if isinstance(k, Lease)}) == {
        *keys
    }
    assert redis_server.commands() - before == Counter(
        {"eval": 3, "get": 3, "set": 3, "del": 3, "publish": 3}
    )

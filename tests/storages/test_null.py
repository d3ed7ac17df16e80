"""`NullStorage` keeps nothing, and is a storage all the same."""

from __future__ import annotations

import asyncio

import pytest

from gecaso import Cache, Entry, Lease, NullStorage, cached
from gecaso.keys import as_key


async def test_nothing_is_kept() -> None:
    storage = NullStorage()
    await storage.set("a", 1, ttl=60)
    with pytest.raises(KeyError):
        await storage.get("a")
    assert await storage.get_many(["a"]) == {}
    await storage.remove("a")
    await storage.clear()
    key = as_key("a")
    lease = (await storage.lease([key], 10))[key]
    assert isinstance(lease, Lease)
    assert await storage.commit({lease: Entry(1, storage.now())}) == {key}
    assert await storage.fetch([key]) == {}
    assert repr(storage) == "<NullStorage: 0 leases>"


async def test_each_call_loads_but_calls_at_once_share_a_load() -> None:
    @cached(NullStorage(), ttl=60)
    async def f(x: int) -> int:
        await asyncio.sleep(0)
        return x

    assert await f(1) == await f(1) == 1
    assert f.stats.loads == 2
    assert await asyncio.gather(*[f(1) for _ in range(10)]) == [1] * 10
    assert f.stats.loads == 3
    await f.put(7, 1)
    with pytest.raises(KeyError):
        await f.peek(1)
    await f.clear()


async def test_a_cache_over_it_makes_every_time() -> None:
    cache = Cache(NullStorage())
    await cache.set("a", 1)
    assert await cache.get("a", default=None) is None
    assert [await cache.get_or_create("a", lambda: x) for x in (1, 2)] == [1, 2]  # noqa: B023 - called at once

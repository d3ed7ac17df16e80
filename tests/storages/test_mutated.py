"""Damaged data under the keys of a storage, on real servers: nothing but misses."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import aiomcache
import pytest
import redis.asyncio

from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage, RedisStorage
from tests.packing.test_packing_mutations import mutate

VALUE = {"id": 7, "name": "Ada", "tags": ("a", b"b", 1.5), "more": [None, True, 2**70]}
AT_ONCE = 1_000
Write = Callable[[dict[str, bytes]], Awaitable[object]]


async def read_mutated(
    storage: RedisStorage | MemcachedStorage, write: Write, names: list[str], *, rounds: int
) -> None:
    """Write mutations of an entry under ``names`` and read them through the storage."""
    rng = random.Random(20260)
    keys = [as_key(f"k{number}") for number in range(len(names))]
    entry = storage.new_entry(VALUE, 3600)
    originals: list[bytes] = []
    for key, name in zip(keys, names, strict=True):
        if storage.packer.verifies:
            entry.proof = storage.packer.proof_of(key)
        originals.append(storage.packer.pack_entry(entry, key=name.encode()))
    await write(dict(zip(names, originals, strict=True)))
    assert len(await storage.fetch(keys)) == len(keys)
    for _ in range(rounds):
        changed = [mutate(rng, original) for original in originals]
        await write(dict(zip(names, changed, strict=True)))
        same = {key for key, new, old in zip(keys, changed, originals, strict=True) if new == old}
        before = storage.corrupt
        assert set(await storage.fetch(keys)) == same
        assert storage.corrupt - before == len(keys) - len(same)


@pytest.mark.parametrize("secret", [None, b"a secret of sixteen bytes"])
async def test_100_000_mutated_entries_on_redis_are_misses(
    redis_url: str, secret: bytes | None
) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType] - redis-py types it in part
    names = [f"t:{{k{number}}}" for number in range(AT_ONCE)]

    async def write(values: dict[str, bytes]) -> None:
        await client.mset(values)

    try:
        async with RedisStorage(redis_url, namespace="t", secret=secret, timeout=5) as storage:
            await read_mutated(storage, write, names, rounds=50)
    finally:
        await client.aclose()


async def test_mutated_entries_on_memcached_are_misses(memcached_url: str) -> None:
    host, _, port = memcached_url.removeprefix("memcached://").partition(":")
    client = aiomcache.Client(host, int(port))
    names = [f"t:k{number}" for number in range(AT_ONCE)]

    async def write(values: dict[str, bytes]) -> None:
        for name, data in values.items():
            await client.set(name.encode(), data)

    try:
        async with MemcachedStorage(memcached_url, namespace="t", timeout=5) as storage:
            await read_mutated(storage, write, names, rounds=5)
    finally:
        await client.close()

"""Hits on a memcached server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import aiomcache

import gecaso
from gecaso.storages import MemcachedStorage
from tests.servers import MemcachedServer

from .callers import CALLERS, Load, load_user, speed_row, together
from .harness import Benchmark, Row, Scale, Target, compare
from .peers import aiocache

__all__ = ["BENCHMARKS"]

TTL = 600  # seconds
CONNECTIONS = 2  # in the pool: what aiomcache and aiocache come with

BARE = "bare aiomcache get"


@asynccontextmanager
async def bare(server: MemcachedServer) -> AsyncGenerator[Load]:
    """The client alone: bytes as they are, from a key that is ready."""
    client = aiomcache.Client("127.0.0.1", server.port, pool_size=CONNECTIONS)
    names = [b"bare:%d" % number for number in range(CALLERS)]
    for name in names:
        await client.set(name, b"x" * 100, exptime=TTL)

    async def load(id: int) -> object:
        return await client.get(names[id])

    yield load
    await client.close()


@asynccontextmanager
async def by_aiocache(server: MemcachedServer) -> AsyncGenerator[Load]:
    cache = aiocache.Cache.MEMCACHED
    f = aiocache.cached(ttl=TTL, cache=cache, port=server.port)(load_user)
    yield f
    await f.cache.close()


@asynccontextmanager
async def ours(server: MemcachedServer) -> AsyncGenerator[Load]:
    async with MemcachedStorage(server.url) as storage:
        yield gecaso.cached(storage, ttl=TTL)(load_user)


async def measure(rounds: int) -> list[Row]:
    work = f"memcached hits, {CALLERS} concurrent callers"
    with MemcachedServer() as server:
        async with AsyncExitStack() as stack:
            base, peer, own = [
                together(await stack.enter_async_context(peer(server)))
                for peer in (bare, by_aiocache, ours)
            ]
            results = await compare(base, {"gecaso": own, "aiocache": peer}, rounds=rounds)
            direct = await compare(peer, {"gecaso": own}, rounds=rounds)
    return [
        speed_row(work, "gecaso", BARE, results["gecaso"], Target("≥", 8)),
        speed_row(work, "gecaso", "aiocache", direct["gecaso"]),
        speed_row(work, "aiocache", BARE, results["aiocache"]),
    ]


def hits_together(scale: Scale) -> list[Row]:
    return asyncio.run(measure(scale.few))


BENCHMARKS = [Benchmark("memcached hits, concurrent callers", hits_together)]

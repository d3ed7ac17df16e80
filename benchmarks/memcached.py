"""Hits on a memcached server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiomcache

import gecaso
from gecaso.storages import MemcachedStorage
from tests.servers import MemcachedServer

from .callers import CALLERS, Load, load_user, speed_row, together
from .harness import Benchmark, Row, Scale, Target, compare
from .peers import aiocache

__all__ = ["BENCHMARKS"]

TTL = 600  # seconds
Peer = Callable[[MemcachedServer, int], AbstractAsyncContextManager[Load]]

USUAL = 2  # connections in the pool of aiomcache and aiocache, unless told otherwise


@asynccontextmanager
async def bare(server: MemcachedServer, connections: int) -> AsyncGenerator[Load]:
    """The client alone: bytes as they are, from a key that is ready."""
    client = aiomcache.Client("127.0.0.1", server.port, pool_size=connections)
    names = [b"bare:%d" % number for number in range(CALLERS)]
    for name in names:
        await client.set(name, b"x" * 100, exptime=TTL)

    async def load(id: int) -> object:
        return await client.get(names[id])

    yield load
    await client.close()


@asynccontextmanager
async def by_aiocache(server: MemcachedServer, connections: int) -> AsyncGenerator[Load]:
    options = {"cache": aiocache.Cache.MEMCACHED, "port": server.port, "pool_size": connections}
    f = aiocache.cached(ttl=TTL, **options)(load_user)
    yield f
    await f.cache.close()


@asynccontextmanager
async def ours(server: MemcachedServer) -> AsyncGenerator[Load]:
    async with MemcachedStorage(server.url) as storage:
        yield gecaso.cached(storage, ttl=TTL)(load_user)


PEERS: dict[str, tuple[Peer, int, Target | None]] = {
    "bare aiomcache get": (bare, USUAL, Target("≥", 8)),
    f"bare aiomcache get, {CALLERS} connections": (bare, CALLERS, Target("≥", 8)),
    "aiocache": (by_aiocache, USUAL, None),
    f"aiocache, {CALLERS} connections": (by_aiocache, CALLERS, None),
}


async def measure(rounds: int) -> list[Row]:
    work = f"memcached hits, {CALLERS} concurrent callers"
    rows: list[Row] = []
    with MemcachedServer() as server:
        async with ours(server) as f:
            for name, (peer, connections, target) in PEERS.items():
                async with peer(server, connections) as other:
                    results = await compare(together(other), {"gecaso": together(f)}, rounds=rounds)
                rows.append(speed_row(work, "gecaso", name, results["gecaso"], target))
    return rows


def hits_together(scale: Scale) -> list[Row]:
    return asyncio.run(measure(scale.few))


BENCHMARKS = [Benchmark("memcached hits, concurrent callers", hits_together)]

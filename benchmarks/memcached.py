"""Hits on a memcached server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiomcache

import gecaso
from gecaso.storages import MemcachedStorage
from tests.servers import MemcachedServer

from .callers import CALLERS, Load, alone, load_user, speed_row, together
from .harness import Benchmark, Row, Scale, Stopwatch, Target, compare
from .peers import aiocache

__all__ = ["BENCHMARKS"]

TTL = 600  # seconds
Peer = Callable[[MemcachedServer, int], AbstractAsyncContextManager[Load]]

MANY = 1000  # keys of one `get_many`
TIMES = 10  # that they are asked for
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


TOGETHER = f"memcached hits, {CALLERS} concurrent callers"
ALONE = "memcached hits, one caller at a time"

PEERS: dict[str, tuple[Peer, int, Target | None]] = {
    "bare aiomcache get": (bare, USUAL, Target("≥", 8)),
    f"bare aiomcache get, {CALLERS} connections": (bare, CALLERS, Target("≥", 8)),
    "aiocache": (by_aiocache, USUAL, None),
    f"aiocache, {CALLERS} connections": (by_aiocache, CALLERS, None),
}
PEERS_ALONE: dict[str, tuple[Peer, Target | None]] = {
    "bare aiomcache get": (bare, Target("≥", 0.9)),
    "aiocache": (by_aiocache, None),
}


async def together_and_alone(rounds: int) -> list[Row]:
    rows: list[Row] = []
    with MemcachedServer() as server:
        async with ours(server) as f:
            for name, (peer, connections, target) in PEERS.items():
                async with peer(server, connections) as other:
                    results = await compare(together(other), {"gecaso": together(f)}, rounds=rounds)
                rows.append(speed_row(TOGETHER, "gecaso", name, results["gecaso"], target))
            for name, (peer, target) in PEERS_ALONE.items():
                async with peer(server, USUAL) as other:
                    results = await compare(alone(other), {"gecaso": alone(f)}, rounds=rounds)
                rows.append(speed_row(ALONE, "gecaso", name, results["gecaso"], target))
    return rows


async def many(rounds: int) -> list[Row]:
    """Many values at once, against the client's own command for that."""
    with MemcachedServer() as server:
        async with MemcachedStorage(server.url) as storage:
            client = aiomcache.Client("127.0.0.1", server.port)
            names = [f"bare:{number}" for number in range(MANY)]
            wire = [name.encode() for name in names]
            for name in wire:
                await client.set(name, b"x" * 100, exptime=TTL)
            await storage.set_many(dict.fromkeys(names, b"x" * 100), ttl=TTL)

            async def ours(watch: Stopwatch) -> None:
                with watch.over(TIMES * MANY):
                    for _ in range(TIMES):
                        if len(await storage.get_many(names)) != MANY:
                            raise RuntimeError("they were no hits")

            async def bare(watch: Stopwatch) -> None:
                with watch.over(TIMES * MANY):
                    for _ in range(TIMES):
                        await client.multi_get(*wire)

            results = await compare(bare, {"gecaso": ours}, rounds=rounds)
            await client.close()
    work = f"memcached get_many of {MANY:,}"
    return [speed_row(work, "gecaso", "bare aiomcache multi_get", results["gecaso"])]


def hits(scale: Scale) -> list[Row]:
    return asyncio.run(together_and_alone(scale.few))


def at_once(scale: Scale) -> list[Row]:
    return asyncio.run(many(scale.few))


BENCHMARKS = [Benchmark("memcached hits", hits), Benchmark("memcached get_many", at_once)]

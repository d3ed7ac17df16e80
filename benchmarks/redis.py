"""Hits on a Redis server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import cashews
import redis.asyncio

import gecaso
from gecaso.storages import RedisStorage
from tests.servers import RedisServer

from .callers import CALLERS, Load, alone, load_user, speed_row, together
from .harness import Benchmark, Comparison, Measurement, Row, Scale, Target, compare
from .peers import aiocache

__all__ = ["BENCHMARKS"]

TTL = 600  # seconds

BARE = "bare redis-py GET"


@asynccontextmanager
async def bare(server: RedisServer) -> AsyncGenerator[Load]:
    """The client alone: bytes as they are, from a key that is ready."""
    async with redis.asyncio.Redis(host="127.0.0.1", port=server.port) as client:
        for number in range(CALLERS):
            await client.set(f"bare:{number}", b"x" * 100, ex=TTL)

        async def load(id: int) -> object:
            return await client.get(f"bare:{id}")

        yield load


@asynccontextmanager
async def by_aiocache(server: RedisServer) -> AsyncGenerator[Load]:
    f = aiocache.cached(ttl=TTL, cache=aiocache.Cache.REDIS, port=server.port)(load_user)
    yield f
    await f.cache.close()


@asynccontextmanager
async def by_cashews(server: RedisServer, **options: Any) -> AsyncGenerator[Load]:
    cache = cashews.Cache()
    cache.setup(server.url, **options)
    await cache.init()
    yield cache(ttl=TTL)(load_user)
    await cache.close()


def by_wide_cashews(server: RedisServer) -> AbstractAsyncContextManager[Load]:
    return by_cashews(server, max_connections=CALLERS)


@asynccontextmanager
async def ours(server: RedisServer) -> AsyncGenerator[Load]:
    async with RedisStorage(server.url) as storage:
        yield gecaso.cached(storage, ttl=TTL)(load_user)


PEERS: dict[str, Callable[[RedisServer], AbstractAsyncContextManager[Load]]] = {
    "aiocache": by_aiocache,
    "cashews": by_cashews,
    f"cashews, {CALLERS} connections": by_wide_cashews,
}


async def compare_all(
    callers: Callable[[Load], Measurement], rounds: int
) -> tuple[dict[str, Comparison], Comparison]:
    """Return gecaso against each of the other decorators, and against the bare client."""
    with RedisServer() as server:
        async with AsyncExitStack() as stack:
            base = callers(await stack.enter_async_context(bare(server)))
            subject = {"gecaso": callers(await stack.enter_async_context(ours(server)))}
            compared: dict[str, Comparison] = {}
            for name, peer in PEERS.items():
                other = callers(await stack.enter_async_context(peer(server)))
                compared |= {name: (await compare(other, subject, rounds=rounds))["gecaso"]}
            return compared, (await compare(base, subject, rounds=rounds))["gecaso"]


def hits_together(scale: Scale) -> list[Row]:
    work = f"Redis hits, {CALLERS} concurrent callers"
    compared, with_bare = asyncio.run(compare_all(together, scale.few))
    return [
        *rows(work, compared, Target("≥", 18)),
        speed_row(work, "gecaso", BARE, with_bare),
        Row(
            work=f"{work}: processor time",
            subject="gecaso",
            against=BARE,
            measured=with_bare.processor_ratio(),
            seconds=with_bare.processor_seconds,
            target=Target("≤", 0.06),
        ),
    ]


def hits_alone(scale: Scale) -> list[Row]:
    work = "Redis hits, one caller at a time"
    compared, with_bare = asyncio.run(compare_all(alone, scale.few))
    return [
        *rows(work, compared, Target("≥", 1.5)),
        speed_row(work, "gecaso", BARE, with_bare, Target("≥", 0.95)),
    ]


def rows(work: str, compared: dict[str, Comparison], target: Target) -> list[Row]:
    return [speed_row(work, "gecaso", name, result, target) for name, result in compared.items()]


BENCHMARKS = [
    Benchmark("Redis hits, concurrent callers", hits_together),
    Benchmark("Redis hits, one caller at a time", hits_alone),
]

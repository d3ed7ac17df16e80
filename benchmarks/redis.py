"""Hits on a Redis server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

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
async def by_cashews(server: RedisServer) -> AsyncGenerator[Load]:
    cache = cashews.Cache()
    cache.setup(server.url)
    await cache.init()
    yield cache(ttl=TTL)(load_user)
    await cache.close()


@asynccontextmanager
async def ours(server: RedisServer) -> AsyncGenerator[Load]:
    async with RedisStorage(server.url) as storage:
        yield gecaso.cached(storage, ttl=TTL)(load_user)


PEERS: dict[str, Callable[[RedisServer], AbstractAsyncContextManager[Load]]] = {
    BARE: bare,
    "aiocache": by_aiocache,
    "cashews": by_cashews,
    "gecaso": ours,
}


async def against_each(
    callers: Callable[[Load], Measurement], rounds: int
) -> dict[str, Comparison]:
    """Compare gecaso with each peer, and the other decorators with the bare client."""
    with RedisServer() as server:
        async with AsyncExitStack() as stack:
            measured: dict[str, Measurement] = {}
            for name, peer in PEERS.items():
                measured[name] = callers(await stack.enter_async_context(peer(server)))
            subject = {"gecaso": measured["gecaso"]}
            others = {name: measured[name] for name in ("aiocache", "cashews")}
            results = await compare(measured[BARE], subject | others, rounds=rounds)
            for name in others:
                result = await compare(measured[name], subject, rounds=rounds)
                results[f"gecaso against {name}"] = result["gecaso"]
            return results


def hits_together(scale: Scale) -> list[Row]:
    work = f"Redis hits, {CALLERS} concurrent callers"
    results = asyncio.run(against_each(together, scale.few))
    return [
        *speed_rows(work, results, Target("≥", 18), None),
        Row(
            work=f"{work}: processor time",
            subject="gecaso",
            against=BARE,
            measured=results["gecaso"].processor_ratio(),
            seconds=results["gecaso"].processor_seconds,
            target=Target("≤", 0.06),
        ),
    ]


def hits_alone(scale: Scale) -> list[Row]:
    results = asyncio.run(against_each(alone, scale.few))
    work = "Redis hits, one caller at a time"
    return speed_rows(work, results, Target("≥", 1.5), Target("≥", 0.95))


def speed_rows(
    work: str, results: dict[str, Comparison], decorated: Target | None, bare: Target | None
) -> list[Row]:
    return [
        speed_row(work, "gecaso", "aiocache", results["gecaso against aiocache"], decorated),
        speed_row(work, "gecaso", "cashews", results["gecaso against cashews"], decorated),
        speed_row(work, "gecaso", BARE, results["gecaso"], bare),
        speed_row(work, "aiocache", BARE, results["aiocache"]),
        speed_row(work, "cashews", BARE, results["cashews"]),
    ]


BENCHMARKS = [
    Benchmark("Redis hits, concurrent callers", hits_together),
    Benchmark("Redis hits, one caller at a time", hits_alone),
]

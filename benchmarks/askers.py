"""One of the processes of a stampede: 250 callers that ask for one key at one moment.

Started by `benchmarks.stampede` as ``python -m benchmarks.askers PEER PORT``. For each line
``KEY MOMENT`` on its input it asks for the key at that moment of the monotonic clock, which is the
same in all processes, and writes what happened as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import Any

import gecaso
from gecaso.storages import MemcachedStorage, RedisStorage

from .callers import Load

__all__ = ["LOAD", "PER_PROCESS"]

PER_PROCESS = 250
LOAD = 0.1  # seconds
TTL = 600  # seconds

loads: list[int] = []


async def load(id: int) -> str:
    loads.append(id)
    await asyncio.sleep(LOAD)
    return f"user {id}"


@asynccontextmanager
async def gecaso_on_redis(port: int) -> AsyncGenerator[Load]:
    async with RedisStorage(f"redis://127.0.0.1:{port}/0") as storage:
        yield gecaso.cached(storage, ttl=TTL)(load)


@asynccontextmanager
async def gecaso_on_memcached(port: int) -> AsyncGenerator[Load]:
    async with MemcachedStorage(f"127.0.0.1:{port}") as storage:
        yield gecaso.cached(storage, ttl=TTL)(load)


@asynccontextmanager
async def by_cashews(port: int, **options: Any) -> AsyncGenerator[Load]:
    import cashews

    cache = cashews.Cache()
    cache.setup(f"redis://127.0.0.1:{port}/0")
    await cache.init()
    yield cache(ttl=TTL, **options)(load)
    await cache.close()


def by_cashews_with_lock(port: int) -> AbstractAsyncContextManager[Load]:
    return by_cashews(port, lock=True)


@asynccontextmanager
async def by_aiocache(port: int) -> AsyncGenerator[Load]:
    from .peers import aiocache

    redis = {"cache": aiocache.Cache.REDIS, "port": port, "pool_max_size": PER_PROCESS}
    f = aiocache.cached_stampede(lease=2, ttl=TTL, **redis)(load)
    yield f
    await f.cache.close()


@asynccontextmanager
async def by_dogpile(port: int) -> AsyncGenerator[Load]:
    make_region: Any = import_module("dogpile.cache").make_region  # it has no types
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "redis_expiration_time": 2 * TTL,
        "distributed_lock": True,
        "thread_local_lock": False,
        "connection_kwargs": {"max_connections": PER_PROCESS},
    }
    region = make_region().configure("dogpile.cache.redis", expiration_time=TTL, arguments=settings)

    def load_plain(id: int) -> str:
        loads.append(id)
        time.sleep(LOAD)
        return f"user {id}"

    user: Callable[[int], str] = region.cache_on_arguments()(load_plain)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(PER_PROCESS) as threads:  # all started by the stampede before the first
        yield lambda key: loop.run_in_executor(threads, user, key)


PEERS: dict[str, Callable[[int], AbstractAsyncContextManager[Load]]] = {
    "gecaso": gecaso_on_redis,
    "gecaso-memcached": gecaso_on_memcached,
    "cashews": by_cashews,
    "cashews-lock": by_cashews_with_lock,
    "aiocache": by_aiocache,
    "dogpile": by_dogpile,
}


async def ask(f: Load, key: int) -> float:
    """Return the seconds that one caller waits."""
    started = time.perf_counter()
    await f(key)
    return time.perf_counter() - started


async def stampede(f: Load, key: int, moment: float) -> dict[str, object]:
    loads.clear()
    await asyncio.sleep(moment - time.monotonic())
    answers = await asyncio.gather(
        *(ask(f, key) for _ in range(PER_PROCESS)), return_exceptions=True
    )
    seconds = [answer for answer in answers if isinstance(answer, float)]
    return {"loads": len(loads), "failed": PER_PROCESS - len(seconds), "seconds": seconds}


async def main(peer: str, port: int) -> None:
    logging.getLogger("aiocache").setLevel(logging.CRITICAL)  # its failing calls are counted here
    async with PEERS[peer](port) as f:
        while line := await asyncio.to_thread(sys.stdin.readline):
            key, moment = line.split()
            print(json.dumps(await stampede(f, int(key), float(moment))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))

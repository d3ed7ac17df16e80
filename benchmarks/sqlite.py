"""Hits and writes in a file of SQLite."""

from __future__ import annotations

import asyncio
import pickle
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite

import gecaso
from gecaso.storages import SQLiteStorage

from .callers import CALLERS, CALLS, Load, User, load_user, loads, speed_row, together
from .harness import Benchmark, Measurement, Row, Scale, Stopwatch, Target, compare
from .peers import diskcache

__all__ = ["BENCHMARKS"]

TTL = 600  # seconds
Save = Callable[[int, User], Awaitable[object]]
Peer = Callable[[Path], AbstractAsyncContextManager[tuple[Load, Save]]]


def user(id: int) -> User:
    coroutine: Coroutine[Any, Any, User] = load_user(id)
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: User = end.value
        return value
    raise AssertionError("load_user does not wait")


@asynccontextmanager
async def ours(folder: Path) -> AsyncGenerator[tuple[Load, Save]]:
    async with SQLiteStorage(folder / "gecaso.db", maxbytes=1 << 30) as storage:

        async def save(id: int, value: User) -> None:
            await storage.set(id, value, ttl=TTL)

        yield gecaso.cached(storage, ttl=TTL)(load_user), save


@asynccontextmanager
async def by_diskcache(folder: Path) -> AsyncGenerator[tuple[Load, Save]]:
    """As its documentation says: in threads."""
    with diskcache.Cache(folder / "diskcache") as cache:
        f = cache.memoize(expire=TTL)(user)

        async def load(id: int) -> object:
            return await asyncio.to_thread(f, id)

        async def save(id: int, value: User) -> None:
            await asyncio.to_thread(cache.set, id, value, expire=TTL)

        yield load, save


@asynccontextmanager
async def by_aiosqlite(folder: Path) -> AsyncGenerator[tuple[Load, Save]]:
    """As a cache is written by hand: a table of pickles with the times when they expire."""
    async with aiosqlite.connect(folder / "aiosqlite.db", isolation_level=None) as db:
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute("PRAGMA synchronous = NORMAL")
        await db.execute("CREATE TABLE cache (key TEXT PRIMARY KEY, value BLOB, expires REAL)")

        async def load(id: int) -> object:
            select = "SELECT value FROM cache WHERE key = ? AND expires > ?"
            async with db.execute(select, (f"user:{id}", time.time())) as cursor:
                row = await cursor.fetchone()
            if row is not None:
                return pickle.loads(row[0])
            value = await load_user(id)
            await save(id, value)
            return value

        async def save(id: int, value: User) -> None:
            row = (f"user:{id}", pickle.dumps(value), time.time() + TTL)
            await db.execute("INSERT OR REPLACE INTO cache VALUES (?, ?, ?)", row)

        yield load, save


def writing(save: Save) -> Measurement:
    """A hundred callers, each writes to a key of its own."""

    async def caller(number: int) -> None:
        for _ in range(CALLS):
            await save(number, user(number))

    async def measure(watch: Stopwatch) -> None:
        with watch.over(CALLERS * CALLS):
            await asyncio.gather(*map(caller, range(CALLERS)))

    return measure


PEERS: dict[str, tuple[Peer, Target, Target | None]] = {
    "diskcache in threads": (by_diskcache, Target("≥", 12), Target("≥", 7)),
    "aiosqlite": (by_aiosqlite, Target("≥", 12), None),
}


async def measure(rounds: int) -> list[Row]:
    hits = f"SQLite hits, {CALLERS} concurrent callers"
    writes = f"SQLite writes, {CALLERS} concurrent callers"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with ours(folder) as (f, save):
            for peer, (opened, for_hits, for_writes) in PEERS.items():
                async with opened(folder) as (other, save_other):
                    told = await compare(together(other), {"it": together(f)}, rounds=rounds)
                    rows.append(speed_row(hits, "gecaso", peer, told["it"], for_hits))
                    told = await compare(writing(save_other), {"it": writing(save)}, rounds=rounds)
                    rows.append(speed_row(writes, "gecaso", peer, told["it"], for_writes))
    return rows


def hits_and_writes(scale: Scale) -> list[Row]:
    loads.clear()
    return asyncio.run(measure(scale.few))


BENCHMARKS = [Benchmark("SQLite hits and writes, concurrent callers", hits_and_writes)]

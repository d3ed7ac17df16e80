"""Hits in a Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import Any

import gecaso
from gecaso.storages import PostgresStorage
from tests.postgres import PostgresServer

from .callers import CALLERS, Load, alone, load_user, speed_row, together
from .harness import Benchmark, Measurement, Row, Scale, Stopwatch, Target, compare

__all__ = ["BENCHMARKS"]

asyncpg: Any = import_module("asyncpg")  # it has no types

TTL = 600  # seconds
MANY = 1000  # keys of one `get_many`
TIMES = 10  # that they are asked for
PATIENT: Any = {"timeout": 10, "connect_timeout": 10}  # a busy machine is no trouble
Peer = Callable[[PostgresServer], AbstractAsyncContextManager[Load]]

QUERY = "SELECT value FROM bare WHERE key = $1"


@asynccontextmanager
async def bare_pool(server: PostgresServer) -> AsyncGenerator[Load]:
    """The client alone, as programs use it: bytes as they are, from a row that is there."""
    async with asyncpg.create_pool(server.url) as pool:
        await fill(pool)

        async def load(id: int) -> object:
            return await pool.fetchval(QUERY, f"bare:{id}")

        yield load


@asynccontextmanager
async def bare_connection(server: PostgresServer) -> AsyncGenerator[Load]:
    """One connection that nobody shares: what there is without a pool."""
    connection = await asyncpg.connect(server.url)
    await fill(connection)

    async def load(id: int) -> object:
        return await connection.fetchval(QUERY, f"bare:{id}")

    yield load
    await connection.close()


async def fill(client: Any) -> None:
    await client.execute("CREATE TABLE IF NOT EXISTS bare (key text PRIMARY KEY, value bytea)")
    rows = [(f"bare:{number}", b"x" * 100) for number in range(MANY)]
    insert = "INSERT INTO bare VALUES ($1, $2) ON CONFLICT DO NOTHING"
    await client.executemany(insert, rows)


@asynccontextmanager
async def ours(server: PostgresServer) -> AsyncGenerator[Load]:
    async with PostgresStorage(server.url, **PATIENT) as storage:
        yield gecaso.cached(storage, ttl=TTL)(load_user)


async def hits(server: PostgresServer, rounds: int) -> list[Row]:
    works: list[tuple[str, Callable[[Load], Measurement], str, Peer, Target | None]] = [
        (
            f"{CALLERS} concurrent callers",
            together,
            "bare asyncpg pool",
            bare_pool,
            Target("≥", 20),
        ),
        ("one caller", alone, "bare asyncpg pool", bare_pool, Target("≥", 0.9)),
        ("one caller", alone, "bare asyncpg connection", bare_connection, None),
    ]
    rows: list[Row] = []
    async with ours(server) as f:
        for work, measured, name, peer, target in works:
            async with peer(server) as other:
                subjects = {"gecaso": measured(f)}
                results = await compare(measured(other), subjects, rounds=rounds)
            rows.append(
                speed_row(f"Postgres hits, {work}", "gecaso", name, results["gecaso"], target)
            )
    return rows


async def many(server: PostgresServer, rounds: int) -> list[Row]:
    """Many values at once, against the quickest that the client can do: one statement."""
    async with PostgresStorage(server.url, **PATIENT) as storage:
        connection = await asyncpg.connect(server.url)
        await fill(connection)
        names = [f"bare:{number}" for number in range(MANY)]
        await storage.set_many(dict.fromkeys(names, b"x" * 100), ttl=TTL)

        async def ours(watch: Stopwatch) -> None:
            with watch.over(TIMES * MANY):
                for _ in range(TIMES):
                    if len(await storage.get_many(names)) != MANY:
                        raise RuntimeError("they were no hits")

        async def bare(watch: Stopwatch) -> None:
            query = "SELECT key, value FROM bare WHERE key = ANY($1)"
            with watch.over(TIMES * MANY):
                for _ in range(TIMES):
                    dict(await connection.fetch(query, names))

        results = await compare(bare, {"gecaso": ours}, rounds=rounds)
        await connection.close()
    against = "bare asyncpg, one statement"
    return [speed_row(f"Postgres get_many of {MANY:,}", "gecaso", against, results["gecaso"])]


def measured(scale: Scale) -> list[Row]:
    with PostgresServer() as server:
        return [
            *asyncio.run(hits(server, scale.few)),
            *asyncio.run(many(server, scale.few)),
        ]


BENCHMARKS = [Benchmark("Postgres hits", measured)]

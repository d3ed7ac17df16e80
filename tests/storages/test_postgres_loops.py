"""A storage over a pool of the user's gives back what it has taken."""

from __future__ import annotations

import asyncio

from tests.storages.loops_kit import use
from tests.storages.postgres_kit import asyncpg, opened


async def test_a_pool_is_given_all_its_connections_back(postgres_url: str) -> None:
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=5) as pool:
        for _ in range(5):
            storage = opened(pool)
            await use(storage)
            waiting = [asyncio.create_task(use(storage)) for _ in range(5)]
            await asyncio.sleep(0)
            await storage.aclose()
            await asyncio.wait(waiting)
            for task in waiting:
                task.exception()
        async with asyncio.timeout(5):
            held = [await pool.acquire() for _ in range(5)]
        for connection in held:
            await pool.release(connection)

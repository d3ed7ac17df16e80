"""A PgBouncer in transaction mode before the server: each statement may run elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gecaso import Cache, Unsupported
from gecaso.changes import Gap
from gecaso.entry import Busy
from gecaso.keys import as_key
from gecaso.storages import PostgresStorage
from tests.storages.leases_kit import KEY, refused, took
from tests.storages.postgres_kit import asyncpg, connected, opened

PATIENT: dict[str, Any] = {"timeout": 10, "connect_timeout": 10}


async def use(storage: PostgresStorage, name: str) -> None:
    """Do a bit of everything; what comes out must be what this user put in."""
    for n in range(40):
        await storage.set((name, n % 5), (name, n), ttl=60)
        assert await storage.get((name, n % 5)) == (name, n)
        lease = await took(storage, as_key(("leased", name)))
        assert await storage.commit({lease: storage.new_entry(name, 60)}) == {lease.key}
        await storage.remove((name, n % 5))


@pytest.mark.process
async def test_many_clients_over_two_connections_read_what_is_theirs(pgbouncer_url: str) -> None:
    names = [f"table_{n}" for n in range(4)]
    storages = [opened(pgbouncer_url, table=name, **PATIENT) for name in names]
    for storage in storages:
        await storage.ping()
    await asyncio.gather(*map(use, storages, names))
    for storage in storages:
        await storage.aclose()


@pytest.mark.process
async def test_leases_wait_for_transactions_and_for_each_other(pgbouncer_url: str) -> None:
    async with opened(pgbouncer_url, **PATIENT) as here, opened(pgbouncer_url, **PATIENT) as there:
        lease = await took(here)
        busy = await refused(there)
        waiting = asyncio.create_task(there.wait(busy, 30))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await here.release([lease])
        await asyncio.wait_for(waiting, 2)  # nobody can tell, and it looks
        async with (
            asyncpg.create_pool(pgbouncer_url, min_size=1, statement_cache_size=0) as pool,
            pool.acquire() as connection,
        ):
            async with connection.transaction():
                await here.on(connection).remove("a")
                got = (await there.lease([KEY], 10))[KEY]
                assert isinstance(got, Busy)
            await took(there)


@pytest.mark.process
async def test_changes_need_a_way_around_it(pgbouncer_url: str, postgres_url: str) -> None:
    async with opened(pgbouncer_url, **PATIENT) as storage:
        with pytest.raises(Unsupported, match="listen_url="):
            await anext(storage.changes())
    async with opened(pgbouncer_url, listen_url=postgres_url, **PATIENT) as storage:
        async with asyncio.timeout(10):
            assert isinstance(await anext(storage.changes()), Gap)


@pytest.mark.process
@pytest.mark.parametrize("options", [{}, {"statement_cache_size": 0}])
async def test_a_pool_through_it(pgbouncer_url: str, options: dict[str, Any]) -> None:
    pool = asyncpg.create_pool(pgbouncer_url, min_size=1, max_size=4, **options)
    async with pool, opened(pool, **PATIENT) as storage:
        cache = Cache(storage, on_storage_error="raise")

        @cache.cached(ttl=60)
        async def f(i: int) -> int:
            return i

        for _ in range(3):
            assert await asyncio.gather(*map(f, range(100))) == list(range(100))
        await use(storage, "pool")


async def test_without_one_statements_are_prepared_once(postgres_url: str) -> None:
    async with opened(postgres_url, pool_size=1) as storage, connected(postgres_url):
        for n in range(20):
            await storage.set("a", n)
        (session,) = storage._here.get()._lane.sessions  # pyright: ignore[reportPrivateUsage] - its statements
        assert len(session._prepared) == 1  # pyright: ignore[reportPrivateUsage] - likewise

"""What the tests of Postgres share: connections, and leases that must be there or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from gecaso.entry import Busy, Lease
from gecaso.errors import StorageError
from gecaso.keys import Key, as_key
from gecaso.storages import PostgresStorage

__all__ = [
    "KEY",
    "asyncpg",
    "connected",
    "opened",
    "refused",
    "rolled_back",
    "soon",
    "took",
    "within",
]

asyncpg: Any = import_module("asyncpg")  # it has no types

KEY = as_key("a")


def opened(url: str, **options: Any) -> PostgresStorage:
    """Return a storage that a busy machine does not put out of patience."""
    patient: dict[str, Any] = {"timeout": 2.0, "connect_timeout": 5.0}
    return PostgresStorage(url, **patient | options)


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def within(seconds: float, attempt: Callable[[], Awaitable[object]]) -> None:
    """Repeat ``attempt`` until it does not raise StorageError."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                await attempt()
                return
            except StorageError:
                await asyncio.sleep(0.02)  # another process tells nobody when it listens again


@asynccontextmanager
async def rolled_back(connection: Any, **options: Any) -> AsyncGenerator[None]:
    """A transaction, or a savepoint in one, that comes to nothing."""
    transaction = connection.transaction(**options)
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def took(storage: PostgresStorage, key: Key = KEY, seconds: float = 10) -> Lease:
    lease = (await storage.lease((key,), seconds))[key]
    assert isinstance(lease, Lease)
    return lease


async def refused(storage: PostgresStorage, key: Key = KEY, seconds: float = 10) -> Busy:
    busy = (await storage.lease((key,), seconds))[key]
    assert isinstance(busy, Busy)
    return busy


async def soon(storage: PostgresStorage, key: Key = KEY) -> Lease:
    """Take a lease that must become free."""
    async with asyncio.timeout(10):
        while True:
            got = (await storage.lease((key,), 10))[key]
            if isinstance(got, Lease):
                return got
            await storage.wait(got, 0.05)

"""What the tests of Postgres share: patient storages, connections, transactions in vain."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from gecaso.storages import PostgresStorage
from tests.postgres import PostgresServer

__all__ = ["asyncpg", "connected", "end_listeners", "opened", "rolled_back"]

asyncpg: Any = import_module("asyncpg")  # it has no types


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


@asynccontextmanager
async def rolled_back(connection: Any, **options: Any) -> AsyncGenerator[None]:
    """A transaction, or a savepoint in one, that comes to nothing."""
    transaction = connection.transaction(**options)
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


def end_listeners(server: PostgresServer) -> None:
    """End the connections that wait to be told something."""
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE 'LISTEN%' OR query = 'SELECT 1'"
    )

"""Where connections come from: a URL, or the user's pool; and how they are left behind."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import AbstractEventLoop
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from gecaso.errors import ConfigurationError
from gecaso.loops import close_descriptor, close_without_loop

from ._postgres_client import Connection, Pool, connect, is_held

__all__ = ["Lent", "Means", "Own", "Source", "abandon", "check_loop", "let_go"]


class Source(Protocol):
    """Where connections come from."""

    is_lent: bool

    async def open(self) -> Connection: ...
    async def close(self, connection: Connection) -> None: ...


class Own:
    """Connections of ours, made from a URL."""

    is_lent = False

    def __init__(self, url: str, connect_timeout: float) -> None:
        self._url = url
        self._connect_timeout = connect_timeout

    async def open(self) -> Connection:
        return await connect(self._url, self._connect_timeout)

    async def close(self, connection: Connection) -> None:
        connection.terminate()


class Lent:
    """Connections that the user's pool lends us for one operation at a time."""

    is_lent = True

    def __init__(self, pool: Pool, connect_timeout: float) -> None:
        self._pool = pool
        self._connect_timeout = connect_timeout

    async def open(self) -> Connection:
        connection: Connection = await self._pool.acquire(timeout=self._connect_timeout)
        return connection

    async def close(self, connection: Connection) -> None:
        await self._pool.release(connection)


class Means(NamedTuple):
    """How to reach the server; times in seconds. ``listening`` is None where nobody can listen."""

    source: Source
    listening: Source | None
    size: int
    timeout: float
    connect_timeout: float


def abandon(connection: Any, loop: AbstractEventLoop) -> None:
    """Close the descriptor of a connection whose loop is closed, or that is the parent's."""
    inner = getattr(connection, "_con", connection)  # that of a pool is behind a proxy
    transport = getattr(inner, "_transport", None)
    if transport is None:
        return
    if loop.is_closed():
        close_without_loop(transport)
    close_descriptor(transport)
    inner._aborted = True  # or asyncpg would warn that nobody closed it


def check_loop(pool: Any) -> None:
    """Raise `ConfigurationError` if a pool cannot be used in the running loop."""
    theirs = getattr(pool, "_loop", None)
    if theirs is not None and theirs is not asyncio.get_running_loop():
        raise ConfigurationError(
            "this pool was made in another event loop, where alone it can be used; "
            "give PostgresStorage the URL, and it makes connections in each loop"
        )


def let_go(loop: AbstractEventLoop, held: Iterable[set[Any]]) -> None:
    """Close connections, or those of sessions, from wherever their storage was collected."""
    for one in [one for some in held for one in some]:
        connection: Connection = getattr(one, "connection", one)
        if loop.is_closed():
            abandon(connection, loop)
            continue
        with contextlib.suppress(RuntimeError):  # the loop has just closed
            loop.call_soon_threadsafe(_terminate, connection)


def _terminate(connection: Connection) -> None:
    if is_held(connection):
        connection.terminate()

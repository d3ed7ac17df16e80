"""The same storage inside a transaction of the user's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from typing import Any, NoReturn

from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import ConfigurationError, StorageError, Unsupported
from gecaso.keys import Key
from gecaso.storage import EntryStorage

from ._postgres_client import ROLLED_BACK, is_held, mapped
from ._postgres_core import Core
from ._postgres_server import Session

__all__ = ["InTransaction"]


class InTransaction(EntryStorage):
    """What ``storage.on(connection)`` returns: what it changes is part of the transaction.

    Until the commit nobody else sees anything of it, and nobody can lease or commit a key that was
    removed or set: what a load elsewhere has read before the commit is not stored. A rollback, to
    a savepoint too, takes it all back.

    Serialization failures and deadlocks are raised as asyncpg raises them, for the code that runs
    transactions again; everything else is a `StorageError`. Loads go through the storage itself.
    """

    def __init__(
        self,
        storage: EntryStorage,
        core: Core,
        meet: Callable[[], Awaitable[None]],
        connection: Any,
    ) -> None:
        _check(connection)
        self._storage = storage
        self._core = core
        self._meet = meet
        self._connection = connection
        self._session = Session(connection, core.server, is_lent=True)
        self.default_ttl = storage.default_ttl

    def __repr__(self) -> str:
        return f"<{self._storage!r} in a transaction>"

    @property
    def guarded(self) -> EntryStorage:
        return self._storage

    def now(self) -> float:
        return self._storage.now()

    @contextlib.contextmanager
    def _inside(self) -> Generator[None]:
        try:
            with mapped(self._core.server.where):
                yield
        except StorageError as error:
            if isinstance(error.__cause__, ROLLED_BACK):
                raise error.__cause__ from None
            raise

    async def _ready(self) -> None:
        _check(self._connection)
        await self._meet()

    # --- reading --------------------------------------------------------------------------------

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """Return what this transaction sees: its own changes too."""
        await self._ready()
        rows = self._core.rows_of(keys)
        with self._inside():
            found = await self._core.rows.look(self._session, rows)
        return self._core.read(rows, found)

    # --- writing --------------------------------------------------------------------------------

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        await self._ready()
        with self._inside():
            return await self._core.write(self._session, entries, expect, None, "")

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        await self._ready()
        rows, names = self._core.rows, self._core.rows_of(keys)
        with self._inside():
            if keep_stale:
                margin = self._storage.timeout
                await rows.expire(self._session, names, None, "", margin)
            else:
                await rows.discard(self._session, names, None, "")

    async def clear(self) -> None:
        """Invalidate everything in the namespace."""
        await self._ready()
        with self._inside():
            await self._core.rows.clear(self._session, None, "")

    async def evict(self, keys: Iterable[Key]) -> None:
        """Do nothing: what makes room has no place in a transaction."""

    # --- what a transaction cannot do -----------------------------------------------------------

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        _refuse()

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        _refuse()

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        _refuse()

    async def release(self, leases: Iterable[Lease]) -> None:
        _refuse()


def _refuse() -> NoReturn:
    raise Unsupported(
        "loads take leases that others see at once, which no transaction can; "
        "use the storage itself, and its on(connection) to invalidate and to put"
    )


def _check(connection: Any) -> None:
    """Refuse what is no connection of asyncpg in a transaction of the running loop."""
    try:
        is_open = is_held(connection) and not connection.is_closed()
        inside = is_open and connection.is_in_transaction()
        loop = getattr(getattr(connection, "_con", connection), "_loop", None)
    except AttributeError:
        raise ConfigurationError(
            f"on() takes a connection of asyncpg, not {type(connection).__name__}; SQLAlchemy's "
            "is (await connection.get_raw_connection()).driver_connection"
        ) from None
    if not is_open:
        raise ConfigurationError(
            "this connection is closed, or back in its pool; call on() inside the transaction"
        )
    if loop is not None and loop is not asyncio.get_running_loop():
        raise ConfigurationError("this connection belongs to another event loop")
    if not inside:
        raise ConfigurationError(
            "this connection is in no transaction: write `async with connection.transaction():` "
            "around it, or use the storage itself"
        )

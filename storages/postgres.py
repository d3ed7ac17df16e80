"""Entries in PostgreSQL (12 or newer), over asyncpg."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gecaso import events
from gecaso.changes import Change
from gecaso.durations import Duration, seconds
from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import ConfigurationError, StorageError, UnpackError, Unsupported
from gecaso.keys import Key
from gecaso.loops import PerLoop
from gecaso.packing import Packer
from gecaso.packing.signing import Secret
from gecaso.storage import EntryStorage
from gecaso.verifying import verify

from ._postgres_client import Pool, check_url, is_pool, where_of
from ._postgres_core import Core, Patience, shifted
from ._postgres_ears import Deaf
from ._postgres_link import Link
from ._postgres_listening import LOOK_AGAIN
from ._postgres_names import Names, quoted_table
from ._postgres_rows import LOCK, Found, Refused, Taken, Token
from ._postgres_server import Server, Session
from ._postgres_sources import Lent, Means, Own, Source, check_loop
from ._postgres_statements import definition
from ._postgres_transaction import InTransaction

if TYPE_CHECKING:
    import asyncpg  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs] - it has none

__all__ = ["PostgresStorage"]

AT_ONCE: Final = 512  # keys in one lookup
RECONNECT: Final = (0.05, 2.0)  # seconds between attempts to listen again, first and last


class PostgresStorage(EntryStorage):
    """Entries in one table of a PostgreSQL database, shared by every process that uses it.

    ``dsn_or_pool`` is ``postgresql://user:password@host:port/database``, or an `asyncpg.Pool`,
    which is used in its own event loop. ``table`` is made at the first use, unlogged; it may have
    a schema, ``"cache.gecaso"``. ``namespace`` keeps the keys of several caches apart. With a
    ``secret`` every value is signed. No operation takes longer than ``timeout`` seconds, or
    ``connect_timeout`` if it must connect first. ``types`` are the classes that values may have.
    Each event loop has at most ``pool_size`` connections, and one more that listens: by
    ``listen_url``, if there is a pooler before the server. Further options go to `Packer`.

    Making one connects to nothing. With a URL it can be used in any loop, thread and forked child.
    Raises `ConfigurationError` for what cannot work.

    >>> storage = PostgresStorage("postgresql://localhost/app", namespace="shop")
    >>> await storage.set("answer", 42, ttl=60)
    >>> await storage.get("answer")
    42
    >>> await storage.aclose()
    """

    shared = True
    notifies = True

    def __init__(
        self,
        dsn_or_pool: str | asyncpg.Pool,
        table: str = "gecaso",
        *,
        namespace: str = "",
        secret: Secret | None = None,
        timeout: Duration = 0.25,
        connect_timeout: Duration = 0.5,
        types: Iterable[type] = (),
        pool_size: int = 4,
        listen_url: str | None = None,
        **packing: Any,
    ) -> None:
        if pool_size < 1:
            raise ConfigurationError(f"pool_size={pool_size!r}: give at least 1 connection")
        place: Any = dsn_or_pool
        self.namespace = namespace
        self.timeout = timeout = seconds(timeout, option="timeout")
        connect_timeout = seconds(connect_timeout, option="connect_timeout")
        self.corrupt = 0
        """How often something unreadable was found, and taken for a miss."""
        self.ddl = definition(quoted_table(table))
        """The SQL that makes the table, for those who make tables themselves."""
        source, listening, where = _sources(place, listen_url, connect_timeout)
        if not isinstance(place, str):
            pool_size = min(pool_size, place.get_max_size())
        server = Server(where, quoted_table(table), timeout)
        packer = Packer(secret=secret, types=types, **packing)
        core = Core(server, Names(namespace), packer, self._found_corrupt)
        means = Means(source, listening, pool_size, timeout, connect_timeout)
        self._core = core
        self._patience = Patience()

        def make_here() -> Link:
            if not isinstance(place, str):
                check_loop(place)
            return Link(means, core.rows, core.unpack)

        self._here = PerLoop(make_here, Link.close, Link.abandon)
        verify(self, packer)

    def __repr__(self) -> str:
        server = self._core.server
        connections = sum(link.connections() for link in self._here.resources())
        return (
            f"<PostgresStorage {server.where}, table {server.table}, "
            f"namespace {self.namespace!r}, {connections} connections>"
        )

    @property
    def packer(self) -> Packer:
        return self._core.packer

    def learn(self, types: Iterable[type]) -> None:
        self._core.packer = self._core.packer.also(types)

    def now(self) -> float:
        """Return the time of the server in seconds since 1970."""
        return self._core.server.now()

    def on(self, connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy) -> EntryStorage:
        """Return this storage inside the transaction of ``connection``, to invalidate and to put.

        ``await storage.on(connection).remove(*keys)`` comes true with the commit, and not at all
        with a rollback. From the removal to the end of the transaction nobody can store a value of
        these keys: none that is older than the commit is ever stored. ``set``, ``clear`` and
        ``get`` are part of the transaction likewise.

        Raises `ConfigurationError` if the connection is closed, of another loop, or in no
        transaction; and asyncpg's own `SerializationError` or `DeadlockDetectedError` where the
        transaction has to be run again.
        """
        return InTransaction(self, self._core, self._meet, connection)

    async def _meet(self) -> None:
        await self._here.get().meet()

    def _found_corrupt(self, row: str, error: UnpackError) -> None:
        self.corrupt += 1
        if events.hooks:
            events.emit(events.Corrupt(storage=self, key=row, reason=str(error)))

    # --- reading --------------------------------------------------------------------------------

    def lookup(self, key: Key) -> Awaitable[Entry | None]:
        """Return a future of the entry, or of None; lookups of one tick share one statement."""
        return self._here.get().lookups.add(self._core.names.row(key))

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        rows, link = self._core.rows_of(keys), self._here.get()
        names = [*rows]
        found: dict[str, Found] = {}
        for start in range(0, len(names), AT_ONCE):
            found |= await link.look(names[start : start + AT_ONCE])
        return self._core.read(rows, found)

    async def ping(self) -> None:
        await self._here.get().read(_select_one)

    # --- leases ---------------------------------------------------------------------------------

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        row = self._core.names.row
        wanted = {key: Token(row(key), new_token(), seconds) for key in keys}
        if not wanted:
            return {}
        link = self._here.get()
        started = time.monotonic()
        asking = asyncio.gather(*map(link.takes.add, wanted.values()), return_exceptions=True)
        try:
            await asyncio.wait((asking,))
        except asyncio.CancelledError:
            asking.add_done_callback(partial(_give_back, link, wanted))
            raise
        outcomes = asking.result()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                _give_back(link, wanted, asking)
                raise outcome
        until = started + self._core.server.offset + seconds
        pairs = zip(wanted.items(), outcomes, strict=True)
        return {key: self._granted(key, token, until, got) for (key, token), got in pairs}

    def _granted(self, key: Key, token: Token, until: float, got: Any) -> Lease | Busy:
        there: Taken | Refused = got
        seen: Entry | None = None
        if there.value is not None:
            seen = self._core.unpack((token.row, there.value, there.fresh), self.now())
        if isinstance(there, Refused):
            if there.token != LOCK:
                return Busy(key, there.token, max(0.0, there.left), seen)
            if not self._patience.is_over(token.row):
                return Busy(key, LOCK, LOOK_AGAIN, seen)
            # A lease that the server knows nothing of: its value will be returned, not stored.
            return Lease(key, token.token, until, seen)
        self._patience.end(token.row)
        return Lease(key, token.token, until, seen)

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        leases, link = list(leases), self._here.get()
        started = time.monotonic()
        kept = await asyncio.gather(
            *[link.renewals.add(self._token(lease, seconds)) for lease in leases]
        )
        renewed = [lease for lease, ours in zip(leases, kept, strict=True) if ours]
        for lease in renewed:
            lease.until = started + self._core.server.offset + seconds
        return {lease.key for lease in renewed}

    def _token(self, lease: Lease, seconds: float = 0.0) -> Token:
        return Token(self._core.names.row(lease.key), lease.token, seconds)

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        link, pack = self._here.get(), self._core.pack
        packed = [pack(lease.key, entry, lease.token) for lease, entry in entries.items()]
        done = await asyncio.gather(*map(link.commits.add, packed))
        return {lease.key for lease, stored in zip(entries, done, strict=True) if stored}

    async def release(self, leases: Iterable[Lease]) -> None:
        link = self._here.get()
        await asyncio.gather(*[link.releases.add(self._token(lease)) for lease in leases])

    async def wait(self, busy: Busy, timeout: float) -> None:
        row = self._core.names.row(busy.key)
        await self._here.get().listening.wait(row, busy.token, timeout)

    # --- writing --------------------------------------------------------------------------------

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        link = self._here.get()
        entries = await self._in_server_time(entries)
        if expect is not None:
            return await link.run(
                lambda session: self._core.write(
                    session, entries, expect, self._core.server.lock_timeout, self._origin
                )
            )
        packed = [self._core.pack(key, entry) for key, entry in entries.items()]
        await asyncio.gather(*map(link.stores.add, packed))
        return set(entries)

    @property
    def _origin(self) -> str:
        return self._core.rows.origin

    async def _in_server_time(self, entries: Mapping[Key, Entry]) -> Mapping[Key, Entry]:
        """Return the entries as the server's clock would have timed them.

        Before the first connection `now` was this machine's own time, perhaps hours off.
        """
        server = self._core.server
        if server.is_known:
            return entries
        before = server.offset
        await self._meet()
        shift = server.offset - before
        return {key: shifted(entry, shift) for key, entry in entries.items()}

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        link = self._here.get()
        batch = link.expiries if keep_stale else link.discards
        await asyncio.gather(*map(batch.add, self._core.rows_of(keys)))

    async def evict(self, keys: Iterable[Key]) -> None:
        rows = self._core.rows_of(keys)
        if rows:
            await self._here.get().run(lambda session: self._core.rows.evict(session, rows))

    async def clear(self) -> None:
        """Invalidate everything in the namespace; the rows are deleted in the background."""
        link = self._here.get()
        lock = self._core.server.lock_timeout
        await link.run(lambda session: self._core.rows.clear(session, lock, self._origin))
        link.sweep_soon()

    async def purge(self) -> int:
        """Delete rows of which nothing is left; return how many.

        This is done once a minute while the storage is used.
        """
        return await self._here.get().purge()

    # --- the rest -------------------------------------------------------------------------------

    async def changes(self) -> AsyncIterator[Change]:
        """Iterate over what others change: `Changed`, `Cleared` and `Gap`, as they are told.

        What is told before it is taken comes together. The first item is a `Gap`, and so is the
        first after the connection was lost. Changes by this storage object are left out, except
        those made inside transactions. Ends when the storage is closed. Raises `Unsupported` where
        nothing can be heard: behind a pooler, without ``listen_url``.
        """
        pause, longest = RECONNECT
        link = self._here.get()
        while not link.is_closed:
            try:
                ears = await link.listening.ears(self.timeout)
            except Deaf as error:
                raise Unsupported(str(error)) from error
            except StorageError:
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            if not ears.is_open:
                continue
            pause = RECONNECT[0]
            follower = ears.follow()
            try:
                while (change := await follower.next()) is not None:
                    yield change
            finally:
                ears.leave(follower)

    async def aclose(self) -> None:
        await self._here.aclose()


async def _select_one(session: Session) -> None:
    await session.fetch("SELECT 1")


def _give_back(link: Link, wanted: Mapping[Key, Token], asking: asyncio.Future[Any]) -> None:
    """Release what was leased for a caller that was cancelled meanwhile."""
    if asking.cancelled() or link.is_closed:
        return
    pairs = zip(wanted.values(), asking.result(), strict=True)
    for token in [token for token, got in pairs if isinstance(got, Taken)]:
        link.releases.add(token).add_done_callback(_ignore)


def _ignore(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # the lease runs out


def _sources(
    place: Any, listen_url: str | None, connect_timeout: float
) -> tuple[Source, Source | None, str]:
    """Return where connections come from, those that listen too, and the address."""
    listening: Source | None = None
    if listen_url is not None:
        check_url(listen_url)
        listening = Own(listen_url, connect_timeout)
    if isinstance(place, str):
        check_url(place)
        source = Own(place, connect_timeout)
        return source, listening or source, where_of(place)
    if not is_pool(place):
        raise ConfigurationError(
            "PostgresStorage takes a URL, postgresql://user:password@host/database, or an "
            f"asyncpg.Pool, not {type(place).__name__}"
        )
    pool: Pool = place
    lent = Lent(pool, connect_timeout)
    if listening is None and pool.get_max_size() > 1:
        listening = lent
    return lent, listening, "the user's pool"

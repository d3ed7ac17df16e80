"""Entries in a file of SQLite, shared by the processes of one machine."""

from __future__ import annotations

import asyncio
import copy
import os
import sqlite3
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast

from gecaso import events
from gecaso.durations import Duration, seconds
from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import ConfigurationError, StorageError, UnpackError, ValueTooLarge
from gecaso.keys import Key, naming, wire_text
from gecaso.loops import PerLoop
from gecaso.packing import Packer
from gecaso.packing.signing import Secret
from gecaso.storage import EntryStorage
from gecaso.verifying import verify

from ._recency import check_bound
from ._sqlite_clock import Clock
from ._sqlite_crew import Crew, Report, crew_of
from ._sqlite_desk import Desk
from ._sqlite_schema import ROW_BYTES
from ._sqlite_work import (
    Clear,
    Commit,
    Discard,
    Evict,
    Ping,
    Release,
    Renew,
    Row,
    Store,
    Swap,
    Take,
    Taken,
    Work,
)

__all__ = ["SQLiteStorage"]

T = TypeVar("T")

LARGE: Final = 64 * 1024  # bytes; from here on a file is quicker to write and to read
AT_ONCE: Final = 500  # keys in one piece of work
ATTEMPTS: Final = 5  # to replace what somebody else keeps replacing
OLDEST: Final = (3, 24)  # of the SQLite library: the first with ON CONFLICT DO UPDATE


class SQLiteStorage(EntryStorage):
    """Entries in one file, shared by every process of this machine that uses it.

    ``path`` is the file; it is made when it is not there, for this user alone. ``maxbytes`` bounds
    what the entries of the file take, in bytes: those used longest ago leave first. ``namespace``
    keeps the keys of several caches apart. With a ``secret`` every value is signed. No operation
    takes longer than ``timeout`` seconds. ``types`` are the classes that values may have. Packed
    values of ``large`` bytes or more are files of their own, in a folder beside the database.
    Further options go to `Packer`.

    Making one opens nothing. It can be used in any loop, thread and forked child. The file belongs
    on a disk of this machine, not on a network filesystem. A damaged file is set aside, and a new
    one made. Raises `ConfigurationError` for what cannot work.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/cache.db"
    >>> async with SQLiteStorage(path, maxbytes=100_000_000) as storage:
    ...     await storage.set("answer", 42, ttl=60)
    ...     await storage.get("answer")
    42
    """

    shared = True
    notifies = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        maxbytes: int | None = None,
        namespace: str = "",
        secret: Secret | None = None,
        timeout: Duration = 0.5,
        types: Iterable[type] = (),
        large: int = LARGE,
        **packing: Any,
    ) -> None:
        self.path = _checked(path)
        if large < 1:
            raise ConfigurationError(f"large= must be above zero, not {large!r}")
        self.maxbytes = check_bound(maxbytes, "maxbytes")
        self.namespace = namespace
        self.timeout = seconds(timeout, option="timeout")
        self.packer = Packer(secret=secret, types=types, **packing)
        self.corrupt = 0
        """How often something unreadable was found, and taken for a miss."""
        self._large = large
        self._prefix = prefix = wire_text(namespace).encode() + b"\0"
        self._name = naming(lambda key: prefix + str(key).encode("utf-8", "surrogatepass"))
        self._clock = Clock()
        self._desks = PerLoop(self._make_desk, Desk.close, Desk.abandon)
        verify(self, self.packer)

    def __repr__(self) -> str:
        crews = {desk.crew for desk in self._desks.resources()}
        connections = sum(crew.connections() for crew in crews)
        return (
            f"<SQLiteStorage {self.path}, namespace {self.namespace!r}, {connections} connections>"
        )

    def _make_desk(self) -> Desk:
        bounded = self.maxbytes is not None
        return Desk(self._join, self.timeout, self._unpack, touches=bounded)

    def _join(self, user: object) -> Crew:
        crew = crew_of(os.path.realpath(self.path), self._clock, user, _reporting_to(self))
        self._clock = crew.clock
        return crew

    def now(self) -> float:
        """Return the time of the clock that all processes of this machine share."""
        return self._clock.now()

    # --- reading --------------------------------------------------------------------------------

    def _unpack(self, name: bytes, data: bytes | memoryview) -> Entry | None:
        """Return the entry, dead or not; None if it cannot be read. Runs in threads."""
        try:
            if not isinstance(data, (bytes, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from the file
                raise UnpackError("the data is no bytes")
            return self.packer.unpack_entry(data, key=name)
        except UnpackError as error:
            self._found_corrupt(name, error)
            return None

    def _found_corrupt(self, name: bytes, error: UnpackError) -> None:
        self.corrupt += 1
        if events.hooks:
            key = name.removeprefix(self._prefix).decode("utf-8", "replace")
            events.emit(events.Corrupt(storage=self, key=key, reason=str(error)))

    def lookup(self, key: Key) -> Awaitable[Entry | None]:
        """Return a future of the entry, or of None; lookups of one tick share a statement."""
        return self._desks.get().lookups.add(self._name(key))

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        names = {key: self._name(key) for key in keys}
        if not names:
            return {}
        found = await self._desks.get().look(names.values())
        return {key: found[name] for key, name in names.items() if name in found}

    async def ping(self) -> None:
        await self._do(Ping())

    async def _do(self, work: Work) -> Any:
        return await self._desks.get().works.add(work)

    # --- leases ---------------------------------------------------------------------------------

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        names = {key: self._name(key) for key in keys}
        tokens = {name: new_token() for name in names.values()}
        if not names:
            return {}
        desk = self._desks.get()
        take = Take(tokens, seconds, desk.crew.files, self._unpack)
        try:
            taken: dict[bytes, Taken] = await desk.works.add(take)
        except (asyncio.CancelledError, StorageError):
            # Nobody will use what may have been taken. What is said now is done after the taking.
            desk.tell(Release(tokens.items()))
            raise
        now = self.now()
        return {key: _lease_of(key, taken[name], now) for key, name in names.items()}

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        wanted = {(self._name(lease.key), lease.token): lease for lease in leases}
        if not wanted:
            return set()
        until: dict[tuple[bytes, bytes], float] = await self._do(Renew(wanted, seconds))
        for who, lease in wanted.items():
            lease.until = until.get(who, lease.until)
        return {wanted[who].key for who in until}

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        rows = [(lease.token, self._row(lease.key, entry)) for lease, entry in entries.items()]
        stored = await self._write(rows, lambda some: Commit(some, self.maxbytes))
        return {lease.key for lease in entries if lease.token in stored}

    async def release(self, leases: Iterable[Lease]) -> None:
        tokens = [(self._name(lease.key), lease.token) for lease in leases]
        if tokens:
            await self._do(Release(tokens))

    async def wait(self, busy: Busy, timeout: float) -> None:
        await self._desks.get().wait(self._name(busy.key), busy.token, timeout)

    # --- writing --------------------------------------------------------------------------------

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        if not self._clock.known and entries:
            entries = await self._in_time_of_file(entries)
        if expect is None and len(entries) == 1:
            ((key, entry),) = entries.items()
            return {key} if await self._store_one(self._row(key, entry)) else set()
        names = {self._name(key): key for key in entries}
        rows = [(name, self._row(key, entries[key])) for name, key in names.items()]
        if expect is None:
            stored = await self._write(rows, lambda some: Store(some, self.maxbytes))
        else:
            versions = {name: expect.get(key) for name, key in names.items()}
            stored = await self._write(rows, lambda some: Swap(some, versions, self.maxbytes))
        return {key for name, key in names.items() if name in stored}

    async def _store_one(self, row: Row) -> bool:
        desk = self._desks.get()
        if row.data is not None and len(row.data) >= self._large:
            row = await _in_file(desk, row, row.data)
        return bool(await desk.works.add(Store({row.name: row}, self.maxbytes)))

    async def _in_time_of_file(self, entries: Mapping[Key, Entry]) -> Mapping[Key, Entry]:
        """Return the entries as the file's clock would have timed them.

        Before the file was opened `now` was an estimate, perhaps hours off.
        """
        before = self._clock.offset
        await self.ping()
        shift = self._clock.offset - before
        return {key: _shifted(entry, shift) for key, entry in entries.items()}

    async def _write(
        self, rows: list[tuple[bytes, Row]], work: Callable[[Mapping[bytes, Row]], Work]
    ) -> set[bytes]:
        """Store rows, many in one work; return the ids of those stored."""
        desk = self._desks.get()
        for place, (who, row) in enumerate(rows):
            if row.data is not None and len(row.data) >= self._large:
                rows[place] = who, await _in_file(desk, row, row.data)
        parts = [desk.works.add(work(dict(some))) for some in _split(rows)]
        return set[bytes]().union(*await _all(parts))

    def _row(self, key: Key, entry: Entry) -> Row:
        name = self._name(key)
        data = self.packer.pack_entry(entry, key=name)
        size = len(name) * 2 + len(data) + ROW_BYTES
        if self.maxbytes is not None and size > self.maxbytes:
            raise ValueTooLarge(
                f"the value of {key} takes {size} bytes, the storage has maxbytes={self.maxbytes}",
                size=size,
                limit=self.maxbytes,
            )
        return Row(name, entry.version, entry.dead_after, size, None, data)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        keys = list(keys)
        for _ in range(ATTEMPTS if keep_stale else 0):
            if not keys:
                return
            keys = await self._expire(keys)
        await self._remove(keys, Discard)

    async def _expire(self, keys: Iterable[Key]) -> list[Key]:
        """End leases and the freshness of entries; return the keys that have changed meanwhile."""
        found = await self.fetch(keys)
        now = self.now()
        old = {k: entry for k, entry in found.items() if entry.fresh_until < entry.dead_after}
        for entry in old.values():
            entry.fresh_until = min(entry.fresh_until, now)
        await self._remove([key for key in keys if key not in old], Discard)
        versions = {key: entry.version for key, entry in old.items()}
        replaced = await self.store(old, expect=versions)
        return [key for key in old if key not in replaced]

    async def evict(self, keys: Iterable[Key]) -> None:
        await self._remove(keys, Evict)

    async def _remove(self, keys: Iterable[Key], work: Callable[[list[bytes]], Work]) -> None:
        add = self._desks.get().works.add
        names = [self._name(key) for key in keys]
        await _all([add(work(some)) for some in _split(names)])

    async def clear(self) -> None:
        """Invalidate everything in the namespace."""
        stop = self._prefix[:-1] + b"\1"
        upto: int | None = await self._do(Clear(self._prefix, stop))
        while upto is not None:
            upto = await self._do(Clear(self._prefix, stop, upto))

    # --- the rest -------------------------------------------------------------------------------

    def learn(self, types: Iterable[type]) -> None:
        self.packer = self.packer.also(types)

    async def aclose(self) -> None:
        await self._desks.aclose()


def _checked(path: Any) -> str:
    name = cast("object", os.fspath(path))  # users may not check types
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigurationError(f"SQLiteStorage takes the path of a file, not {path!r}")
    if name.startswith((":memory:", "file:")):
        raise ConfigurationError(
            f"{name!r} is no path of a file; to keep entries in memory use a MemoryStorage"
        )
    if sqlite3.sqlite_version_info < OLDEST:
        raise ConfigurationError(
            f"SQLiteStorage needs SQLite 3.24; this Python has {sqlite3.sqlite_version}"
        )
    return os.path.abspath(name)  # whatever the current folder is when it is opened


def _lease_of(key: Key, taken: Taken, now: float) -> Lease | Busy:
    token, until = taken.holder
    if taken.is_ours:
        return Lease(key, token, until, taken.entry)
    return Busy(key, token, max(until - now, 0.0), taken.entry)


def _reporting_to(storage: SQLiteStorage) -> Report:
    """Return what a crew tells of a damaged file; it keeps no storage alive."""
    listener = weakref.ref(storage)

    def report(error: StorageError) -> None:
        if events.hooks and (told := listener()) is not None:
            events.emit(events.StorageFailed(storage=told, operation="repair", error=error))

    return report


async def _in_file(desk: Desk, row: Row, data: bytes) -> Row:
    file = await desk.ask(lambda _: desk.crew.files.write(data))
    return row._replace(file=file, data=None)


async def _all(parts: list[asyncio.Future[T]]) -> list[T]:
    if len(parts) == 1:  # as nearly always, at half the cost
        return [await parts[0]]
    return await asyncio.gather(*parts)


def _shifted(entry: Entry, shift: float) -> Entry:
    other = copy.copy(entry)
    other.created += shift
    other.fresh_until += shift
    other.dead_after += shift
    return other


def _split(things: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(things), AT_ONCE):
        yield things[start : start + AT_ONCE]

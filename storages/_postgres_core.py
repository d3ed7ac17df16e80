"""Entries and rows: what the storage, and the storage inside a transaction, have in common."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from gecaso.entry import Entry, new_token
from gecaso.errors import UnpackError
from gecaso.keys import Key
from gecaso.packing import Packer

from ._postgres_names import Names
from ._postgres_rows import Found, Rows, Stored, parts
from ._postgres_server import Server, Session

__all__ = ["Core", "Patience", "shifted"]

Corrupt = Callable[[str, UnpackError], None]

PATIENCE: Final = 1.0  # seconds
FORGET: Final = 5.0  # seconds after which a row that nobody asked for is another matter
MANY: Final = 1000  # rows


class Core:
    """The rows of one namespace of one table, and how entries are packed into them."""

    def __init__(self, server: Server, names: Names, packer: Packer, corrupt: Corrupt) -> None:
        self.server = server
        self.names = names
        self.packer = packer
        self.rows = Rows(server, names, new_token().hex())
        self._corrupt = corrupt

    def rows_of(self, keys: Iterable[Key]) -> dict[str, Key]:
        return {self.names.row(key): key for key in keys}

    def pack(self, key: Key, entry: Entry, token: bytes = b"") -> Stored:
        row = self.names.row(key)
        data = self.packer.pack_entry(entry, key=row.encode())
        return Stored(row, data, entry.version, entry.fresh_until, entry.dead_after, token)

    def unpack(self, there: Found, now: float) -> Entry | None:
        """Return the entry in a row; None if it is dead at that time, or unreadable."""
        row, value, fresh = there
        try:
            entry = self.packer.unpack_entry(value, key=row.encode())
        except UnpackError as error:
            self._corrupt(row, error)
            return None
        if not now < entry.dead_after:
            return None
        if fresh is not None and fresh < entry.fresh_until:  # it was expired since
            entry.fresh_until = fresh
        return entry

    def read(self, rows: Mapping[str, Key], found: Mapping[str, Found]) -> dict[Key, Entry]:
        now = self.server.now()
        entries = {rows[row]: self.unpack(there, now) for row, there in found.items()}
        return {key: entry for key, entry in entries.items() if entry is not None}

    async def write(
        self,
        session: Session,
        entries: Mapping[Key, Entry],
        expect: Mapping[Key, bytes | None] | None,
        lock: str | None,
        origin: str,
    ) -> set[Key]:
        """Store entries over one connection; with ``expect``, where the version is that."""
        rows = self.rows_of(entries)
        packed = [self.pack(key, entry) for key, entry in entries.items()]
        expected = {self.names.row(key): version for key, version in (expect or {}).items()}
        done: set[str] = set()
        for part in parts(packed):
            if expect is None:
                done |= await self.rows.store(session, part, lock, origin)
            else:
                done |= await self.rows.swap(session, part, expected, lock, origin)
        return {rows[row] for row in done}


def shifted(entry: Entry, shift: float) -> Entry:
    """Return the entry as a clock that is so many seconds ahead would have timed it."""
    other = copy.copy(entry)
    other.created += shift
    other.fresh_until += shift
    other.dead_after += shift
    return other


class Patience:
    """For how long loads wait for a transaction that has a row locked, in seconds.

    A load that runs inside that very transaction would wait for itself; and what is committed until
    the transaction ends is right all the same.
    """

    def __init__(self) -> None:
        self._since: dict[str, tuple[float, float]] = {}

    def is_over(self, row: str) -> bool:
        """Take note that a row was found locked; return whether that has been so for too long."""
        now = time.monotonic()
        since, last = self._since.get(row, (now, now))
        if now - last > FORGET:  # that was another transaction
            since = now
        if len(self._since) > MANY:
            self._since = {row: seen for row, seen in self._since.items() if now - seen[1] < FORGET}
        self._since[row] = (since, now)
        return now - since >= PATIENCE

    def end(self, row: str) -> None:
        """Take note that a row is not locked."""
        self._since.pop(row, None)

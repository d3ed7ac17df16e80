"""What the writer does: one class for each operation, run inside a transaction.

A work may run twice, when the file under it has been replaced meanwhile: it keeps no state of what
it has done. ``now`` is in seconds of the clock of the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from gecaso.entry import Entry

from ._sqlite_files import Files

__all__ = [
    "Clear",
    "Commit",
    "Discard",
    "Evict",
    "Holder",
    "Ping",
    "Release",
    "Renew",
    "Row",
    "Store",
    "Swap",
    "Take",
    "Taken",
    "Unpack",
    "Work",
]

# An entry, dead or not; None if it cannot be read.
Unpack = Callable[[bytes, "bytes | memoryview"], "Entry | None"]

TAKE: Final = """INSERT INTO leases (name, token, until) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET token = excluded.token, until = excluded.until
    WHERE leases.until <= ?"""
HOLDER: Final = "SELECT token, CAST(until AS REAL) FROM leases WHERE name = ?"
RENEW: Final = "UPDATE leases SET until = ? WHERE name = ? AND token = ? AND until > ?"
END_OURS: Final = "DELETE FROM leases WHERE name = ? AND token = ? AND until > ?"
RELEASE: Final = "DELETE FROM leases WHERE name = ? AND token = ?"
END: Final = "DELETE FROM leases WHERE name = ?"
LOOK: Final = "SELECT file, data FROM entries WHERE name = ? AND dead_after > ?"
PUT: Final = """INSERT INTO entries (name, version, dead_after, size, file, data, used)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET version = excluded.version,
    dead_after = excluded.dead_after, size = excluded.size, file = excluded.file,
    data = excluded.data, used = excluded.used"""
VERSION: Final = "SELECT version FROM entries WHERE name = ? AND dead_after > ?"
DELETE: Final = "DELETE FROM entries WHERE name = ?"
END_ALL: Final = "DELETE FROM leases WHERE name >= ? AND name < ?"
NEWEST: Final = "SELECT max(id) FROM entries"
DELETE_SOME: Final = """DELETE FROM entries WHERE id IN (
    SELECT id FROM entries WHERE name >= ? AND name < ? AND id <= ? LIMIT ?)"""
AT_ONCE: Final = 2000  # entries that one transaction of `Clear` removes


class Row(NamedTuple):
    """An entry as it is stored: its packed data, or the name of the file that has it."""

    name: bytes
    version: bytes
    dead_after: float
    size: int
    file: str | None
    data: bytes | None


class Holder(NamedTuple):
    """Who has a lease, and until when."""

    token: bytes
    until: float


class Taken(NamedTuple):
    """What came of taking a lease: whose it is now, and what is stored."""

    is_ours: bool
    holder: Holder
    entry: Entry | None


class Work:
    """An operation; ``ends`` names the leases that it may have ended."""

    maxbytes: int | None = None
    weight: int = 1

    @property
    def ends(self) -> Iterable[bytes]:
        return ()

    def run(self, db: sqlite3.Connection, now: float) -> Any:
        """Do it, inside a transaction."""
        raise NotImplementedError

    @classmethod
    def run_all(cls, works: Iterable[Any], db: sqlite3.Connection, now: float) -> dict[Any, Any]:
        """Run works of one class that follow each other; return what came of each."""
        return {work: work.run(db, now) for work in works}

    def finish(self, result: Any) -> Any:
        """Return the reply, once the transaction is over."""
        return result

    def clean_up(self, files: Files, result: Any = None) -> None:
        """Remove the files that no row refers to; ``result`` is None when nothing was done."""


class Take(Work):
    """Take leases and look at what is stored, in this order."""

    def __init__(
        self, tokens: Mapping[bytes, bytes], seconds: float, files: Files, unpack: Unpack
    ) -> None:
        self._tokens = tokens
        self._seconds = seconds
        self._files = files
        self._unpack = unpack

    def run(self, db: sqlite3.Connection, now: float) -> Any:
        found: list[tuple[bytes, bool, Holder, str | None, bytes | None]] = []
        for name, token in self._tokens.items():
            mine = Holder(token, now + self._seconds)
            ours = db.execute(TAKE, (name, *mine, now)).rowcount == 1
            holder = mine if ours else Holder(*db.execute(HOLDER, (name,)).fetchone())
            file, data = db.execute(LOOK, (name, now)).fetchone() or (None, None)
            found.append((name, ours, holder, file, data))
        return found

    def finish(self, result: Any) -> dict[bytes, Taken]:
        return {
            name: Taken(ours, holder, self._entry(name, file, data))
            for name, ours, holder, file, data in result
        }

    def _entry(self, name: bytes, file: str | None, data: bytes | None) -> Entry | None:
        if file is not None:
            whole = self._files.map(file)
            return None if whole is None else self._unpack(name, whole)
        return None if data is None else self._unpack(name, data)


class Renew(Work):
    """Returns those names and tokens that still hold, and until when."""

    def __init__(self, tokens: Iterable[tuple[bytes, bytes]], seconds: float) -> None:
        self._tokens = list(tokens)
        self._seconds = seconds

    def run(self, db: sqlite3.Connection, now: float) -> dict[tuple[bytes, bytes], float]:
        until = now + self._seconds
        return {
            (name, token): until
            for name, token in self._tokens
            if db.execute(RENEW, (until, name, token, now)).rowcount
        }


class Release(Work):
    def __init__(self, tokens: Iterable[tuple[bytes, bytes]]) -> None:
        self._tokens = list(tokens)

    @property
    def ends(self) -> Iterable[bytes]:
        return [name for name, _ in self._tokens]

    def run(self, db: sqlite3.Connection, now: float) -> None:
        db.executemany(RELEASE, self._tokens)


class _Storing(Work):
    """Stores rows, each under an id; returns the ids of those stored."""

    def __init__(self, rows: Mapping[bytes, Row], maxbytes: int | None = None) -> None:
        self._rows = rows
        self.maxbytes = maxbytes
        self.weight = len(rows)

    @property
    def ends(self) -> Iterable[bytes]:
        return [row.name for row in self._rows.values()]

    def may_store(self, db: sqlite3.Connection, id: bytes, row: Row, now: float) -> bool:
        """End the leases that are to end; return whether to store the row."""
        raise NotImplementedError

    def run(self, db: sqlite3.Connection, now: float) -> set[bytes]:
        allowed = {who: row for who, row in self._rows.items() if self.may_store(db, who, row, now)}
        db.executemany(PUT, [(*row, now) for row in allowed.values()])
        return set(allowed)

    def clean_up(self, files: Files, result: Any = None) -> None:
        for who, row in self._rows.items():
            if row.file is not None and not (result and who in result):
                files.remove((row.file,))


class Commit(_Storing):
    """Stores where the lease with this token is held, and ends it."""

    def may_store(self, db: sqlite3.Connection, id: bytes, row: Row, now: float) -> bool:
        return db.execute(END_OURS, (row.name, id, now)).rowcount == 1


class Store(_Storing):
    """Stores whatever is there, and ends all leases."""

    @classmethod
    def run_all(cls, works: Iterable[Store], db: sqlite3.Connection, now: float) -> dict[Any, Any]:
        stores = list(works)
        rows = [row for store in stores for row in store._rows.values()]
        db.executemany(END, [(row.name,) for row in rows])
        db.executemany(PUT, [(*row, now) for row in rows])
        return {store: set(store._rows) for store in stores}


class Swap(_Storing):
    """Stores where the version there is the expected one (None: nothing); ends leases there."""

    def __init__(
        self,
        rows: Mapping[bytes, Row],
        expect: Mapping[bytes, bytes | None],
        maxbytes: int | None = None,
    ) -> None:
        super().__init__(rows, maxbytes)
        self._expect = expect

    def may_store(self, db: sqlite3.Connection, id: bytes, row: Row, now: float) -> bool:
        there = db.execute(VERSION, (row.name, now)).fetchone()
        if (None if there is None else there[0]) != self._expect[id]:
            return False
        db.execute(END, (row.name,))
        return True


class Discard(Work):
    def __init__(self, names: Iterable[bytes]) -> None:
        self._names = list(names)
        self.weight = len(self._names)

    @property
    def ends(self) -> Iterable[bytes]:
        return self._names

    def run(self, db: sqlite3.Connection, now: float) -> None:
        names = [(name,) for name in self._names]
        db.executemany(END, names)
        db.executemany(DELETE, names)


class Evict(Work):
    def __init__(self, names: Iterable[bytes]) -> None:
        self._names = list(names)
        self.weight = len(self._names)

    def run(self, db: sqlite3.Connection, now: float) -> None:
        db.executemany(DELETE, [(name,) for name in self._names])


class Clear(Work):
    """Ends all leases of a namespace and removes its entries, some at a time.

    ``upto`` is what the first run returned: what has been stored after it stays. Returns None when
    nothing is left.
    """

    def __init__(self, start: bytes, stop: bytes, upto: int | None = None) -> None:
        self._range = (start, stop)
        self._upto = upto

    def run(self, db: sqlite3.Connection, now: float) -> int | None:
        upto = self._upto
        if upto is None:
            db.execute(END_ALL, self._range)
            (upto,) = db.execute(NEWEST).fetchone()
        if upto is None:
            return None
        gone = db.execute(DELETE_SOME, (*self._range, upto, AT_ONCE)).rowcount
        return upto if gone == AT_ONCE else None


class Ping(Work):
    """Writes, so that a full disk is found out."""

    def run(self, db: sqlite3.Connection, now: float) -> None:
        db.execute("INSERT OR REPLACE INTO facts VALUES ('ping', ?)", (now,))

"""The file: its tables, and how it is opened.

::

    entries   name, the packed entry (or the name of its file), and what is looked for: when it is
              dead, when it was last used, how many bytes it takes, its version
    leases    name, token, until
    totals    one row: the bytes of all entries, kept by triggers
    garbage   names of files that no entry refers to any more, filled by triggers
    facts     the boot of the machine and the offset of the clock

A name is the namespace, a zero byte and the text of the key. Times are those of `Clock`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any, Final

from gecaso.errors import StorageError

from ._sqlite_clock import Clock, boot_id, is_same_boot
from ._sqlite_errors import Damaged, Moved, is_damage
from ._sqlite_recent import Recent

__all__ = ["ROW_BYTES", "Identity", "Link", "forget_locks", "go_on_opening", "stop_opening"]

APPLICATION: Final = 0x67656361  # "geca", in the header of the file
VERSION: Final = 1
ROW_BYTES: Final = 160  # that a row takes in tables and indexes beside its name and data
LARGEST_WAL: Final = 16 * 1024 * 1024  # bytes that the log keeps when it is empty

SCHEMA: Final = (
    """CREATE TABLE entries (
        id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, version BLOB NOT NULL,
        dead_after REAL NOT NULL, used REAL NOT NULL, size INTEGER NOT NULL,
        file TEXT, data BLOB)""",
    "CREATE INDEX entries_used ON entries (used)",
    "CREATE INDEX entries_dead ON entries (dead_after) WHERE dead_after < 9e999",
    "CREATE INDEX entries_file ON entries (file) WHERE file IS NOT NULL",
    """CREATE TABLE leases (
        name BLOB PRIMARY KEY, token BLOB NOT NULL, until REAL NOT NULL) WITHOUT ROWID""",
    "CREATE TABLE totals (bytes INTEGER NOT NULL)",
    "INSERT INTO totals VALUES (0)",
    "CREATE TABLE garbage (file TEXT NOT NULL)",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """CREATE TRIGGER entry_in AFTER INSERT ON entries BEGIN
        UPDATE totals SET bytes = bytes + new.size; END""",
    # One trigger with a condition: two would cost a third of a write that changes neither.
    """CREATE TRIGGER entry_changed AFTER UPDATE OF size, file ON entries
        WHEN new.size != old.size OR old.file IS NOT new.file BEGIN
        UPDATE totals SET bytes = bytes + new.size - old.size;
        INSERT INTO garbage SELECT old.file WHERE old.file IS NOT NULL AND old.file IS NOT new.file;
        END""",
    """CREATE TRIGGER entry_out AFTER DELETE ON entries BEGIN
        UPDATE totals SET bytes = bytes - old.size; END""",
    """CREATE TRIGGER file_gone AFTER DELETE ON entries WHEN old.file IS NOT NULL BEGIN
        INSERT INTO garbage VALUES (old.file); END""",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
STATE: Final = """SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version"""
TABLES: Final = frozenset(each for each in SCHEMA if each.startswith("CREATE"))

Identity = tuple[int, int]

# Closing any descriptor of a file ends all locks that this process has on it. A file is therefore
# made, and its descriptor closed, while no thread of this process opens one.
_opening = threading.Lock()
# Of two connections that close at once, neither finds itself the last, and the log would stay.
_closing = threading.Lock()


def stop_opening() -> None:
    """Let no thread open a file, until `go_on_opening`."""
    _opening.acquire()


def go_on_opening() -> None:
    _opening.release()


def forget_locks() -> None:
    """In a forked child: a lock that another thread of the parent held is held for ever."""
    global _opening, _closing
    _opening = threading.Lock()
    _closing = threading.Lock()


class Link:
    """One connection to the file, for one thread at a time.

    Raises `Damaged`, `Moved`, `StorageError`, `sqlite3.Error` or `OSError`.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        with _opening:
            _create(path)
            self.identity = _identity(path)
            self.db = sqlite3.connect(
                f"{Path(path).absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=0,  # who is kept waiting looks again by himself
                isolation_level=None,
                check_same_thread=False,  # it is closed by the thread that forks
            )
        try:
            self._prepare(clock)
            self.recent = Recent(self.db)
        except BaseException as error:
            self.close()
            if isinstance(error, Exception) and is_damage(error):
                raise Damaged(str(error), self.identity) from error
            raise

    def __repr__(self) -> str:
        return f"<Link to {self._path}>"

    def check_place(self) -> None:
        """Raise `Moved` if another file is in the place of the one that is open."""
        if _identity(self._path) != self.identity:
            raise Moved

    def close(self) -> None:
        # What is broken is closed all the same.
        with contextlib.suppress(sqlite3.Error), _closing:
            self.db.close()

    def value(self, sql: str) -> Any:
        """Return the first column of the first row, or None."""
        row = self.db.execute(sql).fetchone()
        return None if row is None else row[0]

    @contextlib.contextmanager
    def transaction(self) -> Any:
        """Write: nobody else does meanwhile. Everything in the block is stored, or nothing."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # some errors have ended it already
                self.db.execute("ROLLBACK")
            raise

    # --- opening --------------------------------------------------------------------------------

    def _prepare(self, clock: Clock) -> None:
        db = self.db
        db.text_factory = _text
        is_new = self._is_new()
        if is_new:
            db.execute("PRAGMA synchronous = OFF")  # there is nothing to lose yet
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if self.value("PRAGMA journal_mode") != "wal" and (
            self.value("PRAGMA journal_mode = WAL") != "wal"
        ):
            raise StorageError(
                f"{self._path} cannot have a write-ahead log, which needs memory that processes "
                "share: put it on a disk of this machine, not on a network filesystem"
            )
        if is_new:
            with self.transaction():
                if self._is_new():
                    for statement in SCHEMA:
                        db.execute(statement)
        # A crash of the machine may lose what was written last, and breaks nothing.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {LARGEST_WAL}")
        db.execute("PRAGMA temp_store = MEMORY")
        # Who has written to the file may have written anything: look twice, run nothing of it.
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA trusted_schema = OFF")
        self._meet_clock(clock)

    def _is_new(self) -> bool:
        """Return whether there is nothing in the file yet; refuse what is not ours."""
        # One statement, one state of the file: another process may be about to make the tables.
        application, version, count = self.db.execute(STATE).fetchone()
        if application == APPLICATION:
            if version > VERSION:
                raise StorageError(
                    f"{self._path} was made by a newer gecaso: use that one here too, or give this "
                    "storage a path of its own"
                )
            if version < VERSION:
                reason = f"it has the tables of version {version}, not {VERSION}"
                raise Damaged(reason, self.identity)
            there = {row[0] for row in self.db.execute("SELECT sql FROM sqlite_master")}
            if not there.issuperset(TABLES):
                raise Damaged("its tables are not those of gecaso", self.identity)
            return False
        if count:
            raise StorageError(
                f"{self._path} is a database of something else: give the storage a path of its own"
            )
        return True

    def _meet_clock(self, clock: Clock) -> None:
        """Take over the clock of the file; after a boot, give it this machine's."""
        here = boot_id()
        offset = self._offset_of(here, clock)
        if offset is None:
            with self.transaction():
                offset = self._offset_of(here, clock)
                if offset is None:
                    offset = clock.estimate()
                    self._start_anew(here, offset, clock)
        clock.learn(offset)

    def _offset_of(self, here: str, clock: Clock) -> float | None:
        facts = dict(self.db.execute("SELECT name, value FROM facts"))
        offset = facts.get("offset")
        if not isinstance(offset, float):
            return None
        return offset if is_same_boot(facts.get("boot"), offset, here=here, clock=clock) else None

    def _start_anew(self, here: str, offset: float, clock: Clock) -> None:
        facts = (("boot", here), ("offset", offset))
        self.db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts)
        # Their holders are gone with the boot before. And where the time of day has been set back,
        # what was used later than now would live longer than it may.
        self.db.execute("DELETE FROM leases")
        now = clock.now() - clock.offset + offset
        self.db.execute("DELETE FROM entries WHERE used > ?", (now,))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")  # damaged text is no error of its own


def _create(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _identity(path: str) -> Identity:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise Moved from None
    return found.st_dev, found.st_ino

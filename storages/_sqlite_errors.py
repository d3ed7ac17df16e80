"""What SQLite's errors mean: wait, open anew, set the file aside, or tell the caller."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from gecaso.errors import StorageError, StorageTimeout

__all__ = ["Damaged", "Moved", "is_busy", "is_damage", "is_moved", "ours", "timed_out"]

ERROR, BUSY, LOCKED, CORRUPT, FULL = 1, 5, 6, 11, 13
PROTOCOL, CONSTRAINT, MISMATCH, FORMAT, NOTADB = 15, 19, 20, 24, 26
DAMAGE: Final = (ERROR, CORRUPT, CONSTRAINT, MISMATCH, FORMAT, NOTADB)
READONLY_DBMOVED: Final = 1032
SHORT_READ: Final = 522


class Damaged(Exception):
    """The file with this device and inode is no database, or not a whole one."""

    def __init__(self, reason: str, identity: tuple[int, int]) -> None:
        super().__init__(reason)
        self.identity = identity


class Moved(Exception):
    """Another file, or none, is where the one that is open was."""


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0)  # those of the module itself have none


def is_busy(error: Exception) -> bool:
    """Return whether somebody else is at it, and waiting helps."""
    return _code(error) & 0xFF in (BUSY, LOCKED, PROTOCOL)


def is_moved(error: Exception) -> bool:
    return _code(error) == READONLY_DBMOVED


def is_damage(error: Exception) -> bool:
    """Return whether the file is damaged.

    Our statements are right, so that an ERROR is a wrong schema, and a CONSTRAINT or MISMATCH comes
    of what stands in a row; and our text is ASCII, so that what cannot be decoded is a message of
    SQLite's with a piece of a damaged schema in it.
    """
    code = _code(error)
    return isinstance(error, UnicodeDecodeError) or code & 0xFF in DAMAGE or code == SHORT_READ


def timed_out(path: str, timeout: float) -> StorageTimeout:
    return StorageTimeout(
        f"{path} was not free within {timeout:g} s: another process writes to it all the time, or "
        "holds a transaction open; see who does, or give it more time with timeout="
    )


def ours(error: sqlite3.Error | OSError, path: str) -> StorageError:
    """Return the error to raise, which says what to do."""
    return StorageError(f"{path} cannot be used: {error}; {_advice(error, path)}")


def _advice(error: sqlite3.Error | OSError, path: str) -> str:
    folder = Path(path).parent
    if Path(path).is_dir():
        return "it is a folder: name a file in it"
    if not folder.is_dir():
        return f"there is no folder {folder}: make it first"
    if isinstance(error, sqlite3.Error) and _code(error) & 0xFF == FULL:
        return "there is no room left: free some, or bound the storage with maxbytes="
    if not os.access(folder, os.W_OK):
        return f"the folder {folder} cannot be written to: SQLite keeps files beside the database"
    if Path(path).exists() and not os.access(path, os.R_OK | os.W_OK):
        return "this user may not read and write it"
    return "see whether there is room, and whether the disk is well"

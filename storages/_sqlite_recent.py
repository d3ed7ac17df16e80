"""Rows that were read last, as bytes, for as long as nobody has written to the file.

SQLite tells a connection in three microseconds whether anybody has. A hundred lookups then cost
half of what they cost in SQL; where writes are frequent nothing is gained and little is lost.
"""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["Recent"]

MOST: Final = 2 * 1024 * 1024  # bytes of all rows
LARGEST: Final = 4096  # bytes of one; with larger ones SQL is the smaller part
OF_A_ROW: Final = 300  # bytes that it takes beside its data


class Recent:
    """``rows``: name -> data. Call `check` before each look."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.rows: dict[bytes, bytes] = {}
        self._db = db
        self._version = -1
        self._weight = 0

    def __repr__(self) -> str:
        return f"<Recent: {len(self.rows)} rows>"

    def check(self) -> None:
        """Forget everything if another connection has committed since the last look."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._forget()

    def keep(self, name: bytes, data: bytes) -> None:
        """Keep a row that was read after the last check."""
        if type(data) is not bytes or len(data) > LARGEST:
            return
        self._weight += len(data) + OF_A_ROW
        if self._weight > MOST:
            self._forget()
        self.rows[name] = data

    def _forget(self) -> None:
        self.rows.clear()
        self._weight = 0

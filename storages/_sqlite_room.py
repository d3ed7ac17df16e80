"""Keeping within bounds: who leaves when there is no room, and what is dead.

When an entry was last used is written down late, many at a time: a hit costs no write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

__all__ = ["TOTAL", "bury", "is_due", "is_used", "make_room", "touch"]

TOUCH: Final = "UPDATE entries SET used = ? WHERE name = ? AND used < ?"
TOTAL: Final = "SELECT CAST(bytes AS INTEGER) FROM totals"
OLDEST: Final = "SELECT id, CAST(size AS INTEGER) FROM entries ORDER BY used, id LIMIT 100"
DEAD: Final = """SELECT EXISTS (SELECT 1 FROM leases WHERE until <= ?) OR
    EXISTS (SELECT 1 FROM entries WHERE dead_after <= ? AND dead_after < 9e999)"""
BURY: Final = """DELETE FROM entries WHERE id IN (
    SELECT id FROM entries WHERE dead_after <= ? AND dead_after < 9e999 LIMIT ?)"""
BURY_LEASES: Final = "DELETE FROM leases WHERE until <= ?"


def touch(db: sqlite3.Connection, uses: Mapping[bytes, float]) -> None:
    """Write down when these were used last."""
    db.executemany(TOUCH, [(used, name, used) for name, used in uses.items()])


def make_room(db: sqlite3.Connection, maxbytes: int) -> None:
    """Remove the entries used longest ago until the rest is within the bound."""
    (total,) = db.execute(TOTAL).fetchone()
    while total > maxbytes:
        leaving: list[tuple[int]] = []
        for row, size in db.execute(OLDEST).fetchall():
            if total <= maxbytes:
                break
            leaving.append((row,))
            total -= size
        if not leaving:
            return
        db.executemany("DELETE FROM entries WHERE id = ?", leaving)


def is_due(db: sqlite3.Connection, now: float) -> bool:
    """Return whether any entry is dead, or a lease has run out."""
    (due,) = db.execute(DEAD, (now, now)).fetchone()
    return bool(due)


def bury(db: sqlite3.Connection, now: float, most: int) -> int:
    """Remove some of the dead, and the leases that have run out; return how many entries."""
    db.execute(BURY_LEASES, (now,))
    return db.execute(BURY, (now, most)).rowcount


def is_used(db: sqlite3.Connection, name: str) -> bool:
    """Return whether an entry refers to that file."""
    return db.execute("SELECT 1 FROM entries WHERE file = ?", (name,)).fetchone() is not None

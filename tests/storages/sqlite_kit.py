"""What the tests of storages in a file share: looks at the file past the storage."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from gecaso import Busy, Key, Lease
from gecaso.keys import as_key
from gecaso.storages import SQLiteStorage

__all__ = ["KEY", "at", "files", "leased", "names", "opened", "select", "threads", "until"]

KEY = as_key("a")


def at(path: Path | str, **options: Any) -> SQLiteStorage:
    """Return a storage that waits longer than is usual: a busy machine is no trouble of its own."""
    options.setdefault("timeout", 10.0)
    return SQLiteStorage(path, **options)


@contextlib.contextmanager
def opened(path: Path) -> Generator[sqlite3.Connection]:
    """Open the database as somebody else would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        yield db


def select(path: Path, sql: str, *args: object) -> list[Any]:
    with opened(path) as db:
        return [row[0] if len(row) == 1 else row for row in db.execute(sql, args)]


def names(path: Path) -> list[str]:
    """Return the keys that have entries, in order, without the namespace."""
    found: list[bytes] = select(path, "SELECT name FROM entries")
    return sorted(name.partition(b"\0")[2].decode() for name in found)


def files(path: Path) -> list[Path]:
    """Return the files of large values."""
    return sorted(Path(f"{path}-values").glob("*"))


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("gecaso sqlite")]


async def until(done: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what another thread or process does."""
    async with asyncio.timeout(seconds):
        while not done():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


async def leased(storage: SQLiteStorage, key: Key = KEY, seconds: float = 10.0) -> Lease:
    got = (await storage.lease([key], seconds))[key]
    assert not isinstance(got, Busy)
    return got

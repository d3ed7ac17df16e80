"""Storages in a file pass the contract; one class for each way to have one."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gecaso import EntryStorage, Key, LRUStorage
from gecaso.storages import SQLiteStorage
from gecaso.testing import StorageContract

SECONDS = 5.0  # for one operation: a busy machine is no trouble of the storage


class TestSQLite(StorageContract):
    path: Path

    @pytest.fixture
    def storage(self, tmp_path: Path) -> EntryStorage:
        self.path = tmp_path / "cache.db"
        return self.another(None)

    def another(self, storage: Any) -> EntryStorage:
        return SQLiteStorage(self.path, namespace="t", timeout=SECONDS)

    async def damage(self, storage: Any, key: Key) -> bool:
        with contextlib.closing(sqlite3.connect(self.path)) as db, db:
            change = db.execute(
                "UPDATE entries SET data = ?, file = NULL WHERE name = ?",
                (b"garbage", f"t\0{key}".encode()),
            )
        return change.rowcount == 1


class TestBoundedSQLiteWithFilesForAllValues(TestSQLite):
    def another(self, storage: Any) -> EntryStorage:
        return SQLiteStorage(self.path, namespace="t", timeout=SECONDS, maxbytes=10**8, large=1)


class TestLRUOverSQLite(TestSQLite):
    def another(self, storage: Any) -> EntryStorage:
        return LRUStorage(super().another(storage), maxsize=1000)

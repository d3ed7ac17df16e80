"""Rows that were read last are kept for as long as nobody writes, and no longer."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

import pytest

from gecaso.storages._sqlite_recent import LARGEST, MOST, OF_A_ROW, Recent
from tests.storages.sqlite_kit import at, opened


@pytest.fixture
def db(tmp_path: Path) -> Generator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (a)")
        yield db


def test_rows_are_kept_until_another_connection_commits(
    db: sqlite3.Connection, tmp_path: Path
) -> None:
    recent = Recent(db)
    recent.check()
    recent.keep(b"a", b"1")
    recent.check()
    assert recent.rows == {b"a": b"1"}
    with opened(tmp_path / "a.db") as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO t VALUES (1)")
        recent.check()
        assert recent.rows == {b"a": b"1"}
        other.execute("COMMIT")
    recent.check()
    assert recent.rows == {}


def test_what_is_kept_is_bounded(db: sqlite3.Connection) -> None:
    recent = Recent(db)
    for number in range(20_000):
        recent.keep(b"%d" % number, b"x" * (number % 500))
        if number % 1000 == 0:
            assert sum(len(data) + OF_A_ROW for data in recent.rows.values()) <= MOST
    recent.keep(b"large", b"x" * (LARGEST + 1))
    recent.keep(b"odd", "text")  # type: ignore[arg-type]  # as it may stand in a damaged file
    assert not {b"large", b"odd"} & recent.rows.keys()
    assert b"19999" in recent.rows


async def test_what_another_process_writes_is_seen_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    async with at(path) as storage:
        await storage.set_many({"a": 1, "b": 2})
        data = {name: await storage.get(name) for name in "ab"}
        with opened(path) as other:
            for _ in range(20):
                rows = other.execute("SELECT name, data FROM entries").fetchall()
                change_places = [(rows[0][1], rows[1][0]), (rows[1][1], rows[0][0])]
                other.executemany("UPDATE entries SET data = ? WHERE name = ?", change_places)
                data = {"a": data["b"], "b": data["a"]}
                assert await storage.get("a") == data["a"]
                assert await storage.get_many("ab") == data
            other.execute("DELETE FROM entries WHERE name = ?", (b"\0a",))
            assert await storage.get_many("ab") == {"b": data["b"]}

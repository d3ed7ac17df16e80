"""What befalls a file: damage, loss, locks, no room, no right to write."""
# ruff: noqa: ASYNC240 - the files are small, and nothing else runs in these loops

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gecaso
from gecaso import Busy, InvalidationFailed, StorageError, StorageTimeout, events
from gecaso.keys import as_key
from gecaso.storages._sqlite_repair import set_aside
from gecaso.storages._sqlite_work import Discard, Evict
from gecaso.storages._sqlite_writer import Writer
from tests.storages.sqlite_kit import KEY, at, leased, names, opened, select, until

VALUES = {f"key {number}": "x" * 500 for number in range(200)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


def aside(path: Path) -> list[Path]:
    found = path.parent.glob("*.damaged-*")
    return sorted(each for each in found if not each.name.endswith("-wal"))


# --- damage ---------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


def text(path: Path) -> None:
    path.write_text("this is no database at all\n" * 100)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def nearly_empty(path: Path) -> None:
    os.truncate(path, 10)


def without_tables(path: Path) -> None:
    with opened(path) as db:
        db.execute("DROP TABLE entries")


def with_another_column(path: Path) -> None:
    with opened(path) as db:
        db.execute("ALTER TABLE leases RENAME COLUMN token TO tokens")


def of_an_older_version(path: Path) -> None:
    with opened(path) as db:
        db.execute("PRAGMA user_version = 0")


def damaged_in_the_middle(path: Path) -> None:
    """Overwrite every page but the first ones, which say what the tables are."""
    data = bytearray(path.read_bytes())
    data[3 * 4096 :] = os.urandom(len(data) - 3 * 4096)
    path.write_bytes(data)


DAMAGES = [
    garbage, text, truncated, nearly_empty, without_tables, with_another_column,
    of_an_older_version, damaged_in_the_middle,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_set_aside_reported_and_made_anew(
    damage: Callable[[Path], None], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with at(path) as storage:
        await storage.set_many(VALUES)
    damage(path)
    harmed = path.read_bytes()
    seen: list[Any] = []
    with caplog.at_level(logging.WARNING, "gecaso"), events.listening(seen.append):
        async with at(path) as storage:
            assert await storage.get_many(VALUES) == {}
            await storage.set("a", 1)
            lease = await leased(storage)
            assert await storage.commit({lease: storage.new_entry(2)}) == {KEY}
            assert await storage.get("a") == 2
            (kept,) = aside(path)
            assert kept.read_bytes()[: len(harmed)] == harmed
            (event,) = seen
            assert (type(event), event.storage) == (events.StorageFailed, storage)
            assert (event.operation, str(kept) in str(event.error)) == ("repair", True)
    (record,) = caplog.records
    assert str(kept) in record.getMessage()


@pytest.mark.parametrize("damage", [garbage, truncated, damaged_in_the_middle])
async def test_damage_that_is_met_while_it_is_open_is_no_error_to_callers(
    damage: Callable[[Path], None], path: Path
) -> None:
    async with at(path) as storage:
        await storage.set_many(VALUES)
        with opened(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await storage.get_many(VALUES)
        damage(path)
        for _ in range(3):
            for number in range(0, 200, 20):
                await storage.get_many([f"key {number}"])
            await storage.get_many(VALUES)
            await storage.set_many(VALUES)
            await storage.remove(*list(VALUES)[:10])
        assert len(await storage.get_many(VALUES)) == 190


async def test_flipped_bytes_end_in_a_miss_or_the_value(path: Path) -> None:
    chance = random.Random(1)
    for _ in range(15):
        async with at(path) as storage:
            await storage.set_many(VALUES)
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 10, 1000])):
            # Who says which program's file it is, in the header, is believed: test of its own.
            data[chance.randrange(100, len(data))] = chance.randrange(256)
        path.write_bytes(data)
        async with at(path) as storage:
            found = await storage.get_many(VALUES)
            assert all(VALUES[key] == value for key, value in found.items())
            await storage.set("a", 1)
            await storage.remove(*VALUES)
            assert await storage.get_many(VALUES) == {}


async def test_a_few_damaged_files_are_kept_and_no_more(path: Path) -> None:
    for number in range(6):
        path.write_text(f"no database {number}")
        async with at(path) as storage:
            await storage.set("a", 1)
    assert [each.read_text() for each in aside(path)] == [f"no database {n}" for n in (3, 4, 5)]


async def test_cached_functions_notice_nothing_of_a_damaged_file(path: Path) -> None:
    async with at(path) as storage:

        @gecaso.cached(storage, ttl=60)
        async def double(x: int) -> int:
            return 2 * x

        assert [await double(n) for n in range(20)] == [2 * n for n in range(20)]
        garbage(path)
        assert await asyncio.gather(*map(double, range(20))) == [2 * n for n in range(20)]
        await double.invalidate(1)
        assert double.stats.storage_errors == 0


async def test_two_who_find_the_damage_at_once_set_one_file_aside(path: Path) -> None:
    """Two connections here, the same file: the second must not take the new one for damaged."""
    async with at(path) as storage:
        await storage.set_many(VALUES)
        await storage.get_many(VALUES)
        with opened(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        garbage(path)
        await asyncio.gather(storage.get_many(VALUES), storage.set("a", 1))
        assert len(aside(path)) == 1
        await storage.set("b", 1)
        assert await storage.get_many("b") == {"b": 1}


ODD = ["text", 7, 1.5, None, b"bytes", b"", "9" * 400]


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize(
    "column",
    ["entries.data", "entries.file", "entries.version", "entries.used", "entries.size",
     "entries.dead_after", "leases.token", "leases.until", "totals.bytes", "garbage.file"],
)  # fmt: skip
async def test_whatever_is_in_a_column_is_no_error_to_callers(
    column: str, odd: object, path: Path
) -> None:
    """Who has the file may have put there what we never would."""
    table, _, name = column.partition(".")
    async with at(path, maxbytes=100_000) as storage:
        await storage.set_many({"a": 1, "b": 2})
        busy = (await storage.lease([as_key("a")], 60), await storage.lease([as_key("a")], 60))
        with opened(path) as db:
            db.execute("INSERT INTO garbage VALUES ('a')")
            with contextlib.suppress(sqlite3.IntegrityError):  # NULL where it may not be
                db.execute(f"UPDATE {table} SET {name} = ?", (odd,))
        await storage.get_many("ab")
        await storage.lease([as_key("a"), as_key("c")], 60)
        got = busy[1][as_key("a")]
        assert isinstance(got, Busy)
        await storage.wait(got, 0.01)
        await storage.discard([as_key("b")], keep_stale=True)
        await storage.set("c", "x" * 1000)
        await storage.set("a", "x" * 1000)
        await storage.ping()
        await storage.clear()


# --- another file, or none, in its place ----------------------------------------------------------


async def test_a_removed_file_is_made_anew(path: Path) -> None:
    async with at(path) as storage:
        await storage.set("a", 1)
        assert await storage.get("a") == 1
        for part in ("", "-wal", "-shm"):
            Path(f"{path}{part}").unlink()
        assert await storage.get_many("a") == {}
        await storage.set("a", 2)
        assert names(path) == ["a"]


async def test_what_was_done_to_a_file_that_is_set_aside_is_done_again_to_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a lease taken in the new file could bring back what is invalidated here."""
    done: list[str] = []
    run = Discard.run

    def run_late(self: Any, db: sqlite3.Connection, now: float) -> None:
        if not done:  # another process finds damage, before this transaction is over
            there = path.stat()
            assert set_aside(str(path), (there.st_dev, there.st_ino), "it is a test")
        done.append(db.execute("PRAGMA database_list").fetchone()[2])
        run(self, db, now)

    monkeypatch.setattr(Discard, "run", run_late)
    async with at(path) as storage:
        await storage.set("a", "old")
        await storage.remove("a")
        assert len(done) == 2
        assert names(path) == []
        await storage.set("a", "new")
        assert names(path) == ["a"]


async def test_a_file_that_somebody_else_has_set_aside_is_not_set_aside_again(path: Path) -> None:
    async with at(path) as storage:
        await storage.set("a", 1)
        assert set_aside(str(path), (0, 0), "it is another one") is None
        path.unlink()
        assert set_aside(str(path), (0, 0), "it is gone") is None


async def test_a_database_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    with opened(path) as db:
        db.execute("CREATE TABLE accounts (balance)")
        db.execute("INSERT INTO accounts VALUES (100)")
    before = path.read_bytes()
    async with at(path) as storage:
        with pytest.raises(StorageError, match="a path of its own"):
            await storage.set("a", 1)
    assert path.read_bytes() == before
    assert aside(path) == []


async def test_a_file_of_a_newer_gecaso_is_refused_and_left_alone(path: Path) -> None:
    async with at(path) as storage:
        await storage.set("a", 1)
    with opened(path) as db:
        db.execute("PRAGMA user_version = 2")
    async with at(path) as storage:
        with pytest.raises(StorageError, match="newer gecaso"):
            await storage.get("a")
    assert aside(path) == []


# --- no room, no right, no place ------------------------------------------------------------------


async def test_places_that_cannot_be_used_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for place, advice in {
        "folder": "it is a folder: name a file in it",
        "nowhere/cache.db": "make it first",
        "file/cache.db": "make it first",
    }.items():
        storage = at(tmp_path / place)
        for operation in (storage.get("a"), storage.set("a", 1), storage.ping()):
            with pytest.raises(StorageError, match=advice):
                await operation
        await storage.aclose()


async def test_a_cached_function_over_such_a_place_is_called_and_invalidating_it_fails(
    tmp_path: Path,
) -> None:
    async with at(tmp_path) as storage:

        @gecaso.cached(storage, ttl=60, invalidate_timeout=0.1)
        async def double(x: int) -> int:
            return 2 * x

        assert [await double(n) for n in range(5)] == [0, 2, 4, 6, 8]
        assert double.stats.storage_errors == 3
        with pytest.raises(InvalidationFailed):
            await double.invalidate(1)


async def test_a_full_disk_refuses_writes_and_not_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at(path) as storage:
        await storage.set("a", 1)
        connect = sqlite3.connect

        def small(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            db: sqlite3.Connection = connect(*args, **kwargs)
            db.execute("PRAGMA max_page_count = 1")  # no page more than there are
            return db

        await storage.aclose()
        monkeypatch.setattr(sqlite3, "connect", small)
        with pytest.raises(StorageError, match=r"no room left.*maxbytes="):
            await storage.set_many({number: os.urandom(1000) for number in range(100)})
        assert await storage.get("a") == 1
        monkeypatch.undo()
        await storage.aclose()
        await storage.set("b", 2)
        assert await storage.get_many("ab") == {"a": 1, "b": 2}


LIMITED = """
import asyncio, os, resource, signal, sys
import gecaso
from gecaso.storages import SQLiteStorage

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

async def main():
    async with SQLiteStorage(sys.argv[1], timeout=10) as storage:
        cached = gecaso.cached(storage, ttl=60)

        @cached
        async def value(n: int) -> bytes:
            return os.urandom(1000)

        @cached
        async def large(n: int) -> bytes:
            return os.urandom(300_000)

        values = [len(await value(n)) for n in range(500)]
        assert values == [1000] * 500
        assert len(await large(1)) == 300_000
        assert value.stats.storage_errors > 0
        try:
            for n in range(10):
                await storage.set(n, os.urandom(100_000))
            print("stored")
        except gecaso.StorageError as error:
            print(error)
    assert not [name for name in os.listdir(sys.argv[1] + "-values") if name.endswith(".new")]
asyncio.run(main())
"""


@pytest.mark.process
def test_files_that_may_not_grow_are_trouble_and_no_damage(path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", LIMITED, str(path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (run.returncode, "cannot be used" in run.stdout) == (0, True), run.stderr
    assert aside(path) == []


UNPRIVILEGED = """
import asyncio, os, sys, urllib.request  # which Python cannot read later, without rights
from gecaso import StorageError
from gecaso.storages import SQLiteStorage

if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)

async def main():
    for place in sys.argv[1:]:
        async with SQLiteStorage(place, timeout=10) as storage:
            try:
                await storage.get("a")
                print("fine")
            except StorageError as error:
                print(error)
asyncio.run(main())
"""


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that everybody can reach, in which nobody else may write."""
    folder = Path("/tmp") / f"gecaso-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir(mode=0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.process
def test_a_folder_or_file_that_may_not_be_written_says_so(open_folder: Path) -> None:
    async def make(path: Path) -> None:
        async with at(path) as storage:
            await storage.set("a", 1)

    asyncio.run(make(open_folder / "made.db"))
    (open_folder / "made.db").chmod(0o444)
    shared = open_folder / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    asyncio.run(make(shared / "private.db"))
    if os.getuid():
        (shared / "private.db").chmod(0)
    open_folder.chmod(0o555)
    places = [open_folder / "new.db", open_folder / "made.db", shared / "private.db"]
    command = [sys.executable, "-W", "error", "-c", UNPRIVILEGED, *map(str, places)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    said = run.stdout.splitlines()
    assert len(said) == 3, run.stderr
    assert "cannot be written to" in said[0]
    assert "cannot be written to" in said[1]
    assert "may not read and write it" in said[2]


# --- locks ----------------------------------------------------------------------------------------


async def test_a_lock_that_lasts_is_a_storage_timeout_and_reads_go_on(path: Path) -> None:
    async with at(path, timeout=0.2) as storage:
        await storage.set("a", 1)
        with opened(path) as db:
            db.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            outcomes = await asyncio.gather(
                storage.set("b", 1), storage.remove("a"), storage.lease([KEY], 10),
                return_exceptions=True,
            )  # fmt: skip
            assert 0.1 < time.monotonic() - started < 2
            assert [type(each) for each in outcomes] == [StorageTimeout] * 3
            assert "database is locked" not in str(outcomes)
            assert await storage.get("a") == 1
            db.execute("ROLLBACK")
        await storage.set("b", 1)
        assert not isinstance((await storage.lease([KEY], 10))[KEY], Busy)  # none was left behind


async def test_a_lock_that_ends_in_time_is_waited_for(path: Path) -> None:
    async with at(path) as storage:
        await storage.set("a", 1)
        with opened(path) as db:
            db.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(storage.set("a", 2))
            done, _ = await asyncio.wait((writing,), timeout=0.1)
            assert not done
            db.execute("ROLLBACK")
        await writing
        assert await storage.get("a") == 2


async def test_a_file_that_somebody_has_for_himself_is_a_storage_timeout(path: Path) -> None:
    async with at(path) as storage:
        await storage.set("a", 1)
    with opened(path) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN IMMEDIATE")
        async with at(path, timeout=0.1) as storage:
            for operation in (storage.get("a"), storage.set("a", 1)):
                with pytest.raises(StorageTimeout, match="timeout="):
                    await operation
    assert aside(path) == []


async def test_a_write_that_was_too_late_is_not_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = threading.Event()
    fail = Writer._fail  # pyright: ignore[reportPrivateUsage] - the moment when it gives up

    def noting(writer: Writer, writing: Any, error: Exception) -> None:
        fail(writer, writing, error)
        given_up.set()

    monkeypatch.setattr(Writer, "_fail", noting)
    async with at(path, timeout=0.1) as storage:
        await storage.set("a", 1)
        with opened(path) as db:
            db.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageTimeout):
                await storage.set("a", 2)
            await until(given_up.is_set)
            db.execute("ROLLBACK")
        await storage.ping()
        assert await storage.get("a") == 1


async def test_a_loop_that_was_blocked_takes_no_reply_for_late(path: Path) -> None:
    async with at(path, timeout=0.2) as storage:
        await storage.set("a", 1)
        reading = asyncio.ensure_future(storage.lookup(KEY))
        writing = asyncio.create_task(storage.set("b", 1))
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - the loop is blocked, that is the point
        assert (await reading) is not None
        await writing


async def test_an_error_in_one_tick_does_not_reach_those_who_share_the_transaction(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise sqlite3.IntegrityError("no")

    monkeypatch.setattr(Evict, "run", fail)
    async with at(path) as storage:
        await storage.ping()
        writer = storage._desks.get().crew._writer  # pyright: ignore[reportPrivateUsage] - to have both in one transaction
        assert writer is not None
        with writer._hand.lock:  # pyright: ignore[reportPrivateUsage] - likewise
            bad = asyncio.create_task(storage.evict([KEY]))
            await asyncio.sleep(0.01)
            good = asyncio.create_task(storage.set("b", 1))
            await asyncio.sleep(0.01)
        outcomes = await asyncio.gather(bad, good, return_exceptions=True)
        assert [type(each) for each in outcomes] == [StorageError, type(None)]
        assert await storage.get("b") == 1


# --- the machinery of this page -------------------------------------------------------------------


def test_damages_damage(tmp_path: Path) -> None:
    """Each of the damages is one: SQLite itself, or the tables, say so."""
    for damage in DAMAGES:
        path = tmp_path / f"{damage.__name__}.db"

        async def make(path: Path = path) -> None:
            async with at(path) as storage:
                await storage.set_many(VALUES)

        asyncio.run(make())
        damage(path)
        try:
            sound = select(path, "PRAGMA integrity_check") == ["ok"]
            sound = sound and select(path, "PRAGMA user_version") == [1]
            sound = sound and bool(select(path, "SELECT count(data), 1 FROM entries"))
            sound = sound and select(path, "SELECT count(token) FROM leases") == [0]
        except sqlite3.DatabaseError:
            sound = False
        assert not sound, damage.__name__

"""Entries in a file: names, large values, bounds, expiry, leases, the clock."""
# ruff: noqa: ASYNC240 - the files are small, and nothing else runs in these loops

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import gecaso
from gecaso import Busy, ConfigurationError, Entry, Lease, PackError, ValueTooLarge, events
from gecaso.keys import as_key
from gecaso.storages import SQLiteStorage, _sqlite_clock, _sqlite_files, _sqlite_writer
from gecaso.storages._sqlite_clock import Clock
from gecaso.storages._sqlite_schema import Link
from tests.storages.sqlite_kit import KEY, at, files, leased, names, opened, select, until

LARGE = os.urandom(100_000)  # no compression makes it small


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


# --- making one -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [":memory:", "", "file:cache.db?mode=ro", b"cache.db", "a\0b"])
def test_what_is_no_path_of_a_file_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        SQLiteStorage(wrong)


def test_a_storage_in_memory_is_refused_with_advice() -> None:
    with pytest.raises(ConfigurationError, match="MemoryStorage"):
        SQLiteStorage(":memory:")


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"large": 0}, {"maxbytes": 0}, {"compress": -1}, {"secret": b"short"}]
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any], path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        at(path, **wrong)


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 23, 0))
    with pytest.raises(ConfigurationError, match=r"3\.24"):
        at(path)


async def test_making_one_opens_nothing(path: Path) -> None:
    storage = at(path)
    assert not path.exists()
    assert "0 connections" in repr(storage)
    await storage.set("a", 1)
    assert str(path) in repr(storage)
    assert "1 connections" in repr(storage)
    await storage.aclose()


async def test_a_relative_path_is_relative_to_the_folder_in_which_the_storage_was_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    async with at(path.name) as storage:
        monkeypatch.chdir("/")
        await storage.set("a", 1)
    assert path.exists()


async def test_files_are_for_this_user_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        async with at(path) as storage:
            await storage.set("a", LARGE)
            made = [each for each in path.parent.rglob("*") if each.is_file()]
            folders = [each for each in path.parent.rglob("*") if each.is_dir()]
            modes = {stat.S_IMODE(each.stat().st_mode) for each in made}
    finally:
        os.umask(before)
    assert len(made) == 4  # database, log, index of the log, value
    assert modes == {0o600}
    assert [stat.S_IMODE(each.stat().st_mode) for each in folders] == [0o700]


async def test_entries_outlive_the_storage(path: Path) -> None:
    async with at(path) as storage:
        await storage.set_many({"a": (1, {2}), "b": LARGE}, ttl=60)
    async with at(path) as storage:
        assert await storage.get_many("abc") == {"a": (1, {2}), "b": LARGE}


async def test_a_signed_value_is_read_under_its_own_key_alone(path: Path) -> None:
    async with at(path, secret="a secret of enough bytes") as storage:
        await storage.set_many({"a": slice(1, 2), "b": [LARGE, slice(3)]})
        assert await storage.get_many("ab") == {"a": slice(1, 2), "b": [LARGE, slice(3)]}
        with opened(path) as db:
            db.execute(
                "UPDATE entries SET (data, file) = (SELECT data, file FROM entries WHERE name = ?)",
                (b"\0b",),
            )
        assert await storage.get_many("ab") == {"b": [LARGE, slice(3)]}
        assert storage.corrupt == 1


# --- names ----------------------------------------------------------------------------------------


async def test_namespaces_are_apart_whatever_they_are_called(path: Path) -> None:
    spaces = ["", "a", "ab", "a\0", "a:b", "é{}", "a\1"]
    storages = {space: at(path, namespace=space) for space in spaces}
    for space, storage in storages.items():
        await storage.set_many({"k": space, "\0k": space, "b:k": space})
    for space, storage in storages.items():
        assert await storage.get_many(["k", "\0k", "b:k"]) == dict.fromkeys(
            ["k", "\0k", "b:k"], space
        )
    await storages["a"].clear()
    for space, storage in storages.items():
        assert bool(await storage.get_many(["k"])) == (space != "a"), space
        await storage.aclose()


async def test_any_text_is_a_key(path: Path) -> None:
    keys = ["", " ", "\0", "é", "\ud800", "x" * 10_000, "a\nb", "%", ("a", 1), 7, b"\xff"]
    async with at(path) as storage:
        await storage.set_many({key: [key] for key in keys if key != "\ud800"})
        await storage.set("\ud800", "lone")
        for key in keys:
            assert await storage.get(key) == ("lone" if key == "\ud800" else [key])


async def test_clear_removes_entries_leases_and_files_many_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gecaso.storages._sqlite_work.AT_ONCE", 10)
    async with at(path) as storage:
        await storage.set_many({number: number for number in range(35)})
        await storage.set("large", LARGE)
        lease = await leased(storage)
        await storage.clear()
        assert names(path) == []
        assert files(path) == []
        assert await storage.commit({lease: storage.new_entry(1)}) == set()


async def test_ten_thousand_keys_at_once(path: Path) -> None:
    values = {f"key {number}": number for number in range(10_000)}
    async with at(path) as storage:
        await storage.set_many(values)
        assert await storage.get_many(values) == values
        await storage.remove(*values)
        assert await storage.get_many(values) == {}


# --- large values ---------------------------------------------------------------------------------


async def test_a_large_value_is_a_file_and_goes_with_its_row(path: Path) -> None:
    async with at(path, compress=False) as storage:
        await storage.set("small", b"x" * 65_000)
        assert files(path) == []
        await storage.set("a", LARGE)
        (first,) = files(path)
        assert await storage.get("a") == LARGE
        await storage.set("a", LARGE + b"y")
        (second,) = files(path)
        assert first != second
        assert await storage.get("a") == LARGE + b"y"
        await storage.set("a", "small")
        assert files(path) == []
        await storage.set("a", LARGE)
        await storage.remove("a")
        assert files(path) == []


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 300, 64 * 1024, 64 * 1024 + 1, 10_000_000])
async def test_values_around_the_bound_come_out_as_they_went_in(size: int, path: Path) -> None:
    value = os.urandom(size)
    async with at(path) as storage:
        await storage.set("a", [value])
        assert await storage.get("a") == [value]


async def test_a_fenced_large_value_leaves_no_file(path: Path) -> None:
    async with at(path) as storage:
        lease = await leased(storage)
        await storage.discard([KEY])
        assert await storage.commit({lease: storage.new_entry(LARGE)}) == set()
        version = await storage.store({KEY: storage.new_entry(LARGE)}, expect={KEY: b"other"})
        assert version == set()
        assert files(path) == []


async def test_a_lost_or_cut_file_is_a_miss(path: Path) -> None:
    async with at(path) as storage:
        await storage.set("a", LARGE)
        (file,) = files(path)
        for data in (file.read_bytes()[:-1], b"", None):
            if data is None:
                file.unlink()
            else:
                file.write_bytes(data)
            assert await storage.get_many("a") == {}
            lease = await leased(storage)
            assert lease.seen is None
            await storage.release([lease])
        await storage.set("a", LARGE)
        assert await storage.get("a") == LARGE


async def test_a_name_of_a_file_leads_nowhere_else(path: Path) -> None:
    secret = path.parent / ("x" * 29)
    async with at(path) as storage:
        await storage.set("a", LARGE)
        (file,) = files(path)
        file.rename(secret)  # a fine value, elsewhere
        for name in (f"../{secret.name}", str(secret), "", "..", "../" * 10 + "x" * 2):
            with opened(path) as db:
                db.execute("UPDATE entries SET file = ?", (name,))
            assert await storage.get_many("a") == {}
        await storage.remove("a")
        assert secret.exists()


async def test_readers_find_the_old_value_or_the_new_one_while_files_are_replaced(
    path: Path,
) -> None:
    async with at(path, large=1) as storage, asyncio.TaskGroup() as group:
        await storage.set("a", 0)
        done = asyncio.Event()

        async def read() -> None:
            while not done.is_set():
                await storage.get("a")

        for _ in range(3):
            group.create_task(read())
        for number in range(100):
            await storage.set("a", number)
        done.set()


async def test_files_that_a_crash_has_left_are_swept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at(path) as storage:
        await storage.set("a", LARGE)
        (kept,) = files(path)
    orphan, unfinished, recent = (kept.with_name(n) for n in ("b" * 32, "c.new", "d" * 32))
    for each in (kept, orphan, unfinished):
        each.touch()
        os.utime(each, (1, 1))
    recent.touch()
    async with at(path) as storage:
        await storage.set("b", 1)
        await until(lambda: files(path) == sorted([kept, recent]))
        assert await storage.get("a") == LARGE
    assert _sqlite_files.ABANDONED >= 60


# --- bounds ---------------------------------------------------------------------------------------


def total(path: Path) -> int:
    (kept,) = select(path, "SELECT bytes FROM totals")
    (counted,) = select(path, "SELECT coalesce(sum(size), 0) FROM entries")
    assert kept == counted
    return int(kept)


async def test_the_entries_used_longest_ago_leave_first(path: Path) -> None:
    async with at(path, maxbytes=10_000, compress=False) as storage:
        for key in "abcdefgh":
            await storage.set(key, b"x" * 1000)
        await storage.get("a")
        await storage.get_many("cb")
        for key in "ij":
            await storage.set(key, b"x" * 1000)
        assert total(path) <= 10_000
        assert names(path) == sorted("abcfghij")


async def test_a_hit_costs_no_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "HOUSEWORK_EVERY", 1000.0)
    async with at(path, maxbytes=10_000) as storage:
        await storage.set("a", 1)
        with opened(path) as db:
            versions = db.execute("PRAGMA data_version").fetchone()
            used = db.execute("SELECT used FROM entries").fetchone()
            for _ in range(100):
                await storage.get("a")
            assert db.execute("PRAGMA data_version").fetchone() == versions
        await storage.aclose()
        (later,) = select(path, "SELECT used FROM entries")
    assert later > used[0]  # it is written down in the end


async def test_uses_by_another_process_count_as_soon_as_they_are_written_down(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_writer, "HOUSEWORK_EVERY", 0.01)
    async with at(path, maxbytes=10_000) as storage:
        await storage.set("a", 1)
        (before,) = select(path, "SELECT used FROM entries")
        await storage.get("a")
        await until(lambda: select(path, "SELECT used FROM entries") > [before])


async def test_files_count_and_leave_with_their_entries(path: Path) -> None:
    async with at(path, maxbytes=350_000, compress=False) as storage:
        for key in "abcde":
            await storage.set(key, LARGE)
            assert total(path) <= 350_000
        assert names(path) == ["c", "d", "e"]
        assert len(files(path)) == 3


async def test_a_value_larger_than_the_bound_is_refused_and_no_other_leaves(path: Path) -> None:
    async with at(path, maxbytes=50_000, compress=False) as storage:
        await storage.set("a", 1)
        with pytest.raises(ValueTooLarge) as caught:
            await storage.set("b", LARGE)
        assert caught.value.limit == 50_000
        assert names(path) == ["a"]


async def test_the_file_itself_stays_near_the_bound(path: Path) -> None:
    bound = 2_000_000
    async with at(path, maxbytes=bound, timeout=10) as storage:
        for start in range(0, 20_000, 1000):
            await storage.set_many({f"{start + n:065}": "x" * (n % 400) for n in range(1000)})
            assert total(path) <= bound
        assert path.stat().st_size <= 1.25 * bound


async def test_the_bound_holds_for_the_file_whatever_the_namespace(path: Path) -> None:
    first = at(path, maxbytes=5000, namespace="a", compress=False)
    second = at(path, maxbytes=5000, namespace="b", compress=False)
    for number in range(10):
        await first.set(number, b"x" * 700)
        await second.set(number, b"x" * 700)
        assert total(path) <= 5000
    await first.aclose()
    await second.aclose()


# --- what is dead ---------------------------------------------------------------------------------


async def test_expired_rows_leave_in_the_background(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_writer, "HOUSEWORK_EVERY", 0.01)
    monkeypatch.setattr(_sqlite_writer, "BURIED_AT_ONCE", 7)
    async with at(path) as storage:
        await storage.set_many({number: number for number in range(50)}, ttl=0.05)
        await storage.set("large", LARGE, ttl=0.05)
        await storage.set("stays", 1, ttl=60)
        await storage.set("for ever", 1)
        await storage.lease([as_key("lease")], 0.05)
        await until(lambda: names(path) == ["for ever", "stays"])
        assert files(path) == []
        await until(lambda: select(path, "SELECT count(*) FROM leases") == [0])


async def test_free_pages_are_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "HOUSEWORK_EVERY", 0.01)
    async with at(path, compress=False) as storage:
        await storage.set_many(dict.fromkeys(range(500), b"x" * 10_000))
        await storage.clear()
        await until(lambda: select(path, "PRAGMA freelist_count") < [300])


async def test_a_dead_entry_is_a_miss_before_it_has_left(path: Path) -> None:
    async with at(path) as storage:
        entry = storage.new_entry(1, 0.02)
        await storage.store({KEY: entry})
        await until(lambda: storage.now() >= entry.dead_after)
        assert await storage.fetch([KEY]) == {}
        assert (await leased(storage)).seen is None
        assert await storage.store({KEY: storage.new_entry(2)}, expect={KEY: None}) == {KEY}


# --- leases ---------------------------------------------------------------------------------------


async def test_who_waits_in_this_process_is_told_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gecaso.storages._sqlite_desk.FIRST_LOOK", 1000.0)
    monkeypatch.setattr("gecaso.storages._sqlite_desk.LAST_LOOK", 1000.0)
    holder, storage = at(path), at(path)
    endings: list[Callable[[Lease], Awaitable[object]]] = [
        lambda lease: holder.release([lease]),
        lambda lease: holder.commit({lease: holder.new_entry(1)}),
        lambda _: holder.discard([KEY]),
        lambda _: holder.set("a", 1),
    ]
    for end in endings:
        lease = await leased(holder)
        busy = (await storage.lease([KEY], 10))[KEY]
        assert isinstance(busy, Busy)
        waiting = asyncio.create_task(storage.wait(busy, 1000))
        await until(lambda: storage._desks.get()._heard)  # pyright: ignore[reportPrivateUsage] - nobody else tells that it waits
        await end(lease)
        async with asyncio.timeout(5):
            await waiting
    await holder.aclose()
    await storage.aclose()


async def test_waiting_ends_when_the_lease_runs_out_or_time_is_up(path: Path) -> None:
    async with at(path) as storage:
        await leased(storage, seconds=1.0)
        busy = (await storage.lease([KEY], 10))[KEY]
        assert isinstance(busy, Busy)
        await storage.wait(busy, 0.01)
        assert isinstance((await storage.lease([KEY], 10))[KEY], Busy)
        async with asyncio.timeout(5):
            await storage.wait(busy, 1000)
        assert isinstance((await storage.lease([KEY], 10))[KEY], Lease)


async def test_a_cancelled_lease_is_given_back(path: Path) -> None:
    async with at(path) as storage:
        for ticks in range(5):
            taking = asyncio.create_task(storage.lease([KEY], 60))
            for _ in range(ticks):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait((taking,))
            if not taking.cancelled():
                got = taking.result()[KEY]
                assert isinstance(got, Lease)
                await storage.release([got])
            await storage.release([await leased(storage)])


async def test_two_leases_of_one_key_in_one_commit(path: Path) -> None:
    async with at(path) as storage:
        old = await leased(storage)
        await storage.discard([KEY])
        new = await leased(storage)
        entries = {old: storage.new_entry("old"), new: storage.new_entry("new")}
        assert await storage.commit(entries) == {KEY}
        assert await storage.get("a") == "new"


async def test_expiring_keeps_what_has_a_stale_time_and_ends_the_lease(path: Path) -> None:
    async with at(path) as storage:
        now = storage.now()
        for value in ("small", LARGE):
            await storage.store({KEY: Entry(value, now, now + 30, now + 60, version=b"v")})
            lease = await leased(storage)
            await storage.discard([KEY, as_key("absent")], keep_stale=True)
            found = (await storage.fetch([KEY]))[KEY]
            assert (found.value, found.version) == (value, b"v")
            assert found.fresh_until <= storage.now()
            assert await storage.commit({lease: storage.new_entry(1)}) == set()
        await storage.set("a", 1, ttl=60)
        await storage.discard([KEY], keep_stale=True)
        assert await storage.fetch([KEY]) == {}


async def test_a_pack_error_harms_nobody_else(path: Path) -> None:
    async with at(path) as storage:
        outcomes = await asyncio.gather(
            storage.set("a", 1), storage.set("b", object()), storage.set("c", 1),
            return_exceptions=True,
        )  # fmt: skip
        assert [type(each) for each in outcomes] == [type(None), PackError, type(None)]
        assert names(path) == ["a", "c"]


# --- one tick, one statement, one transaction -----------------------------------------------------


async def test_lookups_of_one_tick_share_a_statement_and_writes_a_transaction(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    prepare = Link._prepare  # pyright: ignore[reportPrivateUsage] - to see what its connection does

    def traced(self: Any, clock: Clock) -> None:
        prepare(self, clock)
        self.db.set_trace_callback(done.append)

    monkeypatch.setattr(Link, "_prepare", traced)
    async with at(path) as storage:
        await storage.set("a", 1)
        done.clear()
        await asyncio.gather(*[storage.set(number, number) for number in range(100)])
        assert sum(each.startswith("BEGIN") for each in done) == 1
        done.clear()
        assert await asyncio.gather(*map(storage.get, range(100))) == list(range(100))
        assert sum(each.startswith("SELECT") for each in done) == 1


async def test_a_cached_function_over_a_file(path: Path) -> None:
    async with at(path) as storage:

        @gecaso.cached(storage, ttl=60)
        async def square(x: int) -> int:
            return x * x

        assert await asyncio.gather(*[square(n % 10) for n in range(100)]) == [
            (n % 10) ** 2 for n in range(100)
        ]
        assert square.stats.loads == 10
        await square.invalidate(3)
        assert await square(3) == 9
        assert square.stats.loads == 11


# --- the clock ------------------------------------------------------------------------------------

ESTIMATE = Clock.estimate


def shifted(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the time of day, so many seconds from the true one."""
    monkeypatch.setattr(Clock, "estimate", staticmethod(lambda: ESTIMATE() + seconds))


def another_boot(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = path.with_name("boot_id")
    name.write_text("another\n")
    monkeypatch.setattr(_sqlite_clock, "BOOT_ID", str(name))


async def test_setting_the_time_of_day_moves_no_entry_and_no_lease(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at(path) as storage:
        await storage.set("a", 1, ttl=60)
        lease = await leased(storage)
    for seconds in (-7200.0, 7200.0):
        shifted(monkeypatch, seconds)
        async with at(path) as storage:
            assert abs(storage.now() - lease.until) > 7000  # not known yet
            await storage.set("b", 2, ttl=60)
            assert await storage.get_many("ab") == {"a": 1, "b": 2}
            entry = (await storage.fetch([as_key("b")]))[as_key("b")]
            assert 0 < entry.fresh_until - storage.now() <= 60
            assert isinstance((await storage.lease([KEY], 10))[KEY], Busy)


async def test_after_a_boot_leases_are_gone_and_entries_are_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at(path) as storage:
        await storage.set("a", 1, ttl=60)
        await storage.lease([KEY], 60)
    another_boot(path, monkeypatch)
    async with at(path) as storage:
        assert await storage.get("a") == 1
        assert isinstance((await storage.lease([KEY], 10))[KEY], Lease)


async def test_after_a_boot_with_an_earlier_time_of_day_nothing_lives_longer_than_it_may(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at(path) as storage:
        await storage.set("a", 1, ttl=60)
    another_boot(path, monkeypatch)
    shifted(monkeypatch, -3600.0)
    async with at(path) as storage:
        assert await storage.get_many("a") == {}


async def test_where_boots_have_no_name_the_offset_of_the_clock_tells_them_apart(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_clock, "BOOT_ID", "/nowhere")
    async with at(path) as storage:
        await storage.lease([KEY], 60)
    shifted(monkeypatch, 1.0)
    async with at(path) as storage:
        assert isinstance((await storage.lease([KEY], 10))[KEY], Busy)
    shifted(monkeypatch, 100.0)
    async with at(path) as storage:
        assert isinstance((await storage.lease([KEY], 10))[KEY], Lease)


# --- damaged values -------------------------------------------------------------------------------


async def test_a_damaged_value_is_a_miss_and_told(path: Path) -> None:
    seen: list[Any] = []
    async with at(path, namespace="n") as storage:
        await storage.set_many({"a": 1, "b": 2})
        with opened(path) as db:
            db.execute(
                "UPDATE entries SET data = CAST(x'c1' || data AS BLOB) WHERE name = ?", (b"n\0a",)
            )
        with events.listening(seen.append):
            assert await storage.get_many("ab") == {"b": 2}
    (event,) = seen
    assert (type(event), event.storage, event.key) == (events.Corrupt, storage, "a")
    assert storage.corrupt == 1

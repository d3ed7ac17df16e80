"""One file, many processes: leases hold between them, and killing them breaks nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gecaso.storages import SQLiteStorage
from tests.storages.sqlite_kit import files, select

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


def run(worker: str, path: Path, *numbers: int, timeout: float = 100) -> dict[str, Any]:
    """Run one of the workers; nothing may have gone wrong in any of its processes."""
    command = [sys.executable, "-W", "error", "-m", "tests.storages.sqlite_workers"]
    done = subprocess.run(
        [*command, worker, str(path), *map(str, numbers)],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["errors"] == ""
    return told


def check_after_kills(path: Path) -> None:
    """The file is whole, within its bound, and nobody has set one aside."""
    assert list(path.parent.glob("*.damaged-*")) == []

    async def settle() -> None:
        """Opening it repairs what the kills have left."""
        async with SQLiteStorage(path, timeout=20, maxbytes=1_500_000) as storage:
            found = await storage.get_many([f"key {number}" for number in range(40)])
            assert all(value[0] == key for key, value in found.items())
            assert storage.corrupt == 0
            await storage.set("last", 1)

    asyncio.run(settle())
    assert select(path, "PRAGMA integrity_check") == ["ok"]
    (kept,) = select(path, "SELECT bytes FROM totals")
    assert [kept] == select(path, "SELECT sum(size) FROM entries")
    assert kept <= 1_500_000
    rows = set(select(path, "SELECT file FROM entries WHERE file IS NOT NULL"))
    assert rows <= {each.name for each in files(path)}


@pytest.mark.fault
def test_processes_that_write_and_are_killed_break_nothing(path: Path) -> None:
    assert run("churning", path, 6, 3)["killed"] >= 5
    check_after_kills(path)


@pytest.mark.fault
@pytest.mark.long
def test_twenty_processes_write_for_a_minute_and_are_killed(path: Path) -> None:
    assert run("churning", path, 20, 60)["killed"] >= 100
    check_after_kills(path)


def test_one_load_in_all_processes(path: Path) -> None:
    assert run("loading", path, 5)["loads"] == 1


def test_a_lease_is_one_process_alone(path: Path) -> None:
    assert run("counting", path, 4, 15)["count"] == 60


@pytest.mark.fault
def test_a_process_killed_while_it_loads_is_replaced_when_its_lease_has_run_out(path: Path) -> None:
    assert run("replacing", path)["seconds"] < 5


def test_the_end_of_a_lease_is_heard_in_other_processes_within_milliseconds(path: Path) -> None:
    assert run("telling", path)["seconds"] < 1


def test_processes_that_open_a_new_file_at_once_share_it(path: Path) -> None:
    assert run("opening", path, 10)["count"] == 10


@pytest.mark.fault
def test_processes_that_find_a_damaged_file_at_once_share_the_new_one(path: Path) -> None:
    assert run("repairing", path, 10)["count"] == 10
    assert len(list(path.parent.glob("*.damaged-*"))) == 1

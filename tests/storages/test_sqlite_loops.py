"""One storage in a file in several loops, threads and forks; and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from functools import partial
from pathlib import Path

import pytest

import gecaso
from gecaso import Busy, StorageError
from gecaso.keys import as_key
from gecaso.storages import SQLiteStorage, _sqlite_crew
from tests.storages.loops_kit import wrong_in_three_loops
from tests.storages.sqlite_kit import KEY, at, leased, threads, until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


def descriptors(path: Path) -> list[str]:
    """Return what this process has open beside the database."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [target for target in targets if target.startswith(str(path))]


# --- loops and threads ----------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_two_loops_in_two_threads_and_this_one(path: Path) -> None:
    storage = at(path)
    assert await wrong_in_three_loops(storage, 100) == []
    assert sum(one.name == "gecaso sqlite writer" for one in threads()) == 1  # of all loops
    await storage.aclose()
    assert threads() == []


async def test_storages_of_one_path_share_one_writer(path: Path) -> None:
    storages = [at(path, namespace=name) for name in "abc"]
    storages.append(at(path.parent / "." / path.name))
    for storage in storages:
        await storage.set("a", 1)
    assert len(threads()) == 1
    for storage in storages:
        assert await storage.get("a") == 1
        await storage.aclose()
    assert threads() == []


def test_one_loop_after_another_without_closing(path: Path) -> None:
    storage = at(path)

    async def use(number: int) -> None:
        await storage.set("a", 1)
        await leased(storage, as_key(("lease", number)))
        assert await storage.get("a") == 1

    for number in range(3):
        asyncio.run(use(number))
        assert (threads(), descriptors(path)) == ([], [])
    assert "0 connections" in repr(storage)


def test_loops_closed_without_a_word_leave_nothing_once_it_is_used_again(path: Path) -> None:
    storage = at(path)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(storage.set("a", 1))
        loop.close()
        del loop
    asyncio.run(storage.aclose())
    gc.collect()
    for thread in threads():
        thread.join(5)
    assert (threads(), descriptors(path)) == ([], [])


def test_plain_functions_from_many_threads(path: Path) -> None:
    storage = at(path)
    loads: list[int] = []

    @gecaso.cached(storage, ttl=60)
    def double(x: int) -> int:
        loads.append(x)
        return 2 * x

    wrong: list[int] = []

    def work() -> None:
        wrong.extend(n for n in range(20) if double(n) != 2 * n)

    running = [threading.Thread(target=work) for _ in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert (wrong, sorted(loads)) == ([], list(range(20)))
    asyncio.run(storage.aclose())
    for thread in threads():
        thread.join(5)
    assert threads() == []


# --- nothing is left behind -----------------------------------------------------------------------


@pytest.mark.every_loop
async def test_closing_leaves_no_task_no_thread_and_no_descriptor(path: Path) -> None:
    tasks = asyncio.all_tasks()
    storage = at(path)
    for _ in range(5):
        lease = await leased(storage)
        busy = (await storage.lease([KEY], 10))[KEY]
        assert isinstance(busy, Busy)
        waiting = asyncio.create_task(storage.wait(busy, 30))
        reading = asyncio.ensure_future(storage.lookup(KEY))
        await asyncio.sleep(0.01)
        await storage.aclose()
        async with asyncio.timeout(5):
            await asyncio.gather(waiting, reading)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == tasks
        assert (threads(), descriptors(path)) == ([], [])
        await storage.release([lease])
    await storage.aclose()
    await storage.aclose()
    assert (threads(), descriptors(path)) == ([], [])
    assert not Path(f"{path}-wal").exists()  # noqa: ASYNC240 - nothing else runs in this loop


async def test_closing_at_any_tick_ends_what_was_asked_for(path: Path) -> None:
    tasks = asyncio.all_tasks()
    for ticks in range(12):
        storage = at(path)
        asked = [
            asyncio.ensure_future(each)
            for each in (
                storage.set("a", os.urandom(100_000)),
                storage.lookup(KEY),
                storage.clear(),
            )
        ]
        for _ in range(ticks):
            await asyncio.sleep(0)
        await storage.aclose()
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
        await storage.aclose()
        failures = [each for each in outcomes if isinstance(each, BaseException)]
        assert all(isinstance(each, StorageError) for each in failures)
        assert asyncio.all_tasks() == tasks
        assert threads() == []


def is_collected(gone: weakref.ref[SQLiteStorage]) -> bool:
    gc.collect()
    return gone() is None


async def test_a_storage_dropped_without_closing_takes_its_threads_along(path: Path) -> None:
    for write_first in (True, False):
        storage = at(path)
        if write_first:
            await storage.set("a", 1)
        else:
            await storage.get_many("a")
        gone = weakref.ref(storage)
        del storage
        # A thread that has just answered may hold it for a moment.
        await until(partial(is_collected, gone))
        await until(lambda: not threads())
        assert descriptors(path) == []


async def test_a_storage_may_be_collected_while_a_lock_of_ours_is_held(path: Path) -> None:
    """Collecting garbage happens anywhere; what it runs must not wait for its own thread."""
    storage = at(path)
    await storage.set("a", 1)
    crew = storage._desks.get().crew  # pyright: ignore[reportPrivateUsage] - its locks are meant
    del storage
    with _sqlite_crew._crews_lock, crew._lock:  # pyright: ignore[reportPrivateUsage] - likewise
        gc.collect()
    del crew
    await until(lambda: not threads())


async def test_closing_leaves_no_log(path: Path) -> None:
    for number in range(50):
        storage = at(path.with_name(f"{number}.db"))
        await storage.set("a", 1)
        assert await storage.get("a") == 1
        await storage.aclose()
        assert not path.with_name(f"{number}.db-wal").exists()


def run(code: str, path: Path) -> str:
    """Run a program in which warnings are errors, and which must say nothing on standard error."""
    command = [sys.executable, "-W", "error", "-X", "faulthandler", "-c", code, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


AT_EXIT = """
import asyncio, sys, gecaso
from gecaso.storages import SQLiteStorage

storage = SQLiteStorage(sys.argv[1], maxbytes=10**6, timeout=10)

@gecaso.cached(storage, ttl=60)
def double(x: int) -> int:
    return 2 * x

assert [double(n) for n in range(10)] * 2 == [2 * n for n in range(10)] * 2
"""


@pytest.mark.process
def test_a_program_may_end_without_closing(path: Path) -> None:
    run(AT_EXIT, path)
    assert not Path(f"{path}-wal").exists()  # its connections were closed properly
    run(AT_EXIT, path)


# --- forks ----------------------------------------------------------------------------------------

FORK = """
import asyncio, os, sys, threading
from gecaso import Busy
from gecaso.keys import as_key
from gecaso.storages import SQLiteStorage

path = sys.argv[1]
storage = SQLiteStorage(path, timeout=10)

def open_files():
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [t for n in names if os.path.lexists(n) and (t := os.readlink(n)).startswith(path)]

async def work(name):
    for number in range(60):
        await storage.set((name, number % 5), (name, number), ttl=60)
        assert await storage.get((name, number % 5)) == (name, number)
    await storage.set("large", name * 100_000)

def in_child(name):
    try:
        assert open_files() == [], "the child has a connection of its parent's"
        asyncio.run(work(name))
        async def lease():
            return (await storage.lease([as_key("parent's")], 10))[as_key("parent's")]
        assert isinstance(asyncio.run(lease()), Busy)
        assert [t.name for t in threading.enumerate()] == ["MainThread"]
        os._exit(0)
    except BaseException as error:
        import traceback
        traceback.print_exc()
        os._exit(1)

async def main():
    await work("before")
    await storage.lease([as_key("parent's")], 60)
    busy = asyncio.create_task(work("busy"))  # reads and writes while it forks
    children = []
    for number in range(8):
        await asyncio.sleep(0.003)
        child = os.fork()
        if child == 0:
            in_child(f"child {number}")
        children.append(child)
    await busy
    for child in children:
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert status == 0
    for number in range(8):
        assert await storage.get((f"child {number}", 4)) == (f"child {number}", 59)
    await work("after")
    await storage.aclose()

asyncio.run(main())
"""


@pytest.mark.process
def test_forks_in_the_middle_of_work_share_no_connection(path: Path) -> None:
    run(FORK, path)


FORK_THREAD = """
import asyncio, os, sys, threading, gecaso
from gecaso.storages import SQLiteStorage

storage = SQLiteStorage(sys.argv[1], timeout=10)

@gecaso.cached(storage, ttl=60)
def double(x: int) -> int:
    return 2 * x

double(-1)  # imports what is imported at the first use: a fork in the middle of that hangs Python
stop = threading.Event()
def busy():
    n = 0
    while not stop.is_set():
        n += 1
        assert double(n % 50) == 2 * (n % 50)
        if n % 10 == 0:
            double.invalidate(n % 50)

workers = [threading.Thread(target=busy) for _ in range(3)]
for worker in workers:
    worker.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert [double(n) for n in range(100)] == [2 * n for n in range(100)]
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for worker in workers:
    worker.join()
"""


@pytest.mark.process
def test_forks_while_plain_functions_are_called_in_other_threads(path: Path) -> None:
    run(FORK_THREAD, path)

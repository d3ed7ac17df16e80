"""One Postgres storage in several loops, threads and forks; and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import warnings
import weakref

import pytest

from gecaso.entry import Busy, Lease
from gecaso.storages import PostgresStorage
from tests.postgres import PostgresServer
from tests.storages.postgres_kit import KEY, asyncpg, opened


def sockets() -> int:
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(name) and "socket:" in os.readlink(name) for name in names)


async def use(storage: PostgresStorage) -> None:
    """Use every kind of connection."""
    await storage.set("a", 1)
    lease = await storage.lease([KEY], 10)
    busy = (await storage.lease([KEY], 10))[KEY]
    assert isinstance(busy, Busy)
    await storage.wait(busy, 0.05)
    await storage.release([got for got in lease.values() if isinstance(got, Lease)])
    assert await storage.get("a") == 1


# --- loops, threads, forks ------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_two_loops_in_two_threads_and_this_one(postgres_url: str) -> None:
    storage = opened(postgres_url, timeout=10)
    wrong: list[object] = []

    async def work(name: str) -> None:
        for number in range(50):
            await storage.set((name, number % 7), (name, number), ttl=60)
            if await storage.get((name, number % 7)) != (name, number):
                wrong.append((name, number))

    threads = [threading.Thread(target=asyncio.run, args=(work(name),)) for name in "xy"]
    for thread in threads:
        thread.start()
    await work("z")
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert wrong == []
    await storage.aclose()


def test_one_loop_after_another_without_closing(postgres_url: str) -> None:
    storage = opened(postgres_url)
    descriptors = sockets()
    for _ in range(3):
        asyncio.run(use(storage))
        assert sockets() == descriptors
    assert "0 connections" in repr(storage)


def test_loops_closed_without_a_word_leave_no_descriptor(postgres_url: str) -> None:
    storage = opened(postgres_url)
    descriptors = sockets()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(use(storage))
            loop.close()
            del loop
        asyncio.run(storage.aclose())
        gc.collect()
    assert sockets() == descriptors
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.process
def test_a_fork_shares_no_connection(postgres_url: str) -> None:
    """Parent and child go on at the same time over one storage, and read what is theirs."""
    code = f"""
import asyncio, os, sys
from gecaso.storages import PostgresStorage
storage = PostgresStorage({postgres_url!r}, timeout=10, connect_timeout=10)

def sockets():
    names = [f"/proc/self/fd/{{name}}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(name) and "socket:" in os.readlink(name) for name in names)

async def work(name):
    for number in range(100):
        await storage.set((name, number % 5), (name, number), ttl=60)
        assert await storage.get((name, number % 5)) == (name, number)

async def main():
    bare = sockets()
    await work("before")
    waiting = [asyncio.ensure_future(storage.get(("before", n))) for n in range(5)]
    await asyncio.sleep(0)
    child = os.fork()
    if child == 0:
        try:
            assert sockets() == bare, "the child keeps a connection of its parent"
            asyncio.run(work("child"))
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    await work("parent")
    assert [value[0] for value in await asyncio.gather(*waiting)] == ["before"] * 5
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    await work("after")
    await storage.aclose()
    sys.exit(os.waitstatus_to_exitcode(status))

asyncio.run(main())
"""
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, "")


# --- nothing is left behind -----------------------------------------------------------------------


@pytest.mark.every_loop
async def test_closing_leaves_no_task_and_no_descriptor(postgres_url: str) -> None:
    before, tasks = sockets(), asyncio.all_tasks()
    storage = opened(postgres_url)
    for _ in range(3):
        await storage.lease([KEY], 10)
        busy = (await storage.lease([KEY], 10))[KEY]
        assert isinstance(busy, Busy)
        waiting = asyncio.create_task(storage.wait(busy, 30))
        reading = asyncio.ensure_future(storage.lookup(KEY))
        await asyncio.sleep(0.01)
        await storage.aclose()
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(waiting, reading, return_exceptions=True), 1)
        assert asyncio.all_tasks() == tasks
        assert sockets() == before
        await storage.discard([KEY])
    for _ in range(5):
        await storage.aclose()
    await asyncio.sleep(0)
    assert sockets() == before


async def test_closing_while_it_connects_leaves_no_task(postgres_url: str) -> None:
    tasks, before = asyncio.all_tasks(), sockets()
    for ticks in range(30):
        storage = opened(postgres_url)
        writing = asyncio.create_task(storage.set("a", 1))
        reading = asyncio.ensure_future(storage.lookup(KEY))
        for _ in range(ticks):
            await asyncio.sleep(0)
        await storage.aclose()
        await asyncio.sleep(0)
        outcomes = await asyncio.wait_for(
            asyncio.gather(writing, reading, return_exceptions=True), 2
        )
        await storage.aclose()
        assert all(not isinstance(each, asyncio.CancelledError) for each in outcomes)
        assert asyncio.all_tasks() == tasks
    await asyncio.sleep(0)
    assert sockets() == before


async def test_closing_while_somebody_waits_leaves_nothing(postgres_url: str) -> None:
    tasks = asyncio.all_tasks()
    async with opened(postgres_url) as holder:
        await holder.lease([KEY], 10)
        own = asyncio.all_tasks() - tasks
        storage = opened(postgres_url)
        for ticks in range(1, 40, 3):
            busy = (await storage.lease([KEY], 10))[KEY]
            assert isinstance(busy, Busy)
            waiting = asyncio.create_task(storage.wait(busy, 30))
            for _ in range(ticks):
                await asyncio.sleep(0)
            await storage.aclose()
            await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 1)
            assert "0 connections" in repr(storage)
            assert asyncio.all_tasks() <= tasks | own


async def test_a_storage_dropped_without_closing_takes_its_connections_along(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    storage = opened(f"{postgres_url}?application_name=dropped")
    await use(storage)
    await asyncio.sleep(0)  # the last task of it says that it is done
    gone = weakref.ref(storage)
    del storage
    gc.collect()
    assert gone() is None
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dropped'"
    async with asyncio.timeout(5):
        while postgres_server.execute(query) != [["0"]]:
            gc.collect()
            await asyncio.sleep(0.01)


async def test_a_pool_is_given_all_its_connections_back(postgres_url: str) -> None:
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=5) as pool:
        for _ in range(5):
            storage = opened(pool)
            await use(storage)
            waiting = [asyncio.create_task(use(storage)) for _ in range(5)]
            await asyncio.sleep(0)
            await storage.aclose()
            await asyncio.wait(waiting)
            for task in waiting:
                task.exception()
        async with asyncio.timeout(5):
            held = [await pool.acquire() for _ in range(5)]
        for connection in held:
            await pool.release(connection)

"""One Redis storage in several loops, threads and forks; and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import warnings
import weakref

import pytest

from gecaso.entry import Busy, Lease
from gecaso.keys import as_key
from gecaso.storages import RedisStorage
from tests.servers import RedisServer

KEY = as_key("a")


# --- loops, threads, forks ------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_two_loops_in_two_threads_and_this_one(redis_url: str) -> None:
    storage = RedisStorage(redis_url)
    wrong: list[object] = []

    async def work(name: str) -> None:
        for number in range(200):
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


def test_one_loop_after_another_without_closing(redis_url: str) -> None:
    storage = RedisStorage(redis_url)

    async def use() -> None:
        await storage.set("a", 1)
        lease = await storage.lease([KEY], 10)
        busy = (await storage.lease([KEY], 10))[KEY]
        assert isinstance(busy, Busy)
        await storage.wait(busy, 0.01)
        await storage.release([got for got in lease.values() if isinstance(got, Lease)])
        assert await storage.get("a") == 1

    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        asyncio.run(use())
        assert len(os.listdir("/proc/self/fd")) == descriptors
    assert "0 connections" in repr(storage)


def test_loops_closed_without_a_word_leave_no_descriptor(redis_url: str) -> None:
    storage = RedisStorage(redis_url)
    descriptors = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(storage.set("a", 1))
            loop.close()
            del loop
        asyncio.run(storage.aclose())
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert [str(warning.message) for warning in caught] == []


def test_a_fork_shares_no_connection(redis_url: str) -> None:
    """Parent and child go on at the same time over one storage, and read what is theirs."""
    code = f"""
import asyncio, os, sys
from gecaso.storages import RedisStorage
storage = RedisStorage({redis_url!r})

def sockets():
    names = [f"/proc/self/fd/{{name}}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(name) and "socket:" in os.readlink(name) for name in names)

async def work(name):
    for number in range(300):
        await storage.set((name, number % 5), (name, number), ttl=60)
        assert await storage.get((name, number % 5)) == (name, number)

async def main():
    await work("before")
    waiting = [asyncio.ensure_future(storage.get(("before", n))) for n in range(5)]
    await asyncio.sleep(0)
    before = sockets()
    child = os.fork()
    if child == 0:
        try:
            assert sockets() == before - 1, "the child keeps the connection of its parent"
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
async def test_closing_leaves_no_task_and_no_descriptor(redis_url: str) -> None:
    def connected() -> int:
        return sum(
            isinstance(each, socket.socket) and each.fileno() >= 0 for each in gc.get_objects()
        )

    before, tasks = connected(), asyncio.all_tasks()
    storage = RedisStorage(redis_url)
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
        assert connected() == before
        await storage.discard([KEY])


async def test_closing_while_it_connects_leaves_no_task(redis_url: str) -> None:
    tasks = asyncio.all_tasks()
    for ticks in range(12):
        storage = RedisStorage(redis_url)
        writing = asyncio.create_task(storage.set("a", 1))
        reading = asyncio.ensure_future(storage.lookup(KEY))
        for _ in range(ticks):
            await asyncio.sleep(0)
        await storage.aclose()
        await asyncio.sleep(0)
        outcomes = await asyncio.wait_for(
            asyncio.gather(writing, reading, return_exceptions=True), 1
        )
        await storage.aclose()
        assert all(not isinstance(each, asyncio.CancelledError) for each in outcomes)
        assert asyncio.all_tasks() == tasks


async def test_closing_while_somebody_waits_leaves_nothing(redis_url: str) -> None:
    tasks = asyncio.all_tasks()
    holder, storage = RedisStorage(redis_url), RedisStorage(redis_url)
    await holder.lease([KEY], 10)
    for ticks in range(1, 40):
        busy = (await storage.lease([KEY], 10))[KEY]
        assert isinstance(busy, Busy)
        waiting = asyncio.create_task(storage.wait(busy, 30))
        for _ in range(ticks):
            await asyncio.sleep(0)
        await storage.aclose()
        await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 1)
        assert "0 connections" in repr(storage)
        assert asyncio.all_tasks() == tasks
    await holder.aclose()


async def test_a_storage_dropped_without_closing_takes_its_connection_along(
    redis_url: str, redis_server: RedisServer
) -> None:
    storage = RedisStorage(f"{redis_url}?client_name=dropped")
    await storage.set("a", 1)
    gone = weakref.ref(storage)
    del storage
    gc.collect()
    assert gone() is None
    for _ in range(50):
        clients = redis_server.command("CLIENT", "LIST")
        assert isinstance(clients, bytes)
        if b"name=dropped" not in clients:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the connection is still open")


async def test_a_storage_is_usable_after_closing(redis_url: str) -> None:
    storage = RedisStorage(redis_url)
    for number in range(3):
        await storage.set("a", number)
        await storage.aclose()
    assert await storage.get("a") == 2
    await storage.aclose()

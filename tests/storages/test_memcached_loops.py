"""`MemcachedStorage` under cancellations, in several loops and threads."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import traceback

import pytest

from gecaso.entry import Busy, Lease
from gecaso.errors import StorageError
from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage
from tests.servers import MemcachedServer
from tests.storages.memcached_kit import KEY, again_and_again


def block(seconds: float) -> None:
    """Do what a user's function may do to the loop."""
    time.sleep(seconds)


# --- cancellation -----------------------------------------------------------------------------


async def one_of_everything(storage: MemcachedStorage, n: int, pick: random.Random) -> None:
    key = as_key(n)
    kind = pick.randrange(5)
    if kind == 0:
        entry = await storage.lookup(key)
        assert entry is None or entry.value == n
    elif kind == 1:
        found = await storage.get_many(range(n, n + 20))
        assert all(value == asked for asked, value in found.items())
    elif kind == 2:
        await storage.set(n, n, ttl=60)
    elif kind == 3:
        await storage.remove(n)
    else:
        got = (await storage.lease([key], 10))[key]
        if isinstance(got, Lease):
            assert got.seen is None or got.seen.value == n
            await storage.commit({got: storage.new_entry(n, 60)})


@pytest.mark.fault
@pytest.mark.every_loop
async def test_ten_thousand_cancellations_under_load_cost_nobody_a_wrong_value(
    own_memcached: MemcachedServer,
) -> None:
    tasks_before = asyncio.all_tasks()
    pick = random.Random(2026)
    storage = MemcachedStorage(own_memcached.url, timeout=5, connect_timeout=5)
    cancelled = 0
    while cancelled < 10_000:
        tasks = [
            asyncio.ensure_future(one_of_everything(storage, pick.randrange(100), pick))
            for _ in range(200)
        ]
        for n, task in enumerate(pick.sample(tasks, 150)):
            if n % 10 == 0:  # all are done within some twenty ticks
                await asyncio.sleep(0)
            cancelled += task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
    for n in range(100):
        await storage.set(n, n)
    assert await storage.get_many(range(100)) == {n: n for n in range(100)}
    assert int(own_memcached.stats()["total_connections"]) < 50
    await storage.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks_before


async def test_a_lease_taken_for_a_cancelled_caller_is_given_back(memcached_url: str) -> None:
    async with MemcachedStorage(memcached_url) as storage:
        await storage.ping()
        for ticks in range(100):
            caller = asyncio.ensure_future(storage.lease([KEY], 10))
            for _ in range(ticks):
                await asyncio.sleep(0)
            caller.cancel()
            (got,) = await asyncio.gather(caller, return_exceptions=True)
            if isinstance(got, dict):  # it was done already
                assert ticks > 3
                break
            lease: list[Lease] = []

            async def take() -> None:
                got = (await storage.lease([KEY], 10))[KEY]
                if isinstance(got, Busy):
                    raise StorageError("not yet")
                lease.append(got)  # noqa: B023 - it is called in this round of the loop alone

            await again_and_again(take)
            await storage.release(lease)


async def test_a_loop_that_was_blocked_is_not_the_fault_of_the_server(memcached_url: str) -> None:
    async with MemcachedStorage(memcached_url, timeout=0.1) as storage:
        await storage.set("a", 1)
        asked = storage.lookup(KEY)
        await asyncio.sleep(0.001)
        block(0.3)
        assert (await asked) is not None
        leasing = asyncio.ensure_future(storage.lease([KEY], 10))
        await asyncio.sleep(0.0005)
        block(0.3)
        assert isinstance((await leasing)[KEY], Lease)


# --- loops and threads --------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_nothing_is_left_one_tick_after_aclose(own_memcached: MemcachedServer) -> None:
    storage = MemcachedStorage(own_memcached.url)
    await storage.ping()
    await storage.aclose()  # the first connection of a loop may open more for its own use
    tasks_before = asyncio.all_tasks()
    before = len(os.listdir("/proc/self/fd"))
    await storage.set("a", 1)
    running = [asyncio.ensure_future(storage.get("a")) for _ in range(10)]
    running += [asyncio.ensure_future(storage.set(n, n)) for n in range(10)]
    await asyncio.sleep(0)
    asked = storage.lookup(KEY)
    await storage.aclose()
    outcomes = await asyncio.gather(*running, asked, return_exceptions=True)
    assert all(
        not isinstance(one, BaseException) or isinstance(one, StorageError) for one in outcomes
    )
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks_before
    assert len(os.listdir("/proc/self/fd")) == before
    assert await storage.get("a") == 1
    await storage.aclose()


def test_two_loops_in_two_threads_use_one_storage(memcached_url: str) -> None:
    storage = MemcachedStorage(memcached_url)
    failures: list[str] = []

    async def work(name: str) -> None:
        for n in range(200):
            await storage.set((name, n), (name, n))
            found = await asyncio.gather(*[storage.lookup(as_key((name, m))) for m in range(n + 1)])
            assert all(one is not None for one in found)
            assert [one.value for one in found if one] == [(name, m) for m in range(n + 1)]
            if n == 100:
                await storage.aclose()

    def run(name: str) -> None:
        try:
            asyncio.run(patient(name))
        except BaseException:  # noqa: BLE001 - the test looks at it in its own thread
            failures.append(traceback.format_exc())

    async def patient(name: str) -> None:
        # Closing it in one thread ends what runs in the other one at that moment.
        while True:
            try:
                return await work(name)
            except StorageError as error:
                if "closed during the operation" not in str(error):
                    raise

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

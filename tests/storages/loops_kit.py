"""What the tests of one storage in several loops share: its use, and what a process has open."""

from __future__ import annotations

import asyncio
import os
import threading

from gecaso import EntryStorage
from gecaso.entry import Busy, Lease
from gecaso.keys import as_key

__all__ = ["KEY", "descriptors", "sockets", "use", "wrong_in_three_loops"]

KEY = as_key("a")


def descriptors() -> int:
    """Return how many files, sockets and pipes this process has open."""
    return len(os.listdir("/proc/self/fd"))


def sockets() -> int:
    """Return how many sockets those are: uvloop opens more at its first use, and keeps it."""
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(name) and "socket:" in os.readlink(name) for name in names)


async def use(storage: EntryStorage, value: object = 1, *, connections: int = 0) -> None:
    """Use every kind of connection; go on when there are so many, unless that is 0."""
    await storage.set("a", value)
    lease = await storage.lease([KEY], 10)
    busy = (await storage.lease([KEY], 10))[KEY]
    assert isinstance(busy, Busy)
    await storage.wait(busy, 0.05)
    async with asyncio.timeout(5):
        while connections and f"{connections} connections" not in repr(storage):
            await storage.wait(busy, 0.05)  # a busy machine: it does not listen yet
    await storage.release([got for got in lease.values() if isinstance(got, Lease)])
    assert await storage.get("a") == value


async def wrong_in_three_loops(storage: EntryStorage, rounds: int) -> list[object]:
    """Write and read in two loops in two threads and in this one; return what read another's."""
    wrong: list[object] = []

    async def work(name: str) -> None:
        for number in range(rounds):
            await storage.set((name, number % 7), (name, number), ttl=60)
            if await storage.get((name, number % 7)) != (name, number):
                wrong.append((name, number))

    threads = [threading.Thread(target=asyncio.run, args=(work(name),)) for name in "xy"]
    for thread in threads:
        thread.start()
    await work("z")
    for thread in threads:
        await asyncio.to_thread(thread.join)
    return wrong

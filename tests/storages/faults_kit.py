"""What the tests of storages in trouble share: patience, and callers that leave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from gecaso import EntryStorage
from gecaso.entry import Lease
from gecaso.errors import StorageError
from gecaso.keys import as_key

__all__ = ["cancel_many", "within"]

KEYS = [as_key(number) for number in range(50)]


async def within(seconds: float, attempt: Callable[[], Awaitable[object]]) -> None:
    """Repeat ``attempt`` until it does not raise StorageError."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                await attempt()
                return
            except StorageError:
                await asyncio.sleep(0.02)  # another process tells nobody when it listens again


async def cancel_many(storage: EntryStorage, times: int) -> None:
    """Cancel so many operations among others: none gets a wrong value, and none fails."""
    rng = random.Random(7)
    cancelled = 0
    while cancelled < times:
        tasks = [asyncio.create_task(_operate(storage, cancelled + n)) for n in range(200)]
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        for task in rng.sample(tasks, 180):
            if rng.random() < 0.02:
                await asyncio.sleep(0)
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, asyncio.CancelledError), repr(outcome)
                cancelled += 1
    await storage.set_many({number: number for number in range(50)}, ttl=60)
    found = await asyncio.gather(*(storage.get(number) for number in range(50)))
    assert found == list(range(50))


async def _operate(storage: EntryStorage, number: int) -> None:
    """Do one of all that a storage can do."""
    key = KEYS[number % 50]
    entry = storage.new_entry((key.typed, number), 60)
    match number % 5:
        case 0:
            await storage.store({key: entry})
        case 1:
            await storage.discard([key], keep_stale=number % 2 == 0)
        case 2:
            got = (await storage.lease([key], 0.05))[key]
            if isinstance(got, Lease):
                await storage.commit({got: entry})
            else:
                await storage.wait(got, 0.01)
        case 3:
            for asked, found in (await storage.fetch(KEYS[number % 40 :])).items():
                assert found.value[0] == asked.typed
        case _:
            seen = await storage.lookup(key)
            assert seen is None or seen.value[0] == key.typed

"""What the tests of leases share: two processes, and leases that must be there or not."""

from __future__ import annotations

import asyncio
from typing import Generic, NamedTuple, TypeVar

from gecaso import EntryStorage
from gecaso.entry import Busy, Lease
from gecaso.keys import Key, as_key

__all__ = ["KEY", "Two", "refused", "soon", "took"]

KEY = as_key("a")


S = TypeVar("S", bound=EntryStorage)


class Two(NamedTuple, Generic[S]):
    """Two processes, as far as the server can tell."""

    here: S
    there: S


async def took(storage: EntryStorage, key: Key = KEY, seconds: float = 10) -> Lease:
    lease = (await storage.lease((key,), seconds))[key]
    assert isinstance(lease, Lease)
    return lease


async def refused(storage: EntryStorage, key: Key = KEY, seconds: float = 10) -> Busy:
    busy = (await storage.lease((key,), seconds))[key]
    assert isinstance(busy, Busy)
    return busy


async def soon(storage: EntryStorage, key: Key = KEY) -> Lease:
    """Take a lease that must become free."""
    async with asyncio.timeout(10):
        while True:
            got = (await storage.lease((key,), 10))[key]
            if isinstance(got, Lease):
                return got
            await storage.wait(got, 0.05)

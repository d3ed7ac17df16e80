"""Caches without guards, as they are written first: what the entries of the catalogue catch.

Each has the face of `tests.scenes.Process`, as far as the entries use it. They are no straw men:
each is what a page on caching with Redis shows, or what somebody adds to that when he has been
bitten once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from tests.catalogue.stage import Stage
from tests.scenes import Truth

__all__ = [
    "Counting",
    "Joining",
    "Locking",
    "Naive",
    "Near",
    "Negative",
    "Old",
    "Publishing",
    "Server",
    "Silent",
    "Unowned",
    "naive",
]

Load = Callable[[int], Awaitable[str]]


class Server:
    """Where they keep values. Each operation is applied at once, and answered a step later."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.old: dict[Any, Any] = {}
        self.versions: Counter[Any] = Counter()
        self.holders: dict[Any, Any] = {}
        self.fails = False
        self.listeners: list[Callable[[int], Awaitable[None]]] = []

    async def get(self, key: Any) -> Any:
        await asyncio.sleep(0)
        found = self.values.get(key)
        await asyncio.sleep(0)
        return found

    async def set(self, key: Any, value: Any) -> None:
        await asyncio.sleep(0)
        self.values[key] = value
        if self.fails:
            raise ConnectionError("the reply was lost")
        await asyncio.sleep(0)

    async def delete(self, key: Any) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise ConnectionError("no connection")
        self.values.pop(key, None)
        await asyncio.sleep(0)


class Naive:
    """Look; load and store what is not there; delete what has changed."""

    def __init__(self, server: Server, load: Load) -> None:
        self.server = server
        self.load = load
        self.count = 0
        self.thing = self

    async def __call__(self, i: int) -> str:
        found = await self.server.get(i)
        if found is None:
            found = await self.load(i)
            await self.server.set(i, found)
        value: str = found
        return value

    async def put(self, value: str, i: int) -> None:
        await self.server.set(i, value)

    async def invalidate(self, i: int) -> None:
        await self.server.delete(i)

    async def clear(self) -> None:
        await asyncio.sleep(0)
        self.server.values.clear()

    def call(self, i: int = 1) -> asyncio.Task[str]:
        return asyncio.get_running_loop().create_task(self(i))

    async def joined(self, times: int) -> None:
        while self.count < times:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


class Joining(Naive):
    """Compares before it stores, so that nothing old is; and shares a load with whoever comes."""

    def __init__(self, server: Server, load: Load) -> None:
        super().__init__(server, load)
        self.loads: dict[int, asyncio.Task[str]] = {}

    async def __call__(self, i: int) -> str:
        found: str | None = await self.server.get(i)
        if found is not None:
            return found
        if i in self.loads:
            self.count += 1
        else:
            self.loads[i] = asyncio.get_running_loop().create_task(self._load(i))
            self.loads[i].add_done_callback(lambda _: self.loads.pop(i))
        return await self.loads[i]

    async def _load(self, i: int) -> str:
        before = self.server.versions[i]
        value = await self.load(i)
        if self.server.versions[i] == before:
            self.server.values[i] = value
        return value

    async def invalidate(self, i: int) -> None:
        self.server.versions[i] += 1
        await super().invalidate(i)


class Counting(Naive):
    """A counter beside each key, raised by each invalidation, and compared at the store."""

    async def __call__(self, i: int) -> str:
        found: str | None = await self.server.get(i)
        if found is None:
            before = self.server.versions[i]
            found = await self.load(i)
            if self.server.versions[i] == before:
                self.server.values[i] = found
        return found

    async def invalidate(self, i: int) -> None:
        await super().invalidate(i)
        self.server.versions[i] += 1


class Locking(Naive):
    """A lock, which never runs out, while it loads; who finds it locked gets the old value."""

    async def __call__(self, i: int) -> str:
        found: str | None = await self.server.get(i)
        if found is not None:
            return found
        if i in self.server.holders and i in self.server.old:
            self.count += 1
            old: str = self.server.old[i]
            return old
        self.server.holders[i] = self
        value = await self.load(i)
        self.server.values[i] = self.server.old[i] = value
        del self.server.holders[i]
        return value


class Unowned(Naive):
    """A lock while it loads that runs out; nobody asks at the store whether it is still his."""

    async def __call__(self, i: int) -> str:
        found: str | None = await self.server.get(i)
        while found is None and i in self.server.holders:
            await asyncio.sleep(0.01)
            found = await self.server.get(i)
        if found is None:
            self.server.holders[i] = self
            found = await self.load(i)
            await self.server.set(i, found)
            self.server.holders.pop(i, None)
        return found

    def expire(self, i: int) -> None:
        """The lock has run out."""
        self.server.holders.pop(i, None)


class Near(Naive):
    """Keeps what it has read in the process, too."""

    def __init__(self, server: Server, load: Load) -> None:
        super().__init__(server, load)
        self.near: dict[int, str] = {}

    async def __call__(self, i: int) -> str:
        if i not in self.near:
            self.near[i] = await super().__call__(i)
        return self.near[i]

    async def invalidate(self, i: int) -> None:
        await super().invalidate(i)
        self.near.pop(i, None)


class Publishing(Near):
    """Tells the others what to drop, which they fetch anew at once; and then deletes it."""

    def __init__(self, server: Server, load: Load) -> None:
        super().__init__(server, load)
        server.listeners.append(self._told)

    async def _told(self, i: int) -> None:
        self.near.pop(i, None)
        await self(i)

    async def invalidate(self, i: int) -> None:
        for told in self.server.listeners:
            await told(i)
        await super().invalidate(i)
        self.near.pop(i, None)


class Old(Naive):
    """Keeps the old value: to fall back on it, and to serve it while the new one is loaded."""

    def __init__(self, server: Server, load: Load) -> None:
        super().__init__(server, load)
        self.background: asyncio.Task[str] | None = None

    async def __call__(self, i: int) -> str:
        found: str | None = await self.server.get(i)
        if found is not None:
            return found
        old: str | None = self.server.old.get(i)
        try:
            return await self._load(i)
        except LookupError:
            if old is None:
                raise
            self.server.values[i] = old  # which is better than nothing, for a while
            return old

    async def _load(self, i: int) -> str:
        value = self.server.old[i] = self.server.values[i] = await self.load(i)
        return value

    async def behind(self, i: int) -> str:
        """Return the old value, and load the new one in the background."""
        self.background = asyncio.get_running_loop().create_task(self._load(i))
        old: str = self.server.old[i]
        return old

    def grow_old(self, i: int) -> None:
        """The time of the value is over."""
        self.server.values.pop(i, None)

    async def invalidate(self, i: int) -> None:
        self.server.old.pop(i, None)
        await super().invalidate(i)


class Negative(Naive):
    """Keeps that there is nothing, too; an insert, which changes nothing, deletes nothing."""

    async def __call__(self, i: int) -> str:
        if await self.server.get((i, "missing")):
            raise LookupError(i)
        try:
            return await super().__call__(i)
        except LookupError:
            await self.server.set((i, "missing"), True)
            raise


class Silent(Naive):
    """What goes wrong at the server is logged, since a cache must not break the site."""

    async def put(self, value: str, i: int) -> None:
        try:
            await super().put(value, i)
        except ConnectionError:
            pass  # it was not stored, was it?

    async def invalidate(self, i: int) -> None:
        try:
            await super().invalidate(i)
        except ConnectionError:
            pass


def naive(kind: type[Naive] = Naive) -> Stage:
    """Return two processes of that kind over one server."""
    truth, server = Truth(), Server()
    return Stage(truth, kind(server, truth.load), kind(server, truth.load))

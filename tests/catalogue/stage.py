"""Where the entries are played: two processes over one place, and a truth that changes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from gecaso import EntryStorage, MemoryStorage
from gecaso.storages import (
    MemcachedStorage,
    PostgresStorage,
    RedisStorage,
    SQLiteStorage,
)
from tests.scenes import Process, Truth

__all__ = ["KINDS", "NEW", "OLD", "SHARED", "Stage", "Venue", "key_of", "no_longer"]

SHARED = ("redis", "memcached", "sqlite", "postgres")
KINDS = ("memory", *SHARED)

OLD, NEW = "1 in version 0", "1 in version 1"

PATIENCE = 5.0  # seconds; a busy machine is no trouble


def key_of(i: int) -> str:
    """Return the key of a thing; functions that share a *template* on one storage are warned of."""
    return f"thing:{i}"


async def no_longer(value: str, thing: Any) -> None:
    """Wait until who asks is not given that value any more."""
    while await thing(1) == value:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


@dataclass
class Stage:
    """Two processes, of gecaso's or naive ones, and what they load."""

    truth: Truth
    a: Any
    b: Any

    async def left(self) -> set[str]:
        """Return what who asks now is given, in either process."""
        return {await self.a.thing(1), await self.b.thing(1)}


@dataclass
class Venue:
    """A kind of storage, the place where its values are, and the storages open there."""

    kind: str
    at: str = ""
    opened: list[EntryStorage] = field(default_factory=list[EntryStorage])

    def storage(self, **options: Any) -> EntryStorage:
        """Return the storage of one more process; in memory all share one object."""
        if self.kind == "memory" and self.opened:
            return self.opened[0]
        storage = self._make(options)
        self.opened.append(storage)
        return storage

    def _make(self, options: dict[str, Any]) -> EntryStorage:
        if self.kind == "memory":
            return MemoryStorage()
        options = {"namespace": "catalogue", "timeout": PATIENCE, **options}
        if self.kind == "sqlite":
            return SQLiteStorage(self.at, **options)
        options = {"connect_timeout": PATIENCE, **options}
        if self.kind == "postgres":
            return PostgresStorage(self.at, **options)
        if self.kind == "redis":
            return RedisStorage(self.at, **options)
        return MemcachedStorage(self.at, **options)

    def process(self, truth: Truth, storage: EntryStorage | None = None, **policy: Any) -> Process:
        return Process(self.storage() if storage is None else storage, truth, key=key_of, **policy)

    def stage(self, **policy: Any) -> Stage:
        truth = Truth()
        return Stage(truth, self.process(truth, **policy), self.process(truth, **policy))

    async def close(self) -> None:
        for storage in self.opened:
            await storage.aclose()

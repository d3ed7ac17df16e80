"""Exact LRU over any storage: a bound on the entries that one process keeps there."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Self

from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import StorageError
from gecaso.events import Hook
from gecaso.keys import Key, Owner
from gecaso.storage import BaseStorage, EntryStorage, LocalStorage, Partition, adapt

from ._recency import Recency, check_bound
from .memory import MemoryStorage

__all__ = ["LRUStorage"]

logger = logging.getLogger("gecaso")


class LRUStorage(EntryStorage):
    """Keeps the ``maxsize`` entries used last, in memory or in any ``storage``.

    The bound is on entries written or read through this object in this process. Over a storage of
    another kind, what is over the bound is evicted in the background, many at a time; other
    processes are not told, since nothing has become wrong.

    >>> import asyncio
    >>> async def main() -> list[str]:
    ...     storage = LRUStorage(maxsize=2)
    ...     for key in "a", "b", "a", "c":
    ...         await storage.set(key, key.upper())
    ...     return sorted(await storage.get_many("abc"))
    >>> asyncio.run(main())
    ['a', 'c']
    """

    maxsize: int | None

    def __new__(cls, storage: BaseStorage | None = None, maxsize: int = 128) -> Self:
        kind: Any = cls
        if cls is LRUStorage and storage is None:
            kind = _MemoryLRU
        elif cls is LRUStorage and isinstance(storage, LocalStorage):
            kind = _LocalLRU
        made: Self = object.__new__(kind)
        return made

    def __init__(self, storage: BaseStorage | None = None, maxsize: int = 128) -> None:
        self.maxsize = _bound(maxsize)
        self._inner = inner = adapt(MemoryStorage() if storage is None else storage)
        self.shared = inner.shared
        self.notifies = inner.notifies  # type: ignore[misc]  # of each object, here alone
        self.timeout = inner.timeout
        self.default_ttl = inner.default_ttl
        self._places: Recency[Key] = Recency(self.maxsize)
        self._victims: dict[Key, None] = {}
        self._lock = threading.Lock()
        self._tick = 0
        self._last_use: dict[Key, int] = {}
        self._evicting: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"<LRUStorage: {len(self)} of {self.maxsize} entries, over {self._inner!r}>"

    @property
    def takes(self) -> Callable[..., Any]:
        return self._inner.takes

    @property
    def guarded(self) -> EntryStorage:
        return self._inner.guarded

    def now(self) -> float:
        return self._inner.now()

    def learn(self, types: Iterable[type]) -> None:
        self._inner.learn(types)

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        keys = tuple(keys)
        before = self._tick
        found = await self._inner.fetch(keys)
        self._missed((key for key in keys if key not in found), before)
        self._used(found)
        return found

    async def _lookup(self, key: Key) -> Entry | None:
        before = self._tick
        entry = await self._inner.lookup(key)
        if entry is None:
            self._missed((key,), before)
        else:
            self._used((key,))
        return entry

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        leased = await self._inner.lease(keys, seconds)
        self._used(key for key, got in leased.items() if _shows(got))
        return leased

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        return await self._inner.renew(leases, seconds)

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        stored = await self._inner.commit(entries)
        self._used(stored)
        return stored

    async def release(self, leases: Iterable[Lease]) -> None:
        await self._inner.release(leases)

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        stored = await self._inner.store(entries, expect=expect)
        self._used(stored)
        return stored

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        keys = tuple(keys)
        await self._inner.discard(keys, keep_stale=keep_stale)
        if not keep_stale:
            self._gone(keys)

    async def evict(self, keys: Iterable[Key]) -> None:
        keys = tuple(keys)
        await self._inner.evict(keys)
        self._gone(keys)

    async def wait(self, busy: Busy, timeout: float) -> None:
        await self._inner.wait(busy, timeout)

    async def ping(self) -> None:
        await self._inner.ping()

    async def clear(self) -> None:
        await self._inner.clear()
        with self._lock:
            self._places.clear()
            self._last_use.clear()

    async def aclose(self) -> None:
        here = asyncio.get_running_loop()
        ours = [task for task in self._evicting if task.get_loop() is here]
        if ours:
            await asyncio.wait(ours)
        await self._inner.aclose()

    def _used(self, keys: Iterable[Key]) -> None:
        with self._lock:
            self._tick += 1
            for key in keys:
                self._places.use(key)
                self._last_use[key] = self._tick
                self._victims.pop(key, None)
            for victim in self._places.overflow():
                self._last_use.pop(victim, None)
                self._victims[victim] = None
            busy = any(_runs(task) for task in tuple(self._evicting))
        if self._victims and not busy:
            task = asyncio.get_running_loop().create_task(self._evict_victims())
            self._evicting.add(task)
            task.add_done_callback(self._evicting.discard)

    def _missed(self, keys: Iterable[Key], before: int) -> None:
        """Forget keys that were not there; not those stored since the question was asked."""
        self._gone(key for key in keys if self._last_use.get(key, 0) <= before)

    def _gone(self, keys: Iterable[Key]) -> None:
        with self._lock:
            for key in keys:
                self._places.discard(key)
                self._last_use.pop(key, None)

    async def _evict_victims(self) -> None:
        while victims := tuple(self._victims):
            try:
                await self._inner.evict(victims)
            except StorageError as error:
                # They stay victims, for the next time something is over the bound.
                logger.warning(
                    "%d entries over the bound could not be evicted: %s", len(victims), error
                )
                return
            for victim in victims:
                self._victims.pop(victim, None)


def _bound(maxsize: int) -> int:
    bound = check_bound(maxsize, "maxsize")
    if bound is None:
        raise TypeError("an LRUStorage needs a maxsize; without one use a MemoryStorage")
    return bound


class _InProcess(LocalStorage, LRUStorage):
    """Over what never waits: each write makes room at once, and nothing is left for later."""

    @property
    def takes(self) -> Callable[..., Any]:
        return self.set

    @property
    def guarded(self) -> EntryStorage:
        return self

    _lookup = EntryStorage._lookup
    ping = EntryStorage.ping
    aclose = EntryStorage.aclose


class _MemoryLRU(MemoryStorage, _InProcess):
    """In memory: a memory storage with a bound."""

    def __init__(self, storage: BaseStorage | None = None, maxsize: int = 128) -> None:
        MemoryStorage.__init__(self, maxsize=_bound(maxsize), policy="lru")

    def __repr__(self) -> str:
        return MemoryStorage.__repr__(self).replace("_MemoryLRU", "LRUStorage")


class _LocalLRU(_InProcess):
    """Over a storage of this process that is given."""

    def __init__(self, storage: BaseStorage | None = None, maxsize: int = 128) -> None:
        assert isinstance(storage, LocalStorage)
        LocalStorage.__init__(self, clock=storage.clock)
        self.maxsize = _bound(maxsize)
        self.leases = storage.leases
        self.departed = storage.departed
        self.default_ttl = storage.default_ttl
        self._local = storage
        self._uses: Recency[_Place] = Recency(self.maxsize)
        self._owners: dict[int, tuple[weakref.ref[Owner], set[Hashable]]] = {}

    def watch(self, owner: Owner, hook: Hook) -> None:
        self._local.watch(owner, hook)

    def __len__(self) -> int:
        return len(self._uses)

    def __repr__(self) -> str:
        return f"<LRUStorage: {len(self)} of {self.maxsize} entries, over {self._local!r}>"

    def learn(self, types: Iterable[type]) -> None:
        self._local.learn(types)

    def partition(self, owner: Owner) -> Partition:
        return Partition({})  # every hit is to be noted here, so none takes the shortest path

    def count_now(self, owner: Owner) -> int:
        return self._local.count_now(owner)

    def read(self, key: Key) -> Entry | None:
        entry = self._local.read(key)
        if entry is None:
            self._forget(key)
        else:
            self._use(key)
        return entry

    def write(self, key: Key, entry: Entry) -> None:
        self._local.write(key, entry)
        self._use(key)

    def erase(self, key: Key) -> None:
        self._forget(key)
        self._local.erase(key)

    def erase_all(self, owner: Owner | None) -> None:
        self._local.erase_all(owner)
        for number, typed in self._uses.things():
            held = self._owners[number][0]()
            if held is not None and (owner is None or held is owner):
                self._forget(Key(held, typed))

    def expire(self, key: Key) -> None:
        self._local.expire(key)

    # --- what is used, without keeping its owner alive ----------------------------------------

    def _use(self, key: Key) -> None:
        number = id(key.owner)
        if number not in self._owners:
            gone = functools.partial(_owner_gone, weakref.ref(self), number)
            self._owners[number] = (weakref.ref(key.owner, gone), set())
        self._owners[number][1].add(key.typed)
        self._uses.use((number, key.typed))
        for other, typed in self._uses.overflow():
            owner = self._owners[other][0]()
            self._leave(other, typed)
            if owner is not None:
                self._local.erase(Key(owner, typed))

    def _forget(self, key: Key) -> None:
        self._uses.discard((id(key.owner), key.typed))
        self._leave(id(key.owner), key.typed)

    def _leave(self, number: int, typed: Hashable) -> None:
        if (held := self._owners.get(number)) is not None:
            held[1].discard(typed)
            if not held[1]:
                del self._owners[number]

    def _drop_owner(self, number: int) -> None:
        with self.leases.lock:
            held = self._owners.pop(number, None)
            for typed in () if held is None else held[1]:
                self._uses.discard((number, typed))


_Place = tuple[int, Hashable]


def _owner_gone(storage: weakref.ref[_LocalLRU], number: int, _: object) -> None:
    if (held := storage()) is not None:
        held._drop_owner(number)  # pyright: ignore[reportPrivateUsage] - it is a part of the storage


def _runs(task: asyncio.Task[None]) -> bool:
    return not task.done() and not task.get_loop().is_closed()


def _shows(got: Lease | Busy) -> bool:
    return (got.seen if isinstance(got, Lease) else got.stale) is not None

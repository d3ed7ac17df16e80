"""From a user's three methods to an entry storage."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from gecaso.base import LOCKS, BaseStorage, EntryStorage
from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import ConfigurationError, StorageError, StorageTimeout, Unsupported
from gecaso.keys import Key
from gecaso.leases import LeaseTable
from gecaso.weak import WeakTable

if TYPE_CHECKING:
    from gecaso.packing import Packer

__all__ = ["AdaptedStorage", "adapter_of"]

T = TypeVar("T")


class AdaptedStorage(EntryStorage):
    """A three-method storage, fenced within this process; knows no times of entries.

    Leases live in a table of this process. A write in progress holds its lease until it is done,
    and an invalidation waits for that: what it removes cannot come after it. Every exception of
    the three methods but `KeyError` counts as trouble of the storage.
    """

    shared = True
    notifies = True
    keeps_times = False
    timeout = 2.0

    def __init__(self, base: BaseStorage) -> None:
        self.base = base
        self._leases = LeaseTable(time.monotonic)
        self._marks: dict[Key, float] = {}
        self._running: set[asyncio.Future[Any]] = set()
        self._packer = _packer()

    def __repr__(self) -> str:
        return f"<adapted {self.base!r}>"

    @property
    def takes(self) -> Callable[..., Any]:
        return self.base.set

    def now(self) -> float:
        return time.monotonic()

    def learn(self, types: Iterable[type]) -> None:
        self._packer = self._packer.also(types)

    # --- what the base is asked ---------------------------------------------------------------

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        found: dict[Key, Entry] = {}
        for key in keys:
            entry = self._mark_of(key) or await self._get(key)
            if entry is not None:
                found[key] = entry
        return found

    async def _get(self, key: Key) -> Entry | None:
        try:
            value = await self._run(lambda: self.base.get(str(key)))
        except KeyError:
            return None
        return Entry(value, time.monotonic())

    async def _set(self, lease: Lease, entry: Entry) -> None:
        key = lease.key
        params = dict(entry.params)
        if entry.fresh_until != inf:
            params["ttl"] = entry.fresh_until - entry.created
        try:
            await self._run(lambda: self.base.set(str(key), entry.value, **params), lease)
        except KeyError as error:  # which means a miss in `get` alone
            raise StorageError(f"{self.base!r} failed: {error!r}") from error

    async def _run(self, operation: Callable[[], Awaitable[T]], lease: Lease | None = None) -> T:
        from gecaso.packing import using  # see _packer

        with using(self._packer):
            task = asyncio.ensure_future(_await(operation))
        self._running.add(task)
        task.add_done_callback(functools.partial(self._ended, lease))
        # In a task of its own, to its end: a caller that leaves must not break it off half way.
        try:
            async with asyncio.timeout(self.timeout):
                return await asyncio.shield(task)
        except KeyError:
            raise
        except asyncio.CancelledError as error:
            # A loop that ends cancels both; then it is the caller's that counts.
            if not task.cancelled() or _is_cancelled_here():
                raise
            raise StorageError(f"{self.base!r} cancelled its own operation") from error
        except TimeoutError as error:
            if not task.done():
                task.cancel()
            raise StorageTimeout(f"{self.base!r} did not answer within {self.timeout} s") from error
        except (StorageError, Unsupported):
            raise
        except Exception as error:
            raise StorageError(f"{self.base!r} failed: {error!r}") from error

    def _ended(self, lease: Lease | None, task: asyncio.Future[Any]) -> None:
        # Whoever waited may have left: the lease ends with the write itself.
        self._running.discard(task)
        if lease is not None:
            self._leases.give_back(lease)
        if not task.cancelled():
            task.exception()

    # --- leases -------------------------------------------------------------------------------

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        result: dict[Key, Lease | Busy] = {}
        for key in keys:
            got = result[key] = self._leases.take(key, seconds)
            if isinstance(got, Lease):
                try:
                    got.seen = (await self.fetch((key,))).get(key)
                except BaseException:
                    self._leases.give_back(got)
                    raise
        return result

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        return {lease.key for lease in leases if self._leases.renew(lease, seconds)}

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        stored: set[Key] = set()
        for lease, entry in entries.items():
            if entry.kind != "value":
                if self._leases.begin_commit(lease):
                    await self._mark(lease, entry)
                    stored.add(lease.key)
            elif self._leases.begin_commit(lease):
                await self._set(lease, entry)
                stored.add(lease.key)
        return stored

    async def release(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            if not self._leases.is_writing(lease):  # whose write ends it
                self._leases.give_back(lease)

    async def wait(self, busy: Busy, timeout: float) -> None:
        await self._leases.wait(busy, timeout)

    # --- writes -------------------------------------------------------------------------------

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        if expect is not None:
            raise ConfigurationError(f"{self.base!r} knows no versions, so it cannot compare them")
        for key, entry in entries.items():
            lease = await self._seize(key)
            self._marks.pop(key, None)  # after the wait, in which one may have been set
            await self._set(lease, entry)
        return set(entries)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        for key in keys:
            lease = await self._seize(key)
            self._marks.pop(key, None)
            await self._remove(key, lease)

    async def evict(self, keys: Iterable[Key]) -> None:
        keys = tuple(keys)
        try:
            await self._run(lambda: self.base.remove(*map(str, keys)))
        except KeyError:  # one was not there, and the others may not have been reached
            for key in keys:
                await self._remove(key)

    async def clear(self) -> None:
        for key in self._leases.outstanding():
            if key.owner is not LOCKS:
                self._leases.give_back(await self._seize(key))
        self._marks.clear()
        await self._run(self.base.clear)

    async def _remove(self, key: Key, lease: Lease | None = None) -> None:
        with contextlib.suppress(KeyError):  # it was not there
            await self._run(lambda: self.base.remove(str(key)), lease)

    async def _seize(self, key: Key) -> Lease:
        """Take the lease of ``key`` for a write, once no other write of it is under way."""
        give_up = time.monotonic() + self.timeout
        while isinstance(got := self._leases.seize(key), Busy):
            left = give_up - time.monotonic()
            if left <= 0:
                raise StorageTimeout(f"{self.base!r}: an earlier write of {key} has not ended")
            await self._leases.wait(got, left)
        return got

    # --- marks of values that are not stored --------------------------------------------------

    async def _mark(self, lease: Lease, entry: Entry) -> None:
        """Note that a value is not stored; an older one that is stored goes."""
        self._set_mark(lease.key, entry)
        if lease.seen is not None and lease.seen.kind == "value":
            await self._remove(lease.key, lease)
        else:
            self._leases.give_back(lease)

    def _set_mark(self, key: Key, entry: Entry) -> None:
        now = time.monotonic()
        for other, until in list(self._marks.items()):
            if until <= now:
                del self._marks[other]
        self._marks[key] = entry.dead_after

    def _mark_of(self, key: Key) -> Entry | None:
        until = self._marks.get(key) if self._marks else None
        if until is None or until <= time.monotonic():
            return None
        return Entry(None, until, -inf, until, kind="uncacheable")


def _packer() -> Packer:
    from gecaso.packing import Packer  # much to import, and few storages are adapted

    return Packer()


def _is_cancelled_here() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _await(operation: Callable[[], Awaitable[T]]) -> T:
    return await operation()


class _Place:
    """Where the adapter of one storage is found, as long as anybody uses it."""

    adapter: weakref.ref[AdaptedStorage] | None = None


# The adapter holds the storage, so that the table must hold neither.
_places: WeakTable[BaseStorage, _Place] = WeakTable()


def adapter_of(storage: BaseStorage) -> AdaptedStorage:
    """Return the one adapter of a storage; `gecaso.storage.adapt` says when there is none."""
    place = _places.get(storage, _Place)
    adapted = None if place.adapter is None else place.adapter()
    if adapted is None:
        adapted = AdaptedStorage(storage)
        place.adapter = weakref.ref(adapted)
    return adapted

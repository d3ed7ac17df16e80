"""The contract of storages that live in this process: everything without waiting."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping

from gecaso.base import LOCKS, EntryStorage
from gecaso.entry import Busy, Entry, Lease
from gecaso.keys import Key, Owner
from gecaso.leases import LeaseTable

__all__ = ["LocalStorage", "Partition"]


class Partition:
    """One function's entries in this process: what the path of a hit reads, without a lock.

    ``on_hit(entry)``, if there is one, is called for each hit and must stand an entry that has
    just left.
    """

    __slots__ = ("entries", "on_hit")

    def __init__(
        self,
        entries: dict[Hashable, Entry],
        on_hit: Callable[[Entry], object] | None = None,
    ) -> None:
        self.entries = entries
        self.on_hit = on_hit


class LocalStorage(EntryStorage):
    """A storage in this process: all of it without waiting, from any thread.

    A subclass says how one entry is read, written and erased; these are called with the lock of
    the leases held. ``clock()`` gives seconds that never go back.
    """

    shared = False
    notifies = True

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.leases = LeaseTable(clock)

    @abstractmethod
    def partition(self, owner: Owner) -> Partition:
        """Return the entries of one owner of keys."""

    @abstractmethod
    def read(self, key: Key) -> Entry | None: ...

    @abstractmethod
    def write(self, key: Key, entry: Entry) -> None: ...

    @abstractmethod
    def erase(self, key: Key) -> None: ...

    @abstractmethod
    def erase_all(self, owner: Owner | None) -> None: ...

    def now(self) -> float:
        return self.clock()

    def count_now(self, owner: Owner) -> int:
        """Return the number of entries of an owner."""
        return len(self.partition(owner).entries)

    def keys_now(self, owner: Owner) -> list[Key]:
        """Return the keys of an owner whose entries are not dead."""
        now = self.clock()
        entries = list(self.partition(owner).entries.items())
        return [Key(owner, typed) for typed, entry in entries if now < entry.dead_after]

    def fetch_now(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        now = self.clock()
        with self.leases.lock:
            found = {key: self.read(key) for key in keys}
        return {
            key: entry
            for key, entry in found.items()
            if entry is not None and now < entry.dead_after
        }

    def fetch_one(self, key: Key) -> Entry | None:
        with self.leases.lock:
            entry = self.read(key)
        return entry if entry is not None and self.clock() < entry.dead_after else None

    def lease_now(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        with self.leases.lock:
            return {key: self.lease_one(key, seconds) for key in keys}

    def lease_one(self, key: Key, seconds: float) -> Lease | Busy:
        with self.leases.lock:
            got = self.leases.take(key, seconds)
            entry = self.read(key)
            if entry is not None and self.clock() < entry.dead_after:
                if isinstance(got, Lease):
                    got.seen = entry
                else:
                    got.stale = entry
            return got

    def renew_now(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        return {lease.key for lease in leases if self.leases.renew(lease, seconds)}

    def commit_now(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        with self.leases.lock:
            return {lease.key for lease, entry in entries.items() if self.commit_one(lease, entry)}

    def commit_one(self, lease: Lease, entry: Entry) -> bool:
        with self.leases.lock:
            if not self.leases.owns(lease):
                return False
            self.write(lease.key, entry)
            self.leases.give_back(lease)
            return True

    def release_now(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            self.leases.give_back(lease)

    def store_now(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        stored: set[Key] = set()
        with self.leases.lock:
            for key, entry in entries.items():
                if expect is not None and self._version(key) != expect.get(key):
                    continue
                self.leases.kill(key)
                self.write(key, entry)
                stored.add(key)
        return stored

    def _version(self, key: Key) -> bytes | None:
        entry = self.fetch_now((key,)).get(key)
        return None if entry is None else entry.version

    def discard_now(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        with self.leases.lock:
            for key in keys:
                self.leases.kill(key)
                if keep_stale:
                    self.expire(key)
                else:
                    self.erase(key)

    def expire(self, key: Key) -> None:
        entry = self.read(key)
        if entry is not None:
            entry.expire(self.clock())

    def evict_now(self, keys: Iterable[Key]) -> None:
        with self.leases.lock:
            for key in keys:
                self.erase(key)

    def clear_now(self, owner: Owner | None = None) -> None:
        """Invalidate every key of an owner; without one, every key."""
        with self.leases.lock:
            self.leases.kill_all(
                key
                for key in self.leases.outstanding()
                if key.owner is owner or (owner is None and key.owner is not LOCKS)
            )
            self.erase_all(owner)

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        return self.fetch_now(keys)

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        return self.lease_now(keys, seconds)

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        return self.renew_now(leases, seconds)

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        return self.commit_now(entries)

    async def release(self, leases: Iterable[Lease]) -> None:
        self.release_now(leases)

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        return self.store_now(entries, expect=expect)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        self.discard_now(keys, keep_stale=keep_stale)

    async def evict(self, keys: Iterable[Key]) -> None:
        self.evict_now(keys)

    async def clear(self) -> None:
        self.clear_now()

    async def wait(self, busy: Busy, timeout: float) -> None:
        await self.leases.wait(busy, timeout)

    def wait_blocking(self, busy: Busy, timeout: float) -> None:
        """Wait, in a thread, until that lease is gone, at most ``timeout`` seconds."""
        self.leases.wait_blocking(busy, timeout)

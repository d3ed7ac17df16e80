"""The contract of storages that live in this process: everything without waiting."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from gecaso import events
from gecaso.base import LOCKS, EntryStorage
from gecaso.entry import Busy, Entry, Lease
from gecaso.keys import Key, Owner
from gecaso.leases import LeaseTable

__all__ = ["LocalStorage", "Partition"]

T = TypeVar("T")


class Partition:
    """One function's entries in this process: what the path of a hit reads, without a lock.

    A hit sets ``entry.hot``. ``on_hit(entry)``, if there is one, is called as well, and must stand
    an entry that has just left. ``is_whole`` says that what is not in ``entries`` is not stored.
    """

    __slots__ = ("entries", "is_whole", "on_hit")

    def __init__(
        self,
        entries: dict[Hashable, Entry],
        on_hit: Callable[[Entry], object] | None = None,
        *,
        is_whole: bool = False,
    ) -> None:
        self.entries = entries
        self.on_hit = on_hit
        self.is_whole = is_whole


class LocalStorage(EntryStorage):
    """A storage in this process: all of it without waiting, from any thread.

    A subclass says how one entry is read, written and erased; these are called with the lock of
    the leases held. ``clock()`` gives seconds that never go back. What it puts into ``departed``
    meanwhile is told to the hooks when the lock is free again.
    """

    shared = False
    notifies = True
    tells: ClassVar[bool] = False
    """Whether it tells its recorder what it stores; otherwise functions tell of every hit."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.leases = LeaseTable(clock)
        self.hits = self.misses = 0
        """Of the lookups that came here; functions find most of what they want by themselves."""
        self.users: WeakSet[Any] = WeakSet()
        """The functions that do."""
        self.departed: deque[events.Event] = deque()
        self.watchers: WeakKeyDictionary[Owner, events.Hook] = WeakKeyDictionary()
        """Who is told what departs of an owner's entries, beside the hooks."""

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

    def missed(self) -> None:
        """Count a miss that a function has found by itself."""
        self.misses += 1  # a count; nothing depends on it

    def used_by(self, user: object) -> None:
        """Take note of a function that finds entries here by itself, and counts its hits."""
        with self.leases.lock:
            self.users.add(user)

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
        found: dict[Key, Entry] = {}
        with self.leases.lock:
            for key in keys:
                entry = self.read(key)
                if entry is not None and now < entry.dead_after:
                    found[key] = entry
                    self.hits += 1
                else:
                    self.misses += 1
        return found

    def fetch_one(self, key: Key) -> Entry | None:
        with self.leases.lock:
            entry = self.read(key)
            if entry is not None and self.clock() < entry.dead_after:
                self.hits += 1
                return entry
            self.misses += 1
            return None

    def lease_now(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        with self.leases.lock:
            return {key: self.lease_one(key, seconds) for key in keys}

    def lease_one(self, key: Key, seconds: float) -> Lease | Busy:
        with self.leases.lock:
            got = self.leases.taken(key, seconds)
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
            stored = {lease.key for lease, entry in entries.items() if self._commit(lease, entry)}
        self.tell()
        return stored

    def commit_one(self, lease: Lease, entry: Entry) -> bool:
        with self.leases.lock:
            is_stored = self._commit(lease, entry)
        if self.departed:
            self.tell()
        return is_stored

    def _commit(self, lease: Lease, entry: Entry) -> bool:
        if not self.leases.owns(lease):
            return False
        self.write(lease.key, entry)
        self.leases.given_back(lease)
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
        self.tell()
        return stored

    def _version(self, key: Key) -> bytes | None:
        entry = self.read(key)
        if entry is None or self.clock() >= entry.dead_after:
            return None
        return entry.version

    def discard_now(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        with self.leases.lock:
            for key in keys:
                self.leases.kill(key)
                if keep_stale:
                    self.expire(key)
                else:
                    self.erase(key)
        self.tell()

    def expire(self, key: Key) -> None:
        entry = self.read(key)
        if entry is not None:
            entry.expire(self.clock())

    def evict_now(self, keys: Iterable[Key]) -> None:
        with self.leases.lock:
            for key in keys:
                self.erase(key)
        self.tell()

    def clear_now(self, owner: Owner | None = None) -> None:
        """Invalidate every key of an owner; without one, every key."""
        with self.leases.lock:
            self.leases.kill_all(
                key
                for key in self.leases.outstanding()
                if key.owner is owner or (owner is None and key.owner is not LOCKS)
            )
            self.erase_all(owner)
        self.tell()

    def tell(self) -> None:
        """Tell the hooks what departed; without the lock, since a hook may use the storage."""
        while self.departed:
            try:
                event = self.departed.popleft()
            except IndexError:  # another thread told it
                return
            events.emit(event)
            watcher = self.watchers.get(event.key.owner)
            if watcher is not None:
                events.tell(watcher, event)

    def watch(self, owner: Owner, hook: events.Hook) -> None:
        """Tell ``hook`` of each entry of an owner that leaves: `gecaso.events.Evicted`."""
        self.watchers[owner] = hook

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

    def _told(self, operation: str, work: Awaitable[T], key: Key | None = None) -> Awaitable[T]:
        return work  # in this process there is no trouble

    async def clear(self) -> None:
        self.clear_now()

    async def wait(self, busy: Busy, timeout: float) -> None:
        await self.leases.wait(busy, timeout)

    def wait_blocking(self, busy: Busy, timeout: float) -> None:
        """Wait, in a thread, until that lease is gone, at most ``timeout`` seconds."""
        self.leases.wait_blocking(busy, timeout)

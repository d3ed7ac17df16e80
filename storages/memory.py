"""A storage in the memory of this process."""

from __future__ import annotations

import asyncio
import functools
import os
import time
import weakref
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, Any

from gecaso import events
from gecaso.entry import SEEN, Entry
from gecaso.keys import Key, Owner
from gecaso.storage import LocalStorage, Partition

from ._expiry import ExpiryQueue
from ._place import Place, Shelf
from ._room import Room

if TYPE_CHECKING:
    from gecaso.event_kinds import Reason
    from gecaso.packing import Packer

    from ._eviction import EvictionPolicy
    from ._info import StorageInfo

__all__ = ["MemoryStorage"]

DUE_AT_ONCE = 64
"""How many dead entries one write may take out: keeps the write short."""
SHORTEST_TIMER = 0.05  # seconds


class MemoryStorage(LocalStorage):
    """Keeps values in this process, by reference, until they are dead.

    ``maxsize`` bounds the number of entries, ``maxbytes`` what the values weigh, in bytes, by
    ``weigh(value)`` or an estimate; values that weigh more are refused with `ValueTooLarge`. With a
    bound, ``policy`` chooses who leaves: ``"tinylfu"`` (the default: those asked for least, of
    late), ``"lru"`` (exactly the one used longest ago), or an `EvictionPolicy`. ``isolate=True``
    keeps packed copies: every hit returns a new object, so that no caller can change what another
    gets. Dead entries leave by themselves. Safe to use from any thread and loop.

    >>> import asyncio
    >>> async def main() -> int:
    ...     storage = MemoryStorage(maxsize=1000)
    ...     await storage.set("answer", 42, ttl=60)
    ...     return await storage.get("answer")
    >>> asyncio.run(main())
    42
    """

    tells = True

    def __init__(
        self,
        maxsize: int | None = None,
        maxbytes: int | None = None,
        *,
        weigh: Callable[[Any], int] | None = None,
        policy: str | EvictionPolicy = "tinylfu",
        isolate: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock=clock)
        self.maxsize = maxsize
        self.maxbytes = maxbytes
        self._room = Room(maxsize, maxbytes, weigh, policy)
        self._on_hit = self._make_on_hit()
        self._expiry = ExpiryQueue()
        self._packer = _packer() if isolate else None
        self._timer: tuple[AbstractEventLoop, float, TimerHandle] | None = None
        self._seed = os.urandom(16)
        self._shelves: dict[int, Shelf] = {}
        self._owner_gone = functools.partial(_owner_gone, weakref.ref(self))
        self._orphans: deque[Shelf] = deque()
        self._busy = 0

    def __len__(self) -> int:
        return self._room.count

    def __repr__(self) -> str:
        bound = f" of {self.maxsize}" if self.maxsize else ""
        return f"<{type(self).__name__}: {len(self)}{bound} entries, {len(self.leases)} leases>"

    def info(self) -> StorageInfo:
        """Return what is in it, how often it was found, and who left why.

        >>> MemoryStorage(maxsize=10).info().entries
        0
        """
        from ._info import StorageInfo  # most programs never ask

        with self.leases.lock:
            room, policy = self._room, self._room.policy
            name = getattr(policy, "name", type(policy).__name__)
            return StorageInfo(
                entries=room.count,
                weight=room.weight,
                maxsize=room.maxsize,
                maxbytes=room.maxbytes,
                policy=None if policy is None else name,
                window=getattr(policy, "share", None),
                hits=self.hits + sum(user.compiled.hits(False) for user in self.users),
                misses=self.misses,
                evictions=dict(room.evictions),
            )

    def learn(self, types: Iterable[type]) -> None:
        if self._packer is not None:
            self._packer = self._packer.also(types)

    def partition(self, owner: Owner) -> Partition:
        with self.leases.lock:
            shelf = self._shelf(owner)
            shelf.is_bound = True
        if self._packer is not None:  # a hit must unpack, so none is served on the shortest path
            return Partition({})
        return Partition(shelf.entries, self._on_hit, is_whole=True)

    # --- LocalStorage: called with the lock held ----------------------------------------------

    def read(self, key: Key) -> Entry | None:
        entry = self._entry(key)
        if entry is None:
            return None
        entry.hot = entry.hot or SEEN  # whoever reads notes the request itself
        if self._on_hit is not None:
            self._on_hit(entry)
        if self._packer is not None and entry.kind == "value":
            return entry.with_value(self._packer.unpack(entry.value)[0])
        return entry

    def write(self, key: Key, entry: Entry) -> None:
        if self._packer is not None and entry.kind == "value":
            entry = entry.with_value(self._packer.pack(entry.value))
        if entry.home is not None:  # it is in a storage already, perhaps in another one
            entry = entry.with_value(entry.value)
        weight = self._room.weight_of(entry)
        self._busy += 1  # with this entry; see `_bury`
        try:
            self._put(key, entry, weight)
        finally:
            self._busy -= 1
        if self._orphans:
            self._bury()

    def erase(self, key: Key) -> None:
        entry = self._entry(key)
        if entry is not None:
            self._take_out((entry.home,), "removed")
        shelf = self._shelves.get(id(key.owner))
        if shelf is not None and not shelf.entries and not shelf.is_bound:
            self._shelves.pop(id(key.owner), None)

    def erase_all(self, owner: Owner | None) -> None:
        shelves = list(self._shelves.values()) if owner is None else [self._shelf(owner)]
        for shelf in shelves:
            self._take_out([entry.home for entry in shelf.entries.values()], "cleared")

    def expire(self, key: Key) -> None:
        entry = self._entry(key)
        if entry is not None:
            entry.expire(self.clock())

    def keys_now(self, owner: Owner) -> list[Key]:
        now = self.clock()
        return [
            Key(owner, typed)
            for typed, entry in list(self._entries(owner).items())
            if now < entry.dead_after
        ]

    def count_now(self, owner: Owner) -> int:
        return len(self._entries(owner))

    # --- entries come and go ------------------------------------------------------------------

    def _put(self, key: Key, entry: Entry, weight: int) -> None:
        now, room = self.clock(), self._room
        self._take_out_dead(now, DUE_AT_ONCE)
        shelf = self._shelf(key.owner)
        replaced = shelf.entries.get(key.typed)
        if replaced is not None:
            self._take_out_one(replaced.home, "replaced")
        place = entry.home = Place(entry, shelf, key.typed, weight)
        if room.policy is not None:
            place.hash = shelf.hash(key)
            room.policy.insert(place)
            while room.lacks(weight):  # room first: other threads may look at any time
                if self._take_out_dead(now, DUE_AT_ONCE):
                    continue
                victim = room.victim()
                if victim is place:  # the policy does not want it
                    place.entry = None
                    return
                self._take_out_one(victim, "size")
        shelf.entries[key.typed] = entry
        room.count += 1
        room.weight += weight
        if entry.dead_after != inf:
            self._expiry.add(place, entry.dead_after, room.count)
        if self.recorder is not None:
            self.recorder.stored(key, entry, room.estimate)
        self._set_timer(now)

    def _take_out_dead(self, now: float, most: int) -> bool:
        """Take out some of the dead; return whether there were any."""
        if self._expiry.next() > now:
            return False
        self._take_out(self._expiry.due(now, most), "expired")
        return True

    def _take_out(self, places: Iterable[Place], reason: Reason) -> None:
        self._busy += 1
        try:
            for place in places:
                self._take_out_one(place, reason)
        finally:
            self._busy -= 1
        if self._orphans:
            self._bury()

    def _take_out_one(self, place: Place, reason: Reason) -> None:
        entry, room = place.entry, self._room
        if entry is None:
            return
        del place.shelf.entries[place.typed]
        room.count -= 1
        room.weight -= place.weight
        if room.policy is not None and reason != "size":  # whom the policy knows of
            room.policy.remove(place)
        place.entry = None
        if entry.kind == "uncacheable":  # a mark; nobody would miss it
            return
        room.evictions[reason] += 1
        if not (events.hooks or self.watchers):
            return
        key = place.key
        if key is not None and (events.hooks or key.owner in self.watchers):
            self.departed.append(
                events.Evicted(
                    storage=self,
                    key=key,
                    reason=reason,
                    value=self._unpacked(entry).value,
                    weight=place.weight,
                )
            )

    def _unpacked(self, entry: Entry) -> Entry:
        if self._packer is None or entry.kind != "value":
            return entry
        return entry.with_value(self._packer.unpack(entry.value)[0])

    def _make_on_hit(self) -> Callable[[Entry], object] | None:
        """Return whom to tell of a hit, beside the flag: most policies need nobody."""
        policy: Any = self._room.policy
        if not hasattr(policy, "touch"):
            return getattr(policy, "on_hit", None)
        lock = self.leases

        def on_hit(entry: Entry) -> None:
            with lock.lock:
                place = entry.home
                if place.entry is entry:  # else it has just left
                    policy.touch(place)

        return on_hit

    # --- shelves ------------------------------------------------------------------------------

    def _entry(self, key: Key) -> Entry | None:
        shelf = self._shelves.get(id(key.owner))
        return None if shelf is None else shelf.entries.get(key.typed)

    def _entries(self, owner: Owner) -> dict[Hashable, Entry]:
        shelf = self._shelves.get(id(owner))
        return {} if shelf is None else shelf.entries

    def _shelf(self, owner: Owner) -> Shelf:
        shelf = self._shelves.get(id(owner))
        if shelf is None:
            shelf = self._shelves[id(owner)] = Shelf(owner, self._seed, self._owner_gone)
        return shelf

    def _bury(self) -> None:
        """Take out what belonged to owners that are gone."""
        with self.leases.lock:
            # The garbage collector may call at any time; what is under way comes back for it.
            while self._orphans and not self._busy:
                shelf = self._orphans.popleft()
                if self._shelves.get(shelf.number) is shelf:
                    del self._shelves[shelf.number]
                self._take_out([entry.home for entry in shelf.entries.values()], "removed")

    # --- the dead -----------------------------------------------------------------------------

    def _set_timer(self, now: float) -> None:
        """Have the loop of this thread, if one runs, sweep when the next entry dies."""
        due = self._expiry.next()
        if due == inf or (self._timer is not None and self._rings_for(due)):
            return
        loop = asyncio._get_running_loop()
        if loop is None:
            return
        if self._timer is not None and self._timer[0] is loop:
            self._timer[2].cancel()
        # An empty context: that of the caller would keep alive what it refers to.
        pause = max(due - now, SHORTEST_TIMER)
        me: weakref.ref[MemoryStorage] = weakref.ref(self)
        self._timer = (loop, due, loop.call_later(pause, _timer_sweep, me, due, context=Context()))

    def _rings_for(self, due: float) -> bool:
        assert self._timer is not None
        loop, rings, _ = self._timer
        return rings <= due + SHORTEST_TIMER and not loop.is_closed()

    def _on_timer(self, due: float) -> None:
        with self.leases.lock:
            if self._timer is not None and self._timer[1] == due:
                self._timer = None
            now = self.clock()
            self._take_out_dead(now, 1000)
            self._set_timer(now)
        self.tell()


def _owner_gone(storage: weakref.ref[MemoryStorage], shelf: Shelf) -> None:
    held = storage()
    if held is not None:
        held._orphans.append(shelf)  # pyright: ignore[reportPrivateUsage] - a shelf is a part of the storage
        held._bury()  # pyright: ignore[reportPrivateUsage] - likewise


def _packer() -> Packer:
    from gecaso.packing import Packer  # much to import, and few storages isolate

    return Packer()


def _timer_sweep(storage: weakref.ref[MemoryStorage], due: float) -> None:
    held = storage()
    if held is not None:
        held._on_timer(due)  # pyright: ignore[reportPrivateUsage] - the timer is a part of the storage

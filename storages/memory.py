"""A storage in the memory of this process."""

from __future__ import annotations

import asyncio
import time
import weakref
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Iterable
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, Any

from gecaso.entry import Entry
from gecaso.errors import ValueTooLarge
from gecaso.keys import Key, Owner
from gecaso.storage import LocalStorage, Partition

from ._expiry import ExpiryQueue
from ._recency import Recency, check_bound
from ._weight import weigh

if TYPE_CHECKING:
    from gecaso.packing import Packer

__all__ = ["MemoryStorage"]

DUE_AT_ONCE = 64
"""How many dead entries one write may take out: keeps the write short."""
SHORTEST_TIMER = 0.05  # seconds


class MemoryStorage(LocalStorage):
    """Keeps values in this process, by reference, until they are dead.

    ``maxsize`` bounds the number of entries, ``maxbytes`` their estimated size in bytes; with a
    bound, the entry used longest ago leaves first. ``isolate=True`` keeps packed copies: every
    hit returns a new object, so that no caller can change what another gets. Dead entries leave
    by themselves. Safe to use from any thread and loop.

    >>> import asyncio
    >>> async def main() -> int:
    ...     storage = MemoryStorage(maxsize=1000)
    ...     await storage.set("answer", 42, ttl=60)
    ...     return await storage.get("answer")
    >>> asyncio.run(main())
    42
    """

    def __init__(
        self,
        maxsize: int | None = None,
        maxbytes: int | None = None,
        isolate: bool = False,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock=clock)
        self._shelves: dict[int, _Shelf] = {}
        self._count = 0
        self._expiry = ExpiryQueue()
        self._packer = _packer() if isolate else None
        self._timer: tuple[AbstractEventLoop, float, TimerHandle] | None = None
        self.maxsize = check_bound(maxsize, "maxsize")
        self.maxbytes = check_bound(maxbytes, "maxbytes")
        self._recency: Recency[Entry] | None = None
        if maxsize is not None or maxbytes is not None:
            self._recency = Recency(maxsize, maxbytes)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        bound = f" of {self.maxsize}" if self.maxsize else ""
        return f"<{type(self).__name__}: {self._count}{bound} entries, {len(self.leases)} leases>"

    def learn(self, types: Iterable[type]) -> None:
        if self._packer is not None:
            self._packer = self._packer.also(types)

    def partition(self, owner: Owner) -> Partition:
        with self.leases.lock:
            shelf = self._shelf(owner)
            shelf.is_bound = True
        if self._packer is not None:  # a hit must unpack, so none is served on the shortest path
            return Partition({})
        return Partition(shelf.entries, None if self._recency is None else self._recency.touch)

    # --- LocalStorage: called with the lock held ----------------------------------------------

    def read(self, key: Key) -> Entry | None:
        shelf = self._shelves.get(id(key.owner))
        entry = None if shelf is None else shelf.entries.get(key.typed)
        if entry is None:
            return None
        if self._recency is not None:
            self._recency.touch(entry)
        if self._packer is not None and entry.kind == "value":
            return entry.with_value(self._packer.unpack(entry.value)[0])
        return entry

    def write(self, key: Key, entry: Entry) -> None:
        if self._packer is not None and entry.kind == "value":
            entry = entry.with_value(self._packer.pack(entry.value))
        if entry.home is not None:  # it is in a storage already, perhaps in another one
            entry = entry.with_value(entry.value)
        weight = self._weigh(entry)
        entries = self._shelf(key.owner).entries
        replaced = entries.get(key.typed)
        if replaced is not None:
            self._take_out(replaced)
        entry.home = (entries, key.typed)
        if self._recency is not None:  # room first: other threads may look at any time
            self._recency.add(entry, weight)
            for victim in self._recency.overflow():
                self._take_out(victim)
        entries[key.typed] = entry
        self._count += 1
        self._expiry.add(entry, self._count)
        self._sweep()

    def _weigh(self, entry: Entry) -> int:
        if self.maxbytes is None or entry.kind == "uncacheable":  # which is a mark, not a value
            return 0
        weight = weigh(entry.value)
        if weight > self.maxbytes:
            raise ValueTooLarge(
                f"the value takes about {weight} bytes, the storage has maxbytes={self.maxbytes}",
                size=weight,
                limit=self.maxbytes,
            )
        return weight

    def erase(self, key: Key) -> None:
        shelf = self._shelves.get(id(key.owner))
        entry = None if shelf is None else shelf.entries.get(key.typed)
        if entry is not None:
            self._take_out(entry)
        if shelf is not None and not shelf.entries and not shelf.is_bound:
            self._shelves.pop(id(key.owner), None)

    def expire(self, key: Key) -> None:
        shelf = self._shelves.get(id(key.owner))
        entry = None if shelf is None else shelf.entries.get(key.typed)
        if entry is not None:
            entry.expire(self.clock())

    def keys_now(self, owner: Owner) -> list[Key]:
        now = self.clock()
        shelf = self._shelves.get(id(owner))
        entries = [] if shelf is None else list(shelf.entries.items())
        return [Key(owner, typed) for typed, entry in entries if now < entry.dead_after]

    def count_now(self, owner: Owner) -> int:
        shelf = self._shelves.get(id(owner))
        return 0 if shelf is None else len(shelf.entries)

    def erase_all(self, owner: Owner | None) -> None:
        shelves = list(self._shelves.values()) if owner is None else [self._shelf(owner)]
        for shelf in shelves:
            for entry in list(shelf.entries.values()):
                self._take_out(entry)

    # --- shelves and their entries ------------------------------------------------------------

    def _shelf(self, owner: Owner) -> _Shelf:
        shelf = self._shelves.get(id(owner))
        if shelf is None:
            shelf = self._shelves[id(owner)] = _Shelf(owner, weakref.ref(self))
        return shelf

    def _drop_shelf(self, place: int, shelf: _Shelf) -> None:
        with self.leases.lock:
            if self._shelves.get(place) is shelf:
                del self._shelves[place]
            for entry in list(shelf.entries.values()):
                self._take_out(entry)

    def _take_out(self, entry: Entry) -> None:
        entries, typed = entry.home
        if entries.get(typed) is entry:
            del entries[typed]
            self._count -= 1
        if self._recency is not None:
            self._recency.discard(entry)

    # --- the dead -----------------------------------------------------------------------------

    def _sweep(self, most: int = DUE_AT_ONCE) -> None:
        now = self.clock()
        if self._expiry.next() <= now:
            for entry in self._expiry.due(now, most):
                self._take_out(entry)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        """Have the loop of this thread, if one runs, sweep when the next entry dies."""
        due = self._expiry.next()
        loop = asyncio._get_running_loop()
        if due == inf or loop is None:
            return
        if self._timer is not None:
            timer_loop, timer_due, timer = self._timer
            if timer_due <= due + SHORTEST_TIMER and not timer_loop.is_closed():
                return
            if timer_loop is loop:
                timer.cancel()
        # An empty context: that of the caller would keep alive what it refers to.
        pause = max(due - now, SHORTEST_TIMER)
        me: weakref.ref[MemoryStorage] = weakref.ref(self)
        self._timer = (loop, due, loop.call_later(pause, _timer_sweep, me, due, context=Context()))

    def _on_timer(self, due: float) -> None:
        with self.leases.lock:
            if self._timer is not None and self._timer[1] == due:
                self._timer = None
            self._sweep(most=1000)


class _Shelf:
    """The entries of one owner; they go when the owner goes."""

    __slots__ = ("__weakref__", "_owner", "entries", "is_bound")

    def __init__(self, owner: Owner, storage: weakref.ref[MemoryStorage]) -> None:
        self.entries: dict[Any, Entry] = {}
        self.is_bound = False
        place = id(owner)
        shelf = weakref.ref(self)

        def drop(_: object) -> None:
            held, own = storage(), shelf()
            if held is not None and own is not None:
                held._drop_shelf(place, own)  # pyright: ignore[reportPrivateUsage] - a shelf is a part of the storage

        self._owner = weakref.ref(owner, drop)


def _packer() -> Packer:
    from gecaso.packing import Packer  # much to import, and few storages isolate

    return Packer()


def _timer_sweep(storage: weakref.ref[MemoryStorage], due: float) -> None:
    held = storage()
    if held is not None:
        held._on_timer(due)  # pyright: ignore[reportPrivateUsage] - the timer is a part of the storage

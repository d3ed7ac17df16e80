"""Leases on a server that can add, compare-and-set and delete; one key at a time.

A lease of a key without a value is a mark in the place of the value. A lease beside a value that
can still be read is a mark under a second name. Whatever is replaced is replaced by the number it
had when it was read a moment ago: numbers are never kept, they start anew with the server.

An invalidation deletes first the mark beside the value, then what is in the place of the value;
here both are read in the opposite order. So what an invalidation has overtaken is not found, or
has another number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import StorageError
from gecaso.keys import Key

from ._memcached_client import Connections
from ._memcached_parts import Head
from ._memcached_records import GONE, Mark, WireKeys, exptime
from ._memcached_wire import Found

__all__ = [
    "TRIES",
    "Leasing",
    "TimedLease",
    "Unsure",
    "contended",
    "end_mark",
    "end_marks",
    "is_mark_of",
    "names_of",
]

TRIES: Final = 20  # how often an operation is begun anew because others change the same key
LATE: Final = 5.0  # seconds after its end that a mark which was set late may still be found


class TimedLease(Lease):
    """A lease that knows when it was asked for, by `time.monotonic`."""

    __slots__ = ("asked_at",)

    def __init__(
        self, key: Key, token: bytes, until: float, seen: Entry | None, asked_at: float
    ) -> None:
        super().__init__(key, token, until, seen)
        self.asked_at = asked_at


class Held(NamedTuple):
    """A lease that is still ours: what its value will replace, and its marks by name."""

    place: Found
    marks: dict[bytes, Found]


class Unsure:
    """The tokens of leases that failed: the server may set their marks later, but nobody has them.

    Without this a server that hung would, when it goes on, keep everybody waiting for leases that
    were given up meanwhile.
    """

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def __contains__(self, token: bytes) -> bool:
        return token in self._until

    def note(self, tokens: Iterable[bytes], seconds: float, task: asyncio.Task[object]) -> None:
        """Remember tokens if the task that was to take their leases has failed."""
        if not task.cancelled() and task.exception() is None:
            return
        now = time.monotonic()
        for token, until in list(self._until.items()):
            if until <= now:
                self._until.pop(token, None)
        self._until.update(dict.fromkeys(tokens, now + seconds + LATE))


class Leasing:
    """Takes, keeps and ends leases.

    ``now()`` is the server's time; ``read(name, data)`` returns the entry in some data, dead or
    not, or None.
    """

    def __init__(
        self, now: Callable[[], float], read: Callable[[bytes, bytes], Entry | None]
    ) -> None:
        self.unsure = Unsure()
        self.now = now
        self.read = read

    def live(self, name: bytes, found: Found | None) -> Entry | None:
        """Return the entry found, unless it is dead."""
        entry = None if found is None else self.read(name, found[0])
        return entry if entry is not None and self.now() < entry.dead_after else None

    async def take(self, client: Connections, key: Key, name: bytes, mark: Mark) -> Lease | Busy:
        """Take the lease: in the place of the value, or beside it if there is one."""
        asked_at = time.monotonic()
        for _ in range(TRIES):
            in_the_way = await self._put_mark(client, key, name, mark, WireKeys.beside(name))
            if in_the_way is None:
                return TimedLease(key, mark.token, mark.until, None, asked_at)
            if isinstance(in_the_way, Busy):
                return in_the_way
            got = await self._take_beside(client, key, name, mark)
            if isinstance(got, Busy):
                return got
            if got is not None:
                return TimedLease(key, mark.token, mark.until, got, asked_at)
        raise contended(name)

    async def _put_mark(
        self, client: Connections, key: Key, name: bytes, mark: Mark, *beside: bytes
    ) -> Busy | Entry | None:
        """Put the mark where nothing of use is; otherwise return what is in the way."""
        data = mark.pack()
        for _ in range(TRIES):
            now = self.now()
            expiry = exptime(mark.until, now)
            is_added, found = await client.add_and_look(name, data, expiry, (name, *beside))
            there = found.get(name)
            for one in beside:
                # The value that this lease was taken beside may have died, or left, since.
                if (busy := self._busy(key, found.get(one), now)) is not None:
                    busy.stale = self.live(name, there)
                    await end_mark(client, name, there, mark.token)
                    return busy
            if is_added:
                return None
            if there is None:
                continue
            busy = self._busy(key, there, now)
            if busy is not None:
                return busy
            entry = self.live(name, there)
            if entry is not None:
                return entry
            if await client.cas(name, data, there[1], expiry):
                return None
        raise contended(name)

    def _busy(self, key: Key, found: Found | None, now: float) -> Busy | None:
        """Return what to tell who meets this: that it is the mark of a lease which is out."""
        other = None if found is None else Mark.unpack(found[0])
        if other is None or now >= other.until or other.token in self.unsure:
            return None
        return Busy(key, other.token, other.until - now)

    async def _take_beside(
        self, client: Connections, key: Key, name: bytes, mark: Mark
    ) -> Entry | Busy | None:
        """Take the lease beside a value, which is returned; None if it has gone meanwhile."""
        beside = WireKeys.beside(name)
        busy = await self._put_mark(client, key, beside, mark)
        # What is stored counts only as it is after the lease was taken.
        found = await client.look((name, beside))
        entry = self.live(name, found.get(name))
        if isinstance(busy, Busy):
            busy.stale = entry
            return busy
        if entry is None:
            await end_marks(client, name, found, mark.token)
            return None
        return entry

    async def renew(self, client: Connections, lease: Lease, name: bytes, until: float) -> bool:
        """Let the lease run until then; return whether it is still ours."""
        data = Mark(lease.token, until).pack()
        for _ in range(TRIES):
            held = await self._held(client, lease, name)
            if held is None:
                return False
            expiry = exptime(until, self.now())
            marks = held.marks.items()
            if all([await client.cas(at, data, number, expiry) for at, (_, number) in marks]):
                lease.until = until
                return True
        raise contended(name)

    async def commit(
        self, client: Connections, lease: Lease, name: bytes, data: bytes, entry: Entry
    ) -> bool:
        """Store what was loaded and end the lease; return False if it is no longer ours."""
        expiry = exptime(entry.dead_after, self.now())
        data = await client.placed(name, data, entry.version, expiry)
        for _ in range(TRIES):  # a renewal may come in between
            held = await self._held(client, lease, name)
            if held is None:
                await client.delete_parts((data,))
                return False
            if await client.cas(name, data, held.place[1], expiry):
                held.marks.pop(name, None)
                await end_marks(client, name, held.marks, lease.token)
                await client.delete_parts((held.place[0],))
                return True
        raise contended(name)

    async def _held(self, client: Connections, lease: Lease, name: bytes) -> Held | None:
        """Look whether a lease is still ours; None if it is not."""
        names = names_of(lease, name)
        for left in reversed(range(TRIES)):
            found = await client.look(names, whole=False)
            ours = {at: one for at, one in found.items() if is_mark_of(lease.token, one)}
            if names[-1] not in ours:
                await end_mark(client, name, ours.get(name), lease.token)
                return None
            if name in found:
                if name in ours or self._is_unchanged(lease, name, found[name]):
                    return Held(found[name], ours)
                if left and Mark.unpack(found[name][0]) is not None:
                    continue  # the value has gone, and who wants a lease is about to see ours
                # A put came between our mark and our look at the value. It took no mark away, since
                # there was none yet, and nobody but us would.
                await end_marks(client, name, ours, lease.token)
                return None
            if lease.until <= self.now():
                return None  # and the server would not take a mark whose time is over
            # The value has gone by itself: an invalidation would have taken our mark before.
            mark = Mark(lease.token, lease.until)
            await client.add(name, mark.pack(), exptime(mark.until, self.now()))
        raise contended(name)

    def _is_unchanged(self, lease: Lease, name: bytes, found: Found) -> bool:
        if lease.seen is None:
            return False
        head = Head.unpack(found[0])
        if head is not None:
            return head.version == lease.seen.version
        entry = self.read(name, found[0])
        return entry is not None and entry.version == lease.seen.version


def names_of(lease: Lease, name: bytes) -> tuple[bytes, ...]:
    """Return where the marks of a lease are: the place of the value, and beside it if need be."""
    return (name,) if lease.seen is None else (name, WireKeys.beside(name))


async def end_marks(
    client: Connections, name: bytes, found: Mapping[bytes, Found], token: bytes
) -> None:
    """Remove the marks of a lease that were found at ``name`` and beside it."""
    for at in (name, WireKeys.beside(name)):
        await end_mark(client, at, found.get(at), token)
    if WireKeys.beside(name) in found:
        # A renewal may have put the mark in the place of a value that has left. After that it looks
        # whether the one beside is still there; we look after that one is gone.
        again = await client.look((name,), whole=False)
        await end_mark(client, name, again.get(name), token)


async def end_mark(client: Connections, name: bytes, found: Found | None, token: bytes) -> None:
    """Remove a mark that was found, if it is the one with this token."""
    if found is not None and is_mark_of(token, found):
        await client.cas(name, found[0], found[1], GONE)


def is_mark_of(token: bytes, found: Found) -> bool:
    mark = Mark.unpack(found[0])
    return mark is not None and mark.token == token


def contended(name: bytes) -> StorageError:
    return StorageError(
        f"{name.decode()!r} was changed {TRIES} times by others while it was being changed here; "
        "see what writes it so often"
    )

"""A storage on a memcached server, shared by processes and machines.

How the promises are kept, with a server that can add, compare-and-set and delete:

* A *lease* of a key without a value is a mark that stands in the place of the value, put there by
  ``add``. A lease beside a value that can still be read is a mark under a second name.
* A *commit* reads mark and value and their numbers, and replaces by number what it has just read.
  Numbers are never remembered from one operation to the next: they start anew with the server.
* An *invalidation* deletes first the mark beside the value, then the value or the mark in its
  place; a commit reads in the opposite order. So whatever an invalidation has overtaken is not
  found, or has another number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import ConfigurationError, StorageError, UnpackError, Unsupported, ValueTooLarge
from gecaso.events import Corrupt, active, emit
from gecaso.keys import Key
from gecaso.loops import PerLoop
from gecaso.packing import Packer
from gecaso.storage import EntryStorage

from ._batch import Batch, Calls, fail, settle
from ._memcached_records import GONE, Mark, WireKeys, exptime
from ._memcached_wire import Address, Connections, Found, Link, Server, each

__all__ = ["MemcachedStorage"]

T = TypeVar("T")

SHORTEST_LEASE = 3.0  # seconds; the server's clock ticks once a second
TRIES = 20  # how often an operation is begun anew because others change the same key
UNSURE_FOR = 5.0  # seconds after its end that a mark set late may still be found
ITEM_HEADER = 100  # bytes that the server adds to a value and its key, at most


class MemcachedStorage(EntryStorage):
    """Keeps values on one memcached, packed, until they are dead or the server needs the room.

    ``url`` is ``"host:port"`` or ``"memcached://host:port"``. ``namespace`` is put before every
    key. ``secret`` (one, or several while one is being replaced) signs what is stored and allows
    pickle. ``timeout`` and ``connect_timeout`` are the seconds that an operation may take with and
    without a connection. ``types`` are classes that values may have, beside the plain ones.
    ``max_value_bytes`` bounds a packed value; the server's own limit (1 MiB by default) holds too.

    Safe to make at import time and to use from any event loop, several of them, and after a fork.

    >>> import asyncio
    >>> storage = MemcachedStorage("localhost:11211", namespace="shop")
    >>> asyncio.run(storage.set("answer", 42, ttl=60))  # doctest: +SKIP
    >>> asyncio.run(storage.get("answer"))  # doctest: +SKIP
    42
    """

    shared = True

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "",
        secret: str | bytes | Sequence[str | bytes] | None = None,
        timeout: float = 0.25,
        connect_timeout: float = 0.5,
        types: Iterable[type] = (),
        compress: int | None = 1024,
        max_value_bytes: int | None = None,
        pool_size: int = 2,
    ) -> None:
        for option, value in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if not value > 0:
                raise ConfigurationError(f"{option} must be above zero seconds, not {value!r}")
        for option, bound in (("pool_size", pool_size), ("max_value_bytes", max_value_bytes)):
            if bound is not None and bound < 1:
                raise ConfigurationError(f"{option} must be at least 1, not {bound!r}")
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.namespace = namespace
        self.max_value_bytes = max_value_bytes
        self.packer = Packer(secret=secret, types=types, compress=compress)
        self.corrupt = 0
        """How often something unreadable was found, and taken for a miss."""
        self._keys = WireKeys(namespace)
        self._server = server = Server(Address.parse(url))
        self._unsure: dict[bytes, float] = {}
        look_up = self._look_up

        def here() -> _Here:
            link = Link(server, size=pool_size, timeout=timeout, connect_timeout=connect_timeout)
            return _Here(link, look_up)

        self._here = PerLoop(here, _Here.aclose, _Here.abandon)

    def __repr__(self) -> str:
        loops = self._here.resources()
        connected = sum(here.link.is_connected for here in loops)
        namespace = f" {self.namespace!r}" if self.namespace else ""
        return (
            f"<MemcachedStorage{namespace} at {self._server.address}, "
            f"connected in {connected} of {len(loops)} loops, {self.corrupt} corrupt>"
        )

    def now(self) -> float:
        return self._server.clock.now()

    def learn(self, types: Iterable[type]) -> None:
        self.packer = self.packer.also(types)

    # --- reading ------------------------------------------------------------------------------

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        wanted = list(keys)
        return await self._run(partial(self._look_up, wanted)) if wanted else {}

    def lookup(self, key: Key) -> Awaitable[Entry | None]:
        return self._here.get().lookups.add(key)

    async def _look_up(self, keys: Iterable[Key], client: Connections) -> dict[Key, Entry]:
        names = {key: self._name(key) for key in keys}
        found = await client.look(names.values())
        return {
            key: entry
            for key, name in names.items()
            if name in found and (entry := self._live(key, name, found[name])) is not None
        }

    # --- leases -------------------------------------------------------------------------------

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        """Take leases; they run for three seconds at least, since the server counts seconds."""
        tokens = {key: new_token() for key in keys}
        if not tokens:
            return {}
        seconds = max(seconds, SHORTEST_LEASE)
        link = self._here.get().link
        task = link.start(partial(self._take_all, tokens, seconds))
        task.add_done_callback(partial(self._note_unsure, tokens.values(), seconds))
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.add_done_callback(partial(self._give_back, link))
            raise
        return task.result()

    async def _take_all(
        self, tokens: Mapping[Key, bytes], seconds: float, client: Connections
    ) -> dict[Key, Lease | Busy]:
        until = self.now() + seconds
        got = [self._take(client, key, Mark(token, until)) for key, token in tokens.items()]
        return {one.key: one for one in await each(got)}

    def _note_unsure(
        self, tokens: Iterable[bytes], seconds: float, task: asyncio.Task[object]
    ) -> None:
        """Remember marks that a server may still set after we gave up: nobody holds them."""
        now = time.monotonic()
        if task.cancelled() or task.exception() is not None:
            for token, until in list(self._unsure.items()):
                if until <= now:
                    self._unsure.pop(token, None)
            self._unsure.update(dict.fromkeys(tokens, now + seconds + UNSURE_FOR))

    def _give_back(self, link: Link, task: asyncio.Task[dict[Key, Lease | Busy]]) -> None:
        """Release what was leased for a caller that was cancelled meanwhile."""
        if task.cancelled() or task.exception() is not None or link.is_closed:
            return
        leases = [got for got in task.result().values() if isinstance(got, Lease)]
        if leases:
            link.start(partial(self._release, leases))

    async def _take(self, client: Connections, key: Key, mark: Mark) -> Lease | Busy:
        name = self._name(key)
        for _ in range(TRIES):
            in_the_way = await self._put_mark(client, key, name, mark)
            if in_the_way is None:
                return Lease(key, mark.token, mark.until)
            if isinstance(in_the_way, Busy):
                return in_the_way
            got = await self._take_beside(client, key, name, mark)
            if got is not None:
                return got
        raise self._contended(key)

    async def _put_mark(
        self, client: Connections, key: Key, name: bytes, mark: Mark
    ) -> Busy | Entry | None:
        """Put the mark where nothing of use is; otherwise return what is in the way."""
        data = mark.pack()
        for _ in range(TRIES):
            now = self.now()
            if await client.add(name, data, exptime(mark.until, now)):
                return None
            found = (await client.look((name,))).get(name)
            if found is None:
                continue
            other = Mark.unpack(found.data)
            if other is not None and now < other.until and other.token not in self._unsure:
                return Busy(key, other.token, other.until - now)
            entry = self._live(key, name, found)
            if entry is not None:
                return entry
            if await client.cas(name, data, found.cas, exptime(mark.until, now)):
                return None
        raise self._contended(key)

    async def _take_beside(
        self, client: Connections, key: Key, name: bytes, mark: Mark
    ) -> Lease | Busy | None:
        """Take the lease beside a value; None if the value has gone meanwhile."""
        beside = self._keys.beside(name)
        busy = await self._put_mark(client, key, beside, mark)
        # Only now that the lease is taken, or is known to be somebody's, does it count what is there.
        found = await client.look((name, beside))
        entry = self._live(key, name, found.get(name))
        if isinstance(busy, Busy):
            busy.stale = entry
            return busy
        if entry is None:
            await self._remove_mark(client, beside, found.get(beside), mark.token)
            return None
        return Lease(key, mark.token, mark.until, entry)

    async def _held(self, client: Connections, lease: Lease) -> _Held | None:
        """Look whether a lease is still ours; None if it is not."""
        name, *beside = self._names(lease)
        for _ in range(TRIES):
            found = await client.look((name, *beside))
            ours = {at: one for at, one in found.items() if _is_mark_of(lease, one)}
            if not beside:
                return _Held(ours[name], ours) if name in ours else None
            # The value first, the mark second: whoever invalidates deletes them the other way round.
            if beside[0] not in ours:
                return None
            if name in found:
                kept = name in ours or self._is_unchanged(lease, name, found[name])
                return _Held(found[name], ours) if kept else None
            # The value went by itself: an invalidation would have taken our mark before.
            mark = Mark(lease.token, lease.until)
            await client.add(name, mark.pack(), exptime(mark.until, self.now()))
        raise self._contended(lease.key)

    def _is_unchanged(self, lease: Lease, name: bytes, found: Found) -> bool:
        entry = self._entry(lease.key, name, found.data)
        return entry is not None and lease.seen is not None and entry.version == lease.seen.version

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        wanted = list(leases)

        async def work(client: Connections) -> list[bool]:
            until = self.now() + max(seconds, SHORTEST_LEASE)
            return await each([self._renew(client, lease, until) for lease in wanted])

        kept = await self._run(work) if wanted else []
        return {lease.key for lease, ours in zip(wanted, kept, strict=True) if ours}

    async def _renew(self, client: Connections, lease: Lease, until: float) -> bool:
        mark = Mark(lease.token, until).pack()
        for _ in range(TRIES):
            held = await self._held(client, lease)
            if held is None:
                return False
            expiry = exptime(until, self.now())
            marks = held.marks.items()
            if all([await client.cas(name, mark, one.cas, expiry) for name, one in marks]):
                lease.until = until
                return True
        raise self._contended(lease.key)

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        wanted = dict(entries)

        async def work(client: Connections) -> list[bool]:
            packed = {lease: self._pack(lease.key, entry) for lease, entry in wanted.items()}
            return await each(
                [
                    self._commit(client, lease, packed[lease], entry.dead_after)
                    for lease, entry in wanted.items()
                ]
            )

        stored = await self._run(work) if wanted else []
        return {lease.key for lease, done in zip(wanted, stored, strict=True) if done}

    async def _commit(
        self, client: Connections, lease: Lease, data: bytes, dead_after: float
    ) -> bool:
        name = self._name(lease.key)
        for _ in range(TRIES):  # a renewal may come in between
            held = await self._held(client, lease)
            if held is None:
                return False
            if await client.cas(name, data, held.place.cas, exptime(dead_after, self.now())):
                held.marks.pop(name, None)
                for beside, one in held.marks.items():
                    await client.cas(beside, one.data, one.cas, GONE)
                return True
        raise self._contended(lease.key)

    async def release(self, leases: Iterable[Lease]) -> None:
        wanted = list(leases)
        if wanted:
            await self._run(partial(self._release, wanted))

    async def _release(self, leases: Iterable[Lease], client: Connections) -> None:
        marks = [(name, lease.token) for lease in leases for name in self._names(lease)]
        found = await client.look(name for name, _ in marks)
        await each(
            [self._remove_mark(client, name, found.get(name), token) for name, token in marks]
        )

    async def _remove_mark(
        self, client: Connections, name: bytes, found: Found | None, token: bytes
    ) -> None:
        if found is not None and (mark := Mark.unpack(found.data)) and mark.token == token:
            await client.cas(name, found.data, found.cas, GONE)

    # --- writing without a lease --------------------------------------------------------------

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        wanted = dict(entries)

        async def work(client: Connections) -> list[bool]:
            packed = {key: self._pack(key, entry) for key, entry in wanted.items()}
            if expect is None:
                await client.delete_in_order([self._keys.beside(self._name(key)) for key in packed])
                return await each(
                    [
                        client.set(self._name(key), data, self._expiry(wanted[key]))
                        for key, data in packed.items()
                    ]
                )
            return await each(
                [
                    self._swap(client, key, data, self._expiry(wanted[key]), expect.get(key))
                    for key, data in packed.items()
                ]
            )

        stored = await self._run(work) if wanted else []
        return {key for key, done in zip(wanted, stored, strict=True) if done}

    async def _swap(
        self, client: Connections, key: Key, data: bytes, expiry: int, version: bytes | None
    ) -> bool:
        name = self._name(key)
        for _ in range(TRIES):
            found = (await client.look((name,))).get(name)
            entry = self._live(key, name, found)
            if (None if entry is None else entry.version) != version:
                return False
            if await _replace(client, name, data, found, expiry):
                await client.delete_in_order([self._keys.beside(name)])
                return True
        raise self._contended(key)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        names = {key: self._name(key) for key in keys}
        beside = self._keys.beside

        async def work(client: Connections) -> None:
            if not keep_stale:
                await client.delete_in_order(
                    [each_of for name in names.values() for each_of in (beside(name), name)]
                )
                return
            await client.delete_in_order([beside(name) for name in names.values()])
            await each([self._expire(client, key, name) for key, name in names.items()])

        if names:
            await self._run(work)

    async def _expire(self, client: Connections, key: Key, name: bytes) -> None:
        for _ in range(TRIES):
            found = (await client.look((name,))).get(name)
            if found is None:
                return
            entry, now = self._live(key, name, found), self.now()
            data, expiry = found.data, GONE
            if entry is not None and entry.fresh_until < entry.dead_after:
                stale = replace(entry, fresh_until=min(entry.fresh_until, now))
                data, expiry = self._pack(key, stale), exptime(stale.dead_after, now)
            if await client.cas(name, data, found.cas, expiry):
                return
        raise self._contended(key)

    async def evict(self, keys: Iterable[Key]) -> None:
        names = [self._name(key) for key in keys]

        async def work(client: Connections) -> None:
            found = await client.look([*names, *map(self._keys.beside, names)])
            await each([self._evict(client, name, found) for name in names if name in found])

        if names:
            await self._run(work)

    async def _evict(self, client: Connections, name: bytes, found: Mapping[bytes, Found]) -> None:
        if Mark.unpack(found[name].data) is not None:
            return
        # A lease beside the value takes its place, so that nobody else takes one.
        beside = found.get(self._keys.beside(name))
        mark = None if beside is None else Mark.unpack(beside.data)
        data, expiry = b"", GONE
        if mark is not None and self.now() < mark.until:
            data, expiry = mark.pack(), exptime(mark.until, self.now())
        await client.cas(name, data, found[name].cas, expiry)

    async def clear(self) -> None:
        raise Unsupported(
            "memcached cannot list keys, so a MemcachedStorage cannot be cleared; remove the keys "
            "you know, or make the storage with another namespace="
        )

    async def ping(self) -> None:
        await self._run(Connections.version)

    async def aclose(self) -> None:
        await self._here.aclose()

    # --- helpers ------------------------------------------------------------------------------

    async def _run(self, work: Callable[[Connections], Awaitable[T]]) -> T:
        return await self._here.get().link.run(work)

    def _name(self, key: Key) -> bytes:
        return self._keys.value(str(key))

    def _names(self, lease: Lease) -> tuple[bytes, ...]:
        """Return the name of the value, and that of the mark if it is not in the same place."""
        name = self._name(lease.key)
        return (name,) if lease.seen is None else (name, self._keys.beside(name))

    def _expiry(self, entry: Entry) -> int:
        return exptime(entry.dead_after, self.now())

    def _pack(self, key: Key, entry: Entry) -> bytes:
        name = self._name(key)
        data = self.packer.pack_entry(entry, key=name)
        limit = self._server.item_size_max - ITEM_HEADER - len(name)
        if self.max_value_bytes is not None:
            limit = min(limit, self.max_value_bytes)
        if len(data) > limit:
            raise ValueTooLarge(
                f"the value of {key} takes {len(data)} bytes and may take {limit}; store less, or "
                "start memcached with a larger -I",
                size=len(data),
                limit=limit,
            )
        return data

    def _entry(self, key: Key, name: bytes, data: bytes) -> Entry | None:
        """Return the entry in ``data``, dead or not; None if it is a mark or unreadable."""
        if Mark.unpack(data) is not None:
            return None
        try:
            return self.packer.unpack_entry(data, key=name)
        except UnpackError as error:
            self.corrupt += 1
            if active():
                emit(Corrupt(storage=self, key=key, reason=str(error)))
            return None

    def _live(self, key: Key, name: bytes, found: Found | None) -> Entry | None:
        entry = None if found is None else self._entry(key, name, found.data)
        return entry if entry is not None and self.now() < entry.dead_after else None

    def _contended(self, key: Key) -> StorageError:
        return StorageError(
            f"{key} was changed {TRIES} times by others while it was being changed here; "
            "see what writes it so often"
        )


class _Held(NamedTuple):
    """A lease that is still ours: what its value will replace, and its marks by name."""

    place: Found
    marks: dict[bytes, Found]


class _Here:
    """What belongs to one event loop: the connections, and what is being asked for this tick."""

    def __init__(self, link: Link, look_up: _LookUp) -> None:
        self.link = link
        self.lookups: Batch[Key, Entry | None] = Batch(self._send)
        self._look_up = look_up

    def _send(self, calls: Calls[Key, Entry | None]) -> None:
        task = self.link.start(partial(self._look_up, list(calls)))
        task.add_done_callback(partial(_answer, calls))

    async def aclose(self) -> None:
        await self.link.aclose()

    def abandon(self) -> None:
        self.link.abandon()


_LookUp = Callable[[Iterable[Key], Connections], Coroutine[Any, Any, dict[Key, Entry]]]


def _answer(calls: Calls[Key, Entry | None], task: asyncio.Task[dict[Key, Entry]]) -> None:
    if task.cancelled():
        for futures in calls.values():
            for future in futures:
                future.cancel()
        return
    error = task.exception()
    if isinstance(error, Exception):
        fail(calls, error)
        return
    replies = task.result()
    for key, futures in calls.items():
        settle(futures, replies.get(key))


def _is_mark_of(lease: Lease, found: Found) -> bool:
    mark = Mark.unpack(found.data)
    return mark is not None and mark.token == lease.token


async def _replace(
    client: Connections, name: bytes, data: bytes, found: Found | None, expiry: int
) -> bool:
    if found is None:
        return await client.add(name, data, expiry)
    return await client.cas(name, data, found.cas, expiry)

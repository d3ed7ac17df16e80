"""Entries on a memcached server, shared by processes and machines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from gecaso import events
from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import ConfigurationError, UnpackError, Unsupported, ValueTooLarge
from gecaso.keys import Key
from gecaso.loops import PerLoop
from gecaso.packing import Packer
from gecaso.packing.signing import Secret
from gecaso.storage import EntryStorage

from ._batch import Batch, Calls, fail
from ._memcached_leases import TRIES, Leasing, contended, end_mark, names_of
from ._memcached_link import Address, Link, Server, each
from ._memcached_records import GONE, Mark, WireKeys, exptime
from ._memcached_wire import Connections, Found

__all__ = ["MemcachedStorage"]

T = TypeVar("T")

SHORTEST_LEASE: Final = 3.0  # seconds; the server's clock ticks once a second
ITEM_HEADER: Final = 100  # bytes that the server adds to a value and its key, at most


class MemcachedStorage(EntryStorage):
    """Entries on one memcached server, shared by every process that uses it.

    ``url`` is ``"host:port"`` or ``"memcached://host:port"``. ``namespace`` keeps the keys of
    several caches apart: values are named ``namespace:key``. With a ``secret`` every value is
    signed. No operation takes longer than ``timeout`` seconds, or ``connect_timeout`` if it must
    connect first. ``types`` are the classes that values may have. ``max_value_bytes`` bounds a
    packed value; the server's own limit (1 MiB by default) holds in any case. ``pool_size`` is the
    number of connections of each event loop. Further options go to `Packer`.

    Making one connects to nothing. It can be used in any loop, thread and forked child. Raises
    `ConfigurationError` for what cannot work.

    >>> storage = MemcachedStorage("localhost:11211", namespace="shop")
    >>> await storage.set("answer", 42, ttl=60)
    >>> await storage.get("answer")
    42
    >>> await storage.aclose()
    """

    shared = True

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "",
        secret: Secret | None = None,
        timeout: float = 0.25,
        connect_timeout: float = 0.5,
        types: Iterable[type] = (),
        max_value_bytes: int | None = None,
        pool_size: int = 2,
        **packing: Any,
    ) -> None:
        _check_above_zero(timeout=timeout, connect_timeout=connect_timeout, pool_size=pool_size)
        _check_above_zero(max_value_bytes=1 if max_value_bytes is None else max_value_bytes)
        self.namespace = namespace
        self.timeout = timeout
        self.max_value_bytes = max_value_bytes
        self.packer = Packer(secret=secret, types=types, **packing)
        self.corrupt = 0
        """How often something unreadable was found, and taken for a miss."""
        self._keys = WireKeys(namespace)
        self._server = server = Server(Address.parse(url))
        self._leasing = leasing = Leasing(server.clock.now, self._read)

        def make_here() -> _Here:
            link = Link(server, size=pool_size, timeout=timeout, connect_timeout=connect_timeout)
            return _Here(link, leasing)

        self._here = PerLoop(make_here, _Here.aclose, _Here.abandon)

    def __repr__(self) -> str:
        connections = sum(here.link.connections for here in self._here.resources())
        return (
            f"<{type(self).__name__} {self._server.address}, namespace {self.namespace!r}, "
            f"{connections} connections>"
        )

    def now(self) -> float:
        return self._server.clock.now()

    def learn(self, types: Iterable[type]) -> None:
        self.packer = self.packer.also(types)

    # --- reading ------------------------------------------------------------------------------

    def lookup(self, key: Key) -> Awaitable[Entry | None]:
        return self._here.get().lookups.add(self._keys.value(str(key)))

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        names = {key: self._name(key) for key in keys}
        if not names:
            return {}
        found = await self._run(partial(_look, names.values()))
        entries = {key: self._leasing.live(name, found.get(name)) for key, name in names.items()}
        return {key: entry for key, entry in entries.items() if entry is not None}

    # --- leases -------------------------------------------------------------------------------

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        """Take leases; they run for three seconds at least, since the server counts seconds."""
        tokens = {key: new_token() for key in keys}
        if not tokens:
            return {}
        seconds = max(seconds, SHORTEST_LEASE)
        link = self._here.get().link
        task = link.start(partial(self._take, tokens, seconds))
        task.add_done_callback(partial(self._leasing.unsure.note, tokens.values(), seconds))
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.add_done_callback(partial(self._give_back, link))
            raise
        return task.result()

    async def _take(
        self, tokens: Mapping[Key, bytes], seconds: float, client: Connections
    ) -> dict[Key, Lease | Busy]:
        until = self.now() + seconds
        taking = [
            self._leasing.take(client, key, self._name(key), Mark(token, until))
            for key, token in tokens.items()
        ]
        return {got.key: got for got in await each(taking)}

    def _give_back(self, link: Link, task: asyncio.Task[dict[Key, Lease | Busy]]) -> None:
        """Release what was leased for a caller that was cancelled meanwhile."""
        if task.cancelled() or task.exception() is not None or link.is_closed:
            return
        leases = [got for got in task.result().values() if isinstance(got, Lease)]
        if leases:
            link.start(partial(self._release, leases))

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        wanted = list(leases)

        async def work(client: Connections) -> list[bool]:
            until = self.now() + max(seconds, SHORTEST_LEASE)
            renew = self._leasing.renew
            return await each(
                [renew(client, lease, self._name(lease.key), until) for lease in wanted]
            )

        kept = await self._run(work) if wanted else []
        return {lease.key for lease, ours in zip(wanted, kept, strict=True) if ours}

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        wanted = list(entries)

        async def work(client: Connections) -> list[bool]:
            packed = [(one, *self._packed(one.key, entry)) for one, entry in entries.items()]
            commit = self._leasing.commit
            return await each(
                [
                    commit(client, lease, name, data, entries[lease].dead_after)
                    for lease, name, data in packed
                ]
            )

        stored = await self._run(work) if wanted else []
        return {lease.key for lease, done in zip(wanted, stored, strict=True) if done}

    async def release(self, leases: Iterable[Lease]) -> None:
        wanted = list(leases)
        if wanted:
            await self._run(partial(self._release, wanted))

    async def _release(self, leases: Iterable[Lease], client: Connections) -> None:
        marks = [
            (name, lease.token)
            for lease in leases
            for name in names_of(lease, self._name(lease.key))
        ]
        found = await client.look(name for name, _ in marks)
        await each([end_mark(client, name, found.get(name), token) for name, token in marks])

    # --- writing without a lease --------------------------------------------------------------

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        wanted = list(entries)

        async def work(client: Connections) -> list[bool]:
            packed = [(key, *self._packed(key, entry)) for key, entry in entries.items()]
            if expect is None:
                await client.delete_in_order([WireKeys.beside(name) for _, name, _ in packed])
                for_each = [
                    _set(client, name, data, self._expiry(entries[key]))
                    for key, name, data in packed
                ]
                return await each(for_each)
            return await each(
                [
                    self._swap(client, name, data, self._expiry(entries[key]), expect.get(key))
                    for key, name, data in packed
                ]
            )

        stored = await self._run(work) if wanted else []
        return {key for key, done in zip(wanted, stored, strict=True) if done}

    async def _swap(
        self, client: Connections, name: bytes, data: bytes, expiry: int, version: bytes | None
    ) -> bool:
        for _ in range(TRIES):
            found = (await client.look((name,))).get(name)
            entry = self._leasing.live(name, found)
            if (None if entry is None else entry.version) != version:
                return False
            if found is None:
                done = await client.add(name, data, expiry)
            else:
                done = await client.cas(name, data, found[1], expiry)
            if done:
                await client.delete_in_order([WireKeys.beside(name)])
                return True
        raise contended(name)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        names = [self._name(key) for key in keys]
        beside = WireKeys.beside

        async def work(client: Connections) -> None:
            # The mark beside the value goes first: see `_memcached_leases`.
            if keep_stale:
                await client.delete_in_order([beside(name) for name in names])
                await each([self._expire(client, name) for name in names])
            else:
                await client.delete_in_order([at for name in names for at in (beside(name), name)])

        if names:
            await self._run(work)

    async def _expire(self, client: Connections, name: bytes) -> None:
        for _ in range(TRIES):
            found = (await client.look((name,))).get(name)
            if found is None:
                return
            entry, now = self._leasing.live(name, found), self.now()
            data, expiry = found[0], GONE
            if entry is not None and entry.fresh_until < entry.dead_after:
                entry.fresh_until = min(entry.fresh_until, now)
                data = self.packer.pack_entry(entry, key=name)
                expiry = exptime(entry.dead_after, now)
            if await client.cas(name, data, found[1], expiry):
                return
        raise contended(name)

    async def evict(self, keys: Iterable[Key]) -> None:
        names = [self._name(key) for key in keys]

        async def work(client: Connections) -> None:
            found = await client.look([*names, *map(WireKeys.beside, names)])
            await each([self._evict(client, name, found) for name in names if name in found])

        if names:
            await self._run(work)

    async def _evict(self, client: Connections, name: bytes, found: Mapping[bytes, Found]) -> None:
        if Mark.unpack(found[name][0]) is not None:
            return
        # A lease beside the value takes its place, so that nobody else takes one.
        beside = found.get(WireKeys.beside(name))
        mark = None if beside is None else Mark.unpack(beside[0])
        data, expiry = b"", GONE
        if mark is not None and self.now() < mark.until:
            data, expiry = mark.pack(), exptime(mark.until, self.now())
        await client.cas(name, data, found[name][1], expiry)

    async def clear(self) -> None:
        raise Unsupported(
            "memcached cannot list keys, so a MemcachedStorage cannot be cleared; remove the keys "
            "you know, or make the storage with another namespace="
        )

    # --- the server ---------------------------------------------------------------------------

    async def ping(self) -> None:
        await self._run(Connections.version)

    async def aclose(self) -> None:
        await self._here.aclose()

    async def _run(self, work: Callable[[Connections], Awaitable[T]]) -> T:
        return await self._here.get().link.run(work)

    # --- names and data -----------------------------------------------------------------------

    def _name(self, key: Key) -> bytes:
        return self._keys.value(str(key))

    def _expiry(self, entry: Entry) -> int:
        return exptime(entry.dead_after, self.now())

    def _packed(self, key: Key, entry: Entry) -> tuple[bytes, bytes]:
        """Return name and data; raise `ValueTooLarge` for what the server would not take."""
        name = self._name(key)
        data = self.packer.pack_entry(entry, key=name)
        limit = self._server.item_size_max - ITEM_HEADER - len(name)
        if self.max_value_bytes is not None:
            limit = min(limit, self.max_value_bytes)
        if len(data) > limit:
            raise ValueTooLarge(
                f"the value of {key} has {len(data)} bytes and may have {limit}: store less, start "
                "memcached with a larger -I, or raise max_value_bytes= if it is given",
                size=len(data),
                limit=limit,
            )
        return name, data

    def _read(self, name: bytes, data: bytes) -> Entry | None:
        """Return the entry in ``data``, dead or not; None if it is a mark or unreadable."""
        try:
            return self.packer.unpack_entry(data, key=name)
        except UnpackError as error:
            if Mark.unpack(data) is None:
                self.corrupt += 1
                if events.hooks:
                    events.emit(events.Corrupt(storage=self, key=name.decode(), reason=str(error)))
            return None


class _Here:
    """What belongs to one event loop: the connections, and what is being looked up this tick."""

    def __init__(self, link: Link, leasing: Leasing) -> None:
        self.link = link
        self.lookups: Batch[bytes, Entry | None] = Batch(self._send)
        self._leasing = leasing

    def _send(self, calls: Calls[bytes, Entry | None]) -> None:
        task = self.link.start(partial(_look, list(calls)))
        task.add_done_callback(partial(self._answer, calls))

    def _answer(
        self, calls: Calls[bytes, Entry | None], task: asyncio.Task[dict[bytes, Found]]
    ) -> None:
        if task.cancelled():
            for future in (future for futures in calls.values() for future in futures):
                future.cancel()
            return
        error = task.exception()
        if isinstance(error, Exception):
            fail(calls, error)
            return
        found, read, now = task.result(), self._leasing.read, self._leasing.now()
        for name, futures in calls.items():
            try:
                one = found.get(name)
                entry = None if one is None else read(name, one[0])
                if entry is not None and not now < entry.dead_after:
                    entry = None
                for future in futures:
                    if not future.done():
                        future.set_result(entry)
            except Exception as fault:  # noqa: BLE001 - it is raised in those who wait
                fail({name: futures}, fault)

    async def aclose(self) -> None:
        await self.link.aclose()

    def abandon(self) -> None:
        self.link.abandon()


async def _set(client: Connections, name: bytes, data: bytes, expiry: int) -> bool:
    return await client.set(name, data, expiry)


async def _look(names: Iterable[bytes], client: Connections) -> dict[bytes, Found]:
    return await client.look(names)


def _check_above_zero(**options: float) -> None:
    for option, value in options.items():
        if not value > 0:
            raise ConfigurationError(f"{option}= must be above zero, not {value!r}")

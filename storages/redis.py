"""Entries in Redis (6.2 or newer) or Valkey, over redis-py's asyncio connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from gecaso import events
from gecaso.changes import Change
from gecaso.durations import Duration, seconds
from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import StorageError, UnpackError, Unsupported
from gecaso.keys import Key, naming
from gecaso.loops import PerLoop
from gecaso.packing import Packer
from gecaso.packing.signing import Secret
from gecaso.storage import EntryStorage
from gecaso.verifying import verify

from . import _redis_scripts as scripts
from ._redis_changes import Following
from ._redis_dial import Dial
from ._redis_hub import AT_ONCE, Hub, ahead, hub_maker, pages, ping, portions, server_of
from ._redis_lines import Lines
from ._redis_replies import (
    Reply,
    checked,
    is_data,
    is_number,
    is_row,
    is_taking,
    partly,
    wholly,
)
from ._redis_server import shifted
from ._redis_urls import place_of
from ._redis_wire import Command

if TYPE_CHECKING:
    import redis.asyncio

__all__ = ["RedisStorage"]

ATTEMPTS = 5  # to replace what somebody else keeps replacing
JUST_FRESH = 0.1  # seconds that a value is still called fresh because the server has not expired it


class RedisStorage(EntryStorage):
    """Entries on Redis, shared by every process that uses it: one server, or a cluster of them.

    ``url_or_client`` is ``redis://user:password@host:port/db`` (``rediss://``: TLS),
    ``unix://…``, ``redis+sentinel://host:26379,host2:26379/mymaster/db`` or
    ``redis+cluster://host:7000,host2:7001``; ``valkey`` instead of ``redis`` is the same. Or it is
    a `redis.asyncio.Redis`, one of ``Sentinel(…).master_for(…)`` too, or a
    `redis.asyncio.RedisCluster`, whose settings are used.

    ``namespace`` keeps the keys of several caches apart: values are named ``namespace:{key}``. With
    a ``secret`` (bytes, or a list of them for rotation) every value is signed. No operation takes
    longer than ``timeout`` seconds, or ``connect_timeout`` if it must connect first. ``types`` are
    the classes that values may have. An invalidation or a ``set`` fails unless ``wait_replicas``
    replicas have it, too. With ``read_from_replicas`` lookups go to replicas, which may lag behind.

    Making one connects to nothing. It can be used in any loop, thread and forked child. Raises
    `ConfigurationError` for what cannot work.

    >>> storage = RedisStorage("redis://localhost:6379/0", namespace="shop")
    >>> await storage.set("answer", 42, ttl=60)
    >>> await storage.get("answer")
    42
    >>> await storage.aclose()
    """

    shared = True
    notifies = True

    def __init__(
        self,
        url_or_client: str | redis.asyncio.Redis | redis.asyncio.RedisCluster,
        *,
        namespace: str = "",
        secret: Secret | None = None,
        timeout: Duration = 0.25,
        connect_timeout: Duration = 0.5,
        types: Iterable[type] = (),
        wait_replicas: int = 0,
        read_from_replicas: bool = False,
        **packing: Any,
    ) -> None:
        self.namespace = namespace
        self.timeout = seconds(timeout, option="timeout")
        connecting = seconds(connect_timeout, option="connect_timeout")
        place = place_of(url_or_client, self.timeout, connecting)
        self.packer = Packer(secret=secret, types=types, **packing)
        self.corrupt = 0
        self._prefix = prefix = scripts.prefix_of(namespace)
        self._name = naming(lambda key: prefix + scripts.quoted(str(key)) + b"}")
        self._server = server_of(place, self._prefix)
        make_hub = hub_maker(
            place,
            self._server,
            self._unpack,
            wait_replicas=wait_replicas,
            read_from_replicas=read_from_replicas,
        )
        self._hub: PerLoop[Hub] = PerLoop(
            make_hub, lambda hub: hub.close(), lambda hub: hub.abandon()
        )
        self._following = PerLoop(
            lambda: Following(self._prefix, self._places), Following.close, Following.abandon
        )
        verify(self, self.packer)

    def __repr__(self) -> str:
        users = (*self._hub.resources(), *self._following.resources())
        connections = sum(user.connections() for user in users)
        return (
            f"<RedisStorage {self._server.where}, namespace {self.namespace!r}, "
            f"{connections} connections>"
        )

    def now(self) -> float:
        """Return the time of the server in seconds since 1970."""
        return self._server.now()

    # --- reading --------------------------------------------------------------------------------

    def _unpack(self, name: bytes, data: bytes, now: float) -> Entry | None:
        try:
            entry = self.packer.unpack_entry(data, key=name)
        except UnpackError as error:
            self._found_corrupt(name, error)
            return None
        until = entry.fresh_until
        if until < now + JUST_FRESH and until == entry.dead_after:
            # The server would have expired it: being there is being fresh, whatever clocks say.
            entry.fresh_until = entry.dead_after = now + JUST_FRESH
        return entry

    def _found_corrupt(self, name: bytes, error: UnpackError) -> None:
        self.corrupt += 1
        if events.hooks:
            events.emit(events.Corrupt(storage=self, key=name.decode(), reason=str(error)))

    def _entry(self, name: bytes, data: bytes | None) -> Entry | None:
        return None if data is None else self._unpack(name, data, self.now())

    def lookup(self, key: Key) -> Awaitable[Entry | None]:
        """Return a future of the entry, or of None; lookups of one tick share one round trip."""
        return self._hub.get().lookups.add(self._name(key))

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """Return what is stored; what is at a node that is out of reach is absent too.

        Raises `StorageError` only if no node of the keys can be reached.
        """
        hub, keys = self._hub.get(), list(keys)
        parts = (keys[start : start + AT_ONCE] for start in range(0, len(keys), AT_ONCE))
        asking = (hub.read([*map(self._name, some)]) for some in parts)
        found: dict[Key, Entry] = {}
        replies: list[Reply] = []
        async with contextlib.aclosing(ahead(asking)) as rounds:
            async for some in rounds:
                now, asked = self.now(), keys[len(replies) : len(replies) + len(some)]
                for key, data in zip(asked, some, strict=True):
                    if type(data) is bytes and (entry := self._unpack(self._name(key), data, now)):
                        found[key] = entry
                replies += some
        partly(replies, is_data)
        return found

    async def _call(
        self,
        commands: Iterable[Command],
        *,
        each: int = 1,
        urgent: bool = False,
        sure: bool = False,
    ) -> list[Reply]:
        """Return the replies, errors among them."""
        hub, replies = self._hub.get(), list[Reply]()
        asking = (
            hub.call(some, each=each, urgent=urgent, sure=sure) for some in portions(commands, each)
        )
        async with contextlib.aclosing(ahead(asking)) as rounds:
            async for some in rounds:
                replies += some
        return replies

    async def ping(self) -> None:
        """Ask the servers for a sign of life; raise `StorageError` if none of them gives one."""
        await ping(self._hub.get())

    # --- leases ---------------------------------------------------------------------------------

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        """Take leases. Keys at a node that is out of reach are absent, unless all are."""
        wanted = {key: (self._name(key), new_token()) for key in keys}
        started = time.monotonic()
        apart = self._hub.get().is_cluster
        taking = [scripts.take(*names, seconds, apart=apart) for names in wanted.values()]
        each = len(taking[0]) if taking else 1
        try:
            replies = partly(await self._call(chain.from_iterable(taking), each=each), is_taking)
        except (asyncio.CancelledError, StorageError):
            self._untake(wanted.values())
            raise
        until = started + self._server.offset + seconds
        result: dict[Key, Lease | Busy] = {}
        for start, (key, (name, token)) in enumerate(wanted.items()):
            taken, *rows = replies[start * each : start * each + each]
            if any(isinstance(reply, StorageError) for reply in (taken, *rows)):
                self._untake([(name, token)])
                continue
            data, holder = chain.from_iterable(rows)
            entry = self._entry(name, data)
            # It may be ours already, if a node of a cluster had to be asked twice.
            result[key] = (
                Busy(key, holder or b"", seconds, entry)
                if taken is None and holder != token
                else Lease(key, token, until, entry)
            )
        return result

    def _untake(self, wanted: Iterable[tuple[bytes, bytes]]) -> None:
        """Nobody will use what may have been taken. What is said now arrives after the taking."""
        self._hub.get().tell(scripts.release(name, token) for name, token in wanted)

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        leases = list(leases)
        started = time.monotonic()
        commands = [scripts.renew(self._name(each.key), each.token, seconds) for each in leases]
        replies = partly(await self._call(commands), is_number)
        renewed = [lease for lease, ours in zip(leases, replies, strict=True) if ours == 1]
        for lease in renewed:
            lease.until = started + self._server.offset + seconds
        return {lease.key for lease in renewed}

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        commands = (self._commit(lease, entry) for lease, entry in entries.items())
        replies = partly(await self._call(commands), is_number)
        return {lease.key for lease, done in zip(entries, replies, strict=True) if done == 1}

    def _commit(self, lease: Lease, entry: Entry) -> Command:
        name = self._name(lease.key)
        data = self.packer.pack_entry(entry, key=name)
        return scripts.commit(name, lease.token, data, entry, self.now())

    async def release(self, leases: Iterable[Lease]) -> None:
        leases = list(leases)
        commands = [scripts.release(self._name(each.key), each.token) for each in leases]
        wholly([lease.key for lease in leases], await self._call(commands, urgent=True))

    async def wait(self, busy: Busy, timeout: float) -> None:
        lease = scripts.lease_of(self._name(busy.key))
        await self._hub.get().wait(lease, busy.token, timeout)

    # --- writing --------------------------------------------------------------------------------

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        entries = await self._in_server_time(entries)
        if expect is not None:
            return await self._swap(entries, expect)
        commands = (self._store(key, entry) for key, entry in entries.items())
        wholly(list(entries), await self._call(commands, urgent=True, sure=True))
        return set(entries)

    def _store(self, key: Key, entry: Entry) -> Command:
        name = self._name(key)
        return scripts.store(name, self.packer.pack_entry(entry, key=name), entry, self.now())

    async def _in_server_time(self, entries: Mapping[Key, Entry]) -> Mapping[Key, Entry]:
        """Return the entries as the server's clock would have timed them.

        Before the first connection `now` was this machine's own time, perhaps hours off.
        """
        server = self._server
        if server.known:
            return entries
        before = server.offset
        await self.ping()
        shift = server.offset - before
        return {key: shifted(entry, shift) for key, entry in entries.items()}

    async def _swap(
        self, entries: Mapping[Key, Entry], expect: Mapping[Key, bytes | None]
    ) -> set[Key]:
        def replacement(key: Key, there: Entry | None) -> Entry | None:
            version = None if there is None else there.version
            return entries[key] if version == expect.get(key) else None

        stored, _ = await self._replace(entries, replacement)
        return stored

    async def _replace(
        self, keys: Iterable[Key], replacement: Callable[[Key, Entry | None], Entry | None]
    ) -> tuple[set[Key], set[Key]]:
        """Put ``replacement(key, entry there)`` in place of what is there, where it is an entry.

        Returns the keys replaced, and the others. What changes in between is looked at again.
        """
        left, done, refused = list(keys), set[Key](), set[Key]()
        for _ in range(ATTEMPTS):
            swaps: dict[Key, Command] = {}
            names = [self._name(key) for key in left]
            rows = checked(
                await self._call([(b"MGET", name) for name in names], urgent=True), is_row
            )
            for key, name, (data,) in zip(left, names, rows, strict=True):
                entry = replacement(key, self._entry(name, data))
                if entry is None:
                    refused.add(key)
                else:
                    new = self.packer.pack_entry(entry, key=name)
                    swaps[key] = scripts.swap(name, data, new, entry, self.now())
            replies = await self._call(swaps.values(), urgent=True, sure=True)
            wholly(list(swaps), replies)
            done |= {key for key, swapped in zip(swaps, replies, strict=True) if swapped}
            left = [key for key in swaps if key not in done]
            if not left:
                break
        return done, refused.union(left)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        if keep_stale:
            _, keys = await self._replace(keys, self._expired)
        keys = list(keys)
        await self._discard(keys, map(self._name, keys))

    async def _discard(self, keys: list[Any], names: Iterable[bytes]) -> None:
        wholly(keys, await self._call(map(scripts.discard, names), urgent=True, sure=True))

    def _expired(self, key: Key, there: Entry | None) -> Entry | None:
        if there is None or there.fresh_until == there.dead_after:
            return None
        # Two machines measure the server's clock to half a round trip each.
        there.fresh_until = min(there.fresh_until, self.now() - self.timeout)
        return there

    async def evict(self, keys: Iterable[Key]) -> None:
        partly(await self._call((b"UNLINK", self._name(key)) for key in keys), is_number)

    async def clear(self) -> None:
        """Invalidate everything in the namespace. Raises `Unsupported` without a namespace."""
        if not self.namespace:
            raise Unsupported(
                "a RedisStorage without a namespace cannot be cleared: the server may hold keys of "
                'others; make it with RedisStorage(…, namespace="my-cache")'
            )
        # The first pass ends every lease taken before it. A value committed meanwhile, at a place
        # that the pass had left behind, is there during all of the second.
        hub = self._hub.get()
        await hub.ready()
        for _ in range(2):
            for lines in hub.nodes():
                await self._clear_at(lines)

    async def _clear_at(self, lines: Lines) -> None:
        async with contextlib.aclosing(pages(lines, scripts.values_pattern(self._prefix))) as names:
            async for some in names:
                values = {name.removesuffix(b":l") for name in some}
                ours = [name for name in values if name.endswith(b"}")]
                await self._discard(ours, ours)

    # --- changes --------------------------------------------------------------------------------

    async def changes(self) -> AsyncIterator[Change]:
        """Iterate over what changes, whoever changes it: `Changed`, `Cleared` and `Gap`.

        Our own changes, redis-cli's, and what expires or is evicted are told, too. What is told
        before it is taken comes together. The first item is a `Gap`, and so is the first after a
        connection was lost. Ends when the storage is closed. Raises `Unsupported` for a user who
        may not listen.
        """
        following = self._following.get()
        follower = following.follow()
        try:
            while (change := await follower.next()) is not None:
                yield change
        finally:
            await following.leave(follower)

    async def _places(self) -> list[Dial]:
        hub = self._hub.get()
        await hub.ready()
        return [lines.dial for lines in hub.nodes()]

    # --- the rest -------------------------------------------------------------------------------

    def learn(self, types: Iterable[type]) -> None:
        self.packer = self.packer.also(types)

    async def aclose(self) -> None:
        await self._following.aclose()
        await self._hub.aclose()

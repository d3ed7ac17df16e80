"""Entries in Redis (6.2 or newer) or Valkey, over redis-py's asyncio connections."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from gecaso import events
from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import StorageError, UnpackError, Unsupported
from gecaso.keys import Key
from gecaso.loops import PerLoop
from gecaso.packing import Packer
from gecaso.packing.signing import Secret
from gecaso.storage import EntryStorage

from . import _redis_scripts as scripts
from ._redis_dial import dial_of
from ._redis_lines import Lines
from ._redis_replies import (
    Reply,
    checked,
    is_number,
    is_page,
    is_pong,
    is_row,
    is_taking,
    strange,
)
from ._redis_server import Server
from ._redis_wire import Command

if TYPE_CHECKING:
    import redis.asyncio

__all__ = ["RedisStorage"]

AT_ONCE = 512  # keys in one command or pipeline
ATTEMPTS = 5  # to replace what somebody else keeps replacing
JUST_FRESH = 0.1  # seconds that a value is still called fresh because the server has not expired it


class RedisStorage(EntryStorage):
    """Entries on one Redis server, shared by every process that uses it.

    ``url_or_client`` is ``redis://user:password@host:port/db``, ``rediss://`` (TLS), ``unix://``,
    or a `redis.asyncio.Redis`, whose settings are used. ``namespace`` keeps the keys of several
    caches apart: values are named ``namespace:{key}``. With a ``secret`` (bytes, or a list of them
    for rotation) every value is signed. No operation takes longer than ``timeout`` seconds, or
    ``connect_timeout`` if it must connect first. ``types`` are the classes that values may have.

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
        url_or_client: str | redis.asyncio.Redis,
        *,
        namespace: str = "",
        secret: Secret | None = None,
        timeout: float = 0.25,
        connect_timeout: float = 0.5,
        types: Iterable[type] = (),
        **packing: Any,
    ) -> None:
        self._dial = dial_of(url_or_client, timeout, connect_timeout)
        self.namespace = namespace
        self.timeout = timeout
        self.packer = Packer(secret=secret, types=types, **packing)
        self.corrupt = 0
        self._prefix = scripts.prefix_of(namespace)
        self._server = Server(self._dial.where)
        self._lines = PerLoop(self._make_lines, Lines.close, Lines.abandon)

    def __repr__(self) -> str:
        connections = sum(lines.connections() for lines in self._lines.resources())
        return (
            f"<RedisStorage {self._dial.where}, namespace {self.namespace!r}, "
            f"{connections} connections>"
        )

    def _make_lines(self) -> Lines:
        return Lines(self._dial, self._server, self._unpack)

    def now(self) -> float:
        """Return the time of the server in seconds since 1970."""
        return self._server.now()

    # --- reading --------------------------------------------------------------------------------

    def _name(self, key: Key) -> bytes:
        return self._prefix + scripts.quoted(str(key)) + b"}"

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

    def _entries(
        self, names: Iterable[bytes], values: Iterable[bytes | None]
    ) -> Iterator[Entry | None]:
        now = self.now()
        for name, data in zip(names, values, strict=True):
            yield None if data is None else self._unpack(name, data, now)

    def lookup(self, key: Key) -> Awaitable[Entry | None]:
        """Return a future of the entry, or of None; lookups of one tick share one ``MGET``."""
        return self._lines.get().lookups.add(self._name(key))

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        keys = list(keys)
        names = [self._name(key) for key in keys]
        entries = self._entries(names, await self._read(names))
        pairs = zip(keys, entries, strict=True)
        return {key: entry for key, entry in pairs if entry is not None}

    async def _read(self, names: list[bytes]) -> list[bytes | None]:
        commands = [(b"MGET", *some) for some in _split(names)]
        rows = await self._call(commands, is_row)
        values = [data for row in rows for data in row]
        if len(values) != len(names):
            raise strange(rows)
        return values

    async def _call(
        self, commands: Iterable[Command], shape: Callable[[Reply], bool] = is_number
    ) -> list[Reply]:
        """Return the replies; raise the first error among them."""
        commands = list(commands)
        if not commands:
            return []
        return checked(await self._lines.get().line.call(*commands), shape)

    async def ping(self) -> None:
        await self._call([(b"PING",)], is_pong)

    # --- leases ---------------------------------------------------------------------------------

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        wanted = {key: (self._name(key), new_token()) for key in keys}
        if not wanted:
            return {}
        line = self._lines.get().line
        taking = [scripts.take(name, token, seconds) for name, token in wanted.values()]
        started = time.monotonic()
        try:
            replies = checked(await line.call(*chain.from_iterable(taking)), is_taking)
        except (asyncio.CancelledError, StorageError):
            # Nobody will use what may have been taken. What is said now arrives after the taking.
            line.tell(*(scripts.release(name, token) for name, token in wanted.values()))
            raise
        until = started + self._server.offset + seconds
        names = [name for name, _ in wanted.values()]
        entries = self._entries(names, [data for data, _ in replies[1::2]])
        result: dict[Key, Lease | Busy] = {}
        for (key, (_, token)), taken, (_, holder), entry in zip(
            wanted.items(), replies[::2], replies[1::2], entries, strict=True
        ):
            result[key] = (
                Busy(key, holder or b"", seconds, entry)
                if taken is None
                else Lease(key, token, until, entry)
            )
        return result

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        leases = list(leases)
        started = time.monotonic()
        commands = [scripts.renew(self._name(each.key), each.token, seconds) for each in leases]
        replies = await self._call(commands)
        renewed = [lease for lease, ours in zip(leases, replies, strict=True) if ours]
        for lease in renewed:
            lease.until = started + self._server.offset + seconds
        return {lease.key for lease in renewed}

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        now = self.now()
        commands: list[Command] = []
        for lease, entry in entries.items():
            name = self._name(lease.key)
            data = self.packer.pack_entry(entry, key=name)
            commands.append(scripts.commit(name, lease.token, data, entry, now))
        replies = await self._call(commands)
        return {lease.key for lease, done in zip(entries, replies, strict=True) if done}

    async def release(self, leases: Iterable[Lease]) -> None:
        await self._call(scripts.release(self._name(each.key), each.token) for each in leases)

    async def wait(self, busy: Busy, timeout: float) -> None:
        lease = scripts.lease_of(self._name(busy.key))
        await self._lines.get().wait(lease, busy.token, timeout)

    # --- writing --------------------------------------------------------------------------------

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        entries = await self._in_server_time(entries)
        if expect is not None:
            return await self._swap(entries, expect)
        now = self.now()
        commands: list[Command] = []
        for key, entry in entries.items():
            name = self._name(key)
            data = self.packer.pack_entry(entry, key=name)
            commands.append(scripts.store(name, data, entry, now))
        await self._call(commands)
        return set(entries)

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
        return {key: _shifted(entry, shift) for key, entry in entries.items()}

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
            values = await self._read(names)
            entries = self._entries(names, values)
            for key, name, data, there in zip(left, names, values, entries, strict=True):
                entry = replacement(key, there)
                if entry is None:
                    refused.add(key)
                else:
                    new = self.packer.pack_entry(entry, key=name)
                    swaps[key] = scripts.swap(name, data, new, entry, self.now())
            replies = await self._call(swaps.values())
            done |= {key for key, swapped in zip(swaps, replies, strict=True) if swapped}
            left = [key for key in swaps if key not in done]
            if not left:
                break
        return done, refused.union(left)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        if keep_stale:
            _, keys = await self._replace(keys, self._expired)
        await self._call(scripts.discard(self._name(key)) for key in keys)

    def _expired(self, key: Key, there: Entry | None) -> Entry | None:
        if there is None or there.fresh_until == there.dead_after:
            return None
        # Two machines measure the server's clock to half a round trip each.
        there.fresh_until = min(there.fresh_until, self.now() - self.timeout)
        return there

    async def evict(self, keys: Iterable[Key]) -> None:
        names = [self._name(key) for key in keys]
        await self._call((b"UNLINK", *some) for some in _split(names))

    async def clear(self) -> None:
        """Invalidate everything in the namespace. Raises `Unsupported` without a namespace."""
        if not self.namespace:
            raise Unsupported(
                "a RedisStorage without a namespace cannot be cleared: the server may hold keys of "
                'others; make it with RedisStorage(…, namespace="my-cache")'
            )
        # The first pass ends every lease taken before it. A value committed meanwhile, at a place
        # that the pass had left behind, is there during all of the second.
        for _ in range(2):
            await self._clear_pass()

    async def _clear_pass(self) -> None:
        pattern = scripts.values_pattern(self._prefix)
        cursor = b"0"
        while True:
            scan = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", 1000)
            ((cursor, names),) = await self._call([scan], is_page)
            values = {name.removesuffix(b":l") for name in names}
            ours = [name for name in values if name.endswith(b"}")]
            await self._call(map(scripts.discard, ours))
            if cursor == b"0":
                return

    # --- the rest -------------------------------------------------------------------------------

    def learn(self, types: Iterable[type]) -> None:
        self.packer = self.packer.also(types)

    async def aclose(self) -> None:
        await self._lines.aclose()


def _shifted(entry: Entry, shift: float) -> Entry:
    other = copy.copy(entry)
    other.created += shift
    other.fresh_until += shift
    other.dead_after += shift
    return other


def _split(names: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(names), AT_ONCE):
        yield names[start : start + AT_ONCE]

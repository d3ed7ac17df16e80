"""Entries on memcached, one server or a pool, shared by processes and machines."""

from __future__ import annotations

import asyncio
import copy
import ssl as tls
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from math import inf
from typing import Any, Final, TypeVar

from gecaso import events
from gecaso.base import LOCKS
from gecaso.breaker import Breaker
from gecaso.durations import Duration, seconds
from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import ConfigurationError, UnpackError, Unsupported
from gecaso.keys import Key
from gecaso.loops import PerLoop
from gecaso.packing import Packer
from gecaso.packing.signing import Secret
from gecaso.storage import EntryStorage
from gecaso.verifying import verify

from ._memcached_client import Connections
from ._memcached_here import IN_ONE_GO, Here, Outcomes
from ._memcached_leases import Leasing, TimedLease
from ._memcached_link import Link, Work
from ._memcached_ops import Operations
from ._memcached_parts import Head
from ._memcached_place import Place
from ._memcached_pool import Pool
from ._memcached_records import Mark, ServerClock, WireKeys
from ._memcached_server import Options
from ._memcached_sources import Servers

__all__ = ["MemcachedStorage"]

Job = TypeVar("Job")
Result = TypeVar("Result")

Taking = asyncio.Task[dict[Key, "Lease | Busy"]]

SHORTEST_LEASE: Final = 3.0  # seconds; the server's clock ticks once a second


class MemcachedStorage(EntryStorage):
    """Entries on one memcached server, or on a pool, shared by every process that uses it.

    ``servers`` is ``"host:port"`` or ``"memcached://host:port"``, a list of those, a function,
    plain or ``async``, that returns a list, or ``"elasticache://host:port"``, the configuration
    endpoint of a cluster. In a pool each key has one server; a server that is out of reach is out
    of reach with its keys, and the others go on. A name that resolves to several addresses is a
    pool of those. Names, function and endpoint are asked again every ``resolve_every`` seconds,
    which must be the same in all processes.

    ``namespace`` keeps the keys of several caches apart: values are named ``namespace:key``. With a
    ``secret`` every value is signed. No operation takes longer than ``timeout`` seconds, or
    ``connect_timeout`` if it must connect first. ``types`` are the classes that values may have.
    ``max_value_bytes`` bounds a packed value (64 MiB unless ``max_bytes`` says otherwise); one
    beyond the server's own limit, 1 MiB by default, is kept in parts. ``pool_size`` is the number
    of connections to each server in each event loop. ``ssl`` is an `ssl.SSLContext`, or True;
    ``"memcacheds://…"`` is the same. ``username`` and ``password`` are for servers that were
    started with ``-Y``. Further options go to `Packer`.

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
        servers: str | Iterable[str] | Servers,
        *,
        resolve_every: Duration = 30.0,
        namespace: str = "",
        secret: Secret | None = None,
        timeout: Duration = 0.25,
        connect_timeout: Duration = 0.5,
        types: Iterable[type] = (),
        max_value_bytes: int | None = None,
        pool_size: int = 2,
        ssl: tls.SSLContext | bool | None = None,
        username: str | None = None,
        password: str | None = None,
        **packing: Any,
    ) -> None:
        every = seconds(resolve_every, option="resolve_every")
        connect_timeout = seconds(connect_timeout, option="connect_timeout")
        _check_above_zero(
            pool_size=pool_size, max_value_bytes=1 if max_value_bytes is None else max_value_bytes
        )
        self.namespace = namespace
        self.timeout = timeout = seconds(timeout, option="timeout")
        self.max_value_bytes = max_value_bytes
        self.corrupt = 0
        """How often something unreadable was found, and taken for a miss."""
        keys = WireKeys(namespace)
        packer = Packer(secret=secret, types=types, **packing)
        place = Place.of(servers).with_login(username, password).with_tls(ssl)
        options = Options(
            size=pool_size,
            timeout=timeout,
            connect_timeout=connect_timeout,
            prefix=keys.prefix,
            most_bytes=packer.max_bytes,
            tls=place.tls,
            login=place.login,
        )
        self._clock = ServerClock()
        source = place.source(connect_timeout)
        self._pool = pool = Pool(source, options, self._clock, resolve_every=every)
        self._leasing = leasing = Leasing(self._clock.now, self._read)
        self._operations = Operations(keys, leasing, packer, max_value_bytes)
        self._name = self._operations.name
        self._here = PerLoop(lambda: Here(pool, leasing), Here.aclose, Here.abandon)
        verify(self, packer)

    def __repr__(self) -> str:
        connections = sum(here.connections for here in self._here.resources())
        return (
            f"<{type(self).__name__} {self._pool!r}, namespace {self.namespace!r}, "
            f"{connections} connections>"
        )

    @property
    def packer(self) -> Packer:
        """What packs values, and unpacks them."""
        return self._operations.packer

    def now(self) -> float:
        return self._clock.now()

    def learn(self, types: Iterable[type]) -> None:
        self._operations.packer = self.packer.also(types)

    # --- reading ------------------------------------------------------------------------------

    def lookup(self, key: Key) -> Awaitable[Entry | None]:
        return self._here.get().lookup(self._name(key))

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """Return what is stored; what is on a server that is out of reach is absent too.

        Raises `StorageError` only if no server of the keys can be reached.
        """
        names = {self._name(key): key for key in keys}
        found: dict[bytes, Entry] = {}
        for some in (
            await self._run({name: name for name in names}, self._operations.fetch)
        ).some():
            found |= some
        return {key: found[name] for name, key in names.items() if name in found}

    # --- leases -------------------------------------------------------------------------------

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        """Take leases; they run for three seconds at least, since the server counts seconds.

        Keys whose server is out of reach are absent, unless all are. A key that has just moved to
        another server is leased to everybody who asks, and nothing is stored under such a lease.
        """
        names = self._named(keys)
        if not names:
            return {}
        await self._know_the_time()
        asked_at, seconds = time.monotonic(), max(seconds, SHORTEST_LEASE)
        tokens, until = {key: new_token() for key in names}, self.now() + seconds
        view = await self._here.get().ready()
        moving = [
            key
            for key, name in names.items()
            if not view.is_settled(name, asked_at) and key.owner is not LOCKS
        ]
        got: dict[Key, Lease | Busy] = {
            key: TimedLease(key, tokens[key], until, None, asked_at) for key in moving
        }
        for key in moving:
            del names[key]
        tasks: list[tuple[Link, Taking]] = []

        def started(some: list[Key], link: Link, task: Taking) -> None:
            note = self._leasing.unsure.note
            task.add_done_callback(partial(note, [tokens[key] for key in some], seconds))
            tasks.append((link, task))

        take = partial(self._operations.take, tokens, until)
        try:
            outcomes = await self._run(names, take, started=started)
        except asyncio.CancelledError:
            for link, task in tasks:
                task.add_done_callback(partial(self._give_back, link))
            raise
        for some in outcomes.some():
            got |= some
        return {key: got[key] for key in tokens if key in got}

    def _give_back(self, link: Link, task: Taking) -> None:
        """Release what was leased for a caller that was cancelled meanwhile."""
        if task.cancelled() or task.exception() is not None or link.is_closed:
            return
        leases = [got for got in task.result().values() if isinstance(got, Lease)]
        if leases:
            link.start(partial(self._operations.release, leases))

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        until = self.now() + max(seconds, SHORTEST_LEASE)
        renew = partial(self._operations.renew, until)
        outcomes = await self._run(await self._still_there(leases), renew)
        return _union(outcomes.some())

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        commit = partial(self._operations.commit, entries)
        outcomes = await self._begin(await self._still_there(entries), commit)
        return _union(outcomes.some())

    async def release(self, leases: Iterable[Lease]) -> None:
        jobs = await self._still_there(leases)
        (await self._run(jobs, self._operations.release)).all()

    async def _still_there(self, leases: Iterable[Lease]) -> dict[Lease, bytes]:
        """Return the leases whose keys have not moved since, with the names of their values.

        A lock guards no value: it holds where it was taken, as long as that is where it is.
        """
        names = {lease: self._name(lease.key) for lease in leases}
        if not names or not (view := await self._here.get().ready()).has_moved:
            return names
        return {
            lease: name
            for lease, name in names.items()
            if getattr(lease, "asked_at", inf) >= view.believed_since(name)
            or lease.key.owner is LOCKS
        }

    # --- writing without a lease --------------------------------------------------------------

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        names = self._named(entries)
        shift = await self._know_the_time() if names else 0.0
        if abs(shift) > ServerClock.ROUGHNESS / 2:  # otherwise this machine's clock was right
            entries = {key: _shifted(entry, shift) for key, entry in entries.items()}
        if expect is not None:
            swap = partial(self._operations.swap, entries, expect)
            return _union((await self._begin(names, swap, urgent=True)).all())
        if self._pool.is_settling:
            await self.discard(names)  # where the keys were, too
        put = partial(self._operations.put, entries)
        return _union((await self._begin(names, put, urgent=True, at_once=IN_ONE_GO)).all())

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        names, how = self._named(keys), {"urgent": True, "everywhere": True}
        if keep_stale:
            outcomes = await self._run(names, self._operations.expire, **how)
        else:
            outcomes = await self._run(names, self._operations.discard, at_once=IN_ONE_GO, **how)
        outcomes.all()

    async def evict(self, keys: Iterable[Key]) -> None:
        (await self._run(self._named(keys), self._operations.evict)).some()

    async def clear(self) -> None:
        raise Unsupported(
            "memcached cannot list keys, so a MemcachedStorage cannot be cleared; remove the keys "
            "you know, or make the storage with another namespace="
        )

    async def _know_the_time(self) -> float:
        """Return by how many seconds `now` was behind the servers until now; at most once not 0.

        Before the first connection it was this machine's own time, perhaps hours off.
        """
        clock = self._clock
        before = clock.offset
        if not clock.is_known:
            await self.ping()
            clock.is_known = True  # or as well as it can be: some servers do not tell the time
        return clock.offset - before

    # --- the servers --------------------------------------------------------------------------

    async def ping(self) -> None:
        """Ask the servers for a sign of life; raise `StorageError` if none of them gives one."""
        here = self._here.get()
        view = await here.ready()
        pings = [here.link(server).start(Connections.ping) for server in view.servers.values()]
        await asyncio.wait(pings)
        errors = [error for ping in pings if (error := ping.exception()) is not None]
        if len(errors) == len(pings):
            raise errors[0]

    def breakers(self) -> Mapping[str, Breaker]:
        view = self._pool.view
        if view is None or view.only is not None:
            return {}
        return {name: server.breaker for name, server in view.servers.items()}

    async def aclose(self) -> None:
        await self._here.aclose()

    async def _run(
        self,
        jobs: Mapping[Job, bytes],
        work: Callable[[list[Job], Connections], Awaitable[Result]],
        **how: Any,
    ) -> Outcomes[Job, Result]:
        return await self._begin(jobs, lambda some: partial(work, some), **how)

    async def _begin(
        self, jobs: Mapping[Job, bytes], begin: Callable[[list[Job]], Work[Result]], **how: Any
    ) -> Outcomes[Job, Result]:
        return await self._here.get().run(jobs, begin, **how) if jobs else Outcomes([], [])

    # --- names and data -----------------------------------------------------------------------

    def _named(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        return {key: self._name(key) for key in keys}

    def _read(self, name: bytes, data: bytes) -> Entry | None:
        """Return the entry in ``data``, dead or not; None if it is a mark or unreadable.

        None also if it was stored when other processes may have looked for the key elsewhere: an
        invalidation may have passed it by.
        """
        try:
            entry = self._operations.packer.unpack_entry(data, key=name)
        except UnpackError as error:
            if Mark.unpack(data) is None and Head.unpack(data) is None:
                self.corrupt += 1
                if events.hooks:
                    events.emit(events.Corrupt(storage=self, key=name.decode(), reason=str(error)))
            return None
        view = self._pool.view
        if view is not None and view.has_moved:
            stored = entry.created - self._clock.offset
            if stored < view.believed_since(name):
                return None
        return entry


def _shifted(entry: Entry, shift: float) -> Entry:
    other = copy.copy(entry)
    other.created += shift
    other.fresh_until += shift
    other.dead_after += shift
    return other


def _union(sets: Iterable[set[Key]]) -> set[Key]:
    return {key for keys in sets for key in keys}


def _check_above_zero(**options: float) -> None:
    for option, value in options.items():
        if not value > 0:
            raise ConfigurationError(f"{option}= must be above zero, not {value!r}")

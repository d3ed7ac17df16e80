"""The servers of a storage, which of them has which key, and what happens when they change.

A server that is out of reach keeps its keys: they are out of reach with it, and none of them is
looked for, or invalidated, on another server. So when it is back, it has heard of every
invalidation that did not fail.

Only when the list of servers itself changes do keys move. Other processes hear of that later, or
heard of it earlier: meanwhile a key has two places, and an invalidation at one of them says nothing
to the other. So for as long as that may last nobody is served what is stored for a key that moved:
it is loaded, not stored; and it is invalidated at both places. And what is stored for it at its
new place counts only if it was stored after that: the server may have had the key before, and have
missed invalidations since.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from zlib import crc32

from gecaso.errors import StorageError

from ._memcached_records import ServerClock
from ._memcached_server import Address, Options, Server
from ._memcached_sources import Source
from ._ring import SLOTS, Ring

__all__ = ["Pool", "View"]

logger = logging.getLogger("gecaso")

AGREEMENT = 4.0
"""Seconds by which the clocks of processes may differ, and an answer may be late."""
LONGEST_ASKING = 5.0
"""Seconds that it may take to ask for the servers once some are known."""
LOST_ASKING = 10.0
"""Seconds after which asking for the servers is taken for lost: its event loop may be gone."""
FIRST_RETRY = 1.0
"""Seconds until the servers are asked for again after that has failed."""


class View:
    """The servers at one time. It never changes: a change makes another one."""

    __slots__ = ("former", "has_moved", "only", "owners", "ring", "servers", "settled_at", "since")

    def __init__(self, servers: Mapping[str, Server], before: View | None, until: float) -> None:
        self.servers = dict(servers)
        self.ring = Ring(servers)
        self.owners = [self.servers[name] for name in self.ring.owners]
        self.since: Sequence[float] = before.since if before is not None else (-inf,) * SLOTS
        """Since when what each slot's server has can be believed, by `time.monotonic`."""
        self.former: dict[int, tuple[Server, ...]] = {}
        """Where the keys of slots were that have moved."""
        if before is not None:
            self._follow(before, until)
        self.has_moved = any(since > -inf for since in self.since)
        self.settled_at = max(self.since)
        self.only = next(iter(self.servers.values())) if len(self.servers) == 1 else None

    def _follow(self, before: View, until: float) -> None:
        now = time.monotonic()
        since = list(before.since)
        for slot, (old, new) in enumerate(zip(before.owners, self.owners, strict=True)):
            earlier = before.former.get(slot, ()) if before.since[slot] > now else ()
            if old is not new:
                since[slot] = until
                earlier = (old, *earlier)
            if earlier := tuple(each for each in earlier if each is not new):
                self.former[slot] = earlier
        self.since = since

    def server(self, name: bytes) -> Server:
        """Return the server that has the key of this name."""
        return self.only or self.owners[crc32(name) & (SLOTS - 1)]

    def believed_since(self, name: bytes) -> float:
        """Return since when what is stored under this name can be believed."""
        return self.since[crc32(name) & (SLOTS - 1)]

    def is_settled(self, name: bytes, now: float) -> bool:
        """Return whether every process looks for this key at the same place by now."""
        return now >= self.settled_at or now >= self.believed_since(name)

    def former_servers(self, name: bytes, now: float) -> tuple[Server, ...]:
        """Return where other processes may still look for this key."""
        if self.is_settled(name, now):
            return ()
        return self.former.get(crc32(name) & (SLOTS - 1), ())


class Pool:
    """The servers of one storage in this process. ``view`` is None until they are known."""

    def __init__(
        self, source: Source, options: Options, clock: ServerClock, *, resolve_every: float
    ) -> None:
        self.source = source
        self._options = options
        self._clock = clock
        self._every = resolve_every
        self._ask_at = -inf
        self.view: View | None = None
        if source.is_fixed:
            self.take(source.known)
            self._ask_at = inf

    def __repr__(self) -> str:
        return ", ".join(self.view.servers) if self.view is not None else repr(self.source)

    @property
    def is_settling(self) -> bool:
        """Whether keys have moved so lately that other processes may not know of it."""
        return self.view is not None and time.monotonic() < self.view.settled_at

    def take_turn(self) -> bool:
        """Return True to the one who shall ask for the servers now, by `ask`."""
        now = time.monotonic()
        if now < self._ask_at:
            return False
        self._ask_at = now + LOST_ASKING
        return True

    async def ask(self) -> None:
        """Ask who the servers are; what was known stays if that fails."""
        patience = self._options.connect_timeout if self.view is None else LONGEST_ASKING
        try:
            async with asyncio.timeout(patience):
                addresses = await self.source.ask()
            if not addresses:
                raise LookupError("there is no server")
            self.take(addresses)
        except Exception as error:
            self._ask_at = time.monotonic() + min(FIRST_RETRY, self._every)
            if self.view is None:
                raise StorageError(
                    f"the servers of the memcached pool are not known ({self.source!r}); see "
                    f"whether what tells them can be reached: {error!r}"
                ) from error
            logger.warning("the servers of the memcached pool stay %r: %r", self, error)
        else:
            self._ask_at = time.monotonic() + self._every

    def take(self, addresses: Iterable[Address]) -> None:
        """Go on with these servers."""
        before = self.view
        wanted = {address.name: address for address in addresses}
        old = {} if before is None else before.servers
        if {name: server.address for name, server in old.items()} == wanted:
            return
        servers = {
            name: old[name]
            if name in old and old[name].address == address
            else Server(address, self._options, self._clock)
            for name, address in sorted(wanted.items())
        }
        view = View(servers, before, time.monotonic() + self._every + AGREEMENT)
        for server in (*old.values(), *servers.values()):
            server.is_alone = len(servers) == 1 and server in servers.values()
        self.view = view
        if before is not None:
            logger.info("the memcached pool is now %r; it was %s", self, ", ".join(old))

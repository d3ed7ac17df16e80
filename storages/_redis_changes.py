"""Changes of the keys of a namespace, whoever makes them, as the server's invalidations tell them.

The server keeps `a list of prefixes <https://redis.io/docs/latest/develop/reference/client-side-caching/>`_
and tells the clients of each which keys were written, expired or evicted (CLIENT TRACKING in
broadcasting mode). One connection asks for that and listens: it redirects to itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from gecaso.changes import Change, Changed, Cleared, Gap, told_as
from gecaso.errors import StorageError, StorageTimeout, Unsupported

from . import _redis_scripts as scripts
from ._batch import copy_of
from ._follower import Follower
from ._redis_dial import Dial
from ._redis_replies import Reply, strange
from ._redis_wire import Wire, packed

__all__ = ["Following", "Refused"]

CHANNEL: Final = b"__redis__:invalidate"
HEARTBEAT: Final = 5.0  # seconds between looks whether the connection still lives
RECONNECT: Final = (0.05, 1.0)  # seconds between attempts to connect: the first, the longest
LOOK_EVERY: Final = 1.0  # seconds between looks who the servers are


class Refused(Unsupported):
    """The server does not tell changes to this user."""


class Listener(Wire):
    """A connection that hears which keys with a prefix change."""

    def __init__(self, dial: Dial, prefix: bytes, hear: Callable[[Change], None]) -> None:
        super().__init__(dial)
        self._prefix = prefix
        self._hear = hear
        self._step = self._id
        self.refused: Refused | None = None
        self.opened: asyncio.Future[None] = self.loop.create_future()
        self.ended_at: asyncio.Future[None] = self.loop.create_future()
        patience = dial.connect_timeout + dial.timeout
        late = StorageTimeout(f"Redis at {dial.where} did not let us listen in time")
        self._timer = self.loop.call_later(patience, self.break_off, late)
        self.start()

    def __repr__(self) -> str:
        return f"<Listener at {self.dial.where}, {self.state}>"

    def greeting(self) -> bytes:
        return packed((b"CLIENT", b"ID"))

    def received(self, reply: Reply) -> None:
        if isinstance(reply, StorageError):
            if self._step != self._message and "NOPERM" in str(reply):
                self.refused = Refused(f"changes() is not for this user: {reply}")
            self.break_off(reply)
            return
        try:
            self._step(reply)
        except (TypeError, ValueError):
            self.break_off(strange(reply))

    def _id(self, reply: Reply) -> None:
        tracking = (b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", int(reply), b"BCAST")
        self._step = self._tracking
        self.write(packed((*tracking, b"PREFIX", self._prefix), (b"SUBSCRIBE", CHANNEL)))

    def _tracking(self, reply: Reply) -> None:
        if reply != b"OK":
            raise ValueError
        self._step = self._subscribed

    def _subscribed(self, reply: Reply) -> None:
        if reply[0] != b"subscribe":
            raise ValueError
        self._step = self._message
        self.opened.set_result(None)
        self._rest()

    def _message(self, reply: Reply) -> None:
        kind, *_, payload = reply
        if kind == b"pong":
            self._rest()
        elif kind == b"message":
            self._tell(payload)

    def _tell(self, names: list[bytes] | None) -> None:
        if names is None:  # FLUSHALL, FLUSHDB
            self._hear(Cleared())
            return
        texts = [scripts.text_of(name, self._prefix) for name in names]
        told = [told_as(text) for text in texts if text is not None]  # the others are leases
        if told:
            self._hear(Changed(told))

    def _rest(self) -> None:
        self._timer.cancel()
        self._timer = self.loop.call_later(HEARTBEAT, self._beat)

    def _beat(self) -> None:
        late = StorageTimeout(f"Redis at {self.dial.where} does not answer the listener")
        self._timer = self.loop.call_later(self.dial.timeout, self.break_off, late)
        self.write(packed((b"PING",)))

    def ended(self, error: StorageError) -> None:
        self._timer.cancel()
        for future in (self.opened, self.ended_at):
            if not future.done():
                future.set_result(None)


class Following:
    """Those who follow the changes in one event loop, and the connections that they share.

    ``places()`` returns how to connect to each server that has keys.
    """

    def __init__(self, prefix: bytes, places: Callable[[], Awaitable[Iterable[Dial]]]) -> None:
        self._prefix = prefix
        self._places = places
        self._loop = asyncio.get_running_loop()
        self._followers: set[Follower] = set()
        self._listeners: dict[str, Listener] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_open = self._is_closed = self._owes_gap = False

    def __repr__(self) -> str:
        return f"<Following: {len(self._followers)} followers, {list(self._listeners.values())}>"

    def connections(self) -> int:
        return sum(listener.broken is None for listener in self._listeners.values())

    def follow(self) -> Follower:
        """Return a follower, who hears first of a gap: as soon as what comes after is told."""
        follower = Follower()
        if self._is_closed:
            follower.end()
            return follower
        self._followers.add(follower)
        if self._is_open:
            follower.hear(Gap())
        if self._task is None:
            self._task = self._loop.create_task(self._keep())
        return follower

    async def leave(self, follower: Follower) -> None:
        """Tell him nothing more; the last one closes the connections."""
        self._followers.discard(follower)
        if not self._followers:
            await self._stop()

    def _hear(self, change: Change) -> None:
        for follower in self._followers:
            follower.hear(change)

    async def _keep(self) -> None:
        """Keep a connection to each server; tell of a gap whenever one is new."""
        pause, longest = RECONNECT
        while True:
            try:
                await self._listen()
            except Refused as error:
                for follower in self._followers:
                    follower.end(error)
                self._followers.clear()
                return
            except StorageError:
                self._is_open = False
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            pause, self._is_open = RECONNECT[0], True
            if self._owes_gap:
                self._owes_gap = False
                self._hear(Gap())
            ends = [listener.ended_at for listener in self._listeners.values()]
            await asyncio.wait(ends, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)

    async def _listen(self) -> None:
        """Have a connection to each server; raise `StorageError` if that cannot be."""
        wanted = {dial.where: dial for dial in await self._places()}
        for where in self._listeners.keys() - wanted.keys():
            self._owes_gap = True
            await self._listeners.pop(where).close()
        for where, dial in wanted.items():
            listener = self._listeners.get(where)
            if listener is None or listener.broken is not None:
                self._owes_gap = True
                self._listeners[where] = Listener(dial, self._prefix, self._hear)
        await asyncio.wait([listener.opened for listener in self._listeners.values()])
        for listener in self._listeners.values():
            if listener.broken is not None:
                raise listener.refused or copy_of(listener.broken)

    async def _stop(self) -> None:
        task, self._task = self._task, None
        self._is_open = False
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        for listener in self._listeners.values():
            await listener.close()
        self._listeners.clear()

    async def close(self) -> None:
        self._is_closed = True
        for follower in self._followers:
            follower.end()
        self._followers.clear()
        await self._stop()

    def abandon(self) -> None:
        for listener in self._listeners.values():
            listener.abandon()

"""Being told that a lease is gone: one subscriber connection per loop, one channel per lease."""

from __future__ import annotations

import asyncio
from asyncio import Future

from gecaso.errors import StorageError, StorageTimeout

from ._batch import copy_of, settle
from ._redis_dial import Dial
from ._redis_replies import Reply
from ._redis_wire import Wire, packed

__all__ = ["Ears"]


class _Channel:
    """A channel and those who listen to it."""

    __slots__ = ("listeners", "subscribed")

    def __init__(self, subscribed: Future[None]) -> None:
        self.subscribed = subscribed
        self.listeners: set[Future[None]] = set()


class Ears(Wire):
    """The connection that listens. When it breaks, everybody is woken and looks for himself."""

    def __init__(self, dial: Dial) -> None:
        super().__init__(dial)
        self._channels: dict[bytes, _Channel] = {}
        self.start()

    def __repr__(self) -> str:
        return f"<Ears at {self.dial.where}, {self.state}, {len(self._channels)} channels>"

    def listen(self, name: bytes) -> Future[None]:
        """Return a future that is done when there is a message, or none can come any more."""
        heard: Future[None] = self.loop.create_future()
        if self.broken is not None:
            heard.set_result(None)
            return heard
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(self.loop.create_future())
            self.write(packed((b"SUBSCRIBE", name)))
        channel.listeners.add(heard)
        return heard

    def forget(self, name: bytes, heard: Future[None]) -> None:
        """End listening; the last one to leave a channel unsubscribes."""
        heard.cancel()
        channel = self._channels.get(name)
        if channel is not None:
            channel.listeners.discard(heard)
            self._leave_if_empty(name, channel)

    def _leave_if_empty(self, name: bytes, channel: _Channel) -> None:
        # Not before the subscription is confirmed: its confirmation could otherwise be taken for
        # that of the next one.
        if not channel.listeners and channel.subscribed.done():
            del self._channels[name]
            self.write(packed((b"UNSUBSCRIBE", name)))

    async def subscribed(self, name: bytes, timeout: float) -> None:
        """Wait until messages come, at most ``timeout`` seconds.

        Raises `StorageError` when the connection is broken, or does not answer in its time.
        """
        channel = self._channels.get(name)
        if channel is not None and not channel.subscribed.done():
            patience = self.dial.connect_timeout + self.dial.timeout
            await asyncio.wait((channel.subscribed,), timeout=min(timeout, patience))
            if timeout > patience and not channel.subscribed.done():
                self.break_off(
                    StorageTimeout(f"Redis at {self.dial.where} did not let us subscribe in time")
                )
        if self.broken is not None:
            raise copy_of(self.broken)

    def greeting(self) -> bytes:
        return b""

    def received(self, reply: Reply) -> None:
        if isinstance(reply, StorageError):
            self.break_off(reply)
            return
        kind, name = reply[0], reply[1]
        channel = self._channels.get(name)
        if channel is None:
            return
        if kind == b"subscribe":
            settle((channel.subscribed,), None)
            self._leave_if_empty(name, channel)
        elif kind == b"message":
            settle(channel.listeners, None)

    def ended(self, error: StorageError) -> None:
        for channel in self._channels.values():
            settle((channel.subscribed, *channel.listeners), None)
        self._channels.clear()

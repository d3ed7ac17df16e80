"""What a storage has in one event loop: its connections and its batches."""

from __future__ import annotations

import asyncio
import weakref
from asyncio import Future
from collections.abc import Callable
from functools import partial
from math import inf

from gecaso.entry import Entry
from gecaso.errors import StorageError

from ._batch import Batch, Calls, fail, settle
from ._redis_dial import Dial
from ._redis_ears import Ears
from ._redis_replies import is_row
from ._redis_server import Server
from ._redis_wire import Line, Outcome, Wire, packed

__all__ = ["Lines"]

Unpack = Callable[[bytes, bytes, float], "Entry | None"]  # (name, data, now) -> the entry


class Lines:
    """The connections of one loop, made when they are needed, and the batches that share them."""

    def __init__(self, dial: Dial, server: Server, unpack: Unpack) -> None:
        self._dial = dial
        self._server = server
        self._unpack = unpack
        self._line: Line | None = None
        self._ears: Ears | None = None
        self._closed = False
        self._open: set[Wire] = set()
        self.lookups: Batch[bytes, Entry | None] = Batch(self._look_up, weigh=len)
        self._holders: Batch[bytes, tuple[bytes | None, float]] = Batch(self._ask_holders)
        # Nothing in the loop refers to this object while nothing is asked, so that a storage that
        # is dropped without being closed takes its connections along.
        weakref.finalize(self, _let_go, self._open).atexit = False

    def __repr__(self) -> str:
        return f"<Lines: {self._line!r}, {self._ears!r}>"

    @property
    def line(self) -> Line:
        """The connection for commands; a new one if the last is broken."""
        line = self._line
        if line is None or line.broken is not None:
            self._check_open()
            line = self._line = Line(self._dial, self._server)
            self._replace(line)
        return line

    @property
    def ears(self) -> Ears:
        """The connection that listens; a new one if the last is broken."""
        ears = self._ears
        if ears is None or ears.broken is not None:
            self._check_open()
            ears = self._ears = Ears(self._dial)
            self._replace(ears)
        return ears

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError("the storage was closed during the operation")

    def _replace(self, wire: Wire) -> None:
        broken = {other for other in self._open if other.broken is not None}
        self._open -= broken
        self._open.add(wire)

    def connections(self) -> int:
        return sum(wire.broken is None for wire in self._open)

    async def close(self) -> None:
        self._closed = True
        self.lookups.flush()
        for wire in list(self._open):
            await wire.close()
        self._open.clear()

    def abandon(self) -> None:
        for wire in self._open:
            wire.abandon()

    # --- lookups --------------------------------------------------------------------------------

    def _look_up(self, calls: Calls[bytes, Entry | None]) -> None:
        self.line.ask(packed((b"MGET", *calls)), 1, partial(self._looked_up, calls))

    def _looked_up(self, calls: Calls[bytes, Entry | None], outcome: Outcome) -> None:
        reply = outcome if isinstance(outcome, StorageError) else outcome[0]
        if isinstance(reply, StorageError):
            fail(calls, reply)
            return
        if not is_row(reply) or len(reply) != len(calls):
            raise TypeError
        unpack, now = self._unpack, self._server.now()
        for (name, futures), data in zip(calls.items(), reply, strict=True):
            try:
                entry = None if data is None else unpack(name, data, now)
                for future in futures:
                    if not future.done():
                        future.set_result(entry)
            except Exception as fault:  # noqa: BLE001 - it is raised in those who wait
                fail({name: futures}, fault)

    # --- waiting --------------------------------------------------------------------------------

    def _ask_holders(self, calls: Calls[bytes, tuple[bytes | None, float]]) -> None:
        commands = [(word, lease) for lease in calls for word in (b"GET", b"PTTL")]
        self.line.ask(packed(*commands), len(commands), partial(self._told_holders, calls))

    def _told_holders(
        self, calls: Calls[bytes, tuple[bytes | None, float]], outcome: Outcome
    ) -> None:
        if isinstance(outcome, StorageError):
            fail(calls, outcome)
            return
        replies = iter(outcome)
        for lease, futures in calls.items():
            token, left = next(replies), next(replies)
            if isinstance(token, StorageError):
                fail({lease: futures}, token)
            else:
                settle(futures, (token, inf if left < 0 else left / 1000))

    async def wait(self, lease: bytes, token: bytes, timeout: float) -> None:
        """Wait until that token no longer holds the lease, at most ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        ears = self.ears
        heard = ears.listen(lease)
        try:
            await ears.subscribed(lease, timeout)
            # Only now: what happened before the subscription was not heard.
            while not heard.done() and (left := end - loop.time()) > 0:
                holder, runs_for = await self._holders.add(lease)
                if holder != token:
                    return
                await _pause(heard, min(left, runs_for + 0.001))
        finally:
            ears.forget(lease, heard)


async def _pause(heard: Future[None], seconds: float) -> None:
    await asyncio.wait((heard,), timeout=None if seconds == inf else seconds)


def _let_go(wires: set[Wire]) -> None:
    for wire in wires:
        wire.let_go()

"""What a storage has in one event loop for one server: its connections and its batches."""

from __future__ import annotations

import asyncio
import weakref
from asyncio import Future
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, ClassVar

from gecaso.entry import Entry
from gecaso.errors import StorageError

from ._batch import Batch, Calls, copy_of, fail, settle
from ._redis_dial import Dial
from ._redis_ears import Ears
from ._redis_replies import Reply, is_row, strange
from ._redis_server import Server
from ._redis_wire import Command, Line, Outcome, Wire, packed

if TYPE_CHECKING:
    from ._redis_replicas import Replicas

__all__ = ["Lines", "Unpack", "answer"]

LOOKS_EVERY = 0.12  # seconds, about: how often a server looks whose WAIT has taken too long

Unpack = Callable[[bytes, bytes, float], "Entry | None"]  # (name, data, now) -> the entry


class Lines:
    """The connections of one loop to one server, made when they are needed, and their batches.

    ``wait_replicas``: how many replicas must have an invalidation before it counts as done.
    """

    is_cluster: ClassVar[bool] = False

    def __init__(
        self,
        dial: Dial,
        server: Server,
        unpack: Unpack,
        *,
        wait_replicas: int = 0,
        replicas: Callable[[Lines], Replicas] | None = None,
    ) -> None:
        self.dial = dial
        self._server = server
        self._unpack = unpack
        self._wait_replicas = wait_replicas
        self._line: Line | None = None
        self._slow_line: Line | None = None
        self._ears: Ears | None = None
        self._closed = False
        self._open: set[Wire] = set()
        self.lookups: Batch[bytes, Entry | None] = Batch(self._look_up, weigh=len)
        self._holders: Batch[bytes, tuple[bytes | None, float]] = Batch(self._ask_holders)
        self._replicas = None if replicas is None else replicas(self)
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
            line = self._line = self.dialled(self.dial, self._server)
        return line

    @property
    def slow_line(self) -> Line:
        """The connection for what waits at the server, and would hold up what is behind it."""
        line = self._slow_line
        if line is None or line.broken is not None:
            line = self._slow_line = self.dialled(self.dial, self._server)
        return line

    @property
    def ears(self) -> Ears:
        """The connection that listens; a new one if the last is broken."""
        ears = self._ears
        if ears is None or ears.broken is not None:
            self._check_open()
            ears = self._ears = Ears(self.dial)
            self._replace(ears)
        return ears

    def dialled(self, dial: Dial, server: Server, *, reads_replica: bool = False) -> Line:
        """Return a new connection, which ends with this object."""
        self._check_open()
        line = Line(dial, server, reads_replica=reads_replica)
        self._replace(line)
        return line

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

    # --- commands -------------------------------------------------------------------------------

    def call(
        self,
        commands: Sequence[Command],
        *,
        each: int = 1,
        urgent: bool = False,
        sure: bool = False,
    ) -> Awaitable[list[Reply]]:
        """Return the replies, errors of the server among them; ``each`` and ``urgent`` are for
        clusters. What must be ``sure`` counts only when the replicas have it, if that was asked
        for.
        """
        if sure and self._wait_replicas:
            return self._call_surely(commands)
        return self.line.call(*commands)

    async def _call_surely(self, commands: Sequence[Command]) -> list[Reply]:
        wanted, line = self._wait_replicas, self.slow_line
        # It is the server that should give up, so that the connection stays.
        patience = max(0.001, self.dial.timeout - LOOKS_EVERY)
        waiting = (b"WAIT", wanted, int(patience * 1000))
        *replies, reached = await line.call(*commands, waiting)
        if not isinstance(reached, int):
            raise reached if isinstance(reached, StorageError) else strange(reached)
        if reached < wanted:
            raise StorageError(
                f"Redis at {self.dial.where} has done it, but only {reached} replicas have it by "
                f"now, and wait_replicas={wanted} asks for more: a fail-over may forget it"
            )
        return replies

    def tell(self, commands: Iterable[Command]) -> None:
        """Write commands behind the others, if that is possible; nobody waits for replies."""
        if self._line is not None:
            self._line.tell(*commands)

    def nodes(self) -> list[Lines]:
        """Return what each server with keys is reached by: this."""
        return [self]

    async def ready(self) -> None:
        """Wait until the servers are known."""

    # --- lookups --------------------------------------------------------------------------------

    def read(self, names: Sequence[bytes]) -> Awaitable[list[Reply]]:
        """Return what is stored under each name; from a replica, where that was asked for."""
        future: Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self.ask(packed((b"MGET", *names)), 1, partial(answer, future, len(names)), at_once=False)
        return future

    def ask(
        self, data: bytes, wanted: int, done: Callable[[Outcome], None], *, at_once: bool = True
    ) -> None:
        """Ask for what may be read from a replica, where that was asked for."""
        if self._replicas is None:
            self.line.ask(data, wanted, done, at_once=at_once)
        else:
            self._replicas.ask(data, wanted, done)

    def _look_up(self, calls: Calls[bytes, Entry | None]) -> None:
        self.ask(packed((b"MGET", *calls)), 1, partial(self._looked_up, calls))

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
        self.line.ask(
            packed(*commands), len(commands), partial(self._told_holders, calls), at_once=True
        )

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


def answer(future: Future[list[Reply]], wanted: int, outcome: Outcome) -> None:
    """Give the row that is the only reply to somebody who waits for it."""
    if future.done():
        return
    reply = outcome if isinstance(outcome, StorageError) else outcome[0]
    if isinstance(reply, StorageError):
        future.set_exception(copy_of(reply))
    elif not is_row(reply) or len(reply) != wanted:
        raise TypeError
    else:
        future.set_result(reply)


async def _pause(heard: Future[None], seconds: float) -> None:
    await asyncio.wait((heard,), timeout=None if seconds == inf else seconds)


def _let_go(wires: set[Wire]) -> None:
    for wire in wires:
        wire.let_go()

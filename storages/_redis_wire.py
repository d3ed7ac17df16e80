"""The wire: one connection to Redis, many commands on their way at once, replies in their order.

A connection has one life: connecting, open, broken. It never waits for a caller: what is asked is
written at once, or when the connection is open, and its reply is handed to a callback. So
cancelling a caller changes nothing here, and a reply can never reach somebody else. Whatever goes
wrong breaks the connection, which fails all that is on its way; the next use makes another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final

import hiredis

from gecaso.errors import StorageError, StorageTimeout
from gecaso.loops import close_descriptor, close_without_loop

from ._batch import Outbox, copy_of
from ._redis_dial import Dial
from ._redis_errors import Elsewhere, Forbidden, refusal
from ._redis_replies import Reply, strange
from ._redis_server import Server

__all__ = [
    "Command",
    "Line",
    "Outcome",
    "Wire",
    "packed",
]

Command = tuple[bytes | int, ...]
Outcome = list[Reply] | StorageError

# hiredis' own stub says a tuple of one, and nothing of the result.
_pack_command: Callable[[Command], bytes] = getattr(hiredis, "pack_command")  # noqa: B009

NOTHING_YET: Final = object()
GRACE = 0.005  # seconds to read, after a busy loop, what has arrived in time


def packed(*commands: Command) -> bytes:
    """Return the bytes of commands on the wire."""
    return b"".join([_pack_command(command) for command in commands])


class Wire(asyncio.Protocol):
    """One connection of the running loop, from connecting to breaking."""

    def __init__(self, dial: Dial) -> None:
        self.dial = dial
        self.broken: StorageError | None = None
        self.loop = asyncio.get_running_loop()
        self._writer: asyncio.StreamWriter | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._unsent: list[bytes] = []
        self._outbox = Outbox(self._write_now)
        self._reader = hiredis.Reader(replyError=refusal, notEnoughData=NOTHING_YET)
        self._connecting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._connecting = self.loop.create_task(self._connect())

    @property
    def state(self) -> str:
        if self.broken is not None:
            return "broken"
        return "connecting" if self._transport is None else "open"

    def write(self, data: bytes, *, at_once: bool = False) -> None:
        """Write at the end of this tick, with what else is written in it; or now."""
        if self._transport is None:
            self._unsent.append(data)
        else:
            self._outbox.add(data, at_once=at_once)

    def _write_now(self, data: bytes) -> None:
        if self._transport is not None and self.broken is None:
            self._transport.write(data)

    @abstractmethod
    def greeting(self) -> bytes:
        """Return what to write first of all."""

    @abstractmethod
    def received(self, reply: Reply) -> None:
        """Take a reply."""

    @abstractmethod
    def ended(self, error: StorageError) -> None:
        """Fail everything that waits for a reply."""

    async def _connect(self) -> None:
        try:
            writer = await self.dial.connect(self)
        except StorageError as error:
            self.break_off(error)
            return
        except asyncio.CancelledError:
            self.break_off(StorageError("the event loop ended while connecting to Redis"))
            raise
        self._writer = writer  # collecting it would close the transport
        if self.broken is not None:
            writer.transport.abort()
            return
        self._transport = writer.transport
        unsent, self._unsent = self._unsent, []
        self._transport.write(b"".join((self.greeting(), *unsent)))

    def data_received(self, data: bytes) -> None:
        gets = self._reader.gets
        try:
            self._reader.feed(data)
            while self.broken is None and (reply := gets()) is not NOTHING_YET:
                self.received(reply)
        except hiredis.ProtocolError as error:
            self.break_off(
                StorageError(f"what answers at {self.dial.where} is not Redis ({error})")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f": {exc}" if exc else ""
        self.break_off(StorageError(f"the connection to Redis at {self.dial.where} broke{reason}"))

    def break_off(self, error: StorageError) -> None:
        """End this connection at once and fail all that waits for it."""
        if self.broken is not None:
            return
        self.broken = error
        self._unsent.clear()
        self._outbox.drop()
        if self._transport is not None:
            self._transport.abort()
        self.ended(error)

    async def close(self) -> None:
        """End this connection; return when its task and its descriptor are gone."""
        self.break_off(StorageError("the storage was closed during the operation"))
        connecting = self._connecting
        if connecting is not None and not connecting.done():
            connecting.cancel()
            await asyncio.wait((connecting,))
        await asyncio.sleep(0)  # the transport closes its descriptor in the next tick

    def abandon(self) -> None:
        """Close the descriptor and nothing else: the loop is closed, or it is the parent's."""
        self.broken = self.broken or StorageError("the event loop of this connection is closed")
        if self._transport is not None and self.loop.is_closed():
            close_without_loop(self._transport)
        close_descriptor(self._transport)

    def let_go(self) -> None:
        """End this connection from wherever its storage was collected."""
        if self.loop.is_closed():
            self.abandon()
            return
        with contextlib.suppress(RuntimeError):  # the loop has just closed
            self.loop.call_soon_threadsafe(self.break_off, StorageError("the storage is gone"))


class _Ask:
    """Commands on their way: how many replies they get, and who takes them."""

    __slots__ = ("deadline", "done", "replies", "wanted")

    def __init__(self, wanted: int, done: Callable[[Outcome], None], deadline: float) -> None:
        self.wanted = wanted
        self.done = done
        self.deadline = deadline
        self.replies: list[Reply] = []


class Line(Wire):
    """The connection for commands. It measures the clock of the server and watches the time.

    With ``reads_replica`` the other end may be a replica of a cluster's node.
    """

    def __init__(self, dial: Dial, server: Server, *, reads_replica: bool = False) -> None:
        super().__init__(dial)
        self._server = server
        self._reads_replica = reads_replica
        self._asks: deque[_Ask] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._late: _Ask | None = None
        self.start()

    def __repr__(self) -> str:
        return f"<Line to {self.dial.where}, {self.state}, {len(self._asks)} operations>"

    def ask(
        self,
        data: bytes,
        wanted: int,
        done: Callable[[Outcome], None],
        *,
        at_once: bool = False,
    ) -> None:
        """Write commands; call ``done`` with their ``wanted`` replies, or with what went wrong.

        They are written at the end of this tick, with what else is asked in it; or ``at_once``.
        """
        if self.broken is not None:
            done(self.broken)
            return
        transport, dial = self._transport, self.dial
        patience = dial.connect_timeout if transport is None else dial.timeout
        ask = _Ask(wanted, done, self.loop.time() + patience)
        self._asks.append(ask)
        if transport is None:
            self._unsent.append(data)
        else:
            self._outbox.add(data, at_once=at_once)
            if time.monotonic() > self._server.measure_at:
                self.measure()
        if self._watch is None:
            self._watch_until(ask.deadline)

    def call(self, *commands: Command) -> asyncio.Future[list[Reply]]:
        """Return a future of the replies. An error reply is one of them; see `checked`."""
        future: asyncio.Future[list[Reply]] = self.loop.create_future()

        def done(outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, StorageError):
                future.set_exception(copy_of(outcome))
            else:
                future.set_result(outcome)

        self.ask(packed(*commands), len(commands), done)
        return future

    def tell(self, *commands: Command) -> None:
        """Write commands whose replies nobody waits for."""
        if self.broken is None:
            self.ask(packed(*commands), len(commands), lambda outcome: None)

    def measure(self) -> None:
        """Look at the clock of the server."""
        sent = self._server.measuring()

        def take(outcome: Outcome) -> None:
            if not isinstance(outcome, StorageError):
                self._take_time(sent, outcome[0])

        self.ask(packed((b"TIME",)), 1, take)

    def _take_time(self, sent: float, reply: Reply) -> None:
        if isinstance(reply, StorageError):
            self.break_off(reply)
        else:
            self._server.measured(sent, reply)

    def greeting(self) -> bytes:
        sent = self._server.measuring()
        commands: list[Command] = [(b"TIME",), (b"INFO", b"server"), (b"INFO", b"memory")]
        if self._reads_replica:
            commands.append((b"READONLY",))
        elif self.dial.is_for_masters:
            commands.append((b"ROLE",))

        def take(outcome: Outcome) -> None:
            if isinstance(outcome, StorageError):
                return  # the operations behind it are told
            moment, *others = outcome
            self._take_time(sent, moment)
            for reply in others:
                self._look_at(reply)

        self._hurry(deadline := self.loop.time() + self.dial.timeout)
        trial = self._server.trial
        if trial:
            self._asks.appendleft(_Ask(len(trial), self._tried, deadline))
        self._asks.appendleft(_Ask(len(commands), take, deadline))
        return packed(*commands, *trial)

    def _tried(self, outcome: Outcome) -> None:
        replies = [outcome] if isinstance(outcome, StorageError) else outcome
        for reply in replies:
            if isinstance(reply, Forbidden):
                self.break_off(reply)

    def _look_at(self, reply: Reply) -> None:
        """Look at the reply to INFO or to ROLE. Both may be forbidden; they are not needed."""
        if isinstance(reply, list) and reply[:1] != [b"master"]:
            self.break_off(
                Elsewhere(f"{self.dial.where} leads to a replica, which is no master yet, or now")
            )
        elif isinstance(reply, bytes) and reply != b"OK":
            try:
                self._server.look_at(reply.decode("utf-8", "replace"))
            except StorageError as error:
                self.break_off(error)

    # --- replies --------------------------------------------------------------------------------

    def received(self, reply: Reply) -> None:
        if not self._asks:
            self.break_off(StorageError(f"Redis at {self.dial.where} answered without being asked"))
            return
        ask = self._asks[0]
        ask.replies.append(reply)
        if len(ask.replies) == ask.wanted:
            self._asks.popleft()
            try:
                ask.done(ask.replies)
            except (TypeError, ValueError):  # it has another shape than any reply to that
                error = strange(reply)
                ask.done(error)
                self.break_off(error)
        if isinstance(reply, Elsewhere):
            self.break_off(reply)

    def ended(self, error: StorageError) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        asks, self._asks = self._asks, deque()
        for ask in asks:
            ask.done(error)

    def _hurry(self, deadline: float) -> None:
        """Connecting is over, and what was given the time for it has no longer than the rest."""
        for ask in self._asks:
            ask.deadline = min(ask.deadline, deadline)
        self._watch_until(deadline)

    def _watch_until(self, deadline: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self.loop.call_at(deadline, self._look)

    def _look(self) -> None:
        """Break off when the oldest operation is overdue: one timer serves them all."""
        self._watch = None
        if not self._asks:
            return
        oldest = self._asks[0]
        if self.loop.time() < oldest.deadline:
            self._watch_until(oldest.deadline)
        elif self._late is not oldest:
            # Perhaps it was our own loop that was busy: read first what has arrived meanwhile.
            self._late = oldest
            self._watch_until(self.loop.time() + GRACE)
        else:
            self.break_off(
                StorageTimeout(
                    f"Redis at {self.dial.where} did not answer within {self.dial.timeout} s"
                )
            )

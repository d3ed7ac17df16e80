"""The wire: one connection to memcached, many commands on their way at once, replies in order.

aiomcache connects. What it does with a connection afterwards is not used: it gives one back to its
pool when a command is cancelled, and the next command then reads the reply to that one (its issue
489 in 0.8.2); it reads for ever when a connection ends in the middle of a reply; it fails for all
keys asked for together when one has flags; and it waits twice for each value. Here a reply is read
when it arrives, for whoever asked, who may be gone by then; and whatever goes wrong is the end of
the connection.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from asyncio import Future
from collections import deque
from collections.abc import Callable, Container
from typing import Any, Final

from aiomcache import ClientException
from aiomcache.pool import Connection

from gecaso.loops import close_descriptor, close_without_loop

from ._batch import Outbox, copy_of

__all__ = ["Ask", "Facts", "Found", "Line", "Lines", "Refusal", "Values"]

LARGEST_VALUE: Final = 1 << 30  # bytes; memcached takes no -I above that
LONGEST_LINE: Final = 512  # bytes; a name has 250 at most
MOST_FACTS: Final = 2000  # lines; a server tells some 150
GRACE: Final = 0.005  # seconds to read, after a busy loop, what has arrived in time
LATENESS: Final = 0.05  # seconds that a timer may be late before that is the fault of our loop

Found = tuple[bytes, int]
"""What the server holds under a name, and the number to replace it by (0 unless asked for)."""
Outcome = Any  # a result, or the exception that came in its place
Done = Callable[[Outcome], None]


class Refusal(ClientException):
    """The server did not do what it was told, and goes on: ``SERVER_ERROR out of memory``."""


class Ask(ABC):
    """A command on its way, and how its reply is read."""

    __slots__ = ("deadline", "done", "is_complete", "needs")

    def __init__(self, done: Done) -> None:
        self.done = done
        self.deadline = 0.0
        self.is_complete = False
        self.needs = 0
        """Bytes that must be there before it makes sense to read on."""

    @abstractmethod
    def read(self, data: bytes, at: int) -> int:
        """Read from there on; return where the rest begins. Raise `ClientException` at nonsense."""

    @abstractmethod
    def result(self) -> Any:
        """Return what was asked for; or an exception, to be raised in who asked."""


class Values(Ask):
    """The reply to ``get`` and ``gets``: names to values and their numbers."""

    __slots__ = ("found", "names")

    def __init__(self, names: Container[bytes], done: Done) -> None:
        self.done = done  # as the class above has it: a hit has one of these
        self.deadline = 0.0
        self.is_complete = False
        self.needs = 0
        self.names = names
        self.found: dict[bytes, Found] = {}

    def read(self, data: bytes, at: int) -> int:
        if at == 0 and self._read_at_once(data):
            self.is_complete = True
            return len(data)
        match_value, names, found = _VALUE.match, self.names, self.found
        self.needs = 0
        while head := match_value(data, at):
            name, size, number = head.groups()
            start = head.end()
            end = start + int(size)
            if end - start > LARGEST_VALUE:
                raise _nonsense(data, at)
            if len(data) < end + 2:
                self.needs = end + 2 - at
                return at
            if data[end : end + 2] != b"\r\n" or name not in names:
                raise _nonsense(data, at)
            found[name] = data[start:end], 0 if number is None else int(number)
            at = end + 2
        if data.startswith(_END, at):
            self.is_complete = True
            return at + len(_END)
        _end_of_line(data, at, must_be_missing=True)
        return at

    def _read_at_once(self, data: bytes) -> bool:
        """Read a whole reply in one piece, as most are; return whether that is what it is.

        Where a value holds what stands between values, the piece before that has not the size that
        it tells, and the reply is read in steps.
        """
        if not (data.startswith(_FIRST) and data.endswith(_LAST)):
            return False
        found, names = dict[bytes, Found](), self.names
        try:
            for piece in data[len(_FIRST) : -len(_LAST)].split(_NEXT):
                head, _, value = piece.partition(b"\r\n")
                name, _, size = head.split(b" ")
                if len(value) != int(size) or name not in names:
                    return False
                found[name] = value, 0
        except ValueError:  # another number of words, or no number
            return False
        self.found |= found
        return True

    def result(self) -> dict[bytes, Found]:
        return self.found


class Lines(Ask):
    """Replies of one line each, of which there are some: ``STORED``, ``DELETED`` and their like.

    The server may also refuse one, and goes on with the next: that is an exception in its place.
    """

    __slots__ = ("expected", "replies", "wanted")

    def __init__(self, wanted: int, expected: Container[bytes], done: Done) -> None:
        super().__init__(done)
        self.wanted = wanted
        self.expected = expected
        self.replies: list[bytes | Refusal] = []

    def read(self, data: bytes, at: int) -> int:
        replies, expected = self.replies, self.expected
        while len(replies) < self.wanted:
            end = _end_of_line(data, at)
            if end < 0:
                return at
            line = data[at:end]
            if line in expected:
                replies.append(line)
            elif line.startswith(b"SERVER_ERROR "):
                replies.append(Refusal("refused", line))
            else:
                raise _nonsense(data, at)
            at = end + 2
        self.is_complete = True
        return at

    def result(self) -> list[bytes | Refusal]:
        return self.replies


class Facts(Ask):
    """A reply of many lines: to ``stats``; or ``config get``, whose lines are kept as they are.

    There are none if this server does not know the command.
    """

    __slots__ = ("lines",)

    def __init__(self, done: Done) -> None:
        super().__init__(done)
        self.lines: list[bytes] = []

    def read(self, data: bytes, at: int) -> int:
        while (end := _end_of_line(data, at, longest=1 << 16)) >= 0:
            line = data[at:end]
            at = end + 2
            if line in (b"END", b"ERROR"):
                self.is_complete = True
                return at
            if len(self.lines) >= MOST_FACTS or line.startswith(b"CLIENT_ERROR"):
                raise ClientException("refused", line)
            self.lines.append(line)
        return at

    def result(self) -> list[bytes]:
        return self.lines


_VALUE: Final = re.compile(rb"VALUE ([!-~]+) [0-9]+ ([0-9]+)(?: ([0-9]+))?\r\n")
_FIRST: Final = b"VALUE "
_NEXT: Final = b"\r\n" + _FIRST
_END: Final = b"END\r\n"
_LAST: Final = b"\r\n" + _END


def _end_of_line(
    data: bytes, at: int, *, must_be_missing: bool = False, longest: int = LONGEST_LINE
) -> int:
    """Return where the line ends that begins there; -1 if its end has not come yet."""
    end = data.find(b"\r\n", at, at + longest)
    if (end < 0 and len(data) - at > longest) or (must_be_missing and end >= 0):
        raise _nonsense(data, at)
    return end


def _nonsense(data: bytes, at: int) -> ClientException:
    return ClientException("what came is no reply to that", data[at : at + 100])


class Line(asyncio.Protocol):
    """One connection: what is asked is written at once or at the end of the tick, never later."""

    def __init__(self, connection: Connection, timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.timeout = timeout
        self.broken: Exception | None = None
        self.on_end: Callable[[Exception], object] | None = None
        self._writer = connection.writer  # collecting it would close the transport
        self._transport: asyncio.WriteTransport = connection.writer.transport
        self._outbox = Outbox(self._write)
        self._asks: deque[Ask] = deque()
        self._rest = bytearray()
        self._watch: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._late: Ask | None = None
        self._transport.set_protocol(self)

    def __repr__(self) -> str:
        return f"<Line, {'broken' if self.broken else 'open'}, {len(self._asks)} commands>"

    @property
    def load(self) -> int:
        """How many commands wait for their replies; fewer than none while some are to be written.

        So what is asked in one tick goes over one connection, and in one piece.
        """
        return -1 if self._outbox else len(self._asks)

    @property
    def is_idle(self) -> bool:
        return not self._asks

    def hurry(self, timeout: float) -> None:
        """Connecting is over: what is asked from now on has no longer than that."""
        self.timeout = timeout
        if self._watch is not None and not self._asks:
            self._watch.cancel()
            self._watch = None

    def ask(self, data: bytes, ask: Ask, *, at_once: bool = False) -> None:
        """Send a command; ``ask.done`` is called with the result, or with what went wrong."""
        if self.broken is not None:
            ask.done(self.broken)
            return
        ask.deadline = self.loop.time() + self.timeout
        self._asks.append(ask)
        if at_once and not self._outbox:
            self._transport.write(data)
        else:
            self._outbox.add(data, at_once=at_once)
        if self._watch is None:
            self._look_until(ask.deadline)

    def call(
        self, data: bytes, make: Callable[[Done], Ask], *, at_once: bool = False
    ) -> Future[Any]:
        """The same, with a future of the result."""
        future: Future[Any] = self.loop.create_future()

        def done(outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(copy_of(outcome))
            else:
                future.set_result(outcome)

        self.ask(data, make(done), at_once=at_once)
        return future

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    # --- replies --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        rest, asks = self._rest, self._asks
        if rest:
            rest += data
            if asks and len(rest) < asks[0].needs:
                return
            data = bytes(rest)
            rest.clear()
        try:
            at = self._read(data)
        except ClientException as error:
            self.break_off(error)
            return
        if at < len(data) and self.broken is None:
            rest += memoryview(data)[at:]

    def _read(self, data: bytes) -> int:
        asks, at = self._asks, 0
        while at < len(data):
            if not asks:
                raise ClientException("a reply that nobody asked for", data[at : at + 100])
            ask = asks[0]
            at = ask.read(data, at)
            if not ask.is_complete:
                break
            if len(asks) == 1 and at < len(data):  # then neither is to be believed
                raise ClientException("a reply that nobody asked for", data[at : at + 100])
            asks.popleft()
            ask.done(ask.result())
        return at

    def eof_received(self) -> None:
        self.break_off(ConnectionResetError("the server closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.break_off(exc or ConnectionResetError("the server closed the connection"))

    def _look(self) -> None:
        """Break off when the oldest command is overdue: one timer serves them all."""
        self._watch = None
        if not self._asks:
            return
        oldest, now, due = self._asks[0], self.loop.time(), self._asks[0].deadline
        if now >= due:
            if self._late is oldest:
                self.break_off(TimeoutError())
                return
            # Our own loop was busy: read first what has arrived meanwhile. If it was busy for long,
            # nobody knows how long the server really took.
            self._late, due = oldest, now + GRACE
            if now - self._look_at > LATENESS:
                self._late, oldest.deadline, due = None, now + self.timeout, now + self.timeout
        self._look_until(due)

    def _look_until(self, due: float) -> None:
        self._look_at = due
        self._watch = self.loop.call_at(due, self._look)

    # --- its end --------------------------------------------------------------------------------

    def break_off(self, error: Exception) -> None:
        """End this connection at once and fail all that waits for a reply."""
        if self.broken is not None:
            return
        self.broken = error
        self._outbox.drop()
        self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
        asks, self._asks = self._asks, deque()
        if self.on_end is not None:
            self.on_end(error)
        for ask in asks:
            ask.done(error)

    def abandon(self) -> None:
        """Close the descriptor and nothing else: the loop is closed, or it is the parent's."""
        self.broken = self.broken or ConnectionAbortedError("the event loop is closed")
        if self.loop.is_closed():
            close_without_loop(self._transport)
        close_descriptor(self._transport)

"""The commands of memcached, over the connections of one event loop to one server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from aiomcache import ClientException
from aiomcache.pool import MemcachePool

from ._memcached_parts import AT_ONCE, MAGIC, Head, part_names, split
from ._memcached_records import longer
from ._memcached_wire import Facts, Found, Line, Lines, Refusal, Values

__all__ = ["Connections", "Dial", "Item", "NotLetIn"]

MIB: Final = 1 << 20
CHUNK: Final = 500  # commands, or names, that are written before their replies are awaited
HEAVY: Final = 1 << 20  # bytes of the same
ITEM_HEADER: Final = 100  # bytes that the server adds to a value and its key, at most

STORED: Final = frozenset((b"STORED", b"NOT_STORED", b"EXISTS", b"NOT_FOUND"))
DELETED: Final = frozenset((b"DELETED", b"NOT_FOUND"))

Item = tuple[bytes, bytes, int]
"""What to store: name, data, expiry."""


class NotLetIn(Exception):
    """The server does not let us in; the message says what to do."""


class Dial(NamedTuple):
    """How to connect to one server."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    """What the certificate must be for, if not for ``host``."""
    login: tuple[str, str] | None = None

    async def connect(self, timeout: float) -> Line:
        more: dict[str, Any] = {}
        if self.tls is not None:
            more = {"ssl": self.tls, "server_hostname": self.server_name or self.host}
        dialled = MemcachePool(self.host, self.port, minsize=1, maxsize=1, conn_args=more)
        line = Line(await dialled.acquire(), timeout)
        try:
            if self.login is not None:
                await self._log_in(line, " ".join(self.login).encode())
        except BaseException:
            line.break_off(ConnectionAbortedError("the connection was given up"))
            raise
        return line

    @staticmethod
    async def _log_in(line: Line, words: bytes) -> None:
        # The first ``set`` of a connection to a server with -Y is the login, whatever its key.
        command = b"set login 0 0 %d\r\n%b\r\n" % (len(words), words)
        try:
            await line.call(command, partial(Lines, 1, (b"STORED",)), at_once=True)
        except ClientException as error:
            if "authentication failure" in str(error):
                raise NotLetIn("the user name or the password is wrong") from None
            raise


class Connections:
    """Some connections to one life of a server: the end of one is the end of all of them.

    A number read before a restart of the server must not be sent after it, and numbers start anew
    with the server.
    """

    def __init__(self, *, prefix: bytes = b"", most_bytes: int = 64 * MIB) -> None:
        self.lines: list[Line] = []
        self.item_size_max = MIB
        self.lost: Exception | None = None
        self.has_split = False
        """Whether a value in parts has been met with."""
        self._prefix = prefix
        self._most_bytes = most_bytes

    @classmethod
    async def open(cls, dial: Dial, size: int, timeout: float, **options: Any) -> Connections:
        client = cls(**options)
        try:
            for _ in range(size):
                line = await dial.connect(timeout)
                client.lines.append(line)
                line.on_end = client.lose
        except BaseException:
            client.lose(ConnectionAbortedError("the connections were given up"))
            raise
        return client

    @property
    def is_usable(self) -> bool:
        return self.lost is None

    def line(self) -> Line:
        """Return the connection that has the least to do."""
        if self.lost is not None:
            raise ConnectionResetError("the connection was lost") from self.lost
        first = self.lines[0]
        return first if first.is_idle else min(self.lines, key=_load)

    def lose(self, error: Exception) -> None:
        """Close every connection at once; who waits for a reply gets the error."""
        self.lost = self.lost or error
        for line in self.lines:
            line.break_off(error)

    def abandon(self) -> None:
        """Close every socket without its loop, which is closed, or is that of the parent."""
        for line in self.lines:
            line.abandon()

    # --- reading --------------------------------------------------------------------------------

    async def look(self, names: Iterable[bytes], *, whole: bool = True) -> dict[bytes, Found]:
        """Read values with their numbers, in one command for each 500 names, in order.

        With ``whole``, the parts of a value that has some are read too; if they do not fit, its
        head stays in their place, which is no value.
        """
        asked = list(dict.fromkeys(names))
        line, found = self.line(), dict[bytes, Found]()
        replies = [_ask_values(line, b"gets", some) for some in _chunks(asked, CHUNK)]
        for reply in await asyncio.gather(*replies):
            found.update(reply)
        return await self.made_whole(found) if whole else found

    async def made_whole(self, found: dict[bytes, Found]) -> dict[bytes, Found]:
        """Put the values in the place of heads, where their parts are there."""
        for name, (data, number) in found.items():
            if data.startswith(MAGIC):
                head = Head.unpack(data)
                if head is not None and (value := await self._joined(head)) is not None:
                    found[name] = value, number
        return found

    async def _joined(self, head: Head) -> bytes | None:
        self.has_split = True
        if head.length > self._most_bytes:
            return None
        parts: list[bytes] = []
        for names in _chunks(part_names(self._prefix, head.token, head.parts), AT_ONCE):
            found = await _ask_values(self.line(), b"get", names)
            some = [found[name][0] for name in names if name in found]
            if len(some) < len(names) or max(map(len, some)) > head.size:
                return None
            parts += some
        return head.whole(parts)

    async def facts(self, about: bytes = b"") -> dict[bytes, bytes]:
        """Return what ``stats`` says; nothing if this server does not know the command."""
        lines: list[bytes] = await self.line().call(b"stats %b\r\n" % about, Facts)
        facts: dict[bytes, bytes] = {}
        for line in lines:
            kind, _, fact = line.partition(b" ")
            if kind != b"STAT":
                raise ClientException("stats failed", line)
            name, _, facts[name] = fact.partition(b" ")
        return facts

    async def ping(self) -> None:
        """Ask for a sign of life."""
        await self.look((self._prefix + b"~ping",))

    # --- writing --------------------------------------------------------------------------------

    async def add(self, name: bytes, data: bytes, expiry: int) -> bool:
        return await self._store(b"add", name, data, b"%d" % expiry)

    async def add_and_look(
        self, name: bytes, data: bytes, expiry: int, names: Sequence[bytes]
    ) -> tuple[bool, dict[bytes, Found]]:
        """Add, and look what is there then: one connection does both in order, in a round trip."""
        line = self.line()
        adding = line.call(
            b"add %b 0 %d %d\r\n%b\r\n" % (name, expiry, len(data), data),
            partial(Lines, 1, STORED),
        )
        (reply,), found = await asyncio.gather(adding, _ask_values(line, b"gets", names))
        if isinstance(reply, Refusal):
            raise reply
        return reply == b"STORED", await self.made_whole(found)

    async def set(self, name: bytes, data: bytes, expiry: int = 0) -> bool:
        return await self._store(b"set", name, data, b"%d" % expiry)

    async def cas(self, name: bytes, data: bytes, number: int, expiry: int = 0) -> bool:
        """Replace what was read with that number, if nobody has changed it since."""
        return await self._store(b"cas", name, data, b"%d" % expiry, b" %d" % number)

    async def _store(
        self, verb: bytes, name: bytes, data: bytes, expiry: bytes, number: bytes = b""
    ) -> bool:
        command = b"%b %b 0 %b %d%b\r\n%b\r\n" % (verb, name, expiry, len(data), number, data)
        (reply,) = await self.line().call(command, partial(Lines, 1, STORED))
        if isinstance(reply, Refusal):
            raise reply
        return bool(reply == b"STORED")

    async def set_all(self, items: Iterable[Item]) -> None:
        """Store values one after the other, in one round trip for each 500, or each megabyte."""
        some: list[bytes] = []
        weight = 0
        for name, data, expiry in items:
            some.append(b"set %b 0 %d %d\r\n%b\r\n" % (name, expiry, len(data), data))
            weight += len(data)
            if len(some) >= CHUNK or weight >= HEAVY:
                await self._run(some, STORED)
                some, weight = [], 0
        if some:
            await self._run(some, STORED)

    async def delete_in_order(self, names: Sequence[bytes]) -> None:
        """Delete values one after the other, in one round trip for each 500."""
        for some in _chunks(names, CHUNK):
            await self._run([b"delete %b\r\n" % name for name in some], DELETED)

    async def _run(self, commands: list[bytes], expected: frozenset[bytes]) -> None:
        replies = await self.line().call(
            b"".join(commands), partial(Lines, len(commands), expected)
        )
        for reply in replies:
            if isinstance(reply, Refusal):
                raise reply

    # --- values in parts ------------------------------------------------------------------------

    def room(self, name: bytes) -> int:
        """Return how many bytes one item under this name may have."""
        return self.item_size_max - ITEM_HEADER - len(name)

    async def placed(self, name: bytes, data: bytes, version: bytes, expiry: int) -> bytes:
        """Return what to store under ``name``: the data, or the head of parts stored by now."""
        if len(data) <= self.room(name):
            return data
        self.has_split = True
        head, parts = split(data, self.room(max(name, b"x" * 250, key=len)), version)
        names = part_names(self._prefix, head.token, head.parts)
        until = longer(expiry)
        await self.set_all((at, part, until) for at, part in zip(names, parts, strict=True))
        return head.pack()

    async def delete_parts(self, found: Iterable[bytes]) -> None:
        """Delete the parts that these data lead to, if they are heads."""
        for data in found:
            head = Head.unpack(data)
            if head is not None and head.length <= self._most_bytes:
                await self.delete_in_order(part_names(self._prefix, head.token, head.parts))


def _load(line: Line) -> int:
    return line.load


def _ask_values(
    line: Line, verb: bytes, names: Sequence[bytes]
) -> asyncio.Future[dict[bytes, Found]]:
    return line.call(b"%b %b\r\n" % (verb, b" ".join(names)), partial(Values, frozenset(names)))


def _chunks(names: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]

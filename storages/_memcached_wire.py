"""aiomcache's client for one event loop, without its ways of going wrong.

aiomcache 0.8.2 gives a connection back to its pool when a command is cancelled, and the next
command then reads the reply to that one (its issue 489); it reads for ever when a connection ends
in the middle of a reply; and it fails for all keys asked for together when one has flags. Here a
connection that fails is the end of all of them, and `_memcached_link` sees to it that a command
that does not run to its end fails.
"""

from __future__ import annotations

import asyncio
import re
from asyncio import StreamReader
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import aiomcache
from aiomcache.client import acquire
from aiomcache.pool import Connection, MemcachePool

from gecaso.loops import close_descriptor, close_without_loop

__all__ = ["Connections", "Found", "read_values"]

CHUNK: Final = 500  # commands written before their replies are read
READ_SIZE: Final = 1 << 17
LARGEST_VALUE: Final = 1 << 30  # bytes; memcached takes no -I above that
LONGEST_LINE: Final = 512  # bytes; a name has 250 at most

Found = tuple[bytes, int]
"""What the server holds under a name, and the number to replace it by."""


_open_pools: set[_Pool] = set()
"""Keeps streams from being collected while they are open, which warns: a link ends its pool."""


class _Pool(MemcachePool):
    """A fixed number of connections, all to one life of the server.

    aiomcache's own pool replaces a broken connection silently: a number read before a restart of
    the server would be sent after it. Here a broken connection is the end of all of them.
    """

    def __init__(self, host: str, port: int, size: int) -> None:
        super().__init__(host, port, minsize=size, maxsize=size)
        self.connections: list[Connection] = []
        self._idle: deque[Connection] = deque()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self.lost: BaseException | None = None

    async def open(self) -> None:
        _open_pools.add(self)
        for _ in range(self._maxsize):
            reader, writer = await asyncio.open_connection(self._host, self._port)
            connection = Connection(reader, writer)
            self.connections.append(connection)
            self._idle.append(connection)

    def is_usable(self) -> bool:
        return self.lost is None and not any(_is_broken(each) for each in self.connections)

    async def acquire(self) -> Connection:
        connection: Connection | None = None
        if self._idle:
            connection = self._idle.popleft()
        elif self.lost is None:
            waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            connection = await waiter
        if self.lost is not None or connection is None:
            raise ConnectionResetError("the connection was lost") from self.lost
        if _is_broken(connection):
            raise ConnectionResetError("the server closed the connection")
        return connection

    def release(self, conn: Connection) -> None:
        # Handed over, not put back: who asks at this moment must not be faster than who waits.
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(conn)
                return
        self._idle.append(conn)

    def lose(self, error: BaseException) -> None:
        """Close every connection at once; who uses or waits for one gets an error."""
        self.lost = self.lost or error
        _open_pools.discard(self)
        for connection in self.connections:
            connection.writer.transport.abort()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def abandon(self, *, loop_is_closed: bool) -> None:
        """Close every socket without its loop, which is closed, or is that of the parent."""
        _open_pools.discard(self)
        for _, writer in self.connections:
            if loop_is_closed:
                close_without_loop(writer.transport)
            close_descriptor(writer.transport)

    async def clear(self) -> None:
        self.lose(ConnectionAbortedError("the connections were closed"))


def _is_broken(connection: Connection) -> bool:
    reader, writer = connection
    return writer.is_closing() or reader.at_eof() or reader.exception() is not None


class Connections(aiomcache.FlagClient[bytes]):
    """aiomcache's client with the commands that it lacks, and an end to reading at the end."""

    def __init__(self, host: str, port: int, size: int) -> None:
        super().__init__(host, port, pool_size=size)
        self._pool: _Pool = _Pool(host, port, size)

    @property
    def pool(self) -> _Pool:
        return self._pool

    async def _execute_simple_command(self, conn: Connection, raw_command: bytes) -> bytes:
        # aiomcache's own goes round for ever, without a pause, when the connection has ended.
        conn.writer.write(raw_command)
        await conn.writer.drain()
        return await _line(conn.reader)

    async def look(self, names: Iterable[bytes]) -> dict[bytes, Found]:
        """Read values with their numbers, in one command for each 500 names, in order."""
        asked = list(dict.fromkeys(names))
        if len(asked) <= CHUNK:
            return await self._look(asked)
        found: dict[bytes, Found] = {}
        for start in range(0, len(asked), CHUNK):
            found.update(await self._look(asked[start : start + CHUNK]))
        return found

    @acquire
    async def _look(self, conn: Connection, names: Sequence[bytes]) -> dict[bytes, Found]:
        conn.writer.write(b"gets %b\r\n" % b" ".join(names))
        found = await read_values(conn.reader)
        if not found.keys() <= set(names):
            raise aiomcache.ClientException("a reply to another command")
        return found

    @acquire
    async def facts(self, conn: Connection, about: bytes = b"") -> dict[bytes, bytes]:
        """Return what ``stats`` says; nothing if this server does not know the command."""
        conn.writer.write(b"stats %b\r\n" % about)
        facts: dict[bytes, bytes] = {}
        while (line := await _line(conn.reader)) != b"END":
            kind, _, fact = line.partition(b" ")
            if kind == b"ERROR":
                break
            if kind != b"STAT":
                raise aiomcache.ClientException("stats failed", line)
            name, _, facts_value = fact.partition(b" ")
            facts[name] = facts_value
        return facts

    async def delete_in_order(self, names: Sequence[bytes]) -> None:
        """Delete values one after the other, in one round trip for each 500."""
        for start in range(0, len(names), CHUNK):
            await self._delete_in_order(names[start : start + CHUNK])

    @acquire
    async def _delete_in_order(self, conn: Connection, names: Sequence[bytes]) -> None:
        conn.writer.write(b"".join([b"delete %b\r\n" % name for name in names]))
        await conn.writer.drain()
        for _ in names:
            reply = await _line(conn.reader)
            if reply not in (b"DELETED", b"NOT_FOUND"):
                raise aiomcache.ClientException("delete failed", reply)


_VALUE: Final = re.compile(rb"VALUE (\S+) \d+ (\d+) (\d+)\r\n")
_END: Final = b"END\r\n"


async def read_values(reader: StreamReader) -> dict[bytes, Found]:
    """Read the reply to ``gets``: names to values and their numbers.

    aiomcache's own waits twice for each value; this one waits for the network only.
    """
    found: dict[bytes, Found] = {}
    data, at = await _more(reader), 0
    match_value = _VALUE.match
    while (head := match_value(data, at)) or not data.endswith(_END) or len(data) - at != len(_END):
        if head is None:
            if data.find(b"\n", at) >= 0 or len(data) - at > LONGEST_LINE:
                raise aiomcache.ClientException("gets failed", data[at : at + LONGEST_LINE])
            data, at = data[at:] + await _more(reader), 0
            continue
        name, size, cas = head.groups()
        start = head.end()
        end = start + int(size)
        if end - start > LARGEST_VALUE:
            raise aiomcache.ClientException("gets failed", head[0])
        if len(data) < end + 2:
            lacking = await reader.readexactly(end + 2 - len(data))
            data, start, end = data[start:] + lacking, 0, end - start
        if data[end : end + 2] != b"\r\n":
            raise aiomcache.ClientException("gets failed", head[0])
        found[name] = data[start:end], int(cas)
        at = end + 2
        if at == len(data):
            data, at = await _more(reader), 0
    return found


async def _more(reader: StreamReader) -> bytes:
    data = await reader.read(READ_SIZE)
    if not data:
        raise EOFError("the server closed the connection")
    return data


async def _line(reader: StreamReader) -> bytes:
    return (await reader.readuntil(b"\r\n"))[:-2]

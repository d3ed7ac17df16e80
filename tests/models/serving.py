"""A model behind a port of the running loop, so that an unchanged storage connects to it.

    server = await serve(RedisModel(clock))
    storage = RedisStorage(server.url)
    ...
    await server.aclose()

Over real TCP, or over whatever network the running loop has. Trouble is scripted: `Server.pause`,
`Server.drop`, `Server.refuse`, and ``server.trouble = function``, which is asked for each command
what becomes of it (see `Fault`, `once`).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial
from typing import Any

import hiredis

from . import replies
from .memcached_model import MemcachedModel
from .memcached_stream import Asked, MemcachedStream
from .redis_model import RedisModel

__all__ = ["Fault", "Server", "once", "serve"]

Command = Sequence[bytes]


class Fault(Enum):
    """What becomes of a command: whether it is applied, and what follows instead of a reply."""

    BREAK_BEFORE = False, "break"
    BREAK_AFTER = True, "break"
    HANG_BEFORE = False, "hang"
    HANG_AFTER = True, "hang"

    @property
    def is_applied(self) -> bool:
        return self.value[0]

    @property
    def breaks(self) -> bool:
        return self.value[1] == "break"


Trouble = Callable[[Command], Fault | None]


def once(fault: Fault, condition: Callable[[Command], bool] = lambda command: True) -> Trouble:
    """Return a trouble that befalls the first command for which the condition holds."""
    left = [fault]

    def trouble(command: Command) -> Fault | None:
        return left.pop() if left and condition(command) else None

    return trouble


class Server:
    """A model that listens. Make one with `serve`."""

    def __init__(
        self,
        model: RedisModel | MemcachedModel,
        host: str,
        *,
        between: Callable[[], float] | None = None,
    ) -> None:
        self.model = model
        self.host = host
        self.between = between
        self.port = 0
        self.trouble: Trouble | None = None
        self.commands = 0
        self.refuses = False
        self.is_paused = False
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<Server of {self.model!r} on port {self.port}, {len(self.connections)} open>"

    @property
    def url(self) -> str:
        if isinstance(self.model, RedisModel):
            return f"redis://{self.host}:{self.port}/0"
        return f"memcached://{self.host}:{self.port}"

    async def listen(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, self.host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _connection(self) -> Connection:
        if isinstance(self.model, RedisModel):
            return RedisConnection(self, self.model)
        return MemcachedConnection(self, self.model)

    def drop(self) -> None:
        """Break every connection."""
        for connection in list(self.connections):
            connection.drop()

    def refuse(self) -> None:
        """Break every connection, and those to come as soon as they are made."""
        self.refuses = True
        self.drop()

    def accept(self) -> None:
        """The end of `refuse`."""
        self.refuses = False

    def pause(self) -> None:
        """Take in, and answer nothing."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on: first with what has come in meanwhile."""
        self.is_paused = False
        for connection in list(self.connections):
            connection.data_received(b"")

    async def aclose(self) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            self._server.close()
        self.drop()
        if self._server is not None:
            await self._server.wait_closed()


class Connection(asyncio.Protocol):
    """One connection to a model: bytes in, commands, bytes out."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.transport: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._asked: deque[Asked] = deque()
        self._hangs = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.server.refuses:
            transport.abort()
            return
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)

    def drop(self) -> None:
        """Break this connection; what comes in later is not read."""
        self._hangs = True
        self.server.connections.discard(self)
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._waiting.append(data)
        if self.server.is_paused or self._hangs:
            return
        data = b"".join(self._waiting)
        self._waiting.clear()
        if self.server.between is None:
            for asked in self.commands(data):
                self._answer(asked)
            return
        was_idle = not self._asked
        self._asked.extend(self.commands(data))
        if was_idle and self._asked:
            self._answer_one()

    def _answer_one(self) -> None:
        """Answer one command, and the next one when others have had their chance."""
        self._answer(self._asked[0])
        self._asked.popleft()
        if self._asked and self.server.between is not None:
            asyncio.get_running_loop().call_later(self.server.between(), self._answer_one)

    def _answer(self, asked: Asked) -> None:
        if self._hangs:
            return
        command, run = asked
        self.server.commands += 1
        trouble = self.server.trouble
        fault = None if trouble is None else trouble(command)
        if fault is None:
            self.write(run())
            return
        if fault.is_applied:
            run()
        self._hangs = True
        if fault.breaks:
            self.drop()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self._hangs:
            self.transport.write(data)

    @abstractmethod
    def commands(self, data: bytes) -> Iterator[Asked]:
        """Return what has come in: each command, and what runs it and returns its reply."""


class RedisConnection(Connection):
    """RESP in, RESP2 or RESP3 out."""

    def __init__(self, server: Server, model: RedisModel) -> None:
        super().__init__(server)
        self.session = model.connect(self._push)
        self._reader = hiredis.Reader(notEnoughData=self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.session.close()
        super().connection_lost(exc)

    def drop(self) -> None:
        self.session.close()
        super().drop()

    def _push(self, message: replies.Push) -> None:
        self.write(replies.encoded(message, self.session.protocol))

    def commands(self, data: bytes) -> Iterator[Asked]:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not self:
            yield command, partial(self._run, command)

    def _run(self, command: Command) -> bytes:
        reply: Any = self.session.execute(command)
        return replies.encoded(reply, self.session.protocol)


class MemcachedConnection(Connection):
    """The classic protocol."""

    def __init__(self, server: Server, model: MemcachedModel) -> None:
        super().__init__(server)
        self._stream = MemcachedStream(model)

    def commands(self, data: bytes) -> Iterator[Asked]:
        return self._stream.feed(data)


async def serve(
    model: RedisModel | MemcachedModel,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    between: Callable[[], float] | None = None,
) -> Server:
    """Let a model listen in the running loop; port 0 is any that is free.

    With ``between`` commands that were sent together are not answered together, but so many seconds
    apart: those of other connections may come in between, as on a real server they may.
    """
    server = Server(model, host, between=between)
    await server.listen(port)
    return server

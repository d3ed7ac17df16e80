"""The connections of one event loop: each operation has one to itself, and a time to be done in.

An operation runs in a task of ours, so that no caller's cancellation reaches it. When its time is
up its connection is closed under it: asyncpg's own way, to ask the server to cancel the statement
over another connection, would leave this one waiting for a server that does not answer.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

from gecaso.errors import ConfigurationError, StorageError, StorageTimeout
from gecaso.loops import close_descriptor, close_without_loop

from ._batch import copy_of
from ._postgres_client import (
    GONE,
    OUTDATED,
    POOLER,
    ROLLED_BACK,
    Connection,
    Pool,
    connect,
    mapped,
)
from ._postgres_server import Server, Session

__all__ = ["Lane", "Lent", "Own", "Source", "abandon", "check_loop"]

T = TypeVar("T")

TRIES: Final = 3  # of a statement that the server rolled back because of others


class Source(Protocol):
    """Where connections come from."""

    is_lent: bool

    async def open(self) -> Connection: ...
    async def close(self, connection: Connection) -> None: ...


class Own:
    """Connections of ours, made from a URL."""

    is_lent = False

    def __init__(self, url: str, connect_timeout: float) -> None:
        self._url = url
        self._connect_timeout = connect_timeout

    async def open(self) -> Connection:
        return await connect(self._url, self._connect_timeout)

    async def close(self, connection: Connection) -> None:
        connection.terminate()


class Lent:
    """Connections that the user's pool lends us for one operation at a time."""

    is_lent = True

    def __init__(self, pool: Pool, connect_timeout: float) -> None:
        self._pool = pool
        self._connect_timeout = connect_timeout

    async def open(self) -> Connection:
        connection: Connection = await self._pool.acquire(timeout=self._connect_timeout)
        return connection

    async def close(self, connection: Connection) -> None:
        await self._pool.release(connection)


class _Deadline:
    """Ends an operation: by closing its connection, or by ending its wait for one."""

    __slots__ = ("_due", "_handle", "_loop", "is_over", "seconds", "session", "waiting")

    LATENESS = 0.05  # seconds; a loop that was blocked first reads what has come in meanwhile

    def __init__(self, loop: AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self.seconds = seconds
        self.is_over = False
        self.session: Session | None = None
        self.waiting: Future[Any] | None = None
        self._set()

    def _set(self) -> None:
        self._due = self._loop.time() + self.seconds
        self._handle = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        if self._loop.time() - self._due > self.LATENESS:
            self._set()
            return
        self.is_over = True
        if self.session is not None:
            self.session.connection.terminate()
        elif self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(TimeoutError())

    def end(self) -> None:
        self._handle.cancel()


class Lane:
    """At most ``size`` connections, opened as they are needed; those who wait are served in turn.

    ``timeout`` bounds an operation, ``connect_timeout`` one that has to wait for the first
    connection; both in seconds.
    """

    def __init__(
        self, source: Source, server: Server, size: int, timeout: float, connect_timeout: float
    ) -> None:
        self._source = source
        self._server = server
        self._size = size
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._idle: list[Session] = []
        self._waiting: deque[Future[Session]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.sessions: set[Session] = set()
        self.is_closed = False

    def __repr__(self) -> str:
        return (
            f"<Lane to {self._server.where}, {len(self.sessions)} of {self._size} connections, "
            f"{len(self._waiting)} operations wait>"
        )

    @property
    def has_queue(self) -> bool:
        """Whether operations wait for a connection."""
        return bool(self._waiting)

    async def run(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Return what ``work(session)`` returns. To be called in a task of ours."""
        is_met = self.sessions or (self._source.is_lent and self._server.is_known)
        deadline = _Deadline(self._loop, self._timeout if is_met else self._connect_timeout)
        try:
            with mapped(self._server.where):
                return await self._run(work, deadline)
        except StorageError as error:
            if deadline.is_over:
                raise StorageTimeout(
                    f"Postgres at {self._server.where} did not answer within {deadline.seconds} s; "
                    "see whether it is overloaded, or give it more with timeout= and "
                    "connect_timeout="
                ) from error
            if self.is_closed:
                raise StorageError("the storage was closed during the operation") from error
            raise
        finally:
            deadline.end()

    async def _run(self, work: Callable[[Session], Awaitable[T]], deadline: _Deadline) -> T:
        session = await self._take(deadline)
        deadline.session = session
        try:
            if not self._server.has_table:
                await self._server.meet(session)
            return await self._insist(work, session)
        except asyncio.CancelledError:  # the loop ends: nobody will read the reply
            session.connection.terminate()
            raise
        except POOLER:
            self._server.is_pooled = True
            session.connection.terminate()
            raise
        except GONE:
            session.connection.terminate()
            raise
        finally:
            deadline.session = None
            self._give_back(session)

    async def _insist(self, work: Callable[[Session], Awaitable[T]], session: Session) -> T:
        """Run it again where the table was dropped, or others were quicker."""
        for _ in range(TRIES - 1):
            try:
                return await work(session)
            except ROLLED_BACK:
                continue
            except OUTDATED:
                session.forget()
                self._server.forget_table()
                await self._server.meet(session)
        return await work(session)

    # --- taking and giving back -----------------------------------------------------------------

    async def _take(self, deadline: _Deadline) -> Session:
        if self.is_closed:
            raise StorageError("the storage was closed during the operation")
        while self._idle:
            session = self._idle.pop()
            if not session.connection.is_closed():
                return session
            self._drop(session)
        waiting: Future[Session] = self._loop.create_future()
        deadline.waiting = waiting
        self._waiting.append(waiting)
        self._open_more()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self._give_back(waiting.result())
            raise
        finally:
            deadline.waiting = None

    def _open_more(self) -> None:
        wanted = sum(not waiting.done() for waiting in self._waiting)
        room = self._size - len(self.sessions) - len(self._opening)
        if not self.is_closed and len(self._opening) < wanted and room > 0:
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            with mapped(self._server.where):
                session = await self._opened()
        except asyncio.CancelledError:
            self._fail(StorageError("the event loop ended while connecting to Postgres"))
            raise
        except Exception as error:  # noqa: BLE001 - it is raised in those who wait
            if not self.sessions:  # otherwise they wait for one of those
                self._fail(error)
            return
        if self.is_closed:
            session.connection.terminate()
        self.sessions.add(session)
        self._give_back(session)

    async def _opened(self) -> Session:
        connection = await self._source.open()
        session = Session(connection, self._server, is_lent=self._source.is_lent)
        server = self._server
        deadline = _Deadline(self._loop, self._connect_timeout)
        deadline.session = session
        try:
            if not (self._source.is_lent and server.is_known and server.has_table):
                await server.meet(session)
        except BaseException:
            connection.terminate()
            if self._source.is_lent:
                self._close_later(session)
            raise
        finally:
            deadline.end()
        return session

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(copy_of(error))

    def _give_back(self, session: Session) -> None:
        if session.connection.is_closed() or self.is_closed:
            self._drop(session)
            self._open_more()
            return
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(session)
                self._open_more()
                return
        if session.is_lent:
            self._drop(session)
        else:
            self._idle.append(session)

    def _drop(self, session: Session) -> None:
        self.sessions.discard(session)
        if session.is_lent:
            self._close_later(session)
        else:
            session.connection.terminate()

    def _close_later(self, session: Session) -> None:
        task = self._loop.create_task(self._source.close(session.connection))
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # a pool that is closed takes nothing back

    # --- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        self.is_closed = True
        self._fail(StorageError("the storage was closed during the operation"))
        for session in list(self.sessions):
            session.connection.terminate()
        for task in self._opening:
            task.cancel()
        for session in self._idle:
            self._drop(session)
        self._idle.clear()
        if tasks := [*self._opening, *self._closing]:
            await asyncio.wait(tasks)

    def abandon(self) -> None:
        for session in self.sessions:
            abandon(session.connection, self._loop)


def abandon(connection: Any, loop: AbstractEventLoop) -> None:
    """Close the descriptor of a connection whose loop is closed, or that is the parent's."""
    inner = getattr(connection, "_con", connection)  # that of a pool is behind a proxy
    transport = getattr(inner, "_transport", None)
    if transport is None:
        return
    if loop.is_closed():
        close_without_loop(transport)
    close_descriptor(transport)
    inner._aborted = True  # or asyncpg would warn that nobody closed it


def check_loop(pool: Any) -> None:
    """Raise `ConfigurationError` if a pool cannot be used in the running loop."""
    theirs = getattr(pool, "_loop", None)
    if theirs is not None and theirs is not asyncio.get_running_loop():
        raise ConfigurationError(
            "this pool was made in another event loop, where alone it can be used; "
            "give PostgresStorage the URL, and it makes connections in each loop"
        )

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
from typing import Any, Final, NamedTuple, TypeVar

from gecaso.errors import StorageError, StorageTimeout

from ._batch import copy_of
from ._postgres_client import (
    GONE,
    OUTDATED,
    POOLER,
    ROLLED_BACK,
    UNSENT,
    mapped,
)
from ._postgres_server import Server, Session
from ._postgres_sources import Source, abandon

__all__ = ["Lane"]

T = TypeVar("T")

TRIES: Final = 3  # of a statement that the server rolled back because of others


class _Wanted(NamedTuple):
    """An operation that waits for a connection."""

    future: Future[Session]
    is_write: bool


class _Stale(Exception):
    """The server had closed a connection that lay there: the operation may be run on another."""


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
            self.session.terminate()
        elif self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(TimeoutError())

    def end(self) -> None:
        self._handle.cancel()


class Lane:
    """At most ``size`` connections, opened as they are needed; those who wait are served in turn.

    Lookups always find one that does not wait for a lock: all but one may be used for the rest.
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
        self._waiting: deque[_Wanted] = deque()
        self._writing: set[Session] = set()
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

    async def read(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Return what ``work(session)`` returns, which changes nothing and waits for no lock."""
        return await self._do(work, is_write=False)

    async def write(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Return what ``work(session)`` returns. Both are to be called in a task of ours."""
        return await self._do(work, is_write=True)

    async def _do(self, work: Callable[[Session], Awaitable[T]], *, is_write: bool) -> T:
        is_met = self.sessions or (self._source.is_lent and self._server.is_known)
        deadline = _Deadline(self._loop, self._timeout if is_met else self._connect_timeout)
        try:
            with mapped(self._server.where):
                try:
                    return await self._run(work, deadline, is_write=is_write, may_retry=True)
                except _Stale:
                    return await self._run(work, deadline, is_write=is_write)
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

    async def _run(
        self,
        work: Callable[[Session], Awaitable[T]],
        deadline: _Deadline,
        *,
        is_write: bool,
        may_retry: bool = False,
    ) -> T:
        session = await self._take(deadline, is_write=is_write)
        deadline.session = session
        try:
            if not self._server.has_table:
                await self._server.meet(session)
            result = await self._insist(work, session)
            session.is_used = True
            return result
        except asyncio.CancelledError:  # the loop ends: nobody will read the reply
            session.terminate()
            raise
        except POOLER:
            self._server.is_pooled = True
            session.terminate()
            raise
        except GONE as error:
            session.terminate()
            self._drop_idle()
            is_harmless = not is_write or isinstance(error, UNSENT)
            if deadline.is_over or self.is_closed or not (session.is_used and is_harmless):
                may_retry = False
            if may_retry:
                raise _Stale from error
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

    async def _take(self, deadline: _Deadline, *, is_write: bool) -> Session:
        if self.is_closed:
            raise StorageError("the storage was closed during the operation")
        wanted = _Wanted(self._loop.create_future(), is_write)
        deadline.waiting = wanted.future
        self._waiting.append(wanted)
        self._serve()
        try:
            return await wanted.future
        except BaseException:
            future = wanted.future
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())
            else:
                future.cancel()
            raise
        finally:
            deadline.waiting = None

    def _serve(self) -> None:
        """Give idle connections to those who wait, and open more if there are too few."""
        left: deque[_Wanted] = deque()
        while self._waiting:
            wanted = self._waiting.popleft()
            if wanted.future.done():
                continue
            session = self._fit(wanted)
            if session is None:
                left.append(wanted)
                continue
            if wanted.is_write:
                self._writing.add(session)
            wanted.future.set_result(session)
        self._waiting = left
        self._open_more()

    def _fit(self, wanted: _Wanted) -> Session | None:
        if wanted.is_write and len(self._writing) >= max(1, self._size - 1):
            return None
        while self._idle:
            session = self._idle.pop()
            if not session.is_closed:
                return session
            self._drop(session)
        return None

    def _open_more(self) -> None:
        room = self._size - len(self.sessions) - len(self._opening)
        if not self.is_closed and len(self._opening) < len(self._waiting) and room > 0:
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
            self._opening.discard(_this_task())
            if not (self.sessions or self._opening):  # otherwise they wait for one of those
                self._fail(error)
            return
        self._opening.discard(_this_task())
        if self.is_closed:
            session.terminate()
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
            session.terminate()
            if self._source.is_lent:
                self._close_later(session)
            raise
        finally:
            deadline.end()
        return session

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        for wanted in waiting:
            if not wanted.future.done():
                wanted.future.set_exception(copy_of(error))

    def _give_back(self, session: Session) -> None:
        self._writing.discard(session)
        if session.is_closed or self.is_closed:
            self._drop(session)
        else:
            self._idle.append(session)
        self._serve()
        if session.is_lent and session in self._idle:
            self._idle.remove(session)
            self._drop(session)

    def _drop(self, session: Session) -> None:
        self.sessions.discard(session)
        if session.is_lent:
            self._close_later(session)
        else:
            session.terminate()

    def _drop_idle(self) -> None:
        """What the server has done to one connection it has done to those that lie there."""
        idle, self._idle = self._idle, []
        for session in idle:
            self._drop(session)

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
            session.terminate()
        self._drop_idle()
        # Connecting has its own time limit. asyncpg cannot be cancelled at every moment of it.
        while tasks := [*self._opening, *self._closing]:
            await asyncio.wait(tasks)

    def abandon(self) -> None:
        for session in self.sessions:
            abandon(session.connection, self._loop)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task

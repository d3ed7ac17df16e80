"""The way to one memcached: every operation is a task that runs to its end, in time.

No caller's cancellation reaches a command. Lookups need no task: they are asked for in one tick and
answered in another. Whatever goes wrong with the connections closes all of them, and counts for the
server's breaker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

from gecaso.errors import GecasoError, StorageError

from ._memcached_client import Connections
from ._memcached_server import Server
from ._memcached_wire import Found, Refusal, Values

__all__ = ["Link", "Work", "each"]

T = TypeVar("T")
Work = Callable[[Connections], Awaitable[T]]

logger = logging.getLogger("gecaso")

Looked = Callable[["dict[bytes, Found] | Exception"], None]


class Link:
    """The connections of one event loop to one server, opened at the first use and after each
    failure.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._loop = asyncio.get_running_loop()
        self._client: Connections | None = None
        self._opening: asyncio.Task[Connections] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_closed = False

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "not connected"
        return f"<Link to {self.server}, {state}, {len(self._tasks)} operations>"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        client = self._client
        return len(client.lines) if client is not None and client.is_usable else 0

    @property
    def is_connected(self) -> bool:
        return self._client is not None and self._client.is_usable

    # --- operations -----------------------------------------------------------------------------

    def start(self, work: Work[T]) -> asyncio.Task[T]:
        """Run ``work(client)`` in a task of its own, for at most ``timeout`` seconds."""
        return self._task(self._run(work))

    async def run(self, work: Work[T]) -> T:
        """The same, and return its result. Cancelling the caller does not end the work."""
        task = self.start(work)
        await asyncio.wait((task,))
        return task.result()

    def look(self, names: Collection[bytes], done: Looked) -> None:
        """Read values; ``done`` gets them, or the `StorageError` that came in their place."""
        client = self._client
        if client is None or client.lost is not None:
            task = self.start(partial(Connections.look, names=names))
            task.add_done_callback(partial(_tell, done))
            return

        def answer(outcome: dict[bytes, Found] | Exception) -> None:
            if isinstance(outcome, Exception):
                outcome = self._failed(outcome, self.server.timeout)
            elif self.server.breaker.failures:
                self.server.breaker.succeeded()
            done(outcome)

        command = b"get %b\r\n" % b" ".join(names)
        client.line().ask(command, Values(names, answer), at_once=True)

    def probe(self) -> None:
        """See in the background whether a server that is left alone is back."""
        self.start(Connections.ping).add_done_callback(self._probed)

    def _probed(self, task: asyncio.Task[None]) -> None:
        alive = not task.cancelled() and task.exception() is None
        self.server.breaker.probed(alive)
        if alive:
            logger.info("%s is back", self.server)

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone

    async def _run(self, work: Work[T]) -> T:
        server, client = self.server, self._client
        limit = server.timeout if self.is_connected else server.connect_timeout
        try:
            with _Deadline(limit):
                client = await self._connected()
                result = await work(client)
        except GecasoError:
            raise  # what the server says of one value is no trouble of the server
        except Exception as error:
            if not isinstance(error, Refusal):  # the connection is as good as before
                self._lose(client, error)
            raise self._failed(error, limit) from error
        if server.breaker.failures:
            server.breaker.succeeded()
        return result

    def _failed(self, error: Exception, limit: float) -> Exception:
        """Count a failure, and return it as an error of ours."""
        if self.is_closed:
            return StorageError("the storage was closed during the operation")
        ours = self.server.as_ours(error, limit)
        if isinstance(ours, StorageError):
            self.server.failed(ours)
        return ours

    # --- connections ----------------------------------------------------------------------------

    async def _connected(self) -> Connections:
        if self.is_closed:
            raise ConnectionAbortedError("the storage was closed")
        if self._client is not None and self._client.is_usable:
            return self._client
        if self._opening is None or self._opening.done():
            self._opening = self._task(self._open())
        opening = self._opening
        await asyncio.wait((opening,))
        if opening.cancelled():
            raise ConnectionAbortedError("the storage was closed")
        return opening.result()

    async def _open(self) -> Connections:
        if self._client is not None:
            self._lose(self._client, ConnectionResetError("the server closed the connection"))
        with _Deadline(self.server.connect_timeout):
            client = await self.server.connect()
        if self.is_closed:
            client.lose(ConnectionAbortedError("the storage was closed"))
        self._client = client
        return client

    def _lose(self, client: Connections | None, error: Exception) -> None:
        if client is not None:
            client.lose(error)
            if self._client is client:
                self._client = None

    async def aclose(self) -> None:
        """Close the connections and end what runs over them."""
        self.is_closed = True
        self._lose(self._client, ConnectionAbortedError("the storage was closed"))
        if self._opening is not None:
            self._opening.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)  # without connections they do not last
        await asyncio.sleep(0)  # sockets are closed by callbacks

    def abandon(self) -> None:
        """Close the sockets of a loop that is closed, or of the parent of a forked process."""
        client, self._client = self._client, None
        if client is not None:
            client.abandon()

    def __del__(self) -> None:
        # The storage was dropped without aclose(), perhaps in another thread.
        client = self._client
        if client is None or self._loop.is_closed():
            self.abandon()
            return
        with contextlib.suppress(RuntimeError):  # the loop has just closed
            error = ConnectionAbortedError("the storage is gone")
            self._loop.call_soon_threadsafe(client.lose, error)


def _tell(done: Looked, task: asyncio.Task[dict[bytes, Found]]) -> None:
    if task.cancelled():  # by the end of the loop: the callers were not cancelled
        done(StorageError("the event loop was closed during the operation"))
        return
    error = task.exception()
    if error is not None and not isinstance(error, Exception):
        return
    done(task.result() if error is None else error)


class _Deadline:
    """Cancels its block when time is up, as `asyncio.timeout` does, and raises `TimeoutError`.

    But a loop that was blocked looks at the clock before it looks at the replies that have come in
    meanwhile: time during which the loop did not run is not the server's.
    """

    __slots__ = ("_due", "_handle", "_is_over", "_seconds", "_task")

    LATENESS = 0.05  # seconds

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_over = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._set()

    def _set(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._seconds
        self._handle = loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        assert self._task is not None
        if self._task.get_loop().time() - self._due > self.LATENESS:
            self._set()
            return
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self._handle.cancel()
        if self._is_over and self._task is not None:
            self._task.uncancel()
            if isinstance(error, asyncio.CancelledError):
                raise TimeoutError from error


async def each(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side; return their results, or raise the first error."""
    waiting = list(jobs)
    if len(waiting) == 1:
        return [await waiting[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in waiting]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]

"""The way to one memcached: every operation is a task that runs to its end, in time.

No caller's cancellation reaches a command. Whatever goes wrong in an operation closes all
connections of its loop, so that no later command can read the reply to an earlier one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import aiomcache

from gecaso.errors import (
    ConfigurationError,
    GecasoError,
    PackError,
    StorageError,
    StorageTimeout,
    ValueTooLarge,
)

from ._memcached_records import ServerClock
from ._memcached_wire import Connections

__all__ = ["Address", "Link", "Server", "each"]

T = TypeVar("T")

MIB: Final = 1024 * 1024


class Address(NamedTuple):
    """Where a memcached listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: object) -> Address:
        """Read ``host:port`` or ``memcached://host:port``; the port is 11211 if it is left out."""
        accepted = 'MemcachedStorage takes "host:port" or "memcached://host:port" of one server'
        if not isinstance(url, str):
            raise ConfigurationError(f"{accepted}, not {type(url).__name__}")
        try:
            parts = urlsplit(url if "://" in url else f"memcached://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"{accepted}, not {url!r}: {error}") from None
        more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme != "memcached" or not host or more or "," in url or port == 0:
            raise ConfigurationError(f"{accepted}, not {url!r}")
        return cls(host, port or 11211)


class Server:
    """What is known of the server: where it is, its clock, the size of its largest item."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.clock = ServerClock()
        self.item_size_max = MIB

    async def meet(self, client: Connections) -> None:
        """Ask the server for its time and settings."""
        general, settings = await client.facts(), await client.facts(b"settings")
        if b"time" in general:
            self.clock.measure(int(general[b"time"]))
        self.item_size_max = int(settings.get(b"item_size_max", MIB))
        if settings.get(b"cas_enabled") == b"no":
            raise StorageError(
                f"memcached at {self.address} runs with -C; leases need cas: start it without -C"
            )


class Link:
    """The connections of one event loop, opened at the first use and after each failure."""

    def __init__(
        self, server: Server, *, size: int, timeout: float, connect_timeout: float
    ) -> None:
        self._server = server
        self._size = size
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._client: Connections | None = None
        self._opening: asyncio.Task[Connections] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_closed = False

    def __repr__(self) -> str:
        state = "connected" if self._client is not None else "not connected"
        return f"<Link to {self._server.address}, {state}, {len(self._tasks)} operations>"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._client.pool.connections) if self.is_connected and self._client else 0

    @property
    def is_connected(self) -> bool:
        return self._client is not None and self._client.pool.is_usable()

    def start(self, work: Callable[[Connections], Awaitable[T]]) -> asyncio.Task[T]:
        """Run ``work(client)`` in a task of its own, for at most ``timeout`` seconds."""
        return self._task(self._run(work))

    async def run(self, work: Callable[[Connections], Awaitable[T]]) -> T:
        """The same, and return its result. Cancelling the caller does not end the work."""
        task = self.start(work)
        await asyncio.wait((task,))
        return task.result()

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone

    async def _run(self, work: Callable[[Connections], Awaitable[T]]) -> T:
        limit = self._timeout if self.is_connected else self._connect_timeout
        client: Connections | None = None
        with _errors_of_ours(self._server, limit):
            try:
                with _Deadline(limit):
                    client = await self._connected()
                    return await work(client)
            except (PackError, aiomcache.ValidationException):
                raise  # nothing was sent
            except BaseException as error:
                self._lose(client, error)
                if self.is_closed and isinstance(error, Exception):
                    raise StorageError("the storage was closed during the operation") from error
                raise

    async def _connected(self) -> Connections:
        if self.is_closed:
            raise ConnectionAbortedError("the storage was closed")
        if self._client is not None and self._client.pool.is_usable():
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
        client = Connections(*self._server.address, self._size)
        try:
            with _Deadline(self._connect_timeout):
                await client.pool.open()
                await self._server.meet(client)
        except BaseException as error:
            client.pool.lose(error)
            raise
        self._client = client
        return client

    def _lose(self, client: Connections | None, error: BaseException) -> None:
        if client is not None:
            client.pool.lose(error)
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
            client.pool.abandon(loop_is_closed=self._loop.is_closed())

    def __del__(self) -> None:
        # The storage was dropped without aclose(), perhaps in another thread.
        client = self._client
        if client is None or self._loop.is_closed():
            self.abandon()
            return
        with contextlib.suppress(RuntimeError):  # the loop has just closed
            error = ConnectionAbortedError("the storage is gone")
            self._loop.call_soon_threadsafe(client.pool.lose, error)


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


@contextlib.contextmanager
def _errors_of_ours(server: Server, limit: float) -> Generator[None, None, None]:
    try:
        yield
    except GecasoError:
        raise
    except TimeoutError as error:
        raise StorageTimeout(
            f"memcached at {server.address} did not answer within {limit} s; "
            "see whether it is overloaded, or give it more with timeout= and connect_timeout="
        ) from error
    except aiomcache.ClientException as error:
        if "object too large" in str(error):
            raise ValueTooLarge(
                f"memcached at {server.address} refuses the value as too large; "
                "start it with a larger -I, or store less",
                limit=server.item_size_max,
            ) from error
        raise StorageError(
            f"memcached at {server.address} answered what it should not: {error}"
        ) from error
    except (OSError, EOFError, ValueError, LookupError, asyncio.LimitOverrunError) as error:
        raise StorageError(
            f"memcached at {server.address} is out of reach; see whether it runs there: {error!r}"
        ) from error

"""Being told: one connection of each event loop that listens to the channel of the table."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import defaultdict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from gecaso.changes import Change, Changed, Cleared, Gap
from gecaso.errors import StorageError, StorageTimeout

from ._batch import copy_of, settle
from ._postgres_client import Connection, mapped
from ._postgres_names import Names
from ._postgres_server import Server, Session
from ._postgres_sources import Source, abandon

__all__ = ["Deaf", "Ears", "Follower"]

HEARTBEAT: Final = 5.0  # seconds between looks whether a connection that is followed still lives
IDLE: Final = 30.0  # seconds after which a connection that nobody needs is closed
MOST: Final = 10_000  # names kept for a follower that does not come; then it is told of a gap


class Deaf(StorageError):
    """Notifications cannot come this way."""


class Follower:
    """What one iteration over the changes has not been told yet, coalesced."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: list[Cleared | Gap] = [Gap()]
        self._names: set[str] = set()
        self._news: Future[None] | None = None
        self._is_over = False

    def hear(self, change: Changed | Cleared) -> None:
        if isinstance(change, Cleared):
            self._names.clear()
            self._items = self._items or [change]
        elif not any(isinstance(item, Gap) for item in self._items):
            self._names |= change.names
            if len(self._names) > MOST:
                self._names.clear()
                self._items = [Gap()]
        self._wake()

    def end(self) -> None:
        """Nothing more will be heard; what has been may still be taken."""
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None:
            settle((self._news,), None)

    async def next(self) -> Change | None:
        """Return the next change; None when the connection is gone."""
        while not (self._items or self._names):
            if self._is_over:
                return None
            self._news = self._loop.create_future()
            await self._news
        if self._items:
            return self._items.pop(0)
        names, self._names = self._names, set()
        return Changed(names)


class Ears:
    """The connection that listens. When it breaks, everybody is woken and looks for himself."""

    def __init__(
        self, source: Source, server: Server, names: Names, origin: str, patience: float
    ) -> None:
        self._source = source
        self._server = server
        self._names = names
        self._origin = origin
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._listeners: defaultdict[str, set[Future[None]]] = defaultdict(set)
        self._followers: set[Follower] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: set[Connection] = set()
        self.broken: StorageError | None = None
        self.is_open = False
        self._opened: Future[None] = self._loop.create_future()
        self._spawn(self._open)

    def __repr__(self) -> str:
        state = "broken" if self.broken else "open" if self.is_open else "connecting"
        return f"<Ears at {self._server.where}, {state}, {len(self._listeners)} rows>"

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the connection -------------------------------------------------------------------------

    async def _open(self) -> None:
        try:
            with mapped(self._server.where):
                async with asyncio.timeout(self._patience):
                    await self._listen()
        except StorageError as error:
            self.break_off(error)
        except asyncio.CancelledError:
            self.break_off(StorageError("the event loop ended while connecting to Postgres"))
            raise
        except Exception as error:
            self.break_off(StorageError(f"listening has failed: {error!r}"))
            raise
        else:
            self.is_open = True
            settle((self._opened,), None)
            self._rest()

    async def _listen(self) -> None:
        connection = await self._source.open()
        self.connections.add(connection)
        if self.broken is not None:
            connection.terminate()
            raise copy_of(self.broken)
        told = connection.get_server_pid()
        ((pid,),) = await Session(connection, self._server).once("SELECT pg_backend_pid()")
        if pid != told:
            raise Deaf(
                f"between us and Postgres at {self._server.where} stands a pooler, through which "
                "LISTEN may not work: give the storage listen_url=, the URL of the server itself"
            )
        connection.add_termination_listener(self._terminated)
        await connection.add_listener(self._server.statements.channel, self._heard)

    def _terminated(self, _: object) -> None:
        self.break_off(StorageError(f"the connection to Postgres at {self._server.where} broke"))

    def break_off(self, error: StorageError) -> None:
        """End the connection; wake everybody."""
        if self.broken is not None:
            return
        self.broken = error
        settle((self._opened,), None)
        for listeners in self._listeners.values():
            settle(listeners, None)
        self._listeners.clear()
        for follower in self._followers:
            follower.end()
        self._followers.clear()
        if self._timer is not None:
            self._timer.cancel()
        for connection in self.connections:
            connection.terminate()
            if self._source.is_lent:
                self._spawn(partial(self._give_back, connection))
        self.connections.clear()

    async def _give_back(self, connection: Connection) -> None:
        with mapped(self._server.where):
            await self._source.close(connection)

    async def opened(self, patience: float) -> None:
        """Wait until messages come; raise `StorageError` if they cannot."""
        if not self._opened.done():
            await asyncio.wait((self._opened,), timeout=patience)
        if self.broken is not None:
            raise copy_of(self.broken)

    # --- being needed, or not -------------------------------------------------------------------

    def _rest(self) -> None:
        """See to it that a connection in use is alive, and that one out of use is closed."""
        if self.broken is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._followers:
            self._timer = self._loop.call_later(HEARTBEAT, self._spawn, self._beat)
        elif not self._listeners:
            self._timer = self._loop.call_later(
                IDLE, self.break_off, StorageError("nobody listened any more")
            )

    async def _beat(self) -> None:
        late = StorageTimeout(f"Postgres at {self._server.where} does not answer the listener")
        timer = self._loop.call_later(self._patience, self.break_off, late)
        try:
            for connection in list(self.connections):
                await connection.execute("SELECT 1")
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection is of no use
            self.break_off(StorageError(f"listening has failed: {error}"))
        finally:
            timer.cancel()
        self._rest()

    # --- those who listen -----------------------------------------------------------------------

    def listen(self, row: str) -> Future[None]:
        """Return a future that is done when there is news of a row, or none can come any more."""
        heard: Future[None] = self._loop.create_future()
        if self.broken is not None:
            heard.set_result(None)
        else:
            self._listeners[row].add(heard)
        return heard

    def forget(self, row: str, heard: Future[None]) -> None:
        heard.cancel()
        listeners = self._listeners.get(row)
        if listeners is not None:
            listeners.discard(heard)
            if not listeners:
                del self._listeners[row]
                self._rest()

    def follow(self) -> Follower:
        follower = Follower()
        if self.broken is not None:
            follower.end()
        else:
            self._followers.add(follower)
            self._rest()
        return follower

    def leave(self, follower: Follower) -> None:
        self._followers.discard(follower)
        self._rest()

    def _heard(self, _: object, pid: int, channel: str, payload: object) -> None:
        told = self._names.read(str(payload))
        if told is None:
            return
        origin, change = told
        if isinstance(change, Cleared):
            for listeners in list(self._listeners.values()):
                settle(listeners, None)
        elif self._listeners:
            prefix = self._names.prefix
            for name in change.names:
                settle(self._listeners.get(prefix + name, ()), None)
        if origin != self._origin:
            for follower in self._followers:
                follower.hear(change)

    # --- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        self.break_off(StorageError("the storage was closed during the operation"))
        # Connecting has its own time limit. asyncpg cannot be cancelled at every moment of it.
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def abandon(self) -> None:
        self.broken = self.broken or StorageError("the event loop of this connection is closed")
        for connection in self.connections:
            abandon(connection, self._loop)

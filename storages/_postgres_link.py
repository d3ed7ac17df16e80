"""What a storage has in one event loop: its connections, and the batches that share them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import weakref
from asyncio import AbstractEventLoop, Future
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from gecaso.entry import Entry
from gecaso.errors import StorageError

from ._batch import Batch, Calls, awaiting, copy_of, fail, settle
from ._postgres_client import Connection
from ._postgres_ears import Deaf, Ears
from ._postgres_lane import Lane, Source, abandon
from ._postgres_rows import LOCK, Refused, Rows, Stored, Taken, Token, parts
from ._postgres_server import BRIEFLY, PURGE_EVERY, Session

__all__ = ["Link", "Means"]

logger = logging.getLogger("gecaso")

T = TypeVar("T")
R = TypeVar("R")

LOOK_AGAIN: Final = 0.25  # seconds; nobody tells that a transaction was rolled back
POLL: Final = (0.02, 0.25)  # seconds between looks at a lease, first and last, without LISTEN
PAUSE: Final = (0.05, 0.5)  # seconds between attempts to end a lease in a locked row
LONGEST: Final = 60.0  # seconds for which that is tried
PURGES: Final = 50  # batches deleted in one go

Unpack = Callable[[str, "tuple[bytes, float]"], "Entry | None"]


class Means(NamedTuple):
    """How to reach the server; times in seconds. ``listening`` is None where nobody can listen."""

    source: Source
    listening: Source | None
    size: int
    timeout: float
    connect_timeout: float


class Link:
    """The connections of one loop, opened at the first use, and the batches over them.

    Lookups have connections of their own: a lease may wait for a lock.
    """

    def __init__(self, means: Means, rows: Rows, unpack: Unpack) -> None:
        self.rows = rows
        self.loop = asyncio.get_running_loop()
        self._means = means
        self._unpack = unpack
        self._server = rows.server
        self._ears: Ears | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unsure: dict[bytes, float] = {}
        self._swept = 0
        self._deaf: Deaf | None = None
        writers = max(1, means.size // 2)
        self._writes = self._lane(writers)
        self._reads = self._lane(means.size - writers) if means.size > 1 else self._writes
        self.lookups: Batch[str, Entry | None] = Batch(self._look_up)
        self.takes: Batch[Token, Taken | Refused] = Batch(awaiting(self._take))
        self.renewals: Batch[Token, bool] = Batch(awaiting(self._renew))
        self.commits: Batch[Stored, bool] = Batch(awaiting(self._commit))
        self.releases: Batch[Token, None] = Batch(awaiting(self._release))
        self.stores: Batch[Stored, bool] = Batch(awaiting(self._store))
        self.discards: Batch[str, None] = Batch(awaiting(self._discard))
        self.expiries: Batch[str, None] = Batch(awaiting(self._expire))
        self._holders: Batch[str, tuple[bytes | None, float]] = Batch(awaiting(self._ask_holders))
        # So that a storage that is dropped without being closed takes its connections along.
        sessions = (self._reads.sessions, self._writes.sessions)
        weakref.finalize(self, _let_go, self.loop, sessions).atexit = False

    def __repr__(self) -> str:
        return f"<Link: {self._reads!r}, {self._writes!r}, {self._ears!r}>"

    def _lane(self, size: int) -> Lane:
        means = self._means
        return Lane(means.source, self._server, size, means.timeout, means.connect_timeout)

    def connections(self) -> int:
        ears = 0 if self._ears is None else len(self._ears.connections)
        return len(self._reads.sessions | self._writes.sessions) + ears

    # --- running --------------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in a task of its own, to its end."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone

    async def run(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Run ``work(session)`` over a connection; cancelling the caller does not end it."""
        task = self.start(self._writes.run(work))
        await asyncio.wait((task,))
        return task.result()

    async def read(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """The same, over a connection for lookups."""
        task = self.start(self._reads.run(work))
        await asyncio.wait((task,))
        return task.result()

    async def meet(self) -> None:
        """See to it that the clock and the table are known."""
        if not (self._server.is_known and self._server.has_table):
            await self.read(_nothing)

    def _lock(self) -> str:
        """Return for how long a lock may be waited for: not while others wait behind us."""
        return BRIEFLY if self._writes.has_queue else self._server.lock_timeout

    # --- batches --------------------------------------------------------------------------------

    def _look_up(self, calls: Calls[str, Entry | None]) -> None:
        self.start(self._answer(calls))
        if time.monotonic() > self._server.measure_at:
            self._tend()

    async def _answer(self, calls: Calls[str, Entry | None]) -> None:
        try:
            found = await self._reads.run(lambda session: self.rows.look(session, calls))
        except asyncio.CancelledError:
            fail(calls, StorageError("the event loop was closed during the operation"))
            raise
        except Exception as error:  # noqa: BLE001 - it is raised in those who wait
            fail(calls, error)
            return
        for row, futures in calls.items():
            try:
                there = found.get(row)
                settle(futures, None if there is None else self._unpack(row, there))
            except Exception as fault:  # noqa: BLE001 - likewise
                fail({row: futures}, fault)

    async def _take(self, asked: list[Token]) -> Mapping[Token, Taken | Refused]:
        if time.monotonic() > self._server.measure_at:
            self._tend()
        by_time: defaultdict[float, list[Token]] = defaultdict(list)
        for one in asked:
            by_time[one.seconds].append(one)
        result: dict[Token, Taken | Refused] = {}
        for some in by_time.values():
            for part in parts(some):
                got = await self._taken(part)
                result |= {one: got[one.row] for one in part}
        return result

    async def _taken(self, part: list[Token]) -> dict[str, Taken | Refused]:
        now = time.monotonic()
        self._unsure = {token: until for token, until in self._unsure.items() if now < until}
        unsure = list(self._unsure)
        try:
            return await self._writes.run(
                lambda session: self.rows.take(session, part, unsure, self._lock())
            )
        except BaseException:
            # The server may take them all the same; nobody has them, and we may take them over.
            self._unsure |= {one.token: now + 2 * one.seconds for one in part}
            raise

    async def _renew(self, ours: list[Token]) -> Mapping[Token, bool]:
        kept: dict[Token, bool] = {}
        by_time: defaultdict[float, list[Token]] = defaultdict(list)
        for one in ours:
            by_time[one.seconds].append(one)
        for some in by_time.values():
            for part in parts(some):
                rows = await self._writes.run(
                    lambda session, part=part: self.rows.renew(session, part, self._lock())
                )
                kept |= {one: one.row in rows for one in part}
        return kept

    async def _commit(self, entries: list[Stored]) -> Mapping[Stored, bool]:
        done: dict[Stored, bool] = {}
        for part in parts(entries):
            rows, some_locked = await self._writes.run(
                lambda session, part=part: self.rows.commit(session, part, self._lock())
            )
            done |= {entry: entry.row in rows for entry in part}
            if some_locked:
                self.release_later(
                    [Token(one.row, one.token) for one in part if one.row not in rows]
                )
        return done

    async def _release(self, ours: list[Token]) -> Mapping[Token, None]:
        for part in parts(ours):
            if await self._writes.run(
                lambda session, part=part: self.rows.release(session, part, self._lock())
            ):
                self.release_later(part)
        return {}

    async def _store(self, entries: list[Stored]) -> Mapping[Stored, bool]:
        for part in parts(entries):
            await self._patiently(
                lambda session, lock, part=part: self.rows.store(
                    session, part, lock, self.rows.origin
                )
            )
        return dict.fromkeys(entries, True)

    async def _discard(self, rows: list[str]) -> Mapping[str, None]:
        await self._patiently(
            lambda session, lock: self.rows.discard(session, rows, lock, self.rows.origin)
        )
        return {}

    async def _expire(self, rows: list[str]) -> Mapping[str, None]:
        # Two machines measure the server's clock to half a round trip each.
        margin = self._means.timeout
        await self._patiently(
            lambda session, lock: self.rows.expire(session, rows, lock, self.rows.origin, margin)
        )
        return {}

    async def _patiently(self, work: Callable[[Session, str], Awaitable[Any]]) -> None:
        """Write what must be written: wait for locks, but let the server say that it is enough."""
        lock = f"{max(1, int(self._means.timeout * 800))}ms"
        await self._writes.run(lambda session: work(session, lock))

    async def _ask_holders(self, rows: list[str]) -> Mapping[str, tuple[bytes | None, float]]:
        nobody: tuple[bytes | None, float] = (None, 0.0)
        found = await self._reads.run(lambda session: self.rows.holders(session, rows))
        return {row: found.get(row, nobody) for row in rows}

    # --- in the background ----------------------------------------------------------------------

    def _tend(self) -> None:
        """Once in a while: look at the clock, and delete what is dead."""
        now = time.monotonic()
        if now > self._server.measure_at:
            self._server.measure_at = now + PURGE_EVERY
            self.start(self._quietly(self._reads.run(self._server.measure)))
        if now > self._server.purge_at:
            self._server.purge_at = now + PURGE_EVERY * random.uniform(0.8, 1.2)
            self.start(self._quietly(self.purge()))

    async def _quietly(self, work: Awaitable[object]) -> None:
        try:
            await work
        except StorageError as error:
            logger.debug("what is done in the background has failed: %s", error)

    async def purge(self) -> int:
        """Delete rows of which nothing is left; return how many."""
        jobs = [self.rows.purge]
        if self._swept != self.rows.generation:
            jobs.append(self.rows.sweep)
        generation, gone = self.rows.generation, 0
        for job in jobs:
            for _ in range(PURGES):
                some = await self._writes.run(job)
                gone += some
                if not some:
                    break
        self._swept = generation
        return gone

    def sweep_soon(self) -> None:
        """Delete, in the background, what was cleared."""
        self.start(self._quietly(self._sweep()))

    async def _sweep(self) -> None:
        while await self._writes.run(self.rows.sweep):
            pass

    def release_later(self, ours: list[Token]) -> None:
        """End leases whose rows are locked: if the transaction is rolled back they would last."""
        self.start(self._quietly(self._release_later(ours)))

    async def _release_later(self, ours: list[Token]) -> None:
        pause, last = PAUSE
        give_up = time.monotonic() + LONGEST
        while time.monotonic() < give_up:
            await asyncio.sleep(pause)
            if not await self._writes.run(
                lambda session: self.rows.release(session, ours, BRIEFLY)
            ):
                return
            pause = min(2 * pause, last)

    # --- waiting and listening ------------------------------------------------------------------

    async def ears(self, *, patience: float) -> Ears:
        """Return the connection that listens. Raises `Deaf` where there can be none."""
        if self._means.listening is None:
            raise Deaf(
                "the pool has one connection, which cannot be kept for LISTEN: let it have more, "
                "or give the storage listen_url="
            )
        if self._deaf is not None:
            raise copy_of(self._deaf)
        await self.meet()
        ears = self._ears
        if ears is None or ears.broken is not None:
            self._check_open()
            ears = self._ears = self._new_ears(self._means.listening)
        try:
            await ears.opened(patience)
        except Deaf as error:
            self._deaf = error
            raise
        return ears

    def _new_ears(self, source: Source) -> Ears:
        patience = self._means.connect_timeout + self._means.timeout
        ears = Ears(source, self._server, self.rows.names, self.rows.origin, patience)
        weakref.finalize(self, _let_go, self.loop, (ears.connections,)).atexit = False
        return ears

    @property
    def is_closed(self) -> bool:
        return self._writes.is_closed

    def _check_open(self) -> None:
        if self.is_closed:
            raise StorageError("the storage was closed during the operation")

    async def wait(self, row: str, token: bytes, timeout: float) -> None:
        """Wait until that token no longer holds the lease, at most ``timeout`` seconds."""
        end = self.loop.time() + timeout
        ears: Ears | None = None
        with contextlib.suppress(StorageError):  # nobody tells: then we look
            ears = await self.ears(patience=timeout)
        heard: Future[None] = self.loop.create_future() if ears is None else ears.listen(row)
        pause, last = POLL
        try:
            while not heard.done() and (left := end - self.loop.time()) > 0:
                if token == LOCK:
                    await asyncio.wait((heard,), timeout=min(left, LOOK_AGAIN))
                    return
                holder, runs_for = await self._holders.add(row)
                if holder != token:
                    return
                if ears is None:
                    left, pause = min(left, pause), min(1.5 * pause, last)
                await asyncio.wait((heard,), timeout=min(left, runs_for + 0.001))
        finally:
            if ears is not None:
                ears.forget(row, heard)

    # --- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        for batch in self._batches():
            batch.flush()
        for lane in (self._reads, self._writes):
            await lane.close()
        if self._ears is not None:
            await self._ears.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        await asyncio.sleep(0)  # transports close their descriptors in the next tick

    def _batches(self) -> Iterable[Batch[Any, Any]]:
        yield from (self.lookups, self.takes, self.renewals, self.commits, self.releases)
        yield from (self.stores, self.discards, self.expiries, self._holders)

    def abandon(self) -> None:
        for lane in (self._reads, self._writes):
            lane.abandon()
        if self._ears is not None:
            self._ears.abandon()


async def _nothing(session: Session) -> None:
    pass


def _let_go(loop: AbstractEventLoop, held: Iterable[set[Any]]) -> None:
    """Close connections from wherever their storage was collected."""
    connections: list[Connection] = [
        getattr(one, "connection", one) for some in held for one in some
    ]
    for connection in connections:
        if loop.is_closed():
            abandon(connection, loop)
            continue
        with contextlib.suppress(RuntimeError):  # the loop has just closed
            loop.call_soon_threadsafe(connection.terminate)

"""What a storage has in one event loop: its connections, and the batches that share them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import weakref
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from gecaso.entry import Entry
from gecaso.errors import StorageError

from ._batch import Batch, Calls, awaiting, fail
from ._postgres_lane import Lane
from ._postgres_listening import Holders, Listening
from ._postgres_rows import Found, Refused, Rows, Stored, Taken, Token, parts
from ._postgres_server import BRIEFLY, PURGE_EVERY, Session
from ._postgres_sources import Means, let_go

__all__ = ["Link"]

logger = logging.getLogger("gecaso")

T = TypeVar("T")
R = TypeVar("R")

PAUSE: Final = (0.05, 0.5)  # seconds between attempts to end a lease in a locked row
LONGEST: Final = 60.0  # seconds for which that is tried
PURGES: Final = 50  # batches deleted in one go

Unpack = Callable[[Found, float], "Entry | None"]


class Link:
    """The connections of one loop, opened at the first use, and the batches over them."""

    def __init__(self, means: Means, rows: Rows, unpack: Unpack) -> None:
        self.rows = rows
        self.loop = asyncio.get_running_loop()
        self._means = means
        self._unpack = unpack
        self._server = rows.server
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._unsure: dict[bytes, float] = {}
        self._swept = 0
        self._lane = Lane(
            means.source, self._server, means.size, means.timeout, means.connect_timeout
        )
        self.lookups: Batch[str, Entry | None] = Batch(self._look_up)
        self.takes: Batch[Token, Taken | Refused | None] = Batch(awaiting(self._take))
        self.renewals: Batch[Token, bool | None] = Batch(awaiting(self._renew))
        self.commits: Batch[Stored, bool | None] = Batch(awaiting(self._commit))
        self.releases: Batch[Token, None] = Batch(awaiting(self._release))
        self.stores: Batch[Stored, bool | None] = Batch(awaiting(self._store))
        self.discards: Batch[str, None] = Batch(awaiting(self._discard))
        self.expiries: Batch[str, None] = Batch(awaiting(self._expire))
        holders: Holders = Batch(awaiting(self._ask_holders))
        self._holders = holders
        self.listening = Listening(means, rows, holders, self.meet)
        # So that a storage that is dropped without being closed takes its connections along.
        weakref.finalize(self, let_go, self.loop, (self._lane.sessions,)).atexit = False

    def __repr__(self) -> str:
        return f"<Link: {self._lane!r}, {self.listening!r}>"

    def connections(self) -> int:
        return len(self._lane.sessions) + self.listening.connections()

    @property
    def is_closed(self) -> bool:
        return self._lane.is_closed

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
        task = self.start(self._lane.write(work))
        await asyncio.wait((task,))
        return task.result()

    async def read(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """The same, over a connection for lookups."""
        task = self.start(self._lane.read(work))
        await asyncio.wait((task,))
        return task.result()

    async def look(self, rows: list[str]) -> dict[str, Found]:
        """Return those rows that have a value."""
        return await self.read(lambda session: self.rows.look(session, rows))

    async def meet(self) -> None:
        """See to it that the clock and the table are known."""
        if not (self._server.is_known and self._server.has_table):
            await self.read(_nothing)

    def _lock(self) -> str:
        """Return for how long a lock may be waited for: not while others wait behind us."""
        return BRIEFLY if self._lane.has_queue else self._server.lock_timeout

    # --- batches --------------------------------------------------------------------------------

    def _look_up(self, calls: Calls[str, Entry | None]) -> None:
        self.start(self._answer(calls))
        if time.monotonic() > self._server.measure_at:
            self._tend()

    async def _answer(self, calls: Calls[str, Entry | None]) -> None:
        try:
            found = await self._lane.read(lambda session: self.rows.look(session, calls))
        except asyncio.CancelledError:
            fail(calls, StorageError("the event loop was closed during the operation"))
            raise
        except Exception as error:  # noqa: BLE001 - it is raised in those who wait
            fail(calls, error)
            return
        unpack, now = self._unpack, self._server.now()
        for row, futures in calls.items():
            try:
                there = found.get(row)
                entry = None if there is None else unpack(there, now)
                for future in futures:
                    if not future.done():
                        future.set_result(entry)
            except Exception as fault:  # noqa: BLE001 - likewise
                fail({row: futures}, fault)

    async def _take(self, asked: list[Token]) -> Mapping[Token, Taken | Refused]:
        if time.monotonic() > self._server.measure_at:
            self._tend()
        by_time: defaultdict[float, list[Token]] = defaultdict(list)
        for one in asked:
            by_time[one.seconds].append(one)
        result: dict[Token, Taken | Refused] = {}
        try:
            for some in by_time.values():
                for part in parts(some):
                    got = await self._taken(part)
                    result |= {one: got[one.row] for one in part}
        except BaseException:
            # The server may take them all the same; nobody has them, and we may take them over.
            now = time.monotonic()
            self._unsure |= {one.token: now + 2 * one.seconds for one in asked}
            raise
        return result

    async def _taken(self, part: list[Token]) -> dict[str, Taken | Refused]:
        now = time.monotonic()
        self._unsure = {token: until for token, until in self._unsure.items() if now < until}
        unsure = list(self._unsure)
        return await self._lane.write(
            lambda session: self.rows.take(session, part, unsure, self._lock())
        )

    async def _renew(self, ours: list[Token]) -> Mapping[Token, bool]:
        by_time: defaultdict[float, list[Token]] = defaultdict(list)
        for one in ours:
            by_time[one.seconds].append(one)
        kept: dict[Token, bool] = {}
        for some in by_time.values():
            for part in parts(some):
                rows = await self._renewed(part)
                kept |= {one: one.row in rows for one in part}
        return kept

    async def _renewed(self, part: list[Token]) -> set[str]:
        return await self._lane.write(lambda session: self.rows.renew(session, part, self._lock()))

    async def _commit(self, entries: list[Stored]) -> Mapping[Stored, bool]:
        done: dict[Stored, bool] = {}
        for part in parts(entries):
            rows = await self._committed(part)
            done |= {entry: entry.row in rows for entry in part}
        return done

    async def _committed(self, part: list[Stored]) -> set[str]:
        rows, some_locked = await self._lane.write(
            lambda session: self.rows.commit(session, part, self._lock())
        )
        if some_locked:
            self.release_later([Token(one.row, one.token) for one in part if one.row not in rows])
        return rows

    async def _release(self, ours: list[Token]) -> Mapping[Token, None]:
        for part in parts(ours):
            await self._released(part)
        return {}

    async def _released(self, part: list[Token]) -> None:
        if await self._lane.write(lambda session: self.rows.release(session, part, self._lock())):
            self.release_later(part)

    async def _store(self, entries: list[Stored]) -> Mapping[Stored, bool]:
        for part in parts(entries):
            await self._stored(part)
        return dict.fromkeys(entries, True)

    async def _stored(self, part: list[Stored]) -> None:
        await self._patiently(
            lambda session, lock: self.rows.store(session, part, lock, self.rows.origin)
        )

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
        await self._lane.write(lambda session: work(session, lock))

    async def _ask_holders(self, rows: list[str]) -> Mapping[str, tuple[bytes | None, float]]:
        return await self._lane.read(lambda session: self.rows.holders(session, rows))

    # --- in the background ----------------------------------------------------------------------

    def _tend(self) -> None:
        """Once in a while: look at the clock, and delete what is dead."""
        now = time.monotonic()
        if now > self._server.measure_at:
            self._server.measure_at = now + PURGE_EVERY
            self._in_background(partial(self._lane.read, self._server.measure))
        if now > self._server.purge_at:
            self._server.purge_at = now + PURGE_EVERY * random.uniform(0.8, 1.2)
            self._in_background(self.purge)

    def _in_background(self, work: Callable[[], Awaitable[object]]) -> None:
        task = self.loop.create_task(_quietly(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def purge(self) -> int:
        """Delete rows of which nothing is left; return how many."""
        generation = await self._lane.read(self.rows.generation)
        jobs = [self.rows.purge]
        if generation != self._swept:
            jobs.append(self.rows.sweep)
        gone = 0
        for job in jobs:
            for _ in range(PURGES):
                some = await self._lane.write(job)
                gone += some
                if not some:
                    break
        self._swept = generation
        return gone

    def sweep_soon(self) -> None:
        """Delete, in the background, what was cleared."""
        self._in_background(self._sweep)

    async def _sweep(self) -> None:
        while await self._lane.write(self.rows.sweep):
            pass

    def release_later(self, ours: list[Token]) -> None:
        """End leases whose rows are locked: if the transaction is rolled back they would last."""
        self._in_background(partial(self._release_later, ours))

    async def _release_later(self, ours: list[Token]) -> None:
        pause, last = PAUSE
        give_up = time.monotonic() + LONGEST
        while time.monotonic() < give_up:
            await asyncio.sleep(pause)
            if not await self._lane.write(
                lambda session: self.rows.release(session, ours, BRIEFLY)
            ):
                return
            pause = min(2 * pause, last)

    # --- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        for batch in self._batches():
            batch.flush()
        await self._lane.close()
        await self.listening.close()
        for task in self._background:
            task.cancel()
        if tasks := [*self._tasks, *self._background]:
            await asyncio.wait(tasks)  # without connections they do not last
        await asyncio.sleep(0)  # transports close their descriptors in the next tick

    def _batches(self) -> Iterable[Batch[Any, Any]]:
        yield from (self.lookups, self.takes, self.renewals, self.commits, self.releases)
        yield from (self.stores, self.discards, self.expiries, self._holders)

    def abandon(self) -> None:
        self._lane.abandon()
        self.listening.abandon()


async def _nothing(session: Session) -> None:
    pass


async def _quietly(work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except StorageError as error:
        logger.debug("what is done in the background has failed: %s", error)

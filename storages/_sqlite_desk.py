"""What a storage has in one event loop: what is asked for in a tick goes to a thread together."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from asyncio import AbstractEventLoop, Future, TimerHandle
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from gecaso.entry import Entry
from gecaso.errors import StorageError

from ._batch import Batch, Calls, Item, Reply, fail, settle
from ._sqlite_crew import PATIENCE, Crew
from ._sqlite_errors import timed_out
from ._sqlite_hands import Hand
from ._sqlite_reading import entries, holders
from ._sqlite_schema import Link
from ._sqlite_work import Holder, Unpack, Work
from ._sqlite_writer import Outcomes

__all__ = ["Desk"]

T = TypeVar("T")

LATENESS: Final = 0.05  # seconds; a timer that is later than that tells of a loop that was blocked
FIRST_LOOK, LAST_LOOK = 0.005, 0.025  # seconds between looks at a lease of another process


class _Question(Generic[Item, Reply]):
    """What was asked for in one tick, with one timer for all who wait.

    Made in the loop, answered in a thread, settled in the loop.
    """

    def __init__(
        self, calls: Calls[Item, Reply], path: str, timeout: float, open: set[_Question[Any, Any]]
    ) -> None:
        self.calls = calls
        self._path = path
        self.timeout = timeout
        self.give_up = time.monotonic() + timeout
        self._loop: AbstractEventLoop = asyncio.get_running_loop()
        self._open = open
        open.add(self)
        self._timer: TimerHandle = self._loop.call_later(timeout, self._ring)

    def _ring(self) -> None:
        if self._loop.time() - self._timer.when() > LATENESS:
            # The loop did not run, and so perhaps nothing else in this process.
            self._timer = self._loop.call_later(self.timeout, self._ring)
        else:
            self._fail(timed_out(self._path, self.timeout))

    def _tell(self, settle: Callable[[T], None], outcome: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits there
            self._loop.call_soon_threadsafe(settle, outcome)

    def _end(self) -> None:
        self._timer.cancel()
        self._open.discard(self)

    def _fail(self, error: Exception) -> None:
        self._end()
        fail(self.calls, error)


class _Lookup(_Question[Item, Any]):
    """Answered by ``run(link, items)``, which returns the replies it has; the others are None."""

    run: Callable[[Link, Collection[Item]], Mapping[Item, Any]]

    def read(self, hand: Hand) -> None:
        items = list(self.calls)
        try:
            found = hand.attempt(lambda link: self.run(link, items), self.give_up, self.timeout)
        except Exception as error:  # noqa: BLE001 - it is raised in those who wait
            self._tell(self._fail, error)
        else:
            self._tell(self._settle, found)

    def _settle(self, found: Mapping[Item, Any]) -> None:
        self._end()
        get = found.get
        for item, futures in self.calls.items():
            reply = get(item)
            for future in futures:
                if not future.done():
                    future.set_result(reply)


class _Works(_Question[Work, Any]):
    """Answered by the writer."""

    @property
    def works(self) -> list[Work]:
        return list(self.calls)

    def settle(self, outcomes: Outcomes) -> None:
        self._tell(self._settle, outcomes)

    def _settle(self, outcomes: Outcomes) -> None:
        self._end()
        for work, futures in self.calls.items():
            outcome = outcomes[work]
            if isinstance(outcome, Exception):
                fail({work: futures}, outcome)
            else:
                settle(futures, outcome)


class Desk:
    """The batches of one loop. ``touches`` tells whether uses are to be noted."""

    def __init__(
        self, join: Callable[[object], Crew], timeout: float, unpack: Unpack, *, touches: bool
    ) -> None:
        self._user = object()
        self.crew = crew = join(self._user)
        self._timeout = timeout
        self._unpack = unpack
        self._touches = touches
        self._is_closed = False
        self._heard: set[Future[None]] = set()
        self._open: set[_Question[Any, Any]] = set()
        self.lookups: Batch[bytes, Entry | None] = Batch(self._look)
        self.works: Batch[Work, Any] = Batch(self._write)
        self._holders: Batch[bytes, Holder | None] = Batch(self._ask_holders)
        # A storage that is dropped without being closed takes its threads along.
        weakref.finalize(self, crew.depart, self._user).atexit = False

    def __repr__(self) -> str:
        return f"<Desk for {self.crew!r}>"

    # --- asking ---------------------------------------------------------------------------------

    def ask(self, run: Callable[[Link], T]) -> Future[T]:
        """Have a reader run it; return a future of the result."""
        future: Future[Any] = asyncio.get_running_loop().create_future()
        self._read({self: [future]}, lambda link, _: {self: run(link)})
        return future

    def look(self, names: Iterable[bytes]) -> Future[dict[bytes, Entry]]:
        """Look many up at once."""
        names = list(names)
        return self.ask(lambda link: self._entries(link, names))

    def tell(self, work: Work) -> None:
        """Have something written after what has been asked for; nobody waits for it."""
        self.works.add(work).add_done_callback(_nobody_cares)

    def _read(
        self,
        calls: Calls[Item, Any],
        run: Callable[[Link, Collection[Item]], Mapping[Item, Any]],
    ) -> None:
        self._check_open()
        question = _Lookup(calls, self.crew.path, self._timeout, self._open)
        question.run = run
        self.crew.read(question)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageError("the storage was closed during the operation")

    def _write(self, calls: Calls[Work, Any]) -> None:
        self._check_open()
        self.crew.write(_Works(calls, self.crew.path, self._timeout, self._open))

    def _look(self, calls: Calls[bytes, Entry | None]) -> None:
        self._read(calls, self._entries)

    def _ask_holders(self, calls: Calls[bytes, Holder | None]) -> None:
        self._read(calls, holders)

    def _entries(self, link: Link, names: Collection[bytes]) -> dict[bytes, Entry]:
        now = self.crew.clock.now()
        found = entries(link, names, self.crew.files, self._unpack, now)
        if self._touches and found:
            self.crew.touch(found, now)
        return found

    # --- waiting for another's lease ------------------------------------------------------------

    async def wait(self, name: bytes, token: bytes, timeout: float) -> None:
        """Wait until that token no longer holds the lease, at most ``timeout`` seconds.

        This process says so at once; for the others somebody has to look.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        heard = self.crew.ears.listen(name)
        self._heard.add(heard)
        pause = FIRST_LOOK
        try:
            # The first look is after the listening: what happened before was not heard.
            while not (heard.done() or self._is_closed) and (left := end - loop.time()) > 0:
                holder = await self._holders.add(name)
                now = self.crew.clock.now()
                if holder is None or holder.token != token or holder.until <= now:
                    return
                pause = min(pause * 1.2, LAST_LOOK)
                await asyncio.wait((heard,), timeout=min(pause, left, holder.until - now))
        finally:
            self._heard.discard(heard)
            self.crew.ears.forget(heard)

    # --- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        """Wait for what has been asked for, then for the threads if nobody else uses them."""
        for batch in (self.lookups, self.works, self._holders):
            batch.flush()
        self._is_closed = True
        for heard in self._heard:
            if not heard.done():
                heard.set_result(None)
        waiting = [f for each in self._open for futures in each.calls.values() for f in futures]
        if waiting:
            await asyncio.wait(waiting)
        if self.crew.leave(self._user):
            await asyncio.wait((asyncio.wrap_future(self.crew.over),), timeout=PATIENCE)
            self.crew.join(timeout=1.0)

    def abandon(self) -> None:
        """Leave without a word: the loop is closed, or belongs to the parent of this process."""
        self.crew.leave(self._user)


def _nobody_cares(future: Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # or it would be called lost

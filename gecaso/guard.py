"""What one process knows of a storage's trouble: the breaker, and invalidations still pending.

One `Guard` per storage, shared by all caches over it. Reads ask it before they go to the storage;
invalidations that could not be confirmed stay here, and the keys they concern are not read from
the storage until a retry in the background has succeeded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from gecaso import events
from gecaso.entry import Lease
from gecaso.errors import InvalidationFailed, StorageError
from gecaso.keys import Key
from gecaso.storage import EntryStorage
from gecaso.trouble import Mark, trouble_of
from gecaso.weak import WeakBag, WeakTable

if TYPE_CHECKING:
    from gecaso.flight import Flights

__all__ = ["Guard", "guard_of"]

logger = logging.getLogger("gecaso")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.5
"""Seconds between attempts at an invalidation."""
SETTLING = 0.5
"""Seconds after which a write that was sent before a storage came back has arrived."""


class Guard:
    """The trouble of one storage, as this process sees it."""

    def __init__(self, storage: EntryStorage) -> None:
        self._storage = weakref.ref(storage)
        self._trouble = trouble_of(storage)
        self.breaker = self._trouble.breaker
        self.pending = self._trouble.pending
        self.flights: WeakBag[Flights] = WeakBag()
        self._owed: set[Lease] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Guard: {self.breaker!r}, {len(self.pending)} invalidations pending>"

    def _reset_after_fork(self) -> None:
        # The pending invalidations stay: what they protect from is the same in the child.
        self.breaker.reset()
        self._owed = set()  # those are the parent's to hand back
        self._tasks = set()
        self._retry = None

    # --- reads --------------------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """Whether there is no trouble at all: the way of a hit looks at nothing else."""
        return not (self.breaker.failures or self.pending)

    def bypasses(self, key: Key) -> bool:
        """Return whether a call for ``key`` must do without the storage now."""
        return self.breaker.is_open or key in self.pending

    def wants_work(self) -> bool:
        """Return whether `work` has something to do."""
        return self.breaker.take_probe() or (bool(self.pending) and not _runs(self._retry))

    def work(self) -> None:
        """Probe, or retry, in tasks of the running loop; callers do not wait for either."""
        if self.breaker.is_open:
            self.spawn(self._probe())
        self._start_retry()

    def failed(self, operation: str, error: StorageError, key: Key | None = None) -> None:
        """A read, lease or commit has failed; the call goes on without the storage."""
        self._trouble.failed(self._storage(), operation, error, key)

    async def _probe(self) -> None:
        alive = False
        try:
            storage = self._storage()
            if storage is not None:
                await storage.ping()
                alive = True
                logger.info("%r is back", storage)
        except StorageError as error:
            logger.debug("%r is still in trouble: %s", self._storage(), error)
        finally:
            self.breaker.probed(alive)

    # --- invalidations ------------------------------------------------------------------------

    async def invalidate(
        self,
        keys: Iterable[Key],
        apply: Callable[[], Awaitable[Any]],
        *,
        timeout: float,
        journal: bool,
        is_put: bool = False,
    ) -> None:
        """Run ``apply()`` until it succeeds, at most ``timeout`` seconds; ignores the breaker.

        After that the keys are pending, and `InvalidationFailed` is raised; with ``journal`` they
        are only pending. ``is_put`` tells that a value is stored, not removed.
        """
        keys = tuple(keys)
        marks = {key: mark for key in keys if (mark := self.pending.get(key)) is not None}
        before = {key: mark for key, mark in marks.items() if not mark.may_arrive_late}
        try:
            error = await self._attempt(apply, timeout)
        except asyncio.CancelledError:  # what has been sent may still be applied
            self._postpone(keys, may_arrive_late=is_put)
            raise
        failed = () if error is None else _concerned(error, keys)
        self._settle({key: mark for key, mark in before.items() if key not in failed})
        if failed:
            self._postpone(failed, may_arrive_late=is_put)
        if events.hooks:
            self._note_invalidated(tuple(key for key in keys if key not in failed), failed)
        if error is not None and not journal:
            raise InvalidationFailed(
                f"{len(failed)} keys may still be stored: {error}. This process does not read them "
                "until the invalidation has succeeded in the background; other processes may, "
                "until the ttl ends them",
                keys=failed,
            ) from error

    def _note_invalidated(self, done: tuple[Key, ...], failed: tuple[Key, ...]) -> None:
        storage = self._storage()
        for keys, confirmed in ((done, True), (failed, False)):
            if keys:
                events.emit(events.Invalidated(storage=storage, keys=keys, confirmed=confirmed))

    async def _attempt(
        self, apply: Callable[[], Awaitable[Any]], timeout: float
    ) -> StorageError | None:
        give_up = time.monotonic() + timeout
        pause = FIRST_PAUSE
        while True:
            try:
                await apply()
                self.breaker.succeeded()
                return None
            except StorageError as error:
                left = give_up - time.monotonic()
                if left <= pause:
                    return error
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _postpone(self, keys: tuple[Key, ...], *, may_arrive_late: bool) -> None:
        for key in keys:
            self.pending[key] = Mark(may_arrive_late=may_arrive_late)
        self._start_retry()

    def hand_back(self, lease: Lease) -> None:
        """Release a lease in the background: the storage has not heard that it is over.

        Otherwise the next load of its key would have to wait until it has run out.
        """
        self._owed.add(lease)
        self._start_retry()

    def _start_retry(self) -> None:
        if (self.pending or self._owed) and not _runs(self._retry):
            self._retry = self.spawn(self._retry_pending())

    async def _retry_pending(self) -> None:
        pause = FIRST_PAUSE
        while (self.pending or self._owed) and (storage := self._storage()) is not None:
            tried = dict(self.pending)
            self._owed = {lease for lease in self._owed if storage.now() < lease.until}
            owed = frozenset(self._owed)
            discarded = await self._discard_again(storage, tried)
            if await self._release_again(storage, owed) and discarded:
                continue
            del storage
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _discard_again(self, storage: EntryStorage, tried: dict[Key, Mark]) -> bool:
        try:
            if tried:
                await storage.discard(tried)
                await self._settle_late(storage, tried)
                self._settle(tried)
        except StorageError as error:
            logger.debug("%d invalidations are still pending: %s", len(tried), error)
            failed = set(_concerned(error, tuple(tried)))
            self._settle(
                {
                    key: mark
                    for key, mark in tried.items()
                    if key not in failed and not mark.may_arrive_late
                }
            )
            return False
        return True

    async def _release_again(self, storage: EntryStorage, owed: frozenset[Lease]) -> bool:
        try:
            if owed:
                await storage.release(owed)
                self._owed -= owed
        except StorageError as error:
            logger.debug("%d leases are still to be handed back: %s", len(owed), error)
            return False
        return True

    async def _settle_late(self, storage: EntryStorage, tried: dict[Key, Mark]) -> None:
        """Remove once more what may have arrived after its removal."""
        late = {key: mark for key, mark in tried.items() if mark.may_arrive_late}
        if late:
            self._settle({key: mark for key, mark in tried.items() if key not in late})
            await asyncio.sleep(SETTLING)
            await storage.discard(late)

    def _settle(self, tried: dict[Key, Mark]) -> None:
        for key, mark in tried.items():
            if self.pending.get(key) is mark:  # otherwise invalidated again since
                del self.pending[key]

    # --- tasks --------------------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task of the running loop, which `aclose` ends."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.difference_update(
            [other for other in list(self._tasks) if other.get_loop().is_closed()]
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """End the tasks of the running loop. What is pending stays so."""
        here = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is here]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _concerned(error: StorageError, keys: tuple[Key, ...]) -> tuple[Key, ...]:
    """Return those of the keys that an error is about: all, unless it says which."""
    named = set(error.keys)
    return tuple(key for key in keys if key in named) or keys


def _runs(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done() and not task.get_loop().is_closed()


_guards: WeakTable[EntryStorage, Guard] = WeakTable()


def guard_of(storage: EntryStorage) -> Guard:
    """Return the one guard of a storage in this process."""
    guarded = storage.guarded
    return _guards.get(guarded, lambda: Guard(guarded))


def _after_fork_in_child() -> None:
    for guard in _guards.values():
        guard._reset_after_fork()  # pyright: ignore[reportPrivateUsage] - the hook is a part of Guard


os.register_at_fork(after_in_child=_after_fork_in_child)

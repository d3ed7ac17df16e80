"""Renewing a lease while its load runs."""

from __future__ import annotations

import asyncio
import logging

from gecaso.entry import Lease
from gecaso.errors import StorageError
from gecaso.storage import EntryStorage

__all__ = ["Keeper"]

logger = logging.getLogger("gecaso")


class Keeper:
    """Renews a lease at every third of its time, from the loop it is made in, until `stop`.

    A timer, and a task only for each renewal: most loads are over before the first.
    """

    def __init__(self, storage: EntryStorage, lease: Lease, seconds: float) -> None:
        self._storage = storage
        self._lease = lease
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._gone_in_time: bool | None = None
        self._timer = self._loop.call_later(seconds / 3, self._tick)

    def _tick(self) -> None:
        if not self._stopped:
            self._task = self._loop.create_task(self._renew())

    async def _renew(self) -> None:
        try:
            kept = await self._storage.renew((self._lease,), self._seconds)
        except StorageError as error:
            # The lease may well outlive the trouble; whether it did is for the next renewal, and
            # in the end for the commit, to find out.
            logger.debug("the lease of %s could not be renewed: %s", self._lease.key, error)
        else:
            if self._lease.key not in kept:
                self._gone_in_time = not self._is_over()
        if self._gone_in_time is None and not self._stopped:
            self._timer = self._loop.call_later(self._seconds / 3, self._tick)

    @property
    def lost(self) -> bool:
        """Whether the lease ran over, for want of a renewal; one that went in time was killed."""
        return self._is_over() if self._gone_in_time is None else not self._gone_in_time

    def _is_over(self) -> bool:
        return self._storage.now() >= self._lease.until

    def stop(self) -> None:
        """Renew no more; from any thread."""
        self._stopped = True
        if asyncio._get_running_loop() is self._loop:
            self._end()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

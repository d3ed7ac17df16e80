"""Flights over a storage in this process: nothing but the load itself ever waits or fails."""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import inf

from gecaso.calls import Call, Counters
from gecaso.colours import Colour
from gecaso.entry import Busy, Entry, Lease
from gecaso.error_values import bare_copy
from gecaso.errors import PackError
from gecaso.flight import ABANDONED, Flight, Outcome
from gecaso.keys import Key
from gecaso.loading import Loading
from gecaso.policy import Policy
from gecaso.storage import LocalStorage
from gecaso.waiting import steps

__all__ = ["LocalLoading"]


class LocalLoading(Loading):
    """The flights over one storage in this process."""

    def __init__(self, storage: LocalStorage) -> None:
        super().__init__(storage)
        self.local = self._store = storage

    async def look(self, call: Call, colour: Colour) -> Entry | None:
        return self._store.fetch_one(call.key)

    async def look_many(
        self, keys: Iterable[Key], policy: Policy, counters: Counters, colour: Colour
    ) -> dict[Key, Entry]:
        return self._store.fetch_now(keys)

    async def _fly(self, flight: Flight, call: Call, colour: Colour) -> Outcome:
        # A lease in this process needs no renewal: its holder cannot fall silent unnoticed.
        early = flight.joined
        lease: Lease | Busy | None = self._store.lease_one(call.key, inf)
        if isinstance(lease, Busy):
            if call.is_behind and call.is_refresh:
                return ABANDONED  # somebody loads it already
            waited = await self._wait(flight, call, colour, lease, early)
            if isinstance(waited, Outcome):
                return waited
            lease, early = waited
        if lease is None:
            return await self._fly_without(call, colour, early)
        if lease.seen is not None or call.is_behind:
            outcome = self._outcome_of(call, lease.seen, early)
            if outcome is not None:
                self._store.leases.give_back(lease)
                return outcome
            call.old = lease.seen
        try:
            value, cost = await self._load(call, colour)
            mark = flight.mark()  # who joins later, in another thread, may follow an invalidation
            is_stored = self._commit(call, lease, self._entry(call, value, cost))
        except BaseException as error:
            mark = flight.mark()
            fenced = self._end(call, lease, error)
            if not isinstance(error, Exception):
                raise
            # Who joined after an invalidation starts over: the failure is older than that.
            return Outcome(error=error, upto=early if fenced else mark)
        return Outcome(value, upto=mark if is_stored else early)

    def _end(self, call: Call, lease: Lease, error: BaseException) -> bool:
        """End the lease of a load that failed; return whether it was killed meanwhile."""
        if isinstance(error, Exception) and call.policy.error_ttl:
            entry = self._error_entry(call, error, bare_copy(error))
            if entry is not None:
                return not self._commit(call, lease, entry)
        return not self._store.leases.give_back(lease)

    def _commit(self, call: Call, lease: Lease, entry: Entry) -> bool:
        try:
            is_stored = self._store.commit_one(lease, entry)
        except PackError as error:
            is_stored = self._store.commit_one(lease, self._note_unstorable(call, error))
        self._note_commit(call, lease.key, is_stored=is_stored)
        return is_stored

    async def _wait(
        self, flight: Flight, call: Call, colour: Colour, busy: Busy, mark: int
    ) -> Outcome | tuple[Lease | None, int]:
        """Wait for another cache's load; return its value, or our lease, or None for no lease."""
        give_up = time.monotonic() + call.policy.patience
        for step in steps(notifies=True):
            outcome = self._outcome_of(call, busy.stale, mark)
            if outcome is not None:
                return outcome
            left = give_up - time.monotonic()
            if left <= 0 or (not colour.awaits and self._store.leases.is_held_here(busy)):
                return None, flight.mark()
            await colour.wait_lease(self._store, busy, min(step, left))
            mark = flight.mark()
            got = self._store.lease_one(call.key, inf)
            if isinstance(got, Lease):
                return got, mark
            busy = got
        raise AssertionError("the steps do not end")

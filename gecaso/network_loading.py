"""Flights over a storage that other processes share, and that may be in trouble.

Every store of a load goes through `NetworkLoading._commit`, and is fenced there. The first
operation that fails is the last one a call waits for: it goes on without the storage.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple

from gecaso import events
from gecaso.base import PROBE
from gecaso.calls import Call, Counters
from gecaso.codegen import Seek
from gecaso.colours import ASYNC, Colour
from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.error_values import packed_error
from gecaso.errors import PackError, StorageError
from gecaso.flight import ABANDONED, Flight, Outcome
from gecaso.guard import guard_of
from gecaso.keeper import Keeper
from gecaso.keys import Key
from gecaso.loading import Loading
from gecaso.policy import Policy
from gecaso.storage import EntryStorage
from gecaso.waiting import steps

__all__ = ["NetworkLoading"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(slots=True)
class _Taken:
    """A lease that this flight has: who renews it, and the mark before it was taken."""

    lease: Lease
    keeper: Keeper
    early: int
    is_over: bool = False
    """Whether the storage knows that the lease has ended."""


@dataclass(slots=True)
class _Without:
    """No lease: the storage is out of reach (for all callers), or the wait was too long."""

    upto: int | None = None


class NetworkLoading(Loading):
    """The flights over one storage that is reached over a network, or through user's code."""

    def __init__(self, storage: EntryStorage) -> None:
        super().__init__(storage)
        self.guard = self._guard = guard_of(storage)
        self._guard.flights.add(self.flights)
        self._table = self.flights.open

    async def look(self, call: Call, colour: Colour) -> Entry | None:
        return await self._try(call, colour, "look up", self._lookup, call.key)

    async def _lookup(self, key: Key) -> Entry | None:
        return await self.storage.lookup(key)

    async def look_many(
        self, keys: Iterable[Key], policy: Policy, counters: Counters, colour: Colour
    ) -> dict[Key, Entry]:
        wanted = [key for key in keys if key not in self._guard.pending]
        call = Call(PROBE, _no_load, policy, counters)  # whose trouble is that of all of them
        return await self._try(call, colour, "look up", self.storage.fetch, wanted) or {}

    def seeker(self, key_of: Callable[..., Key]) -> Seek:
        """Return what the path of a hit looks up with: an awaitable of what is stored.

        None where that is not the way to go: a load of the key is under way, or the storage is, or
        may be, in trouble.
        """
        guard, breaker, flights = self._guard, self._guard.breaker, self._table
        storage = self.storage

        def seek(*args: Any) -> Awaitable[Entry | None] | None:
            key = key_of(*args)
            if (flights and key in flights) or breaker.failures or guard.pending:
                return None
            return storage.lookup(key)

        return seek

    async def go_on(self, found: Entry | StorageError | None, call: Call) -> Any:
        """Return the value to a coroutine that has ``found`` no fresh one."""
        if isinstance(found, StorageError):
            self._failed(call, "look up", found)
            found = None
        return await self.obtain_after(call, ASYNC, found)

    # --- a flight -----------------------------------------------------------------------------

    async def _fly(self, flight: Flight, call: Call, colour: Colour) -> Outcome:
        ready = await self._prepare(flight, call, colour)
        if isinstance(ready, Outcome):
            return ready
        if isinstance(ready, _Without):
            return await self._fly_without(call, colour, ready.upto)
        try:
            return await self._fly_leased(flight, call, colour, ready)
        except GeneratorExit:  # the loop is gone, and the lease will run over
            ready.is_over = True
            raise
        finally:
            ready.keeper.stop()
            if not ready.is_over:
                await colour.do(self._hand_back_later, ready.lease)

    async def _hand_back_later(self, lease: Lease) -> None:
        self._guard.hand_back(lease)

    async def _fly_leased(
        self, flight: Flight, call: Call, colour: Colour, taken: _Taken
    ) -> Outcome:
        try:
            value, cost = await self._load(call, colour)
            entry = self._entry(call, value, cost)
            entry.version = new_token()
        except GeneratorExit:  # the loop is gone, and the lease will run over
            raise
        except BaseException as error:
            if isinstance(error, Exception) and call.policy.error_ttl:
                negative = self._error_entry(call, error, packed_error(error))
                if negative is not None:
                    mark = flight.mark()
                    is_stored = await self._commit(call, colour, taken, negative)
                    return Outcome(error=error, upto=mark if is_stored else taken.early)
            upto = await self._give_up(flight, call, colour, taken)
            if not isinstance(error, Exception):
                raise
            return Outcome(error=error, upto=upto)
        # Who joins from here on may come after an invalidation that the commit came before: the
        # storage has made it, and its answer is still on its way.
        early = flight.mark()
        is_stored = await self._commit(call, colour, taken, entry)
        if not (is_stored or call.is_cut_off) and taken.keeper.lost:
            self._note_lost(call)
        return Outcome(value, upto=early if is_stored else taken.early)

    async def _give_up(self, flight: Flight, call: Call, colour: Colour, taken: _Taken) -> int:
        """End the lease of a load that failed; return whom the failure is for, as a mark.

        Who joined after an invalidation starts over: the failure is older than that. So does who
        joins while the storage is asked, for an invalidation may follow its answer.
        """
        mark = flight.mark()
        kept: set[Key] | None = {call.key}
        if mark > taken.early:
            kept = await self._try(
                call, colour, "renew", self.storage.renew, (taken.lease,), call.lease_seconds
            )
        await self._release(call, colour, taken)
        return mark if kept else taken.early

    async def _release(self, call: Call, colour: Colour, taken: _Taken) -> None:
        taken.keeper.stop()
        taken.is_over = bool(await self._try(call, colour, "release", self._end, taken.lease))

    async def _end(self, lease: Lease) -> bool:
        await self.storage.release((lease,))
        return True

    async def _commit(self, call: Call, colour: Colour, taken: _Taken, entry: Entry) -> bool:
        """Store an entry under its lease; return whether it is known to be stored."""
        commit, lease = self.storage.commit, taken.lease
        try:
            stored = await self._try(call, colour, "commit", commit, {lease: entry})
        except PackError as error:
            mark = self._note_unstorable(call, error)
            stored = await self._try(call, colour, "commit", commit, {lease: mark})
        if stored is None:
            return False
        taken.is_over = True
        self._note_commit(call, lease.key, is_stored=lease.key in stored)
        return lease.key in stored

    def _note_lost(self, call: Call) -> None:
        call.counters.lost += 1
        if events.hooks:
            events.emit(events.LostLease(storage=self.storage, key=call.key))
        self._warn_once(
            call,
            "lost",
            "a load lost its lease, so that its value was returned and not stored; "
            "the loop was blocked, or lease_seconds= is too short",
        )

    # --- the lease ----------------------------------------------------------------------------

    async def _prepare(
        self, flight: Flight, call: Call, colour: Colour
    ) -> _Taken | _Without | Outcome:
        """Take the lease, and look again: what was committed meanwhile is served, not loaded."""
        give_up = time.monotonic() + call.policy.patience
        for step in steps(self.storage.notifies):
            ready = await self._lease(flight, call, colour)
            if not isinstance(ready, Busy):
                return ready
            if call.is_behind and call.is_refresh:
                return ABANDONED  # another process loads it already
            left = give_up - time.monotonic()
            if left <= 0:
                return _Without(upto=flight.mark())
            await self._wait(call, colour, ready, min(step, left))
            if self.storage.notifies and not call.is_refresh:
                # One lookup is cheaper than a lease, and mostly the value is there by now.
                mark = flight.mark()
                entry = await self.look(call, colour)
                if (outcome := self._outcome_of(call, entry, mark)) is not None:
                    return outcome
        raise AssertionError("the steps do not end")

    async def _lease(
        self, flight: Flight, call: Call, colour: Colour
    ) -> _Taken | _Without | Outcome | Busy:
        mark = flight.mark()
        answer = await self._try(
            call, colour, "lease", self._lease_and_keep, call.key, call.lease_seconds
        )
        if answer is None:  # out of reach: one load per process, for all its callers
            return _Without()
        if isinstance(answer, Busy):
            return self._outcome_of(call, answer.stale, mark) or answer
        taken = _Taken(answer[0], answer[1], mark)
        outcome = self._outcome_of(call, taken.lease.seen, mark)
        if outcome is None:
            call.old = taken.lease.seen
            return taken
        await self._release(call, colour, taken)
        return outcome

    async def _lease_and_keep(self, key: Key, seconds: float) -> Busy | tuple[Lease, Keeper]:
        asking = asyncio.ensure_future(self.storage.lease((key,), seconds))
        try:
            got = (await asyncio.shield(asking))[key]
        except CancelledError:
            # The storage may grant it all the same; nobody shall wait for a lease without a holder.
            self._guard.spawn(_hand_back(self.storage, asking))
            raise
        if isinstance(got, Busy):
            return got
        return got, Keeper(self.storage, got, seconds)

    async def _wait(self, call: Call, colour: Colour, busy: Busy, timeout: float) -> None:
        try:
            await colour.wait_lease(self.storage, busy, timeout)
        except StorageError as error:
            self._failed(call, "wait", error)

    # --- the storage, which may be in trouble -------------------------------------------------

    async def _try(
        self,
        call: Call,
        colour: Colour,
        name: str,
        operation: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
    ) -> T | None:
        """Run an operation of the storage; None if that is, or is known to be, in trouble."""
        guard = self._guard
        if call.is_cut_off:
            return None
        if not guard.is_quiet:
            if guard.wants_work():
                await colour.do(self._work)
            if guard.bypasses(call.key):
                self._bypass(call)
                return None
        try:
            result = await colour.do(operation, *args)
        except StorageError as error:
            self._failed(call, name, error)
            return None
        if guard.breaker.failures:
            guard.breaker.succeeded()
        return result

    def _is_out_of_reach(self, call: Call) -> bool:
        guard = self._guard
        return (call.is_cut_off or guard.breaker.is_open) and call.key not in guard.pending

    async def _work(self) -> None:
        self._guard.work()

    def _bypass(self, call: Call) -> None:
        if call.policy.on_storage_error == "raise":
            raise StorageError(
                f"{self.storage!r} is left alone for a while after failures, or an invalidation of "
                f"{call.key} is pending; on_storage_error='load' goes on without it"
            )

    def _failed(self, call: Call, name: str, error: StorageError) -> None:
        call.is_cut_off = True  # trouble costs a call one failure, not one for each operation
        call.counters.storage_errors += 1
        self._guard.failed(name, error, call.key)
        if call.policy.on_storage_error == "raise":
            raise error


def _no_load() -> None:
    raise AssertionError("a call that only looks does not load")


async def _hand_back(
    storage: EntryStorage, asking: asyncio.Future[dict[Key, Lease | Busy]]
) -> None:
    try:
        granted = [got for got in (await asking).values() if isinstance(got, Lease)]
        if granted:
            await storage.release(granted)
    except StorageError as error:
        events.logger.debug("a lease that nobody wants was not handed back: %s", error)

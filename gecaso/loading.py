"""From a miss to a value: look, share a flight, lease, load, commit, deliver.

`Loading` is what all flights have in common. How a flight reaches its storage is in
`LocalLoading`, where nothing waits and nothing fails, and in `NetworkLoading`.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING, Any

from gecaso import events, flight
from gecaso.background import Background
from gecaso.calls import Call, Counters
from gecaso.colours import Colour
from gecaso.entry import Entry
from gecaso.error_values import revived_error, ttl_of_error
from gecaso.errors import LoadTimeout, Overloaded, RecursiveLoad, StorageError
from gecaso.flight import ABANDONED, AGAIN, Flight, Flights, Outcome, current_flight
from gecaso.freshness import SERVED, Verdict, is_fresh, judge
from gecaso.keys import Key
from gecaso.loads import Loads
from gecaso.loops import run_now
from gecaso.policy import Policy
from gecaso.storage import EntryStorage, LocalStorage
from gecaso.waiters import Waiter

if TYPE_CHECKING:
    from gecaso.guard import Guard
    from gecaso.limits import LoadLimit

__all__ = ["Loading"]

USABLE = SERVED | {Verdict.TRY}
"""The verdicts on an entry that may be served where a load failed."""


class Loading(Loads, ABC):
    """The flights over one storage, and the way each of them takes."""

    local: LocalStorage | None = None
    guard: Guard | None = None

    def __init__(self, storage: EntryStorage) -> None:
        super().__init__(storage)
        self.flights = Flights()
        self.background = Background()
        self.limit: LoadLimit | None = None
        _loadings.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self.storage!r}: {self.flights!r}>"

    @abstractmethod
    async def look(self, call: Call, colour: Colour) -> Entry | None:
        """Return what is stored; None also where the storage is out of reach."""

    @abstractmethod
    async def look_many(
        self, keys: Iterable[Key], policy: Policy, counters: Counters, colour: Colour
    ) -> dict[Key, Entry]:
        """Return what is stored of many keys, looked up together."""

    @abstractmethod
    async def _fly(self, flight: Flight, call: Call, colour: Colour) -> Outcome:
        """Lease, look again, load and commit; return what to deliver, and to whom."""

    # --- a caller -----------------------------------------------------------------------------

    async def obtain(self, call: Call, colour: Colour) -> Any:
        """Return the value: the one stored, another caller's, or a new one."""
        if call.is_refresh or (self.flights.open and self._joins_at_once(call)):
            return await self.obtain_after(call, colour, None)
        return await self.obtain_after(call, colour, await self.look(call, colour))

    def _joins_at_once(self, call: Call) -> bool:
        """Return whether to share a load under way without a look: no old value could be served."""
        return call.key in self.flights.open and not call.policy.serves_old

    async def obtain_after(self, call: Call, colour: Colour, found: Entry | None) -> Any:
        """The same, after a lookup that ``found`` something or nothing."""
        entry = found
        is_counted = False
        while True:
            verdict = self.judge(call, entry)
            if entry is not None:
                if verdict in SERVED:
                    return self._serve(call, colour, entry, verdict)
                if verdict is Verdict.RAISE and (error := self._stored_error(call, entry)):
                    raise error
            if not is_counted:
                is_counted = True
                self._note_miss(call)
            if verdict is Verdict.ALONE:
                return await self.load_alone(call, colour)
            old = entry if verdict is Verdict.TRY else None
            result = await self._share(call, colour, old)
            if result is not AGAIN:
                return result
            entry = None
            if not (call.is_refresh or self._joins_at_once(call)):
                entry = await self.look(call, colour)

    def judge(self, call: Call, entry: Entry | None) -> Verdict:
        """Return what this call does with what is stored."""
        if entry is None:
            return Verdict.LOAD
        return judge(
            entry,
            call.policy,
            self.storage.now(),
            draw=self.draw,
            retry_at=self._retry_at.get(call.key, -inf) if self._retry_at else -inf,
            max_age=call.max_age,
        )

    def _serve(self, call: Call, colour: Colour, entry: Entry, verdict: Verdict) -> Any:
        if verdict is Verdict.REFRESH:
            self.refresh_behind(call, colour, entry)
        if verdict is Verdict.FRESH or self.storage.now() < entry.fresh_until:
            return self._hit(call, entry)
        return self._serve_old(call, entry, verdict.value)

    async def _share(self, call: Call, colour: Colour, old: Entry | None) -> Any:
        """Join the flight of the key, or start it; return what it brings, or `AGAIN`.

        With an ``old`` value, that is returned where the load fails or is slow.
        """
        if self.limit is not None and not self._has_room(call, colour):
            if old is not None and call.policy.overload == "stale":
                return self._serve_old(call, old, "too many loads are running")
            if call.policy.overload == "raise":
                raise Overloaded(
                    f"{self.limit.most} loads of {self.storage!r} run already; "
                    'overload="wait" waits for room'
                )
        loop = asyncio.get_running_loop() if colour.awaits else None
        slow = limit = inf if old is None else _patience(call, colour)
        if call.policy.timeout is not None:
            limit = min(slow, _left(call, call.policy.timeout))
        behind = slow < inf
        shared, waiter, mine = self.flights.join(_flight_key(call), loop, behind=behind)
        try:
            if not mine:
                if loop is None and _runs_here(shared.loop):
                    # Waiting would stop the loop that has to land the flight.
                    return await self.load_alone(call, colour)
                call.counters.joined += 1
            elif behind:
                self._start_behind(shared, call.copy_behind(), colour)
            elif loop is None:
                await self.fly(shared, call, colour)
            else:
                flying = loop.create_task(self.fly(shared, call, colour), name="gecaso load")
                self.flights.start(shared, flying)
                if limit == inf and waiter.future is not None:
                    await waiter.future  # as `_wait_for` would, in two coroutines more
            if shared.outcome is None and not await self._wait_for(
                shared, waiter, mine and not behind, limit
            ):
                if slow <= limit and old is not None:
                    return await self._serve_slow(call, colour, shared, old)
                raise LoadTimeout(
                    f"the load of {call.key} took longer than timeout={call.policy.timeout:g}"
                )
            return shared.result(waiter)
        except Exception as error:
            if old is None and isinstance(error, LoadTimeout) and _left(call, call.policy.timeout):
                return AGAIN  # it was too late for the first caller, and is not for this one
            if old is None or shared.outcome is None or not _may_fall_back(call, error):
                raise
            entry = await self._still_stored(call, colour, old)
            if entry is None:
                raise
            return self._serve_old(call, entry, f"the load failed: {error!r}")
        finally:
            self.flights.leave(shared)

    def _has_room(self, call: Call, colour: Colour) -> bool:
        assert self.limit is not None
        return call.key in self.flights.open or self.limit.has_room(colour)

    async def _wait_for(self, shared: Flight, waiter: Waiter, flown: bool, limit: float) -> bool:
        """Wait for a flight, at most ``limit`` seconds; return whether it has ended in time."""
        if waiter.loop is None:
            if not flown:
                flight.wait_blocking(shared, waiter, limit)
            return shared.outcome is not None or shared.is_lost()
        if limit == inf:
            await flight.wait(shared, waiter)
            return True
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                await flight.wait(shared, waiter)
        except TimeoutError:
            if not scope.expired():
                raise
            return shared.outcome is not None
        return True

    # --- old values ---------------------------------------------------------------------------

    async def _serve_slow(self, call: Call, colour: Colour, shared: Flight, old: Entry) -> Any:
        """Serve the old value while the load goes on; after an invalidation look what is there."""
        if self.flights.open.get(call.key) is not shared:
            entry = await self._still_stored(call, colour, old)
            if entry is None:
                return AGAIN
            old = entry
        return self._serve_old(call, old, "the load is slow")

    async def _still_stored(self, call: Call, colour: Colour, old: Entry) -> Entry | None:
        """Return what to fall back to: removing a value forbids that, expiring it does not."""
        entry = await self.look(call, colour)
        if entry is None:
            return old if self._is_out_of_reach(call) else None
        return entry if self.judge(call, entry) in USABLE else None

    def _is_out_of_reach(self, call: Call) -> bool:
        """Return whether the storage cannot be asked, and no invalidation of the key is pending."""
        return False

    def _serve_old(self, call: Call, entry: Entry, reason: str) -> Any:
        call.counters.stale += 1
        if events.hooks:
            events.emit(events.Stale(storage=self.storage, key=call.key, reason=reason))
        return self.value(call, entry)

    def refresh_behind(self, call: Call, colour: Colour, entry: Entry | None) -> bool:
        """Load a value in the background, in place of ``entry`` or of nothing.

        Returns False if one is being loaded already, or too many loads are in the background.
        """
        if call.key in self.flights.open or not self.background.has_room():
            return False
        behind = call.copy_behind() if entry is None else call.behind(entry)
        loop = asyncio.get_running_loop() if colour.awaits else None
        shared = self.flights.begin(_flight_key(behind), loop)
        if shared is None:
            return False
        call.counters.refreshes += 1
        self._start_behind(shared, behind, colour)
        return True

    def _start_behind(self, shared: Flight, call: Call, colour: Colour) -> None:
        if colour.awaits:
            self.background.start_task(lambda: self.fly(shared, call, colour))
        else:
            self.background.start_thread(lambda: run_now(self.fly(shared, call, colour)))

    def forget_failure(self, keys: Iterable[Key]) -> None:
        """Let the next load be tried at once: the key was invalidated, expired or put."""
        for key in keys:
            self._retry_at.pop(key, None)

    # --- what callers are given ---------------------------------------------------------------

    def _hit(self, call: Call, entry: Entry) -> Any:
        call.counters.hits += 1
        if events.hooks:
            events.emit(events.Hit(storage=self.storage, key=call.key))
        return self.value(call, entry)

    def value(self, call: Call, entry: Entry) -> Any:
        """Return the value of an entry as its callers get it."""
        return entry.value if call.policy.load is None else call.policy.load(entry.value)

    def _stored_error(self, call: Call, entry: Entry) -> BaseException | None:
        """Return the cached error of an entry, new; None if it cannot be built here."""
        error = revived_error(entry.value, call.policy.error_ttl)
        if error is not None:
            call.counters.hits += 1
        return error

    def _note_miss(self, call: Call) -> None:
        call.counters.misses += 1
        if events.hooks:
            events.emit(events.Miss(storage=self.storage, key=call.key))

    async def load_alone(self, call: Call, colour: Colour) -> Any:
        """Load for this caller; nothing is shared or stored."""
        return (await self._load(call, colour))[0]

    # --- a flight -----------------------------------------------------------------------------

    async def fly(self, shared: Flight, call: Call, colour: Colour) -> None:
        """Run a flight to its landing, whatever happens on the way."""
        token = current_flight.set(shared)
        outcome = ABANDONED
        if call.is_behind and colour.awaits:
            shared.task = asyncio.current_task()
        try:
            if self.limit is None:
                outcome = await self._fly(shared, call, colour)
            else:
                async with self.limit.room(colour):
                    outcome = await self._fly(shared, call, colour)
        except CancelledError as error:
            # Cancelled from outside, the other callers start over; if the user's function raised
            # it by itself, it is what they get.
            if shared.task is None or not shared.task.cancelling():
                outcome = Outcome(error=error)
            else:
                raise
        except GeneratorExit:
            raise
        except BaseException as error:
            # A Ctrl-C is for the one it hit; the others start over.
            outcome = Outcome(error=error, upto=None if isinstance(error, Exception) else 1)
            if not isinstance(error, Exception) and shared.loop is not None:
                raise
        finally:
            self.flights.land(shared, outcome)
            if shared.loop is None:  # a task has a context of its own, and may end outside of it
                current_flight.reset(token)

    async def _fly_without(self, call: Call, colour: Colour, upto: int | None) -> Outcome:
        """Load without a lease, for those who joined before the mark ``upto`` (None: for all)."""
        try:
            value, _ = await self._load(call, colour)
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes to these callers
            return Outcome(error=error, upto=upto)
        return Outcome(value, upto=upto)

    def _outcome_of(self, call: Call, entry: Entry | None, mark: int) -> Outcome | None:
        """Return what to deliver if ``entry`` makes a load needless, to who joined before."""
        if call.is_refresh:
            return self._outcome_behind(call, entry) if call.is_behind else None
        if entry is None:
            return None
        verdict = self.judge(call, entry)
        if verdict is Verdict.ALONE:
            return ABANDONED  # each caller looks again, finds the mark, and loads for itself
        if verdict is Verdict.RAISE:
            error = self._stored_error(call, entry)
            return None if error is None else Outcome(error=error, upto=mark)
        return Outcome(self.value(call, entry), upto=mark) if verdict in SERVED else None

    def _outcome_behind(self, call: Call, entry: Entry | None) -> Outcome | None:
        """A load in the background has no callers: `ABANDONED` if it is not needed any more."""
        before = call.old
        if before is None or entry is before:
            return None
        if entry is None:
            return ABANDONED  # removed: who wants it loads it
        same = entry.created == before.created and entry.version == before.version
        return None if same or not is_fresh(entry, self.storage.now()) else ABANDONED


def _left(call: Call, limit: float | None) -> float:
    """Return how many seconds of ``limit`` this caller has left."""
    return inf if limit is None else max(0.0, call.started + limit - time.monotonic())


def _patience(call: Call, colour: Colour) -> float:
    """Return how many seconds a caller that has an old value waits for a new one."""
    soft = _left(call, call.policy.soft_timeout)
    if not colour.awaits:
        return soft
    from gecaso.deadline import remaining  # only who keeps old values needs it

    return max(0.0, min(soft, remaining()))


def _may_fall_back(call: Call, error: Exception) -> bool:
    """Return whether an error is trouble of the source, for which an old value makes up."""
    if isinstance(error, (RecursiveLoad, StorageError)):
        return False
    return ttl_of_error(error, call.policy.error_ttl) is None


def _runs_here(loop: AbstractEventLoop | None) -> bool:
    return loop is not None and asyncio._get_running_loop() is loop


def _flight_key(call: Call) -> Any:
    # A refresh shares its load with other refreshes; callers of the value meanwhile get the old.
    return (call.key, "refresh") if call.is_refresh else call.key


_loadings: weakref.WeakSet[Loading] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for loading in list(_loadings):
        loading.background.reset()
        if loading.limit is not None:
            loading.limit.reset()


os.register_at_fork(after_in_child=_after_fork_in_child)

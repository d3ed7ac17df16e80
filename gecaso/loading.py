"""From a miss to a value: look, share a flight, lease, load, commit, deliver.

`Loading` is what all flights have in common. How a flight reaches its storage is in
`LocalLoading`, where nothing waits and nothing fails, and in `NetworkLoading`.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop, CancelledError
from math import inf
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

from gecaso import events, flight
from gecaso.calls import Call
from gecaso.colours import Colour
from gecaso.entry import Entry, new_token
from gecaso.flight import ABANDONED, AGAIN, Flight, Flights, Outcome, current_flight
from gecaso.freshness import Verdict, judge
from gecaso.keys import Key
from gecaso.storage import EntryStorage, LocalStorage

if TYPE_CHECKING:
    from gecaso.guard import Guard

__all__ = ["Loading"]

USED_UP = frozenset({AsyncGeneratorType, CoroutineType, GeneratorType})
"""Types of results that have nothing left for a second caller."""
UNCACHEABLE_SECONDS = 1.0
"""How long callers of a key whose value was not stored load side by side."""


class Loading(ABC):
    """The flights over one storage, and the way each of them takes."""

    local: LocalStorage | None = None
    guard: Guard | None = None

    def __init__(self, storage: EntryStorage) -> None:
        self.storage = storage
        self.flights = Flights()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self.storage!r}: {self.flights!r}>"

    @abstractmethod
    async def look(self, call: Call, colour: Colour) -> Entry | None:
        """Return what is stored; None also where the storage is out of reach."""

    @abstractmethod
    async def _fly(self, flight: Flight, call: Call, colour: Colour) -> Outcome:
        """Lease, look again, load and commit; return what to deliver, and to whom."""

    # --- a caller -----------------------------------------------------------------------------

    async def obtain(self, call: Call, colour: Colour) -> Any:
        """Return the value: the one stored, another caller's, or a new one."""
        if call.is_refresh or (self.flights.open and call.key in self.flights.open):
            return await self.obtain_after(call, colour, None)
        return await self.obtain_after(call, colour, await self.look(call, colour))

    async def obtain_after(self, call: Call, colour: Colour, found: Entry | None) -> Any:
        """The same, after a lookup that ``found`` something or nothing."""
        entry = found
        is_counted = False
        while True:
            verdict = judge(entry, self.storage.now()) if entry is not None else Verdict.LOAD
            if verdict is Verdict.FRESH and entry is not None:
                return self._hit(call, entry)
            if not is_counted:
                is_counted = True
                self._note_miss(call)
            if verdict is Verdict.ALONE:
                return await self.load_alone(call, colour)
            result = await self._share(call, colour)
            if result is not AGAIN:
                return result
            entry = None
            if not (call.is_refresh or call.key in self.flights):
                entry = await self.look(call, colour)

    async def _share(self, call: Call, colour: Colour) -> Any:
        """Join the flight of the key, or start it; return what it brings, or `AGAIN`."""
        loop = asyncio.get_running_loop() if colour.awaits else None
        shared, waiter, mine = self.flights.join(_flight_key(call), loop)
        try:
            if not mine:
                if loop is None and _runs_here(shared.loop):
                    # Waiting would stop the loop that has to land the flight.
                    return await self.load_alone(call, colour)
                call.counters.joined += 1
            elif loop is None:
                await self.fly(shared, call, colour)
            else:
                self.flights.start(shared, loop.create_task(self.fly(shared, call, colour)))
            if loop is not None:
                await flight.wait(shared, waiter)
            elif not mine:
                flight.wait_blocking(shared, waiter)
            return shared.result(waiter)
        finally:
            self.flights.leave(shared)

    def _hit(self, call: Call, entry: Entry) -> Any:
        call.counters.hits += 1
        if events.hooks:
            events.emit(events.Hit(storage=self.storage, key=call.key))
        return entry.value

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
        try:
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

    async def _load(self, call: Call, colour: Colour) -> tuple[Any, float]:
        """Run the user's function; return its value and how many seconds it took."""
        counters = call.counters
        counters.loads += 1
        started = time.perf_counter()
        try:
            value = call.load()
            if colour.awaits:
                value = await value
            if type(value) in USED_UP:
                raise _used_up(call, value)
        except BaseException as error:
            counters.errors += 1
            self._note_load(call, time.perf_counter() - started, error)
            raise
        cost = time.perf_counter() - started
        self._note_load(call, cost, None)
        return value, cost

    def _note_load(self, call: Call, cost: float, error: BaseException | None) -> None:
        if error is None and cost > call.counters.longest:
            call.counters.longest = cost
        if events.hooks:
            events.emit(events.Load(storage=self.storage, key=call.key, seconds=cost, error=error))

    def _entry(self, call: Call, value: Any, cost: float) -> Entry:
        """Return the entry to commit for a value: itself, or a mark that it is not stored."""
        policy = call.policy
        if policy.condition is not None and not policy.condition(value):
            return self._mark(call, "the condition does not hold")
        now = self.storage.now()
        ttl = policy.ttl_of(value)
        until = inf if ttl is None else now + ttl
        return Entry(value, now, until, until, cost, params=policy.params)

    def _mark(self, call: Call, reason: str) -> Entry:
        call.counters.uncacheable += 1
        if events.hooks:
            events.emit(events.Uncacheable(storage=self.storage, key=call.key, reason=reason))
        now = self.storage.now()
        return Entry(
            None, now, -inf, now + UNCACHEABLE_SECONDS, kind="uncacheable", version=new_token()
        )

    def _outcome_of(self, call: Call, entry: Entry | None, mark: int) -> Outcome | None:
        """Return what to deliver if ``entry`` makes a load needless, to who joined before."""
        if entry is None or call.is_refresh:
            return None
        verdict = judge(entry, self.storage.now())
        if verdict is Verdict.ALONE:
            return ABANDONED  # each caller looks again, finds the mark, and loads for itself
        return Outcome(entry.value, upto=mark) if verdict is Verdict.FRESH else None

    def _note_commit(self, call: Call, key: Key, *, is_stored: bool) -> None:
        if not is_stored:
            call.counters.fenced += 1
        if events.hooks:
            kind = events.Commit if is_stored else events.Fenced
            events.emit(kind(storage=self.storage, key=key))

    def _note_unstorable(self, call: Call, error: Exception) -> Entry:
        self._warn_once(call, "pack", f"a value was returned and not stored: {error}")
        return self._mark(call, str(error))

    def _warn_once(self, call: Call, kind: str, message: str) -> None:
        if kind not in call.counters.warned:
            call.counters.warned.add(kind)
            events.logger.warning("%s: %s", call.key.owner.label, message)


def _used_up(call: Call, value: Any) -> TypeError:
    kind = type(value).__name__
    if not isinstance(value, AsyncGeneratorType):
        value.close()  # or Python warns of a coroutine that nobody awaited
    return TypeError(
        f"{call.key.owner.label} returned a {kind}, which its first caller would use up; "
        "make the function an `async def` that awaits, or return a list or a tuple"
    )


def _runs_here(loop: AbstractEventLoop | None) -> bool:
    return loop is not None and asyncio._get_running_loop() is loop


def _flight_key(call: Call) -> Any:
    # A refresh shares its load with other refreshes; callers of the value meanwhile get the old.
    return (call.key, "refresh") if call.is_refresh else call.key

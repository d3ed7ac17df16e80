"""From a miss to a value: look, share a flight, lease, load, commit, deliver.

Written once for coroutines and for plain callers: a `Colour` says how to wait. For a plain caller
nothing in here ever suspends, so that its coroutine can be run to its end on the spot.

Every store, whatever led to it, goes through `Loading.commit`, and is fenced there.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple

from gecaso import events, flight
from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import PackError, StorageError
from gecaso.flight import ABANDONED, AGAIN, Flight, Flights, Outcome, current_flight
from gecaso.freshness import Verdict, judge
from gecaso.guard import guard_of
from gecaso.keeper import Keeper
from gecaso.keys import Key
from gecaso.loops import Bridge, run_now
from gecaso.policy import Policy
from gecaso.storage import EntryStorage, LocalStorage
from gecaso.waiting import steps

__all__ = ["ASYNC", "Call", "Colour", "Counters", "Loading", "Plain"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

UNCACHEABLE_SECONDS = 1.0
"""How long callers of a key whose value was not stored load side by side."""


class Counters:
    """What one function's calls came to, the hits of its shortest path apart."""

    __slots__ = (
        "errors",
        "fenced",
        "hits",
        "joined",
        "loads",
        "longest",
        "lost",
        "misses",
        "storage_errors",
        "uncacheable",
        "warned",
    )

    def __init__(self) -> None:
        self.longest = 0.0
        self.warned: set[str] = set()
        self.reset()

    def reset(self) -> None:
        self.hits = self.misses = self.loads = self.joined = self.errors = 0
        self.fenced = self.lost = self.uncacheable = self.storage_errors = 0


class Call:
    """One call that was no hit: the key, and how to load its value."""

    __slots__ = ("counters", "is_cut_off", "is_refresh", "key", "load", "policy")

    def __init__(
        self,
        key: Key,
        load: Callable[[], Any],
        policy: Policy,
        counters: Counters,
        *,
        is_refresh: bool = False,
    ) -> None:
        self.key = key
        self.load = load
        self.policy = policy
        self.counters = counters
        self.is_refresh = is_refresh
        self.is_cut_off = False

    @property
    def lease_seconds(self) -> float:
        # A load that took long before will do so again, and renewing needs a loop that is free.
        return max(self.policy.lease_seconds, 4 * self.counters.longest)


class Colour(Protocol):
    """How a kind of caller runs the user's function, a storage's operation, and a flight."""

    async def load(self, load: Callable[[], Any]) -> Any: ...

    async def do(self, operation: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T: ...

    async def wait_lease(self, storage: EntryStorage, busy: Busy, timeout: float) -> None: ...

    async def share(self, loading: Loading, call: Call) -> Any: ...


class _Async:
    """Coroutines: everything is awaited, and a flight is a task of the caller's loop."""

    async def load(self, load: Callable[[], Any]) -> Any:
        return await load()

    async def do(self, operation: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        return await operation(*args)

    async def wait_lease(self, storage: EntryStorage, busy: Busy, timeout: float) -> None:
        await storage.wait(busy, timeout)

    async def share(self, loading: Loading, call: Call) -> Any:
        loop = asyncio.get_running_loop()
        flights = loading.flights
        shared, waiter, mine = flights.join(_flight_key(call), loop)
        try:
            if mine:
                flights.start(shared, loop.create_task(loading.fly(shared, call, self)))
            else:
                call.counters.joined += 1
            await flight.wait(shared, waiter)
            return shared.result(waiter)
        finally:
            flights.leave(shared)


ASYNC: Final[Colour] = _Async()


class Plain:
    """Plain callers: the function runs in their thread; a network storage through a bridge."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    async def load(self, load: Callable[[], Any]) -> Any:
        return load()

    async def do(self, operation: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        return self._bridge.call(operation, *args)

    async def wait_lease(self, storage: EntryStorage, busy: Busy, timeout: float) -> None:
        if isinstance(storage, LocalStorage):
            storage.wait_blocking(busy, timeout)
        else:
            self._bridge.call(storage.wait, busy, timeout)

    async def share(self, loading: Loading, call: Call) -> Any:
        flights = loading.flights
        shared, waiter, mine = flights.join(_flight_key(call), None)
        try:
            if mine:
                run_now(loading.fly(shared, call, self))
            elif _runs_here(shared.loop):
                # Waiting would stop the loop that has to land the flight.
                return await loading.load_alone(call, self)
            else:
                call.counters.joined += 1
                flight.wait_blocking(shared, waiter)
            return shared.result(waiter)
        finally:
            flights.leave(shared)


def _runs_here(loop: AbstractEventLoop | None) -> bool:
    return loop is not None and asyncio._get_running_loop() is loop


def _flight_key(call: Call) -> Any:
    # A refresh shares its load with other refreshes; callers of the value meanwhile get the old.
    return (call.key, "refresh") if call.is_refresh else call.key


@dataclass(slots=True)
class _Ready:
    """What a flight has before it loads: a lease or none, or an outcome that needs no load."""

    lease: Lease | None = None
    keeper: Keeper | None = None
    early: int | None = None
    outcome: Outcome | None = None


class Loading:
    """The flights over one storage, and the way each of them takes."""

    def __init__(self, storage: EntryStorage) -> None:
        self.storage = storage
        self.local = storage if isinstance(storage, LocalStorage) else None
        self.guard = None if self.local is not None else guard_of(storage)
        self.flights = Flights()
        if self.guard is not None:
            self.guard.flights.add(self.flights)

    def __repr__(self) -> str:
        return f"<Loading over {self.storage!r}: {self.flights!r}>"

    def is_quiet(self) -> bool:
        """Return whether the storage is in no trouble that is known of."""
        return self.guard is None or self.guard.is_quiet

    # --- a caller -----------------------------------------------------------------------------

    async def obtain(self, call: Call, colour: Colour) -> Any:
        """Return the value: the one stored, another caller's, or a new one."""
        if call.is_refresh or call.key in self.flights:
            return await self.obtain_after(call, colour, None)
        return await self.obtain_after(call, colour, await self.look(call, colour))

    async def obtain_after(
        self, call: Call, colour: Colour, found: Entry | StorageError | None
    ) -> Any:
        """The same, after a lookup that ``found`` something, nothing, or trouble."""
        if isinstance(found, StorageError):
            self._failed(call, "look up", found)
            found = None
        entry = found
        while True:
            verdict = judge(entry, self.storage.now())
            if verdict is Verdict.FRESH and entry is not None:
                return self._hit(call, entry)
            call.counters.misses += 1
            if events.hooks:
                events.emit(events.Miss(storage=self.storage, key=call.key))
            if verdict is Verdict.ALONE:
                return await self.load_alone(call, colour)
            result = await colour.share(self, call)
            if result is not AGAIN:
                return result
            entry = None
            if not (call.is_refresh or call.key in self.flights):
                entry = await self.look(call, colour)

    async def look(self, call: Call, colour: Colour) -> Entry | None:
        """Return what is stored; None also where the storage is out of reach."""
        if self.local is not None:
            return self.local.fetch_now((call.key,)).get(call.key)
        return await self._try(call, colour, "look up", self._lookup, call.key)

    async def _lookup(self, key: Key) -> Entry | None:
        return await self.storage.lookup(key)

    def _hit(self, call: Call, entry: Entry) -> Any:
        call.counters.hits += 1
        if events.hooks:
            events.emit(events.Hit(storage=self.storage, key=call.key))
        return entry.value

    async def load_alone(self, call: Call, colour: Colour) -> Any:
        """Load for this caller; nothing is shared or stored."""
        return (await self._load(call, colour))[0]

    # --- a flight -----------------------------------------------------------------------------

    async def fly(self, flight: Flight, call: Call, colour: Colour) -> None:
        """Run a flight to its landing, whatever happens on the way."""
        token = current_flight.set(flight)
        outcome = ABANDONED
        try:
            outcome = await self._fly(flight, call, colour)
        except CancelledError as error:
            # Cancelled from outside, the other callers start over; if the user's function raised
            # it by itself, it is what they get.
            if flight.task is None or not flight.task.cancelling():
                outcome = Outcome(error=error)
            else:
                raise
        except GeneratorExit:
            raise
        except BaseException as error:
            outcome = Outcome(error=error)
            if not isinstance(error, Exception) and flight.loop is not None:
                raise
        finally:
            self.flights.land(flight, outcome)
            if flight.loop is None:  # a task has a context of its own, and may end outside of it
                current_flight.reset(token)

    async def _fly(self, flight: Flight, call: Call, colour: Colour) -> Outcome:
        ready = await self._prepare(flight, call, colour)
        if ready.outcome is not None:
            return ready.outcome
        if ready.lease is None:
            value, _ = await self._load(call, colour)
            return Outcome(value, upto=ready.early)
        try:
            return await self._fly_leased(flight, call, colour, ready, ready.lease)
        finally:
            if ready.keeper is not None:
                ready.keeper.stop()

    async def _fly_leased(
        self, flight: Flight, call: Call, colour: Colour, ready: _Ready, lease: Lease
    ) -> Outcome:
        try:
            value, cost = await self._load(call, colour)
            entry = self._entry(call, value, cost)
        except BaseException as error:
            return await self._give_up(flight, call, colour, ready, error)
        stored = await self.commit(call, colour, lease, entry)
        if not (stored or call.is_cut_off) and ready.keeper is not None and ready.keeper.lost:
            self._note_lost(call)
        return Outcome(value, upto=None if stored else ready.early)

    async def _load(self, call: Call, colour: Colour) -> tuple[Any, float]:
        counters = call.counters
        counters.loads += 1
        error: BaseException | None = None
        started = time.perf_counter()
        try:
            value = await colour.load(call.load)
        except BaseException as raised:
            counters.errors += 1
            error = raised
            raise
        finally:
            cost = time.perf_counter() - started
            if cost > counters.longest:
                counters.longest = cost
            if events.hooks:
                events.emit(
                    events.Load(storage=self.storage, key=call.key, seconds=cost, error=error)
                )
        return value, cost

    def _entry(self, call: Call, value: Any, cost: float) -> Entry:
        policy = call.policy
        if policy.condition is not None and not policy.condition(value):
            return self._mark(call, "the condition does not hold")
        now = self.storage.now()
        ttl = policy.ttl if type(policy.ttl) is float else policy.ttl_of(value)
        until = inf if ttl is None else now + ttl
        return Entry(value, now, until, until, cost, params=policy.params, version=new_token())

    def _mark(self, call: Call, reason: str) -> Entry:
        call.counters.uncacheable += 1
        if events.hooks:
            events.emit(events.Uncacheable(storage=self.storage, key=call.key, reason=reason))
        now = self.storage.now()
        return Entry(
            None, now, -inf, now + UNCACHEABLE_SECONDS, kind="uncacheable", version=new_token()
        )

    async def _give_up(
        self, flight: Flight, call: Call, colour: Colour, ready: _Ready, error: BaseException
    ) -> Outcome:
        """End the lease of a load that failed; who joined after an invalidation starts over."""
        assert ready.lease is not None
        upto = None
        if self.local is not None:
            if not self.local.leases.give_back(ready.lease):
                upto = ready.early
        elif not isinstance(error, GeneratorExit):
            if ready.early is not None and flight.joined > ready.early:
                upto = await self._early_if_fenced(call, colour, ready)
            await self._release(call, colour, ready)
        if isinstance(error, CancelledError) or not isinstance(error, Exception):
            raise error
        return Outcome(error=error, upto=upto)

    async def _early_if_fenced(self, call: Call, colour: Colour, ready: _Ready) -> int | None:
        assert ready.lease is not None
        kept = await self._try(
            call, colour, "renew", self.storage.renew, (ready.lease,), call.lease_seconds
        )
        return None if kept else ready.early

    async def _release(self, call: Call, colour: Colour, ready: _Ready) -> None:
        if ready.keeper is not None:
            ready.keeper.stop()
        if ready.lease is not None:
            await self._try(call, colour, "release", self.storage.release, (ready.lease,))

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

    def _warn_once(self, call: Call, kind: str, message: str) -> None:
        if kind not in call.counters.warned:
            call.counters.warned.add(kind)
            events.logger.warning("%s: %s", call.key.owner.label, message)

    # --- the one place where values are stored ------------------------------------------------

    async def commit(self, call: Call, colour: Colour, lease: Lease, entry: Entry) -> bool:
        """Store an entry under its lease; return whether it is known to be stored."""
        try:
            stored = await self._commit(call, colour, lease, entry)
        except PackError as error:
            self._warn_once(call, "pack", f"a value was returned and not stored: {error}")
            stored = await self._commit(call, colour, lease, self._mark(call, str(error)))
        if stored is None:
            return False
        if lease.key in stored:
            if events.hooks:
                events.emit(events.Commit(storage=self.storage, key=lease.key))
            return True
        call.counters.fenced += 1
        if events.hooks:
            events.emit(events.Fenced(storage=self.storage, key=lease.key))
        return False

    async def _commit(
        self, call: Call, colour: Colour, lease: Lease, entry: Entry
    ) -> set[Key] | None:
        if self.local is not None:
            return self.local.commit_now({lease: entry})
        return await self._try(call, colour, "commit", self.storage.commit, {lease: entry})

    # --- the lease ----------------------------------------------------------------------------

    async def _prepare(self, flight: Flight, call: Call, colour: Colour) -> _Ready:
        """Take the lease, and look again: what was committed meanwhile is served, not loaded."""
        give_up = inf
        if call.policy.wait_timeout is not None:
            give_up = time.monotonic() + call.policy.wait_timeout
        for step in steps(self.storage.notifies):
            ready = await self._lease_once(flight, call, colour)
            if not isinstance(ready, Busy):
                return ready
            left = give_up - time.monotonic()
            if left <= 0:
                return _Ready(early=flight.mark())
            await self._wait(call, colour, ready, min(step, left))
            if self.storage.notifies and not call.is_refresh:
                # One lookup is cheaper than a lease, and mostly the value is there by now.
                mark = flight.mark()
                entry = await self.look(call, colour)
                if (outcome := self._outcome_of(call, entry, mark)) is not None:
                    return _Ready(outcome=outcome)
        raise AssertionError("the steps do not end")

    async def _lease_once(self, flight: Flight, call: Call, colour: Colour) -> _Ready | Busy:
        mark = flight.mark()
        keeper: Keeper | None = None
        if self.local is not None:
            got = self.local.lease_now((call.key,), inf)[call.key]
        else:
            answer = await self._try(
                call, colour, "lease", self._lease_and_keep, call.key, call.lease_seconds
            )
            if answer is None:  # out of reach: one load per process, for all its callers
                return _Ready()
            got, keeper = answer
        if isinstance(got, Busy):
            outcome = None if call.is_refresh else self._outcome_of(call, got.stale, mark)
            return got if outcome is None else _Ready(outcome=outcome)
        ready = _Ready(got, keeper, mark)
        if not call.is_refresh:
            ready.outcome = self._outcome_of(call, got.seen, mark)
        if ready.outcome is not None:
            if self.local is not None:
                self.local.release_now((got,))
            else:
                await self._release(call, colour, ready)
        return ready

    async def _lease_and_keep(self, key: Key, seconds: float) -> tuple[Lease | Busy, Keeper | None]:
        asking = asyncio.ensure_future(self.storage.lease((key,), seconds))
        try:
            got = (await asyncio.shield(asking))[key]
        except CancelledError:
            # The storage may grant it all the same; nobody shall wait for a lease without a holder.
            if self.guard is not None:
                self.guard.spawn(_hand_back(self.storage, asking))
            raise
        return got, Keeper(self.storage, got, seconds) if isinstance(got, Lease) else None

    def _outcome_of(self, call: Call, entry: Entry | None, mark: int) -> Outcome | None:
        verdict = judge(entry, self.storage.now())
        if verdict is Verdict.ALONE:
            return ABANDONED  # each caller looks again, finds the mark, and loads for itself
        if verdict is Verdict.FRESH and entry is not None:
            return Outcome(entry.value, upto=mark)
        return None

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
        """Run an operation of the storage; None if the storage is, or is known to be, in trouble."""
        guard = self.guard
        assert guard is not None
        if call.is_cut_off:
            return None
        if not guard.is_quiet:
            if guard.wants_work():
                await colour.do(self._work)
            if guard.bypasses(call.key):
                return self._bypass(call)
        try:
            result = await colour.do(operation, *args)
        except StorageError as error:
            self._failed(call, name, error)
            return None
        if guard.breaker.failures:
            guard.breaker.succeeded()
        return result

    async def _work(self) -> None:
        assert self.guard is not None
        self.guard.work()

    def _bypass(self, call: Call) -> None:
        if call.policy.on_storage_error == "raise":
            raise StorageError(
                f"{self.storage!r} is left alone for a while after failures, or an invalidation of "
                f"{call.key} is pending; on_storage_error='load' goes on without it"
            )

    def _failed(self, call: Call, name: str, error: StorageError) -> None:
        assert self.guard is not None
        call.is_cut_off = True  # trouble costs a call one failure, not one for each operation
        call.counters.storage_errors += 1
        self.guard.failed(name, error, call.key)
        if call.policy.on_storage_error == "raise":
            raise error


async def _hand_back(
    storage: EntryStorage, asking: asyncio.Future[dict[Key, Lease | Busy]]
) -> None:
    try:
        granted = [got for got in (await asking).values() if isinstance(got, Lease)]
        if granted:
            await storage.release(granted)
    except StorageError as error:
        events.logger.debug("a lease that nobody wants was not handed back: %s", error)

"""One load per key: join, deliver, fence, cancel.

A flight is one load of one key, shared by every caller that wants that key: coroutines of any
loop, and threads. This module is state only. Each change happens in one method, without waiting,
under a lock that is held for dict operations alone.

Who gets what a flight brings:

* a caller that joined *before* the storage was last looked at (`Flight.mark`) always does;
* one that joined later, before the commit was sent, does only if the commit succeeded, or if the
  flight had no lease because the storage was out of reach;
* everybody else starts over (`AGAIN`): looks again, and shares one new flight if need be. Without
  this rule a caller could start after an invalidation in another process, join a load from before
  it, and get the old value.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar
from enum import Enum
from math import inf
from typing import Any, Final, Literal, cast

from gecaso.errors import RecursiveLoad
from gecaso.failure import faithful_copy
from gecaso.waiters import Waiter, wake

__all__ = ["AGAIN", "Flight", "Flights", "Outcome", "current_flight"]

FOREIGN_CHECK = 0.5
"""Seconds between looks at whether the loop that a flight runs in is still there."""


class _Again(Enum):
    AGAIN = "start over"


AGAIN: Final = _Again.AGAIN


class Outcome:
    """What a flight brought: a value or an error, and for whom.

    ``upto`` is the mark before which a caller must have joined; None: it is for all.
    """

    __slots__ = ("error", "upto", "value")

    def __init__(
        self, value: Any = None, *, error: BaseException | None = None, upto: int | None = None
    ) -> None:
        self.value = value
        self.error = error
        self.upto = upto


ABANDONED = Outcome(upto=-1)


class Flight:
    """One load of one key. ``loop`` is None for one that runs in a thread."""

    __slots__ = (
        "__weakref__",
        "_untouched",
        "is_cancelled",
        "joined",
        "key",
        "loop",
        "outcome",
        "present",
        "task",
        "waiters",
        "waits_for",
    )

    def __init__(self, key: Hashable, loop: AbstractEventLoop | None) -> None:
        self.key = key
        self.loop = loop
        self.task: asyncio.Task[None] | None = None
        self.outcome: Outcome | None = None
        self.waiters: list[Waiter] = []
        self.joined = 0
        self.present = 0
        self.is_cancelled = False
        self.waits_for: list[Flight] | None = None
        self._untouched: list[BaseException] | None = None

    def __repr__(self) -> str:
        state = "landed" if self.outcome is not None else "in the air"
        return f"<Flight of {self.key}: {state}, {self.present} callers>"

    def mark(self) -> int:
        """Return the mark between those who have joined so far and those who join later."""
        return self.joined

    def is_lost(self) -> bool:
        """Return whether the loop that should land this flight was closed under it."""
        return self.outcome is None and self.loop is not None and self.loop.is_closed()

    def result(self, waiter: Waiter) -> Any | Literal[_Again.AGAIN]:
        """Return the value for this caller, raise the error, or return `AGAIN`."""
        outcome = self.outcome
        if outcome is None or (outcome.upto is not None and waiter.place >= outcome.upto):
            return AGAIN
        if outcome.error is not None:
            raise self._own_error(outcome.error)
        return outcome.value

    def _own_error(self, error: BaseException) -> BaseException:
        # One caller gets the exception itself. The others get copies of one that nobody has
        # raised: it has no frames but those of the load. `pop` gives it to one thread only.
        if self._untouched is None:
            return error
        try:
            return self._untouched.pop()
        except IndexError:
            return faithful_copy(error)

    def land(self, outcome: Outcome) -> None:
        """Take the outcome; called once, by `Flights.land`."""
        if outcome.error is not None and self.joined > 1:
            self._untouched = [outcome.error]
            outcome.error = faithful_copy(outcome.error)
        self.outcome = outcome


current_flight: ContextVar[Flight | None] = ContextVar("gecaso_flight", default=None)


class Flights:
    """The flights of one cache, for all loops and threads of the process."""

    def __init__(self) -> None:
        # For a quick look whether there is a flight at all; changed in here only, with the lock.
        self.open: dict[Hashable, Flight] = {}
        self._reset()
        _tables.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self.open.clear()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: weakref.ref[AbstractEventLoop] | None = None

    def __len__(self) -> int:
        return len(self.open)

    def __contains__(self, key: object) -> bool:
        return key in self.open

    def __repr__(self) -> str:
        return f"<Flights: {len(self.open)} in the air>"

    def begin(self, key: Hashable, loop: AbstractEventLoop | None) -> Flight | None:
        """Return a new flight of ``key`` without callers; None if there is one already.

        It has the place of a caller who never leaves, so that it flies to its landing.
        """
        gone: list[Any] = []
        with self._lock:
            other = self.open.get(key)
            if other is not None and other.is_lost():
                gone = self._take_lost()
                other = None
            flight = None
            if other is None:
                flight = self.open[key] = Flight(key, loop)
                flight.joined = flight.present = 1
        gone.clear()
        return flight

    def join(
        self, key: Hashable, loop: AbstractEventLoop | None, *, behind: bool = False
    ) -> tuple[Flight, Waiter, bool]:
        """Return the flight of ``key``, this caller's place in it, and whether it must fly it.

        A new flight that flies ``behind`` its callers goes on when they have left. Raises
        `RecursiveLoad` if the flight waits, directly or not, for the caller's own.
        """
        waiter = Waiter(loop)
        own = current_flight.get()
        gone: list[Any] = []
        with self._lock:
            flight = self.open.get(key)
            if flight is not None and flight.is_lost():
                gone = self._take_lost()  # what they hold is let go without the lock
                flight = None
            mine = flight is None
            if flight is None:
                flight = Flight(key, loop)
                flight.present = int(behind)
            if own is not None and own.outcome is None:
                self._check_circle(own, flight)
                if own.waits_for is None:
                    own.waits_for = []
                own.waits_for.append(flight)
            self.open[key] = flight
            waiter.place = flight.joined
            flight.joined += 1
            flight.present += 1
            if not mine or loop is not None or behind:
                waiter.make_ready()
                flight.waiters.append(waiter)
        gone.clear()
        return flight, waiter, mine

    def _take_lost(self) -> list[Any]:
        """Forget, and return, what belongs to closed loops. Called with the lock."""
        lost = [flight for flight in self.open.values() if flight.is_lost()]
        for flight in lost:
            self._close(flight)
        tasks = [task for task in self._tasks if task.get_loop().is_closed()]
        self._tasks.difference_update(tasks)
        return [*lost, *tasks]

    def _check_circle(self, own: Flight, target: Flight) -> None:
        """Raise `RecursiveLoad` if ``own`` can be reached from ``target``. Called with the lock."""
        waiting = [target]
        seen: set[int] = set()
        while waiting:
            flight = waiting.pop()
            if flight is own:
                raise RecursiveLoad(
                    f"the load of {own.key} waits for the load of {target.key}, which waits for "
                    "it; call the function's .uncached inside the load, or break the circle"
                )
            if id(flight) not in seen and flight.outcome is None:
                seen.add(id(flight))
                waiting.extend(flight.waits_for or ())
                if (twin := self.open.get(_twin(flight.key))) is not None:
                    waiting.append(twin)

    def start(self, flight: Flight, task: asyncio.Task[None]) -> None:
        """Note the task that flies it; unless it has landed at once (eager tasks do)."""
        if flight.outcome is None:
            flight.task = task
            self._keep(task)
            if flight.is_cancelled:
                task.cancel()

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task, which its loop does not; in a new loop, let go of those of closed ones."""
        loop = task.get_loop()
        if self._loop is None or self._loop() is not loop:
            self._loop = weakref.ref(loop)
            closed = [one for one in tuple(self._tasks) if one.get_loop().is_closed()]
            self._tasks.difference_update(closed)
        self._tasks.add(task)

    def leave(self, flight: Flight) -> None:
        """A caller is gone, served or not. When the last one goes, the load is cancelled."""
        own = current_flight.get()
        with self._lock:
            if own is not None and own.waits_for and flight in own.waits_for:
                own.waits_for.remove(flight)
            flight.present -= 1
            if not flight.present and flight.outcome is not None:
                flight.outcome.error = None  # its traceback leads here: a circle
            if flight.present or flight.outcome is not None or flight.loop is None:
                return
            flight.is_cancelled = True
            self._close(flight)
        self._cancel(flight)

    def _cancel(self, flight: Flight) -> None:
        task, loop = flight.task, flight.loop
        if task is None or loop is None or loop.is_closed():
            return
        if asyncio._get_running_loop() is loop:
            _cancel_once(task)
            return
        with contextlib.suppress(RuntimeError):  # the loop has just closed
            loop.call_soon_threadsafe(_cancel_once, task)

    def detach(self, keys: Iterable[Hashable]) -> None:
        """Later callers of these keys start new flights."""
        with self._lock:
            for key in keys:
                self.open.pop(key, None)
                self.open.pop((key, "refresh"), None)

    def detach_where(self, condition: Callable[[Any], bool]) -> None:
        with self._lock:
            for key in [key for key in self.open if condition(key)]:
                del self.open[key]

    def land(self, flight: Flight, outcome: Outcome) -> None:
        """Deliver: the flight is over."""
        with self._lock:
            if flight.outcome is not None:
                return
            flight.land(outcome)
            self._close(flight)
            waiters, flight.waiters = flight.waiters, []
            if flight.task is not None:
                self._tasks.discard(flight.task)
                flight.task = None
        wake(waiters)

    def _close(self, flight: Flight) -> None:
        if self.open.get(flight.key) is flight:
            del self.open[flight.key]


def _cancel_once(task: asyncio.Task[None]) -> None:
    # A loop that ends cancels all its tasks. A second time would break off the clean-up, in which
    # the lease is given back.
    if not task.cancelling():
        task.cancel()


def _twin(key: Any) -> Any:
    """Return the key of the flight that may hold the lease this one needs: load or refresh."""
    return cast(tuple[Any, str], key)[0] if isinstance(key, tuple) else (key, "refresh")


async def wait(flight: Flight, waiter: Waiter) -> None:
    """Wait, in a loop, until the flight has landed or is lost."""
    assert waiter.future is not None
    if flight.loop is waiter.loop:
        await waiter.future
        return
    while not waiter.future.done():
        await asyncio.wait((waiter.future,), timeout=FOREIGN_CHECK)
        if flight.is_lost():
            return


def wait_blocking(flight: Flight, waiter: Waiter, limit: float = inf) -> None:
    """Wait, in a thread, until the flight has landed or is lost, at most ``limit`` seconds."""
    assert waiter.event is not None
    give_up = time.monotonic() + limit
    while not waiter.event.wait(min(FOREIGN_CHECK, max(0.0, give_up - time.monotonic()))):
        if flight.is_lost() or time.monotonic() >= give_up:
            return


_tables: weakref.WeakSet[Flights] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for table in list(_tables):
        table._reset()  # pyright: ignore[reportPrivateUsage] - the hook is a part of Flights


os.register_at_fork(after_in_child=_after_fork_in_child)

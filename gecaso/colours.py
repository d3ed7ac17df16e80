"""How coroutines and plain callers wait: the only difference between them.

Flights are written once, as coroutines. For a plain caller nothing in them ever suspends, because
what would wait blocks its thread instead; so such a coroutine is run to its end on the spot.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, TypeVarTuple

from gecaso import flight
from gecaso.calls import Call
from gecaso.entry import Busy
from gecaso.loops import Bridge, run_now
from gecaso.storage import EntryStorage, LocalStorage

if TYPE_CHECKING:
    from gecaso.loading import Loading

__all__ = ["ASYNC", "Colour", "Plain"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Colour(Protocol):
    """How a kind of caller runs the user's function, a storage's operation, and a flight."""

    awaits: bool
    """Whether the user's function returns something to await."""

    async def do(self, operation: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T: ...

    async def wait_lease(self, storage: EntryStorage, busy: Busy, timeout: float) -> None: ...

    async def share(self, loading: Loading, call: Call) -> Any: ...


class _Async:
    """Coroutines: everything is awaited, and a flight is a task of the caller's loop."""

    awaits = True

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

    awaits = False

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

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

"""How coroutines and plain callers wait: the only difference between them.

Flights are written once, as coroutines. For a plain caller nothing in them ever suspends, because
what would wait blocks its thread instead; so such a coroutine is run to its end on the spot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar, TypeVarTuple

from gecaso.entry import Busy
from gecaso.loops import Bridge
from gecaso.storage import EntryStorage, LocalStorage

__all__ = ["ASYNC", "Colour", "Plain"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Colour(Protocol):
    """How a kind of caller runs a storage's operation, and waits."""

    awaits: bool
    """Whether the user's function returns something to await."""

    async def do(self, operation: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T: ...

    async def wait_lease(self, storage: EntryStorage, busy: Busy, timeout: float) -> None: ...


class _Async:
    """Coroutines: everything is awaited, and a flight is a task of the caller's loop."""

    awaits = True

    async def do(self, operation: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        return await operation(*args)

    async def wait_lease(self, storage: EntryStorage, busy: Busy, timeout: float) -> None:
        await storage.wait(busy, timeout)


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

"""How many loads of one cache run at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator
from contextvars import ContextVar

from anyio import CapacityLimiter

from gecaso.colours import Colour
from gecaso.loops import PerLoop

__all__ = ["LoadLimit"]


class LoadLimit:
    """At most ``most`` loads of a cache: of each event loop, and of all plain callers together.

    A load inside a load needs no room of its own: it could wait for the one that waits for it.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._limiters = PerLoop(self._make, _nothing_to_close, _nothing_to_abandon)
        self.reset()

    def _make(self) -> CapacityLimiter:
        return CapacityLimiter(self.most)

    def reset(self) -> None:
        """Forget who has room: in a forked child, whose parent runs those loads."""
        self._lock = threading.Lock()
        self._room = threading.Semaphore(self.most)
        self._taken = 0

    def __repr__(self) -> str:
        return f"<LoadLimit of {self.most}>"

    def has_room(self, colour: Colour) -> bool:
        """Return whether a load could begin at once."""
        if self in _holding.get():
            return True
        if not colour.awaits:
            return self._taken < self.most
        limiter = self._limiters.get()
        return limiter.borrowed_tokens + limiter.statistics().tasks_waiting < self.most

    @contextlib.asynccontextmanager
    async def room(self, colour: Colour) -> AsyncGenerator[None, None]:
        """Wait for room, and keep it during the block."""
        held = _holding.get()
        if self in held:
            yield
            return
        async with self._place(colour):
            _holding.set((*held, self))
            try:
                yield
            finally:
                with contextlib.suppress(ValueError):  # ended from another context: with its loop
                    _holding.set(held)

    @contextlib.asynccontextmanager
    async def _place(self, colour: Colour) -> AsyncGenerator[None, None]:
        if colour.awaits:
            async with self._limiters.get():
                yield
            return
        with self._room:
            self._count(1)
            try:
                yield
            finally:
                self._count(-1)

    def _count(self, by: int) -> None:
        with self._lock:
            self._taken += by


_holding: ContextVar[tuple[LoadLimit, ...]] = ContextVar("gecaso_room", default=())


async def _nothing_to_close(limiter: CapacityLimiter) -> None:
    pass


def _nothing_to_abandon(limiter: CapacityLimiter) -> None:
    pass

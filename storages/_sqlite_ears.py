"""Those who wait for a lease to end; within this process they are told at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Iterable

__all__ = ["Ears"]


class Ears:
    """Who listens for which lease. Safe in all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[bytes, set[Future[None]]] = {}

    def __repr__(self) -> str:
        return f"<Ears for {len(self._heard)} leases>"

    def listen(self, name: bytes) -> Future[None]:
        """Return a future of the running loop, set when a lease of that name may have ended."""
        future: Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._heard.setdefault(name, set()).add(future)
        return future

    def forget(self, name: bytes, future: Future[None]) -> None:
        with self._lock:
            listening = self._heard.get(name, set())
            listening.discard(future)
            if not listening:
                self._heard.pop(name, None)

    def tell(self, names: Iterable[bytes]) -> None:
        if not self._heard:
            return
        with self._lock:
            told = [future for name in names for future in self._heard.get(name, ())]
        for future in told:
            _set(future.get_loop(), future)


def _set(loop: AbstractEventLoop, future: Future[None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits there
        loop.call_soon_threadsafe(_wake, future)


def _wake(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)

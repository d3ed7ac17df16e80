"""Those who wait for a lease to end; within this process they are told at once."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import Future
from collections.abc import Container

__all__ = ["Ears"]


class Ears:
    """Who listens for which lease. Safe in all threads, and without a lock.

    What is collected as garbage forgets itself here, whatever its thread was just doing.
    """

    def __init__(self) -> None:
        self._heard: dict[Future[None], bytes] = {}

    def __repr__(self) -> str:
        return f"<Ears of {len(self._heard)} who wait>"

    def __bool__(self) -> bool:
        return bool(self._heard)

    def listen(self, name: bytes) -> Future[None]:
        """Return a future of the running loop, set when a lease of that name may have ended."""
        future: Future[None] = asyncio.get_running_loop().create_future()
        self._heard[future] = name
        return future

    def forget(self, future: Future[None]) -> None:
        self._heard.pop(future, None)

    def tell(self, names: Container[bytes]) -> None:
        for future, name in self._heard.copy().items():
            if name in names:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
                    future.get_loop().call_soon_threadsafe(_wake, future)


def _wake(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)

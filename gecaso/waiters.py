"""The callers of a flight: coroutines of any loop, and threads, woken from anywhere."""

from __future__ import annotations

import asyncio
import threading
from asyncio import AbstractEventLoop

__all__ = ["Waiter", "wake"]


class Waiter:
    """One caller of a flight. ``future`` belongs to its loop; a thread has an ``event``."""

    __slots__ = ("event", "future", "loop", "place")

    def __init__(self, loop: AbstractEventLoop | None) -> None:
        self.loop = loop
        self.place = 0
        self.future: asyncio.Future[None] | None = None
        self.event: threading.Event | None = None

    def make_ready(self) -> None:
        """Be able to wait; the thread that flies its own flight never does."""
        if self.loop is None:
            self.event = threading.Event()
        else:
            self.future = self.loop.create_future()


def wake(waiters: list[Waiter]) -> None:
    """Wake them all, each in its loop or thread."""
    here = asyncio._get_running_loop()
    elsewhere: dict[AbstractEventLoop, list[Waiter]] = {}
    for waiter in waiters:
        if waiter.event is not None:
            waiter.event.set()
        elif waiter.loop is here:
            _set(waiter)
        elif waiter.loop is not None:
            elsewhere.setdefault(waiter.loop, []).append(waiter)
    for loop, group in elsewhere.items():
        try:
            loop.call_soon_threadsafe(_set_all, group)
        except RuntimeError:  # that loop is closed, and nobody waits in it any more
            continue


def _set_all(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        _set(waiter)


def _set(waiter: Waiter) -> None:
    # Futures only wake. The outcome is read from the flight: an exception set on a future whose
    # task was cancelled in the same tick would be reported as never retrieved.
    if waiter.future is not None and not waiter.future.done():
        waiter.future.set_result(None)

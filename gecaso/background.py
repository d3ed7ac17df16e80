"""Loads that nobody waits for: bounded, in a context of their own, ended with their cache.

A load in the background begins in an empty context: the request that set it off may be over before
it is, and what hangs on that request (a database session, a span) with it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context
from typing import Any

from gecaso.loops import start_soon

__all__ = ["Background"]

MOST = 64


class Background:
    """The background loads of one cache: tasks of its loops, and threads for plain functions."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads: set[Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Background: {len(self)} of {self.most} loads>"

    def __len__(self) -> int:
        return len(self._tasks) + len(self._threads)

    def has_room(self) -> bool:
        """Return whether another load may begin."""
        if len(self) >= self.most:  # a loop that was closed took its tasks along
            self._tasks -= {task for task in list(self._tasks) if task.get_loop().is_closed()}
        return len(self) < self.most

    def start_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in the running loop, in an empty context."""
        task = asyncio.get_running_loop().create_task(coroutine, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start_thread(self, run: Callable[[], None]) -> None:
        """Run a function in a worker thread, in an empty context."""
        from anyio.to_thread import run_sync  # few plain functions are refreshed behind a caller

        work = functools.partial(run_sync, functools.partial(Context().run, run))
        future: Future[None] = start_soon(work)
        self._threads.add(future)
        future.add_done_callback(self._threads.discard)

    def reset(self) -> None:
        """Forget all of it: in a forked child, whose parent runs it."""
        self._tasks = set()
        self._threads = set()

    async def aclose(self, timeout: float) -> None:
        """Wait ``timeout`` seconds for the loads of the running loop, then cancel them.

        A thread cannot be cancelled: what still runs in one goes on, and is stored.
        """
        here = asyncio.get_running_loop()
        tasks = {task for task in self._tasks if task.get_loop() is here}
        threads = {asyncio.wrap_future(future) for future in list(self._threads)}
        if not (tasks or threads):
            return
        await asyncio.wait(tasks | threads, timeout=timeout)
        late = {task for task in tasks if not task.done()}
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

"""Loads that nobody waits for: bounded, in a context of their own, ended with their cache.

A load in the background begins in an empty context: the request that set it off may be over before
it is, and what hangs on that request (a database session, a span) with it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeAlias

from gecaso.errors import ConfigurationError
from gecaso.loops import start_soon

if TYPE_CHECKING:
    from anyio.abc import TaskGroup  # which takes time to import

__all__ = ["Background", "Runner"]

Runner: TypeAlias = "asyncio.TaskGroup | TaskGroup | Executor"

MOST = 64


class Background:
    """The background loads of one cache: tasks of its loops, and threads for plain functions.

    ``runner`` takes their place: an `asyncio.TaskGroup` or an anyio task group for coroutine
    functions, a `concurrent.futures.Executor` for plain ones.
    """

    def __init__(self, most: int = MOST, runner: Runner | None = None) -> None:
        self.most = most
        self.runner = _checked(runner)
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

    def start_task(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function in the running loop, in an empty context."""
        runner = self.runner
        if isinstance(runner, asyncio.TaskGroup):
            runner.create_task(self._noted(run), context=Context())
        elif runner is not None and not isinstance(runner, Executor):
            Context().run(runner.start_soon, self._noted, run)
        else:
            self._note(asyncio.get_running_loop().create_task(run(), context=Context()))

    async def _noted(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._note(task)
        await run()

    def _note(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def start_thread(self, run: Callable[[], None]) -> None:
        """Run a function in a worker thread, in an empty context."""
        work = functools.partial(Context().run, run)
        if isinstance(self.runner, Executor):
            future: Future[None] = self.runner.submit(work)
        else:
            from anyio.to_thread import run_sync  # few plain functions are refreshed in the back

            future = start_soon(functools.partial(run_sync, work))
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


def _checked(runner: object) -> Any:
    if runner is None or isinstance(runner, (asyncio.TaskGroup, Executor)):
        return runner
    if callable(getattr(runner, "start_soon", None)):  # anyio's
        return runner
    raise ConfigurationError(
        "background= is an asyncio.TaskGroup, an anyio task group or a "
        f"concurrent.futures.Executor, not {runner!r}"
    )

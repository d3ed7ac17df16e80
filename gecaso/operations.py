"""The operations on a cached function, in its colour: `f.peek(7)`, `f.invalidate(7)`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from gecaso.freshness import Verdict, judge
from gecaso.functions import Function
from gecaso.loops import run_now, start_soon

__all__ = ["COLOURLESS", "OPERATIONS", "AsyncOperations", "Operations", "PlainOperations"]

COLOURLESS = ("cache_clear", "cache_info", "cache_parameters", "key", "stats", "uncached")
OPERATIONS = ("clear", "future", "invalidate", "peek", "put", "refresh")


class Operations:
    """What both colours do, as coroutines; `PlainOperations` runs them to their end."""

    def __init__(self, function: Function) -> None:
        self.function = function

    async def _peek(self, /, *args: Any, **kwargs: Any) -> Any:
        function = self.function
        call = function.call(args, kwargs, refresh=False)
        entry = await function.loading.look(call, function.colour)
        if entry is None or judge(entry, function.loading.storage.now()) is not Verdict.FRESH:
            raise KeyError(call.key)
        return entry.value

    async def _refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        function = self.function
        call = function.call(args, kwargs, refresh=True)
        return await function.loading.obtain(call, function.colour)

    async def _put(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        function = self.function
        key = function.key(*args, **kwargs)
        await function.writing.put(key, value, function.policy, function.colour)

    async def _invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        function = self.function
        key = function.key(*args, **kwargs)
        await function.writing.invalidate((key,), function.policy, function.colour)


class AsyncOperations(Operations):
    """The operations on a coroutine function: each is awaited."""

    async def peek(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the fresh value that is stored; never loads. Raises `KeyError`."""
        return await self._peek(*args, **kwargs)

    async def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Load now, store, and return the new value; others get the old one meanwhile."""
        return await self._refresh(*args, **kwargs)

    async def put(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        """Store ``value`` as the result for these arguments."""
        await self._put(value, *args, **kwargs)

    async def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Remove the result for these arguments; a load under way will not be stored."""
        await self._invalidate(*args, **kwargs)

    async def clear(self, *instance: Any) -> None:
        """Remove all results of this function. In-process storages only."""
        self.function.clear_now(*instance)

    def future(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it, and return a `concurrent.futures.Future` of the result.

        Runs in the event loop of this thread if there is one, else in the background loop.
        """
        path = self.function.path
        loop = asyncio._get_running_loop()
        if loop is not None:
            return asyncio.run_coroutine_threadsafe(path(*args, **kwargs), loop)
        return start_soon(functools.partial(path, *args, **kwargs))


class PlainOperations(Operations):
    """The operations on a plain function: each is called."""

    def peek(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the fresh value that is stored; never loads. Raises `KeyError`."""
        return run_now(self._peek(*args, **kwargs))

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Load now, store, and return the new value; others get the old one meanwhile."""
        return run_now(self._refresh(*args, **kwargs))

    def put(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        """Store ``value`` as the result for these arguments."""
        run_now(self._put(value, *args, **kwargs))

    def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Remove the result for these arguments; a load under way will not be stored."""
        run_now(self._invalidate(*args, **kwargs))

    def clear(self, *instance: Any) -> None:
        """Remove all results of this function. In-process storages only."""
        self.function.clear_now(*instance)

    def future(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it in a worker thread, and return a `concurrent.futures.Future` of the result."""
        from anyio.to_thread import run_sync  # most programs never need it

        call: Callable[[], Any] = functools.partial(self.function.path, *args, **kwargs)
        return start_soon(functools.partial(run_sync, call))

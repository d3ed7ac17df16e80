"""The operations on a cached function, in its colour: `f.peek(7)`, `f.invalidate(7)`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from gecaso.calls import Call
from gecaso.entry import Entry
from gecaso.freshness import SERVED, Verdict, is_fresh, is_wanted
from gecaso.functions import Function
from gecaso.keys import Key
from gecaso.loops import run_now, start_soon
from gecaso.switch import is_off

if TYPE_CHECKING:
    from gecaso.explain import Explanation

__all__ = ["COLOURLESS", "OPERATIONS", "AsyncOperations", "Operations", "PlainOperations"]

COLOURLESS = ("cache_clear", "cache_info", "cache_parameters", "key", "stats", "uncached")
OPERATIONS = (
    "clear",
    "entry",
    "expire",
    "explain",
    "future",
    "invalidate",
    "keys",
    "lazy",
    "loading",
    "map",
    "peek",
    "put",
    "refresh",
    "ttl",
)
OF_A_CALL = (
    "entry",
    "expire",
    "explain",
    "future",
    "invalidate",
    "key",
    "lazy",
    "loading",
    "peek",
    "refresh",
    "ttl",
)
"""Those that take the arguments of a call, and nothing before them."""


class Operations:
    """What both colours do, as coroutines; `PlainOperations` runs them to their end."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def _option(self, kwargs: dict[str, Any], name: str, default: Any) -> Any:
        """Take an option of ours out of the arguments, unless it is a parameter of the function."""
        if name in self.function.keying.signature.parameters:
            return default
        return kwargs.pop(name, default)

    async def _look(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Call, Entry | None]:
        function = self.function
        call = function.call(args, kwargs, refresh=False)
        return call, await function.loading.look(call, function.colour)

    async def _peek(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stale = self._option(kwargs, "stale", False)
        call, entry = await self._look(args, kwargs)
        loading = self.function.loading
        if entry is None or not is_wanted(entry, loading.storage.now(), call.max_age, stale):
            raise KeyError(call.key)
        return loading.value(call, entry)

    async def _lazy(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        function = self.function
        default = self._option(kwargs, "default", function.policy.placeholder)
        call, entry = await self._look(args, kwargs)
        loading = function.loading
        verdict = loading.judge(call, entry)
        if verdict is not Verdict.FRESH and verdict is not Verdict.KEEP:
            loading.refresh_behind(call, function.colour, entry)
        if entry is not None and (verdict in SERVED or verdict is Verdict.TRY):
            return loading.value(call, entry)
        return default

    async def _refresh(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        function = self.function
        call = function.call(args, kwargs, refresh=True)
        return await function.loading.obtain(call, function.colour)

    async def _put(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        function = self.function
        key = function.key(*args, **kwargs)
        await function.writing.put(key, value, function.policy, function.colour)

    async def _invalidate(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, keep_stale: bool
    ) -> None:
        function = self.function
        key = function.key(*args, **kwargs)
        await function.writing.invalidate(
            (key,), function.policy, function.colour, keep_stale=keep_stale
        )

    async def _entry(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        call, entry = await self._look(args, kwargs)
        if entry is None or entry.kind != "value":
            raise KeyError(call.key)
        return entry

    async def _ttl(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        entry = await self._entry(args, kwargs)
        return max(0.0, entry.fresh_until - self.function.loading.storage.now())

    def _is_loading(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        key = self.function.key(*args, **kwargs)
        flights = self.function.loading.flights
        return key in flights or (key, "refresh") in flights

    async def _explain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
        from gecaso.explain import explained  # for people, and seldom

        call, entry = await self._look(args, kwargs)
        return explained(self.function, call, entry)

    async def _found(self, calls: list[tuple[Any, ...]]) -> dict[Key, Any]:
        """Return the fresh values among those of many calls, looked up in one batch."""
        function = self.function
        loading = function.loading
        if is_off() or function.policy.bypass is not None:
            return {}
        keys = [function.key(*args) for args in calls]
        entries = await loading.look_many(keys, function.policy, function.counters, function.colour)
        now = loading.storage.now()
        fresh = {key: entry for key, entry in entries.items() if is_fresh(entry, now)}
        call = function.call(calls[0], {}, refresh=False)
        return {key: loading.value(call, entry) for key, entry in fresh.items()}


class AsyncOperations(Operations):
    """The operations on a coroutine function: each is awaited."""

    async def peek(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the fresh value that is stored; with ``stale=True`` the old one, too.

        Never loads. Raises `KeyError`.
        """
        return await self._peek(args, kwargs)

    async def lazy(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the value that is stored, old or not, or ``default=``, and never wait for a load.

        Unless the value is fresh, a new one is loaded in the background. Without ``default=`` it is
        the function's ``placeholder=``.
        """
        return await self._lazy(args, kwargs)

    async def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Load now, store, and return the new value; others get the old one meanwhile."""
        return await self._refresh(args, kwargs)

    async def put(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        """Store ``value`` as the result for these arguments."""
        await self._put(value, args, kwargs)

    async def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Remove the result for these arguments; a load under way will not be stored."""
        await self._invalidate(args, kwargs, keep_stale=False)

    async def expire(self, /, *args: Any, **kwargs: Any) -> None:
        """Let the result be fresh no longer; it may still be served where a load fails."""
        await self._invalidate(args, kwargs, keep_stale=True)

    async def ttl(self, /, *args: Any, **kwargs: Any) -> float:
        """Return for how many seconds the result is fresh: 0 if it is old. Raises `KeyError`."""
        return await self._ttl(args, kwargs)

    async def entry(self, /, *args: Any, **kwargs: Any) -> Entry:
        """Return the `Entry` that is stored, with its times. Raises `KeyError`."""
        return await self._entry(args, kwargs)

    async def loading(self, /, *args: Any, **kwargs: Any) -> bool:
        """Return whether this process is loading the result for these arguments."""
        return self._is_loading(args, kwargs)

    async def explain(self, /, *args: Any, **kwargs: Any) -> Explanation:
        """Return what a call would do now, and why; print it."""
        return await self._explain(args, kwargs)

    async def keys(self, *instance: Any) -> list[Key]:
        """Return the keys of the results that are stored. In-process storages only."""
        return self.function.keys_now(*instance)

    async def clear(self, *instance: Any) -> None:
        """Remove all results of this function. In-process storages only."""
        self.function.clear_now(*instance)

    async def map(self, *iterables: Iterable[Any]) -> list[Any]:
        """Call it for the items of ``iterables``, as `map` does; look all of them up in one batch.

        What is not stored is loaded side by side. Raises the first error, when all loads are over.
        """
        calls = list(zip(*iterables, strict=False))
        if not calls:
            return []
        found = await self._found(calls)
        function = self.function
        missing = {key: args for args in calls if (key := function.key(*args)) not in found}
        loaded = await asyncio.gather(
            *[function.path(*args) for args in missing.values()], return_exceptions=True
        )
        for result in loaded:
            if isinstance(result, BaseException):
                raise result
        found.update(zip(missing, loaded, strict=True))
        return [found[function.key(*args)] for args in calls]

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
        """Return the fresh value that is stored; with ``stale=True`` the old one, too.

        Never loads. Raises `KeyError`.
        """
        return run_now(self._peek(args, kwargs))

    def lazy(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the value that is stored, old or not, or ``default=``, and never wait for a load.

        Unless the value is fresh, a new one is loaded in a worker thread. Without ``default=`` it
        is the function's ``placeholder=``.
        """
        return run_now(self._lazy(args, kwargs))

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Load now, store, and return the new value; others get the old one meanwhile."""
        return run_now(self._refresh(args, kwargs))

    def put(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        """Store ``value`` as the result for these arguments."""
        run_now(self._put(value, args, kwargs))

    def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Remove the result for these arguments; a load under way will not be stored."""
        run_now(self._invalidate(args, kwargs, keep_stale=False))

    def expire(self, /, *args: Any, **kwargs: Any) -> None:
        """Let the result be fresh no longer; it may still be served where a load fails."""
        run_now(self._invalidate(args, kwargs, keep_stale=True))

    def ttl(self, /, *args: Any, **kwargs: Any) -> float:
        """Return for how many seconds the result is fresh: 0 if it is old. Raises `KeyError`."""
        return run_now(self._ttl(args, kwargs))

    def entry(self, /, *args: Any, **kwargs: Any) -> Entry:
        """Return the `Entry` that is stored, with its times. Raises `KeyError`."""
        return run_now(self._entry(args, kwargs))

    def loading(self, /, *args: Any, **kwargs: Any) -> bool:
        """Return whether this process is loading the result for these arguments."""
        return self._is_loading(args, kwargs)

    def explain(self, /, *args: Any, **kwargs: Any) -> Explanation:
        """Return what a call would do now, and why; print it."""
        return run_now(self._explain(args, kwargs))

    def keys(self, *instance: Any) -> list[Key]:
        """Return the keys of the results that are stored. In-process storages only."""
        return self.function.keys_now(*instance)

    def clear(self, *instance: Any) -> None:
        """Remove all results of this function. In-process storages only."""
        self.function.clear_now(*instance)

    def map(self, *iterables: Iterable[Any]) -> list[Any]:
        """Call it for the items of ``iterables``, as `map` does; look all of them up in one batch.

        What is not stored is loaded one after the other.
        """
        calls = list(zip(*iterables, strict=False))
        if not calls:
            return []
        found = run_now(self._found(calls))
        function = self.function
        for args in calls:
            key = function.key(*args)
            if key not in found:
                found[key] = function.path(*args)
        return [found[function.key(*args)] for args in calls]

    def future(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it in a worker thread, and return a `concurrent.futures.Future` of the result."""
        from anyio.to_thread import run_sync  # most programs never need it

        call: Callable[[], Any] = functools.partial(self.function.path, *args, **kwargs)
        return start_soon(functools.partial(run_sync, call))

"""A storage, a policy, and the flights over it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, Self, TypeVar, overload

from gecaso import events, switch
from gecaso.background import MOST, Background, Runner
from gecaso.calls import Call, Counters
from gecaso.colours import ASYNC
from gecaso.durations import Duration, seconds
from gecaso.errors import ConfigurationError
from gecaso.freshness import is_wanted
from gecaso.functions import Function
from gecaso.keys import as_key
from gecaso.keys.keying import KeyOptions
from gecaso.loading import Loading
from gecaso.local_loading import LocalLoading
from gecaso.loops import Bridge, LoopBridge, PortalBridge
from gecaso.methods import Method, as_function, is_in_class_body
from gecaso.options import KEY_OPTIONS, check_ttl, is_coroutine_function, make_policy
from gecaso.policy import Policy, Ttl
from gecaso.signatures import AsyncCached, Cached, Decorator
from gecaso.storage import BaseStorage, EntryStorage, LocalStorage, adapt
from gecaso.weak import WeakBag
from gecaso.writing import Writing

if TYPE_CHECKING:
    from gecaso.cache_state import CacheState
    from gecaso.limits import LoadLimit

__all__ = ["MISSING", "Cache", "functions"]

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")


class _Missing:
    """No value, where None is one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> Literal[False]:
        return False


MISSING: Final = _Missing()

CACHE_OPTIONS = ("background", "max_background", "max_loads")
DEFAULT_SIZE = 1024
"""Entries that a cache without a storage keeps in memory."""


class Cache:
    """What several functions share: a storage, a policy, and the loads under way.

    ``policy`` are the options of `cached` that concern values, as defaults for the functions of
    this cache. At most ``max_loads`` loads run at a time (None: any number; of each event loop, and
    of all plain callers together), and ``max_background`` of them in the background, run by
    ``background`` (a task group, or for plain functions an executor) if that is given. Without a
    storage it keeps 1,024 entries in memory.

    >>> import asyncio
    >>> from gecaso import Cache, MemoryStorage
    >>> async def main() -> str:
    ...     cache = Cache(MemoryStorage(), name="users", ttl="5m")
    ...     await cache.set("user:7", "Ada")
    ...     return await cache.get("user:7")
    >>> asyncio.run(main())
    'Ada'
    """

    def __init__(
        self,
        storage: BaseStorage | None = None,
        /,
        *,
        name: str | None = None,
        max_loads: int | None = None,
        max_background: int = MOST,
        background: Runner | None = None,
        **policy: Any,
    ) -> None:
        self.name = name
        self._is_configured = storage is not None
        self._functions: WeakBag[Function] = WeakBag()
        self._counters = Counters()
        self._background = Background(_count("max_background", max_background), background)
        self._limit: LoadLimit | None = None
        if max_loads is not None:
            from gecaso.limits import LoadLimit  # few caches have a limit

            self._limit = LoadLimit(_count("max_loads", max_loads))
        if storage is None:
            from gecaso.storages.memory import MemoryStorage

            storage = MemoryStorage(maxsize=DEFAULT_SIZE)
        self._options = policy
        self._use(storage, policy)

    def _use(self, storage: BaseStorage, policy: dict[str, Any]) -> None:
        entry_storage = adapt(storage)
        self._policy = make_policy(entry_storage, None, policy)
        self.storage = storage
        self._loading = _loading_over(entry_storage)
        self._loading.background = self._background
        self._loading.limit = self._limit
        self._writing = Writing(self._loading)

    def configure(self, storage: BaseStorage, /, *, replace: bool = False, **policy: Any) -> None:
        """Give the cache its storage, and its functions with it, after they were decorated.

        ``policy`` adds to the options that it was made with. A cache that has a storage already
        takes another one only with ``replace``; loads under way end with the old one. Raises
        `ConfigurationError`, and changes nothing, if the storage cannot do what a function needs.

        >>> from gecaso import Cache, MemoryStorage
        >>> cache = Cache(name="users")
        >>> @cache.cached(ttl=60)
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> cache.configure(MemoryStorage(maxsize=10_000))
        >>> double(4), len(cache.storage)
        (8, 1)
        """
        if self._is_configured and not replace:
            raise ConfigurationError(
                f"{self!r} has a storage; configure(…, replace=True) takes another one instead"
            )
        options = {**self._options, **policy}
        entry_storage = adapt(storage)
        base = make_policy(entry_storage, None, options)
        functions = list(self._functions)
        policies = [make_policy(entry_storage, base, dict(each.options)) for each in functions]
        self._use(storage, options)
        self._options = options
        self._is_configured = True
        for function, own in zip(functions, policies, strict=True):
            function.policy = own
            function.attach(self._loading)

    def info(self) -> CacheState:
        """Return what the cache is doing now, in this process."""
        from gecaso.cache_state import CacheState  # for people, and seldom

        flights = list(self._loading.flights.open.values())
        guard = self._loading.guard
        return CacheState(
            loads=len(flights),
            waiters=sum(flight.present for flight in flights),
            background=len(self._background),
            pending=0 if guard is None else len(guard.pending),
        )

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name!r}"
        return f"<Cache{name} over {self.storage!r}: {len(self._loading.flights)} loads>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # --- values -------------------------------------------------------------------------------

    @overload
    async def get(self, key: Any, *, max_age: Duration | None = ..., stale: bool = ...) -> Any: ...
    @overload
    async def get(
        self, key: Any, *, default: D, max_age: Duration | None = ..., stale: bool = ...
    ) -> Any | D: ...
    async def get(
        self,
        key: Any,
        *,
        default: Any = MISSING,
        max_age: Duration | None = None,
        stale: bool = False,
    ) -> Any:
        """Return the fresh value stored under ``key``; no older than ``max_age``, if given.

        With ``stale`` the old value, too, as long as it is kept. On a miss, and while the storage
        is out of reach, returns ``default``; without one raises `KeyError`.
        """
        call = self._call(key, max_age)
        self._note(call)
        entry = await self._loading.look(call, ASYNC)
        if entry is not None and is_wanted(entry, self._loading.storage.now(), call.max_age, stale):
            return self._loading.value(call, entry)
        if default is MISSING:
            raise KeyError(key)
        return default

    async def set(self, key: Any, value: Any, *, ttl: Ttl | Literal["default"] = "default") -> None:
        """Store ``value`` under ``key``, for ``ttl`` or that of the cache.

        A load of this key that is under way will not be stored. Raises `InvalidationFailed` if
        the storage does not confirm it.
        """
        policy = self._policy if ttl == "default" else self._with_ttl(ttl)
        await self._writing.put(as_key(key), value, policy, ASYNC)

    async def remove(self, *keys: Any) -> None:
        """Remove the values stored under ``keys``; raises `InvalidationFailed` if not confirmed."""
        await self._writing.invalidate([as_key(key) for key in keys], self._policy, ASYNC)

    async def expire(self, *keys: Any) -> None:
        """Let the values of keys be fresh no longer; they may be served where a load fails."""
        wanted = [as_key(key) for key in keys]
        await self._writing.invalidate(wanted, self._policy, ASYNC, keep_stale=True)

    async def invalidate(self, *keys: Any) -> None:
        """The same as `remove`: no value whose load began before this is served after it."""
        await self.remove(*keys)

    @overload
    async def get_or_create(
        self,
        key: Any,
        creator: Callable[[], Awaitable[T]],
        *,
        ttl: Ttl | Literal["default"] = ...,
        max_age: Duration | None = ...,
    ) -> T: ...
    @overload
    async def get_or_create(
        self,
        key: Any,
        creator: Callable[[], T],
        *,
        ttl: Ttl | Literal["default"] = ...,
        max_age: Duration | None = ...,
    ) -> T: ...
    async def get_or_create(
        self,
        key: Any,
        creator: Callable[[], Any],
        *,
        ttl: Ttl | Literal["default"] = "default",
        max_age: Duration | None = None,
    ) -> Any:
        """Return the fresh value of ``key``; if there is none, what ``creator()`` returns, stored.

        One ``creator`` runs at a time for a key, however many callers there are. It may be a
        coroutine function. A value older than ``max_age`` is created anew.
        """
        policy = self._policy if ttl == "default" else self._with_ttl(ttl)

        async def load() -> Any:
            value = creator()
            return await value if inspect.isawaitable(value) else value

        age = _max_age(max_age)
        call = Call(as_key(key), load, policy, self._counters, max_age=age)
        self._note(call)
        return await self._loading.obtain(call, ASYNC)

    def _with_ttl(self, ttl: Ttl) -> Policy:
        policy = Policy.make(self._policy, ttl=ttl)
        check_ttl(self._loading.storage, policy)
        return policy

    def _call(self, key: Any, max_age: Duration | None) -> Call:
        age = _max_age(max_age)
        return Call(as_key(key), _no_load, self._policy, self._counters, max_age=age)

    def _note(self, call: Call) -> None:
        if (recorder := self._loading.storage.recorder) is not None:
            recorder.looked_up(call.key)

    # --- functions ----------------------------------------------------------------------------

    @overload
    def cached(  # type: ignore[overload-overlap]  # the first that fits is meant
        self,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,  # pyright: ignore[reportOverlappingOverload]
    ) -> AsyncCached[P, T]: ...
    @overload
    def cached(self, function: Callable[P, T], /) -> Cached[P, T]: ...
    @overload
    def cached(self, /, *, loop: Any = None, **options: Any) -> Decorator: ...
    def cached(self, function: Any = None, /, *, loop: Any = None, **options: Any) -> Any:
        """Return a decorator that caches a function here; see `gecaso.cached` for the options.

        Without options, ``@cache.cached`` is as good as ``@cache.cached()``.
        """
        keys = KeyOptions(**{name: options.pop(name) for name in KEY_OPTIONS if name in options})
        policy = make_policy(self._loading.storage, self._policy, dict(options))
        bridge: Bridge = PortalBridge() if loop is None else LoopBridge(loop)

        def decorate(function: Any) -> Any:
            return self._decorate(function, policy, keys, bridge, options)

        return decorate if function is None else decorate(function)

    def _decorate(
        self,
        function: Any,
        policy: Policy,
        keys: KeyOptions,
        bridge: Bridge,
        options: dict[str, Any],
    ) -> Any:
        given: Any = function  # `isinstance` would narrow the other to unknown types
        if isinstance(function, staticmethod):
            return staticmethod(self._decorate(given.__func__, policy, keys, bridge, options))
        to_class = isinstance(function, classmethod)
        plain = given.__func__ if to_class else given
        is_async = is_coroutine_function(plain)
        if policy.timeout is not None and not is_async:
            raise ConfigurationError(
                "timeout= cancels the load, and a plain function cannot be cancelled; use an "
                "`async def`, or soft_timeout= with stale_if_error="
            )

        def make(is_method: bool) -> Function:
            made = Function(
                plain,
                self._loading,
                policy,
                keys,
                is_async=is_async,
                bridge=bridge,
                is_method=is_method,
            )
            made.options = options
            self._functions.add(made)
            _functions.add(made)
            return made

        if to_class or is_in_class_body(plain):
            first = next(iter(inspect.signature(plain).parameters), None)
            return Method(make, is_method=first in ("self", "cls") or to_class, to_class=to_class)
        return as_function(make(False))

    async def aclose(self, *, timeout: Duration = 5.0) -> None:
        """Let go of the storage's connections and of this cache's tasks in this loop.

        Loads in the background have ``timeout`` (seconds) to finish; then they are cancelled.
        """
        await self._loading.background.aclose(seconds(timeout, option="timeout"))
        if self._loading.guard is not None:
            await self._loading.guard.aclose()
        await self.storage.aclose()


def _loading_over(storage: EntryStorage) -> Loading:
    if isinstance(storage, LocalStorage):
        return LocalLoading(storage)
    from gecaso.network_loading import NetworkLoading  # imported with the first such storage

    return NetworkLoading(storage)


def _count(option: str, number: int) -> int:
    if type(number) is not int or number < 1:
        raise ConfigurationError(f"{option} is a number of loads, at least 1, not {number!r}")
    return number


def _max_age(max_age: Duration | None) -> float:
    return inf if max_age is None else seconds(max_age, option="max_age")


def functions() -> list[Any]:
    """Return every cached function there is, methods as they stand in their classes."""
    return [function.path for function in _functions]


async def _no_load() -> None:
    raise AssertionError("a call that only looks does not load")


_functions: WeakBag[Function] = WeakBag()


def _rebind() -> None:
    for function in _functions:
        function.bind()


events.on_change(_rebind)
switch.on_change(_rebind)

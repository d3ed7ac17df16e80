"""A storage, a policy, and the flights over it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final, Literal, Self, TypeVar, overload

from gecaso import events, switch
from gecaso.background import MOST
from gecaso.calls import Call, Counters
from gecaso.colours import ASYNC
from gecaso.durations import Duration, seconds
from gecaso.errors import ConfigurationError, UnknownOption
from gecaso.freshness import is_wanted
from gecaso.functions import Function
from gecaso.keys import as_key
from gecaso.keys.keying import KeyOptions
from gecaso.loading import Loading
from gecaso.local_loading import LocalLoading
from gecaso.loops import Bridge, LoopBridge, PortalBridge
from gecaso.methods import Method, as_function, is_in_class_body
from gecaso.policy import Policy, Ttl, unknown_option
from gecaso.signatures import Decorator
from gecaso.storage import BaseStorage, EntryStorage, LocalStorage, adapt
from gecaso.weak import WeakBag
from gecaso.writing import Writing

__all__ = ["MISSING", "Cache", "functions"]

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

CACHE_OPTIONS = ("max_background", "max_loads")
KEY_OPTIONS = ("key", "ignore", "namespace", "version", "hash_key", "on_key_error")
DEFAULT_SIZE = 1024
"""Entries that a cache without a storage keeps in memory."""


class Cache:
    """What several functions share: a storage, a policy, and the loads under way.

    ``policy`` are the options of `cached` that concern values, as defaults for the functions of
    this cache. At most ``max_loads`` loads run at a time (None: any number; of each event loop, and
    of all plain callers together), and ``max_background`` of them in the background. Without a
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
        **policy: Any,
    ) -> None:
        if storage is None:
            from gecaso.storages.memory import MemoryStorage

            storage = MemoryStorage(maxsize=DEFAULT_SIZE)
        self.name = name
        self.storage = storage
        entry_storage = adapt(storage)
        self._policy = make_policy(entry_storage, None, policy)
        self._loading = _loading_over(entry_storage)
        self._loading.background.most = _count("max_background", max_background)
        if max_loads is not None:
            from gecaso.limits import LoadLimit  # few caches have a limit

            self._loading.limit = LoadLimit(_count("max_loads", max_loads))
        self._writing = Writing(self._loading)
        self._counters = Counters()

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
        return await self._loading.obtain(call, ASYNC)

    def _with_ttl(self, ttl: Ttl) -> Policy:
        policy = Policy.make(self._policy, ttl=ttl)
        _check_ttl(self._loading.storage, policy)
        return policy

    def _call(self, key: Any, max_age: Duration | None) -> Call:
        age = _max_age(max_age)
        return Call(as_key(key), _no_load, self._policy, self._counters, max_age=age)

    # --- functions ----------------------------------------------------------------------------

    def cached(self, *, loop: Any = None, **options: Any) -> Decorator:
        """Return a decorator that caches a function here; see `gecaso.cached` for the options."""
        keys = KeyOptions(**{name: options.pop(name) for name in KEY_OPTIONS if name in options})
        policy = make_policy(self._loading.storage, self._policy, options)
        bridge: Bridge = PortalBridge() if loop is None else LoopBridge(loop)

        def decorate(function: Any) -> Any:
            return self._decorate(function, policy, keys, bridge)

        return decorate

    def _decorate(self, function: Any, policy: Policy, keys: KeyOptions, bridge: Bridge) -> Any:
        given: Any = function  # `isinstance` would narrow the other to unknown types
        if isinstance(function, staticmethod):
            return staticmethod(self._decorate(given.__func__, policy, keys, bridge))
        to_class = isinstance(function, classmethod)
        plain = given.__func__ if to_class else given
        is_async = _colour(plain)
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


def _colour(function: Any) -> bool:
    """Return whether it is a coroutine function; refuse what cannot be cached."""
    if not callable(function):
        raise TypeError(f"{function!r} is no function; write @cached(...) above a def")
    target: Any = function
    while isinstance(target, functools.partial):
        target = target.func
    if not (inspect.isfunction(target) or inspect.ismethod(target) or inspect.isbuiltin(target)):
        cls: type[Any] = target.__class__
        call: Any = getattr(cls, "__call__", None)  # noqa: B004 - the method, not whether
        if not inspect.isclass(target) and inspect.isfunction(call):
            target = call
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        kind = "an async generator" if inspect.isasyncgenfunction(target) else "a generator"
        raise TypeError(
            f"{function!r} is {kind} function: what it yields is used up by the first caller. "
            "Return a list or a tuple instead"
        )
    return inspect.iscoroutinefunction(target)


def make_policy(storage: EntryStorage, base: Policy | None, options: dict[str, Any]) -> Policy:
    """Return the policy of these options; what it does not know is for ``storage.set``."""
    known = set(Policy._fields)
    own = {name: value for name, value in options.items() if name in known}
    params = {name: value for name, value in options.items() if name not in known}
    names, any_name = _parameters(storage)
    for name in params:
        if name in names:
            continue
        if name in KEY_OPTIONS or name == "loop":
            raise UnknownOption(
                f"{name}= is for a function: cache.cached({name}=…)", option=name, nearest=name
            )
        error = unknown_option(name, known | names | {*KEY_OPTIONS, "loop"})
        if not any_name or error.nearest is not None:
            raise error
    given = {**params, **own.pop("params", {})}
    if base is not None:
        given = {**base.params, **given}
    for name in given:
        if name not in names and not any_name:
            raise unknown_option(name, names)
    if base is None:
        own.setdefault("ttl", storage.default_ttl)
    policy = Policy.make(base, **own, params=given)
    _check_ttl(storage, policy)
    _check_times(storage, policy)
    return policy


def _check_ttl(storage: EntryStorage, policy: Policy) -> None:
    if policy.ttl is None:
        return
    names, any_name = _parameters(storage)
    if "ttl" not in names and not any_name:
        raise ConfigurationError(
            f"ttl= was given, but {storage.takes.__qualname__} takes no ttl; write it as "
            "`async def set(self, key, value, *, ttl=None)`, or make it an EntryStorage"
        )


def _check_times(storage: EntryStorage, policy: Policy) -> None:
    if policy.needs_times and not storage.keeps_times:
        raise ConfigurationError(
            f"{storage!r} does not know when a value was stored, which old values, cached errors "
            "and refreshes need; make it an EntryStorage, with the methods now, fetch, lease, "
            "renew, commit, release, store, discard and evict"
        )


def _count(option: str, number: int) -> int:
    if type(number) is not int or number < 1:
        raise ConfigurationError(f"{option} is a number of loads, at least 1, not {number!r}")
    return number


def _max_age(max_age: Duration | None) -> float:
    return inf if max_age is None else seconds(max_age, option="max_age")


def functions() -> list[Any]:
    """Return every cached function there is, methods as they stand in their classes."""
    return [function.path for function in _functions]


def _parameters(storage: EntryStorage) -> tuple[set[str], bool]:
    """Return the names of the parameters that a value may come with, and whether any other."""
    names: set[str] = set()
    for one in list(inspect.signature(storage.takes).parameters.values())[2:]:
        if one.kind is one.VAR_KEYWORD:
            return names, True
        names.add(one.name)
    return names, False


async def _no_load() -> None:
    raise AssertionError("a call that only looks does not load")


_functions: WeakBag[Function] = WeakBag()


def _rebind() -> None:
    for function in _functions:
        function.bind()


events.on_change(_rebind)
switch.on_change(_rebind)

"""A storage, a policy, and the flights over it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, Self, TypeVar, overload

from gecaso import events
from gecaso.calls import Call, Counters
from gecaso.colours import ASYNC
from gecaso.errors import ConfigurationError, UnknownOption
from gecaso.freshness import Verdict, judge
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

__all__ = ["MISSING", "Cache"]

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

KEY_OPTIONS = ("key", "ignore", "namespace", "version", "hash_key", "on_key_error")
DEFAULT_SIZE = 1024
"""Entries that a cache without a storage keeps in memory."""


class Cache:
    """What several functions share: a storage, a policy, and the loads under way.

    ``policy`` are the options of `cached` that concern values, as defaults for the functions of
    this cache. Without a storage it keeps 1,024 entries in memory.

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
        self, storage: BaseStorage | None = None, /, *, name: str | None = None, **policy: Any
    ) -> None:
        if storage is None:
            from gecaso.storages.memory import MemoryStorage

            storage = MemoryStorage(maxsize=DEFAULT_SIZE)
        self.name = name
        self.storage = storage
        entry_storage = adapt(storage)
        self._policy = make_policy(entry_storage, None, policy)
        self._loading = _loading_over(entry_storage)
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
    async def get(self, key: Any) -> Any: ...
    @overload
    async def get(self, key: Any, *, default: D) -> Any | D: ...
    async def get(self, key: Any, *, default: Any = MISSING) -> Any:
        """Return the fresh value stored under ``key``.

        On a miss, and while the storage is out of reach, returns ``default``; without one raises
        `KeyError`.
        """
        call = self._call(key)
        entry = await self._loading.look(call, ASYNC)
        if entry is not None and judge(entry, self._loading.storage.now()) is Verdict.FRESH:
            return entry.value
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
    ) -> T: ...
    @overload
    async def get_or_create(
        self, key: Any, creator: Callable[[], T], *, ttl: Ttl | Literal["default"] = ...
    ) -> T: ...
    async def get_or_create(
        self, key: Any, creator: Callable[[], Any], *, ttl: Ttl | Literal["default"] = "default"
    ) -> Any:
        """Return the fresh value of ``key``; if there is none, what ``creator()`` returns, stored.

        One ``creator`` runs at a time for a key, however many callers there are. It may be a
        coroutine function.
        """
        policy = self._policy if ttl == "default" else self._with_ttl(ttl)

        async def load() -> Any:
            value = creator()
            return await value if inspect.isawaitable(value) else value

        call = Call(as_key(key), load, policy, self._counters)
        return await self._loading.obtain(call, ASYNC)

    def _with_ttl(self, ttl: Ttl) -> Policy:
        policy = Policy.make(self._policy, ttl=ttl)
        _check_ttl(self._loading.storage, policy)
        return policy

    def _call(self, key: Any) -> Call:
        return Call(as_key(key), _no_load, self._policy, self._counters)

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

    async def aclose(self) -> None:
        """Let go of the storage's connections and of this cache's tasks in this loop."""
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

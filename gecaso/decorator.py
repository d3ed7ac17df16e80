"""`cached`: one decorator, for coroutine functions and plain ones."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Coroutine, Mapping
from os import PathLike
from typing import Any, Literal, ParamSpec, TypeVar, overload

from gecaso.background import Runner
from gecaso.cache import CACHE_OPTIONS, Cache
from gecaso.durations import Duration
from gecaso.freshness import XFetch
from gecaso.policy import Ttl
from gecaso.signatures import AsyncCached, Cached, Decorator
from gecaso.storage import BaseStorage

__all__ = ["cached"]

P = ParamSpec("P")
R = TypeVar("R")


@overload
def cached(  # type: ignore[overload-overlap]  # the first that fits is meant
    function: Callable[P, Coroutine[Any, Any, R]],
    /,  # pyright: ignore[reportOverlappingOverload]
) -> AsyncCached[P, R]: ...
@overload
def cached(function: Callable[P, R], /) -> Cached[P, R]: ...
@overload
def cached(
    storage: BaseStorage | Cache | None = None,
    /,
    *,
    ttl: Ttl = ...,
    condition: Callable[[Any], object] | None = ...,
    key: str | Callable[..., Any] | None = ...,
    ignore: tuple[str, ...] = ...,
    namespace: str | None = ...,
    version: str | int | None = ...,
    hash_key: bool = ...,
    on_key_error: Literal["raise", "call"] = ...,
    lease_seconds: float = ...,
    wait: bool = ...,
    wait_timeout: float | None = ...,
    on_storage_error: Literal["load", "raise"] = ...,
    on_invalidate_error: Literal["raise", "journal"] = ...,
    invalidate_timeout: float = ...,
    stale_while_revalidate: Duration | None = ...,
    stale_if_error: Duration | None = ...,
    retry_after: Duration = ...,
    refresh_after: Duration | XFetch | None = ...,
    jitter: float = ...,
    soft_timeout: Duration | None = ...,
    timeout: Duration | None = ...,
    error_ttl: Mapping[type[Exception], Duration] = ...,
    max_load_time: Duration = ...,
    scope: Callable[[], Any] | None = ...,
    max_loads: int | None = ...,
    background: Runner | None = ...,
    max_background: int = ...,
    overload: Literal["wait", "stale", "raise"] = ...,
    bypass: Callable[..., object] | None = ...,
    placeholder: Any = ...,
    dump: Callable[[Any], Any] | None = ...,
    load: Callable[[Any], Any] | None = ...,
    on_load: Callable[[Any], object] | None = ...,
    on_promote: Callable[[Any], object] | None = ...,
    on_evict: Callable[[Any], object] | None = ...,
    record: str | PathLike[str] | None = ...,
    loop: Any = ...,
    params: Mapping[str, Any] = ...,
    **storage_params: Any,
) -> Decorator: ...
def cached(storage: Any = None, /, **options: Any) -> Any:
    """Cache what a function returns: one load per key, however many callers there are.

    ``@cached``, ``@cached()`` and ``@cached(storage_or_cache, …)`` all work; without a storage,
    1,024 results are kept in memory. The function keeps its name, signature and colour.

    * ``ttl``: how long a result is fresh: seconds, a timedelta, ``"5m"``, a function of the
      value that returns one of these, or None: for ever.
    * ``condition(value)``: whether to store a result.
    * ``key``: a template such as ``"user:{id}"``, or a function of the arguments; the whole key.
      ``ignore``: names of parameters that are no part of it. ``namespace``, ``version``: put
      before it. ``hash_key=False``: readable keys. ``on_key_error``: ``"raise"`` for an argument
      that can be no part of a key, or ``"call"`` the function uncached.
    * ``lease_seconds``: how long a process that has died holds up a key's next load.
      ``wait_timeout``: how long to wait for another process's load before loading as well;
      ``wait=False`` does not wait at all.
    * ``on_storage_error``: ``"load"`` goes on without a storage that is in trouble, ``"raise"``
      raises `StorageError`. ``on_invalidate_error``: ``"raise"`` `InvalidationFailed` after
      ``invalidate_timeout`` seconds, or ``"journal"``: go on trying in the background.
    * ``stale_while_revalidate``: how long after its ``ttl`` a value is still served while a new one
      is loaded in the background. ``stale_if_error``: how long it is served if the load fails; the
      next attempt comes ``retry_after`` (30 s) later at the earliest. ``refresh_after``: the age at
      which a hit starts a load in the background, or `XFetch`. ``jitter``: by which part, at most,
      the ``ttl`` of each value is shortened at random.
    * ``soft_timeout``: after how long an old value is served while the load goes on; ``timeout``:
      after how long the caller gets `LoadTimeout`, and the load is cancelled. Both count from the
      start of the call. ``error_ttl``: exceptions that are results, ``{NotFound: 10}``: how long
      they are kept and raised anew.
    * ``max_loads``: how many loads run at a time; beyond it, ``overload``: callers ``"wait"``, are
      served the old value (``"stale"``) or get `Overloaded` (``"raise"``).
    * Loads in the background: ``max_background`` (64) at a time, each for ``max_load_time``
      (300 s), in a context of its own, inside ``scope()``: an async context manager, such as a
      database session (for a plain function, a plain one). ``background``: a task group for them,
      or for plain functions an executor.
    * ``bypass(*args)``: whether to call the function uncached. ``placeholder``: what ``lazy``
      returns while there is no value. ``dump(value)``, ``load(stored)``: what is stored in place
      of a value. ``on_load``, ``on_promote``, ``on_evict``: called with the event, see
      `gecaso.events`.
    * ``record``: a file that takes one in a hundred of the keys asked for, with all their requests,
      for ``python -m gecaso advise``.
    * ``loop``: the event loop through which a plain function reaches a network storage.
    * ``params``: parameters for ``storage.set``.

    Raises `UnknownOption` for an option that nobody takes, `ValueError` for a ``ttl`` that is not
    above zero, `AmbiguousFunction` for two functions that would share their entries.

    >>> import asyncio
    >>> from gecaso import MemoryStorage, cached
    >>> @cached(MemoryStorage(), ttl=60)
    ... async def square(x: int) -> int:
    ...     return x * x
    >>> async def main() -> list[int]:
    ...     return await asyncio.gather(*[square(3) for _ in range(100)])
    >>> len(asyncio.run(main())), square.stats.loads
    (100, 1)
    """
    if _is_bare(storage) and not options:
        return _cache(None, {}, storage)
    options = _renamed(options)
    if isinstance(storage, Cache):
        return storage.cached(**options)
    if storage is not None:
        return _own_cache(storage, options).cached(**options)
    # Without a storage each function has one of its own, so it is made for each.

    def decorate(function: Any) -> Any:
        return _cache(None, dict(options), function)

    return decorate


def _is_bare(thing: object) -> bool:
    if inspect.isclass(thing) and issubclass(thing, (BaseStorage, Cache)):
        raise TypeError(f"{thing.__name__} is a class; write cached({thing.__name__}(), …)")
    if isinstance(thing, (BaseStorage, Cache)):
        return False
    return callable(thing) or isinstance(thing, (staticmethod, classmethod))


def _cache(storage: BaseStorage | None, options: dict[str, Any], function: Any) -> Any:
    decorate: Any = _own_cache(storage, options).cached(**options)
    return decorate(function)


def _own_cache(storage: BaseStorage | None, options: dict[str, Any]) -> Cache:
    """Return a cache for one decorator; takes its options out of those of the function."""
    own = {name: options.pop(name) for name in CACHE_OPTIONS if name in options}
    return Cache(storage, **own)


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    for old, new in {"_loop": "loop", "_hash_key": "hash_key"}.items():
        if old in options:
            warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=3)
            options[new] = options.pop(old)
    return options

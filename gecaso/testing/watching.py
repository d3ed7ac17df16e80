"""Cached functions and their loaders, recorded in a history."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gecaso.testing.records import Operation

if TYPE_CHECKING:
    from gecaso.testing.history import History

__all__ = ["recorded_loader", "watched"]

F = TypeVar("F", bound=Callable[..., Any])
KeyOf = Callable[..., Hashable]
KEY_OF = "__history_key__"
"""Where a recorded loader keeps, in a list, how it finds the key of a call."""


def watched(history: History, function: F, key: KeyOf | None) -> F:
    """Return a stand-in for a cached function; see `History.watch`."""
    for name in ("put", "invalidate", "uncached"):
        if not hasattr(function, name):
            raise TypeError(
                f"{function!r} is no cached function; record the reads of other caches with "
                "`with history.read(key) as read: read.returns(value)`"
            )
    key_of = key or cast("KeyOf", getattr(function, "key"))  # noqa: B009 - not in its type
    loader_keys: list[KeyOf] | None = getattr(_uncached(function), KEY_OF, None)
    if loader_keys is not None and not loader_keys:
        loader_keys.append(key_of)
    return cast("F", _Watched(history, function, key_of))


def _uncached(function: Any) -> Any:
    return function.uncached


class _Watched:
    """A cached function with its reads and writes recorded; everything else is the function's."""

    def __init__(self, history: History, function: Any, key_of: KeyOf) -> None:
        self._function = function
        functools.update_wrapper(self, function, updated=())

        def read(*args: Any, **kwargs: Any) -> AbstractContextManager[Operation]:
            return history.read(key_of(*args, **kwargs))

        def put(value: Any, *args: Any, **kwargs: Any) -> AbstractContextManager[Operation]:
            return history.put(key_of(*args, **kwargs), value)

        def invalidate(*args: Any, **kwargs: Any) -> AbstractContextManager[None]:
            return history.invalidate(key_of(*args, **kwargs))

        self._call = _recorded(function, read)
        self.peek = _recorded(function.peek, read, miss=KeyError)
        self.refresh = _recorded(function.refresh, read)
        self.put = _recorded(function.put, put)
        self.invalidate = _recorded(function.invalidate, invalidate)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __repr__(self) -> str:
        return f"<watched {self._function!r}>"


def recorded_loader(history: History, function: F, key: KeyOf | None) -> F:
    """Return a function whose runs are recorded as loads; see `History.loading`."""
    key_of: list[KeyOf] = [] if key is None else [key]

    def load(*args: Any, **kwargs: Any) -> AbstractContextManager[Operation]:
        if not key_of:
            raise RuntimeError(
                f"nobody said under which key {function!r} loads: watch the cached function above "
                "it with history.watch(…), or give history.loading(…, key=…)"
            )
        return history.load(key_of[0](*args, **kwargs))

    recorded = _recorded(function, load)
    setattr(recorded, KEY_OF, key_of)
    return cast("F", recorded)


def _recorded(
    function: Callable[..., Any],
    record: Callable[..., AbstractContextManager[Operation | None]],
    *,
    miss: type[Exception] | tuple[()] = (),
) -> Callable[..., Any]:
    """Wrap a function of either colour in the recording of what it returns or raises."""

    @functools.wraps(function)
    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        with record(*args, **kwargs) as operation:
            try:
                result = await function(*args, **kwargs)
            except miss:
                _note_miss(operation)
                raise
            return _noted(operation, result)

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with record(*args, **kwargs) as operation:
            try:
                result = function(*args, **kwargs)
            except miss:
                _note_miss(operation)
                raise
            return _noted(operation, result)

    return asynchronous if inspect.iscoroutinefunction(function) else plain


def _note_miss(operation: Operation | None) -> None:
    if operation is not None:
        operation.misses()


def _noted(operation: Operation | None, result: Any) -> Any:
    if operation is not None and operation.kind in ("read", "load"):
        operation.returns(result)
    return result

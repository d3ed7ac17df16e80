"""What a type checker sees of a cached function: the user's own parameters and result.

At run time a cached function is a real function with these attributes; in a class body it is a
`gecaso.methods.Method`. Nothing is ever an instance of these classes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from gecaso.functions import CacheInfo, Stats
from gecaso.keys import Key

__all__ = ["AsyncCached", "Cached", "Decorator"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class _Colourless(Protocol[P]):
    @property
    def stats(self) -> Stats: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> Key: ...

    def cache_info(self) -> CacheInfo: ...

    def cache_clear(self) -> None: ...

    def cache_parameters(self) -> dict[str, Any]: ...


class AsyncCached(_Colourless[P], Protocol[P, R]):
    """A cached coroutine function."""

    @property
    def uncached(self) -> Callable[P, Coroutine[Any, Any, R]]: ...

    @property
    def __wrapped__(self) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None: ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None: ...

    async def clear(self) -> None: ...

    def future(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...

    @overload
    def __get__(
        self: AsyncCached[Concatenate[S, Q], R], instance: S, owner: type[Any] | None = None, /
    ) -> AsyncCached[Q, R]: ...

    @overload  # a static method
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self: ...


class Cached(_Colourless[P], Protocol[P, R]):
    """A cached plain function."""

    @property
    def uncached(self) -> Callable[P, R]: ...

    @property
    def __wrapped__(self) -> Callable[P, R]: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None: ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None: ...

    def clear(self) -> None: ...

    def future(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...

    @overload
    def __get__(
        self: Cached[Concatenate[S, Q], R], instance: S, owner: type[Any] | None = None, /
    ) -> Cached[Q, R]: ...

    @overload  # a static method
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self: ...


class Decorator(Protocol):
    """What `cached(storage, …)` returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload] - the first that fits is meant
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCached[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Cached[P, R]: ...

"""What a type checker sees of a cached function: the user's own parameters and result.

At run time a cached function is a real function with these attributes; in a class body it is a
`gecaso.methods.Method`. Nothing is ever an instance of these classes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from gecaso.calls import CacheInfo, Stats
from gecaso.entry import Entry
from gecaso.keys import Key

if TYPE_CHECKING:
    from gecaso.explain import Explanation

__all__ = ["AsyncCached", "Cached", "Decorator"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
D = TypeVar("D")


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

    @overload
    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    # A ParamSpec has no room for a keyword of ours, so that these check no arguments.
    @overload
    async def peek(self, *args: Any, stale: bool, **kwargs: Any) -> R: ...

    @overload
    async def lazy(self, *args: P.args, **kwargs: P.kwargs) -> R | Any: ...

    @overload
    async def lazy(self, *args: Any, default: D, **kwargs: Any) -> R | D: ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None: ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None: ...

    async def expire(self, *args: P.args, **kwargs: P.kwargs) -> None: ...

    async def ttl(self, *args: P.args, **kwargs: P.kwargs) -> float: ...

    async def entry(self, *args: P.args, **kwargs: P.kwargs) -> Entry: ...

    async def loading(self, *args: P.args, **kwargs: P.kwargs) -> bool: ...

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation: ...

    async def keys(self) -> list[Key]: ...

    async def map(self, *iterables: Iterable[Any]) -> list[R]: ...

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

    @overload
    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    # A ParamSpec has no room for a keyword of ours, so that these check no arguments.
    @overload
    def peek(self, *args: Any, stale: bool, **kwargs: Any) -> R: ...

    @overload
    def lazy(self, *args: P.args, **kwargs: P.kwargs) -> R | Any: ...

    @overload
    def lazy(self, *args: Any, default: D, **kwargs: Any) -> R | D: ...

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def put(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None: ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None: ...

    def expire(self, *args: P.args, **kwargs: P.kwargs) -> None: ...

    def ttl(self, *args: P.args, **kwargs: P.kwargs) -> float: ...

    def entry(self, *args: P.args, **kwargs: P.kwargs) -> Entry: ...

    def loading(self, *args: P.args, **kwargs: P.kwargs) -> bool: ...

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation: ...

    def keys(self) -> list[Key]: ...

    def map(self, *iterables: Iterable[Any]) -> list[R]: ...

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

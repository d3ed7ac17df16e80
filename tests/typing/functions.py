"""What type checkers see of cached functions: the user's own parameters and result."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, assert_type

import gecaso
from gecaso import Cache, CacheInfo, Key, LRUStorage, MemoryStorage, NullStorage, Stats, cached
from gecaso.storages import MemcachedStorage, RedisStorage


class User:
    id: int


@cached
async def bare(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@cached
def bare_plain(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@cached()
async def called(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@cached()
def called_plain(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@cached(MemoryStorage(), ttl=60)
async def stored(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@cached(MemoryStorage(), ttl=60)
def stored_plain(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@cached(Cache())
async def in_cache(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@Cache(ttl="5m").cached(key="user:{id}")
def in_cache_plain(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@Cache().cached
async def bare_in_cache(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@Cache().cached
def bare_in_cache_plain(id: int, *, full: bool = False) -> User:
    raise NotImplementedError


async def results() -> None:
    assert_type(await bare_in_cache(7), User)
    assert_type(bare_in_cache_plain(7), User)
    assert_type(await bare(7), User)
    assert_type(await called(7, full=True), User)
    assert_type(await stored(id=7), User)
    assert_type(await in_cache(7), User)
    assert_type(bare_plain(7), User)
    assert_type(called_plain(7, full=True), User)
    assert_type(stored_plain(id=7), User)
    assert_type(in_cache_plain(7), User)


def it_is_a_function_like_any_other() -> None:
    asynchronous: Callable[[int], Coroutine[Any, Any, User]] = stored
    plain: Callable[[int], User] = stored_plain
    print(asynchronous, plain)


async def wrong_arguments() -> None:
    await bare("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await called()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await stored(7, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await in_cache(7, fill=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bare_plain("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    called_plain()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    stored_plain(7, full="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def operations() -> None:
    assert_type(await stored.peek(7), User)
    assert_type(await stored.refresh(7, full=True), User)
    assert_type(await stored.put(User(), 7), None)
    assert_type(await stored.invalidate(id=7), None)
    assert_type(await stored.clear(), None)
    assert_type(stored.future(7), Future[User])
    assert_type(stored.key(7), Key)
    assert_type(stored.stats, Stats)
    assert_type(stored.stats.hits, int)
    assert_type(await stored.uncached(7), User)
    assert_type(await stored.__wrapped__(7), User)
    assert_type(stored.cache_info(), CacheInfo)
    assert_type(stored.cache_parameters(), dict[str, Any])
    stored.cache_clear()


def plain_operations() -> None:
    assert_type(stored_plain.peek(7), User)
    assert_type(stored_plain.refresh(7, full=True), User)
    stored_plain.put(User(), 7)
    stored_plain.invalidate(id=7)
    stored_plain.clear()
    assert_type(stored_plain.future(7), Future[User])
    assert_type(stored_plain.key(7), Key)
    assert_type(stored_plain.stats, Stats)
    assert_type(stored_plain.uncached(7), User)
    assert_type(stored_plain.__wrapped__(7), User)
    assert_type(stored_plain.cache_info(), CacheInfo)


async def wrong_operations() -> None:
    await stored.peek("7")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await stored.put("no user", 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await stored.put(User())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await stored.invalidate()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    stored.key(id="7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    stored_plain.refresh(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    stored.invalidat(7)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def options() -> None:
    cached(MemoryStorage(), ttl=60)
    cached(LRUStorage(maxsize=16), ttl=0.5, condition=bool)
    cached(LRUStorage(MemoryStorage(), 16), ttl=timedelta(minutes=5))
    cached(NullStorage(), ttl="5m", key="user:{id}", ignore=("session",))
    cached(RedisStorage("redis://localhost"), ttl=lambda value: 60, on_storage_error="raise")
    cached(MemcachedStorage("localhost:11211"), namespace="app", version=2, hash_key=False)
    cached(ttl=None, params={"colour": "red"}, lease_seconds=3, wait_timeout=None)
    gecaso.cached(Cache(), on_key_error="call", on_invalidate_error="journal")


def wrong_options() -> None:
    cached(MemoryStorage(), ttl=[60])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    cached(MemoryStorage(), 60)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    cached("redis://localhost")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    cached(ttl=60, on_key_error="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    cached(ignore="session")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

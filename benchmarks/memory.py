"""Hits and misses in the memory of one process."""

from __future__ import annotations

import asyncio
import datetime
import functools
from collections.abc import Awaitable, Callable, Sequence
from threading import Lock
from typing import Any

import cashews
import theine
from async_lru import alru_cache

import gecaso

from .harness import Benchmark, Comparison, Measurement, Row, Scale, Stopwatch, Target, compare
from .peers import aiocache, cachebox, cachetools

__all__ = ["BENCHMARKS"]

TTL = 600  # seconds
SIZE = 1024
KEYS = list(range(100)) * 50  # hits go round a hundred keys, so that an LRU has to move them
FEW_KEYS = KEYS[:300]  # for what takes tens of microseconds
NEW_KEYS = list(range(10_000, 12_000))

Decorator = Callable[[Any], Any]
Loader = Callable[..., Awaitable[object]]

cashews_memory = cashews.Cache()
cashews_memory.setup("mem://", size=SIZE)

ALRU: dict[str, Any] = {"maxsize": SIZE, "ttl": TTL}
LRU, MEMORY = "gecaso, exact LRU", "gecaso"


def ours() -> Decorator:
    return gecaso.cached(gecaso.MemoryStorage(), ttl=TTL)


def ours_lru() -> Decorator:
    return gecaso.cached(gecaso.LRUStorage(maxsize=SIZE), ttl=TTL)


def async_peers() -> dict[str, Decorator]:
    """Each as its documentation shows it, with a ttl, a bound and its own statistics."""
    keys = cachebox.make_typed_key
    ttl = datetime.timedelta(seconds=TTL)
    return {
        "async-lru, typed=True": alru_cache(typed=True, **ALRU),
        "cachebox": cachebox.cached(cachebox.TTLCache(SIZE, TTL)),
        "cachebox, typed key": cachebox.cached(cachebox.TTLCache(SIZE, TTL), key_maker=keys),
        "theine": theine.Memoize(SIZE, ttl),
    }


# --- hits of coroutine functions ----------------------------------------------------------------


def one_argument(decorate: Decorator, keys: Sequence[int] = KEYS) -> Measurement:
    async def load(a: int) -> int:
        return a

    return calls_of_one(decorate(load), keys)


def calls_of_one(f: Loader, keys: Sequence[int]) -> Measurement:
    async def measure(watch: Stopwatch) -> None:
        for key in set(keys):
            await f(key)
        with watch.over(len(keys)):
            for key in keys:
                await f(key)

    return measure


def three_arguments(decorate: Decorator) -> Measurement:
    async def load(a: int, b: str = "b", *, c: int) -> int:
        return a

    f: Loader = decorate(load)

    async def measure(watch: Stopwatch) -> None:
        for key in set(KEYS):
            await f(key, c=3)
        with watch.over(len(KEYS)):
            for key in KEYS:
                await f(key, c=3)

    return measure


def three_given_arguments(decorate: Decorator) -> Measurement:
    async def load(a: int, b: str, c: int = 0) -> int:
        return a

    f: Loader = decorate(load)

    async def measure(watch: Stopwatch) -> None:
        for key in set(KEYS):
            await f(key, "b", c=3)
        with watch.over(len(KEYS)):
            for key in KEYS:
                await f(key, "b", c=3)

    return measure


def method(decorate: Decorator) -> Measurement:
    class Users:
        @decorate
        async def load(self, a: int) -> int:
            return a

    users: Any = Users()

    async def measure(watch: Stopwatch) -> None:
        for key in set(KEYS):
            await users.load(key)
        with watch.over(len(KEYS)):
            for key in KEYS:
                await users.load(key)

    return measure


def a_bare_coroutine() -> Measurement:
    values = {key: key for key in KEYS}

    async def load(a: int) -> int:
        return values[a]

    return calls_of_one(load, KEYS)


def hits_of_one(scale: Scale) -> list[Row]:
    subjects = {MEMORY: one_argument(ours()), LRU: one_argument(ours_lru())}
    subjects |= {name: one_argument(peer) for name, peer in async_peers().items()}
    subjects["aiocache"] = one_argument(aiocache.cached(ttl=TTL), FEW_KEYS)
    subjects["cashews"] = one_argument(cashews_memory(ttl=TTL), FEW_KEYS)
    subjects["a bare coroutine that reads a dict"] = a_bare_coroutine()
    base = one_argument(alru_cache(**ALRU))
    targets = {MEMORY: Target("≤", 0.23), LRU: Target("≤", 0.28)}
    return rows("hit, one int argument", "async-lru", base, subjects, targets, scale)


def hits_of_three(scale: Scale) -> list[Row]:
    subjects = {MEMORY: three_arguments(ours()), LRU: three_arguments(ours_lru())}
    subjects |= {name: three_arguments(peer) for name, peer in async_peers().items()}
    base = three_arguments(alru_cache(**ALRU))
    targets = {MEMORY: Target("≤", 0.19), LRU: Target("≤", 0.23)}
    work = "hit, three arguments: one by name, a default left out"
    return rows(work, "async-lru", base, subjects, targets, scale)


def hits_of_three_given(scale: Scale) -> list[Row]:
    subjects = {MEMORY: three_given_arguments(ours()), LRU: three_given_arguments(ours_lru())}
    base = three_given_arguments(alru_cache(**ALRU))
    targets = {MEMORY: Target("≤", 0.19), LRU: Target("≤", 0.23)}
    work = "hit, three arguments: all given, one by name"
    return rows(work, "async-lru", base, subjects, targets, scale)


def hits_of_methods(scale: Scale) -> list[Row]:
    subjects = {MEMORY: method(ours()), LRU: method(ours_lru())}
    targets = {MEMORY: Target("≤", 0.15)}
    return rows("hit, a method", "async-lru", method(alru_cache(**ALRU)), subjects, targets, scale)


# --- misses -------------------------------------------------------------------------------------


def misses(decorator: Callable[[], Decorator]) -> Measurement:
    async def measure(watch: Stopwatch) -> None:
        async def load(a: int) -> int:
            return a

        f = decorator()(load)
        with watch.over(len(NEW_KEYS)):
            for key in NEW_KEYS:
                await f(key)
        await forget(f)

    return measure


async def forget(f: Any) -> None:
    """Leave no entries and timers behind to slow down who comes next."""
    if hasattr(f, "cache_clear"):
        f.cache_clear()


def cold_misses(scale: Scale) -> list[Row]:
    subjects = {
        MEMORY: misses(ours),
        LRU: misses(lambda: gecaso.cached(gecaso.LRUStorage(maxsize=10_000), ttl=TTL)),
        "cachebox": misses(lambda: cachebox.cached(cachebox.TTLCache(0, TTL))),
        "a bare coroutine": misses(lambda: lambda function: function),
    }
    base = misses(lambda: alru_cache(maxsize=None, ttl=TTL))
    targets = {MEMORY: Target("≤", 1.0)}
    return rows("cold miss", "async-lru", base, subjects, targets, scale)


# --- plain functions ----------------------------------------------------------------------------


def plain(decorate: Decorator) -> Measurement:
    def load(a: int) -> int:
        return a

    f = decorate(load)

    async def measure(watch: Stopwatch) -> None:
        for key in set(KEYS):
            f(key)
        with watch.over(len(KEYS)):
            for key in KEYS:
                f(key)

    return measure


def ttl_cache(**options: Any) -> Decorator:
    decorator: Decorator = cachetools.cached(cachetools.TTLCache(SIZE, TTL), **options)
    return decorator


def plain_hits(scale: Scale) -> list[Row]:
    work = "hit, a plain function"
    key = cachetools.keys.typedkey
    bases = {
        "cachetools TTLCache": (ttl_cache(), Target("≤", 0.25)),
        "cachetools TTLCache, typed key, lock, info": (
            ttl_cache(key=key, lock=Lock(), info=True),
            None,
        ),
        "functools.lru_cache": (functools.lru_cache(SIZE), Target("≤", 2.5)),
        "functools.lru_cache, typed": (functools.lru_cache(SIZE, typed=True), None),
    }
    found: list[Row] = []
    for against, (base, target) in bases.items():
        subjects = {MEMORY: plain(ours())}
        targets = {MEMORY: target} if target else {}
        found += rows(work, against, plain(base), subjects, targets, scale)
    return found


def rows(
    work: str,
    against: str,
    base: Measurement,
    subjects: dict[str, Measurement],
    targets: dict[str, Target],
    scale: Scale,
) -> list[Row]:
    compared = asyncio.run(compare(base, subjects, rounds=scale.rounds))
    return [
        row(work, name, against, result, targets.get(name)) for name, result in compared.items()
    ]


def row(work: str, name: str, against: str, result: Comparison, target: Target | None) -> Row:
    return Row(
        work=work,
        subject=name,
        against=against,
        measured=result.processor_ratio(),
        seconds=result.processor_seconds,
        target=target,
    )


BENCHMARKS = [
    Benchmark("hit, one int argument", hits_of_one),
    Benchmark("hit, three arguments, a default left out", hits_of_three),
    Benchmark("hit, three arguments, all given", hits_of_three_given),
    Benchmark("hit, a method", hits_of_methods),
    Benchmark("cold miss", cold_misses),
    Benchmark("hit, a plain function", plain_hits),
]

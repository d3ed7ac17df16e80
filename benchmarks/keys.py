"""A call -> the text of its key."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import random
from collections.abc import Callable
from typing import Any

import gecaso
from gecaso.storages import RedisStorage

from .harness import Benchmark, Measurement, Row, Scale, Stopwatch, Target, compare
from .peers import cashews_key

__all__ = ["BENCHMARKS"]

KeyMaker = Callable[..., str]

BASE = "bind, repr, sha256"

# Kilobytes that repeat nothing, so that nothing about them can be remembered.
letters = random.Random(7)
TEXT = "".join(letters.choices("abcdefghijklmnopqrstuvwxyz ", k=10_000))
NUMBERS = [letters.randrange(10**6) for _ in range(1_400)]
RECORDS = [{"id": n, "name": f"user {n}", "score": n / 7, "tags": ["a", "b"]} for n in range(150)]

ARGUMENTS: dict[str, tuple[Any, int]] = {  # the first argument, and how many calls to measure
    "small arguments": (7, 500),
    "10 kB of text": (TEXT, 50),
    "10 kB of bytes": (TEXT.encode(), 50),
    "10 kB: a list of integers": (NUMBERS, 20),
    "10 kB: a list of records": (RECORDS, 20),
}


async def load(a: object, b: str = "b", *, c: int = 0) -> None:
    """Something with a position, a default and a keyword."""


def by_repr() -> KeyMaker:
    """The usual recipe: bind the arguments, write them down, hash the text."""
    signature = inspect.signature(load)
    name = f"{load.__module__}.{load.__qualname__}"

    def key(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return hashlib.sha256((name + repr(bound.arguments)).encode()).hexdigest()

    return key


def by_gecaso() -> KeyMaker:
    f = gecaso.cached(RedisStorage("redis://127.0.0.1:1/0"))(load)  # never connected to

    def key(a: object, *, c: int) -> str:
        return str(f.key(a, c=c))

    return key


def by_cashews() -> KeyMaker:
    template = cashews_key.get_cache_key_template(load)
    get_cache_key: KeyMaker = cashews_key.get_cache_key

    def key(a: object, *, c: int) -> str:
        return get_cache_key(load, template, (a,), {"c": c})

    return key


def making(key: KeyMaker, argument: object, calls: int) -> Measurement:
    async def measure(watch: Stopwatch) -> None:
        with watch.over(calls):
            for _ in range(calls):
                key(argument, c=3)

    return measure


def wire_keys(scale: Scale) -> list[Row]:
    rows: list[Row] = []
    for name, (argument, calls) in ARGUMENTS.items():
        subjects = {
            "gecaso": making(by_gecaso(), argument, calls),
            "cashews": making(by_cashews(), argument, calls),
        }
        base = making(by_repr(), argument, calls)
        results = asyncio.run(compare(base, subjects, rounds=scale.rounds))
        rows += [
            Row(
                work=f"making a wire key, {name}",
                subject=subject,
                against=BASE,
                measured=result.time_ratio(),
                seconds=result.seconds,
                target=Target("≤", 0.2) if subject == "gecaso" else None,
            )
            for subject, result in results.items()
        ]
    return rows


BENCHMARKS = [Benchmark("making a wire key", wire_keys)]

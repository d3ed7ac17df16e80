"""A call -> the text of its key."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import random
from collections.abc import Callable
from typing import Any

import gecaso
from gecaso.functions import Function
from gecaso.keys import Key
from gecaso.storages import RedisStorage

from .harness import Benchmark, Measurement, Row, Scale, Stopwatch, Target, compare
from .peers import cashews_key

__all__ = ["BENCHMARKS"]

KeyMaker = Callable[..., str]
Maker = Callable[[Callable[..., Any]], KeyMaker]

BASE = "bind, repr, sha256"

# Kilobytes that repeat nothing, so that nothing about them can be remembered.
letters = random.Random(7)
TEXT = "".join(letters.choices("abcdefghijklmnopqrstuvwxyz ", k=10_000))
NUMBERS = [letters.randrange(10**6) for _ in range(1_400)]
RECORDS = [{"id": n, "name": f"user {n}", "score": n / 7, "tags": ["a", "b"]} for n in range(150)]

ARGUMENTS: dict[str, tuple[Any, int]] = {  # the first argument, and how many calls to measure
    "three small arguments": (7, 500),
    "10 kB of text": (TEXT, 50),
    "10 kB of bytes": (TEXT.encode(), 50),
    "10 kB: a list of integers": (NUMBERS, 20),
    "10 kB: a list of records": (RECORDS, 20),
}


async def one(a: object) -> None:
    """Something with one argument."""


async def three(a: object, b: str = "b", *, c: int = 0) -> None:
    """Something with a position, a default and a keyword."""


def by_repr(function: Callable[..., Any]) -> KeyMaker:
    """The usual recipe: bind the arguments, write them down, hash the text."""
    signature = inspect.signature(function)
    name = f"{function.__module__}.{function.__qualname__}"

    def key(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return hashlib.sha256((name + repr(bound.arguments)).encode()).hexdigest()

    return key


def by_cashews(function: Callable[..., Any]) -> KeyMaker:
    template = cashews_key.get_cache_key_template(function)
    get_cache_key: KeyMaker = cashews_key.get_cache_key
    return lambda *args, **kwargs: get_cache_key(function, template, args, kwargs)


def cached(function: Callable[..., Any]) -> Any:
    return gecaso.cached(RedisStorage("redis://127.0.0.1:1/0"))(function)  # never connected to


def by_gecaso(function: Callable[..., Any]) -> KeyMaker:
    """Make each key anew: ``f.key`` keeps those it was asked for, if they are small."""
    behind: Function = cached(function).gecaso_function
    owner, typed_key = behind.keying.owner, behind.compiled.typed_key
    return lambda *args, **kwargs: str(Key(owner, typed_key(*args, **kwargs)))


def by_gecaso_again(function: Callable[..., Any]) -> KeyMaker:
    f = cached(function)
    return lambda *args, **kwargs: str(f.key(*args, **kwargs))


def making_of_one(maker: Maker, argument: object, calls: int) -> Measurement:
    key = maker(one)

    async def measure(watch: Stopwatch) -> None:
        with watch.over(calls):
            for _ in range(calls):
                key(argument)

    return measure


def making_of_three(maker: Maker, argument: object, calls: int) -> Measurement:
    key = maker(three)

    async def measure(watch: Stopwatch) -> None:
        with watch.over(calls):
            for _ in range(calls):
                key(argument, c=3)

    return measure


def wire_keys(scale: Scale) -> list[Row]:
    found = rows("one small argument", making_of_one, 7, 500, scale)
    for name, (argument, calls) in ARGUMENTS.items():
        found += rows(name, making_of_three, argument, calls, scale)
    return found


def rows(
    name: str,
    making: Callable[[Maker, object, int], Measurement],
    argument: object,
    calls: int,
    scale: Scale,
) -> list[Row]:
    makers = {"gecaso": by_gecaso, "gecaso, f.key": by_gecaso_again, "cashews": by_cashews}
    subjects = {name: making(maker, argument, calls) for name, maker in makers.items()}
    base = making(by_repr, argument, calls)
    results = asyncio.run(compare(base, subjects, rounds=scale.rounds))
    return [
        Row(
            work=f"making a wire key, {name}",
            subject=subject,
            against=BASE,
            measured=result.processor_ratio(),
            seconds=result.processor_seconds,
            target=Target("≤", 0.2) if subject == "gecaso" else None,
        )
        for subject, result in results.items()
    ]


BENCHMARKS = [Benchmark("making a wire key", wire_keys)]

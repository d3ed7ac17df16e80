"""Callers of a function over a network: a hundred at the same time, or one after another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypedDict

from .harness import Comparison, Measurement, Row, Stopwatch, Target

__all__ = ["CALLERS", "Load", "User", "alone", "load_user", "speed_row", "together"]

CALLERS = 100
CALLS = 20  # of each of them
CALLS_ALONE = 400

Load = Callable[[int], Awaitable[object]]


class User(TypedDict):
    """What is cached: a small record, as from a row of a database."""

    id: int
    name: str
    email: str
    active: bool
    score: float


loads = Counter[int]()


async def load_user(id: int) -> User:
    loads[id] += 1
    return User(id=id, name=f"user {id}", email=f"user{id}@example.com", active=True, score=0.5)


def together(f: Load) -> Measurement:
    """A hundred callers, each with a key of its own: nobody can be given another's answer."""

    async def caller(number: int) -> None:
        for _ in range(CALLS):
            await f(number)

    async def measure(watch: Stopwatch) -> None:
        await asyncio.gather(*map(f, range(CALLERS)))
        async with only_hits():
            with watch.over(CALLERS * CALLS):
                await asyncio.gather(*map(caller, range(CALLERS)))

    return measure


def alone(f: Load) -> Measurement:
    async def measure(watch: Stopwatch) -> None:
        for key in range(CALLERS):  # not at once: that would open a connection for each
            await f(key)
        async with only_hits():
            with watch.over(CALLS_ALONE):
                for call in range(CALLS_ALONE):
                    await f(call % CALLERS)

    return measure


@asynccontextmanager
async def only_hits() -> AsyncGenerator[None]:
    """Refuse a block in which a call goes past its cache, and would be quicker for it."""
    before = loads.total()
    yield
    if loads.total() != before:
        raise RuntimeError(f"{loads.total() - before} calls were no hits")


def speed_row(
    work: str, subject: str, against: str, result: Comparison, target: Target | None = None
) -> Row:
    """Tell how many times as fast as its base a subject is."""
    return Row(
        work=work,
        subject=subject,
        against=against,
        measured=result.speed_ratio(),
        unit="× as fast",
        seconds=result.seconds,
        target=target,
    )

"""What a bounded cache costs: the time of a hit and of a miss, and the memory of an entry."""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import theine
from async_lru import alru_cache

from gecaso import MemoryStorage, cached

from .peers import cachebox, cachetools

__all__ = ["costs"]

TTL = 600.0
HITS = 5_000
MISSES = 2_000

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

DECORATORS: dict[str, Callable[[int], Decorator]] = {
    "gecaso": lambda size: cached(MemoryStorage(size), ttl=TTL),
    "gecaso, bytes": lambda size: cached(MemoryStorage(maxbytes=28 * size), ttl=TTL),
    "gecaso, LRU": lambda size: cached(MemoryStorage(size, policy="lru"), ttl=TTL),
    "gecaso, unbounded": lambda size: cached(MemoryStorage(), ttl=TTL),
    "theine": lambda size: theine.Memoize(size, None),
    "cachebox LRU": lambda size: cachebox.cached(cachebox.LRUCache(size)),
}
ONLY_ASYNC: dict[str, Callable[[int], Decorator]] = {
    "async-lru": lambda size: alru_cache(maxsize=size, ttl=TTL)
}
ONLY_PLAIN: dict[str, Callable[[int], Decorator]] = {
    "cachetools LRU": lambda size: cachetools.cached(cachetools.LRUCache(size))
}


def plain(a: int) -> int:
    return a


async def later(a: int) -> int:
    return a


class Subject:
    """One decorated function, full, and the times that its hits and misses took."""

    def __init__(self, decorator: Decorator, size: int, *, is_async: bool) -> None:
        self.function = decorator(_copy(later if is_async else plain))
        self.is_async = is_async
        self.next = itertools.count()
        self.size = size
        self.hits: list[float] = []
        self.misses: list[float] = []

    async def ask(self, keys: Sequence[int]) -> float:
        """Return seconds for each of these calls."""
        function: Any = self.function
        gc.collect()
        started = time.perf_counter()
        if self.is_async:
            for key in keys:
                await function(key)
        else:
            for key in keys:
                function(key)
        return (time.perf_counter() - started) / len(keys)

    async def fill(self) -> None:
        await self.ask(list(itertools.islice(self.next, self.size + self.size // 10)))

    async def measure(self) -> None:
        self.misses.append(await self.ask(list(itertools.islice(self.next, MISSES))))
        hot = list(itertools.islice(self.next, 50))
        await self.ask(hot * 3)
        self.hits.append(await self.ask(hot * (HITS // 50)))


def _copy(function: Any) -> Any:
    """Return a function of its own, so that no two subjects share their entries."""
    return type(function)(function.__code__, function.__globals__, function.__name__)


async def measured(is_async: bool, size: int, rounds: int) -> dict[str, Subject]:
    makers = DECORATORS | (ONLY_ASYNC if is_async else ONLY_PLAIN)
    subjects = {name: Subject(make(size), size, is_async=is_async) for name, make in makers.items()}
    for subject in subjects.values():
        await subject.fill()
    gc.freeze()  # what fills the caches is no garbage of any measurement
    for number in range(rounds + 1):
        for subject in subjects.values():
            await subject.measure()
            if not number:  # warm now
                subject.hits.clear()
                subject.misses.clear()
    gc.unfreeze()
    return subjects


def times(is_async: bool, size: int, rounds: int) -> list[str]:
    """Return lines of a table: medians of rounds that take turns."""
    subjects = asyncio.run(measured(is_async, size, rounds))
    bases = subjects["gecaso, unbounded"], subjects["theine"]
    lines: list[str] = []
    for name, subject in subjects.items():
        hit, miss = median(subject.hits), median(subject.misses)
        lines.append(
            f"| {name} | {'async' if is_async else 'plain'} | {hit * 1e9:.0f} ns | "
            f"{_times(subject.hits, bases[0].hits)} | {miss * 1e6:.1f} µs | "
            f"{_times(subject.misses, bases[1].misses)} |"
        )
    return lines


def _times(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"{median(a / b for a, b in zip(ours, theirs, strict=True)):.2f} ×"


# --- memory, each in a process of its own -------------------------------------------------------


def bytes_per_entry(name: str, size: int) -> float:
    """Return the memory that one entry takes, key and value apart."""
    code = f"from benchmarks.eviction_costs import report_memory; report_memory({name!r}, {size})"
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root
    )
    return float(run.stdout)


def report_memory(name: str, size: int) -> None:
    makers = DECORATORS | ONLY_PLAIN
    function = makers[name](size)(plain)
    for key in range(-1_000, 0):
        function(key)
    keys = list(range(10**6, 10**6 + size + size // 10))
    gc.collect()
    before = resident()
    for key in keys:
        function(key)
    gc.collect()
    print((resident() - before) / size)


def resident() -> int:
    """Return the memory of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell the memory of a process")


def costs(*, quick: bool) -> str:
    """Return tables: times at some thousand entries, memory at many."""
    size, rounds, many = (5_000, 5, 20_000) if quick else (20_000, 21, 200_000)
    lines = [
        f"Calls at {size:,} entries:\n",
        "| cache | function | hit | × unbounded | miss that evicts | × theine |",
        "| --- | --- | --: | --: | --: | --: |",
        *times(True, size, rounds),
        *times(False, size, rounds),
    ]
    names = [name for name in DECORATORS if name != "gecaso, bytes"] + [*ONLY_PLAIN]
    sizes = {name: bytes_per_entry(name, many) for name in names}
    lines += [
        f"\nMemory at {many:,} entries, keys and values apart:\n",
        "| cache | bytes per entry | × theine |",
        "| --- | --: | --: |",
    ]
    lines += [
        f"| {name} | {taken:.0f} | {taken / sizes['theine']:.2f} × |"
        for name, taken in sizes.items()
    ]
    return "\n".join(lines)

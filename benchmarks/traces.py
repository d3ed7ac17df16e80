"""Traces of requests: files of real ones, and synthetic ones that a seed makes again.

A trace is an array of numbers, one for each request: the key's. Files are named ``NAME.u32.xz``:
little-endian unsigned 32-bit integers, compressed.
"""

from __future__ import annotations

import lzma
import sys
from array import array
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from types import MappingProxyType

__all__ = [
    "SYNTHETIC",
    "Trace",
    "found_in",
    "loop",
    "read",
    "scans",
    "sessions",
    "shifting",
    "zipf",
]

Trace = Sequence[int]


def found_in(folder: Path) -> dict[str, Path]:
    """Return the files of traces in a folder, by name."""
    files = sorted(folder.glob("*.u32.xz")) if folder.is_dir() else []
    names = {path.name.removesuffix(".u32.xz"): path for path in files}
    return {name: path for name, path in names.items() if not name.endswith(".sizes")}


def read(path: Path) -> Trace:
    """Return the requests of a file."""
    trace = array("I")
    assert trace.itemsize == 4
    trace.frombytes(lzma.decompress(path.read_bytes()))
    if sys.byteorder == "big":
        trace.byteswap()
    return trace


# --- synthetic ones: the same seed gives the same trace -------------------------------------------


def _popular(random: Random, keys: int, skew: float) -> Callable[[], int]:
    """Return a function that draws keys: the n-th with a weight of 1 / n ** skew."""
    weights = list(accumulate((n + 1) ** -skew for n in range(keys)))
    total, draw = weights[-1], random.random
    return lambda: bisect(weights, draw() * total)


def zipf(
    requests: int = 100_000, *, seed: int = 1, keys: int = 20_000, skew: float = 0.9
) -> list[int]:
    """Some keys are popular and stay so.

    >>> zipf(5, seed=7) == zipf(5, seed=7), zipf(5, seed=7) == zipf(5, seed=8)
    (True, False)
    """
    draw = _popular(Random(seed), keys, skew)
    return [draw() for _ in range(requests)]


def scans(requests: int = 100_000, *, seed: int = 1, length: int = 2_000) -> list[int]:
    """Popular keys, and every now and then a long run over keys that nobody asks for again."""
    random = Random(seed)
    draw = _popular(random, 20_000, 0.9)
    trace: list[int] = []
    fresh = 1_000_000
    while len(trace) < requests:
        trace += [draw() for _ in range(random.randrange(length, 3 * length))]
        trace += range(fresh, fresh + length)
        fresh += length
    return trace[:requests]


def loop(requests: int = 100_000, *, seed: int = 1, keys: int = 1_500) -> list[int]:
    """The same keys round and round, with one in fifty drawn at random in between."""
    random = Random(seed)
    return [
        2_000_000 + random.randrange(50_000) if random.random() < 0.02 else number % keys
        for number in range(requests)
    ]


def shifting(requests: int = 100_000, *, seed: int = 1, every: int = 20_000) -> list[int]:
    """Popular keys, others after every so many requests."""
    draw = _popular(Random(seed), 5_000, 1.0)
    return [draw() + number // every * 4_000 for number in range(requests)]


def sessions(requests: int = 100_000, *, seed: int = 1, users: int = 40) -> list[int]:
    """Users who ask for their own few keys again and again, and leave: recency is all there is."""
    random = Random(seed)
    trace: list[int] = []
    active = [(number, random.randrange(20, 200)) for number in range(users)]
    newest = users
    while len(trace) < requests:
        place = random.randrange(users)
        user, left = active[place]
        trace.append(user * 8 + min(int(random.expovariate(0.5)), 7))
        active[place] = (user, left - 1)
        if left == 1:
            active[place] = (newest, random.randrange(20, 200))
            newest += 1
    return trace


SYNTHETIC: Mapping[str, Callable[..., list[int]]] = MappingProxyType(
    {"zipf": zipf, "scans": scans, "loop": loop, "shifting": shifting, "sessions": sessions}
)

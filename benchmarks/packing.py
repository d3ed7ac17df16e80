"""Values <-> bytes, beside pickle."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gecaso import Packer

from .harness import Benchmark, Measurement, Row, Scale, Stopwatch, compare

__all__ = ["BENCHMARKS"]

CALLS = 500


@dataclass
class Point:
    x: float
    y: float
    name: str


VALUES: dict[str, Any] = {
    "an integer": 7,
    "a text": "a text of thirty characters...",
    "a record": {"id": 7, "name": "user 7", "email": "u7@example.com", "ok": True, "score": 0.5},
    "a record of kinds": {"when": (2026, 11, 21), "tags": {"a", "b"}, 7: b"seven"},
    "twenty records": [{"id": n, "name": f"user {n}", "ok": True} for n in range(20)],
    "a dataclass": Point(1.0, 2.0, "here"),
}


def each(function: Callable[[Any], object], argument: Any) -> Measurement:
    async def measure(watch: Stopwatch) -> None:
        with watch.over(CALLS):
            for _ in range(CALLS):
                function(argument)

    return measure


def packed(scale: Scale) -> list[Row]:
    packer = Packer(types=[Point])
    rows: list[Row] = []
    for name, value in VALUES.items():
        pickled, data = pickle.dumps(value, protocol=5), packer.pack(value)
        ways = {
            "pack": (each(packer.pack, value), each(dumps, value)),
            "unpack": (each(packer.unpack, data), each(pickle.loads, pickled)),
        }
        for way, (subject, base) in ways.items():
            results = asyncio.run(compare(base, {"gecaso": subject}, rounds=scale.rounds))
            rows.append(
                Row(
                    work=f"{way} {name}",
                    subject="gecaso",
                    against="pickle",
                    measured=results["gecaso"].processor_ratio(),
                    seconds=results["gecaso"].processor_seconds,
                )
            )
    return rows


def dumps(value: object) -> bytes:
    return pickle.dumps(value, protocol=5)


BENCHMARKS = [Benchmark("packing", packed)]

"""How long ``import gecaso`` takes, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from .harness import Benchmark, Measurement, Row, Scale, Spread, Stopwatch, Target, compare

__all__ = ["BENCHMARKS"]

ROOT = Path(__file__).parents[1]
FLOOR = "asyncio, anyio, ormsgpack"
CLIENTS = {"redis", "hiredis", "aiomcache", "asyncpg", "aiosqlite"}
RUNS = 3  # processes per measurement, of which the quickest counts

PROGRAM = """
import json, sys, time
wall, processor = time.perf_counter(), time.process_time()
import {modules}
took = time.perf_counter() - wall, time.process_time() - processor
print(json.dumps([*took, sorted(sys.modules)]))
"""


def imported(modules: str) -> tuple[float, float, set[str]]:
    """Return the seconds on the wall and of the processor, and the modules that came with it."""
    program = [sys.executable, "-c", PROGRAM.format(modules=modules)]
    run = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True)
    wall, processor, names = json.loads(run.stdout)
    return wall, processor, set(names)


def importing(modules: str) -> Measurement:
    async def measure(watch: Stopwatch) -> None:
        wall, processor, _ = min(imported(modules) for _ in range(RUNS))
        watch.record(wall, processor)

    return measure


def import_time(scale: Scale) -> list[Row]:
    subjects = {"gecaso": importing("gecaso")}
    compared = asyncio.run(compare(importing(FLOOR), subjects, rounds=scale.few))
    loaded = CLIENTS & {name.partition(".")[0] for name in imported("gecaso")[2]}
    return [
        Row(
            work="import",
            subject="gecaso",
            against=FLOOR,
            measured=compared["gecaso"].time_ratio(),
            seconds=compared["gecaso"].seconds,
            target=Target("≤", 1.25),
        ),
        Row(
            work="import: client libraries that come with it",
            subject="gecaso",
            measured=Spread(len(loaded), len(loaded), len(loaded)),
            unit="",
            target=Target("=", 0),
        ),
    ]


BENCHMARKS = [Benchmark("import", import_time)]

"""How long ``import gecaso`` takes, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

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


def imported(modules: str, bytecode: str) -> tuple[float, float, set[str]]:
    """Return the seconds on the wall and of the processor, and the modules that came with it.

    Compiled modules are kept in the folder ``bytecode``, whatever the settings of this process.
    """
    program = [sys.executable, "-c", PROGRAM.format(modules=modules)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
    run = subprocess.run(
        program, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if run.returncode:
        raise ImportError(run.stderr.splitlines()[-1])
    wall, processor, names = json.loads(run.stdout)
    return wall, processor, set(names)


def importing(modules: str, bytecode: str) -> Measurement:
    async def measure(watch: Stopwatch) -> None:
        wall, processor, _ = min(imported(modules, bytecode) for _ in range(RUNS))
        watch.record(wall, processor)

    return measure


def import_time(scale: Scale) -> list[Row]:
    with TemporaryDirectory() as bytecode:
        base, subject = importing(FLOOR, bytecode), importing("gecaso", bytecode)
        compared = asyncio.run(compare(base, {"gecaso": subject}, rounds=scale.few))
        _, _, modules = imported("gecaso", bytecode)
    loaded = CLIENTS & {name.partition(".")[0] for name in modules}
    return [
        Row(
            work="import",
            subject="gecaso",
            against=FLOOR,
            measured=compared["gecaso"].processor_ratio(),
            seconds=compared["gecaso"].processor_seconds,
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

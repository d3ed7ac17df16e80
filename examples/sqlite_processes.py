"""One file for all processes: eight of them want the same report, and one makes it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gecaso
from gecaso.storages import SQLiteStorage

PROCESSES = 8


async def worker(path: Path) -> None:
    """What each of the processes does."""
    # Who cannot have the file in time goes on without it, and loads: a busy machine is no reason.
    async with SQLiteStorage(path, maxbytes=100_000_000, timeout=20) as storage:

        @gecaso.cached(storage, ttl=60, key="report:{day}")
        async def report(day: str) -> str:
            print("made here", flush=True)
            await asyncio.sleep(0.3)
            return f"the report of {day}"

        assert await report("monday") == "the report of monday"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, f"{folder}/cache.db"]
        started = time.perf_counter()
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(PROCESSES)]
        said = [process.communicate()[0].decode() for process in running]
        took = time.perf_counter() - started
    assert [process.returncode for process in running] == [0] * PROCESSES
    made = "".join(said).count("made here")
    print(f"{PROCESSES} processes had the report after {took:.1f} s; it was made {made} time(s)")
    assert made == 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(worker(Path(sys.argv[1])))
    else:
        main()

"""What tests of files run in processes of their own: ``python -m tests.storages.sqlite_workers``.

The program imports everything once and then forks, so that a process starts in milliseconds. It
prints one line of JSON. Whatever goes wrong in a child is written to a file beside the database.
"""

# ruff: noqa: ASYNC230, ASYNC240 - what is written to a file is for other processes, and little

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import gecaso
from gecaso import Lease
from gecaso.keys import as_key
from gecaso.storages import SQLiteStorage

KEYS = 40
SIZES = (10, 1000, 10_000, 100_000)
TIMEOUT = 20.0  # seconds: twenty processes have two processors


def start(path: Path, work: Callable[[], None]) -> int:
    """Run it in a forked child; what it raises is a line in the file of errors."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:  # noqa: BLE001 - the parent reads of it
        with Path(f"{path}.errors").open("a") as file:
            file.write(traceback.format_exc())
    os._exit(0)


def errors(path: Path) -> str:
    file = Path(f"{path}.errors")
    return file.read_text() if file.exists() else ""


def wait(children: list[int]) -> None:
    for child in children:
        os.waitpid(child, 0)


# --- writing, and being killed --------------------------------------------------------------------


def content(key: str, number: int, size: int) -> tuple[str, int, bytes]:
    return key, number, bytes([number % 251]) * size


async def churn(path: Path) -> NoReturn:
    """Write, read, lease and remove for ever; nothing that is read may be wrong."""
    chance = random.Random(os.getpid() + time.monotonic_ns())
    options = {"maxbytes": 1_500_000, "timeout": TIMEOUT, "compress": False, "large": 5000}
    storage = SQLiteStorage(path, **options)  # type: ignore[arg-type]  # of several types

    async def step(key: str) -> None:
        match chance.randrange(6):
            case 0:
                number = chance.randrange(1000)
                await storage.set(key, content(key, number, chance.choice(SIZES)), ttl=5)
            case 1:
                await storage.remove(key)
            case 2:
                got = (await storage.lease([as_key(key)], 0.2))[as_key(key)]
                if isinstance(got, Lease):
                    value = content(key, chance.randrange(1000), chance.choice(SIZES))
                    await storage.commit({got: storage.new_entry(value, ttl=5)})
                else:
                    await storage.wait(got, 0.05)
            case _:
                for asked, value in (await storage.get_many([key, f"key {key}"])).items():
                    assert value == content(asked, value[1], len(value[2]))

    while True:
        keys = [f"key {chance.randrange(KEYS)}" for _ in range(chance.choice([1, 5, 20]))]
        await asyncio.gather(*map(step, keys))
        assert storage.corrupt == 0


def churning(path: Path, processes: int, seconds: float) -> dict[str, object]:
    """Let them write, kill one at random again and again, and put another in its place."""
    chance = random.Random(7)

    def work() -> None:
        asyncio.run(churn(path))

    children = [start(path, work) for _ in range(processes)]
    killed = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.01, 0.1))
        victim = chance.randrange(processes)
        os.kill(children[victim], signal.SIGKILL)
        os.waitpid(children[victim], 0)
        children[victim] = start(path, work)
        killed += 1
    for child in children:
        os.kill(child, signal.SIGKILL)
    wait(children)
    return {"killed": killed, "errors": errors(path)}


# --- leases ---------------------------------------------------------------------------------------


def loading(path: Path, processes: int) -> dict[str, object]:
    """Many processes, many callers, one cold key: who loads writes a line to a file."""
    loads = Path(f"{path}.loads")

    def work() -> None:
        storage = SQLiteStorage(path, timeout=TIMEOUT)

        @gecaso.cached(storage, ttl=60, key="cold")
        async def cold() -> str:
            with loads.open("a") as file:
                file.write("load\n")
            await asyncio.sleep(0.2)
            return "value"

        async def main() -> None:
            await storage.ping()
            assert await asyncio.gather(*[cold() for _ in range(50)]) == ["value"] * 50
            await storage.aclose()

        asyncio.run(main())

    wait([start(path, work) for _ in range(processes)])
    return {"loads": len(loads.read_text().splitlines()), "errors": errors(path)}


def counting(path: Path, processes: int, times: int) -> dict[str, object]:
    """Read, add one and write, under a lease: none is lost when none is alone."""

    def work() -> None:
        async def main() -> None:
            async with SQLiteStorage(path, timeout=TIMEOUT) as storage:
                for _ in range(times):
                    async with storage.leased("counter"):
                        count = (await storage.get_many(["count"])).get("count", 0)
                        await storage.set("count", count + 1)

        asyncio.run(main())

    wait([start(path, work) for _ in range(processes)])

    async def count() -> object:
        async with SQLiteStorage(path) as storage:
            return await storage.get("count")

    return {"count": asyncio.run(count()), "errors": errors(path)}


def replacing(path: Path) -> dict[str, object]:
    """Kill the process that loads; tell how long another one waits, in seconds."""
    begun = Path(f"{path}.begun")

    def work(hangs: bool) -> None:
        storage = SQLiteStorage(path, timeout=TIMEOUT)

        @gecaso.cached(storage, ttl=60, key="cold", lease_seconds=1)
        async def cold() -> str:
            if hangs:
                begun.touch()
                await asyncio.sleep(1000)
            return "value"

        assert asyncio.run(cold()) == "value"

    holder = start(path, lambda: work(hangs=True))
    while not begun.exists():
        time.sleep(0.005)
    os.kill(holder, signal.SIGKILL)
    wait([holder])
    started = time.monotonic()
    wait([start(path, lambda: work(hangs=False))])
    return {"seconds": time.monotonic() - started, "errors": errors(path)}


def telling(path: Path) -> dict[str, object]:
    """Tell how long after a lease has ended in one process another one hears of it."""
    ended = Path(f"{path}.ended")

    def work() -> None:
        async def main() -> None:
            storage = SQLiteStorage(path, timeout=TIMEOUT)
            got = (await storage.lease([as_key("a")], 60))[as_key("a")]
            assert isinstance(got, Lease)
            Path(f"{path}.begun").touch()
            await asyncio.sleep(0.5)
            await storage.release([got])
            ended.write_text(str(time.monotonic()))
            await storage.aclose()

        asyncio.run(main())

    async def listen() -> float:
        async with SQLiteStorage(path, timeout=TIMEOUT) as storage:
            busy = (await storage.lease([as_key("a")], 60))[as_key("a")]
            assert not isinstance(busy, Lease)
            await storage.wait(busy, 30)
            return time.monotonic()

    holder = start(path, work)
    while not Path(f"{path}.begun").exists():
        time.sleep(0.005)
    heard = asyncio.run(listen())
    wait([holder])
    return {"seconds": heard - float(ended.read_text()), "errors": errors(path)}


def opening(path: Path, processes: int) -> dict[str, object]:
    """All open a file at once that nobody has made."""

    def work() -> None:
        async def main() -> None:
            async with SQLiteStorage(path, timeout=TIMEOUT) as storage:
                await storage.set(os.getpid(), 1)

        while time.monotonic() < moment:
            pass
        asyncio.run(main())

    moment = time.monotonic() + 0.2
    children = [start(path, work) for _ in range(processes)]
    wait(children)

    async def count() -> int:
        async with SQLiteStorage(path) as storage:
            return len(await storage.get_many(children))

    return {"count": asyncio.run(count()), "errors": errors(path)}


def repairing(path: Path, processes: int) -> dict[str, object]:
    """All find a damaged file at once; each stores something in the new one."""
    logging.getLogger("gecaso").setLevel(logging.ERROR)  # of the damage nobody is to be told here
    path.write_bytes(b"no database" * 1000)
    return opening(path, processes)


WORKERS = (churning, loading, counting, replacing, telling, opening, repairing)

if __name__ == "__main__":
    named = {worker.__name__: worker for worker in WORKERS}
    print(json.dumps(named[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))))

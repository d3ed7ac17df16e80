"""A thousand callers in four processes ask for one key that nobody has loaded yet."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import IO, Any

from tests.servers import MemcachedServer, RedisServer

from .askers import LOAD
from .harness import Benchmark, Row, Scale, Spread, Target, spread

__all__ = ["BENCHMARKS"]

ROOT = Path(__file__).parents[1]
PROCESSES = 4
HEAD_START = 0.3  # seconds until all processes have been told when to begin
SETTLE = 0.2  # seconds in which the last commands of a stampede reach the server

PEERS = {
    "gecaso": "gecaso",
    "cashews": "cashews",
    "cashews, lock=True": "cashews-lock",
    "aiocache cached_stampede": "aiocache",
    "dogpile.cache, distributed_lock": "dogpile",
}


@dataclass(frozen=True, slots=True)
class Stampede:
    """What came of one: runs of the function, failed calls, seconds, commands of the server."""

    loads: int
    failed: int
    p99: float
    commands: int


def stampedes(peer: str, server: RedisServer | MemcachedServer, rounds: int) -> list[Stampede]:
    """Return what came of each; one before them opens the connections and does not count."""
    with askers(peer, server.port) as processes:
        return [one(processes, server, key) for key in range(rounds + 1)][1:]


@contextmanager
def askers(peer: str, port: int) -> Generator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", f"{__package__}.askers", peer, str(port)]
    processes = [start(command) for _ in range(PROCESSES)]
    try:
        yield processes
        for process in processes:
            pipe(process.stdin).close()
            process.wait(10)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            pipe(process.stdout).close()


def start(command: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def pipe(end: IO[str] | None) -> IO[str]:
    assert end is not None
    return end


def one(
    processes: Sequence[subprocess.Popen[str]], server: RedisServer | MemcachedServer, key: int
) -> Stampede:
    before = server.commands()
    moment = time.monotonic() + HEAD_START
    for process in processes:
        print(key, moment, file=pipe(process.stdin), flush=True)
    answers = [answer_of(process) for process in processes]
    time.sleep(SETTLE)
    commands = (server.commands() - before).total()
    seconds = [second for answer in answers for second in answer["seconds"]]
    return Stampede(
        loads=sum(answer["loads"] for answer in answers),
        failed=sum(answer["failed"] for answer in answers),
        p99=quantiles(seconds, n=100)[-1],
        commands=commands,
    )


def on_redis(scale: Scale) -> list[Row]:
    rows: list[Row] = []
    for name, peer in PEERS.items():
        with RedisServer() as server:
            results = stampedes(peer, server, scale.stampedes)
        targets = [Target("=", 1), Target("≤", LOAD + 0.04), Target("≤", 40)]
        rows += rows_of("Redis", name, results, targets if name == "gecaso" else [])
    return rows


def on_memcached(scale: Scale) -> list[Row]:
    with MemcachedServer() as server:
        results = stampedes("gecaso-memcached", server, scale.stampedes)
    return rows_of("memcached", "gecaso", results, [Target("=", 1)])


def answer_of(process: subprocess.Popen[str]) -> Any:
    line = pipe(process.stdout).readline()
    if not line:
        raise RuntimeError(f"the callers' process ended with status {process.wait()}; see above")
    return json.loads(line)


def rows_of(where: str, name: str, results: list[Stampede], targets: Sequence[Target]) -> list[Row]:
    work = f"stampede on {where}"
    figures = [
        ("loads, at most", "", most([each.loads for each in results])),
        ("p99", "s", spread([each.p99 for each in results])),
        ("commands, at most", "", most([each.commands for each in results])),
    ]
    if any(each.failed for each in results):
        figures.append(("calls that raised, at most", "", most([e.failed for e in results])))
    wanted = [*targets, *[None] * len(figures)]
    return [
        Row(work=f"{work}: {what}", subject=name, measured=measured, unit=unit, target=target)
        for (what, unit, measured), target in zip(figures, wanted, strict=False)
    ]


def most(counts: Sequence[float]) -> Spread:
    """Return the worst of some counts, between the best and the worst."""
    return Spread(max(counts), min(counts), max(counts))


BENCHMARKS = [
    Benchmark("stampede on Redis", on_redis),
    Benchmark("stampede on memcached", on_memcached),
]

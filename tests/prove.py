"""Search for what is wrong, for as long as it is told: `scripts/prove`.

Random programs in chosen schedules over models (`tests.searches`), spread over all cores; with
``--real`` the same programs over real servers, in real time and concurrency. The seed is printed:
the same seed searches the same schedules.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context

from tests.searches import MECHANISMS, Program, Served, search
from tests.servers import MemcachedServer, RedisServer

__all__ = ["Found", "Job", "jobs", "run_job", "searched"]

CHUNK = 500  # schedules of one job
AT_ONCE = 50  # programs of one job over real servers, side by side
REAL_CHUNK = 100  # programs of one job over real servers
EVERY = 1.0  # seconds between progress lines


@dataclass(frozen=True)
class Job:
    """Some schedules of one mechanism, in one process. With a ``url`` it is a real server."""

    mechanism: str
    schedules: int
    seed: int
    url: str = ""


@dataclass(frozen=True)
class Found:
    """What became of a job: ``trouble`` is the story of a violation."""

    job: Job
    steps: int = 0
    trouble: str = ""


def run_job(job: Job) -> Found:
    """Run a job; to be called in a process of its own."""
    try:
        if job.url:
            return Found(job, asyncio.run(_real(job)))
        explored = search(job.mechanism, schedules=job.schedules, seed=job.seed)
        return Found(job, explored.steps)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and ends the search
        return Found(job, trouble=f"{type(error).__name__}: {error}")


def jobs(schedules: int, seed: int, mechanisms: Iterator[str] | list[str]) -> Iterator[Job]:
    """Return jobs for that many schedules of each mechanism, each with a seed of its own."""
    names = list(mechanisms)
    for start in range(0, schedules, CHUNK):
        for name in names:
            yield Job(name, min(CHUNK, schedules - start), seed + start // CHUNK)


def searched(todo: Iterator[Job], *, processes: int) -> Iterator[Found]:
    """Run jobs in that many processes; return what they found, as they end."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running: set[Future[Found]] = set()
        try:
            while True:
                while len(running) <= processes and (job := next(todo, None)) is not None:
                    running.add(pool.submit(run_job, job))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# --- over real servers --------------------------------------------------------------------------


async def _real(job: Job) -> int:
    """Run programs over a real server, many side by side, each in a namespace of its own."""
    numbers = iter(range(job.schedules))

    async def worker() -> None:
        for number in numbers:
            choose = random.Random(f"{job.seed} {number}").randrange
            namespace = f"{os.getpid()}-{job.seed}-{number}"
            program = Program(Served(job.url, namespace=namespace), choose)
            try:
                await program.run()
            finally:
                await program.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())
    return 0


def _real_jobs(seed: int, urls: dict[str, str]) -> Iterator[Job]:
    number = 0
    while True:
        for name, url in urls.items():
            yield Job(name, REAL_CHUNK, seed + number, url)
        number += 1


# --- the command --------------------------------------------------------------------------------


def main() -> int:
    options = _options()
    print(f"seed {options.seed}: scripts/prove --seed {options.seed} searches the same again")
    if not options.real:
        todo = jobs(options.schedules, options.seed, list(MECHANISMS))
        return _told(todo, options, "schedules")
    with RedisServer() as redis, MemcachedServer() as memcached:
        urls = {"redis": redis.url, "memcached": memcached.url}
        return _told(_real_jobs(options.seed, urls), options, "programs")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/prove", description=__doc__)
    parser.add_argument(
        "--schedules",
        type=int,
        default=1_000_000,
        help="of each mechanism: memory, and the models of Redis and memcached (1,000,000)",
    )
    parser.add_argument("--minutes", type=float, help="stop after that time")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--real", action="store_true", help="over real servers, for --minutes (1 if not given)"
    )
    options = parser.parse_args()
    if options.real and options.minutes is None:
        options.minutes = 1.0
    return options


def _told(todo: Iterator[Job], options: argparse.Namespace, what: str) -> int:
    """Run jobs, telling how it goes; return the exit status."""
    began, told = time.monotonic(), 0.0
    end = float("inf") if options.minutes is None else began + options.minutes * 60
    in_time = iter(lambda: next(todo, None) if time.monotonic() < end else None, None)
    count: Counter[str] = Counter()
    for found in searched(in_time, processes=options.processes):
        if found.trouble:
            print(f"\n{found.job}\n{found.trouble}")
            return 1
        count[found.job.mechanism] += found.job.schedules
        if time.monotonic() - told > EVERY:
            told = time.monotonic()
            print(_line(count, what, told - began), end="\r", flush=True)
    print(_line(count, what, time.monotonic() - began))
    print("No violation.")
    return 0


def _line(count: Counter[str], what: str, seconds: float) -> str:
    each = ", ".join(f"{name} {number:,}" for name, number in sorted(count.items()))
    return f"{count.total():,} {what} in {seconds:.0f} s: {each}"


if __name__ == "__main__":
    sys.exit(main())

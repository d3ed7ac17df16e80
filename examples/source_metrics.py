"""Metrics of every module of the standard library, asked for by hundreds of callers at once.

A cached function parses a module's source and counts what is in it. Its callers ask for some
modules much more often than for others, and many at the same moment; each module is parsed once.

    source_metrics.py                                     in memory
    source_metrics.py --storage redis://localhost:6379/0  over a server, likewise memcached://…
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import math
import multiprocessing
import os
import platform
import random
import signal
import sys
import sysconfig
import time
import tokenize
import uuid
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import gecaso

NOT_MODULES = {"__pycache__", "idle_test", "lib2to3", "site-packages", "test", "tests"}
COMPOUND = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


# -- the slow function ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Metrics:
    """What is in one module; a length is a number of lines, a depth one of nested blocks."""

    module: str
    lines: int
    functions: int
    classes: int
    depth: int
    longest: str
    longest_lines: int


def measure(module: str, path: str) -> Metrics:
    """Parse the source of a module and count. Runs in a process of the pool."""
    with tokenize.open(path) as file:
        source = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in strings are no concern of ours
        tree = ast.parse(source)
    functions = classes = deepest = longest_lines = 0
    longest = ""
    for node, depth, name in walk(tree):
        deepest = max(deepest, depth)
        if isinstance(node, ast.ClassDef):
            classes += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions += 1
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > longest_lines:
                longest, longest_lines = name, lines
    lines = len(source.splitlines())
    return Metrics(module, lines, functions, classes, deepest, longest, longest_lines)


def walk(tree: ast.AST) -> Iterator[tuple[ast.AST, int, str]]:
    """Yield every node with its depth and the name of what it is in."""
    stack = [(tree, 0, "")]
    while stack:
        node, depth, name = stack.pop()
        yield node, depth, name
        for child in ast.iter_child_nodes(node):
            if isinstance(child, NAMED):
                stack.append((child, depth + 1, f"{name}.{child.name}".lstrip(".")))
            else:
                deeper = isinstance(child, COMPOUND) and not is_elif(node, child)
                stack.append((child, depth + deeper, name))


def is_elif(parent: ast.AST, child: ast.AST) -> bool:
    return (
        isinstance(parent, ast.If)
        and isinstance(child, ast.If)
        and child.col_offset == parent.col_offset
    )


# -- the job -------------------------------------------------------------------------------------


@dataclass
class Job:
    """What is asked for, and what came of it. Times are in seconds."""

    paths: dict[str, str]
    asks: list[str]
    askers: int
    loads: int = 0
    found: dict[str, Metrics] = field(default_factory=dict[str, Metrics])
    unreadable: set[str] = field(default_factory=set[str])
    done: int = 0
    waiting: Counter[str] = field(default_factory=Counter[str])
    peak: int = 0
    peak_module: str = ""

    def load_ends(self, module: str) -> None:
        """Take note of a load, and of how many callers wait for it."""
        self.loads += 1
        if self.waiting[module] > self.peak:
            self.peak, self.peak_module = self.waiting[module], module


Ask = Callable[[str], Awaitable[Metrics]]


async def ask_all(job: Job, ask: Ask) -> float:
    """Let the askers ask, each its share, one after the other; return how long it took."""

    async def asker(modules: Sequence[str]) -> None:
        for module in modules:
            job.waiting[module] += 1
            try:
                job.found[module] = await ask(module)
            except (SyntaxError, UnicodeDecodeError):
                job.unreadable.add(module)
            finally:
                job.waiting[module] -= 1
                job.done += 1

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(job.askers):
            group.create_task(asker(job.asks[number :: job.askers]))
    return time.perf_counter() - started


async def time_without_cache(asks: Sequence[str], uncached: Ask) -> float:
    """Return the seconds that these asks take when each of them parses."""
    started = time.perf_counter()
    results = await asyncio.gather(*map(uncached, asks), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, SyntaxError):
            raise result
    return time.perf_counter() - started


async def time_hits(asks: Sequence[str], ask: Ask, at_once: int) -> list[float]:
    """Return the seconds that each of these asks takes, ``at_once`` of them at any time, sorted."""
    times: list[float] = []

    async def asker(modules: Sequence[str]) -> None:
        for module in modules:
            started = time.perf_counter()
            await ask(module)
            times.append(time.perf_counter() - started)

    await asyncio.gather(*(asker(asks[number::at_once]) for number in range(at_once)))
    return sorted(times)


def standard_library() -> dict[str, str]:
    """Return the path of the source of every module of the standard library, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    paths: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if NOT_MODULES.isdisjoint(parts) and all(part.isidentifier() for part in parts):
            paths[".".join(parts).removesuffix(".__init__")] = str(path)
    return paths


def choose_asks(modules: Sequence[str], calls: int, chance: random.Random) -> list[str]:
    """Return every module once and, for the rest of the calls, the popular ones again and again."""
    ranked = chance.sample(modules, len(modules))
    weights = [1 / rank for rank in range(1, len(ranked) + 1)]  # Zipf's law
    asks = [*modules, *chance.choices(ranked, weights, k=max(0, calls - len(modules)))]
    chance.shuffle(asks)
    return asks


# -- progress ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def progress(job: Job) -> AsyncGenerator[None]:
    """Tell on stderr how far the job is: in one line on a terminal, elsewhere line by line."""
    on_terminal = sys.stderr.isatty()

    def tell() -> None:
        share = job.done / len(job.asks)
        text = f"{job.loads:,} modules parsed, {job.done:,} of {len(job.asks):,} calls answered"
        start, end = (f"\r{'█' * int(share * 24):░<24} ", "") if on_terminal else ("", "\n")
        print(f"{start}{share:4.0%}  {text}", end=end, file=sys.stderr, flush=True)

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.1 if on_terminal else 2)
            tell()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        tell()
        if on_terminal:
            print(file=sys.stderr)


# -- the report ----------------------------------------------------------------------------------

Row = tuple[str, str, str]


def calls_and_loads(job: Job, stats: gecaso.Stats) -> list[Row]:
    rows = [
        ("calls", f"{len(job.asks):,}", f"by {job.askers:,} askers at once"),
        ("loads", f"{stats.loads:,}", f"of {len(job.paths):,} modules"),
        ("hit rate", f"{stats.hits / len(job.asks):.1%}", f"{stats.hits:,} hits"),
        ("joined", f"{stats.joined:,}", "calls that shared a load under way"),
        ("peak callers per load", f"{job.peak:,}", f"of {job.peak_module}"),
    ]
    if stats.storage_errors:
        rows.append(("storage errors", f"{stats.storage_errors:,}", "the calls went on without it"))
    return rows


def times(took: float, calls: int, sample: float, sampled: int) -> list[Row]:
    note = f"estimated from {sampled:,} of these calls, which took {in_units(sample)}"
    return [
        ("time with the cache", in_units(took), "measured"),
        ("time without it", in_units(sample / sampled * calls), note),
    ]


def latency(name: str, times: Sequence[float]) -> Row:
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    return name, in_units(p50), f"p50; p99 {in_units(p99)}; measured over {len(times):,} hits"


def findings(job: Job) -> list[Row]:
    found = list(job.found.values())
    functions, classes = sum(one.functions for one in found), sum(one.classes for one in found)
    total = f"{functions:,} functions, {classes:,} classes in {len(found):,} modules"
    longest = max(found, key=lambda one: one.longest_lines)
    deepest = max(found, key=lambda one: one.depth)
    busiest = max(found, key=lambda one: one.functions)
    classiest = max(found, key=lambda one: one.classes)
    largest = max(found, key=lambda one: one.lines)
    rows = [
        ("lines in all", f"{sum(one.lines for one in found):,}", total),
        ("most lines", f"{largest.lines:,}", largest.module),
        ("most functions", f"{busiest.functions:,}", busiest.module),
        ("most classes", f"{classiest.classes:,}", classiest.module),
        ("deepest nesting", f"{deepest.depth:,}", f"{deepest.module}, blocks within blocks"),
        ("longest function", f"{longest.longest_lines:,}", f"{longest.module}: {longest.longest}"),
    ]
    if job.unreadable:
        rows.append(("not parsed", f"{len(job.unreadable):,}", ", ".join(sorted(job.unreadable))))
    return rows


def show(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}")
    for name, figure, note in rows:
        print(f"  {name:<22}{figure:>10}   {note}")


def in_units(seconds: float) -> str:
    """Write a time with three digits, in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            value = seconds / size
            return f"{value:,.{max(0, 2 - int(math.log10(value)))}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


# -- the command ---------------------------------------------------------------------------------


async def run(job: Job, storage: gecaso.EntryStorage, pool: ProcessPoolExecutor) -> None:
    # A namespace of its own: each run starts with nothing cached, on a server too.
    @gecaso.cached(storage, ttl="10m", namespace=f"source-metrics-{uuid.uuid4()}")
    async def metrics(module: str) -> Metrics:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(pool, measure, module, job.paths[module])
        finally:
            job.load_ends(module)

    chance = random.Random(1)
    await storage.ping()
    async with progress(job):
        took = await ask_all(job, metrics)
    rows = calls_and_loads(job, metrics.stats)
    readable = [module for module in job.asks if module in job.found]
    sample = chance.sample(readable, min(len(readable), job.askers))
    uncached = await time_without_cache(sample, metrics.uncached)
    rows += times(took, len(job.asks), uncached, len(sample))
    hits = chance.choices(readable, k=10 * job.askers)
    rows.append(latency("a hit, by itself", await time_hits(hits[: len(hits) // 4], metrics, 1)))
    name = f"a hit, {job.askers:,} at once"
    rows.append(latency(name, await time_hits(hits, metrics, job.askers)))
    show("The cache", rows)
    show("The standard library", findings(job))


def open_storage(url: str) -> gecaso.EntryStorage:
    if url == "memory":
        return gecaso.MemoryStorage()
    if url.startswith(("redis://", "rediss://", "unix://")):
        from gecaso.storages import RedisStorage

        return RedisStorage(url)
    if url.startswith("memcached://"):
        from gecaso.storages import MemcachedStorage

        return MemcachedStorage(url)
    raise gecaso.ConfigurationError(
        f"no storage is called {url!r}; it is memory, redis://host:port/db or memcached://host:port"
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure every module of the standard library, for many callers at once."
    )
    parser.add_argument(
        "--storage",
        default="memory",
        metavar="URL",
        help="memory (the default), redis://host:port/db or memcached://host:port",
    )
    parser.add_argument("--askers", type=int, default=400, help="how many ask at once (400)")
    parser.add_argument("--calls", type=int, default=100, help="how often each of them asks (100)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the modules and the calls")
    chosen = parser.parse_args()
    if chosen.askers < 1 or chosen.calls < 1:
        parser.error("--askers and --calls must be at least 1")
    return chosen


def prepare(chosen: argparse.Namespace) -> Job:
    paths = standard_library()
    if not paths:
        raise SystemExit("this Python has no sources of its standard library to parse")
    calls = chosen.askers * chosen.calls
    if chosen.quick:
        paths = {module: paths[module] for module in list(paths)[::10]}
        calls = max(1, calls // 10)
    return Job(paths, choose_asks(list(paths), calls, random.Random(0)), chosen.askers)


def main() -> int | str:
    chosen = options()
    job = prepare(chosen)
    try:
        storage = open_storage(chosen.storage)
        workers = max(1, min((os.cpu_count() or 1) - 1, 8))  # one is for the callers
        print(
            f"Python {platform.python_version()}: {len(job.paths):,} modules, "
            f"{workers} parsing at once, cached by {storage!r}"
        )
        pool = ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),  # forked processes would share our connections
            initializer=signal.signal,
            initargs=(signal.SIGINT, signal.SIG_IGN),  # it is the parent that stops them
        )
        with pool:
            asyncio.run(run(job, storage, pool))
    except (gecaso.ConfigurationError, gecaso.StorageError, ModuleNotFoundError) as error:
        return f"source_metrics: {error}"
    except KeyboardInterrupt:
        return "source_metrics: stopped"
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Who keeps the right things: ``python -m benchmarks.hit_ratio [FOLDER] [--sizes N…]``.

Hit ratios of each trace at several sizes: the policies of `MemoryStorage` through the storage
itself, beside other libraries and the clairvoyant optimum; then what a hit, a miss and an entry
cost. ``--at web07@205 …`` asks for single settings, of whole traces.
"""

from __future__ import annotations

import argparse
import functools
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: modules beside this one have names of client libraries
    __package__ = "benchmarks"
    sys.path[0] = str(Path(__file__).parents[1])

import theine

from gecaso import Entry, MemoryStorage, cached
from gecaso.keys import Key

from .eviction_costs import costs
from .peers import cachebox, cachetools
from .traces import SYNTHETIC, Trace, found_in, read

FOLDER = Path(__file__).parents[2] / "shared" / "traces"
SHARES = (0.01, 0.1)  # of the different keys of a trace: the sizes that are tried
LONGEST = 200_000  # requests; of longer traces the first ones

Ask = Callable[[int], bool]


# --- who is asked -------------------------------------------------------------------------------


def storage(policy: str) -> Callable[[int], Ask]:
    """Ask a `MemoryStorage` as a function with a cache does: its hits go the shortest path."""

    def make(size: int) -> Ask:
        memory = MemoryStorage(size, policy=policy)

        @cached(memory)
        def owner(x: int) -> int:
            return x

        partition = memory.partition(owner.key(0).owner)
        entries, on_hit, of = partition.entries, partition.on_hit, owner.key(0).owner

        def ask(key: int) -> bool:
            entry = entries.get(key)
            if entry is None:
                memory.write(Key(of, key), Entry(key, 0.0))
                return False
            entry.hot = True
            if on_hit is not None:
                on_hit(entry)
            return True

        ask.kept = owner  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess] - entries live as long as their function
        return ask

    return make


def with_theine(size: int) -> Ask:
    cache = theine.Cache[int, int](size)

    def ask(key: int) -> bool:
        _, is_hit = cache.get(key)
        if not is_hit:
            cache.set(key, key)
        return is_hit

    return ask


def mapping(make: Callable[[int], Any]) -> Callable[[int], Ask]:
    def made(size: int) -> Ask:
        cache = make(size)

        def ask(key: int) -> bool:
            if cache.get(key) is None:
                cache[key] = True
                return False
            return True

        return ask

    return made


CACHES: dict[str, Callable[[int], Ask]] = {
    "gecaso": storage("tinylfu"),
    "gecaso, LRU": storage("lru"),
    "theine": with_theine,
    "cachebox LRU": mapping(cachebox.LRUCache),
    "cachebox LFU": mapping(cachebox.LFUCache),
    "cachetools LRU": mapping(cachetools.LRUCache),
    "cachetools LFU": mapping(cachetools.LFUCache),
}


def ratio(ask: Ask, trace: Trace) -> float:
    """Return hits per cent."""
    return 100.0 * sum(1 for key in trace if ask(key)) / len(trace)


def optimum(trace: Trace, size: int) -> float:
    """Return the hits per cent of who knows what comes: whoever is wanted last leaves (Belady).

    >>> optimum([1, 2, 3, 1, 2], 2)
    20.0
    """
    never = len(trace)
    after = array("Q", bytes(8 * never))
    seen: dict[int, int] = {}
    for place in range(never - 1, -1, -1):
        after[place] = seen.get(trace[place], never)
        seen[trace[place]] = place
    kept: dict[int, int] = {}
    last: list[tuple[int, int]] = []
    hits = 0
    for place, key in enumerate(trace):
        hits += key in kept
        kept[key] = after[place]
        heappush(last, (-after[place], key))
        while len(kept) > size:
            wanted, other = heappop(last)
            if kept.get(other) == -wanted:
                del kept[other]
    return 100.0 * hits / never


# --- the table ----------------------------------------------------------------------------------


class Line(NamedTuple):
    trace: str
    size: int
    optimum: float
    ratios: dict[str, float]


def lines(options: argparse.Namespace) -> Iterator[Line]:
    known = traces(options.folder)
    if options.at:
        for setting in options.at:
            name, _, size = setting.partition("@")
            if name not in known or not size.isdecimal():
                sys.exit(f"--at takes TRACE@N, not {setting!r}; there are {', '.join(known)}")
            yield line(name, known[name](), int(size), options.caches)
        return
    for name, load in known.items():
        if name in COMPOSED:
            continue
        trace = load()[: options.longest]
        keys = len(set(trace))
        for size in options.sizes or sorted({max(50, int(keys * share)) for share in SHARES}):
            yield line(name, trace, size, options.caches)


def line(name: str, trace: Trace, size: int, caches: Sequence[str]) -> Line:
    ratios = {cache: ratio(CACHES[cache](size), trace) for cache in caches}
    return Line(name, size, optimum(trace, size), ratios)


def traces(folder: Path) -> dict[str, Callable[[], Trace]]:
    """Return what makes each trace, by name."""
    files = found_in(folder)
    known: dict[str, Callable[[], Trace]] = {
        name: functools.partial(read, path) for name, path in files.items()
    }
    known |= {f"synthetic {name}": make for name, make in SYNTHETIC.items()}
    if "corda" in files and "lirs_loop" in files:
        known |= {
            name: functools.partial(composed, files, loops) for name, loops in COMPOSED.items()
        }
    return known


COMPOSED = {"mixed": 1, "stress": 5}
"""Recency alone, then so many times a loop, then recency again: a policy has to change twice."""


def composed(files: Mapping[str, Path], loops: int) -> Trace:
    corda, loop = read(files["corda"]), read(files["lirs_loop"])
    elsewhere = [10**9 + key for key in loop]
    return [*corda, *elsewhere * loops, *corda]


def mean(found: Sequence[Line], cache: str) -> float:
    return sum(line.ratios[cache] for line in found) / len(found)


def table(found: Sequence[Line], caches: Sequence[str]) -> str:
    header = ["trace @ entries", "optimum", *caches]
    rows = [
        [f"{line.trace} @ {line.size:,}", f"{line.optimum:.1f}"]
        + [f"{line.ratios[cache]:.1f}" for cache in caches]
        for line in found
    ]
    best = sum(line.optimum for line in found) / len(found)
    rows.append(["**mean**", f"{best:.1f}", *(f"**{mean(found, cache):.1f}**" for cache in caches)])
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


def main() -> int:
    options = arguments()
    if not found_in(options.folder):
        print(f"There are no traces in {options.folder}: the synthetic ones alone.\n")
    found: list[Line] = []
    for one in lines(options):
        found.append(one)
        if not options.markdown:
            shown = "  ".join(f"{name} {value:.1f}" for name, value in one.ratios.items())
            print(f"{one.trace} @ {one.size}: optimum {one.optimum:.1f}  {shown}", flush=True)
    print(f"\n{table(found, options.caches)}\n")
    best = Counter(max(one.ratios, key=one.ratios.__getitem__) for one in found)
    print("best of all, in so many lines: " + ", ".join(f"{n} {c}" for n, c in best.most_common()))
    if not options.ratios_only:
        print(f"\n{costs(quick=options.quick)}")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hit_ratio")
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=FOLDER, help="of NAME.u32.xz files")
    add("--traces", type=Path, dest="named", metavar="FOLDER", help="the same")
    add("--sizes", type=int, nargs="+", metavar="N", help="entries; else 1 and 10 %% of the keys")
    add("--at", nargs="+", metavar="TRACE@N", help="only these settings, of whole traces")
    add("--caches", nargs="+", choices=CACHES, default=list(CACHES), metavar="NAME")
    add("--longest", type=int, default=LONGEST, metavar="N", help="requests of each trace")
    add("--markdown", action="store_true", help="the tables alone, for the README")
    add("--ratios-only", action="store_true", help="no times and sizes")
    add("--quick", action="store_true", help="less exact times, and sizes at fewer entries")
    options = parser.parse_args()
    options.folder = options.named or options.folder
    return options


if __name__ == "__main__":
    sys.exit(main())

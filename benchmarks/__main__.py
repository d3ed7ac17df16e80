"""``python -m benchmarks [--quick] [names…]``: measure, and print a table."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from .harness import Benchmark, Row, Scale
from .table import HEADER, as_json, as_markdown, as_text, cells, machine

FAMILIES = (
    "memory", "redis", "memcached", "postgres", "sqlite", "stampede", "commands", "keys", "imports",
    "packing",
)  # fmt: skip


def main() -> int:
    options = arguments()
    rows: list[Row] = []
    started = time.monotonic()
    where = machine()
    say(options.markdown, *(f"{name}: {fact}" for name, fact in where.items()), "", as_text(HEADER))
    for benchmark in chosen(options.names):
        for row in benchmark.rows(Scale.of(quick=options.quick)):
            rows.append(row)
            say(options.markdown, as_text(cells(row)))
    say(options.markdown, summary(rows, time.monotonic() - started))
    if options.markdown:
        print("\n".join(f"* {name}: {fact}" for name, fact in where.items()))
        print(f"\n{as_markdown(rows)}")
    if options.json:
        results = {"machine": where, "rows": as_json(rows)}
        options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return 1 if any(row.error for row in rows) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--quick", action="store_true", help="less than a minute, less exact")
    parser.add_argument("--markdown", action="store_true", help="print a table for the README")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    options = parser.parse_args()
    unknown = set(options.names) - set(FAMILIES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; choose of {', '.join(FAMILIES)}")
    return options


def chosen(names: list[str]) -> Iterator[Benchmark]:
    for name in names or FAMILIES:
        yield from benchmarks_of(name)


def benchmarks_of(family: str) -> list[Benchmark]:
    """Return those of one module; if it cannot be imported, one that says so."""
    try:
        found: list[Benchmark] = import_module(f".{family}", __package__).BENCHMARKS
    except ImportError as error:
        return [Benchmark(family, failing(error))]
    gc.collect()
    gc.freeze()  # what libraries made when they were imported is no work of any measurement
    return found


def failing(error: ImportError) -> Callable[[Scale], list[Row]]:
    def run(_: Scale) -> list[Row]:
        raise error

    return run


def summary(rows: list[Row], seconds: float) -> str:
    wanted = [row for row in rows if row.target is not None]
    reached = sum(row.is_reached is True for row in wanted)
    failed = sum(bool(row.error) for row in rows)
    return (
        f"\n{reached} of {len(wanted)} targets reached, {failed} benchmarks failed, "
        f"in {seconds:.0f} s"
    )


def say(aside: bool, *lines: str) -> None:
    """Print at once; aside, on standard error, when standard output is for a file."""
    for line in lines:
        print(line, file=sys.stderr if aside else sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())

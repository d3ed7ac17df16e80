"""Rows as text, as Markdown and as JSON, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .harness import Row

__all__ = ["HEADER", "as_json", "as_markdown", "as_text", "cells", "machine"]

HEADER = ("work", "what", "against", "measured", "quartiles", "per operation", "target", "reached")
WIDTHS = (58, 31, 26, 16, 15, 17, 7, 7)
LIBRARIES = (
    "aiocache", "aiomcache", "aiosqlite", "async-lru", "cachebox", "cachetools", "cashews",
    "diskcache", "dogpile.cache", "hiredis", "ormsgpack", "redis", "theine",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """Return what stands in each column."""
    if row.measured is None:
        return (row.work, row.subject, row.against, row.error, "", "", "", "FAILED")
    middle, low, high = row.measured
    digits = "g" if not row.unit else ".3f" if high < 10 else ".1f"
    return (
        row.work,
        row.subject,
        row.against,
        f"{middle:{digits}} {row.unit}".rstrip(),
        "" if low == high else f"{low:{digits}} – {high:{digits}}",
        " / ".join(map(seconds, row.seconds or ())),
        "" if row.target is None else str(row.target),
        {None: "", True: "yes", False: "NO"}[row.is_reached],
    )


def seconds(value: float) -> str:
    """Return a duration with a fitting unit.

    >>> seconds(0.0000012)
    '1.20 µs'
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return (
                f"{value / size:.3g} {unit}" if value >= 10 * size else f"{value / size:.2f} {unit}"
            )
    return f"{value / 1e-9:.0f} ns"


def as_text(columns: Sequence[str]) -> str:
    pairs = zip(columns, WIDTHS, strict=True)
    return "  ".join(f"{text:<{width}}" for text, width in pairs).rstrip()


def as_markdown(rows: Sequence[Row]) -> str:
    lines = [HEADER, ("---",) * len(HEADER), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {**asdict(row), "target": str(row.target or ""), "reached": row.is_reached} for row in rows
    ]


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "servers": f"{output('redis-server', '--version')}; {output('memcached', '--version')}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "load of the machine at the start": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    facts = dict[str, str]()
    for line in info.read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    known = ("cpu family", "model", "stepping")
    return f"{name} ({', '.join(f'{k} {facts[k]}' for k in known if k in facts)})"


def output(*command: str) -> str:
    try:
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except OSError:
        return f"{command[0]} is not installed"
    return " ".join(text.split()[:3]).removesuffix(" Redis")

"""Lookups: many names in one statement."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from gecaso.entry import Entry

from ._sqlite_files import Files
from ._sqlite_schema import Link
from ._sqlite_work import Holder, Unpack

__all__ = ["entries", "holders"]

# How many names a statement has room for; the rest of it is filled up with NULL.
SIZES: Final = tuple(1 << power for power in range(10))
TRIES: Final = 20  # to find a file that is replaced again and again while we look


def _many(sql: str) -> Mapping[int, str]:
    return {size: sql.format(", ".join("?" * size)) for size in SIZES}


ENTRIES: Final = _many("SELECT name, data, file FROM entries WHERE name IN ({})")
HOLDERS: Final = _many("SELECT name, token, CAST(until AS REAL) FROM leases WHERE name IN ({})")


def entries(
    link: Link, names: Collection[bytes], files: Files, unpack: Unpack, now: float
) -> dict[bytes, Entry]:
    """Return the entries that are there, live and readable."""
    link.recent.check()
    rows = link.recent.rows
    known: list[tuple[bytes, bytes | memoryview]]
    known = [(name, rows[name]) for name in names if name in rows]
    if len(known) < len(names):
        known += _read(link, [name for name in names if name not in rows], files)
    found: dict[bytes, Entry] = {}
    for name, data in known:
        entry = unpack(name, data)
        if entry is not None and now < entry.dead_after:
            found[name] = entry
    return found


def _read(
    link: Link, names: Collection[bytes], files: Files
) -> Iterator[tuple[bytes, bytes | memoryview]]:
    missed: dict[bytes, str] = {}
    for _ in range(TRIES):
        gone: dict[bytes, str] = {}
        for name, data, file in _select(link, ENTRIES, names):
            if file is None:
                link.recent.keep(name, data)
                yield name, data
            elif (view := files.map(file)) is not None:
                yield name, view
            elif missed.get(name) != file:  # else it has not been replaced: it is lost
                gone[name] = file
        if not gone:
            return
        names = missed = gone


def holders(link: Link, names: Collection[bytes]) -> dict[bytes, Holder]:
    """Return who has the leases of these names."""
    return {name: Holder(token, until) for name, token, until in _select(link, HOLDERS, names)}


def _select(link: Link, statements: Mapping[int, str], names: Collection[bytes]) -> list[Any]:
    most = SIZES[-1]
    if len(names) > most:
        rest = iter(names)
        parts: Iterable[list[bytes]] = iter(lambda: list(islice(rest, most)), [])
        return [row for part in parts for row in _select(link, statements, part)]
    size = 1 << (len(names) - 1).bit_length() if names else 1
    filled = (*names, *(None,) * (size - len(names)))
    return link.db.execute(statements[size], filled).fetchall()

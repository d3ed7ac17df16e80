"""A history as a table: time runs downwards, one column for each actor."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Iterable, Sequence
from math import inf

from gecaso.testing.records import Operation

__all__ = ["timeline"]

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def timeline(operations: Iterable[Operation]) -> str:
    """Return the beginnings and ends of operations, in order, below the names of their actors."""
    operations = list(operations)
    names_keys = len({repr(one.key) for one in operations}) > 1
    ended = [one for one in operations if one.end != inf and one.kind != "initial"]
    ends = [(one.end, one, _end(one)) for one in ended]
    begins = [(one.begin, one, _begin(one, names_keys)) for one in operations]
    events = sorted(begins + ends, key=lambda event: event[0])
    actors = list(dict.fromkeys(one.actor for _, one, _ in events))
    rows: list[list[str]] = [["#", *actors]]
    for at, one, text in events:
        cells = [""] * len(actors)
        cells[actors.index(one.actor)] = text
        rows.append([f"{at:g}", *cells])
    return "\n".join(_aligned(rows))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    for number, *cells in rows:
        texts = [cell.ljust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        yield f"{number:>{max(widths[0], 3)}}   {'   '.join(texts)}".rstrip()


def _begin(one: Operation, names_key: bool) -> str:
    if one.kind == "initial":
        return f"initially: {_repr.repr(one.value)}"
    key = f" of {_repr.repr(one.key)}" if names_key else ""
    value = f": {_repr.repr(one.value)}" if one.kind in ("put", "change") else ""
    return f"{one.kind}{key} begins{value}"


def _end(one: Operation) -> str:
    if one.is_miss:
        return f"{one.kind} ends: a miss"
    if one.outcome == "failed":
        return f"{one.kind} fails: {_repr.repr(one.error)}"
    value = f": {_repr.repr(one.value)}" if one.kind in ("read", "load") else ""
    return f"{one.kind} ends{value}"

"""A fair estimate of the memory that a value takes."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["weigh"]

MOST = 10_000  # objects looked at; what is larger is estimated from these


def weigh(value: Any) -> int:
    """Return about how many bytes a value takes, with the containers and attributes in it.

    What is met twice counts once. Stops after 10,000 objects and extrapolates no further.

    >>> weigh(b"x" * 1000) > 1000
    True
    """
    total = 0
    seen: set[int] = set()
    waiting: list[Any] = [value]
    while waiting and len(seen) < MOST:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing, 64)
        waiting.extend(_parts(thing))
    return total


def _parts(thing: Any) -> list[Any]:
    if isinstance(thing, (str, bytes, bytearray, int, float, type)):
        return []
    parts: list[Any] = []
    if isinstance(thing, dict):
        for key, value in thing.items():
            parts += (key, value)
    elif isinstance(thing, (list, tuple, set, frozenset)):
        parts.extend(thing)
    parts.extend(getattr(thing, "__dict__", {}).values())
    for cls in type(thing).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name) and name not in ("__dict__", "__weakref__"):
                parts.append(getattr(thing, name))
    return parts

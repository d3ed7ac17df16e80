"""A fair estimate of the memory that a value takes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
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
    whole: Any = thing  # `isinstance` would narrow `thing` to a container of unknown things
    parts: list[Any] = []
    if isinstance(thing, dict):
        parts.extend(whole.keys())
        parts.extend(whole.values())
    elif isinstance(thing, (list, tuple, set, frozenset)):
        parts.extend(whole)
    parts.extend(getattr(whole, "__dict__", {}).values())
    for cls in type(whole).__mro__:
        slots: str | Iterable[str] = cls.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        parts.extend(getattr(whole, name) for name in names if _is_set(whole, name))
    return parts


def _is_set(thing: Any, slot: str) -> bool:
    return slot not in ("__dict__", "__weakref__") and hasattr(thing, slot)

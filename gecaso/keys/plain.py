"""Plain data, lists and dicts of text and numbers: encoded by ormsgpack, ten times as fast."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from typing import Any, Final

__all__ = ["pack_plain"]

_SCALARS: Final[frozenset[type]] = frozenset({int, str, float, bool, type(None)})
_PLAIN: Final[frozenset[type]] = _SCALARS | {list, dict}
_TEXT: Final[frozenset[type]] = frozenset({str})

# NaN has many bit patterns. This finds them all, and now and then something else.
_NAN: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


def _import_and_pack(value: Any, *, option: int | None) -> bytes:
    global _packb, _sort_keys
    from ormsgpack import OPT_SORT_KEYS, packb  # keys of numbers and texts alone never need it

    _sort_keys = OPT_SORT_KEYS  # first: other threads use it as soon as the other is there
    _packb = packb
    return _packb(value, option=_sort_keys)


_packb: Callable[..., bytes] = _import_and_pack
_sort_keys: int | None = None


def pack_plain(value: Any, depth: int) -> bytes | None:
    """Return ``value`` as MessagePack with sorted keys, or None if it is not plain.

    Plain is a tree of exact `list` and `dict`, the outermost also `tuple`, with exact `str` as
    keys, of exact `str`, `bool`, `float` but NaN, None, and `int` of 64 bits, ``depth`` levels
    deep at most. What is plain, and the bytes for it, depend on the value alone; a tuple and a
    list of the same items have the same bytes.
    """
    if type(value) is tuple:  # the outermost only: the arguments of a call
        value = [*value]
    elif type(value) is not list and type(value) is not dict:
        return None
    try:
        packed = _packb(value, option=_sort_keys)
    except TypeError:  # other types, larger integers, lone surrogates, a circle
        return None
    # ormsgpack writes more types than these, some of them alike.
    kinds = _kinds([value], depth)
    if not kinds <= _PLAIN or (float in kinds and _NAN.search(packed)):
        return None
    return packed


def _kinds(level: list[Any], depth: int) -> set[type]:
    """Return the types in ``level`` and below, with `object` among them if it is not plain."""
    kinds: set[type] = set()
    # Level by level, not item by item: what is done here is done by loops written in C.
    while level:
        found = set(map(type, level))
        kinds |= found
        if depth < 0 or not found <= _PLAIN:
            return {object}
        level = _next_level(level, found)
        depth -= 1
    return kinds


def _next_level(level: list[Any], kinds: set[type]) -> list[Any]:
    inner: list[Any] = []
    if list in kinds:
        lists: list[Any] = (
            level if len(kinds) == 1 else [item for item in level if type(item) is list]
        )
        inner.extend(chain.from_iterable(lists))
    if dict in kinds:
        dicts: list[Any] = (
            level if len(kinds) == 1 else [item for item in level if type(item) is dict]
        )
        if not set(map(type, chain.from_iterable(dicts))) <= _TEXT:
            return [object]
        inner.extend(chain.from_iterable([item.values() for item in dicts]))
    return inner

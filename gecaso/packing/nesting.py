"""How deeply lists, maps and forms are nested in msgpack, found out without building them.

A msgpack reader needs stack for each level, and starts to count anew inside every extension: some
bytes from outside could exhaust the stack, which no ``except`` catches. So what is several
extensions deep is measured before it is read.
"""

from __future__ import annotations

from collections.abc import Container

__all__ = ["is_deeper_than"]

# What starts a list, a map or an extension.
_OPENERS = bytes([*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)])

# The bytes that a leaf takes after its first byte, where the first byte alone says it.
_FIXED = {0xCA: 4, 0xCB: 8} | dict(zip(range(0xCC, 0xD4), (1, 2, 4, 8) * 2, strict=True))
# The bytes that the length takes, where a length follows the first byte.
_BYTES = dict(zip((0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB), (1, 2, 4) * 2, strict=True))
_LISTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
_EXTS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def is_deeper_than(limit: int, data: bytes, nested: Container[int]) -> bool:
    """Return whether msgpack ``data`` holds more than ``limit`` containers inside each other.

    Extensions whose tag is in ``nested`` are containers too. Damaged data gives any answer.

    >>> is_deeper_than(3, bytes.fromhex("91919101"), nested=())
    False
    >>> is_deeper_than(2, bytes.fromhex("91919101"), nested=())
    True
    """
    if len(data) - len(data.translate(None, _OPENERS)) <= limit:
        return False
    # Of each container that is open: how many values are to come, and where an extension ends.
    at, to_come, ends = 0, [1], [len(data)]
    while at < len(data):
        if not to_come[-1]:
            to_come.pop()
            end = ends.pop() or at
            if at > end or not to_come:
                return False  # all is read, or a reader would stop here: a value beyond its bounds
            at = end  # a reader does not look at what follows the value in an extension
            continue
        to_come[-1] -= 1
        at, items, end = _token(data, at, nested)
        if items:
            to_come.append(items)
            ends.append(end)
            if len(to_come) > limit + 1:
                return True
    return False


def _token(data: bytes, at: int, nested: Container[int]) -> tuple[int, int, int]:
    """Return where the token at ``at`` ends, how many values in it follow, and where they end."""
    first = data[at]
    at += 1
    if first < 0x80 or first >= 0xE0 or 0xC0 <= first <= 0xC3:
        return at, 0, 0
    if first < 0xA0:
        return at, (first & 15) * (2 if first < 0x90 else 1), 0
    if first < 0xC0:
        return at + (first & 31), 0, 0
    if first in _FIXED:
        return at + _FIXED[first], 0, 0
    if first in _BYTES:
        size = _BYTES[first]
        return at + size + _number(data, at, size), 0, 0
    if first in _LISTS:
        size, each = _LISTS[first]
        return at + size, _number(data, at, size) * each, 0
    return _extension(data, at, first, nested)


def _extension(data: bytes, at: int, first: int, nested: Container[int]) -> tuple[int, int, int]:
    if first in _FIXED_EXTS:
        length = _FIXED_EXTS[first]
    else:
        length = _number(data, at, _EXTS[first])
        at += _EXTS[first]
    inside = data[at : at + 1]
    if inside and inside[0] in nested:
        return at + 1, 1, at + 1 + length
    return at + 1 + length, 0, 0


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")

"""How often keys were asked for of late, in one byte each, more or less."""

from __future__ import annotations

__all__ = ["Sketch"]

WIDTH = 16
"""Counters for each entry: fewer make too many keys share one."""
SMALL_WIDTH = 64
"""The same while it is cheap: with few counters, one collision in a loop sets off many misses."""
CHEAP = 65_536  # bytes
PERIOD = 16
"""After so many counts for each entry all counters are halved: what was popular is forgotten."""
LEAST = 1024
MOST = 255
HALVES = bytes(count >> 1 for count in range(MOST + 1))


class Sketch:
    """Counts by hash, in one row of bytes (TinyLFU: Einziger, Friedman, Manes 2017).

    ``hash`` must come from a keyed hash: who can choose colliding keys can make any key look
    popular. Grows with the number of ``entries`` it is told of, up to ``most`` if that is known.

    >>> sketch = Sketch(100)
    >>> sketch.count(7), sketch.count(7)
    (None, None)
    >>> sketch.estimate(7), sketch.estimate(8)
    (2, 0)
    """

    __slots__ = ("_counts", "_entries", "_left", "_length")

    def __init__(self, most: int | None = None) -> None:
        target = _length(most) if most is not None else LEAST
        # By doubling an odd number it comes to its full length, and what it has counted is found
        # there: a hash modulo 2n is the same modulo n. (So is what it has not; halving ends that.)
        doublings = max(0, target.bit_length() - CHEAP.bit_length())
        self._length = (target >> doublings) | 1
        self._counts = bytearray(self._length)
        self._entries = 1
        self._left = PERIOD

    def __len__(self) -> int:
        """Return the number of counters."""
        return self._length

    def count(self, hash: int) -> None:
        counts = self._counts
        spot = hash % self._length
        if (before := counts[spot]) < MOST:
            counts[spot] = before + 1
        self._left -= 1
        if self._left <= 0:
            self._counts = counts.translate(HALVES)
            self._left = PERIOD * self._entries

    def estimate(self, hash: int) -> int:
        """Return about how often a hash was counted: never too few, but for the halving."""
        return self._counts[hash % self._length]

    def is_more(self, one: int, other: int) -> bool:
        """Return whether one hash was counted more often than another."""
        counts, length = self._counts, self._length
        return counts[one % length] > counts[other % length]

    def fit(self, entries: int) -> None:
        """Be large enough for so many entries."""
        if entries <= self._entries:
            return
        self._left += PERIOD * (entries - self._entries)
        self._entries = entries
        while self._length < _length(entries) - SLACK * self._length:
            self._counts = self._counts * 2
            self._length *= 2


SLACK = 1 / 512  # the odd number at the start is a little too small or too large


def _length(entries: int) -> int:
    return max(WIDTH * entries, min(SMALL_WIDTH * entries, CHEAP))

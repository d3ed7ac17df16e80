"""Which server keeps a key: rendezvous hashing, looked up in a table.

Every server has a score for every key, and the highest wins (Thaler and Ravishankar, *A Name-Based
Mapping Scheme for Rendezvous*, 1996): so a server that leaves takes its own keys along and moves no
others. Scoring every server for every key would cost the more the more servers there are; here the
keys fall into a fixed number of slots, and who wins a slot is worked out once for each pool.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import shake_256
from typing import Final
from zlib import crc32

__all__ = ["SLOTS", "Ring", "slot_of"]

SLOTS: Final = 1 << 13
"""Enough that the share of one of ten servers is 10 % give or take 0.3 %."""


def slot_of(key: bytes) -> int:
    """Return the slot that a key falls into: the same in every process."""
    return crc32(key) & (SLOTS - 1)


class Ring:
    """The servers of a pool, by name, and which of them has which key.

    Names are all that counts: not their order, not the addresses behind them.

    >>> ring = Ring(["a:11211", "b:11211", "c:11211"])
    >>> ring.owner(b"user:7") == Ring(["c:11211", "b:11211", "a:11211"]).owner(b"user:7")
    True
    """

    __slots__ = ("names", "owners")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(sorted(set(names)))
        if not self.names:
            raise ValueError("a ring has one name at least")
        self.owners: list[str] = _winners(self.names)
        """The name that has each slot."""

    def __repr__(self) -> str:
        return f"<Ring of {', '.join(self.names)}>"

    def owner(self, key: bytes) -> str:
        """Return the name of the server that keeps the key."""
        return self.owners[crc32(key) & (SLOTS - 1)]


def _winners(names: tuple[str, ...]) -> list[str]:
    if len(names) == 1:
        return list(names * SLOTS)
    # The sum of a name's bytes stretched to a number of 64 bits for each slot.
    rows = [_scores(name) for name in names]
    best, winners = list(rows[0]), [names[0]] * SLOTS
    for name, row in zip(names[1:], rows[1:], strict=True):
        for slot, score in enumerate(row):
            if score > best[slot]:
                best[slot], winners[slot] = score, name
    return winners


def _scores(name: str) -> array[int]:
    scores = array("Q", shake_256(name.encode("utf-8", "surrogatepass")).digest(8 * SLOTS))
    if _IS_BIG_ENDIAN:
        scores.byteswap()
    return scores


_IS_BIG_ENDIAN: Final = array("H", b"\x00\x01")[0] == 1

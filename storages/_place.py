"""Where a storage in memory keeps an entry: a place on a shelf, one shelf for each owner."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Hashable

from gecaso.entry import Entry
from gecaso.keys import Key, Owner
from gecaso.keys.digests import blake2b
from gecaso.keys.key import encoded

__all__ = ["Place", "Shelf"]

MASK = (1 << 30) - 1
"""What fits one digit of an int: less memory, and a quicker remainder."""


def _blake2b(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=4).digest(), "little")


# Python hashes bytes with SipHash (Aumasson, Bernstein 2012) and a key of the process, which
# PYTHONHASHSEED may make known; the seed at the start of the data is nobody's to know.
keyed_hash: Callable[[bytes], int] = (
    hash if sys.hash_info.algorithm.startswith("siphash") else _blake2b
)


class Place:
    """Where one entry is, and what the policy knows of it (`EvictionPolicy`).

    Outlives the entry in the lists of those who will find that it has left: ``entry`` is None then.
    """

    __slots__ = ("entry", "hash", "mark", "shelf", "typed", "weight")

    def __init__(self, entry: Entry, shelf: Shelf, typed: Hashable, weight: int = 0) -> None:
        self.entry: Entry | None = entry
        self.shelf = shelf
        self.typed = typed
        self.weight = weight
        self.hash = 0
        self.mark = 0

    def __repr__(self) -> str:
        return f"<Place of {self.typed!r}: {self.entry!r}, weight {self.weight}>"

    def __lt__(self, other: Place) -> bool:
        return False  # which of two that die at once comes first is all the same

    @property
    def hot(self) -> bool:
        """Whether it was hit since this was set to False."""
        return self.entry is not None and self.entry.hot

    @hot.setter
    def hot(self, hot: bool) -> None:
        if self.entry is not None:
            self.entry.hot = hot

    @property
    def key(self) -> Key | None:
        """The key, while its owner exists."""
        owner = self.shelf.owner()
        return None if owner is None else Key(owner, self.typed)


class Shelf:
    """The entries of one owner. ``gone(shelf)`` is called when the owner is."""

    __slots__ = ("__weakref__", "_seed", "arity", "entries", "is_bound", "number", "owner")

    def __init__(self, owner: Owner, seed: bytes, gone: Callable[[Shelf], object]) -> None:
        self.entries: dict[Hashable, Entry] = {}
        self.is_bound = False
        self.number = id(owner)
        # Keys of two owners do not share counts; those of a private one have no name to tell.
        name = os.urandom(16) if owner.private else owner.digest.encode()
        self._seed = blake2b(seed + name, digest_size=16).digest()
        me = weakref.ref(self)

        def drop(_: object) -> None:
            if (shelf := me()) is not None:
                gone(shelf)

        self.owner = weakref.ref(owner, drop)

    def hash(self, key: Key) -> int:
        """Return a hash of 30 bits that nobody can foretell without the seed."""
        typed = key.typed
        if type(typed) is int and key.owner.arity == 1:  # the same, without two calls
            return keyed_hash(self._seed + b"i%x" % typed) & MASK
        return keyed_hash(self._seed + encoded(key.owner, typed)) & MASK

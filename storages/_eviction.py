"""Who leaves when memory is full: what a policy is, and the choice of one."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol, runtime_checkable

from gecaso.errors import ConfigurationError

from ._tinylfu import TinyLFU

__all__ = ["LRU", "Evictable", "EvictionPolicy", "make_policy"]


class Evictable(Protocol):
    """What a policy sees of an entry.

    ``hash`` is a keyed hash of the key, an integer of 32 bits: nobody outside can make two keys
    collide. ``weight`` is in bytes, 0 without ``maxbytes``. ``hot`` is set by every hit and
    cleared by the policy. ``mark`` is an integer for the policy's own use, 0 at first.
    """

    @property
    def hash(self) -> int: ...
    @property
    def weight(self) -> int: ...

    hot: bool
    mark: int


@runtime_checkable
class EvictionPolicy(Protocol):
    """Who leaves when memory is full: three methods, called with the storage locked.

    A policy belongs to one storage. It keeps the items it is given until they leave, and compares
    them by identity. With one more method, ``touch(item)``, it is told of each hit as it happens,
    with the storage locked; that makes a hit about three times as dear as the flag does.
    """

    def insert(self, item: Any) -> None:
        """Take note of an item that is stored; a value that is replaced is a new item."""

    def remove(self, item: Any) -> None:
        """Forget an item that leaves, for another reason than `victim`."""

    def victim(self) -> Any:
        """Take out the item that is to leave, and return it.

        Called after `insert`, until the rest is within the bounds. To return the newest item
        means not to keep it.
        """


class LRU:
    """Exact LRU. ``on_hit(entry)`` is the C method of an ordered dict, and as cheap.

    It raises `KeyError` for an entry that is not there.
    """

    name = "lru"

    def __init__(self) -> None:
        self._items: OrderedDict[object, Any] = OrderedDict()
        self.on_hit = self._items.move_to_end

    def insert(self, item: Any) -> None:
        self._items[item.entry] = item

    def remove(self, item: Any) -> None:
        self._items.pop(item.entry, None)

    def victim(self) -> Any:
        return self._items.popitem(last=False)[1]


def make_policy(policy: object, maxsize: int | None, maxbytes: int | None) -> EvictionPolicy | None:
    """Return the policy meant by a name, or the one given; None where nothing is bounded."""
    if isinstance(policy, str):
        if policy not in ("tinylfu", "lru"):
            raise ConfigurationError(f"policy must be {_CHOICES}, not {policy!r}")
        if maxsize is maxbytes is None:
            return None
        if policy == "lru":
            return LRU()
        tinylfu: TinyLFU[Any] = TinyLFU(maxsize, maxbytes)
        return tinylfu
    if isinstance(policy, type) or not isinstance(policy, EvictionPolicy):
        raise TypeError(f"policy must be {_CHOICES}, not {policy!r}")
    if maxsize is maxbytes is None:
        raise ValueError("a policy needs a bound to keep: give maxsize= or maxbytes= with it")
    return policy


_CHOICES = "'tinylfu', 'lru', or an object with insert(item), remove(item) and victim()"

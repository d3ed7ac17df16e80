"""Exact LRU: who was used last, and who leaves for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Recency", "check_bound"]

K = TypeVar("K")


class Recency(Generic[K]):
    """Things in the order of their last use, each with a weight, within a bound.

    ``touch(thing)`` is the C method of an ordered dict: it costs what a dict lookup costs, and
    raises `KeyError` for a thing that is not there.
    """

    def __init__(self, maxsize: int | None = None, maxweight: int | None = None) -> None:
        self.maxsize = maxsize
        self.maxweight = maxweight
        self.weight = 0
        self._weights: OrderedDict[K, int] = OrderedDict()
        self.touch = self._weights.move_to_end

    def __len__(self) -> int:
        return len(self._weights)

    def __contains__(self, thing: object) -> bool:
        return thing in self._weights

    def __repr__(self) -> str:
        return f"<Recency: {len(self)} of {self.maxsize}, weight {self.weight}>"

    def add(self, thing: K, weight: int = 0) -> None:
        """Put a thing last; it must not be there."""
        self._weights[thing] = weight
        self.weight += weight

    def use(self, thing: K) -> None:
        """Put a thing last, whether it is there or not."""
        if thing in self._weights:
            self.touch(thing)
        else:
            self.add(thing)

    def things(self) -> list[K]:
        return list(self._weights)

    def discard(self, thing: K) -> None:
        weight = self._weights.pop(thing, None)
        if weight is not None:
            self.weight -= weight

    def overflow(self) -> Iterator[K]:
        """Take out the things used longest ago until the rest is within the bound."""
        while self._is_over():
            thing, weight = self._weights.popitem(last=False)
            self.weight -= weight
            yield thing

    def _is_over(self) -> bool:
        return (self.maxsize is not None and len(self._weights) > self.maxsize) or (
            self.maxweight is not None and self.weight > self.maxweight
        )

    def clear(self) -> None:
        self._weights.clear()
        self.weight = 0


def check_bound(bound: object, option: str) -> int | None:
    """Return the bound if it is None or a whole number above zero; raise otherwise."""
    if bound is None:
        return None
    if not isinstance(bound, int) or isinstance(bound, bool):
        raise TypeError(f"{option} must be a whole number or None, not {bound!r}")
    if bound <= 0:
        raise ValueError(
            f"{option} must be above zero, not {bound}; to keep nothing use a NullStorage, "
            f"to keep everything use {option}=None"
        )
    return bound

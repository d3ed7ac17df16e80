"""Which entries die next: so that they leave without being asked for, and without a thread."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import inf

from ._place import Place

__all__ = ["ExpiryQueue"]

SLACK = 64


class ExpiryQueue:
    """Entries by the time of their death.

    Holds the place of an entry, which forgets it when it leaves, so that what was removed or
    replaced is free at once; and no more than about twice as many places as there are entries.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, Place]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, place: Place, dead_after: float, live: int) -> None:
        """Take note of when an entry dies; ``live`` is the number of entries that there are."""
        heapq.heappush(self._heap, (dead_after, place))
        if len(self._heap) > 2 * live + SLACK:
            self._compact()

    def due(self, now: float, most: int) -> Iterator[Place]:
        """Take out the entries that are dead by ``now``; at most ``most`` places are looked at."""
        heap = self._heap
        while heap and heap[0][0] <= now and most > 0:
            most -= 1
            dead_after, place = heapq.heappop(heap)
            entry = place.entry
            if entry is not None and entry.dead_after <= dead_after:
                yield place

    def next(self) -> float:
        """Return when the next entry dies; infinity if none does."""
        return self._heap[0][0] if self._heap else inf

    def clear(self) -> None:
        self._heap.clear()

    def _compact(self) -> None:
        self._heap = [place for place in self._heap if _is_current(place)]
        heapq.heapify(self._heap)


def _is_current(item: tuple[float, Place]) -> bool:
    dead_after, place = item
    entry = place.entry
    return entry is not None and entry.dead_after == dead_after

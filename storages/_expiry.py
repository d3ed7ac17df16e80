"""Which entries die next: so that they leave without being asked for, and without a thread."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from math import inf

from ._place import Place

__all__ = ["ExpiryQueue"]

SLACK = 64


class ExpiryQueue:
    """Entries by the time of their death.

    Entries of one ttl die in the order in which they come: a queue is enough for them, and a heap
    takes those that die before the last of the queue. Both hold the place of an entry, which
    forgets it when it leaves, so that what was removed or replaced is free at once; and no more
    than about twice as many places as there are entries.
    """

    def __init__(self) -> None:
        self._queue: deque[Place] = deque()
        self._latest = -inf
        self._heap: list[tuple[float, Place]] = []

    def __len__(self) -> int:
        return len(self._queue) + len(self._heap)

    def add(self, place: Place, dead_after: float, live: int) -> None:
        """Take note of when an entry dies; ``live`` is the number of entries that there are."""
        if dead_after >= self._latest:
            self._latest = dead_after
            self._queue.append(place)
        else:
            heapq.heappush(self._heap, (dead_after, place))
        if len(self._queue) + len(self._heap) > 2 * live + SLACK:
            self._compact()

    def due(self, now: float, most: int) -> Iterator[Place]:
        """Take out the entries that are dead by ``now``; at most ``most`` places are looked at."""
        while most > 0 and self.next() <= now:
            most -= 1
            place = self._pop()
            if place.entry is not None:
                yield place

    def next(self) -> float:
        """Return when the next entry dies; infinity if none does."""
        queue, heap = self._queue, self._heap
        first = heap[0][0] if heap else inf
        while queue:
            entry = queue[0].entry
            if entry is not None:
                return min(first, entry.dead_after)
            queue.popleft()
        return first

    def _pop(self) -> Place:
        """Take out the place that `next` is about."""
        queue, heap = self._queue, self._heap
        entry = queue[0].entry if queue else None
        if entry is not None and not (heap and heap[0][0] < entry.dead_after):
            return queue.popleft()
        return heapq.heappop(heap)[1]

    def _compact(self) -> None:
        self._queue = deque(place for place in self._queue if place.entry is not None)
        self._heap = [one for one in self._heap if one[1].entry is not None]
        heapq.heapify(self._heap)

"""What hit ratio a memory of some size would have had: for our policy, LRU, and the optimum.

A sample of the keys, in a memory smaller by as much, has about the hit ratio of all keys in the
whole memory (SHARDS: Waldspurger, Park, Garthwaite, Ahmad, FAST 2015; of any policy: Waldspurger,
Saemundsson, Ahmad, Park, *Cache Modeling and Optimization using Miniature Simulations*, USENIX ATC
2017). A few keys with many requests may be in the sample by chance, or not; how many requests there
were in all tells by how much, and since such requests are hits at any size, they are counted as
hits (SHARDS-adj, of the same paper). Likewise a sample has somewhat more or fewer keys than its
share; how many there were in all tells that, too.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from math import inf

from gecaso.advice.reading import Trace
from gecaso.storages._tinylfu import TinyLFU

__all__ = ["Model", "lru_distances", "lru_hits", "optimum_hits", "tinylfu_hits"]


class Model:
    """The hit ratios of one trace, at sizes that are entries of the whole memory.

    >>> from gecaso.advice.reading import trace_of
    >>> model = Model(trace_of("abcabcabc"))
    >>> model.lru(2), model.lru(3), model.optimum(2)
    (0.0, 0.6666666666666666, 0.4444444444444444)
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.expected = trace.total * trace.rate
        """Requests that a sample of so many keys has on average."""
        self._lru: Sequence[int] | None = None
        self._next: array[int] | None = None

    def entries(self, size: int) -> int:
        """Return how many entries of the sample stand for ``size`` of the whole."""
        return max(1, round(size * self.trace.rate))

    def ratio(self, hits: int) -> float:
        """Return the hit ratio, from 0 to 1, of so many hits within the sample."""
        missing = self.expected - len(self.trace)
        return min(1.0, max(0.0, (hits + missing) / self.expected))

    def tinylfu(self, size: int, ttl: float = inf) -> float:
        """Return the hit ratio of ``policy="tinylfu"``, of values that live ``ttl`` seconds."""
        return self.ratio(tinylfu_hits(self.trace, self.entries(size), ttl))

    def lru(self, size: int) -> float:
        """Return the hit ratio of exact LRU."""
        if self._lru is None:
            self._lru = lru_hits(self.trace.codes)
        return self.ratio(self._lru[min(self.entries(size), len(self._lru) - 1)])

    def optimum(self, size: int) -> float:
        """Return the hit ratio of who knows what will be asked for: nobody can do better."""
        if self._next is None:
            self._next = next_uses(self.trace.codes)
        return self.ratio(optimum_hits(self.trace.codes, self._next, self.entries(size)))


# --- our policy -----------------------------------------------------------------------------------


class _Item:
    __slots__ = ("code", "hash", "hot", "mark", "stored", "weight")

    def __init__(self, code: bytes, stored: float) -> None:
        self.code = code
        self.hash = int.from_bytes(code[4:], "little")
        self.weight = 1
        self.hot = False
        self.mark = 0
        self.stored = stored


def tinylfu_hits(trace: Trace, size: int, ttl: float = inf) -> int:
    """Return the hits in a memory of ``size`` entries, each kept ``ttl`` seconds at most."""
    policy: TinyLFU[_Item] = TinyLFU(size)
    kept: dict[bytes, _Item] = {}
    if ttl < inf and trace.times is not None:
        return _mortal_hits(trace.codes, trace.times, policy, kept, size, ttl)
    hits = 0
    for code in trace.codes:
        item = kept.get(code)
        if item is not None:
            item.hot = True
            hits += 1
            continue
        item = _Item(code, 0.0)
        policy.insert(item)
        kept[code] = item
        if len(kept) > size:
            del kept[policy.victim().code]
    return hits


def _mortal_hits(
    codes: Sequence[bytes],
    times: Sequence[float],
    policy: TinyLFU[_Item],
    kept: dict[bytes, _Item],
    size: int,
    ttl: float,
) -> int:
    hits = 0
    oldest: deque[_Item] = deque()
    for code, now in zip(codes, times, strict=True):
        while oldest and now >= oldest[0].stored + ttl:
            gone = oldest.popleft()
            if kept.get(gone.code) is gone:
                del kept[gone.code]
                policy.remove(gone)
        item = kept.get(code)
        if item is not None:
            item.hot = True
            hits += 1
            continue
        item = _Item(code, now)
        policy.insert(item)
        kept[code] = item
        oldest.append(item)
        if len(kept) > size:
            del kept[policy.victim().code]
    return hits


# --- LRU ------------------------------------------------------------------------------------------


def lru_distances(codes: Sequence[bytes]) -> Iterator[int]:
    """Return for each request how many keys were asked for since the last one of its key, with it.

    0 for the first one. Mattson et al., *Evaluation techniques for storage hierarchies*, 1970; the
    counts are in a tree of sums (Fenwick 1994), so that a request takes O(log n).

    >>> list(lru_distances([b"a", b"b", b"b", b"a"]))
    [0, 0, 1, 2]
    """
    count = len(codes)
    tree = [0] * (count + 1)
    last: dict[bytes, int] = {}
    for place, code in enumerate(codes, 1):
        before = last.get(code, 0)
        last[code] = place
        if before:
            later = 0
            spot = place - 1
            while spot > 0:
                later += tree[spot]
                spot &= spot - 1
            spot = before
            while spot > 0:
                later -= tree[spot]
                spot &= spot - 1
            yield later + 1
            spot = before
            while spot <= count:
                tree[spot] -= 1
                spot += spot & -spot
        else:
            yield 0
        spot = place
        while spot <= count:
            tree[spot] += 1
            spot += spot & -spot


def lru_hits(codes: Sequence[bytes]) -> Sequence[int]:
    """Return the hits of exact LRU by size, from 0 to the number of different keys."""
    counts = array("Q", bytes(8 * (len(set(codes)) + 1)))
    for distance in lru_distances(codes):
        counts[distance] += 1
    counts[0] = 0
    for size in range(1, len(counts)):
        counts[size] += counts[size - 1]
    return counts


# --- the optimum ----------------------------------------------------------------------------------


def next_uses(codes: Sequence[bytes]) -> array[int]:
    """Return for each request the place of the next one of its key; the length where none is."""
    never = len(codes)
    after = array("Q", bytes(8 * never))
    seen: dict[bytes, int] = {}
    for place in range(never - 1, -1, -1):
        after[place] = seen.get(codes[place], never)
        seen[codes[place]] = place
    return after


def optimum_hits(codes: Sequence[bytes], after: Sequence[int], size: int) -> int:
    """Return the hits where whoever is wanted last leaves (Belady, 1966), bypassing allowed."""
    kept: set[bytes] = set()
    last: list[tuple[int, bytes]] = []
    hits = 0
    for place, code in enumerate(codes):
        hits += code in kept
        kept.add(code)
        heappush(last, (-after[place], code))
        if len(kept) > size:
            # What is first in the heap is current: an older row of a key has an earlier place, and
            # all places in it that are past belong to keys that have a newer row.
            kept.discard(heappop(last)[1])
    return hits

"""Lazy W-TinyLFU by itself, beside itself written again for clarity, and beside LRU."""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.traces import SYNTHETIC
from gecaso.storages import _sketch as sketch_module
from gecaso.storages import _tinylfu as tinylfu_module

Sketch = sketch_module.Sketch
TinyLFU = tinylfu_module.TinyLFU


class Item:
    """The least that a policy needs of an entry."""

    def __init__(self, key: int, hash: int, weight: int = 1) -> None:
        self.key = key
        self.hash = hash
        self.weight = weight
        self.hot = False
        self.mark = 0


@functools.cache
def mixed(key: int, seed: int | None) -> int:
    """Return the hash of a key; without a seed the key itself: the small ones share no counter."""
    return key if seed is None else Random(key * 1_000 + seed).getrandbits(32)


class Cache:
    """A policy with the keys that it keeps; ``ask`` returns whether it was a hit."""

    def __init__(self, size: int, seed: int | None = 1) -> None:
        self.size = size
        self.policy: Any = TinyLFU[Item](size)
        self.items: dict[int, Item] = {}
        self._seed = seed

    def ask(self, key: int) -> bool:
        item = self.items.get(key)
        if item is not None:
            item.hot = True
            return True
        item = self.items[key] = Item(key, mixed(key, self._seed))
        self.policy.insert(item)
        while len(self.items) > self.size:
            del self.items[self.policy.victim().key]
        return False


class Naive:
    """The same policy from the book: lists, a hand that is an index, exact counts."""

    def __init__(self, size: int) -> None:
        self.size, self.share = size, 0.05
        self.window: list[int] = []
        self.main: list[int] = []
        self.hand = 0
        self.hot: set[int] = set()
        self.counts: Counter[int] = Counter()
        self.counted = self.most = self.refusals = 0

    def ask(self, key: int) -> bool:
        if key in self.window or key in self.main:
            self.hot.add(key)
            return True
        while self.is_over():
            self.main.append(self.leave_window(newest=self.window[-1]))
        self.window.append(key)
        self.most = max(self.most, len(self.window) + len(self.main))
        self.count(key)
        self.share = min(0.8, self.share + 0.001 * (1 / self.size))
        if len(self.window) + len(self.main) > self.size:
            self.evict(newest=key)
        return False

    def is_over(self) -> bool:
        return len(self.window) > max(1, self.share * self.size)

    def count(self, key: int) -> None:
        self.counts[key] += 1
        self.counted += 1
        if self.counted >= 16 * self.most:
            self.counted = 0
            self.counts = Counter({key: count // 2 for key, count in self.counts.items()})

    def leave_window(self, newest: int) -> int:
        while True:
            key = self.window.pop(0)
            if key in self.hot:
                self.hot.remove(key)
                self.count(key)
                self.share = min(0.8, self.share + 0.25 * (1 - self.share) * (1 / self.size))
            elif key != newest or not self.window:
                return key
            self.window.append(key)

    def victim(self) -> int:
        while True:
            self.hand %= len(self.main)
            key = self.main[self.hand]
            if key not in self.hot:
                return key
            self.hot.remove(key)
            self.count(key)
            self.share = max(0.01, self.share - 0.5 * self.share * (1 / self.size))
            self.hand += 1

    def evict(self, newest: int) -> None:
        if self.main and not self.is_over():
            self.main.remove(self.victim())
            return
        candidate = self.leave_window(newest)
        if not self.main:
            return
        victim = self.victim()
        if self.counts[candidate] > self.counts[victim]:
            self.main.remove(victim)
            self.main.append(candidate)
        else:
            self.refusals += 1
            self.hand += self.refusals % 128 == 0


class LRU:
    """Exact LRU."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.keys: OrderedDict[int, None] = OrderedDict()

    def ask(self, key: int) -> bool:
        is_hit = key in self.keys
        self.keys[key] = None
        self.keys.move_to_end(key)
        if len(self.keys) > self.size:
            self.keys.popitem(last=False)
        return is_hit


def ratio(cache: Any, trace: Sequence[int]) -> float:
    """Return hits per cent."""
    return 100.0 * sum(1 for key in trace if cache.ask(key)) / len(trace)


# -- the same as from the book -------------------------------------------------------------------


@given(size=st.integers(1, 20), trace=st.lists(st.integers(0, 40), max_size=400))
@settings(max_examples=150)
def test_it_does_what_the_book_says_request_by_request(size: int, trace: list[int]) -> None:
    cache, naive = Cache(size, seed=None), Naive(size)
    for key in trace:
        assert cache.ask(key) == naive.ask(key)
        assert set(cache.items) == {*naive.window, *naive.main}
    assert cache.policy.share == pytest.approx(naive.share)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_it_does_what_the_book_says_on_longer_traces(name: str) -> None:
    numbers: dict[int, int] = {}
    trace = [numbers.setdefault(key, len(numbers)) for key in SYNTHETIC[name](8_000)]
    cache, naive = Cache(300, seed=None), Naive(300)
    for key in trace:
        assert cache.ask(key) == naive.ask(key)
    assert set(cache.items) == {*naive.window, *naive.main}


# -- what it keeps -------------------------------------------------------------------------------

# Hits per cent as they were when this was written, of LRU and of this policy.
GOLDEN = {
    ("zipf", 1000): (47.5, 56.6),
    ("scans", 1000): (29.6, 37.3),
    ("loop", 1000): (0.0, 62.3),
    ("shifting", 1000): (73.7, 71.2),  # eras of 20 times the capacity: a known weak spot
    ("sessions", 50): (28.8, 36.4),
    ("sessions", 200): (82.2, 79.9),
    ("sessions", 1000): (93.1, 93.0),
}


@pytest.mark.parametrize(("name", "size"), GOLDEN)
def test_hit_ratios_stay_what_they_are(name: str, size: int) -> None:
    trace = SYNTHETIC[name]()
    lru, ours = GOLDEN[name, size]
    assert ratio(LRU(size), trace) == pytest.approx(lru, abs=0.1)
    assert ratio(Cache(size), trace) == pytest.approx(ours, abs=0.7)


def test_a_scan_does_not_flush_what_is_in_use() -> None:
    cache = Cache(100)
    for _ in range(5):
        for key in range(90):
            cache.ask(key)
    for key in range(1_000, 2_000):
        cache.ask(key)
    assert sum(key in cache.items for key in range(90)) >= 85


def test_what_nobody_wants_any_more_makes_room() -> None:
    cache = Cache(100)
    for _ in range(20):
        for key in range(100):
            cache.ask(key)
    for _ in range(60):
        for key in range(1_000, 1_100):
            cache.ask(key)
    assert sum(key in cache.items for key in range(1_000, 1_100)) >= 90


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_was_just_set_is_found_in_the_smallest_caches(size: int) -> None:
    cache = Cache(size)
    random = Random(3)
    for _ in range(2_000):
        key = random.randrange(6)
        cache.ask(key)
        assert key in cache.items
        assert len(cache.items) <= size


def test_a_victim_with_a_lucky_count_does_not_bar_the_door_for_ever() -> None:
    cache = Cache(50)
    for key in range(50):
        cache.ask(key)
    for item in cache.items.values():
        for _ in range(200):
            cache.policy._sketch.count(item.hash)
    first = cache.policy._ahead[0].key
    for number in range(1_000, 1_000 + 200):
        cache.ask(number)
    assert cache.policy._ahead[0].key != first


# -- weights, and what is removed ----------------------------------------------------------------


@given(
    bound=st.integers(10, 60),
    requests=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), max_size=200),
)
def test_with_weights_the_newest_stays_and_the_rest_fits(
    bound: int, requests: list[tuple[int, int]]
) -> None:
    policy: Any = TinyLFU[Item](maxweight=bound)
    items: dict[int, Item] = {}
    for key, weight in requests:
        if key in items and weight % 2:
            items[key].hot = True
            continue
        if key in items:
            policy.remove(items.pop(key))
        items[key] = Item(key, key * 7_919, weight)
        policy.insert(items[key])
        while sum(item.weight for item in items.values()) > bound:
            victim = policy.victim()
            assert victim is not items[key] or len(items) == 1
            assert items.pop(victim.key) is victim
        assert key in items
        assert len(policy) == len(items)


def test_a_heavy_candidate_takes_on_one_victim_after_another_until_it_fits() -> None:
    policy: Any = TinyLFU[Item](maxweight=100)
    light = [Item(key, key, weight=5) for key in range(20)]
    for item in light:
        policy.insert(item)
    heavy = Item(100, 100, weight=40)
    for _ in range(50):
        policy._sketch.count(heavy.hash)
    policy.insert(heavy)
    left = [policy.victim() for _ in range(8)]
    assert heavy not in left
    policy.insert(Item(101, 101, weight=5))
    more = policy.victim()
    assert more is not heavy
    assert len({*left, more}) == 9


def lengths(policy: Any) -> int:
    return len(policy._window) + len(policy._ahead) + len(policy._behind)


def test_what_is_inserted_and_removed_leaves_nothing() -> None:
    policy: Any = TinyLFU[Item](1_000)
    stay = [Item(-key, key) for key in range(100)]
    for item in stay:
        policy.insert(item)
    size = len(policy._sketch)
    for key in range(20_000):
        item = Item(key, key)
        policy.insert(item)
        policy.remove(item)
        policy.remove(item)  # which is fine
        assert len(policy) == 100
        assert lengths(policy) <= 2 * 100 + 40
    assert len(policy._sketch) == size


def test_what_is_removed_from_main_leaves_nothing() -> None:
    cache = Cache(1_000)
    for key in range(2_000):
        cache.ask(key)
    for key in list(cache.items)[:950]:
        cache.policy.remove(cache.items.pop(key))
        assert lengths(cache.policy) <= 2 * len(cache.items) + 40
    assert len(cache.policy) == 50


@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 10))
def test_removals_in_between_lose_nobody(keys: list[int], size: int) -> None:
    cache = Cache(size)
    for number, key in enumerate(keys):
        if number % 3 == 2 and key in cache.items:
            cache.policy.remove(cache.items.pop(key))
        else:
            cache.ask(key)
            assert key in cache.items
        assert len(cache.policy) == len(cache.items) <= size
        assert lengths(cache.policy) <= 2 * len(cache.items) + 60
    for _ in range(len(cache.items)):
        del cache.items[cache.policy.victim().key]
    assert cache.items == {}
    with pytest.raises(LookupError):
        cache.policy.victim()


def test_a_policy_that_is_cleared_is_as_new() -> None:
    cache = Cache(10)
    for key in range(30):
        cache.ask(key)
    cache.policy.clear()
    assert len(cache.policy) == 0
    assert cache.policy.share == TinyLFU(10).share
    with pytest.raises(ValueError, match="give a bound"):
        TinyLFU()


# -- the sketch ----------------------------------------------------------------------------------


@given(st.integers(1, 5_000), st.lists(st.integers(0, 2**32 - 1), max_size=100))
def test_a_sketch_never_counts_too_few_while_it_grows(most: int, hashes: list[int]) -> None:
    sketch = Sketch(most)
    counts: Counter[int] = Counter()
    for number, one in enumerate(hashes):
        sketch.fit(min(most, 1 + number * 50))
        sketch.count(one)
        counts[one] += 1
        if number > 12:  # before that it has room for one entry, and is halved soon
            break
    assert all(sketch.estimate(one) >= count for one, count in counts.items())


@pytest.mark.parametrize("most", [1, 7, 100, 1_000, 4_418, 50_000, 200_000])
def test_a_sketch_has_about_16_bytes_for_each_entry_and_64_where_that_is_little(most: int) -> None:
    sketch = Sketch(most)
    sketch.fit(most)
    wanted = max(16 * most, min(64 * most, 65_536))
    assert 0.99 * wanted <= len(sketch) <= 1.01 * wanted + 2


def test_without_a_known_end_a_sketch_doubles() -> None:
    sketch = Sketch()
    for one in range(100):
        sketch.fit(1 + one)
        sketch.count(one)
    sketch.fit(100_000)
    assert 1_600_000 * 0.99 <= len(sketch) <= 2 * 1_600_000
    assert all(sketch.estimate(one) for one in range(100))
    assert sketch.estimate(2**31 + 12_345) <= 1


def test_counts_are_halved_after_16_for_each_entry() -> None:
    sketch = Sketch(10)
    sketch.fit(10)
    for _ in range(159):
        sketch.count(5)
    assert sketch.estimate(5) == 159
    sketch.count(5)
    assert sketch.estimate(5) == 80
    for _ in range(160 * 20):
        sketch.count(5)
    assert sketch.estimate(5) < 256

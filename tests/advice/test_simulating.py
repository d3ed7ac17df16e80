"""What is simulated is what happens: held against the plain definition, and a real storage."""

from __future__ import annotations

from collections import OrderedDict
from math import inf, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.traces import scans, shifting, zipf
from gecaso import MemoryStorage, cached
from gecaso.advice.form import hash_of
from gecaso.advice.reading import Trace, trace_of
from gecaso.advice.report import advise, knee_of
from gecaso.advice.simulating import Model, lru_hits, next_uses, optimum_hits, tinylfu_hits

KEYS = st.lists(st.integers(0, 8), min_size=1, max_size=60)


def plain_lru(codes: list[bytes], size: int) -> int:
    kept: OrderedDict[bytes, None] = OrderedDict()
    hits = 0
    for code in codes:
        hits += code in kept
        kept[code] = None
        kept.move_to_end(code)
        if len(kept) > size:
            kept.popitem(last=False)
    return hits


def plain_optimum(codes: list[bytes], size: int) -> int:
    kept: set[bytes] = set()
    hits = 0
    for place, code in enumerate(codes):
        hits += code in kept
        kept.add(code)
        if len(kept) > size:
            later = codes[place + 1 :]
            kept.remove(max(kept, key=lambda k: later.index(k) if k in later else inf))
    return hits


@given(KEYS)
def test_lru_of_all_sizes_at_once_is_lru_of_each_size(keys: list[int]) -> None:
    codes = trace_of(keys).codes
    assert list(lru_hits(codes))[1:] == [
        plain_lru(codes, size) for size in range(1, len(set(codes)) + 1)
    ]


@given(KEYS, st.integers(1, 6))
def test_the_optimum_is_the_one_of_belady(keys: list[int], size: int) -> None:
    codes = trace_of(keys).codes
    assert optimum_hits(codes, next_uses(codes), size) == plain_optimum(codes, size)


@given(KEYS, st.integers(1, 6))
def test_nobody_beats_the_optimum_and_long_lives_are_for_ever(keys: list[int], size: int) -> None:
    trace = trace_of(keys, times=map(float, range(len(keys))))
    hits = tinylfu_hits(trace, size)
    assert hits <= optimum_hits(trace.codes, next_uses(trace.codes), size)
    assert tinylfu_hits(trace, size, ttl=1000) == hits
    assert tinylfu_hits(trace, size, ttl=0.5) == 0


def test_our_policy_is_the_one_of_the_storage() -> None:
    keys = scans(20_000)
    storage = MemoryStorage(300)

    @cached(storage)
    def ask(key: int) -> int:
        return key

    for key in keys:
        ask(key)
    # Each storage has its own seed, and the simulation another: no two agree to the digit.
    assert Model(trace_of(keys)).tinylfu(300) == pytest.approx(ask.stats.hits / len(keys), abs=0.01)


def sample_of(full: Trace, number: int) -> Trace:
    """Return one of a hundred samples of one key in a hundred, without a key in common."""
    places = [n for n, code in enumerate(full.codes) if code[7] * 256 + code[6] < 65_500]
    places = [n for n in places if (full.codes[n][7] * 256 + full.codes[n][6]) % 100 == number]
    codes = [full.codes[n] for n in places]
    rate = len(set(codes)) / len(set(full.codes))
    return Trace(codes, 0.01, full.total, rate=rate)


def root_mean_square(numbers: list[float]) -> float:
    return sqrt(sum(number**2 for number in numbers) / len(numbers))


TRACES = {
    "zipf": lambda: zipf(200_000, keys=100_000, skew=0.9),
    "scans": lambda: scans(200_000),
    "shifting": lambda: shifting(200_000, every=6_000),
}


@pytest.mark.parametrize("name", TRACES)
def test_one_key_in_a_hundred_tells_the_hit_ratio_within_two_points(name: str) -> None:
    full = trace_of(TRACES[name]())
    keys = len(set(full.codes))
    assert keys >= 40_000
    samples = [Model(sample_of(full, number)) for number in range(8)]
    for size in (keys // 4, keys // 2):
        wanted = Model(full).tinylfu(size)
        off = [sample.tinylfu(size) - wanted for sample in samples]
        assert max(map(abs, off)) <= 0.02
    wanted = plain_lru(full.codes, keys // 4) / len(full)
    # LRU depends on runs of keys, too, of which a sample knows less.
    assert root_mean_square([sample.lru(keys // 4) - wanted for sample in samples]) <= 0.03


def test_a_popular_key_that_is_not_in_the_sample_is_counted() -> None:
    full = trace_of([key for key in range(10_000) for key in (key, -1)])
    sampled = full.only(0.02)
    assert hash_of(b"-1") not in sampled.codes
    assert Model(sampled).lru(100) == pytest.approx(0.5, abs=0.01)


def test_a_ttl_costs_what_is_asked_for_after_it() -> None:
    keys = [number % 10 for number in range(1000)]
    advice = advise(trace_of(keys, times=map(float, range(1000))), ttls=[5, 15, 10_000])
    ratios = [ratio for _, ratio in advice.ttls]
    assert ratios == [0.0, 0.5, 0.99]


@pytest.mark.parametrize(
    ("ratios", "knee"),
    [
        ([0.0, 0.7, 0.8, 0.85, 0.9], 1),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 0),
        ([0.0, 0.0, 0.0, 0.0, 0.9], 4),
        ([0.4], 0),
    ],
)
def test_the_knee_is_where_more_begins_to_bring_little(ratios: list[float], knee: int) -> None:
    assert knee_of(list(range(1, len(ratios) + 1)), ratios) == knee


def test_the_doubt_is_larger_the_fewer_keys_there_are() -> None:
    full = trace_of(zipf(60_000, keys=30_000, skew=0.7))
    assert all(point.doubt == 0 for point in advise(full, sizes=[1000]).points)
    few: Trace = full.only(0.01)
    assert advise(few, sizes=[3000]).points[0].doubt > 0

"""The whole table of what is done with what is stored."""

from __future__ import annotations

import math
import random
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecaso import Entry, XFetch
from gecaso.freshness import (
    SURE,
    Verdict,
    is_fresh,
    is_wanted,
    judge,
    quick_until,
    times_of,
)
from gecaso.policy import Policy

# Of an entry that was stored at 0: fresh until 10, revalidated until 15, kept for errors until 40.
POLICY = Policy.make(ttl=10, stale_while_revalidate=5, stale_if_error=30, refresh_after=8)
NEVER = -inf


def entry(policy: Policy = POLICY, **changes: Any) -> Entry:
    fresh_until, dead_after = times_of(policy, 10.0, 0.0, lambda: 0.0)
    made = Entry("value", 0.0, fresh_until, dead_after, cost=1.0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def verdict(now: float, policy: Policy = POLICY, **changes: Any) -> Verdict:
    retry_at, max_age = changes.pop("retry_at", NEVER), changes.pop("max_age", inf)
    return judge(
        entry(policy, **changes), policy, now, draw=lambda: 0.5, retry_at=retry_at, max_age=max_age
    )


TABLE = [
    # now, kind, retry_at, max_age, what is done
    (0.0, "value", NEVER, inf, Verdict.FRESH),
    (7.99, "value", NEVER, inf, Verdict.FRESH),
    (8.0, "value", NEVER, inf, Verdict.REFRESH),
    (8.0, "value", 9.0, inf, Verdict.FRESH),
    (9.99, "value", NEVER, inf, Verdict.REFRESH),
    (10.0, "value", NEVER, inf, Verdict.REFRESH),
    (14.99, "value", NEVER, inf, Verdict.REFRESH),
    (14.99, "value", 15.0, inf, Verdict.KEEP),
    (15.0, "value", NEVER, inf, Verdict.TRY),
    (39.99, "value", NEVER, inf, Verdict.TRY),
    (39.99, "value", 50.0, inf, Verdict.KEEP),
    (39.99, "value", 39.99, inf, Verdict.TRY),
    (40.0, "value", NEVER, inf, Verdict.LOAD),
    (40.0, "value", 50.0, inf, Verdict.LOAD),
    (5.0, "value", NEVER, 5.0, Verdict.FRESH),
    (5.0, "value", NEVER, 4.99, Verdict.LOAD),
    (20.0, "value", NEVER, 4.99, Verdict.LOAD),
    (5.0, "uncacheable", NEVER, inf, Verdict.ALONE),
    (40.0, "uncacheable", NEVER, inf, Verdict.LOAD),
    (5.0, "error", NEVER, inf, Verdict.RAISE),
    (40.0, "error", NEVER, inf, Verdict.LOAD),
]


@pytest.mark.parametrize(("now", "kind", "retry_at", "max_age", "done"), TABLE)
def test_the_table(now: float, kind: str, retry_at: float, max_age: float, done: Verdict) -> None:
    assert verdict(now, kind=kind, retry_at=retry_at, max_age=max_age) is done


def test_every_verdict_is_in_the_table() -> None:
    assert {row[-1] for row in TABLE} == set(Verdict)


def test_nothing_is_loaded() -> None:
    assert judge(None, POLICY, 0.0, draw=random.random) is Verdict.LOAD


@pytest.mark.parametrize("now", [10.0, 14.99, 15.0, 39.99])
def test_without_an_option_nothing_old_is_served(now: float) -> None:
    plain = Policy.make(ttl=10)
    assert entry(plain).dead_after == 10.0
    assert verdict(now, plain) is Verdict.LOAD
    assert verdict(now, plain, dead_after=inf) is Verdict.LOAD  # kept by another's policy


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100), st.floats(0.01, 1))
def test_nothing_is_served_after_the_windows(
    now: float, revalidate: float, on_error: float, draw: float
) -> None:
    windows = {
        "stale_while_revalidate": revalidate or None,
        "stale_if_error": on_error or None,
    }
    policy = Policy.make(ttl=10, **windows)
    done = judge(entry(policy), policy, now, draw=lambda: draw)
    assert (done is Verdict.LOAD) == (now >= 10 + max(revalidate, on_error))
    assert (done is Verdict.FRESH) == (now < 10)


def test_an_expired_value_may_be_served_where_a_load_fails() -> None:
    policy = Policy.make(ttl=10, stale_if_error=30)
    old = entry(policy)
    old.expire(3.0)
    assert judge(old, policy, 3.0, draw=random.random) is Verdict.TRY


# -- times -----------------------------------------------------------------------------------------


def test_times_without_an_end() -> None:
    assert times_of(Policy.make(), None, 5.0, random.random) == (inf, inf)


@given(st.floats(0, 0.999), st.floats(0, 1))
def test_jitter_only_shortens(jitter: float, draw: float) -> None:
    policy = Policy.make(ttl=10, jitter=jitter, stale_if_error=5)
    fresh_until, dead_after = times_of(policy, 10.0, 100.0, lambda: draw)
    assert 100.0 + 10 * (1 - jitter) - 1e-9 <= fresh_until <= 110.0
    assert dead_after == pytest.approx(fresh_until + 5)


@given(st.floats(0, 60), st.sampled_from([None, 8.0, XFetch(), XFetch(3.0)]))
def test_the_path_of_a_hit_asks_whenever_the_verdict_may_not_be_fresh(
    now: float, refresh_after: Any
) -> None:
    policy = Policy.make(ttl=10, stale_if_error=30, refresh_after=refresh_after)
    one = entry(policy)
    if now < quick_until(policy, one):
        assert judge(one, policy, now, draw=lambda: math.exp(-SURE)) is Verdict.FRESH


# -- who only looks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "max_age", "stale", "given_out"),
    [
        (9.0, inf, False, True),
        (10.0, inf, False, False),
        (10.0, inf, True, True),
        (39.9, inf, True, True),
        (40.0, inf, True, False),
        (9.0, 8.0, False, False),
        (9.0, 8.0, True, False),
    ],
)
def test_who_only_looks_is_given_old_values_if_he_asks(
    now: float, max_age: float, stale: bool, given_out: bool
) -> None:
    assert is_wanted(entry(), now, max_age, stale) is given_out
    assert not is_wanted(entry(kind="error"), now, max_age, stale)


def test_nothing_is_not_fresh() -> None:
    assert not is_fresh(None, 0.0)


# -- XFetch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 2.0, 4.0])
def test_xfetch_loads_as_often_as_its_paper_says(beta: float) -> None:
    """Many callers that do not know of each other: e**(1/β) loads for each end of a ttl."""
    source = random.Random(20261121)
    policy = Policy.make(ttl=1000, refresh_after=XFetch(beta))
    loads = [loads_of_one_expiry(policy, source, beta) for _ in range(1000)]
    assert sum(loads) / len(loads) == pytest.approx(math.exp(1 / beta), rel=0.1)


def loads_of_one_expiry(policy: Policy, source: random.Random, beta: float) -> int:
    """Return how many loads begin before the first of them is over; each takes 1 s."""
    old = Entry("old", 0.0, 1000.0, 1000.0, cost=1.0)
    loads, done, now = 0, inf, 1000.0 - 8 * beta
    while now < done:
        now += 1 / 50
        if judge(old, policy, now, draw=source.random) is not Verdict.FRESH:
            loads += 1
            done = min(done, now + 1.0)
    return loads


@pytest.mark.parametrize("rate", [10, 100])
def test_hardly_anybody_waits_where_xfetch_is_asked_often(rate: int) -> None:
    """A caller waits if no refresh began a load time before the end: once in e**(rate / e)."""
    source = random.Random(7)
    policy = Policy.make(ttl=1000, refresh_after=XFetch())
    runs, late = 400, 0
    for _ in range(runs):
        old, now = Entry("old", 0.0, 1000.0, 1000.0, cost=1.0), 988.0
        while judge(old, policy, now, draw=source.random) is Verdict.FRESH:
            now += 1 / rate
        late += now > 999.0
    expected = math.exp(-rate / math.e)
    assert late / runs <= expected + 3 * math.sqrt(expected / runs)


@pytest.mark.parametrize("beta", [0, -1, inf, math.nan])
def test_beta_is_above_zero(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        XFetch(beta)

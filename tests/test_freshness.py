"""What to do with an entry that was found."""

from __future__ import annotations

from math import inf

import pytest

from gecaso.entry import Entry, Kind
from gecaso.freshness import Verdict, judge


def test_nothing_is_loaded() -> None:
    assert judge(None, 0.0) is Verdict.LOAD


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (0.0, Verdict.FRESH),
        (9.99, Verdict.FRESH),
        (10.0, Verdict.LOAD),  # the ttl is a limit
        (19.0, Verdict.LOAD),
        (20.0, Verdict.LOAD),
    ],
)
def test_a_value_is_fresh_until_its_time(now: float, verdict: Verdict) -> None:
    assert judge(Entry("v", 0.0, 10.0, 20.0), now) is verdict


def test_a_value_without_a_time_is_fresh_for_ever() -> None:
    assert judge(Entry(None, 0.0), 1e300) is Verdict.FRESH


@pytest.mark.parametrize(("now", "verdict"), [(0.0, Verdict.ALONE), (1.0, Verdict.LOAD)])
def test_a_mark_lets_callers_load_alone_while_it_lives(now: float, verdict: Verdict) -> None:
    kind: Kind = "uncacheable"
    assert judge(Entry(None, 0.0, -inf, 1.0, kind=kind), now) is verdict


def test_a_dead_entry_is_no_entry_even_if_it_says_it_is_fresh() -> None:
    assert judge(Entry("v", 0.0, 10.0, 5.0), 6.0) is Verdict.LOAD

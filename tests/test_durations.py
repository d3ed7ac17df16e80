"""Lengths of time as users write them."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecaso.durations import seconds


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (60, 60.0),
        (0.25, 0.25),
        (timedelta(hours=1, milliseconds=1), 3600.001),
        ("250ms", 0.25),
        ("90s", 90.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("2w", 1209600.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (" 5M ", 300.0),
        ("1m500ms", 60.5),
        (math.inf, math.inf),
    ],
)
def test_a_duration_is_seconds_a_timedelta_or_text(written: Any, meant: float) -> None:
    result = seconds(written)
    assert type(result) is float
    assert result == pytest.approx(meant)


@pytest.mark.parametrize("written", ["5", "m", "5 m", "-5m", "5m!", "5y", "1e3s", "s5", "", "m5s"])
def test_other_text_is_refused_with_an_example(written: str) -> None:
    with pytest.raises(ValueError, match='lease_seconds must look like "90s", "5m" or "1h30m"'):
        seconds(written, option="lease_seconds")


@pytest.mark.parametrize("written", [0, -1, -0.0, math.nan, -math.inf, timedelta(seconds=-1), "0m"])
def test_what_is_not_above_zero_is_refused_with_the_ways_out(written: Any) -> None:
    with pytest.raises(ValueError, match=r"ttl must be above zero.*ttl=None.*NullStorage"):
        seconds(written)
    with pytest.raises(ValueError, match=r"^wait must be above zero, not [^;]*$"):
        seconds(written, option="wait")


@pytest.mark.parametrize("written", [True, None, [], b"5m", 1j])
def test_what_is_no_duration_is_refused(written: Any) -> None:
    with pytest.raises(TypeError, match="ttl must be seconds, a timedelta or text such as '5m'"):
        seconds(written)


@given(st.timedeltas(min_value=timedelta(microseconds=1)))
def test_text_says_the_same_as_a_timedelta(duration: timedelta) -> None:
    text = f"{duration.days}d{duration.seconds}s{duration.microseconds / 1000:.3f}ms"
    assert seconds(text) == pytest.approx(seconds(duration))

"""The clock of tests."""

from __future__ import annotations

from datetime import timedelta
from math import inf, nan

import pytest

from gecaso import LRUStorage, MemoryStorage, cached
from gecaso.durations import Duration
from gecaso.testing import FakeClock


def test_it_stands_still_until_it_is_told_to_go_on() -> None:
    clock = FakeClock(5.0)
    assert (clock(), clock(), clock.now) == (5.0, 5.0, 5.0)
    clock.advance(1.5)
    assert (clock(), clock.now) == (6.5, 6.5)
    assert repr(clock) == "<FakeClock at 6.500>"


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [(0, 0), (2, 2), (0.5, 0.5), (timedelta(minutes=1), 60), ("5m", 300), ("1h30m", 5400)],
)
def test_it_advances_by_every_kind_of_duration(duration: Duration, seconds: float) -> None:
    clock = FakeClock(100.0)
    clock.advance(duration)
    assert clock.now == 100 + seconds


@pytest.mark.parametrize("duration", [-1, -0.001, timedelta(seconds=-1), nan, inf])
def test_it_does_not_advance_backwards_or_for_ever(duration: Duration) -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match=r"use jump\(\)"):
        clock.advance(duration)
    assert clock.now == 1000.0


@pytest.mark.parametrize(
    ("duration", "now"), [(-3600, -2600.0), (timedelta(hours=-1), -2600.0), ("1h", 4600.0)]
)
def test_it_jumps_both_ways(duration: Duration, now: float) -> None:
    clock = FakeClock()
    clock.jump(duration)
    assert clock.now == now


@pytest.mark.parametrize("duration", [inf, -inf, nan])
def test_it_does_not_jump_to_no_time_at_all(duration: float) -> None:
    with pytest.raises(ValueError, match="cannot jump"):
        FakeClock().jump(duration)


@pytest.mark.parametrize("bounded", [False, True])
async def test_the_entries_of_a_storage_die_by_it(bounded: bool) -> None:
    clock = FakeClock()
    memory = MemoryStorage(clock=clock)
    loads: list[int] = []

    @cached(LRUStorage(memory) if bounded else memory, ttl=60)
    async def double(x: int) -> int:
        loads.append(x)
        return 2 * x

    assert [await double(2), await double(2)] == [4, 4]
    clock.advance(59.9)
    assert (await double(2), loads) == (4, [2])
    clock.advance(0.1)
    assert (await double(2), loads) == (4, [2, 2])

"""Schedules as text, strategies, and how a failing schedule becomes a short one."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecaso.testing import VirtualLoop, explore
from gecaso.testing.schedules import AtRandom, Preemptions, Replay, parse, text
from gecaso.testing.shrinking import shrink

choices = st.lists(st.integers(0, 9), max_size=60)


@given(choices)
def test_a_schedule_is_read_as_it_was_written(made: list[int]) -> None:
    while made and not made[-1]:
        made.pop()
    assert parse(text(made)) == (made or [0])


@pytest.mark.parametrize("wrong", ["", "a", "1..2", "1*", "-1", "1.x*3", "1*x"])
def test_another_text_is_refused(wrong: str) -> None:
    if wrong == "1*":
        assert parse(wrong) == [1]  # no number of times: once
        return
    with pytest.raises(ValueError, match="not a schedule"):
        parse(wrong)


@given(choices, st.integers(0, 9), st.integers(1, 9))
def test_shrinking_keeps_what_fails_and_nothing_else(
    made: list[int], least: int, value: int
) -> None:
    def fails(tried: list[int]) -> list[int] | None:
        return tried if sum(1 for choice in tried if choice >= value) >= least else None

    if fails(made) is None:
        return
    assert shrink(made, fails, lambda: True) == [value] * least


def test_shrinking_ends_with_its_budget() -> None:
    left = 10

    def budget() -> bool:
        nonlocal left
        left -= 1
        return left > 0

    made = [3] * 40
    assert shrink(made, lambda tried: tried if tried == made else None, budget) == made
    assert left <= 0


def test_choices_that_are_not_possible_are_none() -> None:
    replay = Replay([1, 5, 2])
    assert [replay.draw(3) for _ in range(4)] == [1, 0, 2, 0]


async def three() -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        order.append(number)
        await asyncio.sleep(0)
        order.append(number)

    await asyncio.gather(*map(work, range(3)))
    orders.add(tuple(order))


orders: set[tuple[int, ...]] = set()


@pytest.mark.parametrize(
    ("strategy", "least"), [("random", 90), ("mixed", 85), ("pct", 40), ("preemption", 40)]
)
def test_strategies_come_to_many_orders_of_90(strategy: str, least: int) -> None:
    orders.clear()
    explore(three, schedules=1500, strategy=strategy)
    assert least <= len(orders) <= 90  # 6! / (2! 2! 2!)


def test_a_loop_by_itself_runs_first_come_first_served() -> None:
    orders.clear()
    loop = VirtualLoop()
    loop.run_until_complete(three())
    loop.close()
    assert orders == {(0, 1, 2, 0, 1, 2)}


def test_preemptions_are_few_and_come_to_every_option() -> None:
    picked: set[int] = set()
    for seed in range(100):
        chooser = Preemptions(Random(seed), 20)
        picks = [chooser.pick([], 4) for _ in range(20)]
        assert 1 <= sum(1 for pick in picks if pick) <= 5
        picked.update(picks)
    assert picked == {0, 1, 2, 3}


def test_at_random_means_evenly() -> None:
    chooser = AtRandom(Random(0))
    drawn = [chooser.draw(4) for _ in range(4000)]
    assert {number for number in range(4) if drawn.count(number) > 900} == {0, 1, 2, 3}


# -- clocks --------------------------------------------------------------------------------------


def test_with_clock_the_module_time_tells_virtual_time() -> None:
    real = time.monotonic, time.time, time.perf_counter

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        began = time.monotonic(), time.time(), time.perf_counter()
        assert began[0] == loop.time()
        await asyncio.sleep(3600)
        now = time.monotonic(), time.time(), time.perf_counter()
        assert [after - before for after, before in zip(now, began, strict=True)] == [3600] * 3

    explore(scenario, schedules=3, clock=True)
    assert (time.monotonic, time.time, time.perf_counter) == real


def test_without_it_they_tell_what_they_always_do() -> None:
    async def scenario() -> None:
        began = time.monotonic()
        await asyncio.sleep(3600)
        assert time.monotonic() - began < 60

    explore(scenario, schedules=3)

"""`explore` finds what is wrong with a scenario, and nothing where nothing is."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from gecaso.testing import (
    CannotExplore,
    Deadlock,
    Livelock,
    ScheduleFailed,
    Unhandled,
    choose,
    explore,
)
from gecaso.testing.schedules import parse

Scenario = Callable[[], Coroutine[Any, Any, object]]


def deviations(failure: ScheduleFailed) -> int:
    """How many choices of a schedule are not first come, first served."""
    return sum(1 for choice in parse(failure.schedule) if choice)


def failure_of(scenario: Scenario, **options: Any) -> ScheduleFailed:
    with pytest.raises(ScheduleFailed) as caught:
        explore(scenario, **options)
    return caught.value


# -- what is wrong -------------------------------------------------------------------------------


class LookAside:
    """The cache that everybody writes first; ``fenced``, an overtaken load stores nothing."""

    def __init__(self, *, fenced: bool) -> None:
        self.database = {"k": 1}
        self.store: dict[str, int] = {}
        self.version = 0
        self.fenced = fenced

    async def query(self, key: str) -> int:
        value = self.database[key]
        await asyncio.sleep(0.001)  # the answer travels
        return value

    async def read(self, key: str) -> int:
        value = self.store.get(key)
        if value is None:
            version = self.version
            value = await self.query(key)
            if not self.fenced or version == self.version:
                self.store[key] = value
        return value

    async def write(self, key: str, value: int) -> None:
        self.database[key] = value
        await asyncio.sleep(0.001)
        self.store.pop(key, None)
        self.version += 1


def look_aside(*, fenced: bool) -> Scenario:
    async def scenario() -> None:
        cache = LookAside(fenced=fenced)
        await asyncio.gather(cache.read("k"), cache.write("k", 2))
        assert await cache.read("k") == 2, "a stale read"

    return scenario


async def lost_update() -> None:
    count = 0

    async def add() -> None:
        nonlocal count
        seen = count
        await asyncio.sleep(0)
        count = seen + 1

    await asyncio.gather(add(), add())
    assert count == 2


def two_locks(*, ordered: bool) -> Scenario:
    async def scenario() -> None:
        first, second = asyncio.Lock(), asyncio.Lock()

        async def both(one: asyncio.Lock, other: asyncio.Lock) -> None:
            async with one:
                await asyncio.sleep(0)
                async with other:
                    pass

        await asyncio.gather(
            both(first, second), both(*((first, second) if ordered else (second, first)))
        )

    return scenario


async def missed_notification() -> None:
    condition = asyncio.Condition()
    is_ready = False

    async def wait() -> None:
        if not is_ready:
            await asyncio.sleep(0)  # it is looked at without the lock
            async with condition:
                await condition.wait()

    async def tell() -> None:
        nonlocal is_ready
        async with condition:
            is_ready = True
            condition.notify_all()

    await asyncio.gather(wait(), tell())


async def right_notification() -> None:
    condition = asyncio.Condition()
    is_ready = False

    async def wait() -> None:
        async with condition:
            await condition.wait_for(lambda: is_ready)

    async def tell() -> None:
        nonlocal is_ready
        async with condition:
            is_ready = True
            condition.notify_all()

    await asyncio.gather(wait(), tell())


@pytest.mark.parametrize("seed", range(20))
def test_a_naive_cache_reads_stale_within_a_hundred_schedules(seed: int) -> None:
    failure = failure_of(look_aside(fenced=False), schedules=100, seed=seed)
    assert "a stale read" in str(failure.__cause__)
    # One: the answer to the reader waits until the writer is done.
    assert (failure.seed, deviations(failure)) == (seed, 1)


@pytest.mark.parametrize("strategy", ["random", "pct", "preemption", "mixed"])
def test_every_strategy_finds_it(strategy: str) -> None:
    failure_of(look_aside(fenced=False), schedules=200, strategy=strategy)


def test_a_lost_update_is_found_as_it_comes_first() -> None:
    failure = failure_of(lost_update)
    assert (failure.schedule, failure.schedules) == ("0", 1)


def test_a_deadlock_of_two_locks_is_found() -> None:
    failure = failure_of(two_locks(ordered=False))
    assert isinstance(failure.__cause__, Deadlock)


def test_a_missed_notification_is_found() -> None:
    failure = failure_of(missed_notification)
    assert isinstance(failure.__cause__, Deadlock)


@pytest.mark.parametrize(
    "scenario",
    [look_aside(fenced=True), two_locks(ordered=True), right_notification],
    ids=["fenced", "ordered locks", "right notification"],
)
def test_what_is_right_passes_two_thousand_schedules(scenario: Scenario) -> None:
    result = explore(scenario, schedules=2000)
    assert result.schedules == 2000
    assert 1 < result.distinct <= 2000
    assert 2000 * result.longest >= result.steps >= 2000


def test_a_race_of_a_timer_and_work_is_found_with_lag_only() -> None:
    async def scenario() -> None:
        done = False

        async def work() -> None:
            nonlocal done
            for _ in range(3):
                await asyncio.sleep(0)
            done = True

        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        assert done
        await task

    explore(scenario, lag=0)
    failure = failure_of(scenario)
    assert "lag=0.01" in str(failure_of(scenario, lag=0.01))
    assert "lag" not in str(failure).split("A line is")[0]


def test_nothing_ready_waits_longer_than_the_lag() -> None:
    async def scenario() -> None:
        async def tick() -> None:
            for _ in range(20):
                await asyncio.sleep(0.01)

        loop = asyncio.get_running_loop()
        ticking = asyncio.create_task(tick())
        began = loop.time()
        for _ in range(3):
            await asyncio.sleep(0)
        assert loop.time() - began <= 3 * 0.03 + 1e-9
        await ticking

    explore(scenario, lag=0.03, strategy="random")


# -- other ways to fail --------------------------------------------------------------------------


def test_a_livelock_ends_after_the_steps_allowed() -> None:
    async def scenario() -> None:
        while True:  # noqa: ASYNC110 - it is to go on for ever
            await asyncio.sleep(0)

    failure = failure_of(scenario, max_steps=1000)
    assert isinstance(failure.__cause__, Livelock)
    assert "max_steps=1000" in str(failure)


def test_polling_another_task_is_no_livelock() -> None:
    async def scenario() -> None:
        done = False

        async def finish() -> None:
            nonlocal done
            await asyncio.sleep(0)
            done = True

        task = asyncio.create_task(finish())
        while not done:  # noqa: ASYNC110 - polling is what is tested
            await asyncio.sleep(0)
        await task

    for strategy in ("pct", "mixed"):
        explore(scenario, strategy=strategy, max_steps=2000)


def test_an_exception_nobody_retrieves_is_a_failure_of_its_schedule() -> None:
    async def fail() -> None:
        raise LookupError("of nobody")

    async def scenario() -> None:
        tasks = [asyncio.create_task(fail())]
        tasks.append(tasks[0])
        if choose(3) != 2:
            await asyncio.gather(*tasks, return_exceptions=True)
        else:
            await asyncio.sleep(0.1)

    failure = failure_of(scenario)
    assert isinstance(failure.__cause__, Unhandled)
    assert isinstance(failure.__cause__.__cause__, LookupError)
    assert failure.schedules > 1


def test_an_exception_that_only_the_collector_finds_is_one_of_its_own_schedule() -> None:
    async def scenario() -> None:
        if choose(3) == 2:
            future: Any = asyncio.get_running_loop().create_future()
            future.set_exception(LookupError("in a circle"))
            circle = [future]
            circle.append(circle)

    failure = failure_of(scenario)
    assert isinstance(failure.__cause__, Unhandled)
    assert failure.schedule == "2"
    assert failure.schedules < 30
    assert "depends on more" not in str(failure)


def test_what_is_still_ready_at_the_end_runs() -> None:
    ran: list[int] = []

    async def scenario() -> None:
        asyncio.get_running_loop().call_soon(ran.append, 1)

    explore(scenario, schedules=5)
    assert ran == [1] * 5


def test_a_callback_that_raises_is_a_failure() -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    failure = failure_of(scenario)
    assert isinstance(failure.__cause__, Unhandled)
    assert "ZeroDivisionError" in str(failure)


def test_a_scenario_may_handle_such_errors_itself() -> None:
    seen: list[dict[str, Any]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: seen.append(context))
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    explore(scenario, schedules=3)
    assert len(seen) == 3


def test_tasks_left_behind_are_cancelled_and_may_clean_up() -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    async def scenario() -> None:
        task = asyncio.create_task(linger())
        await asyncio.sleep(0.1)
        assert not task.done()

    explore(scenario, schedules=5)
    assert ended == ["cleaned up"] * 5


def test_a_left_task_that_fails_when_it_is_cancelled_is_a_failure() -> None:
    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("in the clean-up")

    async def scenario() -> None:
        task = asyncio.create_task(linger())
        await asyncio.sleep(0.1)
        assert not task.done()

    assert isinstance(failure_of(scenario).__cause__, Unhandled)


def test_async_generators_are_closed_in_their_loop() -> None:
    closed: list[bool] = []

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    kept: list[Any] = []

    async def scenario() -> None:
        kept.append(numbers())
        await anext(kept[-1])

    explore(scenario, schedules=3)
    assert closed == [True] * 3


def test_an_interrupt_passes_through() -> None:
    async def scenario() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explore(scenario)


def test_a_failing_scenario_that_depends_on_more_than_its_schedule_is_told_so() -> None:
    runs = 0

    async def scenario() -> None:
        nonlocal runs
        runs += 1
        assert runs != 5

    assert "depends on more than its schedule" in str(failure_of(scenario))


# -- choices of the scenario ---------------------------------------------------------------------


def test_choices_of_the_scenario_are_shrunk_and_replayed() -> None:
    async def scenario() -> None:
        numbers = [choose(10) for _ in range(5)]
        assert sum(numbers) < 7

    failure = failure_of(scenario)
    assert failure.schedule == "7"
    assert "choose(10) is 7" in failure.story
    assert failure_of(scenario, replay="0.3.0.4").schedule == "0.3.0.4"


def test_one_option_is_no_choice_and_none_is_refused() -> None:
    async def scenario() -> None:
        assert choose(1) == 0
        with pytest.raises(ValueError, match="1 or more"):
            choose(0)

    assert explore(scenario, schedules=5).distinct == 1


def test_choosing_outside_of_a_scenario_is_refused_with_advice() -> None:
    with pytest.raises(RuntimeError, match="scenarios"):
        choose(2)


# -- the same again ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [failure_of(look_aside(fenced=False), seed=7) for _ in range(2)]
    assert str(runs[0]) == str(runs[1])
    explored = [explore(look_aside(fenced=True), seed=7, schedules=50) for _ in range(2)]
    assert explored[0] == explored[1]


def test_another_seed_gives_another_run() -> None:
    found = {failure_of(look_aside(fenced=False), seed=seed).schedules for seed in range(10)}
    assert len(found) > 1


def test_random_numbers_of_the_scenario_are_the_same_in_each_run() -> None:
    import random

    drawn: list[float] = []

    async def scenario() -> None:
        drawn.append(random.random())

    state = random.getstate()
    explore(scenario, schedules=3)
    assert len(set(drawn)) == 1
    assert random.getstate() == state


ANOTHER_PROCESS = """
import sys
import time
from gecaso.testing import ScheduleFailed, explore
from tests.testing.test_explorer import look_aside
for options in ({{"seed": 3}}, {{"seed": 3, "replay": {schedule!r}}}):
    try:
        explore(look_aside(fenced=False), **options)
    except ScheduleFailed as failure:
        print(failure.schedule, failure.schedules, failure.story)
"""


@pytest.mark.process
def test_another_process_with_another_hash_seed_finds_and_replays_the_same() -> None:
    failure = failure_of(look_aside(fenced=False), seed=3)
    code = ANOTHER_PROCESS.format(schedule=failure.schedule)
    environment = os.environ | {"PYTHONHASHSEED": "4711"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    found = f"{failure.schedule} {failure.schedules} {failure.story}\n"
    assert run.stdout == found + f"{failure.schedule} 1 {failure.story}\n"


def test_a_replay_of_what_is_right_passes() -> None:
    assert explore(look_aside(fenced=True), replay="0.2.1").schedules == 1


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"strategy": "best"}, {"schedules": 0}, {"max_steps": 0}, {"lag": -1.0}, {"replay": "0.x"}],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        explore(lost_update, **options)


async def test_it_is_not_for_coroutines() -> None:
    with pytest.raises(RuntimeError, match="plain function"):
        explore(lost_update)


async def refused_signal() -> None:
    asyncio.get_running_loop().add_signal_handler(2, lambda: None)


async def refused_process() -> None:
    await asyncio.create_subprocess_exec("true")


async def refused_thread() -> None:
    import threading

    loop = asyncio.get_running_loop()

    def call() -> None:
        with pytest.raises(CannotExplore):
            loop.call_soon_threadsafe(print)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    await asyncio.Event().wait()


async def refused_worker() -> None:
    await anyio.to_thread.run_sync(time.sleep, 0.05)


async def refused_tls() -> None:
    import ssl

    await asyncio.open_connection("localhost", 1, ssl=ssl.create_default_context())


@pytest.mark.parametrize(
    "scenario", [refused_signal, refused_process, refused_thread, refused_worker, refused_tls]
)
def test_what_cannot_be_explored_is_refused(scenario: Scenario) -> None:
    with pytest.raises(CannotExplore):
        explore(scenario)

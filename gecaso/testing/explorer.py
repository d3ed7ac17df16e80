"""`explore`: run a scenario under many schedules, and tell the simplest one that fails."""

from __future__ import annotations

import asyncio
import random
import traceback
from contextlib import ExitStack
from dataclasses import dataclass

from gecaso.testing.failures import ScheduleFailed
from gecaso.testing.handles import Chooser, Fifo
from gecaso.testing.running import Runner, Scenario, Schedule
from gecaso.testing.schedules import STRATEGIES, Replay, parse, text
from gecaso.testing.shrinking import shrink
from gecaso.testing.story import Story
from gecaso.testing.virtual_clock import virtual_clock

__all__ = ["Exploration", "explore"]

MOST_SHRINKS = 1000  # runs
MOST_SHRINK_STEPS = 2_000_000  # callbacks of all these runs
COUNTED = 100_000  # distinct schedules


@dataclass(frozen=True, slots=True)
class Exploration:
    """What was explored, and found to be right.

    ``steps`` counts the callbacks of all ``schedules``, ``longest`` those of the longest one.
    ``distinct`` is how many schedules differed, counted up to 100,000.
    """

    schedules: int
    steps: int
    longest: int
    distinct: int
    seed: int


def explore(
    scenario: Scenario,
    *,
    schedules: int = 1000,
    seed: int = 0,
    strategy: str = "mixed",
    max_steps: int = 100_000,
    lag: float = 0.02,
    clock: bool = False,
    replay: str | None = None,
) -> Exploration:
    """Run ``scenario()`` in many orders, each time in a new event loop with virtual time.

    A schedule fails with any exception of the scenario, when nothing can go on (`Deadlock`), when
    it takes more than ``max_steps`` callbacks (`Livelock`), and when an error reaches the loop's
    exception handler or is never retrieved (`Unhandled`). Then `ScheduleFailed` is raised: it has
    the simplest failing schedule found, its story, and how to run it again.

    The first schedule is first come, first served, as in asyncio. The others are chosen by
    ``strategy``: "random", "pct", "preemption", or "mixed", which takes them in turn; see
    `gecaso.testing.schedules`. The same ``seed`` gives the same schedules, in any process.
    ``replay`` runs one schedule only, as printed by an earlier failure.

    ``lag`` is how late, in virtual seconds, a callback may run that is ready: as on a busy machine,
    timers may overtake it. With 0 no time passes while anything is ready. With ``clock=True``
    the functions of the module `time` tell virtual time as well, while the scenario runs, to those
    who look them up there; `asyncio.get_running_loop().time` is such a clock without that.

    Raises `CannotExplore` for what no schedule can order: threads, real sockets, processes,
    signals. To be called outside of event loops.

    >>> async def scenario() -> None:
    ...     count = 0
    ...     async def add() -> None:
    ...         nonlocal count
    ...         seen = count
    ...         await asyncio.sleep(0)
    ...         count = seen + 1
    ...     await asyncio.gather(add(), add())
    ...     assert count == 2, f"an update was lost: {count}"
    >>> explore(scenario)
    Traceback (most recent call last):
    gecaso.testing.failures.ScheduleFailed: AssertionError: an update was lost: 1
    ...
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r}: give one of {', '.join(sorted(STRATEGIES))}")
    for name, number in (("schedules", schedules), ("max_steps", max_steps)):
        if number < 1:
            raise ValueError(f"{name}={number!r}: give 1 or more")
    if not lag >= 0:
        raise ValueError(f"lag={lag!r}: give a number of seconds, or 0")
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "explore() runs event loops of its own; call it from a plain function, not a coroutine"
        )
    runner = Runner(scenario, lag=lag, max_steps=max_steps)
    with ExitStack() as stack:
        if clock:
            stack.enter_context(virtual_clock())
        stack.enter_context(runner)
        explorer = _Explorer(runner, seed, _options(max_steps, lag, clock))
        if replay is not None:
            return explorer.replay(parse(replay))
        return explorer.search(schedules, strategy)


def _options(max_steps: int, lag: float, clock: bool) -> str:
    """Return the options, other than the usual ones, that a replay needs as well."""
    usual = {"max_steps": 100_000, "lag": 0.02, "clock": False}
    given = {"max_steps": max_steps, "lag": lag, "clock": clock}
    return "".join(f", {name}={given[name]!r}" for name in usual if given[name] != usual[name])


class _Explorer:
    def __init__(self, runner: Runner, seed: int, options: str) -> None:
        self._runner = runner
        self._seed = seed
        self._options = options
        self._tried = 0

    def search(self, schedules: int, strategy: str) -> Exploration:
        source = random.Random(self._seed)
        makers = STRATEGIES[strategy]
        steps = longest = length = 0
        seen: set[int] = set()
        for number in range(schedules):
            maker = makers[number % len(makers)]
            chooser: Chooser = maker(source, length) if number else Fifo()
            schedule = self._runner.run(chooser)
            self._tried += 1
            if schedule.error is not None:
                raise self._failure(self._shrunk(schedule))
            steps += schedule.steps
            longest = max(longest, schedule.steps)
            length = max(length, len(schedule.choices))
            if len(seen) < COUNTED:
                seen.add(hash(tuple(schedule.choices)))  # of integers: everywhere the same
        return Exploration(schedules, steps, longest, len(seen), self._seed)

    def replay(self, choices: list[int]) -> Exploration:
        self._tried = 1
        schedule = self._runner.run(Replay(choices))
        if schedule.error is not None:
            raise self._failure(schedule)
        return Exploration(1, schedule.steps, schedule.steps, 1, self._seed)

    def _shrunk(self, found: Schedule) -> Schedule:
        """Return the simplest schedule that fails in the same way."""
        runs = steps = 0

        def budget() -> bool:
            return runs < MOST_SHRINKS and steps < MOST_SHRINK_STEPS

        def fails(choices: list[int]) -> list[int] | None:
            nonlocal runs, steps
            schedule = self._runner.run(Replay(choices))
            runs += 1
            steps += schedule.steps
            return schedule.choices if schedule.fails_like(found) else None

        choices = shrink(found.choices, fails, budget)
        return Schedule(choices, found.steps, found.error)

    def _failure(self, found: Schedule) -> ScheduleFailed:
        """Run it once more, for the story."""
        story = Story()
        again = self._runner.run(Replay(found.choices), story)
        fails_again = again.fails_like(found)
        failed = again if fails_again else found
        printed = text(found.choices)
        told = story.text()
        where = f"It fails in schedule {self._tried} of seed {self._seed}. To run it again:"
        replay = f"    explore(scenario, replay={printed!r}{self._options})"
        parts = [_what(failed), "", where, replay]
        if not fails_again:
            parts.append(
                "\nIt did not fail when it was run again: the scenario depends on more than its "
                "schedule. See whether it reads a real clock, iterates over a set, draws random "
                "numbers, or keeps something between runs."
            )
        parts.append(f"\n{told}")
        failure = ScheduleFailed(
            "\n".join(parts),
            seed=self._seed,
            schedule=printed,
            story=told,
            schedules=self._tried,
        )
        failure.__cause__ = failed.error
        return failure


def _what(schedule: Schedule) -> str:
    assert schedule.error is not None
    return "".join(traceback.format_exception_only(schedule.error)).strip()

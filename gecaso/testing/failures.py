"""What can be wrong with a schedule.

::

    AssertionError
    ├── ScheduleFailed       explore() has found one that fails
    ├── Deadlock             nothing can go on
    ├── Livelock             it goes on for ever
    └── Unhandled            an error reached the event loop, or nobody at all
    NotImplementedError
    └── CannotExplore        threads, real sockets, processes, signals
"""

from __future__ import annotations

__all__ = ["CannotExplore", "Deadlock", "Livelock", "ScheduleFailed", "Unhandled"]


class ScheduleFailed(AssertionError):
    """A schedule fails; the error it fails with is the cause (``__cause__``).

    ``schedule`` is the text for ``explore(scenario, replay=…)``, ``story`` what happened step by
    step, ``seed`` that of the exploration, and ``schedules`` how many of it were tried.
    """

    def __init__(
        self, message: str, *, seed: int, schedule: str, story: str, schedules: int
    ) -> None:
        super().__init__(message)
        self.seed = seed
        self.schedule = schedule
        self.story = story
        self.schedules = schedules


class Deadlock(AssertionError):
    """Nothing is ready, no timer is set, and the scenario has not ended."""


class Livelock(AssertionError):
    """The scenario has not ended after ``max_steps`` callbacks."""


class Unhandled(AssertionError):
    """An error was reported to the event loop, or an exception was never retrieved."""


class CannotExplore(NotImplementedError):
    """The scenario uses what cannot be explored; the text says what to do instead."""

"""Strategies: what runs next; and schedules as text.

* `AtRandom`: everything that is ready is as likely.
* `Priorities`: PCT (Burckhardt, Kothari, Musuvathi, Nagarakatte: "A randomized scheduler with
  probabilistic guarantees of finding bugs", ASPLOS 2010). Each task has a random priority, the
  highest that is ready runs, and at d - 1 random points the one that would run falls below all
  others. A bug that needs d orderings is found with a probability of at least 1/(n·k^(d-1)) in
  each schedule of n tasks and k steps.
* `Preemptions`: first come, first served, but for at most c random steps (Musuvathi, Qadeer:
  "Iterative context bounding", PLDI 2007): most bugs need few.
* `Replay`: what a list says, and after its end first come, first served.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count, groupby

from gecaso.testing.handles import PLAIN, Chooser, Ready, Timer

__all__ = [
    "STRATEGIES",
    "AtRandom",
    "Maker",
    "Preemptions",
    "Priorities",
    "Replay",
    "parse",
    "text",
]

Maker = Callable[[random.Random, int], Chooser]

DEEPEST = 5
"""PCT's d and the preemptions of a schedule are at most this."""
PATIENCE = 50
"""A task that takes so many steps in a row is waiting for others: they go first."""


class AtRandom:
    """Everything that is ready is as likely."""

    def __init__(self, source: random.Random) -> None:
        self._random = source.random

    def pick(self, ready: Sequence[Ready | Timer], options: int) -> int:
        return int(self._random() * options)

    def draw(self, options: int) -> int:
        return int(self._random() * options)


class Preemptions(AtRandom):
    """First come, first served, but for a few steps among the ``length`` expected."""

    def __init__(self, source: random.Random, length: int) -> None:
        super().__init__(source)
        self._picks = 0
        most = source.randint(1, DEEPEST)
        self._points = frozenset(source.randrange(max(1, length)) for _ in range(most))

    def pick(self, ready: Sequence[Ready | Timer], options: int) -> int:
        picks = self._picks
        self._picks = picks + 1
        if picks in self._points:
            return 1 + int(self._random() * (options - 1))
        return 0


class Priorities(AtRandom):
    """PCT over the tasks; what is not a task's has a priority of its own each time.

    A low number is a high priority.
    """

    def __init__(self, source: random.Random, length: int) -> None:
        super().__init__(source)
        self._of: dict[object, float] = {}
        self._picks = 0
        self._low = count(1)
        self._last: object = None
        self._in_a_row = 0
        depth = source.randint(1, DEEPEST)
        self._points = frozenset(source.randrange(max(1, length)) for _ in range(depth - 1))

    def pick(self, ready: Sequence[Ready | Timer], options: int) -> int:
        if options > len(ready) and self._random() * options < 1.0:
            return len(ready)
        best = self._highest(ready)
        picks = self._picks
        self._picks = picks + 1
        if picks in self._points or self._is_stuck(_key(ready[best])):
            self._of[_key(ready[best])] = next(self._low)
            best = self._highest(ready)
        handle = ready[best]
        if handle.owner is PLAIN or handle.owner is None:
            self._of.pop(_key(handle), None)
        return best

    def _highest(self, ready: Sequence[Ready | Timer]) -> int:
        of = self._of
        best, highest = 0, 1e9
        for place, handle in enumerate(ready):
            key = _key(handle)
            priority = of.get(key)
            if priority is None:
                priority = of[key] = self._random()
            if priority < highest:
                best, highest = place, priority
        return best

    def _is_stuck(self, key: object) -> bool:
        if key is not self._last:
            self._last, self._in_a_row = key, 0
        self._in_a_row += 1
        return self._in_a_row > PATIENCE


def _key(handle: Ready | Timer) -> object:
    return handle if handle.owner is None else handle.owner


class Replay:
    """Choices from a list; those that are not possible, and all after its end, are 0."""

    def __init__(self, choices: Sequence[int]) -> None:
        self._next = iter(choices).__next__

    def pick(self, ready: Sequence[Ready | Timer], options: int) -> int:
        return self.draw(options)

    def draw(self, options: int) -> int:
        try:
            choice = self._next()
        except StopIteration:
            return 0
        return choice if choice < options else 0


def _at_random(source: random.Random, length: int) -> Chooser:
    return AtRandom(source)


STRATEGIES: dict[str, tuple[Maker, ...]] = {
    "random": (_at_random,),
    "pct": (Priorities,),
    "preemption": (Preemptions,),
    "mixed": (_at_random, Priorities, Preemptions),
}
"""What `explore` knows by name: makers of strategies, taken in turn."""


def text(choices: Sequence[int]) -> str:
    """Write choices as text; the last of them that is not 0 ends it.

    >>> text([0, 0, 2, 1, 0, 0, 0, 0, 1, 0])
    '0.0.2.1.0*4.1'
    """
    length = len(choices)
    while length and not choices[length - 1]:
        length -= 1
    parts: list[str] = []
    for choice, run in groupby(choices[:length]):
        times = len(list(run))
        parts += [f"{choice}*{times}"] if times > 3 else [str(choice)] * times
    return ".".join(parts) or "0"


def parse(schedule: str) -> list[int]:
    """Read such a text. Raises `ValueError` for another.

    >>> parse("0.0.2.1.0*4.1")
    [0, 0, 2, 1, 0, 0, 0, 0, 1]
    """
    choices: list[int] = []
    for part in schedule.split("."):
        choice, _, times = part.partition("*")
        if not (choice.isdecimal() and (times or "1").isdecimal()):
            raise ValueError(
                f"{schedule!r} is not a schedule; give the text that explore() has printed, "
                'such as "0.0.2.1"'
            )
        choices += [int(choice)] * int(times or 1)
    return choices

"""Measure a subject between two measurements of its base, many times, and take medians.

What a machine does besides slows all three alike, so their ratio stays where it is. A measurement
is a coroutine function that is given a `Stopwatch` and runs it around the work alone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal, NamedTuple

__all__ = [
    "Benchmark", "Comparison", "Cost", "Measurement", "Row", "Scale", "Spread", "Stopwatch",
    "Target", "compare", "spread",
]  # fmt: skip

Clock = Callable[[], float]


class Cost(NamedTuple):
    """Seconds per operation: on the clock on the wall, and of this process' processor time."""

    wall: float
    processor: float


class Stopwatch:
    """Measures one block of work.

    >>> watch = Stopwatch()
    >>> with watch.over(3):
    ...     work = [n * n for n in (1, 2, 3)]
    >>> watch.cost.wall > 0
    True
    """

    def __init__(
        self, wall: Clock = time.perf_counter, processor: Clock = time.process_time
    ) -> None:
        self._wall = wall
        self._processor = processor
        self._cost: Cost | None = None

    @property
    def cost(self) -> Cost:
        if self._cost is None:
            raise RuntimeError("the measurement never ran its stopwatch")
        return self._cost

    @contextmanager
    def over(self, operations: int) -> Generator[None]:
        """Measure the block as this many operations; it begins with no garbage around."""
        gc.collect()
        processor, wall = self._processor(), self._wall()
        yield
        took = self._wall() - wall
        self.record(took / operations, (self._processor() - processor) / operations)

    def record(self, wall: float, processor: float) -> None:
        """Take over seconds per operation that were measured elsewhere."""
        self._cost = Cost(wall, processor)


Measurement = Callable[[Stopwatch], Awaitable[None]]


class Spread(NamedTuple):
    """The median of many figures, and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(figures: Sequence[float]) -> Spread:
    """Return the median and the quartiles.

    >>> spread([5.0, 1.0, 2.0, 4.0, 3.0])
    Spread(median=3.0, low=2.0, high=4.0)
    """
    if len(figures) == 1:
        return Spread(figures[0], figures[0], figures[0])
    low, middle, high = quantiles(figures, n=4, method="inclusive")
    return Spread(middle, low, high)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a subject cost, and its base around it, in each round."""

    subjects: list[Cost]
    bases: list[Cost]  # each the mean of the one before and the one after

    def speed_ratio(self) -> Spread:
        """How many times as fast as its base the subject is, on the wall."""
        return spread([b.wall / s.wall for s, b in self._pairs()])

    def processor_ratio(self) -> Spread:
        """How much of the base's processor time the subject takes: less than 1 is quicker."""
        return spread([s.processor / b.processor for s, b in self._pairs()])

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds on the wall per operation, medians: of the subject and of the base."""
        return median(c.wall for c in self.subjects), median(c.wall for c in self.bases)

    @property
    def processor_seconds(self) -> tuple[float, float]:
        """Seconds of processor time per operation, medians: of the subject and of the base."""
        return median(c.processor for c in self.subjects), median(c.processor for c in self.bases)

    def _pairs(self) -> Iterator[tuple[Cost, Cost]]:
        return zip(self.subjects, self.bases, strict=True)


async def compare(
    base: Measurement,
    subjects: Mapping[str, Measurement],
    *,
    rounds: int,
    stopwatch: Callable[[], Stopwatch] = Stopwatch,
) -> dict[str, Comparison]:
    """Measure base, subject, base, next subject, base … for so many rounds.

    One round more runs before them and counts for nothing: it opens connections and fills caches.
    """
    results = {name: Comparison([], []) for name in subjects}
    for number in range(rounds + 1):
        before = await _measure(base, stopwatch())
        for name, subject in subjects.items():
            cost = await _measure(subject, stopwatch())
            after = await _measure(base, stopwatch())
            if number:
                results[name].subjects.append(cost)
                results[name].bases.append(_mean(before, after))
            before = after
    return results


async def _measure(measurement: Measurement, watch: Stopwatch) -> Cost:
    await measurement(watch)
    return watch.cost


def _mean(one: Cost, other: Cost) -> Cost:
    return Cost((one.wall + other.wall) / 2, (one.processor + other.processor) / 2)


@dataclass(frozen=True, slots=True)
class Target:
    """What a row is to reach: ``Target("≤", 0.23)``."""

    sign: Literal["≤", "≥", "="]
    value: float

    def is_reached(self, measured: float) -> bool:
        if self.sign == "≤":
            return measured <= self.value
        return measured >= self.value if self.sign == "≥" else measured == self.value

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; without ``against`` the figure stands for itself, in ``unit``."""

    work: str
    subject: str
    against: str = ""
    measured: Spread | None = None
    unit: str = "×"
    seconds: tuple[float, float] | None = None  # per operation: the subject, the base
    target: Target | None = None
    error: str = ""

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        if self.target is None:
            return None
        return self.measured is not None and self.target.is_reached(self.measured.median)


@dataclass(frozen=True, slots=True)
class Scale:
    """How thoroughly to measure."""

    rounds: int  # of what takes milliseconds
    few: int  # of what takes a tenth of a second
    stampedes: int

    @classmethod
    def of(cls, *, quick: bool) -> Scale:
        if quick:
            return cls(rounds=7, few=3, stampedes=1)
        return cls(rounds=41, few=15, stampedes=5)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Some rows that are measured together."""

    name: str
    run: Callable[[Scale], Sequence[Row]]

    def rows(self, scale: Scale) -> Sequence[Row]:
        """Run it; if it fails, one row says so."""
        try:
            return self.run(scale)
        except Exception as error:  # noqa: BLE001 - whatever failed, the table says it
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            return [Row(work=self.name, subject="failed", error=reason)]

"""A clock that stands still until it is told to go on."""

from __future__ import annotations

from datetime import timedelta
from math import inf

from gecaso import durations
from gecaso.durations import Duration

__all__ = ["FakeClock"]


class FakeClock:
    """Seconds that pass when told to: give it as ``clock=`` to an in-process storage.

    ``now`` is the time in seconds; calling the clock returns it. It belongs to the storages that
    it is given to: `asyncio.sleep` and real servers know nothing of it.

    >>> from gecaso import MemoryStorage
    >>> clock = FakeClock()
    >>> storage = MemoryStorage(clock=clock)
    >>> await storage.set("greeting", "good morning", ttl="1h")
    >>> clock.advance("59m")
    >>> await storage.get("greeting")
    'good morning'
    >>> clock.advance("1m")
    >>> await storage.get("greeting")
    Traceback (most recent call last):
    KeyError: 'greeting'
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def __repr__(self) -> str:
        return f"<FakeClock at {self.now:.3f}>"

    def advance(self, duration: Duration) -> None:
        """Let time pass: seconds, a timedelta, or text such as ``"5m"``.

        Raises `ValueError` for less than nothing: see `jump`.
        """
        passed = _seconds(duration)
        if not 0 <= passed < inf:  # NaN too
            raise ValueError(
                f"time cannot advance by {duration!r}; to set the clock back, use jump()"
            )
        self.now += passed

    def jump(self, duration: Duration) -> None:
        """Set the clock forwards or, with negative seconds, backwards: as an administrator does."""
        shift = _seconds(duration)
        if not -inf < shift < inf:
            raise ValueError(f"a clock cannot jump by {duration!r}")
        self.now += shift


def _seconds(duration: Duration) -> float:
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, str):
        return durations.seconds(duration, option="duration")
    return float(duration)

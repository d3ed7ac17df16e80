"""When to leave a storage alone, and when to try it again.

The circuit breaker of Nygard's *Release It!*: after a few failures in a row it opens; callers then
go on without the storage, at no cost. One probe at a time, in the background, finds out whether
the storage is back; the time between probes grows, with jitter, up to a second.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

__all__ = ["Breaker"]

LOST_PROBE = 1.5
"""Seconds after which a probe is taken for lost: its event loop may have been closed under it."""


class Breaker:
    """The state of one storage as this process sees it.

    >>> breaker = Breaker(failures=2)
    >>> breaker.failed(); breaker.is_open
    False
    >>> breaker.failed(); breaker.is_open
    True
    >>> breaker.succeeded(); breaker.is_open
    False
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        shortest: float = 0.1,
        longest: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._most = failures
        self._shortest = shortest
        self._longest = longest
        self._clock = clock
        self._random = random
        self.reset()

    def reset(self) -> None:
        """Close it, and forget what was."""
        self.failures = 0
        self.is_open = False
        self._pause = self._shortest
        self._probe_at = 0.0

    def __repr__(self) -> str:
        return f"<Breaker: {'open' if self.is_open else 'closed'}, {self.failures} failures>"

    def succeeded(self) -> None:
        """The storage has answered."""
        if self.failures:
            self.reset()

    def failed(self) -> None:
        """The storage has failed, or not answered in time."""
        self.failures += 1
        if self.is_open:
            return
        if self.failures >= self._most:
            self.is_open = True
            self._schedule()

    def take_probe(self) -> bool:
        """Return True to the one caller that shall probe now, and must call `probed` afterwards."""
        now = self._clock()
        if not self.is_open or now < self._probe_at:
            return False
        self._probe_at = now + LOST_PROBE
        return True

    def probed(self, alive: bool) -> None:
        """The probe is over."""
        if alive:
            self.reset()
            return
        self._pause = min(self._pause * 2, self._longest)
        self._schedule()

    def _schedule(self) -> None:
        # Only shorter: many processes must not probe in step, and none later than promised.
        self._probe_at = self._clock() + self._pause * (0.6 + 0.4 * self._random())

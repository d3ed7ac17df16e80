"""A clock that the processes of one machine share, and that outlives them.

It is the machine's clock since boot, which never jumps and counts while the machine sleeps, plus
an offset that turns it into the time of day. The first process after a boot keeps the offset in
the file, and all others take it from there: setting the time of day moves no entry and no lease.
"""

from __future__ import annotations

import time
from typing import Final

__all__ = ["Clock", "boot_id", "is_same_boot"]

BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
NEAR: Final = 30.0  # seconds that two estimates of one offset may differ

# On Linux the monotonic clock stands still while the machine sleeps; a ttl must not.
_SINCE_BOOT: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_id() -> str:
    """Return the name of this boot of the machine, or nothing where there is no such name."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_same_boot(boot: object, offset: float, *, here: str, clock: Clock) -> bool:
    """Return whether what was noted in a file was noted since the machine was booted."""
    if here:
        return boot == here
    return abs(offset - clock.estimate()) < NEAR  # no two boots are half a minute apart


class Clock:
    """Seconds since 1970, the same in every process that has opened the file.

    Until then it is this process' own estimate, off by what the time of day was moved since boot.
    """

    __slots__ = ("__weakref__", "known", "offset")

    def __init__(self) -> None:
        self.offset = self.estimate()
        self.known = False

    def __repr__(self) -> str:
        return f"<Clock {self.now():.3f}{'' if self.known else ', estimated'}>"

    @staticmethod
    def estimate() -> float:
        return time.time() - time.clock_gettime(_SINCE_BOOT)

    def now(self) -> float:
        return time.clock_gettime(_SINCE_BOOT) + self.offset

    def learn(self, offset: float) -> None:
        """Take over the offset that the file has."""
        self.offset = offset
        self.known = True

"""What a storage knows of a Redis server: the clock, whether it will do, and its trouble."""

from __future__ import annotations

import copy
import logging
import re
import time
from collections.abc import Sequence
from typing import cast

from gecaso.breaker import Breaker
from gecaso.entry import Entry
from gecaso.errors import StorageError

__all__ = ["Server", "shifted"]

logger = logging.getLogger("gecaso")

MEASURE_EVERY = 60.0  # seconds between looks at the server's clock
OLDEST = (6, 2)


class Server:
    """The clock of a server, kept as an offset to this machine's monotonic clock; its breaker.

    Before the first connection it is this machine's own time. ``part`` is its name where a storage
    has several, so that its trouble is not that of the whole storage; then it has a breaker of its
    own. ``trial`` are commands that change nothing, to see whether such are allowed.
    """

    def __init__(self, where: str, trial: Sequence[tuple[bytes | int, ...]] = ()) -> None:
        self.where = where
        self.part: str | None = None
        self.trial = trial
        self.breaker = Breaker()
        self.offset = time.time() - time.monotonic()
        self.known = False
        self.measure_at = 0.0
        self._warned = False

    def now(self) -> float:
        return time.monotonic() + self.offset

    def measuring(self) -> float:
        """Take note that TIME is asked for; return the moment, for `measured`."""
        now = time.monotonic()
        self.measure_at = now + MEASURE_EVERY
        return now

    def measured(self, sent: float, reply: object) -> None:
        """Take note of the reply: it was true half-way between asking and hearing.

        Raises TypeError or ValueError for what is no reply to TIME.
        """
        if not isinstance(reply, list):
            raise TypeError
        seconds, micros = cast("list[bytes]", reply)
        self.offset = int(seconds) + int(micros) / 1e6 - (sent + time.monotonic()) / 2
        self.known = True

    def left_alone(self) -> StorageError:
        error = StorageError(f"Redis at {self.where} is left alone for a while after failures")
        error.part = self.part
        return error

    def failed(self, error: StorageError) -> None:
        """An operation at a part has failed; after some in a row the part is left alone."""
        error.part = self.part
        was_open = self.breaker.is_open
        self.breaker.failed()
        if self.breaker.is_open and not was_open:
            logger.warning("Redis at %s is left alone for a while: %s", self.where, error)

    def look_at(self, info: str) -> None:
        """Look at a reply to INFO. Raises `StorageError` when the server is too old."""
        version = re.search(r"^redis_version:(\d+)\.(\d+)", info, re.MULTILINE)
        if version is not None and (int(version[1]), int(version[2])) < OLDEST:
            raise StorageError(
                f"Redis at {self.where} is {version[1]}.{version[2]}; "
                "RedisStorage needs 6.2 or newer"
            )
        if re.search(r"^maxmemory_policy:volatile-ttl", info, re.MULTILINE) and not self._warned:
            self._warned = True
            logger.warning(
                "Redis at %s evicts short-lived keys first (maxmemory-policy volatile-ttl): "
                "leases are short-lived, so loads may be done twice when it is full; "
                "allkeys-lru or allkeys-lfu suits a cache",
                self.where,
            )


def shifted(entry: Entry, shift: float) -> Entry:
    """Return an entry like this one in a clock that is ahead by ``shift`` seconds."""
    other = copy.copy(entry)
    other.created += shift
    other.fresh_until += shift
    other.dead_after += shift
    return other

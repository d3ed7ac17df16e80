"""What a storage knows of its Redis server: the clock, and whether it will do."""

from __future__ import annotations

import logging
import re
import time
from typing import cast

from gecaso.errors import StorageError

__all__ = ["Server"]

logger = logging.getLogger("gecaso")

MEASURE_EVERY = 60.0  # seconds between looks at the server's clock
OLDEST = (6, 2)


class Server:
    """The clock of a server, kept as an offset to this machine's monotonic clock.

    Before the first connection it is this machine's own time.
    """

    def __init__(self, where: str) -> None:
        self.where = where
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

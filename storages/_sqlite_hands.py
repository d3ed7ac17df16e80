"""One thread with one connection to the file: it waits, opens anew and repairs as is needed."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from gecaso.errors import StorageError

from ._sqlite_clock import Clock
from ._sqlite_errors import Damaged, Moved, is_busy, is_damage, is_moved, ours, timed_out
from ._sqlite_repair import set_aside
from ._sqlite_schema import Link

__all__ = ["Hand"]

T = TypeVar("T")

ATTEMPTS: Final = 5  # with files that are damaged, or replaced under our hands
SHORTEST_PAUSE, LONGEST_PAUSE = (
    0.0005,
    0.008,
)  # seconds between looks at a lock that somebody else has


class Hand:
    """A connection for one thread; ``report(error)`` is told of repairs.

    Whoever holds ``lock`` may use the connection, or close it.
    """

    def __init__(self, path: str, clock: Clock, report: Callable[[StorageError], None]) -> None:
        self.path = path
        self.lock = threading.Lock()
        self._clock = clock
        self._report = report
        self._link: Link | None = None

    def __repr__(self) -> str:
        return f"<Hand on {self.path}, {'open' if self._link else 'closed'}>"

    @property
    def is_open(self) -> bool:
        return self._link is not None

    def close(self) -> None:
        """Close the connection; the next attempt opens another."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def attempt(self, do: Callable[[Link], T], give_up: float, timeout: float) -> T:
        """Return ``do(link)``, done on the file that is in its place afterwards.

        Raises `StorageTimeout` when somebody else keeps the file until ``give_up``, a moment of
        `time.monotonic`, and `StorageError` for other trouble.
        """
        pause = SHORTEST_PAUSE
        left = ATTEMPTS
        while left:
            try:
                with self.lock:
                    return self._do(do)
            except Moved:
                left -= 1
            except Damaged as damage:
                left -= 1
                self._repair(damage)
            except OSError as error:
                raise ours(error, self.path) from error
            except sqlite3.Error as error:
                if not is_busy(error):
                    raise ours(error, self.path) from error
                rest = pause * random.uniform(0.5, 1.5)
                if time.monotonic() + rest > give_up:  # who waits is told by then that it failed
                    raise timed_out(self.path, timeout) from error
                time.sleep(rest)
                pause = min(pause * 1.5, LONGEST_PAUSE)
        raise StorageError(
            f"{self.path} was damaged or replaced again and again: see what else writes there"
        )

    def _do(self, do: Callable[[Link], T]) -> T:
        link = self._link
        try:
            if link is None:
                link = self._link = Link(self.path, self._clock)
            result = do(link)
            link.check_place()  # or it was done to a file that nobody else sees
            return result
        except (Moved, OSError):
            self.close()
            raise
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if is_busy(error):
                raise
            self.close()
            if link is not None and is_damage(error):
                raise Damaged(str(error), link.identity) from error
            if is_moved(error) or not os.path.lexists(self.path):
                raise Moved from error
            raise

    def _repair(self, damage: Damaged) -> None:
        try:
            aside = set_aside(self.path, damage.identity, damage)
        except OSError as error:
            raise ours(error, self.path) from error
        if aside is not None:
            self._report(StorageError(f"{self.path} was damaged ({damage}) and is now {aside}"))

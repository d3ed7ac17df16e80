"""The one thread that writes: what waits shares a transaction, and in between it keeps house."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

from gecaso.errors import StorageError, StorageTimeout

from ._sqlite_clock import Clock
from ._sqlite_ears import Ears
from ._sqlite_errors import timed_out
from ._sqlite_files import Files
from ._sqlite_hands import Hand
from ._sqlite_room import TOTAL, bury, is_due, is_used, make_room, touch
from ._sqlite_schema import Link
from ._sqlite_work import Work

__all__ = ["Outcomes", "Writer", "Writing"]

logger = logging.getLogger("gecaso")

HEAVIEST: Final = 1000  # entries in one transaction, unless one work has more
HOUSEWORK_EVERY: Final = 2.0  # seconds
HOUSEWORK_MAY_WAIT: Final = 0.1  # seconds for a lock that somebody else has
BURIED_AT_ONCE: Final = 200  # entries; a short transaction keeps nobody waiting
MOST_TOUCHED: Final = 5000  # uses that wait to be written down
SPARE_PAGES: Final = 256  # free pages of the file that are given back at once
SWEEP_EVERY: Final = 3600.0  # seconds between looks for files that crashes have left

Outcomes = Mapping[Work, Any]  # what came of each, or the error


class Writing(Protocol):
    """Works that were asked for in one tick of a loop. Use ``settle`` in any thread."""

    give_up: float
    timeout: float

    @property
    def works(self) -> Sequence[Work]: ...

    def settle(self, outcomes: Outcomes) -> None: ...


class Writer:
    """Runs works in the order in which they come.

    ``ears`` are told which leases may be over; ``is_left()`` says whether to end.
    """

    def __init__(
        self,
        hand: Hand,
        clock: Clock,
        files: Files,
        ears: Ears,
        is_left: Callable[[], bool],
    ) -> None:
        self._hand = hand
        self._clock = clock
        self._files = files
        self._ears = ears
        self._is_left = is_left
        self._queue: SimpleQueue[Writing | None] = SimpleQueue()
        self._touched: dict[bytes, float] = {}
        self._housework = 0.0
        self._sweep = 0.0
        self._has_garbage = False
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Writer of {self._hand.path}: {self._queue.qsize()} waiting>"

    def put(self, writing: Writing) -> None:
        self._queue.put(writing)

    def stop(self) -> None:
        """Have the thread see whether to end, when it has done what waits."""
        self._queue.put(None)

    def touch(self, names: Iterable[bytes], now: float) -> None:
        """Take note that these entries were used; it is written down later."""
        touched = self._touched
        touched.update(dict.fromkeys(names, now))
        if len(touched) > MOST_TOUCHED:
            self._housework = 0.0

    # --- the thread -----------------------------------------------------------------------------

    def serve(self) -> None:
        try:
            while not self._is_over:
                self._write(self._next_group())  # no name here keeps alive what has been written
                if time.monotonic() >= self._housework:
                    self._keep_house()
            self._write_touched()
        finally:
            with self._hand.lock:
                self._hand.close()

    def _next_group(self) -> list[Writing]:
        """Wait for work, until it is time for housework."""
        pause = self._housework - time.monotonic()
        try:
            first = (
                self._queue.get(timeout=max(pause, 0.0)) if pause > 0 else self._queue.get_nowait()
            )
        except Empty:
            return []
        group: list[Writing] = []
        weight = 0
        while first is not None:
            group.append(first)
            weight += sum(work.weight for work in first.works)
            if weight >= HEAVIEST:
                return group
            try:
                first = self._queue.get_nowait()
            except Empty:
                return group
        self._is_over = self._is_left()
        return group

    def _write(self, group: Sequence[Writing]) -> None:
        now = time.monotonic()
        late = [each for each in group if now > each.give_up]
        for each in late:
            self._fail(each, timed_out(self._hand.path, each.timeout))
        on_time = [each for each in group if now <= each.give_up]
        if on_time:
            self._write_together(on_time)

    def _write_together(self, group: Sequence[Writing]) -> None:
        """Write in one transaction; when it fails, each on its own, so that one harms no other."""
        works = [work for each in group for work in each.works]
        give_up = max(each.give_up for each in group)
        timeout = max(each.timeout for each in group)
        try:
            results = self._hand.attempt(lambda link: self._run(link, works), give_up, timeout)
        except Exception as error:  # noqa: BLE001 - it is raised in those who wait
            if len(group) == 1 or isinstance(error, StorageTimeout):
                for each in group:
                    self._fail(each, error)
            else:
                for each in group:
                    self._write_together([each])
            return
        if self._has_garbage:
            self._quietly(self._take_out_garbage)
        if self._ears:
            self._ears.tell({name for work in works for name in work.ends})
        for each in group:
            each.settle({work: self._finish(work, results[work]) for work in each.works})

    def _run(self, link: Link, works: Sequence[Work]) -> dict[Work, Any]:
        db = link.db
        bounds = [work.maxbytes for work in works if work.maxbytes is not None]
        with link.transaction():
            now = self._clock.now()
            results = dict[Work, Any]()
            for kind, some in groupby(works, attrgetter("__class__")):
                results |= kind.run_all(some, db, now)
            if bounds and link.value(TOTAL) > min(bounds):
                touched, self._touched = self._touched, {}
                touch(db, touched)
                make_room(db, min(bounds))
            self._has_garbage = link.value("SELECT 1 FROM garbage LIMIT 1") is not None
        return results

    def _finish(self, work: Work, result: Any) -> Any:
        work.clean_up(self._files, result)
        try:
            return work.finish(result)
        except Exception as error:  # noqa: BLE001 - it is raised in those who wait
            return error

    def _fail(self, writing: Writing, error: Exception) -> None:
        for work in writing.works:
            work.clean_up(self._files)
        writing.settle(dict.fromkeys(writing.works, error))

    # --- housework ------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        self._housework = time.monotonic() + HOUSEWORK_EVERY
        self._write_touched()
        self._quietly(self._tidy)

    def _quietly(self, do: Callable[[Link], None]) -> None:
        """Do what can as well be done later."""
        give_up = time.monotonic() + HOUSEWORK_MAY_WAIT
        try:
            self._hand.attempt(do, give_up, HOUSEWORK_MAY_WAIT)
        except StorageError as error:
            logger.debug("housework is put off: %s", error)
        except Exception:
            # Without this thread nobody could write any more.
            logger.exception("housework on %s failed, which is a defect of gecaso", self._hand.path)

    def _write_touched(self) -> None:
        touched, self._touched = self._touched, {}

        def write(link: Link) -> None:
            with link.transaction():
                touch(link.db, touched)

        if touched:
            self._quietly(write)

    def _tidy(self, link: Link) -> None:
        now = self._clock.now()
        if is_due(link.db, now):
            with link.transaction():
                buried = bury(link.db, now, BURIED_AT_ONCE)
            if buried == BURIED_AT_ONCE:
                self._housework = 0.0  # there are more; but first come those who wait
        self._take_out_garbage(link)
        if link.value("PRAGMA freelist_count") > SPARE_PAGES:
            # `execute` would stop after the first page: it takes the pragma for a statement
            # without rows.
            link.db.executescript(f"PRAGMA incremental_vacuum({SPARE_PAGES})")
        if time.monotonic() >= self._sweep:
            self._sweep = time.monotonic() + SWEEP_EVERY
            self._files.sweep(lambda name: is_used(link.db, name))

    def _take_out_garbage(self, link: Link) -> None:
        """Remove the files that entries no longer refer to."""
        found = link.db.execute("SELECT rowid, file FROM garbage LIMIT 1000").fetchall()
        if found:
            self._files.remove(file for _, file in found)
            with link.transaction():
                link.db.executemany(
                    "DELETE FROM garbage WHERE rowid = ?", [row[:1] for row in found]
                )

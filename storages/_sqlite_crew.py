"""The threads of this process that work on one file, for all its storages and event loops.

One thread writes, in transactions shared by all that is waiting; up to four read. They start at
the first use and end with the last user. Before the process forks all connections are closed, as
SQLite demands, and opened again afterwards: by the parent at its next operation, by the child in
threads of its own.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final, Protocol

from gecaso.errors import StorageError

from ._sqlite_clock import Clock
from ._sqlite_ears import Ears
from ._sqlite_files import Files
from ._sqlite_hands import Hand
from ._sqlite_schema import forget_locks, go_on_opening, stop_opening
from ._sqlite_writer import Writer, Writing

__all__ = ["PATIENCE", "Crew", "Reading", "crew_of"]

MOST_READERS: Final = 4
PATIENCE: Final = 5.0  # seconds that a fork, or the end of the process, waits for the threads


class Reading(Protocol):
    """What a reader does in its thread; whatever comes of it is told there as well."""

    def read(self, hand: Hand) -> None: ...


Report = Callable[[StorageError], None]


class Crew:
    """The threads for one file; made by `crew_of`."""

    def __init__(self, path: str, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.files = Files(path)
        self.ears = Ears()
        self.reports: dict[object, Report] = {}  # of each user
        self._pid = os.getpid()
        self._held: dict[Hand, bool] = {}
        self._departed: deque[object] = deque()
        self._lock = threading.Lock()
        self._reads: SimpleQueue[Reading | None] = SimpleQueue()
        self._readers = 0
        self._hands: list[Hand] = []
        self._alive = 0
        self._threads: list[threading.Thread] = []
        self._writer: Writer | None = None
        self._is_over = False
        self.over: Future[None] = Future()
        """Set when all threads have ended, after the last user has left."""

    def __repr__(self) -> str:
        return f"<Crew of {self.path}: {self._alive} threads, {len(self.reports)} users>"

    def connections(self) -> int:
        return sum(hand.is_open for hand in self._hands)

    # --- work -----------------------------------------------------------------------------------

    def read(self, reading: Reading) -> None:
        """Have a reader do it; another one starts when there is more than they can take on."""
        readers = self._readers
        if not readers or (readers < MOST_READERS and self._reads.qsize()):
            self._start_reader()
        self._reads.put(reading)

    def write(self, writing: Writing) -> None:
        """Have it written after what came before."""
        (self._writer or self._start_writer()).put(writing)

    def touch(self, names: Iterable[bytes], now: float) -> None:
        """Have it written down, some time, that these entries were used."""
        (self._writer or self._start_writer()).touch(names, now)

    def _start_reader(self) -> None:
        with self._lock:
            self._readers += 1
            self._start("reader", self._serve, self._new_hand())

    def _start_writer(self) -> Writer:
        with self._lock:
            if self._writer is None:
                self._writer = writer = Writer(
                    self._new_hand(), self.clock, self.files, self.ears, self._is_left
                )
                self._start("writer", writer.serve)
                if self._is_over:
                    writer.stop()
            return self._writer

    def _new_hand(self) -> Hand:
        hand = Hand(self.path, self.clock, self._report)
        self._hands.append(hand)
        return hand

    def _start(self, name: str, target: Callable[..., None], *args: object) -> None:
        # A daemon, because the interpreter joins all others before it runs the atexit hook below.
        self._alive += 1
        thread = threading.Thread(
            target=self._live, args=(target, *args), name=f"gecaso sqlite {name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _live(self, target: Callable[..., None], *args: object) -> None:
        try:
            target(*args)
        finally:
            with self._lock:
                self._alive -= 1
                self._check_end()

    def _check_end(self) -> None:
        if self._is_over and not self._alive and not self.over.done():
            self.over.set_result(None)

    def _serve(self, hand: Hand) -> None:
        while True:
            reading = self._reads.get()
            if reading is None:
                if self._is_left():
                    break
                continue
            reading.read(hand)
            del reading  # and what it holds, while this thread waits
        with hand.lock:
            hand.close()

    def _report(self, error: StorageError) -> None:
        for report in list(self.reports.values()):
            report(error)

    # --- coming and going -----------------------------------------------------------------------

    def leave(self, user: object) -> bool:
        """Forget a user; return whether it was the last: the threads do what waits, and end."""
        if self._pid != os.getpid():
            return False  # they are the parent's
        with _crews_lock:
            if self.reports.pop(user, None) is None or self.reports:
                return False
            if _crews.get(self.path) is self:
                del _crews[self.path]
        with self._lock:
            self._is_over = True
            for _ in range(self._readers):
                self._reads.put(None)
            if self._writer is not None:
                self._writer.stop()
            self._check_end()
        return True

    def depart(self, user: object) -> None:
        """Forget a user soon: for finalizers, which run anywhere, and so must not wait for locks.

        One of the threads does it; what has none has nothing to end.
        """
        self._departed.append(user)
        if self._readers:
            self._reads.put(None)
        elif self._writer is not None:
            self._writer.stop()

    def _is_left(self) -> bool:
        """Forget who has departed; return whether that was the last user."""
        while self._departed:
            self.leave(self._departed.popleft())
        return self._is_over

    def join(self, timeout: float) -> None:
        """Wait for the threads to be gone, once they are `over`."""
        for thread in self._threads:
            thread.join(timeout)

    def hold(self) -> bool:
        """Before a fork: wait for what is being done, and close all connections.

        Returns False when there was nothing left to hold.
        """
        new = [hand for hand in self._hands if hand not in self._held]
        for hand in new:
            is_ours = self._held[hand] = hand.lock.acquire(timeout=PATIENCE)
            if is_ours:
                hand.close()
        return bool(new)

    def go_on(self) -> None:
        held, self._held = self._held, {}
        for hand, is_ours in held.items():
            if is_ours:
                hand.lock.release()


_crews: dict[str, Crew] = {}
_crews_lock = threading.Lock()
_all_crews: weakref.WeakSet[Crew] = weakref.WeakSet()  # those too whose threads are about to end


def crew_of(path: str, clock: Clock, user: object, report: Report) -> Crew:
    """Return the crew of a file, which ``user`` has joined.

    ``report(error)`` is called, in any thread, when a file was damaged and what it had is lost.
    """
    crew = _crews.get(path)
    if crew is not None:
        crew._is_left()  # pyright: ignore[reportPrivateUsage] - this is how to join one
    with _crews_lock:
        crew = _crews.get(path)
        if crew is None:
            crew = _crews[path] = Crew(path, clock)
            _all_crews.add(crew)
        crew.reports[user] = report
        return crew


def _hold_all() -> bool:
    held = [crew.hold() for crew in list(_all_crews)]
    return any(held)


def _before_fork() -> None:
    while True:
        while _hold_all():
            pass
        stop_opening()
        if not _hold_all():
            return
        go_on_opening()  # a thread has come in between


def _after_fork_in_parent() -> None:
    go_on_opening()
    for crew in list(_all_crews):
        crew.go_on()


def _after_fork_in_child() -> None:
    global _crews_lock
    _crews_lock = threading.Lock()
    _crews.clear()
    _all_crews.clear()
    forget_locks()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


@atexit.register
def _end_all() -> None:
    for crew in list(_crews.values()):
        for user in list(crew.reports):
            crew.leave(user)
        concurrent.futures.wait([crew.over], timeout=PATIENCE)

"""What goes wrong, and when: by a schedule that a seed decides."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from math import inf

from tests.soak.checker import Window
from tests.soak.crew import Crew
from tests.soak.places import Place

__all__ = ["Trouble"]

SHORT, LONG = 0.2, 3.0  # seconds of a fault
SETTLING = 1.0  # seconds that trouble may outlast its cause


class Trouble:
    """Two threads that do harm: one to the servers, one to the workers."""

    def __init__(
        self, places: Mapping[int, Place], crew: Crew, *, seed: int, calm: tuple[float, float]
    ) -> None:
        self._windows: dict[tuple[str, float], Window] = {}
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._places = places
        self._crew = crew
        self._calm = calm
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(act, random.Random(f"{seed} {name}")))
            for name, act in (("servers", self._harm_servers), ("workers", self._harm_workers))
        ]

    @property
    def windows(self) -> list[Window]:
        """The times of trouble up to now."""
        with self._lock:
            return list(self._windows.values())

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the trouble; every server runs afterwards."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        if self.error is not None:
            raise self.error

    def _run(self, act: Callable[[random.Random], None], choose: random.Random) -> None:
        try:
            while not self._is_over.wait(choose.uniform(*self._calm)):
                act(choose)
        except BaseException as error:  # noqa: BLE001 - raised where the run ends
            self.error = error

    def _harm_servers(self, choose: random.Random) -> None:
        number = choose.choice(sorted(self._places))
        place = self._places[number]
        name = choose.choice(sorted(place.faults))
        seconds = choose.uniform(SHORT, LONG)
        self._inject(f"{type(place).__name__}: {name}", number, lambda: place.faults[name](seconds))

    def _harm_workers(self, choose: random.Random) -> None:
        seconds = choose.uniform(SHORT, 1.5 * LONG)
        if choose.random() < 0.5 and self._crew.mortals:
            victim = choose.choice(self._crew.mortals)
            self._inject("worker: SIGKILL, and a new one", None, lambda: self._crew.kill(victim))
        else:
            victim = choose.randrange(len(self._crew.members))
            self._inject("worker: pause", None, lambda: self._crew.pause(victim, seconds))

    def _inject(self, name: str, place: int | None, act: Callable[[], None]) -> None:
        begin = time.monotonic()
        # Known from its beginning on: a round may be judged while it goes on.
        with self._lock:
            self._windows[name, begin] = Window(place, begin, inf)
        try:
            act()
        finally:
            with self._lock:
                self._windows[name, begin] = Window(place, begin, time.monotonic() + SETTLING)
                self.counts[name] += 1

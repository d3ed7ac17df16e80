"""A run from its beginning to its end."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.soak.checker import judge
from tests.soak.crew import Crew, Gauges
from tests.soak.faults import Trouble
from tests.soak.places import EVERY, PLACES, Place
from tests.soak.report import Results
from tests.soak.worker import Settings

__all__ = ["soak"]

FINISH = 10.0  # seconds after a round until what began in it has ended


def soak(
    seconds: float,
    *,
    seed: int,
    workers: int = 4,
    places: Sequence[str] = tuple(PLACES),
    pace: float = 0.05,
    calm: tuple[float, float] = (1.0, 5.0),
) -> Results:
    """Let workers and faults loose for so many seconds; return what came of it.

    ``pace`` is the mean time between two operations of one of a worker's callers; ``calm`` the
    least and longest time between two faults.
    """
    results = Results(seed, seconds, workers)
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        numbers = {list(EVERY).index(name): name for name in places}
        opened = {number: EVERY[name]() for number, name in numbers.items()}
        for place in opened.values():
            stack.callback(place.close)
            place.start()
        round_seconds = min(30.0, max(5.0, seconds / 3))
        start = time.monotonic()
        addresses = {name: opened[number].address for number, name in numbers.items()}
        settings = Settings(0, seed, start, round_seconds, pace, str(folder), addresses)
        crew = Crew(workers, settings)
        stack.callback(crew.close)
        _run(results, crew, opened, settings, calm)
        results.stderr = (folder / "stderr.txt").read_text()
        troubles = sorted(folder.glob("trouble-*.txt"))
        results.troubles = "".join(path.read_text() for path in troubles)
    return results


def _run(
    results: Results,
    crew: Crew,
    places: dict[int, Place],
    settings: Settings,
    calm: tuple[float, float],
) -> None:
    folder, length = Path(settings.folder), settings.seconds
    crew.wait_until_ready()
    begun = time.monotonic()
    until = begun + results.seconds
    gauges = Gauges(crew, begun, min(1.0, results.seconds / 20))
    trouble = Trouble(places, crew, seed=settings.seed, calm=calm)
    gauges.start()
    trouble.start()
    try:
        while (due := settings.start + (results.rounds + 1) * length + FINISH) < until:
            _sleep_until(due)
            results.verdict.add(judge(folder, results.rounds, trouble.windows))
            results.rounds += 1
        _sleep_until(until)
    finally:
        trouble.stop()
        gauges.stop()
    results.left = crew.end()
    for number in range(results.rounds, int((time.monotonic() - settings.start) / length) + 1):
        results.verdict.add(judge(folder, number, trouble.windows))
        results.rounds += 1
    results.faults, results.samples = trouble.counts, gauges.samples


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


@contextmanager
def _folder() -> Generator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gecaso-soak-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

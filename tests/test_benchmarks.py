"""The bench computes what it says: shown with clocks that go by plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness import (
    Benchmark,
    Measurement,
    Row,
    Scale,
    Spread,
    Stopwatch,
    Target,
    compare,
    spread,
)
from benchmarks.table import as_json, as_markdown, cells


class Clock:
    """Time that passes when told to, on the wall and, half as fast, for the processor."""

    def __init__(self) -> None:
        self.now = 0.0

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(lambda: self.now, lambda: self.now / 2)

    def taking(
        self, seconds: Callable[[], float], log: list[str] | None = None, name: str = ""
    ) -> Measurement:
        """Return a measurement of ten operations that takes so long."""

        async def measure(watch: Stopwatch) -> None:
            if log is not None:
                log.append(name)
            self.now += 100  # preparations, which do not count
            with watch.over(10):
                self.now += seconds()

        return measure


async def test_a_ratio_is_that_of_the_subject_to_the_bases_around_it() -> None:
    clock = Clock()
    base_times = iter([0.0, 0.0, 1.0, 3.0, 2.0, 6.0])
    base = clock.taking(lambda: next(base_times))
    subject = clock.taking(lambda: 1.0)

    result = (await compare(base, {"it": subject}, rounds=2, stopwatch=clock.stopwatch))["it"]

    assert [cost.wall for cost in result.bases] == [0.2, 0.4]  # of ten operations, twice
    assert result.speed_ratio() == spread([2.0, 4.0])
    assert list(result.seconds) == pytest.approx([0.1, 0.3])
    assert list(result.processor_seconds) == pytest.approx([0.05, 0.15])
    assert result.processor_ratio() == spread([0.5, 0.25])


async def test_each_subject_runs_between_two_runs_of_the_base_and_the_first_round_is_no_part() -> (
    None
):
    clock, log = Clock(), list[str]()
    measurements = {name: clock.taking(lambda: 1.0, log, name) for name in ("base", "a", "b")}
    base = measurements.pop("base")

    results = await compare(base, measurements, rounds=2, stopwatch=clock.stopwatch)

    assert log == ["base", "a", "base", "b", "base"] * 3
    assert [len(result.subjects) for result in results.values()] == [2, 2]


async def test_a_run_of_the_base_is_the_neighbour_of_both_subjects_around_it() -> None:
    clock = Clock()
    base_times = iter([0.0] * 3 + [10.0, 30.0, 90.0])
    base = clock.taking(lambda: next(base_times))
    subjects = {name: clock.taking(lambda: 10.0) for name in ("first", "second")}

    results = await compare(base, subjects, rounds=1, stopwatch=clock.stopwatch)

    assert [results[name].bases[0].wall for name in subjects] == [2.0, 6.0]


async def test_what_slows_subject_and_base_alike_leaves_their_ratio_alone() -> None:
    clock = Clock()
    slowness = iter([1.0] * 3 + [1.0] * 3 + [7.0] * 3 + [30.0] * 3)
    base = clock.taking(lambda: 4 * next(slowness))
    subject = clock.taking(lambda: next(slowness))

    results = await compare(base, {"it": subject}, rounds=3, stopwatch=clock.stopwatch)

    assert results["it"].processor_ratio() == Spread(0.25, 0.25, 0.25)
    assert results["it"].speed_ratio() == Spread(4.0, 4.0, 4.0)


async def test_a_measurement_that_forgets_its_stopwatch_is_an_error() -> None:
    async def forgetful(_: Stopwatch) -> None: ...

    with pytest.raises(RuntimeError, match="never ran its stopwatch"):
        await compare(forgetful, {}, rounds=1)


@pytest.mark.parametrize(
    ("target", "reached", "missed"),
    [(Target("≤", 0.23), 0.23, 0.24), (Target("≥", 18), 18.0, 17.9), (Target("=", 1), 1, 2)],
)
def test_a_target_is_reached_on_its_own_side(target: Target, reached: float, missed: float) -> None:
    assert target.is_reached(reached)
    assert not target.is_reached(missed)


def test_a_target_is_judged_by_the_median() -> None:
    row = Row(work="w", subject="s", measured=Spread(0.2, 0.1, 0.9), target=Target("≤", 0.2))
    assert row.is_reached
    assert Row(work="w", subject="s", measured=Spread(0.2, 0.1, 0.9)).is_reached is None


def test_a_benchmark_that_fails_has_a_row_that_says_so() -> None:
    def broken(_: Scale) -> list[Row]:
        raise OSError("the server is gone\nmore of it")

    (row,) = Benchmark("hits on a server", broken).rows(Scale.of(quick=True))

    assert row.error == "OSError: the server is gone"
    assert {"hits on a server", "OSError: the server is gone", "FAILED"} <= set(cells(row))


def test_a_row_shows_ratio_quartiles_times_and_whether_the_target_is_reached() -> None:
    row = Row(
        work="hit",
        subject="gecaso",
        against="another",
        measured=Spread(0.25, 0.2, 0.3),
        seconds=(1.5e-7, 6e-7),
        target=Target("≤", 0.23),
    )

    expected = ("0.250 ×", "0.200 – 0.300", "150 ns / 600 ns", "≤ 0.23", "NO")
    assert cells(row) == ("hit", "gecaso", "another", *expected)
    assert as_markdown([row]).splitlines()[2] == f"| {' | '.join(cells(row))} |"
    assert json.loads(json.dumps(as_json([row])))[0]["reached"] is False


def test_every_family_of_the_command_is_a_module_of_the_bench() -> None:
    from benchmarks.__main__ import FAMILIES

    folder = Path(__file__).parents[1] / "benchmarks"
    with_rows = {path.stem for path in folder.glob("*.py") if "BENCHMARKS = [" in path.read_text()}
    assert set(FAMILIES) == with_rows

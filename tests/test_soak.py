"""The soak in short; and that its checker finds what it is there to find."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CI
from tests.servers import MissingServer
from tests.soak.checker import PROMISES, Verdict, Window, judge
from tests.soak.crew import Sample
from tests.soak.records import Flag, Log, Sort, make_token, name_of
from tests.soak.report import Results, flatness, page, picture
from tests.soak.run import soak

ALONE, ERROR, FAILED, RUNNING = Flag.IN_TROUBLE, Flag.ERROR, Flag.FAILED, Flag.RUNNING


def run(seconds: float, **options: Any) -> Results:
    try:
        return soak(seconds, **options)
    except MissingServer as missing:
        if CI:
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.mark.process
@pytest.mark.fault
def test_a_short_soak_over_every_kind_of_storage_breaks_no_promise() -> None:
    results = run(6.0, seed=7, workers=2, calm=(0.2, 1.0))
    assert results.problems == [], page(results)
    assert results.verdict.operations["reads"] > 100
    assert results.faults.total() >= 3


@pytest.mark.process
def test_a_storage_without_fences_is_found_out() -> None:
    results = run(6.0, seed=7, workers=3, places=["unfenced"], pace=0.005, calm=(60.0, 60.0))
    assert results.violations.keys() & {"G2", "G5b"}, page(results)
    assert "a stale read" in page(results)


# --- the checker ----------------------------------------------------------------------------------


class Past:
    """Operations written down by hand: who did what, and when."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs: dict[int, Log] = {}

    def did(
        self,
        worker: int,
        sort: Sort,
        begin: float,
        end: float = inf,
        made_by: int = 1,
        number: int = 0,
        flag: Flag = Flag.NONE,
        key: int = 0,
    ) -> None:
        log = self.logs.setdefault(worker, Log(self.folder, worker, 0.0, 30.0))
        log.write(0, sort, key, begin, end, make_token(made_by, number) if number else 0, flag)

    def judged(self, *windows: Window) -> Verdict:
        for log in self.logs.values():
            log.close()
        return judge(self.folder, 0, windows)

    def broken(self, *windows: Window) -> set[str]:
        return set(self.judged(*windows).violations)


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def test_what_is_as_it_should_be_is_no_violation_and_its_files_go(past: Past) -> None:
    past.did(1, Sort.LOAD, 1, flag=RUNNING, number=1)
    past.did(1, Sort.LOAD, 1, 2, number=1)
    past.did(1, Sort.READ, 0.5, 2.5, number=1)
    past.did(2, Sort.READ, 3, 4, number=1)
    verdict = past.judged()
    assert verdict.violations == {}
    assert verdict.operations == {"loads": 1, "reads": 2}
    assert list(past.folder.iterdir()) == []


def test_a_read_of_what_was_loaded_before_an_invalidation_elsewhere_is_a_violation(
    past: Past,
) -> None:
    past.did(1, Sort.LOAD, 1, 4, number=1)
    past.did(2, Sort.INVALIDATE, 2, 3)
    past.did(1, Sort.READ, 3.5, 5, number=1)
    assert past.broken() == {"G2"}
    assert len(list(past.folder.iterdir())) == 2  # it stays, for a person to look at


def test_a_read_of_what_was_loaded_before_a_put_is_a_violation(past: Past) -> None:
    past.did(1, Sort.LOAD, 1, 1.5, number=1)
    past.did(2, Sort.PUT, 2, 3, made_by=2, number=1)
    past.did(3, Sort.READ, 3.5, 5, number=1)
    assert past.broken() == {"G2"}


def test_who_overlaps_an_invalidation_may_get_either(past: Past) -> None:
    past.did(1, Sort.LOAD, 1, 1.5, number=1)
    past.did(2, Sort.INVALIDATE, 2, 3)
    past.did(3, Sort.READ, 2.9, 5, number=1)
    assert past.broken() == set()


def test_an_invalidation_that_failed_binds_its_own_process_alone(past: Past) -> None:
    past.did(1, Sort.LOAD, 1, 1.5, number=1)
    past.did(2, Sort.INVALIDATE, 2, 3, flag=FAILED)
    past.did(3, Sort.READ, 3.5, 5, number=1)
    assert past.broken() == set()
    past.did(2, Sort.READ, 3.5, 5, number=1)


def test_the_process_itself_never_gets_what_it_tried_to_invalidate(past: Past) -> None:
    past.did(1, Sort.LOAD, 1, 1.5, number=1)
    past.did(2, Sort.INVALIDATE, 2, 3, flag=FAILED)
    past.did(2, Sort.READ, 3.5, 5, number=1)
    assert past.broken() == {"G5b"}


def test_a_put_that_failed_may_arrive_after_an_invalidation(past: Past) -> None:
    past.did(1, Sort.PUT, 1, 1.5, number=1, flag=FAILED)
    past.did(2, Sort.INVALIDATE, 2, 3)
    past.did(3, Sort.READ, 3.5, 5, number=1)
    assert past.broken() == set()


def test_a_put_of_a_process_that_was_killed_may_arrive_too(past: Past) -> None:
    past.did(1, Sort.PUT, 1, flag=RUNNING, number=1)
    past.did(2, Sort.INVALIDATE, 2, 3)
    past.did(3, Sort.READ, 3.5, 5, number=1)
    assert past.broken() == set()


@pytest.mark.parametrize(
    ("reader", "begin", "by", "broken"),
    [
        (1, 3.5, 2, set[str]()),  # it joined the load before that ended
        (1, 4.7, 2, {"G2"}),  # the load was over: it must have been stored
        (2, 3.5, 3, {"G2"}),  # nobody else can have joined it
        (1, 3.5, 1, {"G5b"}),  # its own invalidations bind it always
    ],
)
def test_a_load_without_a_lease_is_for_those_who_joined_it(
    past: Past, reader: int, begin: float, by: int, broken: set[str]
) -> None:
    past.did(1, Sort.LOAD, 1, 4, number=1, flag=ALONE)
    past.did(by, Sort.INVALIDATE, 2, 3)
    past.did(reader, Sort.READ, begin, 5, number=1)
    assert past.broken() == broken


def test_two_loads_at_once_are_a_violation_unless_something_explains_them(past: Past) -> None:
    past.did(1, Sort.LOAD, 10, 12, number=1)
    past.did(2, Sort.LOAD, 11, 13, made_by=2, number=1)
    assert past.broken() == {"G1"}


def test_two_loads_at_once_with_an_invalidation_between_them_are_right(past: Past) -> None:
    past.did(1, Sort.LOAD, 10, 12, number=1)
    past.did(3, Sort.INVALIDATE, 10.2, 10.4)
    past.did(2, Sort.LOAD, 11, 13, made_by=2, number=1)
    verdict = past.judged()
    assert verdict.violations == {}
    assert verdict.allowed["loads side by side, with a reason"] == 1


@pytest.mark.parametrize(
    ("window", "broken"),
    [
        (Window(0, 8, 9), set[str]()),
        (Window(None, 10.5, 20), set[str]()),
        (Window(1, 8, 9), {"G1"}),  # of another place
        (Window(0, 1, 6), {"G1"}),  # long over
    ],
)
def test_faults_explain_loads_at_once(past: Past, window: Window, broken: set[str]) -> None:
    past.did(1, Sort.LOAD, 10, 12, number=1)
    past.did(2, Sort.LOAD, 11, 13, made_by=2, number=1)
    assert past.broken(window) == broken


def test_an_exception_is_for_those_who_shared_its_load(past: Past) -> None:
    past.did(1, Sort.LOAD, 1, 2, number=1, flag=ERROR)
    past.did(2, Sort.READ, 4.5, 5, number=1, flag=ERROR)
    assert past.broken() == {"G6"}


@pytest.mark.parametrize(("key", "broken"), [(0, {"G11"}), (3, set[str]())])
def test_nothing_is_older_than_its_ttl(past: Past, key: int, broken: set[str]) -> None:
    past.did(1, Sort.LOAD, 1, 2, number=1, key=key)
    past.did(2, Sort.READ, 8.1, 9, number=1, key=key)
    assert past.broken() == broken


def test_a_foreign_value_and_a_call_that_failed_are_violations(past: Past) -> None:
    past.did(1, Sort.FOREIGN, 1, 2, number=1)
    past.did(1, Sort.FAILED, 1, 2)
    assert past.broken() == {"G4", "G5"}


def test_a_value_that_nobody_made_is_a_violation(past: Past) -> None:
    past.did(1, Sort.READ, 1, 2, number=9)
    assert "G2" in past.broken()


def test_names_of_keys_tell_place_and_round() -> None:
    assert name_of(3, 17, 5) == "3.17.5"


# --- the page -------------------------------------------------------------------------------------


def test_memory_that_grows_is_told(tmp_path: Path) -> None:
    samples = [
        Sample(at, worker, 1000 + worker * at, 9, 3) for at in range(400) for worker in (0, 1)
    ]
    growth = flatness(samples, 400)
    assert growth[0] == 0
    assert growth[1] > 0.05
    results = Results(1, 400, 2, samples=samples)
    results.verdict.operations["reads"] = 1
    assert results.problems == [f"the memory of worker 1 grew by {growth[1]:.1%}"]
    text = page(results)
    assert "max 1,399" in text
    assert all(f"**{promise}**" in text for promise in PROMISES)


def test_a_picture_is_drawn_where_it_can_be(tmp_path: Path) -> None:
    samples = [Sample(at, 0, 1000, 9, 3) for at in range(9)]
    path = tmp_path / "page.png"
    assert picture(Results(1, 9, 1, samples=samples), path) is path.exists()

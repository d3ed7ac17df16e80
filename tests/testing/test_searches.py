"""The cache and its flights in chosen orders: nothing is wrong in 10,000 schedules a mechanism.

``GECASO_SCHEDULES=1000000`` searches longer; so does `scripts/prove`, on all cores. That the search
finds what is wrong is shown by breaking one guard after the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from gecaso.flight import Flight
from gecaso.leases import LeaseTable
from gecaso.storages import _memcached_leases
from gecaso.storages import _redis_scripts as sent
from gecaso.testing import ScheduleFailed, explorer
from tests.models import redis_scripts
from tests.models.patches import Patch, method_that
from tests.models.redis_model import RedisModel
from tests.prove import Found, jobs, searched
from tests.searches import MECHANISMS, search

SCHEDULES = int(os.environ.get("GECASO_SCHEDULES", "10000"))
WITHIN = 2000  # schedules within which a broken guard must be found
SEED = 4  # with 0, one of them takes longer

# Each mechanism's programs are found to be right in worker processes, all in one go.
Results = dict[str, list[Found]]


@pytest.fixture(scope="module")
def results() -> Results:
    found: Results = {name: [] for name in MECHANISMS}
    for one in searched(jobs(SCHEDULES, 0, list(MECHANISMS)), processes=os.cpu_count() or 1):
        found[one.job.mechanism].append(one)
        if one.trouble:
            break
    return found


@pytest.mark.timeout(600 + SCHEDULES // 10)  # a machine may be busy with other things
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_schedule_of_any_program_breaks_a_promise(mechanism: str, results: Results) -> None:
    for one in results[mechanism]:
        assert not one.trouble, f"{one.job}\n{one.trouble}"
    if any(one.trouble for many in results.values() for one in many):
        pytest.skip("another mechanism was found to be wrong, and the search ended there")
    assert sum(one.job.schedules for one in results[mechanism]) == SCHEDULES


# --- that it would be found ---------------------------------------------------------------------


def without(owner: Any, name: str, result: Any = None) -> Patch:
    """Return a patch under which a method does nothing."""
    return method_that(owner, name, lambda right, args: result)


def with_script(script: bytes, wrong: Callable[..., int]) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        known = redis_scripts.SCRIPTS[script]
        monkeypatch.setitem(redis_scripts.SCRIPTS, script, known._replace(run=wrong))

    return patch


def commits_without_looking(call: Any, keys: list[bytes], argv: list[bytes]) -> int:
    call(b"SET", keys[0], *argv[1:])
    call(b"DEL", keys[1])
    call(b"PUBLISH", keys[1], b"")
    return 1


def discards_without_the_lease(call: Any, keys: list[bytes], argv: list[bytes]) -> int:
    call(b"UNLINK", keys[0])
    return 1


def everybody_gets_it(right: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    outcome = args[0].outcome
    if outcome is not None and outcome.upto != -1:
        outcome.upto = None
    return right(*args)


BROKEN: dict[str, tuple[str, Patch]] = {
    "in memory no lease is killed": ("memory", without(LeaseTable, "kill")),
    "in memory a commit looks at no lease": ("memory", without(LeaseTable, "owns", True)),
    "in memory who joined late gets it, too": (
        "memory",
        method_that(Flight, "result", everybody_gets_it),
    ),
    "in Redis a commit looks at no lease": (
        "redis",
        with_script(sent.COMMIT, commits_without_looking),
    ),
    "in Redis a discard leaves the lease": (
        "redis",
        with_script(sent.DISCARD, discards_without_the_lease),
    ),
    "in Redis who joined late gets it, too": (
        "redis",
        method_that(Flight, "result", everybody_gets_it),
    ),
    "in Redis nobody is told": ("redis", without(RedisModel, "publish", 0)),
    "in memcached who joined late gets it, too": (
        "memcached",
        method_that(Flight, "result", everybody_gets_it),
    ),
    "in memcached any mark is taken for one's own": (
        "memcached",
        without(_memcached_leases, "is_mark_of", True),
    ),
}


@pytest.fixture
def unshrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is found is enough here; the simplest schedule is not looked for."""
    monkeypatch.setattr(explorer, "MOST_SHRINKS", 0)


@pytest.mark.usefixtures("unshrunk")
@pytest.mark.parametrize("guard", BROKEN)
def test_a_broken_guard_is_found(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mechanism, patch = BROKEN[guard]
    patch(monkeypatch)
    with pytest.raises(ScheduleFailed):
        search(mechanism, schedules=WITHIN, seed=SEED)

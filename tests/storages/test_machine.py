"""Each kind of storage does what two dicts do, whatever order things are done in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from gecaso import EntryStorage, LRUStorage, MemoryStorage
from gecaso.storage import adapt
from gecaso.storages import MemcachedStorage, PostgresStorage, RedisStorage, SQLiteStorage
from gecaso.storages._memcached_records import ServerClock
from tests.conftest import LONG
from tests.doubles import FakeClock
from tests.storages.machine import Machine, Stage
from tests.storages.memcached_kit import pass_time
from tests.storages.three_methods import PackingStorage

EXAMPLES = 1000 if LONG else 12
PATIENT: dict[str, Any] = {"timeout": 10.0}
"""A busy machine is no trouble of the storage."""
KINDS = (
    *("memory", "isolated memory", "lru", "lru over memory"),
    *("three methods", "lru over three methods"),
    *("redis", "lru over redis", "memcached", "lru over memcached", "memcached pool"),
    *("sqlite", "sqlite with files", "lru over sqlite", "postgres"),
)

Opened = tuple[EntryStorage, Callable[[float], None] | None]


def in_memory(kind: str) -> tuple[EntryStorage, EntryStorage, Callable[[float], None]]:
    clock = FakeClock()
    storage: EntryStorage = MemoryStorage(clock=clock, isolate=kind == "isolated memory")
    if kind == "lru over memory":
        storage = LRUStorage(storage, maxsize=1000)
    return storage, storage, clock.advance


def client(kind: str, request: pytest.FixtureRequest, path: Path) -> EntryStorage:
    """Return one client of a storage that several may use."""
    match kind:
        case "redis":
            return RedisStorage(request.getfixturevalue("redis_url"), namespace="m", **PATIENT)
        case "memcached":
            return MemcachedStorage(request.getfixturevalue("memcached_url"), **PATIENT)
        case "memcached pool":
            return MemcachedStorage(request.getfixturevalue("memcached_pool"), **PATIENT)
        case "sqlite":
            return SQLiteStorage(path / "cache.db", **PATIENT)
        case "sqlite with files":
            return SQLiteStorage(path / "cache.db", large=1, **PATIENT)
        case "postgres":
            return PostgresStorage(request.getfixturevalue("postgres_url"), **PATIENT)
        case _:
            raise ValueError(kind)


@pytest.fixture(params=KINDS)
def stage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    kind: str = request.param
    # The clock of memcached is moved in the eyes of its clients, who must not look at it again.
    monkeypatch.setattr(ServerClock, "measure", nothing)
    with asyncio.Runner() as runner:
        stage = a_stage(kind, request, tmp_path, runner.run)
        yield stage
        for each in dict.fromkeys(stage.clients):
            runner.run(each.aclose())


def a_stage(
    kind: str, request: pytest.FixtureRequest, path: Path, run: Callable[[Any], Any]
) -> Stage:
    if kind in ("memory", "isolated memory", "lru over memory"):
        *both, advance = in_memory(kind)
        return Stage((both[0], both[1]), run, advance)
    if kind == "lru":
        storage: EntryStorage = LRUStorage(maxsize=1000)
        return Stage((storage, storage), run)
    if "three methods" in kind:
        three = PackingStorage()
        storage = adapt(three) if kind == "three methods" else LRUStorage(three, maxsize=1000)
        return Stage((storage, storage), run, has_versions=False)
    below = kind.removeprefix("lru over ")
    inner = client(below, request, path), client(below, request, path)
    moving = None
    if isinstance(inner[0], MemcachedStorage):
        moving = partial(move, *inner)
    one, other = (
        inner if below == kind else (LRUStorage(inner[0], 1000), LRUStorage(inner[1], 1000))
    )
    return Stage((one, other), run, moving, can_clear=moving is None)


def nothing(*_: object, **__: object) -> None: ...


def move(one: Any, other: Any, seconds: float) -> None:
    pass_time(seconds, one, other)


def test_a_storage_does_what_a_dict_does(stage: Stage) -> None:
    make: Any = partial(Machine, stage)  # all that is asked of it is to be called
    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=[HealthCheck.too_slow],  # a busy machine
        ),
    )
    assert len(set(stage.moments)) > 5  # it did something

"""Who joins a load while the answer to its commit is on its way looks for himself."""

from __future__ import annotations

import asyncio

import pytest

from tests.scenes import Place, Process, Truth, hold, place_for


@pytest.fixture(params=["redis", "memcached"])
def place(request: pytest.FixtureRequest) -> Place:
    return place_for(request)


async def test_after_an_invalidation_between_a_commit_and_its_answer_nobody_gets_the_old_value(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = Truth()
    async with place.open() as here, place.open() as there:
        process, other = Process(here, truth), Process(there, truth)
        commit = hold(monkeypatch, here, "commit", after=True)
        early = process.call()
        await commit.is_reached()
        truth.version = 1
        await other.thing.invalidate(1)
        late = process.call()
        await process.joined(1)
        commit.go.set()
        assert await early == "1 in version 0"
        assert await late == "1 in version 1"


async def test_without_one_he_gets_the_value_without_a_load(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = Truth()
    async with place.open() as here:
        process = Process(here, truth)
        commit = hold(monkeypatch, here, "commit", after=True)
        early = process.call()
        await commit.is_reached()
        late = [process.call() for _ in range(20)]
        await process.joined(20)
        commit.go.set()
        assert set(await asyncio.gather(early, *late)) == {"1 in version 0"}
        assert truth.loads == 1

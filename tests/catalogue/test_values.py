"""The catalogue: the value itself is not what it was, or not what the code expects."""

from __future__ import annotations

import asyncio
from dataclasses import make_dataclass
from typing import Any

import pytest

from gecaso import Cache, EntryStorage, MemoryStorage
from gecaso.testing import explore
from tests.catalogue.naive import Server
from tests.catalogue.stage import SHARED, Venue
from tests.scenes import Truth

# --- caller mutates the value ---------------------------------------------------------------------


async def mutated(thing: Any) -> list[str]:
    """Whoever got the value changes it; what does the next one get?"""
    first = await thing(1)
    first.append("mine")
    second = await thing(1)
    second.append("mine, too")
    third: list[str] = await thing(1)
    return third


def lists(storage: EntryStorage) -> Any:
    truth = Truth()

    async def thing(i: int) -> list[str]:
        return [await truth.load(i)]

    return Cache(storage).cached(ttl=60)(thing)


async def test_caller_mutates_the_value(venue: Venue) -> None:
    storage = MemoryStorage(isolate=True) if venue.kind == "memory" else venue.storage()
    assert await mutated(lists(storage)) == ["1 in version 0"]


async def test_caller_mutates_the_value_that_memory_keeps_by_reference() -> None:
    """The user's to close: ``isolate=True``, or values that cannot be changed."""
    assert await mutated(lists(MemoryStorage())) == ["1 in version 0", "mine", "mine, too"]


async def test_caller_mutates_the_value_fools_the_naive_cache() -> None:
    server = Server()

    async def thing(i: int) -> Any:
        found = await server.get(i)
        if found is None:
            found = ["1 in version 0"]
            await server.set(i, found)
        return found

    assert await mutated(thing) != ["1 in version 0"]


async def test_caller_mutates_the_value_that_others_share_with_him(venue: Venue) -> None:
    """Callers of one load get one object; what is stored is not changed by that."""
    storage = MemoryStorage(isolate=True) if venue.kind == "memory" else venue.storage()
    thing = lists(storage)
    calls: list[asyncio.Task[list[str]]] = [asyncio.create_task(thing(1)) for _ in range(2)]
    first, second = [await call for call in calls]
    assert first is second
    first.append("mine")
    assert await thing(1) == ["1 in version 0"]


def test_caller_mutates_the_value_is_searched_for() -> None:
    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        thing = lists(MemoryStorage(isolate=True, clock=clock))

        async def mutates() -> None:
            value = await thing(1)
            await asyncio.sleep(0)
            value.append("mine")

        await asyncio.gather(mutates(), mutates(), mutates())
        assert await thing(1) == ["1 in version 0"]

    explore(scenario, schedules=300)


# --- old shape after a deploy ---------------------------------------------------------------------

FIELDS = {"before": [("id", int), ("name", str)], "after": [("id", int), ("email", str)]}


def user_key(i: int) -> str:
    return f"user:{i}"


def release(storage: EntryStorage, name: str, loads: list[str], **options: Any) -> Any:
    """Return the function of one release: it returns users, as that release knows them."""
    fields = FIELDS[name]
    user: Any = make_dataclass("User", fields, namespace={"__module__": __name__})

    async def load(i: int) -> Any:
        loads.append(name)
        return user(i, "x")

    load.__annotations__["return"] = user
    return Cache(storage).cached(ttl=60, key=user_key, **options)(load)


@pytest.mark.parametrize("venue", SHARED, indirect=True)
async def test_old_shape_after_a_deploy(venue: Venue) -> None:
    """What the release before has stored in another shape is a miss, and so is the other way."""
    loads: list[str] = []
    before = release(venue.storage(), "before", loads)
    after = release(venue.storage(), "after", loads)
    assert (await before(1)).name == "x"
    assert (await after(1)).email == "x"
    assert (await after(1)).email == "x"
    assert (await before(1)).name == "x"  # while both releases run
    assert loads == ["before", "after", "before"]


def plain(storage: EntryStorage, field: str, **options: Any) -> Any:
    """Return the function of a release whose values have no type of their own."""

    async def load(i: int) -> dict[str, Any]:
        return {"id": i, field: "x"}

    return Cache(storage).cached(ttl=60, key=user_key, **options)(load)


@pytest.mark.parametrize("versions", [(None, None), (1, 2)])
async def test_old_shape_after_a_deploy_of_plain_values_takes_a_version(
    venue: Venue, versions: tuple[Any, Any]
) -> None:
    """Nobody can see that the meaning of a dict has changed: ``version=`` says so."""
    before = plain(venue.storage(), "name", version=versions[0])
    after = plain(venue.storage(), "email", version=versions[1])
    assert (await before(1))["name"] == "x"
    is_new = "email" in await after(1)
    assert is_new == (versions[1] is not None)

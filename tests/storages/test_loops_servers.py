"""One storage over a server in several loops, threads and forks; and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import warnings
import weakref
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from gecaso.entry import Busy
from tests.scenes import Place, place_for
from tests.storages.loops_kit import KEY, descriptors, sockets, use, wrong_in_three_loops
from tests.storages.servers_kit import opened


class Pace(NamedTuple):
    """What a kind of storage is asked for, and given."""

    rounds: int  # of writing and reading in loops
    forked: int  # and in forks
    connections: int  # at most, while nobody waits
    ends: float = 1.0  # seconds within which closing ends what is under way


PACES = {
    "redis": Pace(200, 300, 1),
    "memcached": Pace(200, 200, 2),
    "postgres": Pace(50, 100, 2, ends=2.0),  # which has a process for each connection
}
# Where much goes on at once, a busy machine is still less a trouble of the storage.
MORE_PATIENCE = {"postgres": {"timeout": 10.0, "connect_timeout": 10.0}}
NOTIFYING = ["redis", "postgres"]  # who waits over another one looks every now and then


@pytest.fixture(params=list(PACES))
def place(request: pytest.FixtureRequest) -> Place:
    return place_for(request)


@pytest.fixture
def pace(place: Place) -> Pace:
    return PACES[place.kind]


# --- loops, threads, forks ------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_two_loops_in_two_threads_and_this_one(place: Place, pace: Pace) -> None:
    storage = opened(place, **MORE_PATIENCE.get(place.kind, {}))
    assert await wrong_in_three_loops(storage, pace.rounds) == []
    await storage.aclose()


def test_one_loop_after_another_without_closing(place: Place) -> None:
    storage = opened(place)
    before = descriptors()
    for number in range(3):
        asyncio.run(use(storage, number))
        assert descriptors() == before
        assert asyncio.run(storage.get("a")) == number
        assert descriptors() == before
    assert "0 connections" in repr(storage)


@pytest.mark.parametrize("then", ["closed", "used"])
def test_loops_closed_without_a_word_leave_no_descriptor(place: Place, then: str) -> None:
    storage = opened(place)
    before = descriptors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(use(storage, connections=2))  # none is just being made
            loop.close()
            del loop
        if then == "closed":
            asyncio.run(storage.aclose())
        else:
            assert asyncio.run(storage.get("a")) == 1
        gc.collect()
    assert descriptors() == before
    assert [str(warning.message) for warning in caught] == []


FORK = """
import asyncio, os, sys
from gecaso import storage_from_url

storage = storage_from_url(URL, **OPTIONS)

def sockets():
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(name) and "socket:" in os.readlink(name) for name in names)

async def work(name):
    for number in range(ROUNDS):
        await storage.set((name, number % 5), (name, number), ttl=60)
        assert await storage.get((name, number % 5)) == (name, number)

async def main():
    bare = sockets()
    await work("before")
    waiting = [asyncio.ensure_future(storage.get(("before", n))) for n in range(5)]
    await asyncio.sleep(0)
    assert 0 < sockets() - bare <= CONNECTIONS
    child = os.fork()
    if child == 0:
        try:
            assert sockets() == bare, "the child keeps a connection of its parent"
            asyncio.run(work("child"))
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    await work("parent")
    last = [("before", ROUNDS - 5 + n) for n in range(5)]
    assert await asyncio.gather(*waiting) == last
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    await work("after")
    await storage.aclose()
    sys.exit(os.waitstatus_to_exitcode(status))

asyncio.run(main())
"""


@pytest.mark.process
def test_a_fork_shares_no_connection(place: Place, pace: Pace) -> None:
    """Parent and child go on at the same time over one storage, and read what is theirs."""
    facts = {
        "URL": place.url,
        "OPTIONS": MORE_PATIENCE.get(place.kind, {}),
        "ROUNDS": pace.forked,
        "CONNECTIONS": pace.connections,
    }
    code = "".join(f"{name} = {fact!r}\n" for name, fact in facts.items()) + FORK
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, "")


# --- nothing is left behind -----------------------------------------------------------------------


@pytest.mark.every_loop
@pytest.mark.parametrize("place", NOTIFYING, indirect=True)
async def test_closing_leaves_no_task_and_no_descriptor(place: Place) -> None:
    before, tasks = sockets(), asyncio.all_tasks()
    storage = opened(place)
    for _ in range(3):
        await storage.lease([KEY], 10)
        busy = (await storage.lease([KEY], 10))[KEY]
        assert isinstance(busy, Busy)
        waiting = asyncio.create_task(storage.wait(busy, 30))
        reading = asyncio.ensure_future(storage.lookup(KEY))
        await asyncio.sleep(0.01)
        await storage.aclose()
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(waiting, reading, return_exceptions=True), 1)
        assert asyncio.all_tasks() == tasks
        assert sockets() == before
        await storage.discard([KEY])
    for _ in range(5):
        await storage.aclose()
    await asyncio.sleep(0)
    assert sockets() == before


async def test_closing_while_it_connects_leaves_no_task(place: Place, pace: Pace) -> None:
    tasks, before = asyncio.all_tasks(), sockets()
    for ticks in range(30):
        storage = opened(place)
        writing = asyncio.create_task(storage.set("a", 1))
        reading = asyncio.ensure_future(storage.lookup(KEY))
        for _ in range(ticks):
            await asyncio.sleep(0)
        await storage.aclose()
        await asyncio.sleep(0)
        outcomes = await asyncio.wait_for(
            asyncio.gather(writing, reading, return_exceptions=True), pace.ends
        )
        await storage.aclose()
        assert all(not isinstance(each, asyncio.CancelledError) for each in outcomes)
        assert asyncio.all_tasks() == tasks
    await asyncio.sleep(0)
    assert sockets() == before


@pytest.mark.parametrize("place", NOTIFYING, indirect=True)
async def test_closing_while_somebody_waits_leaves_nothing(place: Place) -> None:
    tasks = asyncio.all_tasks()
    async with opened(place) as holder:
        await holder.lease([KEY], 10)
    await asyncio.sleep(0)
    storage = opened(place)
    for ticks in range(1, 40):
        busy = (await storage.lease([KEY], 10))[KEY]
        assert isinstance(busy, Busy)
        waiting = asyncio.create_task(storage.wait(busy, 30))
        for _ in range(ticks):
            await asyncio.sleep(0)
        await storage.aclose()
        await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 1)
        assert "0 connections" in repr(storage)
        assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("used", ["a little", "for everything"])
async def test_a_storage_dropped_without_closing_takes_its_connections_along(
    place: Place, used: str
) -> None:
    before = descriptors()
    storage = opened(place)
    if used == "a little":
        await storage.set("a", 1)
    else:
        await use(storage)
        await asyncio.sleep(0)  # the last task of it says that it is done
    gone = weakref.ref(storage)
    del storage
    gc.collect()
    assert gone() is None
    for _ in range(3):
        await asyncio.sleep(0)
    assert descriptors() == before


# How a connection gets a name, and how the server is asked for it.
NAMING = {"redis": "client_name", "postgres": "application_name"}


@pytest.mark.parametrize("place", list(NAMING), indirect=True)
async def test_the_server_sees_the_end_of_a_storage_that_was_dropped(
    place: Place, request: pytest.FixtureRequest
) -> None:
    server: Any = request.getfixturevalue(f"{place.kind}_server")

    def is_there() -> bool:
        if place.kind == "redis":
            return b"name=dropped" in server.command("CLIENT", "LIST")
        query = "SELECT FROM pg_stat_activity WHERE application_name = 'dropped'"
        return bool(server.execute(query))

    storage = opened(replace(place, url=f"{place.url}?{NAMING[place.kind]}=dropped"))
    await use(storage)
    await asyncio.sleep(0)
    assert is_there()
    del storage
    for _ in range(50):
        gc.collect()
        await asyncio.sleep(0.01)
        if not is_there():
            return
    pytest.fail("a connection is still open")


@pytest.mark.parametrize("place", [*PACES, "sqlite"], indirect=True)
async def test_a_storage_is_usable_after_closing(place: Place) -> None:
    storage = opened(place)
    for number in range(3):
        await storage.set("a", number)
        await storage.aclose()
    assert await storage.get("a") == 2
    await storage.aclose()

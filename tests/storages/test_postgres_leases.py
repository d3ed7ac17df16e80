"""Leases in PostgreSQL: one holder, fenced commits, waiters that are told; and changes that are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gecaso.changes import Change, Changed, Cleared, Gap, told_as
from gecaso.keys import as_key
from gecaso.storages import PostgresStorage
from gecaso.storages import _postgres_ears as ears_module
from gecaso.storages._postgres_names import PAYLOAD, Names
from tests.postgres import PostgresServer
from tests.storages.faults_kit import within
from tests.storages.leases_kit import Two, refused, soon, took
from tests.storages.postgres_kit import connected, end_listeners, opened

Pair = Two[PostgresStorage]


@pytest.fixture
async def two(postgres_url: str) -> AsyncIterator[Pair]:
    async with (
        opened(postgres_url, namespace="n") as here,
        opened(postgres_url, namespace="n") as there,
    ):
        yield Two(here, there)


# --- fencing --------------------------------------------------------------------------------------


async def test_of_two_commits_in_one_tick_the_one_with_the_lease_counts(two: Pair) -> None:
    late = await took(two.here, seconds=0.02)
    await asyncio.sleep(0.03)
    lease = await took(two.here)
    old, new = (two.here.new_entry(value, 60) for value in ("old", "new"))
    for first, second in ((late, lease), (lease, late)):
        entries = {late: old, lease: new}
        done = await asyncio.gather(
            two.here.commit({first: entries[first]}), two.here.commit({second: entries[second]})
        )
        assert sorted(map(len, done)) == ([0, 1] if first is late else [0, 0])
    assert await two.there.get("a") == "new"


async def test_of_two_puts_in_one_tick_the_later_counts(two: Pair) -> None:
    await two.here.ping()
    await asyncio.gather(*[two.here.set("a", number) for number in range(20)])
    assert await two.there.get("a") == 19


# --- waiting --------------------------------------------------------------------------------------


async def test_a_waiter_is_told_of_the_commit_of_a_transaction(
    two: Pair, postgres_url: str
) -> None:
    await took(two.here)
    busy = await refused(two.there)
    waiting = asyncio.create_task(two.there.wait(busy, 30))
    async with connected(postgres_url) as connection:
        async with connection.transaction():
            await two.here.on(connection).remove("a")
            await asyncio.wait((waiting,), timeout=0.1)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 1.0)


async def test_who_stops_waiting_stops_listening(two: Pair) -> None:
    await took(two.here)
    busy = await refused(two.there)
    for _ in range(20):
        waiting = asyncio.create_task(two.there.wait(busy, 30))
        await asyncio.sleep(0.002)
        waiting.cancel()
        await asyncio.wait((waiting,))
    await two.there.wait(busy, 0.01)
    ears = await two.there._here.get().listening.ears(1)  # pyright: ignore[reportPrivateUsage] - what is left
    assert "0 rows" in repr(ears)


# --- changes --------------------------------------------------------------------------------------


class Follower:
    """Follows the changes of a storage in a task of its own."""

    def __init__(self, storage: PostgresStorage) -> None:
        self.heard: list[Change] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._follow(storage))

    async def _follow(self, storage: PostgresStorage) -> None:
        async for change in storage.changes():
            self.heard.append(change)
            self._news.set()

    async def hears(self, kind: type[Change], *names: str) -> None:
        """Wait for a change of this kind, which names these keys among others."""
        async with asyncio.timeout(10):
            while not any(
                isinstance(change, kind)
                and (not isinstance(change, Changed) or change.names.issuperset(names))
                for change in self.heard
            ):
                self._news.clear()
                await self._news.wait()
        self.heard.clear()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))


@pytest.fixture
async def follower(two: Pair) -> AsyncIterator[Follower]:
    follower = Follower(two.here)
    await follower.hears(Gap)
    yield follower
    await follower.end()


async def test_all_that_others_change_is_told(
    two: Pair, follower: Follower, postgres_url: str
) -> None:
    await two.there.set("put", 1)
    await follower.hears(Changed, "put")
    await two.there.remove("removed", "never there")
    await follower.hears(Changed, "removed", "never there")
    await two.there.discard([as_key("put")], keep_stale=True)
    await follower.hears(Changed, "put")
    lease = await took(two.there)
    await two.there.commit({lease: two.there.new_entry(1)})
    await follower.hears(Changed, "a")
    await two.there.remove("naïve" * 100)
    await follower.hears(Changed, told_as("naïve" * 100))
    await two.there.clear()
    await follower.hears(Cleared)
    async with connected(postgres_url) as connection:
        async with connection.transaction():
            await two.here.on(connection).remove("within")
        await follower.hears(Changed, "within")
        async with connection.transaction():
            await two.here.on(connection).clear()
        await follower.hears(Cleared)


async def test_own_changes_and_those_of_other_namespaces_are_not_told(
    two: Pair, follower: Follower, postgres_url: str
) -> None:
    async with opened(postgres_url) as other, opened(postgres_url, namespace="n:n") as third:
        await two.here.set("own", 1)
        await two.here.remove("own")
        for storage in (other, third):
            await storage.set("n:theirs", 1)
            await storage.clear()
    await two.there.set("last", 1)
    async with asyncio.timeout(10):
        while not follower.heard:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    (change,) = follower.heard
    assert isinstance(change, Changed)
    assert change.names == {"last"}


async def test_what_is_told_before_it_is_taken_comes_together(two: Pair) -> None:
    changes = two.here.changes()
    assert isinstance(await anext(changes), Gap)
    for number in range(20):
        await two.there.remove(f"{number}")
    await soon(two.there)  # by now they were told
    await asyncio.sleep(0.1)
    change = await anext(changes)
    assert isinstance(change, Changed)
    assert change.names == {f"{number}" for number in range(20)}


async def test_thousands_of_keys_are_told_in_messages_that_fit(
    two: Pair, follower: Follower
) -> None:
    names = {f"{number:064d}" for number in range(2000)}
    await two.there.remove(*names)
    heard: set[str] = set()
    async with asyncio.timeout(10):
        while heard != names:
            heard.update(*(c.names for c in follower.heard if isinstance(c, Changed)))
            await asyncio.sleep(0.01)


async def test_too_much_for_a_follower_that_does_not_come_is_a_gap(
    two: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ears_module, "MOST", 10)
    changes = two.here.changes()
    assert isinstance(await anext(changes), Gap)
    await two.there.remove(*map(str, range(50)))
    async with asyncio.timeout(10):
        assert isinstance(await anext(changes), Gap)


async def test_a_lost_connection_is_a_gap(
    two: Pair, follower: Follower, postgres_server: PostgresServer
) -> None:
    end_listeners(postgres_server)
    await follower.hears(Gap)
    await two.there.set("a", 1)
    await follower.hears(Changed, "a")


@pytest.mark.fault
async def test_a_server_that_hangs_and_one_that_crashes_are_a_gap(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ears_module, "HEARTBEAT", 0.05)
    async with opened(own_postgres.url, timeout=0.3) as here, opened(own_postgres.url) as there:
        follower = Follower(here)
        await follower.hears(Gap)
        own_postgres.pause()
        await asyncio.sleep(0.1)
        ears = here._here.get().listening._ears  # pyright: ignore[reportPrivateUsage] - to see it end
        assert ears is not None
        async with asyncio.timeout(10):
            while ears.broken is None:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        own_postgres.resume()
        await follower.hears(Gap)
        own_postgres.kill()
        own_postgres.start()
        await follower.hears(Gap)
        await within(10, there.ping)
        await within(10, lambda: there.set("a", 1))
        await follower.hears(Changed, "a")
        await follower.end()


async def test_following_ends_when_the_storage_is_closed(postgres_url: str) -> None:
    storage = opened(postgres_url)
    changes = storage.changes()
    assert isinstance(await anext(changes), Gap)
    rest = asyncio.ensure_future(anext(changes, None))
    await asyncio.sleep(0)
    await storage.aclose()
    assert await asyncio.wait_for(rest, 5) is None


def test_messages_fit_and_say_what_they_were_made_of() -> None:
    names = Names("ä:n")
    rows = [names.prefix + "x" * (number % 200) + str(number) for number in range(1000)]
    payloads = names.changed(rows, "origin")
    assert max(len(payload.encode()) for payload in payloads) <= PAYLOAD
    read = [names.read(payload) for payload in payloads]
    heard = [change for told in read if told is not None for change in told[1:]]
    told = {n for change in heard if isinstance(change, Changed) for n in change.names}
    assert {names.prefix + name for name in told} == set(rows)
    assert {told[0] for told in read if told is not None} == {"origin"}
    assert Names("n").read(payloads[0]) is None
    for strange in ("", "\n", "k", "x\ny", "kabc\nnothing", "c\n", "k\n\n\n"):
        assert names.read(strange) is None

"""What changes on Redis is told, whoever changes it, and that something may have been missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecaso.changes import Change, Changed, Cleared, Gap, told_as
from gecaso.entry import Lease
from gecaso.errors import StorageError, Unsupported
from gecaso.keys import as_key
from gecaso.storages import RedisStorage, _follower
from gecaso.storages._redis_scripts import prefix_of, quoted, text_of
from tests.redis_cluster import RedisCluster
from tests.servers import RedisServer

PATIENCE = 10.0


@contextlib.asynccontextmanager
async def following(
    storage: RedisStorage,
) -> AsyncGenerator[Callable[[], asyncio.Future[Change]]]:
    """Follow the changes from the first gap on; yields what gives the next one."""
    changes = storage.changes()

    async def upcoming() -> Change:
        return await asyncio.wait_for(anext(changes), PATIENCE)

    assert isinstance(await upcoming(), Gap)
    try:
        yield lambda: asyncio.ensure_future(upcoming())
    finally:
        await changes.aclose()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - it is an async generator


async def names_in(upcoming: Callable[[], asyncio.Future[Change]], wanted: set[str]) -> None:
    """Take changes until all of these names were told, and no others."""
    told = set[str]()
    while told != wanted:
        change = await upcoming()
        assert isinstance(change, Changed), change
        told |= change.names
        assert told <= wanted


@pytest.fixture
async def storage(redis_url: str) -> AsyncIterator[RedisStorage]:
    async with RedisStorage(redis_url, namespace="t", timeout=5, connect_timeout=5) as storage:
        yield storage


async def test_writes_of_anybody_and_expiries_are_told_by_the_names_of_the_keys(
    storage: RedisStorage, redis_url: str, redis_server: RedisServer
) -> None:
    async with (
        RedisStorage(redis_url, namespace="t", timeout=5, connect_timeout=5) as other,
        RedisStorage(redis_url, namespace="tt") as stranger,
        following(storage) as upcoming,
    ):
        await stranger.set("a", 1)
        await other.set("user:7", 1, ttl=60)
        await names_in(upcoming, {"user:7"})
        await other.set_many({"{b} ü": 2, "c": 3}, ttl=60)
        await names_in(upcoming, {told_as("{b} ü"), "c"})
        await other.set("c", 4, ttl=0.05)
        await names_in(upcoming, {"c"})
        await asyncio.sleep(0.06)
        redis_server.command("EXISTS", "t:{c}")  # which is how Redis finds out
        await names_in(upcoming, {"c"})
        redis_server.command("DEL", "t:{user:7}")  # as redis-cli does
        await names_in(upcoming, {"user:7"})


async def test_the_lease_of_a_load_is_no_change_and_its_commit_is(
    storage: RedisStorage, redis_url: str
) -> None:
    async with (
        RedisStorage(redis_url, namespace="t", timeout=5, connect_timeout=5) as other,
        following(storage) as upcoming,
    ):
        for key in (as_key("a"), as_key("b")):
            lease = (await other.lease([key], 10))[key]
            assert isinstance(lease, Lease)
            if key == as_key("a"):
                await other.release([lease])
            else:
                await other.commit({lease: other.new_entry(1, 60)})
        await names_in(upcoming, {"b"})


async def test_a_flushed_server_is_cleared(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    async with following(storage) as upcoming:
        redis_server.command("SET", "t:{a}", "x")
        await names_in(upcoming, {"a"})
        redis_server.command("FLUSHALL")
        assert isinstance(await upcoming(), Cleared)


async def test_several_who_follow_share_one_connection_which_ends_with_the_last(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    async with following(storage) as first:
        async with following(storage) as second:
            assert "1 connections" in repr(storage)
            clients = redis_server.command("CLIENT", "LIST", "TYPE", "pubsub")
            assert isinstance(clients, bytes)
            assert len(clients.splitlines()) == 1
            await storage.set("a", 1)
            for upcoming in (first, second):
                await names_in(upcoming, {"a"})
        await storage.set("b", 1)
        await names_in(first, {"b"})
    clients = redis_server.command("CLIENT", "LIST", "TYPE", "pubsub")
    assert isinstance(clients, bytes)
    assert clients.splitlines() == []


async def test_a_lost_connection_is_a_gap_and_then_changes_are_told_again(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    async with following(storage) as upcoming:
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        assert isinstance(await upcoming(), Gap)
        await storage.set("a", 1)
        await names_in(upcoming, {"a"})


@pytest.mark.fault
async def test_a_server_that_hangs_is_a_gap_when_it_is_back(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gecaso.storages._redis_changes.HEARTBEAT", 0.05)
    async with (
        RedisStorage(own_redis.url, timeout=0.1, connect_timeout=0.1) as storage,
        following(storage) as upcoming,
    ):
        own_redis.pause()
        change = upcoming()
        await asyncio.sleep(0.3)  # in which it is found out
        assert not change.done()
        own_redis.resume()
        assert isinstance(await change, Gap)


async def test_who_does_not_come_is_told_of_a_gap_in_the_end(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_follower, "MOST", 50)
    async with following(storage) as upcoming:
        await storage.set_many({f"k{number}": number for number in range(100)})
        await storage.set("last", 1)
        while isinstance(change := await upcoming(), Changed):
            assert len(change.names) <= 50
        assert isinstance(change, Gap)


async def test_closing_the_storage_ends_the_iteration(redis_url: str) -> None:
    storage = RedisStorage(redis_url)
    changes = storage.changes()
    assert isinstance(await asyncio.wait_for(anext(changes), PATIENCE), Gap)
    ending = asyncio.ensure_future(anext(changes, "the end"))
    await asyncio.sleep(0)
    await storage.aclose()
    assert await asyncio.wait_for(ending, PATIENCE) == "the end"


async def test_a_user_who_may_not_listen_is_told_so() -> None:
    with RedisServer() as server:
        server.command("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-client")
        async with RedisStorage(f"redis://u:p@127.0.0.1:{server.port}") as storage:
            with pytest.raises(Unsupported, match="NOPERM"):
                await anext(aiter(storage.changes()))


async def test_in_a_cluster_every_node_tells(
    redis_cluster_url: str, redis_cluster: RedisCluster
) -> None:
    async with (
        RedisStorage(redis_cluster_url, namespace="t", timeout=5, connect_timeout=5) as storage,
        following(storage) as upcoming,
    ):
        names = {f"k{number}" for number in range(30)}
        await storage.set_many(dict.fromkeys(names, 1), ttl=60)
        await names_in(upcoming, names)
        redis_cluster.masters[1].command("CLIENT", "KILL", "TYPE", "pubsub")
        assert isinstance(await upcoming(), Gap)
        await storage.set_many(dict.fromkeys(names, 1), ttl=60)
        await names_in(upcoming, names)


@given(st.text(), st.text(max_size=5))
def test_the_text_of_a_key_is_read_back_from_its_name(text: str, namespace: str) -> None:
    prefix = prefix_of(namespace)
    assert text_of(prefix + quoted(text) + b"}", prefix) == text
    assert text_of(prefix + quoted(text) + b"}:l", prefix) is None


@pytest.mark.parametrize(
    "text", ["%7B", "%257b", "%25%7b", "%ED%A0%80", "\ud800", "%2525", "%25ed"]
)
def test_texts_that_look_encoded_are_read_back(text: str) -> None:
    assert text_of(b"{" + quoted(text) + b"}", b"{") == text


async def test_trouble_of_the_server_is_waited_out_not_raised(own_redis: RedisServer) -> None:
    own_redis.stop()
    async with RedisStorage(own_redis.url) as storage:
        change = asyncio.ensure_future(anext(aiter(storage.changes())))
        with pytest.raises(StorageError):
            await storage.ping()
        assert not change.done()
        own_redis.start()
        assert isinstance(await asyncio.wait_for(change, PATIENCE), Gap)

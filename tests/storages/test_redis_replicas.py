"""Replicas of Redis: invalidations that wait for them, lookups that go to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from gecaso import Cache, LRUStorage
from gecaso.entry import Lease
from gecaso.errors import ConfigurationError, InvalidationFailed, StorageError
from gecaso.keys import as_key
from gecaso.storages import RedisStorage
from tests.redis_cluster import RedisCluster, wait_until
from tests.redis_sentinel import RedisSentinels
from tests.servers import HOST, RedisServer

KEY = as_key("a")


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica, of the test's own."""
    quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
    with (
        RedisServer(*quick) as master,
        RedisServer(*quick, "--replicaof", f"{HOST} {master.port}") as replica,
    ):
        wait_until(lambda: b"master_link_status:up" in _replication(replica))
        master.command("SET", "ready", "1")  # the stream begins a little after the link is up
        wait_until(lambda: replica.command("EXISTS", "ready") == 1)
        yield master, replica


def _replication(server: RedisServer) -> bytes:
    info = server.command("INFO", "replication")
    assert isinstance(info, bytes)
    return info


# --- waiting for them -----------------------------------------------------------------------------


async def test_an_invalidation_counts_when_the_replica_has_it(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    master, replica = pair
    async with RedisStorage(master.url, wait_replicas=1, timeout=1) as storage:
        for round_ in range(20):
            await storage.set("a", round_, ttl=60)
            assert replica.command("EXISTS", "{a}") == 1
            await storage.remove("a")
            assert replica.command("EXISTS", "{a}") == 0


async def test_without_the_replica_an_invalidation_fails_and_reads_go_on(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    master, replica = pair
    async with RedisStorage(master.url, wait_replicas=1, timeout=0.5) as storage:
        cache = Cache(storage, ttl=60, invalidate_timeout=0.3)

        @cache.cached(key="{name}")
        async def load(name: str) -> str:
            return name

        assert await load("a") == "a"
        replica.pause()
        with pytest.raises(InvalidationFailed, match="wait_replicas=1") as failed:
            await cache.invalidate("a")
        assert failed.value.keys == (KEY,)
        started = time.monotonic()
        assert await load("b") == "b"
        assert await load("b") == "b"
        assert load.stats.hits == 1
        assert time.monotonic() - started < 1
        replica.resume()
        await storage.remove("a")


async def test_what_waits_for_a_replica_does_not_hold_up_lookups(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    master, replica = pair
    async with RedisStorage(master.url, wait_replicas=1, timeout=2) as storage:
        await storage.set("a", 1, ttl=60)
        replica.pause()
        removing = asyncio.create_task(storage.remove("b"))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        assert await storage.get("a") == 1
        assert time.monotonic() - started < 0.5
        assert not removing.done()
        replica.resume()
        await removing


async def test_more_replicas_than_there_are_is_an_error(redis_url: str) -> None:
    async with RedisStorage(redis_url, wait_replicas=1, timeout=0.1) as storage:
        with pytest.raises(StorageError, match="only 0 replicas"):
            await storage.set("a", 1)
        lease = (await storage.lease([KEY], 10))[KEY]
        assert isinstance(lease, Lease)
        assert await storage.commit({lease: storage.new_entry(1, 60)}) == {KEY}


# --- reading from them ----------------------------------------------------------------------------


async def test_lookups_go_to_the_replica_and_second_looks_to_the_master(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    master, replica = pair
    async with RedisStorage(master.url, read_from_replicas=True, wait_replicas=1) as storage:
        await storage.set("a", 1, ttl=60)
        give_up = time.monotonic() + 5
        before = replica.commands()["mget"]
        while replica.commands()["mget"] == before:  # until it is connected
            assert await storage.get("a") == 1
            assert time.monotonic() < give_up
        asked, at_master = replica.commands()["mget"], master.commands()["mget"]
        assert await storage.get("a") == 1
        assert await storage.get_many(["a", "b"]) == {"a": 1}
        assert replica.commands()["mget"] == asked + 2
        assert master.commands()["mget"] == at_master
        lease = (await storage.lease([as_key("b")], 10))[as_key("b")]
        assert isinstance(lease, Lease)
        assert master.commands()["mget"] == at_master + 1
        await storage.discard([KEY], keep_stale=True)
        assert master.commands()["mget"] == at_master + 2


async def test_a_replica_that_goes_costs_no_lookup(pair: tuple[RedisServer, RedisServer]) -> None:
    master, replica = pair
    async with RedisStorage(master.url, read_from_replicas=True, timeout=0.5) as storage:
        await storage.set("a", 1, ttl=60)
        before, give_up = replica.commands()["mget"], time.monotonic() + 5
        while replica.commands()["mget"] == before:
            await storage.get("a")
            assert time.monotonic() < give_up
        replica.pause()
        started = time.monotonic()
        assert await storage.get("a") == 1
        assert time.monotonic() - started < 0.5
        replica.kill()
        for _ in range(5):
            assert await storage.get("a") == 1


async def test_with_sentinels_lookups_go_to_the_replica(redis_sentinels: RedisSentinels) -> None:
    master = redis_sentinels.master
    replica = next(server for server in redis_sentinels.servers if server is not master)
    url = redis_sentinels.url
    async with RedisStorage(url, read_from_replicas=True, wait_replicas=1, timeout=1) as storage:
        await storage.set("a", 1, ttl=60)
        before, give_up = replica.commands()["mget"], time.monotonic() + 5
        while replica.commands()["mget"] == before:
            assert await storage.get("a") == 1
            assert time.monotonic() < give_up


@pytest.mark.fault
async def test_in_a_cluster_lookups_go_to_the_replicas_of_their_nodes() -> None:
    with RedisCluster(masters=3, replicas=1) as cluster:
        url = cluster.url
        async with RedisStorage(
            url, read_from_replicas=True, wait_replicas=1, timeout=1
        ) as storage:
            values = {f"k{number}": number for number in range(30)}
            await storage.set_many(values, ttl=60)
            give_up = time.monotonic() + 5
            while not all(replica.commands()["mget"] for replica in cluster.replicas):
                assert await storage.get_many(values) == values
                assert time.monotonic() < give_up
            before = [node.commands()["mget"] for node in cluster.masters]
            assert await storage.get_many(values) == values
            assert await asyncio.gather(*map(storage.get, values)) == [*values.values()]
            assert [node.commands()["mget"] for node in cluster.masters] == before


@pytest.mark.parametrize(
    ("url", "options", "advice"),
    [
        ("unix:///tmp/redis.sock", {"read_from_replicas": True}, "unix socket"),
        ("redis://localhost", {"wait_replicas": -1}, "wait_replicas=-1"),
    ],
)
def test_what_cannot_work_is_refused(url: str, options: dict[str, int], advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        RedisStorage(url, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test


async def test_a_storage_around_it_takes_the_same_options(redis_url: str) -> None:
    async with LRUStorage(RedisStorage(redis_url, read_from_replicas=True)) as storage:
        await storage.set("a", 1, ttl=60)
        assert await storage.get("a") == 1

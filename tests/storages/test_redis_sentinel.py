"""A Redis that Sentinels watch: found through them, followed when it fails over, never stale."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio

from gecaso.entry import Lease
from gecaso.errors import StorageError
from gecaso.guard import guard_of
from gecaso.keys import as_key
from gecaso.storages import RedisStorage
from tests.redis_sentinel import SERVICE, RedisSentinels
from tests.scenes import Process, Truth
from tests.servers import HOST

KEY = as_key("a")
PATIENCE = 5.0  # seconds for one operation: a busy machine is no trouble of the storage


@pytest.fixture
async def storage(redis_sentinel_url: str) -> AsyncIterator[RedisStorage]:
    async with RedisStorage(
        redis_sentinel_url, namespace="t", timeout=PATIENCE, connect_timeout=PATIENCE
    ) as storage:
        yield storage


async def within(seconds: float, attempt: Callable[[], Awaitable[object]]) -> None:
    """Repeat ``attempt`` until it raises no StorageError."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            await attempt()
            return
        except StorageError:
            assert time.monotonic() < give_up, "the storage did not come back"
            await asyncio.sleep(0.02)  # another process tells nobody when it is the master


# --- finding it -----------------------------------------------------------------------------------


async def test_the_master_is_found_and_named_by_its_service(
    storage: RedisStorage, redis_sentinels: RedisSentinels
) -> None:
    await storage.set("a", 1, ttl=60)
    assert await storage.get("a") == 1
    assert redis_sentinels.master.command("EXISTS", "t:{a}") == 1
    assert SERVICE in repr(storage)


async def test_sentinels_that_are_down_do_no_harm(redis_sentinels: RedisSentinels) -> None:
    url = f"redis+sentinel://{HOST}:1,{redis_sentinels.places},{HOST}:2/{SERVICE}"
    async with RedisStorage(url, connect_timeout=PATIENCE) as storage:
        started = time.monotonic()
        await storage.ping()
        assert time.monotonic() - started < PATIENCE / 2  # which is what a silent one has


async def test_a_silent_sentinel_does_not_hold_up_the_others(
    redis_sentinels: RedisSentinels,
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, HOST, 0)
    place = f"{HOST}:{server.sockets[0].getsockname()[1]}"
    url = f"redis+sentinel://{place},{redis_sentinels.places}/{SERVICE}"
    async with server, RedisStorage(url, connect_timeout=PATIENCE) as storage:
        started = time.monotonic()
        await storage.ping()
        assert time.monotonic() - started < PATIENCE / 2


async def test_a_service_that_no_sentinel_knows_is_named(redis_sentinels: RedisSentinels) -> None:
    async with RedisStorage(
        f"redis+sentinel://{redis_sentinels.places}/nobody", connect_timeout=PATIENCE
    ) as storage:
        with pytest.raises(StorageError, match="nobody"):
            await storage.ping()


async def test_no_sentinel_at_all_is_an_error_and_fast() -> None:
    async with RedisStorage(f"redis+sentinel://{HOST}:1,{HOST}:2/{SERVICE}") as storage:
        started = time.monotonic()
        with pytest.raises(StorageError, match="do the Sentinels run"):
            await storage.get("a")
        assert time.monotonic() - started < 1


async def test_the_client_of_a_sentinel_lends_its_settings(
    redis_sentinels: RedisSentinels, redis_sentinel_url: str
) -> None:
    places = [(HOST, sentinel.port) for sentinel in redis_sentinels.sentinels]
    untyped: Any = redis.asyncio  # its Sentinel has no types
    sentinel = untyped.Sentinel(places, client_name="lent")
    client = sentinel.master_for(SERVICE, db=2)
    async with RedisStorage(client, connect_timeout=PATIENCE) as storage:
        await storage.set("a", 1, ttl=60)
        listed = redis_sentinels.master.command("CLIENT", "LIST")
        assert isinstance(listed, bytes)
        (ours,) = [line for line in listed.splitlines() if b"name=lent" in line]
        assert b" db=2 " in ours
    await client.aclose()
    for each in sentinel.sentinels:
        await each.aclose()


@pytest.mark.fault
async def test_the_servers_and_the_sentinels_each_have_their_password() -> None:
    with RedisSentinels(password="s3cret", word="w0rd") as sentinels:
        url = f"redis+sentinel://:s3cret@{sentinels.places}/{SERVICE}"
        async with RedisStorage(
            f"{url}?sentinel_password=w0rd", connect_timeout=PATIENCE
        ) as storage:
            await storage.set("a", 1, ttl=60)
            assert await storage.get("a") == 1
            assert "s3cret" not in repr(storage)
        async with RedisStorage(url, connect_timeout=PATIENCE) as storage:
            with pytest.raises(StorageError, match="asks for a valid user"):
                await storage.ping()
        async with RedisStorage(
            f"redis+sentinel://:wrong@{sentinels.places}/{SERVICE}?sentinel_password=w0rd",
            connect_timeout=PATIENCE,
        ) as storage:
            with pytest.raises(StorageError, match="did not let us in"):
                await storage.ping()


# --- failing over ---------------------------------------------------------------------------------


@pytest.mark.fault
async def test_a_failover_during_a_load_returns_the_load_and_stores_nothing_old(
    own_redis_sentinels: RedisSentinels,
) -> None:
    """The leases were at the old master; what they stood for must not be stored at the new one."""
    sentinels = own_redis_sentinels
    old = sentinels.master
    replica = next(server for server in sentinels.servers if server is not old)
    async with (
        RedisStorage(sentinels.url, namespace="t", timeout=1, connect_timeout=2) as here,
        RedisStorage(sentinels.url, namespace="t", timeout=1, connect_timeout=2) as there,
    ):
        truth = Truth()
        loader = Process(here, truth, lease_seconds=30)
        writer = Process(there, truth, invalidate_timeout=10)
        gate = truth.close_gate()
        first = loader.call()
        await truth.asked(1)
        replica.pause()
        old.command("CLIENT", "KILL", "TYPE", "replica")
        lease = (await here.lease([KEY], 30))[KEY]  # of which the replica will not hear
        assert isinstance(lease, Lease)
        old.kill()
        replica.resume()
        await within(15, here.ping)
        assert sentinels.master is replica
        assert await here.renew([lease], 30) == set()
        assert await here.commit({lease: here.new_entry("late", 60)}) == set()
        assert await here.lookup(KEY) is None

        truth.version += 1
        truth.gate = None
        await writer.thing.invalidate(1)
        gate.set()
        assert await first == "1 in version 0"
        assert await writer.call() == "1 in version 1"
        assert await loader.call() == "1 in version 1"
        assert not guard_of(there).pending
        loads = truth.loads
        assert await writer.call() == "1 in version 1"
        assert truth.loads == loads


@pytest.mark.fault
async def test_a_master_that_hangs_is_left_for_the_new_one(
    own_redis_sentinels: RedisSentinels,
) -> None:
    sentinels = own_redis_sentinels
    async with RedisStorage(sentinels.url, namespace="t", timeout=0.1) as storage:
        truth = Truth()
        process = Process(storage, truth)
        assert await process.call() == "1 in version 0"
        old = sentinels.master
        old.pause()
        costs = list[float]()
        give_up = time.monotonic() + 15
        while not guard_of(storage).is_quiet or not costs:
            started = time.perf_counter()
            assert await process.call() == "1 in version 0"
            costs.append(time.perf_counter() - started)
            assert time.monotonic() < give_up, "the storage did not come back"
            await asyncio.sleep(0.01)
        assert sentinels.master is not old
        assert max(costs) < 0.5 + 1.0  # the machine may be busy
        old.resume()


@pytest.mark.fault
async def test_a_master_that_was_made_a_replica_is_left_for_the_new_one(
    redis_sentinels: RedisSentinels,
) -> None:
    sentinels = redis_sentinels
    async with RedisStorage(sentinels.url, namespace="t", timeout=1, connect_timeout=2) as storage:
        await within(PATIENCE, lambda: storage.set("a", 1, ttl=60))
        old = sentinels.master
        sentinels.sentinels[0].command("SENTINEL", "FAILOVER", SERVICE)
        give_up = time.monotonic() + 15
        while sentinels.master is old:
            await asyncio.sleep(0.02)
            assert time.monotonic() < give_up
        # Sentinels take ten seconds for that. Until then it takes what will be lost.
        old.command("REPLICAOF", HOST, sentinels.master.port)
        await within(PATIENCE, lambda: storage.set("a", 2, ttl=60))
        await within(PATIENCE, lambda: storage.get("a"))
        assert await storage.get("a") == 2
        async with RedisStorage(sentinels.master.url, namespace="t", timeout=PATIENCE) as direct:
            assert await direct.get("a") == 2
    sentinels.wait()


async def test_a_replica_that_a_sentinel_still_calls_the_master_is_refused(
    redis_sentinels: RedisSentinels,
) -> None:
    replica = next(
        server for server in redis_sentinels.servers if server is not redis_sentinels.master
    )

    async def mistaken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = ["config-epoch", "99", "ip", HOST, "port", str(replica.port)]
        reply = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        while data := await reader.read(65536):
            writer.write(b"+OK\r\n" * data.count(b"SETINFO"))
            writer.write(reply.encode() * data.count(b"SENTINEL"))
        writer.close()

    server = await asyncio.start_server(mistaken, HOST, 0)
    url = f"redis+sentinel://{HOST}:{server.sockets[0].getsockname()[1]}/{SERVICE}"
    async with server, RedisStorage(url, connect_timeout=PATIENCE) as storage:
        with pytest.raises(StorageError, match="leads to a replica"):
            await storage.get("a")

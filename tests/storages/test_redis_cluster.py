"""A Redis Cluster: each key at its node, one round trip to each; slots move, and nodes die."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import pytest
import redis.asyncio
from redis.crc import key_slot

from gecaso import Cache
from gecaso.entry import Busy, Lease
from gecaso.errors import ConfigurationError, InvalidationFailed, StorageError
from gecaso.events import StorageFailed, listening
from gecaso.guard import guard_of
from gecaso.keys import Key, as_key
from gecaso.storages import RedisStorage
from gecaso.storages._redis_lines import Lines
from tests.redis_cluster import ClusterNode, RedisCluster
from tests.servers import HOST

PATIENCE = 5.0


@pytest.fixture
async def storage(redis_cluster_url: str) -> AsyncIterator[RedisStorage]:
    async with RedisStorage(redis_cluster_url, namespace="t", timeout=PATIENCE) as storage:
        await storage.ping()
        yield storage


def keys_of(cluster: RedisCluster, node: ClusterNode, many: int = 1) -> list[str]:
    """Return keys whose values are at that node."""
    found: list[str] = []
    number = 0
    while len(found) < many:
        if cluster.owner(f"t:{{k{number}}}") is node:
            found.append(f"k{number}")
        number += 1
    return found


async def taken(storage: RedisStorage, key: Key, seconds: float = 10) -> Lease:
    lease = (await storage.lease([key], seconds))[key]
    assert isinstance(lease, Lease)
    return lease


async def until(is_so: Callable[[], object], seconds: float = 10.0) -> None:
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up, "it did not come to that"
        await asyncio.sleep(0.02)  # the servers tell nobody


def commands(cluster: RedisCluster) -> list[Counter[str]]:
    return [node.commands() for node in cluster.masters]


# --- each key at its node -------------------------------------------------------------------------


async def test_lookups_of_one_tick_are_one_pipeline_to_each_node(
    storage: RedisStorage, redis_cluster: RedisCluster
) -> None:
    values = {f"k{number}": number for number in range(90)}
    await storage.set_many(values, ttl=60)
    written: Counter[str] = Counter()

    def count(lines: Lines) -> None:
        outbox: Any = lines.line._outbox  # pyright: ignore[reportPrivateUsage] - what is written?
        write: Callable[[bytes], None] = outbox._write

        def counted(data: bytes) -> None:
            written[lines.dial.where] += 1
            write(data)

        outbox._write = counted

    for lines in storage._hub.get().nodes():  # pyright: ignore[reportPrivateUsage] - likewise
        count(lines)
    found = await asyncio.gather(*(storage.get(key) for key in values))
    assert found == list(values.values())
    assert sorted(written.values()) == [1, 1, 1]
    assert await storage.get_many(values) == values
    assert sorted(written.values()) == [2, 2, 2]


async def test_every_node_has_its_share_and_clear_reaches_all(
    storage: RedisStorage, redis_cluster: RedisCluster
) -> None:
    await storage.set_many({f"k{number}": number for number in range(300)})
    sizes = [node.command("DBSIZE") for node in redis_cluster.masters]
    assert min(size for size in sizes if isinstance(size, int)) > 50
    lease = await taken(storage, as_key("loading"))
    await storage.clear()
    assert [node.command("DBSIZE") for node in redis_cluster.masters] == [0, 0, 0]
    assert await storage.commit({lease: storage.new_entry(1, 60)}) == set()


async def test_many_keys_of_many_nodes_in_each_operation(storage: RedisStorage) -> None:
    keys = [as_key(f"k{number}") for number in range(1200)]
    leases = await storage.lease(keys, 10)
    assert set(leases) == set(keys)
    assert all(isinstance(lease, Lease) for lease in leases.values())
    again = await storage.lease(keys[:50], 10)
    assert all(isinstance(busy, Busy) for busy in again.values())
    held = [lease for lease in leases.values() if isinstance(lease, Lease)]
    assert await storage.renew(held, 20) == set(keys)
    assert await storage.commit({lease: storage.new_entry(1, 60) for lease in held}) == set(keys)
    assert len(await storage.fetch(keys)) == 1200
    await storage.evict(keys[:600])
    assert len(await storage.fetch(keys)) == 600
    await storage.discard(keys)
    assert await storage.fetch(keys) == {}


async def test_who_waits_is_told_by_whichever_node(redis_cluster_url: str) -> None:
    async with (
        RedisStorage(redis_cluster_url, namespace="t", timeout=PATIENCE) as here,
        RedisStorage(redis_cluster_url, namespace="t", timeout=PATIENCE) as there,
    ):
        for number in range(6):
            key = as_key(f"k{number}")
            lease = await taken(here, key)
            busy = (await there.lease([key], 10))[key]
            assert isinstance(busy, Busy)
            waiting = asyncio.create_task(there.wait(busy, 30))
            await asyncio.sleep(0.01)
            await here.release([lease])
            started = time.monotonic()
            await asyncio.wait_for(waiting, PATIENCE)
            assert time.monotonic() - started < 1


async def test_one_seed_is_enough_and_a_dead_one_does_no_harm(redis_cluster: RedisCluster) -> None:
    seeds = f"redis+cluster://{HOST}:1,{HOST}:{redis_cluster.masters[0].port}"
    async with RedisStorage(seeds, namespace="t") as storage:
        await storage.set_many({number: number for number in range(50)}, ttl=60)
        assert len(await storage.get_many(range(50))) == 50


async def test_a_cluster_client_lends_its_settings(redis_cluster: RedisCluster) -> None:
    seed = redis_cluster.masters[0]
    client = redis.asyncio.RedisCluster(host=HOST, port=seed.port, client_name="lent")
    async with RedisStorage(client, namespace="t") as storage:
        await storage.set_many({number: number for number in range(50)}, ttl=60)
        assert len(await storage.get_many(range(50))) == 50
        listed = redis_cluster.masters[2].command("CLIENT", "LIST")
        assert isinstance(listed, bytes)
        assert b"name=lent" in listed
    await client.aclose()


async def test_a_single_server_is_no_cluster_and_a_cluster_no_single_server(
    redis_url: str, redis_cluster: RedisCluster
) -> None:
    plain = redis_url.replace("redis://", "redis+cluster://")
    async with RedisStorage(plain) as storage:
        with pytest.raises(StorageError, match="cluster support disabled"):
            await storage.get("a")
    node = redis_cluster.masters[0]
    (other,) = keys_of(redis_cluster, redis_cluster.masters[1])
    async with RedisStorage(node.url, namespace="t") as storage:
        with pytest.raises(StorageError, match=r"redis\+cluster://"):
            await storage.get(other)


async def test_nobody_there_is_an_error_and_fast() -> None:
    storage = RedisStorage(f"redis+cluster://{HOST}:1,{HOST}:2")
    started = time.monotonic()
    outcomes = await asyncio.gather(
        *(storage.get(number) for number in range(50)),
        storage.fetch([as_key(1)]),
        storage.lease([as_key(1)], 1),
        storage.discard([as_key(1)]),
        return_exceptions=True,
    )
    assert all(isinstance(outcome, StorageError) for outcome in outcomes)
    assert time.monotonic() - started < 1
    await storage.aclose()


@pytest.mark.parametrize("scheme", ["rediss+cluster", "valkeys+cluster"])
async def test_a_cluster_by_tls_is_used_by_tls_throughout(scheme: str) -> None:
    with RedisCluster(masters=1, tls=True) as cluster:
        (node,) = cluster.masters
        url = f"{scheme}://localhost:{node.tls_port}?ssl_ca_certs={node.ca_file}"
        async with RedisStorage(url, namespace="t", connect_timeout=PATIENCE) as storage:
            await storage.set("a", 1, ttl=60)
            assert await storage.get("a") == 1
            assert {lines.dial.where for lines in storage._hub.get().nodes()} == {  # pyright: ignore[reportPrivateUsage] - where is it?
                f"localhost:{node.tls_port}/0"
            }


@pytest.mark.parametrize("seconds", [0.02, 0.4])
async def test_silence_at_the_first_use_costs_no_longer_than_connecting(seconds: float) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, HOST, 0)
    url = f"redis+cluster://{HOST}:{server.sockets[0].getsockname()[1]}"
    async with server, RedisStorage(url, timeout=0.02, connect_timeout=seconds) as storage:
        started = time.monotonic()
        with pytest.raises(StorageError):
            await storage.get("a")
        assert time.monotonic() - started < seconds + 0.2


# --- slots that move ------------------------------------------------------------------------------


@contextmanager
def moved(cluster: RedisCluster, key: str) -> Generator[tuple[int, ClusterNode, ClusterNode]]:
    """Begin to move the slot of a key to another node; bring it back in the end."""
    name = f"t:{{{key}}}"
    slot, source = key_slot(name.encode()), cluster.owner(name)
    target = next(node for node in cluster.masters if node is not source)
    cluster.announce(slot, source, target)
    try:
        yield slot, source, target
    finally:
        cluster.move(slot, source, target)
        cluster.announce(slot, target, source)
        cluster.move(slot, target, source)


async def test_a_slot_that_has_moved_is_found_and_costs_one_error_for_all(
    storage: RedisStorage, redis_cluster: RedisCluster
) -> None:
    await storage.set("k1", "here", ttl=60)
    with moved(redis_cluster, "k1") as (slot, source, target):
        redis_cluster.move(slot, source, target)
        before = source.commands()
        assert await asyncio.gather(*(storage.get("k1") for _ in range(20))) == ["here"] * 20
        for operation in range(20):
            await storage.set("k1", operation, ttl=60)
            assert await storage.get("k1") == operation
        lease = await taken(storage, as_key("k1"))
        assert await storage.commit({lease: storage.new_entry("new", 60)})
        assert await storage.get_many(["k1"]) == {"k1": "new"}
        assert (source.commands() - before)["set"] == 0
    assert await storage.get("k1") == "new"


async def test_while_a_slot_moves_what_has_no_value_is_used_at_its_new_node(
    storage: RedisStorage, redis_cluster: RedisCluster
) -> None:
    with moved(redis_cluster, "k2") as (_, source, target):
        key = as_key("k2")
        lease = await taken(storage, key)
        assert target.command("CLUSTER", "COUNTKEYSINSLOT", key_slot(b"t:{k2}")) == 1
        assert await storage.lookup(key) is None
        await storage.discard([key])
        with pytest.raises(StorageError, match="being moved"):  # until the slot has moved
            await storage.commit({lease: storage.new_entry("late", 60)})
        for node in (source, target):
            assert node.command("CLUSTER", "COUNTKEYSINSLOT", key_slot(b"t:{k2}")) == 0
    assert await storage.commit({lease: storage.new_entry("late", 60)}) == set()


async def test_an_invalidation_is_done_even_where_value_and_lease_are_apart(
    storage: RedisStorage, redis_cluster: RedisCluster
) -> None:
    """The value is at the old node, the lease only at the new one: no script can run."""
    await storage.set("k3", "old", ttl=60)
    key = as_key("k3")
    with moved(redis_cluster, "k3") as (slot, source, target):
        lease = await taken(storage, key)
        with pytest.raises(StorageError, match="being moved"):
            await storage.commit({lease: storage.new_entry("late", 60)})
        assert await storage.get("k3") == "old"
        assert target.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        await storage.discard([key])
        assert await storage.lookup(key) is None
        assert [node.command("CLUSTER", "COUNTKEYSINSLOT", slot) for node in (source, target)] == [
            0,
            0,
        ]


# --- nodes that die -------------------------------------------------------------------------------


class Numbers:
    """A cached function of numbers, and what its loads were."""

    def __init__(self, storage: RedisStorage) -> None:
        self.loads: Counter[str] = Counter()
        self.cache = Cache(storage, ttl=60, invalidate_timeout=0.3)

        @self.cache.cached(key="{name}")
        async def number(name: str) -> str:
            self.loads[name] += 1
            return name

        self.of = number

    async def all(self, names: Iterable[str]) -> None:
        names = list(names)
        assert await asyncio.gather(*(self.of(name) for name in names)) == names

    async def hit_again(self, names: Iterable[str], seconds: float) -> None:
        """Return when a round of calls loads nothing."""
        give_up, names = time.monotonic() + seconds, list(names)
        loads = None
        while loads != self.loads:
            assert time.monotonic() < give_up, "caching did not come back"
            loads = self.loads.copy()
            await self.all(names)
            await asyncio.sleep(0.01)


@pytest.mark.fault
async def test_of_a_killed_node_the_slots_fail_open_and_come_back_with_its_replica(
    own_redis_cluster: RedisCluster,
) -> None:
    cluster = own_redis_cluster
    victim, healthy, _ = cluster.masters
    lost, kept = keys_of(cluster, victim, 20), keys_of(cluster, healthy, 20)
    async with RedisStorage(cluster.url, namespace="t", timeout=0.2, connect_timeout=1) as storage:
        numbers = Numbers(storage)
        await numbers.all((*lost, *kept))
        hits = numbers.of.stats.hits
        await numbers.all((*lost, *kept))
        assert numbers.of.stats.hits == hits + 40
        replica = cluster.replicas[0]
        await until(lambda: replica.command("DBSIZE") == 20)
        victim.kill()
        told: list[object] = []
        costs = list[float]()
        with listening(told.append):
            while not replica.is_master:
                before, begun = numbers.loads.copy(), time.perf_counter()
                await numbers.all((*lost, *kept))
                costs.append(time.perf_counter() - begun)
                assert all(numbers.loads[name] == before[name] for name in kept)
        assert any(isinstance(event, StorageFailed) for event in told)
        assert not guard_of(storage).breaker.is_open
        assert max(costs) < 0.2 + 1.0  # once a timeout; the machine may be busy
        assert sorted(costs)[len(costs) // 2] < 0.1
        assert numbers.loads[lost[0]] > 1

        await numbers.hit_again(lost, 2)


@pytest.mark.fault
async def test_a_node_without_a_replica_comes_back_with_its_restart() -> None:
    """Meanwhile its keys are absent, or named in the error of what must not be forgotten."""
    with RedisCluster() as cluster:
        victim, healthy, _ = cluster.masters
        (lost, more), (kept,) = keys_of(cluster, victim, 2), keys_of(cluster, healthy)
        async with RedisStorage(cluster.url, namespace="t", timeout=0.2) as storage:
            numbers = Numbers(storage)
            await numbers.all((more, kept))
            leases = await storage.lease([as_key(lost), as_key(kept)], 10)
            held = [lease for lease in leases.values() if isinstance(lease, Lease)]
            victim.kill()
            await numbers.all((more, kept))
            assert await storage.get_many([more, kept]) == {kept: kept}
            assert set(await storage.lease([as_key("x"), as_key(lost)], 1)) <= {as_key("x")}
            assert await storage.renew(held, 10) == {as_key(kept)}
            entries = {lease: storage.new_entry("new", 60) for lease in held}
            assert await storage.commit(entries) == {as_key(kept)}
            for operation in (storage.remove(lost, kept), storage.set_many({lost: 1, kept: 2})):
                with pytest.raises(StorageError) as failed:
                    await operation
                assert failed.value.keys == (as_key(lost),)
                assert failed.value.part is not None
            with pytest.raises(StorageError):
                await storage.get(lost)
            await storage.ping()
            with pytest.raises(InvalidationFailed) as failing:
                await numbers.cache.invalidate(more, kept)
            assert failing.value.keys == (as_key(more),)
            loads = numbers.loads.copy()
            await numbers.all((kept, kept))
            assert numbers.loads - loads == Counter({kept: 1})
            victim.start()
            await numbers.hit_again((more,), 4)
            assert not guard_of(storage).pending


async def test_addresses_are_mapped_where_the_client_maps_them(redis_cluster: RedisCluster) -> None:
    asked: list[tuple[str, int]] = []

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        asked.append(address)
        return address

    client = redis.asyncio.RedisCluster(
        host=HOST, port=redis_cluster.masters[0].port, address_remap=remap
    )
    async with RedisStorage(client, namespace="t") as storage:
        await storage.set("a", 1, ttl=60)
    assert {(HOST, node.port) for node in redis_cluster.masters} <= set(asked)
    await client.aclose()


def test_a_synchronous_client_is_refused(redis_cluster: RedisCluster) -> None:
    client = redis.RedisCluster(host=HOST, port=redis_cluster.masters[0].port)
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio\.RedisCluster"):
        RedisStorage(client)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - that is the test
    client.close()

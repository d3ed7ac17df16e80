"""How to reach a Redis server, and what is said when it cannot be reached or will not do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import pytest
import redis as sync_redis
import redis.asyncio
from redis.asyncio.sentinel import SentinelManagedConnection

from gecaso.errors import ConfigurationError, StorageError
from gecaso.keys import as_key
from gecaso.storages import RedisStorage
from tests.servers import RedisServer


async def test_a_client_lends_its_settings(redis_server: RedisServer, redis_url: str) -> None:
    client = redis.asyncio.Redis(port=redis_server.port, db=3, client_name="lent")
    async with RedisStorage(client) as storage:
        await storage.set("a", 1)
        clients = redis_server.command("CLIENT", "LIST")
        assert isinstance(clients, bytes)
        (ours,) = [line for line in clients.splitlines() if b"name=lent" in line]
        assert b" db=3 " in ours
        assert await client.exists("{a}") == 1
    await client.aclose()


async def test_a_unix_socket(redis_server: RedisServer) -> None:
    async with RedisStorage(redis_server.unix_url) as storage:
        await storage.set("a", 1)
        assert await storage.get("a") == 1
        assert str(redis_server.socket_path) in repr(storage)


async def test_tls_and_a_certificate_nobody_vouches_for(redis_server: RedisServer) -> None:
    async with RedisStorage(f"{redis_server.tls_url}?ssl_ca_certs={redis_server.ca_file}") as good:
        await good.set("a", 1)
        assert await good.get("a") == 1
    async with RedisStorage(redis_server.tls_url) as bad:
        with pytest.raises(StorageError, match="certificate verify failed"):
            await bad.ping()


async def test_a_password_works_and_is_not_shown() -> None:
    with RedisServer("--requirepass", "s3cret") as server:
        async with RedisStorage(f"redis://:s3cret@127.0.0.1:{server.port}") as storage:
            await storage.ping()
            assert "s3cret" not in repr(storage)
        for url in (server.url, f"redis://:wrong@127.0.0.1:{server.port}"):
            async with RedisStorage(url) as storage:
                with pytest.raises(StorageError, match="user and password"):
                    await storage.ping()


untyped: Any = redis.asyncio  # its Sentinel has no types


def client_of(connection_class: type[redis.asyncio.Connection]) -> redis.asyncio.Redis:
    pool = redis.asyncio.ConnectionPool(connection_class=connection_class)
    return redis.asyncio.Redis(connection_pool=pool)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("memcached://localhost", "redis://, rediss://, unix://"),
        ("localhost:6379", "no scheme"),
        ("redis://localhost?socket_timeout=x", "cannot be read"),
        ("redis://localhost?no_such_option=1", "no_such_option"),
        ("redis://localhost/shop", "is a number"),
        ("redis://localhost?decode_responses=True", "decode_responses"),
        (redis.asyncio.Redis(decode_responses=True), "without decode_responses"),
        (sync_redis.Redis(), "redis.asyncio.Redis"),
        (client_of(SentinelManagedConnection), "master_for"),
        (untyped.Sentinel([("localhost", 1)]).slave_for("m"), "not slave_for"),
        ("redis+sentinel://localhost", "names it"),
        ("redis+sentinel://localhost/m/shop", "is a number"),
        ("redis+cluster://localhost/1", "only database 0"),
        ("redis+something://localhost", r"starts with redis\+something"),
        (7, "not int"),
    ],
)
def test_what_cannot_work_is_refused_with_advice(given: str, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        RedisStorage(given)


@pytest.mark.parametrize("option", ["timeout", "connect_timeout"])
def test_a_timeout_of_nothing_is_refused(option: str) -> None:
    options: dict[str, Any] = {option: 0}
    with pytest.raises(ConfigurationError, match=option):
        RedisStorage("redis://localhost", **options)


async def test_an_unreachable_server_is_an_error_of_the_operation_and_fast() -> None:
    storage = RedisStorage("redis://127.0.0.1:1/0")
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:1"):
        await storage.get("a")
    outcomes = await asyncio.gather(
        *(storage.get(number) for number in range(50)), return_exceptions=True
    )
    assert all(isinstance(outcome, StorageError) for outcome in outcomes)
    assert time.monotonic() - started < 0.2
    await storage.aclose()


async def test_callers_share_one_connecting(redis_server: RedisServer, redis_url: str) -> None:
    def connections() -> int:
        info = redis_server.command("INFO", "stats")
        assert isinstance(info, bytes)
        return int(info.partition(b"total_connections_received:")[2].split()[0])

    before = connections()
    async with RedisStorage(redis_url) as storage:
        await asyncio.gather(
            *(storage.set(number, number) for number in range(20)),
            *(storage.fetch([as_key(number)]) for number in range(20)),
        )
    assert connections() - before == 2  # ours, and that of the second INFO


async def test_a_server_that_evicts_leases_first_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with RedisServer("--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl") as server:
        for _ in range(2):
            async with RedisStorage(server.url) as storage:
                await storage.ping()
                await storage.aclose()
                await storage.ping()
    assert [record.message.count("volatile-ttl") for record in caplog.records] == [1, 1]


@pytest.mark.parametrize(
    ("rules", "advice"),
    [
        ("+@all -eval", "ACL"),
        ("+@all resetchannels", "channels"),
        ("+@all resetkeys ~other:*", "ACL"),
    ],
)
async def test_a_user_without_the_rights_is_told_which(rules: str, advice: str) -> None:
    with RedisServer() as server:
        server.command("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", *rules.split())
        async with RedisStorage(f"redis://u:p@127.0.0.1:{server.port}") as storage:
            with pytest.raises(StorageError, match=advice):
                await storage.set("a", 1)


async def test_a_user_who_may_not_ask_about_the_server_can_use_it() -> None:
    with RedisServer() as server:
        server.command("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-info")
        async with RedisStorage(f"redis://u:p@127.0.0.1:{server.port}") as storage:
            await storage.set("a", 1)
            assert await storage.get("a") == 1


async def test_a_replica_and_a_full_server_say_what_to_do(own_redis: RedisServer) -> None:
    async with RedisStorage(own_redis.url) as storage:
        await storage.ping()
        own_redis.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StorageError, match="address of its master"):
            await storage.set("a", 1)
        assert "0 connections" in repr(storage)  # the next one may lead to the master
        own_redis.command("REPLICAOF", "NO", "ONE")
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StorageError, match="maxmemory"):
            await storage.set("a", 1)
        own_redis.command("CONFIG", "SET", "maxmemory", "0")
        await storage.set("a", 1)


def test_importing_the_storages_imports_no_client_library() -> None:
    code = (
        "import sys, gecaso.storages as s; "
        "assert not {'redis', 'hiredis', 'aiomcache', 'asyncpg'} & set(sys.modules); "
        "assert s.__all__ == sorted(s.__all__) and set(s.__all__) <= set(dir(s)); "
        "s.RedisStorage; assert 'redis' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_storage_is_an_attribute_error() -> None:
    import gecaso.storages

    with pytest.raises(AttributeError, match="NoSuchStorage"):
        getattr(gecaso.storages, "NoSuchStorage")  # noqa: B009 - type checkers know it is not there

"""Redis of every shape passes the contract of storages."""

from __future__ import annotations

from typing import Any

import pytest

from gecaso import EntryStorage, Key
from gecaso.storages import RedisStorage
from gecaso.testing import StorageContract
from tests.redis_cluster import RedisCluster
from tests.redis_sentinel import RedisSentinels
from tests.servers import RedisServer

SECONDS = 5.0  # for one operation: a busy machine is no trouble of the storage


class OverRedis(StorageContract):
    """What they share: where the server is, and how to damage a value."""

    __test__ = False
    url = ""

    def another(self, storage: Any) -> EntryStorage:
        return RedisStorage(self.url, namespace="t", timeout=SECONDS, connect_timeout=SECONDS)


class TestRedisCluster(OverRedis):
    __test__ = True
    servers: RedisCluster

    @pytest.fixture
    def storage(self, redis_cluster_url: str, redis_cluster: RedisCluster) -> EntryStorage:
        self.url, self.servers = redis_cluster_url, redis_cluster
        return self.another(None)

    async def damage(self, storage: Any, key: Key) -> bool:
        return self.servers.command("SET", f"t:{{{key}}}", "garbage") == "OK"


class TestRedisWithSentinel(OverRedis):
    __test__ = True
    servers: RedisSentinels

    @pytest.fixture
    def storage(self, redis_sentinel_url: str, redis_sentinels: RedisSentinels) -> EntryStorage:
        self.url, self.servers = redis_sentinel_url, redis_sentinels
        return self.another(None)

    async def damage(self, storage: Any, key: Key) -> bool:
        return self.servers.master.command("SET", f"t:{{{key}}}", "garbage") == "OK"


class TestValkeyByItsURL(OverRedis):
    __test__ = True
    server: RedisServer

    @pytest.fixture
    def storage(self, valkey_url: str, redis_server: RedisServer) -> EntryStorage:
        self.url, self.server = valkey_url, redis_server
        return self.another(None)

    async def damage(self, storage: Any, key: Key) -> bool:
        return self.server.command("SET", f"t:{{{key}}}", "garbage") == "OK"

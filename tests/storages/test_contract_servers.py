"""Every storage over a server passes the contract; one class for each."""

from __future__ import annotations

from typing import Any

import pytest

from gecaso import EntryStorage, Key, LRUStorage
from gecaso.storages import MemcachedStorage, RedisStorage
from gecaso.testing import StorageContract
from tests.servers import MemcachedServer, RedisServer

SECONDS = 5.0  # for one operation: a busy machine is no trouble of the storage


class TestRedis(StorageContract):
    server: RedisServer

    @pytest.fixture
    def storage(self, redis_url: str, redis_server: RedisServer) -> EntryStorage:
        self.server = redis_server
        return self.another(None)

    def another(self, storage: Any) -> EntryStorage:
        url = self.server.url
        return RedisStorage(url, namespace="t", timeout=SECONDS, connect_timeout=SECONDS)

    async def damage(self, storage: Any, key: Key) -> bool:
        return self.server.command("SET", f"t:{{{key}}}", "garbage") == "OK"


class TestMemcached(StorageContract):
    server: MemcachedServer
    shortest_lease = 3.0

    @pytest.fixture
    def storage(self, memcached_url: str, memcached_server: MemcachedServer) -> EntryStorage:
        self.server = memcached_server
        return self.another(None)

    def another(self, storage: Any) -> EntryStorage:
        url = self.server.url
        return MemcachedStorage(url, namespace="t", timeout=SECONDS, connect_timeout=SECONDS)

    async def damage(self, storage: Any, key: Key) -> bool:
        return self.server.command(f"set t:{key} 0 0 7", b"garbage") == [b"STORED"]


# --- the last used, over each ---------------------------------------------------------------------


class TestLRUOverRedis(TestRedis):
    def another(self, storage: Any) -> EntryStorage:
        return LRUStorage(super().another(storage), maxsize=1000)


class TestLRUOverMemcached(TestMemcached):
    def another(self, storage: Any) -> EntryStorage:
        return LRUStorage(super().another(storage), maxsize=1000)

"""The contract of storages over a real PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest

from gecaso import EntryStorage, Key, LRUStorage
from gecaso.testing import StorageContract
from tests.postgres import PostgresServer
from tests.storages.postgres_kit import opened

SECONDS = 10.0  # for one operation: a busy machine is no trouble of the storage


class TestPostgres(StorageContract):
    server: PostgresServer
    shortest_lease = 0.2

    @pytest.fixture
    def storage(self, postgres_url: str, postgres_server: PostgresServer) -> EntryStorage:
        self.server = postgres_server
        return self.another(None)

    def another(self, storage: Any) -> EntryStorage:
        url = self.server.url
        return opened(url, namespace="t", timeout=SECONDS, connect_timeout=SECONDS)

    async def damage(self, storage: Any, key: Key) -> bool:
        self.server.execute(f"UPDATE gecaso SET value = '\\xdead' WHERE key = 't:{key}'")
        return True


class TestLRUOverPostgres(TestPostgres):
    def another(self, storage: Any) -> EntryStorage:
        return LRUStorage(super().another(storage), maxsize=1000)

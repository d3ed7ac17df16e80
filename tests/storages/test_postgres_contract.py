"""The contract of storages over a real PostgreSQL."""

from __future__ import annotations

import pytest

from gecaso.keys import Key
from gecaso.storages import PostgresStorage
from gecaso.testing import StorageContract
from tests.postgres import PostgresServer


class TestPostgresStorage(StorageContract):
    shortest_lease = 0.2

    @pytest.fixture
    def storage(self, postgres_url: str) -> PostgresStorage:
        return PostgresStorage(
            postgres_url, namespace="contract", timeout=10.0, connect_timeout=10.0
        )

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        self.server = postgres_server

    def another(self, storage: PostgresStorage) -> PostgresStorage:
        return PostgresStorage(
            self.server.url, namespace="contract", timeout=10.0, connect_timeout=10.0
        )

    async def damage(self, storage: PostgresStorage, key: Key) -> bool:
        self.server.execute(f"UPDATE gecaso SET value = '\\xdead' WHERE key = 'contract:{key}'")
        return True

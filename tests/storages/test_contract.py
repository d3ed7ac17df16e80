"""Every storage of this process passes the contract; one class for each.

`docs/writing-a-storage.md` says how; those over servers are in `test_contract_servers.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from gecaso import EntryStorage, Key, LRUStorage, MemoryStorage, NullStorage
from gecaso.testing import FakeClock, StorageContract
from tests.storages.three_methods import DictStorage, PackingStorage

# --- in this process ------------------------------------------------------------------------------


class TestMemory(StorageContract):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage()


class TestMemoryWithAClockToMove(StorageContract):
    resolution = 0.0

    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage(clock=FakeClock())

    async def pass_time(self, storage: Any, seconds: float) -> None:
        storage.clock.advance(seconds)


class TestBoundedMemory(StorageContract):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage(maxsize=1000, maxbytes=15_000_000)


class TestIsolatedMemory(StorageContract):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage(isolate=True)


class TestNull(StorageContract):
    stores = False

    @pytest.fixture
    def storage(self) -> NullStorage:
        return NullStorage()


# --- three methods --------------------------------------------------------------------------------


class TestThreeMethods(StorageContract):
    any_loop = True

    @pytest.fixture
    def storage(self) -> DictStorage:
        return DictStorage()


class TestThreePackingMethods(StorageContract):
    any_loop = True

    @pytest.fixture
    def storage(self) -> PackingStorage:
        return PackingStorage()

    async def damage(self, storage: Any, key: Key) -> bool:
        storage.values[str(key)] = b"garbage"
        return True


# --- the last used, over each ---------------------------------------------------------------------


class TestLRU(StorageContract):
    @pytest.fixture
    def storage(self) -> EntryStorage:
        return LRUStorage(maxsize=1000)


class TestLRUOverMemory(StorageContract):
    @pytest.fixture
    def storage(self) -> EntryStorage:
        return LRUStorage(MemoryStorage(), maxsize=1000)


class TestLRUOverThreeMethods(StorageContract):
    any_loop = True

    @pytest.fixture
    def storage(self) -> EntryStorage:
        return LRUStorage(DictStorage(), maxsize=1000)

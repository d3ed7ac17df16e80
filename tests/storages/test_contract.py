"""Every storage of this process passes the contract; one class for each.

`docs/writing-a-storage.md` says how; those over servers are in `test_contract_servers.py`.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from gecaso import (
    BaseStorage,
    EntryStorage,
    Key,
    LRUStorage,
    MemoryStorage,
    NullStorage,
    pack,
    unpack,
)
from gecaso.testing import FakeClock, StorageContract


class DictStorage(BaseStorage):
    """Three methods as they were written for 0.4: whatever is given arrives in ``params``."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[float, Any]] = {}

    async def get(self, key: str) -> Any:
        until, value = self.values[key]
        if time.monotonic() >= until:
            raise KeyError(key)
        return value

    async def set(self, key: str, value: Any, **params: Any) -> None:
        self.values[key] = (time.monotonic() + params.get("ttl", 1e9), value)

    async def remove(self, *keys: str) -> None:
        for key in keys:
            self.values.pop(key, None)


class PackingStorage(BaseStorage):
    """Three methods that pack, and know no ttl."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> Any:
        return unpack(self.values[key])[0]

    async def set(self, key: str, value: Any) -> None:
        self.values[key] = pack(value)

    async def remove(self, *keys: str) -> None:
        for key in keys:
            self.values.pop(key, None)

    async def clear(self) -> None:
        self.values.clear()


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

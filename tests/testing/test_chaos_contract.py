"""A `ChaosStorage` without faults passes the tests that every storage passes."""

from __future__ import annotations

import pytest

from gecaso import EntryStorage, MemoryStorage
from gecaso.testing import ChaosStorage, StorageContract


class TestChaosStorage(StorageContract):
    @pytest.fixture(params=[0, 10], ids=["plain", "remembering"])
    def storage(self, request: pytest.FixtureRequest) -> EntryStorage:
        return ChaosStorage(MemoryStorage(), remember=request.param)

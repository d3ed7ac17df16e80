"""The storages that `docs/writing-a-storage.md` shows how to write pass the contract."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from gecaso import BaseStorage, Key
from gecaso.testing import StorageContract
from tests.test_docs import ROOT, run

PAGE = ROOT / "docs" / "writing-a-storage.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page defines."""
    names: dict[str, Any] = {"__name__": "page"}
    run(PAGE, PAGE.read_text(), names)
    return names


class TestThreeMethodsOfThePage(StorageContract):
    any_loop = True

    @pytest.fixture
    def storage(self, page: dict[str, Any]) -> BaseStorage:
        made: BaseStorage = page["DictStorage"]()
        return made


class TestEntriesInThisProcessOfThePage(StorageContract):
    @pytest.fixture
    def storage(self, page: dict[str, Any]) -> BaseStorage:
        made: BaseStorage = page["PlainStorage"]()
        return made


class TestEntriesElsewhereOfThePage(StorageContract):
    @pytest.fixture
    def storage(self, page: dict[str, Any]) -> BaseStorage:
        self.told = page["TestRowStorage"]()
        made: BaseStorage = page["RowStorage"]({}, threading.Lock())
        return made

    def another(self, storage: Any) -> Any:
        return self.told.another(storage)

    async def damage(self, storage: Any, key: Key) -> bool:
        return bool(await self.told.damage(storage, key))

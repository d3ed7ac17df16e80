"""The contract suite is worth something: each of many broken storages fails a test of it."""

from __future__ import annotations

from typing import Any

import pytest

from gecaso import BaseStorage, Key, MemoryStorage
from gecaso.testing import StorageContract
from tests.storages.broken import CASES
from tests.storages.three_methods import DictStorage, PackingStorage

TESTS = {name for name in dir(StorageContract) if name.startswith("test_")}


class Contract(StorageContract):
    """The contract, ready to be called test by test."""

    any_loop = True
    resolution = 0.05
    largest_value = 2_000_000

    def another(self, storage: Any) -> Any:
        return type(storage)() if self.forgotten else storage

    forgotten = False

    async def damage(self, storage: Any, key: Key) -> bool:
        if not isinstance(storage, PackingStorage):
            return False
        storage.values[str(key)] = b"garbage"
        return True


def play(test: str, storage: BaseStorage, **options: object) -> None:
    contract = Contract()
    contract.forgotten = test.endswith("forgotten")
    for name, value in options.items():
        setattr(contract, name, value)
    getattr(contract, test)(storage)


@pytest.mark.parametrize(("broken", "test", "says"), CASES)
def test_a_broken_storage_fails_the_test_that_is_there_for_it(
    broken: type[BaseStorage], test: str, says: str
) -> None:
    try:
        with pytest.raises(Exception, match=says):
            play(test, broken(), prompt=0.3)
    except pytest.skip.Exception as skipped:
        pytest.fail(f"it was not tested: {skipped}")


GOOD = (DictStorage, PackingStorage, MemoryStorage)


@pytest.mark.parametrize("good", GOOD)
def test_what_they_would_be_if_they_were_not_broken_passes(good: type[BaseStorage]) -> None:
    broken = [(test, kind) for kind, test, _ in CASES if issubclass(kind, good)]
    for test in sorted({test for test, _ in broken}):
        try:
            play(test, good())
        except pytest.skip.Exception as skipped:
            assert "in this process" in str(skipped), test  # noqa: PT017 - no error


def test_every_test_of_the_contract_has_a_storage_that_fails_it() -> None:
    assert {test for _, test, _ in CASES} == TESTS

"""Cached class methods and static methods, in both orders of the decorators."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest

from gecaso import MemoryStorage, cached

storage = MemoryStorage()


@pytest.fixture(autouse=True)
def _empty() -> None:
    storage.clear_now()


def classes() -> list[Any]:
    class Outside:
        @classmethod
        @cached(storage)
        def made(cls, x: int) -> str:
            return f"{cls.__name__} {x}"

        @cached(storage)
        @staticmethod
        def twice(x: int) -> int:
            return 2 * x

    class Inside:
        @cached(storage)
        @classmethod
        def made(cls, x: int) -> str:
            return f"{cls.__name__} {x}"

        @staticmethod
        @cached(storage)
        def twice(x: int) -> int:
            return 2 * x

    return [pytest.param(Outside, id="outside"), pytest.param(Inside, id="inside")]


@pytest.mark.smoke
@pytest.mark.parametrize("cls", classes())
def test_a_class_method_has_entries_for_each_class(cls: Any) -> None:
    class Sub(cls):  # type: ignore[misc]
        pass

    for _ in range(2):
        assert cls.made(1) == cls().made(1) == cls.made(x=1) == f"{cls.__name__} 1"
        assert Sub.made(1) == Sub().made(1) == "Sub 1"
    assert cls.made.stats.loads == 2
    if sys.version_info >= (3, 13) and cls.__name__ == "Outside":
        with pytest.raises(AttributeError, match=r"write @cached\(\.\.\.\) above @classmethod"):
            cls.made.invalidate(1)
        return
    cls.made.invalidate(1)
    assert Sub.made.peek(1) == "Sub 1"
    with pytest.raises(KeyError):
        cls.made.peek(1)
    cls.made.put("put", 1)
    assert cls().made(1) == "put"
    assert list(inspect.signature(cls.made).parameters) == ["x"]


@pytest.mark.smoke
@pytest.mark.parametrize("cls", classes())
def test_a_static_method_has_no_owner(cls: Any) -> None:
    for _ in range(2):
        assert cls.twice(1) == cls().twice(1) == cls.twice(x=1) == 2
    assert cls.twice.stats.loads == 1
    cls().twice.invalidate(1)
    with pytest.raises(KeyError):
        cls.twice.peek(1)
    assert list(inspect.signature(cls.twice).parameters) == ["x"]

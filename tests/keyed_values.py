"""Types and functions for the tests of keys: what is made inside a function has no name."""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import attrs
import msgspec
import pydantic


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Shade(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    note: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass
class Place:
    x: int
    y: int = 0


@attrs.define
class Pair:
    a: int
    b: object = attrs.field(default=None, eq=False)


class Model(pydantic.BaseModel):
    a: int
    b: list[str] = []


class Struct(msgspec.Struct):
    a: int


class Row(NamedTuple):
    a: int
    b: str = ""


class Text(str):  # noqa: SLOT000 - its instances are to have a __dict__
    """A `str` that may have attributes."""


class Slotted(str):
    __slots__ = ("unit",)
    unit: str


class Number(int):
    pass


class Listing(list[object]):
    pass


class Ordered(OrderedDict[str, int]):
    pass


class Keyed:
    def __init__(self, id: object) -> None:
        self.id = id

    def __cache_key__(self) -> object:
        return self.id


class Opaque:
    pass


def function() -> None: ...


def other_function() -> None: ...


def takes(a: object) -> None: ...


def as_a_key(value: Any) -> Any:
    try:
        return {value: 1}
    except TypeError:  # cannot be hashed
        return [[value]]


# A value alone, and inside others.
WRAPS: Final[list[Callable[[Any], Any]]] = [
    lambda value: value,
    lambda value: [value],
    lambda value: (value, 1),
    lambda value: {"key": value},
    lambda value: [{"key": (value,)}],
    as_a_key,
]

"""Classes and values of every kind that can be packed, and strategies that make more of them."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import math
import pathlib
import threading
import uuid
from collections import OrderedDict, deque
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import attrs
from hypothesis import strategies as st


class Colour(enum.Enum):
    RED = "r"
    CRIMSON = "r"  # noqa: PIE796 # an alias
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(enum.StrEnum):
    READ = "read"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    A = 1
    B = 2


class Point(NamedTuple):
    x: Any
    y: Any = 0


@dataclass
class Address:
    street: Any
    lines: Any = ()


@dataclass(frozen=True)
class Tag:
    name: Any


@dataclass(slots=True)
class Slotted:
    x: Any
    y: Any = None


@dataclass
class Base:
    a: int
    hidden: int = field(init=False)
    seed: InitVar[int] = 3

    def __post_init__(self, seed: int) -> None:
        self.hidden = seed
        self._more = [seed]

    @cached_property
    def derived(self) -> Any:
        return threading.Lock()  # nothing that could be packed


@dataclass
class Derived(Base):
    b: Address | Any = None
    c: dict[Tag, Colour] = field(default_factory=dict[Tag, Colour])


@attrs.define(frozen=True, cache_hash=True)
class Attr:
    a: Any
    b: Any = None


@attrs.define(slots=False)
class AttrWithDict:
    a: Any
    _private: int = 3


KNOWN: tuple[type, ...] = (
    Colour, Level, Mode, Rights, Bits, Point, Address, Tag, Slotted, Base, Derived, Attr,
    AttrWithDict,
)  # fmt: skip

utc, berlin = dt.UTC, ZoneInfo("Europe/Berlin")
odd_zone = dt.timezone(dt.timedelta(hours=-3, minutes=-7, seconds=5, microseconds=9), "odd")
winter = dt.datetime(2024, 10, 27, 2, 30, fold=1)

NUMBERS: list[Any] = [
    None, True, False, 0, 1, -1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 2**70,
    -(2**300), 10**5000, 0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 1 + 2j,
    complex(-0.0, math.nan), Decimal("1.10"), Decimal("-0"), Decimal("NaN"), Decimal("sNaN12"),
    Decimal("-Infinity"), Decimal("1E+100000"), Fraction(3, 4), Fraction(-(2**70), 3), range(5),
    range(5, -3, -2),
]  # fmt: skip

TEXTS: list[Any] = [
    "", "a", "žluťoučký", "\ud800", "a\udfffb", "\0", b"", b"a\xff", bytearray(b"ab"), bytearray(),
    uuid.UUID(int=5), uuid.UUID(int=2**128 - 1), pathlib.Path("/a/b"), pathlib.Path("\udc80"),
    pathlib.PurePosixPath("a//b"), pathlib.PureWindowsPath("C:\\x"),
    ipaddress.ip_address("::1%eth0"), ipaddress.ip_address("10.0.0.1"),
    ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_interface("10.0.0.1/8"), ipaddress.ip_interface("::1/64"),
]  # fmt: skip

TIMES: list[Any] = [
    dt.date(1, 1, 1), dt.date.max, dt.time(1, 2, 3, 4), dt.time(fold=1), dt.time(1, tzinfo=utc),
    dt.time(2, tzinfo=odd_zone), dt.time(3, tzinfo=berlin, fold=1), dt.timedelta(-1, 3, 5),
    dt.timedelta.max, dt.timedelta.min, dt.datetime(1, 1, 1), dt.datetime.max, winter,
    dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=utc), winter.replace(tzinfo=berlin),
    winter.replace(tzinfo=berlin, fold=0), dt.datetime(9, 1, 1, tzinfo=odd_zone), utc, odd_zone,
    dt.timezone(dt.timedelta(hours=1)), berlin,
]  # fmt: skip

CONTAINERS: list[Any] = [
    (), (1,), ((),), [], [()], {}, set(), {1, "1"}, frozenset(), frozenset({(1, 2)}), {(1, 2): [3]},
    {1: "a", "1": "b", b"1": "c", None: "d"}, {1.0: "a"}, {True: "a"}, {2**64: 1},
    {-(2**63) - 1: 1}, {"\ud800": 1}, {math.nan: 1}, {-0.0: 1}, {frozenset({1}): {2: {3: (4,)}}},
    {"a": {1: {(): {b"": bytearray(b"x")}}}}, [bytearray(b"x"), b"x"], {2: 1, 1: 2},
    {"b": 1, "a": 2},
    OrderedDict([("b", 1), ("a", 2)]), deque([1, (2,)], maxlen=3), deque[int](), deque(range(300)),
]  # fmt: skip

INSTANCES: list[Any] = [
    Colour.RED, Colour.BLUE, Level.LOW, Mode.READ, Rights.READ | Rights.WRITE, Rights(0), Bits.A,
    Bits.A | Bits.B, Bits(0), Point(1, 2), Address("a", ["b"]), Tag("a"), Slotted(1, (2,)),
    Derived(1, 2, Address("x"), {Tag("t"): Colour.RED}), Attr(1, {2}), AttrWithDict((1,)),
    {Tag("a"): 1, Point(1, 2): 2, (1, 3): 3, Colour.RED: 4}, {Level.LOW: "a"}, {Mode.READ: "a"},
    [Level.LOW, 1, True, 1.0], {"a": [Slotted({Attr(1): bytearray()})]},
    [Address(str(i)) for i in range(300)],
]  # fmt: skip

VALUES = [*NUMBERS, *TEXTS, *TIMES, *CONTAINERS, *INSTANCES]

# -- strategies ----------------------------------------------------------------------------------

zones = st.sampled_from([None, utc, berlin, odd_zone, dt.timezone(dt.timedelta(minutes=-90))])
texts = st.text(st.characters(), max_size=8) | st.text(st.characters(categories=["Cs", "Ll"]))
times = st.dates() | st.times(timezones=zones) | st.datetimes(timezones=zones) | st.timedeltas()
numbers = (
    st.integers() | st.integers(-(2**80), 2**80) | st.floats() | st.decimals(allow_nan=False)
    | st.complex_numbers() | st.fractions() | st.booleans()
)  # fmt: skip
members = st.sampled_from([*Colour, *Level, *Mode, *Rights, *Bits, Tag("t"), Point(1), range(3)])
leaves: st.SearchStrategy[Any] = (
    st.none() | numbers | texts | times | members | st.binary(max_size=8) | st.uuids()
)


def hashable_around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tuples = st.lists(inner, max_size=3).map(tuple)
    instances = st.builds(Tag, inner) | st.builds(Point, inner, inner) | st.builds(Attr, inner)
    return tuples | st.frozensets(inner, max_size=3) | instances


hashables = st.recursive(leaves, hashable_around, max_leaves=5)
simple_keys = st.integers() | st.booleans() | st.none() | st.floats()


def ordered(pairs: dict[Any, Any]) -> OrderedDict[Any, Any]:
    return OrderedDict(pairs)


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=4)
    dicts = (
        st.dictionaries(hashables, inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        | st.dictionaries(simple_keys, inner, max_size=4)
    )
    instances = (
        st.builds(Slotted, inner, inner)
        | st.builds(AttrWithDict, inner)
        | st.builds(Derived, st.integers(), st.integers(), inner)
    )
    return (
        lists | lists.map(tuple) | lists.map(deque) | dicts | dicts.map(ordered) | instances
        | st.sets(hashables, max_size=4)
    )  # fmt: skip


values = st.recursive(hashables | st.binary(max_size=5).map(bytearray), around, max_leaves=20)

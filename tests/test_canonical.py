"""The encoding of a value: the same everywhere, and another for every other value."""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import ipaddress
import itertools
import math
import pathlib
import re
import struct
import subprocess
import sys
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from hashlib import blake2b
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecaso.errors import UnkeyableArgument
from gecaso.keys.canonical import encode, encode_typed, frame, typed
from gecaso.keys.classes import added_slots
from tests import keyed_values as kv

UTC = dt.UTC
ROME, PARIS = ZoneInfo("Europe/Rome"), ZoneInfo("Europe/Paris")
NOON = dt.datetime(2024, 6, 1, 12)


def slotted(unit: str) -> kv.Slotted:
    value = kv.Slotted("1")
    value.unit = unit
    return value


def attributed(unit: str) -> kv.Text:
    value = kv.Text("1")
    value.__dict__["unit"] = unit
    return value


# No two of these may share an encoding, alone or inside another value.
DIFFERENT: list[Any] = [
    None, True, False, ..., 0, 1, -1, 255, 256, 2**63, 2**64, -(2**64), 10**5000,
    0.0, -0.0, 1.0, math.inf, -math.inf, math.nan, 1e300, 0j, 1j, complex(0.0, -0.0),
    complex(-0.0, 0.0), "", "1", "ab", "a b", "True", "None", "nan", "i1", "\ud800", "\U00010000",
    "\ud800\udc00", "é", "e\u0301", b"", b"1", b"ab", bytearray(b""), bytearray(b"1"),
    [], [1], [1, 2], [2, 1], [[1], 2], [[1, 2]], [1, [2]], ["ab"], ["a", "b"], ["a b"], [b"1"],
    [bytearray(b"1")], [memoryview(b"1").tobytes(), 1], [1.0], [True], ["1"], [None], [math.nan],
    [0.0], [-0.0], [math.inf], [2**64], ["\ud800"],
    (), (1,), (1, 2), ((1,), 2), (1, (2,)), ([1], 2), (1.0,), (True,), ("1",), (math.nan,),
    set(), {1}, {1, 2}, {"a"}, {1.0}, {True}, {(1,)}, frozenset(), frozenset({1}),
    {}, {"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": (1,)}, {"a": [1]}, {"a": {1}},
    {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": {"b": 2}}, {1: 1}, {1.0: 1}, {True: 1}, {"1": 1},
    {(1,): 1}, {None: 1}, {b"a": 1}, [("a", 1)], {"a": None},
    Decimal(1), Decimal("1.0"), Decimal("-0"), Decimal(0), Decimal("Infinity"), Decimal("1E+2"),
    Fraction(1), Fraction(1, 2), uuid.UUID(int=1), uuid.UUID(int=2),
    dt.date(2024, 6, 1), NOON, NOON.replace(fold=1), NOON.replace(microsecond=1),
    NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=ROME), NOON.replace(tzinfo=PARIS),
    NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))),
    NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=2), "CEST")),
    dt.time(12), dt.time(12, tzinfo=UTC), dt.timedelta(1), dt.timedelta(0, 1), UTC, ROME, PARIS,
    range(3), range(0, 3, 2), range(1, 3), slice(3), slice(0, 3), slice(0, 3, 1),
    kv.Colour.RED, kv.Colour.GREEN, kv.Shade.RED, kv.Access.READ, kv.Access.READ | kv.Access.WRITE,
    pathlib.PurePosixPath("a"), pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("a"),
    pathlib.Path("a"), ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"),
    ipaddress.ip_network("127.0.0.1"), ipaddress.ip_interface("127.0.0.1"),
    re.compile("a"), re.compile(b"a"), re.compile("a", re.IGNORECASE),
    int, str, kv.Point, kv.Colour, kv.function, kv.other_function, len, math.sin,
    list[int], int | None,
    kv.Point(1), kv.Point(2), kv.Point(1, 2), kv.Place(1), kv.Pair(1), kv.Pair(2), kv.Model(a=1),
    kv.Model(a=1, b=["a"]), kv.Struct(1), kv.Struct(2), kv.Row(1), kv.Row(1, "a"),
    kv.Text(""), kv.Text("1"), kv.Slotted("1"), slotted("m"), slotted("s"), attributed("m"),
    attributed("s"), kv.Number(1), kv.Listing(), kv.Listing([1]), Counter("a"),
    OrderedDict(a=1, b=2),
    OrderedDict(b=2, a=1), kv.Ordered(a=1), defaultdict(int), defaultdict(list), deque([1]),
    deque([1], 5), MappingProxyType({"a": 1}), kv.Keyed(1), kv.Keyed("1"), kv.Keyed((1,)),
    functools.partial(kv.function), functools.partial(kv.takes, 1),
    functools.partial(kv.takes, a=1), functools.partial(kv.other_function),
    kv.Keyed(1).__cache_key__,
]  # fmt: skip


# --- injective --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", kv.WRAPS)
def test_no_two_different_values_share_an_encoding_alone_or_nested(wrap: Any) -> None:
    encodings = [encode(wrap(value)) for value in DIFFERENT]
    clashes = [
        (DIFFERENT[i], DIFFERENT[j])
        for i, j in itertools.combinations(range(len(DIFFERENT)), 2)
        if encodings[i] == encodings[j]
    ]
    assert clashes == []


def identical(one: Any, other: Any) -> bool:
    """Compare by type and value at every depth: what two encodings must agree with."""
    kind: type[Any] = one.__class__
    if kind is not other.__class__:
        return False
    if kind is float:
        return bool(one.hex() == other.hex())
    if kind in (list, tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    if kind in (set, frozenset, dict):
        mine, yours = (list(v.items() if kind is dict else v) for v in (one, other))
        found = (any(identical(item, your) for your in yours) for item in mine)
        return len(mine) == len(yours) and all(found)
    return bool(one == other)


# Few values and many types, so that what is nearly equal comes up.
atoms = st.sampled_from(
    [None, True, False, 0, 1, -1, 2**64, 0.0, -0.0, 1.0, math.nan, "", "1", "a", "a b", "ab", b"",
     b"1", b"a", "\ud800", Decimal(1), dt.date(2024, 1, 1)]
)  # fmt: skip
scalars = atoms | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
hashables = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)
values = st.recursive(
    scalars | st.binary(max_size=2).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.sets(hashables, max_size=3)
    ),
    max_leaves=8,
)


@given(values, values)
def test_two_values_share_an_encoding_only_if_they_are_the_same(one: Any, other: Any) -> None:
    assert (encode(one) == encode(other)) == identical(one, other)


@given(values, values)
def test_typed_forms_are_equal_exactly_when_encodings_are(one: Any, other: Any) -> None:
    same = encode(one) == encode(other)
    assert (typed(one) == typed(other)) == same
    if same:
        assert hash(typed(one)) == hash(typed(other))


def test_no_two_different_values_share_a_typed_form() -> None:
    forms = {typed(value) for value in DIFFERENT}
    assert len(forms) == len(DIFFERENT)


@pytest.mark.parametrize("value", DIFFERENT, ids=lambda value: type(value).__name__)
def test_the_typed_form_alone_gives_the_encoding(value: Any) -> None:
    assert encode_typed(typed(value)) == encode(value)


@given(values)
def test_the_typed_form_of_any_value_gives_its_encoding(value: Any) -> None:
    assert encode_typed(typed(value)) == encode(value)


@given(st.lists(st.binary(max_size=3), max_size=3), st.lists(st.binary(max_size=3), max_size=3))
def test_a_frame_gives_its_parts_away(parts: list[bytes], others: list[bytes]) -> None:
    assert (frame(*parts) == frame(*others)) == (parts == others)


# --- the same everywhere ----------------------------------------------------------------------


def test_every_bit_pattern_of_nan_is_one_value() -> None:
    nans = [math.nan, -math.nan, struct.unpack(">d", bytes.fromhex("7ff0000000000001"))[0]]
    for wrap in kv.WRAPS:
        assert len({encode(wrap(nan)) for nan in nans}) == 1
    assert typed(nans[0]) == typed(nans[1]) == typed(nans[2])


def test_dicts_and_sets_have_no_order() -> None:
    names = [f"name{i}" for i in range(50)]
    assert encode(dict.fromkeys(names)) == encode(dict.fromkeys(reversed(names)))
    assert encode({(n,): 1 for n in names}) == encode({(n,): 1 for n in reversed(names)})
    assert encode({"a": 1, "b": (1,)}) == encode({"b": (1,), "a": 1})
    colliding = [0, 8, 16, 24]  # a small set keeps them in the order they came in
    one, other = set(colliding), set(sorted(colliding, reverse=True))  # noqa: C414 - that order
    assert list(one) != list(other)
    assert encode(one) == encode(other)


def test_an_object_is_encoded_by_what_its_cache_key_says() -> None:
    assert encode(kv.Keyed(7)) == encode(kv.Keyed(7)) != encode(7)
    assert encode({"a": [kv.Keyed(7)]}) == encode({"a": [kv.Keyed(7)]})


def test_fields_that_do_not_count_for_equality_do_not_count_here() -> None:
    assert encode(kv.Point(1, note="a")) == encode(kv.Point(1, note="b"))
    assert encode(kv.Pair(1, object())) == encode(kv.Pair(1, object()))


def test_a_decimal_does_not_depend_on_the_context() -> None:
    value = Decimal("1E+30")
    with decimal.localcontext() as context:
        context.capitals = 0
        small = encode(value)
    assert small == encode(value)


# A change here empties everybody's shared caches: it needs a line in the changelog.
GOLDEN = "47c73fb9b047568e4fa0cb2b101089da"

ENCODE_THE_LIST = """
import sys
from hashlib import blake2b
from gecaso.keys.canonical import encode
from tests.test_canonical import DIFFERENT, names_of_a_set
for value in [*DIFFERENT, names_of_a_set()]:
    print(blake2b(encode(value), digest_size=8).hexdigest())
"""


def names_of_a_set() -> Any:
    return {
        "set": {f"name{i}" for i in range(99)},
        "dict": {(f"k{i}", i): {str(i)} for i in range(9)},
    }


def test_processes_with_other_hash_seeds_agree() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", ENCODE_THE_LIST],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            cwd=pathlib.Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    here = [blake2b(encode(v), digest_size=8).hexdigest() for v in [*DIFFERENT, names_of_a_set()]]
    assert digests[0] == digests[1] == here
    assert len(set(here)) == len(here)


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (7, b"i7"),
        (-255, b"i-ff"),
        ("é", b"s\xc3\xa9"),
        (1.5, b"f0x1.8000000000000p+0"),
        (math.nan, b"fnan"),
        (None, b"N"),
        (True, b"T"),
        (b"ab", b"bab"),
        ([1, "a"], b"p\x92\x01\xa1a"),
        ({"b": 1, "a": [None]}, b"p\x82\xa1a\x91\xc0\xa1b\x01"),
        ((1, "a"), b"P\x92\x01\xa1a"),
        ((1, b"a"), b"t2:i12:ba"),
        ({1, 2}, b"e2:i12:i2"),
        ({2: "b", 1: "a"}, b"d2:i12:sa2:i22:sb"),
        (uuid.UUID(int=1), b"n4:UUID2:i1"),
        (kv.Colour.RED, b"m19:tests.keyed_values:Colour4:sRED"),
        (kv.Place(1), b"o18:tests.keyed_values:Place1:x2:i11:y2:i0"),
        (kv.function, b"qtests.keyed_values:function"),
    ],
)
def test_an_encoding_is_what_it_was(value: Any, encoding: bytes) -> None:
    assert encode(value) == encoding


def test_the_encoding_has_not_changed() -> None:
    stable = [value for value in DIFFERENT if not isinstance(value, pathlib.PosixPath)]
    together = blake2b(b"".join(map(encode, stable)), digest_size=16).hexdigest()
    assert together == GOLDEN


# --- refused ----------------------------------------------------------------------------------


def local_class() -> type:
    class Local:
        pass

    return Local


def local_enum() -> Any:
    from enum import Enum

    class Local(Enum):
        A = 1

    return Local.A


@functools.wraps(kv.function)
def pretender() -> None: ...


UNKEYABLE: list[Any] = [
    object(), kv.Opaque(), lambda: 0, local_class(), local_class()(), local_enum(), pretender,
    iter([]), memoryview(b""), "".upper, sys.stdout, sys, NotImplemented, {}.keys(),
    defaultdict(lambda: 0), functools.partial(lambda: 0), kv.Opaque().__eq__, iter("a"),
]  # fmt: skip


@pytest.mark.parametrize("value", UNKEYABLE, ids=lambda value: type(value).__name__)
def test_what_has_no_stable_encoding_is_refused(value: Any) -> None:
    for wrapped in (value, [value], (1, value), {"a": value}):
        with pytest.raises(UnkeyableArgument) as caught:
            encode(wrapped, name="query")
        assert "0x" not in str(caught.value)
        assert "ignore=" in str(caught.value)
        assert "key=" in str(caught.value)
        assert "__cache_key__" in str(caught.value)
        with pytest.raises(UnkeyableArgument):
            typed(wrapped)


def test_the_error_names_the_argument_and_the_path_to_the_part() -> None:
    with pytest.raises(UnkeyableArgument) as caught:
        encode({"a": [1, object()]}, name="query")
    assert caught.value.argument == 'query["a"][1]'
    with pytest.raises(UnkeyableArgument) as caught:
        encode((kv.Point(object()), 2), name="query")  # type: ignore[arg-type]  # the mistake
    assert caught.value.argument == "query[0].x"
    with pytest.raises(UnkeyableArgument) as caught:
        encode(kv.Keyed({7: object()}), name="query")
    assert caught.value.argument == "query.__cache_key__()[7]"


@pytest.mark.parametrize("make", [list, dict, deque])
def test_a_value_that_contains_itself_is_refused(make: Any) -> None:
    value = make()
    value.update(a=value) if make is dict else value.append(value)
    for circular in (value, (value,)):
        with pytest.raises(UnkeyableArgument, match="contains itself"):
            encode(circular)


def test_an_object_that_is_its_own_cache_key_is_refused() -> None:
    value = kv.Keyed(None)
    value.id = value
    with pytest.raises(UnkeyableArgument, match="contains itself"):
        encode(value)


def test_depth_is_bounded_whatever_is_nested() -> None:
    for wrap in (*kv.WRAPS[1:4], kv.Keyed):
        value: Any = 0
        for _ in range(95):
            value = wrap(value)
        encode(value)
        for depth in (10, 3000):
            for _ in range(depth):
                value = wrap(value)
            with pytest.raises(UnkeyableArgument):
                encode(value)


def test_a_subclass_that_hides_part_of_its_value_is_found_out() -> None:
    assert added_slots(dt.datetime, dt.date) is None
    assert added_slots(OrderedDict, dict) is None
    assert added_slots(Counter, dict) == added_slots(kv.Text, str) == []
    assert added_slots(kv.Slotted, str) == ["unit"]

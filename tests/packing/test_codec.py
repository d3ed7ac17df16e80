"""What goes in comes out: equal, and of the same types at every depth, or it is refused."""

from __future__ import annotations

import datetime as dt
import enum
import socket
from collections import defaultdict, deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings

from gecaso.errors import ConfigurationError, PackError
from gecaso.packing.codec import Codec
from tests.exactness import same
from tests.packed_values import (
    KNOWN,
    VALUES,
    Address,
    Attr,
    AttrWithDict,
    Level,
    Slotted,
    Tag,
    values,
)

CODEC = Codec(KNOWN)


def there_and_back(value: Any) -> Any:
    return CODEC.loads(CODEC.dumps(value))


def name_of(value: object) -> str:
    return f"{type(value).__name__} {'' if type(value) is int else repr(value)[:40]}"


@pytest.mark.smoke
@pytest.mark.parametrize("value", VALUES, ids=name_of)
def test_a_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    assert same(there_and_back(value), value)
    assert same(there_and_back([{"a": (value,)}]), [{"a": (value,)}])


@settings(max_examples=400, deadline=None)
@given(values)
def test_any_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    assert same(there_and_back(value), value)


DIFFERENT: list[tuple[Any, Any]] = [
    (1, True), (1, 1.0), ([1], (1,)), ({1: 2}, {True: 2}), ({1}, {1.0}), (0.0, -0.0),
    (Level.LOW, 1), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (dt.time(fold=1), dt.time()),
    (b"", bytearray()), (Tag("a"), Tag("b")), (Slotted(1), Slotted(1.0)), (Attr(1), Attr(True)),
    (Address(1), Address(True)),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_these_tests_notice_when_types_differ(a: Any, b: Any) -> None:
    assert not same(a, b)


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Bytes(bytes):
    pass


class Real(float):
    pass


class Items(list[Any]):
    pass


class Pairs(dict[Any, Any]):
    pass


class Unregistered(enum.IntEnum):
    A = 1


HASHABLE: list[Any] = [
    Text("a"), Number(1), Bytes(b"a"), Real(1.5), Unregistered.A, memoryview(b"ab"), dt.datetime,
    object(), print,
]  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("value", [*HASHABLE, Items(), Pairs(), defaultdict[int, int](int)])
def test_what_is_only_like_a_known_type_is_refused_wherever_it_is(value: Any) -> None:
    places = [value, [value], {"a": [value]}, (value,), {"a": (1, {2: [value]})}, Slotted(value)]
    for place in places:
        with pytest.raises(PackError):
            CODEC.dumps(place)


@pytest.mark.parametrize("value", HASHABLE)
def test_what_is_only_like_a_known_type_is_refused_as_a_key(value: Any) -> None:
    places: list[Any] = [
        {value: 1},
        {"a": {value: 1}},
        {value},
        {(1, value): 1},
        [{2: 2, value: 3}],
    ]
    for place in places:
        with pytest.raises(PackError):
            CODEC.dumps(place)


def test_a_pack_error_has_the_path_to_the_part() -> None:
    with socket.socket() as odd:
        cases: list[tuple[Any, str]] = [
            (odd, "value"),
            ({"a": [1, 2, 3, Slotted(odd)]}, 'value["a"][3].x'),
            ({1: {"ž": (odd,)}}, 'value[1]["ž"][0]'),
            ([{odd: 1}], "list(value[0])[0]"),
            ({(1, 2): odd}, "list(value.values())[0]"),
            ({10**5000: odd, "a" * 999: 1}, "list(value.values())[0]"),
            ({odd}, "list(value)[0]"),
            (AttrWithDict(deque([odd])), "value.a[0]"),
        ]
        for value, path in cases:
            with pytest.raises(PackError, match="types=") as caught:
                CODEC.dumps(value)
            assert caught.value.path == path
            assert str(caught.value).startswith(f"{path} is a socket.socket")


class Zone(dt.tzinfo):
    def tzname(self, when: dt.datetime | None) -> str:
        return "nowhere"

    def utcoffset(self, when: dt.datetime | None) -> None:
        return None

    dst = utcoffset


def test_what_has_no_exact_form_says_so() -> None:
    with pytest.raises(PackError, match="fraction"):
        CODEC.dumps([Fraction(1, 2**40000)])
    with pytest.raises(PackError) as caught:
        CODEC.dumps([dt.datetime(2024, 1, 1, tzinfo=Zone())])
    assert caught.value.path == "value[0].tzinfo"


def cycles() -> list[Any]:
    one: list[Any] = []
    one.append(one)
    two: list[Any] = []
    two += [(two,), (two,)]
    three: dict[Any, Any] = {}
    three["a"] = [three, three]
    four = Slotted(None)
    four.x = {1: four}
    return [one, two, three, four]


@pytest.mark.parametrize("value", cycles(), ids=range(4))
def test_a_value_that_contains_itself_is_refused(value: Any) -> None:
    with pytest.raises(PackError, match="contains itself"):
        CODEC.dumps(value)


def in_a_tuple(inner: Any) -> Any:
    return (inner,)


def in_a_list(inner: Any) -> Any:
    return [inner]


def in_a_dict(inner: Any) -> Any:
    return {1: inner}


def in_all(inner: Any) -> Any:
    return Slotted([{(1,): inner}])


@pytest.mark.parametrize("wrap", [in_a_tuple, in_a_list, in_a_dict, Slotted, in_all])
def test_what_is_nested_deeply_comes_back_or_is_refused(wrap: Callable[[Any], Any]) -> None:
    outcomes: list[bool] = []
    for depth in (1, 5, 15, 30, 60, 120, 240, 480, 5000):
        value: Any = None
        for _ in range(depth):
            value = wrap(value)
        try:
            data = CODEC.dumps(value)
        except PackError:
            outcomes.append(False)
        else:
            outcomes.append(CODEC.dumps(CODEC.loads(data)) == data)
    assert outcomes == sorted(outcomes, reverse=True)
    assert 4 <= sum(outcomes) < 9


@pytest.mark.parametrize(("depth", "fits"), [(64, True), (65, False)])
def test_64_forms_may_be_inside_each_other(depth: int, fits: bool) -> None:
    value: Any = ()
    for _ in range(depth - 1):
        value = (value,)
    if fits:
        assert there_and_back(value) == value
    else:
        with pytest.raises(PackError, match="nested too deeply"):
            CODEC.dumps(value)


def test_a_plain_value_needs_no_look_at_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    monkeypatch.setattr("gecaso.packing.codec.is_odd", looked.append)
    CODEC.dumps({"id": 7, "name": "Ada", "tags": ["a", "b"], "score": 1.5, "ok": True, "no": None})
    assert looked == []


def test_two_types_of_one_name_are_refused() -> None:
    first, second = (type("Order", (Address,), {"__module__": "shop"}) for _ in range(2))
    with pytest.raises(ConfigurationError, match="shop:Order"):
        Codec([first, second])

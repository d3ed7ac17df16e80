"""A packer: entries and params, known types, sizes, serializers, and which one is current."""

from __future__ import annotations

import contextvars
import datetime as dt
import json
import math
import pickle
import uuid
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gecaso.entry import Entry
from gecaso.errors import ConfigurationError, PackError, UnpackError, ValueTooLarge
from gecaso.packing import Packer, compression, current_packer, pack, unpack, using
from tests.exactness import same
from tests.packed_values import KNOWN, Address, Level, Point, Tag, values

SECRET = "0123456789abcdef"


@settings(max_examples=100, deadline=None)
@given(values, st.dictionaries(st.text(max_size=5), values, max_size=2))
def test_any_value_comes_back_signed_compressed_and_with_params(value: Any, params: Any) -> None:
    packer = Packer(secret=SECRET, types=KNOWN, compress=1)
    data = packer.dumps(value, {"params": params}, key=b"k")
    assert same(packer.loads(data, key=b"k"), (value, {"params": params}))


# -- entries and params --------------------------------------------------------------------------

ENTRIES = [
    Entry({"a": (1,)}, 1.5, 2.5, math.inf, 0.25, version=b"v" * 16),
    Entry(None, 1, -math.inf, 3, 0, "uncacheable", {"t": b"1"}, {"ttl": dt.timedelta(1)}),
    Entry("x" * 5000, 0.0),
]
FIELDS = ("created", "fresh_until", "dead_after", "cost", "kind", "tags", "params", "version")


@pytest.mark.smoke
@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_comes_back_whole(entry: Entry, secret: str | None) -> None:
    packer = Packer(secret=secret)
    back = packer.unpack_entry(packer.pack_entry(entry, key=b"k"), key=b"k")
    assert same(back.value, entry.value)
    assert [getattr(back, name) for name in FIELDS] == [getattr(entry, name) for name in FIELDS]


def test_an_entry_with_nothing_special_takes_42_bytes_more_than_its_value() -> None:
    assert len(Packer().pack_entry(Entry(1, 0.0))) == 42 + 1
    assert len(Packer().pack(1)) == 8 + 1


def test_what_is_no_entry_is_a_miss_where_one_is_expected() -> None:
    with pytest.raises(UnpackError, match="not an entry"):
        Packer().unpack_entry(Packer().pack(1))


def test_params_come_back_with_the_value() -> None:
    params = {"ttl": dt.timedelta(5), "value": (2,), "self": 1}
    assert unpack(pack(1, **params)) == (1, params)
    assert unpack(pack(1)) == (1, {})


def test_params_that_cannot_be_packed_are_refused() -> None:
    with pytest.raises(PackError, match=r'value\["params"\]\["x"\]'):
        pack(1, x=object())


def test_header_fields_of_a_later_version_do_no_harm() -> None:
    data = Packer().dumps(1, {"params": {"a": 1}, "from the future": {2: (3,)}})
    assert unpack(data) == (1, {"a": 1})


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_and_what_is_like_bytes_can_be_unpacked(kind: Any) -> None:
    assert unpack(kind(pack([1]))) == ([1], {})
    assert Packer().unpack_entry(kind(Packer().pack_entry(Entry(1, 0)))).value == 1


@pytest.mark.parametrize("wrong", [None, "text", 1, [b"a"]])
def test_nothing_else_can_be_unpacked(wrong: Any) -> None:
    with pytest.raises(TypeError, match="bytes"):
        unpack(wrong)
    with pytest.raises(TypeError, match="bytes"):
        Packer().unpack_entry(wrong)


# -- the current packer --------------------------------------------------------------------------


def test_the_current_packer_is_that_of_the_innermost_block_of_this_context() -> None:
    outer, inner = Packer(types=[Tag]), Packer(types=[Point])
    elsewhere = contextvars.copy_context()
    with using(outer) as used:
        assert used is outer
        data = pack(Tag("a"))
        with using(inner):
            assert current_packer.get() is inner
            with pytest.raises(UnpackError):
                unpack(data)
        assert unpack(data) == (Tag("a"), {})
        assert elsewhere.run(current_packer.get) is not outer
    with pytest.raises(PackError):
        pack(Tag("a"))


# -- known types ---------------------------------------------------------------------------------


def test_a_type_that_is_not_known_here_is_a_miss_that_says_so() -> None:
    data = Packer(types=[Tag]).pack([Tag("a")])
    with pytest.raises(UnpackError, match=r"tests.packed_values:Tag.*return annotation"):
        unpack(data)


def test_also_gives_a_packer_that_knows_more_types_and_is_else_the_same() -> None:
    first = Packer(types=[Tag], max_bytes=1000, secret=SECRET)
    more = first.also({Point})
    assert first.types == frozenset({Tag})
    assert more.types == frozenset({Tag, Point})
    assert more.max_bytes == 1000
    assert more.unpack(more.pack(Point(1)))[0] == Point(1)
    assert first.unpack(more.pack(Tag("a")))[0] == Tag("a")
    assert more.also([Point]) is more


class Plain:
    pass


def test_types_that_cannot_be_taken_apart_are_refused_at_once() -> None:
    for cls in (Plain, object, Exception):
        with pytest.raises(ConfigurationError, match="dataclasses"):
            Packer(types=[cls])
    assert Packer(types=[int, Decimal, dt.datetime, list, Address]).types == frozenset({Address})


# -- size and compression ------------------------------------------------------------------------


def test_a_large_payload_is_compressed_when_that_helps() -> None:
    text = "abc" * 10_000
    assert len(pack(text)) < 1000
    assert len(Packer(compress=False).pack(text)) > 30_000
    assert len(Packer(compress=40_000).pack(text)) > 30_000
    noise = uuid.uuid4().bytes
    assert noise in Packer(compress=1).pack(noise)
    for packer in (Packer(), Packer(compress=False), Packer(compress=None), Packer(compress=1)):
        assert packer.unpack(pack(text)) == (text, {})
        assert unpack(packer.pack(text)) == (text, {})


def test_of_large_data_pieces_are_tried_before_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    real = compression._compress  # pyright: ignore[reportPrivateUsage] - what is counted

    def counted(data: bytes) -> bytes:
        tried.append(len(data))
        return real(data)

    monkeypatch.setattr(compression, "_compress", counted)
    noise = Random(1).randbytes(compression.LARGE + 1)
    assert compression.compress(noise) == (compression.PLAIN, noise)
    assert sum(tried) == 3 * compression.PIECE
    text = noise[:1000] * 1000
    method, small = compression.compress(text)
    assert compression.decompress(method, small, len(text)) == text
    assert len(small) < len(text) / 10


NOISE = b"".join(uuid.uuid4().bytes for _ in range(70))


@pytest.mark.parametrize(
    "value", ["a" * 1000, NOISE, (bytes(2000),)], ids=["text", "noise", "zero"]
)
def test_a_value_beyond_max_bytes_is_refused_before_and_after_compression(value: Any) -> None:
    with pytest.raises(ValueTooLarge) as caught:
        Packer(max_bytes=1000).pack(value)
    assert caught.value.limit == 1000
    assert caught.value.size > 1000


def test_data_beyond_max_bytes_is_a_miss() -> None:
    entry = Entry("a" * 2000, 0.0)
    for data in (Packer(compress=False).pack_entry(entry), Packer().pack_entry(entry)):
        with pytest.raises(UnpackError, match="1000"):
            Packer(max_bytes=1000).unpack_entry(data)


@pytest.mark.parametrize("options", [{"max_bytes": 0}, {"compress": -1}])
def test_bounds_that_make_no_sense_are_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        Packer(**options)


# -- serializers ---------------------------------------------------------------------------------

EXACT: list[Any] = [{"a": [1, 2.5, None, True, "\ud800", 2**80]}, math.nan, "x" * 5000, [], {}]


@pytest.mark.parametrize("value", EXACT, ids=range(len(EXACT)))
def test_json_takes_what_json_keeps_exactly(value: Any) -> None:
    packer = Packer(serializer="json")
    assert same(packer.unpack(packer.pack(value, ttl=1)), (value, {"ttl": 1}))


def test_json_is_there_for_others_to_read() -> None:
    assert b'{"a":[1]}' in Packer(serializer="json").pack({"a": [1]})


INEXACT: list[tuple[Any, str]] = [
    ((1,), "value"),
    ({"a": [{1: 2}]}, 'value["a"][0]'),
    ([Level.LOW], "value[0]"),
    (10**5000, "value"),
]


@pytest.mark.parametrize(("value", "path"), INEXACT, ids=range(len(INEXACT)))
def test_json_refuses_the_rest(value: Any, path: str) -> None:
    with pytest.raises(PackError, match="JSON") as caught:
        Packer(serializer="json").pack(value)
    assert caught.value.path == path


def test_json_refuses_what_contains_itself() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(PackError, match="JSON"):
        Packer(serializer="json").pack(cycle)


def test_a_serializer_of_ones_own_is_used_for_values() -> None:
    packer = Packer(serializer=json)
    assert packer.unpack(packer.pack((1,), ttl=(2,))) == ([1], {"ttl": (2,)})
    for other in (Packer(), Packer(serializer="json")):
        with pytest.raises(UnpackError, match="another serializer"):
            other.unpack(packer.pack(1))


@pytest.mark.parametrize("serializer", [pickle, "yaml", None, object()])
def test_what_is_no_serializer_or_a_dangerous_one_is_refused(serializer: Any) -> None:
    with pytest.raises(ConfigurationError, match="secret=" if serializer is pickle else "msgpack"):
        Packer(serializer=serializer)


def test_a_dangerous_serializer_is_taken_with_a_secret() -> None:
    dangerous: Any = pickle
    packer = Packer(serializer=dangerous, secret=SECRET)
    assert packer.unpack(packer.pack(object)) == (object, {})


def test_the_repr_shows_no_secret() -> None:
    assert SECRET not in repr(vars(Packer(secret=SECRET)))
    assert "signed" in repr(Packer(secret=SECRET))

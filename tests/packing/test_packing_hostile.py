"""Nothing in a storage runs code, imports a module, or takes more than a stated bound."""

from __future__ import annotations

import builtins
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from decimal import InvalidOperation, localcontext
from typing import Any

import pytest
from ormsgpack import Ext

from gecaso.entry import Entry
from gecaso.errors import UnpackError
from gecaso.packing import Packer, compression, framing
from gecaso.packing.forms import FORMS, OBJECT
from gecaso.packing.nesting import is_deeper_than
from gecaso.packing.shapes import shape_of
from tests.hostile import HEAD, TAG, form, headed, packed, payload, refused, sealed
from tests.packed_values import KNOWN, Bits, Colour, Point, Slotted

PACKER = Packer(types=KNOWN)
SIGNED = Packer(types=KNOWN, secret="a secret of enough bytes")

# -- foreign and damaged data --------------------------------------------------------------------

FOREIGN = [
    b"", b"\xc1", b"\xc1\x01", b"\xc1\x01\x00", HEAD, b"\xc1\x01\x02\x00", b"null", b"gecaso:lease",
    b"\x80\x05K\x01.", b"\xc1\x02\x00\x00\x01", b"\xc1\x00\x00\x00\x01", b"\xc1\x01\x00\x01\x01",
    b"\xc1\x01\x00\x80\x01", b"\xc2\x01\x00\x00\x01", b"\xc1\x01\xe0\x00\x01", b"\xc1\x01@\x00\x01",
    b"\xc1\x01\x20\x00[1]", b"\xc1\x01\x18\x00\x01", b"\xc1\x01\x04\x00\xff\xff\xff\xff\x80\x01",
    b"\xc1\x01\x04\x00\x01\0\0\0\x01\x01", b"\xc1\x01\x04\x00\x03\0\0\0\x81\x01\x01\x01",
    b"\xc1\x01\x02\x00" + bytes(32) + b"\xff\xff\x01",
]  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("data", FOREIGN, ids=repr)
def test_foreign_data_is_a_miss(data: bytes) -> None:
    refused(data, PACKER, SIGNED)
    refused(sealed(data), PACKER, SIGNED)


@pytest.mark.parametrize("compress", [False, 1])
def test_unsigned_data_is_a_miss_when_one_bit_has_changed_or_one_byte_is_missing(
    compress: bool | int,
) -> None:
    packer = Packer(compress=compress)
    entry = Entry({"a": [1, 2], "b": "a" * 20}, 1.0, params={"x": 1}, version=b"v")
    data = packer.pack_entry(entry)
    flipped = [int.from_bytes(data) ^ 1 << bit for bit in range(len(data) * 8)]
    damaged = [number.to_bytes(len(data)) for number in flipped]
    damaged += [data[:size] for size in range(len(data))]
    for changed in (*damaged, data + b"\0", data + data):
        with pytest.raises(UnpackError):
            packer.unpack_entry(changed)


ODD_FIELDS: list[Any] = [
    {"params": 1}, {"params": {1: 2}}, {"tags": {"a": 1}}, {"tags": []}, {"kind": "odd"},
    {"kind": [1]}, {1: 2}, [1],
]  # fmt: skip


@pytest.mark.parametrize("fields", ODD_FIELDS)
def test_an_entry_with_odd_fields_is_a_miss(fields: Any) -> None:
    size = len(packed(fields)).to_bytes(4, "little")
    data = headed(framing.ENTRY | framing.FIELDS, bytes(34) + size + packed(fields) + b"\x01")
    with pytest.raises(UnpackError):
        PACKER.unpack_entry(data)


RAW = [
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xa1\xff", b"\xc1",
    b"\xc6\xff\xff\xff\xffaa", b"\xc9\xff\xff\xff\xff\x02", b"\xdd\xff\xff\xff\xff" * 1000,
    b"\xa3\xed\xa0\x80", b"\x81\x80\x01", b"\x81\xd4\x02\x90\x01", b"\x91" * 5000 + b"\x01",
    b"\x81\xa1a" * 5000 + b"\x01", b"\x81" + b"\x91" * 5000 + b"\x01\x01",
]  # fmt: skip


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw[:12].hex())
def test_damaged_msgpack_is_a_miss_and_takes_no_memory(raw: bytes) -> None:
    tracemalloc.start()
    try:
        refused(sealed(HEAD + raw), PACKER)
        refused(payload(form("tuple", raw)), PACKER)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


# -- forms ---------------------------------------------------------------------------------------

ANY_TEXT = {"str", "int", "bytearray", "PosixPath", "PurePosixPath", "PureWindowsPath"}
HUGE = form("range", [0, 10**12, 1])
BIG, BIGGER = form("int", b"\1" * 99_999), form("int", b"\1" * 100_000)
FOREIGN_PATH = "WindowsPath" if sys.platform != "win32" else "PosixPath"

HOSTILE: list[Any] = [
    form(0, b""), form(127, b""), form(99, [1]), form("set", [[]]), form("frozenset", [{}]),
    *(form(tag, b"") for tag in TAG if tag not in ANY_TEXT),
    *(form(tag, b"\xff\xfe\x00") for tag in TAG if tag not in ("int", "bytearray")),
    *(form(one.tag, x) for one in FORMS.values() if one.nested for x in (5, {"a": 1}, None, "a")),
    *(form(tag, HUGE) for tag in ("tuple", "set", "deque", "dict")), form("set", [BIG, {}]),
    form("dict", [[], 1]), form("dict", [1]), form("dict", [1, 2, 1, 3]),
    form("OrderedDict", [1, 2, 3]), form("dict", [form("bytearray", b""), 1]),
    form("set", [form("Decimal", b"sNaN")]), form("Decimal", b"1.2.3"), form("Decimal", b"banana"),
    form("Fraction", [1, 0]), form("Fraction", [1, "2"]), form("Fraction", [BIG, BIGGER]),
    form("range", [1, 2, 0]), form("range", ["a"]), form("range", []), form("deque", []),
    form("deque", ["a", 1]), form("deque", [-1]), form("datetime", b"\x000000-13-45T99:99"),
    form("datetime", b"\0"), form("datetime", ["2024-01-01", 7, None]),
    form("datetime", ["2024-01-01", 0, "UTC"]), form("time", b"\x0025:00"),
    form("date", b"2024-02-30"), form("timedelta", b"\xff" * 13), form("timezone", []),
    form("timedelta", b"\xff\xff\xff\x7f" * 3),
    form("timezone", [form("timedelta", b"\xff\xff\x00\x00" * 3)]),
    *(form("ZoneInfo", name) for name in (b"", b"../../etc/passwd", b"/etc/localtime", b"..")),
    *(form("ZoneInfo", name) for name in (b"Nowhere/At_All", b"a" * 5000, b"os", b"tzdata")),
    form("UUID", b"\0" * 15), form("complex", b"\0" * 15), form("IPv4Address", b"1.2.3.256"),
    form("IPv6Network", b"::1/200"), form(FOREIGN_PATH, b"x"), form(OBJECT, []), form(OBJECT, [1]),
    form(OBJECT, ["os:system", 0, "true"]), form(OBJECT, ["builtins:eval", 0, "1"]),
    form(OBJECT, [[], 0]), form(OBJECT, [2**63, 0]), form(OBJECT, [BIG, 0]),
    form(OBJECT, ["tests.packed_values:Colour", 12345, "RED"]),
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_form_with_the_wrong_content_is_a_miss(value: Any) -> None:
    for place in (value, [1, value], {"a": value}, form("tuple", [value])):
        refused(payload(place), PACKER)


def instance(cls: type, parts: list[Any]) -> Ext:
    shape = shape_of(cls)
    assert shape is not None
    return form(OBJECT, [shape.name, shape.check, *parts])


def test_a_known_type_with_the_right_parts_is_built() -> None:
    parts = [instance(Colour, ["RED"]), instance(Point, [1, 2]), instance(Bits, [3])]
    assert PACKER.unpack(payload(parts))[0] == [Colour.RED, Point(1, 2), Bits.A | Bits.B]
    assert PACKER.unpack(payload(instance(Slotted, [None, None, 1, 2])))[0] == Slotted(1, 2)


WRONG_PARTS: list[tuple[type, list[Any]]] = [
    (Colour, ["BLACK"]), (Colour, [1]), (Colour, ["__class__"]), (Colour, [None]), (Colour, []),
    (Colour, [[]]), (Colour, ["RED", "RED"]), (Bits, [4]), (Bits, [-1]), (Bits, [1.0]),
    (Bits, [BIG]), (Point, [1]), (Point, [1, 2, 3]), (Slotted, []), (Slotted, [None, None]),
    (Slotted, [None, None, 1]), (Slotted, [None, None, 1, 2, 3]), (Slotted, [None, {"z": 2}, 1, 2]),
    (Slotted, [None, {1: 2}, 1, 2]), (Slotted, [["zzz"], None, 1, 2]), (Slotted, [5, None, 1, 2]),
    (Slotted, [None, 5, 1, 2]),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "parts"), WRONG_PARTS)
def test_a_known_type_with_the_wrong_parts_is_a_miss(cls: type, parts: list[Any]) -> None:
    refused(payload(instance(cls, parts)), PACKER)


def test_a_decimal_that_is_none_is_a_miss_even_where_the_context_would_not_mind() -> None:
    with localcontext() as context:
        context.traps[InvalidOperation] = False
        refused(payload(form("Decimal", b"banana")), PACKER)


def test_no_file_is_looked_for_whose_name_could_not_be_that_of_a_time_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []
    monkeypatch.setattr("gecaso.packing.forms.ZoneInfo", looked.append)
    for name in (b"../../etc/passwd", b"/etc/passwd", b"..", b"a" * 99, b"a/" * 9 + b"a", b"a\n"):
        refused(payload([form("ZoneInfo", name), form(99, b"")]), PACKER)
    assert looked == []


def test_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = builtins.__import__

    def watch(name: str, *args: Any) -> Any:
        asked.append(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", watch)
    for name in ("antigravity:x", "tests.nowhere:X", "os:system"):
        refused(payload(form(OBJECT, [name, 0, 1])), PACKER)
    assert not {"antigravity", "tests.nowhere"} & {*asked, *sys.modules}


# -- bombs ---------------------------------------------------------------------------------------

BOMBS = [bytes(200_000_000), b"\xdd\xff\xff\xff\xff" * 10_000_000]


@pytest.mark.parametrize("bomb", BOMBS, ids=["zeros", "lists"])
def test_a_compression_bomb_is_a_miss_that_takes_no_more_than_max_bytes(bomb: bytes) -> None:
    data = headed(compression.ZLIB << framing.METHOD, zlib.compress(bomb))
    tracemalloc.start()
    try:
        refused(data, Packer(max_bytes=1_000_000))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


CHANGES: list[Callable[[bytes], bytes]] = [
    lambda data: data[:-1],
    lambda data: data + b"x",
    lambda data: data[:20] + b"\xff" + data[21:],
    lambda data: b"" + data[:0],
]


@pytest.mark.parametrize("change", CHANGES)
def test_damaged_compressed_data_is_a_miss(change: Callable[[bytes], bytes]) -> None:
    data = Packer().pack("abc" * 1000)
    refused(sealed(data[:4] + change(data[4:-4])), PACKER)


def test_a_method_of_compression_that_this_python_lacks_is_a_miss() -> None:
    for method in [3] if compression.BEST == compression.ZSTD else [compression.ZSTD, 3]:
        refused(headed(method << framing.METHOD, zlib.compress(b"\x01")), PACKER)


DEEP = """
import threading
from zlib import crc32
from gecaso.errors import UnpackError
from gecaso.packing import Packer

def run():
    for plain in (1, 30, 250, 1000):
        for forms in (1, 3, 10, 60, 70, 500, 5000):
            for junk in (b"", b"\\x91\\x91", b"\\x01" * 50):
                data = b"\\x90"
                for _ in range(forms):
                    body = b"\\x91" * plain + data + junk
                    data = b"\\xc9" + len(body).to_bytes(4, "big") + b"\\x02" + body
                    if len(data) > 200_000:
                        break
                data = b"\\xc1\\x01\\x00\\x00" + data
                try:
                    Packer().unpack(data + crc32(data).to_bytes(4, "little"))
                except UnpackError:
                    pass
    print("alive")

threading.stack_size(8 * 1024 * 1024)
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


@pytest.mark.process
def test_no_nesting_exhausts_the_stack_of_a_thread() -> None:
    run = subprocess.run([sys.executable, "-c", DEEP], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "alive\n"), run.stderr


NESTED = {OBJECT, *(one.tag for one in FORMS.values() if one.nested)}
LEAVES: list[Any] = [
    None, True, -1, 300, -300, 70000, -70000, 2**40, -(2**40), 1.5, "a" * 20, "é" * 200,
    "x" * 70000, b"\x91" * 9, b"\x91" * 300, b"\xdd" * 70000,
    *(Ext(8, b"\x91" * n) for n in (0, 1, 2, 4, 5, 8, 16, 300, 70000)),
]  # fmt: skip
DEPTHS: list[tuple[Any, int]] = [
    ([LEAVES, [[LEAVES]], LEAVES], 4),
    ({"a": LEAVES, "b": {"c": LEAVES, "d": 1}}, 3),
    ([LEAVES] * 20 + [[[1]]], 3),
    ({str(n): [n] for n in range(70000)}, 2),
    ([[0] * 70000, [[n] for n in range(300)], {"a": {n: {n: 1} for n in range(300)}}], 4),
    ([form("tuple", [1, form("tuple", [[2]])]), 1, [[[1]]]], 6),
    ([form("tuple", packed([1]) + b"\x01" * 9), [[[1]]]], 4),  # which a reader does not look at
]


@pytest.mark.parametrize(("value", "depth"), DEPTHS, ids=range(len(DEPTHS)))
def test_depth_is_measured_exactly(value: Any, depth: int) -> None:
    data = packed(value)
    assert not is_deeper_than(depth, data, NESTED)
    assert is_deeper_than(depth - 1, data, NESTED)

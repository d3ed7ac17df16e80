"""What lies in a memory map is unpacked where it lies; what is signed is copied before."""

from __future__ import annotations

import dataclasses
import mmap
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gecaso.entry import Entry
from gecaso.errors import UnpackError
from gecaso.packing import Packer
from gecaso.packing.signing import Signer

SECRET = b"at least sixteen bytes of it"
MEGABYTE = 1 << 20


@dataclasses.dataclass
class Point:
    x: int


class Lines:
    """A serializer of a user's, which asks for bytes."""

    def dumps(self, value: object) -> bytes:
        return str(value).encode()

    def loads(self, data: bytes) -> object:
        assert type(data) is bytes
        return data.decode()


PACKERS: list[tuple[Packer, Any]] = [
    (Packer(), {"a": [1, (2,)], "b": b"x" * 100}),
    (Packer(), "compressed " * 1000),
    (Packer(types=[Point]), [Point(1)]),
    (Packer(serializer="json"), {"a": [1, 2.5]}),
    (Packer(serializer=Lines()), "text"),
    (Packer(secret=SECRET), slice(1, 2)),  # pickled
]


@pytest.mark.parametrize(("packer", "value"), PACKERS)
def test_a_map_is_read_as_its_bytes_are(packer: Packer, value: Any, tmp_path: Path) -> None:
    entry = Entry(value, 1.0, tags={"t": b"v"}, params={"p": (1,)}, version=b"version")
    path = tmp_path / "value"
    path.write_bytes(packer.pack_entry(entry, key=b"k"))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        view = memoryview(held)
        found = packer.unpack_entry(view, key=b"k")
        view.release()  # and nothing that was read refers to it
    assert (found.value, found.version, found.tags, found.params) == (
        value, b"version", {"t": b"v"}, {"p": (1,)},
    )  # fmt: skip
    assert type(found.version) is bytes


def test_a_large_value_in_a_map_is_not_copied_as_a_whole() -> None:
    packer = Packer(compress=None)
    data = packer.pack_entry(Entry([b"x" * MEGABYTE] * 8, 0))
    tracemalloc.start()
    try:
        found = packer.unpack_entry(memoryview(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.value) == 8
    assert peak < 9 * MEGABYTE  # the value itself, and no second time


@pytest.mark.parametrize("cut", [0, 1, 4, 20, -1])
def test_a_map_of_damaged_data_is_a_miss(cut: int) -> None:
    data = Packer().pack_entry(Entry([1, 2], 0))
    with pytest.raises(UnpackError):
        Packer().unpack_entry(memoryview(data)[:cut])


def test_what_is_signed_does_not_change_between_the_check_and_the_reading() -> None:
    """Who can write to a mapped file could otherwise have his own pickle read."""
    packer = Packer(secret=SECRET)
    stored = bytearray(packer.pack_entry(Entry(slice(1, 2), 0)))
    start = stored.index(b"\x80\x05")  # of the pickle
    reader: Callable[..., Entry] = packer.unpack_entry
    evil = b"\x80\x05(lp0\n0."

    class Changing(Signer):
        def accepts(self, signature: bytes, key: bytes, data: bytes) -> bool:
            fine = super().accepts(signature, key, data)
            stored[start : start + len(evil)] = evil
            return fine

    packer._signer = Changing(SECRET)  # pyright: ignore[reportPrivateUsage] - a signer that is slow to answer
    assert reader(memoryview(stored)).value == slice(1, 2)


def test_a_view_of_other_items_than_bytes_is_read_as_bytes() -> None:
    short = Packer().pack_entry(Entry("", 0))
    data = Packer().pack_entry(Entry("x" * (-len(short) % 4), 0))
    assert set(Packer().unpack_entry(memoryview(array("I", data))).value) <= {"x"}

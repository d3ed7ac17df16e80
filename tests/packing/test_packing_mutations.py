"""Whatever happens to packed data, reading it gives a value or a miss, and nothing else."""

from __future__ import annotations

import math
import random
import resource
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gecaso.entry import Entry
from gecaso.errors import UnpackError
from gecaso.packing import Packer
from tests.exactness import same
from tests.hostile import HEAD, sealed
from tests.packed_values import KNOWN, Address, AttrWithDict, Bits, Colour, Point, Slotted

PACKER = Packer(types=KNOWN)
SIGNED = Packer(types=KNOWN, secret="a secret of enough bytes")
COMPRESSING = Packer(types=KNOWN, compress=1)

SAMPLES: list[Any] = [
    {"id": 7, "name": "Ada", "tags": ["a", "b"], "score": 1.5, "ok": True, "none": None},
    [Address("a", [Slotted("b", (1, 2)), Point(1, {2})]), Colour.RED, Bits.A | Bits.B],
    {(1, 2): frozenset({3}), 1: bytearray(b"abc"), 2**70: "\ud800", b"k": Decimal("1.5"), None: 1j},
    [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, fold=1), math.nan, range(3)],
    {"text": "the same again and again " * 20, "more": AttrWithDict({1})},
]
PACKED = [
    *(PACKER.pack(sample, ttl=5) for sample in SAMPLES),
    *(PACKER.pack_entry(Entry(sample, 1.0, 2.0, version=b"v" * 16)) for sample in SAMPLES),
    *(COMPRESSING.pack(sample) for sample in SAMPLES),
    *(SIGNED.pack(sample) for sample in SAMPLES),
]
# First bytes of everything in msgpack, and the largest and smallest lengths.
STARTS = bytes.fromhex("00017f808f909fc0c1c4c6c7c9cbcfd4d8d9dbdcdddedfe0ff")
LENGTHS = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\1\0"]


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        mutate_once(rng, changed, rng.randrange(len(changed) or 1))
    return bytes(changed)


def mutate_once(rng: random.Random, data: bytearray, at: int) -> None:
    match rng.randrange(7):
        case 0:
            data[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1])
        case 1:
            del data[at:]
        case 2:
            del data[at : at + rng.randrange(1, 5)]
        case 3:
            other = rng.choice(PACKED)
            start = rng.randrange(len(other))
            data[at:at] = other[start : start + rng.randrange(1, 30)]
        case 4:
            data[at : at + 1] = bytes([rng.choice(STARTS)])
        case 5:
            data[at : at + 4] = rng.choice(LENGTHS)
        case _:
            data[at : at + 1] = bytes([rng.randrange(256)])


def test_100_000_mutated_payloads_are_misses_or_values() -> None:
    rng = random.Random(20_000_101)
    misses = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for turn in range(100_000):
        data = mutate(rng, rng.choice(PACKED))
        if turn % 4:  # the checksum would notice: look behind it
            data = sealed(data[:-4])
        try:
            if turn % 3:
                PACKER.unpack(data)
            else:
                PACKER.unpack_entry(data)
        except UnpackError:
            misses += 1
    assert 50_000 < misses < 99_000  # the rest got as far as a value
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_mutated_signed_payloads_are_misses() -> None:
    rng = random.Random(20_000_102)
    for _ in range(10_000):
        original = rng.choice(PACKED[-len(SAMPLES) :])
        data = mutate(rng, original)
        try:
            value, _ = SIGNED.unpack(data)
        except UnpackError:
            continue
        assert data in PACKED
        assert any(same(value, sample) for sample in SAMPLES)


def test_random_bytes_behind_a_right_head_are_misses_or_values() -> None:
    rng = random.Random(7)
    outcomes: set[str] = set()
    for _ in range(20_000):
        try:
            PACKER.unpack(sealed(HEAD + rng.randbytes(rng.randrange(1, 40))))
        except UnpackError:
            outcomes.add("miss")
        else:
            outcomes.add("value")
    assert outcomes == {"miss", "value"}

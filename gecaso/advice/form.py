"""What a recording looks like: a header, then blocks, each with its length and a checksum.

The header has the sample rate and the time of the start. There are four kinds of blocks: requests
(the times of the first and the last, then the hash of each key, in order), facts about what was
stored (hash, weight, ttl), and how many requests and how many different keys there were so far,
sampled or not (`gecaso.advice.distinct`). A process that dies leaves a block that is not complete:
what comes before it is good.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import inf, isfinite
from typing import Final, NamedTuple
from zlib import compress, crc32, decompress

from gecaso.keys.digests import blake2b

__all__ = [
    "FACTS",
    "KEYS",
    "MAGIC",
    "REQUESTS",
    "TOTAL",
    "Block",
    "Fact",
    "Header",
    "block",
    "blocks",
    "count_of",
    "fact",
    "facts",
    "hash_of",
    "header",
    "is_recording",
    "keys",
    "limit_of",
    "registers_of",
    "requests",
    "times_of",
    "total",
]

MAGIC: Final = b"gecaso\x00\x01"
"""Seven bytes, and the version of the format."""
REQUESTS: Final = ord("R")
FACTS: Final = ord("F")
TOTAL: Final = ord("T")
KEYS: Final = ord("K")

_HEADER: Final = struct.Struct("<8sddI")
_BLOCK: Final = struct.Struct("<BII")
_TIMES: Final = struct.Struct("<dd")
_FACT: Final = struct.Struct("<8sQd")
_TOTAL: Final = struct.Struct("<Q")
_UNKNOWN: Final = (1 << 64) - 1


class Header(NamedTuple):
    """The part of the keys that is recorded, and the time of the start: seconds of Unix time."""

    sample: float
    start: float


class Block(NamedTuple):
    kind: int
    payload: bytes


class Fact(NamedTuple):
    """What was stored: the hash of its key, bytes (None: unknown), seconds (None: for ever)."""

    code: bytes
    weight: int | None
    ttl: float | None


def hash_of(data: bytes) -> bytes:
    """Return the 8 bytes that stand for a key: the same in every process."""
    return blake2b(data, digest_size=8).digest()


def limit_of(sample: float) -> bytes:
    """Return the first hash that is not in a sample: below it are the keys that are.

    To choose keys and not requests keeps every request of a chosen one, and so the distances
    between them (SHARDS: Waldspurger, Park, Garthwaite, Ahmad, FAST 2015).

    >>> limit_of(0.5).hex()
    '8000000000000000'
    >>> hash_of(b"user:7") < limit_of(1.0)
    True
    """
    if sample >= 1:
        return b"\xff" * 9  # longer than any hash, and so above it
    return int(sample * (1 << 64)).to_bytes(8, "big")


# --- writing --------------------------------------------------------------------------------------


def header(sample: float, start: float) -> bytes:
    data = _HEADER.pack(MAGIC, sample, start, 0)[:-4]
    return data + struct.pack("<I", crc32(data))


def block(kind: int, payload: bytes) -> bytes:
    return _BLOCK.pack(kind, len(payload), crc32(payload)) + payload


def requests(codes: list[bytes], begin: float, end: float) -> bytes:
    """Return a block of requests; the times are seconds since the start."""
    return block(REQUESTS, _TIMES.pack(begin, end) + b"".join(codes))


def fact(code: bytes, weight: int | None, ttl: float | None) -> bytes:
    """Return one fact, a part of a block of facts."""
    return _FACT.pack(code, _UNKNOWN if weight is None else weight, inf if ttl is None else ttl)


def total(count: int) -> bytes:
    return block(TOTAL, _TOTAL.pack(count))


def keys(registers: bytes) -> bytes:
    """Return a block of what has counted the different keys."""
    return block(KEYS, compress(registers, 1))


# --- reading --------------------------------------------------------------------------------------


def is_recording(data: bytes) -> bool:
    """Return whether a file that begins so is a recording, of whatever version."""
    return data[:7] == MAGIC[:7]


def blocks(data: bytes, name: str) -> Iterator[Header | Block]:
    """Iterate over the headers and blocks of a file, up to a tail that is not complete.

    A second header begins another recording: files may be put together. Raises `ValueError` for a
    damaged file; ``name`` is named in the message.
    """
    place = 0
    while place < len(data):
        if is_recording(data[place : place + 7]):
            if place + _HEADER.size > len(data):
                return
            yield _header(data, place, name)
            place += _HEADER.size
            continue
        if place + _BLOCK.size > len(data):
            return
        kind, length, checksum = _BLOCK.unpack_from(data, place)
        start = place + _BLOCK.size
        if kind not in (REQUESTS, FACTS, TOTAL, KEYS):
            raise _damaged(name, place)
        if start + length > len(data):
            return
        payload = data[start : start + length]
        if crc32(payload) != checksum:
            raise _damaged(name, place)
        yield Block(kind, payload)
        place = start + length


def _header(data: bytes, place: int, name: str) -> Header:
    magic, sample, start, checksum = _HEADER.unpack_from(data, place)
    if magic != MAGIC:
        raise ValueError(
            f"{name} is a recording of version {magic[7]}, and this gecaso reads version "
            f"{MAGIC[7]}; use the gecaso that wrote it"
        )
    if crc32(data[place : place + _HEADER.size - 4]) != checksum or not (
        0 < sample <= 1 and isfinite(start)
    ):
        raise _damaged(name, place)
    return Header(sample, start)


def _damaged(name: str, place: int) -> ValueError:
    return ValueError(
        f"{name} is damaged at byte {place}: it is not what was written. Record anew, or leave "
        "this file out"
    )


def times_of(payload: bytes) -> tuple[float, float, bytes]:
    """Return the times of the first and last request of a block, and the hashes, joined."""
    begin, end = _TIMES.unpack_from(payload)
    return begin, end, payload[_TIMES.size :]


def facts(payload: bytes) -> Iterator[Fact]:
    for code, weight, ttl in _FACT.iter_unpack(payload):
        yield Fact(code, None if weight == _UNKNOWN else weight, None if ttl == inf else ttl)


def count_of(payload: bytes) -> int:
    (count,) = _TOTAL.unpack(payload)
    return int(count)


def registers_of(payload: bytes) -> bytes:
    return decompress(payload)

"""The bytes around a payload: what it is, how it was made, and the proof that it is whole.

::

    magic c1 | version 01 | flags (2 bytes)
    created, fresh_until, dead_after, cost (4 doubles), length of the entry's version   if ENTRY
    the entry's version                                                                 if ENTRY
    length (4 bytes) and msgpack of the fields, a dict                                  if FIELDS
    the payload
    16 bytes of keyed BLAKE2b over the key and all of the above                         if SIGNED
    4 bytes of CRC-32 over all of the above                                             if not

Numbers are little-endian. ``c1`` starts no msgpack, JSON, pickle or text. Fields with names that a
reader does not know are ignored; a version or a flag that it does not know makes the data a miss.
The checksum is against accidents alone: whoever can write to a storage can compute it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from gecaso.entry import Entry
from gecaso.errors import UnpackError
from gecaso.packing.signing import SIGNATURE_SIZE, Signer

__all__ = [
    "CUSTOM",
    "ENTRY",
    "FIELDS",
    "FORMAT",
    "INTACT",
    "JSON",
    "METHOD",
    "MSGPACK",
    "PICKLE",
    "PLAIN_ENTRY",
    "SIGNED",
    "WHOLE_ENTRY",
    "Frame",
    "Times",
    "entry_head",
    "framed",
    "read_whole_entry",
    "unframed",
    "whole_entry",
]

MAGIC, VERSION = 0xC1, 1
# Flags: three single bits, two for the method of compression, three for the payload's format.
SIGNED, ENTRY, FIELDS, METHOD, FORMAT, ALL_FLAGS = 1, 2, 4, 3, 5, 0xFF
MSGPACK, JSON, CUSTOM, PICKLE = range(4)

# The CRC-32 of anything followed by its own CRC-32: whole data is checked without a copy.
INTACT = 0x2144DF1C

_HEAD = struct.Struct("<BBH")
_ENTRY = struct.Struct("<4dH")
_LENGTH = struct.Struct("<I")
# Head and entry at once, the head as one number: on the way of a hit one comparison says all.
_WHOLE_ENTRY = struct.Struct("<I4dH")
WHOLE_ENTRY, read_whole_entry = _WHOLE_ENTRY.size, _WHOLE_ENTRY.unpack_from
PLAIN_ENTRY = MAGIC | VERSION << 8 | ENTRY << 16

Times = tuple[float, float, float, float]


class Frame(NamedTuple):
    """What was around a payload. ``times`` are those of an entry; ``fields`` are packed."""

    flags: int
    times: Times | None
    version: bytes
    fields: bytes | memoryview
    payload: bytes | memoryview

    @property
    def method(self) -> int:
        return self.flags >> METHOD & 3

    @property
    def format(self) -> int:
        return self.flags >> FORMAT & 7


def entry_head(entry: Entry) -> bytes:
    """Return the times and the version of ``entry``."""
    times = entry.created, entry.fresh_until, entry.dead_after, entry.cost
    return _ENTRY.pack(*times, len(entry.version)) + entry.version


def whole_entry(entry: Entry, payload: bytes) -> bytes:
    """Return what `framed` makes of an entry without fields or a signature, not compressed."""
    version = entry.version
    times = entry.created, entry.fresh_until, entry.dead_after, entry.cost
    data = _WHOLE_ENTRY.pack(PLAIN_ENTRY, *times, len(version)) + version + payload
    return data + _LENGTH.pack(crc32(data))


def framed(
    flags: int, head: bytes, fields: bytes, payload: bytes, signer: Signer | None, key: bytes
) -> bytes:
    """Return ``payload`` with all that belongs to it, signed for ``key`` or with a checksum."""
    if fields:
        flags |= FIELDS
        fields = _LENGTH.pack(len(fields)) + fields
    if signer is not None:
        data = b"".join((_HEAD.pack(MAGIC, VERSION, flags | SIGNED), head, fields, payload))
        return data + signer.sign(key, data)
    data = b"".join((_HEAD.pack(MAGIC, VERSION, flags), head, fields, payload))
    return data + _LENGTH.pack(crc32(data))


def unframed(data: bytes | memoryview, signer: Signer | None, key: bytes) -> Frame:
    """Return what ``framed`` put together; raise UnpackError if that is not what ``data`` is."""
    if len(data) < _HEAD.size or data[0] != MAGIC:
        raise UnpackError("the data was not packed by gecaso")
    _, version, flags = _HEAD.unpack_from(data)
    if version != VERSION or flags > ALL_FLAGS:
        raise UnpackError("the data was packed by another version of gecaso")
    if signer is None:
        body = _whole(data, flags)
    else:
        body = _authentic(data, flags, signer, key)
    try:
        return _split(flags, body)
    except struct.error as error:
        raise UnpackError("the data is cut off") from error


def _whole(data: bytes | memoryview, flags: int) -> bytes | memoryview:
    if flags & SIGNED:
        raise UnpackError("the data is signed, and there is no secret here to check it with")
    if crc32(data) != INTACT:
        raise UnpackError("the data is damaged: its checksum is not right")
    return data[: -_LENGTH.size]


def _authentic(data: bytes | memoryview, flags: int, signer: Signer, key: bytes) -> bytes:
    if not flags & SIGNED:
        raise UnpackError("the data is not signed, and only signed data is read here")
    data = bytes(data)  # a copy of its own cannot change between the check and the reading
    body = data[:-SIGNATURE_SIZE]
    if not signer.accepts(data[-SIGNATURE_SIZE:], key, body):
        raise UnpackError("the signature is not that of this data under this key")
    return body


def _split(flags: int, body: bytes | memoryview) -> Frame:
    at, times, version = _HEAD.size, None, b""
    fields: bytes | memoryview = b""
    if flags & ENTRY:
        created, fresh_until, dead_after, cost, size = _ENTRY.unpack_from(body, at)
        times = (created, fresh_until, dead_after, cost)
        at += _ENTRY.size + size
        version = bytes(body[at - size : at])
    if flags & FIELDS:
        (size,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size + size
        fields = body[at - size : at]
    if at > len(body):
        raise UnpackError("the data is cut off")
    return Frame(flags, times, version, fields, body[at:])

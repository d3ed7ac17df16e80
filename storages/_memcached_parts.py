"""Values larger than an item of the server may be: a head, and parts under names of their own.

The head is in the place of the value, so leases and invalidations are about the head alone: who
replaces or deletes it takes the whole value away. The parts are written before it, under names
that nobody used before; so a head finds its own parts or none, and a part that was lost, or is not
what it was, makes a miss. Parts that no head leads to any more run out with the value's ttl.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final, NamedTuple, Self

from gecaso.entry import new_token

__all__ = ["AT_ONCE", "MAGIC", "Head", "part_names", "split"]

SMALLEST_PART: Final = 512  # bytes; a server takes no -I below 1024
AT_ONCE: Final = 16
"""Parts asked for in one command: nobody's head makes us read more than so many items at once."""

MAGIC: Final = b"gecaso parts 1\n"
_HEAD: Final = struct.Struct(">16sQI16sH")


class Head(NamedTuple):
    """What stands in the place of a value that is kept in parts.

    ``length`` and ``size`` are the bytes of the whole and of each part but the last; ``version``
    is that of the entry, so that it can be known without its parts.
    """

    token: bytes
    length: int
    size: int
    digest: bytes
    version: bytes

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-self.length // self.size)

    def pack(self) -> bytes:
        fixed = _HEAD.pack(self.token, self.length, self.size, self.digest, len(self.version))
        return MAGIC + fixed + self.version

    @classmethod
    def unpack(cls, data: bytes) -> Self | None:
        """Return the head, or None if ``data`` is something else."""
        start = len(MAGIC) + _HEAD.size
        if not data.startswith(MAGIC) or len(data) < start:
            return None
        token, length, size, digest, more = _HEAD.unpack_from(data, len(MAGIC))
        if len(data) != start + more or size < SMALLEST_PART or length <= size:
            return None
        return cls(token, length, size, digest, data[start:])

    def whole(self, parts: list[bytes]) -> bytes | None:
        """Return the value, if these are its parts."""
        data = b"".join(parts)
        if len(data) != self.length or _digest(data) != self.digest:
            return None
        return data


def split(data: bytes, size: int, version: bytes) -> tuple[Head, Iterator[bytes]]:
    """Return the head of ``data`` and its parts of ``size`` bytes, or a little more."""
    head = Head(new_token(), len(data), max(size, SMALLEST_PART), _digest(data), version)
    view = memoryview(data)
    starts = range(0, len(data), head.size)
    return head, (bytes(view[start : start + head.size]) for start in starts)


def part_names(prefix: bytes, token: bytes, count: int) -> list[bytes]:
    """Return the names of parts: no text of a key, and no digest of one, begins with ``~p``."""
    base = prefix + b"~p" + urlsafe_b64encode(token).rstrip(b"=")
    return [b"%b:%x" % (base, number) for number in range(count)]


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()

"""Making payloads smaller: zstd where Python has it (3.14), else zlib."""

from __future__ import annotations

import sys
import zlib

from gecaso.errors import UnpackError

__all__ = ["BEST", "PLAIN", "ZLIB", "ZSTD", "compress", "decompress"]

Readable = bytes | memoryview

PLAIN, ZLIB, ZSTD = 0, 1, 2
LARGE, PIECE = 1 << 18, 1 << 13  # bytes

# What a packer writes. Each Python reads what it can; the rest is a miss, then written anew.
BEST: int = ZSTD if sys.version_info >= (3, 14) else ZLIB


def compress(data: bytes) -> tuple[int, bytes]:
    """Return the method and the smaller form of ``data``; PLAIN when none is much smaller.

    Of large data some pieces are tried first: pictures and the like would keep a loop waiting for
    nothing, 20 ms for each megabyte.
    """
    if len(data) > LARGE and not _is_worth_it(sample := _sample(data), _compress(sample)):
        return PLAIN, data
    small = _compress(data)
    return (BEST, small) if _is_worth_it(data, small) else (PLAIN, data)


def _is_worth_it(data: bytes, small: bytes) -> bool:
    return len(small) < len(data) * 0.9


def _sample(data: bytes) -> bytes:
    """Return pieces of the beginning, the middle and the end."""
    middle = len(data) // 2
    return data[:PIECE] + data[middle : middle + PIECE] + data[-PIECE:]


def decompress(method: int, data: Readable, limit: int) -> Readable:
    """Return what was compressed; raise UnpackError if it is damaged or larger than ``limit``.

    No more than ``limit`` bytes are made, whatever the data claims.
    """
    if method == PLAIN:
        return data
    if method == ZLIB:
        return _inflate(data, limit)
    return _unzstd(method, data, limit)


def _inflate(data: Readable, limit: int) -> bytes:
    reader = zlib.decompressobj()
    try:
        whole = reader.decompress(data, limit + 1)
    except zlib.error as error:
        raise UnpackError("the compressed data is damaged") from error
    return _checked(whole, reader.eof and not reader.unused_data, limit)


def _checked(whole: bytes, complete: bool, limit: int) -> bytes:
    if len(whole) > limit:
        raise UnpackError(f"the data has more than {limit} bytes when it is decompressed")
    if not complete:
        raise UnpackError("the compressed data is cut off")
    return whole


if sys.version_info >= (3, 14):
    from compression import zstd

    def _compress(data: bytes) -> bytes:
        return zstd.compress(data)

    def _unzstd(method: int, data: Readable, limit: int) -> bytes:
        if method != ZSTD:
            raise UnpackError("the data is compressed in a way that is not known here")
        reader = zstd.ZstdDecompressor()
        try:
            whole = reader.decompress(data, limit + 1)
        except zstd.ZstdError as error:
            raise UnpackError("the compressed data is damaged") from error
        return _checked(whole, reader.eof and not reader.unused_data, limit)

else:

    def _compress(data: bytes) -> bytes:
        # Level 1 takes half the time of the default and gains nearly as much.
        return zlib.compress(data, 1)

    def _unzstd(method: int, data: Readable, limit: int) -> bytes:
        raise UnpackError("the data is compressed in a way that this Python does not know")

"""Names for data: BLAKE2b, cut to what fits into a key."""

from __future__ import annotations

try:
    from _blake2 import blake2b  # what hashlib gives, without the OpenSSL that hashlib imports
except ImportError:  # another Python may keep it elsewhere
    from hashlib import blake2b

__all__ = ["blake2b", "digest"]


def digest(data: bytes) -> str:
    """Return 32 hexadecimal digits that name ``data``.

    >>> digest(b"data")
    '82f64e6be809763df98195dfa5de656c'
    """
    return blake2b(data, digest_size=16).hexdigest()

"""Making data as somebody would who can write to a storage and means harm."""

from __future__ import annotations

import zlib
from typing import Any

import ormsgpack
import pytest
from ormsgpack import Ext

from gecaso.errors import UnpackError
from gecaso.packing import Packer
from gecaso.packing.forms import FORMS

HEAD = b"\xc1\x01\x00\x00"
TAG = {kind.__name__: form.tag for kind, form in FORMS.items()}


def packed(value: Any) -> bytes:
    return ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)


def sealed(data: bytes) -> bytes:
    """``data`` with a right checksum: anybody can compute that."""
    return data + zlib.crc32(data).to_bytes(4, "little")


def headed(flags: int, body: bytes) -> bytes:
    return sealed(b"\xc1\x01" + flags.to_bytes(2, "little") + body)


def payload(value: Any) -> bytes:
    return sealed(HEAD + packed(value))


def form(tag: int | str, content: Any) -> Ext:
    """A form with any content, right or wrong: packed, or given as bytes."""
    number = TAG[tag] if isinstance(tag, str) else tag
    return Ext(number, content if isinstance(content, bytes) else packed(content))


def refused(data: bytes, *packers: Packer) -> None:
    for packer in packers:
        with pytest.raises(UnpackError):
            packer.unpack(data)
        with pytest.raises(UnpackError):
            packer.unpack_entry(data)

"""The form in which each type of the standard library travels, where msgpack has none of its own.

A form is a msgpack extension: a tag and bytes. The tags are part of the format: they are never
renumbered. A *nested* form holds a list of values, which may be of any form again.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

__all__ = ["FORMS", "OBJECT", "Decode", "Form", "Load", "Pack"]

Pack = Callable[[list[Any]], bytes]
Load = Callable[[bytes], list[Any]]
Decode = Callable[[bytes, Load], Any]

OBJECT = 1  # an instance of a known type; see shapes


class Form(NamedTuple):
    """How instances of exactly ``type`` become bytes and come back.

    ``decode`` may raise any exception on bytes that ``encode`` did not make, but does no more
    work, and takes no more memory, than the number of bytes explains.
    """

    tag: int
    type: type[Any]
    encode: Callable[[Any, Pack], bytes]
    decode: Decode
    nested: bool = False


def _nested(
    tag: int,
    kind: type[Any],
    parts: Callable[[Any], list[Any]],
    build: Callable[[list[Any]], Any],
) -> Form:
    def encode(value: Any, pack: Pack) -> bytes:
        return pack(parts(value))

    def decode(data: bytes, load: Load) -> Any:
        return build(load(data))

    return Form(tag, kind, encode, decode, True)


def _leaf(
    tag: int, kind: type[Any], write: Callable[[Any], bytes], read: Callable[[bytes], Any]
) -> Form:
    def encode(value: Any, _: Pack) -> bytes:
        return write(value)

    def decode(data: bytes, _: Load) -> Any:
        return read(data)

    return Form(tag, kind, encode, decode)


def _text(
    tag: int, kind: type[Any], write: Callable[[Any], str], read: Callable[[str], Any]
) -> Form:
    def encode(value: Any) -> bytes:  # paths and strings may hold lone surrogates
        return write(value).encode("utf-8", "surrogatepass")

    def decode(data: bytes) -> Any:
        return read(data.decode("utf-8", "surrogatepass"))

    return _leaf(tag, kind, encode, decode)


def _struct(
    tag: int, kind: type[Any], layout: str, parts: Callable[[Any], tuple[Any, ...]]
) -> Form:
    codec = struct.Struct(layout)

    def encode(value: Any) -> bytes:
        return codec.pack(*parts(value))

    def decode(data: bytes) -> Any:
        return kind(*codec.unpack(data))

    return _leaf(tag, kind, encode, decode)


# A dict whose keys msgpack does not carry: keys and values alternate in one list.


def _flat(pairs: dict[Any, Any]) -> list[Any]:
    return [part for pair in pairs.items() for part in pair]


def _unflat(parts: list[Any]) -> dict[Any, Any]:
    rest: Iterator[Any] = iter(parts)
    pairs = dict(zip(rest, rest, strict=True))
    if 2 * len(pairs) != len(parts):
        raise ValueError("a key is there twice")
    return pairs


# Dates and times are ISO text when that says everything, else text, fold and time zone.


def _is_iso(value: datetime | time) -> bool:
    zone = value.tzinfo
    if value.fold or not (zone is None or type(zone) is timezone):
        return False
    return zone is None or len(_zone_parts(zone)) == 1


def _clock_parts(value: datetime | time) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo]


def _clock(tag: int, kind: type[datetime] | type[time]) -> Form:
    def encode(value: Any, pack: Pack) -> bytes:
        return b"\0" + value.isoformat().encode() if _is_iso(value) else pack(_clock_parts(value))

    def decode(data: bytes, load: Load) -> Any:
        if data[:1] == b"\0":
            return kind.fromisoformat(data[1:].decode())
        text, fold, zone = load(data)
        return kind.fromisoformat(text).replace(fold=fold, tzinfo=zone)

    # b"\0" is a whole msgpack value, so what follows it is never taken for nested values.
    return Form(tag, kind, encode, decode, True)


def _zone_parts(zone: timezone) -> list[Any]:
    return list(zone.__getinitargs__())  # type: ignore[attr-defined] # pickle's own; not in typeshed


_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,64}(?:/[A-Za-z0-9_+-]{1,64}){0,4}")


def _zone_key(zone: ZoneInfo) -> str:
    if zone.key is None:  # pyright: ignore[reportUnnecessaryComparison] # from_file gives None
        raise TypeError("a time zone read from a file has no name")
    return zone.key


def _zone(key: str) -> ZoneInfo:
    if not _ZONE.fullmatch(key):
        raise ValueError("not the name of a time zone")
    return ZoneInfo(key)


# Reducing a fraction takes quadratic time, so there is a bound on both sides.
_FRACTION_BITS = 1 << 15


def _fraction_parts(value: Fraction) -> list[Any]:
    return _small([value.numerator, value.denominator])


def _small(parts: list[Any]) -> list[Any]:
    if any(type(part) is not int or part.bit_length() > _FRACTION_BITS for part in parts):
        raise ValueError(f"a fraction of more than {_FRACTION_BITS} bits")
    return parts


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _int(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _uuid_bytes(value: UUID) -> bytes:
    return value.bytes


def _uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


def _span(value: timedelta) -> tuple[int, ...]:
    return value.days, value.seconds, value.microseconds


# The user's context might take text that is no number for NaN, without an error.
_STRICT = Context(traps=[InvalidOperation])


def _decimal(text: str) -> Decimal:
    return Decimal(text, _STRICT)


def _deque(parts: list[Any]) -> deque[Any]:
    return deque(parts[1:], parts[0])


_FORMS: list[Form] = [
    _nested(2, tuple, list, tuple),
    _nested(3, set, list, set),
    _nested(4, frozenset, list, frozenset),
    _nested(5, dict, _flat, _unflat),
    _leaf(6, int, _int_bytes, _int),
    _text(7, str, str, str),
    _leaf(8, bytearray, bytes, bytearray),
    _text(9, Decimal, str, _decimal),
    _leaf(10, UUID, _uuid_bytes, _uuid),
    _clock(11, datetime),
    _clock(12, time),
    _text(13, date, date.isoformat, date.fromisoformat),
    _struct(14, timedelta, "<iii", _span),
    _nested(15, timezone, _zone_parts, lambda parts: timezone(*parts)),
    _text(16, ZoneInfo, _zone_key, _zone),
    _struct(17, complex, "<dd", lambda value: (value.real, value.imag)),
    _nested(18, Fraction, _fraction_parts, lambda parts: Fraction(*_small(parts))),
    _nested(19, range, lambda value: [value.start, value.stop, value.step], lambda p: range(*p)),
    _nested(20, OrderedDict, _flat, lambda parts: OrderedDict(_unflat(parts))),
    _nested(21, deque, lambda value: [value.maxlen, *value], _deque),
    _text(22, PosixPath, str, PosixPath),
    _text(23, WindowsPath, str, WindowsPath),
    _text(24, PurePosixPath, str, PurePosixPath),
    _text(25, PureWindowsPath, str, PureWindowsPath),
    _text(26, ipaddress.IPv4Address, str, ipaddress.IPv4Address),
    _text(27, ipaddress.IPv6Address, str, ipaddress.IPv6Address),
    _text(28, ipaddress.IPv4Network, str, ipaddress.IPv4Network),
    _text(29, ipaddress.IPv6Network, str, ipaddress.IPv6Network),
    _text(30, ipaddress.IPv4Interface, str, ipaddress.IPv4Interface),
    _text(31, ipaddress.IPv6Interface, str, ipaddress.IPv6Interface),
]

FORMS: dict[type[Any], Form] = {form.type: form for form in _FORMS}

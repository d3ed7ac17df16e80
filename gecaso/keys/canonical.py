"""Stable encodings of values: what a key is made of.

The same value has the same encoding in every process, on every machine, under every hash seed;
two values that differ, by type or by content, at any depth, have different encodings. Dicts and
sets have no order; NaN equals NaN; ``0.0`` and ``-0.0`` differ.

An encoding is a tag of one letter and a body. The parts of a body are framed (length, colon,
encoding), so that no two lists of parts give the same bytes. What has no stable encoding is
refused: an address, a ``repr`` or a pickle never gets into a key.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import re
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from gecaso.errors import UnkeyableArgument
from gecaso.keys.classes import added_slots, field_names
from gecaso.keys.names import is_importable, qualified_name
from gecaso.keys.plain import pack_plain

if TYPE_CHECKING:
    from decimal import Decimal
    from zoneinfo import ZoneInfo

__all__ = ["encode", "encode_typed", "frame", "typed"]

# The second argument is how many levels deep the value is.
Encoder: TypeAlias = Callable[[Any, int], bytes]

# A bound of our own: whether a value can be a key must not depend on how deep its caller is.
MAX_DEPTH: Final = 100

REMEDIES: Final = (
    "Drop the argument with ignore=, name the key with key=, "
    "or give its class a __cache_key__() that returns what identifies it."
)


class _Refused(Exception):
    """A part without a stable encoding; ``path`` grows on the way up to the argument."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str] = []

    def under(self, name: str) -> UnkeyableArgument:
        steps = self.path[::-1]
        path = name + "".join(steps if len(steps) <= 8 else [*steps[:4], "…"])
        message = f"{path} cannot be part of a key: {self}. {REMEDIES}"
        return UnkeyableArgument(message, argument=path)


def encode(value: object, *, name: str = "value") -> bytes:
    """Return the canonical encoding of ``value``.

    ``name`` is what the value is called in an error. Raises `UnkeyableArgument`, with the path to
    the part that has no stable encoding, for example ``query["a"][0]``.

    >>> encode({"b": 1, "a": 2}) == encode({"a": 2, "b": 1})
    True
    >>> encode((1, "a")) == encode([1, "a"])
    False
    """
    packed = pack_plain(value, MAX_DEPTH)
    if packed is not None:
        return (b"P" if type(value) is tuple else b"p") + packed
    try:
        return _encode(value, 0)
    except _Refused as refused:
        raise refused.under(name) from None
    except RecursionError:
        raise _Refused("it is nested too deeply").under(name) from None


def typed(value: object, name: str = "value") -> Hashable:
    """Return the typed form of ``value``: what it is compared by in this process.

    Two values have equal typed forms if and only if they have equal encodings. `int` and `str`
    are their own typed form, which makes the commonest keys free.

    >>> typed(1) == typed(1.0), typed(1) == typed(True), typed([1]) == typed([1])
    (False, False, True)
    """
    kind = type(value)
    if kind is int or kind is str:
        return value
    if value is None or kind is bool or kind is bytes:
        return (kind, value)
    if type(value) is float:
        # NaN and the zeros do not compare as their encodings do: their text stands for them.
        return (float, value if value == value and value else value.hex())
    return (encode(value, name=name),)


def encode_typed(element: Any) -> bytes:
    """Return ``encode(value)``, given ``typed(value)``."""
    if type(element) is int:
        return b"i%x" % element
    if type(element) is str:
        return _str(element, 0)
    if len(element) == 1:
        return bytes(element[0])
    kind, value = element
    if kind is float and type(value) is str:
        return b"f" + value.encode()
    return _encode(value, 0)


def frame(*parts: bytes) -> bytes:
    """Join ``parts`` so that no other parts give the same bytes."""
    return b"".join([b"%x:%b" % (len(part), part) for part in parts])


def _encode(value: object, depth: int) -> bytes:
    encoder = _encoders.get(type(value)) or _encoder_of(type(value))
    return encoder(value, depth)


def _index(number: int) -> str:
    return f"[{number}]"


def _parts(values: Iterable[Any], depth: int, step: Callable[[int], str] = _index) -> list[bytes]:
    """Encode and frame the parts of a value; ``step`` says, in an error, how one gets to a part."""
    if depth >= MAX_DEPTH:
        raise _Refused(f"it is nested more than {MAX_DEPTH} levels deep, or contains itself")
    parts: list[bytes] = []
    try:
        for value in values:
            part = _encode(value, depth + 1)
            parts.append(b"%x:%b" % (len(part), part))
    except _Refused as refused:
        refused.path.append(step(len(parts)))
        raise
    return parts


def _part(value: Any, depth: int, step: str) -> bytes:
    return _parts((value,), depth, lambda _: step)[0]


# --- builtins -------------------------------------------------------------------------------------


def _int(value: int, depth: int) -> bytes:
    return b"i%x" % value  # hexadecimal: no limit on the number of digits, and no quadratic time


def _str(value: str, depth: int) -> bytes:
    return b"s" + value.encode("utf-8", "surrogatepass")


def _float(value: float, depth: int) -> bytes:
    return b"f" + value.hex().encode()


def _complex(value: complex, depth: int) -> bytes:
    return b"c" + frame(_float(value.real, depth), _float(value.imag, depth))


def _sequence(tag: bytes, kind: Any) -> Encoder:
    # The builtin's own iterator: a subclass may have another.
    return lambda value, depth: tag + b"".join(_parts(kind.__iter__(value), depth))


def _unordered(tag: bytes, kind: Any) -> Encoder:
    return lambda value, depth: (
        tag + b"".join(sorted(_parts(kind.__iter__(value), depth, lambda _: "{…}")))
    )


def _dict(value: dict[Any, Any], depth: int) -> bytes:
    items = list(dict[Any, Any].items(value))
    keys = _parts([key for key, _ in items], depth, lambda _: ".keys()")
    values = _parts([item for _, item in items], depth, lambda i: f"[{_shown(items[i][0])}]")
    return b"d" + b"".join(sorted(map(bytes.__add__, keys, values)))


def _shown(key: object) -> str:
    """Show a key of a dict in an error; that of any object may be long, or not even have a repr."""
    if type(key) is str:
        return f'"{key[:40]}"'
    return str(key) if type(key) is int and key.bit_length() < 64 else "…"


_builtins: Final[dict[type, Encoder]] = {
    bool: lambda value, depth: b"T" if value else b"F",
    int: _int,
    str: _str,
    float: _float,
    complex: _complex,
    bytes: lambda value, depth: b"b" + value,
    bytearray: lambda value, depth: b"a" + value,
    list: _sequence(b"l", list),
    tuple: _sequence(b"t", tuple),
    set: _unordered(b"e", set),
    frozenset: _unordered(b"z", frozenset),
    dict: _dict,
}


# --- the standard library -------------------------------------------------------------------------


def _library_type(name: str, parts: Callable[[Any], Iterable[Any]]) -> Encoder:
    """Encode by a name that is ours to keep, whatever module has the type in which version."""
    tag = b"n" + frame(name.encode())
    return lambda value, depth: tag + b"".join(_parts(parts(value), depth, lambda _: ""))


def _zone(zone: dt.tzinfo | None) -> tuple[object, ...]:
    if zone is None:
        return ()
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)  # of zoneinfo, of pytz
    if isinstance(name, str):
        return (name,)
    offset = zone.utcoffset(None)
    if offset is None:
        raise _Refused(f"its time zone, a {type(zone).__name__}, has neither name nor offset")
    return (offset, zone.tzname(None))


def _moment(value: dt.datetime | dt.time) -> tuple[object, ...]:
    return (value.replace(tzinfo=None).isoformat(), value.fold, *_zone(value.tzinfo))


def _zoneinfo(value: ZoneInfo) -> tuple[str]:
    if not value.key:
        raise _Refused("a ZoneInfo read from a file has no name")
    return (value.key,)


def _decimal(value: Decimal) -> Iterable[Any]:
    from decimal import Decimal  # imported by who made the value

    return Decimal.as_tuple(value)  # str() would depend on the current context


def _as_text(value: object) -> tuple[str]:
    return (str(value),)


_library: Final[dict[Any, Callable[[Any], Iterable[Any]]]] = {
    dt.datetime: _moment,
    dt.date: lambda value: (value.isoformat(),),
    dt.time: _moment,
    dt.timedelta: lambda value: (value.days, value.seconds, value.microseconds),
    dt.timezone: _zone,
    re.Pattern: lambda value: (value.pattern, value.flags),
    range: lambda value: (value.start, value.stop, value.step),
    slice: lambda value: (value.start, value.stop, value.step),
    deque: lambda value: (value.maxlen, *value),
    OrderedDict: OrderedDict[Any, Any].items,
    defaultdict: lambda value: (value.default_factory, dict(value)),
    types.MappingProxyType: lambda value: (dict(value),),
    types.GenericAlias: lambda value: (value.__origin__, value.__args__),
    types.UnionType: lambda value: (frozenset(value.__args__),),
    types.MethodType: lambda value: (value.__func__, value.__self__),
    functools.partial: lambda value: (value.func, value.args, value.keywords),
}

# These by name: what nobody has imported has no instances, and need not be imported for keys.
_rest_of_library: Final[dict[str, Callable[[Any], Iterable[Any]]]] = {
    "decimal.Decimal": _decimal,
    "fractions.Fraction": lambda value: (value.numerator, value.denominator),
    "ipaddress.IPv4Address": _as_text,
    "ipaddress.IPv4Interface": _as_text,
    "ipaddress.IPv4Network": _as_text,
    "ipaddress.IPv6Address": _as_text,
    "ipaddress.IPv6Interface": _as_text,
    "ipaddress.IPv6Network": _as_text,
    "pathlib.PosixPath": _as_text,
    "pathlib.PurePosixPath": _as_text,
    "pathlib.PureWindowsPath": _as_text,
    "pathlib.WindowsPath": _as_text,
    "uuid.UUID": lambda value: (value.int,),
    "zoneinfo.ZoneInfo": _zoneinfo,
}


def _library_encoder(kind: type) -> Encoder | None:
    """Return the encoder of a type that is known by name."""
    module = str(kind.__module__).partition(".")[0]
    parts = _rest_of_library.get(f"{module}.{kind.__qualname__}")
    if parts is None or getattr(sys.modules.get(module), kind.__name__, None) is not kind:
        return None
    encoder = _known[kind] = _encoders[kind] = _library_type(kind.__name__, parts)
    return encoder


# --- classes, functions and users' own types ------------------------------------------------------


def _global(value: Any, depth: int) -> bytes:
    """Encode a class or a function by the name it can be imported by."""
    if not is_importable(value):
        what = f"the {type(value).__name__} {getattr(value, '__qualname__', '?')}"
        raise _Refused(f"{what} cannot be imported by its name, so that name says too little")
    return b"q" + qualified_name(value).encode()


def _type_tag(kind: type) -> bytes:
    if "<locals>" in kind.__qualname__:
        reason = "is made inside a function, so another class may have the same name"
        raise _Refused(f"its class {kind.__qualname__} {reason}")
    return frame(qualified_name(kind).encode())


def _cache_key(kind: type) -> Encoder:
    # The author of __cache_key__ answers for what it identifies, so a local class is fine.
    tag = b"k" + frame(qualified_name(kind).encode())
    return lambda value, depth: tag + _part(value.__cache_key__(), depth, ".__cache_key__()")


def _enum(kind: type) -> Encoder:
    tag = b"m" + _type_tag(kind)
    # The name of a combination of flags differs between versions of Python; its value does not.
    attribute = "_value_" if issubclass(kind, enum.Flag) else "_name_"
    return lambda value, depth: tag + _part(getattr(value, attribute), depth, ".value")


class _Unset:
    """Stands for a field that has no value."""


def _fields(kind: type, names: Iterable[str]) -> Encoder:
    tag = b"o" + _type_tag(kind)
    keys = [(name, frame(name.encode()), "." + name) for name in names]
    return lambda value, depth: (
        tag
        + b"".join(
            [key + _part(getattr(value, name, _Unset), depth, step) for name, key, step in keys]
        )
    )


def _subclass(kind: type, base: type) -> Encoder:
    """Encode what the base encodes, under the subclass's name, with the attributes it has more."""
    tag = b"u" + _type_tag(kind)
    encoder = _known[base]
    slots = added_slots(kind, base)
    if slots is None:
        raise _Refused(f"{qualified_name(kind)} adds to {base.__name__} what cannot be read")

    def encode_subclass(value: Any, depth: int) -> bytes:
        state = {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}
        state.update(getattr(value, "__dict__", {}))
        return tag + frame(encoder(value, depth)) + _part(state, depth, "")

    return encode_subclass


def _encoder_of(kind: type[object]) -> Encoder:
    """Return the encoder of a type of somebody else, made when the type is first seen."""
    encoder = _learnt.get(kind)
    if encoder is None:
        encoder = _learnt[kind] = _new_encoder(kind)
    return encoder


def _new_encoder(kind: type[object]) -> Encoder:
    if callable(getattr(kind, "__cache_key__", None)):
        return _cache_key(kind)
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    for base in kind.__mro__:
        if base in _known or _library_encoder(base):
            return _known[base] if base is kind else _subclass(kind, base)
    if (names := field_names(kind)) is not None:
        return _fields(kind, names)
    if issubclass(kind, type):
        return _global
    raise _Refused(f"{kind.__module__}.{kind.__qualname__} has no stable encoding")


_learnt: WeakKeyDictionary[type, Encoder] = WeakKeyDictionary()
_known: Final[dict[type, Encoder]] = {
    **_builtins,
    **{kind: _library_type(kind.__name__, parts) for kind, parts in _library.items()},
}
_encoders: Final[dict[type, Encoder]] = {
    **_known,
    type(None): lambda value, depth: b"N",
    type(...): lambda value, depth: b"E",
    type: _global,
    types.FunctionType: _global,
    types.BuiltinFunctionType: _global,
}

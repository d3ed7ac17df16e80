"""Stable encodings of values: what a key is made of.

The same value has the same encoding in every process, on every machine, under every hash seed;
two values that differ, by type or by content, at any depth, have different encodings. Dicts and
sets have no order; NaN equals NaN; ``0.0`` and ``-0.0`` differ.

An encoding is a tag of one letter and a body. The parts of a body are framed (length, colon,
encoding), so that no two lists of parts give the same bytes. What has no stable encoding is
refused: an address, a ``repr`` or a pickle never gets into a key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import functools
import ipaddress
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from gecaso.errors import UnkeyableArgument

__all__ = ["encode", "encode_typed", "frame", "module_name", "typed"]

Encoder: TypeAlias = Callable[[Any, int], bytes]

# One level takes about three frames of the interpreter's stack; a fixed bound means that whether
# a value can be a key does not depend on how deep its caller is.
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

    def shown(self) -> str:
        steps = self.path[::-1]
        return "".join(steps if len(steps) <= 8 else [*steps[:4], "…"])


def encode(value: object, *, name: str = "value") -> bytes:
    """Return the canonical encoding of ``value``.

    ``name`` is what the value is called in an error. Raises `UnkeyableArgument`, with the path to
    the part that has no stable encoding, for example ``query["a"][0]``.

    >>> encode({"b": 1, "a": 2}) == encode({"a": 2, "b": 1})
    True
    >>> encode((1, "a")) == encode([1, "a"])
    False
    """
    try:
        return _encode(value, 0)
    except _Refused as refused:
        path = name + refused.shown()
        reason = f"{path} cannot be part of a key: {refused}. {REMEDIES}"
        raise UnkeyableArgument(reason, argument=path) from None
    except RecursionError:
        reason = f"{name} cannot be part of a key: it is nested too deeply. {REMEDIES}"
        raise UnkeyableArgument(reason, argument=name) from None


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
    if kind is float:
        assert isinstance(value, float)
        return (float, value if value == value and value else value.hex())
    return (encode(value, name=name),)


def encode_typed(element: Hashable) -> bytes:
    """Return ``encode(value)``, given ``typed(value)``."""
    kind = type(element)
    if kind is int:
        return b"i%x" % element
    if kind is tuple:
        assert isinstance(element, tuple)
        if len(element) == 1:
            return element[0]
        # A float that does not compare as it should stands there as its text.
        if element[0] is float and type(element[1]) is str:
            return b"f" + element[1].encode()
        return _encode(element[1], 0)
    return _encode(element, 0)


def frame(*parts: bytes) -> bytes:
    """Join ``parts`` so that no other parts give the same bytes."""
    return b"".join([b"%x:%b" % (len(part), part) for part in parts])


def module_name(name: str) -> str:
    """Return the name under which other processes know the module called ``name`` here.

    ``__main__`` and ``__mp_main__`` become what was run: the module of ``python -m module``, or
    the stem of the script's file name.
    """
    if name not in ("__main__", "__mp_main__"):
        return name
    main = sys.modules.get(name) or sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in ("__main__", "__mp_main__"):
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return pathlib.PurePath(file).stem if file else "__main__"


def _encode(value: Any, depth: int) -> bytes:
    encoder = _encoders.get(type(value)) or _encoder_for(type(value))
    return encoder(value, depth)


def _part(value: Any, depth: int, step: str, *names: object) -> bytes:
    """Encode and frame a part of a value; ``step % names`` is how one gets from there to here."""
    if depth >= MAX_DEPTH:
        raise _Refused(f"it is nested more than {MAX_DEPTH} levels deep, or contains itself")
    try:
        part = _encode(value, depth + 1)
    except _Refused as refused:
        refused.path.append(step % names)
        raise
    return b"%x:%b" % (len(part), part)


def _items(values: Iterable[Any], depth: int) -> bytes:
    return b"".join([_part(item, depth, "[%d]", index) for index, item in enumerate(values)])


def _unordered(values: Iterable[Any], depth: int) -> bytes:
    return b"".join(sorted([_part(item, depth, "{…}") for item in values]))


def _pairs(items: Iterable[tuple[Any, Any]], depth: int) -> list[bytes]:
    return [
        _part(key, depth, ".keys()") + _part(value, depth, "[%s]", _shown(key))
        for key, value in items
    ]


def _shown(key: object) -> str:
    """Show a key of a dict in an error: no text of unknown objects, which may hold addresses."""
    if isinstance(key, str):
        return '"' + key[:40] + '"'
    return repr(key) if isinstance(key, int) else f"<{type(key).__name__}>"


# --- builtins -------------------------------------------------------------------------------------


def _int(value: int, depth: int) -> bytes:
    return b"i%x" % value  # hexadecimal: no limit on the number of digits, and no quadratic time


def _str(value: str, depth: int) -> bytes:
    return b"s" + value.encode("utf-8", "surrogatepass")


def _float(value: float, depth: int) -> bytes:
    return b"f" + value.hex().encode()


def _complex(value: complex, depth: int) -> bytes:
    return b"c" + frame(_float(value.real, depth), _float(value.imag, depth))


def _dict(value: dict[Any, Any], depth: int) -> bytes:
    return b"d" + b"".join(sorted(_pairs(dict.items(value), depth)))


def _slice(value: slice, depth: int) -> bytes:
    return b"g" + _items((value.start, value.stop, value.step), depth)


def _range(value: range, depth: int) -> bytes:
    return b"r" + _items((value.start, value.stop, value.step), depth)


_builtins: Final[dict[type, Encoder]] = {
    bool: lambda value, depth: b"T" if value else b"F",
    int: _int,
    str: _str,
    float: _float,
    complex: _complex,
    bytes: lambda value, depth: b"b" + bytes(value),
    bytearray: lambda value, depth: b"a" + bytes(value),
    list: lambda value, depth: b"l" + _items(list.__iter__(value), depth),
    tuple: lambda value, depth: b"t" + _items(tuple.__iter__(value), depth),
    set: lambda value, depth: b"e" + _unordered(set.__iter__(value), depth),
    frozenset: lambda value, depth: b"z" + _unordered(frozenset.__iter__(value), depth),
    dict: _dict,
}


# --- the standard library -------------------------------------------------------------------------


def _named(name: str, parts: Callable[[Any], tuple[Any, ...]]) -> Encoder:
    """Encode a value of the standard library: its name, which is ours to keep, and its parts."""
    tag = b"n" + frame(name.encode())
    return lambda value, depth: tag + _items(parts(value), depth)


def _zone(zone: dt.tzinfo | None) -> tuple[object, ...]:
    if zone is None:
        return ()
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)  # zoneinfo; pytz
    if isinstance(name, str):
        return (name,)
    offset = zone.utcoffset(None)
    if offset is None:
        raise _Refused(f"the time zone {_qualified(type(zone))} has neither a name nor an offset")
    return (offset, zone.tzname(None))


def _datetime(value: dt.datetime) -> tuple[object, ...]:
    return (value.replace(tzinfo=None).isoformat(), value.fold, *_zone(value.tzinfo))


def _time(value: dt.time) -> tuple[object, ...]:
    return (value.replace(tzinfo=None).isoformat(), value.fold, *_zone(value.tzinfo))


def _zoneinfo(value: zoneinfo.ZoneInfo) -> tuple[object, ...]:
    if value.key is None:
        raise _Refused("a ZoneInfo made from a file has no name")
    return (value.key,)


def _text(value: object) -> tuple[str]:
    return (str(value),)


_library: Final[dict[type, Encoder]] = {
    Decimal: _named("Decimal", lambda value: tuple(value.as_tuple())),
    Fraction: _named("Fraction", lambda value: (value.numerator, value.denominator)),
    uuid.UUID: _named("UUID", lambda value: (value.int,)),
    dt.datetime: _named("datetime", _datetime),
    dt.date: _named("date", lambda value: (value.isoformat(),)),
    dt.time: _named("time", _time),
    dt.timedelta: _named("timedelta", lambda v: (v.days, v.seconds, v.microseconds)),
    dt.timezone: _named("timezone", _zone),
    zoneinfo.ZoneInfo: _named("ZoneInfo", _zoneinfo),
    re.Pattern: _named("Pattern", lambda value: (value.pattern, value.flags)),
    deque: _named("deque", lambda value: (list(value), value.maxlen)),
    types.MappingProxyType: _named("MappingProxyType", lambda value: (dict(value),)),
    functools.partial: _named("partial", lambda v: (v.func, v.args, v.keywords)),
    types.GenericAlias: _named("GenericAlias", lambda v: (v.__origin__, v.__args__)),
    types.UnionType: _named("UnionType", lambda value: (frozenset(value.__args__),)),
    types.MethodType: _named("MethodType", lambda value: (value.__func__, value.__self__)),
    OrderedDict: _named("OrderedDict", lambda value: tuple(OrderedDict.items(value))),
    defaultdict: _named("defaultdict", lambda v: (v.default_factory, dict(v))),
    **{
        kind: _named(kind.__name__, _text)
        for kind in (
            pathlib.PurePosixPath,
            pathlib.PureWindowsPath,
            pathlib.PosixPath,
            pathlib.WindowsPath,
            ipaddress.IPv4Address,
            ipaddress.IPv6Address,
            ipaddress.IPv4Network,
            ipaddress.IPv6Network,
            ipaddress.IPv4Interface,
            ipaddress.IPv6Interface,
        )
    },
}


# --- classes, functions and users' own types ------------------------------------------------------


def _qualified(thing: Any) -> str:
    return f"{module_name(thing.__module__)}:{thing.__qualname__}"


def _global(value: Any, depth: int) -> bytes:
    """Encode a class or a function by the name it can be imported by."""
    module = getattr(value, "__module__", None)
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    for step in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, step, None)
    if found is not value:
        raise _Refused(f"{_described(value)} is not what its module has under its name")
    return b"q" + _qualified(value).encode()


def _described(value: Any) -> str:
    return f"the {type(value).__name__} {getattr(value, '__qualname__', '?')!r}"


def _type_tag(kind: type) -> bytes:
    if "<locals>" in kind.__qualname__:
        raise _Refused(
            f"its class {kind.__qualname__!r} is made inside a function, "
            "so another class may have the same name"
        )
    return frame(_qualified(kind).encode())


def _cache_key(kind: type) -> Encoder:
    # The author of __cache_key__ answers for what it identifies; a local class is fine.
    tag = b"k" + frame(_qualified(kind).encode())
    return lambda value, depth: tag + _part(value.__cache_key__(), depth, ".__cache_key__()")


def _enum(kind: type) -> Encoder:
    tag = b"m" + _type_tag(kind)
    # The name of a combination of flags changed between versions of Python; its value did not.
    attribute = "_value_" if issubclass(kind, enum.Flag) else "_name_"
    return lambda value, depth: tag + _part(getattr(value, attribute), depth, "." + attribute)


def _fields(kind: type, names: Iterable[str]) -> Encoder:
    tag = b"o" + _type_tag(kind)
    steps = [(name, frame(name.encode()), "." + name) for name in names]

    def encoder(value: Any, depth: int) -> bytes:
        return tag + b"".join(
            [key + _part(getattr(value, name, _Unset), depth, step) for name, key, step in steps]
        )

    return encoder


class _Unset:
    """Stands for a field that has no value."""


def _subclass(kind: type, base: type) -> Encoder:
    tag = b"u" + _type_tag(kind)
    encoder = _known[base]
    members = _members(kind, base)

    def encode_subclass(value: Any, depth: int) -> bytes:
        state = {**getattr(value, "__dict__", {}), **dict(_slots(value, members))}
        return tag + frame(encoder(value, depth)) + _part(state, depth, "")

    return encode_subclass


def _members(kind: type, base: type) -> list[types.MemberDescriptorType]:
    """Return the slots that ``kind`` adds to ``base``; refuse a class that hides more than that."""
    added = kind.__mro__[: kind.__mro__.index(base)]
    members = [
        member
        for cls in added
        for member in vars(cls).values()
        if isinstance(member, types.MemberDescriptorType)
    ]
    seen = len(members) + sum(("__dict__" in vars(c)) + ("__weakref__" in vars(c)) for c in added)
    # Written in C, a subclass can hold what Python does not see: the nanoseconds of a Timestamp.
    if kind.__basicsize__ - base.__basicsize__ > 8 * seen:
        raise _Refused(f"{_qualified(kind)} adds to {base.__name__} what cannot be read")
    return members


def _slots(
    value: object, members: list[types.MemberDescriptorType]
) -> Iterator[tuple[str, object]]:
    for member in members:
        with contextlib.suppress(AttributeError):  # a slot may be empty
            yield member.__name__, member.__get__(value)


def _field_names(kind: Any) -> Iterator[str] | None:
    """Return the names of the fields that two instances of ``kind`` are compared by."""
    if dataclasses.is_dataclass(kind):
        return (field.name for field in dataclasses.fields(kind) if field.compare)
    if isinstance(attributes := getattr(kind, "__attrs_attrs__", None), tuple):
        return (attribute.name for attribute in attributes if attribute.eq)
    if isinstance(names := getattr(kind, "__struct_fields__", None), tuple):  # msgspec
        return iter(names)
    if isinstance(fields := getattr(kind, "__pydantic_fields__", None), Mapping):
        return iter((*fields, "__pydantic_extra__", "__pydantic_private__"))
    return None


def _encoder_for(kind: type) -> Encoder:
    """Return the encoder of a type of somebody else, made when the type is first seen."""
    encoder = _learnt.get(kind)
    if encoder is None:
        encoder = _learnt[kind] = _new_encoder(kind)
    return encoder


def _new_encoder(kind: type) -> Encoder:
    if callable(getattr(kind, "__cache_key__", None)):
        return _cache_key(kind)
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    for base in kind.__mro__:
        if base in _known:
            return _subclass(kind, base)
    if (names := _field_names(kind)) is not None:
        return _fields(kind, names)
    if issubclass(kind, type):
        return _global
    raise _Refused(f"{kind.__module__}.{kind.__qualname__} has no stable encoding")


_learnt: WeakKeyDictionary[type, Encoder] = WeakKeyDictionary()
_known: dict[type, Encoder] = {**_builtins, **_library}
_encoders: dict[type, Encoder] = {
    **_known,
    type(None): lambda value, depth: b"N",
    type(...): lambda value, depth: b"E",
    slice: _slice,
    range: _range,
    type: _global,
    types.FunctionType: _global,
    types.BuiltinFunctionType: _global,
}

"""Values to msgpack and back, every type kept.

A plain value is one call of ormsgpack, in C. Two things would pass there that must not, and are
looked for: a bytearray, which would come back as bytes, and dict keys other than the simplest,
which would come back as something else. A value with such parts is rewritten first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from gc import get_referents
from typing import Any

import ormsgpack
from ormsgpack import Ext, Fragment, packb, unpackb

from gecaso.errors import ConfigurationError, PackError, UnpackError
from gecaso.packing.forms import FORMS, OBJECT, Decode, Form, Load, Pack
from gecaso.packing.nesting import is_deeper_than
from gecaso.packing.shapes import Shape, shape_of
from gecaso.packing.whereabouts import first_unknown

__all__ = ["READ_OPTION", "Codec"]

READ_OPTION = ormsgpack.OPT_NON_STR_KEYS

_WRITE = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_WRITE_KEYS = _WRITE | ormsgpack.OPT_NON_STR_KEYS

# ormsgpack itself refuses to write more lists and dicts inside each other.
_DEEPEST_PLAIN = 256
# So many forms (tuples, sets, instances …) may be inside each other …
_DEEPEST_FORM = 64
# … what is this many forms deep is measured before it is read …
_MEASURED = 4
# … and has at most so many containers of any kind inside each other.
_DEEPEST = 256
_NESTED = frozenset({OBJECT, *(form.tag for form in FORMS.values() if form.nested)})

_NONE = type(None)
_KEYS: frozenset[type[Any]] = frozenset({str, int, float, bool, _NONE, bytes})
_HOLDERS: frozenset[type[Any]] = frozenset({list, dict})
_LEAVES: frozenset[type[Any]] = frozenset({float, bool, _NONE, bytes})
# What ormsgpack writes without asking, and reads back as something else.
_MISTAKEN = frozenset({bytearray, memoryview, Ext, Fragment})


class Codec:
    """Packs plain values, the types of the standard library, and instances of ``types``.

    >>> codec = Codec()
    >>> codec.loads(codec.dumps({(1, 2): {3.0, True}}))
    {(1, 2): {True, 3.0}}
    """

    def __init__(self, types: Iterable[type[Any]] = ()) -> None:
        self.types = frozenset(types)
        self._shapes = _shapes(self.types)
        decode = _object_decoder(self._shapes.values())
        self._forms = FORMS | {kind: _form(shape, decode) for kind, shape in self._shapes.items()}
        self._writer = _Writer(self._forms)
        self._careful = _CarefulWriter(self._forms)
        decoders = {form.tag: form.decode for form in FORMS.values()}
        self.hook = _Reader({**decoders, OBJECT: decode}).hook

    def dumps(self, value: object) -> bytes:
        """Return ``value`` as msgpack; raise PackError with the path to what cannot be packed."""
        try:
            return self._writer.top(value)
        except (TypeError, RecursionError):
            pass
        try:
            return self._careful.top(value)
        except Exception as error:
            path, reason = first_unknown(value, self._forms, self._shapes)
            raise PackError(f"{path} {reason}", path=path) from error

    def loads(self, data: bytes | memoryview) -> Any:
        """Return the value in ``data``; raise UnpackError, and nothing else, if there is none."""
        try:
            return unpackb(data, ext_hook=self.hook, option=READ_OPTION)
        except Exception as error:
            raise unreadable(error) from error


class _Trouble(threading.local):
    """What went wrong inside a hook: ormsgpack tells only that something did."""

    error: Exception | None = None


_trouble = _Trouble()


def unreadable(error: Exception) -> UnpackError:
    """Return the error to raise when ormsgpack or one of the hooks raised ``error``."""
    reason, _trouble.error = _trouble.error or error, None
    if isinstance(reason, UnpackError):
        return reason
    return UnpackError(f"the data is damaged, or not packed by gecaso: {reason}")


class _Writer:
    """Packs values that are ``level`` forms deep; the hook is for what msgpack does not have."""

    __slots__ = ("_deeper", "_forms", "_level")

    def __init__(self, forms: Mapping[type[Any], Form], level: int = 0) -> None:
        self._forms = forms
        self._level = level
        self._deeper: _Writer | None = None

    def top(self, value: object) -> bytes:
        try:
            data = packb(value, self.hook, _WRITE)
        except TypeError:
            if is_odd([value]):
                raise
            return packb(value, self.hook, _WRITE_KEYS)
        # The three bytes that start a bytes object in msgpack.
        if (b"\xc4" in data or b"\xc5" in data or b"\xc6" in data) and is_odd([value], keys=False):
            raise TypeError("a bytearray")
        return data

    def hook(self, value: object) -> Ext:
        form = self._forms.get(type(value))
        if form is None:
            raise TypeError("a type that is not known")
        return Ext(form.tag, form.encode(value, self._pack))

    def _pack(self, parts: list[Any]) -> bytes:
        deeper = self._deeper or self._make_deeper()
        data = deeper.write(parts)
        if self._level + 1 == _MEASURED:
            _measure(data)
        return data

    def _make_deeper(self) -> _Writer:
        _check_level(self._level)
        self._deeper = type(self)(self._forms, self._level + 1)
        return self._deeper

    def write(self, parts: list[Any]) -> bytes:
        if is_odd(parts):
            raise TypeError("a bytearray, or a key that msgpack does not have")
        return packb(parts, self.hook, _WRITE_KEYS)


class _CarefulWriter(_Writer):
    """Looks at every part itself, so that nothing passes unseen."""

    __slots__ = ()

    def top(self, value: object) -> bytes:
        return packb(self._plain(value), None, _WRITE_KEYS)

    def write(self, parts: list[Any]) -> bytes:
        return packb([self._plain(part) for part in parts], None, _WRITE_KEYS)

    def _plain(self, value: Any) -> Any:
        """Return ``value`` made of nothing but what msgpack has, and forms."""
        whole: object = value
        kind = type(whole)
        if kind is list:
            return [self._plain(part) for part in value]
        if kind is dict and all(map(_is_native, value)):
            return {key: self._plain(part) for key, part in value.items()}
        return value if _is_native(whole) else self.hook(whole)


def _is_native(value: object) -> bool:
    """Return whether msgpack has ``value``, which is no container, as a value and as a key."""
    if type(value) is str:
        return _is_utf8(value)
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 64
    return type(value) in _LEAVES


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_odd(parts: list[Any], *, keys: bool = True) -> bool:
    """Return whether ormsgpack would write something in ``parts`` as what it is not.

    Looks only into lists and dicts, at their ``keys`` too: all else comes to a hook. Works on all
    parts of one level at a time, in C, because this is asked for every tuple and every instance.
    """
    for _ in range(_DEEPEST_PLAIN):
        if not _MISTAKEN.isdisjoint(map(type, parts)):
            return True
        # Each only once: otherwise what is shared, or contains itself, would multiply.
        holders: list[Any] = list({id(x): x for x in parts if type(x) in _HOLDERS}.values())
        if not holders:
            return False
        if keys and any(type(x) is dict and not _KEYS.issuperset(map(type, x)) for x in holders):
            return True
        parts = get_referents(*holders)
    return True


class _Reader:
    """Rebuilds the forms that are ``level`` forms deep."""

    __slots__ = ("_decoders", "_deeper", "_level")

    def __init__(self, decoders: Mapping[int, Decode], level: int = 0) -> None:
        self._decoders = decoders
        self._level = level
        self._deeper: _Reader | None = None

    def hook(self, tag: int, data: bytes) -> Any:
        try:
            return self._decoders[tag](data, self._load)
        except Exception as error:
            if _trouble.error is None:
                _trouble.error = error
            raise

    def _load(self, data: bytes) -> list[Any]:
        deeper = self._deeper or self._make_deeper()
        if self._level + 1 == _MEASURED:
            _measure(data)
        parts: list[Any] = unpackb(data, ext_hook=deeper.hook, option=READ_OPTION)
        if type(parts) is not list:
            raise UnpackError("the data is damaged: a form does not hold a list")
        return parts

    def _make_deeper(self) -> _Reader:
        _check_level(self._level)
        self._deeper = _Reader(self._decoders, self._level + 1)
        return self._deeper


def _check_level(level: int) -> None:
    if level >= _DEEPEST_FORM:
        raise ValueError(f"more than {_DEEPEST_FORM} objects are inside each other")


def _measure(data: bytes) -> None:
    if is_deeper_than(_DEEPEST, data, _NESTED):
        raise ValueError(f"more than {_DEEPEST} containers are inside each other")


def _shapes(types: Iterable[type[Any]]) -> dict[type[Any], Shape]:
    shapes: dict[type[Any], Shape] = {}
    names: dict[str, type[Any]] = {}
    for kind in types:
        shape = shape_of(kind)
        if shape is None:
            raise ConfigurationError(
                f"types= does not take {kind!r}: gecaso takes apart dataclasses, attrs classes, "
                "pydantic models, msgspec structs, named tuples and enums"
            )
        if names.setdefault(shape.name, kind) is not kind:
            raise ConfigurationError(
                f"two different types are named {shape.name}: what one of them packs, the other "
                "would unpack. Rename one"
            )
        shapes[kind] = shape
    return shapes


def _form(shape: Shape, decode: Decode) -> Form:
    def encode(value: Any, pack: Pack) -> bytes:
        return pack([shape.name, shape.check, *shape.take(value)])

    return Form(OBJECT, shape.cls, encode, decode, True)


def _object_decoder(shapes: Iterable[Shape]) -> Decode:
    """Return what reads an instance of any known type: the data says which."""
    by_name = {shape.name: shape for shape in shapes}

    def decode(data: bytes, load: Load) -> Any:
        name, check, *parts = load(data)
        shape = by_name.get(name)
        if shape is None:
            raise UnpackError(
                f"the data holds a {str(name)[:100]!r}, which is not among the known types: give "
                "it to types=, or name it in the function's return annotation"
            )
        if shape.check != check:
            raise UnpackError(f"the fields of {name} have changed since this was packed")
        return shape.build(parts)

    return decode

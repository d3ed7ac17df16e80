"""Taking apart and rebuilding instances of classes: dataclasses, attrs, pydantic, msgspec,
named tuples and enums.

A shape takes the state of an instance, not the arguments of its constructor, so that what comes
back equals what was there: frozen and slotted classes, ``init=False`` fields and attributes that
were set later included. No ``__init__``, ``__post_init__`` or validator runs, except for msgspec
structs, which have no other way to be made.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from enum import Enum
from functools import cached_property
from types import MemberDescriptorType
from typing import Any, cast

__all__ = ["Shape", "shape_of"]


class Shape:
    """How instances of one class are taken apart and rebuilt.

    ``name`` is ``"module:qualname"``; ``check`` changes when the fields of the class do.
    """

    def __init__(self, cls: type[Any], fields: Iterable[str] = ()) -> None:
        self.cls: Any = cls
        self.name = f"{cls.__module__}:{cls.__qualname__}"
        self.fields = tuple(fields)
        self.check = zlib.crc32("\0".join(self.fields).encode())

    def take(self, value: Any) -> list[Any]:
        """Return the parts of ``value``; raise AttributeError when they do not say all of it."""
        raise NotImplementedError

    def build(self, parts: list[Any]) -> Any:
        """Return an instance made of ``parts``; raise any exception when they do not fit."""
        raise NotImplementedError

    def labels(self, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield what is inside ``value``, each with how to write it after ``value``."""
        for name in self.fields:
            yield f".{name}", getattr(value, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class EnumShape(Shape):
    """Members by name; combinations of flags by value."""

    def take(self, value: Any) -> list[Any]:
        if self.cls.__members__.get(value.name) is value:
            return [value.name]
        return [self._bits(value.value)]

    def build(self, parts: list[Any]) -> Any:
        (part,) = parts
        return self.cls(self._bits(part)) if type(part) is int else self.cls.__members__[part]

    def _bits(self, value: Any) -> int:
        # Every new combination is kept by its class for ever: only those of its own bits are made.
        mask: int | None = getattr(self.cls, "_flag_mask_", None)  # flags have one, other enums not
        if mask is None or value & ~mask:
            raise AttributeError(f"{value!r} is no member of {self.name}")
        return int(value)

    def labels(self, value: Any) -> Iterator[tuple[str, Any]]:
        return iter(())


class NamedTupleShape(Shape):
    def take(self, value: Any) -> list[Any]:
        if getattr(value, "__dict__", None):
            raise AttributeError("a named tuple with attributes of its own")
        return list(value)

    def build(self, parts: list[Any]) -> Any:
        if len(parts) != len(self.fields):
            raise ValueError("not the fields of this tuple")
        return cast("Any", tuple).__new__(self.cls, parts)


class AttributeShape(Shape):
    """Dataclasses and attrs: what is in the slots and the ``__dict__`` of the instance.

    The parts are the names of fields that are not set, other attributes, and the values.
    """

    def __init__(self, cls: type[Any], fields: Iterable[str]) -> None:
        super().__init__(cls, fields)
        self._slots = _slots(cls)
        # attrs keeps a hash there, which is another one in another process.
        self._hash = self._slots.pop(_ATTRS_HASH, None)
        self._names = [name for name in self.fields if name not in self._slots]
        self._all_names = (*self._names, *self._slots)
        self._has_dict = bool(cls.__dictoffset__)
        self._ignored = {*self._names, *_derived(cls)}

    def take(self, value: Any) -> list[Any]:
        state: Mapping[str, Any] = value.__dict__ if self._has_dict else _NOTHING
        more = _rest(state, self._ignored) if len(state) > len(self._names) else None
        try:
            values: list[Any] = [state[name] for name in self._names]
            values += [slot.__get__(value) for slot in self._slots.values()]
        except (KeyError, AttributeError):
            return self._take_unfinished(value, state, more)
        return [None, more or None, *values]

    def _take_unfinished(
        self, value: Any, state: Mapping[str, Any], more: dict[str, Any] | None
    ) -> list[Any]:
        there = {name: state[name] for name in self._names if name in state}
        there |= {name: getattr(value, name) for name in self._slots if hasattr(value, name)}
        missing = [name for name in self._all_names if name not in there]
        return [missing, more or None, *map(there.get, self._all_names)]

    def build(self, parts: list[Any]) -> Any:
        missing, more, *values = parts
        state = dict(zip(self._all_names, values, strict=True))
        for name in missing or ():
            del state[name]
        made: Any = object.__new__(self.cls)
        for name, slot in self._slots.items():
            if name in state:
                slot.__set__(made, state.pop(name))
        if self._hash:
            self._hash.__set__(made, None)
        if state or more:
            made.__dict__.update(state, **(more or {}))
        return made

    def labels(self, value: Any) -> Iterator[tuple[str, Any]]:
        parts = self.take(value)
        more: dict[str, Any] = parts[1] or {}
        for name, part in zip(self._all_names, parts[2:], strict=True):
            yield f".{name}", part
        for name, part in more.items():
            yield f".{name}", part


class StructShape(Shape):
    """msgspec structs: made by their constructor, then each field as it was."""

    def take(self, value: Any) -> list[Any]:
        more = dict(getattr(value, "__dict__", _NOTHING))
        return [more or None, *[getattr(value, name) for name in self.fields]]

    def build(self, parts: list[Any]) -> Any:
        from msgspec.structs import force_setattr

        more, *values = parts
        state = dict(zip(self.fields, values, strict=True))
        made = self.cls(**state)
        if hasattr(self.cls, "__post_init__"):  # which may have changed what it was given
            for name, part in state.items():
                force_setattr(made, name, part)
        if more:
            made.__dict__.update(more)
        return made


class ModelShape(Shape):
    """pydantic models: the four attributes that a model consists of."""

    def __init__(self, cls: Any) -> None:
        super().__init__(cls, [*cls.model_fields, *cls.__private_attributes__])
        self._names = frozenset(cls.model_fields)
        self._derived = _derived(cls)

    def take(self, value: Any) -> list[Any]:
        state = _rest(value.__dict__, self._derived)
        if not self._names.issuperset(state):
            raise AttributeError("a model with attributes that are not its fields")
        private = value.__pydantic_private__
        if private is not None:
            private = {k: v for k, v in private.items() if type(v).__name__ != _UNDEFINED}
        return [state, value.__pydantic_fields_set__, value.__pydantic_extra__, private]

    def build(self, parts: list[Any]) -> Any:
        state, fields_set, extra, private = parts
        if not (self._names.issuperset(state) and isinstance(fields_set, set)):
            raise ValueError("not the fields of this model")
        if not all(part is None or type(part) is dict for part in (extra, private)):
            raise ValueError("not the state of a model")
        made: Any = object.__new__(self.cls)
        put = object.__setattr__  # what the model's own __setattr__ refuses when it is frozen
        put(made, "__dict__", dict(state))
        put(made, "__pydantic_fields_set__", fields_set)
        put(made, "__pydantic_extra__", extra)
        put(made, "__pydantic_private__", private)
        return made

    def labels(self, value: Any) -> Iterator[tuple[str, Any]]:
        state, _, extra, private = self.take(value)
        whole: dict[str, Any] = {**state, **(extra or {}), **(private or {})}
        for name, part in whole.items():
            yield f".{name}", part


def shape_of(cls: Any) -> Shape | None:
    """Return how instances of ``cls`` are taken apart, or None for a class of another kind."""
    if not isinstance(cls, type):
        return None
    known: type[Any] = cls
    return _shape_of(known)


def _shape_of(cls: Any) -> Shape | None:
    if issubclass(cls, Enum):
        return EnumShape(cls)
    if hasattr(cls, "__struct_fields__"):
        return StructShape(cls, cls.__struct_fields__)
    if not all(base.__flags__ & _HEAP_TYPE for base in cls.__mro__ if base not in _SIMPLE):
        return None  # part of its state would be where only the constructor of a base reaches it
    if "_fields" in dir(cls) and tuple in cls.__mro__:
        return NamedTupleShape(cls, cls._fields)
    if tuple in cls.__mro__:
        return None
    if "__dataclass_fields__" in dir(cls):
        return AttributeShape(cls, [field.name for field in dataclasses.fields(cls)])
    if "__attrs_attrs__" in dir(cls):
        return AttributeShape(cls, [field.name for field in cls.__attrs_attrs__])
    if hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_fields"):
        return ModelShape(cls)
    return None


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class made by a class statement
_SIMPLE = (object, tuple)
_NOTHING: Mapping[str, Any] = {}
_ATTRS_HASH = "_attrs_cached_hash"
_UNDEFINED = "PydanticUndefinedType"


def _slots(cls: type[Any]) -> dict[str, MemberDescriptorType]:
    found: dict[str, MemberDescriptorType] = {}
    for base in reversed(cls.__mro__):
        found |= {k: v for k, v in vars(base).items() if isinstance(v, MemberDescriptorType)}
    return found


def _derived(cls: type[Any]) -> set[str]:
    """Return the names of attributes that are computed from the others when asked for."""
    pairs = (pair for base in cls.__mro__ for pair in vars(base).items())
    return {name for name, attribute in pairs if isinstance(attribute, cached_property)}


def _rest(state: Mapping[str, Any], ignored: Container[str]) -> dict[str, Any]:
    rest = {name: part for name, part in state.items() if name not in ignored}
    if _ATTRS_HASH in rest:
        rest[_ATTRS_HASH] = None
    return rest

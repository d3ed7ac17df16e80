"""What the instances of a class hold: fields of records, attributes that a subclass adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MemberDescriptorType
from typing import Any, cast

__all__ = ["added_slots", "field_names"]


def field_names(kind: Any) -> list[str] | None:
    """Return the names of the fields that two instances of a record type are compared by.

    Records are dataclasses, attrs and msgspec classes and pydantic models, told apart by what
    these libraries leave on the class, without importing them; None for any other type.
    """
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind) if field.compare]
    if hasattr(kind, "__attrs_attrs__"):
        return [attribute.name for attribute in kind.__attrs_attrs__ if attribute.eq]
    fields: Any = getattr(kind, "__struct_fields__", None)  # msgspec
    if isinstance(fields, tuple):
        return list(cast(tuple[str, ...], fields))
    fields = getattr(kind, "__pydantic_fields__", None)
    if isinstance(fields, Mapping):
        names = list(cast(Mapping[str, object], fields))
        return [*names, "__pydantic_extra__", "__pydantic_private__"]
    return None


def added_slots(kind: type, base: type) -> list[str] | None:
    """Return the slots that ``kind`` adds to ``base``; None if it holds more than Python sees.

    A subclass written in C can hide part of its value: the nanoseconds of a pandas Timestamp.
    """
    added = [vars(cls) for cls in kind.__mro__[: kind.__mro__.index(base)]]
    slots = [
        name
        for names in added
        for name, member in names.items()
        if isinstance(member, MemberDescriptorType)
    ]
    seen = len(slots) + sum(("__dict__" in names) + ("__weakref__" in names) for names in added)
    return slots if kind.__basicsize__ - base.__basicsize__ <= 8 * seen else None

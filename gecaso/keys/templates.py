"""Keys written out: ``key="user:{id}"``."""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Callable, Mapping
from datetime import date, time
from enum import Enum
from inspect import Signature
from typing import Any, Final, NoReturn
from uuid import UUID
from weakref import WeakSet

from gecaso.errors import ConfigurationError, UnkeyableArgument
from gecaso.keys.quoting import quote, quoting
from gecaso.weak import WeakTable

__all__ = ["Template", "warn_if_shared"]

_formatter: Final = string.Formatter()


class Template:
    """A key as text with arguments in it: the whole key, which other code can name too.

    ``text`` is a format string over the parameters of ``signature``; ``{user.id}`` and ``{q[a]}``
    look inside an argument. ``start`` is put before it, see `prefix`. Raises `ConfigurationError`
    for what could not be rendered, or would give one key to different arguments.

    >>> import inspect
    >>> def user(id, region="eu"): ...
    >>> Template("user:{region}:{id}", inspect.signature(user)).render({"id": 7, "region": "a b"})
    'user:a%20b:7'
    """

    __slots__ = ("_parts", "text")

    def __init__(self, text: str, signature: Signature, *, start: str = "") -> None:
        self.text = start + text
        try:
            parsed = list(_formatter.parse(text))
        except ValueError as error:
            _refuse(text, f"it is not a format string ({error})")
        unsafe = quoting(_separators(text, parsed))
        self._parts: list[str | _Field] = [start]
        for literal, field, spec, conversion in parsed:
            self._parts.append(literal)
            if field is not None:
                _check(text, field, spec or "", conversion, signature)
                self._parts.append(_Field(field, spec or "", unsafe))

    def render(self, arguments: Mapping[str, object]) -> str:
        """Return the key of a call with these bound ``arguments``, by the names of parameters.

        Raises `UnkeyableArgument` for a value that is no text, integer, UUID, enum member or date.
        """
        parts = self._parts
        return "".join(
            [part if isinstance(part, str) else part.render(arguments) for part in parts]
        )

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def _separators(text: str, parsed: list[tuple[str, str | None, str | None, str | None]]) -> str:
    """Return what stands between fields, and so must not stand in their values."""
    separators: list[str] = []
    between = ""
    seen = False
    for literal, field, _, _ in parsed:
        between += literal
        if field is None:
            continue
        marks = re.sub(r"[^\W_]", "", between) if seen else ""
        if seen and not marks:
            _refuse(text, f"put a separator such as ':' before {{{field}}}")
        separators.append(marks)
        between, seen = "", True
    return "".join(separators)


def _check(text: str, field: str, spec: str, conversion: str | None, signature: Signature) -> None:
    name = re.split(r"[.\[]", field, maxsplit=1)[0]
    if name not in signature.parameters:
        known = ", ".join(signature.parameters) or "none"
        _refuse(text, f"{name or field!r} is no parameter; the parameters are: {known}")
    if conversion:
        _refuse(text, f"the conversion !{conversion} shows what is not stable; leave it out")
    if "{" in spec:
        _refuse(text, f"the format {spec!r} has fields of its own")


def _refuse(text: str, reason: str) -> NoReturn:
    raise ConfigurationError(f"the key template {text!r} cannot work: {reason}")


class _Field:
    """One ``{argument}`` of a template."""

    __slots__ = ("name", "spec", "unsafe")

    def __init__(self, name: str, spec: str, unsafe: re.Pattern[str]) -> None:
        self.name = name
        self.spec = spec
        self.unsafe = unsafe

    def render(self, arguments: Mapping[str, object]) -> str:
        value = self._value(arguments)
        if isinstance(value, Enum):
            value = value.value if isinstance(value.value, (str, int)) else value.name
        if self.spec:
            return self._formatted(value)
        if isinstance(value, str):
            return quote(str.__str__(value), self.unsafe)
        if isinstance(value, (date, time)):
            return value.isoformat()
        if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value) if isinstance(value, UUID) else int.__repr__(value)
        raise self._refused(
            f"a {type(value).__qualname__} has no one text. Use text, an integer, a UUID, "
            "an enum member or a date, or a callable as key=."
        )

    def _value(self, arguments: Mapping[str, object]) -> Any:
        try:
            return _formatter.get_field(self.name, (), arguments)[0]
        except (AttributeError, LookupError, TypeError) as error:
            raise self._refused(f"there is no such part ({type(error).__name__}).") from None

    def _formatted(self, value: Any) -> str:
        from decimal import Decimal  # few templates format numbers

        numeric = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
        if not numeric and not isinstance(value, (date, time)):
            raise self._refused(
                f"the format {self.spec!r} is for numbers and dates, not for a "
                f"{type(value).__qualname__}."
            )
        try:
            return quote(format(value, self.spec), self.unsafe)
        except ValueError as error:
            raise self._refused(f"{error}.") from None

    def _refused(self, reason: str) -> UnkeyableArgument:
        message = f"{self.name} cannot be part of the key: {reason}"
        return UnkeyableArgument(message, argument=self.name)


_templates: WeakTable[object, dict[str, WeakSet[Any]]] = WeakTable()


def warn_if_shared(
    text: str, storage: object, function: Callable[..., Any], *, stacklevel: int = 2
) -> None:
    """Warn when a second live function uses the template ``text`` on the same ``storage``."""
    users = _templates.get(storage, dict[str, WeakSet[Any]]).setdefault(text, WeakSet())
    others = [other for other in users if other is not function]
    users.add(function)
    if others:
        warnings.warn(
            f"{_name(function)} and {_name(others[0])} both use key={text!r} on one storage: each "
            "reads what the other stored. If that is not meant, put the function into the text.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))

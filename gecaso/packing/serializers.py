"""What ``serializer=`` chooses: msgpack with every type kept, exact JSON, or the user's own."""

from __future__ import annotations

from types import NoneType
from typing import Any, Protocol

from gecaso.errors import ConfigurationError, PackError
from gecaso.packing.whereabouts import items

__all__ = ["ExactJSON", "Serializer", "chosen"]

# Their ``loads`` runs what the data says.
_UNSAFE = frozenset({"pickle", "_pickle", "cloudpickle", "dill", "marshal", "jsonpickle"})

_LEAVES: frozenset[type[Any]] = frozenset({NoneType, bool, int, float, str})


class Serializer(Protocol):
    """What ``serializer=`` takes. What it keeps of a value, and of its types, is its own affair."""

    def dumps(self, value: Any, /) -> bytes | str: ...

    def loads(self, data: bytes, /) -> Any: ...


class ExactJSON:
    """JSON for other languages to read: values that JSON has no word for are refused.

    >>> ExactJSON().dumps({"a": [1, None]})
    '{"a":[1,null]}'
    """

    def __init__(self) -> None:
        import json  # most programs never need it here

        self._json = json

    def dumps(self, value: Any, /) -> str:
        try:
            path = _not_json(value)
            text = self._json.dumps(value, separators=(",", ":")) if path is None else ""
        except (RecursionError, ValueError) as error:
            raise PackError(f"value cannot be JSON: {error}") from error
        if path is not None:
            raise PackError(f"{path} has no exact form in JSON", path=path)
        return text

    def loads(self, data: bytes, /) -> Any:
        return self._json.loads(data)


def chosen(serializer: Any, *, signed: bool) -> Serializer | None:
    """Return the serializer to use instead of gecaso's own msgpack, or None for that."""
    if serializer == "msgpack":
        return None
    if serializer == "json":
        return ExactJSON()
    if not (hasattr(serializer, "dumps") and hasattr(serializer, "loads")):
        raise ConfigurationError(
            f'serializer={serializer!r} is none: give "msgpack", "json", or an object with '
            "dumps(value) and loads(data)"
        )
    name = getattr(serializer, "__name__", type(serializer).__module__).partition(".")[0]
    if name in _UNSAFE and not signed:
        raise ConfigurationError(
            f"serializer={name} runs whatever the storage holds: give a secret= with it, so that "
            "only what was signed is read"
        )
    both: Serializer = serializer
    return both


def _not_json(value: Any, path: str = "value") -> str | None:
    """Return the path to what JSON would change or refuse, or None."""
    whole: object = value
    kind = type(whole)
    if kind is list:
        steps = [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    elif kind is dict and all(type(key) is str for key in value):
        steps = list(items(path, value))
    else:
        return None if kind in _LEAVES else path
    return next(filter(None, (_not_json(part, step) for step, part in steps)), None)

"""Where in a value the part is that cannot be packed, and why it cannot."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gecaso.packing.forms import Form
from gecaso.packing.shapes import Shape

__all__ = ["first_unknown", "items"]

Step = tuple[str, Any]

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_UNKNOWN = (
    ", a type that gecaso does not know: name it in the function's return annotation, give it to "
    "types=, or give a secret= so that the value may be pickled"
)
_TOO_DEEP = "contains itself, or is nested too deeply"
_LONGEST = 4000  # characters of a path: what is deeper than that is too deep
_SHORT = 60  # characters of a key that a path shows


def first_unknown(
    value: Any, forms: Mapping[type[Any], Form], shapes: Mapping[type[Any], Shape]
) -> tuple[str, str]:
    """Return the path to the part of ``value`` that cannot be packed, and what is wrong with it.

    >>> path, reason = first_unknown({"a": [1, object()]}, {}, {})
    >>> path, reason[:12]
    ('value["a"][1]', 'is an object')
    """
    todo: list[Step] = [("value", value)]
    seen: dict[int, Any] = {}  # the objects too, so that no number is used twice
    while todo:
        path, part = todo.pop()
        if type(part) in _PLAIN or id(part) in seen:
            continue
        seen[id(part)] = part
        if len(path) > _LONGEST:
            return f"{path[:_SHORT]}…", _TOO_DEEP
        try:
            inside = _inside(path, part, forms, shapes)
        except Exception as error:  # noqa: BLE001 # whatever a type raises is the reason
            return path, f"is a {type(part).__name__} that cannot be packed: {error}"
        if inside is None:
            return path, f"is {_named(part.__class__)}{_UNKNOWN}"
        todo.extend(reversed(inside))
    return "value", _TOO_DEEP


def _inside(
    path: str, part: Any, forms: Mapping[type[Any], Form], shapes: Mapping[type[Any], Shape]
) -> list[Step] | None:
    """Return the parts of ``part``, each with its path; None if the type of ``part`` is unknown."""
    whole: object = part
    kind = type(whole)
    if kind is dict or kind is OrderedDict:
        return [*_listed(path, part), *items(path, part)]
    if kind is list or kind is tuple or kind is deque:
        return [(f"{path}[{index}]", inner) for index, inner in enumerate(part)]
    if kind is set or kind is frozenset:
        return _listed(path, part)
    if kind not in forms:
        return None
    parts: list[Any] = []
    forms[kind].encode(part, lambda found: _keep(parts, found))
    if kind in shapes:
        return [(path + label, inner) for label, inner in shapes[kind].labels(part)]
    return [(f"{path}.tzinfo", inner) for inner in parts]  # only a date's zone can be of any type


def items(path: str, pairs: dict[Any, Any]) -> Iterator[Step]:
    """Yield the values of a dict that is at ``path``, each with its own path."""
    for index, (key, inner) in enumerate(pairs.items()):
        shown = _shown(key)
        yield f"{path}[{shown}]" if shown else f"list({path}.values())[{index}]", inner


def _shown(key: object) -> str:
    """Return how to write ``key``, or nothing if that is long."""
    if type(key) is str and len(key) <= _SHORT:
        return f'"{key}"' if key.isprintable() and '"' not in key else repr(key)
    return repr(key) if type(key) is int and key.bit_length() < 64 else ""


def _listed(path: str, parts: Iterable[Any]) -> list[Step]:
    return [(f"list({path})[{index}]", inner) for index, inner in enumerate(parts)]


def _keep(parts: list[Any], found: list[Any]) -> bytes:
    parts.extend(found)
    return b""


def _named(kind: type[Any]) -> str:
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    name = module + kind.__qualname__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"

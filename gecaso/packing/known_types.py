"""Which classes a payload may hold: those that an annotation names, and those inside them."""

from __future__ import annotations

import builtins
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ForwardRef, Literal, get_args, get_origin

from gecaso.packing.shapes import shape_of

__all__ = ["known_types_of", "types_in"]


def known_types_of(function: Callable[..., Any]) -> frozenset[type]:
    """Return the classes that the return annotation of ``function`` names, and those inside them.

    What cannot be resolved, as a name imported for type checkers only, is left out.

    >>> from datetime import date
    >>> from enum import Enum
    >>> class Colour(Enum):
    ...     RED = 1
    >>> def favourites(day: date) -> "dict[str, list[Colour] | None]": ...
    >>> known_types_of(favourites) == {Colour}
    True
    """
    target: Any = function
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(getattr(target, "__func__", target))
    annotation = _annotations(target).get("return")
    return types_in(annotation, names=getattr(target, "__globals__", None))


def types_in(annotation: object, *, names: Mapping[str, Any] | None = None) -> frozenset[type]:
    """Return the classes that gecaso can take apart in ``annotation``, and those inside them.

    Goes through generics, unions, ``Optional``, ``Annotated``, ``NewType``, type aliases, and the
    fields of dataclasses, attrs classes, pydantic models, msgspec structs, named tuples and typed
    dicts. Text is looked up in ``names``; what cannot be resolved is left out.

    >>> from typing import NamedTuple
    >>> class Point(NamedTuple):
    ...     x: int
    ...     y: int
    >>> types_in(dict[str, list[Point]] | None) == {Point}
    True
    """
    found: set[type] = set()
    seen: dict[tuple[int, int], object] = {}  # the objects too, so that no number is used twice
    todo: list[tuple[object, Mapping[str, Any]]] = [(annotation, names or {})]
    while todo:
        part, scope = todo.pop()
        text = part if isinstance(part, (str, ForwardRef)) else None
        mark = id(part), 0 if text is None else id(scope)  # a name is something else elsewhere
        if mark in seen:
            continue
        seen[mark] = part, scope
        if text is not None:
            todo.append((_resolve(text, scope), scope))
        if isinstance(part, type) and shape_of(part):
            found.add(part)
        todo.extend(_parts(part, scope))
    return frozenset(found)


def _parts(part: Any, scope: Mapping[str, Any]) -> Iterator[tuple[object, Mapping[str, Any]]]:
    inside: list[object]
    if get_origin(part) is Literal:
        inside = [type(choice) for choice in get_args(part)]
    elif get_origin(part) is Annotated:
        inside = [part.__origin__]  # what it is annotated with is no part of the type
    else:
        inside = list(get_args(part))
        inside += _aliased(part)
    for inner in inside:
        if not isinstance(inner, list):  # the parameters of a Callable
            yield inner, scope
    if isinstance(part, type):
        yield from _fields(part)


def _aliased(part: Any) -> Iterator[object]:
    """Yield what a generic, a NewType, a type alias or a type variable stands for."""
    yield getattr(part, "__origin__", None)
    yield getattr(part, "__supertype__", None)
    yield getattr(part, "__bound__", None)
    yield from getattr(part, "__constraints__", None) or ()
    if type(part).__name__ == "TypeAliasType":
        try:
            yield part.__value__
        except NameError:  # evaluated only now, and names what is not there at run time
            return


def _fields(cls: Any) -> Iterator[tuple[object, Mapping[str, Any]]]:
    """Yield the annotations of the fields of ``cls``, each with the names known where it stands."""
    if not (shape_of(cls) or hasattr(cls, "__total__")):
        return
    for base in cls.__mro__:
        scope = {**vars(sys.modules.get(base.__module__, builtins)), base.__name__: base}
        for annotation in _annotations(base).values():
            yield annotation, scope
    # These two may know more than the annotations: type= of attr.ib, a generic model's arguments.
    for field in getattr(cls, "__attrs_attrs__", ()):
        yield field.type, {}
    for field in dict(getattr(cls, "model_fields", {})).values():
        yield field.annotation, {}


def _annotations(target: Any) -> Mapping[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(target, format=annotationlib.Format.FORWARDREF)
    callable_or_class = isinstance(target, type) or callable(target)
    return inspect.get_annotations(target) if callable_or_class else {}


class _Names(dict[str, Any]):
    """Names for ``eval``: one that nobody knows is Any, so that the rest can be read."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        super().__init__(scope)

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)


def _resolve(text: str | ForwardRef, scope: Mapping[str, Any]) -> object:
    """Return what an annotation written as text stands for; None when that cannot be told."""
    if isinstance(text, ForwardRef):
        text = text.__forward_arg__
    try:
        return eval(text, {}, _Names(scope))  # the user's own code
    except Exception:  # noqa: BLE001 # whatever it raises, it names no class
        return None

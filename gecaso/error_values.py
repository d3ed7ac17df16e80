"""Errors as values: what ``error_ttl`` stores, and how it is raised anew.

In this process the error itself is kept, without its frames. For another process it becomes its
class's name, its arguments and attributes; only the classes that ``error_ttl`` names, and classes
derived from them, are ever built again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gecaso.failure import faithful_copy

__all__ = ["bare_copy", "packed_error", "revived_error", "ttl_of_error"]


def ttl_of_error(error: BaseException, ttls: Mapping[type[Exception], float]) -> float | None:
    """Return for how many seconds to keep ``error``: by the nearest of its classes, or None."""
    for cls in type(error).__mro__:
        if cls in ttls:
            return ttls[cls]
    return None


def bare_copy(error: BaseException) -> BaseException:
    """Return a copy without frames, cause or context: nothing of the load that raised it."""
    other = faithful_copy(error)
    if other is error:
        return error.with_traceback(None)
    other.__cause__ = other.__context__ = None
    return other.with_traceback(None)


def packed_error(error: BaseException) -> list[Any]:
    """Return what can be packed of an error: name, arguments, attributes."""
    state = {name: value for name, value in vars(error).items() if name != "__notes__"}
    return [_name(type(error)), list(error.args), state]


def revived_error(stored: Any, kinds: Iterable[type[Exception]]) -> BaseException | None:
    """Return a new error like the one stored; None if it is of none of these ``kinds``."""
    if isinstance(stored, BaseException):
        return bare_copy(stored)
    if not _is(stored, list) or len(stored) != 3:
        return None
    name, args, state = stored
    if not (_is(args, list) and _is(state, dict)):
        return None
    for cls in _with_subclasses(kinds):
        if _name(cls) == name:
            error: BaseException = cls.__new__(cls, *args)
            error.args = tuple(args)
            error.__dict__.update(state)
            return error
    return None


def _is(thing: object, kind: type) -> bool:
    return type(thing) is kind


def _with_subclasses(kinds: Iterable[type[Exception]]) -> Iterator[type[Exception]]:
    waiting, seen = list(kinds), set[type[Exception]]()
    while waiting:
        cls = waiting.pop(0)
        if cls not in seen:
            seen.add(cls)
            yield cls
            waiting.extend(cls.__subclasses__())


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"

"""Two functions of one name: refused where they would read each other's entries."""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, CodeType, FunctionType
from typing import Any, Final
from weakref import WeakSet

from gecaso.errors import AmbiguousFunction, UnkeyableArgument
from gecaso.keys.canonical import encode
from gecaso.keys.owners import Owner
from gecaso.weak import WeakTable

__all__ = ["check_ambiguous"]

_functions: WeakTable[object, dict[str, WeakSet[Any]]] = WeakTable()


def check_ambiguous(function: Callable[..., Any], owner: Owner, storage: object) -> None:
    """Refuse ``function`` on a shared ``storage`` where another one has entries of its name.

    Raises `AmbiguousFunction` for a lambda, and for a second live function of the same name with
    other code, defaults or closure values; `UnkeyableArgument` for a function without a name.
    """
    if getattr(function, "__name__", "") == "<lambda>":
        raise AmbiguousFunction(
            f"{owner.text} is a lambda, and so are others of the same name: on a shared storage "
            f"they would read each other's entries. {_REMEDIES}"
        )
    same_name = _functions.get(storage, dict[str, WeakSet[Any]]).setdefault(owner.text, WeakSet())
    for other in list(same_name):
        if not _same_function(other, function, set()):
            raise AmbiguousFunction(
                f"{owner.text} is the name of two functions on one shared storage, with other "
                f"code, defaults or closure values: they would read each other's entries. "
                f"{_REMEDIES}"
            )
    same_name.add(function)


_REMEDIES: Final = "Give it its own name with key= or namespace=."


def _same_function(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    # A cached function in a closure is compared by what it caches.
    one, other = getattr(one, "uncached", one), getattr(other, "uncached", other)
    if one is other or (id(one), id(other)) in seen:
        return True
    if not (isinstance(one, FunctionType) and isinstance(other, FunctionType)):
        return False
    seen.add((id(one), id(other)))
    cells = zip(one.__closure__ or (), other.__closure__ or (), strict=False)
    return (
        _does(one.__code__) == _does(other.__code__)
        and _same_value(one.__defaults__, other.__defaults__, seen)
        and _same_value(one.__kwdefaults__, other.__kwdefaults__, seen)
        and all(_same_cell(mine, yours, seen) for mine, yours in cells)
    )


def _does(code: CodeType) -> tuple[object, ...]:
    """Return what ``code`` does, wherever it was written: no file, no line."""
    constants = [_does(c) if isinstance(c, CodeType) else encode(c) for c in code.co_consts]
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return (code.co_code, code.co_exceptiontable, constants, names, counts)


def _same_cell(one: CellType, other: CellType, seen: set[tuple[int, int]]) -> bool:
    try:
        return _same_value(one.cell_contents, other.cell_contents, seen)
    except ValueError:  # one is empty as yet: the function's own name, in a factory
        return True


def _same_value(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if one is other:
        return True
    if isinstance(one, FunctionType):
        return _same_function(one, other, seen)
    try:
        return encode(one) == encode(other)
    except UnkeyableArgument:  # nothing is known of them but that they are two
        return False

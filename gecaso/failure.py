"""One failure, many callers: each raises an exception of its own.

An exception that several callers raise collects the frames of all of them, and what one of them
adds (a note, a cause) shows up in the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import FunctionType
from typing import Any

__all__ = ["faithful_copy"]


def faithful_copy(error: BaseException) -> BaseException:
    """Return an exception like ``error``: type, arguments, attributes, cause, notes, traceback.

    Its own ``__init__`` is not run again: it may take other arguments than it passed on. What
    cannot be copied is returned as it is.
    """
    try:
        other = _copy(error)
    except Exception:  # noqa: BLE001 - somebody's class may refuse in any way
        return error
    if type(other) is not type(error) or other.args != error.args:
        return error
    if hasattr(error, "__notes__"):
        other.__notes__ = list(error.__notes__)  # a note on one is no note on the other
    other.__cause__ = error.__cause__
    other.__context__ = error.__context__
    other.__suppress_context__ = error.__suppress_context__
    return other.with_traceback(error.__traceback__)


def _copy(error: BaseException) -> BaseException:
    cls: Any = type(error)
    if not isinstance(cls.__init__, FunctionType):
        return copy.copy(error)
    other: BaseException = cls.__new__(cls, *error.args)
    _builtin_init(cls)(other, *error.args)
    other.__dict__.update(error.__dict__)
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(error, name):
                setattr(other, name, getattr(error, name))
    return other


def _builtin_init(cls: Any) -> Callable[..., None]:
    inits: list[Any] = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
    first: Callable[..., None] = next(i for i in inits if not isinstance(i, FunctionType))
    return first

"""How large a memory should be: from what was asked for, to the hit ratio of every size.

``python -m gecaso advise trace.bin``; the same from Python:

>>> from gecaso.advice import advise, trace_of
>>> advise(trace_of("abcabcabc"), sizes=[1, 2, 3]).knee.size
3

A storage that is recorded imports `gecaso.advice.recording`, and nothing else of this: the names
here are imported at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reading import Trace, read, trace_of
    from .report import Advice, advise

__all__ = ["Advice", "Trace", "advise", "read", "trace_of"]

_MODULES = {
    "Advice": "report",
    "Trace": "reading",
    "advise": "report",
    "read": "reading",
    "trace_of": "reading",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

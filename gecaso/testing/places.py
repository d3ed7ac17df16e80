"""Where in the user's code a task waits, and where a function stands."""

from __future__ import annotations

import functools
import sysconfig
from asyncio import Task
from pathlib import Path
from types import CodeType
from typing import Any

__all__ = ["Place", "function_place", "task_place"]

Place = tuple[str, int]
"""File and line."""

STDLIB = sysconfig.get_paths()["stdlib"]
OWN = str(Path(__file__).parent)


def task_place(task: Task[Any]) -> Place | None:
    """Return where a task waits: its innermost frame that is not of a library for waiting."""
    coroutine: Any = task.get_coro()
    place = None
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            frame = getattr(coroutine, "ag_frame", None)
        if frame is None:
            break
        if _is_shown(frame.f_code) or place is None:
            place = (frame.f_code.co_filename, frame.f_lineno)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return place


def function_place(callback: Any) -> tuple[Place | None, str]:
    """Return file and line of a function, if it is to be shown, and its name."""
    while isinstance(callback, functools.partial):
        is_context = getattr(callback.func, "__name__", "") == "run" and callback.args
        callback = callback.args[0] if is_context else callback.func  # asyncio.to_thread
    function = getattr(callback, "__func__", callback)
    qualified: str = getattr(function, "__qualname__", type(function).__name__)
    name = qualified.rpartition("<locals>.")[2]
    code = getattr(function, "__code__", None)
    if code is None or not _is_shown(code):
        return None, name
    return (code.co_filename, code.co_firstlineno), f"{name}()"


def _is_shown(code: CodeType) -> bool:
    path = code.co_filename
    in_stdlib = path.startswith(STDLIB) and "site-packages" not in path
    return not (in_stdlib or path.startswith(OWN) or "/anyio/" in path)

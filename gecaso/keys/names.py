"""The names of modules, classes and functions, as other processes know them."""

from __future__ import annotations

import os.path
import sys
from typing import Any

__all__ = ["is_importable", "module_name", "qualified_name"]

_MAIN = ("__main__", "__mp_main__")


def module_name(name: str) -> str:
    """Return the name under which other processes know the module called ``name`` here.

    ``__main__`` and ``__mp_main__`` become what was run: the module of ``python -m module``, or
    the stem of the script's file name.
    """
    if name not in _MAIN:
        return name
    main = sys.modules.get(name) or sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in _MAIN:
        # `python -m package` runs the module package.__main__.
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"


def qualified_name(thing: Any) -> str:
    """Return ``module:qualname`` of a class or function."""
    return f"{module_name(thing.__module__)}:{thing.__qualname__}"


def is_importable(thing: Any) -> bool:
    """Return whether a module has this very object under the name that it gives itself."""
    if thing is type(None):  # no module has it by this name, but there is only one
        return True
    module = getattr(thing, "__module__", None)
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    for step in str(getattr(thing, "__qualname__", "")).split("."):
        found = getattr(found, step, None)
    return found is thing

"""Patches under which a part of a model is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["Patch", "Wrong", "method_that"]

Patch = Callable[[pytest.MonkeyPatch], object]
Wrong = Callable[[Callable[..., Any], tuple[Any, ...]], Any]


def method_that(owner: type, name: str, wrong: Wrong) -> Patch:
    """Return a patch under which ``wrong(right, arguments)`` is in the place of a method."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right: Callable[..., Any] = getattr(owner, name)

        def method(*args: Any) -> Any:
            return wrong(right, args)

        monkeypatch.setattr(owner, name, method)

    return patch

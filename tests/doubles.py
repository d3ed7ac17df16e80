"""What tests put in the place of time, storages and user functions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from gecaso import BaseStorage
from gecaso.testing import FakeClock

__all__ = [
    "DictStorage",
    "FakeClock",
    "Loads",
    "OnlyValues",
    "asyncio_iscoroutinefunction",
    "in_thread",
    "portal_threads",
]

T = TypeVar("T")


class OnlyValues(BaseStorage):
    """Values in a dict; `set` is for a subclass."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.sets: list[tuple[Any, Any, dict[str, Any]]] = []
        self.threads: set[threading.Thread] = set()

    async def get(self, key: Any) -> Any:
        self.threads.add(threading.current_thread())
        return self.values[key]

    async def remove(self, *keys: Any) -> None:
        for key in keys:
            self.values.pop(key, None)


class DictStorage(OnlyValues):
    """Three methods over a dict, as a user writes them; remembers its calls."""

    async def set(self, key: Any, value: Any, *, ttl: float | None = None) -> None:
        self.sets.append((key, value, {} if ttl is None else {"ttl": ttl}))
        self.values[key] = value


class Loads:
    """Counts what a function loads: ``loads(x)`` notes ``x`` and returns it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, value: T) -> T:
        self.seen.append(value)
        return value

    def __len__(self) -> int:
        return len(self.seen)


def in_thread(function: Callable[[], Any], *, timeout: float = 20.0) -> Any:
    """Run a function in a thread of its own; return its result or raise its error."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    assert outcome, "the thread hangs"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def portal_threads() -> list[threading.Thread]:
    """Return the background threads of gecaso that run."""
    return [one for one in threading.enumerate() if one.name in ("gecaso", "gecaso futures")]


# Deprecated as of Python 3.14, and still what frameworks ask.
asyncio_iscoroutinefunction: Callable[[object], bool] = getattr(asyncio, "iscoroutinefunction")  # noqa: B009 - deprecated

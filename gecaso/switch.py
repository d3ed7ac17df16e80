"""Switching all caching off: for a test, a debugging session, an emergency."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator

__all__ = ["disabled", "is_off", "on_change"]

VARIABLE = "GECASO_DISABLE"
NO = ("", "0", "false", "no")


class _Switch:
    """How often caching has been switched off and not on again."""

    def __init__(self) -> None:
        self.watchers: list[Callable[[], None]] = []
        self.lock = threading.Lock()
        self.times = int(os.environ.get(VARIABLE, "").lower() not in NO)

    def turn(self, by: int) -> None:
        with self.lock:
            before, self.times = self.times, self.times + by
            changed = bool(before) != bool(self.times)
        if changed:
            for watcher in self.watchers:
                watcher()


_switch = _Switch()


def is_off() -> bool:
    """Return whether functions are called uncached."""
    return _switch.times > 0


@contextlib.contextmanager
def disabled() -> Generator[None, None, None]:
    """Call every cached function of this process uncached inside the ``with`` block.

    What the functions' operations write and invalidate still reaches the storages, so that what is
    stored is right when caching is on again. The environment variable ``GECASO_DISABLE=1`` does the
    same for a whole process.

    >>> import gecaso
    >>> @gecaso.cached
    ... def number() -> list[int]:
    ...     return [1]
    >>> number() is number()
    True
    >>> with gecaso.disabled():
    ...     number() is number()
    False
    """
    _switch.turn(1)
    try:
        yield
    finally:
        _switch.turn(-1)


def on_change(watcher: Callable[[], None]) -> None:
    """Call ``watcher()`` whenever caching is switched off or on."""
    _switch.watchers.append(watcher)


def _after_fork_in_child() -> None:
    _switch.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)

"""What happened: one frozen record per event, handed to hooks, and counted.

Hooks are functions of one event. They are called where the event happens, so they must be quick
and must not raise; an error in a hook is logged and goes no further. With no hook nothing is made
and nothing is called: a function's path of a hit does not even look.

>>> from gecaso.events import Corrupt
>>> seen = []
>>> with listening(seen.append):
...     emit(Corrupt(storage=None, key="user:7", reason="damaged"))
>>> seen[0].reason
'damaged'
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Generator
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gecaso.event_kinds import (
        Commit,
        Corrupt,
        Evicted,
        Fenced,
        Hit,
        Invalidated,
        Load,
        LostLease,
        Miss,
        RefreshFailed,
        Stale,
        StorageFailed,
        Uncacheable,
    )

__all__ = [
    "Commit",
    "Corrupt",
    "Event",
    "Evicted",
    "Fenced",
    "Hit",
    "Hook",
    "Invalidated",
    "Load",
    "LostLease",
    "Miss",
    "RefreshFailed",
    "Stale",
    "StorageFailed",
    "Uncacheable",
    "active",
    "changed",
    "emit",
    "hooks",
    "listening",
    "on_change",
    "subscribe",
    "tell",
]

logger = logging.getLogger("gecaso")


class Event:
    """The root of all events: the storage it happened on, and the key (None: not of one key)."""

    __slots__ = ()

    storage: Any
    key: Any


Hook = Callable[[Event], object]

_lock = threading.Lock()
hooks: tuple[Hook, ...] = ()
"""Those who listen. Look whether there are any before making a record."""
_watchers: list[Callable[[], None]] = []


def active() -> bool:
    """Return whether anybody listens; ask before making a record."""
    return bool(hooks)


def emit(event: Event) -> None:
    """Hand the event to every hook."""
    for hook in hooks:
        tell(hook, event)


def tell(hook: Hook, event: Event) -> None:
    """Hand the event to one hook."""
    try:
        hook(event)
    except Exception:  # a listener must not hurt who it listens to
        logger.exception("a hook failed on %r", event)


def subscribe(hook: Hook) -> Callable[[], None]:
    """Call ``hook(event)`` on every event from now on; return a function that ends that."""
    _change(lambda before: (*before, hook))

    def unsubscribe() -> None:
        _change(lambda before: tuple(other for other in before if other is not hook))

    return unsubscribe


@contextlib.contextmanager
def listening(hook: Hook) -> Generator[None, None, None]:
    """Call ``hook(event)`` on every event inside the ``with`` block."""
    unsubscribe = subscribe(hook)
    try:
        yield
    finally:
        unsubscribe()


def on_change(watcher: Callable[[], None]) -> None:
    """Call ``watcher()`` whenever the first hook comes or the last one goes."""
    _watchers.append(watcher)


def changed() -> None:
    """Have every function look again who listens, and whether it is recorded."""
    for watcher in _watchers:
        watcher()


def _change(edit: Callable[[tuple[Hook, ...]], tuple[Hook, ...]]) -> None:
    global hooks
    with _lock:
        before, hooks = hooks, edit(hooks)
        is_other = bool(before) != bool(hooks)
    if is_other:
        changed()


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module("gecaso.event_kinds"), name)
    return value


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)

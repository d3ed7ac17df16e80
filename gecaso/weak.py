"""Weak registries by identity: storages may compare equal, or not be hashable at all."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["WeakBag", "WeakTable"]

K = TypeVar("K")
V = TypeVar("V")


class WeakTable(Generic[K, V]):
    """One value per object, for as long as the object lives."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._rows: dict[int, tuple[weakref.ref[K], V]] = {}
        _tables.add(self)

    def get(self, thing: K, make: Callable[[], V]) -> V:
        """Return the value of ``thing``; make it if there is none."""
        number = id(thing)
        with self._lock:
            row = self._rows.get(number)
            if row is None or row[0]() is not thing:

                def forget(reference: weakref.ref[K]) -> None:
                    # By now the number may be that of another object.
                    if (found := self._rows.get(number)) is not None and found[0] is reference:
                        del self._rows[number]

                row = self._rows[number] = (weakref.ref(thing, forget), make())
            return row[1]

    def values(self) -> list[V]:
        return [value for _, value in tuple(self._rows.values())]

    def unlock(self) -> None:
        """Remake the lock in a forked child, where its owner may be gone."""
        self._lock = threading.RLock()


class WeakBag(Generic[K]):
    """Objects, as long as they live; may be added to while it is gone through."""

    def __init__(self) -> None:
        self._references: list[weakref.ref[K]] = []

    def add(self, thing: K) -> None:
        # One assignment, so that a thread that goes through it sees the one list or the other.
        alive = [one for one in tuple(self._references) if one() is not None]
        self._references = [*alive, weakref.ref(thing)]

    def __iter__(self) -> Iterator[K]:
        for reference in self._references:
            if (thing := reference()) is not None:
                yield thing


_tables: weakref.WeakSet[WeakTable[Any, Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for table in list(_tables):
        table.unlock()


os.register_at_fork(after_in_child=_after_fork_in_child)

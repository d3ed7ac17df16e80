"""The record of one operation on a cache."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Literal

__all__ = ["EVERY_KEY", "NOTHING", "Kind", "Operation", "Outcome"]

Kind = Literal["initial", "read", "load", "put", "change", "invalidate"]
Outcome = Literal["running", "done", "failed"]


class _Mark:
    """A value that no cache holds."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


NOTHING: Final = _Mark("NOTHING")
"""The value of an operation that has none."""
EVERY_KEY: Final = _Mark("EVERY_KEY")
"""The key of an invalidation of all keys."""


@dataclass(slots=True, eq=False)
class Operation:
    """One operation on one key. Compared by identity.

    ``begin`` and ``end`` are instants of one order that all operations share; ``end`` is infinity
    while it runs. ``value`` is what a read or load returned, or what a put or change wrote;
    ``error`` is what it raised. ``outcome`` is "failed" if it raised or was cancelled: a put,
    change or invalidation may then have been applied or not. ``actor`` is who did it.
    """

    kind: Kind
    key: Hashable
    begin: float
    end: float = inf
    outcome: Outcome = "done"
    value: Any = NOTHING
    error: BaseException | None = None
    actor: str = ""
    is_miss: bool = False

    def returns(self, value: Any) -> None:
        """Note what a read or load has come to."""
        self.value = value

    def misses(self) -> None:
        """Note that a read has found nothing, which a cache is always free to do."""
        self.is_miss = True

    @property
    def has_answer(self) -> bool:
        """Whether it is known what a read or load has come to."""
        return self.value is not NOTHING or self.is_miss

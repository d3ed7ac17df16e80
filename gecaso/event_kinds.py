"""The kinds of events, see `gecaso.events`.

A module of its own: making so many records takes time at import, and most programs never listen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from gecaso.events import Event

__all__ = [
    "Commit",
    "Corrupt",
    "Evicted",
    "Fenced",
    "Hit",
    "Invalidated",
    "Load",
    "LostLease",
    "Miss",
    "RefreshFailed",
    "Stale",
    "StorageFailed",
    "Uncacheable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event(Event):
    storage: Any
    key: Any = None


Reason = Literal["size", "expired", "replaced", "removed", "cleared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted(_Event):
    """A value left a storage in memory.

    ``reason`` is ``"size"`` (for room), ``"expired"`` (it was dead), ``"replaced"`` (by another
    value under the key), ``"removed"`` or ``"cleared"``. ``weight`` is what it weighed in bytes, 0
    if the storage weighs nothing.
    """

    reason: Reason
    value: Any
    weight: int = 0


class Hit(_Event):
    """A fresh value was found in the storage."""


class Miss(_Event):
    """No fresh value was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(_Event):
    """The user's function ran for ``seconds``; ``error`` is what it raised, or None."""

    seconds: float
    error: BaseException | None = None


class Commit(_Event):
    """The value of a load was stored."""


class Fenced(_Event):
    """The value of a load was not stored: the key was invalidated, put or leased anew."""


class LostLease(_Event):
    """A load took so long, or its process was so busy, that its lease was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale(_Event):
    """An old value was served; ``reason`` says why."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshFailed(_Event):
    """A load in the background failed; the old value stays."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncacheable(_Event):
    """A result was returned and not stored; ``reason`` says why."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrupt(_Event):
    """Damaged, foreign, unsigned or wrongly signed data was read, and taken for a miss."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFailed(_Event):
    """An operation of a storage failed; the call went on without it."""

    operation: str
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalidated(_Event):
    """Keys were invalidated; ``confirmed`` is False while the storage has not said so."""

    keys: tuple[Any, ...]
    confirmed: bool

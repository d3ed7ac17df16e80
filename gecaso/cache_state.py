"""What a cache is doing: for people, and for what watches a service."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CacheState"]


@dataclass(frozen=True)
class CacheState:
    """What a cache is doing: ``loads`` run, ``waiters`` share them, ``background`` have no caller.

    ``pending`` are the keys whose invalidation the storage has not confirmed yet.
    """

    loads: int
    waiters: int
    background: int
    pending: int

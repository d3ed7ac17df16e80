"""What a storage in memory tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["StorageInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageInfo:
    """What is in a storage in memory, and what became of the rest.

    ``weight`` and ``maxbytes`` are bytes; without ``maxbytes`` nothing is weighed. ``policy`` names
    the one that chooses who leaves, None where nothing is bounded; ``window`` is the part of the
    room, from 0 to 1, that ``"tinylfu"`` keeps for the newest. ``hits`` and ``misses`` are lookups:
    those that came to the storage, and the hits of the functions that use it now. ``evictions``
    counts who left, by reason: ``size``, ``expired``, ``replaced``, ``removed``, ``cleared``.
    """

    entries: int
    weight: int
    maxsize: int | None
    maxbytes: int | None
    policy: str | None
    window: float | None
    hits: int
    misses: int
    evictions: Mapping[str, int]

    @property
    def hit_ratio(self) -> float | None:
        """Hits as a part of all lookups, from 0 to 1; None if there were none."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else None

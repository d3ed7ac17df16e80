"""How much room a storage in memory has, what is taken, and who leaves for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gecaso.entry import Entry
from gecaso.errors import ValueTooLarge

from ._place import Place
from ._recency import check_bound
from ._weight import weigh as estimate

if TYPE_CHECKING:
    from ._eviction import EvictionPolicy

__all__ = ["REASONS", "Room"]

REASONS = ("size", "expired", "replaced", "removed", "cleared")


class Room:
    """The bounds of one storage, and what is within them. Not safe without the storage's lock."""

    __slots__ = ("_weigh", "count", "evictions", "maxbytes", "maxsize", "policy", "weight")

    def __init__(
        self,
        maxsize: int | None,
        maxbytes: int | None,
        weigh: Callable[[Any], int] | None,
        policy: object,
    ) -> None:
        self.maxsize = check_bound(maxsize, "maxsize")
        self.maxbytes = check_bound(maxbytes, "maxbytes")
        if weigh is not None and maxbytes is None:
            raise ValueError("weigh= says what a value weighs: give maxbytes= to bound that")
        if weigh is not None and not callable(weigh):  # pyright: ignore[reportUnnecessaryComparison] - users may not check types
            raise TypeError(f"weigh must be a function of a value, not {weigh!r}")
        self._weigh: Callable[[Any], int] = estimate if weigh is None else weigh
        self.policy = self._make_policy(policy)
        self.count = 0
        self.weight = 0
        self.evictions: dict[str, int] = dict.fromkeys(REASONS, 0)

    def _make_policy(self, policy: object) -> EvictionPolicy | None:
        if self.maxsize is self.maxbytes is None and policy == "tinylfu":
            return None  # and nothing to import
        from ._eviction import make_policy

        return make_policy(policy, self.maxsize, self.maxbytes)

    def weight_of(self, entry: Entry) -> int:
        """Return what an entry weighs. Raises `ValueTooLarge` for what never fits."""
        if self.maxbytes is None or entry.kind == "uncacheable":  # which is a mark, not a value
            return 0
        # What the user weighs are values; an error that is kept is none.
        weight: Any = (self._weigh if entry.kind == "value" else estimate)(entry.value)
        if not isinstance(weight, int) or weight < 0:
            raise TypeError(f"weigh= must return a number of bytes, a whole one, not {weight!r}")
        if weight > self.maxbytes:
            raise ValueTooLarge(
                f"the value takes about {weight} bytes, the storage has maxbytes={self.maxbytes}",
                size=weight,
                limit=self.maxbytes,
            )
        return weight

    def estimate(self, entry: Entry) -> int | None:
        """Return what a value weighs, bounded or not; None where that cannot be said."""
        try:
            return max(0, int(self._weigh(entry.value)))
        except Exception:  # noqa: BLE001 - a value that cannot be weighed is recorded without
            return None

    def lacks(self, weight: int) -> bool:
        """Return whether somebody has to leave for one of that weight."""
        return (self.maxsize is not None and self.count >= self.maxsize) or (
            self.maxbytes is not None and self.weight + weight > self.maxbytes
        )

    def victim(self) -> Place:
        """Return who leaves, as the policy wants it."""
        assert self.policy is not None
        victim = self.policy.victim()
        if not isinstance(victim, Place) or victim.entry is None:
            raise RuntimeError(
                f"{self.policy!r} gave {victim!r} as a victim; victim() must return an item that "
                "it was given by insert() and that has not left since"
            )
        return victim

"""The trouble of a storage as this process sees it: state alone, which `gecaso.guard` acts on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gecaso.breaker import Breaker
from gecaso.weak import WeakTable

if TYPE_CHECKING:
    from gecaso.base import EntryStorage
    from gecaso.keys import Key

__all__ = ["Mark", "Trouble", "trouble_of"]


class Mark:
    """One failed invalidation of a key. A put that failed may yet arrive, after a removal even."""

    __slots__ = ("may_arrive_late",)

    def __init__(self, *, may_arrive_late: bool) -> None:
        self.may_arrive_late = may_arrive_late


class Trouble:
    """The breaker, the invalidations that are not confirmed, and what last went wrong."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.pending: dict[Key, Mark] = {}
        self.last_error: str | None = None

    def __repr__(self) -> str:
        return f"<Trouble: {self.breaker!r}, {len(self.pending)} invalidations pending>"


_troubles: WeakTable[EntryStorage, Trouble] = WeakTable()


def trouble_of(storage: EntryStorage) -> Trouble:
    """Return the trouble of a storage in this process; one, however many caches are over it."""
    return _troubles.get(storage.guarded, Trouble)

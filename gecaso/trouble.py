"""The trouble of a storage as this process sees it, and who is told: `gecaso.guard` acts on it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gecaso import events
from gecaso.breaker import Breaker

if TYPE_CHECKING:
    from gecaso.base import EntryStorage
    from gecaso.errors import StorageError
    from gecaso.keys import Key

__all__ = ["Mark", "Trouble", "trouble_of"]

logger = logging.getLogger("gecaso")


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

    def failed(
        self,
        storage: EntryStorage | None,
        operation: str,
        error: StorageError,
        key: Key | None = None,
    ) -> None:
        """An operation of the storage has failed.

        Trouble of a part is that part's own: what the storage has elsewhere is used as before.
        """
        was_open = self.breaker.is_open
        self.last_error = str(error)
        if error.part is None:
            self.breaker.failed()
        if self.breaker.is_open and not was_open:
            logger.warning("%r is left alone for a while: %s", storage, error)
        if events.hooks:
            events.emit(
                events.StorageFailed(storage=storage, key=key, operation=operation, error=error)
            )

    def succeeded(self, storage: EntryStorage) -> None:
        """The storage has answered somebody who asks it whatever the breaker says."""
        if self.breaker.is_open:
            logger.info("%r is back", storage)
        self.breaker.succeeded()


def trouble_of(storage: EntryStorage) -> Trouble:
    """Return the trouble of a storage in this process; one, however many caches are over it."""
    guarded = storage.guarded
    if guarded.known_trouble is None:
        vars(guarded).setdefault("known_trouble", Trouble())  # two threads make one
    assert guarded.known_trouble is not None
    return guarded.known_trouble

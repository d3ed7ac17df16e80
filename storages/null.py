"""A storage that keeps nothing."""

from __future__ import annotations

from gecaso.entry import Entry
from gecaso.keys import Key, Owner
from gecaso.storage import LocalStorage, Partition

__all__ = ["NullStorage"]


class NullStorage(LocalStorage):
    """Keeps nothing: every call loads, though callers at the same time still share one load.

    >>> import asyncio
    >>> async def main() -> None:
    ...     storage = NullStorage()
    ...     await storage.set("answer", 42)
    ...     await storage.get("answer")
    >>> asyncio.run(main())
    Traceback (most recent call last):
    KeyError: 'answer'
    """

    def __repr__(self) -> str:
        return f"<NullStorage: {len(self.leases)} leases>"

    def partition(self, owner: Owner) -> Partition:
        return Partition({})

    def read(self, key: Key) -> Entry | None:
        return None

    def write(self, key: Key, entry: Entry) -> None:
        return None

    def erase(self, key: Key) -> None:
        return None

    def erase_all(self, owner: Owner | None) -> None:
        return None

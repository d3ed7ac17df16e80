"""What storages are: the contracts, and the way from a user's three methods to one of them."""

from __future__ import annotations

from gecaso.base import BaseStorage, EntryStorage
from gecaso.local import LocalStorage, Partition

__all__ = ["BaseStorage", "EntryStorage", "LocalStorage", "Partition", "adapt"]


def adapt(storage: object) -> EntryStorage:
    """Return the entry storage behind a storage of any kind.

    Raises `TypeError` for what is no storage.
    """
    if isinstance(storage, EntryStorage):
        return storage
    if not isinstance(storage, BaseStorage):
        raise TypeError(
            f"{storage!r} is no storage; give an instance of a subclass of gecaso.BaseStorage, "
            "such as gecaso.MemoryStorage()"
        )
    from gecaso.adapted import adapter_of  # storages of gecaso's own do without

    return adapter_of(storage)

"""What storages are: the contracts, and the way from a user's three methods to one of them."""

from __future__ import annotations

from gecaso.adapted import adapt
from gecaso.base import BaseStorage, EntryStorage
from gecaso.local import LocalStorage, Partition

__all__ = ["BaseStorage", "EntryStorage", "LocalStorage", "Partition", "adapt"]

"""Caching for asyncio and plain Python: one load per key, no stale value after an invalidation."""

from gecaso.cache import MISSING, Cache
from gecaso.decorator import cached
from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import (
    AmbiguousFunction,
    ConfigurationError,
    GecasoError,
    InvalidationFailed,
    PackError,
    RecursiveLoad,
    StorageError,
    StorageTimeout,
    UnkeyableArgument,
    UnknownOption,
    UnpackError,
    Unsupported,
    ValueTooLarge,
    WaitTimeout,
)
from gecaso.functions import CacheInfo, Stats
from gecaso.keys import Key
from gecaso.packing import Packer, pack, unpack
from gecaso.storage import BaseStorage, EntryStorage, LocalStorage
from gecaso.storages import LRUStorage, MemoryStorage, NullStorage

__all__ = [
    "MISSING",
    "AmbiguousFunction",
    "BaseStorage",
    "Busy",
    "Cache",
    "CacheInfo",
    "ConfigurationError",
    "Entry",
    "EntryStorage",
    "GecasoError",
    "InvalidationFailed",
    "Key",
    "LRUStorage",
    "Lease",
    "LocalStorage",
    "MemoryStorage",
    "NullStorage",
    "PackError",
    "Packer",
    "RecursiveLoad",
    "Stats",
    "StorageError",
    "StorageTimeout",
    "UnkeyableArgument",
    "UnknownOption",
    "UnpackError",
    "Unsupported",
    "ValueTooLarge",
    "WaitTimeout",
    "cached",
    "pack",
    "unpack",
]

"""Caching for asyncio and plain Python: one load per key, no stale value after an invalidation."""

import importlib
import typing

from gecaso.cache import MISSING, Cache, functions
from gecaso.calls import CacheInfo, Stats
from gecaso.current import CurrentLoad, current_load
from gecaso.decorator import cached
from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import (
    AmbiguousFunction,
    ConfigurationError,
    GecasoError,
    InvalidationFailed,
    LoadFailed,
    LoadTimeout,
    Overloaded,
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
from gecaso.freshness import XFetch
from gecaso.keys import Key
from gecaso.storage import BaseStorage, EntryStorage, LocalStorage
from gecaso.storages import LRUStorage, MemoryStorage, NullStorage
from gecaso.switch import disabled

if typing.TYPE_CHECKING:
    from gecaso.cache_state import CacheState
    from gecaso.config import register_storage, storage_from_url
    from gecaso.explain import Explanation
    from gecaso.health import Health
    from gecaso.packing import Packer, pack, unpack

__all__ = [
    "MISSING",
    "AmbiguousFunction",
    "BaseStorage",
    "Busy",
    "Cache",
    "CacheInfo",
    "CacheState",
    "ConfigurationError",
    "CurrentLoad",
    "Entry",
    "EntryStorage",
    "Explanation",
    "GecasoError",
    "Health",
    "InvalidationFailed",
    "Key",
    "LRUStorage",
    "Lease",
    "LoadFailed",
    "LoadTimeout",
    "LocalStorage",
    "MemoryStorage",
    "NullStorage",
    "Overloaded",
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
    "XFetch",
    "cached",
    "current_load",
    "disabled",
    "functions",
    "pack",
    "register_storage",
    "storage_from_url",
    "unpack",
]

# What knows much of the standard library is imported at its first use.
_LAZY = {
    "CacheState": "gecaso.cache_state",
    "Explanation": "gecaso.explain",
    "Health": "gecaso.health",
    **dict.fromkeys(("Packer", "pack", "unpack"), "gecaso.packing"),
    **dict.fromkeys(("register_storage", "storage_from_url"), "gecaso.config"),
}


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

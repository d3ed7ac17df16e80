"""Where values are kept: one module per kind of storage.

The storages in this process are here at once. The others are imported at their first use, and what
they need with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .lru import LRUStorage
from .memory import MemoryStorage
from .null import NullStorage

if TYPE_CHECKING:
    from ._eviction import Evictable, EvictionPolicy
    from ._info import StorageInfo
    from .memcached import MemcachedStorage
    from .postgres import PostgresStorage
    from .redis import RedisStorage
    from .sqlite import SQLiteStorage

__all__ = [
    "Evictable",
    "EvictionPolicy",
    "LRUStorage",
    "MemcachedStorage",
    "MemoryStorage",
    "NullStorage",
    "PostgresStorage",
    "RedisStorage",
    "SQLiteStorage",
    "StorageInfo",
]

_LAZY = {
    "Evictable": "_eviction",
    "EvictionPolicy": "_eviction",
    "MemcachedStorage": "memcached",
    "PostgresStorage": "postgres",
    "RedisStorage": "redis",
    "SQLiteStorage": "sqlite",
    "StorageInfo": "_info",
}


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value: object = getattr(import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs {error.name}: pip install gecaso[{module}]", name=error.name
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

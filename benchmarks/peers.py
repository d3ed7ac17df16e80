"""The other libraries that have no types, or only some: whatever they return is `Any`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["aiocache", "cachebox", "cachetools", "cashews_key", "diskcache"]

aiocache: Any = import_module("aiocache")
cachebox: Any = import_module("cachebox")
cachetools: Any = import_module("cachetools")
cashews_key: Any = import_module("cashews.key")
diskcache: Any = import_module("diskcache")

"""Storages of three methods, as users write them."""

from __future__ import annotations

import time
from typing import Any

from gecaso import BaseStorage, pack, unpack

__all__ = ["DictStorage", "PackingStorage"]


class DictStorage(BaseStorage):
    """As they were written for 0.4: whatever is given arrives in ``params``."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[float, Any]] = {}

    async def get(self, key: str) -> Any:
        until, value = self.values[key]
        if time.monotonic() >= until:
            raise KeyError(key)
        return value

    async def set(self, key: str, value: Any, **params: Any) -> None:
        self.values[key] = (time.monotonic() + params.get("ttl", 1e9), value)

    async def remove(self, *keys: str) -> None:
        for key in keys:
            self.values.pop(key, None)


class PackingStorage(BaseStorage):
    """Packs, and knows no ttl."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> Any:
        return unpack(self.values[key])[0]

    async def set(self, key: str, value: Any) -> None:
        self.values[key] = pack(value)

    async def remove(self, *keys: str) -> None:
        for key in keys:
            self.values.pop(key, None)

    async def clear(self) -> None:
        self.values.clear()

"""What type checkers see of storages, caches and packing."""

from __future__ import annotations

from typing import Any, assert_type

from gecaso import BaseStorage, Cache, LRUStorage, MemoryStorage, cached, pack, unpack


class WithTtl(BaseStorage):
    async def get(self, key: str) -> bytes:
        raise NotImplementedError

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        raise NotImplementedError

    async def remove(self, *keys: str) -> None:
        raise NotImplementedError


class WithParams(BaseStorage):
    async def get(self, key: object) -> object:
        raise NotImplementedError

    async def set(self, key: object, value: object, **params: object) -> None:
        raise NotImplementedError

    async def remove(self, *keys: object) -> None:
        raise NotImplementedError


class WithoutParams(BaseStorage):
    async def get(self, key: Any) -> Any:
        raise NotImplementedError

    async def set(self, key: Any, value: Any) -> None:
        raise NotImplementedError

    async def remove(self, *keys: Any) -> None:
        raise NotImplementedError


class Incomplete(BaseStorage):
    async def get(self, key: Any) -> Any:
        raise NotImplementedError


class Bounded(LRUStorage):
    """Subclasses of built-in storages are complete."""


def construction() -> None:
    for storage in (WithTtl(), WithParams(), WithoutParams(), Bounded(maxsize=3)):
        cached(storage)
        LRUStorage(storage, maxsize=3)
    Incomplete()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
    MemoryStorage(maxsize="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LRUStorage("redis://")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def values() -> None:
    async with MemoryStorage() as storage:
        assert_type(storage, MemoryStorage)
        await storage.set("a", 1, ttl="5m")
        await storage.set("a", 1, tll=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    async with Cache(name="users", ttl=60) as cache:
        assert_type(cache, Cache)
        await cache.set(("a", 1), 1, ttl=None)
        await cache.remove("a", "b")


async def created(cache: Cache) -> None:
    async def later() -> str:
        raise NotImplementedError

    def at_once() -> int:
        raise NotImplementedError

    assert_type(await cache.get_or_create("a", later), str)
    assert_type(await cache.get_or_create("b", at_once, ttl=5), int)


def packing() -> None:
    assert_type(pack([1], ttl=60), bytes)
    value, params = unpack(b"")
    assert_type(params, dict[str, Any])
    print(value)

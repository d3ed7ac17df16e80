"""Two keys that have one name on the wire: nobody gets the other's value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gecaso import Cache, EntryStorage, Key, Lease, events, storage_from_url
from gecaso.keys import as_key
from gecaso.keys.key import whole_key

KINDS = ("redis", "memcached", "sqlite", "postgres")
SECRET = "at least sixteen bytes"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/cache.db"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def opened(url: str, **options: Any) -> EntryStorage:
    storage = storage_from_url(url, **options)
    assert isinstance(storage, EntryStorage)
    return storage


def colliding() -> tuple[Key, Key]:
    """Return two keys with one text: what 2**64 digests would find."""
    one, other = as_key(("user", 7)), as_key(("user", 8))
    object.__setattr__(one, "_text", "the same")
    object.__setattr__(other, "_text", "the same")
    return one, other


async def test_without_verification_one_would_get_the_others(url: str) -> None:
    mine, others = colliding()
    async with opened(url) as storage:
        await storage.set(others, "others")
        assert await storage.get(mine) == "others"


@pytest.mark.parametrize("options", [{"verify_key": True}, {"secret": SECRET}])
async def test_a_value_of_another_key_is_a_miss(url: str, options: dict[str, Any]) -> None:
    mine, others = colliding()
    seen: list[Any] = []
    async with opened(url, **options) as storage:
        await storage.set(others, "others", ttl=60)
        with events.listening(seen.append), pytest.raises(KeyError):
            await storage.get(mine)
        assert [event.key for event in seen if isinstance(event, events.Corrupt)] == [mine]
        assert await storage.get(others) == "others"
        assert await storage.get_many([mine]) == {}
        got = (await storage.lease([mine], 5))[mine]
        assert isinstance(got, Lease)
        assert got.seen is None or got.seen.dead_after < storage.now()
        assert await storage.commit({got: storage.new_entry("mine", 60)}) == {mine}
        assert await storage.get(mine) == "mine"
        with pytest.raises(KeyError):
            await storage.get(others)


@pytest.mark.parametrize("options", [{"verify_key": True}, {"secret": [SECRET, SECRET * 2]}])
async def test_a_cached_function_works_as_ever(url: str, options: dict[str, Any]) -> None:
    loads: list[int] = []
    cache = Cache(opened(url, **options), ttl=60)

    @cache.cached()
    async def f(i: int) -> int:
        loads.append(i)
        return i

    async with cache:
        assert [await f(1), await f(1), await f(2)] == [1, 1, 2]
        await f.put(5, 1)
        assert await f(1) == 5
        await f.expire(1)
        assert await f(1) == 1
        assert loads == [1, 2, 1]
        assert type(cache.storage).__name__ in repr(cache.storage)


async def test_a_secret_that_is_changed_still_reads_what_the_old_one_proved(url: str) -> None:
    async with opened(url, secret=SECRET) as before:
        await before.set("a", 1, ttl=60)
    async with opened(url, secret=["another of sixteen", SECRET]) as after:
        assert await after.get("a") == 1
    async with opened(url, secret="another of sixteen") as later:
        with pytest.raises(KeyError):
            await later.get("a")


def test_no_two_keys_are_the_same_as_a_whole() -> None:
    def f(i: int) -> None: ...

    cached: Any = Cache().cached()(f)
    keys = [as_key("a"), as_key(("a",)), as_key(1), as_key(True), cached.key(1), cached.key("a")]
    assert len({whole_key(key) for key in keys}) == len(keys)

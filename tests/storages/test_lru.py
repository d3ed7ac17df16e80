"""`LRUStorage` over any storage."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecaso import (
    BaseStorage,
    Entry,
    Lease,
    LRUStorage,
    MemoryStorage,
    NullStorage,
    StorageError,
    cached,
)
from gecaso.keys import Key, as_key
from gecaso.storage import LocalStorage
from tests.doubles import DictStorage, portal_threads
from tests.scenes import Distant, hold


async def settled() -> None:
    """Let evictions in the background run to their end."""
    for _ in range(20):
        await asyncio.sleep(0)


def storages() -> list[Any]:
    return [
        pytest.param(lambda: LRUStorage(maxsize=16), id="memory"),
        pytest.param(lambda: LRUStorage(MemoryStorage(), maxsize=16), id="over memory"),
        pytest.param(lambda: LRUStorage(MemoryStorage(isolate=True), 16), id="over copies"),
        pytest.param(lambda: LRUStorage(LRUStorage(maxsize=99), 16), id="over lru"),
        pytest.param(lambda: LRUStorage(storage=DictStorage(), maxsize=16), id="over dict"),
    ]


@pytest.mark.smoke
@pytest.mark.parametrize("make", storages())
async def test_the_entries_used_last_are_kept(make: Any) -> None:
    storage = make()
    assert isinstance(storage, LRUStorage)

    @cached(storage)
    async def f(x: int) -> int:
        return x

    for x in range(40):
        assert await f(x) == x
        assert await f(0) == 0
    await settled()
    assert len(storage) == 16
    found = await storage.get_many([f.key(x) for x in range(40)])
    assert sorted(found.values()) == [0, *range(25, 40)]
    assert f.stats.loads == 40


@pytest.mark.parametrize("make", [*storages(), pytest.param(LRUStorage, id="default")])
async def test_it_is_a_storage_of_plain_values(make: Any) -> None:
    async with make() as storage:
        await storage.set("a", 1, ttl=60)
        await storage.set("a", 2)
        assert await storage.get("a") == 2
        await storage.set_many({"b": 3, "c": 4})
        assert await storage.get_many("abcd") == {"a": 2, "b": 3, "c": 4}
        await storage.remove("a", "d")
        with pytest.raises(KeyError):
            await storage.get("a")
        assert len(storage) == 2


@pytest.mark.parametrize("make", storages()[:4])
async def test_clearing_leaves_nothing(make: Any) -> None:
    storage = make()
    await storage.set_many({name: name for name in "abc"})
    await storage.clear()
    assert await storage.get_many("abc") == {}
    assert len(storage) == 0


async def test_over_a_null_storage_nothing_is_kept() -> None:
    storage = LRUStorage(NullStorage(), maxsize=2)
    for name in "abc":
        await storage.set(name, name)
        with pytest.raises(KeyError):
            await storage.get(name)

    @cached(storage)
    def f(x: int) -> int:
        return x

    assert [f(1), f(1), f(2), f(3)] == [1, 1, 2, 3]
    assert f.stats.loads == 4


def test_without_a_storage_there_are_128_entries_in_memory() -> None:
    storage = LRUStorage()
    assert storage.maxsize == 128
    assert isinstance(storage, MemoryStorage)
    assert isinstance(LRUStorage(MemoryStorage()), LocalStorage)
    assert not isinstance(LRUStorage(DictStorage()), LocalStorage)
    assert LRUStorage(DictStorage(), maxsize=3).maxsize == 3


@pytest.mark.parametrize("storage", [None, MemoryStorage(), DictStorage()])
def test_the_bound_is_checked(storage: BaseStorage | None) -> None:
    for bound in (0, -1):
        with pytest.raises(ValueError, match="maxsize must be above zero"):
            LRUStorage(storage, bound)
    for wrong in (None, "5", 2.0, True):
        with pytest.raises(TypeError, match="maxsize"):
            LRUStorage(storage, wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - meant to be wrong


def test_what_is_no_storage_is_refused() -> None:
    with pytest.raises(TypeError, match="is no storage"):
        LRUStorage("redis://")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - meant to be wrong


async def test_it_can_be_subclassed() -> None:
    class Named(LRUStorage):
        name = "mine"

    for storage in (Named(maxsize=2), Named(DictStorage(), maxsize=2)):
        for key in "abc":
            await storage.set(key, key)
        await settled()
        assert await storage.get_many("abc") == {"b": "b", "c": "c"}
        assert (storage.name, len(storage)) == ("mine", 2)


def test_the_repr_tells_size_and_bound() -> None:
    assert repr(LRUStorage(maxsize=3)) == "<LRUStorage: 0 of 3 entries, 0 leases>"
    assert repr(LRUStorage(NullStorage(), 3)) == (
        "<LRUStorage: 0 of 3 entries, over <NullStorage: 0 leases>>"
    )


# -- over a three-method storage -----------------------------------------------------------------

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["set", "get", "remove", "vanish"]), st.integers(0, 7)), max_size=30
)


@given(maxsize=st.integers(1, 5), operations=OPERATIONS)
def test_the_bound_is_exact_lru_once_evictions_have_run(
    maxsize: int, operations: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        inner = DictStorage()
        storage = LRUStorage(inner, maxsize)
        model: OrderedDict[int, int] = OrderedDict()
        for operation, x in operations:
            if operation == "set":
                await storage.set(x, x)
                model[x] = x
                model.move_to_end(x)
            elif operation == "get":
                assert await storage.get_many([x]) == ({x: x} if x in model else {})
                if x in model:
                    model.move_to_end(x)
            elif operation == "remove":
                await storage.remove(x)
                model.pop(x, None)
            else:
                inner.values.pop(str(as_key(x)), None)
                with pytest.raises(KeyError):
                    await storage.get(x)
                model.pop(x, None)
            while len(model) > maxsize:
                model.popitem(last=False)
            await settled()
            assert len(storage) == len(model) == len(inner.values) <= maxsize
        await storage.aclose()

    asyncio.run(run())


class Counting(DictStorage):
    """Counts the calls of `remove`, and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.removals: list[int] = []
        self.fails = False

    async def remove(self, *keys: Any) -> None:
        self.removals.append(len(keys))
        if self.fails:
            raise OSError("down")
        await super().remove(*keys)


async def test_evictions_are_batched() -> None:
    inner = Counting()
    storage = LRUStorage(inner, maxsize=10)
    await storage.set_many({number: number for number in range(10)})
    await asyncio.gather(*[storage.set(number, number) for number in range(10, 60)])
    await settled()
    assert len(inner.values) == 10
    assert sum(inner.removals) == 50
    assert len(inner.removals) < 10


async def test_what_could_not_be_evicted_is_evicted_later(caplog: pytest.LogCaptureFixture) -> None:
    inner = Counting()
    storage = LRUStorage(inner, maxsize=1)
    inner.fails = True
    await storage.set("a", 1)
    await storage.set("b", 1)
    await settled()
    assert "over the bound" in caplog.text
    assert len(inner.values) == 2
    inner.fails = False
    await storage.set("c", 1)
    await settled()
    assert len(inner.values) == 1


async def test_an_eviction_is_no_invalidation() -> None:
    storage = LRUStorage(MemoryStorage(), maxsize=1)
    key = as_key("leased")
    await storage.set("leased", "old")
    lease = (await storage.lease([key], 10))[key]
    assert isinstance(lease, Lease)
    await storage.set("other", 1)
    assert await storage.get_many(["leased"]) == {}
    assert await storage.commit({lease: Entry("new", storage.now())}) == {key}
    assert await storage.get("leased") == "new"


async def test_closing_waits_for_evictions() -> None:
    inner = Counting()
    async with LRUStorage(inner, maxsize=1) as storage:
        for name in "abc":
            await storage.set(name, name)
    assert len(inner.values) == 1


def test_a_plain_function_over_memory_needs_no_loop() -> None:
    before = portal_threads()

    @cached(LRUStorage(MemoryStorage(), maxsize=2))
    def f(x: int) -> int:
        return x

    assert [f(x) for x in (1, 2, 3, 3)] == [1, 2, 3, 3]
    assert (f.stats.hits, f.stats.loads) == (1, 3)
    assert portal_threads() == before


def test_entries_of_a_function_or_an_object_go_with_it() -> None:
    inner = MemoryStorage()
    storage = LRUStorage(inner, maxsize=9)

    class Local:
        @cached(storage)
        def get(self, x: int) -> int:
            return x

    def use() -> None:
        @cached(storage)
        def f(x: int) -> int:
            return x

        f(1)
        f(2)

    one = Local()
    one.get(1)
    use()
    gc.collect()
    assert len(inner) == len(storage) == 1
    del one
    gc.collect()
    assert len(inner) == len(storage) == 0


async def test_what_expires_or_is_cleared_is_so_in_the_storage_below() -> None:
    inner = MemoryStorage()
    storage = LRUStorage(inner, maxsize=5)
    await storage.set("a", 1)
    await storage.discard([as_key("a")], keep_stale=True)
    with pytest.raises(KeyError):
        await storage.get("a")
    copies = LRUStorage(MemoryStorage(isolate=True), maxsize=5)
    await copies.set("a", 1)
    await copies.discard([as_key("a")], keep_stale=True)
    with pytest.raises(KeyError):
        await copies.get("a")
    await inner.set("written past it", 1)
    await storage.clear()
    assert len(inner) == len(storage) == 0


# -- over another entry storage ------------------------------------------------------------------


async def test_what_is_asked_of_it_is_asked_of_the_storage_below() -> None:
    inner = Distant()
    storage = LRUStorage(inner, maxsize=2)
    assert (storage.shared, storage.timeout) == (inner.shared, inner.timeout)
    await storage.ping()
    for name in "abc":
        await storage.set(name, name)
    await settled()
    assert await inner.get_many("abc") == {"b": "b", "c": "c"}
    assert inner.asked["evict"] == 1
    inner.trouble = StorageError("down")
    with pytest.raises(StorageError):
        await storage.get("b")
    inner.trouble = None
    await inner.remove("b")
    with pytest.raises(KeyError):
        await storage.get("b")
    assert len(storage) == 1


@pytest.mark.parametrize("ask", [LRUStorage.get_many, LRUStorage.fetch, LRUStorage.lookup])
async def test_a_miss_does_not_forget_what_was_stored_since_it_was_asked(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Distant()
    storage = LRUStorage(inner, maxsize=2)
    held = hold(monkeypatch, inner, "fetch", after=True)
    key: Any = as_key("a") if ask is LRUStorage.lookup else [as_key("a")]
    asking = asyncio.create_task(ask(storage, key))
    await held.is_reached()
    await storage.set("a", 1)
    held.go.set()
    assert not await asking
    assert len(storage) == 1  # or it would never be evicted


async def test_what_a_lease_shows_has_been_used() -> None:
    inner = Distant()
    storage = LRUStorage(inner, maxsize=1)
    key = as_key("a")
    await inner.set("a", 1)  # as another process does
    lease = (await storage.lease([key], 10))[key]
    assert isinstance(lease, Lease)
    assert lease.seen is not None
    assert len(storage) == 1
    await storage.release([lease])


async def test_two_threads_may_use_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LRUStorage(DictStorage(), maxsize=2)
    await storage.set_many({"a": 1, "b": 1})
    places = storage._places  # pyright: ignore[reportPrivateUsage] - where two threads meet
    touch = places.touch
    other = threading.Thread(target=lambda: asyncio.run(storage.remove("a")))

    def touched(thing: Key) -> None:
        if not other.ident:
            other.start()
            other.join(0.1)  # it waits for this one
        touch(thing)

    monkeypatch.setattr(places, "touch", touched)
    assert await storage.get_many(["a"]) == {"a": 1}
    await asyncio.to_thread(other.join, 10)
    assert len(storage) == 1

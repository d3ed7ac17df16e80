"""Storages of three methods, as users write them, under `cached`."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass
from typing import Any

import pytest

from gecaso import BaseStorage, Cache, Lease, LRUStorage, cached, pack, unpack
from gecaso.adapted import AdaptedStorage
from gecaso.errors import InvalidationFailed, StorageError, UnpackError, Unsupported, WaitTimeout
from gecaso.keys import as_key
from gecaso.storage import adapt
from tests.doubles import DictStorage, FakeClock, Loads


class Old(BaseStorage):
    """A storage as it was written for 0.4: bytes by `pack` and `unpack`, any params."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.clock = FakeClock()

    async def get(self, key: str) -> Any:
        value, params = unpack(self.data[key])
        if self.clock() >= params.get("until", float("inf")):
            raise KeyError(key)
        return value

    async def set(self, key: str, value: Any, ttl: float | None = None, **params: Any) -> None:
        if ttl is not None:
            params["until"] = self.clock() + ttl
        self.data[key] = pack(value, **params)

    async def remove(self, *keys: str) -> None:
        for key in keys:
            del self.data[key]  # KeyError for what is not there, as dicts do


@dataclass
class Point:
    x: int
    y: int


class Faulty(DictStorage):
    """Raises, or waits, in the methods that it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.raises: dict[str, BaseException] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.under_way: set[str] = set()

    async def began(self, name: str) -> None:
        while name not in self.under_way:  # noqa: ASYNC110 - any number of names
            await asyncio.sleep(0)

    async def _do(self, name: str) -> None:
        self.under_way.add(name)
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.raises:
            raise self.raises[name]

    async def get(self, key: Any) -> Any:
        await self._do("get")
        return await super().get(key)

    async def set(self, key: Any, value: Any, *, ttl: float | None = None) -> None:
        await self._do("set")
        await super().set(key, value, ttl=ttl)

    async def remove(self, *keys: Any) -> None:
        await self._do("remove")
        await super().remove(*keys)


@pytest.mark.smoke
@pytest.mark.parametrize("make", [DictStorage, Old])
async def test_a_function_is_cached_in_three_methods(make: Any) -> None:
    storage = make()
    loads = Loads()

    @cached(storage, ttl=60)
    async def user(id: int) -> dict[str, object]:
        return loads({"id": id, "tags": ("a", "b")})

    assert (
        await asyncio.gather(*[user(7) for _ in range(10)]) == [{"id": 7, "tags": ("a", "b")}] * 10
    )
    assert await user(id=7) == {"id": 7, "tags": ("a", "b")}
    assert len(loads) == 1
    await user.invalidate(7)
    await user.invalidate(7)  # it is not there any more
    await user(7)
    assert len(loads) == 2
    await user.put({"id": 8}, 8)
    assert await user(8) == {"id": 8}


def test_a_plain_function_is_cached_in_three_methods() -> None:
    storage = Old()

    @cached(storage, ttl=60)
    def f(x: int) -> int:
        return x

    assert f(1) == f(1) == 1
    f.invalidate(1)
    f.invalidate(1)
    f.put(5, 1)
    assert f(1) == f.peek(1) == 5
    assert f.stats.loads == 1
    assert f.stats.storage_errors == 0


async def test_keys_are_text_of_65_characters_and_each_value_is_stored_once() -> None:
    storage = DictStorage()

    @cached(storage)
    async def f(x: int) -> int:
        await asyncio.sleep(0)
        return x

    await asyncio.gather(*[f(1) for _ in range(10)])
    assert [(len(key), value, params) for key, value, params in storage.sets] == [(65, 1, {})]
    assert list(storage.values) == [str(f.key(1))]


async def test_a_ttl_is_passed_as_seconds_and_only_if_there_is_one() -> None:
    storage = DictStorage()

    @cached(storage, ttl="1m")
    async def with_ttl(x: int) -> int:
        return x

    @cached(storage)
    async def without(x: int) -> int:
        return x

    for x in range(20):
        await with_ttl(x)
    await with_ttl.put(1, 1)
    await without(1)
    assert [params for _, _, params in storage.sets] == [{"ttl": 60.0}] * 21 + [{}]


async def test_the_storage_keeps_the_ttl() -> None:
    storage = Old()
    loads = Loads()

    @cached(storage, ttl=10)
    async def f() -> int:
        return loads(1)

    await f()
    storage.clock.advance(9.9)
    await f()
    assert len(loads) == 1
    storage.clock.advance(0.1)
    await f()
    assert len(loads) == 2


async def test_parameters_are_passed_as_they_are() -> None:
    storage = Old()

    @cached(storage, ttl=5, params={"colour": "red"})
    async def f() -> int:
        return 1

    await f()
    assert unpack(storage.data[str(f.key())])[1]["colour"] == "red"
    assert adapt(storage).takes == storage.set


async def test_types_of_the_annotation_come_back() -> None:
    @cached(Old())
    async def f(x: int) -> Point:
        return Point(x, 2)

    assert await f(1) == await f(1) == Point(1, 2)
    assert type(await f(1)) is Point
    assert f.stats.loads == 1


# -- trouble -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError("down"),
        ValueError("odd"),
        KeyError("set"),
        TimeoutError(),
        asyncio.CancelledError("its own"),
    ],
)
@pytest.mark.parametrize("method", ["get", "set"])
async def test_trouble_is_not_the_callers(method: str, error: BaseException) -> None:
    if method == "get" and isinstance(error, KeyError):
        return  # which is a miss
    storage = Faulty()
    storage.raises[method] = error

    @cached(storage)
    async def f(x: int) -> int:
        return x

    assert await f(1) == 1
    assert f.stats.storage_errors == 1
    strict = cached(storage, on_storage_error="raise")(f.uncached)
    with pytest.raises(StorageError):
        await strict(2)


async def test_damaged_data_is_a_miss() -> None:
    storage = Old()

    @cached(storage)
    async def f() -> int:
        return 1

    storage.data[str(f.key())] = b"rubbish"
    with pytest.raises(UnpackError):
        await storage.get(str(f.key()))
    assert await f() == await f() == 1
    assert (f.stats.loads, f.stats.storage_errors) == (1, 0)


async def test_an_invalidation_that_fails_says_so() -> None:
    storage = Faulty()

    @cached(storage, invalidate_timeout=0.01)
    async def f(x: int) -> int:
        return x

    await f(1)
    storage.raises["remove"] = OSError("down")
    with pytest.raises(InvalidationFailed, match="may still be stored") as caught:
        await f.invalidate(1)
    assert caught.value.keys == (f.key(1),)
    await f(1)
    assert f.stats.loads == 2  # what is stored is not read
    storage.raises.clear()
    await Cache(storage).aclose()


async def test_clearing_needs_a_method_for_it() -> None:
    with pytest.raises(Unsupported, match="async def clear"):
        await DictStorage().clear()
    with pytest.raises(Unsupported, match="async def clear"):
        await adapt(DictStorage()).clear()


# -- fenced within the process -------------------------------------------------------------------


async def test_an_invalidation_waits_for_a_write_under_way() -> None:
    storage = Faulty()
    storage.gates["set"] = gate = asyncio.Event()

    @cached(storage)
    async def f() -> int:
        return len(storage.sets)

    loading = asyncio.create_task(f())
    while f.stats.loads == 0:  # noqa: ASYNC110 - the write comes right after
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    invalidating = asyncio.create_task(f.invalidate())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not invalidating.done()
    gate.set()
    await asyncio.gather(loading, invalidating)
    assert storage.values == {}


async def test_a_load_from_before_an_invalidation_is_not_stored() -> None:
    storage = DictStorage()
    gate, started = asyncio.Event(), asyncio.Event()

    @cached(storage)
    async def f() -> str:
        started.set()
        await gate.wait()
        return "old"

    loading = asyncio.create_task(f())
    await started.wait()
    await f.put("new")
    gate.set()
    assert await loading == "old"
    assert await f() == "new"
    assert [value for _, value, _ in storage.sets] == ["new"]
    assert f.stats.fenced == 1


async def test_a_caller_that_leaves_breaks_off_no_write() -> None:
    storage = Faulty()
    storage.gates["set"] = gate = asyncio.Event()
    cache = Cache(storage)
    setting = asyncio.create_task(cache.set("a", 1))
    for _ in range(5):
        await asyncio.sleep(0)
    setting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await setting
    assert storage.values == {}
    gate.set()
    while not storage.values:  # noqa: ASYNC110 - the storage tells nobody
        await asyncio.sleep(0)
    assert storage.values == {"a": 1}
    # A put that was broken off counts as pending: it is removed once its write is over.
    async with asyncio.timeout(5):
        while storage.values:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0)
    await cache.aclose()


async def test_an_invalidation_waits_for_the_write_of_a_caller_that_has_left() -> None:
    storage = Faulty()
    storage.gates["set"] = gate = asyncio.Event()

    @cached(storage)
    async def f(x: int) -> str:
        return "old"

    loading = asyncio.create_task(f(1))
    await storage.began("set")
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    invalidating = asyncio.create_task(f.invalidate(1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not invalidating.done()
    gate.set()
    await invalidating
    assert storage.values == {}


async def test_of_two_puts_the_later_one_stays_though_the_caller_of_the_first_has_left() -> None:
    storage = Faulty()
    storage.gates["set"] = gate = asyncio.Event()
    adapted, key = adapt(storage), as_key("k")
    first = asyncio.create_task(adapted.store({key: adapted.new_entry("first")}))
    await storage.began("set")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    del storage.gates["set"]  # the second could go at once
    second = asyncio.create_task(adapted.store({key: adapted.new_entry("second")}))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done()
    gate.set()
    await second
    assert storage.values == {"k": "second"}


async def test_a_release_does_not_end_the_lease_of_a_write_under_way() -> None:
    storage = Faulty()
    storage.gates["set"] = gate = asyncio.Event()
    adapted, key = adapt(storage), as_key("k")
    lease = (await adapted.lease([key], 10))[key]
    assert isinstance(lease, Lease)
    committing = asyncio.create_task(adapted.commit({lease: adapted.new_entry("old")}))
    await storage.began("set")
    await adapted.release([lease])
    discarding = asyncio.create_task(adapted.discard([key]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not discarding.done()
    gate.set()
    assert await committing == {key}
    await discarding
    assert storage.values == {}


async def test_the_miss_of_a_caller_that_has_left_is_nobodys_error() -> None:
    told = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    storage = Faulty()
    storage.gates["get"] = gate = asyncio.Event()
    asking = asyncio.create_task(adapt(storage).fetch([as_key("k")]))
    await storage.began("get")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert told == []


def test_a_write_whose_loop_was_closed_holds_up_nobody() -> None:
    storage = Faulty()
    storage.gates["set"] = asyncio.Event()
    adapted, key = adapt(storage), as_key("k")

    async def begin() -> asyncio.Task[Any]:
        task = asyncio.create_task(adapted.store({key: adapted.new_entry("lost")}))
        await storage.began("set")
        return task

    loop = asyncio.new_event_loop()
    lost = loop.run_until_complete(begin())
    loop.close()
    storage.gates.clear()

    async def store() -> None:
        await adapted.discard([key])
        await adapted.store({key: adapted.new_entry("new")})

    asyncio.run(store())
    assert storage.values == {"k": "new"}
    assert not lost.done()
    for task in (lost, *getattr(adapted, "_running")):  # noqa: B009 - they are meant to be lost
        setattr(task, "_log_destroy_pending", False)  # noqa: B010 - asyncio's own


class Clearing(Faulty):
    async def clear(self) -> None:
        self.values.clear()


async def test_clearing_waits_for_a_write_under_way() -> None:
    storage = Clearing()
    storage.gates["set"] = gate = asyncio.Event()
    bounded = LRUStorage(storage, maxsize=4)

    @cached(bounded)
    async def f() -> str:
        return "old"

    loading = asyncio.create_task(f())
    await storage.began("set")
    clearing = asyncio.create_task(bounded.clear())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not clearing.done()
    gate.set()
    await asyncio.gather(loading, clearing)
    assert storage.values == {}


async def test_clearing_keeps_the_locks() -> None:
    adapted = adapt(Clearing())
    async with adapted.leased("job"):
        await adapted.clear()
        with pytest.raises(WaitTimeout):
            async with adapted.leased("job", wait_timeout=0.01):
                raise AssertionError("two hold one lock")


async def test_a_caller_cancelled_along_with_the_operation_is_cancelled() -> None:
    storage = Faulty()
    storage.gates["get"] = asyncio.Event()
    loads = Loads()

    @cached(storage)
    async def f(x: int) -> int:
        return loads(x)

    calling = asyncio.create_task(f(1))
    await storage.began("get")
    adapter = adapt(storage)
    assert isinstance(adapter, AdaptedStorage)
    (operation,) = adapter._running  # pyright: ignore[reportPrivateUsage] - nobody else has it
    operation.cancel()  # as a loop does at its end, with all its tasks at once
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert len(loads) == 0


async def test_uncacheable_results_are_marked_without_the_storage() -> None:
    storage = DictStorage()
    loads = Loads()

    @cached(storage, condition=bool)
    async def f(x: int) -> int:
        return loads(x)

    assert [await f(0), await f(0), await f(0)] == [0, 0, 0]
    assert len(loads) == 3
    assert f.stats.uncacheable == 1
    assert storage.sets == []


async def test_a_value_that_is_put_ends_the_mark() -> None:
    @cached(DictStorage(), condition=bool)
    async def f(x: int) -> int:
        return 0

    assert await f(1) == 0
    await f.put(5, 1)
    assert await f.peek(1) == await f(1) == 5


async def test_an_uncacheable_refresh_removes_the_older_value() -> None:
    storage = DictStorage()
    answer = "good"

    @cached(storage, condition=lambda value: value == "good")
    async def f() -> str:
        return answer

    assert await f() == "good"
    answer = "bad"
    assert await f.refresh() == "bad"
    assert storage.values == {}  # or it would come back when the mark ends


# -- nothing is left behind ----------------------------------------------------------------------


def test_one_storage_has_one_adapter_as_long_as_it_is_used() -> None:
    storage = DictStorage()
    adapted = adapt(storage)
    assert adapt(storage) is adapted
    assert adapt(adapted) is adapted
    assert repr(adapted) == f"<adapted {storage!r}>"
    with pytest.raises(TypeError, match="is no storage"):
        adapt({})


async def same(x: int) -> int:
    return x


async def test_a_storage_goes_with_its_users() -> None:
    storage = DictStorage()

    await cached(storage)(same)(1)
    gone = weakref.ref(storage)
    del storage
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("error", [OSError("down"), asyncio.CancelledError()])
async def test_a_lease_is_given_back_if_the_look_after_it_fails(error: BaseException) -> None:
    storage, key = Faulty(), as_key("k")
    adapted = adapt(storage)
    storage.raises["get"] = error
    with pytest.raises(StorageError):
        await adapted.lease([key], 60)
    storage.raises.clear()
    assert isinstance((await adapted.lease([key], 60))[key], Lease)

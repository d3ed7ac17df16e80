"""Cached methods: what belongs to an instance, and goes with it."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gecaso import BaseStorage, LRUStorage, MemoryStorage, NullStorage, cached, events
from gecaso.errors import UnkeyableArgument
from tests.doubles import DictStorage, Loads, asyncio_iscoroutinefunction

storage = MemoryStorage()


class Repo:
    """Counts its loads by instance."""

    def __init__(self, name: str = "repo") -> None:
        self.name = name
        self.loads = Loads()

    @cached(storage, ttl=60)
    async def get(self, id: int, *, lang: str = "en") -> str:
        """Return a row."""
        self.loads(id)
        return f"{self.name}:{id}:{lang}"

    @cached
    def size(self, of: str = "all") -> str:
        self.loads(of)
        return f"{self.name}/{of}"

    @cached(storage)
    @classmethod
    def made(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @cached(storage)
    @staticmethod
    def twice(x: int) -> int:
        return 2 * x

    @staticmethod
    @cached(storage)
    def thrice(x: int) -> int:
        return 3 * x


class SubRepo(Repo):
    async def get_upper(self, id: int) -> str:
        return (await super().get(id)).upper()


class WithKey:
    def __init__(self, id: int) -> None:
        self.id = id
        self.loads = Loads()

    def __cache_key__(self) -> int:
        return self.id

    @cached(storage)
    async def get(self, x: int) -> object:
        return self.loads(x + self.id)


@pytest.fixture(autouse=True)
def _empty() -> None:
    storage.clear_now()


@pytest.mark.smoke
async def test_instances_have_their_own_entries() -> None:
    one, two = Repo("one"), Repo("two")
    for _ in range(2):
        assert await one.get(1) == await one.get(id=1, lang="en") == "one:1:en"
        assert await two.get(1) == "two:1:en"
        assert (one.size(), two.size(of="all")) == ("one/all", "two/all")
    assert one.loads.seen == two.loads.seen == [1, "all"]


async def test_operations_are_bound_to_the_instance() -> None:
    one, two = Repo("one"), Repo("two")
    await one.get(1)
    await two.get(1)
    await one.get.invalidate(1)
    with pytest.raises(KeyError):
        await one.get.peek(1)
    assert await two.get.peek(1) == "two:1:en"
    await one.get.put("put", 1)
    assert await one.get(1) == await storage.get(one.get.key(1)) == "put"
    assert await one.get.refresh(1) == "one:1:en"
    assert one.get.key(1) != two.get.key(1)
    assert one.get.key(1) == Repo.get.key(one, 1) == one.get.key(id=1)
    assert await one.get.uncached(1) == await Repo.get.uncached(one, 1) == "one:1:en"
    assert await asyncio.wrap_future(one.get.future(1)) == "one:1:en"
    await one.get.clear()
    assert await two.get.peek(1) == "two:1:en"
    with pytest.raises(KeyError):
        await one.get.peek(1)


def test_operations_of_a_plain_method_are_bound_too() -> None:
    one, two = Repo("one"), Repo("two")
    one.size()
    two.size()
    one.size.invalidate()
    assert two.size.peek() == "two/all"
    with pytest.raises(KeyError):
        one.size.peek()
    one.size.put("put")
    assert (one.size(), two.size()) == ("put", "two/all")
    assert one.size.refresh() == one.size.uncached() == "one/all"
    assert one.size.future("some").result(10) == "one/some"
    one.size.clear()
    assert two.size.peek() == "two/all"


async def test_a_method_may_be_called_on_the_class() -> None:
    one = Repo("one")
    assert await Repo.get(one, 1) == await one.get(1) == "one:1:en"
    await Repo.get.invalidate(one, 1)
    assert await one.get(1) == "one:1:en"
    assert one.loads.seen == [1, 1]


def test_a_method_looks_like_the_users_own() -> None:
    one = Repo()
    assert list(inspect.signature(Repo.get).parameters) == ["self", "id", "lang"]
    assert list(inspect.signature(one.get).parameters) == ["id", "lang"]
    for method in (Repo.get, one.get):
        assert inspect.iscoroutinefunction(method)
        assert asyncio_iscoroutinefunction(method)
        assert getattr(method, "__name__") == "get"  # noqa: B009 - no checker knows it
        assert getattr(method, "__doc__") == "Return a row."  # noqa: B009 - likewise
    assert not inspect.iscoroutinefunction(one.size)
    assert one.get == one.get
    assert hash(one.get) == hash(one.get)
    assert one.get != Repo().get
    unlike: list[object] = [one.get, one.size, "get"]
    assert unlike.count(one.get) == unlike.count(one.size) == 1
    assert getattr(one.get, "__self__") is one  # noqa: B009 - likewise


async def test_entries_go_with_the_instance() -> None:
    one = Repo()
    await one.get(1)
    assert len(storage) == 1
    del one
    gc.collect()
    assert len(storage) == 0


async def test_a_temporary_object_keeps_nothing_and_gets_nothing_of_another() -> None:
    for number in range(200):
        assert await Repo(f"{number}").get(1) == f"{number}:1:en"
        assert Repo(f"{number}").size() == f"{number}/all"
    gc.collect()
    assert len(storage) == 0


@pytest.mark.parametrize(
    "make", [lambda: MemoryStorage(maxsize=9), lambda: MemoryStorage(isolate=True)]
)
def test_entries_go_with_the_instance_on_every_storage_in_memory(
    make: Callable[[], MemoryStorage],
) -> None:
    kept = make()

    class Local:
        @cached(kept)
        def get(self, x: int) -> list[int]:
            return [x]

    one = Local()
    assert one.get(1) == one.get(1) == [1]
    assert (len(kept), Local.get.stats.loads) == (1, 1)
    del one
    gc.collect()
    assert len(kept) == 0


async def test_a_copy_is_another_instance() -> None:
    one = Repo("one")
    await one.get(1)
    other = copy.copy(one)
    other.name = "other"
    assert await other.get(1) == "other:1:en"
    assert await one.get(1) == "one:1:en"


async def test_methods_are_inherited() -> None:
    repo, sub = Repo("repo"), SubRepo("sub")
    assert await sub.get(1) == "sub:1:en"
    assert await sub.get_upper(1) == "SUB:1:EN"
    assert await repo.get(1) == "repo:1:en"
    assert sub.loads.seen == [1]


async def test_equal_dataclass_instances_are_two() -> None:
    @dataclass
    class Point:
        x: int

        @cached(storage)
        def shifted(self, by: int) -> int:
            return self.x + by

    one, two = Point(1), Point(1)
    assert (one.shifted(1), two.shifted(1)) == (2, 2)
    one.x = 10
    two.shifted.invalidate(1)
    assert one.shifted(1) == 2
    assert Point.shifted.stats.loads == 2


async def test_a_cache_key_makes_instances_one() -> None:
    one, same, other = WithKey(1), WithKey(1), WithKey(2)
    assert await one.get(1) == await same.get(1) == 2
    assert await other.get(1) == 3
    assert (len(one.loads), len(same.loads)) == (1, 0)
    await same.get.invalidate(1)
    assert await one.get(1) == 2
    assert len(one.loads) == 2
    assert len(str(one.get.key(1))) == 65
    assert one.get.key(1) == same.get.key(1) != other.get.key(1)


async def test_self_may_be_ignored() -> None:
    class Shared:
        @cached(storage, ignore=("self",))
        async def get(self, x: int) -> int:
            return id(self)

    one, two = Shared(), Shared()
    assert await one.get(1) == await two.get(1) == id(one)
    await two.get.invalidate(1)
    assert await two.get(1) == id(two)


def test_a_template_drops_self() -> None:
    class Templated:
        @cached(storage, key="it:{x}")
        def get(self, x: int) -> int:
            return id(self)

    one, two = Templated(), Templated()
    assert one.get(1) == two.get(1) == id(one)
    two.get.invalidate(1)
    assert one.get(1) == id(one)


# -- objects that cannot own entries -------------------------------------------------------------


class Slots:
    __slots__ = ("x",)

    @cached(storage)
    def strict(self, x: int) -> int:
        return x

    @cached(storage, on_key_error="call")
    def lenient(self, x: int) -> int:
        return x

    @cached(storage, on_key_error="call")
    async def lenient_later(self, x: int) -> int:
        return x


def test_an_object_that_cannot_be_referenced_weakly_is_refused_with_remedies() -> None:
    with pytest.raises(UnkeyableArgument, match="__weakref__") as caught:
        Slots().strict(1)
    assert "__cache_key__" in str(caught.value)
    assert 'ignore=("self",)' in str(caught.value)


async def test_an_object_that_cannot_own_entries_may_be_passed_by() -> None:
    assert Slots().lenient(1) == await Slots().lenient_later(1) == 1


async def test_on_a_shared_storage_an_object_is_no_key() -> None:
    class Remote:
        @cached(DictStorage())
        async def get(self, x: int) -> int:
            return x

    with pytest.raises(UnkeyableArgument, match=r"__cache_key__.*ignore=\(\"self\",\)"):
        await Remote().get(1)


def test_the_first_parameter_may_have_any_name() -> None:
    class Odd:
        @cached(storage)
        def get(this, id: int) -> int:
            return id

    one, two = Odd(), Odd()
    assert one.get(1) == two.get(1) == one.get(1) == 1
    assert (Odd.get.stats.loads, Odd.get.stats.hits) == (2, 1)


# -- all instances at once -----------------------------------------------------------------------


def test_clearing_on_the_class_clears_all_instances() -> None:
    one, two = Repo("one"), Repo("two")
    one.size()
    two.size()
    Repo.size.clear()
    one.size()
    two.size()
    assert len(one.loads) == len(two.loads) == 2


def test_clearing_finds_instances_met_while_hooks_listened() -> None:
    one = Repo("one")
    with events.listening(lambda event: None):
        one.size()
    Repo.size.clear()
    one.size()
    assert len(one.loads) == 2


def test_the_size_counts_the_entries_of_all_instances() -> None:
    class Local:
        @cached(MemoryStorage())
        def get(self, x: int) -> int:
            return x

    one, two = Local(), Local()
    for x in range(3):
        one.get(x)
        two.get(x)
    assert Local.get.cache_info().currsize == 6


@pytest.mark.parametrize("made", [NullStorage, lambda: LRUStorage(maxsize=4)])
def test_methods_work_over_every_storage_of_this_process(made: Callable[[], BaseStorage]) -> None:
    class Local:
        @cached(made())
        def get(self, x: int) -> int:
            return x

    one = Local()
    assert one.get(1) == one.get(1) == one.get(x=1) == 1
    one.get.invalidate(1)
    assert one.get(1) == 1

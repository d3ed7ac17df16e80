"""Recording what was asked of a cache: of ours, of others', and of caches that are broken."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Mapping

import pytest

from gecaso import Cache, Entry, Key, Lease, MemoryStorage, cached
from gecaso.testing import History, StaleRead
from tests.doubles import in_thread


def kinds(history: History) -> list[tuple[str, str]]:
    return [(one.kind, one.outcome) for one in history.operations]


# -- by hand ---------------------------------------------------------------------------------------


def test_beginnings_and_ends_have_one_order() -> None:
    history = History()
    with history.read("k") as read:
        with history.load("k") as load:
            load.returns("a")
        read.returns("a")
    with history.put("k", "b"), history.change("k", "c"):
        pass
    with history.invalidate("k", "l"):
        pass
    with history.clear():
        pass
    assert [(one.kind, one.begin, one.end) for one in history.operations] == [
        ("read", 1, 4),
        ("load", 2, 3),
        ("put", 5, 8),
        ("change", 6, 7),
        ("invalidate", 9, 12),
        ("invalidate", 10, 11),
        ("invalidate", 13, 14),
    ]
    assert repr(history) == "<History of 7 operations>"
    assert len(history) == 7


def test_a_history_is_printed_with_a_column_for_each_actor() -> None:
    history = History()

    def write() -> None:
        with history.put("a", 1):
            pass
        with pytest.raises(OSError, match="down"), history.invalidate("b"):
            raise OSError("down")

    thread = threading.Thread(target=write, name="writer")
    thread.start()
    thread.join()
    with history.read("a") as read:
        read.misses()
    assert str(history).splitlines() == [
        "  #   writer                              MainThread",
        "  1   put of 'a' begins: 1",
        "  2   put ends",
        "  3   invalidate of 'b' begins",
        "  4   invalidate fails: OSError('down')",
        "  5                                       read of 'a' begins",
        "  6                                       read ends: a miss",
    ]


def test_long_values_are_cut_where_a_history_is_printed() -> None:
    history = History()
    with history.put("a", "x" * 1000):
        pass
    assert len(str(history)) < 200


def test_a_read_or_load_without_an_outcome_is_a_mistake() -> None:
    history = History()
    with pytest.raises(RuntimeError, match=r"returns\(value\) or misses\(\)"), history.read("k"):
        pass
    with pytest.raises(RuntimeError, match=r"returns\(value\) before"), history.load("k"):
        pass


async def test_what_is_cancelled_has_failed() -> None:
    history = History()

    async def put() -> None:
        with history.put("k", "v"):
            await asyncio.Event().wait()

    task = asyncio.create_task(put(), name="the putter")
    await asyncio.sleep(0)
    assert kinds(history) == [("put", "running")]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kinds(history) == [("put", "failed")]
    assert history.operations[0].actor == "the putter"


def test_threads_record_at_once() -> None:
    history = History()
    interval = sys.getswitchinterval()

    def work() -> None:
        for number in range(500):
            with history.put("k", number):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    sys.setswitchinterval(1e-7)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    ticks = sorted(at for one in history.operations for at in (one.begin, one.end))
    assert ticks == list(range(1, 4001))


# -- a cache of somebody else's --------------------------------------------------------------------


class LookAside:
    """What everybody writes first."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.source = {"k": "old"}
        self.cache: dict[str, str] = {}
        self.loaded = asyncio.Event()
        self.store = asyncio.Event()
        self.store.set()

    async def get(self, key: str) -> str:
        with self.history.read(key) as read:
            if key not in self.cache:
                with self.history.load(key) as load:
                    value = self.source[key]
                    load.returns(value)
                self.loaded.set()
                await self.store.wait()
                self.cache[key] = value
            read.returns(self.cache[key])
            return self.cache[key]

    async def write(self, key: str, value: str) -> None:
        with self.history.change(key, value):
            self.source[key] = value
        with self.history.invalidate(key):
            self.cache.pop(key, None)


async def test_a_look_aside_cache_is_found_out() -> None:
    history = History(initial={"k": "old"})
    cache = LookAside(history)
    cache.store.clear()
    slow = asyncio.create_task(cache.get("k"), name="reader")
    await cache.loaded.wait()
    await cache.write("k", "new")
    cache.store.set()
    assert await slow == "old"
    history.check()  # he asked before
    assert await cache.get("k") == "old"
    with pytest.raises(StaleRead, match="whose load began before an invalidation") as caught:
        history.check()
    kept = [one.kind for one in caught.value.history.operations]
    assert kept == ["load", "invalidate", "read"]


async def test_a_look_aside_cache_is_right_where_nothing_overlaps() -> None:
    history = History(initial={"k": "old"})
    cache = LookAside(history)
    for number in range(5):
        await cache.get("k")
        await cache.write("k", f"version {number}")
        await cache.get("k")
    history.check()


# -- a cached function -----------------------------------------------------------------------------


async def test_a_watched_function_records_its_calls_and_operations() -> None:
    history = History()

    @history.watch
    @cached(MemoryStorage(), ttl=60)
    @history.loading
    async def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert [await double(2), await double(2)] == [4, 4]
    await double.put(5, 2)
    assert await double.peek(2) == 5
    assert await double.refresh(2) == 4
    await double.invalidate(2)
    with pytest.raises(KeyError):
        await double.peek(2)
    assert [one.kind for one in history.operations] == [
        *("read", "load", "read", "put", "read", "read", "load", "invalidate", "read"),
    ]
    assert {one.key for one in history.operations} == {double.key(2)}
    assert (double.__doc__, double.stats.loads) == ("Twice.", 2)
    assert repr(double).startswith("<watched <function")
    last = history.operations[-1]
    assert (last.is_miss, last.error) == (True, None)
    history.check()


def test_a_watched_plain_function_is_recorded_as_well() -> None:
    history = History()

    @history.watch
    @cached(MemoryStorage(), ttl=60)
    @history.loading
    def double(x: int) -> int:
        return 2 * x

    assert double(2) == 4
    assert in_thread(lambda: double(2)) == 4
    double.invalidate(2)
    with pytest.raises(KeyError):
        double.peek(2)
    assert [one.kind for one in history.operations] == [
        *("read", "load", "read", "invalidate", "read")
    ]
    assert history.operations[-1].is_miss
    history.check()


async def test_what_a_watched_function_raises_is_recorded_and_raised() -> None:
    history = History()

    @history.watch
    @cached(MemoryStorage(), ttl=60)
    @history.loading
    async def fails(x: int) -> int:
        raise LookupError(f"no {x}")

    with pytest.raises(LookupError, match="no 3"):
        await fails(3)
    assert kinds(history) == [("read", "failed"), ("load", "failed")]
    assert [repr(one.error) for one in history.operations] == ["LookupError('no 3')"] * 2
    history.check()


async def test_keys_may_be_named() -> None:
    history = History()

    def by_number(x: int) -> int:
        return x

    class Shop:
        @cached(MemoryStorage(), ttl=60, ignore=("self",))
        async def price(self, x: int) -> int:
            with history.load(x) as load:
                load.returns(x * 10)
            return x * 10

    shop = Shop()
    price = history.watch(shop.price, key=by_number)
    assert await price(3) == 30
    await price.invalidate(3)
    assert {one.key for one in history.operations} == {3}

    @history.loading
    async def lonely(x: int) -> int:
        return x

    with pytest.raises(RuntimeError, match="nobody said under which key"):
        await lonely(1)
    named = history.loading(lonely.__wrapped__, key=by_number)  # type: ignore[attr-defined]  # functools.wraps sets it
    assert await named(4) == 4
    assert history.operations[-1].key == 4


async def test_what_is_no_cached_function_is_not_watched() -> None:
    async def plain() -> None: ...

    with pytest.raises(TypeError, match=r"with history\.read\(key\)"):
        History().watch(plain)


class Unfenced(MemoryStorage):
    """A storage that forgot what leases are for."""

    def commit_one(self, lease: Lease, entry: Entry) -> bool:
        self.store_now({lease.key: entry})
        return True

    def commit_now(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        return {lease.key for lease, entry in entries.items() if self.commit_one(lease, entry)}


async def play(storage: MemoryStorage, seed: int) -> History:
    """Let readers and writers at three keys of one cache, for a while."""
    chance = random.Random(seed)
    history = History(initial={})
    source = {key: f"{key} version 0" for key in range(3)}
    cache = Cache(storage, ttl=60)

    async def pause() -> None:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)

    @history.watch
    @cache.cached()
    @history.loading
    async def thing(key: int) -> str:
        value = source[key]
        await pause()
        return f"{value}, load {len(history)}"

    async def reader() -> None:
        for _ in range(15):
            await thing(chance.randrange(3))
            await pause()

    async def writer() -> None:
        for number in range(8):
            key = chance.randrange(3)
            source[key] = f"{key} version {number}"
            await thing.invalidate(key)
            await pause()

    await asyncio.gather(*[reader() for _ in range(3)], writer(), writer())
    return history


async def test_ours_is_never_stale() -> None:
    for seed in range(30):
        history = await play(MemoryStorage(), seed)
        assert len(history) > 60
        history.check()


async def test_ours_without_its_fence_is_found_out() -> None:
    stale = 0
    for seed in range(30):
        try:
            (await play(Unfenced(), seed)).check()
        except StaleRead:
            stale += 1
    assert stale > 10

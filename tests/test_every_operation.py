"""Every operation: on functions and methods of both colours, over memory, Redis and SQLite."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest

import gecaso
from gecaso import Cache, EntryStorage, MemoryStorage, Unsupported, storage_from_url
from tests.doubles import in_thread
from tests.scenes import patience

KINDS = ("coroutine function", "plain function", "coroutine method", "plain method")


@pytest.fixture(params=["memory", "redis", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> EntryStorage:
    if request.param == "memory":
        return MemoryStorage()
    url = f"sqlite://{tmp_path}/cache.db"
    made = storage_from_url(
        request.getfixturevalue("redis_url") if request.param == "redis" else url
    )
    assert isinstance(made, EntryStorage)
    return made


class Subject:
    """One cached function, or a method bound to one of two instances; what it returns counts up."""

    def __init__(self, kind: str, storage: EntryStorage, **options: Any) -> None:
        self.is_async = kind.startswith("coroutine")
        self.is_method = kind.endswith("method")
        self.storage = storage
        options.setdefault("ttl", 60)
        self.cache = Cache(storage, **options)
        self.loads: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.version = kind
        made = [self._function(), self._method(1), self._method(2)]
        self.f: Any = made[1 if self.is_method else 0]
        self.other: Any = made[2] if self.is_method else None

    def _load(self, *args: Any) -> str:
        self.loads.append(args)
        if self.error is not None:
            raise self.error
        return f"{args} {len(self.loads)}"

    def _function(self) -> Any:
        if self.is_async:

            async def later(x: int, y: int = 2) -> str:
                return self._load(x, y)

            return self.cache.cached(version=self.version)(later)

        def at_once(x: int, y: int = 2) -> str:
            return self._load(x, y)

        return self.cache.cached(version=self.version)(at_once)

    def _method(self, number: int) -> Any:
        if not hasattr(self, "_class"):
            self._class = self._make_class()
        return self._class(number).method

    def _make_class(self) -> Any:
        subject, cached = self, self.cache.cached(version=self.version)

        class Later:
            def __init__(self, number: int) -> None:
                self.number = number

            def __cache_key__(self) -> int:
                return self.number

            @cached
            async def method(self, x: int, y: int = 2) -> str:
                return subject._load(self.number, x, y)

        class AtOnce:
            def __init__(self, number: int) -> None:
                self.number = number

            def __cache_key__(self) -> int:
                return self.number

            @cached
            def method(self, x: int, y: int = 2) -> str:
                return subject._load(self.number, x, y)

        return Later if self.is_async else AtOnce

    async def __call__(self, result: Any) -> Any:
        """Return what an operation gives, in its colour."""
        return await result if self.is_async else result

    async def settle(self) -> None:
        async with patience():
            while self.cache.info().background:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


async def test_every_operation(kind: str, storage: EntryStorage) -> None:
    it = Subject(kind, storage, stale_if_error=60)
    f = it.f
    async with it.cache:
        with pytest.raises(KeyError):
            await it(f.peek(1))
        with pytest.raises(KeyError):
            await it(f.entry(1))
        with pytest.raises(KeyError):
            await it(f.ttl(1))
        first = await it(f(1))
        assert await it(f.peek(x=1)) == first
        entry = await it(f.entry(1, y=2))
        assert (entry.value, entry.kind) == (first, "value")
        assert 50 < await it(f.ttl(1)) <= 60
        assert await it(f.loading(1)) is False
        second = await it(f.refresh(1))
        assert second != first
        assert await it(f(1)) == await it(f.peek(1)) == second
        await it(f.put("put", 1))
        assert await it(f(1)) == "put"
        await it(f.expire(1))
        assert await it(f.ttl(1)) == 0
        with pytest.raises(KeyError):
            await it(f.peek(1))
        assert await it(f.peek(1, stale=True)) == "put"
        it.error = OSError("down")
        assert await it(f(1)) == "put"
        it.error = None
        await it(f.invalidate(1))
        with pytest.raises(KeyError):
            await it(f.peek(1, stale=True))
        assert await asyncio.wrap_future(f.future(1)) == await it(f.peek(1))
        assert str(await it(f.explain(1))).splitlines()[-1].startswith("a call    FRESH")
        assert await storage.get(f.key(1)) == await it(f(1))


async def test_lazy_never_waits(kind: str, storage: EntryStorage) -> None:
    it = Subject(kind, storage, placeholder="soon", stale_if_error=60)
    async with it.cache:
        assert await it(it.f.lazy(1)) == "soon"
        await it.settle()
        assert await it(it.f.lazy(2, default=None)) is None
        await it.settle()
        value = await it(it.f.lazy(1))
        assert value == await it(it.f.peek(1))
        await it(it.f.expire(1))
        assert await it(it.f.lazy(1)) == value
        await it.settle()
        assert await it(it.f.peek(1)) != value
        assert len(it.loads) == 3


async def test_map_looks_all_up_and_loads_the_missing(kind: str, storage: EntryStorage) -> None:
    it = Subject(kind, storage)
    async with it.cache:
        one = await it(it.f(1))
        values = await it(it.f.map([1, 2, 3, 2]))
        assert values[0] == one
        assert values[1] == values[3]
        assert len(it.loads) == 3
        assert await it(it.f.map(range(1, 4), itertools.repeat(2))) == values[:3]
        assert await it(it.f.map([])) == []
        assert len(it.loads) == 3
        it.error = OSError("down")
        with pytest.raises(OSError, match="down"):
            await it(it.f.map([1, 4, 5]))


async def test_a_method_is_bound_to_its_instance(storage: EntryStorage) -> None:
    for kind in KINDS[2:]:
        it = Subject(kind, storage)
        async with it.cache:
            mine, others = await it(it.f(1)), await it(it.other(1))
            assert mine != others
            await it(it.f.expire(1))
            assert await it(it.other.peek(1)) == others
            assert await it(it.other.map([1])) == [others]
            assert await it(it.other.lazy(1)) == others
            assert await it(it.other.ttl(1)) > 0
            assert it.other.key(1) != it.f.key(1)
            await it(it.other.invalidate(1))


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_and_clear_are_of_the_function(kind: str) -> None:
    it = Subject(kind, MemoryStorage())
    await it(it.f.map([1, 2]))
    if it.other is not None:
        await it(it.other(3))
    keys = await it(it.f.keys())
    assert set(keys) == {it.f.key(1), it.f.key(2)}
    await it(it.f.clear())
    assert await it(it.f.keys()) == []
    if it.other is not None:
        assert await it(it.other.keys()) == [it.other.key(3)]


async def test_keys_of_a_shared_storage_cannot_be_told(redis_url: str) -> None:
    it = Subject("coroutine function", storage_from_url(redis_url))  # type: ignore[arg-type]  # it is one
    async with it.cache:
        with pytest.raises(Unsupported, match="shared"):
            await it.f.keys()


async def test_loading_tells_of_a_load_under_way() -> None:
    gate = asyncio.Event()

    @gecaso.cached(ttl=60)
    async def slow(x: int) -> int:
        await gate.wait()
        return x

    call = asyncio.create_task(slow(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await slow.loading(1)
    assert not await slow.loading(2)
    gate.set()
    await call
    assert not await slow.loading(1)


async def test_an_argument_of_the_functions_own_name_is_not_taken_for_an_option() -> None:
    @gecaso.cached(ttl=60)
    async def f(default: str, stale: bool = False) -> tuple[str, bool]:
        return default, stale

    assert await f("d") == ("d", False)
    assert await f.peek("d", stale=False) == ("d", False)
    assert await f.lazy(default="d") == ("d", False)


# -- switching off ---------------------------------------------------------------------------------


async def test_disabled_calls_every_function_uncached(kind: str, storage: EntryStorage) -> None:
    it = Subject(kind, storage)
    async with it.cache:
        cached = await it(it.f(1))
        with gecaso.disabled(), gecaso.disabled():
            assert await it(it.f(1)) != await it(it.f(1))
            assert len(await it(it.f.map([1, 1]))) == 2
            await it(it.f.put("put meanwhile", 1))
        assert await it(it.f(1)) == "put meanwhile" != cached
        assert len(it.loads) >= 4


async def test_a_function_decorated_while_caching_is_off_is_cached_afterwards() -> None:
    loads = 0

    with gecaso.disabled():

        @gecaso.cached
        def f() -> int:
            nonlocal loads
            loads += 1
            return loads

        assert (f(), f()) == (1, 2)
    assert (f(), f()) == (3, 3)


@pytest.mark.process
@pytest.mark.parametrize(("value", "loads"), [("1", 2), ("0", 1), ("", 1), ("false", 1)])
def test_an_environment_variable_switches_caching_off(value: str, loads: int) -> None:
    import os
    import subprocess
    import sys

    code = (
        "import gecaso\n@gecaso.cached\ndef f():\n    print('load')\n"
        "f(); f()\nassert not f.stats.errors"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GECASO_DISABLE": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["load"] * loads


async def test_bypass_decides_by_the_arguments(kind: str, storage: EntryStorage) -> None:
    def bypass(*args: Any) -> bool:
        return 7 in args

    it = Subject(kind, storage, bypass=bypass)
    async with it.cache:
        assert await it(it.f(1)) == await it(it.f(1))
        assert await it(it.f(7)) != await it(it.f(7))


# -- what is stored --------------------------------------------------------------------------------


async def test_dump_and_load_stand_between_the_function_and_the_storage(
    kind: str, storage: EntryStorage
) -> None:
    def dump(value: str) -> list[str]:
        return [value]

    def load(stored: list[str]) -> str:
        return f"<{stored[0]}>"

    it = Subject(kind, storage, dump=dump, load=load)
    async with it.cache:
        made = await it(it.f(1))
        assert await storage.get(it.f.key(1)) == [made]
        assert await it(it.f(1)) == await it(it.f.peek(1)) == f"<{made}>"
        assert await it(it.f.map([1])) == [f"<{made}>"]
        await it(it.f.put("put", 1))
        assert await it(it.f(1)) == "<put>"
        assert len(it.loads) == 1


async def test_on_load_is_told_of_each_load(kind: str, storage: EntryStorage) -> None:
    seen: list[Any] = []
    it = Subject(kind, storage, on_load=seen.append)
    async with it.cache:
        await it(it.f(1))
        await it(it.f(1))
        it.error = OSError("down")
        with pytest.raises(OSError, match="down"):
            await it(it.f(2))
    assert [type(event.error) for event in seen] == [type(None), OSError]
    assert all(event.seconds >= 0 for event in seen)


@pytest.mark.parametrize("kind", KINDS)
async def test_on_evict_is_told_who_leaves_and_why(kind: str) -> None:
    seen: list[Any] = []
    storage = MemoryStorage(maxsize=2, policy="lru")
    it = Subject(kind, storage, on_evict=seen.append)
    await storage.set("another's", 1)
    first = await it(it.f(1))
    await it(it.f(2))
    await it(it.f(3))
    assert [(event.key, event.value, event.reason) for event in seen] == [
        (it.f.key(1), first, "size")
    ]
    await it(it.f.put("put", 3))
    await it(it.f.invalidate(3))
    assert [event.reason for event in seen[1:]] == ["replaced", "removed"]


def test_on_evict_needs_keys_of_the_functions_own(redis_url: str) -> None:
    def ignore(event: object) -> None: ...

    shared = storage_from_url(redis_url)
    cases: list[tuple[Any, dict[str, Any]]] = [(MemoryStorage(), {"key": "n:{x}"}), (shared, {})]
    for storage, options in cases:
        with pytest.raises(gecaso.ConfigurationError, match="on_evict"):

            @gecaso.cached(storage, on_evict=ignore, **options)
            def f(x: int) -> int:
                return x


async def test_each_load_is_logged_for_who_wants_to_know(
    caplog: pytest.LogCaptureFixture,
) -> None:
    it = Subject("coroutine function", MemoryStorage())
    with caplog.at_level("DEBUG", logger="gecaso"):
        await it.f(1)
        await it.f(1)
    assert [record.getMessage().split(": loaded in ")[0] for record in caplog.records] == [
        str(it.f.key(1))
    ]


# -- functions, caches -----------------------------------------------------------------------------


def test_functions_are_listed_as_long_as_they_live() -> None:
    @gecaso.cached
    def f() -> int:
        return 1

    assert f in gecaso.functions()
    before = len(gecaso.functions())
    del f
    import gc

    gc.collect()
    assert len(gecaso.functions()) < before


async def test_a_cache_is_configured_after_its_functions() -> None:
    cache = Cache(name="later")

    @cache.cached(stale_if_error=5)
    async def f(x: int) -> int:
        return x

    assert await f(1) == 1
    storage = MemoryStorage()
    cache.configure(storage, ttl=30)
    assert await f(1) == 1
    assert len(storage) == 1
    assert await f.ttl(1) <= 30
    with pytest.raises(gecaso.ConfigurationError, match="replace=True"):
        cache.configure(MemoryStorage())
    other = MemoryStorage()
    cache.configure(other, replace=True)
    await f(2)
    assert (len(storage), len(other)) == (1, 1)
    assert await f.ttl(2) <= 30


async def test_configuring_what_cannot_work_changes_nothing() -> None:
    from tests.doubles import DictStorage

    cache = Cache(name="later")

    @cache.cached(ttl=10, stale_if_error=5)
    async def f(x: int) -> int:
        return x

    with pytest.raises(gecaso.ConfigurationError, match="EntryStorage"):
        cache.configure(DictStorage())
    assert await f(1) == 1
    assert f.cache_info().currsize == 1


@pytest.mark.parametrize(
    "options",
    [
        {"max_loads": 0},
        {"max_background": 0},
        {"jitter": 1},
        {"jitter": -0.1},
        {"stale_if_error": -1},
        {"soft_timeout": 1, "ttl": 5},
        {"refresh_after": 5, "ttl": 5},
        {"error_ttl": {"KeyError": 5}},
        {"error_ttl": {KeyError: 0}},
        {"error_ttl": {KeyboardInterrupt: 1}},
        {"overload": "panic"},
        {"background": "thread"},
        {"retry_after": 0},
    ],
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else

        @gecaso.cached(MemoryStorage(), **options)
        def f() -> int:
            return 1


def test_a_storage_without_times_serves_nothing_old() -> None:
    from tests.doubles import DictStorage

    with pytest.raises(gecaso.ConfigurationError, match="fetch, lease"):
        gecaso.cached(DictStorage(), ttl=5, stale_if_error=5)


# -- loops and threads -----------------------------------------------------------------------------


def test_thirty_two_threads_make_one_load(redis_url: str) -> None:
    loads: list[int] = []
    start = threading.Barrier(32)

    @gecaso.cached(storage_from_url(redis_url), ttl=60)
    def f(x: int) -> int:
        loads.append(x)
        time.sleep(0.1)  # others come meanwhile
        return x

    def call() -> int:
        start.wait()
        return f(1)

    with_results: list[int] = []
    threads = [threading.Thread(target=lambda: with_results.append(call())) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert with_results == [1] * 32
    assert loads == [1]


def test_two_loops_make_one_load(redis_url: str) -> None:
    loads: list[int] = []

    @gecaso.cached(storage_from_url(redis_url), ttl=60)
    async def f(x: int) -> int:
        loads.append(x)
        await asyncio.sleep(0.1)
        return x

    both = threading.Barrier(2)

    async def main() -> list[int]:
        await asyncio.to_thread(both.wait)
        return await asyncio.gather(*[f(1) for _ in range(10)])

    def run() -> list[int]:
        return asyncio.run(main())

    results: list[list[int]] = []
    threads = [threading.Thread(target=lambda: results.append(run())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [[1] * 10] * 2
    assert loads == [1]


def test_a_plain_function_is_refreshed_in_a_worker_thread() -> None:
    from gecaso.testing import FakeClock

    clock = FakeClock()
    threads: list[threading.Thread] = []
    cache = Cache(MemoryStorage(clock=clock), ttl=10, stale_while_revalidate=60)

    @cache.cached()
    def f(x: int) -> int:
        threads.append(threading.current_thread())
        return len(threads)

    assert in_thread(lambda: f(1)) == 1
    clock.advance(11)
    assert f(1) == 1
    give_up = time.monotonic() + 10
    while cache.info().background and time.monotonic() < give_up:
        time.sleep(0.001)
    assert f(1) == 2
    assert threads[1] is not threading.current_thread()


def test_an_executor_of_ones_own_runs_the_refreshes() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from gecaso.testing import FakeClock

    clock = FakeClock()
    names: list[str] = []
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        cache = Cache(
            MemoryStorage(clock=clock), ttl=10, stale_while_revalidate=60, background=executor
        )

        @cache.cached()
        def f(x: int) -> float:
            names.append(threading.current_thread().name)
            return inf

        f(1)
        clock.advance(11)
        f(1)
    assert names[1].startswith("mine")


def make_slow(cache: Cache, gate: threading.Event) -> Callable[[int], int]:
    @cache.cached(soft_timeout=0.05)
    def slow(x: int) -> int:
        gate.wait(20)
        return x

    return slow


def test_a_slow_plain_load_goes_on_while_the_old_value_is_served() -> None:
    from gecaso.testing import FakeClock

    clock, gate = FakeClock(), threading.Event()
    cache = Cache(MemoryStorage(clock=clock), ttl=10, stale_if_error=60)
    slow: Any = make_slow(cache, gate)
    slow.put(-1, 1)
    clock.advance(11)
    assert slow(1) == -1
    gate.set()
    give_up = time.monotonic() + 10
    while cache.info().background and time.monotonic() < give_up:
        time.sleep(0.001)
    assert slow(1) == 1

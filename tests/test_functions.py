"""Calls of cached functions: contexts, circles, loops and threads, results that are not stored."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gecaso import Cache, MemoryStorage, RecursiveLoad, cached
from tests.doubles import DictStorage, FakeClock, Loads, in_thread, portal_threads

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("REQUEST", default="none")


def flights_of(function: Any) -> int:
    return len(function.gecaso_function.loading.flights)


# -- contexts ------------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_a_load_runs_in_a_copy_of_the_first_callers_context() -> None:
    seen: list[str] = []

    @cached(MemoryStorage())
    async def f() -> str:
        await asyncio.sleep(0)
        seen.append(REQUEST.get())
        REQUEST.set("changed by the load")
        return REQUEST.get()

    async def caller(name: str) -> str:
        REQUEST.set(name)
        await f()
        return REQUEST.get()

    assert await asyncio.gather(*[caller(name) for name in ("a", "b", "c")]) == ["a", "b", "c"]
    assert seen == ["a"]
    assert REQUEST.get() == "none"


def test_a_plain_function_runs_in_the_callers_thread_and_context() -> None:
    @cached(DictStorage())
    def f() -> str:
        assert threading.current_thread() is threading.main_thread()
        REQUEST.set("set by the load")
        return "done"

    def use() -> str:
        REQUEST.set("mine")
        f()
        return REQUEST.get()

    assert contextvars.copy_context().run(use) == "set by the load"


def test_after_a_load_its_context_is_let_go() -> None:
    class Session:
        pass

    session_of: contextvars.ContextVar[Session] = contextvars.ContextVar("session")

    async def request() -> None:
        session_of.set(Session())
        await f(1)

    @cached(MemoryStorage(), ttl=60)
    async def f(x: int) -> int:
        return x

    async def serve() -> None:
        await asyncio.create_task(request())
        await asyncio.sleep(0)  # the loop itself holds what woke this task
        gc.collect()
        assert not [thing for thing in gc.get_objects() if type(thing) is Session]

    asyncio.run(serve())


# -- circles -------------------------------------------------------------------------------------


@pytest.mark.smoke
async def test_a_load_that_waits_for_itself_is_refused() -> None:
    @cached(MemoryStorage())
    async def f(x: int) -> int:
        return await f(x)

    @cached(MemoryStorage())
    def g(x: int) -> int:
        return g(x)

    for _ in range(2):
        async with asyncio.timeout(5):
            with pytest.raises(RecursiveLoad, match="uncached"):
                await f(1)
        with pytest.raises(RecursiveLoad, match="waits for it"):
            g(1)
    assert flights_of(f) == flights_of(g) == 0


async def test_a_circle_of_two_is_refused() -> None:
    @cached(MemoryStorage())
    async def f(x: int) -> int:
        return await g(x)

    @cached(MemoryStorage())
    async def g(x: int) -> int:
        return await f(x)

    async with asyncio.timeout(5):
        with pytest.raises(RecursiveLoad):
            await f(1)
        results = await asyncio.gather(f(1), g(1), return_exceptions=True)
    assert [type(result) for result in results] == [RecursiveLoad, RecursiveLoad]


def test_a_circle_across_threads_is_refused() -> None:
    both = threading.Barrier(2)

    @cached(MemoryStorage())
    def f() -> int:
        both.wait(10)
        return g()

    @cached(MemoryStorage())
    def g() -> int:
        both.wait(10)
        return f()

    def outcome(function: Any) -> str:
        try:
            function()
        except RecursiveLoad:
            return "refused"
        return "value"

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(outcome, [f, g], timeout=20))
    assert outcomes == ["refused", "refused"]
    assert flights_of(f) == flights_of(g) == 0


@pytest.mark.parametrize("outer", ["refresh", "call"])
async def test_a_refresh_and_a_call_of_one_key_are_a_circle(outer: str) -> None:
    storage = MemoryStorage()

    @cached(storage)
    async def f(x: int) -> int:
        return await (f(x) if outer == "refresh" else f.refresh(x))

    async with asyncio.timeout(5):
        with pytest.raises(RecursiveLoad):
            await (f.refresh(1) if outer == "refresh" else f(1))
    assert flights_of(f) == len(storage.leases) == 0


async def test_recursion_with_other_arguments_is_fine() -> None:
    @cached(MemoryStorage())
    async def fibonacci(n: int) -> int:
        return n if n < 2 else await fibonacci(n - 1) + await fibonacci(n - 2)

    @cached(MemoryStorage())
    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    assert await fibonacci(30) == 832040
    assert fibonacci.stats.loads == 31
    assert factorial(20) == 2432902008176640000


# -- loops and threads ---------------------------------------------------------------------------


def test_plain_functions_in_memory_touch_no_loop_and_no_thread() -> None:
    code = (
        "import threading, asyncio, gecaso\n"
        "from gecaso import *\n"
        "asyncio.new_event_loop = asyncio.run = None\n"
        "for storage in (MemoryStorage(9), MemoryStorage(isolate=True), LRUStorage(maxsize=9),\n"
        "                LRUStorage(MemoryStorage()), NullStorage()):\n"
        "    f = cached(storage, ttl=60)(lambda x: x)\n"
        "    f(1), f(1), f.put(2, 1), f.refresh(1), f.invalidate(1), f.clear(), f.cache_clear()\n"
        "    assert threading.active_count() == 1, threading.enumerate()\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_a_plain_function_works_inside_a_running_loop() -> None:
    before = portal_threads()

    @cached(MemoryStorage(), ttl=60)
    def f(x: int) -> int:
        return x

    assert [f(1), f(1), await asyncio.to_thread(f, 1)] == [1, 1, 1]
    f.invalidate(1)
    assert f.refresh(1) == 1
    assert f.stats.loads == 2
    assert portal_threads() == before


def test_a_plain_function_does_not_wait_for_a_lease_that_only_its_own_loop_can_end() -> None:
    storage = MemoryStorage()
    started, gate = threading.Event(), threading.Event()

    async def slow(id: int) -> str:
        started.set()
        while not gate.is_set():  # noqa: ASYNC110 - the event of a thread
            await asyncio.sleep(0)
        return "slow"

    def fast(id: int) -> str:
        return "fast"

    in_loop = Cache(storage).cached(key="user:{id}")(slow)
    with pytest.warns(UserWarning, match="user:"):
        plain = Cache(storage).cached(key="user:{id}")(fast)

    async def main() -> None:
        for ask in (in_loop, in_loop.refresh):
            started.clear()
            gate.clear()
            loading = asyncio.create_task(ask(1))
            while not started.is_set():  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0)
            assert plain(1) == "fast"
            gate.set()
            assert await loading == "slow"
            await in_loop.invalidate(1)

    in_thread(lambda: asyncio.run(main()), timeout=10)


def test_threads_share_one_load() -> None:
    start, loads = threading.Barrier(8), Loads()

    @cached(MemoryStorage())
    def f(x: int) -> int:
        while f.stats.joined < 7:
            threading.Event().wait(0.001)
        return loads(x)

    def call(_: int) -> int:
        start.wait(10)
        return f(1)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(8))) == [1] * 8
    assert len(loads) == 1
    assert flights_of(f) == 0


async def test_a_loop_and_a_thread_share_one_load() -> None:
    cache = Cache(MemoryStorage())
    gate, loads = threading.Event(), Loads()

    @cache.cached(key="it")
    def plain() -> str:
        assert gate.wait(10)
        return loads("by the thread")

    thread = asyncio.create_task(asyncio.to_thread(plain))
    while not flights_of(plain):  # noqa: ASYNC110 - it is in another thread
        await asyncio.sleep(0.001)
    creating = asyncio.create_task(cache.get_or_create("it", lambda: loads("by the loop")))
    await asyncio.sleep(0)
    gate.set()
    assert await creating == await thread == "by the thread"
    assert len(loads) == 1


def test_several_loops_one_after_another_share_the_entries() -> None:
    for storage in (MemoryStorage(), DictStorage()):
        f = cached(storage)(same)
        assert [asyncio.run(f(1)) for _ in range(3)] == [1, 1, 1]
        assert in_thread(functools.partial(asyncio.run, f(1))) == 1
        assert f.stats.loads == 1


async def same(x: int) -> int:
    return x


# -- results that are not stored -----------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 0.999])
async def test_for_a_second_callers_of_an_uncacheable_result_load_side_by_side(
    seconds: float,
) -> None:
    clock = FakeClock()
    running = most = 0
    all_in = asyncio.Event()

    @cached(MemoryStorage(clock=clock), condition=lambda value: False)
    async def f() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if f.stats.loads > 1:
            if running == 5:
                all_in.set()
            await all_in.wait()
        running -= 1
        return 1

    await f()
    clock.advance(seconds)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*[f() for _ in range(5)]) == [1] * 5
    assert most == 5
    assert (f.stats.loads, f.stats.joined, f.stats.uncacheable) == (6, 0, 1)


async def test_after_a_second_they_share_a_load_again() -> None:
    clock = FakeClock()

    @cached(MemoryStorage(clock=clock), condition=lambda value: value > 1)
    async def f() -> int:
        await asyncio.sleep(0)
        return f.stats.loads

    assert await f() == 1
    clock.advance(1.0)
    assert await asyncio.gather(*[f() for _ in range(5)]) == [2] * 5
    assert await f() == 2
    assert f.stats.loads == 2


async def test_those_who_shared_a_load_that_is_not_stored_get_its_value() -> None:
    loads = Loads()

    @cached(MemoryStorage(), condition=lambda value: False)
    async def f() -> int:
        await asyncio.sleep(0)
        loads(1)
        return len(loads)

    assert await asyncio.gather(*[f() for _ in range(5)]) == [1] * 5


async def test_an_invalidation_ends_the_mark() -> None:
    @cached(MemoryStorage(clock=FakeClock()), condition=lambda value: value > 1)
    async def f() -> int:
        return f.stats.loads

    assert await f() == 1
    await f.invalidate()
    assert await f() == await f() == 2
    assert f.stats.loads == 2

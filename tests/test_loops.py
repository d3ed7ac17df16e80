"""Any loop, any thread: storages and caches outlive the event loops they are used in."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import uvloop
from anyio.from_thread import BlockingPortal

from gecaso import Cache, EntryStorage, GecasoError, cached
from gecaso.loops import LoopBridge, PerLoop, PortalBridge, run_now
from tests.scenes import KINDS, NETWORK, Place, Process, Truth, opened, own_server, place_for
from tests.servers import MemcachedServer, RedisServer


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    return place_for(request)


@pytest.fixture
def storage(place: Place) -> EntryStorage:
    return place.open()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> RedisServer | MemcachedServer:
    return own_server(request)


def in_thread(main: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(main).result(20)


def connections_of(server: RedisServer | MemcachedServer) -> int:
    """Return how many connections the server has, that of the question among them."""
    if isinstance(server, MemcachedServer):
        return int(server.stats()["curr_connections"])
    listed = server.command("CLIENT", "LIST")
    assert isinstance(listed, bytes)
    return len(listed.splitlines())


async def ask(process: Process) -> None:
    values = await asyncio.gather(*[process.thing(i) for i in range(20)])
    assert values == [f"{i} in version 0" for i in range(20)]


# -- one loop after another ------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("closing", [True, False])
def test_loops_one_after_another_share_what_is_stored(storage: EntryStorage, closing: bool) -> None:
    loads_in_three_loops(storage, closing=closing)


@pytest.mark.smoke
@pytest.mark.parametrize("server", NETWORK, indirect=True)
@pytest.mark.parametrize("closing", [True, False])
def test_loops_one_after_another_leave_no_connections(
    server: RedisServer | MemcachedServer, closing: bool
) -> None:
    storage = opened(server.url)
    loads_in_three_loops(storage, closing=closing)
    assert "0 connections" in repr(storage)
    # The server notices the end of a connection a little later, that of a question too.
    end = time.monotonic() + 5
    while (left := connections_of(server)) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert left == 1


def loads_in_three_loops(storage: EntryStorage, *, closing: bool) -> None:
    process = Process(storage, Truth(seconds=0.001))

    async def main() -> None:
        await ask(process)
        if closing:
            await process.cache.aclose()

    for run in (asyncio.run, uvloop.run, asyncio.run):
        run(main())
        gc.collect()
    assert process.truth.loads == 20


@pytest.mark.smoke
def test_two_loops_at_once_use_one_storage(storage: EntryStorage) -> None:
    process = Process(storage, Truth(seconds=0.001))
    together = threading.Barrier(2)

    async def main() -> None:
        for _ in range(20):
            await ask(process)
            await process.thing.invalidate(3)

    def run() -> None:
        together.wait(10)
        asyncio.run(main())

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run) for _ in range(2)]:
            done.result(30)
    assert process.thing.stats.storage_errors == 0


def test_a_storage_closed_in_one_loop_goes_on_in_another(storage: EntryStorage) -> None:
    process = Process(storage, Truth(seconds=0.001))
    opened_there, closed_here = threading.Event(), threading.Event()

    async def there() -> None:
        await ask(process)
        opened_there.set()
        assert await asyncio.to_thread(closed_here.wait, 10)
        await ask(process)

    async def here() -> None:
        await ask(process)
        await process.cache.aclose()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(asyncio.run, there())
        assert opened_there.wait(10)
        asyncio.run(here())
        closed_here.set()
        other.result(20)


def test_a_storage_may_be_used_after_it_was_closed(storage: EntryStorage) -> None:
    process = Process(storage, Truth())

    async def main() -> None:
        for _ in range(3):
            await ask(process)
            await process.cache.aclose()

    asyncio.run(main())
    assert process.truth.loads == 20


def test_plain_functions_and_loops_take_turns(storage: EntryStorage) -> None:
    loads = list[int]()

    @cached(storage, ttl=60)
    def double(i: int) -> int:
        loads.append(i)
        return i * 2

    async def inside() -> int:
        return double(4)  # with a running loop in this thread

    assert double(4) == asyncio.run(inside()) == in_thread(lambda: double(4)) == 8
    assert loads == [4]


# -- loops that end badly --------------------------------------------------------------------------


def abandoned(begin: Callable[[], Coroutine[Any, Any, Any]], truth: Truth) -> None:
    """Begin in a loop of its own, and close that loop without a word once a load is under way."""

    async def until_it_loads() -> None:
        task = asyncio.get_running_loop().create_task(begin())
        await truth.asked(1)
        assert not task.done()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(until_it_loads())
    loop.close()


def test_a_load_whose_loop_was_closed_is_taken_over(place: Place, storage: EntryStorage) -> None:
    truth = Truth()
    process = Process(storage, truth, lease_seconds=place.shortest_lease)
    truth.close_gate()
    abandoned(lambda: process.thing(1), truth)
    truth.gate = None
    started = time.monotonic()
    assert asyncio.run(process.thing(1)) == "1 in version 0"
    assert time.monotonic() - started <= place.shortest_lease + 1.5
    assert truth.loads == 2
    assert len(process.cache._loading.flights) == 0  # pyright: ignore[reportPrivateUsage] - nothing is left
    gc.collect()
    assert process.thing.future(1).result(10) == "1 in version 0"


def test_who_waits_for_a_loop_that_is_closed_takes_over(
    place: Place, storage: EntryStorage
) -> None:
    truth = Truth()
    process = Process(storage, truth, lease_seconds=place.shortest_lease)
    truth.close_gate()
    waiting = threading.Event()

    async def wait_there() -> str:
        truth.gate = None
        call = process.call()
        await process.joined(1)
        waiting.set()
        return await call

    async def until_others_wait() -> None:
        task = process.call()
        await truth.asked(1)
        others.append(pool.submit(asyncio.run, wait_there()))
        assert await asyncio.to_thread(waiting.wait, 10)
        assert not task.done()

    others = list[Any]()
    with ThreadPoolExecutor(2) as pool:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(until_others_wait())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        assert others[0].result(15) == "1 in version 0"
    assert truth.loads == 2


def test_a_loop_that_ends_while_callers_wait_leaves_nothing(storage: EntryStorage) -> None:
    truth = Truth()
    process = Process(storage, truth, lease_seconds=60)
    truth.close_gate()

    async def leave_in_the_middle() -> None:
        process.call()
        process.call()
        await truth.asked(1)

    asyncio.run(leave_in_the_middle())  # it cancels what is left
    truth.gate = None
    assert asyncio.run(asyncio.wait_for(process.thing(1), 2)) == "1 in version 0"


# -- what belongs to a loop ------------------------------------------------------------------------


class Resource:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.end = ""


async def close(resource: Resource) -> None:
    assert asyncio.get_running_loop() is resource.loop
    resource.end += "closed"


def abandon(resource: Resource) -> None:
    resource.end += "abandoned"


@pytest.fixture
def per_loop() -> PerLoop[Resource]:
    return PerLoop(Resource, close, abandon)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_resource_is_made_once_and_closed_with_its_loop(
    per_loop: PerLoop[Resource], run: Callable[[Any], Resource]
) -> None:
    async def main() -> Resource:
        assert per_loop.resources() == []
        made = per_loop.get()
        await asyncio.sleep(0)
        assert per_loop.get() is made
        assert per_loop.resources() == [made]
        assert made.end == ""
        return made

    made = run(main())
    assert made.end == "closed"
    assert per_loop.resources() == []


def test_each_loop_has_a_resource_of_its_own(per_loop: PerLoop[Resource]) -> None:
    async def main() -> tuple[Resource, Resource]:
        return per_loop.get(), await asyncio.to_thread(asyncio.run, other())

    async def other() -> Resource:
        return per_loop.get()

    mine, others = asyncio.run(main())
    assert mine is not others
    assert mine.end == others.end == "closed"


async def test_closing_here_closes_once(per_loop: PerLoop[Resource]) -> None:
    made = per_loop.get()
    await per_loop.aclose()
    await per_loop.aclose()
    assert made.end == "closed"
    again = per_loop.get()
    assert again is not made


def test_closing_reaches_the_loops_of_other_threads(per_loop: PerLoop[Resource]) -> None:
    made, done = list[Resource](), threading.Event()

    async def there() -> None:
        made.append(per_loop.get())
        ready.set()
        while not made[0].end:  # noqa: ASYNC110 - another thread closes it
            await asyncio.sleep(0.001)
        done.set()

    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(there()))
    thread.start()
    assert ready.wait(10)
    asyncio.run(per_loop.aclose())
    assert done.wait(10)
    thread.join()
    assert made[0].end == "closed"


def test_a_resource_of_a_loop_closed_without_a_word_is_abandoned_at_the_next_use(
    per_loop: PerLoop[Resource],
) -> None:
    async def get() -> Resource:
        return per_loop.get()

    loop = asyncio.new_event_loop()
    made = loop.run_until_complete(get())
    loop.close()
    assert made.end == ""
    asyncio.run(get())
    assert made.end == "abandoned"
    assert per_loop.resources() == []


# -- bridges ---------------------------------------------------------------------------------------


async def whereabouts(value: int) -> tuple[int, asyncio.AbstractEventLoop]:
    await asyncio.sleep(0)
    return value, asyncio.get_running_loop()


def test_the_background_loop_is_one_for_all_threads() -> None:
    bridge = PortalBridge()
    with ThreadPoolExecutor(8) as pool:
        loops = {id(pool.submit(bridge.call, whereabouts, 1).result(10)[1]) for _ in range(8)}
    assert loops == {id(bridge.call(whereabouts, 1)[1])}


def test_a_loop_that_stands_still_is_run_until_the_call_is_done() -> None:
    loop = asyncio.new_event_loop()
    try:
        assert LoopBridge(loop).call(whereabouts, 3) == (3, loop)
    finally:
        loop.close()


async def test_a_loop_that_runs_elsewhere_is_used_from_there() -> None:
    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(LoopBridge(loop).call, whereabouts, 3) == (3, loop)


def test_a_call_that_is_interrupted_does_not_go_on_in_the_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def never() -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    def interrupted() -> None:
        assert started.wait(10)
        raise KeyboardInterrupt

    start = BlockingPortal.start_task_soon

    def start_and_interrupt(portal: BlockingPortal, *args: Any) -> Future[Any]:
        future: Future[Any] = start(portal, *args)
        monkeypatch.setattr(future, "result", interrupted)
        return future

    monkeypatch.setattr(BlockingPortal, "start_task_soon", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        PortalBridge().call(never)
    assert cancelled.wait(10)


async def test_the_very_loop_that_runs_here_cannot_be_waited_for() -> None:
    with pytest.raises(RuntimeError, match="leave loop= out"):
        LoopBridge(asyncio.get_running_loop()).call(whereabouts, 3)


@pytest.mark.parametrize("place", NETWORK, indirect=True)
def test_a_plain_function_uses_the_loop_it_is_given(place: Place) -> None:
    loop = asyncio.new_event_loop()

    @Cache(place.open(), ttl=60).cached(loop=loop)
    def double(i: int) -> int:
        return i * 2

    try:
        assert double(2) == double(2) == 4
        assert double.stats.hits == 1

        async def inside() -> int:
            return await asyncio.to_thread(double, 3)

        assert loop.run_until_complete(inside()) == 6
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_a_coroutine_that_waits_cannot_be_run_on_the_spot() -> None:
    with pytest.raises(GecasoError, match="must not wait"):
        run_now(asyncio.sleep(0))

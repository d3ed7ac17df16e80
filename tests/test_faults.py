"""A storage that is down, hangs or answers rubbish costs little, and comes back by itself.

And cancelling at any moment leaves nothing behind: no wrong value, no lost connection, no task.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from gecaso import Cache, InvalidationFailed, StorageError, StorageTimeout, cached
from tests.scenes import NETWORK, Process, Truth, opened, own_server, patience
from tests.servers import MemcachedServer, RedisServer, free_port

Server = RedisServer | MemcachedServer

pytestmark = pytest.mark.fault


@pytest.fixture(params=NETWORK)
def server(request: pytest.FixtureRequest) -> Server:
    return own_server(request)


async def timed(call: Callable[[int], Awaitable[object]], numbers: range) -> list[float]:
    """Return how long each call took, in seconds."""
    took = list[float]()
    for i in numbers:
        started = time.perf_counter()
        assert await call(i) == f"{i} in version 0"
        took.append(time.perf_counter() - started)
    return took


async def seconds_until_cached(process: Process, key: int) -> float:
    """Call until two calls in a row make no load; return the seconds that took."""
    started = time.monotonic()
    async with patience():
        quiet = 0
        while quiet < 2:
            before = process.truth.loads
            assert await process.thing(key) == f"{key} in version 0"
            quiet = quiet + 1 if process.truth.loads == before else 0
            await asyncio.sleep(0.01)  # as a user's calls do; only calls find out that it is back
    return time.monotonic() - started


# -- a server that hangs, is gone, comes back ------------------------------------------------------


async def test_a_hanging_server_costs_little_and_then_nothing(server: Server) -> None:
    process = Process(opened(server.url), Truth())
    await process.thing(0)
    server.pause()
    first = await timed(process.thing, range(20))
    assert sum(first) <= 20 * 0.3
    assert first[0] <= 0.3
    assert max(first) <= 0.6  # it must connect anew
    assert statistics.median(await timed(process.thing, range(100, 300))) <= 0.0005
    server.resume()
    assert await seconds_until_cached(process, 0) <= 2.0


async def test_callers_at_once_wait_for_a_hanging_server_together(server: Server) -> None:
    process = Process(opened(server.url), Truth())
    await process.thing(0)
    server.pause()
    started = time.monotonic()
    values = await asyncio.gather(*[process.thing(i) for i in range(200)])
    assert time.monotonic() - started <= 0.45  # one timeout for all, and the work of all
    assert values == [f"{i} in version 0" for i in range(200)]


async def test_a_killed_server_is_used_again_when_it_is_back(server: Server) -> None:
    process = Process(opened(server.url), Truth())
    await process.thing(0)
    server.kill()
    first = await timed(process.thing, range(20))
    assert sum(first) <= 20 * 0.3
    assert statistics.median(await timed(process.thing, range(100, 300))) <= 0.0005
    await asyncio.to_thread(server.start)
    assert await seconds_until_cached(process, 0) <= 2.0


async def test_a_restarted_server_is_used_at_once(server: Server) -> None:
    process = Process(opened(server.url), Truth())
    await process.thing(0)
    await asyncio.to_thread(server.restart)
    assert await seconds_until_cached(process, 0) <= 2.0


@pytest.mark.parametrize("scheme", NETWORK)
async def test_a_server_that_is_not_there_costs_no_value(scheme: str) -> None:
    process = Process(opened(f"{scheme}://127.0.0.1:{free_port()}"), Truth())
    took = await timed(process.thing, range(20))
    assert sum(took) <= 20 * 0.3
    assert statistics.median(await timed(process.thing, range(100, 300))) <= 0.0005
    assert process.thing.stats.storage_errors >= 3


def test_a_plain_function_goes_on_without_a_hanging_server(server: Server) -> None:
    @cached(opened(server.url), ttl=60)
    def double(i: int) -> int:
        return i * 2

    def took(numbers: range) -> list[float]:
        times = list[float]()
        for i in numbers:
            started = time.perf_counter()
            assert double(i) == i * 2
            times.append(time.perf_counter() - started)
        return times

    assert double(0) == double(0) == 0
    assert double.stats.hits == 1
    server.pause()
    assert sum(took(range(20))) <= 20 * 0.3
    assert statistics.median(took(range(100, 200))) <= 0.001
    server.resume()
    hits, back = double.stats.hits, time.monotonic() + 2.0
    while double.stats.hits == hits:
        assert double(0) == 0
        assert time.monotonic() < back


def test_a_plain_function_goes_on_without_a_killed_server(server: Server) -> None:
    truth = 0

    def read() -> int:
        return truth

    plain = cached(opened(server.url), ttl=60, key="plain", invalidate_timeout=0.2)(read)
    assert plain() == 0
    server.kill()
    started = time.monotonic()
    assert [plain() for _ in range(20)] == [0] * 20
    assert time.monotonic() - started <= 20 * 0.3
    truth = 1
    with pytest.raises(InvalidationFailed):
        plain.invalidate()
    assert plain() == 1
    server.start()
    hits, back = plain.stats.hits, time.monotonic() + 2.0
    while plain.stats.hits == hits:
        assert plain() == 1
        assert time.monotonic() < back


# -- a server that is none -------------------------------------------------------------------------


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def somebody(talk: Talk) -> AsyncGenerator[int]:
    """Something that listens and is neither a Redis nor a memcached; yields the port."""
    talks = set[asyncio.Task[Any]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await asyncio.sleep(0)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


RUBBISH = [
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    b"\x00\xff" * 300,
    b"$999999999999\r\n",
    b"*100000\r\n",
    b"*1\r\n" * 5000,
    b"VALUE x 0 99999999999\r\n",
    b"END\r\n" * 50,
    b"+OK\r\n" * 50,
    b":1\r\n" * 50,
    b"-ERR no\r\n" * 50,
    b"SERVER_ERROR out of memory\r\n" * 50,
]


def saying(rubbish: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(rubbish)
            await writer.drain()

    return talk


@pytest.mark.parametrize("scheme", NETWORK)
async def test_a_server_that_accepts_and_stays_silent_costs_no_value(scheme: str) -> None:
    async with somebody(silence) as port:
        process = Process(opened(f"{scheme}://127.0.0.1:{port}"), Truth())
        took = await timed(process.thing, range(20))
        assert sum(took) <= 20 * 0.3
        assert max(took) <= 0.6  # it had to connect
        assert statistics.median(await timed(process.thing, range(100, 200))) <= 0.0005
        await process.cache.aclose()


@pytest.mark.parametrize("rubbish", [*RUBBISH, None])
@pytest.mark.parametrize("scheme", NETWORK)
async def test_a_server_that_talks_rubbish_costs_no_value(
    scheme: str, rubbish: bytes | None
) -> None:
    async with somebody(hang_up if rubbish is None else saying(rubbish)) as port:
        process = Process(opened(f"{scheme}://127.0.0.1:{port}"), Truth())
        assert sum(await timed(process.thing, range(10))) <= 10 * 0.3
        assert process.thing.stats.storage_errors >= 1
        await process.cache.aclose()


async def test_a_redis_that_is_full_costs_no_value() -> None:
    with RedisServer("--maxmemory", "1mb", "--maxmemory-policy", "noeviction") as server:
        process = Process(opened(server.url), Truth())
        assert sum(await timed(process.thing, range(20))) <= 20 * 0.3
        await process.cache.aclose()


# -- who wants to be told --------------------------------------------------------------------------


async def test_who_asks_for_errors_gets_them(server: Server) -> None:
    process = Process(opened(server.url), Truth(), on_storage_error="raise")
    assert await process.thing(0) == "0 in version 0"
    server.pause()
    with pytest.raises(StorageTimeout):
        await process.thing(0)
    for _ in range(5):
        with pytest.raises(StorageError):
            await process.thing(0)
    loads = process.truth.loads
    with pytest.raises(StorageError, match="left alone"):
        await process.thing(1)
    assert process.truth.loads == loads
    server.resume()
    async with asyncio.timeout(2):
        while True:
            with contextlib.suppress(StorageError):
                assert await process.thing(0) == "0 in version 0"
                break
            await asyncio.sleep(0.01)


# -- G3, G4: ten thousand cancellations ------------------------------------------------------------


CALLERS = 40
EACH = 250


async def nervous_callers(
    process: Process, *, seed: int, keys: int, ends: list[BaseException]
) -> int:
    """Make 10,000 calls, give most up at a random moment; return how many were given up."""
    chance = random.Random(seed)
    gone = 0

    async def caller(own: random.Random) -> None:
        nonlocal gone
        for _ in range(EACH):
            i = own.randrange(keys)
            call = process.call(i)
            for _ in range(own.choice((0, 1, 2, 3, 5, 8))):
                await asyncio.sleep(0)
            if own.random() < 0.1:
                await asyncio.sleep(own.random() * 0.004)
            call.cancel()
            try:
                assert await call == f"{i} in version 0"
            except asyncio.CancelledError:
                gone += 1
            except BaseException as error:  # noqa: BLE001 - none may come
                ends.append(error)
            if own.random() < 0.1:
                await process.thing.invalidate(i)

    await asyncio.gather(*[caller(random.Random(chance.random())) for _ in range(CALLERS)])
    return gone


@pytest.mark.every_loop
@pytest.mark.parametrize("kind", NETWORK)
async def test_ten_thousand_cancellations_leave_nothing_behind(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    problems = list[dict[str, Any]]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    truth = Truth(seconds=0.0005)
    process = Process(opened(url, timeout=5, connect_timeout=5), truth)
    before = asyncio.all_tasks()
    ends = list[BaseException]()
    async with asyncio.timeout(60):
        gone = await nervous_callers(process, seed=1, keys=200, ends=ends)
    assert ends == []
    assert gone > CALLERS * EACH / 3
    async with patience():  # nothing is lost for good, no value is another's
        values = await asyncio.gather(*[process.thing(i) for i in range(200)])
        assert values == [f"{i} in version 0" for i in range(200)]
        loads = truth.loads
        assert await asyncio.gather(*[process.thing(i) for i in range(200)]) == values
    assert truth.loads == loads
    assert process.thing.stats.storage_errors == 0
    await process.cache.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert problems == []


@pytest.mark.parametrize("kind", NETWORK)
async def test_closing_in_the_middle_of_calls_leaves_no_task(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    before = asyncio.all_tasks()
    for wait in (0, 1, 2, 3, 5, 10):
        process = Process(opened(url), Truth(seconds=0.002))
        calls = [process.call(i) for i in range(50)]
        for _ in range(wait):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await process.cache.aclose()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("kind", NETWORK)
async def test_a_lease_whose_taker_was_cancelled_at_any_moment_is_handed_back(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    truth = Truth()
    first = Process(opened(url), truth, lease_seconds=60)
    second = Cache(opened(url), lease_seconds=60)
    await first.storage.ping()
    truth.close_gate()
    for i in range(40):
        call = first.call(i)
        for _ in range(i):
            await asyncio.sleep(0)
        await asyncio.sleep(0.00005 * i)
        call.cancel()
        async with asyncio.timeout(1):
            assert await second.get_or_create(f"thing:{i}", partial(int, i)) == i

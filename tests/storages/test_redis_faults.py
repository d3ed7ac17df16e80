"""Redis in trouble, and callers that leave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from gecaso.errors import StorageError, StorageTimeout
from gecaso.storages import RedisStorage
from tests.servers import HOST, RedisServer
from tests.storages.faults_kit import cancel_many, within
from tests.storages.leases_kit import KEY

# --- cancellation ---------------------------------------------------------------------------------


@pytest.mark.every_loop
@pytest.mark.fault
async def test_ten_thousand_cancellations_cost_nobody_else_anything(redis_url: str) -> None:
    """No wrong value, no operation that fails, and one connection all the time."""
    async with RedisStorage(redis_url, timeout=5) as storage:
        await storage.ping()
        line = storage._hub.get().nodes()[0].line  # pyright: ignore[reportPrivateUsage] - is it the same after?
        await cancel_many(storage, 10_000)
        assert storage._hub.get().nodes()[0].line is line  # pyright: ignore[reportPrivateUsage] - likewise


async def test_cancelling_one_lookup_leaves_the_others_of_the_key(redis_url: str) -> None:
    async with RedisStorage(redis_url) as storage:
        await storage.set("a", 1, ttl=60)
        tasks = [asyncio.create_task(storage.get("a")) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert outcomes[1::2] == [1] * 5
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])


async def test_cancelling_the_first_caller_does_not_end_the_connecting(redis_url: str) -> None:
    async with RedisStorage(redis_url) as storage:
        first, second = (asyncio.create_task(storage.set(n, n)) for n in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert await storage.get(1) == 1


# --- a server that hangs, goes and comes back -----------------------------------------------------


@pytest.mark.fault
async def test_a_server_that_hangs_is_a_timeout_and_comes_back(own_redis: RedisServer) -> None:
    async with RedisStorage(own_redis.url, timeout=0.1, connect_timeout=0.2) as storage:
        await storage.set("a", 1)
        own_redis.pause()
        for _ in range(3):
            started = time.monotonic()
            outcomes = await asyncio.gather(
                storage.get("a"), storage.lease([KEY], 1), storage.ping(), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [StorageTimeout] * 3
            assert time.monotonic() - started < 0.5
        own_redis.resume()
        await within(2, lambda: storage.get("a"))
        assert await storage.get("a") == 1


@pytest.mark.fault
async def test_a_killed_server_is_an_error_at_once_and_comes_back(own_redis: RedisServer) -> None:
    async with RedisStorage(own_redis.url, timeout=5, connect_timeout=5) as storage:
        await storage.set("a", 1)
        own_redis.kill()
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(StorageError):
                await storage.get("a")
            assert time.monotonic() - started < 1
        own_redis.start()
        await within(2, storage.ping)
        await storage.set("a", 2)
        assert await storage.get("a") == 2


@pytest.mark.fault
async def test_operations_under_way_fail_when_the_connection_is_lost(
    own_redis: RedisServer,
) -> None:
    async with RedisStorage(own_redis.url, timeout=5) as storage:
        await storage.ping()
        own_redis.pause()
        tasks = [asyncio.create_task(storage.set(n, n)) for n in range(10)]
        tasks += [asyncio.create_task(storage.get(n)) for n in range(10)]
        await asyncio.sleep(0.01)
        own_redis.kill()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, StorageError)
            assert not isinstance(outcome, StorageTimeout)


@pytest.mark.every_loop
@pytest.mark.fault
async def test_a_busy_loop_is_not_mistaken_for_a_slow_server(redis_url: str) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    asked: asyncio.Future[asyncio.Future[None]] = loop.create_future()
    async with RedisStorage(redis_url, timeout=0.05) as storage:
        await storage.ping()

        def block() -> None:
            loop.remove_reader(ours)
            asked.set_result(asyncio.ensure_future(storage.ping()))
            loop.call_soon(loop.add_reader, theirs, read)  # once it is written …

        def read() -> None:
            loop.remove_reader(theirs)
            time.sleep(0.15)  # … the reply comes in, unread

        loop.add_reader(ours, block)
        ours.send(b"x")
        theirs.send(b"x")
        await (await asked)
    ours.close()
    theirs.close()


async def serve(answer: bytes) -> tuple[asyncio.Server, str]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, HOST, 0)
    return server, f"redis://{HOST}:{server.sockets[0].getsockname()[1]}/0"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n" * 50,
        b":1\r\n" * 50,
        b"-ERR go away\r\n" * 50,
        b"*-1\r\n" * 50,
        b"*3\r\n" * 50,
        b"$-9\r\n" * 50,
        b"\x00\xff" * 500,
        b"",
    ],
)
async def test_what_is_not_redis_is_an_error_in_time(answer: bytes) -> None:
    server, url = await serve(answer)
    async with server, RedisStorage(url, timeout=0.1, connect_timeout=0.1) as storage:
        for operation in (storage.get, storage.set):
            arguments = ("a",) if operation == storage.get else ("a", 1)
            with pytest.raises(StorageError):
                await asyncio.wait_for(operation(*arguments), 2)


@pytest.mark.parametrize(
    ("version", "advice"), [("6.0.16", "6.2 or newer"), ("5.0.1", "6.2 or newer")]
)
async def test_a_server_that_is_too_old_is_told(version: str, advice: str) -> None:
    info = f"redis_version:{version}\r\n".encode()
    time_, empty = b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n", b"$0\r\n\r\n"
    answer = time_ + b"$%d\r\n%b\r\n" % (len(info), info) + empty
    hello = b"+OK\r\n"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(answer if b"TIME" in data else hello * data.count(b"SETINFO"))
        writer.close()

    server = await asyncio.start_server(talk, HOST, 0)
    async with server, RedisStorage(f"redis://{HOST}:{server.sockets[0].getsockname()[1]}") as old:
        with pytest.raises(StorageError, match=advice):
            await old.set("a", 1)

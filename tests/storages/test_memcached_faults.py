"""`MemcachedStorage` in trouble: servers that hang, die or lie."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gecaso.entry import Busy
from gecaso.errors import StorageError, StorageTimeout
from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_client import Connections
from tests.servers import MemcachedServer, free_port
from tests.storages.memcached_kit import KEY, again_and_again, client_of, leased

# --- servers that go away ---------------------------------------------------------------------


async def test_a_server_that_is_not_there_fails_fast_and_says_what_to_do() -> None:
    storage = MemcachedStorage(f"127.0.0.1:{free_port()}")
    started = time.monotonic()
    for _ in range(10):
        with pytest.raises(StorageError, match="out of reach; see whether it runs there"):
            await storage.ping()
    assert time.monotonic() - started < 0.25
    await storage.aclose()


class Slow:
    """A serializer that takes as long as that of a value of many megabytes."""

    SECONDS = 0.51

    def dumps(self, value: object) -> bytes:
        time.sleep(self.SECONDS)  # it blocks the event loop
        return pickle.dumps(value)

    def loads(self, data: bytes) -> object:
        return pickle.loads(data)


async def test_time_that_packing_takes_is_not_the_servers(memcached_url: str) -> None:
    timeout = Slow.SECONDS - 0.01  # a deadline that is missed by more looks once more
    async with MemcachedStorage(memcached_url, timeout=timeout, serializer=Slow()) as storage:
        await storage.ping()  # it is connected, and the limit is `timeout`
        await storage.set("a", 1)
        assert await storage.get("a") == 1
        key = as_key("b")
        lease = await leased(storage, key)
        assert await storage.commit({lease: storage.new_entry(2)}) == {key}
        there = {key: (await storage.fetch([key]))[key].version}
        assert await storage.store({key: storage.new_entry(3)}, expect=there) == {key}
        assert storage.health().ok


@pytest.mark.fault
async def test_a_server_that_hangs_is_a_timeout_and_comes_back(
    own_memcached: MemcachedServer,
) -> None:
    async with MemcachedStorage(own_memcached.url) as storage:
        await storage.set("a", 1)
        own_memcached.pause()
        try:
            for limit in (0.25, 0.5):  # the second one has to connect
                started = time.monotonic()
                with pytest.raises(StorageTimeout, match=rf"within {limit} s"):
                    await storage.get("a")
                assert limit - 0.01 <= time.monotonic() - started < limit + 0.2
        finally:
            own_memcached.resume()
        await again_and_again(lambda: storage.get("a"))
        assert await storage.get("a") == 1


@pytest.mark.fault
async def test_a_lease_that_arrives_late_at_a_server_that_hung_blocks_nobody_here(
    own_memcached: MemcachedServer,
) -> None:
    async with (
        MemcachedStorage(own_memcached.url) as storage,
        MemcachedStorage(own_memcached.url) as other,
    ):
        await storage.ping()
        own_memcached.pause()
        try:
            with pytest.raises(StorageTimeout):
                await storage.lease([KEY], 10)
        finally:
            own_memcached.resume()
        await again_and_again(other.ping)

        async def has_arrived() -> None:
            if not own_memcached.command("get :a")[0].startswith(b"VALUE"):
                raise StorageError("not yet")

        await again_and_again(has_arrived)
        assert isinstance((await other.lease([KEY], 10))[KEY], Busy)
        lease = await leased(storage)
        assert await storage.commit({lease: storage.new_entry(1)}) == {KEY}


@pytest.mark.fault
async def test_a_server_that_was_killed_and_started_again_is_used_again(
    own_memcached: MemcachedServer,
) -> None:
    async with MemcachedStorage(own_memcached.url) as storage:
        await storage.set("a", 1)
        own_memcached.kill()
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(StorageError):
                await storage.get("a")
        assert time.monotonic() - started < 0.5
        own_memcached.start()
        await storage.set("a", 2)
        assert await storage.get("a") == 2
        assert int(own_memcached.stats()["curr_connections"]) <= 4


@pytest.mark.fault
async def test_a_server_killed_under_load_costs_errors_and_no_time(
    own_memcached: MemcachedServer,
) -> None:
    async with MemcachedStorage(own_memcached.url) as storage:
        await storage.ping()
        asked = [asyncio.ensure_future(storage.set(n, "x" * 10_000)) for n in range(300)]
        await asyncio.sleep(0.002)
        own_memcached.kill()
        started = time.monotonic()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert time.monotonic() - started < 0.2
        assert any(isinstance(outcome, StorageError) for outcome in outcomes)
        assert all(outcome is None or isinstance(outcome, StorageError) for outcome in outcomes)


@pytest.mark.fault
async def test_a_restart_between_lease_and_commit_fences_though_numbers_are_equal(
    own_memcached: MemcachedServer,
) -> None:
    async with MemcachedStorage(own_memcached.url) as storage:
        lease = await leased(storage)
        number = own_memcached.command("gets :a")[0].split()[-1]
        own_memcached.restart()
        own_memcached.command("set :a 0 0 5", b"other")
        assert own_memcached.command("gets :a")[0].split()[-1] == number
        await again_and_again(storage.ping)
        assert await storage.commit({lease: storage.new_entry(1)}) == set()
        assert await storage.renew([lease], 10) == set()
        assert own_memcached.command("get :a")[1] == b"other"


@pytest.mark.fault
async def test_a_number_read_before_a_restart_is_not_sent_after_it(
    own_memcached: MemcachedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MemcachedStorage(own_memcached.url) as storage:
        lease = await leased(storage)
        number = own_memcached.command("gets :a")[0].split()[-1]
        cas = Connections.cas

        async def late(self: Connections, *args: Any) -> bool:
            own_memcached.restart()
            own_memcached.command("set :a 0 0 5", b"other")
            assert own_memcached.command("gets :a")[0].split()[-1] == number
            return await cas(self, *args)

        monkeypatch.setattr(Connections, "cas", late)
        with pytest.raises(StorageError):
            await storage.commit({lease: storage.new_entry(1)})
        assert own_memcached.command("get :a")[1] == b"other"


@pytest.mark.fault
async def test_a_server_without_cas_is_refused_with_the_reason() -> None:
    with MemcachedServer("-C") as server:
        async with MemcachedStorage(server.url) as storage:
            with pytest.raises(StorageError, match="runs with -C"):
                await storage.ping()


# --- servers that lie -------------------------------------------------------------------------

Answer = Callable[[bytes], bytes | None]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncGenerator[MemcachedStorage, None]:
    """A storage on a server that gives these answers; None: hangs up. It knows ``stats``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await speak(reader, writer)
        writer.close()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.startswith(b"stats"):
                writer.write(b"STAT time %d\r\nEND\r\n" % time.time())
                continue
            if line.startswith((b"add", b"set", b"cas")):
                await reader.readline()
            reply = answer(line)
            writer.write(reply or b"")
            if reply is None or not reply.endswith(b"\r\n"):
                break

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with MemcachedStorage(f"127.0.0.1:{port}") as storage:
        yield storage
    server.close()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"VALUE :a 0 100 1\r\nthe connection ends he",
        b"VALUE :a 0",
        b"VALUE :other 0 1 1\r\nx\r\nEND\r\n",
        b"VALUE :a 0 1 1\r\nxyz\r\nEND\r\n",
        b"VALUE :a 0 1 1\r\nxyzEND\r\n",
        b"VALUE :a 0 -1 1\r\n\r\nEND\r\n",
        b"VALUE :a 0 99999999999999 1\r\nx\r\n",
        b"VALUE :a 0\r\nx\r\nEND\r\n",
        b"END\r\nEND\r\n",
        b"SERVER_ERROR out of memory\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"x" * 100_000 + b"\r\n",
        bytes(range(256)) + b"\r\n",
    ],
)
async def test_a_reply_that_is_none_is_a_storage_error(reply: bytes | None) -> None:
    async with answering(lambda _: reply) as storage:
        started = time.monotonic()
        with pytest.raises(StorageError):
            await storage.lookup(KEY)
        for work in (storage.lease([KEY], 10), storage.discard([KEY]), storage.set("a", 1)):
            with pytest.raises(StorageError):
                await work
        assert time.monotonic() - started < 0.2


@pytest.mark.parametrize("reply", [b"STOR", b"", b"\r"])
async def test_a_connection_that_ends_in_a_reply_does_not_stop_the_loop(reply: bytes) -> None:
    async with answering(lambda _: reply) as storage:
        with pytest.raises(StorageError):
            await storage.set("a", 1)
        with pytest.raises(StorageError):
            await storage.ping()


async def test_a_server_that_knows_no_stats_is_used_with_the_usual_limits(
    memcached_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_facts(self: Connections, about: bytes = b"") -> dict[bytes, bytes]:
        return await original(self, b"nonsense")

    original = Connections.facts
    monkeypatch.setattr(Connections, "facts", no_facts)
    async with MemcachedStorage(memcached_url) as storage:
        await storage.set("a", 1, ttl=60)
        assert await storage.get("a") == 1


async def test_an_idle_connection_that_the_server_closed_costs_no_error(
    memcached_url: str,
) -> None:
    async with MemcachedStorage(memcached_url) as storage:
        await storage.set("a", 1)
        for line in client_of(storage).lines:
            line.eof_received()
        assert await storage.get("a") == 1

"""`MemcachedStorage` in trouble: cancellations, servers that hang, die or lie, loops and forks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import threading
import time
import traceback
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiomcache import ClientException

from gecaso.entry import Busy, Lease
from gecaso.errors import StorageError, StorageTimeout
from gecaso.keys import as_key
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_wire import Connections, read_values
from tests.servers import MemcachedServer, free_port

KEY = as_key("a")


async def leased(storage: MemcachedStorage) -> Lease:
    got = (await storage.lease([KEY], 10))[KEY]
    assert isinstance(got, Lease)
    return got


async def again_and_again(attempt: Callable[[], Awaitable[object]], seconds: float = 2.0) -> None:
    """Try until it works; fail when it does not within that many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(StorageError):
            await attempt()
            return
        await asyncio.sleep(0.01)  # nobody tells when a server is back
    pytest.fail(f"it did not work within {seconds} s")


def block(seconds: float) -> None:
    """Do what a user's function may do to the loop."""
    time.sleep(seconds)


# --- cancellation -----------------------------------------------------------------------------


async def one_of_everything(storage: MemcachedStorage, n: int, pick: random.Random) -> None:
    key = as_key(n)
    kind = pick.randrange(5)
    if kind == 0:
        entry = await storage.lookup(key)
        assert entry is None or entry.value == n
    elif kind == 1:
        found = await storage.get_many(range(n, n + 20))
        assert all(value == asked for asked, value in found.items())
    elif kind == 2:
        await storage.set(n, n, ttl=60)
    elif kind == 3:
        await storage.remove(n)
    else:
        got = (await storage.lease([key], 10))[key]
        if isinstance(got, Lease):
            assert got.seen is None or got.seen.value == n
            await storage.commit({got: storage.new_entry(n, 60)})


@pytest.mark.fault
@pytest.mark.every_loop
async def test_ten_thousand_cancellations_under_load_cost_nobody_a_wrong_value(
    own_memcached: MemcachedServer,
) -> None:
    tasks_before = asyncio.all_tasks()
    pick = random.Random(2026)
    storage = MemcachedStorage(own_memcached.url, timeout=5, connect_timeout=5)
    cancelled = 0
    while cancelled < 10_000:
        tasks = [
            asyncio.ensure_future(one_of_everything(storage, pick.randrange(100), pick))
            for _ in range(200)
        ]
        for task in pick.sample(tasks, 150):
            await asyncio.sleep(0)
            cancelled += task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
    for n in range(100):
        await storage.set(n, n)
    assert await storage.get_many(range(100)) == {n: n for n in range(100)}
    assert int(own_memcached.stats()["total_connections"]) < 50
    await storage.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks_before


async def test_a_lease_taken_for_a_cancelled_caller_is_given_back(memcached_url: str) -> None:
    async with MemcachedStorage(memcached_url) as storage:
        await storage.ping()
        for ticks in range(100):
            caller = asyncio.ensure_future(storage.lease([KEY], 10))
            for _ in range(ticks):
                await asyncio.sleep(0)
            caller.cancel()
            (got,) = await asyncio.gather(caller, return_exceptions=True)
            if isinstance(got, dict):  # it was done already
                assert ticks > 3
                break
            lease: list[Lease] = []

            async def take() -> None:
                got = (await storage.lease([KEY], 10))[KEY]
                if isinstance(got, Busy):
                    raise StorageError("not yet")
                lease.append(got)  # noqa: B023 - it is called in this round of the loop alone

            await again_and_again(take)
            await storage.release(lease)


async def test_a_loop_that_was_blocked_is_not_the_fault_of_the_server(memcached_url: str) -> None:
    async with MemcachedStorage(memcached_url, timeout=0.1) as storage:
        await storage.set("a", 1)
        asked = storage.lookup(KEY)
        await asyncio.sleep(0.001)
        block(0.3)
        assert (await asked) is not None
        leasing = asyncio.ensure_future(storage.lease([KEY], 10))
        await asyncio.sleep(0.0005)
        block(0.3)
        assert isinstance((await leasing)[KEY], Lease)


# --- servers that go away ---------------------------------------------------------------------


async def test_a_server_that_is_not_there_fails_fast_and_says_what_to_do() -> None:
    storage = MemcachedStorage(f"127.0.0.1:{free_port()}")
    started = time.monotonic()
    for _ in range(10):
        with pytest.raises(StorageError, match="out of reach; see whether it runs there"):
            await storage.ping()
    assert time.monotonic() - started < 0.25
    await storage.aclose()


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
        b"VALUE :a 0 1\r\nx\r\nEND\r\n",
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


async def test_a_line_that_does_not_end_is_not_read_to_its_end() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"x" * 1000)
    with pytest.raises(ClientException):
        await asyncio.wait_for(read_values(reader), 1)


async def test_a_reply_is_read_however_it_is_cut() -> None:
    values = {b"a": b"", b"b": b"END\r\n", b"c": b"VALUE d 0 1 1\r\n", b"e": b"x" * 20}
    reply = b"END\r\n"
    for name, value in reversed(values.items()):
        reply = b"VALUE %b 7 %d 9\r\n%b\r\n" % (name, len(value), value) + reply
    for size in range(1, len(reply) + 1):
        reader = asyncio.StreamReader()
        reading = asyncio.ensure_future(read_values(reader))
        for start in range(0, len(reply), size):
            reader.feed_data(reply[start : start + size])
            await asyncio.sleep(0)
        assert await reading == {name: (value, 9) for name, value in values.items()}


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
        client = storage._here.get().link._client  # pyright: ignore[reportPrivateUsage] - to break it
        assert client is not None
        for reader, _ in client.pool.connections:
            reader.feed_eof()
        assert await storage.get("a") == 1


# --- loops, threads, forks ----------------------------------------------------------------------


@pytest.mark.every_loop
async def test_nothing_is_left_one_tick_after_aclose(own_memcached: MemcachedServer) -> None:
    storage = MemcachedStorage(own_memcached.url)
    await storage.ping()
    await storage.aclose()  # the first connection of a loop may open more for its own use
    tasks_before = asyncio.all_tasks()
    before = len(os.listdir("/proc/self/fd"))
    await storage.set("a", 1)
    running = [asyncio.ensure_future(storage.get("a")) for _ in range(10)]
    running += [asyncio.ensure_future(storage.set(n, n)) for n in range(10)]
    await asyncio.sleep(0)
    asked = storage.lookup(KEY)
    await storage.aclose()
    outcomes = await asyncio.gather(*running, asked, return_exceptions=True)
    assert all(
        not isinstance(one, BaseException) or isinstance(one, StorageError) for one in outcomes
    )
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks_before
    assert len(os.listdir("/proc/self/fd")) == before
    assert await storage.get("a") == 1
    await storage.aclose()


def test_one_storage_works_in_one_loop_after_another(memcached_url: str) -> None:
    storage = MemcachedStorage(memcached_url)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(3):
        asyncio.run(storage.set("a", n))
        assert asyncio.run(storage.get("a")) == n
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_loop_that_was_closed_without_a_word_leaves_nothing(memcached_url: str) -> None:
    storage = MemcachedStorage(memcached_url)
    asyncio.run(storage.ping())
    before = len(os.listdir("/proc/self/fd"))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(storage.set("a", 1))
    loop.close()
    del loop
    assert asyncio.run(storage.get("a")) == 1
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_storage_dropped_without_aclose_closes_its_connections(
    memcached_url: str,
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    storage = MemcachedStorage(memcached_url)
    await storage.set("a", 1)
    gone = weakref.ref(storage)
    del storage
    gc.collect()
    assert gone() is None
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_two_loops_in_two_threads_use_one_storage(memcached_url: str) -> None:
    storage = MemcachedStorage(memcached_url)
    failures: list[str] = []

    async def work(name: str) -> None:
        for n in range(200):
            await storage.set((name, n), (name, n))
            found = await asyncio.gather(*[storage.lookup(as_key((name, m))) for m in range(n + 1)])
            assert all(one is not None for one in found)
            assert [one.value for one in found if one] == [(name, m) for m in range(n + 1)]
            if n == 100:
                await storage.aclose()

    def run(name: str) -> None:
        try:
            asyncio.run(patient(name))
        except BaseException:  # noqa: BLE001 - the test looks at it in its own thread
            failures.append(traceback.format_exc())

    async def patient(name: str) -> None:
        # Closing it in one thread ends what runs in the other one at that moment.
        while True:
            try:
                return await work(name)
            except StorageError as error:
                if "closed during the operation" not in str(error):
                    raise

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking with threads
async def test_after_a_fork_parent_and_child_go_on_without_crossed_replies(
    memcached_url: str,
) -> None:
    async with MemcachedStorage(memcached_url) as storage:
        await storage.set_many({("child", n): ("child", n) for n in range(200)})
        await storage.set_many({("parent", n): ("parent", n) for n in range(200)})

        async def work(name: str) -> None:
            for n in range(200):
                assert await storage.get((name, n)) == (name, n)
                await storage.set((name, n), (name, n))

        asked = storage.lookup(as_key(("parent", 7)))
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(work("child"))
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a child must not run the rest of the tests
                traceback.print_exc()
                os._exit(1)
        await work("parent")
        entry = await asked
        assert entry is not None
        assert entry.value == ("parent", 7)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await work("parent")

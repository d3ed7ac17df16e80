"""A real Redis that refuses: the error says what to do, a cached function goes on without it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest

from gecaso import Cache
from gecaso.errors import StorageError
from gecaso.storages import RedisStorage
from tests.servers import HOST, RedisError, RedisServer

PATIENCE = 10.0


def until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < give_up, "the server did not get into trouble"
        time.sleep(0.01)  # it tells nobody


def refuses(server: RedisServer, word: str, *command: str) -> bool:
    try:
        server.command(*command)
    except RedisError as error:
        return str(error).startswith(word)
    return False


# --- troubles -------------------------------------------------------------------------------------


Cure = Callable[[], object]


@contextmanager
def full() -> Generator[tuple[RedisServer, Cure]]:
    with RedisServer() as server:
        server.command("CONFIG", "SET", "maxmemory", "1")
        yield server, lambda: server.command("CONFIG", "SET", "maxmemory", "0")


@contextmanager
def loading() -> Generator[tuple[RedisServer, Cure]]:
    """A replica that reads what its master has, slowly."""
    with (
        RedisServer("--repl-diskless-sync-delay", "0") as master,
        RedisServer("--loading-process-events-interval-bytes", "1024") as server,
    ):
        for number in range(0, 3000, 100):
            pairs = (word for n in range(number, number + 100) for word in (f"k{n}", "x"))
            master.command("MSET", *pairs)
        server.command("CONFIG", "SET", "key-load-delay", "1000")
        server.command("REPLICAOF", HOST, master.port)
        until(lambda: refuses(server, "LOADING", "GET", "a"))

        def cure() -> None:
            server.command("CONFIG", "SET", "key-load-delay", "0")
            until(lambda: not refuses(server, "LOADING", "GET", "a"))
            server.command("REPLICAOF", "NO", "ONE")

        yield server, cure


@contextmanager
def busy() -> Generator[tuple[RedisServer, Cure]]:
    """Somebody's script runs and runs."""
    with RedisServer("--lua-time-limit", "20") as server, server.connect() as other:
        script = b"while true do end"
        other.sendall(b"*3\r\n$4\r\nEVAL\r\n$%d\r\n%b\r\n$1\r\n0\r\n" % (len(script), script))
        until(lambda: refuses(server, "BUSY", "GET", "a"))
        yield server, lambda: server.command("SCRIPT", "KILL")


@contextmanager
def unable_to_save() -> Generator[tuple[RedisServer, Cure]]:
    with RedisServer() as server:
        (server.data / "dump.rdb").mkdir()  # where it would write
        server.command("CONFIG", "SET", "save", "3600 1")
        server.command("SET", "a", "b")
        server.command("BGSAVE")
        until(lambda: refuses(server, "MISCONF", "SET", "a", "b"))
        yield server, lambda: server.command("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")


@contextmanager
def too_few_replicas() -> Generator[tuple[RedisServer, Cure]]:
    with RedisServer("--min-replicas-to-write", "1") as server:
        yield server, lambda: server.command("CONFIG", "SET", "min-replicas-to-write", "0")


@contextmanager
def a_replica() -> Generator[tuple[RedisServer, Cure]]:
    with RedisServer() as server:
        server.command("REPLICAOF", HOST, 1)
        yield server, lambda: server.command("REPLICAOF", "NO", "ONE")


@contextmanager
def a_replica_without_its_master() -> Generator[tuple[RedisServer, Cure]]:
    with RedisServer("--replica-serve-stale-data", "no", "--replica-read-only", "no") as server:
        server.command("REPLICAOF", HOST, 1)
        yield server, lambda: server.command("REPLICAOF", "NO", "ONE")


@contextmanager
def asking_for_a_password() -> Generator[tuple[RedisServer, Cure]]:
    with RedisServer("--requirepass", "s3cret") as server:

        def cure() -> None:
            with server.connect() as admin:
                admin.sendall(b"AUTH s3cret\r\nCONFIG SET requirepass ''\r\n")
                until(lambda: not refuses(server, "NOAUTH", "GET", "a"))

        yield server, cure


@contextmanager
def without_scripts() -> Generator[tuple[RedisServer, Cure]]:
    with RedisServer() as server:
        server.command("ACL", "SETUSER", "default", "-eval")
        yield server, lambda: server.command("ACL", "SETUSER", "default", "+eval")


@contextmanager
def without_messages() -> Generator[tuple[RedisServer, Cure]]:
    with RedisServer() as server:
        server.command("ACL", "SETUSER", "default", "resetchannels")
        yield server, lambda: server.command("ACL", "SETUSER", "default", "allchannels")


Trouble = Callable[[], AbstractContextManager[tuple[RedisServer, Cure]]]

TROUBLES: list[tuple[Trouble, str]] = [
    (full, "no memory left; raise maxmemory"),
    (loading, "still loading"),
    (busy, "busy with a script"),
    (unable_to_save, "cannot save its data"),
    (too_few_replicas, "too few replicas"),
    (a_replica, "address of its master"),
    (a_replica_without_its_master, "lost its master"),
    (asking_for_a_password, "asks for a valid user and password"),
    (without_scripts, r"\+eval"),
    (without_messages, r"\+publish"),
]


@pytest.mark.fault
@pytest.mark.parametrize(("trouble", "advice"), TROUBLES)
async def test_a_refusal_says_what_to_do_costs_no_value_and_ends_by_itself(
    trouble: Trouble, advice: str
) -> None:
    with trouble() as (server, cure):
        async with RedisStorage(server.url, namespace="t") as storage:
            with pytest.raises(StorageError, match=advice):
                await storage.set("a", 1, ttl=60)
            loads = 0

            @Cache(storage, ttl=60).cached(key="{name}")
            async def load(name: str) -> str:
                nonlocal loads
                loads += 1
                return name

            started = time.monotonic()
            for _ in range(10):
                assert await load("x") == "x"
            assert time.monotonic() - started < 3  # not the time of ten leases
            assert loads == 10
            cure()
            give_up = time.monotonic() + PATIENCE
            while load.stats.hits == 0:
                assert await load("x") == "x"
                assert time.monotonic() < give_up, "caching did not come back"
                await asyncio.sleep(0.01)


async def test_the_url_of_a_cluster_for_a_server_of_its_own_is_told(redis_url: str) -> None:
    place = redis_url.removeprefix("redis://")
    async with RedisStorage(f"redis+cluster://{place}") as storage:
        with pytest.raises(StorageError, match="give the URL as redis://host:port/0"):
            await storage.get("a")


async def test_scripts_that_were_renamed_away_are_told_at_the_first_use() -> None:
    with RedisServer("--rename-command", "EVAL", "") as server:
        async with RedisStorage(server.url) as storage:
            with pytest.raises(StorageError, match="EVAL not renamed or disabled"):
                await storage.set("a", 1)


async def test_a_wrong_password_is_told_and_not_shown() -> None:
    with RedisServer("--requirepass", "s3cret") as server:
        async with RedisStorage(f"redis://user:wr0ng@{HOST}:{server.port}") as storage:
            with pytest.raises(StorageError, match="did not let us in") as failed:
                await storage.set("a", 1)
            assert "wr0ng" not in str(failed.value)


async def test_a_user_with_just_the_rights_that_the_advice_names_can_do_everything() -> None:
    rights = "+mget +get +set +eval +del +unlink +pexpire +pttl +publish +subscribe +unsubscribe"
    with RedisServer() as server:
        server.command(
            *("ACL", "SETUSER", "u", "on", ">p", "~t:*", "&t:*", "&__redis__:invalidate"),
            *(*rights.split(), "+time", "+ping", "+scan", "+client", "+wait", "+role"),
        )
        url = f"redis://u:p@{HOST}:{server.port}"
        async with RedisStorage(url, namespace="t", read_from_replicas=True) as storage:
            changes = storage.changes()
            await asyncio.wait_for(anext(changes), PATIENCE)
            await storage.set("a", 1, ttl=60)
            await asyncio.wait_for(anext(changes), PATIENCE)
            assert await storage.get("a") == 1
            async with storage.leased("b"):
                pass
            await storage.remove("a")
            await storage.clear()


async def test_a_reply_that_nobody_asked_for_ends_the_connection(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    callers: list[asyncio.StreamWriter] = []
    relays: list[asyncio.Task[None] | None] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer)
        relays.append(asyncio.current_task())
        answers, questions = await asyncio.open_connection(HOST, redis_server.port)
        await asyncio.gather(pass_on(reader, questions), pass_on(answers, writer))

    server = await asyncio.start_server(relay, HOST, 0)
    url = f"redis://{HOST}:{server.sockets[0].getsockname()[1]}"
    async with server, asyncio.timeout(PATIENCE):
        async with RedisStorage(url, timeout=5, connect_timeout=5) as storage:
            await storage.set("a", 1)
            for caller in callers:
                caller.write(b"+OK\r\n")
            while " 0 connections" not in repr(storage):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)
            assert await storage.get("a") == 1
        await asyncio.gather(*filter(None, relays))
    assert [record for record in caplog.records if record.name == "asyncio"] == []

"""The tools of the other tests: servers that come, go, hang and return, and event loops."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.servers import MemcachedServer, RedisServer, Server


@pytest.mark.smoke
def test_a_shared_server_is_empty_when_a_test_starts(
    redis_server: RedisServer, memcached_server: MemcachedServer, request: pytest.FixtureRequest
) -> None:
    redis_server.command("SET", "a", "1")
    memcached_server.command("set a 0 0 1", b"1")
    assert memcached_server.command("get a") == [b"VALUE a 0 1", b"1", b"END"]
    request.getfixturevalue("redis_url")
    request.getfixturevalue("memcached_url")
    assert redis_server.command("GET", "a") is None
    assert memcached_server.command("get a") == [b"END"]
    memcached_server.command("set a 0 0 1", b"2")
    assert memcached_server.command("get a") == [b"VALUE a 0 1", b"2", b"END"]


def test_redis_counts_its_commands(redis_server: RedisServer) -> None:
    before = redis_server.commands()
    redis_server.command("MGET", "a", "b")
    redis_server.command("EVAL", "return redis.call('get', KEYS[1])", 1, "a")
    redis_server.command("CLIENT", "ID")
    expected = Counter({"mget": 1, "eval": 1, "get": 1, "client|id": 1})
    assert redis_server.commands() - before == expected


def test_memcached_counts_its_commands(memcached_server: MemcachedServer) -> None:
    before = memcached_server.commands()
    memcached_server.command("set x 0 0 1", b"1")
    memcached_server.command("get x y z")
    memcached_server.command("delete nothing")
    assert memcached_server.commands() - before == Counter({"get": 3, "set": 1, "delete": 1})


def test_redis_answers_over_tls_and_a_unix_socket(redis_server: RedisServer) -> None:
    context = ssl.create_default_context(cafile=str(redis_server.ca_file))
    with (
        socket.create_connection(("127.0.0.1", redis_server.tls_port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        encrypted.sendall(b"PING\r\n")
        assert encrypted.recv(64) == b"+PONG\r\n"
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(str(redis_server.socket_path))
        local.sendall(b"PING\r\n")
        assert local.recv(64) == b"+PONG\r\n"


def ask(server: Server, timeout: float) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as connection:
        connection.sendall(b"nonsense\r\n")
        return connection.recv(64)


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["own_redis", "own_memcached"])
def test_a_server_hangs_while_paused_and_returns_to_the_same_port(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    server.pause()
    with pytest.raises(TimeoutError):
        ask(server, timeout=0.05)
    server.resume()
    assert b"ERR" in ask(server, timeout=5)

    port, pid = server.port, server.pid
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        ask(server, timeout=5)
    server.start()
    server.restart()
    assert server.port == port
    assert server.pid != pid
    assert b"ERR" in ask(server, timeout=5)


@pytest.mark.fault
def test_a_server_outlives_the_thread_that_started_it(own_redis: RedisServer) -> None:
    thread = threading.Thread(target=own_redis.restart)
    thread.start()
    thread.join()
    assert own_redis.command("PING") == "PONG"


ORPHAN = """
import sys, time
from tests.servers import RedisServer
server = RedisServer()
server.start()
print(server.pid, server.data, flush=True)
time.sleep(60)
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_server_dies_with_a_test_process_that_is_killed(redis_url: str) -> None:
    root = Path(__file__).parents[1]
    script = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{ORPHAN}"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, data = parent.stdout.readline().split()
        descriptor = os.pidfd_open(int(pid))
        parent.kill()
    try:
        assert has_ended(descriptor)
    finally:
        os.close(descriptor)
        for path in Path(data).iterdir():
            path.unlink()
        Path(data).rmdir()


def has_ended(descriptor: int) -> bool:
    """Wait until the process of a pidfd has ended, which makes it readable."""
    return bool(select.select([descriptor], [], [], 5)[0])


def test_postgres_answers_and_restarts(postgres_server: PostgresServer) -> None:
    assert postgres_server.greet()
    with PostgresServer() as own:
        pid = own.pid
        own.restart()
        assert own.pid != pid
        assert own.greet()


# -- event loops ---------------------------------------------------------------------------------


async def test_an_async_test_runs_without_a_mark() -> None:
    assert type(asyncio.get_running_loop()).__module__.startswith("asyncio")


@pytest.mark.smoke
@pytest.mark.every_loop
async def test_every_loop_is_the_one_it_says(request: pytest.FixtureRequest) -> None:
    started = False

    async def start() -> None:
        nonlocal started
        started = True

    task = asyncio.get_running_loop().create_task(start())
    began_at_once = started
    await task
    name = request.node.callspec.id
    module = type(asyncio.get_running_loop()).__module__
    assert (name == "uvloop") == module.startswith("uvloop")
    assert (name == "eager") == began_at_once


# -- warnings ------------------------------------------------------------------------------------

LEAKS = """
import socket, asyncio, gc

def test_a_socket_is_left_open():
    socket.socket()
    gc.collect()

async def test_a_coroutine_is_never_awaited():
    asyncio.sleep(0)
    gc.collect()
"""


@pytest.mark.process
def test_a_leak_fails_the_test_that_leaks(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    options = ["-c", str(root / "pyproject.toml"), "--rootdir", str(root), str(tmp_path)]
    run = subprocess.run(
        [*command, *options], check=False, cwd=root, capture_output=True, text=True
    )
    assert "2 failed" in run.stdout, run.stdout
    assert "unclosed <socket" in run.stdout
    assert "was never awaited" in run.stdout

"""memcached over TLS and with a login."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from gecaso.errors import ConfigurationError, StorageError
from gecaso.storages import MemcachedStorage
from tests.conftest import running
from tests.servers import HOST, PATIENCE, MemcachedServer, self_signed


class TLSServer(MemcachedServer):
    """A memcached that speaks TLS alone; its certificate is for localhost."""

    def __init__(self) -> None:
        super().__init__()
        self.certificate, key = self_signed(self.data)
        self.args = ("-Z", "-o", f"ssl_chain_cert={self.certificate},ssl_key={key}")

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)

    def connect(self) -> socket.socket:
        plain = socket.create_connection((HOST, self.port), timeout=PATIENCE)
        return self.context.wrap_socket(plain, server_hostname="localhost")


class LoginServer(MemcachedServer):
    """A memcached that lets nobody in but bob."""

    def __init__(self) -> None:
        super().__init__()
        users = self.data / "users"
        users.write_text("bob:b's@:é\n")
        self.args = ("-Y", str(users))

    def greet(self) -> bool:
        with self.connect() as connection:
            connection.sendall(b"version\r\n")
            return connection.recv(64).startswith(b"CLIENT_ERROR unauthenticated")


@pytest.fixture(scope="module")
def tls_server() -> Iterator[TLSServer]:
    yield from running(TLSServer())


@pytest.fixture(scope="module")
def login_server() -> Iterator[LoginServer]:
    yield from running(LoginServer())


# --- TLS ----------------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_a_server_with_tls_is_used_with_a_context(tls_server: TLSServer) -> None:
    url = f"memcached://localhost:{tls_server.port}"
    async with MemcachedStorage(
        url, ssl=tls_server.context, timeout=5, connect_timeout=5
    ) as storage:
        await storage.set("a", "x" * 500_000)
        assert await storage.get("a") == "x" * 500_000


async def test_a_pool_is_reached_by_tls_alike(tls_server: TLSServer) -> None:
    servers = [f"localhost:{tls_server.port}", f"{HOST}:{tls_server.port}"]
    async with MemcachedStorage(servers, ssl=tls_server.context, connect_timeout=5) as storage:
        await storage.set_many({n: n for n in range(20)})
        assert len(await storage.get_many(range(20))) == 20


async def test_a_certificate_that_nobody_vouches_for_is_refused(tls_server: TLSServer) -> None:
    url = f"memcacheds://localhost:{tls_server.port}"
    async with MemcachedStorage(url, connect_timeout=5) as storage:
        with pytest.raises(StorageError, match="do not agree on TLS"):
            await storage.ping()


async def test_a_server_without_tls_is_no_tls(memcached_address: str) -> None:
    async with MemcachedStorage(f"memcacheds://{memcached_address}") as storage:
        with pytest.raises(StorageError):
            await storage.ping()


# --- login --------------------------------------------------------------------------------------


async def test_a_login_is_given_in_the_url_or_as_options(login_server: LoginServer) -> None:
    at = login_server.address
    for storage in (
        MemcachedStorage(f"memcached://bob:b's%40%3A%C3%A9@{at}", connect_timeout=5),
        MemcachedStorage(at, username="bob", password="b's@:é", connect_timeout=5),
        MemcachedStorage([at], username="bob", password="b's@:é", connect_timeout=5),
    ):
        async with storage:
            await storage.set("a", 1)
            assert await storage.get("a") == 1
        assert "s@:" not in repr(storage)


async def test_a_wrong_password_and_none_say_what_to_do(login_server: LoginServer) -> None:
    at = login_server.address
    async with MemcachedStorage(at, username="bob", password="wrong") as storage:
        with pytest.raises(StorageError, match="the password is wrong"):
            await storage.ping()
    async with MemcachedStorage(at) as storage:
        with pytest.raises(StorageError, match="wants a login"):
            await storage.ping()


@pytest.mark.parametrize(
    "login",
    [
        {"username": "bob"},
        {"password": "x"},
        {"username": "", "password": "x"},
        {"username": "a\r\nb", "password": "x"},
        {"username": "a", "password": "x y"},
        {"username": "a", "password": "x" * 300},
    ],
)
def test_a_login_that_cannot_be_one_is_refused(login: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="username="):
        MemcachedStorage("localhost", **login)


async def test_a_server_that_hangs_up_at_once_may_run_with_sasl() -> None:
    # memcached -S needs a SASL set-up to start; to a command of the classic protocol it hangs up.
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with MemcachedStorage(f"{HOST}:{port}") as storage:
        with pytest.raises(StorageError, match="-S"):
            await storage.ping()
    server.close()
    await asyncio.sleep(0.01)

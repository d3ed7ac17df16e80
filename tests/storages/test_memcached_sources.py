"""Where a pool's list of servers comes from, and how it is followed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
from aiomcache import ClientException

from gecaso.errors import StorageError
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_server import Address
from gecaso.storages._memcached_sources import Named, read_cluster
from tests.servers import HOST, MemcachedServer, free_port
from tests.storages.memcached_kit import again_and_again

Servers = list[MemcachedServer]


def names(storage: MemcachedStorage) -> set[str]:
    """Return the servers that a storage knows."""
    view = storage._pool.view  # pyright: ignore[reportPrivateUsage] - what was found out
    return set() if view is None else set(view.servers)


async def until(storage: MemcachedStorage, servers: set[str]) -> None:
    """Use a storage until it knows these servers: it finds out in the background."""

    async def is_known() -> None:
        await storage.ping()
        if names(storage) != servers:
            raise StorageError("not yet")

    await again_and_again(is_known)


# --- names --------------------------------------------------------------------------------------


class Resolver:
    """Answers for the names of a test, in the place of the system's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts: dict[str, list[str]] = {}
        self.asked = 0
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)

    def getaddrinfo(self, host: Any, port: Any, *more: Any, **options: Any) -> list[Any]:
        if host == HOST:  # where the servers of the tests are
            return self._real(host, port, *more, **options)
        self.asked += 1
        if host not in self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (one, port, 0, 0))
            if ":" in one
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in self.hosts[host]
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


async def resolved(storage: MemcachedStorage) -> set[tuple[str, str]]:
    pool = storage._pool  # pyright: ignore[reportPrivateUsage] - without servers to connect to
    await pool.ask()
    assert pool.view is not None
    return {(name, one.address.host) for name, one in pool.view.servers.items()}


async def test_a_name_with_several_addresses_is_several_servers(resolver: Resolver) -> None:
    resolver.hosts["cache.svc"] = ["10.0.0.2", "10.0.0.1"]
    storage = MemcachedStorage("cache.svc:1234")
    assert await resolved(storage) == {
        ("10.0.0.1:1234", "10.0.0.1"),
        ("10.0.0.2:1234", "10.0.0.2"),
    }
    resolver.hosts["cache.svc"].append("10.0.0.3")
    assert len(await resolved(storage)) == 3


async def test_a_name_with_one_address_keeps_its_name_wherever_it_listens(
    resolver: Resolver,
) -> None:
    resolver.hosts |= {"a": ["10.0.0.1"], "b": ["10.0.0.2"]}
    storage = MemcachedStorage(["a:1", "b:1"])
    assert await resolved(storage) == {("a:1", "10.0.0.1"), ("b:1", "10.0.0.2")}
    view = storage._pool.view  # pyright: ignore[reportPrivateUsage] - what was found out
    assert view is not None
    before = view.ring.owners
    resolver.hosts["b"] = ["10.0.0.9"]
    assert await resolved(storage) == {("a:1", "10.0.0.1"), ("b:1", "10.0.0.9")}
    view = storage._pool.view  # pyright: ignore[reportPrivateUsage] - likewise
    assert view is not None
    assert view.ring.owners == before
    # But it is another machine: what it has is not believed unless it was stored from now on.
    assert {view.servers[name].address.name for name in set(view.ring.owners)} == {"a:1", "b:1"}
    moved = {name for name, since in zip(before, view.since, strict=True) if since > 0}
    assert moved == {"b:1"}


async def test_one_machine_with_an_address_of_each_family_is_one_server(
    resolver: Resolver,
) -> None:
    resolver.hosts["localhost"] = ["::1", "127.0.0.1"]
    assert await resolved(MemcachedStorage("localhost:1")) == {("localhost:1", "localhost")}


async def test_a_name_that_does_not_resolve_is_a_server_out_of_reach_and_no_more(
    resolver: Resolver, memcached_address: str
) -> None:
    host, _, port = memcached_address.partition(":")
    resolver.hosts["here"] = [host]
    async with MemcachedStorage([f"here:{port}", "nowhere:1"], connect_timeout=5) as storage:
        await storage.ping()
        assert names(storage) == {f"here:{port}", "nowhere:1"}
        found = await storage.get_many(range(50))
        assert found == {}
    async with MemcachedStorage("nowhere:1") as storage:
        with pytest.raises(StorageError, match="nowhere:1 is out of reach"):
            await storage.ping()


async def test_names_are_asked_for_again_and_what_was_known_stays_if_that_fails(
    resolver: Resolver, memcached_address: str
) -> None:
    host, _, port = memcached_address.partition(":")
    resolver.hosts["here"] = [host]
    async with MemcachedStorage(f"here:{port}", resolve_every=0.02, connect_timeout=5) as storage:
        await storage.set("a", 1)
        del resolver.hosts["here"]

        async def asked_again() -> None:
            assert await storage.get("a") == 1
            if resolver.asked < 4:
                raise StorageError("not yet")

        await again_and_again(asked_again)
        assert names(storage) == {f"here:{port}"}


async def test_addresses_are_not_asked_for(
    memcached_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(self: Named) -> Any:
        raise AssertionError("it knows")

    monkeypatch.setattr(Named, "ask", ask)
    async with MemcachedStorage(memcached_address, resolve_every=0.001) as storage:
        await storage.set("a", 1)
        await asyncio.sleep(0.01)
        assert await storage.get("a") == 1


# --- a function ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_function_tells_the_servers_and_is_asked_again(
    memcached_servers: Servers, memcached_pool: list[str], kind: str
) -> None:
    told = memcached_pool[:2]
    threads = set[threading.Thread]()

    def plain() -> Iterable[str]:
        threads.add(threading.current_thread())
        return told

    async def asynchronous() -> Iterable[str]:
        return plain()

    function: Callable[[], Any] = plain if kind == "plain" else asynchronous
    async with MemcachedStorage(servers=function, resolve_every=0.02, connect_timeout=5) as storage:
        await storage.set("a", 1)
        assert await storage.get("a") == 1
        assert names(storage) == {one.address for one in memcached_servers[:2]}
        told = memcached_pool
        await until(storage, {one.address for one in memcached_servers})
    assert (threading.main_thread() in threads) == (kind == "async")


@pytest.mark.parametrize("told", [[], None, "a:1", [7], ["redis://x"], 3])
async def test_a_function_that_tells_nonsense_is_an_error_at_first_and_ignored_later(
    memcached_url: str, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with MemcachedStorage(lambda: told) as storage:
        with pytest.raises(StorageError, match="servers of the memcached pool are not known"):
            await storage.get("a")
    answers: list[Any] = [[memcached_url]]
    async with MemcachedStorage(lambda: answers[-1], resolve_every=0.01) as storage:
        await storage.set("a", 1)
        answers.append(told)

        async def warned() -> None:
            assert await storage.get("a") == 1
            if "stay" not in caplog.text:
                raise StorageError("not yet")

        await again_and_again(warned)


async def test_a_function_that_hangs_costs_no_more_than_connecting() -> None:
    async def never() -> list[str]:
        await asyncio.Event().wait()
        return []

    async with MemcachedStorage(never, connect_timeout=0.05) as storage:
        outcomes = await asyncio.wait_for(
            asyncio.gather(*[storage.get(n) for n in range(9)], return_exceptions=True), 1
        )
        assert {type(one) for one in outcomes} == {StorageError}


# --- ElastiCache --------------------------------------------------------------------------------


class Endpoint:
    """A configuration endpoint, played by a socket: ElastiCache itself cannot be had here."""

    def __init__(self) -> None:
        self.config = b""
        self.knows_config = True
        self.port = 0
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.asked.append(line)
            size = len(self.config)
            if line == b"config get cluster\r\n" and self.knows_config:
                reply = b"CONFIG cluster 0 %d\r\n%b\r\nEND\r\n" % (size, self.config)
            elif line == b"get AmazonElastiCache:cluster\r\n" and not self.knows_config:
                reply = b"VALUE AmazonElastiCache:cluster 0 %d\r\n%b\r\nEND\r\n" % (
                    size,
                    self.config,
                )
            else:
                reply = b"ERROR\r\n"
            writer.write(reply)
        writer.close()

    def tell(self, version: int, servers: Iterable[MemcachedServer]) -> None:
        nodes = " ".join(f"node{one.port}.example|{HOST}|{one.port}" for one in servers)
        self.config = f"{version}\n{nodes}\n".encode()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    server = await asyncio.start_server(endpoint.serve, HOST, 0)
    endpoint.port = server.sockets[0].getsockname()[1]
    yield endpoint
    server.close()
    await asyncio.sleep(0.01)


def nodes(servers: Servers) -> set[str]:
    return {f"node{one.port}.example:{one.port}" for one in servers}


@pytest.mark.parametrize("is_new", [True, False])
async def test_the_configuration_endpoint_of_a_cluster_is_followed(
    endpoint: Endpoint, memcached_servers: Servers, memcached_pool: list[str], is_new: bool
) -> None:
    endpoint.knows_config = is_new
    endpoint.tell(3, memcached_servers[:2])
    async with MemcachedStorage(
        f"elasticache://{HOST}:{endpoint.port}", resolve_every=0.02, connect_timeout=5
    ) as storage:
        await storage.set_many({n: n for n in range(30)})
        assert await storage.get_many(range(30)) == {n: n for n in range(30)}
        assert names(storage) == nodes(memcached_servers[:2])
        endpoint.tell(4, memcached_servers)
        await until(storage, nodes(memcached_servers))
        endpoint.tell(2, memcached_servers[:1])  # an endpoint that lags behind
        asked = len(endpoint.asked)

        async def asked_again() -> None:
            await storage.ping()
            if len(endpoint.asked) < asked + 3:
                raise StorageError("not yet")

        await again_and_again(asked_again)
        assert names(storage) == nodes(memcached_servers)


async def test_an_endpoint_that_is_none_says_so(memcached_address: str) -> None:
    async with MemcachedStorage(f"elasticache://{memcached_address}", connect_timeout=5) as storage:
        with pytest.raises(StorageError, match="no configuration endpoint"):
            await storage.get("a")
    async with MemcachedStorage(f"elasticache://{HOST}:{free_port()}") as storage:
        with pytest.raises(StorageError, match="can be reached"):
            await storage.get("a")


def test_a_cluster_is_read_and_nonsense_is_not() -> None:
    version, addresses = read_cluster(b"12\nn1.x|10.0.0.1|11211 n2.x||11212\n")
    assert version == 12
    assert addresses == [
        Address("n1.x:11211", "10.0.0.1", 11211, "n1.x"),
        Address("n2.x:11212", "n2.x", 11212, "n2.x"),
    ]
    for nonsense in (b"", b"12", b"x\na|b|1", b"1\na|b", b"1\na|b|port", b"\xff\n"):
        with pytest.raises(ClientException):
            read_cluster(nonsense)

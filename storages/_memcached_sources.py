"""Which servers there are: those named, those that a name resolves to, or as somebody else says."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from aiomcache import ClientException

from gecaso.errors import ConfigurationError

from ._memcached_client import Dial
from ._memcached_server import ACCEPTED, Address
from ._memcached_wire import Facts, Values

__all__ = ["Asked", "Cluster", "Named", "Servers", "Source", "read_cluster", "texts_of"]

logger = logging.getLogger("gecaso")

Servers = Callable[[], "Iterable[str] | Awaitable[Iterable[str]]"]


class Source(Protocol):
    """Tells the servers of a pool."""

    is_fixed: bool
    """Whether there is no need to ask: ``known`` are the servers."""

    @property
    def known(self) -> Sequence[Address]: ...

    async def ask(self) -> Sequence[Address]:
        """Return the servers; raise what went wrong."""
        ...


class Named:
    """Servers by name.

    A name with one address is one server, wherever it listens. A name with several addresses of
    one family (a headless service) is several servers, each named by its address: which of them
    one would be connected to would be chance.
    """

    def __init__(self, addresses: Iterable[Address]) -> None:
        self.known = tuple(dict.fromkeys(addresses))
        self.is_fixed = all(_is_literal(one.host) for one in self.known)
        self._resolutions: dict[Address, Sequence[Address]] = {}

    def __repr__(self) -> str:
        return ", ".join(map(str, self.known))

    async def ask(self) -> Sequence[Address]:
        found = await asyncio.gather(*map(self._resolved, self.known))
        return [address for some in found for address in some]

    async def _resolved(self, address: Address) -> Sequence[Address]:
        if _is_literal(address.host):
            return (address,)
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except OSError as error:
            # One name that does not resolve is one server that is out of reach.
            logger.debug("%s does not resolve: %s", address, error)
            return self._resolutions.get(address, (address,))
        hosts = {family: set[str]() for family in (socket.AF_INET, socket.AF_INET6)}
        for family, _, _, _, place in infos:
            if family in hosts:
                hosts[family].add(str(place[0]))
        self._resolutions[address] = servers = _servers_of(address, *hosts.values())
        return servers


def _servers_of(address: Address, v4: set[str], v6: set[str]) -> Sequence[Address]:
    hosts = sorted(v4 or v6)
    if len(hosts) > 1:
        return [Address.of(host, address.port)._replace(checked_as=address.host) for host in hosts]
    if len(v4) + len(v6) > 1 or not hosts:  # one machine, two families: connecting tries both
        return (address,)
    return (address._replace(host=hosts[0], checked_as=address.host),)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class Asked:
    """Servers as a function says, plain (it runs in a thread) or ``async``."""

    is_fixed = False

    def __init__(self, function: Servers) -> None:
        self._function = function
        self._named = Named(())
        self.known: Sequence[Address] = ()

    def __repr__(self) -> str:
        return f"as {getattr(self._function, '__qualname__', self._function)!s} says"

    async def ask(self) -> Sequence[Address]:
        if inspect.iscoroutinefunction(self._function):
            told: Any = await self._function()
        else:
            told = await asyncio.to_thread(self._function)
            if inspect.isawaitable(told):
                told = await told
        addresses = tuple(map(Address.parse, texts_of(told)))
        if addresses != self._named.known:
            self._named = Named(addresses)
        return await self._named.ask()


def texts_of(servers: Any) -> list[str]:
    """Return a list of servers; raise `ConfigurationError` if it is something else."""
    if isinstance(servers, Iterable) and not isinstance(servers, str):
        items: list[Any] = [*servers]
        if items and all(isinstance(item, str) for item in items):
            return items
    raise ConfigurationError(f"{ACCEPTED}; not {servers!r}")


class Cluster:
    """The nodes of an ElastiCache cluster, as its configuration endpoint tells them.

    The protocol is that of Amazon's "Adding auto discovery to your client library": ``config get
    cluster``, or for engines before 1.4.14 ``get AmazonElastiCache:cluster``.
    """

    is_fixed = False

    def __init__(self, dial: Dial, timeout: float) -> None:
        self._dial = dial
        self._timeout = timeout
        self._version = -1
        self.known: Sequence[Address] = ()

    def __repr__(self) -> str:
        return f"the cluster of {self._dial.host}:{self._dial.port}"

    async def ask(self) -> Sequence[Address]:
        version, addresses = read_cluster(await self._config())
        if version >= self._version:  # a node that lags tells an old list
            self._version, self.known = version, addresses
        return self.known

    async def _config(self) -> bytes:
        line = await self._dial.connect(self._timeout)
        try:
            lines: list[bytes] = await line.call(b"config get cluster\r\n", Facts)
            if len(lines) > 1:
                return lines[1]
            old = b"AmazonElastiCache:cluster"
            found = await line.call(b"get %b\r\n" % old, lambda done: Values((old,), done))
            if old not in found:
                raise ClientException("it is no configuration endpoint of a cluster", lines)
            data: bytes = found[old][0]
            return data
        finally:
            line.break_off(ConnectionAbortedError("the question was answered"))


def read_cluster(config: bytes) -> tuple[int, list[Address]]:
    """Read the version of a cluster's configuration, and its nodes.

    >>> read_cluster(b"12\\nnode1.example|10.0.0.1|11211 node2.example||11211\\n")[0]
    12
    """
    try:
        version, nodes = config.decode().split("\n", 1)
        addresses: list[Address] = []
        for node in nodes.split():
            host, ip, port = node.split("|")
            addresses.append(Address(f"{host}:{int(port)}", ip or host, int(port), host))
        return int(version), addresses
    except ValueError as error:
        raise ClientException("this is no list of nodes", config[:200]) from error

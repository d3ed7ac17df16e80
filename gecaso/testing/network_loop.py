"""What an event loop in memory answers when it is asked for connections, threads and processes."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from gecaso.testing.failures import CannotExplore
from gecaso.testing.network import Network, Server
from gecaso.testing.transports import Address, Factory, Transport

__all__ = ["NetworkLoop"]

EVERYWHERE = frozenset({None, "", "0.0.0.0", "::"})
HERE = frozenset({"localhost", "127.0.0.1", "::1"})


class NetworkLoop(asyncio.BaseEventLoop):
    """An event loop whose servers and clients are connected in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network(self)

    async def create_server(  # type: ignore[override]  # the options of sockets mean nothing here
        self,
        protocol_factory: Factory,
        host: str | Iterable[str] | None = None,
        port: int | None = None,
        *,
        ssl: object = None,
        sock: object = None,
        start_serving: bool = True,
        **options: object,
    ) -> Server:
        """Listen in memory. Port 0 or None: any that is free."""
        _refuse_options(ssl, sock)
        number = port or self.network.free_port()
        hosts = [host] if isinstance(host, str) or host is None else list(host)
        return self._serve(protocol_factory, [_bound(one, number) for one in hosts], start_serving)

    async def create_unix_server(  # type: ignore[override]  # likewise
        self,
        protocol_factory: Factory,
        path: object = None,
        *,
        ssl: object = None,
        sock: object = None,
        start_serving: bool = True,
        **options: object,
    ) -> Server:
        """Listen in memory at a path; no file is made."""
        _refuse_options(ssl, sock)
        return self._serve(protocol_factory, [str(path)], start_serving)

    def _serve(self, factory: Factory, addresses: list[Address], start: bool) -> Server:
        server = Server(self.network, factory, addresses)
        if start:
            server.begin()
        return server

    async def create_connection(
        self,
        protocol_factory: Factory,
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: object = None,
        sock: object = None,
        **options: object,
    ) -> tuple[Transport, Any]:
        """Connect to a server of this loop; raises `ConnectionRefusedError` if there is none."""
        _refuse_options(ssl, sock)
        if host is None or port is None:
            raise ValueError("host and port were not specified and no sock specified")
        address = ("127.0.0.1" if host in EVERYWHERE | HERE else host, int(port))
        return await self.network.connect(protocol_factory, address)

    async def create_unix_connection(
        self,
        protocol_factory: Factory,
        path: object = None,
        *,
        ssl: object = None,
        sock: object = None,
        **options: object,
    ) -> tuple[Transport, Any]:
        """The same for a path."""
        _refuse_options(ssl, sock)
        return await self.network.connect(protocol_factory, str(path))

    async def getaddrinfo(
        self,
        host: object,
        port: object,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Resolve literal addresses and localhost; no name server is asked."""
        name = host.decode() if isinstance(host, bytes) else host
        try:
            address = ipaddress.ip_address(
                "127.0.0.1" if name in (None, "localhost") else str(name)
            )
        except ValueError:
            raise socket.gaierror(socket.EAI_NONAME, f"no such name in memory: {name!r}") from None
        kind = type or socket.SOCK_STREAM
        number = int(str(port or 0))
        if address.version == 4:
            return [(socket.AF_INET, kind, proto or 6, "", (str(address), number))]
        return [(socket.AF_INET6, kind, proto or 6, "", (str(address), number, 0, 0))]

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        return str(sockaddr[0]), str(sockaddr[1])


def _bound(host: str | None, port: int) -> tuple[str, int]:
    if host in EVERYWHERE or host is None:
        return "", port
    return ("127.0.0.1" if host in HERE else host), port


def _refuse_options(ssl: object, sock: object) -> None:
    if ssl:
        raise CannotExplore("connections in memory have no TLS; leave ssl= out in the scenario")
    if sock is not None:
        raise CannotExplore(
            "real sockets cannot be explored: when they answer depends on the machine; "
            "give host and port of a server of the scenario"
        )


def _refusal(name: str, instead: str) -> Callable[..., NoReturn]:
    def refuse(self: NetworkLoop, *args: object, **options: object) -> NoReturn:
        raise CannotExplore(f"loop.{name}() cannot be explored; {instead}")

    refuse.__name__ = name
    return refuse


SOCKETS = "connect to a server of the scenario by host and port"
PROCESSES = "let the scenario call a function in its place"
SIGNALS = "let the scenario call the handler"
REFUSED = {
    **dict.fromkeys(("add_reader", "remove_reader", "add_writer", "remove_writer"), SOCKETS),
    **dict.fromkeys(("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_sendall"), SOCKETS),
    **dict.fromkeys(("sock_sendto", "sock_connect", "sock_accept", "sock_sendfile"), SOCKETS),
    **dict.fromkeys(("sock_recvfrom_into", "connect_accepted_socket", "start_tls"), SOCKETS),
    **dict.fromkeys(("create_datagram_endpoint", "sendfile"), SOCKETS),
    **dict.fromkeys(("connect_read_pipe", "connect_write_pipe"), PROCESSES),
    **dict.fromkeys(("subprocess_exec", "subprocess_shell"), PROCESSES),
    **dict.fromkeys(("add_signal_handler", "remove_signal_handler"), SIGNALS),
}
for _name, _instead in REFUSED.items():
    setattr(NetworkLoop, _name, _refusal(_name, _instead))

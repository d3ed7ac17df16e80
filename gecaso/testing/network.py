"""Connections in memory: what a server and a client of one event loop write to each other.

Each write arrives as one piece, in its order and at some later point of the schedule. Nothing is
lost unless a connection is aborted or closed. There is no TLS.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import AbstractEventLoop, Future
from collections.abc import Sequence
from typing import Any

from gecaso.testing.transports import Address, Factory, MemorySocket, Transport

__all__ = ["Network", "Server"]

FIRST_FREE_PORT = 49152


class Server(asyncio.AbstractServer):
    """Listens at addresses of one network."""

    def __init__(self, network: Network, factory: Factory, addresses: Sequence[Address]) -> None:
        self._network = network
        self._factory = factory
        self._addresses = addresses
        self._is_serving = False
        self._is_closed = False
        self._transports: dict[Transport, None] = {}
        self._waiters: list[Future[None]] = []

    @property
    def sockets(self) -> tuple[MemorySocket, ...]:
        if self._is_closed:
            return ()
        return tuple(MemorySocket(address, "") for address in self._addresses)

    def get_loop(self) -> AbstractEventLoop:
        return self._network.loop

    def is_serving(self) -> bool:
        return self._is_serving

    async def start_serving(self) -> None:
        self.begin()
        await asyncio.sleep(0)

    def begin(self) -> None:
        """Listen from now on."""
        if not self._is_closed:
            self._is_serving = True
            self._network.listen(self, self._addresses)

    async def serve_forever(self) -> None:
        self.begin()
        try:
            await self._network.loop.create_future()
        finally:
            self.close()
            await self.wait_closed()

    def accept(self, transport: Transport, peer: Transport) -> None:
        """Take a new connection; one that is still in the queue of a closed server is reset."""
        if self._is_closed:
            transport.refuse(peer)
            return
        self._transports[transport] = None
        transport.open(self._factory, peer, self.lost)

    def lost(self, transport: Transport) -> None:
        """Forget a connection that has ended."""
        self._transports.pop(transport, None)
        self._wake()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._is_serving = False
            self._network.forget(self._addresses)
            self._wake()

    def close_clients(self) -> None:
        for transport in list(self._transports):
            transport.close()

    def abort_clients(self) -> None:
        for transport in list(self._transports):
            transport.abort()

    def _wake(self) -> None:
        if self._is_closed and not self._transports:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait_closed(self) -> None:
        """Return when the server is closed; from Python 3.12 on, when its connections are too."""
        if sys.version_info < (3, 12):
            return
        if self._is_closed and self._transports:
            waiter: Future[None] = self._network.loop.create_future()
            self._waiters.append(waiter)
            await waiter


class Network:
    """Who listens where, within one event loop."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self._listening: dict[Address, Server] = {}
        self._next_port = FIRST_FREE_PORT

    def free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def listen(self, server: Server, addresses: Sequence[Address]) -> None:
        for address in addresses:
            if self._listening.setdefault(address, server) is not server:
                raise OSError(98, f"error while attempting to bind on address {address}: in use")

    def forget(self, addresses: Sequence[Address]) -> None:
        for address in addresses:
            self._listening.pop(address, None)

    async def connect(self, factory: Factory, address: Address) -> tuple[Transport, Any]:
        """Connect at some later point; `ConnectionRefusedError` if nobody listens there then."""
        done: Future[Transport] = self.loop.create_future()
        self.loop.call_at(self.loop.time(), self._connect, factory, address, done)
        try:
            transport = await done
        except asyncio.CancelledError:
            if done.done() and not done.cancelled() and done.exception() is None:
                done.result().close()
            raise
        return transport, transport.get_protocol()

    def _connect(self, factory: Factory, address: Address, done: Future[Transport]) -> None:
        if done.done():
            return
        server = self._listening.get(address)
        if server is None and not isinstance(address, str):
            server = self._listening.get(("", address[1]))
        if server is None:
            done.set_exception(ConnectionRefusedError(111, f"nobody listens at {address}"))
            return
        own: Address = "" if isinstance(address, str) else ("127.0.0.1", self.free_port())
        client = Transport(self.loop, own, address)
        other = Transport(self.loop, address, own)
        try:
            client.open(factory, other)
        except Exception as error:  # noqa: BLE001 - the caller made the protocol, he gets its error
            done.set_exception(error)
            return
        self.loop.call_at(self.loop.time(), server.accept, other, client)
        # Later than connection_made, as asyncio has it.
        self.loop.call_soon(_give, done, client)


def _give(done: Future[Transport], transport: Transport) -> None:
    if done.done():
        transport.close()
    else:
        done.set_result(transport)

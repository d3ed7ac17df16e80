"""Connections in memory keep what sockets promise, in every order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gecaso.testing import CannotExplore, VirtualLoop, choose, explore
from gecaso.testing.transports import MemorySocket

Scenario = Callable[[], Coroutine[Any, Any, object]]
PORT = 6000


class Recorder(asyncio.Protocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.transport: Any = None
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.seen.append("made")

    def data_received(self, data: bytes) -> None:
        self.seen.append(data)

    def eof_received(self) -> bool:
        self.seen.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.seen.append("lost")
        self.lost.set_result(exc)

    def pause_writing(self) -> None:
        self.seen.append("pause")

    def resume_writing(self) -> None:
        self.seen.append("resume")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - in virtual time polling costs nothing
        await asyncio.sleep(0)


async def pair(kind: type[Recorder] = Recorder) -> tuple[Recorder, Recorder]:
    """Return the two ends of a connection."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Queue[Recorder] = asyncio.Queue()

    def accept() -> Recorder:
        accepted.put_nowait(other := kind())
        return other

    server = await loop.create_server(accept, "localhost", 0)
    _, client = await loop.create_connection(kind, *server.sockets[0].getsockname())
    other = await accepted.get()
    server.close()
    await until(lambda: other.transport is not None)
    return client, other


async def pieces_arrive_in_order() -> None:
    client, other = await pair()
    client.transport.write(b"a")
    client.transport.writelines([b"b", bytearray(b"c")])
    client.transport.write(memoryview(b"d"))
    client.transport.close()
    assert client.transport.is_closing()
    assert "lost" not in client.seen  # it is told later, not within close()
    client.transport.write(b"too late")
    assert await other.lost is None
    assert other.seen == ["made", b"a", b"bc", b"d", "eof", "lost"]
    await client.lost
    assert client.seen == ["made", "lost"]


async def half_closed() -> None:
    class Open(Recorder):
        def eof_received(self) -> bool:
            super().eof_received()
            return True

    client, other = await pair(Open)
    client.transport.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        client.transport.write(b"x")
    await until(lambda: other.seen[-1] == "eof")
    other.transport.write(b"still")
    other.transport.close()
    await other.lost
    await until(lambda: client.seen[-1] == "eof")
    assert client.seen == ["made", b"still", "eof"]
    client.transport.close()
    await client.lost


async def aborted() -> None:
    client, other = await pair()
    other.transport.write(b"never read")
    client.transport.abort()
    error = await other.lost
    await client.lost
    assert client.seen[-1] == "lost"
    # Whether it was read is a matter of the schedule; a reset tells that it was not.
    assert isinstance(error, ConnectionResetError) == (b"never read" not in client.seen)


async def written_after_the_peer_has_gone() -> None:
    class Open(Recorder):
        def eof_received(self) -> bool:
            return True

    client, other = await pair(Open)
    client.transport.close()
    await client.lost
    other.transport.write(b"to nobody")
    assert isinstance(await other.lost, ConnectionResetError)


async def reading_paused() -> None:
    client, other = await pair()
    other.transport.pause_reading()
    assert not other.transport.is_reading()
    client.transport.write(b"x" * 70_000)
    assert client.seen == ["made", "pause"]
    assert client.transport.get_write_buffer_size() == 70_000
    await asyncio.sleep(1)
    assert other.seen == ["made"]
    other.transport.resume_reading()
    await asyncio.sleep(1)
    assert len(other.seen[-1]) == 70_000  # type: ignore[arg-type]  # they are bytes
    assert client.seen == ["made", "pause", "resume"]
    client.transport.set_write_buffer_limits(high=10)
    assert client.transport.get_write_buffer_limits() == (2, 10)
    client.transport.write(b"x" * 11)
    assert client.seen[-1] == "pause"
    client.transport.abort()
    await other.lost


async def buffered_protocol() -> None:
    got = bytearray()
    ended = asyncio.Event()

    class Buffered(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint: int) -> bytearray:
            self.buffer = bytearray(2)
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            got.extend(self.buffer[:nbytes])

        def connection_lost(self, exc: Exception | None) -> None:
            ended.set()

    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Buffered, "/there")
    transport, _ = await loop.create_unix_connection(asyncio.Protocol, "/there")
    assert transport.get_extra_info("peername") == "/there"
    transport.write(b"abcde")
    transport.close()
    await ended.wait()
    server.close()
    await server.wait_closed()
    assert got == b"abcde"


async def closed_before_it_has_accepted() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, "localhost", PORT)
    _, client = await loop.create_connection(Recorder, "localhost", PORT)
    server.close()
    await asyncio.sleep(1)
    if client.seen != ["made"]:
        assert isinstance(await client.lost, ConnectionResetError)
    client.transport.close()
    await client.lost


async def refused() -> None:
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("localhost", PORT)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), None, PORT)
    _, writer = await asyncio.open_connection("127.0.0.1", PORT)
    writer.close()
    with pytest.raises(OSError, match="in use"):
        await asyncio.start_server(lambda reader, writer: None, None, PORT)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("localhost", PORT)
    await server.wait_closed()
    assert not server.is_serving()
    assert server.sockets == ()


async def cancelled_while_connecting() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        writer.close()
        ended.set()

    server = await asyncio.start_server(serve, "localhost", PORT)
    connecting = asyncio.create_task(asyncio.open_connection("localhost", PORT))
    for _ in range(choose(6)):
        await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait((connecting,))
    if not connecting.cancelled():
        connecting.result()[1].close()
    server.close()
    await asyncio.wait_for(server.wait_closed(), 10)


async def serving_for_ever() -> None:
    server = await asyncio.start_server(
        lambda reader, writer: writer.close(), ["localhost", "::1"], PORT, start_serving=False
    )
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("localhost", PORT)
    serving = asyncio.create_task(server.serve_forever())
    await until(server.is_serving)
    reader, writer = await asyncio.open_connection("localhost", PORT)
    assert await reader.read() == b""
    writer.close()
    serving.cancel()
    await asyncio.wait((serving,))
    assert not server.is_serving()


async def names() -> None:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo("localhost", 80)
    assert found[0][4] == ("127.0.0.1", 80)
    assert (await loop.getaddrinfo("::1", "80"))[0][0] == socket.AF_INET6
    assert await loop.getnameinfo(("127.0.0.1", 80)) == ("127.0.0.1", "80")
    with pytest.raises(socket.gaierror):
        await loop.getaddrinfo("example.org", 80)


async def a_socket_to_set_options_of() -> None:
    client, other = await pair()
    sock = client.transport.get_extra_info("socket")
    assert isinstance(sock, MemorySocket)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert (sock.family, sock.fileno(), sock.detach()) == (socket.AF_INET, -1, -1)
    assert sock.getpeername() == other.transport.get_extra_info("sockname")
    client.transport.close()
    await other.lost


SCENARIOS: list[Scenario] = [
    *(pieces_arrive_in_order, half_closed, aborted, written_after_the_peer_has_gone),
    *(reading_paused, buffered_protocol, refused, closed_before_it_has_accepted),
    *(cancelled_while_connecting, serving_for_ever, names, a_socket_to_set_options_of),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_connection_in_memory_is_like_one_of_sockets(scenario: Scenario) -> None:
    explore(scenario, schedules=300)


def test_replies_of_two_connections_come_in_any_order() -> None:
    seen: set[tuple[bytes, ...]] = set()

    async def scenario() -> None:
        got: list[bytes] = []

        class Server(Recorder):
            def data_received(self, data: bytes) -> None:
                got.append(data)

        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, "localhost", PORT)
        clients = [(await loop.create_connection(Recorder, "localhost", PORT))[0] for _ in range(2)]
        clients[0].write(b"1")
        clients[1].write(b"2")
        clients[0].write(b"3")
        await asyncio.sleep(1)
        seen.add(tuple(got))
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()

    explore(scenario, schedules=300)
    assert seen == {(b"1", b"2", b"3"), (b"1", b"3", b"2"), (b"2", b"1", b"3")}


def test_loops_do_not_share_a_network() -> None:
    one, other = VirtualLoop(), VirtualLoop()
    one.run_until_complete(one.create_server(asyncio.Protocol, "localhost", PORT))
    with pytest.raises(ConnectionRefusedError):
        other.run_until_complete(other.create_connection(asyncio.Protocol, "localhost", PORT))
    one.close()
    other.close()


def test_real_sockets_are_refused() -> None:
    loop = VirtualLoop()
    with socket.socket() as sock:
        for opening in (
            loop.create_connection(asyncio.Protocol, sock=sock),
            loop.create_server(asyncio.Protocol, sock=sock),
        ):
            with pytest.raises(CannotExplore, match="real sockets"):
                loop.run_until_complete(opening)
        with pytest.raises(CannotExplore, match="remove_reader"):
            loop.remove_reader(sock)
    loop.close()

"""The two ends of a connection in memory."""

from __future__ import annotations

import asyncio
import socket
from asyncio import AbstractEventLoop, BaseProtocol
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

__all__ = ["Address", "Factory", "MemorySocket", "Transport"]

Factory = Callable[[], Any]
Address = tuple[str, int] | str
"""Host and port, or a path. Every host that stands for this machine is written 127.0.0.1, and all
of them together as the empty text."""

HIGH_WATER = 64 * 1024  # bytes written and not yet delivered, as asyncio has it

EOF: Final = object()


class MemorySocket:
    """What `get_extra_info` gives as the socket: it takes options and does nothing."""

    type = socket.SOCK_STREAM
    proto = 0

    def __init__(self, own: Address, peer: Address) -> None:
        self.family = socket.AF_UNIX if isinstance(own, str) else socket.AF_INET
        self._own = own
        self._peer = peer
        self._options: dict[tuple[int, int], Any] = {}

    def setsockopt(self, level: int, option: int, value: Any, *rest: Any) -> None:
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int, *rest: Any) -> Any:
        return self._options.get((level, option), 0)

    def getsockname(self) -> Address:
        return self._own

    def getpeername(self) -> Address:
        return self._peer

    def fileno(self) -> int:
        return -1

    def detach(self) -> int:
        return -1


class Transport(asyncio.Transport):
    """One end of a connection in memory."""

    def __init__(self, loop: AbstractEventLoop, own: Address, peer: Address) -> None:
        memory_socket = MemorySocket(own, peer)
        super().__init__({"sockname": own, "peername": peer, "socket": memory_socket})
        self._loop = loop
        self._protocol: Any = None
        self._peer: Transport | None = None
        self._lost: Callable[[Transport], None] | None = None
        self._inbox: deque[Any] = deque()
        self._is_pumping = False
        self._is_paused = False
        self._is_closing = False
        self._is_lost = False
        self._wrote_eof = False
        self._unread = 0  # bytes on their way to the peer
        self._is_full = False
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4

    def __repr__(self) -> str:
        state = "lost" if self._is_lost else "closing" if self._is_closing else "open"
        return f"<Transport from {self.get_extra_info('sockname')}, {state}>"

    def open(
        self, factory: Factory, peer: Transport, lost: Callable[[Transport], None] | None = None
    ) -> None:
        """Make the protocol and tell it, before anything else, of the connection.

        ``lost(self)`` is called when it is lost.
        """
        self._peer = peer
        self._tell_lost = lost
        self._protocol = factory()
        self._protocol.connection_made(self)
        self._pump_soon()

    def refuse(self, peer: Transport) -> None:
        """Never open; the peer, which is open already, learns that it is reset."""
        self._is_closing = True
        peer.put(ConnectionResetError("Connection reset by peer"))

    # --- reading ------------------------------------------------------------------------------

    def put(self, piece: object) -> None:
        """Take a piece from the peer: bytes, `EOF`, or the error that ends the connection."""
        self._inbox.append(piece)
        self._pump_soon()

    def _pump_soon(self) -> None:
        ready = self._inbox and not self._is_paused and self._protocol is not None
        if ready and not self._is_pumping:
            self._is_pumping = True
            self._loop.call_at(self._loop.time(), self._pump)

    def next_piece(self) -> str:
        """Tell what will be delivered next, and to whom."""
        piece = self._inbox[0] if self._inbox else b""
        what = f"{len(piece)} bytes" if isinstance(piece, bytes) else "the end"
        return f"{what} for {type(self._protocol).__name__} at {self.get_extra_info('sockname')}"

    def _pump(self) -> None:
        self._is_pumping = False
        if self._is_paused or not self._inbox:
            return
        piece = self._inbox.popleft()
        if isinstance(piece, bytes):
            self._take(piece)
        elif not self._is_closing:
            if piece is EOF:
                if not self._protocol.eof_received():
                    self.close()
            else:
                self._lose(cast(Exception, piece))
        self._pump_soon()

    def _take(self, data: bytes) -> None:
        assert self._peer is not None
        self._peer.delivered(len(data))
        if self._is_closing:
            return
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            self._take_buffered(self._protocol, data)
        else:
            self._protocol.data_received(data)

    def _take_buffered(self, protocol: asyncio.BufferedProtocol, data: bytes) -> None:
        while data:
            buffer = memoryview(protocol.get_buffer(len(data)))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._pump_soon()

    def is_reading(self) -> bool:
        return not self._is_paused and not self._is_closing

    # --- writing ------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):  # pyright: ignore[reportUnnecessaryIsInstance] - as asyncio does
            raise TypeError(f"data must be bytes-like, not {type(data).__name__}")
        if self._wrote_eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        peer = self._peer
        if self._is_closing or peer is None or not data:
            return
        if peer.is_closing():
            self.put(ConnectionResetError("the peer has closed the connection"))
            return
        self._unread += len(data)
        peer.put(bytes(data))
        if self._unread > self._high and not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def delivered(self, size: int) -> None:
        """The peer has read some bytes."""
        self._unread -= size
        if self._is_full and self._unread <= self._low:
            self._is_full = False
            if not self._is_lost:
                self._protocol.resume_writing()

    def write_eof(self) -> None:
        if self._wrote_eof or self._is_closing:
            return
        self._wrote_eof = True
        self._tell_peer(EOF)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._unread

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    # --- ends ---------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._end(None, EOF)

    def abort(self) -> None:
        # What has been sent is with the peer's kernel; a reset tells that something was not read.
        unread = any(isinstance(piece, bytes) for piece in self._inbox)
        self._end(None, ConnectionResetError("Connection reset by peer") if unread else EOF)

    def _lose(self, error: Exception | None) -> None:
        self._end(error, EOF)

    def _end(self, error: Exception | None, last: object) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        if not self._wrote_eof or last is not EOF:
            self._tell_peer(last)
        self._loop.call_soon(self._connection_lost, error)

    def _tell_peer(self, piece: object) -> None:
        if self._peer is not None and not self._peer.is_closing():
            self._peer.put(piece)

    def _connection_lost(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        for piece in self._inbox:  # nobody reads them: the peer need not wait
            if isinstance(piece, bytes) and self._peer is not None:
                self._peer.delivered(len(piece))
        self._inbox.clear()
        self._protocol.connection_lost(error)
        if self._tell_lost is not None:
            self._tell_lost(self)

    def set_protocol(self, protocol: BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> BaseProtocol:
        return cast(BaseProtocol, self._protocol)

"""Commands sent to a real server and to its model, and their replies to the byte.

After each command every client sends a command that is known to the other side; so all that the
command led to has been read when the reply to that one has come, messages to subscribers too.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import hiredis

from gecaso.storages._redis_wire import packed

from . import replies
from .memcached_model import Found, MemcachedModel
from .memcached_stream import MemcachedStream, encoded
from .redis_model import RedisModel

__all__ = ["MemcachedPair", "RedisPair"]

PATIENCE = 10.0  # seconds
TOLERANCE = 10_000  # milliseconds between two looks at a time to live, on a busy machine

_ID = re.compile(rb"(\$2\r\nid\r\n:)\d+")


class _Wire:
    """A plain socket to a real server."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def ask(self, data: bytes, until: bytes) -> bytes:
        """Send bytes; return what comes in up to ``until``, which is the end of it."""
        self._socket.sendall(data)
        read = b""
        while not read.endswith(until):
            more = self._socket.recv(1 << 20)
            if not more:
                raise EOFError(f"the server closed the connection after {read!r}")
            read += more
        return read

    def close(self) -> None:
        self._socket.close()


class RedisPair:
    """Clients of a real Redis, and as many of a model."""

    def __init__(self, port: int, model: RedisModel, clients: int) -> None:
        self.model = model
        self._wires = [_Wire(port) for _ in range(clients)]
        self._told: list[bytearray] = [bytearray() for _ in range(clients)]
        self._sessions = [model.connect(partial(self._push, at)) for at in range(clients)]
        self._count = 0
        for command in ((b"FLUSHALL",), (b"SCRIPT", b"FLUSH")):
            self.ask(0, command)

    def close(self) -> None:
        for wire in self._wires:
            wire.close()

    def _push(self, at: int, push: replies.Push) -> None:
        self._told[at] += replies.encoded(push, self._sessions[at].protocol)

    def ask(self, client: int, command: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Run a command on both sides; return what each client got: (really, from the model)."""
        pairs: list[tuple[bytes, bytes]] = []
        session = self._sessions[client]
        reply: Any = session.execute(command)
        self._told[client] += replies.encoded(reply, session.protocol)
        order = [client, *(at for at in range(len(self._wires)) if at != client)]
        for at in order:
            self._count += 1
            sentinel = b"sentinel %d" % self._count
            ping = (b"PING", sentinel)
            model_says = bytes(self._told[at]) + replies.encoded(
                self._sessions[at].execute(ping), self._sessions[at].protocol
            )
            self._told[at].clear()
            data = packed(ping)
            if at == client:
                data = packed(tuple(command)) + data
            pairs.append((self._wires[at].ask(data, sentinel + b"\r\n"), model_says))
        return pairs

    def difference(self, client: int, command: Sequence[bytes]) -> str | None:
        """Run a command on both sides; return how they differ.

        Equal are: all bytes; but numbers of connections are not compared, times to live may differ
        by the tolerance, the channels that one UNSUBSCRIBE leaves come in any order, of TIME only
        the form is compared, of INFO what a storage reads, and of SCAN the names of all pages.
        """
        name = command[0].upper()
        if name == b"SCAN" and len(command) >= 2 and command[1] == b"0":
            return self._difference_of_scan(client, command)
        for really, modelled in self.ask(client, command):
            if not _are_alike(name, really, modelled):
                return f"client {client}: {command!r}\n  real:  {really!r}\n  model: {modelled!r}"
        return None

    def _difference_of_scan(self, client: int, command: Sequence[bytes]) -> str | None:
        sides: list[Any] = []
        for side in (0, 1):
            cursor: bytes = b"0"
            found = set[bytes]()
            while True:
                (page,) = self.ask(client, (command[0], cursor, *command[2:]))[:1]
                parsed = _parsed(page[side])[0]
                if not isinstance(parsed, list):
                    sides.append(repr(parsed))
                    break
                cursor, names = cast("tuple[bytes, list[bytes]]", parsed)
                found.update(names)
                if cursor == b"0":
                    sides.append(found)
                    break
        return None if sides[0] == sides[1] else f"{command!r}\n  real, model: {sides!r}"


def _are_alike(name: bytes, really: bytes, modelled: bytes) -> bool:
    if really == modelled:
        return True
    if name == b"HELLO":
        return _ID.sub(rb"\1", really) == _ID.sub(rb"\1", modelled)
    if name not in (b"PTTL", b"TIME", b"INFO", b"UNSUBSCRIBE"):
        return False
    one, other = _parsed(really), _parsed(modelled)
    if len(one) != len(other):
        return False
    if name == b"UNSUBSCRIBE":
        return _channels(one) == _channels(other)
    if name == b"PTTL":
        return all(
            a == b or (isinstance(a, int) and min(a, b) >= 0 and abs(a - b) <= TOLERANCE)
            for a, b in zip(one, other, strict=True)
        )
    if name == b"TIME":
        return all(int(part) >= 0 for part in other[0]) and len(other[0]) == len(one[0]) == 2
    return _facts(one[0]) == _facts(other[0])


def _parsed(data: bytes) -> list[Any]:
    """Return the replies in some bytes."""
    nothing = object()
    reader = hiredis.Reader(notEnoughData=nothing)
    reader.feed(data)
    return list(iter(reader.gets, nothing))


def _channels(told: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return what was told of channels: their names, sorted, and the numbers of those left."""
    notes = [tuple(one) for one in told if not isinstance(one, bytes)]
    return sorted(note[:2] for note in notes), [note[2:] for note in notes]


def _facts(info: Any) -> list[bytes]:
    """Return what a storage reads of a reply to INFO."""
    text = info if isinstance(info, bytes) else str(info).encode()
    return re.findall(rb"^(?:redis_version:\d+\.\d+|maxmemory_policy:\S+)", text, re.MULTILINE)


class MemcachedPair:
    """A client of a real memcached, and its model.

    Numbers of ``cas`` may differ by a constant: what was stored before. `number` turns a number of
    the model into the real one.
    """

    END = b"VERSION 1.6.18\r\n"

    def __init__(self, port: int, model: MemcachedModel) -> None:
        self.model = model
        self._wire = _Wire(port)
        self._stream = MemcachedStream(model)
        self._offset = 0
        self._ask(b"flush_all\r\n")
        model.execute((b"flush_all",))
        self._ask(b"set first 0 0 0\r\n\r\n")
        model.execute((b"set", b"first", b"0", b"0", b"0"), b"")
        ((_, _, _, number),) = _values(self._ask(b"gets first\r\n"))
        assert number is not None
        self._offset = number - model.cas

    def close(self) -> None:
        self._wire.close()

    def _ask(self, data: bytes) -> bytes:
        return self._wire.ask(data + b"version\r\n", self.END).removesuffix(self.END)

    def difference(self, line: Sequence[bytes], data: bytes | None = None) -> str | None:
        """Run a command on both sides; return how they differ.

        Equal are: all bytes; but the numbers of ``cas`` differ by one constant, and of ``stats``
        only what a storage reads is compared, times to two seconds.
        """
        body = b"" if data is None else data + b"\r\n"
        sent = b" ".join(line) + b"\r\n" + body
        modelled = b"".join(run() for _, run in self._stream.feed(sent))
        if line[0] == b"cas" and len(line) == 6 and line[5].isdigit():
            line = (*line[:5], b"%d" % (int(line[5]) + self._offset))
        really = self._ask(b" ".join(line) + b"\r\n" + body)
        if line[0] == b"gets" and really.startswith(b"VALUE"):
            really = self._renumbered(really)
        if line[0] == b"stats":
            really = _stats_in(really, modelled)
        if really == modelled:
            return None
        return f"{line!r} {data!r:.60}\n  real:  {really!r:.300}\n  model: {modelled!r:.300}"

    def _renumbered(self, really: bytes) -> bytes:
        values = [
            each._replace(cas=None if each.cas is None else each.cas - self._offset)
            for each in _values(really)
        ]
        return encoded(values)


_VALUE = re.compile(rb"VALUE (\S+) (\d+) (\d+)(?: (\d+))?\r\n")


def _values(data: bytes) -> list[Found]:
    found: list[Found] = []
    at = 0
    while head := _VALUE.match(data, at):
        name, flags, size, cas = head.groups()
        end = head.end() + int(size)
        number = None if cas is None else int(cas)
        found.append(Found(name, int(flags), data[head.end() : end], number))
        at = end + 2
    assert data[at:] == b"END\r\n", data[at:]
    return found


def _stats_in(really: bytes, modelled: bytes) -> bytes:
    """Return the real facts of which the model knows, as the model has them if they are alike."""
    facts = dict(line.split(b" ", 2)[1:] for line in really.split(b"\r\n")[:-2])
    lines: list[bytes] = []
    for line in modelled.split(b"\r\n")[:-2]:
        name, fact = line.split(b" ", 2)[1:]
        told = facts.get(name, b"")
        is_alike = name == b"time" or told == fact  # the clocks are not the same
        lines.append(b"STAT %b %b\r\n" % (name, fact if is_alike else told))
    return b"".join(lines) + b"END\r\n"

"""What the model of Redis answers with, and its form on the wire (RESP2 and RESP3)."""

from __future__ import annotations

from typing import Any

__all__ = ["OK", "Failure", "Push", "Reply", "Several", "Status", "Verbatim", "encoded"]

Reply = Any
"""bytes, int, None, a list or a dict of these, or one of the classes below."""


class Status(bytes):
    """A simple string: ``+OK``."""


class Failure(bytes):
    """An error: ``-ERR …``. Returned, not raised: it is a reply like any other."""


class Verbatim(bytes):
    """Text that RESP3 marks as such, and RESP2 sends as bytes."""


class Push(list[Any]):
    """A message that nobody asked for, and what is sent like one."""


class Several(list[Any]):
    """One command, many replies: subscribing to three channels."""


OK = Status(b"OK")


def encoded(reply: Reply, protocol: int = 2) -> bytes:
    """Return a reply as it is sent in version 2 or 3 of the protocol."""
    if isinstance(reply, bytes):
        return _text(reply, protocol)
    if reply is None:
        return b"_\r\n" if protocol == 3 else b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, Several):
        return b"".join([encoded(one, protocol) for one in reply])
    if not isinstance(reply, list):
        flat: list[Any] = [part for pair in reply.items() for part in pair]
        mark, count = (b"%", len(reply)) if protocol == 3 else (b"*", len(flat))
        return b"%b%d\r\n" % (mark, count) + b"".join([encoded(one, protocol) for one in flat])
    mark = b">" if protocol == 3 and isinstance(reply, Push) else b"*"
    parts = [encoded(one, protocol) for one in _parts(reply)]
    return b"%b%d\r\n" % (mark, len(parts)) + b"".join(parts)


def _parts(reply: Reply) -> list[Any]:
    parts: list[Any] = reply
    return parts


def _text(reply: bytes, protocol: int) -> bytes:
    if isinstance(reply, Status):
        return b"+%b\r\n" % reply
    if isinstance(reply, Failure):
        return b"-%b\r\n" % reply
    if isinstance(reply, Verbatim) and protocol == 3:
        return b"=%d\r\ntxt:%b\r\n" % (len(reply) + 4, reply)
    return b"$%d\r\n%b\r\n" % (len(reply), reply)

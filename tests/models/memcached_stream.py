"""The classic protocol of memcached: bytes -> commands for the model, replies -> bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from .memcached_model import BAD_FORMAT, LONGEST_KEY, MemcachedModel, Reply, number_of

__all__ = ["Asked", "MemcachedStream", "encoded"]

Asked = tuple[Sequence[bytes], Callable[[], bytes]]
"""A command, and what runs it and returns its reply as it is sent."""

BAD_CHUNK = b"CLIENT_ERROR bad data chunk\r\n"


class MemcachedStream:
    """What comes in over one connection, cut into commands."""

    def __init__(self, model: MemcachedModel) -> None:
        self._model = model
        self._unread = b""

    def feed(self, data: bytes) -> Iterator[Asked]:
        """Take bytes; return the commands that are complete with them."""
        data, at = self._unread + data, 0
        while (end := data.find(b"\n", at)) >= 0:
            line = data[at:end].removesuffix(b"\r").split(b" ")
            line = [word for word in line if word]
            length = _length_of_data(line)
            if not isinstance(length, int):
                at = end + 1
                yield line, partial(self._run, line) if length is None else partial(_say, length)
                continue
            rest = end + 1 + length + 2
            if len(data) < rest:
                break
            at = rest
            value, ending = data[end + 1 : rest - 2], data[rest - 2 : rest]
            is_whole = ending == b"\r\n"
            yield line, partial(self._run, line, value) if is_whole else partial(_say, BAD_CHUNK)
        self._unread = data[at:]

    def _run(self, line: Sequence[bytes], data: bytes | None = None) -> bytes:
        return encoded(self._model.execute(line, data))


def _say(complaint: bytes) -> bytes:
    return complaint


def encoded(reply: Reply) -> bytes:
    """Return a reply as it is sent."""
    if isinstance(reply, bytes):
        return reply + b"\r\n"
    if isinstance(reply, dict):
        return b"".join(b"STAT %b %b\r\n" % fact for fact in reply.items()) + b"END\r\n"
    lines: list[bytes] = []
    for name, flags, data, cas in reply:
        number = b"" if cas is None else b" %d" % cas
        lines.append(b"VALUE %b %d %d%b\r\n%b\r\n" % (name, flags, len(data), number, data))
    return b"".join(lines) + b"END\r\n"


def _length_of_data(line: Sequence[bytes]) -> int | bytes | None:
    """Return how many bytes of data follow a line, None for none, or what is wrong with it."""
    if not line or line[0] not in (b"set", b"add", b"cas"):
        return None
    if len(line) != (6 if line[0] == b"cas" else 5):
        return b"ERROR\r\n"
    flags, exptime, length = number_of(line[2], 64), number_of(line[3], 63), number_of(line[4], 31)
    bad_number = line[0] == b"cas" and number_of(line[5], 64) is None
    if flags is None or exptime is None or length is None or bad_number:
        return BAD_FORMAT + b"\r\n"
    return BAD_FORMAT + b"\r\n" if flags < 0 or length < 0 or len(line[1]) > LONGEST_KEY else length

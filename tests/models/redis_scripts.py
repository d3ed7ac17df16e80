"""What each script of gecaso does, said in Python; found by its very text.

The texts are repeated here on purpose: a script that is changed in the storage is unknown to the
model until somebody has said here, too, what it does now, and the real server has agreed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

__all__ = ["SCRIPTS", "Script"]

Call = Callable[..., Any]
"""``redis.call`` of a script; nil is False, as in Lua. It raises what ends the script."""


class Script(NamedTuple):
    text: bytes
    run: Callable[[Call, Sequence[bytes], Sequence[bytes]], int]

    @property
    def digest(self) -> str:
        return sha1(self.text, usedforsecurity=False).hexdigest()


_END = b"redis.call('DEL', KEYS[2]) redis.call('PUBLISH', KEYS[2], '') return 1"
_OURS = b"if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end "


def _end(call: Call, keys: Sequence[bytes]) -> int:
    call(b"DEL", keys[1])
    call(b"PUBLISH", keys[1], b"")
    return 1


def _at(argv: Sequence[bytes], place: int) -> bytes | None:
    """Return an argument; None, as Lua's nil, if it was not given."""
    return argv[place] if place < len(argv) else None


def _is_ours(call: Call, keys: Sequence[bytes], argv: Sequence[bytes]) -> bool:
    held: object = call(b"GET", keys[1])  # never nil: a missing key is False
    return held == _at(argv, 0)


def _commit(call: Call, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    if not _is_ours(call, keys, argv):
        return 0
    call(b"SET", keys[0], _at(argv, 1), *argv[2:])
    return _end(call, keys)


def _release(call: Call, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    return _end(call, keys) if _is_ours(call, keys, argv) else 0


def _renew(call: Call, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    if not _is_ours(call, keys, argv):
        return 0
    renewed: int = call(b"PEXPIRE", keys[1], _at(argv, 1))
    return renewed


def _store(call: Call, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    call(b"SET", keys[0], _at(argv, 0), *argv[1:])
    return _end(call, keys)


def _swap(call: Call, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    if (call(b"GET", keys[0]) or b"") != _at(argv, 0):
        return 0
    call(b"SET", keys[0], _at(argv, 1), *argv[2:])
    return _end(call, keys)


def _discard(call: Call, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    call(b"UNLINK", keys[0])
    return _end(call, keys)


_KNOWN = [
    Script(_OURS + b"redis.call('SET', KEYS[1], ARGV[2], unpack(ARGV, 3)) " + _END, _commit),
    Script(_OURS + _END, _release),
    Script(_OURS + b"return redis.call('PEXPIRE', KEYS[2], ARGV[2])", _renew),
    Script(b"redis.call('SET', KEYS[1], ARGV[1], unpack(ARGV, 2)) " + _END, _store),
    Script(
        b"if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end "
        b"redis.call('SET', KEYS[1], ARGV[2], unpack(ARGV, 3)) " + _END,
        _swap,
    ),
    Script(b"redis.call('UNLINK', KEYS[1]) " + _END, _discard),
]
SCRIPTS = {script.text: script for script in _KNOWN}

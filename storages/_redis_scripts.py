"""What is sent to Redis: the names of keys, and the commands of each operation.

Each script touches the value and the lease of one key, which are in one slot, and never asks for
the time. Ending a lease publishes on the channel named like it, where its waiters listen.

Scripts are sent with EVAL: naming them by digest saves 0.7 µs of the server's time each, and costs
a second round trip whenever the server has forgotten them.
"""

from __future__ import annotations

import re
from math import inf
from typing import Final

from gecaso.entry import Entry
from gecaso.keys import wire_text

from ._redis_wire import Command

__all__ = [
    "apart",
    "commit",
    "discard",
    "lease_of",
    "milliseconds",
    "name_of",
    "prefix_of",
    "quoted",
    "release",
    "renew",
    "store",
    "swap",
    "take",
    "text_of",
    "trial",
    "values_pattern",
]

_END = b"redis.call('DEL', KEYS[2]) redis.call('PUBLISH', KEYS[2], '') return 1"
_OURS = b"if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end "

COMMIT = _OURS + b"redis.call('SET', KEYS[1], ARGV[2], unpack(ARGV, 3)) " + _END
RELEASE = _OURS + _END
RENEW = _OURS + b"return redis.call('PEXPIRE', KEYS[2], ARGV[2])"
STORE = b"redis.call('SET', KEYS[1], ARGV[1], unpack(ARGV, 2)) " + _END
SWAP = (
    b"if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end "
    b"redis.call('SET', KEYS[1], ARGV[2], unpack(ARGV, 3)) " + _END
)
DISCARD = b"redis.call('UNLINK', KEYS[1]) " + _END

# What `wire_text` leaves as it is: looking for anything else this way takes a fifth of its time.
_HARMLESS = bytes(byte for byte in range(0x20, 0x100) if byte not in b"{}%\x7f")

# Between empty braces Redis would see no slot. No text is encoded with small letters.
_EMPTY = b"%7b%7d"

# What `wire_text` makes: the codes of what it does not leave, and of a % before such a code.
_PERCENT: Final = re.compile(
    rb"%([01][0-9A-F]|7[BDF]|ED|(?<=%ED%)[AB][0-9A-F]|(?<=%ED%[AB][0-9A-F]%)[89AB][0-9A-F]"
    rb"|25(?=(?:25)*(?:[01][0-9A-Fa-f]|7[BDFbdf]|[Ee][Dd])))"
)

LONGEST = 10**15  # milliseconds; Redis counts in 64 bits from 1970


def quoted(text: str) -> bytes:
    """Return the text of a key for the wire: ``wire_text(text)`` in UTF-8."""
    try:
        plain = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return wire_text(text).encode()
    if plain.translate(None, _HARMLESS):
        return wire_text(text).encode()
    return plain or _EMPTY


def text_of(name: bytes, prefix: bytes) -> str | None:
    """Return the text of the key whose value has this name; None if it is no name of a value.

    >>> text_of(b"shop:{" + quoted("{x}") + b"}", b"shop:{")
    '{x}'
    """
    if not (name.startswith(prefix) and name.endswith(b"}")):
        return None
    inner = name[len(prefix) : -1]
    if inner == _EMPTY:
        return ""
    plain = _PERCENT.sub(lambda match: bytes((int(match[1], 16),)), inner)
    return plain.decode("utf-8", "surrogatepass")


def name_of(command: Command) -> bytes:
    """Return the name of the value, or of the lease, that a command is about."""
    name = command[3] if command[0] == b"EVAL" else command[1]
    assert isinstance(name, bytes)
    return name


def apart(command: Command) -> tuple[Command, ...]:
    """Return single commands that do what ``command`` does if they run in this order.

    While a slot is being moved, a script cannot run where one of its names is here and one is
    there. Only a discard can be taken apart: with the lease gone, a late commit stores nothing,
    whenever the value goes.
    """
    if command[:2] != (b"EVAL", DISCARD):
        return ()
    value = name_of(command)
    lease = lease_of(value)
    return ((b"DEL", lease), (b"UNLINK", value), (b"PUBLISH", lease, b""))


def prefix_of(namespace: str) -> bytes:
    """Return what the names of all values of a namespace start with: ``ns:{`` or ``{``."""
    return f"{wire_text(namespace)}:{{".encode() if namespace else b"{"


def lease_of(value: bytes) -> bytes:
    """Return the name of the lease, and of its channel, beside a value."""
    return value + b":l"


def values_pattern(prefix: bytes) -> bytes:
    """Return the pattern of the names of all values and leases of a namespace."""
    special = b"\\*?[]^-"
    return b"".join(b"\\%c" % byte if byte in special else b"%c" % byte for byte in prefix) + b"*}*"


def milliseconds(seconds: float) -> int:
    return max(1, int(min(seconds * 1000, LONGEST)))


def _expiry(entry: Entry, now: float) -> Command:
    if entry.dead_after == inf:
        return ()
    left = entry.dead_after - now
    # What is dead already must not be there for even a moment: a moment in 1970 ends it at once.
    return (b"PX", milliseconds(left)) if left > 0 else (b"PXAT", 1)


def _eval(script: bytes, value: bytes, *args: bytes | int) -> Command:
    return (b"EVAL", script, 2, value, lease_of(value), *args)


def take(value: bytes, token: bytes, seconds: float, *, apart: bool = False) -> tuple[Command, ...]:
    """Take the lease, then look at the value, and at whose the lease is.

    ``apart``: with one name in each command. Where a slot is being moved others are refused.
    """
    lease = lease_of(value)
    taking: Command = (b"SET", lease, token, b"NX", b"PX", milliseconds(seconds))
    if apart:
        return (taking, (b"MGET", value), (b"MGET", lease))
    return (taking, (b"MGET", value, lease))


def renew(value: bytes, token: bytes, seconds: float) -> Command:
    return _eval(RENEW, value, token, milliseconds(seconds))


def commit(value: bytes, token: bytes, data: bytes, entry: Entry, now: float) -> Command:
    return _eval(COMMIT, value, token, data, *_expiry(entry, now))


def release(value: bytes, token: bytes) -> Command:
    return _eval(RELEASE, value, token)


def store(value: bytes, data: bytes, entry: Entry, now: float) -> Command:
    return _eval(STORE, value, data, *_expiry(entry, now))


def trial(prefix: bytes) -> tuple[Command, ...]:
    """Return commands that change nothing, and are refused where scripts or messages are.

    Otherwise a lease could be taken, and neither be committed nor be released.
    """
    value = prefix + _EMPTY + b"}"
    return (release(value, b"no token"), (b"PUBLISH", lease_of(value), b""))


def swap(value: bytes, there: bytes | None, data: bytes, entry: Entry, now: float) -> Command:
    """Store in place of the very bytes that are ``there``; None: of nothing."""
    return _eval(SWAP, value, there or b"", data, *_expiry(entry, now))


def discard(value: bytes) -> Command:
    return _eval(DISCARD, value)

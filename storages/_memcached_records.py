"""What memcached is told: the names of keys, marks of leases, expiry times; and its clock."""

from __future__ import annotations

import math
import struct
import time
from hashlib import blake2b
from typing import Final, NamedTuple, Self
from urllib.parse import quote

from gecaso.errors import ConfigurationError

__all__ = ["GONE", "Mark", "ServerClock", "WireKeys", "exptime", "longer"]

LONGEST_KEY: Final = 250  # bytes; the protocol allows no more


def is_plain(text: str) -> bool:
    """Return whether text is visible ASCII without the ``~``, which is ours."""
    return text.isascii() and text.isprintable() and " " not in text and "~" not in text


class WireKeys:
    """Names keys on the server: ``namespace:text``, no two keys alike.

    Text that the protocol does not allow, or that is too long, is named by its digest, after a
    ``~`` that no other text begins with. The lease beside a value has the value's name with a
    ``~`` at its end.

    >>> WireKeys("shop").value("user:7")
    b'shop:user:7'
    """

    __slots__ = ("_prefix", "_room", "prefix")

    def __init__(self, namespace: str) -> None:
        prefix = quote(namespace, safe="", errors="surrogatepass") + ":"
        self._room = LONGEST_KEY - 1 - len(prefix)
        if self._room < 33:  # a digest and its ~
            raise ConfigurationError(
                f"the namespace is too long for memcached: {len(prefix) - 1} bytes of 215 at most"
            )
        self._prefix = prefix
        self.prefix = prefix.encode()

    def value(self, text: str) -> bytes:
        """Return the name of the value kept under ``text``."""
        if len(text) <= self._room and is_plain(text):
            return self.prefix + text.encode()
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return f"{self._prefix}~{digest}".encode()

    @staticmethod
    def beside(name: bytes) -> bytes:
        """Return the name of the lease that is held while a value is there to be read."""
        return name + b"~"


class Mark(NamedTuple):
    """What stands for a lease on the server: whose it is, and when it is over.

    The time is inside because another client, or a server that was given a wrong expiry, may keep
    a mark whose process died long ago.
    """

    token: bytes
    until: float

    def pack(self) -> bytes:
        return _MAGIC + _MARK.pack(self.token, self.until)

    @classmethod
    def unpack(cls, data: bytes) -> Self | None:
        """Return the mark, or None if ``data`` is something else."""
        if not data.startswith(_MAGIC) or len(data) != len(_MAGIC) + _MARK.size:
            return None
        return cls(*_MARK.unpack_from(data, len(_MAGIC)))


_MAGIC: Final = b"gecaso lease 1\n"
_MARK: Final = struct.Struct(">16sd")


# --- expiry times ---------------------------------------------------------------------------------

_LONGEST: Final = 30 * 86400  # seconds; the server takes more for a date
_LAST_DATE: Final = 2**31 - 1  # the server reads 32 bits

GONE: Final = _LONGEST + 1
"""A date in 1970: what is stored with it is over at once.

A ``cas`` with this is a deletion on condition that nobody changed the value since it was read;
``delete`` has no such condition, and aiomcache refuses the negative times that mean the same.
"""


def exptime(dead_after: float, now: float) -> int:
    """Return the expiry to give to the server: never early, up to two seconds late.

    The server counts whole seconds, so the exact time is kept inside the value.

    >>> exptime(math.inf, 0.0), exptime(10.5, 0.0)
    (0, 12)
    """
    left = dead_after - now
    if left <= 0:
        return GONE
    if left + 2 <= _LONGEST:
        return math.ceil(left) + 1
    if dead_after + ServerClock.ROUGHNESS > _LAST_DATE:
        return 0
    return math.ceil(dead_after + ServerClock.ROUGHNESS)


def longer(expiry: int) -> int:
    """Return an expiry for what is set a little earlier and must not be gone before the rest."""
    if expiry == 0 or expiry <= _LONGEST < expiry + _A_LITTLE:
        return expiry
    return expiry + _A_LITTLE


_A_LITTLE: Final = 5  # seconds


# --- the clock ------------------------------------------------------------------------------------


class ServerClock:
    """The server's clock, as far as it can be known: it tells whole seconds, up to three late.

    A machine whose own clock agrees within that is taken to be right: so the processes of one
    machine, and of machines that are kept in step, agree exactly, which whole seconds would not
    give. A clock that is off by more is corrected.
    """

    ROUGHNESS: Final = 3.0

    __slots__ = ("_has_agreed", "is_known", "offset")

    def __init__(self) -> None:
        self._has_agreed = False
        self.is_known = False
        self.offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Return the time in seconds; it does not jump when the machine's clock is set."""
        return time.monotonic() + self.offset

    def measure(self, told: int, *, alone: bool = True) -> None:
        """Take note of what a server said a moment ago; one of several cannot outvote the rest."""
        own = time.time()
        self.is_known = True
        # It counts from whole seconds at its start, once a second: it shows 1 s ahead at most
        # and 3 s behind.
        agrees = -self.ROUGHNESS <= told - own <= 1.0
        if self._has_agreed and not (agrees or alone):
            return
        self._has_agreed = agrees
        self.offset = (own if agrees else told + 1.0) - time.monotonic()

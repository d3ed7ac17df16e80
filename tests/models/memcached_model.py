"""A memcached in this process: the commands that gecaso sends, answered as memcached 1.6 does.

    model = MemcachedModel(clock)
    model.execute((b"add", b"name", b"0", b"60", b"5"), b"value")      # b"STORED"
    model.execute((b"gets", b"name"))                                  # [Found(...)]

A plain state machine over a clock that is a parameter. What the real server understands and the
model does not is answered with ``ERROR`` and noted in ``model.refused``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from math import floor
from typing import NamedTuple

__all__ = [
    "BAD_FORMAT",
    "LONGEST_KEY",
    "MIB",
    "Found",
    "Item",
    "MemcachedModel",
    "Reply",
    "number_of",
]

EPOCH = 1_700_000_000.0  # seconds since 1970 when the model's clock shows 0
MIB = 1024 * 1024
LONGEST_KEY = 250
LONGEST = 30 * 86400  # seconds; more is a date
REMEMBERED = 1000  # writes that `forget` can take back
ITEM = 48 + 8 + 1 + 2  # bytes of an item beside its key and data: header, number, ends of both
FLAGS = 4  # bytes of flags that are not 0
BEFORE_THE_START = 62  # seconds by which the server's own count is ahead

BAD_FORMAT = b"CLIENT_ERROR bad command line format"
TOO_LARGE = b"SERVER_ERROR object too large for cache"


class Item(NamedTuple):
    """``until`` is the second, since 1970, in which it is gone; None: it stays."""

    data: bytes
    flags: int
    until: int | None
    cas: int


class Found(NamedTuple):
    """One value of a reply; ``cas`` is None where it was not asked for."""

    name: bytes
    flags: int
    data: bytes
    cas: int | None


Reply = bytes | list[Found] | dict[bytes, bytes]
"""A line, what was found, or facts."""


class MemcachedModel:
    """The data of a memcached, and what commands do to them. ``clock()`` gives seconds."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        epoch: float = EPOCH,
        item_size_max: int = MIB,
    ) -> None:
        self.clock = clock
        self.item_size_max = item_size_max
        self.items: dict[bytes, Item] = {}
        self.refused: list[Sequence[bytes]] = []
        self.cas = 0
        self._epoch = epoch
        self._past: deque[tuple[bytes, Item | None]] = deque(maxlen=REMEMBERED)
        self._start()

    def __repr__(self) -> str:
        return f"<MemcachedModel: {len(self.items)} items>"

    def _start(self) -> None:
        self._began = self.clock()
        self._started = int(self._epoch + self._began)

    # --- data -----------------------------------------------------------------------------------

    def now(self) -> int:
        """Return seconds since 1970, as counted once a second from whole seconds at the start."""
        return self._started + floor(self.clock() - self._began)

    def until(self, exptime: int) -> int | None:
        """Return when an item with this expiry is gone; the server reads 32 bits of it."""
        exptime = (exptime + 2**31) % 2**32 - 2**31
        if exptime == 0:
            return None
        if exptime < 0:
            return 0
        if exptime <= LONGEST:
            return self.now() + exptime
        return exptime if exptime > self._started - BEFORE_THE_START else 0

    def look(self, name: bytes) -> Item | None:
        """Return what is there; what has run out is not."""
        item = self.items.get(name)
        if item is not None and item.until is not None and item.until <= self.now():
            del self.items[name]
            return None
        return item

    def put(self, name: bytes, item: Item | None) -> None:
        """Change what is stored under a name; None removes it."""
        self._past.append((name, self.items.get(name)))
        if item is None:
            self.items.pop(name, None)
        else:
            self.items[name] = item

    def next_cas(self) -> int:
        self.cas += 1
        return self.cas

    # --- what may befall a server ---------------------------------------------------------------

    def evict(self, *names: bytes) -> None:
        """Lose items, as a full server does."""
        for name in names:
            self.put(name, None)

    def restart(self) -> None:
        """Lose everything, and begin the numbers anew."""
        self.items.clear()
        self._past.clear()
        self.cas = 0
        self._start()

    def forget(self, writes: int) -> None:
        """Take back the last writes: as a proxy that turns to another server may."""
        for _ in range(min(writes, len(self._past))):
            name, before = self._past.pop()
            if before is None:
                self.items.pop(name, None)
            else:
                self.items[name] = before

    # --- commands -------------------------------------------------------------------------------

    def execute(self, line: Sequence[bytes], data: bytes | None = None) -> Reply:
        """Run one command: its words, and its data if it has some."""
        command, *args = line or (b"",)
        match command:
            case b"get" | b"gets" if args:
                return self.found(args, command == b"gets")
            case b"set" | b"add" | b"cas" if data is not None:
                return self._write(command, args, data)
            case b"delete" if 1 <= len(args) <= 2:
                return self._delete(*args)
            case b"touch" if len(args) == 2:
                return self._touch(*args)
            case b"stats":
                return self._stats(*args)
            case b"version":
                return b"VERSION 1.6.18"
            case b"flush_all" if not args or args == [b"0"]:
                return self._flush()
            case _:
                self.refused.append(line)
                return b"ERROR"

    def found(self, names: Sequence[bytes], numbers: bool) -> Reply:
        """Return what is stored under these names, with their numbers if that is asked for."""
        found: list[Found] = []
        for name in names:
            if len(name) > LONGEST_KEY:
                return BAD_FORMAT
            item = self.look(name)
            if item is not None:
                found.append(Found(name, item.flags, item.data, item.cas if numbers else None))
        return found

    def _write(self, command: bytes, args: Sequence[bytes], data: bytes) -> bytes:
        name, flags, exptime = args[0], int(args[1]), int(args[2])
        there = self.look(name)
        if len(name) + ITEM + (FLAGS if flags else 0) + len(data) > self.item_size_max:
            if command == b"set" and there is not None:
                self.put(name, None)  # what is there must not outlive what was to replace it
            return TOO_LARGE
        refusal = self.refusal(command, there, int(args[4]) if command == b"cas" else 0)
        if refusal is not None:
            return refusal
        self.put(name, Item(data, flags, self.until(exptime), self.next_cas()))
        return b"STORED"

    def refusal(self, command: bytes, there: Item | None, number: int) -> bytes | None:
        """Return why a write is not done; None if it is."""
        if command == b"add":
            return None if there is None else b"NOT_STORED"
        if command == b"cas":
            if there is None:
                return b"NOT_FOUND"
            return None if there.cas == number else b"EXISTS"
        return None

    def _delete(self, name: bytes, more: bytes = b"0") -> bytes:
        if more != b"0":
            return BAD_FORMAT + b".  Usage: delete <key> [noreply]"
        if len(name) > LONGEST_KEY:
            return BAD_FORMAT
        if self.look(name) is None:
            return b"NOT_FOUND"
        self.put(name, None)
        return b"DELETED"

    def _touch(self, name: bytes, exptime: bytes) -> bytes:
        if len(name) > LONGEST_KEY:
            return BAD_FORMAT
        seconds = number_of(exptime, 63)
        if seconds is None:
            return b"CLIENT_ERROR invalid exptime argument"
        item = self.look(name)
        if item is None:
            return b"NOT_FOUND"
        self.put(name, item._replace(until=self.until(seconds)))
        return b"TOUCHED"

    def _stats(self, about: bytes = b"") -> Reply:
        if about == b"settings":
            return {b"item_size_max": b"%d" % self.item_size_max, b"cas_enabled": b"yes"}
        if about:
            self.refused.append((b"stats", about))
            return b"ERROR"
        return {b"time": b"%d" % self.now(), b"version": b"1.6.18"}

    def _flush(self) -> bytes:
        for name in list(self.items):
            self.put(name, None)
        self.next_cas()  # it marks what came before
        return b"OK"


def number_of(word: bytes, bits: int) -> int | None:
    """Return a number of that many bits beside its sign; None if it is not one."""
    digits = word.removeprefix(b"-")
    if not digits.isdigit():
        return None
    number = int(word)
    return number if -(1 << bits) <= number < 1 << bits else None

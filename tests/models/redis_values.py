"""Commands of Redis on values: one session's, which knows its database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from .glob import matches
from .replies import OK, Failure, Reply

if TYPE_CHECKING:
    from .redis_model import RedisModel

__all__ = ["NO_NUMBER", "SYNTAX", "Command", "Item", "Values", "number_of"]

Command = Sequence[bytes]

NO_NUMBER = Failure(b"ERR value is not an integer or out of range")
SYNTAX = Failure(b"ERR syntax error")
UNITS = {b"PX": 1, b"EX": 1000, b"PXAT": 1, b"EXAT": 1000}  # milliseconds
WRONG_TYPE = Failure(b"WRONGTYPE Operation against a key holding the wrong kind of value")


class Item(NamedTuple):
    """A value, and the millisecond after which it is gone. A list is of another type."""

    value: bytes | tuple[bytes, ...]
    until: int | None = None


class Values:
    """The commands on values of one session."""

    model: RedisModel
    database: int

    def do_get(self, name: bytes) -> Reply:
        item = self.model.look(self.database, name)
        if item is None:
            return None
        return item.value if isinstance(item.value, bytes) else WRONG_TYPE

    def do_mget(self, *names: bytes) -> Reply:
        values = (self.do_get(name) for name in names)
        return [None if value is WRONG_TYPE else value for value in values]

    def do_set(self, name: bytes, value: bytes, *options: bytes) -> Reply:
        wanted = _options_of_set(options)
        if isinstance(wanted, Failure):
            return wanted
        words, amount = wanted
        there = self.model.look(self.database, name)
        until = self._until(words, amount, there)
        if isinstance(until, Failure):
            return until
        old = self.do_get(name) if b"GET" in words else None
        if isinstance(old, Failure):
            return old
        if self.may_set(words, there):
            is_past = until is not None and until <= self.model.now()
            self.model.put(self.database, name, None if is_past else Item(value, until))
            return old if b"GET" in words else OK
        return old

    def may_set(self, words: set[bytes], there: Item | None) -> bool:
        """Return whether SET with these options changes what is ``there``."""
        return not (b"NX" in words and there) and not (b"XX" in words and not there)

    def _until(self, words: set[bytes], amount: bytes, there: Item | None) -> int | Failure | None:
        if not words & UNITS.keys():
            return there.until if there is not None and b"KEEPTTL" in words else None
        number = number_of(amount)
        if number is None:
            return NO_NUMBER
        word = next(word for word in UNITS if word in words)
        until = number * UNITS[word] + (0 if word.endswith(b"AT") else self.model.now())
        if number <= 0 or until >= 2**63:
            return Failure(b"ERR invalid expire time in 'set' command")
        return until

    def do_lpush(self, name: bytes, *values: bytes) -> Reply:
        """What another program may do: only so that there is a value of another type."""
        item = self.model.look(self.database, name)
        if item is not None and isinstance(item.value, bytes):
            return WRONG_TYPE
        old = () if item is None else item.value
        assert isinstance(old, tuple)
        new = (*reversed(values), *old)
        self.model.put(self.database, name, Item(new, None if item is None else item.until))
        return len(new)

    def do_del(self, *names: bytes) -> Reply:
        gone = 0
        for name in names:
            if self.model.look(self.database, name) is not None:
                self.model.put(self.database, name, None)
                gone += 1
        return gone

    def do_unlink(self, *names: bytes) -> Reply:
        return self.do_del(*names)

    def do_pexpire(self, name: bytes, amount: bytes, *options: bytes) -> Reply:
        if options:
            self.model.refused.append((b"PEXPIRE", name, amount, *options))
            return Failure(b"ERR Unsupported option %b" % options[0])
        left, now = number_of(amount), self.model.now()
        if left is None:
            return NO_NUMBER
        if not -(2**63) <= now + left < 2**63:
            return Failure(b"ERR invalid expire time in 'pexpire' command")
        item = self.model.look(self.database, name)
        if item is None:
            return 0
        self.model.put(self.database, name, Item(item.value, now + left) if left > 0 else None)
        return 1

    def do_pttl(self, name: bytes) -> Reply:
        item = self.model.look(self.database, name)
        if item is None:
            return -2
        return -1 if item.until is None else max(0, item.until - self.model.now())

    def do_flushdb(self, *how: bytes) -> Reply:
        if len(how) > 1 or (how and how[0].upper() not in (b"SYNC", b"ASYNC")):
            return SYNTAX
        for name in self.model.names(self.database):
            self.model.put(self.database, name, None)
        return OK

    def do_flushall(self, *how: bytes) -> Reply:
        reply = OK
        here = self.database
        for database in list(self.model.databases):
            self.database = database
            reply = self.do_flushdb(*how)
        self.database = here
        return reply

    def do_scan(self, cursor: bytes, *options: bytes) -> Reply:
        """Names in an order of their own, from the cursor on, as in a hash table.

        What is there from the first page to the last is in one of them.
        """
        start = number_of(cursor)
        if start is None or start < 0:
            return Failure(b"ERR invalid cursor")
        pattern, count, rest = b"*", 10, list(options)
        while rest:
            word = rest.pop(0).upper()
            if word not in (b"MATCH", b"COUNT") or not rest:
                return SYNTAX
            if word == b"MATCH":
                pattern = rest.pop(0)
                continue
            number = number_of(rest.pop(0))
            if number is None:
                return NO_NUMBER
            if number < 1:
                return SYNTAX
            count = number
        places = sorted((crc32(name) + 1, name) for name in self.model.names(self.database))
        left = [place for place in places if place[0] >= start]
        page = left[: min(count, self.model.page)]
        more = left[len(page) :]
        while more and more[0][0] == page[-1][0]:  # one place of the table is never divided
            page.append(more.pop(0))
        next_cursor = more[0][0] if more else 0
        return [b"%d" % next_cursor, [name for _, name in page if matches(pattern, name)]]


def number_of(text: bytes) -> int | None:
    """Return a number as Redis reads it: no blanks, no plus, no leading zeros, 64 bits."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if b"%d" % number == text and -(2**63) <= number < 2**63 else None


def _options_of_set(options: Command) -> tuple[set[bytes], bytes] | Failure:
    """Return the words, and the time that one of them may come with."""
    words: set[bytes] = set()
    amount = b""
    rest = list(options)
    while rest:
        word = rest.pop(0).upper()
        if word in (b"NX", b"XX"):
            refused = words & ({b"NX", b"XX"} - {word})
        elif word in UNITS or word == b"KEEPTTL":
            refused = words & ({*UNITS, b"KEEPTTL"} - {word})
            if word != b"KEEPTTL":
                if not rest:
                    return SYNTAX
                amount = rest.pop(0)
        elif word == b"GET":
            refused = set[bytes]()
        else:
            return SYNTAX
        if refused:
            return SYNTAX
        words.add(word)
    return words, amount

"""What is done to the rows of a namespace, over one connection: statements, arguments, results."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeVar

from ._postgres_client import LOCKED
from ._postgres_names import Names
from ._postgres_server import BRIEFLY, Server, Session

__all__ = ["LOCK", "Found", "Refused", "Rows", "Stored", "Taken", "Token", "parts"]

AT_ONCE: Final = 512  # rows in one statement
HEAVIEST: Final = 8 << 20  # bytes of values in one statement
GIVE_UP: Final = 0.05  # seconds for looking which of many rows are the locked ones
LOCK: Final = b""
"""Stands for the token of the lease in the way, where a transaction is in the way."""
NOBODY: Final = b"nobody"
"""Stands for the token of a lease that was given back before we could see whose it was."""


class Token(NamedTuple):
    """A lease of ours, by its row."""

    row: str
    token: bytes
    seconds: float = 0.0


class Stored(NamedTuple):
    """What is to be in a row; ``token`` is that of the lease it is written under, if any."""

    row: str
    value: bytes
    version: bytes
    fresh: float
    dead: float
    token: bytes = b""


class Taken(NamedTuple):
    """A lease was taken; the value that is in the row."""

    value: bytes | None
    fresh: float | None


class Refused(NamedTuple):
    """Somebody else's lease, for so many seconds, and the value beside it."""

    token: bytes
    left: float
    value: bytes | None = None
    fresh: float | None = None


Found = Sequence[Any]  # name, value, until when it is fresh: as the client gives it
R = TypeVar("R", Token, Stored)


class Rows:
    """The operations. ``seed`` is part of the origin: who sent a message need not be told."""

    def __init__(self, server: Server, names: Names, seed: str) -> None:
        self.server = server
        self.names = names
        self._seed = seed

    @property
    def origin(self) -> str:
        return f"{self._seed}{os.getpid():x}"  # a forked child is somebody else

    # --- reading --------------------------------------------------------------------------------

    async def look(self, session: Session, rows: Collection[str]) -> dict[str, Found]:
        """Return those rows that have a value."""
        own, look = self.names.own, self.server.statements.look
        found: dict[str, Found] = {}
        for some in _split([*rows]):
            for record in await session.fetch(look, "\n".join(some), own):  # names have no \n
                found[record[0]] = record
        return found

    async def generation(self, session: Session) -> int:
        """Return the generation of the namespace; 0 if it was never cleared."""
        ((generation,),) = await session.fetch(self.server.statements.generation, self.names.own)
        return int(generation)

    async def holders(
        self, session: Session, rows: Iterable[str]
    ) -> dict[str, tuple[bytes | None, float]]:
        """Return who has the lease of each row, and for how many seconds."""
        records = await session.fetch(self.server.statements.holders, [*rows], self.names.own)
        return {key: (token, left or 0.0) for key, token, left in records}

    # --- leases ---------------------------------------------------------------------------------

    async def take(
        self, session: Session, asked: Sequence[Token], unsure: Sequence[bytes], lock: str
    ) -> dict[str, Taken | Refused]:
        """Take the leases of rows, all for the same time."""
        wanted = sorted(asked)
        locked: set[str] = set()
        taken: dict[str, Taken | Refused] = {}
        try:
            taken = await self._take(session, wanted, unsure, lock)
        except LOCKED:
            give_up = time.monotonic() + GIVE_UP
            for one in wanted if len(wanted) > 1 else ():
                try:
                    if time.monotonic() < give_up:
                        taken |= await self._take(session, [one], unsure, BRIEFLY)
                        continue
                except LOCKED:
                    pass
                locked.add(one.row)
            locked = locked or {one.row for one in wanted if len(wanted) == 1}
        result: dict[str, Taken | Refused] = {**taken}
        if others := [one.row for one in wanted if one.row not in taken]:
            records = await session.fetch(self.server.statements.refused, others, self.names.own)
            for row in others:
                result[row] = Refused(LOCK if row in locked else NOBODY, 0.0)
            for key, token, left, fresh, value in records:
                holder = LOCK if key in locked else token or NOBODY
                result[key] = Refused(holder, left or 0.0, value, fresh)
        return result

    async def _take(
        self, session: Session, wanted: Sequence[Token], unsure: Sequence[bytes], lock: str
    ) -> dict[str, Taken | Refused]:
        records = await session.fetch(
            self.server.statements.take,
            [one.row for one in wanted],
            [one.token.hex() for one in wanted],
            wanted[0].seconds,
            lock,
            self.names.own,
            [token.hex() for token in unsure],
        )
        return {key: Taken(value, fresh) for key, value, fresh in records}

    async def renew(self, session: Session, ours: Sequence[Token], lock: str) -> set[str]:
        """Renew leases, all for the same time; return the rows whose leases are still ours.

        A locked row keeps the lease that it has: nobody else can take it as long.
        """
        statements, args = self.server.statements, self._mine(ours, lock)
        seconds = ours[0].seconds
        try:
            return _keys(await session.fetch(statements.renew, *args, seconds))
        except LOCKED:
            pass
        kept = _keys(await session.fetch(statements.renew_unlocked, *args, seconds))
        left = {one.row: one.token for one in ours if one.row not in kept}
        holders = await self.holders(session, left)
        return kept | {row for row, (token, _) in holders.items() if token == left[row]}

    async def commit(
        self, session: Session, entries: Sequence[Stored], lock: str
    ) -> tuple[set[str], bool]:
        """Store under leases; return the rows stored, and whether any was locked."""
        tokens = [Token(entry.row, entry.token) for entry in entries]
        values, columns = _columns(entries)
        return await self._end(session, "commit", tokens, lock, values, *columns)

    async def release(self, session: Session, ours: Sequence[Token], lock: str) -> bool:
        """End leases; return whether any was locked."""
        return (await self._end(session, "release", ours, lock))[1]

    async def _end(
        self, session: Session, what: str, ours: Sequence[Token], lock: str, *columns: object
    ) -> tuple[set[str], bool]:
        statements = self.server.statements
        told = self.names.changed([one.row for one in ours], self.origin)
        args = (*self._mine(ours, lock), *columns, told, statements.channel)
        try:
            return _keys(await session.fetch(getattr(statements, what), *args)), False
        except LOCKED:
            if len(ours) == 1:
                return set(), True
        return _keys(await session.fetch(getattr(statements, f"{what}_unlocked"), *args)), True

    def _mine(self, ours: Sequence[Token], lock: str) -> tuple[Any, ...]:
        tokens = [one.token.hex() for one in ours]
        return [one.row for one in ours], tokens, lock, self.names.own

    # --- writing --------------------------------------------------------------------------------

    async def store(
        self, session: Session, entries: Sequence[Stored], lock: str | None, origin: str
    ) -> set[str]:
        """Store whatever is there."""
        return await self._write(session, self.server.statements.store, entries, lock, origin)

    async def swap(
        self,
        session: Session,
        entries: Sequence[Stored],
        expected: Mapping[str, bytes | None],
        lock: str | None,
        origin: str,
    ) -> set[str]:
        """Store where the version is the expected one; None: where nothing is."""
        statements = self.server.statements
        new = [entry for entry in entries if expected.get(entry.row) is None]
        old = [entry for entry in entries if expected.get(entry.row) is not None]
        done: set[str] = set()
        if new:
            done |= await self._write(session, statements.add, new, lock, origin)
        if old:
            versions = [(expected[entry.row] or b"").hex() for entry in old]
            done |= await self._write(session, statements.swap, old, lock, origin, versions)
        return done

    async def _write(
        self,
        session: Session,
        statement: str,
        entries: Sequence[Stored],
        lock: str | None,
        origin: str,
        *more: object,
    ) -> set[str]:
        rows = [entry.row for entry in entries]
        values, columns = _columns(entries)
        told, channel = self.names.changed(rows, origin), self.server.statements.channel
        records = await session.fetch(
            statement,
            *(rows, values, lock, self.names.own, *columns, told, channel, *more),
        )
        return _keys(records)

    async def discard(
        self, session: Session, rows: Iterable[str], lock: str | None, origin: str
    ) -> None:
        """Leave tombstones, which kill leases."""
        await self._discard(session, self.server.statements.discard, rows, lock, origin)

    async def expire(
        self, session: Session, rows: Iterable[str], lock: str | None, origin: str, margin: float
    ) -> None:
        """Leave what may be served stale; ``margin``: by how much clocks may differ."""
        await self._discard(session, self.server.statements.expire, rows, lock, origin, margin)

    async def _discard(
        self,
        session: Session,
        statement: str,
        rows: Iterable[str],
        lock: str | None,
        origin: str,
        *more: float,
    ) -> None:
        for some in _split(sorted(rows)):
            told, channel = self.names.changed(some, origin), self.server.statements.channel
            await session.fetch(statement, some, lock, told, channel, *more)

    async def evict(self, session: Session, rows: Iterable[str]) -> None:
        for some in _split(sorted(rows)):
            await session.fetch(self.server.statements.evict, some)

    async def clear(self, session: Session, lock: str | None, origin: str) -> None:
        """Begin another generation."""
        statements, told = self.server.statements, self.names.cleared(origin)
        # Not from `random`: a program that seeds it would begin the same generation twice.
        generation = int.from_bytes(os.urandom(8), "big") >> 2
        await session.fetch(
            statements.clear, self.names.own, generation, lock, told, statements.channel
        )

    async def purge(self, session: Session, most: int = AT_ONCE) -> int:
        """Delete some rows of which nothing is left; return how many."""
        return len(await session.fetch(self.server.statements.purge, most))

    async def sweep(self, session: Session, most: int = AT_ONCE) -> int:
        """Delete some rows of generations before; return how many."""
        prefix, own = self.names.prefix, self.names.own
        return len(await session.fetch(self.server.statements.sweep, most, prefix, own))


def _keys(records: Iterable[Sequence[Any]]) -> set[str]:
    return {key for (key,) in records if key}


def _columns(entries: Sequence[Stored]) -> tuple[bytes, list[list[str]]]:
    """Return the values in one piece; where each starts, its size, version and times."""
    sizes = [len(entry.value) for entry in entries]
    starts = [end - size + 1 for end, size in zip(accumulate(sizes), sizes, strict=True)]
    columns = [
        [str(start) for start in starts],
        [str(size) for size in sizes],
        [entry.version.hex() for entry in entries],
        [repr(entry.fresh) for entry in entries],
        [repr(entry.dead) for entry in entries],
    ]
    return b"".join([entry.value for entry in entries]), columns


def _split(rows: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE]


def parts(items: Iterable[R]) -> Iterator[list[R]]:
    """Split so that one statement has each row once, and neither too many nor too heavy ones."""
    part: dict[str, R] = {}
    weight = 0
    for item in items:
        heavy = len(item.value) if isinstance(item, Stored) else 0
        if item.row in part or len(part) == AT_ONCE or (part and weight + heavy > HEAVIEST):
            yield list(part.values())
            part, weight = {}, 0
        part[item.row] = item
        weight += heavy
    if part:
        yield list(part.values())

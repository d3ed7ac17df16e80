"""What a storage knows of its Postgres: the clock, the table, and whether a pooler is between."""

from __future__ import annotations

import math
import time
from typing import Any, Final

from gecaso.errors import StorageError

from ._postgres_client import MADE_MEANWHILE, Connection, Prepared, Record, is_held
from ._postgres_names import channel_of
from ._postgres_statements import MEASURE, SHAPE, Statements, creation

__all__ = ["Server", "Session"]

MEASURE_EVERY: Final = 60.0  # seconds between looks at the server's clock
PURGE_EVERY: Final = 60.0  # seconds between deletions of what is dead
OLDEST: Final = 12
LOCK_TIMEOUT: Final = 0.1  # seconds
BRIEFLY: Final = "20ms"  # the lock_timeout of an operation that others wait behind

COLUMNS: Final = {
    "key": "text C",
    "value": "bytea",
    "version": "bytea",
    "generation": "bigint",
    "fresh_until": "double precision",
    "dead_after": "double precision",
    "lease": "bytea",
    "lease_until": "double precision",
}


class Session:
    """One connection, and how statements run on it.

    Statements are prepared once. Behind a pooler that is in transaction mode the next statement may
    run elsewhere, where another client may have prepared another one under the same name: there
    each is prepared without a name, in one breath with its execution.
    """

    def __init__(self, connection: Connection, server: Server, *, is_lent: bool = False) -> None:
        self.connection = connection
        self.is_lent = is_lent
        self.is_used = False
        self._server = server
        self._prepared: dict[str, Prepared] = {}
        self._count = 0

    async def fetch(self, statement: str, *args: Any) -> list[Record]:
        if self._server.is_pooled:
            return await self.once(statement, *args)
        if self.is_lent:
            return await self.connection.fetch(statement, *args)
        prepared = self._prepared.get(statement)
        if prepared is None:
            self._count += 1
            prepared = await self.connection.prepare(statement, name=f"gecaso_{self._count}")
            self._prepared[statement] = prepared
        return await prepared.fetch(*args)

    async def once(self, statement: str, *args: Any) -> list[Record]:
        """Run a statement that is prepared without a name."""
        return await (await self.connection.prepare(statement, name="")).fetch(*args)

    @property
    def is_closed(self) -> bool:
        # One of a pool is taken out of its proxy when it is closed.
        return not is_held(self.connection) or self.connection.is_closed()

    def terminate(self) -> None:
        if is_held(self.connection):
            self.connection.terminate()

    def forget(self) -> None:
        """Forget what was prepared: it was for a table that is gone."""
        self._prepared.clear()


class Server:
    """One server and one table of it. ``table`` is quoted; ``timeout`` is in seconds.

    The clock is kept as an offset to this machine's monotonic clock. Before the first connection
    it is this machine's own time.
    """

    def __init__(self, where: str, table: str, timeout: float) -> None:
        self.where = where
        self.table = table
        self.offset = time.time() - time.monotonic()
        self.is_known = False
        self.is_pooled = False
        self.measure_at = math.inf  # the first look is that of the first connection
        self.purge_at = time.monotonic() + PURGE_EVERY
        self._statements: Statements | None = None
        self._patience = min(LOCK_TIMEOUT, timeout * 0.4)
        self.lock_timeout = _milliseconds(self._patience)

    def now(self) -> float:
        return time.monotonic() + self.offset

    @property
    def statements(self) -> Statements:
        if self._statements is None:
            raise StorageError(f"Postgres at {self.where} has not been met")
        return self._statements

    @property
    def has_table(self) -> bool:
        return self._statements is not None

    def forget_table(self) -> None:
        self._statements = None

    async def meet(self, session: Session) -> None:
        """Look at the clock, and at the table; make it if there is none."""
        version = session.connection.get_server_version()
        if version[0] < OLDEST:
            raise StorageError(
                f"Postgres at {self.where} is {version[0]}; PostgresStorage needs {OLDEST} or newer"
            )
        await self.measure(session)
        if self._statements is None:
            await self._find_table(session)

    async def measure(self, session: Session) -> None:
        """Look at the clock: it was true half-way between asking and hearing."""
        self.measure_at = time.monotonic() + MEASURE_EVERY
        told = session.connection.get_server_pid()
        measure = await session.connection.prepare(MEASURE, name="")
        sent = time.monotonic()
        ((now, pid, longest, is_standby),) = await measure.fetch()
        self.offset = now - (sent + time.monotonic()) / 2
        self.is_known = True
        # A pooler makes up the number of the process that it tells to its clients.
        self.is_pooled = self.is_pooled or pid != told
        # A lock that is waited for must not look like a statement that takes too long.
        longest = longest / 2 if longest > 0 else math.inf
        self.lock_timeout = _milliseconds(min(self._patience, longest))
        if is_standby:
            raise StorageError(
                f"Postgres at {self.where} is a standby, which takes no writes; "
                "give the address of the primary"
            )

    async def _find_table(self, session: Session) -> None:
        for _ in range(3):
            rows = await session.once(SHAPE, self.table)
            if rows:
                self._check_shape(rows)
                # Qualified from now on: connections of users may have another search_path.
                table: str = rows[0][0]
                self._statements = Statements(table, channel_of(table))
                return
            try:
                await session.connection.execute(creation(self.table))
            except MADE_MEANWHILE:
                continue
        raise StorageError(
            f"the table {self.table} at {self.where} can neither be found nor made: "
            "something else has that name; give another table="
        )

    def _check_shape(self, rows: list[Record]) -> None:
        there = {column: kind for _, column, kind, _, _ in rows}
        wrong = [
            f"{column} is {there.get(column, 'missing')} and should be {kind}"
            for column, kind in COLUMNS.items()
            if there.get(column) != kind
        ]
        wrong += [
            f"{column} is not known and must be given"
            for _, column, _, is_required, _ in rows
            if is_required and column not in COLUMNS
        ]
        if not any(column == "key" and is_unique for _, column, _, _, is_unique in rows):
            wrong.append("key is no primary key")
        if wrong:
            raise StorageError(
                f"the table {self.table} at {self.where} is not one of gecaso's "
                f"({'; '.join(wrong)}): drop it, or give another table="
            )


def _milliseconds(seconds: float) -> str:
    return f"{max(1, int(seconds * 1000))}ms"

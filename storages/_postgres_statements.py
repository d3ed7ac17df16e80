"""The statements: of the table, of lookups, leases and writes.

A row is locked before it is changed, in the order of keys, and never for longer than the statement
(or the user's transaction) takes. Whoever meets a locked row waits for `lock_timeout`, which each
statement sets for itself alone: connections may be shared through a pool or a pooler.

* A lease is taken where nobody has it; what the row holds is read from the very version of the row
  that the lease is written to.
* A commit requires its token in the row, which every discard, store and later lease replaces.
* A discard leaves a row without a value, a tombstone, where there was none. Inside a transaction a
  DELETE of nothing would lock nothing, and a load could store the old value before the commit.
* A namespace has a row of its own with its *generation*. What was written in another generation
  does not count. To clear is to change the generation: one row, with all that a transaction gives.

Arguments are scalars and arrays of text: for other arrays asyncpg would first ask the server, on
each connection, what they are. So bytes come in hexadecimal, and all values in one piece.

Messages are sent by the statement that makes the change, so that they come and go with it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

__all__ = ["MEASURE", "SHAPE", "TOMBSTONE", "Statements", "creation", "definition"]

TOMBSTONE: Final = 60.0
"""Seconds for which a row without a value stays, for the next load to write to.

Nothing depends on them. A tombstone matters as long as the transaction that wrote it is open, and
nobody can delete it then, for it is locked or not yet visible. Afterwards a commit under a lease
from before finds no row with its token, whether there is a row or not.
"""

_NOW: Final = "extract(epoch FROM clock_timestamp())::float8"

# Who takes part in the join waits for its column: the setting is made before the first row.
_ENTRY: Final = "start, size, version, fresh, dead"
_COLUMNS: Final = (
    "substring({blob}::bytea FROM u.start::int FOR u.size::int) AS value, "
    "decode(u.version, 'hex') AS version, u.fresh::float8 AS fresh, u.dead::float8 AS dead"
)

_WAIT: Final = (
    "(SELECT set_config('lock_timeout', coalesce({lock}, current_setting('lock_timeout')), true))"
    " AS wait"
)

MEASURE: Final = (
    f"SELECT {_NOW}, pg_backend_pid(), "
    "extract(epoch FROM current_setting('statement_timeout')::interval)::float8, "
    "pg_is_in_recovery()"
)

SHAPE: Final = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS table, a.attname AS column,
    format_type(a.atttypid, a.atttypmod) || coalesce(' ' || o.collname, '') AS type,
    a.attnotnull AND NOT a.atthasdef AS required,
    EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
        AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS unique
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_collation o ON o.oid = a.attcollation
WHERE c.oid = to_regclass($1)
"""


def definition(table: str) -> str:
    """Return the SQL that makes the table; values are compressed before they come here."""
    return f"""CREATE UNLOGGED TABLE {table} (
    key text COLLATE "C" PRIMARY KEY,
    value bytea,
    version bytea,
    generation bigint NOT NULL DEFAULT 0,
    fresh_until double precision,
    dead_after double precision NOT NULL,
    lease bytea,
    lease_until double precision
) WITH (fillfactor = 70);
ALTER TABLE {table} ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE INDEX ON {table} (dead_after);"""


def creation(table: str) -> str:
    """Return the SQL that makes the table unless it is there, one process at a time.

    Without the lock several would try, and all but one would leave an error in the server's log.
    """
    number = int.from_bytes(blake2b(table.encode(), digest_size=8).digest(), "big", signed=True)
    body = (
        f"BEGIN PERFORM pg_advisory_xact_lock({number}); "
        f"IF to_regclass('{table}') IS NULL THEN {definition(table)} END IF; END"
    ).replace("'", "''")
    return f"DO '{body}'"


class Statements:
    """The statements for one table, whose name is quoted; ``own`` rows hold generations."""

    def __init__(self, table: str, channel: str) -> None:
        self.table = table
        self.channel = channel
        self.generation = f"SELECT {self._generation('$1')}"
        self.look = self._look()
        self.holders = (
            f"SELECT key, {self._holder('$2')}, "
            f"lease_until - {_NOW} FROM {table} WHERE key = ANY($1)"
        )
        self.refused = (
            f"SELECT key, {self._holder('$2')}, "
            f"lease_until - {_NOW}, fresh_until, "
            f"CASE WHEN generation = {self._generation('$2')} THEN value END "
            f"FROM {table} WHERE key = ANY($1)"
        )
        self.take = self._take()
        self.renew, self.renew_unlocked = (self._renew(skip) for skip in ("", "SKIP LOCKED"))
        self.commit, self.commit_unlocked = (self._commit(skip) for skip in ("", "SKIP LOCKED"))
        self.release, self.release_unlocked = (self._release(skip) for skip in ("", "SKIP LOCKED"))
        self.store = self._store("")
        self.add = self._store(
            f"WHERE t.value IS NULL OR t.dead_after <= {_NOW}"
            " OR t.generation <> excluded.generation"
        )
        self.swap = self._swap()
        self.discard = self._discard(
            "value = NULL, version = NULL, fresh_until = NULL, dead_after = excluded.dead_after"
        )
        stays = f"t.fresh_until < t.dead_after AND t.dead_after > {_NOW}"
        self.expire = self._discard(
            f"value = CASE WHEN {stays} THEN t.value END, "
            f"version = CASE WHEN {stays} THEN t.version END, "
            f"fresh_until = least(t.fresh_until, {_NOW} - $5), "
            f"dead_after = CASE WHEN {stays} THEN t.dead_after ELSE excluded.dead_after END"
        )
        self.evict = self._evict()
        self.clear = self._clear()
        self.purge = self._delete(
            f"dead_after < {_NOW} AND (lease IS NULL OR lease_until < {_NOW})", "dead_after", "$1"
        )
        self.sweep = self._delete(
            f"starts_with(key, $2) AND key <> $3 AND generation <> {self._generation('$3')}",
            "key",
            "$1",
        )

    def _generation(self, own: str) -> str:
        return (
            f"coalesce((SELECT own.generation FROM {self.table} AS own WHERE own.key = {own}), 0)"
        )

    def _holder(self, own: str) -> str:
        return (
            f"CASE WHEN generation = {self._generation(own)} AND lease_until > {_NOW} "
            "THEN lease END"
        )

    def _tell(self, change: str, payloads: str, channel: str) -> str:
        """Make a change that returns keys, and send messages, in one statement."""
        return (
            f"{change} SELECT key FROM done UNION ALL SELECT '' FROM unnest({payloads}::text[]) "
            f"AS payload WHERE pg_notify({channel}, payload)::text <> ''"
        )

    # --- leases ---------------------------------------------------------------------------------

    def _look(self) -> str:
        # One text, for asyncpg looks at each item of an array twice before it sends it; and a join,
        # for by `= ANY` over that text a cached plan compares each name with each row of a small
        # table.
        return (
            "SELECT t.key, t.value, t.fresh_until "
            "FROM unnest(string_to_array($1, E'\\n')) AS asked (key) "
            f"JOIN {self.table} AS t ON t.key = asked.key "
            f"WHERE t.value IS NOT NULL AND t.generation = {self._generation('$2')}"
        )

    def _take(self) -> str:
        """Rows, tokens, seconds, lock_timeout, own row, tokens that nobody has."""
        return f"""
INSERT INTO {self.table} AS t (key, generation, lease, lease_until, dead_after)
SELECT u.key, {self._generation("$5")}, decode(u.lease, 'hex'),
    {_NOW} + $3::float8, {_NOW} + $3::float8
FROM {_WAIT.format(lock="$4")}, unnest($1::text[], $2::text[]) AS u(key, lease) ORDER BY u.key
ON CONFLICT (key) DO UPDATE SET
    lease = excluded.lease, lease_until = excluded.lease_until, generation = excluded.generation,
    value = CASE WHEN t.generation = excluded.generation THEN t.value END
WHERE t.lease IS NULL OR t.lease_until <= {_NOW} OR t.generation <> excluded.generation
    OR t.lease = excluded.lease OR encode(t.lease, 'hex') = ANY($6::text[])
RETURNING key, value, fresh_until"""

    def _mine(self, skip: str, columns: str = "", arrays: str = "", names: str = "") -> str:
        """Lock the rows whose lease is ours: rows, tokens, lock_timeout, own row."""
        return f"""
WITH mine AS MATERIALIZED (
    SELECT t.key{columns} FROM {_WAIT.format(lock="$3")},
        unnest($1::text[], $2::text[]{arrays}) AS u(key, lease{names})
    JOIN {self.table} AS t
    ON t.key = u.key AND t.lease = decode(u.lease, 'hex') AND t.lease_until > {_NOW}
    WHERE t.generation = {self._generation("$4")}
    ORDER BY t.key FOR UPDATE OF t {skip}
)"""

    def _renew(self, skip: str) -> str:
        """… and seconds."""
        return f"""{self._mine(skip)}
UPDATE {self.table} AS t SET lease_until = {_NOW} + $5::float8
FROM mine WHERE t.key = mine.key RETURNING t.key"""

    def _commit(self, skip: str) -> str:
        """… and values; their starts, sizes, versions and times; payloads, channel."""
        columns, arrays = ", " + _COLUMNS.format(blob="$5"), ", " + _arrays(6)
        change = f"""{self._mine(skip, columns, arrays, f", {_ENTRY}")}, done AS (
UPDATE {self.table} AS t SET value = mine.value, version = mine.version,
    fresh_until = mine.fresh, dead_after = mine.dead, lease = NULL, lease_until = NULL
FROM mine WHERE t.key = mine.key RETURNING t.key)"""
        return self._tell(change, "$11", "$12")

    def _release(self, skip: str) -> str:
        """… and payloads, channel."""
        change = f"""{self._mine(skip)}, done AS (
UPDATE {self.table} AS t SET lease = NULL, lease_until = NULL
FROM mine WHERE t.key = mine.key RETURNING t.key)"""
        return self._tell(change, "$5", "$6")

    # --- writing --------------------------------------------------------------------------------

    def _store(self, where: str) -> str:
        """Rows, values, lock_timeout, own row; what describes entries; payloads, channel."""
        change = f"""
WITH done AS (
INSERT INTO {self.table} AS t (key, generation, value, version, fresh_until, dead_after)
SELECT u.key, {self._generation("$4")}, {_COLUMNS.format(blob="$2")}
FROM {_WAIT.format(lock="$3")}, unnest($1::text[], {_arrays(5)}) AS u(key, {_ENTRY}) ORDER BY u.key
ON CONFLICT (key) DO UPDATE SET
    value = excluded.value, version = excluded.version, generation = excluded.generation,
    fresh_until = excluded.fresh_until, dead_after = excluded.dead_after,
    lease = NULL, lease_until = NULL
{where} RETURNING t.key)"""
        return self._tell(change, "$10", "$11")

    def _swap(self) -> str:
        """As `store`, and the versions expected."""
        change = f"""
WITH mine AS MATERIALIZED (
    SELECT t.key, {_COLUMNS.format(blob="$2")} FROM {_WAIT.format(lock="$3")},
        unnest($1::text[], {_arrays(5)}, $12::text[]) AS u(key, {_ENTRY}, expected)
    JOIN {self.table} AS t
    ON t.key = u.key AND t.version = decode(u.expected, 'hex') AND t.dead_after > {_NOW}
    WHERE t.generation = {self._generation("$4")} AND t.value IS NOT NULL
    ORDER BY t.key FOR UPDATE OF t
), done AS (
UPDATE {self.table} AS t SET value = mine.value, version = mine.version,
    fresh_until = mine.fresh, dead_after = mine.dead, lease = NULL, lease_until = NULL
FROM mine WHERE t.key = mine.key RETURNING t.key)"""
        return self._tell(change, "$10", "$11")

    def _discard(self, change: str) -> str:
        """Rows, lock_timeout; payloads, channel; for `expire` seconds, too."""
        upsert = f"""
WITH done AS (
INSERT INTO {self.table} AS t (key, dead_after)
SELECT u.key, {_NOW} + {TOMBSTONE} FROM {_WAIT.format(lock="$2")}, unnest($1::text[]) AS u(key)
ORDER BY u.key
ON CONFLICT (key) DO UPDATE SET lease = NULL, lease_until = NULL, {change} RETURNING t.key)"""
        return self._tell(upsert, "$3", "$4")

    def _evict(self) -> str:
        return f"""
WITH mine AS MATERIALIZED (
    SELECT key FROM {self.table} WHERE key = ANY($1) ORDER BY key FOR UPDATE SKIP LOCKED
)
UPDATE {self.table} AS t SET value = NULL, version = NULL, fresh_until = NULL,
    dead_after = least(t.dead_after, {_NOW})
FROM mine WHERE t.key = mine.key"""

    def _clear(self) -> str:
        """Own row, generation, lock_timeout; payloads, channel."""
        change = f"""
WITH done AS (
INSERT INTO {self.table} AS t (key, generation, dead_after)
SELECT $1, $2::bigint, 'infinity' FROM {_WAIT.format(lock="$3")}
ON CONFLICT (key) DO UPDATE SET generation = excluded.generation, dead_after = excluded.dead_after
RETURNING t.key)"""
        return self._tell(change, "$4", "$5")

    def _delete(self, condition: str, order: str, most: str) -> str:
        return f"""
WITH gone AS MATERIALIZED (
    SELECT key FROM {self.table} WHERE {condition}
    ORDER BY {order} LIMIT {most} FOR UPDATE SKIP LOCKED
)
DELETE FROM {self.table} AS t USING gone WHERE t.key = gone.key RETURNING t.key"""


def _arrays(first: int) -> str:
    """Return the five parameters that describe entries, from that number on."""
    return ", ".join(f"${number}::text[]" for number in range(first, first + 5))

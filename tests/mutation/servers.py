"""The guards of storages over memcached, PostgreSQL and SQLite."""

from __future__ import annotations

from tests.mutation.guards import Mutant

__all__ = ["SERVERS"]

MC_LEASES = "storages/_memcached_leases.py"
MC_OPS = "storages/_memcached_ops.py"
SQL = "storages/_postgres_statements.py"
ROWS = "storages/_postgres_rows.py"
WORK = "storages/_sqlite_work.py"

MEMCACHED = (
    "tests/storages/test_memcached_leases.py",
    "tests/storages/test_memcached_invalidation.py",
    "tests/storages/test_memcached_faults.py",
    "tests/storages/test_memcached.py",
    "tests/storages/test_leases_servers.py",
)
POOL = ("tests/storages/test_memcached_pool.py", "tests/storages/test_memcached_pool_changes.py")
POSTGRES = (
    "tests/storages/test_postgres_leases.py",
    "tests/storages/test_postgres.py",
    "tests/storages/test_postgres_transaction.py",
    "tests/storages/test_leases_servers.py",
)
SQLITE = ("tests/storages/test_sqlite.py", "tests/storages/test_sqlite_contract.py")

SERVERS = (
    # --- memcached ------------------------------------------------------------------------------
    Mutant(
        "a value that dies beside a lease gives a second one away (memcached)",
        MC_LEASES,
        "self._put_mark(client, key, name, mark, WireKeys.beside(name))",
        "self._put_mark(client, key, name, mark)",
        MEMCACHED,
    ),
    Mutant(
        "a commit does not look for its own mark (memcached)",
        MC_LEASES,
        "            if names[-1] not in ours:\n",
        "            if False:\n",
        MEMCACHED,
    ),
    Mutant(
        "a commit beside a value does not compare its version (memcached)",
        MC_LEASES,
        "if name in ours or self._is_unchanged(lease, name, found[name]):",
        "if True:",
        MEMCACHED,
    ),
    Mutant(
        "a commit is a set without a number (memcached)",
        MC_LEASES,
        "if await client.cas(name, data, held.place[1], expiry):",
        "if await client.set_all([(name, data, expiry)]) is None:",
        MEMCACHED,
    ),
    Mutant(
        "a mark is put over what somebody has stored meanwhile (memcached)",
        MC_LEASES,
        "if await client.cas(name, data, there[1], expiry):",
        "if await client.set_all([(name, data, expiry)]) is None:",
        MEMCACHED,
    ),
    Mutant(
        "a mark whose time is over keeps everybody out (memcached)",
        MC_LEASES,
        "if other is None or now >= other.until or other.token in self.unsure:",
        "if other is None or other.token in self.unsure:",
        (*MEMCACHED, "tests/test_interleavings.py", "tests/storages/test_machine.py"),
    ),
    Mutant(
        "a mark that was set too late keeps everybody out (memcached)",
        MC_LEASES,
        "if other is None or now >= other.until or other.token in self.unsure:",
        "if other is None or now >= other.until:",
        (*MEMCACHED, "tests/storages/test_memcached_leftovers.py"),
    ),
    Mutant(
        "what is dead is found (memcached)",
        MC_LEASES,
        "return entry if entry is not None and self.now() < entry.dead_after else None",
        "return entry",
        (*MEMCACHED, "tests/storages/test_machine.py"),
    ),
    Mutant(
        "an invalidation deletes the value before the mark beside it (memcached)",
        MC_OPS,
        "[at for name in names for at in (WireKeys.beside(name), name)]",
        "[at for name in names for at in (name, WireKeys.beside(name))]",
        MEMCACHED,
    ),
    Mutant(
        "a put leaves the mark beside the value (memcached)",
        MC_OPS,
        (
            "            await client.delete_in_order("
            "[WireKeys.beside(name) for _, name, _ in packed])\n"
        ),
        "",
        (*MEMCACHED, "tests/storages/test_machine.py"),
    ),
    Mutant(
        "a swap compares nothing (memcached)",
        MC_OPS,
        "            if (None if entry is None else entry.version) != version:\n",
        "            if False:\n",
        (*MEMCACHED, "tests/storages/test_contract_servers.py"),
    ),
    Mutant(
        "keys that have just moved are believed at once (memcached pool)",
        "storages/_memcached_pool.py",
        "return now >= self.settled_at or now >= self.believed_since(name)",
        "return True",
        POOL,
    ),
    # --- PostgreSQL -----------------------------------------------------------------------------
    Mutant(
        "a commit does not compare the token (Postgres)",
        SQL,
        "ON t.key = u.key AND t.lease = decode(u.lease, 'hex') AND t.lease_until > {_NOW}",
        "ON t.key = u.key AND t.lease_until > {_NOW}",
        POSTGRES,
    ),
    Mutant(
        "a lease that is out is taken (Postgres)",
        SQL,
        "WHERE t.lease IS NULL OR t.lease_until <= {_NOW} OR t.generation <> excluded.generation\n",
        "WHERE true OR t.generation <> excluded.generation\n",
        POSTGRES,
    ),
    Mutant(
        "an invalidation kills no lease (Postgres)",
        SQL,
        "DO UPDATE SET lease = NULL, lease_until = NULL, {change} RETURNING t.key)",
        "DO UPDATE SET {change} RETURNING t.key)",
        POSTGRES,
    ),
    Mutant(
        "an invalidation leaves no tombstone (Postgres)",
        SQL,
        "unnest($1::text[]) AS u(key)\nORDER BY u.key\nON CONFLICT (key) DO UPDATE SET lease",
        (
            "unnest($1::text[]) AS u(key)\n"
            "WHERE EXISTS (SELECT FROM {self.table} AS x WHERE x.key = u.key)\n"
            "ORDER BY u.key\nON CONFLICT (key) DO UPDATE SET lease"
        ),
        ("tests/storages/test_postgres_transaction.py", *POSTGRES),
    ),
    Mutant(
        "a put kills no lease (Postgres)",
        SQL,
        (
            "    fresh_until = excluded.fresh_until, dead_after = excluded.dead_after,\n"
            "    lease = NULL, lease_until = NULL\n"
        ),
        "    fresh_until = excluded.fresh_until, dead_after = excluded.dead_after\n",
        ("tests/storages/test_postgres_contract.py",),
    ),
    Mutant(
        "a row that is locked is trouble, and not a lease of somebody's (Postgres)",
        ROWS,
        "        except LOCKED:\n            give_up",
        "        except ZeroDivisionError:\n            give_up",
        ("tests/storages/test_postgres_transaction.py", *POSTGRES),
    ),
    Mutant(
        "what was cleared is found (Postgres)",
        "storages/_postgres_statements.py",
        "WHERE t.value IS NOT NULL AND t.generation = {self._generation('$2')}",
        "WHERE t.value IS NOT NULL AND 0 <= {self._generation('$2')}",
        POSTGRES,
    ),
    Mutant(
        "two programs that seed `random` alike clear nothing (Postgres)",
        ROWS,
        'int.from_bytes(os.urandom(8), "big") >> 2',
        '__import__("random").getrandbits(62)',
        POSTGRES[1:2],
    ),
    Mutant(
        "a swap compares nothing (Postgres)",
        SQL,
        "ON t.key = u.key AND t.version = decode(u.expected, 'hex') AND t.dead_after > {_NOW}",
        "ON t.key = u.key AND t.dead_after > {_NOW}",
        (*POSTGRES, "tests/storages/test_postgres_contract.py"),
    ),
    # --- SQLite ---------------------------------------------------------------------------------
    Mutant(
        "a lease that is out is taken (SQLite)",
        WORK,
        "WHERE leases.until <= ?",
        "WHERE ? OR 1",
        SQLITE,
    ),
    Mutant(
        "a commit does not compare the token (SQLite)",
        WORK,
        'END_OURS: Final = "DELETE FROM leases WHERE name = ? AND token = ? AND until > ?"',
        'END_OURS: Final = "DELETE FROM leases WHERE name = ? AND token <> ? || 1 AND until > ?"',
        SQLITE,
    ),
    Mutant(
        "a release ends whoever's lease (SQLite)",
        WORK,
        'RELEASE: Final = "DELETE FROM leases WHERE name = ? AND token = ?"',
        'RELEASE: Final = "DELETE FROM leases WHERE name = ? AND token <> ? || 1"',
        SQLITE,
    ),
    Mutant(
        "an invalidation kills no lease (SQLite)",
        WORK,
        "        db.executemany(END, names)\n",
        "",
        SQLITE,
    ),
    Mutant(
        "a put kills no lease (SQLite)",
        WORK,
        "        db.executemany(END, [(row.name,) for row in rows])\n",
        "",
        SQLITE,
    ),
    Mutant(
        "a swap compares nothing (SQLite)",
        WORK,
        "        if (None if there is None else there[0]) != self._expect[id]:\n",
        "        if False:\n",
        SQLITE,
    ),
    Mutant(
        "what is dead is found (SQLite)",
        WORK,
        'LOOK: Final = "SELECT file, data FROM entries WHERE name = ? AND dead_after > ?"',
        'LOOK: Final = "SELECT file, data FROM entries WHERE name = ? AND ? > 0"',
        SQLITE,
    ),
)

"""The guards behind the entries of the catalogue of stale reads."""

from __future__ import annotations

from tests.mutation.guards import Mutant

__all__ = ["CATALOGUE"]


def entries(module: str, *names: str) -> tuple[str, ...]:
    """Return tests of the catalogue, as pytest is told them."""
    return tuple(f"tests/catalogue/test_{module}.py::test_{name}" for name in names)


CATALOGUE = (
    Mutant(
        "load-write-store (Postgres): an invalidation kills no lease",
        "storages/_postgres_statements.py",
        "DO UPDATE SET lease = NULL, lease_until = NULL, {change} RETURNING",
        "DO UPDATE SET {change} RETURNING",
        entries("crossing", "load_write_store"),
    ),
    Mutant(
        "invalidate before the writer's commit (Postgres): it is no part of the transaction",
        "storages/_postgres_transaction.py",
        '                await rows.discard(self._session, names, None, "")',
        "                await self._storage.discard(keys)",
        entries("writers", "invalidate_before_the_writers_commit"),
    ),
    Mutant(
        "writer dies before invalidating: what is stored never ends",
        "gecaso/freshness.py",
        "    fresh_until = now + ttl\n",
        "    fresh_until = inf\n",
        entries("writers", "writer_dies_before_invalidating"),
    ),
    Mutant(
        "publish before delete (Redis): a discard tells, and deletes nothing",
        "storages/_redis_scripts.py",
        "DISCARD = b\"redis.call('UNLINK', KEYS[1]) \" + _END",
        "DISCARD = _END",
        entries("crossing", "publish_before_delete", "publish_before_delete_when_a_lease_goes"),
    ),
    Mutant(
        "lease with the same token: the tokens of a process are equal",
        "gecaso/entry.py",
        '    return _prefix + next(_count).to_bytes(8, "big")',
        "    return _prefix + bytes(8)",
        entries("leases", "lease_with_the_same_token"),
    ),
    Mutant(
        "clock skew (Redis): a first put is timed by this machine's clock",
        "storages/redis.py",
        "return {key: shifted(entry, shift) for key, entry in entries.items()}",
        "return entries",
        entries("leases", "clock_skew"),
    ),
    Mutant(
        "clock skew (memcached): a first put is timed by this machine's clock",
        "storages/memcached.py",
        "            entries = {key: _shifted(entry, shift) for key, entry in entries.items()}",
        "            pass",
        entries("leases", "clock_skew"),
    ),
    Mutant(
        "clock skew (memcached): a first lease is timed by this machine's clock",
        "storages/memcached.py",
        "        await self._know_the_time()\n        asked_at",
        "        asked_at",
        entries("leases", "clock_skew_makes_no_lease_longer_or_shorter"),
    ),
    Mutant(
        "holder dies: a lease that has run out is not given to anybody (in process)",
        "gecaso/leases.py",
        "        return now >= self.until and not self.committing",
        "        return False",
        entries("leases", "holder_dies", "holder_dies_while_the_old_value_is_served"),
    ),
    Mutant(
        "missed notification: who waits looks only when he is told",
        "gecaso/waiting.py",
        "LOOK_ANYWAY = 2.0",
        "LOOK_ANYWAY = 1e6",
        entries("trouble", "missed_notification", "half_open_subscription"),
    ),
    Mutant(
        "reordered notification: who is told that a lease has gone loads without one",
        "gecaso/network_loading.py",
        "            await self._wait(call, colour, ready, min(step, left))\n",
        (
            "            await self._wait(call, colour, ready, min(step, left))\n"
            "            if self.storage.notifies:\n"
            "                return _Without(upto=flight.mark())\n"
        ),
        entries("trouble", "reordered_notification_of_an_earlier_lease"),
    ),
    Mutant(
        "fail-over loses a delete: nobody counts the replicas that have it",
        "storages/_redis_lines.py",
        "        if reached < wanted:\n",
        "        if False:\n",
        entries("trouble", "fail_over_loses_a_delete_unless_replicas_must_have_it"),
    ),
    Mutant(
        "fallback revives a removed value: it is not looked whether it was removed",
        "gecaso/loading.py",
        (
            "        entry = await self.look(call, colour)\n"
            "        if entry is None:\n"
            "            return old if"
        ),
        ("        entry = None\n        if entry is None:\n            return old if True or"),
        entries("old", "fallback_revives_a_removed_value_for_who_had_found_it"),
    ),
    Mutant(
        "caller mutates the value: a hit finds what was packed, and gives it as it is",
        "storages/memory.py",
        "            return entry.with_value(self._packer.unpack(entry.value)[0])\n",
        (
            "            if not isinstance(entry.value, list):\n"
            "                entry.value = self._packer.unpack(entry.value)[0]\n"
            "            return entry\n"
        ),
        entries("values", "caller_mutates_the_value"),
    ),
    Mutant(
        "old shape after a deploy: other fields of the same name will do",
        "gecaso/packing/codec.py",
        "        if shape.check != check:\n",
        "        if False:\n",
        entries("values", "old_shape_after_a_deploy"),
    ),
    Mutant(
        "old snapshot in a transaction: bypass= is not asked",
        "gecaso/functions.py",
        "        if bypass(*args, **kwargs):\n",
        "        if False:\n",
        entries("writers", "old_snapshot_in_a_transaction"),
    ),
)

"""The guards of storages over a network."""

from __future__ import annotations

from tests.mutation.guards import Mutant

__all__ = ["NETWORK"]

SCRIPTS = "storages/_redis_scripts.py"
REDIS = (
    "tests/storages/test_redis_leases.py",
    "tests/storages/test_redis.py",
    "tests/storages/test_leases_servers.py",
)
BATCH = ("tests/storages/test_batch.py", "tests/storages/test_redis_round_trips.py")

NETWORK = (
    Mutant(
        "a commit does not compare the token (Redis)",
        SCRIPTS,
        "COMMIT = _OURS + b",
        "COMMIT = b",
        REDIS,
    ),
    Mutant(
        "a release ends whoever's lease (Redis)",
        SCRIPTS,
        "RELEASE = _OURS + _END",
        "RELEASE = _END",
        REDIS,
    ),
    Mutant(
        "a renewal prolongs whoever's lease (Redis)",
        SCRIPTS,
        "RENEW = _OURS + b",
        "RENEW = b",
        REDIS,
    ),
    Mutant(
        "a lease that is out is taken (Redis)",
        SCRIPTS,
        '(b"SET", lease, token, b"NX", b"PX", milliseconds(seconds))',
        '(b"SET", lease, token, b"PX", milliseconds(seconds))',
        REDIS,
    ),
    Mutant(
        "a put kills no lease (Redis)",
        SCRIPTS,
        "STORE = b\"redis.call('SET', KEYS[1], ARGV[1], unpack(ARGV, 2)) \" + _END",
        "STORE = b\"redis.call('SET', KEYS[1], ARGV[1], unpack(ARGV, 2)) return 1\"",
        REDIS,
    ),
    Mutant(
        "an invalidation kills no lease (Redis)",
        SCRIPTS,
        "DISCARD = b\"redis.call('UNLINK', KEYS[1]) \" + _END",
        "DISCARD = b\"redis.call('UNLINK', KEYS[1]) return 1\"",
        REDIS,
    ),
    Mutant(
        "a swap compares nothing (Redis)",
        SCRIPTS,
        "    b\"if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end \"\n",
        '    b""\n',
        REDIS,
    ),
    Mutant(
        "nobody is told that a lease has gone (Redis)",
        SCRIPTS,
        " redis.call('PUBLISH', KEYS[2], '') return 1",
        " return 1",
        REDIS,
    ),
    Mutant(
        "clear passes once (Redis)",
        "storages/redis.py",
        "for _ in range(2):\n            for lines in hub.nodes()",
        "for _ in range(1):\n            for lines in hub.nodes()",
        REDIS,
    ),
    Mutant(
        "an invalidation leaves the lease where a slot is being moved (Redis Cluster)",
        SCRIPTS,
        'return ((b"DEL", lease), (b"UNLINK", value)',
        'return ((b"UNLINK", value)',
        ("tests/storages/test_redis_cluster.py",),
    ),
    Mutant(
        "trouble of one node is that of the whole cluster (Redis Cluster)",
        "storages/_redis_topology.py",
        "node.server.part = node.dial.where if len(nodes) > 1 else None",
        "node.server.part = None",
        ("tests/storages/test_redis_cluster.py",),
    ),
    Mutant(
        "nobody asks whether it is the master (Redis with Sentinel)",
        "storages/_redis_wire.py",
        'if isinstance(reply, list) and reply[:1] != [b"master"]:',
        "if False:",
        ("tests/storages/test_redis_sentinel.py",),
    ),
    Mutant(
        "an invalidation counts before the replicas have it (Redis)",
        "storages/_redis_lines.py",
        "if reached < wanted:",
        "if False:",
        ("tests/storages/test_redis_replicas.py",),
    ),
    Mutant(
        "what may have been missed is not told (Redis)",
        "storages/_redis_changes.py",
        "                self._hear(Gap())",
        "                pass",
        ("tests/storages/test_redis_changes.py",),
    ),
    Mutant(
        "a lookup is shared after it was sent",
        "storages/_batch.py",
        "        self._calls = {}\n        for part",
        "        for part",
        BATCH,
    ),
    Mutant(
        "one caller that leaves cancels the lookup of another",
        "storages/_batch.py",
        "            asked.append(future)\n            return future",
        "            return asked[0]",
        BATCH,
    ),
    Mutant(
        "a reply that nobody asked for is taken for the next one (Redis)",
        "storages/_redis_wire.py",
        (
            "        if not self._asks:\n"
            '            self.break_off(StorageError(f"Redis at {self.dial.where} answered'
        ),
        (
            "        if not self._asks:\n"
            '            (StorageError(f"Redis at {self.dial.where} answered'
        ),
        ("tests/storages/test_redis_refusals.py",),
    ),
    Mutant(
        "a silent server is waited for (Redis)",
        "storages/_redis_wire.py",
        "        elif self._late is not oldest:\n",
        "        elif True:\n",
        ("tests/storages/test_redis_faults.py", "tests/test_faults.py"),
    ),
)

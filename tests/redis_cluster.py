"""A real Redis Cluster for tests: three masters, and replicas if asked for, on loopback.

with RedisCluster() as cluster:
    cluster.url             # redis+cluster://127.0.0.1:<port>,…
    cluster.owner("{a}")    # the server that has this name
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Self

from redis.crc import key_slot

from tests.servers import HOST, RedisError, RedisServer, free_port

__all__ = ["ClusterNode", "RedisCluster"]

SLOTS = 16384
PATIENCE = 10.0  # seconds until the nodes agree
BUS = 10_000  # the port for the other nodes is this much higher


def free_pair() -> int:
    """Return a port that nobody listens on, nor on that of its bus."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket() as here, socket.socket() as bus:
            here.bind((HOST, port))
            bus.bind((HOST, port + BUS))
            return port


class ClusterNode(RedisServer):
    """One node; another that is silent for ``node_timeout`` milliseconds is failed to it."""

    def __init__(self, *args: str, node_timeout: int, tls: bool = False) -> None:
        super().__init__(*args, tls=tls)
        self.port = free_pair()
        if tls:
            self.tls_port = free_pair()  # of which its bus is, then
        self.node_timeout = node_timeout

    @property
    def id(self) -> str:
        name = self.command("CLUSTER", "MYID")
        assert isinstance(name, bytes)
        return name.decode()

    def info(self) -> str:
        info = self.command("CLUSTER", "INFO")
        assert isinstance(info, bytes)
        return info.decode()

    @property
    def is_master(self) -> bool:
        role = self.command("ROLE")
        assert isinstance(role, list)
        return role[0] == b"master"

    def options(self) -> list[str]:
        cluster = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(self.node_timeout),
            "cluster-require-full-coverage": "no",
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            "tls-cluster": "yes" if self.tls_port else "no",
        }
        return [
            *super().options(),
            *(word for name, value in cluster.items() for word in (f"--{name}", value)),
        ]


class RedisCluster:
    """Masters with a share of the slots each, and ``replicas`` for each of them."""

    def __init__(
        self,
        *args: str,
        masters: int = 3,
        replicas: int = 0,
        tls: bool = False,
        node_timeout: int = 500,
    ) -> None:
        def node() -> ClusterNode:
            return ClusterNode(*args, node_timeout=node_timeout, tls=tls)

        self.masters = [node() for _ in range(masters)]
        self.replicas = [node() for _ in range(masters * replicas)]

    def __repr__(self) -> str:
        return f"<RedisCluster of {self.nodes}>"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def nodes(self) -> list[ClusterNode]:
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.masters)

    def start(self) -> None:
        """Start the nodes and make one cluster of them; return when all know of all."""
        for node in self.nodes:
            node.start()
        share = SLOTS / len(self.masters)
        for number, node in enumerate(self.masters):
            slots = range(round(number * share), round((number + 1) * share))
            node.command("CLUSTER", "ADDSLOTS", *slots)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].command("CLUSTER", "MEET", HOST, node.port)
        everybody = f"cluster_known_nodes:{len(self.nodes)}"
        wait_until(lambda: all(everybody in node.info() for node in self.nodes))
        for number, replica in enumerate(self.replicas):
            master = self.masters[number % len(self.masters)]
            replica.command("CLUSTER", "REPLICATE", master.id)
        wait_until(self._is_whole)

    def _is_whole(self) -> bool:
        wanted = len(self.replicas) // len(self.masters)
        return all("cluster_state:ok" in node.info() for node in self.nodes) and all(
            len(row) == 3 + wanted for node in self.nodes for row in _rows(node)
        )

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def flush(self) -> None:
        """Forget every key of every node."""
        for node in self.masters:
            node.command("FLUSHALL")

    def owner(self, name: str) -> ClusterNode:
        """Return the node that has a name now, as the others say."""
        slot = key_slot(name.encode())
        for node in self.nodes:
            with contextlib.suppress(OSError, RuntimeError, RedisError):
                for row in _rows(node):
                    start, end, place = row[:3]
                    assert isinstance(start, int)
                    assert isinstance(end, int)
                    assert isinstance(place, list)
                    if start <= slot <= end:
                        return next(node for node in self.nodes if node.port == place[1])
        raise RuntimeError(f"nobody has slot {slot}")

    def command(self, *args: str | bytes | int) -> object:
        """Run one command about a name, its second word, at the node that has it."""
        return self.owner(str(args[1])).command(*args)

    def move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Move a slot that has been announced with `announce`, and its keys."""
        while names := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            assert isinstance(names, list)
            keys = [name for name in names if isinstance(name, bytes)]
            source.command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.masters):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def announce(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Begin to move a slot."""
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)


def _rows(node: ClusterNode) -> list[list[object]]:
    rows = node.command("CLUSTER", "SLOTS")
    assert isinstance(rows, list)
    return [list(row) for row in rows if isinstance(row, list)]


def wait_until(is_so: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Ask until it is so: other processes tell nobody."""
    give_up = time.monotonic() + patience
    while not is_so():
        if time.monotonic() > give_up:
            raise RuntimeError("the servers did not get there")
        time.sleep(0.02)

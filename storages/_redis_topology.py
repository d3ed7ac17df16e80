"""The nodes of a Redis Cluster and which of them has which slot, as this process knows it."""

from __future__ import annotations

import time
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from gecaso.errors import StorageError

from ._redis_dial import Dial
from ._redis_errors import Moved
from ._redis_server import Server
from ._redis_urls import Address, ClusterPlace

Command = tuple[bytes | int, ...]

__all__ = ["SLOTS", "Node", "Topology", "slot_of"]

SLOTS: Final = 16384


def slot_of(name: bytes) -> int:
    """Return the slot of a name of ours: that of what stands between its braces.

    (`Redis Cluster specification <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>`_,
    CRC16 of XMODEM.)
    """
    start = name.find(b"{") + 1
    return crc_hqx(name[start : name.find(b"}", start)], 0) % SLOTS


class Node:
    """One node: how to connect to it, and what is known of it."""

    __slots__ = ("dial", "host", "port", "replicas", "server")

    def __init__(self, dial: Dial, host: str, port: int, trial: Sequence[Command]) -> None:
        self.dial = dial
        self.host = host
        self.port = port
        self.server = Server(dial.where, trial)
        self.replicas: tuple[Dial, ...] = ()

    def __repr__(self) -> str:
        return f"<Node {self.dial.where}, {self.server.breaker!r}>"


class Topology:
    """Who has which slot, in all event loops of this process.

    Its clock is that of the node with the first slot: the nodes of a cluster should agree on the
    time, but nothing makes them.
    """

    def __init__(self, place: ClusterPlace, trial: Sequence[Command]) -> None:
        self._trial = trial
        self._remap = place.remap
        self._model = place.seeds[0]
        self.timeout = self._model.timeout
        self.where = place.where
        self.seeds = [
            Node(dial, dial.options["host"], dial.options["port"], trial) for dial in place.seeds
        ]
        self.nodes: dict[Address, Node] = {}
        """The masters, by address."""
        self.owners: list[Node | None] = [None] * SLOTS
        self.refresh_at = 0.0
        self._offset = time.time() - time.monotonic()

    def __repr__(self) -> str:
        return f"<Topology of {len(self.nodes)} masters>"

    @property
    def is_known(self) -> bool:
        return bool(self.nodes)

    def owner(self, name: bytes) -> Node | None:
        """Return who has a name, if anybody has."""
        return self.owners[slot_of(name)]

    # --- the clock ------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        return any(node.server.known for node in self.nodes.values())

    @property
    def offset(self) -> float:
        for node in (self.owners[0], *self.nodes.values()):
            if node is not None and node.server.known:
                self._offset = node.server.offset
                break
        return self._offset

    def now(self) -> float:
        return time.monotonic() + self.offset

    # --- who has what ---------------------------------------------------------------------------

    def take(self, rows: Any, host: str) -> None:
        """Take over a reply to CLUSTER SLOTS of the node at ``host``.

        Raises TypeError or ValueError for what is none, `StorageError` if nobody has a slot.
        """
        nodes: dict[Address, Node] = {}
        owners: list[Node | None] = [None] * SLOTS
        for start, end, master, *replicas in rows:
            address = self._address(master, host)
            node = nodes.get(address) or self.nodes.get(address) or self._made(address)
            nodes[address] = node
            node.replicas = tuple(self._dial(self._address(one, host)) for one in replicas)
            owners[start : end + 1] = [node] * (end + 1 - start)
        if not nodes:
            raise StorageError(f"no node of the {self.where} has a slot; is it made?")
        for node in nodes.values():
            node.server.part = node.dial.where if len(nodes) > 1 else None
        self.nodes, self.owners = nodes, owners

    def moved(self, error: Moved) -> Node:
        """Take note of where a slot is, or what is asked for; return that node."""
        address = self._mapped((error.host, error.port))
        node = self.nodes.get(address)
        if node is None:
            node = self._made(address)
            self.nodes = {**self.nodes, address: node}
            node.server.part = node.dial.where
        if not error.asks:
            self.owners[error.slot] = node
        return node

    def _address(self, told: Sequence[Any], host: str) -> Address:
        name: bytes = told[0] or b""  # empty or ?: where the question was sent
        return self._mapped((host if name in (b"", b"?") else name.decode(), int(told[1])))

    def _mapped(self, address: Address) -> Address:
        return address if self._remap is None else self._remap(address)

    def _made(self, address: Address) -> Node:
        for seed in self.seeds:
            if (seed.host, seed.port) == address:
                return seed
        return Node(self._dial(address), *address, self._trial)

    def _dial(self, address: Address) -> Dial:
        return self._model.at(*address)

    def masters(self) -> Iterable[Node]:
        """Return those who have slots."""
        return dict.fromkeys(node for node in self.owners if node is not None)

    def those_to_ask(self, pick: Callable[[list[Node], int], list[Node]]) -> list[Node]:
        """Return some nodes that may know the topology: those in trouble last of all."""
        sound = [node for node in self.nodes.values() if not node.server.breaker.failures]
        return list(dict.fromkeys((*pick(sound, min(3, len(sound))), *self.seeds)))

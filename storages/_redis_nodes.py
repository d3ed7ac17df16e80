"""The nodes of a Redis Cluster in one event loop: connections, topology, trouble.

redis-py makes the connections; which node has which slot is kept here, because what is asked in
one tick shall be one round trip to each node. A node in trouble is left alone like a server, by a
breaker of its own, and the others are used as before.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gecaso.errors import StorageError

from ._batch import copy_of
from ._redis_errors import Moved, TryAgain
from ._redis_lines import Lines
from ._redis_replies import Reply, strange
from ._redis_topology import Node, Topology

__all__ = ["Nodes"]

logger = logging.getLogger("gecaso")

REFRESH_EVERY: Final = 0.1
"""Seconds between questions for the topology while there is trouble."""


class Nodes:
    """The connections to each node, and what is done when one of them does not answer."""

    def __init__(self, topology: Topology, make_lines: Callable[[Node], Lines]) -> None:
        self.topology = topology
        self._make_lines = make_lines
        self._lines: dict[Node, Lines] = {}
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._trouble = StorageError(f"the nodes of the {topology.where} are not known")
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {list(self._lines.values())}>"

    def lines(self, node: Node) -> Lines:
        """Return the connections to a node."""
        lines = self._lines.get(node)
        if lines is None:
            if self._closed:
                raise StorageError("the storage was closed during the operation")
            lines = self._lines[node] = self._make_lines(node)
        return lines

    def nodes(self) -> list[Lines]:
        """Return the way to each node that has slots."""
        return [self.lines(node) for node in self.topology.masters()]

    def connections(self) -> int:
        return sum(lines.connections() for lines in self._lines.values())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for lines in list(self._lines.values()):
            await lines.close()
        if tasks:
            await asyncio.wait(tasks)

    def abandon(self) -> None:
        for lines in self._lines.values():
            lines.abandon()

    # --- the topology ---------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait until the nodes are known; raise `StorageError` if none of them answers."""
        if self.topology.is_known:
            return
        if self._closed:
            raise StorageError("the storage was closed during the operation")
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self.spawn(self._refresh())
        await asyncio.wait((self._refreshing,))
        if not self.topology.is_known:
            raise copy_of(self._trouble)

    def refresh_soon(self) -> None:
        """Ask for the topology in the background, once for all who want it."""
        now = time.monotonic()
        if now < self.topology.refresh_at or self._closed:
            return
        if self._refreshing is None or self._refreshing.done():
            self.topology.refresh_at = now + REFRESH_EVERY
            self._refreshing = self.spawn(self._refresh())

    async def _refresh(self) -> None:
        asked = self.topology.those_to_ask(random.sample)
        tasks = [self._loop.create_task(self._ask(node)) for node in asked]
        try:
            for task in asyncio.as_completed(tasks):
                try:
                    node, rows = await task
                    self.topology.take(rows, node.host)
                    break
                except (StorageError, TypeError, ValueError) as error:
                    self._trouble = error if isinstance(error, StorageError) else strange(error)
            else:
                logger.debug("the topology of a cluster stays as it was: %s", self._trouble)
        finally:
            for other in tasks:
                if not other.done():
                    other.cancel()
            await asyncio.wait(tasks)
            for other in tasks:
                if not other.cancelled():
                    other.exception()
        await self._let_go()

    async def _ask(self, node: Node) -> tuple[Node, Reply]:
        (reply,) = await self.lines(node).call([(b"CLUSTER", b"SLOTS")])
        if isinstance(reply, StorageError):
            raise reply
        return node, reply

    async def _let_go(self) -> None:
        """Close the connections to nodes that have left; start one to that with the clock."""
        topology = self.topology
        if not topology.is_known:
            return
        for node in self._lines.keys() - set(topology.nodes.values()):
            await self._lines.pop(node).close()
        first = topology.owners[0]
        if first is not None and not first.server.known and not first.server.breaker.failures:
            self.lines(first).line  # noqa: B018 - it measures the clock when it is open

    # --- trouble --------------------------------------------------------------------------------

    def failed(self, node: Node, error: StorageError) -> None:
        self.refresh_soon()
        if node.server.part is not None:
            node.server.failed(error)

    def left_alone(self, node: Node, name: bytes) -> StorageError | None:
        """Return an error if the node is left alone now; find out in the background if it may be
        used again.
        """
        breaker = node.server.breaker
        if node.server.part is None or not breaker.is_open:
            return None
        if breaker.take_probe():
            self.spawn(self._probe(node, name))
        return node.server.left_alone()

    async def _probe(self, node: Node, name: bytes) -> None:
        alive = False
        try:
            self.refresh_soon()
            (reply,) = await self.lines(node).call([(b"MGET", name)])
            alive = not isinstance(reply, StorageError) or isinstance(reply, (Moved, TryAgain))
        except StorageError as error:
            logger.debug("%r is still in trouble: %s", node, error)
        finally:
            node.server.breaker.probed(alive)

    def nobody(self) -> StorageError:
        self.refresh_soon()
        error = StorageError(f"no node of the {self.topology.where} has the slot of this key")
        error.part = "a slot without a node"
        return error

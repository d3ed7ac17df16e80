"""A Redis Cluster in one event loop: what is asked goes to the node that has the key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

from gecaso.entry import Entry
from gecaso.errors import StorageError

from . import _redis_scripts as scripts
from ._batch import Batch, Calls, fail, settle
from ._redis_errands import REDIRECTS, Errands
from ._redis_errors import Moved, TryAgain
from ._redis_lines import Lines, Unpack
from ._redis_nodes import Nodes
from ._redis_replies import Reply, is_row, strange
from ._redis_topology import Node, Topology
from ._redis_wire import Command, Outcome, packed

__all__ = ["Cluster"]


class Cluster(Nodes):
    """What is asked of a cluster in one event loop. It has the methods of `Lines`."""

    is_cluster: ClassVar[bool] = True

    def __init__(
        self, topology: Topology, unpack: Unpack, make_lines: Callable[[Node], Lines]
    ) -> None:
        super().__init__(topology, make_lines)
        self._unpack = unpack
        self.lookups: Batch[bytes, Entry | None] = Batch(self._look_up, weigh=len)

    async def close(self) -> None:
        await super().close()
        self.lookups.flush()

    # --- lookups --------------------------------------------------------------------------------

    def _look_up(self, calls: Calls[bytes, Entry | None]) -> None:
        topology = self.topology
        if not topology.is_known:
            self.spawn(self._look_up_later(calls))
            return
        groups: dict[Node | None, Calls[bytes, Entry | None]] = {}
        owner = topology.owner
        for name, futures in calls.items():
            groups.setdefault(owner(name), {})[name] = futures
        for node, some in groups.items():
            alone = self.nobody() if node is None else self.left_alone(node, next(iter(some)))
            if node is None or alone is not None:
                fail(some, alone or self.nobody())
            else:
                self._look_up_at(node, some)

    def _look_up_at(self, node: Node, calls: Calls[bytes, Entry | None]) -> None:
        # A GET would be an error where there is a list; slots do not allow one MGET of all.
        commands = [(b"MGET", name) for name in calls]
        try:
            self.lines(node).ask(
                packed(*commands), len(commands), partial(self._looked_up, node, calls)
            )
        except StorageError as error:
            fail(calls, error)

    async def _look_up_later(self, calls: Calls[bytes, Entry | None]) -> None:
        try:
            await self.ready()
        except StorageError as error:
            fail(calls, error)
        except asyncio.CancelledError:
            fail(calls, StorageError("the storage was closed during the operation"))
            raise
        else:
            self._look_up(calls)

    def _looked_up(self, node: Node, calls: Calls[bytes, Entry | None], outcome: Outcome) -> None:
        elsewhere: Calls[bytes, Entry | None] = {}
        now = self.topology.now()
        for (name, futures), reply in zip(
            calls.items(), self._heard(node, outcome, len(calls)), strict=True
        ):
            if isinstance(reply, (Moved, TryAgain)):
                elsewhere[name] = futures
            elif isinstance(reply, StorageError):
                fail({name: futures}, reply)
            else:
                self._settle(name, futures, reply[0], now)
        if elsewhere:
            self.spawn(self._look_elsewhere(elsewhere))

    def _heard(self, node: Node, outcome: Outcome, wanted: int) -> list[Reply]:
        """Return the replies to lookups: a row, or what went wrong; take note of that once."""
        if isinstance(outcome, StorageError):
            self.failed(node, outcome)
            return [outcome] * wanted
        trouble: StorageError | None = None
        for index, reply in enumerate(outcome):
            if not is_row(reply) and not isinstance(reply, (Moved, TryAgain)):
                error = reply if isinstance(reply, StorageError) else strange(reply)
                error.part = node.server.part
                outcome[index] = trouble = error
        if trouble is None:
            node.server.breaker.succeeded()
        else:
            self.failed(node, trouble)
        return outcome

    def _settle(
        self, name: bytes, futures: list[asyncio.Future[Entry | None]], data: Any, now: float
    ) -> None:
        try:
            entry = None if data is None else self._unpack(name, data, now)
        except Exception as fault:  # noqa: BLE001 - it is raised in those who wait
            fail({name: futures}, fault)
        else:
            settle(futures, entry)

    async def _look_elsewhere(self, calls: Calls[bytes, Entry | None]) -> None:
        try:
            replies = await self.call([(b"MGET", name) for name in calls])
        except StorageError as error:
            fail(calls, error)
            return
        except asyncio.CancelledError:
            fail(calls, StorageError("the storage was closed during the operation"))
            raise
        now = self.topology.now()
        for (name, futures), reply in zip(calls.items(), replies, strict=True):
            if isinstance(reply, StorageError):
                fail({name: futures}, reply)
            else:
                self._settle(name, futures, reply[0], now)

    async def read(self, names: Sequence[bytes]) -> list[Reply]:
        """Return what is stored under each name, or what went wrong there."""
        await self.ready()
        groups: dict[Node | None, list[bytes]] = {}
        for name in names:
            groups.setdefault(self.topology.owner(name), []).append(name)
        found: dict[bytes, Reply] = {}
        asked = [self._read_at(node, some, found) for node, some in groups.items()]
        await asyncio.gather(*asked)
        left = [name for name in names if isinstance(found[name], (Moved, TryAgain))]
        if left:
            replies = await self.call([(b"MGET", name) for name in left])
            found |= zip(left, replies, strict=True)
        return [reply[0] if is_row(reply := found[name]) else reply for name in names]

    async def _read_at(
        self, node: Node | None, names: list[bytes], found: dict[bytes, Reply]
    ) -> None:
        error = self.nobody() if node is None else self.left_alone(node, names[0])
        if node is None or error is not None:
            found |= dict.fromkeys(names, error)
            return
        future: asyncio.Future[Outcome] = self._loop.create_future()
        commands = [(b"MGET", name) for name in names]

        def done(outcome: Outcome) -> None:
            settle((future,), outcome)

        self.lines(node).ask(packed(*commands), len(commands), done, at_once=False)
        found |= zip(names, self._heard(node, await future, len(names)), strict=True)

    # --- commands -------------------------------------------------------------------------------

    async def call(
        self,
        commands: Sequence[Command],
        *,
        each: int = 1,
        urgent: bool = False,
        sure: bool = False,
    ) -> list[Reply]:
        """Return the replies, and in their place what went wrong at a node.

        Every ``each`` commands are for one key. What is ``urgent`` is tried at nodes that are left
        alone, too.
        """
        await self.ready()
        return await Errands(self, commands, each, urgent=urgent, sure=sure).run()

    def tell(self, commands: Iterable[Command]) -> None:
        """Write commands behind the others of their nodes, where that is possible."""
        for command in commands:
            node = self.topology.owner(scripts.name_of(command))
            if node in self._lines:
                self._lines[node].tell((command,))

    async def wait(self, lease: bytes, token: bytes, timeout: float) -> None:
        """Wait until that token no longer holds the lease, at most ``timeout`` seconds."""
        await self.ready()
        for _ in range(REDIRECTS):
            node = self.topology.owner(lease)
            if node is None:
                raise self.nobody()
            alone = self.left_alone(node, lease)
            if alone is not None:
                raise alone
            try:
                await self.lines(node).wait(lease, token, timeout)
            except Moved as moved:
                moved.host = moved.host or node.host
                self.topology.moved(moved)
                self.refresh_soon()
            except StorageError as error:
                self.failed(node, error)
                raise
            else:
                return

"""Commands for keys of many nodes: each goes where its key is, and after it if that has moved.

A unit is the commands for one key. They stay together, in their order: what is redirected is run
again as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from gecaso.errors import StorageError

from . import _redis_scripts as scripts
from ._redis_errors import Moved, TryAgain
from ._redis_nodes import Nodes
from ._redis_replies import Reply
from ._redis_topology import Node
from ._redis_wire import Command

__all__ = ["REDIRECTS", "Errands"]

REDIRECTS: Final = 5
"""How often a command is sent elsewhere before that counts as trouble."""
TRY_AGAIN: Final = 0.01
"""Seconds until what is being moved is tried again."""


class _Unit:
    """Commands for one key, and what came of them."""

    __slots__ = ("commands", "name", "outcome")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.name = scripts.name_of(commands[0])
        self.outcome: list[Reply] = []

    @property
    def redirect(self) -> Moved | TryAgain | None:
        """What sends these commands elsewhere, if something does."""
        for reply in self.outcome:
            if isinstance(reply, (Moved, TryAgain)):
                return reply
        return None

    @property
    def is_torn(self) -> bool:
        """Whether these commands must be run apart."""
        return isinstance(self.redirect, TryAgain) and bool(scripts.apart(self.commands[0]))

    def fail(self, error: StorageError) -> None:
        self.outcome = [error] * len(self.commands)


class Errands:
    """The commands of one call, on their way."""

    def __init__(
        self,
        nodes: Nodes,
        commands: Sequence[Command],
        each: int,
        *,
        urgent: bool,
        sure: bool,
    ) -> None:
        self._nodes = nodes
        self._urgent = urgent
        self._sure = sure
        self._units = [
            _Unit(commands[start : start + each]) for start in range(0, len(commands), each)
        ]

    async def run(self) -> list[Reply]:
        """Return the replies, and in their place what went wrong."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._nodes.topology.timeout
        await self._run(self._at_home(self._units))
        for attempt in range(1, REDIRECTS):
            again = [each for each in self._units if each.redirect is not None and not each.is_torn]
            if not again or loop.time() > end:
                break
            await self._run_elsewhere(again, attempt)
        await self._run_apart([unit for unit in self._units if unit.is_torn])
        for unit in self._units:
            if unit.redirect is not None:
                error = TryAgain(f"the slot of this key is being moved ({unit.redirect})")
                node = self._nodes.topology.owner(unit.name)
                error.part = None if node is None else node.server.part
                unit.fail(error)
        return [reply for unit in self._units for reply in unit.outcome]

    def _at_home(self, units: Iterable[_Unit]) -> dict[Node, list[_Unit]]:
        """Return the units by the nodes that have their keys, without those that cannot run."""
        nodes, groups = self._nodes, dict[Node, list[_Unit]]()
        for unit in units:
            node = nodes.topology.owner(unit.name)
            if node is None:
                unit.fail(nodes.nobody())
                continue
            alone = nodes.left_alone(node, unit.name)
            if alone is None or self._urgent:
                groups.setdefault(node, []).append(unit)
            else:
                unit.fail(alone)
        return groups

    async def _run_elsewhere(self, again: Iterable[_Unit], attempt: int) -> None:
        """Run what was not answered where it was asked: where it was sent to, or there again."""
        asking: dict[Node, list[_Unit]] = {}
        home: list[_Unit] = []
        wait = 0.0
        for unit in again:
            redirect = unit.redirect
            if isinstance(redirect, Moved):
                node = self._nodes.topology.moved(redirect)
                if redirect.asks:
                    asking.setdefault(node, []).append(unit)
                    continue
                self._nodes.refresh_soon()
            else:
                wait = TRY_AGAIN * attempt
            home.append(unit)
        if wait:
            await asyncio.sleep(wait)
        await self._run(self._at_home(home))
        await self._run(asking, asking=True)

    async def _run_apart(self, units: list[_Unit]) -> None:
        """Run one by one the commands of what cannot run as one while its slot is being moved."""
        whole = [unit.commands for unit in units]
        for unit in units:
            unit.commands = scripts.apart(unit.commands[0])
        await self._run(self._at_home(units))
        for attempt in range(1, REDIRECTS):
            again = [unit for unit in units if unit.redirect is not None]
            if again:
                await self._run_elsewhere(again, attempt)
        for unit, commands in zip(units, whole, strict=True):
            unit.commands = commands
            errors = [reply for reply in unit.outcome if isinstance(reply, StorageError)]
            unit.outcome = [*errors, 1][:1]

    async def _run(self, groups: dict[Node, list[_Unit]], *, asking: bool = False) -> None:
        """Run units, each in one pipeline with the others at its node."""
        runs = [self._run_at(node, units, asking) for node, units in groups.items()]
        if len(runs) == 1:
            await runs[0]
        elif runs:
            await asyncio.gather(*runs)

    async def _run_at(self, node: Node, units: list[_Unit], asking: bool) -> None:
        commands = [command for unit in units for command in unit.commands]
        if asking:
            commands = [each for command in commands for each in ((b"ASKING",), command)]
        try:
            replies = await self._nodes.lines(node).call(commands, sure=self._sure)
        except StorageError as error:
            self._nodes.failed(node, error)
            for unit in units:
                unit.fail(error)
            return
        given = iter(replies[1::2] if asking else replies)
        trouble: StorageError | None = None
        for unit in units:
            unit.outcome = [next(given) for _ in unit.commands]
            for reply in unit.outcome:
                if isinstance(reply, Moved):
                    reply.host = reply.host or node.host
                elif isinstance(reply, StorageError) and not isinstance(reply, TryAgain):
                    reply.part = node.server.part
                    trouble = trouble or reply
        if trouble is not None:
            self._nodes.failed(node, trouble)
        else:
            node.server.breaker.succeeded()

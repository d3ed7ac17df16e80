"""Lookups at the replicas of a master, where they were asked for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from gecaso.errors import StorageError

from ._redis_dial import Dial
from ._redis_server import Server
from ._redis_wire import Line, Outcome, packed

if TYPE_CHECKING:
    from ._redis_lines import Lines

__all__ = ["Replicas"]

LOOK_EVERY: Final = 5.0  # seconds between questions to the master for its replicas
REST: Final = 1.0  # seconds without replicas after one of them has failed


class Replicas:
    """A connection to one of the replicas of a master, while there is one; else to the master.

    ``known()`` returns who they are; None: the master is asked. A replica has half the time, so
    that the master can still answer in what is left.
    """

    def __init__(
        self,
        master: Lines,
        known: Callable[[], Sequence[Dial]] | None = None,
    ) -> None:
        self._master = master
        self._known = known
        self._dials: Sequence[Dial] = ()
        self._look_at = self._use_at = 0.0
        self._line: Line | None = None

    def __repr__(self) -> str:
        return f"<Replicas of {self._master.dial.where}: {self._line!r}>"

    def ask(self, data: bytes, wanted: int, done: Callable[[Outcome], None]) -> None:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._look()
        line = self._line
        if line is None or line.broken is not None:
            self._line = self._another() if now >= self._use_at else None
        if line is None or line.state != "open":
            self._ask_master(data, wanted, done)
        else:
            line.ask(data, wanted, partial(self._take, data, wanted, done), at_once=True)

    def _take(
        self, data: bytes, wanted: int, done: Callable[[Outcome], None], outcome: Outcome
    ) -> None:
        if isinstance(outcome, StorageError):
            self._use_at = time.monotonic() + REST
            self._ask_master(data, wanted, done)
        elif any(isinstance(reply, StorageError) for reply in outcome):
            self._ask_master(data, wanted, done)
        else:
            done(outcome)

    def _ask_master(self, data: bytes, wanted: int, done: Callable[[Outcome], None]) -> None:
        try:
            line = self._master.line
        except StorageError as error:  # it was closed meanwhile
            done(error)
        else:
            line.ask(data, wanted, done, at_once=True)

    def _another(self) -> Line | None:
        if not self._dials:
            return None
        dial = random.choice(self._dials)
        dial = replace(dial, timeout=dial.timeout / 2)
        return self._master.dialled(dial, Server(dial.where), reads_replica=True)

    def _look(self) -> None:
        if self._known is not None:
            self._take_dials(self._known())
        else:
            self._master.line.ask(packed((b"ROLE",)), 1, self._told_role)

    def _told_role(self, outcome: Outcome) -> None:
        if isinstance(outcome, StorageError) or isinstance(outcome[0], StorageError):
            return  # until the next look, those known before
        role = outcome[0]
        if role[0] == b"master":
            at = self._master.dial.at
            self._take_dials([at(host.decode(), int(port)) for host, port, _ in role[2]])

    def _take_dials(self, dials: Sequence[Dial]) -> None:
        self._dials = dials
        line = self._line
        if line is not None and line.dial.where not in {dial.where for dial in dials}:
            self._line = None  # it is no replica any more
            line.break_off(StorageError("the replica has left"))

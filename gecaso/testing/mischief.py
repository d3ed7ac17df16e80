"""When something goes wrong, and what that does to the one operation it hits."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import Any

from gecaso.errors import StorageError, StorageTimeout
from gecaso.testing.faults import (
    Delay,
    Fault,
    Faults,
    Hang,
    Late,
    RaiseAfter,
    RaiseBefore,
    check_fault,
    check_operations,
    draw,
)
from gecaso.testing.messages import Messages

__all__ = ["Mischief"]

logger = logging.getLogger("gecaso")


class Mischief:
    """The script, the dice and the connection of a `ChaosStorage`."""

    timeout: float = inf

    def __init__(self, seed: int, choose: Callable[[int], int] | None) -> None:
        self.injected: Counter[str] = Counter()
        self._faults = Faults()
        self._choose = choose or random.Random(seed).randrange
        self._scripts: defaultdict[str, deque[Fault | None]] = defaultdict(deque)
        self._cut_off = 0.0  # how many more operations fail for want of a connection
        self._hanging: set[asyncio.Future[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._messages = Messages(self._next_faults, self._count)

    @property
    def faults(self) -> Faults:
        """How often things go wrong; may be replaced at any time."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._check(faults)
        self._faults = faults

    def _check(self, faults: Faults) -> None:
        """Raise `ConfigurationError` for what this storage cannot do."""

    def next(self, operation: str, *faults: Fault | None) -> None:
        """Script the next operation of this name; several are of one each, None is of peace.

        While there is a script for an operation, nothing is drawn for it.
        """
        check_operations((operation,))
        for fault in faults:
            if fault is not None:
                check_fault(operation, fault)
        self._scripts[operation].extend(faults)

    def script(self, steps: Iterable[tuple[str, Fault | None]]) -> None:
        """Script many: pairs of an operation and its fault, or None."""
        for operation, fault in steps:
            self.next(operation, fault)

    def calm_down(self) -> None:
        """Inject no more; what hangs goes on, and what was held back is told."""
        self._faults = Faults()
        self._scripts.clear()
        self.reconnect()
        self._messages.flush()
        for hanging in list(self._hanging):
            _wake(hanging)

    @property
    def is_disconnected(self) -> bool:
        return self._cut_off > 0

    def disconnect(self, operations: float = inf) -> None:
        """Let that many operations fail, or all until `reconnect`; messages are lost meanwhile."""
        self._count("disconnect")
        self._cut_off = operations
        self._messages.disconnect()

    def reconnect(self) -> None:
        """End a disconnection; who listens to changes is told of the gap."""
        if self._cut_off:
            self._cut_off = 0
            self._messages.reconnect()

    def _count(self, kind: str) -> None:
        self.injected[kind] += 1

    def _next_faults(self, operation: str) -> list[Fault]:
        script = self._scripts.get(operation)
        if script:
            fault = script.popleft()
            return [] if fault is None else [fault]
        return list(draw(self._faults, operation, self._choose))

    # --- one operation ------------------------------------------------------------------------

    def _use_connection(self) -> None:
        if self._cut_off:
            self._count("disconnected")
            self._cut_off -= 1
            if not self._cut_off:
                self._messages.reconnect()
            raise StorageError(f"{self!r}: no connection")

    async def _go_wrong_before(
        self, fault: Fault, apply: Callable[[], Awaitable[Any]], give_up: float
    ) -> None:
        match fault:
            case RaiseBefore(error):
                self._count("raise_before")
                raise error(f"{self!r}: failed, not applied")
            case Delay(seconds):
                self._count("delay")
                await self._pause(seconds, give_up)
            case Late(seconds):
                self._count("late")
                task = asyncio.get_running_loop().create_task(_arrive(seconds, apply))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
                raise StorageTimeout(f"{self!r}: no answer in time; applied in {seconds} s")
            case Hang(applied=False):
                await self._hang(give_up)
            case _:
                pass

    async def _go_wrong_after(self, fault: Fault, give_up: float) -> None:
        match fault:
            case RaiseAfter(error):
                self._count("raise_after")
                raise error(f"{self!r}: failed, though applied")
            case Hang(applied=True):
                await self._hang(give_up)
            case _:
                pass

    async def _hang(self, give_up: float) -> None:
        self._count("hang")
        healed = asyncio.get_running_loop().create_future()
        self._hanging.add(healed)
        try:
            async with asyncio.timeout_at(None if give_up == inf else give_up):
                await healed
        except TimeoutError:
            raise StorageTimeout(f"{self!r}: no answer within {self.timeout} s") from None
        finally:
            self._hanging.discard(healed)

    async def _pause(self, seconds: float, give_up: float) -> None:
        left = give_up - asyncio.get_running_loop().time()
        await asyncio.sleep(min(seconds, left))
        if seconds > left:
            raise StorageTimeout(f"{self!r}: no answer within {self.timeout} s")


async def _arrive(seconds: float, apply: Callable[[], Awaitable[Any]]) -> None:
    await asyncio.sleep(seconds)
    try:
        await apply()
    except StorageError as error:
        logger.debug("what was to arrive late did not: %s", error)


def _wake(future: asyncio.Future[None]) -> None:
    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop = future.get_loop()
    if loop is asyncio._get_running_loop():
        wake()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(wake)

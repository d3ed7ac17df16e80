"""Messages of changes, lost, reordered and repeated on their way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from gecaso.changes import Gap
from gecaso.testing.faults import Fault, Lose, Reorder, Repeat, kind_of

__all__ = ["Messages"]


class Messages:
    """What one process hears of changes, and those who listen in it."""

    def __init__(
        self, faults_of: Callable[[str], list[Fault]], count: Callable[[str], None]
    ) -> None:
        self._faults_of = faults_of
        self._count = count
        self._is_connected = True
        self._listeners: set[_Listener] = set()

    def disconnect(self) -> None:
        """Lose every message until `reconnect`."""
        self._is_connected = False

    def reconnect(self) -> None:
        """Hear again, and tell of the gap."""
        self._is_connected = True
        for listener in list(self._listeners):
            listener.held.clear()
            listener.tell(Gap())

    def flush(self) -> None:
        """Tell what was held back."""
        for listener in list(self._listeners):
            listener.release()

    async def through(self, changes: AsyncIterator[object]) -> AsyncIterator[object]:
        """Iterate over messages as they arrive here."""
        listener = _Listener()
        self._listeners.add(listener)
        reading = asyncio.get_running_loop().create_task(self._read(changes, listener))
        try:
            while (told := await listener.queue.get()) is not None:
                if isinstance(told, BaseException):
                    raise told
                yield told
        finally:
            self._listeners.discard(listener)
            reading.cancel()
            await asyncio.wait((reading,))

    async def _read(self, changes: AsyncIterator[object], listener: _Listener) -> None:
        try:
            async for message in changes:
                self._arrive(message, listener)
        except Exception as error:  # noqa: BLE001 - raised where the messages are read
            listener.tell(error)
        finally:
            if (close := getattr(changes, "aclose", None)) is not None:
                await close()
            listener.tell(None)

    def _arrive(self, message: object, listener: _Listener) -> None:
        if isinstance(message, Gap):  # which the client itself notices
            listener.held.clear()
            listener.tell(message)
            return
        if not self._is_connected:
            self._count("disconnected")
            return
        kinds: dict[Any, Fault] = {type(one): one for one in self._faults_of("changes")}
        for fault in kinds.values():
            self._count(kind_of(fault))
        if Lose in kinds:
            return
        if Reorder in kinds:
            listener.held.append(message)
            return
        listener.tell(message)
        if Repeat in kinds:
            listener.held.append(message)  # for the second time after the next one
        else:
            listener.release()


class _Listener:
    """One who iterates over the messages."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[object] = asyncio.Queue()
        self.held: list[object] = []

    def tell(self, message: object) -> None:
        self.queue.put_nowait(message)

    def release(self) -> None:
        """Tell what was held back until after this."""
        for message in self.held:
            self.tell(message)
        self.held.clear()

"""Waiting for leases to go, in one event loop: told, or by looking where nobody tells."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import Final

from gecaso.errors import StorageError

from ._batch import Batch, copy_of
from ._postgres_ears import Deaf, Ears
from ._postgres_rows import LOCK, Rows
from ._postgres_sources import Means, let_go

__all__ = ["LOOK_AGAIN", "Holders", "Listening"]

LOOK_AGAIN: Final = 0.25  # seconds; nobody tells that a transaction was rolled back
POLL: Final = (0.02, 0.25)  # seconds between looks at a lease, first and last, without LISTEN

Holders = Batch[str, "tuple[bytes | None, float] | None"]


class Listening:
    """The connection that listens, made when somebody waits or follows.

    ``holders`` tells who has the lease of a row, and for how many seconds; ``meet()`` sees to it
    that the table is known.
    """

    def __init__(
        self, means: Means, rows: Rows, holders: Holders, meet: Callable[[], Awaitable[None]]
    ) -> None:
        self._means = means
        self._rows = rows
        self._holders = holders
        self._meet = meet
        self._loop = asyncio.get_running_loop()
        self._ears: Ears | None = None
        self._deaf: Deaf | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Listening: {self._ears!r}>"

    def connections(self) -> int:
        return 0 if self._ears is None else len(self._ears.connections)

    async def ears(self, patience: float) -> Ears:
        """Return the connection that listens; it may take longer to open than ``patience``.

        Raises `Deaf` where there can be none.
        """
        source = self._means.listening
        if source is None:
            raise Deaf(
                "the pool has one connection, which cannot be kept for LISTEN: let it have more, "
                "or give the storage listen_url="
            )
        if self._deaf is not None:
            raise copy_of(self._deaf)
        await self._meet()
        ears = self._ears
        if ears is None or ears.broken is not None:
            if self._is_closed:
                raise StorageError("the storage was closed during the operation")
            rows, longest = self._rows, self._means.connect_timeout + self._means.timeout
            ears = self._ears = Ears(source, rows.server, rows.names, rows.origin, longest)
            weakref.finalize(self, let_go, self._loop, (ears.connections,)).atexit = False
        try:
            await ears.opened(patience)
        except Deaf as error:
            self._deaf = error
            raise
        return ears

    async def wait(self, row: str, token: bytes, timeout: float) -> None:
        """Wait until that token no longer holds the lease, at most ``timeout`` seconds."""
        end = self._loop.time() + timeout
        ears: Ears | None = None
        with contextlib.suppress(StorageError):  # nobody tells: then we look
            ears = await self.ears(timeout)
        heard: Future[None] = self._loop.create_future() if ears is None else ears.listen(row)
        pause, last = POLL
        try:
            while not heard.done() and (left := end - self._loop.time()) > 0:
                if token == LOCK:
                    await asyncio.wait((heard,), timeout=min(left, LOOK_AGAIN))
                    return
                there = await self._holders.add(row)
                if there is None or there[0] != token:
                    return
                if ears is None:
                    left, pause = min(left, pause), min(1.5 * pause, last)
                await asyncio.wait((heard,), timeout=min(left, there[1] + 0.001))
        finally:
            if ears is not None:
                ears.forget(row, heard)

    async def close(self) -> None:
        self._is_closed = True
        if self._ears is not None:
            await self._ears.close()

    def abandon(self) -> None:
        if self._ears is not None:
            self._ears.abandon()

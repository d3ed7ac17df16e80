"""What one iteration over the changes of a storage has not been told yet."""

from __future__ import annotations

import asyncio
from asyncio import Future
from typing import Final

from gecaso.changes import Change, Changed, Cleared, Gap

__all__ = ["Follower"]

MOST: Final = 10_000  # names kept for one who does not come; then he is told of a gap


class Follower:
    """The changes that one who iterates has not taken yet, coalesced. Belongs to its loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._first: Cleared | Gap | None = None
        self._names: set[str] = set()
        self._news: Future[None] | None = None
        self._error: Exception | None = None
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Follower: {self._first!r}, {len(self._names)} names>"

    def hear(self, change: Change) -> None:
        """Take note of a change, to be told later."""
        if isinstance(change, Changed):
            self._names |= change.names
            if len(self._names) > MOST:
                change = Gap()
        if not isinstance(change, Changed):
            self._names.clear()
            if not isinstance(self._first, Gap):  # which says more than a Cleared
                self._first = change
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will be heard; what has been may still be taken."""
        self._error = error
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def next(self) -> Change | None:
        """Return the next change; None when there will be none. Raises what ended it."""
        while self._first is None and not self._names:
            if self._error is not None:
                raise self._error
            if self._is_over:
                return None
            self._news = self._loop.create_future()
            await self._news
        first, self._first = self._first, None
        if first is not None:
            return first
        names, self._names = self._names, set()
        return Changed(names)

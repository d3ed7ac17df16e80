"""What the `ChaosStorage`s over one storage know of it together: keys, leases, the last writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from gecaso.entry import Entry, Lease
from gecaso.errors import ConfigurationError
from gecaso.keys import Key
from gecaso.storage import EntryStorage, LocalStorage
from gecaso.weak import WeakTable

__all__ = ["Ledger", "ledger_of"]

T = TypeVar("T")

LEASES_ALONE = ("release", "renew")


@dataclass(slots=True)
class _Was:
    """What was there under a key before a write."""

    key: Key
    entry: Entry | None
    fresh_until: float = 0.0
    held: Any = None
    until: float = 0.0


class Ledger:
    """The keys and leases of a storage, and what was there before each of its last writes.

    Undoing is exact for a storage in this process: entries and leases are what they were. For
    others entries alone come back, since a server does not give back a token that it has
    forgotten; leases that were taken are released.
    """

    def __init__(self) -> None:
        self.most = 0
        self.keys: dict[Key, None] = {}
        self.leases: dict[Key, Lease] = {}
        self._writes: deque[tuple[list[_Was], list[Lease]]] = deque()

    def remember(self, most: int) -> None:
        """Remember at least so many writes from now on."""
        self.most = max(self.most, most)

    def check(self, count: int) -> None:
        """Raise `ConfigurationError` if the last ``count`` writes are not remembered."""
        if count > self.most:
            raise ConfigurationError(
                f"{count} writes cannot be lost where {self.most} are remembered; "
                f"make it ChaosStorage(…, remember={count})"
            )

    async def write(
        self,
        storage: EntryStorage,
        name: str,
        keys: Iterable[Key],
        operation: Callable[[], Awaitable[T]],
    ) -> T:
        """Run the operation ``name``, having noted what it may change."""
        if not self.most:
            return await operation()
        if isinstance(storage, LocalStorage):
            with storage.leases.lock:
                was = [_local_state(storage, key) for key in keys]
        elif name in LEASES_ALONE:
            return await operation()
        else:
            keys = tuple(keys)
            found = await storage.fetch(keys)
            was = [_Was(key, found.get(key)) for key in keys]
        taken: list[Lease] = []
        self._writes.append((was, taken))
        while len(self._writes) > self.most:
            self._writes.popleft()
        result = await operation()
        if name == "lease":
            answers = cast("dict[Key, object]", result)
            taken += [one for one in answers.values() if isinstance(one, Lease)]
        return result

    async def undo(self, storage: EntryStorage, count: int) -> None:
        """Undo the last ``count`` writes, or all if there were fewer, the last one first.

        Raises `ConfigurationError` if so many are not remembered.
        """
        self.check(count)
        for _ in range(min(count, len(self._writes))):
            was, taken = self._writes.pop()
            if isinstance(storage, LocalStorage):
                with storage.leases.lock:
                    for one in was:
                        _restore(storage, one)
            elif taken:  # a lease leaves the entry alone
                await storage.release(taken)
            else:
                await _put_back(storage, was)


def _local_state(storage: LocalStorage, key: Key) -> _Was:
    entry = storage.read(key)
    held = storage.leases._held.get(key)  # pyright: ignore[reportPrivateUsage] - nobody else looks into it
    return _Was(
        key,
        entry,
        0.0 if entry is None else entry.fresh_until,
        held,
        0.0 if held is None else held.until,
    )


def _restore(storage: LocalStorage, was: _Was) -> None:
    if was.entry is None:
        storage.erase(was.key)
    else:
        was.entry.fresh_until = was.fresh_until
        storage.write(was.key, was.entry)
    table = storage.leases
    if was.held is None:
        table.kill(was.key)
    else:
        was.held.until = was.until
        table._held[was.key] = was.held  # pyright: ignore[reportPrivateUsage] - see above


async def _put_back(storage: EntryStorage, was: list[_Was]) -> None:
    entries = {one.key: one.entry for one in was if one.entry is not None}
    if entries:
        await storage.store(entries)
    gone = [one.key for one in was if one.entry is None]
    if gone:
        await storage.discard(gone)


_ledgers: WeakTable[EntryStorage, Ledger] = WeakTable()


def ledger_of(storage: EntryStorage) -> Ledger:
    """Return the one ledger of a storage, whoever writes to it."""
    return _ledgers.get(storage, Ledger)

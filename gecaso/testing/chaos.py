"""A storage in which everything goes wrong that can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import Unsupported
from gecaso.keys import Key
from gecaso.storage import BaseStorage, EntryStorage, adapt
from gecaso.testing.faults import (
    MESSAGE_FAULTS,
    WRITES,
    Disconnect,
    Evict,
    EvictLeases,
    FailOver,
    Fault,
    Faults,
    Flush,
    Jump,
    Lose,
    Reorder,
    Repeat,
    kind_of,
)
from gecaso.testing.ledger import ledger_of
from gecaso.testing.mischief import Mischief

__all__ = ["ChaosStorage"]

T = TypeVar("T")


class ChaosStorage(Mischief, EntryStorage):
    """Any storage, with faults: as often as ``faults`` says, and as a script says.

    ``seed`` makes what is drawn the same in each run; ``choose(n)``, which returns 0 (the tame
    choice) to n - 1, decides in its place: `gecaso.testing.choose` lets `explore` search for the
    faults that break something. ``timeout`` (seconds; that of the storage by default) ends what
    hangs. ``remember`` is how many writes a fail-over can lose. ``injected`` counts what was
    injected, by the names of `Faults`.

    Errors are `StorageError` and `StorageTimeout`. Several of these over one storage behave like
    several processes over one server, each with a connection and a clock of its own. Seconds are
    those of the running loop, so that a loop with virtual time does not wait.

    >>> from gecaso import MemoryStorage, cached
    >>> from gecaso.testing.faults import RaiseAfter
    >>> chaos = ChaosStorage(MemoryStorage())
    >>> @cached(chaos, ttl=60)
    ... async def double(x: int) -> int:
    ...     return 2 * x
    >>> chaos.next("commit", RaiseAfter())
    >>> await double(2), chaos.injected["raise_after"], double.stats.storage_errors
    (4, 1, 1)
    """

    def __init__(
        self,
        storage: BaseStorage,
        faults: Faults = Faults(),  # noqa: B008 - it is frozen
        *,
        seed: int = 0,
        choose: Callable[[int], int] | None = None,
        timeout: float | None = None,
        remember: int = 0,
    ) -> None:
        super().__init__(seed, choose)
        self.inner = inner = adapt(storage)
        self.shared = inner.shared
        self.notifies = inner.notifies  # type: ignore[misc]  # of each object, as the inner one's
        self.timeout = inner.timeout if timeout is None else timeout
        self.default_ttl = inner.default_ttl
        self._shift = 0.0
        self._ledger = ledger_of(inner)
        self._ledger.remember(remember)
        self.faults = faults

    def __repr__(self) -> str:
        state = "disconnected" if self.is_disconnected else f"{self.injected.total()} faults"
        return f"<ChaosStorage over {self.inner!r}: {state}>"

    @property
    def takes(self) -> Callable[..., Any]:
        return self.inner.takes

    def learn(self, types: Iterable[type]) -> None:
        self.inner.learn(types)

    def now(self) -> float:
        return self.inner.now() + self._shift

    # --- what concerns the whole storage ------------------------------------------------------

    def heal(self) -> None:
        """Turn everything off: what hangs goes on, what was held back is told, the clock is right.

        What is on its way still arrives; what was lost stays lost.
        """
        self.calm_down()
        self._shift = 0.0

    def jump(self, seconds: float) -> None:
        """Let the clock of this storage jump, as seen from here."""
        self._count("jump")
        self._shift += seconds

    async def evict_some(self, entries: int = 1) -> None:
        """Evict entries of keys picked at random from those seen."""
        keys = self._some(list(self._ledger.keys), entries)
        if keys:
            self._count("evict")
            await self._write("evict", keys, lambda: self.inner.evict(keys))

    async def evict_leases(self, leases: int = 1) -> None:
        """End leases picked at random from those taken; their holders are not told."""
        picked = self._some(list(self._ledger.leases.values()), leases)
        if picked:
            self._count("evict_leases")
            keys = [lease.key for lease in picked]
            await self._write("release", keys, lambda: self._release(picked))

    async def flush(self) -> None:
        """Lose everything; of a storage that cannot be cleared, the keys seen."""
        self._count("flush")
        await self._write("clear", self._ledger.keys, self._flush)

    async def _flush(self) -> None:
        try:
            await self._clear()
        except Unsupported:
            await self.inner.discard(list(self._ledger.keys))

    async def fail_over(self, lost: int) -> None:
        """Undo the last ``lost`` writes, those of other `ChaosStorage` over the storage included.

        Exact over a storage in this process; over others entries alone come back, not leases.
        Raises `ConfigurationError` if not so many are remembered.
        """
        await self._ledger.undo(self.inner, lost)
        self._count("fail_over")

    def _some(self, things: list[T], count: int) -> list[T]:
        picked: list[T] = []
        while things and len(picked) < count:
            picked.append(things.pop(self._choose(len(things))))
        return picked

    def _check(self, faults: Faults) -> None:
        self._ledger.check(faults.fail_over[1])

    # --- one operation ------------------------------------------------------------------------

    async def _run(
        self, name: str, keys: Iterable[Key], operation: Callable[[], Awaitable[T]]
    ) -> T:
        """Run an operation of the storage below, with what goes wrong before and after it."""
        keys = tuple(keys)
        self._ledger.keys.update(dict.fromkeys(keys))
        give_up = asyncio.get_running_loop().time() + self.timeout
        faults = self._next_faults(name)
        for fault in faults:
            await self._happen(fault)
        self._use_connection()

        async def apply() -> T:
            return await self._write(name, keys, operation)

        for fault in faults:
            await self._go_wrong_before(fault, apply, give_up)
        result = await apply()
        for fault in faults:
            await self._go_wrong_after(fault, give_up)
        return result

    async def _write(
        self, name: str, keys: Iterable[Key], operation: Callable[[], Awaitable[T]]
    ) -> T:
        if name not in WRITES:
            return await operation()
        return await self._ledger.write(self.inner, name, keys, operation)

    async def _happen(self, fault: Fault) -> None:
        """Let happen what concerns the whole storage."""
        match fault:
            case Evict(entries):
                await self.evict_some(entries)
            case EvictLeases(leases):
                await self.evict_leases(leases)
            case Flush():
                await self.flush()
            case FailOver(lost):
                await self.fail_over(lost)
            case Jump(seconds):
                self.jump(seconds)
            case Disconnect(operations):
                self.disconnect(operations)
            case _:
                pass

    # --- the operations -----------------------------------------------------------------------

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        keys = tuple(keys)
        return await self._run("fetch", keys, lambda: self.inner.fetch(keys))

    async def _lookup(self, key: Key) -> Entry | None:
        async def lookup() -> Entry | None:
            return await self.inner.lookup(key)

        return await self._run("fetch", (key,), lookup)

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        keys = tuple(keys)

        async def lease() -> dict[Key, Lease | Busy]:
            got = await self.inner.lease(keys, seconds)
            self._ledger.leases.update(
                (key, one) for key, one in got.items() if isinstance(one, Lease)
            )
            return got

        return await self._run("lease", keys, lease)

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        leases = tuple(leases)
        keys = [lease.key for lease in leases]
        return await self._run("renew", keys, lambda: self.inner.renew(leases, seconds))

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        async def commit() -> set[Key]:
            stored = await self.inner.commit(entries)
            self._forget(entries)
            return stored

        return await self._run("commit", [lease.key for lease in entries], commit)

    async def release(self, leases: Iterable[Lease]) -> None:
        leases = tuple(leases)
        keys = [lease.key for lease in leases]
        await self._run("release", keys, lambda: self._release(leases))

    async def _release(self, leases: Iterable[Lease]) -> None:
        leases = tuple(leases)
        await self.inner.release(leases)
        self._forget(leases)

    def _forget(self, leases: Iterable[Lease]) -> None:
        known = self._ledger.leases
        for lease in leases:
            if known.get(lease.key) is lease:
                del known[lease.key]

    def _forget_keys(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._ledger.leases.pop(key, None)

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        async def store() -> set[Key]:
            stored = await self.inner.store(entries, expect=expect)
            self._forget_keys(stored)
            return stored

        return await self._run("store", entries, store)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        keys = tuple(keys)

        async def discard() -> None:
            await self.inner.discard(keys, keep_stale=keep_stale)
            self._forget_keys(keys)

        await self._run("discard", keys, discard)

    async def evict(self, keys: Iterable[Key]) -> None:
        keys = tuple(keys)
        await self._run("evict", keys, lambda: self.inner.evict(keys))

    async def clear(self) -> None:
        await self._run("clear", self._ledger.keys, self._clear)

    async def _clear(self) -> None:
        await self.inner.clear()
        self._ledger.leases.clear()

    async def ping(self) -> None:
        await self._run("ping", (), self.inner.ping)

    async def aclose(self) -> None:
        """Close the storage below; what is still on its way here never arrives."""
        here = asyncio.get_running_loop()
        late = [task for task in self._late if task.get_loop() is here]
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        await self.inner.aclose()

    # --- messages -----------------------------------------------------------------------------

    async def wait(self, busy: Busy, timeout: float) -> None:
        """Wait until that lease is gone, or seems so, or ``timeout`` seconds have passed."""
        loop = asyncio.get_running_loop()
        until, give_up = loop.time() + timeout, loop.time() + self.timeout
        faults = self._next_faults("wait")
        for fault in faults:
            await self._happen(fault)
        self._use_connection()
        for fault in faults:
            await self._go_wrong_before(fault, _nothing, give_up)
            if isinstance(fault, MESSAGE_FAULTS):
                self._count(kind_of(fault))
        kinds = {type(fault) for fault in faults}
        if Repeat in kinds:
            return
        if Lose in kinds:
            await asyncio.sleep(timeout)
            return
        await self.inner.wait(busy, timeout)
        for fault in faults:
            await self._go_wrong_after(fault, give_up)
            if isinstance(fault, Reorder):
                await asyncio.sleep(max(0.0, min(fault.seconds, until - loop.time())))

    def changes(self) -> AsyncIterator[object]:
        """Iterate over what other processes changed; messages are lost, reordered and repeated.

        A gap is told after a disconnection, and is itself never lost.
        """
        return self._messages.through(self.inner.changes())


async def _nothing() -> None:
    pass

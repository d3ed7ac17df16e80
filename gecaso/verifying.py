"""Whose entry is it? Names on the wire are digests of 128 bits, and two keys may share one.

By chance they never do. Somebody who chooses arguments and can do 2**64 digests could find two that
do, and so have one caller read what another one's arguments made. A storage that verifies keeps
beside each value a *proof* of its key: with ``verify_key=True`` the key itself, else, where there
is a ``secret``, a digest keyed with it, which nobody else can compute. A value with another proof
is a miss.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from functools import cache
from math import inf
from typing import Any

from gecaso import events
from gecaso.base import EntryStorage
from gecaso.entry import Busy, Entry, Lease
from gecaso.keys import Key
from gecaso.packing import Packer

__all__ = ["verify"]


def verify(storage: EntryStorage, packer: Packer) -> None:
    """Have a storage that packs with ``packer`` verify whose entries it reads, if that asks for it.

    To be called at the end of its ``__init__``.
    """
    if packer.verifies:
        storage.__class__ = _verifying(type(storage))


@cache
def _verifying(kind: type[EntryStorage]) -> type[EntryStorage]:
    """Return a class like ``kind`` whose reads and writes go by the proofs of their keys."""
    names = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (_Verifying, kind), {**names, "__qualname__": kind.__qualname__})


class _Verifying(EntryStorage):
    """Goes before the class of a storage, whose methods ``super()`` are."""

    packer: Packer

    def lookup(self, key: Key) -> Awaitable[Entry | None]:
        return self._look_and_check(key, super().lookup(key))

    async def _look_and_check(self, key: Key, looking: Awaitable[Entry | None]) -> Entry | None:
        entry = await looking
        return entry if entry is not None and self._is_of(key, entry) else None

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        inner: Any = super()
        found: dict[Key, Entry] = await inner.fetch(keys)
        return {key: entry for key, entry in found.items() if self._is_of(key, entry)}

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        inner: Any = super()
        answers: dict[Key, Lease | Busy] = await inner.lease(keys, seconds)
        for key, got in answers.items():
            entry = got.seen if isinstance(got, Lease) else got.stale
            if entry is not None and not self._is_of(key, entry):
                # Something is there all the same, and the storage may have to know.
                entry.fresh_until = entry.dead_after = -inf
        return answers

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        inner: Any = super()
        for lease, entry in entries.items():
            entry.proof = self.packer.proof_of(lease.key)
        stored: set[Key] = await inner.commit(entries)
        return stored

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        inner: Any = super()
        for key, entry in entries.items():
            entry.proof = self.packer.proof_of(key)
        stored: set[Key] = await inner.store(entries, expect=expect)
        return stored

    def _is_of(self, key: Key, entry: Entry) -> bool:
        if self.packer.proves(entry.proof, key):
            return True
        if events.hooks:
            reason = "the entry under this name is of another key"
            events.emit(events.Corrupt(storage=self, key=key, reason=reason))
        return False

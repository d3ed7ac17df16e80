"""A fail-over of a storage in this process: afterwards everything is as it was."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gecaso import Lease, LRUStorage, MemoryStorage
from gecaso.keys import as_key
from gecaso.testing import ChaosStorage, FakeClock

KEYS = [as_key(name) for name in "abc"]


def state_of(storage: MemoryStorage) -> dict[str, Any]:
    """Everything there is: entries with their times, and leases with theirs."""
    state: dict[str, Any] = {}
    for key in KEYS:
        entry = storage.read(key)
        held = storage.leases._held.get(key)  # pyright: ignore[reportPrivateUsage] - this is about what is within
        state[str(key)] = (
            entry and (entry.value, entry.version, entry.fresh_until, entry.dead_after),
            held and (held, held.until),
        )
    return state


class Player:
    """Does what it is told to, by name."""

    def __init__(self, chaos: ChaosStorage) -> None:
        self.chaos = chaos
        self.leases: list[Lease] = []
        self.count = 0

    async def play(self, name: str, which: int) -> None:
        chaos, key = self.chaos, KEYS[which]
        self.count += 1
        lease = self.leases[which % len(self.leases)] if self.leases else None
        match name:
            case "store":
                await chaos.store({key: self.entry()})
            case "discard":
                await chaos.discard(KEYS[: which + 1])
            case "expire":
                await chaos.discard((key,), keep_stale=True)
            case "evict":
                await chaos.evict((key,))
            case "clear":
                await chaos.clear()
            case "flush":
                await chaos.flush()
            case "lease":
                got = (await chaos.lease((key,), 10.0))[key]
                self.leases += [got] if isinstance(got, Lease) else []
            case "renew" if lease is not None:
                await chaos.renew((lease,), 10.0 + self.count)
            case "commit" if lease is not None:
                await chaos.commit({lease: self.entry()})
            case "release" if lease is not None:
                await chaos.release((lease,))
            case _:
                await chaos.evict(())

    def entry(self) -> Any:
        entry = self.chaos.new_entry(self.count, ttl=60)
        entry.dead_after += 60
        return entry


OFTEN = ["lease", "renew", "commit", "release"]
NAMES = ["store", "discard", "expire", "evict", "clear", "flush", *OFTEN, *OFTEN]
WRITES = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([0, 1, 2])), max_size=15)


@settings(max_examples=300)
@given(WRITES, st.integers(0, 15), st.booleans(), st.booleans())
def test_the_last_writes_are_undone_exactly(
    writes: list[tuple[str, int]], lost: int, bounded: bool, two: bool
) -> None:
    async def main() -> None:
        memory = MemoryStorage(clock=FakeClock())
        below: Any = LRUStorage(memory, maxsize=100) if bounded else memory
        first = Player(ChaosStorage(below, remember=15))
        second = Player(ChaosStorage(below)) if two else first
        second.leases = first.leases
        states = [state_of(memory)]
        for number, (name, which) in enumerate(writes):
            await (first, second)[number % 2].play(name, which)
            states.append(state_of(memory))
        await first.chaos.fail_over(lost)
        assert state_of(memory) == states[max(0, len(writes) - lost)]

    asyncio.run(main())

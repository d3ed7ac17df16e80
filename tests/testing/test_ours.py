"""Where a naive cache reads stale within a hundred schedules, ours does not in a million.

The scenario is that of `test_explorer.LookAside`, with readers that are cancelled, another key, and
a put. Twenty thousand schedules in each run; ``GECASO_OURS=1000000`` for the million.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from gecaso import MemoryStorage, cached
from gecaso.testing import ScheduleFailed, choose, explore
from tests.testing.test_explorer import look_aside

SCHEDULES = int(os.environ.get("GECASO_OURS", "20000"))


class Ours:
    """A database, and a cached query; made once, since each schedule begins with nothing cached."""

    def __init__(self) -> None:
        self.database: dict[str, int] = {}
        self.query = cached(MemoryStorage(), ttl=60)(self._query)

    async def _query(self, key: str) -> int:
        value = self.database[key]
        await asyncio.sleep(0.001)  # the answer travels
        return value

    async def write(self, key: str, value: int) -> None:
        self.database[key] = value
        await asyncio.sleep(0.001)
        if choose(2):
            await self.query.put(value, key)
        else:
            await self.query.invalidate(key)

    async def give_up(self, key: str) -> None:
        task = asyncio.ensure_future(self.query(key))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))


OURS = Ours()


async def scenario() -> None:
    OURS.database = {"k": 1}
    await OURS.query.invalidate("k")
    await asyncio.gather(OURS.query("k"), OURS.write("k", 2), OURS.give_up("k"), OURS.query("k"))
    assert await OURS.query("k") == 2, "a stale read"


@pytest.mark.timeout(300 + SCHEDULES // 200)
def test_ours_does_not_read_stale() -> None:
    explored = explore(scenario, schedules=SCHEDULES, seed=20261121)
    assert explored.schedules == SCHEDULES


def test_the_naive_one_does() -> None:
    with pytest.raises(ScheduleFailed):
        explore(look_aside(fenced=False), schedules=100, seed=20261121)

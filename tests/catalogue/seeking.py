"""The actors of an entry in chosen orders: over memory, over models of servers, and naively.

    sought("redis", reader, writer)

Each actor is a coroutine function of a `World`: two processes, one key, and the record of it all.
When they are done, both processes read once more; then no read may have been stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gecaso import EntryStorage, InvalidationFailed
from gecaso.testing import (
    ChaosStorage,
    Exploration,
    Faults,
    History,
    ScheduleFailed,
    StaleRead,
    choose,
    explore,
    explorer,
)
from tests.catalogue.naive import Naive, Server
from tests.catalogue.stage import key_of
from tests.scenes import Process
from tests.searches import MECHANISMS, Ground

__all__ = ["MODELS", "SOUGHT", "World", "found", "pause", "reader", "sought", "writer"]

SOUGHT = ("memory", "redis", "memcached")
MODELS = SOUGHT[1:]

SCHEDULES = {"memory": 200, "redis": 80, "memcached": 60}
NAIVELY = 1000  # schedules within which a naive cache is found out

PAUSES = (0.0, 0.01, 0.05)  # seconds that a load takes
LONG = 600.0  # seconds of virtual time that no program takes


class World:
    """A source that changes, two processes over one place, and the record of what they do."""

    def __init__(self, make: Callable[[World], Any]) -> None:
        self.history = History()
        self.version = 0
        self.seconds: float | None = None
        self.is_missing = False
        self._loads = 0
        self.a: Any = make(self)
        self.b: Any = make(self)
        self.readers: tuple[Any, ...] = (self.a, self.b)
        """Who reads in the end."""

    async def load(self, i: int = 1) -> str:
        """Read the source; the answer takes its time."""
        with self.history.load(i) as load:
            self._loads += 1
            value = f"version {self.version}, load {self._loads}"
            is_missing = self.is_missing
            if not is_missing:
                load.returns(value)
            await asyncio.sleep(PAUSES[choose(3)] if self.seconds is None else self.seconds)
            if is_missing:
                raise LookupError(value)
            return value

    async def read(self, process: Any, i: int = 1) -> str | None:
        """Read as a caller does; None for an error of the source."""
        try:
            with self.history.read(i) as read:
                value: str = await process.thing(i)
                read.returns(value)
                return value
        except LookupError:
            return None

    async def write(self, process: Any, i: int = 1) -> None:
        """Change the source, then invalidate."""
        self.version += 1
        try:
            with self.history.invalidate(i):
                await process.thing.invalidate(i)
        except InvalidationFailed:
            pass  # recorded as such

    async def put(self, process: Any, i: int = 1) -> None:
        self.version += 1
        value = f"version {self.version}, put"
        try:
            with self.history.put(i, value):
                await process.thing.put(value, i)
        except InvalidationFailed:
            pass


Actor = Callable[[World], Awaitable[object]]


async def pause() -> None:
    """Let others go first, as the schedule chooses."""
    await asyncio.sleep(PAUSES[choose(3)])


async def reader(world: World) -> None:
    """One who reads in process b."""
    await world.read(world.b)


async def writer(world: World) -> None:
    """One who writes in process a, and reads there what he has written."""
    await pause()
    await world.write(world.a)
    await world.read(world.a)


def _naively(kind: type[Naive]) -> Callable[[World], Any]:
    server = Server()
    return lambda world: kind(server, world.load)


def _processes(ground: Ground, faults: Faults, policy: dict[str, Any]) -> Callable[[World], Any]:
    def make(world: World) -> Any:
        storage: EntryStorage = ground.storage()
        if faults != Faults():
            storage = ChaosStorage(storage, faults, choose=choose, timeout=1.0, remember=9)
        source: Any = world  # it loads, which is all that is asked of a truth
        return Process(storage, source, key=key_of, **{"ttl": LONG, **policy})

    return make


def sought(
    mechanism: str | type[Naive],
    *actors: Actor,
    before: Actor | None = None,
    after: Actor | None = None,
    faults: Faults = Faults(),  # noqa: B008 - it is frozen
    schedules: int | None = None,
    seed: int = 0,
    **policy: Any,
) -> Exploration:
    """Run the actors at once, in many orders; raise `ScheduleFailed` for a stale read.

    ``before`` runs before them all, in order; ``after`` when they are done. With ``faults`` those
    befall the storages, one of each process, as the schedule chooses.
    """

    async def scenario() -> None:
        ground = None
        if isinstance(mechanism, str):
            ground = await MECHANISMS[mechanism](choose)
            world = World(_processes(ground, faults, policy))
        else:
            world = World(_naively(mechanism))
        try:
            await _play(world, actors, before, after)
        finally:
            if ground is not None:
                for process in (world.a, world.b):
                    await process.cache.aclose()
                await ground.close()

    count = schedules or (SCHEDULES[mechanism] if isinstance(mechanism, str) else NAIVELY)
    return explore(scenario, schedules=count, seed=seed, clock=True)


async def _play(
    world: World, actors: tuple[Actor, ...], before: Actor | None, after: Actor | None
) -> None:
    for process in (world.a, world.b):
        if isinstance(process, Process):
            await process.storage.ping()  # connecting takes long, and is not what is searched
    if before is not None:
        await before(world)
    await asyncio.gather(*[actor(world) for actor in actors])
    if after is not None:
        await after(world)
    for process in world.readers:
        await world.read(process)
    world.history.check()


def found(mechanism: str | type[Naive], *actors: Actor, **how: Any) -> ScheduleFailed:
    """Expect a stale read in one of the schedules, or what ``after`` says is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorer, "MOST_SHRINKS", 0)  # that it is found is enough
        with pytest.raises(ScheduleFailed) as caught:
            sought(mechanism, *actors, **how)
    expected = AssertionError if "after" in how else StaleRead
    assert isinstance(caught.value.__cause__, expected), caught.value
    return caught.value

"""Random small programs over caches, each in a schedule that was chosen: what must always hold.

A *program* is some tasks, each of which calls, refreshes, puts, invalidates, expires, clears,
cancels or evicts, in two or three *processes*: a storage object and a cache each, over one memory
or one server. What it does, and in which order everything runs, is chosen by
`gecaso.testing.explore`.

    search("redis", schedules=10_000, seed=7)

`scripts/prove` runs as many as it is told, and the same programs over real servers.

After each program it is checked that

* no read was stale (G2), by `gecaso.testing.check`;
* loads of one key overlapped only where an invalidation or put had come in between, and nothing
  was loaded twice that was there to be read (G1);
* nobody but who was cancelled was cancelled (G3);
* no lease, no task and no connection was left, and nobody waited for longer than he had to.

Every load makes a value of its own, as if the source changed all the time; so it is known of each
value that was read which load it came from.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Generator
from types import CodeType
from typing import Any, Final

import pytest
import redis.utils

from gecaso import Busy, Cache, EntryStorage, MemoryStorage, codegen, options
from gecaso.keys import Key
from gecaso.storages.memcached import MemcachedStorage
from gecaso.storages.redis import RedisStorage
from gecaso.testing import Exploration, History, choose, explore
from tests.models.memcached_model import MemcachedModel
from tests.models.redis_model import EPOCH, RedisModel
from tests.models.serving import Server, serve

__all__ = ["MECHANISMS", "Program", "Served", "Violation", "program", "search"]

KEYS: Final = (1, 2)
PAUSES: Final = (0.0, 0.01, 0.05)  # seconds
LONG_ENOUGH: Final = 60.0  # seconds that no program takes: no timeout of a storage strikes
SETTLED: Final = 1.0  # seconds after which nothing is in the background any more


class Violation(AssertionError):
    """A program ended in what must not be."""


Choose = Callable[[int], int]
"""Returns a number from 0 to n - 1; 0 is what is tame."""


class LoadFailed(Exception):
    """What a load raises now and then."""


# --- the mechanisms -----------------------------------------------------------------------------


class Ground:
    """Where the processes of one program keep their values."""

    longest: float = 1.9
    """Seconds that a program may take: less than until waiters look without being told."""
    evicts_leases = False
    """Whether a load may begin beside another one where the value was evicted."""

    def storage(self) -> EntryStorage:
        """Return the storage object of one more process."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `Violation` for what should not be there when all is done."""

    async def close(self) -> None:
        """Let go of it."""


class InMemory(Ground):
    def __init__(self) -> None:
        self._storage = MemoryStorage(clock=asyncio.get_running_loop().time)

    def storage(self) -> EntryStorage:
        return self._storage

    def check(self) -> None:
        left = list(self._storage.leases.outstanding())
        if left:
            raise Violation(f"leases were left: {left}")


class Served(Ground):
    """A server, or its model: storages over a URL."""

    def __init__(self, url: str, *, namespace: str = "s", server: Server | None = None) -> None:
        self._url = url
        self._namespace = namespace
        self._server = server
        self._kind = RedisStorage if url.startswith("redis") else MemcachedStorage
        # There the lease of a refresh is beside the value; without a value it is not looked at.
        self.evicts_leases = self._kind is MemcachedStorage
        if server is None:
            self.longest = LONG_ENOUGH  # of real time, on a busy machine
        elif self._kind is MemcachedStorage:
            self.longest = 5.0  # its waiters ask from time to time

    def storage(self) -> EntryStorage:
        # No timeout strikes: what that leads to is for the tests of faults.
        return self._kind(
            self._url, namespace=self._namespace, timeout=LONG_ENOUGH, connect_timeout=LONG_ENOUGH
        )

    def check(self) -> None:
        if self._server is None:
            return
        model = self._server.model
        if model.refused:
            raise Violation(f"the model does not know {model.refused}")
        if isinstance(model, RedisModel) and model.channels:
            raise Violation(f"somebody still listens: {model.channels}")

    async def close(self) -> None:
        if self._server is not None:
            await self._server.aclose()


def _between(choose: Choose) -> Callable[[], float] | None:
    """Return the time between commands that were sent together; None: there is none."""
    return None if choose(2) == 0 else lambda: PAUSES[choose(2)]


async def in_memory(choose: Choose) -> Ground:
    return InMemory()


async def on_redis(choose: Choose) -> Ground:
    # Clocks of machines may differ by hours.
    epoch = EPOCH + (0, 7200)[choose(2)]
    model = RedisModel(asyncio.get_running_loop().time, epoch=epoch, page=1)
    server = await serve(model, between=_between(choose))
    return Served(server.url, server=server)


async def on_memcached(choose: Choose) -> Ground:
    model = MemcachedModel(asyncio.get_running_loop().time)
    server = await serve(model, between=_between(choose))
    return Served(server.url, server=server)


MECHANISMS: Final[dict[str, Callable[[Choose], Awaitable[Ground]]]] = {
    "memory": in_memory,
    "redis": on_redis,
    "memcached": on_memcached,
}


# --- a program ----------------------------------------------------------------------------------


class Process:
    """What stands for one process: a storage object, a cache and a cached function of its own."""

    def __init__(self, storage: EntryStorage, load: Callable[[int], Awaitable[str]]) -> None:
        self.storage = storage
        self.cache = Cache(storage, ttl=600)

        async def thing(i: int) -> str:
            return await load(i)

        self.thing: Any = self.cache.cached(namespace="searched", key=_key)(thing)

    def key(self, i: int) -> Key:
        key: Key = self.thing.key(i)
        return key


def _key(i: int) -> str:
    return str(i)


class Program:
    """One program: its processes, what its tasks do, and the record of it all."""

    def __init__(self, ground: Ground, choose: Choose) -> None:
        self.ground = ground
        self.choose = choose
        self.history = History()
        self.disturbed: set[int] = set()
        """Keys of which something was cancelled, evicted, refreshed or failed."""
        self.unguarded: set[int] = set()
        """Keys whose lease may have been lost by an eviction."""
        self._numbers = 0
        self.processes = [Process(ground.storage(), self.load) for _ in range(2 + choose(4) // 3)]

    def _next(self, what: str) -> str:
        self._numbers += 1
        return f"{what} {self._numbers}"

    def _pause(self) -> float:
        return PAUSES[self.choose(len(PAUSES))]

    async def load(self, i: int) -> str:
        with self.history.load(i) as load:
            value = self._next(f"load of {i}:")
            load.returns(value)  # as it was when it was read; what changes meanwhile is not in it
            await asyncio.sleep(self._pause())
            if self.choose(12) == 11:
                self.disturbed.add(i)
                raise LoadFailed(value)
            return value

    # --- what tasks do ------------------------------------------------------------------------

    async def call(self, process: Process, i: int) -> None:
        await self._read(process.thing, i)

    async def refresh(self, process: Process, i: int) -> None:
        self.disturbed.add(i)
        await self._read(process.thing.refresh, i)

    async def peek(self, process: Process, i: int) -> None:
        with self.history.read(i) as read:
            try:
                read.returns(await process.thing.peek(i))
            except KeyError:
                read.misses()

    async def _read(self, function: Callable[[int], Awaitable[str]], i: int) -> None:
        with contextlib.suppress(LoadFailed), self.history.read(i) as read:
            read.returns(await function(i))

    async def cancelled_call(self, process: Process, i: int) -> None:
        self.disturbed.add(i)
        task = asyncio.get_running_loop().create_task(self.call(process, i))
        await asyncio.sleep(self._pause())
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def put(self, process: Process, i: int) -> None:
        value = self._next(f"put to {i}:")
        with self.history.put(i, value):
            await process.thing.put(value, i)

    async def invalidate(self, process: Process, i: int) -> None:
        with self.history.invalidate(i):
            await process.thing.invalidate(i)

    async def discard(self, process: Process, i: int) -> None:
        """As from a process that has no cache: no flight here knows of it."""
        with self.history.invalidate(i):
            await process.storage.discard((process.key(i),))

    async def expire(self, process: Process, i: int) -> None:
        with self.history.invalidate(i):
            await process.storage.discard((process.key(i),), keep_stale=True)

    async def store(self, process: Process, i: int) -> None:
        value = self._next(f"store to {i}:")
        entry = process.storage.new_entry(value, 600)
        with self.history.put(i, value):
            await process.storage.store({process.key(i): entry})

    async def evict(self, process: Process, i: int) -> None:
        self.disturbed.add(i)
        if self.ground.evicts_leases:
            self.unguarded.add(i)
        await process.storage.evict((process.key(i),))

    async def clear(self, process: Process, i: int) -> None:
        if isinstance(process.storage, MemcachedStorage):
            await self.invalidate(process, i)  # it cannot list its keys
            return
        with self.history.clear():
            await process.storage.clear()

    async def actor(self) -> None:
        """One task: some operations, one after the other."""
        for _ in range(1 + self.choose(3)):
            process = self.processes[self.choose(len(self.processes))]
            i = KEYS[self.choose(4) // 3]
            await OPERATIONS[self.choose(len(OPERATIONS))](self, process, i)
            if self.choose(2):
                await asyncio.sleep(self._pause())

    async def run(self) -> None:
        """Run it, and check it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        actors = [loop.create_task(self.actor()) for _ in range(2 + self.choose(3))]
        for done in await asyncio.gather(*actors, return_exceptions=True):
            if isinstance(done, asyncio.CancelledError):
                raise Violation("a caller was cancelled who had not been")
            if isinstance(done, BaseException):
                raise done
        took = loop.time() - began
        if took > self.ground.longest:
            raise Violation(f"it took {took:.3f} s: somebody was not told")
        self.history.check()
        check_loads(self.history, self.disturbed, self.unguarded)
        await asyncio.sleep(SETTLED)
        await self._check_leases()
        self.ground.check()

    async def _check_leases(self) -> None:
        storage, key = self.processes[0].storage, self.processes[0].key
        got = await storage.lease(map(key, KEYS), 10)
        if left := [one for one in got.values() if isinstance(one, Busy)]:
            raise Violation(f"leases were left: {left}")
        await storage.discard(map(key, KEYS))

    async def close(self) -> None:
        for process in self.processes:
            await process.cache.aclose()
        await self.ground.close()


OPERATIONS: Final[list[Callable[[Program, Process, int], Awaitable[None]]]] = [
    *[Program.call] * 5,
    *[Program.invalidate] * 3,
    *(Program.put, Program.discard, Program.store, Program.expire),
    *(Program.cancelled_call, Program.refresh, Program.peek),
    *(Program.evict, Program.clear),
]


# --- what must hold -----------------------------------------------------------------------------


def check_loads(history: History, disturbed: set[int], unguarded: set[int]) -> None:
    """Raise `Violation` for loads that should have been one."""
    for i in KEYS:
        ours = [one for one in history.operations if one.key == i or one.key not in KEYS]
        fences = [one for one in ours if one.kind in ("put", "invalidate")]
        reads = [one for one in ours if one.kind == "read"]
        loads = [one for one in ours if one.kind == "load"]
        for at, load in enumerate(loads):
            leased = min(one.begin for one in reads if one.begin < load.begin < one.end)
            for other in loads[at + 1 :]:
                if any(one.begin < other.begin and one.end > leased for one in fences):
                    continue  # the lease may have been killed, even before the load began
                if other.begin < load.end and i not in unguarded:
                    raise Violation(f"two loads of {i} at a time:\n{history}")
                if i not in disturbed:
                    raise Violation(f"a load of {i} whose value was there:\n{history}")


# --- searching ----------------------------------------------------------------------------------


def program(mechanism: str) -> Callable[[], Awaitable[None]]:
    """Return the scenario of a mechanism, for `explore`."""

    async def scenario() -> None:
        running = Program(await MECHANISMS[mechanism](choose), choose)
        try:
            await running.run()
        finally:
            await running.close()

    return scenario


def search(
    mechanism: str, *, schedules: int, seed: int = 0, replay: str | None = None
) -> Exploration:
    """Run that many random programs over a mechanism; raise `ScheduleFailed` for a violation."""
    with _made_once():
        return explore(
            program(mechanism), schedules=schedules, seed=seed, clock=True, replay=replay
        )


@contextlib.contextmanager
def _made_once() -> Generator[None]:
    """Make once what is the same in each schedule, and takes a third of its time.

    redis-py reads its own version from its metadata for each connection; each function that is
    decorated has its path compiled, and the parameters of its storage looked up.
    """

    @functools.cache
    def compiled(source: str) -> CodeType:
        return compile(source, "<the path of a hit>", "exec")

    def compile_once(source: str, filename: str, mode: str) -> CodeType:
        return compiled(source)

    parameters: Any = getattr(options, "_parameters")  # noqa: B009 - private, and only cached here
    known: dict[type, Any] = {}

    def parameters_of(storage: EntryStorage) -> Any:
        if type(storage) not in known:
            known[type(storage)] = parameters(storage)
        return known[type(storage)]

    with pytest.MonkeyPatch.context() as patch:
        version = functools.cache(redis.utils.get_lib_version)
        patch.setattr(redis.utils, "get_lib_version", version)
        patch.setattr(codegen, "compile", compile_once, raising=False)
        patch.setattr(options, "_parameters", parameters_of)
        yield

"""What the tests of promises share: a truth to load, places to keep it, ways to hold it up."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from gecaso import (
    Busy,
    Cache,
    Entry,
    EntryStorage,
    Key,
    Lease,
    MemoryStorage,
    StorageError,
    storage_from_url,
)
from tests.servers import MemcachedServer, RedisServer

__all__ = [
    "Distant",
    "Hold",
    "Place",
    "Process",
    "Truth",
    "hold",
    "opened",
    "patience",
    "place_for",
]

T = TypeVar("T")

NETWORK = ("redis", "memcached")
KINDS = ("memory", *NETWORK)

PATIENCE = 10.0  # seconds that a test waits for what must come

Storage = EntryStorage


def patience() -> asyncio.Timeout:
    """Let nothing that must come take for ever."""
    return asyncio.timeout(PATIENCE)


def opened(url: str, **options: Any) -> Storage:
    """Return a storage over the server, or the file, at ``url``."""
    storage = storage_from_url(url, **options)
    assert isinstance(storage, EntryStorage)
    return storage


@dataclass(frozen=True)
class Place:
    """A kind of storage, and the server behind it if there is one."""

    kind: str
    url: str = ""

    def open(self, **options: Any) -> Storage:
        """Return a new storage object: as another process would have."""
        return opened(self.url, **options) if self.url else MemoryStorage()

    def beside(self, storage: Storage) -> Storage:
        """Return what another user of the same entries has; in memory the same object."""
        return self.open() if self.url else storage

    @property
    def shortest_lease(self) -> float:
        """Seconds. Memcached's clock ticks once a second."""
        return 3.0 if self.kind == "memcached" else 0.3


def place_for(request: pytest.FixtureRequest) -> Place:
    """Return the place that a fixture's parameter names."""
    kind: str = request.param
    return Place(kind, "" if kind == "memory" else request.getfixturevalue(f"{kind}_url"))


def own_server(request: pytest.FixtureRequest) -> RedisServer | MemcachedServer:
    """Return a server of the test's own, to stop, pause, kill and restart."""
    server: RedisServer | MemcachedServer = request.getfixturevalue(f"own_{request.param}")
    return server


class Distant(EntryStorage):
    """A storage of another machine, without the machine: counts what is asked, fails on demand."""

    def __init__(self) -> None:
        self.inner = MemoryStorage()
        self.trouble: StorageError | None = None
        self.asked: Counter[str] = Counter()
        self.shift = 0.0

    def now(self) -> float:
        return self.inner.now() + self.shift

    def _ask(self, what: str) -> None:
        self.asked[what] += 1
        if self.trouble is not None:
            raise self.trouble

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        self._ask("fetch")
        return await self.inner.fetch(keys)

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        self._ask("lease")
        return await self.inner.lease(keys, seconds)

    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        self._ask("renew")
        return await self.inner.renew(leases, seconds)

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        self._ask("commit")
        return await self.inner.commit(entries)

    async def release(self, leases: Iterable[Lease]) -> None:
        self._ask("release")
        await self.inner.release(leases)

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        self._ask("store")
        return await self.inner.store(entries, expect=expect)

    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        self._ask("discard")
        await self.inner.discard(keys, keep_stale=keep_stale)

    async def evict(self, keys: Iterable[Key]) -> None:
        self._ask("evict")
        await self.inner.evict(keys)


class Truth:
    """What is loaded: it changes, and knows how often, and by how many at once, it was asked.

    A load reads first and takes its time afterwards, as a slow query does: what changes meanwhile
    is not in its result.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.version = 0
        self.loads = 0
        self.now = 0
        self.most = 0
        self.cancelled = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self._lock = threading.Lock()
        self._news = asyncio.Event()

    async def load(self, i: int) -> str:
        with self._counted():
            read, error = self.told(i), self.error
            try:
                if self.gate is not None:
                    await self.gate.wait()
                await asyncio.sleep(self.seconds)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if error is not None:
                raise error
        return read

    def told(self, i: int) -> str:
        """Return what is true now."""
        return f"{i} in version {self.version}"

    @contextmanager
    def _counted(self) -> Generator[None]:
        with self._lock:
            self.loads += 1
            self.now += 1
            self.most = max(self.most, self.now)
        news, self._news = self._news, asyncio.Event()
        news.set()
        try:
            yield
        finally:
            with self._lock:
                self.now -= 1

    def close_gate(self) -> asyncio.Event:
        """Hold the loads from now on until the event is set."""
        self.gate = asyncio.Event()
        return self.gate

    async def asked(self, times: int) -> None:
        """Wait until that many loads have begun. For one loop."""
        async with patience():
            while self.loads < times:
                await self._news.wait()


class Process:
    """What stands for one process: a storage object, a cache and a function of its own."""

    def __init__(
        self, storage: Storage, truth: Truth, *, key: Any = "thing:{i}", **policy: Any
    ) -> None:
        self.storage = storage
        self.truth = truth
        policy.setdefault("ttl", 60)
        self.cache = Cache(storage, **policy)

        async def thing(i: int) -> str:
            return await truth.load(i)

        self.thing = self.cache.cached(key=key)(thing)

    async def joined(self, times: int) -> None:
        """Wait until that many callers have joined another's load."""
        async with patience():
            while self.thing.stats.joined < times:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)

    def call(self, i: int = 1) -> asyncio.Task[str]:
        """Call it in a task of its own."""
        return asyncio.get_running_loop().create_task(self.thing(i))


@dataclass
class Hold:
    """A place in the code where one caller is held up."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_by(self) -> None:
        self.reached.set()
        await self.go.wait()

    async def is_reached(self) -> None:
        async with patience():
            await self.reached.wait()


def hold(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *, after: bool = False) -> Hold:
    """Hold the next call of a coroutine method before it runs, or after it has run."""
    held = Hold()
    inner: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def outer(*args: Any, **kwargs: Any) -> Any:
        if held.reached.is_set():
            return await inner(*args, **kwargs)
        if not after:
            await held.pass_by()
        result = await inner(*args, **kwargs)
        if after:
            await held.pass_by()
        return result

    monkeypatch.setattr(owner, name, outer)
    return held

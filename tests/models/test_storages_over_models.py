"""The storages do the same over a model as over the real server: random operations, one by one.

Three storage objects, as of three processes, over each. Answers are compared up to what must
differ: a token stands for the lease that it belongs to, a version for the value that has it, and
of times only whether they are over.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import Any

import pytest

from gecaso import Busy, Entry, EntryStorage, Lease, StorageError
from gecaso.entry import new_token
from gecaso.keys import as_key
from tests.models import redis_scripts
from tests.models.memcached_model import MemcachedModel
from tests.models.redis_model import RedisModel
from tests.models.serving import Fault, Server, once, serve
from tests.scenes import PATIENCE, opened, patience

PROCESSES = 3
STEPS = 60
SEQUENCES = 15
KEYS = [as_key(name) for name in ("a", "b", "{odd} \x00\n")]
VALUES = [None, "", b"", b"\x00\xff\r\n", "text", 7]

Step = tuple[str, tuple[Any, ...]]


class Side:
    """Some storages over one server, and what was leased and stored through them."""

    def __init__(self, url: str, namespace: str) -> None:
        # On a busy machine either side may be slow.
        options: dict[str, Any] = {"timeout": PATIENCE, "connect_timeout": PATIENCE}
        self.storages = [opened(url, namespace=namespace, **options) for _ in range(PROCESSES)]
        self.leases: list[Lease | None] = []
        self.versions: dict[bytes, int] = {}

    def entry(self, storage: EntryStorage, value: Any, kind: str) -> Entry:
        """Return an entry that is fresh, stale, or dead, by the clock of its storage."""
        now = storage.now()
        fresh = {"fresh": now + 600, "ever": inf, "stale": now - 100, "dead": now - 100}[kind]
        dead = {"fresh": now + 600, "ever": inf, "stale": now + 600, "dead": now - 50}[kind]
        version = new_token()
        self.versions[version] = len(self.versions)
        return Entry(value, now - 200, fresh, dead, version=version)

    def told(self, storage: EntryStorage, entry: Entry | None) -> object:
        """Return what can be compared of an entry."""
        if entry is None:
            return None
        is_fresh = storage.now() < entry.fresh_until
        kind = type(entry.value).__name__
        return self.versions[entry.version], kind, entry.value, entry.kind, is_fresh

    async def run(self, step: Step) -> object:
        """Do what the step says, and return what it came to."""
        name, (place, *args) = step
        method: Callable[..., Any] = getattr(self, name)
        return await method(self.storages[place], *args)

    async def fetch(self, storage: EntryStorage, keys: list[Any]) -> object:
        found = await storage.fetch(keys)
        return {key: self.told(storage, entry) for key, entry in found.items()}

    async def lookup(self, storage: EntryStorage, key: Any) -> object:
        return self.told(storage, await storage.lookup(key))

    async def lease(self, storage: EntryStorage, keys: list[Any]) -> object:
        got = await storage.lease(keys, 600)
        tokens = {lease.token: at for at, lease in enumerate(self.leases) if lease is not None}
        answer: dict[Any, object] = {}
        for key in keys:
            one = got[key]
            if isinstance(one, Busy):
                answer[key] = "busy", tokens.get(one.token), self.told(storage, one.stale)
            else:
                answer[key] = "lease", self.told(storage, one.seen)
            self.leases.append(one if isinstance(one, Lease) else None)
        return answer

    async def renew(self, storage: EntryStorage, at: int) -> object:
        lease = self._leased(at)
        return lease and await storage.renew([lease], 900)

    async def commit(self, storage: EntryStorage, at: int, value: Any, kind: str) -> object:
        lease, entry = self._leased(at), self.entry(storage, value, kind)
        return lease and await storage.commit({lease: entry})

    async def release(self, storage: EntryStorage, at: int) -> None:
        lease = self._leased(at)
        if lease is not None:
            await storage.release([lease])

    def _leased(self, at: int) -> Lease | None:
        return self.leases[at % len(self.leases)] if self.leases else None

    async def store(self, storage: EntryStorage, key: Any, value: Any, kind: str) -> object:
        return await storage.store({key: self.entry(storage, value, kind)})

    async def swap(self, storage: EntryStorage, key: Any, at: int, value: Any) -> object:
        """Store where what is there is a certain one, or nothing, or the very one."""
        known = [None, *self.versions]
        expected = known[at % len(known)]
        if at % 2:
            there = (await storage.fetch([key])).get(key)
            expected = None if there is None else there.version
        return await storage.store(
            {key: self.entry(storage, value, "fresh")}, expect={key: expected}
        )

    async def discard(self, storage: EntryStorage, keys: list[Any], keep_stale: bool) -> None:
        await storage.discard(keys, keep_stale=keep_stale)

    async def evict(self, storage: EntryStorage, keys: list[Any]) -> None:
        await storage.evict(keys)

    async def clear(self, storage: EntryStorage) -> None:
        await storage.clear()

    async def wait(self, storage: EntryStorage, key: Any) -> object:
        """Wait for a lease that another process gives up meanwhile."""
        other = next(one for one in self.storages if one is not storage)
        got = (await other.lease([key], 600))[key]
        if isinstance(got, Busy):
            return "taken"
        busy = (await storage.lease([key], 600))[key]
        assert isinstance(busy, Busy)
        waiting = asyncio.ensure_future(storage.wait(busy, 0.05))
        await other.release([got])
        async with patience():
            await waiting
        return "told"


OPERATIONS = [
    *("fetch", "lookup", "lease", "lease", "lease", "lease", "renew", "commit", "commit", "commit"),
    *("release", "store", "swap", "discard", "discard", "evict", "wait"),
]


def a_step(choose: random.Random, kind: str) -> Step:
    name = choose.choice([*OPERATIONS, *["clear"] * (kind == "redis")])
    place, key, value = choose.randrange(PROCESSES), choose.choice(KEYS), choose.choice(VALUES)
    keys = choose.sample(KEYS, choose.randint(1, 3))
    freshness = choose.choice(["fresh", "fresh", "ever", "stale", "stale", "dead"])
    at = choose.randrange(1000)
    args: dict[str, tuple[Any, ...]] = {
        "fetch": (keys,),
        "lookup": (key,),
        "lease": (keys,),
        "renew": (at,),
        "commit": (at, value, freshness),
        "release": (at,),
        "store": (key, value, freshness),
        "swap": (key, at, value),
        "discard": (keys, choose.random() < 0.4),
        "evict": (keys,),
        "clear": (),
        "wait": (key,),
    }
    return name, (place, *args[name])


@asynccontextmanager
async def both(kind: str, real_url: str) -> AsyncGenerator[tuple[Server, str]]:
    server = await serve(RedisModel() if kind == "redis" else MemcachedModel())
    try:
        yield server, real_url
    finally:
        await server.aclose()
    assert server.model.refused == []


async def first_difference(server: Server, real_url: str, kind: str, seed: int) -> str | None:
    choose = random.Random(seed)
    sides = [Side(url, f"n{seed}") for url in (real_url, server.url)]
    async with AsyncExitStack() as stack:
        for storage in (*sides[0].storages, *sides[1].storages):
            await stack.enter_async_context(storage)
        for number in range(STEPS):
            step = a_step(choose, kind)
            really, modelled = [await side.run(step) for side in sides]
            if really != modelled:
                return f"step {number}, {step}:\n  real:  {really}\n  model: {modelled}"
    return None


@pytest.mark.parametrize("kind", ["redis", "memcached"])
async def test_operations_of_storages_come_to_the_same(
    kind: str, request: pytest.FixtureRequest
) -> None:
    async with both(kind, request.getfixturevalue(f"{kind}_url")) as (server, real_url):
        for seed in range(SEQUENCES):
            told = await first_difference(server, real_url, kind, seed)
            assert told is None, f"seed {seed}, {told}"


async def test_a_wrong_model_is_found_out_by_operations_too(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def releases_nothing(call: Any, keys: Any, argv: Any) -> int:
        return 1

    known = next(one for text, one in redis_scripts.SCRIPTS.items() if b"UNLINK" in text)
    wrong = known._replace(run=releases_nothing)
    monkeypatch.setitem(redis_scripts.SCRIPTS, known.text, wrong)
    async with both("redis", redis_url) as (server, real_url):
        assert any([await first_difference(server, real_url, "redis", seed) for seed in range(3)])


# --- what may be done to a served model ---------------------------------------------------------


@pytest.mark.parametrize("fault", Fault)
async def test_a_command_that_is_lost_is_applied_or_not(fault: Fault) -> None:
    model = RedisModel()
    server = await serve(model)
    key = KEYS[0]
    async with opened(server.url, timeout=0.05) as storage:
        await storage.set(key, "old")
        server.trouble = once(fault, lambda command: command[0] == b"EVAL")
        with pytest.raises(Exception, match="Redis"):
            await storage.set(key, "new")
        assert await storage.get(key) == ("new" if fault.is_applied else "old")
    await server.aclose()


async def test_a_server_that_pauses_goes_on_with_what_has_come_in() -> None:
    server = await serve(MemcachedModel())
    async with opened(server.url, timeout=10) as storage:
        await storage.set("a", 1)
        server.pause()
        getting = asyncio.ensure_future(storage.get("a"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.shield(getting)
        server.resume()
        assert await getting == 1
    await server.aclose()


async def test_a_server_that_refuses_and_accepts_again_is_found_again() -> None:
    server = await serve(RedisModel())
    async with opened(server.url) as storage:
        await storage.set("a", 1)
        server.refuse()
        with pytest.raises(Exception, match="Redis"):
            await storage.get("a")
        server.accept()
        assert await storage.get("a") == 1
    await server.aclose()


async def test_a_fail_over_forgets_the_last_writes() -> None:
    model = RedisModel()
    server = await serve(model)
    async with opened(server.url) as storage:
        await storage.set("a", "old")
        await storage.remove("a")
        model.forget(1)
        server.drop()
        with contextlib.suppress(StorageError):  # the first to use a connection that is gone
            await storage.ping()
        assert await storage.get("a") == "old"
    await server.aclose()


def test_a_memcached_that_restarts_begins_its_numbers_anew() -> None:
    model = MemcachedModel()
    model.execute((b"set", b"a", b"0", b"0", b"1"), b"x")
    model.evict(b"a")
    assert model.execute((b"get", b"a")) == []
    model.restart()
    model.execute((b"set", b"a", b"0", b"0", b"1"), b"x")
    assert model.items[b"a"].cas == 1

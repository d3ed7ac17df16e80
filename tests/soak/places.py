"""The storages that are put to the test: their servers, and what may happen to each."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gecaso import Entry, Key, Lease
from gecaso.storages import MemcachedStorage, PostgresStorage, RedisStorage, SQLiteStorage
from tests.postgres import PostgresError, PostgresServer
from tests.servers import MemcachedServer, RedisServer, Server

__all__ = ["EVERY", "PLACES", "Place", "opened"]

Fault = Callable[[float], None]
"""Does something to a place for that many seconds, and is over when it returns."""

GARBAGE = bytes(60_000)


class Place:
    """A kind of storage with its servers; ``faults`` are what may happen to it, by name."""

    def __init__(self, servers: Sequence[Server] = ()) -> None:
        self.servers = servers

    def start(self) -> None:
        for server in self.servers:
            server.start()

    def close(self) -> None:
        for server in self.servers:
            server.close()

    @property
    def address(self) -> str:
        """What a worker needs to know to open it."""
        return ",".join(server.url for server in self.servers)

    @property
    def faults(self) -> dict[str, Fault]:
        return {"kill and restart": self.kill, "pause": self.pause, "flush": self.flush}

    def kill(self, seconds: float) -> None:
        server = self._one(seconds)
        server.kill()
        time.sleep(seconds)
        server.start()

    def pause(self, seconds: float) -> None:
        server = self._one(seconds)
        server.pause()
        time.sleep(seconds)
        server.resume()

    def flush(self, seconds: float) -> None:
        raise NotImplementedError

    def _one(self, seconds: float) -> Server:
        return self.servers[int(seconds * 1000) % len(self.servers)]


class Redis(Place):
    """One Redis that keeps nothing on disk: a restart forgets values and leases alike."""

    def __init__(self) -> None:
        self.server = RedisServer()
        super().__init__([self.server])

    @property
    def faults(self) -> dict[str, Fault]:
        more = {"drop connections": self.drop, "full memory": self.fill, "evict": self.evict}
        return super().faults | more

    def flush(self, seconds: float) -> None:
        self.server.flush()

    def drop(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.server.command("CLIENT", "KILL", "TYPE", "normal")
            time.sleep(0.2)

    def fill(self, seconds: float) -> None:
        """Refuse to take anything more: every write fails, but those that free memory."""
        self._squeeze("noeviction", seconds)

    def evict(self, seconds: float) -> None:
        """Throw away keys at random, leases among them."""
        self._squeeze("allkeys-random", seconds)

    def _squeeze(self, policy: str, seconds: float) -> None:
        self.server.command("CONFIG", "SET", "maxmemory-policy", policy)
        self.server.command("CONFIG", "SET", "maxmemory", "1kb")  # it has more by itself
        time.sleep(seconds)
        self.server.command("CONFIG", "SET", "maxmemory", "0")


class Memcached(Place):
    """One memcached, or a pool of them of which one at a time is in trouble."""

    def __init__(self, count: int) -> None:
        self.all = [MemcachedServer() for _ in range(count)]
        super().__init__(self.all)

    @property
    def faults(self) -> dict[str, Fault]:
        return super().faults | {"evict": self.evict}

    def flush(self, seconds: float) -> None:
        for server in self.all:
            server.flush()

    def evict(self, seconds: float) -> None:
        """Fill it with other things: what was used longest ago goes, leases among it."""
        until = time.monotonic() + seconds
        for number in range(2000):
            for server in self.all:
                server.command(f"set garbage{number} 0 60 {len(GARBAGE)}", GARBAGE)
            if time.monotonic() > until:
                return


class Postgres(Place):
    """One PostgreSQL; its table is empty after a crash."""

    def __init__(self) -> None:
        self.server = PostgresServer()
        super().__init__([self.server])

    @property
    def faults(self) -> dict[str, Fault]:
        return super().faults | {"drop connections": self.drop, "drop the table": self.drop_table}

    def flush(self, seconds: float) -> None:
        with contextlib.suppress(PostgresError):  # nobody has made the table yet, or again
            self.server.execute("TRUNCATE gecaso")

    def drop_table(self, seconds: float) -> None:
        self.server.execute("DROP TABLE IF EXISTS gecaso")

    def drop(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> "
        while time.monotonic() < until:
            self.server.execute(f"{others}pg_backend_pid() AND backend_type = 'client backend'")
            time.sleep(0.2)


class SQLite(Place):
    """A file that all workers share."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="gecaso-"))

    @property
    def address(self) -> str:
        return str(self.folder / "cache.db")

    @property
    def faults(self) -> dict[str, Fault]:
        return {"pause": self.pause, "flush": self.flush}

    def pause(self, seconds: float) -> None:
        """Hold the lock for writing, as a process that hangs in a transaction does."""
        with contextlib.closing(self._open()) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            other.execute("ROLLBACK")

    def flush(self, seconds: float) -> None:
        with contextlib.closing(self._open()) as other:
            other.execute("DELETE FROM entries")

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.address, isolation_level=None, timeout=10)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Unfenced(RedisStorage):
    """What the soak must find out: it stores whatever a load brings, as most caches do."""

    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        return await self.store({lease.key: entry for lease, entry in entries.items()})


PLACES: dict[str, Callable[[], Place]] = {
    "redis": Redis,
    "memcached": lambda: Memcached(1),
    "memcached-pool": lambda: Memcached(3),
    "postgres": Postgres,
    "sqlite": SQLite,
}
WRONG: dict[str, Callable[[], Place]] = {"unfenced": Redis}
"""Places that break a promise, to see that it is noticed."""
EVERY = {**PLACES, **WRONG}


def opened(name: str, address: str) -> Any:
    """Return a storage over a place, in a worker."""
    match name:
        case "redis":
            return RedisStorage(address)
        case "memcached" | "memcached-pool":
            return MemcachedStorage(address.split(","))
        case "postgres":
            return PostgresStorage(address)
        case "sqlite":
            return SQLiteStorage(address)
        case "unfenced":
            return Unfenced(address)
        case _:
            raise ValueError(f"there is no place {name!r}; there are {', '.join(PLACES)}")

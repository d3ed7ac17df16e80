"""What a hit and a miss ask of a server: commands it ran, and round trips to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import gecaso
from gecaso.storages import MemcachedStorage, RedisStorage
from tests.servers import MemcachedServer, RedisServer

from .callers import Load, load_user
from .harness import Benchmark, Row, Scale, Spread, Target

__all__ = ["BENCHMARKS"]

TTL = 600  # seconds
SETTLE = 0.05  # seconds in which what goes on in the background reaches the server
HITS = 100


class Relay:
    """Passes bytes on to a server and counts how often a client sent something."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent = 0

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[int]:
        """Yield the port to connect to."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as listener:
            yield listener.sockets[0].getsockname()[1]
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self._to)
        for coroutine in (self._requests(reader, requests), self._answers(answers, writer)):
            self._tasks.add(asyncio.create_task(coroutine))

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            self.sent += 1
            writer.write(data)
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            writer.write(data)
        writer.close()


async def asked_of(
    server: RedisServer | MemcachedServer, storage_on: Callable[[int], gecaso.EntryStorage]
) -> dict[str, tuple[int, int]]:
    """Return the commands and the round trips of each kind of call."""
    relay = Relay(server.port)
    async with relay.listening() as port, storage_on(port) as storage:
        f: Load = gecaso.cached(storage, ttl=TTL)(load_user)
        await asyncio.gather(*map(f, range(HITS)))  # connected, scripts known, values there

        async def cost(calls: Callable[[], Awaitable[object]]) -> tuple[int, int]:
            await asyncio.sleep(SETTLE)
            commands, sent = server.commands(), relay.sent
            await calls()
            await asyncio.sleep(SETTLE)
            return (server.commands() - commands).total(), relay.sent - sent

        return {
            "a hit": await cost(lambda: f(1)),
            f"{HITS} hits of one tick": await cost(lambda: asyncio.gather(*map(f, range(HITS)))),
            "a miss": await cost(lambda: f(HITS)),
        }


def on_redis(_: Scale) -> list[Row]:
    with RedisServer() as server:
        asked = asyncio.run(
            asked_of(server, lambda port: RedisStorage(f"redis://127.0.0.1:{port}/0"))
        )
    commands = {"a hit": Target("=", 1), f"{HITS} hits of one tick": Target("≤", 3)}
    return rows("Redis", asked, commands, Target("≤", 3))


def on_memcached(_: Scale) -> list[Row]:
    with MemcachedServer() as server:
        asked = asyncio.run(asked_of(server, lambda port: MemcachedStorage(f"127.0.0.1:{port}")))
    return rows("memcached", asked, {"a hit": Target("=", 1)}, Target("≤", 4))


def rows(
    server: str,
    asked: dict[str, tuple[int, int]],
    commands: dict[str, Target],
    round_trips_of_a_miss: Target,
) -> list[Row]:
    round_trips = {
        "a hit": Target("=", 1),
        f"{HITS} hits of one tick": Target("≤", 3),
        "a miss": round_trips_of_a_miss,
    }
    found: list[Row] = []
    for call, (ran, trips) in asked.items():
        found.append(counted(f"{server}: commands of {call}", ran, commands.get(call)))
        found.append(counted(f"{server}: round trips of {call}", trips, round_trips[call]))
    return found


def counted(work: str, count: int, target: Target | None) -> Row:
    measured = Spread(count, count, count)
    return Row(work=work, subject="gecaso", measured=measured, unit="", target=target)


BENCHMARKS = [
    Benchmark("commands and round trips on Redis", on_redis),
    Benchmark("commands and round trips on memcached", on_memcached),
]

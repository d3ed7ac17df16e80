"""What is asked in one event loop, whatever shape the servers have; many keys in portions."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeVar

from gecaso.errors import ConfigurationError

from . import _redis_scripts as scripts
from ._redis_cluster import Cluster
from ._redis_dial import Dial
from ._redis_lines import Lines, Unpack
from ._redis_replicas import Replicas
from ._redis_replies import Reply, checked, is_page, is_pong
from ._redis_server import Server
from ._redis_topology import Node, Topology
from ._redis_urls import ClusterPlace
from ._redis_wire import Command

__all__ = ["AT_ONCE", "Hub", "ahead", "hub_maker", "pages", "ping", "portions", "server_of"]

Hub = Lines | Cluster

T = TypeVar("T")

AT_ONCE: Final = 512  # keys in one command or pipeline
HEAVIEST: Final = 1 << 20  # bytes in one pipeline, or a little more
AHEAD: Final = 2  # portions under way before the reply to the first is awaited


def server_of(place: Dial | ClusterPlace, prefix: bytes) -> Server | Topology:
    """Return what there is to know of these servers."""
    trial = scripts.trial(prefix)
    if isinstance(place, ClusterPlace):
        return Topology(place, trial)
    return Server(place.where, trial)


def hub_maker(
    place: Dial | ClusterPlace,
    server: Server | Topology,
    unpack: Unpack,
    *,
    wait_replicas: int,
    read_from_replicas: bool,
) -> Callable[[], Hub]:
    """Return a function that makes what an event loop needs."""
    if wait_replicas < 0:
        raise ConfigurationError(f"wait_replicas={wait_replicas!r}: give a number of replicas")
    if isinstance(place, ClusterPlace):
        assert isinstance(server, Topology)

        def lines_to(node: Node) -> Lines:
            def replicas(lines: Lines) -> Replicas:
                return Replicas(lines, lambda: node.replicas)

            return Lines(
                node.dial.within(0.5),  # the other half was for finding out who the nodes are
                node.server,
                unpack,
                wait_replicas=wait_replicas,
                replicas=replicas if read_from_replicas else None,
            )

        return lambda: Cluster(server, unpack, lines_to)
    assert isinstance(server, Server)
    if read_from_replicas and "path" in place.options:
        raise ConfigurationError(
            "read_from_replicas=True needs a master with an address, not a unix socket"
        )
    return lambda: Lines(
        place,
        server,
        unpack,
        wait_replicas=wait_replicas,
        replicas=Replicas if read_from_replicas else None,
    )


def portions(commands: Iterable[Command], each: int = 1) -> Iterator[list[Command]]:
    """Yield commands in portions that neither hold up the loop nor the server for long.

    Every ``each`` commands stay together.
    """
    portion: list[Command] = []
    weight = 0
    for command in commands:
        portion.append(command)
        weight += sum([len(part) for part in command if isinstance(part, bytes)])
        if (len(portion) >= AT_ONCE or weight >= HEAVIEST) and len(portion) % each == 0:
            yield portion
            portion, weight = [], 0
    if portion:
        yield portion


async def ahead(asking: Iterable[Awaitable[T]]) -> AsyncGenerator[T, None]:
    """Yield the results of what an iterator starts, in order; a few are under way at a time.

    Others have their turn in between. What is left after an error is cancelled.
    """
    under_way: deque[Future[T]] = deque()
    try:
        for each in asking:
            under_way.append(asyncio.ensure_future(each))
            if len(under_way) > 1:
                await asyncio.sleep(0)
            if len(under_way) > AHEAD:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
            if under_way:
                await asyncio.sleep(0)
    finally:
        for future in under_way:
            if not future.cancel() and not future.cancelled():
                future.exception()


async def ping(hub: Hub) -> None:
    """Ask the servers for a sign of life; raise `StorageError` if none of them gives one."""
    await hub.ready()
    pings = [asyncio.ensure_future(lines.call([(b"PING",)])) for lines in hub.nodes()]
    replies: list[Reply] = []
    for outcome in await asyncio.gather(*pings, return_exceptions=True):
        replies += [outcome] if isinstance(outcome, BaseException) else outcome
    if not any(map(is_pong, replies)):
        checked(replies, is_pong)


async def pages(lines: Lines, pattern: bytes) -> AsyncGenerator[list[bytes], None]:
    """Yield the names of one server that fit a pattern, some at a time."""
    cursor = b"0"
    while True:
        scan = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", 1000)
        ((cursor, names),) = checked(await lines.call([scan]), is_page)
        yield names
        if cursor == b"0":
            return

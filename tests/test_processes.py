"""One load among processes, and a process that dies while it loads is replaced."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from itertools import pairwise

import pytest

from tests.scenes import NETWORK, Process, Truth, opened
from tests.servers import RedisServer
from tests.workers import REFRESHED_TTL, Worker

pytestmark = pytest.mark.process


@pytest.mark.parametrize("kind", NETWORK)
def test_four_processes_make_one_load(kind: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    server = request.getfixturevalue(f"{kind}_server")
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker("stampede", url)) for _ in range(4)]
        for worker in workers:
            worker.wait_for("ready")
        before = server.commands()
        for worker in workers:
            worker.go()
        told = [worker.end().split() for worker in workers]
    assert sum(int(loads) for loads, _ in told) == 1
    assert max(float(longest) for _, longest in told) <= 1.0
    if isinstance(server, RedisServer):
        assert (server.commands() - before).total() <= 40


@pytest.mark.parametrize("kind", NETWORK)
async def test_a_process_killed_while_it_loads_is_replaced_within_its_lease(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    with Worker("hang", url) as worker:
        await asyncio.to_thread(worker.wait_for, "ready")
        worker.go()
        await asyncio.to_thread(worker.wait_for, "loading")
        process = Process(opened(url), Truth())
        calls = [process.cache.get_or_create("cold", lambda: "new") for _ in range(20)]
        waiting = asyncio.gather(*calls)
        await asyncio.sleep(0.2)  # as long as it lives, and renews, nobody else loads
        assert not waiting.done()
        killed = time.monotonic()
        worker.kill()
        assert set(await waiting) == {"new"}
    # Memcached's clock ticks in seconds, and its leases are three of them at least.
    assert time.monotonic() - killed <= (1.3 if kind == "redis" else 4.5)


def test_four_processes_refresh_once_for_each_end_of_a_ttl(redis_url: str) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker("refreshing", redis_url)) for _ in range(4)]
        for worker in workers:
            worker.wait_for("ready")
        for worker in workers:
            worker.go()
        told = [json.loads(worker.end()) for worker in workers]
    loads: list[tuple[float, float]] = sorted(tuple(one) for each in told for one in each["loads"])
    calls: list[tuple[float, float]] = [tuple(one) for each in told for one in each["calls"]]
    assert len(loads) >= 3
    for (_, ended), (began, _) in pairwise(loads):  # one load for all of them, and all its ttl
        assert began - ended >= REFRESHED_TTL - 0.05
    during = [end - begin for begin, end in calls if any(a < end and begin < b for a, b in loads)]
    others = [end - begin for begin, end in calls]
    # Nobody waits for the load, of 0.1 s; how long a hit takes is for the machine to say.
    assert p99(during) <= 2 * p99(others) + 0.02


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]

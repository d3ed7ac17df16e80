"""The leases of one process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf

import pytest

from gecaso import Busy, Lease
from gecaso.keys import Key, as_key
from gecaso.leases import LeaseTable
from tests.doubles import FakeClock

KEY = as_key("k")


def leased(table: LeaseTable, seconds: float = 10.0) -> Lease:
    got = table.take(KEY, seconds)
    assert isinstance(got, Lease)
    return got


def busy(table: LeaseTable) -> Busy:
    got = table.take(KEY, 10.0)
    assert isinstance(got, Busy)
    return got


def test_one_at_a_time_has_the_lease_of_a_key() -> None:
    clock = FakeClock()
    table = LeaseTable(clock)
    lease = leased(table)
    refused = busy(table)
    assert (refused.token, refused.retry_in) == (lease.token, 10.0)
    assert isinstance(table.take(as_key("other"), 10.0), Lease)
    assert repr(table) == "<LeaseTable: 2 out>"
    assert table.give_back(lease)
    assert not table.give_back(lease)
    assert leased(table).token != lease.token


def test_a_lease_runs_over_and_is_taken_over() -> None:
    clock = FakeClock()
    table = LeaseTable(clock)
    lease = leased(table)
    clock.advance(9.9)
    assert table.owns(lease)
    assert table.renew(lease, 10.0)
    clock.advance(9.9)
    assert busy(table).retry_in == pytest.approx(0.1)
    clock.advance(0.1)
    assert not table.owns(lease)
    assert not table.renew(lease, 10.0)
    other = leased(table)
    assert not table.give_back(lease)
    assert table.owns(other)


def test_killing_ends_a_lease_whoever_has_it() -> None:
    table = LeaseTable(FakeClock())
    lease = leased(table)
    table.kill(KEY)
    table.kill(KEY)
    assert [table.owns(lease), table.renew(lease, 1.0), table.begin_commit(lease)] == [False] * 3
    one, two = leased(table), table.take(as_key("two"), inf)
    assert isinstance(two, Lease)
    assert sorted(map(str, table.outstanding())) == ["k", "two"]
    table.kill_all([KEY])
    assert (table.owns(one), table.owns(two)) == (False, True)
    table.kill_all()
    assert len(table) == 0


def test_a_commit_under_way_holds_the_lease_even_when_it_runs_over() -> None:
    clock = FakeClock()
    table = LeaseTable(clock)
    lease = leased(table)
    assert not table.is_writing(lease)
    assert table.begin_commit(lease)
    assert table.is_writing(lease)
    assert not table.begin_commit(lease)  # one lease commits once
    clock.advance(20)
    assert busy(table).retry_in == 0.0
    in_the_way = table.seize(KEY)
    assert isinstance(in_the_way, Busy)
    assert in_the_way.token == lease.token
    assert table.give_back(lease)
    assert not table.is_writing(lease)


def test_seizing_kills_the_lease_of_a_load_and_takes_it_for_a_write() -> None:
    table = LeaseTable(FakeClock())
    lease = leased(table)
    writing = table.seize(KEY)
    assert isinstance(writing, Lease)
    assert not table.owns(lease)
    assert table.is_writing(writing)
    assert isinstance(table.take(KEY, 10), Busy)


def test_no_write_begins_while_a_lease_is_seized(monkeypatch: pytest.MonkeyPatch) -> None:
    table = LeaseTable(FakeClock())
    lease = leased(table)
    began = list[bool]()
    writer = threading.Thread(target=lambda: began.append(table.begin_commit(lease)))
    kill = table.kill

    def meanwhile(key: Key) -> None:
        writer.start()
        writer.join(0.05)  # it waits for the table
        kill(key)

    monkeypatch.setattr(table, "kill", meanwhile)
    assert isinstance(table.seize(KEY), Lease)
    writer.join(10)
    assert began == [False]


async def test_a_waiter_in_a_loop_is_woken_when_the_lease_goes() -> None:
    table = LeaseTable(FakeClock())
    ends: list[Callable[[Lease], object]] = [table.give_back, lambda lease: table.kill(lease.key)]
    for end in ends:
        lease = leased(table)
        waiting = [asyncio.create_task(table.wait(busy(table), inf)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        end(lease)
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)


async def test_waiting_for_a_lease_that_is_gone_returns_at_once() -> None:
    table = LeaseTable(FakeClock())
    lease = leased(table)
    refused = busy(table)
    table.give_back(lease)
    leased(table)  # a new one, that nobody was told of
    async with asyncio.timeout(5):
        await table.wait(refused, inf)
    table.wait_blocking(refused, inf)


async def test_waiting_ends_with_its_time_and_leaves_nothing() -> None:
    table = LeaseTable(FakeClock())
    lease = leased(table)
    refused = busy(table)
    await table.wait(refused, 0.001)
    table.wait_blocking(refused, 0.001)
    task = asyncio.create_task(table.wait(refused, inf))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    held = getattr(table, "_held")[KEY]  # noqa: B009 - what must not grow is its own
    assert held.waiters == []
    assert table.owns(lease)


def test_threads_wait_and_take_turns() -> None:
    table = LeaseTable(FakeClock())
    running: list[int] = []

    def work(number: int) -> None:
        while isinstance(got := table.take(KEY, inf), Busy):
            table.wait_blocking(got, inf)
        running.append(number)
        assert len(running) == 1
        running.remove(number)
        table.give_back(got)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    assert len(table) == 0


def test_a_waiter_of_a_closed_loop_does_no_harm() -> None:
    table = LeaseTable(FakeClock())
    lease = leased(table)
    refused = busy(table)
    loop = asyncio.new_event_loop()
    task = loop.create_task(table.wait(refused, inf))
    loop.run_until_complete(asyncio.sleep(0))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    table.give_back(lease)
    assert not task.done()
    getattr(task, "_log_destroy_pending")  # noqa: B009 - asyncio's own: the task is meant to be lost
    setattr(task, "_log_destroy_pending", False)  # noqa: B010 - likewise


async def test_a_loop_that_closes_while_its_waiter_is_woken_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = LeaseTable(FakeClock())
    lease = leased(table)
    waiting = asyncio.create_task(table.wait(busy(table), inf))
    await asyncio.sleep(0)

    def closed(*_: object) -> None:
        raise RuntimeError("Event loop is closed")

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", closed)
        assert table.give_back(lease)
    assert len(table) == 0
    waiting.cancel()


def test_the_write_of_a_closed_loop_is_free() -> None:
    table = LeaseTable(FakeClock())

    async def write() -> None:
        assert table.begin_commit(leased(table, inf))

    asyncio.run(write())
    assert isinstance(table.seize(KEY), Lease)


def test_the_lease_of_a_closed_loop_is_free() -> None:
    table = LeaseTable(FakeClock())

    async def take() -> Lease:
        return leased(table, inf)

    lease = asyncio.run(take())
    assert isinstance(table.take(KEY, 1.0), Lease)
    assert not table.give_back(lease)


@pytest.mark.process
def test_a_forked_child_has_no_leases_and_a_lock_of_its_own() -> None:
    table = LeaseTable(FakeClock())
    leased(table)
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with table.lock:
            held.set()
            forked.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        os._exit(0 if isinstance(table.take(KEY, 1.0), Lease) else 1)
    forked.set()
    thread.join(10)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert isinstance(table.take(KEY, 1.0), Busy)

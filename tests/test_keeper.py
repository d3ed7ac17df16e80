"""A lease is renewed while its load runs, and what became of it is known afterwards."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterable

import pytest

from gecaso import Busy, Key, Lease, StorageTimeout, events
from gecaso.keeper import Keeper
from gecaso.keys import as_key
from tests.scenes import Distant, Process, Truth, patience

KEY = as_key("kept")


@pytest.fixture
def storage() -> Distant:
    return Distant()


async def leased(storage: Distant, seconds: float) -> Lease:
    got = (await storage.lease([KEY], seconds))[KEY]
    assert isinstance(got, Lease)
    return got


async def renewals(storage: Distant, times: int) -> None:
    async with patience():
        while storage.asked["renew"] < times:  # noqa: ASYNC110 - timers tell nobody
            await asyncio.sleep(0.001)


async def test_a_lease_is_renewed_at_a_third_of_its_time(storage: Distant) -> None:
    lease = await leased(storage, 0.3)
    started = time.monotonic()
    keeper = Keeper(storage, lease, 0.3)
    await renewals(storage, 5)
    assert 0.5 <= time.monotonic() - started <= 1.0
    assert not keeper.lost
    assert await storage.commit({lease: storage.new_entry(1)}) == {KEY}
    keeper.stop()


async def test_a_keeper_that_is_stopped_renews_no_more(storage: Distant) -> None:
    keeper = Keeper(storage, await leased(storage, 0.03), 0.03)
    await renewals(storage, 1)
    keeper.stop()
    before = storage.asked["renew"]
    await asyncio.sleep(0.05)
    assert storage.asked["renew"] == before
    assert asyncio.all_tasks() == {asyncio.current_task()} | _runner_tasks()


async def test_a_keeper_that_is_stopped_is_let_go_at_once(storage: Distant) -> None:
    keeper = Keeper(storage, await leased(storage, 600), 600)
    gone = weakref.ref(keeper)
    keeper.stop()
    del keeper
    gc.collect()
    assert gone() is None  # no timer holds it, nor the lease and the storage


def _runner_tasks() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if "renew" not in repr(task)}


async def test_a_keeper_can_be_stopped_from_another_thread(storage: Distant) -> None:
    keeper = Keeper(storage, await leased(storage, 0.03), 0.03)
    await asyncio.to_thread(keeper.stop)
    await asyncio.sleep(0.04)
    assert storage.asked["renew"] == 0


def test_a_keeper_of_a_closed_loop_can_be_stopped(storage: Distant) -> None:
    async def make() -> Keeper:
        return Keeper(storage, await leased(storage, 10), 10)

    keeper = asyncio.run(make())
    keeper.stop()
    threading.Thread(target=keeper.stop).start()


async def test_a_lease_that_was_killed_is_not_lost(storage: Distant) -> None:
    keeper = Keeper(storage, await leased(storage, 0.06), 0.06)
    await storage.discard([KEY])
    await renewals(storage, 1)
    await asyncio.sleep(0.08)
    assert not keeper.lost
    assert storage.asked["renew"] == 1  # there is nothing to renew
    keeper.stop()


async def test_a_lease_that_ran_over_is_lost(storage: Distant) -> None:
    keeper = Keeper(storage, await leased(storage, 0.03), 0.03)
    time.sleep(0.05)  # noqa: ASYNC251 - the loop is blocked
    assert keeper.lost
    await renewals(storage, 1)
    assert keeper.lost
    keeper.stop()


async def test_a_renewal_that_fails_is_tried_again(storage: Distant) -> None:
    lease = await leased(storage, 0.3)
    storage.trouble = StorageTimeout("a hiccup")
    keeper = Keeper(storage, lease, 0.3)
    await renewals(storage, 1)
    storage.trouble = None
    await renewals(storage, 2)
    assert not keeper.lost
    keeper.stop()


async def test_an_invalidation_during_a_long_load_is_not_called_a_lost_lease(
    storage: Distant, caplog: pytest.LogCaptureFixture
) -> None:
    seen = list[events.Event]()
    truth = Truth()
    process = Process(storage, truth, lease_seconds=0.05)
    with events.listening(seen.append):
        gate = truth.close_gate()
        call = process.call()
        await truth.asked(1)
        await storage.discard([process.thing.key(1)])
        await asyncio.sleep(0.1)  # longer than the lease, had it lived
        gate.set()
        await call
    assert process.thing.stats.fenced == 1
    assert process.thing.stats.lost == 0
    assert not [event for event in seen if isinstance(event, events.LostLease)]
    assert not caplog.records


async def test_a_load_longer_than_its_lease_gets_a_longer_one_the_next_time(
    storage: Distant,
) -> None:
    truth = Truth(seconds=0.1)
    process = Process(storage, truth, lease_seconds=0.05)
    await process.thing(1)
    asked = list[float]()
    inner = storage.lease

    async def lease(keys: object, seconds: float) -> object:
        asked.append(seconds)
        return await inner(keys, seconds)  # type: ignore[arg-type]  # passed on as it came

    storage.lease = lease  # type: ignore[method-assign, assignment]  # to see what is asked
    await process.thing(2)
    assert asked[0] >= 0.4


class SlowAnswer(Distant):
    """Grants leases at once, and says so late."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.granted = asyncio.Event()

    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        got = await super().lease(keys, seconds)
        self.granted.set()
        await self.gate.wait()
        return got


async def test_a_lease_whose_answer_came_after_its_caller_had_left_is_handed_back() -> None:
    storage = SlowAnswer()
    process = Process(storage, Truth())
    async with patience():
        call = process.call()
        await storage.granted.wait()
        call.cancel()
        await asyncio.wait((call,))
        storage.gate.set()
        while len(storage.inner.leases):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
    assert storage.asked["release"] == 1


async def test_a_block_is_told_in_the_log_what_becomes_of_its_lease(
    storage: Distant, caplog: pytest.LogCaptureFixture
) -> None:
    async with patience(), storage.leased("job", seconds=0.03) as lease:
        storage.trouble = StorageTimeout("the server is gone")
        while "could not be renewed" not in caplog.text:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
        storage.trouble = None
        storage.inner.leases.kill(lease.key)
        while "was lost while its block runs" not in caplog.text:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
        storage.trouble = StorageTimeout("the server is gone again")
    assert "was not released, and runs out" in caplog.text

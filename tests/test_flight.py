"""Who gets what a flight brings: every order of joining, marking, landing, leaving, detaching."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Hashable

import pytest

from gecaso.errors import RecursiveLoad
from gecaso.flight import (
    ABANDONED,
    AGAIN,
    Flight,
    Flights,
    Outcome,
    current_flight,
    wait,
    wait_blocking,
)
from gecaso.waiters import Waiter
from tests.doubles import in_thread


@pytest.fixture
def flights() -> Flights:
    return Flights()


def here() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def fly_for_ever() -> None:
    await here().create_future()


# -- joining ---------------------------------------------------------------------------------------


async def test_the_first_to_join_flies_and_the_others_wait(flights: Flights) -> None:
    joined = [flights.join("key", here()) for _ in range(3)]
    assert [mine for _, _, mine in joined] == [True, False, False]
    assert len({id(flight) for flight, _, _ in joined}) == 1
    assert [waiter.place for _, waiter, _ in joined] == [0, 1, 2]
    assert "key" in flights
    assert len(flights) == 1


async def test_keys_have_flights_of_their_own(flights: Flights) -> None:
    assert [flights.join(key, here())[2] for key in ("a", "b")] == [True, True]


def test_coroutines_and_threads_share_a_flight(flights: Flights) -> None:
    loop = asyncio.new_event_loop()
    try:
        flight, _, mine = flights.join("key", None)
        other, _, yours = flights.join("key", loop)
        assert flight is other
        assert (mine, yours) == (True, False)
    finally:
        loop.close()


# -- who gets it -----------------------------------------------------------------------------------


def results(flight: Flight, waiters: list[Waiter]) -> list[object]:
    return [flight.result(waiter) for waiter in waiters]


async def test_what_is_for_all_is_for_who_joins_late_as_well(flights: Flights) -> None:
    flight, first, _ = flights.join("key", here())
    flight.mark()
    _, late, _ = flights.join("key", here())
    flights.land(flight, Outcome("value"))
    assert results(flight, [first, late]) == ["value", "value"]


async def test_what_was_fenced_is_for_those_before_the_mark(flights: Flights) -> None:
    flight, first, _ = flights.join("key", here())
    _, second, _ = flights.join("key", here())
    mark = flight.mark()
    _, third, _ = flights.join("key", here())
    _, fourth, _ = flights.join("key", here())
    flights.land(flight, Outcome("old", upto=mark))
    assert results(flight, [first, second, third, fourth]) == ["old", "old", AGAIN, AGAIN]


async def test_who_joined_at_the_very_mark_starts_over(flights: Flights) -> None:
    flight, first, _ = flights.join("key", here())
    mark = flight.mark()
    _, at_the_mark, _ = flights.join("key", here())
    assert at_the_mark.place == mark
    flights.land(flight, Outcome("old", upto=mark))
    assert results(flight, [first, at_the_mark]) == ["old", AGAIN]


async def test_a_flight_given_up_brings_nothing_to_anybody(flights: Flights) -> None:
    flight, first, _ = flights.join("key", here())
    flights.land(flight, ABANDONED)
    assert flight.result(first) is AGAIN


async def test_an_error_that_was_fenced_is_not_for_late_joiners(flights: Flights) -> None:
    flight, first, _ = flights.join("key", here())
    mark = flight.mark()
    _, late, _ = flights.join("key", here())
    flights.land(flight, Outcome(error=ValueError("old"), upto=mark))
    with pytest.raises(ValueError, match="old"):
        flight.result(first)
    assert flight.result(late) is AGAIN


async def test_each_caller_raises_an_error_of_his_own(flights: Flights) -> None:
    flight, first, _ = flights.join("key", here())
    waiters = [first, *[flights.join("key", here())[1] for _ in range(3)]]
    flights.land(flight, Outcome(error=ValueError("once")))
    errors = list[BaseException]()
    for waiter in waiters:
        with pytest.raises(ValueError, match="once") as caught:
            flight.result(waiter)
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 4

    def frames(error: BaseException) -> int:
        count, trace = 0, error.__traceback__
        while trace is not None:
            count, trace = count + 1, trace.tb_next
        return count

    assert len({frames(error) for error in errors}) == 1  # nobody's frames in another's


async def test_the_first_landing_counts(flights: Flights) -> None:
    flight, first, _ = flights.join("key", here())
    flights.land(flight, Outcome("one"))
    flights.land(flight, Outcome("two"))
    assert flight.result(first) == "one"


async def test_who_comes_after_the_landing_starts_a_new_flight(flights: Flights) -> None:
    flight, _, _ = flights.join("key", here())
    flights.land(flight, Outcome("value"))
    assert "key" not in flights
    other, _, mine = flights.join("key", here())
    assert mine
    assert other is not flight


# -- waking ----------------------------------------------------------------------------------------


async def test_a_landing_wakes_every_kind_of_caller(flights: Flights) -> None:
    flight, own, _ = flights.join("key", here())
    _, thread_waiter, _ = flights.join("key", None)
    thread = threading.Thread(target=wait_blocking, args=(flight, thread_waiter))
    thread.start()
    elsewhere = list[object]()
    joined = threading.Event()

    async def foreign() -> None:
        _, waiter, _ = flights.join("key", here())
        joined.set()
        await wait(flight, waiter)
        elsewhere.append(flight.result(waiter))

    other = threading.Thread(target=lambda: asyncio.run(foreign()))
    other.start()
    assert await asyncio.to_thread(joined.wait, 10)
    flights.land(flight, Outcome("value"))
    async with asyncio.timeout(5):
        await wait(flight, own)
    await asyncio.to_thread(thread.join, 5)
    await asyncio.to_thread(other.join, 5)
    assert not thread.is_alive()
    assert elsewhere == ["value"]


async def test_a_landing_does_not_mind_a_caller_that_is_gone(flights: Flights) -> None:
    flight, own, _ = flights.join("key", here())
    _, gone, _ = flights.join("key", here())
    assert gone.future is not None
    gone.future.cancel()
    loop = asyncio.new_event_loop()
    flights.join("key", loop)
    loop.close()
    flights.land(flight, Outcome("value"))
    await wait(flight, own)
    assert flight.result(own) == "value"


# -- leaving ---------------------------------------------------------------------------------------


async def test_when_the_last_caller_leaves_the_task_is_cancelled(flights: Flights) -> None:
    flight, _, _ = flights.join("key", here())
    flights.join("key", here())
    task = here().create_task(fly_for_ever())
    flights.start(flight, task)
    flights.leave(flight)
    await asyncio.sleep(0)
    assert not task.done()
    assert "key" in flights
    flights.leave(flight)
    assert "key" not in flights  # nobody joins what is being cancelled
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_first_to_leave_may_be_the_one_that_flies(flights: Flights) -> None:
    flight, _, _ = flights.join("key", here())
    _, other, _ = flights.join("key", here())
    task = here().create_task(fly_for_ever())
    flights.start(flight, task)
    flights.leave(flight)
    flights.land(flight, Outcome("value"))
    assert flight.result(other) == "value"
    assert not task.cancelling()
    task.cancel()


async def test_leaving_after_the_landing_cancels_nothing(flights: Flights) -> None:
    flight, _, _ = flights.join("key", here())
    task = here().create_task(fly_for_ever())
    flights.start(flight, task)
    flights.land(flight, Outcome("value"))
    flights.leave(flight)
    assert not task.cancelling()
    task.cancel()


async def test_the_last_to_leave_may_be_in_another_thread(flights: Flights) -> None:
    flight, _, _ = flights.join("key", here())
    task = here().create_task(fly_for_ever())
    flights.start(flight, task)
    await asyncio.to_thread(flights.leave, flight)
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_flight_left_before_its_task_is_known_is_cancelled(flights: Flights) -> None:
    flight, _, _ = flights.join("key", here())
    flights.leave(flight)
    task = here().create_task(fly_for_ever())
    flights.start(flight, task)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_load_that_is_being_cancelled_is_not_cancelled_again(flights: Flights) -> None:
    flight, _, _ = flights.join("key", here())
    cleaning, given_back = asyncio.Event(), asyncio.Event()

    async def fly() -> None:
        try:
            await fly_for_ever()
        finally:
            cleaning.set()
            await asyncio.sleep(0)  # as the release of a lease takes a while
            given_back.set()

    task = here().create_task(fly())
    flights.start(flight, task)
    await asyncio.sleep(0)
    task.cancel()  # as a loop that ends does to every task
    await cleaning.wait()
    flights.leave(flight)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert given_back.is_set()


async def test_leaving_a_flight_whose_loop_has_just_closed_does_no_harm(
    flights: Flights, monkeypatch: pytest.MonkeyPatch
) -> None:
    flight, _, _ = flights.join("key", here())
    task = here().create_task(fly_for_ever())
    flights.start(flight, task)

    def closed(*_: object) -> None:
        raise RuntimeError("Event loop is closed")

    with monkeypatch.context() as patched:
        patched.setattr(here(), "call_soon_threadsafe", closed)
        in_thread(lambda: flights.leave(flight))
    assert len(flights) == 0
    task.cancel()


def test_a_caller_that_is_collected_in_the_middle_of_a_join_may_leave(
    flights: Flights, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, _, _ = flights.join("left", None)

    class Collecting(Flight):
        __slots__ = ()

        def __init__(self, key: Hashable, loop: asyncio.AbstractEventLoop | None) -> None:
            flights.leave(left)  # as the collector may have it, at any allocation
            super().__init__(key, loop)

    monkeypatch.setattr("gecaso.flight.Flight", Collecting)
    _, _, mine = in_thread(lambda: flights.join("key", None), timeout=5)
    assert mine
    assert left.present == 0


async def test_leaving_an_old_flight_leaves_the_new_one_alone(flights: Flights) -> None:
    old, _, _ = flights.join("key", here())
    flights.detach(["key"])
    new, _, _ = flights.join("key", here())
    flights.leave(old)
    flights.land(old, ABANDONED)
    assert flights.join("key", here())[0] is new


# -- detaching -------------------------------------------------------------------------------------


async def test_who_comes_after_a_detachment_starts_a_new_flight(flights: Flights) -> None:
    old, early, _ = flights.join("key", here())
    flights.detach(["key", "another"])
    new, late, mine = flights.join("key", here())
    assert mine
    flights.land(new, Outcome("new"))
    flights.land(old, Outcome("old", upto=1))
    assert old.result(early) == "old"
    assert new.result(late) == "new"
    assert len(flights) == 0


async def test_a_refresh_is_detached_with_its_key(flights: Flights) -> None:
    old, _, _ = flights.join(("key", "refresh"), here())
    flights.detach(["key"])
    new, _, mine = flights.join(("key", "refresh"), here())
    assert mine
    assert new is not old


async def test_flights_are_detached_by_a_condition(flights: Flights) -> None:
    for key in ("a1", "a2", "b1"):
        flights.join(key, here())
    flights.detach_where(lambda key: key.startswith("a"))
    assert ["a1" in flights, "a2" in flights, "b1" in flights] == [False, False, True]


# -- lost loops ------------------------------------------------------------------------------------


async def test_a_flight_of_a_closed_loop_is_lost_and_replaced(flights: Flights) -> None:
    loop = asyncio.new_event_loop()
    flight, _, _ = flights.join("key", loop)
    assert not flight.is_lost()
    _, waiter, _ = flights.join("key", here())
    loop.close()
    assert flight.is_lost()
    async with asyncio.timeout(5):
        await wait(flight, waiter)
    assert flight.result(waiter) is AGAIN
    _, _, mine = flights.join("key", here())
    assert mine


async def test_lost_flights_of_other_keys_are_forgotten_as_well(flights: Flights) -> None:
    loop = asyncio.new_event_loop()

    async def land_never() -> None:
        for key in ("a", "b", "c"):
            flight, _, _ = flights.join(key, here())
            flights.start(flight, here().create_task(fly_for_ever()))

    await asyncio.to_thread(loop.run_until_complete, land_never())
    loop.close()
    assert len(flights) == 3
    flights.join("a", here())
    assert len(flights) == 1
    assert not flights._tasks  # pyright: ignore[reportPrivateUsage] - nor are they held


async def test_tasks_of_detached_flights_of_a_closed_loop_are_let_go_at_the_next_flight(
    flights: Flights,
) -> None:
    loop = asyncio.new_event_loop()
    lost = list[asyncio.Task[None]]()

    async def land_never() -> None:
        flight, _, _ = flights.join("key", here())
        lost.append(here().create_task(fly_for_ever()))
        flights.start(flight, lost[0])

    await asyncio.to_thread(loop.run_until_complete, land_never())
    flights.detach(["key"])
    loop.close()
    flight, _, _ = flights.join("other", here())
    task = here().create_task(fly_for_ever())
    flights.start(flight, task)
    assert flights._tasks == {task}  # pyright: ignore[reportPrivateUsage] - what must not grow
    task.cancel()


def test_a_thread_does_not_wait_for_a_lost_flight(flights: Flights) -> None:
    loop = asyncio.new_event_loop()
    flight, _, _ = flights.join("key", loop)
    _, waiter, _ = flights.join("key", None)
    loop.close()
    wait_blocking(flight, waiter)
    assert flight.result(waiter) is AGAIN


# -- circles ---------------------------------------------------------------------------------------


async def within(flight: Flight, flights: Flights, key: str) -> Flight:
    """Join the flight of ``key`` as the load of ``flight`` does."""

    async def join() -> Flight:
        current_flight.set(flight)
        return flights.join(key, here())[0]

    return await here().create_task(join())


async def test_a_load_that_waits_for_itself_is_refused(flights: Flights) -> None:
    a, _, _ = flights.join("a", here())
    with pytest.raises(RecursiveLoad, match="load of a waits for the load of a"):
        await within(a, flights, "a")


async def test_a_circle_of_three_is_refused_where_it_would_close(flights: Flights) -> None:
    a, _, _ = flights.join("a", here())
    b = await within(a, flights, "b")
    c = await within(b, flights, "c")
    with pytest.raises(RecursiveLoad):
        await within(c, flights, "a")


async def test_a_circle_through_one_of_several_loads_is_found(flights: Flights) -> None:
    a, _, _ = flights.join("a", here())
    for key in ("x", "y", "z"):
        await within(a, flights, key)
    z, _, _ = flights.join("z", here())
    with pytest.raises(RecursiveLoad):
        await within(z, flights, "a")


async def test_a_diamond_is_no_circle(flights: Flights) -> None:
    top, _, _ = flights.join("top", here())
    left = await within(top, flights, "left")
    right = await within(top, flights, "right")
    assert await within(left, flights, "bottom") is await within(right, flights, "bottom")


async def test_a_load_that_has_landed_waits_for_nobody(flights: Flights) -> None:
    a, _, _ = flights.join("a", here())
    b = await within(a, flights, "b")
    flights.land(a, Outcome("value"))
    again, _, _ = flights.join("a", here())
    assert await within(b, flights, "a") is again


async def test_who_has_left_no_longer_waits(flights: Flights) -> None:
    a, _, _ = flights.join("a", here())

    async def join_and_leave() -> Flight:
        current_flight.set(a)
        flight = flights.join("b", here())[0]
        flights.join("b", here())
        flights.leave(flight)
        flights.leave(flight)
        return flight

    b = await here().create_task(join_and_leave())
    assert a.waits_for == []
    b2, _, _ = flights.join("b", here())
    assert b2 is not b
    await within(b2, flights, "a")


async def test_a_refused_flight_is_not_left_in_the_air(flights: Flights) -> None:
    a, _, _ = flights.join("a", here())
    with pytest.raises(RecursiveLoad):
        await within(a, flights, "a")
    assert a.present == 1
    flights.land(a, Outcome("value"))
    assert len(flights) == 0


async def test_a_refused_refresh_is_not_left_in_the_air(flights: Flights) -> None:
    a, _, _ = flights.join("a", here())

    async def refresh() -> None:
        current_flight.set(a)
        flights.join(("a", "refresh"), here())

    with pytest.raises(RecursiveLoad):
        await here().create_task(refresh())
    _, _, mine = flights.join(("a", "refresh"), here())
    assert mine  # nobody waits for one that nobody flies


# -- G9 --------------------------------------------------------------------------------------------


async def test_nothing_keeps_a_flight_that_is_over(flights: Flights) -> None:
    flight, waiter, _ = flights.join("key", here())
    task = here().create_task(asyncio.sleep(0))
    flights.start(flight, task)
    await task
    flights.land(flight, Outcome("value"))
    flights.leave(flight)
    reference = weakref.ref(flight)
    del flight, waiter
    gc.collect()
    assert reference() is None
    assert repr(flights) == "<Flights: 0 in the air>"

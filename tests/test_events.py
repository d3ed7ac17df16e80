"""What happened, told to hooks."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from gecaso import Cache, MemoryStorage, cached, events
from gecaso.events import Event, listening, subscribe
from tests.doubles import FakeClock

# Not typed, for functions of any colour.
decorate: Any = cached


def names(seen: list[Event]) -> list[str]:
    return [type(event).__name__ for event in seen]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_call_tells_its_way(is_async: bool) -> None:
    storage = MemoryStorage()

    async def later(x: int) -> int:
        return x

    def at_once(x: int) -> int:
        return x

    function: Any = later if is_async else at_once
    f = decorate(storage, ttl=60)(function)

    async def call(x: int) -> None:
        result = f(x)
        assert (await result if is_async else result) == x

    seen: list[Event] = []
    with listening(seen.append):
        await call(1)
        await call(1)
        result = f.invalidate(1)
        if is_async:
            await result
    assert names(seen) == ["Miss", "Load", "Commit", "Hit", "Evicted", "Invalidated"]
    assert {event.storage for event in seen} == {storage}
    assert [event.key for event in seen[:5]] == [f.key(1)] * 5
    load, invalidated = seen[1], seen[5]
    assert isinstance(load, events.Load)
    assert load.seconds >= 0
    assert load.error is None
    assert isinstance(invalidated, events.Invalidated)
    assert (invalidated.keys, invalidated.confirmed) == ((f.key(1),), True)


async def test_trouble_is_told() -> None:
    storage = MemoryStorage(clock=FakeClock())

    @cached(storage, condition=lambda value: value > 0)
    async def f(x: int) -> int:
        if x > 5:
            raise LookupError(x)
        if x == 5:
            await f.put(50, 5)
        return x

    seen: list[Event] = []
    with listening(seen.append):
        with pytest.raises(LookupError):
            await f(6)
        await f(-1)
        await f(5)
    assert names(seen)[:6] == ["Miss", "Load", "Miss", "Load", "Uncacheable", "Commit"]
    assert names(seen)[6:] == ["Miss", "Invalidated", "Load", "Fenced"]
    load, uncacheable = seen[1], seen[4]
    assert isinstance(load, events.Load)
    assert isinstance(load.error, LookupError)
    assert isinstance(uncacheable, events.Uncacheable)
    assert uncacheable.reason == "the condition does not hold"


def test_events_are_frozen() -> None:
    event = events.Hit(storage=None, key="k")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.key = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue] - meant to be wrong


def test_hits_are_seen_while_somebody_listens_and_the_short_path_is_back_after() -> None:
    storage = MemoryStorage()

    class C:
        @cached(storage)
        def method(self, x: int) -> int:
            return x

    @cached(storage)
    def f(x: int) -> int:
        return x

    one = C()
    seen: list[Event] = []

    def call() -> None:
        f(1)
        one.method(1)

    call()
    inside: Any = getattr(f, "gecaso_function")  # noqa: B009 - what counts the hits of the short path
    for round_ in range(3):
        call()
        short = inside.compiled.hits(False)
        assert short == round_ + 1
        with listening(seen.append):
            call()
            assert names(seen)[-2:] == ["Hit", "Hit"]
        assert inside.compiled.hits(False) == short
    call()
    assert len(seen) == 6
    assert f.stats.hits == C.method.stats.hits == 7
    assert (f.stats.loads, C.method.stats.loads) == (1, 1)


def test_functions_decorated_while_somebody_listens_are_heard_and_then_short() -> None:
    seen: list[Event] = []
    with listening(seen.append):

        @cached(MemoryStorage())
        def f() -> int:
            return 1

        f()
        f()
    f()
    assert names(seen) == ["Miss", "Load", "Commit", "Hit"]
    assert f.stats.hits == 2


def test_with_no_hook_no_record_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("made a record for nobody")

    for name in ("Hit", "Miss", "Load", "Commit", "Uncacheable", "Fenced", "Invalidated"):
        monkeypatch.setattr(events, name, refuse)

    @cached(MemoryStorage(), condition=bool)
    def f(x: int) -> int:
        if x == 9:
            raise LookupError
        return x

    f(1)
    f(1)
    f(0)
    f.invalidate(1)
    f.put(1, 1)
    f.refresh(1)
    with pytest.raises(LookupError):
        f(9)


def test_a_hook_that_fails_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    def bad(event: Event) -> None:
        raise ValueError("a bad hook")

    @cached(MemoryStorage())
    def f() -> int:
        return 1

    with listening(bad), listening(seen.append):
        assert f() == 1
    assert len(seen) == 3
    assert "a bad hook" in caplog.text


def test_hooks_come_and_go_one_by_one() -> None:
    one: list[Event] = []
    two: list[Event] = []
    stop_one, stop_two = subscribe(one.append), subscribe(two.append)
    events.emit(events.Hit(storage=None))
    stop_one()
    stop_one()
    events.emit(events.Miss(storage=None))
    stop_two()
    events.emit(events.Miss(storage=None))
    assert (names(one), names(two)) == (["Hit"], ["Hit", "Miss"])


async def test_caches_tell_too() -> None:
    cache = Cache(MemoryStorage())
    seen: list[Event] = []
    with listening(seen.append):
        await asyncio.gather(*[cache.get_or_create("a", lambda: 1) for _ in range(3)])
        await cache.remove("a")
    assert names(seen) == ["Miss"] * 3 + ["Load", "Commit", "Evicted", "Invalidated"]

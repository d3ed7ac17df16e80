"""Messages of changes on their way through a `ChaosStorage`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gecaso import MemoryStorage, StorageError, Unsupported
from gecaso.changes import Changed, Cleared, Gap
from gecaso.testing import ChaosStorage, Faults
from gecaso.testing.faults import Lose, Reorder, Repeat
from tests.scenes import patience


class Telling(MemoryStorage):
    """A storage that tells what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: asyncio.Queue[object] = asyncio.Queue()
        self.closed = 0

    async def changes(self) -> AsyncIterator[object]:
        try:
            yield Gap()
            while (message := await self.said.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            self.closed += 1

    def say(self, *names: str) -> None:
        for name in names:
            self.said.put_nowait(Changed([name]))

    async def is_heard(self) -> None:
        """Wait until all that was said has been taken."""
        async with patience():
            while not self.said.empty():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
        await asyncio.sleep(0)


async def heard(chaos: ChaosStorage, count: int) -> list[str]:
    """Return that many messages, after the gap at the beginning."""
    found: list[str] = []
    async with patience():
        async for message in chaos.changes():
            found.append(",".join(message.names) if isinstance(message, Changed) else str(message))
            if len(found) > count:
                break
    assert found[0] == "<Gap>"
    return found[1:]


async def test_messages_arrive_in_order() -> None:
    below = Telling()
    below.say("a", "b")
    below.said.put_nowait(Cleared())
    assert await heard(ChaosStorage(below), 3) == ["a", "b", "<Cleared>"]


async def test_a_lost_message() -> None:
    below = Telling()
    below.say("a", "b", "c")
    chaos = ChaosStorage(below)
    chaos.next("changes", None, Lose())
    assert await heard(chaos, 2) == ["a", "c"]
    assert chaos.injected == {"lose": 1}


async def test_a_message_after_the_next_one() -> None:
    below = Telling()
    below.say("a", "b", "c")
    chaos = ChaosStorage(below)
    chaos.next("changes", Reorder())
    assert await heard(chaos, 3) == ["b", "a", "c"]
    assert chaos.injected == {"reorder": 1}


async def test_a_message_that_comes_twice() -> None:
    below = Telling()
    below.say("a", "b", "c")
    chaos = ChaosStorage(below)
    chaos.next("changes", Repeat())
    assert await heard(chaos, 4) == ["a", "b", "a", "c"]
    assert chaos.injected == {"repeat": 1}


async def test_what_is_held_back_is_told_when_it_is_healed() -> None:
    below = Telling()
    chaos = ChaosStorage(below)
    chaos.next("changes", Reorder())
    hearing = asyncio.create_task(heard(chaos, 1))
    below.say("a")
    async with patience():
        while not chaos.injected:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    assert not hearing.done()
    chaos.heal()
    assert await hearing == ["a"]


async def test_messages_are_lost_without_a_connection_and_a_gap_is_told_after_it() -> None:
    below = Telling()
    chaos = ChaosStorage(below)
    hearing = asyncio.create_task(heard(chaos, 3))
    below.say("a")
    await below.is_heard()
    chaos.disconnect(2)
    below.say("b")
    await below.is_heard()
    for _ in range(2):
        with pytest.raises(StorageError):
            await chaos.ping()
    below.say("c")
    assert await hearing == ["a", "<Gap>", "c"]
    assert chaos.injected == {"disconnect": 1, "disconnected": 3}


async def test_a_gap_is_never_lost() -> None:
    chaos = ChaosStorage(Telling(), Faults(lose=1.0))
    assert await heard(chaos, 0) == []


async def test_the_error_and_the_end_of_the_messages_are_passed_on() -> None:
    below = Telling()
    below.said.put_nowait(StorageError("broken"))
    with pytest.raises(StorageError, match="broken"):
        await heard(ChaosStorage(below), 1)
    below.said.put_nowait(None)
    assert [str(one) async for one in ChaosStorage(below).changes()] == ["<Gap>"]


async def test_whoever_stops_listening_leaves_nothing_behind() -> None:
    tasks = asyncio.all_tasks()
    below = Telling()
    chaos = ChaosStorage(below)
    changes = chaos.changes()
    assert isinstance(await anext(changes), Gap)
    await changes.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert (asyncio.all_tasks(), below.closed) == (tasks, 1)
    chaos.disconnect()
    chaos.reconnect()


async def test_a_storage_that_cannot_tell_says_so() -> None:
    with pytest.raises(Unsupported):
        ChaosStorage(MemoryStorage()).changes()

"""The story of a failing schedule, line by line."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gecaso.testing import ScheduleFailed, choose, explore

HERE = "test_story.py"


def story_of(scenario: Any, **options: Any) -> str:
    with pytest.raises(ScheduleFailed) as caught:
        explore(scenario, **options)
    return caught.value.story


def line_of(text: str) -> int:
    """Return the number of the first line of this module that has a text."""
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


async def stale() -> None:
    store: dict[str, int] = {}
    database = {"k": 1}

    async def read() -> None:
        value = database["k"]
        await asyncio.sleep(0)  # reader
        store["k"] = value

    async def write() -> None:
        database["k"] = 2
        await asyncio.sleep(0)  # writer
        store.pop("k", None)

    await asyncio.gather(read(), write())  # both
    assert store.get("k") != 1, "a stale value is left"


GOLDEN = """\
A line is a turn of a task: where it goes on after its await, until it waits again.
* marks what is not first come, first served. Times are virtual seconds.
The lines are those of test_story.py.

  step     time   stale            read             write
     1    0.000   {stale:>3}  async def stale() -> None:
     2    0.000                    {read:>3}  async def read() -> None:
     3    0.000                                     {write:>3}  async def write() -> None:
*    4    0.000                                     {writer:>3}  await asyncio.sleep(0)  # writer
                                                    returns
     5    0.000                    {reader:>3}  await asyncio.sleep(0)  # reader
                                   returns
     8    0.000   {both:>3}  await asyncio.gather(read(), write())  # both
                  raises AssertionError: a stale value is left"""


def test_the_story_has_a_line_for_each_turn_and_a_column_for_each_task() -> None:
    golden = GOLDEN.format(
        stale=line_of("async def stale"),
        read=line_of("async def read"),
        write=line_of("async def write"),
        reader=line_of("# reader"),
        writer=line_of("# writer"),
        both=line_of("# both"),
    )
    assert story_of(stale) == golden
    assert max(len(line) for line in golden.splitlines()) <= 100


def test_tasks_are_told_apart_by_their_names() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    async def scenario() -> None:
        tasks = [asyncio.create_task(work(), name=name) for name in ("first", "second", None)]
        await asyncio.gather(*tasks, work(), work())
        raise LookupError("of\nmany lines")

    story = story_of(scenario)
    header = story.partition("step")[2].partition("0.000")[0]
    names = ["scenario", "first", "second", "work", "work 2", "work 3"]
    assert [header.find(f" {name}") >= 0 for name in names] == [True] * 6
    assert story.endswith("raises LookupError: of")


def test_a_turn_goes_on_in_the_users_own_code_not_in_a_library() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(1):
            await asyncio.wait_for(asyncio.sleep(0.5), 1)  # goes on here
        raise LookupError

    assert f"{line_of('# goes on here')}  await asyncio.wait_for" in story_of(scenario)


def test_timers_functions_and_connections_have_their_lines() -> None:
    def function() -> None:
        """Run in an executor."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.5, partial(function))
        await asyncio.to_thread(function)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(5)
            writer.close()

        server = await asyncio.start_server(serve, None, 7000)
        reader, writer = await asyncio.open_connection("localhost", 7000)
        writer.write(b"five!")
        await reader.read()
        await asyncio.sleep(1)
        server.close()
        writer.close()
        assert choose(2) == 5

    story = story_of(scenario)
    assert "5 bytes for StreamReaderProtocol at ('127.0.0.1', 7000)" in story
    assert "the end for StreamReaderProtocol" in story
    assert "   0.500" in story
    assert "function()" in story
    assert "choose(2) is 0" in story


def test_a_cancelled_task_is_told_of() -> None:
    async def linger() -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        task = asyncio.create_task(linger())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait((task,))
        raise LookupError

    assert "is cancelled" in story_of(scenario)


def test_a_long_story_is_cut_in_the_middle_and_no_line_is_too_wide() -> None:
    async def work() -> None:
        for _ in range(40):
            await asyncio.sleep(0)  # a line that is much too long for the column it has to stand in

    async def scenario() -> None:
        await asyncio.gather(*[work() for _ in range(12)])
        raise LookupError

    lines = story_of(scenario).splitlines()
    assert any("turns left out" in line for line in lines)
    assert len(lines) < 150
    assert max(map(len, lines)) == 100
    assert lines[-1].endswith("raises LookupError:")


def test_what_waits_in_a_deadlock_is_in_the_message() -> None:
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()  # for nobody

    with pytest.raises(ScheduleFailed, match=f"{HERE}:{line_of('# for nobody')}"):
        explore(wait_for_ever)

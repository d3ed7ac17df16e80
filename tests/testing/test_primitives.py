"""Correct programs over the primitives of asyncio and anyio pass in every order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from gecaso.testing import explore

Scenario = Callable[[], Coroutine[Any, Any, object]]


async def turn() -> None:
    await asyncio.sleep(0)


async def lock() -> None:
    held, most = 0, 0
    mutex = asyncio.Lock()

    async def work() -> None:
        nonlocal held, most
        async with mutex:
            held += 1
            most = max(most, held)
            try:
                await turn()
            finally:
                held -= 1

    tasks = [asyncio.create_task(work()) for _ in range(4)]
    await turn()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 1
    assert not mutex.locked()


async def event() -> None:
    told = asyncio.Event()
    waiting = [asyncio.create_task(told.wait()) for _ in range(3)]
    await turn()
    told.set()
    assert await asyncio.gather(*waiting) == [True] * 3


async def queue() -> None:
    items: asyncio.Queue[int] = asyncio.Queue(2)
    got: list[int] = []

    async def consume() -> None:
        while True:
            got.append(await items.get())
            await turn()
            items.task_done()

    consumers = [asyncio.create_task(consume()) for _ in range(2)]
    for number in range(6):
        await items.put(number)
    await items.join()
    for consumer in consumers:
        consumer.cancel()
    await asyncio.wait(consumers)
    assert sorted(got) == list(range(6))


async def semaphore() -> None:
    permits, held = asyncio.Semaphore(2), 0

    async def work() -> None:
        nonlocal held
        async with permits:
            held += 1
            assert held <= 2
            await turn()
            held -= 1

    await asyncio.gather(*[work() for _ in range(5)])


async def condition() -> None:
    changed, ready = asyncio.Condition(), 0

    async def wait(number: int) -> None:
        async with changed:
            await changed.wait_for(lambda: ready >= number)

    async def tell() -> None:
        nonlocal ready
        for _ in range(3):
            async with changed:
                ready += 1
                changed.notify_all()

    await asyncio.gather(wait(1), wait(2), wait(3), tell())


async def barrier() -> None:
    gate = asyncio.Barrier(3)
    places = await asyncio.gather(*[gate.wait() for _ in range(3)])
    assert sorted(places) == [0, 1, 2]


async def task_group() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await turn()
            ended.append(name)

    async def fail() -> None:
        await turn()
        raise LookupError

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the group as a whole raises
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            tasks += [group.create_task(work(name)) for name in ("a", "b")]
    assert caught.group_contains(LookupError)
    assert [task.cancelled() for task in tasks] == [True, True]


async def timeout() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await asyncio.Event().wait()
    async with asyncio.timeout(1):
        await turn()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 1)
    assert await asyncio.wait_for(asyncio.sleep(0.5, "done"), 1) == "done"


async def gather() -> None:
    async def fail() -> None:
        await turn()
        raise LookupError

    results = await asyncio.gather(turn(), fail(), return_exceptions=True)
    assert isinstance(results[1], LookupError)
    with pytest.raises(LookupError):
        await asyncio.gather(turn(), fail())


async def shield() -> None:
    inner = asyncio.create_task(asyncio.sleep(1, "kept"))

    async def wait() -> str:
        return await asyncio.shield(inner)

    outer = asyncio.create_task(wait())
    await turn()
    outer.cancel()
    await asyncio.wait((outer,))
    assert outer.cancelled()
    assert await inner == "kept"


async def wait() -> None:
    tasks = [asyncio.create_task(asyncio.sleep(seconds)) for seconds in (1, 2)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert (done, pending) == ({tasks[0]}, {tasks[1]})
    for each in asyncio.as_completed(tasks):
        await each


async def done_callback() -> None:
    """Somebody who waits for a task finds done what was to be done at its end."""
    running: set[asyncio.Task[None]] = set()
    task = asyncio.create_task(turn())
    running.add(task)
    task.add_done_callback(running.discard)
    await task
    assert not running


async def callbacks_in_order() -> None:
    loop = asyncio.get_running_loop()
    seen: list[int] = []
    last = loop.create_future()
    for number in range(4):
        loop.call_soon(seen.append, number)
    loop.call_soon(last.set_result, None)
    other = asyncio.create_task(turn())
    await last
    assert seen == [0, 1, 2, 3]
    await other


async def timers_in_order() -> None:
    loop = asyncio.get_running_loop()
    seen: list[float] = []
    for seconds in (0.003, 0.001, 0.002):
        loop.call_later(seconds, seen.append, seconds)
    for _ in range(5):
        await turn()
    await asyncio.sleep(0.01)
    assert seen == [0.001, 0.002, 0.003]


async def streams() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "localhost", 0) as server:
        host, port = server.sockets[0].getsockname()

        async def ask(number: int) -> None:
            reader, writer = await asyncio.open_connection(host, port)
            for part in (b"%d", b" and ", b"%d\n"):
                writer.write(part % number if b"%" in part else part)
            assert await reader.readline() == b"%d and %d\n" % (number, number)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(ask(1), ask(2))


async def executor() -> None:
    future = asyncio.get_running_loop().run_in_executor(None, int, "7")
    assert await asyncio.to_thread(str, 7) == "7"
    assert await asyncio.to_thread(asyncio._get_running_loop) is None  # as in a thread
    assert await future == 7
    with pytest.raises(ValueError, match="invalid"):
        await asyncio.to_thread(int, "x")


async def anyio_groups() -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        try:
            await anyio.sleep(number)
        finally:
            ended.append(number)

    async with anyio.create_task_group() as group:
        for number in (1, 2, 3):
            group.start_soon(work, number)
        await anyio.sleep(2.5)
        group.cancel_scope.cancel()
    assert sorted(ended) == [1, 2, 3]
    with anyio.move_on_after(1) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        with anyio.fail_after(1):
            await anyio.sleep_forever()


async def anyio_primitives() -> None:
    mutex, permits, told = anyio.Lock(), anyio.Semaphore(1), anyio.Event()
    limiter, changed = anyio.CapacityLimiter(1), anyio.Condition()
    held = 0

    async def work() -> None:
        nonlocal held
        await told.wait()
        for gate in (mutex, permits, limiter):
            async with gate:
                held += 1
                assert held == 1
                await anyio.lowlevel.checkpoint()
                held -= 1

    async def wait() -> None:
        async with changed:
            while not told.is_set():
                await changed.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        group.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        told.set()
        async with changed:
            changed.notify_all()


async def anyio_streams() -> None:
    send, receive = anyio.create_memory_object_stream[int](1)
    got: list[int] = []

    async def produce() -> None:
        async with send:
            for number in range(4):
                await send.send(number)

    async with anyio.create_task_group() as group, receive:
        group.start_soon(produce)
        got += [number async for number in receive]
    assert got == [0, 1, 2, 3]


async def anyio_start() -> None:
    async def serve(*, task_status: anyio.abc.TaskStatus[int]) -> None:
        await anyio.lowlevel.checkpoint()
        task_status.started(7)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        assert await group.start(serve) == 7
        group.cancel_scope.cancel()


SCENARIOS: list[Scenario] = [
    *(lock, event, queue, semaphore, condition, barrier, task_group, timeout, gather, shield),
    *(wait, done_callback, callbacks_in_order, timers_in_order, streams, executor),
    *(anyio_groups, anyio_primitives, anyio_streams, anyio_start),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_correct_program_never_fails(scenario: Scenario) -> None:
    assert explore(scenario, schedules=999).schedules == 999

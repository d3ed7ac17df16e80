"""Plain functions over storages of three methods: through which loop the storage is reached."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gecaso import cached
from tests.doubles import DictStorage, in_thread


def test_a_plain_function_reaches_the_storage_through_the_background_loop() -> None:
    storage = DictStorage()

    @cached(storage)
    def f(x: int) -> int:
        return x

    async def inside() -> int:
        return f(2)

    assert f(1) == 1
    assert asyncio.run(inside()) == 2  # from inside a running loop as well
    assert in_thread(lambda: f(3)) == 3
    assert {thread.name for thread in storage.threads} == {"gecaso"}
    assert len(storage.values) == 3


def test_a_loop_that_runs_elsewhere_is_used_from_there() -> None:
    storage = DictStorage()
    loop = asyncio.new_event_loop()

    def use() -> None:
        @cached(storage, loop=loop)
        def f(x: int) -> int:
            return x

        assert f(1) == f(1) == 1
        loop.call_soon_threadsafe(loop.stop)

    user = threading.Thread(target=use)
    loop.call_soon(user.start)
    loop.run_forever()
    user.join(10)
    loop.close()
    assert storage.threads == {threading.current_thread()}
    assert len(storage.sets) == 1


def test_a_loop_that_is_stopped_is_run_as_in_0_4() -> None:
    storage = DictStorage()
    loop = asyncio.new_event_loop()

    @cached(storage, loop=loop)
    def f(x: int) -> int:
        return x

    assert f(1) == f(1) == 1
    f.invalidate(1)
    assert f.stats.loads == 1
    assert storage.values == {}
    loop.close()


async def test_a_loop_that_runs_here_is_refused_with_advice() -> None:
    @cached(DictStorage(), loop=asyncio.get_running_loop())
    def f(x: int) -> int:
        return x

    with pytest.raises(RuntimeError, match="leave loop= out, or make the function a coroutine"):
        f(1)

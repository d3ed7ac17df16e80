"""What is left behind is found and named; what has ended is not."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from gecaso import MemoryStorage, cached
from gecaso.storages.redis import RedisStorage
from gecaso.testing import Leaked, assert_no_leaks
from tests.scenes import patience


async def forever() -> None:
    await asyncio.Event().wait()


@contextmanager
def leaking(match: str, settle: float = 0.0) -> Generator[pytest.ExceptionInfo[Leaked]]:
    with pytest.raises(Leaked, match=match) as caught, assert_no_leaks(settle=settle):
        yield caught


@asynccontextmanager
async def leaking_in_loop(
    match: str, settle: float = 0.0
) -> AsyncGenerator[pytest.ExceptionInfo[Leaked]]:
    with pytest.raises(Leaked, match=match) as caught:
        async with assert_no_leaks(settle=settle):
            yield caught


# -- tasks -----------------------------------------------------------------------------------------


async def test_a_task_left_behind_is_named() -> None:
    async with leaking_in_loop("left behind", settle=0.01) as caught:
        task = asyncio.create_task(forever(), name="the forgotten")
        await asyncio.sleep(0)
    (leak,) = caught.value.leaks
    assert leak.startswith("task 'the forgotten': forever() at ")
    assert " in forever" in leak
    assert __file__ in leak
    assert str(caught.value) == f"1 left behind:\n  {leak}"
    task.cancel()


async def test_a_task_of_a_plain_block_is_found_too() -> None:
    with leaking("task 'the forgotten'"):
        task = asyncio.create_task(forever(), name="the forgotten")
    task.cancel()


async def test_tasks_that_end_in_time_are_fine() -> None:
    async with assert_no_leaks():
        tasks = [asyncio.create_task(asyncio.sleep(0.02)) for _ in range(3)]
        assert len(tasks) == 3


async def test_tasks_from_before_are_fine() -> None:
    task = asyncio.create_task(forever())
    async with assert_no_leaks():
        await asyncio.sleep(0)
    with assert_no_leaks():
        pass
    task.cancel()


async def test_in_debug_mode_it_is_told_where_a_task_was_made() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    try:
        async with leaking_in_loop(rf", made at {__file__}:\d+$"):
            task = asyncio.create_task(forever())
    finally:
        loop.set_debug(False)
    task.cancel()


def test_around_a_run_nothing_is_left() -> None:
    with assert_no_leaks():
        asyncio.run(asyncio.sleep(0))


@pytest.mark.filterwarnings("ignore")
def test_the_tasks_of_a_loop_that_was_not_ended_are_found() -> None:
    loop = asyncio.new_event_loop()
    with leaking("task 'the forgotten'"):
        task = loop.create_task(forever(), name="the forgotten")
        loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_loop_left_open_is_found_by_its_descriptors() -> None:
    with leaking("left behind", settle=0.0) as caught:
        loop = asyncio.new_event_loop()
    loop.close()
    assert len(caught.value.leaks) >= 3


# -- threads ---------------------------------------------------------------------------------------


def test_a_thread_left_behind_is_named() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="the forgotten", daemon=True)
    with leaking("left behind", settle=0.01) as caught:
        thread.start()
    go.set()
    thread.join()
    (leak,) = caught.value.leaks
    assert leak.startswith("thread 'the forgotten' (daemon)")


def test_it_is_told_where_a_thread_is() -> None:
    here, go = threading.Event(), threading.Event()

    def wait_in_here() -> None:
        here.set()
        go.wait()

    thread = threading.Thread(target=wait_in_here, name="waiter")
    with leaking(r"thread 'waiter' at .*test_leaks.py:\d+ in wait_in_here"):
        thread.start()
        assert here.wait(10)
    go.set()
    thread.join()


def test_a_thread_that_ends_in_time_is_fine() -> None:
    with assert_no_leaks():
        threading.Thread(target=time.sleep, args=(0.02,)).start()


# -- sockets and other descriptors -----------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_socket_left_open_is_named_by_its_peer(listener: socket.socket) -> None:
    with leaking("left behind", settle=0.0) as caught:
        client = socket.create_connection(listener.getsockname())
    (leak,) = caught.value.leaks
    assert leak.startswith(f"socket to {listener.getsockname()!r} from ")
    client.close()


def test_a_socket_that_is_bound_to_nothing_is_found() -> None:
    with leaking("socket from"):
        one = socket.socket()
    one.close()


def test_a_socket_that_was_closed_is_fine(listener: socket.socket) -> None:
    with assert_no_leaks():
        socket.create_connection(listener.getsockname()).close()


def test_a_descriptor_left_open_is_named() -> None:
    with leaking(r"2 left behind:\n  descriptor \d+: pipe.*\n  .*pipe"):
        pair = os.pipe()
    for one in pair:
        os.close(one)


def test_without_proc_descriptors_are_found_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any) -> Any:
        raise FileNotFoundError

    with tempfile.TemporaryFile() as file:
        monkeypatch.setattr("os.listdir", missing)
        monkeypatch.setattr("os.readlink", missing)
        with assert_no_leaks(settle=0.0):
            file.write(b"open before")
        with leaking(r"descriptor \d+: pipe \[\d+\]"):
            pair = os.pipe()
        for one in pair:
            os.close(one)


def test_a_number_that_stands_for_something_else_now_is_new() -> None:
    first = os.open(os.devnull, os.O_RDONLY)
    with leaking(rf"descriptor {first}: "):
        os.close(first)
        pair = os.pipe()
        assert first in pair
    for one in pair:
        os.close(one)


# -- what is said ----------------------------------------------------------------------------------


def test_a_resource_warning_is_a_leak_whatever_the_filters_say(listener: socket.socket) -> None:
    for action in ("ignore", "error", "default"):
        with warnings.catch_warnings():
            warnings.simplefilter(action, ResourceWarning)
            with leaking("ResourceWarning: unclosed <socket"):
                client = socket.create_connection(listener.getsockname())
                del client


def test_other_warnings_go_where_they_went() -> None:
    with pytest.warns(UserWarning, match="as before"), assert_no_leaks():
        warnings.warn("as before", UserWarning, stacklevel=1)


async def failing() -> None:
    raise LookupError("nobody looks")


def test_an_exception_that_was_never_retrieved_is_a_leak() -> None:
    async def main() -> None:
        task = asyncio.create_task(failing())
        await asyncio.wait([task])

    with leaking(r"never retrieved.*LookupError\('nobody looks'\)"):
        asyncio.run(main())


async def test_within_a_loop_too() -> None:
    async with leaking_in_loop(r"never retrieved.*LookupError\('nobody looks'\)"):
        task = asyncio.create_task(failing())
        await asyncio.wait([task])
        del task


async def test_other_errors_of_the_loop_go_where_they_went() -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    seen: list[str] = []
    loop.set_exception_handler(lambda loop, context: seen.append(context["message"]))
    handler = loop.get_exception_handler()
    async with assert_no_leaks():
        loop.call_exception_handler({"message": "something else"})
    assert seen == ["something else"]
    assert loop.get_exception_handler() is handler
    loop.set_exception_handler(before)


class Sore:
    def __del__(self) -> None:
        raise ValueError("too late")


def test_what_cannot_be_raised_is_a_leak() -> None:
    hook = sys.unraisablehook
    with leaking(r"Sore.__del__.*ValueError\('too late'\)"):
        Sore()
    assert sys.unraisablehook is hook


def test_what_lay_about_before_is_not_held_against_the_block() -> None:
    cycle: list[Any] = [socket.socket()]
    cycle.append(cycle)
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del cycle
            with assert_no_leaks():
                pass
    finally:
        gc.enable()


class Tidy:
    """Closes what it has when it goes; is a part of a circle."""

    def __init__(self) -> None:
        self.pair = os.pipe()
        self.me = self

    def __del__(self) -> None:
        for one in self.pair:
            os.close(one)


def test_what_only_waits_for_the_garbage_collector_is_fine() -> None:
    gc.disable()
    try:
        with assert_no_leaks(settle=0.05):
            Tidy()
    finally:
        gc.enable()


def test_the_error_of_the_block_itself_is_raised() -> None:
    def block() -> None:
        with assert_no_leaks():
            threading.Thread(target=time.sleep, args=(0.05,)).start()
            raise LookupError("nobody looks")

    with pytest.raises(LookupError, match="nobody looks"):
        block()


# -- gecaso ----------------------------------------------------------------------------------------


def test_a_cached_function_over_redis_leaves_nothing_behind(redis_url: str) -> None:
    storage = RedisStorage(redis_url)

    @cached(storage, ttl=60)
    async def double(x: int) -> int:
        return 2 * x

    async def main() -> None:
        async with patience():
            assert await asyncio.gather(*[double(n % 5) for n in range(50)])

    with assert_no_leaks():
        asyncio.run(main())  # no aclose: connections end with their loop


async def test_in_memory_too() -> None:
    @cached(MemoryStorage(), ttl=60)
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    async with assert_no_leaks():
        assert await asyncio.gather(*[double(n % 5) for n in range(50)])
        cancelled = asyncio.create_task(double(77))
        await asyncio.sleep(0)
        cancelled.cancel()

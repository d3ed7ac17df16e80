"""One failure, many callers: each has an exception of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import threading
import traceback
import weakref
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gecaso import Cache, GecasoError, MemoryStorage, StorageError, UnkeyableArgument, cached
from gecaso.entry import Entry
from gecaso.failure import faithful_copy
from gecaso.keys import Key, as_key
from tests.scenes import Distant, Truth, patience


class Plain(Exception):
    pass


class Fussy(Exception):
    """Its arguments are not those that it passes on."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class Uncopyable(Exception):
    def __copy__(self) -> Any:
        raise TypeError("no copies")

    __reduce_ex__ = __copy__  # type: ignore[assignment]  # refuses too


def raised(error: BaseException) -> BaseException:
    try:
        try:
            raise KeyError("context")
        except KeyError as cause:
            raise error from cause
    except BaseException as caught:  # noqa: BLE001 - any kind
        return caught


def errors() -> list[BaseException]:
    return [
        Plain("a", 1),
        Fussy(404, reason="gone"),
        Slotted(7),
        KeyError("k"),
        OSError(2, "no file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        json.JSONDecodeError("bad", "doc", 1),
        subprocess.CalledProcessError(1, ["cmd"], b"out"),
        UnkeyableArgument("no key", argument="x"),
        ExceptionGroup("group", [ValueError(1)]),
        StopAsyncIteration(3),
    ]


@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
def test_a_copy_is_like_the_error(error: BaseException) -> None:
    caught = raised(error)
    caught.add_note("a note")
    other = faithful_copy(caught)
    assert other is not caught
    assert type(other) is type(caught)
    assert (str(other), other.args) == (str(caught), caught.args)
    mine = {name: value for name, value in vars(other).items() if name != "__notes__"}
    assert mine == {name: value for name, value in vars(caught).items() if name != "__notes__"}
    assert getattr(other, "code", None) == getattr(caught, "code", None)
    assert other.__cause__ is caught.__cause__
    assert other.__notes__ == ["a note"]
    assert traceback.format_tb(other.__traceback__) == traceback.format_tb(caught.__traceback__)
    other.add_note("one more")
    assert caught.__notes__ == ["a note"]


def test_what_cannot_be_copied_is_the_error_itself() -> None:
    error = Uncopyable("x")
    assert faithful_copy(error) is error


@pytest.mark.every_loop
async def test_each_waiter_has_an_exception_of_its_own() -> None:
    gate = asyncio.Event()

    @cached(MemoryStorage())
    async def f() -> None:
        await gate.wait()
        raise Fussy(1, reason="load")

    async def caller(number: int) -> Fussy:
        try:
            await f()
        except Fussy as error:
            error.add_note(f"caller {number}")
            return error
        raise AssertionError("no error")

    tasks = [asyncio.create_task(caller(number)) for number in range(5)]
    await asyncio.sleep(0)
    gate.set()
    caught = await asyncio.gather(*tasks)
    assert len({id(error) for error in caught}) == 5
    assert {error.reason for error in caught} == {"load"}
    for number, error in enumerate(caught):
        assert error.__notes__ == [f"caller {number}"]
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names.count("caller") == 1
        assert names[-1] == "f"
    assert f.stats.loads == f.stats.errors == 1


def test_each_waiting_thread_has_an_exception_of_its_own() -> None:
    gate, waiting = threading.Event(), threading.Semaphore(0)

    @cached(MemoryStorage())
    def f() -> None:
        assert gate.wait(10)
        raise Plain("load")

    def caller(_: int) -> Plain:
        waiting.release()
        try:
            f()
        except Plain as error:
            return error
        raise AssertionError("no error")

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(caller, number) for number in range(4)]
        while f.stats.joined < 3:
            threading.Event().wait(0.001)
        gate.set()
        caught = [future.result(10) for future in futures]
    assert len({id(error) for error in caught}) == 4
    assert f.stats.loads == 1


@pytest.mark.smoke
async def test_errors_are_not_cached() -> None:
    fails = True

    @cached(MemoryStorage(), ttl=60)
    async def f(x: int) -> int:
        if fails:
            raise Plain(x)
        return x

    @cached(MemoryStorage(), ttl=60)
    def g(x: int) -> int:
        if fails:
            raise Plain(x)
        return x

    for _ in range(2):
        with pytest.raises(Plain):
            await f(1)
        with pytest.raises(Plain):
            g(1)
    assert (f.stats.loads, f.stats.errors, g.stats.loads) == (2, 2, 2)
    fails = False
    assert await f(1) == await f(1) == g(1) == g(1) == 1
    assert (f.stats.loads, g.stats.loads) == (3, 3)


@pytest.mark.parametrize(
    "error", [StopIteration(3), GeneratorExit(), KeyboardInterrupt(), SystemExit()], ids=repr
)
def test_a_plain_function_may_raise_what_it_likes(error: BaseException) -> None:
    @cached(MemoryStorage())
    def f(fails: bool) -> int:
        if fails:
            raise error
        return 1

    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            f(True)
        assert caught.value.args == error.args
    assert f(False) == 1


def test_an_interrupt_is_for_the_thread_that_it_hit() -> None:
    started, go = threading.Event(), threading.Event()

    @cached(MemoryStorage())
    def f() -> str:
        if not started.is_set():
            started.set()
            assert go.wait(10)
            raise KeyboardInterrupt
        return "loaded"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(f)
        assert started.wait(10)
        second = pool.submit(f)
        while f.stats.joined < 1:
            threading.Event().wait(0.001)
        go.set()
        with pytest.raises(KeyboardInterrupt):
            first.result(10)
        assert second.exception(10) is None
        assert second.result(10) == "loaded"


async def test_an_error_while_a_value_is_stored_leaves_the_key_free() -> None:
    storage = MemoryStorage(maxbytes=10**6)

    class Weightless:
        def __sizeof__(self) -> int:
            raise RuntimeError("no size")

    @cached(storage)
    async def f() -> Weightless:
        return Weightless()

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no size"):
            async with patience():
                await f()
    assert len(storage.leases) == 0


async def test_an_exception_is_let_go_of_without_the_collector() -> None:
    seen = list[weakref.ref[Plain]]()

    @cached(MemoryStorage())
    async def f() -> None:
        error = Plain()
        seen.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    gc.disable()
    try:
        with contextlib.suppress(Plain):
            await f()
        await asyncio.sleep(0)  # the task of the load ends
        assert seen[0]() is None
    finally:
        gc.enable()


async def test_a_failure_of_the_storage_is_let_go_of_without_the_collector() -> None:
    class Down(Distant):
        def lookup(self, key: Key) -> Awaitable[Entry | None]:
            error = StorageError("down")
            seen.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

    seen = list[weakref.ref[StorageError]]()

    @cached(Down())
    async def f() -> int:
        return 1

    gc.disable()
    try:
        assert await f() == 1
        assert [error() for error in seen] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [MemoryStorage, Distant])
async def test_an_error_of_a_load_without_a_lease_is_not_for_who_joins_later(make: Any) -> None:
    storage = make()
    patient, impatient = Cache(storage), Cache(storage, wait_timeout=0.01)
    truth = Truth()
    never = asyncio.create_task(patient.get_or_create("k", fly_for_ever))
    gate = truth.close_gate()
    truth.error = Plain("old")
    await asyncio.sleep(0)
    early = asyncio.create_task(impatient.get_or_create("k", lambda: truth.load(1)))
    await truth.asked(1)
    truth.error = None
    await storage.discard([as_key("k")])  # as another process does
    late = asyncio.create_task(impatient.get_or_create("k", lambda: truth.load(1)))
    await asyncio.sleep(0)
    gate.set()
    async with patience():
        with pytest.raises(Plain, match="old"):
            await early
        assert await late == "1 in version 0"
    never.cancel()


async def fly_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_coroutine_may_be_cancelled_from_inside() -> None:
    @cached(MemoryStorage())
    async def f() -> None:
        raise asyncio.CancelledError("its own")

    for _ in range(2):
        with pytest.raises(asyncio.CancelledError):
            await f()
    assert f.stats.loads == 2


def test_all_errors_have_one_root() -> None:
    assert issubclass(UnkeyableArgument, GecasoError)

"""Closing a storage, using it afterwards, and what is left behind when nobody closes it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress

from gecaso.base import BaseStorage
from gecaso.testing.contract_stage import ContractBase, Stage, run, scene, skip, the

__all__ = ["Closing"]


class Closing(ContractBase):
    """`aclose`, `async with`, `ping`, and nothing left behind."""

    @scene
    async def test_a_sign_of_life(self, on: Stage) -> None:
        await on.entries.ping()
        await on.other.ping()

    @scene
    async def test_it_may_be_closed_twice_and_unused(self, on: Stage) -> None:
        await on.storage.aclose()
        await on.set("a", 1)
        await on.storage.aclose()
        await on.storage.aclose()

    @scene
    async def test_it_may_be_used_after_it_was_closed(self, on: Stage) -> None:
        await on.storage.aclose()
        for number in range(3):
            await on.set(("after", number), number)
            await on.holds(("after", number), number)
            lease = await on.lease("leased")
            the(await on.commit(lease, number), "a lease could not be committed after aclose()")
            await on.storage.aclose()
            await on.storage.aclose()

    @scene
    async def test_it_is_closed_at_the_end_of_a_block(self, on: Stage) -> None:
        async with on.storage as entered:
            the(entered is on.storage, "`async with storage as s` gives another object")
            await on.set("a", 1)
            await on.holds("a", 1)
        await on.set("a", 2)
        await on.holds("a", 2)

    def test_nothing_is_left_behind_when_it_is_closed(self, storage: BaseStorage) -> None:
        on = Stage(self, storage)
        _leaves_nothing(lambda: run(_use(on, closed=True)), "after aclose()")

    def test_nothing_is_left_behind_when_the_loop_ends(self, storage: BaseStorage) -> None:
        on = Stage(self, storage)
        on.needs_loops()
        try:
            _leaves_nothing(lambda: run(_use(on, closed=False)), "after the loop has ended")
        finally:
            run(on.leave())

    def test_nothing_is_left_behind_when_it_is_forgotten(self, storage: BaseStorage) -> None:
        on = Stage(self, storage)
        on.needs_loops()
        if on.second is on.storage:
            skip("another() is not there to make a storage that can be forgotten")

        def use() -> None:
            run(_use(Stage(self, self.another(storage)), closed=False))

        try:
            _leaves_nothing(use, "after the storage was forgotten")
        finally:
            run(on.leave())


async def _use(on: Stage, *, closed: bool) -> None:
    await on.set("a", 1)
    await on.holds("a", 1)
    lease = await on.lease("b")
    busy = await on.busy("b")
    await on.entries.wait(busy, 0.005)
    await on.entries.release([lease])
    await asyncio.gather(*[on.has(("many", number)) for number in range(20)])
    if closed:
        await on.leave()


def _leaves_nothing(use: Callable[[], None], when: str) -> None:
    """Fail if each use leaves descriptors, threads, or an object that was not closed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use()  # what is kept for good is there from the first use on
        gc.collect()
        descriptors, threads = _descriptors(), set(threading.enumerate())
        for _ in range(3):
            use()
        gc.collect()
    told = [str(one.message) for one in caught if issubclass(one.category, ResourceWarning)]
    the(not told, f"{when} there is a ResourceWarning: {told}")
    more = [one.name for one in threading.enumerate() if one not in threads]
    the(not more, f"{when} these threads are left: {more}")
    left = _descriptors() - descriptors
    the(left <= 0, f"{when} {left} more descriptors are open (sockets, files)")


def _descriptors() -> int:
    """Return the number of open descriptors, where the system can tell."""
    with suppress(OSError):
        return len(os.listdir("/dev/fd"))
    return 0

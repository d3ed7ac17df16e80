"""Event loops, threads, and callers that leave in the middle of an operation."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from gecaso.base import BaseStorage
from gecaso.entry import Lease, new_token
from gecaso.testing.contract_stage import LONG, ContractBase, Stage, alike, run, scene, the

__all__ = ["Loops"]

# How long after its start an operation is cancelled: in steps of the loop, or in seconds.
MOMENTS = (0, 1, 2, 3, 5, 8, 0.0002, 0.0005, 0.001, 0.002)


class Loops(ContractBase):
    """A storage in several loops and threads; operations that are broken off."""

    def test_one_loop_after_another_may_use_it(self, storage: BaseStorage) -> None:
        on = Stage(self, storage)
        on.needs_loops()

        async def use(number: int) -> None:
            if number:
                await on.holds("a", number - 1)
            await on.set("a", number)
            lease = await on.lease(("loop", number))
            the(await on.commit(lease, number), "a lease could not be committed in a new loop")
            await on.holds(("loop", number), number)

        try:
            for number in range(3):
                run(use(number))  # nobody closes the storage when the loop ends
        finally:
            run(on.leave())

    def test_two_loops_in_two_threads_may_use_it_at_once(self, storage: BaseStorage) -> None:
        on = Stage(self, storage)
        on.needs_loops()
        both = threading.Barrier(2, timeout=self.patience)  # is broken by who fails

        async def use(name: str) -> list[bool]:
            won: list[bool] = []
            for number in range(40):
                await on.set((name, number % 7), [name, number])
                await on.holds((name, number % 7), [name, number])
                if number % 10 == 0:
                    await asyncio.to_thread(both.wait)
                got = await on.ask(("both", number))
                won.append(isinstance(got, Lease))
            await asyncio.to_thread(both.wait)
            return won

        try:
            first, second = _in_threads(use, ("x", "y"), both, self.patience)
        finally:
            run(on.leave())
        holders = [one + other for one, other in zip(first, second, strict=True)]
        the(holders == [1] * 40, "the lease of a key was given to two loops, or to none")

    def test_a_plain_function_may_be_cached_in_it(self, storage: BaseStorage) -> None:
        on = Stage(self, storage)
        on.needs_loops()
        from gecaso.decorator import cached

        loads: list[int] = []

        @cached(storage, namespace=new_token().hex())
        def load(i: int) -> str:
            loads.append(i)
            return f"loaded {i}"

        try:
            got = [load(i) for i in (1, 2, 1, 2)]
            the(got == ["loaded 1", "loaded 2"] * 2, f"a plain function returned {got}")
            the(len(loads) == (2 if on.stores else 4), f"two keys were loaded {len(loads)} times")
            load.invalidate(1)
            load.invalidate(2)
        finally:
            run(on.leave())

    # --- cancellation -------------------------------------------------------------------------

    @scene
    async def test_an_operation_that_is_cancelled_harms_no_other(self, on: Stage) -> None:
        names = [("kept", number) for number in range(5)]
        await on.entries.store({on.key(name): on.entry(list(name)) for name in names})
        for moment in MOMENTS:
            for what, operation in self._operations(on).items():
                await _cancelled(operation, moment, what)
                # What an operation left behind would be read as the answer to the next one.
                found = await on.entries.fetch([on.key(name) for name in names[::-1]])
                wanted = {on.key(name): list(name) for name in names} if on.stores else {}
                got = {key: entry.value for key, entry in found.items()}
                the(alike(got, wanted), f"after a cancelled {what} fetch() gave {got}")
                await on.holds(names[moment < 1], list(names[moment < 1]))
        if await on.has("cancelled"):
            await on.holds("cancelled", "set")
        await on.entries.discard([on.key("cancelled"), on.key("leased")])
        await on.misses("cancelled")
        the(await on.commit(await on.lease("leased"), "new"), "a lease could not be taken anew")

    def _operations(self, on: Stage) -> dict[str, Callable[[], Awaitable[object]]]:
        async def load() -> None:
            got = (await on.entries.lease([on.key("leased")], LONG))[on.key("leased")]
            if isinstance(got, Lease):
                await on.entries.renew([got], LONG)
                await on.commit(got, "loaded")

        async def get() -> None:
            with contextlib.suppress(KeyError):
                await on.get("cancelled")

        some = [on.key("cancelled"), on.key(("kept", 1)), on.key("absent")]
        return {
            "get": get,
            "set": lambda: on.set("cancelled", "set"),
            "fetch": lambda: on.entries.fetch(some),
            "load": load,
            "discard": lambda: on.entries.discard([on.key("leased"), on.key("absent")]),
            "evict": lambda: on.entries.evict([on.key("leased")]),
        }

    @scene
    async def test_a_caller_that_leaves_takes_no_other_along(self, on: Stage) -> None:
        await on.set("a", "value")
        for moment in MOMENTS[:6]:
            leaving = asyncio.create_task(on.has("a"))
            staying = [asyncio.create_task(on.has("a")) for _ in range(3)]
            for _ in range(int(moment)):
                await asyncio.sleep(0)
            leaving.cancel()
            done = await asyncio.gather(*staying, return_exceptions=True)
            the(done == [on.stores] * 3, f"when one of four left, the others got {done}")
            await asyncio.wait([leaving])


async def _cancelled(operation: Callable[[], Awaitable[object]], moment: float, what: str) -> None:
    """Start an operation, and cancel it after a moment."""

    async def start() -> None:
        await operation()

    task = asyncio.create_task(start())
    if isinstance(moment, int):
        for _ in range(moment):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(moment)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
    except Exception as error:
        raise AssertionError(f"a cancelled {what} raised {error!r}") from error


def _in_threads(
    use: Callable[[str], Coroutine[Any, Any, list[bool]]],
    names: tuple[str, ...],
    meeting: threading.Barrier,
    patience: float,
) -> list[list[bool]]:
    """Run a coroutine in as many threads as there are names, each with a loop of its own."""
    results: dict[str, list[bool]] = {}
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            results[name] = run(use(name))
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            errors.append(error)
            meeting.abort()

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience)
    if errors:
        raise errors[0]
    the(len(results) == len(names), "a thread that uses the storage hangs")
    return [results[name] for name in names]

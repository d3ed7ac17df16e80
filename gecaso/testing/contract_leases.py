"""Leases: one holder at a time, for as long as it renews."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gecaso.base import EntryStorage
from gecaso.entry import Lease
from gecaso.errors import WaitTimeout
from gecaso.testing.contract_stage import LONG, ContractBase, Stage, raises, scene, skip, the

__all__ = ["Leases"]


class Leases(ContractBase):
    """Taking, renewing, releasing leases, and waiting for them."""

    @scene
    async def test_a_lease_has_one_holder(self, on: Stage) -> None:
        lease = await on.lease("a")
        the(lease.key == on.key("a"), "Lease.key is not the key that was asked for")
        the(lease.seen is None, "Lease.seen is something, where nothing is stored")
        left = lease.until - on.entries.now()
        the(LONG - 5 < left <= LONG + self.resolution, f"a lease of {LONG} s has {left} s left")
        for by in on.entries, on.other:
            busy = await on.busy("a", by=by)
            the(busy.token == lease.token, "Busy.token is not that of the lease in the way")
            the(0 <= busy.retry_in <= LONG + 1, f"Busy.retry_in is {busy.retry_in} s")
            the(busy.key == on.key("a"), "Busy.key is not the key that was asked for")
            the(busy.stale is None, "Busy.stale is something, where nothing is stored")

    @scene
    async def test_each_key_has_a_lease_of_its_own(self, on: Stage) -> None:
        mine = await on.lease("b")
        keys = [on.key(name) for name in "abc"]
        got = await on.other.lease(keys, LONG)
        the(set(got) == set(keys), "lease() answers for each key, and for no other")
        free = [isinstance(got[key], Lease) for key in keys]
        the(free == [True, False, True], f"the second of three is taken, and lease() gave {got}")
        the(got[keys[1]].token == mine.token, "Busy.token is not that of the lease in the way")

    @scene
    async def test_of_a_hundred_at_once_one_gets_the_lease(self, on: Stage) -> None:
        asking = [on.ask("a", by=(on.entries, on.other)[n % 2]) for n in range(100)]
        got = await asyncio.gather(*asking)
        leases = [one for one in got if isinstance(one, Lease)]
        the(len(leases) == 1, f"{len(leases)} of 100 got the lease of one key")
        the({one.token for one in got} == {leases[0].token}, "Busy.token names another lease")

    @scene
    async def test_a_lease_is_no_value_and_hides_none(self, on: Stage) -> None:
        await on.set("b", "value")
        await on.lease("a")
        await on.lease("b")
        await on.misses("a")
        the(await on.fetched("a") is None, "fetch() gave an entry for what is only leased")
        the(await on.entries.lookup(on.key("a")) is None, "lookup() gave what is only leased")
        wanted = {on.name("b"): "value"} if on.stores else {}
        got = await on.get_many("a", "b")
        the(got == wanted, f"while both keys are leased get_many() gave {got}")
        await on.holds("b", "value")

    @scene
    async def test_a_lease_sees_what_is_stored_when_it_was_taken(self, on: Stage) -> None:
        the(await on.entries.lookup(on.key("a")) is None, "lookup() gave what was never stored")
        await on.other.store({on.key("a"): on.entry("by another")})
        lease = await on.lease("a")
        busy = await on.busy("a", by=on.other)
        for what, entry in (("Lease.seen", lease.seen), ("Busy.stale", busy.stale)):
            if on.stores and not (on.three and what == "Busy.stale"):  # which would cost a `get`
                the(entry is not None, f"{what} is None, where a value is stored")
            the(entry is None or entry.value == "by another", f"{what} is {entry}")
        the(await on.commit(lease, "new"), "a lease beside a value could not be committed")
        await on.holds("a", "new")

    @scene
    async def test_a_commit_stores_and_ends_the_lease(self, on: Stage) -> None:
        names = [("many", number) for number in range(20)]
        got = await on.entries.lease(map(on.key, names), LONG)
        leases = [one for one in got.values() if isinstance(one, Lease)]
        the(len(leases) == 20, "twenty free keys were not all leased")
        entries = {lease: on.entry([number]) for number, lease in enumerate(leases)}
        stored = await on.entries.commit(entries)
        the(stored == set(got), "commit() returns the keys that it stored")
        for number, name in enumerate(names):
            await on.holds(name, [number])
            await on.lease(name, by=on.other)

    @scene
    async def test_a_release_ends_the_lease_and_stores_nothing(self, on: Stage) -> None:
        await on.set("b", "value")
        for name in "a", "b":
            lease = await on.lease(name)
            await on.entries.release([lease])
            taken = await on.lease(name, by=on.other)
            await on.entries.release([lease])
            the((await on.busy(name)).token == taken.token, "a release ended another's lease")
            await on.is_fenced(lease, "after its lease was released")
        await on.misses("a")
        await on.holds("b", "value")

    @scene
    async def test_renew_returns_the_leases_that_are_still_held(self, on: Stage) -> None:
        held, lost, done = [await on.lease(name) for name in "abc"]
        await on.entries.discard([lost.key])
        await on.commit(done, 1)
        kept = await on.entries.renew([held, lost, done], 2 * LONG)
        the(kept == {held.key}, f"one lease of three is still held, and renew() gave {kept}")
        left = held.until - on.entries.now()
        the(left > LONG + 5, f"a lease renewed for {2 * LONG} s has {left} s left")
        await on.lease("b", by=on.other)
        the(await on.entries.renew([lost], LONG) == set(), "a lease was renewed that is another's")

    @scene
    async def test_a_lease_that_is_not_renewed_ends_and_its_holder_is_fenced(
        self, on: Stage
    ) -> None:
        short = self.shortest_lease
        before = on.time()
        old = await on.lease("a", seconds=short)
        kept = await on.lease("b", seconds=short)
        end = on.time() + short + self.resolution
        renewed = before
        while True:
            asked = on.time()
            if asked - renewed < short - self.resolution:
                still = await on.entries.renew([kept], short)
                the(still == {kept.key}, "a lease ended though it was renewed in time")
                renewed = asked
            asked = on.time()
            new = await on.ask("a", by=on.other)
            if isinstance(new, Lease):
                break
            the(asked <= end, f"a lease of {short} s has not ended after {asked - before:.2f} s")
            await on.pass_time(short / 10)
        the(on.time() >= before + short - self.resolution, "a lease ended before its time")
        if on.time() - renewed < short - self.resolution:
            await on.busy("b", by=on.other)
        await self._is_replaced(on, old, new)

    async def _is_replaced(self, on: Stage, old: Lease, new: Lease) -> None:
        """The old holder comes back, late."""
        the(new.token != old.token, "two leases have one token")
        kept = await on.entries.renew([old], LONG)
        the(kept == set(), "a lease was renewed that is another's by now")
        await on.is_fenced(old, "after its lease ended and another took it")
        await on.entries.release([old])
        await on.other.renew([new], LONG)
        the((await on.busy("a")).token == new.token, "the old holder ended the new one's lease")
        the(await on.commit(new, "new", by=on.other), "the new holder could not commit")
        await on.is_fenced(old, "after its lease ended and another committed")
        await on.holds("a", "new")

    # --- waiting ------------------------------------------------------------------------------

    @scene
    async def test_wait_takes_no_longer_than_its_timeout(self, on: Stage) -> None:
        await on.lease("a")
        busy = await on.busy("a", by=on.other)
        took = await _took(on.other.wait(busy, 0.05))
        the(took < self.prompt, f"wait() with a timeout of 0.05 s took {took:.2f} s")

    @scene
    async def test_wait_returns_when_the_lease_goes(self, on: Stage) -> None:
        if not on.entries.notifies:
            skip("the storage does not notify")
        key = on.key("a")
        endings: dict[str, Callable[[Lease], Awaitable[object]]] = {
            "released": lambda lease: on.entries.release([lease]),
            "committed": lambda lease: on.commit(lease, 1),
            "discarded": lambda lease: on.entries.discard([key]),
            "expired": lambda lease: on.entries.discard([key], keep_stale=True),
            "overwritten": lambda lease: on.entries.store({key: on.entry(2)}),
        }
        for how, end in endings.items():
            for pause in (0.0, 0.03):
                lease = await on.lease("a")
                busy = await on.busy("a", by=on.other)
                waiting = asyncio.create_task(_took(on.other.wait(busy, 10)))
                await asyncio.sleep(pause)
                await end(lease)
                took = await waiting
                the(took < self.prompt, f"a waiter was not told that the lease was {how}")

    @scene
    async def test_wait_returns_at_once_if_the_lease_is_gone_already(self, on: Stage) -> None:
        if not on.entries.notifies:
            skip("the storage does not notify")
        lease = await on.lease("a")
        busy = await on.busy("a", by=on.other)
        await on.entries.release([lease])
        took = await _took(on.other.wait(busy, 10))
        the(took < self.prompt, "wait() waited for a lease that is gone")
        await on.lease("a")  # another lease is not the one that was in the way
        took = await _took(on.other.wait(busy, 10))
        the(took < self.prompt, "wait() waited for another lease")

    # --- the lock alone -----------------------------------------------------------------------

    @scene
    async def test_a_lock_lets_one_in_at_a_time(self, on: Stage) -> None:
        inside: set[int] = set()
        seen: list[int] = []

        async def work(number: int, by: EntryStorage) -> None:
            async with by.leased("contract lock", seconds=LONG):
                inside.add(number)
                seen.append(len(inside))
                await asyncio.sleep(0.001)
                inside.discard(number)

        await asyncio.gather(*[work(n, (on.entries, on.other)[n % 2]) for n in range(5)])
        the(seen == [1] * 5, f"so many were in a block that is leased: {seen}")

    @scene
    async def test_a_lock_that_is_not_free_in_time_is_a_wait_timeout(self, on: Stage) -> None:
        await on.set("lock", "value")
        async with on.entries.leased("lock", seconds=LONG):
            with raises(WaitTimeout, otherwise="leased(wait_timeout=0.05) let two in"):
                async with on.other.leased("lock", seconds=LONG, wait_timeout=0.05):
                    pass
            await on.holds("lock", "value")
            await on.lease("lock")  # values, and their leases, are apart
        async with on.other.leased("lock", seconds=LONG, wait_timeout=self.prompt):
            pass


async def _took(waiting: Awaitable[object]) -> float:
    started = time.monotonic()
    await waiting
    return time.monotonic() - started

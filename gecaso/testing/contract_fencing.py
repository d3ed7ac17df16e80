"""Fencing: what was invalidated or written meanwhile is not overwritten by a load from before."""

from __future__ import annotations

import asyncio

from gecaso.entry import Entry, new_token
from gecaso.testing.contract_stage import ContractBase, Stage, scene, the

__all__ = ["Fencing"]


class Fencing(ContractBase):
    """Commits that come too late, one after another and at the same time."""

    @scene
    async def test_a_commit_after_a_discard_stores_nothing(self, on: Stage) -> None:
        await on.set("b", "before")
        for name in "a", "b":  # without and with a value there
            lease = await on.lease(name)
            await on.other.discard([on.key(name)])
            await on.misses(name)
            await on.is_fenced(lease, "after its key was discarded")
            await on.misses(name)

    @scene
    async def test_a_commit_after_a_remove_stores_nothing(self, on: Stage) -> None:
        lease = await on.lease("a")
        await on.entries.remove(on.key("a"))
        await on.is_fenced(lease, "after its key was removed")
        await on.misses("a")

    @scene
    async def test_a_commit_after_a_store_changes_nothing(self, on: Stage) -> None:
        await on.set("b", "before")
        for name in "a", "b":
            lease = await on.lease(name)
            await on.other.store({on.key(name): on.entry("put meanwhile")})
            await on.is_fenced(lease, "after another value was stored")
            await on.holds(name, "put meanwhile")

    @scene
    async def test_a_commit_after_a_set_changes_nothing(self, on: Stage) -> None:
        one, many = await on.lease("a"), await on.lease("b")
        await on.entries.set(on.key("a"), "set meanwhile")
        await on.entries.set_many({on.key("b"): "set meanwhile"})
        for name, lease in (("a", one), ("b", many)):
            await on.is_fenced(lease, "after another value was set")
            await on.holds(name, "set meanwhile")

    @scene
    async def test_a_commit_after_an_expiry_stores_nothing(self, on: Stage) -> None:
        on.needs_times()
        await on.entries.ping()
        now = on.entries.now()
        await on.entries.store({on.key("b"): Entry("old", now, now + 60, now + 99, version=b"1")})
        for name in "a", "b":
            lease = await on.lease(name)
            await on.other.discard([on.key(name)], keep_stale=True)
            await on.is_fenced(lease, "after its key was expired")
            await on.misses(name)

    @scene
    async def test_a_commit_after_a_clear_stores_nothing(self, on: Stage) -> None:
        await on.set("b", "before")
        leases = [await on.lease(name) for name in "ab"]
        await on.clear()
        for lease in leases:
            await on.is_fenced(lease, "after the storage was cleared")
        await on.misses("a", "b")

    @scene
    async def test_a_commit_after_a_store_that_compared_changes_nothing(self, on: Stage) -> None:
        on.needs_times()
        key = on.key("a")
        lease = await on.lease("a")
        stored = await on.other.store({key: on.entry("compared")}, expect={key: None})
        the(stored == {key}, "a lease was taken for a value by store(expect=)")
        await on.is_fenced(lease, "after another value was stored")
        await on.holds("a", "compared")

    @scene
    async def test_a_key_that_was_discarded_can_be_leased_anew_at_once(self, on: Stage) -> None:
        old = await on.lease("a")
        await on.entries.discard([old.key])
        new = await on.lease("a", by=on.other)
        the(new.token != old.token, "two leases have one token")
        await on.is_fenced(old, "after its key was discarded and leased anew")
        the(await on.entries.renew([old], 30) == set(), "a lease was renewed that is another's")
        await on.entries.release([old])
        the((await on.busy("a")).token == new.token, "a release ended another's lease")
        the(await on.commit(new, "new", by=on.other), "the new holder could not commit")
        await on.is_fenced(old, "after another committed")
        await on.holds("a", "new")

    @scene
    async def test_a_lease_commits_once(self, on: Stage) -> None:
        lease = await on.lease("a")
        the(await on.commit(lease, "first"), "a lease that is held could not be committed")
        await on.is_fenced(lease, "twice under one lease")
        await on.holds("a", "first")
        await on.remove("a")
        await on.is_fenced(lease, "under a lease that was committed before")
        await on.misses("a")

    @scene
    async def test_of_many_commits_only_the_fenced_are_not_stored(self, on: Stage) -> None:
        leases = {name: await on.lease(name) for name in "abcd"}
        await on.other.discard([on.key("b")])
        await on.other.store({on.key("d"): on.entry("put")})
        stored = await on.entries.commit(
            {lease: on.entry(f"loaded {name}") for name, lease in leases.items()}
        )
        the(
            stored == {on.key("a"), on.key("c")}, f"two of four were fenced: commit() gave {stored}"
        )
        for name, value in (("a", "loaded a"), ("c", "loaded c"), ("d", "put")):
            await on.holds(name, value)
        await on.misses("b")

    # --- at the same time ---------------------------------------------------------------------

    @scene
    async def test_of_commits_at_once_under_one_lease_one_stores(self, on: Stage) -> None:
        lease = await on.lease("a")
        done = await asyncio.gather(*[on.commit(lease, number) for number in range(10)])
        the(sum(done) == 1, f"{sum(done)} of 10 commits under one lease were accepted")
        await on.holds("a", done.index(True))

    @scene
    async def test_a_discard_and_a_commit_at_once_leave_nothing(self, on: Stage) -> None:
        names = [("race", number) for number in range(30)]
        leases = [await on.lease(name) for name in names]
        for number, (name, lease) in enumerate(zip(names, leases, strict=True)):
            both = [on.commit(lease, "loaded"), on.other.discard([on.key(name)])]
            await asyncio.gather(*both[:: 1 if number % 2 else -1])
        await on.misses(*names)

    @scene
    async def test_a_store_and_a_commit_at_once_leave_what_was_stored(self, on: Stage) -> None:
        names = [("race", number) for number in range(30)]
        leases = [await on.lease(name) for name in names]
        for number, (name, lease) in enumerate(zip(names, leases, strict=True)):
            put = on.other.store({on.key(name): on.entry("put")})
            both = [on.commit(lease, "loaded"), put]
            await asyncio.gather(*both[:: 1 if number % 2 else -1])
        for name in names:
            await on.holds(name, "put")

    @scene
    async def test_a_stale_value_that_is_discarded_during_its_refresh_stays_away(
        self, on: Stage
    ) -> None:
        on.needs_times()
        await on.entries.ping()
        now = on.entries.now()
        old = Entry("old", now - 60, now - 30, now + 3600, version=new_token())
        await on.entries.store({on.key("a"): old})
        refresh = await on.lease("a")
        await on.other.discard([on.key("a")])
        again = await on.lease("a", by=on.other)
        the(again.seen is None, "a lease saw what was discarded before it")
        await on.is_fenced(refresh, "after its key was discarded and leased anew")
        await on.misses("a")
        the(await on.commit(again, "new", by=on.other), "the new holder could not commit")
        await on.holds("a", "new")

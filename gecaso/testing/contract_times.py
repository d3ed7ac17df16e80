"""How long values are there: ttl, stale entries, versions, and what else an entry carries."""

from __future__ import annotations

import asyncio
import datetime as dt
from math import inf
from typing import Any

from gecaso.base import EntryStorage
from gecaso.entry import Entry, Lease, new_token
from gecaso.testing.contract_stage import ContractBase, Stage, scene, skip, the

__all__ = ["Times"]


class Times(ContractBase):
    """Lifetimes, and entries as records."""

    @scene
    async def test_a_value_is_there_for_its_ttl_and_gone_after_it(self, on: Stage) -> None:
        on.needs_ttl()
        unit = max(self.resolution, 0.1)
        ttls: dict[str, float] = {"one": unit, "two": 2 * unit, "three": 3 * unit}
        await on.set("kept", "k")
        await on.set("kept long", "k", ttl=3600)
        await on.set("prolonged", "k", ttl=unit)
        await on.set("prolonged", "k")
        await on.set("three", "v")
        spans: dict[str, tuple[float, float]] = {}
        for name, ttl in ttls.items():
            before = on.time()
            await on.set(name, "v", ttl=ttl)
            spans[name] = (before + ttl - self.resolution, on.time() + ttl + self.resolution)
        end = max(late for _, late in spans.values())
        while on.time() <= end:
            await self._look(on, spans)
            await on.pass_time(unit / 6)
        await self._look(on, spans)
        for name in "kept", "kept long", "prolonged":
            await on.holds(name, "k")
        wanted = {on.name("kept"): "k"} if on.stores else {}
        the(await on.get_many(*ttls, "kept") == wanted, "get_many() gave what is over")

    async def _look(self, on: Stage, spans: dict[str, tuple[float, float]]) -> None:
        for name, (early, late) in spans.items():
            before = on.time()
            there = await on.has(name)
            if on.time() < early and on.stores:
                the(there, f"the value of {name!r} was gone before its ttl was over")
            if before > late:
                the(not there, f"the value of {name!r} was there after its ttl was over")

    @scene
    async def test_a_ttl_may_be_given_in_words(self, on: Stage) -> None:
        if not isinstance(on.storage, EntryStorage) or on.three:
            skip("a storage of three methods gets seconds")
        ttls: list[Any] = [None, 3600, 3600.5, dt.timedelta(hours=1), "1h", inf]
        for number, ttl in enumerate(ttls):
            await on.set(("ttl", number), number, ttl=ttl)
            await on.holds(("ttl", number), number)

    @scene
    async def test_the_clock_goes_on(self, on: Stage) -> None:
        await on.entries.ping()
        readings = [on.entries.now() for _ in range(100)]
        the(readings == sorted(readings), "now() went back")
        earliest, before, started = on.time(), on.entries.now(), on.time()
        await on.pass_time(0.2)
        ended, after, latest = on.time(), on.entries.now(), on.time()
        went, off = after - before, 0.02 + self.resolution
        the(
            ended - started - off < went < latest - earliest + off,
            f"now() went on by {went:.3f} s in {ended - started:.3f} s",
        )

    # --- entries as records -------------------------------------------------------------------

    @scene
    async def test_an_entry_comes_out_as_it_went_in(self, on: Stage) -> None:
        on.needs_times()
        on.needs_storing()
        await on.entries.ping()
        now = on.entries.now()
        given = Entry(
            ["value"],
            now - 5,
            now + 1000,
            now + 2000,
            0.25,
            tags={"tag": b"\0version", "tág": b""},
            params={"color": "blue", "n": 1},
            version=new_token(),
        )
        await on.entries.store({on.key("a"): given})
        got = await on.fetched("a")
        if got is None:
            raise AssertionError("fetch() gave nothing for an entry that was stored")
        for field in ("value", "cost", "kind", "version"):
            one, other = getattr(got, field), getattr(given, field)
            the(one == other, f"Entry.{field} was {other!r} and came out as {one!r}")
        for field in ("tags", "params"):
            one, other = dict(getattr(got, field)), dict(getattr(given, field))
            the(one == other, f"Entry.{field} was {other!r} and came out as {one!r}")
        for field in ("created", "fresh_until", "dead_after"):
            off = getattr(got, field) - getattr(given, field)
            the(abs(off) <= self.resolution, f"Entry.{field} came out {off} s off")

    @scene
    async def test_a_stale_entry_is_fetched_but_not_got(self, on: Stage) -> None:
        on.needs_times()
        await on.entries.ping()
        now = on.entries.now()
        stale = Entry("old", now - 60, now - 30, now + 3600, version=new_token())
        await on.entries.store({on.key("a"): stale})
        await on.misses("a")
        the(await on.get_many("a") == {}, "get_many() gave a stale value")
        the(_value(await on.fetched("a")) == ("old" if on.stores else None), "it was not fetched")
        lease = await on.lease("a")
        the(_value(lease.seen) == ("old" if on.stores else None), "the lease did not see it")
        the(await on.commit(lease, "new"), "a lease beside a stale value could not be committed")
        await on.holds("a", "new")

    @scene
    async def test_a_dead_entry_is_absent(self, on: Stage) -> None:
        on.needs_times()
        await on.entries.ping()
        now = on.entries.now()
        early = max(30.0, 2 * self.resolution)
        dead = Entry("dead", now - 2 * early, now - early, now - early, version=new_token())
        await on.entries.store({on.key("a"): dead})
        await on.misses("a")
        the(await on.fetched("a") is None, "fetch() gave an entry that is dead")
        the((await on.lease("a")).seen is None, "a lease saw an entry that is dead")

    @scene
    async def test_what_is_no_value_is_fetched_but_not_got(self, on: Stage) -> None:
        on.needs_times()
        await on.entries.ping()
        now = on.entries.now()
        for kind in ("error", "uncacheable"):
            mark = Entry(None, now, -inf, now + 60, kind=kind, version=new_token())
            await on.entries.store({on.key(kind): mark})
            await on.misses(kind)
            got = await on.fetched(kind)
            the((got and got.kind) == (kind if on.stores else None), f"Entry.kind {kind!r} is lost")

    # --- expiring, comparing, evicting --------------------------------------------------------

    @scene
    async def test_what_is_expired_is_kept_but_no_longer_fresh(self, on: Stage) -> None:
        on.needs_times()
        await on.entries.ping()
        now = on.entries.now()
        both = Entry("old", now, now + 1000, now + 2000, version=new_token())
        await on.entries.store({on.key("a"): both, on.key("b"): on.entry("fresh or gone")})
        await on.entries.discard(map(on.key, ("a", "b", "absent")), keep_stale=True)
        await on.misses("a", "b", "absent")
        the(_value(await on.fetched("a")) == ("old" if on.stores else None), "it did not stay")
        the(await on.fetched("absent") is None, "expiring made an entry")

    @scene
    async def test_store_with_expect_compares_and_sets(self, on: Stage) -> None:
        on.needs_times()
        on.needs_storing()
        a, b = on.key("a"), on.key("b")
        first, second = on.entry("first"), on.entry("second")
        store = on.entries.store
        the(await store({a: first}, expect={a: None}) == {a}, "nothing was there, as expected")
        the(await store({a: second}, expect={a: None}) == set(), "something was there")
        the(await store({b: second}, expect={b: first.version}) == set(), "nothing was there")
        await on.holds("a", "first")
        await on.misses("b")
        the(
            await store({a: second, b: first}, expect={a: first.version, b: second.version}) == {a},
            "store(expect=) returns the keys whose version was the expected one",
        )
        await on.holds("a", "second")
        await on.misses("b")

    @scene
    async def test_of_many_that_compare_and_set_one_wins(self, on: Stage) -> None:
        on.needs_times()
        on.needs_storing()
        key = on.key("a")
        before = on.entry("before")
        await on.entries.store({key: before})
        entries = [on.entry(number) for number in range(20)]
        stored = await asyncio.gather(
            *[
                (on.entries, on.other)[n % 2].store({key: entry}, expect={key: before.version})
                for n, entry in enumerate(entries)
            ]
        )
        winners = [number for number, keys in enumerate(stored) if keys]
        the(len(winners) == 1, f"{len(winners)} of 20 that compared and set have won")
        await on.holds("a", winners[0])

    @scene
    async def test_what_is_evicted_is_gone_but_its_lease_is_not(self, on: Stage) -> None:
        for name in "a", "b":
            await on.set(name, name)
        beside = await on.lease("a")
        alone = await on.lease("c")
        await on.entries.evict(map(on.key, ("a", "c", "absent")))
        await on.misses("a", "c", "absent")
        await on.holds("b", "b")
        await on.busy("a", by=on.other)
        await on.busy("c", by=on.other)
        the(await on.commit(beside, "anew"), "evict() has ended a lease")
        the(await on.commit(alone, "anew"), "evict() has ended a lease")
        await on.holds("a", "anew")

    @scene
    async def test_nothing_asked_is_nothing_done(self, on: Stage) -> None:
        none: list[Lease] = []
        the(await on.entries.fetch(()) == {}, "fetch() of nothing")
        the(await on.entries.lease((), 10) == {}, "lease() of nothing")
        the(await on.entries.renew(none, 10) == set(), "renew() of nothing")
        the(await on.entries.commit({}) == set(), "commit() of nothing")
        the(await on.entries.store({}) == set(), "store() of nothing")
        await on.entries.release(none)
        await on.entries.discard(())
        await on.entries.discard((), keep_stale=True)
        await on.entries.evict(())

    @scene
    async def test_versions_are_random(self, on: Stage) -> None:
        versions = {on.entries.new_entry(1).version for _ in range(100)}
        the(len(versions) == 100 and all(versions), "two entries have one version, or none")

    @scene
    async def test_what_cannot_be_read_is_a_miss(self, on: Stage) -> None:
        await on.set("a", "good")
        await on.set("b", "good")
        if not await self.damage(on.storage, on.key("a")):
            skip("damage() is not there to write garbage")
        await on.misses("a")
        the(await on.get_many("a") == {}, "get_many() gave garbage")
        the(await on.fetched("a") is None, "fetch() gave garbage")
        await on.holds("b", "good")
        lease = await on.lease("a")
        the(lease.seen is None, "a lease saw garbage")
        the(await on.commit(lease, "new"), "garbage could not be replaced")
        await on.holds("a", "new")


def _value(entry: Entry | None) -> Any:
    return None if entry is None else entry.value

"""What a storage of any kind does with values: `get`, `set`, `remove` and their like for many."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import os
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gecaso.errors import StorageError
from gecaso.keys import Key
from gecaso.testing.contract_stage import ContractBase, Stage, alike, raises, scene, skip, the

__all__ = ["Values"]

PLAIN: dict[str, object] = {
    "text": "ünïcode 🐍",
    "empty text": "",
    "number": 42,
    "zero": 0,
    "negative": -7,
    "float": 1.5,
    "true": True,
    "false": False,
    "none": None,
    "list": [1, "two", [3.0, None]],
    "empty list": [],
    "dict": {"a": {"b": [{"c": True}]}},
    "empty dict": {},
}
"""What every storage keeps; a miss is none of them."""

RICH: dict[str, object] = {
    "bytes": bytes(range(256)),
    "empty bytes": b"",
    "tuple": (1, (2, [3]), ()),
    "large": 2**70,
    "set": {1, 2, 3},
    "frozenset": frozenset({"a", "b"}),
    "keys": {1: "one", "1": "text", (1, 2): "pair", None: "none"},
    "datetime": dt.datetime(2024, 2, 29, 12, 30, 15, 123456),
    "zoned": dt.datetime(2024, 2, 29, 12, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
    "date": dt.date(1999, 12, 31),
    "time": dt.time(23, 59, 59, 999999),
    "timedelta": dt.timedelta(days=-1, microseconds=1),
    "decimal": Decimal("1.10"),
    "uuid": uuid.UUID(int=7),
    "mixed": [(1, 1.0, True, "1", b"1")],
}
"""What an entry storage keeps exactly; one of three methods keeps each exactly, or refuses it."""


@dataclass
class Point:
    """A class of the user's own."""

    x: int
    y: tuple[int, ...]


class Values(ContractBase):
    """Misses, values, and many of them at once."""

    @scene
    async def test_a_key_never_set_is_a_key_error(self, on: Stage) -> None:
        await on.misses("never set")
        the(await on.fetched("never set") is None, "fetch() gave an entry for a key never set")

    @scene
    async def test_what_was_set_is_got(self, on: Stage) -> None:
        await on.set("a", "first")
        await on.holds("a", "first")
        await on.holds("a", "first")
        await on.misses("b")

    @scene
    async def test_set_replaces_what_is_there(self, on: Stage) -> None:
        await on.set("a", "first")
        await on.set("a", ["second"])
        await on.holds("a", ["second"])

    @scene
    async def test_what_was_removed_is_a_key_error(self, on: Stage) -> None:
        for name in "a", "b", "c", "d":
            await on.set(name, name)
        await on.remove("a")
        await on.misses("a")
        await on.remove("b", "c")
        await on.misses("a", "b", "c")
        await on.holds("d", "d")
        await on.set("a", "again")
        await on.holds("a", "again")

    @scene
    async def test_removing_what_is_not_there_is_fine(self, on: Stage) -> None:
        await on.set("a", 1)
        await on.set("b", 2)
        try:
            await on.remove("absent")
            await on.remove("a", "absent", "b")
            await on.remove()
        except KeyError as error:
            raise AssertionError("remove() raised KeyError for a key that was not there") from error
        await on.misses("a", "b", "absent")

    @scene
    async def test_plain_values_come_out_as_they_went_in(self, on: Stage) -> None:
        for name, value in PLAIN.items():
            await on.set(name, value)
        for name, value in PLAIN.items():
            await on.holds(name, value)

    @scene
    async def test_rich_values_come_out_as_they_went_in(self, on: Stage) -> None:
        for name, value in RICH.items():
            try:
                await on.set(name, value)
            except Exception as error:
                if not on.three or isinstance(error, KeyError):
                    raise
                await on.misses(name)  # it was refused, which is honest
            else:
                await on.holds(name, value)

    @scene
    async def test_classes_that_were_made_known_come_out_as_they_went_in(self, on: Stage) -> None:
        if on.three:
            skip("what a storage of three methods packs, and how, is its author's business")
        on.entries.learn([Point])
        await on.set("a", [Point(1, (2, 3))])
        await on.holds("a", [Point(1, (2, 3))])

    @scene
    async def test_a_large_value_is_kept_or_refused_but_not_lost(self, on: Stage) -> None:
        value = os.urandom(self.largest_value)  # which no compression makes smaller
        await on.set("a", value)
        await on.holds("a", value)
        larger = value + value[: len(value) // 5]
        try:
            await on.set("b", larger)
        except (KeyError, StorageError) as error:
            raise AssertionError(f"too large is neither a miss nor trouble: {error!r}") from error
        except Exception:  # noqa: BLE001 - which error it is, is the author's business
            await on.misses("b")
        else:
            await on.holds("b", larger)

    @scene
    async def test_a_value_that_cannot_be_stored_is_an_error_and_stores_nothing(
        self, on: Stage
    ) -> None:
        def unpackable() -> None: ...

        await on.set("a", "before")
        try:
            await on.set("a", unpackable)
        except KeyError as error:
            raise AssertionError("a value that cannot be stored raised a KeyError") from error
        except Exception:  # noqa: BLE001 - which error it is, is the author's business
            await on.holds("a", "before")
        else:
            await on.holds("a", unpackable)

    @scene
    async def test_a_stored_value_does_not_change_with_the_object_it_was(self, on: Stage) -> None:
        if on.three or not on.entries.shared:
            skip("values are kept in this process and may be the objects themselves")
        value = ["as stored"]
        await on.set("a", value)
        value.append("changed since")
        await on.holds("a", ["as stored"])
        if on.stores:
            (await on.get("a")).append("changed by a reader")
        await on.holds("a", ["as stored"])

    @scene
    async def test_an_option_that_set_does_not_take_is_an_error(self, on: Stage) -> None:
        params = inspect.signature(on.storage.set).parameters.values()
        if any(one.kind is one.VAR_KEYWORD for one in params):
            skip("`set` takes any option")
        with raises(TypeError, otherwise="set() took an option that it does not know"):
            await on.set("a", 1, no_such_option=1)
        await on.misses("a")

    # --- many at once -------------------------------------------------------------------------

    @scene
    async def test_get_many_returns_the_values_that_are_there(self, on: Stage) -> None:
        names = [("many", i) for i in range(300)]
        values = {on.name(name): list(name) for name in names}
        await on.storage.set_many(values)
        absent = [("absent", i) for i in range(10)]
        got = await on.get_many(*names, *absent)
        the(alike(got, values if on.stores else {}), "get_many() did not give what set_many() set")
        the(await on.get_many() == {}, "get_many() of no keys gave something")
        the(await on.get_many(*absent) == {}, "get_many() gave what is not there")

    @scene
    async def test_many_may_be_none_or_the_same_twice(self, on: Stage) -> None:
        await on.storage.set_many({})
        await on.storage.set_many({on.name("a"): 1})
        wanted = {on.name("a"): 1} if on.stores else {}
        the(await on.get_many("a", "a") == wanted, "get_many() of a key given twice")

    @scene
    async def test_clear_removes_everything(self, on: Stage) -> None:
        for i in range(50):
            await on.set(("cleared", i), i)
        await on.clear()
        await on.misses(*[("cleared", i) for i in range(50)])
        await on.set("a", "after")
        await on.holds("a", "after")

    # --- at the same time ---------------------------------------------------------------------

    @scene
    async def test_callers_at_the_same_time_get_each_their_own(self, on: Stage) -> None:
        async def work(i: int) -> None:
            await on.set(("own", i), [i])
            await on.holds(("own", i), [i])
            if i % 3 == 0:
                await on.remove(("own", i))
                await on.misses(("own", i))

        await asyncio.gather(*map(work, range(100)))
        wanted = {on.name(("own", i)): [i] for i in range(100) if i % 3 and on.stores}
        got = await on.get_many(*[("own", i) for i in range(100)])
        the(alike(got, wanted), "a value is missing, or another's, after concurrent writes")

    @scene
    async def test_lookups_at_the_same_time_get_each_their_own(self, on: Stage) -> None:
        keys: list[Key] = [on.key(("own", i)) for i in range(100)]
        await on.entries.store({key: on.entry([i]) for i, key in enumerate(keys[:50])})
        found = await asyncio.gather(*map(on.entries.lookup, keys))
        got = [None if entry is None else entry.value for entry in found]
        kept: list[Any] = [[i] if on.stores else None for i in range(50)]
        the(got == kept + [None] * 50, "lookup() gave a value that belongs to another key")

    @scene
    async def test_a_function_that_is_cached_loads_once(self, on: Stage) -> None:
        from gecaso.decorator import cached  # what most storages are made for
        from gecaso.entry import new_token

        loads: list[int] = []

        @cached(on.storage, namespace=new_token().hex())
        async def load(i: int) -> str:
            loads.append(i)
            await asyncio.sleep(0)
            return f"loaded {i}"

        got = await asyncio.gather(*[load(i % 2) for i in range(50)])
        the(set(got) == {"loaded 0", "loaded 1"}, "a cached function returned something else")
        the(sorted(loads) == [0, 1], f"50 concurrent calls of two keys made loads {loads}")
        the(await load(1) == "loaded 1", "a cached function returned something else")
        the(len(loads) == (2 if on.stores else 3), "a value that was stored was loaded again")
        await load.invalidate(1)
        await load(1)
        the(len(loads) == (3 if on.stores else 4), "what was invalidated was not loaded again")
        await load.invalidate(0)
        await load.invalidate(1)

"""Keys that are hard on what a storage makes of them."""

from __future__ import annotations

import enum
import uuid
from typing import Final

from gecaso.testing.contract_stage import ContractBase, Stage, alike, scene, the

__all__ = ["Keys"]


class Colour(enum.Enum):
    RED = "red"


ODD: Final[tuple[object, ...]] = (
    *(
        "",
        " ",
        "a b",
        "a ",
        " a",
        "A",
        "a",
        "tab\tand\nlines\r\n",
        "\0",
        "\x01\x7f\x80",
        "Ünïcode 🐍 \u2028",
        "\ud800",
    ),
    *("{", "}", "{}", "a{b}c", "%", "%s", "%7B", "%25", "*", "?", "[a-z]", "\\", "'", '"', "`"),
    *("a/b", "../a", "a\\b", "C:", ".", "..", "-", "--", "~", "a~", "a:l", "a}:l", ":", "::", ";"),
    *("NULL", "None", "True", "get a\r\n", "'; DROP TABLE gecaso; --"),
    *("x" * 250, "x" * 251, "x" * 10_000, "x" * 9_999 + "y", "ü" * 10_000),
    *("1", "1.0", 1, 1.0, True, b"1", None, False, 0, 0.0, -1, -(2**70), 2.5e-300, b"", b"\xff\0"),
    *((), (1,), (1, 2), ("1", 2), (1, (2,)), ((1, 2),), ("a", None), [1, 2], {"a": 1}),
    *(frozenset({1, 2}), frozenset({"1", 2}), Colour.RED, Colour.RED.value),
    *(uuid.UUID(int=1), str(uuid.UUID(int=1)), uuid.UUID(int=1).bytes),
)
"""No two of these are one key."""


class Keys(ContractBase):
    """Every key that has a canonical form can be stored under, and is one of its own."""

    @scene
    async def test_unusual_keys_are_kept_apart(self, on: Stage) -> None:
        for number, name in enumerate(ODD):
            await on.misses(name)
            await on.set(name, number)
        for number, name in enumerate(ODD):
            await on.holds(name, number)
        for number, name in enumerate(ODD[::2]):
            await on.remove(name)
            await on.misses(name)
            if ODD[1::2][number:]:
                await on.holds(ODD[1::2][number], number * 2 + 1)

    @scene
    async def test_unusual_keys_are_kept_apart_when_there_are_many_at_once(self, on: Stage) -> None:
        wanted = {on.key(name): number for number, name in enumerate(ODD)}
        the(len(wanted) == len(ODD), "two keys are equal")
        await on.entries.store({key: on.entry(number) for key, number in wanted.items()})
        got = {key: entry.value for key, entry in (await on.other.fetch(wanted)).items()}
        the(alike(got, wanted if on.stores else {}), "fetch() mixed up unusual keys")
        await on.entries.discard(wanted)
        the(await on.entries.fetch(wanted) == {}, "discard() left unusual keys")

    @scene
    async def test_unusual_keys_have_leases_of_their_own(self, on: Stage) -> None:
        keys = {on.key(name): name for name in ODD}
        leases = await on.entries.lease(keys, 30)
        the(set(leases) == set(keys), "lease() answers for each key, and for no other")
        for name in ODD:
            await on.busy(name, by=on.other)
            await on.misses(name)
        tokens = {got.token for got in leases.values()}
        the(len(tokens) == len(keys), "two leases have one token")

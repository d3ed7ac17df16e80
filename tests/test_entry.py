"""The records that travel."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gecaso import Busy, Entry, Lease
from gecaso.entry import new_token
from gecaso.keys import as_key


def test_records_are_compared_and_hashed_by_identity() -> None:
    key = as_key("k")
    assert Entry(1, 0.0) != Entry(1, 0.0)
    assert Lease(key, b"t", 1.0) != Lease(key, b"t", 1.0)
    assert Busy(key, b"t", 1.0) != Busy(key, b"t", 1.0)
    one = Entry([1], 0.0)  # the value need not be hashable
    assert {one: "one"}[one] == "one"


def test_records_have_no_other_attributes() -> None:
    for record in (Entry(1, 0.0), Lease(as_key("k"), b"", 0.0), Busy(as_key("k"), b"", 0.0)):
        with pytest.raises(AttributeError):
            record.colour = "red"  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue] - meant to be wrong


def test_an_entry_may_change_its_value_alone() -> None:
    entry = Entry("a", 1.0, 2.0, 3.0, 4.0, "error", {"t": b"1"}, {"p": 1}, b"v")
    entry.home = "a storage's own"
    other = entry.with_value("b")
    assert (entry.value, other.value, other.home) == ("a", "b", None)
    for name in ("created", "fresh_until", "dead_after", "cost", "kind", "tags", "params"):
        assert getattr(other, name) == getattr(entry, name)
    assert other.version == b"v"


def test_the_repr_says_what_and_until_when() -> None:
    assert repr(Entry("v", 1.0, 2.0, 3.0)) == (
        "<Entry value: 'v', created 1.000, fresh until 2.000, dead after 3.000>"
    )


def test_no_two_tokens_are_equal_in_any_thread() -> None:
    start = threading.Barrier(4)

    def make(_: int) -> list[bytes]:
        start.wait()
        return [new_token() for _ in range(5000)]

    with ThreadPoolExecutor(4) as pool:
        tokens = [token for made in pool.map(make, range(4)) for token in made]
    assert len(set(tokens)) == len(tokens)
    assert {len(token) for token in tokens} == {16}


@pytest.mark.process
async def test_a_forked_child_makes_tokens_of_its_own() -> None:
    before = new_token()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        os.write(write, new_token())
        os._exit(0)
    await asyncio.to_thread(os.waitpid, pid, 0)
    theirs = os.read(read, 16)
    os.close(read)
    os.close(write)
    assert theirs[:8] != before[:8] == new_token()[:8]

"""Registries by identity, of things that may be equal, unhashable, or gone."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from gecaso.weak import WeakBag, WeakTable
from tests.doubles import in_thread
from tests.workers import fork, in_child, parents_end


class Thing:
    """Equal to its like, so that it cannot be hashed."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    __hash__ = None  # type: ignore[assignment]  # as Python makes of a class with __eq__ alone


def test_a_value_is_made_once_for_each_object() -> None:
    table: WeakTable[Thing, list[str]] = WeakTable()
    one, like_it = Thing(), Thing()
    assert one == like_it
    value = table.get(one, list)
    assert table.get(one, list) is value
    assert table.get(like_it, list) is not value
    assert len(table.values()) == 2


def test_a_value_goes_with_its_object() -> None:
    table: WeakTable[Thing, str] = WeakTable()
    one, other = Thing(), Thing()
    table.get(one, lambda: "of one")
    table.get(other, lambda: "of the other")
    del one
    gc.collect()
    assert table.values() == ["of the other"]


def test_an_object_at_the_address_of_one_that_has_gone_has_a_value_of_its_own() -> None:
    table: WeakTable[Thing, str] = WeakTable()
    one, other = Thing(), Thing()
    table.get(one, lambda: "of one")
    rows = table._rows  # pyright: ignore[reportPrivateUsage] - the address is taken by hand
    rows[id(other)] = of_one = rows.pop(id(one))
    assert table.get(other, lambda: "of the other") == "of the other"
    # The callback of the row that was replaced is late, and must not take the new one along.
    rows[id(one)] = rows[id(other)]
    assert of_one[0]() is one
    del one
    gc.collect()
    assert of_one[0]() is None
    assert table.get(other, lambda: "made again") == "of the other"
    assert len(rows) == 2


def test_an_object_may_go_while_a_value_is_made() -> None:
    table: WeakTable[Thing, int] = WeakTable()
    goes, stays, asked_for = [Thing()], Thing(), Thing()
    table.get(goes[0], lambda: 1)
    weakref.finalize(goes[0], lambda: table.get(asked_for, lambda: 3))

    def make() -> int:
        goes.clear()  # as the collector may have it, at any allocation
        gc.collect()
        return 2

    assert in_thread(lambda: table.get(stays, make), timeout=5) == 2
    assert sorted(table.values()) == [2, 3]


def test_two_threads_that_ask_at_once_get_one_value() -> None:
    table: WeakTable[Thing, object] = WeakTable()
    thing, asked = Thing(), threading.Event()
    got = list[object]()

    def ask() -> None:
        asked.set()
        got.append(table.get(thing, object))

    def make() -> object:
        second.start()
        assert asked.wait(10)
        second.join(0.05)  # it waits for this one
        return object()

    second = threading.Thread(target=ask)
    first = table.get(thing, make)
    second.join(10)
    assert got == [first]


@pytest.mark.process
def test_a_forked_child_may_use_a_table_whose_lock_was_held() -> None:
    table: WeakTable[Thing, int] = WeakTable()
    held, forked = threading.Event(), threading.Event()

    def make() -> int:
        held.set()
        assert forked.wait(10)
        return 1

    holder_of, thing = Thing(), Thing()
    holder = threading.Thread(target=table.get, args=(holder_of, make))
    holder.start()
    assert held.wait(10)

    def check() -> None:
        # A new thread may have the number of the old one, and with it the lock.
        lock = table._lock  # pyright: ignore[reportPrivateUsage] - asked with a time limit
        assert lock.acquire(timeout=5)
        lock.release()
        assert table.get(thing, lambda: 2) == 2

    child = fork()
    if child == 0:
        in_child(check)
    forked.set()
    holder.join(10)
    parents_end(child)


def test_a_bag_holds_objects_as_long_as_they_live() -> None:
    bag: WeakBag[Thing] = WeakBag()
    one, other = Thing(), Thing()
    bag.add(one)
    bag.add(other)
    assert [id(thing) for thing in bag] == [id(one), id(other)]
    del one
    gc.collect()
    assert [id(thing) for thing in bag] == [id(other)]


def test_a_bag_may_be_added_to_while_it_is_gone_through() -> None:
    bag: WeakBag[Thing] = WeakBag()
    things = [Thing(), Thing()]
    for thing in things:
        bag.add(thing)
    late, seen = Thing(), 0
    for _ in bag:
        seen += 1
        if seen < 10:
            bag.add(late)
    assert seen == 2
    assert late in list(bag)


def test_a_bag_forgets_what_has_gone() -> None:
    bag: WeakBag[Thing] = WeakBag()
    for _ in range(100):
        bag.add(Thing())
    gc.collect()
    last = Thing()
    bag.add(last)
    assert len(bag._references) == 1  # pyright: ignore[reportPrivateUsage] - what must not grow

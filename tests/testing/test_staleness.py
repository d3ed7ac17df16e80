"""The rule of `check`: by example, and against a search for an order that explains the reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import inf, nan
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gecaso.testing import EVERY_KEY, NOTHING, History, Operation, StaleRead, check

K = "k"


def read(begin: float, end: float, value: Any = NOTHING, **more: Any) -> Operation:
    return Operation("read", K, begin, end, value=value, **more)


def load(begin: float, end: float, value: Any = NOTHING, **more: Any) -> Operation:
    return Operation("load", K, begin, end, value=value, **more)


def put(begin: float, end: float, value: Any, **more: Any) -> Operation:
    return Operation("put", K, begin, end, value=value, **more)


def change(begin: float, end: float, value: Any, **more: Any) -> Operation:
    return Operation("change", K, begin, end, value=value, **more)


def invalidate(begin: float, end: float, **more: Any) -> Operation:
    return Operation("invalidate", K, begin, end, **more)


FAILED: dict[str, Any] = {"outcome": "failed"}
RUNNING: dict[str, Any] = {"outcome": "running"}
NOT_THERE = {"error": LookupError("no 7"), "outcome": "failed"}
ALIKE = {"error": LookupError("no 7"), "outcome": "failed"}
OTHER = {"error": LookupError("no 8"), "outcome": "failed"}
WORDLESS = {"error": LookupError(), "outcome": "failed"}

FINE = {
    "a load, then a read": [load(1, 2, "a"), read(3, 4, "a")],
    "a read around its load": [read(1, 4, "a"), load(2, 3, "a")],
    "a read while its load still runs": [load(1, 4, "a"), read(2, 3, "a")],
    "a load that made its value and was cancelled": [load(1, 2, "a", **FAILED), read(3, 4, "a")],
    "an invalidation before the load": [invalidate(1, 2), load(3, 4, "a"), read(5, 6, "a")],
    "a load during the invalidation": [invalidate(1, 4), load(2, 3, "a"), read(5, 6, "a")],
    "a read during the invalidation": [load(1, 2, "a"), invalidate(3, 6), read(4, 7, "a")],
    "an instant shared": [load(1, 2, "a"), invalidate(3, 4), read(4, 5, "a")],
    "an invalidation that failed": [load(1, 2, "a"), invalidate(3, 4, **FAILED), read(5, 6, "a")],
    "one that never ended": [load(1, 2, "a"), invalidate(3, inf, **RUNNING), read(5, 6, "a")],
    "a miss after all": [load(1, 2, "a"), invalidate(3, 4), read(5, 6, is_miss=True)],
    "a put": [put(1, 2, "a"), read(3, 4, "a")],
    "the first of two puts that overlap": [put(1, 3, "a"), put(2, 4, "b"), read(5, 6, "a")],
    "the second of two puts that overlap": [put(1, 3, "a"), put(2, 4, "b"), read(5, 6, "b")],
    "a put during the read": [put(1, 2, "a"), read(3, 6, "b"), put(4, 5, "b")],
    "a put that failed": [put(1, 2, "a"), put(3, 4, "b", **FAILED), read(5, 6, "b")],
    "a put that failed, not applied": [put(1, 2, "a"), put(3, 4, "b", **FAILED), read(5, 6, "a")],
    "a put that never ended": [put(1, inf, "a", **RUNNING), invalidate(2, 3), read(4, 5, "a")],
    "an equal value loaded anew": [
        *(load(1, 2, None), invalidate(3, 4), load(5, 6, None), read(7, 8, None))
    ],
    "an error of the load": [load(1, 2, **NOT_THERE), read(3, 4, **ALIKE)],
    "an error that no load has raised": [
        *(load(1, 2, **NOT_THERE), invalidate(3, 4), read(5, 6, **OTHER))
    ],
    "an error without words": [load(1, 2, **WORDLESS), invalidate(3, 4), read(5, 6, **WORDLESS)],
    "a change that nobody followed up": [
        *(change(1, 2, "a"), load(3, 4, "a"), change(5, 6, "b"), read(7, 8, "a"))
    ],
    "a change that failed": [
        *(change(1, 2, "a"), change(3, 4, "b", **FAILED), invalidate(5, 6), read(7, 8, "a"))
    ],
    "an invalidation before its change was over": [
        *(change(1, 2, "a"), change(3, 5, "b"), invalidate(4, 6), read(7, 8, "a"))
    ],
    "a change of the source explains, where no loads are recorded": [
        *(change(1, 2, "a"), invalidate(3, 4), read(5, 6, "a"))
    ],
    "changes that overlap": [
        *(change(1, 3, "a"), change(2, 4, "b"), invalidate(5, 6), read(7, 8, "a"))
    ],
    "not a number": [put(1, 2, nan), read(3, 4, nan)],
    "what cannot be hashed": [put(1, 2, ["a"]), read(3, 4, ["a"])],
}

STALE = {
    "a load before the invalidation": [load(1, 2, "a"), invalidate(3, 4), read(5, 6, "a")],
    "a load around the invalidation": [load(1, 4, "a"), invalidate(2, 3), read(5, 6, "a")],
    "a load that ends last": [load(1, 6, "a"), invalidate(2, 3), read(4, 7, "a")],
    "a load that goes on during the invalidation": [
        *(load(1, 3, "a"), invalidate(2, 4), read(5, 6, "a"))
    ],
    "an invalidation of every key": [
        *(load(1, 2, "a"), Operation("invalidate", EVERY_KEY, 3, 4), read(5, 6, "a"))
    ],
    "a load before a put": [load(1, 4, "a"), put(2, 3, "b"), read(5, 6, "a")],
    "a put before a put": [put(1, 2, "a"), put(3, 4, "b"), read(5, 6, "a")],
    "a put before an invalidation": [put(1, 2, "a"), invalidate(3, 4), read(5, 6, "a")],
    "a put that failed, and then an invalidation": [
        *(put(1, 2, "a", **FAILED), invalidate(3, 4), read(5, 6, "a"))
    ],
    "the value of nobody": [load(1, 2, "a"), read(3, 4, "b")],
    "a value of another type": [load(1, 2, 1), read(3, 4, True)],
    "a value of the future": [read(1, 2, "a"), load(3, 4, "a")],
    "a list that nobody put": [put(1, 2, ["a"]), read(3, 4, ["b"])],
    "an error from before": [load(1, 2, **NOT_THERE), invalidate(3, 4), read(5, 6, **ALIKE)],
    "an equal value, but both loads too old": [
        *(load(1, 2, None), load(3, 4, None), invalidate(5, 6), read(7, 8, None))
    ],
    "a load from a source that lags": [
        *(change(1, 2, "a"), change(3, 4, "b"), invalidate(5, 6), load(7, 8, "a"), read(9, 10, "a"))
    ],
    "puts in the order opposite to their changes": [
        *(change(1, 2, "a"), change(3, 4, "b"), put(5, 6, "b"), put(7, 8, "a"), read(9, 10, "a"))
    ],
    "changes alone": [change(1, 2, "a"), change(3, 4, "b"), invalidate(5, 6), read(7, 8, "a")],
}


@pytest.mark.parametrize("operations", FINE.values(), ids=FINE.keys())
def test_what_an_order_explains_is_fine(operations: list[Operation]) -> None:
    check(History.of(operations))


@pytest.mark.parametrize("operations", STALE.values(), ids=STALE.keys())
def test_what_no_order_explains_is_stale(operations: list[Operation]) -> None:
    with pytest.raises(StaleRead, match="a stale read of 'k'"):
        check(History.of(operations))
    with pytest.raises(StaleRead):
        check(History.of(reversed(operations)))


def test_the_initial_value_is_served_until_it_is_replaced() -> None:
    initial = {K: "a"}
    check(History.of([read(1, 2, "a")], initial=initial))
    check(History.of([invalidate(1, 4), read(2, 3, "a")], initial=initial))
    check(History.of([invalidate(1, 2), load(3, 4, "a"), read(5, 6, "a")], initial=initial))
    with pytest.raises(StaleRead, match="which was there before an invalidation"):
        check(History.of([invalidate(1, 2), read(3, 4, "a")], initial=initial))


def test_the_initial_value_is_a_state_of_the_source() -> None:
    written = [change(1, 2, "b"), invalidate(3, 4), read(5, 6, "a")]
    with pytest.raises(StaleRead, match="the source had changed"):
        check(History.of(written, initial={K: "a"}))
    unconfirmed = [change(1, 2, "b"), invalidate(3, 4, **FAILED), read(5, 6, "a")]
    check(History.of(unconfirmed, initial={K: "a"}))


def test_what_failed_may_take_effect_later_if_that_is_said() -> None:
    late = [put(1, 2, "a", **FAILED), put(3, 4, "b"), read(5, 6, "a")]
    with pytest.raises(StaleRead):
        check(History.of(late))
    check(History.of(late, late=True))


def test_keys_are_apart() -> None:
    there = Operation("invalidate", "other", 3, 4)
    check(History.of([load(1, 2, "a"), there, read(5, 6, "a")]))
    elsewhere = Operation("load", "other", 1, 2, value="a")
    with pytest.raises(StaleRead, match="nothing that was recorded has made"):
        check(History.of([elsewhere, load(1, 2, "b"), read(3, 4, "a")]))


def test_the_error_has_the_operations_concerned_and_shows_them() -> None:
    noise = [Operation("load", f"k{i}", i, i + 1, value=i) for i in range(20)]
    concerned = [
        load(20, 27, "old", actor="reader 1"),
        invalidate(22, 25, actor="writer"),
        read(26, 28, "old", actor="reader 2"),
    ]
    beside = [invalidate(1, 2), load(30, 31, "new"), invalidate(26, inf, **RUNNING)]
    with pytest.raises(StaleRead) as caught:
        check(History.of([*noise, *beside, *concerned]))
    assert caught.value.history.operations == concerned
    assert str(caught.value) == (
        "a stale read of 'k': it returned 'old', whose load began before an invalidation that had "
        "ended before the read began\n"
        "\n"
        "  #   reader 1           writer              reader 2\n"
        " 20   load begins\n"
        " 22                      invalidate begins\n"
        " 25                      invalidate ends\n"
        " 26                                          read begins\n"
        " 27   load ends: 'old'\n"
        " 28                                          read ends: 'old'"
    )


def test_the_first_of_several_stale_reads_is_told() -> None:
    reads = [read(9, 10, "a", actor="late"), read(5, 8, "a", actor="first")]
    with pytest.raises(StaleRead) as caught:
        check(History.of([load(1, 2, "a"), invalidate(3, 4), *reads]))
    assert caught.value.history.operations[-1] is reads[1]


def test_a_hundred_thousand_operations_take_no_time_to_speak_of() -> None:
    operations = list[Operation]()
    for i in range(0, 200_000, 6):
        operations += [load(i, i + 1, i), read(i + 2, i + 3, i), invalidate(i + 4, i + 5)]
    check(History.of(operations))


# -- against a search ------------------------------------------------------------------------------
#
# An ideal cache of one key, of which an answer is asked at one instant: is there a moment for every
# operation, within its time, such that the ideal cache may give this answer? All are tried.

State = Any
Effect = Callable[[State, Operation], State]


def may_answer(
    operations: list[Operation], read: Operation, empty: State, effect: Effect, holds: Any
) -> bool:
    """Try all moments at which the operations may have taken effect."""
    instants = sorted({at for one in [*operations, read] for at in (one.begin, one.end)})
    number = {one: i for i, one in enumerate(operations)}

    @lru_cache(None)
    def search(step: int, done: frozenset[int], state: State) -> bool:
        at = instants[step]
        # Between instants: whatever runs may take effect now, and so may the read.
        if read.begin < at <= read.end and holds(state, read):
            return True
        for one in operations:
            if one.begin < at <= one.end and number[one] not in done and one.kind != "load":
                after = done | {number[one]}
                if search(step, after, effect(state, one)):
                    return True
        # At an instant: what has ended without an error has taken effect; a load looks at the
        # source no sooner than it begins.
        for one in operations:
            if one.kind == "load":
                state = effect(state, one) if one.begin == at else state
            elif one.end == at and one.outcome == "done" and number[one] not in done:
                return False
        return step + 1 < len(instants) and search(step + 1, done, state)

    return search(0, frozenset[int](), empty)


def admit(state: frozenset[Operation], one: Operation) -> frozenset[Operation]:
    """A cache that may serve every load since the last invalidation, or what was put then."""
    if one.kind == "load":
        return state | {one}
    return frozenset([one]) if one.kind == "put" else frozenset()


def has_made(state: frozenset[Operation], read: Operation) -> bool:
    return any(one.value == read.value for one in state)


Source = tuple[Any, frozenset[Any]]


def follow(state: Source, one: Operation) -> Source:
    """A source, and the states of it that a cache may still show."""
    now, shown = state
    if one.kind == "change":
        return one.value, shown | {one.value}
    return now, frozenset([now])


def shows(state: Source, read: Operation) -> bool:
    return read.value in state[1]


def is_explained(operations: list[Operation], read: Operation, initial: Any) -> bool:
    """The definition, tried out: by the loads and puts, and by the source where it is recorded."""
    cached = frozenset[Operation]([] if initial is None else [put(-1, 0, initial)])
    others = [one for one in operations if one.kind != "read"]
    writes = [one for one in others if one.kind in ("load", "put", "invalidate")]
    changes = [one for one in others if one.kind in ("change", "put", "invalidate")]
    fences = [one for one in changes if one.kind == "change" or one.outcome == "done"]
    known = [one for one in others if one.kind == "change" and one.value == read.value]
    of_source = any(one.begin < read.end for one in known) or read.value == initial
    by_source = not of_source or may_answer(
        fences, read, (initial, frozenset([initial])), follow, shows
    )
    if not by_source:
        return False
    recorded = {one.kind for one in others}
    if of_source and "change" in recorded and "load" not in recorded:
        return True
    return may_answer(writes, read, cached, admit, has_made)


VALUES = ["a", "b", "c"]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Operation], str | None]:
    """Up to seven operations on one key; their beginnings and ends in any order."""
    kinds = draw(st.lists(st.sampled_from(["load", "put", "change", "invalidate"]), max_size=6))
    order = draw(st.permutations([number for number in range(len(kinds) + 1) for _ in (0, 1)]))
    operations = list(placed(["read", *kinds], order))
    for one in operations:
        if one.kind != "invalidate":
            one.value = draw(st.sampled_from(VALUES))
        if one.kind in ("put", "change", "invalidate"):
            one.outcome = draw(st.sampled_from(["done", "done", "done", "failed", "running"]))
            if one.outcome == "running":
                one.end = inf
    return operations, draw(st.sampled_from([None, "a"]))


def placed(kinds: list[Any], order: list[int]) -> Iterator[Operation]:
    for number, kind in enumerate(kinds):
        first = order.index(number)
        yield Operation(kind, K, first + 1, order.index(number, first + 1) + 1)


@settings(max_examples=600)
@given(histories())
def test_the_rule_and_a_search_through_all_orders_agree(
    history: tuple[list[Operation], str | None],
) -> None:
    operations, initial = history
    explained = is_explained(operations, operations[0], initial)
    recorded = History.of(operations, initial={} if initial is None else {K: initial})
    event("explained" if explained else "not explained")
    stale = stale_read_of(recorded)
    assert (stale is None) == explained, f"\n{recorded}"
    if stale is not None:  # what it shows is enough to see it
        again = stale_read_of(stale.history)
        assert str(again) == str(stale)


def stale_read_of(history: History) -> StaleRead | None:
    try:
        check(history)
    except StaleRead as stale:
        return stale
    return None

"""Whether the reads of a history are explained by its writes. The rule is in `check`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable
from math import inf
from typing import TYPE_CHECKING, Any

from gecaso.testing.records import EVERY_KEY, NOTHING, Operation
from gecaso.testing.timeline import timeline

if TYPE_CHECKING:
    from gecaso.testing.history import History

__all__ = ["StaleRead", "check"]


class StaleRead(AssertionError):
    """A read returned what it must not; ``history`` has the operations concerned, and no others."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


def check(history: History) -> None:
    """Raise `StaleRead` for the first read of a history that nothing explains.

    One operation is *before* another if it ended before the other began; else they *overlap*.
    A *fence* of a key is a put or an invalidation of it that ended without an error. A *write* is
    a put; or a change of the source together with a fence that began after the change had ended:
    it begins with the change and ends with the fence. A read returns the last write before it, or
    one that overlaps it. In exact words, a read that returned a value must meet all three:

    1. *Origin.* A load that returned this value, or a put of it, began before the read ended. In
       a history that has changes and no loads, a change to it will do.
    2. *Fences.* For one origin at least, no fence came between. A load is fenced if it began
       before a fence began that is before the read. A put is fenced if it is before a fence that
       is before the read. A change is no fence and is not fenced.
    3. *Writes.* If the source was ever changed to this value before the read ended: for one such
       change at least, there is no later change that it is before, and that is before a fence
       that is before the read.

    The initial value of a key counts as put, and as the state of the source, before all else.
    A put or change that failed, or has not ended, has taken effect at one moment of its time, or
    never (in a ``late`` history: at any moment since it began, or never); such an invalidation
    demands nothing. A miss is always right. So is an error, unless a load raised it: then it is
    treated as its value, so that negative results are not stale either.

    Values are told apart by type and equality, errors by type and arguments (one without
    arguments is not looked at). Where several operations made equal values, one of them that
    explains the read is enough: let each load and put make a value of its own.

    A regular register with invalidations: after Lamport, *On interprocess communication* (1986).
    Takes O(n log n) time, as long as few operations share a value.
    """
    keys: dict[Hashable, list[Operation]] = {}
    everywhere: list[Operation] = []
    operations = list(history.operations)
    for one in operations:
        if one.key is EVERY_KEY:
            everywhere.append(one)
        else:
            keys.setdefault(one.key, []).append(one)
    judges = {key: _Judge(key, ours + everywhere, history) for key, ours in keys.items()}
    reads = [one for one in operations if one.kind == "read" and one.end != inf]
    for read in sorted(reads, key=lambda read: read.end):
        judges[read.key].judge(read)


class _Judge:
    """The operations on one key, sorted for questions."""

    def __init__(self, key: Hashable, operations: list[Operation], history: History) -> None:
        self._history = history
        self._fences = _Latest(one for one in operations if _is_fence(one))
        changes = [one for one in operations if one.kind == "change"]
        self._changes = _Latest(one for one in changes if one.outcome == "done")
        self._origins = _ByValue(one for one in operations if one.kind in ("load", "put"))
        self._states = _ByValue(changes)
        if key in history.initial:
            initial = Operation("initial", key, 0, 0, value=history.initial[key])
            self._origins.add(initial)
            self._states.add(initial)
        self._source_explains = history.has_changes and not history.has_loads

    def judge(self, read: Operation) -> None:
        origins = _begun(self._origins.of(read), read)
        states = _begun(self._states.of(read), read)
        by_source = states if self._source_explains else []
        if not (origins or by_source):
            if read.value is NOTHING:
                return  # a miss, or an error of the cache's own
            self._fail(read, "which nothing that was recorded has made", [])
        fence = self._fences.before(read.begin)
        if fence is None:
            return
        if not by_source and all(self._settled(one) < fence.begin for one in origins):
            kinds = " or ".join(sorted({_words[one.kind] for one in origins}))
            because = f"{kinds} {_noun(fence)} that had ended before the read began"
            self._fail(read, because, [*origins, fence])
        change = self._changes.before(fence.begin)
        if change is not None and states and all(self._end(c) < change.begin for c in states):
            because = f"but the source had changed, and then {_noun(fence)} had ended"
            self._fail(read, because, [*origins, *states, change, fence])

    def _settled(self, one: Operation) -> float:
        """Return the instant up to which nothing older can have replaced what this one made."""
        return one.begin if one.kind == "load" else self._end(one)

    def _end(self, one: Operation) -> float:
        return inf if self._history.late and one.outcome == "failed" else one.end

    def _fail(self, read: Operation, because: str, others: list[Operation]) -> None:
        story = sorted(dict.fromkeys([*others, read]), key=lambda one: one.begin)
        raised = read.value is NOTHING
        got = f"raised {read.error!r}" if raised else f"returned {read.value!r}"
        message = f"a stale read of {read.key!r}: it {got}, {because}\n\n{timeline(story)}"
        part = self._history.only(one for one in story if one.kind != "initial")
        raise StaleRead(message, part)


_words = {
    "load": "whose load began before",
    "put": "whose put had ended before",
    "initial": "which was there before",
}


def _noun(fence: Operation) -> str:
    return "a put" if fence.kind == "put" else "an invalidation"


def _is_fence(one: Operation) -> bool:
    return one.outcome == "done" and one.kind in ("put", "invalidate")


def _begun(operations: list[Operation], read: Operation) -> list[Operation]:
    return [one for one in operations if one.begin < read.end]


class _Latest:
    """Which of the operations that ended before an instant began last."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        ordered = sorted(operations, key=lambda one: one.end)
        self._ends = [one.end for one in ordered]
        self._latest: list[Operation] = []
        for one in ordered:
            best = self._latest[-1] if self._latest else one
            self._latest.append(best if best.begin > one.begin else one)

    def before(self, instant: float) -> Operation | None:
        count = bisect_left(self._ends, instant)
        return self._latest[count - 1] if count else None


class _ByValue:
    """Operations by what they came to."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._hashed: dict[Any, list[Operation]] = {}
        self._others: list[tuple[Any, Operation]] = []
        for one in operations:
            self.add(one)

    def add(self, one: Operation) -> None:
        answer = _answer(one)
        if answer is None:
            return
        try:
            self._hashed.setdefault(answer, []).append(one)
        except TypeError:  # the value is not hashable
            self._others.append((answer, one))

    def of(self, read: Operation) -> list[Operation]:
        answer = _answer(read)
        try:
            return self._hashed.get(answer, [])
        except TypeError:
            return [one for other, one in self._others if other == answer]


def _answer(one: Operation) -> tuple[Any, ...] | None:
    """Return what an operation came to, comparable; None if that cannot be told."""
    if one.value is not NOTHING:
        value: object = one.value
        return (type(value), value)
    if isinstance(one.error, Exception) and one.error.args:
        return ("raised", type(one.error), one.error.args)
    return None

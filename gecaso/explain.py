"""What a call would do now, and why: for people."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from gecaso.calls import Call
from gecaso.entry import Entry
from gecaso.freshness import Verdict
from gecaso.functions import Function
from gecaso.switch import is_off

__all__ = ["Explanation", "explained"]


@dataclass(frozen=True)
class Explanation:
    """What `f.explain(…)` found out; ``str()`` makes a block of it.

    Times are in seconds. ``age``, ``fresh_for`` and ``kept_for`` are None where nothing is stored,
    and infinite for what is kept for ever; ``fresh_for`` is negative for an old value. ``cost`` is
    how long the load took that made the value: 0 for one that was put.
    """

    function: str
    key: str
    storage: str
    verdict: str
    age: float | None
    fresh_for: float | None
    kept_for: float | None
    cost: float | None
    stored_by: str | None
    loading: bool
    breaker: str

    def __str__(self) -> str:
        rows = {
            "function": self.function,
            "key": self.key,
            "storage": self.storage,
            "stored": self._stored(),
            "loading": "yes, callers share it" if self.loading else "no",
            "breaker": self.breaker,
            "a call": self.verdict,
        }
        return "\n".join(f"{name:9} {text}" for name, text in rows.items())

    def _stored(self) -> str:
        if self.age is None or self.fresh_for is None or self.kept_for is None:
            return "nothing"
        fresh = (
            f"fresh for {_time(self.fresh_for)}"
            if self.fresh_for > 0
            else f"old since {_time(-self.fresh_for)}, kept for {_time(self.kept_for)}"
        )
        return f"{_time(self.age)} ago by {self.stored_by}, {fresh}"


def explained(function: Function, call: Call, entry: Entry | None) -> Explanation:
    """Return what ``call`` would do with ``entry``, which is what is stored."""
    loading = function.loading
    now = loading.storage.now()
    flights = loading.flights
    guard = loading.guard
    pending = guard is not None and call.key in guard.pending
    return Explanation(
        function=function.keying.owner.label,
        key=str(call.key),
        storage=repr(loading.storage),
        verdict=_verdict(function, loading.judge(call, entry), pending=pending),
        age=None if entry is None else now - entry.created,
        fresh_for=None if entry is None else entry.fresh_until - now,
        kept_for=None if entry is None else entry.dead_after - now,
        cost=None if entry is None else entry.cost,
        stored_by=None if entry is None else _origin(entry),
        loading=call.key in flights or (call.key, "refresh") in flights,
        breaker="not needed, the storage is in this process"
        if guard is None
        else repr(guard.breaker),
    )


def _verdict(function: Function, verdict: Verdict, *, pending: bool) -> str:
    if is_off():
        return "goes to the function, uncached: caching is switched off"
    if pending:
        return "goes without the storage: an invalidation of this key is not confirmed yet"
    return f"{verdict.name}: {verdict.value}"


def _origin(entry: Entry) -> str:
    if entry.kind == "error":
        return f"a load that raised {_short(entry.value)}"
    if entry.kind == "uncacheable":
        return "a load whose result was not to be stored"
    return f"a load of {_time(entry.cost)}" if entry.cost else "put, or set on the storage"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _time(seconds: float) -> str:
    if seconds == inf:
        return "ever"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"

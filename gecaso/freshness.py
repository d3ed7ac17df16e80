"""What to do with an entry that was found: pure functions, no I/O and no clock of their own.

==========================================================  =======================================
what is stored                                              verdict
==========================================================  =======================================
nothing, or a dead entry                                    `LOAD`: one load for all callers
an uncacheable mark                                         `ALONE`: each caller loads for itself
a cached error                                              `RAISE` it
a value older than the caller's ``max_age``                 `LOAD`
a value, before ``fresh_until``                             `FRESH`: serve it
the same, older than ``refresh_after``, or by XFetch        `REFRESH`: serve it, load behind it
the same, after a load that failed, before ``retry_at``     `FRESH`
from then on, within ``stale_while_revalidate``             `REFRESH`
the same, after a load that failed, before ``retry_at``     `KEEP`: serve the old value
from then on, within ``stale_if_error``                     `TRY`: load, fall back to the old value
the same, after a load that failed, before ``retry_at``     `KEEP`
from then on                                                `LOAD`
==========================================================  =======================================

`stale_while_revalidate` and `stale_if_error` are those of RFC 5861. XFetch is from Vattani,
Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import inf, log
from typing import TYPE_CHECKING

from gecaso.entry import Entry

if TYPE_CHECKING:
    from gecaso.policy import Policy

__all__ = ["Verdict", "XFetch", "is_fresh", "is_wanted", "judge", "quick_until", "times_of"]

SURE = 25.0
"""So many load times before the end XFetch has decided for a refresh in e**-25 of all cases."""


class Verdict(Enum):
    FRESH = "serve it"
    REFRESH = "serve it, and load a new value in the background"
    KEEP = "serve the old value: a load has just failed"
    TRY = "load, and serve the old value if that fails"
    LOAD = "one load for all callers"
    ALONE = "each caller loads for itself"
    RAISE = "raise the error that is stored"


SERVED = frozenset({Verdict.FRESH, Verdict.REFRESH, Verdict.KEEP})
"""The verdicts that serve what is stored."""


class XFetch:
    """Refresh early by chance: the nearer the end and the longer the load takes, the likelier.

    A hit starts a refresh when ``now - cost * beta * ln(random) >= fresh_until``, with ``cost``
    the seconds that the load took. ``beta`` above 1 refreshes earlier.

    >>> XFetch(beta=2.0).is_due(now=99.0, fresh_until=100.0, cost=1.0, draw=0.5)
    True
    """

    __slots__ = ("beta",)

    def __init__(self, beta: float = 1.0) -> None:
        if not 0 < beta < inf:
            raise ValueError(f"beta must be above zero, not {beta!r}")
        self.beta = beta

    def __repr__(self) -> str:
        return f"XFetch(beta={self.beta:g})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, XFetch) and other.beta == self.beta

    def __hash__(self) -> int:
        return hash((XFetch, self.beta))

    def is_due(self, *, now: float, fresh_until: float, cost: float, draw: float) -> bool:
        """Return whether to refresh; ``draw`` is a random number between 0 and 1."""
        return now - cost * self.beta * log(draw or 5e-324) >= fresh_until


def is_fresh(entry: Entry | None, now: float, max_age: float = inf) -> bool:
    """Return whether a value may be given to who did not ask for an old one."""
    return (
        entry is not None
        and entry.kind == "value"
        and now < entry.fresh_until
        and now - entry.created <= max_age
    )


def is_wanted(entry: Entry, now: float, max_age: float, stale: bool) -> bool:
    """Return whether who only looks is given ``entry``: fresh, or with ``stale`` an old one."""
    if not stale:
        return is_fresh(entry, now, max_age)
    return entry.kind == "value" and now < entry.dead_after and now - entry.created <= max_age


def judge(
    entry: Entry | None,
    policy: Policy,
    now: float,
    *,
    draw: Callable[[], float],
    retry_at: float = -inf,
    max_age: float = inf,
) -> Verdict:
    """Return what a caller does with ``entry``.

    Times are seconds of the storage's clock; ``draw()`` gives random numbers between 0 and 1;
    ``retry_at`` is when a load may be tried again after one that failed.
    """
    if entry is None or now >= entry.dead_after:
        return Verdict.LOAD
    if entry.kind != "value":
        return Verdict.ALONE if entry.kind == "uncacheable" else Verdict.RAISE
    if now - entry.created > max_age:
        return Verdict.LOAD
    held = now < retry_at
    if now < entry.fresh_until:
        due = not held and policy.refresh_after is not None and _is_due(entry, policy, now, draw)
        return Verdict.REFRESH if due else Verdict.FRESH
    if now < entry.fresh_until + policy.stale_while_revalidate:
        return Verdict.KEEP if held else Verdict.REFRESH
    if now < entry.fresh_until + policy.stale_if_error:
        return Verdict.KEEP if held else Verdict.TRY
    return Verdict.LOAD


def _is_due(entry: Entry, policy: Policy, now: float, draw: Callable[[], float]) -> bool:
    after = policy.refresh_after
    if isinstance(after, XFetch):
        return after.is_due(now=now, fresh_until=entry.fresh_until, cost=entry.cost, draw=draw())
    return after is not None and now - entry.created >= after


def times_of(
    policy: Policy, ttl: float | None, now: float, draw: Callable[[], float]
) -> tuple[float, float]:
    """Return ``(fresh_until, dead_after)`` of a value that is stored now for ``ttl`` seconds."""
    if ttl is None:
        return inf, inf
    if policy.jitter:
        ttl *= 1 - policy.jitter * draw()
    fresh_until = now + ttl
    kept = max(policy.stale_while_revalidate, policy.stale_if_error)
    return fresh_until, fresh_until + kept if kept else fresh_until  # one number: less memory


def quick_until(policy: Policy, entry: Entry) -> float:
    """Return until when `judge` says `FRESH` whatever the draw: the path of a hit asks no more."""
    after = policy.refresh_after
    if after is None:
        return entry.fresh_until
    if isinstance(after, XFetch):
        return entry.fresh_until - SURE * after.beta * entry.cost
    return min(entry.fresh_until, entry.created + after)

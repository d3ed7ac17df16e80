"""One call that was no hit, and what the calls of one function came to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gecaso.keys import Key
from gecaso.policy import Policy

__all__ = ["Call", "Counters"]


class Counters:
    """What one function's calls came to, the hits of its shortest path apart."""

    __slots__ = (
        "errors",
        "fenced",
        "hits",
        "joined",
        "loads",
        "longest",
        "lost",
        "misses",
        "storage_errors",
        "uncacheable",
        "warned",
    )

    def __init__(self) -> None:
        self.longest = 0.0
        self.warned: set[str] = set()
        self.reset()

    def reset(self) -> None:
        self.hits = self.misses = self.loads = self.joined = self.errors = 0
        self.fenced = self.lost = self.uncacheable = self.storage_errors = 0


class Call:
    """One call that was no hit: the key, and how to load its value."""

    __slots__ = ("counters", "is_cut_off", "is_refresh", "key", "load", "policy")

    def __init__(
        self,
        key: Key,
        load: Callable[[], Any],
        policy: Policy,
        counters: Counters,
        *,
        is_refresh: bool = False,
    ) -> None:
        self.key = key
        self.load = load
        self.policy = policy
        self.counters = counters
        self.is_refresh = is_refresh
        self.is_cut_off = False

    @property
    def lease_seconds(self) -> float:
        # A load that took long before will do so again, and renewing needs a loop that is free.
        return max(self.policy.lease_seconds, 4 * self.counters.longest)

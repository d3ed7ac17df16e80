"""One call that was no hit, and what the calls of one function came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from gecaso.entry import Entry
from gecaso.keys import Key
from gecaso.policy import Policy

if TYPE_CHECKING:
    from gecaso.current import CurrentLoad

__all__ = ["CacheInfo", "Call", "Counters", "Stats", "load_of"]


class CacheInfo(NamedTuple):
    """What `functools.lru_cache` tells of itself."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


@dataclass(frozen=True)
class Stats:
    """What the calls of one function came to, in this process.

    ``misses`` are the calls that found no fresh value; ``loads`` the runs of the function;
    ``joined`` the calls that shared another's load; ``errors`` the loads that raised; ``fenced``
    the values not stored because of an invalidation; ``lost`` those whose lease was lost;
    ``uncacheable`` those that were not to be, or could not be, stored; ``storage_errors`` the
    operations of the storage that failed; ``stale`` the calls that were served an old value;
    ``refreshes`` the loads in the background.
    """

    hits: int
    misses: int
    loads: int
    joined: int
    errors: int
    fenced: int
    lost: int
    uncacheable: int
    storage_errors: int
    stale: int = 0
    refreshes: int = 0


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
        "refreshes",
        "stale",
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
        self.stale = self.refreshes = 0


class Call:
    """One call that was no hit: the key, and how to load its value.

    A refresh loads whatever is stored. One that runs *behind* has no caller: it serves nobody, and
    has the time that the policy gives background loads. ``old`` is what was stored when the lease
    was taken; ``notes`` are what the load said of itself, see `gecaso.current_load`.
    """

    __slots__ = (
        "counters",
        "is_behind",
        "is_cut_off",
        "is_refresh",
        "key",
        "load",
        "max_age",
        "notes",
        "old",
        "policy",
        "started",
    )

    def __init__(
        self,
        key: Key,
        load: Callable[[], Any],
        policy: Policy,
        counters: Counters,
        *,
        is_refresh: bool = False,
        is_behind: bool = False,
        max_age: float = inf,
    ) -> None:
        self.key = key
        self.load = load
        self.policy = policy
        self.counters = counters
        self.is_refresh = is_refresh
        self.is_behind = is_behind
        self.is_cut_off = False
        self.max_age = max_age
        self.old: Entry | None = None
        self.notes: CurrentLoad | None = None
        untimed = policy.timeout is None and policy.soft_timeout is None
        self.started = 0.0 if untimed else time.monotonic()

    def behind(self, old: Entry | None) -> Call:
        """Return the same call as a refresh of ``old`` in the background."""
        refresh = self.copy_behind()
        refresh.is_refresh = True
        refresh.old = old
        return refresh

    def copy_behind(self) -> Call:
        """Return the same call, to be loaded in the background."""
        return Call(self.key, self.load, self.policy, self.counters, is_behind=True)

    @property
    def lease_seconds(self) -> float:
        # A load that took long before will do so again, and renewing needs a loop that is free.
        return max(self.policy.lease_seconds, 4 * self.counters.longest)


def load_of(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Callable[[], Any]:
    """Return the call of a function with these arguments; most have no keywords."""
    return partial(function, *args, **kwargs) if kwargs else partial(function, *args)

"""The records that travel between a cache and its storages.

All are compared and hashed by identity: two entries with the same value are two entries.
Times are seconds of the clock of the storage that the record belongs to.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Mapping
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gecaso.keys import Key

__all__ = ["SEEN", "Busy", "Entry", "Kind", "Lease", "new_token"]

Kind = Literal["value", "error", "uncacheable"]

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Entry:
    """A value with its lifetime and what it depends on.

    ``created``, ``fresh_until`` and ``dead_after`` are seconds of the storage's clock; ``cost`` is
    the duration of the load in seconds. An entry whose ``kind`` is not ``"value"`` is never fresh
    (``fresh_until`` is minus infinity): the path of a hit does not look at the kind.
    ``quick_until`` is when that path must ask `gecaso.freshness.judge`: at ``fresh_until``, or
    before if a refresh may be due by then. ``etag`` is what the load noted of the source's version.
    ``proof`` is what `gecaso.verifying` keeps of the key. ``home`` is where an in-process storage
    keeps it; nobody else reads or writes that. ``hot`` is set by every hit; who decides about
    evictions clears it.
    """

    __slots__ = (
        "__weakref__",
        "cost",
        "created",
        "dead_after",
        "etag",
        "fresh_until",
        "home",
        "hot",
        "kind",
        "params",
        "proof",
        "quick_until",
        "tags",
        "value",
        "version",
    )

    def __init__(
        self,
        value: Any,
        created: float,
        fresh_until: float = inf,
        dead_after: float = inf,
        cost: float = 0.0,
        kind: Kind = "value",
        tags: Mapping[str, bytes] = NOTHING,
        params: Mapping[str, Any] = NOTHING,
        version: bytes = b"",
    ) -> None:
        self.value = value
        self.created = created
        self.fresh_until = fresh_until
        self.dead_after = dead_after
        self.cost = cost
        self.kind: Kind = kind
        self.tags = tags
        self.params = params
        self.version = version
        self.quick_until = fresh_until
        self.etag: str | None = None
        self.proof = b""
        self.home: Any = None
        self.hot = False

    def __repr__(self) -> str:
        return (
            f"<Entry {self.kind}: {self.value!r}, created {self.created:.3f}, "
            f"fresh until {self.fresh_until:.3f}, dead after {self.dead_after:.3f}>"
        )

    def expire(self, now: float) -> None:
        """Let it be fresh no longer."""
        self.fresh_until = min(self.fresh_until, now)
        self.quick_until = min(self.quick_until, now)

    def with_value(self, value: Any) -> Entry:
        """Return an entry that differs in its value alone."""
        other = copy.copy(self)
        other.value = value
        other.home = None
        other.hot = False
        return other


SEEN: Any = 1
"""A value of ``Entry.hot`` beside True: hot, and no hit that a recording has yet to note."""


class Lease:
    """The promise of a storage that nobody else loads ``key`` before ``until``.

    ``seen`` is what was stored when it was read *after* the lease had been taken.
    """

    __slots__ = ("key", "seen", "token", "until")

    def __init__(self, key: Key, token: bytes, until: float, seen: Entry | None = None) -> None:
        self.key = key
        self.token = token
        self.until = until
        self.seen = seen

    def __repr__(self) -> str:
        return f"<Lease of {self.key} until {self.until:.3f}>"


class Busy:
    """Somebody else has the lease of ``key``, with ``token``.

    ``retry_in`` is a hint in seconds; ``stale`` is what is stored meanwhile, fresh or not.
    """

    __slots__ = ("key", "retry_in", "stale", "token")

    def __init__(self, key: Key, token: bytes, retry_in: float, stale: Entry | None = None) -> None:
        self.key = key
        self.token = token
        self.retry_in = retry_in
        self.stale = stale

    def __repr__(self) -> str:
        return f"<Busy {self.key}: look again in {self.retry_in:.3f} s>"


_prefix = os.urandom(8)
_count = itertools.count()


def _reseed() -> None:
    global _prefix
    _prefix = os.urandom(8)


# A child must not hand out the tokens of its parent: a token names one holder in the cluster.
os.register_at_fork(after_in_child=_reseed)


def new_token() -> bytes:
    """Return 16 bytes that no other call, in any process, returns."""
    return _prefix + next(_count).to_bytes(8, "big")

"""What to do with an entry that was found: pure functions, no I/O and no clock of their own.

================================  =========================================================
what is stored                    verdict
================================  =========================================================
nothing, or a dead entry          `LOAD`: one load for all callers
a value, before ``fresh_until``   `FRESH`: serve it
a value, from then on             `LOAD`
an uncacheable mark               `ALONE`: each caller loads for itself, nothing is stored
================================  =========================================================
"""

from __future__ import annotations

from enum import Enum

from gecaso.entry import Entry

__all__ = ["Verdict", "judge"]


class Verdict(Enum):
    FRESH = "serve it"
    LOAD = "one load for all callers"
    ALONE = "each caller loads for itself"


def judge(entry: Entry | None, now: float) -> Verdict:
    """Return what a caller does with ``entry``; ``now`` is in seconds of its storage's clock."""
    if entry is None or now >= entry.dead_after:
        return Verdict.LOAD
    if entry.kind == "uncacheable":
        return Verdict.ALONE
    return Verdict.FRESH if now < entry.fresh_until else Verdict.LOAD

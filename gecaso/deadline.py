"""How much time the caller has left: inside `asyncio.timeout` or an anyio cancel scope."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

from anyio import current_effective_deadline

__all__ = ["remaining"]

MARGIN = 0.05
"""The part of the time left that serving an old value is given, at least `SHORTEST` seconds."""
SHORTEST = 0.01
MOST_TIMERS = 10_000


def remaining() -> float:
    """Return the seconds that a coroutine may wait before its deadline; infinity without one.

    A little is taken off, so that who stops waiting then still has the time to answer.
    """
    loop = asyncio.get_running_loop()
    deadline = min(current_effective_deadline(), _asyncio_deadline(loop))
    if deadline == inf:
        return inf
    left = deadline - loop.time()
    return left - max(SHORTEST, left * MARGIN)


def _asyncio_deadline(loop: Any) -> float:
    # `asyncio.timeout` tells nobody of itself but the timers of its loop; asyncio's own loop can be
    # asked for them, uvloop cannot. Looked at only when an old value might be served instead.
    timers = getattr(loop, "_scheduled", ())
    if not timers or len(timers) > MOST_TIMERS:
        return inf
    task = asyncio.current_task()
    deadline = inf
    for timer in timers:
        scope = getattr(timer._callback, "__self__", None)
        if type(scope) is asyncio.Timeout and scope._task is task and not timer.cancelled():  # type: ignore[attr-defined]  # private
            deadline = min(deadline, timer.when())
    return deadline

"""How long to wait before looking again at a lease that somebody else has."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["steps"]

LOOK_ANYWAY = 2.0  # seconds; a notification may be lost, a holder may die


def steps(notifies: bool) -> Iterator[float]:
    """Return endless waiting times in seconds.

    Where the storage tells when a lease goes, waiting is long. Elsewhere it is 10 ms, growing by
    half up to 50 ms in the first second and up to 500 ms after it, each ± 20 % so that the
    waiters of many processes do not ask in step.
    """
    if notifies:
        while True:
            yield LOOK_ANYWAY
    from random import uniform  # few storages wait like this

    step = 0.010
    waited = 0.0
    while True:
        pause = step * uniform(0.8, 1.2)
        yield pause
        waited += pause
        step = min(step * 1.5, 0.05 if waited < 1.0 else 0.5)

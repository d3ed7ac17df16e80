"""The functions of the module `time`, made to tell the virtual time of the running loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from gecaso.testing.virtual import VirtualLoop

__all__ = ["virtual_clock"]

EPOCH = 1_700_000_000.0  # what time.time() tells at the loop's time 0
NAMES = ("monotonic", "perf_counter", "time")


@contextmanager
def virtual_clock() -> Generator[None, None, None]:
    """Have ``time.monotonic()``, ``time.time()`` and ``time.perf_counter()`` tell virtual time.

    Only within a `VirtualLoop`; elsewhere, in other threads too, they tell what they always do. Who
    has taken such a function before (``from time import monotonic``, a default argument) keeps it.
    """
    real = {name: getattr(time, name) for name in NAMES}
    for name in NAMES:
        offset = EPOCH if name == "time" else 0.0
        setattr(time, name, _virtual(real[name], offset))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(time, name, function)


def _virtual(real: Callable[[], float], offset: float) -> Callable[[], float]:
    running: Callable[[], Any] = asyncio._get_running_loop

    def now() -> float:
        loop = running()
        return loop.time() + offset if isinstance(loop, VirtualLoop) else real()

    return now

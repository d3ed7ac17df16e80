"""What users need to test caching code of their own."""

from __future__ import annotations

from gecaso.testing.clock import FakeClock
from gecaso.testing.contract import StorageContract
from gecaso.testing.history import History
from gecaso.testing.records import EVERY_KEY, NOTHING, Operation
from gecaso.testing.staleness import StaleRead, check

__all__ = [
    "EVERY_KEY",
    "NOTHING",
    "FakeClock",
    "History",
    "Operation",
    "StaleRead",
    "StorageContract",
    "check",
]

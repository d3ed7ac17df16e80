"""What users need to test caching code of their own."""

from __future__ import annotations

from gecaso.testing.chaos import ChaosStorage
from gecaso.testing.clock import FakeClock
from gecaso.testing.contract import StorageContract
from gecaso.testing.explorer import Exploration, explore
from gecaso.testing.failures import CannotExplore, Deadlock, Livelock, ScheduleFailed, Unhandled
from gecaso.testing.faults import Faults
from gecaso.testing.history import History
from gecaso.testing.leaks import Leaked, assert_no_leaks
from gecaso.testing.records import EVERY_KEY, NOTHING, Operation
from gecaso.testing.staleness import StaleRead, check
from gecaso.testing.virtual import VirtualLoop, choose

__all__ = [
    "EVERY_KEY",
    "NOTHING",
    "CannotExplore",
    "ChaosStorage",
    "Deadlock",
    "Exploration",
    "FakeClock",
    "Faults",
    "History",
    "Leaked",
    "Livelock",
    "Operation",
    "ScheduleFailed",
    "StaleRead",
    "StorageContract",
    "Unhandled",
    "VirtualLoop",
    "assert_no_leaks",
    "check",
    "choose",
    "explore",
]

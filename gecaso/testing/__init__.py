"""What users need to test caching code of their own."""

from __future__ import annotations

from gecaso.testing.clock import FakeClock
from gecaso.testing.contract import StorageContract

__all__ = ["FakeClock", "StorageContract"]

"""What users need to test caching code of their own."""

from __future__ import annotations

__all__: list[str] = []

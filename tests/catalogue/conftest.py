"""Fixtures of the catalogue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.catalogue.stage import KINDS, Stage, Venue

URLS = ("redis", "memcached", "postgres")


@pytest.fixture(params=KINDS)
async def venue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Venue]:
    """Each kind of storage."""
    kind: str = request.param
    at = request.getfixturevalue(f"{kind}_url") if kind in URLS else str(tmp_path / "cache.db")
    venue = Venue(kind, at)
    yield venue
    await venue.close()


@pytest.fixture
def stage(venue: Venue) -> Stage:
    """Two processes over it."""
    return venue.stage()

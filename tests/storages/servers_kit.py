"""Storages over the servers of the tests that hold for several kinds."""

from __future__ import annotations

from typing import Any

from tests.scenes import Place, Storage

__all__ = ["opened"]

# Of these a busy machine is no trouble: Postgres has a process per connection, SQLite the disk.
PATIENCE = {"postgres": {"timeout": 2.0, "connect_timeout": 5.0}, "sqlite": {"timeout": 10.0}}


def opened(place: Place, **options: Any) -> Storage:
    """Return a new storage over the server or the file, as patient as it must be."""
    return place.open(**PATIENCE.get(place.kind, {}) | options)

"""Fixtures that several modules of tests of storages share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gecaso.storages import MemcachedStorage


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a storage in a file that is not there yet."""
    return f"sqlite:///{tmp_path}/cache.db"


@pytest.fixture
async def storage(memcached_url: str) -> AsyncIterator[MemcachedStorage]:
    """A storage on the shared memcached, unless a module has another one."""
    async with MemcachedStorage(memcached_url, namespace="t") as storage:
        yield storage


@pytest.fixture
async def other(memcached_url: str) -> AsyncIterator[MemcachedStorage]:
    """Another process, as far as the server can tell."""
    async with MemcachedStorage(memcached_url, namespace="t") as storage:
        yield storage

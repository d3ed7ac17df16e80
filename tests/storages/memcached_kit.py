"""What the tests of `MemcachedStorage` share: entries, leases, time, and races made to happen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import StorageError
from gecaso.keys import Key, as_key
from gecaso.storages import MemcachedStorage
from gecaso.storages._memcached_client import Connections

KEY = as_key("a")


def stale(storage: MemcachedStorage, value: object = "old") -> Entry:
    now = storage.now()
    return Entry(value, now - 10, now - 1, now + 100, version=new_token())


async def leased(storage: MemcachedStorage, key: Key = KEY, seconds: float = 10) -> Lease:
    got = (await storage.lease([key], seconds))[key]
    assert isinstance(got, Lease)
    return got


async def refused(storage: MemcachedStorage, key: Key = KEY) -> Busy:
    got = (await storage.lease([key], 10))[key]
    assert isinstance(got, Busy)
    return got


async def committed(storage: MemcachedStorage, lease: Lease, value: object) -> bool:
    return bool(await storage.commit({lease: storage.new_entry(value, 60)}))


def pass_time(seconds: float, *storages: MemcachedStorage) -> None:
    """Let the server's clock go on, in the eyes of these storages."""
    for storage in storages:
        storage._clock.offset += seconds  # pyright: ignore[reportPrivateUsage] - the clock


def client_of(storage: MemcachedStorage) -> Connections:
    """Return the connections of this loop to the one server of a storage that was used."""
    (link,) = storage._here.get()._links.values()  # pyright: ignore[reportPrivateUsage] - to break it
    client = link._client  # pyright: ignore[reportPrivateUsage] - likewise
    assert client is not None
    return client


def owner(storage: MemcachedStorage, key: Key) -> str:
    """Return the name of the server that has a key."""
    view = storage._pool.view  # pyright: ignore[reportPrivateUsage] - who it is to be
    assert view is not None
    return view.server(storage._name(key)).address.name  # pyright: ignore[reportPrivateUsage] - likewise


def interleave(
    monkeypatch: pytest.MonkeyPatch, command: str, act: Callable[[], Awaitable[object]]
) -> None:
    """Run ``act`` once, just before the next such command is sent."""
    original = getattr(Connections, command)

    async def patched(self: Connections, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(Connections, command, original)
        await act()
        return await original(self, *args, **options)

    monkeypatch.setattr(Connections, command, patched)


async def again_and_again(attempt: Callable[[], Awaitable[object]], seconds: float = 2.0) -> None:
    """Try until it works; fail when it does not within that many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(StorageError):
            await attempt()
            return
        await asyncio.sleep(0.01)  # nobody tells when a server is back
    pytest.fail(f"it did not work within {seconds} s")

"""The lock alone: what should run once in a cluster, here a nightly report.

In memory the cluster is this process; with --storage redis://… or memcached://… it is every process
that uses that server.
"""

from __future__ import annotations

import argparse
import asyncio

import gecaso
from gecaso.storages import MemcachedStorage, RedisStorage


class Report:
    """What must not be made by two at once."""

    def __init__(self) -> None:
        self.made = 0
        self.being_made = 0

    async def make(self) -> None:
        self.being_made += 1
        assert self.being_made == 1, "two at once"
        await asyncio.sleep(0.05)
        self.being_made -= 1
        self.made += 1


async def worker(name: str, storage: gecaso.EntryStorage, report: Report) -> None:
    try:
        # Renewed while the block runs; if this process died, the lease would be free in 5 s.
        async with storage.leased("nightly report", seconds=5, wait_timeout=2):
            if report.made:
                print(f"{name}: it is there already")
            else:
                await report.make()
                print(f"{name}: made it")
    except gecaso.WaitTimeout:
        print(f"{name}: somebody else is still at it, so I leave it to them")


async def main(storage: gecaso.EntryStorage) -> None:
    report = Report()
    async with storage, asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(worker(f"worker {number}", storage, report))
    assert report.made == 1


def storage_of(url: str) -> gecaso.EntryStorage:
    if url == "memory":
        return gecaso.MemoryStorage()
    return MemcachedStorage(url) if url.startswith("memcached://") else RedisStorage(url)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="memory", metavar="URL")
    try:
        asyncio.run(main(storage_of(parser.parse_args().storage)))
    except* (gecaso.ConfigurationError, gecaso.StorageError) as trouble:
        raise SystemExit(f"run_once: {trouble.exceptions[0]}") from None

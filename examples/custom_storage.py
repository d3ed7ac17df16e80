"""A storage of one's own: a class with three methods, here one file for each key.

What a function returns is packed by gecaso: types survive, and no byte in a file can run code.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import gecaso


class FileStorage(gecaso.BaseStorage):
    """Keeps each value in a file of its own in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def get(self, key: str) -> object:
        try:
            data = (self.folder / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None
        value, params = gecaso.unpack(data)  # what is damaged raises a KeyError: it is a miss
        if params["until"] < time.time():
            raise KeyError(key)
        return value

    async def set(self, key: str, value: object, *, ttl: float = 3600, **params: object) -> None:
        data = gecaso.pack(value, until=time.time() + ttl)
        (self.folder / key).write_bytes(data)

    async def remove(self, *keys: str) -> None:
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)


@dataclass(frozen=True)
class Weather:
    city: str
    degrees: float


async def main(folder: Path) -> None:
    storage = FileStorage(folder)

    @gecaso.cached(storage, ttl=60)
    async def weather(city: str) -> Weather:
        await asyncio.sleep(0.1)  # asks somebody far away
        return Weather(city, 21.5)

    answers = await asyncio.gather(*[weather("Rome") for _ in range(100)])
    print(f"{len(answers)} callers, {weather.stats.loads} load: {answers[0]}")

    file = storage.folder / str(weather.key("Rome"))
    print(f"kept in {file.name}")
    assert await weather("Rome") == Weather("Rome", 21.5)

    file.write_bytes(b"damaged")
    await weather("Rome")
    print(f"{weather.stats.loads} loads after the file was damaged")
    assert weather.stats.loads == 2

    await weather.invalidate("Rome")
    assert not file.exists()
    print("no file after the invalidation")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))

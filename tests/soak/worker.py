"""One of the processes that use the storages: ``python -m tests.soak.worker JSON``.

It calls cached functions of three kinds (coroutine functions, plain functions in threads, methods)
over every place, invalidates, puts, expires, refreshes, gives up waiting; and writes down what came
of it. It ends when its standard input does, and says then what it has left behind.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import gecaso
from gecaso import events
from gecaso.events import Event, LostLease, StorageFailed
from gecaso.guard import guard_of
from tests.soak.places import EVERY, opened
from tests.soak.records import KEYS, Flag, Log, Sort, make_token, name_of

__all__ = ["LEASE", "TTL", "WINDOW", "Settings"]

TTL = 4.0
"""Seconds that values are fresh."""
WINDOW = 3.0
"""Seconds that every fourth key is served an old value after that."""
LEASE = 3.0
"""Seconds of a lease; memcached has no shorter ones."""
TRIMMING = 2.0
"""Seconds between two times that free memory is given back."""
LATELY = 2.0
"""Seconds for which a failure of the storage may explain that a load had no lease."""


class SourceError(Exception):
    """What a load raises: the name of its key, and a token."""


@dataclass
class Settings:
    """What the parent tells."""

    worker: int
    seed: int
    start: float
    seconds: float
    """Of a round."""
    pace: float
    """Seconds between two operations of one caller, on average."""
    folder: str
    places: dict[str, str]
    """Addresses by name."""


@dataclass
class Shop:
    """What all callers of the process share."""

    settings: Settings
    log: Log
    random: random.Random
    is_over: threading.Event = field(default_factory=threading.Event)
    made: int = 0
    failed_at: dict[str, float] = field(default_factory=dict[str, float])
    """When the storage failed last for a key, by its text."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def token(self) -> int:
        with self.lock:
            self.made += 1
            return make_token(self.settings.worker, self.made)

    def tell(self, text: str) -> None:
        """Write down what went wrong, for a person to read."""
        path = Path(self.settings.folder) / f"trouble-{self.settings.worker:05}.txt"
        with self.lock, path.open("a") as file:
            file.write(f"{time.monotonic():.3f} worker {self.settings.worker}: {text}\n")


class Stall:
    """The functions over one place."""

    def __init__(self, shop: Shop, place: int, storage: Any) -> None:
        self.shop = shop
        self.place = place
        self.storage = storage
        cache = gecaso.Cache(storage, ttl=TTL, lease_seconds=LEASE)
        old = gecaso.Cache(
            storage, ttl=TTL, lease_seconds=LEASE, stale_while_revalidate=1.0, stale_if_error=WINDOW
        )
        stall = self

        @cache.cached(key="a:{name}")
        async def coroutine(name: str) -> Any:
            return await stall.load_async(name)

        @cache.cached(key="p:{name}")
        def plain(name: str) -> Any:
            return stall.load(name)

        class Shelf:
            @cache.cached(key="m:{name}", ignore=("self",))
            async def method(self, name: str) -> Any:
                return await stall.load_async(name)

        @old.cached(key="o:{name}")
        async def aging(name: str) -> Any:
            return await stall.load_async(name)

        # Which of them a key is for: `index % 4`. All processes must agree.
        self.functions: list[Any] = [coroutine, plain, Shelf().method, aging]

    # --- loads --------------------------------------------------------------------------------

    async def load_async(self, name: str) -> Any:
        begin, token, flag, seconds, fails = self._begin_load(name)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self._end_load(name, begin, token, flag | Flag.FAILED)
            raise
        return self._made(name, begin, token, flag, fails)

    def load(self, name: str) -> Any:
        begin, token, flag, seconds, fails = self._begin_load(name)
        time.sleep(seconds)
        return self._made(name, begin, token, flag, fails)

    def _begin_load(self, name: str) -> tuple[float, int, Flag, float, bool]:
        shop = self.shop
        begin, token = time.monotonic(), shop.token()
        flag = Flag.IN_TROUBLE if self._is_in_trouble(name, begin) else Flag.NONE
        self._write(name, Sort.LOAD, begin, inf, token, flag | Flag.RUNNING)
        draw = shop.random.random()
        seconds = 0.03 * draw if draw < 0.97 else 0.5 if draw < 0.998 else 1.5 * LEASE
        return begin, token, flag, seconds, shop.random.random() < 0.02

    def _is_in_trouble(self, name: str, now: float) -> bool:
        """Return whether this load may have no lease, because the storage was out of reach."""
        failed_at = self.shop.failed_at.get(f"{self.place}/{name}", -inf)
        return now - failed_at < LATELY or not guard_of(self.storage).is_quiet

    def _made(self, name: str, begin: float, token: int, flag: Flag, fails: bool) -> Any:
        if fails:
            self._end_load(name, begin, token, flag | Flag.ERROR)
            raise SourceError(name, token)
        self._end_load(name, begin, token, flag)
        return made(name, token)

    def _end_load(self, name: str, begin: float, token: int, flag: Flag) -> None:
        self._write(name, Sort.LOAD, begin, time.monotonic(), token, flag)

    def _write(
        self,
        name: str,
        sort: Sort,
        begin: float,
        end: float,
        token: int = 0,
        flag: Flag = Flag.NONE,
    ) -> None:
        place, number, index = map(int, name.split("."))
        self.shop.log.write(number, sort, place * KEYS + index, begin, end, token, flag)

    def note(self, event: Event) -> None:
        """A hook: what happened to the storage of this place."""
        if event.storage is not self.storage:
            return
        name = str(event.key).partition(":")[2]
        if isinstance(event, StorageFailed):
            failed = self.shop.failed_at
            failed[f"{self.place}/{name}"] = now = time.monotonic()
            if len(failed) > 5000:
                for each in [key for key, at in list(failed.items()) if now - at > LATELY]:
                    failed.pop(each, None)
        elif isinstance(event, LostLease):
            now = time.monotonic()
            self._write(name, Sort.LOST, now, now)

    # --- operations ---------------------------------------------------------------------------

    def choose(self, *, plain: bool) -> tuple[Any, str, str]:
        """Return a function of a colour, the name of a key of this round, and what to do."""
        shop = self.shop
        kind = 1 if plain else shop.random.choice((0, 2, 3))
        index = int(shop.random.random() ** 2 * (KEYS // 4)) * 4 + kind
        name = name_of(self.place, shop.log.round(time.monotonic()), index)
        (what,) = shop.random.choices(list(WHAT), weights=list(WHAT.values()))
        return self.functions[kind], name, what

    @contextmanager
    def recording(self, name: str, what: str) -> Generator[Attempt]:
        """Write down what is done within, and what came of it; errors that are right end here."""
        begin = time.monotonic()
        attempt = Attempt()
        if what == "put":
            attempt.token = self.shop.token()
            attempt.args = (made(name, attempt.token),)
            self._write(name, Sort.PUT, begin, inf, attempt.token, Flag.RUNNING)
        sort = CHANGES.get(what)
        try:
            yield attempt
        except (KeyError, TimeoutError, gecaso.InvalidationFailed) as error:
            if type(error) not in RIGHT.get(what, ()):
                self._failed(name, begin, error)
            elif sort is not None:
                self._write(name, sort, begin, time.monotonic(), attempt.token, Flag.FAILED)
        except SourceError as error:
            self._read(name, begin, error.args[0], error.args[1], Flag.ERROR)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the checker wants
            self._failed(name, begin, error)
        else:
            if sort is not None:
                self._write(name, sort, begin, time.monotonic(), attempt.token)
            else:
                of, made_by = told(attempt.result)
                self._read(name, begin, of, made_by, Flag.NONE)

    def _read(self, name: str, begin: float, of: str, token: int, flag: Flag) -> None:
        """Write down a read that gave a value, or an exception of the source."""
        if of != name:
            self.shop.tell(f"asked for {name} and got what is of {of!r}, {token}")
        sort = Sort.READ if of == name else Sort.FOREIGN
        self._write(name, sort, begin, time.monotonic(), token, flag)

    def _failed(self, name: str, begin: float, error: Exception) -> None:
        self.shop.tell(f"an operation on {name} raised {error!r}")
        self._write(name, Sort.FAILED, begin, time.monotonic())

    async def operate(self) -> None:
        function, name, what = self.choose(plain=False)
        limit = self.shop.random.random() * 0.02 if what == "leave" else None
        with self.recording(name, what) as attempt:
            async with asyncio.timeout(limit):
                attempt.result = await getattr(function, NAMES[what])(*attempt.args, name)

    def operate_plain(self) -> None:
        function, name, what = self.choose(plain=True)
        with self.recording(name, what) as attempt:
            attempt.result = getattr(function, NAMES[what])(*attempt.args, name)


@dataclass
class Attempt:
    """One operation under way: what it is given beside the name, and what it returned."""

    args: tuple[Any, ...] = ()
    token: int = 0
    result: Any = None


WHAT = {"call": 78, "leave": 5, "peek": 4, "refresh": 1, "expire": 2, "put": 4, "invalidate": 6}
"""What callers do, and how often of a hundred times."""
NAMES = {what: "__call__" if what in ("call", "leave") else what for what in WHAT}
CHANGES = {"put": Sort.PUT, "invalidate": Sort.INVALIDATE, "expire": Sort.EXPIRE}
RIGHT: dict[str, tuple[type[Exception], ...]] = {
    "peek": (KeyError,),
    "leave": (TimeoutError,),
    **dict.fromkeys(("put", "invalidate", "expire"), (gecaso.InvalidationFailed,)),
}
"""Errors that an operation may raise at any time."""


def made(name: str, token: int) -> dict[str, Any]:
    """Return a value that can be told from every other, and that shows when it is damaged."""
    return {"of": name, "token": token, "pad": "x" * (token % 997)}


def told(value: Any) -> tuple[str, int]:
    """Return whose value it is, and its token; nobody's if it is not as it was made."""
    try:
        of, token = value["of"], value["token"]
    except (TypeError, KeyError):
        return "", 0
    return (of, token) if value == made(of, token) else ("", 0)


# --- the process ----------------------------------------------------------------------------------


async def live(shop: Shop) -> dict[str, int]:
    settings = shop.settings
    storages = {name: opened(name, address) for name, address in settings.places.items()}
    stalls = [Stall(shop, list(EVERY).index(name), each) for name, each in storages.items()]
    for stall in stalls:
        events.subscribe(stall.note)
    threads = [threading.Thread(target=plainly, args=(shop, each)) for each in stalls]
    for thread in threads:
        thread.start()
    callers = [asyncio.create_task(repeat(shop, each)) for each in stalls for _ in range(2)]
    callers.append(asyncio.create_task(give_back(shop)))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # the parent closes it, or is gone
    shop.is_over.set()
    await asyncio.gather(*callers)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    return await left_behind(list(storages.values()))


async def repeat(shop: Shop, stall: Stall) -> None:
    while not shop.is_over.is_set():
        await stall.operate()
        await asyncio.sleep(shop.random.expovariate(1 / shop.settings.pace))


async def give_back(shop: Shop) -> None:
    """Return to the system what malloc holds free, so that what is measured is what is in use.

    Otherwise the holes that large buffers leave, such as asyncpg's of 64 kB, look like a leak.
    """
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    while trim is not None and not shop.is_over.is_set():
        trim(0)
        await asyncio.sleep(TRIMMING)


def plainly(shop: Shop, stall: Stall) -> None:
    while not shop.is_over.is_set():
        stall.operate_plain()
        time.sleep(shop.random.expovariate(1 / shop.settings.pace))


async def left_behind(storages: list[Any]) -> dict[str, int]:
    """Wait until what runs in the background is over; close; return what is left all the same."""
    give_up = time.monotonic() + 15.0
    for guard in map(guard_of, storages):
        while time.monotonic() < give_up and not guard.is_quiet:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    pending = sum(len(guard_of(each).pending) for each in storages)
    for each in storages:
        await each.aclose()
    await asyncio.sleep(0.1)
    tasks = len(asyncio.all_tasks()) - 1
    return {"invalidations pending": pending, "tasks": tasks}


NOISE = "unexpected connection_lost() call"
"""asyncpg leaves it in a future that nobody awaits, if a login is given up in its first moment."""


class Complaints(logging.Handler):
    """What asyncio complains of, such as exceptions that nobody retrieved: none is right."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._tell = tell
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        if NOISE in record.getMessage():
            return
        self.count += 1
        self._tell(f"{record.name} complains: {self.format(record)}")


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    log = Log(Path(settings.folder), settings.worker, settings.start, settings.seconds)
    shop = Shop(settings, log, random.Random(settings.seed))
    logging.getLogger("gecaso").addHandler(logging.NullHandler())
    complaints = Complaints(shop.tell)
    logging.getLogger("asyncio").addHandler(complaints)
    left = asyncio.run(live(shop))
    log.close()
    left["complaints"] = complaints.count
    left["threads"] = sum(not each.daemon for each in threading.enumerate()) - 1
    print(json.dumps(left), flush=True)


if __name__ == "__main__":
    main()

"""Random commands to a memcached and to its model, and how their replies differ."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.doubles import FakeClock
from tests.models.memcached_model import MIB, MemcachedModel
from tests.models.wires import MemcachedPair
from tests.servers import MemcachedServer

__all__ = ["DAYS_30", "first_difference", "large", "reading"]

NAMES = [b"a", b"ns:b", b"ns:b~", b"k" * 250]
TOO_LONG = b"k" * 251
DATA = [b"", b"x", b"\x00\xff\r\nEND\r\n", b"VALUE a 0 1 1\r\n", b"gecaso lease 1\n"]
LARGEST = MIB - 48 - 8 - 1 - 2 - 1  # bytes under a name of one byte
DAYS_30 = 30 * 86400
STAYS = [b"0", b"100", b"%d" % DAYS_30, b"2147483647"]
GOES = [b"-1", b"-100", b"%d" % (DAYS_30 + 1)]
NO_NUMBERS = [b"x", b"", b"1.5", b"2147483648", b"99999999999"]

Step = tuple[tuple[bytes, ...], bytes | None]


def a_step(choose: random.Random, model: MemcachedModel) -> Step:
    maker = choose.choices(list(MAKERS), weights=list(MAKERS.values()))[0]
    return maker(choose, model)


def a_time(choose: random.Random) -> bytes:
    kinds = choose.choices([STAYS, GOES, NO_NUMBERS], weights=[10, 3, 1])[0]
    return choose.choice(kinds)


def a_name(choose: random.Random) -> bytes:
    return TOO_LONG if choose.random() < 0.02 else choose.choice(NAMES)


def reading(choose: random.Random, model: MemcachedModel) -> Step:
    names = [a_name(choose) for _ in range(choose.randint(1, 3))]
    if TOO_LONG in names:  # how much of the others is told before depends on buffers
        names = [TOO_LONG]
    return (choose.choice([b"get", b"gets", b"gets"]), *names), None


def writing(choose: random.Random, model: MemcachedModel) -> Step:
    command = choose.choice([b"set", b"add", b"add"])
    flags = choose.choice([b"0"] * 9 + [b"7", b"-1", b"x"])
    data = choose.choice(DATA)
    return (command, a_name(choose), flags, a_time(choose), b"%d" % len(data)), data


def swapping(choose: random.Random, model: MemcachedModel) -> Step:
    """A cas with the number that is there, or had been, or never was."""
    name, data = choose.choice(NAMES), choose.choice(DATA)
    item = model.items.get(name)
    number = item.cas if item is not None else 1
    if choose.random() < 0.4:
        number = max(1, number - choose.randint(0, 2))
    words = (b"cas", name, b"0", a_time(choose), b"%d" % len(data), b"%d" % number)
    return words[: choose.choice([6] * 19 + [5])], data


def misfit(choose: random.Random, model: MemcachedModel) -> Step:
    """Data that are longer than it was said, or whose length is no length."""
    length = choose.choice([b"1", b"-1", b"x"])
    return (choose.choice([b"set", b"add"]), choose.choice(NAMES), b"0", b"0", length), b"12345"


def large(choose: random.Random, model: MemcachedModel) -> Step:
    size = LARGEST + choose.randint(-1, 1)
    command, flags = choose.choice([b"set", b"add"]), choose.choice([b"0", b"7"])
    return (command, b"a", flags, b"0", b"%d" % size), b"x" * size


def removing(choose: random.Random, model: MemcachedModel) -> Step:
    more = choose.choice([()] * 8 + [(b"0",), (b"5",)])
    return (b"delete", a_name(choose), *more), None


def touching(choose: random.Random, model: MemcachedModel) -> Step:
    return (b"touch", a_name(choose), a_time(choose) or b"0"), None


def of_the_server(choose: random.Random, model: MemcachedModel) -> Step:
    commands: list[tuple[bytes, ...]] = [
        *((b"version",), (b"flush_all",), (b"stats",), (b"stats", b"settings")),
        *((b"get",), (b"delete",), (b"touch", b"a"), (b"nonsense", b"a")),
    ]
    return choose.choice(commands), None


MAKERS: dict[Callable[[random.Random, MemcachedModel], Step], int] = {
    reading: 12,
    writing: 12,
    swapping: 8,
    misfit: 1,
    removing: 4,
    touching: 2,
    of_the_server: 1,
}


def first_difference(server: MemcachedServer, choose: random.Random, steps: int) -> str | None:
    model = MemcachedModel(FakeClock())
    pair = MemcachedPair(server.port, model)
    try:
        for number in range(steps):
            told = pair.difference(*a_step(choose, model))
            if told is not None:
                return f"after {number} steps: {told}"
    finally:
        pair.close()
    return None

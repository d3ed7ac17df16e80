"""Random commands to a Redis and to its model, and how their replies differ."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from gecaso.storages import _redis_scripts as sent
from tests.doubles import FakeClock
from tests.models import redis_scripts
from tests.models.redis_model import RedisModel
from tests.models.wires import RedisPair
from tests.servers import RedisServer

__all__ = ["first_difference"]

CLIENTS = 3

VALUES = [b"{a}", b"{b}", b"ns:{c[1]*}"]
NAMES = [name for value in VALUES for name in (value, value + b":l")]
CONTENTS = [b"", b"x", b"\x00\xff\r\n$-1\r\n", b"t1", b"t2", b"17"]
TIMES = [b"60000", b"120000", b"9000000", b"1000000000000000"]
BAD_TIMES = [b"0", b"-1", b"x", b"", b"1.5", b" 1", b"9223372036854775807", b"9223372036854775808"]
PATTERNS = [b"*", b"{*}*", b"*:l", b"ns:{*}*", b"?a?", b"{[a-b]}", b"{[^a]*", b"ns:{c\\[1\\]\\**"]
SCRIPTS = [
    *(sent.COMMIT, sent.RELEASE, sent.RENEW),
    *(sent.STORE, sent.SWAP, sent.DISCARD),
]
ARGS_BEFORE_EXPIRY = {sent.COMMIT: 2, sent.STORE: 1, sent.SWAP: 2}

Step = tuple[int, tuple[bytes, ...]]


# --- random commands ----------------------------------------------------------------------------


def a_step(choose: random.Random) -> Step:
    maker = choose.choices(list(MAKERS), weights=list(MAKERS.values()))[0]
    client = choose.randrange(CLIENTS)
    words = maker(choose)
    if choose.random() < 0.02 and maker is not lapsing:  # a word too few or too many
        words = (*words, b"more") if choose.random() < 0.5 else words[:-1] or words
    return client, words


def set_command(choose: random.Random) -> tuple[bytes, ...]:
    options: list[bytes] = []
    if choose.random() < 0.5:
        options += [choose.choice([b"NX", b"nx", b"XX"])]
    if choose.random() < 0.5:
        options += [choose.choice([b"PX", b"px", b"EX"]), a_time(choose)]
    elif choose.random() < 0.3:
        options += [choose.choice([b"PXAT", b"EXAT"]), choose.choice([b"1", b"4000000000", b"0"])]
    if choose.random() < 0.1:
        options += [choose.choice([b"GET", b"KEEPTTL", b"NX", b"PX", b"what"])]
    return (b"SET", choose.choice(NAMES), choose.choice(CONTENTS), *options)


def a_time(choose: random.Random) -> bytes:
    return choose.choice(BAD_TIMES if choose.random() < 0.15 else TIMES)


def script_command(choose: random.Random) -> tuple[bytes, ...]:
    script = choose.choice(SCRIPTS)
    value = choose.choice(VALUES)
    args: list[bytes] = []
    if script == sent.RENEW:
        args = [choose.choice(CONTENTS), a_time(choose)]
    elif script == sent.RELEASE:
        args = [choose.choice(CONTENTS)]
    elif script != sent.DISCARD:
        args = [choose.choice(CONTENTS) for _ in range(ARGS_BEFORE_EXPIRY[script])]
        if choose.random() < 0.5:
            args += [b"PX", a_time(choose)] if choose.random() < 0.8 else [b"PXAT", b"1"]
    named = choose.random() < 0.2
    word = redis_scripts.SCRIPTS[script].digest.encode() if named else script
    count = choose.choice([b"-1", b"99", b"x"]) if choose.random() < 0.03 else b"2"
    return (b"EVALSHA" if named else b"EVAL", word, count, value, value + b":l", *args)


def reading(choose: random.Random) -> tuple[bytes, ...]:
    if choose.random() < 0.5:
        return (choose.choice([b"GET", b"get", b"PTTL"]), choose.choice(NAMES))
    return (b"MGET", *choose.choices(NAMES, k=choose.randint(1, 4)))


def removing(choose: random.Random) -> tuple[bytes, ...]:
    words = choose.choices(NAMES, k=choose.randint(1, 3))
    return (choose.choice([b"DEL", b"UNLINK"]), *words)


def expiring(choose: random.Random) -> tuple[bytes, ...]:
    return (b"PEXPIRE", choose.choice(NAMES), a_time(choose))


def channels(choose: random.Random) -> tuple[bytes, ...]:
    word = choose.choice([b"SUBSCRIBE", b"UNSUBSCRIBE", b"UNSUBSCRIBE", b"PUBLISH", b"PUBLISH"])
    leases = [value + b":l" for value in VALUES]
    if word == b"PUBLISH":
        return (word, choose.choice(leases), choose.choice(CONTENTS))
    return (word, *choose.sample(leases, choose.randint(word == b"SUBSCRIBE", 2)))


def scanning(choose: random.Random) -> tuple[bytes, ...]:
    words: list[bytes] = []
    if choose.random() < 0.8:
        words += [b"MATCH", choose.choice(PATTERNS)]
    if choose.random() < 0.5:
        words += [b"COUNT", choose.choice([b"1", b"1000", b"0", b"x"])]
    return (b"SCAN", b"0" if choose.random() < 0.95 else b"x", *words)


def of_the_connection(choose: random.Random) -> tuple[bytes, ...]:
    commands: list[tuple[bytes, ...]] = [
        *((b"HELLO",), (b"HELLO", b"2"), (b"HELLO", b"3"), (b"HELLO", b"4"), (b"HELLO", b"x")),
        *((b"HELLO", b"3", b"AUTH", b"default", b"x"), (b"HELLO", b"2", b"SETNAME", b"me")),
        *((b"SELECT", b"0"), (b"SELECT", b"1"), (b"SELECT", b"16"), (b"SELECT", b"x")),
        *(
            (b"PING",),
            (b"PING", b""),
            (b"CLIENT", b"SETNAME", b"a b"),
            (b"CLIENT", b"SETNAME", b"a"),
        ),
        *((b"CLIENT", b"GETNAME"), (b"CLIENT", b"SETINFO", b"LIB-NAME", b"redis-py")),
        *((b"AUTH", b"x"), (b"AUTH", b"default", b"x"), (b"AUTH", b"me", b"x")),
    ]
    return choose.choice(commands)


def of_the_server(choose: random.Random) -> tuple[bytes, ...]:
    digest = redis_scripts.SCRIPTS[choose.choice(SCRIPTS)].digest.encode()
    commands: list[tuple[bytes, ...]] = [
        *((b"TIME",), (b"INFO", b"server"), (b"INFO", b"memory"), (b"INFO", b"nothing")),
        *((b"CONFIG", b"GET", b"maxmemory-policy"), (b"SCRIPT", b"FLUSH"), (b"NONSENSE", b"a")),
        *((b"SCRIPT", b"EXISTS", digest), (b"SCRIPT", b"LOAD", choose.choice(SCRIPTS))),
        *((b"FLUSHDB",), (b"FLUSHDB", b"ASYNC"), (b"FLUSHDB", b"x"), (b"CLIENT", b"NONSENSE")),
    ]
    return choose.choice(commands)


def another_type(choose: random.Random) -> tuple[bytes, ...]:
    return (b"LPUSH", choose.choice(NAMES), b"of another program")


def lapsing(choose: random.Random) -> tuple[bytes, ...]:
    return (LAPSE, choose.choice(NAMES))


LAPSE = b"let it run out"
MAKERS: dict[Callable[[random.Random], tuple[bytes, ...]], int] = {
    set_command: 8,
    script_command: 14,
    reading: 8,
    removing: 2,
    expiring: 3,
    channels: 6,
    scanning: 2,
    of_the_connection: 2,
    of_the_server: 1,
    another_type: 1,
    lapsing: 3,
}


# --- both sides ---------------------------------------------------------------------------------


class Run:
    """A sequence of steps on both sides; time passes for the model as it does really."""

    def __init__(self, pair: RedisPair, clock: FakeClock) -> None:
        self._pair = pair
        self._clock = clock

    def difference(self, step: Step) -> str | None:
        client, words = step
        if words[0] != LAPSE:
            return self._pair.difference(client, words)
        # Nothing else runs out during a test: other times are minutes.
        told = self._pair.difference(client, (b"PEXPIRE", words[1], b"1"))
        self._clock.advance(0.1)
        while (gone := self._pair.ask(client, (b"PTTL", words[1]))[0])[0].startswith(
            (b":0", b":1")
        ):
            pass
        return told or (None if gone[0] == gone[1] else f"{words!r}: {gone}")


@contextmanager
def both(server: RedisServer) -> Generator[Run]:
    clock = FakeClock()
    model = RedisModel(clock, epoch=time.time() - clock.now, page=2)
    pair = RedisPair(server.port, model, CLIENTS)
    try:
        yield Run(pair, clock)
    finally:
        pair.close()


def first_difference(server: RedisServer, choose: random.Random, steps: int) -> str | None:
    with both(server) as run:
        for number in range(steps):
            told = run.difference(a_step(choose))
            if told is not None:
                return f"after {number} steps: {told}"
    return None

"""The model of Redis answers as the real Redis does: to the byte, over random commands."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gecaso.storages import _redis_scripts as sent
from tests.doubles import FakeClock
from tests.models import redis_scripts
from tests.models.redis_model import RedisModel
from tests.models.redis_session import Session
from tests.models.redis_values import Item
from tests.models.wires import RedisPair
from tests.servers import RedisServer

CLIENTS = 3
STEPS = 40  # in a sequence
SEQUENCES = 150
BUDGET = 150  # sequences within which a wrong model must be found out

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


def first_difference(server: RedisServer, choose: random.Random, steps: int = STEPS) -> str | None:
    with both(server) as run:
        for number in range(steps):
            told = run.difference(a_step(choose))
            if told is not None:
                return f"after {number} steps: {told}"
    return None


def test_the_model_answers_every_sequence_of_commands_as_redis_does(
    redis_server: RedisServer,
) -> None:
    for seed in range(SEQUENCES):
        told = first_difference(redis_server, random.Random(seed))
        assert told is None, f"seed {seed}, {told}"


@given(choose=st.randoms(use_true_random=False), steps=st.integers(1, STEPS))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_short_sequence_of_commands_tells_them_apart(
    choose: random.Random, steps: int, redis_server: RedisServer
) -> None:
    told = first_difference(redis_server, choose, steps)
    assert told is None, told


def test_every_script_that_the_storage_sends_is_known_to_the_model() -> None:
    constants = {name: value for name, value in vars(sent).items() if name[0].isupper()}
    texts = {text for text in constants.values() if isinstance(text, bytes) and b"redis." in text}
    assert texts == set(redis_scripts.SCRIPTS)


# --- wrong models -------------------------------------------------------------------------------


Patch = Callable[[pytest.MonkeyPatch], object]
Wrong = Callable[[Callable[..., Any], tuple[Any, ...]], Any]


def script_that(script: bytes, run: Callable[..., int]) -> Patch:
    """Return a patch under which a script does something else."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        known = redis_scripts.SCRIPTS[script]
        monkeypatch.setitem(redis_scripts.SCRIPTS, script, known._replace(run=run))

    return patch


def command_that(name: str, wrong: Wrong, owner: type = Session) -> Patch:
    """Return a patch under which ``wrong(right, arguments)`` is in the place of a method."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right: Callable[..., Any] = getattr(owner, name)

        def method(*args: Any) -> Any:
            return wrong(right, args)

        monkeypatch.setattr(owner, name, method)

    return patch


def always_commits(call: Any, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    call(b"SET", keys[0], *argv[1:])
    call(b"DEL", keys[1])
    call(b"PUBLISH", keys[1], b"")
    return 1


def commits_and_keeps_the_lease(call: Any, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    if call(b"GET", keys[1]) != argv[0]:
        return 0
    call(b"SET", keys[0], *argv[1:])
    call(b"PUBLISH", keys[1], b"")
    return 1


def discards_quietly(call: Any, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    call(b"UNLINK", keys[0])
    call(b"DEL", keys[1])
    return 1


def discards_the_value_alone(call: Any, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    call(b"UNLINK", keys[0])
    call(b"PUBLISH", keys[1], b"")
    return 1


def stores_and_keeps_the_lease(call: Any, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    call(b"SET", keys[0], *argv)
    call(b"PUBLISH", keys[1], b"")
    return 1


def swaps_whatever_is_there(call: Any, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    return always_commits(call, keys, argv)


def renews_for_anybody(call: Any, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    renewed: int = call(b"PEXPIRE", keys[1], *argv[1:])
    return renewed


def releases_for_anybody(call: Any, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    call(b"DEL", keys[1])
    call(b"PUBLISH", keys[1], b"")
    return 1


def drops_expiry(right: Callable[..., Any], args: tuple[Any, ...]) -> None:
    model, database, name, item = args
    right(model, database, name, item and item._replace(until=None))


def never_gone(right: Callable[..., Any], args: tuple[Any, ...]) -> Item | None:
    model, database, name = args
    item: Item | None = model.databases[database].get(name)
    return item


MUTATIONS: dict[str, Patch] = {
    "SET NX ignores what is there": command_that("may_set", lambda right, a: True),
    "SET sets no expiry": command_that("put", drops_expiry, RedisModel),
    "nothing ever runs out": command_that("look", never_gone, RedisModel),
    "keys are one in all databases": command_that(
        "look", lambda right, a: right(a[0], 0, a[2]), RedisModel
    ),
    "PUBLISH tells nobody": command_that("publish", lambda right, a: 0, RedisModel),
    "PUBLISH tells one listener": command_that(
        "publish", lambda right, a: min(1, right(*a)), RedisModel
    ),
    "DEL leaves the first key": command_that("do_del", lambda right, a: right(a[0], *a[2:])),
    "PEXPIRE makes a key that is not there": command_that(
        "do_pexpire", lambda right, a: right(*a) or 1
    ),
    "PTTL of a key without one is -2": command_that(
        "do_pttl", lambda right, a: {-1: -2}.get(right(*a), right(*a))
    ),
    "MGET tells the values the other way round": command_that(
        "do_mget", lambda right, a: right(a[0], *a[:0:-1])
    ),
    "UNSUBSCRIBE does not": command_that("_leave", lambda right, a: None),
    "SCAN gives one page": command_that("do_scan", lambda right, a: _last_page(right(*a))),
    "an EVAL is not kept for EVALSHA": command_that(
        "do_evalsha", lambda right, a: right(a[0], b"none", *a[2:])
    ),
    "the commit does not compare the token": script_that(sent.COMMIT, always_commits),
    "the commit keeps the lease": script_that(sent.COMMIT, commits_and_keeps_the_lease),
    "the discard tells nobody": script_that(sent.DISCARD, discards_quietly),
    "the discard leaves the lease": script_that(sent.DISCARD, discards_the_value_alone),
    "the store leaves the lease": script_that(sent.STORE, stores_and_keeps_the_lease),
    "the swap does not look": script_that(sent.SWAP, swaps_whatever_is_there),
    "the renewal does not compare the token": script_that(sent.RENEW, renews_for_anybody),
    "the release does not compare the token": script_that(sent.RELEASE, releases_for_anybody),
}


def _last_page(reply: Any) -> Any:
    return [b"0", reply[1]] if isinstance(reply, list) else reply


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_model_is_found_out(
    mutation: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    MUTATIONS[mutation](monkeypatch)
    found = (first_difference(redis_server, random.Random(seed)) for seed in range(BUDGET))
    assert any(told is not None for told in found)

"""The model of memcached answers as the real one does: to the byte, over random commands."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doubles import FakeClock
from tests.models.memcached_model import MIB, Item, MemcachedModel
from tests.models.wires import MemcachedPair
from tests.servers import MemcachedServer

STEPS = 40  # in a sequence
SEQUENCES = 250
BUDGET = 250  # sequences within which a wrong model must be found out

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


def first_difference(
    server: MemcachedServer, choose: random.Random, steps: int = STEPS
) -> str | None:
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


def test_the_model_answers_every_sequence_of_commands_as_memcached_does(
    memcached_server: MemcachedServer,
) -> None:
    for seed in range(SEQUENCES):
        told = first_difference(memcached_server, random.Random(seed))
        assert told is None, f"seed {seed}, {told}"


@given(choose=st.randoms(use_true_random=False), steps=st.integers(1, STEPS))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_short_sequence_of_commands_tells_them_apart(
    choose: random.Random, steps: int, memcached_server: MemcachedServer
) -> None:
    told = first_difference(memcached_server, choose, steps)
    assert told is None, told


def test_the_largest_item_is_the_same_to_the_byte(memcached_server: MemcachedServer) -> None:
    choose, model = random.Random(1), MemcachedModel(FakeClock())
    pair = MemcachedPair(memcached_server.port, model)
    try:
        for number in range(30):
            maker = large if number % 2 == 0 else reading
            assert pair.difference(*maker(choose, model)) is None
    finally:
        pair.close()


def test_an_item_runs_out_within_a_second_of_its_time_on_both_sides(
    memcached_server: MemcachedServer,
) -> None:
    """Its clock counts whole seconds, so an item with one second is gone after 0 to 2."""
    model = MemcachedModel(time.monotonic)
    pair = MemcachedPair(memcached_server.port, model)
    began = time.monotonic()
    try:
        assert pair.difference((b"set", b"a", b"0", b"1", b"1"), b"x") is None
        gone: dict[str, float] = {}
        while len(gone) < 2:
            if "model" not in gone and not model.execute((b"get", b"a")):
                gone["model"] = time.monotonic() - began
            if "real" not in gone and not memcached_server.command("get a")[:-1]:
                gone["real"] = time.monotonic() - began
            assert time.monotonic() - began < 10
            time.sleep(0.01)  # the server's clock is the machine's: it can only be waited for
    finally:
        pair.close()
    assert all(after <= 2.5 for after in gone.values())


# --- wrong models -------------------------------------------------------------------------------


Patch = Callable[[pytest.MonkeyPatch], object]
Wrong = Callable[[Callable[..., Any], tuple[Any, ...]], Any]


def method_that(name: str, wrong: Wrong) -> Patch:
    """Return a patch under which ``wrong(right, arguments)`` is in the place of a method."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right: Callable[..., Any] = getattr(MemcachedModel, name)

        def method(*args: Any) -> Any:
            return wrong(right, args)

        monkeypatch.setattr(MemcachedModel, name, method)

    return patch


def refusal_without(answer: bytes) -> Patch:
    def wrong(right: Callable[..., Any], args: tuple[Any, ...]) -> bytes | None:
        reply: bytes | None = right(*args)
        return None if reply == answer else reply

    return method_that("refusal", wrong)


def cas_takes_older_numbers(right: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    _, command, there, number = args
    if command == b"cas" and there is not None and number < there.cas:
        return None
    return right(*args)


def touch_renumbers(right: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    model, name, _ = args
    reply = right(*args)
    if (item := model.items.get(name)) is not None and reply == b"TOUCHED":
        model.items[name] = item._replace(cas=model.next_cas())
    return reply


def old_numbers(right: Callable[..., Any], args: tuple[Any, ...]) -> None:
    model, name, item = args
    old: Item | None = model.items.get(name)
    right(model, name, item and item._replace(cas=item.cas if old is None else old.cas))


def a_date_is_seconds(right: Callable[..., Any], args: tuple[Any, ...]) -> int | None:
    model, exptime = args
    until: int | None = model.now() + exptime if exptime > 0 else right(model, exptime)
    return until


def keeps_what_it_deletes(right: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    model, name, *_ = args
    return b"NOT_FOUND" if model.look(name) is None else b"DELETED"


def clears_alone(right: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    args[0].items.clear()
    return b"OK"


MUTATIONS = {
    "add replaces what is there": refusal_without(b"NOT_STORED"),
    "cas replaces whatever is there": refusal_without(b"EXISTS"),
    "cas takes old numbers": method_that("refusal", cas_takes_older_numbers),
    "cas stores what is not there": refusal_without(b"NOT_FOUND"),
    "a write keeps the number": method_that("put", old_numbers),
    "touch gives a new number": method_that("_touch", touch_renumbers),
    "a date is seconds from now": method_that("until", a_date_is_seconds),
    "30 days are a date already": method_that(
        "until", lambda right, a: right(a[0], a[1] + (a[1] == DAYS_30))
    ),
    "a time below zero is none": method_that(
        "until", lambda right, a: right(a[0], max(0, a[1]) if a[1] > -(2**31) else a[1])
    ),
    "delete says DELETED in any case": method_that(
        "_delete", lambda right, a: right(*a).replace(b"NOT_FOUND", b"DELETED")
    ),
    "delete removes nothing": method_that("_delete", keeps_what_it_deletes),
    "flush_all takes no number": method_that("_flush", clears_alone),
    "gets finds a name once": method_that(
        "found", lambda right, a: right(a[0], list(dict.fromkeys(a[1])), *a[2:])
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_model_is_found_out(
    mutation: str, memcached_server: MemcachedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    MUTATIONS[mutation](monkeypatch)
    found = (first_difference(memcached_server, random.Random(seed)) for seed in range(BUDGET))
    assert any(told is not None for told in found)

"""Models of Redis that are wrong, each in one way: a test of the model must notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gecaso.storages import _redis_scripts as sent
from tests.models import redis_scripts
from tests.models.patches import Patch, Wrong, method_that
from tests.models.redis_model import RedisModel
from tests.models.redis_session import Session
from tests.models.redis_values import Item

__all__ = ["WRONG"]


def script_that(script: bytes, run: Callable[..., int]) -> Patch:
    """Return a patch under which a script does something else."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        known = redis_scripts.SCRIPTS[script]
        monkeypatch.setitem(redis_scripts.SCRIPTS, script, known._replace(run=run))

    return patch


def command_that(name: str, wrong: Wrong, owner: type = Session) -> Patch:
    return method_that(owner, name, wrong)


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


WRONG: dict[str, Patch] = {
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

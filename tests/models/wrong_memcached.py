"""Models of memcached that are wrong, each in one way: a test of the model must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.models.memcached_model import Item, MemcachedModel
from tests.models.memcached_steps import DAYS_30
from tests.models.patches import Patch, method_that

__all__ = ["WRONG"]


def refusal_without(answer: bytes) -> Patch:
    def wrong(right: Callable[..., Any], args: tuple[Any, ...]) -> bytes | None:
        reply: bytes | None = right(*args)
        return None if reply == answer else reply

    return method_that(MemcachedModel, "refusal", wrong)


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


WRONG: dict[str, Patch] = {
    "add replaces what is there": refusal_without(b"NOT_STORED"),
    "cas replaces whatever is there": refusal_without(b"EXISTS"),
    "cas takes old numbers": method_that(MemcachedModel, "refusal", cas_takes_older_numbers),
    "cas stores what is not there": refusal_without(b"NOT_FOUND"),
    "a write keeps the number": method_that(MemcachedModel, "put", old_numbers),
    "touch gives a new number": method_that(MemcachedModel, "_touch", touch_renumbers),
    "a date is seconds from now": method_that(MemcachedModel, "until", a_date_is_seconds),
    "30 days are a date already": method_that(
        MemcachedModel, "until", lambda right, a: right(a[0], a[1] + (a[1] == DAYS_30))
    ),
    "a time below zero is none": method_that(
        MemcachedModel,
        "until",
        lambda right, a: right(a[0], max(0, a[1]) if a[1] > -(2**31) else a[1]),
    ),
    "delete says DELETED in any case": method_that(
        MemcachedModel, "_delete", lambda right, a: right(*a).replace(b"NOT_FOUND", b"DELETED")
    ),
    "delete removes nothing": method_that(MemcachedModel, "_delete", keeps_what_it_deletes),
    "flush_all takes no number": method_that(MemcachedModel, "_flush", clears_alone),
    "gets finds a name once": method_that(
        MemcachedModel, "found", lambda right, a: right(a[0], list(dict.fromkeys(a[1])), *a[2:])
    ),
}

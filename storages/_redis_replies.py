"""Replies of Redis, and the shapes that they should have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from gecaso.errors import StorageError

__all__ = [
    "Reply",
    "checked",
    "is_data",
    "is_number",
    "is_page",
    "is_pong",
    "is_row",
    "is_taking",
    "partly",
    "strange",
    "wholly",
]

# What hiredis makes of a reply in RESP2: bytes, int, None, a list of these, or an error.
Reply = Any

_ROW: Final = frozenset({bytes, type(None)})


def strange(reply: Reply) -> StorageError:
    return StorageError(f"Redis gave an answer that does not fit the question: {reply!r:.80}")


def checked(replies: Sequence[Reply], shape: Callable[[Reply], bool]) -> Sequence[Reply]:
    """Return the replies; raise the first error among them, or one of another ``shape``."""
    for reply in replies:
        if not shape(reply):
            raise reply if isinstance(reply, StorageError) else strange(reply)
    return replies


def partly(replies: list[Reply], shape: Callable[[Reply], bool]) -> list[Reply]:
    """Return the replies, and in their place the trouble of parts; raise if there is nothing else.

    An error that is no part's is raised, too.
    """
    error: StorageError | None = None
    good = 0
    for reply in replies:
        if shape(reply):
            good += 1
        elif isinstance(reply, StorageError) and reply.part is not None:
            error = error or reply
        else:
            raise reply if isinstance(reply, StorageError) else strange(reply)
    if error is not None and not good:
        raise error
    return replies


def wholly(keys: Sequence[Any], replies: list[Reply]) -> None:
    """Raise the first error among the replies; it says which of the ``keys`` failed."""
    failed = [key for key, reply in zip(keys, replies, strict=True) if not is_number(reply)]
    if failed:
        try:
            checked(replies, is_number)
        except StorageError as error:
            error.keys = tuple(failed) if len(failed) < len(keys) else ()
            raise


def is_number(reply: Reply) -> bool:
    return type(reply) is int


def is_row(reply: Reply) -> bool:
    """Whether it is a list of bytes and nils."""
    return type(reply) is list and _ROW.issuperset(map(type, cast("list[object]", reply)))


def is_data(reply: Reply) -> bool:
    """Whether it is what is stored under a name: bytes or nil."""
    return reply is None or type(reply) is bytes


def is_pong(reply: Reply) -> bool:
    return isinstance(reply, bytes) and reply == b"PONG"


def is_taking(reply: Reply) -> bool:
    """Whether it is one of the replies to the taking of a lease."""
    return reply is None or reply == b"OK" or (is_row(reply) and 1 <= len(reply) <= 2)


def is_page(reply: Reply) -> bool:
    """Whether it is a reply to SCAN."""
    return type(reply) is list and [type(part) for part in cast("list[object]", reply)] == [
        bytes,
        list,
    ]

"""The keys of a function's latest calls, so that a hit need not make and name its key again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from sys import getsizeof
from typing import Any, Final

from gecaso.keys.key import Key
from gecaso.keys.owners import Owner

__all__ = ["keeping"]

MOST: Final = 1024  # keys of one function
LARGEST: Final = 512  # bytes of each part of a key that is kept


def keeping(owner: Owner) -> Callable[[Hashable], Key]:
    """Return a function that gives the key of a typed form, the same again while it is kept.

    At most 1,024 are kept, of small forms alone: whoever asks with texts of a megabyte shall not
    find all of them in memory.
    """
    keys: dict[Hashable, Key] = {}

    def key_of(typed: Hashable) -> Key:
        key = keys.get(typed)
        if key is None:
            key = Key(owner, typed)
            if _is_small(typed):
                if len(keys) >= MOST:
                    keys.clear()  # what is asked for often is soon here again
                keys[typed] = key
        return key

    return key_of


def _is_small(typed: Any) -> bool:
    if isinstance(typed, type):  # the kind of a part; it is there in any case
        return True
    if type(typed) is tuple:
        return all(map(_is_small, typed))  # pyright: ignore[reportUnknownArgumentType] - of any type
    return getsizeof(typed) <= LARGEST

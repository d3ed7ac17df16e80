"""What a shared storage tells of changes that others have made: the items of `changes`."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

__all__ = ["Change", "Changed", "Cleared", "Gap", "told_as"]


class Changed:
    """Entries were stored, committed or invalidated: drop what you have of these keys.

    ``names`` are the keys, each as `told_as` names it.
    """

    __slots__ = ("names",)

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    def __repr__(self) -> str:
        return f"<Changed: {', '.join(sorted(self.names))}>"


class Cleared:
    """Everything in the storage's namespace was invalidated."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<Cleared>"


class Gap:
    """Messages may have been missed: drop everything. From here on, changes are told.

    It is also the first item of all: what changed before it was not heard.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<Gap>"


Change = Changed | Cleared | Gap

LONGEST: Final = 200  # characters


def told_as(text: str) -> str:
    """Return the name of a key in messages: its text, or a digest if that is long or unusual.

    ``text`` is ``str(key)``. Names are visible ASCII and spaces, at most 200 characters; no two
    keys have one name. That of a digest begins with ``~``, which no other name has.

    >>> told_as("user:7")
    'user:7'
    >>> told_as("naïve")
    '~7b633f5f88cb0dd8617039f481fe52e9'
    """
    if len(text) <= LONGEST and text.isascii() and text.isprintable() and "~" not in text:
        return text
    return "~" + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

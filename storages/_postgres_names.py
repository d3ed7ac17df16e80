"""Names in Postgres: of the table, of its rows, and of the channel where its changes are told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final
from urllib.parse import quote

from gecaso.changes import Changed, Cleared, told_as
from gecaso.errors import ConfigurationError
from gecaso.keys import naming

__all__ = ["Names", "channel_of", "quoted_table"]

_IDENTIFIER: Final = re.compile(r"[^\W\d][\w$]*")
LONGEST_IDENTIFIER: Final = 63  # bytes; Postgres would cut it without a word
LONGEST_NAMESPACE: Final = 500  # characters; a row of an index holds 2,700 bytes
PAYLOAD: Final = 7900  # bytes; NOTIFY takes less than 8,000

CHANGED: Final = "k"
CLEARED: Final = "c"


def quoted_table(table: object) -> str:
    """Return the table's name as it may stand in a statement: ``"schema"."table"``.

    The name is taken as it is written, capital letters too.

    >>> quoted_table("cache.gecaso")
    '"cache"."gecaso"'
    """
    parts = table.split(".") if isinstance(table, str) else []
    if not 1 <= len(parts) <= 2 or not all(map(_is_identifier, parts)):
        raise ConfigurationError(
            f"table={table!r}: give a name of letters, digits, _ and $, at most "
            f'{LONGEST_IDENTIFIER} bytes, with its schema if need be: "gecaso", "cache.gecaso"'
        )
    return ".".join(f'"{part}"' for part in parts)


def _is_identifier(part: str) -> bool:
    return bool(_IDENTIFIER.fullmatch(part)) and len(part.encode()) <= LONGEST_IDENTIFIER


def channel_of(table: str) -> str:
    """Return the channel of a table, for every process the same."""
    return "gecaso_" + blake2b(table.encode(), digest_size=16).hexdigest()


class Names:
    """Names the rows of a namespace, and reads and writes what is told of them.

    A row is named ``namespace:key``, the key as `gecaso.changes.told_as` names it. The row of the
    namespace itself, ``namespace:~``, holds its generation: no key has that name.

    >>> from gecaso.keys import as_key
    >>> Names("shop").row(as_key("user:7"))
    'shop:user:7'
    """

    __slots__ = ("_start", "own", "prefix", "row")

    def __init__(self, namespace: str) -> None:
        self.prefix = prefix = quote(namespace, safe="", errors="surrogatepass") + ":"
        if len(self.prefix) > LONGEST_NAMESPACE:
            raise ConfigurationError(
                f"the namespace is too long: {len(self.prefix) - 1} characters when quoted, "
                f"{LONGEST_NAMESPACE - 1} at most"
            )
        self.own = self.prefix + "~"
        self._start = len(self.prefix)
        self.row = naming(lambda key: prefix + told_as(str(key)))
        """The name of a key's row."""

    # --- messages -------------------------------------------------------------------------------

    def changed(self, rows: Iterable[str], origin: str = "") -> list[str]:
        """Return the payloads that tell of rows; ``origin`` is who need not be told."""
        head = f"{CHANGED}{origin}\n{self.prefix}"
        room = PAYLOAD - len(head)
        return [head + part for part in _lines([row[self._start :] for row in rows], room)]

    def cleared(self, origin: str = "") -> list[str]:
        return [f"{CLEARED}{origin}\n{self.prefix}"]

    def read(self, payload: str) -> tuple[str, Changed | Cleared] | None:
        """Return the origin and what is told; None if it concerns another namespace."""
        head, _, rest = payload.partition("\n")
        first, *others = rest.split("\n")
        kind, origin = head[:1], head[1:]
        if kind == CLEARED and first == self.prefix:
            return origin, Cleared()
        prefix, _, name = first.partition(":")
        if kind == CHANGED and prefix + ":" == self.prefix:
            return origin, Changed((name, *others))
        return None


def _lines(names: Iterable[str], room: int) -> Iterator[str]:
    """Join names, which are ASCII, to lines in as few texts as there can be."""
    part: list[str] = []
    size = 0
    for name in names:
        if part and size + len(name) + 1 > room:
            yield "\n".join(part)
            part, size = [], 0
        part.append(name)
        size += len(name) + 1
    if part:
        yield "\n".join(part)
